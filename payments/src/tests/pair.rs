//! A wallet and a till with disks that can lose what is not yet written, and a channel between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use alloy_primitives::Address;

use crate::amount::Wei;
use crate::claim::Claim;
use crate::frame::Frame;
use crate::offer::Face;
use crate::record::{Change, Key, Record, RecordId};
use crate::session::{Domain, Signer};
use crate::till::{PayerAccount, Till, TillError, TillLimits};
use crate::wallet::{Pot, Wallet, WalletError, WalletLimits};

pub(super) const NOW: u64 = 1_800_000_000;
pub(super) const DOMAIN: Domain = Domain { chain_id: 31337, contract: Address::repeat_byte(0xcc) };
pub(super) const PAYEE: Address = Address::repeat_byte(0x22);
pub(super) const PAYER: Address = Address::repeat_byte(0x11);
pub(super) const VALUE: Wei = Wei(1000);

pub(super) fn signer() -> Signer {
    Signer::from_bytes([7; 32]).unwrap()
}

pub(super) fn wallet_limits() -> WalletLimits {
    WalletLimits { redemption_cost: Wei(1_000_000), max_open: 2, value: VALUE, max_value: Wei(10_000) }
}

pub(super) fn till_limits() -> TillLimits {
    TillLimits { face: Face::Draws(40), min_value: Wei(10), draws: 64, max_payers: 100 }
}

pub(super) fn pot() -> Pot {
    Pot { balance: Wei(1 << 90), reserve: Wei(1 << 90), unlocking: false, only_payee: None }
}

pub(super) fn account() -> PayerAccount {
    PayerAccount {
        balance: Wei(1 << 90),
        reserve: Wei(1 << 90),
        unlocking: false,
        signer: signer().address(),
        only_payee: None,
        head_stale: false,
        registered: false,
    }
}

/// A disk, and what is on its way to it.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) rows: BTreeMap<Key, Vec<u8>>,
    writing: VecDeque<(RecordId, Change)>,
}

impl Disk {
    /// Writes the first `count` changes that wait; the last of them.
    fn write(&mut self, count: usize) -> Option<RecordId> {
        let mut last = None;
        for (id, Change { key, record }) in self.writing.drain(..count.min(self.writing.len())) {
            match record {
                Some(record) => {
                    assert_eq!(record.key(), key);
                    self.rows.insert(key, record.encode().unwrap());
                }
                None => drop(self.rows.remove(&key)),
            }
            last = Some(id);
        }
        last
    }

    fn read(&self) -> Vec<Record> {
        self.rows.values().map(|bytes| Record::decode(bytes).unwrap()).collect()
    }
}

/// Both sides; frames between them wait in `up` (to the payee) and `down`.
pub(super) struct Pair {
    pub(super) now: u64,
    pub(super) wallet: Wallet,
    pub(super) till: Till,
    pub(super) wallet_disk: Disk,
    pub(super) till_disk: Disk,
    pub(super) up: VecDeque<Frame>,
    pub(super) down: VecDeque<Frame>,
    pub(super) account: PayerAccount,
    pub(super) claims: BTreeMap<u32, Claim>,
    /// The last draw that was ever revealed of each session.
    pub(super) revealed: BTreeMap<u32, u16>,
    /// Sessions that were ever sent, with their anchors.
    pub(super) signed: BTreeMap<u32, BTreeSet<[u8; 32]>>,
    redeemed: BTreeSet<u32>,
    starts: u8,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(wallet_limits(), till_limits())
    }

    pub(super) fn with(wallet_limits: WalletLimits, till_limits: TillLimits) -> Self {
        let mut wallet = Wallet::new(DOMAIN, PAYER, signer(), [1; 32], wallet_limits);
        wallet.on_account(NOW, Some(pot()));
        Self {
            now: NOW,
            wallet,
            till: Till::new(DOMAIN, PAYEE, [2; 32], [3; 32], till_limits),
            wallet_disk: Disk::default(),
            till_disk: Disk::default(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            account: account(),
            claims: BTreeMap::new(),
            revealed: BTreeMap::new(),
            signed: BTreeMap::new(),
            redeemed: BTreeSet::new(),
            starts: 3,
        }
    }

    pub(super) fn pay(&mut self, target: u128) {
        self.wallet.pay(self.now, PAYEE, Wei(target));
        self.drain();
    }

    /// Takes what both sides have to send and to write.
    pub(super) fn drain(&mut self) {
        while let Some((to, frame)) = self.wallet.poll_frame() {
            assert_eq!(to, PAYEE);
            match frame {
                Frame::Draw { nonce, index, .. } => {
                    let last = self.revealed.entry(nonce).or_default();
                    *last = index.max(*last);
                }
                Frame::Session { nonce, anchor, .. } => {
                    // pay.disk.2: nothing is sent that is not on disk.
                    let row = self.wallet_disk.read();
                    let Some(Record::Payee(row)) = row.first() else { panic!("not on disk") };
                    assert!(row.next_nonce > nonce);
                    self.signed.entry(nonce).or_default().insert(anchor.0);
                }
                _ => (),
            }
            self.up.push_back(frame);
        }
        while let Some((to, frame)) = self.till.poll_frame() {
            assert_eq!(to, PAYER);
            if let Frame::Rotate { nonce, reason: crate::frame::Reason::Won, .. } = frame {
                // pay.disk.3: no win is shown that is not on disk.
                assert!(self.has_win(nonce));
            }
            self.down.push_back(frame);
        }
        while let Some(change) = self.wallet.poll_record() {
            self.wallet_disk.writing.push_back(change);
        }
        while let Some(change) = self.till.poll_record() {
            self.till_disk.writing.push_back(change);
        }
        while let Some(claim) = self.till.poll_claim() {
            let nonce = claim.session.nonce;
            assert!(self.has_win(nonce));
            let known = *self.claims.entry(nonce).or_insert(claim);
            assert_eq!(known, claim, "two claims of one session");
            assert_eq!(claim.signer(&DOMAIN), Some(signer().address()));
            assert!(claim.draw <= self.revealed[&nonce], "claimed more than revealed");
        }
    }

    /// Whether a win is on disk, or was and is redeemed.
    fn has_win(&self, nonce: u32) -> bool {
        self.till_disk.rows.contains_key(&Key::Win(PAYER, nonce)) || self.redeemed.contains(&nonce)
    }

    pub(super) fn write(&mut self, wallet: usize, till: usize) {
        if let Some(id) = self.wallet_disk.write(wallet) {
            self.wallet.persisted(self.now, id);
        }
        if let Some(id) = self.till_disk.write(till) {
            self.till.persisted(id);
        }
        self.drain();
    }

    pub(super) fn till_gets(&mut self, frame: &Frame) -> Result<Wei, TillError> {
        let before = self.till.credited(PAYER);
        let credited = self.till.handle(self.now, PAYER, frame, Some(&self.account));
        assert_eq!(self.till.credited(PAYER), before.saturating_add(credited.unwrap_or_default()));
        self.drain();
        credited
    }

    pub(super) fn wallet_gets(&mut self, frame: &Frame) -> Result<(), WalletError> {
        let result = self.wallet.handle(self.now, PAYEE, frame);
        self.drain();
        result
    }

    pub(super) fn tick(&mut self, seconds: u64) {
        self.now += seconds;
        self.wallet.handle_timeout(self.now);
        self.till.handle_timeout(self.now);
        self.drain();
    }

    /// Delivers and writes everything until nothing more comes.
    pub(super) fn settle(&mut self) {
        self.drain();
        loop {
            self.write(usize::MAX, usize::MAX);
            if let Some(frame) = self.up.pop_front() {
                self.till_gets(&frame).unwrap();
            } else if let Some(frame) = self.down.pop_front() {
                self.wallet_gets(&frame).unwrap();
            } else if self.wallet_disk.writing.is_empty() && self.till_disk.writing.is_empty() {
                return;
            }
        }
    }

    /// Settles for so many seconds.
    pub(super) fn settle_for(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.settle();
            self.tick(1);
        }
        self.settle();
    }

    /// Redeems so many claims, and tells both sides of all that are redeemed, as a chain's events do.
    pub(super) fn redeem(&mut self, count: usize) {
        let more: Vec<_> =
            self.claims.keys().filter(|nonce| !self.redeemed.contains(nonce)).take(count).copied().collect();
        self.redeemed.extend(more);
        for nonce in &self.redeemed {
            self.wallet.redeemed(self.now, PAYEE, *nonce).unwrap();
            self.till.redeemed(PAYER, *nonce, true);
        }
        self.drain();
    }

    pub(super) fn crash_wallet(&mut self, limits: WalletLimits) {
        self.wallet_disk.writing.clear();
        self.wallet = Wallet::new(DOMAIN, PAYER, signer(), [1; 32], limits);
        self.wallet.restore(self.wallet_disk.read());
        self.wallet.on_account(self.now, Some(pot()));
        self.redeem(0);
    }

    pub(super) fn crash_till(&mut self, limits: TillLimits) {
        self.starts = self.starts.wrapping_add(1);
        self.till_disk.writing.clear();
        self.till = Till::new(DOMAIN, PAYEE, [2; 32], [self.starts; 32], limits);
        self.till.restore(self.till_disk.read());
        self.redeem(0);
    }
}

#[test]
fn what_is_paid_is_credited() {
    let mut pair = Pair::new();
    for target in [0u128, 1, 999, 1000, 5001, 64_000, 64_001, 1_000_000] {
        pair.pay(target);
        pair.settle_for(3);
        let paid = pair.wallet.paid(PAYEE);
        assert_eq!(paid, pair.till.credited(PAYER));
        assert_eq!(paid.0, target.div_ceil(1000) * 1000, "{target}");
    }
    let (payer, payee) = (pair.wallet.snapshot()[0], pair.till.snapshot()[0]);
    assert_eq!((payer.paid, payer.draws), (payee.credited, payee.draws));
    assert_eq!((payer.wins, payer.won), (payee.wins, payee.won));
    assert_eq!(payee.wins, u64::try_from(pair.claims.len()).unwrap());
    assert!(payee.wins > 5, "{payee:?}");
    assert_eq!(payer.owed, payee.unredeemed);
    pair.redeem(usize::MAX);
    assert_eq!((pair.wallet.snapshot()[0].owed, pair.till.snapshot()[0].unredeemed), (Wei(0), Wei(0)));
}

#[test]
fn idle_sessions_cost_nothing_and_end() {
    let mut pair = Pair::new();
    pair.pay(10_000);
    pair.settle_for(10);
    let mut sent = 0;
    for _ in 0..200 {
        pair.tick(240);
        sent += pair.up.len() + pair.down.len();
        pair.settle();
    }
    assert!(sent <= 4, "{sent} frames of an idle pair");
    assert_eq!((pair.wallet.snapshot()[0].sessions, pair.till.snapshot()[0].sessions), (0, 0));
    assert_eq!(pair.wallet.paid(PAYEE), pair.till.credited(PAYER));
    // It goes on when there is something to pay.
    pair.pay(20_000);
    pair.settle_for(2);
    assert_eq!(pair.till.credited(PAYER), Wei(20_000));
}

#[test]
fn the_next_offer_comes_with_the_end_of_a_session() {
    let mut pair = Pair::with(
        WalletLimits { max_open: 1, ..wallet_limits() },
        TillLimits { face: Face::Draws(10_000), ..till_limits() },
    );
    pair.pay(0);
    pair.settle();
    pair.pay(64_000 + 1);
    let mut wants = 0;
    while !(pair.up.is_empty() && pair.down.is_empty()) {
        wants += pair.up.iter().filter(|frame| matches!(frame, Frame::Want { .. })).count();
        pair.settle();
    }
    // All in the same second, without a WANT.
    assert_eq!((pair.till.credited(PAYER), wants), (Wei(65_000), 0));
}
