//! Frames of payments, and a payer and a payee between whom anything is said.

use std::collections::{BTreeMap, VecDeque};

use circuit::packet::CELL;
use payments::amount::Wei;
use payments::frame::{Frame, Frames};
use payments::offer::Face;
use payments::session::{Domain, Signer};
use payments::till::{PayerAccount, Till, TillLimits};
use payments::wallet::{Pot, Wallet, WalletLimits};
use payments::{Address, claim::Claim};
use wire::Writer;

use crate::edits::edit;
use crate::fixture::UNIX;
use crate::input::Input;

pub(crate) const DOMAIN: Domain = Domain { chain_id: 1, contract: Address::repeat_byte(0xcc) };
const PAYER: Address = Address::repeat_byte(0x11);
const PAYEE: Address = Address::repeat_byte(0x22);
const VALUE: u128 = 1_000;
/// Much, but so that sums of some of it have room.
pub(crate) const RICH: Wei = Wei(1 << 90);

pub(crate) fn signer(n: u8) -> Signer {
    Signer::from_bytes([n; 32]).unwrap()
}

/// A wallet of `payer` that signs with key `n`, and believes in a full pot.
pub(crate) fn wallet(payer: Address, n: u8, value: u128) -> Wallet {
    let limits = WalletLimits {
        redemption_cost: Wei(1 << 60),
        max_open: 2,
        value: Wei(value),
        max_value: Wei(1 << 60),
    };
    let mut wallet = Wallet::new(DOMAIN, payer, signer(n), [n; 32], limits);
    wallet.on_account(UNIX, Some(Pot { balance: RICH, reserve: RICH, unlocking: false, only_payee: None }));
    wallet
}

pub(crate) fn till(payee: Address) -> Till {
    let limits = TillLimits { face: Face::Draws(6), min_value: Wei(1), draws: 64, max_payers: 4 };
    Till::new(DOMAIN, payee, [2; 32], [3; 32], limits)
}

/// The pot of key `n`, full.
pub(crate) fn account(n: u8) -> PayerAccount {
    PayerAccount {
        balance: RICH,
        reserve: RICH,
        unlocking: false,
        signer: signer(n).address(),
        only_payee: None,
        head_stale: false,
        registered: false,
    }
}

/// What is read is read the same again when it is written, and nothing follows a malformed frame; whatever is said between a
/// payer and a payee, nothing is credited or claimed that the payer has not revealed.
pub fn payments(data: &[u8]) {
    let mut input = Input::new(data);
    if input.u8() & 1 == 0 {
        return parse(&input.array());
    }
    let mut world = World::new();
    while !input.is_empty() {
        world.step(&mut input);
    }
}

fn parse(cell: &[u8; CELL]) {
    let mut frames = Frames::new(cell);
    let good: Vec<_> = frames.by_ref().map_while(Result::ok).collect();
    assert!(frames.next().is_none(), "a frame after a malformed one");
    let mut again = [0; CELL];
    let mut w = Writer::new(&mut again);
    for frame in &good {
        let before = w.written();
        frame.write(&mut w).unwrap();
        frame.write(&mut Writer::new(&mut vec![0; w.written() - before - 1])).unwrap_err();
    }
    let read: Vec<_> = Frames::new(&again).map(Result::unwrap).collect();
    assert_eq!(read, good);
}

/// A frame, with bytes of it changed.
pub(crate) fn forge(input: &mut Input<'_>, frame: Frame) -> Option<Frame> {
    let mut bytes = [0; Frame::MAX];
    let mut w = Writer::new(&mut bytes);
    frame.write(&mut w).ok()?;
    let length = w.written();
    edit(input, &mut bytes[..length]);
    Frames::new(&bytes[..length]).next()?.ok()
}

struct World {
    unix: u64,
    wallet: Wallet,
    till: Till,
    account: PayerAccount,
    target: u128,
    up: VecDeque<Frame>,
    down: VecDeque<Frame>,
    /// What was said at any time, to be said again.
    heard: Vec<Frame>,
    /// The last draw that was revealed of each session, and what each is worth.
    revealed: BTreeMap<u32, (u16, u128)>,
    claims: Vec<Claim>,
}

impl World {
    fn new() -> Self {
        Self {
            unix: UNIX,
            wallet: wallet(PAYER, 7, VALUE),
            till: till(PAYEE),
            account: account(7),
            target: 0,
            up: VecDeque::new(),
            down: VecDeque::new(),
            heard: vec![],
            revealed: BTreeMap::new(),
            claims: vec![],
        }
    }

    fn drain(&mut self) {
        while let Some((id, _)) = self.wallet.poll_record() {
            self.wallet.persisted(self.unix, id);
        }
        while let Some((id, _)) = self.till.poll_record() {
            self.till.persisted(id);
        }
        while let Some((to, frame)) = self.wallet.poll_frame() {
            assert_eq!(to, PAYEE);
            if let Frame::Draw { nonce, index, .. } = frame {
                let (last, _) = self.revealed.entry(nonce).or_default();
                *last = index.max(*last);
            }
            self.up.push_back(frame);
        }
        while let Some((to, frame)) = self.till.poll_frame() {
            assert_eq!(to, PAYER);
            if let Frame::Offer { offer, .. } = frame {
                let (_, value) = self.revealed.entry(offer.nonce).or_default();
                *value = offer.value.0.max(*value);
            }
            self.down.push_back(frame);
        }
        while let Some(claim) = self.till.poll_claim() {
            let last = self.revealed.get(&claim.session.nonce).map_or(0, |(last, _)| *last);
            assert!(claim.draw <= last, "a win that was never revealed");
            assert_eq!(claim.signer(&DOMAIN), Some(signer(7).address()));
            self.claims.push(claim);
        }
        let most: u128 = self.revealed.values().map(|(last, value)| u128::from(*last) * value).sum();
        assert!(self.till.credited(PAYER).0 <= most, "credit that nobody has paid");
        assert!(self.till.unredeemed(PAYER) < RICH);
    }

    fn tell_till(&mut self, frame: &Frame) {
        self.heard.push(*frame);
        let _ = self.till.handle(self.unix, PAYER, frame, Some(&self.account));
    }

    fn tell_wallet(&mut self, frame: &Frame) {
        self.heard.push(*frame);
        let _ = self.wallet.handle(self.unix, PAYEE, frame);
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.u8() % 12 {
            0 | 1 => {
                self.target += u128::from(input.u8()) * VALUE;
                self.wallet.pay(self.unix, PAYEE, Wei(self.target));
            }
            2 | 3 => {
                for _ in 0..=input.u8() % 8 {
                    if let Some(frame) = self.up.pop_front() {
                        self.tell_till(&frame);
                    }
                    self.drain();
                    if let Some(frame) = self.down.pop_front() {
                        self.tell_wallet(&frame);
                    }
                    self.drain();
                }
            }
            4 => drop(self.up.pop_front()),
            5 => drop(self.down.pop_front()),
            6 | 7 => {
                let known = self.heard.get(input.below(self.heard.len())).copied();
                let payer = if input.u8() & 1 == 1 { PAYER } else { Address::repeat_byte(input.u8()) };
                let frame = known.unwrap_or(Frame::Want { payer, floor: 0, value: Wei(VALUE) });
                if let Some(frame) = forge(input, frame) {
                    if input.u8() & 1 == 1 { self.tell_till(&frame) } else { self.tell_wallet(&frame) }
                }
            }
            8 => {
                self.unix += u64::from(input.u16());
                self.wallet.handle_timeout(self.unix);
                self.till.handle_timeout(self.unix);
            }
            9 => {
                let faces = |input: &mut Input<'_>| Wei(u128::from(input.u8()) * 6 * VALUE);
                (self.account.balance, self.account.reserve) = (faces(input), faces(input));
                let flags = input.u8();
                (self.account.head_stale, self.account.unlocking) = (flags & 1 == 1, flags & 2 == 2);
                self.account.registered = flags & 4 == 4;
            }
            10 => self.account = account(7),
            _ => {
                for claim in core::mem::take(&mut self.claims) {
                    let _ = self.wallet.redeemed(self.unix, PAYEE, claim.session.nonce);
                    self.till.redeemed(PAYER, claim.session.nonce, true);
                }
            }
        }
        self.drain();
    }
}
