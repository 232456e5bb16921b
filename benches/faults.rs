//! How long the next request takes after a relay of the path has failed in the middle of a download:
//! `cargo bench --bench faults -- --rounds 20`. Ends with 1 if 19 of 20 take more than 5 s anywhere.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a command that people run and read")]

use std::process::ExitCode;
use std::time::Duration;

use option::option;
use outage::{Fault, Outcome, PLACES, request, strike};
use processes::Network;
use target::Target;

#[path = "command/option.rs"]
mod option;
#[path = "../tests/it/outage.rs"]
mod outage;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/processes.rs"]
mod processes;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/socks.rs"]
mod socks;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/target.rs"]
mod target;

/// What 19 of 20 are to keep.
const GOAL: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let rounds = usize::try_from(option("rounds", 20)).unwrap();
    let mut kept = true;
    println!("{:8} {:9} {:>7} {:>7} {:>7}   download", "relay", "fault", "p50 s", "p95 s", "max s");
    for fault in [Fault::Killed, Fault::Frozen, Fault::Restarted] {
        for (place, name) in PLACES.iter().enumerate() {
            // A network of its own, so that no round is spoiled by what another fault left.
            let mut network = Network::start(6);
            let client = network.client("client", PLACES.len());
            let target = Target::open();
            let (mut times, mut whole) = (Vec::new(), 0);
            for _ in 0..rounds {
                request(&client, &target);
                let report = strike(&mut network, &client, &target, place, fault);
                times.push(report.next);
                whole += usize::from(report.outcome == Outcome::Whole);
            }
            times.sort_unstable();
            let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1].as_secs_f64();
            let fault = format!("{fault:?}").to_lowercase();
            let (p50, p95, most) = (at(50), at(95), at(100));
            println!("{name:8} {fault:9} {p50:7.2} {p95:7.2} {most:7.2}   {whole} of {rounds} whole");
            kept &= p95 <= GOAL.as_secs_f64();
        }
    }
    println!("{}: p95 at most {} s", if kept { "kept" } else { "not kept" }, GOAL.as_secs());
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
