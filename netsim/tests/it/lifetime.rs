//! What changes by itself in the course of hours: keys of links, epochs, circuits.

use std::time::Duration;

use directory::descriptor::EPOCH_SECONDS;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::seeds;
use netsim::world::{Plan, World};

#[test]
fn requests_are_served_all_day() {
    seeds::each(1, |seed| {
        let mut world = Plan { relays: 5, exits: 2, prebuilt: 1, ..Plan::new(seed, 3) }.build();
        let client = world.client();
        // A stream that lives as long as circuits may, and requests all the while.
        let long = Exchange { upload: 10, download: 10, seed, ending: Ending::Hold };
        let long = world.ask(Wish { echo: true, ..Wish::new("echo", long) });
        for n in 1..=39 {
            let exchange = Exchange { upload: 1000, download: 50_000, seed: n, ending: Ending::Finish };
            let app = world.ask(Wish::new("site", exchange));
            let took = world.finish(app, Duration::from_secs(10));
            let Some((Outcome::Finished, took)) = took else {
                panic!(
                    "request {n} at {:?}: {took:?}, {:?}",
                    world.sim.elapsed(),
                    world.sim.client(client).counts()
                );
            };
            assert!(world.sim.app(app).is_whole());
            assert!(took < Duration::from_secs(2), "request {n} took {took:?}");
            world.sim.run_for(Duration::from_mins(20));
            if n == 30 {
                assert_eq!(world.sim.app(long).outcome(), None, "{:?}", world.sim.app(long));
            }
        }
        // 13 hours: circuits live for 12.
        assert_eq!(world.sim.app(long).outcome(), Some(Outcome::Reset));
        let relayed: usize = world.relays.iter().map(|id| world.sim.relay(*id).relay().circuits().0).sum();
        assert_eq!(relayed, 3 * world.sim.client(client).pool().len());
        assert_eq!(world.sim.client(client).counts().failed, 0);
    });
}

// circuit.setup.9
#[test]
fn a_relay_without_circuits_erases_its_onion_keys_too() {
    seeds::each(1, |seed| {
        let mut world = Plan::new(seed, 3).build();
        let app =
            world.ask(Wish::new("site", Exchange { upload: 10, download: 10, seed, ending: Ending::Finish }));
        assert!(matches!(world.finish(app, Duration::from_secs(10)), Some((Outcome::Finished, _))));
        let client = world.client();
        world.sim.kill(client);
        let epochs = |world: &World| -> Vec<Vec<u32>> {
            world.relays.iter().map(|id| world.sim.relay(*id).relay().epochs().collect()).collect()
        };
        world.sim.run_for(Duration::from_mins(1));
        let before = epochs(&world);
        let now = u32::try_from(world.sim.now().unix() / EPOCH_SECONDS).unwrap();
        assert!(before.iter().all(|epochs| epochs[0] == now));
        // Into the next epoch, and out of it.
        for later in 1..=2 {
            world.sim.run_for(Duration::from_secs(EPOCH_SECONDS));
            let left: Vec<_> = epochs(&world).iter().map(|epochs| epochs[0]).collect();
            assert_eq!(left, [now + later; 3]);
        }
    });
}
