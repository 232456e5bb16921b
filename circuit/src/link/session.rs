//! One generation of a link's keys: what seals, what opens, and the way to the next generation.

use core::time::Duration;
use std::time::Instant;

use crate::aead::{AeadKey, Suite};
use crate::error::DropReason;
use crate::keys::{DhPublic, Label, Secret, kdf};
use crate::packet::{HEADER, Opened, PACKET, Packet, SEALED_END, Sealed};
use crate::window::{Verdict, Window};

use super::repair::{Gaps, Ring};

/// Sequence numbers above this belong to another shard.
const SEQUENCES: u64 = 1 << 56;
const FIRST_WINDOW: u64 = 8192;
const LARGEST_WINDOW: u64 = 131_072;
/// A session of this age, or with so many sealed packets, is renewed.
pub(super) const RENEW_AGE: Duration = Duration::from_mins(2);
pub(super) const RENEW_PACKETS: u64 = 1 << 32;
/// A session of this age, or with so many sealed packets, seals no more.
pub(super) const LAST_AGE: Duration = Duration::from_mins(4);
const LAST_PACKETS: u64 = 1 << 33;

/// The side of the handshake that a node was on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It sent the first message.
    Initiator,
    /// It answered.
    Responder,
}

/// What a handshake or a rekey derives.
#[derive(Debug)]
pub struct Keys {
    k_i: Secret<32>,
    k_r: Secret<32>,
    chain: Secret<32>,
}

impl Keys {
    /// From Noise's two split keys.
    pub fn of_handshake(k_i: Secret<32>, k_r: Secret<32>) -> Self {
        let chain = kdf(Label::LinkChain, &[k_i.expose(), k_r.expose()]).secret();
        Self { k_i, k_r, chain }
    }

    /// From the chain of the last session and the two ephemeral keys of a rekey, whose agreement is `shared`.
    pub fn of_rekey(chain: &Secret<32>, shared: &Secret<32>, e_i: &DhPublic, e_r: &DhPublic) -> Self {
        let mut derived = kdf(Label::LinkRekey, &[chain.expose(), shared.expose(), &e_i.0, &e_r.0]);
        Self { k_i: derived.secret(), k_r: derived.secret(), chain: derived.secret() }
    }

    /// The key that leads to the next session.
    pub const fn chain(&self) -> &Secret<32> {
        &self.chain
    }

    /// The packet key of what `sender` seals.
    pub fn packet(&self, sender: Side, suite: Suite) -> AeadKey {
        let key = match sender {
            Side::Initiator => &self.k_i,
            Side::Responder => &self.k_r,
        };
        AeadKey::new(suite, kdf(Label::LinkPacket, &[key.expose(), &[suite.code()]]).secret())
    }
}

/// The half of a session that opens.
#[derive(Debug)]
pub struct Opener {
    index: u32,
    key: AeadKey,
    window: Window,
}

impl Opener {
    /// Opens what was sealed with `key` for our receiver index `index`.
    pub fn new(index: u32, key: AeadKey) -> Self {
        Self { index, key, window: Window::new(FIRST_WINDOW, LARGEST_WINDOW) }
    }

    /// Our receiver index.
    pub const fn index(&self) -> u32 {
        self.index
    }

    pub(super) const fn window(&self) -> &Window {
        &self.window
    }

    /// Opens a packet with our index in place, at most once.
    pub fn open<'a>(&mut self, mut packet: Packet<'a, Sealed>) -> Result<Packet<'a, Opened>, DropReason> {
        let counter = packet.counter();
        // Senders have one shard in this version; a window per shard is a later matter.
        if counter >= SEQUENCES {
            return Err(DropReason::Malformed);
        }
        if self.window.check(counter) != Verdict::Fresh {
            return Err(DropReason::Replayed);
        }
        let (header, sealed, tag) = parts(packet.raw()).ok_or(DropReason::Malformed)?;
        // link.open.1
        self.key.open(counter, header, sealed, tag).map_err(|_| DropReason::BadTag)?;
        // link.replay.1
        self.window.mark(counter);
        Ok(packet.opened())
    }
}

/// The half of a session that seals.
#[derive(Debug)]
pub struct Sealer {
    index: u32,
    key: AeadKey,
    next: u64,
    born: Instant,
}

impl Sealer {
    /// Seals with `key` for the peer's receiver index `index`.
    pub const fn new(now: Instant, index: u32, key: AeadKey) -> Self {
        Self { index, key, next: 0, born: now }
    }

    /// The counter of the next packet.
    pub const fn next(&self) -> u64 {
        self.next
    }

    #[cfg(test)]
    pub(super) const fn skip(&mut self, packets: u64) {
        self.next += packets;
    }

    /// Writes the header and seals word and cell in place.
    pub fn seal<'a>(
        &mut self,
        now: Instant,
        mut packet: Packet<'a, Opened>,
    ) -> Result<Packet<'a, Sealed>, DropReason> {
        // link.rekey.2
        if self.next >= LAST_PACKETS || now.saturating_duration_since(self.born) >= LAST_AGE {
            return Err(DropReason::LinkDown);
        }
        // link.seal.1
        let counter = self.next;
        self.next += 1;
        let (header, data, tag) = parts(packet.raw()).ok_or(DropReason::LinkDown)?;
        let mut w = wire::Writer::new(header);
        w.u32(self.index)?;
        w.u64(counter)?;
        *tag = self.key.seal(counter, header, data);
        Ok(packet.sealed())
    }
}

type Parts<'a> = (&'a mut [u8; HEADER], &'a mut [u8], &'a mut [u8; crate::aead::TAG]);

fn parts(packet: &mut [u8; PACKET]) -> Option<Parts<'_>> {
    let (front, tag) = packet.split_at_mut_checked(SEALED_END)?;
    let (header, sealed) = front.split_first_chunk_mut()?;
    Some((header, sealed, tag.first_chunk_mut()?))
}

/// Both halves, with what repairs them.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) side: Side,
    pub(super) suite: Suite,
    pub(super) chain: Secret<32>,
    pub(super) opener: Opener,
    pub(super) sealer: Sealer,
    pub(super) gaps: Gaps,
    pub(super) ring: Ring,
    /// Whether a packet of the peer was opened.
    pub(super) confirmed: bool,
    pub(super) born: Instant,
}

/// What names a session on both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) side: Side,
    pub(super) suite: Suite,
    pub(super) ours: u32,
    pub(super) theirs: u32,
}

impl Session {
    pub(super) fn new(now: Instant, keys: &Keys, ends: Ends, ring: Ring) -> Self {
        let other = match ends.side {
            Side::Initiator => Side::Responder,
            Side::Responder => Side::Initiator,
        };
        Self {
            side: ends.side,
            suite: ends.suite,
            chain: keys.chain().clone(),
            opener: Opener::new(ends.ours, keys.packet(other, ends.suite)),
            sealer: Sealer::new(now, ends.theirs, keys.packet(ends.side, ends.suite)),
            gaps: Gaps::default(),
            ring,
            confirmed: false,
            born: now,
        }
    }
}
