//! Answers of exits themselves: how long the way there and back takes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use circuit::keys::RelayId;
use circuit::request::{Host, Target};
use circuit::table::CircuitKey;

use super::{ClientNode, FlowId, FlowRead, Kind, Now, ReplyCode, Request, TestRun};

/// How long an echo may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Circuits that are built to measure the way over one relay.
const BUILDS: usize = 3;

/// What came of one echo.
#[derive(Clone, Debug)]
pub struct Echo {
    /// The circuit.
    pub circuit: CircuitKey,
    /// Its relays, entry first.
    pub path: Vec<RelayId>,
    /// How long it took; nothing if no answer came.
    pub time: Option<Duration>,
}

/// An echo that is waited for.
#[derive(Debug)]
struct Sent {
    run: u64,
    at: Instant,
    circuit: CircuitKey,
    path: Vec<RelayId>,
}

/// Echoes under way, and the results of those that nobody has asked for yet.
#[derive(Debug, Default)]
pub(super) struct Pings {
    sent: BTreeMap<FlowId, Sent>,
    done: BTreeMap<u64, Vec<Echo>>,
    last: u64,
}

impl Pings {
    pub(super) fn has(&self, flow: FlowId) -> bool {
        self.sent.contains_key(&flow)
    }
}

impl ClientNode {
    /// Has the exits of circuits that stand answer: of all of them, or of the one that was heard last.
    ///
    /// The number is for [`ClientNode::take_echoes`].
    pub fn ping(&mut self, now: Now, all: bool) -> u64 {
        self.pings.last += 1;
        let run = self.pings.last;
        self.pings.done.insert(run, vec![]);
        let standing = self.pool.iter().filter(|(_, c)| c.opened.is_some() && c.silent.is_none());
        let mut circuits: Vec<_> = standing.map(|(key, c)| (c.heard, *key, c.path.clone())).collect();
        if !all {
            circuits = circuits.into_iter().max_by_key(|(heard, ..)| *heard).into_iter().collect();
        }
        for (_, circuit, path) in circuits {
            let flow = self.flows.reserve();
            if self.flows.open(circuit, flow) {
                let target = Target { host: Host::Ip(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port: 0 };
                self.request(flow, &Request { kind: Kind::Ping, target });
                self.grant(circuit);
                self.pings.sent.insert(flow, Sent { run, at: now.instant, circuit, path });
            } else {
                self.note_echo(run, Echo { circuit, path, time: None });
            }
        }
        self.act(now);
        run
    }

    /// The echoes of a call, once all have come or are given up; they are forgotten.
    pub fn take_echoes(&mut self, now: Now, run: u64) -> Option<Vec<Echo>> {
        let late = |sent: &Sent| now.instant.saturating_duration_since(sent.at) > PATIENCE;
        let late: Vec<_> = self
            .pings
            .sent
            .iter()
            .filter(|(_, sent)| sent.run == run && late(sent))
            .map(|(flow, _)| *flow)
            .collect();
        for flow in late {
            self.end_echo(flow, None);
        }
        if self.pings.sent.values().any(|sent| sent.run == run) {
            return None;
        }
        self.pings.done.remove(&run)
    }

    /// Builds a few circuits with a relay, which is their exit if it is one; for [`ClientNode::take_test`].
    pub fn probe(&mut self, now: Now, relay: RelayId) -> u64 {
        let number = self.tests.keys().next_back().map_or(1, |last| last + 1);
        let run = TestRun { via: Some(relay), ..TestRun::new(now.instant, BUILDS, 1) };
        self.tests.insert(number, run);
        self.settle(now);
        number
    }

    /// Something came of an echo, or its circuit is gone.
    pub(super) fn echoed(&mut self, now: Now, flow: FlowId) {
        let Some(sent) = self.pings.sent.get(&flow) else { return };
        let time = now.instant.saturating_duration_since(sent.at);
        match self.flows.read(flow, 1) {
            FlowRead::Data(code) => {
                let right = code.first() == Some(&ReplyCode::Succeeded.byte());
                self.end_echo(flow, right.then_some(time));
            }
            FlowRead::Blocked => {}
            FlowRead::Finished | FlowRead::Reset => self.end_echo(flow, None),
        }
    }

    fn end_echo(&mut self, flow: FlowId, time: Option<Duration>) {
        self.flows.reset(flow);
        if let Some(Sent { run, circuit, path, .. }) = self.pings.sent.remove(&flow) {
            self.note_echo(run, Echo { circuit, path, time });
        }
    }

    fn note_echo(&mut self, run: u64, echo: Echo) {
        if let Some(done) = self.pings.done.get_mut(&run) {
            done.push(echo);
        }
    }
}
