//! Turns wins into money: takes tickets, shows them to the contract in batches, and does not rest until each is paid or lost for good.
//!
//! Every ticket and every transaction is in the store before it is sent. Whether a ticket is paid is asked of the chain, never of memory:
//! after a crash or a reorganisation the next [`Redeemer::step`] goes on from what the chain says.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use alloy_primitives::Address;

use crate::abi::OnionPay;
use crate::abi::OnionPay::OnionPayEvents;
use crate::amount::Wei;
use crate::chain::{At, Call, Chain, Error as ChainError, Limits, View};
use crate::claim::Claim;
use crate::redeemer::book::{Book, Facts, Paid, Submit};
use crate::redeemer::win::Key;
use crate::session::Signer;
use crate::store::thread::Writer;
use crate::store::{Batch, Error as StoreError, Store, Table};

mod book;
pub mod win;

pub use book::gas;
pub use win::{Reason, State, Totals, Win};

/// Why nothing more can be redeemed now; the next step tries again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record of the store cannot be read.
    #[error("a record of redemptions is damaged ({0}): put a copy of the store in its place")]
    Record(wire::Malformed),
    /// The store's thread has ended.
    #[error("the store is closed")]
    Closed,
}

/// Sees to the wins of one payee.
pub struct Redeemer {
    chain: Arc<dyn Chain>,
    store: Writer,
    /// The payee itself, or its pot's signer: others may not redeem.
    signer: Signer,
    payee: Address,
    /// The most wei per gas.
    price: u128,
    book: Book,
}

impl fmt::Debug for Redeemer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redeemer").field("open", &self.book.open().count()).finish_non_exhaustive()
    }
}

impl Redeemer {
    /// Reads what a store holds of earlier redemptions.
    pub fn restore(store: &Store) -> Result<Notes, Error> {
        let mut book = Book::default();
        for (_, row) in store.scan(Table::Redemptions)? {
            let win = Win::decode(&row).map_err(Error::Record)?;
            book.wins.insert(win.key(), win);
        }
        for (key, value) in store.scan(Table::Values)? {
            book.restore_value(&key, &value).map_err(Error::Record)?;
        }
        Ok(Notes(book))
    }

    /// A redeemer that goes on from these notes, writes to the same store, and pays at most `price` wei per gas.
    pub fn new(
        notes: Notes,
        chain: Arc<dyn Chain>,
        store: Writer,
        signer: Signer,
        payee: Address,
        price: u128,
    ) -> Self {
        Self { chain, store, signer, payee, price, book: notes.0 }
    }

    /// Takes over a win, and returns when it is on the disk; one that is known already changes nothing.
    ///
    /// After a restart all wins are handed over before the first step, which may pass the blocks that they were paid in.
    pub async fn add(&mut self, claim: Claim, now: u64) -> Result<(), Error> {
        let win = Win { claim, due: None, state: State::New, refused: None };
        if claim.session.payee != self.payee {
            return Ok(());
        }
        match self.book.add(&win, now) {
            Some(batch) => self.write(batch).await,
            None => Ok(()),
        }
    }

    /// All wins that are not forgotten yet.
    pub fn wins(&self) -> impl Iterator<Item = &Win> {
        self.book.wins.values()
    }

    /// What is not paid yet.
    pub fn unredeemed(&self) -> Wei {
        self.book.open().fold(Wei::ZERO, |sum, win| sum.saturating_add(win.claim.session.face))
    }

    /// What has come of all so far.
    pub const fn totals(&self) -> Totals {
        self.book.totals
    }

    /// Looks at the chain and does what is to be done; to be called after every block or so. The wins that are over now.
    ///
    /// `now` is unix time; `random` is fresh with every call.
    // pay.redeem.1
    pub async fn step(&mut self, now: u64, random: u64) -> Result<Vec<Win>, Error> {
        if self.book.open().next().is_none() && self.book.flights.is_empty() {
            // So that the next win need not look through all that has happened meanwhile.
            self.book.cursor = self.chain.head(At::Finalized).await?.number.max(self.book.cursor);
            return Ok(Vec::new());
        }
        let facts = self.look().await?;
        let plan = self.book.plan(&facts, now, random);
        self.write(plan.batch).await?;
        let sent = match plan.submit {
            Some(submit) => self.send(submit, facts.head.number).await,
            None => Ok(()),
        };
        // What is over is told even if something else fails now.
        if plan.over.is_empty() {
            sent?;
        } else if let Err(error) = sent {
            tracing::warn!("redemption: {error}");
        }
        Ok(plan.over)
    }

    /// Asks the chain for everything that a decision takes.
    async fn look(&self) -> Result<Facts, Error> {
        let chain = &*self.chain;
        let finalized = chain.head(At::Finalized).await?;
        let head = chain.head(At::Latest).await?;
        let mut facts = Facts { head, finalized, ..Facts::default() };
        let first = self.book.cursor.saturating_add(1);
        // Final ones apart, because all RPCs must agree on them.
        let mut events = chain.events(first, finalized.number).await?;
        events.extend(chain.events(first.max(finalized.number.saturating_add(1)), head.number).await?);
        for (log, event) in events {
            if let OnionPayEvents::Redeemed(paid) = event
                && paid.payee == self.payee
            {
                let payout = Paid { block: log.block, payout: paid.payout.into() };
                facts.paid.insert((paid.payer, paid.payee, paid.nonce), payout);
            }
        }
        for payer in self.book.payers() {
            facts.accounts.insert(payer, chain.account(payer, At::Latest).await?);
        }
        facts.fees = chain.fees().await?;
        facts.purse = chain.purse(self.signer.address()).await?;
        facts.receipts = self.receipts().await?;
        Ok(facts)
    }

    async fn receipts(&self) -> Result<BTreeMap<u64, crate::chain::Receipt>, Error> {
        let mut receipts = BTreeMap::new();
        for (nonce, flight) in &self.book.flights {
            for hash in flight.hashes.iter().rev() {
                if let Some(receipt) = self.chain.receipt(*hash).await? {
                    receipts.insert(*nonce, receipt);
                    break;
                }
            }
        }
        Ok(receipts)
    }

    /// Tries a batch without a transaction, leaves out what would not be paid, and sends the rest.
    async fn send(&mut self, submit: Submit, head: u64) -> Result<(), Error> {
        let domain = self.chain.domain();
        let all = OnionPay::redeemManyCall {
            claims: submit.claims.iter().map(|(_, claim)| claim.clone()).collect(),
        };
        let call = Call::new(&domain, &all, Wei::ZERO);
        let view = View { from: self.signer.address(), value: Wei::ZERO, data: call.data };
        let output = self.chain.view(At::Latest, view).await?;
        let tried = <OnionPay::redeemManyCall as alloy_sol_types::SolCall>::abi_decode_returns(&output);
        let tried = tried.map_err(|_| ChainError::Malformed("the contract's answer"))?;
        let mut refusals = Batch::new();
        let (mut keys, mut claims): (Vec<Key>, Vec<_>) = (Vec::new(), Vec::new());
        for ((key, claim), code) in submit.claims.into_iter().zip(tried.codes) {
            if code == 0 {
                keys.push(key);
                claims.push(claim);
            } else {
                refusals.append(self.book.refused(&key, code));
            }
        }
        if !refusals.is_empty() {
            self.write(refusals).await?;
        }
        if claims.is_empty() {
            return Ok(());
        }
        let limits = Limits { gas: gas(claims.len()), price: self.price };
        let call = Call::new(&domain, &OnionPay::redeemManyCall { claims }, Wei::ZERO);
        let signed = self.chain.prepare(&self.signer, call, limits, submit.place).await?;
        let batch = self.book.sent(signed.hash, signed.place, keys, head);
        self.write(batch).await?;
        self.chain.broadcast(signed.raw).await?;
        Ok(())
    }

    async fn write(&self, batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        self.store.commit(batch).await.map(drop).ok_or(Error::Closed)
    }
}

/// What a store holds of earlier redemptions.
#[derive(Clone, Debug, Default)]
pub struct Notes(Book);
