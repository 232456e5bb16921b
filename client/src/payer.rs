//! The client's money: pays its entry by draws for the cells that the ledger counts (docs/spec/03-payments.md section 4).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use circuit::error::DropReason;
use circuit::ledger::{Account, AccountId, Ledger};
use circuit::link::LinkId;
use circuit::node::Now;
use circuit::reckoning::Reckoning;
use payments::Address;
use payments::amount::Wei;
use payments::frame::{Frame, Level, Role};
use payments::outgoing::Outgoing;
use payments::record::{Change, RecordId};
use payments::wallet::{Pot, Refusal, Wallet};

/// The cells that a draw is worth (pay.credit.3).
const UNIT: u64 = 384;
/// What is paid ahead for forward cells and setups, in cells; backward cells are paid as they are granted.
const AHEAD: u64 = 4 * UNIT;
/// What was paid ahead may be lost, so many cells at most: whom a client pays is its own choice.
const FORGIVEN: u64 = 8_192;
/// An entry that has forgotten whose link it is gets a draw this often, at most so many times.
const MOVE: Duration = Duration::from_secs(2);
const MOVES: u8 = 8;
const TICK: Duration = Duration::from_millis(500);

/// A relay that is paid.
#[derive(Debug)]
struct Payee {
    account: AccountId,
    link: Option<LinkId>,
    target: u128,
    reckoning: Reckoning,
    /// The cells that it had not charged when it gave its counts last: under way, or dropped without credit.
    uncharged: u64,
    /// When it was last sent a draw for no more than to learn whose link it is, and how often since it has known that.
    moved: Option<Instant>,
    moves: u8,
}

/// Money with all entries.
#[derive(Debug)]
pub struct Payer {
    wallet: Wallet,
    payees: BTreeMap<Address, Payee>,
    by_account: BTreeMap<AccountId, Address>,
    links: BTreeMap<LinkId, Address>,
    outgoing: BTreeMap<LinkId, Outgoing>,
    tick: Option<Instant>,
}

impl Payer {
    /// A payer that has paid nobody yet in this life.
    pub const fn new(wallet: Wallet) -> Self {
        Self {
            wallet,
            payees: BTreeMap::new(),
            by_account: BTreeMap::new(),
            links: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            tick: None,
        }
    }

    /// A link to a relay that is to be paid stands; its account.
    pub fn entry_up(&mut self, now: Now, ledger: &mut Ledger, link: LinkId, owner: Address) -> AccountId {
        self.tick.get_or_insert_with(|| now.after(TICK));
        let by_account = &mut self.by_account;
        let paid = self.wallet.paid(owner).0;
        let payee = self.payees.entry(owner).or_insert_with(|| {
            // What was paid ahead in another life is not counted on.
            let account = ledger.resume(paid);
            by_account.insert(account, owner);
            let reckoning =
                Reckoning::of(&ledger.get(account).copied().unwrap_or_default(), now.instant, FORGIVEN, 0);
            Payee { account, link: None, target: paid, reckoning, uncharged: 0, moved: None, moves: 0 }
        });
        if payee.link != Some(link) {
            payee.link = Some(link);
            self.links.retain(|_, of| *of != owner);
            self.links.insert(link, owner);
            self.wallet.introduce(now.unix(), owner);
            // pay.account.1: the next draw moves the account to this link.
            payee.target = payee.target.max(paid + 1);
            if payee.target > 1 {
                self.wallet.pay(now.unix(), owner, Wei(payee.target));
            }
        }
        let account = payee.account;
        self.route();
        account
    }

    /// The account of a relay by its address.
    pub fn account_of(&self, owner: Address) -> Option<AccountId> {
        self.payees.get(&owner).map(|payee| payee.account)
    }

    /// The accounts of all relays that were paid.
    pub fn accounts(&self) -> Vec<AccountId> {
        self.by_account.keys().copied().collect()
    }

    /// A link is gone.
    pub fn link_lost(&mut self, link: LinkId) {
        self.outgoing.remove(&link);
        if let Some(payee) = self.links.remove(&link).and_then(|owner| self.payees.get_mut(&owner)) {
            payee.link = None;
        }
    }

    /// The relay at the other end of a link, and its account.
    fn at(&mut self, link: LinkId) -> Option<(Address, &mut Payee)> {
        let owner = *self.links.get(&link)?;
        Some((owner, self.payees.get_mut(&owner)?))
    }

    /// Takes a frame from a link.
    pub fn handle(
        &mut self,
        now: Now,
        ledger: &mut Ledger,
        link: LinkId,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        let Some((owner, _)) = self.at(link) else { return Err(DropReason::Misbehaved) };
        match frame {
            Frame::Meter { role: Role::Payee, due, credited, .. } => {
                self.note_uncharged(ledger, owner, due.0);
                let compared = self.compare(now, ledger, owner, [due.0, credited.0]);
                compared.inspect_err(|_| self.leave(now, ledger, owner))
            }
            Frame::Credit(level) => {
                self.stand(now, ledger, owner, *level).inspect_err(|_| self.leave(now, ledger, owner))
            }
            frame if frame.is_for_payer() => {
                let handled = self.wallet.handle(now.unix(), owner, frame);
                self.paid(ledger, owner);
                self.route();
                handled.map_err(|_| DropReason::Misbehaved)
            }
            _ => Ok(()),
        }
    }

    /// What an entry has not charged has cost nothing: counted by its sum, which we pay, not by the cells that it names.
    // pay.deliver.1
    fn note_uncharged(&mut self, ledger: &Ledger, owner: Address, due: u128) {
        if let Some(payee) = self.payees.get_mut(&owner)
            && let Some(state) = ledger.get(payee.account)
        {
            let cells = state.owed.saturating_sub(due).checked_div(u128::from(state.rate_out));
            payee.uncharged = cells.map_or(0, |cells| u64::try_from(cells).unwrap_or(u64::MAX));
        }
    }

    /// The cells over a link that its entry has not charged, as it says.
    pub fn uncharged(&self, link: LinkId) -> u64 {
        let payee = self.links.get(&link).and_then(|owner| self.payees.get(owner));
        payee.map_or(0, |payee| payee.uncharged)
    }

    /// The entry says what it has charged, and what it was credited.
    fn compare(
        &mut self,
        now: Now,
        ledger: &mut Ledger,
        owner: Address,
        [due, credited]: [u128; 2],
    ) -> Result<(), DropReason> {
        let Some(payee) = self.payees.get_mut(&owner) else { return Ok(()) };
        let Some(state) = ledger.get_mut(payee.account) else { return Ok(()) };
        payee.moves = 0;
        if self.wallet.is_restoring(owner) {
            return Ok(());
        }
        let outcome = payee.reckoning.compare(now.instant, state, due, credited);
        let account = payee.account;
        self.noted(now, ledger, account);
        outcome
    }

    /// The entry says how our credit stands there: it is paid ahead at once, not only when a draw is due.
    // pay.credit.5
    fn stand(
        &mut self,
        now: Now,
        ledger: &mut Ledger,
        owner: Address,
        level: Level,
    ) -> Result<(), DropReason> {
        let Some(payee) = self.payees.get_mut(&owner) else { return Err(DropReason::Misbehaved) };
        match level {
            Level::Paused => return self.starved(now, ledger, owner),
            Level::Low => self.pay(now, ledger, owner),
            Level::Ok => payee.reckoning.content(),
        }
        self.route();
        Ok(())
    }

    /// The entry has nothing of what was paid ahead.
    fn starved(&mut self, now: Now, ledger: &mut Ledger, owner: Address) -> Result<(), DropReason> {
        let Some(payee) = self.payees.get_mut(&owner) else { return Ok(()) };
        let Some(state) = ledger.get_mut(payee.account) else { return Ok(()) };
        let outcome = if self.wallet.is_restoring(owner) {
            Ok(())
        } else {
            payee.reckoning.starved(now.instant, state, self.wallet.undecided(owner).0)
        };
        // An entry that has restarted does not know whose draws come on this link.
        self.wallet.introduce(now.unix(), owner);
        self.pay(now, ledger, owner);
        self.route();
        outcome
    }

    /// The entry refuses a setup as unpaid, though it was paid: it may have restarted, and not know whose draws come on this
    /// link. The next draw tells it.
    // pay.account.1
    pub fn unknown(&mut self, now: Now, ledger: &mut Ledger, owner: Address) -> Result<(), DropReason> {
        if let Some(payee) = self.payees.get_mut(&owner)
            && payee.moves < MOVES
            && payee.moved.is_none_or(|at| at + MOVE <= now.instant)
        {
            (payee.moved, payee.moves) = (Some(now.instant), payee.moves + 1);
            payee.target = payee.target.max(self.wallet.paid(owner).0 + 1);
        }
        self.starved(now, ledger, owner)
    }

    /// Pays an entry no more for a while: it has charged for more than it carried.
    // pay.meter.1
    pub fn leave(&mut self, now: Now, ledger: &Ledger, owner: Address) {
        self.wallet.quarantine(now.unix(), owner);
        if let Some(payee) = self.payees.get_mut(&owner)
            && let Some(state) = ledger.get(payee.account)
        {
            payee.reckoning.restart(state);
        }
    }

    /// Whether a relay has lied or charged too much, and is not paid for a while.
    pub fn distrusts(&self, owner: Address) -> bool {
        self.wallet.quarantined(owner)
    }

    /// The owners of all such relays.
    pub fn distrusted(&self) -> Vec<Address> {
        let payees = self.wallet.snapshot().into_iter();
        payees.filter(|payee| payee.quarantined).map(|payee| payee.payee).collect()
    }

    /// Why the entry is not paid, if it is not.
    pub fn refusal(&self, owner: Address) -> Option<Refusal> {
        self.wallet.refusal(owner)
    }

    /// The ledger has noted an account: pays what is due.
    pub fn noted(&mut self, now: Now, ledger: &mut Ledger, account: AccountId) {
        let Some(owner) = self.by_account.get(&account).copied() else { return };
        let Some(payee) = self.payees.get_mut(&owner) else { return };
        let Some(state) = ledger.get_mut(account) else { return };
        let unit = u128::from(state.rate_out) * u128::from(UNIT);
        let target = state.committed + u128::from(state.rate_out) * u128::from(AHEAD);
        if state.committed >= state.due || target >= payee.target + unit {
            self.pay(now, ledger, owner);
            self.route();
        }
    }

    /// Pays an entry ahead, and says our counts with it when they are due.
    fn pay(&mut self, now: Now, ledger: &mut Ledger, owner: Address) {
        let Some(payee) = self.payees.get_mut(&owner) else { return };
        let Some(state) = ledger.get_mut(payee.account) else { return };
        let unit = u128::from(state.rate_out) * u128::from(UNIT);
        payee.target = payee.target.max(state.committed + u128::from(state.rate_out) * u128::from(AHEAD));
        state.due = state.committed + unit;
        self.wallet.set_value(owner, Wei(unit));
        self.wallet.pay(now.unix(), owner, Wei(payee.target));
        let claim = payee.reckoning.claims(now.instant, state, true).then_some(claim(state));
        if let (Some(claim), Some(link)) = (claim, payee.link) {
            self.send(link, claim);
        }
        self.paid(ledger, owner);
    }

    // pay.draw.5
    fn paid(&mut self, ledger: &mut Ledger, owner: Address) {
        if let Some(payee) = self.payees.get_mut(&owner)
            && let Some(state) = ledger.get_mut(payee.account)
        {
            payee.reckoning.recover(state, self.wallet.take_found(owner).0);
            state.paid = self.wallet.paid(owner).0;
        }
    }

    fn route(&mut self) {
        while let Some((to, frame)) = self.wallet.poll_frame() {
            if let Some(link) = self.payees.get(&to).and_then(|payee| payee.link) {
                self.send(link, frame);
            }
        }
    }

    /// Sends a frame soon, with others.
    pub fn send(&mut self, link: LinkId, frame: Frame) {
        self.outgoing.entry(link).or_default().push(frame);
    }

    /// Writes frames of one link into a control packet's cell; which link.
    pub fn poll_frames(&mut self, cell: &mut [u8]) -> Option<LinkId> {
        let (link, frames) = self.outgoing.iter_mut().next()?;
        let link = *link;
        if frames.write(cell) {
            self.outgoing.remove(&link);
        }
        Some(link)
    }

    /// A redemption costs so much now.
    pub const fn set_redemption_cost(&mut self, cost: Wei) {
        self.wallet.set_redemption_cost(cost);
    }

    /// Our pot is seen on the chain.
    pub fn own_pot(&mut self, now: Now, pot: Option<Pot>) {
        self.wallet.on_account(now.unix(), pot);
        self.route();
    }

    /// A session of ours was redeemed on the chain.
    pub fn redeemed(&mut self, now: Now, payee: Address, nonce: u32) {
        // A payee that lied about it is not paid any more.
        let _ = self.wallet.redeemed(now.unix(), payee, nonce);
    }

    /// The next change that is to be written to disk; hand the changes over in this order.
    pub fn poll_record(&mut self) -> Option<(RecordId, Change)> {
        self.wallet.poll_record()
    }

    /// A change is on disk, and all before it.
    pub fn persisted(&mut self, now: Now, ledger: &mut Ledger, id: RecordId) {
        self.wallet.persisted(now.unix(), id);
        let owners: Vec<_> = self.payees.keys().copied().collect();
        for owner in owners {
            self.paid(ledger, owner);
        }
        self.route();
    }

    /// When [`Payer::handle_timeout`] is due.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.tick
    }

    /// Lets the wallet repeat what was not answered.
    pub fn handle_timeout(&mut self, now: Now, ledger: &mut Ledger) {
        if self.tick.is_none_or(|tick| tick > now.instant) {
            return;
        }
        self.tick = Some(now.after(TICK));
        if self.wallet.next_timeout().is_some_and(|at| at <= now.unix()) {
            self.wallet.handle_timeout(now.unix());
        }
        let owners: Vec<_> = self.payees.keys().copied().collect();
        for owner in owners {
            self.paid(ledger, owner);
            let Some(payee) = self.payees.get_mut(&owner) else { continue };
            let Some(state) = ledger.get(payee.account) else { continue };
            payee.reckoning.look(now.instant, state);
            if let Some(link) = payee.link
                && payee.reckoning.claims(now.instant, state, false)
            {
                self.send(link, claim(state));
            }
        }
        self.route();
    }

    /// The wallet, to look at.
    pub const fn wallet(&self) -> &Wallet {
        &self.wallet
    }
}

/// What we owe an entry, and have paid.
const fn claim(account: &Account) -> Frame {
    Frame::Meter {
        role: Role::Payer,
        cells: account.cells_out,
        due: Wei(account.owed),
        credited: Wei(account.paid),
    }
}

#[cfg(test)]
mod tests;
