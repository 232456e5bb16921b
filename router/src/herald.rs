//! What a relay of an open network says of itself and when, and the onion keys that belong to it
//! (docs/spec/07-operation.md section 1).
//!
//! Pure: [`Herald::poll`] says what is to be done next. What must be on disk before it is used comes first, and waits for
//! [`Herald::kept`].

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use circuit::error::Malformed;
use circuit::keys::{DhPublic, DhSecret, IdentitySecret, NetworkId, Random, RelayId};
use directory::descriptor::{Descriptor, EPOCH_SECONDS, SignedDescriptor, epoch};
use directory::exit_summary::ExitSummary;
use directory::payment::Payment;

/// How long after its epoch an onion key is still used.
const GRACE: u64 = 300;
/// Two descriptors are so far apart.
const GAP: u64 = 10;
/// What could not be written is tried again after so long.
const AGAIN: u64 = 10;
/// The part of an epoch in which relays publish.
const SPREAD: u64 = EPOCH_SECONDS / 2;

/// What a relay says of itself beside its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where it receives links.
    pub addresses: Vec<SocketAddr>,
    /// The ports that it serves as an exit, if it is one.
    pub exit: Option<ExitSummary>,
    /// The country it says it is in.
    pub country: Option<[u8; 2]>,
    /// Who runs it.
    pub operator: String,
    /// What it runs.
    pub version: String,
    /// What it says it carries, in kB (1,000 bytes) per second; 0 if it does not say.
    pub bandwidth: u32,
    /// Its TCP port for gossip.
    pub gossip_port: u16,
    /// Where it is paid and what it asks.
    pub payment: Option<Payment>,
}

/// Who a relay is, and what it has kept.
#[derive(Debug)]
pub struct HeraldConfig {
    /// Signs what it says.
    pub identity: IdentitySecret,
    /// Its network.
    pub network: NetworkId,
    /// The key of its links.
    pub link: DhSecret,
    /// Its onion keys as they are on disk, by epoch.
    pub keys: BTreeMap<u32, DhSecret>,
    /// The last sequence number on disk.
    pub sequence: u64,
}

/// What is to be done.
#[derive(Debug)]
pub enum Act {
    /// Write to the disk, then call [`Herald::kept`].
    Keep {
        /// All onion keys, if they have changed.
        keys: Option<BTreeMap<u32, DhSecret>>,
        /// The last sequence number.
        sequence: u64,
    },
    /// Have the relay take setups with these keys.
    Use(BTreeMap<u32, DhSecret>),
    /// Tell the network.
    Publish(Box<SignedDescriptor>),
}

/// What waits for the disk.
#[derive(Debug)]
struct Draft {
    /// If they have changed.
    keys: Option<BTreeMap<u32, DhSecret>>,
    sequence: u64,
    descriptor: Option<Box<SignedDescriptor>>,
}

/// Says what a relay is to publish, and makes its onion keys.
#[derive(Debug)]
pub struct Herald {
    identity: IdentitySecret,
    id: RelayId,
    network: NetworkId,
    link: DhSecret,
    keys: BTreeMap<u32, DhSecret>,
    sequence: u64,
    facts: Facts,
    /// What was published last: its first epoch, what it said, and when.
    said: Option<(u32, Facts, u64)>,
    draft: Option<Draft>,
    acts: VecDeque<Act>,
    silent: bool,
    /// The disk is not tried before.
    again: u64,
    rng: Random,
}

impl Herald {
    /// Has published nothing yet; refuses what no descriptor may say.
    pub fn new(config: HeraldConfig, facts: Facts, rng: Random) -> Result<Self, Malformed> {
        let HeraldConfig { identity, network, link, keys, sequence } = config;
        let mut herald = Self {
            id: identity.id(),
            identity,
            network,
            link,
            keys,
            sequence,
            facts: facts.clone(),
            said: None,
            draft: None,
            acts: VecDeque::new(),
            silent: false,
            again: 0,
            rng,
        };
        herald.set_facts(facts)?;
        Ok(herald)
    }

    /// What is to be said from now on; refused and left as it was if no descriptor may say it.
    pub fn set_facts(&mut self, facts: Facts) -> Result<(), Malformed> {
        let key = DhPublic([0; 32]);
        self.sign(&facts, 0, 0, vec![key; 2], 1)?;
        self.facts = facts;
        Ok(())
    }

    /// Whether nothing is published from now on, as by a relay that drains; keys are made all the same.
    // operate.drain.1
    pub const fn set_silent(&mut self, silent: bool) {
        self.silent = silent;
    }

    /// The next thing to be done at `unix` (seconds).
    pub fn poll(&mut self, unix: u64) -> Option<Act> {
        // circuit.setup.9
        self.keys.retain(|epoch, _| ends(*epoch) + GRACE > unix);
        if let Some(act) = self.acts.pop_front() {
            return Some(act);
        }
        if self.draft.is_some() || unix < self.again {
            return None;
        }
        // operate.keys.1
        let wanted = [epoch(unix), epoch(unix).saturating_add(1)];
        let lacks = wanted.iter().any(|epoch| !self.keys.contains_key(epoch));
        let due = self.due(unix) <= unix;
        if !lacks && !due {
            return None;
        }
        let mut keys = self.keys.clone();
        for epoch in wanted {
            // operate.keys.3
            keys.entry(epoch).or_insert_with(|| DhSecret::random(&mut self.rng));
        }
        // operate.publish.1
        let sequence = if due { unix.max(self.sequence.saturating_add(1)) } else { self.sequence };
        let descriptor = if due {
            // operate.publish.3
            let public = wanted.iter().filter_map(|epoch| keys.get(epoch)).map(DhSecret::public).collect();
            self.sign(&self.facts, epoch(unix), unix, public, sequence).ok().map(Box::new)
        } else {
            None
        };
        let keys = lacks.then_some(keys);
        self.draft = Some(Draft { keys: keys.clone(), sequence, descriptor });
        Some(Act::Keep { keys, sequence })
    }

    /// What [`Act::Keep`] asked for is on disk, or is not.
    // operate.keys.2
    pub fn kept(&mut self, unix: u64, on_disk: bool) {
        let Some(draft) = self.draft.take() else { return };
        if !on_disk {
            self.again = unix.saturating_add(AGAIN);
            return;
        }
        self.sequence = draft.sequence;
        if let Some(keys) = draft.keys {
            self.keys.clone_from(&keys);
            self.acts.push_back(Act::Use(keys));
        }
        if let Some(descriptor) = draft.descriptor {
            let facts = Facts {
                addresses: descriptor.addresses.clone(),
                exit: descriptor.exit.clone(),
                country: descriptor.country,
                operator: descriptor.operator.clone(),
                version: descriptor.version.clone(),
                bandwidth: descriptor.bandwidth,
                gossip_port: descriptor.gossip_port,
                payment: descriptor.payment,
            };
            self.said = Some((descriptor.first_epoch, facts, unix));
            self.acts.push_back(Act::Publish(descriptor));
        }
    }

    /// When [`Herald::poll`] may have something to do, in unix seconds.
    pub fn poll_timeout(&self, unix: u64) -> u64 {
        if !self.acts.is_empty() {
            return unix;
        }
        let made = self.keys.keys().next_back().map_or(0, |last| u64::from(*last) * EPOCH_SECONDS);
        let erased = self.keys.keys().next().map(|first| ends(*first) + GRACE);
        let next = self.due(unix).min(made).max(self.again);
        erased.map_or(next, |erased| erased.min(next))
    }

    /// When a descriptor is to be published.
    // operate.publish.2
    fn due(&self, unix: u64) -> u64 {
        if self.silent {
            return u64::MAX;
        }
        let Some((first, facts, at)) = &self.said else { return unix };
        let now = epoch(unix);
        // Before its time only what was missed: a machine that slept, a clock that was wrong.
        let missed = *first > now || first.saturating_add(1) < now;
        if missed || *facts != self.facts {
            return if *at > unix { unix } else { at.saturating_add(GAP) };
        }
        let moment = u64::from_be_bytes(self.id.0.first_chunk().copied().unwrap_or_default()) % SPREAD;
        ends(*first).saturating_add(moment)
    }

    fn sign(
        &self,
        facts: &Facts,
        first_epoch: u32,
        issued: u64,
        onion_keys: Vec<DhPublic>,
        sequence: u64,
    ) -> Result<SignedDescriptor, Malformed> {
        let descriptor = Descriptor {
            id: self.id,
            network: self.network,
            sequence,
            issued,
            expires: ends(first_epoch.saturating_add(1)),
            link_key: self.link.public(),
            first_epoch,
            onion_keys,
            addresses: facts.addresses.clone(),
            exit: facts.exit.clone(),
            country: facts.country,
            operator: facts.operator.clone(),
            version: facts.version.clone(),
            bandwidth: facts.bandwidth,
            gossip_port: facts.gossip_port,
            payment: facts.payment,
        };
        // directory.link.1
        SignedDescriptor::prove(descriptor, &self.identity, &self.link)
    }
}

/// When an epoch is over.
fn ends(epoch: u32) -> u64 {
    (u64::from(epoch) + 1) * EPOCH_SECONDS
}

#[cfg(test)]
mod tests;
