use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use circuit::keys::{DhPublic, IdentitySecret, NetworkId};
use circuit::stream::{End, MAX_QUIC_PACKET, StreamConfig, Streams};
use directory::chain::{Chain, Wei};
use directory::descriptor::{Descriptor, EPOCH_SECONDS, SignedDescriptor};
use directory::exit_summary::ExitSummary;
use directory::payment::Payment;
use directory::registry::Registry;
use directory::view::Share;
use payments::Address;
use payments::amount::Tier;
use rand_core::SeedableRng as _;

use super::*;
use crate::guards::MAX_GUARDS;
use crate::quality::AVOIDED;

mod scarce;
mod wished;

const NETWORK: NetworkId = NetworkId([1; 16]);
const EPOCH: u32 = 80_000;

#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: u64::from(EPOCH) * EPOCH_SECONDS * 1000 + 1_000_000 }
}

/// Relays of which the first `exits` serve the ports 80 and 443.
fn view(relays: u8, exits: u8) -> View {
    fill(View::new(NETWORK), relays, exits, |_| None)
}

fn fill(mut view: View, relays: u8, exits: u8, payment: impl Fn(u8) -> Option<Payment>) -> View {
    for n in 1..=relays {
        view.insert(relay(n, exits, |relay| relay.payment = payment(n))).unwrap();
    }
    view
}

/// Relay `n` with a change; an exit if it is among the first `exits`.
fn relay(n: u8, exits: u8, change: impl FnOnce(&mut Descriptor)) -> SignedDescriptor {
    let identity = IdentitySecret::from_bytes(&[n; 32]);
    let mut descriptor = Descriptor {
        id: identity.id(),
        network: NETWORK,
        sequence: 1,
        issued: u64::from(EPOCH) * EPOCH_SECONDS,
        expires: u64::from(EPOCH + 1) * EPOCH_SECONDS,
        link_key: DhPublic([n; 32]),
        first_epoch: EPOCH,
        onion_keys: vec![DhPublic([n ^ 0x40; 32])],
        addresses: vec![([192, 0, 2, n], 443).into()],
        exit: (n <= exits).then(|| ExitSummary::new(vec![80..=80, 443..=443]).unwrap()),
        country: None,
        operator: String::new(),
        version: "test".to_owned(),
        bandwidth: 0,
        gossip_port: 0,
        payment: None,
    };
    change(&mut descriptor);
    SignedDescriptor::sign(descriptor, &identity).unwrap()
}

/// A chooser of paths of three relays.
fn paths(seed: u64, view: &View) -> Paths {
    paths_of(seed, view, 3)
}

fn paths_of(seed: u64, view: &View, hops: usize) -> Paths {
    Paths::new(Random::seed_from_u64(seed), view.clone(), Wishes::hops(hops))
}

#[test]
fn no_relay_is_in_a_path_twice_and_the_exit_serves_the_port() {
    // circuit.setup.8
    let now = start();
    for (relays, exits) in [(5, 1), (5, 2), (5, 5), (8, 3), (30, 4)] {
        let view = view(relays, exits);
        for seed in 0..200 {
            for hops in 2..=5 {
                let mut paths = paths_of(seed, &view, hops);
                let entry = paths.entry(now).unwrap();
                let path = paths.choose(now, entry, Some(443)).unwrap();
                let ids: BTreeSet<_> = path.iter().map(|hop| hop.id).collect();
                assert_eq!((path.len(), ids.len(), path[0].id), (hops, hops, entry));
                let exit = view.get(&path[hops - 1].id).unwrap();
                assert!(exit.exit.as_ref().unwrap().accepts(443));
                assert_eq!(path[1].epoch, EPOCH);
            }
        }
    }
}

#[test]
fn one_hop_is_an_exit() {
    let (now, view) = (start(), view(5, 1));
    let mut paths = paths_of(1, &view, 1);
    let entry = paths.entry(now).unwrap();
    assert!(view.get(&entry).unwrap().exit.is_some());
    assert_eq!(paths.choose(now, entry, Some(80)).unwrap().len(), 1);
    assert!(matches!(paths.choose(now, entry, Some(22)), Err(NoPath::NoExit { port: 22, .. })));
}

// path.quality.1
#[test]
fn a_relay_is_tried_again_once_its_newer_descriptor_is_known() {
    let (now, mut view) = (start(), view(10, 3));
    let mut paths = paths(1, &view);
    for n in [4, 5] {
        paths.quality_mut().strike(now.instant, id(n));
    }
    paths.set_view(now, view.clone());
    assert!(paths.quality().is_avoided(now.instant, &id(4)), "nothing is new");
    view.insert(relay(4, 3, |descriptor| descriptor.sequence = 2)).unwrap();
    paths.set_view(now, view);
    let avoided = [4, 5].map(|n| paths.quality().is_avoided(now.instant, &id(n)));
    assert_eq!(avoided, [false, true]);
}

// path.guard.1
#[test]
fn the_entry_stays_until_it_fails_and_comes_back() {
    let (mut now, view) = (start(), view(10, 3));
    let mut paths = paths(2, &view);
    let first = paths.entry(now).unwrap();
    assert!((0..50).all(|_| paths.entry(now) == Ok(first)));
    paths.guards_mut().failed(now.instant, &first);
    let second = paths.entry(now).unwrap();
    assert_ne!(first, second);
    assert_eq!(paths.better(now, &second), None);
    now.instant += AVOIDED;
    assert_eq!((paths.entry(now), paths.better(now, &second)), (Ok(first), Some(first)));
    // However many fail, few relays ever become entries.
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let entry = paths.entry(now).unwrap();
        seen.insert(entry);
        paths.guards_mut().failed(now.instant, &entry);
        now.instant += Duration::from_secs(1);
    }
    assert!(seen.len() <= MAX_GUARDS, "{seen:?}");
}

// path.guard.7
#[test]
fn a_guard_that_leaves_the_view_is_the_entry_again_when_it_returns() {
    let (mut now, whole) = (start(), view(60, 3));
    let mut paths = paths(2, &whole);
    let first = paths.entry(now).unwrap();
    paths.guards_mut().worked(now.unix(), &first);
    // Whoever can take descriptors away does so with each new guard.
    let mut gone = BTreeSet::new();
    let mut entry = first;
    for _ in 0..30 {
        gone.insert(entry);
        let mut less = View::new(NETWORK);
        for n in (1..=60).filter(|n| !gone.contains(&id(*n))) {
            less.insert(relay(n, 3, |_| ())).unwrap();
        }
        paths.set_view(now, less);
        now.unix_ms += 60_000;
        entry = paths.entry(now).unwrap();
        assert!(!gone.contains(&entry));
        paths.guards_mut().worked(now.unix(), &entry);
    }
    paths.set_view(now, whole);
    assert_eq!((paths.entry(now), paths.better(now, &entry)), (Ok(first), Some(first)));
}

/// Relays of which those in the set are registered, and known but for those that somebody hides.
fn registered(whole: &View, registered: impl Fn(&RelayId) -> bool, hidden: &BTreeSet<RelayId>) -> View {
    let mut registry = Registry::default();
    let mut seq = 0;
    for relay in whole.iter().filter(|relay| registered(&relay.id)) {
        seq += 1;
        registry.apply(seq, relay.payment.unwrap().owner, relay.id, true).unwrap();
    }
    let mut view = View::new(NETWORK).with_chain(chain(1));
    view.set_registry(Arc::new(registry));
    for relay in whole.iter().filter(|relay| registered(&relay.id) && !hidden.contains(&relay.id)) {
        view.insert(relay.clone()).unwrap();
    }
    view
}

// path.guard.8
#[test]
fn who_hides_guards_one_after_the_other_has_few_drawn() {
    let (mut now, whole) = (start(), paid(60, 20, 1, |n| (n, 10, 20)));
    let mut hidden = BTreeSet::new();
    let mut paths = paths(2, &registered(&whole, |_| true, &hidden));
    let mut seen = BTreeSet::new();
    let mut refused = None;
    for _ in 0..30 {
        match paths.entry(now) {
            Ok(entry) => {
                paths.guards_mut().worked(now.unix(), &entry);
                seen.insert(entry);
                hidden.insert(entry);
                paths.set_view(now, registered(&whole, |_| true, &hidden));
                assert!(matches!(paths.entry(now), Err(NoPath::GuardsLost(_))), "it is waited for");
            }
            Err(error) => refused = Some(error),
        }
        now.instant += Duration::from_secs(61);
        now.unix_ms += 61_000;
    }
    let error = refused.unwrap();
    assert_eq!(seen.len(), 5, "however long he goes on");
    assert!(error.to_string().contains("somebody may be hiding or blocking them"), "{error}");
    // Also by the client that starts again.
    let kept = Guards::decode(&paths.guards().encode(NETWORK), NETWORK).unwrap().unwrap();
    let mut again = self::paths(3, paths.view()).with_guards(kept);
    assert_eq!(again.entry(now), Err(error));
    // Each that is found again is used again.
    let found = *hidden.iter().next().unwrap();
    hidden.remove(&found);
    again.set_view(now, registered(&whole, |_| true, &hidden));
    assert_eq!(again.entry(now), Ok(found));
}

// path.guard.8
#[test]
fn guards_that_fail_or_give_up_their_registration_are_replaced_at_once() {
    let (now, whole) = (start(), paid(60, 20, 1, |n| (n, 10, 20)));
    let mut gone = BTreeSet::new();
    let mut paths = paths(2, &registered(&whole, |_| true, &gone));
    for _ in 0..10 {
        let entry = paths.entry(now).unwrap();
        assert!(gone.insert(entry));
        paths.guards_mut().worked(now.unix(), &entry);
        paths.set_view(now, registered(&whole, |id| !gone.contains(id), &BTreeSet::new()));
    }
    // One that is dead is still known, and rests; one that nobody knows any more is waited for.
    let dead = paths.entry(now).unwrap();
    paths.guards_mut().failed(now.instant, &dead);
    let next = paths.entry(now).unwrap();
    assert!(next != dead && !gone.contains(&next));
    let later = Now { instant: now.instant + Duration::from_secs(61), ..now };
    let without = |paths: &mut Paths| {
        let hidden = BTreeSet::from([dead, next]);
        paths.set_view(now, registered(&whole, |id| !gone.contains(id), &hidden));
    };
    without(&mut paths);
    assert!(matches!(paths.entry(now), Err(NoPath::GuardsLost(_))));
    assert!(!gone.contains(&paths.entry(later).unwrap()));
}

// path.guard.3 path.guard.8
#[test]
fn who_blocks_guards_one_after_the_other_has_few_drawn_and_old_ones_are_tried_again() {
    let view = paid(60, 20, 1, |n| (n, 10, 20));
    let mut now = start();
    let mut paths = paths(2, &view);
    let mut seen = BTreeSet::new();
    for round in 0..24_000 {
        let entry = paths.entry(now).unwrap();
        seen.insert(entry);
        // All but the first are let through, so that its failures count until it is given up.
        let blocked = paths.guards().iter().find(|guard| guard.strikes < 12).map(|guard| guard.id);
        if blocked == Some(entry) {
            paths.guards_mut().failed(now.instant, &entry);
        } else {
            paths.guards_mut().worked(now.unix(), &entry);
        }
        now.instant += Duration::from_secs(30);
        if round % 6_000 == 5_999 {
            let kept = Guards::decode(&paths.guards().encode(NETWORK), NETWORK).unwrap().unwrap();
            paths = self::paths(round, &view).with_guards(kept);
        }
    }
    assert!((5..=7).contains(&seen.len()), "{}", seen.len());
    // Where none answers those that there are go on being tried.
    let mut again = BTreeSet::new();
    for _ in 0..200 {
        let entry = paths.entry(now).unwrap();
        again.insert(entry);
        paths.guards_mut().failed(now.instant, &entry);
        now.instant += Duration::from_secs(1);
    }
    seen.extend(&again);
    assert!(seen.len() <= 7 && again.len() > 1, "{seen:?} {again:?}");
}

// path.guard.9
#[test]
fn no_guard_is_drawn_among_the_few_that_somebody_shows() {
    let (now, whole) = (start(), paid(60, 20, 1, |n| (n, 10, 20)));
    let all: Vec<_> = whole.iter().map(|relay| relay.id).collect();
    let shown = |count: usize| all.iter().skip(count).copied().collect::<BTreeSet<_>>();
    let mut fresh = paths(2, &registered(&whole, |_| true, &shown(35)));
    let error = fresh.entry(now).unwrap_err();
    assert_eq!(error, NoPath::FewKnown(Share { known: 35, of: 60 }));
    assert!(error.to_string().starts_with("only 35 of 60 registered relays are known"), "{error}");
    assert_eq!(fresh.guards().iter().len(), 0);
    fresh.set_view(now, registered(&whole, |_| true, &shown(1)));
    assert!(
        matches!(fresh.entry(now), Err(NoPath::FewKnown(_))),
        "also where there are not enough for a path"
    );
    // Who has a guard already goes on with it, and draws no other one in its place.
    fresh.set_view(now, registered(&whole, |_| true, &shown(36)));
    let entry = fresh.entry(now).unwrap();
    fresh.guards_mut().worked(now.unix(), &entry);
    let few = |id: &RelayId| *id != entry && shown(20).contains(id);
    let hidden: BTreeSet<_> = all.iter().filter(|id| few(id)).copied().collect();
    fresh.set_view(now, registered(&whole, |_| true, &hidden));
    assert_eq!(fresh.entry(now), Ok(entry));
    fresh.guards_mut().failed(now.instant, &entry);
    assert_eq!((fresh.entry(now), fresh.guards().iter().len()), (Ok(entry), 1));
    // Where it is known that there are no more, these few are used.
    let mut view = registered(&whole, |_| true, &shown(10));
    view.set_content(true);
    assert!(paths(2, &view).entry(now).is_ok());
}

// path.guard.5
#[test]
fn a_client_that_starts_again_keeps_its_guard() {
    let (now, view) = (start(), view(30, 3));
    for seed in 0..50 {
        let mut first = paths(seed, &view);
        let entry = first.entry(now).unwrap();
        first.guards_mut().worked(now.unix(), &entry);
        let stored = first.guards().encode(NETWORK);
        let guards = Guards::decode(&stored, NETWORK).unwrap().unwrap();
        let mut again = paths(!seed, &view).with_guards(guards);
        assert_eq!(again.entry(now), Ok(entry));
        // One that has left is passed over, and is the guard again when it is back.
        let mut without = View::new(NETWORK);
        view.iter()
            .filter(|relay| relay.id != entry)
            .for_each(|relay| without.insert(relay.clone()).unwrap());
        again.set_view(now, without);
        assert_ne!(again.entry(now), Ok(entry));
        again.set_view(now, view.clone());
        assert_eq!(again.entry(now), Ok(entry));
    }
}

// path.guard.1
#[test]
fn guards_are_of_different_owners() {
    let now = start();
    let view = paid(12, 4, 1, |n| (1 + n % 4, 10, 20));
    for seed in 0..50 {
        let mut paths = paths(seed, &view);
        for _ in 0..MAX_GUARDS {
            let entry = paths.entry(now).unwrap();
            paths.guards_mut().failed(now.instant, &entry);
        }
        let owners: BTreeSet<_> =
            paths.guards().iter().map(|guard| view.payment(&guard.id).unwrap().owner).collect();
        assert_eq!(owners.len(), MAX_GUARDS);
    }
}

// path.quality.1
#[test]
fn what_is_avoided_is_used_only_where_nothing_else_will_do() {
    let (now, view) = (start(), view(6, 3));
    let mut paths = paths(3, &view);
    let entry = paths.entry(now).unwrap();
    let exits: Vec<_> = view.iter().filter(|relay| relay.exit.is_some()).map(|relay| relay.id).collect();
    paths.quality_mut().strike(now.instant, exits[0]);
    let chosen = |paths: &mut Paths| paths.choose(now, entry, None).unwrap()[2].id;
    assert!((0..100).all(|_| chosen(&mut paths) != exits[0]));
    for exit in &exits {
        paths.quality_mut().strike(now.instant, *exit);
    }
    assert!(exits.contains(&chosen(&mut paths)));
    paths.quality_mut().trust(&exits[1..]);
    assert!((0..100).all(|_| chosen(&mut paths) != exits[0]));
}

// path.quality.1
#[test]
fn an_edge_that_fails_is_left_and_its_relays_are_not() {
    let (now, view) = (start(), view(6, 2));
    let mut paths = paths(3, &view);
    let entry = paths.entry(now).unwrap();
    let middle = view.iter().find(|relay| relay.exit.is_none() && relay.id != entry).unwrap().id;
    for _ in 0..3 {
        paths.quality_mut().strike_edge(now.instant, entry, middle);
    }
    assert!((0..100).all(|_| paths.choose(now, entry, None).unwrap()[1].id != middle));
    let mut four = paths_of(3, &view, 4);
    for _ in 0..3 {
        four.quality_mut().strike_edge(now.instant, entry, middle);
    }
    assert!((0..100).any(|_| four.choose(now, entry, None).unwrap()[2].id == middle));
}

#[test]
fn a_clock_that_goes_back_to_another_epoch_is_named_and_no_path_gets_shorter() {
    let (now, full) = (start(), view(5, 2));
    let mut paths = paths(1, &full);
    let entry = paths.entry(now).unwrap();
    assert_eq!(paths.choose(now, entry, None).unwrap().len(), 3);
    let earlier = Now { unix_ms: now.unix_ms - EPOCH_SECONDS * 1000, ..now };
    let error = paths.choose(earlier, entry, None).unwrap_err();
    assert_eq!(error, NoPath::TooFewRelays { known: 5, usable: 0, hops: 3 });
    let said = error.to_string();
    assert!(said.contains("this computer's clock shows: correct the clock"), "{said}");
    assert_eq!(paths.choose(now, entry, None).unwrap().len(), 3);
}

#[test]
fn what_is_impossible_says_what_is_missing() {
    let now = start();
    let few = view(2, 1);
    let error = paths(1, &few).entry(now).unwrap_err();
    assert_eq!(error, NoPath::TooFewRelays { known: 2, usable: 2, hops: 3 });
    let later = Now { unix_ms: now.unix_ms + EPOCH_SECONDS * 1000, ..now };
    let mut two = paths_of(1, &few, 2);
    assert!(two.entry(now).is_ok());
    let error = two.entry(later).unwrap_err();
    assert_eq!(error, NoPath::TooFewRelays { known: 2, usable: 0, hops: 2 });
    let full = view(5, 2);
    let mut paths = paths(1, &full);
    let entry = paths.entry(now).unwrap();
    let error = paths.choose(now, entry, Some(25)).unwrap_err();
    assert_eq!(error.to_string(), "none of 5 usable relays is an exit for port 25");
    let error = self::paths(1, &view(5, 0)).entry(now).unwrap_err();
    assert_eq!(error.to_string(), "none of 5 usable relays is an exit");
}

fn chain(exit_operators: u16) -> Chain {
    Chain {
        id: 5,
        contract: Address::repeat_byte(0xc0),
        rpc: vec![],
        minimum_bond: Wei::ZERO,
        exit_operators,
        deployed: 0,
    }
}

/// A paid network whose first `exits` relays are exits: owner, ask and exit ask by the number of the relay.
fn paid(relays: u8, exits: u8, exit_operators: u16, of: impl Fn(u8) -> (u8, u64, u64)) -> View {
    let chain = chain(exit_operators);
    let (chain_id, contract) = (chain.id, chain.contract);
    fill(View::new(NETWORK).with_chain(chain), relays, exits, |n| {
        let (owner, ask, exit_ask) = of(n);
        let exit_ask = if n <= exits { Rate(exit_ask) } else { Rate::FREE };
        let owner = Address::repeat_byte(owner);
        Some(Payment { chain_id, contract, owner, ask: Rate(ask), exit_ask })
    })
}

fn id(n: u8) -> RelayId {
    IdentitySecret::from_bytes(&[n; 32]).id()
}

fn rates(path: &[PathHop]) -> Vec<(u64, u64)> {
    let rate = |compact| Rate::decode(compact).unwrap().0;
    path.iter().map(|hop| (rate(hop.terms.rate_in), rate(hop.terms.rate_out))).collect()
}

fn tier(number: u8) -> Tier {
    Tier::new(number).unwrap()
}

#[test]
fn a_free_network_has_no_terms_and_no_price() {
    let (now, view) = (start(), view(5, 2));
    let wishes = Wishes { max_price: Some(Rate::FREE), ..Wishes::hops(3) };
    let mut paths = Paths::new(Random::seed_from_u64(1), view, wishes);
    let entry = paths.entry(now).unwrap();
    let path = paths.choose(now, entry, Some(80)).unwrap();
    assert!(path.iter().all(|hop| hop.terms == Terms::default()));
}

// path.distinct.1
#[test]
fn no_owner_is_in_a_path_twice() {
    let now = start();
    // Eight owners of three relays each, of which the first eight relays are exits.
    let view = paid(24, 8, 1, |n| (1 + n % 8, 10, 20));
    for seed in 0..200 {
        for hops in 2..=5 {
            let mut paths = paths_of(seed, &view, hops);
            let entry = paths.entry(now).unwrap();
            let path = paths.choose(now, entry, None).unwrap();
            let owners: BTreeSet<_> = path.iter().map(|hop| view.payment(&hop.id).unwrap().owner).collect();
            assert_eq!((path.len(), owners.len(), path[0].id), (hops, hops, entry));
        }
    }
    let two = paid(6, 2, 1, |n| (1 + n % 2, 10, 20));
    let error = paths(1, &two).entry(now).unwrap_err();
    assert_eq!(error, NoPath::TooFewOwners { usable: 6, owners: 2, hops: 3 });
    assert!(paths_of(1, &two, 2).entry(now).is_ok());
}

// path.price.1
#[test]
fn the_class_is_the_cheapest_that_enough_owners_accept() {
    let now = start();
    // Relay n asks n wei for a cell, and as an exit n * 10; the first eight are exits.
    let by_number = |n: u8| (n, n.into(), u64::from(n) * 10);
    for (operators, middle, exit) in [(1, 3, 10), (3, 3, 30), (5, 5, 50), (8, 8, 80)] {
        let view = paid(12, 8, operators, by_number);
        let class = Class {
            middle: Tier::covering(Rate(middle)).unwrap(),
            exit: Tier::covering(Rate(exit)).unwrap(),
        };
        for seed in 0..100 {
            let mut paths = paths(seed, &view);
            let entry = paths.entry(now).unwrap();
            let path = paths.choose(now, entry, Some(80)).unwrap();
            let ask = |hop: &PathHop| *view.payment(&hop.id).unwrap();
            if operators > 1 {
                assert_eq!(path[0].terms.class, class.number(), "whoever is the entry");
            }
            let class = Class::from_number(path[0].terms.class).unwrap();
            assert!(ask(&path[1]).ask <= class.middle.rate());
            assert!(ask(&path[2]).exit_ask <= class.exit.rate());
            let expected: Vec<_> =
                class.rates(ask(&path[0]).ask, 3).iter().map(|(a, b)| (a.0, b.0)).collect();
            assert_eq!(rates(&path), expected);
            assert_eq!(
                path.iter().map(|hop| hop.terms.role).collect::<Vec<_>>(),
                [Role::Forward, Role::Forward, Role::Exit]
            );
        }
    }
}

// path.price.1
#[test]
fn owners_count_once_and_only_exits_for_the_port_count() {
    let now = start();
    // One owner has all the cheap exits.
    let view = paid(10, 6, 2, |n| if n <= 4 { (1, 1, 1) } else { (n, 1, 64) });
    let mut paths = paths_of(1, &view, 2);
    let entry = paths.entry(now).unwrap();
    let path = paths.choose(now, entry, None).unwrap();
    assert_eq!(Class::from_number(path[1].terms.class).unwrap().exit, tier(12));
    assert_eq!(tier(12).rate(), Rate(64));
    let error = paths.choose(now, entry, Some(25)).unwrap_err();
    assert_eq!(error, NoPath::NoExit { usable: 10, port: 25, exits: 0, owners: 0, needed: 2 });
    assert_eq!(error.port(), Some(25));
    assert_eq!(error.to_string(), "none of 10 usable relays is an exit for port 25");
    let view = paid(10, 6, 4, |n| if n <= 4 { (1, 1, 1) } else { (n, 1, 64) });
    let error = paths_of(1, &view, 2).entry(now).unwrap_err();
    assert_eq!(error, NoPath::NoExit { usable: 10, port: 0, exits: 6, owners: 3, needed: 4 });
    assert!(error.to_string().starts_with("6 of 10 usable relays are exits, of 3 owners"), "{error}");
    assert_eq!(error.port(), None);
    // What no tier pays is no price.
    let absurd = paid(10, 6, 1, |n| (n, 1, 1 << 49));
    assert!(matches!(paths_of(1, &absurd, 2).entry(now), Err(NoPath::NoExit { owners: 0, needed: 1, .. })));
}

// path.price.1
#[test]
fn where_one_operator_is_enough_the_exit_is_not_the_entrys() {
    let now = start();
    let view = paid(4, 2, 1, |n| (n, 1, u64::from(n) * 16));
    for seed in 0..50 {
        let mut paths = paths_of(seed, &view, 2);
        let path = paths.choose(now, id(1), None).unwrap();
        assert_eq!((path[1].id, rates(&path)), (id(2), vec![(33, 32), (32, 0)]));
        let path = paths.choose(now, id(2), None).unwrap();
        assert_eq!((path[1].id, rates(&path)), (id(1), vec![(17, 16), (16, 0)]));
        // An entry of the only exit owner would leave no exit.
        let one = paid(4, 2, 1, |n| (if n < 4 { 1 } else { 2 }, 1, 16));
        let mut paths = paths_of(seed, &one, 2);
        assert_eq!(paths.entry(now), Ok(id(4)));
        assert!(matches!(paths.choose(now, id(1), None), Err(NoPath::NoExit { .. })));
    }
}

// path.price.2
#[test]
fn an_entry_is_paid_its_own_ask_and_that_is_no_more_than_others_take() {
    let now = start();
    let view = paid(12, 4, 2, |n| (n, if n > 6 { 1_000_000 } else { 5 }, 7));
    let entries: BTreeSet<_> = (0..100).map(|seed| paths(seed, &view).entry(now).unwrap()).collect();
    assert!(entries.iter().all(|entry| view.payment(entry).unwrap().ask == Rate(5)), "{entries:?}");
    assert!(entries.len() > 1);
    let mut paths = paths(1, &view);
    let entry = paths.entry(now).unwrap();
    let path = paths.choose(now, entry, None).unwrap();
    // Tier 5 is 5 wei, tier 6 is 8 wei.
    assert_eq!(rates(&path), [(18, 13), (13, 8), (8, 0)]);
    let path = paths.choose(now, id(12), None).unwrap();
    assert_eq!(rates(&path)[0], (1_000_013, 13));
    // With one hop the entry is the exit, and paid as one.
    let mut paths = paths_of(1, &view, 1);
    let entry = paths.entry(now).unwrap();
    let path = paths.choose(now, entry, Some(443)).unwrap();
    assert_eq!((rates(&path), path[0].terms.role), (vec![(7, 0)], Role::Exit));
    assert!(matches!(paths.choose(now, entry, Some(25)), Err(NoPath::NoExit { port: 25, .. })));
}

// path.price.3
#[test]
fn a_maximum_price_is_strict_and_says_what_a_path_costs() {
    let now = start();
    // The relays 5 and 6 are cheaper as entries; the middle is paid 4, and the exit 8.
    let view = paid(6, 2, 2, |n| (n, if n > 4 { 3 } else { 4 }, 8));
    let with = |seed, hops, max: Option<u64>| {
        let wishes = Wishes { max_price: max.map(Rate), ..Wishes::hops(hops) };
        Paths::new(Random::seed_from_u64(seed), view.clone(), wishes)
    };
    for (max, cheapest) in [(None, 4), (Some(16), 4), (Some(15), 3)] {
        let mut seen = BTreeSet::new();
        for seed in 0..50 {
            let mut paths = with(seed, 3, max);
            let entry = paths.entry(now).unwrap();
            let path = paths.choose(now, entry, Some(80)).unwrap();
            assert!(max.is_none_or(|max| rates(&path)[0].0 <= max));
            seen.insert(view.payment(&entry).unwrap().ask.0);
        }
        assert!(seen.contains(&3) && seen.contains(&4) == (cheapest == 4), "{max:?} {seen:?}");
    }
    let mut paths = with(1, 3, Some(14));
    let error = paths.entry(now).unwrap_err();
    let expected = NoPath::TooDear { ruled_out: 6, least: Rate(15), max: Rate(14), hops: 3, port: 0 };
    assert_eq!((error, error.port()), (expected, None));
    for part in ["3 hops", &per_gib(Rate(15)).to_string(), &per_gib(Rate(14)).to_string(), "rules out 6"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = paths.choose(now, id(5), Some(80)).unwrap_err();
    assert_eq!(error, NoPath::TooDear { ruled_out: 1, least: Rate(15), max: Rate(14), hops: 3, port: 80 });
    assert_eq!(error.port(), Some(80));
    // Fewer hops are cheaper.
    assert!(with(1, 2, Some(14)).entry(now).is_ok());
}

#[test]
fn a_gib_is_so_many_cells() {
    assert_eq!(CELLS_PER_GIB, 856_254);
    assert_eq!(per_gib(Rate(3)), Wei(2_568_762));
}

#[test]
fn a_full_cell_carries_what_prices_are_reckoned_with() {
    let now = start().instant;
    let mut streams = Streams::new(now, End::Client, &StreamConfig::default(), [7; 32]).unwrap();
    let stream = streams.open().unwrap();
    assert_eq!(streams.write(stream, &[1; 10_000]), Ok(10_000));
    let mut packet = [0; MAX_QUIC_PACKET];
    let lengths: Vec<_> = core::iter::from_fn(|| streams.poll_transmit(now, &mut packet)).collect();
    assert!(lengths.iter().sum::<usize>() > 10_000, "all of it was sent");
    assert!(lengths.len() <= 10_000_usize.div_ceil(MAX_QUIC_PACKET - 24), "{lengths:?}");
}
