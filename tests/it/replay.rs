//! A relay that was killed and starts again: what it has answered, it answers never again.

use std::fs::{self, OpenOptions};

use circuit::setup::Status;

use super::neighbour::{Answer, Neighbour};
use super::processes::Network;

/// The neighbour's relay, and the one that it attacks.
const OWN: usize = 1;
const VICTIM: usize = 2;

/// A network in which the neighbour's relay does not run.
fn network() -> Network {
    let mut network = Network::start(2);
    network.relays[OWN - 1].kill();
    network
}

/// Kills the victim and starts it again after `meanwhile`.
fn restart(network: &mut Network, meanwhile: impl FnOnce(&Network)) {
    network.relays[VICTIM - 1].kill();
    meanwhile(network);
    network.relays[VICTIM - 1] = network.start_relay(VICTIM);
}

// circuit.setup.4
#[test]
fn a_setup_is_answered_once_also_across_a_restart() {
    let mut network = network();
    let mut neighbour = Neighbour::of(&network, OWN, VICTIM);
    let setup = neighbour.setup();
    assert_eq!(neighbour.ask(&setup), Answer::Stands);
    assert_eq!(neighbour.ask_before_another(&setup), Answer::Nothing);
    drop(neighbour);
    restart(&mut network, |_| ());
    let mut neighbour = Neighbour::of(&network, OWN, VICTIM);
    assert_eq!(neighbour.ask_before_another(&setup), Answer::Nothing);
    let fresh = neighbour.setup();
    assert_eq!(neighbour.ask(&fresh), Answer::Stands);
}

// circuit.setup.6
#[test]
fn without_its_log_a_relay_is_busy_for_all_setups_that_it_may_have_answered() {
    let mut network = network();
    let mut neighbour = Neighbour::of(&network, OWN, VICTIM);
    let setup = neighbour.setup();
    assert_eq!(neighbour.ask(&setup), Answer::Stands);
    drop(neighbour);
    let log = network.file(&format!("relay{VICTIM}/state/seen.log"));
    let tear = |_: &Network| {
        let file = OpenOptions::new().write(true).open(&log).unwrap();
        let length = file.metadata().unwrap().len();
        assert!(length > 8, "nothing was logged");
        file.set_len(length - 1).unwrap();
    };
    let lose = |_: &Network| fs::remove_file(&log).unwrap();
    // What was lost stays lost when the relay restarts once more.
    let nothing = |_: &Network| ();
    for harm in [&tear as &dyn Fn(&Network), &nothing, &lose, &nothing] {
        restart(&mut network, harm);
        let mut neighbour = Neighbour::of(&network, OWN, VICTIM);
        let fresh = neighbour.setup();
        for setup in [&setup, &fresh, &setup] {
            assert_eq!(neighbour.ask(setup), Answer::Refused(Status::Busy));
        }
    }
}
