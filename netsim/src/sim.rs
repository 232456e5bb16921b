//! The simulation: the clock, what is under way, and the loop that drives the nodes by the contract of
//! [`circuit::node`].

use core::fmt;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use circuit::error::DropReason;
use circuit::keys::Random;
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::packet::{PACKET, Packet};
use circuit::request::{ReplyCode, Target};
use client::node::ClientNode;
use rand_core::{Rng as _, SeedableRng as _};
use router::node::RelayNode;

use crate::app::{App, AppId, Wish};
use crate::chain::Chain;
use crate::host::{Host, HostId, Program, Running, SOCKET};
use crate::money::DOMAIN;
use crate::network::{Datagram, Network};
use crate::site::{ConnectionId, Service, Signal, Sites};

/// The wall clock at the start: 2027-01-15 10:00:00 UTC, inside an epoch, in ms.
pub const START_MS: u64 = 1_800_007_200_000;
/// A site that has not answered for so long is not connected to.
const CONNECT_TIME: Duration = Duration::from_secs(8);
/// A node that is still busy after so many rounds without any time passing is broken.
const MOST_ROUNDS: u32 = 10_000;

/// The clocks, which move only when the simulation moves them.
#[derive(Clone, Copy, Debug)]
struct Clock {
    base: Instant,
    elapsed: Duration,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "anchor of virtual time")]
    fn new() -> Self {
        Self { base: Instant::now(), elapsed: Duration::ZERO }
    }

    fn now(&self) -> Now {
        let ms = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX);
        Now { instant: self.base + self.elapsed, unix_ms: START_MS.saturating_add(ms) }
    }
}

/// Something that will happen.
#[derive(Debug)]
enum Coming {
    Arrival { from: SocketAddr, to: SocketAddr, packet: Datagram },
    Departure(Captured),
    Wake(HostId),
    ToSite(ConnectionId, Signal),
    ToExit(ConnectionId, Signal),
}

/// What happens at a time; equal times in the order of their numbers.
#[derive(Debug)]
struct Scheduled(Duration, u64, Coming);

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A packet that was sent, as [`Sim::capture`] notes it.
#[derive(Clone, Debug)]
pub struct Captured {
    /// From whom.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// As sealed.
    pub packet: Datagram,
}

/// What somebody on the wire makes of a packet that a node sends: what goes on in its place, and after which time.
type Tap = Box<dyn FnMut(Duration, Captured) -> Vec<(Duration, Captured)>>;

#[derive(Default)]
struct Tapped(Option<Tap>);

impl fmt::Debug for Tapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "tapped" } else { "not tapped" })
    }
}

/// A network in virtual time.
#[derive(Debug)]
pub struct Sim {
    clock: Clock,
    coming: BinaryHeap<Reverse<Scheduled>>,
    number: u64,
    pub(crate) rng: Random,
    trace: u64,
    captured: Option<Vec<Captured>>,
    tapped: Tapped,
    /// What happens between hosts.
    pub network: Network,
    /// What there is beyond the exits.
    pub sites: Sites,
    /// Where pots are.
    pub chain: Chain,
    pub(crate) hosts: Vec<Host>,
    by_address: BTreeMap<SocketAddr, HostId>,
}

impl Sim {
    /// A network without hosts.
    pub fn new(seed: u64) -> Self {
        Self {
            clock: Clock::new(),
            coming: BinaryHeap::new(),
            number: 0,
            rng: Random::seed_from_u64(seed),
            trace: seed,
            captured: None,
            tapped: Tapped::default(),
            network: Network::default(),
            sites: Sites::default(),
            chain: Chain::new(DOMAIN),
            hosts: Vec::new(),
            by_address: BTreeMap::new(),
        }
    }

    /// Both clocks.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// The time since the start.
    pub const fn elapsed(&self) -> Duration {
        self.clock.elapsed
    }

    /// A number that two runs share only if every packet was sent at the same time with the same bytes.
    pub const fn trace(&self) -> u64 {
        self.trace
    }

    /// A fresh seed for a node.
    pub fn draw(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }

    // --- hosts -------------------------------------------------------------------------------------------------

    /// Adds a host with its node and lets it begin.
    pub fn add(&mut self, address: SocketAddr, program: Program, running: Running) -> HostId {
        let id = HostId(self.hosts.len());
        self.hosts.push(Host::new(address, program, running));
        self.by_address.insert(address, id);
        self.drive(id);
        id
    }

    /// Puts a node that a test has made in the place of the one that runs.
    pub fn replace(&mut self, id: HostId, node: Box<dyn Node>) {
        self.kill(id);
        let host = self.host_mut(id);
        host.program = Program::Foreign;
        host.running = Some(Running::Foreign(node));
        self.drive(id);
    }

    /// A host.
    ///
    /// # Panics
    ///
    /// When the host is of another simulation.
    pub fn host(&self, id: HostId) -> &Host {
        self.hosts.get(id.0).expect("a host of this simulation")
    }

    pub(crate) fn host_mut(&mut self, id: HostId) -> &mut Host {
        self.hosts.get_mut(id.0).expect("a host of this simulation")
    }

    /// The relay on a host.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn relay(&self, id: HostId) -> &RelayNode {
        match &self.host(id).running {
            Some(Running::Relay(node)) => node,
            other => panic!("no relay runs on {id:?}: {other:?}"),
        }
    }

    /// The client on a host.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn client(&self, id: HostId) -> &ClientNode {
        match &self.host(id).running {
            Some(Running::Client(node)) => node,
            other => panic!("no client runs on {id:?}: {other:?}"),
        }
    }

    /// Calls the relay on a host.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn with_relay<R>(&mut self, id: HostId, call: impl FnOnce(&mut RelayNode, Now) -> R) -> R {
        let now = self.now();
        let result = match &mut self.host_mut(id).running {
            Some(Running::Relay(node)) => call(node, now),
            other => panic!("no relay runs on {id:?}: {other:?}"),
        };
        self.drive(id);
        result
    }

    /// Questions about the directory that came to a host since this was asked last.
    pub fn take_questions(&mut self, id: HostId) -> Vec<(FlowId, Bytes)> {
        std::mem::take(&mut self.host_mut(id).questions)
    }

    /// Calls the client on a host, as its control interface would.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn with_client<R>(&mut self, id: HostId, call: impl FnOnce(&mut ClientNode, Now) -> R) -> R {
        let now = self.now();
        let result = match &mut self.host_mut(id).running {
            Some(Running::Client(node)) => call(node, now),
            other => panic!("no client runs on {id:?}: {other:?}"),
        };
        self.drive(id);
        result
    }

    // --- applications ------------------------------------------------------------------------------------------

    /// An application asks its client for a stream.
    ///
    /// # Panics
    ///
    /// When no client runs on the host.
    pub fn open(&mut self, host: HostId, wish: Wish) -> AppId {
        let (target, isolation, asked) = (wish.target.clone(), wish.isolation.clone(), self.elapsed());
        let now = self.now();
        let running = &mut self.host_mut(host).running;
        let Some(Running::Client(node)) = running else { panic!("no client runs on {host:?}") };
        let flow = node.open(now, isolation, target);
        self.host_mut(host).apps.insert(flow, App::new(asked, wish, flow));
        self.drive(host);
        AppId { host, flow }
    }

    /// An application.
    ///
    /// # Panics
    ///
    /// When its client was restarted.
    pub fn app(&self, id: AppId) -> &App {
        self.host(id.host).apps.get(&id.flow).expect("an application of this client")
    }

    /// Tells an application of [`crate::content::Ending::Hold`] to end its direction.
    pub fn hang_up(&mut self, id: AppId) {
        if let Some(app) = self.host_mut(id.host).apps.get_mut(&id.flow) {
            app.hang_up();
        }
        self.advance_app(id.host, id.flow);
        self.drive(id.host);
    }

    // --- time --------------------------------------------------------------------------------------------------

    /// Lets `time` pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.clock.elapsed + time;
        while self.step(end) {}
        self.clock.elapsed = end;
    }

    /// Lets time pass until `done`, at most `time`; whether it is done.
    pub fn run_until(&mut self, time: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.clock.elapsed + time;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                self.clock.elapsed = end;
                return done(self);
            }
        }
    }

    /// Lets the next thing happen, if it does before `end`.
    fn step(&mut self, end: Duration) -> bool {
        if self.coming.peek().is_none_or(|Reverse(Scheduled(at, ..))| *at > end) {
            return false;
        }
        let Some(Reverse(Scheduled(at, _, coming))) = self.coming.pop() else {
            return false;
        };
        self.clock.elapsed = self.clock.elapsed.max(at);
        match coming {
            Coming::Arrival { from, to, packet } => self.arrive(from, to, packet),
            Coming::Departure(Captured { from, to, packet }) => self.send(from, to, packet),
            Coming::Wake(host) => {
                if self.host(host).armed == Some(at) {
                    self.host_mut(host).armed = None;
                    self.drive(host);
                }
            }
            Coming::ToSite(id, signal) => {
                if let Some((delay, answers)) = self.sites.take(id, signal) {
                    for answer in answers {
                        self.after(delay, Coming::ToExit(id, answer));
                    }
                }
            }
            Coming::ToExit(id, signal) => self.take_signal(id, signal),
        }
        true
    }

    fn after(&mut self, delay: Duration, coming: Coming) {
        self.at(self.clock.elapsed + delay, coming);
    }

    fn at(&mut self, at: Duration, coming: Coming) {
        self.number += 1;
        self.coming.push(Reverse(Scheduled(at, self.number, coming)));
    }

    // --- packets -----------------------------------------------------------------------------------------------

    /// Notes every packet that is sent from now on.
    pub fn capture(&mut self) {
        self.captured = Some(Vec::new());
    }

    /// What was sent since [`Sim::capture`].
    pub fn take_captured(&mut self) -> Vec<Captured> {
        self.captured.take().unwrap_or_default()
    }

    /// Puts somebody on the wire who sees every packet that a node sends, and says what goes on in its place.
    pub fn tap(&mut self, tap: impl FnMut(Duration, Captured) -> Vec<(Duration, Captured)> + 'static) {
        self.tapped = Tapped(Some(Box::new(tap)));
    }

    /// Shows a packet to the node on a host, with no network between; what the node has to say waits for [`Sim::drive`].
    ///
    /// Nothing when the node is dead or frozen.
    pub fn show(
        &mut self,
        id: HostId,
        from: SocketAddr,
        packet: &mut [u8; PACKET],
    ) -> Option<Result<Verdict, DropReason>> {
        let now = self.now();
        Some(self.host_mut(id).node()?.handle_datagram(now, from, Packet::received(packet)))
    }

    /// A node sends a packet.
    fn emit(&mut self, from: SocketAddr, to: SocketAddr, packet: Datagram) {
        let Some(tap) = &mut self.tapped.0 else { return self.send(from, to, packet) };
        for (delay, instead) in tap(self.clock.elapsed, Captured { from, to, packet }) {
            if delay.is_zero() {
                self.send(instead.from, instead.to, instead.packet);
            } else {
                self.after(delay, Coming::Departure(instead));
            }
        }
    }

    /// Puts a packet on the wire, as anybody can who can forge addresses.
    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, packet: Datagram) {
        let at = self.clock.elapsed;
        self.note(at, from, to, &packet);
        if let Some(captured) = &mut self.captured {
            captured.push(Captured { from, to, packet: packet.clone() });
        }
        for (at, packet) in self.network.carry(&mut self.rng, at, (from, to), packet) {
            self.at(at, Coming::Arrival { from, to, packet });
        }
    }

    fn note(&mut self, at: Duration, from: SocketAddr, to: SocketAddr, packet: &Datagram) {
        let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        let place = |id: Option<&HostId>| id.map_or(u64::MAX, |id| id.0 as u64);
        let ends = [nanos, place(self.by_address.get(&from)), place(self.by_address.get(&to))];
        let (words, _) = packet.as_chunks::<8>();
        for word in ends.into_iter().chain(words.iter().map(|word| u64::from_le_bytes(*word))) {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
        }
    }

    pub(crate) fn arrive(&mut self, from: SocketAddr, to: SocketAddr, mut packet: Datagram) {
        let Some(id) = self.by_address.get(&to).copied() else {
            return;
        };
        let now = self.now();
        let host = self.host_mut(id);
        if let Some(waiting) = &mut host.frozen {
            if waiting.packets.len() < SOCKET {
                waiting.packets.push((from, packet));
            }
            return;
        }
        let Some(node) = host.node() else { return };
        match node.handle_datagram(now, from, Packet::received(&mut packet)) {
            Ok(Verdict::Forward(onward)) => {
                // What is to be stored is stored before anything is sent.
                self.handle_events(id);
                self.handle_money(id);
                self.emit(to, onward, packet);
            }
            Ok(Verdict::Consumed) => {}
            Err(reason) => host.drops.count(reason),
        }
        self.drive(id);
    }

    /// Drains a node, does what is due, and notes when something will be due next; to be called by a test that has
    /// changed a node of its own making.
    ///
    /// # Panics
    ///
    /// When the node does not come to rest.
    pub fn drive(&mut self, id: HostId) {
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < MOST_ROUNDS, "{:?} does not come to rest", self.host(id));
            let now = self.now();
            let address = self.host(id).address;
            let mut busy = self.handle_events(id) | self.handle_money(id);
            let mut packet = Box::new([0; PACKET]);
            while let Some(to) =
                self.host_mut(id).node().and_then(|node| node.poll_transmit(now, &mut packet))
            {
                busy = true;
                self.emit(address, to, packet);
                packet = Box::new([0; PACKET]);
            }
            if busy {
                continue;
            }
            let Some(node) = self.host_mut(id).node() else {
                return;
            };
            match node.poll_timeout() {
                Some(due) if due <= now.instant => node.handle_timeout(now),
                Some(due) => return self.arm(id, due - self.clock.base),
                None => return,
            }
        }
    }

    fn arm(&mut self, id: HostId, due: Duration) {
        let host = self.host_mut(id);
        if host.armed.is_none_or(|armed| due < armed) {
            host.armed = Some(due);
            self.at(due, Coming::Wake(id));
        }
    }

    /// Does what the node wants done; whether it wanted anything.
    fn handle_events(&mut self, id: HostId) -> bool {
        let mut any = false;
        while let Some(event) = self.host_mut(id).node().and_then(Node::poll_event) {
            any = true;
            match event {
                // `handle_money` asks by itself.
                Event::Money => {}
                Event::Guards => {
                    let guards = self.client(id).guards();
                    self.host_mut(id).guards = guards;
                }
                Event::Persist(entry) => self.host_mut(id).log.push(entry),
                Event::Directory(flow, question) => self.host_mut(id).questions.push((flow, question)),
                Event::Connect(flow, target) => self.connect(id, flow, &target),
                Event::Answered(flow, code) => {
                    let at = self.elapsed();
                    if let Some(app) = self.host_mut(id).apps.get_mut(&flow) {
                        app.take_answer(at, code);
                    }
                    self.advance_app(id, flow);
                }
                Event::Readable(flow) | Event::Writable(flow) => {
                    self.advance_app(id, flow);
                    self.advance_connection(id, flow);
                }
                Event::Closed(flow) => self.closed(id, flow),
                other => panic!("an event that nobody handles: {other:?}"),
            }
        }
        any
    }

    fn advance_app(&mut self, id: HostId, flow: FlowId) {
        let (now, at) = (self.now(), self.elapsed());
        let host = self.host_mut(id);
        if let (Some(Running::Client(node)), Some(app)) = (&mut host.running, host.apps.get_mut(&flow)) {
            app.advance(node, now, at);
        }
    }

    fn closed(&mut self, id: HostId, flow: FlowId) {
        let at = self.elapsed();
        self.advance_app(id, flow);
        if let Some(app) = self.host_mut(id).apps.get_mut(&flow) {
            app.take_closed(at);
        }
        self.advance_connection(id, flow);
        if let Some(connection) = self.host_mut(id).connections.remove(&flow) {
            self.tell_site(connection, Signal::Reset);
        }
    }

    // --- connections beyond the exits --------------------------------------------------------------------------

    fn tell_site(&mut self, id: ConnectionId, signal: Signal) {
        if let Some(connection) = self.sites.get_mut(id) {
            let delay = connection.delay;
            if matches!(signal, Signal::Reset) {
                connection.inbox = VecDeque::new();
            }
            self.after(delay, Coming::ToSite(id, signal));
        }
    }

    // circuit.exit.1
    fn connect(&mut self, id: HostId, flow: FlowId, target: &Target) {
        let site = self.sites.find(target);
        let Some(Running::Relay(node)) = &mut self.host_mut(id).running else {
            return;
        };
        match site {
            None => node.connected(flow, ReplyCode::HostUnreachable),
            Some(site) if !node.exit_allows(site.ip, target.port) => {
                node.connected(flow, ReplyCode::NotAllowed);
            }
            Some(site) => {
                let connection = self.sites.begin(id, flow, site);
                self.host_mut(id).connections.insert(flow, connection);
                self.tell_site(connection, Signal::Connect);
                if site.service != Service::Lost {
                    let late = Signal::Connected(ReplyCode::TtlExpired);
                    self.after(CONNECT_TIME, Coming::ToExit(connection, late));
                }
            }
        }
    }

    /// The exit's socket hears from the site.
    pub(crate) fn take_signal(&mut self, id: ConnectionId, signal: Signal) {
        let now = self.now();
        let Some(connection) = self.sites.get_mut(id) else {
            return;
        };
        let (exit, flow) = (connection.exit, connection.flow);
        if self.host(exit).connections.get(&flow) != Some(&id) {
            return;
        }
        if let Some(waiting) = &mut self.host_mut(exit).frozen {
            waiting.signals.push((id, signal));
            return;
        }
        let Some(connection) = self.sites.get_mut(id) else {
            return;
        };
        match signal {
            Signal::Data(bytes) => connection.inbox.push_back(bytes),
            Signal::Room(bytes) => connection.room += bytes,
            Signal::End => connection.ended = true,
            Signal::Connected(_) if connection.connected => return,
            Signal::Connected(code) => {
                connection.connected = true;
                if code != ReplyCode::Succeeded {
                    self.host_mut(exit).connections.remove(&flow);
                }
                if let Some(Running::Relay(node)) = &mut self.host_mut(exit).running {
                    node.connected(flow, code);
                }
            }
            Signal::Reset => {
                self.host_mut(exit).connections.remove(&flow);
                if let Some(node) = self.host_mut(exit).node() {
                    node.flow_reset(now, flow);
                }
            }
            Signal::Connect => {}
        }
        self.advance_connection(exit, flow);
        self.drive(exit);
    }

    /// Moves between an exit's stream and its connection what can be moved.
    fn advance_connection(&mut self, exit: HostId, flow: FlowId) {
        let now = self.now();
        let Some(id) = self.host(exit).connections.get(&flow).copied() else {
            return;
        };
        let Some(node) = self.hosts.get_mut(exit.0).and_then(Host::node) else {
            return;
        };
        let Some(connection) = self.sites.get_mut(id) else {
            return;
        };
        let mut told = vec![];
        let mut reset = false;
        while let Some(bytes) = connection.inbox.front_mut() {
            match node.flow_write(now, flow, bytes) {
                FlowWrite::Accepted(0) => break,
                FlowWrite::Accepted(taken) => {
                    bytes.advance(taken);
                    told.push(Signal::Room(taken));
                    if bytes.is_empty() {
                        connection.inbox.pop_front();
                    }
                }
                FlowWrite::Reset => {
                    reset = true;
                    break;
                }
            }
        }
        if connection.inbox.is_empty() && connection.ended && !reset {
            node.flow_finish(now, flow);
        }
        while !connection.said_end && !reset && connection.room > 0 {
            match node.flow_read(now, flow, connection.room) {
                FlowRead::Data(bytes) => {
                    connection.room -= bytes.len();
                    told.push(Signal::Data(bytes));
                }
                FlowRead::Blocked => break,
                FlowRead::Finished => {
                    connection.said_end = true;
                    told.push(Signal::End);
                }
                FlowRead::Reset => reset = true,
            }
        }
        let over = connection.said_end && connection.ended && connection.inbox.is_empty();
        if reset {
            node.flow_reset(now, flow);
            told.push(Signal::Reset);
        }
        if reset || over {
            self.host_mut(exit).connections.remove(&flow);
        }
        for signal in told {
            self.tell_site(id, signal);
        }
    }
}
