//! The task of the directory: it carries events of libp2p to the exchange and the table of peers, and does what they want.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::keccak256;
use circuit::error::Misuse;
use circuit::keys::{Random, RelayId};
use circuit::node::Now;
use data_encoding::HEXLOWER;
use libp2p::core::ConnectedPoint;
use libp2p::core::transport::{Transport as _, TransportError, global_only};
use libp2p::core::upgrade::Version;
use libp2p::futures::StreamExt as _;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, PublishError};
use libp2p::identity::Keypair;
use libp2p::request_response::{self, Message, OutboundFailure, OutboundRequestId};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, SwarmBuilder, identify, noise, tcp, yamux};
use rand_core::Rng as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::descriptor::SignedDescriptor;
use crate::exchange::{Denied, Exchange, PeerKey, Report, Verdict};
use crate::registry::Registry;
use crate::swarm::behaviour::{Behaviour, BehaviourEvent, topic};
use crate::swarm::calls::Calls;
use crate::swarm::patience::{Belief, Patience};
use crate::swarm::peers::{Peers, Policy, Step, Target};
use crate::swarm::place::{Subnet, ip_of, multiaddr, relay_of, socket_of};
use crate::swarm::{Settings, StartError, Status};
use crate::view::{Share, View};

/// How often it is looked at what is due.
const TICK: Duration = Duration::from_millis(250);
/// How often the view forgets what has expired, and peers that were left are forgiven.
const SWEEP: Duration = Duration::from_mins(1);
/// How long a peer is left.
const LEFT: Duration = Duration::from_mins(10);
/// How long a name may take to resolve.
const RESOLVE_TIME: Duration = Duration::from_secs(8);
/// The most addresses of one name that are dialed.
const MAX_RESOLVED: usize = 8;
/// Peers that a client asks in a round, and a relay.
const ASKED: (usize, usize) = (3, 2);
/// Connections to relays that a relay keeps; a client keeps none.
const KEPT: usize = 8;
/// A client's connections end so long after the last word, a relay's later: the other side may only be slow to ask.
const IDLE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_mins(10));
/// Messages of a connection that may wait for us.
const BUFFER: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// So many peers' words are kept on where they see us.
const TOLD: usize = 16;
/// Relays that are asked for a call.
const CALLERS: usize = 3;
/// The answer to who asks to be called: it is done, or not now.
pub(super) const CALLED: [u8; 1] = [0];
const NOT_CALLED: [u8; 1] = [1];
/// The most streams of one connection.
const MAX_STREAMS: usize = 64;

/// What a handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    Publish(Box<SignedDescriptor>, oneshot::Sender<Result<(), Misuse>>),
    Answer { from: PeerKey, request: Vec<u8>, to: oneshot::Sender<Option<Vec<u8>>> },
    Request(oneshot::Sender<Vec<u8>>),
    Take { from: PeerKey, answer: Vec<u8>, to: oneshot::Sender<Option<Vec<u8>>> },
    BeCalled(BTreeSet<RelayId>, oneshot::Sender<usize>),
    Callers(mpsc::Sender<RelayId>),
}

type Event = SwarmEvent<BehaviourEvent>;

/// A bootstrap address, and how often it was dialed.
#[derive(Debug)]
struct Bootstrap {
    address: String,
    tries: usize,
}

/// The directory at work.
pub(super) struct Task {
    swarm: Swarm<Behaviour>,
    exchange: Exchange,
    peers: Peers,
    topic: IdentTopic,
    serves: bool,
    every: Duration,
    now: fn() -> Now,
    random: Random,
    started: Instant,
    swept: Instant,
    registry: watch::Receiver<Arc<Registry>>,
    commands: mpsc::Receiver<Command>,
    views: watch::Sender<Arc<View>>,
    status: watch::Sender<Status>,
    bootstrap: Vec<Bootstrap>,
    resolving: JoinSet<(usize, Vec<SocketAddr>)>,
    dialing: BTreeMap<ConnectionId, Target>,
    /// What was given to peers unasked; their answers tell nothing.
    pushes: BTreeSet<OutboundRequestId>,
    /// Our descriptor, until somebody has taken it.
    unpublished: Option<Arc<SignedDescriptor>>,
    exchanges: u64,
    last_exchange: Option<Now>,
    left: u64,
    sight: Sight,
    own: Option<RelayId>,
    calls: Calls,
    /// Who calls relays that ask for it.
    callers: Option<mpsc::Sender<RelayId>>,
    patience: Patience,
    /// Whether few of the registered relays are known.
    few: bool,
}

/// How others see us.
#[derive(Debug, Default)]
struct Sight {
    inbound: u64,
    last_inbound: u64,
    /// The subnets of the relays that said that they call us, and when the last one did.
    called: BTreeSet<Subnet>,
    last_called: u64,
    /// At which addresses the last peers see us; one of each subnet.
    told: VecDeque<(Subnet, IpAddr)>,
}

impl Sight {
    /// A relay in this subnet says that it calls us: many of one subnet may be one that lies.
    fn called_by(&mut self, unix: u64, from: Subnet) {
        self.last_called = unix;
        if self.called.len() < TOLD {
            self.called.insert(from);
        }
    }

    /// Takes a peer's word in the place of the one that its subnet gave before: who speaks often has no more weight.
    fn told_by(&mut self, from: Subnet, address: &Multiaddr) {
        let Some(ip) = ip_of(address) else { return };
        self.told.retain(|(subnet, _)| *subnet != from);
        if self.told.len() >= TOLD {
            self.told.pop_front();
        }
        self.told.push_back((from, ip));
    }

    /// What more than half of them say: one that lies is not believed.
    fn address(&self) -> Option<IpAddr> {
        let all = || self.told.iter().map(|(_, ip)| *ip);
        let says = |ip: IpAddr| all().filter(|other| *other == ip).count();
        all().find(|ip| says(*ip) * 2 > self.told.len())
    }
}

impl Task {
    /// Binds the port; inside the runtime that runs the task.
    pub(super) fn new(settings: Settings, commands: mpsc::Receiver<Command>) -> Result<Self, StartError> {
        let now = (settings.now)();
        let serves = !settings.listen.is_empty();
        let own = serves.then(|| settings.identity.id());
        let network = settings.view.network();
        let registry = Arc::clone(&settings.registry.borrow());
        let keys = Keypair::ed25519_from_bytes(*settings.identity.expose().expose())
            .map_err(|_| StartError::Identity)?;
        let behaviour = Behaviour::new(&keys, network, serves, settings.limits, Arc::clone(&registry))?;
        let local = settings.view.is_local();
        let mut swarm = build(keys, behaviour, if serves { IDLE.1 } else { IDLE.0 }, local)?;
        for address in settings.listen {
            swarm.listen_on(multiaddr(address)).map_err(|error| StartError::Listen {
                address,
                source: match error {
                    TransportError::Other(source) => source,
                    TransportError::MultiaddrNotSupported(_) => std::io::ErrorKind::Unsupported.into(),
                },
            })?;
        }
        let (asked, kept) = if serves { (ASKED.1, KEPT) } else { (ASKED.0, 0) };
        let policy = Policy { asked, kept, every: settings.every };
        let told = settings.view.is_content();
        let mut exchange = Exchange::new(settings.view, own);
        exchange.set_registry(now.unix(), registry);
        let views = watch::Sender::new(Arc::new(exchange.view().clone()));
        Ok(Self {
            swarm,
            exchange,
            peers: Peers::new(policy, own, settings.bootstrap.len(), now.instant),
            topic: topic(network),
            serves,
            every: settings.every,
            now: settings.now,
            random: settings.random,
            started: now.instant,
            swept: now.instant,
            registry: settings.registry,
            commands,
            views,
            status: watch::Sender::default(),
            bootstrap: settings
                .bootstrap
                .into_iter()
                .map(|address| Bootstrap { address, tries: 0 })
                .collect(),
            resolving: JoinSet::new(),
            dialing: BTreeMap::new(),
            pushes: BTreeSet::new(),
            unpublished: None,
            exchanges: 0,
            last_exchange: None,
            left: 0,
            sight: Sight::default(),
            own,
            calls: Calls::default(),
            callers: None,
            patience: Patience::new(told, local),
            few: false,
        })
    }

    /// Where the view is seen, and how it does.
    pub(super) fn watch(&self) -> (watch::Receiver<Arc<View>>, watch::Receiver<Status>) {
        (self.views.subscribe(), self.status.subscribe())
    }

    /// Runs until the last handle is gone.
    pub(super) async fn run(mut self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.event(event),
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                // Without a watch the registry stays as it is.
                Ok(()) = self.registry.changed() => self.registry_changed(),
                Some(Ok((index, addresses))) = self.resolving.join_next() => self.resolved(index, &addresses),
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn key(&self, peer: &PeerId) -> Option<PeerKey> {
        Some(PeerKey::new(keccak256(peer.as_ref().to_bytes()).0, self.peers.ip(peer)?))
    }

    fn registry_changed(&mut self) {
        let registry = Arc::clone(&self.registry.borrow_and_update());
        let now = (self.now)();
        let first = self.exchange.view().registry().is_none_or(|old| old.seq() == 0);
        self.swarm.behaviour_mut().gate.set_registry(Arc::clone(&registry));
        self.exchange.set_registry(now.unix(), registry);
        if first {
            // All that was refused before may be taken now.
            self.peers.hurry(now.instant);
        }
        self.publish();
        self.work(now);
    }

    fn tick(&mut self) {
        let now = (self.now)();
        if now.instant.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = now.instant;
            self.exchange.expire(now.unix());
            self.swarm.behaviour_mut().gate.forgive(now.instant);
        }
        self.publish();
        self.work(now);
        self.show();
        let status = self.report(now);
        self.status.send_if_modified(|old| {
            let new = *old != status;
            *old = status;
            new
        });
    }

    fn show(&mut self) {
        let changed = self.exchange.changed();
        if changed {
            self.few = self.exchange.view().share().is_some_and(Share::is_few);
        }
        let belief = self.patience.look((self.now)().instant, self.few);
        self.peers.note(belief);
        let content = belief == Belief::All;
        if changed || self.views.borrow().is_content() != content {
            let mut view = self.exchange.view().clone();
            view.set_content(content);
            self.views.send_replace(Arc::new(view));
        }
    }

    fn report(&mut self, now: Now) -> Status {
        let digest = HEXLOWER.encode(&self.exchange.digest());
        let since = self.last_exchange.map_or(self.started, |last| last.instant);
        let lonely = now.instant.saturating_duration_since(since) > self.every.saturating_mul(3);
        let advice = if self.bootstrap.is_empty() && self.exchange.view().iter().len() == 0 {
            "no relay is known: name bootstrap addresses in the network file"
        } else if self.last_exchange.is_none() && self.exchange.view().iter().len() == 0 {
            "none of the bootstrap addresses in the network file answers: check that this computer reaches the internet and \
             lets TCP out; if so, get a newer network file; it is tried again"
        } else {
            "no relay answers questions about the network: check that this computer reaches the internet and lets TCP out; \
             what was known before is used, and it is tried again"
        };
        Status {
            listen: self.swarm.listeners().filter_map(socket_of).collect(),
            peers: self.peers.len(),
            serving: self.peers.serving(),
            relays: self.exchange.view().iter().len(),
            digest,
            exchanges: self.exchanges,
            last_exchange: self.last_exchange.map_or(0, |last| last.unix()),
            left: self.left,
            inbound: self.sight.inbound,
            last_inbound: self.sight.last_inbound,
            called: self.sight.called.len(),
            last_called: self.sight.last_called,
            seen_at: self.sight.address(),
            trouble: lonely.then(|| advice.to_owned()),
        }
    }

    /// Hands our new descriptor to whoever gossips.
    fn publish(&mut self) {
        while let Some(descriptor) = self.exchange.poll_publish() {
            self.unpublished = Some(descriptor);
        }
        let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() else { return };
        let Some(descriptor) = self.unpublished.take() else { return };
        match gossip.publish(self.topic.clone(), descriptor.bytes()) {
            Ok(_) | Err(PublishError::Duplicate) => {}
            // Nobody listens yet.
            Err(PublishError::NoPeersSubscribedToTopic | PublishError::AllQueuesFull(_)) => {
                self.unpublished = Some(descriptor);
            }
            Err(error) => tracing::warn!("our descriptor cannot be gossiped: {error}"),
        }
    }

    /// Dials and asks whoever is due.
    fn work(&mut self, now: Now) {
        for step in self.peers.plan(now.instant, &mut self.random, self.exchange.view()) {
            match step {
                Step::Ask(peer) => self.ask(&peer),
                Step::Dial(Target::Bootstrap(index)) => self.resolve(index),
                Step::Dial(target @ Target::Relay(relay, peer)) => {
                    let addresses = self.exchange.view().get(&relay).map_or_else(Vec::new, gossip_addresses);
                    let condition = PeerCondition::DisconnectedAndNotDialing;
                    let dial = DialOpts::peer_id(peer).condition(condition).addresses(addresses);
                    let dial = dial.allocate_new_port().build();
                    self.dial(dial, target);
                }
            }
        }
    }

    fn ask(&mut self, peer: &PeerId) {
        let request = self.exchange.request();
        self.send(peer, request);
    }

    fn send(&mut self, peer: &PeerId, request: Vec<u8>) -> OutboundRequestId {
        self.swarm.behaviour_mut().exchange.send_request(peer, request)
    }

    fn dial(&mut self, dial: DialOpts, target: Target) {
        let connection = dial.connection_id();
        match self.swarm.dial(dial) {
            Ok(()) => drop(self.dialing.insert(connection, target)),
            Err(error) => {
                tracing::debug!("not dialed: {error}");
                self.peers.missed((self.now)().instant, target);
            }
        }
    }

    fn resolve(&mut self, index: usize) {
        let Some(bootstrap) = self.bootstrap.get(index) else { return };
        let address = bootstrap.address.clone();
        self.resolving.spawn_local(async move {
            let found = timeout(RESOLVE_TIME, tokio::net::lookup_host(address)).await;
            (index, found.ok().and_then(Result::ok).into_iter().flatten().take(MAX_RESOLVED).collect())
        });
    }

    /// Dials one of the addresses, with every try another one.
    fn resolved(&mut self, index: usize, addresses: &[SocketAddr]) {
        let target = Target::Bootstrap(index);
        let Some(bootstrap) = self.bootstrap.get_mut(index) else { return };
        let turn = bootstrap.tries.checked_rem(addresses.len()).and_then(|turn| addresses.get(turn));
        bootstrap.tries = bootstrap.tries.wrapping_add(1);
        match turn {
            Some(address) => {
                let dial = DialOpts::unknown_peer_id().address(multiaddr(*address));
                // From the port that it listens on, a host of several relays could connect to itself.
                self.dial(dial.allocate_new_port().build(), target);
            }
            None => self.peers.missed((self.now)().instant, target),
        }
    }

    fn command(&mut self, command: Command) {
        let now = (self.now)();
        // Who asked may have left.
        match command {
            Command::Publish(descriptor, to) => {
                let _ = to.send(self.exchange.publish(now.unix(), *descriptor));
                self.publish();
            }
            Command::Answer { from, request, to } => {
                drop(to.send(self.exchange.handle_request(now, from, &request).ok()));
            }
            Command::BeCalled(linked, to) => drop(to.send(self.be_called(now, &linked))),
            Command::Callers(to) => self.callers = Some(to),
            // directory.stream.3
            Command::Request(to) => drop(to.send(self.exchange.probe())),
            Command::Take { from, answer, to } => {
                let report = self.exchange.handle_response(now, from, &answer).ok();
                if report.as_ref().is_some_and(Report::satisfies) {
                    self.count(now);
                    self.peers.rest(now.instant);
                }
                self.show();
                drop(to.send(report.and_then(|report| report.next)));
            }
        }
    }

    fn count(&mut self, now: Now) {
        self.exchanges = self.exchanges.saturating_add(1);
        self.last_exchange = Some(now);
    }

    /// Takes the answer of a peer, and says what follows.
    fn answered(&mut self, now: Now, peer: PeerId, answer: &[u8]) {
        let Some(key) = self.key(&peer) else { return };
        let report = match self.exchange.handle_response(now, key, answer) {
            Ok(report) => report,
            Err(error) => return self.leave(now, peer, &error.to_string()),
        };
        self.count(now);
        if let Some(request) = &report.next
            && self.peers.may_follow(&peer)
        {
            self.send(&peer, request.clone());
            return;
        }
        // An owner of many relays can have an honest peer seem to hide: what it has told counts all the same.
        if report.next.is_none() {
            for witness in self.peers.witnesses(peer) {
                self.patience.heard(witness);
            }
        }
        // directory.swarm.6
        if report.hides() {
            if self.peers.hides(now.instant, peer) {
                return self.leave(now, peer, "it hides relays");
            }
        } else {
            self.peers.answered(&peer, report.satisfies());
        }
        if self.serves && !report.lacking.is_empty() {
            let push = self.exchange.push(&report.lacking);
            let id = self.send(&peer, push);
            self.pushes.insert(id);
        }
        self.remember(peer);
    }

    /// Has nothing more to do with a peer, for some time.
    fn leave(&mut self, now: Now, peer: PeerId, why: &str) {
        tracing::debug!("a peer of the directory is left: {why}");
        self.left = self.left.saturating_add(1);
        self.peers.silent(&peer, false);
        self.swarm.behaviour_mut().gate.leave(peer, now.instant + LEFT);
        // It may have gone already.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    /// Lets Kademlia tell others of a relay that is connected and known.
    fn remember(&mut self, peer: PeerId) {
        let Some(descriptor) = relay_of(&peer).and_then(|relay| self.exchange.view().get(&relay)) else {
            return;
        };
        for address in gossip_addresses(descriptor) {
            self.swarm.behaviour_mut().kad.add_address(&peer, address);
        }
    }

    fn event(&mut self, event: Event) {
        let now = (self.now)();
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connected(now, peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, .. } => self.peers.disconnected(&peer_id),
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some(target) = self.dialing.remove(&connection_id) {
                    tracing::debug!("an address of the directory is not reached: {error}");
                    self.peers.missed(now.instant, target);
                }
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::warn!("the directory's port does not take connections: {error}");
            }
            SwarmEvent::Behaviour(BehaviourEvent::Gossip(event)) => self.gossip(now, event),
            SwarmEvent::Behaviour(BehaviourEvent::Exchange(event)) => self.exchange(now, event),
            SwarmEvent::Behaviour(BehaviourEvent::Call(event)) => self.call(now, event),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                ..
            })) => {
                if let Some(ip) = self.peers.ip(&peer_id) {
                    self.sight.told_by(Subnet::of(ip), &info.observed_addr);
                }
            }
            _ => {}
        }
    }

    fn connected(&mut self, now: Now, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(ip) = ip_of(endpoint.get_remote_address()) else { return };
        if endpoint.is_listener() {
            self.sight.inbound = self.sight.inbound.saturating_add(1);
            self.sight.last_inbound = now.unix();
        }
        let serves = endpoint.is_dialer() || self.swarm.behaviour().gate.is_registered(&peer);
        self.peers.connected(now.instant, peer, ip, serves);
        if let Some(target) = self.dialing.remove(&connection) {
            self.peers.reached(now.instant, target, peer, ip);
        }
        self.remember(peer);
        self.work(now);
    }

    fn gossip(&mut self, now: Now, event: gossipsub::Event) {
        let gossipsub::Event::Message { propagation_source: peer, message_id, message } = event else {
            return;
        };
        let allowed = self.peers.may_gossip(now.instant, &peer);
        let key = self.key(&peer).filter(|_| allowed);
        let verdict = key.map(|key| self.exchange.handle_gossip(now, key, &message.data));
        let acceptance = match verdict {
            Some(Verdict::Accept) => MessageAcceptance::Accept,
            Some(Verdict::Reject) => MessageAcceptance::Reject,
            Some(Verdict::Ignore) | None => MessageAcceptance::Ignore,
        };
        if let Some(gossip) = self.swarm.behaviour_mut().gossip.as_mut() {
            gossip.report_message_validation_result(&message_id, &peer, acceptance);
        }
        if !allowed {
            self.leave(now, peer, "it gossips too much");
        } else if verdict == Some(Verdict::Reject) {
            self.leave(now, peer, "it gossips what is no descriptor");
        }
    }

    fn exchange(&mut self, now: Now, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        match event {
            request_response::Event::Message {
                peer,
                message: Message::Request { request, channel, .. },
                ..
            } => {
                self.request(now, peer, &request, channel);
            }
            request_response::Event::Message {
                peer,
                message: Message::Response { request_id, response },
                ..
            } => {
                if !self.pushes.remove(&request_id) {
                    self.answered(now, peer, &response);
                    self.work(now);
                    // Whoever waits for a first view need not wait for a tick.
                    self.show();
                }
            }
            request_response::Event::OutboundFailure { peer, request_id, error, .. } => {
                if !self.pushes.remove(&request_id) {
                    self.peers.silent(&peer, !matches!(error, OutboundFailure::UnsupportedProtocols));
                    self.work(now);
                }
            }
            request_response::Event::InboundFailure { .. } | request_response::Event::ResponseSent { .. } => {
            }
        }
    }

    fn request(
        &mut self,
        now: Now,
        peer: PeerId,
        request: &[u8],
        channel: request_response::ResponseChannel<Vec<u8>>,
    ) {
        if !self.peers.may_request(now.instant, &peer) {
            return self.leave(now, peer, "it asks too much");
        }
        let Some(key) = self.key(&peer) else { return };
        match self.exchange.handle_request(now, key, request) {
            // It may have gone meanwhile.
            Ok(answer) => drop(self.swarm.behaviour_mut().exchange.send_response(channel, answer)),
            // Many may share its subnet: it is not its fault.
            Err(Denied::TooMany) => {}
            Err(error) => self.leave(now, peer, &error.to_string()),
        }
    }
}

/// Calls: one relay asks another one to begin a link to it.
impl Task {
    /// Asks some connected relays that are not linked to call us, those first that are in different subnets; how many.
    fn be_called(&mut self, now: Now, linked: &BTreeSet<RelayId>) -> usize {
        let view = self.exchange.view();
        let known = |relay: &RelayId| view.usable(relay, now.unix()).is_ok();
        // Who does not know our descriptor calls nobody.
        if !self.own.as_ref().is_some_and(known) {
            return 0;
        }
        let connected = self
            .swarm
            .connected_peers()
            .filter(|peer| relay_of(peer).is_some_and(|id| known(&id) && !linked.contains(&id)));
        let mut peers: Vec<_> = connected
            .filter_map(|peer| Some((self.random.next_u64(), *peer, self.peers.ip(peer)?)))
            .collect();
        peers.sort_unstable();
        let mut subnets = BTreeSet::new();
        peers.sort_by_cached_key(|(_, _, ip)| !subnets.insert(Subnet::of(*ip)));
        peers.truncate(CALLERS);
        for (_, peer, _) in &peers {
            self.swarm.behaviour_mut().call.send_request(peer, Vec::new());
        }
        peers.len()
    }

    fn call(&mut self, now: Now, event: request_response::Event<Vec<u8>, Vec<u8>>) {
        match event {
            request_response::Event::Message { peer, message: Message::Request { channel, .. }, .. } => {
                if !self.peers.may_request(now.instant, &peer) {
                    return self.leave(now, peer, "it asks too much");
                }
                let answer = if self.may_call(now, &peer) { CALLED } else { NOT_CALLED };
                // It may have gone meanwhile.
                let _ = self.swarm.behaviour_mut().call.send_response(channel, answer.to_vec());
            }
            request_response::Event::Message {
                peer, message: Message::Response { response, .. }, ..
            } if response == CALLED => {
                if let Some(ip) = self.peers.ip(&peer) {
                    self.sight.called_by(now.unix(), Subnet::of(ip));
                }
            }
            // Who does not call today may do so tomorrow.
            _ => {}
        }
    }

    /// Has a relay called, if it is one, and it is time.
    // directory.call.1
    fn may_call(&mut self, now: Now, peer: &PeerId) -> bool {
        let view = self.exchange.view();
        let relay = relay_of(peer).filter(|relay| view.usable(relay, now.unix()).is_ok());
        let (Some(relay), Some(callers)) = (relay, &self.callers) else { return false };
        let Ok(place) = callers.try_reserve() else { return false };
        let may = self.calls.take(now.instant, relay);
        if may {
            place.send(relay);
        }
        may
    }
}

pub(super) fn build(
    keys: Keypair,
    behaviour: Behaviour,
    idle: Duration,
    local: bool,
) -> Result<Swarm<Behaviour>, StartError> {
    let noise = noise::Config::new(&keys).map_err(|_| StartError::Protocol("noise"))?;
    let mut muxer = yamux::Config::default();
    muxer.set_max_num_streams(MAX_STREAMS);
    let swarm = SwarmBuilder::with_existing_identity(keys)
        .with_tokio()
        .with_other_transport(|_| {
            let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
            // directory.swarm.7: also what peers tell of addresses ends here.
            let tcp = if local { tcp.boxed() } else { global_only::Transport::new(tcp).boxed() };
            tcp.upgrade(Version::V1Lazy).authenticate(noise).multiplex(muxer)
        })
        .map_err(|never| match never {})?
        .with_behaviour(|_| behaviour)
        .map_err(|_| StartError::Protocol("the behaviour"))?
        .with_swarm_config(|config| {
            config.with_idle_connection_timeout(idle).with_notify_handler_buffer_size(BUFFER)
        })
        .build();
    Ok(swarm)
}

/// Where a relay's directory listens.
fn gossip_addresses(relay: &SignedDescriptor) -> Vec<Multiaddr> {
    let port = Some(relay.gossip_port).filter(|port| *port != 0);
    let at = |port| relay.addresses.iter().map(move |address| multiaddr(SocketAddr::new(address.ip(), port)));
    port.into_iter().flat_map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tells_often_where_it_sees_us_has_one_vote_and_so_has_its_subnet() {
        let mut sight = Sight::default();
        let mut tell = |from: [u8; 4], ip: [u8; 4]| {
            sight.told_by(Subnet::of(from.into()), &multiaddr((ip, 7).into()));
            sight.address()
        };
        let (true_one, lie): ([u8; 4], [u8; 4]) = ([93, 1, 1, 1], [93, 9, 9, 9]);
        for n in 0..3 {
            assert_eq!(tell([94, n, 1, 1], true_one), Some(true_one.into()));
        }
        for n in 0..200 {
            assert_eq!(tell([95, 1, n, 1], lie), Some(true_one.into()), "many of one subnet");
        }
        assert_eq!(tell([95, 2, 1, 1], lie), Some(true_one.into()));
        assert_eq!(tell([95, 3, 1, 1], lie), None, "half of them are not enough");
        assert_eq!(
            tell([95, 1, 1, 1], true_one),
            Some(true_one.into()),
            "who changes its mind has no second vote"
        );
        for n in 0..=255 {
            tell([96, n, 1, 1], lie);
        }
        assert_eq!(sight.told.len(), TOLD);
    }

    #[test]
    fn callers_count_by_their_subnets() {
        let mut sight = Sight::default();
        for n in 0..5 {
            sight.called_by(n, Subnet::of([95, 1, 1, 1].into()));
            sight.called_by(n, Subnet::of([95, 1, 2, 2].into()));
        }
        assert_eq!((sight.called.len(), sight.last_called), (1, 4));
        for n in 0..=255 {
            sight.called_by(5, Subnet::of([95, n, 1, 1].into()));
        }
        assert_eq!((sight.called.len(), sight.last_called), (TOLD, 5));
    }
}
