//! The pots of those that pay, as the chain shows them.

use circuit::ledger::Ledger;
use circuit::node::Now;
use payments::Address;
use payments::till::PayerAccount;

use super::{Cashier, REMEMBERED};

/// Accounts that are to be looked up on the chain.
const LOOKUPS: usize = 1_024;

impl Cashier {
    pub(super) fn look_up(&mut self, address: Address) {
        if self.asked.len() < LOOKUPS && !self.asked.contains_key(&address) {
            self.asked.insert(address, None);
            self.lookups.push_back(address);
        }
    }

    /// Looks at the pots of relays before they come: where no registry names their bonds, their first circuits would come before
    /// their credit.
    // pay.credit.2
    pub fn expect(&mut self, owners: impl IntoIterator<Item = Address>) {
        for owner in owners.into_iter().take(LOOKUPS / 4) {
            if owner != self.owner && !self.seen.contains_key(&owner) {
                self.look_up(owner);
            }
        }
    }

    /// The next account that is to be looked up on the chain, and watched from then on.
    pub fn poll_lookup(&mut self) -> Option<Address> {
        self.lookups.pop_front()
    }

    /// An account could not be looked up, or is not watched any more; it may be tried again.
    pub fn not_seen(&mut self, address: Address) {
        self.asked.remove(&address);
        self.seen.remove(&address);
    }

    /// An account is seen on the chain.
    pub fn seen(&mut self, now: Now, ledger: &mut Ledger, address: Address, account: PayerAccount) {
        if self.seen.len() >= 2 * REMEMBERED && !self.seen.contains_key(&address) {
            let (neighbours, links) = (&self.neighbours, &self.links);
            self.seen
                .retain(|of, _| neighbours.contains_key(of) || links.values().any(|linked| linked == of));
        }
        self.seen.insert(address, account);
        self.trust(ledger, address);
        if let Some(Some((link, frame))) = self.asked.remove(&address)
            && self.links.get(&link) == Some(&address)
        {
            // Whatever is wrong with it, the payer is told.
            let _ = self.hand_to_till(now, ledger, link, address, &frame);
        }
    }

    /// The accounts that are to be watched.
    pub fn watched(&self) -> Vec<Address> {
        self.seen.keys().copied().collect()
    }
}
