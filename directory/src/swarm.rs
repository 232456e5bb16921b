//! The open directory on the network: relays gossip their descriptors, and all synchronise their sets, over libp2p
//! (docs/spec/06-open-network.md section 2).
//!
//! A relay listens and serves; a client dials, asks and goes. What enters the view is decided by [`Exchange`](crate::exchange::Exchange) alone.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use circuit::error::Misuse;
use circuit::keys::{IdentitySecret, Random, RelayId};
use circuit::node::Now;
use tokio::sync::{mpsc, oneshot, watch};

use crate::descriptor::SignedDescriptor;
use crate::exchange::PeerKey;
use crate::registry::Registry;
use crate::swarm::task::{Command, Task};
use crate::view::View;

mod behaviour;
mod calls;
mod codec;
mod gate;
mod patience;
mod peers;
mod place;
mod task;
#[cfg(test)]
mod tests;

/// Commands that may wait.
const COMMANDS: usize = 64;
/// Calls that may wait.
const CALLS: usize = 16;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Incoming ones.
    pub incoming: usize,
    /// Those of them with peers that are no registered relays.
    pub strangers: usize,
    /// Those of them that come from one /16 (IPv4) or /32 (IPv6).
    pub per_subnet: usize,
    /// Those of one such subnet whose handshake is not done.
    pub pending_per_subnet: usize,
    /// Outgoing ones.
    pub outgoing: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { incoming: 256, strangers: 192, per_subnet: 32, pending_per_subnet: 8, outgoing: 64 }
    }
}

/// How a node takes part.
#[derive(Debug)]
pub struct Settings {
    /// A relay's identity; for a client one that was drawn for this run.
    pub identity: IdentitySecret,
    /// Where a relay serves (TCP); nowhere for a client.
    pub listen: Vec<SocketAddr>,
    /// Where the network is found first: `IP:PORT` or `host:port`.
    pub bootstrap: Vec<String>,
    /// The empty view of the network, or what is left of an earlier run.
    pub view: View,
    /// The registry, as it is followed.
    pub registry: watch::Receiver<Arc<Registry>>,
    /// From one round of questions to the next, more or less: a minute.
    pub every: Duration,
    /// Limits of connections.
    pub limits: Limits,
    /// Randomness.
    pub random: Random,
    /// The clocks.
    pub now: fn() -> Now,
}

/// Why the directory does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The identity.
    #[error("the identity is no Ed25519 key: make a new one")]
    Identity,
    /// The port.
    #[error(
        "cannot listen for the directory on {address} (TCP): {source}; is the port free, and may it be used?"
    )]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// libp2p.
    #[error("libp2p refuses its configuration ({0}): this is a fault of chive, please report it")]
    Protocol(&'static str),
}

/// How the directory does.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Connected peers.
    pub peers: usize,
    /// Those of them that can be asked.
    pub serving: usize,
    /// Descriptors in the view.
    pub relays: usize,
    /// The digest of their set, in hexadecimal: two nodes with the same one know the same.
    pub digest: String,
    /// Answers of peers so far.
    pub exchanges: u64,
    /// When the last one came, in unix seconds; 0 for never.
    pub last_exchange: u64,
    /// Peers that were left: they hid relays, sent what nobody honest sends, or too much.
    pub left: u64,
    /// Connections that others have begun.
    pub inbound: u64,
    /// When the last one came, in unix seconds; 0 for never.
    pub last_inbound: u64,
    /// Subnets (/16, /32) of the relays that said that they begin a link to this one, which had asked for it.
    pub called: usize,
    /// When the last one said it, in unix seconds; 0 for never.
    pub last_called: u64,
    /// At which address most of the last peers say that they see us.
    pub seen_at: Option<IpAddr>,
    /// What is wrong, and what to do.
    pub trouble: Option<String>,
}

/// A running directory, from any thread; it ends with its last handle.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    views: watch::Receiver<Arc<View>>,
    status: watch::Receiver<Status>,
}

/// Starts the directory; inside a [`tokio::task::LocalSet`] on a current-thread runtime.
pub fn start(settings: Settings) -> Result<Handle, StartError> {
    let (commands, received) = mpsc::channel(COMMANDS);
    let task = Task::new(settings, received)?;
    let (views, status) = task.watch();
    tokio::task::spawn_local(task.run());
    Ok(Handle { commands, views, status })
}

impl Handle {
    /// The view, each time it has changed.
    pub fn views(&self) -> watch::Receiver<Arc<View>> {
        self.views.clone()
    }

    /// How the directory does now.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Makes our own new descriptor known, as soon as we are registered; nothing once the directory has ended.
    pub async fn publish(&self, descriptor: SignedDescriptor) -> Result<(), Misuse> {
        let (to, published) = oneshot::channel();
        if self.commands.send(Command::Publish(Box::new(descriptor), to)).await.is_err() {
            return Ok(());
        }
        published.await.unwrap_or(Ok(()))
    }

    /// Asks some relays to begin a link to this one, at the addresses of its descriptor, but none of `linked`; how many were asked.
    /// None is asked as long as the descriptor is not known.
    // directory.call.3
    pub async fn be_called(&self, linked: BTreeSet<RelayId>) -> usize {
        let (to, asked) = oneshot::channel();
        if self.commands.send(Command::BeCalled(linked, to)).await.is_err() {
            return 0;
        }
        asked.await.unwrap_or(0)
    }

    /// The relays that ask this one for a link from now on, within limits; without anybody who takes them all are refused.
    pub async fn callers(&self) -> mpsc::Receiver<RelayId> {
        let (to, callers) = mpsc::channel(CALLS);
        // Once the directory has ended nobody asks.
        let _ = self.commands.send(Command::Callers(to)).await;
        callers
    }

    /// The answer to a request that came through a circuit; `None` if it deserves none.
    pub async fn answer(&self, from: PeerKey, request: Vec<u8>) -> Option<Vec<u8>> {
        let (to, answer) = oneshot::channel();
        self.commands.send(Command::Answer { from, request, to }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// A request to be sent through a circuit; `None` once the directory has ended.
    pub async fn request(&self) -> Option<Vec<u8>> {
        let (to, request) = oneshot::channel();
        self.commands.send(Command::Request(to)).await.ok()?;
        request.await.ok()
    }

    /// Takes the answer that came through a circuit from this relay; what to ask it next.
    ///
    /// As long as such answers come, a client dials nobody.
    pub async fn take(&self, from: PeerKey, answer: Vec<u8>) -> Option<Vec<u8>> {
        let (to, next) = oneshot::channel();
        self.commands.send(Command::Take { from, answer, to }).await.ok()?;
        next.await.ok().flatten()
    }
}
