//! A whole client whose relays keep no rules but those of links.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use circuit::cell::{self, BodyType, read_body, write_body};
use circuit::ledger::AccountId;
use circuit::link::LinkId;
use circuit::node::{Event, FlowId, Node as _, Now};
use circuit::packet::{CELL, Cell, CircuitWord, PACKET, PacketType};
use circuit::relay::{Action, Asks, CellStep, From, Relay, RelayConfig};
use circuit::request::{Host, ReplyCode, Target};
use circuit::seen::SeenSetups;
use circuit::setup::Status;
use circuit::stream::StreamConfig;
use circuit::table::CircuitKey;
use client::node::{ClientNode, Config};
use client::socks::Credentials;
use client::wishes::Wishes;
use router::exit::Exit;
use router::policy::ExitPolicy;

use crate::edits::edit;
use crate::fixture::{NETWORK, epoch, identity, onion_key, pass, rng, start};
use crate::input::Input;
use crate::neighbour::{ASK, Neighbour, Sent, address, drain_node, give, paid_view, run_timers, view};
use crate::quic;

mod teller;

use teller::Teller;

const MOST_CARRIED: usize = 3000;
const MOST_STREAMS: usize = 50;

/// A relay of the network: honest machinery, and one who uses it as he likes.
struct Station {
    neighbour: Neighbour,
    relay: Relay,
    exit: Exit,
    circuits: Vec<(CircuitKey, LinkId, CircuitWord)>,
    asked: Vec<FlowId>,
    teller: Option<Teller>,
}

struct World {
    now: Now,
    node: ClientNode,
    stations: Vec<Station>,
    streams: Vec<FlowId>,
    answered: BTreeSet<FlowId>,
    queue: VecDeque<(SocketAddr, Sent)>,
    /// So many replies of relays are changed, or get lost.
    bad_replies: u8,
    loses: bool,
    tests: u64,
    /// The most that each account had committed.
    peaks: BTreeMap<AccountId, u128>,
}

fn client_address() -> SocketAddr {
    ([10, 0, 0, 1], 1000).into()
}

impl Station {
    fn new(n: u8, paid: bool) -> Self {
        let asks = paid.then_some(Asks { forward: ASK, exit: ASK });
        let config = RelayConfig { exit: true, single_hop: true, asks, ..RelayConfig::new(identity(n).id()) };
        let onion = BTreeMap::from([(epoch(), onion_key(n)), (epoch() + 1, onion_key(n))]);
        Self {
            neighbour: Neighbour::new(Some(n), address(n)),
            relay: Relay::new(config, onion, SeenSetups::restored([]), rng(0x30 + n)),
            teller: paid.then(|| Teller::new(n)),
            exit: Exit::new(ExitPolicy::default(), StreamConfig::default(), rng(0x38 + n)),
            circuits: vec![],
            asked: vec![],
        }
    }

    /// A packet of the client's for a circuit.
    fn take(&mut self, now: Now, link: LinkId, word: CircuitWord, mut cell: Box<Cell>) {
        match word.kind() {
            Some(PacketType::Setup) => {
                let links = &self.neighbour.links;
                let from = From {
                    link,
                    peer: links.peer(link),
                    source: links.source(link),
                    our_opener: links.our_opener(link),
                    account: self.teller.as_mut().map(|teller| teller.account(&mut self.relay)),
                };
                let _ = self.relay.handle_setup(now, from, word, &cell);
            }
            Some(PacketType::Cell) => {
                let Ok(CellStep::Here(key)) = self.relay.handle_cell(now.instant, link, word, &mut cell)
                else {
                    return;
                };
                if !self.circuits.iter().any(|(known, ..)| *known == key) {
                    self.circuits.push((key, link, word));
                }
                let (kind, packet) = read_body(cell::body(&mut cell)).expect("a body of a client");
                assert_eq!(kind, BodyType::Quic);
                let _ = self.exit.handle_packet(now.instant, key, packet);
            }
            Some(PacketType::Destroy) => {
                let _ = self.relay.handle_destroy(now, link, word);
            }
            kind => panic!("a client sends {kind:?}"),
        }
    }

    fn start(&mut self, now: Now, key: CircuitKey, mut cell: Cell) -> Option<Sent> {
        let (link, word) = self.relay.start(key, &mut cell)?;
        self.neighbour.seal(now, link, word.with_kind(PacketType::Cell), &cell)
    }

    /// Sends what the machinery wants sent.
    fn act(&mut self, now: Now, bad_replies: &mut u8, loses: bool) -> Vec<Sent> {
        let mut sent = self.neighbour.drain(now);
        if let Some(teller) = &mut self.teller {
            let frames = teller.act(now, &mut self.relay, &mut self.neighbour);
            sent.extend(self.neighbour.pay(now, &frames));
        }
        for link in core::mem::take(&mut self.neighbour.lost) {
            self.relay.handle_link_lost(now, link);
        }
        while let Some(action) = self.relay.poll_action() {
            match action {
                Action::Send(link, word, mut cell) => {
                    if word.kind() == Some(PacketType::Reply) && *bad_replies > 0 {
                        *bad_replies -= 1;
                        cell[7] ^= 1;
                        if loses {
                            continue;
                        }
                    }
                    sent.extend(self.neighbour.seal(now, link, word, &cell));
                }
                Action::Extend(key, _) => self.relay.refuse(now, key, Status::Unreachable),
                Action::Grant(..)
                | Action::Granted(_)
                | Action::Hold(_)
                | Action::Release(_)
                | Action::Log(_) => {}
                Action::Ended(key) => {
                    self.circuits.retain(|(known, ..)| *known != key);
                    self.exit.remove(key);
                }
            }
        }
        loop {
            let mut cell = [0; CELL];
            let (exit, relay, mut circuit) = (&mut self.exit, &self.relay, None);
            let fill = |data: &mut [u8; cell::MAX_DATA]| {
                let (key, length) = exit.poll_transmit(now.instant, data, |key| relay.may_start(key))?;
                circuit = Some(key);
                Some(length)
            };
            write_body(cell::body(&mut cell), BodyType::Quic, fill).unwrap();
            let Some(key) = circuit else { break };
            sent.extend(self.start(now, key, cell));
        }
        while let Some(event) = self.exit.poll_event() {
            if let Event::Connect(flow, _) = event {
                self.asked.push(flow);
            }
        }
        while let Some(key) = self.exit.poll_lost() {
            self.relay.close(now, key);
        }
        sent
    }
}

impl World {
    fn new(hops: usize, paid: bool) -> Self {
        let now = start();
        let (view, payer) = if paid { (paid_view(), Some(teller::payer())) } else { (view(), None) };
        let config = Config { prebuilt: 1, payer, ..Config::new(NETWORK, view, Wishes::hops(hops)) };
        let mut world = Self {
            now,
            node: ClientNode::new(now, config, [1; 32]),
            stations: (1..4).map(|n| Station::new(n, paid)).collect(),
            peaks: BTreeMap::new(),
            streams: vec![],
            answered: BTreeSet::new(),
            queue: VecDeque::new(),
            bad_replies: 0,
            loses: false,
            tests: 0,
        };
        world.pass(Duration::ZERO);
        world
    }

    fn settle(&mut self) {
        for _ in 0..MOST_CARRIED {
            self.node_events();
            teller::serve(self.now, &mut self.node, &mut self.peaks);
            for station in &mut self.stations {
                let sent = station.act(self.now, &mut self.bad_replies, self.loses);
                self.queue.extend(sent.into_iter().map(|sent| (station.neighbour.address, sent)));
            }
            let said = drain_node(&mut self.node, self.now);
            self.queue.extend(said.into_iter().map(|sent| (client_address(), sent)));
            let Some((from, (to, bytes))) = self.queue.pop_front() else { return };
            self.carry(from, to, bytes);
        }
        self.queue.clear();
    }

    fn carry(&mut self, from: SocketAddr, to: SocketAddr, bytes: Box<[u8; PACKET]>) {
        if to == client_address() {
            assert!(give(&mut self.node, self.now, from, bytes).is_none(), "a client that forwards");
            return;
        }
        let station = self.stations.iter_mut().find(|station| station.neighbour.address == to);
        let station = station.expect("a packet to nobody");
        if let Some((link, word, cell)) = station.neighbour.open(self.now, from, bytes) {
            station.take(self.now, link, word, cell);
        }
    }

    fn node_events(&mut self) {
        while let Some(event) = self.node.poll_event() {
            match event {
                Event::Answered(flow, _) => {
                    assert!(self.answered.insert(flow), "a request that is answered twice");
                }
                Event::Connect(..) | Event::Persist(_) => panic!("{event:?}"),
                _ => {}
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        pass(&mut self.now, time);
        for station in &mut self.stations {
            station.neighbour.links.handle_timeout(self.now);
            station.relay.handle_timeout(self.now);
            station.exit.handle_timeout(self.now.instant);
        }
        for _ in 0..2 {
            self.node.handle_timeout(self.now);
            self.settle();
        }
        let answered = &mut self.answered;
        for _ in 0..64 {
            if self.node.poll_timeout().is_none_or(|at| at > self.now.instant) {
                break;
            }
            self.node.handle_timeout(self.now);
            while let Some(event) = self.node.poll_event() {
                if let Event::Answered(flow, _) = event {
                    assert!(answered.insert(flow), "a request that is answered twice");
                }
            }
            drain_node(&mut self.node, self.now);
        }
        run_timers(&mut self.node, self.now);
    }

    fn open(&mut self, input: &mut Input<'_>) {
        if self.node.streams() >= MOST_STREAMS {
            return;
        }
        let flags = input.u8();
        let host = Host::name(b"example.org").unwrap();
        let target = Target { host, port: if flags & 1 == 1 { 81 } else { 443 } };
        let isolation = (flags & 2 == 2).then(|| Credentials::new(b"user", &[flags >> 4]));
        let flow = self.node.open(self.now, isolation, target);
        self.streams.push(flow);
    }

    fn stream_call(&mut self, input: &mut Input<'_>) {
        let Some(flow) = self.streams.get(input.below(self.streams.len())).copied() else { return };
        match input.u8() % 4 {
            0 => {
                let _ = self.node.flow_write(self.now, flow, &vec![5; usize::from(input.u16()) % 5000]);
            }
            1 => self.node.flow_finish(self.now, flow),
            2 => self.node.flow_reset(self.now, flow),
            _ => drop(self.node.flow_read(self.now, flow, 4000)),
        }
    }

    fn exit_call(&mut self, input: &mut Input<'_>) {
        let count = self.stations.len();
        let station = &mut self.stations[input.below(count)];
        let Some(flow) = station.asked.get(input.below(station.asked.len())).copied() else { return };
        match input.u8() % 6 {
            0 | 1 => station.exit.connected(flow, ReplyCode::from_byte(input.u8() % 4)),
            2 => drop(station.exit.read(flow, 4000)),
            3 => {
                let _ = station.exit.write(flow, &vec![5; usize::from(input.u16()) % 5000]);
            }
            4 => station.exit.finish(flow),
            _ => station.exit.reset(flow),
        }
    }

    /// A cell with any body on a circuit that ends at a relay.
    fn send_body(&mut self, input: &mut Input<'_>) {
        let count = self.stations.len();
        let station = &mut self.stations[input.below(count)];
        let Some((key, ..)) = station.circuits.get(input.below(station.circuits.len())).copied() else {
            return;
        };
        let mut cell = [0; CELL];
        let body = cell::body(&mut cell);
        if input.below(4) == 0 {
            edit(input, body);
        } else {
            let packet = quic::packet(input);
            let length = packet.len().min(cell::MAX_DATA);
            let fill = |data: &mut [u8; cell::MAX_DATA]| {
                data[..length].copy_from_slice(&packet[..length]);
                Some(length)
            };
            write_body(body, BodyType::Quic, fill).unwrap();
        }
        let sent = station.start(self.now, key, cell);
        self.queue.extend(sent.map(|sent| (station.neighbour.address, sent)));
    }

    /// A packet of any kind for any circuit.
    fn seal_anything(&mut self, input: &mut Input<'_>) {
        let count = self.stations.len();
        let station = &mut self.stations[input.below(count)];
        let flags = input.u8();
        let known = station.circuits.get(input.below(station.circuits.len())).map(|(.., word)| *word);
        let mut word =
            known.filter(|_| flags & 1 == 0).unwrap_or_else(|| CircuitWord::from_bits(input.u32()));
        if flags & 2 == 2 {
            word = CircuitWord::from_bits(word.to_bits() & !(7 << 29) | u32::from(input.u8() % 8) << 29);
        }
        let mut cell = [0x33; CELL];
        edit(input, &mut cell);
        let Some(link) = station.neighbour.up.last().copied() else { return };
        let sent = station.neighbour.seal(self.now, link, word, &cell);
        self.queue.extend(sent.map(|sent| (station.neighbour.address, sent)));
    }

    /// A relay says what it likes of money.
    fn bill(&mut self, input: &mut Input<'_>) {
        let count = self.stations.len();
        let station = &mut self.stations[input.below(count)];
        let Some(teller) = &mut station.teller else { return };
        let frames: Vec<_> = teller.lie(input).into_iter().collect();
        let sent = station.neighbour.pay(self.now, &frames);
        self.queue.extend(sent.map(|sent| (station.neighbour.address, sent)));
    }

    fn step(&mut self, input: &mut Input<'_>) {
        if self.node.payer().is_some() && input.u8() & 3 == 3 {
            self.bill(input);
            return self.settle();
        }
        match input.u8() % 16 {
            0 => self.pass(Duration::from_millis(u64::from(input.u8()))),
            1 => self.pass(Duration::from_millis(64 * u64::from(input.u16()))),
            2 | 3 => self.open(input),
            4..=6 => self.stream_call(input),
            7..=9 => self.exit_call(input),
            10 => self.send_body(input),
            11 => self.seal_anything(input),
            12 => {
                let n = input.u8() % 4;
                let mut bytes = Box::new([0; PACKET]);
                edit(input, &mut *bytes);
                let from = if n == 0 { ([10, 9, 9, 9], 1).into() } else { address(n) };
                self.carry(from, client_address(), bytes);
            }
            13 => (self.bad_replies, self.loses) = (input.u8() / 2, input.u8() & 1 == 1),
            14 => {
                if self.tests < 3 {
                    self.tests = self.node.test(self.now, input.below(4) + 1, 2);
                }
            }
            _ => {
                let n = input.u8();
                if n >= 0xf0 {
                    // A relay that starts anew.
                    let n = usize::from(n) % self.stations.len();
                    let paid = self.stations[n].teller.is_some();
                    self.stations[n] = Station::new(u8::try_from(n + 1).unwrap(), paid);
                }
            }
        }
        self.settle();
    }
}

/// Whatever relays and strangers send: a client sends only to relays and only what clients send, and answers every request
/// once.
pub fn client_node(data: &[u8]) {
    run(data, false);
}

/// The same on a paid network; and a client pays nobody more than it has committed, and what is paid ahead.
pub fn paid_client_node(data: &[u8]) {
    run(data, true);
}

fn run(data: &[u8], paid: bool) {
    let mut input = Input::new(data);
    let mut world = World::new(1, paid);
    while !input.is_empty() {
        world.step(&mut input);
    }
    // A request may wait for a circuit, and then for the exit, several times.
    for _ in 0..14 {
        world.pass(Duration::from_secs(20));
    }
    for flow in &world.streams {
        let reset = world.node.flow_read(world.now, *flow, 1) == circuit::node::FlowRead::Reset;
        assert!(reset || world.answered.contains(flow), "a request that is never answered");
    }
}
