//! Receiver indices: from the bytes of a packet to its session, without a hash.

use rand_core::Rng as _;

use crate::keys::Random;

/// Byte 0 of an index names the owner shard, of which there is one.
const RANDOM_BITS: u32 = 0x00ff_ffff;
const LARGEST: usize = 1 << 20;

/// What an index leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The link in this slot.
    Link(u32),
    /// The unfinished handshake with this number, which we answered.
    Answer(u32),
}

/// All receiver indices; the low bits of an index are its place in the table.
///
/// An index is drawn at random until its place is free. Places differ in their low bits, so they still differ after
/// the table has doubled.
#[derive(Debug)]
pub(super) struct Indices {
    entries: Vec<Option<(u32, Place)>>,
    used: usize,
}

impl Indices {
    pub(super) fn new() -> Self {
        Self { entries: vec![None; 16], used: 0 }
    }

    /// The number of indices in use.
    #[cfg(test)]
    pub(super) const fn len(&self) -> usize {
        self.used
    }

    /// Where packets with this index belong.
    pub(super) fn find(&self, index: u32) -> Option<Place> {
        let (whole, place) = (*self.entries.get(self.at(index))?)?;
        (whole == index).then_some(place)
    }

    /// Draws an index that leads to `place`; `None` if the table is full.
    pub(super) fn claim(&mut self, rng: &mut Random, place: Place) -> Option<u32> {
        if self.used * 2 >= self.entries.len() {
            self.grow()?;
        }
        loop {
            let index = rng.next_u32() & RANDOM_BITS;
            let at = self.at(index);
            if let Some(free) = self.entries.get_mut(at).filter(|entry| index != 0 && entry.is_none()) {
                *free = Some((index, place));
                self.used += 1;
                return Some(index);
            }
        }
    }

    /// Lets an index that is in use lead elsewhere.
    pub(super) fn lead(&mut self, index: u32, to: Place) {
        let at = self.at(index);
        if let Some(Some((whole, place))) = self.entries.get_mut(at)
            && *whole == index
        {
            *place = to;
        }
    }

    /// Frees an index.
    pub(super) fn free(&mut self, index: u32) {
        let at = self.at(index);
        if let Some(entry) = self.entries.get_mut(at).filter(|e| e.is_some_and(|(whole, _)| whole == index)) {
            *entry = None;
            self.used -= 1;
        }
    }

    fn at(&self, index: u32) -> usize {
        usize::try_from(index).unwrap_or(0) & (self.entries.len() - 1)
    }

    fn grow(&mut self) -> Option<()> {
        if self.entries.len() >= LARGEST {
            return None;
        }
        let old = core::mem::take(&mut self.entries);
        self.entries = vec![None; old.len() * 2];
        for entry in old.into_iter().flatten() {
            let at = self.at(entry.0);
            if let Some(to) = self.entries.get_mut(at) {
                *to = Some(entry);
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng as _;

    #[test]
    fn indices_lead_to_their_places_until_they_are_freed() {
        let mut rng = Random::from_seed([4; 32]);
        let mut indices = Indices::new();
        let all: Vec<u32> = (0..5000).map(|n| indices.claim(&mut rng, Place::Link(n)).unwrap()).collect();
        for (n, index) in (0..).zip(&all) {
            assert!(*index != 0 && *index <= RANDOM_BITS);
            assert_eq!(indices.find(*index), Some(Place::Link(n)));
            assert_eq!(indices.find(*index | 1 << 24), None);
        }
        indices.lead(all[7], Place::Answer(9));
        assert_eq!(indices.find(all[7]), Some(Place::Answer(9)));
        for index in &all {
            indices.free(*index);
            indices.free(*index);
            assert_eq!(indices.find(*index), None);
        }
        assert_eq!(indices.len(), 0);
    }
}
