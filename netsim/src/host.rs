//! Hosts: a machine with one address and one node on it.

use core::fmt;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use circuit::error::Drops;
use circuit::keys::NetworkId;
use circuit::node::{FlowId, Node, Now};
use circuit::seen::{LogEntry, SeenSetups};
use client::guards::Guards;
use client::node::ClientNode;
use client::wishes::Wishes;
use directory::view::View;
use router::node::{Keys, RelayNode};
use router::policy::ExitPolicy;

use crate::app::App;
use crate::money::{Disk, Money};
use crate::network::Datagram;
use crate::site::{ConnectionId, Signal};

/// Packets that wait in the socket of a frozen host; more are lost.
pub(crate) const SOCKET: usize = 256;

/// Names a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub(crate) usize);

/// What a host runs, as it is configured.
#[derive(Clone, Debug)]
pub enum Program {
    /// A relay.
    Relay(Box<RelayProgram>),
    /// A client.
    Client(Box<ClientProgram>),
    /// A node that a test has made.
    Foreign,
}

/// A relay's configuration.
#[derive(Clone, Debug)]
pub struct RelayProgram {
    /// Its secrets.
    pub keys: Keys,
    /// Its network.
    pub network: NetworkId,
    /// The relays.
    pub view: View,
    /// What it connects to, if it is an exit.
    pub exit: Option<ExitPolicy>,
    /// Whether it is an exit for clients directly.
    pub allow_single_hop: bool,
    /// Its pot and its prices, on a paid network.
    pub money: Option<Money>,
}

/// A client's configuration.
#[derive(Clone, Debug)]
pub struct ClientProgram {
    /// Its network.
    pub network: NetworkId,
    /// The relays.
    pub view: View,
    /// Relays in each path.
    pub hops: usize,
    /// Circuits that are kept ready.
    pub prebuilt: usize,
    /// Its pot, on a paid network.
    pub money: Option<Money>,
}

impl RelayProgram {
    /// A node that has seen these setups and finds these records.
    pub fn start(&self, seen: SeenSetups, disk: &Disk, seed: [u8; 32]) -> RelayNode {
        let config = router::node::Config {
            keys: self.keys.clone(),
            network: self.network,
            view: self.view.clone(),
            exit: self.exit.clone(),
            allow_single_hop: self.allow_single_hop,
            seen,
            payments: self.money.map(|money| money.cashier(disk, seed)),
        };
        RelayNode::new(config, seed)
    }
}

impl ClientProgram {
    /// A node that finds these records and guards.
    pub fn start(&self, now: Now, disk: &Disk, guards: &[u8], seed: [u8; 32]) -> ClientNode {
        let config = client::node::Config {
            guards: Guards::decode(guards, self.network).ok().flatten().unwrap_or_default(),
            prebuilt: self.prebuilt,
            payer: self.money.map(|money| money.payer(disk)),
            ..client::node::Config::new(self.network, self.view.clone(), Wishes::hops(self.hops))
        };
        ClientNode::new(now, config, seed)
    }
}

/// A node that runs.
pub enum Running {
    /// A relay.
    Relay(Box<RelayNode>),
    /// A client.
    Client(Box<ClientNode>),
    /// A node that a test has made.
    Foreign(Box<dyn Node>),
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay(_) => "relay",
            Self::Client(_) => "client",
            Self::Foreign(_) => "foreign",
        })
    }
}

/// What came for a frozen host.
#[derive(Debug, Default)]
pub(crate) struct Frozen {
    pub(crate) packets: Vec<(SocketAddr, Datagram)>,
    pub(crate) signals: Vec<(ConnectionId, Signal)>,
}

/// A host.
#[derive(Debug)]
pub struct Host {
    /// Its address.
    pub address: SocketAddr,
    /// What it is to run.
    pub program: Program,
    /// What runs; nothing on a dead host.
    pub(crate) running: Option<Running>,
    /// What waits while it is frozen.
    pub(crate) frozen: Option<Frozen>,
    /// The earliest wake-up that is under way.
    pub(crate) armed: Option<Duration>,
    /// The replay tags on its disk.
    pub(crate) log: Vec<LogEntry>,
    /// Questions about the directory that a test has not looked at.
    pub(crate) questions: Vec<(FlowId, Bytes)>,
    /// The records of its money.
    pub(crate) disk: Disk,
    /// The guards of its client, as they were stored.
    pub(crate) guards: Vec<u8>,
    /// Its pot, on a paid network.
    pub money: Option<Money>,
    /// Why it dropped packets.
    pub drops: Drops,
    pub(crate) apps: BTreeMap<FlowId, App>,
    pub(crate) connections: BTreeMap<FlowId, ConnectionId>,
}

impl Host {
    pub(crate) fn new(address: SocketAddr, program: Program, running: Running) -> Self {
        let money = match &program {
            Program::Relay(relay) => relay.money,
            Program::Client(client) => client.money,
            Program::Foreign => None,
        };
        Self {
            address,
            money,
            disk: Disk::default(),
            guards: Vec::new(),
            program,
            running: Some(running),
            frozen: None,
            armed: None,
            log: Vec::new(),
            questions: Vec::new(),
            drops: Drops::default(),
            apps: BTreeMap::new(),
            connections: BTreeMap::new(),
        }
    }

    /// The node, unless it is dead or frozen.
    pub(crate) fn node(&mut self) -> Option<&mut dyn Node> {
        if self.frozen.is_some() {
            return None;
        }
        match self.running.as_mut()? {
            Running::Relay(node) => Some(&mut **node),
            Running::Client(node) => Some(&mut **node),
            Running::Foreign(node) => Some(&mut **node),
        }
    }
}
