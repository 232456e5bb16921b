//! A whole relay between a client and a relay that keep no rules but those of links.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use circuit::cell::{self, BodyType, read_body, write_body};
use circuit::flows::{FlowEvent, Flows};
use circuit::link::LinkId;
use circuit::node::{Event, FlowId, Node as _, Now};
use circuit::origin::{Action as OriginAction, Answered, Origin};
use circuit::packet::{CELL, Cell, CircuitWord, PACKET, PacketType};
use circuit::relay::{Action, Asks, From, Relay, RelayConfig};
use circuit::request::{Host, Kind, MAX_REQUEST, ReplyCode, Request, Target};
use circuit::seen::SeenSetups;
use circuit::setup::{self, Status};
use circuit::stream::{End, StreamConfig};
use circuit::table::CircuitKey;
use payments::frame::Frame;
use router::cashier::CashierConfig;
use router::node::{Config, Keys, RelayNode};
use router::policy::ExitPolicy;

use crate::edits::edit;
use crate::fixture::{NETWORK, epoch, hop, identity, link_key, onion_key, pass, purpose, rng, secret, start};
use crate::input::Input;
use crate::neighbour::{Neighbour, Sent, address, drain_node, give, paid_view, peer, run_timers, view};
use crate::onion::{BETA, BLOCK, DELTA, HopKeys};
use crate::quic;

mod purse;

use purse::Purse;

/// The relay under test, and the one behind it.
const NODE: u8 = 1;
const FAR: u8 = 2;
/// Packets that one step gives rise to.
const MOST_CARRIED: usize = 3000;

struct World {
    now: Now,
    node: RelayNode,
    near: Neighbour,
    far: Neighbour,
    origin: Origin,
    relay: Relay,
    flows: Flows,
    circuits: Vec<CircuitKey>,
    streams: Vec<FlowId>,
    asked: Vec<FlowId>,
    tags: BTreeSet<[u8; 20]>,
    /// Words that the client has used.
    words: Vec<CircuitWord>,
    strangers: BTreeSet<SocketAddr>,
    queue: VecDeque<(SocketAddr, Sent)>,
    /// Replies of the far relay get lost.
    mute: bool,
    forged: u8,
    purse: Option<Purse>,
}

fn node(payments: Option<(Asks, CashierConfig)>) -> RelayNode {
    let keys = Keys {
        identity: identity(NODE),
        link: link_key(NODE),
        onion: BTreeMap::from([(epoch(), onion_key(NODE))]),
    };
    let config = Config {
        keys,
        network: NETWORK,
        view: if payments.is_some() { paid_view() } else { view() },
        exit: Some(ExitPolicy::default()),
        allow_single_hop: true,
        seen: SeenSetups::restored([]),
        payments,
    };
    RelayNode::new(config, [1; 32])
}

impl World {
    fn new(purse: Option<Purse>) -> Self {
        let onion = BTreeMap::from([(epoch(), onion_key(FAR))]);
        let config = RelayConfig { exit: true, ..RelayConfig::new(identity(FAR).id()) };
        let mut world = Self {
            now: start(),
            node: node(purse.as_ref().map(|_| purse::config())),
            near: Neighbour::new(None, ([10, 0, 0, 1], 1000).into()),
            far: Neighbour::new(Some(FAR), address(FAR)),
            origin: Origin::new(64, rng(2)),
            relay: Relay::new(config, onion, SeenSetups::restored([]), rng(3)),
            flows: Flows::new(End::Client, StreamConfig::default(), rng(4)),
            circuits: vec![],
            streams: vec![],
            asked: vec![],
            tags: BTreeSet::new(),
            words: vec![],
            strangers: BTreeSet::new(),
            queue: VecDeque::new(),
            mute: false,
            forged: 0,
            purse,
        };
        world.near.links.dial(world.now, &peer(NODE)).unwrap();
        world.settle();
        world
    }

    fn post(&mut self, from: SocketAddr, sent: impl IntoIterator<Item = Sent>) {
        self.queue.extend(sent.into_iter().map(|sent| (from, sent)));
    }

    /// Carries packets until nobody has more to say.
    fn settle(&mut self) {
        for _ in 0..MOST_CARRIED {
            self.node_events();
            self.handle_money();
            self.neighbours_act();
            let said = drain_node(&mut self.node, self.now);
            self.post(address(NODE), said);
            let Some((from, (to, bytes))) = self.queue.pop_front() else { return };
            self.carry(from, to, bytes);
        }
        self.queue.clear();
    }

    fn carry(&mut self, from: SocketAddr, to: SocketAddr, bytes: Box<[u8; PACKET]>) {
        if to == address(NODE) {
            let forwarded = give(&mut self.node, self.now, from, bytes);
            self.post(address(NODE), forwarded);
        } else if to == self.near.address {
            if let Some((link, word, cell)) = self.near.open(self.now, from, bytes) {
                self.at_near(link, word, cell);
            }
        } else if to == self.far.address {
            if let Some((link, word, cell)) = self.far.open(self.now, from, bytes) {
                self.at_far(link, word, cell);
            }
        } else {
            let known = to == address(3) || self.strangers.contains(&to);
            assert!(known, "a packet to {to}, which nobody has spoken from and no descriptor names");
        }
    }

    fn node_events(&mut self) {
        while let Some(event) = self.node.poll_event() {
            match event {
                Event::Persist(entry) => assert!(self.tags.insert(entry), "a setup was taken twice"),
                Event::Connect(flow, target) => {
                    if let Host::Ip(ip) = target.host {
                        assert!(self.node.exit_allows(ip, target.port));
                    }
                    assert!(!self.asked.contains(&flow), "a flow that connects twice");
                    self.asked.push(flow);
                }
                _ => {}
            }
        }
    }

    /// What the neighbours' own state machines want done.
    fn neighbours_act(&mut self) {
        let said = self.near.drain(self.now);
        self.post(self.near.address, said);
        let said = self.far.drain(self.now);
        self.post(self.far.address, said);
        for link in core::mem::take(&mut self.near.lost) {
            for key in self.origin.handle_link_lost(self.now, link) {
                self.flows.remove(key);
            }
        }
        for link in core::mem::take(&mut self.far.lost) {
            self.relay.handle_link_lost(self.now, link);
        }
        while let Some(action) = self.origin.poll_action() {
            if let OriginAction::Send(link, word, cell) = action {
                self.words.push(word);
                let sent = self.near.seal(self.now, link, word, &cell);
                self.post(self.near.address, sent);
            }
        }
        while let Some(action) = self.relay.poll_action() {
            match action {
                Action::Send(link, word, cell) if !self.mute => {
                    let sent = self.far.seal(self.now, link, word, &cell);
                    self.post(self.far.address, sent);
                }
                Action::Extend(key, _) => self.relay.refuse(self.now, key, Status::Unreachable),
                _ => {}
            }
        }
        while let Some(event) = self.flows.poll_event() {
            if let FlowEvent::Lost(key, _) = event {
                self.flows.remove(key);
            }
        }
        loop {
            let mut cell = [0; CELL];
            let flows = &mut self.flows;
            let mut circuit = None;
            let fill = |data: &mut [u8; cell::MAX_DATA]| {
                let (key, length) = flows.poll_transmit(self.now.instant, data, |_| true)?;
                circuit = Some(key);
                Some(length)
            };
            write_body(cell::body(&mut cell), BodyType::Quic, fill).unwrap();
            let Some(key) = circuit else { break };
            self.send_cell(key, 0, cell);
        }
    }

    fn send_cell(&mut self, key: CircuitKey, hop: usize, mut cell: Cell) {
        if let Some((link, word)) = self.origin.seal(key, hop, &mut cell) {
            let sent = self.near.seal(self.now, link, word.with_kind(PacketType::Cell), &cell);
            self.post(self.near.address, sent);
        }
    }

    fn at_near(&mut self, link: LinkId, word: CircuitWord, mut cell: Box<Cell>) {
        match word.kind() {
            Some(PacketType::Reply) => {
                if let Ok((key, Answered::Ready)) = self.origin.handle_reply(self.now, link, word, &cell) {
                    self.circuits.push(key);
                    if self.origin.hops(key) == Some(1) {
                        self.flows.add(self.now.instant, key, Duration::from_millis(20)).unwrap();
                    }
                }
            }
            Some(PacketType::Cell) => {
                if let Ok((key, _)) = self.origin.handle_cell(self.now.instant, link, word, &mut cell)
                    && let Ok((BodyType::Quic, packet)) = read_body(cell::body(&mut cell))
                    && self.flows.handle_packet(self.now.instant, key, packet).is_err()
                {
                    self.flows.remove(key);
                }
            }
            Some(PacketType::Destroy) => {
                if let Ok(key) = self.origin.handle_destroy(self.now, link, word) {
                    self.flows.remove(key);
                }
            }
            _ => {}
        }
    }

    fn at_far(&mut self, link: LinkId, word: CircuitWord, mut cell: Box<Cell>) {
        match word.kind() {
            Some(PacketType::Setup) => {
                let links = &self.far.links;
                let from = From {
                    link,
                    peer: links.peer(link),
                    source: links.source(link),
                    our_opener: links.our_opener(link),
                    account: None,
                };
                let _ = self.relay.handle_setup(self.now, from, word, &cell);
            }
            Some(PacketType::Cell) => {
                let _ = self.relay.handle_cell(self.now.instant, link, word, &mut cell);
            }
            Some(PacketType::Destroy) => {
                let _ = self.relay.handle_destroy(self.now, link, word);
            }
            _ => {}
        }
    }

    fn pass(&mut self, time: Duration) {
        pass(&mut self.now, time);
        self.near.links.handle_timeout(self.now);
        self.far.links.handle_timeout(self.now);
        self.relay.handle_timeout(self.now);
        self.flows.handle_timeout(self.now.instant);
        for _ in 0..2 {
            self.node.handle_timeout(self.now);
            self.settle();
        }
        run_timers(&mut self.node, self.now);
    }

    /// A setup whose every byte is made up, under the right MAC.
    fn forge_setup(&mut self, input: &mut Input<'_>) {
        let path = [hop(NODE)];
        let (_, cell) = setup::build(&mut rng(1), &path, purpose(self.now)).unwrap();
        let mut block: [u8; BLOCK] = HopKeys::of_path(rng(1), &path)[0].block(&cell);
        if input.u8() & 1 == 1 {
            block[1] = 0;
            block[8..40].copy_from_slice(&identity(2 + input.u8() % 2).id().0);
            block[144..].fill(3);
        }
        edit(input, &mut block);
        self.forged = self.forged.wrapping_add(1);
        let keys = HopKeys::new(&secret(0x80 | self.forged & 0x3f), &path[0].onion, &path[0].id, epoch());
        let cell = keys.setup(&block, &[7; BETA - BLOCK], &[0; DELTA]);
        let word = CircuitWord::new(PacketType::Setup, false, 1 + u32::from(input.u8()));
        let word = word.with_parity(epoch() & 1 == 1);
        let Some(link) = self.near.up.last().copied() else { return };
        let sent = self.near.seal(self.now, link, word, &cell);
        self.post(self.near.address, sent);
    }

    /// A packet of any kind for any circuit, from either neighbour.
    fn seal_anything(&mut self, input: &mut Input<'_>) {
        let flags = input.u8();
        let known = self.words.get(input.below(self.words.len())).copied();
        let mut word =
            known.filter(|_| flags & 1 == 0).unwrap_or_else(|| CircuitWord::from_bits(input.u32()));
        if flags & 2 == 2 {
            word = CircuitWord::from_bits(word.to_bits() & !(7 << 29) | u32::from(input.u8() % 8) << 29);
        }
        let mut cell = [0x33; CELL];
        edit(input, &mut cell);
        let neighbour = if flags & 4 == 4 { &mut self.far } else { &mut self.near };
        let (from, link) = (neighbour.address, neighbour.up.last().copied());
        let sent = link.and_then(|link| neighbour.seal(self.now, link, word, &cell));
        self.post(from, sent);
    }

    /// A body of any content for a hop of a circuit.
    fn send_body(&mut self, input: &mut Input<'_>) {
        let Some(key) = self.circuits.get(input.below(self.circuits.len())).copied() else { return };
        let mut cell = [0; CELL];
        let (body, flags) = (cell::body(&mut cell), input.u8());
        if flags % 4 == 0 {
            edit(input, body);
        } else {
            let kind = [BodyType::Quic, BodyType::Quic, BodyType::Padding, BodyType::Control]
                [usize::from(flags >> 2 & 3)];
            let packet = quic::packet(input);
            let length = packet.len().min(cell::MAX_DATA);
            let fill = |data: &mut [u8; cell::MAX_DATA]| {
                data[..length].copy_from_slice(&packet[..length]);
                Some(length)
            };
            write_body(body, kind, fill).unwrap();
        }
        self.send_cell(key, usize::from(flags >> 7), cell);
    }

    fn stranger(&mut self, input: &mut Input<'_>) {
        let from = SocketAddr::from(([10, 1, input.u8(), 1], 1));
        let from = [from, self.near.address, self.far.address][usize::from(input.u8()) % 3];
        self.strangers.insert(from);
        let mut bytes = Box::new([0; PACKET]);
        edit(input, &mut *bytes);
        self.carry(from, address(NODE), bytes);
    }

    fn open_stream(&mut self, input: &mut Input<'_>) {
        let Some(key) = self.circuits.get(input.below(self.circuits.len())).copied() else { return };
        let flow = self.flows.reserve();
        if !self.flows.open(key, flow) {
            return;
        }
        self.streams.push(flow);
        let host = Host::name(b"example.org").unwrap();
        let request = Request { kind: Kind::Connect, target: Target { host, port: 443 } };
        let mut bytes = [0; MAX_REQUEST];
        let mut w = wire::Writer::new(&mut bytes);
        request.write(&mut w).unwrap();
        let length = w.written();
        if input.u8() & 3 == 3 {
            edit(input, &mut bytes[..length]);
        }
        let _ = self.flows.write(flow, &bytes[..length]);
    }

    fn stream_call(&mut self, input: &mut Input<'_>) {
        let Some(flow) = self.streams.get(input.below(self.streams.len())).copied() else { return };
        match input.u8() % 4 {
            0 => {
                let _ = self.flows.write(flow, &vec![5; usize::from(input.u16()) % 5000]);
            }
            1 => self.flows.finish(flow),
            2 => self.flows.reset(flow),
            _ => drop(self.flows.read(flow, 4000)),
        }
    }

    fn exit_call(&mut self, input: &mut Input<'_>) {
        let Some(flow) = self.asked.get(input.below(self.asked.len())).copied() else { return };
        match input.u8() % 6 {
            0 | 1 => self.node.connected(flow, ReplyCode::from_byte(input.u8() % 4)),
            2 => drop(self.node.flow_read(self.now, flow, 4000)),
            3 => {
                let _ = self.node.flow_write(self.now, flow, &vec![5; usize::from(input.u16()) % 5000]);
            }
            4 => self.node.flow_finish(self.now, flow),
            _ => self.node.flow_reset(self.now, flow),
        }
    }

    /// Records are kept at once, and all pots are found full.
    fn handle_money(&mut self) {
        if let Some(purse) = &mut self.purse {
            Purse::serve(self.now, &mut self.node);
            purse.take(self.now, &mut self.near.frames);
        }
    }

    /// The client pays, honestly or not; whoever else says something of money.
    fn pay_step(&mut self, input: &mut Input<'_>) {
        let Some(purse) = &mut self.purse else { return };
        let flags = input.u8();
        let frames = match flags % 4 {
            0 | 1 => purse.pay(self.now, u128::from(input.u8())),
            2 => purse.forge(input),
            _ => {
                let word = self.words.get(input.below(self.words.len())).map_or(0, |word| word.to_bits());
                let circuit = CircuitWord::from_bits(word).with_kind(PacketType::Cell).to_bits();
                vec![Frame::Grant { circuit, cells: u64::from(input.u16()) << (flags >> 4) }]
            }
        };
        let neighbour = if flags & 8 == 8 { &mut self.far } else { &mut self.near };
        let (from, sent) = (neighbour.address, neighbour.pay(self.now, &frames));
        self.post(from, sent);
    }

    fn step(&mut self, input: &mut Input<'_>) {
        if self.purse.is_some() && input.u8() & 1 == 1 {
            self.pay_step(input);
            return self.settle();
        }
        match input.u8() % 16 {
            0 => self.pass(Duration::from_millis(u64::from(input.u8()))),
            1 => self.pass(Duration::from_millis(64 * u64::from(input.u16()))),
            2 | 3 => {
                let far = usize::from(input.u8() & 1);
                let mut path = [hop(NODE), hop(FAR)];
                let account =
                    self.purse.as_mut().map(|purse| purse.price(&mut self.origin, &mut path[..=far]));
                let path = &path[..=far];
                if let Some(link) = self.near.up.last().copied() {
                    let _ = self.origin.build(link, false, path, purpose(self.now), account);
                }
            }
            4 => self.forge_setup(input),
            5 => self.seal_anything(input),
            6 | 7 => self.send_body(input),
            8 => self.stranger(input),
            9 => self.open_stream(input),
            10 => self.stream_call(input),
            11 | 12 => self.exit_call(input),
            13 => {
                let neighbour = if input.u8() & 1 == 1 { &mut self.far } else { &mut self.near };
                let _ = neighbour.links.dial(self.now, &peer(NODE));
            }
            14 => self.mute = !self.mute,
            _ => match input.u8() {
                0xff => self.node.log_failed(self.now),
                _ => {
                    if let Some(key) = self.circuits.get(input.below(self.circuits.len())).copied() {
                        self.flows.remove(key);
                        self.origin.close(self.now, key);
                    }
                }
            },
        }
        self.settle();
    }
}

/// Whatever its neighbours and strangers send: a relay takes a setup once, connects what its policy allows, sends to nobody
/// but those who spoke to it and relays that descriptors name, and is empty again when the circuits are over.
pub fn relay_node(data: &[u8]) {
    run(data, None);
}

/// The same on a paid network; and nothing is charged that was not credited, to the wei.
pub fn paid_relay_node(data: &[u8]) {
    let world = run(data, Some(Purse::new()));
    let ledger = world.node.relay().ledger();
    let Some(account) = world.node.cashier().unwrap().account_of(purse::payer()) else { return };
    let account = ledger.get(account).unwrap();
    assert_eq!(account.credit + account.earned.cast_signed(), account.credited.cast_signed());
    assert!(account.credit >= 0 && account.line == 0, "{account:?}");
}

fn run(data: &[u8], purse: Option<Purse>) -> World {
    let mut input = Input::new(data);
    let mut world = World::new(purse);
    while !input.is_empty() {
        world.step(&mut input);
    }
    for key in core::mem::take(&mut world.circuits) {
        world.flows.remove(key);
    }
    world.pass(Duration::from_secs(20));
    assert_eq!(world.node.relay().circuits().1, 0, "setups that wait for ever");
    world.pass(Duration::from_hours(25));
    assert_eq!(world.node.relay().circuits(), (0, 0), "circuits that outlive their expiry");
    assert_eq!(world.node.exit().unwrap().open(), 0, "streams that outlive their circuits");
    world
}
