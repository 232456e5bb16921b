//! What a cell and a setup cost on one core: `cargo bench -p circuit --bench pipe`.
//!
//! Cells are worked on in passes of 64, which stay in the second-level cache as the packets of one receive call do.
//! Only the named stage is timed. The table at the end gives the median and the fastest pass, per cell or setup, and
//! sets the median against the goal for a packet's whole way through a relay. Other programs on the machine spoil the
//! medians, and hardly the fastest passes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use circuit::aead::Suite;
use circuit::cell::{self, BodyType};
use circuit::keys::{BootId, DhSecret, IdentitySecret, NetworkId, Random, RelayId, Secret};
use circuit::layer::{HopKeys, Layers, Recognized, RelayLayer};
use circuit::link::handshake::Suites;
use circuit::link::{Arrival, LinkConfig, LinkId, LinkLimits, Links, Peer, RelayKeys};
use circuit::node::Now;
use circuit::packet::{CELL, Cell, CircuitWord, PACKET, Packet, PacketType};
use circuit::setup::{self, Answer, Block, Outcome, PathHop, Purpose, SentSetup, Terms};
use criterion::{Criterion, Throughput};
use rand_core::{Rng as _, SeedableRng as _};

/// What a relay may take for a packet, from datagram to datagram, in nanoseconds.
const GOAL: f64 = 1500.0;
const HOPS: usize = 3;
const LAST: usize = HOPS - 1;
/// The cells of a pass.
const CELLS: u32 = 64;
const EPOCH: u32 = 7;
const SUITES: [(&str, Suite); 2] = [("suite 1", Suite::Aegis128L), ("suite 2", Suite::ChaCha20Poly1305)];

fn main() {
    let criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut bench = Bench { criterion, rows: vec![] };
    for (name, suite) in SUITES {
        relay_stages(&mut bench, name, suite);
        origin_stages(&mut bench, name, suite);
        link_stages(&mut bench, name, suite);
    }
    setup_stages(&mut bench);
    bench.criterion.final_summary();
    bench.print();
}

/// The stages measured so far.
struct Bench {
    criterion: Criterion,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    median: f64,
    fastest: f64,
}

impl Bench {
    /// Measures a stage: `pass` returns how long it took for so many `items`.
    fn stage(&mut self, name: &str, items: u32, mut pass: impl FnMut() -> Duration) {
        let mut passes = vec![];
        let mut group = self.criterion.benchmark_group("pipe");
        group.throughput(Throughput::Elements(items.into()));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                let first = passes.len();
                passes.extend((0..count).map(|_| pass()));
                passes.iter().skip(first).sum()
            });
        });
        group.finish();
        passes.sort();
        let each = |pass: &Duration| pass.as_secs_f64() * 1e9 / f64::from(items);
        if let (Some(fastest), Some(median)) = (passes.first(), passes.get(passes.len() / 2)) {
            self.rows.push(Row { name: name.to_owned(), median: each(median), fastest: each(fastest) });
        }
    }

    #[expect(clippy::print_stdout, reason = "the result of the benchmark")]
    fn print(&self) {
        println!("\n{:<34} {:>10} {:>10} {:>14}", "stage", "median ns", "fastest ns", "x goal 1500 ns");
        for Row { name, median, fastest } in &self.rows {
            println!("{name:<34} {median:>10.0} {fastest:>10.0} {:>14.2}", median / GOAL);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn now() -> Instant {
    Instant::now()
}

/// How long `work`, which must succeed, takes for all of `items`.
fn timed<T>(items: &mut [T], work: impl FnMut(&mut T) -> bool) -> Duration {
    let start = now();
    assert!(items.iter_mut().all(work));
    start.elapsed()
}

fn cells() -> Vec<Cell> {
    let mut cell = [0; CELL];
    let filled = cell::write_body(cell::body(&mut cell), BodyType::Quic, |data| Some(data.len()));
    assert!(filled.is_ok());
    vec![cell; CELLS as usize]
}

fn path(rng: &mut Random, suite: Suite) -> Vec<HopKeys> {
    let mut draw = || {
        let (mut mask, mut ratchet) = ([0; 16], [0; 32]);
        rng.fill_bytes(&mut mask);
        rng.fill_bytes(&mut ratchet);
        (Secret::new(mask), Secret::new(ratchet))
    };
    (0..HOPS).map(|_| HopKeys { suite, forward: draw(), backward: draw() }).collect()
}

/// The first relay of a path: forward cells come from the origin, backward cells go to it.
fn relay_stages(bench: &mut Bench, name: &str, suite: Suite) {
    let mut rng = Random::seed_from_u64(1);
    let keys = path(&mut rng, suite);
    let (mut origin, mut relay) = (Layers::new(&keys), RelayLayer::new(&keys[0]));
    let (mut cells, at) = (cells(), now());
    bench.stage(&format!("relay layer open, {name}"), CELLS, || {
        assert!(cells.iter_mut().all(|cell| origin.seal(&mut rng, LAST, cell)));
        timed(&mut cells, |cell| relay.open(at, cell) == Ok(Recognized::Onward))
    });
    bench.stage(&format!("relay layer seal, {name}"), CELLS, || timed(&mut cells, |cell| relay.seal(cell)));
}

fn origin_stages(bench: &mut Bench, name: &str, suite: Suite) {
    let mut rng = Random::seed_from_u64(2);
    let keys = path(&mut rng, suite);
    let mut relays: Vec<_> = keys.iter().map(RelayLayer::new).collect();
    let (mut origin, mut cells, at) = (Layers::new(&keys), cells(), now());
    bench.stage(&format!("origin seal, {HOPS} hops, {name}"), CELLS, || {
        timed(&mut cells, |cell| origin.seal(&mut rng, LAST, cell))
    });
    bench.stage(&format!("origin open, {HOPS} hops, {name}"), CELLS, || {
        for cell in &mut cells {
            assert!(relays[LAST].start(cell));
            assert!(relays[..LAST].iter_mut().rev().all(|relay| relay.seal(cell)));
        }
        timed(&mut cells, |cell| origin.open(at, cell) == Ok(LAST))
    });
}

/// A client, its entry, and the relay behind it, with links between them.
struct Chain {
    now: Now,
    nodes: Vec<(SocketAddr, Links)>,
    /// The client's link to the entry, and the entry's to the next relay.
    ways: [LinkId; 2],
}

impl Chain {
    fn new(suite: Suite) -> Self {
        let mut rng = Random::seed_from_u64(4);
        let now = Now { instant: now(), unix_ms: 1_767_225_600_000 };
        let (mut nodes, mut peers) = (vec![], vec![]);
        for n in 1..=3u8 {
            let keys =
                RelayKeys { identity: IdentitySecret::random(&mut rng), link: DhSecret::random(&mut rng) };
            let address = SocketAddr::from(([10, n, 0, 1], 4000));
            peers.push(Peer { id: keys.identity.id(), link_key: keys.link.public(), address });
            let config = LinkConfig {
                network: NetworkId([7; 16]),
                relay: (n > 1).then_some(keys),
                boot: BootId(1),
                suites: Suites::only(suite),
                limits: LinkLimits::default(),
            };
            nodes.push((address, Links::new(config, [n; 32])));
        }
        for (_, links) in &mut nodes {
            links.set_relays(peers.iter().map(|peer| (peer.link_key, peer.id)));
        }
        let ways = [0, 1].map(|n| nodes[n].1.dial(now, &peers[n + 1]).expect("a relay may be dialled"));
        let mut chain = Self { now, nodes, ways };
        while chain.carry() {}
        assert!(chain.nodes.iter().zip(ways).all(|((_, links), way)| links.is_up(way)));
        chain
    }

    /// Carries what the nodes want to send; false when it was nothing.
    fn carry(&mut self) -> bool {
        let (mut packet, mut any) = ([0; PACKET], false);
        for n in 0..self.nodes.len() {
            let from = self.nodes[n].0;
            while let Some(to) = self.nodes[n].1.poll_transmit(self.now, &mut packet) {
                let node =
                    self.nodes.iter_mut().find(|(address, _)| *address == to).expect("it is a node of ours");
                assert!(node.1.open(self.now, from, Packet::received(&mut packet)).is_ok());
                any = true;
            }
        }
        any
    }

    /// The client seals a packet for the entry.
    fn send(&mut self, packet: &mut [u8; PACKET]) {
        let mut blank = Packet::blank(packet);
        blank.set_word(CircuitWord::new(PacketType::Cell, false, 1));
        assert!(self.nodes[0].1.seal(self.now, self.ways[0], blank).is_ok());
    }

    /// The entry opens a packet, lets `work` change it, and seals it for the next relay if `work` says so.
    fn pass(&mut self, packet: &mut [u8; PACKET], work: impl FnOnce(&mut Cell) -> bool) -> bool {
        let [(from, _), (_, links), _] = &mut self.nodes[..] else {
            return false;
        };
        let Ok(Arrival::Circuit { mut packet, .. }) = links.open(self.now, *from, Packet::received(packet))
        else {
            return false;
        };
        if work(packet.cell()) {
            packet.set_word(CircuitWord::new(PacketType::Cell, false, 2));
            return links.seal(self.now, self.ways[1], packet).is_ok();
        }
        true
    }

    /// The entry seals a packet of its own for the next relay.
    fn seal(&mut self, packet: &mut [u8; PACKET]) -> bool {
        self.nodes[1].1.seal(self.now, self.ways[1], Packet::blank(packet)).is_ok()
    }
}

/// The entry's links, and its whole way of a forward cell: link open, layer open, link seal.
fn link_stages(bench: &mut Bench, name: &str, suite: Suite) {
    let mut chain = Chain::new(suite);
    let mut packets = vec![[7; PACKET]; CELLS as usize];
    bench.stage(&format!("link open, {name}"), CELLS, || {
        for packet in &mut packets {
            chain.send(packet);
        }
        timed(&mut packets, |packet| chain.pass(packet, |_| false))
    });
    bench.stage(&format!("link seal, {name}"), CELLS, || timed(&mut packets, |packet| chain.seal(packet)));
    let mut rng = Random::seed_from_u64(5);
    let keys = path(&mut rng, suite);
    let (mut origin, mut relay, at) = (Layers::new(&keys), RelayLayer::new(&keys[0]), chain.now.instant);
    bench.stage(&format!("whole relay pipe, {name}"), CELLS, || {
        for packet in &mut packets {
            assert!(origin.seal(&mut rng, LAST, Packet::blank(packet).cell()));
            chain.send(packet);
        }
        timed(&mut packets, |packet| {
            chain.pass(packet, |cell| relay.open(at, cell) == Ok(Recognized::Onward))
        })
    });
}

/// The relays of a path, entry first.
struct Net {
    rng: Random,
    relays: Vec<(RelayId, DhSecret)>,
}

impl Net {
    fn build(&mut self) -> (SentSetup, Cell) {
        let hop = |(id, onion): &(RelayId, DhSecret)| PathHop {
            id: *id,
            onion: onion.public(),
            epoch: EPOCH,
            suite: Suite::Aegis128L,
            terms: Terms::default(),
        };
        let path: Vec<_> = self.relays.iter().map(hop).collect();
        let purpose = Purpose { expiry: 3_000_000, minute: 40_000, exit: true, early: b"early" };
        setup::build(&mut self.rng, &path, purpose).expect("the path is right")
    }

    /// A relay's work on a setup before the next hop's answer: what it answers with, and the setup for the next hop.
    fn receive(&self, hop: usize, cell: &Cell) -> (Answer, Block, Cell) {
        let (id, onion) = &self.relays[hop];
        let received = setup::receive(*id, onion, EPOCH, cell).expect("the setup is right");
        let block = received.block().expect("the block is right");
        let onward = received.onward(&block);
        (received.into_answer(), block, onward)
    }

    /// The reply that comes back to the client.
    fn reply(&mut self, hop: usize, cell: &Cell) -> Cell {
        let (answer, block, onward) = self.receive(hop, cell);
        let reply = if block.terminal {
            answer.finish(&mut self.rng, &block)
        } else {
            let behind = self.reply(hop + 1, &onward);
            answer.pass(&mut self.rng, &block, &behind)
        };
        reply.expect("the setup is right").1
    }
}

fn setup_stages(bench: &mut Bench) {
    let mut rng = Random::seed_from_u64(3);
    let relays = [1, 2, 3].map(|n| (RelayId([n; 32]), DhSecret::random(&mut rng))).into();
    let mut net = Net { rng, relays };
    let (_, cell) = net.build();
    bench.stage("relay setup and reply", 1, || {
        let start = now();
        let (answer, block, onward) = net.receive(0, &cell);
        // A relay cannot check the next hop's reply; any cell does.
        assert!(answer.pass(&mut net.rng, &block, &onward).is_ok());
        start.elapsed()
    });
    bench.stage(&format!("origin setup and reply, {HOPS} hops"), 1, || {
        let start = now();
        let (sent, cell) = net.build();
        let built = start.elapsed();
        let reply = net.reply(0, &cell);
        let start = now();
        let outcome = sent.open_reply(&reply);
        let opened = start.elapsed();
        assert!(matches!(outcome, Ok(Outcome::Ready(keys)) if keys.len() == HOPS));
        built + opened
    });
}
