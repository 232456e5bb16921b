//! What liars, forgers and floods gain: nothing.

use super::*;

/// The same descriptor with another byte in its signature.
fn forged(relay: &SignedDescriptor) -> Vec<u8> {
    let mut bytes = relay.bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

// directory.gossip.2
#[test]
fn a_forged_descriptor_costs_its_peer_and_nobody_else() {
    let now = start();
    let mut node = node(4, []);
    assert_eq!(node.handle_gossip(now, peer(1), &forged(&relay(0))), Verdict::Reject);
    assert_eq!((node.counters().checked, node.counters().forged), (1, 1));
    // The peer is not listened to for an hour, whatever it sends; others are.
    let soon = after(now, Duration::from_mins(59));
    assert_eq!(node.handle_gossip(soon, peer(1), relay(0).bytes()), Verdict::Ignore);
    let probe = node.probe();
    assert_eq!(node.handle_request(soon, peer(1), &probe), Err(Denied::Blocked));
    assert_eq!(node.handle_response(soon, peer(1), &probe), Err(Denied::Blocked));
    assert_eq!(node.handle_gossip(soon, peer(2), relay(0).bytes()), Verdict::Accept);
    let now = after(now, BLOCKED);
    assert_eq!(node.handle_gossip(now, peer(1), relay(1).bytes()), Verdict::Accept);
    // It is the same with one that was asked for, or pushed.
    let answer = |bytes: &[u8]| {
        let missing = Missing { asked: [0; 32], more: false, descriptors: vec![bytes], lacking: vec![] };
        Answer::Set(State { digest: [1; 32], count: 1, seq: 4 }, missing).write().unwrap()
    };
    assert_eq!(node.handle_response(now, peer(3), &answer(&forged(&relay(2)))), Err(Denied::Forged));
    assert_eq!(node.handle_response(now, peer(3), &answer(relay(2).bytes())), Err(Denied::Blocked));
    let bytes = forged(&relay(2));
    let push = Request::Push(vec![&bytes]).write(chain().open_network()).unwrap();
    assert_eq!(node.handle_request(now, peer(4), &push), Err(Denied::Forged));
    assert_eq!(node.handle_request(now, peer(4), &push), Err(Denied::Blocked));
    assert_eq!(node.view().iter().len(), 2);
}

// directory.gossip.1
#[test]
fn replayed_oversized_and_unregistered_descriptors_cost_no_signature_check() {
    let now = start();
    let mut node = node(2, [newer(0, 8)]);
    let mut gossip = |bytes: &[u8]| node.handle_gossip(now, peer(1), bytes);
    assert_eq!(gossip(newer(0, 8).bytes()), Verdict::Ignore);
    assert_eq!(gossip(relay(0).bytes()), Verdict::Ignore);
    let large = with(1, |d| d.onion_keys = vec![DhPublic([1; 32]); 30]);
    assert!(large.bytes().len() > MAX_GOSSIPED);
    assert_eq!(gossip(large.bytes()), Verdict::Reject);
    assert_eq!(gossip(relay(2).bytes()), Verdict::Ignore);
    assert_eq!(gossip(with(1, |d| d.payment = None).bytes()), Verdict::Ignore);
    assert_eq!(gossip(&relay(1).bytes()[1..]), Verdict::Reject);
    assert_eq!(gossip(b""), Verdict::Reject);
    let counters = node.counters();
    assert_eq!((counters.checked, counters.unregistered, counters.taken), (0, 2, 0));
    assert_eq!((counters.ignored, counters.malformed), (4, 3));
}

// directory.view.1
#[test]
fn who_contradicts_itself_splits_no_views() {
    let versions: Vec<_> = (0..4).map(|n| with(0, |d| d.operator = format!("version {n}"))).collect();
    let chosen = versions.iter().map(SignedDescriptor::digest).min();
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let mut node = node(1, []);
        for n in order {
            node.handle_gossip(start(), peer(1), versions[n].bytes());
        }
        assert_eq!(node.view().iter().map(SignedDescriptor::digest).min(), chosen);
    }
    let (mut one, mut two) = (node(1, [versions[0].clone()]), node(1, [versions[1].clone()]));
    for _ in 0..2 {
        let request = one.request();
        ask(start(), &mut one, request, &mut two);
        core::mem::swap(&mut one, &mut two);
    }
    assert_eq!(one.view(), two.view());
}

// directory.registry.2
#[test]
fn who_registers_anothers_id_gains_nothing() {
    // Relay 5's owner comes first with relay 0's id.
    let mut squatted = Registry::default();
    squatted.apply(1, owner(5), identity(0).id(), true).unwrap();
    squatted.set_bond(owner(5), Wei(u128::from(u64::MAX)));
    let mut node = believing(Arc::new(squatted.clone()), []);
    assert_eq!(node.handle_gossip(start(), peer(1), relay(0).bytes()), Verdict::Ignore);
    squatted.apply(2, owner(0), identity(0).id(), true).unwrap();
    squatted.set_bond(owner(0), chain().minimum_bond);
    node.set_registry(NOW, Arc::new(squatted.clone()));
    assert_eq!(node.handle_gossip(start(), peer(1), relay(0).bytes()), Verdict::Accept);
    assert!(node.view().usable(&identity(0).id(), NOW).is_ok());
    // The bond that counts is that of the owner whom the relay names.
    squatted.set_bond(owner(0), Wei(1));
    node.set_registry(NOW, Arc::new(squatted.clone()));
    assert!(node.view().usable(&identity(0).id(), NOW).is_err());
    // The squatter cannot sign for the id.
    let claim = Descriptor::clone(&with(0, |d| {
        d.sequence = 9;
        d.payment = Some(crate::payment::Payment { owner: owner(5), ..payment(1) });
    }));
    assert!(SignedDescriptor::sign(claim, &identity(5)).is_err());
    // The owner leaves, and the squatter's entry does not keep the relay.
    squatted.apply(3, owner(0), identity(0).id(), false).unwrap();
    node.set_registry(NOW, Arc::new(squatted));
    assert_eq!((node.view().iter().len(), node.view().count(NOW).missing), (0, 1));
}

// directory.view.2
#[test]
fn who_takes_anothers_link_key_is_out_in_any_order() {
    let thief = with(1, |d| d.link_key = relay(0).link_key);
    for order in [[relay(0), thief.clone()], [thief.clone(), relay(0)]] {
        let mut node = node(3, []);
        for relay in &order {
            node.handle_gossip(start(), peer(1), relay.bytes());
        }
        assert_eq!(known(&node), [(identity(0).id(), 7)]);
        // Once the key is free, who has it may use it.
        let moved = with(0, |d| (d.sequence, d.link_key) = (8, relay(2).link_key));
        assert_eq!(node.handle_gossip(start(), peer(1), moved.bytes()), Verdict::Accept);
        assert_eq!(node.handle_gossip(start(), peer(1), thief.bytes()), Verdict::Accept);
        assert_eq!(node.view().iter().len(), 2);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // directory.view.1 directory.view.2
    #[test]
    fn relays_that_contradict_themselves_and_steal_keys_do_not_keep_views_apart(
        said in prop::collection::vec((0_u32..4, 1_u64..4, 0_u8..3, 0_u8..2, any::<bool>(), any::<bool>()), 0..24),
    ) {
        let mut now = start();
        let (mut one, mut two) = (node(4, []), node(4, []));
        for (n, sequence, link_key, version, to_one, to_two) in said {
            let relay = with(n, |d| {
                (d.sequence, d.link_key) = (sequence, DhPublic([link_key; 32]));
                d.operator = version.to_string();
            });
            now = after(now, Duration::from_mins(10));
            for (node, _) in [(&mut one, to_one), (&mut two, to_two)].into_iter().filter(|(_, told)| *told) {
                node.handle_gossip(now, peer(1), relay.bytes());
            }
        }
        // Each round settles at least one more relay, in the order of registration.
        for _ in 0..8 {
            now = after(now, Duration::from_mins(10));
            let request = one.request();
            ask(now, &mut one, request, &mut two);
            core::mem::swap(&mut one, &mut two);
        }
        prop_assert_eq!(known(&one), known(&two));
        prop_assert_eq!(one.digest(), two.digest());
        let keys: BTreeSet<_> = one.view().iter().map(|relay| relay.link_key).collect();
        prop_assert_eq!(keys.len(), one.view().iter().len());
    }
}

// directory.gossip.4
#[test]
fn a_relay_that_talks_without_end_is_not_listened_to() {
    let mut node = node(2, []);
    let verdicts: Vec<_> =
        (1..=20).map(|sequence| node.handle_gossip(start(), peer(1), newer(0, sequence).bytes())).collect();
    let taken = verdicts.iter().filter(|verdict| **verdict == Verdict::Accept).count();
    assert_eq!((taken, node.counters().checked, node.counters().limited), (8, 8, 12));
    assert_eq!(node.handle_gossip(start(), peer(1), relay(1).bytes()), Verdict::Accept);
    let later = after(start(), Duration::from_mins(10));
    assert_eq!(node.handle_gossip(later, peer(1), newer(0, 20).bytes()), Verdict::Accept);
}

// directory.gossip.3
#[test]
fn who_asks_without_end_is_not_answered_and_neighbours_of_other_subnets_are() {
    let now = start();
    let (mut busy, mut asker) = (node(3, (0..3).map(relay)), node(3, []));
    let request = asker.request();
    let answers = (0..1_000).filter(|n| busy.handle_request(now, peer(*n), &request).is_ok()).count();
    assert_eq!((answers, busy.counters().limited), (64, 936));
    assert!(busy.handle_request(now, peer_at(1, [198, 51, 100, 1]), &request).is_ok());
    let later = after(now, Duration::from_millis(500));
    assert!(busy.handle_request(later, peer(1), &request).is_ok());
    assert_eq!(busy.handle_request(later, peer(1), &request), Err(Denied::TooMany));
}

// directory.gossip.3
#[test]
fn six_subnets_that_take_all_the_answers_they_get_leave_answers_for_others() {
    let (now, count) = (start(), 2_000);
    let mut busy = node(count, (0..count).map(relay));
    let request = node(count, []).request();
    // Many peers of many prefixes, in six subnets: a whole set costs each of them little.
    let mut taken = [0; 6];
    for n in 0..12_000_u32 {
        let subnet = n as usize % 6;
        let from = peer_at(n, [93, subnet.try_into().unwrap(), (n / 6 % 250).try_into().unwrap(), 1]);
        if let Ok(answer) = busy.handle_request(now, from, &request) {
            taken[subnet] += answer.len();
        }
    }
    let (least, most) = (8 << 20, 9 << 20);
    assert!(taken.iter().all(|taken| (least..=most).contains(taken)), "{taken:?}");
    assert!(busy.handle_request(now, peer_at(1, [93, 6, 1, 1]), &request).is_ok());
    assert!(busy.handle_request(now, PeerKey::through_circuit(7), &request).is_ok());
    // Nor do circuits take more than half.
    let later = after(now, Duration::from_mins(1));
    let answers = (0..1_000)
        .filter_map(|n| busy.handle_request(later, PeerKey::through_circuit(n), &request).ok())
        .map(|answer| answer.len())
        .sum::<usize>();
    assert!((32 << 20..=33 << 20).contains(&answers), "{answers}");
    let asked = |busy: &mut Exchange, ip| busy.handle_request(later, peer_at(1, ip), &request).is_ok();
    assert!(asked(&mut busy, [93, 7, 1, 1]) && asked(&mut busy, [93, 8, 1, 1]));
}

// directory.gossip.1 directory.gossip.3
#[test]
fn a_flood_of_100_000_descriptors_is_bounded_in_memory_and_work() {
    let registered = 200;
    let mut node = node(registered, (0..50).map(relay));
    let replayed: Vec<_> = (0..50).map(relay).collect();
    let claims: Vec<_> = (0..registered).map(|n| newer(n, 8)).collect();
    let start = start();
    let flood = || {
        for n in 0..100_000_u32 {
            let now = after(start, Duration::from_millis(u64::from(n) / 10));
            let from = peer_at(n, [192, 0, (n % 8).try_into().unwrap(), 1]);
            let pick = |from: &[SignedDescriptor]| from[n as usize % from.len()].bytes().to_vec();
            let mut bytes = match n % 3 {
                0 => pick(&replayed),
                _ => pick(&claims),
            };
            match n % 3 {
                // An id that nobody registered.
                1 => bytes[5..9].copy_from_slice(&n.to_be_bytes()),
                // A higher sequence number than the relay signed.
                2 => bytes[53..57].copy_from_slice(&n.to_be_bytes()),
                _ => {}
            }
            assert_ne!(node.handle_gossip(now, from, &bytes), Verdict::Accept);
        }
    };
    let used = allocation_counter::measure(flood);
    let counters = *node.counters();
    assert_eq!((counters.taken, node.view().iter().len()), (0, 50));
    assert!(counters.unregistered > 30_000, "{counters:?}");
    // 33,333 forgeries from as many peers of 8 subnets within 10 seconds: 4,096 at once, and 500 a second.
    assert_eq!(counters.checked, counters.forged);
    assert!(counters.checked <= 4_096 + 10 * 500 && counters.limited > 20_000, "{counters:?}");
    assert!(used.bytes_max < 1 << 20, "{used:?}");
    // An honest peer of another subnet is heard.
    let now = after(start, Duration::from_secs(11));
    assert_eq!(node.handle_gossip(now, peer_at(7, [203, 0, 113, 1]), relay(100).bytes()), Verdict::Accept);
}

// directory.exchange.5
#[test]
fn a_peer_that_hides_half_of_the_relays_is_noticed() {
    let count = 100;
    let (mut client, mut honest) = (node(count, []), node(count, (0..count).map(relay)));
    let mut hiding = node(count, (0..count).step_by(2).map(relay));
    // Whoever knows nothing else sees what the registry has.
    let request = client.request();
    let report = ask(start(), &mut client, request, &mut hiding).remove(0);
    assert_eq!((report.known, report.missing, report.hides()), (50, 50, false));
    let missing: Vec<_> =
        client.view().unfit(NOW).filter(|(_, why)| *why == crate::view::Unfit::Missing).collect();
    assert_eq!(missing.len(), 50);
    // A second peer shows the first one for what it is.
    let request = client.request();
    let report = ask(start(), &mut client, request, &mut honest).remove(0);
    assert_eq!((report.taken, report.missing, report.hides()), (50, 0, false));
    for request in [client.probe(), client.request()] {
        let reports = ask(start(), &mut client, request, &mut hiding);
        assert!(reports.iter().all(Report::hides), "{reports:?}");
        assert_eq!(reports.last().map(|report| report.hidden), Some(50));
    }
    // It cannot claim more than it shows: what it lacks it has to say, or the sets are not the same.
    let answer = hiding.handle_request(start(), peer(1), &client.request()).unwrap();
    let Answer::Set(state, missing) = Answer::read(&answer).unwrap() else { panic!("a set") };
    let state = State { count: 100, ..state };
    let report = client.handle_response(start(), peer(2), &Answer::Set(state, missing).write().unwrap());
    assert!(report.unwrap().hides());
}

// directory.exchange.6
#[test]
fn a_peer_that_repeats_what_it_is_asked_satisfies_nobody_who_knows_little() {
    let (count, now) = (100, start());
    let repeat = |asker: &mut Exchange, request: Vec<u8>| {
        let (_, request) = Request::read(&request).unwrap();
        let (Request::State(digest) | Request::Set(Summary { digest, .. })) = request else {
            panic!("a push")
        };
        let count = asker.view().iter().len().try_into().unwrap();
        let answer = Answer::State(State { digest, count, seq: 100 });
        asker.handle_response(now, peer(1), &answer.write().unwrap()).unwrap()
    };
    // What a first liar has shown, a second one says to be all.
    let mut shown = node(count, (0..5).map(relay));
    for request in [shown.probe(), shown.request()] {
        let report = repeat(&mut shown, request);
        assert!(report.same && report.few && !report.hides() && !report.satisfies(), "{report:?}");
    }
    // So does one that knows all, and finds out from the question what the asker has.
    let mut clever = node(count, (0..5).map(relay));
    let request = shown.request();
    let report = ask(now, &mut shown, request, &mut clever).remove(0);
    assert!(report.same && !report.satisfies(), "{report:?}");
    let mut honest = node(count, (0..count).map(relay));
    let request = shown.request();
    let report = ask(now, &mut shown, request, &mut honest).remove(0);
    assert!(report.taken == 95 && report.satisfies());
    let request = shown.request();
    assert!(repeat(&mut shown, request).satisfies(), "the registry bears it out");
}

#[test]
fn a_free_network_has_no_registry_and_takes_what_is_signed() {
    let network = chain().open_network();
    let mut node = Exchange::new(View::new(network), None);
    let free = |n| with(n, |d| d.payment = None);
    assert_eq!(node.handle_gossip(start(), peer(1), free(0).bytes()), Verdict::Accept);
    let thief = with(1, |d| d.link_key = relay(0).link_key);
    assert_eq!(node.handle_gossip(start(), peer(1), thief.bytes()), Verdict::Ignore);
    assert_eq!(node.view().count(NOW).usable, 1);
    let paid = Chain { id: 5, ..chain() };
    assert_ne!(paid.open_network(), network);
}
