//! The relay's driver: its socket, its log, its connections, and the handle that the outside holds.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use circuit::keys::{DhSecret, NetworkId, RelayId};
use circuit::node::{Event, FlowId, Node as _, Now};
use circuit::relay::Asks;
use circuit::seen::SeenSetups;
use directory::exchange::PeerKey;
use directory::swarm::Handle as Directory;
use directory::view::View;
use driver::{Outside, Shared, UdpSocket};
use payments::treasury::Health;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::exit_io::Connector;
use crate::load::{Traffic, Watchman};
use crate::money::{self, Money, Opened, Treasurer};
use crate::node::{Config, RelayNode};
use crate::policy::ExitPolicy;
use crate::quota::Quota;
use crate::seen_log::SeenLog;
use crate::status;

pub use crate::load::traffic_is_whole;
pub use crate::node::Keys;
pub use crate::seen_log::{create_log, log_is_whole};

const PRUNE_FIRST: usize = 64;

/// Everything that a relay is started with.
#[derive(Debug)]
pub struct Settings {
    /// Its secrets.
    pub keys: Keys,
    /// Its network.
    pub network: NetworkId,
    /// The other relays.
    pub view: View,
    /// Where it receives links.
    pub listen: SocketAddr,
    /// What it connects to, if it is an exit.
    pub exit: Option<ExitPolicy>,
    /// Whether it is an exit for clients directly.
    pub allow_single_hop: bool,
    /// How it is paid and pays; nothing on a free network.
    pub money: Option<Money>,
    /// The folder of its log; `None` keeps it in memory, for keys that live no longer than the process.
    pub state: Option<PathBuf>,
    /// How much it takes on.
    pub limits: Limits,
}

/// How much a relay takes on, and how long it takes to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes per second, of the cells of all circuits.
    pub rate: Option<u64>,
    /// Bytes per month, and the day on which it begins; needs the folder of the log.
    pub monthly: Option<(u64, u8)>,
    /// How long circuits that are in use are waited for at the end.
    pub drain: Duration,
}

/// Why a relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP socket.
    #[error(transparent)]
    Bind(#[from] driver::BindError),
    /// The log of setups.
    #[error("cannot open the log of setups in {folder}: {source}; {}", advice(source))]
    Log {
        /// Where it should be.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The note of the month's traffic.
    #[error("cannot read or write the note of the month's traffic in {folder}: {source}; {}", advice(source))]
    Traffic {
        /// Where it should be.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The store of its money.
    #[error(transparent)]
    Money(#[from] payments::treasury::OpenError),
    /// The operating system gave no randomness.
    #[error("the operating system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Why a relay stopped other than by being asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {}

enum Command {
    Status(oneshot::Sender<status::Status>),
    Circuits(oneshot::Sender<Vec<status::Circuit>>),
    SetAsks { forward: u64, exit: Option<u64>, to: oneshot::Sender<Option<Asks>> },
    SetView(Box<View>),
    SetOnionKeys(BTreeMap<u32, DhSecret>),
    Call(RelayId),
    Neighbours(oneshot::Sender<BTreeSet<RelayId>>),
}

/// A relay whose socket is bound.
#[derive(Debug)]
pub struct Relay {
    shared: Rc<Shared<RelayNode>>,
    socket: UdpSocket,
    log: Option<SeenLog>,
    money: Option<Opened>,
    directory: Option<Directory>,
    exit: Option<String>,
    handle: Handle,
    commands: mpsc::Receiver<Command>,
    watchman: Watchman,
}

/// Asks and stops a running relay, from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    /// How often it was asked to stop.
    stop: watch::Sender<u32>,
    load: watch::Receiver<status::Load>,
}

impl Handle {
    /// The relay's state; `None` once it has stopped.
    pub async fn status(&self) -> Option<status::Status> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Status(answer)).await.ok()?;
        answered.await.ok()
    }

    /// The relay's circuits; `None` once it has stopped.
    pub async fn circuits(&self) -> Option<Vec<status::Circuit>> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Circuits(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Sets what new circuits are asked for a cell, `exit` to what it was if it is left out; what is asked now, or `Some(None)`
    /// on a free network; `None` once the relay has stopped.
    pub async fn set_asks(&self, forward: u64, exit: Option<u64>) -> Option<Option<Asks>> {
        let (to, answered) = oneshot::channel();
        self.commands.send(Command::SetAsks { forward, exit, to }).await.ok()?;
        answered.await.ok()
    }

    /// Replaces the view.
    pub async fn set_view(&self, view: View) {
        // A relay that has stopped needs none.
        let _ = self.commands.send(Command::SetView(Box::new(view))).await;
    }

    /// Replaces the onion keys, by epoch; they are on disk already (operate.keys.2).
    pub async fn set_onion_keys(&self, keys: BTreeMap<u32, DhSecret>) {
        let _ = self.commands.send(Command::SetOnionKeys(keys)).await;
    }

    /// The relays to which a link stands or is begun; `None` once the relay has stopped.
    pub async fn neighbours(&self) -> Option<BTreeSet<RelayId>> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Neighbours(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Begins a link to a relay that has asked for one.
    pub async fn call(&self, relay: RelayId) {
        let _ = self.commands.send(Command::Call(relay)).await;
    }

    /// Whether the relay takes new circuits, and the month's traffic.
    pub fn load(&self) -> watch::Receiver<status::Load> {
        self.load.clone()
    }

    /// Asks the relay to stop: it takes no new circuits, and ends when those that it has are quiet, or the time for that is over;
    /// asked again, it ends at once.
    pub fn stop(&self) {
        self.stop.send_modify(|times| *times += 1);
    }
}

impl Relay {
    /// Binds the socket and opens the log; must be called inside the runtime that runs the relay.
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        let socket = UdpSocket::bind(settings.listen, "listen")?;
        let now = driver::now();
        let limits = settings.limits;
        let traffic = match (limits.monthly, &settings.state) {
            (Some((cap, day)), Some(folder)) => Some(
                Traffic::open(folder, Quota::new(cap, day, now.unix()))
                    .map_err(|source| StartError::Traffic { folder: folder.clone(), source })?,
            ),
            _ => None,
        };
        let (log, seen) = match settings.state {
            None => (None, SeenSetups::restored([])),
            Some(folder) => {
                let (log, seen, whole) = SeenLog::open(&folder, minute(now))
                    .map_err(|source| StartError::Log { folder, source })?;
                if !whole {
                    tracing::warn!(
                        "the log of setups was missing or torn, or the machine went down under the relay: setups are refused for two minutes"
                    );
                }
                (Some(log), seen)
            }
        };
        let exit = settings.exit.as_ref().and_then(ExitPolicy::summary).map(|ports| ports.to_string());
        let (payments, money) = match settings.money {
            Some(money) => {
                let (asks, cashier, opened) = money.open(random_seed()?)?;
                (Some((asks, cashier)), Some(opened))
            }
            None => (None, None),
        };
        let config = Config {
            keys: settings.keys,
            network: settings.network,
            view: settings.view,
            exit: settings.exit,
            allow_single_hop: settings.allow_single_hop,
            seen,
            payments,
        };
        let mut node = RelayNode::new(config, random_seed()?);
        node.set_rate(limits.rate);
        let (commands, received) = mpsc::channel(64);
        let (stop, stopped) = watch::channel(0);
        let (tells, load) = watch::channel(status::Load { rate: limits.rate, ..status::Load::default() });
        let handle = Handle { commands, stop, load };
        let shared = Shared::new(node);
        let watchman = Watchman { shared: Rc::clone(&shared), stopped, drain: limits.drain, traffic, tells };
        Ok(Self { shared, socket, log, money, directory: None, exit, handle, commands: received, watchman })
    }

    /// Has it answer questions about this directory, if it is an exit.
    pub fn serve_directory(&mut self, directory: Directory) {
        self.shared.with_node(|node, _| node.serve_directory());
        self.directory = Some(directory);
    }

    /// Where the relay receives links, with the port that was chosen where the setting said 0.
    pub const fn address(&self) -> SocketAddr {
        self.socket.local_address()
    }

    /// The handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until [`Handle::stop`]; inside a [`tokio::task::LocalSet`].
    pub async fn run(self) -> Result<(), RunError> {
        let Self { shared, socket, log, money, directory, exit, handle, commands, watchman } = self;
        let load = handle.load();
        drop(handle);
        let (treasurer, health) = money.map(|opened| Treasurer::start(&shared, opened)).unzip();
        let outside = RelayOutside {
            connector: Connector::new(Rc::clone(&shared)),
            connecting: BTreeMap::new(),
            prune_at: PRUNE_FIRST,
            shared: Rc::clone(&shared),
            log,
            treasurer,
            directory,
        };
        // Starts the node's own clockwork.
        shared.with_node(RelayNode::handle_timeout);
        let answers = tokio::task::spawn_local(answer(
            Rc::clone(&shared),
            socket.local_address(),
            exit,
            health,
            load,
            commands,
        ));
        driver::run(&shared, &socket, outside, watchman.watch()).await;
        answers.abort();
        Ok(())
    }
}

/// What to do when the log cannot be written.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on the disk of the folder that the setting `state` names"
        }
        _ => {
            "check that the folder that the setting `state` names exists, and that the relay may write to it"
        }
    }
}

fn minute(now: Now) -> u32 {
    u32::try_from(now.unix() / 60).unwrap_or(u32::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the one place where the relay draws from the system")]
fn random_seed() -> Result<[u8; 32], StartError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(StartError::Random)?;
    Ok(seed)
}

/// What the relay does for its node.
struct RelayOutside {
    shared: Rc<Shared<RelayNode>>,
    connector: Connector,
    /// The flows that were connected last, some of which still wait for their destination.
    connecting: BTreeMap<FlowId, AbortHandle>,
    /// With so many of them the finished ones are forgotten.
    prune_at: usize,
    log: Option<SeenLog>,
    treasurer: Option<Treasurer>,
    directory: Option<Directory>,
}

impl Outside for RelayOutside {
    fn event(&mut self, event: Event) {
        match event {
            Event::Persist(entry) => {
                let Some(log) = &mut self.log else { return };
                if let Err(error) = log.append(entry, minute(driver::now())) {
                    tracing::error!(
                        "cannot write the log of setups, no setup is answered now: {error}; {}",
                        advice(&error)
                    );
                    self.shared.with_node(RelayNode::log_failed);
                }
            }
            Event::Money => {
                if let Some(treasurer) = &self.treasurer {
                    treasurer.work(&self.shared);
                }
            }
            Event::Connect(flow, target) => {
                if self.connecting.len() >= self.prune_at {
                    self.connecting.retain(|_, task| !task.is_finished());
                    self.prune_at = 2 * self.connecting.len().max(PRUNE_FIRST);
                }
                let task = tokio::task::spawn_local(self.connector.clone().serve(flow, target));
                self.connecting.insert(flow, task.abort_handle());
            }
            Event::Directory(flow, question) => {
                let (shared, directory) = (Rc::clone(&self.shared), self.directory.clone());
                let circuit = shared.look(|node| node.exit()?.circuit(flow));
                tokio::task::spawn_local(async move {
                    // Without a circuit nobody waits for the answer any more.
                    let answer = match (directory, circuit) {
                        (Some(directory), Some(circuit)) => {
                            let from = PeerKey::through_circuit(circuit.number());
                            directory.answer(from, question.into()).await
                        }
                        _ => None,
                    };
                    shared.with_node(|node, _| node.answer_directory(flow, answer));
                });
            }
            // A flow that is gone before it has a pump needs no connection any more.
            Event::Closed(flow) => {
                if let Some(task) = self.connecting.remove(&flow) {
                    task.abort();
                }
            }
            // Flows without a pump have nothing to read or write.
            _ => {}
        }
    }
}

/// Answers commands until the last handle is gone.
fn answer(
    shared: Rc<Shared<RelayNode>>,
    listen: SocketAddr,
    exit: Option<String>,
    health: Option<watch::Receiver<Health>>,
    load: watch::Receiver<status::Load>,
    mut commands: mpsc::Receiver<Command>,
) -> impl Future<Output = ()> {
    let started = driver::now().instant;
    async move {
        while let Some(command) = commands.recv().await {
            // Who asked may have left.
            match command {
                Command::Status(to) => {
                    let mut status = report(&shared, started, listen, exit.as_deref());
                    status.load = *load.borrow();
                    status.money = health.as_ref().and_then(|health| {
                        shared.look(|node| money::report(node, &health.borrow()).map(Box::new))
                    });
                    drop(to.send(status));
                }
                Command::Circuits(to) => drop(to.send(shared.look(|node| circuits(node, started)))),
                Command::SetAsks { forward, exit, to } => {
                    let asks = shared.with_node(|node, _| {
                        let exit = exit.or_else(|| node.relay().asks().map(|asks| asks.exit));
                        node.set_asks(Asks { forward, exit: exit.unwrap_or_default() });
                        node.relay().asks()
                    });
                    let _ = to.send(asks);
                }
                Command::SetView(view) => shared.with_node(|node, now| node.set_view(now, *view)),
                Command::Neighbours(to) => {
                    let peers = |node: &RelayNode| {
                        node.links().snapshot().iter().filter_map(|link| link.peer).collect()
                    };
                    let _ = to.send(shared.look(peers));
                }
                Command::Call(relay) => shared.with_node(|node, now| node.call(now, &relay)),
                Command::SetOnionKeys(keys) => shared.with_node(|node, now| node.set_onion_keys(now, keys)),
            }
        }
    }
}

fn report(
    shared: &Shared<RelayNode>,
    started: Instant,
    listen: SocketAddr,
    exit: Option<&str>,
) -> status::Status {
    let counters = shared.counters();
    shared.look(|node| {
        let (open, half_open) = node.relay().circuits();
        let cells = node.relay().counts();
        let links = node.links().snapshot();
        let mut clocks: Vec<_> = links.iter().filter_map(|link| link.clock_ms).collect();
        clocks.sort_unstable();
        status::Status {
            id: node.id().to_string(),
            uptime_s: driver::now().instant.saturating_duration_since(started).as_secs(),
            listen,
            exit: exit.map(str::to_owned),
            links: links.iter().filter(|link| link.up).count() as u64,
            links_inbound: links.iter().filter(|link| link.up && link.inbound).count() as u64,
            reached: node.reached().links,
            last_reached: node.reached().last,
            seen: seen(node, driver::now()),
            clock_ms: clocks.get(clocks.len() / 2).copied(),
            circuits: status::Circuits { open: open as u64, half_open: half_open as u64 },
            cells: status::Cells {
                forward: cells.forward,
                backward: cells.backward,
                here: cells.here + cells.started,
            },
            traffic: status::Traffic {
                packets_in: counters.packets_in,
                bytes_in: counters.bytes_in,
                packets_out: counters.packets_out,
                bytes_out: counters.bytes_out,
            },
            drops: counters
                .drops
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (reason.as_str().to_owned(), count))
                .collect::<BTreeMap<_, _>>(),
            exit_flows: node.exit().map(|exit| status::ExitFlows {
                open: exit.open() as u64,
                total: exit.counts().connected,
                refused: exit.counts().refused,
                failed: exit.counts().failed,
            }),
            load: status::Load::default(),
            money: None,
        }
    })
}

fn seen(node: &RelayNode, now: Now) -> Vec<status::Seen> {
    let places = node.links().seen(now);
    places.iter().map(|seen| status::Seen { address: seen.address, places: seen.places }).collect()
}

fn circuits(node: &RelayNode, started: Instant) -> Vec<status::Circuit> {
    let now = driver::now().instant.max(started);
    let one = |circuit: circuit::relay::CircuitInfo| status::Circuit {
        id: circuit.key.number(),
        state: if circuit.open { "open" } else { "half-open" }.to_owned(),
        position: if circuit.ends_here { "end" } else { "middle" }.to_owned(),
        age_s: now.saturating_duration_since(circuit.began).as_secs(),
        cells_forward: circuit.meter.forward,
        cells_backward: circuit.meter.backward,
        streams: node.exit().map_or(0, |exit| exit.on(circuit.key)) as u64,
    };
    node.relay().snapshot().into_iter().map(one).collect()
}
