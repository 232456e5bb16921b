//! Frames between two neighbours, several in one control packet (docs/spec/01-link.md section 4).

use wire::{Full, Malformed, Reader, Writer};

use crate::error::Misbehaved;
use crate::keys::{BootId, DhPublic, IdentitySecret, RelayId};

/// The types of frames that the owner of the links reads itself (docs/spec/03-payments.md section 5).
const PAYMENTS: core::ops::RangeInclusive<u8> = 32..=47;
/// The most ranges of one NACK.
pub const NACK_RANGES: usize = 64;
const RANGE: usize = 10;
const HELLO_LABEL: &str = "chive hello 1";

/// One control frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Asks for a PONG with this token.
    Ping(u64),
    /// Answers a PING.
    Pong(u64),
    /// Names missing counters.
    Nack(Ranges<'a>),
    /// Names the highest counter of a burst.
    Tail(u64),
    /// Names and proves the initiator between relays.
    Hello(Hello),
    /// The initiator asks for new keys.
    Rekey(Renewal),
    /// The responder's half of new keys.
    Rekeyed(Renewal),
    /// The link ends.
    Close,
}

/// The value of REKEY and REKEYED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The receiver index of the sender's new session.
    pub index: u32,
    /// The sender's ephemeral key.
    pub ephemeral: DhPublic,
}

/// The value of HELLO: who the initiator is, signed over the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The initiator's name.
    pub id: RelayId,
    /// The initiator's boot id.
    pub boot: BootId,
    /// Ed25519 over `"chive hello 1" | hh 32 | boot id 8`.
    pub signature: [u8; 64],
}

impl Hello {
    /// Signs the handshake hash `hh`.
    pub fn sign(identity: &IdentitySecret, hh: &[u8; 32], boot: BootId) -> Self {
        Self { id: identity.id(), boot, signature: identity.sign(HELLO_LABEL, &hello_message(hh, boot)) }
    }

    /// Checks the signature over the handshake hash `hh`.
    pub fn verify(&self, hh: &[u8; 32]) -> Result<(), Misbehaved> {
        self.id.verify(HELLO_LABEL, &hello_message(hh, self.boot), &self.signature)
    }
}

fn hello_message(hh: &[u8; 32], boot: BootId) -> Vec<u8> {
    [&hh[..], &boot.0.to_be_bytes()].concat()
}

/// Ranges of missing counters, as they travel: `first counter 8 | count 2` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges<'a>(pub(super) &'a [u8]);

impl Ranges<'_> {
    /// The first counter and the count of every range.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u16)> + '_ {
        self.0.chunks_exact(RANGE).filter_map(|range| {
            let mut r = Reader::new(range);
            Some((r.u64("first counter").ok()?, r.u16("count").ok()?))
        })
    }
}

/// Writes a NACK frame of the first [`NACK_RANGES`] of `missing`.
pub fn write_nack(missing: &[(u64, u16)], out: &mut Writer<'_>) -> Result<(), Full> {
    let count = missing.len().min(NACK_RANGES);
    head(out, 3, count * RANGE)?;
    missing.iter().take(count).try_for_each(|(first, count)| {
        out.u64(*first)?;
        out.u16(*count)
    })
}

fn head(out: &mut Writer<'_>, kind: u8, length: usize) -> Result<(), Full> {
    let length = u16::try_from(length).map_err(|_| Full)?;
    if out.remaining() < 3 + usize::from(length) {
        return Err(Full);
    }
    out.u8(kind)?;
    out.u16(length)
}

impl Frame<'_> {
    /// Writes the frame, or nothing if it does not fit.
    pub fn write(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        match self {
            Self::Ping(token) => word(out, 1, *token),
            Self::Pong(token) => word(out, 2, *token),
            Self::Nack(ranges) => {
                head(out, 3, ranges.0.len())?;
                out.put(ranges.0)
            }
            Self::Tail(counter) => word(out, 4, *counter),
            Self::Hello(hello) => {
                head(out, 5, 104)?;
                out.put(&hello.id.0)?;
                out.u64(hello.boot.0)?;
                out.put(&hello.signature)
            }
            Self::Rekey(renewal) => renewal.write(out, 6),
            Self::Rekeyed(renewal) => renewal.write(out, 7),
            Self::Close => head(out, 8, 0),
        }
    }
}

fn word(out: &mut Writer<'_>, kind: u8, value: u64) -> Result<(), Full> {
    head(out, kind, 8)?;
    out.u64(value)
}

impl Renewal {
    fn write(&self, out: &mut Writer<'_>, kind: u8) -> Result<(), Full> {
        head(out, kind, 36)?;
        out.u32(self.index)?;
        out.put(&self.ephemeral.0)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let index = r.u32("new index")?;
        if index == 0 {
            return Err(Malformed("new index"));
        }
        Ok(Self { index, ephemeral: DhPublic(*r.array("ephemeral key")?) })
    }
}

/// The frames of a control cell; after the first malformed one there are no more.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    left: Reader<'a>,
    payments: bool,
}

impl<'a> Frames<'a> {
    /// The frames of `cell`.
    pub const fn new(cell: &'a [u8]) -> Self {
        Self { left: Reader::new(cell), payments: false }
    }

    /// Whether frames of payments were skipped.
    pub const fn payments(&self) -> bool {
        self.payments
    }

    /// The next frame of a known type; `None` at the end of the list.
    fn read(&mut self) -> Result<Option<Frame<'a>>, Malformed> {
        while self.left.remaining() > 0 {
            let kind = self.left.u8("frame type")?;
            if kind == 0 {
                break;
            }
            let length = self.left.u16("frame length")?;
            let mut r = self.left.sub(length.into(), "frame length")?;
            let frame = match kind {
                1 => Frame::Ping(r.u64("token")?),
                2 => Frame::Pong(r.u64("token")?),
                3 => {
                    if r.remaining() % RANGE != 0 || r.remaining() > NACK_RANGES * RANGE {
                        return Err(Malformed("missing counters"));
                    }
                    Frame::Nack(Ranges(r.rest()))
                }
                4 => Frame::Tail(r.u64("counter")?),
                5 => Frame::Hello(Hello {
                    id: RelayId(*r.array("relay id")?),
                    boot: BootId(r.u64("boot id")?),
                    signature: *r.array("signature")?,
                }),
                6 => Frame::Rekey(Renewal::read(&mut r)?),
                7 => Frame::Rekeyed(Renewal::read(&mut r)?),
                8 => Frame::Close,
                _ => {
                    self.payments |= PAYMENTS.contains(&kind);
                    continue;
                }
            };
            r.finish("frame length")?;
            return Ok(Some(frame));
        }
        self.left.rest();
        Ok(None)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, Malformed>;

    // link.control.1
    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read().transpose();
        if matches!(item, Some(Err(_))) {
            self.left.rest();
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::CELL;

    fn frames() -> [Frame<'static>; 8] {
        let renewal = Renewal { index: 7, ephemeral: DhPublic([9; 32]) };
        [
            Frame::Ping(1),
            Frame::Pong(u64::MAX),
            Frame::Nack(Ranges(&[0, 0, 0, 0, 0, 0, 0, 5, 0, 2])),
            Frame::Tail(77),
            Frame::Hello(Hello { id: RelayId([1; 32]), boot: BootId(2), signature: [3; 64] }),
            Frame::Rekey(renewal),
            Frame::Rekeyed(renewal),
            Frame::Close,
        ]
    }

    fn cell(write: impl FnOnce(&mut Writer<'_>)) -> [u8; CELL] {
        let mut cell = [0xee; CELL];
        let mut w = Writer::new(&mut cell);
        write(&mut w);
        w.pad();
        cell
    }

    #[test]
    fn frames_come_back_and_unknown_ones_are_skipped() {
        let cell = cell(|w| {
            for frame in frames() {
                w.put(&[99, 0, 2, 0xff, 0xff]).unwrap();
                frame.write(w).unwrap();
            }
        });
        let read: Result<Vec<_>, _> = Frames::new(&cell).collect();
        assert_eq!(read.unwrap(), frames());
    }

    // link.control.1
    #[test]
    fn nothing_after_a_malformed_frame_is_read() {
        for frame in frames() {
            let mut bytes = [0; 200];
            let mut w = Writer::new(&mut bytes);
            frame.write(&mut w).unwrap();
            let n = w.written();
            for delta in [-1i16, 1] {
                let length = u16::from_be_bytes([bytes[1], bytes[2]]);
                let Some(wrong) = length.checked_add_signed(delta) else {
                    continue;
                };
                let cell = cell(|w| {
                    Frame::Ping(5).write(w).unwrap();
                    w.u8(bytes[0]).unwrap();
                    w.u16(wrong).unwrap();
                    w.put(&bytes[3..n]).unwrap();
                    Frame::Ping(6).write(w).unwrap();
                });
                let read: Vec<_> = Frames::new(&cell).collect();
                assert_eq!(read.len(), 2, "{frame:?} {delta}");
                assert_eq!(read[0], Ok(Frame::Ping(5)));
                assert!(read[1].is_err());
            }
        }
        for n in 1..3 {
            assert!(Frames::new(&[1, 0, 8][..n]).next().unwrap().is_err());
        }
        assert!(Frames::new(&[200, 0xff, 0xff]).next().unwrap().is_err());
    }

    #[test]
    fn a_frame_that_does_not_fit_writes_nothing() {
        let mut small = [0; 10];
        let mut w = Writer::new(&mut small);
        assert_eq!(Frame::Ping(1).write(&mut w), Err(Full));
        assert_eq!(w.written(), 0);
    }

    #[test]
    fn a_nack_holds_64_ranges() {
        let missing: Vec<_> = (0..100).map(|i| (i * 3, 2)).collect();
        let cell = cell(|w| write_nack(&missing, w).unwrap());
        let Some(Ok(Frame::Nack(ranges))) = Frames::new(&cell).next() else { panic!() };
        assert_eq!(ranges.iter().collect::<Vec<_>>(), missing[..64]);
    }
}
