//! Links over time: silence, restarts, new keys, the end.

use super::*;
use crate::link::session::{LAST_AGE, RENEW_PACKETS, Side};

/// The receiver index of the current session.
fn index(net: &mut Net, node: usize, link: LinkId) -> u32 {
    net.nodes[node].links.at(link.slot).unwrap().current.as_ref().unwrap().opener.index()
}

fn hold_both(net: &mut Net, links: (LinkId, LinkId)) {
    net.nodes[0].links.hold(links.0);
    net.nodes[1].links.hold(links.1);
}

/// Handshake packets with Noise's first messages that node 0 sent.
fn first_messages(net: &Net) -> usize {
    net.sent(0, 1).iter().filter(|b| b[..4] == [0; 4]).count()
}

// link.live.1
#[test]
fn silence_is_asked_then_redialled_then_dead() {
    for relay in [false, true] {
        let mut net = Net::new(&[relay, true]);
        let (a, b) = net.connect(0, 1);
        hold_both(&mut net, (a, b));
        net.run(3 * S);
        net.filter = Box::new(|_, _| false);
        net.sent.clear();
        let begin = net.now.instant;
        net.send(0, a, 1).unwrap();
        net.run(100 * MS);
        // The cell and two TAILs.
        assert_eq!(net.sent(0, 1).len(), 3);
        net.run_until(begin + 999 * MS);
        assert_eq!(net.sent(0, 1).len(), 3);
        net.run(MS);
        assert_eq!(net.sent(0, 1).len(), 4, "PING after 1 s");
        net.run_until(begin + 1999 * MS);
        assert_eq!(first_messages(&net), 0);
        net.run(MS);
        assert_eq!(first_messages(&net), 1, "a new handshake after 2 s");
        net.run_until(begin + 3999 * MS);
        assert!(net.nodes[0].links.is_up(a));
        net.run(MS);
        assert_eq!(net.nodes[0].events.last(), Some(&LinkEvent::Lost { link: a }));
        // The other side has nothing to say, until its keepalive is not answered.
        assert!(net.nodes[1].links.is_up(b));
        net.run(20 * S);
        assert_eq!(net.nodes[1].events.last(), Some(&LinkEvent::Lost { link: b }));
        assert!(net.sent(1, 0).iter().all(|bytes| bytes[..4] != [0; 4]), "the responder does not dial");
        for node in &net.nodes {
            assert_eq!((node.links.shared.indices.len(), node.links.shared.timers.len()), (0, 0));
            assert_eq!(node.links.shared.memory.bytes(), 0);
        }
    }
}

// link.live.1
#[test]
fn a_peer_that_only_listens_is_alive() {
    let mut net = Net::new(&[true, true]);
    let (a, _) = net.connect(0, 1);
    assert_eq!(stream(&mut net, 0, 1, a, 1000, 20 * MS), 1000);
    assert_eq!(net.nodes[0].losses() + net.nodes[1].losses(), 0);
    // An answer now and then, not one per packet.
    assert!(net.sent(1, 0).len() < 100, "{}", net.sent(1, 0).len());
}

#[test]
fn an_idle_link_is_silent() {
    let mut net = Net::new(&[true, true]);
    net.connect(0, 1);
    net.run(5 * S);
    net.sent.clear();
    net.run(100 * S);
    assert!(net.sent.is_empty(), "{}", net.sent.len());
}

// link.live.2
#[test]
fn a_link_with_circuits_is_kept_alive() {
    let mut net = Net::new(&[false, true]);
    let (a, b) = net.connect(0, 1);
    hold_both(&mut net, (a, b));
    net.run(5 * S);
    net.sent.clear();
    net.run(20 * S);
    assert!(!net.sent(0, 1).is_empty());
    net.run(580 * S);
    assert!(net.nodes[0].links.is_up(a) && net.nodes[1].links.is_up(b));
    // PING, two TAILs and their answers every 15 s or less; new keys every two minutes.
    let a_minute = net.sent.len() / 10;
    assert!((8..80).contains(&a_minute), "{a_minute}");
    // Without circuits, and without cells for long, it is closed at once at both sides.
    net.nodes[0].links.release(net.now, a);
    net.run(S);
    assert_eq!((net.nodes[0].losses(), net.nodes[1].losses()), (1, 1));
}

// link.live.2
#[test]
fn a_link_without_circuits_is_closed_after_two_minutes_without_cells() {
    let mut net = Net::new(&[true, true]);
    let (a, _) = net.connect(0, 1);
    net.run(100 * S);
    net.send(0, a, 1).unwrap();
    net.run(119 * S);
    assert!(net.nodes[0].links.is_up(a));
    net.run(2 * S);
    assert_eq!((net.nodes[0].losses(), net.nodes[1].losses()), (1, 1));
    for node in &mut net.nodes {
        assert!(node.links.snapshot().is_empty() && node.links.by_relay.is_empty());
        assert_eq!((node.links.shared.indices.len(), node.links.poll_timeout()), (0, None));
    }
}

// link.handshake.6, link.live.1
#[test]
fn a_restarted_responder_is_found_within_seconds() {
    for relay in [false, true] {
        let mut net = Net::new(&[relay, true]);
        let (a, _) = net.connect(0, 1);
        net.nodes[0].links.hold(a);
        net.run(3 * S);
        net.restart(1, true);
        net.send(0, a, 1).unwrap();
        net.run(2 * S + S / 2);
        let [LinkEvent::Lost { link }, LinkEvent::Up { link: new }] = net.nodes[0].events[1..] else {
            panic!("{:?}", net.nodes[0].events)
        };
        assert_eq!(link, a);
        assert_ne!(new, a);
        assert!(!net.nodes[0].links.is_up(a) && net.nodes[0].links.is_up(new));
        assert_eq!(net.nodes[0].links.snapshot()[0].circuits, 0);
        assert_eq!(stream(&mut net, 0, 1, new, 20, MS), 20);
        assert_eq!(net.dial(0, 1), new);
    }
}

// link.handshake.6
#[test]
fn a_restarted_initiator_ends_its_old_links_by_its_first_hello() {
    let mut net = Net::new(&[true, true]);
    let (_, b) = net.connect(0, 1);
    // A link in the other direction, which nobody uses.
    let peer = net.nodes[0].peer.unwrap();
    net.nodes[1].links.by_relay.clear();
    let back = net.nodes[1].links.dial(net.now, &peer).unwrap();
    net.nodes[1].links.by_relay.get_mut(&peer.id).unwrap().accepted = Some(b.slot);
    net.drain(1);
    net.run(S);
    assert!(net.nodes[1].links.is_up(back) && net.nodes[1].links.is_up(b));
    net.restart(0, true);
    net.dial(0, 1);
    net.run(S);
    assert_eq!(net.nodes[1].losses(), 2);
    assert!(!net.nodes[1].links.is_up(back) && !net.nodes[1].links.is_up(b));
    let LinkEvent::Up { link } = *net.nodes[1].events.last().unwrap() else { panic!() };
    assert!(link != b && net.nodes[1].links.is_up(link));
}

#[test]
fn a_silent_accepted_link_is_not_relied_on() {
    let mut net = Net::new(&[true, true]);
    let (_, b) = net.connect(0, 1);
    net.restart(0, true);
    net.send(1, b, 1).unwrap();
    net.run(900 * MS);
    assert_eq!(net.dial(1, 0), b);
    net.run(200 * MS);
    let new = net.dial(1, 0);
    net.run(S);
    assert_ne!(new, b);
    assert!(net.nodes[1].links.is_up(new) && !net.nodes[1].links.is_up(b));
}

#[test]
fn a_new_handshake_of_the_same_relay_keeps_link_and_circuits() {
    let mut net = Net::new(&[true, true]);
    let (a, b) = net.connect(0, 1);
    hold_both(&mut net, (a, b));
    net.run(3 * S);
    // Silence for three seconds: the initiator shakes hands again as soon as it can.
    net.filter = Box::new(|_, _| false);
    net.send(0, a, 1).unwrap();
    net.run(3 * S);
    net.filter = Box::new(|_, _| true);
    net.run(5 * S);
    assert_eq!(net.nodes[0].losses() + net.nodes[1].losses(), 0);
    assert_eq!(net.nodes[0].links.snapshot()[0].circuits, 1);
    assert_eq!(stream(&mut net, 0, 1, a, 50, MS) + stream(&mut net, 1, 0, b, 50, MS), 100);
    assert!(net.nodes.iter().all(|node| node.links.shared.indices.len() == 1));
}

#[test]
fn both_directions_recover_from_a_handshake_while_packets_flow() {
    let mut net = Net::new(&[true, true]);
    let (a, b) = net.connect(0, 1);
    hold_both(&mut net, (a, b));
    // The responder has forgotten the session's keys, as if it had closed: only a new handshake helps.
    let slot = b.slot;
    let link = net.nodes[1].links.at(slot).unwrap();
    let old = link.current.take().unwrap();
    net.nodes[1].links.shared.indices.free(old.opener.index());
    let before = net.nodes[1].got.len();
    for n in 0..400 {
        let _ = net.send(0, a, n);
        net.run(10 * MS);
    }
    let came = net.nodes[1].got.len() - before;
    assert!((150..300).contains(&came), "{came}");
    assert_eq!(net.nodes[0].losses() + net.nodes[1].losses(), 0);
}

// link.rekey.1, link.control.2
#[test]
fn keys_are_renewed_under_traffic_and_loss() {
    for (relay, loss) in [(false, 0), (true, 0), (false, 50), (true, 50)] {
        let mut net = Net::new(&[relay, true]);
        let (a, b) = net.connect(0, 1);
        hold_both(&mut net, (a, b));
        net.weather.loss = loss;
        let first: [u8; 4] = *net.sent(0, 1).last().unwrap().first_chunk().unwrap();
        net.run(119 * S);
        let (mut old, mut new) = (0, 0);
        for n in 0..3000 {
            net.sent.clear();
            net.send(0, a, n).unwrap();
            if net.sent[0].2[..4] == first {
                old += 1;
            } else {
                new += 1;
            }
            net.send(1, b, n).unwrap();
            net.run(2 * MS);
        }
        net.run(S);
        assert!(old > 200 && new > 2000, "{old} {new}");
        let came = [net.nodes[0].got.len(), net.nodes[1].got.len()];
        let least = if loss == 0 { 3000 } else { 2970 };
        assert!(came.iter().all(|n| (least..=3000).contains(n)), "{came:?} {loss}");
        assert_eq!(net.nodes[0].losses() + net.nodes[1].losses(), 0);
        net.run(5 * S);
        // Only the new session is left, and the old index is nobody's.
        assert!(net.nodes.iter().all(|node| node.links.shared.indices.len() == 1));
        assert_eq!(net.nodes[1].links.shared.indices.find(u32::from_be_bytes(first)), None);
    }
}

// link.rekey.1
#[test]
fn old_keys_open_for_three_seconds() {
    let mut net = Net::new(&[false, true]);
    let (a, b) = net.connect(0, 1);
    hold_both(&mut net, (a, b));
    net.run(119 * S);
    let now = net.now;
    let old: Vec<_> = (0..2).map(|n| net.nodes[0].seal(now, a, PacketType::Cell, n).unwrap().1).collect();
    // They are not to be repaired.
    net.nodes[0].links.at(a.slot).unwrap().current.as_mut().unwrap().ring.clear();
    let before = index(&mut net, 1, b);
    while index(&mut net, 1, b) == before {
        net.run(MS);
    }
    let switched = net.now.instant;
    net.run_until(switched + 2900 * MS);
    assert_eq!(net.deliver(0, 1, old[0].clone()), Ok(()));
    net.run_until(switched + 3001 * MS);
    assert_eq!(net.deliver(0, 1, old[1].clone()), Err(DropReason::UnknownLink));
    assert_eq!(net.nodes[1].got.len(), 1);
}

// link.rekey.2
#[test]
fn keys_that_cannot_be_renewed_seal_for_four_minutes() {
    let mut net = Net::new(&[false, true]);
    let begin = net.now;
    let (a, b) = net.connect(0, 1);
    hold_both(&mut net, (a, b));
    // Nobody is the initiator, so nobody asks for new keys.
    net.nodes[0].links.at(a.slot).unwrap().current.as_mut().unwrap().side = Side::Responder;
    net.run(239 * S);
    assert!(net.nodes[0].links.is_up(a) && net.nodes[1].links.is_up(b));
    net.send(0, a, 1).unwrap();
    let late = Now { instant: begin.instant + LAST_AGE + S, ..net.now };
    assert_eq!(net.nodes[0].seal(late, a, PacketType::Cell, 1).map(drop), Err(DropReason::LinkDown));
    net.run(2 * S);
    assert_eq!((net.nodes[0].losses(), net.nodes[1].losses()), (1, 1));
}

#[test]
fn many_packets_renew_keys_early() {
    let mut net = Net::new(&[false, true]);
    let (a, b) = net.connect(0, 1);
    hold_both(&mut net, (a, b));
    net.run(5 * S);
    let before = index(&mut net, 0, a);
    let session = net.nodes[0].links.at(a.slot).unwrap().current.as_mut().unwrap();
    session.sealer.skip(RENEW_PACKETS);
    net.send(0, a, 1).unwrap();
    net.run(S);
    assert_ne!(index(&mut net, 0, a), before);
    assert_eq!(stream(&mut net, 0, 1, a, 20, MS), 20);
    // link.rekey.2: 2^33 packets are the end.
    let session = net.nodes[0].links.at(a.slot).unwrap().current.as_mut().unwrap();
    session.sealer.skip(2 * RENEW_PACKETS);
    assert_eq!(net.send(0, a, 1), Err(DropReason::LinkDown));
}

#[test]
fn the_round_trip_and_the_clock_are_measured() {
    let mut net = Net::new(&[false, true]);
    net.weather.delay = 40 * MS;
    let (a, b) = net.connect(0, 1);
    assert_eq!((net.nodes[0].links.rtt(a), net.nodes[1].links.rtt(b)), (Some(80 * MS), Some(80 * MS)));
    assert_eq!(net.nodes[0].links.peer_clock_ms(a), Some(0));
    net.weather.delay = 20 * MS;
    stream(&mut net, 0, 1, a, 3000, 20 * MS);
    let rtt = net.nodes[0].links.rtt(a).unwrap();
    assert!((40 * MS..60 * MS).contains(&rtt), "{rtt:?}");
    // A clock that is an hour fast.
    let mut fast = Net::new(&[false, true]);
    let peer = fast.nodes[1].peer.unwrap();
    let wrong = Now { unix_ms: fast.now.unix_ms + 3_600_000, ..fast.now };
    let link = fast.nodes[0].links.dial(wrong, &peer).unwrap();
    fast.drain(0);
    fast.run(10 * MS);
    let mut answer = fast.sent(1, 0).remove(0);
    let later = Now { instant: wrong.instant + 20 * MS, unix_ms: wrong.unix_ms + 20 };
    fast.nodes[0].receive(later, peer.address, &mut answer).unwrap();
    assert_eq!(fast.nodes[0].links.peer_clock_ms(link), Some(-3_600_000));
}
