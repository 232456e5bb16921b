//! The exit, pure: requests of streams, the exit policy, limits; connections are made by the driver
//! (docs/spec/02-circuit.md section 3).

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use circuit::error::Misbehaved;
use circuit::flows::{FlowEvent, Flows};
use circuit::keys::Random;
use circuit::node::{Event, FlowId, FlowRead, FlowWrite};
use circuit::request::{Host, Kind, MAX_REQUEST, ReplyCode, Request};
use circuit::stream::{End, StreamConfig};
use circuit::table::CircuitKey;
use directory::exchange::MAX_REQUEST as MAX_QUESTION;

use crate::policy::ExitPolicy;

/// The most flows of an exit.
const MAX_FLOWS: usize = 16_384;
/// The most questions about the directory that are read or answered at once; for one more the oldest is given up.
const MAX_QUESTIONS: usize = 16;
/// What an exit believes of the round trip before it has measured it.
const FIRST_RTT: Duration = Duration::from_millis(200);

/// Where a flow stands.
#[derive(Debug)]
enum Stage {
    /// The request has not come whole.
    Reading(Vec<u8>),
    /// The question about the directory has not come whole.
    Asking(Vec<u8>),
    /// The driver looks for the answer.
    Asked,
    /// The driver connects.
    Connecting(Bytes),
    /// Bytes pass; the ones that came with the request first.
    Open(Bytes),
}

/// What the exit did with requests since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCounts {
    /// Connections made.
    pub connected: u64,
    /// Refused by the policy.
    pub refused: u64,
    /// Not connected for any other reason.
    pub failed: u64,
}

/// Streams and their destinations.
#[derive(Debug)]
pub struct Exit {
    policy: ExitPolicy,
    flows: Flows,
    stages: HashMap<FlowId, Stage>,
    /// Whether questions about the directory are answered.
    directory: bool,
    /// Flows with such questions, until they are over; the oldest first.
    questions: VecDeque<FlowId>,
    events: VecDeque<Event>,
    /// Circuits whose streams are over.
    lost: VecDeque<CircuitKey>,
    counts: ExitCounts,
}

impl Exit {
    /// An exit with this policy.
    pub fn new(policy: ExitPolicy, streams: StreamConfig, rng: Random) -> Self {
        Self {
            policy,
            flows: Flows::new(End::Exit, streams, rng),
            stages: HashMap::new(),
            directory: false,
            questions: VecDeque::new(),
            events: VecDeque::new(),
            lost: VecDeque::new(),
            counts: ExitCounts::default(),
        }
    }

    /// Has questions about the directory answered from now on.
    pub const fn serve_directory(&mut self) {
        self.directory = true;
    }

    /// Whether the exit may connect to a resolved address (circuit.exit.1).
    pub fn allows(&self, ip: IpAddr, port: u16) -> bool {
        self.policy.check(ip, port)
    }

    /// Takes a QUIC packet of a circuit that ends here; an error ends the circuit.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        circuit: CircuitKey,
        packet: &[u8],
    ) -> Result<(), Misbehaved> {
        if !self.flows.has(circuit) {
            self.flows.add(now, circuit, FIRST_RTT).map_err(|_| Misbehaved("no streams"))?;
        }
        self.flows.handle_packet(now, circuit, packet)?;
        self.collect();
        Ok(())
    }

    /// The circuit is gone.
    pub fn remove(&mut self, circuit: CircuitKey) {
        self.flows.remove(circuit);
        self.collect();
    }

    /// The next QUIC packet of a circuit that may send, and the circuit.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        out: &mut [u8],
        may_send: impl FnMut(CircuitKey) -> bool,
    ) -> Option<(CircuitKey, usize)> {
        let next = self.flows.poll_transmit(now, out, may_send);
        self.collect();
        next
    }

    /// A circuit that had to wait may send again.
    pub fn wake(&mut self, circuit: CircuitKey) {
        self.flows.wake(circuit);
    }

    /// When [`Exit::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.flows.poll_timeout()
    }

    /// Lets the timers of the streams run.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.flows.handle_timeout(now);
        self.collect();
    }

    /// What the driver is to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next circuit that is to be closed, its streams being over.
    pub fn poll_lost(&mut self) -> Option<CircuitKey> {
        self.lost.pop_front()
    }

    fn collect(&mut self) {
        while let Some(event) = self.flows.poll_event() {
            match event {
                FlowEvent::Opened(flow, _) => {
                    self.stages.insert(flow, Stage::Reading(Vec::new()));
                    self.read_request(flow);
                }
                FlowEvent::Readable(flow) => match self.stages.get(&flow) {
                    Some(Stage::Reading(_)) => self.read_request(flow),
                    Some(Stage::Asking(_)) => self.read_question(flow),
                    Some(Stage::Open(_)) => self.events.push_back(Event::Readable(flow)),
                    // A reset while connecting is found once connected.
                    Some(Stage::Asked | Stage::Connecting(_)) | None => {}
                },
                FlowEvent::Writable(flow) => self.events.push_back(Event::Writable(flow)),
                FlowEvent::Closed(flow) => {
                    self.stages.remove(&flow);
                    self.events.push_back(Event::Closed(flow));
                }
                FlowEvent::Available(_) => {}
                FlowEvent::Lost(circuit, _) => self.lost.push_back(circuit),
            }
        }
    }

    /// Reads on until the request is whole, and acts on it.
    fn read_request(&mut self, flow: FlowId) {
        loop {
            let Some(Stage::Reading(bytes)) = self.stages.get_mut(&flow) else { return };
            match Request::read(bytes) {
                Err(_) => return self.answer_and_end(flow, ReplyCode::GeneralFailure),
                Ok(Some((request, length))) => {
                    let rest = Bytes::copy_from_slice(bytes.get(length..).unwrap_or_default());
                    return self.begin(flow, request, rest);
                }
                Ok(None) => {}
            }
            let want = MAX_REQUEST.saturating_sub(bytes.len()).max(1);
            match self.flows.read(flow, want) {
                FlowRead::Data(more) => {
                    if let Some(Stage::Reading(bytes)) = self.stages.get_mut(&flow) {
                        bytes.extend_from_slice(&more);
                    }
                }
                FlowRead::Blocked => return,
                FlowRead::Finished | FlowRead::Reset => {
                    self.flows.reset(flow);
                    self.stages.remove(&flow);
                    return;
                }
            }
        }
    }

    fn begin(&mut self, flow: FlowId, request: Request, rest: Bytes) {
        // circuit.ping.1
        if request.kind == Kind::Ping {
            return self.answer_and_end(flow, ReplyCode::Succeeded);
        }
        if request.kind == Kind::Directory && self.directory {
            return self.begin_question(flow, &rest);
        }
        if request.kind != Kind::Connect {
            return self.answer_and_end(flow, ReplyCode::CommandNotSupported);
        }
        if self.stages.len() > MAX_FLOWS {
            return self.answer_and_end(flow, ReplyCode::GeneralFailure);
        }
        if let Host::Ip(ip) = request.target.host
            && !self.allows(ip, request.target.port)
        {
            return self.answer_and_end(flow, ReplyCode::NotAllowed);
        }
        self.stages.insert(flow, Stage::Connecting(rest));
        self.events.push_back(Event::Connect(flow, request.target));
    }

    fn begin_question(&mut self, flow: FlowId, rest: &[u8]) {
        self.questions.retain(|flow| self.flows.circuit(*flow).is_some());
        if self.questions.len() >= MAX_QUESTIONS
            && let Some(oldest) = self.questions.pop_front()
        {
            self.reset(oldest);
        }
        self.questions.push_back(flow);
        self.stages.insert(flow, Stage::Asking(rest.to_vec()));
        self.read_question(flow);
    }

    /// Reads to the end of the question, and has it answered.
    // directory.stream.1
    fn read_question(&mut self, flow: FlowId) {
        loop {
            let Some(Stage::Asking(question)) = self.stages.get_mut(&flow) else { return };
            if question.len() > MAX_QUESTION {
                return self.answer_and_end(flow, ReplyCode::GeneralFailure);
            }
            match self.flows.read(flow, MAX_QUESTION) {
                FlowRead::Data(more) => question.extend_from_slice(&more),
                FlowRead::Blocked => return,
                FlowRead::Finished => {
                    let question = core::mem::take(question);
                    self.stages.insert(flow, Stage::Asked);
                    self.events.push_back(Event::Directory(flow, question.into()));
                    return;
                }
                FlowRead::Reset => return self.reset(flow),
            }
        }
    }

    /// The circuit of a flow, unless it is gone.
    pub fn circuit(&self, flow: FlowId) -> Option<CircuitKey> {
        self.flows.circuit(flow)
    }

    /// The answer to a question about the directory, if it deserves one.
    pub fn answer_directory(&mut self, flow: FlowId, answer: Option<Vec<u8>>) {
        let Some(Stage::Asked) = self.stages.get(&flow) else { return };
        let Some(mut answer) = answer else {
            return self.answer_and_end(flow, ReplyCode::GeneralFailure);
        };
        answer.insert(0, ReplyCode::Succeeded.byte());
        // A peer that takes no answer has left.
        let _ = self.flows.send(flow, &answer);
        self.flows.finish(flow);
        self.stages.remove(&flow);
    }

    /// The driver has connected, or has not.
    pub fn connected(&mut self, flow: FlowId, outcome: ReplyCode) {
        let Some(Stage::Connecting(rest)) = self.stages.get_mut(&flow) else { return };
        if outcome != ReplyCode::Succeeded {
            return self.answer_and_end(flow, outcome);
        }
        let rest = core::mem::take(rest);
        self.stages.insert(flow, Stage::Open(rest));
        self.counts.connected += 1;
        if self.flows.send(flow, &[ReplyCode::Succeeded.byte()]) == FlowWrite::Reset {
            self.reset(flow);
            self.events.push_back(Event::Closed(flow));
        }
    }

    fn answer_and_end(&mut self, flow: FlowId, code: ReplyCode) {
        match code {
            ReplyCode::Succeeded => {}
            ReplyCode::NotAllowed => self.counts.refused += 1,
            _ => self.counts.failed += 1,
        }
        // A peer that takes no answer has left.
        let _ = self.flows.send(flow, &[code.byte()]);
        self.flows.finish(flow);
        self.flows.stop(flow);
        self.stages.remove(&flow);
    }

    /// Bytes for the destination.
    pub fn read(&mut self, flow: FlowId, max: usize) -> FlowRead {
        match self.stages.get_mut(&flow) {
            Some(Stage::Open(rest)) if !rest.is_empty() => FlowRead::Data(rest.split_to(max.min(rest.len()))),
            Some(Stage::Open(_)) => {
                let read = self.flows.read(flow, max);
                self.forget_if_over(flow);
                read
            }
            Some(Stage::Reading(_) | Stage::Asking(_) | Stage::Asked | Stage::Connecting(_)) => {
                FlowRead::Blocked
            }
            None => FlowRead::Reset,
        }
    }

    /// Bytes from the destination.
    pub fn write(&mut self, flow: FlowId, bytes: &[u8]) -> FlowWrite {
        let written = self.flows.write(flow, bytes);
        self.forget_if_over(flow);
        written
    }

    /// The destination ended its direction.
    pub fn finish(&mut self, flow: FlowId) {
        self.flows.finish(flow);
        self.forget_if_over(flow);
    }

    /// The connection to the destination is gone.
    pub fn reset(&mut self, flow: FlowId) {
        self.flows.reset(flow);
        self.stages.remove(&flow);
    }

    /// Forgets a flow whose directions are both over.
    fn forget_if_over(&mut self, flow: FlowId) {
        if self.flows.circuit(flow).is_none() {
            self.stages.remove(&flow);
        }
    }

    /// The number of flows.
    pub fn open(&self) -> usize {
        self.stages.len()
    }

    /// The number of flows of a circuit.
    pub fn on(&self, circuit: CircuitKey) -> usize {
        self.flows.on(circuit)
    }

    /// What was done with requests.
    pub const fn counts(&self) -> ExitCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests;
