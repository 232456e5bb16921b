//! What to do about the wins at hand: the pure part of the redeemer.
//!
//! It is told what the chain says, and answers what to write down, what to send and what is over. It may be asked again at any time, and
//! after any crash or reorganisation: it goes by what the chain says, and its own notes only spare transactions.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::Address;

use crate::abi::OnionPay;
use crate::amount::Wei;
use crate::chain::{Account, Fees, Head, Place, Purse, Receipt};
use crate::evm::MAX_GAS;
use crate::redeemer::win::{Flight, Key, Reason, State, Totals, Win};
use crate::store::{Batch, Table};

const HOUR: u64 = 3600;
/// Before a ticket's end, what can be had is taken, whatever it costs.
const URGENT: u64 = 12 * HOUR;
/// After a ticket's end, its record goes; none is taken in that is older.
const KEEP: u64 = 7 * 24 * HOUR;
/// The most tickets of one transaction.
const MOST: usize = 64;
/// What a ticket in a batch is reckoned to use if the balance pays it: a new payer, a new word of nonces.
pub(super) const GAS_EACH: u64 = 75_000;
/// The most that a ticket in a batch uses: its payer may empty the balance in front of it, and lose its registration by the default.
pub(super) const GAS_MOST: u64 = 135_000;
/// What a batch uses beside its tickets.
const GAS_BATCH: u64 = 60_000;
/// A transaction that has waited so many blocks is replaced by a dearer one.
const PATIENCE: u64 = 3;
/// A nonce that another transaction took is given up after so many blocks.
const GIVEN_UP: u64 = 16;

const FLIGHT: &[u8] = b"redeemer flight ";
const TOTALS: &[u8] = b"redeemer totals";
const CURSOR: &[u8] = b"redeemer cursor";

/// A payment that the chain tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Paid {
    pub(super) block: u64,
    pub(super) payout: Wei,
}

/// What the chain says.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) head: Head,
    pub(super) finalized: Head,
    pub(super) fees: Fees,
    pub(super) purse: Purse,
    /// Payments to this payee from the cursor to the head.
    pub(super) paid: BTreeMap<Key, Paid>,
    /// The pots of the payers of [`Book::payers`].
    pub(super) accounts: BTreeMap<Address, Account>,
    /// What became of the flights, by nonce; those in no block are not there.
    pub(super) receipts: BTreeMap<u64, Receipt>,
}

/// A transaction to send.
#[derive(Clone, Debug)]
pub(super) struct Submit {
    pub(super) claims: Vec<(Key, OnionPay::Claim)>,
    /// `None` for the next nonce.
    pub(super) place: Option<Place>,
}

/// What follows from the facts.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// To be written before anything else.
    pub(super) batch: Batch,
    pub(super) submit: Option<Submit>,
    /// Wins that are over.
    pub(super) over: Vec<Win>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) wins: BTreeMap<Key, Win>,
    pub(super) flights: BTreeMap<u64, Flight>,
    pub(super) totals: Totals,
    /// Events up to this block are in the totals.
    pub(super) cursor: u64,
}

impl Book {
    /// Takes in a win, unless it is known or too old.
    pub(super) fn add(&mut self, win: &Win, now: u64) -> Option<Batch> {
        if self.wins.contains_key(&win.key()) || now > win.claim.session.expiry.saturating_add(KEEP) {
            return None;
        }
        let mut batch = Batch::new();
        batch.put(Table::Redemptions, win.row(), win.encode()?);
        self.wins.insert(win.key(), *win);
        Some(batch)
    }

    pub(super) fn restore_value(&mut self, key: &[u8], value: &[u8]) -> Result<(), wire::Malformed> {
        let word =
            |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).map_err(|_| wire::Malformed("value"));
        if key == TOTALS {
            self.totals = Totals::decode(value)?;
        } else if key == CURSOR {
            self.cursor = word(value)?;
        } else if let Some(nonce) = key.strip_prefix(FLIGHT) {
            let nonce = word(nonce)?;
            self.flights.insert(nonce, Flight::decode(nonce, value)?);
        }
        Ok(())
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &Win> {
        self.wins.values().filter(|win| !win.is_over())
    }

    /// The payers whose pots matter now.
    pub(super) fn payers(&self) -> BTreeSet<Address> {
        self.open().map(|win| win.claim.session.payer).collect()
    }

    /// What to do. `random` spreads the redemptions of bound pots.
    pub(super) fn plan(&mut self, facts: &Facts, now: u64, random: u64) -> Plan {
        let mut plan = Plan::default();
        let before = self.wins.clone();
        self.settle_flights(facts, &mut plan.batch);
        self.settle_wins(facts);
        self.set_due(facts, now, random);
        self.forget(now, &mut plan.batch);
        for (key, win) in &self.wins {
            if before.get(key) == Some(win) {
                continue;
            }
            if let Some(bytes) = win.encode() {
                plan.batch.put(Table::Redemptions, win.row(), bytes);
            }
            if win.is_over() {
                if let State::Final { payout } = win.state {
                    self.totals.paid = self.totals.paid.saturating_add(1);
                    self.totals.payout = self.totals.payout.saturating_add(payout);
                } else {
                    self.totals.lost = self.totals.lost.saturating_add(1);
                    self.totals.missed = self.totals.missed.saturating_add(win.claim.session.face);
                }
                plan.over.push(*win);
            }
        }
        if facts.finalized.number > self.cursor {
            self.cursor = facts.finalized.number;
            plan.batch.put(Table::Values, CURSOR, self.cursor.to_be_bytes());
        }
        if !plan.batch.is_empty() {
            plan.batch.put(Table::Values, TOTALS, self.totals.encode());
        }
        plan.submit = self.submit(facts, now);
        plan
    }

    /// Final flights are paid for and done; those whose nonce another transaction took are given up.
    fn settle_flights(&mut self, facts: &Facts, batch: &mut Batch) {
        let mut done = Vec::new();
        for (nonce, flight) in &self.flights {
            match facts.receipts.get(nonce) {
                Some(receipt) if receipt.block <= facts.finalized.number => {
                    self.totals.fees = self.totals.fees.saturating_add(receipt.fee());
                    done.push(*nonce);
                }
                Some(_) => {}
                None => {
                    let age = facts.head.number.saturating_sub(flight.sent);
                    if *nonce < facts.purse.nonce && age > GIVEN_UP {
                        done.push(*nonce);
                    }
                }
            }
        }
        for nonce in done {
            self.flights.remove(&nonce);
            batch.delete(Table::Values, flight_key(nonce));
        }
    }

    /// Brings every win to the state that the chain tells.
    fn settle_wins(&mut self, facts: &Facts) {
        let flying: BTreeSet<Key> = self
            .flights
            .values()
            .filter(|flight| flight.place.nonce >= facts.purse.nonce)
            .flat_map(|flight| flight.wins.iter().copied())
            .collect();
        for (key, win) in &mut self.wins {
            if win.is_over() {
                continue;
            }
            win.state = match facts.paid.get(key) {
                Some(paid) if paid.block <= facts.finalized.number => State::Final { payout: paid.payout },
                Some(_) => State::Mined,
                // No block after this one can hold it.
                None if facts.finalized.time > win.claim.session.expiry => {
                    State::Lost(win.refused.unwrap_or(Reason::Expired))
                }
                None if flying.contains(key) => State::Sent,
                None => State::New,
            };
        }
    }

    /// Bound pots can pay nobody else: their wins may wait a while, so that their time tells less. All others race.
    fn set_due(&mut self, facts: &Facts, now: u64, random: u64) {
        let mut unredeemed = BTreeMap::<Address, Wei>::new();
        for win in self.open().filter(|win| win.state != State::Mined) {
            let sum = unredeemed.entry(win.claim.session.payer).or_default();
            *sum = sum.saturating_add(win.claim.session.face);
        }
        for (index, win) in self.wins.values_mut().enumerate().filter(|(_, win)| !win.is_over()) {
            let session = &win.claim.session;
            let Some(account) = facts.accounts.get(&session.payer) else { continue };
            let covered = Wei(account.reserve.0 / 4);
            // pay.redeem.2
            let patient = account.only_payee == Some(session.payee)
                && unredeemed.get(&session.payer).is_none_or(|sum| *sum <= covered);
            let due = match win.due {
                _ if !patient => now,
                Some(due) => due,
                None => {
                    let spread = random
                        .rotate_left(u32::try_from(index % 64).unwrap_or(0))
                        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    now.saturating_add(HOUR).saturating_add((spread >> 16) % (11 * HOUR))
                }
            };
            let due = due.min(session.expiry.saturating_sub(URGENT));
            win.due = Some(win.due.map_or(due, |known| known.min(due)));
        }
    }

    fn forget(&mut self, now: u64, batch: &mut Batch) {
        let old = |win: &Win| win.is_over() && now > win.claim.session.expiry.saturating_add(KEEP);
        for win in self.wins.values().filter(|win| old(win)) {
            batch.delete(Table::Redemptions, win.row());
        }
        self.wins.retain(|_, win| !old(win));
    }

    /// The next transaction: a new one while none waits, or one in the place of the first that has waited too long.
    fn submit(&mut self, facts: &Facts, now: u64) -> Option<Submit> {
        let waiting = self.flights.values().find(|flight| flight.place.nonce >= facts.purse.nonce);
        let place = match waiting {
            None => None,
            Some(flight) => {
                let forgotten = facts.purse.pending <= flight.place.nonce;
                if !forgotten && facts.head.number < flight.sent.saturating_add(PATIENCE) {
                    return None;
                }
                // Nodes want a tenth more for a replacement.
                let more = |fee: u128| fee.saturating_add(fee.div_ceil(8));
                let Place { nonce, max_fee, tip } = flight.place;
                let (max_fee, tip) = if forgotten { (0, 0) } else { (more(max_fee), more(tip)) };
                Some(Place { nonce, max_fee, tip })
            }
        };
        let claims = self.candidates(facts, now);
        if claims.is_empty() { None } else { Some(Submit { claims, place }) }
    }

    /// What can be redeemed now and is worth it, the most urgent first.
    fn candidates(&mut self, facts: &Facts, now: u64) -> Vec<(Key, OnionPay::Claim)> {
        let mut due: Vec<_> = self
            .wins
            .values_mut()
            .filter(|win| {
                matches!(win.state, State::New | State::Sent) && win.due.is_some_and(|due| due <= now)
            })
            .collect();
        due.sort_by_key(|win| win.claim.session.expiry);
        let most = affordable(facts);
        let mut accounts = facts.accounts.clone();
        let mut claims = Vec::new();
        for win in due {
            let session = &win.claim.session;
            let Some(account) = accounts.get_mut(&session.payer) else { continue };
            // pay.redeem.3
            let urgent = now.saturating_add(URGENT) >= session.expiry;
            let mut left = *account;
            let payout = pay(&mut left, session.face);
            let cost = facts.fees.cost(if payout < session.face { GAS_MOST } else { GAS_EACH });
            if payout < session.face && !urgent {
                // The pot may be filled again; less than the face is taken at the end only.
                continue;
            }
            if payout <= if urgent { cost } else { cost.saturating_mul(2) } {
                win.refused = Some(Reason::Worthless);
                continue;
            }
            // Whoever empties the pot first cannot make this one worth less: it is then tried again.
            if let Some(claim) = OnionPay::Claim::new(&win.claim, payout, true) {
                claims.push((win.key(), claim));
                *account = left;
            }
            if claims.len() >= most {
                break;
            }
        }
        claims
    }

    /// Notes why the contract would not pay some wins.
    pub(super) fn refused(&mut self, key: &Key, code: u8) -> Batch {
        let mut batch = Batch::new();
        if let Some(win) = self.wins.get_mut(key) {
            win.refused =
                if code == OnionPay::Code::Expired as u8 { None } else { Some(Reason::Refused(code)) };
            if let Some(bytes) = win.encode() {
                batch.put(Table::Redemptions, win.row(), bytes);
            }
        }
        batch
    }

    /// Notes a transaction before it is sent.
    pub(super) fn sent(
        &mut self,
        hash: alloy_primitives::B256,
        place: Place,
        wins: Vec<Key>,
        head: u64,
    ) -> Batch {
        let new = || Flight { place, sent: head, hashes: Vec::new(), wins: Vec::new() };
        let flight = self.flights.entry(place.nonce).or_insert_with(new);
        flight.place.max_fee = flight.place.max_fee.max(place.max_fee);
        flight.place.tip = flight.place.tip.max(place.tip);
        flight.sent = head;
        for key in &wins {
            if let Some(win) = self.wins.get_mut(key) {
                win.state = State::Sent;
            }
        }
        flight.wins = wins;
        if !flight.hashes.contains(&hash) {
            flight.hashes.push(hash);
        }
        let mut batch = Batch::new();
        batch.put(Table::Values, flight_key(place.nonce), flight.encode());
        batch
    }
}

/// The gas that a batch of so many tickets may use.
// pay.redeem.4
pub fn gas(tickets: usize) -> u64 {
    let tickets = u64::try_from(tickets).unwrap_or(u64::MAX);
    GAS_MOST.saturating_mul(tickets).saturating_add(GAS_BATCH).min(MAX_GAS)
}

/// How many tickets the purse can pay the gas for, as [`crate::chain::Chain`] will ask for it; one at least, so that the want of money is said.
fn affordable(facts: &Facts) -> usize {
    let price = facts.fees.price().saturating_add(facts.fees.base);
    let covered = |tickets: &usize| Wei(price.saturating_mul(gas(*tickets).into())) <= facts.purse.wei;
    (1..=MOST).rev().find(covered).unwrap_or(1)
}

/// What the contract pays now for a ticket of `face`, taken out of `account`.
fn pay(account: &mut Account, face: Wei) -> Wei {
    let short = face.saturating_sub(account.balance);
    let half = Wei(account.reserve.0 / 2);
    let taken = short.min(half);
    let payout = face.saturating_sub(short).saturating_add(taken);
    account.balance = account.balance.saturating_sub(face);
    account.reserve = account.reserve.saturating_sub(taken.saturating_mul(2));
    payout
}

fn flight_key(nonce: u64) -> Vec<u8> {
    [FLIGHT, &nonce.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests;
