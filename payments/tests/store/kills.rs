//! A payer and its payee, each on a disk whose power fails at any moment: no win is lost, no wei paid twice, and nobody is
//! charged for more than it revealed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};

use payments::Address;
use payments::amount::Wei;
use payments::claim::Claim;
use payments::frame::Frame;
use payments::offer::Face;
use payments::record::{Change, Key, Record, RecordId};
use payments::session::{Domain, Signer};
use payments::store::{Batch, Store, Table};
use payments::till::{PayerAccount, Till, TillLimits};
use payments::wallet::{Pot, Wallet, WalletLimits};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::disk::{Disk, Shared, below};

const KILLS: u32 = 10_000;
/// Changes and syncs of a disk until its power fails, at most.
const POWER: usize = 80;
const DOMAIN: Domain = Domain { chain_id: 31_337, contract: Address::repeat_byte(0xcc) };
const PAYER: Address = Address::repeat_byte(0x11);
const PAYEE: Address = Address::repeat_byte(0x22);
const VALUE: u128 = 1_000;
const RICH: Wei = Wei(1 << 90);
const TABLES: [Table; 3] = [Table::PayerSessions, Table::PayeeSessions, Table::Wins];

fn signer() -> Signer {
    Signer::from_bytes([7; 32]).unwrap()
}

/// A process's store, until its power fails.
struct Power {
    disk: Shared,
    store: Option<Store>,
}

impl Power {
    fn on(bytes: Vec<u8>, power: usize) -> Self {
        let disk = Shared(Arc::new(Mutex::new(Disk::new(bytes, power))));
        let store = Store::with_backend(Path::new("test"), disk.clone()).ok();
        Self { disk, store }
    }

    fn records(&self) -> Vec<Record> {
        let store = self.store.as_ref().unwrap();
        let rows = TABLES.into_iter().flat_map(|table| store.scan(table).unwrap());
        rows.map(|(_, bytes)| Record::decode(&bytes).unwrap()).collect()
    }

    /// Writes changes in one batch; whether the power held.
    fn commit(&self, changes: &[(RecordId, Change)]) -> bool {
        let mut batch = Batch::new();
        for (_, Change { key, record }) in changes {
            match record {
                Some(record) => batch.put(Table::of(key), key.encode(), record.encode().unwrap()),
                None => batch.delete(Table::of(key), key.encode()),
            }
        }
        self.store.as_ref().unwrap().commit(&batch).is_ok()
    }
}

struct World {
    rng: ChaCha8Rng,
    now: u64,
    starts: u64,
    kills: u32,
    wallet: Wallet,
    till: Till,
    /// That of the wallet, and that of the till.
    power: [Power; 2],
    waiting: [VecDeque<(RecordId, Change)>; 2],
    up: VecDeque<Frame>,
    down: VecDeque<Frame>,
    target: u128,
    /// The draws that the payer ever revealed, by session, and in all: its own count.
    revealed: BTreeMap<u32, u16>,
    count: u128,
    anchors: BTreeMap<u32, [u8; 32]>,
    claims: BTreeMap<u32, Claim>,
    /// Of the claims those that the contract has not paid, and those that it has.
    open: BTreeSet<u32>,
    redeemed: BTreeSet<u32>,
}

fn new_wallet() -> Wallet {
    let limits = WalletLimits {
        redemption_cost: Wei(1_000_000),
        max_open: 2,
        value: Wei(VALUE),
        max_value: Wei(10_000),
    };
    let mut wallet = Wallet::new(DOMAIN, PAYER, signer(), [1; 32], limits);
    let pot = Pot { balance: RICH, reserve: RICH, unlocking: false, only_payee: None };
    wallet.on_account(0, Some(pot));
    wallet
}

fn new_till(start: u64) -> Till {
    let limits = TillLimits { face: Face::Draws(20), min_value: Wei(10), draws: 64, max_payers: 100 };
    let mut fresh = [3; 32];
    fresh[..8].copy_from_slice(&start.to_be_bytes());
    Till::new(DOMAIN, PAYEE, [2; 32], fresh, limits)
}

fn account() -> PayerAccount {
    PayerAccount {
        balance: RICH,
        reserve: RICH,
        unlocking: false,
        signer: signer().address(),
        only_payee: None,
        head_stale: false,
        registered: false,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: 1_800_000_000,
            starts: 0,
            kills: 0,
            wallet: new_wallet(),
            till: new_till(0),
            power: [Power::on(vec![], usize::MAX), Power::on(vec![], usize::MAX)],
            waiting: Default::default(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            target: 0,
            revealed: BTreeMap::new(),
            count: 0,
            anchors: BTreeMap::new(),
            claims: BTreeMap::new(),
            open: BTreeSet::new(),
            redeemed: BTreeSet::new(),
        }
    }

    /// Takes what both sides say and want written.
    fn drain(&mut self) {
        while let Some((_, frame)) = self.wallet.poll_frame() {
            match frame {
                Frame::Draw { nonce, index, .. } => {
                    let last = self.revealed.entry(nonce).or_default();
                    self.count += u128::from(index.saturating_sub(*last));
                    *last = index.max(*last);
                }
                Frame::Session { nonce, anchor, .. } => {
                    let known = *self.anchors.entry(nonce).or_insert(anchor.0);
                    assert_eq!(known, anchor.0, "two sessions with one nonce");
                }
                _ => (),
            }
            self.up.push_back(frame);
        }
        self.down.extend(std::iter::from_fn(|| self.till.poll_frame()).map(|(_, frame)| frame));
        self.waiting[0].extend(std::iter::from_fn(|| self.wallet.poll_record()));
        self.waiting[1].extend(std::iter::from_fn(|| self.till.poll_record()));
        while let Some(claim) = self.till.poll_claim() {
            let nonce = claim.session.nonce;
            if !self.redeemed.contains(&nonce) {
                self.open.insert(nonce);
            }
            let known = *self.claims.entry(nonce).or_insert(claim);
            assert_eq!(known, claim, "two claims of one session");
            assert_eq!(claim.signer(&DOMAIN), Some(signer().address()));
            assert!(claim.draw <= self.revealed[&nonce], "a claim of a draw that was never revealed");
        }
        assert!(self.till.credited(PAYER).0 <= self.count * VALUE, "charged above the payer's count");
    }

    /// Writes some of what waits to a side's disk; the side dies with its power, or right behind the write.
    fn write(&mut self, side: usize, count: usize) {
        let count = count.min(self.waiting[side].len());
        let changes: Vec<_> = self.waiting[side].drain(..count).collect();
        let Some((last, _)) = changes.last() else { return };
        if !self.power[side].commit(&changes) {
            self.kill(side);
            return;
        }
        if side == 0 {
            self.wallet.persisted(self.now, *last);
        } else {
            self.till.persisted(*last);
        }
        // What the chain says of debts and wins is asked for when they are found.
        for nonce in changes.iter().filter_map(|(_, change)| match change.key {
            Key::Debt(_, nonce) | Key::Win(_, nonce) => change.record.as_ref().map(|_| nonce),
            _ => None,
        }) {
            self.tell(side, nonce);
        }
        self.drain();
    }

    fn tell(&mut self, side: usize, nonce: u32) {
        if !self.redeemed.contains(&nonce) {
            return;
        }
        if side == 0 {
            self.wallet.redeemed(self.now, PAYEE, nonce).unwrap();
        } else {
            self.till.redeemed(PAYER, nonce, true);
        }
    }

    /// Ends a side, and starts it again from what its disk has kept, as often as the power fails meanwhile.
    fn kill(&mut self, side: usize) {
        self.waiting[side].clear();
        // What is on its way may arrive or not.
        for queue in [&mut self.up, &mut self.down] {
            queue.truncate(below(&mut self.rng, queue.len() + 1));
        }
        loop {
            self.kills += 1;
            let bytes = self.power[side].disk.disk().survivors(&mut self.rng);
            self.power[side] = Power::on(bytes, 1 + below(&mut self.rng, POWER));
            if self.power[side].store.is_some() {
                break;
            }
        }
        self.restore(side);
    }

    fn restore(&mut self, side: usize) {
        let records = self.power[side].records();
        let found: Vec<_> = records
            .iter()
            .filter_map(|record| match record {
                Record::Debt(debt) => Some(debt.nonce),
                Record::Win(claim) => Some(claim.session.nonce),
                _ => None,
            })
            .collect();
        self.starts += 1;
        if side == 0 {
            self.wallet = new_wallet();
            self.wallet.restore(records);
            self.wallet.pay(self.now, PAYEE, Wei(self.target));
        } else {
            self.till = new_till(self.starts);
            self.till.restore(records);
        }
        for nonce in found {
            self.tell(side, nonce);
        }
        self.drain();
    }

    fn deliver(&mut self, up: bool) {
        let Some(frame) = (if up { self.up.pop_front() } else { self.down.pop_front() }) else { return };
        if up {
            self.till.handle(self.now, PAYER, &frame, Some(&account())).unwrap();
        } else {
            self.wallet.handle(self.now, PAYEE, &frame).unwrap();
        }
        self.drain();
    }

    fn redeem(&mut self, count: usize) {
        for _ in 0..count.min(self.open.len()) {
            let nonce = self.open.pop_first().unwrap();
            assert!(self.redeemed.insert(nonce), "paid twice");
            (0..2).for_each(|side| self.tell(side, nonce));
        }
        self.drain();
    }

    fn tick(&mut self, seconds: u64) {
        self.now += seconds;
        self.wallet.handle_timeout(self.now);
        self.till.handle_timeout(self.now);
        self.drain();
    }

    fn step(&mut self) {
        match below(&mut self.rng, 16) {
            0 | 1 => {
                self.target += u128::from(self.rng.next_u32() % 12_000);
                self.wallet.pay(self.now, PAYEE, Wei(self.target));
                self.drain();
            }
            2..=5 => self.deliver(true),
            6..=9 => self.deliver(false),
            10..=13 => {
                let (side, count) = (below(&mut self.rng, 2), 1 + below(&mut self.rng, 4));
                self.write(side, count);
            }
            14 => self.tick(1),
            _ => self.redeem(1),
        }
    }

    /// With power that holds: all that is said and written arrives.
    fn settle(&mut self) {
        for side in 0..2 {
            let bytes = self.power[side].disk.disk().survivors(&mut self.rng);
            self.kills += 1;
            self.waiting[side].clear();
            self.power[side] = Power::on(bytes, usize::MAX);
            self.restore(side);
        }
        for _ in 0..90 {
            while !(self.up.is_empty() && self.down.is_empty() && self.waiting.iter().all(VecDeque::is_empty))
            {
                self.deliver(true);
                self.deliver(false);
                (0..2).for_each(|side| self.write(side, usize::MAX));
            }
            self.tick(1);
        }
        while !self.waiting.iter().all(VecDeque::is_empty) {
            (0..2).for_each(|side| self.write(side, usize::MAX));
        }
    }

    /// Nothing is lost, and both sides agree to the wei.
    fn check(&self) {
        let (payer, payee) = (self.wallet.snapshot()[0], self.till.snapshot()[0]);
        assert_eq!((payer.paid, payer.draws), (payee.credited, payee.draws));
        assert!(payer.paid.0 >= self.target && payer.paid.0 < self.target + VALUE, "{payer:?}");
        assert_eq!((payer.wins, payer.won), (payee.wins, payee.won));
        assert_eq!(payee.wins, u64::try_from(self.claims.len()).unwrap(), "a win is lost");
        assert_eq!(payer.owed, payee.unredeemed);
        assert_eq!(payer.owed, Wei(self.open.iter().map(|nonce| self.claims[nonce].session.face.0).sum()));
    }

    /// Both disks fail after some more work.
    fn arm(&mut self) {
        for side in 0..2 {
            let bytes = self.power[side].disk.disk().survivors(&mut self.rng);
            self.power[side] = Power::on(bytes, POWER + below(&mut self.rng, POWER));
            self.waiting[side].clear();
            self.restore(side);
        }
    }
}

// pay.disk.2, pay.disk.3, pay.persist.1
#[test]
fn ten_thousand_power_failures_lose_no_win_and_charge_nobody_twice() {
    let mut world = World::new(11);
    let mut rounds = 0;
    while world.kills < KILLS {
        world.arm();
        let until = world.kills + 100;
        while world.kills < until {
            world.step();
        }
        world.settle();
        world.check();
        rounds += 1;
    }
    println!(
        "{} kills, {rounds} times compared: {} draws, {} sessions, {} wins, {} redeemed",
        world.kills,
        world.till.snapshot()[0].draws,
        world.anchors.len(),
        world.claims.len(),
        world.redeemed.len()
    );
    assert!(world.claims.len() > 1_000, "{}", world.claims.len());
    world.redeem(usize::MAX);
    world.settle();
    world.check();
    let paid: u128 = world.redeemed.iter().map(|nonce| world.claims[nonce].session.face.0).sum();
    assert_eq!(Wei(paid), world.till.snapshot()[0].won);
}
