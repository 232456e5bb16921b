//! Links to some relays, as a client begins them: whether UDP leads out, whether packets fit, what the clocks say.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use circuit::keys::{BootId, RelayId};
use circuit::link::{LinkConfig, LinkEvent, LinkLimits, Links, Peer, Suites};
use circuit::packet::{PACKET, Packet};
use directory::view::View;
use rand_core::Rng as _;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};

use crate::outside;

/// So many relays are asked, for so long.
const RELAYS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(4);
const WAIT: Duration = Duration::from_millis(20);

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Probe {
    pub(super) asked: usize,
    pub(super) answered: usize,
    /// The relays' clocks less ours, in milliseconds.
    pub(super) clocks: Vec<i64>,
    /// This machine or its network said that a packet is too large to be sent whole.
    pub(super) too_large: bool,
    /// What the system said when nothing could be sent.
    pub(super) problem: Option<String>,
}

/// Begins links to some relays of the view, but for our own.
pub(super) fn links(view: &View, own: Option<RelayId>) -> Probe {
    let mut probe = Probe::default();
    if let Err(error) = ask(view, own, &mut probe) {
        probe.problem = Some(error.to_string());
    }
    probe
}

fn ask(view: &View, own: Option<RelayId>, probe: &mut Probe) -> anyhow::Result<()> {
    let mut rng = outside::random()?;
    let mut seed = [0; 32];
    rng.fill_bytes(&mut seed);
    let unix = outside::unix();
    let mut peers: Vec<_> = view
        .iter()
        .filter(|relay| Some(relay.id) != own && view.usable(&relay.id, unix).is_ok())
        .filter_map(|relay| {
            let address = *relay.addresses.iter().find(|address| address.is_ipv4())?;
            Some((rng.next_u64(), Peer { id: relay.id, link_key: relay.link_key, address }))
        })
        .collect();
    peers.sort_unstable_by_key(|(drawn, _)| *drawn);
    let config = LinkConfig {
        network: view.network(),
        relay: None,
        boot: BootId(rng.next_u64()),
        suites: Suites::default(),
        limits: LinkLimits::default(),
    };
    let mut links = Links::new(config, seed);
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(WAIT))?;
    // Nothing is sent in pieces: whoever drops pieces drops none of ours.
    set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
    for (_, peer) in peers.iter().take(RELAYS) {
        if links.dial(outside::now(), peer).is_ok() {
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
