//! Who makes us work, and how much of it (docs/spec/04-directory.md section 6).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use circuit::keys::RelayId;
use circuit::link::place;

use crate::limit::{Bucket, Buckets, Rate};

/// The most peers and prefixes that are remembered.
pub const MAX_PEERS: usize = 1_024;
/// The most relays whose updates are counted.
pub const MAX_IDS: usize = 4_096;
/// How long nothing is taken from a peer that passed on a forged descriptor.
pub const BLOCKED: Duration = Duration::from_hours(1);

/// Signatures of one peer, of one prefix, and of all together, that are checked unasked.
const PEER_CHECKS: Rate = Rate { burst: 256, every: Duration::from_millis(100) };
const PREFIX_CHECKS: Rate = Rate { burst: 1_024, every: Duration::from_millis(25) };
const ALL_CHECKS: Rate = Rate { burst: 4_096, every: Duration::from_millis(2) };
/// Requests that are answered: of one prefix or circuit, of all circuits together, and of everybody.
const REQUESTS: Rate = Rate { burst: 64, every: Duration::from_millis(500) };
const CIRCUIT_REQUESTS: Rate = Rate { burst: 1_024, every: Duration::from_millis(20) };
const ALL_REQUESTS: Rate = Rate { burst: 4_096, every: Duration::from_millis(5) };
/// KiB that everybody is answered; that one /16 (IPv4) or /32 (IPv6) is, an eighth; and that all circuits together are, a half.
const ALL_ANSWERS: Rate = Rate { burst: 65_536, every: Duration::from_micros(250) };
const SUBNET_ANSWERS: Rate = Rate { burst: 8_192, every: Duration::from_millis(2) };
const CIRCUIT_ANSWERS: Rate = Rate { burst: 32_768, every: Duration::from_micros(500) };
/// What a KiB is.
const KIB: usize = 1_024;
/// Descriptors of one relay that are taken.
const UPDATES: Rate = Rate { burst: 8, every: Duration::from_mins(10) };

/// What a peer is known by: a hash of its name, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerKey {
    id: [u8; 32],
    prefix: u64,
    /// The /16 (IPv4) or /32 (IPv6) of its address.
    subnet: u64,
    /// It asks through a circuit, whose number the prefix is.
    circuit: bool,
}

impl PeerKey {
    /// The peer of this name at this address; its /24 (IPv4) or /48 (IPv6) counts.
    pub fn new(id: [u8; 32], address: IpAddr) -> Self {
        let prefix = match address.to_canonical() {
            IpAddr::V4(ip) => 4 << 48 | u64::from(ip.to_bits() >> 8),
            IpAddr::V6(ip) => 6 << 48 | u64::try_from(ip.to_bits() >> 80).unwrap_or(0),
        };
        Self { id, prefix, subnet: place(address), circuit: false }
    }

    /// Whoever asks through this circuit: it has no address, and no name but the circuit's.
    pub fn through_circuit(number: u64) -> Self {
        let mut id = [0; 32];
        if let Some(last) = id.last_chunk_mut() {
            *last = number.to_be_bytes();
        }
        Self { id, prefix: number, subnet: 0, circuit: true }
    }
}

/// What peers and relays may still do.
#[derive(Debug)]
pub(super) struct Peers {
    names: Buckets<[u8; 32], MAX_PEERS>,
    prefixes: Buckets<u64, MAX_PEERS>,
    all: Bucket,
    requests: Buckets<u64, MAX_PEERS>,
    circuits: Buckets<u64, MAX_PEERS>,
    circuit_requests: Bucket,
    all_requests: Bucket,
    answers: Bucket,
    subnet_answers: Buckets<u64, MAX_PEERS>,
    circuit_answers: Bucket,
    updates: Buckets<RelayId, MAX_IDS>,
    blocked: BTreeMap<[u8; 32], Instant>,
}

impl Peers {
    pub(super) const fn new() -> Self {
        Self {
            names: Buckets::new(PEER_CHECKS),
            prefixes: Buckets::new(PREFIX_CHECKS),
            all: Bucket::new(),
            requests: Buckets::new(REQUESTS),
            circuits: Buckets::new(REQUESTS),
            circuit_requests: Bucket::new(),
            all_requests: Bucket::new(),
            answers: Bucket::new(),
            subnet_answers: Buckets::new(SUBNET_ANSWERS),
            circuit_answers: Bucket::new(),
            updates: Buckets::new(UPDATES),
            blocked: BTreeMap::new(),
        }
    }

    /// Whether a signature that this peer sent unasked is checked; a bucket of others is not emptied for it in vain.
    // directory.gossip.3
    pub(super) fn may_check(&mut self, now: Instant, peer: PeerKey) -> bool {
        // All circuits are one place here: honest clients tell nothing through them.
        let prefix = if peer.circuit { 0 } else { peer.prefix };
        self.names.take(now, peer.id) && self.prefixes.take(now, prefix) && self.all.take(now, ALL_CHECKS)
    }

    /// Whether a request of this peer is answered.
    // directory.gossip.3
    pub(super) fn may_ask(&mut self, now: Instant, peer: PeerKey) -> bool {
        let own = if peer.circuit {
            self.circuits.take(now, peer.prefix)
                && self.circuit_answers.has(now, CIRCUIT_ANSWERS)
                && self.circuit_requests.take(now, CIRCUIT_REQUESTS)
        } else {
            self.requests.take(now, peer.prefix) && self.subnet_answers.has(now, &peer.subnet)
        };
        own && self.answers.has(now, ALL_ANSWERS) && self.all_requests.take(now, ALL_REQUESTS)
    }

    /// Counts the bytes of an answer; the last one may go beyond the limit.
    // directory.gossip.3
    pub(super) fn answered(&mut self, now: Instant, peer: PeerKey, length: usize) {
        let size = u32::try_from(length.div_ceil(KIB)).unwrap_or(u32::MAX);
        self.answers.pay(now, ALL_ANSWERS, size);
        if peer.circuit {
            self.circuit_answers.pay(now, CIRCUIT_ANSWERS, size);
        } else {
            self.subnet_answers.pay(now, peer.subnet, size);
        }
    }

    /// Whether one more descriptor of this relay is taken.
    // directory.gossip.4
    pub(super) fn may_update(&self, now: Instant, id: &RelayId) -> bool {
        self.updates.has(now, id)
    }

    /// Counts a descriptor of a relay that was taken.
    pub(super) fn updated(&mut self, now: Instant, id: RelayId) {
        self.updates.take(now, id);
    }

    pub(super) fn is_blocked(&self, now: Instant, peer: PeerKey) -> bool {
        self.blocked.get(&peer.id).is_some_and(|until| *until > now)
    }

    /// Takes nothing from a peer for a while; where there are too many such, the one that was blocked first is forgotten.
    // directory.gossip.2
    pub(super) fn block(&mut self, now: Instant, peer: PeerKey) {
        if self.blocked.len() >= MAX_PEERS {
            let first = self.blocked.iter().min_by_key(|(_, until)| **until).map(|(id, _)| *id);
            first.and_then(|id| self.blocked.remove(&id));
        }
        self.blocked.insert(peer.id, now + BLOCKED);
    }
}
