//! Relays that learn at once whether others reach them, by asking to be called.

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use super::paid::{Anvil, ask, program};
use super::processes::{Process, doctor, eventually, sample};

/// A registered relay of the network, told to be at `told`, and listening at `listen`; its file.
fn relay(anvil: &Anvil, network: &Path, told: SocketAddr, listen: SocketAddr, out: &Path) -> PathBuf {
    let (told, listen) = (told.to_string(), listen.to_string());
    let base = ["relay", "setup", "--yes", "--light", "--network", network.to_str().unwrap()];
    let more = ["--address", &told, "--listen", &listen, "--out", out.to_str().unwrap()];
    let made = ask(&[&base[..], &more].concat());
    anvil.fund(made["owner"].as_str().unwrap());
    let config = out.join("relay.toml");
    let at = ["--config", config.to_str().unwrap(), "--yes"];
    ask(&[&["wallet", "reserve", "2ether"][..], &at].concat());
    ask(&[&["wallet", "register", made["id"].as_str().unwrap()][..], &at].concat());
    config
}

// directory.call.1, directory.call.3
#[test]
fn a_fresh_relay_is_told_whether_others_reach_it() {
    let Some(program) = program() else { return };
    let anvil = Anvil::start(&program);
    let folder = tempfile::tempdir().unwrap();
    // Each in a /16 of its own: those of one count once.
    let free = |n| UdpSocket::bind(SocketAddr::from(([127, n, 0, 1], 0))).unwrap().local_addr().unwrap();
    let [first, second, told, listen] = [1, 2, 3, 4].map(free);
    let (url, net) = (anvil.url(), folder.path().join("net"));
    let bootstrap = first.to_string();
    let chain =
        ["--chain-id", "31337", "--contract", &anvil.contract, "--rpc", &url, "--bootstrap", &bootstrap];
    let more = ["--minimum-bond", "1ether", "--local", "--out", net.to_str().unwrap()];
    ask(&[&["network", "open"], &chain[..], &more].concat());
    let network = net.join("network.toml");
    // Nobody comes through to the third: what it tells leads nowhere.
    let configs: Vec<_> = [(first, first), (second, second), (told, listen)]
        .into_iter()
        .enumerate()
        .map(|(n, (told, listen))| {
            relay(&anvil, &network, told, listen, &folder.path().join(format!("relay{n}")))
        })
        .collect();
    let start = |config: &PathBuf| {
        let arguments = ["relay", "run", "--config", config.to_str().unwrap(), "--output", "json"];
        let relay = Process::start(folder.path(), &arguments);
        relay.ready("relay");
        relay
    };
    let _relays: Vec<_> = configs.iter().map(start).collect();
    for config in &configs {
        eventually("all are known, and peers", || {
            let directory = ask(&["status", "--config", config.to_str().unwrap()])["directory"].clone();
            (directory["usable"] == 3 && directory["peers"].as_u64() >= Some(2)).then_some(())
        });
    }
    // It goes first: who was called has a link, and is not asked.
    let found = doctor(&configs[2])["reached"].clone();
    assert_eq!(found["state"], "fail", "{found}");
    assert!(found["found"].as_str().unwrap().contains("none came in"), "{found}");
    assert!(found["remedy"].as_str().unwrap().contains("let UDP in"), "{found}");
    for config in &configs[..2] {
        let found = doctor(config)["reached"].clone();
        assert_eq!(found["state"], "ok", "{found}");
        assert!(found["found"].as_str().unwrap().contains("others have begun"), "{found}");
    }
}

// link.seen.1, link.seen.2
#[test]
fn the_kind_of_nat_is_told_by_what_relays_of_several_places_see() {
    let folder = tempfile::tempdir().unwrap();
    // Each in a /16 of its own.
    let free = |n| UdpSocket::bind(SocketAddr::from(([127, n, 0, 1], 0))).unwrap().local_addr().unwrap();
    let addresses: Vec<_> = (1..=4).map(free).collect();
    let net = folder.path().join("net");
    sample(&net, &addresses, 1);
    let start = |number: usize| {
        let config = net.join(format!("relay{number}/relay.toml"));
        let arguments = ["relay", "run", "--config", config.to_str().unwrap(), "--output", "json"];
        let relay = Process::start(folder.path(), &arguments);
        relay.ready("relay");
        relay
    };
    let mut relays: Vec<_> = (1..=4).map(start).collect();
    let found = doctor(&net.join("client.toml"))["nat"].clone();
    assert_eq!(found["state"], "ok", "{found}");
    assert!(found["found"].as_str().unwrap().contains("IPv4: none; a client works"), "{found}");
    // This machine sends from another address of its own than the one that the relay tells.
    let found = doctor(&net.join("relay1/relay.toml"))["nat"].clone();
    assert_eq!(found["state"], "warn", "{found}");
    assert!(found["found"].as_str().unwrap().contains("they see this machine at 127.0.0.1"), "{found}");
    assert!(found["remedy"].as_str().unwrap().contains("set `addresses` in [announce]"), "{found}");
    // Two places are too few.
    drop(relays.pop());
    let found = doctor(&net.join("relay1/relay.toml"))["nat"].clone();
    assert!(found["found"].as_str().unwrap().contains("reached from this site only"), "{found}");
}
