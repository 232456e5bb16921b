//! Who knows which descriptors: gossip and the exchange of sets (docs/spec/04-directory.md sections 5 and 6).
//!
//! Pure: what peers send comes in, what they are to be sent comes out. Everything is checked, the cheapest first.

use std::collections::BTreeSet;
use std::sync::Arc;

use circuit::error::{Malformed, Misuse};
use circuit::keys::{NetworkId, RelayId, Secret, mac};
use circuit::node::Now;

use self::message::{Answer, Missing, PUSH_ROOM, Request, Short, State, Summary, fit, room};
pub use self::message::{MAX_ANSWER, MAX_REQUEST};
use self::peers::Peers;
pub use self::peers::{BLOCKED, MAX_IDS, MAX_PEERS, PeerKey};
use crate::descriptor::{Digest, MAX_GOSSIPED, SignedDescriptor, Unverified};
use crate::registry::Registry;
use crate::view::{NotInserted, Share, View};

mod message;
mod peers;

/// The longest time for which a gossiped descriptor is valid, in seconds.
pub const MAX_LIFE: u64 = 7 * 86_400;

/// What gossip does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is news: pass it on.
    Accept,
    /// Nobody's fault: do not pass it on.
    Ignore,
    /// Who passed it on did what no honest node does.
    Reject,
}

/// Why a request is not answered, or an answer not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No honest node makes these bytes.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It is of another network.
    #[error("the peer belongs to the network {0}")]
    OtherNetwork(NetworkId),
    /// The peer passed on a descriptor that its relay did not sign.
    #[error("the peer passed on a forged descriptor: it is left alone for an hour")]
    Forged,
    /// The peer is left alone for what it did before.
    #[error("the peer is left alone for what it did before")]
    Blocked,
    /// The peer, or others of its subnet, ask too often.
    #[error("the peer or its subnet asks too often")]
    TooMany,
}

/// What an answer brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Whether both have the same set.
    pub same: bool,
    /// How many descriptors were news.
    pub taken: usize,
    /// How many were not: unregistered, expired, or known already.
    pub ignored: usize,
    /// How many descriptors the peer says it has.
    pub told: usize,
    /// The last change of the registry that the peer knows.
    pub seq: u64,
    /// How many descriptors are known now.
    pub known: usize,
    /// How many registered relays are missing now.
    pub missing: usize,
    /// What the peer lacks of what is known here: for [`Exchange::push`].
    pub lacking: Vec<Arc<SignedDescriptor>>,
    /// How many relays the peer has no descriptor of, although one is known here.
    pub hidden: usize,
    /// What to ask the same peer next.
    pub next: Option<Vec<u8>>,
    /// Whether so few of the registered relays are known that others may be kept from us.
    pub few: bool,
}

impl Report {
    /// Whether the peer knows so much less than is known here that others should be asked instead.
    // directory.exchange.5
    pub const fn hides(&self) -> bool {
        let least = self.known - self.known / 4;
        self.told < least || self.hidden > self.known / 4
    }

    /// Whether nobody else need be asked for now. That a peer says it has the same, or nothing new, proves nothing where little is
    /// known: it need only repeat what it was asked.
    // directory.exchange.6
    pub const fn satisfies(&self) -> bool {
        !self.hides() && (self.taken > 0 || !self.few)
    }
}

/// How often what was met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Descriptors taken.
    pub taken: u64,
    /// Descriptors that were no news, or whose time it is not.
    pub ignored: u64,
    /// Descriptors of relays that are not registered so.
    pub unregistered: u64,
    /// What no honest node sends.
    pub malformed: u64,
    /// Signatures that were checked.
    pub checked: u64,
    /// Signatures that were wrong.
    pub forged: u64,
    /// What came beyond a limit.
    pub limited: u64,
}

/// Why a descriptor was not taken.
enum NotTaken {
    Malformed(Malformed),
    OtherNetwork,
    Ignored,
    Limited,
    Forged,
}

/// The newest descriptors of one node, and its part in spreading them.
#[derive(Debug)]
pub struct Exchange {
    view: View,
    own: Option<RelayId>,
    /// The newest descriptor of this relay, also before it is registered.
    published: Option<Arc<SignedDescriptor>>,
    outbox: Option<Arc<SignedDescriptor>>,
    peers: Peers,
    /// The digest of the set and its size, if nothing changed since they were made.
    set: Option<(Digest, u16)>,
    /// The second at which expired descriptors were looked for last.
    swept: u64,
    changed: bool,
    counters: Counters,
}

impl Exchange {
    /// Begins with what is known; `own` is this relay, if it is one.
    pub const fn new(view: View, own: Option<RelayId>) -> Self {
        Self {
            view,
            own,
            published: None,
            outbox: None,
            peers: Peers::new(),
            set: None,
            swept: 0,
            changed: true,
            counters: Counters {
                taken: 0,
                ignored: 0,
                unregistered: 0,
                malformed: 0,
                checked: 0,
                forged: 0,
                limited: 0,
            },
        }
    }

    /// What is known.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// How often what was met.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether the view changed since this was asked last.
    pub const fn changed(&mut self) -> bool {
        core::mem::replace(&mut self.changed, false)
    }

    /// Believes a registry from now on.
    pub fn set_registry(&mut self, unix: u64, registry: Arc<Registry>) {
        self.view.set_registry(registry);
        self.touch();
        self.expire(unix);
        self.enter();
    }

    /// Makes this relay's new descriptor known, as soon as the relay is registered.
    pub fn publish(&mut self, unix: u64, new: SignedDescriptor) -> Result<(), Misuse> {
        if Some(new.id) != self.own || new.network != self.view.network() {
            return Err(Misuse("a relay publishes its own descriptor, of this network"));
        }
        if new.bytes().len() > MAX_GOSSIPED {
            return Err(Misuse(
                "a descriptor that is gossiped has at most 1,024 bytes: give it fewer onion keys",
            ));
        }
        if new.expires <= unix || new.expires > unix.saturating_add(MAX_LIFE) {
            return Err(Misuse("a descriptor that is gossiped is valid now, and for at most 7 days"));
        }
        let known = self.view.get(&new.id).or(self.published.as_deref()).map(|old| old.sequence);
        if known.is_some_and(|known| known >= new.sequence) {
            return Err(Misuse("a descriptor with this or a higher sequence number is known: count up"));
        }
        self.published = Some(Arc::new(new));
        self.enter();
        Ok(())
    }

    /// The next own descriptor that is to be gossiped.
    pub const fn poll_publish(&mut self) -> Option<Arc<SignedDescriptor>> {
        self.outbox.take()
    }

    /// Takes a gossiped message.
    pub fn handle_gossip(&mut self, now: Now, peer: PeerKey, bytes: &[u8]) -> Verdict {
        // directory.gossip.2
        if self.peers.is_blocked(now.instant, peer) {
            return Verdict::Ignore;
        }
        match self.take(now, Some(peer), bytes) {
            Ok(_) => Verdict::Accept,
            Err(NotTaken::Ignored | NotTaken::Limited) => Verdict::Ignore,
            Err(NotTaken::Malformed(_) | NotTaken::OtherNetwork) => Verdict::Reject,
            Err(NotTaken::Forged) => {
                self.peers.block(now.instant, peer);
                Verdict::Reject
            }
        }
    }

    /// The smallest question: whether the peer has the same set.
    pub fn probe(&mut self) -> Vec<u8> {
        let digest = self.digest();
        self.encode(&Request::State(digest))
    }

    /// The question for all that is lacking here.
    pub fn request(&mut self) -> Vec<u8> {
        self.request_after(RelayId([0; 32]))
    }

    /// Gives a peer what it lacks, as much as one message holds.
    pub fn push(&self, lacking: &[Arc<SignedDescriptor>]) -> Vec<u8> {
        let (descriptors, _) = fit(lacking.iter().map(Arc::as_ref), PUSH_ROOM);
        self.encode(&Request::Push(descriptors))
    }

    /// Answers a request.
    pub fn handle_request(&mut self, now: Now, peer: PeerKey, bytes: &[u8]) -> Result<Vec<u8>, Denied> {
        if self.peers.is_blocked(now.instant, peer) {
            return Err(Denied::Blocked);
        }
        if !self.peers.may_ask(now.instant, peer) {
            self.counters.limited += 1;
            return Err(Denied::TooMany);
        }
        let (network, request) = Request::read(bytes).inspect_err(|_| self.counters.malformed += 1)?;
        if network != self.view.network() {
            return Err(Denied::OtherNetwork(network));
        }
        self.expire(now.unix());
        let answer = match request {
            Request::State(_) => Answer::State(self.state()),
            Request::Set(summary) => {
                let state = self.state();
                if summary.digest == state.digest {
                    Answer::State(state)
                } else {
                    Answer::Set(state, self.compare(&summary))
                }
            }
            Request::Push(descriptors) => {
                for bytes in descriptors {
                    if let Err(NotTaken::Forged) = self.take(now, Some(peer), bytes) {
                        self.peers.block(now.instant, peer);
                        return Err(Denied::Forged);
                    }
                }
                Answer::State(self.state())
            }
        };
        let answer = answer.write().map_err(|_| Denied::TooMany)?;
        self.peers.answered(now.instant, peer, answer.len());
        Ok(answer)
    }

    /// Takes an answer.
    pub fn handle_response(&mut self, now: Now, peer: PeerKey, bytes: &[u8]) -> Result<Report, Denied> {
        if self.peers.is_blocked(now.instant, peer) {
            return Err(Denied::Blocked);
        }
        let answer = Answer::read(bytes).inspect_err(|_| self.counters.malformed += 1)?;
        let (Answer::State(state) | Answer::Set(state, _)) = &answer;
        let mut report = Report {
            told: state.count.into(),
            seq: state.seq,
            same: state.digest == self.digest(),
            ..Report::default()
        };
        let mut last = None;
        let mut more = !report.same && state.count > 0;
        if let Answer::Set(_, missing) = &answer {
            let mut ids = BTreeSet::new();
            for bytes in &missing.descriptors {
                let id = self.take_asked(now, peer, bytes, &mut report)?;
                if last.replace(id).is_some_and(|last| last >= id) {
                    return Err(Malformed("descriptors (ascending by id)").into());
                }
                ids.insert(id);
            }
            report.lacking = self.find(&missing.asked, &missing.lacking);
            report.hidden = report.lacking.iter().filter(|relay| !ids.contains(&relay.id)).count();
            // directory.exchange.4: an answer that brings nothing is not followed, so that nobody is asked without end.
            more = missing.more && report.taken > 0;
        }
        report.same = state.digest == self.digest();
        report.next = more.then(|| self.request_after(last.unwrap_or(RelayId([0; 32]))));
        (report.known, report.missing) = (self.view.iter().len(), self.view.missing());
        report.few = self.view.share().is_some_and(Share::is_few);
        Ok(report)
    }

    /// Forgets what is no longer valid.
    pub fn expire(&mut self, unix: u64) {
        if core::mem::replace(&mut self.swept, unix) != unix && self.view.expire(unix) > 0 {
            self.touch();
        }
    }

    /// Takes one descriptor of an answer; returns its id.
    fn take_asked(
        &mut self,
        now: Now,
        peer: PeerKey,
        bytes: &[u8],
        report: &mut Report,
    ) -> Result<RelayId, Denied> {
        match self.take(now, None, bytes) {
            Ok(id) => {
                report.taken += 1;
                Ok(id)
            }
            Err(NotTaken::Forged) => {
                self.peers.block(now.instant, peer);
                Err(Denied::Forged)
            }
            Err(NotTaken::Malformed(malformed)) => Err(malformed.into()),
            Err(NotTaken::OtherNetwork | NotTaken::Ignored | NotTaken::Limited) => {
                report.ignored += 1;
                Unverified::read(bytes).map(|relay| relay.id).map_err(Denied::Malformed)
            }
        }
    }

    /// Takes a descriptor if it is news; `unasked` is who sent it without being asked. What costs least is checked first.
    // directory.gossip.1
    fn take(&mut self, now: Now, unasked: Option<PeerKey>, bytes: &[u8]) -> Result<RelayId, NotTaken> {
        let result = self.check(now, unasked, bytes);
        let counter = match &result {
            Ok(_) => &mut self.counters.taken,
            Err(NotTaken::Ignored) => &mut self.counters.ignored,
            Err(NotTaken::Malformed(_) | NotTaken::OtherNetwork) => &mut self.counters.malformed,
            Err(NotTaken::Limited) => &mut self.counters.limited,
            Err(NotTaken::Forged) => &mut self.counters.forged,
        };
        *counter += 1;
        result
    }

    fn check(&mut self, now: Now, unasked: Option<PeerKey>, bytes: &[u8]) -> Result<RelayId, NotTaken> {
        if bytes.len() > MAX_GOSSIPED {
            return Err(NotTaken::Malformed(Malformed("length of a descriptor (at most 1024)")));
        }
        let relay = Unverified::read(bytes).map_err(NotTaken::Malformed)?;
        let (id, unix) = (relay.id, now.unix());
        match self.view.is_news(&relay, relay.digest(), relay.holds_link_key()) {
            Ok(true) => {}
            Err(NotInserted::OtherNetwork(_)) => return Err(NotTaken::OtherNetwork),
            Err(NotInserted::Unregistered | NotInserted::OtherOwner) => {
                self.counters.unregistered += 1;
                return Err(NotTaken::Ignored);
            }
            Ok(false) | Err(_) => return Err(NotTaken::Ignored),
        }
        // directory.gossip.5
        if relay.expires <= unix || relay.expires > unix.saturating_add(MAX_LIFE) {
            return Err(NotTaken::Ignored);
        }
        if !self.peers.may_update(now.instant, &id) {
            return Err(NotTaken::Limited);
        }
        if unasked.is_some_and(|peer| !self.peers.may_check(now.instant, peer)) {
            return Err(NotTaken::Limited);
        }
        self.counters.checked += 1;
        let relay = relay.verify().map_err(|_| NotTaken::Forged)?;
        self.view.insert(relay).map_err(|_| NotTaken::Ignored)?;
        self.peers.updated(now.instant, id);
        self.touch();
        Ok(id)
    }

    /// Puts this relay's descriptor into the view if it can be there, and hands it out for gossip.
    fn enter(&mut self) {
        let Some(own) = &self.published else { return };
        if self.view.is_news(own, own.digest(), own.holds_link_key()) == Ok(true)
            && self.view.insert(Arc::clone(own)).is_ok()
        {
            self.outbox = Some(Arc::clone(own));
            self.touch();
        }
    }

    const fn touch(&mut self) {
        self.changed = true;
        self.set = None;
    }

    fn encode(&self, request: &Request<'_>) -> Vec<u8> {
        // A view's summary and a push that was fitted are shorter than a request may be.
        request.write(self.view.network()).unwrap_or_default()
    }

    fn request_after(&mut self, after: RelayId) -> Vec<u8> {
        let digest = self.digest();
        let mut shorts: Vec<_> = self.set(after).map(|relay| short(&digest, relay)).collect();
        shorts.sort_unstable();
        self.encode(&Request::Set(Summary { digest, after, shorts }))
    }

    /// What can be exchanged, in the order of ids, of the relays after one.
    fn set(&self, after: RelayId) -> impl Iterator<Item = &Arc<SignedDescriptor>> + Clone {
        self.view.shared().filter(move |relay| relay.id > after && relay.bytes().len() <= MAX_GOSSIPED)
    }

    /// The digest of what can be exchanged: two nodes with the same one know the same.
    pub fn digest(&mut self) -> Digest {
        self.state().digest
    }

    /// The digest of the whole set, and its size.
    // directory.exchange.2
    fn state(&mut self) -> State {
        let seq = self.view.registry().map_or(0, |registry| registry.seq());
        if let Some((digest, count)) = self.set {
            return State { digest, count, seq };
        }
        let (mut hasher, mut count) = (blake3::Hasher::new_derive_key("chive v1 descriptor set"), 0_u16);
        hasher.update(&self.view.network().0);
        for relay in self.set(RelayId([0; 32])) {
            hasher.update(relay.digest());
            count = count.saturating_add(1);
        }
        let digest = hasher.finalize().into();
        self.set = Some((digest, count));
        State { digest, count, seq }
    }

    /// What an asker lacks and what it has more than this node.
    // directory.exchange.3
    fn compare(&self, summary: &Summary) -> Missing<'_> {
        let mine: Vec<_> =
            self.set(summary.after).map(|relay| (short(&summary.digest, relay), relay)).collect();
        let mut shorts: Vec<_> = mine.iter().map(|(short, _)| *short).collect();
        shorts.sort_unstable();
        let has = |shorts: &[Short], short: &Short| shorts.binary_search(short).is_ok();
        let lacking: Vec<_> = summary.shorts.iter().filter(|short| !has(&shorts, short)).copied().collect();
        let lacked = mine
            .into_iter()
            .filter(|(short, _)| !has(&summary.shorts, short))
            .map(|(_, relay)| relay.as_ref());
        let (descriptors, all) = fit(lacked, room(lacking.len()));
        Missing { asked: summary.digest, more: !all, descriptors, lacking }
    }

    /// The descriptors that these stand for.
    fn find(&self, asked: &Digest, shorts: &[Short]) -> Vec<Arc<SignedDescriptor>> {
        if shorts.is_empty() {
            return vec![];
        }
        let found =
            self.set(RelayId([0; 32])).filter(|relay| shorts.binary_search(&short(asked, relay)).is_ok());
        found.cloned().collect()
    }
}

/// What stands for a descriptor in the request of an asker with this digest.
// directory.exchange.2
fn short(asker: &Digest, relay: &SignedDescriptor) -> Short {
    let tag = mac(&Secret::new(*asker), &[relay.digest()]);
    tag.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests;
