//! Ends that take bytes and never read them.

use std::time::Duration;

use client::socks::Credentials;
use netsim::app::{AppId, Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::seeds;
use netsim::site::Ended;
use netsim::world::{Plan, World};

const LONG: Duration = Duration::from_mins(2);
/// What one stream may hold between its two applications: buffers of both ends and of both sockets.
const MOST: u64 = 12 << 20;

/// A download on another circuit: how long it took.
fn download(world: &mut World, seed: u64) -> Duration {
    let exchange = Exchange { upload: 100, download: 3_000_000, seed, ending: Ending::Finish };
    let isolation = Some(Credentials::new(b"other", b""));
    let app = world.ask(Wish { isolation, ..Wish::new("site", exchange) });
    let (outcome, took) = world.finish(app, LONG).expect("it ends");
    assert!(outcome == Outcome::Finished && world.sim.app(app).is_whole());
    took
}

/// Lets `wish` fill what it can, and has it given up; what is said of it before that.
fn beside(seed: u64, wish: &Wish, check: impl Fn(&World, AppId)) {
    let mut calm = Plan::new(seed, 3).build();
    download(&mut calm, !seed);
    let alone = download(&mut calm, seed);

    let mut world = Plan::new(seed, 3).build();
    // Links keep packets, and buffers of the simulation stay; after the first time that is all there.
    for round in 0..2 {
        let kept = allocation_counter::measure(|| {
            let slow = world.ask(wish.clone());
            world.sim.run_for(Duration::from_secs(30));
            check(&world, slow);
            download(&mut world, !seed);
            let took = download(&mut world, seed);
            assert!(took < alone * 3 / 2, "{took:?} beside a slow reader, {alone:?} alone");
            let client = world.client();
            world.sim.with_client(client, |node, now| circuit::node::Node::flow_reset(node, now, slow.flow));
            // A connection that takes nothing is not seen to be given up before its circuit ends, minutes later.
            world.sim.run_for(Duration::from_mins(12));
        });
        println!("seed {seed}: {kept:?}");
        // Both ends, the links between them, and the other downloads.
        assert!(kept.bytes_max < 3 * MOST, "{kept:?}");
        if round == 1 {
            assert!(kept.bytes_current < 100_000, "{kept:?}");
        }
        let exit = world.sim.relay(world.relays[2]).exit().expect("an exit");
        assert_eq!((exit.open(), world.sim.client(world.client()).streams()), (0, 0));
        assert!(world.sim.sites.visits().all(|visit| visit.ended.is_some()));
    }
    assert!(world.sim.sites.visits().any(|visit| visit.ended == Some(Ended::ByPeer)));
}

#[test]
fn an_application_that_never_reads_holds_up_only_itself() {
    seeds::each(1, |seed| {
        let exchange = Exchange { upload: 100, download: 500_000_000, seed, ending: Ending::Hold };
        beside(seed, &Wish { appetite: 0, ..Wish::new("site", exchange) }, |world, slow| {
            assert_eq!(world.sim.app(slow).received, 0);
            let sent = world.sim.sites.visits().last().expect("it was visited").sent;
            assert!((1 << 20..MOST).contains(&sent), "{sent}");
        });
    });
}

#[test]
fn a_destination_that_never_reads_holds_up_only_its_stream() {
    seeds::each(1, |seed| {
        let exchange = Exchange { upload: 500_000_000, download: 0, seed, ending: Ending::Hold };
        beside(seed, &Wish::new("deaf", exchange), |world, slow| {
            let sent = world.sim.app(slow).sent;
            assert!((1 << 20..MOST).contains(&sent), "{sent}");
        });
    });
}
