//! Questions about the directory, which exits answer: what is lacking here, asked where nobody sees who asks.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use circuit::keys::RelayId;
use circuit::request::{Host, Target};
use circuit::table::CircuitKey;
use directory::exchange::{MAX_ANSWER, MAX_REQUEST as MAX_QUESTION};

use super::{
    Circuit, ClientNode, Entry, FlowId, FlowRead, Kind, MAX_REQUEST, Now, Purpose, ReplyCode, Request,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer about the directory, and the relay that gave it.
pub type Answer = (RelayId, Vec<u8>);

/// A question that no circuit has taken yet.
#[derive(Debug)]
struct Waiting {
    number: u64,
    at: Instant,
    question: Vec<u8>,
}

/// A question that was asked.
#[derive(Debug)]
struct Asked {
    number: u64,
    at: Instant,
    exit: RelayId,
    /// What has come: the code, and the answer.
    answer: Vec<u8>,
}

/// Questions under way, and the answers that nobody has asked for yet.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: VecDeque<Waiting>,
    asked: BTreeMap<FlowId, Asked>,
    done: BTreeMap<u64, Option<Answer>>,
    last: u64,
}

impl Questions {
    pub(super) fn has(&self, flow: FlowId) -> bool {
        self.asked.contains_key(&flow)
    }
}

impl ClientNode {
    /// Asks the exit of a circuit that carries nothing else; the number is for [`ClientNode::take_answer`].
    pub fn ask_directory(&mut self, now: Now, question: &[u8]) -> u64 {
        self.questions.last += 1;
        let number = self.questions.last;
        if question.len() > MAX_QUESTION {
            self.questions.done.insert(number, None);
            return number;
        }
        let waiting = Waiting { number, at: now.instant, question: question.to_vec() };
        self.questions.waiting.push_back(waiting);
        self.settle(now);
        number
    }

    /// Asks what waits, if there is a circuit for it.
    pub(super) fn ask_waiting(&mut self, now: Now) {
        while let Some(waiting) = self.questions.waiting.pop_front() {
            let asked = self.circuit_for_questions().is_some_and(|key| self.put(now, key, &waiting));
            if !asked {
                self.questions.waiting.push_front(waiting);
                return;
            }
        }
    }

    /// A circuit for questions that stands, else a spare one, which is for nothing else from now on: who answers must not
    /// learn whose streams the asker has.
    // directory.stream.2
    fn circuit_for_questions(&mut self) -> Option<CircuitKey> {
        let stands = |c: &Circuit| c.opened.is_some() && c.silent.is_none() && !c.retired;
        let own = self.pool.iter().find(|(_, c)| c.purpose == Purpose::Questions && stands(c));
        if let Some((key, _)) = own {
            return Some(*key);
        }
        let (key, spare) = self.pool.iter_mut().find(|(_, c)| c.is_spare())?;
        spare.purpose = Purpose::Questions;
        Some(*key)
    }

    /// Builds a circuit for what waits, unless one is being built that may serve.
    pub(super) fn build_for_questions(&mut self, now: Now, entry: Entry) {
        let serves = |c: &Circuit| {
            c.opened.is_none() && !c.raced && matches!(c.purpose, Purpose::Spare | Purpose::Questions)
        };
        if self.questions.waiting.is_empty()
            || self.backoff.waits(now.instant)
            || self.pool.values().any(serves)
            || self.pool.values().any(|c| c.purpose == Purpose::Questions && c.silent.is_none() && !c.retired)
        {
            return;
        }
        if let Err(no_path) = self.build(now, entry, Purpose::Questions, None) {
            self.counts.last_error = Some(no_path.to_string());
        }
    }

    /// Sends a question over a circuit; false if that may open no more streams now.
    fn put(&mut self, now: Now, key: CircuitKey, waiting: &Waiting) -> bool {
        let flow = self.flows.reserve();
        let exit = self.pool.get(&key).and_then(|circuit| circuit.path.last().copied());
        let Some(exit) = exit.filter(|_| self.flows.open(key, flow)) else { return false };
        let target = Target { host: Host::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port: 0 };
        let mut header = [0; MAX_REQUEST];
        let mut writer = wire::Writer::new(&mut header);
        let request = Request { kind: Kind::Directory, target };
        let written = request.write(&mut writer).map_or(0, |()| writer.written());
        let whole = [header.get(..written).unwrap_or_default(), &waiting.question].concat();
        // A stream that is gone again is found out by its event.
        let _ = self.flows.send(flow, &whole);
        self.flows.finish(flow);
        self.grant(key);
        if let Some(circuit) = self.pool.get_mut(&key) {
            circuit.used = Some(now.instant);
        }
        let asked = Asked { number: waiting.number, at: waiting.at, exit, answer: Vec::new() };
        self.questions.asked.insert(flow, asked);
        true
    }

    /// What came of a question, once something has: an answer, or nothing; it is forgotten.
    pub fn take_answer(&mut self, now: Now, number: u64) -> Option<Option<Answer>> {
        let late = |at| now.instant.saturating_duration_since(at) > PATIENCE;
        let mut waiting = self.questions.waiting.iter();
        if waiting.any(|waiting| waiting.number == number && late(waiting.at)) {
            self.questions.waiting.retain(|waiting| waiting.number != number);
            self.questions.done.insert(number, None);
        }
        let late = self.questions.asked.iter().find(|(_, asked)| asked.number == number && late(asked.at));
        if let Some((flow, _)) = late {
            self.end_question(*flow, false);
        }
        self.questions.done.remove(&number)
    }

    /// Something came of a question, or its circuit is gone.
    // directory.stream.1
    pub(super) fn answered(&mut self, flow: FlowId) {
        loop {
            let Some(asked) = self.questions.asked.get_mut(&flow) else { return };
            match self.flows.read(flow, MAX_ANSWER) {
                FlowRead::Data(more) => asked.answer.extend_from_slice(&more),
                FlowRead::Blocked => return,
                FlowRead::Finished => return self.end_question(flow, true),
                FlowRead::Reset => return self.end_question(flow, false),
            }
            if asked.answer.len() > 1 + MAX_ANSWER {
                return self.end_question(flow, false);
            }
        }
    }

    fn end_question(&mut self, flow: FlowId, whole: bool) {
        self.flows.reset(flow);
        let Some(asked) = self.questions.asked.remove(&flow) else { return };
        let answer = match asked.answer.split_first() {
            Some((code, answer)) if whole && *code == ReplyCode::Succeeded.byte() => {
                Some((asked.exit, answer.to_vec()))
            }
            _ => None,
        };
        self.questions.done.insert(asked.number, answer);
    }
}
