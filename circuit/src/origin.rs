//! The origin's side of circuits: setups sent, replies checked, cells sealed and opened with all layers
//! (docs/spec/02-circuit.md).

use std::collections::VecDeque;
use std::time::Instant;

use rand_core::Rng as _;

use crate::error::{DropReason, Misuse};
use crate::keys::Random;
use crate::layer::Layers;
use crate::ledger::{AccountId, Ledger};
use crate::link::LinkId;
use crate::meter::Meter;
use crate::node::Now;
use crate::packet::{CELL, Cell, CircuitWord, PacketType};
use crate::relay::{FIRST_GRANT, MAX_GRANT, SETUP_CELLS};
use crate::setup::{self, Outcome, PathHop, Purpose, SentSetup, Status, read_rate};
use crate::table::{CircuitKey, Found, Side, Table};

/// The cells that the entry may say it has sealed beyond those that came: so many, and one in a hundred.
const LOST_CELLS: u64 = 512;

/// What an origin wants done.
#[derive(Debug)]
pub enum Action {
    /// Send a cell's worth of bytes under this word.
    Send(LinkId, CircuitWord, Box<Cell>),
    /// A link carries one circuit more.
    Hold(LinkId),
    /// A link carries one circuit less.
    Release(LinkId),
}

/// What a reply did to its circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// The circuit stands.
    Ready,
    /// A hop (0 is the entry) could not go on; the circuit is gone.
    Refused(usize, Status),
    /// The reply was not what honest relays make; the circuit is gone.
    Bad,
}

#[derive(Debug)]
enum State {
    Sent(SentSetup),
    Open(Layers),
}

#[derive(Debug)]
struct Circuit {
    state: State,
    bill: Option<Bill>,
}

/// What a circuit costs at its entry.
#[derive(Clone, Copy, Debug)]
struct Bill {
    account: AccountId,
    rate: u64,
    /// The backward cells that the entry may still charge, as its own meter should say.
    meter: Meter,
    /// The backward cells that were granted in all.
    granted: u64,
    /// The cells that came, of those that are charged.
    received: u64,
}

impl Bill {
    /// The entry has sealed `sealed` cells in all, as a cell of its own says; false if it cannot have lost so many.
    #[must_use]
    fn charge(&mut self, ledger: &mut Ledger, sealed: u64) -> bool {
        self.received += 1;
        let new = sealed.saturating_sub(self.meter.backward);
        self.meter.backward += new;
        ledger.owe_promised(self.account, self.rate, self.meter.take_back(new));
        // pay.bill.3
        self.meter.backward - self.received <= LOST_CELLS + self.received / 100
    }
}

/// All circuits of an origin.
#[derive(Debug)]
pub struct Origin {
    rng: Random,
    circuits: Table<Circuit>,
    actions: VecDeque<Action>,
    ledger: Ledger,
}

impl Origin {
    /// An origin with at most `limit` circuits.
    pub fn new(limit: usize, mut rng: Random) -> Self {
        Self {
            circuits: Table::new(limit, &mut rng),
            rng,
            actions: VecDeque::new(),
            ledger: Ledger::default(),
        }
    }

    /// The next thing to be done; drain it after every call.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The account of the entry, to look at.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The account of the entry.
    pub const fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Whether a setup at `rate` is within what the entry was paid.
    pub fn may_build(&mut self, account: AccountId, rate: u64) -> bool {
        self.ledger.covers(account, rate, SETUP_CELLS + FIRST_GRANT)
    }

    /// Whether one cell more is within what the entry was paid.
    pub fn may_seal(&mut self, key: CircuitKey) -> bool {
        match self.circuits.get(key) {
            Some(Circuit { bill: Some(bill), .. }) => self.ledger.covers(bill.account, bill.rate, 1),
            Some(_) => true,
            None => false,
        }
    }

    /// Lets the last hop have up to `window` backward cells under way; what the entry is to be told, if it is more than
    /// `step` cells more than it knows.
    pub fn grant(&mut self, key: CircuitKey, window: u64, step: u64) -> Option<(LinkId, CircuitWord, u64)> {
        let name = self.circuits.name(key, Side::Next)?;
        let Circuit { state: State::Open(layers), bill: Some(bill) } = self.circuits.get_mut(key)? else {
            return None;
        };
        let started = layers.sealed_by(layers.hops().saturating_sub(1));
        let granted = started + window.min(MAX_GRANT);
        let more = granted.checked_sub(bill.granted).filter(|more| *more >= step)?;
        // What the entry does not wait for any more, as in the relays (pay.grant.3).
        let passed = bill.granted - bill.meter.left();
        let lost = granted.saturating_sub(MAX_GRANT).saturating_sub(passed);
        self.ledger.forget_promised(bill.account, bill.rate, bill.meter.take_back(lost));
        bill.granted = granted;
        bill.meter.grant(more);
        self.ledger.promise(bill.account, bill.rate, more);
        Some((name.0, name.1, granted))
    }

    /// The cells of a paid circuit that came, and those that the last hop had started until the last of them.
    pub fn arrivals(&self, key: CircuitKey) -> Option<(u64, u64)> {
        match self.circuits.get(key)? {
            Circuit { state: State::Open(layers), bill: Some(bill) } => {
                Some((bill.received, layers.sealed_by(layers.hops().saturating_sub(1))))
            }
            _ => None,
        }
    }

    /// What the entry was told last, to be said again.
    pub fn granted(&self, key: CircuitKey) -> Option<(LinkId, CircuitWord, u64)> {
        let name = self.circuits.name(key, Side::Next)?;
        let bill = self.circuits.get(key)?.bill.as_ref()?;
        Some((name.0, name.1, bill.granted))
    }

    /// Sends a setup for `path` over the link to its entry, at the cost of `account`.
    pub fn build(
        &mut self,
        link: LinkId,
        our_opener: bool,
        path: &[PathHop],
        purpose: Purpose<'_>,
        account: Option<AccountId>,
    ) -> Result<CircuitKey, Misuse> {
        let (sent, cell) = setup::build(&mut self.rng, path, purpose)?;
        let compact = path.first().map_or(0, |entry| entry.terms.rate_in);
        let rate = wire::compact::decode(compact).map_err(|_| Misuse("a rate in compact form"))?;
        let bill = account.filter(|_| rate > 0).map(|account| Bill {
            account,
            rate,
            meter: Meter::limited(FIRST_GRANT),
            granted: FIRST_GRANT,
            received: 0,
        });
        let odd = path.first().is_some_and(|entry| entry.epoch & 1 == 1);
        let word = self.circuits.fresh_word(&mut self.rng, link, our_opener);
        let key = self
            .circuits
            .insert(Circuit { state: State::Sent(sent), bill })
            .ok_or(Misuse("too many circuits: close some first"))?;
        if let Some(bill) = bill {
            self.ledger.engage(bill.account, bill.rate);
            self.ledger.owe(bill.account, bill.rate, SETUP_CELLS);
            self.ledger.promise(bill.account, bill.rate, FIRST_GRANT);
        }
        self.circuits.bind(key, Side::Next, link, word);
        self.actions.push_back(Action::Hold(link));
        let word = word.with_kind(PacketType::Setup).with_parity(odd);
        self.actions.push_back(Action::Send(link, word, Box::new(cell)));
        Ok(key)
    }

    fn find(&self, link: LinkId, word: CircuitWord) -> Result<CircuitKey, DropReason> {
        match self.circuits.find(link, word) {
            Found::Circuit(key, _) => Ok(key),
            Found::Retired | Found::Unknown => Err(DropReason::UnknownCircuit),
        }
    }

    /// Takes the reply to a setup.
    pub fn handle_reply(
        &mut self,
        now: Now,
        link: LinkId,
        word: CircuitWord,
        cell: &Cell,
    ) -> Result<(CircuitKey, Answered), DropReason> {
        let key = self.find(link, word)?;
        let Some(circuit) = self.circuits.get_mut(key) else { return Err(DropReason::UnknownCircuit) };
        let State::Sent(sent) = &circuit.state else { return Err(DropReason::Misbehaved) };
        // pay.terms.2
        let charged = wire::compact::decode(read_rate(cell)).unwrap_or(u64::MAX);
        let rate = circuit.bill.map_or(0, |bill| bill.rate);
        if let Some(bill) = circuit.bill.filter(|_| charged == 0) {
            self.ledger.forgive(bill.account, bill.rate, SETUP_CELLS);
        }
        // circuit.setup.7: the ephemeral secrets go with the state that is replaced.
        let answered = match sent.open_reply(cell) {
            Ok(Outcome::Ready(_)) if charged != rate => Answered::Bad,
            Ok(Outcome::Ready(keys)) => {
                circuit.state = State::Open(Layers::new(&keys));
                return Ok((key, Answered::Ready));
            }
            Ok(Outcome::Refused { hop, status }) => Answered::Refused(hop, status),
            Err(_) => Answered::Bad,
        };
        // circuit.reply.5; an entry that refused has nothing to end.
        if matches!(answered, Answered::Refused(0, _)) {
            self.remove(now.instant, key);
        } else {
            self.close(now, key);
        }
        Ok((key, answered))
    }

    /// Opens a cell in place: its circuit, and the hop (0 is the entry) where it starts.
    ///
    /// After [`DropReason::BadLayer`] the circuit is to be closed, and after [`DropReason::NoCredit`], when the entry has
    /// charged for more than it can have lost, the entry is to be left too.
    pub fn handle_cell(
        &mut self,
        now: Instant,
        link: LinkId,
        word: CircuitWord,
        cell: &mut Cell,
    ) -> Result<(CircuitKey, usize), (Option<CircuitKey>, DropReason)> {
        let key = self.find(link, word).map_err(|reason| (None, reason))?;
        let Some(circuit) = self.circuits.get_mut(key) else {
            return Err((None, DropReason::UnknownCircuit));
        };
        let State::Open(layers) = &mut circuit.state else { return Err((Some(key), DropReason::Misbehaved)) };
        let hop = layers.open(now, cell).map_err(|reason| (Some(key), reason))?;
        let honest = match &mut circuit.bill {
            Some(bill) => bill.charge(&mut self.ledger, layers.sealed_by(0)),
            None => true,
        };
        if honest { Ok((key, hop)) } else { Err((Some(key), DropReason::NoCredit)) }
    }

    /// Seals a cell whose body is set for hop `last` (0 is the entry), in place, and says where it goes.
    ///
    /// `None` when the circuit does not stand or is to be retired.
    pub fn seal(&mut self, key: CircuitKey, last: usize, cell: &mut Cell) -> Option<(LinkId, CircuitWord)> {
        let circuit = self.circuits.get_mut(key)?;
        let State::Open(layers) = &mut circuit.state else { return None };
        if !layers.seal(&mut self.rng, last, cell) {
            return None;
        }
        if let Some(bill) = &circuit.bill {
            self.ledger.owe(bill.account, bill.rate, 1);
        }
        self.circuits.name(key, Side::Next)
    }

    /// Takes the end of a circuit from the entry; which circuit it was.
    pub fn handle_destroy(
        &mut self,
        now: Now,
        link: LinkId,
        word: CircuitWord,
    ) -> Result<CircuitKey, DropReason> {
        let key = self.find(link, word)?;
        self.remove(now.instant, key);
        Ok(key)
    }

    /// Ends a circuit; nobody is waited for.
    pub fn close(&mut self, now: Now, key: CircuitKey) {
        if let Some((link, word)) = self.circuits.name(key, Side::Next) {
            let mut cell = Box::new([0; CELL]);
            self.rng.fill_bytes(&mut *cell);
            self.actions.push_back(Action::Send(link, word.with_kind(PacketType::Destroy), cell));
        }
        self.remove(now.instant, key);
    }

    /// A link is gone: the circuits that went over it, which are gone too.
    pub fn handle_link_lost(&mut self, now: Now, link: LinkId) -> Vec<CircuitKey> {
        let lost = self.circuits.over(link);
        for key in &lost {
            self.remove(now.instant, *key);
        }
        lost
    }

    fn remove(&mut self, now: Instant, key: CircuitKey) {
        let name = self.circuits.name(key, Side::Next);
        if let Some(circuit) = self.circuits.remove(now, key) {
            if let Some(bill) = circuit.bill {
                self.ledger.forget_promised(bill.account, bill.rate, bill.meter.left());
            }
            self.actions.extend(name.map(|(link, _)| Action::Release(link)));
        }
        self.circuits.forget(now);
    }

    /// The number of hops of a circuit, standing or not.
    pub fn hops(&self, key: CircuitKey) -> Option<usize> {
        match &self.circuits.get(key)?.state {
            State::Open(layers) => Some(layers.hops()),
            State::Sent(sent) => Some(sent.hops()),
        }
    }

    /// The link of a circuit.
    pub fn link(&self, key: CircuitKey) -> Option<LinkId> {
        self.circuits.name(key, Side::Next).map(|(link, _)| link)
    }

    /// Whether there is no circuit.
    pub const fn is_empty(&self) -> bool {
        self.circuits.is_empty()
    }
}
