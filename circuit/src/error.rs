//! Errors that say whose fault it is.

use core::fmt;

pub use wire::Malformed;

/// Valid bytes at the wrong time; names the rule that the peer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("misbehaved: {0}")]
pub struct Misbehaved(pub &'static str);

/// A call that our own caller must not make; names the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("misuse: {0}")]
pub struct Misuse(pub &'static str);

/// Why the data path dropped a packet; a metric label, never a log line above TRACE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DropReason {
    /// The datagram is not 1,412 bytes long or its header is impossible.
    Malformed,
    /// No session has this receiver index.
    UnknownLink,
    /// The packet came from another address than its link's.
    WrongAddress,
    /// The tag of the packet does not verify.
    BadTag,
    /// The packet was seen before, or is older than the window.
    Replayed,
    /// The handshake is limited, not for us, or wrong.
    Handshake,
    /// The link has no key that may seal, or no address to send to.
    LinkDown,
    /// No circuit has this id on this link.
    UnknownCircuit,
    /// The tag of the layer does not verify; the circuit ends.
    BadLayer,
    /// The cell was seen before, or is older than the circuit's window.
    LateCell,
    /// The circuit may not pass more cells.
    NoCredit,
    /// A setup that no honest client makes, or that was seen before.
    BadSetup,
    /// A limit of a table, queue or rate is reached.
    Limit,
    /// A valid packet at the wrong time.
    Misbehaved,
    /// The operator's limit of bytes per second is reached.
    Congestion,
}

impl DropReason {
    /// All reasons, in the order of [`DropReason::index`].
    pub const ALL: [Self; 15] = [
        Self::Malformed,
        Self::UnknownLink,
        Self::WrongAddress,
        Self::BadTag,
        Self::Replayed,
        Self::Handshake,
        Self::LinkDown,
        Self::UnknownCircuit,
        Self::BadLayer,
        Self::LateCell,
        Self::NoCredit,
        Self::BadSetup,
        Self::Limit,
        Self::Misbehaved,
        Self::Congestion,
    ];

    /// The place of this reason in an array of counters.
    pub const fn index(self) -> usize {
        match self {
            Self::Malformed => 0,
            Self::UnknownLink => 1,
            Self::WrongAddress => 2,
            Self::BadTag => 3,
            Self::Replayed => 4,
            Self::Handshake => 5,
            Self::LinkDown => 6,
            Self::UnknownCircuit => 7,
            Self::BadLayer => 8,
            Self::LateCell => 9,
            Self::NoCredit => 10,
            Self::BadSetup => 11,
            Self::Limit => 12,
            Self::Misbehaved => 13,
            Self::Congestion => 14,
        }
    }

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownLink => "unknown_link",
            Self::WrongAddress => "wrong_address",
            Self::BadTag => "bad_tag",
            Self::Replayed => "replayed",
            Self::Handshake => "handshake",
            Self::LinkDown => "link_down",
            Self::UnknownCircuit => "unknown_circuit",
            Self::BadLayer => "bad_layer",
            Self::LateCell => "late_cell",
            Self::NoCredit => "no_credit",
            Self::BadSetup => "bad_setup",
            Self::Limit => "limit",
            Self::Misbehaved => "misbehaved",
            Self::Congestion => "congestion",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Malformed> for DropReason {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// How often each [`DropReason`] was met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Counts one drop.
    pub fn count(&mut self, reason: DropReason) {
        if let Some(n) = self.0.get_mut(reason.index()) {
            *n = n.saturating_add(1);
        }
    }

    /// The number of drops for one reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason.index()).copied().unwrap_or(0)
    }

    /// The number of all drops.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Reasons with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        let mut drops = Drops::default();
        for (i, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), i);
            drops.count(reason);
            assert_eq!(drops.get(reason), 1);
        }
        assert_eq!(drops.total(), 15);
    }
}
