//! The reply to a setup: one sealed record per hop in a region of constant size.

use rand_core::Rng as _;

use super::ReplyKeys;
use crate::cell::MAX_HOPS;
use crate::error::Malformed;
use crate::keys::{DhPublic, Random, mac, stream_xor, tags_equal};
use crate::layer::HopKeys;
use crate::packet::{CELL, Cell};

/// A record before it is sealed.
pub(super) const RECORD: usize = 80;
const SEALED: usize = RECORD + 16;
const REGION: usize = SEALED * MAX_HOPS;
/// What stands behind the first record.
const REST: usize = REGION - SEALED;

/// What the sender of a reply charges for a cell, in compact form: beside the region, between the two neighbours
/// (pay.terms.2).
pub(crate) fn read_rate(cell: &Cell) -> u32 {
    cell.get(REGION..).and_then(|rest| rest.first_chunk()).map_or(0, |rate| u32::from_be_bytes(*rate))
}

/// Sets what [`read_rate`] reads.
pub(crate) fn write_rate(cell: &mut Cell, rate: u32) {
    if let Some(place) = cell.get_mut(REGION..).and_then(|rest| rest.first_chunk_mut()) {
        *place = rate.to_be_bytes();
    }
}

/// How a hop answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Status {
    /// The circuit stands.
    Ok = 0,
    /// A limit is reached.
    Busy = 1,
    /// The next relay is not known or does not answer.
    Unreachable = 2,
    /// The relay does not do what is asked.
    Policy = 3,
    /// The setup is too old or from the future, or its expiry is out of range.
    Expired = 4,
    /// The conditions are not accepted.
    Terms = 5,
    /// The credit does not cover the setup.
    Unpaid = 6,
}

impl Status {
    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Ok),
            1 => Some(Self::Busy),
            2 => Some(Self::Unreachable),
            3 => Some(Self::Policy),
            4 => Some(Self::Expired),
            5 => Some(Self::Terms),
            6 => Some(Self::Unpaid),
            _ => None,
        }
    }

    /// The name for people and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Busy => "busy",
            Self::Unreachable => "unreachable",
            Self::Policy => "policy",
            Self::Expired => "expired",
            Self::Terms => "terms",
            Self::Unpaid => "unpaid",
        }
    }
}

/// What a reply says.
#[derive(Debug)]
pub enum Outcome {
    /// The circuit stands; the keys of every hop, entry first.
    Ready(Vec<HopKeys>),
    /// A hop could not go on.
    Refused {
        /// Which; 0 is the entry.
        hop: usize,
        /// Why.
        status: Status,
    },
}

/// What one hop tells the client.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) y: DhPublic,
    pub(super) auth: [u8; 16],
    pub(super) status: Status,
    pub(super) class: u16,
    pub(super) expiry: u32,
}

impl Record {
    /// A refusal says nothing but its status, so that it may be repeated.
    pub(super) const fn refusal(status: Status) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        out[48] = status as u8;
        out
    }

    pub(super) fn write(&self) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        let fields: [&[u8]; 6] = [
            &self.y.0,
            &self.auth,
            &[self.status as u8],
            &self.class.to_be_bytes(),
            &[0],
            &self.expiry.to_be_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    pub(super) fn read(bytes: &[u8; RECORD]) -> Result<Self, Malformed> {
        let mut r = wire::Reader::new(bytes);
        let y = DhPublic(*r.array("Y")?);
        let auth = *r.array("AUTH")?;
        let status = Status::from_code(r.u8("status")?).ok_or(Malformed("status"))?;
        let class = r.u16("class")?;
        r.zeros(1, "record zero")?;
        let expiry = r.u32("expiry")?;
        // circuit.reply.4
        r.zeros(24, "counter base")?;
        r.finish("record")?;
        Ok(Self { y, auth, status, class, expiry })
    }
}

/// The sealed records of a reply.
#[derive(Debug)]
pub(super) struct Region([u8; REGION]);

impl Region {
    pub(super) fn of(cell: &Cell) -> Self {
        let mut region = [0; REGION];
        for (to, from) in region.iter_mut().zip(cell) {
            *to = *from;
        }
        Self(region)
    }

    /// The cell of this region; the bytes behind it are fresh random ones (circuit.reply.1).
    pub(super) fn into_cell(self, rng: &mut Random) -> Cell {
        let mut cell = [0; CELL];
        rng.fill_bytes(&mut cell);
        for (to, from) in cell.iter_mut().zip(self.0) {
            *to = from;
        }
        cell
    }

    /// The region that the last hop emits.
    pub(super) fn first(keys: &ReplyKeys, record: &[u8; RECORD]) -> Self {
        Self::sealed(keys, record, &fill(keys))
    }

    /// The region that a hop before the last emits: ours falls off at the end.
    pub(super) fn behind(&self, keys: &ReplyKeys, record: &[u8; RECORD]) -> Self {
        let mut rest = [0; REST];
        for (to, from) in rest.iter_mut().zip(self.0) {
            *to = from;
        }
        Self::sealed(keys, record, &rest)
    }

    fn sealed(keys: &ReplyKeys, record: &[u8; RECORD], rest: &[u8; REST]) -> Self {
        let mut c = [0; RECORD + REST];
        for (to, from) in c.iter_mut().zip(record.iter().chain(rest)) {
            *to = *from;
        }
        stream_xor(&keys.stream, &mut c);
        let tag = mac(&keys.mac, &[&c]);
        let (head, tail) = c.split_at(RECORD);
        let mut region = [0; REGION];
        for (to, from) in region.iter_mut().zip(head.iter().chain(&tag).chain(tail)) {
            *to = *from;
        }
        Self(region)
    }

    /// The records of all hops, if the last of `hops` answered and every tag is right (circuit.reply.3).
    pub(super) fn peel(&self, hops: &[&ReplyKeys]) -> Option<Vec<[u8; RECORD]>> {
        let dropped = dropped(hops);
        let mut region = self.0;
        let mut records = Vec::with_capacity(hops.len());
        for (keys, dropped) in hops.iter().zip(dropped) {
            let mut r = wire::Reader::new(&region);
            let (record, tag, rest) = (
                r.array::<RECORD>("record").ok()?,
                r.array::<16>("tag").ok()?,
                r.array::<REST>("rest").ok()?,
            );
            let mut c = [0; RECORD + REST];
            for (to, from) in c.iter_mut().zip(record.iter().chain(rest)) {
                *to = *from;
            }
            if !tags_equal(&mac(&keys.mac, &[&c]), tag) {
                return None;
            }
            stream_xor(&keys.stream, &mut c);
            let (record, rest) = c.split_first_chunk::<RECORD>()?;
            records.push(*record);
            let next = rest.iter().chain(&dropped).copied().collect::<Vec<u8>>();
            region = *next.first_chunk()?;
        }
        Some(records)
    }
}

fn fill(keys: &ReplyKeys) -> [u8; REST] {
    let mut rest = [0; REST];
    stream_xor(&keys.fill, &mut rest);
    rest
}

/// What fell off at each hop, entry first: known to the client, which knows what the last hop filled with.
fn dropped(hops: &[&ReplyKeys]) -> Vec<[u8; SEALED]> {
    let rest_pad = |keys: &ReplyKeys| {
        let mut pad = [0; RECORD + REST];
        stream_xor(&keys.stream, &mut pad);
        pad
    };
    let Some((last, before)) = hops.split_last() else { return vec![] };
    // The known bytes at the end of the region, as emitted by the hop behind.
    let mut known: Vec<u8> =
        fill(last).iter().zip(rest_pad(last).iter().skip(RECORD)).map(|(a, b)| a ^ b).collect();
    let mut out = vec![[0; SEALED]];
    for keys in before.iter().rev() {
        let (kept, fell) = known.split_at(known.len().saturating_sub(SEALED));
        let mut record = [0; SEALED];
        for (to, from) in record.iter_mut().zip(fell) {
            *to = *from;
        }
        out.push(record);
        let pad = rest_pad(keys);
        known = kept.iter().rev().zip(pad.iter().rev()).map(|(a, b)| a ^ b).rev().collect();
    }
    out.reverse();
    out
}
