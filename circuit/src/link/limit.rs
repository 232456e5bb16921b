//! Limits on what a neighbour or a stranger may make us do.

use core::time::Duration;
use std::net::IpAddr;
use std::time::Instant;

use rand_core::Rng as _;

use crate::keys::{Random, Secret, mac};

const SECOND: Duration = Duration::from_secs(1);

/// How often something happened within the last second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Second {
    start: Option<Instant>,
    now: u32,
    before: u32,
}

impl Second {
    /// Counts one.
    pub(super) fn count(&mut self, now: Instant) {
        self.roll(now);
        self.now = self.now.saturating_add(1);
    }

    /// The count of the last second: of the current one, and the share of the one before that still lies within.
    pub(super) fn last(&mut self, now: Instant) -> u32 {
        let into = self.roll(now);
        let left = u64::try_from(SECOND.saturating_sub(into).as_millis()).unwrap_or(0);
        let share = u64::from(self.before) * left / 1000;
        self.now.saturating_add(u32::try_from(share).unwrap_or(u32::MAX))
    }

    /// Counts one if fewer than `most` were counted within the last second.
    pub(super) fn allow(&mut self, now: Instant, most: u32) -> bool {
        let allowed = self.last(now) < most;
        if allowed {
            self.count(now);
        }
        allowed
    }

    /// Starts a new second where the old one is over; returns how far we are into it.
    fn roll(&mut self, now: Instant) -> Duration {
        let start = *self.start.get_or_insert(now);
        let into = now.saturating_duration_since(start);
        if into < SECOND {
            return into;
        }
        let next_one = into < 2 * SECOND;
        *self = Self {
            start: Some(if next_one { start + SECOND } else { now }),
            now: 0,
            before: if next_one { self.now } else { 0 },
        };
        if next_one { into.saturating_sub(SECOND) } else { Duration::ZERO }
    }
}

const BUCKETS: usize = 1024;
/// A token, in the unit of [`Bucket::tokens`].
const TOKEN: u64 = 1_000_000;

/// Token buckets per source prefix (/24, /48), in a table of fixed size that is allocated at the first use.
///
/// A prefix has two places; where both are taken it evicts the fuller bucket and goes on with that one's tokens, so
/// that eviction grants nothing.
#[derive(Debug)]
pub(crate) struct Buckets {
    table: Vec<Bucket>,
    place: Secret<32>,
    /// Tokens per second, which is micro-tokens per microsecond.
    rate: u64,
    burst: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    prefix: u64,
    tokens: u64,
    at: Instant,
}

impl Buckets {
    pub(crate) fn new(rate: u32, burst: u32, rng: &mut Random) -> Self {
        let mut place = [0; 32];
        rng.fill_bytes(&mut place);
        Self { table: Vec::new(), place: Secret::new(place), rate: rate.into(), burst: burst.into() }
    }

    /// Takes a token of the prefix of `source`.
    pub(crate) fn take(&mut self, now: Instant, source: IpAddr) -> bool {
        if self.table.is_empty() {
            let full = Bucket { prefix: 0, tokens: self.burst * TOKEN, at: now };
            self.table = vec![full; BUCKETS];
        }
        let (rate, most) = (self.rate, self.burst * TOKEN);
        let prefix = prefix(source);
        let [a, b] = self.places(prefix);
        for at in [a, b] {
            if let Some(bucket) = self.table.get_mut(at) {
                bucket.fill(now, rate, most);
            }
        }
        let tokens = |at: usize| self.table.get(at).map_or(0, |bucket| bucket.tokens);
        let owned = |at: usize| self.table.get(at).is_some_and(|bucket| bucket.prefix == prefix);
        let at = if owned(a) || (!owned(b) && tokens(a) >= tokens(b)) { a } else { b };
        self.table.get_mut(at).is_some_and(|bucket| {
            bucket.prefix = prefix;
            let left = bucket.tokens.checked_sub(TOKEN);
            bucket.tokens = left.unwrap_or(bucket.tokens);
            left.is_some()
        })
    }

    /// Two places that nobody outside can foresee.
    fn places(&self, prefix: u64) -> [usize; 2] {
        let [a, b, c, d, ..] = mac(&self.place, &[&prefix.to_be_bytes()]);
        [[a, b], [c, d]].map(|pair| usize::from(u16::from_be_bytes(pair)) % BUCKETS)
    }
}

impl Bucket {
    fn fill(&mut self, now: Instant, rate: u64, most: u64) {
        let passed = now.saturating_duration_since(self.at).as_micros();
        let gained = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(rate);
        self.tokens = self.tokens.saturating_add(gained).min(most);
        self.at = now;
    }
}

/// The /24 or /48 of an address, never zero.
fn prefix(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(ip) => 4 << 48 | u64::from(ip.to_bits() >> 8),
        IpAddr::V6(ip) => 6 << 48 | u64::try_from(ip.to_bits() >> 80).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng as _;

    fn start() -> Instant {
        crate::link::tests::start().instant
    }

    #[test]
    fn a_second_slides() {
        let (t, mut s) = (start(), Second::default());
        for _ in 0..100 {
            s.count(t);
        }
        assert_eq!(s.last(t + SECOND / 2), 100);
        assert_eq!(s.last(t + SECOND + SECOND / 4), 75);
        assert_eq!(s.last(t + 3 * SECOND), 0);
        let mut s = Second::default();
        assert_eq!((0..40).filter(|_| s.allow(t, 16)).count(), 16);
        assert_eq!((0..40).filter(|_| s.allow(t + 2 * SECOND, 16)).count(), 16);
    }

    // link.dos.3
    #[test]
    fn a_prefix_has_its_burst_and_its_rate() {
        let mut buckets = Buckets::new(50, 100, &mut Random::from_seed([1; 32]));
        let t = start();
        let take = |b: &mut Buckets, t, ip: &str| (0..500).filter(|_| b.take(t, ip.parse().unwrap())).count();
        assert_eq!(take(&mut buckets, t, "192.0.2.1"), 100);
        assert_eq!(take(&mut buckets, t, "192.0.2.200"), 0);
        assert_eq!(take(&mut buckets, t, "::ffff:192.0.2.9"), 0);
        assert_eq!(take(&mut buckets, t, "192.0.3.1"), 100);
        assert_eq!(take(&mut buckets, t, "2001:db8::1"), 100);
        assert_eq!(take(&mut buckets, t, "2001:db8:0:ffff::1"), 0);
        assert_eq!(take(&mut buckets, t, "2001:db8:1::1"), 100);
        assert_eq!(take(&mut buckets, t + SECOND, "192.0.2.1"), 50);
    }

    #[test]
    fn many_prefixes_do_not_grow_the_table_nor_refill_each_other() {
        let mut buckets = Buckets::new(50, 100, &mut Random::from_seed([2; 32]));
        let t = start();
        let passed =
            (0..400_000u32).filter(|i| buckets.take(t, IpAddr::from((i << 8).to_be_bytes()))).count();
        assert_eq!(buckets.table.len(), BUCKETS);
        assert!(passed <= BUCKETS * 100, "{passed}");
    }
}
