//! How long things take on lines of 25 ms.

use std::time::Duration;

use client::socks::Credentials;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::seeds;
use netsim::world::{Plan, World};

const PAGE: Exchange = Exchange { upload: 200, download: 1000, seed: 1, ending: Ending::Finish };

/// Builds and ends one circuit: how long it took.
fn build_one(world: &mut World) -> Duration {
    let client = world.client();
    let number = world.sim.with_client(client, |node, now| node.test(now, 1, 1));
    world.sim.run_for(Duration::from_secs(5));
    let run = world.sim.with_client(client, |node, _| node.take_test(number)).expect("the run has ended");
    assert!(run.failed.is_empty(), "{:?}", run.failed);
    run.times[0]
}

#[test]
fn a_circuit_over_warm_links_is_ready_after_one_round_trip() {
    seeds::each(5, |seed| {
        let mut world = Plan::new(seed, 3).build();
        let cold = build_one(&mut world);
        let warm = build_one(&mut world);
        println!("seed {seed}: circuit over cold links {cold:?}, over warm links {warm:?}");
        assert!(warm <= Duration::from_millis(155));
    });
}

#[test]
fn the_first_byte_comes_as_soon_as_the_path_allows() {
    seeds::each(5, |seed| {
        let mut world = Plan::new(seed, 3).build();
        build_one(&mut world);
        let mut times = vec![];
        for _ in 0..2 {
            let wish = Wish { isolation: Some(Credentials::new(b"me", b"")), ..Wish::new("site", PAGE) };
            let app = world.ask(wish);
            assert!(matches!(world.finish(app, Duration::from_secs(10)), Some((Outcome::Finished, _))));
            let app = world.sim.app(app);
            assert!(app.is_whole());
            let since = |at: Option<Duration>| app.since_asked(at.expect("it has happened"));
            times.push((since(app.answered), since(app.first_byte)));
            world.sim.run_for(Duration::from_secs(3));
        }
        println!(
            "seed {seed}: (answer, first byte) without a circuit {:?}, on a warm one {:?}",
            times[0], times[1]
        );
        assert!(times[0].1 <= Duration::from_millis(560));
        assert!(times[1].1 <= Duration::from_millis(410));
    });
}

#[test]
fn a_spare_circuit_is_as_good_as_a_warm_one() {
    seeds::each(5, |seed| {
        let mut world = Plan { prebuilt: 2, ..Plan::new(seed, 3) }.build();
        world.sim.run_for(Duration::from_secs(5));
        let app = world.ask(Wish::new("site", PAGE));
        assert!(matches!(world.finish(app, Duration::from_secs(10)), Some((Outcome::Finished, _))));
        let app = world.sim.app(app);
        let first = app.since_asked(app.first_byte.expect("bytes came"));
        println!("seed {seed}: first byte on a spare circuit {first:?}");
        assert!(first <= Duration::from_millis(410));
    });
}
