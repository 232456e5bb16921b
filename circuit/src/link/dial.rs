//! The initiator: first messages, their answers, and cookies (docs/spec/01-link.md section 3).

use core::time::Duration;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use crate::error::DropReason;
use crate::keys::{BootId, DhPublic, DhSecret, NetworkId, Secret};
use crate::node::Now;
use crate::packet::PACKET;

use super::control::Hello;
use super::cookie::CookieMessage;
use super::handshake::{Answered, Initiator, Noise, Offer, Responder};
use super::indices::Place;
use super::session::{Ends, Session, Side};
use super::state::{Candidate, Link, Role, Shared};
use super::{LinkEvent, LinkId, Links, Peer, Slot};

/// How long the first messages wait for an answer; the later ones wait as long as the last of these.
const WAITS: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// First messages that may still be answered.
const MOST_ATTEMPTS: usize = 3;

/// A handshake that we began.
#[derive(Debug)]
pub(super) struct Dial {
    /// The receiver index of every attempt.
    pub(super) index: u32,
    pub(super) started: Instant,
    /// When the next first message is due.
    pub(super) next: Instant,
    tries: usize,
    /// The newest last.
    attempts: VecDeque<(Initiator, Instant)>,
    cookie: Option<Secret<16>>,
    /// Whether a cookie has made us repeat early, which happens once.
    hurried: bool,
}

impl Links {
    /// The live link to a relay, whoever began it, or a new one.
    ///
    /// Until [`LinkEvent::Up`] the link seals nothing; if nobody answers, [`LinkEvent::Lost`] tells after 4 s.
    /// Refused as [`DropReason::Limit`] if the table is full, as [`DropReason::Misbehaved`] if the peer is ourselves,
    /// and as [`DropReason::Handshake`] if its link key is none.
    pub fn dial(&mut self, now: Now, peer: &Peer) -> Result<LinkId, DropReason> {
        if self.own.as_ref().is_some_and(|own| own.responder.id == peer.id) {
            return Err(DropReason::Misbehaved);
        }
        let known = self.by_relay.get(&peer.id).copied().unwrap_or_default();
        // Who dialled us and is silent may have restarted: only its own handshake, or ours, can tell.
        let accepted = known.accepted.filter(|slot| self.at(*slot).is_some_and(|link| link.answers(now)));
        if let Some(slot) = known.dialled.or(accepted) {
            // link.address.1
            if let Some(link) = self.at(slot).filter(|link| !link.up) {
                link.address = peer.address;
                link.dial_key = Some(peer.link_key);
            }
            return self.id_of(slot).ok_or(DropReason::LinkDown);
        }
        let role = if self.own.is_some() { Role::ToRelay(peer.id) } else { Role::ToEntry(peer.id) };
        let slot = self.insert(now, role, Some(peer.link_key), peer.address).ok_or(DropReason::Limit)?;
        self.dial_slot(now, slot).inspect_err(|_| self.remove(slot))?;
        self.id_of(slot).ok_or(DropReason::LinkDown)
    }

    /// Begins a handshake on the link, or repeats its first message.
    // link.handshake.7
    pub(super) fn dial_slot(&mut self, now: Now, slot: u32) -> Result<(), DropReason> {
        let Some(link) = super::at(&mut self.slots, slot) else {
            return Ok(());
        };
        if link.dial.is_none() {
            let place = Place::Link(slot);
            let index = self.shared.indices.claim(&mut self.shared.rng, place).ok_or(DropReason::Limit)?;
            link.dial = Some(Dial {
                index,
                started: now.instant,
                next: now.instant,
                tries: 0,
                attempts: VecDeque::new(),
                cookie: None,
                hurried: false,
            });
        }
        let (Some(dial), Some(responder)) =
            (&mut link.dial, responder(self.config.network, link.role, link.dial_key))
        else {
            return Err(DropReason::LinkDown);
        };
        let wait = WAITS.get(dial.tries).or(WAITS.last()).copied().unwrap_or_default();
        dial.next = now.after(wait);
        dial.tries += 1;
        // link.handshake.3: every first message has a later time than the one before.
        self.time_sent = now.unix_ms.max(self.time_sent + 1);
        let offer = Offer {
            static_key: self.config.relay.as_ref().map(|keys| &keys.link),
            ephemeral: DhSecret::random(&mut self.shared.rng),
            suites: self.config.suites,
            index: dial.index,
            unix_ms: self.time_sent,
            // link.dos.4
            cookie: dial.cookie.take(),
        };
        let mut packet = Box::new([0; PACKET]);
        let attempt = Initiator::start(&responder, offer, &mut packet)?;
        // link.handshake.4
        if dial.attempts.len() >= MOST_ATTEMPTS {
            dial.attempts.pop_front();
        }
        dial.attempts.push_back((attempt, now.instant));
        link.arm_now(now, &mut self.shared);
        let to = link.address;
        self.post(to, packet);
        Ok(())
    }

    /// A cookie came for our latest first message.
    // link.dos.4
    pub(super) fn take_cookie(
        &mut self,
        now: Now,
        from: SocketAddr,
        message: &CookieMessage<'_>,
    ) -> Result<(), DropReason> {
        let (link, _) = dialling(&mut self.slots, &self.shared, from, message.receiver)?;
        let link_key = link.dial_key.ok_or(DropReason::Handshake)?;
        let dial = link.dial.as_mut().ok_or(DropReason::Handshake)?;
        let (latest, _) = dial.attempts.back().ok_or(DropReason::Handshake)?;
        dial.cookie = Some(message.open(&link_key, latest.mac1())?);
        if !dial.hurried {
            dial.hurried = true;
            dial.next = now.instant;
        }
        link.arm_now(now, &mut self.shared);
        Ok(())
    }

    /// An answer came.
    pub(super) fn take_answer(
        &mut self,
        now: Now,
        from: SocketAddr,
        message: &Noise<'_>,
    ) -> Result<(), DropReason> {
        let (link, slot) = dialling(&mut self.slots, &self.shared, from, message.receiver)?;
        let dial = link.dial.as_mut().ok_or(DropReason::Handshake)?;
        let (attempt, sent) = dial
            .attempts
            .iter_mut()
            .rev()
            .find(|(attempt, _)| attempt.owns(message))
            .ok_or(DropReason::Handshake)?;
        let answered = attempt.finish(message)?;
        let rtt = now.instant.saturating_duration_since(*sent);
        dial.attempts.clear();
        dial.next = now.after(Duration::from_secs(1));
        let ends =
            Ends { side: Side::Initiator, suite: answered.suite, ours: dial.index, theirs: message.sender };
        link.measured(rtt);
        link.clock_ms = Some(clock_difference(answered.unix_ms, now.unix_ms, rtt));
        if let Some(seen) = answered.seen {
            self.witnesses.note(now.instant, from.ip(), seen);
        }
        let ring = self.shared.ring();
        let session = Session::new(now.instant, &answered.keys, ends, ring);
        if matches!(self.at(slot).map(|link| link.role), Some(Role::ToEntry(_))) {
            self.entry_answered(now, slot, session, answered.boot);
        } else {
            self.relay_answered(now, slot, session, &answered);
        }
        Ok(())
    }

    /// An entry sees a client's every handshake as a new link, so ours is a new one too.
    fn entry_answered(&mut self, now: Now, slot: u32, session: Session, boot: BootId) {
        let Some(link) = super::at(&mut self.slots, slot) else {
            return;
        };
        // The index of the dial is now the session's.
        link.dial = None;
        link.boot = Some(boot);
        link.begin(now, session, &mut self.shared);
        link.drop_old(&mut self.shared);
        if link.up {
            self.renew(now, slot);
        } else {
            self.come_up(slot);
        }
    }

    /// A relay must be shown who we are before it takes anything else, and is believed when it has shown that it knows.
    // link.handshake.5
    fn relay_answered(&mut self, now: Now, slot: u32, session: Session, answered: &Answered) {
        let (Some(link), Some(keys)) = (super::at(&mut self.slots, slot), &self.config.relay) else {
            return;
        };
        let hello = Hello::sign(&keys.identity, &answered.hh, self.config.boot);
        link.candidate = Some(Candidate { hello, boot: answered.boot });
        link.next = Some(session);
        link.want_hello(now, &mut self.shared);
    }

    /// The relay used the session that we offered it.
    // link.handshake.6
    pub(super) fn candidate_confirmed(&mut self, now: Now, slot: u32) {
        let Some(link) = self.at(slot) else { return };
        let (Some(candidate), Some(relay)) = (link.candidate.take(), link.role.relay()) else {
            return;
        };
        let restarted = link.boot.is_some_and(|boot| boot != candidate.boot);
        link.boot = Some(candidate.boot);
        if !link.up {
            self.come_up(slot);
        } else if restarted {
            self.renew(now, slot);
        }
        self.booted(relay, candidate.boot);
    }

    fn come_up(&mut self, slot: u32) {
        if let Some(link) = self.at(slot) {
            link.up = true;
        }
        if let Some(link) = self.id_of(slot) {
            self.events.push_back(LinkEvent::Up { link });
        }
    }
}

/// The link whose dial has this index, if `from` is whom it dials.
fn dialling<'a>(
    slots: &'a mut [Slot],
    shared: &Shared,
    from: SocketAddr,
    index: u32,
) -> Result<(&'a mut Link, u32), DropReason> {
    let Some(Place::Link(slot)) = shared.indices.find(index) else {
        return Err(DropReason::UnknownLink);
    };
    let link = super::at(slots, slot).ok_or(DropReason::UnknownLink)?;
    if link.dial.as_ref().is_none_or(|dial| dial.index != index) {
        return Err(DropReason::Handshake);
    }
    if link.address == from { Ok((link, slot)) } else { Err(DropReason::WrongAddress) }
}

fn responder(network: NetworkId, role: Role, link_key: Option<DhPublic>) -> Option<Responder> {
    Some(Responder { network, id: role.relay()?, link_key: link_key? })
}

/// The peer's clock less ours, when its answer came half a round trip ago.
fn clock_difference(theirs: u64, ours: u64, rtt: Duration) -> i64 {
    let half = i128::try_from((rtt / 2).as_millis()).unwrap_or(0);
    let difference = i128::from(theirs) + half - i128::from(ours);
    i64::try_from(difference).unwrap_or(if difference > 0 { i64::MAX } else { i64::MIN })
}
