//! The client's driver: its socket, its SOCKS5 entry, and the handle that the outside holds.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use circuit::keys::{NetworkId, RelayId};
use circuit::node::Event;
use circuit::setup::Status as SetupStatus;
use directory::view::View;
use driver::{Outside, Shared, UdpSocket};
use payments::Address;
use payments::treasury::Health;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::money::{self, Money, Opened, Treasurer};
use crate::node::{ClientNode, Config};
use crate::pool::{Circuit, Purpose, TestRun};
use crate::proxy::{Answers, Proxy};
use crate::status;

/// How often a task looks whether what it waits for is there.
const LOOK: Duration = Duration::from_millis(5);

/// Everything that a client is started with.
#[derive(Debug)]
pub struct Settings {
    /// Its network.
    pub network: NetworkId,
    /// The relays.
    pub view: View,
    /// Where applications reach it by SOCKS5.
    pub socks: SocketAddr,
    /// Relays in each path.
    pub hops: usize,
    /// Circuits that are kept ready.
    pub prebuilt: usize,
    /// The local address of its links.
    pub udp: SocketAddr,
    /// How it pays; nothing on a free network.
    pub money: Option<Money>,
}

/// Why a client did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP socket.
    #[error(transparent)]
    Bind(#[from] driver::BindError),
    /// The SOCKS5 listener.
    #[error(
        "cannot listen on {address}: {source}; stop the program that has this port, or choose another one, in the setting `socks`"
    )]
    Socks {
        /// The address that was asked for.
        address: SocketAddr,
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
}

/// A client whose sockets are bound.
#[derive(Debug)]
pub struct Client {
    shared: Rc<Shared<ClientNode>>,
    socket: UdpSocket,
    listener: std::net::TcpListener,
    socks: SocketAddr,
    money: Option<Opened>,
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
        let config = Config {
            network: settings.network,
            view: settings.view,
            hops: settings.hops,
            prebuilt: settings.prebuilt,
            payer,
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
        let Self { shared, socket, listener, socks, money, handle: _, commands, mut stopped } = self;
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
        let outside = ClientOutside { shared: Rc::clone(&shared), answers, treasurer };
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
}

impl Outside for ClientOutside {
    fn event(&mut self, event: Event) {
        if let (Event::Money, Some(treasurer)) = (&event, &self.treasurer) {
            treasurer.work(&self.shared);
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
                    let mut status = report(&shared, started, socks);
                    status.money = money.as_ref().and_then(|(owner, health)| {
                        shared.look(|node| money::report(node, *owner, &health.borrow()).map(Box::new))
                    });
                    drop(to.send(status));
                }
                Command::Circuits(to) => drop(to.send(shared.look(circuits))),
                Command::Ready(to) => {
                    let shared = Rc::clone(&shared);
                    tokio::task::spawn_local(async move {
                        while !shared.look(ClientNode::is_ready) && !to.is_closed() {
                            sleep(LOOK).await;
                        }
                        let _ = to.send(());
                    });
                }
                Command::Build { count, concurrency, to } => {
                    let shared = Rc::clone(&shared);
                    tokio::task::spawn_local(async move {
                        drop(to.send(build(&shared, count, concurrency).await));
                    });
                }
            }
        }
    }
}

async fn build(shared: &Shared<ClientNode>, count: usize, concurrency: usize) -> status::BuildReport {
    let number = shared.with_node(|node, now| node.test(now, count, concurrency));
    loop {
        if let Some(run) = shared.with_node(|node, _| node.take_test(number)) {
            return build_report(run);
        }
        sleep(LOOK).await;
    }
}

fn build_report(mut run: TestRun) -> status::BuildReport {
    run.times.sort_unstable();
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    let at = |percent: usize| {
        let place = (run.times.len() * percent).div_ceil(100).max(1) - 1;
        run.times.get(place).map_or(0.0, ms)
    };
    let ended = run.ended.unwrap_or(run.started);
    let seconds = ended.saturating_duration_since(run.started).as_secs_f64();
    let built = run.times.len() as u64;
    let quantiles = status::Quantiles { p50: at(50), p95: at(95), max: at(100) };
    status::BuildReport {
        asked: run.asked as u64,
        built,
        failed: run.failed.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        seconds,
        per_second: f64::from(u32::try_from(built).unwrap_or(u32::MAX)) / seconds.max(1e-9),
        ms: (built > 0).then_some(quantiles),
    }
}

/// What went wrong, and what to do where the words alone do not tell.
fn explained(error: &str) -> String {
    let hint = if error.ends_with(SetupStatus::Expired.as_str()) {
        "; a relay found the time of the setup wrong: check this computer's clock"
    } else {
        ""
    };
    format!("{error}{hint}")
}

fn report(shared: &Shared<ClientNode>, started: Instant, socks: SocketAddr) -> status::Status {
    let counters = shared.counters();
    shared.look(|node| {
        let pool = node.pool();
        let ready = pool.values().filter(|circuit| circuit.opened.is_some()).count();
        let link = node.entry_link();
        let state = match (node.clock_off(), node.is_ready(), link) {
            (Some(off), false, _) => format!("clock is off by {off} s"),
            (_, true, _) => "ready".to_owned(),
            (_, false, Some(_)) => "connecting".to_owned(),
            (_, false, None) => "starting".to_owned(),
        };
        let rtt = link.and_then(|link| node.links().rtt(link));
        status::Status {
            state,
            uptime_s: driver::now().instant.saturating_duration_since(started).as_secs(),
            hops: node.hops(),
            socks,
            circuits: status::Circuits {
                ready: ready as u64,
                building: (pool.len() - ready) as u64,
                failed: node.counts().failed,
            },
            streams: node.streams() as u64,
            bytes_up: node.counts().bytes_up,
            bytes_down: node.counts().bytes_down,
            packets: [counters.packets_out, counters.packets_in],
            link_rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
            last_error: node.counts().last_error.as_deref().map(explained),
            money: None,
        }
    })
}

fn circuits(node: &ClientNode) -> Vec<status::Circuit> {
    let now = driver::now().instant;
    let hop = |id: &RelayId| {
        let relay = node.view().get(id)?;
        let country = relay.country.map(|code| String::from_utf8_lossy(&code).to_lowercase());
        let short = id.to_string().chars().take(8).collect();
        Some(status::Hop { id: short, country, address: *relay.addresses.first()? })
    };
    let one = |(key, circuit): (&circuit::table::CircuitKey, &Circuit)| status::Circuit {
        id: key.number(),
        state: match (circuit.opened, circuit.silent) {
            (None, _) => "building",
            (Some(_), None) => "ready",
            (Some(_), Some(_)) => "closing",
        }
        .to_owned(),
        purpose: match circuit.purpose {
            Purpose::Spare => "spare",
            Purpose::Streams(_) => "streams",
            Purpose::Test(_) => "test",
        }
        .to_owned(),
        path: circuit.path.iter().filter_map(hop).collect(),
        age_s: now.saturating_duration_since(circuit.began).as_secs(),
        rtt_ms: node
            .flows()
            .stats(*key)
            .filter(|stats| stats.received > 0)
            .map(|stats| stats.rtt.as_secs_f64() * 1e3),
        streams: node.flows().on(*key) as u64,
        cells_sent: circuit.sent,
        cells_received: circuit.received,
    };
    node.pool().iter().map(one).collect()
}
