//! Logs at INFO say nothing of who, where and what, whatever happens.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};

use super::outage::request;
use super::processes::{Client, Network, Process};
use super::socks::{To, connect, ip, raw};
use super::target::Target;

const NAME: &str = "hidden-site.invalid";
/// No honest word of a log is as long.
const LONGEST_WORD: usize = 24;

/// Uses the network, and breaks all that can break.
fn use_and_break(network: &mut Network, client: &Client, target: &Target) {
    request(client, target);
    let refused = |to: &To<'_>| connect(client.socks, None, to).unwrap_err();
    refused(&To::Name(NAME, 4_443));
    for place in ["10.1.2.3:4443", "169.254.169.254:80", "127.0.0.1:1"] {
        refused(&ip(place.parse().unwrap()));
    }
    let mut garbage = raw(client.socks);
    // It may be sent away before it has said all.
    let _ = garbage.write_all(b"GET http://hidden-site.invalid/ HTTP/1.1\r\n\r\n");
    let _ = garbage.read_to_end(&mut Vec::new());
    let mut held = connect(client.socks, Some(("alice", "secret")), &ip(target.address)).unwrap();
    held.write_all(b"hold\n").unwrap();
    held.read_exact(&mut [0; 4]).unwrap();
    network.relays.iter_mut().for_each(Process::kill);
    held.read_exact(&mut [0; 1]).unwrap_err();
    client.process.logs("no circuit stands any more");
}

/// Words of a line as they may stand in quotes, brackets, or pairs.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| c.is_whitespace() || "\"'`()=,;/".contains(c))
        .map(|word| word.trim_matches(&['[', ']', '.'][..]))
}

#[test]
fn logs_name_no_address_target_or_key() {
    let mut network = Network::start(4);
    let client = network.client("client", 3);
    let target = Target::open();
    let mut logs = String::new();
    use_and_break(&mut network, &client, &target);
    logs.extend(network.relays.iter().map(Process::log));
    // One relay comes back without its log of setups, and a client that starts now finds no entry.
    let seen = network.file("relay1/state/seen.log");
    OpenOptions::new().write(true).open(seen).unwrap().set_len(3).unwrap();
    network.relays[0] = network.start_relay(1);
    let lonely = Process::run(network.folder.path(), network.client_command("lonely", 3));
    lonely.logs("no circuit stands yet");
    network.relays[0].end_by("TERM");
    for process in [&network.relays[0], &client.process, &lonely] {
        logs.push_str(&process.log());
    }

    for said in ["missing or torn", "no circuit stands yet", "no circuit stands any more"] {
        assert!(logs.contains(said), "{logs}");
    }
    let mut secrets = vec![NAME.to_owned(), "alice".to_owned(), "secret".to_owned()];
    let ports = network.addresses.iter().chain([&client.socks, &target.address]).map(SocketAddr::port);
    secrets.extend(ports.chain([4_443]).map(|port| port.to_string()));
    for number in 1..=4 {
        let text = |name: &str| fs::read_to_string(network.file(&format!("relay{number}/{name}"))).unwrap();
        secrets
            .extend(["identity.key", "link.key"].map(|name| text(name).lines().last().unwrap().to_owned()));
    }
    for line in logs.lines() {
        // The time stands first.
        let said = line.split_once(' ').unwrap().1;
        for word in words(said) {
            assert!(!secrets.iter().any(|secret| word == secret), "`{word}` in: {line}");
            assert!(word.parse::<IpAddr>().is_err() && word.parse::<SocketAddr>().is_err(), "{line}");
            assert!(word.len() <= LONGEST_WORD, "a key? {line}");
            let hex = word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(!hex || word.bytes().all(|byte| byte.is_ascii_digit()), "a key? {line}");
        }
    }
}
