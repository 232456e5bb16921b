//! Bounded repair: what the receiver misses, and what the sender keeps (docs/spec/01-link.md section 4).

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::packet::PACKET;
use crate::window::{Verdict, Window};

use super::control::NACK_RANGES;

/// The RTT that is assumed before one is measured.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);
/// A packet that comes so much later than its successor was late, not lost; more where the network shows more.
const REORDERING: Duration = Duration::from_millis(2);
/// A counter is reported so many times.
const MOST_REPORTS: u8 = 4;
/// The most missing counters, and ranges of them, that are remembered.
const MOST_MISSING: u64 = 2048;
const MOST_GAPS: usize = 512;

/// The times of repair, which follow the RTT.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    rtt: Duration,
    /// Whether one side is a client.
    client: bool,
}

impl Pace {
    pub(super) fn new(rtt: Option<Duration>, client: bool) -> Self {
        Self { rtt: rtt.unwrap_or(UNKNOWN_RTT), client }
    }

    /// Between reports, and before TAIL.
    pub(super) fn interval(self) -> Duration {
        (self.rtt / 4).max(Duration::from_millis(5))
    }

    /// How long a packet is repaired.
    pub(super) fn keep(self) -> Duration {
        3 * self.rtt + Duration::from_millis(20)
    }

    /// How often a packet is repaired.
    const fn most_repairs(self) -> u8 {
        if self.client { 4 } else { 2 }
    }

    /// Between reports of the same counter: long enough for the repair to come.
    fn again(self) -> Duration {
        (self.rtt + REORDERING).max(self.interval())
    }
}

#[derive(Clone, Copy, Debug)]
struct Gap {
    first: u64,
    end: u64,
    since: Instant,
    reports: u8,
    again: Instant,
}

impl Gap {
    /// What is still missing, as ranges.
    fn missing<'a>(&'a self, window: &'a Window) -> impl Iterator<Item = (u64, u16)> + 'a {
        let mut at = self.first;
        core::iter::from_fn(move || {
            let missing = |counter: &u64| window.check(*counter) == Verdict::Fresh;
            let first = (at..self.end).find(missing)?;
            at = (first..self.end).find(|counter| !missing(counter)).unwrap_or(self.end);
            Some((first, u16::try_from(at - first).unwrap_or(u16::MAX)))
        })
    }
}

/// The counters that a receiver misses, by the packets that came after them.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    /// One above the highest counter known to be sent.
    next: u64,
    open: VecDeque<Gap>,
    missing: u64,
    reported: Option<Instant>,
    /// How late packets come that nobody repaired.
    lateness: Duration,
}

impl Gaps {
    /// A packet came; true if it shows a new gap.
    pub(super) fn saw(&mut self, now: Instant, counter: u64, pace: Pace) -> bool {
        if counter < self.next {
            self.came_late(now, counter, pace);
            return false;
        }
        let (from, new) = (self.next, counter > self.next);
        self.next = counter + 1;
        if new {
            self.add(now, from, counter);
        }
        new
    }

    /// Learns how long to wait before a report, from a packet that comes too early to be a repair.
    fn came_late(&mut self, now: Instant, counter: u64, pace: Pace) {
        let after = self.open.partition_point(|gap| gap.first <= counter);
        let gap = after.checked_sub(1).and_then(|at| self.open.get(at)).filter(|gap| counter < gap.end);
        if let Some(gap) = gap
            && (gap.reports == 0 || now + pace.again() < gap.again + pace.rtt / 2)
        {
            let late = now.saturating_duration_since(gap.since);
            self.lateness = self.lateness.max(late + late / 4).min(pace.rtt / 2);
        }
    }

    /// TAIL named `counter`; true if that shows a new gap.
    pub(super) fn tail(&mut self, now: Instant, counter: u64) -> bool {
        let Some(end) = counter.checked_add(1).filter(|end| *end > self.next) else {
            return false;
        };
        self.add(now, self.next, end);
        self.next = end;
        true
    }

    fn add(&mut self, now: Instant, first: u64, end: u64) {
        let first = first.max(end.saturating_sub(MOST_MISSING));
        self.lateness -= self.lateness / 256;
        let again = now + self.lateness.max(REORDERING);
        self.open.push_back(Gap { first, end, since: now, reports: 0, again });
        self.missing += end - first;
        while self.missing > MOST_MISSING || self.open.len() > MOST_GAPS {
            let Some(gap) = self.open.pop_front() else { break };
            self.missing -= gap.end - gap.first;
        }
    }

    /// When [`Gaps::report`] is to be called.
    pub(super) fn deadline(&self, pace: Pace) -> Option<Instant> {
        let due = self.open.iter().map(|gap| gap.again).min()?;
        Some(self.reported.map_or(due, |reported| due.max(reported + pace.interval())))
    }

    /// Appends what is to be reported now, at most [`NACK_RANGES`] ranges; returns how many counters are given up.
    // link.repair.1
    pub(super) fn report(
        &mut self,
        now: Instant,
        pace: Pace,
        window: &Window,
        out: &mut Vec<(u64, u16)>,
    ) -> u64 {
        self.reported = Some(now);
        let mut lost = 0;
        self.open.retain_mut(|gap| {
            if gap.again > now {
                return true;
            }
            let late = now.saturating_duration_since(gap.since) > pace.keep();
            if late || gap.reports >= MOST_REPORTS {
                lost += gap.missing(window).map(|(_, count)| u64::from(count)).sum::<u64>();
                return false;
            }
            if out.len() >= NACK_RANGES {
                return true;
            }
            let before = out.len();
            let room = NACK_RANGES - before;
            out.extend(gap.missing(window).take(room));
            gap.reports += 1;
            gap.again = now + pace.again();
            out.len() > before
        });
        self.missing = self.open.iter().map(|gap| gap.end - gap.first).sum();
        lost
    }
}

/// The packets of a [`Chunk`].
const CHUNK: usize = 16;
const CHUNK_BYTES: usize = CHUNK * PACKET;
/// Memory for old packets is given back after so long.
const SURPLUS: Duration = Duration::from_secs(1);

/// The memory that all rings of a node share.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    used: Arc<AtomicUsize>,
    most: usize,
}

impl Memory {
    /// Memory of at most `bytes`.
    pub(super) fn new(bytes: usize) -> Self {
        Self { used: Arc::default(), most: bytes / CHUNK_BYTES }
    }

    fn take(&self) -> bool {
        let taken = self.used.fetch_add(1, Ordering::Relaxed) < self.most;
        if !taken {
            self.give(1);
        }
        taken
    }

    fn give(&self, chunks: usize) {
        self.used.fetch_sub(chunks, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed) * CHUNK_BYTES
    }
}

#[derive(Clone, Copy)]
struct Kept {
    /// `None`: this counter is not kept.
    sent: Option<Instant>,
    repairs: u8,
    bytes: [u8; PACKET],
}

struct Chunk {
    /// Counter over [`CHUNK`].
    number: u64,
    newest: Instant,
    packets: Box<[Kept]>,
}

/// The sealed packets that a sender can repeat, oldest first.
pub(super) struct Ring {
    chunks: VecDeque<Chunk>,
    most: usize,
    memory: Memory,
    /// Counters to be repeated.
    queue: VecDeque<u64>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring").field("chunks", &self.chunks.len()).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring of at most `bytes`, taken from `memory` as it is needed.
    pub(super) const fn new(bytes: usize, memory: Memory) -> Self {
        Self { chunks: VecDeque::new(), most: bytes / CHUNK_BYTES, memory, queue: VecDeque::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Keeps a sealed packet for `keep`, if there is memory.
    pub(super) fn push(&mut self, now: Instant, counter: u64, bytes: &[u8; PACKET], keep: Duration) {
        let (number, at) = place(counter);
        if self.chunks.back().is_none_or(|chunk| chunk.number != number) {
            self.turn(now, number, keep);
        }
        if let Some(chunk) = self.chunks.back_mut().filter(|chunk| chunk.number == number)
            && let Some(kept) = chunk.packets.get_mut(at)
        {
            chunk.newest = now;
            kept.sent = Some(now);
            kept.repairs = 0;
            kept.bytes = *bytes;
        }
    }

    /// Begins a chunk: the oldest one again, if it is of no use any more or there is no memory for another.
    fn turn(&mut self, now: Instant, number: u64, keep: Duration) {
        let age = |chunk: &Chunk| now.saturating_duration_since(chunk.newest);
        // What the next burst will want again is not given back.
        while self.chunks.front().is_some_and(|chunk| age(chunk) > keep + SURPLUS) && self.chunks.len() > 1 {
            self.chunks.pop_front();
            self.memory.give(1);
        }
        let mut spare = None;
        if self.chunks.front().is_some_and(|chunk| age(chunk) > keep) {
            spare = self.chunks.pop_front();
        }
        if spare.is_none() && (self.chunks.len() >= self.most || !self.memory.take()) {
            spare = self.chunks.pop_front();
            if spare.is_none() {
                return;
            }
        }
        let packets = match spare {
            Some(mut chunk) => {
                chunk.packets.iter_mut().for_each(|kept| kept.sent = None);
                chunk.packets
            }
            None => vec![Kept { sent: None, repairs: 0, bytes: [0; PACKET] }; CHUNK].into_boxed_slice(),
        };
        self.chunks.push_back(Chunk { number, newest: now, packets });
    }

    /// The counters that the ring may hold.
    pub(super) fn range(&self) -> core::ops::Range<u64> {
        let first = self.chunks.front().map_or(0, |chunk| chunk.number * CHUNK as u64);
        let end = self.chunks.back().map_or(0, |chunk| (chunk.number + 1) * CHUNK as u64);
        first..end
    }

    /// Queues a packet to be repeated, if it is young and was not repeated too often.
    // link.repair.2
    pub(super) fn repair(&mut self, now: Instant, counter: u64, pace: Pace) -> bool {
        let Some(kept) = self.find(counter) else {
            return false;
        };
        let young = kept.sent.is_some_and(|sent| now.saturating_duration_since(sent) < pace.keep());
        if !young || kept.repairs >= pace.most_repairs() {
            return false;
        }
        kept.repairs += 1;
        self.queue.push_back(counter);
        true
    }

    /// Copies the next packet to be repeated.
    pub(super) fn next_repair(&mut self, out: &mut [u8; PACKET]) -> bool {
        while let Some(counter) = self.queue.pop_front() {
            if let Some(kept) = self.find(counter).filter(|kept| kept.sent.is_some()) {
                *out = kept.bytes;
                return true;
            }
        }
        false
    }

    fn find(&mut self, counter: u64) -> Option<&mut Kept> {
        let (number, at) = place(counter);
        let chunk = self.chunks.binary_search_by_key(&number, |chunk| chunk.number).ok()?;
        self.chunks.get_mut(chunk)?.packets.get_mut(at)
    }

    /// Frees all memory.
    pub(super) fn clear(&mut self) {
        self.memory.give(self.chunks.len());
        self.chunks = VecDeque::new();
        self.queue = VecDeque::new();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.clear();
    }
}

fn place(counter: u64) -> (u64, usize) {
    let size = CHUNK as u64;
    (counter / size, usize::try_from(counter % size).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn t() -> Instant {
        crate::link::tests::start().instant
    }

    fn packet(n: u64) -> [u8; PACKET] {
        let mut bytes = [0; PACKET];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        bytes
    }

    const MS: Duration = Duration::from_millis(1);

    // link.repair.1
    #[test]
    fn a_counter_is_reported_at_most_four_times_and_in_time() {
        for (rtt, client) in [(1, false), (10, true), (40, false), (100, true), (400, true)] {
            let (mut gaps, pace) = (Gaps::default(), Pace::new(Some(rtt * MS), client));
            let mut window = Window::new(8192, 8192);
            for counter in [0, 1, 4] {
                window.mark(counter);
                gaps.saw(t(), counter, pace);
            }
            let mut reports = Vec::new();
            let mut lost = 0;
            while let Some(at) = gaps.deadline(pace) {
                let mut out = Vec::new();
                lost += gaps.report(at, pace, &window, &mut out);
                if !out.is_empty() {
                    assert_eq!(out, [(2, 2)]);
                    reports.push(at);
                }
            }
            assert_eq!(lost, 2);
            assert!((2..=4).contains(&reports.len()), "{rtt} {}", reports.len());
            assert!(reports.windows(2).all(|w| w[1] - w[0] >= pace.interval()));
            assert!(reports.iter().all(|at| *at - t() <= 3 * rtt * MS + 20 * MS));
        }
    }

    #[test]
    fn filled_gaps_are_not_reported_and_tails_are_idempotent() {
        let (mut gaps, pace) = (Gaps::default(), Pace::new(Some(20 * MS), false));
        let mut window = Window::new(8192, 8192);
        assert!(gaps.tail(t(), 9));
        assert!(!gaps.tail(t(), 9));
        assert!(!gaps.tail(t(), u64::MAX));
        for counter in [0, 1, 2, 3, 6, 7] {
            window.mark(counter);
            assert!(!gaps.saw(t(), counter, pace));
        }
        let mut out = Vec::new();
        assert_eq!(gaps.report(t() + 5 * MS, pace, &window, &mut out), 0);
        assert_eq!(out, [(4, 2), (8, 2)]);
        for counter in [4, 5, 8, 9] {
            window.mark(counter);
        }
        out.clear();
        assert_eq!(gaps.report(t() + 90 * MS, pace, &window, &mut out), 0);
        assert!(out.is_empty() && gaps.deadline(pace).is_none());
    }

    #[test]
    fn gaps_are_bounded() {
        let (mut gaps, pace) = (Gaps::default(), Pace::new(None, false));
        gaps.saw(t(), 1 << 40, pace);
        assert_eq!(gaps.missing, MOST_MISSING);
        for i in 0..100_000 {
            gaps.saw(t(), (1 << 40) + 2 * i, pace);
        }
        assert!(gaps.open.len() <= MOST_GAPS && gaps.missing <= MOST_MISSING);
        let mut out = Vec::new();
        let window = Window::new(8192, 8192);
        gaps.report(t() + 5 * MS, pace, &window, &mut out);
        assert_eq!(out.len(), NACK_RANGES);
    }

    // link.repair.2
    #[test]
    fn a_packet_is_repaired_while_young_and_twice() {
        let memory = Memory::new(1 << 20);
        for (client, most) in [(false, 2), (true, 4)] {
            let pace = Pace::new(Some(10 * MS), client);
            let mut ring = Ring::new(1 << 20, memory.clone());
            for n in (0..100).filter(|n| n % 7 != 0) {
                ring.push(t(), n, &packet(n), pace.keep());
            }
            let granted = (0..9).filter(|_| ring.repair(t() + 10 * MS, 33, pace)).count();
            assert_eq!(granted, most);
            let mut out = [0; PACKET];
            for _ in 0..most {
                assert!(ring.next_repair(&mut out));
                assert_eq!(out, packet(33));
            }
            assert!(!ring.next_repair(&mut out));
            assert!(!ring.repair(t(), 35, pace), "not kept");
            assert!(!ring.repair(t(), 1000, pace), "not sent");
            assert!(ring.repair(t() + 49 * MS, 34, pace));
            assert!(!ring.repair(t() + 50 * MS, 36, pace), "too old");
        }
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn a_ring_is_bounded_and_reuses_what_is_old() {
        let memory = Memory::new(10 * CHUNK_BYTES);
        let keep = 100 * MS;
        let mut ring = Ring::new(4 * CHUNK_BYTES, memory.clone());
        for n in 0..1000 {
            ring.push(t(), n, &packet(n), keep);
        }
        assert_eq!(memory.bytes(), 4 * CHUNK_BYTES);
        assert_eq!(ring.range(), (1008 - 64)..1008);
        let mut other = Ring::new(100 * CHUNK_BYTES, memory.clone());
        for n in 0..1000 {
            other.push(t(), n, &packet(n), keep);
        }
        assert_eq!(memory.bytes(), 10 * CHUNK_BYTES);
        other.push(t() + 200 * MS, 1000, &packet(1000), keep);
        other.push(t() + 200 * MS, 1016, &packet(1016), keep);
        assert_eq!(other.chunks.len(), 6, "what the next burst will want is kept");
        other.push(t() + 1150 * MS, 1032, &packet(1032), keep);
        assert_eq!(other.chunks.len(), 2, "what it did not want is given back");
        assert_eq!(memory.bytes(), 6 * CHUNK_BYTES);
        other.clear();
        ring.clear();
        assert_eq!(memory.bytes(), 0);
    }
}
