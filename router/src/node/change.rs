//! What changes while a relay runs: the view, its keys, how much it takes on (docs/spec/07-operation.md).

use std::collections::{BTreeMap, BTreeSet};

use circuit::keys::{DhSecret, RelayId};
use circuit::link::LinkId;
use circuit::node::Now;
use circuit::packet::PACKET;
use directory::view::View;

use super::RelayNode;
use crate::throttle::Throttle;

impl RelayNode {
    /// Replaces the view: who may shake hands, where relays are reached, who they are paid as.
    ///
    /// Links of relays that have left carry their circuits to their end, take no new ones, and are closed when idle.
    // operate.view.1
    pub fn set_view(&mut self, now: Now, view: View) {
        self.view = view;
        let (view, unix) = (&self.view, now.unix());
        let usable = view.iter().filter(|relay| view.usable(&relay.id, unix).is_ok());
        self.links.set_relays(usable.clone().map(|relay| (relay.link_key, relay.id)));
        let Some(cashier) = &mut self.cashier else { return };
        let ledger = self.relay.ledger_mut();
        let owners: BTreeSet<_> = usable.filter_map(|relay| Some(relay.payment?.owner)).collect();
        cashier.set_owners(ledger, &owners);
        for link in self.links.snapshot().into_iter().filter(|link| link.up) {
            let relay = link.peer.and_then(|peer| view.usable(&peer, unix).ok());
            if let Some(payment) = relay.and_then(|relay| relay.payment)
                && cashier.owner_of(link.link) != Some(payment.owner)
            {
                cashier.relay_up(now, ledger, link.link, payment.owner);
            }
        }
        self.worked = true;
        self.act(now);
    }

    /// Replaces the onion keys, by epoch.
    // operate.keys.2
    pub fn set_onion_keys(&mut self, _: Now, keys: BTreeMap<u32, DhSecret>) {
        self.relay.set_onion_keys(keys);
    }

    /// Begins a link to a relay that has asked for it, at the address of its own descriptor; if one stands with it, that is the link.
    // directory.call.1, directory.call.3
    pub fn call(&mut self, now: Now, relay: &RelayId) {
        if let Some(peer) = self.peer(now, relay) {
            // Nobody here waits for it.
            let _ = self.links.dial(now, &peer);
        }
        self.act(now);
    }

    /// Limits the cells of all circuits to so many bytes per second, or to none.
    pub fn set_rate(&mut self, bytes_per_second: Option<u64>) {
        self.throttle = bytes_per_second.map(Throttle::new).unwrap_or_default();
    }

    /// Takes no new circuits from now on; those that stand go on.
    // operate.drain.1
    pub const fn drain(&mut self, _: Now) {
        self.relay.set_draining(true);
    }

    /// Takes new circuits again.
    pub const fn resume(&mut self, _: Now) {
        self.relay.set_draining(false);
    }

    /// Ends all circuits; their clients hear of it.
    pub fn end_circuits(&mut self, now: Now) {
        self.relay.close_all(now);
        self.act(now);
    }

    /// Ends all links; their other ends hear of it at once.
    // operate.drain.2
    pub fn leave(&mut self, now: Now) {
        self.links.close_all(now);
        self.act(now);
    }

    /// The bytes of the cells that it has carried: what has come, and what has gone out again here or to destinations.
    pub const fn carried(&self) -> u64 {
        let cells = self.relay.counts();
        (cells.forward + cells.backward + cells.here + cells.started).saturating_mul(PACKET as u64)
    }

    /// Whether the relay at the other end of a link has left.
    pub(super) fn has_left(&self, now: Now, link: LinkId) -> bool {
        self.links.peer(link).is_some_and(|peer| self.view.usable(&peer, now.unix()).is_err())
    }
}
