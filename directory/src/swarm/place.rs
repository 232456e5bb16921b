//! Names and places of peers: between relay ids and peer ids, socket addresses and multiaddresses.

use std::net::{IpAddr, SocketAddr};

use circuit::keys::RelayId;
use circuit::link::place;
use libp2p::identity::{PublicKey, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The code of a peer id that is its own key.
const IDENTITY: u64 = 0;

/// The peer id of a relay; `None` if its id is no key.
pub(super) fn peer_of(relay: &RelayId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&relay.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The relay that a peer would be; `None` for keys that no relay has.
pub(super) fn relay_of(peer: &PeerId) -> Option<RelayId> {
    let name = peer.as_ref();
    if name.code() != IDENTITY {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(name.digest()).ok()?.try_into_ed25519().ok()?;
    Some(RelayId(key.to_bytes()))
}

/// A TCP address as libp2p writes it.
pub(super) fn multiaddr(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

/// The IP of an address; `None` for names and all else that is no IP.
pub(super) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(IpAddr::from(ip).to_canonical()),
        _ => None,
    }
}

/// The IP and TCP port of an address.
pub(super) fn socket_of(address: &Multiaddr) -> Option<SocketAddr> {
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    })?;
    Some(SocketAddr::new(ip_of(address)?, port))
}

/// What addresses of one holder are likely to share: the /16 of an IPv4 address, the /32 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subnet(u64);

impl Subnet {
    pub(super) fn of(ip: IpAddr) -> Self {
        Self(place(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::identity;

    #[test]
    fn a_relay_and_its_peer_are_one() {
        for n in 1..20 {
            let id = identity(n).id();
            let keys = libp2p::identity::Keypair::ed25519_from_bytes(*identity(n).expose().expose()).unwrap();
            let peer = peer_of(&id).unwrap();
            assert_eq!(peer, keys.public().to_peer_id());
            assert_eq!(relay_of(&peer), Some(id));
        }
        assert_eq!(relay_of(&PeerId::random()), None);
    }

    #[test]
    fn places_are_read_back_and_subnets_are_wide() {
        for text in ["192.0.2.7:4433", "[2001:db8::1]:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_of(&multiaddr(address)), Some(address));
        }
        assert_eq!(
            ip_of(&"/dns4/example.org/tcp/1".parse().unwrap()),
            None,
            "names are not resolved for strangers"
        );
        let of = |ip: &str| Subnet::of(ip.parse().unwrap());
        assert_eq!(of("192.0.2.7"), of("::ffff:192.0.255.9"));
        assert_ne!(of("192.0.2.7"), of("192.1.2.7"));
        assert_eq!(of("2001:db8::1"), of("2001:db8:ffff::9"));
        assert_ne!(of("2001:db8::1"), of("2001:db9::1"));
    }
}
