//! A load through a SOCKS5 proxy, and what it costs.
//!
//! `cargo bench --bench load` starts three relays and a client as processes of their own.
//! `cargo bench --bench load -- --socks 127.0.0.1:9050 --pids 11,12,13` measures a proxy that runs already, of any kind:
//! it must reach 127.0.0.1, and the processes are those whose processor time counts.
//! Options: `--megabytes 256`, `--rounds 2`.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a command that people run and read, and that measures time"
)]

use std::env;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use processes::{Client, Network};

#[path = "load/cost.rs"]
mod cost;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/processes.rs"]
mod processes;
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../tests/it/socks.rs"]
mod socks;
#[path = "load/source.rs"]
mod source;

/// The size of a small fetch, in bytes.
const SMALL: usize = 10_240;
/// Small fetches that are under way at the same time, and how often each place is used.
const CONCURRENT: usize = 200;
const EACH: usize = 10;
/// Circuits that are asked for at once.
const CIRCUITS: u32 = 500;

/// What is measured.
struct Subject {
    proxy: SocketAddr,
    destination: SocketAddr,
    /// Their `/proc/PID/stat`.
    processes: Vec<PathBuf>,
}

fn main() {
    let number = |name, default| word(name).map_or(default, |number| number.parse().unwrap());
    let rounds = number("rounds", 2);
    let count = number("megabytes", 256) * 1_000_000;
    let destination = source::open().unwrap();
    let running = word("socks").map(|socks| socks.parse().unwrap());
    let own = running.is_none().then(|| {
        let network = Network::start(3);
        let client = network.client("client", 3);
        (network, client)
    });
    let subject = match (&own, running) {
        (Some((network, client)), _) => {
            let processes =
                network.relays.iter().chain([&client.process]).map(|process| process.proc("stat")).collect();
            Subject { proxy: client.socks, destination, processes }
        }
        (None, proxy) => {
            let ids = word("pids").unwrap_or_default();
            let ids = ids.split(',').filter(|id| !id.is_empty());
            let processes = ids.map(|id| format!("/proc/{id}/stat").into()).collect();
            Subject { proxy: proxy.unwrap(), destination, processes }
        }
    };
    calibrate();
    subject.first_byte();
    for _ in 0..rounds {
        subject.bulk("download, 1 stream", 1, count, source::download);
        subject.bulk("upload, 1 stream", 1, count, source::upload);
        subject.bulk("download, 8 circuits", 8, count, source::download);
        subject.small();
        if let Some((_, client)) = &own {
            subject.circuits(client);
        }
    }
    calibrate();
}

fn calibrate() {
    println!("{:24} {:8.3} s for 256 MiB of BLAKE3 on one core", "calibration", cost::calibration());
}

/// The value of `--name VALUE`.
fn word(name: &str) -> Option<String> {
    let name = format!("--{name}");
    env::args().skip_while(|argument| *argument != name).nth(1)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
impl Subject {
    /// A stream of its own; streams with different users never share a circuit.
    fn connect(&self, user: Option<&str>) -> TcpStream {
        let user = user.map(|name| (name, "x"));
        socks::connect(self.proxy, user, &socks::ip(self.destination)).unwrap()
    }

    /// From the connection to the proxy to the first byte, on a circuit that stands.
    fn first_byte(&self) {
        let mut times = Vec::new();
        for _ in 0..50 {
            let since = Instant::now();
            source::download(&mut self.connect(None), 1).unwrap();
            times.push(since.elapsed());
            thread::sleep(Duration::from_millis(20));
        }
        times.sort_unstable();
        let ms = |at: usize| times[at].as_secs_f64() * 1e3;
        println!("{:24} {:8.2} ms p50, {:.2} ms p95", "first byte, new stream", ms(24), ms(47));
    }

    /// Streams that share `count` bytes; circuits and connections stand before the clock starts.
    fn bulk(
        &self,
        name: &str,
        streams: usize,
        count: usize,
        carry: fn(&mut TcpStream, usize) -> std::io::Result<()>,
    ) {
        let each = count / streams;
        let mut open: Vec<_> = (0..streams)
            .map(|number| {
                let user = format!("{}-{number}", process::id());
                let mut stream = self.connect((streams > 1).then_some(user.as_str()));
                source::download(&mut stream, SMALL).unwrap();
                stream
            })
            .collect();
        let ((), cost) = cost::of(&self.processes, || {
            thread::scope(|scope| {
                for stream in &mut open {
                    scope.spawn(move || carry(stream, each).unwrap());
                }
            });
        });
        let bytes = (each * streams) as f64;
        let (rate, per_gigabyte) =
            (bytes / 1e6 / cost.time.as_secs_f64(), cost.processor_seconds / (bytes / 1e9));
        println!("{name:24} {rate:8.1} MB/s, {per_gigabyte:.2} CPU-s per GB");
    }

    /// Many short streams, always [`CONCURRENT`] of them under way.
    fn small(&self) {
        let failed = Arc::new(AtomicUsize::new(0));
        let ((), cost) = cost::of(&self.processes, || {
            thread::scope(|scope| {
                for _ in 0..CONCURRENT {
                    let failed = Arc::clone(&failed);
                    scope.spawn(move || {
                        for _ in 0..EACH {
                            let fetched = socks::connect(self.proxy, None, &socks::ip(self.destination))
                                .is_ok_and(|mut stream| source::download(&mut stream, SMALL).is_ok());
                            failed.fetch_add(usize::from(!fetched), Ordering::Relaxed);
                        }
                    });
                }
            });
        });
        let all = (CONCURRENT * EACH) as f64;
        let (rate, each) = (all / cost.time.as_secs_f64(), cost.processor_seconds * 1e3 / all);
        let failed = failed.load(Ordering::Relaxed);
        println!("{:24} {rate:8.1} per s, {each:.3} CPU-ms each, {failed} failed", "200 fetches of 10 KB");
    }

    /// Circuits of three relays, all asked for at once.
    fn circuits(&self, client: &Client) {
        let count = CIRCUITS.to_string();
        let ask = ["circuits", "build", "--count", &count, "--concurrency", &count];
        let (answer, cost) = cost::of(&self.processes, || client.ask(&ask));
        let each = cost.processor_seconds * 1e3 / f64::from(CIRCUITS);
        println!(
            "{:24} {:8.1} per s, {each:.3} CPU-ms each, {} built",
            "500 circuits at once",
            answer["per_second"].as_f64().unwrap_or_default(),
            answer["built"]
        );
    }
}
