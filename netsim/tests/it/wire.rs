//! Somebody on the wire of one link of a path, while an honest transfer runs over it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use circuit::error::DropReason;
use circuit::keys::{Random, RelayId};
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::host::HostId;
use netsim::network::Datagram;
use netsim::seeds;
use netsim::sim::Captured;
use netsim::world::{Plan, World};
use rand_core::{Rng as _, SeedableRng as _};

const LONG: Duration = Duration::from_mins(2);
const MS: Duration = Duration::from_millis(1);

/// What is done to every seventh packet of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Nothing,
    Flip,
    Drop,
    Repeat,
    Delay,
    /// Random bytes come before it, some behind its own header or that of a handshake.
    Invent,
    /// Packets of other links come before it, as they were or behind its header.
    Mix,
    /// It comes back to its sender, too.
    Reflect,
    /// A copy comes first, from an address of the attacker.
    Overtake,
}

const DEEDS: [Deed; 8] = [
    Deed::Flip,
    Deed::Drop,
    Deed::Repeat,
    Deed::Delay,
    Deed::Invent,
    Deed::Mix,
    Deed::Reflect,
    Deed::Overtake,
];

struct Mallory {
    deed: Deed,
    between: [SocketAddr; 2],
    rng: Random,
    packets: u64,
    done: u64,
    /// Packets of other links.
    others: Vec<Datagram>,
    /// Handshake messages of the link.
    handshakes: Vec<Captured>,
}

fn attacker() -> SocketAddr {
    ([203, 1, 2, 3], 4).into()
}

fn is_handshake(packet: &Captured) -> bool {
    packet.packet[..4] == [0; 4]
}

impl Mallory {
    fn on(world: &mut World, deed: Deed, a: HostId, b: HostId) -> Rc<RefCell<Self>> {
        let between = [a, b].map(|id| world.sim.host(id).address);
        let rng = Random::from_seed(world.sim.draw());
        let mallory =
            Self { deed, between, rng, packets: 0, done: 0, others: Vec::new(), handshakes: Vec::new() };
        let mallory = Rc::new(RefCell::new(mallory));
        let on_wire = Rc::clone(&mallory);
        world.sim.tap(move |_, packet| on_wire.borrow_mut().touch(packet));
        mallory
    }

    fn touch(&mut self, packet: Captured) -> Vec<(Duration, Captured)> {
        if is_handshake(&packet) && packet.packet[4] == 1 {
            // A client that was restarted may have chosen another entry.
            self.between = [packet.from, packet.to];
            self.handshakes.clear();
        }
        if ![packet.from, packet.to].iter().all(|end| self.between.contains(end)) {
            if self.others.len() < 100 {
                self.others.push(packet.packet.clone());
            }
            return vec![(Duration::ZERO, packet)];
        }
        if is_handshake(&packet) {
            self.handshakes.push(packet.clone());
        }
        self.packets += 1;
        if !self.packets.is_multiple_of(7) || self.deed == Deed::Nothing {
            return vec![(Duration::ZERO, packet)];
        }
        self.done += 1;
        self.act(packet)
    }

    fn act(&mut self, packet: Captured) -> Vec<(Duration, Captured)> {
        let Captured { from, to, .. } = packet;
        let now = |packet| (Duration::ZERO, packet);
        let as_this = |packet| now(Captured { from, to, packet });
        match self.deed {
            Deed::Nothing => vec![now(packet)],
            Deed::Flip => {
                let mut flipped = packet.packet;
                let bit = usize::try_from(self.rng.next_u32()).unwrap() % (flipped.len() * 8);
                flipped[bit / 8] ^= 1 << (bit % 8);
                vec![as_this(flipped)]
            }
            Deed::Drop => vec![],
            Deed::Repeat => [0, 0, 3, 700].iter().map(|late| (*late * MS, packet.clone())).collect(),
            Deed::Delay => vec![(self.rng.next_u32() % 60 * MS, packet)],
            Deed::Invent => {
                let mut all = vec![];
                for kind in 0..6 {
                    let mut random = packet.packet.clone();
                    self.rng.fill_bytes(&mut random[..]);
                    match kind {
                        0 => {}
                        1 => random[..12].copy_from_slice(&packet.packet[..12]),
                        _ => random[..8].copy_from_slice(&[0, 0, 0, 0, kind - 1, 0, 0, 0]),
                    }
                    all.push(as_this(random));
                }
                all.push(now(packet));
                all
            }
            Deed::Mix => {
                let mut all = vec![];
                if let Some(other) = self.others.pop() {
                    let mut behind = other.clone();
                    behind[..12].copy_from_slice(&packet.packet[..12]);
                    all.extend([as_this(other), as_this(behind)]);
                }
                all.push(now(packet));
                all
            }
            Deed::Reflect => vec![now(packet.clone()), now(Captured { from: to, to: from, ..packet })],
            Deed::Overtake => vec![now(Captured { from: attacker(), ..packet.clone() }), (5 * MS, packet)],
        }
    }
}

/// The hosts of the path of a world with three relays: client, entry, middle, exit.
fn path(world: &World) -> [HostId; 4] {
    let (entry, exit) = (world.entry(), world.relays[2]);
    let middle = *world.relays.iter().find(|id| **id != entry && **id != exit).expect("a middle relay");
    [world.client(), entry, middle, exit]
}

fn exchange(seed: u64) -> Exchange {
    Exchange { upload: 200_000, download: 200_000, seed, ending: Ending::Finish }
}

fn transfer(world: &mut World, seed: u64, what: &dyn core::fmt::Debug) {
    let app = world.ask(Wish::new("site", exchange(seed)));
    let outcome = world.finish(app, LONG);
    assert!(matches!(outcome, Some((Outcome::Finished, _))), "{what:?}: {:?}", world.sim.app(app));
    assert!(world.sim.app(app).is_whole(), "{what:?}");
    let visit = world.sim.sites.visit(exchange(seed)).expect("the site was visited");
    assert_eq!(visit.wrong, None, "{what:?}");
}

/// The peers of all links that stand, and the number of circuits, of every relay.
type Standing = Vec<(BTreeMap<Option<RelayId>, usize>, (usize, usize))>;

fn standing(world: &World) -> Standing {
    let of = |id: &HostId| {
        let relay = world.sim.relay(*id);
        let mut peers = BTreeMap::new();
        for link in relay.links().snapshot() {
            assert!(link.up);
            *peers.entry(link.peer).or_default() += 1;
        }
        (peers, relay.relay().circuits())
    };
    world.relays.iter().map(of).collect()
}

fn to_attacker(world: &World) -> u64 {
    world.sim.network.traffic().filter(|(_, to, _)| *to == attacker()).map(|(.., packets)| packets).sum()
}

// link.open.1, link.replay.1, link.address.2, link.header.1
#[test]
fn whoever_sits_on_a_link_can_only_delay_and_lose() {
    seeds::each(1, |seed| {
        let mut calm = Plan::new(seed, 3).build();
        transfer(&mut calm, seed, &"calm");
        for place in 0..3 {
            for deed in DEEDS {
                let what = (deed, place);
                let mut world = Plan::new(seed, 3).build();
                let hosts = path(&world);
                let mallory = Mallory::on(&mut world, deed, hosts[place], hosts[place + 1]);
                transfer(&mut world, seed, &what);
                world.sim.run_for(Duration::from_secs(1));
                assert!(mallory.borrow().done > 20, "{what:?}");
                assert_eq!(standing(&world), standing(&calm), "{what:?}");
                let client = world.sim.client(world.client());
                assert_eq!((client.pool().len(), client.counts().failed), (1, 0), "{what:?}");
                assert_eq!(to_attacker(&world), 0, "{what:?}");
                for (end, id) in [(0, hosts[place]), (1, hosts[place + 1])] {
                    let drops = world.sim.host(id).drops;
                    let expected: &[_] = match deed {
                        Deed::Nothing | Deed::Drop | Deed::Delay => &[],
                        Deed::Flip => &[DropReason::BadTag],
                        Deed::Repeat => &[DropReason::Replayed],
                        Deed::Invent => &[DropReason::UnknownLink, DropReason::BadTag, DropReason::Malformed],
                        Deed::Mix => &[DropReason::UnknownLink, DropReason::BadTag],
                        // What comes back names an index of the other side.
                        Deed::Reflect => &[DropReason::UnknownLink],
                        Deed::Overtake => &[DropReason::WrongAddress],
                    };
                    for reason in expected {
                        assert!(drops.get(*reason) > 0, "{what:?} at end {end}: {drops:?}");
                    }
                    assert_eq!(drops.get(DropReason::BadLayer), 0, "{what:?}");
                }
            }
        }
    });
}

// link.handshake.3, link.handshake.4, link.address.2
#[test]
fn replayed_handshakes_make_no_session() {
    seeds::each(1, |seed| {
        for place in 0..3 {
            let mut world = Plan::new(seed, 3).build();
            let hosts = path(&world);
            let mallory = Mallory::on(&mut world, Deed::Nothing, hosts[place], hosts[place + 1]);
            if place == 0 {
                // Its first message was sent before.
                let client = world.client();
                world.sim.restart(client, netsim::fault::Disk::Lost);
            }
            transfer(&mut world, seed, &place);
            let before = standing(&world);
            let handshakes = mallory.borrow().handshakes.clone();
            let kinds: Vec<u8> = handshakes.iter().map(|message| message.packet[4]).collect();
            assert_eq!(kinds[0], if place == 0 { 1 } else { 2 });
            assert!(kinds[1..].contains(&3) && kinds.len() < 5, "{kinds:?}");
            let firsts: u64 = kinds.iter().map(|kind| u64::from(*kind == 1)).sum();
            let round = |world: &mut World| {
                for packet in &handshakes {
                    let other = Captured { from: attacker(), ..packet.clone() };
                    let back = Captured { from: packet.to, to: packet.from, ..packet.clone() };
                    for Captured { from, to, packet } in [packet.clone(), other, back] {
                        world.sim.send(from, to, packet);
                    }
                }
                world.sim.run_for(Duration::from_secs(8));
            };
            // Strangers may ask what they like; who has not shown that it understands the answer is forgotten.
            (0..20).for_each(|_| round(&mut world));
            assert_eq!(standing(&world), before, "{place}");
            assert_eq!(to_attacker(&world), 20 * firsts, "one answer to each first message of a client");
            transfer(&mut world, !seed, &place);
            let client = world.sim.client(world.client());
            assert_eq!((client.pool().len(), client.counts().failed), (1, 0), "{place}");
        }
    });
}
