//! The client's driver: its socket, its SOCKS5 entry, and the handle that the outside holds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use circuit::keys::{NetworkId, RelayId};
use circuit::node::Event;
use directory::atlas::Atlas;
use directory::exchange::PeerKey;
use directory::view::View;
use driver::{Outside, Shared, UdpSocket};
use payments::Address;
use payments::treasury::Health;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::guard_file::{DamagedGuards, GuardFile};
use crate::money::{self, Money, Opened, Treasurer};
use crate::node::{Answer, ClientNode, Config};
use crate::proxy::{Answers, Proxy};
use crate::status;
use crate::wishes::Wishes;

pub use crate::guard_file::check_guards;

mod report;

/// How often a task looks whether what it waits for is there.
const LOOK: Duration = Duration::from_millis(5);
/// Answers of one exit that are taken in a row: more than the largest set needs.
const MAX_QUESTIONS: usize = 64;

/// Everything that a client is started with.
#[derive(Debug)]
pub struct Settings {
    /// Its network.
    pub network: NetworkId,
    /// The relays.
    pub view: View,
    /// Where applications reach it by SOCKS5.
    pub socks: SocketAddr,
    /// What the user wants of every path.
    pub wishes: Wishes,
    /// Where addresses are.
    pub atlas: Arc<dyn Atlas>,
    /// Circuits that are kept ready.
    pub prebuilt: usize,
    /// The local address of its links.
    pub udp: SocketAddr,
    /// How it pays; nothing on a free network.
    pub money: Option<Money>,
    /// The folder of what it keeps between runs; nothing is kept without one.
    pub state: Option<PathBuf>,
}

/// Why a client did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP socket.
    #[error(transparent)]
    Bind(#[from] driver::BindError),
    /// The SOCKS5 listener.
    #[error(
        "cannot listen on {address}: {source}; {}, in the setting `socks` or with --socks",
        advice(source)
    )]
    Socks {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The file of its guards.
    #[error(transparent)]
    Guards(#[from] DamagedGuards),
    /// The store of its money.
    #[error(transparent)]
    Money(#[from] payments::treasury::OpenError),
    /// The operating system gave no randomness.
    #[error("the operating system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "stop the program that has this port, or choose another one",
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have the address: choose one of its own, such as 127.0.0.1"
        }
        io::ErrorKind::PermissionDenied => "this user may not take this port: choose one above 1023",
        _ => "choose another address",
    }
}

/// Why a client stopped other than by being asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The SOCKS5 listener.
    #[error("cannot listen for applications: {0}")]
    Listen(#[from] io::Error),
}

enum Command {
    Status(oneshot::Sender<status::Status>),
    Circuits(oneshot::Sender<Vec<status::Circuit>>),
    Ready(oneshot::Sender<()>),
    Build { count: usize, concurrency: usize, to: oneshot::Sender<status::BuildReport> },
    Relays(oneshot::Sender<Vec<status::Relay>>),
    Ping { all: bool, to: oneshot::Sender<Vec<status::Echo>> },
    Directory { question: Vec<u8>, to: oneshot::Sender<Option<Answer>> },
    Probe { relay: RelayId, to: oneshot::Sender<status::BuildReport> },
    NewIdentity(oneshot::Sender<()>),
    View { view: Box<View>, to: oneshot::Sender<()> },
}

/// A client whose sockets are bound.
#[derive(Debug)]
pub struct Client {
    shared: Rc<Shared<ClientNode>>,
    socket: UdpSocket,
    listener: std::net::TcpListener,
    socks: SocketAddr,
    money: Option<Opened>,
    guards: Option<GuardFile>,
    handle: Handle,
    commands: mpsc::Receiver<Command>,
    stopped: watch::Receiver<bool>,
}

/// Asks and stops a running client, from any thread.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    stop: watch::Sender<bool>,
}

impl Handle {
    /// The client's state; `None` once it has stopped.
    pub async fn status(&self) -> Option<status::Status> {
        self.ask(Command::Status).await
    }

    /// The client's circuits; `None` once it has stopped.
    pub async fn circuits(&self) -> Option<Vec<status::Circuit>> {
        self.ask(Command::Circuits).await
    }

    /// Waits until the first circuit stands; false if the client has stopped.
    pub async fn ready(&self) -> bool {
        self.ask(Command::Ready).await.is_some()
    }

    /// Builds `count` circuits, `concurrency` at a time, and closes them again; `None` once the client has stopped.
    pub async fn build(&self, count: usize, concurrency: usize) -> Option<status::BuildReport> {
        self.ask(|to| Command::Build { count, concurrency, to }).await
    }

    /// The relays that the client knows; `None` once it has stopped.
    pub async fn relays(&self) -> Option<Vec<status::Relay>> {
        self.ask(Command::Relays).await
    }

    /// Has the exits of circuits answer: of all, or of the one heard last; `None` once the client has stopped.
    pub async fn ping(&self, all: bool) -> Option<Vec<status::Echo>> {
        self.ask(|to| Command::Ping { all, to }).await
    }

    /// Asks the exit of a circuit about the directory; `None` if it does not answer.
    pub async fn ask_directory(&self, question: Vec<u8>) -> Option<Answer> {
        self.ask(|to| Command::Directory { question, to }).await.flatten()
    }

    /// Takes what the exit of a circuit knows and the directory lacks; whether anything was answered.
    pub async fn synchronise(&self, directory: &directory::swarm::Handle) -> bool {
        let (mut question, mut answered) = (directory.request().await, false);
        for _ in 0..MAX_QUESTIONS {
            let Some(asked) = question else { break };
            let Some((exit, answer)) = self.ask_directory(asked).await else { break };
            answered = true;
            // Where the exit is makes no difference: it was not it who asked.
            let key = PeerKey::new(exit.0, Ipv4Addr::UNSPECIFIED.into());
            question = directory.take(key, answer).await;
        }
        answered
    }

    /// Builds a few circuits over a relay, and closes them again; `None` once the client has stopped.
    pub async fn probe(&self, relay: RelayId) -> Option<status::BuildReport> {
        self.ask(|to| Command::Probe { relay, to }).await
    }

    /// Has new streams use new circuits; `None` once the client has stopped.
    pub async fn new_identity(&self) -> Option<()> {
        self.ask(Command::NewIdentity).await
    }

    /// Other relays are known now; `None` once the client has stopped.
    pub async fn set_view(&self, view: View) -> Option<()> {
        self.ask(|to| Command::View { view: Box::new(view), to }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Asks the client to stop.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

impl Client {
    /// Binds the sockets; must be called inside the runtime that runs the client.
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        let socket = UdpSocket::bind(settings.udp, "udp")?;
        let refused = |source| StartError::Socks { address: settings.socks, source };
        let listener = std::net::TcpListener::bind(settings.socks).map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let socks = listener.local_addr().map_err(refused)?;
        let (payer, money) = settings.money.map(Money::open).transpose()?.unzip();
        let guards = settings.state.map(|folder| GuardFile::new(&folder, settings.network));
        let config = Config {
            network: settings.network,
            view: settings.view,
            wishes: settings.wishes,
            prebuilt: settings.prebuilt,
            payer,
            guards: guards.as_ref().map(GuardFile::read).transpose()?.unwrap_or_default(),
            atlas: settings.atlas,
        };
        let node = ClientNode::new(driver::now(), config, random_seed()?);
        let (commands, received) = mpsc::channel(64);
        let (stop, stopped) = watch::channel(false);
        let handle = Handle { commands, stop };
        Ok(Self {
            shared: Shared::new(node),
            socket,
            listener,
            socks,
            money,
            guards,
            handle,
            commands: received,
            stopped,
        })
    }

    /// Where applications reach it, with the port that was chosen where the setting said 0.
    pub const fn socks_address(&self) -> SocketAddr {
        self.socks
    }

    /// The handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs until [`Handle::stop`]; inside a [`tokio::task::LocalSet`].
    pub async fn run(self) -> Result<(), RunError> {
        let Self { shared, socket, listener, socks, money, guards, handle: _, commands, mut stopped } = self;
        let owner = money.as_ref().map(Opened::owner);
        let (treasurer, health) = money.map(|opened| Treasurer::start(&shared, opened)).unzip();
        let answers: Answers = Rc::new(RefCell::new(HashMap::new()));
        let proxy = Proxy { shared: Rc::clone(&shared), answers: Rc::clone(&answers) };
        let serving = tokio::task::spawn_local(proxy.serve(TcpListener::from_std(listener)?));
        let answering =
            tokio::task::spawn_local(answer(Rc::clone(&shared), socks, owner.zip(health), commands));
        let stop = async move {
            // A handle that is gone can no longer ask to stop: then the client runs on.
            if stopped.wait_for(|stop| *stop).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let outside = ClientOutside { shared: Rc::clone(&shared), answers, treasurer, guards };
        driver::run(&shared, &socket, outside, stop).await;
        serving.abort();
        answering.abort();
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place where the client draws from the system")]
fn random_seed() -> Result<[u8; 32], StartError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(StartError::Random)?;
    Ok(seed)
}

/// What the client does for its node.
struct ClientOutside {
    shared: Rc<Shared<ClientNode>>,
    answers: Answers,
    treasurer: Option<Treasurer>,
    guards: Option<GuardFile>,
}

impl Outside for ClientOutside {
    fn event(&mut self, event: Event) {
        if let (Event::Money, Some(treasurer)) = (&event, &self.treasurer) {
            treasurer.work(&self.shared);
        }
        if let (Event::Guards, Some(file)) = (&event, &self.guards) {
            file.write(&self.shared.look(ClientNode::guards));
        }
        if let Event::Answered(flow, code) = event
            && let Some(waiting) = self.answers.borrow_mut().remove(&flow)
        {
            // An application that has left needs no answer.
            let _ = waiting.send(code);
        }
    }
}

/// Answers commands until the last handle is gone.
fn answer(
    shared: Rc<Shared<ClientNode>>,
    socks: SocketAddr,
    money: Option<(Address, watch::Receiver<Health>)>,
    mut commands: mpsc::Receiver<Command>,
) -> impl Future<Output = ()> {
    let started = driver::now().instant;
    async move {
        while let Some(command) = commands.recv().await {
            // Who asked may have left.
            match command {
                Command::Status(to) => {
                    let counters = shared.counters();
                    let packets = [counters.packets_out, counters.packets_in];
                    let mut status = shared.look(|node| report::status(node, started, socks, packets));
                    status.money = money.as_ref().and_then(|(owner, health)| {
                        shared.look(|node| money::report(node, *owner, &health.borrow()).map(Box::new))
                    });
                    drop(to.send(status));
                }
                Command::Circuits(to) => drop(to.send(shared.look(report::circuits))),
                Command::Relays(to) => drop(to.send(shared.look(report::relays))),
                Command::NewIdentity(to) => {
                    shared.with_node(ClientNode::new_identity);
                    let _ = to.send(());
                }
                Command::View { view, to } => {
                    shared.with_node(|node, now| node.set_view(now, *view));
                    let _ = to.send(());
                }
                Command::Ready(to) => {
                    wait(&shared, to, |shared| shared.look(ClientNode::is_ready).then_some(()));
                }
                Command::Build { count, concurrency, to } => {
                    let number = shared.with_node(|node, now| node.test(now, count, concurrency));
                    wait(&shared, to, move |shared| built(shared, number));
                }
                Command::Probe { relay, to } => {
                    let number = shared.with_node(|node, now| node.probe(now, relay));
                    wait(&shared, to, move |shared| built(shared, number));
                }
                Command::Directory { question, to } => {
                    let number = shared.with_node(|node, now| node.ask_directory(now, &question));
                    wait(&shared, to, move |shared| {
                        shared.with_node(|node, now| node.take_answer(now, number))
                    });
                }
                Command::Ping { all, to } => {
                    let run = shared.with_node(|node, now| node.ping(now, all));
                    wait(&shared, to, move |shared| {
                        let echoes = shared.with_node(|node, now| node.take_echoes(now, run))?;
                        Some(shared.look(|node| echoes.iter().map(|echo| report::echo(node, echo)).collect()))
                    });
                }
            }
        }
    }
}

/// Looks from time to time whether there is an answer, until there is or nobody waits for it.
fn wait<T: 'static>(
    shared: &Rc<Shared<ClientNode>>,
    to: oneshot::Sender<T>,
    look: impl Fn(&Shared<ClientNode>) -> Option<T> + 'static,
) {
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        while !to.is_closed() {
            if let Some(answer) = look(&shared) {
                let _ = to.send(answer);
                return;
            }
            sleep(LOOK).await;
        }
    });
}

fn built(shared: &Shared<ClientNode>, number: u64) -> Option<status::BuildReport> {
    shared.with_node(|node, _| node.take_test(number)).map(report::built)
}
