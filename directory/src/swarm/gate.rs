//! Who may connect: no one who was left, few from one subnet, strangers only to a part of the places, and where there is no place, who
//! comes from a subnet that has fewer than another one.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::behaviour::{ConnectionClosed, ListenFailure};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};

use crate::registry::Registry;
use crate::swarm::Limits;
use crate::swarm::place::{Subnet, ip_of, relay_of};

/// The most peers that are remembered as left; those who may return first are forgotten first.
const MAX_LEFT: usize = 1_024;

/// Why a connection is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the peer was left for what it did")]
    Left,
    #[error("its subnet has as many connections as one may have")]
    Subnet,
    #[error("as many strangers are connected as may be, of no subnet more than of its own")]
    Strangers,
    #[error("as many are connected as may be, of no subnet more than of its own")]
    Full,
    #[error("the peer is no registered relay")]
    Unregistered,
    #[error("its address is no IP")]
    NoIp,
}

/// An incoming connection; of whom is known after the handshake.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    subnet: Subnet,
    /// Whose it is, and whether that is a stranger; not known before the handshake.
    peer: Option<(PeerId, bool)>,
}

impl Incoming {
    fn is_stranger(&self) -> bool {
        self.peer.is_some_and(|(_, stranger)| stranger)
    }
}

/// Refuses connections.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    registry: Arc<Registry>,
    left: BTreeMap<PeerId, Instant>,
    incoming: BTreeMap<ConnectionId, Incoming>,
    /// Connections that gave way to others, and are to be closed.
    closing: VecDeque<(PeerId, ConnectionId)>,
}

impl Gate {
    pub(super) fn new(limits: Limits, registry: Arc<Registry>) -> Self {
        Self { limits, registry, left: BTreeMap::new(), incoming: BTreeMap::new(), closing: VecDeque::new() }
    }

    pub(super) fn set_registry(&mut self, registry: Arc<Registry>) {
        self.registry = registry;
    }

    /// Keeps a peer away until then.
    pub(super) fn leave(&mut self, peer: PeerId, until: Instant) {
        if self.left.len() >= MAX_LEFT
            && let Some(first) = self.left.iter().min_by_key(|(_, until)| **until).map(|(peer, _)| *peer)
        {
            self.left.remove(&first);
        }
        self.left.insert(peer, until);
    }

    /// Lets those return whose time has come.
    pub(super) fn forgive(&mut self, now: Instant) {
        self.left.retain(|_, until| *until > now);
    }

    pub(super) fn has_left(&self, peer: &PeerId) -> bool {
        self.left.contains_key(peer)
    }

    /// Whether the peer is a registered relay.
    pub(super) fn is_registered(&self, peer: &PeerId) -> bool {
        relay_of(peer).is_some_and(|relay| self.registry.contains(&relay))
    }

    fn admit_address(&self, address: &Multiaddr) -> Result<Subnet, Refusal> {
        let subnet = Subnet::of(ip_of(address).ok_or(Refusal::NoIp)?);
        // directory.swarm.3
        let same = || self.incoming.values().filter(|incoming| incoming.subnet == subnet);
        let pending = same().filter(|incoming| incoming.peer.is_none()).count();
        let full = same().count() >= self.limits.per_subnet || pending >= self.limits.pending_per_subnet;
        if full { Err(Refusal::Subnet) } else { Ok(subnet) }
    }

    /// Gives a peer its place, if need be that of another one.
    // directory.swarm.3
    fn admit_peer(&mut self, connection: ConnectionId, peer: PeerId) -> Result<(), Refusal> {
        if self.has_left(&peer) {
            return Err(Refusal::Left);
        }
        let stranger = !self.is_registered(&peer);
        let Some(subnet) = self.incoming.get(&connection).map(|incoming| incoming.subnet) else {
            return Ok(());
        };
        let known = || self.incoming.values().filter(|incoming| incoming.peer.is_some());
        if stranger && known().filter(|incoming| incoming.is_stranger()).count() >= self.limits.strangers {
            self.make_room(subnet, Incoming::is_stranger).ok_or(Refusal::Strangers)?;
        } else if known().count() >= self.limits.incoming {
            // Who registers pays for a place: no stranger takes it.
            let gives_way =
                |incoming: &Incoming| if stranger { incoming.is_stranger() } else { incoming.peer.is_some() };
            self.make_room(subnet, gives_way).ok_or(Refusal::Full)?;
        }
        if let Some(incoming) = self.incoming.get_mut(&connection) {
            incoming.peer = Some((peer, stranger));
        }
        Ok(())
    }

    /// Takes the place of the newest connection of the subnet that has most of them, unless the newcomer's would have as many then.
    fn make_room(&mut self, newcomer: Subnet, counts: impl Fn(&Incoming) -> bool) -> Option<()> {
        let mut held = BTreeMap::<_, (usize, _)>::new();
        for (connection, incoming) in self.incoming.iter().filter(|(_, incoming)| counts(incoming)) {
            let (count, newest) = held.entry(incoming.subnet).or_insert((0, *connection));
            (*count, *newest) = (*count + 1, *connection);
        }
        let own = held.get(&newcomer).map_or(0, |(count, _)| *count);
        let (most, newest) = held.into_values().max_by_key(|(count, _)| *count)?;
        if most <= own + 1 {
            return None;
        }
        let (peer, _) = self.incoming.remove(&newest)?.peer?;
        self.closing.push_back((peer, newest));
        Some(())
    }

    fn admit_dial(&self, peer: Option<PeerId>) -> Result<(), Refusal> {
        match peer {
            Some(peer) if self.has_left(&peer) => Err(Refusal::Left),
            // directory.swarm.4: what strangers say of addresses leads only to relays.
            Some(peer) if self.registry.seq() > 0 && !self.is_registered(&peer) => Err(Refusal::Unregistered),
            _ => Ok(()),
        }
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let subnet = self.admit_address(remote).map_err(ConnectionDenied::new)?;
        self.incoming.insert(connection, Incoming { subnet, peer: None });
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit_peer(connection, peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.admit_dial(peer).map_err(ConnectionDenied::new)?;
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // Whose address it was is known only now.
        if self.has_left(&peer) {
            return Err(ConnectionDenied::new(Refusal::Left));
        }
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.incoming.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    /// What `closing` has came by the swarm's own doing, which polls afterwards: nobody need be woken.
    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        let Some((peer_id, connection)) = self.closing.pop_front() else { return Poll::Pending };
        let connection = CloseConnection::One(connection);
        Poll::Ready(ToSwarm::CloseConnection { peer_id, connection })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use libp2p::core::ConnectedPoint;
    use libp2p::identity::Keypair;
    use libp2p::swarm::behaviour::ConnectionEstablished;

    use super::*;
    use crate::sample::{NETWORK, identity, payment};
    use crate::swarm::behaviour::Behaviour;
    use crate::swarm::place::{multiaddr, peer_of};

    const LIMITS: Limits =
        Limits { incoming: 100, strangers: 4, per_subnet: 3, pending_per_subnet: 2, outgoing: 9 };

    #[expect(clippy::disallowed_methods, reason = "a beginning; time goes on by hand")]
    fn beginning() -> Instant {
        Instant::now()
    }

    fn peer(n: u8) -> PeerId {
        peer_of(&identity(n).id()).unwrap()
    }

    /// A gate that knows the relays 1 to 3.
    fn gate() -> Gate {
        let mut registry = Registry::default();
        for n in 1..=3 {
            registry.apply(n.into(), payment(n).owner, identity(n).id(), true).unwrap();
        }
        Gate::new(LIMITS, Arc::new(registry))
    }

    fn address(a: u8, b: u8, n: u8) -> Multiaddr {
        multiaddr(([a, b, n, 1], 9).into())
    }

    /// An incoming connection; whether it was let in.
    fn arrives(gate: &mut Gate, connection: usize, from: &Multiaddr, peer: PeerId) -> bool {
        let id = ConnectionId::new_unchecked(connection);
        let in_time = gate.handle_pending_inbound_connection(id, from, from).is_ok();
        in_time && gate.handle_established_inbound_connection(id, peer, from, from).is_ok()
    }

    // directory.swarm.3
    #[test]
    fn a_subnet_has_few_places_and_strangers_not_all() {
        let mut gate = gate();
        let came = |gate: &mut Gate, n: u8, b: u8| arrives(gate, n.into(), &address(10, b, n), peer(n));
        assert_eq!((50..60).filter(|n| came(&mut gate, *n, 1)).count(), 3, "of one subnet");
        assert!(came(&mut gate, 60, 2), "the fourth stranger");
        assert!(came(&mut gate, 1, 4), "a relay has a place");
        let id = ConnectionId::new_unchecked;
        gate.incoming.remove(&id(50));
        assert!(came(&mut gate, 62, 1), "who goes makes place");
        let (from, refused) = (address(10, 1, 9), Some(Refusal::Subnet));
        let why = |refused: Result<_, ConnectionDenied>| refused.err().and_then(|why| why.downcast().ok());
        assert_eq!(why(gate.handle_pending_inbound_connection(id(63), &from, &from)), refused);
        // Handshakes that do not end hold few places.
        let from = address(10, 7, 1);
        let pends = |gate: &mut Gate, n| gate.handle_pending_inbound_connection(id(n), &from, &from);
        assert!(pends(&mut gate, 70).is_ok() && pends(&mut gate, 71).is_ok());
        assert_eq!(why(pends(&mut gate, 72)), refused);
        let named: Multiaddr = "/dns4/example.org/tcp/1".parse().unwrap();
        assert!(!arrives(&mut gate, 99, &named, peer(2)));
    }

    // directory.swarm.3
    #[test]
    fn six_subnets_that_hold_all_places_give_way_to_the_seventh() {
        let limits = Limits { incoming: 24, strangers: 18, per_subnet: 9, ..LIMITS };
        let mut gate = Gate { limits, ..gate() };
        let mut next = 0..;
        let mut come = |gate: &mut Gate, subnet: u8, peer: PeerId| {
            arrives(gate, next.next().unwrap(), &address(93, subnet, 1), peer)
        };
        let came: Vec<_> = (0..60).map(|n| come(&mut gate, n % 6, PeerId::random())).collect();
        assert_eq!(came.iter().filter(|came| **came).count(), 18, "three of each, and none gave way");
        assert_eq!(came.iter().rposition(|came| *came), Some(17));
        let held = |gate: &Gate, subnet: u8| {
            let subnet = Subnet::of([93, subnet, 1, 1].into());
            gate.incoming
                .values()
                .filter(|incoming| incoming.subnet == subnet && incoming.peer.is_some())
                .count()
        };
        // Each of another subnet has a place, until it has as many.
        let others: Vec<_> = (0..4).map(|_| come(&mut gate, 50, PeerId::random())).collect();
        assert_eq!(others, [true, true, false, false]);
        assert!((100..110).all(|subnet| come(&mut gate, subnet, PeerId::random())));
        assert!((0..6).all(|subnet| held(&gate, subnet) <= 2), "those that held most gave way");
        let strangers = gate.incoming.values().filter(|incoming| incoming.is_stranger()).count();
        assert_eq!((strangers, gate.closing.len()), (18, 12));
        // The first of each stays.
        assert!((0..4).all(|n| gate.incoming.contains_key(&ConnectionId::new_unchecked(n))));
        assert!((1..=3).all(|n| come(&mut gate, 7, peer(n))), "and relays have places of their own");
    }

    // directory.swarm.3
    #[test]
    fn a_stranger_takes_no_place_of_a_registered_relay() {
        let mut gate = Gate { limits: Limits { incoming: 4, ..LIMITS }, ..gate() };
        let mut next = 0..;
        let mut come = |gate: &mut Gate, subnet: u8, peer: PeerId| {
            arrives(gate, next.next().unwrap(), &address(93, subnet, 1), peer)
        };
        assert!((1..=3).all(|n| come(&mut gate, 1, peer(n))), "three relays of one subnet");
        assert!(come(&mut gate, 2, PeerId::random()));
        assert!(
            (10..20).all(|subnet| !come(&mut gate, subnet, PeerId::random())),
            "no place is left for strangers"
        );
        let relays = |gate: &Gate| {
            gate.incoming.values().filter(|one| one.peer.is_some() && !one.is_stranger()).count()
        };
        assert_eq!((relays(&gate), gate.closing.len()), (3, 0));
        // Strangers give way to each other, and all to a relay.
        gate.limits.incoming = 5;
        assert!(come(&mut gate, 2, PeerId::random()));
        assert!(come(&mut gate, 3, PeerId::random()));
        assert_eq!((relays(&gate), gate.closing.len()), (3, 1));
        assert!(come(&mut gate, 4, peer(1)));
        assert_eq!((relays(&gate), gate.closing.len()), (3, 2));
    }

    // directory.swarm.3
    #[tokio::test]
    async fn for_a_connection_too_many_of_one_peer_nobody_gives_way() {
        let keys = Keypair::ed25519_from_bytes(*identity(100).expose().expose()).unwrap();
        let mut behaviour = Behaviour::new(&keys, NETWORK, true, LIMITS, Arc::default()).unwrap();
        let (one, at) = (PeerId::random(), address(94, 1, 1));
        let mut next = 0..;
        let mut come = |behaviour: &mut Behaviour, subnet: u8, peer: PeerId| {
            let (connection, from) =
                (ConnectionId::new_unchecked(next.next().unwrap()), address(93, subnet, 1));
            behaviour.handle_pending_inbound_connection(connection, &at, &from).unwrap();
            let handled = behaviour.handle_established_inbound_connection(connection, peer, &at, &from);
            if handled.is_ok() {
                let endpoint = ConnectedPoint::Listener { local_addr: at.clone(), send_back_addr: from };
                behaviour.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                    peer_id: peer,
                    connection_id: connection,
                    endpoint: &endpoint,
                    failed_addresses: &[],
                    other_established: 0,
                }));
            }
            handled.is_ok()
        };
        assert!(come(&mut behaviour, 1, PeerId::random()) && come(&mut behaviour, 1, PeerId::random()));
        assert!(come(&mut behaviour, 2, one) && come(&mut behaviour, 2, one));
        assert!(!come(&mut behaviour, 3, one), "two of one peer");
        assert!(behaviour.gate.closing.is_empty());
        assert!(come(&mut behaviour, 3, PeerId::random()), "and one of another peer");
        assert_eq!(behaviour.gate.closing.len(), 1);
    }

    // directory.swarm.4
    #[test]
    fn what_others_say_is_dialed_only_for_relays() {
        let mut gate = gate();
        assert_eq!(gate.admit_dial(Some(peer(1))), Ok(()));
        assert_eq!(gate.admit_dial(Some(peer(9))), Err(Refusal::Unregistered));
        assert_eq!(gate.admit_dial(None), Ok(()), "a bootstrap address");
        gate.set_registry(Arc::default());
        assert_eq!(gate.admit_dial(Some(peer(9))), Ok(()), "before anything is known");
    }

    // directory.swarm.5
    #[test]
    fn who_was_left_returns_in_time_and_the_list_has_an_end() {
        let mut gate = gate();
        let start = beginning();
        gate.leave(peer(1), start + Duration::from_secs(10));
        assert!(!arrives(&mut gate, 1, &address(10, 1, 1), peer(1)));
        assert_eq!(gate.admit_dial(Some(peer(1))), Err(Refusal::Left));
        gate.forgive(start + Duration::from_secs(9));
        assert!(gate.has_left(&peer(1)));
        gate.forgive(start + Duration::from_secs(10));
        assert!(!gate.has_left(&peer(1)));
        for n in 0..2_000 {
            gate.leave(PeerId::random(), start + Duration::from_secs(n));
        }
        assert_eq!(gate.left.len(), MAX_LEFT);
        assert!(gate.left.values().all(|until| *until >= start + Duration::from_secs(976)));
    }
}
