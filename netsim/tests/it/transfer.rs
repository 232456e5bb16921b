//! Bytes, ends and resets, through bad networks.

use std::time::Duration;

use circuit::keys::Random;
use circuit::request::ReplyCode;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::network::{Conditions, Loss, Rate};
use netsim::seeds;
use netsim::site::Ended;
use netsim::world::{Plan, World};
use rand_core::{Rng as _, SeedableRng as _};

/// Longer than any transfer here takes.
const LONG: Duration = Duration::from_mins(3);

fn below(rng: &mut Random, limit: u64) -> u64 {
    rng.next_u64() % limit
}

/// What a bad network does: up to 5 % loss, with bursts or without, reordering and duplication, 1 to 150 ms.
fn rough(rng: &mut Random) -> Conditions {
    let loss = f64::from(u32::try_from(below(rng, 501)).unwrap()) / 10_000.0;
    let last = Duration::from_millis(20);
    let bursts = Loss::Bursts { every: last.div_f64(loss.max(0.0001)), last };
    Conditions {
        delay: Duration::from_millis(1 + below(rng, 150)),
        jitter: Duration::from_millis(below(rng, 10)),
        loss: if below(rng, 2) == 0 { bursts } else { Loss::Independent(loss) },
        reorder: 0.02 * f64::from(u32::try_from(below(rng, 2)).unwrap()),
        duplicate: 0.01 * f64::from(u32::try_from(below(rng, 2)).unwrap()),
        ..Conditions::default()
    }
}

/// A world where every line is bad in its own way.
fn rough_world(rng: &mut Random, seed: u64, hops: usize) -> World {
    let mut world = Plan::new(seed, hops).build();
    let addresses: Vec<_> =
        world.relays.iter().chain(&world.clients).map(|id| world.sim.host(*id).address).collect();
    for from in &addresses {
        for to in &addresses {
            world.sim.network.set(*from, *to, rough(rng));
        }
    }
    world
}

/// Both ends have it all, and nothing else.
fn assert_whole(world: &World, app: netsim::app::AppId, exchange: Exchange) {
    let app = world.sim.app(app);
    assert_eq!(app.outcome(), Some(Outcome::Finished), "{app:?}");
    assert!(app.is_whole(), "{app:?}");
    let visit = world.sim.sites.visit(exchange).expect("the site was visited");
    assert_eq!((visit.wrong, visit.received), (None, exchange.up().len()), "{visit:?}");
    assert_eq!(visit.ended, Some(Ended::InOrder));
}

/// Circuits that have had streams; a setup that takes long is raced by another, whose circuit stays spare.
fn in_use(world: &World) -> usize {
    world.sim.client(world.client()).pool().values().filter(|circuit| circuit.used.is_some()).count()
}

#[test]
fn streams_are_exact_both_ways_through_rough_networks() {
    seeds::each(3, |seed| {
        for hops in 1..=5 {
            let mut rng = Random::seed_from_u64(seed ^ (hops as u64) << 32);
            let mut world = rough_world(&mut rng, seed, hops);
            let size =
                |rng: &mut Random| 300_000 + below(rng, if seed % 3 == 0 { 2_700_000 } else { 300_000 });
            let (upload, download) = (size(&mut rng), size(&mut rng));
            let exchange = Exchange { upload, download, seed, ending: Ending::Finish };
            let app = world.ask(Wish::new("site", exchange));
            let took = world.finish(app, LONG);
            println!("seed {seed}: {hops} hops, {upload} bytes up, {download} down: {took:?}");
            world.sim.run_for(Duration::from_secs(5));
            assert_whole(&world, app, exchange);
        }
    });
}

#[test]
fn streams_of_one_circuit_do_not_mix() {
    seeds::each(3, |seed| {
        let mut rng = Random::seed_from_u64(seed);
        let mut world = rough_world(&mut rng, seed, 3);
        let apps: Vec<_> = (0..12)
            .map(|n| {
                let (upload, download) = (below(&mut rng, 60_000), below(&mut rng, 60_000));
                let exchange = Exchange { upload, download, seed: seed << 8 | n, ending: Ending::Finish };
                let echo = n % 3 == 0;
                let site = if echo { "echo" } else { "site" };
                let eager = n % 2 == 0;
                (world.ask(Wish { echo, eager, ..Wish::new(site, exchange) }), exchange, echo)
            })
            .collect();
        assert!(
            world.sim.run_until(LONG, |sim| { apps.iter().all(|(app, ..)| sim.app(*app).done.is_some()) })
        );
        world.sim.run_for(Duration::from_secs(5));
        for (app, exchange, echo) in apps {
            if echo {
                assert_eq!(world.sim.app(app).outcome(), Some(Outcome::Finished));
                assert!(world.sim.app(app).is_whole());
            } else {
                assert_whole(&world, app, exchange);
            }
        }
        assert_eq!(in_use(&world), 1);
    });
}

#[test]
fn a_bottleneck_is_used_and_loses_no_stream() {
    seeds::each(2, |seed| {
        for (bytes, loss) in [(500_000, 0.0), (2_000_000, 0.0), (2_000_000, 0.01)] {
            let mut world = Plan::new(seed, 3).build();
            let rate = Some(Rate { bytes, queue: Duration::from_millis(50) });
            let (from, to) = (world.sim.host(world.entry()).address, world.sim.host(world.client()).address);
            let usual = world.sim.network.get(from, to);
            world.sim.network.set(from, to, Conditions { rate, loss: Loss::Independent(loss), ..usual });
            let exchange = Exchange { upload: 0, download: 3_000_000, seed, ending: Ending::Finish };
            let app = world.ask(Wish::new("site", exchange));
            let took = world.finish(app, LONG);
            assert!(matches!(took, Some((Outcome::Finished, _))), "{:?}", world.sim.app(app));
            let app = world.sim.app(app);
            assert!(app.is_whole());
            let time = app
                .done
                .zip(app.first_byte)
                .map(|((end, _), start)| end.saturating_sub(start))
                .unwrap_or_default();
            let used = 3_000_000.0 * 1412.0 / 1278.0 / f64::from(bytes) / time.as_secs_f64();
            println!(
                "seed {seed}: {bytes} B/s, loss {loss}: 3 MB in {time:?}, {:.0} % of the bottleneck",
                100.0 * used
            );
            assert!(used > 0.5);
        }
    });
}

// circuit.stream.3
#[test]
fn an_end_leaves_the_other_direction_open() {
    seeds::each(5, |seed| {
        let mut rng = Random::seed_from_u64(seed);
        let mut world = rough_world(&mut rng, seed, 3);
        // The site answers to the end of the upload; the second one ends its direction long before we do.
        let late = Exchange { upload: 50_000, download: 100_000, seed, ending: Ending::AfterUpload };
        let early = Exchange { upload: 400_000, download: 10, seed: !seed, ending: Ending::Finish };
        for exchange in [late, early] {
            let app = world.ask(Wish::new("site", exchange));
            world.finish(app, LONG);
            world.sim.run_for(Duration::from_secs(5));
            assert_whole(&world, app, exchange);
        }
    });
}

// circuit.stream.3
#[test]
fn resets_pass_both_ways() {
    seeds::each(5, |seed| {
        let mut rng = Random::seed_from_u64(seed);
        let mut world = rough_world(&mut rng, seed, 3);
        let by_site = Exchange { upload: 0, download: 50_000, seed, ending: Ending::Reset };
        let app = world.ask(Wish::new("site", by_site));
        assert_eq!(world.finish(app, LONG).map(|(outcome, _)| outcome), Some(Outcome::Reset));
        assert_eq!(world.sim.app(app).wrong, None);

        let wish = Exchange { upload: 10_000, download: 50_000_000, seed: !seed, ending: Ending::Finish };
        let app = world.ask(Wish { reset_after: Some(100_000), ..Wish::new("site", wish) });
        assert_eq!(world.finish(app, LONG).map(|(outcome, _)| outcome), Some(Outcome::ResetByUs));
        world.sim.run_for(Duration::from_secs(10));
        let visit = world.sim.sites.visit(wish).expect("the site was visited");
        assert_eq!(visit.ended, Some(Ended::ByPeer), "{visit:?}");

        let app = world.ask(Wish::new("reset", by_site));
        assert_eq!(world.finish(app, LONG).map(|(outcome, _)| outcome), Some(Outcome::Reset));

        // The circuit has survived all of it.
        let last = Exchange { upload: 100, download: 100, seed: seed << 8, ending: Ending::Finish };
        let app = world.ask(Wish::new("site", last));
        world.finish(app, LONG);
        world.sim.run_for(Duration::from_secs(5));
        assert_whole(&world, app, last);
        let client = world.sim.client(world.client());
        assert_eq!((in_use(&world), client.counts().failed, client.streams()), (1, 0, 0));
        let exit = world.sim.relay(world.relays[2]).exit().expect("the last relay is the exit");
        assert_eq!(exit.open(), 0);
    });
}

#[test]
fn what_cannot_be_reached_is_refused_with_the_reason() {
    seeds::each(2, |seed| {
        let mut world = Plan::new(seed, 3).build();
        let exchange = Exchange { upload: 10, download: 10, seed, ending: Ending::Finish };
        for (site, port, code) in [
            ("refuse", 80, ReplyCode::ConnectionRefused),
            ("nowhere.example", 80, ReplyCode::HostUnreachable),
            // circuit.exit.1, circuit.exit.2
            ("private", 80, ReplyCode::NotAllowed),
            // No exit serves it, and no circuit is built.
            ("site", 25, ReplyCode::NetworkUnreachable),
        ] {
            let mut wish = Wish::new(site, exchange);
            wish.target.port = port;
            let app = world.ask(wish);
            let outcome = world.finish(app, LONG).map(|(outcome, _)| outcome);
            assert_eq!(outcome, Some(Outcome::Refused(code)), "{site}");
        }
        // An address instead of a name, and one that the policy refuses.
        for (ip, outcome) in
            [([198, 0, 0, 2], Outcome::Finished), ([10, 0, 0, 1], Outcome::Refused(ReplyCode::NotAllowed))]
        {
            let mut wish = Wish::new("site", exchange);
            wish.target.host = circuit::request::Host::Ip(ip.into());
            let app = world.ask(wish);
            assert_eq!(world.finish(app, LONG).map(|(outcome, _)| outcome), Some(outcome));
        }
        // A site that never answers: the circuit is not blamed, and who gives up leaves nothing behind.
        let silent = Exchange { ending: Ending::Hold, ..exchange };
        let (first, second) =
            (world.ask(Wish::new("silent", silent)), world.ask(Wish::new("silent", silent)));
        world.sim.run_for(Duration::from_secs(5));
        let client = world.client();
        world.sim.with_client(client, |node, now| {
            circuit::node::Node::flow_reset(node, now, first.flow);
        });
        let outcome = world.finish(second, LONG).map(|(outcome, _)| outcome);
        assert_eq!(outcome, Some(Outcome::Refused(ReplyCode::TtlExpired)));
        world.sim.run_for(Duration::from_secs(5));
        let exit = world.sim.relay(world.relays[2]).exit().expect("the last relay is the exit");
        assert_eq!((exit.open(), world.sim.client(client).streams()), (0, 0));
        assert_eq!(world.sim.client(client).pool().len(), 1);
    });
}
