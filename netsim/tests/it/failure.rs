//! Relays that die or fall silent in the middle of a transfer.

use std::time::Duration;

use circuit::keys::Random;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::fault::Disk;
use netsim::seeds;
use netsim::world::{Plan, World};
use rand_core::{Rng as _, SeedableRng as _};

/// Longer than any request takes.
const LONG: Duration = Duration::from_mins(2);

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Freeze,
    Restart,
    /// It restarts without its log, and answers BUSY for a while.
    Forget,
}

/// No stream and no circuit is left anywhere.
fn assert_nothing_left(world: &World) {
    let client = world.sim.client(world.client());
    assert_eq!((client.streams(), client.flows().len()), (0, 0), "streams at the client");
    assert!(client.pool().is_empty(), "circuits at the client: {:?}", client.pool());
    for id in &world.relays {
        let relay = world.sim.relay(*id);
        assert_eq!(relay.relay().circuits(), (0, 0), "circuits at {id:?}");
        assert_eq!(relay.exit().map_or(0, router::exit::Exit::open), 0, "flows at {id:?}");
        let held: Vec<_> = relay.links().snapshot().into_iter().filter(|link| link.circuits > 0).collect();
        assert!(held.is_empty(), "links held at {id:?}: {held:?}");
    }
}

/// Lines of 5 to 60 ms.
fn spread(world: &mut World, rng: &mut Random) {
    let hosts: Vec<_> =
        world.relays.iter().chain(&world.clients).map(|id| world.sim.host(*id).address).collect();
    for (n, a) in hosts.iter().enumerate() {
        for b in hosts.iter().skip(n + 1) {
            let delay = Duration::from_millis(5 + u64::from(rng.next_u32() % 56));
            world.sim.network.change(*a, *b, |conditions| conditions.delay = delay);
        }
    }
}

/// Breaks the relay at `place` of a path during a transfer; how long a new request took.
fn break_one(seed: u64, place: usize, fault: Fault) -> Duration {
    let mut rng = Random::seed_from_u64(seed);
    let mut world = Plan { relays: 9, exits: 3, prebuilt: 0, ..Plan::new(seed, 3) }.build();
    spread(&mut world, &mut rng);
    let exchange = Exchange { upload: 100_000, download: 1_000_000, seed, ending: Ending::Finish };
    let app = world.ask(Wish::new("site", exchange));
    assert!(world.sim.run_until(Duration::from_secs(20), |sim| sim.app(app).received > 300_000));
    let client = world.client();
    let pool = world.sim.client(client).pool();
    let path = pool.values().next().expect("a circuit").path.clone();
    let broken = world.host_of(&path[place]);
    match fault {
        Fault::Kill => world.sim.kill(broken),
        Fault::Freeze => world.sim.freeze(broken),
        Fault::Restart => world.sim.restart(broken, Disk::Kept),
        Fault::Forget => world.sim.restart(broken, Disk::Lost),
    }
    world.sim.run_for(Duration::from_millis(u64::from(rng.next_u32() % 3000)));
    let next = Exchange { upload: 100, download: 10_000, seed: !seed, ending: Ending::Finish };
    let again = world.ask(Wish::new("site", next));
    let took = world.finish(again, Duration::from_secs(40));
    let Some((Outcome::Finished, took)) = took else {
        panic!(
            "{fault:?} at {place}: a new request came to {took:?}: {:?}",
            world.sim.client(client).counts()
        );
    };
    assert!(world.sim.app(again).is_whole());
    let ended = world.finish(app, Duration::from_mins(1));
    assert!(
        matches!(ended, Some((Outcome::Reset | Outcome::Finished, _))),
        "{fault:?} at {place}: the transfer hangs: {:?}",
        world.sim.app(app)
    );
    assert_eq!(world.sim.app(app).wrong, None);
    // Who was frozen wakes up to a world that has gone on, and who was dead comes back.
    match fault {
        Fault::Kill => world.sim.restart(broken, Disk::Kept),
        Fault::Freeze => world.sim.thaw(broken),
        Fault::Restart | Fault::Forget => {}
    }
    // A setup that was raced by another may have left a spare circuit, which lives for half an hour.
    world.sim.run_for(Duration::from_secs(2500));
    assert_nothing_left(&world);
    took
}

fn break_many(place: usize) {
    for fault in [Fault::Kill, Fault::Freeze, Fault::Restart, Fault::Forget] {
        let mut times = vec![];
        seeds::each(20, |seed| times.push(break_one(seed, place, fault)));
        times.sort();
        let p95 = times[(times.len() * 95).div_ceil(100) - 1];
        println!(
            "{fault:?} of relay {place}: a new request takes {:?} to {:?}, p95 {p95:?}",
            times[0],
            times[times.len() - 1]
        );
        assert!(p95 <= Duration::from_secs(5));
    }
}

#[test]
fn a_broken_entry_is_replaced() {
    break_many(0);
}

#[test]
fn a_broken_middle_is_replaced() {
    break_many(1);
}

#[test]
fn a_broken_exit_is_replaced() {
    break_many(2);
}

#[test]
fn relays_that_fail_one_after_the_other_are_left_each_time() {
    for fault in [Fault::Kill, Fault::Freeze] {
        let mut times = vec![];
        seeds::each(5, |seed| {
            let mut world = Plan { relays: 6, exits: 2, prebuilt: 2, ..Plan::new(seed, 3) }.build();
            let client = world.client();
            for round in 0..16 {
                let small = Exchange {
                    upload: 100,
                    download: 10_000,
                    seed: seed << 8 | round,
                    ending: Ending::Finish,
                };
                let before = world.ask(Wish::new("site", small));
                assert!(matches!(world.finish(before, LONG), Some((Outcome::Finished, _))));
                let pool = world.sim.client(client).pool();
                let path = &pool.values().max_by_key(|circuit| circuit.heard).expect("a circuit").path;
                let failing = world.host_of(&path[1 + usize::from(round % 4 != 0)]);
                match fault {
                    Fault::Freeze => world.sim.freeze(failing),
                    _ => world.sim.kill(failing),
                }
                let next = world.ask(Wish::new("site", Exchange { seed: !small.seed, ..small }));
                let took = world.finish(next, LONG);
                let Some((Outcome::Finished, time)) = took else {
                    panic!("seed {seed}, round {round}: {took:?}")
                };
                times.push(time);
                match fault {
                    Fault::Freeze => world.sim.thaw(failing),
                    _ => world.sim.restart(failing, Disk::Kept),
                }
                world.sim.run_for(Duration::from_secs(1));
            }
        });
        times.sort();
        let p95 = times[(times.len() * 95).div_ceil(100) - 1];
        println!(
            "{fault:?}: p50 {:?}, p95 {p95:?}, most {:?}",
            times[times.len() / 2],
            times[times.len() - 1]
        );
        assert!(p95 <= Duration::from_secs(5));
    }
}

// circuit.setup.6
#[test]
fn an_entry_that_is_busy_is_passed_over() {
    seeds::each(5, |seed| {
        let mut world = Plan { relays: 6, exits: 2, ..Plan::new(seed, 3) }.build();
        let entry = world.entry();
        world.sim.restart(entry, Disk::Lost);
        let exchange = Exchange { upload: 100, download: 10_000, seed, ending: Ending::Finish };
        let app = world.ask(Wish::new("site", exchange));
        let took = world.finish(app, Duration::from_secs(5));
        assert!(matches!(took, Some((Outcome::Finished, _))), "{took:?}");
        let client = world.sim.client(world.client());
        assert!(client.counts().failed > 0, "the first setup was refused");
        assert_eq!(client.counts().last_error, None, "what works again is no error any more");
        assert!(client.pool().values().all(|circuit| world.host_of(&circuit.path[0]) != entry));
    });
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    seeds::each(5, |seed| {
        let mut world = Plan { relays: 6, exits: 2, prebuilt: 3, ..Plan::new(seed, 3) }.build();
        let exchange = Exchange { upload: 100_000, download: 2_000_000, seed, ending: Ending::Hold };
        let app = world.ask(Wish::new("site", exchange));
        assert!(world.sim.run_until(Duration::from_secs(20), |sim| sim.app(app).received > 500_000));
        let client = world.client();
        world.sim.kill(client);
        world.sim.run_for(Duration::from_mins(1));
        for id in &world.relays {
            let relay = world.sim.relay(*id);
            assert_eq!(relay.relay().circuits(), (0, 0), "circuits at {id:?}");
            assert_eq!(relay.exit().map_or(0, router::exit::Exit::open), 0, "flows at {id:?}");
        }
        let visit = world.sim.sites.visit(exchange).expect("the site was visited");
        assert_eq!(visit.ended, Some(netsim::site::Ended::ByPeer));
        world.sim.restart(client, Disk::Lost);
        let exchange = Exchange { ending: Ending::Finish, ..exchange };
        let app = world.ask(Wish::new("site", exchange));
        assert!(matches!(world.finish(app, Duration::from_secs(10)), Some((Outcome::Finished, _))));
    });
}

#[test]
fn a_relay_that_sleeps_for_a_second_ends_no_stream() {
    seeds::each(3, |seed| {
        for place in 0..3 {
            let mut rng = Random::seed_from_u64(seed);
            let mut world = Plan { relays: 9, exits: 3, ..Plan::new(seed, 3) }.build();
            spread(&mut world, &mut rng);
            let exchange = Exchange { upload: 100_000, download: 1_000_000, seed, ending: Ending::Finish };
            let app = world.ask(Wish::new("site", exchange));
            assert!(world.sim.run_until(Duration::from_secs(20), |sim| sim.app(app).received > 300_000));
            let client = world.client();
            let path = world.sim.client(client).pool().values().next().expect("a circuit").path.clone();
            let sleeper = world.host_of(&path[place]);
            world.sim.freeze(sleeper);
            world.sim.run_for(Duration::from_secs(1));
            world.sim.thaw(sleeper);
            let took = world.finish(app, Duration::from_mins(1));
            println!("seed {seed}: with relay {place} asleep for 1 s, {took:?}");
            assert!(matches!(took, Some((Outcome::Finished, _))), "{:?}", world.sim.app(app));
            assert!(world.sim.app(app).is_whole());
        }
    });
}

#[test]
fn a_short_cut_between_two_relays_ends_no_stream() {
    seeds::each(5, |seed| {
        let mut world = Plan::new(seed, 3).build();
        spread(&mut world, &mut Random::seed_from_u64(seed));
        let exchange = Exchange { upload: 100_000, download: 1_000_000, seed, ending: Ending::Finish };
        let app = world.ask(Wish::new("site", exchange));
        assert!(world.sim.run_until(Duration::from_secs(20), |sim| sim.app(app).received > 300_000));
        let middle = world.sim.host(world.relays[1]).address;
        let exit = world.sim.host(world.relays[2]).address;
        let other = world.sim.host(world.relays[0]).address;
        for from in [middle, other] {
            world.sim.network.cut(from, exit, true);
        }
        world.sim.run_for(Duration::from_millis(1500));
        for from in [middle, other] {
            world.sim.network.cut(from, exit, false);
        }
        let took = world.finish(app, Duration::from_mins(1));
        println!("seed {seed}: with a cut of 1.5 s, {took:?}");
        assert!(matches!(took, Some((Outcome::Finished, _))), "{:?}", world.sim.app(app));
        assert!(world.sim.app(app).is_whole());
    });
}
