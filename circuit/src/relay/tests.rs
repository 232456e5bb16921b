use super::*;
use crate::aead::Suite;
use crate::cell;
use crate::origin::{Action as OriginAction, Answered, Origin};
use crate::setup::{PathHop, Purpose, Terms};
use rand_core::SeedableRng as _;

mod attacks;
mod fares;

const UNIX: u64 = 1_800_000_000;
const MS: u64 = 1000;

/// A chain of relays with an origin before them: link `i` is the one in front of relay `i`.
struct Chain {
    now: Now,
    origin: Origin,
    relays: Vec<Relay>,
    onions: Vec<DhSecret>,
    /// Persisted tags, relay by relay.
    logs: Vec<Vec<LogEntry>>,
    answered: Vec<Answered>,
    extend: bool,
    paid: Option<fares::Paid>,
}

fn id(relay: usize) -> RelayId {
    RelayId([u8::try_from(relay + 1).unwrap(); 32])
}

fn link(relay: usize) -> LinkId {
    LinkId::sample(u32::try_from(relay).unwrap())
}

fn epoch(now: Now) -> u32 {
    u32::try_from(now.unix() / EPOCH_SECONDS).unwrap()
}

fn rng(seed: u64) -> Random {
    Random::seed_from_u64(seed)
}

#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: UNIX * MS }
}

fn config(relay: usize) -> RelayConfig {
    RelayConfig { exit: true, single_hop: true, ..RelayConfig::new(id(relay)) }
}

fn onion(relay: usize) -> DhSecret {
    DhSecret::random(&mut rng(100 + relay as u64))
}

fn relay(number: usize, now: Now, seen: SeenSetups) -> Relay {
    let keys = BTreeMap::from([(epoch(now), onion(number))]);
    Relay::new(config(number), keys, seen, rng(200 + number as u64))
}

fn chain(hops: usize) -> Chain {
    let now = start();
    Chain {
        now,
        origin: Origin::new(1000, rng(1)),
        relays: (0..hops).map(|n| relay(n, now, SeenSetups::restored([]))).collect(),
        onions: (0..hops).map(onion).collect(),
        logs: vec![vec![]; hops],
        answered: vec![],
        extend: true,
        paid: None,
    }
}

fn from(relay: usize) -> From {
    // The opener bit of the side in front is 0.
    From {
        link: link(relay),
        peer: relay.checked_sub(1).map(id),
        source: [192, 0, 2, 1].into(),
        our_opener: true,
        account: None,
    }
}

impl Chain {
    fn path(&self) -> Vec<PathHop> {
        (0..self.relays.len())
            .map(|n| PathHop {
                id: id(n),
                onion: self.onions[n].public(),
                epoch: epoch(self.now),
                suite: Suite::Aegis128L,
                terms: self.paid.as_ref().map_or_else(Terms::default, |paid| paid.terms[n]),
            })
            .collect()
    }

    fn from(&self, relay: usize) -> From {
        From { account: self.paid.as_ref().map(|paid| paid.payers[relay]), ..from(relay) }
    }

    fn purpose(&self) -> Purpose<'static> {
        let expiry = u32::try_from(self.now.unix() + 3600).unwrap();
        Purpose { expiry, minute: u32::try_from(self.now.unix() / 60).unwrap(), exit: true, early: b"" }
    }

    fn build(&mut self) -> CircuitKey {
        let key = self
            .origin
            .build(link(0), false, &self.path(), self.purpose(), self.paid.as_ref().map(|p| p.own))
            .unwrap();
        self.settle();
        key
    }

    /// Carries control packets until nothing more moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            while let Some(action) = self.origin.poll_action() {
                moved = true;
                if let OriginAction::Send(to, word, cell) = action {
                    self.send_forward(to, word, &cell);
                }
            }
            for n in 0..self.relays.len() {
                while let Some(action) = self.relays[n].poll_action() {
                    moved = true;
                    self.act(n, action);
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        match action {
            Action::Log(entry) => self.logs[n].push(entry),
            Action::Send(to, word, cell) if to == link(n) => self.deliver_backward(n, word, &cell),
            Action::Send(to, word, cell) => self.send_forward(to, word, &cell),
            Action::Extend(key, next) => {
                if self.extend {
                    assert_eq!(next, id(n + 1));
                    let payee = self.paid.as_ref().map(|paid| paid.payees[n]);
                    self.relays[n].onward(key, link(n + 1), false, payee);
                }
            }
            Action::Grant(to, word, cells) => {
                let next = (0..self.relays.len()).find(|n| link(*n) == to).unwrap();
                self.relays[next].handle_grant(to, word, cells).unwrap();
            }
            Action::Hold(_) | Action::Release(_) | Action::Ended(_) | Action::Granted(_) => {}
        }
    }

    fn send_forward(&mut self, to: LinkId, word: CircuitWord, cell: &Cell) {
        let got = self.deliver_forward(to, word, cell);
        // A relay that has refused hears of the end too.
        let late = word.kind() == Some(PacketType::Destroy) && got == Err(DropReason::UnknownCircuit);
        assert!(got.is_ok() || late, "{got:?}");
    }

    fn deliver_forward(&mut self, to: LinkId, word: CircuitWord, cell: &Cell) -> Result<(), DropReason> {
        let n = (0..self.relays.len()).find(|n| link(*n) == to).unwrap();
        match word.kind().unwrap() {
            PacketType::Setup => {
                let from = self.from(n);
                self.relays[n].handle_setup(self.now, from, word, cell)
            }
            PacketType::Destroy => self.relays[n].handle_destroy(self.now, to, word),
            kind => panic!("forward {kind:?}"),
        }
    }

    /// A packet that relay `n` sent towards the origin.
    fn deliver_backward(&mut self, n: usize, word: CircuitWord, cell: &Cell) {
        match (n.checked_sub(1), word.kind().unwrap()) {
            (Some(before), PacketType::Reply) => {
                self.relays[before].handle_reply(self.now, link(n), word, cell).unwrap();
            }
            (Some(before), PacketType::Destroy) => {
                let _ = self.relays[before].handle_destroy(self.now, link(n), word);
            }
            (None, PacketType::Reply) => {
                let (_, answered) = self.origin.handle_reply(self.now, link(n), word, cell).unwrap();
                self.answered.push(answered);
            }
            (None, PacketType::Destroy) => drop(self.origin.handle_destroy(self.now, link(n), word)),
            (_, kind) => panic!("backward {kind:?}"),
        }
    }

    fn pass(&mut self, after: Duration) {
        self.now.instant += after;
        self.now.unix_ms += u64::try_from(after.as_millis()).unwrap();
        for relay in &mut self.relays {
            relay.handle_timeout(self.now);
        }
        self.settle();
    }

    fn cell_forward(&mut self, key: CircuitKey, last: usize) -> Cell {
        let mut cell = [0; crate::packet::CELL];
        cell::body(&mut cell).fill(9);
        let (mut to, mut word) = self.origin.seal(key, last, &mut cell).unwrap();
        for n in 0..=last {
            assert_eq!(to, link(n));
            match self.relays[n].handle_cell(self.now.instant, to, word, &mut cell).unwrap() {
                CellStep::Pass(next, next_word) => (to, word) = (next, next_word),
                CellStep::Here(_) => assert_eq!(n, last),
            }
        }
        cell
    }

    fn circuits(&self) -> Vec<(usize, usize)> {
        self.relays.iter().map(Relay::circuits).collect()
    }
}

#[test]
fn a_setup_reaches_every_hop_and_cells_pass_both_ways() {
    for hops in 1..=5 {
        let mut c = chain(hops);
        let key = c.build();
        assert_eq!(c.answered, [Answered::Ready]);
        assert_eq!(c.circuits(), vec![(1, 0); hops]);
        for last in 0..hops {
            assert_eq!(cell::body(&mut c.cell_forward(key, last)), &[9; cell::BODY]);
        }
        // Backward from the last hop.
        let exit = c.relays[hops - 1].snapshot()[0];
        assert!(exit.open && exit.ends_here);
        let mut cell = [0; crate::packet::CELL];
        cell::body(&mut cell).fill(7);
        let (mut to, mut word) = c.relays[hops - 1].start(exit.key, &mut cell).unwrap();
        for n in (0..hops - 1).rev() {
            let step = c.relays[n].handle_cell(c.now.instant, to, word, &mut cell).unwrap();
            let CellStep::Pass(next, next_word) = step else { panic!("{step:?}") };
            (to, word) = (next, next_word);
        }
        let opened = c.origin.handle_cell(c.now.instant, to, word, &mut cell).unwrap();
        assert_eq!(opened, (key, hops - 1));
        assert_eq!(cell::body(&mut cell), &[7; cell::BODY]);
    }
}

#[test]
fn a_setup_is_answered_once_also_after_a_restart() {
    // circuit.setup.4, circuit.setup.6
    let mut c = chain(1);
    let key = c.origin.build(link(0), false, &c.path(), c.purpose(), None).unwrap();
    let mut setup = None;
    while let Some(action) = c.origin.poll_action() {
        if let OriginAction::Send(_, word, cell) = action {
            setup = Some((word, cell));
        }
    }
    let (word, cell) = setup.unwrap();
    assert!(c.relays[0].handle_setup(c.now, from(0), word, &cell).is_ok());
    let log: Vec<_> = std::iter::from_fn(|| c.relays[0].poll_action())
        .filter_map(|action| match action {
            Action::Log(entry) => Some(entry),
            _ => None,
        })
        .collect();
    assert_eq!(log.len(), 1);
    let again = CircuitWord::new(PacketType::Setup, false, word.id() ^ 1).with_parity(word.parity());
    assert_eq!(c.relays[0].handle_setup(c.now, from(0), again, &cell), Err(DropReason::BadSetup));
    assert!(c.relays[0].poll_action().is_none(), "a replay is not answered");
    // The same relay again, with its log.
    let mut restarted = relay(0, c.now, SeenSetups::restored(log));
    assert_eq!(restarted.handle_setup(c.now, from(0), word, &cell), Err(DropReason::BadSetup));
    assert!(restarted.poll_action().is_none());
    // Without it, it refuses and makes no circuit.
    let mut forgetful = relay(0, c.now, SeenSetups::lost(u32::try_from(c.now.unix() / 60).unwrap()));
    assert_eq!(forgetful.handle_setup(c.now, from(0), word, &cell), Ok(()));
    assert_eq!(forgetful.circuits(), (0, 0));
    let Some(Action::Send(_, word, reply)) = forgetful.poll_action() else { panic!("no answer") };
    let answered = c.origin.handle_reply(c.now, link(0), word, &reply).unwrap();
    assert_eq!(answered, (key, Answered::Refused(0, Status::Busy)));
}

#[test]
fn a_reply_is_taken_once() {
    // circuit.reply.1, circuit.setup.7: the answer and the ephemeral secrets are used up.
    let mut c = chain(2);
    c.origin.build(link(0), false, &c.path(), c.purpose(), None).unwrap();
    let mut replies = vec![];
    loop {
        while let Some(action) = c.origin.poll_action() {
            if let OriginAction::Send(to, word, cell) = action {
                c.deliver_forward(to, word, &cell).unwrap();
            }
        }
        let action =
            c.relays[1].poll_action().map(|a| (1, a)).or_else(|| c.relays[0].poll_action().map(|a| (0, a)));
        let Some((n, action)) = action else { break };
        if let Action::Send(_, word, cell) = &action
            && word.kind() == Some(PacketType::Reply)
        {
            replies.push((n, *word, cell.clone()));
        }
        c.act(n, action);
    }
    assert_eq!((c.answered.len(), replies.len()), (1, 2));
    for (n, word, cell) in replies {
        let again = match n {
            0 => c.origin.handle_reply(c.now, link(0), word, &cell).map(|_| ()),
            _ => c.relays[0].handle_reply(c.now, link(1), word, &cell),
        };
        assert_eq!(again, Err(DropReason::Misbehaved));
    }
}

#[test]
fn names_that_no_honest_neighbour_chooses_are_refused() {
    let mut c = chain(2);
    let key = c.build();
    let used = {
        let (to, word) = c.origin.seal(key, 0, &mut [0; crate::packet::CELL]).unwrap();
        assert_eq!(to, link(0));
        word.with_kind(PacketType::Setup)
    };
    let ours = CircuitWord::new(PacketType::Setup, true, 5);
    let zero = CircuitWord::new(PacketType::Setup, false, 0);
    for word in [used, ours, zero] {
        let refused = c.relays[0].handle_setup(c.now, from(0), word, &[0; crate::packet::CELL]);
        assert_eq!(refused, Err(DropReason::Misbehaved));
    }
}

#[test]
fn refusals_reach_the_client_from_any_hop() {
    // circuit.reply.2, circuit.exit.3
    for (hops, at) in [(1, 0), (3, 2), (3, 1), (5, 4)] {
        let mut c = chain(hops);
        if at + 1 == hops {
            c.relays[at] = Relay::new(
                RelayConfig { exit: false, ..config(at) },
                BTreeMap::from([(epoch(c.now), onion(at))]),
                SeenSetups::restored([]),
                rng(9),
            );
            c.build();
            assert_eq!(c.answered, [Answered::Refused(at, Status::Policy)]);
        } else {
            c.extend = false;
            c.build();
            // Nobody extends: the relay gives up after 10 s. The first one is reached first.
            c.pass(HALF_OPEN);
            assert_eq!(c.answered, [Answered::Refused(0, Status::Unreachable)]);
        }
        assert!(c.circuits().iter().all(|(_, half_open)| *half_open == 0));
        assert!(c.origin.is_empty());
    }
}

#[test]
fn an_exit_serves_clients_directly_only_if_it_is_allowed() {
    // circuit.exit.3
    let mut c = chain(1);
    c.relays[0] = Relay::new(
        RelayConfig { single_hop: false, ..config(0) },
        BTreeMap::from([(epoch(c.now), onion(0))]),
        SeenSetups::restored([]),
        rng(9),
    );
    c.build();
    assert_eq!(c.answered, [Answered::Refused(0, Status::Policy)]);
}

#[test]
fn a_setup_from_another_time_is_refused() {
    // circuit.setup.3
    for (minutes, accepted) in [(-5, true), (-6, false), (1, true), (2, false)] {
        let mut c = chain(1);
        let minute = i64::try_from(c.now.unix() / 60).unwrap() + minutes;
        let purpose = Purpose { minute: u32::try_from(minute).unwrap(), ..c.purpose() };
        c.origin.build(link(0), false, &c.path(), purpose, None).unwrap();
        c.settle();
        let expected = if accepted { Answered::Ready } else { Answered::Refused(0, Status::Expired) };
        assert_eq!(c.answered, [expected], "{minutes} minutes");
    }
    for (life, accepted) in [(1, true), (0, false), (24 * 3600, true), (24 * 3600 + 1, false)] {
        let mut c = chain(1);
        let purpose = Purpose { expiry: u32::try_from(c.now.unix() + life).unwrap(), ..c.purpose() };
        c.origin.build(link(0), false, &c.path(), purpose, None).unwrap();
        c.settle();
        assert_eq!(c.answered == [Answered::Ready], accepted, "{life} s of life");
    }
}

#[test]
fn an_epochs_key_serves_five_minutes_longer_and_is_erased() {
    // circuit.setup.9
    let mut c = chain(1);
    let end = (u64::from(epoch(c.now)) + 1) * EPOCH_SECONDS;
    let path = c.path();
    c.pass(Duration::from_secs(end + EPOCH_SLACK - 1 - c.now.unix()));
    let purpose = c.purpose();
    c.origin.build(link(0), false, &path, purpose, None).unwrap();
    c.settle();
    assert_eq!(c.answered, [Answered::Ready]);
    c.pass(Duration::from_secs(2));
    assert_eq!(c.relays[0].epochs().count(), 0);
    let (word, cell) = (CircuitWord::new(PacketType::Setup, false, 77), [0; crate::packet::CELL]);
    assert_eq!(c.relays[0].handle_setup(c.now, from(0), word, &cell), Err(DropReason::BadSetup));
}

#[test]
fn a_relay_that_drains_is_busy_for_setups_and_goes_on_with_its_circuits() {
    // operate.drain.1
    let mut c = chain(2);
    let key = c.build();
    c.answered.clear();
    c.relays[1].set_draining(true);
    c.build();
    assert_eq!(c.answered, [Answered::Refused(1, Status::Busy)]);
    c.cell_forward(key, 1);
    c.answered.clear();
    c.relays[1].set_draining(false);
    c.build();
    assert_eq!(c.answered, [Answered::Ready]);
    let now = c.now;
    c.relays[1].close_all(now);
    c.settle();
    assert_eq!(c.relays[1].circuits(), (0, 0));
}

#[test]
fn new_onion_keys_serve_at_once_and_old_ones_no_more() {
    let mut c = chain(1);
    let now = epoch(c.now);
    let new = DhSecret::random(&mut rng(900));
    c.relays[0].set_onion_keys(BTreeMap::from([(now, new.clone()), (now + 1, onion(0))]));
    assert!(c.relays[0].epochs().eq([now, now + 1]));
    let path = c.path();
    let (link, purpose) = (link(0), c.purpose());
    c.origin.build(link, false, &path, purpose, None).unwrap();
    let setup = std::iter::from_fn(|| c.origin.poll_action()).find_map(|action| match action {
        OriginAction::Send(to, word, cell) => Some((to, word, cell)),
        _ => None,
    });
    let (to, word, cell) = setup.unwrap();
    assert_eq!(c.deliver_forward(to, word, &cell), Err(DropReason::BadSetup));
    c.onions[0] = new;
    c.build();
    assert_eq!(c.answered, [Answered::Ready]);
}

#[test]
fn the_end_of_a_circuit_travels_both_ways_within_two_seconds() {
    // circuit.destroy.1
    let mut c = chain(4);
    let key = c.build();
    c.origin.close(c.now, key);
    c.settle();
    assert_eq!(c.circuits(), [(0, 0), (1, 0), (1, 0), (1, 0)]);
    for _ in 0..3 {
        c.pass(Duration::from_secs(2));
    }
    assert_eq!(c.circuits(), vec![(0, 0); 4]);

    let mut c = chain(4);
    c.build();
    let middle = c.relays[2].snapshot()[0].key;
    c.relays[2].close(c.now, middle);
    for _ in 0..4 {
        c.pass(Duration::from_secs(2));
    }
    assert_eq!(c.circuits(), vec![(0, 0); 4]);
    assert!(c.origin.is_empty());
}

#[test]
fn a_lost_link_ends_its_circuits() {
    let mut c = chain(3);
    c.build();
    c.relays[1].handle_link_lost(c.now, link(2));
    for _ in 0..3 {
        c.pass(Duration::from_secs(2));
    }
    assert_eq!(c.circuits()[..2], [(0, 0), (0, 0)]);
    assert!(c.origin.is_empty());
}

#[test]
fn a_cell_with_a_flipped_bit_ends_the_circuit() {
    // circuit.cell.1
    let mut c = chain(3);
    let key = c.build();
    let mut cell = [0; crate::packet::CELL];
    let (to, word) = c.origin.seal(key, 2, &mut cell).unwrap();
    cell[700] ^= 1;
    assert_eq!(c.relays[0].handle_cell(c.now.instant, to, word, &mut cell), Err(DropReason::BadLayer));
    for _ in 0..3 {
        c.pass(Duration::from_secs(2));
    }
    assert_eq!(c.circuits(), vec![(0, 0); 3]);
    assert!(c.origin.is_empty());
}

// circuit.setup.1
#[test]
fn setups_are_limited_per_prefix_of_clients_and_per_relay() {
    let mut c = chain(1);
    let slow = RelayConfig { client_setups: (10, 2), relay_setups: (10, 4), ..config(0) };
    c.relays[0] =
        Relay::new(slow, BTreeMap::from([(epoch(c.now), onion(0))]), SeenSetups::restored([]), rng(9));
    let mut ask = |n: u32, from: From| {
        let word = CircuitWord::new(PacketType::Setup, false, n);
        c.relays[0].handle_setup(c.now, from, word, &[1; crate::packet::CELL]).unwrap_err()
    };
    let client = |over: usize, source: [u8; 4]| From { link: link(over), peer: None, ..from_at(source) };
    let (bad, full) = (DropReason::BadSetup, DropReason::Limit);
    // Two links of one prefix share what it has; another prefix has its own.
    assert_eq!([1, 2].map(|n| ask(n, client(7, [192, 0, 2, 1]))), [bad; 2]);
    assert_eq!([3, 4].map(|n| ask(n, client(8, [192, 0, 2, 200]))), [full; 2]);
    assert_eq!([5, 6, 7].map(|n| ask(n, client(9, [192, 0, 3, 1]))), [bad, bad, full]);
    // A relay has a bucket of its own, wherever it is.
    let relay = From { link: link(10), peer: Some(id(3)), ..from_at([192, 0, 2, 1]) };
    assert_eq!([8, 9, 10, 11, 12].map(|n| ask(n, relay)), [bad, bad, bad, bad, full]);
}

fn from_at(source: [u8; 4]) -> From {
    From { source: source.into(), ..from(0) }
}

#[test]
fn limits_hold_and_make_room_by_age() {
    // circuit.table.1, circuit.setup.1
    let mut c = chain(2);
    c.extend = false;
    let small = RelayConfig { circuits: 8, per_neighbour: 100, half_open: 6, ..config(0) };
    c.relays[0] =
        Relay::new(small, BTreeMap::from([(epoch(c.now), onion(0))]), SeenSetups::restored([]), rng(9));
    for _ in 0..7 {
        c.build();
    }
    assert_eq!(c.answered, [Answered::Refused(0, Status::Busy)], "the seventh half-open one");
    assert_eq!(c.relays[0].circuits(), (0, 6));

    let mut c = chain(1);
    let small = RelayConfig { circuits: 100, per_neighbour: 3, ..config(0) };
    c.relays[0] =
        Relay::new(small, BTreeMap::from([(epoch(c.now), onion(0))]), SeenSetups::restored([]), rng(9));
    for _ in 0..4 {
        c.build();
    }
    assert_eq!(c.answered.iter().filter(|a| **a == Answered::Ready).count(), 3);

    let mut c = chain(2);
    c.extend = false;
    let small = RelayConfig { circuits: 4, ..config(0) };
    c.relays[0] =
        Relay::new(small, BTreeMap::from([(epoch(c.now), onion(0))]), SeenSetups::restored([]), rng(9));
    for _ in 0..6 {
        c.build();
    }
    assert_eq!(c.relays[0].circuits(), (0, 4));
    assert_eq!(c.answered, [Answered::Refused(0, Status::Busy); 2], "the oldest made room");

    let mut c = chain(1);
    let slow = RelayConfig { client_setups: (10, 2), ..config(0) };
    c.relays[0] =
        Relay::new(slow, BTreeMap::from([(epoch(c.now), onion(0))]), SeenSetups::restored([]), rng(9));
    let word = |n| CircuitWord::new(PacketType::Setup, false, n);
    let garbage = [1; crate::packet::CELL];
    let outcomes: Vec<_> =
        (1..4).map(|n| c.relays[0].handle_setup(c.now, from(0), word(n), &garbage).unwrap_err()).collect();
    assert_eq!(outcomes, [DropReason::BadSetup, DropReason::BadSetup, DropReason::Limit]);
}

#[test]
fn an_open_circuit_takes_less_than_two_kilobytes() {
    let mut c = chain(2);
    c.build();
    for relay in &c.relays {
        let info = relay.snapshot()[0];
        assert!(info.memory < 2048, "{} bytes", info.memory);
    }
}
