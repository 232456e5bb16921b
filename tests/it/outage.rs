//! What is done to a relay in the middle of a download, and what becomes of the download and of the next request.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::processes::{Client, Network, PATIENCE};
use super::socks::{connect, ip};
use super::target::{Pattern, Target};

/// Bytes of the download.
const WHOLE: usize = 100_000_000;
/// After so many bytes it happens.
const EARLY: usize = 10_000_000;
/// Bytes of the next request.
const NEXT: usize = 1_000;
/// Where in the path it happens.
pub(crate) const PLACES: [&str; 3] = ["entry", "middle", "exit"];

/// What happens to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is gone until the transfer and the next request are over.
    Killed,
    /// It stands still until they are over.
    Frozen,
    /// It is killed and started again at once.
    Restarted,
}

/// How the download ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All of it came.
    Whole,
    /// By an error, after bytes that were right.
    Broken,
}

/// What came of one fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    /// From the fault until the next request had its answer.
    pub(crate) next: Duration,
}

/// Downloads, compares as the bytes come, and tells when some have.
///
/// # Panics
///
/// When bytes are wrong, when the end looks like that of a whole answer and is not, and when nothing comes for long.
pub(crate) fn download(proxy: SocketAddr, target: &Target, count: usize, early: &Sender<()>) -> Outcome {
    let mut stream = connect(proxy, None, &ip(target.address)).unwrap();
    stream.write_all(format!("give {count}\n").as_bytes()).unwrap();
    let (mut pattern, mut buffer, mut expected) = (Pattern::new(), vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut came = 0;
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Outcome::Broken,
            Err(error) => panic!("after {came} of {count} bytes: {error}"),
        };
        pattern.fill(&mut expected[..length]);
        assert!(buffer[..length] == expected[..length], "wrong bytes after {came} right ones");
        if came < EARLY && came + length >= EARLY {
            let _ = early.send(());
        }
        came += length;
    }
    assert_eq!(came, count, "the download ended as if it were whole");
    Outcome::Whole
}

/// Makes a request that must come out right.
pub(crate) fn request(client: &Client, target: &Target) {
    assert_eq!(download(client.socks, target, NEXT, &mpsc::channel().0), Outcome::Whole);
}

/// Begins a download, and when some of it has come does `what` to the network and the number of the relay at this place
/// of its path; what that says, and how the download ended.
pub(crate) fn under_way<T>(
    network: &mut Network,
    client: &Client,
    target: &Target,
    place: usize,
    what: impl FnOnce(&mut Network, usize) -> T,
) -> (T, Outcome) {
    thread::scope(|scope| {
        let (early, told) = mpsc::channel();
        let proxy = client.socks;
        let running = scope.spawn(move || download(proxy, target, WHOLE, &early));
        told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no bytes; log: {}", client.process.log()));
        let number = network.number_in_path(client, place);
        let said = what(network, number);
        (said, running.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Does it to the relay at this place of the path of a download that is under way.
#[expect(clippy::disallowed_methods, reason = "what the benchmark prints is measured here")]
pub(crate) fn strike(
    network: &mut Network,
    client: &Client,
    target: &Target,
    place: usize,
    fault: Fault,
) -> Report {
    let ((number, next), outcome) = under_way(network, client, target, place, |network, number| {
        let relay = &mut network.relays[number - 1];
        let start = Instant::now();
        match fault {
            Fault::Killed => relay.kill(),
            Fault::Frozen => relay.signal("STOP"),
            Fault::Restarted => {
                relay.kill();
                network.relays[number - 1] = network.start_relay(number);
            }
        }
        request(client, target);
        (number, start.elapsed())
    });
    match fault {
        Fault::Killed => network.relays[number - 1] = network.start_relay(number),
        Fault::Frozen => network.relays[number - 1].signal("CONT"),
        Fault::Restarted => {}
    }
    Report { outcome, next }
}
