//! Setups and replies as a client, or a relay, can make them that puts in what it likes.

use circuit::keys::{DhPublic, DhSecret, Label, Random, RelayId, Secret, kdf, mac, stream_xor};
use circuit::packet::{CELL, Cell};
use circuit::setup::PathHop;

pub(crate) const BLOCK: usize = 192;
pub(crate) const BETA: usize = 960;
pub(crate) const DELTA: usize = 372;
pub(crate) const RECORD: usize = 80;
/// The part of a reply that is not random.
pub(crate) const REGION: usize = 480;

/// The keys that a client shares with a hop, from its ephemeral secret.
#[derive(Debug)]
pub(crate) struct HopKeys {
    x: DhPublic,
    mac: Secret<32>,
    beta: Secret<32>,
    delta: Secret<32>,
    reply: Secret<32>,
    reply_mac: Secret<32>,
}

impl HopKeys {
    pub(crate) fn new(secret: &DhSecret, onion: &DhPublic, id: &RelayId, epoch: u32) -> Self {
        let (x, s) = (secret.public(), secret.agree(onion).unwrap());
        let mut d = kdf(Label::Setup, &[s.expose(), &x.0, &onion.0, &id.0, &epoch.to_be_bytes()]);
        Self {
            x,
            mac: d.secret(),
            beta: d.secret(),
            delta: d.secret(),
            reply: d.secret(),
            reply_mac: d.secret(),
        }
    }

    /// The keys of every hop of a setup that is built with this randomness.
    pub(crate) fn of_path(mut rng: Random, path: &[PathHop]) -> Vec<Self> {
        path.iter()
            .map(|hop| Self::new(&DhSecret::random(&mut rng), &hop.onion, &hop.id, hop.epoch))
            .collect()
    }

    /// The setup that the hop opens as this block, and this inner delta.
    pub(crate) fn setup(&self, block: &[u8; BLOCK], beta: &[u8], delta: &[u8; DELTA]) -> Cell {
        let mut outer = [block, beta].concat();
        outer.resize(BETA, 0);
        stream_xor(&self.beta, &mut outer);
        let mut delta = *delta;
        stream_xor(&self.delta, &mut delta);
        let tag = mac(&self.mac, &[&[1, 1], &self.x.0, &outer, &delta]);
        cell(&[&self.x.0, &tag, &outer, &delta])
    }

    /// The block of a setup for this hop.
    pub(crate) fn block(&self, setup: &Cell) -> [u8; BLOCK] {
        let mut block = *setup[48..].first_chunk().unwrap();
        stream_xor(&self.beta, &mut block);
        block
    }

    /// The reply that the hop makes of this record and what stands behind it.
    pub(crate) fn reply(&self, record: &[u8; RECORD], rest: &[u8]) -> Cell {
        let mut c = [record, rest].concat();
        stream_xor(&self.reply, &mut c);
        let tag = mac(&self.reply_mac, &[&c]);
        cell(&[&c[..RECORD], &tag, &c[RECORD..]])
    }

    /// The record in a reply of this hop.
    pub(crate) fn record(&self, reply: &Cell) -> [u8; RECORD] {
        let mut record = *reply.first_chunk().unwrap();
        stream_xor(&self.reply, &mut record);
        record
    }
}

fn cell(parts: &[&[u8]]) -> Cell {
    let mut cell = [0; CELL];
    let bytes = parts.concat();
    cell[..bytes.len()].copy_from_slice(&bytes);
    cell
}
