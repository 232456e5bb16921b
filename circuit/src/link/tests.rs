//! A few nodes in virtual time, with everything that a network does to packets.

use std::collections::BTreeMap;

use rand_core::{Rng as _, SeedableRng as _};

use super::*;
use crate::packet::CELL;

mod handshake;
mod liveness;
mod load;
mod repair;
mod replay;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const S: Duration = Duration::from_secs(1);

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin of virtual time; nothing depends on it")]
pub(crate) fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: 1_767_225_600_000 }
}

type Bytes = Box<[u8; PACKET]>;

/// A node, what it was given, and what it told.
pub(super) struct Node {
    pub(super) links: Links,
    pub(super) address: SocketAddr,
    pub(super) peer: Option<Peer>,
    pub(super) events: Vec<LinkEvent>,
    /// Link, word and first eight cell bytes of every circuit packet.
    pub(super) got: Vec<(LinkId, CircuitWord, u64)>,
    pub(super) drops: Vec<DropReason>,
}

/// What the network does to a packet.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    /// In 1000.
    pub(super) loss: u32,
    /// In 1000.
    pub(super) twice: u32,
}

pub(super) const CALM: Weather =
    Weather { delay: Duration::from_millis(10), jitter: Duration::ZERO, loss: 0, twice: 0 };

type Filter = Box<dyn FnMut(SocketAddr, &[u8; PACKET]) -> bool>;

pub(super) struct Net {
    pub(super) now: Now,
    pub(super) nodes: Vec<Node>,
    pub(super) weather: Weather,
    /// Every datagram ever sent: from, to, bytes.
    pub(super) sent: Vec<(usize, usize, Bytes)>,
    /// Says by sender and bytes whether a packet passes.
    pub(super) filter: Filter,
    flight: BTreeMap<(Instant, u64), (usize, usize, Bytes)>,
    count: u64,
    rng: Random,
}

pub(super) fn seed(n: usize) -> [u8; 32] {
    [u8::try_from(n).unwrap() + 1; 32]
}

pub(super) fn config(relay: bool, n: usize) -> LinkConfig {
    let mut rng = Random::from_seed(seed(n + 100));
    let keys = RelayKeys { identity: IdentitySecret::random(&mut rng), link: DhSecret::random(&mut rng) };
    LinkConfig {
        network: NetworkId([7; 16]),
        relay: relay.then_some(keys),
        boot: BootId(1),
        suites: Suites::default(),
        limits: LinkLimits::default(),
    }
}

impl Net {
    /// Nodes that know each other; `true` is a relay.
    pub(super) fn new(relays: &[bool]) -> Self {
        Self::with(relays.iter().enumerate().map(|(n, relay)| config(*relay, n)).collect())
    }

    pub(super) fn with(configs: Vec<LinkConfig>) -> Self {
        let mut net = Self {
            now: start(),
            nodes: Vec::new(),
            weather: CALM,
            sent: Vec::new(),
            filter: Box::new(|_, _| true),
            flight: BTreeMap::new(),
            count: 0,
            rng: Random::from_seed([99; 32]),
        };
        for (n, config) in configs.into_iter().enumerate() {
            let address = SocketAddr::from(([10, 0, u8::try_from(n).unwrap(), 1], 4000));
            net.nodes.push(Node::new(config, address, seed(n)));
        }
        net.introduce();
        net
    }

    /// Tells all relays of each other.
    pub(super) fn introduce(&mut self) {
        let known: Vec<_> =
            self.nodes.iter().filter_map(|n| n.peer.as_ref().map(|p| (p.link_key, p.id))).collect();
        self.nodes.iter_mut().for_each(|node| node.links.set_relays(known.clone()));
    }

    /// Replaces a node by one that has forgotten everything.
    pub(super) fn restart(&mut self, n: usize, relay: bool) {
        let mut config = config(relay, n);
        config.boot = BootId(2);
        self.nodes[n] = Node::new(config, self.nodes[n].address, seed(n + 50));
        self.introduce();
    }

    pub(super) fn dial(&mut self, from: usize, to: usize) -> LinkId {
        let peer = self.nodes[to].peer.unwrap();
        let id = self.nodes[from].links.dial(self.now, &peer).unwrap();
        self.drain(from);
        id
    }

    /// Dials and waits until the link is up at both ends.
    pub(super) fn connect(&mut self, from: usize, to: usize) -> (LinkId, LinkId) {
        let ours = self.dial(from, to);
        self.run(S / 2);
        assert!(self.nodes[from].links.is_up(ours));
        let LinkEvent::Up { link } = *self.nodes[to].events.last().unwrap() else { panic!() };
        (ours, link)
    }

    /// Seals a cell that begins with `n` and sends it.
    pub(super) fn send(&mut self, from: usize, link: LinkId, n: u64) -> Result<(), DropReason> {
        let (to, bytes) = self.nodes[from].seal(self.now, link, PacketType::Cell, n)?;
        self.post(from, to, &bytes);
        self.drain(from);
        Ok(())
    }

    pub(super) fn post(&mut self, from: usize, to: SocketAddr, bytes: &Bytes) {
        let Some(to) = self.nodes.iter().position(|node| node.address == to) else {
            return;
        };
        self.sent.push((from, to, bytes.clone()));
        let w = self.weather;
        if self.rng.next_u32() % 1000 < w.loss || !(self.filter)(self.nodes[from].address, bytes) {
            return;
        }
        let copies = if self.rng.next_u32() % 1000 < w.twice { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = w.jitter * (self.rng.next_u32() % 1000) / 1000;
            self.count += 1;
            self.flight.insert((self.now.after(w.delay + jitter), self.count), (from, to, bytes.clone()));
        }
    }

    pub(super) fn deliver(&mut self, from: usize, to: usize, mut bytes: Bytes) -> Result<(), DropReason> {
        let from = self.nodes[from].address;
        let result = self.nodes[to].receive(self.now, from, &mut bytes);
        self.drain(to);
        result
    }

    pub(super) fn drain(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        while let Some(event) = node.links.poll_event() {
            node.events.push(event);
        }
        let mut out = [0; PACKET];
        while let Some(to) = self.nodes[n].links.poll_transmit(self.now, &mut out) {
            self.post(n, to, &Box::new(out));
        }
    }

    /// Lets `time` pass.
    pub(super) fn run(&mut self, time: Duration) {
        self.run_until(self.now.after(time));
    }

    pub(super) fn run_until(&mut self, until: Instant) {
        loop {
            let timers = self.nodes.iter_mut().filter_map(|node| node.links.poll_timeout());
            let flight = self.flight.first_key_value().map(|((at, _), _)| *at);
            let Some(next) = timers.chain(flight).min().filter(|at| *at <= until) else {
                break;
            };
            self.set(next);
            for n in 0..self.nodes.len() {
                if self.nodes[n].links.poll_timeout().is_some_and(|at| at <= self.now.instant) {
                    self.nodes[n].links.handle_timeout(self.now);
                    self.drain(n);
                    let again = self.nodes[n].links.poll_timeout();
                    assert!(again.is_none_or(|at| at > self.now.instant), "a timer that never rests");
                }
            }
            while let Some(entry) = self.flight.first_entry().filter(|e| e.key().0 <= self.now.instant) {
                let (from, to, bytes) = entry.remove();
                let _ = self.deliver(from, to, bytes);
            }
        }
        self.set(until);
    }

    fn set(&mut self, to: Instant) {
        let to = to.max(self.now.instant);
        let passed = u64::try_from((to - self.now.instant).as_millis()).unwrap();
        self.now.unix_ms += passed;
        self.now.instant = to;
    }

    /// The datagrams that `from` sent to `to`.
    pub(super) fn sent(&self, from: usize, to: usize) -> Vec<Bytes> {
        self.sent
            .iter()
            .filter(|(a, b, _)| (*a, *b) == (from, to))
            .map(|(_, _, bytes)| bytes.clone())
            .collect()
    }
}

impl Node {
    fn new(config: LinkConfig, address: SocketAddr, seed: [u8; 32]) -> Self {
        let peer = config.relay.as_ref().map(|keys| Peer {
            id: keys.identity.id(),
            link_key: keys.link.public(),
            address,
        });
        let links = Links::new(config, seed);
        Self { links, address, peer, events: Vec::new(), got: Vec::new(), drops: Vec::new() }
    }

    pub(super) fn seal(
        &mut self,
        now: Now,
        link: LinkId,
        kind: PacketType,
        n: u64,
    ) -> Result<(SocketAddr, Bytes), DropReason> {
        let mut bytes = Box::new([0; PACKET]);
        let mut packet = Packet::blank(&mut bytes);
        packet.set_word(CircuitWord::new(kind, false, 77));
        packet.cell()[..8].copy_from_slice(&n.to_be_bytes());
        let (_, to) = self.links.seal(now, link, packet)?;
        Ok((to, bytes))
    }

    pub(super) fn receive(
        &mut self,
        now: Now,
        from: SocketAddr,
        bytes: &mut [u8; PACKET],
    ) -> Result<(), DropReason> {
        match self.links.open(now, from, Packet::received(bytes)) {
            Ok(Arrival::Circuit { link, mut packet }) => {
                let n = u64::from_be_bytes(*packet.cell().first_chunk().unwrap());
                self.got.push((link, packet.word(), n));
                Ok(())
            }
            Ok(Arrival::Payments { .. } | Arrival::Consumed) => Ok(()),
            Err(reason) => {
                self.drops.push(reason);
                Err(reason)
            }
        }
    }

    /// All that a packet could change: the node's whole visible state.
    pub(super) fn state(&self) -> String {
        let l = &self.links;
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {} {}",
            l.snapshot(),
            l.answers.keys(),
            l.relays,
            l.shared.indices.len(),
            l.shared.timers,
            l.shared.ready,
            l.posted.len(),
            l.events.len(),
        )
    }

    pub(super) fn count(&self, event: fn(&LinkEvent) -> bool) -> usize {
        self.events.iter().filter(|e| event(e)).count()
    }

    pub(super) fn ups(&self) -> usize {
        self.count(|e| matches!(e, LinkEvent::Up { .. }))
    }

    pub(super) fn losses(&self) -> usize {
        self.count(|e| matches!(e, LinkEvent::Lost { .. }))
    }
}

/// Sends `count` cells, one every `every`, and returns how many came.
pub(super) fn stream(
    net: &mut Net,
    from: usize,
    to: usize,
    link: LinkId,
    count: u64,
    every: Duration,
) -> usize {
    let before = net.nodes[to].got.len();
    for n in 0..count {
        net.send(from, link, n).unwrap();
        net.run(every);
    }
    net.run(S);
    net.nodes[to].got.len() - before
}

#[test]
fn a_client_and_its_entry_exchange_cells() {
    let mut net = Net::new(&[false, true]);
    let (a, b) = net.connect(0, 1);
    assert!(net.nodes[1].links.is_client(b) && !net.nodes[0].links.is_client(a));
    assert_eq!(net.nodes[1].links.peer(b), None);
    assert_eq!(net.nodes[0].links.peer(a), net.nodes[1].peer.map(|p| p.id));
    // Opener bit: the client is 0.
    assert_eq!((net.nodes[0].links.our_opener(a), net.nodes[1].links.our_opener(b)), (false, true));
    net.send(0, a, 5).unwrap();
    net.send(1, b, 6).unwrap();
    net.run(S);
    assert_eq!(net.nodes[1].got, [(b, CircuitWord::new(PacketType::Cell, false, 77), 5)]);
    assert_eq!(net.nodes[0].got, [(a, CircuitWord::new(PacketType::Cell, false, 77), 6)]);
    let info = net.nodes[0].links.snapshot()[0];
    assert_eq!((info.up, info.suite, info.lost, info.repaired), (true, Some(Suite::Aegis128L), 0, 0));
    assert_eq!(net.nodes[0].links.rtt(a), Some(20 * MS));
    assert_eq!(net.nodes[0].links.peer_clock_ms(a), Some(0));
    // link.size.1 holds by type; every datagram of both sides is that type.
    assert!(net.sent.iter().all(|(_, _, bytes)| bytes.len() == 1412));
}

#[test]
fn two_relays_exchange_cells_over_one_link() {
    let mut net = Net::new(&[true, true]);
    let (a, b) = net.connect(0, 1);
    let ids = [0, 1].map(|n: usize| net.nodes[n].peer.unwrap().id);
    assert_eq!((net.nodes[0].links.peer(a), net.nodes[1].links.peer(b)), (Some(ids[1]), Some(ids[0])));
    assert!(!net.nodes[1].links.is_client(b));
    // Opener bit: the lower relay id is 0.
    assert_eq!(net.nodes[0].links.our_opener(a), ids[0] > ids[1]);
    assert_eq!(net.nodes[1].links.our_opener(b), ids[1] > ids[0]);
    assert_eq!(net.dial(1, 0), b, "an accepted link is used");
    assert_eq!(net.dial(0, 1), a);
    assert_eq!(stream(&mut net, 0, 1, a, 100, MS), 100);
    assert_eq!(stream(&mut net, 1, 0, b, 100, MS), 100);
    assert!(net.nodes.iter().all(|n| n.ups() == 1 && n.losses() == 0 && n.drops.is_empty()));
}

#[test]
fn two_relays_that_dial_at_once_both_work() {
    let mut net = Net::new(&[true, true]);
    let (a, b) = (net.dial(0, 1), net.dial(1, 0));
    net.run(S);
    for (from, to, link) in [(0, 1, a), (1, 0, b)] {
        assert_eq!(stream(&mut net, from, to, link, 200, MS), 200);
        let (theirs, ..) = *net.nodes[to].got.last().unwrap();
        assert_eq!(stream(&mut net, to, from, theirs, 200, MS), 200);
    }
    net.run(5 * S);
    assert!(net.nodes.iter().all(|n| n.losses() == 0));
}

#[test]
fn a_name_never_names_another_link() {
    let mut net = Net::new(&[false, true]);
    let (a, _) = net.connect(0, 1);
    net.run(125 * S);
    assert_eq!(net.nodes[0].losses(), 1);
    assert!(!net.nodes[0].links.is_up(a));
    let (again, _) = net.connect(0, 1);
    assert_ne!(a, again);
    assert_eq!(a.slot, again.slot);
    assert_eq!(net.send(0, a, 1), Err(DropReason::LinkDown));
    assert_eq!((net.nodes[0].links.peer(a), net.nodes[0].links.rtt(a)), (None, None));
    net.nodes[0].links.hold(a);
    assert_eq!(net.nodes[0].links.snapshot()[0].circuits, 0);
}

// Steady state: opening and sealing allocate nothing.
#[test]
fn the_data_path_does_not_allocate() {
    let mut net = Net::new(&[true, true]);
    let (a, _) = net.connect(0, 1);
    let from = net.nodes[0].address;
    let mut bytes = [0; PACKET];
    let mut pass = |net: &mut Net, count: u32| {
        for _ in 0..count {
            net.now.instant += 20 * Duration::from_micros(1);
            let now = net.now;
            let mut packet = Packet::blank(&mut bytes);
            packet.set_word(CircuitWord::new(PacketType::Cell, false, 5));
            packet.cell()[..CELL].fill(3);
            net.nodes[0].links.seal(now, a, packet).unwrap();
            let arrival = net.nodes[1].links.open(now, from, Packet::received(&mut bytes)).unwrap();
            assert!(matches!(arrival, Arrival::Circuit { .. }));
        }
    };
    pass(&mut net, 20_000);
    let counted = allocation_counter::measure(|| pass(&mut net, 5_000));
    assert_eq!(counted.count_total, 0);
}

#[test]
fn a_full_table_ends_idle_links_only() {
    let mut small = config(true, 0);
    small.limits.links = 3;
    let mut net =
        Net::with((0..6).map(|n| if n == 0 { config(true, 0) } else { config(false, n) }).collect());
    net.nodes[0].links.config.limits = small.limits;
    for client in 1..4 {
        let (_, theirs) = net.connect(client, 0);
        if client < 3 {
            net.nodes[0].links.hold(theirs);
        }
    }
    let refused = net.dial(4, 0);
    net.run(5 * S);
    assert!(!net.nodes[4].links.is_up(refused));
    assert_eq!(net.nodes[0].links.snapshot().len(), 3);
    assert_eq!(net.nodes[0].losses(), 0, "nobody was idle for 10 s");
    net.run(10 * S);
    let (_, theirs) = net.connect(5, 0);
    assert!(net.nodes[0].links.is_up(theirs));
    assert_eq!((net.nodes[0].losses(), net.nodes[3].losses()), (1, 1));
    assert_eq!(net.nodes[0].links.snapshot().len(), 3);
}
