//! Bounded repair over a bad network.

use std::collections::{HashMap, HashSet};

use super::handshake::{Rogue, stranger};
use super::*;
use crate::link::control::Ranges;

/// How often each sealed packet left `from`.
fn transmissions(net: &Net, from: usize, to: usize) -> HashMap<Bytes, usize> {
    let mut counts = HashMap::new();
    for bytes in net.sent(from, to) {
        *counts.entry(bytes).or_default() += 1;
    }
    counts
}

// link.seal.1: no two different packets under one index and counter.
fn assert_no_counter_twice(net: &Net) {
    for (from, to) in [(0, 1), (1, 0)] {
        let distinct: HashSet<Bytes> = net.sent(from, to).into_iter().filter(|b| b[..4] != [0; 4]).collect();
        let counters: HashSet<[u8; 12]> = distinct.iter().map(|b| *b.first_chunk().unwrap()).collect();
        assert_eq!(distinct.len(), counters.len());
    }
}

// link.repair.1, link.repair.2
#[test]
fn two_per_cent_of_loss_become_less_than_a_thousandth() {
    for relay in [false, true] {
        let mut net = Net::new(&[relay, true]);
        let (a, b) = net.connect(0, 1);
        net.weather = Weather { loss: 20, ..CALM };
        net.sent.clear();
        let count = 10_000;
        let came = stream(&mut net, 0, 1, a, count, MS);
        assert!(came >= 9_990, "{came}");
        // Identical packets, at most two or four repairs of each.
        let most = transmissions(&net, 0, 1).into_values().max().unwrap() - 1;
        assert!((1..=if relay { 2 } else { 4 }).contains(&most), "{most}");
        assert_no_counter_twice(&net);
        let repaired = net.nodes[0].links.snapshot()[0].repaired;
        assert!((150..500).contains(&repaired), "{repaired}");
        let back = stream(&mut net, 1, 0, b, 1000, MS);
        assert!(back >= 998, "{back}");
    }
}

#[test]
fn a_link_survives_bad_weather() {
    // In 1000: loss, and what is left of it; jitter in ms, which repair takes for loss; duplicates.
    for (loss, left, jitter, twice) in
        [(0, 0, 0, 0), (50, 1, 0, 0), (100, 10, 1, 20), (200, 60, 1, 100), (20, 4, 30, 0), (0, 0, 30, 300)]
    {
        let mut net = Net::new(&[true, true]);
        let (a, b) = net.connect(0, 1);
        net.weather = Weather { delay: 15 * MS, jitter: jitter * MS, loss, twice };
        let came = stream(&mut net, 0, 1, a, 2000, MS) + stream(&mut net, 1, 0, b, 2000, MS);
        let lost = 1000 * (4000 - came) / 4000;
        assert!(lost <= left, "{loss} {jitter}: {lost} in 1000");
        assert_eq!(net.nodes[0].losses() + net.nodes[1].losses(), 0);
        let distinct: HashSet<_> = net.nodes[1].got.iter().map(|(_, _, n)| *n).collect();
        assert_eq!(distinct.len(), net.nodes[1].got.len(), "link.replay.1");
        assert_no_counter_twice(&net);
    }
}

#[test]
fn calm_weather_needs_no_repair() {
    let mut net = Net::new(&[true, true]);
    let (a, _) = net.connect(0, 1);
    // Reordering within 2 ms is no loss.
    net.weather.jitter = 2 * MS;
    assert_eq!(stream(&mut net, 0, 1, a, 3000, Duration::from_micros(300)), 3000);
    assert_eq!(net.nodes[0].links.snapshot()[0].repaired, 0);
}

// link.repair.3
#[test]
fn tail_repairs_the_last_packet_of_a_burst() {
    let mut net = Net::new(&[true, true]);
    let (a, _) = net.connect(0, 1);
    net.run(S);
    net.sent.clear();
    for n in 0..10 {
        if n == 8 {
            net.filter = Box::new(|_, _| false);
        }
        net.send(0, a, n).unwrap();
    }
    net.filter = Box::new(|_, _| true);
    let begin = net.now.instant;
    while net.nodes[1].got.len() < 10 {
        net.run(MS);
    }
    // TAIL after RTT/4 = 5 ms, one way, reordering, report, one way.
    assert!(net.now.instant - begin <= 40 * MS, "{:?}", net.now.instant - begin);
    net.run(S / 2);
    // 10 cells, two TAILs, two repairs, and TAIL is not followed by TAIL.
    assert_eq!(net.sent(0, 1).len(), 14);
    assert_eq!(net.sent(1, 0).len(), 1, "one NACK");
    // The first TAIL is lost: the second does it.
    net.sent.clear();
    let mut dropped = 0;
    let us = net.nodes[0].address;
    net.filter = Box::new(move |from, _| {
        dropped += usize::from(from == us);
        from != us || dropped > 2
    });
    net.send(0, a, 10).unwrap();
    net.run(S / 2);
    assert_eq!((net.nodes[1].got.len(), net.sent(0, 1).len()), (11, 4));
}

// link.repair.2
#[test]
fn repairs_stay_within_the_budget() {
    let mut net = Net::new(&[false, true]);
    let (_, b) = net.connect(0, 1);
    let mut rogue = Rogue::new(&mut net, 1, stranger(1), None);
    rogue.send(&mut net, 1, CircuitWord::CONTROL, &[Frame::Ping(1)]).unwrap();
    let LinkEvent::Up { link } = net.nodes[1].links.poll_event().unwrap() else { panic!() };
    assert_ne!(link, b);
    let seal = |net: &mut Net, count| {
        for n in 0..count {
            let now = net.now;
            net.nodes[1].seal(now, link, PacketType::Cell, n).unwrap();
        }
    };
    seal(&mut net, 1000);
    // Everything is reported again and again, for half a second.
    let everything = [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff].repeat(64);
    let nack = |net: &mut Net, rogue: &mut Rogue| {
        let frames = [Frame::Nack(Ranges(&everything))];
        rogue.send(net, 1, CircuitWord::CONTROL, &frames).unwrap();
    };
    let repaired = |net: &Net| net.nodes[1].links.snapshot().iter().map(|info| info.repaired).sum::<u64>();
    for _ in 0..10 {
        nack(&mut net, &mut rogue);
        net.run(5 * MS);
        net.drain(1);
    }
    let first = repaired(&net);
    assert!((250..=1000 / 4 + 80).contains(&first), "{first}");
    // Later they are too old, however many the budget would allow.
    net.run(3 * S);
    nack(&mut net, &mut rogue);
    net.drain(1);
    assert_eq!(repaired(&net), first);
    // A few are repaired on an idle link too: each as often as the 64 equal ranges ask for and the limit grants.
    net.run(2 * S);
    seal(&mut net, 5);
    nack(&mut net, &mut rogue);
    net.drain(1);
    assert_eq!(repaired(&net), first + 5 * 4);
}

#[test]
fn an_idle_link_keeps_no_packets_and_all_links_share_a_limit() {
    let mut net = Net::new(&[false, true]);
    net.nodes[0].links.shared.memory = Memory::new(100_000);
    let (a, _) = net.connect(0, 1);
    net.run(5 * S);
    assert_eq!(net.nodes[0].links.shared.memory.bytes(), 0);
    assert_eq!(stream(&mut net, 0, 1, a, 500, MS / 100), 500);
    let bytes = net.nodes[0].links.shared.memory.bytes();
    assert!((1..=100_000).contains(&bytes), "{bytes}");
    net.run(5 * S);
    assert_eq!(net.nodes[0].links.shared.memory.bytes(), 0);
}
