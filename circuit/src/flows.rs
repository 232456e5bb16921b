//! The streams of all circuits of a node, and which circuit sends next.
//!
//! Client and exit use the same type: a flow is one stream of one circuit under a name of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use crate::error::Misbehaved;
use crate::keys::Random;
use crate::node::{FlowId, FlowRead, FlowWrite};
use crate::stream::{
    End, Lost, Read, StreamConfig, StreamError, StreamEvent, StreamId, StreamStats, Streams,
};
use crate::table::CircuitKey;

/// The code of every reset and stop on the wire (circuit.stream.3).
const RESET: u32 = 1;
/// Cells that one circuit may send before the next has its turn.
const TURN: u32 = 16;

/// What happened to the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEvent {
    /// The client opened a stream; only at an exit.
    Opened(FlowId, CircuitKey),
    /// There may be something to read.
    Readable(FlowId),
    /// Bytes are accepted again.
    Writable(FlowId),
    /// The flow is gone, other than by our own calls.
    Closed(FlowId),
    /// The circuit may open more streams.
    Available(CircuitKey),
    /// The connection of the circuit is over; the circuit is to be closed.
    Lost(CircuitKey, Lost),
}

#[derive(Debug)]
struct Carrier {
    streams: Streams,
    flows: BTreeMap<StreamId, FlowId>,
    /// Stands in the queue of those that may send.
    queued: bool,
    /// Cells left of this turn.
    turn: u32,
    /// The timer that stands in `timers`.
    armed: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    circuit: CircuitKey,
    stream: StreamId,
    read_over: bool,
    write_over: bool,
}

/// A short message that the circuit had no room for, and whether our direction ends after it.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    finish: bool,
}

/// All streams of a node.
#[derive(Debug)]
pub struct Flows {
    end: End,
    config: StreamConfig,
    rng: Random,
    carriers: BTreeMap<CircuitKey, Carrier>,
    open: HashMap<FlowId, Flow>,
    /// Messages that wait for room.
    held: HashMap<FlowId, Held>,
    next_flow: u64,
    ready: VecDeque<CircuitKey>,
    timers: BTreeSet<(Instant, CircuitKey)>,
    events: VecDeque<FlowEvent>,
}

impl Flows {
    /// No circuits yet.
    pub fn new(end: End, config: StreamConfig, rng: Random) -> Self {
        Self {
            end,
            config,
            rng,
            carriers: BTreeMap::new(),
            open: HashMap::new(),
            held: HashMap::new(),
            next_flow: 1,
            ready: VecDeque::new(),
            timers: BTreeSet::new(),
            events: VecDeque::new(),
        }
    }

    /// Adds a circuit whose setup took `first_rtt`.
    pub fn add(&mut self, now: Instant, circuit: CircuitKey, first_rtt: Duration) -> Result<(), StreamError> {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let config = StreamConfig { first_rtt, ..self.config.clone() };
        let streams = Streams::new(now, self.end, &config, seed)?;
        let carrier = Carrier { streams, flows: BTreeMap::new(), queued: false, turn: 0, armed: None };
        self.carriers.insert(circuit, carrier);
        Ok(())
    }

    /// Whether the circuit was added.
    pub fn has(&self, circuit: CircuitKey) -> bool {
        self.carriers.contains_key(&circuit)
    }

    /// Removes a circuit that is gone; its flows are closed.
    pub fn remove(&mut self, circuit: CircuitKey) {
        let Some(carrier) = self.carriers.remove(&circuit) else { return };
        if let Some(at) = carrier.armed {
            self.timers.remove(&(at, circuit));
        }
        for flow in carrier.flows.into_values() {
            self.open.remove(&flow);
            self.held.remove(&flow);
            self.events.push_back(FlowEvent::Closed(flow));
        }
    }

    /// Names a flow that is to be opened later.
    pub const fn reserve(&mut self) -> FlowId {
        let flow = FlowId(self.next_flow);
        self.next_flow += 1;
        flow
    }

    /// Opens a stream for a reserved flow; false while the circuit may open no more.
    pub fn open(&mut self, circuit: CircuitKey, flow: FlowId) -> bool {
        let Some(carrier) = self.carriers.get_mut(&circuit) else { return false };
        let Some(stream) = carrier.streams.open() else { return false };
        carrier.flows.insert(stream, flow);
        self.open.insert(flow, Flow { circuit, stream, read_over: false, write_over: false });
        self.touch(circuit);
        true
    }

    /// The circuit of a flow.
    pub fn circuit(&self, flow: FlowId) -> Option<CircuitKey> {
        self.open.get(&flow).map(|flow| flow.circuit)
    }

    /// The number of flows on a circuit.
    pub fn on(&self, circuit: CircuitKey) -> usize {
        self.carriers.get(&circuit).map_or(0, |carrier| carrier.flows.len())
    }

    /// The number of all flows.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether there is no flow.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The counters of a circuit's connection.
    pub fn stats(&self, circuit: CircuitKey) -> Option<StreamStats> {
        self.carriers.get(&circuit).map(|carrier| carrier.streams.stats())
    }

    /// Has the other end of a circuit give a sign of life.
    pub fn ping(&mut self, circuit: CircuitKey) {
        if let Some(carrier) = self.carriers.get_mut(&circuit) {
            carrier.streams.ping();
            self.touch(circuit);
        }
    }

    /// Takes a QUIC packet out of a body; an error ends the circuit (circuit.stream.2).
    pub fn handle_packet(
        &mut self,
        now: Instant,
        circuit: CircuitKey,
        packet: &[u8],
    ) -> Result<(), Misbehaved> {
        let Some(carrier) = self.carriers.get_mut(&circuit) else { return Ok(()) };
        carrier.streams.handle_packet(now, packet)?;
        self.collect(circuit);
        self.touch(circuit);
        Ok(())
    }

    /// Writes the next QUIC packet of whichever circuit has one and may send, in turn: the circuit, and the packet's
    /// length. [`Flows::wake`] a circuit that may send again.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        mut may_send: impl FnMut(CircuitKey) -> bool,
    ) -> Option<(CircuitKey, usize)> {
        while let Some(circuit) = self.ready.front().copied() {
            let Some(carrier) = self.carriers.get_mut(&circuit) else {
                self.ready.pop_front();
                continue;
            };
            if may_send(circuit)
                && let Some(length) = carrier.streams.poll_transmit(now, out)
            {
                carrier.turn += 1;
                if carrier.turn >= TURN {
                    carrier.turn = 0;
                    self.ready.rotate_left(1);
                }
                return Some((circuit, length));
            }
            carrier.queued = false;
            carrier.turn = 0;
            self.ready.pop_front();
            self.collect(circuit);
            self.arm(circuit);
        }
        None
    }

    /// When [`Flows::handle_timeout`] is due; exact once [`Flows::poll_transmit`] has returned nothing.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Lets the timers run out that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, circuit)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.remove(&(at, circuit));
            let Some(carrier) = self.carriers.get_mut(&circuit) else { continue };
            carrier.armed = None;
            if carrier.streams.poll_timeout().is_some_and(|due| due <= now) {
                carrier.streams.handle_timeout(now);
                self.collect(circuit);
                self.touch(circuit);
            } else {
                self.arm(circuit);
            }
        }
    }

    /// Stands a timer no later than the connection's own; one that is too early finds out when it runs.
    fn arm(&mut self, circuit: CircuitKey) {
        let Some(carrier) = self.carriers.get_mut(&circuit) else { return };
        let Some(due) = carrier.streams.poll_timeout() else { return };
        if carrier.armed.is_none_or(|armed| due < armed) {
            if let Some(armed) = carrier.armed.replace(due) {
                self.timers.remove(&(armed, circuit));
            }
            self.timers.insert((due, circuit));
        }
    }

    /// A circuit that had to wait may send again.
    pub fn wake(&mut self, circuit: CircuitKey) {
        self.touch(circuit);
    }

    /// Puts a circuit among those that may send.
    fn touch(&mut self, circuit: CircuitKey) {
        if let Some(carrier) = self.carriers.get_mut(&circuit)
            && !carrier.queued
        {
            carrier.queued = true;
            self.ready.push_back(circuit);
        }
    }

    fn collect(&mut self, circuit: CircuitKey) {
        let Some(carrier) = self.carriers.get_mut(&circuit) else { return };
        while let Some(event) = carrier.streams.poll_event() {
            let event = match event {
                StreamEvent::Opened(stream) => {
                    let flow = FlowId(self.next_flow);
                    self.next_flow += 1;
                    carrier.flows.insert(stream, flow);
                    self.open.insert(flow, Flow { circuit, stream, read_over: false, write_over: false });
                    Some(FlowEvent::Opened(flow, circuit))
                }
                StreamEvent::Readable(stream) => {
                    carrier.flows.get(&stream).map(|flow| FlowEvent::Readable(*flow))
                }
                // A writer that was stopped finds out by its next write.
                StreamEvent::Writable(stream) | StreamEvent::Stopped(stream, _) => {
                    carrier.flows.get(&stream).map(|flow| FlowEvent::Writable(*flow))
                }
                StreamEvent::Finished(_) => None,
                StreamEvent::Available => Some(FlowEvent::Available(circuit)),
                StreamEvent::Lost(lost) => Some(FlowEvent::Lost(circuit, lost)),
            };
            self.events.extend(event);
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<FlowEvent> {
        let event = self.events.pop_front();
        if let Some(FlowEvent::Writable(flow)) = event {
            self.send_held(flow);
        }
        event
    }

    /// Sends a short message before all that is written later: a request or its answer, for which a circuit that is in use
    /// may have no room now.
    pub fn send(&mut self, flow: FlowId, message: &[u8]) -> FlowWrite {
        let FlowWrite::Accepted(taken) = self.write(flow, message) else { return FlowWrite::Reset };
        if let Some(bytes) = message.get(taken..).filter(|rest| !rest.is_empty()).map(<[u8]>::to_vec) {
            self.held.insert(flow, Held { bytes, finish: false });
        }
        FlowWrite::Accepted(message.len())
    }

    /// Whether nothing is held for the flow (any more).
    fn send_held(&mut self, flow: FlowId) -> bool {
        let Some(held) = self.held.remove(&flow) else { return true };
        match self.write(flow, &held.bytes) {
            FlowWrite::Accepted(taken) if taken < held.bytes.len() => {
                let bytes = held.bytes.get(taken..).unwrap_or_default().to_vec();
                self.held.insert(flow, Held { bytes, ..held });
                false
            }
            _ => {
                if held.finish {
                    self.finish(flow);
                }
                true
            }
        }
    }

    fn at(&mut self, flow: FlowId) -> Option<(&mut Flow, &mut Streams)> {
        let flow = self.open.get_mut(&flow)?;
        let carrier = self.carriers.get_mut(&flow.circuit)?;
        Some((flow, &mut carrier.streams))
    }

    /// The next bytes of a flow, at most `max`.
    pub fn read(&mut self, flow: FlowId, max: usize) -> FlowRead {
        let Some((entry, streams)) = self.at(flow) else { return FlowRead::Reset };
        let circuit = entry.circuit;
        let read = match streams.read(entry.stream, max) {
            Ok(Read::Data(bytes)) => FlowRead::Data(bytes),
            Ok(Read::Blocked) => return FlowRead::Blocked,
            Ok(Read::Finished) => {
                entry.read_over = true;
                FlowRead::Finished
            }
            Err(_) if entry.read_over => FlowRead::Finished,
            Err(_) => {
                entry.read_over = true;
                FlowRead::Reset
            }
        };
        self.touch(circuit);
        self.settle(flow);
        read
    }

    /// Hands bytes to a flow.
    pub fn write(&mut self, flow: FlowId, bytes: &[u8]) -> FlowWrite {
        if !self.send_held(flow) {
            return FlowWrite::Accepted(0);
        }
        let Some((entry, streams)) = self.at(flow) else { return FlowWrite::Reset };
        let circuit = entry.circuit;
        let Ok(taken) = streams.write(entry.stream, bytes) else {
            entry.write_over = true;
            self.settle(flow);
            return FlowWrite::Reset;
        };
        self.touch(circuit);
        FlowWrite::Accepted(taken)
    }

    /// Ends our direction in order.
    pub fn finish(&mut self, flow: FlowId) {
        if let Some(held) = self.held.get_mut(&flow) {
            held.finish = true;
            return;
        }
        let Some((entry, streams)) = self.at(flow) else { return };
        let circuit = entry.circuit;
        streams.finish(entry.stream);
        entry.write_over = true;
        self.touch(circuit);
        self.settle(flow);
    }

    /// Ends both directions at once.
    pub fn reset(&mut self, flow: FlowId) {
        self.held.remove(&flow);
        let Some((entry, streams)) = self.at(flow) else { return };
        let circuit = entry.circuit;
        streams.reset(entry.stream, RESET);
        streams.stop(entry.stream, RESET);
        (entry.read_over, entry.write_over) = (true, true);
        self.touch(circuit);
        self.settle(flow);
    }

    /// Stops reading; what still comes is dropped.
    pub fn stop(&mut self, flow: FlowId) {
        let Some((entry, streams)) = self.at(flow) else { return };
        let circuit = entry.circuit;
        streams.stop(entry.stream, RESET);
        entry.read_over = true;
        self.touch(circuit);
        self.settle(flow);
    }

    /// Forgets a flow whose directions are both over; its stream drains by itself.
    fn settle(&mut self, flow: FlowId) {
        if let Some(entry) = self.open.get(&flow)
            && entry.read_over
            && entry.write_over
        {
            let (circuit, stream) = (entry.circuit, entry.stream);
            self.open.remove(&flow);
            if let Some(carrier) = self.carriers.get_mut(&circuit) {
                carrier.flows.remove(&stream);
            }
        }
    }
}
