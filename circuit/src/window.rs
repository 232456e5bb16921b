//! The sliding replay window of links and layers, which doubles on demand.

/// Which of the recent counters were seen; a bit each, newest first to be overwritten.
#[derive(Clone, Debug)]
pub struct Window {
    bits: Vec<u64>,
    /// One above the highest counter marked.
    next: u64,
    largest: u64,
}

/// What a [`Window`] says of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Never marked, and within the window.
    Fresh,
    /// Marked before.
    Seen,
    /// Older than the window reaches.
    Old,
}

impl Window {
    /// A window of `first` counters that may double up to `largest`; both are powers of two of at least 64.
    pub fn new(first: u64, largest: u64) -> Self {
        debug_assert!(
            first.is_power_of_two() && largest.is_power_of_two() && first >= 64 && largest >= first
        );
        let words = usize::try_from(first / 64).unwrap_or(1).max(1);
        Self { bits: vec![0; words], next: 0, largest }
    }

    /// One above the highest counter marked.
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The number of counters the window reaches back.
    pub const fn size(&self) -> u64 {
        self.bits.len() as u64 * 64
    }

    /// The memory that the window uses, in bytes.
    pub const fn memory(&self) -> usize {
        self.bits.capacity() * 8
    }

    /// Looks a counter up; changes nothing.
    pub fn check(&self, counter: u64) -> Verdict {
        if counter >= self.next {
            Verdict::Fresh
        } else if counter / 64 < self.oldest(self.newest()) {
            Verdict::Old
        } else if self.word(counter).is_some_and(|w| w & bit(counter) != 0) {
            Verdict::Seen
        } else {
            Verdict::Fresh
        }
    }

    /// Marks a counter whose packet has been authenticated; false if it is not [`Verdict::Fresh`].
    pub fn mark(&mut self, counter: u64) -> bool {
        if self.check(counter) != Verdict::Fresh {
            return false;
        }
        if counter >= self.next {
            self.advance(counter);
        }
        let at = self.place(counter / 64);
        if let Some(word) = self.bits.get_mut(at) {
            *word |= bit(counter);
        }
        true
    }

    const fn newest(&self) -> u64 {
        self.next.saturating_sub(1) / 64
    }

    /// The oldest word kept when `newest` is the newest.
    const fn oldest(&self, newest: u64) -> u64 {
        newest.saturating_sub(self.bits.len() as u64 - 1)
    }

    fn advance(&mut self, counter: u64) {
        let to = counter / 64;
        while self.size() < self.largest && self.would_forget_gaps(to) {
            self.grow();
        }
        let first_new = if self.next == 0 { 0 } else { self.newest() + 1 };
        for word in first_new.max(self.oldest(to))..=to {
            let at = self.place(word);
            if let Some(w) = self.bits.get_mut(at) {
                *w = 0;
            }
        }
        self.next = counter + 1;
    }

    /// Whether moving up to word `to` would push a counter out that has not been seen.
    fn would_forget_gaps(&self, to: u64) -> bool {
        (self.oldest(self.newest())..self.oldest(to).min(self.newest() + 1))
            .any(|word| self.bits.get(self.place(word)).is_some_and(|w| *w != u64::MAX))
    }

    fn grow(&mut self) {
        let (newest, oldest) = (self.newest(), self.oldest(self.newest()));
        let wider = vec![0; self.bits.len() * 2];
        let old = core::mem::replace(self, Self { bits: wider, next: self.next, largest: self.largest });
        // What was forgotten before counts as seen.
        for word in self.oldest(newest)..=newest {
            let at = self.place(word);
            let kept = if word < oldest { Some(u64::MAX) } else { old.bits.get(old.place(word)).copied() };
            if let (Some(to), Some(from)) = (self.bits.get_mut(at), kept) {
                *to = from;
            }
        }
    }

    fn place(&self, word: u64) -> usize {
        usize::try_from(word % self.bits.len() as u64).unwrap_or(0)
    }

    fn word(&self, counter: u64) -> Option<u64> {
        self.bits.get(self.place(counter / 64)).copied()
    }
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_counter_is_fresh_once() {
        let mut w = Window::new(1024, 1024);
        for c in [0, 5, 3, 1000, 1023, 1024, 64, 65] {
            assert_eq!(w.check(c), Verdict::Fresh, "{c}");
            assert!(w.mark(c));
            assert_eq!(w.check(c), Verdict::Seen, "{c}");
            assert!(!w.mark(c));
        }
        assert!(w.mark(1 << 40));
        assert_eq!(w.check(1024), Verdict::Old);
        assert_eq!(w.check((1 << 40) - 100), Verdict::Fresh);
    }

    #[test]
    fn a_full_window_does_not_grow_and_a_gappy_one_does() {
        let mut full = Window::new(1024, 32768);
        for c in 0..10_000 {
            assert!(full.mark(c));
        }
        assert_eq!(full.size(), 1024);
        let mut gappy = Window::new(1024, 32768);
        for c in 1..20_000 {
            assert!(gappy.mark(c));
        }
        assert_eq!(gappy.size(), 32768);
        assert_eq!(gappy.check(0), Verdict::Fresh);
        assert!(gappy.mark(0));
        for c in 0..20_000 {
            assert_eq!(gappy.check(c), Verdict::Seen);
        }
    }

    proptest::proptest! {
        #[test]
        fn agrees_with_a_set(jumps in proptest::collection::vec((0u64..3000, 0u64..2500), 1..400)) {
            let mut w = Window::new(128, 1024);
            let (mut seen, mut at) = (HashSet::new(), 0u64);
            for (up, back) in jumps {
                at += up / 10;
                let c = at.saturating_sub(back);
                match w.check(c) {
                    Verdict::Fresh => { proptest::prop_assert!(seen.insert(c)); proptest::prop_assert!(w.mark(c)); }
                    Verdict::Seen => { proptest::prop_assert!(!w.mark(c)); }
                    Verdict::Old => { proptest::prop_assert!(w.next() - c > 64); }
                }
                proptest::prop_assert!(w.size() <= 1024);
                proptest::prop_assert!(!w.mark(c));
            }
        }
    }
}
