//! Layers: the keys and counters of one hop, at the relay and at the origin (docs/spec/02-circuit.md section 2).

use std::time::{Duration, Instant};

use rand_core::Rng as _;

use crate::aead::{AeadKey, Suite, TAG, prf};
use crate::cell::{MAX_HOPS, Parts, REST, SLOT, SLOTS, parts};
use crate::error::DropReason;
use crate::keys::{Label, Random, Secret, kdf};
use crate::packet::Cell;
use crate::window::{Verdict, Window};

const END: u32 = 1 << 31;
const PHASE_BITS: u32 = 20;
/// A circuit is retired before a counter reaches this.
pub const LAST_COUNTER: u32 = (1 << 31) - (1 << PHASE_BITS);
const PREVIOUS_KEPT: Duration = Duration::from_secs(3);
const WINDOW_FIRST: u64 = 1024;
const WINDOW_LARGEST: u64 = 32768;

/// What the setup derives for one hop.
#[derive(Clone, Debug)]
pub struct HopKeys {
    /// The AEAD of the bodies.
    pub suite: Suite,
    /// Forward: mask key and first ratchet key.
    pub forward: (Secret<16>, Secret<32>),
    /// Backward: mask key and first ratchet key.
    pub backward: (Secret<16>, Secret<32>),
}

/// The keys of one phase.
#[derive(Clone, Debug)]
struct PhaseKeys {
    body: AeadKey,
    slot: Secret<16>,
}

/// The keys of one direction: the phase in use and the way to the next.
#[derive(Clone, Debug)]
struct Ratchet {
    suite: Suite,
    phase: u32,
    keys: PhaseKeys,
    next: Secret<32>,
}

impl Ratchet {
    fn new(suite: Suite, ratchet: &Secret<32>) -> Self {
        let (keys, next) = Self::derive(suite, ratchet);
        Self { suite, phase: 0, keys, next }
    }

    fn derive(suite: Suite, ratchet: &Secret<32>) -> (PhaseKeys, Secret<32>) {
        let mut derived = kdf(Label::Phase, &[ratchet.expose()]);
        let keys = PhaseKeys { body: AeadKey::new(suite, derived.secret()), slot: derived.secret() };
        (keys, derived.secret())
    }

    fn stepped(&self) -> Self {
        let (keys, next) = Self::derive(self.suite, &self.next);
        Self { suite: self.suite, phase: self.phase + 1, keys, next }
    }
}

/// The receiving half of a layer: forward at a relay, backward at the origin.
#[derive(Debug)]
struct Opener {
    mask: Secret<16>,
    ratchet: Ratchet,
    /// The keys of the phase before, and when they are erased.
    previous: Option<(PhaseKeys, Instant)>,
    window: Window,
}

/// The sending half of a layer: backward at a relay, forward at the origin.
#[derive(Debug)]
struct Sealer {
    mask: Secret<16>,
    ratchet: Ratchet,
    counter: u32,
}

fn counter_nonce(counter: u32) -> [u8; 16] {
    u128::from(counter).to_be_bytes()
}

fn mask_word(mask: &Secret<16>, tag: &[u8; TAG], word: u32) -> u32 {
    word ^ u32::from_be_bytes(prf::<4>(mask, tag))
}

/// Cuts the first slot: its word as it travels, and its tag.
fn read_slot(slots: &[u8; SLOTS]) -> (u32, [u8; TAG]) {
    let mut word = [0; 4];
    let mut tag = [0; TAG];
    let (head, rest) = slots.split_at(4);
    word.copy_from_slice(head);
    for (to, from) in tag.iter_mut().zip(rest) {
        *to = *from;
    }
    (u32::from_be_bytes(word), tag)
}

fn write_slot(slots: &mut [u8; SLOTS], masked: u32, tag: &[u8; TAG]) {
    for (to, from) in slots.iter_mut().zip(masked.to_be_bytes().iter().chain(tag)) {
        *to = *from;
    }
}

fn xor(to: &mut [u8], pad: &[u8]) {
    for (to, pad) in to.iter_mut().zip(pad) {
        *to ^= *pad;
    }
}

/// Word and, forward, the other slots: the associated data of a body.
fn associated(word: u32, rest: &[u8]) -> [u8; 4 + REST] {
    let mut out = [0; 4 + REST];
    for (to, from) in out.iter_mut().zip(word.to_be_bytes().iter().chain(rest)) {
        *to = *from;
    }
    out
}

impl Opener {
    fn new(suite: Suite, (mask, ratchet): &(Secret<16>, Secret<32>)) -> Self {
        Self {
            mask: mask.clone(),
            ratchet: Ratchet::new(suite, ratchet),
            previous: None,
            window: Window::new(WINDOW_FIRST, WINDOW_LARGEST),
        }
    }

    /// Unmasks, checks and opens one layer in place: `open` gets the body key, the slot key, the counter and the word.
    fn open<T>(
        &mut self,
        now: Instant,
        slots: &[u8; SLOTS],
        open: impl FnOnce(&PhaseKeys, u32, u32, &[u8; TAG]) -> Result<T, DropReason>,
    ) -> Result<(T, bool), DropReason> {
        let (masked, tag) = read_slot(slots);
        let word = mask_word(&self.mask, &tag, masked);
        let counter = word & !END;
        self.forget(now);
        // circuit.window.1: a late cell is lost, not bad.
        if self.window.check(counter.into()) != Verdict::Fresh {
            return Err(DropReason::LateCell);
        }
        // circuit.cell.4
        let phase = counter >> PHASE_BITS;
        let current = self.ratchet.phase;
        let opened = if phase == current {
            open(&self.ratchet.keys, counter, word, &tag)?
        } else if phase == current + 1 {
            let next = self.ratchet.stepped();
            let opened = open(&next.keys, counter, word, &tag)?;
            let last = core::mem::replace(&mut self.ratchet, next);
            self.previous = Some((last.keys, now + PREVIOUS_KEPT));
            opened
        } else if phase + 1 == current {
            let (keys, _) = self.previous.as_ref().ok_or(DropReason::LateCell)?;
            open(keys, counter, word, &tag)?
        } else if phase < current {
            return Err(DropReason::LateCell);
        } else {
            return Err(DropReason::BadLayer);
        };
        // circuit.window.2
        self.window.mark(counter.into());
        Ok((opened, word & END != 0))
    }

    fn forget(&mut self, now: Instant) {
        if self.previous.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.previous = None;
        }
    }
}

impl Sealer {
    fn new(suite: Suite, (mask, ratchet): &(Secret<16>, Secret<32>)) -> Self {
        Self { mask: mask.clone(), ratchet: Ratchet::new(suite, ratchet), counter: 0 }
    }

    /// The next counter, with its phase's keys in place; `None` when the circuit is to be retired.
    fn next(&mut self) -> Option<u32> {
        // circuit.cell.4
        if self.counter >= LAST_COUNTER {
            return None;
        }
        let counter = self.counter;
        self.counter += 1;
        if counter >> PHASE_BITS > self.ratchet.phase {
            self.ratchet = self.ratchet.stepped();
        }
        Some(counter)
    }
}

/// Whether an opened cell ends at this hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognized {
    /// The body is for this hop.
    Here,
    /// The cell goes on to the next hop.
    Onward,
}

/// A hop's layer, at the relay.
#[derive(Debug)]
pub struct RelayLayer {
    forward: Opener,
    backward: Sealer,
}

impl RelayLayer {
    /// The layer of fresh keys.
    pub fn new(keys: &HopKeys) -> Self {
        Self {
            forward: Opener::new(keys.suite, &keys.forward),
            backward: Sealer::new(keys.suite, &keys.backward),
        }
    }

    /// Opens a forward cell in place; on [`Recognized::Onward`] it is the cell for the next hop.
    ///
    /// [`DropReason::BadLayer`] ends the circuit, [`DropReason::LateCell`] does not.
    pub fn open(&mut self, now: Instant, cell: &mut Cell) -> Result<Recognized, DropReason> {
        let Parts { slots, body } = parts(cell);
        let rest = *rest_of(slots);
        let ((pad, counter_slots), ends) = self.forward.open(now, slots, |keys, counter, word, tag| {
            // circuit.cell.1
            keys.body
                .open(counter.into(), &associated(word, &rest), body, tag)
                .map_err(|_| DropReason::BadLayer)?;
            let last = word & END != 0;
            let pad = if last { [0; SLOTS] } else { prf::<SLOTS>(&keys.slot, &counter_nonce(counter)) };
            Ok((pad, rest))
        })?;
        if ends {
            return Ok(Recognized::Here);
        }
        *slots = pad;
        xor(slots, &counter_slots);
        Ok(Recognized::Onward)
    }

    /// Seals a backward cell that came from the next hop, in place; false when the circuit is to be retired.
    #[must_use]
    pub fn seal(&mut self, cell: &mut Cell) -> bool {
        self.seal_word(cell, 0)
    }

    /// Seals a backward cell that starts here: its body is set; false when the circuit is to be retired.
    #[must_use]
    pub fn start(&mut self, cell: &mut Cell) -> bool {
        parts(cell).slots.fill(0);
        self.seal_word(cell, END)
    }

    fn seal_word(&mut self, cell: &mut Cell, mark: u32) -> bool {
        let Some(counter) = self.backward.next() else { return false };
        let Parts { slots, body } = parts(cell);
        let keys = &self.backward.ratchet.keys;
        let word = counter | mark;
        let tag = keys.body.seal(counter.into(), &word.to_be_bytes(), body);
        let pad = prf::<REST>(&keys.slot, &counter_nonce(counter));
        slots.copy_within(..REST, SLOT);
        let (_, rest) = slots.split_at_mut(SLOT);
        xor(rest, &pad);
        write_slot(slots, mask_word(&self.backward.mask, &tag, word), &tag);
        true
    }

    /// Erases keys that are due.
    pub fn forget(&mut self, now: Instant) {
        self.forward.forget(now);
    }

    /// The memory that the layer uses, in bytes.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.forward.window.memory()
    }
}

#[expect(clippy::expect_used, reason = "the sizes are constants; every test of layers runs this line")]
fn rest_of(slots: &[u8; SLOTS]) -> &[u8; REST] {
    slots.split_at(SLOT).1.first_chunk().expect("slots are longer than a slot")
}

/// All layers of a circuit, at the origin.
#[derive(Debug)]
pub struct Layers {
    hops: Vec<(Sealer, Opener)>,
}

impl Layers {
    /// The layers of a path, entry first.
    pub fn new(path: &[HopKeys]) -> Self {
        let hop = |keys: &HopKeys| {
            (Sealer::new(keys.suite, &keys.forward), Opener::new(keys.suite, &keys.backward))
        };
        Self { hops: path.iter().take(MAX_HOPS).map(hop).collect() }
    }

    /// The number of hops.
    pub fn hops(&self) -> usize {
        self.hops.len()
    }

    /// Seals a forward cell that ends at hop `last` (0 is the entry), in place: its body is set.
    ///
    /// False when there is no such hop, or when the circuit is to be retired.
    #[must_use]
    pub fn seal(&mut self, rng: &mut Random, last: usize, cell: &mut Cell) -> bool {
        let Some(path) = self.hops.get_mut(..=last) else { return false };
        let mut counters = [0; MAX_HOPS];
        for ((sealer, _), counter) in path.iter_mut().zip(&mut counters) {
            let Some(next) = sealer.next() else { return false };
            *counter = next;
        }
        // What each hop does to the slots, and the filler that so reaches the last hop: its slots' tail.
        let mut pads = [[0; SLOTS]; MAX_HOPS];
        let mut tail = [0; SLOTS];
        for (hop, (((sealer, _), counter), pad)) in path.iter().zip(counters).zip(&mut pads).take(last).enumerate() {
            *pad = prf(&sealer.ratchet.keys.slot, &counter_nonce(counter));
            tail.copy_within(SLOT.., 0);
            tail.iter_mut().rev().take(SLOT).for_each(|b| *b = 0);
            let filled = SLOT * (hop + 1);
            for (to, from) in tail.iter_mut().zip(pad.iter()).rev().take(filled) {
                *to ^= *from;
            }
        }
        let Parts { slots, body } = parts(cell);
        rng.fill_bytes(slots);
        for (to, from) in slots.iter_mut().zip(tail).rev().take(SLOT * last) {
            *to = from;
        }
        for (hop, ((sealer, _), counter)) in path.iter().zip(counters).enumerate().rev() {
            let word = if hop == last { counter | END } else { counter };
            let keys = &sealer.ratchet.keys;
            let tag = keys.body.seal(counter.into(), &associated(word, rest_of(slots)), body);
            write_slot(slots, mask_word(&sealer.mask, &tag, word), &tag);
            if let Some(pad) = hop.checked_sub(1).and_then(|before| pads.get(before)) {
                xor(slots, pad);
                slots.copy_within(..REST, SLOT);
            }
        }
        true
    }

    /// Opens a backward cell in place, and says at which hop it starts (0 is the entry).
    ///
    /// [`DropReason::BadLayer`] ends the circuit, [`DropReason::LateCell`] does not.
    pub fn open(&mut self, now: Instant, cell: &mut Cell) -> Result<usize, DropReason> {
        let Parts { slots, body } = parts(cell);
        for (hop, (_, opener)) in self.hops.iter_mut().enumerate() {
            let (pad, starts) = opener.open(now, slots, |keys, counter, word, tag| {
                keys.body
                    .open(counter.into(), &word.to_be_bytes(), body, tag)
                    .map_err(|_| DropReason::BadLayer)?;
                Ok(prf::<REST>(&keys.slot, &counter_nonce(counter)))
            })?;
            slots.copy_within(SLOT.., 0);
            xor(slots, &pad);
            if starts {
                // circuit.cell.6: what did not fall off is as it started.
                let untouched = slots.iter().take(REST - SLOT * hop);
                return if untouched.fold(0, |all, b| all | b) == 0 { Ok(hop) } else { Err(DropReason::BadLayer) };
            }
        }
        // circuit.cell.2: every tag was right, yet no hop started the cell.
        Err(DropReason::BadLayer)
    }
}

#[cfg(test)]
mod tests;
