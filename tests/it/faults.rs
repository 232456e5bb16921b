//! Relays that die, stand still or restart in the middle of a transfer.

use std::thread;
use std::time::Duration;

use super::outage::{Fault, Outcome, PLACES, request, strike, under_way};
use super::processes::{Client, Network, PATIENCE, Process, eventually};
use super::target::Target;

const HOPS: usize = 3;
/// A standstill that links survive.
const MOMENT: Duration = Duration::from_secs(1);
/// Descriptors that a process may have more than after its first transfer.
const MORE_DESCRIPTORS: usize = 4;
/// Memory that a process may have more than after its first transfer, in KiB.
const MORE_MEMORY: u64 = 100 << 10;

/// What the processes hold when nothing goes on.
struct Footprint {
    descriptors: usize,
    memory: u64,
}

impl Footprint {
    fn of(network: &Network, client: &Client) -> Self {
        let all = || network.relays.iter().chain([&client.process]);
        Self {
            descriptors: all().map(Process::descriptors).max().unwrap(),
            memory: all().map(|process| process.memory("VmRSS")).max().unwrap(),
        }
    }
}

/// Whether no streams and connections are left, and relays have no circuits but those of the client.
fn is_at_rest(network: &Network, client: &Client) -> bool {
    let status = client.ask(&["status"]);
    let relays: Vec<_> = (1..=network.relays.len()).map(|number| network.relay_status(number)).collect();
    let sum = |path: &str| -> u64 { relays.iter().filter_map(|relay| relay.pointer(path)?.as_u64()).sum() };
    let ready = status["circuits"]["ready"].as_u64().unwrap();
    // Shown if the test fails.
    eprintln!("{status}\n{relays:?}");
    status["streams"] == 0
        && status["circuits"]["building"] == 0
        && sum("/exit_flows/open") + sum("/circuits/half_open") == 0
        && sum("/circuits/open") == HOPS as u64 * ready
}

/// Does something to the relay at every place of the path of a download: neither a wrong byte, nor a request that hangs, nor
/// anything left behind.
fn everywhere(strike: impl Fn(&mut Network, &Client, &Target, usize) -> Outcome) -> Vec<Outcome> {
    let mut network = Network::start(8);
    let client = network.client("client", HOPS);
    let target = Target::open();
    request(&client, &target);
    let before = Footprint::of(&network, &client);
    let outcomes = (0..PLACES.len()).map(|place| strike(&mut network, &client, &target, place)).collect();
    eventually("everything is at rest", || is_at_rest(&network, &client).then_some(()));
    request(&client, &target);
    eventually("everything is at rest again", || is_at_rest(&network, &client).then_some(()));
    let after = Footprint::of(&network, &client);
    assert!(after.descriptors <= before.descriptors + MORE_DESCRIPTORS, "{}", after.descriptors);
    assert!(after.memory <= before.memory + MORE_MEMORY, "{} KiB, was {}", after.memory, before.memory);
    outcomes
}

#[test]
fn a_client_says_once_that_no_circuit_stands_and_once_that_one_stands_again() {
    let mut network = Network::start(3);
    let client = network.client("client", HOPS);
    let count = |text: &str| client.process.log().matches(text).count();
    for round in 1..=2 {
        network.relays.iter_mut().for_each(Process::kill);
        eventually("the warning", || (count("no circuit stands any more") == round).then_some(()));
        network.relays = (1..=3).map(|number| network.start_relay(number)).collect();
        eventually("the good news", || (count("a circuit stands again") == round).then_some(()));
        assert_eq!(count("no circuit stands any more"), round);
    }
}

fn by(fault: Fault) -> impl Fn(&mut Network, &Client, &Target, usize) -> Outcome {
    move |network, client, target, place| {
        let report = strike(network, client, target, place, fault);
        assert!(report.next < PATIENCE, "the next request took {:?}", report.next);
        report.outcome
    }
}

#[test]
fn a_killed_relay_ends_streams_and_the_next_request_goes_another_way() {
    assert_eq!(everywhere(by(Fault::Killed)), [Outcome::Broken; 3]);
}

// link.live.1
#[test]
fn a_frozen_relay_ends_streams_and_the_next_request_goes_another_way() {
    assert_eq!(everywhere(by(Fault::Frozen)), [Outcome::Broken; 3]);
}

// link.handshake.6
#[test]
fn a_restarted_relay_ends_streams_and_the_next_request_works() {
    assert_eq!(everywhere(by(Fault::Restarted)), [Outcome::Broken; 3]);
}

#[test]
fn a_relay_that_stands_still_for_a_moment_hurts_nothing() {
    // On a busy machine a moment may become long enough to end links, so either outcome is right.
    everywhere(|network, client, target, place| {
        let pause = |network: &mut Network, number: usize| {
            network.relays[number - 1].signal("STOP");
            thread::park_timeout(MOMENT);
            network.relays[number - 1].signal("CONT");
        };
        let ((), outcome) = under_way(network, client, target, place, pause);
        request(client, target);
        outcome
    });
}
