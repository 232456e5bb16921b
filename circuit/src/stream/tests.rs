//! Tests of the streams of a circuit, in virtual time.
#![expect(clippy::cast_precision_loss, reason = "rates and shares for people")]

use std::time::{Duration, Instant};

use super::*;
use net::{Net, Rng, Spec, origin};

mod frames;
mod net;

/// Two ends that nothing connects.
fn ends(rng: &mut Rng, config: &StreamConfig) -> (Instant, Streams, Streams) {
    let now = origin();
    let client = Streams::new(now, End::Client, config, rng.seed()).unwrap();
    let exit = Streams::new(now, End::Exit, config, rng.seed()).unwrap();
    (now, client, exit)
}

/// Passes all packets both ways until both ends are silent, without letting time pass.
fn exchange(now: Instant, a: &mut Streams, b: &mut Streams) -> Result<(), Misbehaved> {
    let mut out = [0; MAX_QUIC_PACKET];
    loop {
        let mut silent = true;
        while let Some(n) = a.poll_transmit(now, &mut out) {
            silent = false;
            b.handle_packet(now, &out[..n])?;
        }
        while let Some(n) = b.poll_transmit(now, &mut out) {
            silent = false;
            a.handle_packet(now, &out[..n])?;
        }
        if silent {
            return Ok(());
        }
    }
}

/// Exchanges for a second of small steps, so that delayed acknowledgements leave too.
fn settle(now: &mut Instant, a: &mut Streams, b: &mut Streams) {
    for _ in 0..40 {
        exchange(*now, a, b).unwrap();
        *now += Duration::from_millis(25);
        a.handle_timeout(*now);
        b.handle_timeout(*now);
    }
}

fn events(streams: &mut Streams) -> Vec<StreamEvent> {
    std::iter::from_fn(|| streams.poll_event()).collect()
}

/// A short-header packet as an end makes it, with frames of our choice.
fn raw(number: u8, frames: &[u8]) -> Vec<u8> {
    // Key phase 1, a packet number of one byte; the tag of generation 1.
    [&[0x44, number], frames, &[1, 0, 0, 0]].concat()
}

#[test]
fn first_bytes_need_one_way_and_no_handshake() {
    let mut net = Net::pair(1, Spec::clean(75), Spec::clean(75));
    net.run(net.at(5000), |_| false);
    assert_eq!(net.packets, 0, "a circuit that waits is silent");
    let begin = net.now;
    net.transfer(0, 300, 1000);
    assert!(net.run(net.at(9000), |net| net.hosts[0].ended && net.hosts[1].ended));
    let arrived = |host: usize| net.hosts[host].first.unwrap().duration_since(begin);
    assert_eq!(arrived(1), Duration::from_millis(75));
    assert_eq!(arrived(0), Duration::from_millis(150));
}

#[test]
fn megabytes_arrive_exactly_in_spite_of_everything() {
    for (seed, loss) in [(1, 0.0), (2, 0.01), (3, 0.05)] {
        let mut spec = Spec::clean(50);
        spec.loss = loss;
        spec.late = (0.02, Duration::from_secs(2));
        spec.duplicate = 0.02;
        let mut net = Net::pair(seed, spec, spec);
        net.transfer(0, 3_000_000, 3_000_000);
        let done =
            net.run(net.at(120_000), |net| net.hosts.iter().all(|host| host.ended && host.acknowledged));
        let took = net.now.duration_since(net.start);
        println!("seed {seed}, loss {loss}: 3 MB both ways in {took:?}, {:?}", net.stats(0));
        assert!(done, "seed {seed}, loss {loss}: not done");
        // The bytes themselves were compared as they were read.
        assert!(net.hosts.iter().all(|host| host.got == 3_000_000 && host.misbehaved.is_none()));
        assert!(net.longest <= MAX_QUIC_PACKET, "seed {seed}");
        assert_eq!(net.hosts[0].streams.open_streams(), 0, "seed {seed}");
    }
}

#[test]
fn halves_close_reset_and_stop_on_their_own() {
    let mut rng = Rng(4);
    let (mut now, mut client, mut exit) = ends(&mut rng, &StreamConfig::default());
    let id = client.open().unwrap();
    assert_eq!(client.write(id, b"request"), Ok(7));
    client.finish(id);
    settle(&mut now, &mut client, &mut exit);
    assert_eq!(events(&mut exit), [StreamEvent::Opened(id), StreamEvent::Readable(id)]);
    assert_eq!(events(&mut client), [StreamEvent::Finished(id)]);
    assert_eq!(exit.read(id, 3), Ok(Read::Data(Bytes::from_static(b"req"))));
    assert_eq!(exit.read(id, 99), Ok(Read::Data(Bytes::from_static(b"uest"))));
    assert_eq!(exit.read(id, 99), Ok(Read::Finished));
    assert_eq!(exit.read(id, 99), Err(StreamError::Unknown));
    // The other half is open still.
    assert_eq!(exit.write(id, b"answer"), Ok(6));
    settle(&mut now, &mut client, &mut exit);
    assert_eq!(events(&mut client), [StreamEvent::Readable(id)]);
    assert_eq!(client.read(id, 99), Ok(Read::Data(Bytes::from_static(b"answer"))));
    assert_eq!(client.read(id, 99), Ok(Read::Blocked));
    exit.reset(id, 7);
    settle(&mut now, &mut client, &mut exit);
    assert_eq!(events(&mut client), [StreamEvent::Readable(id)]);
    assert_eq!(client.read(id, 99), Err(StreamError::Reset(7)));
    assert_eq!((client.open_streams(), exit.open_streams()), (0, 0));

    let id = client.open().unwrap();
    assert_eq!(client.write(id, b"upload"), Ok(6));
    settle(&mut now, &mut client, &mut exit);
    events(&mut exit);
    exit.stop(id, 9);
    settle(&mut now, &mut client, &mut exit);
    assert_eq!(events(&mut client), [StreamEvent::Stopped(id, 9)]);
    assert_eq!(client.write(id, b"more"), Err(StreamError::Unknown));
    assert_eq!(exit.write(id, b"still works"), Ok(11));
    exit.finish(id);
    settle(&mut now, &mut client, &mut exit);
    assert_eq!(client.read(id, 99), Ok(Read::Data(Bytes::from_static(b"still works"))));
    assert_eq!(client.read(id, 99), Ok(Read::Finished));
    assert_eq!(events(&mut exit), [StreamEvent::Finished(id)]);
    assert_eq!((client.open_streams(), exit.open_streams()), (0, 0));
}

#[test]
fn the_exit_opens_nothing_and_allows_more_with_use() {
    let mut rng = Rng(5);
    let config = StreamConfig { max_streams: 100, ..StreamConfig::default() };
    let (mut now, mut client, mut exit) = ends(&mut rng, &config);
    assert_eq!(exit.open(), None);
    let mut opened = Vec::new();
    for _ in 0..20 {
        while let Some(id) = client.open() {
            assert_eq!(client.write(id, b"x"), Ok(1));
            opened.push(id);
        }
        settle(&mut now, &mut client, &mut exit);
        events(&mut exit);
        settle(&mut now, &mut client, &mut exit);
        let available = events(&mut client).contains(&StreamEvent::Available);
        assert_eq!(available, opened.len() < 100, "{} streams", opened.len());
        if !available {
            break;
        }
    }
    assert_eq!(opened.len(), 100);
    assert_eq!(exit.open_streams(), 100);
    for id in opened {
        client.reset(id, 3);
        client.stop(id, 4);
    }
    assert_eq!(client.open_streams(), 0);
    settle(&mut now, &mut client, &mut exit);
    for event in events(&mut exit) {
        if let StreamEvent::Readable(id) = event {
            assert_eq!(exit.read(id, 99), Err(StreamError::Reset(3)));
        } else {
            assert!(matches!(event, StreamEvent::Stopped(_, 4)), "{event:?}");
        }
    }
    assert_eq!(exit.open_streams(), 0);
    settle(&mut now, &mut client, &mut exit);
    assert!(client.open().is_some());
}

#[test]
fn closing_and_idling_say_why() {
    let mut rng = Rng(6);
    let (mut now, mut client, mut exit) = ends(&mut rng, &StreamConfig::default());
    client.close(now, 7);
    assert!(client.is_closed());
    settle(&mut now, &mut client, &mut exit);
    assert_eq!(events(&mut exit), [StreamEvent::Lost(Lost::Closed(7))]);
    assert_eq!(events(&mut client), []);
    assert!(exit.is_closed() && exit.open().is_none());

    let (mut now, mut client, mut exit) = ends(&mut rng, &StreamConfig::default());
    let id = client.open().unwrap();
    client.write(id, b"x").unwrap();
    settle(&mut now, &mut client, &mut exit);
    events(&mut exit);
    let end = now + StreamConfig::default().idle + Duration::from_secs(5);
    while let Some(at) = exit.poll_timeout().filter(|at| *at < end) {
        exit.handle_timeout(at);
        while exit.poll_transmit(at, &mut [0; MAX_QUIC_PACKET]).is_some() {}
    }
    assert_eq!(events(&mut exit), [StreamEvent::Lost(Lost::Idle)]);
}

#[test]
fn a_peer_that_breaks_the_rules_is_named() {
    // circuit.stream.2
    for (name, frames, reason) in [
        ("ping", &b"\x01"[..], None),
        ("unknown frame", b"\x3f", Some("stream: malformed frame")),
        ("crypto", b"\x06\x00\x01h", Some("stream: QUIC protocol violation")),
        ("stream 1000", b"\x0a\x4f\xa0\x01h", Some("stream: more streams than allowed")),
        ("offset 2^24", b"\x0e\x00\x81\x00\x00\x00\x01h", Some("stream: more data than allowed")),
        ("uni", b"\x0a\x02\x01h", Some("stream: more streams than allowed")),
        ("max of the peer's", b"\x11\x01\x05", Some("stream: frame for a stream in the wrong state")),
        ("ack of nothing", b"\x02\x05\x00\x00\x00", Some("stream: QUIC protocol violation")),
        ("datagram", b"\x30hello", Some("stream: QUIC protocol violation")),
    ] {
        let (now, _, mut exit) = ends(&mut Rng(8), &StreamConfig::default());
        let got = exit.handle_packet(now, &raw(0, frames));
        assert_eq!(got, reason.map_or(Ok(()), |reason| Err(Misbehaved(reason))), "{name}");
        assert_eq!(exit.is_closed(), reason.is_some(), "{name}");
        let lost = reason.map(|reason| StreamEvent::Lost(Lost::Broken(Misbehaved(reason))));
        assert_eq!(exit.poll_event(), lost, "{name}");
    }
    // circuit.stream.1: dropped without a word: long headers, nonsense, the wrong tag, too long.
    let (now, _, mut exit) = ends(&mut Rng(8), &StreamConfig::default());
    let mut wrong = raw(0, b"\x3f");
    *wrong.last_mut().unwrap() = 1;
    for packet in [&[0xc0; 1200][..], &[], &[0x44], &[0x04; 40], &wrong, &[0x44; 1279]] {
        assert_eq!(exit.handle_packet(now, packet), Ok(()));
        assert!(!exit.is_closed());
    }
}

/// One of many ways to make another packet of a packet.
fn mutate(rng: &mut Rng, packet: &mut Vec<u8>) {
    let byte = |rng: &mut Rng| rng.next().to_le_bytes()[0];
    let place = |rng: &mut Rng, length: usize| usize::try_from(rng.below(length as u64)).unwrap();
    match rng.below(16) {
        0 => {
            for _ in 0..=rng.below(4) {
                let at = place(rng, packet.len());
                packet[at] = byte(rng);
            }
        }
        1 => packet.truncate(place(rng, packet.len()).max(1)),
        2 => *packet = (0..=rng.below(60)).map(|_| byte(rng)).collect(),
        3 => packet.extend((0..rng.below(20)).map(|_| byte(rng) & 0x3f)),
        // Valid protection around frames of any type with small and large numbers.
        4 | 5 => {
            let mut frames = Vec::new();
            for _ in 0..=rng.below(3) {
                frames.push(byte(rng) % 0x32);
                for _ in 0..rng.below(6) {
                    frames.push(if rng.chance(0.25) { byte(rng) } else { byte(rng) % 8 });
                }
            }
            *packet = raw(packet.get(1).copied().unwrap_or(0), &frames);
        }
        _ => {}
    }
}

/// Names the seed of a test that panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("seed {}", self.0);
        }
    }
}

/// How many mutated packets the ordinary test run takes; a million were run once without a panic.
const MUTATED: u64 = 100_000;

#[test]
fn mutated_packets_are_errors_at_most() {
    let (mut done, mut closed) = (0, 0);
    let mut seed = 0;
    while done < MUTATED {
        seed += 1;
        let _named = Seed(seed);
        let mut rng = Rng(seed);
        let (mut now, mut client, mut exit) = ends(&mut rng, &StreamConfig::default());
        let id = client.open().unwrap();
        client.write(id, &[9; 5000]).unwrap();
        for _ in 0..60 {
            for turn in 0..2 {
                let (from, to) = if turn == 0 { (&mut client, &mut exit) } else { (&mut exit, &mut client) };
                from.handle_timeout(now);
                let mut out = [0; MAX_QUIC_PACKET];
                while let Some(n) = from.poll_transmit(now, &mut out) {
                    let mut packet = out[..n].to_vec();
                    mutate(&mut rng, &mut packet);
                    if !rng.chance(0.06) {
                        let _ = to.handle_packet(now, &packet);
                    }
                    if rng.chance(0.06) {
                        let _ = to.handle_packet(now, &packet);
                    }
                    done += 1;
                }
                for event in events(to) {
                    if let StreamEvent::Opened(id) | StreamEvent::Readable(id) = event {
                        let _ = to.write(id, &[3; 4000]);
                        while let Ok(Read::Data(_)) = to.read(id, 9999) {}
                    }
                }
            }
            now += Duration::from_millis(20 + rng.below(400));
            if client.is_closed() || exit.is_closed() {
                closed += 1;
                break;
            }
        }
    }
    println!("{done} mutated packets, {closed} of {seed} connections closed by them");
}

#[test]
fn a_slow_reader_holds_the_sender_back() {
    let mut net = Net::pair(9, Spec::clean(20), Spec::clean(20));
    net.transfer(0, 100, 30_000_000);
    net.hosts[0].appetite = 100_000;
    net.run(net.at(20_000), |_| false);
    let window = u64::from(STREAM_WINDOW);
    assert!(net.hosts[1].sent < window + 200_000 + (8 << 20), "{}", net.hosts[1].sent);
    assert!(net.pipes[1].bytes < window + 400_000, "{}", net.pipes[1].bytes);
    net.hosts[0].appetite = u64::MAX;
    // Reading is not a packet: the driver drains after it, as for every call.
    assert!(net.run(net.at(60_000), |net| net.hosts[0].ended));
    assert_eq!(net.hosts[0].got, 30_000_000);
}

// circuit.stream.4
#[test]
fn the_frozen_windows_are_those_of_the_specification() {
    let mib = |n: u32| n << 20;
    assert_eq!([End::Client, End::Exit].map(End::window), [mib(64), mib(16)]);
    assert_eq!((STREAM_WINDOW, FIRST_STREAMS, MAX_QUIC_PACKET), (mib(8), 32, 1278));
    assert_eq!(StreamConfig::default().idle, Duration::from_hours(24));
}

#[test]
fn streams_that_nobody_reads_stop_no_other() {
    // The client does not read seven downloads; the exit does not read an upload.
    for (reader, stalled, up, down) in [(0, 7, 100, 30_000_000), (1, 1, 30_000_000, 0)] {
        let mut net = Net::pair(10, Spec::clean(20), Spec::clean(20));
        let forget = |net: &mut Net, appetite| {
            for (n, host) in net.hosts.iter_mut().enumerate() {
                host.id = None;
                (host.sent, host.got, host.ended) = (0, 0, false);
                host.appetite = if n == reader { appetite } else { u64::MAX };
            }
        };
        for n in 0..stalled {
            forget(&mut net, 0);
            net.transfer(0, up, down);
            net.run(net.at(5_000 * (n + 1)), |_| false);
            assert!(net.hosts[1 - reader].sent > 8_000_000, "as much as a stream may");
        }
        forget(&mut net, u64::MAX);
        net.transfer(0, 200_000, 200_000);
        assert!(net.run(net.at(60_000), |net| net.hosts[0].ended && net.hosts[1].ended), "{reader}");
    }
}

#[test]
fn a_seed_makes_the_same_bytes() {
    let run = |seed| {
        let mut spec = Spec::clean(30);
        spec.loss = 0.03;
        let mut net = Net::pair(seed, spec, spec);
        net.transfer(0, 200_000, 400_000);
        assert!(net.run(net.at(60_000), |net| net.hosts[0].ended && net.hosts[1].ended));
        (net.digest, net.packets)
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11).0, run(12).0);
}

#[test]
fn an_idle_end_is_small() {
    for end in [End::Client, End::Exit] {
        let mut held = Vec::with_capacity(100);
        let fresh = allocation_counter::measure(|| {
            for i in 0..100 {
                held.push(Streams::new(origin(), end, &StreamConfig::default(), [i; 32]).unwrap());
            }
        });
        // The room for them in `held` was allocated before.
        let bytes = fresh.bytes_current / 100 + i64::try_from(size_of::<Streams>()).unwrap();
        println!("{end:?}: {bytes} bytes, of which {} in the struct", size_of::<Streams>());
        assert!(bytes <= 16 << 10, "{end:?}: {bytes}");
    }
    let mut held = Vec::with_capacity(20);
    let used = allocation_counter::measure(|| {
        for i in 0..20 {
            let (mut now, mut client, mut exit) = ends(&mut Rng(i), &StreamConfig::default());
            let id = client.open().unwrap();
            client.write(id, &[1; 300]).unwrap();
            client.finish(id);
            settle(&mut now, &mut client, &mut exit);
            events(&mut exit);
            while exit.read(id, 9999) != Ok(Read::Finished) {}
            for _ in 0..10 {
                exit.write(id, &[2; 10_000]).unwrap();
                settle(&mut now, &mut client, &mut exit);
                events(&mut client);
                while let Ok(Read::Data(_)) = client.read(id, 99_999) {}
            }
            exit.finish(id);
            settle(&mut now, &mut client, &mut exit);
            assert_eq!(client.read(id, 1), Ok(Read::Finished));
            events(&mut client);
            events(&mut exit);
            assert_eq!((client.open_streams(), exit.open_streams()), (0, 0));
            held.push((client, exit));
        }
    });
    let bytes = used.bytes_current / 40 + i64::try_from(size_of::<Streams>()).unwrap();
    println!("either end, idle after a download of 100 kB: {bytes} bytes");
    assert!(bytes <= 16 << 10, "{bytes}");
}

/// A download over a path, and its rate in MB/s after the first second.
fn rate(net: &mut Net, seconds: u64) -> f64 {
    net.transfer(0, 100, 1 << 40);
    net.run(net.at(1000), |_| false);
    let first = net.hosts[0].got;
    net.run(net.at(seconds * 1000), |_| false);
    (net.hosts[0].got - first) as f64 / 1e6 / (seconds - 1) as f64
}

#[test]
fn the_controller_fills_a_path_in_spite_of_losses() {
    println!("round trip, residual loss, limit and buffer: rate after the first second");
    for (rtt, loss, limit, buffer_ms, at_least) in [
        (2, 0.0, 2000, 100, 0.95),
        (2, 0.005, 2000, 100, 0.93),
        (2, 0.02, 2000, 100, 0.9),
        (2, 0.0, 20000, 100, 0.95),
        (2, 0.02, 20000, 100, 0.9),
        (2, 0.0, 20000, 5, 0.85),
        (150, 0.0, 2000, 100, 0.85),
        (150, 0.005, 2000, 100, 0.8),
        (150, 0.02, 2000, 100, 0.7),
        (150, 0.0, 10000, 100, 0.8),
        (150, 0.005, 10000, 100, 0.65),
        (150, 0.02, 10000, 100, 0.5),
        (150, 0.0, 10000, 20, 0.6),
        (150, 0.0, 10000, 1000, 0.85),
    ] {
        let mut up = Spec::clean(rtt / 2);
        up.loss = loss;
        let mut down = up;
        down.rate = Some((limit * 1000, limit * buffer_ms));
        let limit = limit as f64 / 1e3;
        let mut net = Net::pair(1, up, down);
        let rate = rate(&mut net, 8);
        let stats = net.stats(1);
        println!(
            "{rtt:3} ms {:3.1} % {limit:4.0} MB/s {buffer_ms:4} ms: {rate:5.2} MB/s, window {:4} kB, round trip {:3} ms, \
             lost {:4.1} %, of these overflow {}",
            loss * 100.0,
            stats.window / 1000,
            stats.rtt.as_millis(),
            stats.lost as f64 * 100.0 / stats.sent as f64,
            net.pipes[1].overflows,
        );
        assert!(rate >= limit * at_least, "{rtt} ms, loss {loss}, {limit} MB/s: {rate:.2} MB/s");
        let queue = stats.rtt.saturating_sub(Duration::from_millis(rtt));
        assert!(queue < Duration::from_millis(110), "{rtt} ms, loss {loss}: {queue:?} of queue");
    }
}

#[test]
fn a_fast_path_with_a_slow_scheduler_is_used() {
    for stalls in [false, true] {
        let mut spec = Spec::clean(0);
        spec.delay = Duration::from_micros(150);
        spec.rate = Some((400_000_000, 4_000_000));
        let mut net = Net::pair(13, spec, spec);
        for host in net.hosts.iter_mut().filter(|_| stalls) {
            host.stalls = Some(Rng(14));
        }
        net.transfer(0, 100, 200_000_000);
        assert!(net.run(net.at(10_000), |net| net.hosts[0].ended), "stalls {stalls}");
        let rate = 200.0 / net.now.duration_since(net.start).as_secs_f64();
        println!("0.3 ms, 400 MB/s, stalls of up to 5 ms {stalls}: {rate:.0} MB/s, {:?}", net.stats(1));
        assert!(rate > if stalls { 80.0 } else { 250.0 }, "stalls {stalls}: {rate}");
    }
}

#[test]
fn a_driver_with_coarse_timers_is_not_throttled() {
    let (start, mut client, mut exit) = ends(&mut Rng(17), &StreamConfig::default());
    let id = client.open().unwrap();
    let mut got = 0;
    let mut now = start;
    let mut out = [0; MAX_QUIC_PACKET];
    // Every 2 ms it runs once, whatever the pacer asks for; this is the round trip, too.
    while now < start + Duration::from_secs(1) {
        while client.write(id, &[7; 10_000]).unwrap() > 0 {}
        while let Some(n) = client.poll_transmit(now, &mut out) {
            exit.handle_packet(now, &out[..n]).unwrap();
        }
        events(&mut exit);
        while let Ok(Read::Data(bytes)) = exit.read(id, usize::MAX) {
            got += bytes.len();
        }
        now += Duration::from_millis(2);
        exit.handle_timeout(now);
        while let Some(n) = exit.poll_transmit(now, &mut out) {
            client.handle_packet(now, &out[..n]).unwrap();
        }
        client.handle_timeout(now);
        events(&mut client);
    }
    println!("a wake-up every 2 ms: {} MB/s, {:?}", got / 1_000_000, client.stats());
    assert!(got > 60_000_000, "{got}");
}

#[test]
fn circuits_share_a_bottleneck() {
    for (rtt, buffer_ms, least) in [(100, 100, 0.4), (2, 100, 0.15), (100, 10, 0.02)] {
        let spec = Spec::clean(rtt / 2);
        let mut down = spec;
        down.rate = Some((5_000_000, 5000 * buffer_ms));
        let mut net = Net::new(15, spec, down, 3);
        for flow in 0..3 {
            net.transfer(flow, 100, 1 << 40);
            net.run(net.at(2000 * (flow as u64 + 1)), |_| false);
        }
        net.run(net.at(14_000), |_| false);
        let before: Vec<u64> = (0..3).map(|flow| net.hosts[2 * flow].got).collect();
        net.run(net.at(24_000), |_| false);
        let rates: Vec<f64> =
            (0..3).map(|flow| (net.hosts[2 * flow].got - before[flow]) as f64 / 1e7).collect();
        println!(
            "{rtt} ms, 5 MB/s, buffer {buffer_ms} ms, three circuits: {rates:.2?} MB/s, {:?}",
            net.stats(1).rtt
        );
        assert!(rates.iter().sum::<f64>() > 3.5, "{rates:?}");
        assert!(rates.iter().all(|rate| *rate > 5.0 / 3.0 * least), "{rtt} ms: {rates:?}");
    }
}

#[test]
fn late_packets_do_not_cost_the_window() {
    let spec = Spec::clean(50);
    let mut down = spec;
    down.rate = Some((10_000_000, 1_000_000));
    let mut net = Net::pair(16, spec, down);
    net.transfer(0, 100, 1 << 40);
    net.run(net.at(4000), |_| false);
    let before = net.stats(1);
    // For a tenth of a second, a link repairs every third packet so late that QUIC gave it up.
    net.pipes[1].spec.late = (0.3, Duration::from_millis(600));
    net.run(net.at(4100), |_| false);
    net.pipes[1].spec.late.0 = 0.0;
    net.run(net.at(6000), |_| false);
    let after = net.stats(1);
    println!("late packets: {before:?} then {after:?}");
    assert!(after.lost > before.lost);
    assert!(after.window > before.window * 8 / 10, "{} of {}", after.window, before.window);
}
