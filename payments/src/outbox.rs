//! What a wallet or till has to send, to repeat and to write.

use std::collections::{BTreeSet, VecDeque};

use alloy_primitives::Address;

use crate::frame::Frame;
use crate::record::{Change, RecordId};

/// The most frames that wait to be sent; what does not fit is repeated later.
const MAX_FRAMES: usize = 4096;
/// The longest pause between two repeats, in seconds.
const MAX_PAUSE: u64 = 64;

/// Frames to be sent, and rows to be written.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frames: VecDeque<(Address, Frame)>,
    /// Changes to be written before any row.
    changes: VecDeque<Change>,
    /// The counterparties whose rows have changed.
    dirty: BTreeSet<Address>,
    /// Rows handed out, and not yet on disk.
    written: VecDeque<(RecordId, Address)>,
    last: u64,
}

impl Outbox {
    /// Sends a frame; of several draws of a session in a row only the last one goes out.
    pub(crate) fn send(&mut self, to: Address, frame: Frame) {
        if let (Frame::Draw { nonce, .. }, Some((address, Frame::Draw { nonce: last, .. }))) =
            (&frame, self.frames.back())
            && *address == to
            && last == nonce
        {
            self.frames.pop_back();
        }
        if self.frames.len() < MAX_FRAMES {
            self.frames.push_back((to, frame));
        }
    }

    pub(crate) fn poll_frame(&mut self) -> Option<(Address, Frame)> {
        self.frames.pop_front()
    }

    /// Has a counterparty's row written.
    pub(crate) fn save(&mut self, whose: Address) {
        self.dirty.insert(whose);
    }

    /// A counterparty whose row is deleted is not written any more.
    pub(crate) fn forget(&mut self, whose: Address) {
        self.dirty.remove(&whose);
    }

    /// Has this written before any row that is saved from now on.
    pub(crate) fn change(&mut self, change: Change) {
        self.changes.push_back(change);
    }

    pub(crate) fn poll_change(&mut self) -> Option<(RecordId, Change)> {
        let change = self.changes.pop_front()?;
        Some((self.next_id(), change))
    }

    fn next_id(&mut self) -> RecordId {
        self.last += 1;
        RecordId(self.last)
    }

    /// The next counterparty whose row is to be written, and the number of the change.
    pub(crate) fn poll_row(&mut self) -> Option<(RecordId, Address)> {
        let whose = self.dirty.pop_first()?;
        let id = self.next_id();
        self.written.push_back((id, whose));
        Some((id, whose))
    }

    /// The next counterparty whose row is on disk, now that all up to `id` is.
    pub(crate) fn poll_written(&mut self, id: RecordId) -> Option<Address> {
        self.written.pop_front_if(|(written, _)| *written <= id).map(|(_, whose)| whose)
    }
}

/// How far a promise is that must be on disk before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Its row has not been handed out.
    New,
    /// Its row is being written.
    Writing(RecordId),
    /// Its row is on disk.
    Kept,
}

impl Promise {
    /// Its row is handed out.
    pub(crate) const fn write(&mut self, id: RecordId) {
        if matches!(self, Self::New) {
            *self = Self::Writing(id);
        }
    }

    /// All up to `id` is on disk; whether this was the moment.
    pub(crate) fn written(&mut self, id: RecordId) -> bool {
        let now = matches!(self, Self::Writing(own) if *own <= id);
        if now {
            *self = Self::Kept;
        }
        now
    }
}

/// When something is done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeat {
    pub(crate) at: u64,
    pause: u64,
}

impl Repeat {
    /// First after `pause` seconds, then after twice as long each time, up to a minute.
    pub(crate) const fn after(unix: u64, pause: u64) -> Self {
        Self { at: unix.saturating_add(pause), pause }
    }

    /// At once.
    pub(crate) const NOW: Self = Self { at: 0, pause: 1 };

    pub(crate) const fn is_due(&self, unix: u64) -> bool {
        is_due(self.at, unix)
    }

    pub(crate) fn again(&mut self, unix: u64) {
        *self = Self::after(unix, self.pause.saturating_mul(2).min(MAX_PAUSE));
    }
}

/// Whether a time of at most [`MAX_PAUSE`] ahead has come; it also has after the clock was set back.
pub(crate) const fn is_due(at: u64, unix: u64) -> bool {
    unix >= at || at > unix.saturating_add(MAX_PAUSE)
}
