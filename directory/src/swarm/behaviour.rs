//! The protocols of one peer, each under a name of the network's own, and each with its limits.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::keccak256;
use circuit::keys::NetworkId;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::gossipsub::{
    self, IdentTopic, IdentityTransform, MessageAuthenticity, MessageId, ValidationMode,
    WhitelistSubscriptionFilter,
};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::request_response::{self, ProtocolSupport};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{StreamProtocol, identify, kad, ping};

use crate::registry::Registry;
use crate::swarm::codec::Codec;
use crate::swarm::gate::Gate;
use crate::swarm::{Limits, StartError};

/// The longest message of gossip: a descriptor, and room to grow.
pub(super) const MAX_GOSSIP: usize = 1_100;
/// The longest frame of gossip: several messages, or names of messages.
const MAX_FRAME: usize = 16_384;
/// The most names of messages in a frame.
const MAX_NAMES: usize = 256;
/// The most bytes of a message between Kademlia peers.
const MAX_KAD: usize = 16_384;
/// How long a request may take.
const REQUEST_TIME: Duration = Duration::from_secs(20);
/// The most requests of one connection at once.
const MAX_STREAMS: usize = 8;
/// Handshakes that may be under way at once, out and in; of those few from one subnet ([`Limits::pending_per_subnet`]).
const MAX_PENDING: u32 = 64;
const MAX_PENDING_INCOMING: u32 = 256;
/// So many connections may be about to end, having given way.
const MAX_CLOSING: u32 = 64;
/// The most connections with one peer: two, if both dial at once.
const MAX_PER_PEER: u32 = 2;

type Gossip = gossipsub::Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

#[derive(NetworkBehaviour)]
#[behaviour(prelude = "libp2p::swarm::derive_prelude")]
pub(super) struct Behaviour {
    /// The first: for what it refuses, nobody need give way at the gate.
    limits: connection_limits::Behaviour,
    /// What it refuses, the others need not see.
    pub(super) gate: Gate,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    pub(super) gossip: Toggle<Gossip>,
    pub(super) exchange: request_response::Behaviour<Codec>,
    pub(super) call: request_response::Behaviour<Codec>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

impl Behaviour {
    /// `serves`: this is a relay.
    pub(super) fn new(
        keys: &Keypair,
        network: NetworkId,
        serves: bool,
        limits: Limits,
        registry: Arc<Registry>,
    ) -> Result<Self, StartError> {
        let support = if serves { ProtocolSupport::Full } else { ProtocolSupport::Outbound };
        let config = request_response::Config::default()
            .with_request_timeout(REQUEST_TIME)
            .with_max_concurrent_streams(MAX_STREAMS);
        let asked = |codec, name| {
            let protocols = [(protocol(network, name)?, support.clone())];
            Ok(request_response::Behaviour::with_codec(codec, protocols, config.clone()))
        };
        let version = format!("/chive/{network}/1");
        let identify = identify::Config::new(version, keys.public())
            .with_agent_version("chive".to_owned())
            .with_hide_listen_addrs(true)
            .with_cache_size(0);
        Ok(Self {
            gate: Gate::new(limits, registry),
            limits: connection_limits::Behaviour::new(connections(limits)),
            kad: kademlia(keys, network, serves)?,
            gossip: serves.then(|| gossip(network)).transpose()?.into(),
            exchange: asked(Codec::SETS, "set")?,
            call: asked(Codec::CALLS, "call")?,
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::default(),
        })
    }
}

/// Where descriptors are gossiped.
pub(super) fn topic(network: NetworkId) -> IdentTopic {
    IdentTopic::new(format!("/chive/{network}/descriptors/1"))
}

// directory.swarm.1
fn protocol(network: NetworkId, name: &str) -> Result<StreamProtocol, StartError> {
    StreamProtocol::try_from_owned(format!("/chive/{network}/{name}/1"))
        .map_err(|_| StartError::Protocol("a protocol's name"))
}

fn connections(limits: Limits) -> ConnectionLimits {
    let incoming = u32::try_from(limits.incoming).unwrap_or(u32::MAX);
    let outgoing = u32::try_from(limits.outgoing).unwrap_or(u32::MAX);
    ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_INCOMING))
        .with_max_pending_outgoing(Some(MAX_PENDING))
        .with_max_established_incoming(Some(incoming.saturating_add(MAX_CLOSING)))
        .with_max_established_outgoing(Some(outgoing))
        .with_max_established_per_peer(Some(MAX_PER_PEER))
}

/// Kademlia finds peers; it keeps no records.
fn kademlia(
    keys: &Keypair,
    network: NetworkId,
    serves: bool,
) -> Result<kad::Behaviour<MemoryStore>, StartError> {
    let id = keys.public().to_peer_id();
    let store = MemoryStore::with_config(
        id,
        MemoryStoreConfig {
            max_records: 0,
            max_value_bytes: 0,
            max_providers_per_key: 0,
            max_provided_keys: 0,
        },
    );
    let mut config = kad::Config::new(protocol(network, "kad")?);
    // directory.swarm.4: only relays that are in the view enter the table, never who merely connects.
    config
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        .set_max_packet_size(MAX_KAD)
        .set_parallelism(NonZeroUsize::MIN.saturating_add(1))
        .disjoint_query_paths(true);
    let mut kad = kad::Behaviour::with_config(id, store, config);
    kad.set_mode(Some(if serves { kad::Mode::Server } else { kad::Mode::Client }));
    Ok(kad)
}

fn gossip(network: NetworkId) -> Result<Gossip, StartError> {
    let topic = topic(network);
    let mut config = gossipsub::ConfigBuilder::default();
    config
        .protocol_id_prefix(format!("/chive/{network}/gossip"))
        // A descriptor is signed by its relay; who passes it on is nobody's business.
        .validation_mode(ValidationMode::Anonymous)
        .validate_messages()
        .message_id_fn(|message| MessageId::new(keccak256(&message.data).as_slice()))
        .max_transmit_size(MAX_FRAME)
        // directory.swarm.2
        .max_transmit_size_for_topic(MAX_GOSSIP, topic.hash())
        .max_control_message_size(MAX_FRAME)
        .max_control_messages_sent(MAX_NAMES)
        .max_publish_messages(MAX_NAMES)
        .connection_handler_queue_len(MAX_NAMES);
    let config = config.build().map_err(|_| StartError::Protocol("gossip"))?;
    let filter = WhitelistSubscriptionFilter(HashSet::from([topic.hash()]));
    let mut gossip = Gossip::new_with_subscription_filter(MessageAuthenticity::Anonymous, config, filter)
        .map_err(StartError::Protocol)?;
    gossip.subscribe(&topic).map_err(|_| StartError::Protocol("the topic of gossip"))?;
    Ok(gossip)
}
