//! What a client has measured of relays itself; what others say of them counts for nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use circuit::keys::RelayId;

use crate::build_time::BuildTimes;

/// How long a relay that may have failed is avoided where others will do.
pub const AVOIDED: Duration = Duration::from_mins(1);
/// A relay that was started again is tried at once, but so long after the last time at the earliest.
const PARDONED: Duration = Duration::from_mins(10);
/// After so long half of the strikes are forgotten.
const HALF_LIFE: Duration = Duration::from_mins(10);
/// An edge with so many strikes is avoided where others will do.
const EDGE_STRIKES: f32 = 2.5;
/// The most relays, and the most edges, that are remembered; the longest unheard of is forgotten first.
const MAX_RELAYS: usize = 4_096;
const MAX_EDGES: usize = 1_024;
/// What measurement leaves of the weight of a relay at least: a neighbour that lets circuits fail on purpose moves the
/// choice by no more.
// path.quality.2
const LEAST_FACTOR: f32 = 0.25;
/// How much a new value counts beside the old ones.
const STEP: f32 = 0.2;

/// Failures that may be a relay's, with decay.
#[derive(Clone, Copy, Debug)]
struct Strikes {
    sum: f32,
    last: Instant,
}

impl Strikes {
    const fn none(now: Instant) -> Self {
        Self { sum: 0.0, last: now }
    }

    fn now(&self, now: Instant) -> f32 {
        let age = now.saturating_duration_since(self.last).as_secs_f32();
        self.sum * (-age / HALF_LIFE.as_secs_f32()).exp2()
    }

    fn strike(&mut self, now: Instant) {
        *self = Self { sum: self.now(now) + 1.0, last: now };
    }
}

/// What was measured of one relay, in circuits that it was part of.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Circuits that stood.
    pub built: u64,
    /// Circuits that failed, be it by this relay or by another one of the path.
    pub failed: u64,
    /// How long setups took.
    pub delay: Option<Duration>,
    /// The most bytes of applications in a second that came over a circuit: what was asked for, at most.
    pub throughput: u64,
    /// The share of packets that were lost.
    pub loss: Option<f32>,
    strikes: Strikes,
    /// Avoided until then, or until something works over it.
    avoided: Option<Instant>,
    /// Avoided until then, whatever works over it: what was paid for did not arrive.
    lossy: Option<Instant>,
    /// Not avoided any more because it was started again, last then.
    pardoned: Option<Instant>,
    seen: Instant,
}

impl Measured {
    const fn new(now: Instant) -> Self {
        Self {
            built: 0,
            failed: 0,
            delay: None,
            throughput: 0,
            loss: None,
            strikes: Strikes::none(now),
            avoided: None,
            lossy: None,
            pardoned: None,
            seen: now,
        }
    }

    fn avoided_until(&self, now: Instant) -> Option<Instant> {
        self.avoided.max(self.lossy).filter(|until| *until > now)
    }
}

/// What a client has measured.
// path.quality.1
#[derive(Debug, Default)]
pub struct Quality {
    relays: BTreeMap<RelayId, Measured>,
    edges: BTreeMap<(RelayId, RelayId), Strikes>,
    times: BuildTimes,
}

impl Quality {
    /// What was measured of a relay.
    pub fn get(&self, id: &RelayId) -> Option<&Measured> {
        self.relays.get(id)
    }

    /// How long a setup may stay unanswered.
    pub fn build_limit(&self) -> Duration {
        self.times.limit()
    }

    /// A relay may have failed: it is avoided for a while.
    pub fn strike(&mut self, now: Instant, id: RelayId) {
        let relay = self.relay(now, id);
        relay.strikes.strike(now);
        relay.avoided = Some(now + AVOIDED);
    }

    /// A relay may have lost what it was paid to carry. That setups pass is no excuse.
    // pay.deliver.1
    pub fn strike_for_loss(&mut self, now: Instant, id: RelayId) {
        self.strike(now, id);
        self.relay(now, id).lossy = Some(now + AVOIDED);
    }

    /// A relay says that it does not reach another one; which of the two is at fault is not known.
    pub fn strike_edge(&mut self, now: Instant, from: RelayId, to: RelayId) {
        if self.edges.len() >= MAX_EDGES
            && let Some(oldest) =
                self.edges.iter().min_by_key(|(_, strikes)| strikes.last).map(|(edge, _)| *edge)
        {
            self.edges.remove(&oldest);
        }
        self.edges.entry((from, to)).or_insert_with(|| Strikes::none(now)).strike(now);
    }

    /// Trusts the relays of a path again: something came back over it.
    pub fn trust(&mut self, path: &[RelayId]) {
        for id in path {
            if let Some(relay) = self.relays.get_mut(id) {
                relay.avoided = None;
                relay.strikes.sum = 0.0;
            }
        }
        for edge in edges(path) {
            self.edges.remove(&edge);
        }
    }

    /// Relays have newer descriptors, so they may have been started again: one that is avoided is tried at once. One that
    /// lets circuits fail on purpose gains little by it.
    pub(crate) fn pardon(&mut self, now: Instant, newer: impl Fn(&RelayId) -> bool) {
        let avoided = self.relays.iter_mut().filter(|(_, relay)| relay.avoided_until(now).is_some());
        for (id, relay) in avoided {
            let early = relay.pardoned.is_some_and(|last| now.saturating_duration_since(last) < PARDONED);
            if !early && newer(id) {
                (relay.avoided, relay.lossy) = (None, None);
                relay.pardoned = Some(now);
                self.edges.retain(|(from, to), _| from != id && to != id);
            }
        }
    }

    /// A circuit stood after so long.
    pub fn built(&mut self, now: Instant, path: &[RelayId], time: Duration) {
        self.times.built(time);
        for id in path {
            let relay = self.relay(now, *id);
            relay.built += 1;
            relay.delay = Some(relay.delay.map_or(time, |old| old.mul_f32(1.0 - STEP) + time.mul_f32(STEP)));
        }
        self.trust(path);
    }

    /// A circuit did not come to stand.
    pub fn not_built(&mut self, now: Instant, path: &[RelayId]) {
        for id in path {
            self.relay(now, *id).failed += 1;
        }
    }

    /// A circuit was given up after the limit.
    pub const fn given_up(&mut self) {
        self.times.given_up();
    }

    /// What a circuit carried: bytes in a second at most, and the share of packets that were lost.
    pub fn carried(&mut self, now: Instant, path: &[RelayId], throughput: u64, loss: Option<f32>) {
        for id in path {
            let relay = self.relay(now, *id);
            relay.throughput = relay.throughput.max(throughput);
            if let Some(loss) = loss {
                relay.loss = Some(relay.loss.map_or(loss, |old| old.mul_add(1.0 - STEP, loss * STEP)));
            }
        }
    }

    /// Whether a relay may have failed a while ago, and has taken part in nothing that worked since.
    pub fn is_avoided(&self, now: Instant, id: &RelayId) -> bool {
        self.avoided(now, id).is_some()
    }

    /// Until when a relay is avoided.
    pub(crate) fn avoided(&self, now: Instant, id: &RelayId) -> Option<Instant> {
        self.relays.get(id)?.avoided_until(now)
    }

    /// Since when a relay that is avoided is.
    pub(crate) fn struck(&self, now: Instant, id: &RelayId) -> Option<Instant> {
        self.avoided(now, id)?.checked_sub(AVOIDED)
    }

    /// Whether two neighbours in a path have failed together several times.
    pub(crate) fn is_bad_edge(&self, now: Instant, from: &RelayId, to: &RelayId) -> bool {
        !self.edges.is_empty()
            && self.edges.get(&(*from, *to)).is_some_and(|strikes| strikes.now(now) > EDGE_STRIKES)
    }

    /// What is left of a relay's weight, at most 1.
    // path.quality.2
    pub(crate) fn factor(&self, now: Instant, id: &RelayId) -> f32 {
        let Some(relay) = self.relays.get(id) else { return 1.0 };
        let faults = (-relay.strikes.now(now)).exp2();
        let delay = match (self.times.median(), relay.delay) {
            (Some(median), Some(delay)) if delay > median => {
                median.as_secs_f32() / delay.as_secs_f32().max(f32::EPSILON)
            }
            _ => 1.0,
        };
        let kept = 1.0 - relay.loss.unwrap_or(0.0).clamp(0.0, 1.0);
        (faults * delay * kept).clamp(LEAST_FACTOR, 1.0)
    }

    fn relay(&mut self, now: Instant, id: RelayId) -> &mut Measured {
        if !self.relays.contains_key(&id)
            && self.relays.len() >= MAX_RELAYS
            && let Some(oldest) = self.relays.iter().min_by_key(|(_, relay)| relay.seen).map(|(id, _)| *id)
        {
            self.relays.remove(&oldest);
        }
        let relay = self.relays.entry(id).or_insert_with(|| Measured::new(now));
        relay.seen = now;
        relay
    }
}

fn edges(path: &[RelayId]) -> impl Iterator<Item = (RelayId, RelayId)> + '_ {
    path.iter().zip(path.iter().skip(1)).map(|(from, to)| (*from, *to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn start() -> Instant {
        Instant::now()
    }

    fn id(n: u16) -> RelayId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&n.to_be_bytes());
        RelayId(id)
    }

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() < 0.01
    }

    // path.quality.1
    #[test]
    fn what_may_have_failed_is_avoided_for_a_minute_and_trusted_when_it_works() {
        let (now, mut quality) = (start(), Quality::default());
        quality.strike(now, id(1));
        assert!(quality.is_avoided(now, &id(1)) && !quality.is_avoided(now, &id(2)));
        assert!(!quality.is_avoided(now + AVOIDED, &id(1)));
        assert!(near(quality.factor(now, &id(1)), 0.5));
        assert!(near(quality.factor(now + HALF_LIFE, &id(1)), 0.707), "strikes decay");
        quality.built(now, &[id(0), id(1)], Duration::from_millis(100));
        assert!(!quality.is_avoided(now, &id(1)) && near(quality.factor(now, &id(1)), 1.0));
        quality.strike_for_loss(now, id(2));
        quality.built(now, &[id(2)], Duration::from_millis(100));
        assert!(quality.is_avoided(now, &id(2)) && !quality.is_avoided(now + AVOIDED, &id(2)));
        quality.not_built(now, &[id(0), id(1)]);
        let relay = quality.get(&id(1)).unwrap();
        assert_eq!((relay.built, relay.failed, relay.delay), (1, 1, Some(Duration::from_millis(100))));
    }

    // path.quality.1
    #[test]
    fn a_relay_that_was_started_again_is_tried_at_once_but_not_time_after_time() {
        let (now, mut quality) = (start(), Quality::default());
        let second = Duration::from_secs(1);
        for n in [1, 2] {
            quality.strike(now, id(n));
            (0..3).for_each(|_| quality.strike_edge(now, id(n), id(3)));
        }
        quality.pardon(now, |relay| *relay == id(1));
        assert!(!quality.is_avoided(now, &id(1)) && quality.is_avoided(now, &id(2)));
        assert!(!quality.is_bad_edge(now, &id(1), &id(3)) && quality.is_bad_edge(now, &id(2), &id(3)));
        assert!(near(quality.factor(now, &id(1)), 0.5), "its strikes stay");
        quality.strike_for_loss(now, id(4));
        quality.built(now, &[id(4)], second);
        quality.pardon(now, |relay| *relay == id(4));
        assert!(!quality.is_avoided(now, &id(4)), "also one that lost what it was paid for");
        let again = now + PARDONED;
        for (time, avoided) in [(now + second, true), (now + PARDONED / 2, true), (again, false)] {
            quality.strike(time, id(1));
            quality.pardon(time, |_| true);
            assert_eq!(quality.is_avoided(time, &id(1)), avoided, "{:?}", time - now);
        }
    }

    // path.quality.2
    #[test]
    fn measurement_takes_at_most_three_quarters_of_a_weight() {
        let (now, mut quality) = (start(), Quality::default());
        for _ in 0..100 {
            quality.strike(now, id(1));
            quality.built(now, &[id(2)], Duration::from_millis(10));
            quality.carried(now, &[id(4)], 1000, Some(1.0));
        }
        for _ in 0..10 {
            quality.built(now, &[id(3)], Duration::from_millis(20));
        }
        for relay in [1, 4] {
            assert!(near(quality.factor(now, &id(relay)), LEAST_FACTOR), "{relay}");
        }
        assert!(near(quality.factor(now, &id(2)), 1.0));
        assert!(near(quality.factor(now, &id(3)), 0.5), "twice as slow as usual");
        assert!(near(quality.factor(now, &id(9)), 1.0), "nothing is known");
        assert_eq!(quality.get(&id(4)).unwrap().throughput, 1000);
    }

    // path.quality.1
    #[test]
    fn an_edge_is_bad_after_three_strikes_until_they_are_forgotten() {
        let (now, mut quality) = (start(), Quality::default());
        for strikes in 0..4 {
            assert_eq!(quality.is_bad_edge(now, &id(1), &id(2)), strikes >= 3, "{strikes}");
            quality.strike_edge(now, id(1), id(2));
        }
        assert!(!quality.is_bad_edge(now, &id(2), &id(1)) && !quality.is_bad_edge(now, &id(1), &id(3)));
        assert!(!quality.is_bad_edge(now + HALF_LIFE, &id(1), &id(2)));
        quality.trust(&[id(1), id(2), id(3)]);
        assert!(!quality.is_bad_edge(now, &id(1), &id(2)));
    }

    #[test]
    fn what_is_remembered_has_limits() {
        let (now, mut quality) = (start(), Quality::default());
        for n in 0..5_000 {
            quality.strike(now + Duration::from_millis(n.into()), id(n));
            quality.strike_edge(now + Duration::from_millis(n.into()), id(n), id(n + 1));
        }
        assert_eq!((quality.relays.len(), quality.edges.len()), (MAX_RELAYS, MAX_EDGES));
        assert!(quality.get(&id(4_999)).is_some() && quality.get(&id(0)).is_none());
    }
}
