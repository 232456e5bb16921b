//! Who may connect: no one who was left, few from one subnet, and strangers only to a part of the places.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::behaviour::{ConnectionClosed, ListenFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm, dummy,
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
    #[error("as many strangers are connected as may be")]
    Strangers,
    #[error("the peer is no registered relay")]
    Unregistered,
    #[error("its address is no IP")]
    NoIp,
}

/// An incoming connection; of whom is known after the handshake.
#[derive(Clone, Copy, Debug)]
struct Incoming {
    subnet: Subnet,
    stranger: bool,
}

/// Refuses connections.
#[derive(Debug)]
pub(super) struct Gate {
    limits: Limits,
    registry: Arc<Registry>,
    left: BTreeMap<PeerId, Instant>,
    incoming: BTreeMap<ConnectionId, Incoming>,
}

impl Gate {
    pub(super) fn new(limits: Limits, registry: Arc<Registry>) -> Self {
        Self { limits, registry, left: BTreeMap::new(), incoming: BTreeMap::new() }
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
        let same = self.incoming.values().filter(|incoming| incoming.subnet == subnet).count();
        if same >= self.limits.per_subnet { Err(Refusal::Subnet) } else { Ok(subnet) }
    }

    fn admit_peer(&self, peer: &PeerId) -> Result<(), Refusal> {
        if self.has_left(peer) {
            return Err(Refusal::Left);
        }
        // directory.swarm.3
        let strangers = self.incoming.values().filter(|incoming| incoming.stranger).count();
        if !self.is_registered(peer) && strangers >= self.limits.strangers {
            return Err(Refusal::Strangers);
        }
        Ok(())
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
        self.incoming.insert(connection, Incoming { subnet, stranger: false });
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit_peer(&peer).map_err(ConnectionDenied::new)?;
        let stranger = !self.is_registered(&peer);
        if let Some(incoming) = self.incoming.get_mut(&connection) {
            incoming.stranger = stranger;
        }
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

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sample::{identity, payment};
    use crate::swarm::place::{multiaddr, peer_of};

    const LIMITS: Limits = Limits { incoming: 100, strangers: 4, per_subnet: 3, outgoing: 9 };

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
        let id = ConnectionId::new_unchecked(61);
        assert!(gate.handle_pending_inbound_connection(id, &address(10, 3, 1), &address(10, 3, 1)).is_ok());
        let refused =
            gate.handle_established_inbound_connection(id, peer(61), &address(10, 3, 1), &address(10, 3, 1));
        assert_eq!(refused.err().and_then(|why| why.downcast().ok()), Some(Refusal::Strangers));
        assert!(came(&mut gate, 1, 4), "a relay has a place");
        gate.incoming.remove(&ConnectionId::new_unchecked(50));
        assert!(came(&mut gate, 62, 1), "who goes makes place");
        let named: Multiaddr = "/dns4/example.org/tcp/1".parse().unwrap();
        assert!(!arrives(&mut gate, 99, &named, peer(2)));
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
