//! Clocks that jump by an hour: what stands goes on, what is new is refused by name, and all is well once they are right.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use circuit::setup::EPOCH_SECONDS;

use super::outage::{Outcome, request, under_way};
use super::processes::{Client, Network, chive, eventually, text};
use super::target::Target;

const HOPS: usize = 3;

/// The wall clock of one process.
struct Clock(PathBuf);

impl Clock {
    /// A clock that is right.
    fn of(folder: &Path, name: &str) -> Self {
        let clock = Self(folder.join(name));
        clock.set("+0");
        clock
    }

    fn set(&self, seconds: &str) {
        let new = self.0.with_extension("new");
        fs::write(&new, format!("{seconds}\n")).unwrap();
        fs::rename(new, &self.0).unwrap();
    }

    /// The command, to be run by this clock.
    fn rule(&self, mut command: Command) -> Command {
        let machine = std::env::consts::ARCH;
        let library = format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1");
        assert!(Path::new(&library).exists(), "{library} is missing: install the package faketime");
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.0)
            .env("FAKETIME_NO_CACHE", "1")
            .env("DONT_FAKE_MONOTONIC", "1");
        command
    }
}

#[expect(clippy::disallowed_methods, reason = "processes live in real time")]
fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Builds one circuit; what is said if that fails.
fn build(client: &Client) -> Result<(), String> {
    let control = client.control.to_str().unwrap();
    let output = chive(&["circuits", "build", "--count", "1", "--control", control]);
    if output.status.success() { Ok(()) } else { Err(text(&output.stderr).to_owned()) }
}

// circuit.setup.3
#[test]
#[ignore = "needs the package faketime"]
fn a_client_whose_clock_jumps_goes_on_and_names_the_clock() {
    let mut network = Network::start(5);
    let clock = Clock::of(network.folder.path(), "client.clock");
    let client = network.client_of(clock.rule(network.client_command("client", HOPS)));
    let target = Target::open();
    for jump in ["+3600", "-3600"] {
        let ((), outcome) = under_way(&mut network, &client, &target, 0, |_, _| clock.set(jump));
        assert_eq!(outcome, Outcome::Whole, "{jump}");
        build(&client).unwrap_err();
        let status = client.ask(&["status"]);
        // Nobody has an onion key of the epoch before, nor relays know that of the one to come: then there is nobody to say what is
        // wrong.
        let within = unix() % EPOCH_SECONDS;
        let both = if jump == "-3600" { within > 3_700 } else { within < EPOCH_SECONDS - 3_700 };
        if both {
            assert!(status["last_error"].as_str().unwrap().contains("this computer's clock"), "{status}");
        }
        clock.set("+0");
        eventually("a circuit by the right clock", || build(&client).ok());
        request(&client, &target);
    }
}

// circuit.setup.3
#[test]
#[ignore = "needs the package faketime"]
fn a_relay_whose_clock_jumps_goes_on_and_is_used_again_when_it_is_right() {
    let mut network = Network::start(3);
    let clocks: Vec<_> =
        (1..=3).map(|number| Clock::of(network.folder.path(), &format!("relay{number}.clock"))).collect();
    for (number, clock) in (1..).zip(&clocks) {
        network.relays[number - 1].end_by("TERM");
        network.relays[number - 1] = network.start_relay_by(clock.rule(network.relay_command(number)));
    }
    // With three relays every path needs each of them.
    let client = network.client("client", HOPS);
    let target = Target::open();
    for place in 0..HOPS {
        let (number, outcome) = under_way(&mut network, &client, &target, place, |_, number| {
            clocks[number - 1].set("-3600");
            number
        });
        assert_eq!(outcome, Outcome::Whole, "relay {number}");
        build(&client).unwrap_err();
        clocks[number - 1].set("+0");
        eventually("a circuit by the right clock", || build(&client).ok());
        request(&client, &target);
    }
}
