//! What metering adds to a relay's whole work on a cell: `cargo bench -p router --no-default-features --bench pipe`.
//!
//! Runs itself below valgrind's callgrind, once on a free and once on a paid network, and prints the instructions that a
//! forward cell costs from its datagram to the next one. With arguments `free N` or `paid N` it only carries N cells.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Instant;

use circuit::aead::Suite;
use circuit::keys::{BootId, DhSecret, IdentitySecret, NetworkId, Random};
use circuit::link::{Arrival, LinkConfig, LinkEvent, LinkId, LinkLimits, Links, Peer, RelayKeys, Suites};
use circuit::node::{Node as _, Now, Verdict};
use circuit::origin::{Action as OriginAction, Origin};
use circuit::packet::{CELL, Cell, CircuitWord, PACKET, Packet, PacketType};
use circuit::relay::{Action, Asks, From, Relay, RelayConfig};
use circuit::seen::SeenSetups;
use circuit::setup::{EPOCH_SECONDS, PathHop, Purpose, Role, Terms};
use circuit::table::CircuitKey;
use directory::chain::Chain;
use directory::descriptor::{Descriptor, SignedDescriptor};
use directory::payment::Payment;
use directory::view::View;
use payments::Address;
use payments::amount::{Rate, Wei};
use payments::frame::Frames;
use payments::offer::Face;
use payments::outgoing::Outgoing;
use payments::session::{Domain, Signer};
use payments::till::{PayerAccount, Till, TillLimits};
use payments::wallet::{Pot, Wallet, WalletLimits};
use rand_core::SeedableRng as _;
use router::cashier::{Cashier, CashierConfig};
use router::node::{Config, Keys, RelayNode};

const UNIX: u64 = 1_800_000_000;
const NETWORK: NetworkId = NetworkId([1; 16]);
const DOMAIN: Domain = Domain { chain_id: 1, contract: Address::repeat_byte(7) };
const ASK: u64 = 1_000;
/// What metering may add, in per cent.
const GOAL: f64 = 3.0;
/// The cells of the shorter and the longer run: what both do besides does not count.
const CELLS: [u32; 2] = [2_000, 12_000];

#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: UNIX * 1000 }
}

fn address(n: u8) -> SocketAddr {
    ([192, 0, 2, n], 4433).into()
}

fn secret(n: u8) -> DhSecret {
    DhSecret::from_bytes([n; 32])
}

fn epoch() -> u32 {
    u32::try_from(UNIX / EPOCH_SECONDS).unwrap_or_default()
}

fn signer(n: u8) -> Signer {
    Signer::from_bytes([n; 32]).expect("a secret key")
}

fn keys(n: u8) -> Keys {
    Keys {
        identity: IdentitySecret::from_bytes(&[n; 32]),
        link: secret(0x20 + n),
        onion: BTreeMap::from([(epoch(), secret(0x40 + n))]),
    }
}

/// Relays 1, which is measured, and 2, behind it.
fn view(paid: bool) -> View {
    let mut view = View::new(NETWORK);
    if paid {
        let (id, contract) = (DOMAIN.chain_id, DOMAIN.contract);
        view = view.with_chain(Chain {
            id,
            contract,
            rpc: vec![],
            minimum_bond: Wei(1),
            exit_operators: 1,
            deployed: 0,
        });
    }
    for n in [1, 2] {
        let keys = keys(n);
        let payment = Payment {
            chain_id: DOMAIN.chain_id,
            contract: DOMAIN.contract,
            owner: signer(n).address(),
            ask: Rate(ASK),
            exit_ask: Rate(0),
        };
        let descriptor = Descriptor {
            id: keys.identity.id(),
            network: NETWORK,
            sequence: 1,
            issued: UNIX - 50,
            expires: UNIX + 600,
            link_key: keys.link.public(),
            first_epoch: epoch(),
            onion_keys: keys.onion.values().map(DhSecret::public).collect(),
            addresses: vec![address(n)],
            exit: None,
            country: None,
            operator: String::new(),
            version: String::new(),
            bandwidth: 0,
            gossip_port: 0,
            payment: Some(payment).filter(|_| paid),
        };
        let signed = SignedDescriptor::sign(descriptor, &keys.identity).expect("a good descriptor");
        view.insert(signed).expect("a relay of its own");
    }
    view
}

fn wallet(n: u8) -> Wallet {
    let limits = WalletLimits {
        redemption_cost: Wei(1 << 60),
        max_open: 2,
        value: Wei(384 * u128::from(ASK)),
        max_value: Wei(1 << 60),
    };
    let mut wallet = Wallet::new(DOMAIN, signer(n).address(), signer(n), [n; 32], limits);
    let pot = Pot { balance: Wei(1 << 90), reserve: Wei(1 << 90), unlocking: false, only_payee: None };
    wallet.on_account(UNIX, Some(pot));
    wallet
}

fn node(paid: bool) -> RelayNode {
    let limits = TillLimits { face: Face::Draws(1_000), min_value: Wei(1), draws: 64, max_payers: 10 };
    let till = Till::new(DOMAIN, signer(1).address(), [1; 32], [2; 32], limits);
    let cashier = CashierConfig { owner: signer(1).address(), wallet: wallet(1), till, meters: vec![] };
    let config = Config {
        keys: keys(1),
        network: NETWORK,
        view: view(paid),
        exit: None,
        allow_single_hop: false,
        seen: SeenSetups::restored([]),
        payments: paid.then_some((Asks { forward: ASK, exit: ASK }, cashier)),
    };
    RelayNode::new(config, [1; 32])
}

/// The client before the relay, or the relay behind it.
struct Neighbour {
    links: Links,
    address: SocketAddr,
    up: Option<LinkId>,
}

impl Neighbour {
    fn new(relay: Option<RelayKeys>, address: SocketAddr) -> Self {
        let (suites, limits) = (Suites::default(), LinkLimits::default());
        let config = LinkConfig { network: NETWORK, relay, boot: BootId(1), suites, limits };
        let mut links = Links::new(config, [3; 32]);
        links.set_relays([1, 2].map(|n| (keys(n).link.public(), keys(n).identity.id())));
        Self { links, address, up: None }
    }

    fn seal(&mut self, now: Now, link: LinkId, word: CircuitWord, cell: &Cell) -> Box<[u8; PACKET]> {
        let mut bytes = Box::new([0; PACKET]);
        let mut packet = Packet::blank(&mut bytes);
        packet.set_word(word);
        *packet.cell() = *cell;
        self.links.seal(now, link, packet).expect("the link stands");
        bytes
    }
}

/// A client, the relay, and the relay behind, with one circuit.
struct World {
    now: Now,
    node: RelayNode,
    near: Neighbour,
    far: Neighbour,
    origin: Origin,
    relay: Relay,
    wallet: Option<Wallet>,
    key: Option<CircuitKey>,
}

impl World {
    fn new(paid: bool) -> Self {
        let now = start();
        let Keys { identity, link, onion } = keys(2);
        let relay = RelayConfig { exit: true, ..RelayConfig::new(identity.id()) };
        let mut world = Self {
            now,
            node: node(paid),
            near: Neighbour::new(None, address(9)),
            far: Neighbour::new(Some(RelayKeys { identity, link }), address(2)),
            origin: Origin::new(10, Random::seed_from_u64(9)),
            relay: Relay::new(
                RelayConfig { asks: paid.then_some(Asks { forward: ASK, exit: ASK }), ..relay },
                onion,
                SeenSetups::restored([]),
                Random::seed_from_u64(8),
            ),
            wallet: paid.then(|| wallet(9)),
            key: None,
        };
        let entry = keys(1);
        let peer = Peer { id: entry.identity.id(), link_key: entry.link.public(), address: address(1) };
        world.near.links.dial(now, &peer).expect("a relay may be dialled");
        world.settle();
        if let Some(wallet) = &mut world.wallet {
            wallet.pay(UNIX, signer(1).address(), Wei(u128::from(ASK) * 10_000));
        }
        world.settle();
        world.credit();
        let link = world.near.up.expect("the link stands");
        let purpose = Purpose {
            expiry: u32::try_from(UNIX + 3_600).unwrap_or_default(),
            minute: u32::try_from(UNIX / 60).unwrap_or_default(),
            exit: true,
            early: &[],
        };
        let own = paid.then(|| world.origin.ledger_mut().open());
        let path = path(paid);
        world.key = Some(world.origin.build(link, false, &path, purpose, own).expect("a path"));
        world.settle();
        assert_eq!(world.node.relay().circuits(), (1, 0));
        world
    }

    /// The client has paid for all that is to come.
    fn credit(&mut self) {
        self.node.with_cashier(self.now, |cashier, ledger| {
            let payer = cashier.account_of(signer(9).address()).expect("it has paid");
            ledger.credit(payer, 1 << 100);
        });
    }

    /// Carries packets until nobody has more to say.
    fn settle(&mut self) {
        let mut moving: VecDeque<(SocketAddr, SocketAddr, Box<[u8; PACKET]>)> = VecDeque::new();
        loop {
            self.serve_money(&mut moving);
            self.act(&mut moving);
            let mut out = [0; PACKET];
            while self.node.poll_event().is_some() {}
            while let Some(to) = self.node.poll_transmit(self.now, &mut out) {
                moving.push_back((address(1), to, Box::new(out)));
            }
            let Some((from, to, mut bytes)) = moving.pop_front() else { return };
            let packet = Packet::received(&mut bytes);
            if to == address(1) {
                if let Ok(Verdict::Forward(to)) = self.node.handle_datagram(self.now, from, packet) {
                    moving.push_back((address(1), to, bytes));
                }
                continue;
            }
            let neighbour = if to == self.near.address { &mut self.near } else { &mut self.far };
            match neighbour.links.open(self.now, from, packet) {
                Ok(Arrival::Circuit { link, mut packet }) => {
                    let (word, cell) = (packet.word(), *packet.cell());
                    self.take(to, link, word, &cell);
                }
                Ok(Arrival::Payments { mut packet, .. }) if to == self.near.address => {
                    for frame in Frames::new(packet.cell()).map_while(Result::ok) {
                        if let Some(wallet) = &mut self.wallet {
                            wallet.handle(UNIX, signer(1).address(), &frame).expect("the relay is honest");
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn take(&mut self, to: SocketAddr, link: LinkId, word: CircuitWord, cell: &Cell) {
        if to == self.near.address {
            let _ = self.origin.handle_reply(self.now, link, word, cell);
        } else if word.kind() == Some(PacketType::Setup) {
            let account = self.wallet.is_some().then(|| {
                let account = self.relay.ledger_mut().open();
                self.relay.ledger_mut().credit(account, 1 << 100);
                account
            });
            let links = &self.far.links;
            let from = From {
                link,
                peer: links.peer(link),
                source: links.source(link),
                our_opener: links.our_opener(link),
                account,
            };
            self.relay.handle_setup(self.now, from, word, cell).expect("a good setup");
        }
    }

    /// What the neighbours' own state machines want sent.
    fn act(&mut self, moving: &mut VecDeque<(SocketAddr, SocketAddr, Box<[u8; PACKET]>)>) {
        for neighbour in [&mut self.near, &mut self.far] {
            while let Some(event) = neighbour.links.poll_event() {
                if let LinkEvent::Up { link } = event {
                    neighbour.up = Some(link);
                }
            }
            let mut out = [0; PACKET];
            while let Some(to) = neighbour.links.poll_transmit(self.now, &mut out) {
                moving.push_back((neighbour.address, to, Box::new(out)));
            }
        }
        while let Some(action) = self.origin.poll_action() {
            if let OriginAction::Send(link, word, cell) = action {
                let sealed = self.near.seal(self.now, link, word, &cell);
                moving.push_back((self.near.address, address(1), sealed));
            }
        }
        while let Some(action) = self.relay.poll_action() {
            if let Action::Send(link, word, cell) = action {
                let sealed = self.far.seal(self.now, link, word, &cell);
                moving.push_back((self.far.address, address(1), sealed));
            }
        }
    }

    /// Keeps records at once, finds all pots full, and sends what the client's wallet says.
    fn serve_money(&mut self, moving: &mut VecDeque<(SocketAddr, SocketAddr, Box<[u8; PACKET]>)>) {
        let now = self.now;
        while let Some((book, id, _)) = self.node.cashier_mut().and_then(Cashier::poll_record) {
            self.node.with_cashier(now, |cashier, ledger| cashier.persisted(now, ledger, book, id));
        }
        while let Some(address) = self.node.cashier_mut().and_then(Cashier::poll_lookup) {
            let seen = PayerAccount {
                balance: Wei(1 << 90),
                reserve: Wei(1 << 90),
                unlocking: false,
                signer: address,
                only_payee: None,
                head_stale: false,
                registered: true,
            };
            self.node.with_cashier(now, |cashier, ledger| cashier.seen(now, ledger, address, seen));
        }
        let Some(wallet) = &mut self.wallet else { return };
        while let Some((id, _)) = wallet.poll_record() {
            wallet.persisted(UNIX, id);
        }
        let mut frames = Outgoing::default();
        let mut any = false;
        while let Some((_, frame)) = wallet.poll_frame() {
            frames.push(frame);
            any = true;
        }
        if let Some(link) = self.near.up.filter(|_| any) {
            let mut cell = [0; CELL];
            frames.write(&mut cell);
            let sealed = self.near.seal(now, link, CircuitWord::CONTROL, &cell);
            moving.push_back((self.near.address, address(1), sealed));
        }
    }

    /// Carries `count` cells through the relay.
    fn carry(&mut self, count: u32) {
        let key = self.key.expect("a circuit");
        for _ in 0..count {
            let mut cell = [7; CELL];
            let (link, word) = self.origin.seal(key, 1, &mut cell).expect("the circuit stands");
            let mut bytes = self.near.seal(self.now, link, word, &cell);
            assert!(measured(&mut self.node, self.now, self.near.address, &mut bytes), "it is passed on");
        }
    }
}

fn path(paid: bool) -> [PathHop; 2] {
    let compact = |rate| wire::compact::encode(rate).unwrap_or_default();
    let terms = |role, rate_in, rate_out| {
        let priced = Terms { class: 0, role, rate_in: compact(rate_in), rate_out: compact(rate_out) };
        if paid { priced } else { Terms::default() }
    };
    let hop = |n, terms| {
        let keys = keys(n);
        let onion = keys.onion.values().next().map(DhSecret::public).expect("an onion key");
        PathHop { id: keys.identity.id(), onion, epoch: epoch(), suite: Suite::Aegis128L, terms }
    };
    [hop(1, terms(Role::Forward, 2 * ASK, ASK)), hop(2, terms(Role::Exit, ASK, 0))]
}

/// The relay's work on a datagram; whether it is to be sent on. Not inlined, so that callgrind knows its name.
#[inline(never)]
fn measured(node: &mut RelayNode, now: Now, from: SocketAddr, bytes: &mut [u8; PACKET]) -> bool {
    matches!(node.handle_datagram(now, from, Packet::received(bytes)), Ok(Verdict::Forward(_)))
}

/// The instructions that a run spends in [`measured`], as callgrind counts them.
fn instructions(kind: &str, cells: u32) -> Option<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=pipe::measured*")
        .arg(std::env::current_exe().ok()?)
        .args([kind, &cells.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find(|line| line.contains("Collected"))?;
    line.split_whitespace().last()?.parse().ok()
}

#[expect(clippy::print_stdout, reason = "the result of the benchmark")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [kind, count] = &arguments[..]
        && let Ok(count) = count.parse()
    {
        World::new(kind == "paid").carry(count);
        return;
    }
    let per_cell = |kind| {
        let [few, many] = CELLS.map(|cells| instructions(kind, cells));
        Some((many? - few?) / f64::from(CELLS[1] - CELLS[0]))
    };
    let (Some(free), Some(paid)) = (per_cell("free"), per_cell("paid")) else {
        println!("callgrind gave no count: install valgrind");
        return;
    };
    let more = (paid / free - 1.0) * 100.0;
    println!("{free:.0} instructions per cell free, {paid:.0} paid: {more:.2} % more, goal {GOAL} %");
}
