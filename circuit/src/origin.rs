//! The origin's side of circuits: setups sent, replies checked, cells sealed and opened with all layers
//! (docs/spec/02-circuit.md).

use std::collections::VecDeque;
use std::time::Instant;

use rand_core::Rng as _;

use crate::error::{DropReason, Misuse};
use crate::keys::Random;
use crate::layer::Layers;
use crate::link::LinkId;
use crate::node::Now;
use crate::packet::{CELL, Cell, CircuitWord, PacketType};
use crate::setup::{self, Outcome, PathHop, Purpose, SentSetup, Status};
use crate::table::{CircuitKey, Found, Side, Table};

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

/// All circuits of an origin.
#[derive(Debug)]
pub struct Origin {
    rng: Random,
    circuits: Table<State>,
    actions: VecDeque<Action>,
}

impl Origin {
    /// An origin with at most `limit` circuits.
    pub fn new(limit: usize, mut rng: Random) -> Self {
        Self { circuits: Table::new(limit, &mut rng), rng, actions: VecDeque::new() }
    }

    /// The next thing to be done; drain it after every call.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Sends a setup for `path` over the link to its entry.
    pub fn build(
        &mut self,
        link: LinkId,
        our_opener: bool,
        path: &[PathHop],
        purpose: Purpose<'_>,
    ) -> Result<CircuitKey, Misuse> {
        let (sent, cell) = setup::build(&mut self.rng, path, purpose)?;
        let odd = path.first().is_some_and(|entry| entry.epoch & 1 == 1);
        let word = self.circuits.fresh_word(&mut self.rng, link, our_opener);
        let key =
            self.circuits.insert(State::Sent(sent)).ok_or(Misuse("too many circuits: close some first"))?;
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
        let Some(state) = self.circuits.get_mut(key) else { return Err(DropReason::UnknownCircuit) };
        let State::Sent(sent) = state else { return Err(DropReason::Misbehaved) };
        // circuit.setup.7: the ephemeral secrets go with the state that is replaced.
        let answered = match sent.open_reply(cell) {
            Ok(Outcome::Ready(keys)) => {
                *state = State::Open(Layers::new(&keys));
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
    /// After [`DropReason::BadLayer`] the circuit is to be closed.
    pub fn handle_cell(
        &mut self,
        now: Instant,
        link: LinkId,
        word: CircuitWord,
        cell: &mut Cell,
    ) -> Result<(CircuitKey, usize), (Option<CircuitKey>, DropReason)> {
        let key = self.find(link, word).map_err(|reason| (None, reason))?;
        match self.circuits.get_mut(key) {
            Some(State::Open(layers)) => {
                layers.open(now, cell).map(|hop| (key, hop)).map_err(|reason| (Some(key), reason))
            }
            Some(State::Sent(_)) => Err((Some(key), DropReason::Misbehaved)),
            None => Err((None, DropReason::UnknownCircuit)),
        }
    }

    /// Seals a cell whose body is set for hop `last` (0 is the entry), in place, and says where it goes.
    ///
    /// `None` when the circuit does not stand or is to be retired.
    pub fn seal(&mut self, key: CircuitKey, last: usize, cell: &mut Cell) -> Option<(LinkId, CircuitWord)> {
        let State::Open(layers) = self.circuits.get_mut(key)? else { return None };
        if !layers.seal(&mut self.rng, last, cell) {
            return None;
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
        if self.circuits.remove(now, key).is_some()
            && let Some((link, _)) = name
        {
            self.actions.push_back(Action::Release(link));
        }
        self.circuits.forget(now);
    }

    /// The number of hops of a circuit, standing or not.
    pub fn hops(&self, key: CircuitKey) -> Option<usize> {
        match self.circuits.get(key)? {
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
