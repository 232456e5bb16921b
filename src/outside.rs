//! The wall clock and the randomness of the operating system: the one place where the binary reads them.

use std::time::{Instant, SystemTime};

use anyhow::anyhow;
use circuit::keys::Random;
use circuit::node::Now;
use rand_core::SeedableRng as _;

/// Seconds since 1970-01-01 UTC.
#[expect(clippy::disallowed_methods, reason = "the one place where the binary reads the wall clock")]
pub(crate) fn unix() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The present: both clocks.
#[expect(clippy::disallowed_methods, reason = "the one place where the binary reads both clocks")]
pub(crate) fn now() -> Now {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { instant: Instant::now(), unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
}

/// A random source, seeded by the operating system.
#[expect(clippy::disallowed_methods, reason = "the one place where the binary takes a seed")]
pub(crate) fn random() -> anyhow::Result<Random> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed)
        .map_err(|error| anyhow!("the operating system gives no randomness: {error}"))?;
    Ok(Random::from_seed(*seed))
}
