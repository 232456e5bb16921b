//! How streams of applications find their circuits.

use super::{
    BTreeMap, Circuit, CircuitKey, ClientNode, Credentials, Entry, Event, Failure, FlowEvent, FlowId,
    FlowRead, Kind, MAX_BUILDING, MAX_REQUEST, NoPath, Now, Purpose, ReplyCode, Request, Stage, View,
};
use std::time::Duration;

/// How long an application waits for a circuit.
const WAIT: Duration = Duration::from_secs(30);
/// How long an exit may take to resolve a name and to connect.
const ANSWER: Duration = Duration::from_secs(45);
/// A setup that takes longer than this is raced by another.
const SLOW: Duration = Duration::from_secs(1);
/// A circuit that was heard so recently works, if nothing has failed since.
const HEARD: Duration = Duration::from_secs(1);
/// Test circuits that are begun in one go.
const TESTS_AT_ONCE: usize = 64;
/// Circuits that are tried for one stream.
const TRIES: u32 = 5;

impl ClientNode {
    /// Attaches what waits, and builds what is missing.
    pub(super) fn settle(&mut self, now: Now) {
        self.give_up_late(now);
        let missing = self.attach_waiting(now);
        self.ask_waiting(now);
        match self.entry_up(now) {
            Err(no_path) => self.refuse_waiting(&no_path, None),
            Ok(None) => {}
            Ok(Some(entry)) => {
                self.build_missing(now, entry, &missing);
                self.build_for_questions(now, entry);
                self.build_tests(now, entry);
            }
        }
        self.act(now);
    }

    /// Attaches the wishes that a circuit can take; the ports and numbers of those that need one more.
    fn attach_waiting(&mut self, now: Now) -> BTreeMap<Option<Credentials>, u16> {
        let mut missing = BTreeMap::new();
        let mut left = std::collections::VecDeque::new();
        while let Some(flow) = self.waiting.pop_front() {
            let Some(wish) = self.wishes.get(&flow) else { continue };
            let (isolation, port) = (wish.isolation.clone(), wish.target.port);
            match self.circuit_for(now, isolation.as_ref(), port) {
                Some(key) if self.ask(now, flow, key) => {}
                // A circuit that is there but full will have room again.
                Some(_) => left.push_back(flow),
                None => {
                    left.push_back(flow);
                    missing.entry(isolation).or_insert(port);
                }
            }
        }
        self.waiting = left;
        missing
    }

    /// A circuit that may take a stream of this application to this port; a spare one becomes the application's.
    ///
    /// Not one over a relay that has failed elsewhere, unless it was just heard, and since: to find that out takes longer than
    /// to build another.
    fn circuit_for(&mut self, now: Now, isolation: Option<&Credentials>, port: u16) -> Option<CircuitKey> {
        let (view, quality) = (self.paths.view(), self.paths.quality());
        let doubted = |circuit: &Circuit| {
            let long_ago = now.instant.saturating_duration_since(circuit.heard) > HEARD;
            let mut struck = circuit.path.iter().skip(1).filter_map(|id| quality.struck(now.instant, id));
            struck.any(|at| long_ago || at >= circuit.heard)
        };
        let own = self
            .pool
            .iter()
            .find(|(_, c)| c.takes(now.instant, isolation) && serves(view, c, port) && !doubted(c));
        if let Some((key, _)) = own {
            return Some(*key);
        }
        let (key, spare) =
            self.pool.iter_mut().find(|(_, c)| c.is_spare() && serves(view, c, port) && !doubted(c))?;
        spare.purpose = Purpose::Streams(isolation.cloned());
        spare.used = Some(now.instant);
        Some(*key)
    }

    /// Sends the request of a wish over a circuit; false if the circuit may open no more streams now.
    fn ask(&mut self, now: Now, flow: FlowId, key: CircuitKey) -> bool {
        if !self.flows.open(key, flow) {
            return false;
        }
        let Some(wish) = self.wishes.get_mut(&flow) else { return false };
        self.ports.note(now.instant, wish.target.port);
        let request = Request { kind: Kind::Connect, target: wish.target.clone() };
        wish.stage = Stage::Asked { at: now.instant, wrote: false };
        wish.tries += 1;
        self.request(flow, &request);
        self.grant(key);
        self.events.push_back(Event::Writable(flow));
        true
    }

    /// Sends the first bytes of a stream.
    pub(super) fn request(&mut self, flow: FlowId, request: &Request) {
        let mut bytes = [0; MAX_REQUEST];
        let mut writer = wire::Writer::new(&mut bytes);
        let written = request.write(&mut writer).map_or(0, |()| writer.written());
        // A stream that is gone again is found out by its event.
        let _ = self.flows.send(flow, bytes.get(..written).unwrap_or_default());
    }

    fn build_missing(&mut self, now: Now, entry: Entry, missing: &BTreeMap<Option<Credentials>, u16>) {
        if self.backoff.waits(now.instant) {
            return;
        }
        let building =
            self.pool.values().filter(|c| c.opened.is_none() && c.purpose == Purpose::Spare).count();
        let spare = self.pool.values().filter(|c| c.is_spare()).count();
        let slow = self.doubt_slow(now);
        let active = building.saturating_sub(slow);
        let room = MAX_BUILDING.saturating_sub(building);
        let unserved = self.unserved(now);
        let mut spares = self.prebuilt.saturating_sub(spare);
        if spares == 0 && spare < 2 * self.prebuilt && !unserved.is_empty() {
            spares = 1;
        }
        let wanted = missing.len() + spares;
        let ports = missing.values().map(|port| (Some(*port), false));
        let ports = ports.chain(unserved.into_iter().map(|port| (Some(port), true)));
        let ports = ports.chain(std::iter::repeat((None, true)));
        for (port, spare) in ports.take(wanted).skip(active).take(room) {
            match (self.build(now, entry, Purpose::Spare, port), port) {
                (Ok(()), _) => {}
                // Nobody waits for this one.
                (Err(_), Some(port)) if spare => self.ports.forget(port),
                // Others may want ports that are served.
                (Err(no_path), Some(_)) if no_path.port().is_some() => self.refuse_waiting(&no_path, port),
                (Err(no_path), _) => return self.refuse_waiting(&no_path, None),
            }
        }
    }

    /// Ports that streams went to of late, and that no spare circuit serves.
    // path.circuit.1
    fn unserved(&self, now: Now) -> Vec<u16> {
        let view = self.paths.view();
        let served = |port: u16| self.pool.values().any(|c| c.is_spare() && serves(view, c, port));
        self.ports.recent(now.instant).filter(|port| !served(*port)).collect()
    }

    /// A setup that takes long is raced by another one, over other relays if there are any; how many there are.
    fn doubt_slow(&mut self, now: Now) -> usize {
        let is_slow =
            |c: &Circuit| c.opened.is_none() && now.instant.saturating_duration_since(c.began) > SLOW;
        let fresh: Vec<_> =
            self.pool.iter().filter(|(_, c)| is_slow(c) && !c.raced).map(|(key, _)| *key).collect();
        for key in fresh {
            self.avoid_beyond_entry(now, key);
            if let Some(circuit) = self.pool.get_mut(&key) {
                circuit.raced = true;
            }
        }
        self.pool.values().filter(|c| is_slow(c)).count()
    }

    fn build_tests(&mut self, now: Now, entry: Entry) {
        let numbers: Vec<_> = self.tests.keys().copied().collect();
        for number in numbers {
            // The first of them are to be sent before the last are made.
            for _ in 0..TESTS_AT_ONCE {
                let Some(run) = self.tests.get_mut(&number).filter(|run| run.may_begin()) else { break };
                run.begun += 1;
                if let Err(no_path) = self.build(now, entry, Purpose::Test(number), None) {
                    self.counts.last_error = Some(no_path.to_string());
                    self.note_test(now, &Purpose::Test(number), Failure::NoPath);
                }
            }
        }
    }

    /// No circuit can take the waiting wishes for this port (for any, if none is named) as things are.
    fn refuse_waiting(&mut self, no_path: &NoPath, port: Option<u16>) {
        self.counts.last_error = Some(no_path.to_string());
        for flow in std::mem::take(&mut self.waiting) {
            if self.wishes.get(&flow).is_some_and(|wish| port.is_some_and(|port| port != wish.target.port)) {
                self.waiting.push_back(flow);
            } else {
                self.answer(flow, ReplyCode::NetworkUnreachable);
            }
        }
    }

    fn give_up_late(&mut self, now: Now) {
        let late: Vec<_> = self
            .waiting
            .iter()
            .filter(|flow| {
                self.wishes.get(flow).is_none_or(|wish| {
                    now.instant.saturating_duration_since(wish.since) > WAIT || wish.tries >= TRIES
                })
            })
            .copied()
            .collect();
        for flow in late {
            self.waiting.retain(|waiting| *waiting != flow);
            self.answer(flow, ReplyCode::TtlExpired);
        }
    }

    /// Answers a wish that is over.
    fn answer(&mut self, flow: FlowId, code: ReplyCode) {
        if self.wishes.remove(&flow).is_some() {
            self.events.push_back(Event::Answered(flow, code));
        }
    }

    pub(super) fn handle_flow_event(&mut self, now: Now, event: FlowEvent) {
        match event {
            FlowEvent::Readable(flow) | FlowEvent::Closed(flow) if self.pings.has(flow) => {
                self.echoed(now, flow);
            }
            FlowEvent::Readable(flow) | FlowEvent::Closed(flow) if self.questions.has(flow) => {
                self.answered(flow);
            }
            FlowEvent::Readable(flow) => self.readable(now, flow),
            FlowEvent::Writable(flow) => self.events.push_back(Event::Writable(flow)),
            FlowEvent::Closed(flow) => self.closed(flow),
            FlowEvent::Lost(circuit, _) => self.close(now, circuit),
            // A client accepts no streams; wishes that wait for room are looked at in `settle`.
            FlowEvent::Opened(flow, _) => self.flows.reset(flow),
            FlowEvent::Available(_) => {}
        }
    }

    fn readable(&mut self, now: Now, flow: FlowId) {
        match self.wishes.get(&flow).map(|wish| wish.stage) {
            Some(Stage::Asked { .. }) => match self.flows.read(flow, 1) {
                FlowRead::Data(byte) => {
                    let code = ReplyCode::from_byte(byte.first().copied().unwrap_or(1));
                    if code == ReplyCode::Succeeded {
                        if let Some(wish) = self.wishes.get_mut(&flow) {
                            wish.stage = Stage::Open;
                            if wish.finished {
                                self.flows.finish(flow);
                            }
                        }
                        self.events.push_back(Event::Answered(flow, code));
                    } else {
                        self.flows.reset(flow);
                        self.answer(flow, code);
                    }
                }
                FlowRead::Blocked => {}
                FlowRead::Finished | FlowRead::Reset => {
                    self.flows.reset(flow);
                    self.answer(flow, ReplyCode::GeneralFailure);
                }
            },
            Some(Stage::Open) => self.events.push_back(Event::Readable(flow)),
            Some(Stage::Waiting) | None => {}
        }
        self.forget_if_over(now, flow);
    }

    /// The circuit of a flow is gone: a request that nothing followed is made again elsewhere.
    fn closed(&mut self, flow: FlowId) {
        let Some(wish) = self.wishes.get_mut(&flow) else { return };
        match wish.stage {
            Stage::Asked { wrote: false, .. } => {
                wish.stage = Stage::Waiting;
                self.waiting.push_back(flow);
            }
            Stage::Asked { wrote: true, .. } => self.answer(flow, ReplyCode::GeneralFailure),
            Stage::Waiting => {}
            Stage::Open => {
                self.wishes.remove(&flow);
                self.events.push_back(Event::Closed(flow));
            }
        }
    }

    /// Finds circuits that do not answer, and asks elsewhere what was asked there.
    pub(super) fn find_silence(&mut self, now: Now) {
        let mut again = vec![];
        for (flow, wish) in &self.wishes {
            let Stage::Asked { at, wrote } = wish.stage else { continue };
            let Some(key) = self.flows.circuit(*flow) else { continue };
            let Some(circuit) = self.pool.get_mut(&key) else { continue };
            let waited = now.instant.saturating_duration_since(at);
            // What comes sooner than this was under way before the exit had the request.
            let rtt = self.flows.stats(key).map(|stats| stats.rtt).unwrap_or_default();
            // The setup may have taken long for reasons of its own.
            let patience = circuit.patience().min((rtt * 3).max(SLOW));
            if waited > patience && circuit.heard < at + rtt * 3 / 4 {
                circuit.silent.get_or_insert(now.instant);
                if !wrote {
                    again.push((*flow, key));
                }
            }
        }
        self.leave_mute_exits(now);
        for (flow, key) in again {
            self.flows.reset(flow);
            self.avoid_beyond_entry(now, key);
            if let Some(wish) = self.wishes.get_mut(&flow) {
                wish.stage = Stage::Waiting;
                self.waiting.push_back(flow);
            }
        }
    }

    /// An exit that takes requests and does not answer them is left.
    fn leave_mute_exits(&mut self, now: Now) {
        let mute = |stage| matches!(stage, Stage::Asked { at, .. } if now.instant.saturating_duration_since(at) > ANSWER);
        let unanswered: Vec<_> =
            self.wishes.iter().filter(|(_, wish)| mute(wish.stage)).map(|(flow, _)| *flow).collect();
        for flow in unanswered {
            let exit = self.flows.circuit(flow).and_then(|key| self.pool.get(&key)?.path.last().copied());
            if let Some(exit) = exit {
                self.paths.quality_mut().strike(now.instant, exit);
            }
            self.flows.reset(flow);
            self.answer(flow, ReplyCode::TtlExpired);
        }
    }

    /// Forgets a stream whose directions are both over.
    pub(super) fn forget_if_over(&mut self, now: Now, flow: FlowId) {
        if self.flows.circuit(flow).is_none()
            && self.wishes.get(&flow).is_some_and(|wish| wish.stage == Stage::Open)
        {
            self.wishes.remove(&flow);
        }
        self.tick.get_or_insert(now.instant);
    }
}

/// Whether the exit of a circuit serves a port.
fn serves(view: &View, circuit: &Circuit, port: u16) -> bool {
    let exit = circuit.path.last().and_then(|id| view.get(id)?.exit.as_ref());
    exit.is_some_and(|exit| exit.accepts(port))
}
