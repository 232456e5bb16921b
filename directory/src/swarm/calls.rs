//! Relays that ask to be called: how often that is done (docs/spec/06-open-network.md section 5).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use circuit::keys::RelayId;

/// How long a call counts.
const PERIOD: Duration = Duration::from_mins(10);
/// The most calls that count at once.
const MOST: usize = 60;

/// The relays that were called in the last period.
#[derive(Debug, Default)]
pub(super) struct Calls(BTreeMap<RelayId, Instant>);

impl Calls {
    /// Whether a relay may be called now; then it counts.
    // directory.call.2
    pub(super) fn take(&mut self, now: Instant, relay: RelayId) -> bool {
        self.0.retain(|_, at| now.saturating_duration_since(*at) < PERIOD);
        let may = self.0.len() < MOST && !self.0.contains_key(&relay);
        if may {
            self.0.insert(relay, now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin of time; nothing depends on it")]
    fn start() -> Instant {
        Instant::now()
    }

    fn relay(n: u32) -> RelayId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&n.to_be_bytes());
        RelayId(id)
    }

    // directory.call.2
    #[test]
    fn a_relay_is_called_once_in_a_period_and_all_together_so_often() {
        let (t, mut calls) = (start(), Calls::default());
        assert!(calls.take(t, relay(0)) && !calls.take(t, relay(0)));
        assert!(!calls.take(t + PERIOD / 2, relay(0)));
        assert!(calls.take(t + PERIOD, relay(0)), "the period is over");
        let flood = (0..100_000).filter(|n| calls.take(t + PERIOD, relay(*n))).count();
        assert_eq!((flood, calls.0.len()), (MOST - 1, MOST));
        assert!(!calls.take(t + PERIOD * 3 / 2, relay(200_000)));
        assert!(calls.take(t + PERIOD * 2, relay(200_000)));
        assert_eq!(calls.0.len(), 1);
    }
}
