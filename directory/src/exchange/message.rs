//! Requests and answers of the exchange of sets, as bytes (docs/spec/04-directory.md section 5).

use circuit::error::Malformed;
use circuit::keys::{NetworkId, RelayId};
use wire::{Full, Reader, Writer};

use crate::descriptor::{Digest, MAX_GOSSIPED, SignedDescriptor};
use crate::view::MAX_RELAYS;

/// The longest request, in bytes.
pub const MAX_REQUEST: usize = 128 << 10;
/// The longest answer, in bytes.
pub const MAX_ANSWER: usize = 1 << 20;

/// What stands for one descriptor in a request: cut from a hash that the asker's digest keys.
pub(crate) type Short = [u8; 6];

const STATE: u8 = 1;
const SET: u8 = 2;
const PUSH: u8 = 3;
const REQUEST_HEAD: usize = 1 + 16;
/// Kind, digest, count, change of the registry.
const STATE_SIZE: usize = 1 + 32 + 2 + 8;
/// What an answer with descriptors has besides them and the shorts.
const SET_SIZE: usize = STATE_SIZE + 32 + 1 + 2 + 2;

/// What one node asks another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request<'a> {
    /// Is your set that of this digest?
    State(Digest),
    /// Send what this set lacks.
    Set(Summary),
    /// Take these.
    Push(Vec<&'a [u8]>),
}

/// What an asker has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// The digest of its whole set.
    pub(crate) digest: Digest,
    /// Only relays with higher ids are asked for, and summarised.
    pub(crate) after: RelayId,
    /// Its descriptors, ascending.
    pub(crate) shorts: Vec<Short>,
}

/// What the answering node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) digest: Digest,
    /// The number of its descriptors.
    pub(crate) count: u16,
    /// The last change of the registry that it knows.
    pub(crate) seq: u64,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer<'a> {
    State(State),
    Set(State, Missing<'a>),
}

/// What an asker lacks, and what the answering node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing<'a> {
    /// The digest of the asker's set, as it asked.
    pub(crate) asked: Digest,
    /// Whether the asker lacks more.
    pub(crate) more: bool,
    /// What the asker lacks, ascending by id.
    pub(crate) descriptors: Vec<&'a [u8]>,
    /// What the answering node lacks, ascending.
    pub(crate) lacking: Vec<Short>,
}

impl<'a> Request<'a> {
    // directory.exchange.1
    pub(crate) fn write(&self, network: NetworkId) -> Result<Vec<u8>, Full> {
        let rest = match self {
            Self::State(_) => 32,
            Self::Set(summary) => 32 + 32 + 2 + 6 * summary.shorts.len(),
            Self::Push(descriptors) => 2 + length_of(descriptors),
        };
        let mut bytes = vec![0; REQUEST_HEAD + rest];
        if bytes.len() > MAX_REQUEST {
            return Err(Full);
        }
        let mut out = Writer::new(&mut bytes);
        let mut head = |kind| out.u8(kind).and_then(|()| out.put(&network.0));
        match self {
            Self::State(digest) => {
                head(STATE)?;
                out.put(digest)?;
            }
            Self::Set(summary) => {
                head(SET)?;
                out.put(&summary.digest)?;
                out.put(&summary.after.0)?;
                write_shorts(&mut out, &summary.shorts)?;
            }
            Self::Push(descriptors) => {
                head(PUSH)?;
                write_descriptors(&mut out, descriptors)?;
            }
        }
        Ok(bytes)
    }

    // directory.exchange.1
    pub(crate) fn read(bytes: &'a [u8]) -> Result<(NetworkId, Self), Malformed> {
        if bytes.len() > MAX_REQUEST {
            return Err(Malformed("length of a request"));
        }
        let mut r = Reader::new(bytes);
        let kind = r.u8("kind of request")?;
        let network = NetworkId(*r.array("network")?);
        let request = match kind {
            STATE => Self::State(*r.array("digest")?),
            SET => {
                let (digest, after) = (*r.array("digest")?, RelayId(*r.array("first id")?));
                Self::Set(Summary { digest, after, shorts: read_shorts(&mut r)? })
            }
            PUSH => Self::Push(read_descriptors(&mut r)?),
            _ => return Err(Malformed("kind of request")),
        };
        r.finish("request (bytes after its end)")?;
        Ok((network, request))
    }
}

impl<'a> Answer<'a> {
    // directory.exchange.1
    pub(crate) fn write(&self) -> Result<Vec<u8>, Full> {
        let length = match self {
            Self::State(_) => STATE_SIZE,
            Self::Set(_, missing) => SET_SIZE + length_of(&missing.descriptors) + 6 * missing.lacking.len(),
        };
        let mut bytes = vec![0; length];
        let mut out = Writer::new(&mut bytes);
        let (Self::State(state) | Self::Set(state, _)) = self;
        out.u8(if matches!(self, Self::State(_)) { STATE } else { SET })?;
        out.put(&state.digest)?;
        out.u16(state.count)?;
        out.u64(state.seq)?;
        if let Self::Set(_, missing) = self {
            out.put(&missing.asked)?;
            out.u8(missing.more.into())?;
            write_descriptors(&mut out, &missing.descriptors)?;
            write_shorts(&mut out, &missing.lacking)?;
        }
        Ok(bytes)
    }

    // directory.exchange.1
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_ANSWER {
            return Err(Malformed("length of an answer"));
        }
        let mut r = Reader::new(bytes);
        let kind = r.u8("kind of answer")?;
        let state = State { digest: *r.array("digest")?, count: r.u16("count")?, seq: r.u64("change")? };
        let answer = match kind {
            STATE => Self::State(state),
            SET => {
                let asked = *r.array("digest that was asked for")?;
                let more = match r.u8("more")? {
                    0 => false,
                    1 => true,
                    _ => return Err(Malformed("more (0 or 1)")),
                };
                let descriptors = read_descriptors(&mut r)?;
                Self::Set(state, Missing { asked, more, descriptors, lacking: read_shorts(&mut r)? })
            }
            _ => return Err(Malformed("kind of answer")),
        };
        r.finish("answer (bytes after its end)")?;
        Ok(answer)
    }
}

/// Takes descriptors as long as they fit into what is left of a message; whether all did.
pub(crate) fn fit<'a>(
    descriptors: impl Iterator<Item = &'a SignedDescriptor>,
    mut left: usize,
) -> (Vec<&'a [u8]>, bool) {
    let mut fitting = vec![];
    for descriptor in descriptors {
        let Some(rest) = left.checked_sub(2 + descriptor.bytes().len()) else { return (fitting, false) };
        left = rest;
        fitting.push(descriptor.bytes());
    }
    (fitting, true)
}

/// What is left for descriptors in an answer with so many shorts.
pub(crate) const fn room(shorts: usize) -> usize {
    MAX_ANSWER.saturating_sub(SET_SIZE + 6 * shorts)
}

/// What is left for descriptors in a request that pushes them.
pub(crate) const PUSH_ROOM: usize = MAX_REQUEST - REQUEST_HEAD - 2;

fn length_of(descriptors: &[&[u8]]) -> usize {
    descriptors.iter().map(|bytes| 2 + bytes.len()).sum()
}

fn write_descriptors(out: &mut Writer<'_>, descriptors: &[&[u8]]) -> Result<(), Full> {
    out.u16(u16::try_from(descriptors.len()).map_err(|_| Full)?)?;
    for bytes in descriptors {
        out.u16(u16::try_from(bytes.len()).map_err(|_| Full)?)?;
        out.put(bytes)?;
    }
    Ok(())
}

fn read_descriptors<'a>(r: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, Malformed> {
    let count = r.u16("number of descriptors")?;
    let mut descriptors = vec![];
    for _ in 0..count {
        let length = usize::from(r.u16("length of a descriptor")?);
        if length > MAX_GOSSIPED {
            return Err(Malformed("length of a descriptor (at most 1024)"));
        }
        descriptors.push(r.take(length, "descriptor")?);
    }
    Ok(descriptors)
}

fn write_shorts(out: &mut Writer<'_>, shorts: &[Short]) -> Result<(), Full> {
    out.u16(u16::try_from(shorts.len()).map_err(|_| Full)?)?;
    shorts.iter().try_for_each(|short| out.put(short))
}

fn read_shorts(r: &mut Reader<'_>) -> Result<Vec<Short>, Malformed> {
    let count = usize::from(r.u16("number of shorts")?);
    if count > MAX_RELAYS {
        return Err(Malformed("number of shorts (at most 16384)"));
    }
    let mut part = r.sub(count * 6, "shorts")?;
    let mut shorts = Vec::with_capacity(count);
    while part.remaining() > 0 {
        shorts.push(*part.array("shorts")?);
    }
    if !shorts.is_sorted() {
        return Err(Malformed("shorts (ascending)"));
    }
    Ok(shorts)
}
