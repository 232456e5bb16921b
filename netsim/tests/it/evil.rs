//! A relay that passes circuits on like an honest one, and does one thing more: it has all keys of a relay, and so can do
//! what no attacker on the wire can.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use circuit::cell::{BodyType, body, write_body};
use circuit::error::DropReason;
use circuit::keys::{BootId, Random};
use circuit::link::{Arrival, LinkConfig, LinkEvent, LinkId, LinkLimits, Links, Peer, RelayKeys, Suites};
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::packet::{Cell, CircuitWord, Opened, PACKET, Packet, PacketType, Sealed};
use circuit::relay::{Action, CellStep, From, Relay, RelayConfig};
use circuit::seen::SeenSetups;
use circuit::setup::Status;
use circuit::table::CircuitKey;
use netsim::host::RelayProgram;
use rand_core::{Rng as _, SeedableRng as _};

/// What it does beside its work, to the 20th cell of a direction that it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Nothing,
    /// Flips a bit of a forward cell, at this byte.
    FlipForward(usize),
    /// Flips a bit of a backward cell before it adds its own layer.
    FlipBackward(usize),
    /// Flips a bit of a backward cell after it has added its own layer.
    FlipSealed(usize),
    /// Sends a forward cell twice.
    RepeatForward,
    /// Sends a cell of its own towards the client, as only the exit should.
    Speak,
    /// Sends forward cells on to the previous relay.
    TurnBack,
    /// At the end of the path: answers the first cell with a QUIC packet of these frames.
    Say(&'static [u8]),
    /// Does something to the first reply that it sends.
    Reply(Forgery),
    /// Sends random bytes in the place of every reply.
    Replies,
}

/// What becomes of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forgery {
    Random,
    Zero,
    /// One bit of what the hop behind has said is another.
    Flip,
    /// A second one, all random, follows.
    Second,
}

/// What the test sees and says.
#[derive(Debug, Default)]
pub(crate) struct Wires {
    /// The setups that it has passed on, with their parities.
    pub(crate) setups: Vec<(Peer, Cell, bool)>,
    /// Setups to be sent once more.
    pub(crate) again: VecDeque<(Peer, Cell, bool)>,
    /// How many of them were answered.
    pub(crate) answers: usize,
    /// Whether the deed was done.
    pub(crate) done: bool,
}

pub(crate) struct EvilRelay {
    program: RelayProgram,
    links: Links,
    relay: Relay,
    rng: Random,
    deed: Deed,
    cells: [u32; 2],
    waiting: Vec<(LinkId, CircuitKey)>,
    outbox: VecDeque<(LinkId, CircuitWord, Box<Cell>)>,
    events: VecDeque<Event>,
    replayed: Vec<(LinkId, u32)>,
    wires: Rc<RefCell<Wires>>,
}

impl EvilRelay {
    pub(crate) fn new(program: RelayProgram, deed: Deed, seed: [u8; 32]) -> (Self, Rc<RefCell<Wires>>) {
        let mut rng = Random::from_seed(seed);
        let keys = program.keys.clone();
        let id = keys.identity.id();
        let config = LinkConfig {
            network: program.network,
            relay: Some(RelayKeys { identity: keys.identity, link: keys.link }),
            boot: BootId(rng.next_u64()),
            suites: Suites::default(),
            limits: LinkLimits::default(),
        };
        let mut draw = || {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            seed
        };
        let mut links = Links::new(config, draw());
        links.set_relays(program.view.iter().map(|relay| (relay.link_key, relay.id)));
        let random = Random::from_seed(draw());
        let config = RelayConfig { exit: program.exit.is_some(), ..RelayConfig::new(id) };
        let relay = Relay::new(config, keys.onion, SeenSetups::restored([]), random);
        let wires = Rc::<RefCell<Wires>>::default();
        let evil = Self {
            program,
            links,
            relay,
            rng,
            deed,
            cells: [0; 2],
            waiting: vec![],
            outbox: VecDeque::new(),
            events: VecDeque::new(),
            replayed: vec![],
            wires: Rc::clone(&wires),
        };
        (evil, wires)
    }

    /// Passes a cell on, and does its deed.
    fn pass(
        &mut self,
        now: Now,
        link: LinkId,
        mut packet: Packet<'_, Opened>,
    ) -> Result<Verdict, DropReason> {
        let word = packet.word();
        let forward = word.opener() != self.links.our_opener(link);
        let cells = &mut self.cells[usize::from(forward)];
        *cells += 1;
        let mut deed = if *cells == 20 { self.deed } else { Deed::Nothing };
        if let Deed::FlipBackward(at) = deed
            && !forward
        {
            packet.cell()[at] ^= 4;
            self.did();
        }
        let step = self.relay.handle_cell(now.instant, link, word, packet.cell())?;
        let (mut next, mut next_word) = match (step, self.deed) {
            (CellStep::Pass(next, next_word), _) => (next, next_word),
            (CellStep::Here(key), Deed::Say(frames)) if !self.wires.borrow().done => {
                self.did();
                // Key generation 1, packet number 0.
                self.start(key, &[&[0x44, 0], frames, &[1, 0, 0, 0]].concat());
                return Ok(Verdict::Consumed);
            }
            (CellStep::Here(_), _) => return Ok(Verdict::Consumed),
        };
        match deed {
            Deed::FlipForward(at) if forward => packet.cell()[at] ^= 4,
            Deed::FlipSealed(at) if !forward => packet.cell()[at] ^= 4,
            Deed::RepeatForward if forward => {
                self.outbox.push_back((next, next_word, Box::new(*packet.cell())));
            }
            Deed::TurnBack if forward => (next, next_word) = (link, word),
            Deed::Speak if !forward => {
                let key = self.relay.snapshot()[0].key;
                self.start(key, &[0x40; 40]);
            }
            _ => deed = Deed::Nothing,
        }
        if deed != Deed::Nothing {
            self.did();
        }
        packet.set_word(next_word);
        let (_, to) = self.links.seal(now, next, packet)?;
        Ok(Verdict::Forward(to))
    }

    /// Sends a cell of its own towards the client.
    fn start(&mut self, key: CircuitKey, quic: &[u8]) {
        let mut cell = Box::new([0; circuit::packet::CELL]);
        let written = write_body(body(&mut cell), BodyType::Quic, |data| {
            data[..quic.len()].copy_from_slice(quic);
            Some(quic.len())
        });
        assert_eq!(written, Ok(Some(quic.len())));
        let started = self.relay.start(key, &mut cell);
        self.outbox.extend(started.map(|(back, word)| (back, word, cell)));
    }

    /// Does its deed to a reply.
    fn forge(&mut self, link: LinkId, word: CircuitWord, cell: &mut Cell) {
        let again = self.wires.borrow().done;
        let forgery = match self.deed {
            Deed::Reply(forgery) if !again => forgery,
            Deed::Replies => Forgery::Random,
            _ => return,
        };
        if word.kind() != Some(PacketType::Reply) {
            return;
        }
        self.did();
        match forgery {
            Forgery::Random => self.rng.fill_bytes(cell),
            Forgery::Zero => cell.fill(0),
            Forgery::Flip => cell[200] ^= 1,
            Forgery::Second => {
                self.outbox.push_back((link, word, Box::new(*cell)));
                self.rng.fill_bytes(cell);
            }
        }
    }

    fn did(&self) {
        self.wires.borrow_mut().done = true;
    }

    fn other(&mut self, now: Now, link: LinkId, mut packet: Packet<'_, Opened>) -> Result<(), DropReason> {
        let word = packet.word();
        if self.replayed.contains(&(link, word.id())) {
            self.wires.borrow_mut().answers += 1;
            return Ok(());
        }
        match word.kind() {
            Some(PacketType::Setup) => {
                let from = From {
                    link,
                    peer: self.links.peer(link),
                    source: self.links.source(link),
                    our_opener: self.links.our_opener(link),
                    account: None,
                };
                self.relay.handle_setup(now, from, word, packet.cell())
            }
            Some(PacketType::Reply) => self.relay.handle_reply(now, link, word, packet.cell()),
            Some(PacketType::Destroy) => self.relay.handle_destroy(now, link, word),
            _ => Err(DropReason::Misbehaved),
        }
    }

    fn act(&mut self, now: Now) {
        while let Some(event) = self.links.poll_event() {
            match event {
                LinkEvent::Up { link } => {
                    let opener = self.links.our_opener(link);
                    for (_, circuit) in self.waiting.extract_if(.., |(over, _)| *over == link) {
                        self.relay.onward(circuit, link, opener, None);
                    }
                }
                LinkEvent::Lost { link } => self.relay.handle_link_lost(now, link),
            }
        }
        while let Some(action) = self.relay.poll_action() {
            match action {
                Action::Log(entry) => self.events.push_back(Event::Persist(entry)),
                Action::Send(link, word, mut cell) => {
                    self.forge(link, word, &mut cell);
                    if word.kind() == Some(PacketType::Setup)
                        && let Some(peer) = self.links.peer(link).and_then(|id| self.peer(&id))
                    {
                        self.wires.borrow_mut().setups.push((peer, *cell, word.parity()));
                    }
                    self.outbox.push_back((link, word, cell));
                }
                Action::Extend(circuit, next) => {
                    let link = self.peer(&next).and_then(|peer| self.links.dial(now, &peer).ok());
                    match link {
                        Some(link) if self.links.is_up(link) => {
                            self.relay.onward(circuit, link, self.links.our_opener(link), None);
                        }
                        Some(link) => self.waiting.push((link, circuit)),
                        None => self.relay.refuse(now, circuit, Status::Unreachable),
                    }
                }
                Action::Hold(link) => self.links.hold(link),
                Action::Release(link) => self.links.release(now, link),
                Action::Ended(_) | Action::Grant(..) | Action::Granted(_) => {}
            }
        }
        self.replay(now);
    }

    fn peer(&self, id: &circuit::keys::RelayId) -> Option<Peer> {
        let relay = self.program.view.get(id)?;
        Some(Peer { id: relay.id, link_key: relay.link_key, address: relay.addresses[0] })
    }

    fn replay(&mut self, now: Now) {
        let mut wires = self.wires.borrow_mut();
        while let Some((peer, setup, parity)) = wires.again.front().copied() {
            let Ok(link) = self.links.dial(now, &peer) else {
                return;
            };
            if !self.links.is_up(link) {
                return;
            }
            wires.again.pop_front();
            let word = CircuitWord::new(PacketType::Setup, self.links.our_opener(link), self.rng.next_u32());
            self.replayed.push((link, word.id()));
            self.outbox.push_back((link, word.with_parity(parity), Box::new(setup)));
        }
    }
}

impl Node for EvilRelay {
    fn handle_datagram(
        &mut self,
        now: Now,
        from: SocketAddr,
        packet: Packet<'_, Sealed>,
    ) -> Result<Verdict, DropReason> {
        let result = match self.links.open(now, from, packet)? {
            Arrival::Circuit { link, packet } if packet.word().kind() == Some(PacketType::Cell) => {
                self.pass(now, link, packet)
            }
            Arrival::Circuit { link, packet } => self.other(now, link, packet).map(|()| Verdict::Consumed),
            Arrival::Payments { .. } | Arrival::Consumed => Ok(Verdict::Consumed),
        };
        self.act(now);
        result
    }

    fn handle_timeout(&mut self, now: Now) {
        self.links.handle_timeout(now);
        self.relay.handle_timeout(now);
        self.act(now);
    }

    fn poll_transmit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        self.act(now);
        while let Some((link, word, cell)) = self.outbox.pop_front() {
            let mut packet = Packet::blank(out);
            packet.set_word(word);
            *packet.cell() = *cell;
            if let Ok((_, to)) = self.links.seal(now, link, packet) {
                return Some(to);
            }
        }
        self.links.poll_transmit(now, out)
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        [self.links.poll_timeout(), self.relay.poll_timeout()].into_iter().flatten().min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn flow_read(&mut self, _: Now, _: FlowId, _: usize) -> FlowRead {
        FlowRead::Reset
    }

    fn flow_write(&mut self, _: Now, _: FlowId, _: &[u8]) -> FlowWrite {
        FlowWrite::Reset
    }

    fn flow_finish(&mut self, _: Now, _: FlowId) {}

    fn flow_reset(&mut self, _: Now, _: FlowId) {}
}
