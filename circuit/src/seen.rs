//! The setups that a relay has seen: no setup is answered twice (docs/spec/02-circuit.md, circuit.setup.4).

use std::collections::{BTreeMap, BTreeSet};

/// Minutes that a tag is kept after the minute in which its setup was made.
const KEPT_MINUTES: u32 = 10;
/// A setup may be so many minutes old.
const MAX_AGE: u32 = 5;
/// A setup may be so many minutes ahead of our clock.
const MAX_AHEAD: u32 = 1;
/// The most tags kept; beyond it setups are dropped, never tags.
pub const MAX_TAGS: usize = 2_000_000;

/// A tag and its minute, as they stand in the log.
pub type LogEntry = [u8; 20];

/// What [`SeenSetups::admit`] says of a setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It was never seen, and is recorded now.
    Fresh,
    /// It was seen before: drop it.
    Seen,
    /// It was made too long ago, or in the future.
    OutOfTime,
    /// It may have been seen before the log was lost.
    TooEarly,
    /// The set is full: drop it.
    Full,
}

/// The replay tags of the last minutes.
#[derive(Debug)]
pub struct SeenSetups {
    minutes: BTreeMap<u32, BTreeSet<[u8; 16]>>,
    tags: usize,
    limit: usize,
    /// Setups of this minute and earlier ones are refused: their tags may be lost.
    not_before: Option<u32>,
}

impl SeenSetups {
    /// What is known from a complete log.
    pub fn restored(entries: impl IntoIterator<Item = LogEntry>) -> Self {
        let mut seen = Self { minutes: BTreeMap::new(), tags: 0, limit: MAX_TAGS, not_before: None };
        for entry in entries {
            let (tag, minute) = split(entry);
            seen.insert(tag, minute);
        }
        seen
    }

    /// Nothing is known: the log was missing or torn at `minute` (circuit.setup.6).
    pub fn lost(minute: u32) -> Self {
        Self::restored([]).without(minute)
    }

    /// Tags of setups that came until `minute` may be missing (circuit.setup.6).
    #[must_use]
    pub fn without(self, minute: u32) -> Self {
        Self { not_before: self.not_before.max(Some(minute.saturating_add(MAX_AHEAD))), ..self }
    }

    /// Looks a setup up and, if it is fresh, records it.
    pub fn admit(&mut self, now_minute: u32, tag: [u8; 16], minute: u32) -> Admission {
        self.expire(now_minute);
        // circuit.setup.3
        if minute.saturating_add(MAX_AGE) < now_minute || minute > now_minute.saturating_add(MAX_AHEAD) {
            return Admission::OutOfTime;
        }
        if self.minutes.get(&minute).is_some_and(|tags| tags.contains(&tag)) {
            return Admission::Seen;
        }
        if self.not_before.is_some_and(|before| minute <= before) {
            return Admission::TooEarly;
        }
        if self.tags >= self.limit {
            return Admission::Full;
        }
        self.insert(tag, minute);
        Admission::Fresh
    }

    /// The entry that belongs into the log.
    pub fn entry(tag: [u8; 16], minute: u32) -> LogEntry {
        let mut entry = [0; 20];
        for (to, from) in entry.iter_mut().zip(tag.into_iter().chain(minute.to_be_bytes())) {
            *to = from;
        }
        entry
    }

    /// Whether an entry of the log is still needed at `now_minute`.
    pub fn is_needed(entry: LogEntry, now_minute: u32) -> bool {
        split(entry).1.saturating_add(KEPT_MINUTES) >= now_minute
    }

    /// The number of tags kept.
    pub const fn len(&self) -> usize {
        self.tags
    }

    /// Whether no tag is kept.
    pub const fn is_empty(&self) -> bool {
        self.tags == 0
    }

    fn insert(&mut self, tag: [u8; 16], minute: u32) {
        if self.minutes.entry(minute).or_default().insert(tag) {
            self.tags += 1;
        }
    }

    fn expire(&mut self, now_minute: u32) {
        while let Some(oldest) = self.minutes.first_entry() {
            if oldest.key().saturating_add(KEPT_MINUTES) >= now_minute {
                return;
            }
            // Should the clock go back, they are missed.
            self.not_before = self.not_before.max(Some(*oldest.key()));
            self.tags = self.tags.saturating_sub(oldest.remove().len());
        }
    }
}

fn split(entry: LogEntry) -> ([u8; 16], u32) {
    let (mut tag, mut minute) = ([0; 16], [0; 4]);
    for (to, from) in tag.iter_mut().chain(&mut minute).zip(entry) {
        *to = from;
    }
    (tag, u32::from_be_bytes(minute))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_is_admitted_once_and_in_time_only() {
        // circuit.setup.3, circuit.setup.4
        let mut seen = SeenSetups::restored([]);
        assert_eq!(seen.admit(100, [1; 16], 100), Admission::Fresh);
        assert_eq!(seen.admit(100, [1; 16], 100), Admission::Seen);
        assert_eq!(seen.admit(105, [1; 16], 100), Admission::Seen);
        assert_eq!(seen.admit(106, [1; 16], 100), Admission::OutOfTime);
        assert_eq!(seen.admit(100, [2; 16], 101), Admission::Fresh);
        assert_eq!(seen.admit(100, [2; 16], 102), Admission::OutOfTime);
        assert_eq!(seen.admit(100, [2; 16], 95), Admission::Fresh);
        assert_eq!(seen.len(), 3);
        assert_eq!(seen.admit(120, [9; 16], 120), Admission::Fresh);
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn a_clock_that_jumps_back_forgets_nothing() {
        let mut seen = SeenSetups::restored([]);
        assert_eq!(seen.admit(100, [1; 16], 100), Admission::Fresh);
        assert_eq!(seen.admit(40, [1; 16], 40), Admission::Fresh);
        assert_eq!(seen.admit(100, [1; 16], 100), Admission::Seen);
        // An hour ahead, and back.
        assert_eq!(seen.admit(160, [2; 16], 160), Admission::Fresh);
        assert_eq!(seen.admit(101, [1; 16], 100), Admission::TooEarly);
        assert_eq!(seen.admit(101, [3; 16], 101), Admission::Fresh);
    }

    #[test]
    fn the_log_restores_what_was_seen() {
        let mut seen = SeenSetups::restored([SeenSetups::entry([1; 16], 100)]);
        assert_eq!(seen.admit(101, [1; 16], 100), Admission::Seen);
        assert!(SeenSetups::is_needed(SeenSetups::entry([1; 16], 100), 110));
        assert!(!SeenSetups::is_needed(SeenSetups::entry([1; 16], 100), 111));
    }

    #[test]
    fn without_a_log_only_later_setups_are_admitted() {
        // circuit.setup.6
        let mut seen = SeenSetups::lost(100);
        assert_eq!(seen.admit(100, [1; 16], 100), Admission::TooEarly);
        assert_eq!(seen.admit(101, [1; 16], 101), Admission::TooEarly);
        assert_eq!(seen.admit(101, [1; 16], 102), Admission::Fresh);
    }

    #[test]
    fn a_full_set_drops_setups_and_no_tags() {
        let mut seen = SeenSetups { limit: 2, ..SeenSetups::restored([]) };
        assert_eq!(seen.admit(1, [1; 16], 1), Admission::Fresh);
        assert_eq!(seen.admit(1, [2; 16], 1), Admission::Fresh);
        assert_eq!(seen.admit(1, [3; 16], 1), Admission::Full);
        assert_eq!(seen.admit(1, [1; 16], 1), Admission::Seen);
    }
}
