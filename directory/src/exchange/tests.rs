//! Tests of gossip and of the exchange of sets.

use std::time::{Duration, Instant};

use alloy_primitives::Address;
use circuit::keys::{DhPublic, IdentitySecret};
use proptest::prelude::*;

use super::*;
use crate::chain::{Chain, Wei};
use crate::descriptor::Descriptor;
use crate::sample::{NOW, chain, descriptor, payment};

mod attacks;
mod vectors;

#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: NOW * 1000 }
}

fn after(now: Now, time: Duration) -> Now {
    Now { instant: now.instant + time, unix_ms: now.unix_ms + u64::try_from(time.as_millis()).unwrap() }
}

fn identity(n: u32) -> IdentitySecret {
    let mut seed = [0x77; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    IdentitySecret::from_bytes(&seed)
}

fn owner(n: u32) -> Address {
    Address::left_padding_from(&(n + 1).to_be_bytes())
}

/// The relay `n`, after a change.
fn with(n: u32, change: impl FnOnce(&mut Descriptor)) -> SignedDescriptor {
    let mut link_key = [0x55; 32];
    link_key[..4].copy_from_slice(&n.to_be_bytes());
    let mut new = Descriptor {
        id: identity(n).id(),
        network: chain().open_network(),
        link_key: DhPublic(link_key),
        payment: Some(crate::payment::Payment { owner: owner(n), ..payment(1) }),
        ..descriptor(1)
    };
    change(&mut new);
    SignedDescriptor::sign(new, &identity(n)).unwrap()
}

fn relay(n: u32) -> SignedDescriptor {
    with(n, |_| ())
}

fn newer(n: u32, sequence: u64) -> SignedDescriptor {
    with(n, |d| d.sequence = sequence)
}

/// A registry in which the relays 0 to `count` are registered by their owners, one after the other.
fn registry(count: u32) -> Registry {
    let mut registry = Registry::default();
    for n in 0..count {
        registry.apply(u64::from(n) + 1, owner(n), identity(n).id(), true).unwrap();
        registry.set_bond(owner(n), chain().minimum_bond);
    }
    registry
}

/// A node that believes a registry of `registered` relays, and knows some.
fn node(registered: u32, known: impl IntoIterator<Item = SignedDescriptor>) -> Exchange {
    believing(Arc::new(registry(registered)), known)
}

fn believing(registry: Arc<Registry>, known: impl IntoIterator<Item = SignedDescriptor>) -> Exchange {
    let mut view = View::new(chain().open_network()).with_chain(chain()).with_local(true);
    view.set_registry(registry);
    for relay in known {
        view.insert(relay).unwrap();
    }
    Exchange::new(view, None)
}

fn peer_at(n: u32, ip: [u8; 4]) -> PeerKey {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&n.to_be_bytes());
    PeerKey::new(id, ip.into())
}

fn peer(n: u32) -> PeerKey {
    peer_at(n, [192, 0, 2, 1])
}

/// Asks until the answer says that there is no more; all reports.
fn ask(now: Now, asker: &mut Exchange, first: Vec<u8>, answerer: &mut Exchange) -> Vec<Report> {
    let mut reports = vec![];
    let mut request = Some(first);
    while let Some(bytes) = request.take() {
        let answer = answerer.handle_request(now, peer(1), &bytes).unwrap();
        let mut report = asker.handle_response(now, peer(2), &answer).unwrap();
        request = report.next.take();
        reports.push(report);
    }
    reports
}

/// Who knows which sequence of which relay.
fn known(node: &Exchange) -> Vec<(RelayId, u64)> {
    node.view().iter().map(|relay| (relay.id, relay.sequence)).collect()
}

// directory.exchange.1
#[test]
fn the_bytes_are_those_of_the_specification() {
    let network = chain().open_network();
    let mut empty = node(2, []);
    let digest = blake3::derive_key("chive v1 descriptor set", &network.0);
    assert_eq!(empty.probe(), [&[1][..], &network.0, &digest].concat());
    assert_eq!(empty.request(), [&[2][..], &network.0, &digest, &[0; 32], &[0, 0]].concat());
    let relay = relay(0);
    let length = u16::try_from(relay.bytes().len()).unwrap().to_be_bytes();
    let push = [&[3][..], &network.0, &[0, 1], &length, relay.bytes()].concat();
    assert_eq!(empty.push(&[Arc::new(relay.clone())]), push);

    let mut one = node(2, [relay.clone()]);
    let of_relay = blake3::derive_key("chive v1 descriptor digest", relay.bytes());
    let of_one = blake3::derive_key("chive v1 descriptor set", &[&network.0[..], &of_relay].concat());
    let keyed = blake3::keyed_hash(&of_one, &of_relay);
    let short = &keyed.as_bytes()[..6];
    assert_eq!(one.request(), [&[2][..], &network.0, &of_one, &[0; 32], &[0, 1], short].concat());
    let state = [&of_one[..], &[0, 1], &2_u64.to_be_bytes()].concat();
    let answer = one.handle_request(start(), peer(1), &empty.request()).unwrap();
    let descriptors = [&[0, 1][..], &length, relay.bytes()].concat();
    assert_eq!(answer, [&[2][..], &state, &digest, &[0], &descriptors, &[0, 0]].concat());
    let answer = empty.handle_request(start(), peer(1), &one.request()).unwrap();
    let state = [&digest[..], &[0, 0], &2_u64.to_be_bytes()].concat();
    assert_eq!(answer, [&[2][..], &state, &of_one, &[0, 0, 0, 0, 1], short].concat());
    let request = empty.request();
    let answer = empty.handle_request(start(), peer(1), &request).unwrap();
    assert_eq!(answer, [&[1][..], &state].concat());
}

// directory.exchange.1
#[test]
fn every_prefix_and_every_longer_message_is_malformed() {
    let (mut one, mut two) = (node(9, (0..3).map(relay)), node(9, (2..6).map(relay)));
    let requests = [one.probe(), one.request(), one.push(&[Arc::new(relay(0)), Arc::new(relay(1))])];
    for request in &requests {
        let (network, read) = Request::read(request).unwrap();
        assert_eq!((network, read.write(network).as_ref()), (chain().open_network(), Ok(request)));
        for cut in 0..request.len() {
            assert!(Request::read(&request[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Request::read(&[&request[..], &[0]].concat()).is_err());
    }
    for request in &requests[..2] {
        let answer = two.handle_request(start(), peer(1), request).unwrap();
        let read = Answer::read(&answer).unwrap();
        assert_eq!(read.write().as_ref(), Ok(&answer));
        for cut in 0..answer.len() {
            assert!(Answer::read(&answer[..cut]).is_err(), "cut at {cut}");
        }
        assert!(Answer::read(&[&answer[..], &[0]].concat()).is_err());
    }
}

// directory.exchange.1
#[test]
fn what_no_honest_node_sends_is_malformed() {
    let mut empty = node(0, []);
    let (probe, request) = (empty.probe(), empty.request());
    let head = &request[..request.len() - 2];
    let long = vec![0; MAX_ANSWER + 1];
    let kind = |kind: u8| [&[kind][..], &probe[1..]].concat();
    let too_long = [&[3][..], &probe[1..17], &[0, 1, 4, 1], &[0; 1_025]].concat();
    for bad in [
        kind(0),
        kind(4),
        [head, &[0, 2], &[0, 0, 0, 0, 0, 2], &[0, 0, 0, 0, 0, 1]].concat(),
        [head, &[0x40, 1], &vec![0; 6 * 16_385]].concat(),
        too_long,
        long[..=MAX_REQUEST].to_vec(),
    ] {
        assert!(Request::read(&bad).is_err());
        assert!(matches!(empty.handle_request(start(), peer(1), &bad), Err(Denied::Malformed(_))));
    }
    let state = [&[0; 32][..], &[0, 1], &[0; 8]].concat();
    let more = |more: u8| [&[2][..], &state, &[0; 32], &[more, 0, 0, 0, 0]].concat();
    assert!(Answer::read(&more(0)).is_ok() && Answer::read(&more(1)).is_ok());
    for bad in [more(2), [&[0][..], &state].concat(), [&[3][..], &state].concat(), long] {
        assert!(Answer::read(&bad).is_err());
    }
    assert_eq!(empty.counters().malformed, 6);
}

// directory.exchange.2
#[test]
fn equal_sets_cost_one_small_message_each_way() {
    let (mut one, mut two) = (node(300, (0..300).map(relay)), node(300, (0..300).rev().map(relay)));
    let probe = one.probe();
    let answer = two.handle_request(start(), peer(1), &probe).unwrap();
    assert_eq!((probe.len(), answer.len()), (49, 43));
    let report = one.handle_response(start(), peer(2), &answer).unwrap();
    assert!(report.same && report.next.is_none() && !report.hides(), "{report:?}");
    assert_eq!((report.told, report.known, report.missing, report.seq), (300, 300, 0, 300));
}

// directory.exchange.3
#[test]
fn a_difference_is_exchanged_in_one_round_and_the_asker_learns_what_the_other_lacks() {
    let count = 1_000;
    // Of 1,000 relays each lacks five that the other has, and has five older ones.
    let mine = (0..count - 5).map(|n| if n < 5 { newer(n, 8) } else { relay(n) });
    let theirs = (5..count).map(|n| if n < 10 { newer(n, 8) } else { relay(n) }).chain([]);
    let (mut one, mut two) = (node(count, mine), node(count, theirs));
    assert!(one.changed() && !one.changed());
    let request = one.request();
    let reports = ask(start(), &mut one, request, &mut two);
    assert_eq!(reports.len(), 1);
    let report = &reports[0];
    assert_eq!((report.taken, report.ignored, report.known, report.missing), (10, 0, 1_000, 0));
    assert_eq!((report.lacking.len(), report.hidden, report.hides()), (5, 5, false));
    assert!(one.changed());
    let answer = two.handle_request(start(), peer(1), &one.push(&report.lacking)).unwrap();
    assert!(one.handle_response(start(), peer(2), &answer).unwrap().same);
    assert_eq!(known(&one), known(&two));
    // A relay of which the peer has an older descriptor is lacking, and not hidden.
    two.view.insert(newer(50, 9)).unwrap();
    two.touch();
    let request = two.request();
    let reports = ask(start(), &mut two, request, &mut one);
    assert_eq!((reports[0].taken, reports[0].lacking.len(), reports[0].hidden), (0, 1, 0));
}

// directory.exchange.4
#[test]
fn a_large_difference_takes_several_bounded_answers() {
    let count = 3_000;
    let (mut new, mut old) = (node(count, []), node(count, (0..count).map(relay)));
    let probe = new.probe();
    let reports = ask(start(), &mut new, probe, &mut old);
    let taken: Vec<_> = reports.iter().map(|report| report.taken).collect();
    assert!(taken.len() == 3 && taken[0] == 0 && taken[1] > 1_500, "{taken:?}");
    assert_eq!((known(&new), reports[2].same), (known(&old), true));
    let request = node(count, []).request();
    let answer = old.handle_request(start(), peer(1), &request).unwrap();
    assert!((MAX_ANSWER - MAX_GOSSIPED..=MAX_ANSWER).contains(&answer.len()), "{}", answer.len());
}

// directory.exchange.4
#[test]
fn an_answer_that_brings_nothing_is_not_followed() {
    let mut one = node(5, (0..5).map(relay));
    let old = relay(1);
    let answer = |descriptors| {
        let missing = Missing { asked: [0; 32], more: true, descriptors, lacking: vec![] };
        Answer::Set(State { digest: [1; 32], count: 9, seq: 0 }, missing).write().unwrap()
    };
    for descriptors in [vec![], vec![old.bytes()]] {
        let report = one.handle_response(start(), peer(2), &answer(descriptors)).unwrap();
        assert_eq!((report.taken, report.next), (0, None));
    }
    // Descriptors are ascending, so that none comes twice.
    let twice = one.handle_response(start(), peer(2), &answer(vec![old.bytes(); 2]));
    assert!(matches!(twice, Err(Denied::Malformed(_))));
    let newer = newer(1, 9);
    let report = one.handle_response(start(), peer(2), &answer(vec![newer.bytes()])).unwrap();
    assert!(report.next.is_some());
}

#[test]
fn an_own_descriptor_waits_for_its_registration_and_counts_up() {
    let mut view = View::new(chain().open_network()).with_chain(chain()).with_local(true);
    view.set_registry(Arc::new(registry(1)));
    let mut own = Exchange::new(view, Some(identity(1).id()));
    assert!(own.publish(NOW, relay(0)).is_err());
    own.publish(NOW, relay(1)).unwrap();
    assert_eq!((own.poll_publish(), own.view().iter().len()), (None, 0));
    own.set_registry(NOW, Arc::new(registry(2)));
    assert_eq!(own.poll_publish().as_deref(), Some(&relay(1)));
    assert_eq!((own.poll_publish(), own.view().iter().len()), (None, 1));
    for same in [relay(1), newer(1, 6)] {
        assert!(own.publish(NOW, same).unwrap_err().0.contains("count up"));
    }
    own.publish(NOW, newer(1, 8)).unwrap();
    assert_eq!(own.poll_publish().map(|own| own.sequence), Some(8));
    let long = |d: &mut Descriptor| {
        d.sequence = 9;
        d.onion_keys = vec![DhPublic([1; 32]); 30];
    };
    assert!(own.publish(NOW, with(1, long)).unwrap_err().0.contains("1,024"));
    let far = |d: &mut Descriptor| {
        (d.sequence, d.first_epoch, d.expires) = (9, d.first_epoch + 99, d.expires + 90 * 21_600);
    };
    assert!(own.publish(NOW, with(1, far)).unwrap_err().0.contains("7 days"));
    assert!(own.publish(NOW + 86_400, newer(1, 9)).unwrap_err().0.contains("valid now"));
    // Who leaves the registry leaves the view.
    own.set_registry(NOW, Arc::new(registry(1)));
    assert_eq!(own.view().iter().len(), 0);
}

// directory.gossip.5
#[test]
fn what_expires_is_forgotten_and_no_longer_taken() {
    let now = start();
    let mut node = node(4, (0..3).map(relay));
    let ends = relay(3).expires;
    let at = |unix: u64| Now { unix_ms: unix * 1000, ..now };
    node.changed();
    node.expire(ends - 1);
    assert!(!node.changed() && node.view().iter().len() == 3);
    assert_eq!(node.handle_gossip(at(ends), peer(1), relay(3).bytes()), Verdict::Ignore);
    node.expire(ends);
    assert!(node.changed() && node.view().iter().len() == 0);
    assert_eq!(node.view().count(ends).missing, 4);
    let later = with(3, |d| (d.first_epoch, d.expires) = (d.first_epoch + 60, d.expires + 60 * 21_600));
    assert_eq!(node.handle_gossip(at(later.expires - MAX_LIFE - 1), peer(1), later.bytes()), Verdict::Ignore);
    assert_eq!(node.handle_gossip(at(later.expires - MAX_LIFE), peer(1), later.bytes()), Verdict::Accept);
}

// directory.gossip.3
#[test]
fn a_circuit_that_asks_without_end_silences_no_other() {
    let (mut node, now) = (node(3, [relay(1)]), start());
    let question = self::node(3, []).probe();
    let mut ask = |number: u64| node.handle_request(now, PeerKey::through_circuit(number), &question).is_ok();
    assert_eq!((0..100).filter(|_| ask(7)).count(), 64);
    assert!(ask(8));
    // Many circuits reach the limit of all, and those who come with an address are answered all the same.
    assert_eq!((100..2_000).filter(|number| ask(*number)).count(), 1_024 - 65);
    assert!(!ask(9));
    assert!(node.handle_request(now, peer(1), &question).is_ok());
}

// directory.gossip.3
#[test]
fn all_together_are_answered_so_often_and_so_much() {
    let question = node(3, []).probe();
    let mut small = node(3, [relay(1)]);
    let now = start();
    let from = |n: u32| peer_at(n, [10, u8::try_from(n >> 8).unwrap(), (n & 255) as u8, 1]);
    let answered = (0..5_000).filter(|n| small.handle_request(now, from(*n), &question).is_ok()).count();
    assert_eq!(answered, 4_096);
    assert!(small.handle_request(after(now, Duration::from_secs(1)), from(6_000), &question).is_ok());

    // Answers of many bytes end sooner.
    let mut large = node(900, (0..900).map(relay));
    let question = node(900, []).request();
    let mut bytes = 0;
    let apart = |n: u32| peer_at(n, [10 + (n % 16) as u8, 1, ((n / 16) & 255) as u8, 1]);
    let answered = (0..3_000)
        .map_while(|n| large.handle_request(now, apart(n), &question).ok())
        .inspect(|answer| bytes += answer.len())
        .count();
    assert!(answered < 3_000 && (63 << 20..66 << 20).contains(&bytes), "{answered} answers, {bytes} bytes");
}

#[test]
fn another_network_is_told_so() {
    let mut other = Exchange::new(View::new(NetworkId([9; 16])), None);
    let mut node = node(1, []);
    let denied = node.handle_request(start(), peer(1), &other.probe());
    assert_eq!(denied, Err(Denied::OtherNetwork(NetworkId([9; 16]))));
    assert_eq!(other.handle_gossip(start(), peer(1), relay(0).bytes()), Verdict::Reject);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // directory.exchange.3
    #[test]
    fn two_nodes_agree_after_asking_each_other(
        mine in prop::collection::btree_map(0_u32..12, 1_u64..4, 0..12),
        theirs in prop::collection::btree_map(0_u32..12, 1_u64..4, 0..12),
    ) {
        let known_of = |known: &std::collections::BTreeMap<u32, u64>| {
            known.iter().map(|(n, sequence)| newer(*n, *sequence)).collect::<Vec<_>>()
        };
        let (mut one, mut two) = (node(12, known_of(&mine)), node(12, known_of(&theirs)));
        let request = one.request();
        let first = ask(start(), &mut one, request, &mut two);
        let lacking: Vec<_> = first.iter().flat_map(|report| report.lacking.clone()).collect();
        let answer = two.handle_request(start(), peer(1), &one.push(&lacking)).unwrap();
        prop_assert!(one.handle_response(start(), peer(2), &answer).unwrap().same);
        prop_assert_eq!(known(&one), known(&two));
        for (n, sequence) in &mine {
            let newest = theirs.get(n).map_or(*sequence, |other| *sequence.max(other));
            prop_assert_eq!(one.view().get(&identity(*n).id()).map(|relay| relay.sequence), Some(newest));
        }
    }

    #[test]
    fn any_bytes_are_answered_or_denied(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0_u8..4) {
        let mut node = node(2, [relay(0)]);
        let bytes = [&[kind][..], &chain().open_network().0, &bytes].concat();
        let before = known(&node);
        let _ = node.handle_request(start(), peer(1), &bytes);
        let _ = node.handle_response(start(), peer(1), &bytes);
        prop_assert_ne!(node.handle_gossip(start(), peer(1), &bytes), Verdict::Accept);
        prop_assert_eq!(known(&node), before);
    }
}
