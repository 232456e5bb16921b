//! The circuits of a node: a bounded table with one entry per circuit, found by either of its two link-local names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use rand_core::Rng as _;

use crate::keys::Random;
use crate::link::LinkId;
use crate::packet::{CircuitWord, PacketType};

/// An id is not used again for so long (link.word.1).
const RETIRED: Duration = Duration::from_mins(1);

/// A table that had room for so few never shrinks.
const KEPT: usize = 256;

/// Names a circuit within its node; a stale key never names another circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CircuitKey {
    slot: u32,
    generation: u32,
}

impl CircuitKey {
    /// A number for people, the same while the circuit lives.
    pub const fn number(self) -> u64 {
        self.generation as u64 + 1
    }
}

/// Which half of a circuit a packet came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the neighbour nearer to the origin.
    Previous,
    /// From the neighbour farther from the origin.
    Next,
}

/// What a link-local name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A circuit.
    Circuit(CircuitKey, Side),
    /// A circuit that ended not long ago: its late packets are no news.
    Retired,
    /// Nothing.
    Unknown,
}

/// A circuit's name on one link: the link, and opener and id of the circuit word.
type Half = (LinkId, u32);

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    entry: Option<Entry<T>>,
}

#[derive(Debug)]
struct Entry<T> {
    circuit: T,
    previous: Option<Half>,
    next: Option<Half>,
}

/// Circuits of type `T`, at most `limit` of them.
#[derive(Debug)]
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    /// Empty slots; the last slot is never one.
    free: BTreeSet<u32>,
    live: usize,
    /// Of the next circuit: slots come and go, so the generation is the table's.
    generation: u32,
    halves: HashMap<Half, (CircuitKey, Side), HalfHasher>,
    retired: BTreeSet<Half>,
    retired_until: BTreeMap<Instant, Vec<Half>>,
    limit: usize,
}

fn half(link: LinkId, word: CircuitWord) -> Half {
    (link, word.with_kind(PacketType::Cell).to_bits())
}

impl<T> Table<T> {
    /// An empty table.
    pub fn new(limit: usize, rng: &mut Random) -> Self {
        Self {
            slots: Vec::new(),
            free: BTreeSet::new(),
            live: 0,
            generation: 0,
            halves: HashMap::with_hasher(HalfHasher { key: rng.next_u64() | 1 }),
            retired: BTreeSet::new(),
            retired_until: BTreeMap::new(),
            limit,
        }
    }

    /// The number of circuits.
    pub const fn len(&self) -> usize {
        self.live
    }

    /// Whether there is no circuit.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a circuit; `None` when the table is full.
    pub fn insert(&mut self, circuit: T) -> Option<CircuitKey> {
        if self.len() >= self.limit {
            return None;
        }
        let generation = self.generation;
        let filled = Slot { generation, entry: Some(Entry { circuit, previous: None, next: None }) };
        // The lowest place, so that the table can shrink from its end.
        let slot = if let Some(slot) = self.free.first().copied() {
            *self.slots.get_mut(usize::try_from(slot).ok()?)? = filled;
            self.free.remove(&slot);
            slot
        } else {
            let slot = u32::try_from(self.slots.len()).ok()?;
            self.slots.push(filled);
            slot
        };
        self.generation = generation.wrapping_add(1);
        self.live += 1;
        Some(CircuitKey { slot, generation })
    }

    fn entry(&self, key: CircuitKey) -> Option<&Entry<T>> {
        let slot = self.slots.get(usize::try_from(key.slot).ok()?)?;
        slot.entry.as_ref().filter(|_| slot.generation == key.generation)
    }

    fn entry_mut(&mut self, key: CircuitKey) -> Option<&mut Entry<T>> {
        let slot = self.slots.get_mut(usize::try_from(key.slot).ok()?)?;
        slot.entry.as_mut().filter(|_| slot.generation == key.generation)
    }

    /// The circuit of a key.
    pub fn get(&self, key: CircuitKey) -> Option<&T> {
        self.entry(key).map(|entry| &entry.circuit)
    }

    /// The circuit of a key, to be changed.
    pub fn get_mut(&mut self, key: CircuitKey) -> Option<&mut T> {
        self.entry_mut(key).map(|entry| &mut entry.circuit)
    }

    /// Gives a circuit its name on one side; false if the name is taken or the circuit is gone.
    pub fn bind(&mut self, key: CircuitKey, side: Side, link: LinkId, word: CircuitWord) -> bool {
        let name = half(link, word);
        if self.halves.contains_key(&name) {
            return false;
        }
        let Some(entry) = self.entry_mut(key) else { return false };
        match side {
            Side::Previous => entry.previous = Some(name),
            Side::Next => entry.next = Some(name),
        }
        self.halves.insert(name, (key, side));
        true
    }

    /// Takes the name of one side away, which rests as if the circuit had ended; the link that it was on.
    pub fn unbind(&mut self, now: Instant, key: CircuitKey, side: Side) -> Option<LinkId> {
        let entry = self.entry_mut(key)?;
        let name = match side {
            Side::Previous => entry.previous.take(),
            Side::Next => entry.next.take(),
        }?;
        self.halves.remove(&name);
        self.retired.insert(name);
        self.retired_until.entry(now + RETIRED).or_default().push(name);
        Some(name.0)
    }

    /// The circuit's link and word (of type cell) on one side.
    pub fn name(&self, key: CircuitKey, side: Side) -> Option<(LinkId, CircuitWord)> {
        let entry = self.entry(key)?;
        let (link, bits) = match side {
            Side::Previous => entry.previous?,
            Side::Next => entry.next?,
        };
        Some((link, CircuitWord::from_bits(bits)))
    }

    /// What a received word stands for.
    pub fn find(&self, link: LinkId, word: CircuitWord) -> Found {
        let name = half(link, word);
        match self.halves.get(&name) {
            Some((key, side)) => Found::Circuit(*key, *side),
            None if self.retired.contains(&name) => Found::Retired,
            None => Found::Unknown,
        }
    }

    /// A random word that is free on the link, with the opener bit of our side.
    pub fn fresh_word(&self, rng: &mut Random, link: LinkId, opener: bool) -> CircuitWord {
        // link.word.1
        loop {
            let word = CircuitWord::new(PacketType::Cell, opener, rng.next_u32());
            if word.id() != 0 && self.find(link, word) == Found::Unknown {
                return word;
            }
        }
    }

    /// Removes a circuit; its names stay retired for a while.
    pub fn remove(&mut self, now: Instant, key: CircuitKey) -> Option<T> {
        let slot = self.slots.get_mut(usize::try_from(key.slot).ok()?)?;
        if slot.generation != key.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        self.free.insert(key.slot);
        self.live -= 1;
        for name in [entry.previous, entry.next].into_iter().flatten() {
            self.halves.remove(&name);
            self.retired.insert(name);
            self.retired_until.entry(now + RETIRED).or_default().push(name);
        }
        self.shrink();
        Some(entry.circuit)
    }

    /// Gives back most of the memory that a flood of circuits has taken.
    fn shrink(&mut self) {
        while self.slots.last().is_some_and(|slot| slot.entry.is_none()) {
            self.slots.pop();
            self.free.pop_last();
        }
        if self.slots.capacity() > KEPT.max(4 * self.slots.len()) {
            self.slots.shrink_to(2 * self.slots.len());
        }
        if self.halves.capacity() > KEPT.max(4 * self.halves.len()) {
            self.halves.shrink_to(2 * self.halves.len());
        }
    }

    /// Frees the names whose time is over.
    pub fn forget(&mut self, now: Instant) {
        while let Some(first) = self.retired_until.first_entry() {
            if *first.key() > now {
                return;
            }
            for name in first.remove() {
                self.retired.remove(&name);
            }
        }
    }

    /// The number of names that rest.
    #[cfg(test)]
    pub(crate) fn retired(&self) -> usize {
        self.retired.len()
    }

    /// All circuits, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (CircuitKey, &T)> {
        (0u32..).zip(&self.slots).filter_map(|(slot, place)| {
            let circuit = &place.entry.as_ref()?.circuit;
            Some((CircuitKey { slot, generation: place.generation }, circuit))
        })
    }

    /// All circuits, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (CircuitKey, &mut T)> {
        (0u32..).zip(&mut self.slots).filter_map(|(slot, place)| {
            let circuit = &mut place.entry.as_mut()?.circuit;
            Some((CircuitKey { slot, generation: place.generation }, circuit))
        })
    }

    /// The circuits that go over a link, on either side.
    pub fn over(&self, link: LinkId) -> Vec<CircuitKey> {
        let uses = |name: Option<Half>| name.is_some_and(|(over, _)| over == link);
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, place)| place.entry.as_ref().is_some_and(|e| uses(e.previous) || uses(e.next)))
            .map(|(slot, place)| CircuitKey { slot, generation: place.generation })
            .collect()
    }
}

/// Hashes circuit names under a secret key: peers choose the ids, and must not be able to choose the bucket.
#[derive(Clone, Copy, Debug)]
struct HalfHasher {
    key: u64,
}

struct HalfState {
    key: u64,
    state: u64,
}

impl BuildHasher for HalfHasher {
    type Hasher = HalfState;

    fn build_hasher(&self) -> HalfState {
        HalfState { key: self.key, state: self.key.rotate_left(32) }
    }
}

impl Hasher for HalfState {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        let product = u128::from(self.state ^ value) * u128::from(self.key);
        let bytes = product.to_be_bytes();
        let (high, low) = bytes.split_at(8);
        let cut = |half: &[u8]| half.first_chunk().map_or(0, |b| u64::from_be_bytes(*b));
        self.state = cut(high) ^ cut(low);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng as _;

    fn table(limit: usize) -> (Table<u32>, Random) {
        let mut rng = Random::seed_from_u64(1);
        (Table::new(limit, &mut rng), rng)
    }

    #[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_circuit_is_found_by_both_names_and_by_no_stale_key() {
        let (mut t, mut rng) = table(10);
        let (a, b) = (LinkId::sample(1), LinkId::sample(2));
        let key = t.insert(7).unwrap();
        let (wa, wb) = (t.fresh_word(&mut rng, a, false), t.fresh_word(&mut rng, b, true));
        assert!(t.bind(key, Side::Previous, a, wa) && t.bind(key, Side::Next, b, wb));
        assert!(!t.bind(key, Side::Next, a, wa), "the name is taken");
        assert_eq!(t.find(a, wa.with_kind(PacketType::Setup)), Found::Circuit(key, Side::Previous));
        assert_eq!(t.find(b, wb), Found::Circuit(key, Side::Next));
        assert_eq!(t.find(b, wa), Found::Unknown);
        assert_eq!((t.name(key, Side::Next), t.over(a)), (Some((b, wb)), vec![key]));

        let at = now();
        assert_eq!(t.remove(at, key), Some(7));
        assert_eq!((t.remove(at, key), t.get(key), t.len()), (None, None, 0));
        // link.word.1
        assert_eq!(t.find(a, wa), Found::Retired);
        let other = t.insert(8).unwrap();
        assert_ne!(other, key);
        t.forget(at + RETIRED);
        assert_eq!(t.find(a, wa), Found::Unknown);
    }

    #[test]
    fn the_limit_holds() {
        // circuit.table.1
        let (mut t, _) = table(2);
        let key = t.insert(1).unwrap();
        assert!(t.insert(2).is_some() && t.insert(3).is_none());
        t.remove(now(), key);
        assert!(t.insert(3).is_some());
    }

    #[test]
    fn a_flood_leaves_neither_memory_nor_keys_that_mean_others() {
        let (mut t, mut rng) = table(10_000);
        let link = LinkId::sample(1);
        let mut fill = |t: &mut Table<u32>, count| -> Vec<_> {
            let key = |n| {
                let key = t.insert(n).unwrap();
                let word = t.fresh_word(&mut rng, link, false);
                assert!(t.bind(key, Side::Previous, link, word));
                key
            };
            (0..count).map(key).collect()
        };
        let few = fill(&mut t, 3);
        let many = fill(&mut t, 10_000 - 3);
        for key in &many {
            t.remove(now(), *key);
        }
        assert_eq!((t.len(), t.slots.len()), (3, 3));
        assert!(t.slots.capacity() <= KEPT && t.halves.capacity() <= 2 * KEPT);
        let again = fill(&mut t, 500);
        assert!(many.iter().all(|stale| t.get(*stale).is_none() && !again.contains(stale)));
        // From the front: the last one keeps the place of all.
        let (last, others) = again.split_last().unwrap();
        for key in others.iter().chain(&few) {
            t.remove(now(), *key);
        }
        assert_eq!((t.len(), t.get(*last)), (1, Some(&499)));
        let lowest = fill(&mut t, 1);
        t.remove(now(), *last);
        assert_eq!((t.slots.len(), t.iter().next().map(|(key, _)| key)), (1, Some(lowest[0])));
    }

    #[test]
    fn chosen_ids_spread_over_the_buckets() {
        let hasher = HalfHasher { key: 0x9e37_79b9_7f4a_7c15 };
        let mut buckets = [0u32; 256];
        for id in 0..65_536u32 {
            let hash = hasher.hash_one((LinkId::sample(1), id << 8));
            buckets[usize::try_from(hash & 255).unwrap()] += 1;
        }
        assert!(buckets.iter().all(|n| (100..500).contains(n)), "{buckets:?}");
    }
}
