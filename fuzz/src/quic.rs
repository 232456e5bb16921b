//! QUIC inside circuits: packets that an end makes up, and connections in which someone changes what travels.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use circuit::flows::{FlowEvent, Flows};
use circuit::keys::BootId;
use circuit::link::{LinkConfig, LinkLimits, Links, Peer, Suites};
use circuit::node::{FlowId, FlowRead, FlowWrite, Now};
use circuit::origin::Origin;
use circuit::stream::{End, MAX_QUIC_PACKET, Read, StreamConfig, StreamEvent, StreamId, Streams};
use circuit::table::CircuitKey;

use crate::edits::edit;
use crate::fixture::{NETWORK, hop, identity, link_key, pass, purpose, rng, start};
use crate::input::Input;

const MOST_FLYING: usize = 128;
/// Packets that one end may have to say at once, with a full window.
const MOST_AT_ONCE: usize = 20_000;
/// The most streams of one connection.
const MOST_STREAMS: usize = 256;
/// The most bytes that are written to one stream at once.
const MOST_WRITTEN: usize = 5000;

/// A packet whose header and tag are right and whose frames are made up.
pub(crate) fn packet(input: &mut Input<'_>) -> Vec<u8> {
    let (number, flags) = (1000 + u32::from(input.u16() % 8192), input.u8());
    let generation = if flags & 0xe0 == 0xe0 { flags & 3 } else { 1 };
    let mut packet = vec![0x40 | (generation & 1) << 2 | 1];
    packet.extend_from_slice(&number.to_be_bytes()[2..]);
    packet.extend_from_slice(input.chunk());
    if flags & 0x10 == 0x10 {
        packet.resize(MAX_QUIC_PACKET - 4, 0);
    }
    packet.extend_from_slice(&[generation, 0, 0, number.to_be_bytes()[2]]);
    if flags & 8 == 8 {
        edit(input, &mut packet);
    }
    packet
}

/// The bytes that are written to stream `stream` from `at` on.
fn pattern(stream: usize, at: usize, count: usize) -> Vec<u8> {
    (at..at + count).map(|n| u8::try_from((n ^ n >> 8 ^ stream) & 0xff).unwrap()).collect()
}

/// An end with the streams that it knows: bytes written, bytes read.
struct Side {
    streams: Streams,
    ids: Vec<(StreamId, usize, usize)>,
    broken: bool,
}

struct Pair {
    now: Instant,
    sides: [Side; 2],
    flying: Vec<(usize, Vec<u8>)>,
    /// Something arrived that the other end did not send.
    changed: bool,
}

impl Pair {
    fn new() -> Self {
        let now = start().instant;
        let side = |end, seed| Side {
            streams: Streams::new(now, end, &StreamConfig::default(), [seed; 32]).unwrap(),
            ids: vec![],
            broken: false,
        };
        Self { now, sides: [side(End::Client, 1), side(End::Exit, 2)], flying: vec![], changed: false }
    }

    fn drain(&mut self, n: usize) {
        let side = &mut self.sides[n];
        let mut out = [0; MAX_QUIC_PACKET];
        let mut count = 0;
        while let Some(length) = side.streams.poll_transmit(self.now, &mut out) {
            count += 1;
            assert!(count < MOST_AT_ONCE, "an end that does not stop sending");
            assert!((1..=MAX_QUIC_PACKET).contains(&length) && out[0] & 0x80 == 0);
            if self.flying.len() < MOST_FLYING {
                self.flying.push((1 - n, out[..length].to_vec()));
            }
        }
        while let Some(event) = side.streams.poll_event() {
            match event {
                StreamEvent::Opened(id) => {
                    assert_eq!(n, 1, "only clients open streams");
                    side.ids.push((id, 0, 0));
                }
                StreamEvent::Lost(_) => assert!(side.streams.is_closed()),
                _ => {}
            }
        }
        assert!(side.streams.open_streams() <= MOST_STREAMS);
    }

    fn deliver(&mut self, to: usize, packet: &[u8]) {
        let side = &mut self.sides[to];
        if side.streams.handle_packet(self.now, packet).is_err() {
            assert!(self.changed, "a violation that nobody made");
            assert!(side.streams.is_closed());
            side.broken = true;
        }
        self.drain(to);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for n in 0..2 {
            let due = |streams: &mut Streams, now| streams.poll_timeout().is_some_and(|at| at <= now);
            for _ in 0..32 {
                if due(&mut self.sides[n].streams, self.now) {
                    self.sides[n].streams.handle_timeout(self.now);
                    self.drain(n);
                }
            }
            assert!(!due(&mut self.sides[n].streams, self.now), "a timer that never rests");
        }
    }

    fn read(&mut self, n: usize, at: usize, max: usize) {
        let changed = self.changed;
        let Some((id, _, read)) = self.sides[n].ids.get(at).copied() else { return };
        match self.sides[n].streams.read(id, max) {
            Ok(Read::Data(bytes)) => {
                assert!(!bytes.is_empty() && bytes.len() <= max);
                assert!(changed || bytes == pattern(at, read, bytes.len()), "other bytes than were written");
                self.sides[n].ids[at].2 += bytes.len();
            }
            Ok(Read::Finished) => {
                let sent = self.sides[1 - n].ids.get(at).map_or(0, |(_, written, _)| *written);
                assert!(changed || sent == read, "an end before the end");
            }
            Ok(Read::Blocked) | Err(_) => {}
        }
        self.drain(n);
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let action = input.u8();
        let n = usize::from(action >> 7);
        let at = if self.sides[n].ids.is_empty() { 0 } else { input.below(self.sides[n].ids.len()) };
        let stream = self.sides[n].ids.get(at).copied();
        match (action % 16, stream) {
            (0, _) => self.pass(Duration::from_millis(u64::from(input.u8()))),
            (1, _) => self.pass(Duration::from_secs(u64::from(input.u16()))),
            (2, _) => {
                let opened = self.sides[n].streams.open();
                assert!(opened.is_none() || n == 0 || self.changed, "exits open nothing");
                self.sides[n].ids.extend(opened.map(|id| (id, 0, 0)));
            }
            (3, Some((id, written, _))) => {
                let bytes = pattern(at, written, usize::from(input.u16()) % MOST_WRITTEN);
                if let Ok(count) = self.sides[n].streams.write(id, &bytes) {
                    self.sides[n].ids[at].1 += count;
                }
            }
            (4, _) => {
                let max = 1 + usize::from(input.u16());
                self.read(n, at, max);
            }
            (5, Some((id, ..))) => self.sides[n].streams.finish(id),
            (6, Some((id, ..))) => self.sides[n].streams.reset(id, 1),
            (7, Some((id, ..))) => self.sides[n].streams.stop(id, 1),
            (8 | 9, _) => {
                for _ in 0..500 {
                    if self.flying.is_empty() {
                        break;
                    }
                    let (to, packet) = self.flying.remove(0);
                    self.deliver(to, &packet);
                }
            }
            (10, _) => {
                if let Some((to, packet)) = self.flying.get(input.below(self.flying.len())).cloned() {
                    self.deliver(to, &packet);
                }
            }
            (11, _) if !self.flying.is_empty() => {
                self.flying.remove(input.below(self.flying.len()));
            }
            (12, _) => {
                if let Some((to, mut packet)) = self.flying.get(input.below(self.flying.len())).cloned() {
                    self.changed |= edit(input, &mut packet);
                    self.deliver(to, &packet);
                }
            }
            (13 | 14, _) => {
                self.changed = true;
                let packet = packet(input);
                self.deliver(n, &packet);
            }
            (15, _) if input.u8() == 0xff => {
                self.changed = true;
                self.sides[n].streams.close(self.now, 7);
            }
            _ => {}
        }
        self.drain(n);
    }
}

/// Packets may come late, twice, never, changed or made up: nothing breaks, an end that is broken is closed, and as long as
/// nobody changes anything the bytes read are those written.
pub fn streams(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = Pair::new();
    while !input.is_empty() && !pair.sides.iter().all(|side| side.broken) {
        pair.step(&mut input);
    }
    // What is sent again and again puts the end off, but not for ever.
    for _ in 0..4 {
        pair.pass(Duration::from_hours(25));
    }
    // Idle is at least three times as long as an answer may take.
    let over = |side: &Side| side.streams.is_closed() || side.streams.rtt() > Duration::from_hours(1);
    if !pair.changed && pair.sides.iter().any(|side| !side.ids.is_empty()) {
        assert!(pair.sides.iter().any(over), "an end that waits for ever");
    }
}

/// Names of circuits, which only a table gives.
pub(crate) fn circuit_keys(now: Now, count: u8) -> Vec<CircuitKey> {
    let config = LinkConfig {
        network: NETWORK,
        relay: None,
        boot: BootId(1),
        suites: Suites::default(),
        limits: LinkLimits::default(),
    };
    let peer =
        Peer { id: identity(1).id(), link_key: link_key(1).public(), address: ([192, 0, 2, 1], 4433).into() };
    let link = Links::new(config, [1; 32]).dial(now, &peer).unwrap();
    let mut origin = Origin::new(count.into(), rng(1));
    (0..count).map(|_| origin.build(link, false, &[hop(1)], purpose(now), None).unwrap()).collect()
}

/// One node's flows.
struct Host {
    flows: Flows,
    known: Vec<FlowId>,
    gone: BTreeSet<FlowId>,
}

struct Hosts {
    now: Now,
    keys: Vec<CircuitKey>,
    ends: [Host; 2],
    flying: Vec<(usize, CircuitKey, Vec<u8>)>,
    opened: BTreeMap<FlowId, CircuitKey>,
}

impl Hosts {
    fn new() -> Self {
        let now = start();
        let host = |end, seed| Host {
            flows: Flows::new(end, StreamConfig::default(), rng(seed)),
            known: vec![],
            gone: BTreeSet::new(),
        };
        let ends = [host(End::Client, 3), host(End::Exit, 4)];
        Self { now, keys: circuit_keys(now, 3), ends, flying: vec![], opened: BTreeMap::new() }
    }

    fn drain(&mut self, n: usize) {
        let host = &mut self.ends[n];
        let mut out = [0; MAX_QUIC_PACKET];
        let mut count = 0;
        while let Some((circuit, length)) = host.flows.poll_transmit(self.now.instant, &mut out, |_| true) {
            count += 1;
            assert!(count < MOST_AT_ONCE, "a node that does not stop sending");
            if self.flying.len() < MOST_FLYING {
                self.flying.push((1 - n, circuit, out[..length].to_vec()));
            }
        }
        while let Some(event) = host.flows.poll_event() {
            match event {
                FlowEvent::Opened(flow, circuit) => {
                    assert_eq!(n, 1, "only clients open streams");
                    assert!(!host.known.contains(&flow));
                    host.known.push(flow);
                    assert!(self.opened.insert(flow, circuit).is_none(), "a flow that opens twice");
                }
                FlowEvent::Closed(flow) => {
                    assert!(host.gone.insert(flow), "a flow that closes twice");
                    assert_eq!(host.flows.read(flow, 1), FlowRead::Reset);
                    assert_eq!(host.flows.write(flow, b"x"), FlowWrite::Reset);
                }
                FlowEvent::Lost(circuit, _) => host.flows.remove(circuit),
                // A client that allows the exit streams allows what the exit does not use.
                FlowEvent::Available(_) => {}
                FlowEvent::Readable(flow) | FlowEvent::Writable(flow) => {
                    assert!(host.known.contains(&flow));
                }
            }
        }
        let on: usize = self.keys.iter().map(|key| host.flows.on(*key)).sum();
        assert_eq!(host.flows.len(), on);
        assert!(self.keys.iter().all(|key| host.flows.on(*key) <= 2 * MOST_STREAMS));
    }

    fn deliver(&mut self, to: usize, circuit: CircuitKey, packet: &[u8]) {
        let host = &mut self.ends[to];
        if host.flows.handle_packet(self.now.instant, circuit, packet).is_err() {
            host.flows.remove(circuit);
            assert!(!host.flows.has(circuit) && host.flows.on(circuit) == 0);
        }
        self.drain(to);
    }

    fn pass(&mut self, time: Duration) {
        pass(&mut self.now, time);
        for n in 0..2 {
            for _ in 0..64 {
                if self.ends[n].flows.poll_timeout().is_some_and(|at| at <= self.now.instant) {
                    self.ends[n].flows.handle_timeout(self.now.instant);
                    self.drain(n);
                }
            }
            let next = self.ends[n].flows.poll_timeout();
            assert!(next.is_none_or(|at| at > self.now.instant), "a timer that never rests");
        }
    }

    fn flow_call(&mut self, input: &mut Input<'_>, n: usize) {
        let host = &mut self.ends[n];
        let Some(flow) = host.known.get(input.below(host.known.len())).copied() else { return };
        let call = input.u8();
        match call % 6 {
            0 => drop(host.flows.read(flow, 1 + usize::from(input.u16()))),
            1 => {
                let bytes = vec![7; usize::from(input.u16()) % MOST_WRITTEN];
                if let FlowWrite::Accepted(taken) = host.flows.write(flow, &bytes) {
                    assert!(taken <= bytes.len());
                }
            }
            2 => host.flows.finish(flow),
            3 => host.flows.reset(flow),
            4 => host.flows.stop(flow),
            _ => {
                let _ = host.flows.write(flow, input.chunk());
            }
        }
        if call % 6 == 3 {
            assert_eq!(host.flows.circuit(flow), None);
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let action = input.u8();
        let n = usize::from(action >> 7);
        let key = self.keys[usize::from(action >> 4 & 7) % self.keys.len()];
        let now = self.now.instant;
        match action % 16 {
            0 => self.pass(Duration::from_millis(u64::from(input.u8()))),
            1 => self.pass(Duration::from_secs(u64::from(input.u16()))),
            2 => {
                for host in &mut self.ends {
                    if !host.flows.has(key) {
                        host.flows.add(now, key, Duration::from_millis(100)).unwrap();
                    }
                }
            }
            3 | 4 => {
                let host = &mut self.ends[0];
                let flow = host.flows.reserve();
                if host.flows.open(key, flow) {
                    host.known.push(flow);
                }
            }
            5..=7 => self.flow_call(input, n),
            8 | 9 => {
                for _ in 0..500 {
                    if self.flying.is_empty() {
                        break;
                    }
                    let (to, circuit, packet) = self.flying.remove(0);
                    self.deliver(to, circuit, &packet);
                }
            }
            10 | 11 => {
                let some = self.flying.get(input.below(self.flying.len())).cloned();
                if let Some((to, circuit, mut packet)) = some {
                    if action % 16 == 11 {
                        edit(input, &mut packet);
                    }
                    self.deliver(to, circuit, &packet);
                }
            }
            12 => {
                if !self.flying.is_empty() {
                    self.flying.remove(input.below(self.flying.len()));
                }
            }
            13 | 14 => {
                let packet = packet(input);
                self.deliver(n, key, &packet);
            }
            _ => {
                if input.u8() & 7 == 7 {
                    self.ends[n].flows.remove(key);
                }
            }
        }
        self.drain(0);
        self.drain(1);
    }
}

/// Packets may come late, twice, never, changed or made up, and calls in any order: flows open and close once, a flow that is
/// gone answers so, and nothing is left of a circuit that is removed.
pub fn flows(data: &[u8]) {
    let mut input = Input::new(data);
    let mut hosts = Hosts::new();
    while !input.is_empty() {
        hosts.step(&mut input);
    }
    hosts.pass(Duration::from_hours(25));
    for n in 0..2 {
        for key in hosts.keys.clone() {
            hosts.ends[n].flows.remove(key);
        }
        hosts.drain(n);
        assert!(hosts.ends[n].flows.is_empty() && hosts.ends[n].flows.poll_timeout().is_none());
    }
}
