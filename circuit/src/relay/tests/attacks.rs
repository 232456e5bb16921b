//! What a relay or a neighbour can do to the circuits of others, and what comes of it.

use super::*;
use crate::cell::{BODY, SLOT, SLOTS};
use crate::packet::CELL;
use crate::setup;

const HOPS: usize = 3;

/// A cell that the origin has sealed for the last hop, as relay `at` receives it.
fn forward(c: &mut Chain, key: CircuitKey, at: usize) -> (LinkId, CircuitWord, Cell) {
    let mut cell = [0; CELL];
    let (mut to, mut word) = c.origin.seal(key, c.relays.len() - 1, &mut cell).unwrap();
    for relay in &mut c.relays[..at] {
        let step = relay.handle_cell(c.now.instant, to, word, &mut cell).unwrap();
        let CellStep::Pass(next, next_word) = step else { panic!("{step:?}") };
        (to, word) = (next, next_word);
    }
    (to, word, cell)
}

/// A cell of the last hop on its way back, as the one behind relay `at` has sent it.
fn backward(c: &mut Chain, at: usize) -> (LinkId, CircuitWord, Cell) {
    let mut cell = [0; CELL];
    let last = c.relays.len() - 1;
    let exit = c.relays[last].snapshot()[0].key;
    let (mut to, mut word) = c.relays[last].start(exit, &mut cell).unwrap();
    for relay in c.relays[at..last].iter_mut().rev() {
        let step = relay.handle_cell(c.now.instant, to, word, &mut cell).unwrap();
        let CellStep::Pass(next, next_word) = step else { panic!("{step:?}") };
        (to, word) = (next, next_word);
    }
    (to, word, cell)
}

/// Lets the end of a circuit reach everybody.
fn let_end(c: &mut Chain) {
    for _ in 0..HOPS {
        c.pass(Duration::from_secs(2));
    }
}

// circuit.cell.1
#[test]
fn a_tag_on_any_byte_of_a_forward_cell_ends_the_circuit_at_the_next_hop() {
    // The one before hop `at` has put it there: the client's line, the entry, the middle.
    for at in 0..HOPS {
        let mut c = chain(HOPS);
        for byte in 0..CELL {
            let key = c.build();
            let (to, word, mut cell) = forward(&mut c, key, at);
            cell[byte] ^= 1 << (byte % 8);
            let counts = c.relays[at].counts();
            let got = c.relays[at].handle_cell(c.now.instant, to, word, &mut cell);
            assert_eq!(got, Err(DropReason::BadLayer), "byte {byte} at hop {at}");
            assert_eq!(c.relays[at].counts(), counts, "nothing was passed on");
            assert_eq!(c.relays[at].circuits(), (0, 0), "byte {byte} at hop {at}");
            if byte % 100 != 0 {
                continue;
            }
            // What the others see of it is the end, at a random time, with random bytes.
            let_end(&mut c);
            assert_eq!(c.circuits(), [(0, 0); HOPS]);
            assert!(c.origin.is_empty());
        }
    }
}

// circuit.cell.1, circuit.cell.6
#[test]
fn a_tag_on_any_byte_of_a_backward_cell_ends_the_circuit_at_the_client() {
    let mut survived = vec![];
    // Hop `at` puts it there, after it has added its own layer.
    for at in 0..HOPS {
        let mut c = chain(HOPS);
        let key = c.build();
        for byte in 0..CELL {
            let (mut to, mut word, mut cell) = backward(&mut c, at);
            cell[byte] ^= 1 << (byte % 8);
            for relay in c.relays[..at].iter_mut().rev() {
                let step = relay.handle_cell(c.now.instant, to, word, &mut cell).unwrap();
                let CellStep::Pass(next, next_word) = step else { panic!("{step:?}") };
                (to, word) = (next, next_word);
            }
            match c.origin.handle_cell(c.now.instant, to, word, &mut cell) {
                Ok(opened) => {
                    assert_eq!((opened, &cell[SLOTS..]), ((key, HOPS - 1), &[0; BODY][..]));
                    survived.push((at, byte));
                }
                // The client closes the circuit; here it goes on, for the next byte.
                Err(refused) => assert_eq!(refused, (Some(key), DropReason::BadLayer), "{byte} by {at}"),
            }
        }
        c.origin.close(c.now, key);
        let_end(&mut c);
        assert_eq!(c.circuits(), [(0, 0); HOPS]);
    }
    // One slot falls off at every hop on the way. The hops between pass it on under a pad of their own.
    let fall: Vec<_> =
        (1..HOPS).flat_map(|at| (SLOTS - SLOT * at..SLOTS).map(move |byte| (at, byte))).collect();
    assert_eq!(survived, fall);
}

// circuit.cell.1, circuit.cell.2, link.live.3
#[test]
fn a_cell_of_another_circuit_direction_or_link_is_refused() {
    let mut c = chain(HOPS);
    let (a, b) = (c.build(), c.build());
    let (to, _, mut cell) = forward(&mut c, a, 1);
    let (_, word_b, _) = forward(&mut c, b, 1);
    let now = c.now.instant;
    // On the other circuit: that one ends, the first has lost a cell.
    assert_eq!(c.relays[1].handle_cell(now, to, word_b, &mut cell), Err(DropReason::BadLayer));
    assert_eq!(c.relays[1].circuits(), (1, 0));
    assert_eq!(cell::body(&mut c.cell_forward(a, HOPS - 1)), &[9; BODY]);

    // On a link that has no such circuit: nothing changes.
    let (to, word, cell) = forward(&mut c, a, 1);
    for wrong in [link(0), link(2), link(9)] {
        let got = c.relays[1].handle_cell(now, wrong, word, &mut cell.clone());
        assert_eq!(got, Err(DropReason::UnknownCircuit), "{wrong:?}");
    }
    let other = CircuitWord::new(PacketType::Cell, !word.opener(), word.id());
    assert_eq!(c.relays[1].handle_cell(now, to, other, &mut cell.clone()), Err(DropReason::UnknownCircuit));
    assert!(c.relays[1].handle_cell(now, to, word, &mut cell.clone()).is_ok());

    // The middle sends a forward cell back to the entry, which takes it for one from the exit: only the client can know.
    let (to, word, mut cell) = forward(&mut c, a, 1);
    let step = c.relays[0].handle_cell(now, to, word, &mut cell).unwrap();
    assert!(matches!(step, CellStep::Pass(back, _) if back == link(0)));
    let CellStep::Pass(to, word) = step else { panic!() };
    assert_eq!(c.origin.handle_cell(now, to, word, &mut cell), Err((Some(a), DropReason::BadLayer)));

    // The entry sends a backward cell forward again: the middle knows at once.
    let (to, word, mut cell) = backward(&mut c, 1);
    assert_eq!(c.relays[1].handle_cell(now, to, word, &mut cell), Err(DropReason::BadLayer));
    let_end(&mut c);
    assert_eq!(c.relays[1].circuits(), (0, 0));
}

// circuit.setup.2
#[test]
fn a_setup_that_is_sent_to_another_relay_is_dropped_without_a_word() {
    let mut c = chain(HOPS);
    c.origin.build(link(0), false, &c.path(), c.purpose(), None).unwrap();
    let sent = std::iter::from_fn(|| c.origin.poll_action()).find_map(|action| match action {
        OriginAction::Send(_, word, cell) => Some((word, cell)),
        _ => None,
    });
    let (word, first) = sent.unwrap();
    c.relays[0].handle_setup(c.now, from(0), word, &first).unwrap();
    let second = loop {
        match c.relays[0].poll_action().unwrap() {
            Action::Extend(key, _) => c.relays[0].onward(key, link(1), false, None),
            Action::Send(_, _, cell) => break cell,
            _ => {}
        }
    };
    for (setup, wrong) in [(&first, 1), (&first, 2), (&second, 0), (&second, 2)] {
        let odd = CircuitWord::new(PacketType::Setup, false, 4711).with_parity(word.parity());
        let got = c.relays[wrong].handle_setup(c.now, from(wrong), odd, setup);
        assert_eq!(got, Err(DropReason::BadSetup));
        assert!(
            c.relays[wrong].poll_action().is_none() && c.relays[wrong].seen.len() == usize::from(wrong == 0)
        );
    }
}

// circuit.reply.1, circuit.reply.3
#[test]
fn a_forged_reply_ends_the_circuit_and_nothing_else() {
    let mut c = chain(HOPS);
    let mut seen: Vec<Cell> = vec![];
    for forgery in 0..6 {
        c.answered.clear();
        let good = c.build();
        assert_eq!(c.answered, [Answered::Ready]);
        c.extend = false;
        c.origin.build(link(0), false, &c.path(), c.purpose(), None).unwrap();
        c.settle();
        let waiting = c.relays[0].deadlines.first().unwrap().1;
        c.relays[0].onward(waiting, link(1), false, None);
        let Some(Action::Hold(_)) = c.relays[0].poll_action() else { panic!() };
        let Some(Action::Send(_, word, setup)) = c.relays[0].poll_action() else { panic!() };
        c.relays[1].handle_setup(c.now, from(1), word, &setup).unwrap();
        c.relays[1].cancel(c.now, link(1), word);
        // What the middle may say by itself, without the exit.
        let refusal = {
            let onion = onion(1);
            let received = setup::receive(id(1), &onion, epoch(c.now), &setup).unwrap();
            received.into_answer().refuse(&mut rng(7), Status::Terms)
        };
        let mut reply = match forgery {
            0 => [0; CELL],
            1 => [0xff; CELL],
            // A reply of another circuit of the same path.
            2 => seen.first().copied().unwrap_or(refusal),
            // The setup itself.
            3 => *setup,
            _ => refusal,
        };
        seen.push(refusal);
        // Truncated: the records are there, their end is not.
        if forgery == 4 {
            reply[300..].fill(0);
        }
        write_rate(&mut reply, 0);
        let word = word.with_kind(PacketType::Reply);
        assert_eq!(c.relays[0].handle_reply(c.now, link(1), word, &reply), Ok(()));
        // circuit.reply.1: another one, also with another status, is too late.
        assert_eq!(c.relays[0].handle_reply(c.now, link(1), word, &refusal), Err(DropReason::Misbehaved));
        c.settle();
        let expected = if forgery == 5 { Answered::Refused(1, Status::Terms) } else { Answered::Bad };
        assert_eq!(c.answered, [Answered::Ready, expected], "forgery {forgery}");
        c.extend = true;
        assert_eq!(cell::body(&mut c.cell_forward(good, HOPS - 1)), &[9; BODY], "the other circuit stands");
        c.origin.close(c.now, good);
        c.pass(HALF_OPEN);
        let_end(&mut c);
        // circuit.reply.5: who has passed a reply on cannot know that it was bad, and is told.
        assert_eq!(c.circuits(), [(0, 0); HOPS], "forgery {forgery}");
        assert!(c.origin.is_empty());
    }
}

/// Everything that grows with circuits and setups, but for replay tags.
fn held(relay: &Relay) -> [usize; 5] {
    let half_open = relay.neighbours.values().map(|n| usize::try_from(n.half_open + n.circuits).unwrap());
    [relay.circuits.len(), relay.deadlines.len(), half_open.sum(), relay.ends.len(), relay.actions.len()]
}

// circuit.setup.1, circuit.table.1
#[test]
fn ten_thousand_setups_that_nobody_answers_are_bounded_and_freed() {
    const SETUPS: u32 = 10_000;
    let mut c = chain(2);
    c.extend = false;
    let path = c.path();
    let (mut draw, mut answered, mut logged) = (rng(3), 0, 0);
    for n in 0..SETUPS {
        // 5,000 per second.
        c.now.instant += Duration::from_micros(200);
        c.now.unix_ms += u64::from(n % 5 == 0);
        let (_, setup) = setup::build(&mut draw, &path, c.purpose()).unwrap();
        let word = CircuitWord::new(PacketType::Setup, false, n + 1).with_parity(epoch(c.now) & 1 == 1);
        // A relay, of which there are few, at another address.
        let neighbour = From { peer: Some(id(8)), ..from(0) };
        c.relays[0].handle_setup(c.now, neighbour, word, &setup).unwrap();
        while let Some(action) = c.relays[0].poll_action() {
            match action {
                Action::Log(_) => logged += 1,
                Action::Send(_, word, _) => answered += u32::from(word.kind() == Some(PacketType::Reply)),
                _ => {}
            }
        }
        let half_open = c.relays[0].circuits().1;
        assert!(half_open <= 1024);
    }
    assert_eq!((c.relays[0].circuits(), logged), ((0, 1024), SETUPS));
    assert_eq!(answered, SETUPS - 1024, "the others are told that it is busy");
    let relay = &mut c.relays[0];
    let mut pass = |seconds| {
        c.now.instant += Duration::from_secs(seconds);
        c.now.unix_ms += seconds * MS;
        relay.handle_timeout(c.now);
        std::iter::from_fn(|| relay.poll_action()).filter(|a| matches!(a, Action::Send(..))).count()
    };
    assert_eq!(pass(10), 1024, "they are told that nobody answers");
    // The ids rest for a minute, then nothing is left of them.
    assert_eq!(pass(61) + pass(31), 0);
    assert_eq!((held(relay), relay.circuits.retired()), ([0; 5], 0));
}
