//! How a client keeps to its guard, and what becomes of circuits when the network or its user changes.

use std::collections::BTreeSet;
use std::time::Duration;

use circuit::keys::RelayId;
use client::node::ClientNode;
use directory::view::View;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::fault::Disk;
use netsim::seeds;
use netsim::world::{Plan, World};

fn small(seed: u64) -> Exchange {
    Exchange { upload: 100, download: 10_000, seed, ending: Ending::Finish }
}

/// The entries of all circuits that take new streams.
fn entries(world: &World) -> BTreeSet<RelayId> {
    let pool = world.sim.client(world.client()).pool();
    pool.values()
        .filter(|circuit| !circuit.retired && circuit.opened.is_some())
        .map(|circuit| circuit.path[0])
        .collect()
}

fn request(world: &mut World, seed: u64) {
    let app = world.ask(Wish::new("site", small(seed)));
    let ended = world.finish(app, Duration::from_mins(1));
    assert!(matches!(ended, Some((Outcome::Finished, _))), "{ended:?}");
}

// path.guard.5
#[test]
fn a_client_that_starts_again_enters_by_the_same_relay() {
    seeds::each(5, |seed| {
        let mut world = Plan { relays: 12, exits: 3, ..Plan::new(seed, 3) }.build();
        request(&mut world, 1);
        let before = entries(&world);
        let client = world.client();
        for round in 0..3 {
            world.sim.restart(client, Disk::Kept);
            request(&mut world, 2 + round);
            assert_eq!(entries(&world), before);
        }
    });
}

// path.guard.1 path.guard.2
#[test]
fn a_guard_that_comes_back_is_the_entry_again() {
    seeds::each(5, |seed| {
        let mut world = Plan { relays: 12, exits: 3, ..Plan::new(seed, 3) }.build();
        request(&mut world, 1);
        let before = entries(&world);
        let guard = world.host_of(before.first().unwrap());
        world.sim.kill(guard);
        world.sim.run_for(Duration::from_secs(5));
        request(&mut world, 2);
        assert!(entries(&world).is_disjoint(&before));
        world.sim.restart(guard, Disk::Kept);
        world.sim.run_for(Duration::from_mins(4));
        request(&mut world, 3);
        assert_eq!(entries(&world), before);
        let guards = world.sim.client(world.client()).paths().guards().iter().len();
        assert!(guards <= 3, "{guards}");
    });
}

// path.guard.3
#[test]
fn a_network_that_is_down_for_an_hour_changes_no_guard() {
    seeds::each(3, |seed| {
        let mut world = Plan { relays: 12, exits: 3, ..Plan::new(seed, 3) }.build();
        request(&mut world, 1);
        let before = entries(&world);
        let relays = world.relays.clone();
        for relay in &relays {
            world.sim.freeze(*relay);
        }
        world.sim.run_for(Duration::from_hours(1));
        for relay in &relays {
            world.sim.thaw(*relay);
        }
        world.sim.run_for(Duration::from_hours(1));
        request(&mut world, 2);
        assert_eq!(entries(&world), before);
        let guards = world.sim.client(world.client()).paths().guards();
        assert!(guards.iter().len() <= 3, "{guards:?}");
    });
}

// path.circuit.3
#[test]
fn circuits_over_a_relay_that_leaves_go_on_and_take_nothing_new() {
    seeds::each(3, |seed| {
        for place in 0..3 {
            let mut world = Plan { relays: 9, exits: 3, ..Plan::new(seed, 3) }.build();
            let app = world
                .ask(Wish::new("site", Exchange { download: 2_000_000, ending: Ending::Hold, ..small(1) }));
            assert!(world.sim.run_until(Duration::from_secs(20), |sim| sim.app(app).received > 200_000));
            let client = world.client();
            let node = world.sim.client(client);
            let key = node.flows().circuit(app.flow).expect("the stream is open");
            let gone = node.pool()[&key].path[place];
            let mut view = View::new(world.view.network());
            for relay in world.view.iter().filter(|relay| relay.id != gone) {
                view.insert(relay.clone()).unwrap();
            }
            world.sim.with_client(client, |node, now| node.set_view(now, view));
            assert!(world.sim.client(client).pool()[&key].retired);
            request(&mut world, 2);
            let pool = world.sim.client(client).pool();
            let fresh = pool.values().filter(|circuit| !circuit.retired);
            assert!(fresh.clone().count() > 0, "{pool:?}");
            assert!(fresh.clone().all(|circuit| !circuit.path.contains(&gone)), "{pool:?}");
            world.sim.run_for(Duration::from_secs(20));
            assert!(world.sim.app(app).is_whole(), "{:?}", world.sim.app(app));
            assert_eq!(world.sim.client(client).flows().circuit(app.flow), Some(key), "what is open stays");
            // When it is back it is used again, and is the entry if it was.
            let view = world.view.clone();
            world.sim.with_client(client, |node, now| node.set_view(now, view));
            world.sim.run_for(Duration::from_secs(5));
            request(&mut world, 3);
            assert!(place > 0 || entries(&world) == BTreeSet::from([gone]));
        }
    });
}

// path.circuit.4
#[test]
fn a_new_identity_is_new_circuits_over_the_same_guard() {
    seeds::each(5, |seed| {
        let mut world = Plan { relays: 9, exits: 3, prebuilt: 2, ..Plan::new(seed, 3) }.build();
        let held = world.ask(Wish::new("site", Exchange { ending: Ending::Hold, ..small(1) }));
        world.sim.run_for(Duration::from_secs(5));
        let (client, before) = (world.client(), entries(&world));
        let old: BTreeSet<_> = world.sim.client(client).pool().keys().copied().collect();
        world.sim.with_client(client, ClientNode::new_identity);
        request(&mut world, 2);
        let node = world.sim.client(client);
        let fresh = node.pool().iter().filter(|(_, circuit)| !circuit.retired);
        assert!(fresh.clone().count() > 0 && fresh.clone().all(|(key, _)| !old.contains(key)));
        assert_eq!(entries(&world), before);
        assert!(node.flows().circuit(held.flow).is_some(), "what is open stays");
    });
}

// path.circuit.1
#[test]
fn a_circuit_to_the_port_used_last_is_ready() {
    seeds::each(5, |seed| {
        let mut world = Plan { relays: 9, exits: 3, prebuilt: 2, ..Plan::new(seed, 3) }.build();
        request(&mut world, 1);
        world.sim.run_for(Duration::from_secs(5));
        let node = world.sim.client(world.client());
        let ready = node.pool().values().filter(|circuit| circuit.is_spare());
        assert!(ready.clone().count() >= 2, "{:?}", node.pool());
    });
}

// circuit.ping.1
#[test]
fn a_ping_takes_as_long_as_the_way_there_and_back() {
    seeds::each(5, |seed| {
        let mut world = Plan { relays: 9, exits: 3, prebuilt: 2, ..Plan::new(seed, 3) }.build();
        world.sim.run_for(Duration::from_secs(5));
        let client = world.client();
        let stand = world.sim.client(client).pool().len();
        let run = world.sim.with_client(client, |node, now| node.ping(now, true));
        world.sim.run_for(Duration::from_secs(5));
        let echoes =
            world.sim.with_client(client, |node, now| node.take_echoes(now, run)).expect("all have come");
        assert_eq!(echoes.len(), stand);
        for echo in &echoes {
            let built = world.sim.client(client).pool()[&echo.circuit].setup_time().unwrap();
            let time = echo.time.expect("an answer");
            assert!(time <= built + Duration::from_millis(100), "{time:?} {built:?}");
        }
        let relay = world.view.iter().next().unwrap().id;
        let number = world.sim.with_client(client, |node, now| node.probe(now, relay));
        world.sim.run_for(Duration::from_secs(5));
        let run = world.sim.with_client(client, |node, _| node.take_test(number)).expect("it has ended");
        assert_eq!((run.times.len(), run.failed.len()), (3, 0));
        // The exit of no circuit answers when it is gone.
        let exits: Vec<_> = echoes.iter().map(|echo| world.host_of(echo.path.last().unwrap())).collect();
        for exit in exits {
            world.sim.kill(exit);
        }
        let run = world.sim.with_client(client, |node, now| node.ping(now, false));
        world.sim.run_for(Duration::from_secs(15));
        let echoes =
            world.sim.with_client(client, |node, now| node.take_echoes(now, run)).expect("all is over");
        assert!(echoes.iter().all(|echo| echo.time.is_none()) && echoes.len() <= 1);
    });
}

// path.quality.1
#[test]
fn what_circuits_carried_is_measured() {
    let mut world = Plan { relays: 6, exits: 2, ..Plan::new(1, 3) }.build();
    let app = world.ask(Wish::new("site", Exchange { download: 3_000_000, ..small(1) }));
    assert!(world.sim.run_until(Duration::from_secs(20), |sim| sim.app(app).received > 500_000));
    let client = world.client();
    let path = world.sim.client(client).pool().values().find(|c| c.used.is_some()).unwrap().path.clone();
    world.finish(app, Duration::from_mins(1));
    world.sim.run_for(Duration::from_mins(15));
    let quality = world.sim.client(client).paths().quality();
    for relay in &path {
        let measured = quality.get(relay).unwrap();
        assert!(
            measured.built > 0 && measured.delay.is_some() && measured.throughput > 10_000,
            "{measured:?}"
        );
    }
}
