//! Setups: who may build a circuit here, and on which terms (docs/spec/02-circuit.md section 1).

use std::time::Instant;

use super::{Action, Circuit, EPOCH_SLACK, From, HALF_OPEN, MAX_LIFE, Neighbour, Relay, State, Waiting};
use super::{Fare, write_rate};
use crate::error::DropReason;
use crate::keys::DhSecret;
use crate::layer::RelayLayer;
use crate::link::LinkId;
use crate::node::Now;
use crate::packet::{Cell, CircuitWord, PacketType};
use crate::seen::{Admission, SeenSetups};
use crate::setup::{self, Block, EPOCH_SECONDS, ReceivedSetup, Status};
use crate::table::{Found, Side};

impl Relay {
    /// Takes a setup from a neighbour; what follows comes as actions.
    pub fn handle_setup(
        &mut self,
        now: Now,
        from: From,
        word: CircuitWord,
        cell: &Cell,
    ) -> Result<(), DropReason> {
        if word.id() == 0 || word.opener() == from.our_opener {
            return Err(DropReason::Misbehaved);
        }
        if self.circuits.find(from.link, word) != Found::Unknown {
            return Err(DropReason::Misbehaved);
        }
        self.take_token(now, from)?;
        let (epoch, onion) = self.onion_key(now, word.parity()).ok_or(DropReason::BadSetup)?;
        let received =
            setup::receive(self.config.id, onion, epoch, cell).map_err(|_| DropReason::BadSetup)?;
        let minute = u32::try_from(now.unix() / 60).unwrap_or(u32::MAX);
        match self.seen.admit(minute, received.tag, received.minute()) {
            Admission::Fresh => {}
            Admission::Seen => return Err(DropReason::BadSetup),
            Admission::Full => return Err(DropReason::Limit),
            Admission::OutOfTime => {
                self.answer_refusal(from.link, word, received, Status::Expired);
                return Ok(());
            }
            Admission::TooEarly => {
                self.answer_refusal(from.link, word, received, Status::Busy);
                return Ok(());
            }
        }
        self.actions.push_back(Action::Log(SeenSetups::entry(received.tag, received.minute())));
        let block = received.block().map_err(|_| DropReason::BadSetup)?;
        match self.check(now, from, &block) {
            Ok(fare) => self.admit(now, from, word, received, block, fare),
            Err(status) => {
                self.answer_refusal(from.link, word, received, status);
                Ok(())
            }
        }
    }

    /// Stands the circuit up half-open, or whole if it ends here.
    fn admit(
        &mut self,
        now: Now,
        from: From,
        word: CircuitWord,
        received: ReceivedSetup,
        block: Block,
        fare: Fare,
    ) -> Result<(), DropReason> {
        if !self.has_room(now.instant, from.link, block.terminal) {
            self.answer_refusal(from.link, word, received, Status::Busy);
            return Ok(());
        }
        let Some((fare, meter)) = fare.begin(&mut self.ledger) else {
            self.answer_refusal(from.link, word, received, Status::Unpaid);
            return Ok(());
        };
        let state = if block.terminal {
            // Early data is not used in this version, but must be well-formed.
            received.early().map_err(|_| DropReason::BadSetup)?;
            let (keys, mut reply) =
                received.into_answer().finish(&mut self.rng, &block).map_err(|_| DropReason::BadSetup)?;
            write_rate(&mut reply, fare.rate_in());
            self.send(from.link, word.with_kind(PacketType::Reply), Box::new(reply));
            State::Open(RelayLayer::new(&keys))
        } else {
            let onward = received.onward(&block);
            let deadline = now.after(HALF_OPEN);
            let answer = received.into_answer();
            State::Waiting(Box::new(Waiting {
                answer,
                block,
                onward,
                parity: word.parity(),
                deadline,
                again: false,
            }))
        };
        let circuit = Circuit {
            state,
            meter,
            fare,
            previous: from.link,
            began: now.instant,
            expiry: block.expiry.into(),
            exit: block.exit,
        };
        let Some(key) = self.circuits.insert(circuit) else { return Err(DropReason::Limit) };
        self.circuits.bind(key, Side::Previous, from.link, word);
        self.actions.push_back(Action::Hold(from.link));
        if let Some(neighbour) = self.neighbours.get_mut(&from.link) {
            neighbour.circuits += 1;
            if !block.terminal {
                neighbour.half_open += 1;
                self.deadlines.insert((now.after(HALF_OPEN), key));
                self.actions.push_back(Action::Extend(key, block.next_id));
            }
        }
        Ok(())
    }

    /// Whether the table and the neighbour may take one circuit more; at the limit the oldest half-open one makes room.
    fn has_room(&mut self, now: Instant, link: LinkId, terminal: bool) -> bool {
        // circuit.table.1
        let Some(neighbour) = self.neighbours.get(&link) else { return false };
        if neighbour.circuits >= self.config.per_neighbour
            || (!terminal && neighbour.half_open >= self.config.half_open)
        {
            return false;
        }
        if self.circuits.len() >= self.config.circuits
            && let Some((_, oldest)) = self.deadlines.first().copied()
        {
            self.give_up(now, oldest, Status::Busy);
        }
        self.circuits.len() < self.config.circuits
    }

    fn check(&self, now: Now, from: From, block: &Block) -> Result<Fare, Status> {
        // operate.drain.1
        if self.draining {
            return Err(Status::Busy);
        }
        let expiry = u64::from(block.expiry);
        if expiry <= now.unix() || expiry > now.unix() + MAX_LIFE {
            return Err(Status::Expired);
        }
        let fare = Fare::agree(self.config.asks, from.account, block)?;
        // circuit.exit.3
        let direct = from.peer.is_none() && !self.config.single_hop;
        if block.exit && (!self.config.exit || direct) {
            return Err(Status::Policy);
        }
        if !block.terminal && (block.next_id == self.config.id || Some(block.next_id) == from.peer) {
            return Err(Status::Policy);
        }
        Ok(fare)
    }

    fn onion_key(&self, now: Now, odd: bool) -> Option<(u32, &DhSecret)> {
        [now.unix(), now.unix().saturating_sub(EPOCH_SLACK), now.unix() + EPOCH_SLACK]
            .into_iter()
            .filter_map(|at| u32::try_from(at / EPOCH_SECONDS).ok())
            .find(|epoch| (epoch & 1 == 1) == odd)
            .and_then(|epoch| self.onion.get(&epoch).map(|key| (epoch, key)))
    }

    fn take_token(&mut self, now: Now, from: From) -> Result<(), DropReason> {
        // circuit.setup.1
        let (rate, burst) = self.config.relay_setups;
        let neighbour = self.neighbours.entry(from.link).or_insert_with(|| Neighbour {
            circuits: 0,
            half_open: 0,
            tokens: f64::from(burst),
            filled: now.instant,
        });
        let allowed = if from.peer.is_some() {
            neighbour.take(now.instant, rate, burst)
        } else {
            self.client_setups.take(now.instant, from.source)
        };
        if allowed { Ok(()) } else { Err(DropReason::Limit) }
    }

    fn answer_refusal(&mut self, link: LinkId, word: CircuitWord, received: ReceivedSetup, status: Status) {
        let mut reply = received.into_answer().refuse(&mut self.rng, status);
        // pay.terms.2: nothing was charged.
        write_rate(&mut reply, 0);
        self.send(link, word.with_kind(PacketType::Reply), Box::new(reply));
    }
}
