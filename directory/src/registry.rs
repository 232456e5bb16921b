//! The relays that a chain's contract lists, and who registered them (docs/spec/04-directory.md section 3).

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, keccak256};
use circuit::keys::RelayId;

use crate::chain::Wei;

/// A relay's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The relay, by its owner's word only: anyone may register any id.
    pub id: RelayId,
    /// What its owner has locked.
    pub bond: Wei,
    /// The number of the change that registered it: who came first.
    pub since: u64,
}

/// The registry at one block, as its changes tell.
///
/// An owner has one relay at most; an id may have several owners, of whom the relay's descriptor names the right one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// The block.
    pub block: u64,
    root: B256,
    seq: u64,
    owners: BTreeMap<Address, Registration>,
    ids: BTreeSet<(RelayId, Address)>,
}

/// A change that cannot follow what came before: one is missing, or the source lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("change {seq} of the registry cannot follow change {after}: {problem}; read all changes again")]
pub struct Inconsistent {
    /// The number of the change.
    pub seq: u64,
    /// The number of the last change that was applied.
    pub after: u64,
    /// Why it cannot be.
    pub problem: &'static str,
}

impl Registry {
    /// A registry that was known before, as it was; `None` if an owner stands there twice.
    pub fn restore(
        block: u64,
        root: B256,
        seq: u64,
        relays: impl IntoIterator<Item = (Address, Registration)>,
    ) -> Option<Self> {
        let mut registry = Self { block, root, seq, ..Self::default() };
        for (owner, relay) in relays {
            registry.ids.insert((relay.id, owner));
            if registry.owners.insert(owner, relay).is_some() {
                return None;
            }
        }
        Some(registry)
    }

    /// Applies the contract's next change; a registered relay's bond is nothing until [`Registry::set_bond`] says more.
    // directory.registry.1
    pub fn apply(
        &mut self,
        seq: u64,
        owner: Address,
        id: RelayId,
        registered: bool,
    ) -> Result<(), Inconsistent> {
        let wrong = |problem| Inconsistent { seq, after: self.seq, problem };
        if self.seq.checked_add(1) != Some(seq) {
            return Err(wrong("it is not the next one"));
        }
        match (self.owners.get(&owner), registered) {
            (Some(_), true) => return Err(wrong("its owner has a relay already")),
            (None, false) => return Err(wrong("its owner has no relay")),
            (Some(old), false) if old.id != id => return Err(wrong("its owner has another relay")),
            (Some(_), false) => {
                self.owners.remove(&owner);
                self.ids.remove(&(id, owner));
            }
            (None, true) => {
                self.owners.insert(owner, Registration { id, bond: Wei::ZERO, since: seq });
                self.ids.insert((id, owner));
            }
        }
        self.root = next_root(&self.root, seq, &owner, &id, registered);
        self.seq = seq;
        Ok(())
    }

    /// Sets what an owner has locked; whether it has a relay.
    pub fn set_bond(&mut self, owner: Address, bond: Wei) -> bool {
        let registration = self.owners.get_mut(&owner);
        registration.map(|registration| registration.bond = bond).is_some()
    }

    /// The running hash over all changes, which the contract has, too.
    pub const fn root(&self) -> B256 {
        self.root
    }

    /// The number of changes.
    pub const fn seq(&self) -> u64 {
        self.seq
    }

    /// The entry by which this owner has this relay.
    // directory.registry.2
    pub fn get(&self, id: &RelayId, owner: &Address) -> Option<&Registration> {
        self.owners.get(owner).filter(|registration| registration.id == *id)
    }

    /// Whether anyone registered this relay.
    pub fn contains(&self, id: &RelayId) -> bool {
        self.owners_of(id).next().is_some()
    }

    /// Who registered this relay.
    pub fn owners_of(&self, id: &RelayId) -> impl Iterator<Item = Address> + '_ {
        let range = (*id, Address::ZERO)..=(*id, Address::repeat_byte(0xff));
        self.ids.range(range).map(|(_, owner)| *owner)
    }

    /// All registered relays, each once, in the order of their ids.
    pub fn ids(&self) -> impl Iterator<Item = RelayId> + '_ {
        let mut last = None;
        self.ids.iter().filter_map(move |(id, _)| (last.replace(*id) != Some(*id)).then_some(*id))
    }

    /// All entries with their owners, in the order of these.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Address, &Registration)> {
        self.owners.iter()
    }
}

/// `keccak256(abi.encode(root, seq, owner, id, registered))`: five words of 32 bytes.
fn next_root(root: &B256, seq: u64, owner: &Address, id: &RelayId, registered: bool) -> B256 {
    let parts = [
        &root.0[..],
        &[0; 24],
        &seq.to_be_bytes(),
        &[0; 12],
        owner.as_slice(),
        &id.0,
        &[0; 31],
        &[registered.into()],
    ];
    keccak256(parts.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::{U256, hex};
    use alloy_sol_types::SolValue as _;
    use proptest::prelude::*;

    fn owner(n: u8) -> Address {
        Address::repeat_byte(n)
    }

    fn id(n: u8) -> RelayId {
        RelayId([n; 32])
    }

    // directory.registry.1
    #[test]
    fn the_running_hash_is_the_contracts() {
        let mut registry = Registry::default();
        registry.apply(1, owner(0xaa), id(0x11), true).unwrap();
        registry.apply(2, owner(0xbb), id(0x22), true).unwrap();
        registry.apply(3, owner(0xaa), id(0x11), false).unwrap();
        let expected = hex!("ed534b1fa373b7845b4884199caebe3154e6e8e572c40fb9d1c73173ccb525db");
        assert_eq!((registry.root(), registry.seq()), (B256::from(expected), 3));
        assert_eq!(registry.iter().map(|(owner, _)| *owner).collect::<Vec<_>>(), [owner(0xbb)]);
    }

    #[test]
    fn what_cannot_follow_changes_nothing() {
        let mut registry = Registry::default();
        registry.apply(1, owner(1), id(1), true).unwrap();
        let before = registry.clone();
        for (seq, who, what, registered, problem) in [
            (1, 2, 2, true, "next"),
            (3, 2, 2, true, "next"),
            (0, 2, 2, true, "next"),
            (2, 1, 2, true, "already"),
            (2, 1, 1, true, "already"),
            (2, 2, 1, false, "no relay"),
            (2, 1, 2, false, "another"),
        ] {
            let error = registry.apply(seq, owner(who), id(what), registered).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
            assert_eq!((error.seq, error.after), (seq, 1));
            assert_eq!(registry, before);
        }
        registry.apply(2, owner(1), id(1), false).unwrap();
        assert_eq!(registry.iter().len(), 0);
    }

    // directory.registry.2
    #[test]
    fn an_id_may_have_several_owners_and_a_bond_is_an_owners() {
        let mut registry = Registry::default();
        for (seq, who, what) in [(1, 3, 7), (2, 1, 7), (3, 2, 5), (4, 0xff, 7)] {
            registry.apply(seq, owner(who), id(what), true).unwrap();
        }
        assert_eq!(registry.owners_of(&id(7)).collect::<Vec<_>>(), [owner(1), owner(3), owner(0xff)]);
        assert_eq!(registry.ids().collect::<Vec<_>>(), [id(5), id(7)]);
        assert!(registry.set_bond(owner(1), Wei(9)) && !registry.set_bond(owner(8), Wei(9)));
        assert_eq!(
            registry.get(&id(7), &owner(1)),
            Some(&Registration { id: id(7), bond: Wei(9), since: 2 })
        );
        assert_eq!(
            registry.get(&id(7), &owner(3)).map(|entry| (entry.bond, entry.since)),
            Some((Wei::ZERO, 1))
        );
        assert_eq!((registry.get(&id(7), &owner(2)), registry.get(&id(5), &owner(1))), (None, None));
        assert!(registry.contains(&id(5)) && !registry.contains(&id(6)));
    }

    proptest! {
        // directory.registry.1
        #[test]
        fn any_changes_give_the_hash_of_their_words(
            changes in prop::collection::vec((0_u8..6, 0_u8..4, any::<bool>()), 0..40),
        ) {
            let (mut registry, mut root, mut seq) = (Registry::default(), B256::ZERO, 0_u64);
            for (who, what, registered) in changes {
                if registry.apply(seq + 1, owner(who), id(what), registered).is_err() {
                    continue;
                }
                seq += 1;
                let words = (root, U256::from(seq), owner(who), B256::from(id(what).0), registered);
                root = keccak256(words.abi_encode());
                prop_assert_eq!((registry.root(), registry.seq()), (root, seq));
            }
            let listed: usize = registry.ids().map(|id| registry.owners_of(&id).count()).sum();
            prop_assert_eq!(listed, registry.iter().len());
        }
    }
}
