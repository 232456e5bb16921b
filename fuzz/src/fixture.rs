//! Fixed keys, names and times.

use std::time::{Duration, Instant};

use circuit::aead::Suite;
use circuit::keys::{DhSecret, IdentitySecret, NetworkId, Random};
use circuit::node::Now;
use circuit::setup::{EPOCH_SECONDS, PathHop, Purpose, Terms};
use rand_core::SeedableRng as _;

pub(crate) const NETWORK: NetworkId = NetworkId([7; 16]);
/// Unix seconds.
pub(crate) const UNIX: u64 = 1_800_000_000;

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin of virtual time; nothing depends on it")]
pub(crate) fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: UNIX * 1000 }
}

/// Lets time pass.
pub(crate) fn pass(now: &mut Now, time: Duration) {
    now.instant += time;
    now.unix_ms += u64::try_from(time.as_millis()).unwrap();
}

pub(crate) fn rng(seed: u8) -> Random {
    Random::from_seed([seed; 32])
}

pub(crate) fn identity(n: u8) -> IdentitySecret {
    IdentitySecret::from_bytes(&[n; 32])
}

pub(crate) fn secret(n: u8) -> DhSecret {
    DhSecret::from_bytes([n; 32])
}

/// The link key of relay `n`, and its onion key.
pub(crate) fn link_key(n: u8) -> DhSecret {
    secret(0x20 + n)
}

pub(crate) fn onion_key(n: u8) -> DhSecret {
    secret(0x40 + n)
}

pub(crate) fn epoch() -> u32 {
    u32::try_from(UNIX / EPOCH_SECONDS).unwrap()
}

/// Relay `n` as the hop of a path.
pub(crate) fn hop(n: u8) -> PathHop {
    let suite = if n.is_multiple_of(2) { Suite::Aegis128L } else { Suite::ChaCha20Poly1305 };
    PathHop {
        id: identity(n).id(),
        onion: onion_key(n).public(),
        epoch: epoch(),
        suite,
        terms: Terms::default(),
    }
}

/// What setups are for.
pub(crate) fn purpose(now: Now) -> Purpose<'static> {
    Purpose {
        expiry: u32::try_from(now.unix() + 3600).unwrap(),
        minute: u32::try_from(now.unix() / 60).unwrap(),
        exit: true,
        early: b"early",
    }
}
