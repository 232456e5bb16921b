//! Clients that send setups as fast as they can, to the entry of an honest one.

use std::cell::Cell as Counter;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use circuit::aead::Suite;
use circuit::error::DropReason;
use circuit::keys::{BootId, Random, RelayId};
use circuit::link::{Arrival, LinkConfig, LinkId, LinkLimits, Links, Peer, Suites};
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::packet::{CELL, Cell, CircuitWord, PACKET, Packet, PacketType, Sealed};
use circuit::setup::{self, PathHop, Purpose, Terms};
use directory::descriptor::epoch;
use directory::view::View;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::host::{ClientProgram, HostId, Program, Running};
use netsim::seeds;
use netsim::world::{NETWORK, Plan, World};
use rand_core::{Rng as _, SeedableRng as _};

/// A client that has nothing in mind but setups: some are good, and name a relay that does not answer.
struct Flooder {
    links: Links,
    rng: Random,
    entry: Peer,
    path: Vec<PathHop>,
    link: Option<LinkId>,
    /// Every so often it sends so many.
    beat: (Duration, u32),
    next: Instant,
    until: Instant,
    sent: u32,
    /// One of so many is good.
    good: u32,
    outbox: VecDeque<(CircuitWord, Box<Cell>)>,
    answers: Rc<Counter<u64>>,
}

impl Flooder {
    fn flood(&mut self, now: Now) {
        self.next = now.after(self.beat.0);
        let Some(link) = self.link.filter(|link| self.links.is_up(*link)) else {
            let up = self.link.is_some_and(|link| self.links.peer(link).is_some());
            if !up {
                self.link = self.links.dial(now, &self.entry).ok();
            }
            return;
        };
        for _ in 0..self.beat.1 {
            let cell = if self.sent.is_multiple_of(self.good) {
                let purpose = Purpose {
                    expiry: u32::try_from(now.unix() + 3600).unwrap(),
                    minute: u32::try_from(now.unix() / 60).unwrap(),
                    exit: false,
                    early: &[],
                };
                setup::build(&mut self.rng, &self.path, purpose).expect("a path").1
            } else {
                let mut cell = [0; CELL];
                self.rng.fill_bytes(&mut cell);
                cell
            };
            self.sent += 1;
            let word = CircuitWord::new(PacketType::Setup, self.links.our_opener(link), self.sent);
            let word = word.with_parity(self.path[0].epoch & 1 == 1);
            self.outbox.push_back((word, Box::new(cell)));
        }
    }
}

impl Node for Flooder {
    fn handle_datagram(
        &mut self,
        now: Now,
        from: SocketAddr,
        packet: Packet<'_, Sealed>,
    ) -> Result<Verdict, DropReason> {
        if let Arrival::Circuit { packet, .. } = self.links.open(now, from, packet)?
            && packet.word().kind() == Some(PacketType::Reply)
        {
            self.answers.set(self.answers.get() + 1);
        }
        while self.links.poll_event().is_some() {}
        Ok(Verdict::Consumed)
    }

    fn handle_timeout(&mut self, now: Now) {
        self.links.handle_timeout(now);
        if self.next <= now.instant && now.instant < self.until {
            self.flood(now);
        }
    }

    fn poll_transmit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        while let (Some(link), Some((word, cell))) = (self.link, self.outbox.pop_front()) {
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
        let next = Some(self.next).filter(|next| *next < self.until);
        [self.links.poll_timeout(), next].into_iter().flatten().min()
    }

    fn poll_event(&mut self) -> Option<Event> {
        None
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

/// A world with a dead relay that only the flooders know of.
struct Flooded {
    world: World,
    honest: HostId,
    entry: HostId,
    path: [RelayId; 2],
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([6, u8::try_from(n).unwrap(), 1, 1], 4433))
}

fn flooded(seed: u64) -> Flooded {
    let mut world = Plan { relays: 6, exits: 2, clients: 0, ..Plan::new(seed, 3) }.build();
    let dead = world.sim.relay(world.relays[0]).id();
    let mut view = View::new(NETWORK);
    for relay in world.view.iter().filter(|relay| relay.id != dead) {
        view.insert(relay.clone()).expect("a relay of the view");
    }
    world.sim.kill(world.relays[0]);
    let program = ClientProgram { network: NETWORK, view, hops: 3, prebuilt: 0, money: None };
    let (now, own) = (world.sim.now(), world.sim.draw());
    let node = program.start(now, &netsim::money::Disk::default(), &[], own);
    let honest =
        world.sim.add(address(250), Program::Client(Box::new(program)), Running::Client(Box::new(node)));
    world.clients.push(honest);
    let entry = world.entry();
    let path = [world.sim.relay(entry).id(), dead];
    Flooded { world, honest, entry, path }
}

impl Flooded {
    fn flooder(
        &mut self,
        n: usize,
        beat: (Duration, u32),
        time: Duration,
        good: u32,
    ) -> (HostId, Rc<Counter<u64>>) {
        let now = self.world.sim.now();
        let config = LinkConfig {
            network: NETWORK,
            relay: None,
            boot: BootId(n as u64),
            suites: Suites::default(),
            limits: LinkLimits::default(),
        };
        let view = &self.world.view;
        let hop = |id: &RelayId| PathHop {
            id: *id,
            onion: *view.onion_key(id, epoch(now.unix())).expect("a key of this epoch"),
            epoch: epoch(now.unix()),
            suite: Suite::Aegis128L,
            terms: Terms::default(),
        };
        let entry = view.get(&self.path[0]).expect("the entry");
        let answers = Rc::<Counter<u64>>::default();
        let flooder = Flooder {
            entry: Peer { id: entry.id, link_key: entry.link_key, address: entry.addresses[0] },
            path: self.path.iter().map(hop).collect(),
            links: Links::new(config, self.world.sim.draw()),
            rng: Random::from_seed(self.world.sim.draw()),
            link: None,
            beat,
            next: now.instant,
            until: now.after(time),
            sent: 0,
            good,
            outbox: VecDeque::new(),
            answers: Rc::clone(&answers),
        };
        let running = Running::Foreign(Box::new(flooder));
        (self.world.sim.add(address(n), Program::Foreign, running), answers)
    }

    /// The honest client builds circuits beside the flood, and has its streams after it.
    fn assert_served(&mut self, seed: u64) {
        let honest = self.honest;
        let number = self.world.sim.with_client(honest, |node, now| node.test(now, 16, 8));
        self.world.sim.run_for(Duration::from_millis(1500));
        let run = self.world.sim.with_client(honest, |node, _| node.take_test(number)).expect("it has ended");
        assert_eq!((run.times.len(), run.failed.len()), (16, 0), "{:?}", run.failed);
        println!("seed {seed}: beside the flood circuits take up to {:?}", run.times.iter().max());
    }

    fn half_open(&self) -> usize {
        self.world.sim.relay(self.entry).relay().circuits().1
    }

    fn limited(&self) -> u64 {
        self.world.sim.host(self.entry).drops.get(DropReason::Limit)
    }

    /// Nothing is left of the flood, not even its replay tags.
    fn assert_over(&mut self, seed: u64, flooders: &[HostId]) {
        self.world.sim.run_for(Duration::from_secs(20));
        assert_eq!(self.half_open(), 0);
        for id in flooders {
            self.world.sim.kill(*id);
        }
        self.world.sim.run_for(Duration::from_mins(11));
        let exchange = Exchange { upload: 1000, download: 50_000, seed, ending: Ending::Finish };
        let app = self.world.ask(Wish::new("site", exchange));
        assert!(matches!(self.world.finish(app, Duration::from_secs(10)), Some((Outcome::Finished, _))));
        assert!(self.world.sim.app(app).is_whole());
        assert_eq!(self.world.sim.client(self.honest).counts().failed, 0);
    }
}

// circuit.setup.1, circuit.table.1
#[test]
fn ten_thousand_setups_per_second_of_one_client_stop_at_its_bucket() {
    seeds::each(1, |seed| {
        let mut flood = flooded(seed);
        let kept = allocation_counter::measure(|| {
            let (flooder, answers) =
                flood.flooder(0, (Duration::from_millis(1), 10), Duration::from_secs(3), 10);
            flood.world.sim.run_for(Duration::from_secs(1));
            flood.assert_served(seed);
            // Of one client at most 1,024 wait, and the bucket has let through its burst and 1,000 per second.
            assert!((1..=1024).contains(&flood.half_open()), "{}", flood.half_open());
            flood.world.sim.run_for(Duration::from_secs(2));
            let limited = flood.limited();
            assert!((25_000..29_000).contains(&limited), "{limited}");
            flood.assert_over(seed, &[flooder]);
            assert!((500..4000).contains(&answers.get()), "good ones are answered: {}", answers.get());
        });
        println!("seed {seed}: {kept:?}");
        assert!(kept.bytes_current < 2 << 20, "{kept:?}");
    });
}

// circuit.setup.1, circuit.table.1
#[test]
fn ten_thousand_setups_per_second_of_many_clients_end_with_them() {
    const CLIENTS: usize = 20;
    seeds::each(1, |seed| {
        let mut flood = flooded(seed);
        for round in 0..2 {
            let kept = allocation_counter::measure(|| {
                let beat = (Duration::from_millis(2), 1);
                let time = Duration::from_millis(2500);
                let flooders: Vec<_> =
                    (0..CLIENTS).map(|n| flood.flooder(n + round * CLIENTS, beat, time, 4).0).collect();
                flood.world.sim.run_for(Duration::from_secs(1));
                flood.assert_served(seed);
                // Within the limits of each, all of it is served.
                assert!((4000..=CLIENTS * 1024).contains(&flood.half_open()), "{}", flood.half_open());
                assert_eq!(flood.limited(), 0);
                flood.assert_over(seed, &flooders);
            });
            println!("seed {seed}: {kept:?}");
            // Queues keep the size of the first flood. The second one leaves nothing.
            assert!(kept.bytes_current < if round == 0 { 6 << 20 } else { 1 << 20 }, "{kept:?}");
        }
    });
}
