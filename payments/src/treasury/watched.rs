//! The pots that are watched: which are kept, and which are looked at next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use alloy_primitives::Address;

use crate::till::PayerAccount;

/// The most pots that are kept; then the one that was used longest ago is forgotten.
const MAX_POTS: usize = 16_384;
/// The most addresses that wait for their first look.
const MAX_WANTED: usize = 1_024;

#[derive(Clone, Copy, Debug)]
struct Kept {
    /// As it was told.
    pot: PayerAccount,
    /// It may have changed since, and nothing would have told.
    old: bool,
    used: u64,
}

/// What has changed for an address: what is told of it, and whether it is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) pot: PayerAccount,
    pub(super) kept: bool,
    /// Who made room for it.
    pub(super) forgotten: Option<Address>,
}

/// Pots that can pay, as they were seen last, and what is to be looked at.
#[derive(Debug)]
pub(super) struct Watched {
    max: usize,
    kept: BTreeMap<Address, Kept>,
    /// Whose pot was used when, the longest ago first.
    used: BTreeMap<u64, Address>,
    uses: u64,
    wanted: VecDeque<Address>,
    /// Pots that are looked at again.
    again: VecDeque<Address>,
    again_next: bool,
    /// Those that are being looked at; what comes of it is good as long as they are here.
    looking: BTreeSet<Address>,
    stale: bool,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            max: MAX_POTS,
            kept: BTreeMap::new(),
            used: BTreeMap::new(),
            uses: 0,
            wanted: VecDeque::new(),
            again: VecDeque::new(),
            again_next: false,
            looking: BTreeSet::new(),
            stale: false,
        }
    }
}

impl Watched {
    pub(super) fn get(&self, address: Address) -> Option<PayerAccount> {
        self.kept.get(&address).map(|kept| kept.pot)
    }

    /// Notes that a pot was used.
    pub(super) fn touch(&mut self, address: Address) {
        if let Some(kept) = self.kept.get_mut(&address) {
            self.used.remove(&kept.used);
            self.uses += 1;
            kept.used = self.uses;
            self.used.insert(self.uses, address);
        }
    }

    /// Has an address looked at; not if too many wait.
    pub(super) fn want(&mut self, address: Address) -> bool {
        if self.looking.contains(&address) || self.wanted.contains(&address) {
            return true;
        }
        let room = self.wanted.len() < MAX_WANTED;
        if room {
            self.wanted.push_back(address);
        }
        room
    }

    pub(super) fn has_next(&self) -> bool {
        !self.wanted.is_empty() || !self.again.is_empty()
    }

    /// Who is looked at next: those that are new and those that are kept in turn.
    pub(super) fn next(&mut self) -> Option<Address> {
        self.again_next = !self.again_next;
        let next = if self.again_next {
            self.again.pop_front().or_else(|| self.wanted.pop_front())
        } else {
            self.wanted.pop_front().or_else(|| self.again.pop_front())
        };
        if let Some(address) = next {
            self.looking.insert(address);
        }
        next
    }

    /// A look has ended; whether what it saw is good. If not, the pot has changed meanwhile, and is looked at again.
    pub(super) fn looked(&mut self, address: Address) -> bool {
        let good = self.looking.remove(&address);
        if !good {
            self.want(address);
        }
        good
    }

    /// A pot has changed: what is just being seen of it may be older. Whether it is kept.
    pub(super) fn changed(&mut self, address: Address) -> bool {
        self.looking.remove(&address);
        self.kept.contains_key(&address)
    }

    /// Has all pots looked at again, unless that is still going on.
    pub(super) fn look_again(&mut self) {
        if self.again.is_empty() {
            self.again = self.kept.keys().copied().collect();
        }
    }

    /// Has those pots looked at that are old, if none is about to be.
    pub(super) fn look_at_old(&mut self) {
        if self.again.is_empty() {
            let old = self.kept.iter().filter(|(address, kept)| kept.old && !self.looking.contains(*address));
            self.again = old.map(|(address, _)| *address).collect();
        }
    }

    /// The chain was out of sight: all pots are old until they are looked at again. Those that are told otherwise from now on.
    pub(super) fn lose_sight(&mut self) -> Vec<(Address, PayerAccount)> {
        self.looking.clear();
        self.again.clear();
        self.look_again();
        self.kept.values_mut().for_each(|kept| kept.old = true);
        self.retell()
    }

    /// A pot that is kept could not be looked at: it is old. What is told of it, if it is kept.
    pub(super) fn missed(&mut self, address: Address) -> Option<PayerAccount> {
        let kept = self.kept.get_mut(&address)?;
        (kept.old, kept.pot.head_stale) = (true, true);
        Some(kept.pot)
    }

    /// Takes a pot as it was seen before the start.
    pub(super) fn remember(&mut self, address: Address, pot: PayerAccount) {
        if !self.kept.contains_key(&address) {
            self.insert(address, PayerAccount { head_stale: true, ..pot }, true);
        }
    }

    fn insert(&mut self, address: Address, pot: PayerAccount, old: bool) -> Option<Address> {
        let used = self.kept.get(&address).map_or(0, |kept| kept.used);
        let forgotten = if self.kept.len() < self.max || self.kept.contains_key(&address) {
            None
        } else {
            self.used.pop_first().map(|(_, oldest)| oldest)
        };
        if let Some(oldest) = forgotten {
            self.kept.remove(&oldest);
        }
        self.kept.insert(address, Kept { pot, old, used });
        if used == 0 {
            self.touch(address);
        }
        forgotten
    }

    /// A pot is seen on the chain; `None` if that is nothing new. Only pots that can pay are kept.
    // pay.table.1
    pub(super) fn seen(&mut self, address: Address, pot: PayerAccount) -> Option<Seen> {
        let pot = PayerAccount { head_stale: self.stale, ..pot };
        if !pot.can_pay() {
            if let Some(kept) = self.kept.remove(&address) {
                self.used.remove(&kept.used);
            }
            return Some(Seen { pot, kept: false, forgotten: None });
        }
        let before = self.get(address);
        let forgotten = self.insert(address, pot, false);
        (before != Some(pot)).then_some(Seen { pot, kept: true, forgotten })
    }

    pub(super) const fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether the chain's head is stale; the pots that are told otherwise from now on.
    pub(super) fn set_stale(&mut self, stale: bool) -> Vec<(Address, PayerAccount)> {
        self.stale = stale;
        self.retell()
    }

    fn retell(&mut self) -> Vec<(Address, PayerAccount)> {
        let mut told = Vec::new();
        for (address, kept) in &mut self.kept {
            let stale = self.stale || kept.old;
            if kept.pot.head_stale != stale {
                kept.pot.head_stale = stale;
                told.push((*address, kept.pot));
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Wei;

    fn address(n: u16) -> Address {
        Address::left_padding_from(&n.to_be_bytes())
    }

    fn pot(reserve: u128) -> PayerAccount {
        PayerAccount {
            balance: Wei(1),
            reserve: Wei(reserve),
            unlocking: false,
            signer: Address::repeat_byte(3),
            only_payee: None,
            head_stale: false,
            registered: false,
        }
    }

    // pay.table.1
    #[test]
    fn only_pots_that_can_pay_are_kept_and_the_longest_unused_is_forgotten() {
        let mut watched = Watched { max: 2, ..Watched::default() };
        let empty = PayerAccount { signer: Address::ZERO, ..pot(0) };
        for n in 0..100 {
            assert!(!watched.seen(address(n), empty).unwrap().kept);
        }
        assert_eq!((watched.kept.len(), watched.used.len()), (0, 0));
        for n in [1, 2] {
            assert_eq!(watched.seen(address(n), pot(5)).unwrap().forgotten, None);
            assert_eq!(watched.seen(address(n), pot(5)), None);
        }
        watched.touch(address(1));
        assert_eq!(watched.seen(address(3), pot(5)).unwrap().forgotten, Some(address(2)));
        // Who can no longer pay is told so, once, and makes room.
        assert!(!watched.seen(address(1), empty).unwrap().kept);
        assert_eq!(watched.seen(address(4), pot(5)).unwrap().forgotten, None);
        assert_eq!((watched.kept.len(), watched.used.len()), (2, 2));
    }

    #[test]
    fn strangers_fill_a_queue_that_ends_and_pots_have_their_turn() {
        let mut watched = Watched::default();
        watched.seen(address(9_999), pot(5));
        let taken = (0..2_000).filter(|n| watched.want(address(*n))).count();
        assert_eq!(taken, MAX_WANTED);
        watched.look_again();
        assert!((0..2).any(|_| watched.next() == Some(address(9_999))));
    }

    #[test]
    fn what_was_seen_before_a_change_is_looked_at_again() {
        let mut watched = Watched::default();
        assert!(watched.want(address(1)));
        assert_eq!(watched.next(), Some(address(1)));
        assert!(!watched.changed(address(1)));
        assert!(!watched.looked(address(1)));
        assert_eq!(watched.next(), Some(address(1)));
        assert!(watched.looked(address(1)));
        assert!(!watched.has_next());
    }

    // pay.pot.2
    #[test]
    fn pots_are_stale_until_they_are_seen_again_after_the_chain_was_out_of_sight() {
        let mut watched = Watched::default();
        watched.seen(address(1), pot(5));
        watched.seen(address(2), pot(5));
        assert_eq!(watched.lose_sight().len(), 2);
        assert_eq!(watched.set_stale(false), []);
        assert!(!watched.seen(address(1), pot(5)).unwrap().pot.head_stale);
        assert!(watched.get(address(2)).unwrap().head_stale);
        assert!(watched.missed(address(1)).unwrap().head_stale);
        assert_eq!(watched.missed(address(3)), None);
        while watched.next().is_some_and(|next| watched.looked(next)) {}
        watched.look_at_old();
        assert_eq!(
            [watched.next(), watched.next(), watched.next()],
            [Some(address(1)), Some(address(2)), None]
        );
    }
}
