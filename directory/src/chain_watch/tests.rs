//! The registry followed on an embedded chain, and through back-ends that hide, lie and fail.

use std::sync::{Mutex, PoisonError};

use alloy_primitives::{Address, B256, Bytes, LogData};
use alloy_sol_types::{SolCall, SolEvent as _};
use payments::amount::Wei;
use payments::chain::embedded::{Embedded, Options};
use payments::chain::{Answer, Call, Fees, Kinds, Limits, Log, Purse, Receipt, View};
use payments::session::{Domain, Signer};

use super::*;
use crate::sample::identity;

const TIME: u64 = 1_000_000;
const BOND: Wei = Wei(2_000_000_000_000_000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Nothing is answered.
    Down,
    /// The events of this change are left out.
    Hides(u64),
    /// The events tell another relay.
    OtherRelay,
    /// The events of blocks from this one on cannot be had.
    NoneFrom(u64),
    /// The list has a relay more than there are.
    LongList,
    /// The list has other relays.
    OtherList,
    /// The list never ends.
    EndlessList,
    /// The newest final block is the first one.
    Behind,
    /// The newest final block is this one.
    Old(u64),
}

/// A chain behind a back-end that may be bad.
#[derive(Clone, Debug)]
struct Bad {
    chain: Embedded,
    fault: Arc<Mutex<Fault>>,
    asked: Arc<Mutex<Vec<&'static str>>>,
}

impl Bad {
    fn fault(&self) -> Fault {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    fn answer<'a, T: Send + 'a>(&'a self, what: &'static str, answer: Answer<'a, T>) -> Answer<'a, T> {
        self.asked.lock().unwrap().push(what);
        if self.fault() == Fault::Down {
            return Box::pin(async { Err(ChainError::Down("nobody is there".to_owned())) });
        }
        answer
    }
}

impl Chain for Bad {
    fn domain(&self) -> Domain {
        self.chain.domain()
    }

    fn legacy(&self) -> bool {
        false
    }

    fn head(&self, at: At) -> Answer<'_, Head> {
        let at = match (at, self.fault()) {
            (At::Finalized, Fault::Behind) => At::Block(0),
            (At::Finalized, Fault::Old(number)) => At::Block(number),
            _ => at,
        };
        self.answer("head", self.chain.head(at))
    }

    fn view(&self, at: At, mut view: View) -> Answer<'_, Bytes> {
        let is_list = view.data.starts_with(&OnionPay::relaysAtCall::SELECTOR);
        let fault = self.fault();
        if is_list && fault == Fault::EndlessList {
            let mut call = OnionPay::relaysAtCall::abi_decode(&view.data).unwrap();
            call.from = alloy_primitives::U256::ZERO;
            view.data = call.abi_encode().into();
            let pages = self.asked.lock().unwrap().iter().filter(|what| **what == "list").count();
            assert!(pages < 50, "it reads on and on");
        }
        let answer = self.chain.view(at, view);
        if !is_list {
            return self.answer("view", answer);
        }
        let lie = async move {
            let mut listed = OnionPay::relaysAtCall::abi_decode_returns(&answer.await?).unwrap();
            match fault {
                Fault::LongList if !listed.page.is_empty() => {
                    let mut more = listed.page[0].clone();
                    more.owner = Address::repeat_byte(0xbb);
                    listed.page.push(more);
                    listed.reserves.push(listed.reserves[0]);
                }
                Fault::OtherList => {
                    listed.page.iter_mut().for_each(|relay| relay.idKey = B256::repeat_byte(1));
                }
                _ => {}
            }
            Ok(OnionPay::relaysAtCall::abi_encode_returns(&listed).into())
        };
        self.answer("list", Box::pin(lie))
    }

    fn logs(&self, first: u64, last: u64, kinds: Kinds) -> Answer<'_, Vec<Log>> {
        let fault = self.fault();
        if matches!(fault, Fault::NoneFrom(block) if first >= block) {
            return Box::pin(async { Err(ChainError::Down("it is busy".to_owned())) });
        }
        let answer = self.chain.logs(first, last, kinds);
        let lie = async move {
            let mut logs = answer.await?;
            let change = |log: &Log| OnionPay::RelayChanged::decode_log_data(&log.data).ok();
            match fault {
                Fault::Hides(seq) => logs.retain(|log| change(log).is_none_or(|change| change.seq != seq)),
                Fault::OtherRelay => {
                    for log in &mut logs {
                        if let Some(mut change) = change(log) {
                            change.idKey = B256::repeat_byte(1);
                            log.data = LogData::from(&change);
                        }
                    }
                }
                _ => {}
            }
            Ok(logs)
        };
        self.answer(if kinds == CHANGES { "changes" } else { "changes and bonds" }, Box::pin(lie))
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

/// A contract with relays, and a back-end.
struct Lab {
    chain: Embedded,
    bad: Bad,
    folder: tempfile::TempDir,
}

fn signer(n: u8) -> Signer {
    Signer::from_bytes([n; 32]).unwrap()
}

impl Lab {
    fn new() -> Self {
        let chain = Embedded::new(Options { time: TIME, ..Options::default() }).unwrap();
        let bad =
            Bad { chain: chain.clone(), fault: Arc::new(Mutex::new(Fault::None)), asked: Arc::default() };
        Self { chain, bad, folder: tempfile::tempdir().unwrap() }
    }

    async fn send(&self, owner: u8, call: &impl SolCall, value: Wei) {
        let chain: &dyn Chain = &self.chain;
        let limits = Limits { gas: 300_000, price: 1_000_000_000_000 };
        chain.send(&signer(owner), Call::new(&chain.domain(), call, value), limits).await.unwrap();
    }

    /// The owner `n` bonds and registers the relay `n`.
    async fn register(&self, n: u8) {
        self.chain.give(signer(n).address(), Wei(1 << 70)).unwrap();
        self.send(n, &OnionPay::addReserveCall {}, BOND).await;
        self.send(n, &OnionPay::registerCall { idKey: identity(n).id().0.into() }, Wei::ZERO).await;
    }

    /// What is done is final.
    fn settle(&self) {
        for _ in 0..2 {
            self.chain.mine().unwrap();
        }
    }

    fn task(&self) -> (Task, Watch) {
        Task::new(Settings {
            chain: Arc::new(self.bad.clone()),
            deployed: 0,
            file: Some(self.folder.path().join("registry")),
            every: Duration::from_millis(10),
            now: || TIME + 5,
        })
    }
}

fn ids(watch: &Watch) -> Vec<RelayId> {
    watch.registry.borrow().ids().collect()
}

fn sorted(numbers: &[u8]) -> Vec<RelayId> {
    let mut ids: Vec<_> = numbers.iter().map(|n| identity(*n).id()).collect();
    ids.sort_unstable();
    ids
}

fn bond(watch: &Watch, n: u8) -> Option<Wei> {
    watch.registry.borrow().get(&identity(n).id(), &signer(n).address()).map(|relay| relay.bond)
}

#[tokio::test]
async fn a_chain_that_is_not_as_far_as_the_contract_is_called_so() {
    let lab = Lab::new();
    lab.register(1).await;
    lab.settle();
    let (mut task, watch) = lab.task();
    task.settings.deployed = 1_000;
    assert_eq!(task.round().await, 1);
    let status = watch.status.borrow().clone();
    let trouble = status.trouble.unwrap();
    assert!(trouble.contains("in block 1000") && trouble.contains("correct `deployed`"), "{trouble}");
    assert_eq!((status.block, ids(&watch).len()), (0, 0));
    task.settings.deployed = 0;
    task.round().await;
    assert_eq!(ids(&watch), sorted(&[1]));
}

// directory.watch.1 directory.watch.3
#[tokio::test]
async fn the_registry_follows_the_chain() {
    let lab = Lab::new();
    let (mut task, watch) = lab.task();
    assert_eq!((task.round().await, ids(&watch).len()), (1, 0));
    for n in 1..=3 {
        lab.register(n).await;
    }
    task.round().await;
    assert!(ids(&watch).len() < 3, "what is not final yet is not believed");
    lab.settle();
    task.round().await;
    assert_eq!(ids(&watch), sorted(&[1, 2, 3]));
    assert_eq!(bond(&watch, 2), Some(BOND));
    let status = watch.status.borrow().clone();
    assert_eq!((status.relays, status.changes, status.trouble), (3, 3, None));
    assert_eq!((status.block, status.confirmed), (watch.registry.borrow().block, TIME + 5));

    // A bond that grows is seen without reading the list again; a relay that leaves is gone.
    lab.bad.asked.lock().unwrap().clear();
    lab.send(2, &OnionPay::addReserveCall {}, Wei(5)).await;
    lab.settle();
    task.round().await;
    assert_eq!(bond(&watch, 2), Some(BOND.saturating_add(Wei(5))));
    assert!(!lab.bad.asked.lock().unwrap().contains(&"list"));
    lab.send(2, &OnionPay::startUnlockCall {}, Wei::ZERO).await;
    lab.settle();
    task.round().await;
    assert_eq!(ids(&watch), sorted(&[1, 3]));
    assert_eq!(watch.status.borrow().changes, 4);
}

// directory.watch.3
#[tokio::test]
async fn what_the_list_tells_of_bonds_is_not_fetched_as_events() {
    let lab = Lab::new();
    for n in 1..=3 {
        lab.register(n).await;
    }
    lab.settle();
    let (mut task, watch) = lab.task();
    task.round().await;
    let asked = |what| lab.bad.asked.lock().unwrap().contains(&what);
    assert!(asked("changes") && asked("list") && !asked("changes and bonds"));
    assert_eq!((ids(&watch), bond(&watch, 2)), (sorted(&[1, 2, 3]), Some(BOND)));
    let status = watch.status.borrow().clone();
    assert_eq!((status.reading, status.target), (status.block, status.block));

    // Also not where reading is broken off between the change of a bond and the end.
    lab.send(2, &OnionPay::addReserveCall {}, Wei(5)).await;
    lab.register(4).await;
    for _ in 0..SPAN {
        lab.chain.mine().unwrap();
    }
    lab.bad.set(Fault::NoneFrom(status.block + SPAN));
    task.round().await;
    let broken = watch.status.borrow().clone();
    assert!(
        broken.trouble.is_some() && broken.reading == status.block + SPAN && broken.target > broken.reading
    );
    assert_eq!(bond(&watch, 2), Some(BOND), "the last registry that was right stays");
    lab.bad.set(Fault::None);
    task.round().await;
    assert_eq!(bond(&watch, 2), Some(BOND.saturating_add(Wei(5))));
    assert_eq!(ids(&watch), sorted(&[1, 2, 3, 4]));
}

// directory.watch.1 directory.watch.2
#[tokio::test]
async fn a_back_end_that_hides_or_lies_is_not_believed() {
    for fault in [Fault::Hides(2), Fault::Hides(3), Fault::OtherRelay, Fault::LongList, Fault::OtherList] {
        let lab = Lab::new();
        let (mut task, watch) = lab.task();
        lab.register(1).await;
        lab.settle();
        task.round().await;
        assert_eq!(ids(&watch), sorted(&[1]));
        lab.register(2).await;
        lab.register(3).await;
        // There were more changes than there are relays.
        lab.register(4).await;
        lab.send(4, &OnionPay::startUnlockCall {}, Wei::ZERO).await;
        lab.settle();
        lab.bad.set(fault);
        assert_eq!(task.round().await, PENALTY, "{fault:?}");
        assert_eq!(ids(&watch), sorted(&[1]), "{fault:?}: the last right registry stays");
        let trouble = watch.status.borrow().trouble.clone().unwrap();
        assert!(trouble.contains("name another RPC"), "{trouble}");
        // Also where there is nothing yet.
        let (mut fresh, nothing) = lab.task();
        fresh.draft = Draft::default();
        fresh.registry.send_replace(Arc::default());
        fresh.round().await;
        assert_eq!(ids(&nothing), [], "{fault:?}");
        // An honest back-end is believed again, from the start.
        lab.bad.set(Fault::None);
        assert_eq!(task.round().await, 1);
        assert_eq!(ids(&watch), sorted(&[1, 2, 3]), "{fault:?}");
        assert_eq!(watch.status.borrow().trouble, None);
    }
}

// directory.watch.2
#[tokio::test]
async fn a_chain_that_fails_or_stands_still_keeps_the_last_registry_and_tells_its_age() {
    let lab = Lab::new();
    let (mut task, watch) = lab.task();
    lab.register(1).await;
    lab.settle();
    task.round().await;
    let block = watch.status.borrow().block;
    for (fault, said) in [(Fault::Down, "no RPC answers"), (Fault::Behind, "is behind")] {
        lab.bad.set(fault);
        assert_eq!(task.round().await, 1, "it is looked at again soon");
        assert_eq!(ids(&watch), sorted(&[1]));
        let status = watch.status.borrow().clone();
        assert!(status.trouble.unwrap().contains(said), "{fault:?}");
        assert_eq!((status.block, status.time), (block, TIME));
    }
    lab.bad.set(Fault::None);
    task.round().await;
    assert_eq!(watch.status.borrow().trouble, None);
    // It answers, and no block comes any more.
    task.settings.now = || TIME + STALE + 1;
    task.round().await;
    let status = watch.status.borrow().clone();
    assert!(status.trouble.unwrap().contains("the RPC or the chain is behind"));
    assert_eq!(status.relays, 1);
}

// directory.watch.1
#[tokio::test]
async fn a_list_without_end_is_not_read_to_its_end() {
    let lab = Lab::new();
    let (mut task, watch) = lab.task();
    lab.register(1).await;
    lab.register(2).await;
    lab.settle();
    lab.bad.set(Fault::EndlessList);
    task.round().await;
    let trouble = watch.status.borrow().trouble.clone().unwrap();
    assert!(trouble.contains("list of relays"), "{trouble}");
    assert_eq!(ids(&watch), []);
}

// directory.watch.2
#[tokio::test]
async fn a_contradiction_does_not_lead_back_to_an_older_registry() {
    let lab = Lab::new();
    let (mut task, watch) = lab.task();
    lab.register(1).await;
    lab.settle();
    task.round().await;
    let old = watch.status.borrow().block;
    lab.register(2).await;
    lab.settle();
    task.round().await;
    assert_eq!(ids(&watch), sorted(&[1, 2]));
    lab.bad.set(Fault::OtherList);
    task.listed = None;
    assert_eq!(task.round().await, PENALTY);
    lab.bad.set(Fault::Old(old));
    task.round().await;
    assert_eq!(ids(&watch), sorted(&[1, 2]));
    let status = watch.status.borrow().clone();
    assert!(status.trouble.unwrap().contains("is behind") && status.block > old);
}

#[tokio::test]
async fn who_waits_for_the_registry_finds_its_status() {
    let lab = Lab::new();
    lab.register(1).await;
    lab.settle();
    let (mut task, mut watch) = lab.task();
    let seen = async {
        watch.registry.changed().await.unwrap();
        let status = watch.status.borrow().clone();
        (status.block == watch.registry.borrow().block, status.relays, status.changes)
    };
    // Whoever waits looks before the round, which still asks for the newest block, is over.
    let follow = async {
        task.follow().await.unwrap();
    };
    let (seen, ()) = tokio::join!(seen, follow);
    assert_eq!(seen, (true, 1, 1));
}

// directory.watch.4
#[tokio::test]
async fn a_restart_begins_with_what_was_known() {
    let lab = Lab::new();
    let (mut task, _) = lab.task();
    lab.register(1).await;
    lab.register(2).await;
    lab.settle();
    task.round().await;
    lab.bad.set(Fault::Down);
    let (mut task, watch) = lab.task();
    assert_eq!((ids(&watch), bond(&watch, 2)), (sorted(&[1, 2]), Some(BOND)));
    assert_eq!(watch.status.borrow().confirmed, 0, "not by the chain");
    task.round().await;
    assert!(watch.status.borrow().trouble.is_some());
    lab.bad.set(Fault::None);
    lab.register(3).await;
    lab.settle();
    task.round().await;
    assert_eq!(ids(&watch), sorted(&[1, 2, 3]));

    // What is damaged, and what is of another chain, is read anew.
    let path = lab.folder.path().join("registry");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (mut task, watch) = lab.task();
    assert_eq!(ids(&watch), []);
    task.round().await;
    assert_eq!(ids(&watch), sorted(&[1, 2, 3]));
    let other = Lab { folder: lab.folder, ..Lab::new() };
    other.register(9).await;
    other.chain.set_time(TIME + 1);
    for _ in 0..40 {
        other.chain.mine().unwrap();
    }
    let (mut task, watch) = other.task();
    task.round().await;
    assert_eq!(ids(&watch), sorted(&[9]));
}

#[tokio::test]
async fn a_watch_runs_until_nobody_looks() {
    let lab = Lab::new();
    lab.register(1).await;
    lab.settle();
    let local = tokio::task::LocalSet::new();
    let (task, _) = lab.task();
    let weak = Arc::downgrade(&lab.bad.asked);
    local
        .run_until(async {
            let mut watch = start(task.settings);
            watch.registry.wait_for(|registry| registry.ids().count() == 1).await.unwrap();
            drop(watch);
        })
        .await;
    drop(lab);
    local.await;
    assert!(weak.upgrade().is_none(), "it has let go of the chain");
}
