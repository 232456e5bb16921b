//! What changes under a running relay: the view, its limits, its willingness (docs/spec/07-operation.md).

use std::time::Duration;

use circuit::error::DropReason;
use circuit::keys::RelayId;
use circuit::relay::Asks;
use directory::view::View;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::seeds;
use netsim::world::{NETWORK, Plan, World};

const MINUTE: Duration = Duration::from_mins(1);

fn page(seed: u64, download: u64) -> Wish {
    Wish::new("site", Exchange { upload: 100, download, seed, ending: Ending::Finish })
}

/// The view of a world without one relay.
fn without(world: &World, gone: RelayId) -> View {
    let mut view = View::new(NETWORK);
    if let Some(chain) = world.view.chain() {
        view = view.with_chain(chain.clone());
    }
    for relay in world.view.iter().filter(|relay| relay.id != gone) {
        view.insert(relay.clone()).unwrap();
    }
    view
}

/// The only circuit's path.
fn path(world: &World) -> Vec<RelayId> {
    let pool = world.sim.client(world.client()).pool();
    pool.values().next().expect("a circuit").path.clone()
}

#[test]
fn a_relay_that_leaves_keeps_its_circuits_and_gets_no_new_ones() {
    // operate.view.1, operate.view.2
    seeds::each(3, |seed| {
        for asks in [None, Some(Asks { forward: 100, exit: 300 })] {
            let mut world = Plan { asks, clients: 2, ..Plan::new(seed, 3) }.build();
            let app = world.ask(page(seed, 3_000_000));
            assert!(world.sim.run_until(MINUTE, |sim| sim.app(app).received > 200_000), "{asks:?}");
            let [_, middle, last] = path(&world)[..] else { panic!("three hops") };
            // The last relay sees the middle one go.
            let exit = world.host_of(&last);
            let (left, whole) = (without(&world, middle), world.view.clone());
            world.sim.with_relay(exit, |node, now| node.set_view(now, left));
            if asks.is_some() {
                let owner = world.view.payment(&middle).unwrap().owner;
                let relay = world.sim.relay(exit);
                let account = relay.cashier().unwrap().account_of(owner).unwrap();
                assert_eq!(relay.relay().ledger().get(account).unwrap().line, 0);
            }
            let ended = world.finish(app, MINUTE);
            assert!(matches!(ended, Some((Outcome::Finished, _))), "{asks:?}: {ended:?}");
            assert!(world.sim.app(app).is_whole());
            // Its setups come over the link that stands, and are dropped.
            let before = world.sim.host(exit).drops.get(DropReason::Limit);
            let client = world.client();
            world.sim.with_client(client, |node, now| node.test(now, 1, 1));
            world.sim.run_for(Duration::from_secs(20));
            assert!(world.sim.host(exit).drops.get(DropReason::Limit) > before);
            let links = |world: &World| {
                let links = world.sim.relay(exit).links().snapshot();
                links.iter().filter(|link| link.peer == Some(middle)).count()
            };
            assert_eq!(links(&world), 1);
            world.sim.kill(client);
            world.sim.run_for(Duration::from_mins(10));
            assert_eq!(links(&world), 0, "it is closed when it is idle");
            // Back again.
            world.sim.with_relay(exit, |node, now| node.set_view(now, whole));
            let app = world.sim.open(world.clients[1], page(!seed, 10_000));
            let ended = world.finish(app, MINUTE);
            assert!(matches!(ended, Some((Outcome::Finished, _))), "{asks:?}: {ended:?}");
        }
    });
}

#[test]
fn a_relay_that_joins_is_reached() {
    // operate.view.1
    seeds::each(3, |seed| {
        let mut world = Plan::new(seed, 3).build();
        let exit = *world.relays.last().unwrap();
        let alone = world.sim.relay(exit).id();
        let only = {
            let mut view = View::new(NETWORK);
            view.insert(world.view.get(&alone).unwrap().clone()).unwrap();
            view
        };
        let whole = world.view.clone();
        world.sim.with_relay(exit, |node, now| node.set_view(now, only));
        let app = world.ask(page(seed, 1_000));
        world.sim.run_for(Duration::from_secs(15));
        assert_eq!(world.sim.app(app).received, 0, "nobody is let in");
        world.sim.with_relay(exit, |node, now| node.set_view(now, whole));
        let app = world.ask(page(!seed, 1_000));
        assert!(matches!(world.finish(app, MINUTE), Some((Outcome::Finished, _))));
    });
}

#[test]
fn a_relay_that_drains_finishes_what_it_has_and_takes_nothing_new() {
    // operate.drain.1
    seeds::each(3, |seed| {
        let mut world = Plan { relays: 6, exits: 3, ..Plan::new(seed, 3) }.build();
        let app = world.ask(page(seed, 3_000_000));
        assert!(world.sim.run_until(MINUTE, |sim| sim.app(app).received > 200_000));
        let exit = world.host_of(&path(&world)[2]);
        world.sim.with_relay(exit, router::node::RelayNode::drain);
        assert!(matches!(world.finish(app, MINUTE), Some((Outcome::Finished, _))));
        assert!(world.sim.app(app).is_whole());
        let (open, _) = world.sim.relay(exit).relay().circuits();
        let client = world.client();
        world.sim.with_client(client, |node, now| node.test(now, 20, 2));
        world.sim.run_for(MINUTE);
        assert!(world.sim.relay(exit).relay().circuits().0 <= open);
        world.sim.with_relay(exit, router::node::RelayNode::end_circuits);
        world.sim.run_for(Duration::from_secs(5));
        assert_eq!(world.sim.relay(exit).relay().circuits(), (0, 0));
    });
}

#[test]
fn a_relay_that_ends_tells_its_neighbours_at_once() {
    // operate.drain.2
    seeds::each(3, |seed| {
        let mut world = Plan { relays: 4, ..Plan::new(seed, 3) }.build();
        let app = world.ask(page(seed, 1_000));
        assert!(matches!(world.finish(app, MINUTE), Some((Outcome::Finished, _))));
        let middle = path(&world)[1];
        let host = world.host_of(&middle);
        world.sim.with_relay(host, router::node::RelayNode::leave);
        world.sim.run_for(Duration::from_millis(100));
        for id in &world.relays {
            let links = world.sim.relay(*id).links().snapshot();
            assert!(links.iter().all(|link| link.peer != Some(middle)), "{id:?}: {links:?}");
        }
    });
}

#[test]
fn a_rate_holds_and_the_transfer_is_whole() {
    // operate.rate.1
    const RATE: u64 = 200_000;
    seeds::each(3, |seed| {
        for place in 0..3 {
            let mut world = Plan::new(seed, 3).build();
            let warm = world.ask(page(!seed, 1_000));
            assert!(matches!(world.finish(warm, MINUTE), Some((Outcome::Finished, _))));
            let slow = world.host_of(&path(&world)[place]);
            world.sim.with_relay(slow, |node, _| node.set_rate(Some(RATE)));
            let before = world.sim.relay(slow).carried();
            let app = world.ask(page(seed, 2_000_000));
            let Some((Outcome::Finished, took)) = world.finish(app, Duration::from_mins(5)) else {
                panic!("seed {seed}, place {place}: {:?}", world.sim.app(app))
            };
            assert!(world.sim.app(app).is_whole());
            let carried = world.sim.relay(slow).carried() - before;
            let most = RATE * (took.as_secs() + 1) + 2 * RATE;
            println!("seed {seed}, place {place}: 2 MB in {took:?}, {carried} bytes of cells");
            assert!(carried <= most, "{carried} bytes in {took:?}");
            // An exit waits instead of dropping its own.
            let dropped = world.sim.host(slow).drops.get(DropReason::Congestion);
            assert!(dropped > 0 || place == 2, "nothing dropped at place {place}");
        }
    });
}
