//! Strangers: cookies, buckets, garbage.

use super::handshake::{Rogue, ask, first, responder_of, stranger};
use super::*;

/// Sends `count` first messages from many prefixes within one instant, and returns the last answer.
fn flood(net: &mut Net, to: usize, count: usize) -> Option<[u8; PACKET]> {
    let mut last = None;
    for n in 0..count {
        let (_, packet) = first(net, to, None, None);
        last = ask(net, to, stranger(u8::try_from(n % 50).unwrap()), &packet).unwrap();
    }
    last
}

fn kind(packet: &[u8; PACKET]) -> u8 {
    packet[4]
}

// link.dos.2
#[test]
fn under_load_a_stranger_gets_a_cookie_and_comes_back_with_it() {
    for relay in [false, true] {
        let mut net = Net::new(&[relay, true]);
        assert_eq!(kind(&flood(&mut net, 1, 200).unwrap()), 3);
        let unfinished = net.nodes[1].links.answers.len();
        assert_eq!(kind(&flood(&mut net, 1, 1).unwrap()), 4);
        let link = net.dial(0, 1);
        net.run(100 * MS);
        assert!(net.nodes[0].links.is_up(link));
        assert_eq!(net.nodes[1].links.answers.len(), unfinished);
        let kinds = |from, to| -> Vec<u8> {
            net.sent(from, to).iter().filter(|b| b[..4] == [0; 4]).map(|b| kind(b)).collect()
        };
        assert_eq!(kinds(0, 1), if relay { [2, 2] } else { [1, 1] });
        assert_eq!(kinds(1, 0), [4, 3]);
        assert_eq!(net.sent(0, 1)[0][1396..], [0; 16]);
        assert_ne!(net.sent(0, 1)[1][1396..], [0; 16]);
        // The load is over: no cookie is needed any more.
        net.run(3 * S);
        assert_eq!(kind(&flood(&mut net, 1, 1).unwrap()), 3);
    }
}

// link.dos.1, link.dos.2, link.dos.4
#[test]
fn a_cookie_is_bound_to_address_message_and_time() {
    let mut net = Net::new(&[false, true]);
    flood(&mut net, 1, 200);
    let from = stranger(77);
    let (initiator, packet) = first(&mut net, 1, None, None);
    let message = ask(&mut net, 1, from, &packet).unwrap().unwrap();
    let Ok(Message::Cookie(read)) = Message::parse(&message) else { panic!() };
    let link_key = responder_of(&net, 1).link_key;
    let (latest, _) = first(&mut net, 1, None, None);
    assert!(read.open(&link_key, latest.mac1()).is_err(), "it answers another message");
    let cookie = read.open(&link_key, initiator.mac1()).unwrap();
    let (_, packet) = first(&mut net, 1, None, Some(cookie.clone()));
    for other in [SocketAddr::new(from.ip(), 1000), stranger(78)] {
        assert_eq!(ask(&mut net, 1, other, &packet).unwrap_err(), DropReason::Handshake);
    }
    assert_eq!(kind(&ask(&mut net, 1, from, &packet).unwrap().unwrap()), 3);
    net.run(241 * S);
    let (_, packet) = first(&mut net, 1, None, Some(cookie));
    assert_eq!(ask(&mut net, 1, from, &packet).unwrap_err(), DropReason::Handshake);
}

// link.dos.4
#[test]
fn an_initiator_takes_a_cookie_for_its_latest_message_only_and_uses_it_once() {
    let mut net = Net::new(&[false, true]);
    flood(&mut net, 1, 201);
    net.filter = Box::new(|_, _| false);
    net.dial(0, 1);
    let old = net.sent.pop().unwrap().2;
    net.deliver(0, 1, old).unwrap();
    let stale = net.sent.pop().unwrap().2;
    net.run(250 * MS);
    let latest = net.sent.pop().unwrap().2;
    net.deliver(0, 1, latest).unwrap();
    let fresh = net.sent.pop().unwrap().2;
    assert_eq!(net.deliver(1, 0, stale), Err(DropReason::Handshake));
    assert_eq!(net.deliver(1, 0, fresh.clone()), Ok(()));
    net.run(2 * S + 10 * MS);
    let with_mac2 = net.sent(0, 1).iter().filter(|b| b[1396..] != [0; 16]).count();
    assert_eq!((with_mac2, net.sent(0, 1).len()), (1, 3));
    assert_eq!(net.deliver(1, 0, fresh), Err(DropReason::Handshake));
}

// link.dos.2, link.dos.4
#[test]
fn a_flipped_bit_of_a_cookie_changes_nothing() {
    let mut net = Net::new(&[false, true]);
    flood(&mut net, 1, 201);
    net.filter = Box::new(|_, _| false);
    net.dial(0, 1);
    let message = net.sent.pop().unwrap().2;
    net.deliver(0, 1, message).unwrap();
    let cookie = net.sent.pop().unwrap().2;
    let (now, source) = (net.now, net.nodes[1].address);
    let state = |net: &Net| format!("{} {:?}", net.nodes[0].state(), net.nodes[0].links.slots);
    let before = state(&net);
    for bit in 0..PACKET * 8 {
        let mut copy = cookie.clone();
        copy[bit / 8] ^= 1 << (bit % 8);
        assert!(net.nodes[0].receive(now, source, &mut copy).is_err(), "bit {bit}");
    }
    assert_eq!(state(&net), before);
    assert_eq!(net.deliver(1, 0, cookie), Ok(()));
}

// link.dos.2
#[test]
fn cookies_are_limited_per_prefix() {
    let mut net = Net::new(&[false, true]);
    flood(&mut net, 1, 200);
    let (_, packet) = first(&mut net, 1, None, None);
    let count = |net: &mut Net, from| (0..100).filter(|_| ask(net, 1, from, &packet).is_ok()).count();
    assert_eq!(count(&mut net, stranger(88)), 20);
    assert_eq!(count(&mut net, stranger(89)), 20);
    assert_eq!(net.nodes[1].links.answers.len(), 150, "three of each of 50 strangers");
}

// link.dos.3
#[test]
fn first_messages_are_limited_per_prefix() {
    let mut net = Net::new(&[false, true]);
    net.nodes[1].links.config.limits.first_messages_per_second_under_load = u32::MAX;
    let count = |net: &mut Net, host: u8| {
        let from = SocketAddr::from(([198, 51, 100, host], 999));
        let (_, packet) = first(net, 1, None, None);
        (0..300).filter(|_| ask(net, 1, from, &packet).is_ok()).count()
    };
    assert_eq!(count(&mut net, 1), 100);
    assert_eq!(count(&mut net, 2), 0, "the same /24");
    net.run(S);
    assert_eq!(count(&mut net, 2), 50);
    let (_, packet) = first(&mut net, 1, None, None);
    assert!(ask(&mut net, 1, stranger(1), &packet).is_ok());
}

#[test]
fn garbage_changes_nothing() {
    let mut net = Net::new(&[false, true]);
    let (a, b) = net.connect(0, 1);
    let before: Vec<String> = net.nodes.iter().map(Node::state).collect();
    let indices: Vec<[u8; 4]> = net.sent.iter().map(|(_, _, bytes)| *bytes.first_chunk().unwrap()).collect();
    let (now, mut rng) = (net.now, Random::from_seed([42; 32]));
    let sources = [net.nodes[0].address, net.nodes[1].address, stranger(1)];
    for n in 0..10_000 {
        let mut bytes = [0; PACKET];
        rng.fill_bytes(&mut bytes);
        match n % 4 {
            // A known index, a handshake of every type, a handshake to a known index.
            0 => bytes[..4].copy_from_slice(&indices[n % indices.len()]),
            1 => bytes[..8].copy_from_slice(&[0, 0, 0, 0, u8::try_from(n / 4 % 6).unwrap(), 0, 0, 0]),
            2 => {
                bytes[..8].copy_from_slice(&[0, 0, 0, 0, u8::try_from(3 + n / 4 % 2).unwrap(), 0, 0, 0]);
                bytes[8..12].copy_from_slice(&indices[n % indices.len()]);
            }
            _ => {}
        }
        for node in &mut net.nodes {
            assert!(node.receive(now, sources[n % 3], &mut bytes.clone()).is_err());
        }
    }
    assert_eq!(net.nodes.iter().map(Node::state).collect::<Vec<_>>(), before);
    assert_eq!(stream(&mut net, 0, 1, a, 10, MS) + stream(&mut net, 1, 0, b, 10, MS), 20);
}

// link.live.3
#[test]
fn destroys_are_limited() {
    let mut net = Net::new(&[false, true]);
    let (_, b) = net.connect(0, 1);
    let count = |net: &mut Net| {
        let now = net.now;
        (0..100).filter(|_| net.nodes[1].links.may_answer_unknown(now, b)).count()
    };
    assert_eq!(count(&mut net), 16);
    net.run(2 * S);
    assert_eq!(count(&mut net), 16);
}

/// What a neighbour may say in a control packet: any bytes; none of it may panic or grow anything.
#[test]
fn any_control_packet_is_survived() {
    let mut net = Net::new(&[false, true]);
    let mut rogue = Rogue::new(&mut net, 1, stranger(1), None);
    rogue.send(&mut net, 1, CircuitWord::CONTROL, &[Frame::Ping(1)]).unwrap();
    let mut rng = Random::from_seed([43; 32]);
    for n in 0..20_000u32 {
        if n % 16 == 0 {
            net.run(MS);
        }
        let mut bytes = [0; PACKET];
        let mut packet = Packet::blank(&mut bytes);
        packet.set_word(CircuitWord::CONTROL);
        rng.fill_bytes(packet.cell());
        // Types and lengths that are right, so that values are read.
        let lengths = [8, 8, 640, 8, 104, 36, 36];
        let mut w = Writer::new(packet.cell());
        for k in 0..5 {
            let at = usize::try_from(rng.next_u32()).unwrap() % lengths.len();
            let length = lengths[at];
            if w.remaining() < 3 + length || k > 3 {
                break;
            }
            let mut value = vec![0; length];
            rng.fill_bytes(&mut value);
            w.u8(u8::try_from(at + 1).unwrap()).unwrap();
            w.u16(u16::try_from(length).unwrap()).unwrap();
            w.put(&value).unwrap();
        }
        let now = net.now;
        rogue.sealer.seal(now.instant, packet).map(drop).unwrap();
        let _ = net.nodes[1].receive(now, rogue.from, &mut bytes);
        net.drain(1);
    }
    let links = &net.nodes[1].links;
    assert_eq!(links.snapshot().len(), 1);
    assert!(links.shared.indices.len() <= 3 && links.shared.timers.len() == 1);
    assert!(links.events.is_empty() && links.posted.is_empty());
}
