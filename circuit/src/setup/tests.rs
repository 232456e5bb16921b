use super::reply::{Record, Region};
use super::*;
use proptest::prelude::*;
use rand_core::SeedableRng as _;

struct Net {
    rng: Random,
    relays: Vec<(RelayId, DhSecret)>,
}

fn net(seed: u64, hops: usize) -> Net {
    let mut rng = Random::seed_from_u64(seed);
    let relays = (0..hops)
        .map(|i| (RelayId([u8::try_from(i + 1).unwrap(); 32]), DhSecret::random(&mut rng)))
        .collect();
    Net { rng, relays }
}

const PURPOSE: Purpose<'static> = Purpose { expiry: 3_000_000, minute: 40_000, exit: true, early: b"early" };

impl Net {
    fn path(&self) -> Vec<PathHop> {
        self.relays
            .iter()
            .map(|(id, onion)| PathHop {
                id: *id,
                onion: onion.public(),
                epoch: 7,
                suite: Suite::Aegis128L,
                terms: Terms::default(),
            })
            .collect()
    }

    fn build(&mut self, purpose: Purpose<'_>) -> Result<(SentSetup, Cell), Misuse> {
        let path = self.path();
        build(&mut self.rng, &path, purpose)
    }

    fn receive(&self, hop: usize, cell: &Cell) -> Result<ReceivedSetup, Misbehaved> {
        let (id, onion) = &self.relays[hop];
        receive(*id, onion, 7, cell)
    }

    /// The setups as each hop receives them.
    fn carry(&self, mut cell: Cell) -> Vec<(Cell, ReceivedSetup, Block)> {
        let mut out = vec![];
        for hop in 0..self.relays.len() {
            let received = self.receive(hop, &cell).unwrap();
            let block = received.block().unwrap();
            let onward = received.onward(&block);
            out.push((cell, received, block));
            cell = onward;
        }
        out
    }

    /// The reply as it leaves each hop, exit first, and every hop's keys, entry first.
    fn reply(&mut self, setups: Vec<(Cell, ReceivedSetup, Block)>) -> (Vec<Cell>, Vec<HopKeys>) {
        let (mut cells, mut keys) = (vec![], vec![]);
        for (_, received, block) in setups.into_iter().rev() {
            let answer = received.into_answer();
            let (hop_keys, cell) = match cells.last() {
                None => answer.finish(&mut self.rng, &block).unwrap(),
                Some(reply) => answer.pass(&mut self.rng, &block, reply).unwrap(),
            };
            cells.push(cell);
            keys.push(hop_keys);
        }
        keys.reverse();
        (cells, keys)
    }
}

fn same(a: &HopKeys, b: &HopKeys) -> bool {
    a.suite == b.suite && a.forward == b.forward && a.backward == b.backward
}

#[test]
fn one_pass_sets_up_one_to_five_hops() {
    for hops in 1..=5 {
        let mut n = net(1, hops);
        let (sent, cell) = n.build(PURPOSE).unwrap();
        let setups = n.carry(cell);
        for (hop, (_, received, block)) in setups.iter().enumerate() {
            let last = hop + 1 == hops;
            assert_eq!((block.terminal, block.exit, received.minute()), (last, last, 40_000));
            assert_eq!(received.early().is_ok(), last);
        }
        assert_eq!(setups[hops - 1].1.early().unwrap(), b"early");
        let (replies, keys) = n.reply(setups);
        let Outcome::Ready(ours) = sent.open_reply(replies.last().unwrap()).unwrap() else {
            panic!("refused")
        };
        assert_eq!(ours.len(), hops);
        assert!(ours.iter().zip(&keys).all(|(a, b)| same(a, b)));
    }
}

#[test]
fn any_hop_may_refuse() {
    // circuit.reply.2
    for hops in 1..=5 {
        for refusing in 0..hops {
            let mut n = net(2, hops);
            let (sent, cell) = n.build(PURPOSE).unwrap();
            let mut setups = n.carry(cell);
            setups.truncate(refusing + 1);
            let (_, received, _) = setups.pop().unwrap();
            let mut reply = received.into_answer().refuse(&mut n.rng, Status::Busy);
            for (_, received, block) in setups.into_iter().rev() {
                (_, reply) = received.into_answer().pass(&mut n.rng, &block, &reply).unwrap();
            }
            match sent.open_reply(&reply).unwrap() {
                Outcome::Refused { hop, status } => assert_eq!((hop, status), (refusing, Status::Busy)),
                Outcome::Ready(_) => panic!("ready"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_flipped_bit_of_a_setup_is_refused(seed: u64, hops in 1usize..=5, at in 0usize..5, byte in 0..CELL, bit in 0u8..8) {
        // circuit.setup.2
        let mut n = net(seed, hops);
        let (_, cell) = n.build(PURPOSE).unwrap();
        let at = at % hops;
        let mut cell = n.carry(cell)[at].0;
        cell[byte] ^= 1 << bit;
        // X25519 ignores the highest bit of a key; the MAC does not.
        prop_assert!(n.receive(at, &cell).is_err());
    }

    #[test]
    fn a_flipped_bit_of_a_reply_is_refused(seed: u64, hops in 1usize..=5, at in 0usize..5, byte in 0..REGION_SIZE, bit in 0u8..8) {
        // circuit.reply.3
        let mut n = net(seed, hops);
        let (sent, cell) = n.build(PURPOSE).unwrap();
        let mut setups = n.carry(cell);
        let at = at % hops;
        let near = setups.drain(..at).collect::<Vec<_>>();
        let (replies, _) = n.reply(setups);
        let mut reply = *replies.last().unwrap();
        reply[byte] ^= 1 << bit;
        for (_, received, block) in near.into_iter().rev() {
            (_, reply) = received.into_answer().pass(&mut n.rng, &block, &reply).unwrap();
        }
        // Only what the next hop drops is not missed; what later hops drop the client recomputes.
        let fell = at > 0 && byte >= REGION_SIZE - 96;
        prop_assert_eq!(sent.open_reply(&reply).is_err(), !fell);
    }
}
const REGION_SIZE: usize = 480;

#[test]
fn a_setup_is_for_one_relay_and_epoch_only() {
    let mut n = net(3, 3);
    let (_, cell) = n.build(PURPOSE).unwrap();
    assert!(n.receive(1, &cell).is_err());
    let (id, onion) = &n.relays[0];
    assert!(receive(*id, onion, 8, &cell).is_err());
    assert!(receive(RelayId([9; 32]), onion, 7, &cell).is_err());
}

#[test]
fn bad_paths_are_misuse() {
    // circuit.setup.8
    let mut n = net(4, 3);
    assert!(build(&mut n.rng, &[], PURPOSE).is_err());
    let mut twice = n.path();
    twice[2] = twice[0];
    assert!(build(&mut n.rng, &twice, PURPOSE).is_err());
    let six = net(4, 6).path();
    assert!(build(&mut n.rng, &six, PURPOSE).is_err());
    let early = [0; MAX_EARLY + 1];
    assert!(n.build(Purpose { early: &early, ..PURPOSE }).is_err());
    assert!(n.build(Purpose { early: &early[1..], ..PURPOSE }).is_ok());
}

#[test]
fn a_reply_of_another_setup_or_from_the_middle_is_refused() {
    let mut n = net(5, 3);
    let (sent, cell) = n.build(PURPOSE).unwrap();
    let (_, other) = n.build(PURPOSE).unwrap();
    let other = n.carry(other);
    let (replies, _) = n.reply(other);
    assert!(sent.open_reply(replies.last().unwrap()).is_err());
    // A middle hop that answers OK as if it were the last: the client wants three sets of keys.
    let mut setups = n.carry(cell);
    setups.pop();
    let (replies, _) = n.reply(setups);
    assert!(sent.open_reply(replies.last().unwrap()).is_err());
}

#[test]
fn blocks_with_a_changed_byte_are_malformed_or_different() {
    // circuit.setup.5
    let mut n = net(6, 2);
    let (_, cell) = n.build(PURPOSE).unwrap();
    for (_, received, block) in n.carry(cell) {
        let bytes = block.write();
        assert_eq!(bytes, received.block);
        for i in 0..BLOCK {
            let mut changed = bytes;
            changed[i] ^= 0x40;
            assert_ne!(Block::read(&changed).ok(), Some(block), "byte {i}");
        }
        for i in [0, 1, 2, 3, 40, 59, 60, 123, 126, 127, 136] {
            let mut changed = bytes;
            changed[i] ^= 0x40;
            assert!(Block::read(&changed).is_err(), "byte {i}");
        }
    }
}

#[test]
fn a_record_with_a_counter_base_is_malformed() {
    // circuit.reply.4
    let record =
        Record { y: DhPublic([1; 32]), auth: [2; 16], status: Status::Ok, class: 0, expiry: 3 }.write();
    assert!(Record::read(&record).is_ok());
    for at in 56..64 {
        let mut changed = record;
        changed[at] = 1;
        assert!(Record::read(&changed).is_err(), "byte {at}");
    }
}

/// A hop that answers in place of those behind it speaks for itself alone, and with a status that exists.
#[test]
fn a_hop_can_forge_nothing_but_its_own_refusal() {
    // circuit.reply.3
    let mut n = net(7, 3);
    let (sent, cell) = n.build(PURPOSE).unwrap();
    let status = |code| {
        let mut record = Record::refusal(Status::Busy);
        record[48] = code;
        record
    };
    // The middle says something, and the entry passes it on.
    let mut by_middle = |make: &dyn Fn(&ReplyKeys) -> Region| {
        let mut setups = n.carry(cell).into_iter();
        let (_, entry, block) = setups.next().unwrap();
        let (_, middle, _) = setups.next().unwrap();
        let reply = make(&middle.into_answer().reply).into_cell(&mut n.rng);
        let (_, reply) = entry.into_answer().pass(&mut n.rng, &block, &reply).unwrap();
        sent.open_reply(&reply)
    };
    for code in 0..=255 {
        let outcome = by_middle(&|keys| Region::first(keys, &status(code)));
        match code {
            1..=6 => assert!(matches!(outcome, Ok(Outcome::Refused { hop: 1, .. })), "{code}: {outcome:?}"),
            _ => assert!(outcome.is_err(), "{code}: {outcome:?}"),
        }
    }
    // A refusal in front of what the exit says, or of anything else.
    let (good, _) = {
        let setups = n.carry(cell).split_off(2);
        n.reply(setups)
    };
    for behind in [good[0], [0; CELL], [0xff; CELL], cell] {
        let mut setups = n.carry(cell).into_iter();
        let (_, entry, block) = setups.next().unwrap();
        let keys = setups.next().unwrap().1.into_answer().reply;
        let reply = Region::of(&behind).behind(&keys, &status(1)).into_cell(&mut n.rng);
        let (_, reply) = entry.into_answer().pass(&mut n.rng, &block, &reply).unwrap();
        assert!(sent.open_reply(&reply).is_err());
    }
    // The entry in the name of the middle: it has other keys.
    let keys = n.carry(cell).remove(0).1.into_answer().reply;
    let reply = Region::first(&keys, &status(1));
    let twice = Region::first(&keys, &status(1)).behind(&keys, &status(0)).into_cell(&mut n.rng);
    assert!(sent.open_reply(&twice).is_err());
    let own = sent.open_reply(&reply.into_cell(&mut n.rng));
    assert!(matches!(own, Ok(Outcome::Refused { hop: 0, status: Status::Busy })), "{own:?}");
}
