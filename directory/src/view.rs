//! What a node believes of the network: the newest verified descriptor of every relay.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use alloy_primitives::Address;
use circuit::keys::{DhPublic, NetworkId, RelayId};

use crate::chain::{Chain, Wei};
use crate::descriptor::{Descriptor, Digest, SignedDescriptor, epoch};
use crate::net::is_special;
use crate::payment::Payment;
use crate::registry::{Registration, Registry};

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
    /// The most relays; whoever comes when there are so many takes the place of the last, or has none.
    most: usize,
    /// Their ranks, so that who gives way to a newcomer need not be looked for.
    ranks: BTreeSet<(Rank, RelayId)>,
    /// How many of them have a bond that suffices, and how many registered relays do.
    bonded: usize,
    expected: usize,
    /// Whether few relays are taken for all that there are.
    content: bool,
}

/// Who keeps a place in a view without room: the higher bond, and of equal ones that which was registered first.
type Rank = (Wei, Reverse<u64>);

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
    /// The view holds [`MAX_RELAYS`], none with a lower bond.
    #[error("the view is full with {MAX_RELAYS} relays, none of which has a lower bond")]
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

/// How many relays are known, of those that can be expected to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// With a descriptor and a bond that suffices.
    pub known: usize,
    /// Registered with such a bond.
    pub of: usize,
}

impl Share {
    /// Whether these are fewer than three in five: then others may be kept from us.
    // path.guard.9 operate.view.3
    pub const fn is_few(self) -> bool {
        self.known.saturating_mul(5) < self.of.saturating_mul(3)
    }
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
            most: MAX_RELAYS,
            ranks: BTreeSet::new(),
            bonded: 0,
            expected: 0,
            content: false,
        }
    }

    /// The same view, where relays are paid on this chain; if the network is the chain's open one, only what a registry
    /// lists is taken.
    #[must_use]
    pub fn with_chain(self, chain: Chain) -> Self {
        let mut view = Self { open: chain.open_network() == self.network, chain: Some(chain), ..self };
        view.recount();
        view
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

    /// Takes few relays for all that there are, or does not.
    pub const fn set_content(&mut self, content: bool) {
        self.content = content;
    }

    /// Whether few relays are taken for all that there are.
    pub const fn is_content(&self) -> bool {
        self.content
    }

    /// How many relays are known, of those whose bond suffices; `None` without a registry.
    pub fn share(&self) -> Option<Share> {
        self.registry.as_ref()?;
        Some(Share { known: self.bonded, of: self.expected.min(self.most) })
    }

    /// The bond that suffices.
    fn least(&self) -> Wei {
        self.chain.as_ref().map_or(Wei::ZERO, |chain| chain.minimum_bond)
    }

    /// Whether a registry has a relay with a bond that suffices.
    pub fn is_bonded(&self, id: &RelayId) -> bool {
        let least = self.least();
        self.registry.as_ref().is_some_and(|registry| {
            let bond = |owner| registry.get(id, &owner).map(|entry| entry.bond);
            registry.owners_of(id).filter_map(bond).any(|bond| bond >= least)
        })
    }

    /// How few relays are known, where no choice that is to last should be made among them.
    // path.guard.9
    pub fn gap(&self) -> Option<Share> {
        self.share().filter(|share| share.is_few() && !self.content)
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
        let known = self.relays.len();
        let mut relays = core::mem::take(&mut self.relays);
        relays.retain(|_, relay| self.check_registered(relay).is_ok());
        self.link_keys = relays.values().map(|relay| (relay.link_key, relay.id)).collect();
        self.relays = relays;
        self.recount();
        known - self.relays.len()
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
        if let Some((_, last)) = self.last().filter(|_| !self.relays.contains_key(&new.id)) {
            self.remove(&last);
        }
        if let Some(loser) = self.link_keys.get(&new.link_key).copied() {
            self.remove(&loser);
        }
        self.remove(&new.id);
        let rank = self.rank(&new);
        self.bonded += usize::from(rank.0 >= self.least());
        self.ranks.insert((rank, new.id));
        self.link_keys.insert(new.link_key, new.id);
        self.relays.insert(new.id, new);
        Ok(())
    }

    fn remove(&mut self, id: &RelayId) {
        let Some(relay) = self.relays.remove(id) else { return };
        self.link_keys.remove(&relay.link_key);
        let rank = self.rank(&relay);
        self.bonded -= usize::from(rank.0 >= self.least());
        self.ranks.remove(&(rank, *id));
    }

    /// Ranks and counts all anew, after a change of what this depends on.
    fn recount(&mut self) {
        let least = self.least();
        self.ranks = self.relays.values().map(|relay| (self.rank(relay), relay.id)).collect();
        self.bonded = self.ranks.iter().filter(|((bond, _), _)| *bond >= least).count();
        let entries = self.registry.iter().flat_map(|registry| registry.iter());
        let expected = entries.filter(|(_, entry)| entry.bond >= least).map(|(_, entry)| entry.id);
        self.expected = expected.collect::<BTreeSet<_>>().len();
    }

    /// Who gives way to a newcomer, if there is no room.
    fn last(&self) -> Option<(Rank, RelayId)> {
        self.ranks.first().copied().filter(|_| self.relays.len() >= self.most)
    }

    // directory.view.8
    fn rank(&self, relay: &Descriptor) -> Rank {
        let entry = self.entry(relay);
        entry.map_or((Wei::ZERO, Reverse(u64::MAX)), |entry| (entry.bond, Reverse(entry.since)))
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
            // directory.view.8
            None if self.last().is_some_and(|(last, _)| self.rank(new) <= last) => {
                return Err(NotInserted::Full);
            }
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

    /// The registry's entry of the relay of a descriptor.
    fn entry(&self, relay: &Descriptor) -> Option<&Registration> {
        let owner = relay.payment.as_ref()?.owner;
        self.registry.as_ref()?.get(&relay.id, &owner)
    }

    /// Which change of the registry registered the relay of a descriptor.
    fn since(&self, relay: &Descriptor) -> Option<u64> {
        Some(self.entry(relay)?.since)
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
        let lost: Vec<_> =
            self.relays.values().filter(|relay| relay.expires <= unix).map(|relay| relay.id).collect();
        for id in &lost {
            self.remove(id);
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
mod tests;
