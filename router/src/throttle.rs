//! The rate of a relay: a bucket over the cells of all circuits (docs/spec/07-operation.md section 3).

use std::time::{Duration, Instant};

use circuit::packet::PACKET;

/// What may come at once: the cells of so long a time, and of so many at least.
const BURST: Duration = Duration::from_millis(250);
const BURST_CELLS: u32 = 64;

/// Lets so many cells of a second pass as the rate allows; without a rate all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    rate: Option<Rate>,
    /// Up to when the rate is used up; before the present while there is some to spare.
    used_until: Option<Instant>,
    /// Something that starts here waits.
    waits: bool,
}

#[derive(Clone, Copy, Debug)]
struct Rate {
    /// The time that one cell takes.
    cell: Duration,
    burst: Duration,
}

impl Throttle {
    /// Lets so many bytes per second pass, in cells as they travel.
    pub fn new(bytes_per_second: u64) -> Self {
        let cell = Duration::from_secs(PACKET as u64)
            .checked_div(u32::try_from(bytes_per_second).unwrap_or(u32::MAX));
        let cell = cell.unwrap_or(Duration::from_secs(PACKET as u64));
        let rate = Rate { cell, burst: BURST.max(cell.saturating_mul(BURST_CELLS)) };
        Self { rate: Some(rate), used_until: None, waits: false }
    }

    /// Whether one more cell may pass now; if so, it counts.
    pub fn take(&mut self, now: Instant) -> bool {
        let Some(rate) = self.rate else { return true };
        let until = self.used_until(now, rate);
        let passes = until <= now;
        self.used_until = Some(if passes { until + rate.cell } else { until });
        passes
    }

    /// Whether a cell may start here now; if not, [`Throttle::poll_timeout`] tells when.
    pub fn may_start(&mut self, now: Instant) -> bool {
        self.waits = self.rate.is_some_and(|rate| self.used_until(now, rate) > now);
        !self.waits
    }

    /// When what waits may start.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.used_until.filter(|_| self.waits)
    }

    /// The time of [`Throttle::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.waits &= self.used_until.is_some_and(|until| until > now);
    }

    /// Time that was not used is lost but for the burst.
    fn used_until(&self, now: Instant, rate: Rate) -> Instant {
        let earliest = now.checked_sub(rate.burst).unwrap_or(now);
        self.used_until.map_or(earliest, |until| until.max(earliest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
    fn start() -> Instant {
        Instant::now() + Duration::from_hours(1)
    }

    /// The cells that pass in so many milliseconds, when `offered` come in each of them.
    fn passed(throttle: &mut Throttle, from: Instant, ms: u64, offered: usize) -> u64 {
        let mut count = 0;
        for at in (0..ms).map(|n| from + Duration::from_millis(n)) {
            count += (0..offered).map(|_| u64::from(throttle.take(at))).sum::<u64>();
        }
        count
    }

    #[test]
    fn the_rate_holds_over_any_time_and_is_used_in_full() {
        // operate.rate.1
        for rate in [30_000, 1_000_000, 125_000_000] {
            let mut throttle = Throttle::new(rate);
            let from = start();
            let offered = usize::try_from(rate / 1000 / 1000 + 2).unwrap();
            let burst = (rate / 4).max(64 * PACKET as u64);
            let bytes = passed(&mut throttle, from, 10_000, offered) * PACKET as u64;
            assert!(bytes <= 10 * rate + burst + PACKET as u64, "{rate}: {bytes}");
            assert!(bytes >= 10 * rate - rate / 10, "{rate}: {bytes}");
            // An hour of rest saves no more than a burst.
            let bytes = passed(&mut throttle, from + Duration::from_hours(1), 1000, offered) * PACKET as u64;
            assert!(bytes <= rate + burst + PACKET as u64, "{rate}: {bytes}");
        }
    }

    #[test]
    fn without_a_rate_everything_passes() {
        let mut throttle = Throttle::default();
        assert_eq!(passed(&mut throttle, start(), 10, 1_000), 10_000);
        assert!(throttle.may_start(start()));
        assert_eq!(throttle.poll_timeout(), None);
    }

    #[test]
    fn what_starts_here_waits_until_there_is_room() {
        // operate.rate.1
        let mut throttle = Throttle::new(1_000_000);
        let now = start();
        while throttle.may_start(now) {
            assert!(throttle.take(now));
        }
        let at = throttle.poll_timeout().unwrap();
        assert!(at > now && at <= now + Duration::from_millis(2));
        throttle.handle_timeout(now);
        assert_eq!(throttle.poll_timeout(), Some(at));
        throttle.handle_timeout(at);
        assert_eq!(throttle.poll_timeout(), None);
        assert!(throttle.may_start(at));
    }
}
