//! The times of a link: when it asks, repeats, renews its keys and ends (docs/spec/01-link.md section 4).

use core::time::Duration;
use std::time::Instant;

use crate::node::Now;

use super::repair::Pace;
use super::session::{LAST_AGE, Session, Side};
use super::state::{Link, Shared, passed};

/// An unanswered side asks, shakes hands again, gives up.
const ASK: Duration = Duration::from_secs(1);
const REDIAL: Duration = Duration::from_secs(2);
const DEAD: Duration = Duration::from_secs(4);
const KEEPALIVE: Duration = Duration::from_secs(15);
const IDLE: Duration = Duration::from_mins(2);
/// The RTT of a link in use is measured so often.
const MEASURE: Duration = Duration::from_secs(5);
/// The initiator of a session shows itself so often until it is answered.
const SHOW: Duration = Duration::from_millis(250);
/// A ring that nothing was put into for so long is freed.
const RING_IDLE: Duration = Duration::from_secs(3);

/// What a link wants of its table when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing; the link goes on.
    Nothing,
    /// A (new) first message.
    Dial,
    /// CLOSE, then its end.
    Close,
    /// Its end.
    Dead,
}

impl Link {
    /// Makes sure that the link is looked at by `at`; costs nothing while an earlier time is set.
    pub(super) fn arm(&mut self, at: Instant, shared: &mut Shared) {
        if self.armed.is_some_and(|armed| armed <= at) {
            return;
        }
        if let Some(later) = self.armed.replace(at) {
            shared.timers.remove(&(later, self.slot));
        }
        shared.timers.insert((at, self.slot));
    }

    pub(super) fn arm_for_gaps(&mut self, shared: &mut Shared) {
        let pace = self.pace();
        if let Some(at) = self.current.as_ref().and_then(|session| session.gaps.deadline(pace)) {
            self.arm(at, shared);
        }
    }

    pub(super) fn arm_for_ping(&mut self, shared: &mut Shared) {
        if let Some(at) = self.ping_at() {
            self.arm(at, shared);
        }
    }

    /// Arms for what has changed.
    pub(super) fn arm_now(&mut self, now: Now, shared: &mut Shared) {
        let at = self.deadline(now);
        self.arm(at, shared);
    }

    /// Does what is due; the timer that led here is spent.
    pub(super) fn tick(&mut self, now: Now, shared: &mut Shared) -> Due {
        self.armed = None;
        let at = now.instant;
        if self.old.as_ref().is_some_and(|(_, until)| *until <= at) {
            self.drop_old(shared);
        }
        // Old keys still work: the handshake that nobody answered was not needed.
        if self.up && self.dial.as_ref().is_some_and(|dial| passed(at, dial.started, DEAD)) {
            self.end_dial(shared);
        }
        let due = self.due(now);
        if due == Due::Nothing {
            self.tick_frames(now, shared);
            self.arm_now(now, shared);
        }
        due
    }

    /// Whether the peer has not left us without an answer for so long that it is asked.
    pub(super) fn answers(&self, now: Now) -> bool {
        self.unanswered.is_none_or(|since| !passed(now.instant, since, ASK))
    }

    // link.live.1, link.live.2, link.handshake.7
    fn due(&self, now: Now) -> Due {
        let at = now.instant;
        if self.unanswered.is_some_and(|since| passed(at, since, DEAD))
            || self.current.as_ref().is_some_and(|session| passed(at, session.born, LAST_AGE))
            || (!self.up && self.dial.as_ref().is_none_or(|dial| passed(at, dial.started, DEAD)))
        {
            return Due::Dead;
        }
        if self.up && self.circuits == 0 && passed(at, self.last_cell, IDLE) {
            return Due::Close;
        }
        let silent = self.unanswered.is_some_and(|since| passed(at, since, REDIAL));
        let begin = self.dial.is_none() && silent && self.role.dials();
        if begin || self.dial.as_ref().is_some_and(|dial| dial.next <= at) { Due::Dial } else { Due::Nothing }
    }

    fn tick_frames(&mut self, now: Now, shared: &mut Shared) {
        let (at, pace) = (now.instant, self.pace());
        if self.ping_at().is_some_and(|due| due <= at) {
            self.want_ping(shared);
            // The frame counts as sent, so that nothing is due twice.
            self.pinged = at;
        }
        if self.show_at().is_some_and(|due| due <= at) {
            self.shown = at;
            if self.candidate.is_some() {
                self.want_hello(now, shared);
            } else {
                self.want_ping(shared);
            }
        }
        if self.tail_at(pace).is_some_and(|due| due <= at) {
            self.tails -= 1;
            self.wants.tail = true;
            self.be_ready(shared);
        }
        if self.current.as_ref().and_then(|s| s.gaps.deadline(pace)).is_some_and(|due| due <= at) {
            self.wants.nack = true;
            self.be_ready(shared);
        }
        if self.rekey_at().is_some_and(|due| due <= at) {
            self.ask_for_keys(now, shared);
        }
        if self.ring_at(pace).is_some_and(|due| due <= at)
            && let Some(session) = &mut self.current
        {
            session.ring.clear();
        }
    }

    fn ping_at(&self) -> Option<Instant> {
        self.current.as_ref()?;
        let unanswered = self.unanswered.map(|since| (since + ASK).max(self.pinged + ASK));
        let keepalive = (self.circuits > 0).then(|| self.last_sent.max(self.pinged) + KEEPALIVE);
        let measure = (self.last_cell > self.pinged).then(|| self.pinged + MEASURE);
        [unanswered, keepalive, measure].into_iter().flatten().min()
    }

    fn show_at(&self) -> Option<Instant> {
        let shown = |session: &Session| session.side == Side::Initiator && !session.confirmed;
        let unconfirmed = self.current.as_ref().is_some_and(shown) || self.candidate.is_some();
        unconfirmed.then(|| self.shown + SHOW)
    }

    // link.repair.3
    fn tail_at(&self, pace: Pace) -> Option<Instant> {
        (self.tails > 0).then(|| self.last_kept + pace.interval() * (3 - self.tails))
    }

    fn ring_at(&self, pace: Pace) -> Option<Instant> {
        let kept = self.current.as_ref().is_some_and(|session| !session.ring.is_empty());
        kept.then(|| self.last_kept + RING_IDLE.max(pace.keep()))
    }

    /// When [`Link::tick`] has something to do, strictly after a tick at `now`.
    fn deadline(&self, now: Now) -> Instant {
        let pace = self.pace();
        let idle = (self.up && self.circuits == 0).then(|| self.last_cell + IDLE);
        let redial = self.role.dials() && self.dial.is_none();
        [
            idle,
            self.ping_at(),
            self.show_at(),
            self.tail_at(pace),
            self.rekey_at(),
            self.ring_at(pace),
            self.current.as_ref().and_then(|session| session.gaps.deadline(pace)),
            self.current.as_ref().map(|session| session.born + LAST_AGE),
            self.old.as_ref().map(|(_, until)| *until),
            self.dial.as_ref().map(|dial| dial.next),
            self.dial.as_ref().map(|dial| dial.started + DEAD),
            self.unanswered.map(|since| since + DEAD),
            self.unanswered.filter(|_| redial).map(|since| since + REDIAL),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or_else(|| now.after(IDLE))
        .max(now.after(Duration::from_micros(500)))
    }
}
