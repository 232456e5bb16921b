//! Wishes for paths, guards across restarts, and the commands that show and measure.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};

use serde_json::Value;

use super::processes::{Client, Network, chive, text};
use super::socks::{connect, ip};
use super::target::Target;

/// The relays of a client's circuits at a place: entry 0.
fn at(client: &Client, place: usize) -> BTreeSet<String> {
    let circuits = client.ask(&["circuits"])["circuits"].as_array().unwrap().clone();
    let id = |circuit: &Value| circuit["path"][place]["id"].as_str().unwrap().to_owned();
    circuits.iter().map(id).collect()
}

// path.guard.5
#[test]
fn a_client_enters_by_the_same_relay_after_a_restart_and_refuses_a_damaged_file() {
    let network = Network::start(7);
    let mut client = network.client("client", 3);
    let before = at(&client, 0);
    assert_eq!(before.len(), 1, "one entry");
    client.process.end_by("TERM");
    for _ in 0..3 {
        let mut client = network.client("client", 3);
        assert_eq!(at(&client, 0), before);
        client.process.end_by("TERM");
    }
    let file = network.file("state-client/guards");
    let mut bytes = fs::read(&file).unwrap();
    bytes[30] ^= 1;
    fs::write(&file, bytes).unwrap();
    let said = network.client_command("client", 3).output().unwrap();
    assert_eq!(said.status.code(), Some(1));
    let said = text(&said.stdout);
    assert!(said.contains("restore the file, or remove it"), "{said}");
}

// path.wish.1 path.wish.2
#[test]
fn wishes_are_kept_or_the_client_says_which_one_cannot_be() {
    let network = Network::start(5);
    let known = network.client("other", 3);
    let relays = known.ask(&["relays"])["relays"].as_array().unwrap().clone();
    assert_eq!(relays.len(), 5);
    let exits: Vec<_> = relays.iter().filter(|relay| relay["exit"].is_string()).collect();
    let [exit, other] = exits.as_slice() else { panic!("two exits: {exits:?}") };
    let mut command = network.client_command("client", 3);
    command.args(["--exclude", other["id"].as_str().unwrap()]);
    let mut client = network.client_of(command);
    let short: String = exit["id"].as_str().unwrap().chars().take(8).collect();
    assert_eq!(at(&client, 2), BTreeSet::from([short]));
    client.process.end_by("TERM");
    let mut command = network.client_command("client", 3);
    command.args(["--exit", "zz"]);
    let said = command.output().unwrap();
    assert_eq!(said.status.code(), Some(5));
    let said = text(&said.stdout);
    assert!(said.contains("2 by the countries of `exit`"), "{said}");
    let narrowed = known.ask(&["relays", "--country", "zz"]);
    assert_eq!(narrowed["relays"].as_array().unwrap().len(), 0);
    assert_eq!(known.ask(&["relays", "--exits"])["relays"].as_array().unwrap().len(), 2);
}

// path.circuit.4
#[test]
fn circuits_can_be_measured_and_replaced() {
    let network = Network::start(5);
    let client = network.client("client", 3);
    let target = Target::open();
    let mut held = connect(client.socks, None, &ip(target.address)).unwrap();
    held.write_all(b"hold\n").unwrap();
    held.read_exact(&mut [0; 4]).unwrap();
    let echoes = client.ask(&["ping", "--circuits"])["echoes"].as_array().unwrap().clone();
    assert!(!echoes.is_empty() && echoes.iter().all(|echo| echo["ms"].is_number()), "{echoes:?}");
    assert_eq!(client.ask(&["ping"])["echoes"].as_array().unwrap().len(), 1);
    let relays = client.ask(&["relays"])["relays"].as_array().unwrap().clone();
    for relay in &relays {
        let report = client.ask(&["ping", relay["id"].as_str().unwrap()]);
        assert_eq!(report["built"], 3, "{report}");
    }
    let old = client.busy_circuits();
    assert_eq!(client.ask(&["new-identity"])["renewed"], true);
    let mut next = connect(client.socks, None, &ip(target.address)).unwrap();
    next.write_all(b"hold\n").unwrap();
    next.read_exact(&mut [0; 4]).unwrap();
    let busy = client.busy_circuits();
    assert_eq!(busy.len(), 2, "{busy:?}");
    assert!(busy.iter().any(|circuit| circuit["id"] == old[0]["id"]), "the old stream is where it was");
    let relay = network.file("relay1/run/control.sock");
    let said = chive(&["relays", "--control", relay.to_str().unwrap()]);
    assert!(text(&said.stderr).contains("ask a client"), "{said:?}");
}
