//! Whom a node dials and whom it asks: rounds of questions, a few kept connections, and patience with those that fail.
//!
//! In every round it asks a few peers, one of them a relay that it picks from its view and was not connected to. So no set of peers
//! can keep a node to themselves for long, and parts of the network that were apart find each other again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use circuit::keys::{Random, RelayId};
use libp2p::PeerId;
use rand_core::Rng as _;

use crate::swarm::patience::{Belief, Witness};
use crate::swarm::place::{Subnet, peer_of, relay_of};
use crate::view::View;

/// The first pause after a failure; doubled with every further one.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest pause between tries to reach a bootstrap address.
const BOOTSTRAP_PAUSE: Duration = Duration::from_mins(1);
/// The longest pause between tries to reach a relay.
const RELAY_PAUSE: Duration = Duration::from_mins(10);
/// After a round without an answer the next one begins so soon.
const RETRY: Duration = Duration::from_secs(2);
/// The most relays whose failures are remembered.
const MAX_FAILED: usize = 4_096;
/// The most peers that are asked in a round, for each that is to answer.
const MOST_ASKED: usize = 3;
/// The most answers of one peer in a round: more than the largest set needs.
const MAX_FOLLOWED: u32 = 64;
/// The most peers that are remembered to seem to hide relays.
const MAX_HIDING: usize = 1_024;
/// The most gossip that one peer may send in a minute: all that 10,000 relays say in a day, three times over.
const MAX_GOSSIP: u32 = 3_000;
/// The most requests that one peer may send in a minute.
const MAX_REQUESTS: u32 = 120;
const MINUTE: Duration = Duration::from_mins(1);

/// How many and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// Peers that are asked in a round.
    pub(super) asked: usize,
    /// Connections to relays that are kept between rounds.
    pub(super) kept: usize,
    /// From one round to the next, more or less.
    pub(super) every: Duration,
}

/// Whom to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// The bootstrap address of this index.
    Bootstrap(usize),
    /// A relay of the view.
    Relay(RelayId, PeerId),
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Ask(PeerId),
    Dial(Target),
}

#[derive(Debug)]
struct Peer {
    ip: IpAddr,
    connections: u32,
    /// Whether it may be asked: a relay, or whom we dialed.
    serves: bool,
    relay: Option<RelayId>,
    minute: Instant,
    gossip: u32,
    requests: u32,
}

impl Peer {
    /// Counts by the minute.
    fn turn(&mut self, now: Instant) {
        if now.saturating_duration_since(self.minute) >= MINUTE {
            (self.minute, self.gossip, self.requests) = (now, 0, 0);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    again: Instant,
}

impl Failures {
    const fn none(now: Instant) -> Self {
        Self { count: 0, again: now }
    }

    fn add(&mut self, now: Instant, longest: Duration) {
        let pause = PAUSE.saturating_mul(1 << self.count.min(16)).min(longest);
        self.count = self.count.saturating_add(1);
        self.again = now + pause;
    }
}

#[derive(Debug)]
struct Bootstrap {
    /// Whom it led to when it was dialed last, and in which subnet.
    found: Option<(PeerId, Subnet)>,
    failures: Failures,
}

#[derive(Debug, Default)]
struct Round {
    asked: BTreeSet<PeerId>,
    waiting: BTreeSet<PeerId>,
    answers: usize,
    /// Whether anybody has said anything.
    heard: bool,
    /// Who was reached for it: those are asked first.
    fresh: Vec<PeerId>,
    /// How often who was asked for more.
    followed: BTreeMap<PeerId, u32>,
}

/// The peers of a node.
#[derive(Debug)]
pub(super) struct Peers {
    policy: Policy,
    own: Option<RelayId>,
    connected: BTreeMap<PeerId, Peer>,
    dialing: BTreeSet<Target>,
    bootstrap: Vec<Bootstrap>,
    failed: BTreeMap<RelayId, Failures>,
    /// Since when who seems to hide relays.
    hiding: BTreeMap<PeerId, Instant>,
    round: Option<Round>,
    next: Instant,
    belief: Belief,
}

impl Peers {
    pub(super) fn new(policy: Policy, own: Option<RelayId>, bootstrap: usize, now: Instant) -> Self {
        let fresh = || Bootstrap { found: None, failures: Failures::none(now) };
        Self {
            policy,
            own,
            connected: BTreeMap::new(),
            dialing: BTreeSet::new(),
            bootstrap: std::iter::repeat_with(fresh).take(bootstrap).collect(),
            failed: BTreeMap::new(),
            hiding: BTreeMap::new(),
            round: None,
            next: now,
            belief: Belief::Enough,
        }
    }

    /// The peers that are connected.
    pub(super) fn len(&self) -> usize {
        self.connected.len()
    }

    /// Those of them that may be asked.
    pub(super) fn serving(&self) -> usize {
        self.connected.values().filter(|peer| peer.serves).count()
    }

    /// Where a connected peer is.
    pub(super) fn ip(&self, peer: &PeerId) -> Option<IpAddr> {
        self.connected.get(peer).map(|peer| peer.ip)
    }

    /// For which bootstrap addresses a peer speaks: those that led to it, each in the subnet where it was dialed, wherever else the peer
    /// is connected.
    // path.guard.9
    pub(super) fn witnesses(&self, id: PeerId) -> impl Iterator<Item = Witness> + '_ {
        self.bootstrap.iter().enumerate().filter_map(move |(index, bootstrap)| {
            let (peer, subnet) = bootstrap.found.filter(|(peer, _)| *peer == id)?;
            Some(Witness { index, subnet, peer })
        })
    }

    /// Notes what is believed of the relays that are known.
    pub(super) const fn note(&mut self, belief: Belief) {
        self.belief = belief;
    }

    /// Begins the next round at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = now;
    }

    /// What was learned otherwise, through a circuit, stands for the next round.
    pub(super) fn rest(&mut self, now: Instant) {
        self.round = None;
        self.next = now + self.policy.every.saturating_mul(2);
    }

    /// A connection was made; `serves`: the peer may be asked.
    pub(super) fn connected(&mut self, now: Instant, id: PeerId, ip: IpAddr, serves: bool) {
        let new = || Peer {
            ip,
            connections: 0,
            serves: false,
            relay: relay_of(&id),
            minute: now,
            gossip: 0,
            requests: 0,
        };
        let peer = self.connected.entry(id).or_insert_with(new);
        peer.connections = peer.connections.saturating_add(1);
        peer.serves |= serves;
        if let Some(relay) = peer.relay {
            self.failed.remove(&relay);
        }
    }

    /// One of its connections has ended.
    pub(super) fn disconnected(&mut self, id: &PeerId) {
        let Some(peer) = self.connected.get_mut(id) else { return };
        peer.connections = peer.connections.saturating_sub(1);
        if peer.connections == 0 {
            self.connected.remove(id);
        }
    }

    /// The address led to this peer, at this IP.
    pub(super) fn reached(&mut self, now: Instant, target: Target, id: PeerId, ip: IpAddr) {
        self.dialing.remove(&target);
        if let Some(round) = &mut self.round {
            round.fresh.push(id);
        }
        if let Target::Bootstrap(index) = target
            && let Some(bootstrap) = self.bootstrap.get_mut(index)
        {
            bootstrap.found = Some((id, Subnet::of(ip)));
            // A peer that ends the connection at once is not dialed without a pause.
            bootstrap.failures = Failures { count: 0, again: now + PAUSE };
        }
    }

    /// The address led to nobody, or to somebody who may not be connected.
    pub(super) fn missed(&mut self, now: Instant, target: Target) {
        self.dialing.remove(&target);
        match target {
            Target::Bootstrap(index) => {
                if let Some(bootstrap) = self.bootstrap.get_mut(index) {
                    bootstrap.failures.add(now, BOOTSTRAP_PAUSE);
                }
            }
            Target::Relay(relay, _) => self.fail(now, relay),
        }
    }

    fn fail(&mut self, now: Instant, relay: RelayId) {
        if self.failed.len() >= MAX_FAILED && !self.failed.contains_key(&relay) {
            // Those whose pause is over are known to be worth a try.
            self.failed.retain(|_, failures| failures.again > now);
            if self.failed.len() >= MAX_FAILED {
                self.failed.pop_first();
            }
        }
        self.failed.entry(relay).or_insert_with(|| Failures::none(now)).add(now, RELAY_PAUSE);
    }

    /// A peer has answered all that it was asked; unless it `satisfies`, somebody else is asked, too.
    // directory.exchange.6
    pub(super) fn answered(&mut self, id: &PeerId, satisfies: bool) {
        self.hiding.remove(id);
        if let Some(round) = &mut self.round
            && round.waiting.remove(id)
        {
            round.answers = round.answers.saturating_add(satisfies.into());
            round.heard = true;
        }
    }

    /// Whether a peer may be asked for more in this round.
    pub(super) fn may_follow(&mut self, id: &PeerId) -> bool {
        self.round.as_mut().is_some_and(|round| {
            let count = round.followed.entry(*id).or_default();
            *count = count.saturating_add(1);
            *count <= MAX_FOLLOWED
        })
    }

    /// A peer knows much less than we do: somebody else is asked instead. Whether it had the time to learn, and did not.
    // directory.swarm.6
    pub(super) fn hides(&mut self, now: Instant, id: PeerId) -> bool {
        self.silent(&id, true);
        if let Some(first) = self.hiding.get(&id) {
            return now.saturating_duration_since(*first) >= self.policy.every / 2;
        }
        if self.hiding.len() >= MAX_HIDING
            && let Some(first) = self.hiding.iter().min_by_key(|(_, first)| **first).map(|(id, _)| *id)
        {
            self.hiding.remove(&first);
        }
        self.hiding.insert(id, now);
        false
    }

    /// A peer has not answered; `serves`: it might another time.
    pub(super) fn silent(&mut self, id: &PeerId, serves: bool) {
        if let Some(round) = &mut self.round {
            round.waiting.remove(id);
        }
        if let Some(peer) = self.connected.get_mut(id) {
            peer.serves &= serves;
        }
    }

    /// Counts a message of gossip; whether the peer may still send one.
    // directory.swarm.5
    pub(super) fn may_gossip(&mut self, now: Instant, id: &PeerId) -> bool {
        self.connected.get_mut(id).is_some_and(|peer| {
            peer.turn(now);
            peer.gossip = peer.gossip.saturating_add(1);
            peer.gossip <= MAX_GOSSIP
        })
    }

    /// Counts a request; whether the peer may still send one.
    // directory.swarm.5
    pub(super) fn may_request(&mut self, now: Instant, id: &PeerId) -> bool {
        self.connected.get_mut(id).is_some_and(|peer| {
            peer.turn(now);
            peer.requests = peer.requests.saturating_add(1);
            peer.requests <= MAX_REQUESTS
        })
    }

    /// What to do now; every step is taken as done: it ends in `reached` or `missed`, `answered` or `silent`.
    pub(super) fn plan(&mut self, now: Instant, rng: &mut Random, view: &View) -> Vec<Step> {
        let mut steps = Vec::new();
        if now >= self.next {
            // What is still under way from the last round counts for nobody.
            self.round = Some(Round::default());
            self.next = now + spread(self.policy.every, rng);
            self.dial(now, rng, view, 1, &mut steps);
        }
        let kept = self.policy.kept.saturating_sub(self.serving() + self.dialing.len());
        self.dial(now, rng, view, kept, &mut steps);
        if let Some(round) = &mut self.round {
            let taken = round.answers + round.waiting.len() + self.dialing.len();
            let left = (MOST_ASKED * self.policy.asked).saturating_sub(round.asked.len());
            let mut wanted = self.policy.asked.saturating_sub(taken).min(left);
            let ready = self.connected.iter().filter(|(id, peer)| peer.serves && !round.asked.contains(id));
            let mut ready: Vec<PeerId> = ready.map(|(id, _)| *id).collect();
            while wanted > 0 && !ready.is_empty() {
                let fresh = round.fresh.pop().map(|id| ready.iter().position(|other| *other == id));
                let index = match fresh {
                    Some(Some(index)) => index,
                    // It has gone, or does not serve.
                    Some(None) => continue,
                    None => below(rng, ready.len()),
                };
                let id = ready.swap_remove(index);
                round.asked.insert(id);
                round.waiting.insert(id);
                steps.push(Step::Ask(id));
                wanted -= 1;
            }
            self.dial(now, rng, view, wanted, &mut steps);
        }
        self.end_round(now);
        steps
    }

    fn dial(&mut self, now: Instant, rng: &mut Random, view: &View, count: usize, steps: &mut Vec<Step>) {
        for target in self.targets(now, rng, view, count) {
            self.dialing.insert(target);
            steps.push(Step::Dial(target));
        }
    }

    /// Ends the round if it has its answers, or nobody is left to give one.
    fn end_round(&mut self, now: Instant) {
        let Some(round) = &self.round else { return };
        let busy = !round.waiting.is_empty() || !self.dialing.is_empty();
        if round.answers < self.policy.asked && busy {
            return;
        }
        if !round.heard {
            self.next = self.next.min(now + RETRY);
        }
        self.round = None;
    }

    /// Up to so many addresses to dial: relays of the view, and the bootstrap addresses if those do not suffice; these first where
    /// relays may be kept from us.
    fn targets(&self, now: Instant, rng: &mut Random, view: &View, count: usize) -> Vec<Target> {
        if count == 0 {
            return Vec::new();
        }
        let near: BTreeSet<RelayId> = self.connected.values().filter_map(|peer| peer.relay).collect();
        let waits = |failures: &Failures| failures.again > now;
        let mut relays: Vec<RelayId> = view
            .iter()
            .filter(|relay| relay.gossip_port != 0 && Some(relay.id) != self.own && !near.contains(&relay.id))
            .filter(|relay| !self.failed.get(&relay.id).is_some_and(waits))
            .map(|relay| relay.id)
            .collect();
        let named = self.bootstrap.iter().enumerate().filter(|(index, bootstrap)| {
            let connected = bootstrap.found.is_some_and(|(peer, _)| self.connected.contains_key(&peer));
            !connected && !waits(&bootstrap.failures) && !self.dialing.contains(&Target::Bootstrap(*index))
        });
        let mut named = named.map(|(index, _)| Target::Bootstrap(index));
        let mut targets = Vec::new();
        if self.belief == Belief::Hidden {
            targets.extend(named.by_ref().take(count));
        }
        while targets.len() < count && !relays.is_empty() {
            let id = relays.swap_remove(below(rng, relays.len()));
            let target = peer_of(&id).map(|peer| Target::Relay(id, peer));
            targets.extend(target.filter(|target| !self.dialing.contains(target)));
        }
        targets.extend(named.take(count.saturating_sub(targets.len())));
        targets
    }
}

/// A number below `end`, 0 if there is none.
pub(super) fn below(rng: &mut Random, end: usize) -> usize {
    usize::try_from(rng.next_u64()).unwrap_or_default().checked_rem(end).unwrap_or_default()
}

/// A time near `every`: from three quarters to five quarters of it.
fn spread(every: Duration, rng: &mut Random) -> Duration {
    let part = u32::try_from(rng.next_u64() % 512).unwrap_or_default();
    every.saturating_mul(3) / 4 + every.saturating_mul(part) / 1024
}

#[cfg(test)]
mod tests;
