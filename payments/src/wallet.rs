//! The side that pays: signs sessions, reveals draws, and checks what payees say of them.
//!
//! One wallet serves all payees of a node. It has no clock, disk or network: frames and times go in, frames and records
//! come out. A session is sent only once its record is on disk.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256};

use crate::amount::Wei;
use crate::frame::{Answer, Frame, Reason};
use crate::offer::{BadOffer, COSTS, Offer};
use crate::outbox::{Outbox, Repeat};
use crate::record::{Change, Debt, Key, Opened, Record, RecordId};
use crate::seed::{Place, Seed};
use crate::session::{Domain, Signer};

mod payee;

use payee::{Open, Payee};

/// A payee may have so many nonces between its oldest open session and a new one.
const NONCE_SPAN: u32 = 16;
/// A pot that others can claim from too has a reserve of so many faces.
pub const RESERVE: u64 = 4;
/// A bound pot has a reserve of so many faces: with it a win is paid in full whatever becomes of the balance.
pub const BOUND_RESERVE: u64 = 2;
/// The balance covers the wins so far and so many more.
pub const SPARE_WINS: u64 = 4;

/// What a wallet agrees to.
#[derive(Clone, Copy, Debug)]
pub struct WalletLimits {
    /// Our own estimate of what one redemption costs; no face is above twice 20 of them.
    pub redemption_cost: Wei,
    /// The most open sessions per payee: 2 for a client, 8 for a relay.
    pub max_open: usize,
    /// What we would like a draw to be worth; see [`Wallet::set_value`].
    pub value: Wei,
    /// The most that we let a draw be worth.
    pub max_value: Wei,
}

/// Our pot, as seen on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pot {
    /// What wins are paid from.
    pub balance: Wei,
    /// What secures them.
    pub reserve: Wei,
    /// Whether the reserve is being unlocked.
    pub unlocking: bool,
    /// The only payee who can claim from it, if it is bound.
    pub only_payee: Option<Address>,
}

/// What a payee did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalletError {
    /// It lied about draws, and is paid no more for a while.
    #[error("the payee lied: {0}")]
    Liar(&'static str),
    /// It offered terms that no honest payee offers.
    #[error(transparent)]
    BadOffer(#[from] BadOffer),
    /// It sent a frame that makes no sense.
    #[error("the payee misbehaved: {0}")]
    Misbehaved(&'static str),
}

/// Why no session is opened with a payee at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Our pot has not been seen on the chain.
    #[error(
        "the pot was not found on the chain: deposit into it, and check the contract's address and the RPC"
    )]
    NoPot,
    /// Our reserve is being unlocked.
    #[error("the pot's reserve is being unlocked: cancel the unlocking to pay again")]
    Unlocking,
    /// Our pot is bound to another payee.
    #[error("the pot is bound to {0}: use another pot for this payee")]
    Bound(Address),
    /// Our balance does not cover the wins so far and four more.
    #[error("the balance of {have} wei is below {need} wei: deposit the difference")]
    Balance {
        /// What is needed.
        need: Wei,
        /// What is there.
        have: Wei,
    },
    /// Our reserve is too small for the payee's face.
    #[error("the reserve of {have} wei is below {need} wei: add the difference to it")]
    Reserve {
        /// What is needed.
        need: Wei,
        /// What is there.
        have: Wei,
    },
    /// A win would cost more than 40 redemptions.
    #[error(
        "the payee's wins of {face} wei are above the limit of {limit} wei: another relay, or a higher estimate of the redemption cost"
    )]
    Face {
        /// What the payee offers.
        face: Wei,
        /// What we accept.
        limit: Wei,
    },
    /// A draw would be worth more than we let it.
    #[error(
        "the payee's draws of {value} wei are above the limit of {limit} wei: another relay, or a higher limit"
    )]
    Value {
        /// What the payee offers.
        value: Wei,
        /// What we accept.
        limit: Wei,
    },
    /// Too many wins of this payee wait for redemption.
    #[error("too many wins of the payee are not yet redeemed: wait for them")]
    Wins,
    /// All nonces between us are used.
    #[error("all sessions with this payee are used: pay it from another pot")]
    Nonces,
    /// The payee said no.
    #[error("the payee refuses: {0:?}")]
    Payee(Answer),
}

/// What a wallet knows of a payee, for people and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayeeView {
    /// Who is paid.
    pub payee: Address,
    /// What it is to have.
    pub target: Wei,
    /// What it has.
    pub paid: Wei,
    /// In so many draws.
    pub draws: u64,
    /// So many of them won.
    pub wins: u64,
    /// The faces of the wins.
    pub won: Wei,
    /// What is kept for wins that are not redeemed.
    pub owed: Wei,
    /// The sessions that are not ended.
    pub sessions: usize,
    /// Whether it lied, and is not paid for a while.
    pub quarantined: bool,
    /// Why no session is opened.
    pub refusal: Option<Refusal>,
}

/// The payer of a node.
#[derive(Debug)]
pub struct Wallet {
    domain: Domain,
    payer: Address,
    signer: Signer,
    seed: Seed,
    limits: WalletLimits,
    pot: Option<Pot>,
    payees: BTreeMap<Address, Payee>,
    out: Outbox,
    timeout: Option<u64>,
}

impl Wallet {
    /// A wallet that pays from the pot of `payer`, whose signer it holds.
    pub fn new(domain: Domain, payer: Address, signer: Signer, seed: [u8; 32], limits: WalletLimits) -> Self {
        Self {
            domain,
            payer,
            signer,
            seed: Seed::new(seed),
            limits,
            pot: None,
            payees: BTreeMap::new(),
            out: Outbox::default(),
            timeout: None,
        }
    }

    /// Takes up what was on disk, before anything else; records of others are skipped.
    pub fn restore(&mut self, records: impl IntoIterator<Item = Record>) {
        for record in records {
            let row = match record {
                Record::Payee(row) => row,
                Record::Debt(debt) => {
                    self.entry(debt.payee).debts.insert(debt.nonce, debt);
                    continue;
                }
                _ => continue,
            };
            let key = row.payee;
            let chains = row.sessions.iter().map(|open| self.chain(key, open)).collect();
            let mut payee = Payee::restore(row, chains, self.limits.value);
            self.timeout = Some(0);
            // Debts may come first.
            if let Some(before) = self.payees.remove(&key) {
                payee.debts = before.debts;
            }
            self.payees.insert(key, payee);
        }
    }

    fn chain(&self, payee: Address, open: &Opened) -> crate::draw::Chain {
        self.seed.chain(&self.place(payee, open.session.nonce), &open.session.rand_hash, open.draws)
    }

    const fn place(&self, payee: Address, nonce: u32) -> Place {
        Place { domain: self.domain, payer: self.payer, payee, nonce }
    }

    /// Our pot has changed on the chain.
    pub fn on_account(&mut self, unix: u64, pot: Option<Pot>) {
        if self.pot == pot {
            return;
        }
        self.pot = pot;
        let refused: Vec<_> =
            self.payees.iter().filter(|(_, p)| p.refusal.is_some()).map(|(key, _)| *key).collect();
        for payee in refused {
            self.with(unix, payee, |p, _| {
                p.refusal = None;
                p.ask = None;
            });
        }
    }

    /// We estimate that a redemption costs so much, from now on.
    pub const fn set_redemption_cost(&mut self, cost: Wei) {
        self.limits.redemption_cost = cost;
    }

    /// A session of ours was redeemed on the chain.
    ///
    /// Fails if the payee had said that it did not win: then the payee is quarantined.
    pub fn redeemed(&mut self, unix: u64, payee: Address, nonce: u32) -> Result<(), WalletError> {
        self.with(unix, payee, |p, cx| p.redeemed(cx, nonce)).unwrap_or(Ok(()))
    }

    /// Says again which sessions are ours: a link that is new to the payee tells it nothing.
    // pay.account.3
    pub fn introduce(&mut self, unix: u64, payee: Address) {
        self.with(unix, payee, |p, cx| p.introduce(cx));
    }

    /// What we would like a draw of this payee to be worth from its next session on.
    pub fn set_value(&mut self, payee: Address, value: Wei) {
        self.entry(payee).value = value;
    }

    fn entry(&mut self, payee: Address) -> &mut Payee {
        let value = self.limits.value;
        self.payees.entry(payee).or_insert_with(|| Payee::new(payee, value))
    }

    /// Reveals draws until the payee has `target` in all, now and as soon as sessions allow it.
    ///
    /// A target that was reached before opens a session, for later.
    pub fn pay(&mut self, unix: u64, payee: Address, target: Wei) {
        if payee == self.payer {
            return;
        }
        let account = self.entry(payee);
        account.target = account.target.max(target);
        account.wanted = true;
        self.with(unix, payee, |_, _| ());
    }

    /// The value of all draws of this payee that count; those behind a win do not.
    pub fn paid(&self, payee: Address) -> Wei {
        self.payees.get(&payee).map_or(Wei::ZERO, Payee::paid)
    }

    /// The value of draws from sessions that have not ended, as far as the payee has not answered them: they may be void behind
    /// a win.
    pub fn undecided(&self, payee: Address) -> Wei {
        self.payees.get(&payee).map_or(Wei::ZERO, Payee::undecided)
    }

    /// Whether it is not yet known how much the payee was paid before a restart.
    // pay.draw.5
    pub fn is_restoring(&self, payee: Address) -> bool {
        self.payees.get(&payee).is_some_and(Payee::is_restoring)
    }

    /// What may have been owed beyond what was paid before a restart: two draws of each session that was open, one that was due and
    /// one that was void.
    // pay.meter.1
    pub fn unsettled(&self, payee: Address) -> Wei {
        self.payees.get(&payee).map_or(Wei::ZERO, Payee::unsettled)
    }

    /// How much more the payee was paid before a restart than was known then, as it has shown since the last call.
    pub fn take_found(&mut self, payee: Address) -> Wei {
        self.payees.get_mut(&payee).map_or(Wei::ZERO, Payee::take_found)
    }

    /// Whether the payee lied, and is not paid for a while.
    pub fn quarantined(&self, payee: Address) -> bool {
        self.payees.get(&payee).is_some_and(Payee::is_quarantined)
    }

    /// Pays a payee no more for a while: it has charged for more than it carried.
    // pay.meter.1
    pub fn quarantine(&mut self, unix: u64, payee: Address) {
        self.with(unix, payee, Payee::quarantine);
    }

    /// Why no session is opened with the payee at the moment.
    pub fn refusal(&self, payee: Address) -> Option<Refusal> {
        self.payees.get(&payee)?.refusal
    }

    /// A frame of a payee; frames that are not for payers are skipped.
    pub fn handle(&mut self, unix: u64, payee: Address, frame: &Frame) -> Result<(), WalletError> {
        if let Frame::Offer { payee: named, offer } = frame {
            if *named != payee {
                return Err(WalletError::Misbehaved("an offer of somebody else"));
            }
            return self.offered(unix, payee, offer);
        }
        self.with(unix, payee, |p, cx| match *frame {
            _ if p.is_quarantined() => Ok(()),
            Frame::SessionOk { nonce, answer } => {
                p.answered(cx, nonce, answer);
                Ok(())
            }
            Frame::DrawOk { nonce, index, link } => p.draw_ok(cx, nonce, index, &link),
            Frame::Rotate { nonce, reason, index, link, rand } => {
                p.rotated(cx, &Rotation { nonce, reason, index, link, rand })
            }
            _ => Ok(()),
        })
        .unwrap_or(Ok(()))
    }

    /// Calls `act` on a payee that we have, and then reveals and asks for what is due.
    fn with<T>(
        &mut self,
        unix: u64,
        payee: Address,
        act: impl FnOnce(&mut Payee, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let account = self.payees.get_mut(&payee)?;
        let mut cx =
            Context { unix, payer: self.payer, max_open: self.limits.max_open, payee, out: &mut self.out };
        let result = act(account, &mut cx);
        account.step(&mut cx);
        self.timeout = self.timeout.into_iter().chain(account.next_timeout()).min();
        Some(result)
    }

    fn offered(&mut self, unix: u64, payee: Address, offer: &Offer) -> Result<(), WalletError> {
        let Some(account) = self.payees.get(&payee) else { return Ok(()) };
        if account.is_quarantined() || !account.wants(self.limits.max_open) {
            return Ok(());
        }
        // pay.nonce.1
        if offer.nonce < account.row.next_nonce {
            self.with(unix, payee, |p, _| p.ask_now());
            return Ok(());
        }
        offer.check(unix)?;
        let refusal = self.refuse(payee, account, offer);
        let open = if refusal.is_none() { Some(self.sign(payee, offer)) } else { None };
        self.with(unix, payee, |p, cx| {
            p.refusal = refusal;
            if let Some(open) = open {
                p.open(cx, open);
            } else if p.ask.is_none() {
                p.ask = Some(Repeat::after(cx.unix, 4));
            }
        });
        Ok(())
    }

    // pay.nonce.1
    fn sign(&self, payee: Address, offer: &Offer) -> Open {
        let chain = self.seed.chain(&self.place(payee, offer.nonce), &offer.rand_hash, offer.draws);
        let session = offer.session(self.payer, payee, chain.anchor());
        let signature = self.signer.sign(&session.digest(&self.domain));
        Open::new(Opened { session, signature, draws: offer.draws, value: offer.value, index: 0 }, chain)
    }

    /// Why we do not sign this offer.
    // pay.offer.3, pay.pot.1
    fn refuse(&self, payee: Address, account: &Payee, offer: &Offer) -> Option<Refusal> {
        let Some(pot) = self.pot else { return Some(Refusal::NoPot) };
        let limit = self.limits.redemption_cost.saturating_mul(2 * COSTS);
        if offer.face > limit {
            return Some(Refusal::Face { face: offer.face, limit });
        }
        if offer.value > self.limits.max_value {
            return Some(Refusal::Value { value: offer.value, limit: self.limits.max_value });
        }
        let oldest = account.sessions.iter().map(|open| open.opened.session.nonce).min();
        if offer.nonce == u32::MAX || oldest.is_some_and(|oldest| offer.nonce - oldest >= NONCE_SPAN) {
            return Some(Refusal::Nonces);
        }
        if account.debts.len() >= payee::MAX_WINS {
            return Some(Refusal::Wins);
        }
        match pot.only_payee {
            Some(other) if other != payee => return Some(Refusal::Bound(other)),
            _ if pot.unlocking => return Some(Refusal::Unlocking),
            _ => (),
        }
        let faces = if pot.only_payee.is_some() { BOUND_RESERVE } else { RESERVE };
        let (need, have) = (offer.face.saturating_mul(faces), pot.reserve);
        if have < need {
            return Some(Refusal::Reserve { need, have });
        }
        let owed = self.payees.values().fold(Wei::ZERO, |sum, other| sum.saturating_add(other.owed()));
        let (need, have) = (owed.saturating_add(offer.face.saturating_mul(SPARE_WINS)), pot.balance);
        (have < need).then_some(Refusal::Balance { need, have })
    }

    /// The next frame to be sent, and to whom.
    pub fn poll_frame(&mut self) -> Option<(Address, Frame)> {
        self.out.poll_frame()
    }

    /// The next change to be written to disk; changes must reach it in the order in which they come.
    pub fn poll_record(&mut self) -> Option<(RecordId, Change)> {
        if let Some(change) = self.out.poll_change() {
            return Some(change);
        }
        let (id, key) = self.out.poll_row()?;
        let account = self.payees.get_mut(&key)?;
        Some((id, Change::put(Record::Payee(account.write(id)))))
    }

    /// All changes up to this one are on disk.
    // pay.disk.2
    pub fn persisted(&mut self, unix: u64, id: RecordId) {
        while let Some(payee) = self.out.poll_written(id) {
            self.with(unix, payee, |p, cx| p.written(cx, id));
        }
    }

    /// Time has passed: repeats, and ends what is over.
    pub fn handle_timeout(&mut self, unix: u64) {
        let keys: Vec<_> = self.payees.keys().copied().collect();
        for key in keys {
            self.with(unix, key, Payee::timeout);
        }
        self.timeout = self.payees.values().filter_map(Payee::next_timeout).min();
    }

    /// When [`Wallet::handle_timeout`] is to be called next, unix time.
    pub const fn next_timeout(&self) -> Option<u64> {
        self.timeout
    }

    /// What the wallet knows, payee by payee.
    pub fn snapshot(&self) -> Vec<PayeeView> {
        self.payees.values().map(Payee::view).collect()
    }
}

/// What a payee's state is changed with.
struct Context<'a> {
    unix: u64,
    payer: Address,
    max_open: usize,
    payee: Address,
    out: &'a mut Outbox,
}

impl Context<'_> {
    fn send(&mut self, frame: Frame) {
        self.out.send(self.payee, frame);
    }

    fn save(&mut self) {
        self.out.save(self.payee);
    }

    fn save_debt(&mut self, debt: Debt) {
        self.out.change(Change::put(Record::Debt(debt)));
    }

    fn drop_debt(&mut self, nonce: u32) {
        self.out.change(Change::delete(Key::Debt(self.payee, nonce)));
    }
}

/// The fields of ROTATE.
struct Rotation {
    nonce: u32,
    reason: Reason,
    index: u16,
    link: B256,
    rand: B256,
}

impl Debt {
    const fn new(open: &Opened, denied: bool) -> Self {
        let session = &open.session;
        Self {
            payee: session.payee,
            nonce: session.nonce,
            face: session.face,
            expiry: session.expiry,
            denied,
        }
    }
}
