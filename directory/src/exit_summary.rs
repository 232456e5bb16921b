//! Which ports an exit serves, as its descriptor tells.

use core::fmt;
use std::ops::RangeInclusive;

use wire::Malformed;

/// The ports that an exit serves: 1 to [`ExitSummary::MAX_RANGES`] ranges, ascending, with a gap between any two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitSummary(Vec<RangeInclusive<u16>>);

impl ExitSummary {
    /// The most ranges that a summary holds.
    pub const MAX_RANGES: usize = 16;

    /// Takes ranges that are already in canonical form.
    // directory.exit.1
    pub fn new(ranges: Vec<RangeInclusive<u16>>) -> Result<Self, Malformed> {
        let bounded = !ranges.is_empty() && ranges.len() <= Self::MAX_RANGES;
        let ports = ranges.iter().all(|r| *r.start() > 0 && r.start() <= r.end());
        let gaps = ranges
            .iter()
            .zip(ranges.iter().skip(1))
            .all(|(a, b)| a.end().checked_add(1).is_some_and(|next| next < *b.start()));
        if bounded && ports && gaps {
            Ok(Self(ranges))
        } else {
            Err(Malformed(
                "exit ports (1 to 16 ascending ranges of ports 1 to 65535, with gaps between them)",
            ))
        }
    }

    /// Whether the exit serves this port.
    pub fn accepts(&self, port: u16) -> bool {
        self.0.iter().any(|r| r.contains(&port))
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[RangeInclusive<u16>] {
        &self.0
    }
}

impl fmt::Display for ExitSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // directory.exit.1
    #[test]
    fn only_canonical_ranges_are_a_summary() {
        let good = ExitSummary::new(vec![1..=24, 26..=26, 80..=65535]).unwrap();
        assert_eq!(good.to_string(), "1-24,26,80-65535");
        for (port, accepted) in
            [(0, false), (1, true), (24, true), (25, false), (26, true), (79, false), (65535, true)]
        {
            assert_eq!(good.accepts(port), accepted, "{port}");
        }
        for bad in [
            vec![],
            vec![0..=1],
            vec![RangeInclusive::new(5, 4)],
            vec![1..=2, 3..=4],
            vec![1..=2, 2..=4],
            vec![7..=8, 1..=2],
            vec![1..=65535, 1..=1],
            (1..=17).map(|n| n * 10..=n * 10).collect(),
        ] {
            assert!(ExitSummary::new(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
