//! A bond on the chain of this process: whatever fails, and whenever, it is put up once.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use alloy_primitives::Bytes;
use payments::chain::embedded::{Embedded, Options};
use payments::chain::{Answer, Head, Kinds, Log, Receipt, Relay, View};
use payments::session::Domain;

use super::*;

const ETHER: u128 = 1_000_000_000_000_000_000;
const BOND: Wei = Wei(ETHER / 10);
const MINIMUM: Wei = Wei(ETHER / 20);
const START: u64 = 1_700_000_000;
const ID: RelayId = RelayId([7; 32]);

/// What becomes of the next transactions that are handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// It does not arrive.
    Lost,
    /// It arrives, and nothing comes back.
    Silent,
}

/// A chain whose RPC loses things.
#[derive(Debug)]
struct Faulty {
    inner: Embedded,
    fault: Mutex<Fault>,
    /// The contract is asked where the newest block is not known yet.
    behind: AtomicBool,
}

impl Chain for Faulty {
    fn domain(&self) -> Domain {
        self.inner.domain()
    }
    fn legacy(&self) -> bool {
        self.inner.legacy()
    }
    fn head(&self, at: At) -> Answer<'_, Head> {
        self.inner.head(at)
    }
    fn view(&self, at: At, view: View) -> Answer<'_, Bytes> {
        Box::pin(async move {
            let head = self.inner.head(At::Latest).await?.number;
            let behind = at == At::Latest && self.behind.load(Relaxed);
            self.inner.view(if behind { At::Block(head - 1) } else { at }, view).await
        })
    }
    fn logs(&self, first: u64, last: u64, kinds: Kinds) -> Answer<'_, Vec<Log>> {
        self.inner.logs(first, last, kinds)
    }
    fn purse(&self, owner: Address) -> Answer<'_, Purse> {
        self.inner.purse(owner)
    }
    fn fees(&self) -> Answer<'_, Fees> {
        self.inner.fees()
    }
    fn broadcast(&self, raw: Vec<u8>) -> Answer<'_, ()> {
        let fault = *self.fault.lock().unwrap();
        Box::pin(async move {
            let down = || Error::Down("a test".to_owned());
            match fault {
                Fault::None => self.inner.broadcast(raw).await,
                Fault::Lost => Err(down()),
                Fault::Silent => self.inner.broadcast(raw).await.and_then(|()| Err(down())),
            }
        })
    }
    fn receipt(&self, transaction: B256) -> Answer<'_, Option<Receipt>> {
        self.inner.receipt(transaction)
    }
}

/// A relay's bond, its chain, and what a run of the relay has seen.
struct World {
    chain: Arc<Faulty>,
    bond: Bond,
    sight: Sight,
    time: u64,
    _folder: tempfile::TempDir,
}

impl World {
    /// Every transaction has a block at once; nobody has ether.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { time: START, ..Options::default() };
        let inner = Embedded::new(options).unwrap();
        let chain = Arc::new(Faulty { inner, fault: Mutex::default(), behind: AtomicBool::new(false) });
        let bond = Bond {
            chain: chain.clone(),
            signer: Signer::from_bytes([3; 32]).unwrap(),
            id: ID,
            amount: BOND,
            minimum: MINIMUM,
            gas_price: 1_000_000_000_000,
            state: folder.path().to_owned(),
            config: "relay.toml".into(),
        };
        Self { chain, bond, sight: Sight::default(), time: START, _folder: folder }
    }

    fn owner(&self) -> Address {
        self.bond.signer.address()
    }

    async fn account(&self) -> Account {
        (&*self.chain as &dyn Chain).account(self.owner(), At::Latest).await.unwrap()
    }

    /// A look; the relay may have been killed before it.
    async fn round(&mut self) -> anyhow::Result<Outcome> {
        self.time = self.time.max((&*self.chain as &dyn Chain).head(At::Latest).await.unwrap().time);
        self.bond.round(&mut self.sight, self.time).await
    }

    fn restart(&mut self) {
        self.sight = Sight::default();
    }

    /// Makes blocks.
    fn mine(&mut self, blocks: u64) {
        for _ in 0..blocks {
            self.time += 2;
            self.chain.inner.tick(self.time).unwrap();
        }
    }

    /// Looks until nothing is left to do.
    async fn settle(&mut self) {
        for _ in 0..200 {
            if self.round().await.is_ok_and(|outcome| outcome == Outcome::Done) {
                return;
            }
            self.mine(1);
        }
        let (account, last) = (self.account().await, self.round().await);
        panic!("it is not registered: {account:?} {last:?}");
    }

    /// Does something at the contract, with a wallet that has ether for it.
    async fn act(&self, signer: &Signer, call: impl FnOnce(&Domain) -> Call) {
        self.chain.inner.give(signer.address(), Wei(2 * ETHER)).unwrap();
        let limits = Limits { gas: 300_000, price: 1_000_000_000_000 };
        let call = call(&self.chain.domain());
        (&*self.chain as &dyn Chain).send(signer, call, limits).await.unwrap();
    }

    /// What it says that only people can do.
    async fn stuck(&mut self) -> String {
        match self.round().await.unwrap() {
            Outcome::Stuck(text) => text,
            other => panic!("{other:?}"),
        }
    }

    fn fund(&self) {
        self.chain.inner.give(self.owner(), Wei(2 * ETHER)).unwrap();
    }
}

fn reserve(wei: Wei) -> impl FnOnce(&Domain) -> Call {
    move |domain| Call::new(domain, &OnionPay::addReserveCall {}, wei)
}

fn register(id: [u8; 32]) -> impl FnOnce(&Domain) -> Call {
    move |domain| Call::new(domain, &OnionPay::registerCall { idKey: B256::from(id) }, Wei::ZERO)
}

#[tokio::test]
async fn without_ether_it_waits_and_with_it_it_is_bonded_once() {
    let mut world = World::new();
    let said = world.stuck().await;
    assert!(said.contains("lacks ether") && said.contains("chive wallet show --config relay.toml"), "{said}");
    assert!(!said.contains("0x"), "no address is told: {said}");
    // To the wei what is told is enough.
    let (chain, owner) = (world.chain.clone(), world.owner());
    let lack = async || {
        let account = (&*chain as &dyn Chain).account(owner, At::Latest).await.unwrap();
        let (purse, fees) = (chain.purse(owner).await.unwrap(), chain.fees().await.unwrap());
        lacks(&account, purse, fees, BOND, MINIMUM)
    };
    let wanted = lack().await.unwrap();
    assert!(wanted > BOND, "the fees are part of it");
    world.chain.inner.give(owner, Wei(wanted.0 - 1)).unwrap();
    assert!(world.stuck().await.contains("lacks ether"));
    assert_eq!(lack().await, Some(Wei(1)));
    world.chain.inner.give(owner, Wei(1)).unwrap();
    assert_eq!(lack().await, None);
    world.settle().await;
    let account = world.account().await;
    assert_eq!((account.reserve, account.registered, account.signer), (BOND, true, Some(owner)));
    // A later start changes nothing.
    world.restart();
    assert_eq!(world.round().await.unwrap(), Outcome::Done);
    assert_eq!(world.account().await, account);
}

#[tokio::test]
async fn only_what_is_missing_is_added() {
    let mut world = World::new();
    let (signer, owner) = (world.bond.signer.clone(), world.owner());
    world
        .act(&signer, |domain| Call::new(domain, &OnionPay::setSignerCall { signer: owner }, Wei::ZERO))
        .await;
    world.act(&signer, reserve(Wei(BOND.0 / 3))).await;
    world.settle().await;
    assert_eq!(world.account().await.reserve, BOND);
    // What has more than it wants is left alone.
    let mut world = World::new();
    world.act(&signer, reserve(Wei(ETHER))).await;
    world.settle().await;
    assert_eq!(world.account().await.reserve, Wei(ETHER));
}

#[tokio::test]
async fn where_only_people_can_go_on_it_says_so_and_sends_nothing() {
    let mut world = World::new();
    let signer = world.bond.signer.clone();
    let other = Signer::from_bytes([9; 32]).unwrap();
    // A stranger has registered the relay's id.
    world.act(&other, reserve(BOND)).await;
    world.act(&other, register(ID.0)).await;
    world.mine(4);
    world.fund();
    let said = world.stuck().await;
    assert!(said.contains("another wallet") && said.contains(&other.address().to_string()), "{said}");
    assert!(said.contains(&format!("chive wallet register {ID} --config relay.toml")), "{said}");
    // The owner has registered another relay.
    world.act(&signer, reserve(BOND)).await;
    world.act(&signer, register([8; 32])).await;
    world.mine(4);
    let said = world.stuck().await;
    assert!(said.contains("another relay") && said.contains(&"08".repeat(32)), "{said}");
    // The reserve is on its way out.
    world.act(&signer, |domain| Call::new(domain, &OnionPay::startUnlockCall {}, Wei::ZERO)).await;
    let said = world.stuck().await;
    assert!(
        said.contains("being unlocked") && said.contains("unlock --cancel --config relay.toml"),
        "{said}"
    );
    assert_eq!(world.account().await.reserve, BOND);
    assert!(flight::read(&world.bond.state).unwrap().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn a_bond_that_is_too_small_is_not_sent() {
    assert!(require_enough(BOND, BOND).is_ok());
    let said = require_enough(MINIMUM, BOND).unwrap_err().to_string();
    assert!(said.contains("wants 0.1 ether at least"), "{said}");
    let mut world = World::new();
    (world.bond.amount, world.bond.minimum) = (Wei(1), Wei::ZERO);
    world.fund();
    assert!(world.stuck().await.contains("below the contract's least: raise it to 0.001 ether"));
}

#[tokio::test]
async fn a_transaction_that_waits_too_long_is_replaced_and_not_repeated() {
    let mut world = World::new();
    world.fund();
    world.chain.inner.set_instant(false);
    assert_eq!(world.round().await.unwrap(), Outcome::Sent);
    world.restart();
    assert_eq!(world.round().await.unwrap(), Outcome::Waiting);
    assert_eq!(world.chain.inner.waiting().len(), 1);
    // Too cheap for the blocks: another takes its place.
    world.chain.inner.set_base_fee(2_500_000_000);
    world.mine(4);
    assert_eq!(world.round().await.unwrap(), Outcome::Sent);
    assert_eq!(world.chain.inner.waiting().len(), 1);
    world.settle().await;
    assert_eq!(world.account().await.reserve, BOND);
}

#[test]
fn an_owner_stands_as_the_contract_says() {
    let owner = Address::repeat_byte(1);
    let relay = |owner, id: u8| Relay { owner, id_key: B256::repeat_byte(id), since: 0, reserve: BOND };
    let list = |relays: &[Relay]| Registry { relays: relays.to_vec(), ..Registry::default() };
    let absent = Account::default();
    let registered = Account { registered: true, ..absent };
    let unlocking = Account { unlock_at: Some(5), ..absent };
    let stranger = Address::repeat_byte(2);
    for (account, listed, expected) in [
        (absent, list(&[]), Standing::Absent),
        (absent, list(&[relay(stranger, 8)]), Standing::Absent),
        (absent, list(&[relay(stranger, 7)]), Standing::OtherOwner(stranger)),
        (registered, list(&[relay(stranger, 7), relay(owner, 7)]), Standing::Registered),
        (registered, list(&[relay(owner, 8)]), Standing::OtherRelay(RelayId([8; 32]))),
        (registered, list(&[]), Standing::Unlisted),
        (unlocking, list(&[relay(owner, 7)]), Standing::Unlocking),
    ] {
        let found = standing(&ID, owner, &account, &listed);
        assert_eq!(found, expected);
        let free = matches!(found, Standing::Absent | Standing::Registered | Standing::Unlisted);
        assert_eq!(found.problem(&ID).is_none(), free, "{found:?}");
    }
}

/// A cheap generator: the same trials in every run.
fn draw(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

// operate.bond.1, operate.bond.2: however often it is killed, whatever the RPC loses, and whatever blocks are taken back.
#[tokio::test]
async fn it_is_never_put_up_twice() {
    for trial in 0..60 {
        let (mut world, mut seed) = (World::new(), trial);
        world.fund();
        world.mine(4);
        for _ in 0..40 {
            *world.chain.fault.lock().unwrap() = match draw(&mut seed) % 4 {
                0 => Fault::Lost,
                1 => Fault::Silent,
                _ => Fault::None,
            };
            world.chain.inner.set_instant(draw(&mut seed).is_multiple_of(2));
            world.chain.behind.store(draw(&mut seed).is_multiple_of(3), Relaxed);
            match draw(&mut seed) % 8 {
                0 => world.restart(),
                1 => drop(world.chain.inner.forget_waiting()),
                2 => world.chain.inner.reorganise(1, false).unwrap(),
                3 => world.chain.inner.reorganise(1, true).unwrap(),
                4 => world.mine(3),
                _ => world.mine(1),
            }
            let _ = world.round().await;
            assert!(world.account().await.reserve <= BOND, "trial {trial}");
        }
        *world.chain.fault.lock().unwrap() = Fault::None;
        world.chain.behind.store(false, Relaxed);
        world.settle().await;
        world.mine(4);
        assert_eq!(world.account().await.reserve, BOND, "trial {trial}");
    }
}
