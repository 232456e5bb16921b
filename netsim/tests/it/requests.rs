//! Requests that cannot be served, circuits that are measured, and applications in a hurry.

use std::time::Duration;

use circuit::request::ReplyCode;
use client::pool::Purpose;
use client::socks::Credentials;
use netsim::app::{Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::seeds;
use netsim::site::Ended;
use netsim::world::Plan;

const LONG: Duration = Duration::from_mins(1);
const PAGE: Exchange = Exchange { upload: 200, download: 20_000, seed: 1, ending: Ending::Finish };

#[test]
fn a_port_that_no_exit_serves_is_refused_and_the_others_are_served() {
    seeds::each(3, |seed| {
        let mut world = Plan::new(seed, 3).build();
        // All of them wait for the first circuit; mail wants one of its own.
        let isolation = Some(Credentials::new(b"mail", b""));
        let mut mail = Wish { isolation, ..Wish::new("site", PAGE) };
        mail.target.port = 25;
        let apps = [Wish::new("site", PAGE), mail.clone(), Wish::new("site", PAGE), mail];
        let apps = apps.map(|wish| world.ask(wish));
        for (n, app) in apps.into_iter().enumerate() {
            let outcome = world.finish(app, LONG).map(|(outcome, _)| outcome);
            let refused = Outcome::Refused(ReplyCode::NetworkUnreachable);
            assert_eq!(
                outcome,
                Some(if n % 2 == 1 { refused } else { Outcome::Finished }),
                "application {n}"
            );
        }
        assert_eq!(world.sim.client(world.client()).pool().len(), 1);
    });
}

#[test]
fn measured_circuits_are_begun_a_few_at_a_time() {
    const COUNT: usize = 300;
    seeds::each(2, |seed| {
        let mut world = Plan::new(seed, 3).build();
        world.sim.run_for(Duration::from_secs(1));
        let client = world.client();
        let (number, begun) = world.sim.with_client(client, |node, now| {
            let number = node.test(now, COUNT, COUNT);
            (number, node.pool().len())
        });
        assert_eq!(begun, 64);
        world.sim.run_for(Duration::from_secs(20));
        let run = world.sim.with_client(client, |node, _| node.take_test(number)).expect("the run has ended");
        assert_eq!((run.times.len(), run.failed.len()), (COUNT, 0));
        assert!(world.sim.client(client).pool().is_empty());
    });
}

#[test]
fn an_exit_that_never_answers_is_left_after_45_seconds() {
    seeds::each(3, |seed| {
        let mut world = Plan { relays: 5, exits: 2, ..Plan::new(seed, 3) }.build();
        let client = world.client();
        let hold = Exchange { ending: Ending::Hold, ..PAGE };
        // It connects for a very long time; the circuit itself is well.
        let app = world.ask(Wish::new("lost", hold));
        world.sim.run_for(Duration::from_secs(5));
        let exit_of = |world: &netsim::world::World| {
            *world.sim.client(client).pool().values().last().expect("a circuit").path.last().expect("an exit")
        };
        let mute = exit_of(&world);
        let (outcome, took) = world.finish(app, LONG).expect("it is answered");
        assert_eq!(outcome, Outcome::Refused(ReplyCode::TtlExpired));
        assert!((45..47).contains(&took.as_secs()), "{took:?}");
        // For a minute new circuits end elsewhere.
        for n in 0..5 {
            let isolation = Some(Credentials::new(&[b'a' + n], b""));
            let app = world.ask(Wish { isolation, ..Wish::new("site", PAGE) });
            assert!(matches!(world.finish(app, LONG), Some((Outcome::Finished, _))));
            assert_ne!(exit_of(&world), mute);
        }
    });
}

// circuit.stream.3
#[test]
fn an_application_may_end_its_direction_before_it_is_answered() {
    seeds::each(3, |seed| {
        for eager in [false, true] {
            let mut world = Plan::new(seed, 3).build();
            for n in 0..2 {
                // First without a circuit, then on one that stands.
                let exchange = Exchange { seed: seed << 8 | n, ending: Ending::AfterUpload, ..PAGE };
                let app = world.ask(Wish { eager, hasty: eager, ..Wish::new("site", exchange) });
                assert!(matches!(world.finish(app, LONG), Some((Outcome::Finished, _))), "{eager} {n}");
                assert!(world.sim.app(app).is_whole());
                world.sim.run_for(Duration::from_secs(2));
                let visit = world.sim.sites.visit(exchange).expect("the site was visited");
                assert_eq!((visit.wrong, visit.ended), (None, Some(Ended::InOrder)));
            }
        }
    });
}

#[test]
fn the_exit_ends_its_connections_with_the_circuit() {
    seeds::each(3, |seed| {
        for connected in [false, true] {
            let mut world = Plan::new(seed, 3).build();
            let hold = Exchange { ending: Ending::Hold, ..PAGE };
            let app = world.ask(Wish::new(if connected { "site" } else { "lost" }, hold));
            world.sim.run_for(Duration::from_secs(5));
            assert_eq!(world.sim.app(app).answered.is_some(), connected);
            let exit = world.relays[2];
            let open = |world: &netsim::world::World| {
                world.sim.relay(exit).exit().map_or(0, router::exit::Exit::open)
            };
            assert_eq!(open(&world), 1);
            // The client is gone, and its link and circuits after it.
            let client = world.client();
            world.sim.kill(client);
            world.sim.run_for(Duration::from_secs(30));
            assert_eq!((open(&world), world.sim.relay(exit).relay().circuits()), (0, (0, 0)));
            let visit = world.sim.sites.visits().next().expect("a connection");
            assert_eq!(visit.ended, Some(Ended::ByPeer));
        }
    });
}

// directory.stream.1
#[test]
fn the_exit_of_a_circuit_answers_questions_about_the_directory() {
    seeds::each(3, |seed| {
        let mut world = Plan { relays: 9, exits: 3, prebuilt: 2, ..Plan::new(seed, 3) }.build();
        world.sim.run_for(Duration::from_secs(5));
        let client = world.client();
        let exits: Vec<_> =
            world.view.iter().filter(|relay| relay.exit.is_some()).map(|relay| relay.id).collect();
        let (question, answer) = (vec![7; 60_000], vec![8; 300_000]);
        let refused = world.sim.with_client(client, |node, now| node.ask_directory(now, &question));
        world.sim.run_for(Duration::from_secs(5));
        let outcome = world.sim.with_client(client, |node, now| node.take_answer(now, refused));
        assert_eq!(outcome, Some(None), "no exit has a directory");
        for exit in &exits {
            let host = world.host_of(exit);
            world.sim.with_relay(host, |node, _| node.serve_directory());
        }
        let number = world.sim.with_client(client, |node, now| node.ask_directory(now, &question));
        world.sim.run_for(Duration::from_secs(10));
        let mut asked = Vec::new();
        for exit in &exits {
            let host = world.host_of(exit);
            for (flow, bytes) in world.sim.take_questions(host) {
                assert_eq!(bytes, question);
                asked.push(*exit);
                world.sim.with_relay(host, |node, _| node.answer_directory(flow, Some(answer.clone())));
            }
        }
        world.sim.run_for(Duration::from_secs(20));
        let outcome = world.sim.with_client(client, |node, now| node.take_answer(now, number));
        assert_eq!((outcome, asked.len()), (Some(Some((asked[0], answer))), 1));
        // One that is never answered is given up.
        let number = world.sim.with_client(client, |node, now| node.ask_directory(now, &question));
        world.sim.run_for(Duration::from_secs(29));
        assert_eq!(world.sim.with_client(client, |node, now| node.take_answer(now, number)), None);
        world.sim.run_for(Duration::from_secs(2));
        assert_eq!(world.sim.with_client(client, |node, now| node.take_answer(now, number)), Some(None));
    });
}

// directory.stream.2
#[test]
fn a_question_shares_no_circuit_with_streams() {
    seeds::each(6, |seed| {
        let prebuilt = usize::try_from(seed % 3).unwrap();
        let mut world = Plan { relays: 9, exits: 3, prebuilt, ..Plan::new(seed, 3) }.build();
        let client = world.client();
        let exits: Vec<_> =
            world.view.iter().filter(|relay| relay.exit.is_some()).map(|relay| relay.id).collect();
        for exit in &exits {
            let host = world.host_of(exit);
            world.sim.with_relay(host, |node, _| node.serve_directory());
        }
        let hold = Exchange { ending: Ending::Hold, ..PAGE };
        let before = world.ask(Wish::new("site", hold));
        world.sim.run_for(Duration::from_secs(5));
        let number = world.sim.with_client(client, |node, now| node.ask_directory(now, &[7; 100]));
        world.sim.run_for(Duration::from_secs(2));
        let own = |world: &netsim::world::World| -> Vec<_> {
            let pool = world.sim.client(client).pool().iter();
            pool.filter(|(_, circuit)| circuit.purpose == Purpose::Questions).map(|(key, _)| *key).collect()
        };
        let [circuit] = own(&world)[..] else { panic!("a circuit of its own: {:?}", own(&world)) };
        // Neither a stream that was there nor one that comes now is on it.
        let after = world.ask(Wish::new("site", hold));
        world.sim.run_for(Duration::from_secs(3));
        for app in [before, after] {
            let carried = world.sim.client(client).flows().circuit(app.flow);
            assert!(carried.is_some_and(|carried| carried != circuit), "seed {seed}");
        }
        assert_eq!(world.sim.client(client).flows().on(circuit), 1);
        for exit in &exits {
            let host = world.host_of(exit);
            for (flow, _) in world.sim.take_questions(host) {
                world.sim.with_relay(host, |node, _| node.answer_directory(flow, Some(vec![8; 10])));
            }
        }
        world.sim.run_for(Duration::from_secs(3));
        let outcome = world.sim.with_client(client, |node, now| node.take_answer(now, number));
        assert!(matches!(outcome, Some(Some(_))), "{outcome:?}");
        world.sim.run_for(Duration::from_secs(6));
        assert_eq!(own(&world), [], "it has ended");
    });
}
