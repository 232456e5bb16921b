//! What a circuit costs: charged to the neighbour that it came from, owed to the one that it goes to
//! (docs/spec/03-payments.md section 4).

use super::{Action, Relay};
use crate::error::DropReason;
use crate::ledger::{AccountId, Ledger};
use crate::link::LinkId;
use crate::meter::Meter;
use crate::node::Now;
use crate::packet::CircuitWord;
use crate::setup::{Block, Role, Status};
use crate::table::{CircuitKey, Found, Side};

/// The cells that an accepted setup costs (pay.bill.2).
pub const SETUP_CELLS: u64 = 64;
/// The backward cells that a circuit may have sent before any GRANT (pay.grant.1).
pub const FIRST_GRANT: u64 = 16;
/// Forward cells whose credit further grants do not take (pay.grant.4).
pub(in crate::relay) const FORWARD: u64 = 192;
/// The most backward cells that a circuit is granted beyond those that passed (pay.grant.3).
pub const MAX_GRANT: u64 = 8_192;

/// What a relay asks for a cell, in wei, itself alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// For carrying it on.
    pub forward: u64,
    /// For serving it as an exit.
    pub exit: u64,
}

/// The price of a circuit's cells, and the accounts it concerns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fare {
    /// Charged for every cell; nothing if cells are free.
    payer: Option<AccountId>,
    rate_in: u64,
    /// Owed for every cell; nothing if the next hop is free, or there is none.
    payee: Option<AccountId>,
    rate_out: u64,
    /// Compact, as in the setup.
    compact_in: u32,
    /// The backward cells that the neighbour before has granted in all.
    allowed: u64,
    /// Those of them that its credit covered.
    granted: u64,
}

impl Fare {
    /// The price that a setup offers, if it is enough (pay.terms.1).
    pub(super) fn agree(asks: Option<Asks>, payer: Option<AccountId>, block: &Block) -> Result<Self, Status> {
        let terms = block.terms;
        let rate = |compact| wire::compact::decode(compact).map_err(|_| Status::Terms);
        let (rate_in, rate_out) = (rate(terms.rate_in)?, rate(terms.rate_out)?);
        let Some(asks) = asks else {
            let free = terms == crate::setup::Terms::default();
            return if free { Ok(Self::default()) } else { Err(Status::Terms) };
        };
        let (role, ask) = if block.exit { (Role::Exit, asks.exit) } else { (Role::Forward, asks.forward) };
        let ends = block.terminal && rate_out != 0;
        if terms.role != role || ends || rate_in.checked_sub(rate_out).is_none_or(|ours| ours < ask) {
            return Err(Status::Terms);
        }
        let payer = if rate_in == 0 { None } else { Some(payer.ok_or(Status::Unpaid)?) };
        Ok(Self { payer, rate_in, rate_out, compact_in: terms.rate_in, ..Self::default() })
    }

    pub(super) const fn rate_in(&self) -> u32 {
        self.compact_in
    }

    pub(super) const fn payer(&self) -> Option<AccountId> {
        self.payer
    }

    /// Charges the setup and takes credit for the first backward cells aside; `None` if the credit is not enough.
    pub(super) fn begin(mut self, ledger: &mut Ledger) -> Option<(Self, Meter)> {
        let Some(payer) = self.payer else { return Some((self, Meter::unlimited())) };
        ledger.meet(payer, self.rate_in);
        let all = u128::from(self.rate_in) * u128::from(SETUP_CELLS + FIRST_GRANT);
        if ledger.get(payer).is_none_or(|account| account.credit < all.cast_signed()) {
            ledger.note(payer);
            return None;
        }
        if !ledger.charge(payer, self.rate_in, SETUP_CELLS) {
            return None;
        }
        self.allowed = FIRST_GRANT;
        self.granted = ledger.reserve(payer, self.rate_in, FIRST_GRANT, 0);
        Some((self, Meter::limited(self.granted)))
    }

    /// The setup goes on to the next relay, which will charge it.
    pub(super) fn depart(&mut self, ledger: &mut Ledger, payee: Option<AccountId>) {
        self.payee = payee.filter(|_| self.rate_out > 0);
        if let Some(payee) = self.payee {
            ledger.engage(payee, self.rate_out);
            ledger.owe(payee, self.rate_out, SETUP_CELLS);
            ledger.promise(payee, self.rate_out, FIRST_GRANT);
        }
    }

    /// Whether the next relay charges what the setup says, or nothing, having refused (pay.terms.2).
    pub(super) fn answered(&mut self, ledger: &mut Ledger, compact: u32) -> bool {
        let Some(payee) = self.payee else { return compact == 0 };
        if compact == 0 {
            ledger.forgive(payee, self.rate_out, SETUP_CELLS);
            ledger.forget_promised(payee, self.rate_out, FIRST_GRANT);
            (self.payee, self.rate_out) = (None, 0);
        }
        compact == 0 || wire::compact::decode(compact) == Ok(self.rate_out)
    }

    /// Charges one forward cell (pay.bill.1), unless the next hop takes none for now (pay.credit.5).
    pub(super) fn charge_forward(&self, ledger: &mut Ledger) -> Result<(), DropReason> {
        if self.payee.is_some_and(|payee| ledger.is_paused(payee)) {
            return Err(DropReason::NoCredit);
        }
        match self.payer {
            Some(payer) if !ledger.charge(payer, self.rate_in, 1) => Err(DropReason::NoCredit),
            _ => Ok(()),
        }
    }

    /// Owes one forward cell to the next hop.
    pub(super) fn owe_forward(&self, ledger: &mut Ledger) {
        if let Some(payee) = self.payee {
            ledger.owe(payee, self.rate_out, 1);
        }
    }

    /// Charges and owes one backward cell, which was granted.
    pub(super) fn pass_backward(&self, ledger: &mut Ledger) {
        if let Some(payer) = self.payer {
            ledger.use_reserved(payer, self.rate_in);
        }
        if let Some(payee) = self.payee {
            ledger.owe_promised(payee, self.rate_out, 1);
        }
    }

    /// The circuit ends with `left` cells granted and not passed.
    pub(super) fn settle(&self, ledger: &mut Ledger, left: u64) {
        if let Some(payer) = self.payer {
            ledger.release(payer, self.rate_in, left);
            if let Some(payee) = self.payee {
                ledger.forget_promised(payee, self.rate_out, left);
            }
        }
    }
}

impl Relay {
    /// Closes all circuits that are charged to an account.
    pub fn close_account(&mut self, now: Now, account: AccountId) {
        let unpaid: Vec<_> = self
            .circuits
            .iter()
            .filter(|(_, circuit)| circuit.fare.payer == Some(account))
            .map(|(key, _)| key)
            .collect();
        for key in unpaid {
            self.close(now, key);
        }
    }

    /// Closes all circuits that are owed to an account.
    pub fn leave_account(&mut self, now: Now, account: AccountId) {
        let over: Vec<_> = self
            .circuits
            .iter()
            .filter(|(_, circuit)| circuit.fare.payee == Some(account))
            .map(|(key, _)| key)
            .collect();
        for key in over {
            self.close(now, key);
        }
    }

    /// The accounts of the neighbours, to look at.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The accounts of the neighbours; after credit was added call [`Relay::credited`].
    pub const fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// What is asked for new circuits.
    pub const fn asks(&self) -> Option<Asks> {
        self.config.asks
    }

    /// Replaces what is asked; circuits that stand keep their price.
    pub const fn set_asks(&mut self, asks: Option<Asks>) {
        self.config.asks = asks;
    }

    /// Takes a GRANT from the neighbour that a circuit came from: how many backward cells it may have sent in all.
    pub fn handle_grant(&mut self, link: LinkId, word: CircuitWord, cells: u64) -> Result<(), DropReason> {
        let Found::Circuit(key, Side::Previous) = self.circuits.find(link, word) else {
            return Err(DropReason::UnknownCircuit);
        };
        let Some(circuit) = self.circuits.get_mut(key) else { return Err(DropReason::UnknownCircuit) };
        let (fare, meter) = (&mut circuit.fare, &mut circuit.meter);
        let Some(payer) = fare.payer else { return Ok(()) };
        // pay.grant.3: cells that were lost before they came here are not waited for.
        let passed = fare.granted - meter.left();
        let lost = cells.saturating_sub(MAX_GRANT).saturating_sub(passed);
        if lost > 0 {
            let back = meter.take_back(lost);
            self.ledger.release(payer, fare.rate_in, back);
            if let Some(payee) = fare.payee {
                self.ledger.forget_promised(payee, fare.rate_out, back);
            }
            fare.granted += lost - back;
        }
        fare.allowed = fare.allowed.max(cells);
        self.grant_more(payer, key);
        Ok(())
    }

    /// Credit was added to an account: circuits that wait for it go on.
    pub fn credited(&mut self, account: AccountId) {
        let waiting: Vec<_> =
            self.starved.iter().filter(|(of, _)| *of == account).map(|(_, key)| *key).collect();
        for key in waiting {
            self.grant_more(account, key);
        }
    }

    /// Grants the next hop what the neighbour before has granted, as far as its credit goes beyond what forward cells need
    /// (pay.grant.4).
    fn grant_more(&mut self, payer: AccountId, key: CircuitKey) {
        let Some(circuit) = self.circuits.get_mut(key) else { return };
        let (fare, meter) = (&mut circuit.fare, &mut circuit.meter);
        let missing = fare.allowed.saturating_sub(fare.granted);
        let more = self.ledger.reserve(payer, fare.rate_in, missing, FORWARD);
        fare.granted += more;
        meter.grant(more);
        if let Some(payee) = fare.payee {
            self.ledger.promise(payee, fare.rate_out, more);
        }
        let granted = fare.granted;
        if fare.granted < fare.allowed {
            self.starved.insert((payer, key));
        } else {
            self.starved.remove(&(payer, key));
        }
        match self.circuits.name(key, Side::Next) {
            // Also when there is nothing new: the last one may have been lost.
            Some((link, word)) => self.actions.push_back(Action::Grant(link, word, granted)),
            None => self.actions.push_back(Action::Granted(key)),
        }
    }

    /// Whether a circuit that ends here may send a cell back.
    pub fn may_start(&self, key: CircuitKey) -> bool {
        self.circuits.get(key).is_some_and(|circuit| circuit.meter.left() > 0)
    }
}
