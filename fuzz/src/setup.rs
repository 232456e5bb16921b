//! Setups at a relay, and replies at the client.

use circuit::keys::RelayId;
use circuit::node::Now;
use circuit::packet::Cell;
use circuit::setup::{self, Block, Outcome, PathHop, ReceivedSetup, Status, receive};

use crate::edits::edit;
use crate::fixture::{epoch, hop, identity, onion_key, purpose, rng, secret, start};
use crate::input::Input;
use crate::onion::{BETA, BLOCK, DELTA, HopKeys, RECORD, REGION};

/// The block of a client's setup for relay 1 as its only hop.
fn sample_block(now: Now) -> [u8; BLOCK] {
    let path = [hop(1)];
    let (_, cell) = setup::build(&mut rng(1), &path, purpose(now)).unwrap();
    HopKeys::of_path(rng(1), &path)[0].block(&cell)
}

/// What docs/spec/02-circuit.md allows in a block.
fn is_allowed(block: &[u8; BLOCK]) -> bool {
    let zero = |range: core::ops::Range<usize>| block[range].iter().all(|byte| *byte == 0);
    let (terminal, exit) = (block[1] & 1 == 1, block[1] & 2 == 2);
    block[0] == 1
        && block[1] < 4
        && (terminal || !exit)
        && (1..=2).contains(&block[2])
        && zero(3..4)
        && zero(40..124)
        && block[126] < 2
        && zero(127..128)
        && zero(136..140)
        && terminal == (zero(8..40) && zero(144..192))
}

fn assert_says(block: &Block, bytes: &[u8; BLOCK]) {
    assert_eq!((block.terminal, block.exit), (bytes[1] & 1 == 1, bytes[1] & 2 == 2));
    assert_eq!(block.suite.code(), bytes[2]);
    assert_eq!(block.expiry.to_be_bytes(), bytes[4..8]);
    assert_eq!(block.next_id.0, bytes[8..40]);
    assert_eq!(block.terms.class.to_be_bytes(), bytes[124..126]);
    assert_eq!(block.terms.role as u8, bytes[126]);
    assert_eq!(block.terms.rate_in.to_be_bytes(), bytes[128..132]);
    assert_eq!(block.terms.rate_out.to_be_bytes(), bytes[132..136]);
    assert_eq!(block.minute.to_be_bytes(), bytes[140..144]);
    assert_eq!(block.next_key.0, bytes[144..176]);
    assert_eq!(block.next_mac, bytes[176..192]);
}

/// A relay opens a setup as its client made it and no other, and takes of its content what the specification allows and
/// nothing else.
pub fn setup(data: &[u8]) {
    let mut input = Input::new(data);
    let now = start();
    let mut block = sample_block(now);
    let flags = input.u8();
    if flags & 1 == 1 {
        block = input.array();
    }
    let mut beta = [0x55; BETA - BLOCK];
    let mut delta = [0; DELTA];
    if flags & 2 == 2 {
        edit(&mut input, &mut block);
        edit(&mut input, &mut delta);
        edit(&mut input, &mut beta);
    }
    let keys = HopKeys::new(&secret(60), &onion_key(1).public(), &identity(1).id(), epoch());
    let mut cell = keys.setup(&block, &beta, &delta);
    let changed = flags & 4 == 4 && edit(&mut input, &mut cell);
    let received = receive(identity(1).id(), &onion_key(1), epoch(), &cell);
    assert_eq!(received.is_ok(), !changed);
    receive(identity(1).id(), &onion_key(2), epoch(), &cell).unwrap_err();
    receive(identity(1).id(), &onion_key(1), epoch() + 1, &cell).unwrap_err();
    let Ok(received) = received else { return };
    assert_eq!(received.minute().to_be_bytes(), block[140..144]);
    let read = received.block();
    assert_eq!(read.is_ok(), is_allowed(&block));
    let early = received.early().map(<[u8]>::to_vec);
    let length = usize::from(u16::from_be_bytes([delta[16], delta[17]]));
    assert_eq!(early.is_ok(), delta[..16] == [0; 16] && length <= DELTA - 18);
    if let Ok(early) = early {
        assert_eq!(early, delta[18..18 + length]);
    }
    let Ok(block_read) = read else { return };
    assert_says(&block_read, &block);
    let onward = received.onward(&block_read);
    assert_eq!((&onward[..48], &onward[1008..]), (&block[144..], &delta[..]));
    assert_eq!(onward[48..48 + beta.len()], beta);
    answer(received, &block_read, flags & 8 == 8);
}

/// Every answer is of the one size, and a refusal tells nothing but its status.
fn answer(received: ReceivedSetup, block: &Block, refuses: bool) {
    let keys = HopKeys::new(&secret(60), &onion_key(1).public(), &identity(1).id(), epoch());
    let answer = received.into_answer();
    if refuses {
        let mut wanted = [0; RECORD];
        wanted[48] = Status::Busy as u8;
        assert_eq!(keys.record(&answer.refuse(&mut rng(2), Status::Busy)), wanted);
    } else {
        let (hop_keys, reply) = answer.finish(&mut rng(2), block).unwrap();
        let record = keys.record(&reply);
        assert_eq!(hop_keys.suite, block.suite);
        assert_eq!(record[48], Status::Ok as u8);
        assert_eq!(record[52..56], block.expiry.to_be_bytes());
        assert_eq!(record[56..], [0; 24]);
    }
}

/// Opens the setup at every hop up to `last`.
fn travel(path: &[PathHop], last: usize, cell: &Cell) -> Vec<(ReceivedSetup, Block)> {
    let mut cell = *cell;
    (0..=last)
        .map(|n| {
            let key = onion_key(u8::try_from(n + 1).unwrap());
            let received = receive(path[n].id, &key, path[n].epoch, &cell).unwrap();
            let block = received.block().unwrap();
            cell = received.onward(&block);
            (received, block)
        })
        .collect()
}

/// A client believes a reply that relays made of their secrets and no other; what a relay makes up of its own keys never
/// stands for another relay's answer.
pub fn reply(data: &[u8]) {
    let mut input = Input::new(data);
    let now = start();
    let flags = input.u8();
    let hops = 1 + input.below(5);
    let answers = input.below(hops);
    let path: Vec<_> = (1..).take(hops).map(hop).collect();
    let (sent, cell) = setup::build(&mut rng(1), &path, purpose(now)).unwrap();
    assert_eq!(sent.hops(), hops);
    let keys = HopKeys::of_path(rng(1), &path);
    let travelled = travel(&path, answers, &cell);
    let mut relays = travelled.into_iter().rev();
    let mut random = rng(9);
    let (received, block) = relays.next().unwrap();
    assert_eq!(block.terminal, answers + 1 == hops);
    let status = [Status::Ok, Status::Busy, Status::Unreachable, Status::Policy][usize::from(flags >> 6)];
    let mut region = if status == Status::Ok {
        received.into_answer().finish(&mut random, &block).unwrap().1
    } else {
        received.into_answer().refuse(&mut random, status)
    };
    let honest = keys[answers].record(&region);
    let mut record = honest;
    let forges = flags & 1 == 1;
    if forges {
        edit(&mut input, &mut record);
        let mut rest = [0; REGION - RECORD - 16];
        rest.copy_from_slice(input.take(REGION).first_chunk().unwrap_or(&[0; REGION - RECORD - 16]));
        region = keys[answers].reply(&record, &rest);
    }
    for (received, block) in relays {
        assert!(!block.terminal && block.next_id != RelayId([0; 32]));
        region = received.into_answer().pass(&mut random, &block, &region).unwrap().1;
    }
    let real = region;
    edit(&mut input, &mut region);
    let changed = region[..REGION] != real[..REGION];
    match sent.open_reply(&region) {
        Ok(Outcome::Ready(hop_keys)) => {
            assert!(!changed && answers + 1 == hops && hop_keys.len() == hops);
            assert_eq!((&record[..49], record[48]), (&honest[..49], 0));
        }
        Ok(Outcome::Refused { hop, status }) => {
            assert!(!changed && hop == answers);
            assert_eq!(record[48], status as u8);
            assert_ne!(status, Status::Ok);
        }
        Err(_) => {
            let whole = status != Status::Ok || answers + 1 == hops;
            assert!(changed || forges || !whole, "a reply of honest relays");
        }
    }
}
