//! Links: a client and two relays, and between them someone who delays, drops, repeats, changes and makes up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use circuit::keys::BootId;
use circuit::link::{Arrival, LinkConfig, LinkEvent, LinkId, LinkLimits, Links, Peer, RelayKeys, Suites};
use circuit::node::Now;
use circuit::packet::{CELL, CircuitWord, PACKET, Packet, PacketType};

use crate::edits::edit;
use crate::fixture::{NETWORK, identity, link_key, pass, start};
use crate::input::Input;

type Bytes = Box<[u8; PACKET]>;

const NODES: usize = 3;
const MOST_LINKS: usize = 4;
const MOST_FLYING: usize = 64;
/// Packets that one node may have to say at once.
const MOST_AT_ONCE: usize = 2000;

#[derive(Clone)]
struct Datagram {
    from: SocketAddr,
    to: usize,
    bytes: Bytes,
}

struct Host {
    links: Links,
    names: Vec<LinkId>,
    boots: u8,
}

struct World {
    now: Now,
    hosts: Vec<Host>,
    flying: Vec<Datagram>,
    /// Where every cell was sent to, and whether it has come.
    cells: BTreeMap<u64, (usize, bool)>,
}

fn address(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, u8::try_from(n).unwrap(), 1], 4000))
}

fn number(n: usize) -> u8 {
    u8::try_from(n).unwrap()
}

fn peer(n: usize) -> Peer {
    Peer { id: identity(number(n)).id(), link_key: link_key(number(n)).public(), address: address(n) }
}

impl Host {
    /// Node 0 is a client, the others are relays.
    fn new(n: usize, boots: u8) -> Self {
        let keys = RelayKeys { identity: identity(number(n)), link: link_key(number(n)) };
        let config = LinkConfig {
            network: NETWORK,
            relay: (n > 0).then_some(keys),
            boot: BootId(boots.into()),
            suites: Suites::default(),
            limits: LinkLimits {
                links: MOST_LINKS,
                unfinished: 3,
                ring_bytes: 64 << 10,
                ring_total: 100 << 10,
                first_messages_per_second_under_load: 3,
            },
        };
        let mut links = Links::new(config, [number(n) + 16 * boots; 32]);
        links.set_relays((1..NODES).map(|n| (peer(n).link_key, peer(n).id)));
        Self { links, names: vec![], boots }
    }

    /// What can be seen of the links, without counters of time.
    fn state(&self) -> String {
        format!("{:?}", self.links.snapshot())
    }
}

impl World {
    fn new() -> Self {
        let hosts = (0..NODES).map(|n| Host::new(n, 1)).collect();
        Self { now: start(), hosts, flying: vec![], cells: BTreeMap::new() }
    }

    /// Takes what a node has to say.
    fn drain(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        while let Some(event) = host.links.poll_event() {
            match event {
                LinkEvent::Up { link } => host.names.push(link),
                LinkEvent::Lost { link } => {
                    host.names.retain(|name| *name != link);
                    assert!(!host.links.is_up(link));
                }
            }
        }
        let mut out = [0; PACKET];
        let mut count = 0;
        while let Some(to) = host.links.poll_transmit(self.now, &mut out) {
            count += 1;
            assert!(count < MOST_AT_ONCE, "a node that does not stop sending");
            let Some(to) = (0..NODES).find(|n| address(*n) == to) else { continue };
            if self.flying.len() < MOST_FLYING {
                self.flying.push(Datagram { from: address(n), to, bytes: Box::new(out) });
            }
        }
        assert!(host.links.snapshot().len() <= MOST_LINKS);
    }

    /// Gives a datagram to its node; whether it was believed.
    fn deliver(&mut self, mut datagram: Datagram) -> bool {
        let host = &mut self.hosts[datagram.to];
        let believed = match host.links.open(self.now, datagram.from, Packet::received(&mut datagram.bytes)) {
            Ok(Arrival::Circuit { link, mut packet }) => {
                assert!(packet.word().id() != 0 && packet.word().kind() != Some(PacketType::Control));
                let cell = packet.cell();
                let serial = u64::from_be_bytes(*cell.first_chunk().unwrap());
                let sent = self.cells.get_mut(&serial).expect("a cell that nobody sent");
                assert_eq!(*sent, (datagram.to, false), "a cell that came twice or elsewhere");
                sent.1 = true;
                assert!(cell[8..].iter().all(|byte| *byte == 9));
                assert!(host.links.snapshot().iter().any(|info| info.link == link && info.up));
                true
            }
            Ok(Arrival::Payments { .. } | Arrival::Consumed) => true,
            Err(_) => false,
        };
        self.drain(datagram.to);
        believed
    }

    /// A datagram that no honest node has sent like this: nobody believes it, and it changes nothing.
    fn deliver_changed(&mut self, input: &mut Input<'_>, mut datagram: Datagram) {
        let (flags, before) = (input.u8(), datagram.clone());
        let to = datagram.to;
        if flags & 1 == 1 {
            edit(input, &mut *datagram.bytes);
        }
        if flags & 2 == 2 {
            *datagram.bytes = input.array();
        }
        if flags & 4 == 4 {
            datagram.from = SocketAddr::from(([10, 0, 9, input.u8()], 4000));
        }
        let first = datagram.bytes[..4] == [0; 4] && matches!(datagram.bytes[4], 1 | 2);
        if datagram.bytes == before.bytes && (first || datagram.from == before.from) {
            self.deliver(datagram);
            return;
        }
        let state = self.hosts[to].state();
        assert!(!self.deliver(datagram), "a datagram that was changed, or came from elsewhere");
        assert_eq!(self.hosts[to].state(), state, "an error that changes something");
    }

    fn pass(&mut self, time: Duration) {
        pass(&mut self.now, time);
        for n in 0..NODES {
            self.hosts[n].links.handle_timeout(self.now);
            self.drain(n);
            let next = self.hosts[n].links.poll_timeout();
            assert!(next.is_none_or(|at| at > self.now.instant), "a timer that never rests");
        }
    }

    /// Seals a packet: a cell that is known again, or control frames that the other side must bear.
    fn seal(&mut self, input: &mut Input<'_>) {
        let (n, flags) = (input.below(NODES), input.u8());
        let Some(link) = pick(input, &self.hosts[n].names) else { return };
        let mut bytes = Box::new([9; PACKET]);
        let mut packet = Packet::blank(&mut bytes);
        let serial = self.cells.len() as u64;
        if flags & 3 == 3 {
            packet.set_word(CircuitWord::CONTROL);
            let mut cell = [0; CELL];
            let frames = input.chunk();
            cell[..frames.len()].copy_from_slice(frames);
            *packet.cell() = cell;
        } else {
            let id = if flags & 3 == 2 { 0 } else { 77 };
            packet.set_word(CircuitWord::new(PacketType::Cell, flags & 4 == 4, id));
            if flags & 16 == 16 {
                let bits = packet.word().to_bits() ^ 1 << (input.u8() % 32);
                packet.set_word(CircuitWord::from_bits(bits));
            }
            packet.cell()[..8].copy_from_slice(&serial.to_be_bytes());
        }
        let Ok((_, to)) = self.hosts[n].links.seal(self.now, link, packet) else { return };
        if let Some(to) = (0..NODES).find(|n| address(*n) == to) {
            self.cells.insert(serial, (to, false));
            if flags & 8 == 0 && self.flying.len() < MOST_FLYING {
                self.flying.push(Datagram { from: address(n), to, bytes });
            }
        }
        self.drain(n);
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 16 {
            0 => self.pass(Duration::from_millis(u64::from(input.u8()))),
            1 => self.pass(Duration::from_millis(16 * u64::from(input.u16()))),
            2 => {
                let (from, to) = (input.below(NODES), 1 + input.below(NODES - 1));
                let _ = self.hosts[from].links.dial(self.now, &peer(to));
                self.drain(from);
            }
            3 | 4 => {
                if !self.flying.is_empty() {
                    let n = input.below(self.flying.len());
                    let datagram = self.flying.remove(n);
                    self.deliver(datagram);
                }
            }
            5..=7 => {
                // All that is under way comes, and what it gives rise to.
                for _ in 0..200 {
                    if self.flying.is_empty() {
                        break;
                    }
                    let datagram = self.flying.remove(0);
                    self.deliver(datagram);
                }
            }
            8 => {
                if let Some(datagram) = pick(input, &self.flying) {
                    self.deliver(datagram);
                }
            }
            9 => {
                if let Some(datagram) = pick(input, &self.flying) {
                    self.deliver_changed(input, datagram);
                }
            }
            10..=12 => self.seal(input),
            13 => {
                let n = input.below(NODES);
                if let Some(link) = pick(input, &self.hosts[n].names) {
                    if input.u8() & 1 == 1 {
                        self.hosts[n].links.hold(link);
                    } else {
                        self.hosts[n].links.release(self.now, link);
                    }
                    self.drain(n);
                }
            }
            14 => {
                if !self.flying.is_empty() {
                    self.flying.remove(input.below(self.flying.len()));
                }
            }
            _ => {
                let n = input.below(NODES);
                let boots = self.hosts[n].boots + 1;
                if boots < 8 {
                    self.hosts[n] = Host::new(n, boots);
                }
            }
        }
    }
}

fn pick<T: Clone>(input: &mut Input<'_>, items: &[T]) -> Option<T> {
    items.get(input.below(items.len())).cloned()
}

/// Whatever is done to the datagrams, and whatever control frames a neighbour seals: cells come as they were sent and once,
/// what was changed is not believed and changes nothing, timers rest, and no table outgrows its limit.
pub fn links(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.pass(Duration::from_mins(5));
}
