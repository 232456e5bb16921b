//! What metering adds to a relay's work on a cell: `cargo bench -p circuit --bench meter`.
//!
//! With arguments `free N` or `paid N` it only carries N cells, for a count of instructions:
//! `valgrind --tool=callgrind --toggle-collect='*Relay*handle_cell*' meter-... paid 10000`.

use std::collections::{BTreeMap, VecDeque};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use circuit::aead::Suite;
use circuit::keys::{BootId, DhSecret, NetworkId, Random, RelayId};
use circuit::ledger::AccountId;
use circuit::link::handshake::Suites;
use circuit::link::{LinkConfig, LinkId, LinkLimits, Links, Peer};
use circuit::node::Now;
use circuit::origin::{Action as OriginAction, Origin};
use circuit::packet::{CELL, Cell, CircuitWord, PacketType};
use circuit::relay::{Action, Asks, From, Relay, RelayConfig};
use circuit::seen::SeenSetups;
use circuit::setup::{EPOCH_SECONDS, PathHop, Purpose, Role, Terms};
use circuit::table::CircuitKey;
use rand_core::SeedableRng as _;

const UNIX: u64 = 1_800_000_000;
const CELLS: u64 = 50_000;
const ROUNDS: usize = 9;

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

/// An origin and its entry, with a circuit that goes on to a second relay.
struct Pair {
    now: Now,
    origin: Origin,
    entry: Relay,
    key: CircuitKey,
}

fn links(now: Now) -> [LinkId; 2] {
    let config = LinkConfig {
        network: NetworkId([1; 16]),
        relay: None,
        boot: BootId(1),
        suites: Suites::default(),
        limits: LinkLimits::default(),
    };
    let mut links = Links::new(config, [3; 32]);
    [1, 2].map(|n: u8| {
        let link_key = DhSecret::random(&mut Random::seed_from_u64(n.into())).public();
        let address = SocketAddr::from(([127, 0, 0, n], 1));
        links.dial(now, &Peer { id: RelayId([n; 32]), link_key, address }).expect("a relay may be dialled")
    })
}

fn relay(n: u8, now: Now, asks: Option<Asks>) -> (Relay, DhSecret) {
    let onion = DhSecret::random(&mut Random::seed_from_u64(10 + u64::from(n)));
    let epoch = u32::try_from(now.unix() / EPOCH_SECONDS).expect("a time of these days");
    let config = RelayConfig { exit: true, single_hop: true, asks, ..RelayConfig::new(RelayId([n; 32])) };
    let keys = BTreeMap::from([(epoch, onion.clone())]);
    (Relay::new(config, keys, SeenSetups::restored([]), Random::seed_from_u64(n.into())), onion)
}

impl Pair {
    fn new(paid: bool) -> Self {
        let now = Now { instant: clock(), unix_ms: UNIX * 1000 };
        let asks = paid.then_some(Asks { forward: 1_000, exit: 2_000 });
        let [front, back] = links(now);
        let (mut entry, first) = relay(1, now, asks);
        let (mut exit, second) = relay(2, now, asks);
        let mut origin = Origin::new(10, Random::seed_from_u64(9));
        let compact = |rate| wire::compact::encode(rate).unwrap_or_default();
        let terms = |role, rate_in, rate_out| Terms {
            class: 0,
            role,
            rate_in: compact(rate_in),
            rate_out: compact(rate_out),
        };
        let [terms_entry, terms_exit] = if paid {
            [terms(Role::Forward, 3_000, 2_000), terms(Role::Exit, 2_000, 0)]
        } else {
            [Terms::default(); 2]
        };
        let epoch = u32::try_from(now.unix() / EPOCH_SECONDS).unwrap_or_default();
        let hop = |n, onion: &DhSecret, terms| PathHop {
            id: RelayId([n; 32]),
            onion: onion.public(),
            epoch,
            suite: Suite::Aegis128L,
            terms,
        };
        let path = [hop(1, &first, terms_entry), hop(2, &second, terms_exit)];
        let own = paid.then(|| origin.ledger_mut().open());
        let account = |relay: &mut Relay| {
            let id = relay.ledger_mut().open();
            relay.ledger_mut().credit(id, 1 << 100);
            Some(id).filter(|_| paid)
        };
        let (payer, payee, last) = (account(&mut entry), account(&mut entry), account(&mut exit));
        if let Some(payee) = payee.and_then(|id| entry.ledger_mut().get_mut(id)) {
            payee.due = u128::MAX;
        }
        let purpose = Purpose {
            expiry: u32::try_from(UNIX + 3_600).unwrap_or_default(),
            minute: u32::try_from(UNIX / 60).unwrap_or_default(),
            exit: true,
            early: &[],
        };
        let key = origin.build(front, false, &path, purpose, own).expect("the path is right");
        let mut pair = Self { now, origin, entry, key };
        pair.settle([front, back], &mut exit, [payer, payee, last]);
        assert_eq!(pair.entry.circuits(), (1, 0));
        pair
    }

    /// Carries setup and reply between origin, entry and exit.
    fn settle(
        &mut self,
        [front, back]: [LinkId; 2],
        exit: &mut Relay,
        [payer, payee, last]: [Option<AccountId>; 3],
    ) {
        let now = self.now;
        let from = |link, account| From {
            link,
            peer: None,
            source: IpAddr::V4(Ipv4Addr::LOCALHOST),
            our_opener: true,
            account,
        };
        let mut moving: VecDeque<(usize, CircuitWord, Box<Cell>)> = VecDeque::new();
        loop {
            while let Some(action) = self.origin.poll_action() {
                if let OriginAction::Send(_, word, cell) = action {
                    moving.push_back((1, word, cell));
                }
            }
            while let Some(action) = self.entry.poll_action() {
                match action {
                    Action::Send(link, word, cell) => {
                        moving.push_back((if link == front { 0 } else { 2 }, word, cell));
                    }
                    Action::Extend(key, _) => self.entry.onward(key, back, false, payee),
                    _ => {}
                }
            }
            while let Some(action) = exit.poll_action() {
                if let Action::Send(_, word, cell) = action {
                    moving.push_back((3, word, cell));
                }
            }
            let Some((to, word, cell)) = moving.pop_front() else { break };
            match to {
                0 => drop(self.origin.handle_reply(now, front, word, &cell)),
                1 => self.entry.handle_setup(now, from(front, payer), word, &cell).expect("a good setup"),
                2 => exit.handle_setup(now, from(back, last), word, &cell).expect("a good setup"),
                _ if word.kind() == Some(PacketType::Reply) => {
                    self.entry.handle_reply(now, back, word, &cell).expect("a good reply");
                }
                _ => {}
            }
        }
    }

    /// Carries `count` cells through the entry; nanoseconds for each.
    fn carry(&mut self, count: u64) -> f64 {
        let (mut spent, mut batches) = (0.0, 0.0);
        for _ in 0..count.div_ceil(64) {
            let mut cells: Vec<_> = (0..64)
                .map(|_| {
                    let mut cell = [7; CELL];
                    let (link, word) = self.origin.seal(self.key, 1, &mut cell).expect("the circuit stands");
                    (link, word, cell)
                })
                .collect();
            let start = clock();
            for (link, word, cell) in &mut cells {
                assert!(black_box(self.entry.handle_cell(self.now.instant, *link, *word, cell)).is_ok());
            }
            spent += start.elapsed().as_secs_f64() * 1e9 / 64.0;
            batches += 1.0;
        }
        spent / batches
    }
}

#[expect(clippy::print_stdout, reason = "the result of the benchmark")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [kind, count] = &arguments[..]
        && let Ok(count) = count.parse()
    {
        Pair::new(kind == "paid").carry(count);
        return;
    }
    let mut rounds: Vec<_> =
        (0..ROUNDS).map(|_| [false, true].map(|paid| Pair::new(paid).carry(CELLS))).collect();
    rounds.sort_by(|a, b| (a[1] / a[0]).total_cmp(&(b[1] / b[0])));
    let [free, paid] = rounds[ROUNDS / 2];
    println!(
        "a forward cell at the entry, without its links: {free:.0} ns free, {paid:.0} ns paid, ratio {:.3}",
        paid / free
    );
}
