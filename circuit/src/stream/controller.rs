//! Congestion control by delay, with a filter for losses.
//!
//! Once per round (a round trip, at least [`MIN_ROUND`]) the controller compares the *standing* delay, the
//! smallest sample of the round, with the *base*, the smallest of the last 20 to 40 s. The difference is
//! queue; what delays single packets (acknowledgement delay, scheduling, link repair) is no part of a minimum
//! (standing RTT: Copa, NSDI 2018). While less than half of the target is queued, the window grows by a share
//! that doubles with every such round (velocity: Copa); otherwise it moves half way to the window that would
//! queue exactly the target (the law of FAST TCP, INFOCOM 2004, a Vegas; Tor proposal 324 chose Vegas for
//! circuits). The target is [`TARGET_PACKETS`] at the flow's own rate plus a few milliseconds, so that flows
//! which share a queue agree on it only at equal rates (FAST TCP; flow scaling: Swift, SIGCOMM 2020). Slow
//! start doubles until the target is queued or the delivered rate stops growing (full pipe: BBR). A flow that
//! has not seen its base for [`DRAIN_AFTER`] drains for a moment, and flows that see a queue fall join in, so
//! that a base which was measured on top of the queues of others is found out (`ProbeRTT`: BBR; LEDBAT++).
//! Lost shares up to [`LOSS_FREE`] change nothing (picoquic ignores isolated losses too); above [`LOSS_CUT`]
//! they cut the window in proportion, and then growth is additive near the window of the cut. A cut that is
//! followed by clean rounds without queue came from late packets, not from a full buffer, and is undone (in
//! the spirit of Eifel, RFC 3522), but not twice within [`RELAPSE_ROUNDS`].
//!
//! Two things around it matter. quinn-proto forgets a packet once it is declared lost, so a late
//! acknowledgement is invisible here: spurious losses show only in what follows them. And its pacer sends 1.25
//! windows per smoothed round trip in bursts of 10 to 256 packets, whose size it computes anew only when the
//! window changes: therefore it changes in every round. A target of at least [`TARGET_FLOOR`] makes the window
//! at tiny round trips so much larger than the pipe that late timers do not throttle.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory},
};

/// The first window, in packets.
const FIRST_PACKETS: u64 = 96;
/// The smallest window, in packets: more than the peer may leave unacknowledged.
const MIN_PACKETS: u64 = 40;
/// The largest window, in bytes: twice what flow control lets be in flight.
const MAX_WINDOW: u64 = 16 << 20;
/// The shortest round.
const MIN_ROUND: Duration = Duration::from_millis(5);
/// How long a base is believed: one to two of these.
const BASE_LIFE: Duration = Duration::from_secs(20);
/// A flow that has not seen its base for this long drains.
const DRAIN_AFTER: Duration = Duration::from_secs(5);
/// A flow that sees another one drain joins it, if its own drain is this old.
const JOIN_AFTER: Duration = Duration::from_secs(2);
/// The part of the queue that must vanish within a round to look like the drain of another flow.
const JOIN_SHARE: u32 = 6;
/// The part of the target delay that all flows have; more than the jitter of a busy host.
const TARGET_FLOOR: Duration = Duration::from_millis(3);
/// The part of the target delay that falls with the rate: the packets that a flow queues, and its maximum.
const TARGET_PACKETS: f64 = 32.0;
const TARGET_SCALED_MAX: f64 = 0.1;
/// The part of the target delay that grows with the base.
const TARGET_SHARE: u32 = 64;
/// The lost share of the last rounds that changes nothing.
const LOSS_FREE: f64 = 0.02;
/// The lost share of the last rounds, and the number of packets on top of it, that cut the window.
const LOSS_CUT: f64 = 0.04;
const LOSS_CUT_PACKETS: f64 = 4.0;
/// The weight of the rounds before in the lost share.
const LOSS_MEMORY: f64 = 0.75;
/// Rounds after a cut until the losses of the new window have been reported: 1 + `TIME_THRESHOLD`, rounded up.
const HOLD_ROUNDS: u8 = 4;
/// A second cut within so many rounds of an undone one is not undone.
const RELAPSE_ROUNDS: u32 = 32;
/// The most growth per round, after slow start.
const MAX_GROWTH: f64 = 0.125;
/// The growth per round near the window of the last cut: a share, but at least so many packets.
const ROOF_GROWTH: f64 = 0.005;
const ROOF_PACKETS: f64 = 8.0;
/// The window grows when at least this part of it was in flight; timers that are late keep it from being full.
const USED: u64 = 3;
/// Samples that tell of a queue within a round of slow start.
const RECENT_SAMPLES: u32 = 4;
/// A sender that was silent for this long starts again with half of its window.
const IDLE: Duration = Duration::from_secs(1);

/// Makes a [`DelayBased`] for every connection.
pub(super) struct Factory;

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(DelayBased::new(now, mtu.into()))
    }
}

/// What was seen since a round began.
#[derive(Clone, Copy)]
struct Round {
    since: Instant,
    /// The window at the beginning.
    window: u64,
    acked: u64,
    lost: u64,
    /// The smallest delay of a packet that was acknowledged as the newest.
    standing: Option<Duration>,
    /// The most bytes in flight.
    peak: u64,
    /// There was nothing (allowed) to send at some time.
    starved: bool,
}

/// The smallest delay of the last part of a round.
#[derive(Clone, Copy)]
struct Recent {
    since: Instant,
    samples: u32,
    standing: Duration,
}

impl Recent {
    fn new(since: Instant) -> Self {
        Self { since, samples: 0, standing: Duration::MAX }
    }
}

/// The lost and the acknowledged bytes of the last rounds.
#[derive(Clone, Copy, Default)]
struct Losses {
    lost: f64,
    acked: f64,
}

impl Losses {
    #[expect(clippy::cast_precision_loss, reason = "bytes of one round")]
    fn add(&mut self, round: &Round) {
        self.lost = self.lost * LOSS_MEMORY + round.lost as f64;
        self.acked = self.acked * LOSS_MEMORY + round.acked as f64;
    }

    fn share(&self) -> f64 {
        self.lost / (self.lost + self.acked).max(1.0)
    }
}

impl Round {
    fn new(since: Instant, window: u64) -> Self {
        Self { since, window, acked: 0, lost: 0, standing: None, peak: 0, starved: false }
    }
}

/// The smallest delay of the last one to two [`BASE_LIFE`]s.
#[derive(Clone, Copy)]
struct Base {
    since: Instant,
    young: Duration,
    old: Duration,
}

impl Base {
    fn add(&mut self, now: Instant, sample: Duration) {
        if now.saturating_duration_since(self.since) >= BASE_LIFE {
            self.old = self.young;
            self.young = sample;
            self.since = now;
        }
        self.young = self.young.min(sample);
    }

    fn get(&self) -> Duration {
        self.young.min(self.old)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Doubling; holds the number of rounds without growth of the rate.
    SlowStart(u8),
    Steady,
    /// Emptying the queue to see the base; holds the window to come back to.
    Drain(u64),
}

/// The controller of one connection.
#[derive(Clone)]
struct DelayBased {
    mtu: u64,
    window: u64,
    phase: Phase,
    round: Round,
    /// The most bytes in flight in the previous round, when the packets of this one were sent; and before.
    flight: u64,
    flight_before: u64,
    base: Base,
    /// When the standing delay was last (nearly) the base.
    base_seen: Instant,
    drained: Instant,
    /// The queue of the previous round.
    queue: Duration,
    /// Rounds in a row with less than half of the target queued.
    calm: u32,
    /// The best rate of slow start, in bytes per second.
    best_rate: f64,
    /// Losses of packets that were sent before this count no more.
    reduced: Instant,
    losses: Losses,
    /// Rounds in which the window does not grow.
    hold: u8,
    /// The window before a cut that may turn out to be wrong.
    undo: Option<u64>,
    /// The window of the last cut, near which growth is slow.
    roof: u64,
    recent: Recent,
    /// Rounds since a cut was undone.
    since_undo: u32,
    last_sent: Instant,
    /// The acknowledgements that are being handled: the newest packet, its bytes, the highest number before.
    newest: Option<Instant>,
    batch: u64,
    largest: Option<u64>,
}

impl DelayBased {
    fn new(now: Instant, mtu: u64) -> Self {
        let window = FIRST_PACKETS * mtu;
        Self {
            mtu,
            window,
            phase: Phase::SlowStart(0),
            round: Round::new(now, window),
            flight: window,
            flight_before: window,
            base: Base { since: now, young: Duration::MAX, old: Duration::MAX },
            base_seen: now,
            drained: now,
            queue: Duration::ZERO,
            calm: 0,
            best_rate: 0.0,
            reduced: now,
            losses: Losses::default(),
            hold: 0,
            undo: None,
            roof: MAX_WINDOW,
            recent: Recent::new(now),
            since_undo: RELAPSE_ROUNDS,
            last_sent: now,
            newest: None,
            batch: 0,
            largest: None,
        }
    }

    fn set_window(&mut self, bytes: f64) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "saturates, and is clamped"
        )]
        let bytes = bytes as u64;
        self.window = bytes.clamp(MIN_PACKETS * self.mtu, MAX_WINDOW);
    }

    /// The delay to queue at the current window.
    #[expect(clippy::cast_precision_loss, reason = "a window is far below 2^52")]
    fn target(&self, standing: Duration) -> Duration {
        let rate = self.window as f64 / standing.as_secs_f64().max(1e-6);
        let scaled = (TARGET_PACKETS * self.mtu as f64 / rate.max(1.0)).min(TARGET_SCALED_MAX);
        TARGET_FLOOR + Duration::from_secs_f64(scaled) + self.base.get() / TARGET_SHARE
    }

    /// Ends the round, and moves the window.
    fn end_round(&mut self, now: Instant) {
        let round = self.round;
        let flight = self.flight;
        if let Some(standing) = round.standing {
            self.decide(now, round, flight, standing);
        }
        self.flight_before = flight;
        self.flight = round.peak;
        // The pacer sizes its bursts by the round trip only when the window changes; at first it believes in
        // `StreamConfig::first_rtt`, and would send 10 packets per wake-up ever after.
        if self.window == round.window {
            self.window ^= 1;
        }
        self.round = Round::new(now, self.window);
    }

    #[expect(clippy::cast_precision_loss, reason = "a window is far below 2^52")]
    fn decide(&mut self, now: Instant, round: Round, flight: u64, standing: Duration) {
        let base = self.base.get();
        let target = self.target(standing);
        let queue = standing.saturating_sub(base);
        // What our own smaller flight does not explain.
        let own = standing.mul_f64(1.0 - (flight as f64 / self.flight_before.max(1) as f64).min(1.0));
        let fallen = self.queue.saturating_sub(queue + own);
        let joins = fallen > (self.queue / JOIN_SHARE).max(base / 64 + Duration::from_millis(1));
        self.queue = queue;
        self.since_undo = self.since_undo.saturating_add(1);
        if queue <= base / 64 + Duration::from_micros(500) {
            self.base_seen = now;
        }
        self.losses.add(&round);
        let excess = self.losses.lost - LOSS_CUT * (self.losses.lost + self.losses.acked);
        if self.hold == 0 && excess > LOSS_CUT_PACKETS * self.mtu as f64 {
            self.cut(now, self.losses.share());
            return;
        }
        let held = self.hold > 0;
        self.hold = self.hold.saturating_sub(1);
        if held && self.hold == 0 {
            self.maybe_undo(queue <= target / 2);
        }
        // Says nothing about the path when the window was not used.
        if round.starved || round.peak.max(flight) < self.window / USED {
            self.calm = 0;
            return;
        }
        // The window that would queue exactly the target, had its packets met what the last ones met.
        let flight = flight.min(self.window) as f64 * (1.0 - (self.losses.share() - LOSS_FREE).max(0.0));
        let ideal = flight * (base + target).as_secs_f64() / standing.as_secs_f64().max(1e-6);
        match self.phase {
            Phase::SlowStart(flat) => {
                let elapsed = now.saturating_duration_since(round.since).as_secs_f64();
                let rate = round.acked as f64 / elapsed.max(1e-6);
                let flat = if rate > self.best_rate * 1.25 { 0 } else { flat + 1 };
                self.best_rate = self.best_rate.max(rate);
                self.phase = Phase::SlowStart(flat);
                if queue > target || flat >= 2 {
                    self.leave_slow_start(now, ideal);
                }
            }
            Phase::Steady if self.drains(now, joins) => {
                self.base_seen = now;
                self.drained = now;
                self.phase = Phase::Drain(self.window);
                self.set_window(0.75 * flight * base.as_secs_f64() / standing.as_secs_f64().max(1e-6));
            }
            Phase::Steady => self.steady(queue, target, standing, ideal),
            Phase::Drain(window) => {
                // The first round after the reduction still met the queue.
                if self.round.window <= self.window && flight <= self.window as f64 * 1.1 {
                    self.phase = Phase::Steady;
                    self.set_window(window as f64);
                }
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a window is far below 2^52")]
    fn leave_slow_start(&mut self, now: Instant, ideal: f64) {
        self.phase = Phase::Steady;
        self.reduced = now;
        self.hold = HOLD_ROUNDS;
        self.losses = Losses::default();
        self.set_window(ideal.min(self.window as f64));
    }

    #[expect(clippy::cast_precision_loss, reason = "a window is far below 2^52")]
    fn steady(&mut self, queue: Duration, target: Duration, standing: Duration, ideal: f64) {
        let window = self.window as f64;
        if queue <= target / 2 {
            let share = 0.5 * target.as_secs_f64() / standing.as_secs_f64().max(1e-6);
            let share = (share * f64::from(1u32 << self.calm.min(8))).min(MAX_GROWTH);
            self.calm = self.calm.saturating_add(1);
            self.grow_to((window * (1.0 + share)).max(window + self.mtu as f64));
        } else {
            self.calm = 0;
            let next = (window + (ideal - window) / 2.0).clamp(window * 0.7, window * 1.1);
            if next > window {
                self.grow_to(next);
            } else {
                self.set_window(next);
            }
        }
    }

    /// Grows the window; slowly near the window of the last cut, and not before the losses since it are known.
    #[expect(clippy::cast_precision_loss, reason = "a window is far below 2^52")]
    fn grow_to(&mut self, bytes: f64) {
        if self.hold > 0 {
            return;
        }
        if self.window > self.roof + self.roof / 4 {
            self.roof = MAX_WINDOW;
        }
        if self.window > self.roof - self.roof / 8 {
            self.calm = 0;
            let window = self.window as f64;
            self.set_window(bytes.min(window + (window * ROOF_GROWTH).max(ROOF_PACKETS * self.mtu as f64)));
        } else {
            self.set_window(bytes);
        }
    }

    fn drains(&self, now: Instant, joins: bool) -> bool {
        now.saturating_duration_since(self.base_seen) > DRAIN_AFTER
            || (joins && self.calm == 0 && now.saturating_duration_since(self.drained) > JOIN_AFTER)
    }

    /// Cuts the window for losses.
    #[expect(clippy::cast_precision_loss, reason = "a window is far below 2^52")]
    fn cut(&mut self, now: Instant, loss: f64) {
        self.undo = (self.since_undo >= RELAPSE_ROUNDS).then_some(self.window);
        self.roof = self.window;
        self.phase = Phase::Steady;
        self.calm = 0;
        self.hold = HOLD_ROUNDS;
        self.losses = Losses::default();
        self.reduced = now;
        self.set_window(self.window as f64 * (1.0 - loss).clamp(0.3, 0.85));
    }

    /// Takes a cut back when the rounds after it show neither loss nor queue.
    fn maybe_undo(&mut self, is_calm: bool) {
        if let Some(window) = self.undo.take()
            && is_calm
            && self.losses.share() <= LOSS_FREE
        {
            self.window = self.window.max(window);
            self.since_undo = 0;
        }
    }

    /// Within a round of slow start: leaves it as soon as the last samples all met the target.
    #[expect(clippy::cast_precision_loss, reason = "a window is far below 2^52")]
    fn watch(&mut self, now: Instant, sample: Duration) {
        self.recent.samples += 1;
        self.recent.standing = self.recent.standing.min(sample);
        let standing = self.recent.standing;
        let elapsed = now.saturating_duration_since(self.recent.since);
        if self.recent.samples < RECENT_SAMPLES || elapsed < MIN_ROUND.max(self.base.get() / 8) {
            return;
        }
        self.recent = Recent::new(now);
        let base = self.base.get();
        let target = self.target(standing);
        if standing > base + target {
            let bytes = self.flight.max(self.round.window) as f64;
            let ideal = bytes * (base + target).as_secs_f64() / standing.as_secs_f64().max(1e-6);
            self.leave_slow_start(now, ideal);
            self.end_round(now);
        }
    }
}

impl Controller for DelayBased {
    fn on_sent(&mut self, now: Instant, _: u64, _: u64) {
        let silent = now.saturating_duration_since(self.last_sent);
        self.last_sent = now;
        if silent > IDLE {
            let window = self.window.min((self.window / 2).max(FIRST_PACKETS * self.mtu));
            self.window = window;
            self.phase = Phase::SlowStart(0);
            self.best_rate = 0.0;
            self.base_seen = now;
            self.round = Round::new(now, window);
            self.flight = window;
        }
    }

    fn on_ack(&mut self, _: Instant, sent: Instant, bytes: u64, _: bool, _: &RttEstimator) {
        self.newest = self.newest.max(Some(sent));
        self.batch += bytes;
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, starved: bool, largest: Option<u64>) {
        let batch = std::mem::take(&mut self.batch);
        let newest = self.newest.take();
        let is_newer = largest > self.largest;
        self.largest = self.largest.max(largest);
        self.round.acked += batch;
        self.round.starved |= starved;
        self.round.peak = self.round.peak.max(in_flight + batch);
        // A packet that came late says nothing about the queue.
        let Some(newest) = newest.filter(|_| is_newer) else {
            return;
        };
        let sample = now.saturating_duration_since(newest).max(Duration::from_micros(1));
        self.base.add(now, sample);
        self.round.standing = Some(self.round.standing.map_or(sample, |standing| standing.min(sample)));
        if self.phase == Phase::SlowStart(0) && !starved && (in_flight + batch) * USED >= self.window {
            let limit = self.round.window.saturating_mul(2).min(MAX_WINDOW);
            self.window = self.window.max((self.window + batch).min(limit));
        }
        if matches!(self.phase, Phase::SlowStart(_)) {
            self.watch(now, sample);
        }
        if newest >= self.round.since && now.saturating_duration_since(self.round.since) >= MIN_ROUND {
            self.end_round(now);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        if sent <= self.reduced {
            return;
        }
        if is_persistent {
            self.cut(now, 0.5);
            return;
        }
        self.round.lost += lost_bytes;
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        FIRST_PACKETS * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
