//! How long to wait after failures in a row, so that relays that refuse everything are not asked without end.

use std::time::{Duration, Instant};

/// So many failures in a row cost nothing: a single relay may be busy.
const FREE: u32 = 3;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Failures in a row, and until when nothing is tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// Notes a failure; what was tried before the wait began makes it no longer.
    pub(crate) fn failed(&mut self, now: Instant) {
        if self.waits(now) {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if let Some(doublings) = self.failures.checked_sub(FREE + 1) {
            self.until = Some(now + (SHORTEST * (1 << doublings.min(10))).min(LONGEST));
        }
    }

    /// Something worked.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Whether it is too early to try again.
    pub(crate) fn waits(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn waits_grow_to_their_limit_and_end_with_a_success() {
        let (mut now, mut backoff) = (Instant::now(), Backoff::default());
        let mut waits = vec![];
        for _ in 0..12 {
            // Several at once count as one.
            for _ in 0..4 {
                backoff.failed(now);
            }
            let begun = now;
            while backoff.waits(now) {
                now += SHORTEST;
            }
            waits.push((now - begun).as_millis());
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000, 5000, 5000]);
        backoff.succeeded();
        backoff.failed(now);
        assert!(!backoff.waits(now));
    }
}
