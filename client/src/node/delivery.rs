//! Whether circuits carry what is paid for (docs/spec/03-payments.md section 4).

use std::time::{Duration, Instant};

use circuit::node::Now;
use circuit::table::CircuitKey;

use super::{ClientNode, Failure};

/// So many cells of a direction may be lost, and one in twenty.
const FLOOR: u64 = 1_024;
const SHARE: u64 = 20;
/// An entry is left after so many circuits that lost too much within this time.
const STRIKES: u32 = 3;
const STRIKES_TIME: Duration = Duration::from_mins(10);

/// Circuits over one entry that lost too much.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    since: Option<Instant>,
    count: u32,
}

impl Strikes {
    /// Adds one; whether the entry is to be left.
    fn add(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| since + STRIKES_TIME < now) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count += 1;
        self.count >= STRIKES
    }
}

impl ClientNode {
    /// Leaves circuits that lose more than networks do.
    // pay.deliver.1
    pub(super) fn watch_delivery(&mut self, now: Now) {
        if self.payer.is_none() {
            return;
        }
        let losing: Vec<_> = self.pool.keys().filter(|key| self.loses(**key)).copied().collect();
        for key in losing {
            self.leave_circuit(now, key);
        }
    }

    fn loses(&self, key: CircuitKey) -> bool {
        let too_many = |lost: u64, all: u64| lost > FLOOR + all / SHARE;
        let back = self.origin.arrivals(key);
        let forth = self.flows.stats(key);
        // What the entry dropped without credit cost nothing.
        let link = self.origin.link(key);
        let free = link.zip(self.payer.as_ref()).map_or(0, |(link, payer)| payer.uncharged(link));
        back.is_some_and(|(came, started)| too_many(started.saturating_sub(came), started))
            || forth.is_some_and(|stats| too_many(stats.lost.saturating_sub(free), stats.sent))
    }

    /// A hop says that the one before has not paid it: one of the two is to blame.
    // pay.deliver.3
    pub(super) fn not_passed_on(&mut self, now: Now, key: CircuitKey, hop: usize) {
        let Some(circuit) = self.pool.get(&key) else { return };
        for relay in circuit.path.iter().take(hop + 1).skip(hop.saturating_sub(1)) {
            if Some(*relay) != self.entry.map(|entry| entry.relay) {
                self.paths.quality_mut().strike(now.instant, *relay);
            }
        }
        if hop == 1 && self.strikes.add(now.instant) {
            self.leave_entry(now);
        }
    }

    /// Leaves a circuit that was paid and does not carry.
    pub(super) fn leave_circuit(&mut self, now: Now, key: CircuitKey) {
        self.counts.last_error = Some("a circuit was left: what it was paid for did not arrive".to_owned());
        self.blame(now, key);
        self.origin.close(now, key);
        self.lost(now, key, Failure::TimedOut);
    }

    /// Leaves a circuit whose exit broke a rule, or which lost so much that its QUIC connection broke.
    pub(super) fn leave_broken(&mut self, now: Now, key: CircuitKey) {
        self.counts.last_error =
            Some("a circuit was left: its exit broke a rule, or too much was lost on the way".to_owned());
        self.blame(now, key);
        self.close(now, key);
    }

    /// Which relay is at fault is not known: those beyond the entry are avoided for a while, and in the end the entry, which all such
    /// circuits share.
    // pay.deliver.1
    fn blame(&mut self, now: Now, key: CircuitKey) {
        let beyond = self.pool.get(&key).into_iter().flat_map(|circuit| circuit.path.iter().skip(1));
        for relay in beyond {
            self.paths.quality_mut().strike_for_loss(now.instant, *relay);
        }
        if self.entry.map(|entry| entry.link) == self.origin.link(key) && self.strikes.add(now.instant) {
            self.leave_entry(now);
        }
    }
}
