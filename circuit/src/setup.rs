//! Circuit setup and its reply: one pass over the path (docs/spec/02-circuit.md section 1).

use rand_core::Rng as _;

use crate::aead::Suite;
use crate::cell::MAX_HOPS;
use crate::error::{Malformed, Misbehaved, Misuse};
use crate::keys::{
    Derived, DhPublic, DhSecret, Label, Random, RelayId, Secret, kdf, mac, stream_xor, tags_equal,
};
use crate::layer::HopKeys;
use crate::packet::{CELL, Cell};

mod block;
mod reply;

pub use block::{Block, Role, Terms};
pub use reply::{Outcome, Status};
pub(crate) use reply::{read_rate, write_rate};

use block::BLOCK;
use reply::{RECORD, Record, Region};

/// All encrypted blocks.
const BETA: usize = BLOCK * MAX_HOPS;
/// Zeros, length and early data, encrypted.
const DELTA: usize = CELL - 48 - BETA;
/// The most early data that a setup carries to the last hop.
pub const MAX_EARLY: usize = DELTA - 18;
const CONSTANTS: [u8; 2] = [1, 1];

/// The length of an onion-key epoch in seconds.
pub const EPOCH_SECONDS: u64 = 21_600;

/// A relay as the client addresses it in a setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathHop {
    /// The relay.
    pub id: RelayId,
    /// Its onion key of the epoch.
    pub onion: DhPublic,
    /// The epoch: unix time / 21,600.
    pub epoch: u32,
    /// The AEAD of this hop's layer.
    pub suite: Suite,
    /// The conditions that the relay is asked to accept.
    pub terms: Terms,
}

/// The header keys of one hop.
struct Header {
    mac: Secret<32>,
    beta: Secret<32>,
    delta: Secret<32>,
    reply: ReplyKeys,
    tag: [u8; 16],
    m: Secret<32>,
}

/// The keys that seal a hop's record.
#[derive(Clone, Debug)]
struct ReplyKeys {
    stream: Secret<32>,
    mac: Secret<32>,
    fill: Secret<32>,
}

impl Header {
    fn derive(s: &Secret<32>, x: &DhPublic, onion: &DhPublic, id: &RelayId, epoch: u32) -> Self {
        let mut d = kdf(Label::Setup, &[s.expose(), &x.0, &onion.0, &id.0, &epoch.to_be_bytes()]);
        Self {
            mac: d.secret(),
            beta: d.secret(),
            delta: d.secret(),
            reply: ReplyKeys { stream: d.secret(), mac: d.secret(), fill: d.secret() },
            tag: d.bytes(),
            m: d.secret(),
        }
    }
}

/// What both ends know of a hop before the ephemeral agreement.
#[derive(Clone, Debug)]
struct Transcript {
    m: Secret<32>,
    x: DhPublic,
    onion: DhPublic,
    id: RelayId,
    block_hash: [u8; 32],
}

impl Transcript {
    /// AUTH and the hop's keys.
    fn session(&self, e: &Secret<32>, y: &DhPublic, suite: Suite) -> ([u8; 16], HopKeys) {
        let mut d: Derived = kdf(
            Label::Session,
            &[self.m.expose(), e.expose(), &self.x.0, &y.0, &self.onion.0, &self.id.0, &self.block_hash],
        );
        let auth = d.bytes();
        let (mask_f, mask_b) = (d.secret(), d.secret());
        let (ratchet_f, ratchet_b) = (d.secret(), d.secret());
        (auth, HopKeys { suite, forward: (mask_f, ratchet_f), backward: (mask_b, ratchet_b) })
    }
}

/// The four parts of a setup message.
struct Message {
    x: DhPublic,
    mac: [u8; 16],
    beta: [u8; BETA],
    delta: [u8; DELTA],
}

impl Message {
    fn read(cell: &Cell) -> Result<Self, Malformed> {
        let mut r = wire::Reader::new(cell);
        let message = Self {
            x: DhPublic(*r.array("setup key")?),
            mac: *r.array("setup mac")?,
            beta: *r.array("setup beta")?,
            delta: *r.array("setup delta")?,
        };
        r.finish("setup")?;
        Ok(message)
    }

    fn write(&self) -> Cell {
        let mut cell = [0; CELL];
        let parts = self.x.0.iter().chain(&self.mac).chain(&self.beta).chain(&self.delta);
        for (to, from) in cell.iter_mut().zip(parts) {
            *to = *from;
        }
        cell
    }

    fn mac(&self, key: &Secret<32>) -> [u8; 16] {
        mac(key, &[&CONSTANTS, &self.x.0, &self.beta, &self.delta])
    }
}

/// Splits `beta | zeros` after decryption into the hop's block and the next beta, and back.
fn beta_stream(key: &Secret<32>) -> [u8; BETA + BLOCK] {
    let mut pad = [0; BETA + BLOCK];
    stream_xor(key, &mut pad);
    pad
}

/// What the client keeps of one hop until the reply.
#[derive(Debug)]
struct SentHop {
    secret: DhSecret,
    transcript: Transcript,
    reply: ReplyKeys,
    suite: Suite,
}

/// A setup that was sent and not yet answered; the ephemeral secrets are erased with it.
#[derive(Debug)]
pub struct SentSetup {
    hops: Vec<SentHop>,
}

/// What goes around the path of a setup.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    /// When the relays end the circuit, unix seconds.
    pub expiry: u32,
    /// The minute of sending, unix time / 60.
    pub minute: u32,
    /// Whether the last relay is asked to serve as an exit.
    pub exit: bool,
    /// At most [`MAX_EARLY`] bytes for the last relay.
    pub early: &'a [u8],
}

/// Builds the setup for a path of 1 to 5 relays, entry first.
pub fn build(rng: &mut Random, path: &[PathHop], purpose: Purpose<'_>) -> Result<(SentSetup, Cell), Misuse> {
    // circuit.setup.8
    if path.is_empty() || path.len() > MAX_HOPS {
        return Err(Misuse("a path has 1 to 5 relays"));
    }
    for (i, hop) in path.iter().enumerate() {
        if path.iter().skip(i + 1).any(|other| other.id == hop.id) {
            return Err(Misuse("a path must not name a relay twice"));
        }
    }
    let mut keyed = Vec::with_capacity(path.len());
    for hop in path {
        let secret = DhSecret::random(rng);
        let x = secret.public();
        let s = secret.agree(&hop.onion).map_err(|_| Misuse("an onion key of small order"))?;
        keyed.push((secret, x, Header::derive(&s, &x, &hop.onion, &hop.id, hop.epoch)));
    }
    // What the hops append is known, so each MAC can cover it.
    let mut tail = Vec::with_capacity(BETA);
    for (_, _, header) in keyed.iter().take(path.len() - 1) {
        tail.extend_from_slice(&[0; BLOCK]);
        let pad = beta_stream(&header.beta);
        for (to, from) in tail.iter_mut().rev().zip(pad.iter().rev()) {
            *to ^= *from;
        }
    }
    let mut next = innermost(rng, &tail, purpose.early)?;
    let mut hops = Vec::with_capacity(path.len());
    let (mut next_id, mut terminal) = (RelayId([0; 32]), true);
    for (hop, (secret, x, header)) in path.iter().zip(keyed).rev() {
        let block = Block {
            terminal,
            exit: terminal && purpose.exit,
            suite: hop.suite,
            expiry: purpose.expiry,
            next_id,
            terms: hop.terms,
            minute: purpose.minute,
            next_key: next.x,
            next_mac: next.mac,
        }
        .write();
        next = enclose(&header, x, &block, &next, terminal.then_some(tail.as_slice()));
        let transcript = Transcript {
            m: header.m,
            x,
            onion: hop.onion,
            id: hop.id,
            block_hash: *blake3::hash(&block).as_bytes(),
        };
        hops.push(SentHop { secret, transcript, reply: header.reply, suite: hop.suite });
        (next_id, terminal) = (hop.id, false);
    }
    hops.reverse();
    Ok((SentSetup { hops }, next.write()))
}

/// The message behind the last hop: random unused blocks, and the early data.
fn innermost(rng: &mut Random, tail: &[u8], early: &[u8]) -> Result<Message, Misuse> {
    let mut beta = [0; BETA];
    rng.fill_bytes(&mut beta);
    for (to, from) in beta.iter_mut().rev().zip(tail.iter().rev()) {
        *to = *from;
    }
    let mut delta = [0; DELTA];
    rng.fill_bytes(&mut delta);
    let mut w = wire::Writer::new(&mut delta);
    let length = u16::try_from(early.len()).map_err(|_| Misuse("too much early data"))?;
    w.put(&[0; 16])
        .and_then(|()| w.u16(length))
        .and_then(|()| w.put(early))
        .map_err(|_| Misuse("too much early data"))?;
    Ok(Message { x: DhPublic([0; 32]), mac: [0; 16], beta, delta })
}

/// Puts `block` in front of the message for the next hop. At the last hop `tail` stands at the end of beta as it is.
fn enclose(
    header: &Header,
    x: DhPublic,
    block: &[u8; BLOCK],
    next: &Message,
    tail: Option<&[u8]>,
) -> Message {
    let pad = beta_stream(&header.beta);
    let mut beta = [0; BETA];
    for ((to, from), pad) in beta.iter_mut().zip(block.iter().chain(&next.beta)).zip(&pad) {
        *to = from ^ pad;
    }
    for (to, from) in beta.iter_mut().rev().zip(tail.unwrap_or_default().iter().rev()) {
        *to = *from;
    }
    let mut delta = next.delta;
    stream_xor(&header.delta, &mut delta);
    let mut message = Message { x, mac: [0; 16], beta, delta };
    message.mac = message.mac(&header.mac);
    message
}

impl SentSetup {
    /// The number of hops.
    pub fn hops(&self) -> usize {
        self.hops.len()
    }

    /// Checks a reply: the keys of every hop, or which hop (0 is the entry) could not go on and why.
    pub fn open_reply(&self, cell: &Cell) -> Result<Outcome, Misbehaved> {
        let region = Region::of(cell);
        let keys: Vec<_> = self.hops.iter().map(|hop| &hop.reply).collect();
        // circuit.reply.3: any hop may have answered as the last one.
        for answered in (1..=self.hops.len()).rev() {
            let Some(records) = keys.get(..answered).and_then(|keys| region.peel(keys)) else { continue };
            return self.accept(&records);
        }
        Err(Misbehaved("a reply whose tags do not verify"))
    }

    fn accept(&self, records: &[[u8; RECORD]]) -> Result<Outcome, Misbehaved> {
        let mut keys = Vec::with_capacity(records.len());
        for (index, (hop, record)) in self.hops.iter().zip(records).enumerate() {
            let record = Record::read(record).map_err(|_| Misbehaved("a malformed record"))?;
            if record.status != Status::Ok {
                if index + 1 == records.len() {
                    return Ok(Outcome::Refused { hop: index, status: record.status });
                }
                return Err(Misbehaved("a refusal before the last record"));
            }
            let e = hop.secret.agree(&record.y)?;
            let (auth, hop_keys) = hop.transcript.session(&e, &record.y, hop.suite);
            if !tags_equal(&auth, &record.auth) {
                return Err(Misbehaved("a record with a wrong AUTH"));
            }
            keys.push(hop_keys);
        }
        if keys.len() == self.hops.len() {
            Ok(Outcome::Ready(keys))
        } else {
            Err(Misbehaved("a reply from the middle of the path without a refusal"))
        }
    }
}

/// A setup that is for this relay: its MAC was right.
#[derive(Debug)]
pub struct ReceivedSetup {
    /// The replay tag.
    pub tag: [u8; 16],
    block: [u8; BLOCK],
    next_beta: [u8; BETA],
    delta: [u8; DELTA],
    transcript: Transcript,
    reply: ReplyKeys,
}

/// Opens a setup with the relay's onion key of the epoch; the MAC is checked before anything is decrypted.
pub fn receive(id: RelayId, onion: &DhSecret, epoch: u32, cell: &Cell) -> Result<ReceivedSetup, Misbehaved> {
    let message = Message::read(cell).map_err(|_| Misbehaved("a malformed setup"))?;
    let s = onion.agree(&message.x)?;
    let onion = onion.public();
    let header = Header::derive(&s, &message.x, &onion, &id, epoch);
    // circuit.setup.2
    if !tags_equal(&message.mac(&header.mac), &message.mac) {
        return Err(Misbehaved("a setup with a wrong MAC"));
    }
    let mut plain = beta_stream(&header.beta);
    for (to, from) in plain.iter_mut().zip(&message.beta) {
        *to ^= *from;
    }
    let mut delta = message.delta;
    stream_xor(&header.delta, &mut delta);
    let (mut block, mut next_beta) = ([0; BLOCK], [0; BETA]);
    for (to, from) in block.iter_mut().chain(&mut next_beta).zip(plain) {
        *to = from;
    }
    let transcript =
        Transcript { m: header.m, x: message.x, onion, id, block_hash: *blake3::hash(&block).as_bytes() };
    Ok(ReceivedSetup { tag: header.tag, block, next_beta, delta, transcript, reply: header.reply })
}

impl ReceivedSetup {
    /// The minute in which the client made the setup, unix time / 60; readable whatever the block's version.
    pub fn minute(&self) -> u32 {
        block::minute(&self.block)
    }

    /// The relay's instructions.
    pub fn block(&self) -> Result<Block, Malformed> {
        Block::read(&self.block)
    }

    /// The setup for the next hop.
    pub fn onward(&self, block: &Block) -> Cell {
        Message { x: block.next_key, mac: block.next_mac, beta: self.next_beta, delta: self.delta }.write()
    }

    /// The early data of a setup that ends here.
    pub fn early(&self) -> Result<&[u8], Malformed> {
        let mut r = wire::Reader::new(&self.delta);
        r.zeros(16, "delta zeros")?;
        let length = r.u16("early data length")?;
        r.take(length.into(), "early data")
    }

    /// What is needed to answer later; everything else is erased.
    pub fn into_answer(self) -> Answer {
        Answer { transcript: self.transcript, reply: self.reply }
    }
}

/// The one answer that a relay may give to a setup.
#[derive(Debug)]
pub struct Answer {
    transcript: Transcript,
    reply: ReplyKeys,
}

impl Answer {
    /// Accepts as the last hop: the keys, and the reply.
    pub fn finish(self, rng: &mut Random, block: &Block) -> Result<(HopKeys, Cell), Misbehaved> {
        let (keys, record) = self.agree(rng, block)?;
        Ok((keys, Region::first(&self.reply, &record).into_cell(rng)))
    }

    /// Accepts as a hop before the last: puts our record in front of the reply that came.
    pub fn pass(self, rng: &mut Random, block: &Block, reply: &Cell) -> Result<(HopKeys, Cell), Misbehaved> {
        let (keys, record) = self.agree(rng, block)?;
        Ok((keys, Region::of(reply).behind(&self.reply, &record).into_cell(rng)))
    }

    /// Refuses, as the last hop would answer.
    // circuit.reply.2
    pub fn refuse(self, rng: &mut Random, status: Status) -> Cell {
        Region::first(&self.reply, &Record::refusal(status)).into_cell(rng)
    }

    fn agree(&self, rng: &mut Random, block: &Block) -> Result<(HopKeys, [u8; RECORD]), Misbehaved> {
        let secret = DhSecret::random(rng);
        let y = secret.public();
        let e = secret.agree(&self.transcript.x)?;
        let (auth, keys) = self.transcript.session(&e, &y, block.suite);
        let record =
            Record { y, auth, status: Status::Ok, class: block.terms.class, expiry: block.expiry }.write();
        Ok((keys, record))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
