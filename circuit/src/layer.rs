//! Layers: the keys and counters of one hop, at the relay and at the origin (docs/spec/02-circuit.md section 2).

use std::time::{Duration, Instant};

use rand_core::Rng as _;

use crate::aead::{AeadKey, Suite, TAG, prf};
use crate::cell::{BODY, MAX_HOPS, Parts, REST, SLOT, SLOTS, parts};
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

impl PhaseKeys {
    /// What the slots of a cell are masked with.
    fn pad(&self, counter: u32) -> [u8; SLOTS] {
        prf(&self.slot, &u128::from(counter).to_be_bytes())
    }
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

fn mask_word(mask: &Secret<16>, tag: &[u8; TAG], word: u32) -> u32 {
    word ^ u32::from_be_bytes(prf::<4>(mask, tag))
}

/// The `N` bytes from `AT` on; that they are there is checked when this is compiled.
#[expect(clippy::expect_used, reason = "the sizes are constants, and checked")]
fn cut<const AT: usize, const N: usize, const ALL: usize>(bytes: &[u8; ALL]) -> &[u8; N] {
    const { assert!(AT + N <= ALL) };
    bytes.split_at(AT).1.first_chunk().expect("checked above")
}

#[expect(clippy::expect_used, reason = "the sizes are constants, and checked")]
fn cut_mut<const AT: usize, const N: usize, const ALL: usize>(bytes: &mut [u8; ALL]) -> &mut [u8; N] {
    const { assert!(AT + N <= ALL) };
    bytes.split_at_mut(AT).1.first_chunk_mut().expect("checked above")
}

/// The first slot: its word as it travels, and its tag.
fn read_slot(slots: &[u8; SLOTS]) -> (u32, &[u8; TAG]) {
    (u32::from_be_bytes(*cut::<0, 4, _>(slots)), cut::<4, TAG, _>(slots))
}

fn write_slot(slots: &mut [u8; SLOTS], masked: u32, tag: &[u8; TAG]) {
    *cut_mut::<0, 4, _>(slots) = masked.to_be_bytes();
    *cut_mut::<4, TAG, _>(slots) = *tag;
}

/// Drops the first slot; the last place is filled from the pad.
fn drop_slot(slots: &mut [u8; SLOTS], pad: &[u8; SLOTS]) {
    let mut next = *pad;
    xor(cut_mut::<0, REST, _>(&mut next), cut::<SLOT, REST, _>(slots));
    *slots = next;
}

/// Undoes [`drop_slot`], and so makes room for a slot; the last slot falls off.
fn push_slot(slots: &mut [u8; SLOTS], pad: &[u8; SLOTS]) {
    let mut rest = *cut::<0, REST, _>(slots);
    xor(&mut rest, cut::<0, REST, _>(pad));
    *cut_mut::<SLOT, REST, _>(slots) = rest;
}

fn xor<const N: usize>(to: &mut [u8; N], pad: &[u8; N]) {
    for (to, pad) in to.iter_mut().zip(pad) {
        *to ^= *pad;
    }
}

/// The associated data of a forward body: the word and the other slots.
fn associated(word: u32, slots: &[u8; SLOTS]) -> [u8; 4 + REST] {
    let mut out = [0; 4 + REST];
    *cut_mut::<0, 4, _>(&mut out) = word.to_be_bytes();
    *cut_mut::<4, REST, _>(&mut out) = *cut::<SLOT, REST, _>(slots);
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

    /// Unmasks, checks and opens one layer in place: the pad of the slots, and whether the word has bit 31.
    ///
    /// `associated` makes the associated data from the word.
    fn open<A: AsRef<[u8]>>(
        &mut self,
        now: Instant,
        slots: &[u8; SLOTS],
        body: &mut [u8; BODY],
        associated: impl FnOnce(u32) -> A,
    ) -> Result<([u8; SLOTS], bool), DropReason> {
        let (masked, tag) = read_slot(slots);
        let word = mask_word(&self.mask, tag, masked);
        let counter = word & !END;
        self.forget(now);
        // circuit.window.1: a late cell is lost, not bad.
        if self.window.check(counter.into()) != Verdict::Fresh {
            return Err(DropReason::LateCell);
        }
        // circuit.cell.1
        let open = |keys: &PhaseKeys| {
            let opened = keys.body.open(counter.into(), associated(word).as_ref(), body, tag);
            opened.map(|()| keys.pad(counter)).map_err(|_| DropReason::BadLayer)
        };
        // circuit.cell.4
        let phase = counter >> PHASE_BITS;
        let current = self.ratchet.phase;
        let pad = if phase == current {
            open(&self.ratchet.keys)?
        } else if phase == current + 1 {
            let next = self.ratchet.stepped();
            let pad = open(&next.keys)?;
            let last = core::mem::replace(&mut self.ratchet, next);
            self.previous = Some((last.keys, now + PREVIOUS_KEPT));
            pad
        } else if phase + 1 == current {
            let (keys, _) = self.previous.as_ref().ok_or(DropReason::LateCell)?;
            open(keys)?
        } else if phase < current {
            return Err(DropReason::LateCell);
        } else {
            return Err(DropReason::BadLayer);
        };
        // circuit.window.2
        self.window.mark(counter.into());
        Ok((pad, word & END != 0))
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

    /// Opens a forward cell in place; on [`Recognized::Onward`] it is the cell for the next hop, which is computed from
    /// nothing but the cell and the keys (circuit.cell.3).
    ///
    /// [`DropReason::BadLayer`] ends the circuit, [`DropReason::LateCell`] does not.
    pub fn open(&mut self, now: Instant, cell: &mut Cell) -> Result<Recognized, DropReason> {
        let Parts { slots, body } = parts(cell);
        let (pad, ends) = self.forward.open(now, slots, body, |word| associated(word, slots))?;
        if ends {
            return Ok(Recognized::Here);
        }
        drop_slot(slots, &pad);
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
        push_slot(slots, &keys.pad(counter));
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
        let Parts { slots, body } = parts(cell);
        // Random slots go the way to the last hop: there the unused ones are random, the others what the hops append.
        rng.fill_bytes(slots);
        let mut steps = [(0, [0; SLOTS]); MAX_HOPS];
        for (hop, ((sealer, _), (counter, pad))) in path.iter_mut().zip(&mut steps).enumerate() {
            let Some(next) = sealer.next() else { return false };
            *counter = next;
            if hop < last {
                *pad = sealer.ratchet.keys.pad(next);
                drop_slot(slots, pad);
            }
        }
        for (hop, ((sealer, _), (counter, pad))) in path.iter().zip(&steps).enumerate().rev() {
            let word = if hop == last { counter | END } else { *counter };
            if hop < last {
                push_slot(slots, pad);
            }
            let tag = sealer.ratchet.keys.body.seal((*counter).into(), &associated(word, slots), body);
            write_slot(slots, mask_word(&sealer.mask, &tag, word), &tag);
        }
        true
    }

    /// How many cells hop `hop` has sealed, as its highest counter says.
    pub fn sealed_by(&self, hop: usize) -> u64 {
        self.hops.get(hop).map_or(0, |(_, opener)| opener.window.next())
    }

    /// Opens a backward cell in place, and says at which hop it starts (0 is the entry).
    ///
    /// [`DropReason::BadLayer`] ends the circuit, [`DropReason::LateCell`] does not.
    pub fn open(&mut self, now: Instant, cell: &mut Cell) -> Result<usize, DropReason> {
        let Parts { slots, body } = parts(cell);
        for (hop, (_, opener)) in self.hops.iter_mut().enumerate() {
            let (pad, starts) = opener.open(now, slots, body, u32::to_be_bytes)?;
            // What fills the last place is not looked at any more.
            drop_slot(slots, &pad);
            if starts {
                // circuit.cell.6: what did not fall off is as it started.
                let untouched = slots.iter().take(REST - SLOT * hop);
                return if untouched.fold(0, |all, b| all | b) == 0 {
                    Ok(hop)
                } else {
                    Err(DropReason::BadLayer)
                };
            }
        }
        // circuit.cell.2: every tag was right, yet no hop started the cell.
        Err(DropReason::BadLayer)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
