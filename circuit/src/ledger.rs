//! What stands between a node and the neighbours it earns from and pays: counted per cell, in wei
//! (docs/spec/03-payments.md section 4).
//!
//! A circuit is charged to the account of the neighbour that it came from, and owed to the one that it goes to. How
//! credit is earned is not known here.

use std::collections::VecDeque;

/// Credit for fewer cells is noted: half of what a client pays ahead (pay.credit.4).
const LOW_CELLS: u64 = 768;
/// A credit line in cells: 1 MiB of them at least, 64 MiB at most (pay.credit.2).
const LINE_LEAST: u64 = 760;
const LINE_MOST: u64 = 48_640;
/// A credit line grows by this part of what was paid.
const LINE_SHARE: u128 = 16;

/// Names a neighbour's account; the name of one that is gone never names another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId {
    slot: u32,
    generation: u32,
}

/// The counters of one neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// What its circuits may still use here, reservations for backward cells taken off.
    pub credit: i128,
    /// What it has paid, as far as that was credited.
    pub credited: u128,
    /// What its circuits have used here.
    pub earned: u128,
    /// The cells that its circuits were charged for.
    pub cells_in: u64,
    /// The highest rate of its circuits here.
    pub rate_in: u64,
    /// The part of its credit that it was trusted with, as [`Ledger::set_line`], its rate and its payments make it.
    pub line: u128,
    /// What the line is at most; nothing for who is not trusted.
    line_cap: Option<u128>,
    /// What our circuits have used at it.
    pub owed: u128,
    /// What is owed, and what it may make owed: the backward cells that it was granted and has not sent.
    pub committed: u128,
    /// The cells that we owe for.
    pub cells_out: u64,
    /// The highest rate of our circuits there.
    pub rate_out: u64,
    /// [`Ledger::poll_note`] names the account once its credit is below this.
    pub low: i128,
    /// [`Ledger::poll_note`] names the account once so much is committed.
    pub due: u128,
    /// What it has been paid: more than that a client does not commit.
    pub paid: u128,
    /// It says that our credit there is used up: it gets no forward cells for now.
    pub paused: bool,
    noted: bool,
}

impl Account {
    /// Makes the credit line, and what counts as low, what rate and payments make them now.
    // pay.credit.2
    fn stretch(&mut self) {
        let worth = |cells: u64| u128::from(self.rate_in) * u128::from(cells);
        let Some(cap) = self.line_cap else {
            self.low = worth(LOW_CELLS).cast_signed();
            return;
        };
        let grown = worth(LINE_LEAST).saturating_add(self.credited / LINE_SHARE);
        let line = grown.min(worth(LINE_MOST)).min(cap);
        self.low = worth(LOW_CELLS / 2).max(line / 2).cast_signed();
        self.credit += line.cast_signed() - self.line.cast_signed();
        self.line = line;
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    account: Option<Account>,
}

/// The accounts of all neighbours.
#[derive(Debug, Default)]
pub struct Ledger {
    slots: Vec<Slot>,
    free: Vec<u32>,
    notes: VecDeque<AccountId>,
    /// Cells and earnings of accounts that are closed.
    past: (u64, u128),
}

impl Ledger {
    /// Opens an account; it has no credit, and is noted as soon as anything is owed.
    pub fn open(&mut self) -> AccountId {
        let account = Some(Account { low: i128::MIN, ..Account::default() });
        if let Some(slot) = self.free.pop()
            && let Some(place) = usize::try_from(slot).ok().and_then(|at| self.slots.get_mut(at))
        {
            place.account = account;
            return AccountId { slot, generation: place.generation };
        }
        // So many accounts as there are links: far below 2^32.
        let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { generation: 0, account });
        AccountId { slot, generation: 0 }
    }

    /// Opens an account that was paid so much in another life, and owes nothing more.
    pub fn resume(&mut self, paid: u128) -> AccountId {
        let id = self.open();
        if let Some(account) = self.get_mut(id) {
            (account.owed, account.committed, account.paid, account.due) = (paid, paid, paid, paid);
        }
        id
    }

    /// Closes an account; circuits that still name it pass nothing more.
    pub fn close(&mut self, id: AccountId) {
        if let Some(place) = usize::try_from(id.slot).ok().and_then(|at| self.slots.get_mut(at))
            && place.generation == id.generation
            && let Some(account) = place.account.take()
        {
            self.past.0 += account.cells_in;
            self.past.1 += account.earned;
            place.generation = place.generation.wrapping_add(1);
            self.free.push(id.slot);
        }
    }

    /// All cells that were charged for, and what they have earned.
    pub fn earnings(&self) -> (u64, u128) {
        let accounts = self.slots.iter().filter_map(|place| place.account.as_ref());
        accounts.fold(self.past, |(cells, earned), a| (cells + a.cells_in, earned + a.earned))
    }

    /// What we owe and have paid to all, and the highest rate.
    pub fn debts(&self) -> (u128, u128, u64) {
        let accounts = self.slots.iter().filter_map(|place| place.account.as_ref());
        accounts.fold((0, 0, 0), |(owed, paid, rate), a| (owed + a.owed, paid + a.paid, rate.max(a.rate_out)))
    }

    /// The counters of an account.
    pub fn get(&self, id: AccountId) -> Option<&Account> {
        let place = self.slots.get(usize::try_from(id.slot).ok()?)?;
        place.account.as_ref().filter(|_| place.generation == id.generation)
    }

    /// The counters of an account, to be changed.
    pub fn get_mut(&mut self, id: AccountId) -> Option<&mut Account> {
        let place = self.slots.get_mut(usize::try_from(id.slot).ok()?)?;
        place.account.as_mut().filter(|_| place.generation == id.generation)
    }

    /// Credits what the account has paid.
    pub fn credit(&mut self, id: AccountId, value: u128) {
        if let Some(account) = self.get_mut(id) {
            account.credited += value;
            account.credit += value.cast_signed();
            if account.line_cap.is_some() {
                account.stretch();
            }
        }
    }

    /// Trusts the account with a credit line, but with `cap` at most.
    pub fn set_line(&mut self, id: AccountId, cap: u128) {
        if let Some(account) = self.get_mut(id) {
            account.line_cap = Some(cap);
            account.stretch();
        }
    }

    /// A circuit of the account asks to be charged at `rate`.
    pub fn meet(&mut self, id: AccountId, rate: u64) {
        if let Some(account) = self.get_mut(id)
            && rate > account.rate_in
        {
            account.rate_in = rate;
            account.stretch();
        }
    }

    /// A circuit of ours is to be charged at `rate` by the account.
    pub fn engage(&mut self, id: AccountId, rate: u64) {
        if let Some(account) = self.get_mut(id) {
            account.rate_out = account.rate_out.max(rate);
        }
    }

    /// Charges the account for `cells` at `rate`, if its credit covers them (pay.credit.1).
    #[must_use]
    pub fn charge(&mut self, id: AccountId, rate: u64, cells: u64) -> bool {
        let Some(account) = self.get_mut(id) else { return false };
        let value = u128::from(rate) * u128::from(cells);
        let left = account.credit - value.cast_signed();
        if left < 0 {
            self.note(id);
            return false;
        }
        account.credit = left;
        account.earned += value;
        account.cells_in += cells;
        if left < account.low {
            self.note(id);
        }
        true
    }

    /// Takes credit for up to `cells` at `rate` aside, beyond that for `kept` cells; for how many it was enough.
    pub fn reserve(&mut self, id: AccountId, rate: u64, cells: u64, kept: u64) -> u64 {
        let Some(account) = self.get_mut(id) else { return 0 };
        let kept = (u128::from(rate) * u128::from(kept)).cast_signed();
        let affordable = (account.credit - kept)
            .max(0)
            .checked_div(i128::from(rate))
            .map_or(u64::MAX, |cells| u64::try_from(cells).unwrap_or(u64::MAX));
        let cells = cells.min(affordable);
        account.credit -= (u128::from(rate) * u128::from(cells)).cast_signed();
        if account.credit < account.low {
            self.note(id);
        }
        cells
    }

    /// Gives credit that was taken aside back.
    pub fn release(&mut self, id: AccountId, rate: u64, cells: u64) {
        if let Some(account) = self.get_mut(id) {
            account.credit += (u128::from(rate) * u128::from(cells)).cast_signed();
        }
    }

    /// Counts one cell whose credit was taken aside.
    pub fn use_reserved(&mut self, id: AccountId, rate: u64) {
        if let Some(account) = self.get_mut(id) {
            account.earned += u128::from(rate);
            account.cells_in += 1;
        }
    }

    /// Owes the account for `cells` at `rate`.
    pub fn owe(&mut self, id: AccountId, rate: u64, cells: u64) {
        let Some(account) = self.get_mut(id) else { return };
        let value = u128::from(rate) * u128::from(cells);
        account.owed += value;
        account.committed += value;
        account.cells_out += cells;
        if account.committed >= account.due {
            self.note(id);
        }
    }

    /// Grants the account so many backward cells at `rate`.
    pub fn promise(&mut self, id: AccountId, rate: u64, cells: u64) {
        let Some(account) = self.get_mut(id) else { return };
        account.committed += u128::from(rate) * u128::from(cells);
        if account.committed >= account.due {
            self.note(id);
        }
    }

    /// Owes for `cells` that were granted.
    pub fn owe_promised(&mut self, id: AccountId, rate: u64, cells: u64) {
        if let Some(account) = self.get_mut(id) {
            account.owed += u128::from(rate) * u128::from(cells);
            account.cells_out += cells;
        }
    }

    /// Backward cells that were granted will not come, or `owed` was too much.
    pub fn forget_promised(&mut self, id: AccountId, rate: u64, cells: u64) {
        if let Some(account) = self.get_mut(id) {
            let value = u128::from(rate) * u128::from(cells);
            account.committed = account.committed.saturating_sub(value).max(account.owed);
        }
    }

    /// Takes back what was owed for `cells` that the account does not charge.
    pub fn forgive(&mut self, id: AccountId, rate: u64, cells: u64) {
        if let Some(account) = self.get_mut(id) {
            let value = (u128::from(rate) * u128::from(cells)).min(account.owed);
            account.owed -= value;
            account.committed = account.committed.saturating_sub(value);
            account.cells_out = account.cells_out.saturating_sub(cells);
        }
    }

    /// Whether forward cells for the account are held back.
    pub fn is_paused(&self, id: AccountId) -> bool {
        self.get(id).is_some_and(|account| account.paused)
    }

    /// Whether `cells` at `rate` are within what was paid; if not, the account is noted.
    pub fn covers(&mut self, id: AccountId, rate: u64, cells: u64) -> bool {
        let Some(account) = self.get(id) else { return false };
        let covered = account.committed + u128::from(rate) * u128::from(cells) <= account.paid;
        if !covered {
            self.note(id);
        }
        covered
    }

    /// The next account whose credit is low, or at which enough is owed; set its thresholds anew.
    pub fn poll_note(&mut self) -> Option<AccountId> {
        while let Some(id) = self.notes.pop_front() {
            if let Some(account) = self.get_mut(id) {
                account.noted = false;
                return Some(id);
            }
        }
        None
    }

    /// Whether an account waits to be looked at.
    pub fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// Notes an account whose credit was not enough.
    pub fn note(&mut self, id: AccountId) {
        if let Some(account) = self.get_mut(id)
            && !account.noted
        {
            account.noted = true;
            self.notes.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_spent_reserved_and_given_back_to_the_wei() {
        let mut ledger = Ledger::default();
        let id = ledger.open();
        assert!(!ledger.charge(id, 3, 1), "no credit yet");
        assert_eq!(ledger.poll_note(), Some(id));
        ledger.get_mut(id).unwrap().credit = 100;
        ledger.get_mut(id).unwrap().low = 50;
        assert!(ledger.charge(id, 3, 2));
        assert_eq!(ledger.poll_note(), None);
        assert_eq!(ledger.reserve(id, 7, 10, 0), 10);
        assert_eq!(ledger.reserve(id, 7, 10, 0), 3, "24 wei are three cells of 7");
        assert_eq!(ledger.poll_note(), Some(id));
        assert!(ledger.charge(id, 3, 1) && !ledger.charge(id, 3, 1));
        ledger.use_reserved(id, 7);
        ledger.release(id, 7, 12);
        let account = *ledger.get(id).unwrap();
        assert_eq!((account.credit, account.earned, account.cells_in), (84, 9 + 7, 4));
        assert_eq!(account.credit.unsigned_abs() + account.earned, 100);
        assert_eq!(ledger.reserve(id, 0, 10, 5), 10, "free cells need no credit");
    }

    #[test]
    fn what_is_owed_is_noted_once_it_is_due() {
        let mut ledger = Ledger::default();
        let (a, b) = (ledger.open(), ledger.open());
        ledger.get_mut(a).unwrap().due = 20;
        ledger.owe(a, 6, 3);
        assert!(!ledger.has_notes());
        ledger.owe(a, 6, 1);
        ledger.owe(a, 6, 1);
        ledger.owe(b, 1, 1);
        assert_eq!((ledger.poll_note(), ledger.poll_note(), ledger.poll_note()), (Some(a), Some(b), None));
        assert_eq!(ledger.get(a).map(|a| (a.owed, a.cells_out)), Some((30, 5)));
    }

    #[test]
    fn granted_cells_are_committed_once() {
        let mut ledger = Ledger::default();
        let id = ledger.open();
        (ledger.get_mut(id).unwrap().due, ledger.get_mut(id).unwrap().paid) = (1000, 100);
        ledger.promise(id, 5, 16);
        ledger.owe_promised(id, 5, 1);
        let both = |ledger: &Ledger| ledger.get(id).map(|a| (a.owed, a.committed));
        assert_eq!(both(&ledger), Some((5, 80)));
        assert!(ledger.covers(id, 5, 4) && !ledger.covers(id, 5, 5));
        assert_eq!(ledger.poll_note(), Some(id));
        ledger.owe(id, 5, 2);
        ledger.forget_promised(id, 5, 15);
        assert_eq!(both(&ledger), Some((15, 15)));
        ledger.forgive(id, 5, 2);
        assert_eq!(both(&ledger), Some((5, 5)));
    }

    // pay.credit.2
    #[test]
    fn a_credit_line_follows_rate_payments_and_cap() {
        let mut ledger = Ledger::default();
        let id = ledger.open();
        ledger.set_line(id, 1 << 40);
        assert_eq!(ledger.get(id).map(|a| a.credit), Some(0), "nothing is trusted before there is a rate");
        for (rate, line) in [(10, 7_600), (5, 7_600), (20, 15_200_i128)] {
            ledger.meet(id, rate);
            assert_eq!(ledger.get(id).map(|a| (a.credit, a.line)), Some((line, line.cast_unsigned())));
        }
        let mut paid = 0;
        for (more, line) in [(1_600, 15_300), (16_000_000, 64 * 15_200), (1, 64 * 15_200_i128)] {
            ledger.credit(id, more);
            paid += more.cast_signed();
            assert_eq!(ledger.get(id).map(|a| (a.credit, a.line)), Some((paid + line, line.cast_unsigned())));
        }
        ledger.set_line(id, 3_000);
        assert_eq!(ledger.get(id).map(|a| (a.credit, a.line)), Some((paid + 3_000, 3_000)));
        assert!(ledger.charge(id, 1, u64::try_from(paid).unwrap() + 2_000));
        ledger.set_line(id, 0);
        assert_eq!(ledger.get(id).map(|a| (a.credit, a.line)), Some((-2_000, 0)));
        assert!(!ledger.charge(id, 1, 1));
        assert_eq!(ledger.reserve(id, 1, 1, 0), 0);
    }

    // pay.credit.4
    #[test]
    fn credit_is_low_at_half_of_what_is_paid_ahead_or_trusted() {
        let mut ledger = Ledger::default();
        let (client, relay) = (ledger.open(), ledger.open());
        ledger.meet(client, 10);
        ledger.meet(relay, 10);
        ledger.set_line(relay, 0);
        let low = |ledger: &Ledger| [client, relay].map(|id| ledger.get(id).map(|a| a.low));
        assert_eq!(low(&ledger), [Some(7_680), Some(3_840)]);
        ledger.set_line(relay, 1 << 40);
        ledger.credit(relay, 160_000);
        assert_eq!(low(&ledger), [Some(7_680), Some(8_800)]);
    }

    #[test]
    fn a_closed_account_passes_nothing_and_its_name_means_no_other() {
        let mut ledger = Ledger::default();
        let old = ledger.open();
        ledger.get_mut(old).unwrap().credit = 100;
        ledger.close(old);
        let new = ledger.open();
        ledger.get_mut(new).unwrap().credit = 100;
        assert!(!ledger.charge(old, 1, 1) && ledger.charge(new, 1, 1));
        ledger.owe(old, 1, 1);
        assert_eq!(ledger.reserve(old, 1, 1, 0), 0);
        assert_eq!(ledger.get(old), None);
        ledger.close(old);
        assert!(ledger.get(new).is_some());
    }
}
