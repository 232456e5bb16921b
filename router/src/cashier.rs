//! The relay's money: what neighbours are charged and paid, by draws, for the cells that the ledger counts
//! (docs/spec/03-payments.md section 4).
//!
//! The till takes draws of the neighbours that circuits come from, the wallet pays those that they go to. Addresses,
//! accounts and links of the same neighbour meet here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use circuit::error::DropReason;
use circuit::ledger::{Account, AccountId, Ledger};
use circuit::link::LinkId;
use circuit::node::Now;
use circuit::reckoning::Reckoning;
use payments::Address;
use payments::amount::Wei;
use payments::claim::Claim;
use payments::frame::{Frame, Level, Role};
use payments::outgoing::Outgoing;
use payments::record::{Book, Change, MeterRow, RecordId};
use payments::till::{PayerAccount, Till, TillError};
use payments::wallet::{Pot, Wallet};

mod lookups;
mod meters;

use meters::Meters;

/// The cells that a draw is worth (pay.credit.3).
const UNIT: u64 = 384;
/// What a relay pays ahead, in cells: forward cells that are under way while a draw is.
const AHEAD: u64 = 2 * UNIT;
/// A credit line is never above this part of the reserve.
const LINE_PART: u128 = 256;
/// After so many cells the counts are said, with the next draw or tick (pay.meter.2).
const METER: u64 = 4_096;
/// How often a payer is told that its credit is low, or our counts, at most.
const TELL: Duration = Duration::from_millis(200);
/// Without credit for so long a client's circuits are closed, and a relay's.
const PATIENCE_CLIENT: Duration = Duration::from_secs(30);
const PATIENCE_RELAY: Duration = Duration::from_mins(1);
/// Counters are compared after so long without a cell.
const QUIET: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);
/// Clients that are remembered.
const REMEMBERED: usize = 16_384;

/// What a relay is paid and pays with.
#[derive(Debug)]
pub struct CashierConfig {
    /// Its pot.
    pub owner: Address,
    /// Pays the next relays.
    pub wallet: Wallet,
    /// Is paid by clients and relays.
    pub till: Till,
    /// What they were charged before the start.
    pub meters: Vec<MeterRow>,
}

/// A neighbour that pays or is paid.
#[derive(Debug)]
struct Neighbour {
    account: AccountId,
    /// Where frames go.
    link: Option<LinkId>,
    relay: bool,
    /// Its bond, by the registry.
    bond: Wei,
    /// Up to what it is to be paid.
    target: u128,
    told: Option<Instant>,
    /// It was told that nothing passes, and not yet that it does again.
    stopped: bool,
    /// Since when it has had no credit.
    dry: Option<Instant>,
    /// What it was charged for at the last tick, since when that has not changed, and what it was told.
    counted: u64,
    still_since: Instant,
    compared: u64,
    /// What it was charged, if the disk has it.
    written: Option<u128>,
    /// When it was last told our counts because it asked.
    answered: Option<Instant>,
    /// When it said that our credit is used up.
    paused: Option<Instant>,
    reckoning: Reckoning,
}

/// What the cashier wants its node to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The account has more credit.
    Credited(AccountId),
    /// The circuits that are charged to the account are to be closed: it does not pay.
    Close(AccountId),
    /// The circuits that are owed to the account are to be closed: it charges for what it does not carry, or lies.
    Leave(AccountId),
}

/// Money with all neighbours.
#[derive(Debug)]
pub struct Cashier {
    owner: Address,
    wallet: Wallet,
    till: Till,
    neighbours: BTreeMap<Address, Neighbour>,
    by_account: BTreeMap<AccountId, Address>,
    /// Who a link belongs to: a relay's owner, or who a client says that it pays for.
    links: BTreeMap<LinkId, Address>,
    /// Those of them whose other end has shown that it is that relay: the others may name whom they like.
    shown: BTreeSet<LinkId>,
    /// Accounts as they were seen on the chain.
    seen: BTreeMap<Address, PayerAccount>,
    lookups: VecDeque<Address>,
    /// What was asked by those that are being looked up.
    asked: BTreeMap<Address, Option<(LinkId, Frame)>>,
    outgoing: BTreeMap<LinkId, Outgoing>,
    requests: VecDeque<Request>,
    meters: Meters,
    tick: Option<Instant>,
}

impl Cashier {
    /// A cashier without neighbours.
    pub fn new(config: CashierConfig) -> Self {
        let meters = Meters::new(config.meters, &config.till);
        Self {
            owner: config.owner,
            wallet: config.wallet,
            till: config.till,
            neighbours: BTreeMap::new(),
            by_account: BTreeMap::new(),
            links: BTreeMap::new(),
            shown: BTreeSet::new(),
            seen: BTreeMap::new(),
            lookups: VecDeque::new(),
            asked: BTreeMap::new(),
            outgoing: BTreeMap::new(),
            requests: VecDeque::new(),
            meters,
            tick: None,
        }
    }

    /// A link to a registered relay stands.
    pub fn relay_up(&mut self, now: Now, ledger: &mut Ledger, link: LinkId, owner: Address) {
        self.shown.insert(link);
        // Who has named this owner before, and did not show that he is it, speaks for nobody from here on.
        self.links.retain(|link, of| *of != owner || self.shown.contains(link));
        self.links.insert(link, owner);
        let credited = self.till.credited(owner);
        let neighbour = self.neighbour(now, ledger, owner, true, credited);
        neighbour.link = Some(link);
        self.look_up(owner);
        self.trust(ledger, owner);
    }

    /// The registry names a neighbour's bond, which counts until its pot has been seen: else the first circuits between two relays
    /// would come before their credit.
    // pay.credit.2
    pub fn vouch(&mut self, ledger: &mut Ledger, owner: Address, bond: Wei) {
        if let Some(neighbour) = self.neighbours.get_mut(&owner) {
            neighbour.bond = bond;
            self.trust(ledger, owner);
        }
    }

    /// These are the owners of all relays there are now: the others are neighbours like clients from here on.
    // operate.view.2
    pub fn set_owners(&mut self, ledger: &mut Ledger, owners: &BTreeSet<Address>) {
        for (address, neighbour) in &mut self.neighbours {
            if neighbour.relay && !owners.contains(address) {
                neighbour.relay = false;
                ledger.set_line(neighbour.account, 0);
            }
        }
    }

    /// The relay's owner that a link belongs to, if its other end has shown that it is that relay.
    pub fn owner_of(&self, link: LinkId) -> Option<Address> {
        self.links.get(&link).filter(|_| self.shown.contains(&link)).copied()
    }

    /// A link over which the relays of this owner have shown who they are.
    fn link_of(&self, owner: Address) -> Option<LinkId> {
        self.shown.iter().find(|link| self.links.get(link) == Some(&owner)).copied()
    }

    /// Whether only links of relays may speak for this address.
    // pay.frame.2
    fn is_relays(&self, address: Address) -> bool {
        self.neighbours.get(&address).is_some_and(|neighbour| neighbour.relay)
            || self.link_of(address).is_some()
    }

    /// A link is gone; its neighbour's account is kept.
    pub fn link_lost(&mut self, link: LinkId) {
        self.outgoing.remove(&link);
        self.shown.remove(&link);
        let Some(address) = self.links.remove(&link) else { return };
        let other = self.link_of(address);
        if let Some(neighbour) = self.neighbours.get_mut(&address)
            && neighbour.link == Some(link)
        {
            neighbour.link = other;
        }
    }

    /// The account that circuits of a link are charged to.
    // pay.account.1
    pub fn account(&self, link: LinkId) -> Option<AccountId> {
        let neighbour = self.neighbours.get(self.links.get(&link)?)?;
        let shown = neighbour.relay && self.shown.contains(&link);
        (shown || neighbour.link == Some(link)).then_some(neighbour.account)
    }

    /// The account of a neighbour by its address.
    pub fn account_of(&self, address: Address) -> Option<AccountId> {
        self.neighbours.get(&address).map(|neighbour| neighbour.account)
    }

    /// The account of a neighbour, opened if there is none; `credited` is what it had paid before.
    fn neighbour(
        &mut self,
        now: Now,
        ledger: &mut Ledger,
        address: Address,
        relay: bool,
        credited: Wei,
    ) -> &mut Neighbour {
        if !self.neighbours.contains_key(&address) {
            self.make_room(ledger);
            self.tick.get_or_insert_with(|| now.after(TICK));
        }
        let (by_account, meters) = (&mut self.by_account, &mut self.meters);
        let (paid, before) = (self.wallet.paid(address).0, self.wallet.unsettled(address).0);
        let neighbour = self.neighbours.entry(address).or_insert_with(|| {
            // What we have paid ahead in another life is counted on when it says that it is there still.
            let account = ledger.resume(paid);
            by_account.insert(account, address);
            let written = ledger.get_mut(account).and_then(|state| meters.resume(address, credited, state));
            let state = ledger.get(account).copied().unwrap_or_default();
            let reckoning = Reckoning::of(&state, now.instant, UNIT, before);
            Neighbour {
                account,
                link: None,
                relay: false,
                bond: Wei::ZERO,
                target: paid,
                told: None,
                stopped: false,
                dry: None,
                counted: 0,
                still_since: now.instant,
                compared: 0,
                written,
                answered: None,
                paused: None,
                reckoning,
            }
        });
        neighbour.relay |= relay;
        neighbour
    }

    /// Forgets the client that has been gone for longest, when there are too many.
    fn make_room(&mut self, ledger: &mut Ledger) {
        if self.neighbours.len() < REMEMBERED {
            return;
        }
        let gone = |neighbour: &Neighbour| neighbour.link.is_none() && !neighbour.relay;
        let oldest = self.neighbours.iter().filter(|(_, n)| gone(n)).min_by_key(|(_, n)| n.still_since);
        if let Some(address) = oldest.map(|(address, _)| *address)
            && let Some(neighbour) = self.neighbours.remove(&address)
        {
            ledger.close(neighbour.account);
            self.by_account.remove(&neighbour.account);
            self.meters.forget(address);
            self.seen.remove(&address);
        }
    }

    /// Gives a registered relay its credit line (pay.credit.2).
    fn trust(&mut self, ledger: &mut Ledger, address: Address) {
        let Some(neighbour) = self.neighbours.get(&address).filter(|neighbour| neighbour.relay) else {
            return;
        };
        let bond = match self.seen.get(&address) {
            Some(seen) if seen.registered && !seen.unlocking => seen.reserve,
            Some(_) => Wei::ZERO,
            None => neighbour.bond,
        };
        let account = neighbour.account;
        let credit = |ledger: &Ledger| ledger.get(account).map(|state| state.credit);
        let before = credit(ledger);
        ledger.set_line(account, bond.0 / LINE_PART);
        if credit(ledger) > before {
            self.requests.push_back(Request::Credited(account));
        }
        self.relieve(ledger, address);
    }

    /// Tells who was told that nothing passes that it does again.
    // pay.credit.4
    fn relieve(&mut self, ledger: &Ledger, address: Address) {
        let Some(neighbour) = self.neighbours.get_mut(&address) else { return };
        let has = ledger.get(neighbour.account).is_some_and(|state| state.credit >= state.low);
        if let Some(link) = neighbour.link.filter(|_| neighbour.stopped && has) {
            neighbour.stopped = false;
            self.send(link, Frame::Credit(Level::Ok));
        }
    }

    // --- frames --------------------------------------------------------------------------------------------------

    /// Takes a frame from a link.
    pub fn handle(
        &mut self,
        now: Now,
        ledger: &mut Ledger,
        link: LinkId,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        if frame.is_for_payee() {
            return self.take_for_till(now, ledger, link, frame);
        }
        if let Frame::Meter { role: Role::Payer, due, credited, .. } = frame {
            self.answer(now, ledger, link, [due.0, credited.0]);
            return Ok(());
        }
        // pay.frame.2: whoever is paid is a relay, and has shown it.
        let address = self.owner_of(link).ok_or(DropReason::Misbehaved)?;
        if frame.is_for_payer() {
            let handled = self.wallet.handle(now.unix(), address, frame);
            self.paid(ledger, address);
            self.route(None);
            if handled.is_err() && self.wallet.quarantined(address) {
                self.leave(now, ledger, address);
            }
            return handled.map_err(|_| DropReason::Misbehaved);
        }
        let outcome = match frame {
            Frame::Meter { role: Role::Payee, due, credited, .. } => {
                self.compare(now, ledger, address, [due.0, credited.0])
            }
            Frame::Credit(level) => self.stand(now, ledger, address, *level),
            _ => Ok(()),
        };
        if outcome.is_err() {
            self.leave(now, ledger, address);
        }
        outcome
    }

    /// A payee that cannot be trusted gets no more circuits of ours, and no more money for a while.
    // pay.meter.1
    fn leave(&mut self, now: Now, ledger: &Ledger, address: Address) {
        self.wallet.quarantine(now.unix(), address);
        if let Some(neighbour) = self.neighbours.get_mut(&address) {
            if let Some(state) = ledger.get(neighbour.account) {
                neighbour.reckoning.restart(state);
            }
            self.requests.push_back(Request::Leave(neighbour.account));
        }
    }

    /// Whether a relay has lied or charged too much, and gets no circuits for a while.
    pub fn distrusts(&self, owner: Address) -> bool {
        self.wallet.quarantined(owner)
    }

    /// A payer says its counts: it gets ours, if they are others.
    // pay.meter.3
    fn answer(&mut self, now: Now, ledger: &Ledger, link: LinkId, [owed, paid]: [u128; 2]) {
        let Some(neighbour) = self.links.get(&link).and_then(|address| self.neighbours.get_mut(address))
        else {
            return;
        };
        let Some(state) = ledger.get(neighbour.account) else { return };
        let same = (state.earned, state.credited) == (owed, paid);
        if neighbour.link == Some(link)
            && !same
            && neighbour.answered.is_none_or(|at| at + TELL <= now.instant)
        {
            neighbour.answered = Some(now.instant);
            let counts = statement(state);
            self.send(link, counts);
        }
    }

    /// The next relay says how our credit stands there: it is paid ahead at once, and gets no forward cells while it has
    /// nothing.
    // pay.credit.5
    fn stand(
        &mut self,
        now: Now,
        ledger: &mut Ledger,
        address: Address,
        level: Level,
    ) -> Result<(), DropReason> {
        let Some(neighbour) = self.neighbours.get_mut(&address) else { return Err(DropReason::Misbehaved) };
        let Some(state) = ledger.get_mut(neighbour.account) else { return Ok(()) };
        let (account, before) = (neighbour.account, state.paid);
        let outcome = match level {
            Level::Ok => {
                state.paused = false;
                neighbour.reckoning.content();
                return Ok(());
            }
            Level::Low => Ok(()),
            Level::Paused if self.wallet.is_restoring(address) => Ok(()),
            Level::Paused => {
                let undecided = self.wallet.undecided(address).0;
                neighbour.reckoning.starved(now.instant, state, undecided)
            }
        };
        neighbour.paused = Some(now.instant);
        self.pay(now, ledger, address);
        if let Some(state) = ledger.get_mut(account) {
            state.paused = level == Level::Paused && state.paid == before;
        }
        self.route(None);
        outcome
    }

    fn take_for_till(
        &mut self,
        now: Now,
        ledger: &mut Ledger,
        link: LinkId,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        let address = match frame {
            // pay.frame.2
            Frame::Want { payer, .. } | Frame::Session { payer, .. } if !self.shown.contains(&link) => {
                if self.is_relays(*payer) {
                    return Err(DropReason::Misbehaved);
                }
                self.links.insert(link, *payer);
                *payer
            }
            _ => self.links.get(&link).copied().ok_or(DropReason::Misbehaved)?,
        };
        // pay.table.1: a pot that cannot pay is not watched.
        if matches!(frame, Frame::Want { .. }) && !self.seen.get(&address).is_some_and(PayerAccount::can_pay)
        {
            self.look_up(address);
            if let Some(asked) = self.asked.get_mut(&address) {
                *asked = Some((link, *frame));
            }
            return Ok(());
        }
        if !self.seen.contains_key(&address) {
            // A session from before a restart is known without, and the draws that follow are not.
            self.look_up(address);
        }
        self.hand_to_till(now, ledger, link, address, frame)
    }

    fn hand_to_till(
        &mut self,
        now: Now,
        ledger: &mut Ledger,
        link: LinkId,
        address: Address,
        frame: &Frame,
    ) -> Result<(), DropReason> {
        let seen = self.seen.get(&address);
        let credited = self.till.handle(now.unix(), address, frame, seen);
        self.route(Some((address, link)));
        let credited = match credited {
            Err(TillError::Stale) => return Ok(()),
            credited => credited.map_err(|_| DropReason::Misbehaved)?,
        };
        if credited > Wei::ZERO {
            // pay.account.1: only who pays reveals the next draw.
            let before = self.till.credited(address).saturating_sub(credited);
            let neighbour = self.neighbour(now, ledger, address, false, before);
            neighbour.link = Some(link);
            neighbour.dry = None;
            let account = neighbour.account;
            ledger.credit(account, credited.0);
            self.relieve(ledger, address);
            self.requests.push_back(Request::Credited(account));
        }
        Ok(())
    }

    /// Sends what wallet and till have to say; `here` is where the frame came from that they answer.
    fn route(&mut self, here: Option<(Address, LinkId)>) {
        while let Some((to, frame)) = self.till.poll_frame().or_else(|| self.wallet.poll_frame()) {
            let link = if frame.is_for_payee() {
                // Only who has shown that it is the payee is paid.
                let known = self.neighbours.get(&to).and_then(|neighbour| neighbour.link);
                known.filter(|link| self.shown.contains(link)).or_else(|| self.link_of(to))
            } else {
                let answered = here.filter(|(address, _)| *address == to).map(|(_, link)| link);
                let known = || self.neighbours.get(&to).and_then(|neighbour| neighbour.link);
                let named = || self.links.iter().find(|(_, of)| **of == to).map(|(link, _)| *link);
                answered.or_else(known).or_else(named)
            };
            if let Some(link) = link {
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

    // --- accounts ------------------------------------------------------------------------------------------------

    /// The ledger has noted an account: pays what is due, and tells who has too little credit.
    pub fn noted(&mut self, now: Now, ledger: &mut Ledger, account: AccountId) {
        let Some(address) = self.by_account.get(&account).copied() else { return };
        if ledger.get(account).is_some_and(|state| state.committed >= state.due) {
            self.pay(now, ledger, address);
        }
        self.tell(now, ledger, address);
        self.route(None);
    }

    /// Pays a relay ahead, and says our counts with it when they are due.
    fn pay(&mut self, now: Now, ledger: &mut Ledger, address: Address) {
        let Some(neighbour) = self.neighbours.get_mut(&address) else { return };
        let Some(state) = ledger.get_mut(neighbour.account).filter(|state| state.rate_out > 0) else {
            return;
        };
        // pay.credit.3: a dear setup alone does not make us pay much ahead.
        let ahead = (u128::from(state.rate_out) * u128::from(AHEAD)).min(neighbour.reckoning.own(state));
        let target = state.committed + ahead;
        neighbour.target = neighbour.target.max(target);
        let unit = u128::from(state.rate_out) * u128::from(UNIT);
        state.due = state.committed + unit;
        self.wallet.set_value(address, Wei(unit));
        self.wallet.pay(now.unix(), address, Wei(neighbour.target));
        let claim = neighbour.reckoning.claims(now.instant, state, true).then_some(claim(state));
        if let (Some(claim), Some(link)) = (claim, neighbour.link) {
            self.send(link, claim);
        }
        self.paid(ledger, address);
    }

    /// Says that credit is low, or gone: then with the counts (pay.credit.4).
    fn tell(&mut self, now: Now, ledger: &Ledger, address: Address) {
        let Some(neighbour) = self.neighbours.get_mut(&address) else { return };
        let Some(state) = ledger.get(neighbour.account) else { return };
        if state.credit >= state.low || state.rate_in == 0 {
            return;
        }
        let level = if state.credit < i128::from(state.rate_in) {
            neighbour.dry.get_or_insert(now.instant);
            neighbour.stopped = true;
            Level::Paused
        } else {
            Level::Low
        };
        if neighbour.told.is_some_and(|at| at + TELL > now.instant) {
            return;
        }
        neighbour.told = Some(now.instant);
        let counts = (level == Level::Paused).then(|| statement(state));
        if let Some(link) = neighbour.link {
            self.send(link, Frame::Credit(level));
            if let Some(counts) = counts {
                self.send(link, counts);
            }
        }
    }

    /// Takes note of what the wallet has paid.
    // pay.draw.5
    fn paid(&mut self, ledger: &mut Ledger, address: Address) {
        if let Some(neighbour) = self.neighbours.get_mut(&address)
            && let Some(account) = ledger.get_mut(neighbour.account)
        {
            neighbour.reckoning.recover(account, self.wallet.take_found(address).0);
            let paid = self.wallet.paid(address).0;
            account.paused &= paid <= account.paid;
            account.paid = paid;
        }
    }

    /// A payee says what it has charged, and what it was credited.
    fn compare(
        &mut self,
        now: Now,
        ledger: &mut Ledger,
        address: Address,
        [due, credited]: [u128; 2],
    ) -> Result<(), DropReason> {
        if self.wallet.is_restoring(address) {
            return Ok(());
        }
        let Some(neighbour) = self.neighbours.get_mut(&address) else { return Err(DropReason::Misbehaved) };
        let Some(state) = ledger.get_mut(neighbour.account) else { return Ok(()) };
        let outcome = neighbour.reckoning.compare(now.instant, state, due, credited);
        let account = neighbour.account;
        self.noted(now, ledger, account);
        outcome
    }

    // --- the chain and the disk ----------------------------------------------------------------------------------

    /// A redemption costs so much now.
    pub const fn set_redemption_cost(&mut self, cost: Wei) {
        self.wallet.set_redemption_cost(cost);
        self.till.set_redemption_cost(cost);
    }

    /// Our own pot is seen on the chain.
    pub fn own_pot(&mut self, now: Now, pot: Option<Pot>) {
        self.wallet.on_account(now.unix(), pot);
        self.route(None);
    }

    /// The next change that is to be written to disk; hand the changes over in this order.
    pub fn poll_record(&mut self) -> Option<(Book, RecordId, Change)> {
        if let Some((id, change)) = self.wallet.poll_record() {
            return Some((Book::Wallet, id, change));
        }
        let change = self.till.poll_record().map(|(id, change)| (Book::Till, id, change));
        change.or_else(|| self.meters.poll())
    }

    /// A change is on disk, and all before it of the same book.
    pub fn persisted(&mut self, now: Now, ledger: &mut Ledger, book: Book, id: RecordId) {
        match book {
            Book::Wallet => self.wallet.persisted(now.unix(), id),
            Book::Till => self.till.persisted(id),
            Book::Meters => return,
        }
        let addresses: Vec<_> = self.neighbours.keys().copied().collect();
        for address in addresses {
            self.paid(ledger, address);
        }
        self.route(None);
    }

    /// A session of ours was redeemed on the chain.
    pub fn redeemed_from_us(&mut self, now: Now, payee: Address, nonce: u32) {
        // A payee that lied about it is not paid any more.
        let _ = self.wallet.redeemed(now.unix(), payee, nonce);
    }

    /// A win of ours was redeemed on the chain, or never will be.
    pub fn redeemed_by_us(&mut self, payer: Address, nonce: u32, finally: bool) {
        self.till.redeemed(payer, nonce, finally);
    }

    /// The next win, to be redeemed.
    pub fn poll_claim(&mut self) -> Option<Claim> {
        self.till.poll_claim()
    }

    /// What the node is to do.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.requests.pop_front()
    }

    // --- time ----------------------------------------------------------------------------------------------------

    /// When [`Cashier::handle_timeout`] is due.
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.tick
    }

    /// Repeats, compares counts of neighbours that have become quiet, and leaves those that do not pay.
    pub fn handle_timeout(&mut self, now: Now, ledger: &mut Ledger) {
        if self.tick.is_none_or(|tick| tick > now.instant) {
            return;
        }
        self.tick = Some(now.after(TICK));
        if self.wallet.next_timeout().is_some_and(|at| at <= now.unix()) {
            self.wallet.handle_timeout(now.unix());
        }
        if self.till.next_timeout().is_some_and(|at| at <= now.unix()) {
            self.till.handle_timeout(now.unix());
        }
        let mut statements = vec![];
        for (address, neighbour) in &mut self.neighbours {
            let Some(state) = ledger.get_mut(neighbour.account) else { continue };
            state.paid = self.wallet.paid(*address).0;
            state.paused &= neighbour.paused.is_some_and(|at| at + TICK > now.instant);
            let same = state.cells_in == neighbour.counted;
            neighbour.written = self.meters.note(*address, state, same, neighbour.written);
            if !same {
                neighbour.counted = state.cells_in;
                neighbour.still_since = now.instant;
            }
            // pay.meter.2
            let quiet = |since| now.instant.saturating_duration_since(since) >= QUIET;
            let new = neighbour.counted - neighbour.compared;
            if new >= METER || (new > 0 && quiet(neighbour.still_since)) {
                neighbour.compared = neighbour.counted;
                statements.extend(neighbour.link.map(|link| (link, statement(state))));
            }
            neighbour.reckoning.look(now.instant, state);
            if neighbour.reckoning.claims(now.instant, state, false) {
                statements.extend(neighbour.link.map(|link| (link, claim(state))));
            }
            if state.credit >= state.low {
                neighbour.dry = None;
            }
            let patience = if neighbour.relay { PATIENCE_RELAY } else { PATIENCE_CLIENT };
            if neighbour.dry.is_some_and(|since| since + patience <= now.instant) {
                neighbour.dry = None;
                self.requests.push_back(Request::Close(neighbour.account));
            }
        }
        for (link, frame) in statements {
            self.send(link, frame);
        }
        self.route(None);
    }

    /// Our pot.
    pub const fn owner(&self) -> Address {
        self.owner
    }

    /// The wallet, to look at.
    pub const fn wallet(&self) -> &Wallet {
        &self.wallet
    }

    /// The till, to look at.
    pub const fn till(&self) -> &Till {
        &self.till
    }
}

/// What a payer has used here, and was credited.
const fn statement(account: &Account) -> Frame {
    Frame::Meter {
        role: Role::Payee,
        cells: account.cells_in,
        due: Wei(account.earned),
        credited: Wei(account.credited),
    }
}

/// The same as the payer.
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
