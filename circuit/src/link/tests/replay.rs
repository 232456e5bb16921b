//! Somebody who has recorded everything plays it again, from where it came and from elsewhere, at once and later.

use super::handshake::{ask, first, stranger};
use super::*;

/// Makes node 1 ask for cookies.
fn load(net: &mut Net) {
    for n in 0..201 {
        let (_, packet) = first(net, 1, None, None);
        ask(net, 1, stranger(n % 50), &packet).unwrap();
    }
}

fn is_handshake(bytes: &Bytes) -> bool {
    bytes[..4] == [0; 4]
}

/// What a replay must not change; counters of packets are no part of it.
fn lasting(node: &Node) -> String {
    let l = &node.links;
    let links: Vec<_> = l.snapshot().iter().map(|i| (i.link, i.peer, i.up, i.circuits)).collect();
    let addresses: Vec<_> = l.slots.iter().flat_map(|s| &s.link).map(|l| l.address).collect();
    format!("{links:?} {addresses:?} {} {} {}", l.answers.len(), l.shared.indices.len(), l.posted.len())
}

// link.open.1, link.replay.1, link.handshake.3, link.handshake.4, link.address.2, link.dos.4
#[test]
fn everything_played_again_changes_nothing_that_lasts() {
    for relay in [false, true] {
        let mut net = Net::new(&[relay, true]);
        load(&mut net);
        let recorded = net.sent.len();
        let (a, b) = net.connect(0, 1);
        // The strangers are forgotten.
        net.run(6 * S);
        hold(&mut net, a, b);
        assert_eq!(stream(&mut net, 0, 1, a, 50, MS) + stream(&mut net, 1, 0, b, 50, MS), 100);
        let all: Vec<_> = net.sent[recorded..].to_vec();
        let kinds: Vec<u8> = all.iter().filter(|(.., b)| is_handshake(b)).map(|(.., b)| b[4]).collect();
        assert_eq!(kinds, if relay { [2, 4, 2, 3] } else { [1, 4, 1, 3] }, "cookie included");
        let before = [0, 1].map(|n: usize| lasting(&net.nodes[n]));
        let got = [0, 1].map(|n: usize| net.nodes[n].got.len());
        // At once, after the cookie's secret is no longer accepted, and after a change of keys.
        for pause in [Duration::ZERO, 250 * S, 60 * S] {
            net.run(pause);
            for (_, to, bytes) in &all {
                for (from, to) in
                    [(net.nodes[0].address, *to), (net.nodes[1].address, *to), (stranger(9), *to)]
                {
                    let now = net.now;
                    let taken = net.nodes[to].receive(now, from, &mut bytes.clone());
                    // A first message of a client is answered to whoever sends it.
                    assert!(taken.is_err() || (!relay && bytes[4] == 1 && is_handshake(bytes)), "{taken:?}");
                    net.drain(to);
                }
            }
            net.run(6 * S);
            assert_eq!([0, 1].map(|n: usize| net.nodes[n].got.len()), got);
            assert_eq!([0, 1].map(|n: usize| lasting(&net.nodes[n])), before);
        }
        assert!(net.nodes.iter().all(|node| (node.ups(), node.losses()) == (1, 0)));
        assert_eq!(stream(&mut net, 0, 1, a, 50, MS) + stream(&mut net, 1, 0, b, 50, MS), 100);
    }
}

/// Circuits keep the link.
fn hold(net: &mut Net, a: LinkId, b: LinkId) {
    net.nodes[0].links.hold(a);
    net.nodes[1].links.hold(b);
}

// link.dos.4, link.address.2
#[test]
fn a_cookie_of_another_address_or_dial_changes_nothing() {
    let mut net = Net::new(&[false, true]);
    load(&mut net);
    net.filter = Box::new(|_, _| false);
    net.dial(0, 1);
    let message = net.sent.pop().unwrap().2;
    net.deliver(0, 1, message).unwrap();
    let cookie = net.sent.pop().unwrap().2;
    assert_eq!(cookie[4], 4);
    let now = net.now;
    let elsewhere = net.nodes[0].receive(now, stranger(1), &mut cookie.clone());
    assert_eq!(elsewhere, Err(DropReason::WrongAddress));
    // The dial is given up, and the next one knows nothing of it.
    net.run(5 * S);
    assert_eq!(net.nodes[0].losses(), 1);
    assert_eq!(net.deliver(1, 0, cookie.clone()), Err(DropReason::UnknownLink));
    net.dial(0, 1);
    assert_eq!(net.deliver(1, 0, cookie), Err(DropReason::UnknownLink));
}

// link.handshake.4: what the threat model says of forged addresses.
#[test]
fn who_forges_the_address_of_a_client_can_keep_it_from_coming_up_but_not_take_its_link() {
    let mut net = Net::new(&[false, true]);
    let victim = net.nodes[0].address;
    net.dial(0, 1);
    net.run(15 * MS);
    // Three first messages in its name, before its own is confirmed: the oldest is forgotten.
    for _ in 0..3 {
        let (_, packet) = first(&mut net, 1, None, None);
        ask(&mut net, 1, victim, &packet).unwrap();
    }
    net.run(10 * MS);
    let link = LinkId { slot: 0, generation: 0 };
    assert!(net.nodes[0].links.is_up(link), "the answer was on its way");
    assert_eq!(net.send(0, link, 1), Ok(()));
    net.run(20 * MS);
    assert_eq!(net.nodes[1].ups(), 0, "the relay has forgotten the session");
    // It finds out after two seconds, and dials again.
    net.run(3 * S);
    let LinkEvent::Up { link } = *net.nodes[0].events.last().unwrap() else { panic!() };
    net.send(0, link, 2).unwrap();
    net.run(S);
    assert_eq!(net.nodes[1].ups(), 1);
    assert_eq!(net.nodes[1].got.len(), 1);

    // Once it stands, nothing that is sent in its name displaces it.
    for _ in 0..20 {
        let (_, packet) = first(&mut net, 1, None, None);
        ask(&mut net, 1, victim, &packet).unwrap();
    }
    assert_eq!(stream(&mut net, 0, 1, link, 20, MS), 20);
}
