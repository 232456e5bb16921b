//! Limits on what strangers may make us do: token buckets by name, in tables of a stated size.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How much is allowed: `burst` at once, and one more every so often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) every: Duration,
}

/// A token bucket: the time at which it would be full again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket(Option<Instant>);

impl Bucket {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let full = self.full(now) + rate.every;
        let allowed = full.saturating_duration_since(now) <= rate.every * rate.burst;
        if allowed {
            self.0 = Some(full);
        }
        allowed
    }

    /// Whether a token is there.
    pub(crate) fn has(mut self, now: Instant, rate: Rate) -> bool {
        self.take(now, rate)
    }

    /// Takes so many tokens, also where there are fewer.
    pub(crate) fn pay(&mut self, now: Instant, rate: Rate, tokens: u32) {
        self.0 = Some(self.full(now) + rate.every.saturating_mul(tokens));
    }

    fn full(&self, now: Instant) -> Instant {
        self.0.map_or(now, |full| full.max(now))
    }
}

/// A bucket for each name, of at most `SIZE` names.
///
/// Where a new name finds no room, buckets that are full go first. If there are none, the fullest makes room, and the new
/// name goes on with its tokens: so that eviction grants nothing.
#[derive(Debug)]
pub(crate) struct Buckets<K, const SIZE: usize> {
    rate: Rate,
    table: BTreeMap<K, Bucket>,
}

impl<K: Ord + Copy, const SIZE: usize> Buckets<K, SIZE> {
    pub(crate) const fn new(rate: Rate) -> Self {
        Self { rate, table: BTreeMap::new() }
    }

    /// Takes a token of this name if there is one.
    pub(crate) fn take(&mut self, now: Instant, name: K) -> bool {
        let start = if self.table.contains_key(&name) { Bucket::default() } else { self.make_room(now) };
        self.table.entry(name).or_insert(start).take(now, self.rate)
    }

    /// Takes so many tokens of this name, also where there are fewer.
    pub(crate) fn pay(&mut self, now: Instant, name: K, tokens: u32) {
        let start = if self.table.contains_key(&name) { Bucket::default() } else { self.make_room(now) };
        self.table.entry(name).or_insert(start).pay(now, self.rate, tokens);
    }

    /// Whether a token of this name is there.
    pub(crate) fn has(&self, now: Instant, name: &K) -> bool {
        self.table.get(name).copied().unwrap_or_default().take(now, self.rate)
    }

    /// What a new name begins with.
    fn make_room(&mut self, now: Instant) -> Bucket {
        if self.table.len() < SIZE {
            return Bucket::default();
        }
        self.table.retain(|_, bucket| bucket.full(now) > now);
        if self.table.len() < SIZE {
            return Bucket::default();
        }
        let fullest = self.table.iter().min_by_key(|(_, bucket)| bucket.full(now)).map(|(name, _)| *name);
        fullest.and_then(|name| self.table.remove(&name)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: Rate = Rate { burst: 3, every: Duration::from_secs(10) };

    #[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_every_so_often() {
        let (mut bucket, start) = (Bucket::new(), start());
        let at = |seconds| start + Duration::from_secs(seconds);
        let taken: Vec<_> = (0..5).map(|_| bucket.take(at(0), RATE)).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert_eq!([9, 10, 10, 19, 20].map(|s| bucket.take(at(s), RATE)), [false, true, false, false, true]);
        assert_eq!([0; 4].map(|_| bucket.take(at(1_000), RATE)), [true, true, true, false]);
    }

    #[test]
    fn a_full_table_lets_full_buckets_go_and_grants_nothing() {
        let (mut buckets, start) = (Buckets::<u32, 4>::new(RATE), start());
        for name in 0..4 {
            assert!([0; 4].map(|_| buckets.take(start, name)) == [true, true, true, false]);
        }
        // All are empty, so that whoever comes is, too.
        for name in 4..100 {
            assert!(!buckets.take(start, name), "{name}");
            assert_eq!(buckets.table.len(), 4);
        }
        let later = start + RATE.every * 3;
        assert!(buckets.has(later, &7) && buckets.take(later, 100));
        assert_eq!(buckets.table.len(), 1);
    }

    proptest! {
        #[test]
        fn no_names_get_more_than_a_table_of_bursts_and_what_flows_in(
            calls in prop::collection::vec((0_u32..50, 0_u64..5_000), 1..300),
        ) {
            let (mut buckets, start) = (Buckets::<u32, 4>::new(RATE), start());
            let (mut passed, mut taken) = (Duration::ZERO, 0);
            for (name, wait) in calls {
                passed += Duration::from_millis(wait);
                taken += u128::from(buckets.take(start + passed, name));
                prop_assert!(buckets.table.len() <= 4);
            }
            // A bucket that is full goes without a trace, and comes back full: as often as it can fill.
            let fills = passed.as_millis() / RATE.every.as_millis() + 1;
            prop_assert!(taken <= 4 * (3 + fills));
        }
    }
}
