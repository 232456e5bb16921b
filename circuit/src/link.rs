//! Links: authenticated datagram sessions between neighbours (docs/spec/01-link.md).
//!
//! [`Links`] holds all links of a node. It is pure: packets, time and a seed come in, packets and events go out.
//! The data path is [`Links::open`] and [`Links::seal`], both in place; handshakes, control packets and repairs come
//! out of [`Links::poll_transmit`].

use core::fmt;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use rand_core::{Rng as _, SeedableRng as _};
use wire::Writer;

use crate::aead::Suite;
use crate::error::DropReason;
use crate::keys::{BootId, DhPublic, DhSecret, IdentitySecret, NetworkId, Random, RelayId, Secret};
use crate::node::Now;
use crate::packet::{CircuitWord, Opened, PACKET, Packet, PacketType, Sealed};

mod accept;
mod clock;
pub mod control;
pub mod cookie;
mod dial;
pub mod handshake;
mod indices;
mod limit;
mod rekey;
mod repair;
pub mod session;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod witness;

pub use handshake::Suites;
pub use witness::{Seen, place};

use accept::Answer;
use clock::Due;
use control::{Frame, Frames};
use cookie::Cookies;
use handshake::{Kind, Message, Responder, first_mac1_key};
use indices::{Indices, Place};
pub(crate) use limit::Buckets;
use limit::Second;
use repair::Memory;
use state::{Link, Role, Shared};
use witness::Witnesses;

/// Packets of our own that wait to be sent; more are dropped.
const MOST_POSTED: usize = 1024;
/// A full table makes room by ending the longest idle of so many links, if idle for so long.
const EVICTION_SAMPLE: usize = 16;
const EVICTION_IDLE: Duration = Duration::from_secs(10);
/// DESTROYs for unknown circuits per second and link.
const MOST_DESTROYS: u32 = 16;

/// What a node is on its links.
#[derive(Debug)]
pub struct LinkConfig {
    /// The network; nodes of another one do not understand us.
    pub network: NetworkId,
    /// The keys of a relay; `None` for a client, which accepts no handshakes and stays anonymous.
    pub relay: Option<RelayKeys>,
    /// Changes whenever the node has lost its circuits.
    pub boot: BootId,
    /// What we offer and accept, preferred first.
    pub suites: Suites,
    /// The limits of tables and rates.
    pub limits: LinkLimits,
}

/// The secrets of a relay on its links.
#[derive(Clone, Debug)]
pub struct RelayKeys {
    /// The relay's name.
    pub identity: IdentitySecret,
    /// The link key of its descriptor.
    pub link: DhSecret,
}

/// The limits of tables and rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    /// Links; a full table ends idle ones.
    pub links: usize,
    /// Answered handshakes whose initiator has not shown itself; the oldest is forgotten.
    pub unfinished: usize,
    /// Bytes of sealed packets that one link keeps for repair.
    pub ring_bytes: usize,
    /// Bytes of sealed packets that all links keep for repair.
    pub ring_total: usize,
    /// With more first messages than this in a second, strangers need a cookie.
    pub first_messages_per_second_under_load: u32,
}

impl Default for LinkLimits {
    fn default() -> Self {
        Self {
            links: 8192,
            unfinished: 1024,
            ring_bytes: 4 << 20,
            ring_total: 64 << 20,
            first_messages_per_second_under_load: 200,
        }
    }
}

/// A relay to be dialled, as its verified descriptor names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub id: RelayId,
    /// Its link key.
    pub link_key: DhPublic,
    /// Its address.
    pub address: SocketAddr,
}

/// Names a link; the name of one that is gone never names another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct LinkId {
    slot: u32,
    generation: u32,
}

#[cfg(test)]
impl LinkId {
    /// A name for tests of tables.
    pub(crate) const fn sample(slot: u32) -> Self {
        Self { slot, generation: 0 }
    }
}

/// What became of a received packet.
#[derive(Debug)]
pub enum Arrival<'a> {
    /// A cell, setup, reply or destroy for the caller; its circuit id is not zero.
    Circuit {
        /// The link that it came on.
        link: LinkId,
        /// The opened packet.
        packet: Packet<'a, Opened>,
    },
    /// A control packet with frames of payments, the link's own in it being done with.
    Payments {
        /// The link that it came on.
        link: LinkId,
        /// The opened packet.
        packet: Packet<'a, Opened>,
    },
    /// The packet was the link's own.
    Consumed,
}

/// What happens to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link can seal; it may be one that a peer began.
    ///
    /// The first circuit packet of a link may be returned before its event.
    Up {
        /// The new link.
        link: LinkId,
    },
    /// The link is dead, closed, or its peer has restarted: circuits on it are gone, and its name is no longer valid.
    Lost {
        /// The link that was.
        link: LinkId,
    },
}

/// What there is to show of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its name.
    pub link: LinkId,
    /// The relay at the other end; `None` for a client.
    pub peer: Option<RelayId>,
    /// Whether it can seal.
    pub up: bool,
    /// Whether the other end began it.
    pub inbound: bool,
    /// The peer's clock less ours in milliseconds, if we began it.
    pub clock_ms: Option<i64>,
    /// The smoothed round-trip time.
    pub rtt: Option<Duration>,
    /// The circuits that hold it.
    pub circuits: u32,
    /// Packets that were opened.
    pub packets_in: u64,
    /// Packets that were sealed.
    pub packets_out: u64,
    /// Bytes of the packets that were opened.
    pub bytes_in: u64,
    /// Bytes of the packets that were sealed.
    pub bytes_out: u64,
    /// Packets that were sent again because the peer missed them.
    pub repaired: u64,
    /// Packets of the peer that never came.
    pub lost: u64,
    /// The suite of the session.
    pub suite: Option<Suite>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    link: Option<Box<Link>>,
}

/// The links that we have with one relay.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    dialled: Option<u32>,
    accepted: Option<u32>,
}

/// What first messages to us are made for.
#[derive(Debug)]
struct Own {
    responder: Responder,
    mac1_key: Secret<32>,
}

/// A relay whose handshakes we accept.
#[derive(Clone, Copy, Debug)]
struct Known {
    id: RelayId,
    /// The time in its last first message.
    last_ms: u64,
}

/// All links of a node.
pub struct Links {
    config: LinkConfig,
    own: Option<Own>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_relay: BTreeMap<RelayId, Pair>,
    relays: BTreeMap<DhPublic, Known>,
    answers: BTreeMap<u32, Answer>,
    next_answer: u32,
    cookies: Cookies,
    load: Second,
    first_messages: Buckets,
    cookie_answers: Buckets,
    /// The time in our last first message.
    time_sent: u64,
    witnesses: Witnesses,
    posted: VecDeque<(SocketAddr, Box<[u8; PACKET]>)>,
    events: VecDeque<LinkEvent>,
    shared: Shared,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

fn at(slots: &mut [Slot], slot: u32) -> Option<&mut Link> {
    slots.get_mut(usize::try_from(slot).ok()?)?.link.as_deref_mut()
}

impl Links {
    /// No links yet; `seed` feeds all keys, indices and salts.
    pub fn new(config: LinkConfig, seed: [u8; 32]) -> Self {
        let mut rng = Random::from_seed(seed);
        let own = config.relay.as_ref().map(|keys| {
            let link_key = keys.link.public();
            let responder = Responder { network: config.network, id: keys.identity.id(), link_key };
            Own { responder, mac1_key: first_mac1_key(&link_key) }
        });
        Self {
            own,
            slots: Vec::new(),
            free: Vec::new(),
            by_relay: BTreeMap::new(),
            relays: BTreeMap::new(),
            answers: BTreeMap::new(),
            next_answer: 0,
            cookies: Cookies::default(),
            load: Second::default(),
            first_messages: Buckets::new(50, 100, &mut rng),
            cookie_answers: Buckets::new(20, 20, &mut rng),
            time_sent: 0,
            witnesses: Witnesses::default(),
            posted: VecDeque::new(),
            events: VecDeque::new(),
            shared: Shared {
                rng,
                indices: Indices::new(),
                timers: BTreeSet::new(),
                ready: VecDeque::new(),
                memory: Memory::new(config.limits.ring_total),
                ring_bytes: config.limits.ring_bytes,
            },
            config,
        }
    }

    /// Replaces the relays whose handshakes are accepted: link keys and names of verified descriptors.
    pub fn set_relays(&mut self, relays: impl IntoIterator<Item = (DhPublic, RelayId)>) {
        let before = core::mem::take(&mut self.relays);
        self.relays = relays
            .into_iter()
            .map(|(key, id)| {
                let last_ms = before.get(&key).map_or(0, |known| known.last_ms);
                (key, Known { id, last_ms })
            })
            .collect();
    }

    // --- the data path -----------------------------------------------------------------------------------------

    /// Opens a received packet in place; an error changes nothing that a stranger could gain from.
    pub fn open<'a>(
        &mut self,
        now: Now,
        from: SocketAddr,
        packet: Packet<'a, Sealed>,
    ) -> Result<Arrival<'a>, DropReason> {
        let (index, counter) = (packet.index(), packet.counter());
        if index == 0 {
            return self.open_handshake(now, from, packet.bytes()).map(|()| Arrival::Consumed);
        }
        // link.header.1
        let slot = match self.shared.indices.find(index).ok_or(DropReason::UnknownLink)? {
            Place::Link(slot) => slot,
            Place::Answer(number) => return self.open_answered(now, from, number, packet),
        };
        let link = at(&mut self.slots, slot).ok_or(DropReason::UnknownLink)?;
        // link.address.2
        if link.address != from {
            return Err(DropReason::WrongAddress);
        }
        let session = link.session(index).ok_or(DropReason::UnknownLink)?;
        let packet = session.opener.open(packet)?;
        self.deliver(now, slot, index, counter, packet)
    }

    /// Seals a packet in place; the caller has set word and cell.
    pub fn seal<'a>(
        &mut self,
        now: Now,
        link: LinkId,
        packet: Packet<'a, Opened>,
    ) -> Result<(Packet<'a, Sealed>, SocketAddr), DropReason> {
        let link = get(&mut self.slots, link).filter(|link| link.up).ok_or(DropReason::LinkDown)?;
        let sealed = link.seal(now, packet, &mut self.shared)?;
        link.last_cell = now.instant;
        Ok((sealed, link.address))
    }

    /// Takes note of an opened packet, and acts on it if it is the link's own.
    fn deliver<'a>(
        &mut self,
        now: Now,
        slot: u32,
        index: u32,
        counter: u64,
        mut packet: Packet<'a, Opened>,
    ) -> Result<Arrival<'a>, DropReason> {
        let link = at(&mut self.slots, slot).ok_or(DropReason::UnknownLink)?;
        if link.heard(now, index, counter, &mut self.shared) {
            self.candidate_confirmed(now, slot);
        }
        let word = packet.word();
        match word.kind() {
            Some(PacketType::Control) => {
                let payments = self.control(now, slot, index, packet.cell())?;
                match self.id_of(slot) {
                    Some(link) if payments => Ok(Arrival::Payments { link, packet }),
                    _ => Ok(Arrival::Consumed),
                }
            }
            Some(_) if word.id() != 0 => {
                let link = self.id_of(slot).ok_or(DropReason::UnknownLink)?;
                if let Some(link) = self.at(slot) {
                    link.last_cell = now.instant;
                }
                Ok(Arrival::Circuit { link, packet })
            }
            _ => Err(DropReason::Malformed),
        }
    }

    /// Acts on the frames of a control packet that came in the session `index`; whether there are others for our owner.
    fn control(&mut self, now: Now, slot: u32, index: u32, cell: &[u8]) -> Result<bool, DropReason> {
        let mut frames = Frames::new(cell);
        for frame in frames.by_ref() {
            // link.control.1
            let frame = frame?;
            let Some(link) = at(&mut self.slots, slot) else {
                return Ok(false);
            };
            let shared = &mut self.shared;
            match frame {
                Frame::Ping(token) => link.pong(token, shared),
                Frame::Pong(token) => link.ponged(now, token),
                Frame::Nack(ranges) => link.nack(now, index, ranges, shared),
                Frame::Tail(counter) => link.tail(now, index, counter, shared),
                // It has done its work when the session was confirmed.
                Frame::Hello(_) => {}
                Frame::Rekey(theirs) => link.rekey(now, index, theirs, shared)?,
                Frame::Rekeyed(theirs) => link.rekeyed(now, index, theirs, shared)?,
                Frame::Close => {
                    self.lose(slot);
                    return Ok(false);
                }
            }
        }
        Ok(frames.payments())
    }

    fn open_handshake(&mut self, now: Now, from: SocketAddr, bytes: &[u8; PACKET]) -> Result<(), DropReason> {
        match Message::parse(bytes)? {
            Message::Cookie(message) => self.take_cookie(now, from, &message),
            Message::Noise(message) if message.kind == Kind::Answer => self.take_answer(now, from, &message),
            Message::Noise(message) => self.take_first(now, from, &message),
        }
    }

    // --- time and output ---------------------------------------------------------------------------------------

    /// Does what is due by [`Links::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((due, slot)) = self.shared.timers.first().copied() {
            if due > now.instant {
                break;
            }
            self.shared.timers.pop_first();
            let Some(link) = at(&mut self.slots, slot) else {
                continue;
            };
            match link.tick(now, &mut self.shared) {
                Due::Nothing => {}
                Due::Dial => {
                    if self.dial_slot(now, slot).is_err() {
                        self.lose(slot);
                    }
                }
                Due::Close => self.close(now, slot),
                Due::Dead => self.lose(slot),
            }
        }
        self.forget_late_answers(now);
    }

    /// When [`Links::handle_timeout`] is to be called next.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let links = self.shared.timers.first().map(|(at, _)| *at);
        [links, self.answers_deadline()].into_iter().flatten().min()
    }

    /// Writes the next packet of the links' own into `out`, and says where it goes.
    pub fn poll_transmit(&mut self, now: Now, out: &mut [u8; PACKET]) -> Option<SocketAddr> {
        if let Some((to, packet)) = self.posted.pop_front() {
            *out = *packet;
            return Some(to);
        }
        while let Some(slot) = self.shared.ready.front().copied() {
            if let Some(link) = at(&mut self.slots, slot) {
                if link.transmit(now, out, &mut self.shared) {
                    return Some(link.address);
                }
                link.not_ready();
            }
            self.shared.ready.pop_front();
        }
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    // --- what there is to know ---------------------------------------------------------------------------------

    /// Whether the link can seal.
    pub fn is_up(&self, link: LinkId) -> bool {
        self.link(link).is_some_and(|link| link.up)
    }

    /// The relay at the other end; `None` for a client, or if there is no such link.
    pub fn peer(&self, link: LinkId) -> Option<RelayId> {
        self.link(link)?.role.relay()
    }

    /// Where the other end is; unspecified if there is no such link.
    pub fn source(&self, link: LinkId) -> IpAddr {
        self.link(link).map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |link| link.address.ip())
    }

    /// Whether the other end is a client.
    pub fn is_client(&self, link: LinkId) -> bool {
        self.link(link).is_some_and(|link| link.role == Role::FromClient)
    }

    /// Whether the other end began the link while we had begun none to it: what we sent has opened no way for it.
    // directory.call.3
    pub fn came_in(&self, link: LinkId) -> bool {
        let ours = |relay| self.by_relay.get(&relay).is_some_and(|pair| pair.dialled.is_some());
        self.link(link).is_some_and(|link| !link.role.dials() && !link.role.relay().is_some_and(ours))
    }

    /// The opener bit of circuits that we open on this link (section 2).
    pub fn our_opener(&self, link: LinkId) -> bool {
        let Some(own) = &self.own else { return false };
        self.peer(link).is_none_or(|peer| own.responder.id > peer)
    }

    /// The smoothed round-trip time.
    pub fn rtt(&self, link: LinkId) -> Option<Duration> {
        self.link(link)?.rtt
    }

    /// For how long the peer has not answered to what we sent.
    pub fn silence(&self, now: Now, link: LinkId) -> Duration {
        let since = self.link(link).and_then(|link| link.unanswered);
        since.map_or(Duration::ZERO, |since| now.instant.saturating_duration_since(since))
    }

    /// The peer's clock less ours in milliseconds, as its answer to our handshake showed it.
    pub fn peer_clock_ms(&self, link: LinkId) -> Option<i64> {
        self.link(link)?.clock_ms
    }

    /// Where peers have seen us in the last hours, by most places first; one peer can lie.
    // link.seen.3
    pub fn seen(&self, now: Now) -> Vec<Seen> {
        self.witnesses.seen(now.instant)
    }

    /// All links, for display.
    pub fn snapshot(&self) -> Vec<LinkInfo> {
        let info = |(slot, link): (u32, &Link)| LinkInfo {
            link: LinkId { slot, generation: self.generation(slot) },
            peer: link.role.relay(),
            up: link.up,
            inbound: !link.role.dials(),
            clock_ms: link.clock_ms,
            rtt: link.rtt,
            circuits: link.circuits,
            packets_in: link.counts.packets_in,
            packets_out: link.counts.packets_out,
            bytes_in: link.counts.packets_in.saturating_mul(PACKET as u64),
            bytes_out: link.counts.packets_out.saturating_mul(PACKET as u64),
            repaired: link.counts.repaired,
            lost: link.counts.lost,
            suite: link.current.as_ref().map(|session| session.suite),
        };
        (0..).zip(&self.slots).filter_map(|(n, slot)| Some((n, slot.link.as_deref()?))).map(info).collect()
    }

    // --- what circuits need ------------------------------------------------------------------------------------

    /// One more circuit uses the link: it is kept alive.
    pub fn hold(&mut self, link: LinkId) {
        if let Some(link) = get(&mut self.slots, link) {
            link.circuits = link.circuits.saturating_add(1);
            link.arm_for_ping(&mut self.shared);
        }
    }

    /// One circuit fewer uses the link; without any it is closed when it has been idle for 120 s.
    pub fn release(&mut self, now: Now, link: LinkId) {
        if let Some(link) = get(&mut self.slots, link) {
            link.circuits = link.circuits.saturating_sub(1);
            link.arm_now(now, &mut self.shared);
        }
    }

    /// Ends all links, and tells the peers.
    pub fn close_all(&mut self, now: Now) {
        for slot in (0..).take(self.slots.len()) {
            if self.at(slot).is_some() {
                self.close(now, slot);
            }
        }
    }

    /// Whether a packet for an unknown circuit may be answered by DESTROY now.
    // link.live.3
    pub fn may_answer_unknown(&mut self, now: Now, link: LinkId) -> bool {
        get(&mut self.slots, link).is_some_and(|link| link.destroys.allow(now.instant, MOST_DESTROYS))
    }

    // --- the table ---------------------------------------------------------------------------------------------

    fn at(&mut self, slot: u32) -> Option<&mut Link> {
        at(&mut self.slots, slot)
    }

    fn link(&self, id: LinkId) -> Option<&Link> {
        let slot = self.slots.get(usize::try_from(id.slot).ok()?)?;
        slot.link.as_deref().filter(|_| slot.generation == id.generation)
    }

    fn generation(&self, slot: u32) -> u32 {
        usize::try_from(slot).ok().and_then(|n| self.slots.get(n)).map_or(0, |slot| slot.generation)
    }

    fn id_of(&self, slot: u32) -> Option<LinkId> {
        let generation = self.slots.get(usize::try_from(slot).ok()?)?.generation;
        Some(LinkId { slot, generation })
    }

    /// A new link; `None` if the table is full of links in use.
    fn insert(
        &mut self,
        now: Now,
        role: Role,
        link_key: Option<DhPublic>,
        address: SocketAddr,
    ) -> Option<u32> {
        if self.slots.len() - self.free.len() >= self.config.limits.links {
            self.evict(now)?;
        }
        let slot = if let Some(slot) = self.free.pop() {
            slot
        } else {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).ok()?
        };
        let mut link = Link::new(now, slot, role, link_key, address);
        if let Some(relay) = role.relay() {
            let pair = self.by_relay.entry(relay).or_default();
            *(if role.dials() { &mut pair.dialled } else { &mut pair.accepted }) = Some(slot);
        }
        link.arm_now(now, &mut self.shared);
        let at = self.slots.get_mut(usize::try_from(slot).ok()?)?;
        at.link = Some(Box::new(link));
        Some(slot)
    }

    /// Ends the longest idle of some random links.
    fn evict(&mut self, now: Now) -> Option<()> {
        let count = u32::try_from(self.slots.len()).ok().filter(|count| *count > 0)?;
        let mut oldest: Option<(Instant, u32)> = None;
        for _ in 0..EVICTION_SAMPLE {
            let slot = self.shared.rng.next_u32() % count;
            let idle = self.at(slot).filter(|link| link.up && link.circuits == 0).map(|link| link.last_cell);
            if let Some(since) = idle.filter(|at| now.instant.saturating_duration_since(*at) >= EVICTION_IDLE)
                && oldest.is_none_or(|(at, _)| since < at)
            {
                oldest = Some((since, slot));
            }
        }
        self.close(now, oldest?.1);
        Some(())
    }

    /// Forgets a link without an event; its name is no longer valid.
    fn remove(&mut self, slot: u32) {
        let Some(at) = usize::try_from(slot).ok().and_then(|n| self.slots.get_mut(n)) else {
            return;
        };
        let Some(mut link) = at.link.take() else { return };
        at.generation = at.generation.wrapping_add(1);
        link.end(&mut self.shared);
        self.free.push(slot);
        if let Some(relay) = link.role.relay()
            && let Some(pair) = self.by_relay.get_mut(&relay)
        {
            *(if link.role.dials() { &mut pair.dialled } else { &mut pair.accepted }) = None;
            if pair.dialled.is_none() && pair.accepted.is_none() {
                self.by_relay.remove(&relay);
            }
        }
    }

    /// Ends a link.
    fn lose(&mut self, slot: u32) {
        if let Some(link) = self.id_of(slot).filter(|id| self.link(*id).is_some()) {
            self.events.push_back(LinkEvent::Lost { link });
            self.remove(slot);
        }
    }

    /// Ends a link and tells the peer.
    fn close(&mut self, now: Now, slot: u32) {
        if let Some(link) = at(&mut self.slots, slot) {
            let mut bytes = Box::new([0; PACKET]);
            let mut packet = Packet::blank(&mut bytes);
            packet.set_word(CircuitWord::CONTROL);
            let mut w = Writer::new(packet.cell());
            let written = Frame::Close.write(&mut w).is_ok();
            let to = link.address;
            if written && link.seal(now, packet, &mut self.shared).is_ok() {
                self.post(to, bytes);
            }
        }
        self.lose(slot);
    }

    /// Gives a link that goes on without its circuits a new name.
    fn renew(&mut self, now: Now, slot: u32) {
        let Some(old) = self.id_of(slot) else { return };
        let Some(at) = usize::try_from(slot).ok().and_then(|n| self.slots.get_mut(n)) else {
            return;
        };
        at.generation = at.generation.wrapping_add(1);
        let new = LinkId { slot, generation: at.generation };
        if let Some(link) = at.link.as_deref_mut() {
            link.circuits = 0;
            link.last_cell = now.instant;
            link.drop_old(&mut self.shared);
        }
        self.events.extend([LinkEvent::Lost { link: old }, LinkEvent::Up { link: new }]);
    }

    /// A relay has shown its boot id: links from before its restart are gone.
    // link.handshake.6
    fn booted(&mut self, relay: RelayId, boot: BootId) {
        let pair = self.by_relay.get(&relay).copied().unwrap_or_default();
        for slot in [pair.dialled, pair.accepted].into_iter().flatten() {
            if self.at(slot).is_some_and(|link| link.boot.is_some_and(|known| known != boot)) {
                self.lose(slot);
            }
        }
    }

    fn post(&mut self, to: SocketAddr, packet: Box<[u8; PACKET]>) {
        if self.posted.len() < MOST_POSTED {
            self.posted.push_back((to, packet));
        }
    }
}

fn get(slots: &mut [Slot], id: LinkId) -> Option<&mut Link> {
    let slot = slots.get_mut(usize::try_from(id.slot).ok()?)?;
    slot.link.as_deref_mut().filter(|_| slot.generation == id.generation)
}
