//! A million datagrams that nobody honest sends, to a relay and to a client, beside an honest transfer.

use std::time::Duration;

use circuit::keys::Random;
use circuit::packet::PACKET;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::host::HostId;
use netsim::seeds;
use netsim::sim::Captured;
use netsim::world::{Plan, World};
use rand_core::{Rng as _, SeedableRng as _};

/// Malformed datagrams for each of the two nodes.
const MALFORMED: usize = 1_000_000;
/// As many come at one time.
const AT_ONCE: usize = 1000;

fn below(rng: &mut Random, limit: usize) -> usize {
    usize::try_from(rng.next_u64() % limit as u64).unwrap()
}

/// A third is random, a third ends early, and a third has a few other bits than a real one.
fn malform(rng: &mut Random, n: usize, real: &[u8; PACKET], packet: &mut [u8; PACKET]) {
    *packet = *real;
    match n % 3 {
        0 => {
            rng.fill_bytes(packet);
            match below(rng, 4) {
                0 => packet[..4].copy_from_slice(&real[..4]),
                1 => packet[..16].copy_from_slice(&real[..16]),
                2 => packet[..8].copy_from_slice(&[0, 0, 0, 0, real[4] % 6, 0, 0, 0]),
                _ => {}
            }
        }
        1 => packet[below(rng, 1380)..].fill(0),
        _ => {
            for _ in 0..=below(rng, 8) {
                let bit = below(rng, PACKET * 8);
                packet[bit / 8] ^= 1 << (bit % 8);
            }
            // Two flips of one bit are none.
            packet[1000] ^= u8::from(packet == real);
        }
    }
}

/// All that a packet could change at a node, but for its memory.
fn state(world: &World, id: HostId) -> String {
    if id == world.client() {
        let client = world.sim.client(id);
        let flows: Vec<_> = client.pool().keys().map(|key| client.flows().stats(*key)).collect();
        format!("{:?} {:?} {:?} {flows:?}", client.links().snapshot(), client.pool(), client.counts())
    } else {
        let relay = world.sim.relay(id);
        format!("{:?} {:?} {:?}", relay.links().snapshot(), relay.relay().circuits(), relay.relay().counts())
    }
}

/// The client's entry, and packets of all kinds that were sent to the two of them, cookies included.
fn transcript(world: &mut World, seed: u64) -> (HostId, Vec<Captured>) {
    world.sim.capture();
    let client = world.client();
    world.sim.restart(client, netsim::fault::Disk::Lost);
    let exchange = Exchange { upload: 100_000, download: 100_000, seed, ending: Ending::Finish };
    let app = world.ask(Wish::new("site", exchange));
    assert!(matches!(world.finish(app, Duration::from_mins(1)), Some((Outcome::Finished, _))));
    let mut all = world.sim.take_captured();
    let is = |kind| move |p: &&Captured| p.packet[..5] == [0, 0, 0, 0, kind];
    let first = all.iter().find(is(1)).expect("a first message").clone();
    world.sim.capture();
    for _ in 0..230 {
        world.sim.send(first.from, first.to, first.packet.clone());
    }
    world.sim.run_for(Duration::from_secs(10));
    all.extend(world.sim.take_captured());
    for kind in 1..=4 {
        assert!(all.iter().any(|p| is(kind)(&p)), "kind {kind}");
    }
    let entry = *world.relays.iter().find(|id| world.sim.host(**id).address == first.to).expect("a relay");
    (entry, all)
}

// link.size.1, link.header.1, link.open.1
#[test]
fn a_million_malformed_datagrams_change_nothing_at_relay_and_client() {
    seeds::each(1, |seed| {
        let mut world = Plan::new(seed, 3).build();
        let mut rng = Random::seed_from_u64(seed);
        let (entry, real) = transcript(&mut world, seed);
        let hosts = [entry, world.client()];
        let addresses = hosts.map(|id| world.sim.host(id).address);
        let real = addresses.map(|to| real.iter().filter(|p| p.to == to).cloned().collect::<Vec<_>>());

        let exchange =
            Exchange { upload: 2_000_000, download: 2_000_000, seed: !seed, ending: Ending::Finish };
        let app = world.ask(Wish::new("site", exchange));
        let mut packet = [0; PACKET];
        let mut n = 0;
        let mut busy = 0;
        while n < MALFORMED {
            world.sim.run_for(Duration::from_millis(1));
            busy += usize::from(world.sim.app(app).done.is_none());
            for (id, real) in hosts.into_iter().zip(&real) {
                let before =
                    (state(&world, id), world.sim.network.traffic().map(|(.., sent)| sent).sum::<u64>());
                for n in n..n + AT_ONCE {
                    let like = &real[below(&mut rng, real.len())];
                    malform(&mut rng, n, &like.packet, &mut packet);
                    let from = if n % 7 == 0 { ([203, 1, 2, 3], 4).into() } else { like.from };
                    let mut shown = None;
                    let used = allocation_counter::measure(|| shown = world.sim.show(id, from, &mut packet));
                    assert!(matches!(shown, Some(Err(_))), "{n}: {shown:?}");
                    assert_eq!(used.bytes_current, 0, "{n}");
                }
                world.sim.drive(id);
                let after =
                    (state(&world, id), world.sim.network.traffic().map(|(.., sent)| sent).sum::<u64>());
                assert_eq!(before, after);
            }
            n += AT_ONCE;
        }
        println!("seed {seed}: the transfer was under way for {busy} of {} bursts", MALFORMED / AT_ONCE);
        assert!(busy * AT_ONCE > MALFORMED / 4);
        assert!(matches!(world.finish(app, Duration::from_mins(1)), Some((Outcome::Finished, _))));
        assert!(world.sim.app(app).is_whole());
        let client = world.sim.client(world.client());
        assert_eq!((client.pool().len(), client.counts().failed), (1, 0));
    });
}
