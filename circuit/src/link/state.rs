//! One link: its sessions, its clocks, and what it has to say.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use rand_core::Rng as _;
use wire::{Full, Writer};

use crate::error::DropReason;
use crate::keys::{BootId, DhPublic, Random, RelayId};
use crate::node::Now;
use crate::packet::{CircuitWord, Opened, PACKET, Packet, Sealed};

use super::control::{Frame, Hello, Ranges, Renewal, write_nack};
use super::dial::Dial;
use super::indices::Indices;
use super::limit::Second;
use super::rekey::Asked;
use super::repair::{Memory, Pace, Ring};
use super::session::Session;

const OLD_KEYS: Duration = Duration::from_secs(3);
const MOST_PONGS: usize = 8;
/// How many counters the NACKs of one second may make us look up.
const MOST_LOOKUPS: u32 = 65_536;

/// What all links of a node share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) rng: Random,
    pub(super) indices: Indices,
    pub(super) timers: BTreeSet<(Instant, u32)>,
    /// Links that have packets to send.
    pub(super) ready: VecDeque<u32>,
    pub(super) memory: Memory,
    pub(super) ring_bytes: usize,
}

impl Shared {
    pub(super) fn ring(&self) -> Ring {
        Ring::new(self.ring_bytes, self.memory.clone())
    }
}

/// Who began a link, which stays the initiator of its handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// We are a client that dialled this relay.
    ToEntry(RelayId),
    /// A client that stays anonymous dialled us.
    FromClient,
    /// We dialled this relay.
    ToRelay(RelayId),
    /// This relay dialled us.
    FromRelay(RelayId),
}

impl Role {
    pub(super) const fn relay(self) -> Option<RelayId> {
        match self {
            Self::ToEntry(id) | Self::ToRelay(id) | Self::FromRelay(id) => Some(id),
            Self::FromClient => None,
        }
    }

    pub(super) const fn dials(self) -> bool {
        matches!(self, Self::ToEntry(_) | Self::ToRelay(_))
    }

    const fn with_client(self) -> bool {
        matches!(self, Self::ToEntry(_) | Self::FromClient)
    }
}

/// Frames that wait for the next control packet.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one per frame that may wait")]
pub(super) struct Wants {
    pongs: Vec<u64>,
    pub(super) ping: bool,
    pub(super) nack: bool,
    pub(super) tail: bool,
    hello: bool,
    pub(super) rekey: bool,
    pub(super) rekeyed: bool,
}

/// A session that we offered a relay and that it has not used yet.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) hello: Hello,
    pub(super) boot: BootId,
}

/// Counters of a link.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) packets_in: u64,
    pub(super) packets_out: u64,
    pub(super) repaired: u64,
    pub(super) lost: u64,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) slot: u32,
    pub(super) role: Role,
    /// Whom to dial; none where the peer dialled.
    pub(super) dial_key: Option<DhPublic>,
    pub(super) address: SocketAddr,
    pub(super) boot: Option<BootId>,
    pub(super) up: bool,
    pub(super) circuits: u32,
    pub(super) rtt: Option<Duration>,
    pub(super) clock_ms: Option<i64>,
    pub(super) current: Option<Session>,
    /// At the initiator the session of [`Link::candidate`], at the responder that of the REKEYED it sent.
    pub(super) next: Option<Session>,
    pub(super) old: Option<(Session, Instant)>,
    pub(super) candidate: Option<Candidate>,
    pub(super) dial: Option<Dial>,
    pub(super) asked: Option<Asked>,
    pub(super) answered: Option<(Renewal, Renewal)>,
    pub(super) wants: Wants,
    /// Whether the link is in [`Shared::ready`].
    ready: bool,
    pub(super) armed: Option<Instant>,
    pings: [(u64, Option<Instant>); 4],
    pub(super) pinged: Instant,
    pub(super) shown: Instant,
    pub(super) last_sent: Instant,
    pub(super) last_kept: Instant,
    /// The counter of the packet of `last_kept`.
    highest_kept: u64,
    pub(super) last_cell: Instant,
    pub(super) unanswered: Option<Instant>,
    /// How many TAILs are still to be sent after the packet of `last_kept`.
    pub(super) tails: u32,
    sent: Second,
    repairs: Second,
    lookups: Second,
    pub(super) destroys: Second,
    pub(super) counts: Counts,
}

pub(super) fn passed(now: Instant, since: Instant, time: Duration) -> bool {
    now.saturating_duration_since(since) >= time
}

impl Link {
    pub(super) fn new(
        now: Now,
        slot: u32,
        role: Role,
        dial_key: Option<DhPublic>,
        address: SocketAddr,
    ) -> Self {
        let now = now.instant;
        Self {
            slot,
            role,
            dial_key,
            address,
            boot: None,
            up: false,
            circuits: 0,
            rtt: None,
            clock_ms: None,
            current: None,
            next: None,
            old: None,
            candidate: None,
            dial: None,
            asked: None,
            answered: None,
            wants: Wants::default(),
            ready: false,
            armed: None,
            pings: [(0, None); 4],
            pinged: now,
            shown: now,
            last_sent: now,
            last_kept: now,
            highest_kept: 0,
            last_cell: now,
            unanswered: None,
            tails: 0,
            sent: Second::default(),
            repairs: Second::default(),
            lookups: Second::default(),
            destroys: Second::default(),
            counts: Counts::default(),
        }
    }

    pub(super) fn pace(&self) -> Pace {
        Pace::new(self.rtt, self.role.with_client())
    }

    /// The session that opens packets with this receiver index.
    pub(super) fn session(&mut self, index: u32) -> Option<&mut Session> {
        [self.current.as_mut(), self.next.as_mut(), self.old.as_mut().map(|(session, _)| session)]
            .into_iter()
            .flatten()
            .find(|session| session.opener.index() == index)
    }

    fn is_current(&self, index: u32) -> bool {
        self.current.as_ref().is_some_and(|session| session.opener.index() == index)
    }

    // --- receiving ---------------------------------------------------------------------------------------------

    /// Notes that a packet of the session `index` was opened; true if that made the link come up or change keys.
    pub(super) fn heard(&mut self, now: Now, index: u32, counter: u64, shared: &mut Shared) -> bool {
        self.counts.packets_in += 1;
        self.unanswered = None;
        let pace = self.pace();
        let Some(session) = self.session(index) else {
            return false;
        };
        session.confirmed = true;
        if session.gaps.saw(now.instant, counter, pace) {
            self.arm_for_gaps(shared);
        }
        if self.is_current(index) {
            // The peer is there after all.
            if self.dial.is_some() && self.next.is_none() && self.up {
                self.end_dial(shared);
            }
            return false;
        }
        if self.next.as_ref().is_none_or(|next| next.opener.index() != index) {
            return false;
        }
        if let Some(next) = self.next.take() {
            if self.candidate.is_some() {
                // The index of the dial is now the session's.
                self.dial = None;
            }
            self.begin(now, next, shared);
        }
        true
    }

    /// Makes `session` the one that seals; the one before opens for 3 s more.
    // link.rekey.1
    pub(super) fn begin(&mut self, now: Now, session: Session, shared: &mut Shared) {
        self.drop_old(shared);
        self.old = self.current.take().map(|old| (old, now.after(OLD_KEYS)));
        if !session.confirmed {
            self.wants.ping = true;
            self.shown = now.instant;
            self.be_ready(shared);
        }
        self.current = Some(session);
        self.unanswered = None;
        if self.candidate.is_none()
            && let Some(next) = self.next.take()
        {
            shared.indices.free(next.opener.index());
        }
        self.tails = 0;
        self.wants.tail = false;
        self.wants.nack = false;
        self.wants.rekeyed = false;
        self.answered = None;
        if let Some(asked) = self.asked.take() {
            shared.indices.free(asked.index);
        }
        self.arm_now(now, shared);
    }

    pub(super) fn drop_old(&mut self, shared: &mut Shared) {
        if let Some((old, _)) = self.old.take() {
            shared.indices.free(old.opener.index());
        }
    }

    /// Ends the dial and what it led to.
    pub(super) fn end_dial(&mut self, shared: &mut Shared) {
        if let Some(dial) = self.dial.take() {
            shared.indices.free(dial.index);
        }
        if self.candidate.take().is_some() {
            self.next = None;
        }
    }

    /// Frees what the link holds of the shared tables.
    pub(super) fn end(&mut self, shared: &mut Shared) {
        self.end_dial(shared);
        self.drop_old(shared);
        for session in [self.current.take(), self.next.take()].into_iter().flatten() {
            shared.indices.free(session.opener.index());
        }
        if let Some(asked) = self.asked.take() {
            shared.indices.free(asked.index);
        }
        if let Some(at) = self.armed.take() {
            shared.timers.remove(&(at, self.slot));
        }
    }

    pub(super) fn pong(&mut self, token: u64, shared: &mut Shared) {
        if self.wants.pongs.len() < MOST_PONGS && !self.wants.pongs.contains(&token) {
            self.wants.pongs.push(token);
            self.be_ready(shared);
        }
    }

    pub(super) fn ponged(&mut self, now: Now, token: u64) {
        let mut sent = None;
        for (ours, at) in &mut self.pings {
            if *ours == token {
                sent = sent.or_else(|| at.take());
            }
        }
        if let Some(sent) = sent {
            self.measured(now.instant.saturating_duration_since(sent));
        }
    }

    pub(super) fn measured(&mut self, rtt: Duration) {
        self.rtt = Some(self.rtt.map_or(rtt, |smooth| (smooth * 7 + rtt) / 8));
    }

    // link.repair.1
    pub(super) fn tail(&mut self, now: Now, index: u32, counter: u64, shared: &mut Shared) {
        if self.session(index).is_some_and(|session| session.gaps.tail(now.instant, counter)) {
            self.arm_for_gaps(shared);
        }
    }

    // link.repair.2
    pub(super) fn nack(&mut self, now: Now, index: u32, ranges: Ranges<'_>, shared: &mut Shared) {
        let pace = self.pace();
        let now = now.instant;
        let mut budget = (self.sent.last(now) / 4 + 64).saturating_sub(self.repairs.last(now));
        let (mut repairs, mut lookups) = (self.repairs, self.lookups);
        let Some(session) = self.session(index) else {
            return;
        };
        let kept = session.ring.range();
        for (first, count) in ranges.iter() {
            let end = first.saturating_add(count.into()).min(kept.end);
            for counter in first.max(kept.start)..end {
                if budget == 0 || !lookups.allow(now, MOST_LOOKUPS) {
                    break;
                }
                if session.ring.repair(now, counter, pace) {
                    budget -= 1;
                    repairs.count(now);
                }
            }
        }
        (self.repairs, self.lookups) = (repairs, lookups);
        self.be_ready(shared);
    }

    // --- sending -----------------------------------------------------------------------------------------------

    /// Seals a packet under the current keys and keeps a copy for repair.
    pub(super) fn seal<'a>(
        &mut self,
        now: Now,
        packet: Packet<'a, Opened>,
        shared: &mut Shared,
    ) -> Result<Packet<'a, Sealed>, DropReason> {
        let pace = self.pace();
        let session = self.current.as_mut().ok_or(DropReason::LinkDown)?;
        let sealed = session.sealer.seal(now.instant, packet)?;
        session.ring.push(now.instant, sealed.counter(), sealed.bytes(), pace.keep());
        self.last_kept = now.instant;
        self.highest_kept = sealed.counter();
        self.tails = 2;
        self.unanswered.get_or_insert(now.instant);
        self.count_sent(now);
        self.arm(now.after(pace.interval()), shared);
        Ok(sealed)
    }

    fn count_sent(&mut self, now: Now) {
        self.last_sent = now.instant;
        self.sent.count(now.instant);
        self.counts.packets_out += 1;
    }

    pub(super) fn be_ready(&mut self, shared: &mut Shared) {
        if !self.ready {
            self.ready = true;
            shared.ready.push_back(self.slot);
        }
    }

    pub(super) const fn not_ready(&mut self) {
        self.ready = false;
    }

    pub(super) fn want_ping(&mut self, shared: &mut Shared) {
        self.wants.ping = true;
        self.be_ready(shared);
    }

    pub(super) fn want_hello(&mut self, now: Now, shared: &mut Shared) {
        self.wants.hello = true;
        self.shown = now.instant;
        self.be_ready(shared);
        self.arm_now(now, shared);
    }

    /// Writes the next packet of the link's own.
    pub(super) fn transmit(&mut self, now: Now, out: &mut [u8; PACKET], shared: &mut Shared) -> bool {
        if core::mem::take(&mut self.wants.hello) && self.transmit_hello(now, out, shared).is_ok() {
            return true;
        }
        if self.wants_control() && self.transmit_control(now, out, shared).is_ok() {
            return true;
        }
        let sessions = [self.current.as_mut(), self.old.as_mut().map(|(session, _)| session)];
        if sessions.into_iter().flatten().any(|session| session.ring.next_repair(out)) {
            self.counts.repaired += 1;
            return true;
        }
        false
    }

    const fn wants_control(&self) -> bool {
        let w = &self.wants;
        !w.pongs.is_empty() || w.ping || w.nack || w.tail || w.rekey || w.rekeyed
    }

    /// HELLO travels in the session that it proves, and is repeated by our clock, not by the ring.
    // link.handshake.5
    fn transmit_hello(
        &mut self,
        now: Now,
        out: &mut [u8; PACKET],
        shared: &mut Shared,
    ) -> Result<(), DropReason> {
        let hello = self.candidate.as_ref().ok_or(DropReason::LinkDown)?.hello;
        let token = self.new_token(now, shared);
        let mut packet = Packet::blank(out);
        packet.set_word(CircuitWord::CONTROL);
        let mut w = Writer::new(packet.cell());
        Frame::Hello(hello).write(&mut w)?;
        Frame::Ping(token).write(&mut w)?;
        w.pad();
        let next = self.next.as_mut().ok_or(DropReason::LinkDown)?;
        next.sealer.seal(now.instant, packet)?;
        self.count_sent(now);
        Ok(())
    }

    fn new_token(&mut self, now: Now, shared: &mut Shared) -> u64 {
        let token = shared.rng.next_u64();
        self.pings.rotate_right(1);
        let [newest, ..] = &mut self.pings;
        *newest = (token, Some(now.instant));
        self.pinged = now.instant;
        token
    }

    /// One packet with all frames that wait; what does not fit is dropped, for all frames are repeated.
    fn transmit_control(
        &mut self,
        now: Now,
        out: &mut [u8; PACKET],
        shared: &mut Shared,
    ) -> Result<(), DropReason> {
        let wants = core::mem::take(&mut self.wants);
        let mut packet = Packet::blank(out);
        packet.set_word(CircuitWord::CONTROL);
        let mut w = Writer::new(packet.cell());
        self.write_rekey(&wants, &mut w)?;
        if wants.ping {
            Frame::Ping(self.new_token(now, shared)).write(&mut w)?;
        }
        // link.repair.3
        let keep = w.written() > 0;
        wants.pongs.iter().try_for_each(|token| Frame::Pong(*token).write(&mut w))?;
        if wants.tail {
            Frame::Tail(self.highest_kept).write(&mut w)?;
        }
        if wants.nack {
            self.write_nack(now, &mut w)?;
        }
        if w.written() == 0 {
            return Err(DropReason::LinkDown);
        }
        w.pad();
        if keep {
            self.seal(now, packet, shared)?;
        } else {
            let session = self.current.as_mut().ok_or(DropReason::LinkDown)?;
            session.sealer.seal(now.instant, packet)?;
            self.count_sent(now);
        }
        Ok(())
    }

    fn write_rekey(&self, wants: &Wants, w: &mut Writer<'_>) -> Result<(), Full> {
        if wants.rekey
            && let Some(asked) = &self.asked
        {
            let renewal = Renewal { index: asked.index, ephemeral: asked.secret.public() };
            Frame::Rekey(renewal).write(w)?;
        }
        if wants.rekeyed
            && let Some((_, ours)) = self.answered
        {
            Frame::Rekeyed(ours).write(w)?;
        }
        Ok(())
    }

    fn write_nack(&mut self, now: Now, w: &mut Writer<'_>) -> Result<(), Full> {
        let pace = self.pace();
        let Some(session) = &mut self.current else {
            return Ok(());
        };
        let mut missing = Vec::new();
        self.counts.lost += session.gaps.report(now.instant, pace, session.opener.window(), &mut missing);
        if missing.is_empty() { Ok(()) } else { write_nack(&missing, w) }
    }
}
