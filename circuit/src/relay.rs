//! The relay's side of circuits: setups answered or passed on, cells opened and sealed, ends passed on
//! (docs/spec/02-circuit.md).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use crate::error::DropReason;
use crate::keys::{DhSecret, Random, RelayId};
use crate::layer::{Recognized, RelayLayer};
use crate::ledger::{AccountId, Ledger};
use crate::link::{Buckets, LinkId};
use crate::meter::Meter;
use crate::node::Now;
use crate::packet::{Cell, CircuitWord, PacketType};
use crate::seen::{LogEntry, SeenSetups};
use crate::setup::{Answer, Block, EPOCH_SECONDS, Status, read_rate, write_rate};
use crate::table::{CircuitKey, Found, Side, Table};

mod admit;
mod fare;

use fare::Fare;
pub use fare::{Asks, FIRST_GRANT, MAX_GRANT, SETUP_CELLS};

/// How long a setup that was passed on may stay unanswered.
const HALF_OPEN: Duration = Duration::from_secs(10);
/// The longest life that a client may ask for.
const MAX_LIFE: u64 = 24 * 3600;
/// How far an epoch's key is accepted beyond its epoch.
const EPOCH_SLACK: u64 = 300;
const SWEEP: Duration = Duration::from_secs(1);
const SWEEP_IDLE: Duration = Duration::from_secs(30);

/// What a relay is and how much it takes on.
#[derive(Clone, Copy, Debug)]
pub struct RelayConfig {
    /// The relay's name.
    pub id: RelayId,
    /// Whether it serves as an exit.
    pub exit: bool,
    /// Whether it serves as an exit to clients directly.
    pub single_hop: bool,
    /// The most circuits.
    pub circuits: usize,
    /// The most circuits of one neighbour.
    pub per_neighbour: u32,
    /// The most unanswered setups of one neighbour.
    pub half_open: u32,
    /// Setups per second and burst of a neighbouring relay.
    pub relay_setups: (u32, u32),
    /// Setups per second and burst of all clients of one prefix (/24, /48).
    pub client_setups: (u32, u32),
    /// What it asks for a cell; nothing on a free network.
    pub asks: Option<Asks>,
}

impl RelayConfig {
    /// The limits of docs/spec/02-circuit.md for a relay that is no exit.
    pub const fn new(id: RelayId) -> Self {
        Self {
            id,
            exit: false,
            single_hop: false,
            circuits: 65_536,
            per_neighbour: 16_384,
            half_open: 1_024,
            relay_setups: (10_000, 2_000),
            client_setups: (1_000, 1_000),
            asks: None,
        }
    }
}

/// The link that a packet came on, as far as circuits care.
#[derive(Clone, Copy, Debug)]
pub struct From {
    /// The link.
    pub link: LinkId,
    /// The relay at its other end; `None` for a client.
    pub peer: Option<RelayId>,
    /// Where its packets come from; clients of one network prefix share their setups.
    pub source: IpAddr,
    /// The opener bit of circuits that we open on it.
    pub our_opener: bool,
    /// What its circuits are charged to; nothing on a free network.
    pub account: Option<AccountId>,
}

/// What a relay wants done.
#[derive(Debug)]
pub enum Action {
    /// Write this into the log before sending anything that comes later.
    Log(LogEntry),
    /// Send a cell's worth of bytes under this word.
    Send(LinkId, CircuitWord, Box<Cell>),
    /// Find the next relay and a link to it, then call [`Relay::onward`] or [`Relay::refuse`].
    Extend(CircuitKey, RelayId),
    /// Tell the next relay that a circuit may have sent back so many cells in all.
    Grant(LinkId, CircuitWord, u64),
    /// A circuit that ends here may send more cells back.
    Granted(CircuitKey),
    /// A link carries one circuit more.
    Hold(LinkId),
    /// A link carries one circuit less.
    Release(LinkId),
    /// The circuit ended here.
    Ended(CircuitKey),
}

/// Where a received cell goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellStep {
    /// The buffer now holds the cell for this link and word.
    Pass(LinkId, CircuitWord),
    /// The body is for us, the last hop or one that the client talks to.
    Here(CircuitKey),
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most circuits are open; a box more would cost every cell")]
enum State {
    Waiting(Box<Waiting>),
    /// Between the two others, within one call.
    Answering,
    Open(RelayLayer),
}

/// A setup that was passed on and not yet answered.
#[derive(Debug)]
struct Waiting {
    answer: Answer,
    block: Block,
    onward: Cell,
    parity: bool,
    deadline: Instant,
    /// It was passed on twice.
    again: bool,
}

#[derive(Debug)]
struct Circuit {
    state: State,
    meter: Meter,
    fare: Fare,
    previous: LinkId,
    began: Instant,
    /// Unix seconds.
    expiry: u64,
    exit: bool,
}

/// What there is to show of a circuit.
#[derive(Clone, Copy, Debug)]
pub struct CircuitInfo {
    /// Its name.
    pub key: CircuitKey,
    /// When its setup came.
    pub began: Instant,
    /// Whether its setup has been answered.
    pub open: bool,
    /// Whether it ends here.
    pub ends_here: bool,
    /// The cells that it has passed.
    pub meter: Meter,
    /// The memory that it uses in the table, in bytes.
    pub memory: usize,
}

/// What one neighbour has of us.
#[derive(Debug)]
struct Neighbour {
    circuits: u32,
    half_open: u32,
    tokens: f64,
    filled: Instant,
}

impl Neighbour {
    /// Takes a token of the bucket of a relay.
    fn take(&mut self, now: Instant, rate: u32, burst: u32) -> bool {
        let earned = now.saturating_duration_since(self.filled).as_secs_f64() * f64::from(rate);
        self.tokens = (self.tokens + earned).min(f64::from(burst));
        self.filled = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

/// Cells by what was done with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CellCounts {
    /// Passed away from the origin.
    pub forward: u64,
    /// Passed towards the origin.
    pub backward: u64,
    /// Opened here.
    pub here: u64,
    /// Started here.
    pub started: u64,
}

/// All circuits of a relay.
#[derive(Debug)]
pub struct Relay {
    config: RelayConfig,
    rng: Random,
    onion: BTreeMap<u32, DhSecret>,
    seen: SeenSetups,
    circuits: Table<Circuit>,
    deadlines: BTreeSet<(Instant, CircuitKey)>,
    neighbours: HashMap<LinkId, Neighbour>,
    client_setups: Buckets,
    /// Ends to be passed on, by time.
    ends: BTreeMap<Instant, Vec<(LinkId, CircuitWord)>>,
    actions: VecDeque<Action>,
    swept: Option<Instant>,
    counts: CellCounts,
    ledger: Ledger,
    /// Circuits that were granted more than their account's credit covers.
    starved: BTreeSet<(AccountId, CircuitKey)>,
    /// No new circuits are taken.
    draining: bool,
}

impl Relay {
    /// A relay with its onion keys by epoch and the setups it has seen.
    pub fn new(
        config: RelayConfig,
        onion: BTreeMap<u32, DhSecret>,
        seen: SeenSetups,
        mut rng: Random,
    ) -> Self {
        Self {
            circuits: Table::new(config.circuits, &mut rng),
            client_setups: Buckets::new(config.client_setups.0, config.client_setups.1, &mut rng),
            config,
            rng,
            onion,
            seen,
            deadlines: BTreeSet::new(),
            neighbours: HashMap::new(),
            ends: BTreeMap::new(),
            actions: VecDeque::new(),
            swept: None,
            counts: CellCounts::default(),
            ledger: Ledger::default(),
            starved: BTreeSet::new(),
            draining: false,
        }
    }

    /// Replaces the onion keys, by epoch; those of epochs that are over are erased as before.
    pub fn set_onion_keys(&mut self, onion: BTreeMap<u32, DhSecret>) {
        self.onion = onion;
    }

    /// Whether setups are answered BUSY from now on; circuits that stand go on.
    pub const fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// Whether setups are answered BUSY.
    pub const fn is_draining(&self) -> bool {
        self.draining
    }

    /// The next thing to be done; drain it after every call.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn send(&mut self, link: LinkId, word: CircuitWord, cell: Box<Cell>) {
        self.actions.push_back(Action::Send(link, word, cell));
    }

    fn send_end(&mut self, link: LinkId, word: CircuitWord) {
        let mut cell = Box::new([0; crate::packet::CELL]);
        self.rng.fill_bytes(&mut *cell);
        self.send(link, word.with_kind(PacketType::Destroy), cell);
    }

    /// Passes the setup of a half-open circuit on over a link that stands.
    pub fn onward(&mut self, key: CircuitKey, link: LinkId, our_opener: bool, payee: Option<AccountId>) {
        let word = self.circuits.fresh_word(&mut self.rng, link, our_opener);
        let Some(Circuit { state: State::Waiting(waiting), fare, .. }) = self.circuits.get_mut(key) else {
            return;
        };
        let (onward, parity) = (waiting.onward, waiting.parity);
        fare.depart(&mut self.ledger, payee);
        if self.circuits.bind(key, Side::Next, link, word) {
            self.actions.push_back(Action::Hold(link));
            self.send(link, word.with_kind(PacketType::Setup).with_parity(parity), Box::new(onward));
        }
    }

    /// Answers a half-open circuit's setup with a refusal; the circuit is gone.
    pub fn refuse(&mut self, now: Now, key: CircuitKey, status: Status) {
        self.give_up(now.instant, key, status);
    }

    fn give_up(&mut self, now: Instant, key: CircuitKey, status: Status) {
        let previous = self.circuits.name(key, Side::Previous);
        let next = self.circuits.name(key, Side::Next);
        let Some(circuit) = self.remove(now, key) else { return };
        if let (State::Waiting(waiting), Some((link, word))) = (circuit.state, previous) {
            let mut reply = waiting.answer.refuse(&mut self.rng, status);
            write_rate(&mut reply, circuit.fare.rate_in());
            self.send(link, word.with_kind(PacketType::Reply), Box::new(reply));
        }
        if let Some((link, word)) = next {
            self.send_end(link, word);
        }
    }

    /// Takes the answer of the next relay, and passes it on with our record in front.
    pub fn handle_reply(
        &mut self,
        now: Now,
        link: LinkId,
        word: CircuitWord,
        cell: &Cell,
    ) -> Result<(), DropReason> {
        let key = match self.circuits.find(link, word) {
            Found::Circuit(key, Side::Next) => key,
            Found::Circuit(_, Side::Previous) => return Err(DropReason::Misbehaved),
            Found::Retired | Found::Unknown => return Err(DropReason::UnknownCircuit),
        };
        let Some((previous, back)) = self.circuits.name(key, Side::Previous) else {
            return Err(DropReason::UnknownCircuit);
        };
        // circuit.reply.1: one answer only.
        let Some(waiting) = self.take_waiting(key) else { return Err(DropReason::Misbehaved) };
        let passed = waiting.answer.pass(&mut self.rng, &waiting.block, cell);
        let agreed = match self.circuits.get_mut(key) {
            Some(circuit) => circuit.fare.answered(&mut self.ledger, read_rate(cell)),
            None => false,
        };
        let (Ok((keys, mut reply)), true) = (passed, agreed) else {
            self.end(now, key, None);
            return Err(DropReason::BadSetup);
        };
        if let Some(circuit) = self.circuits.get_mut(key) {
            circuit.state = State::Open(RelayLayer::new(&keys));
            write_rate(&mut reply, circuit.fare.rate_in());
        }
        self.send(previous, back.with_kind(PacketType::Reply), Box::new(reply));
        Ok(())
    }

    /// Takes the waiting setup out of a half-open circuit, and its deadline and count with it.
    fn take_waiting(&mut self, key: CircuitKey) -> Option<Waiting> {
        let circuit = self.circuits.get_mut(key)?;
        if !matches!(circuit.state, State::Waiting(_)) {
            return None;
        }
        let State::Waiting(waiting) = core::mem::replace(&mut circuit.state, State::Answering) else {
            return None;
        };
        if let Some(neighbour) = self.neighbours.get_mut(&circuit.previous) {
            neighbour.half_open = neighbour.half_open.saturating_sub(1);
        }
        self.deadlines.remove(&(waiting.deadline, key));
        Some(*waiting)
    }

    /// Takes a cell, in place. This is the data path: no allocation, no queue.
    pub fn handle_cell(
        &mut self,
        now: Instant,
        link: LinkId,
        word: CircuitWord,
        cell: &mut Cell,
    ) -> Result<CellStep, DropReason> {
        let (key, side) = match self.circuits.find(link, word) {
            Found::Circuit(key, side) => (key, side),
            Found::Retired => return Err(DropReason::LateCell),
            Found::Unknown => return Err(DropReason::UnknownCircuit),
        };
        let Some(circuit) = self.circuits.get_mut(key) else { return Err(DropReason::UnknownCircuit) };
        let State::Open(layer) = &mut circuit.state else { return Err(DropReason::Misbehaved) };
        let onward = match side {
            Side::Previous => {
                let recognized = match layer.open(now, cell) {
                    Err(DropReason::BadLayer) => {
                        self.end_at(now, key, None);
                        return Err(DropReason::BadLayer);
                    }
                    opened => opened?,
                };
                // pay.credit.5
                circuit.fare.charge_forward(&mut self.ledger)?;
                circuit.meter.forward += 1;
                if recognized == Recognized::Here {
                    self.counts.here += 1;
                    return Ok(CellStep::Here(key));
                }
                circuit.fare.owe_forward(&mut self.ledger);
                self.counts.forward += 1;
                Side::Next
            }
            Side::Next => {
                circuit.meter.pass_backward()?;
                circuit.fare.pass_backward(&mut self.ledger);
                if !layer.seal(cell) {
                    self.end_at(now, key, None);
                    return Err(DropReason::Limit);
                }
                self.counts.backward += 1;
                Side::Previous
            }
        };
        let Some((link, word)) = self.circuits.name(key, onward) else {
            // A cell that goes on from the last hop: no honest client makes it.
            self.end_at(now, key, None);
            return Err(DropReason::BadLayer);
        };
        Ok(CellStep::Pass(link, word))
    }

    /// Seals a cell that starts here and whose body is set; says where it goes.
    pub fn start(&mut self, key: CircuitKey, cell: &mut Cell) -> Option<(LinkId, CircuitWord)> {
        let circuit = self.circuits.get_mut(key)?;
        let State::Open(layer) = &mut circuit.state else { return None };
        circuit.meter.pass_backward().ok()?;
        circuit.fare.pass_backward(&mut self.ledger);
        if !layer.start(cell) {
            return None;
        }
        self.counts.started += 1;
        self.circuits.name(key, Side::Previous)
    }

    /// Whether the circuit ends here and was asked to serve as an exit.
    pub fn is_exit(&self, key: CircuitKey) -> bool {
        self.circuits.get(key).is_some_and(|circuit| circuit.exit)
    }

    /// Takes the end of a circuit from a neighbour.
    pub fn handle_destroy(&mut self, now: Now, link: LinkId, word: CircuitWord) -> Result<(), DropReason> {
        let Found::Circuit(key, side) = self.circuits.find(link, word) else {
            return Err(DropReason::UnknownCircuit);
        };
        self.end(now, key, Some(side));
        Ok(())
    }

    /// Ends all circuits ourselves.
    pub fn close_all(&mut self, now: Now) {
        let all: Vec<_> = self.circuits.iter().map(|(key, _)| key).collect();
        for key in all {
            self.close(now, key);
        }
    }

    /// Ends a circuit ourselves.
    pub fn close(&mut self, now: Now, key: CircuitKey) {
        self.end(now, key, None);
    }

    /// A link is gone, and all circuits over it.
    pub fn handle_link_lost(&mut self, now: Now, link: LinkId) {
        for key in self.circuits.over(link) {
            let side = match self.circuits.name(key, Side::Previous) {
                Some((previous, _)) if previous == link => Side::Previous,
                _ => Side::Next,
            };
            if self.circuits.get(key).is_some_and(|c| matches!(c.state, State::Waiting(_)))
                && side == Side::Next
            {
                self.pass_again(now, key);
            } else {
                self.end(now, key, Some(side));
            }
        }
        self.neighbours.remove(&link);
    }

    /// The next relay has lost what was sent to it, as it does when it restarts: it is asked once more.
    fn pass_again(&mut self, now: Now, key: CircuitKey) {
        let held = self.circuits.unbind(now.instant, key, Side::Next);
        let again = match self.circuits.get_mut(key) {
            Some(Circuit { state: State::Waiting(waiting), .. }) if !waiting.again => {
                waiting.again = true;
                Some(waiting.block.next_id)
            }
            _ => None,
        };
        self.actions.extend(held.map(Action::Release));
        match again {
            Some(next) => self.actions.push_back(Action::Extend(key, next)),
            None => self.give_up(now.instant, key, Status::Unreachable),
        }
    }

    fn end(&mut self, now: Now, key: CircuitKey, came_from: Option<Side>) {
        self.end_at(now.instant, key, came_from);
    }

    /// Removes a circuit; the other side hears of it after a random delay.
    fn end_at(&mut self, now: Instant, key: CircuitKey, came_from: Option<Side>) {
        // circuit.destroy.1
        let delay = Duration::from_millis(u64::from(self.rng.next_u32() % 2001));
        for side in [Side::Previous, Side::Next] {
            if came_from != Some(side)
                && let Some(name) = self.circuits.name(key, side)
            {
                self.ends.entry(now + delay).or_default().push(name);
            }
        }
        self.remove(now, key);
    }

    fn remove(&mut self, now: Instant, key: CircuitKey) -> Option<Circuit> {
        let next = self.circuits.name(key, Side::Next);
        let circuit = self.circuits.remove(now, key)?;
        circuit.fare.settle(&mut self.ledger, circuit.meter.left());
        if let Some(payer) = circuit.fare.payer() {
            self.starved.remove(&(payer, key));
        }
        if let Some(neighbour) = self.neighbours.get_mut(&circuit.previous) {
            neighbour.circuits = neighbour.circuits.saturating_sub(1);
            if let State::Waiting(waiting) = &circuit.state {
                neighbour.half_open = neighbour.half_open.saturating_sub(1);
                self.deadlines.remove(&(waiting.deadline, key));
            }
        }
        self.actions.push_back(Action::Release(circuit.previous));
        if let Some((link, _)) = next {
            self.actions.push_back(Action::Release(link));
        }
        self.actions.push_back(Action::Ended(key));
        Some(circuit)
    }

    /// When [`Relay::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let end = self.ends.keys().next().copied();
        let sweep = self.swept.map(|at| at + self.sweep_interval());
        [deadline, end, sweep].into_iter().flatten().min()
    }

    /// Gives up what waited too long, passes ends on, and ends what has expired.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, key)) = self.deadlines.first().copied()
            && at <= now.instant
        {
            self.deadlines.remove(&(at, key));
            self.give_up(now.instant, key, Status::Unreachable);
        }
        while let Some(first) = self.ends.first_entry()
            && *first.key() <= now.instant
        {
            for (link, word) in first.remove() {
                self.send_end(link, word);
            }
        }
        if self.swept.is_none_or(|at| at + self.sweep_interval() <= now.instant) {
            self.sweep(now);
            self.swept = Some(now.instant);
        }
    }

    /// Without circuits there are only onion keys to be erased.
    const fn sweep_interval(&self) -> Duration {
        if self.circuits.is_empty() { SWEEP_IDLE } else { SWEEP }
    }

    fn sweep(&mut self, now: Now) {
        self.circuits.forget(now.instant);
        // circuit.setup.9
        let oldest = u32::try_from(now.unix().saturating_sub(EPOCH_SLACK) / EPOCH_SECONDS).unwrap_or(0);
        self.onion = self.onion.split_off(&oldest);
        let mut expired = vec![];
        for (key, circuit) in self.circuits.iter_mut() {
            if circuit.expiry <= now.unix() {
                expired.push(key);
            } else if let State::Open(layer) = &mut circuit.state {
                layer.forget(now.instant);
            }
        }
        for key in expired {
            self.end(now, key, None);
        }
    }

    /// The epochs whose onion keys are still held.
    pub fn epochs(&self) -> impl Iterator<Item = u32> + '_ {
        self.onion.keys().copied()
    }

    /// Circuits that stand, and setups that wait for an answer.
    pub fn circuits(&self) -> (usize, usize) {
        (self.circuits.len() - self.deadlines.len(), self.deadlines.len())
    }

    /// Cells since the start.
    pub const fn counts(&self) -> CellCounts {
        self.counts
    }

    /// What there is to show of every circuit.
    pub fn snapshot(&self) -> Vec<CircuitInfo> {
        let info = |(key, circuit): (CircuitKey, &Circuit)| {
            let heap = match &circuit.state {
                State::Open(layer) => layer.memory(),
                State::Waiting(_) => size_of::<Waiting>(),
                State::Answering => 0,
            };
            CircuitInfo {
                key,
                began: circuit.began,
                open: matches!(circuit.state, State::Open(_)),
                ends_here: matches!(circuit.state, State::Open(_))
                    && self.circuits.name(key, Side::Next).is_none(),
                meter: circuit.meter,
                memory: size_of::<Circuit>() + heap,
            }
        };
        self.circuits.iter().map(info).collect()
    }

    /// Forgets every circuit whose setup or reply is still unsent under this word: it cannot be answered.
    pub fn cancel(&mut self, now: Now, link: LinkId, word: CircuitWord) {
        if let Found::Circuit(key, side) = self.circuits.find(link, word) {
            self.end(now, key, Some(side));
        }
    }
}

#[cfg(test)]
mod tests;
