//! A seed says everything; and what the network sees.

use std::collections::BTreeSet;
use std::time::Duration;

use circuit::packet::PACKET;
use netsim::app::Wish;
use netsim::content::{Ending, Exchange};
use netsim::network::{Conditions, Loss};
use netsim::seeds;
use netsim::world::{Plan, World};

/// A world in which everything has happened once.
fn busy(seed: u64, capture: bool) -> World {
    let conditions = Conditions {
        loss: Loss::Independent(0.02),
        jitter: Duration::from_millis(5),
        reorder: 0.01,
        duplicate: 0.01,
        corrupt: 0.01,
        ..Conditions::default()
    };
    let mut world =
        Plan { relays: 7, exits: 2, clients: 2, prebuilt: 2, conditions, ..Plan::new(seed, 3) }.build();
    if capture {
        world.sim.capture();
    }
    let clients = world.clients.clone();
    for (n, client) in (0..).zip(clients) {
        let exchange = Exchange { upload: 50_000, download: 200_000, seed: n, ending: Ending::Finish };
        world.sim.open(client, Wish::new("site", exchange));
    }
    world.sim.run_for(Duration::from_secs(4));
    // Not one that is the entry of a client.
    let exit = world.relays[6];
    world.sim.restart(exit, netsim::fault::Disk::Kept);
    world.sim.run_for(Duration::from_secs(16));
    world
}

#[test]
fn the_same_seed_gives_the_same_packets() {
    seeds::each(2, |seed| {
        let trace = busy(seed, false).sim.trace();
        println!("seed {seed}: trace {trace:016x}");
        assert_eq!(trace, busy(seed, false).sim.trace());
        assert_ne!(trace, busy(seed + 1000, false).sim.trace());
    });
}

// link.size.1, link.address.1
#[test]
fn clients_talk_to_their_entry_only_and_all_packets_look_alike() {
    seeds::each(2, |seed| {
        let mut world = busy(seed, true);
        let packets = world.sim.take_captured();
        assert!(packets.len() > 1000);
        assert_eq!(PACKET, 1412);
        let client_addresses: BTreeSet<_> =
            world.clients.iter().map(|id| world.sim.host(*id).address).collect();
        for client in &client_addresses {
            let partners: BTreeSet<_> = packets.iter().filter(|p| p.from == *client).map(|p| p.to).collect();
            assert_eq!(partners.len(), 1, "{partners:?}");
            let heard: BTreeSet<_> = packets.iter().filter(|p| p.to == *client).map(|p| p.from).collect();
            assert_eq!(heard, partners);
        }
        // No two packets are equal but repairs, which are equal as a whole; no part of a packet repeats otherwise.
        let whole: BTreeSet<_> = packets.iter().map(|p| *p.packet).collect();
        let sealed: BTreeSet<_> = whole.iter().map(|p| &p[12..]).collect();
        assert_eq!(whole.len(), sealed.len());
        let ones: u32 = sealed.iter().copied().flatten().map(|b| b.count_ones()).sum();
        let bits = u32::try_from(whole.len() * 1400 * 8).expect("few packets");
        let share = f64::from(ones) / f64::from(bits);
        println!("seed {seed}: {} packets, {share:.4} of their bits set", whole.len());
        assert!((0.499..0.501).contains(&share));
    });
}
