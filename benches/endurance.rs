//! Long and heavy use, in real processes: `cargo bench --bench endurance -- --gigabytes 3 --streams 10000 --circuits 2000
//! --minutes 30`.
//!
//! Memory and descriptors of every process are printed along the way. Ends with 1 if anything comes out wrong, or if they
//! grow during the minutes of mixed use.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a command that people run and read")]
#![expect(clippy::disallowed_methods, clippy::cast_precision_loss, reason = "it measures")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use option::option;
use outage::{Outcome, download};
use processes::{Client, Network, Process};
use socks::{connect, ip};
use target::{Target, hash, pattern};

#[path = "command/option.rs"]
mod option;
#[expect(dead_code, reason = "the tests use all of it")]
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

const HOPS: u8 = 3;
/// Cells under one set of keys.
const PHASE: u64 = 1 << 20;
/// Links renew their keys so often.
const REKEY: u64 = 120;
/// Streams at a time.
const AT_ONCE: usize = 16;
/// How often it is looked at the processes.
const SAMPLE: Duration = Duration::from_secs(10);
/// Growth that is none: a share of the memory, KiB, and descriptors.
const MORE: (f64, u64, usize) = (0.1, 8 << 10, 64);

/// Memory in KiB and descriptors of each process.
type Sample = Vec<(u64, usize)>;

fn main() -> ExitCode {
    let [gigabytes, streams, circuits, minutes] =
        [("gigabytes", 3), ("streams", 10_000), ("circuits", 2_000), ("minutes", 30)]
            .map(|(n, d)| option(n, d));
    let start = Instant::now();
    let network = Network::start(HOPS);
    let client = network.client("client", HOPS.into());
    let target = Target::open();
    show("at the start", &network, &client);

    one_circuit(&client, &target, gigabytes);
    show(&format!("after {gigabytes} GB over one circuit"), &network, &client);
    println!("{:.0} short streams per second", short_streams(client.socks, &target, streams));
    show(&format!("after {streams} short streams"), &network, &client);
    let held: Vec<_> = (0..circuits).map(|user| hold(client.socks, &target, user)).collect();
    let ready = client.ask(&["status"])["circuits"]["ready"].as_u64().unwrap();
    show(
        &format!("with {} streams on circuits of their own, {ready} circuits in all", held.len()),
        &network,
        &client,
    );
    assert!(ready >= circuits, "circuits are missing");
    drop(held);
    thread::sleep(SAMPLE);
    show("after their end", &network, &client);

    let samples = mixed(&network, &client, &target, Duration::from_secs(minutes * 60));
    show(&format!("after {minutes} minutes of mixed use"), &network, &client);
    let seconds = start.elapsed().as_secs();
    println!("{seconds} s in all: every link has renewed its keys about {} times", seconds / REKEY);
    let flat = is_flat(&samples);
    println!("{}", if flat { "flat" } else { "not flat" });
    if flat { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn processes<'a>(network: &'a Network, client: &'a Client) -> impl Iterator<Item = &'a Process> {
    network.relays.iter().chain([&client.process])
}

fn sample(network: &Network, client: &Client) -> Sample {
    processes(network, client).map(|process| (process.memory("VmRSS"), process.descriptors())).collect()
}

/// Prints what the processes hold.
fn show(when: &str, network: &Network, client: &Client) {
    let text: Vec<_> = processes(network, client)
        .map(|process| {
            let [now, most] = ["VmRSS", "VmHWM"].map(|what| process.memory(what) >> 10);
            format!("{now} MiB (most {most}), {} descriptors", process.descriptors())
        })
        .collect();
    println!(
        "{when}:\n    relays {}\n    client {}",
        text[..text.len() - 1].join("; "),
        text[text.len() - 1]
    );
}

/// Downloads and compares so many gigabytes over one circuit.
fn one_circuit(client: &Client, target: &Target, gigabytes: u64) {
    let start = Instant::now();
    let count = usize::try_from(gigabytes * 1_000_000_000).unwrap();
    assert_eq!(download(client.socks, target, count, &mpsc::channel().0), Outcome::Whole);
    let circuits = client.ask(&["circuits"]);
    let cells = circuits["circuits"].as_array().unwrap().iter();
    let cells = cells.map(|circuit| circuit["cells_received"].as_u64().unwrap()).max().unwrap_or(0);
    let speed = count as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!(
        "{speed:.0} MB/s; one circuit took {cells} cells and went through {} changes of keys",
        cells / PHASE
    );
}

fn give(proxy: SocketAddr, target: &Target, count: usize) {
    assert_eq!(download(proxy, target, count, &mpsc::channel().0), Outcome::Whole);
}

fn take(proxy: SocketAddr, target: &Target, bytes: &[u8]) {
    let mut stream = connect(proxy, None, &ip(target.address)).unwrap();
    stream.write_all(b"take\n").unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, hash(bytes));
}

/// So many short streams one after the other, [`AT_ONCE`] of them under way; how many per second.
fn short_streams(proxy: SocketAddr, target: &Target, streams: u64) -> f64 {
    let left = AtomicU64::new(streams);
    let start = Instant::now();
    let one = |left: u64| left.checked_sub(1);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one).is_ok() {
                    give(proxy, target, 1_000);
                }
            });
        }
    });
    streams as f64 / start.elapsed().as_secs_f64()
}

/// Opens a stream on a circuit of its own.
fn hold(proxy: SocketAddr, target: &Target, user: u64) -> TcpStream {
    let mut stream = connect(proxy, Some((&user.to_string(), "")), &ip(target.address)).unwrap();
    stream.write_all(b"hold\n").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    stream
}

/// Downloads, uploads, short streams and circuits for so long; what the processes held meanwhile.
fn mixed(network: &Network, client: &Client, target: &Target, time: Duration) -> Vec<Sample> {
    let (over, proxy, large) = (AtomicBool::new(false), client.socks, pattern(3_000_000));
    let mut samples = vec![];
    let start = Instant::now();
    let works: [&(dyn Fn() + Sync); 3] =
        [&|| give(proxy, target, 10_000_000), &|| take(proxy, target, &large), &|| {
            short_streams(proxy, target, 100);
        }];
    thread::scope(|scope| {
        let works = works.map(|work| {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    work();
                }
            })
        });
        // Work that ends by itself has failed.
        while start.elapsed() < time && !works.iter().any(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(SAMPLE.min(time));
            let report = client.ask(&["circuits", "build", "--count", "20"]);
            assert!(report["built"].as_u64().unwrap() > 0, "{report}");
            samples.push(sample(network, client));
            println!("{:5} s: {:?}", start.elapsed().as_secs(), samples[samples.len() - 1]);
        }
        over.store(true, Ordering::Relaxed);
    });
    samples
}

/// Whether the last quarter of the samples shows no more than the first half.
fn is_flat(samples: &[Sample]) -> bool {
    let (first, last) = (&samples[..samples.len().div_ceil(2)], &samples[samples.len() * 3 / 4..]);
    let most = |samples: &[Sample], process: usize| {
        let memory = samples.iter().map(|sample| sample[process].0).max().unwrap_or(0);
        let descriptors = samples.iter().map(|sample| sample[process].1).max().unwrap_or(0);
        (memory, descriptors)
    };
    let (share, memory, descriptors) = MORE;
    samples.is_empty()
        || (0..samples[0].len()).all(|process| {
            let (before, after) = (most(first, process), most(last, process));
            after.0 as f64 <= before.0 as f64 * (1.0 + share) + memory as f64
                && after.1 <= before.1 + descriptors
        })
}
