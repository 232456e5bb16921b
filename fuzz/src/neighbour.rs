//! A neighbour of a node under test: real links, and circuit packets of its own choice.

use std::net::SocketAddr;

use circuit::keys::BootId;
use circuit::link::{Arrival, LinkConfig, LinkEvent, LinkId, LinkLimits, Links, Peer, RelayKeys, Suites};
use circuit::node::{Node, Now, Verdict};
use circuit::packet::{CELL, Cell, CircuitWord, PACKET, Packet};
use directory::chain::Chain;
use directory::payment::Payment;
use directory::view::View;
use payments::Address;
use payments::amount::{Rate, Wei};
use payments::frame::{Frame, Frames};

use wire::Writer;

use crate::descriptor::{describe, sample};
use crate::fixture::{NETWORK, identity, link_key};
use crate::payments::DOMAIN;

/// Packets that a node may have to say at once.
const MOST_AT_ONCE: usize = 50_000;

/// A packet and where it goes.
pub(crate) type Sent = (SocketAddr, Box<[u8; PACKET]>);

/// The address of relay `n`, as its descriptor says.
pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 4433))
}

/// The relays 1 to 3.
pub(crate) fn view() -> View {
    thread_local!(static VIEW: View = {
        let mut view = View::new(NETWORK);
        (1..4).for_each(|n| view.insert(sample(n)).unwrap());
        view
    });
    VIEW.with(View::clone)
}

/// What a cell costs at each relay of [`paid_view`].
pub(crate) const ASK: u64 = 1_000;

/// The pot of relay `n`.
pub(crate) fn owner(n: u8) -> Address {
    Address::repeat_byte(0x30 + n)
}

/// The relays 1 to 3, all of them paid.
pub(crate) fn paid_view() -> View {
    let (id, contract) = (DOMAIN.chain_id, DOMAIN.contract);
    let chain = Chain { id, contract, rpc: vec![], minimum_bond: Wei(1), exit_operators: 1, deployed: 0 };
    let mut view = View::new(NETWORK).with_chain(chain);
    for n in 1..4 {
        let payment = Payment {
            chain_id: id,
            contract,
            owner: owner(n),
            ask: Rate(ASK),
            exit_ask: Rate(if n % 2 == 1 { ASK } else { 0 }),
        };
        view.insert(describe(n, Some(payment))).unwrap();
    }
    view
}

/// Relay `n`, as one dials it.
pub(crate) fn peer(n: u8) -> Peer {
    Peer { id: identity(n).id(), link_key: link_key(n).public(), address: address(n) }
}

pub(crate) struct Neighbour {
    pub(crate) links: Links,
    pub(crate) address: SocketAddr,
    pub(crate) up: Vec<LinkId>,
    /// Frames of payments that came.
    pub(crate) frames: Vec<Frame>,
    /// Links that are gone, whose circuits are to be told.
    pub(crate) lost: Vec<LinkId>,
}

impl Neighbour {
    /// Relay `n`, or a client.
    pub(crate) fn new(relay: Option<u8>, address: SocketAddr) -> Self {
        let config = LinkConfig {
            network: NETWORK,
            relay: relay.map(|n| RelayKeys { identity: identity(n), link: link_key(n) }),
            boot: BootId(1),
            suites: Suites::default(),
            limits: LinkLimits::default(),
        };
        let mut links = Links::new(config, [0x70 | relay.unwrap_or(0); 32]);
        links.set_relays((1..4).map(|n| (peer(n).link_key, peer(n).id)));
        Self { links, address, up: vec![], frames: vec![], lost: vec![] }
    }

    /// Seals a circuit packet.
    pub(crate) fn seal(&mut self, now: Now, link: LinkId, word: CircuitWord, cell: &Cell) -> Option<Sent> {
        let mut bytes = Box::new([0; PACKET]);
        let mut packet = Packet::blank(&mut bytes);
        packet.set_word(word);
        *packet.cell() = *cell;
        let (_, to) = self.links.seal(now, link, packet).ok()?;
        Some((to, bytes))
    }

    /// Opens a packet: what it brought for circuits.
    pub(crate) fn open(
        &mut self,
        now: Now,
        from: SocketAddr,
        mut bytes: Box<[u8; PACKET]>,
    ) -> Option<(LinkId, CircuitWord, Box<Cell>)> {
        match self.links.open(now, from, Packet::received(&mut bytes)) {
            Ok(Arrival::Circuit { link, mut packet }) => {
                Some((link, packet.word(), Box::new(*packet.cell())))
            }
            Ok(Arrival::Payments { mut packet, .. }) => {
                self.frames.extend(Frames::new(packet.cell()).map(Result::unwrap));
                None
            }
            Ok(Arrival::Consumed) | Err(_) => None,
        }
    }

    /// Seals frames of payments for the newest link.
    pub(crate) fn pay(&mut self, now: Now, frames: &[Frame]) -> Option<Sent> {
        let link = self.up.last().copied()?;
        let mut cell = [0; CELL];
        let mut w = Writer::new(&mut cell);
        for frame in frames {
            frame.write(&mut w).ok()?;
        }
        w.pad();
        self.seal(now, link, CircuitWord::CONTROL, &cell)
    }

    /// What the links have to say of their own.
    pub(crate) fn drain(&mut self, now: Now) -> Vec<Sent> {
        while let Some(event) = self.links.poll_event() {
            match event {
                LinkEvent::Up { link } => self.up.push(link),
                LinkEvent::Lost { link } => {
                    self.up.retain(|up| *up != link);
                    self.lost.push(link);
                }
            }
        }
        let mut out = [0; PACKET];
        let mut sent = vec![];
        while let Some(to) = self.links.poll_transmit(now, &mut out) {
            sent.push((to, Box::new(out)));
        }
        sent
    }
}

/// What a node has to say.
pub(crate) fn drain_node(node: &mut impl Node, now: Now) -> Vec<Sent> {
    let mut out = [0; PACKET];
    let mut sent = vec![];
    while let Some(to) = node.poll_transmit(now, &mut out) {
        sent.push((to, Box::new(out)));
        assert!(sent.len() < MOST_AT_ONCE, "a node that does not stop sending");
    }
    sent
}

/// Gives a packet to a node; what it forwards.
pub(crate) fn give(
    node: &mut impl Node,
    now: Now,
    from: SocketAddr,
    mut bytes: Box<[u8; PACKET]>,
) -> Option<Sent> {
    match node.handle_datagram(now, from, Packet::received(&mut bytes)) {
        Ok(Verdict::Forward(to)) => Some((to, bytes)),
        Ok(Verdict::Consumed) | Err(_) => None,
    }
}

/// Lets the timers of a node run out that are due.
pub(crate) fn run_timers(node: &mut impl Node, now: Now) {
    for _ in 0..64 {
        if node.poll_timeout().is_none_or(|at| at > now.instant) {
            return;
        }
        node.handle_timeout(now);
        while node.poll_event().is_some() {}
        drain_node(node, now);
    }
    assert!(node.poll_timeout().is_none_or(|at| at > now.instant), "a timer that never rests");
}
