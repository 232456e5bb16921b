//! The datagram of a link and the word that says what it carries (docs/spec/01-link.md section 2).

use core::fmt;
use core::marker::PhantomData;

/// The size of every UDP payload on a link.
pub const PACKET: usize = 1412;
/// The size of a cell, a setup, a reply, and a list of control frames.
pub const CELL: usize = 1380;
/// Receiver index and counter.
pub const HEADER: usize = 12;
/// Where the sealed part ends and the tag begins.
pub(crate) const SEALED_END: usize = PACKET - crate::aead::TAG;
const WORD_END: usize = HEADER + 4;

/// The bytes of a cell.
pub type Cell = [u8; CELL];

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PacketType {
    /// A cell of a circuit.
    Cell = 0,
    /// A circuit setup.
    Setup = 1,
    /// The answer to a setup.
    Reply = 2,
    /// The end of a circuit.
    Destroy = 3,
    /// Frames between the two neighbours.
    Control = 4,
}

/// Packet type, epoch parity, opener bit and circuit id, in 32 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CircuitWord(u32);

const ID_MASK: u32 = (1 << 27) - 1;
const OPENER: u32 = 1 << 27;
const PARITY: u32 = 1 << 28;

impl CircuitWord {
    /// The word of control packets.
    pub const CONTROL: Self = Self((PacketType::Control as u32) << 29);

    /// A word from its parts; `id` keeps its low 27 bits.
    pub const fn new(kind: PacketType, opener: bool, id: u32) -> Self {
        Self((kind as u32) << 29 | if opener { OPENER } else { 0 } | (id & ID_MASK))
    }

    /// The word as it travels.
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The word of received bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The packet type, unless it is a reserved one.
    pub const fn kind(self) -> Option<PacketType> {
        match self.0 >> 29 {
            0 => Some(PacketType::Cell),
            1 => Some(PacketType::Setup),
            2 => Some(PacketType::Reply),
            3 => Some(PacketType::Destroy),
            4 => Some(PacketType::Control),
            _ => None,
        }
    }

    /// The same circuit with another packet type and no parity.
    #[must_use]
    pub const fn with_kind(self, kind: PacketType) -> Self {
        Self::new(kind, self.opener(), self.id())
    }

    /// The same word with the parity of an onion-key epoch.
    #[must_use]
    pub const fn with_parity(self, odd: bool) -> Self {
        Self(self.0 & !PARITY | if odd { PARITY } else { 0 })
    }

    /// The parity of the onion-key epoch of a setup: true if odd.
    pub const fn parity(self) -> bool {
        self.0 & PARITY != 0
    }

    /// Who opened the circuit on this link: false for the lower relay id or the client.
    pub const fn opener(self) -> bool {
        self.0 & OPENER != 0
    }

    /// The circuit id, 27 bits.
    pub const fn id(self) -> u32 {
        self.0 & ID_MASK
    }
}

impl fmt::Debug for CircuitWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}/{:07x}", self.kind(), u8::from(self.opener()), self.id())
    }
}

/// A packet as it travels: it may be sent, and must be opened before it is read.
#[derive(Debug)]
pub enum Sealed {}
/// A packet whose tag was verified, or that we fill ourselves: it may be read, and must be sealed before it is sent.
#[derive(Debug)]
pub enum Opened {}

/// A borrowed buffer of 1,412 bytes in one of two states; the data path never copies it.
#[derive(Debug)]
pub struct Packet<'a, State> {
    bytes: &'a mut [u8; PACKET],
    state: PhantomData<State>,
}

impl<'a> Packet<'a, Sealed> {
    /// Received bytes, not yet believed.
    pub const fn received(bytes: &'a mut [u8; PACKET]) -> Self {
        Self { bytes, state: PhantomData }
    }

    /// The bytes to send.
    pub const fn bytes(&self) -> &[u8; PACKET] {
        self.bytes
    }

    /// The receiver index, zero for a handshake.
    pub fn index(&self) -> u32 {
        let [a, b, c, d, ..] = *self.bytes;
        u32::from_be_bytes([a, b, c, d])
    }

    /// The packet counter: shard and sequence number.
    pub fn counter(&self) -> u64 {
        let (_, rest) = self.bytes.split_at(4);
        rest.first_chunk().map_or(0, |b| u64::from_be_bytes(*b))
    }

    pub(crate) const fn raw(&mut self) -> &mut [u8; PACKET] {
        self.bytes
    }

    pub(crate) const fn opened(self) -> Packet<'a, Opened> {
        Packet { bytes: self.bytes, state: PhantomData }
    }
}

impl<'a> Packet<'a, Opened> {
    /// A buffer that the caller fills: word and cell.
    pub const fn blank(bytes: &'a mut [u8; PACKET]) -> Self {
        Self { bytes, state: PhantomData }
    }

    /// The circuit word.
    pub fn word(&self) -> CircuitWord {
        let (_, rest) = self.bytes.split_at(HEADER);
        CircuitWord(rest.first_chunk().map_or(0, |b| u32::from_be_bytes(*b)))
    }

    /// Replaces the circuit word.
    pub fn set_word(&mut self, word: CircuitWord) {
        let (_, rest) = self.bytes.split_at_mut(HEADER);
        if let Some(to) = rest.first_chunk_mut() {
            *to = word.0.to_be_bytes();
        }
    }

    /// The cell, to be changed in place.
    pub fn cell(&mut self) -> &mut Cell {
        cell_of(self.bytes)
    }

    pub(crate) const fn raw(&mut self) -> &mut [u8; PACKET] {
        self.bytes
    }

    pub(crate) const fn sealed(self) -> Packet<'a, Sealed> {
        Packet { bytes: self.bytes, state: PhantomData }
    }
}

#[expect(clippy::expect_used, reason = "the sizes are constants; a test runs this line")]
fn cell_of(bytes: &mut [u8; PACKET]) -> &mut Cell {
    let (_, rest) = bytes.split_at_mut(WORD_END);
    rest.first_chunk_mut().expect("a packet is longer than a cell")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_parts() {
        for kind in
            [PacketType::Cell, PacketType::Setup, PacketType::Reply, PacketType::Destroy, PacketType::Control]
        {
            for opener in [false, true] {
                let word = CircuitWord::new(kind, opener, 0x7ff_ffff).with_parity(true);
                assert_eq!((word.kind(), word.opener(), word.id()), (Some(kind), opener, 0x7ff_ffff));
                assert!(word.parity() && !word.with_parity(false).parity());
                assert_eq!(CircuitWord::from_bits(word.to_bits()), word);
            }
        }
        assert_eq!(CircuitWord::from_bits(5 << 29).kind(), None);
    }

    #[test]
    fn the_cell_lies_between_word_and_tag() {
        let mut bytes = [0; PACKET];
        let mut packet = Packet::<Opened>::blank(&mut bytes);
        packet.set_word(CircuitWord::CONTROL);
        packet.cell().fill(1);
        assert_eq!(packet.word(), CircuitWord::CONTROL);
        assert!(bytes[WORD_END..SEALED_END].iter().all(|b| *b == 1));
        assert_eq!(SEALED_END - WORD_END, CELL);
        assert_eq!(
            (bytes[WORD_END - 1], bytes[WORD_END], bytes[SEALED_END - 1], bytes[SEALED_END]),
            (0, 1, 1, 0)
        );
    }
}
