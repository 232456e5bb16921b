//! What a payer's treasury tells of redemptions: nothing that can be taken back, and nothing is missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use alloy_primitives::Bytes;
use payments::abi::OnionPay;
use payments::amount::Wei;
use payments::chain::{
    Answer, At, Call, Chain, Error as ChainError, Fees, Head, Kinds, Limits, Log, Purse, Receipt, View,
};
use payments::claim::Claim;
use payments::record::{Book, Change, Debt, Held, Key, Opened, PayerRow, Record, RecordId};
use payments::session::Domain;
use payments::store::Error;
use payments::till::PayerAccount;
use payments::treasury::{Health, Job, Nature, News, OpenError, Settings, Treasury, open};
use payments::{Address, B256};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::world::{GWEI, World, payee, payer};

/// The chain's time, of which no block is older.
const NOW: u64 = 1_700_000_000;

/// The treasury of the first payer.
struct Running {
    jobs: mpsc::UnboundedSender<Job>,
    news: mpsc::UnboundedReceiver<News>,
    health: watch::Receiver<Health>,
    task: JoinHandle<()>,
    kept: u64,
    /// Redemptions that were told while something else was waited for.
    told: Vec<(Address, u32)>,
}

impl Running {
    async fn start(world: &World, folder: &tempfile::TempDir) -> Self {
        Self::start_on(world.line(), folder).await
    }

    async fn start_on(chain: Arc<dyn Chain>, folder: &tempfile::TempDir) -> Self {
        let (_, notes, writer) = loop {
            match open(&folder.path().join("store")) {
                // The thread of the one before has not ended yet.
                Err(OpenError::Store(Error::InUse(_))) => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        let settings = Settings {
            chain,
            owner: payer(0).address(),
            signer: payer(0),
            gas_price: 50 * GWEI,
            tell_costs: true,
            every: Duration::from_millis(2),
            nature: Nature { now: || NOW, random: || 4 },
        };
        let (tell, news) = mpsc::unbounded_channel();
        let (treasury, health) = Treasury::new(settings, notes, writer, tell);
        let (jobs, received) = mpsc::unbounded_channel();
        Self { jobs, news, health, task: tokio::spawn(treasury.run(received)), kept: 0, told: Vec::new() }
    }

    /// Keeps what belongs to a key, until it is on disk.
    async fn put(&mut self, key: Key, record: Option<Record>) {
        self.kept += 1;
        let change = Change { key, record };
        self.jobs.send(Job::Keep(vec![(Book::Wallet, RecordId(self.kept), change)])).unwrap();
        loop {
            match self.news.recv().await.unwrap() {
                News::Kept(Book::Wallet, id) if id == RecordId(self.kept) => return,
                News::Paid(payee, nonce) => self.told.push((payee, nonce)),
                _ => {}
            }
        }
    }

    /// Keeps a debt, or that it is paid, until it is on disk.
    async fn keep(&mut self, claim: &Claim, owed: bool) {
        let session = &claim.session;
        let (payee, nonce) = (session.payee, session.nonce);
        let debt = Debt { payee, nonce, face: session.face, expiry: session.expiry, denied: false };
        self.put(Key::Debt(payee, nonce), owed.then_some(Record::Debt(debt))).await;
    }

    /// The redemptions that it tells of within some rounds.
    async fn paid(&mut self) -> Vec<(Address, u32)> {
        for _ in 0..8 {
            self.health.changed().await.unwrap();
        }
        let mut paid = std::mem::take(&mut self.told);
        while let Ok(news) = self.news.try_recv() {
            if let News::Paid(payee, nonce) = news {
                paid.push((payee, nonce));
            }
        }
        assert_eq!(self.health.borrow().trouble, None);
        paid
    }

    /// Waits until the pot of an address is said to have this balance.
    async fn sees(&mut self, address: Address, balance: Wei) {
        let seen = |news| matches!(news, Some(News::Seen(of, Some(PayerAccount { balance: has, .. }))) if of == address && has == balance);
        let looked = async { while !seen(self.news.recv().await) {} };
        tokio::time::timeout(Duration::from_secs(20), looked).await.unwrap();
    }

    async fn stop(self) {
        drop(self.jobs);
        self.task.await.unwrap();
    }
}

/// A chain whose RPC never answers about strangers, and tells no events while it is `deaf`.
#[derive(Debug)]
struct Trying {
    chain: Arc<dyn Chain>,
    deaf: Arc<AtomicBool>,
}

fn stranger(n: u16) -> Address {
    let mut bytes = [0xab; 20];
    bytes[..2].copy_from_slice(&n.to_be_bytes());
    Address::from(bytes)
}

impl Chain for Trying {
    fn domain(&self) -> Domain {
        self.chain.domain()
    }
    fn legacy(&self) -> bool {
        self.chain.legacy()
    }
    fn head(&self, at: At) -> Answer<'_, Head> {
        self.chain.head(at)
    }
    fn view(&self, at: At, view: View) -> Answer<'_, Bytes> {
        if view.data.ends_with(&[0xab; 18]) {
            return Box::pin(std::future::pending());
        }
        self.chain.view(at, view)
    }
    fn logs(&self, first: u64, last: u64, kinds: Kinds) -> Answer<'_, Vec<Log>> {
        if self.deaf.load(Ordering::SeqCst) {
            return Box::pin(std::future::ready(Err(ChainError::Malformed("events"))));
        }
        self.chain.logs(first, last, kinds)
    }
    fn purse(&self, owner: Address) -> Answer<'_, Purse> {
        self.chain.purse(owner)
    }
    fn fees(&self) -> Answer<'_, Fees> {
        self.chain.fees()
    }
    fn broadcast(&self, raw: Vec<u8>) -> Answer<'_, ()> {
        self.chain.broadcast(raw)
    }
    fn receipt(&self, transaction: B256) -> Answer<'_, Option<Receipt>> {
        self.chain.receipt(transaction)
    }
}

/// The payee redeems a ticket, in a block of its own.
async fn redeem(world: &World, claim: &Claim) {
    let chain: &dyn Chain = &world.chain;
    let shown = OnionPay::Claim::new(claim, claim.session.face, false).unwrap();
    let call = Call::new(&chain.domain(), &OnionPay::redeemCall { claim: shown }, Wei::ZERO);
    chain.send(&payee(), call, Limits { gas: 300_000, price: 9 * GWEI }).await.unwrap();
    world.chain.mine().unwrap();
}

// pay.pot.5
#[tokio::test]
async fn a_redemption_that_is_taken_back_frees_nothing() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let claim = world.claim(0, 7);
    let redeemed = vec![(payee().address(), 7)];
    let mut running = Running::start(&world, &folder).await;
    running.keep(&claim, true).await;
    for again in [false, true] {
        redeem(&world, &claim).await;
        assert_eq!(running.paid().await, [], "it may be taken back");
        world.chain.mine().unwrap();
        assert_eq!(running.paid().await, []);
        if !again {
            world.chain.reorganise(2, true).unwrap();
            for _ in 0..4 {
                world.chain.mine().unwrap();
                assert_eq!(running.paid().await, [], "it was taken back");
            }
        }
    }
    world.chain.mine().unwrap();
    assert_eq!(running.paid().await, redeemed);
    for _ in 0..3 {
        world.chain.mine().unwrap();
        assert_eq!(running.paid().await, [], "it is told once");
    }
    running.stop().await;
}

// pay.pot.5
#[tokio::test]
async fn what_was_redeemed_while_nobody_looked_is_found_at_the_start() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (claim, open) = (world.claim(0, 3), world.claim(0, 4));
    let mut running = Running::start(&world, &folder).await;
    running.keep(&claim, true).await;
    running.keep(&open, true).await;
    running.stop().await;
    redeem(&world, &claim).await;
    // More blocks than are ever read back.
    for _ in 0..2_100 {
        world.chain.mine().unwrap();
    }
    for _ in 0..2 {
        // Told, but the process ends before the wallet has it on disk.
        let mut running = Running::start(&world, &folder).await;
        assert_eq!(running.paid().await, [(payee().address(), 3)]);
        running.stop().await;
    }
    let mut running = Running::start(&world, &folder).await;
    running.paid().await;
    running.keep(&claim, false).await;
    running.stop().await;
    let mut running = Running::start(&world, &folder).await;
    assert_eq!(running.paid().await, []);
    // And while it runs, of blocks that came all at once.
    redeem(&world, &open).await;
    for _ in 0..2_100 {
        world.chain.mine().unwrap();
    }
    assert_eq!(running.paid().await, [(payee().address(), 4)]);
    running.stop().await;
}

// pay.pot.5
#[tokio::test]
async fn a_debt_that_is_found_after_its_redemption_is_not_kept_to_its_end() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let claim = world.claim(0, 3);
    let mut running = Running::start(&world, &folder).await;
    redeem(&world, &claim).await;
    for _ in 0..3 {
        world.chain.mine().unwrap();
    }
    running.paid().await;
    // The payee's ROTATE was lost, and came later.
    running.keep(&claim, true).await;
    assert_eq!(running.paid().await, [(payee().address(), 3)]);
    running.stop().await;
}

#[tokio::test]
async fn a_pot_is_looked_at_again_after_a_reorganisation() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let mut running = Running::start(&world, &folder).await;
    let owner = payer(1).address();
    running.jobs.send(Job::Watch(owner)).unwrap();
    let chain: &dyn Chain = &world.chain;
    let before = chain.account(owner, At::Latest).await.unwrap().balance;
    running.sees(owner, before).await;
    for blocks in 1..=2 {
        let more = Wei(5);
        world.call(1, &OnionPay::depositCall { owner }, more);
        running.sees(owner, before.saturating_add(more)).await;
        world.chain.mine().unwrap();
        running.paid().await;
        world.chain.reorganise(2, true).unwrap();
        for _ in 0..blocks {
            world.chain.mine().unwrap();
        }
        running.sees(owner, before).await;
    }
    running.stop().await;
}

// pay.pot.6
#[tokio::test]
async fn a_payer_with_an_open_session_is_known_at_a_start_without_a_chain_and_others_are_not() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (open, other) = (payer(1).address(), payer(2).address());
    let mut running = Running::start(&world, &folder).await;
    let Claim { session, signature, link, .. } = world.claim(1, 5);
    let opened = Opened { session, signature, draws: 8, value: Wei(1), index: 3 };
    let sessions = vec![Held { opened, link, salt: [1; 16] }];
    let row = PayerRow { payer: open, sessions, ..PayerRow::default() };
    running.put(Key::Payer(open), Some(Record::Payer(row))).await;
    let mut seen = Vec::new();
    for owner in [open, other] {
        running.jobs.send(Job::Watch(owner)).unwrap();
        seen.push(loop {
            // The other one may be looked at again meanwhile.
            match running.news.recv().await.unwrap() {
                News::Seen(of, pot) if of == owner => break pot.unwrap(),
                _ => {}
            }
        });
    }
    running.stop().await;
    world.budget.store(0, Ordering::SeqCst);
    let mut running = Running::start(&world, &folder).await;
    for (owner, expected) in [(open, Some(PayerAccount { head_stale: true, ..seen[0] })), (other, None)] {
        running.jobs.send(Job::Watch(owner)).unwrap();
        while running.news.recv().await.unwrap() != News::Seen(owner, expected) {}
    }
    let told = |health: &Health| health.trouble.as_ref().is_some_and(|told| told.contains("no RPC answers"));
    running.health.wait_for(told).await.unwrap();
    // It is fresh once it has been seen again.
    world.budget.store(i64::MAX, Ordering::SeqCst);
    while running.news.recv().await.unwrap() != News::Seen(open, Some(seen[0])) {}
    running.stop().await;
}

// pay.table.1
#[tokio::test]
async fn strangers_who_are_looked_up_keep_nothing_else_waiting() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let mut running =
        Running::start_on(Arc::new(Trying { chain: world.line(), deaf: Arc::default() }), &folder).await;
    for n in 0..4_000 {
        running.jobs.send(Job::Watch(stranger(n))).unwrap();
    }
    let claim = world.claim(0, 3);
    redeem(&world, &claim).await;
    for _ in 0..3 {
        world.chain.mine().unwrap();
    }
    let rest = async {
        running.keep(&claim, true).await;
        assert_eq!(running.paid().await, [(payee().address(), 3)]);
    };
    tokio::time::timeout(Duration::from_secs(20), rest).await.unwrap();
    running.stop().await;
}

// pay.pot.2
#[tokio::test]
async fn pots_are_stale_while_the_rpc_tells_heads_but_no_events() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let deaf = Arc::new(AtomicBool::new(false));
    let mut running =
        Running::start_on(Arc::new(Trying { chain: world.line(), deaf: Arc::clone(&deaf) }), &folder).await;
    let owner = payer(1).address();
    running.paid().await;
    running.jobs.send(Job::Watch(owner)).unwrap();
    for stale in [false, true, false] {
        deaf.store(stale, Ordering::SeqCst);
        world.chain.mine().unwrap();
        let told = async {
            loop {
                if let News::Seen(of, Some(pot)) = running.news.recv().await.unwrap() {
                    assert_eq!(of, owner);
                    if pot.head_stale == stale {
                        break;
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told).await.unwrap();
    }
    running.stop().await;
}

// pay.persist.1
#[tokio::test]
async fn a_record_that_is_too_long_is_never_called_kept() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let mut running = Running::start(&world, &folder).await;
    let Claim { session, signature, link, .. } = world.claim(1, 5);
    let opened = Opened { session, signature, draws: 8, value: Wei(1), index: 3 };
    let sessions = vec![Held { opened, link, salt: [1; 16] }; 500];
    let row = PayerRow { payer: payer(1).address(), sessions, ..PayerRow::default() };
    let key = Key::Payer(payer(1).address());
    let long = Change { key, record: Some(Record::Payer(row)) };
    let gone = Change { key, record: None };
    for (id, change) in [(1, long), (2, gone)] {
        running.jobs.send(Job::Keep(vec![(Book::Till, RecordId(id), change)])).unwrap();
    }
    // What comes after it in another book is kept; nothing of its own is.
    let key = Key::Debt(payee().address(), 1);
    running.jobs.send(Job::Keep(vec![(Book::Wallet, RecordId(3), Change { key, record: None })])).unwrap();
    loop {
        if let News::Kept(book, id) = running.news.recv().await.unwrap() {
            assert_eq!((book, id), (Book::Wallet, RecordId(3)));
            break;
        }
    }
    for _ in 0..3 {
        running.health.changed().await.unwrap();
        assert!(running.health.borrow().trouble.as_ref().is_some_and(|told| told.contains("too long")));
    }
    running.stop().await;
}
