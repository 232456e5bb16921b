//! How long a circuit may take to be built, learned from those that were.

use std::collections::VecDeque;
use std::time::Duration;

/// So many of the last circuits are remembered.
const REMEMBERED: usize = 100;
/// With fewer nothing is learned.
const ENOUGH: usize = 10;
/// The time that is given while nothing is learned.
const UNKNOWN: Duration = Duration::from_secs(5);
/// The least and the most time that is ever given.
const LEAST: Duration = Duration::from_millis(1_500);
const MOST: Duration = Duration::from_secs(10);
/// So many in a row that take too long mean that the network has become slower, or that nobody is there.
const IN_A_ROW: u32 = 3;

/// The build times of a client's own circuits.
// path.circuit.2
#[derive(Clone, Debug, Default)]
pub(crate) struct BuildTimes {
    last: VecDeque<Duration>,
    late: u32,
}

impl BuildTimes {
    /// A circuit stood after so long.
    pub(crate) fn built(&mut self, time: Duration) {
        if self.last.len() >= REMEMBERED {
            self.last.pop_front();
        }
        self.last.push_back(time);
        self.late = 0;
    }

    /// A circuit was given up.
    pub(crate) const fn given_up(&mut self) {
        self.late = self.late.saturating_add(1);
    }

    /// How long a setup may stay unanswered: twice what 19 of 20 took, and more after several in a row that took longer.
    pub(crate) fn limit(&self) -> Duration {
        let Some(usual) = self.quantile(95) else { return UNKNOWN };
        let doublings = self.late / IN_A_ROW;
        (usual * 2).max(LEAST).saturating_mul(1 << doublings.min(4)).min(MOST)
    }

    /// What so many in a hundred took at most; nothing while too little is known.
    fn quantile(&self, percent: usize) -> Option<Duration> {
        if self.last.len() < ENOUGH {
            return None;
        }
        let mut sorted: Vec<_> = self.last.iter().copied().collect();
        sorted.sort_unstable();
        let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        sorted.get(place).copied()
    }

    /// What half of them took at most.
    pub(crate) fn median(&self) -> Option<Duration> {
        self.quantile(50)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // path.circuit.2
    #[test]
    fn the_limit_follows_what_was_seen_within_bounds() {
        let mut times = BuildTimes::default();
        assert_eq!((times.limit(), times.median()), (UNKNOWN, None));
        for n in 0..100 {
            times.built(Duration::from_millis(1000 + n));
        }
        assert_eq!(times.limit(), Duration::from_millis(2 * 1094));
        assert_eq!(times.median(), Some(Duration::from_millis(1049)));
        for _ in 0..5 {
            times.built(Duration::from_mins(1));
        }
        assert!(times.limit() < Duration::from_secs(3), "one in twenty changes little");
        for _ in 0..REMEMBERED {
            times.built(Duration::from_millis(10));
        }
        assert_eq!(times.limit(), LEAST);
        for _ in 0..REMEMBERED {
            times.built(Duration::from_mins(1));
        }
        assert_eq!(times.limit(), MOST);
    }

    // path.circuit.2
    #[test]
    fn a_network_that_becomes_slower_gets_more_time() {
        let mut times = BuildTimes::default();
        for _ in 0..REMEMBERED {
            times.built(Duration::from_millis(10));
        }
        for _ in 1..IN_A_ROW {
            times.given_up();
        }
        assert_eq!(times.limit(), LEAST);
        times.given_up();
        assert_eq!(times.limit(), 2 * LEAST);
        for _ in 0..100 {
            times.given_up();
        }
        assert_eq!(times.limit(), MOST);
        times.built(Duration::from_millis(10));
        assert_eq!(times.limit(), LEAST);
    }
}
