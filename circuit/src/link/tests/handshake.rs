//! Handshakes: who is believed, and when.

use super::*;
use crate::keys::Secret;
use crate::link::control::{Hello, Renewal};
use crate::link::handshake::{Accepted, Choice, Initiator, Noise, Offer};
use crate::link::session::{Sealer, Side};

/// An initiator that does as the test says.
pub(super) struct Rogue {
    pub(super) sealer: Sealer,
    pub(super) hh: [u8; 32],
    pub(super) from: SocketAddr,
}

pub(super) fn noise(packet: &[u8; PACKET]) -> Noise<'_> {
    let Ok(Message::Noise(noise)) = Message::parse(packet) else { panic!() };
    noise
}

pub(super) fn responder_of(net: &Net, to: usize) -> Responder {
    let peer = net.nodes[to].peer.unwrap();
    Responder { network: NetworkId([7; 16]), id: peer.id, link_key: peer.link_key }
}

/// A first message to node `to`, made by hand.
pub(super) fn first(
    net: &mut Net,
    to: usize,
    static_key: Option<&DhSecret>,
    cookie: Option<Secret<16>>,
) -> (Initiator, [u8; PACKET]) {
    net.now.unix_ms += 1;
    let offer = Offer {
        static_key,
        ephemeral: DhSecret::random(&mut net.rng),
        suites: Suites::default(),
        index: 0x00ab_cdef,
        unix_ms: net.now.unix_ms,
        cookie,
    };
    let mut packet = [0; PACKET];
    let responder = responder_of(net, to);
    let initiator = Initiator::start(&responder, offer, &mut packet).unwrap();
    (initiator, packet)
}

/// Delivers a handmade packet, and returns what node `to` has to say to it.
pub(super) fn ask(
    net: &mut Net,
    to: usize,
    from: SocketAddr,
    packet: &[u8; PACKET],
) -> Result<Option<[u8; PACKET]>, DropReason> {
    let mut copy = *packet;
    let now = net.now;
    net.nodes[to].receive(now, from, &mut copy)?;
    let mut out = [0; PACKET];
    Ok(net.nodes[to].links.poll_transmit(now, &mut out).map(|_| out))
}

impl Rogue {
    pub(super) fn new(net: &mut Net, to: usize, from: SocketAddr, static_key: Option<&DhSecret>) -> Self {
        let (mut initiator, packet) = first(net, to, static_key, None);
        let answer = ask(net, to, from, &packet).unwrap().unwrap();
        let answered = initiator.finish(&noise(&answer)).unwrap();
        let key = answered.keys.packet(Side::Initiator, answered.suite);
        Self { sealer: Sealer::new(net.now.instant, noise(&answer).sender, key), hh: answered.hh, from }
    }

    pub(super) fn seal(&mut self, now: Now, word: CircuitWord, frames: &[Frame<'_>]) -> [u8; PACKET] {
        let mut bytes = [0; PACKET];
        let mut packet = Packet::blank(&mut bytes);
        packet.set_word(word);
        let mut w = Writer::new(packet.cell());
        for frame in frames {
            frame.write(&mut w).unwrap();
        }
        self.sealer.seal(now.instant, packet).map(drop).unwrap();
        bytes
    }

    pub(super) fn send(
        &mut self,
        net: &mut Net,
        to: usize,
        word: CircuitWord,
        frames: &[Frame<'_>],
    ) -> Result<(), DropReason> {
        let mut bytes = self.seal(net.now, word, frames);
        let (now, from) = (net.now, self.from);
        net.nodes[to].receive(now, from, &mut bytes)
    }
}

pub(super) fn stranger(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, n, 7], 999))
}

fn with_suites(suites: [Suites; 2], relays: [bool; 2]) -> Net {
    let configs = (0..2).map(|n| LinkConfig { suites: suites[n], ..config(relays[n], n) }).collect();
    Net::with(configs)
}

// link.handshake.2
#[test]
fn the_responder_chooses_from_what_is_offered() {
    let (one, two) = (Suite::Aegis128L, Suite::ChaCha20Poly1305);
    let (a, b) = (Suites::preferring(one), Suites::preferring(two));
    let cases = [
        ([a, a], Some(one)),
        ([b, b], Some(two)),
        ([b, a], Some(one)),
        ([a, b], Some(two)),
        ([Suites::only(two), a], Some(two)),
        ([a, Suites::only(two)], Some(two)),
        ([Suites::only(one), Suites::only(one)], Some(one)),
        ([Suites::only(one), Suites::only(two)], None),
    ];
    for (suites, expected) in cases {
        for relays in [[false, true], [true, true]] {
            let mut net = with_suites(suites, relays);
            let link = net.dial(0, 1);
            net.run(S);
            assert_eq!(net.nodes[0].links.is_up(link), expected.is_some());
            if expected.is_some() {
                assert!(net.nodes.iter().all(|n| n.links.snapshot()[0].suite == expected));
                assert_eq!(stream(&mut net, 0, 1, link, 20, MS), 20);
            }
        }
    }
}

/// What node 1 may answer to the first message of node 0.
fn answer(net: &mut Net, suite: Suite, seen: Option<SocketAddr>) -> Bytes {
    let first = net.sent(0, 1).pop().unwrap();
    let key = net.nodes[1].links.config.relay.as_ref().unwrap().link.clone();
    let e = DhSecret::from_bytes([3; 32]);
    let accepted = Accepted::read(&responder_of(net, 1), &key, e, &noise(&first)).unwrap();
    let choice = Choice { suite, index: 9, boot: BootId(1), unix_ms: 0, seen };
    let mut answer = Box::new([0; PACKET]);
    accepted.answer(choice, &mut answer).unwrap();
    answer
}

// link.handshake.2
#[test]
fn an_answer_with_a_suite_that_was_not_offered_is_refused() {
    let cases = [(Suite::ChaCha20Poly1305, Err(DropReason::Handshake)), (Suite::Aegis128L, Ok(()))];
    for (suite, expected) in cases {
        let mut net = with_suites([Suites::only(Suite::Aegis128L); 2], [false, true]);
        net.filter = Box::new(|_, _| false);
        let link = net.dial(0, 1);
        let answer = answer(&mut net, suite, None);
        assert_eq!(net.deliver(1, 0, answer), expected);
        assert_eq!(net.nodes[0].links.is_up(link), expected.is_ok());
    }
}

// link.seen.1, link.seen.2
#[test]
fn a_node_learns_where_its_peers_see_it() {
    let mut net = Net::new(&[true, true, true]);
    for peer in [1, 2] {
        net.connect(0, peer);
    }
    // Both peers are in one /16.
    let expected = Seen { address: net.nodes[0].address, places: 1 };
    assert_eq!(net.nodes[0].links.seen(net.now), [expected]);
    assert!(net.nodes[1].links.seen(net.now).is_empty(), "who is dialled learns nothing");
}

// link.seen.1, link.seen.3
#[test]
fn what_one_peer_says_of_our_address_changes_nothing_else() {
    let lies =
        [None, Some(SocketAddr::from(([203, 0, 113, 9], 9))), Some("[2001:db8::1]:9".parse().unwrap())];
    for (seen, voices) in lies.into_iter().zip([0, 1, 0]) {
        let mut net = Net::new(&[false, true]);
        net.filter = Box::new(|_, _| false);
        let link = net.dial(0, 1);
        let answer = answer(&mut net, Suite::Aegis128L, seen);
        net.deliver(1, 0, answer).unwrap();
        assert_eq!(net.nodes[0].links.seen(net.now).len(), voices, "{seen:?}");
        assert!(net.nodes[0].links.is_up(link));
        assert_eq!(net.nodes[0].links.source(link), net.nodes[1].address.ip());
        let (to, _) = net.nodes[0].seal(net.now, link, PacketType::Cell, 1).unwrap();
        assert_eq!(to, net.nodes[1].address);
    }
}

/// Delivers every one-bit variant of `bytes` to `to`, each of which must change nothing.
fn refuse_all_flips(net: &mut Net, from: usize, to: usize, bytes: &Bytes) {
    let (before, now, source) = (net.nodes[to].state(), net.now, net.nodes[from].address);
    for bit in 0..PACKET * 8 {
        let mut copy = bytes.clone();
        copy[bit / 8] ^= 1 << (bit % 8);
        assert!(net.nodes[to].receive(now, source, &mut copy).is_err(), "bit {bit}");
        if bit % 61 == 0 {
            assert_eq!(net.nodes[to].state(), before, "bit {bit}");
        }
    }
    assert_eq!(net.nodes[to].state(), before);
}

// link.header.1, link.open.1, link.dos.1
#[test]
fn a_flipped_bit_anywhere_changes_nothing() {
    for suite in [Suite::Aegis128L, Suite::ChaCha20Poly1305] {
        for relay in [false, true] {
            let mut net = with_suites([Suites::only(suite); 2], [relay, true]);
            net.filter = Box::new(|_, _| false);
            // First message, answer, first data packet (HELLO between relays), a cell.
            net.dial(0, 1);
            let bytes = net.sent.pop().unwrap().2;
            refuse_all_flips(&mut net, 0, 1, &bytes);
            net.deliver(0, 1, bytes).unwrap();
            let bytes = net.sent.pop().unwrap().2;
            refuse_all_flips(&mut net, 1, 0, &bytes);
            net.deliver(1, 0, bytes).unwrap();
            let bytes = net.sent.pop().unwrap().2;
            refuse_all_flips(&mut net, 0, 1, &bytes);
            net.deliver(0, 1, bytes).unwrap();
            let LinkEvent::Up { link } = net.nodes[1].events[0] else { panic!() };
            net.sent.clear();
            net.send(1, link, 1).unwrap();
            let bytes = net.sent.pop().unwrap().2;
            refuse_all_flips(&mut net, 1, 0, &bytes);
            net.deliver(1, 0, bytes).unwrap();
            assert_eq!(net.nodes[0].got.len(), 1);
        }
    }
}

// link.handshake.1
#[test]
fn impossible_indices_are_refused() {
    let mut net = Net::new(&[false, true]);
    let (_, mut packet) = first(&mut net, 1, None, None);
    packet[12..16].fill(0);
    // With a right mac1, for anybody can make one.
    let key = first_mac1_key(&responder_of(&net, 1).link_key);
    let mac1 = crate::keys::mac(&key, &[&packet[..1380]]);
    packet[1380..1396].copy_from_slice(&mac1);
    assert_eq!(ask(&mut net, 1, stranger(1), &packet).unwrap_err(), DropReason::Malformed);
    for index in [1, u32::MAX] {
        let mut packet = [0; PACKET];
        packet[..4].copy_from_slice(&u32::to_be_bytes(index));
        assert_eq!(ask(&mut net, 1, stranger(1), &packet).unwrap_err(), DropReason::UnknownLink);
    }
}

// link.handshake.4
#[test]
fn nobody_is_believed_before_a_data_packet_opens() {
    let mut net = Net::new(&[true, true]);
    let (a, _) = net.connect(0, 1);
    let before = net.nodes[1].links.snapshot();
    let key = net.nodes[0].links.config.relay.as_ref().unwrap().link.clone();
    let mut rogue = Rogue::new(&mut net, 1, stranger(1), Some(&key));
    let mut client = Rogue::new(&mut net, 1, stranger(2), None);
    assert_eq!(net.nodes[1].links.snapshot(), before);
    net.drain(1);
    assert!(net.sent.iter().all(|(_, to, _)| *to < 2));
    assert_eq!(stream(&mut net, 0, 1, a, 10, MS), 10);
    // A client is believed at its first packet, and the link is the one that it came on.
    client.send(&mut net, 1, CircuitWord::new(PacketType::Setup, false, 3), &[]).unwrap();
    let (link, word, _) = *net.nodes[1].got.last().unwrap();
    assert!(net.nodes[1].links.is_client(link) && word.kind() == Some(PacketType::Setup));
    // Nobody has come from the rogue's address with HELLO: it is forgotten.
    net.run(6 * S);
    let hello = [Frame::Ping(1)];
    assert_eq!(rogue.send(&mut net, 1, CircuitWord::CONTROL, &hello), Err(DropReason::UnknownLink));
}

// link.handshake.4
#[test]
fn three_handshakes_of_a_peer_are_unfinished_at_most() {
    let mut net = Net::new(&[true, true]);
    let key = net.nodes[0].links.config.relay.as_ref().unwrap().link.clone();
    for static_key in [None, Some(&key)] {
        let mut all: Vec<_> = (0..5).map(|_| Rogue::new(&mut net, 1, stranger(1), static_key)).collect();
        assert_eq!(net.nodes[1].links.answers.len(), 3);
        let word = CircuitWord::CONTROL;
        assert_eq!(all[0].send(&mut net, 1, word, &[Frame::Ping(1)]), Err(DropReason::UnknownLink));
        assert_eq!(all[1].send(&mut net, 1, word, &[Frame::Ping(1)]), Err(DropReason::UnknownLink));
        let expected = if static_key.is_some() { Err(DropReason::Misbehaved) } else { Ok(()) };
        assert_eq!(all[2].send(&mut net, 1, word, &[Frame::Ping(1)]), expected);
        net.run(6 * S);
        assert!(net.nodes[1].links.answers.is_empty());
    }
}

#[test]
fn unfinished_handshakes_are_bounded() {
    let mut net = Net::new(&[false, true]);
    net.nodes[1].links.config.limits.unfinished = 20;
    for n in 0..100 {
        Rogue::new(&mut net, 1, stranger(n), None);
    }
    assert_eq!(net.nodes[1].links.answers.len(), 20);
    assert_eq!(net.nodes[1].links.shared.indices.len(), 20);
    net.run(6 * S);
    assert_eq!(net.nodes[1].links.shared.indices.len(), 0);
}

// link.handshake.3
#[test]
fn a_first_message_between_relays_counts_once() {
    let mut net = Net::new(&[true, true]);
    let key = net.nodes[0].links.config.relay.as_ref().unwrap().link.clone();
    let (_, old) = first(&mut net, 1, Some(&key), None);
    let (_, new) = first(&mut net, 1, Some(&key), None);
    assert!(ask(&mut net, 1, stranger(1), &new).unwrap().is_some());
    for packet in [old, new] {
        assert_eq!(ask(&mut net, 1, stranger(1), &packet).unwrap_err(), DropReason::Handshake);
    }
    net.introduce();
    assert_eq!(ask(&mut net, 1, stranger(1), &new).unwrap_err(), DropReason::Handshake);
}

#[test]
fn a_replayed_first_message_of_a_client_displaces_nothing() {
    let mut net = Net::new(&[false, true]);
    let (a, b) = net.connect(0, 1);
    let first = net.sent(0, 1).remove(0);
    for _ in 0..20 {
        let _ = net.deliver(0, 1, first.clone());
    }
    assert!(net.nodes[1].links.answers.len() <= 3);
    assert_eq!(stream(&mut net, 0, 1, a, 50, MS), 50);
    assert_eq!(stream(&mut net, 1, 0, b, 50, MS), 50);
    assert_eq!(net.nodes[1].links.snapshot().len(), 1);
}

// link.handshake.5
#[test]
fn only_relays_that_are_known_are_answered() {
    let mut net = Net::new(&[true, true]);
    let unknown = DhSecret::from_bytes([5; 32]);
    let (_, packet) = first(&mut net, 1, Some(&unknown), None);
    assert_eq!(ask(&mut net, 1, stranger(1), &packet).unwrap_err(), DropReason::Handshake);
    net.nodes[1].links.set_relays([]);
    let link = net.dial(0, 1);
    net.run(5 * S);
    assert!(!net.nodes[0].links.is_up(link));
    assert_eq!((net.nodes[0].losses(), net.nodes[1].ups()), (1, 0));
    net.introduce();
    net.connect(0, 1);
}

fn identity(net: &Net, n: usize) -> IdentitySecret {
    net.nodes[n].links.config.relay.as_ref().unwrap().identity.clone()
}

type Make<'a> = Box<dyn Fn([u8; 32]) -> Vec<Frame<'static>> + 'a>;

// link.handshake.5
#[test]
fn a_wrong_hello_closes_the_session() {
    let mut net = Net::new(&[true, true, true]);
    let key = net.nodes[0].links.config.relay.as_ref().unwrap().link.clone();
    let (right, other) = (identity(&net, 0), identity(&net, 2));
    let hh_of_another = Rogue::new(&mut net, 1, stranger(9), Some(&key)).hh;
    let wrong: [Make<'_>; 4] = [
        Box::new(|hh| {
            let mut hello = Hello::sign(&right, &hh, BootId(1));
            hello.signature[10] ^= 1;
            vec![Frame::Hello(hello)]
        }),
        Box::new(|_| vec![Frame::Hello(Hello::sign(&right, &hh_of_another, BootId(1)))]),
        Box::new(|hh| vec![Frame::Hello(Hello::sign(&other, &hh, BootId(1)))]),
        Box::new(|hh| vec![Frame::Hello(Hello { boot: BootId(2), ..Hello::sign(&right, &hh, BootId(1)) })]),
    ];
    for make in wrong {
        let mut rogue = Rogue::new(&mut net, 1, stranger(1), Some(&key));
        let frames = make(rogue.hh);
        let word = CircuitWord::CONTROL;
        assert_eq!(rogue.send(&mut net, 1, word, &frames), Err(DropReason::Misbehaved));
        let good = [Frame::Hello(Hello::sign(&right, &rogue.hh, BootId(1)))];
        assert_eq!(rogue.send(&mut net, 1, word, &good), Err(DropReason::UnknownLink));
    }
    // A circuit packet before HELLO.
    for kind in [PacketType::Cell, PacketType::Setup, PacketType::Reply, PacketType::Destroy] {
        let mut rogue = Rogue::new(&mut net, 1, stranger(1), Some(&key));
        let word = CircuitWord::new(kind, false, 7);
        assert_eq!(rogue.send(&mut net, 1, word, &[]), Err(DropReason::Misbehaved));
        let good = [Frame::Hello(Hello::sign(&right, &rogue.hh, BootId(1)))];
        assert_eq!(rogue.send(&mut net, 1, CircuitWord::CONTROL, &good), Err(DropReason::UnknownLink));
    }
    assert!(net.nodes[1].links.snapshot().is_empty() && net.nodes[1].got.is_empty());
    let mut rogue = Rogue::new(&mut net, 1, stranger(1), Some(&key));
    let good = [Frame::Hello(Hello::sign(&right, &rogue.hh, BootId(1)))];
    rogue.send(&mut net, 1, CircuitWord::CONTROL, &good).unwrap();
    assert_eq!(net.nodes[1].links.snapshot()[0].peer, Some(right.id()));
}

// link.handshake.7
#[test]
fn an_unanswered_first_message_is_repeated_for_four_seconds() {
    for relay in [false, true] {
        let mut net = Net::new(&[relay, true]);
        net.filter = Box::new(|_, _| false);
        let begin = net.now.instant;
        let link = net.dial(0, 1);
        let mut times = vec![0];
        while net.nodes[0].losses() == 0 {
            let before = net.sent.len();
            net.run(MS);
            if net.sent.len() > before {
                times.push((net.now.instant - begin).as_millis());
            }
        }
        assert_eq!(times, [0, 250, 750, 1750, 2750, 3750]);
        assert_eq!(net.now.instant - begin, 4 * S);
        assert_eq!(net.nodes[0].events, [LinkEvent::Lost { link }]);
        let sent = net.sent(0, 1);
        assert!(sent.windows(2).all(|w| w[0][12..16] == w[1][12..16] && w[0][16..48] != w[1][16..48]));
        assert_eq!(net.nodes[0].links.shared.indices.len(), 0);
        assert_eq!(net.nodes[0].links.poll_timeout(), None);
    }
}

#[test]
fn an_answer_slower_than_the_repeats_still_counts() {
    for (relay, delay) in [(false, 100), (false, 350), (true, 350), (true, 800)] {
        let mut net = Net::new(&[relay, true]);
        net.weather.delay = delay * MS;
        let link = net.dial(0, 1);
        net.run(3 * S + S / 2);
        assert!(net.nodes[0].links.is_up(link), "{relay} {delay}");
        assert_eq!(stream(&mut net, 0, 1, link, 20, MS), 20);
        assert_eq!(net.nodes[1].links.snapshot().len(), 1);
    }
}

// link.address.2
#[test]
fn a_link_stays_with_its_address() {
    let mut net = Net::new(&[false, true, false]);
    net.filter = Box::new(|_, _| false);
    let link = net.dial(0, 1);
    let first = net.sent.pop().unwrap().2;
    net.deliver(0, 1, first).unwrap();
    let answer = net.sent.pop().unwrap().2;
    assert_eq!(net.deliver(2, 0, answer.clone()), Err(DropReason::WrongAddress));
    net.deliver(1, 0, answer).unwrap();
    let confirming = net.sent.pop().unwrap().2;
    assert_eq!(net.deliver(2, 1, confirming.clone()), Err(DropReason::WrongAddress));
    net.deliver(0, 1, confirming).unwrap();
    net.send(0, link, 5).unwrap();
    let cell = net.sent.pop().unwrap().2;
    assert_eq!(net.deliver(2, 1, cell.clone()), Err(DropReason::WrongAddress));
    net.deliver(0, 1, cell).unwrap();
    assert_eq!(net.nodes[1].got.len(), 1);
}

#[test]
fn keys_of_small_order_and_oneself_are_refused() {
    let mut net = Net::new(&[true, true]);
    let now = net.now;
    let (own, other) = (net.nodes[0].peer.unwrap(), net.nodes[1].peer.unwrap());
    assert_eq!(net.nodes[0].links.dial(now, &own), Err(DropReason::Misbehaved));
    let bad = Peer { link_key: DhPublic([0; 32]), ..other };
    assert_eq!(net.nodes[0].links.dial(now, &bad), Err(DropReason::Handshake));
    assert!(net.nodes[0].links.snapshot().is_empty());
    assert_eq!((net.nodes[0].losses(), net.nodes[0].links.shared.indices.len()), (0, 0));
    let (_, mut packet) = first(&mut net, 1, None, None);
    packet[16..48].fill(0);
    let mac1 = crate::keys::mac(&first_mac1_key(&other.link_key), &[&packet[..1380]]);
    packet[1380..1396].copy_from_slice(&mac1);
    assert_eq!(ask(&mut net, 1, stranger(1), &packet).unwrap_err(), DropReason::Handshake);
    // A rekey with such a key changes nothing either.
    let mut rogue = Rogue::new(&mut net, 1, stranger(1), None);
    rogue.send(&mut net, 1, CircuitWord::CONTROL, &[Frame::Ping(1)]).unwrap();
    net.now.instant += 2 * S;
    let rekey = [Frame::Rekey(Renewal { index: 5, ephemeral: DhPublic([0; 32]) })];
    assert_eq!(rogue.send(&mut net, 1, CircuitWord::CONTROL, &rekey), Err(DropReason::Misbehaved));
}

#[test]
fn nodes_of_another_network_or_name_are_not_understood() {
    let mut net = Net::with(vec![
        LinkConfig { network: NetworkId([8; 16]), ..config(false, 0) },
        config(true, 1),
        config(false, 2),
    ]);
    let link = net.dial(0, 1);
    let now = net.now;
    let misnamed = Peer { id: RelayId([1; 32]), ..net.nodes[1].peer.unwrap() };
    let other = net.nodes[2].links.dial(now, &misnamed).unwrap();
    net.drain(2);
    net.run(S);
    assert!(!net.nodes[0].links.is_up(link) && !net.nodes[2].links.is_up(other));
    assert!(net.nodes[1].drops.iter().all(|reason| *reason == DropReason::Handshake));
}

// link.replay.1
#[test]
fn a_data_packet_counts_once() {
    let mut net = Net::new(&[false, true]);
    let (a, _) = net.connect(0, 1);
    net.filter = Box::new(|_, _| false);
    net.sent.clear();
    for n in 0..9000 {
        let now = net.now;
        let (to, bytes) = net.nodes[0].seal(now, a, PacketType::Cell, n).unwrap();
        net.post(0, to, &bytes);
    }
    let all = net.sent(0, 1);
    // In another order than sent, each twice.
    for bytes in all.iter().step_by(2).chain(all.iter().skip(1).step_by(2)) {
        net.deliver(0, 1, bytes.clone()).unwrap();
        assert_eq!(net.deliver(0, 1, bytes.clone()), Err(DropReason::Replayed));
    }
    assert_eq!(net.nodes[1].got.len(), 9000);
    // Sequence numbers of another shard.
    let mut other = all[0].clone();
    other[4] = 1;
    assert_eq!(net.deliver(0, 1, other), Err(DropReason::Malformed));
}

#[test]
fn reserved_types_and_circuit_zero_are_dropped() {
    let mut net = Net::new(&[false, true]);
    let mut rogue = Rogue::new(&mut net, 1, stranger(1), None);
    for bits in [5 << 29 | 7, 6 << 29 | 7, 7 << 29 | 7] {
        let word = CircuitWord::from_bits(bits);
        assert_eq!(rogue.send(&mut net, 1, word, &[]), Err(DropReason::Malformed));
    }
    assert!(net.nodes[1].links.snapshot().is_empty(), "no word of this version was said");
    rogue.send(&mut net, 1, CircuitWord::CONTROL, &[]).unwrap();
    for bits in [5 << 29 | 7, 7 << 29 | 7, 0, 1 << 29, 3 << 29 | 1 << 27] {
        let word = CircuitWord::from_bits(bits);
        assert_eq!(rogue.send(&mut net, 1, word, &[]), Err(DropReason::Malformed));
    }
    assert!(net.nodes[1].got.is_empty());
}

// link.address.1
#[test]
fn a_relay_is_dialled_where_its_descriptor_says() {
    let mut net = Net::new(&[true, true]);
    let peer = net.nodes[1].peer.unwrap();
    let before = Peer { address: stranger(1), ..peer };
    let now = net.now;
    let link = net.nodes[0].links.dial(now, &before).unwrap();
    let mut out = [0; PACKET];
    assert_eq!(net.nodes[0].links.poll_transmit(now, &mut out), Some(stranger(1)));
    // A newer descriptor counts for the repeats; what comes from the old address is nobody's answer.
    assert_eq!(net.nodes[0].links.dial(now, &peer), Ok(link));
    let answer = ask(&mut net, 1, stranger(1), &out).unwrap().unwrap();
    assert_eq!(ask(&mut net, 0, stranger(1), &answer), Err(DropReason::WrongAddress));
    net.run(S);
    assert!(net.nodes[0].links.is_up(link));
    assert!(net.sent.iter().all(|(_, to, _)| *to < 2));
}

// directory.call.3
#[test]
fn who_comes_in_by_itself_is_told_from_who_was_dialled() {
    let mut net = Net::new(&[true, true, true]);
    let (ours, theirs) = net.connect(0, 1);
    assert!(!net.nodes[0].links.came_in(ours) && net.nodes[1].links.came_in(theirs));
    assert_eq!(net.dial(1, 0), theirs, "who has a link begins no other");
    let (one, other) = (net.dial(0, 2), net.dial(2, 0));
    net.run(S);
    for (n, dialled) in [(0, one), (2, other)] {
        let links = &net.nodes[n].links;
        let peer = links.peer(dialled);
        let inbound = links.snapshot().into_iter().find(|link| link.peer == peer && link.inbound).unwrap();
        assert!(inbound.up && !links.came_in(inbound.link), "what was sent there may have let it in");
    }
}
