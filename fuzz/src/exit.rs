//! The exit: a client that writes any request, in any pieces, and destinations that do anything.

use std::collections::BTreeSet;
use std::time::Duration;

use circuit::flows::{FlowEvent, Flows};
use circuit::node::{Event, FlowId, FlowRead, Now};
use circuit::request::{Host, ReplyCode};
use circuit::stream::{End, MAX_QUIC_PACKET, StreamConfig};
use circuit::table::CircuitKey;
use router::exit::Exit;
use router::policy::ExitPolicy;

use crate::fixture::{pass, rng, start};
use crate::input::Input;
use crate::quic::{circuit_keys, packet};

/// Packets that go back and forth at once.
const MOST_AT_ONCE: usize = 2000;

struct World {
    now: Now,
    keys: Vec<CircuitKey>,
    client: Flows,
    ours: Vec<FlowId>,
    exit: Exit,
    asked: Vec<FlowId>,
    connected: BTreeSet<FlowId>,
    closed: BTreeSet<FlowId>,
}

impl World {
    fn new() -> Self {
        let now = start();
        let keys = circuit_keys(now, 2);
        let mut client = Flows::new(End::Client, StreamConfig::default(), rng(3));
        for key in &keys {
            client.add(now.instant, *key, Duration::from_millis(100)).unwrap();
        }
        let exit = Exit::new(ExitPolicy::default(), StreamConfig::default(), rng(4));
        Self {
            now,
            keys,
            client,
            ours: vec![],
            exit,
            asked: vec![],
            connected: BTreeSet::new(),
            closed: BTreeSet::new(),
        }
    }

    /// Carries packets until both sides are silent.
    fn settle(&mut self) {
        let mut out = [0; MAX_QUIC_PACKET];
        for _ in 0..MOST_AT_ONCE {
            let now = self.now.instant;
            if let Some((key, length)) = self.client.poll_transmit(now, &mut out, |_| true) {
                self.give(key, &out[..length]);
            } else if let Some((key, length)) = self.exit.poll_transmit(now, &mut out, |_| true) {
                if self.client.handle_packet(now, key, &out[..length]).is_err() {
                    self.client.remove(key);
                }
            } else {
                break;
            }
        }
        while let Some(event) = self.client.poll_event() {
            if let FlowEvent::Lost(key, _) = event {
                self.client.remove(key);
            }
        }
        self.exit_events();
    }

    fn give(&mut self, key: CircuitKey, packet: &[u8]) {
        if self.exit.handle_packet(self.now.instant, key, packet).is_err() {
            self.exit.remove(key);
        }
    }

    fn exit_events(&mut self) {
        while let Some(event) = self.exit.poll_event() {
            match event {
                Event::Connect(flow, target) => {
                    assert!(!self.asked.contains(&flow), "a flow that connects twice");
                    assert!(!self.closed.contains(&flow));
                    if let Host::Ip(ip) = target.host {
                        assert!(self.exit.allows(ip, target.port), "a target that the policy refuses");
                    }
                    self.asked.push(flow);
                }
                Event::Closed(flow) => {
                    self.closed.insert(flow);
                    assert_eq!(self.exit.read(flow, 9), FlowRead::Reset);
                }
                Event::Readable(flow) => assert!(self.connected.contains(&flow)),
                _ => {}
            }
        }
        while let Some(key) = self.exit.poll_lost() {
            self.exit.remove(key);
        }
        let on: usize = self.keys.iter().map(|key| self.exit.on(*key)).sum();
        assert!(self.exit.open() <= on + self.asked.len(), "flows that nobody has");
    }

    fn client_call(&mut self, input: &mut Input<'_>) {
        let Some(flow) = self.ours.get(input.below(self.ours.len())).copied() else { return };
        match input.u8() % 5 {
            0 | 1 => {
                let _ = self.client.write(flow, input.chunk());
            }
            2 => self.client.finish(flow),
            3 => self.client.reset(flow),
            _ => drop(self.client.read(flow, usize::from(input.u8()) + 1)),
        }
    }

    fn exit_call(&mut self, input: &mut Input<'_>) {
        let Some(flow) = self.asked.get(input.below(self.asked.len())).copied() else { return };
        match input.u8() % 6 {
            0 | 1 => {
                let outcome = ReplyCode::from_byte(input.u8());
                if outcome == ReplyCode::Succeeded {
                    self.connected.insert(flow);
                }
                self.exit.connected(flow, outcome);
            }
            2 => {
                let read = self.exit.read(flow, 1 + usize::from(input.u8()));
                if let FlowRead::Data(bytes) = read {
                    assert!(!bytes.is_empty() && self.connected.contains(&flow));
                }
            }
            3 => {
                let _ = self.exit.write(flow, &vec![5; usize::from(input.u16()) % 4000]);
            }
            4 => self.exit.finish(flow),
            _ => self.exit.reset(flow),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let action = input.u8();
        let key = self.keys[usize::from(action >> 7)];
        match action % 8 {
            0 => {
                pass(&mut self.now, Duration::from_millis(8 * u64::from(input.u8())));
                self.client.handle_timeout(self.now.instant);
                self.exit.handle_timeout(self.now.instant);
            }
            1 => {
                let flow = self.client.reserve();
                if self.client.open(key, flow) {
                    self.ours.push(flow);
                    let _ = self.client.write(flow, input.chunk());
                }
            }
            2 | 3 => self.client_call(input),
            4 | 5 => self.exit_call(input),
            6 => {
                let packet = packet(input);
                self.give(key, &packet);
            }
            _ => {
                if input.u8() & 7 == 7 {
                    self.exit.remove(key);
                }
            }
        }
        if action & 0x40 == 0 {
            self.settle();
        }
    }
}

/// Whatever a client writes: only whole requests that the policy allows are connected, once, and bytes pass only after.
pub fn exit(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.settle();
    for key in world.keys.clone() {
        world.exit.remove(key);
    }
    world.exit_events();
    let counts = world.exit.counts();
    assert!(counts.connected <= world.connected.len() as u64);
}
