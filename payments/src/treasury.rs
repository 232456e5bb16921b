//! What a node's money needs of the outside: its records on disk, pots as they are on the chain, and wins redeemed.
//!
//! A node hands out [`Job`]s and takes [`News`]; one task does both for as long as the node lives.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::Address;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::abi::OnionPay::OnionPayEvents;
use crate::amount::Wei;
use crate::chain::{Account, At, Chain, Error as ChainError, Head};
use crate::claim::Claim;
use crate::record::{Book, Change, Record, RecordId};
use crate::redeemer::{Error as RedeemError, Notes as Redemptions, Redeemer, State, Totals};
use crate::session::Signer;
use crate::store::thread::Writer;
use crate::store::{Batch, Error as StoreError, Store, Table};
use crate::till::PayerAccount;
use crate::wallet::Pot;

mod keeper;
mod pots;
mod watched;

use keeper::{Keeper, Note, Rest};
use watched::Watched;

/// The newest block may be so old, in seconds, before the chain counts as stale.
pub const STALE: u64 = 60;
/// The events of so many blocks are read; after more, everything is looked at instead.
const SPAN: u64 = 2_000;
/// Pots are looked at again after so many rounds, whatever events say.
const AGAIN: u32 = 100;
/// After so many rounds in a row that failed in any way, what is known of pots counts as stale.
const LASTING: u32 = 3;
/// What is said of a record beyond the limits of a row: none of an honest wallet or till.
const TOO_LONG: &str = "a record is too long for the money store: no new session or win counts until the node is started again; \
                        report this as a fault of chive";
/// The first look at the chain, before which nothing is paid, comes so long after the start at most.
const FIRST: Duration = Duration::from_millis(50);
/// Pots that are looked at, at once, how long it is from one look to the next on average, and how long a rest saves them up.
const LOOKS: usize = 4;
const PACE: Duration = Duration::from_millis(50);
const SAVED: Duration = Duration::from_secs(1);

/// What a node wants.
#[derive(Debug)]
pub enum Job {
    /// Keep these changes, in this order, then say so.
    Keep(Vec<(Book, RecordId, Change)>),
    /// Look at this pot, and watch it from now on if it can pay.
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
    /// A pot; `None` if it could not be looked at, or is not watched any more.
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

/// The outside of a node's money.
#[derive(Debug)]
pub struct Treasury {
    settings: Settings,
    writer: Writer,
    redeemer: Redeemer,
    news: mpsc::UnboundedSender<News>,
    health: watch::Sender<Health>,
    watched: Watched,
    /// Pots as they were seen before the start.
    known: BTreeMap<Address, PayerAccount>,
    /// What our wallet owes, by payee and nonce, and whether it was asked if that is redeemed; events tell from then on.
    debts: BTreeMap<(Address, u32), bool>,
    head: Head,
    /// The newest final block whose events were read.
    finalized: Option<u64>,
    rounds: u32,
    /// Rounds in a row that failed.
    failures: u32,
    /// A change could not be written: that does not go away.
    withheld: bool,
}

/// What came of a look at a pot.
type Looked = (Address, Result<Account, ChainError>);

/// Says what is wrong with the disk also while all work waits for it.
async fn tell_of_disk(health: watch::Sender<Health>, writer: Writer, every: Duration) -> Infallible {
    loop {
        tokio::time::sleep(every).await;
        let trouble = writer.trouble();
        health.send_if_modified(|health| {
            let news = trouble.is_some() && health.trouble != trouble;
            if news {
                health.trouble = trouble;
            }
            news
        });
    }
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
            watched: Watched::default(),
            known: notes.pots,
            debts: notes.debts.iter().map(|debt| (*debt, false)).collect(),
            head: Head::default(),
            finalized: None,
            rounds: 0,
            failures: 0,
            withheld: false,
        };
        (treasury, seen)
    }

    /// Does jobs and looks at the chain until nobody hands out jobs any more.
    ///
    /// Strangers' pots are looked at beside, at a pace of their own: nothing waits for them.
    pub async fn run(self, jobs: mpsc::UnboundedReceiver<Job>) {
        let disk = tell_of_disk(self.health.clone(), self.writer.clone(), self.settings.every);
        let (rest, left) = mpsc::unbounded_channel();
        let keeper = Keeper::new(self.writer.clone(), self.news.clone());
        let keep = keeper.run(jobs, rest);
        tokio::select! {
            ((), ()) = async { tokio::join!(keep, self.work(left)) } => {}
            never = disk => match never {},
        }
    }

    async fn work(mut self, mut jobs: mpsc::UnboundedReceiver<Rest>) {
        let every = self.settings.every;
        let (mut round, mut look) = (Instant::now() + every.min(FIRST), Instant::now());
        let mut looks = JoinSet::new();
        let mut begun = false;
        loop {
            // The wins of an earlier life are handed over before the first round; later, one that is overdue goes before all jobs.
            if begun && round <= Instant::now() {
                self.round().await;
                round = Instant::now() + every;
            }
            let may_look = looks.len() < LOOKS && self.watched.has_next();
            tokio::select! {
                biased;
                job = jobs.recv() => match job {
                    Some(Rest::Note(note)) => self.note(note),
                    Some(Rest::Watch(address)) => self.watch(address),
                    Some(Rest::Redeem(claim)) => self.win(claim).await,
                    None => return,
                },
                () = tokio::time::sleep_until(round) => {
                    if !begun {
                        self.round().await;
                        round = Instant::now() + every;
                    }
                    begun = true;
                }
                Some(looked) = looks.join_next() => looked.into_iter().for_each(|looked| self.looked(looked)),
                () = tokio::time::sleep_until(look), if may_look => {
                    self.look_at_next(&mut looks);
                    let saved = Instant::now().checked_sub(SAVED);
                    look = saved.map_or(look, |saved| look.max(saved)) + PACE;
                }
            }
        }
    }

    /// Who hears no news any more has stopped; so will this task, for want of jobs.
    fn tell(&self, news: News) {
        let _ = self.news.send(news);
    }

    async fn win(&mut self, claim: Box<Claim>) {
        if let Err(error) = self.redeemer.add(*claim, (self.settings.nature.now)()).await {
            self.trouble(Some(error.to_string()));
        }
    }

    /// Takes note of what was kept.
    fn note(&mut self, note: Note) {
        for payer in note.used {
            self.watched.touch(payer);
        }
        for (debt, owed) in note.debts {
            if owed {
                // Its redemption may be in a block that was read before.
                self.debts.insert(debt, false);
            } else {
                self.debts.remove(&debt);
            }
        }
        if note.withheld {
            self.withheld = true;
            self.trouble(Some(TOO_LONG.to_owned()));
        }
    }

    fn watch(&mut self, address: Address) {
        // pay.pot.6: what is open goes on at once, however long the chain does not answer.
        if let Some(pot) = self.known.get(&address) {
            self.watched.remember(address, *pot);
            self.watched.want(address);
        }
        self.watched.touch(address);
        if let Some(pot) = self.watched.get(address) {
            self.tell(News::Seen(address, Some(pot)));
        } else if !self.watched.want(address) {
            self.tell(News::Seen(address, None));
        }
    }

    fn look_at_next(&mut self, looks: &mut JoinSet<Looked>) {
        let Some(address) = self.watched.next() else { return };
        let chain = Arc::clone(&self.settings.chain);
        looks.spawn(async move { (address, chain.account(address, At::Latest).await) });
    }

    fn looked(&mut self, (address, account): Looked) {
        if !self.watched.looked(address) {
            return;
        }
        match account {
            Ok(account) => self.seen(address, &account),
            Err(error) => {
                self.trouble(Some(error.to_string()));
                let pot = self.watched.missed(address);
                self.tell(News::Seen(address, pot));
            }
        }
    }

    fn seen(&mut self, address: Address, account: &Account) {
        let pot = PayerAccount {
            balance: account.balance,
            reserve: account.reserve,
            unlocking: account.unlock_at.is_some(),
            signer: account.signer.unwrap_or(Address::ZERO),
            only_payee: account.only_payee,
            head_stale: false,
            registered: account.registered,
        };
        let was_kept = self.watched.get(address).is_some() || self.known.remove(&address).is_some();
        let Some(seen) = self.watched.seen(address, pot) else { return };
        self.tell(News::Seen(address, Some(seen.pot)));
        let mut batch = Batch::new();
        if seen.kept {
            batch.put(Table::Values, pots::key(address), pots::encode(&seen.pot));
        } else if was_kept {
            batch.delete(Table::Values, pots::key(address));
        }
        if let Some(forgotten) = seen.forgotten {
            batch.delete(Table::Values, pots::key(forgotten));
            self.tell(News::Seen(forgotten, None));
        }
        if !batch.is_empty() {
            self.writer.write(batch, |_| ());
        }
    }

    /// Looks at what has changed on the chain, and sees to the wins.
    async fn round(&mut self) {
        let looked = self.look().await;
        self.failures = if looked.is_ok() { 0 } else { self.failures.saturating_add(1) };
        // pay.pot.2: whatever it is that fails, pots are older than they seem.
        if self.failures == 0 || self.failures >= LASTING {
            self.set_stale(self.failures > 0);
        }
        if self.failures == 0 {
            self.watched.look_at_old();
        }
        let trouble = looked.err().map(|error| error.to_string());
        let redeemed = self.redeem().await;
        let trouble = trouble.or_else(|| redeemed.err().map(|error| error.to_string()));
        let trouble = trouble.or_else(|| self.writer.trouble());
        let trouble = trouble.or_else(|| self.withheld.then(|| TOO_LONG.to_owned()));
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
        if self.has_lost_sight(&head).await {
            self.tell_again(Watched::lose_sight);
            changed.insert(self.settings.owner);
        } else if head.number > self.head.number {
            for (_, event) in chain.events(self.head.number + 1, head.number).await? {
                changed.extend(self.happened(&event));
            }
        }
        if self.rounds == 0 {
            self.watched.look_again();
            changed.insert(self.settings.owner);
        }
        for address in changed {
            let (own, watched) = (address == self.settings.owner, self.watched.changed(address));
            if !own && !watched {
                continue;
            }
            let account = chain.account(address, At::Latest).await?;
            if own {
                self.own(&account);
            }
            if watched {
                self.seen(address, &account);
            }
        }
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
        if stale != self.watched.is_stale() {
            self.tell_again(|watched| watched.set_stale(stale));
        }
    }

    fn tell_again(&mut self, change: impl FnOnce(&mut Watched) -> Vec<(Address, PayerAccount)>) {
        for (address, pot) in change(&mut self.watched) {
            self.tell(News::Seen(address, Some(pot)));
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
