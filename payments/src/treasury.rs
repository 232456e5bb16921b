//! What a node's money needs of the outside: its records on disk, pots as they are on the chain, and wins redeemed.
//!
//! A node hands out [`Job`]s and takes [`News`]; one task does both for as long as the node lives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use tokio::sync::{mpsc, watch};

use crate::abi::OnionPay::OnionPayEvents;
use crate::amount::Wei;
use crate::chain::{Account, At, Chain, Error as ChainError, Head};
use crate::claim::Claim;
use crate::record::{Book, Change, Key, Record, RecordId};
use crate::redeemer::{Error as RedeemError, Notes as Redemptions, Redeemer, State, Totals};
use crate::session::Signer;
use crate::store::thread::Writer;
use crate::store::{Batch, Error as StoreError, Store, Table};
use crate::till::PayerAccount;
use crate::wallet::Pot;

mod pots;

/// The newest block may be so old, in seconds, before the chain counts as stale.
pub const STALE: u64 = 60;
/// The events of so many blocks are read; after more, everything is looked at instead.
const SPAN: u64 = 2_000;
/// Pots are looked at again after so many rounds, whatever events say.
const AGAIN: u32 = 100;

/// What a node wants.
#[derive(Debug)]
pub enum Job {
    /// Keep these changes, in this order, then say so.
    Keep(Vec<(Book, RecordId, Change)>),
    /// Look at this pot, and watch it from now on.
    Watch(Address),
    /// Redeem this win.
    Redeem(Box<Claim>),
}

/// The gas of a redemption, as faces and limits are reckoned.
pub const REDEMPTION_GAS: u64 = 75_000;

/// What a node is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// What a redemption costs now.
    Costs(Wei),
    /// All changes of the book up to this one are on disk.
    Kept(Book, RecordId),
    /// A watched pot; `None` if it could not be looked at.
    Seen(Address, Option<PayerAccount>),
    /// Our own pot.
    Pot(Pot),
    /// A session of ours was redeemed by this payee, for good.
    Paid(Address, u32),
    /// A win of ours, by payer and nonce, was redeemed or is lost; true once that is final.
    Won(Address, u32, bool),
}

/// How a treasury does, for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The newest block.
    pub head: Head,
    /// What is wrong, and what to do.
    pub trouble: Option<String>,
    /// Our own pot.
    pub account: Account,
    /// What has come of wins so far.
    pub totals: Totals,
    /// The faces of wins that are not paid yet.
    pub unredeemed: Wei,
}

/// Where a treasury gets the time (unix) and randomness from.
#[derive(Clone, Copy, Debug)]
pub struct Nature {
    /// Unix time, in seconds.
    pub now: fn() -> u64,
    /// Fresh random bits.
    pub random: fn() -> u64,
}

/// How a treasury is set up.
#[derive(Debug)]
pub struct Settings {
    /// The chain.
    pub chain: Arc<dyn Chain>,
    /// Whose pot it is.
    pub owner: Address,
    /// Who signs transactions.
    pub signer: Signer,
    /// The most wei per gas.
    pub gas_price: u128,
    /// Whether [`News::Costs`] is wanted.
    pub tell_costs: bool,
    /// How often the chain is looked at.
    pub every: Duration,
    /// Time and randomness.
    pub nature: Nature,
}

/// Opens the store of a node's money: what it holds, and the way to write to it.
///
/// The writer's thread ends with the last writer.
pub fn open(path: &Path) -> Result<(Vec<Record>, Notes, Writer), OpenError> {
    let store = Store::open(path)?;
    let mut records = Vec::new();
    for table in [Table::PayerSessions, Table::PayeeSessions, Table::Wins, Table::Counters] {
        for (_, row) in store.scan(table)? {
            records.push(Record::decode(&row).map_err(OpenError::Record)?);
        }
    }
    let debts = records.iter().filter_map(|record| match record {
        Record::Debt(debt) => Some((debt.payee, debt.nonce)),
        _ => None,
    });
    let (debts, redemptions) = (debts.collect(), Redeemer::restore(&store)?);
    let (pots, old) = pots::restore(&store.scan(Table::Values)?, &records).map_err(OpenError::Record)?;
    let notes = Notes { redemptions, pots, debts };
    let (writer, _) = crate::store::thread::spawn(store).map_err(OpenError::Thread)?;
    if !old.is_empty() {
        writer.write(old, |_| ());
    }
    Ok((records, notes, writer))
}

/// What a store holds for a treasury.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    redemptions: Redemptions,
    pots: BTreeMap<Address, PayerAccount>,
    debts: Vec<(Address, u32)>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its redemptions.
    #[error(transparent)]
    Redeemer(#[from] RedeemError),
    /// A record.
    #[error("a record of the money store is damaged ({0}): put a copy of the store in its place")]
    Record(wire::Malformed),
    /// The system.
    #[error("the thread of the money store cannot be started: {0}")]
    Thread(std::io::Error),
}

const fn table(key: &Key) -> Table {
    match key {
        Key::Payee(_) | Key::Debt(..) => Table::PayerSessions,
        Key::Payer(_) => Table::PayeeSessions,
        Key::Win(..) => Table::Wins,
        Key::Meter(_) => Table::Counters,
    }
}

/// The outside of a node's money.
#[derive(Debug)]
pub struct Treasury {
    settings: Settings,
    writer: Writer,
    redeemer: Redeemer,
    news: mpsc::UnboundedSender<News>,
    health: watch::Sender<Health>,
    watched: BTreeMap<Address, PayerAccount>,
    /// Pots as they were seen before the start.
    known: BTreeMap<Address, PayerAccount>,
    /// What our wallet owes, by payee and nonce, and whether it was asked if that is redeemed; events tell from then on.
    debts: BTreeMap<(Address, u32), bool>,
    head: Head,
    /// The newest final block whose events were read.
    finalized: Option<u64>,
    stale: bool,
    rounds: u32,
}

impl Treasury {
    /// A treasury that tells `news` and writes to `writer`; and where its health is seen.
    pub fn new(
        settings: Settings,
        notes: Notes,
        writer: Writer,
        news: mpsc::UnboundedSender<News>,
    ) -> (Self, watch::Receiver<Health>) {
        let redeemer = Redeemer::new(
            notes.redemptions,
            Arc::clone(&settings.chain),
            writer.clone(),
            settings.signer.clone(),
            settings.owner,
            settings.gas_price,
        );
        let (health, seen) = watch::channel(Health::default());
        let treasury = Self {
            settings,
            writer,
            redeemer,
            news,
            health,
            watched: BTreeMap::new(),
            known: notes.pots,
            debts: notes.debts.iter().map(|debt| (*debt, false)).collect(),
            head: Head::default(),
            finalized: None,
            stale: false,
            rounds: 0,
        };
        (treasury, seen)
    }

    /// Does jobs and looks at the chain until nobody hands out jobs any more.
    pub async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        // The wins of an earlier life are handed over before the first round.
        let first = tokio::time::Instant::now() + self.settings.every;
        let mut rounds = tokio::time::interval_at(first, self.settings.every);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                job = jobs.recv() => match job {
                    Some(job) => self.job(job).await,
                    None => return,
                },
                _ = rounds.tick() => self.round().await,
            }
        }
    }

    /// Who hears no news any more has stopped; so will this task, for want of jobs.
    fn tell(&self, news: News) {
        let _ = self.news.send(news);
    }

    async fn job(&mut self, job: Job) {
        match job {
            Job::Keep(changes) => self.keep(changes),
            Job::Watch(address) => self.watch(address).await,
            Job::Redeem(claim) => {
                if let Err(error) = self.redeemer.add(*claim, (self.settings.nature.now)()).await {
                    self.trouble(Some(error.to_string()));
                }
            }
        }
    }

    fn keep(&mut self, changes: Vec<(Book, RecordId, Change)>) {
        let mut batch = Batch::new();
        let mut last = BTreeMap::new();
        for (book, id, change) in changes {
            last.insert(book, id);
            if let Key::Debt(payee, nonce) = change.key {
                match change.record {
                    // Its redemption may be in a block that was read before.
                    Some(_) => drop(self.debts.insert((payee, nonce), false)),
                    None => drop(self.debts.remove(&(payee, nonce))),
                }
            }
            // A record beyond the limits of a row is none of an honest wallet or till.
            match change.record.map(|record| record.encode()) {
                Some(Ok(bytes)) => batch.put(table(&change.key), change.key.encode(), bytes),
                Some(Err(_)) => {}
                None => batch.delete(table(&change.key), change.key.encode()),
            }
        }
        let news = self.news.clone();
        self.writer.write(batch, move |_| {
            for (book, id) in last {
                let _ = news.send(News::Kept(book, id));
            }
        });
    }

    async fn watch(&mut self, address: Address) {
        match self.settings.chain.account(address, At::Latest).await {
            Ok(account) => self.seen(address, &account),
            Err(error) => {
                self.trouble(Some(error.to_string()));
                // pay.pot.6
                let known = self.known.get(&address).map(|pot| PayerAccount { head_stale: true, ..*pot });
                self.tell(News::Seen(address, known));
                if let Some(pot) = known {
                    self.watched.entry(address).or_insert(pot);
                }
            }
        }
    }

    fn seen(&mut self, address: Address, account: &Account) {
        let seen = PayerAccount {
            balance: account.balance,
            reserve: account.reserve,
            unlocking: account.unlock_at.is_some(),
            signer: account.signer.unwrap_or(Address::ZERO),
            only_payee: account.only_payee,
            head_stale: self.stale,
            registered: account.registered,
        };
        if self.watched.insert(address, seen) != Some(seen) {
            self.tell(News::Seen(address, Some(seen)));
            let mut batch = Batch::new();
            batch.put(Table::Values, pots::key(address), pots::encode(&seen));
            self.writer.write(batch, |_| ());
        }
    }

    /// Looks at what has changed on the chain, and sees to the wins.
    async fn round(&mut self) {
        let looked = self.look().await;
        let trouble = looked.err().map(|error| error.to_string());
        let redeemed = self.redeem().await;
        let trouble = trouble.or_else(|| redeemed.err().map(|error| error.to_string()));
        let trouble = trouble.or_else(|| self.writer.trouble());
        self.trouble(trouble);
    }

    fn trouble(&self, trouble: Option<String>) {
        if let Some(trouble) = &trouble
            && self.health.borrow().trouble.as_ref() != Some(trouble)
        {
            tracing::warn!("payments: {trouble}");
        }
        let (head, totals, unredeemed) = (self.head, self.redeemer.totals(), self.redeemer.unredeemed());
        self.health.send_modify(|health| {
            (health.head, health.trouble, health.totals, health.unredeemed) =
                (head, trouble, totals, unredeemed);
        });
    }

    async fn look(&mut self) -> Result<(), ChainError> {
        let chain = Arc::clone(&self.settings.chain);
        let head = chain.head(At::Latest).await;
        let fresh = match &head {
            Ok(head) => head.fresh((self.settings.nature.now)(), STALE),
            Err(error) => Err(error.clone()),
        };
        if fresh.is_err() {
            self.set_stale(true);
        }
        let head = head?;
        if self.rounds == 0 && self.settings.tell_costs {
            let cost = chain.fees().await?.cost(REDEMPTION_GAS);
            self.tell(News::Costs(cost.max(Wei(1))));
        }
        let mut changed = BTreeSet::new();
        if self.rounds == 0 || self.has_lost_sight(&head).await {
            changed.extend(self.watched.keys().copied());
            changed.insert(self.settings.owner);
        } else if head.number > self.head.number {
            for (_, event) in chain.events(self.head.number + 1, head.number).await? {
                changed.extend(self.happened(&event));
            }
        }
        for address in changed {
            let account = chain.account(address, At::Latest).await?;
            if address == self.settings.owner {
                self.own(&account);
            }
            if self.watched.contains_key(&address) {
                self.seen(address, &account);
            }
        }
        // Not before all that was not seen meanwhile is.
        self.set_stale(fresh.is_err());
        self.rounds = (self.rounds + 1) % AGAIN;
        self.head = head;
        self.settle().await?;
        fresh
    }

    /// Whether the events since the last look do not tell all: there are too many, or some of what they told was taken back.
    async fn has_lost_sight(&self, head: &Head) -> bool {
        let Head { number, hash, .. } = self.head;
        if head.number <= number || head.number - number > SPAN {
            return head.hash != hash;
        }
        let same = self.settings.chain.head(At::Block(number)).await;
        same.is_ok_and(|block| block.hash != hash)
    }

    /// Learns which of our debts are redeemed; only final blocks are believed, for what is set aside for a win is then free.
    // pay.pot.5
    async fn settle(&mut self) -> Result<(), ChainError> {
        let chain = Arc::clone(&self.settings.chain);
        let finalized = chain.head(At::Finalized).await?.number;
        let owner = self.settings.owner;
        match self.finalized {
            Some(before) if finalized <= before => {}
            Some(before) if finalized - before <= SPAN => {
                for (_, event) in chain.events(before + 1, finalized).await? {
                    if let OnionPayEvents::Redeemed(event) = event
                        && event.payer == owner
                    {
                        self.tell(News::Paid(event.payee, event.nonce));
                    }
                }
            }
            _ => self.debts.values_mut().for_each(|asked| *asked = false),
        }
        self.finalized = self.finalized.max(Some(finalized));
        for ((payee, nonce), asked) in &mut self.debts {
            if !*asked {
                let used = chain.is_used(owner, *payee, *nonce, At::Finalized).await?;
                *asked = true;
                if used {
                    let _ = self.news.send(News::Paid(*payee, *nonce));
                }
            }
        }
        Ok(())
    }

    /// Whose pots an event is about.
    fn happened(&self, event: &OnionPayEvents) -> Vec<Address> {
        match event {
            OnionPayEvents::AccountChanged(event) => vec![event.owner],
            OnionPayEvents::KeysChanged(event) => vec![event.owner],
            OnionPayEvents::RelayChanged(event) => vec![event.owner],
            OnionPayEvents::Redeemed(event) => {
                if event.payee == self.settings.owner {
                    self.tell(News::Won(event.payer, event.nonce, false));
                }
                vec![event.payer, event.payee]
            }
        }
    }

    fn own(&self, account: &Account) {
        self.tell(News::Pot(Pot {
            balance: account.balance,
            reserve: account.reserve,
            unlocking: account.unlock_at.is_some(),
            only_payee: account.only_payee,
        }));
        self.health.send_modify(|health| health.account = *account);
    }

    fn set_stale(&mut self, stale: bool) {
        if stale == self.stale {
            return;
        }
        self.stale = stale;
        for (address, seen) in &mut self.watched {
            seen.head_stale = stale;
            let _ = self.news.send(News::Seen(*address, Some(*seen)));
        }
    }

    async fn redeem(&mut self) -> Result<(), RedeemError> {
        let Nature { now, random } = self.settings.nature;
        for win in self.redeemer.step(now(), random()).await? {
            let session = &win.claim.session;
            let over = matches!(win.state, State::Final { .. } | State::Lost { .. });
            self.tell(News::Won(session.payer, session.nonce, over));
        }
        Ok(())
    }
}
