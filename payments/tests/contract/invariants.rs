//! The 13 invariants of docs/contract.md, while people who trust nobody do anything in any order.
//!
//! Invariants 12 and 13 are in `agree.rs`; here every step is checked for the others, and for what it should have done.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_sol_types::{SolCall, SolEvent as _, SolValue as _};
use payments::abi::OnionPay::{
    self, AccountChanged, Code, KeysChanged, Redeemed, RelayChanged, addReserveCall, cancelUnlockCall,
    depositCall, moveToReserveCall, redeemCall, redeemManyCall, registerCall, setOnlyPayeeCall,
    setSignerCall, startUnlockCall, withdrawCall, withdrawReserveCall,
};
use payments::abi::uint96;
use payments::amount::Wei;
use payments::claim::Claim;
use payments::evm::Outcome;
use payments::session::Signature;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use crate::world::{Actor, DAY, ETHER, MIN_BOND, Terms, World, actor, slot};

const PEOPLE: u8 = 6;
/// Together 100,000 and more; each run is a test of its own, so that they run beside each other.
const STEPS: u32 = 25_500;
/// Where ether goes that is taken out.
const AWAY: Address = Address::repeat_byte(0xee);

/// Where the contract keeps `burned`.
const BURNED: U256 = U256::from_limbs([6, 0, 0, 0]);

/// A pot, read from the contract's storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pot {
    balance: u128,
    reserve: u128,
    unlock_at: u64,
    defaults: u16,
    bound: bool,
    signer: Address,
    last_unlock: u64,
    registered: bool,
    only_payee: Address,
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

fn pot(world: &World, owner: Address) -> Pot {
    let word = |n: u64| {
        world.evm.storage(world.contract, slot(owner).wrapping_add(U256::from(n))).to_be_bytes::<32>()
    };
    let (money, keys, only) = (word(0), word(1), word(2));
    Pot {
        bound: money[0] != 0,
        defaults: number(&money[1..3]) as u16,
        unlock_at: number(&money[3..8]) as u64,
        reserve: number(&money[8..20]),
        balance: number(&money[20..]),
        registered: keys[6] != 0,
        last_unlock: number(&keys[7..12]) as u64,
        signer: Address::from_slice(&keys[12..]),
        only_payee: Address::from_slice(&only[12..]),
    }
}

type Pots = BTreeMap<Address, Pot>;

struct Run {
    world: World,
    rng: ChaCha12Rng,
    people: Vec<Actor>,
    pots: Pots,
    forced: u128,
    burned: u128,
    /// What was paid, by payer, payee and nonce.
    paid: BTreeSet<(Address, Address, u32)>,
    /// Tickets of the past, for who tries them again.
    old: Vec<OnionPay::Claim>,
    /// Tickets that their payees could have redeemed for something, the last few.
    good: Vec<OnionPay::Claim>,
    root: B256,
    seq: u64,
    relays: BTreeSet<Address>,
    /// How often each kind of step did something.
    done: BTreeMap<&'static str, u32>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let people: Vec<_> = (0..PEOPLE).map(actor).collect();
        let pots = people.iter().map(|who| (who.address, Pot::default())).collect();
        Self {
            world: World::new(),
            rng: ChaCha12Rng::seed_from_u64(seed),
            people,
            pots,
            forced: 0,
            burned: 0,
            paid: BTreeSet::new(),
            old: Vec::new(),
            good: Vec::new(),
            root: B256::ZERO,
            seq: 0,
            relays: BTreeSet::new(),
            done: BTreeMap::new(),
        }
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn anyone(&mut self) -> Actor {
        let n = self.below(PEOPLE.into());
        self.people[n as usize].clone()
    }

    /// An amount around what pots hold, with a liking for the edges.
    fn amount(&mut self, around: u128) -> u128 {
        match self.below(6) {
            0 => 0,
            1 => 1,
            2 => around,
            3 => around + 1,
            _ => u128::from(self.below(2_000)) * MIN_BOND / 500,
        }
    }

    fn wei(amount: u128) -> alloy_primitives::aliases::U96 {
        uint96(Wei(amount)).unwrap()
    }

    fn step(&mut self) {
        let who = self.anyone();
        let (me, pot) = (who.address, self.pots[&who.address]);
        match self.below(24) {
            0 => {
                let signer = match self.below(20) {
                    0 => Address::ZERO,
                    1 => self.anyone().signer.address(),
                    _ => who.signer.address(),
                };
                self.plain("setSigner", me, 0, &setSignerCall { signer }, pot.reserve == 0);
            }
            1 => {
                let payee = if self.one_in(3) { self.anyone().address } else { Address::ZERO };
                self.plain("setOnlyPayee", me, 0, &setOnlyPayeeCall { payee }, pot.reserve == 0);
            }
            2 | 3 => {
                let (owner, value) = (self.anyone().address, self.amount(ETHER));
                self.plain("deposit", me, value, &depositCall { owner }, true);
            }
            4 => {
                let value = self.amount(MIN_BOND);
                self.plain("addReserve", me, value, &addReserveCall {}, pot.unlock_at == 0);
            }
            5 => {
                let amount = self.amount(pot.balance);
                let allowed = pot.unlock_at == 0 && amount <= pot.balance;
                self.plain("moveToReserve", me, 0, &moveToReserveCall { amount: Self::wei(amount) }, allowed);
            }
            6 => {
                let amount = self.amount(pot.balance);
                let call = withdrawCall { to: AWAY, amount: Self::wei(amount) };
                self.plain("withdraw", me, 0, &call, amount <= pot.balance);
            }
            7 => {
                let allowed = pot.unlock_at == 0 && pot.reserve != 0;
                self.plain("startUnlock", me, 0, &startUnlockCall {}, allowed);
            }
            8 => self.plain("cancelUnlock", me, 0, &cancelUnlockCall {}, pot.unlock_at != 0),
            9 => {
                let allowed = pot.unlock_at != 0 && self.world.evm.time() >= pot.unlock_at;
                self.plain("withdrawReserve", me, 0, &withdrawReserveCall { to: AWAY }, allowed);
            }
            10 => {
                let rested = pot.last_unlock == 0 || self.world.evm.time() >= pot.last_unlock + 7 * DAY;
                let allowed = !pot.registered && pot.unlock_at == 0 && pot.reserve >= MIN_BOND && rested;
                self.plain("register", me, 0, &registerCall { idKey: B256::repeat_byte(me[0]) }, allowed);
            }
            11 => {
                let seconds = if self.one_in(2) { self.below(3_600) } else { self.below(8 * DAY) };
                self.world.warp(seconds);
            }
            12 if self.one_in(10) => {
                let held = self.world.evm.balance(self.world.contract);
                let more = self.amount(ETHER);
                self.world.evm.set_balance(self.world.contract, held + U256::from(more));
                self.forced += more;
            }
            13..=15 => self.batch(),
            _ => self.single(),
        }
    }

    /// A call that is no ticket: whether it succeeds is known beforehand.
    fn plain<C: SolCall>(&mut self, name: &'static str, from: Address, value: u128, call: &C, allowed: bool) {
        let outcome = self.world.send(from, value, call);
        assert_eq!(outcome.success, allowed, "{} from {from}: {:?}", C::SIGNATURE, self.pots[&from]);
        self.settle(from, &outcome, &[]);
        *self.done.entry(name).or_default() += u32::from(allowed);
    }

    /// A ticket, mostly good, and what its sender says of it.
    fn claim(&mut self) -> OnionPay::Claim {
        if !self.old.is_empty() && self.one_in(6) {
            let n = self.below(self.old.len() as u64);
            return self.old[n as usize].clone();
        }
        let (mut payer, mut payee, mut nonce) = (self.anyone(), self.anyone(), self.below(2_000) as u32);
        if !self.good.is_empty() && self.one_in(5) {
            // A rival: another ticket of the nonce of a good one.
            let n = self.below(self.good.len() as u64) as usize;
            let one = |address| self.people.iter().find(|who| who.address == address).unwrap().clone();
            let good = &self.good[n];
            (payer, payee, nonce) = (one(good.payer), one(good.payee), good.nonce);
        }
        let pot = self.pots[&payer.address];
        let face = match self.below(5) {
            0..=2 => self.amount(pot.balance),
            3 => self.amount(pot.reserve / 2),
            _ => self.amount(pot.balance + pot.reserve),
        };
        let terms = Terms {
            nonce,
            face,
            win_prob: if self.one_in(8) { u64::MAX / 4 } else { u64::MAX },
            expiry: self.world.evm.time() - u64::from(self.one_in(20)) * DAY + self.below(2 * DAY),
            draws: 8,
            draw: 1 + self.below(8) as u16,
            secret: B256::from(U256::from(self.rng.next_u64())),
            rand: B256::from(U256::from(self.rng.next_u64())),
        };
        let claim = terms.sign(&self.world.domain(), &payer, payee.address);
        let min = if self.one_in(2) { 0 } else { face };
        let mut claim = OnionPay::Claim::new(&claim, Wei(min), !self.one_in(3)).unwrap();
        match self.below(40) {
            0 => claim.vs ^= B256::from(U256::from(1) << 255),
            1 => claim.vs = B256::from(U256::MAX - U256::from_be_bytes(claim.vs.0)),
            2 => claim.nonce += 1,
            3 => claim.draw += 1,
            4 => claim.payee = self.anyone().address,
            5 => claim.expiry += alloy_primitives::aliases::U40::from(4 * DAY),
            6 => claim.draw = 0,
            7 => claim.minPayout += Self::wei(1),
            _ => {}
        }
        self.old.push(claim.clone());
        if self.old.len() > 200 {
            self.old.remove(0);
        }
        claim
    }

    /// Who shows a ticket: often its payee.
    fn caller(&mut self, claim: &OnionPay::Claim) -> Address {
        match self.below(8) {
            0 => self.anyone().address,
            1 => self.anyone().signer.address(),
            2 => claim.payer,
            3 => self.pots[&claim.payer].signer,
            _ => claim.payee,
        }
    }

    fn single(&mut self) {
        let claim = self.claim();
        let from = self.caller(&claim);
        let expected = self.expect(from, &claim);
        let outcome = self.world.send(from, 0, &redeemCall { claim: claim.clone() });
        match expected {
            Ok(payout) => {
                assert!(outcome.success, "{claim:?}");
                assert_eq!(redeemCall::abi_decode_returns(&outcome.output).unwrap(), Self::wei(payout));
                *self.done.entry("redeem").or_default() += 1;
                if self.pots[&claim.payer].balance < Wei::from(claim.face).0 {
                    *self.done.entry("default").or_default() += 1;
                }
            }
            Err(code) => {
                let error = OnionPay::Refused { code };
                assert_eq!(outcome.output, alloy_sol_types::SolError::abi_encode(&error), "{claim:?}");
                let same = |good: &OnionPay::Claim| key(good) == key(&claim) && good.link != claim.link;
                let rival = code == Code::WrongCaller && self.good.iter().any(same);
                *self.done.entry("rival refused").or_default() += u32::from(rival);
            }
        }
        let own = OnionPay::Claim { minPayout: Self::wei(0), mayDefault: true, ..claim.clone() };
        if self.expect(own.payee, &own).is_ok() {
            self.good.push(own);
            if self.good.len() > 12 {
                self.good.remove(0);
            }
        }
        self.settle(from, &outcome, if outcome.success { std::slice::from_ref(&claim) } else { &[] });
    }

    // Invariant 10: a batch is what its items are, one after the other.
    fn batch(&mut self) {
        let mut claims: Vec<_> = (0..=self.below(4)).map(|_| self.claim()).collect();
        if self.one_in(4) {
            claims.push(claims[0].clone());
        }
        let from = self.caller(&claims[0]);
        let mut alone = self.world.clone();
        let (mut total, mut codes) = (0, Vec::new());
        for claim in &claims {
            let result = alone.try_redeem(from, claim);
            total += result.unwrap_or(0);
            codes.push(result.map_or_else(|code| code as u8, |_| Code::Paid as u8));
        }
        let outcome = self.world.send(from, 0, &redeemManyCall { claims: claims.clone() });
        assert!(outcome.success);
        let result = redeemManyCall::abi_decode_returns(&outcome.output).unwrap();
        assert_eq!((result.total, &result.codes), (U256::from(total), &codes));
        for who in &self.people {
            assert_eq!(pot(&self.world, who.address), pot(&alone, who.address));
        }
        let mut paid = codes.iter().map(|code| *code == Code::Paid as u8);
        claims.retain(|_| paid.next().unwrap());
        self.settle(from, &outcome, &claims);
        *self.done.entry("batch").or_default() += u32::from(total > 0);
    }

    /// What a ticket should do, by the rules, with Rust's own view of signatures, chains and draws.
    fn expect(&self, from: Address, claim: &OnionPay::Claim) -> Result<u128, Code> {
        let now = self.world.evm.time();
        let (face, expiry) = (Wei::from(claim.face).0, claim.expiry.to::<u64>());
        let (payer, payee) = (self.pots[&claim.payer], self.pots[&claim.payee]);
        if claim.payer == claim.payee || face == 0 || !(1..=64).contains(&claim.draw) {
            return Err(Code::BadTerms);
        }
        if from != claim.payee && from != payee.signer {
            return Err(Code::WrongCaller);
        }
        if expiry < now {
            return Err(Code::Expired);
        }
        if expiry > now + 3 * DAY {
            return Err(Code::TooFar);
        }
        if self.paid.contains(&key(claim)) {
            return Err(Code::Used);
        }
        if payments::draw::walk(&claim.link, claim.draw) != claim.anchor {
            return Err(Code::BadChain);
        }
        if !payments::draw::wins(&claim.link, &claim.rand, claim.winProb) {
            return Err(Code::NoWin);
        }
        let signer = in_rust(claim).signer(&self.world.domain());
        if signer != Some(payer.signer) {
            return Err(Code::BadSignature);
        }
        if payer.bound && payer.only_payee != claim.payee {
            return Err(Code::WrongPayee);
        }
        if payer.balance < face && !claim.mayDefault {
            return Err(Code::Short);
        }
        let payout = face.min(payer.balance + payer.reserve / 2);
        if payout == 0 || payout < Wei::from(claim.minPayout).0 {
            return Err(Code::BelowMinimum);
        }
        Ok(payout)
    }

    /// Checks what a call did, and paid of tickets, against the invariants, and takes it over.
    fn settle(&mut self, from: Address, outcome: &Outcome, claims: &[OnionPay::Claim]) {
        let burned = self.world.evm.storage(self.world.contract, BURNED).to::<u128>();
        let now: Pots = self.people.iter().map(|who| (who.address, pot(&self.world, who.address))).collect();
        // 1: every wei has an owner, is burnt, or was forced in.
        let owned: u128 = now.values().map(|pot| pot.balance + pot.reserve).sum();
        let held = self.world.evm.balance(self.world.contract).to::<u128>();
        assert_eq!(held, owned + burned + self.forced);
        self.replay(from, outcome, claims, &now);
        for (owner, (old, new)) in self.pots.iter().map(|(owner, old)| (*owner, (old, &now[owner]))) {
            if outcome.logs.is_empty() {
                assert_eq!(old, new, "a change without an event");
            }
            // 5: none but its owner changes a pot's keys and dates.
            if from != owner {
                let fixed =
                    |pot: &Pot| (pot.unlock_at, pot.last_unlock, pot.signer, pot.bound, pot.only_payee);
                assert_eq!(fixed(old), fixed(new));
            }
            // 8: a registered relay has its bond, locked.
            assert!(!new.registered || new.reserve >= MIN_BOND && new.unlock_at == 0);
            assert_eq!(new.registered, self.relays.contains(&owner));
            assert_eq!(new.bound, new.only_payee != Address::ZERO);
        }
        self.pots = now;
        self.check_good();
    }

    /// 2: what a payee could have redeemed it still can, unless it did, it is too late, or the pot does not give it: that is empty, or
    /// its owner has changed its keys, which it only may without a reserve.
    fn check_good(&mut self) {
        if self.good.is_empty() {
            return;
        }
        let n = self.below(self.good.len() as u64) as usize;
        let (claim, time) = (self.good[n].clone(), self.world.evm.time());
        let payer = self.pots[&claim.payer];
        let tx = self.world.transaction(claim.payee, 0, &redeemCall { claim: claim.clone() });
        let outcome = self.world.evm.view(&tx).unwrap();
        let lost = if outcome.success {
            None
        } else {
            let error = <OnionPay::Refused as alloy_sol_types::SolError>::abi_decode(&outcome.output);
            Some(error.unwrap().code)
        };
        let right = match lost {
            None => true,
            Some(Code::Used) => self.paid.contains(&key(&claim)),
            Some(Code::Expired) => claim.expiry.to::<u64>() < time,
            Some(Code::BelowMinimum) => payer.balance + payer.reserve / 2 == 0,
            Some(Code::BadSignature) => in_rust(&claim).signer(&self.world.domain()) != Some(payer.signer),
            Some(Code::WrongPayee) => payer.bound && payer.only_payee != claim.payee,
            Some(_) => false,
        };
        assert!(right, "{lost:?}: {claim:?}");
        match lost {
            None => *self.done.entry("still good").or_default() += 1,
            Some(Code::Used | Code::Expired) => drop(self.good.swap_remove(n)),
            Some(_) => {}
        }
    }

    /// Goes through the events: each must be allowed, and all of them together must explain the new state.
    fn replay(&mut self, from: Address, outcome: &Outcome, claims: &[OnionPay::Claim], now: &Pots) {
        let mut told = self.pots.clone();
        let mut defaulted = BTreeMap::new();
        for log in &outcome.logs {
            if let Ok(event) = Redeemed::decode_log(log) {
                let key = (event.payer, event.payee, event.nonce);
                // 2: once, and by nobody but the payee and its signer.
                assert!(self.paid.insert(key), "paid twice: {key:?}");
                assert!(from == event.payee || from == self.pots[&event.payee].signer, "{key:?} by {from}");
                let payout = Wei::from(event.payout).0;
                // 3 and 11: signed by the payer's signer, in the one form.
                let signer = self.pots[&event.payer].signer;
                let signed = |claim: &&OnionPay::Claim| {
                    self::key(claim) == key && in_rust(claim).signer(&self.world.domain()) == Some(signer)
                };
                let claim = claims.iter().find(signed).unwrap();
                // 5, 6, 7: never below the minimum; the face, but for a payee who asked for less.
                let (old, face) = (told[&event.payer], Wei::from(claim.face).0);
                assert!(payout >= Wei::from(claim.minPayout).0 && payout <= face && payout > 0);
                assert!(payout == face || claim.mayDefault);
                assert!(payout == face || face > old.reserve / 2);
                assert_eq!(event.defaulted, face > old.balance);
                let payer = told.get_mut(&event.payer).unwrap();
                if event.defaulted {
                    assert!(claim.mayDefault);
                    // 4: what leaves the reserve by a default burns by half.
                    *defaulted.entry(event.payer).or_insert(0) += payout - old.balance;
                    payer.reserve = old.reserve - 2 * (payout - old.balance);
                    payer.balance = 0;
                } else {
                    payer.balance -= payout;
                }
                told.get_mut(&event.payee).unwrap().balance += payout;
            } else if let Ok(event) = AccountChanged::decode_log(log) {
                let pot = told.get_mut(&event.owner).unwrap();
                if claims.is_empty() {
                    // A balance that anyone may add to, and nothing else of a stranger's.
                    let balance = Wei::from(event.balance).0;
                    assert!(event.owner == from || balance >= pot.balance);
                    pot.balance = balance;
                    pot.reserve = Wei::from(event.reserve).0;
                    pot.unlock_at = event.unlockAt.to();
                }
            } else if let Ok(event) = KeysChanged::decode_log(log) {
                assert_eq!(event.owner, from);
                let pot = told.get_mut(&from).unwrap();
                (pot.signer, pot.only_payee) = (event.signer, event.onlyPayee);
            } else if let Ok(event) = RelayChanged::decode_log(log) {
                // 9: the events make the root.
                self.seq += 1;
                assert_eq!(event.seq, self.seq);
                let change = (self.root, U256::from(self.seq), event.owner, event.idKey, event.registered);
                self.root = keccak256(change.abi_encode());
                let changed = if event.registered {
                    self.relays.insert(event.owner)
                } else {
                    self.relays.remove(&event.owner)
                };
                assert!(changed);
            }
        }
        let burned = self.world.evm.storage(self.world.contract, BURNED).to::<u128>();
        assert_eq!(burned - self.burned, defaulted.values().sum::<u128>());
        self.burned = burned;
        for (owner, pot) in now {
            let all = |pot: &Pot| (pot.balance, pot.reserve, pot.unlock_at, pot.signer, pot.only_payee);
            assert_eq!(all(pot), all(&told[owner]), "events do not tell what happened to {owner}");
            // 4: the reserve falls by a default, or after the wait.
            let old = self.pots[owner];
            let lost = old.reserve.saturating_sub(pot.reserve);
            let out = *owner == from && old.unlock_at != 0 && self.world.evm.time() >= old.unlock_at;
            assert!(lost == 2 * defaulted.get(owner).copied().unwrap_or(0) || out && pot.reserve == 0);
            let spared = pot.balance >= old.balance || *owner == from || !claims.is_empty();
            assert!(spared, "a balance fell by a stranger's call");
        }
    }

    /// 8, 9: the list, read in pages, holds each relay once, and the root is that of the events.
    fn check_registry(&self) {
        let count = self.world.read(&OnionPay::relayCountCall {}).to::<u64>();
        let mut listed = BTreeSet::new();
        for from in (0..=count + 2).step_by(2) {
            let page = self.world.read(&OnionPay::relaysAtCall { from: U256::from(from), n: U256::from(2) });
            for (relay, reserve) in page.page.iter().zip(&page.reserves) {
                assert!(listed.insert(relay.owner));
                assert_eq!(Wei::from(*reserve).0, self.pots[&relay.owner].reserve);
                assert_eq!(relay.idKey, B256::repeat_byte(relay.owner[0]));
            }
        }
        assert_eq!((listed.len() as u64, &listed), (count, &self.relays));
        assert_eq!(self.world.read(&OnionPay::registryRootCall {}), self.root);
        assert_eq!(self.world.read(&OnionPay::registrySeqCall {}), self.seq);
        // The storage that this test reads is what the contract shows.
        for who in &self.people {
            let (shown, read) = (self.world.pot(who.address), self.pots[&who.address]);
            assert_eq!(
                (Wei::from(shown.balance).0, Wei::from(shown.reserve).0),
                (read.balance, read.reserve)
            );
            assert_eq!((shown.unlockAt.to(), shown.lastUnlock.to()), (read.unlock_at, read.last_unlock));
            assert_eq!(
                (shown.defaults, shown.bound, shown.registered),
                (read.defaults, read.bound, read.registered)
            );
            assert_eq!((shown.signer, shown.onlyPayee), (read.signer, read.only_payee));
        }
    }
}

/// Which nonce of which pair a ticket uses up.
const fn key(claim: &OnionPay::Claim) -> (Address, Address, u32) {
    (claim.payer, claim.payee, claim.nonce)
}

/// The ticket as Rust knows it.
fn in_rust(claim: &OnionPay::Claim) -> Claim {
    let session = payments::session::Session {
        payer: claim.payer,
        payee: claim.payee,
        nonce: claim.nonce,
        anchor: claim.anchor,
        rand_hash: keccak256(claim.rand),
        face: claim.face.into(),
        win_prob: claim.winProb,
        expiry: claim.expiry.to(),
    };
    let signature = Signature([claim.r.0, claim.vs.0].concat().try_into().unwrap());
    Claim { session, draw: claim.draw, link: claim.link, rand: claim.rand, signature }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut run = Run::new(seed);
    for who in run.people.clone() {
        let signer = who.signer.address();
        run.plain("setSigner", who.address, 0, &setSignerCall { signer }, true);
    }
    for step in 0..STEPS {
        run.step();
        if step % 500 == 0 {
            run.check_registry();
        }
    }
    run.check_registry();
    println!("seed {seed}: {:?}", run.done);
    // Nothing here is a test of calls that never succeed.
    let names = [
        "setSigner",
        "setOnlyPayee",
        "deposit",
        "addReserve",
        "moveToReserve",
        "withdraw",
        "startUnlock",
        "cancelUnlock",
        "withdrawReserve",
        "register",
        "redeem",
        "default",
        "batch",
        "rival refused",
        "still good",
    ];
    for name in names {
        assert!(run.done.get(name).is_some_and(|times| *times >= 20), "{name}: {:?}", run.done);
    }
}

#[test]
fn all_invariants_hold_through_the_first_run() {
    run(1);
}

#[test]
fn all_invariants_hold_through_the_second_run() {
    run(2);
}

#[test]
fn all_invariants_hold_through_the_third_run() {
    run(3);
}

#[test]
fn all_invariants_hold_through_the_fourth_run() {
    run(4);
}
