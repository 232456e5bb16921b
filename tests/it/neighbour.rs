//! A neighbour of a relay that has the keys of another relay of the network, and sends what it likes over a real socket.

use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use circuit::aead::Suite;
use circuit::keys::{BootId, DhSecret, IdentitySecret, Random};
use circuit::link::{Arrival, LinkConfig, LinkId, LinkLimits, Links, Peer, RelayKeys, Suites};
use circuit::node::Now;
use circuit::packet::{Cell, CircuitWord, PACKET, Packet, PacketType};
use circuit::setup::{self, Outcome, PathHop, Purpose, SentSetup, Status, Terms};
use data_encoding::HEXLOWER;
use directory::descriptor::epoch;
use directory::network_file::NetworkFile;
use rand_core::{Rng as _, SeedableRng as _};

use super::processes::{Network, PATIENCE};

/// How often it looks at its timers.
const BEAT: Duration = Duration::from_millis(10);

/// The neighbour.
pub(crate) struct Neighbour {
    links: Links,
    socket: UdpSocket,
    rng: Random,
    victim: Peer,
    hop: PathHop,
    link: LinkId,
}

/// A setup with what its maker knows of it; it may be sent more than once.
pub(crate) struct Setup {
    sent: SentSetup,
    cell: Cell,
}

/// What came of a setup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Stands,
    Refused(Status),
    /// Nothing, though a setup that was sent after it was answered, or for long.
    Nothing,
}

#[expect(clippy::disallowed_methods, reason = "it speaks to processes that live in real time")]
fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Now { instant: Instant::now(), unix_ms: unix.as_millis().try_into().unwrap() }
}

/// The 32 bytes of a key file.
fn key(network: &Network, relay: usize, name: &str) -> [u8; 32] {
    let text = fs::read_to_string(network.file(&format!("relay{relay}/{name}.key"))).unwrap();
    HEXLOWER.decode(text.lines().last().unwrap().as_bytes()).unwrap().try_into().unwrap()
}

impl Neighbour {
    /// Has the keys of relay `own`, which must not run, and a link to relay `victim`, which must.
    pub(crate) fn of(network: &Network, own: usize, victim: usize) -> Self {
        let text = fs::read_to_string(network.file("network.toml")).unwrap();
        let now = now();
        let view = NetworkFile::parse(&text, "network.toml", None, now.unix()).unwrap().into_view();
        let identity = IdentitySecret::from_bytes(&key(network, own, "identity"));
        let id = IdentitySecret::from_bytes(&key(network, victim, "identity")).id();
        let relay = view.get(&id).unwrap();
        let victim = Peer { id, link_key: relay.link_key, address: relay.addresses[0] };
        let epoch = epoch(now.unix());
        let onion = *view.onion_key(&id, epoch).unwrap();
        let hop = PathHop { id, onion, epoch, suite: Suite::Aegis128L, terms: Terms::default() };
        // Its moment makes the seed: no test depends on what is drawn.
        let mut rng = Random::seed_from_u64(now.unix_ms);
        let config = LinkConfig {
            network: view.network(),
            relay: Some(RelayKeys { identity, link: DhSecret::from_bytes(key(network, own, "link")) }),
            boot: BootId(rng.next_u64()),
            suites: Suites::default(),
            limits: LinkLimits::default(),
        };
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let mut links = Links::new(config, seed);
        let socket = UdpSocket::bind(network.addresses[own - 1]).unwrap();
        socket.set_read_timeout(Some(BEAT)).unwrap();
        let link = links.dial(now, &victim).unwrap();
        let mut neighbour = Self { links, socket, rng, victim, hop, link };
        neighbour
            .until(PATIENCE, |neighbour, _| neighbour.links.is_up(neighbour.link).then_some(()))
            .unwrap();
        neighbour
    }

    /// A fresh setup for a circuit that ends at the victim.
    pub(crate) fn setup(&mut self) -> Setup {
        let unix = now().unix();
        let purpose = Purpose {
            expiry: u32::try_from(unix + 3_600).unwrap(),
            minute: u32::try_from(unix / 60).unwrap(),
            exit: false,
            early: &[],
        };
        let (sent, cell) = setup::build(&mut self.rng, &[self.hop], purpose).unwrap();
        Setup { sent, cell }
    }

    /// Sends a setup under a circuit id that was never used.
    fn send(&mut self, setup: &Setup) -> CircuitWord {
        let opener = self.links.our_opener(self.link);
        let word = CircuitWord::new(PacketType::Setup, opener, self.rng.next_u32() | 1);
        let mut bytes = [0; PACKET];
        let mut packet = Packet::blank(&mut bytes);
        packet.set_word(word.with_parity(self.hop.epoch & 1 == 1));
        *packet.cell() = setup.cell;
        let (packet, to) = self.links.seal(now(), self.link, packet).unwrap();
        self.socket.send_to(packet.bytes(), to).unwrap();
        word
    }

    /// Sends a setup and waits for its answer, for long.
    pub(crate) fn ask(&mut self, setup: &Setup) -> Answer {
        self.ask_for(PATIENCE, setup)
    }

    /// Sends a setup and waits so long for its answer.
    pub(crate) fn ask_for(&mut self, patience: Duration, setup: &Setup) -> Answer {
        let word = self.send(setup);
        let of = |(to, cell): (CircuitWord, Cell)| (to.id() == word.id()).then_some(cell);
        self.until(patience, |_, reply| reply.and_then(of)).map_or(Answer::Nothing, |cell| setup.read(&cell))
    }

    /// Sends a setup, and after it a fresh one that the victim must answer: what came for the first by then.
    pub(crate) fn ask_before_another(&mut self, setup: &Setup) -> Answer {
        let (word, other) = (self.send(setup), self.setup());
        let last = self.send(&other);
        let mut answer = Answer::Nothing;
        self.until(PATIENCE, |_, reply| {
            let (to, cell) = reply?;
            if to.id() == word.id() {
                answer = setup.read(&cell);
            }
            (to.id() == last.id()).then_some(())
        })
        .unwrap();
        answer
    }

    /// Keeps the link going until `done` says something of the state or of a reply; `None` when patience ends.
    fn until<T>(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&Self, Option<(CircuitWord, Cell)>) -> Option<T>,
    ) -> Option<T> {
        let end = now().instant + patience;
        while now().instant < end {
            self.links.handle_timeout(now());
            let mut bytes = [0; PACKET];
            while let Some(to) = self.links.poll_transmit(now(), &mut bytes) {
                self.socket.send_to(&bytes, to).unwrap();
            }
            let reply = self.receive();
            while self.links.poll_event().is_some() {}
            if let Some(said) = done(self, reply) {
                return Some(said);
            }
        }
        None
    }

    /// The next reply, if one comes soon.
    fn receive(&mut self) -> Option<(CircuitWord, Cell)> {
        let mut bytes = [0; PACKET];
        let (length, from) = self.socket.recv_from(&mut bytes).ok()?;
        assert_eq!((length, from), (PACKET, self.victim.address));
        match self.links.open(now(), from, Packet::received(&mut bytes)) {
            Ok(Arrival::Circuit { mut packet, .. }) if packet.word().kind() == Some(PacketType::Reply) => {
                Some((packet.word(), *packet.cell()))
            }
            _ => None,
        }
    }
}

impl Setup {
    fn read(&self, reply: &Cell) -> Answer {
        match self.sent.open_reply(reply).unwrap() {
            Outcome::Ready(_) => Answer::Stands,
            Outcome::Refused { status, .. } => Answer::Refused(status),
        }
    }
}
