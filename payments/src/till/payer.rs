//! What a till knows of one payer: offers, sessions, how far each is drawn, and those that ended.

use alloy_primitives::{Address, B256, keccak256};

use super::{PayerView, TillError};
use crate::amount::Wei;
use crate::claim::Claim;
use crate::draw::{MAX_DRAWS, wins};
use crate::frame::{Answer, Frame, Reason};
use crate::offer::{Offer, REDEMPTION, SKEW};
use crate::outbox::{Outbox, Promise, is_due};
use crate::record::{Ended, Held, MAX_ENDED, Opened, PayerRow, RecordId};
use crate::session::{Session, Signature};

/// The most offers that are open at once; then the oldest is withdrawn.
const MAX_OFFERS: usize = 8;
/// An offer is open for so many seconds.
const OFFER_LIFE: u64 = 600;
/// The last draw is written to disk after so many draws, or seconds.
const SAVE_DRAWS: u16 = 16;
const SAVE_PAUSE: u64 = 1;

/// An offer that may be signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenOffer {
    pub(super) offer: Offer,
    salt: [u8; 16],
    rand: B256,
    made: u64,
}

/// A session that is not ended.
#[derive(Debug)]
pub(super) struct Taken {
    held: Held,
    rand: B256,
    promise: Promise,
}

/// The fields of DRAW.
pub(super) struct Draw {
    pub(super) nonce: u32,
    pub(super) index: u16,
    pub(super) link: B256,
}

impl Draw {
    /// Whether the link is of the chain of which `last` is link `index`: nobody else than its payer knows one.
    pub(super) fn is_of(&self, index: u16, last: B256) -> bool {
        let walk = |link: B256, steps: u16| (0..steps).fold(link, |link, _| keccak256(link));
        if self.index > MAX_DRAWS {
            return false;
        }
        match self.index.checked_sub(index) {
            Some(ahead) => walk(self.link, ahead) == last,
            None => walk(last, index.saturating_sub(self.index)) == self.link,
        }
    }
}

/// Draws that are new, with all their links.
pub(super) struct Fresh {
    at: usize,
    opened: Opened,
    /// The links before the last one: none for a single draw.
    links: Vec<B256>,
    last: B256,
    count: u16,
}

impl Fresh {
    /// What the new draws are worth.
    pub(super) fn value(&self) -> Wei {
        self.opened.value.saturating_mul(self.count.into())
    }

    pub(super) const fn each(&self) -> Wei {
        self.opened.value
    }

    pub(super) const fn face(&self) -> Wei {
        self.opened.session.face
    }
}

/// The state of a payer.
#[derive(Debug)]
pub(super) struct Payer {
    /// As on disk, but for the sessions.
    row: PayerRow,
    pub(super) sessions: Vec<Taken>,
    /// Of the row's ended sessions those that are not yet on disk as such.
    unkept: Vec<(u32, Promise)>,
    offers: Vec<OpenOffer>,
    /// The offer that goes out with the next ROTATE.
    pub(super) next_offer: Option<Frame>,
    /// When it was last heard.
    pub(super) seen: u64,
    /// What was credited since the chain's head went stale.
    pub(super) stale: Wei,
    unsaved: u16,
    save_at: Option<u64>,
}

impl Payer {
    pub(super) fn new(payer: Address, unix: u64) -> Self {
        let mut payer = Self::restore(PayerRow { payer, ..PayerRow::default() }, &[]);
        payer.seen = unix;
        payer
    }

    pub(super) fn restore(mut row: PayerRow, rands: &[B256]) -> Self {
        let sessions = core::mem::take(&mut row.sessions).into_iter().zip(rands);
        let sessions =
            sessions.map(|(held, rand)| Taken { held, rand: *rand, promise: Promise::Kept }).collect();
        Self {
            row,
            sessions,
            unkept: vec![],
            offers: vec![],
            next_offer: None,
            seen: 0,
            stale: Wei::ZERO,
            unsaved: 0,
            save_at: None,
        }
    }

    pub(super) fn credited(&self) -> Wei {
        self.sessions
            .iter()
            .fold(self.row.tally.value, |sum, taken| sum.saturating_add(taken.held.opened.drawn()))
    }

    pub(super) fn same_offer(&self, unix: u64, floor: u32, value: Wei, face: Wei) -> Option<Offer> {
        let fits = |open: &&OpenOffer| {
            let offer = &open.offer;
            open.made.saturating_add(OFFER_LIFE) > unix
                && offer.nonce >= floor.max(self.row.next_nonce)
                && (offer.value, offer.face) == (value, face)
        };
        self.offers.iter().filter(fits).map(|open| open.offer).min_by_key(|offer| offer.nonce)
    }

    /// The least nonce from `floor` on that no session and no offer has.
    pub(super) fn next_nonce(&self, floor: u32) -> Option<u32> {
        let mut nonce = self.row.next_nonce.max(floor);
        while self.offers.iter().any(|open| open.offer.nonce == nonce) {
            nonce = nonce.checked_add(1)?;
        }
        (nonce < u32::MAX).then_some(nonce)
    }

    pub(super) fn offer(&mut self, unix: u64, offer: Offer, salt: [u8; 16], rand: B256) {
        self.offers.retain(|open| open.made.saturating_add(OFFER_LIFE) > unix);
        if self.offers.len() >= MAX_OFFERS {
            self.offers.remove(0);
        }
        self.offers.push(OpenOffer { offer, salt, rand, made: unix });
    }

    pub(super) fn find_offer(&self, unix: u64, nonce: u32, tag: [u8; 4]) -> Option<OpenOffer> {
        let named = |open: &&OpenOffer| open.offer.nonce == nonce && open.offer.rand_hash.starts_with(&tag);
        let open = self.offers.iter().find(named)?;
        (open.made.saturating_add(OFFER_LIFE) > unix && nonce >= self.row.next_nonce).then_some(*open)
    }

    /// Answers a SESSION that we have; whether we do.
    pub(super) fn repeat_session(
        &self,
        nonce: u32,
        anchor: &B256,
        out: &mut Outbox,
    ) -> Result<bool, TillError> {
        let Some(taken) = self.find(nonce) else { return Ok(false) };
        if taken.held.opened.session.anchor != *anchor {
            return Err(TillError::Misbehaved("it signs two sessions with one nonce"));
        }
        if taken.promise == Promise::Kept {
            self.confirm(nonce, out);
            // The payer may have forgotten how far it is.
            self.repeat_draw(nonce, out);
        }
        Ok(true)
    }

    fn confirm(&self, nonce: u32, out: &mut Outbox) {
        out.send(self.row.payer, Frame::SessionOk { nonce, answer: Answer::Yes });
    }

    pub(super) fn accept(&mut self, open: &OpenOffer, session: Session, signature: Signature) {
        let Offer { draws, value, nonce, .. } = open.offer;
        let opened = Opened { session, signature, draws, value, index: 0 };
        let held = Held { opened, link: session.anchor, salt: open.salt };
        self.sessions.push(Taken { held, rand: open.rand, promise: Promise::New });
        self.used(nonce);
    }

    /// No new offer has this nonce or one below.
    pub(super) fn used(&mut self, nonce: u32) {
        self.offers.retain(|open| open.offer.nonce != nonce);
        self.row.next_nonce = self.row.next_nonce.max(nonce.saturating_add(1));
    }

    fn find(&self, nonce: u32) -> Option<&Taken> {
        self.sessions.iter().find(|taken| taken.held.opened.session.nonce == nonce)
    }

    pub(super) fn holds(&self, nonce: u32) -> bool {
        self.find(nonce).is_some()
    }

    /// An ended session, and whether its end is on disk.
    pub(super) fn find_ended(&self, nonce: u32) -> Option<(Ended, bool)> {
        let ended = self.row.ended.iter().find(|ended| ended.nonce == nonce)?;
        Some((*ended, !self.unkept.iter().any(|(unkept, _)| *unkept == nonce)))
    }

    /// Walks from a draw back to the last one that we have; nothing if we have it, or the session is not on disk.
    // pay.draw.4
    pub(super) fn check(&self, draw: &Draw) -> Result<Option<Fresh>, TillError> {
        let Some(at) = self.sessions.iter().position(|taken| taken.held.opened.session.nonce == draw.nonce)
        else {
            return Ok(None);
        };
        let Some(taken) = self.sessions.get(at).filter(|taken| taken.promise == Promise::Kept) else {
            return Err(TillError::Misbehaved("it draws from a session before it is confirmed"));
        };
        let opened = taken.held.opened;
        if draw.index == 0 || draw.index > opened.draws {
            return Err(TillError::Misbehaved("it draws beyond the end of a session"));
        }
        let not_of = TillError::Misbehaved("its link is not of the session's chain");
        let Some(count) = draw.index.checked_sub(opened.index).filter(|count| *count > 0) else {
            return if draw.is_of(opened.index, taken.held.link) { Ok(None) } else { Err(not_of) };
        };
        let mut links = vec![];
        let mut link = keccak256(draw.link);
        for _ in 1..count {
            links.push(link);
            link = keccak256(link);
        }
        if link != taken.held.link {
            return Err(not_of);
        }
        links.reverse();
        Ok(Some(Fresh { at, opened, links, last: draw.link, count }))
    }

    /// Tests new draws in order, up to the first win: their value, the win, and whether the session has ended.
    // pay.draw.4
    pub(super) fn credit(&mut self, unix: u64, fresh: &Fresh) -> (Wei, Option<Claim>, bool) {
        let Some(taken) = self.sessions.get_mut(fresh.at) else { return (Wei::ZERO, None, false) };
        let Opened { session, signature, draws, value, index: before } = taken.held.opened;
        let mut claim = None;
        for link in fresh.links.iter().chain([&fresh.last]) {
            taken.held.opened.index += 1;
            taken.held.link = *link;
            if wins(link, &taken.rand, session.win_prob) {
                let draw = taken.held.opened.index;
                claim = Some(Claim { session, draw, link: *link, rand: taken.rand, signature });
                break;
            }
        }
        let index = taken.held.opened.index;
        let credited = value.saturating_mul(index.saturating_sub(before).into());
        let reason = match claim {
            Some(_) => Some(Reason::Won),
            None if index == draws => Some(Reason::UsedUp),
            None => None,
        };
        if let Some(reason) = reason {
            self.end(fresh.at, reason);
        } else {
            self.unsaved = self.unsaved.saturating_add(fresh.count);
            self.save_at.get_or_insert_with(|| unix.saturating_add(SAVE_PAUSE));
        }
        (credited, claim, reason.is_some())
    }

    pub(super) const fn should_save(&self) -> bool {
        self.unsaved >= SAVE_DRAWS
    }

    fn end(&mut self, at: usize, reason: Reason) {
        if at >= self.sessions.len() {
            return;
        }
        let Held { opened, link, salt } = self.sessions.remove(at).held;
        let Opened { session, index, value, .. } = opened;
        let won = (reason == Reason::Won).then_some(session.face);
        self.row.tally.add(index, value, won);
        if self.row.ended.len() >= MAX_ENDED {
            self.row.ended.remove(0);
        }
        self.row.ended.push(Ended { nonce: session.nonce, reason, index, link, salt });
        self.unkept.push((session.nonce, Promise::New));
    }

    pub(super) fn end_changed(&mut self, nonce: u32) {
        if let Some(at) = self.sessions.iter().position(|taken| taken.held.opened.session.nonce == nonce) {
            self.end(at, Reason::Changed);
        }
    }

    /// Tells the payer again how far a session is.
    // pay.draw.5
    pub(super) fn repeat_draw(&self, nonce: u32, out: &mut Outbox) {
        if let Some(Held { opened, link, .. }) = self.find(nonce).map(|taken| taken.held) {
            out.send(self.row.payer, Frame::DrawOk { nonce, index: opened.index, link });
        }
    }

    pub(super) fn write(&mut self, id: RecordId) -> PayerRow {
        self.unsaved = 0;
        self.save_at = None;
        let promises = self.sessions.iter_mut().map(|taken| &mut taken.promise);
        promises
            .chain(self.unkept.iter_mut().map(|(_, promise)| promise))
            .for_each(|promise| promise.write(id));
        let sessions = self.sessions.iter().map(|taken| taken.held).collect();
        PayerRow { sessions, ..self.row.clone() }
    }

    /// Confirms the sessions that are now on disk; the ended ones that now are.
    pub(super) fn written(&mut self, id: RecordId, out: &mut Outbox) -> Vec<u32> {
        let mut kept = vec![];
        for taken in &mut self.sessions {
            if taken.promise.written(id) {
                kept.push(taken.held.opened.session.nonce);
            }
        }
        for nonce in kept {
            self.confirm(nonce, out);
        }
        let mut ended = vec![];
        self.unkept.retain_mut(|(nonce, promise)| {
            let written = promise.written(id);
            if written {
                ended.push(*nonce);
            }
            !written
        });
        ended
    }

    /// Ends sessions whose time for draws is over; whether there is something to be written.
    pub(super) fn timeout(&mut self, unix: u64) -> bool {
        let mut changed = self.save_at.is_some_and(|at| is_due(at, unix));
        while let Some(at) = self.sessions.iter().position(|taken| taken.stop() <= unix) {
            self.end(at, Reason::Expiring);
            changed = true;
        }
        changed
    }

    pub(super) fn next_timeout(&self) -> Option<u64> {
        self.sessions.iter().map(Taken::stop).chain(self.save_at).min()
    }

    pub(super) fn view(&self, unredeemed: Wei) -> PayerView {
        let open = self.sessions.iter().map(|taken| u64::from(taken.held.opened.index)).sum::<u64>();
        PayerView {
            payer: self.row.payer,
            credited: self.credited(),
            draws: self.row.tally.draws.saturating_add(open),
            wins: self.row.tally.wins,
            won: self.row.tally.won,
            unredeemed,
            sessions: self.sessions.len(),
        }
    }
}

impl Taken {
    /// When it is ended: a little after the payer stops to draw.
    const fn stop(&self) -> u64 {
        self.held.opened.session.expiry.saturating_sub(REDEMPTION).saturating_add(SKEW)
    }
}
