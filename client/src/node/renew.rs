//! Changes at run time: other relays are known, new circuits are wanted, and what circuits carried is noted.

use std::time::Duration;

use circuit::table::CircuitKey;
use directory::view::View;

use super::{ClientNode, Node as _, Now, Purpose};

/// Cells are counted for so long to know how many come in a second.
const SECOND: Duration = Duration::from_secs(1);
/// So many packets must have been sent for their losses to mean something.
const ENOUGH_SENT: u64 = 100;
/// What a cell carries of an application.
const CELL_BYTES: u64 = (1 << 30) / crate::path::CELLS_PER_GIB;

impl ClientNode {
    /// Other relays are known now: circuits over those that have left take no new streams, and end with those they have.
    // path.circuit.3
    pub fn set_view(&mut self, now: Now, view: View) {
        self.paths.set_view(now, view);
        let view = self.paths.view();
        for circuit in self.pool.values_mut() {
            circuit.retired |= circuit.path.iter().any(|relay| view.usable(relay, now.unix()).is_err());
        }
        let gone = |entry: &super::Entry| {
            view.get(&entry.relay).is_none_or(|relay| {
                relay.link_key != entry.peer.link_key || relay.dialled() != Some(entry.peer.address)
            })
        };
        // One that has moved is dialled anew; what stands over the old link stays there.
        if self.entry.as_ref().is_some_and(gone) {
            self.entry = None;
        }
        if self.probe.as_ref().is_some_and(gone) {
            self.probe = None;
        }
        self.settle(now);
    }

    /// Has every new stream use a new circuit; the guard stays, and so do streams that are open.
    // path.circuit.4
    pub fn new_identity(&mut self, now: Now) {
        let mut idle = vec![];
        for (key, circuit) in &mut self.pool {
            if matches!(circuit.purpose, Purpose::Test(_)) {
                continue;
            }
            circuit.retired = true;
            if self.flows.on(*key) == 0 {
                idle.push(*key);
            }
        }
        for key in idle {
            self.close(now, key);
        }
        self.handle_timeout(now);
    }

    /// Counts what came over each circuit in the last second.
    // path.quality.1
    pub(super) fn measure(&mut self, now: Now) {
        for circuit in self.pool.values_mut() {
            let (since, before) = circuit.counted;
            let passed = now.instant.saturating_duration_since(since);
            if passed >= SECOND {
                let cells = circuit.received.saturating_sub(before).saturating_mul(1000);
                let millis = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
                circuit.peak = circuit.peak.max(cells.checked_div(millis).unwrap_or(0));
                circuit.counted = (now.instant, circuit.received);
            }
        }
    }

    /// Notes what a circuit that ends has carried.
    pub(super) fn note_traffic(&mut self, now: Now, key: CircuitKey) {
        let Some(circuit) = self.pool.get(&key).filter(|circuit| circuit.opened.is_some()) else { return };
        let stats = self.flows.stats(key).filter(|stats| stats.sent >= ENOUGH_SENT);
        let loss = stats.map(|stats| share(stats.lost, stats.sent));
        self.paths.quality_mut().carried(now.instant, &circuit.path, circuit.peak * CELL_BYTES, loss);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 24 bits")]
const fn share(part: u64, whole: u64) -> f32 {
    part as f32 / whole as f32
}
