//! An honest transfer beside a flood of malformed datagrams, in real processes: `cargo bench --bench flood`, with
//! `-- --datagrams N --rate N` for another flood than 1,000,000 at 50,000 per second.
//!
//! A third is random, a third truncated and a third bit-flipped packets of a real client. Ends with 1 if the transfer keeps
//! less than 0.8 of its speed, or if a relay has links or circuits more than before. The flood is made on the same
//! machine: on few cores, its cost is a part of what the transfer loses.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a command that people run and read")]
#![expect(clippy::disallowed_methods, clippy::cast_precision_loss, reason = "it measures")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use circuit::keys::Random;
use rand_core::{Rng as _, SeedableRng as _};
use serde_json::Value;

use option::option;
use processes::{Client, Network};
use socks::{connect, ip};
use target::Target;

#[path = "command/option.rs"]
mod option;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/processes.rs"]
mod processes;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/socks.rs"]
mod socks;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/target.rs"]
mod target;

const GOAL: f64 = 0.8;
const PACKET: usize = 1_412;
/// The transfer alone is measured for so long, before and after.
const ALONE: Duration = Duration::from_secs(10);
/// Real packets that are kept to be harmed.
const KEPT: usize = 10_000;
/// With three relays of which two are exits, the first is always the entry.
const RELAYS: u8 = 3;

fn main() -> ExitCode {
    let (datagrams, rate) = (option("datagrams", 1_000_000), option("rate", 50_000));
    let mut network = Network::start(RELAYS);
    let target = Target::open();
    let real = record(&mut network, &target);
    println!("{} real packets recorded between client and entry", real.len());
    let client = network.client("client", RELAYS.into());
    let (count, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let proxy = client.socks;
        let (count, over, target) = (&count, &over, &target);
        scope.spawn(move || transfer(proxy, target, count, over));
        thread::sleep(Duration::from_secs(2));
        let before = Snapshot::of(&network, &client);
        let first = speed(count, || thread::sleep(ALONE));
        let mut reached = 0.0;
        let beside = speed(count, || reached = flood(&network, &real, datagrams, rate));
        thread::sleep(Duration::from_secs(1));
        let after = Snapshot::of(&network, &client);
        let last = speed(count, || thread::sleep(ALONE));
        over.store(true, Ordering::Relaxed);
        let alone = f64::midpoint(first, last);
        println!(
            "{datagrams} malformed datagrams, {reached:.0} per second (asked for {rate}), to all relays in turn"
        );
        println!(
            "transfer alone {first:.1} MB/s before and {last:.1} MB/s after, beside the flood {beside:.1} MB/s"
        );
        println!("ratio {:.2}, goal {GOAL}", beside / alone);
        let unchanged = after.compare(&before);
        let kept = unchanged && beside >= GOAL * alone;
        println!("{}", if kept { "kept" } else { "not kept" });
        if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// Lets a client reach its entry through a forwarder that keeps what passes; afterwards the entry has its address again.
fn record(network: &mut Network, target: &Target) -> Vec<Vec<u8>> {
    let (public, config) = (network.addresses[0], network.file("relay1/relay.toml"));
    let hidden = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    network.relays[0].end_by("TERM");
    std::fs::write(&config, text.replace(&public.to_string(), &hidden.to_string())).unwrap();
    network.relays[0] = network.start_relay(1);
    let (over, kept) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let forwarding = {
        let (over, kept) = (Arc::clone(&over), Arc::clone(&kept));
        let inside = UdpSocket::bind(public).unwrap();
        inside.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        thread::spawn(move || forward(&inside, hidden, &over, &kept))
    };
    let recorded = network.client("recorded", RELAYS.into());
    let mut stream = connect(recorded.socks, None, &ip(target.address)).unwrap();
    stream.write_all(b"give 5000000\n").unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 5_000_000);
    drop(recorded);
    over.store(true, Ordering::Relaxed);
    forwarding.join().unwrap();
    network.relays[0].end_by("TERM");
    std::fs::write(&config, text).unwrap();
    network.relays[0] = network.start_relay(1);
    Arc::try_unwrap(kept).unwrap().into_inner().unwrap()
}

/// Passes datagrams between the one client and the entry behind `hidden`, and keeps the first of them.
fn forward(socket: &UdpSocket, hidden: SocketAddr, over: &AtomicBool, kept: &Mutex<Vec<Vec<u8>>>) {
    let (mut client, mut bytes) = (None, [0; 2 * PACKET]);
    while !over.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
        let datagram = &bytes[..length];
        let mut kept = kept.lock().unwrap();
        if kept.len() < KEPT {
            kept.push(datagram.to_vec());
        }
        if from != hidden {
            client = Some(from);
        }
        let to = if from == hidden { client } else { Some(hidden) };
        to.map(|to| socket.send_to(datagram, to));
    }
}

/// Downloads without end.
fn transfer(proxy: SocketAddr, target: &Target, count: &AtomicU64, over: &AtomicBool) {
    let mut stream = connect(proxy, None, &ip(target.address)).unwrap();
    stream.write_all(format!("give {}\n", usize::MAX).as_bytes()).unwrap();
    let mut buffer = vec![0; 1 << 18];
    while !over.load(Ordering::Relaxed) {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the transfer ended");
        count.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// What the transfer moves while something lasts, in MB/s.
fn speed(count: &AtomicU64, while_it_lasts: impl FnOnce()) -> f64 {
    let (start, before) = (Instant::now(), count.load(Ordering::Relaxed));
    while_it_lasts();
    (count.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64() / 1e6
}

/// Sends so many malformed datagrams to the relays in turn; the rate that was reached.
fn flood(network: &Network, real: &[Vec<u8>], datagrams: u64, rate: u64) -> f64 {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut rng = Random::seed_from_u64(1);
    let start = Instant::now();
    let mut bytes = [0; PACKET];
    for n in 0..datagrams {
        let draw = usize::try_from(rng.next_u32()).unwrap();
        let datagram = match n / 3 % 3 {
            0 => {
                rng.fill_bytes(&mut bytes);
                &bytes[..]
            }
            kind => {
                let model = &real[draw % real.len()];
                let copy = &mut bytes[..model.len()];
                copy.copy_from_slice(model);
                let at = usize::try_from(rng.next_u32()).unwrap() % copy.len();
                if kind == 1 {
                    &copy[..at]
                } else {
                    copy[at] ^= 1 << (draw % 8);
                    &*copy
                }
            }
        };
        let to = network.addresses[usize::try_from(n).unwrap() % network.addresses.len()];
        // A full socket buffer loses datagrams, as the network would.
        let _ = socket.send_to(datagram, to);
        let due = Duration::from_secs_f64(n as f64 / rate as f64);
        if n % 64 == 0 && due > start.elapsed() {
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    datagrams as f64 / start.elapsed().as_secs_f64()
}

/// What relays say, and what all processes hold.
struct Snapshot {
    relays: Vec<Value>,
    memory: Vec<u64>,
}

impl Snapshot {
    fn of(network: &Network, client: &Client) -> Self {
        let processes = network.relays.iter().chain([&client.process]);
        Self {
            relays: (1..=network.relays.len()).map(|number| network.relay_status(number)).collect(),
            memory: processes.map(|process| process.memory("VmRSS")).collect(),
        }
    }

    /// Prints what has changed since `before`; whether links and circuits are the same.
    fn compare(&self, before: &Self) -> bool {
        let mut same = true;
        for (number, (now, then)) in (1..).zip(self.relays.iter().zip(&before.relays)) {
            let drops = |status: &Value| -> BTreeMap<String, u64> {
                serde_json::from_value(status["drops"].clone()).unwrap()
            };
            let old = drops(then);
            let more: Vec<_> = drops(now)
                .into_iter()
                .map(|(reason, count)| (count - old.get(&reason).copied().unwrap_or(0), reason))
                .filter(|(count, _)| *count > 0)
                .map(|(count, reason)| format!("{reason} {count}"))
                .collect();
            println!("relay {number} dropped: {}", more.join(", "));
            for what in ["links", "circuits"] {
                if now[what] != then[what] {
                    println!("relay {number} has other {what} than before: {} and {}", now[what], then[what]);
                    same = false;
                }
            }
        }
        println!("memory in KiB, relays and client: {:?} before, {:?} after", before.memory, self.memory);
        same
    }
}
