//! Questions about the directory, which exits answer: what is lacking here, asked where nobody sees who asks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use circuit::keys::RelayId;
use circuit::request::{Host, Target};
use directory::exchange::{MAX_ANSWER, MAX_REQUEST as MAX_QUESTION};

use super::{ClientNode, FlowId, FlowRead, Kind, MAX_REQUEST, Now, ReplyCode, Request};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer about the directory, and the relay that gave it.
pub type Answer = (RelayId, Vec<u8>);

/// A question that is waited for.
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
    /// Asks the exit of the circuit that was heard last; the number is for [`ClientNode::take_answer`].
    pub fn ask_directory(&mut self, now: Now, question: &[u8]) -> u64 {
        self.questions.last += 1;
        let number = self.questions.last;
        let standing = self.pool.iter().filter(|(_, c)| c.opened.is_some() && c.silent.is_none());
        let circuit = standing.max_by_key(|(_, c)| c.heard).map(|(key, c)| (*key, c.path.last().copied()));
        let flow = self.flows.reserve();
        match circuit {
            Some((key, Some(exit))) if question.len() <= MAX_QUESTION && self.flows.open(key, flow) => {
                let target = Target { host: Host::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port: 0 };
                let mut header = [0; MAX_REQUEST];
                let mut writer = wire::Writer::new(&mut header);
                let request = Request { kind: Kind::Directory, target };
                let written = request.write(&mut writer).map_or(0, |()| writer.written());
                let whole = [header.get(..written).unwrap_or_default(), question].concat();
                // A stream that is gone again is found out by its event.
                let _ = self.flows.send(flow, &whole);
                self.flows.finish(flow);
                self.grant(key);
                let asked = Asked { number, at: now.instant, exit, answer: Vec::new() };
                self.questions.asked.insert(flow, asked);
            }
            _ => drop(self.questions.done.insert(number, None)),
        }
        self.act(now);
        number
    }

    /// What came of a question, once something has: an answer, or nothing; it is forgotten.
    pub fn take_answer(&mut self, now: Now, number: u64) -> Option<Option<Answer>> {
        let late = |asked: &Asked| now.instant.saturating_duration_since(asked.at) > PATIENCE;
        let late = self.questions.asked.iter().find(|(_, asked)| asked.number == number && late(asked));
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
