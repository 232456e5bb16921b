//! Pairs of ends in virtual time, over a pipe that loses, delays, duplicates and limits.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use super::super::*;

/// A small generator (`SplitMix64`); the seed is in every message.
#[derive(Clone)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn chance(&mut self, p: f64) -> bool {
        ((self.next() >> 11) as f64) < p * (1u64 << 53) as f64
    }

    pub(super) fn seed(&mut self) -> [u8; 32] {
        std::array::from_fn(|_| self.next().to_le_bytes()[0])
    }
}

/// What a pipe does to packets.
#[derive(Clone, Copy)]
pub(super) struct Spec {
    pub(super) delay: Duration,
    pub(super) loss: f64,
    /// A share of packets that comes later, by up to so much.
    pub(super) late: (f64, Duration),
    pub(super) duplicate: f64,
    /// Bytes per second and the bytes that wait at most.
    pub(super) rate: Option<(u64, u64)>,
}

impl Spec {
    pub(super) fn clean(delay_ms: u64) -> Self {
        Self {
            delay: Duration::from_millis(delay_ms),
            loss: 0.0,
            late: (0.0, Duration::ZERO),
            duplicate: 0.0,
            rate: None,
        }
    }
}

/// When a packet arrives, its place among equals, its flow, and the packet.
type Flying = (Instant, u64, usize, Vec<u8>);

pub(super) struct Pipe {
    pub(super) spec: Spec,
    pub(super) rng: Rng,
    pub(super) free: Instant,
    pub(super) flying: BinaryHeap<Reverse<Flying>>,
    pub(super) count: u64,
    pub(super) overflows: u64,
    pub(super) bytes: u64,
}

impl Pipe {
    pub(super) fn push(&mut self, now: Instant, flow: usize, packet: &[u8]) {
        let mut leaves = now;
        if let Some((rate, buffer)) = self.spec.rate {
            let waiting = self.free.saturating_duration_since(now).as_secs_f64() * rate as f64;
            if waiting + packet.len() as f64 > buffer as f64 {
                self.overflows += 1;
                return;
            }
            // A packet is a cell, whatever it holds.
            leaves = self.free.max(now) + Duration::from_secs_f64(MAX_QUIC_PACKET as f64 / rate as f64);
            self.free = leaves;
        }
        self.bytes += packet.len() as u64;
        if self.rng.chance(self.spec.loss) {
            return;
        }
        for _ in 0..=u8::from(self.rng.chance(self.spec.duplicate)) {
            let mut at = leaves + self.spec.delay;
            if self.rng.chance(self.spec.late.0) {
                at += self.spec.late.1.mul_f64((self.rng.below(1000) + 1) as f64 / 1000.0);
            }
            self.count += 1;
            self.flying.push(Reverse((at, self.count, flow, packet.to_vec())));
        }
    }
}

/// Bytes that every test writes; a prime length, so that a shifted block shows.
pub(super) fn pattern() -> Vec<u8> {
    let mut rng = Rng(7);
    (0..65_521).map(|_| rng.next().to_le_bytes()[0]).collect()
}

/// One end with its application: writes `total` bytes on one stream, and reads what comes.
pub(super) struct Host {
    pub(super) streams: Streams,
    pub(super) id: Option<StreamId>,
    pub(super) total: u64,
    pub(super) sent: u64,
    pub(super) got: u64,
    /// Bytes that may be read at most, in all.
    pub(super) appetite: u64,
    pub(super) ended: bool,
    pub(super) acknowledged: bool,
    pub(super) first: Option<Instant>,
    pub(super) events: Vec<StreamEvent>,
    pub(super) misbehaved: Option<Misbehaved>,
    /// Wakes only at these steps after something arrives: the scheduler of a busy machine.
    pub(super) stalls: Option<Rng>,
    pub(super) runs: Instant,
}

pub(super) struct Net {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) hosts: Vec<Host>,
    pub(super) pipes: [Pipe; 2],
    pub(super) pattern: Vec<u8>,
    pub(super) digest: u64,
    pub(super) longest: usize,
    pub(super) packets: u64,
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin; time is virtual from here on")]
pub(super) fn origin() -> Instant {
    Instant::now()
}

impl Net {
    /// Flow i is host 2i, a client, and host 2i + 1, its exit.
    pub(super) fn new(seed: u64, forward: Spec, backward: Spec, flows: usize) -> Self {
        let start = origin();
        let mut rng = Rng(seed);
        let pipe = |spec, rng: &mut Rng| Pipe {
            spec,
            rng: Rng(rng.next()),
            free: start,
            flying: BinaryHeap::new(),
            count: 0,
            overflows: 0,
            bytes: 0,
        };
        let pipes = [pipe(forward, &mut rng), pipe(backward, &mut rng)];
        let mut net = Self {
            start,
            now: start,
            hosts: Vec::new(),
            pipes,
            pattern: pattern(),
            digest: 0xcbf2_9ce4_8422_2325,
            longest: 0,
            packets: 0,
        };
        for _ in 0..flows {
            net.add(&mut rng, &StreamConfig::default());
        }
        net
    }

    pub(super) fn add(&mut self, rng: &mut Rng, config: &StreamConfig) {
        for end in [End::Client, End::Exit] {
            let streams = Streams::new(self.now, end, config, rng.seed()).expect("configuration");
            self.hosts.push(Host {
                streams,
                id: None,
                total: 0,
                sent: 0,
                got: 0,
                appetite: u64::MAX,
                ended: false,
                acknowledged: false,
                first: None,
                events: Vec::new(),
                misbehaved: None,
                stalls: None,
                runs: self.now,
            });
        }
    }

    pub(super) fn pair(seed: u64, forward: Spec, backward: Spec) -> Self {
        Self::new(seed, forward, backward, 1)
    }

    /// Opens a stream at a client, which will write `up` bytes, and its exit `down` bytes.
    pub(super) fn transfer(&mut self, flow: usize, up: u64, down: u64) {
        let client = &mut self.hosts[2 * flow];
        client.id = client.streams.open();
        assert!(client.id.is_some());
        client.total = up;
        self.hosts[2 * flow + 1].total = down;
    }

    pub(super) fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    /// Runs until `done`, or until a time; gives whether it was done.
    pub(super) fn run(&mut self, until: Instant, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        loop {
            for i in 0..self.hosts.len() {
                self.drive(i);
            }
            if done(self) {
                return true;
            }
            let mut next = None;
            for host in &mut self.hosts {
                let mut at = host.streams.poll_timeout();
                if let (Some(_), Some(t)) = (&host.stalls, at.as_mut()) {
                    // Timers of a runtime have a resolution of a millisecond.
                    let late = t.saturating_duration_since(self.start).as_nanos() % 1_000_000;
                    *t += Duration::from_nanos(u64::try_from(1_000_000 - late).unwrap());
                    *t = (*t).max(host.runs);
                }
                next = next.into_iter().chain(at).min();
            }
            for pipe in &self.pipes {
                if let Some(Reverse((at, ..))) = pipe.flying.peek() {
                    next = next.into_iter().chain([*at]).min();
                }
            }
            match next {
                Some(next) if next <= until => self.now = self.now.max(next),
                _ => {
                    self.now = until;
                    return false;
                }
            }
            for direction in 0..2 {
                self.deliver(direction);
            }
        }
    }

    pub(super) fn deliver(&mut self, direction: usize) {
        while let Some(Reverse((at, _, _, _))) = self.pipes[direction].flying.peek() {
            if *at > self.now {
                break;
            }
            let Some(Reverse((_, count, flow, packet))) = self.pipes[direction].flying.pop() else {
                break;
            };
            let host = &mut self.hosts[2 * flow + 1 - direction];
            if let Some(rng) = &mut host.stalls {
                // The process sleeps until `runs`; then it takes all that came, and may be stalled again.
                if host.runs > self.now {
                    let at = host.runs;
                    self.pipes[direction].flying.push(Reverse((at, count, flow, packet)));
                    continue;
                }
                if rng.chance(0.002) {
                    host.runs = self.now + Duration::from_micros(rng.below(5000));
                }
            }
            if let Err(misbehaved) = host.streams.handle_packet(self.now, &packet) {
                host.misbehaved = Some(misbehaved);
            }
        }
    }

    pub(super) fn drive(&mut self, i: usize) {
        let host = &mut self.hosts[i];
        if host.streams.poll_timeout().is_some_and(|at| at <= self.now) {
            host.streams.handle_timeout(self.now);
        }
        host.application(self.now, &self.pattern);
        let mut out = [0; MAX_QUIC_PACKET];
        while let Some(length) = self.hosts[i].streams.poll_transmit(self.now, &mut out) {
            let packet = &out[..length];
            assert!(packet[0] & 0x80 == 0, "a long header on the wire");
            for byte in packet {
                self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
            self.longest = self.longest.max(length);
            self.packets += 1;
            self.pipes[i % 2].push(self.now, i / 2, packet);
        }
    }

    pub(super) fn stats(&self, host: usize) -> StreamStats {
        self.hosts[host].streams.stats()
    }
}

impl Host {
    pub(super) fn application(&mut self, now: Instant, pattern: &[u8]) {
        while let Some(event) = self.streams.poll_event() {
            match event {
                StreamEvent::Opened(id) if self.id.is_none() => self.id = Some(id),
                StreamEvent::Finished(_) => self.acknowledged = true,
                _ => {}
            }
            self.events.push(event);
        }
        let Some(id) = self.id else { return };
        while self.sent < self.total {
            let from = usize::try_from(self.sent % pattern.len() as u64).unwrap();
            let left = usize::try_from(self.total - self.sent).unwrap_or(usize::MAX);
            let data = &pattern[from..];
            match self.streams.write(id, &data[..data.len().min(left)]) {
                Ok(written) if written > 0 => self.sent += written as u64,
                _ => break,
            }
            if self.sent == self.total {
                self.streams.finish(id);
            }
        }
        while self.got < self.appetite && !self.ended {
            let from = usize::try_from(self.got % pattern.len() as u64).unwrap();
            match self.streams.read(id, pattern.len() - from) {
                Ok(Read::Data(bytes)) => {
                    assert!(!bytes.is_empty() && bytes == pattern[from..from + bytes.len()]);
                    self.first.get_or_insert(now);
                    self.got += bytes.len() as u64;
                }
                Ok(Read::Finished) => self.ended = true,
                Ok(Read::Blocked) | Err(_) => break,
            }
        }
    }
}
