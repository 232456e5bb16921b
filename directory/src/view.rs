//! What a node believes of the network: the newest verified descriptor of every relay.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use alloy_primitives::Address;
use circuit::keys::{DhPublic, NetworkId, RelayId};

use crate::chain::{Chain, Wei};
use crate::descriptor::{Descriptor, Digest, SignedDescriptor, epoch};
use crate::net::is_special;
use crate::payment::Payment;
use crate::registry::Registry;

/// The most relays in one view.
pub const MAX_RELAYS: usize = 16_384;

/// Verified relays of one network, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    network: NetworkId,
    chain: Option<Chain>,
    /// Whether only what is registered is taken.
    open: bool,
    /// Whether addresses with a special purpose are taken all the same.
    local: bool,
    registry: Option<Arc<Registry>>,
    relays: BTreeMap<RelayId, Arc<SignedDescriptor>>,
    link_keys: BTreeMap<DhPublic, RelayId>,
}

/// Why a descriptor did not enter the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInserted {
    /// It is of another network.
    #[error("the descriptor belongs to the network {0}")]
    OtherNetwork(NetworkId),
    /// The view has a newer one.
    #[error("a descriptor with the newer sequence number {0} is known")]
    Older(u64),
    /// The view has another one with the same sequence number.
    #[error("a different descriptor with the same sequence number {0} is known: the relay must count up")]
    SameSequence(u64),
    /// Another relay has this link key.
    #[error("relay {0} has the same link key: every relay needs a link key of its own")]
    LinkKeyTaken(RelayId),
    /// Nobody registered it.
    #[error("the relay is not registered: its operator must register it at the contract")]
    Unregistered,
    /// Who registered it is not the owner that the descriptor names.
    #[error(
        "the account that the descriptor names did not register this relay: its operator must name the right one"
    )]
    OtherOwner,
    /// It names an address that is not on the public internet.
    #[error("its address {0} is not on the public internet: its operator must name one that is")]
    Special(IpAddr),
    /// The view holds [`MAX_RELAYS`].
    #[error("the view is full with {MAX_RELAYS} relays")]
    Full,
}

/// Why a relay cannot be used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Unfit {
    /// Nobody registered it.
    #[error("this relay is not registered")]
    Unregistered,
    /// No descriptor of it is known.
    #[error("no descriptor of this relay is known")]
    Missing,
    /// Its owner has locked less than the network asks for.
    #[error("its bond of {bond} wei is below this network's minimum of {minimum} wei")]
    BondTooLow {
        /// Its bond.
        bond: Wei,
        /// The network's minimum.
        minimum: Wei,
    },
    /// Its descriptor is no longer valid.
    #[error("its descriptor expired at unix time {at}")]
    Expired {
        /// Its expiry in unix seconds.
        at: u64,
    },
    /// Its descriptor has no onion key for the present epoch.
    #[error("its descriptor has no onion key for epoch {epoch}")]
    NoOnionKey {
        /// The present epoch.
        epoch: u32,
    },
    /// It is paid nowhere, on a paid network.
    #[error(
        "its descriptor names no account to be paid, and this network is paid: its operator must make a new one"
    )]
    NoPayment,
    /// It is paid elsewhere than the relays of this network are.
    #[error(
        "its descriptor asks to be paid on chain {chain_id} by the contract {contract}, which is not where this network pays"
    )]
    PaidElsewhere {
        /// The chain it names.
        chain_id: u64,
        /// The contract it names.
        contract: Address,
    },
}

/// How many relays a view has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Registered; `None` without a registry.
    pub registered: Option<usize>,
    /// With a descriptor.
    pub known: usize,
    /// Which a path may use.
    pub usable: usize,
    /// Registered, without a descriptor.
    pub missing: usize,
    /// Whose descriptor has expired or has no onion key for the present epoch.
    pub stale: usize,
    /// Whose bond is too low.
    pub poor: usize,
    /// Which are paid nowhere, or elsewhere.
    pub paid_elsewhere: usize,
}

impl View {
    /// An empty view of a free network.
    pub const fn new(network: NetworkId) -> Self {
        Self {
            network,
            chain: None,
            open: false,
            local: false,
            registry: None,
            relays: BTreeMap::new(),
            link_keys: BTreeMap::new(),
        }
    }

    /// The same view, where relays are paid on this chain; if the network is the chain's open one, only what a registry
    /// lists is taken.
    #[must_use]
    pub fn with_chain(self, chain: Chain) -> Self {
        Self { open: chain.open_network() == self.network, chain: Some(chain), ..self }
    }

    /// The same view of a network that need not be on the public internet: relays may have private addresses.
    #[must_use]
    pub fn with_local(self, local: bool) -> Self {
        Self { local, ..self }
    }

    /// Whether relays may have private addresses: those of a list that somebody signs may.
    pub const fn is_local(&self) -> bool {
        self.local || !self.open
    }

    /// The network that is viewed.
    pub const fn network(&self) -> NetworkId {
        self.network
    }

    /// Where relays are paid; `None` if the network is free.
    pub const fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// Where a relay is paid and what it asks.
    pub fn payment(&self, id: &RelayId) -> Option<&Payment> {
        self.get(id)?.payment.as_ref()
    }

    /// Believes a registry from now on: descriptors of relays that it does not list are dropped, and how many these were.
    // directory.view.5
    pub fn set_registry(&mut self, registry: Arc<Registry>) -> usize {
        self.registry = Some(registry);
        self.keep(|view, relay| view.check_registered(relay).is_ok())
    }

    /// The registry that is believed, if the network has one.
    pub const fn registry(&self) -> Option<&Arc<Registry>> {
        self.registry.as_ref()
    }

    /// Takes a descriptor if it is the newest of its relay; the same one again changes nothing.
    pub fn insert(&mut self, new: impl Into<Arc<SignedDescriptor>>) -> Result<(), NotInserted> {
        let new = new.into();
        if !self.is_news(&new, new.digest(), new.holds_link_key())? {
            return Ok(());
        }
        if let Some(loser) = self.link_keys.insert(new.link_key, new.id).filter(|loser| *loser != new.id) {
            self.relays.remove(&loser);
        }
        let (id, link_key) = (new.id, new.link_key);
        if let Some(old) = self.relays.insert(id, new).filter(|old| old.link_key != link_key) {
            self.link_keys.remove(&old.link_key);
        }
        Ok(())
    }

    /// Whether a descriptor would change the view if its signature is right, or why it cannot enter.
    // directory.view.1
    pub(crate) fn is_news(
        &self,
        new: &Descriptor,
        digest: &Digest,
        holds_link_key: bool,
    ) -> Result<bool, NotInserted> {
        if new.network != self.network {
            return Err(NotInserted::OtherNetwork(new.network));
        }
        self.check_registered(new)?;
        // directory.view.7
        if let Some(address) =
            new.addresses.iter().find(|address| !self.is_local() && is_special(address.ip()))
        {
            return Err(NotInserted::Special(address.ip()));
        }
        match self.relays.get(&new.id) {
            Some(old) if old.digest() == digest => return Ok(false),
            Some(old) if old.sequence > new.sequence => return Err(NotInserted::Older(old.sequence)),
            Some(old) if old.sequence == new.sequence && old.digest() < digest => {
                return Err(NotInserted::SameSequence(old.sequence));
            }
            None if self.relays.len() >= MAX_RELAYS => return Err(NotInserted::Full),
            Some(_) | None => {}
        }
        // directory.view.2
        let other = self.link_keys.get(&new.link_key).filter(|other| **other != new.id);
        let Some(other) = other.and_then(|other| self.get(other)) else { return Ok(true) };
        let wins = match (holds_link_key, other.holds_link_key()) {
            (true, false) => true,
            (false, true) => false,
            _ => self.since(new) < self.since(other),
        };
        if wins { Ok(true) } else { Err(NotInserted::LinkKeyTaken(other.id)) }
    }

    /// Which change of the registry registered the relay of a descriptor.
    fn since(&self, relay: &Descriptor) -> Option<u64> {
        let owner = relay.payment.as_ref()?.owner;
        Some(self.registry.as_ref()?.get(&relay.id, &owner)?.since)
    }

    /// Whether the owner that a descriptor names registered its relay, where there is a registry.
    fn check_registered(&self, relay: &Descriptor) -> Result<(), NotInserted> {
        let Some(registry) = &self.registry else {
            return if self.open { Err(NotInserted::Unregistered) } else { Ok(()) };
        };
        match &relay.payment {
            _ if !registry.contains(&relay.id) => Err(NotInserted::Unregistered),
            Some(paid) if registry.get(&relay.id, &paid.owner).is_some() => Ok(()),
            _ => Err(NotInserted::OtherOwner),
        }
    }

    /// Drops the descriptors that are no longer valid at `unix` (seconds), and how many these were.
    pub fn expire(&mut self, unix: u64) -> usize {
        self.keep(|_, relay| relay.expires > unix)
    }

    fn keep(&mut self, keeps: impl Fn(&Self, &Descriptor) -> bool) -> usize {
        let lost: Vec<_> = self
            .relays
            .values()
            .filter(|relay| !keeps(self, relay))
            .map(|relay| (relay.id, relay.link_key))
            .collect();
        for (id, link_key) in &lost {
            self.relays.remove(id);
            self.link_keys.remove(link_key);
        }
        lost.len()
    }

    /// The descriptor of a relay, valid or not.
    pub fn get(&self, id: &RelayId) -> Option<&SignedDescriptor> {
        self.relays.get(id).map(Arc::as_ref)
    }

    /// All descriptors, valid or not, in the order of their ids.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &SignedDescriptor> + Clone {
        self.relays.values().map(Arc::as_ref)
    }

    /// The same, to be kept.
    pub fn shared(&self) -> impl ExactSizeIterator<Item = &Arc<SignedDescriptor>> + Clone {
        self.relays.values()
    }

    /// The onion key of a relay for an epoch.
    pub fn onion_key(&self, id: &RelayId, epoch: u32) -> Option<&DhPublic> {
        self.get(id)?.onion_key(epoch)
    }

    /// The relays that say they serve a port as exits, valid or not, in the order of their ids.
    pub fn exits_for_port(&self, port: u16) -> impl Iterator<Item = &SignedDescriptor> + Clone {
        self.iter().filter(move |relay| relay.exit.as_ref().is_some_and(|exit| exit.accepts(port)))
    }

    /// The descriptor of a relay if it can be used at `unix` (seconds), or why it cannot.
    // directory.view.3
    pub fn usable(&self, id: &RelayId, unix: u64) -> Result<&SignedDescriptor, Unfit> {
        // directory.view.5
        let registered = self.registry.as_ref().is_none_or(|registry| registry.contains(id));
        let relay = self.get(id).ok_or(if registered { Unfit::Missing } else { Unfit::Unregistered })?;
        if relay.expires <= unix {
            return Err(Unfit::Expired { at: relay.expires });
        }
        let epoch = epoch(unix);
        relay.onion_key(epoch).ok_or(Unfit::NoOnionKey { epoch })?;
        // directory.view.4
        match (&self.chain, relay.payment) {
            (None, None) => Ok(relay),
            (Some(chain), Some(payment)) if chain.pays(&payment) => {
                self.check_bond(chain, relay, &payment.owner)
            }
            (Some(_), None) => Err(Unfit::NoPayment),
            (_, Some(Payment { chain_id, contract, .. })) => Err(Unfit::PaidElsewhere { chain_id, contract }),
        }
    }

    // directory.view.6
    fn check_bond<'a>(
        &self,
        chain: &Chain,
        relay: &'a SignedDescriptor,
        owner: &Address,
    ) -> Result<&'a SignedDescriptor, Unfit> {
        let Some(registry) = &self.registry else { return Ok(relay) };
        let bond = registry.get(&relay.id, owner).ok_or(Unfit::Unregistered)?.bond;
        let minimum = chain.minimum_bond;
        if bond < minimum { Err(Unfit::BondTooLow { bond, minimum }) } else { Ok(relay) }
    }

    /// The relays that cannot be used at `unix` (seconds), in the order of their ids, with the reasons; those that are
    /// registered and of which nothing is known are among them.
    pub fn unfit(&self, unix: u64) -> impl Iterator<Item = (RelayId, Unfit)> + '_ {
        let registered = self.registry.iter().flat_map(|registry| registry.ids());
        // With a registry, what is known is a part of what is registered.
        let known = self.relays.keys().copied().filter(|_| self.registry.is_none());
        registered.chain(known).filter_map(move |id| Some((id, self.usable(&id, unix).err()?)))
    }

    /// How many registered relays have no descriptor.
    pub fn missing(&self) -> usize {
        // What is known is a part of what is registered.
        self.registry.as_ref().map_or(0, |registry| registry.ids().count().saturating_sub(self.relays.len()))
    }

    /// How many relays there are at `unix` (seconds), and how many cannot be used for which reason.
    pub fn count(&self, unix: u64) -> Count {
        let registered = self.registry.as_ref().map(|registry| registry.ids().count());
        let mut count = Count { registered, known: self.relays.len(), ..Count::default() };
        for (_, reason) in self.unfit(unix) {
            let of = match reason {
                Unfit::Missing | Unfit::Unregistered => &mut count.missing,
                Unfit::Expired { .. } | Unfit::NoOnionKey { .. } => &mut count.stale,
                Unfit::BondTooLow { .. } => &mut count.poor,
                Unfit::NoPayment | Unfit::PaidElsewhere { .. } => &mut count.paid_elsewhere,
            };
            *of += 1;
        }
        count.usable = count.known.saturating_sub(count.stale + count.poor + count.paid_elsewhere);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{Descriptor, EPOCH_SECONDS};
    use crate::sample::{FIRST_EPOCH, NETWORK, NOW, chain, descriptor, identity, payment, signed};

    fn with(n: u8, change: impl FnOnce(&mut Descriptor)) -> SignedDescriptor {
        let mut new = descriptor(n);
        change(&mut new);
        SignedDescriptor::sign(new, &identity(n)).unwrap()
    }

    fn view(relays: &[u8]) -> View {
        let mut view = View::new(NETWORK);
        for n in relays {
            view.insert(signed(*n)).unwrap();
        }
        view
    }

    #[test]
    fn the_order_does_not_depend_on_the_order_of_insertion() {
        let view_a = view(&[1, 2, 3, 4]);
        assert_eq!(view_a, view(&[3, 4, 2, 1]));
        let ids: Vec<_> = view_a.iter().map(|relay| relay.id).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids.len(), 4);
    }

    // directory.view.1
    #[test]
    fn the_newest_sequence_wins() {
        let mut view = view(&[1]);
        let before = view.clone();
        assert_eq!(view.insert(signed(1)), Ok(()));
        assert_eq!(view.insert(with(1, |d| d.sequence = 6)), Err(NotInserted::Older(7)));
        assert_eq!(view, before);
        // Of two with one number the smaller digest wins, whichever comes first.
        let other = with(1, |d| d.operator.clear());
        let (smaller, larger) =
            if other.digest() < signed(1).digest() { (other, signed(1)) } else { (signed(1), other) };
        for order in [[&smaller, &larger], [&larger, &smaller]] {
            let mut view = View::new(NETWORK);
            let results = order.map(|relay| view.insert(relay.clone()));
            let second = if order[0] == &smaller { Err(NotInserted::SameSequence(7)) } else { Ok(()) };
            assert_eq!((results, view.get(&smaller.id)), ([Ok(()), second], Some(&smaller)));
        }
        let newer = with(1, |d| d.sequence = 8);
        assert_eq!(view.insert(newer.clone()), Ok(()));
        assert_eq!(view.get(&newer.id), Some(&newer));
        assert_eq!(view.insert(signed(1)), Err(NotInserted::Older(8)));
    }

    // directory.view.2
    #[test]
    fn a_link_key_has_one_owner_until_the_owner_leaves_it() {
        let mut view = view(&[1]);
        let second = with(2, |d| d.link_key = DhPublic([1; 32]));
        assert_eq!(view.insert(second.clone()), Err(NotInserted::LinkKeyTaken(identity(1).id())));
        assert_eq!(view.iter().len(), 1);
        view.insert(with(1, |d| {
            d.sequence = 8;
            d.link_key = DhPublic([9; 32]);
        }))
        .unwrap();
        assert_eq!(view.insert(second), Ok(()));
        let back = with(1, |d| d.sequence = 9);
        assert_eq!(view.insert(back), Err(NotInserted::LinkKeyTaken(identity(2).id())));
    }

    #[test]
    fn another_network_and_a_relay_too_many_are_refused() {
        let mut view = view(&[1]);
        let other = NetworkId([0x22; 16]);
        assert_eq!(view.insert(with(2, |d| d.network = other)), Err(NotInserted::OtherNetwork(other)));
        let filler = Arc::new(signed(1));
        for n in 1..MAX_RELAYS {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_be_bytes());
            view.relays.insert(RelayId(id), Arc::clone(&filler));
        }
        assert_eq!(view.insert(signed(3)), Err(NotInserted::Full));
        assert_eq!(view.insert(with(1, |d| d.sequence = 8)), Ok(()));
    }

    #[test]
    fn onion_keys_and_exits_are_found() {
        let view = view(&[1, 2, 3]);
        let id = identity(2).id();
        assert_eq!(view.onion_key(&id, FIRST_EPOCH), Some(&DhPublic([2 ^ 0x40; 32])));
        assert_eq!(view.onion_key(&id, FIRST_EPOCH + 1), Some(&DhPublic([2 ^ 0x80; 32])));
        assert_eq!(view.onion_key(&id, FIRST_EPOCH + 2), None);
        assert_eq!(view.onion_key(&id, FIRST_EPOCH - 1), None);
        assert_eq!(view.onion_key(&RelayId([0; 32]), FIRST_EPOCH), None);
        let mut exits = [identity(1).id(), identity(3).id()];
        exits.sort();
        assert!(view.exits_for_port(443).map(|relay| relay.id).eq(exits));
        assert_eq!(view.exits_for_port(25).count(), 0);
    }

    // directory.view.3
    #[test]
    fn what_cannot_be_used_has_a_reason() {
        let mut view = view(&[1]);
        let early = with(2, |d| d.first_epoch += 1);
        let short = with(3, |d| d.expires = NOW + 1);
        let (early_id, short_id) = (early.id, short.id);
        view.insert(early).unwrap();
        view.insert(short).unwrap();
        assert!(view.usable(&identity(1).id(), NOW).is_ok());
        assert!(view.usable(&short_id, NOW).is_ok());
        assert_eq!(view.usable(&RelayId([0; 32]), NOW), Err(Unfit::Missing));
        let mut expected = [
            (early_id, Unfit::NoOnionKey { epoch: FIRST_EPOCH }),
            (short_id, Unfit::Expired { at: NOW + 1 }),
        ];
        expected.sort();
        assert!(view.unfit(NOW + 1).eq(expected));
        assert!(view.usable(&early_id, NOW + EPOCH_SECONDS - 1).is_ok());
    }

    // directory.view.2
    #[test]
    fn who_proves_a_link_key_has_it_whoever_came_first() {
        let link = circuit::keys::DhSecret::from_bytes([9; 32]);
        let describe =
            |n: u8| Descriptor { payment: Some(payment(n)), link_key: link.public(), ..descriptor(n) };
        let thief = SignedDescriptor::sign(describe(1), &identity(1)).unwrap();
        let holder = SignedDescriptor::prove(describe(2), &identity(2), &link).unwrap();
        // The thief registered first, and so did not have to know whose key he would take.
        let mut first = View::new(NETWORK).with_chain(chain());
        first.set_registry(Arc::new(registry(&[1, 2])));
        let mut second = first.clone();
        first.insert(thief.clone()).unwrap();
        first.insert(holder.clone()).unwrap();
        assert_eq!(first.insert(thief.clone()), Err(NotInserted::LinkKeyTaken(holder.id)));
        second.insert(holder.clone()).unwrap();
        assert_eq!(second.insert(thief), Err(NotInserted::LinkKeyTaken(holder.id)));
        assert!(first == second && first.iter().map(|relay| relay.id).eq([holder.id]));
        // Of two that prove it, both of one hand, the first to register has it.
        let other = SignedDescriptor::prove(describe(1), &identity(1), &link).unwrap();
        first.insert(other.clone()).unwrap();
        assert_eq!(first.insert(holder), Err(NotInserted::LinkKeyTaken(other.id)));
    }

    // directory.view.4
    #[test]
    fn who_is_paid_elsewhere_or_nowhere_is_unfit() {
        let id = |n| identity(n).id();
        let mut view = view(&[1]).with_chain(chain());
        view.insert(with(2, |d| d.payment = Some(payment(2)))).unwrap();
        view.insert(with(3, |d| d.payment = Some(Payment { chain_id: 9, ..payment(3) }))).unwrap();
        let contract = Address::repeat_byte(9);
        view.insert(with(4, |d| d.payment = Some(Payment { contract, ..payment(4) }))).unwrap();
        assert_eq!(view.usable(&id(1), NOW), Err(Unfit::NoPayment));
        assert!(view.usable(&id(2), NOW).is_ok());
        let elsewhere = |chain_id, contract| Err(Unfit::PaidElsewhere { chain_id, contract });
        assert_eq!(view.usable(&id(3), NOW), elsewhere(9, chain().contract));
        assert_eq!(view.usable(&id(4), NOW), elsewhere(chain().id, contract));
        assert_eq!(view.payment(&id(4)).map(|payment| payment.contract), Some(contract));
        assert_eq!((view.payment(&id(1)), view.chain()), (None, Some(&chain())));
        // On a free network nobody is paid.
        let mut free = View::new(NETWORK);
        free.insert(with(2, |d| d.payment = Some(payment(2)))).unwrap();
        assert_eq!(free.usable(&id(2), NOW), elsewhere(chain().id, chain().contract));
        assert_eq!(free.unfit(NOW).count(), 1);
    }

    fn registry(owners: &[u8]) -> Registry {
        let mut registry = Registry::default();
        for (seq, n) in (1..).zip(owners) {
            registry.apply(seq, payment(*n).owner, identity(*n).id(), true).unwrap();
            registry.set_bond(payment(*n).owner, chain().minimum_bond);
        }
        registry
    }

    fn paid(n: u8) -> SignedDescriptor {
        with(n, |d| d.payment = Some(payment(n)))
    }

    // directory.view.5
    #[test]
    fn only_what_its_owner_registered_is_in_the_view() {
        let id = |n| identity(n).id();
        let mut open = View::new(chain().open_network()).with_chain(chain()).with_local(true);
        let early = with(1, |d| (d.network, d.payment) = (open.network(), Some(payment(1))));
        assert_eq!(open.insert(early.clone()), Err(NotInserted::Unregistered));
        open.set_registry(Arc::new(registry(&[1, 4])));
        assert_eq!((open.insert(early), open.missing()), (Ok(()), 1));
        let mut view = View::new(NETWORK).with_chain(chain());
        view.insert(paid(1)).unwrap();
        view.insert(paid(2)).unwrap();
        view.insert(signed(3)).unwrap();
        assert_eq!(view.set_registry(Arc::new(registry(&[1, 3, 4]))), 2);
        assert!(view.iter().map(|relay| relay.id).eq([id(1)]));
        assert_eq!(view.usable(&id(2), NOW), Err(Unfit::Unregistered));
        assert_eq!(view.usable(&id(3), NOW), Err(Unfit::Missing));
        assert_eq!(view.insert(paid(2)), Err(NotInserted::Unregistered));
        assert_eq!(view.insert(signed(3)), Err(NotInserted::OtherOwner));
        let other = with(3, |d| d.payment = Some(Payment { owner: payment(4).owner, ..payment(3) }));
        assert_eq!(view.insert(other), Err(NotInserted::OtherOwner));
        assert_eq!(view.insert(paid(3)), Ok(()));
        // A link key is free again when its relay has left.
        view.set_registry(Arc::new(registry(&[2, 3])));
        assert_eq!(
            view.insert(with(2, |d| (d.payment, d.link_key) = (Some(payment(2)), DhPublic([1; 32])))),
            Ok(())
        );
    }

    // directory.view.7
    #[test]
    fn a_relay_of_an_open_network_is_on_the_public_internet() {
        let open = View::new(chain().open_network()).with_chain(chain());
        let at = |addresses: &[&str]| {
            with(1, |d| {
                (d.network, d.payment) = (chain().open_network(), Some(payment(1)));
                d.addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
            })
        };
        let insert = |view: &View, addresses: &[&str]| {
            let mut view = view.clone();
            view.set_registry(Arc::new(registry(&[1])));
            view.insert(at(addresses))
        };
        assert_eq!(insert(&open, &["93.184.216.34:1", "[2a00:1450::1]:1"]), Ok(()));
        for private in
            ["127.0.0.1:1", "10.0.0.1:1", "169.254.169.254:80", "[fd00::1]:1", "[64:ff9b::a00:1]:1"]
        {
            let refused = insert(&open, &["93.184.216.34:1", private]);
            assert!(matches!(refused, Err(NotInserted::Special(_))), "{private} {refused:?}");
            assert_eq!(insert(&open.clone().with_local(true), &[private]), Ok(()));
        }
        assert!(!open.is_local() && View::new(NETWORK).with_chain(chain()).is_local(), "a list is signed");
    }

    // directory.view.6
    #[test]
    fn a_bond_below_the_minimum_is_a_reason_and_all_are_counted() {
        let mut registry = registry(&[1, 2, 3, 4, 5]);
        registry.set_bond(payment(2).owner, Wei(5));
        let mut view = View::new(NETWORK).with_chain(chain());
        view.set_registry(Arc::new(registry));
        view.insert(paid(1)).unwrap();
        view.insert(paid(2)).unwrap();
        view.insert(with(3, |d| (d.payment, d.expires) = (Some(payment(3)), NOW + 1))).unwrap();
        view.insert(with(4, |d| d.payment = Some(Payment { chain_id: 9, ..payment(4) }))).unwrap();
        let poor = Unfit::BondTooLow { bond: Wei(5), minimum: chain().minimum_bond };
        assert_eq!(view.usable(&identity(2).id(), NOW), Err(poor));
        let count = view.count(NOW + 1);
        let expected = Count {
            registered: Some(5),
            known: 4,
            usable: 1,
            missing: 1,
            stale: 1,
            poor: 1,
            paid_elsewhere: 1,
        };
        assert_eq!(count, expected);
        assert_eq!(view.unfit(NOW + 1).count(), 4);
        assert!(view.unfit(NOW + 1).map(|(id, _)| id).is_sorted());
        assert_eq!(view.expire(NOW + 1), 1);
        assert_eq!((view.count(NOW + 1).missing, view.missing(), view.count(NOW + 1).stale), (2, 2, 0));
        let free = View::new(NETWORK).count(NOW);
        assert_eq!(free, Count::default());
    }
}
