//! A client that builds circuits like an honest one, and sends cells that no honest one sends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use circuit::aead::Suite;
use circuit::cell::body;
use circuit::error::DropReason;
use circuit::keys::{BootId, Random};
use circuit::link::{Arrival, LinkConfig, LinkEvent, LinkId, LinkLimits, Links, Peer, Suites};
use circuit::node::{Event, FlowId, FlowRead, FlowWrite, Node, Now, Verdict};
use circuit::origin::{Action, Answered, Origin};
use circuit::packet::{CELL, Cell, CircuitWord, PACKET, Packet, PacketType, Sealed};
use circuit::setup::{PathHop, Purpose, Terms};
use directory::descriptor::epoch;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::host::{HostId, Program, Running};
use netsim::seeds;
use netsim::world::{NETWORK, Plan, World};
use rand_core::SeedableRng as _;

/// What the test sees.
#[derive(Debug, Default)]
struct Seen {
    ready: bool,
    sent: bool,
    ended: bool,
}

struct Rogue {
    links: Links,
    origin: Origin,
    entry: Peer,
    path: Vec<PathHop>,
    link: Option<LinkId>,
    /// The hop that it talks to, and the beginning of the body.
    last: usize,
    says: Vec<u8>,
    outbox: VecDeque<(LinkId, CircuitWord, Box<Cell>)>,
    seen: Rc<RefCell<Seen>>,
}

impl Rogue {
    fn on(world: &mut World, last: usize, says: &[u8]) -> Rc<RefCell<Seen>> {
        let unix = world.sim.now().unix();
        // Entry, middle, and the only exit.
        let path: Vec<_> = world
            .relays
            .iter()
            .map(|id| {
                let id = world.sim.relay(*id).id();
                let onion = *world.view.onion_key(&id, epoch(unix)).expect("a key of this epoch");
                PathHop { id, onion, epoch: epoch(unix), suite: Suite::Aegis128L, terms: Terms::default() }
            })
            .collect();
        let entry = world.view.get(&path[0].id).expect("the entry");
        let config = LinkConfig {
            network: NETWORK,
            relay: None,
            boot: BootId(1),
            suites: Suites::default(),
            limits: LinkLimits::default(),
        };
        let seen = Rc::<RefCell<Seen>>::default();
        let rogue = Self {
            entry: Peer { id: entry.id, link_key: entry.link_key, address: entry.addresses[0] },
            links: Links::new(config, world.sim.draw()),
            origin: Origin::new(10, Random::from_seed(world.sim.draw())),
            path,
            link: None,
            last,
            says: says.to_vec(),
            outbox: VecDeque::new(),
            seen: Rc::clone(&seen),
        };
        let address = ([6, 1, 1, 1], 4433).into();
        world.sim.add(address, Program::Foreign, Running::Foreign(Box::new(rogue)));
        seen
    }

    fn act(&mut self, now: Now) {
        while let Some(event) = self.links.poll_event() {
            if let LinkEvent::Up { link } = event {
                let purpose = Purpose {
                    expiry: u32::try_from(now.unix() + 3600).unwrap(),
                    minute: u32::try_from(now.unix() / 60).unwrap(),
                    exit: true,
                    early: &[],
                };
                self.origin
                    .build(link, self.links.our_opener(link), &self.path, purpose, None)
                    .expect("a path");
            }
        }
        while let Some(action) = self.origin.poll_action() {
            match action {
                Action::Send(link, word, cell) => self.outbox.push_back((link, word, cell)),
                Action::Hold(link) => self.links.hold(link),
                Action::Release(link) => self.links.release(now, link),
            }
        }
    }
}

impl Node for Rogue {
    fn handle_datagram(
        &mut self,
        now: Now,
        from: SocketAddr,
        packet: Packet<'_, Sealed>,
    ) -> Result<Verdict, DropReason> {
        if let Arrival::Circuit { link, mut packet } = self.links.open(now, from, packet)? {
            let word = packet.word();
            match word.kind() {
                Some(PacketType::Reply) => {
                    let (key, answered) = self.origin.handle_reply(now, link, word, packet.cell())?;
                    assert_eq!(answered, Answered::Ready);
                    self.seen.borrow_mut().ready = true;
                    let mut cell = Box::new([0; CELL]);
                    body(&mut cell)[..self.says.len()].copy_from_slice(&self.says);
                    let (link, word) = self.origin.seal(key, self.last, &mut cell).expect("it stands");
                    self.outbox.push_back((link, word, cell));
                    self.seen.borrow_mut().sent = true;
                }
                Some(PacketType::Destroy) => {
                    self.origin.handle_destroy(now, link, word)?;
                    self.seen.borrow_mut().ended = true;
                }
                _ => {}
            }
        }
        self.act(now);
        Ok(Verdict::Consumed)
    }

    fn handle_timeout(&mut self, now: Now) {
        self.links.handle_timeout(now);
        self.act(now);
    }

    fn poll_transmit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        if self.link.is_none() {
            self.link = self.links.dial(now, &self.entry).ok();
        }
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
        self.links.poll_timeout()
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

/// A body of this type and length.
fn typed(kind: u16, data: &[u8]) -> Vec<u8> {
    [&(kind << 13 | u16::try_from(data.len()).unwrap()).to_be_bytes()[..], data].concat()
}

/// A QUIC packet of these frames, as the first of a connection.
fn quic(frames: &[u8]) -> Vec<u8> {
    typed(1, &[&[0x44, 0], frames, &[1, 0, 0, 0]].concat())
}

fn circuits(world: &World) -> Vec<usize> {
    world.relays.iter().map(|id| world.sim.relay(*id).relay().circuits().0).collect()
}

/// The hop that is talked to, what is said, and whether it ends the circuit.
fn cases() -> Vec<(usize, Vec<u8>, bool)> {
    let connect = |port: u8| [&[0x0a, 0, 10, 1, 1, 198, 0, 0, 4, 0, port][..], &[0; 2]].concat();
    vec![
        (2, typed(0, b""), false),
        (2, quic(&[0x01]), false),
        // circuit.stream.1
        (2, typed(1, &[0xc0; 1000]), false),
        (2, typed(1, b""), false),
        // circuit.cell.5
        (2, typed(0, b"x"), false),
        (2, [&typed(0, b"")[..], b"x"].concat(), true),
        (2, typed(2, b"x"), true),
        (2, typed(3, b"x"), true),
        (2, typed(4, b"x"), true),
        (2, typed(7, b""), true),
        (2, (1u16 << 13 | 0x4ff).to_be_bytes().to_vec(), true),
        // Only the exit takes packets.
        (0, quic(&[0x01]), true),
        (1, quic(&[0x01]), true),
        // circuit.stream.2
        (2, quic(&[0x3f]), true),
        (2, quic(&[0x1e]), true),
        (2, quic(&[0x07, 1, 1]), true),
        (2, quic(&[0x19, 0]), true),
        (2, quic(&[0x02, 9, 0, 0, 0]), true),
        (2, quic(&[0x0a, 0x4f, 0xa0, 1, b'h']), true),
        (2, quic(&[0x0e, 0, 0x81, 0, 0, 0, 1, b'h']), true),
        (2, quic(&[0x1d, 7, 0]), true),
        (2, quic(&[0x0a, 0]), true),
        // A request that is none, for a kind that is not served, and to a port that is not.
        (2, quic(&[0x0a, 0, 4, 9, 9, 9, 9]), false),
        (2, quic(&connect(25)), false),
    ]
}

// circuit.cell.5, circuit.stream.1, circuit.stream.2
#[test]
fn a_client_that_breaks_the_rules_ends_its_own_circuit_and_no_other() {
    seeds::each(1, |seed| {
        for (n, (last, says, ends)) in cases().into_iter().enumerate() {
            let mut world = Plan::new(seed, 3).build();
            let exchange = Exchange { upload: 100_000, download: 100_000, seed, ending: Ending::Finish };
            let app = world.ask(Wish::new("site", exchange));
            let seen = Rogue::on(&mut world, last, &says);
            assert!(matches!(world.finish(app, Duration::from_mins(1)), Some((Outcome::Finished, _))));
            assert!(world.sim.app(app).is_whole());
            world.sim.run_for(Duration::from_secs(10));
            assert!(seen.borrow().ready && seen.borrow().sent, "case {n}: {seen:?}");
            assert_eq!(seen.borrow().ended, ends, "case {n}");
            assert_eq!(circuits(&world), [if ends { 1 } else { 2 }; 3], "case {n}");
            let exit: HostId = world.relays[2];
            assert_eq!(world.sim.relay(exit).exit().map(router::exit::Exit::open), Some(0), "case {n}");
        }
    });
}
