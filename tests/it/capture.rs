//! What is on the wires: everything that client and relays send, recorded while applications use the network.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::lab::{Host, Lab};
use super::processes::{Client, Process, command, document, eventually, text};
use super::socks::{To, connect};
use super::target::{Target, hash, pattern};

const RELAYS: usize = 3;
const EXIT: usize = 3;
const CLIENT: usize = 4;
const SERVER: usize = 5;
const LINKS: u16 = 7000;
const SITE_PORT: u16 = 8080;
const NAME: &str = "hidden-site.example";
/// The size of every packet on a link.
const PACKET: usize = 1_412;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const IGMP: u8 = 2;

/// An IPv4 packet of a capture.
struct Packet<'a> {
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    ports: (u16, u16),
    /// What UDP carries.
    payload: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Packet<'a> {
    /// `None` for ARP, and for IGMP, which the kernel sends by itself when a device comes up.
    fn of(frame: &'a [u8]) -> Option<Self> {
        let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        match number(12) {
            0x0806 => return None,
            kind => assert_eq!(kind, 0x0800, "a frame that is neither IPv4 nor ARP"),
        }
        if frame[23] == IGMP {
            return None;
        }
        let whole = &frame[14..14 + usize::from(number(16))];
        let address = |at: usize| Ipv4Addr::from(<[u8; 4]>::try_from(&whole[at..at + 4]).unwrap());
        let protocol = whole[9];
        assert_eq!((whole[0], number(20) & 0x3fff), (0x45, 0), "options or a fragment: {whole:x?}");
        let payload = if protocol == UDP { &whole[28..] } else { &[] };
        let ports = (number(34), number(36));
        Some(Self { from: address(12), to: address(16), protocol, ports, payload, whole })
    }
}

/// Writes the files of a network on the lab's hosts.
fn sample(lab: &Lab, out: &Path) {
    let addresses: Vec<_> = (1..=RELAYS).map(|n| format!("{}:{LINKS}", lab.host(n).address)).collect();
    let allow = format!("{}:{SITE_PORT}", lab.host(SERVER).address);
    let (relays, addresses) = (RELAYS.to_string(), addresses.join(","));
    let arguments = ["network", "sample", "--days", "2", "--relays", &relays, "--addresses", &addresses];
    document(&[&arguments[..], &["--exit-allow", &allow, "--out", out.to_str().unwrap()]].concat());
}

/// A name server that knows one address for every name.
fn serve_names(at: Ipv4Addr, address: Ipv4Addr) {
    let socket = UdpSocket::bind((at, 53)).unwrap();
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query) {
            let Some(end) = query[12..length].iter().position(|byte| *byte == 0).map(|at| 12 + at + 5) else {
                continue;
            };
            let known = query[end - 3] == 1;
            let counts = [0x81, 0x80, 0, 1, 0, u8::from(known), 0, 0, 0, 0];
            let mut answer = [&query[..2], &counts, &query[12..end]].concat();
            if known {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(address.octets());
            }
            let _ = socket.send_to(&answer, from);
        }
    });
}

/// Starts a command that becomes the binary, on a host.
fn start(host: &Host, folder: &Path, arguments: &[&str]) -> Process {
    Process::run(folder, host.command(&command(arguments)))
}

fn ask(proxy: SocketAddr, to: &To<'_>, line: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(proxy, None, to).map_err(|code| std::io::Error::other(code.to_string()))?;
    stream.write_all(line.as_bytes())?;
    stream.write_all(body)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Uses the network as applications do: by address and by name, down and up, much and little, and not at all.
fn use_it(lab: &Lab, client: &Client) {
    let site = lab.host(SERVER).address;
    let curl = |host: &str, count: usize| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "60", "--socks5-hostname"]);
        curl.args([client.socks.to_string(), format!("http://{host}:{SITE_PORT}/{count}")]);
        let output = lab.host(CLIENT).command(&curl).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(hash(&output.stdout), hash(&pattern(count)));
    };
    curl(&site.to_string(), 300_000);
    curl(NAME, 300_000);
    let socks = client.socks;
    lab.host(CLIENT).within(move || {
        let up = pattern(300_000);
        assert_eq!(ask(socks, &To::Ip(site, SITE_PORT), "take\n", &up).unwrap(), hash(&up).into_bytes());
        for count in 0..50 {
            let to = if count % 2 == 0 { To::Name(NAME, SITE_PORT) } else { To::Ip(site, SITE_PORT) };
            assert_eq!(ask(socks, &to, &format!("give {count}\n"), b"").unwrap(), pattern(count));
        }
    });
    // Links and circuits that are not used have their own packets.
    thread::park_timeout(Duration::from_secs(3));
}

/// Kills the exit while a stream is open, and waits until the client knows.
fn break_it(lab: &Lab, client: &Client, exit: &mut Process) {
    let (socks, site) = (client.socks, lab.host(SERVER).address);
    let mut stream = lab.host(CLIENT).within(move || connect(socks, None, &To::Ip(site, SITE_PORT)).unwrap());
    stream.write_all(b"hold\n").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    exit.kill();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    eventually("the client has no circuit", || (client.ask(&["status"])["state"] != "ready").then_some(()));
    // A request now goes nowhere, by name or by address.
    thread::park_timeout(Duration::from_secs(2));
}

/// What must be nowhere before the exit; `pieces` of the payload.
fn secrets(site: Ipv4Addr) -> Vec<(String, Vec<u8>)> {
    let payload = pattern(300_000);
    let mut secrets = vec![
        ("the name".to_owned(), NAME.as_bytes().to_vec()),
        ("the name in DNS".to_owned(), b"\x0bhidden-site\x07example".to_vec()),
        ("the address as text".to_owned(), site.to_string().into_bytes()),
        ("the request".to_owned(), b"GET /".to_vec()),
    ];
    let pieces = [0, 100_000, 200_000].map(|at| (format!("payload at {at}"), payload[at..at + 16].to_vec()));
    secrets.extend(pieces);
    secrets
}

fn finds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

// link.size.1, circuit.exit.1
#[test]
#[ignore = "needs root: makes network namespaces and captures"]
fn nothing_but_packets_of_one_size_and_no_secret_is_on_the_wire_before_the_exit() {
    let site = Ipv4Addr::new(10, 77, 0, 5);
    let lab = Lab::new(5, site);
    let folder = tempfile::tempdir().unwrap();
    let net = folder.path().join("net");
    sample(&lab, &net);
    let _target = lab.host(SERVER).within(|| {
        serve_names(site, site);
        Target::open_at((site, SITE_PORT).into())
    });
    let captures: Vec<_> = (1..=SERVER).map(|host| lab.host(host).capture(folder.path())).collect();
    let mut relays: Vec<_> = (1..=RELAYS)
        .map(|number| {
            let config = net.join(format!("relay{number}/relay.toml"));
            start(lab.host(number), folder.path(), &["relay", "run", "--config", config.to_str().unwrap()])
        })
        .collect();
    for relay in &relays {
        assert!(relay.line().starts_with("ready"));
    }
    let config = net.join("client.toml");
    let arguments =
        ["up", "--config", config.to_str().unwrap(), "--socks", "127.0.0.1:0", "--output", "json"];
    let process = start(lab.host(CLIENT), folder.path(), &arguments);
    let ready = process.ready("client");
    let socks = ready["listen"].as_str().unwrap().parse().unwrap();
    let client = Client { process, socks, control: net.join("run/control.sock") };
    let circuits = client.ask(&["circuits"]);
    let entry: SocketAddr = circuits["circuits"][0]["path"][0]["address"].as_str().unwrap().parse().unwrap();

    use_it(&lab, &client);
    break_it(&lab, &client, &mut relays[EXIT - 1]);
    drop((client, relays));

    let captured: Vec<_> = captures.into_iter().map(super::lab::Capture::frames).collect();
    let address = |number: usize| lab.host(number).address;
    for (number, frames) in (1..).zip(&captured) {
        check_wire(&captured_packets(frames, address(number)), number, &address, *entry_ip(&entry));
    }
}

fn entry_ip(entry: &SocketAddr) -> &Ipv4Addr {
    match entry {
        SocketAddr::V4(entry) => entry.ip(),
        SocketAddr::V6(_) => panic!("the lab has IPv4"),
    }
}

/// The packets that a host itself sent or received; a bridge may show it others.
fn captured_packets(frames: &[Vec<u8>], own: Ipv4Addr) -> Vec<Packet<'_>> {
    let packets = frames.iter().filter_map(|frame| Packet::of(frame));
    packets.filter(|packet| packet.from == own || packet.to == own).collect()
}

/// Looks at all that one host sent and received.
fn check_wire(packets: &[Packet<'_>], number: usize, address: &impl Fn(usize) -> Ipv4Addr, entry: Ipv4Addr) {
    let (own, site) = (address(number), address(SERVER));
    let peers: BTreeSet<_> = match number {
        CLIENT => [entry].into(),
        SERVER => [address(EXIT)].into(),
        _ => (1..=CLIENT).map(address).collect(),
    };
    let (mut links, mut at_site, mut found) = (0, 0, BTreeSet::new());
    let mut address_seen = 0;
    for packet in packets {
        let peer = if packet.from == own { packet.to } else { packet.from };
        if peer == site || own == site {
            // The wire behind the exit: names and connections.
            assert!([own, peer].contains(&address(EXIT)), "host {number} speaks to the site");
            at_site += 1;
            found.extend(
                secrets(site).into_iter().filter(|(_, what)| finds(packet.whole, what)).map(|(name, _)| name),
            );
            continue;
        }
        assert!(peers.contains(&peer), "host {number} and {peer}");
        for (name, what) in secrets(site) {
            assert!(!finds(packet.whole, &what), "{name} is on the wire of host {number}");
        }
        // Random bytes are these four once in 4 GB.
        address_seen += usize::from(finds(packet.whole, &site.octets()));
        // The kernel's answer for a process that was killed.
        if packet.protocol == ICMP {
            assert_eq!(packet.whole[20..22], [3, 3], "host {number}: ICMP other than a closed port");
            continue;
        }
        assert_eq!((packet.protocol, packet.payload.len()), (UDP, PACKET), "host {number} and {peer}");
        assert!(packet.ports.0 == LINKS || packet.ports.1 == LINKS, "host {number} and {peer}");
        links += 1;
    }
    assert!(address_seen < 3, "the site's address is on the wire of host {number} {address_seen} times");
    match number {
        SERVER => assert!(links == 0 && at_site > 100),
        EXIT => assert!(links > 1_000 && at_site > 100),
        _ => assert!(links > 1_000 && at_site == 0, "host {number}: {links} packets"),
    }
    // What is looked for is found where it may be.
    if number == EXIT {
        assert_eq!(found.len(), secrets(site).len(), "{found:?}");
    }
}
