//! Links to some relays, as a client begins them: whether UDP leads out, whether packets fit, what the clocks say, and where we are
//! seen.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use circuit::keys::{BootId, RelayId};
use circuit::link::{LinkConfig, LinkEvent, LinkLimits, Links, Peer, Seen, Suites, place};
use circuit::packet::{PACKET, Packet};
use directory::view::View;
use rand_core::Rng as _;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};

use super::{Patient, machine};
use crate::outside;

/// So many relays are asked, for so long.
const RELAYS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(4);
const WAIT: Duration = Duration::from_millis(20);

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Probe {
    pub(super) asked: usize,
    pub(super) answered: usize,
    /// The relays' clocks less ours, in milliseconds.
    pub(super) clocks: Vec<i64>,
    /// Where the relays see the socket, and the port that it is bound to.
    pub(super) seen: Vec<Seen>,
    pub(super) port: u16,
    /// This machine or its network said that a packet is too large to be sent whole.
    pub(super) too_large: bool,
    /// What the system said when nothing could be sent.
    pub(super) problem: Option<String>,
}

/// What came of it over IPv4, and over IPv6 where this machine has a route.
#[derive(Debug, Default)]
pub(super) struct Probes {
    pub(super) v4: Probe,
    pub(super) v6: Option<Probe>,
}

impl Probes {
    /// That of a family.
    pub(super) fn of(&self, v4: bool) -> Option<&Probe> {
        if v4 { Some(&self.v4) } else { self.v6.as_ref() }
    }
}

/// Begins links to some relays of the patient's view, but for our own; nothing where there is no view.
pub(super) fn links(patient: &Patient) -> Option<Probes> {
    let view = patient.view.as_ref()?;
    let own = super::own_id(patient);
    // The port of a relay that does not run shows what a NAT makes of that port.
    let listen = patient.relay.as_ref().filter(|_| patient.status.is_none()).map(|relay| relay.listen);
    let port = listen.map_or(0, |listen| listen.port());
    let of = |any: IpAddr| {
        let mut probe = Probe::default();
        if let Err(error) = ask(view, own, SocketAddr::new(any, port), &mut probe) {
            probe.problem = Some(error.to_string());
        }
        probe
    };
    let v4 = of(Ipv4Addr::UNSPECIFIED.into());
    let v6 = machine::has_ipv6().then(|| of(Ipv6Addr::UNSPECIFIED.into()));
    Some(Probes { v4, v6 })
}

/// Some relays of a family, those first that are in different places.
fn peers(view: &View, own: Option<RelayId>, v4: bool) -> anyhow::Result<Vec<Peer>> {
    let mut rng = outside::random()?;
    let unix = outside::unix();
    let mut drawn: Vec<_> = view
        .iter()
        .filter(|relay| Some(relay.id) != own && view.usable(&relay.id, unix).is_ok())
        .filter_map(|relay| {
            let address = *relay.addresses.iter().find(|address| address.is_ipv4() == v4)?;
            Some((rng.next_u64(), Peer { id: relay.id, link_key: relay.link_key, address }))
        })
        .collect();
    drawn.sort_unstable_by_key(|(number, _)| *number);
    let mut places = BTreeSet::new();
    let (mut first, rest): (Vec<_>, Vec<_>) =
        drawn.into_iter().map(|(_, peer)| peer).partition(|peer| places.insert(place(peer.address.ip())));
    first.extend(rest);
    first.truncate(RELAYS);
    Ok(first)
}

/// The socket, or one with another port if that one is taken.
fn bind(local: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(local).or_else(|_| UdpSocket::bind(SocketAddr::new(local.ip(), 0)))?;
    socket.set_read_timeout(Some(WAIT))?;
    // Nothing is sent in pieces: whoever drops pieces drops none of ours.
    if local.is_ipv4() {
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
    } else {
        set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?;
    }
    Ok(socket)
}

fn ask(view: &View, own: Option<RelayId>, local: SocketAddr, probe: &mut Probe) -> anyhow::Result<()> {
    let mut rng = outside::random()?;
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let config = LinkConfig {
        network: view.network(),
        relay: None,
        boot: BootId(rng.next_u64()),
        suites: Suites::default(),
        limits: LinkLimits::default(),
    };
    let mut links = Links::new(config, seed);
    let socket = bind(local)?;
    probe.port = socket.local_addr()?.port();
    for peer in peers(view, own, local.is_ipv4())? {
        if links.dial(outside::now(), &peer).is_ok() {
            probe.asked += 1;
        }
    }
    let until = outside::now().instant + PATIENCE;
    while outside::now().instant < until && probe.answered < probe.asked {
        exchange(&mut links, &socket, probe);
        while let Some(event) = links.poll_event() {
            if let LinkEvent::Up { link } = event {
                probe.answered += 1;
                probe.clocks.extend(links.peer_clock_ms(link));
            }
        }
    }
    probe.seen = links.seen(outside::now());
    Ok(())
}

/// Sends what is to be sent, and takes what comes in a short while.
fn exchange(links: &mut Links, socket: &UdpSocket, probe: &mut Probe) {
    let mut buffer = [0; PACKET];
    while let Some(to) = links.poll_transmit(outside::now(), &mut buffer) {
        send(socket, &buffer, to, probe);
    }
    let mut buffer = [0; PACKET + 1];
    if let Ok((length, from)) = socket.recv_from(&mut buffer)
        && length == PACKET
        && let Some(packet) = buffer.first_chunk_mut()
    {
        // What is wrong with it is no news.
        let _ = links.open(outside::now(), from, Packet::received(packet));
    }
    let now = outside::now();
    if links.poll_timeout().is_some_and(|at: Instant| at <= now.instant) {
        links.handle_timeout(now);
    }
}

fn send(socket: &UdpSocket, packet: &[u8], to: SocketAddr, probe: &mut Probe) {
    if let Err(error) = socket.send_to(packet, to) {
        probe.too_large |= error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error());
        probe.problem = Some(error.to_string());
    }
}
