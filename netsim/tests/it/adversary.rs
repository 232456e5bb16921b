//! What attackers on the wire and relays in the path can do, and what comes of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use circuit::error::DropReason;
use netsim::app::{AppId, Outcome, Wish};
use netsim::content::{Ending, Exchange};
use netsim::fault::Disk;
use netsim::host::{HostId, Program};
use netsim::network::Conditions;
use netsim::seeds;
use netsim::world::{Plan, World};

use crate::evil::{Deed, EvilRelay, Forgery, Wires};

/// The longest time that any of this takes.
const LONG: Duration = Duration::from_mins(1);

/// A world of three relays, one of which is evil: the middle one, unless another is named.
struct Evil {
    world: World,
    wires: Rc<RefCell<Wires>>,
    entry: HostId,
    exit: HostId,
}

fn evil_world(seed: u64, deed: Deed) -> Evil {
    evil_at(seed, 1, deed)
}

/// The relay at this place of all paths is evil.
fn evil_at(seed: u64, place: usize, deed: Deed) -> Evil {
    evil_in(&Plan::new(seed, 3), place, deed)
}

fn evil_in(plan: &Plan, place: usize, deed: Deed) -> Evil {
    let mut world = plan.build();
    let (entry, exit) = (world.entry(), *world.relays.last().expect("relays"));
    let middle = *world.relays.iter().find(|id| **id != entry && **id != exit).expect("a middle relay");
    let evil = [entry, middle, exit][place];
    let Program::Relay(program) = world.sim.host(evil).program.clone() else { panic!("a relay") };
    let (node, wires) = EvilRelay::new(*program, deed, world.sim.draw());
    world.sim.replace(evil, Box::new(node));
    Evil { world, wires, entry, exit }
}

fn transfer(world: &mut World, seed: u64) -> AppId {
    let exchange = Exchange { upload: 200_000, download: 200_000, seed, ending: Ending::Finish };
    world.ask(Wish::new("site", exchange))
}

// circuit.cell.1, circuit.cell.2, circuit.cell.6
#[test]
fn a_relay_that_tampers_ends_the_circuit_and_forges_nothing() {
    let slots = [0, 3, 4, 19, 20, 50, 99];
    let bodies = [100, 101, 102, 700, 1379];
    let places = slots.iter().chain(&bodies).copied();
    let deeds = places
        .flat_map(|at| [Deed::FlipForward(at), Deed::FlipBackward(at), Deed::FlipSealed(at)])
        .chain([Deed::Speak, Deed::TurnBack]);
    seeds::each(1, |seed| {
        for deed in deeds.clone() {
            let Evil { mut world, wires, exit, .. } = evil_world(seed, deed);
            let app = transfer(&mut world, seed);
            let outcome = world.finish(app, LONG).map(|(outcome, _)| outcome);
            assert!(wires.borrow().done, "{deed:?} was not done");
            assert_eq!(world.sim.app(app).wrong, None, "{deed:?}");
            if matches!(deed, Deed::FlipBackward(80..100) | Deed::FlipSealed(80..100)) {
                // These bytes fall off at the next layer.
                assert_eq!(outcome, Some(Outcome::Finished), "{deed:?}");
                assert!(world.sim.app(app).is_whole(), "{deed:?}");
                continue;
            }
            assert_eq!(outcome, Some(Outcome::Reset), "{deed:?}");
            world.sim.run_for(Duration::from_secs(10));
            let client = world.sim.client(world.client());
            assert!(client.pool().is_empty() && client.streams() == 0, "{deed:?}");
            let exit = world.sim.relay(exit);
            assert_eq!(exit.relay().circuits(), (0, 0), "{deed:?}");
            assert_eq!(exit.exit().map(router::exit::Exit::open), Some(0), "{deed:?}");
        }
    });
}

#[test]
fn a_relay_that_does_nothing_wrong_or_repeats_a_cell_changes_nothing() {
    seeds::each(2, |seed| {
        for deed in [Deed::Nothing, Deed::RepeatForward] {
            let Evil { mut world, wires, exit, .. } = evil_world(seed, deed);
            let app = transfer(&mut world, seed);
            assert!(
                matches!(world.finish(app, LONG), Some((Outcome::Finished, _))),
                "{:?}",
                world.sim.app(app)
            );
            assert!(world.sim.app(app).is_whole());
            let repeated = deed == Deed::RepeatForward;
            assert_eq!(wires.borrow().done, repeated);
            // circuit.window.1
            assert_eq!(world.sim.host(exit).drops.get(DropReason::LateCell), u64::from(repeated));
        }
    });
}

// circuit.cell.1, circuit.cell.6
#[test]
fn an_entry_that_tampers_ends_the_circuit_and_forges_nothing() {
    // It is the last one before the client: nothing of what it adds to falls off.
    let places = [0, 4, 19, 60, 80, 99, 100, 700, 1379];
    seeds::each(1, |seed| {
        for deed in places.into_iter().flat_map(|at| [Deed::FlipForward(at), Deed::FlipSealed(at)]) {
            let Evil { mut world, wires, exit, .. } = evil_at(seed, 0, deed);
            let app = transfer(&mut world, seed);
            let outcome = world.finish(app, LONG).map(|(outcome, _)| outcome);
            assert!(wires.borrow().done, "{deed:?} was not done");
            assert_eq!((outcome, world.sim.app(app).wrong), (Some(Outcome::Reset), None), "{deed:?}");
            world.sim.run_for(Duration::from_secs(10));
            assert!(world.sim.client(world.client()).pool().is_empty(), "{deed:?}");
            assert_eq!(world.sim.relay(exit).relay().circuits(), (0, 0), "{deed:?}");
        }
    });
}

// circuit.stream.1, circuit.stream.2
#[test]
fn an_exit_that_breaks_the_rules_of_quic_loses_the_circuit() {
    // PING and an old kind of packet change nothing: there the client waits for an answer, and asks again.
    let frames: [(&[u8], bool); 8] = [
        (&[0x01], false),
        (&[0x3f], true),
        (&[0x18, 1, 0, 8, 7, 7, 7, 7, 7, 7, 7, 7, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9], true),
        (&[0x06, 0, 1, b'h'], true),
        // A stream that the exit opens.
        (&[0x0a, 1, 1, b'h'], true),
        (&[0x02, 0x40, 0x99, 0, 0, 0], true),
        (&[0x1d, 7, 0], true),
        (&[0x0a, 0], true),
    ];
    seeds::each(1, |seed| {
        for (frames, ends) in frames {
            let Evil { mut world, wires, .. } = evil_at(seed, 2, Deed::Say(frames));
            let client = world.client();
            let app = transfer(&mut world, seed);
            assert!(world.sim.run_until(LONG, |_| wires.borrow().done));
            let first = *world.sim.client(client).pool().keys().next().expect("a circuit");
            world.sim.run_for(Duration::from_millis(300));
            assert_eq!(!world.sim.client(client).pool().contains_key(&first), ends, "{frames:?}");
            // It never serves anybody, and the application is told so.
            let outcome = world.finish(app, LONG).map(|(outcome, _)| outcome);
            assert!(matches!(outcome, Some(Outcome::Refused(_))), "{frames:?}: {outcome:?}");
            world.sim.run_for(LONG);
            let client = world.sim.client(client);
            assert_eq!((client.streams(), client.flows().len()), (0, 0), "{frames:?}");
        }
    });
}

// circuit.reply.1, circuit.reply.3
#[test]
fn a_forged_reply_costs_one_circuit() {
    seeds::each(2, |seed| {
        for place in 0..2 {
            for forgery in [Forgery::Random, Forgery::Zero, Forgery::Flip, Forgery::Second] {
                let Evil { mut world, wires, .. } = evil_at(seed, place, Deed::Reply(forgery));
                let app = transfer(&mut world, seed);
                let outcome = world.finish(app, LONG);
                assert!(
                    matches!(outcome, Some((Outcome::Finished, _))),
                    "{forgery:?} at {place}: {outcome:?}"
                );
                assert!(wires.borrow().done && world.sim.app(app).is_whole());
                // Who sees that a reply is forged ends the circuit a little later.
                world.sim.run_for(Duration::from_secs(5));
                let client = world.sim.client(world.client());
                // Only the first reply counts; of a second one nothing is seen behind the next relay.
                let failed = u64::from(forgery != Forgery::Second);
                assert_eq!(client.counts().failed, failed, "{forgery:?} at {place}");
                assert_eq!(client.pool().len(), 1, "{forgery:?} at {place}");
            }
        }
    });
}

#[test]
fn an_entry_that_garbles_every_reply_is_left() {
    seeds::each(3, |seed| {
        let plan = Plan { relays: 5, ..Plan::new(seed, 3) };
        let Evil { mut world, wires, .. } = evil_in(&plan, 0, Deed::Replies);
        let app = transfer(&mut world, seed);
        let outcome = world.finish(app, Duration::from_secs(5));
        assert!(matches!(outcome, Some((Outcome::Finished, _))), "{outcome:?}");
        assert!(wires.borrow().done && world.sim.app(app).is_whole());
    });
}

#[test]
fn who_cannot_avoid_a_relay_that_garbles_replies_does_not_ask_without_end() {
    seeds::each(2, |seed| {
        for place in 0..2 {
            // Three relays for three hops: it is in every path.
            let Evil { mut world, .. } = evil_at(seed, place, Deed::Replies);
            let app = transfer(&mut world, seed);
            world.sim.run_for(LONG);
            assert!(matches!(world.sim.app(app).outcome(), Some(Outcome::Refused(_))));
            let failed = world.sim.client(world.client()).counts().failed;
            println!("seed {seed}: {failed} setups within a minute");
            assert!((3..60).contains(&failed), "{failed}");
        }
    });
}

/// Has every setup sent once more: how many were answered, how many the exit dropped, and its circuits.
fn replay(evil: &mut Evil) -> (usize, u64, (usize, usize)) {
    let dropped = |evil: &Evil| evil.world.sim.host(evil.exit).drops.get(DropReason::BadSetup);
    let before = dropped(evil);
    {
        let mut wires = evil.wires.borrow_mut();
        wires.answers = 0;
        wires.again = wires.setups.iter().copied().collect();
    }
    let middle = evil.world.relays.iter().copied().find(|id| *id != evil.entry && *id != evil.exit);
    evil.world.sim.drive(middle.expect("a middle relay"));
    evil.world.sim.run_for(Duration::from_secs(8));
    assert!(evil.wires.borrow().again.is_empty(), "they were sent");
    let circuits = evil.world.sim.relay(evil.exit).relay().circuits();
    (evil.wires.borrow().answers, dropped(evil) - before, circuits)
}

// circuit.setup.4, circuit.setup.6
#[test]
fn a_replayed_setup_is_never_accepted_not_even_after_a_restart() {
    seeds::each(3, |seed| {
        let mut evil = evil_world(seed, Deed::Nothing);
        let exit = evil.exit;
        let app = transfer(&mut evil.world, seed);
        assert!(matches!(evil.world.finish(app, LONG), Some((Outcome::Finished, _))));
        let setups = evil.wires.borrow().setups.len();
        assert_eq!(setups, 1);
        assert_eq!(replay(&mut evil), (0, 1, (1, 0)));

        evil.world.sim.restart(exit, Disk::Kept);
        // The first one tells the links that the exit has restarted.
        replay(&mut evil);
        assert_eq!(replay(&mut evil), (0, 1, (0, 0)));

        // Without the log it cannot know: it answers BUSY, and has no circuit.
        evil.world.sim.restart(exit, Disk::Lost);
        replay(&mut evil);
        assert_eq!(replay(&mut evil), (1, 0, (0, 0)));

        // Setups of later minutes are served again.
        evil.world.sim.run_for(Duration::from_mins(3));
        let app = transfer(&mut evil.world, !seed);
        assert!(matches!(evil.world.finish(app, LONG), Some((Outcome::Finished, _))));
        assert!(evil.world.sim.app(app).is_whole());
    });
}

#[test]
fn flipped_bits_on_the_wire_are_no_more_than_loss() {
    seeds::each(3, |seed| {
        let conditions = Conditions { corrupt: 0.03, ..Conditions::default() };
        let mut world = Plan { conditions, ..Plan::new(seed, 3) }.build();
        let app = transfer(&mut world, seed);
        assert!(matches!(world.finish(app, LONG), Some((Outcome::Finished, _))), "{:?}", world.sim.app(app));
        assert!(world.sim.app(app).is_whole());
        let client = world.sim.client(world.client());
        assert_eq!((client.pool().len(), client.counts().failed), (1, 0));
        for id in &world.relays {
            let drops = world.sim.host(*id).drops;
            assert!(drops.get(DropReason::BadTag) > 0, "{drops:?}");
            assert_eq!(drops.get(DropReason::BadLayer), 0);
        }
    });
}

// link.replay.1, link.address.2
#[test]
fn replayed_and_redirected_packets_change_nothing() {
    seeds::each(2, |seed| {
        let mut world = Plan::new(seed, 3).build();
        world.sim.capture();
        let app = transfer(&mut world, seed);
        assert!(matches!(world.finish(app, LONG), Some((Outcome::Finished, _))));
        world.sim.run_for(Duration::from_secs(1));
        let captured = world.sim.take_captured();
        let stranger = ([203, 1, 2, 3], 4).into();
        let counts = |world: &World| -> Vec<_> {
            world
                .relays
                .iter()
                .map(|id| (world.sim.relay(*id).relay().circuits(), world.sim.relay(*id).relay().counts()))
                .collect()
        };
        let before = counts(&world);
        for (n, packet) in captured.iter().enumerate() {
            let from = if n % 2 == 0 { packet.from } else { stranger };
            world.sim.send(from, packet.to, packet.packet.clone());
        }
        world.sim.run_for(Duration::from_secs(1));
        assert_eq!(counts(&world), before);
        let exit = world.sim.host(world.relays[2]).drops;
        assert!(exit.get(DropReason::Replayed) > 0 && exit.get(DropReason::WrongAddress) > 0, "{exit:?}");
        let app = transfer(&mut world, !seed);
        assert!(matches!(world.finish(app, LONG), Some((Outcome::Finished, _))));
        let client = world.sim.client(world.client());
        assert_eq!((client.pool().len(), client.counts().failed), (1, 0));
    });
}
