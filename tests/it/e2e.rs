//! The whole way, in real processes: application, SOCKS5, client, relays, destination.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

use super::processes::{Network, Process, are_free, chive, document, eventually, text};
use super::socks::{To, connect, ip, raw};
use super::target::{Target, hash, pattern};

const TEN_MB: usize = 10_000_000;

/// Downloads so many bytes from the target through the proxy.
fn download(proxy: SocketAddr, target: &Target, count: usize) -> Vec<u8> {
    let mut stream = connect(proxy, None, &ip(target.address)).unwrap();
    stream.write_all(format!("give {count}\n").as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Uploads bytes, ends the direction, and returns the hash that the target answers afterwards.
fn upload(proxy: SocketAddr, target: &Target, bytes: &[u8]) -> String {
    let mut stream = connect(proxy, None, &ip(target.address)).unwrap();
    stream.write_all(b"take\n").unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn bytes_arrive_whole_both_ways() {
    let network = Network::start(5);
    let client = network.client("client", 3);
    let target = Target::open();
    assert_eq!(hash(&download(client.socks, &target, TEN_MB)), hash(&pattern(TEN_MB)));
    assert_eq!(upload(client.socks, &target, &pattern(TEN_MB)), hash(&pattern(TEN_MB)));
    assert_eq!(target.visitors(), BTreeSet::from([target.address.ip()]));
    let status = client.ask(&["status"]);
    assert_eq!((&status["role"], &status["state"]), (&"client".into(), &"ready".into()));
    for direction in ["bytes_up", "bytes_down"] {
        assert!(status[direction].as_u64().unwrap() >= TEN_MB as u64, "{status}");
    }
    // Logs say nothing of destinations and addresses.
    let site = target.address.to_string();
    for process in network.relays.iter().chain([&client.process]) {
        let log = process.log();
        assert!(!log.contains(&site) && !log.contains("127.0.0."), "{log}");
    }
}

#[test]
fn curl_downloads_through_the_network() {
    let asked = Command::new("curl").arg("--version").stdout(Stdio::null()).status();
    if asked.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        eprintln!("curl is not installed: nothing is tested here");
        return;
    }
    let network = Network::start(4);
    let client = network.client("client", 3);
    let target = Target::open();
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--max-time", "60", "--socks5-hostname"])
        .args([client.socks.to_string(), format!("http://{}/1000000", target.address)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(hash(&output.stdout), hash(&pattern(1_000_000)));
}

#[test]
fn a_hundred_fetches_at_once_come_out_right() {
    let network = Network::start(5);
    let client = network.client("client", 3);
    let target = Target::open();
    thread::scope(|scope| {
        let fetches: Vec<_> = (0..100)
            .map(|n| {
                scope.spawn({
                    let target = &target;
                    move || download(client.socks, target, 10_000 + n) == pattern(10_000 + n)
                })
            })
            .collect();
        let right = fetches.into_iter().filter_map(|fetch| fetch.join().ok()).filter(|right| *right).count();
        assert_eq!(right, 100, "the client's log: {}", client.process.log());
    });
}

#[test]
fn a_reader_that_is_slow_holds_up_nobody_else() {
    let network = Network::start(3);
    let client = network.client("client", 3);
    let target = Target::open();
    // More than all buffers on the way hold.
    let mut slow = connect(client.socks, None, &ip(target.address)).unwrap();
    slow.write_all(format!("give {}\n", 10 * TEN_MB).as_bytes()).unwrap();
    let mut bytes = vec![0; TEN_MB];
    for _ in 0..5 {
        slow.read_exact(&mut bytes).unwrap();
        assert_eq!(download(client.socks, &target, 1_000), pattern(1_000));
    }
    assert_eq!(client.busy_circuits().len(), 1);
}

// circuit.stream.3
#[test]
fn one_direction_may_end_before_the_other() {
    let network = Network::start(4);
    let client = network.client("client", 3);
    let target = Target::open();
    // The application ends first: `upload` reads the answer after its own end.
    assert_eq!(upload(client.socks, &target, b"few"), hash(b"few"));
    // The destination ends first.
    let mut stream = connect(client.socks, None, &ip(target.address)).unwrap();
    stream.write_all(b"half\n").unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "bye");
    let late = pattern(100_000);
    stream.write_all(&late).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    eventually("the bytes after the end", || (target.after_half_close() == late).then_some(()));
}

// circuit.exit.1, circuit.exit.2
#[test]
fn refusals_come_back_as_socks_replies() {
    let network = Network::start(4);
    let client = network.client("client", 3);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let answer = |to: &To<'_>| connect(client.socks, None, to).err();
    assert_eq!(answer(&ip(closed)), Some(5));
    assert_eq!(answer(&To::Name("nobody.invalid", 80)), Some(4));
    for refused in ["10.0.0.1:80", "169.254.169.254:80", "127.0.0.2:80"] {
        assert_eq!(answer(&ip(refused.parse().unwrap())), Some(2), "{refused}");
    }
    // The circuit is as good as before.
    let target = Target::open();
    assert_eq!(download(client.socks, &target, 1_000), pattern(1_000));
}

// circuit.setup.8
#[test]
fn paths_have_one_to_five_different_relays() {
    let network = Network::start(5);
    let target = Target::open();
    for hops in 1..=5 {
        let client = network.client(&format!("client{hops}"), hops);
        assert_eq!(hash(&download(client.socks, &target, 100_000)), hash(&pattern(100_000)), "{hops} hops");
        let mut stream = connect(client.socks, None, &ip(target.address)).unwrap();
        stream.write_all(b"hold\n").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        let circuits = client.busy_circuits();
        let [circuit] = circuits.as_slice() else { panic!("one circuit carries the stream: {circuits:?}") };
        let path: BTreeSet<_> =
            circuit["path"].as_array().unwrap().iter().map(|hop| hop["address"].as_str().unwrap()).collect();
        assert_eq!(path.len(), hops, "{circuit}");
        let last = circuit["path"][hops - 1]["address"].as_str().unwrap();
        assert!(network.addresses[3..].iter().any(|exit| exit.to_string() == last), "{circuit}");
    }
}

// circuit.isolation.1
#[test]
fn credentials_keep_streams_on_circuits_of_their_own() {
    let network = Network::start(5);
    let client = network.client("client", 3);
    let target = Target::open();
    let hold = |user| {
        let mut stream = connect(client.socks, user, &ip(target.address)).unwrap();
        stream.write_all(b"hold\n").unwrap();
        stream.read_exact(&mut [0; 4]).unwrap();
        stream
    };
    let _streams = [
        hold(None),
        hold(Some(("alice", "one"))),
        hold(Some(("alice", "one"))),
        hold(Some(("alice", "two"))),
        hold(Some(("bob", "one"))),
    ];
    let circuits = client.busy_circuits();
    let mut streams: Vec<_> = circuits.iter().map(|circuit| circuit["streams"].as_u64().unwrap()).collect();
    streams.sort_unstable();
    assert_eq!(streams, [1, 1, 1, 2], "{circuits:?}");
}

#[test]
fn garbage_on_the_socks_port_hurts_nobody() {
    let network = Network::start(3);
    let client = network.client("client", 3);
    let target = Target::open();
    let say = |bytes: &[u8]| {
        let mut stream = raw(client.socks);
        // What is refused may be reset before all of it was written or read.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    };
    assert!(say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").starts_with(b"HTTP/1.1 501"));
    assert_eq!(say(&[4, 1, 0, 80, 127, 0, 0, 1, 0]), [0, 91, 0, 0, 0, 0, 0, 0]);
    assert_eq!(say(&[5, 1, 9]), [5, 0xff]);
    assert_eq!(say(&[5, 1, 0, 5, 2, 0, 1, 127, 0, 0, 1, 0, 80])[..4], [5, 0, 5, 7]);
    for garbage in [&[5][..], &[5, 255], &[0xff; 5_000], &pattern(5_000)[..], b""] {
        say(garbage);
    }
    let (head, all) = ([5, 1, 0], [5, 1, 0, 3, 255]);
    say(&[&head[..], &all, &[b'x'; 255]].concat());
    let open: Vec<_> = (0..50).map(|_| raw(client.socks)).collect();
    assert_eq!(download(client.socks, &target, 1_000), pattern(1_000));
    drop(open);
}

#[test]
fn test_circuits_are_built_and_closed_again() {
    let network = Network::start(4);
    let client = network.client("client", 3);
    let report = client.ask(&["circuits", "build", "--count", "30", "--concurrency", "5"]);
    assert_eq!((&report["asked"], &report["built"]), (&30.into(), &30.into()), "{report}");
    assert!(report["ms"]["p50"].as_f64().unwrap() <= report["ms"]["max"].as_f64().unwrap());
    eventually("no test circuit is left", || {
        let circuits = client.ask(&["circuits"]);
        let left = circuits["circuits"].as_array().unwrap().iter().filter(|c| c["purpose"] == "test").count();
        (left == 0).then_some(())
    });
}

#[test]
fn a_relay_that_restarts_is_used_again() {
    let mut network = Network::start(3);
    let client = network.client("client", 3);
    let target = Target::open();
    assert_eq!(download(client.socks, &target, 1_000), pattern(1_000));
    for number in 1..=3 {
        let mut relay = network.relays.remove(0);
        relay.end_by("TERM");
        network.relays.push(network.start_relay(number));
        // With three relays every path needs this one.
        eventually("a stream through the restarted relay", || {
            let mut stream = connect(client.socks, None, &ip(target.address)).ok()?;
            stream.write_all(b"give 1000\n").ok()?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).ok()?;
            (bytes == pattern(1_000)).then_some(())
        });
    }
}

#[test]
fn what_is_stopped_leaves_nothing_behind() {
    let mut network = Network::start(3);
    let mut client = network.client("client", 3);
    let target = Target::open();
    let mut stream = connect(client.socks, None, &ip(target.address)).unwrap();
    stream.write_all(b"hold\n").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    assert_eq!(client.ask(&["stop"])["stopping"], true);
    let status = client.process.end();
    assert!(status.success(), "{}", client.process.log());
    assert!(!client.control.exists());
    // The application's connection is over, by an end or by a reset.
    assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
    for (relay, signal) in network.relays.iter_mut().zip(["TERM", "INT", "TERM"]) {
        relay.end_by(signal);
    }
    for (number, address) in (1..).zip(&network.addresses) {
        assert!(!network.file(&format!("relay{number}/run/control.sock")).exists());
        eventually("the ports are free", || are_free(*address, client.socks).then_some(()));
    }
}

#[test]
fn the_demonstration_checks_itself() {
    for arguments in [&["--hops", "1"][..], &["--hops", "3"], &["--free"]] {
        let output = chive(&[&["demo", "--check"], arguments].concat());
        let said = text(&output.stdout);
        assert!(output.status.success(), "{said}{}", text(&output.stderr));
        let passed = said.lines().find(|line| line.starts_with("check passed")).unwrap();
        assert!(passed.starts_with("check passed: 8.0 MiB down and 8.0 MiB up, byte for byte"), "{passed}");
    }
    let output = chive(&["demo", "--check", "--output", "json"]);
    let last: Value = serde_json::from_str(text(&output.stdout).lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["passed"], &last["hops"]), (&"check".into(), &true.into(), &3.into()));
    assert_eq!(last["path"].as_array().unwrap().len(), 3);
    let [packets, payments] = ["packets", "payment_packets"].map(|key| last[key].as_u64().unwrap());
    assert!(0 < payments && payments < packets, "{payments} of {packets}");
    let hops = last["earnings"]["hops"].as_array().unwrap();
    assert_eq!(hops.len(), 3);
    for hop in hops {
        // The bytes that were checked need so many cells at least.
        assert!(hop["cells"].as_u64().unwrap() > (16 << 20) / 1_280, "{hop}");
        let wei = |key: &str| hop[key].as_str().unwrap().parse::<u128>().unwrap();
        assert!(wei("value") > 0 && wei("credited") >= wei("value"), "{hop}");
        assert_eq!(wei("won"), wei("redeemed"), "{hop}");
    }
}

#[test]
fn the_demonstration_ends_by_a_signal() {
    for signal in ["INT", "TERM"] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = Process::start(folder.path(), &["demo", "--output", "json"]);
        let ready = loop {
            let document: Value = serde_json::from_str(&demo.line()).unwrap();
            if document["event"] == "ready" {
                break document;
            }
        };
        let [socks, site] = ["socks", "site"].map(|key| ready[key].as_str().unwrap().parse().unwrap());
        let mut stream = connect(socks, None, &ip(site)).unwrap();
        stream.write_all(b"GET /address HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\n127.0.0.1\n"), "{answer}");
        let control = ready["control"].as_str().unwrap();
        assert_eq!(document(&["status", "--control", control])["state"], "ready");
        demo.end_by(signal);
        assert!(!Path::new(control).ancestors().nth(2).unwrap().exists());
        eventually("the port is free", || TcpListener::bind(socks).ok());
    }
}
