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

/// A command of a client that must be refused; what it says.
fn refused(network: &Network, more: &[&str]) -> String {
    let output = network.client_command("client", 3).args(more).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    text(&output.stdout).to_owned()
}

// path.distinct.4
#[test]
fn a_table_of_autonomous_systems_keeps_relays_of_one_apart() {
    let network = Network::start(4);
    let said = refused(&network, &["--exclude", "AS64500"]);
    assert!(said.contains("`geoip` in [paths]"), "{said}");
    // The relays are at 127.0.0.1 to 127.0.0.4; the first two are in one system.
    let start = 127 << 24;
    let line = |n: u32, system: u32| format!("{0},{0},DE,{system}\n", start + n);
    let table =
        [(1, 64_501), (2, 64_501), (3, 64_503), (4, 64_504)].map(|(n, system)| line(n, system)).concat();
    fs::write(network.file("v6"), "").unwrap();
    fs::write(network.file("v4"), format!("{table}{table}")).unwrap();
    let config = network.file("client.toml");
    let written = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{written}\n[paths]\ngeoip = [\"v4\", \"v6\"]\n")).unwrap();
    let said = refused(&network, &[]);
    assert!(said.contains("v4 cannot be used: line 5: "), "{said}");
    fs::write(network.file("v4"), table).unwrap();
    let client = network.client("client", 3);
    let relays = client.ask(&["relays"])["relays"].as_array().unwrap().clone();
    let systems: BTreeSet<_> =
        relays.iter().map(|relay| relay["autonomous_systems"][0].as_u64().unwrap()).collect();
    assert_eq!((relays.len(), systems), (4, BTreeSet::from([64_501, 64_503, 64_504])));
    let circuits = client.ask(&["circuits"])["circuits"].as_array().unwrap().clone();
    assert!(!circuits.is_empty());
    for circuit in circuits {
        let is_first_two = |hop: &&Value| {
            ["127.0.0.1:", "127.0.0.2:"].iter().any(|at| hop["address"].as_str().unwrap().starts_with(at))
        };
        let count = circuit["path"].as_array().unwrap().iter().filter(is_first_two).count();
        assert_eq!(count, 1, "{circuit}");
    }
    let said = network.client_command("other", 4).output().unwrap();
    assert_eq!(said.status.code(), Some(5));
    assert!(text(&said.stdout).contains("3 autonomous systems"), "{}", text(&said.stdout));
    let said = network.client_command("other", 3).args(["--exclude", "AS64503"]).output().unwrap();
    assert_eq!(said.status.code(), Some(5));
    assert!(
        text(&said.stdout).contains("1 by the autonomous systems of `exclude`"),
        "{}",
        text(&said.stdout)
    );
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
