//! The side that is paid: offers sessions, checks draws, and hands out the wins.
//!
//! One till serves all payers of a node. It has no clock, disk or network: frames and times go in, frames, records and
//! claims come out. A session is confirmed and a win is shown only once its record is on disk.

use std::collections::{BTreeMap, VecDeque};

use alloy_primitives::{Address, B256, keccak256};

use crate::amount::Wei;
use crate::claim::Claim;
use crate::draw::MAX_DRAWS;
use crate::frame::{Answer, Frame};
use crate::offer::{Face, LIFE, Offer};
use crate::outbox::Outbox;
use crate::record::{Change, Key, Record, RecordId};
use crate::seed::{Place, Seed};
use crate::session::{Domain, MAX_EXPIRY, Signature};
use crate::wallet::{BOUND_RESERVE, RESERVE, SPARE_WINS};

mod payer;

use payer::{Draw, Payer};

/// The most open sessions of a payer that is a registered relay, and of any other.
const RELAY_SESSIONS: usize = 8;
const CLIENT_SESSIONS: usize = 2;
/// While the chain's head is stale, a payer may owe so much of its reserve.
const STALE_SHARE: u128 = 4;

/// What a till offers.
#[derive(Clone, Copy, Debug)]
pub struct TillLimits {
    /// What a win pays.
    pub face: Face,
    /// The least that a draw is worth.
    pub min_value: Wei,
    /// The draws of a session, at most 64.
    pub draws: u16,
    /// The most payers that are remembered; then idle ones are forgotten, the longest idle first.
    pub max_payers: usize,
}

/// A payer's pot, as seen on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayerAccount {
    /// What wins are paid from.
    pub balance: Wei,
    /// What secures them.
    pub reserve: Wei,
    /// Whether the reserve is being unlocked.
    pub unlocking: bool,
    /// Who signs for the pot.
    pub signer: Address,
    /// The only payee who can claim from it, if it is bound.
    pub only_payee: Option<Address>,
    /// Whether the chain's head was not seen for a while.
    pub head_stale: bool,
    /// Whether the payer is a registered relay.
    pub registered: bool,
}

impl PayerAccount {
    /// Whether anything can be had from it: all others are no pots, and not kept.
    pub fn can_pay(&self) -> bool {
        self.signer != Address::ZERO && self.reserve > Wei::ZERO
    }
}

/// Why a frame did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TillError {
    /// The payer sent what no honest payer sends.
    #[error("the payer misbehaved: {0}")]
    Misbehaved(&'static str),
    /// A session that the pot's signer has not signed; the payer is at fault, unless its signer has just changed.
    #[error("the session is not signed by the pot's signer")]
    BadSignature,
    /// Nobody's fault: the chain's head is stale, and the payer's reserve does not cover more.
    #[error("the chain has not been seen for a while: check the RPC; draws count again as soon as it is")]
    Stale,
}

/// What a till knows of a payer, for people and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayerView {
    /// Who pays.
    pub payer: Address,
    /// What it has paid: the value of all draws that count, whatever they won.
    pub credited: Wei,
    /// In so many draws.
    pub draws: u64,
    /// So many of them won.
    pub wins: u64,
    /// The faces of the wins.
    pub won: Wei,
    /// The wins that are not redeemed.
    pub unredeemed: Wei,
    /// The sessions that are not ended.
    pub sessions: usize,
}

#[derive(Clone, Copy, Debug)]
struct Win {
    claim: Claim,
    /// Redeemed on the chain, but not yet for good.
    redeemed: bool,
}

/// The payee of a node.
#[derive(Debug)]
pub struct Till {
    domain: Domain,
    payee: Address,
    seed: Seed,
    fresh: Seed,
    salts: u64,
    limits: TillLimits,
    payers: BTreeMap<Address, Payer>,
    wins: BTreeMap<(Address, u32), Win>,
    /// Wins handed out to be written, and not yet on disk.
    written: VecDeque<(RecordId, Claim)>,
    claims: VecDeque<Claim>,
    out: Outbox,
    timeout: Option<u64>,
}

impl Till {
    /// A till of `payee`. The seed is kept for as long as there are sessions; `fresh` is random anew at every start.
    pub fn new(domain: Domain, payee: Address, seed: [u8; 32], fresh: [u8; 32], limits: TillLimits) -> Self {
        Self {
            domain,
            payee,
            seed: Seed::new(seed),
            fresh: Seed::new(fresh),
            salts: 0,
            limits,
            payers: BTreeMap::new(),
            wins: BTreeMap::new(),
            written: VecDeque::new(),
            claims: VecDeque::new(),
            out: Outbox::default(),
            timeout: None,
        }
    }

    /// Takes up what was on disk, before anything else; records of others are skipped.
    ///
    /// All wins are handed out as claims once more: whoever redeems knows how far each is.
    pub fn restore(&mut self, records: impl IntoIterator<Item = Record>) {
        for record in records {
            match record {
                Record::Payer(row) => {
                    let rands = row.sessions.iter().map(|held| {
                        self.seed.rand(&self.place(row.payer, held.opened.session.nonce), &held.salt)
                    });
                    let payer = Payer::restore(row.clone(), &rands.collect::<Vec<_>>());
                    self.payers.insert(row.payer, payer);
                    self.timeout = Some(0);
                }
                Record::Win(claim) => {
                    self.wins
                        .insert((claim.session.payer, claim.session.nonce), Win { claim, redeemed: false });
                    self.claims.push_back(claim);
                }
                _ => (),
            }
        }
    }

    /// A redemption costs so much from now on.
    pub const fn set_redemption_cost(&mut self, cost: Wei) {
        if let Face::Costs(known) = &mut self.limits.face {
            *known = cost;
        }
    }

    const fn place(&self, payer: Address, nonce: u32) -> Place {
        Place { domain: self.domain, payer, payee: self.payee, nonce }
    }

    /// What this payer has paid: the value of all draws that count.
    pub fn credited(&self, payer: Address) -> Wei {
        self.payers.get(&payer).map_or(Wei::ZERO, Payer::credited)
    }

    /// The faces of a payer's wins that are not redeemed.
    pub fn unredeemed(&self, payer: Address) -> Wei {
        self.wins
            .range((payer, 0)..=(payer, u32::MAX))
            .filter(|(_, win)| !win.redeemed)
            .fold(Wei::ZERO, |sum, (_, win)| sum.saturating_add(win.claim.session.face))
    }

    /// A frame of a payer, whose pot stands as `account` says; what was newly credited by it.
    ///
    /// Frames that are not for payees are skipped.
    pub fn handle(
        &mut self,
        unix: u64,
        payer: Address,
        frame: &Frame,
        account: Option<&PayerAccount>,
    ) -> Result<Wei, TillError> {
        match *frame {
            Frame::Want { payer: named, floor, value } => {
                self.check_name(payer, named)?;
                let answer = self.wanted(unix, payer, floor, value, account);
                self.out.send(payer, answer);
                Ok(Wei::ZERO)
            }
            Frame::Session { payer: named, nonce, offer, anchor, signature } => {
                self.check_name(payer, named)?;
                self.signed(unix, payer, &Signed { nonce, offer, anchor, signature }, account)
                    .map(|()| Wei::ZERO)
            }
            Frame::Draw { nonce, index, link } => {
                self.drawn(unix, payer, &Draw { nonce, index, link }, account)
            }
            _ => Ok(Wei::ZERO),
        }
    }

    // pay.frame.2
    fn check_name(&self, payer: Address, named: Address) -> Result<(), TillError> {
        if named != payer || payer == self.payee {
            return Err(TillError::Misbehaved("it pays for somebody else"));
        }
        Ok(())
    }

    /// Whether a session with this face may be opened now.
    // pay.pot.2
    fn admit(&self, payer: Address, face: Wei, account: Option<&PayerAccount>) -> Answer {
        let Some(account) = account else { return Answer::NoPot };
        let faces = match account.only_payee {
            Some(other) if other != self.payee => return Answer::Bound,
            Some(_) => BOUND_RESERVE,
            None => RESERVE,
        };
        let covered = self.unredeemed(payer).saturating_add(face.saturating_mul(SPARE_WINS));
        let limit = if account.registered { RELAY_SESSIONS } else { CLIENT_SESSIONS };
        if account.signer == Address::ZERO {
            Answer::NoPot
        } else if account.head_stale || self.limits.face == Face::UNKNOWN {
            Answer::Stale
        } else if account.unlocking {
            Answer::Unlocking
        } else if account.reserve < face.saturating_mul(faces) {
            Answer::Reserve
        } else if account.balance < covered {
            Answer::Balance
        } else if self.payers.get(&payer).is_some_and(|p| p.sessions.len() >= limit) {
            Answer::Full
        } else {
            Answer::Yes
        }
    }

    /// The answer to a WANT; asks for the same are answered by the same offer.
    // pay.nonce.2
    fn wanted(
        &mut self,
        unix: u64,
        payer: Address,
        floor: u32,
        value: Wei,
        account: Option<&PayerAccount>,
    ) -> Frame {
        let face = self.limits.face.of(value.max(self.limits.min_value)).max(Wei(2));
        let value = value.max(self.limits.min_value).max(Wei(1)).min(Wei(face.0 / 2));
        let (Answer::Yes, Some(win_prob)) = (self.admit(payer, face, account), Offer::odds(value, face))
        else {
            let answer = match self.admit(payer, face, account) {
                Answer::Yes => Answer::NoOffer,
                answer => answer,
            };
            return Frame::SessionOk { nonce: floor, answer };
        };
        if !self.payers.contains_key(&payer) && !self.make_room() {
            return Frame::SessionOk { nonce: floor, answer: Answer::Full };
        }
        self.salts += 1;
        let (place, salt) = (self.place(payer, 0), self.fresh.salt(self.salts));
        let account = self.payers.entry(payer).or_insert_with(|| Payer::new(payer, unix));
        let offer = account.same_offer(unix, floor, value, face).or_else(|| {
            let nonce = account.next_nonce(floor)?;
            let rand = self.seed.rand(&Place { nonce, ..place }, &salt);
            let expiry = unix.saturating_add(LIFE).min(MAX_EXPIRY);
            let draws = self.limits.draws.clamp(1, MAX_DRAWS);
            let offer = Offer { nonce, rand_hash: keccak256(rand), face, win_prob, draws, expiry, value };
            account.offer(unix, offer, salt, rand);
            Some(offer)
        });
        let payee = self.payee;
        let full = Frame::SessionOk { nonce: floor, answer: Answer::Full };
        offer.map_or(full, |offer| Frame::Offer { payee, offer })
    }

    /// Makes room for one more payer; not if all of them have open sessions or wins.
    // pay.table.1
    fn make_room(&mut self) -> bool {
        if self.payers.len() < self.limits.max_payers {
            return true;
        }
        let idle = self.payers.iter().filter(|(key, p)| {
            p.sessions.is_empty() && self.wins.range((**key, 0)..=(**key, u32::MAX)).next().is_none()
        });
        let Some(oldest) = idle.min_by_key(|(_, p)| p.seen).map(|(key, _)| *key) else { return false };
        self.payers.remove(&oldest);
        self.out.forget(oldest);
        self.out.change(Change::delete(Key::Payer(oldest)));
        true
    }

    // pay.session.3
    fn signed(
        &mut self,
        unix: u64,
        payer: Address,
        signed: &Signed,
        account: Option<&PayerAccount>,
    ) -> Result<(), TillError> {
        let Signed { nonce, offer, anchor, signature } = *signed;
        let refuse = |out: &mut Outbox, answer| out.send(payer, Frame::SessionOk { nonce, answer });
        let Some(known) = self.payers.get_mut(&payer) else {
            refuse(&mut self.out, Answer::NoOffer);
            return Ok(());
        };
        known.seen = unix;
        if known.repeat_session(nonce, &anchor, &mut self.out)?
            || self.show_again(payer, &Draw { nonce, index: 0, link: anchor })
        {
            return Ok(());
        }
        let Some(open) = self.payers.get(&payer).and_then(|p| p.find_offer(unix, nonce, offer)) else {
            refuse(&mut self.out, Answer::NoOffer);
            return Ok(());
        };
        let answer = self.admit(payer, open.offer.face, account);
        let Some(account) = account.filter(|_| answer == Answer::Yes) else {
            refuse(&mut self.out, answer);
            return Ok(());
        };
        let session = open.offer.session(payer, self.payee, anchor);
        // The one costly step, behind all others.
        if signature.recover(&session.digest(&self.domain)) != Some(account.signer) {
            refuse(&mut self.out, Answer::Signature);
            return Err(TillError::BadSignature);
        }
        if let Some(known) = self.payers.get_mut(&payer) {
            known.accept(&open, session, signature);
            self.out.save(payer);
        }
        self.touch(payer);
        Ok(())
    }

    /// Sends the ROTATE of an ended session to who knows a link of it (or its anchor, as draw 0); whether that is so.
    // pay.rotate.1
    fn show_again(&mut self, payer: Address, draw: &Draw) -> bool {
        let ended = self.payers.get(&payer).and_then(|p| p.find_ended(draw.nonce));
        ended.is_some_and(|(ended, _)| draw.is_of(ended.index, ended.link)) && self.show(payer, draw.nonce)
    }

    /// Sends the ROTATE of an ended session, if it is on disk; whether the session has ended.
    // pay.rotate.1
    fn show(&mut self, payer: Address, nonce: u32) -> bool {
        let Some((ended, kept)) = self.payers.get(&payer).and_then(|p| p.find_ended(nonce)) else {
            return false;
        };
        if kept {
            let rand = self.seed.rand(&self.place(payer, nonce), &ended.salt);
            let (reason, index, link) = (ended.reason, ended.index, ended.link);
            self.out.send(payer, Frame::Rotate { nonce, reason, index, link, rand });
        }
        true
    }

    fn drawn(
        &mut self,
        unix: u64,
        payer: Address,
        draw: &Draw,
        account: Option<&PayerAccount>,
    ) -> Result<Wei, TillError> {
        if self.show_again(payer, draw) {
            return Ok(Wei::ZERO);
        }
        let unredeemed = account.is_none_or(|account| account.head_stale).then(|| self.unredeemed(payer));
        let Some(known) = self.payers.get_mut(&payer).filter(|p| p.holds(draw.nonce)) else {
            self.out.send(payer, Frame::SessionOk { nonce: draw.nonce, answer: Answer::Gone });
            return Ok(Wei::ZERO);
        };
        known.seen = unix;
        let fresh = known.check(draw)?;
        let Some(fresh) = fresh else {
            known.repeat_draw(draw.nonce, &mut self.out);
            return Ok(Wei::ZERO);
        };
        // pay.pot.3
        match unredeemed {
            None => known.stale = Wei::ZERO,
            Some(unredeemed) => {
                let stale = known.stale.saturating_add(fresh.value());
                let reserve = account.map_or(0, |account| account.reserve.0);
                if unredeemed.saturating_add(stale).0 > reserve / STALE_SHARE {
                    return Err(TillError::Stale);
                }
                known.stale = stale;
            }
        }
        if let Some(account) = account
            && !self.covers(&fresh, account)
        {
            self.end_changed(payer, draw.nonce);
            return Ok(Wei::ZERO);
        }
        let Some(known) = self.payers.get_mut(&payer) else { return Ok(Wei::ZERO) };
        let (credited, claim, ended) = known.credit(unix, &fresh);
        if let Some(claim) = claim {
            // pay.disk.3
            self.wins.insert((payer, draw.nonce), Win { claim, redeemed: false });
            self.out.change(Change::put(Record::Win(claim)));
        }
        if ended || known.should_save() {
            self.out.save(payer);
        }
        if ended {
            // Goes out with the ROTATE, once that is on disk.
            let offer = self.wanted(unix, payer, 0, fresh.each(), account);
            if let Some(known) = self.payers.get_mut(&payer) {
                known.next_offer = Some(offer).filter(|frame| matches!(frame, Frame::Offer { .. }));
            }
        }
        self.touch(payer);
        Ok(credited)
    }

    /// Whether what a session may win is still secured as it was when it was opened.
    // pay.pot.4
    fn covers(&self, draw: &payer::Fresh, account: &PayerAccount) -> bool {
        account.only_payee.is_none_or(|only| only == self.payee)
            && account.reserve >= draw.face().saturating_mul(BOUND_RESERVE)
    }

    fn end_changed(&mut self, payer: Address, nonce: u32) {
        if let Some(known) = self.payers.get_mut(&payer) {
            known.end_changed(nonce);
            self.out.save(payer);
        }
    }

    fn touch(&mut self, payer: Address) {
        let own = self.payers.get(&payer).and_then(Payer::next_timeout);
        self.timeout = self.timeout.into_iter().chain(own).min();
    }

    /// A win was redeemed on the chain; `finally` once that cannot be undone, or it never can be redeemed.
    pub fn redeemed(&mut self, payer: Address, nonce: u32, finally: bool) {
        if let Some(known) = self.payers.get_mut(&payer) {
            known.used(nonce);
        }
        let Some(win) = self.wins.get_mut(&(payer, nonce)) else { return };
        win.redeemed = true;
        if finally {
            self.wins.remove(&(payer, nonce));
            self.out.change(Change::delete(Key::Win(payer, nonce)));
        }
    }

    /// The next frame to be sent, and to whom.
    pub fn poll_frame(&mut self) -> Option<(Address, Frame)> {
        self.out.poll_frame()
    }

    /// The next change to be written to disk; changes must reach it in the order in which they come.
    pub fn poll_record(&mut self) -> Option<(RecordId, Change)> {
        if let Some((id, change)) = self.out.poll_change() {
            if let Some(Record::Win(claim)) = &change.record {
                self.written.push_back((id, *claim));
            }
            return Some((id, change));
        }
        let (id, key) = self.out.poll_row()?;
        let known = self.payers.get_mut(&key)?;
        Some((id, Change::put(Record::Payer(known.write(id)))))
    }

    /// All changes up to this one are on disk.
    // pay.disk.3
    pub fn persisted(&mut self, id: RecordId) {
        while let Some((_, claim)) = self.written.pop_front_if(|(written, _)| *written <= id) {
            self.claims.push_back(claim);
        }
        while let Some(payer) = self.out.poll_written(id) {
            let Some(known) = self.payers.get_mut(&payer) else { continue };
            let ended = known.written(id, &mut self.out);
            let offer = known.next_offer.take_if(|_| !ended.is_empty());
            for nonce in ended {
                self.show(payer, nonce);
            }
            if let Some(offer) = offer {
                self.out.send(payer, offer);
            }
        }
    }

    /// The next win for the redeemer; it is on disk, and may come again after a restart.
    pub fn poll_claim(&mut self) -> Option<Claim> {
        self.claims.pop_front()
    }

    /// Time has passed: ends what is over.
    pub fn handle_timeout(&mut self, unix: u64) {
        for (payer, known) in &mut self.payers {
            if known.timeout(unix) {
                self.out.save(*payer);
            }
        }
        self.timeout = self.payers.values().filter_map(Payer::next_timeout).min();
    }

    /// When [`Till::handle_timeout`] is to be called next, unix time.
    pub const fn next_timeout(&self) -> Option<u64> {
        self.timeout
    }

    /// What the till knows, payer by payer.
    pub fn snapshot(&self) -> Vec<PayerView> {
        self.payers.iter().map(|(payer, known)| known.view(self.unredeemed(*payer))).collect()
    }
}

/// The fields of SESSION.
struct Signed {
    nonce: u32,
    offer: [u8; 4],
    anchor: B256,
    signature: Signature,
}
