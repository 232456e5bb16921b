//! Payment frames in the control packets of a link: `type 1 | length 2 | value`, types 32 to 47.

use core::ops::RangeInclusive;

use alloy_primitives::{Address, B256};
use wire::{Full, Malformed, Reader, Writer};

use crate::amount::Wei;
use crate::offer::Offer;
use crate::session::{Signature, read_address, read_hash};

/// The types of payment frames; all others belong to the link.
pub const TYPES: RangeInclusive<u8> = 32..=47;

/// One payment frame; repeating it changes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The payer asks for an offer.
    Want {
        /// Whose pot will pay.
        payer: Address,
        /// The least nonce that the payer has not used.
        floor: u32,
        /// What the payer would like a draw to be worth.
        value: Wei,
    },
    /// The payee offers a session.
    Offer {
        /// Who is paid.
        payee: Address,
        /// The terms.
        offer: Offer,
    },
    /// The payer signs a session on the terms of the offer with this nonce.
    Session {
        /// Whose pot pays.
        payer: Address,
        /// Names the offer.
        nonce: u32,
        /// The start of the offer's hash: an offer with the same nonce, made after a restart, is another.
        offer: [u8; 4],
        /// The start of the hash chain.
        anchor: B256,
        /// The signature of the pot's signer.
        signature: Signature,
    },
    /// The payee takes the session, or says why it does not.
    SessionOk {
        /// Names the session; the floor of a WANT that is refused.
        nonce: u32,
        /// Yes, or why not.
        answer: Answer,
    },
    /// The payer reveals a link, and with it all before it.
    Draw {
        /// Names the session.
        nonce: u32,
        /// The number of the draw, from 1.
        index: u16,
        /// The link.
        link: B256,
    },
    /// The payee has the draws so far; answers a repeated DRAW.
    DrawOk {
        /// Names the session.
        nonce: u32,
        /// The last draw credited.
        index: u16,
        /// Its link.
        link: B256,
    },
    /// The payee ends a session, and shows its secret number.
    Rotate {
        /// Names the session.
        nonce: u32,
        /// Why it ends.
        reason: Reason,
        /// The last draw credited.
        index: u16,
        /// Its link; the anchor if there is none.
        link: B256,
        /// The secret number.
        rand: B256,
    },
    /// What a side has counted.
    Meter {
        /// Which side says so.
        role: Role,
        /// The cells billed so far.
        cells: u64,
        /// What they cost.
        due: Wei,
        /// What was credited (payee) or paid (payer) so far.
        credited: Wei,
    },
    /// How the payer's credit stands at the payee.
    Credit(Level),
    /// The payer lets so many backward cells of a circuit come.
    Grant {
        /// The circuit's word on the link.
        circuit: u32,
        /// Backward cells since the circuit's start.
        cells: u64,
    },
}

/// Numbers of one byte on the wire, with names.
macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident($field:literal) { $($(#[$vdoc:meta])* $variant:ident = $number:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The number on the wire.
            pub const fn number(self) -> u8 {
                match self {
                    $(Self::$variant => $number,)+
                }
            }

            /// The meaning of a number on the wire.
            pub const fn from_number(number: u8) -> Result<Self, Malformed> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    _ => Err(Malformed($field)),
                }
            }
        }
    };
}

numbered!(
    /// What a payee says to a session.
    Answer("answer") {
        /// It is taken.
        Yes = 0,
        /// No offer of this nonce is open.
        NoOffer = 1,
        /// The payee sees no such pot on the chain.
        NoPot = 2,
        /// The balance does not cover the wins so far and four more.
        Balance = 3,
        /// The reserve is too small for the face.
        Reserve = 4,
        /// The reserve is being unlocked.
        Unlocking = 5,
        /// The pot is bound to another payee.
        Bound = 6,
        /// The pot's signer has not signed this.
        Signature = 7,
        /// The payee has not seen the chain's head for a while.
        Stale = 8,
        /// The payee has enough sessions.
        Full = 9,
        /// The payee does not know the session, or not any more.
        Gone = 10,
    }
);

numbered!(
    /// Why a payee ends a session.
    Reason("reason") {
        /// The last credited draw has won.
        Won = 0,
        /// All draws are used.
        UsedUp = 1,
        /// The time for draws is over.
        Expiring = 2,
        /// The payer's pot does not cover it any more, or the payee's terms have changed.
        Changed = 3,
    }
);

numbered!(
    /// A side of a payment.
    Role("role") {
        /// Who is paid.
        Payee = 1,
        /// Who pays.
        Payer = 2,
    }
);

numbered!(
    /// A state of credit.
    Level("level") {
        /// Enough.
        Ok = 0,
        /// Pay soon.
        Low = 1,
        /// Nothing passes until it is paid.
        Paused = 2,
    }
);

impl Frame {
    /// The most bytes of a frame with its head.
    pub const MAX: usize = 3 + 124;

    /// Whether it is for the side that pays; METER, CREDIT and GRANT are for neither wallet nor till.
    pub const fn is_for_payer(&self) -> bool {
        matches!(
            self,
            Self::Offer { .. } | Self::SessionOk { .. } | Self::DrawOk { .. } | Self::Rotate { .. }
        )
    }

    /// Whether it is for the side that is paid.
    pub const fn is_for_payee(&self) -> bool {
        matches!(self, Self::Want { .. } | Self::Session { .. } | Self::Draw { .. })
    }

    const fn head(&self) -> (u8, u16) {
        match self {
            Self::Want { .. } => (32, 36),
            Self::Offer { .. } => (33, 95),
            Self::Session { .. } => (34, 124),
            Self::SessionOk { .. } => (35, 5),
            Self::Draw { .. } => (36, 38),
            Self::DrawOk { .. } => (37, 38),
            Self::Rotate { .. } => (38, 71),
            Self::Meter { .. } => (39, 41),
            Self::Credit(_) => (40, 1),
            Self::Grant { .. } => (41, 12),
        }
    }

    /// Writes the frame, or nothing if it does not fit or names an amount above 96 bits.
    pub fn write(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        let mut bytes = [0; Self::MAX];
        let mut w = Writer::new(&mut bytes);
        let (kind, length) = self.head();
        w.u8(kind)?;
        w.u16(length)?;
        self.write_value(&mut w)?;
        let written = w.written();
        out.put(bytes.get(..written).ok_or(Full)?)
    }

    fn write_value(&self, w: &mut Writer<'_>) -> Result<(), Full> {
        match self {
            Self::Want { payer, floor, value } => {
                w.put(payer.as_slice())?;
                w.u32(*floor)?;
                value.write(w)
            }
            Self::Offer { payee, offer } => {
                w.put(payee.as_slice())?;
                offer.write(w)
            }
            Self::Session { payer, nonce, offer, anchor, signature } => {
                w.put(payer.as_slice())?;
                w.u32(*nonce)?;
                w.put(offer)?;
                w.put(anchor.as_slice())?;
                w.put(&signature.0)
            }
            Self::SessionOk { nonce, answer } => {
                w.u32(*nonce)?;
                w.u8(answer.number())
            }
            Self::Draw { nonce, index, link } | Self::DrawOk { nonce, index, link } => {
                w.u32(*nonce)?;
                w.u16(*index)?;
                w.put(link.as_slice())
            }
            Self::Rotate { nonce, reason, index, link, rand } => {
                w.u32(*nonce)?;
                w.u8(reason.number())?;
                w.u16(*index)?;
                w.put(link.as_slice())?;
                w.put(rand.as_slice())
            }
            Self::Meter { role, cells, due, credited } => {
                w.u8(role.number())?;
                w.u64(*cells)?;
                w.put(&due.0.to_be_bytes())?;
                w.put(&credited.0.to_be_bytes())
            }
            Self::Credit(level) => w.u8(level.number()),
            Self::Grant { circuit, cells } => {
                w.u32(*circuit)?;
                w.u64(*cells)
            }
        }
    }

    fn read(kind: u8, r: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        let frame = match kind {
            32 => Self::Want {
                payer: read_address(r, "payer")?,
                floor: r.u32("nonce floor")?,
                value: Wei::read(r, "value")?,
            },
            33 => Self::Offer { payee: read_address(r, "payee")?, offer: Offer::read(r)? },
            34 => Self::Session {
                payer: read_address(r, "payer")?,
                nonce: r.u32("nonce")?,
                offer: *r.array("offer")?,
                anchor: read_hash(r, "anchor")?,
                signature: Signature(*r.array("signature")?),
            },
            35 => Self::SessionOk { nonce: r.u32("nonce")?, answer: Answer::from_number(r.u8("answer")?)? },
            36 => Self::Draw { nonce: r.u32("nonce")?, index: r.u16("draw")?, link: read_hash(r, "link")? },
            37 => Self::DrawOk { nonce: r.u32("nonce")?, index: r.u16("draw")?, link: read_hash(r, "link")? },
            38 => Self::Rotate {
                nonce: r.u32("nonce")?,
                reason: Reason::from_number(r.u8("reason")?)?,
                index: r.u16("draw")?,
                link: read_hash(r, "link")?,
                rand: read_hash(r, "rand")?,
            },
            39 => Self::Meter {
                role: Role::from_number(r.u8("role")?)?,
                cells: r.u64("cells")?,
                due: Wei::read_wide(r, "due")?,
                credited: Wei::read_wide(r, "credited")?,
            },
            40 => Self::Credit(Level::from_number(r.u8("level")?)?),
            41 => Self::Grant { circuit: r.u32("circuit")?, cells: r.u64("cells")? },
            // Another frame of the link, or of a later version.
            _ => return Ok(None),
        };
        Ok(Some(frame))
    }
}

/// The payment frames of a control cell, those of the link skipped; after the first malformed one there are no more.
#[derive(Clone, Debug)]
pub struct Frames<'a>(Reader<'a>);

impl<'a> Frames<'a> {
    /// The payment frames of `cell`.
    pub const fn new(cell: &'a [u8]) -> Self {
        Self(Reader::new(cell))
    }

    fn read(&mut self) -> Result<Option<Frame>, Malformed> {
        while self.0.remaining() > 0 {
            let kind = self.0.u8("frame type")?;
            if kind == 0 {
                break;
            }
            let length = self.0.u16("frame length")?;
            let mut r = self.0.sub(length.into(), "frame length")?;
            if let Some(frame) = Frame::read(kind, &mut r)? {
                r.finish("frame length")?;
                return Ok(Some(frame));
            }
        }
        self.0.rest();
        Ok(None)
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<Frame, Malformed>;

    // pay.frame.1
    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read().transpose();
        if matches!(item, Some(Err(_))) {
            self.0.rest();
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Frame> {
        let hash = B256::repeat_byte;
        let offer = Offer {
            nonce: 1,
            rand_hash: hash(2),
            face: Wei(3),
            win_prob: 4,
            draws: 5,
            expiry: 6,
            value: Wei::MAX,
        };
        let mut frames = vec![
            Frame::Want { payer: Address::repeat_byte(1), floor: 2, value: Wei(3) },
            Frame::Offer { payee: Address::repeat_byte(4), offer },
            Frame::Session {
                payer: Address::repeat_byte(5),
                nonce: 6,
                offer: [24; 4],
                anchor: hash(7),
                signature: Signature([8; 64]),
            },
            Frame::Draw { nonce: 9, index: 10, link: hash(11) },
            Frame::DrawOk { nonce: 12, index: 13, link: hash(14) },
            Frame::Grant { circuit: 15, cells: u64::MAX },
        ];
        frames.extend(Answer::ALL.iter().map(|answer| Frame::SessionOk { nonce: 17, answer: *answer }));
        frames.extend(Reason::ALL.iter().map(|reason| Frame::Rotate {
            nonce: 18,
            reason: *reason,
            index: 19,
            link: hash(20),
            rand: hash(21),
        }));
        frames.extend(Role::ALL.iter().map(|role| Frame::Meter {
            role: *role,
            cells: 22,
            due: Wei(u128::MAX),
            credited: Wei(23),
        }));
        frames.extend(Level::ALL.iter().map(|level| Frame::Credit(*level)));
        frames
    }

    fn bytes(frames: &[Frame]) -> Vec<u8> {
        let mut bytes = vec![0; 2000];
        let mut w = Writer::new(&mut bytes);
        for frame in frames {
            frame.write(&mut w).unwrap();
        }
        let written = w.written();
        bytes.truncate(written);
        bytes
    }

    #[test]
    fn frames_come_back_and_those_of_the_link_are_skipped() {
        let mut cell = vec![];
        for frame in frames() {
            cell.extend([1, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 99, 0, 0, 47, 0, 1, 9]);
            cell.extend(bytes(&[frame]));
        }
        cell.extend([0, 36, 0, 1]);
        let read: Result<Vec<_>, _> = Frames::new(&cell).collect();
        assert_eq!(read.unwrap(), frames());
    }

    // pay.frame.1
    #[test]
    fn a_prefix_is_refused_or_ends_after_a_whole_frame() {
        let (all, whole) = (frames(), bytes(&frames()));
        let ends: Vec<_> = (0..=all.len()).map(|n| bytes(&all[..n]).len()).collect();
        for n in 0..=whole.len() {
            let read: Result<Vec<_>, _> = Frames::new(&whole[..n]).collect();
            match ends.iter().position(|end| *end == n) {
                Some(count) => assert_eq!(read.unwrap(), all[..count]),
                None => assert!(read.is_err(), "{n}"),
            }
        }
    }

    // pay.frame.1
    #[test]
    fn nothing_after_a_malformed_frame_is_read() {
        for frame in frames() {
            let good = bytes(&[frame]);
            for delta in [-1i16, 1] {
                let length = u16::from_be_bytes([good[1], good[2]]).checked_add_signed(delta).unwrap();
                let mut bad = bytes(&[frame]);
                bad[1..3].copy_from_slice(&length.to_be_bytes());
                bad.extend(bytes(&[frame, frame]));
                assert!(Frames::new(&bad).next().unwrap().is_err(), "{frame:?}");
                assert_eq!(Frames::new(&bad).count(), 1);
            }
        }
        let wrong: [&[u8]; 4] =
            [&[35, 0, 5, 0, 0, 0, 1, 11], &[40, 0, 1, 3], &[36, 0xff, 0xff], &[200, 0, 1]];
        for bad in wrong {
            assert!(Frames::new(bad).next().unwrap().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_frame_that_does_not_fit_writes_nothing() {
        for frame in frames() {
            let mut small = vec![0; bytes(&[frame]).len() - 1];
            let mut w = Writer::new(&mut small);
            assert_eq!((frame.write(&mut w), w.written()), (Err(Full), 0));
        }
        let rich = Frame::Want { payer: Address::ZERO, floor: 0, value: Wei(1 << 96) };
        let mut room = [0; 100];
        let mut w = Writer::new(&mut room);
        assert_eq!((rich.write(&mut w), w.written()), (Err(Full), 0));
        assert!(frames().iter().all(|frame| bytes(&[*frame]).len() <= Frame::MAX));
    }
}
