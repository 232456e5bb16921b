use std::collections::BTreeSet;

use circuit::keys::{DhPublic, IdentitySecret, NetworkId};
use directory::descriptor::{Descriptor, EPOCH_SECONDS};
use directory::exit_summary::ExitSummary;
use rand_core::SeedableRng as _;

use super::*;

const NETWORK: NetworkId = NetworkId([1; 16]);
const EPOCH: u32 = 80_000;

#[expect(clippy::disallowed_methods, reason = "an anchor for virtual time")]
fn start() -> Now {
    Now { instant: Instant::now(), unix_ms: u64::from(EPOCH) * EPOCH_SECONDS * 1000 + 1_000_000 }
}

/// Relays of which the first `exits` serve the ports 80 and 443.
fn view(relays: u8, exits: u8) -> View {
    let mut view = View::new(NETWORK);
    for n in 1..=relays {
        let identity = IdentitySecret::from_bytes(&[n; 32]);
        let descriptor = Descriptor {
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
        };
        view.insert(SignedDescriptor::sign(descriptor, &identity).unwrap()).unwrap();
    }
    view
}

fn paths(seed: u64) -> Paths {
    Paths::new(Random::seed_from_u64(seed))
}

#[test]
fn no_relay_is_in_a_path_twice_and_the_exit_serves_the_port() {
    // circuit.setup.8
    let now = start();
    for (relays, exits) in [(5, 1), (5, 2), (5, 5), (8, 3), (30, 4)] {
        let view = view(relays, exits);
        for seed in 0..200 {
            let mut paths = paths(seed);
            for hops in 2..=5 {
                let entry = paths.entry(&view, now, hops).unwrap();
                let path = paths.choose(&view, now, entry, hops, Some(443)).unwrap();
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
    let (now, view, mut paths) = (start(), view(5, 1), paths(1));
    let entry = paths.entry(&view, now, 1).unwrap();
    assert!(view.get(&entry).unwrap().exit.is_some());
    assert_eq!(paths.choose(&view, now, entry, 1, Some(80)).unwrap().len(), 1);
    assert!(matches!(paths.choose(&view, now, entry, 1, Some(22)), Err(NoPath::NoExit { port: 22, .. })));
}

#[test]
fn the_entry_stays_until_it_is_avoided_and_comes_back() {
    let (mut now, view, mut paths) = (start(), view(10, 3), paths(2));
    let first = paths.entry(&view, now, 3).unwrap();
    assert!((0..50).all(|_| paths.entry(&view, now, 3) == Ok(first)));
    paths.avoid(now.instant, first);
    let second = paths.entry(&view, now, 3).unwrap();
    assert_ne!(first, second);
    now.instant += AVOIDED;
    assert_eq!(paths.entry(&view, now, 3), Ok(first));
    // However many fail, few relays ever become entries.
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let entry = paths.entry(&view, now, 3).unwrap();
        seen.insert(entry);
        paths.avoid(now.instant, entry);
        now.instant += Duration::from_secs(1);
    }
    assert!(seen.len() <= MAX_ENTRIES, "{seen:?}");
}

#[test]
fn what_is_avoided_is_used_only_where_nothing_else_will_do() {
    let (now, view, mut paths) = (start(), view(6, 3), paths(3));
    let entry = paths.entry(&view, now, 3).unwrap();
    let exits: Vec<_> = view.iter().filter(|relay| relay.exit.is_some()).map(|relay| relay.id).collect();
    paths.avoid(now.instant, exits[0]);
    let chosen = |paths: &mut Paths| paths.choose(&view, now, entry, 3, None).unwrap()[2].id;
    assert!((0..100).all(|_| chosen(&mut paths) != exits[0]));
    for exit in &exits {
        paths.avoid(now.instant, *exit);
    }
    assert!(exits.contains(&chosen(&mut paths)));
    for exit in &exits[1..] {
        paths.trust(exit);
    }
    assert!((0..100).all(|_| chosen(&mut paths) != exits[0]));
}

#[test]
fn what_is_impossible_says_what_is_missing() {
    let now = start();
    let few = view(2, 1);
    let error = paths(1).entry(&few, now, 3).unwrap_err();
    assert_eq!(error, NoPath::TooFewRelays { known: 2, usable: 2, hops: 3 });
    let later = Now { unix_ms: now.unix_ms + EPOCH_SECONDS * 1000, ..now };
    let error = paths(1).entry(&few, later, 2).unwrap_err();
    assert_eq!(error, NoPath::TooFewRelays { known: 2, usable: 0, hops: 2 });
    let full = view(5, 2);
    let mut paths = paths(1);
    let entry = paths.entry(&full, now, 3).unwrap();
    let error = paths.choose(&full, now, entry, 3, Some(25)).unwrap_err();
    assert_eq!(error.to_string(), "none of 5 usable relays is an exit for port 25");
    let no_exit = view(5, 0);
    let entry = paths.entry(&no_exit, now, 3).unwrap();
    let error = paths.choose(&no_exit, now, entry, 3, None).unwrap_err();
    assert_eq!(error.to_string(), "none of 5 usable relays is an exit");
}
