//! A chain, some payers with pots, a payee with a store, and a way to make everything fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;

use alloy_primitives::{B256, Bytes, keccak256};
use payments::Address;
use payments::abi::{OnionPay, uint96};
use payments::amount::Wei;
use payments::chain::embedded::{Embedded, Options};
use payments::chain::{Answer, At, Call, Chain, Error, Fees, Head, Kinds, Limits, Log, Purse, Receipt, View};
use payments::claim::Claim;
use payments::draw::Chain as Draws;
use payments::redeemer::Redeemer;
use payments::session::{Domain, Session, Signer};
use payments::store::Store;
use payments::store::thread::spawn;

pub(crate) const HOUR: u64 = 3600;
pub(crate) const GWEI: u128 = 1_000_000_000;
/// What the payee has for gas at the beginning.
pub(crate) const GAS_MONEY: Wei = Wei(1_000_000_000_000_000_000);
const PRICE: u128 = 50 * GWEI;
const FACE: u128 = 10_000_000_000_000_000;
const LIMITS: Limits = Limits { gas: 300_000, price: 1000 * GWEI };

pub(crate) fn payer(index: usize) -> Signer {
    Signer::from_bytes([10 + u8::try_from(index).unwrap(); 32]).unwrap()
}

pub(crate) fn payee() -> Signer {
    Signer::from_bytes([99; 32]).unwrap()
}

pub(crate) struct World {
    pub(crate) chain: Embedded,
    pub(crate) now: u64,
    /// Answers that the redeemer gets before the line goes dead.
    pub(crate) budget: Arc<AtomicI64>,
    dir: tempfile::TempDir,
    thread: Option<JoinHandle<()>>,
}

impl World {
    /// Three payers with a balance of 20 faces and a reserve of 10 each.
    pub(crate) fn new() -> Self {
        let now = 1_700_000_000;
        let mut genesis = vec![(payee().address(), GAS_MONEY)];
        genesis.extend((0..3).map(|index| (payer(index).address(), Wei(1 << 70))));
        let chain = Embedded::new(Options { genesis, time: now, ..Options::default() }).unwrap();
        let world = Self {
            chain,
            now,
            budget: Arc::new(AtomicI64::new(i64::MAX)),
            dir: tempfile::tempdir().unwrap(),
            thread: None,
        };
        for index in 0..3 {
            let owner = payer(index).address();
            world.call(index, &OnionPay::setSignerCall { signer: owner }, Wei::ZERO);
            world.call(index, &OnionPay::depositCall { owner }, Wei(20 * FACE));
            world.call(index, &OnionPay::addReserveCall {}, Wei(10 * FACE));
        }
        world.chain.set_instant(false);
        for _ in 0..3 {
            world.chain.mine().unwrap();
        }
        world
    }

    /// A transaction of a payer, in a block at once.
    pub(crate) fn call(&self, index: usize, call: &impl alloy_sol_types::SolCall, value: Wei) {
        let chain: &dyn Chain = &self.chain;
        let call = Call::new(&chain.domain(), call, value);
        at_once(chain.send(&payer(index), call, LIMITS)).unwrap();
        self.chain.mine().unwrap();
    }

    /// Takes the reserve out of a payer's pot, which takes a week.
    pub(crate) fn empty_reserve(&mut self, index: usize) {
        self.call(index, &OnionPay::startUnlockCall {}, Wei::ZERO);
        self.pass(7 * 24 * HOUR);
        self.call(index, &OnionPay::withdrawReserveCall { to: payer(index).address() }, Wei::ZERO);
    }

    /// Makes a payer's pot pay the payee only.
    pub(crate) fn bind(&mut self, index: usize) {
        self.empty_reserve(index);
        self.call(index, &OnionPay::setOnlyPayeeCall { payee: payee().address() }, Wei::ZERO);
        self.call(index, &OnionPay::addReserveCall {}, Wei(10 * FACE));
    }

    /// Makes a payer a registered relay.
    pub(crate) fn register(&self, index: usize) {
        self.call(index, &OnionPay::registerCall { idKey: B256::repeat_byte(1) }, Wei::ZERO);
    }

    pub(crate) fn is_registered(&self, index: usize) -> bool {
        let chain: &dyn Chain = &self.chain;
        at_once(chain.account(payer(index).address(), At::Latest)).unwrap().registered
    }

    /// A ticket that only the whole reserve covers, if the balance is empty.
    pub(crate) fn whole_reserve(&self, index: usize) -> Claim {
        self.ticket(index, 300, Wei(5 * FACE))
    }

    pub(crate) fn empty_balance(&self, index: usize) {
        let to = payer(index).address();
        let balance = self.balance_of(to);
        self.call(index, &OnionPay::withdrawCall { to, amount: uint96(balance).unwrap() }, Wei::ZERO);
    }

    pub(crate) fn give_payers(&self, wei: Wei) {
        for index in 0..3 {
            self.chain.give(payer(index).address(), wei).unwrap();
            self.call(index, &OnionPay::depositCall { owner: payer(index).address() }, wei);
        }
    }

    /// A ticket that won, for two days from now.
    pub(crate) fn claim(&self, index: usize, nonce: u32) -> Claim {
        self.ticket(index, nonce, Wei(FACE + u128::from(nonce)))
    }

    pub(crate) fn ticket(&self, index: usize, nonce: u32, face: Wei) -> Claim {
        let signer = payer(index);
        let rand = keccak256(nonce.to_be_bytes());
        let draws = Draws::new(B256::repeat_byte(3), 8);
        let session = Session {
            payer: signer.address(),
            payee: payee().address(),
            nonce,
            anchor: draws.anchor(),
            rand_hash: keccak256(rand),
            face,
            win_prob: u64::MAX,
            expiry: self.now + 48 * HOUR,
        };
        let signature = signer.sign(&session.digest(&self.chain.domain()));
        Claim { session, draw: 3, link: draws.link(3).unwrap(), rand, signature }
    }

    /// Starts a redeemer on the store's file.
    pub(crate) fn redeemer(&mut self) -> Redeemer {
        let store = Store::open(&self.dir.path().join("store")).unwrap();
        let notes = Redeemer::restore(&store).unwrap();
        let (writer, thread) = spawn(store).unwrap();
        self.thread = Some(thread);
        Redeemer::new(notes, self.line(), writer, payee(), payee().address(), PRICE)
    }

    /// The chain, at the end of a line that goes dead with the budget.
    pub(crate) fn line(&self) -> Arc<dyn Chain> {
        Arc::new(Line { chain: self.chain.clone(), budget: Arc::clone(&self.budget) })
    }

    /// After the redeemer is gone: waits until its file is closed.
    pub(crate) fn close(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// A block, so much later.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        self.chain.set_time(self.now);
        self.chain.mine().unwrap();
    }

    /// Steps and blocks until nothing is open.
    pub(crate) async fn settle(&mut self, redeemer: &mut Redeemer) {
        for _ in 0..300 {
            let _ = redeemer.step(self.now, self.now).await;
            if redeemer.wins().all(payments::redeemer::Win::is_over) {
                return;
            }
            self.pass(600);
        }
        panic!(
            "it never ends: {:?}",
            redeemer.wins().map(|win| (win.key(), win.state, win.refused)).collect::<Vec<_>>()
        );
    }

    /// What the contract owes the payee.
    pub(crate) fn balance(&self) -> Wei {
        self.balance_of(payee().address())
    }

    fn balance_of(&self, owner: Address) -> Wei {
        let chain: &dyn Chain = &self.chain;
        at_once(chain.account(owner, At::Latest)).unwrap().balance
    }

    /// What the payee has paid for gas.
    pub(crate) async fn spent(&self) -> Wei {
        let left = self.chain.purse(payee().address()).await.unwrap().wei;
        GAS_MONEY.checked_sub(left).unwrap()
    }
}

/// What the embedded chain says, waited for elsewhere: the time of this test stands still.
fn at_once<T: Send>(answer: impl Future<Output = T> + Send) -> T {
    let wait = || tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(answer);
    std::thread::scope(|scope| scope.spawn(wait).join().unwrap())
}

/// A chain at the end of a line that goes dead.
#[derive(Clone, Debug)]
struct Line {
    chain: Embedded,
    budget: Arc<AtomicI64>,
}

impl Line {
    /// Passes an answer on, while there are any left.
    fn pass<'a, T: Send + 'a>(&'a self, answer: Answer<'a, T>) -> Answer<'a, T> {
        let left = self.budget.fetch_sub(1, Ordering::SeqCst);
        Box::pin(async move {
            // The question has arrived, at least: what it does is done.
            let answer = answer.await;
            if left > 0 { answer } else { Err(Error::Down("the line is dead".into())) }
        })
    }
}

impl Chain for Line {
    fn domain(&self) -> Domain {
        self.chain.domain()
    }
    fn legacy(&self) -> bool {
        self.chain.legacy()
    }
    fn head(&self, at: At) -> Answer<'_, Head> {
        self.pass(self.chain.head(at))
    }
    fn view(&self, at: At, view: View) -> Answer<'_, Bytes> {
        self.pass(self.chain.view(at, view))
    }
    fn logs(&self, first: u64, last: u64, kinds: Kinds) -> Answer<'_, Vec<Log>> {
        self.pass(self.chain.logs(first, last, kinds))
    }
    fn purse(&self, owner: Address) -> Answer<'_, Purse> {
        self.pass(self.chain.purse(owner))
    }
    fn fees(&self) -> Answer<'_, Fees> {
        self.pass(self.chain.fees())
    }
    fn broadcast(&self, raw: Vec<u8>) -> Answer<'_, ()> {
        let left = self.budget.load(Ordering::SeqCst);
        // Every other time the transaction itself is lost, not only the answer.
        if left <= 0 && left % 2 == 0 {
            return self.pass(Box::pin(std::future::ready(Ok(()))));
        }
        self.pass(self.chain.broadcast(raw))
    }
    fn receipt(&self, transaction: B256) -> Answer<'_, Option<Receipt>> {
        self.pass(self.chain.receipt(transaction))
    }
}
