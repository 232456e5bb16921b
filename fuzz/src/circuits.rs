//! Circuits: an origin and three relays, and between them someone who delays, drops, repeats, changes and makes up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use circuit::cell;
use circuit::error::DropReason;
use circuit::keys::BootId;
use circuit::link::{LinkConfig, LinkId, LinkLimits, Links, Peer, Suites};
use circuit::node::Now;
use circuit::origin::{Action as OriginAction, Answered, Origin};
use circuit::packet::{CELL, Cell, CircuitWord, PacketType};
use circuit::relay::{Action, CellStep, From, Relay, RelayConfig};
use circuit::seen::SeenSetups;
use circuit::setup::{self, Status};
use circuit::table::CircuitKey;

use crate::edits::edit;
use crate::fixture::{NETWORK, epoch, hop, identity, link_key, onion_key, pass, purpose, rng, secret, start};
use crate::input::Input;
use crate::onion::{BETA, BLOCK, DELTA, HopKeys, REGION};

const RELAYS: usize = 3;
const MOST_CIRCUITS: usize = 6;
/// Messages under way; more are lost.
const MOST_FLYING: usize = 64;

/// Names of links, which only links give; number `n` stands in front of relay `n`.
fn link_ids(now: Now) -> Vec<LinkId> {
    let config = LinkConfig {
        network: NETWORK,
        relay: None,
        boot: BootId(1),
        suites: Suites::default(),
        limits: LinkLimits::default(),
    };
    let mut links = Links::new(config, [1; 32]);
    let peer = |n: u8| Peer {
        id: identity(n).id(),
        link_key: link_key(n).public(),
        address: ([192, 0, 2, n], 4433).into(),
    };
    (1..).take(RELAYS + 1).map(|n| links.dial(now, &peer(n)).unwrap()).collect()
}

/// Relay `n` is number `n + 1` of the fixture.
fn number(relay: usize) -> u8 {
    u8::try_from(relay + 1).unwrap()
}

/// A message on link `link`.
#[derive(Clone)]
struct Message {
    forward: bool,
    link: usize,
    word: CircuitWord,
    cell: Box<Cell>,
    /// What the client relies on is not as some node made it.
    changed: bool,
}

/// A body under way: the relay that it is for, or that it is from.
struct Sent {
    forward: bool,
    relay: usize,
    arrived: bool,
}

struct World {
    now: Now,
    links: Vec<LinkId>,
    origin: Origin,
    relays: Vec<Relay>,
    flying: Vec<Message>,
    circuits: Vec<CircuitKey>,
    /// Circuits that end at a relay.
    ends: Vec<(usize, CircuitKey)>,
    bodies: BTreeMap<u64, Sent>,
    tags: BTreeSet<(usize, [u8; 16])>,
    refuses: bool,
    forged: u8,
}

impl World {
    fn new() -> Self {
        let now = start();
        let relay = |n: usize| {
            let config = RelayConfig {
                exit: true,
                single_hop: true,
                circuits: MOST_CIRCUITS,
                per_neighbour: 5,
                half_open: 3,
                ..RelayConfig::new(identity(number(n)).id())
            };
            let onion = BTreeMap::from([(epoch(), onion_key(number(n)))]);
            Relay::new(config, onion, SeenSetups::restored([]), rng(0x60 + number(n)))
        };
        Self {
            now,
            links: link_ids(now),
            origin: Origin::new(MOST_CIRCUITS, rng(0x50)),
            relays: (0..RELAYS).map(relay).collect(),
            flying: vec![],
            circuits: vec![],
            ends: vec![],
            bodies: BTreeMap::new(),
            tags: BTreeSet::new(),
            refuses: false,
            forged: 0,
        }
    }

    fn send(&mut self, forward: bool, link: LinkId, word: CircuitWord, cell: Box<Cell>, changed: bool) {
        let Some(link) = self.links.iter().position(|id| *id == link) else { return };
        if self.flying.len() < MOST_FLYING && link < RELAYS {
            self.flying.push(Message { forward, link, word, cell, changed });
        }
    }

    fn build(&mut self, hops: usize) {
        let path: Vec<_> = (0..hops).map(|n| hop(number(n))).collect();
        let purpose = purpose(self.now);
        if let Ok(key) = self.origin.build(self.links[0], false, &path, purpose, None) {
            self.circuits.push(key);
        }
    }

    /// Does what the nodes want done.
    fn act(&mut self) {
        while let Some(action) = self.origin.poll_action() {
            if let OriginAction::Send(link, word, cell) = action {
                self.send(true, link, word, cell, false);
            }
        }
        for n in 0..RELAYS {
            while let Some(action) = self.relays[n].poll_action() {
                match action {
                    Action::Log(entry) => {
                        let tag = *entry.first_chunk().unwrap();
                        assert!(self.tags.insert((n, tag)), "a setup was taken twice");
                    }
                    Action::Send(link, word, cell) => {
                        let forward = link != self.links[n];
                        self.send(forward, link, word, cell, false);
                    }
                    Action::Extend(key, next) => {
                        let known = n + 1 < RELAYS && next == identity(number(n + 1)).id();
                        if known && !self.refuses {
                            self.relays[n].onward(key, self.links[n + 1], false, None);
                        } else {
                            self.relays[n].refuse(self.now, key, Status::Unreachable);
                        }
                    }
                    Action::Hold(_) | Action::Release(_) | Action::Grant(..) | Action::Granted(_) => {}
                    Action::Ended(key) => self.ends.retain(|end| *end != (n, key)),
                }
            }
            let (open, waiting) = self.relays[n].circuits();
            assert!(open + waiting <= MOST_CIRCUITS);
            assert_eq!(self.relays[n].snapshot().len(), open + waiting);
        }
    }

    fn deliver(&mut self, message: Message) {
        if message.forward {
            self.at_relay(message.link, message);
        } else if let Some(relay) = message.link.checked_sub(1) {
            self.at_relay(relay, message);
        } else {
            self.at_origin(message);
        }
        self.act();
    }

    fn at_relay(&mut self, n: usize, mut message: Message) {
        let link = self.links[message.link];
        let before = self.relays[n].snapshot().len();
        let result = match message.word.kind() {
            Some(PacketType::Setup) => {
                let peer = n.checked_sub(1).map(|n| identity(number(n)).id());
                let from =
                    From { link, peer, source: [192, 0, 2, 1].into(), our_opener: true, account: None };
                let taken = self.relays[n].handle_setup(self.now, from, message.word, &message.cell);
                assert!(taken.is_err() || !message.changed, "a setup that its client did not make");
                taken
            }
            Some(PacketType::Reply) => {
                self.relays[n].handle_reply(self.now, link, message.word, &message.cell)
            }
            Some(PacketType::Destroy) => self.relays[n].handle_destroy(self.now, link, message.word),
            Some(PacketType::Cell) => return self.cell_at_relay(n, link, message),
            Some(PacketType::Control) | None => return,
        };
        if result.is_err_and(|reason| reason != DropReason::BadSetup) {
            assert_eq!(self.relays[n].snapshot().len(), before, "an error that changes something");
        }
        // A client that is lied to by the last hop sees it, one that is lied to by an earlier one too.
        if message.changed && message.word.kind() == Some(PacketType::Reply) {
            message.changed = false;
            self.act_on_changed_reply();
        }
    }

    /// The reply that a relay makes of a changed one is changed too.
    fn act_on_changed_reply(&mut self) {
        let count = self.flying.len();
        self.act();
        for message in self.flying.iter_mut().skip(count) {
            message.changed |= message.word.kind() == Some(PacketType::Reply);
        }
    }

    fn cell_at_relay(&mut self, n: usize, link: LinkId, mut message: Message) {
        let before = self.relays[n].snapshot().len();
        match self.relays[n].handle_cell(self.now.instant, link, message.word, &mut message.cell) {
            Ok(CellStep::Pass(link, word)) => self.send(message.forward, link, word, message.cell, true),
            Ok(CellStep::Here(key)) => {
                self.arrived(true, n, &mut message.cell);
                if !self.ends.contains(&(n, key)) && self.relays[n].is_exit(key) {
                    self.ends.push((n, key));
                }
            }
            Err(DropReason::BadLayer) => {}
            Err(_) => assert_eq!(self.relays[n].snapshot().len(), before, "an error that changes something"),
        }
    }

    fn at_origin(&mut self, mut message: Message) {
        let link = self.links[0];
        match message.word.kind() {
            Some(PacketType::Reply) => {
                let answered = self.origin.handle_reply(self.now, link, message.word, &message.cell);
                if let Ok((_, Answered::Ready)) = answered {
                    assert!(!message.changed, "a reply that the relays did not make");
                }
            }
            Some(PacketType::Destroy) => {
                let _ = self.origin.handle_destroy(self.now, link, message.word);
            }
            Some(PacketType::Cell) => {
                let opened = self.origin.handle_cell(self.now.instant, link, message.word, &mut message.cell);
                match opened {
                    Ok((_, hop)) => self.arrived(false, hop, &mut message.cell),
                    Err((Some(key), DropReason::BadLayer)) => self.origin.close(self.now, key),
                    Err(_) => {}
                }
            }
            Some(PacketType::Setup | PacketType::Control) | None => {}
        }
    }

    /// A body came out of its last layer: it is one that was sent there, and comes once.
    fn arrived(&mut self, forward: bool, relay: usize, cell: &mut Cell) {
        let body = cell::body(cell);
        let serial = u64::from_be_bytes(*body.first_chunk().unwrap());
        let sent = self.bodies.get_mut(&serial).expect("a body that nobody sent");
        assert_eq!((sent.forward, sent.relay, sent.arrived), (forward, relay, false));
        assert!(body[8..].iter().all(|byte| *byte == 9));
        sent.arrived = true;
    }

    fn body(&mut self, forward: bool, relay: usize) -> Box<Cell> {
        let serial = self.bodies.len() as u64;
        self.bodies.insert(serial, Sent { forward, relay, arrived: false });
        let mut cell = Box::new([9; CELL]);
        cell::body(&mut cell)[..8].copy_from_slice(&serial.to_be_bytes());
        cell
    }

    fn cell_forward(&mut self, input: &mut Input<'_>) {
        let Some(key) = pick(input, &self.circuits) else { return };
        let Some(hops) = self.origin.hops(key) else { return };
        let last = input.below(hops);
        let mut cell = self.body(true, last);
        if let Some((link, word)) = self.origin.seal(key, last, &mut cell) {
            self.send(true, link, word.with_kind(PacketType::Cell), cell, false);
        }
    }

    fn cell_backward(&mut self, input: &mut Input<'_>) {
        let Some((n, key)) = pick(input, &self.ends) else { return };
        let mut cell = self.body(false, n);
        if let Some((link, word)) = self.relays[n].start(key, &mut cell) {
            self.send(false, link, word.with_kind(PacketType::Cell), cell, false);
        }
    }

    /// A setup for a relay of which every byte is made up, under the right MAC.
    fn forge_setup(&mut self, input: &mut Input<'_>) {
        let n = input.below(RELAYS);
        let path = [hop(number(n))];
        let (_, cell) = setup::build(&mut rng(1), &path, purpose(self.now)).unwrap();
        let mut block: [u8; BLOCK] = HopKeys::of_path(rng(1), &path)[0].block(&cell);
        if input.u8() & 1 == 1 && n + 1 < RELAYS {
            // Not the last one: the next hop follows.
            block[1] = 0;
            block[8..40].copy_from_slice(&identity(number(n + 1)).id().0);
            block[144..].fill(3);
        }
        edit(input, &mut block);
        let mut delta = [0; DELTA];
        edit(input, &mut delta);
        self.forged = self.forged.wrapping_add(1);
        let (relay, ephemeral) = (&path[0], secret(0x80 | self.forged & 0x3f));
        let keys = HopKeys::new(&ephemeral, &relay.onion, &relay.id, relay.epoch);
        let cell = Box::new(keys.setup(&block, &[7; BETA - BLOCK], &delta));
        let word = CircuitWord::new(PacketType::Setup, false, 1 + u32::from(input.u8()));
        let odd = relay.epoch & 1 == 1;
        let message = Message { forward: true, link: n, word: word.with_parity(odd), cell, changed: false };
        self.deliver(message);
    }

    /// A message that is there already, as another kind or on another circuit, changed or all made up.
    fn inject(&mut self, input: &mut Input<'_>) {
        let Some(mut message) = pick(input, &self.flying) else { return };
        let flags = input.u8();
        if flags & 1 == 1 {
            message.word = CircuitWord::from_bits(message.word.to_bits() ^ 1 << (input.u8() % 32));
        }
        if flags & 2 == 2 {
            message.forward = !message.forward;
        }
        let before = message.cell.clone();
        if flags & 4 == 4 {
            edit(input, &mut *message.cell);
        }
        if flags & 8 == 8 {
            *message.cell = input.array();
        }
        // What a reply ends in is drawn anew by every hop.
        let read = if message.word.kind() == Some(PacketType::Reply) { REGION } else { CELL };
        message.changed |= before[..read] != message.cell[..read];
        self.deliver(message);
    }

    fn timeouts(&mut self) {
        for n in 0..RELAYS {
            self.relays[n].handle_timeout(self.now);
            let next = self.relays[n].poll_timeout();
            assert!(next.is_none_or(|at| at > self.now.instant), "a timer that never rests");
        }
        self.act();
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0 => pass(&mut self.now, Duration::from_millis(u64::from(input.u16()))),
            1 => pass(&mut self.now, Duration::from_secs(u64::from(input.u8()))),
            2 | 3 => self.build(1 + input.below(RELAYS)),
            4..=6 => {
                // What was sent first comes first, mostly.
                let n = input.below(4).min(self.flying.len().saturating_sub(1));
                if n < self.flying.len() {
                    let message = self.flying.remove(n);
                    self.deliver(message);
                }
            }
            7 => {
                while let Some(message) = (!self.flying.is_empty()).then(|| self.flying.remove(0)) {
                    self.deliver(message);
                }
            }
            8 => self.inject(input),
            9 => {
                if let Some(message) = pick(input, &self.flying) {
                    self.deliver(message);
                }
            }
            10 => self.cell_forward(input),
            11 => self.cell_backward(input),
            12 => self.forge_setup(input),
            13 => self.timeouts(),
            14 => self.end_something(input),
            _ => self.refuses = !self.refuses,
        }
        self.act();
    }

    fn end_something(&mut self, input: &mut Input<'_>) {
        let n = input.below(RELAYS);
        match input.u8() % 4 {
            0 => {
                if let Some(key) = pick(input, &self.circuits) {
                    self.origin.close(self.now, key);
                }
            }
            1 => {
                if let Some((n, key)) = pick(input, &self.ends) {
                    self.relays[n].close(self.now, key);
                }
            }
            2 => self.relays[n].handle_link_lost(self.now, self.links[n + usize::from(input.u8() & 1)]),
            _ => drop(self.origin.handle_link_lost(self.now, self.links[0])),
        }
    }
}

/// One of the items.
fn pick<T: Clone>(input: &mut Input<'_>, items: &[T]) -> Option<T> {
    items.get(input.below(items.len())).cloned()
}

/// Whatever is done to the messages: bodies come as they were sent and once, setups are taken once and as they were made, a
/// reply that was changed opens no circuit, errors change nothing, and no table outgrows its limit.
pub fn circuits(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    while !input.is_empty() {
        world.step(&mut input);
    }
    for _ in 0..2 {
        pass(&mut world.now, Duration::from_secs(20));
        world.flying.clear();
        world.timeouts();
    }
    for relay in &world.relays {
        assert_eq!(relay.circuits().1, 0, "setups that wait for ever");
    }
}
