//! The responder: first messages, cookies, and the packet that makes an initiator believed (docs/spec/01-link.md
//! sections 3 and 5).

use core::time::Duration;
use std::net::SocketAddr;
use std::time::Instant;

use rand_core::Rng as _;

use crate::error::DropReason;
use crate::keys::{DhSecret, RelayId};
use crate::node::Now;
use crate::packet::{Opened, PACKET, Packet, PacketType, Sealed};

use super::control::{Frame, Frames, Hello};
use super::cookie::write_cookie;
use super::handshake::{Accepted, Choice, Kind, Mac2, Noise};
use super::indices::Place;
use super::session::{Ends, Session, Side};
use super::state::Role;
use super::{Arrival, LinkEvent, Links};

/// An initiator gives up after 4 s; its last packets may take some time more.
const FORGET: Duration = Duration::from_secs(5);
const MOST_PER_PEER: usize = 3;

/// A handshake that we answered and whose initiator has not shown itself.
#[derive(Debug)]
pub(super) struct Answer {
    session: Session,
    from: SocketAddr,
    hh: [u8; 32],
    relay: Option<RelayId>,
    born: Instant,
}

impl Links {
    /// A first message came.
    pub(super) fn take_first(
        &mut self,
        now: Now,
        from: SocketAddr,
        first: &Noise<'_>,
    ) -> Result<(), DropReason> {
        let (Some(own), Some(keys)) = (&self.own, &self.config.relay) else {
            return Err(DropReason::Handshake);
        };
        // link.dos.1
        if !first.mac1_is_right(&own.mac1_key) {
            return Err(DropReason::Handshake);
        }
        let mac2 = first.mac2(self.cookies.accepted(now.instant, from));
        if mac2 == Mac2::Wrong {
            return Err(DropReason::Handshake);
        }
        // link.dos.2
        self.load.count(now.instant);
        let most = self.config.limits.first_messages_per_second_under_load;
        if mac2 == Mac2::Absent && self.load.last(now.instant) > most {
            return self.send_cookie(now, from, first);
        }
        // link.dos.3
        if !self.first_messages.take(now.instant, from.ip()) {
            return Err(DropReason::Limit);
        }
        let ephemeral = DhSecret::random(&mut self.shared.rng);
        let accepted = Accepted::read(&own.responder, &keys.link, ephemeral, first)?;
        // link.handshake.2
        let suite = self.config.suites.choose(accepted.offered).ok_or(DropReason::Handshake)?;
        let relay = match (first.kind, accepted.static_key) {
            (Kind::FirstIk, Some(key)) => {
                let known = self.relays.get_mut(&key).ok_or(DropReason::Handshake)?;
                // link.handshake.3
                if accepted.unix_ms <= known.last_ms {
                    return Err(DropReason::Handshake);
                }
                known.last_ms = accepted.unix_ms;
                Some(known.id)
            }
            _ => None,
        };
        self.answer(now, from, relay, suite, accepted)
    }

    fn answer(
        &mut self,
        now: Now,
        from: SocketAddr,
        relay: Option<RelayId>,
        suite: crate::aead::Suite,
        accepted: Accepted,
    ) -> Result<(), DropReason> {
        // link.handshake.4
        let same = |answer: &Answer| answer.relay == relay && (relay.is_some() || answer.from == from);
        let mut unfinished = self.answers.iter().filter(|(_, a)| same(a)).map(|(n, _)| *n);
        let oldest_of_peer = unfinished.next().filter(|_| unfinished.count() + 1 >= MOST_PER_PEER);
        if let Some(oldest) = oldest_of_peer {
            self.forget_answer(oldest);
        } else if self.answers.len() >= self.config.limits.unfinished
            && let Some(oldest) = self.answers.first_key_value().map(|(n, _)| *n)
        {
            self.forget_answer(oldest);
        }
        let number = self.next_answer;
        self.next_answer = number.wrapping_add(1);
        let shared = &mut self.shared;
        let ours = shared.indices.claim(&mut shared.rng, Place::Answer(number)).ok_or(DropReason::Limit)?;
        let ends = Ends { side: Side::Responder, suite, ours, theirs: accepted.index };
        // link.seen.1
        let (boot, seen) = (self.config.boot, Some(from));
        let choice = Choice { suite, index: ours, boot, unix_ms: now.unix_ms, seen };
        let mut packet = Box::new([0; PACKET]);
        let (keys, hh) =
            accepted.answer(choice, &mut packet).inspect_err(|_| self.shared.indices.free(ours))?;
        let session = Session::new(now.instant, &keys, ends, self.shared.ring());
        self.answers.insert(number, Answer { session, from, hh, relay, born: now.instant });
        self.post(from, packet);
        Ok(())
    }

    // link.dos.2
    fn send_cookie(&mut self, now: Now, from: SocketAddr, first: &Noise<'_>) -> Result<(), DropReason> {
        let Some(own) = &self.own else {
            return Err(DropReason::Handshake);
        };
        if !self.cookie_answers.take(now.instant, from.ip()) {
            return Err(DropReason::Limit);
        }
        let cookie = self.cookies.make(now.instant, &mut self.shared.rng, from);
        let mut salt = [0; 32];
        self.shared.rng.fill_bytes(&mut salt);
        let mut packet = Box::new([0; PACKET]);
        write_cookie(&own.responder.link_key, first.mac1, first.sender, &salt, &cookie, &mut packet)?;
        self.post(from, packet);
        Ok(())
    }

    /// A data packet came for a handshake that we answered.
    pub(super) fn open_answered<'a>(
        &mut self,
        now: Now,
        from: SocketAddr,
        number: u32,
        packet: Packet<'a, Sealed>,
    ) -> Result<Arrival<'a>, DropReason> {
        let answer = self.answers.get_mut(&number).ok_or(DropReason::UnknownLink)?;
        // link.address.2
        if answer.from != from {
            return Err(DropReason::WrongAddress);
        }
        let (index, counter) = (packet.index(), packet.counter());
        // link.handshake.4
        let mut packet = answer.session.opener.open(packet)?;
        let hello = match (answer.relay, packet.word().kind()) {
            (_, None) => return Err(DropReason::Malformed),
            (None, Some(_)) => None,
            // link.handshake.5
            (Some(relay), Some(PacketType::Control)) => {
                let hello = hello_in(&mut packet)?;
                if hello.id != relay || hello.verify(&answer.hh).is_err() {
                    self.forget_answer(number);
                    return Err(DropReason::Misbehaved);
                }
                Some(hello)
            }
            (Some(_), Some(_)) => {
                self.forget_answer(number);
                return Err(DropReason::Misbehaved);
            }
        };
        let answer = self.answers.remove(&number).ok_or(DropReason::UnknownLink)?;
        let Some(slot) = self.believe(now, answer, hello) else {
            self.shared.indices.free(index);
            return Err(DropReason::Limit);
        };
        self.deliver(now, slot, index, counter, packet)
    }

    /// The initiator has shown itself: its session becomes a link, or replaces that of its relay's link.
    fn believe(&mut self, now: Now, answer: Answer, hello: Option<Hello>) -> Option<u32> {
        let mut known = None;
        if let Some(hello) = hello {
            self.booted(hello.id, hello.boot);
            known = self.by_relay.get(&hello.id).and_then(|pair| pair.accepted);
        }
        let role = hello.map_or(Role::FromClient, |hello| Role::FromRelay(hello.id));
        let new = known.is_none();
        let slot = match known {
            Some(slot) => slot,
            None => self.insert(now, role, None, answer.from)?,
        };
        let link = super::at(&mut self.slots, slot)?;
        let mut session = answer.session;
        self.shared.indices.lead(session.opener.index(), Place::Link(slot));
        session.confirmed = true;
        link.up = true;
        link.address = answer.from;
        link.boot = hello.map(|hello| hello.boot);
        link.begin(now, session, &mut self.shared);
        link.want_ping(&mut self.shared);
        if new {
            let link = self.id_of(slot)?;
            self.events.push_back(LinkEvent::Up { link });
        }
        Some(slot)
    }

    pub(super) fn forget_answer(&mut self, number: u32) {
        if let Some(answer) = self.answers.remove(&number) {
            self.shared.indices.free(answer.session.opener.index());
        }
    }

    /// When the oldest unfinished handshake is forgotten.
    pub(super) fn answers_deadline(&self) -> Option<Instant> {
        self.answers.first_key_value().map(|(_, answer)| answer.born + FORGET)
    }

    pub(super) fn forget_late_answers(&mut self, now: Now) {
        while let Some((number, answer)) = self.answers.first_key_value() {
            if answer.born + FORGET > now.instant {
                break;
            }
            let number = *number;
            self.forget_answer(number);
        }
    }
}

fn hello_in(packet: &mut Packet<'_, Opened>) -> Result<Hello, DropReason> {
    let hello = Frames::new(packet.cell()).find_map(|frame| match frame {
        Ok(Frame::Hello(hello)) => Some(hello),
        _ => None,
    });
    hello.ok_or(DropReason::Misbehaved)
}
