//! Wishes, and what is said where they cannot be met.

use std::net::IpAddr;

use directory::atlas::System;

use super::*;
use crate::wishes::Country;

type Change = fn(&mut Wishes);

const COUNTRIES: [&str; 4] = ["nl", "de", "se", "ch"];

fn country(code: &str) -> Country {
    Country::parse(code).unwrap()
}

fn countries(codes: &[&str]) -> BTreeSet<Country> {
    codes.iter().map(|code| country(code)).collect()
}

/// Relays in the four countries in turn, of which the first `exits` are exits.
fn spread(relays: u8, exits: u8) -> View {
    let mut view = View::new(NETWORK);
    for n in 1..=relays {
        let at = country(COUNTRIES[usize::from(n) % COUNTRIES.len()]);
        view.insert(relay(n, exits, |relay| relay.country = Some(at.0))).unwrap();
    }
    view
}

fn with(view: &View, seed: u64, wishes: Wishes) -> Paths {
    Paths::new(Random::seed_from_u64(seed), view.clone(), wishes)
}

fn at(view: &View, hop: &PathHop) -> Country {
    Country(view.get(&hop.id).unwrap().country.unwrap())
}

/// A table that is a function.
struct By(fn(IpAddr) -> Option<[u8; 2]>, fn(IpAddr) -> Option<u32>);

impl core::fmt::Debug for By {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("By")
    }
}

impl Atlas for By {
    fn country(&self, ip: IpAddr) -> Option<[u8; 2]> {
        (self.0)(ip)
    }

    fn system(&self, ip: IpAddr) -> Option<System> {
        System::new((self.1)(ip)?)
    }
}

fn countries_by(country_of: fn(IpAddr) -> Option<[u8; 2]>) -> Arc<dyn Atlas> {
    Arc::new(By(country_of, |_| None))
}

/// The last part of an IPv4 address.
fn last(ip: IpAddr) -> Option<u32> {
    ip.to_string().split('.').next_back()?.parse().ok()
}

// path.distinct.4
#[test]
fn no_two_relays_of_a_path_are_in_one_autonomous_system() {
    let (now, view) = (start(), view(20, 8));
    // Five systems, and two relays of which none is known.
    let system_of: fn(IpAddr) -> Option<u32> =
        |ip| Some(64_500 + last(ip)? % 5).filter(|_| last(ip) < Some(19));
    let atlas: Arc<dyn Atlas> = Arc::new(By(|_| None, system_of));
    for seed in 0..100 {
        for hops in 2..=5 {
            let mut paths = with(&view, seed, Wishes::hops(hops)).with_atlas(Arc::clone(&atlas));
            let entry = paths.entry(now).unwrap();
            let path = paths.choose(now, entry, None).unwrap();
            let known: Vec<_> = path.iter().flat_map(|hop| paths.location(&hop.id).systems()).collect();
            assert_eq!(known.iter().collect::<BTreeSet<_>>().len(), known.len(), "{known:?}");
        }
    }
    let three: Arc<dyn Atlas> = Arc::new(By(|_| None, |ip| Some(64_500 + last(ip)? % 3)));
    let error = with(&view, 1, Wishes::hops(4)).with_atlas(Arc::clone(&three)).entry(now).unwrap_err();
    assert!(matches!(error, NoPath::TooAlike { left: 20, systems: Some(3), .. }), "{error:?}");
    assert!(error.to_string().contains("3 autonomous systems"), "{error}");
    let excluded_systems = [64_500, 64_501, 64_502].into_iter().filter_map(System::new).collect();
    let error = with(&view, 1, Wishes { excluded_systems, ..Wishes::hops(3) })
        .with_atlas(three)
        .entry(now)
        .unwrap_err();
    assert!(error.to_string().contains("20 by the autonomous systems of `exclude`"), "{error}");
}

// path.wish.1
#[test]
fn a_path_is_where_it_is_wished() {
    let (now, view) = (start(), spread(40, 12));
    let wishes = Wishes {
        exit: countries(&["nl", "se"]),
        entry: countries(&["de"]),
        excluded: countries(&["ch"]),
        excluded_relays: BTreeSet::from([id(4), id(12)]),
        ..Wishes::hops(4)
    };
    let mut exits = BTreeSet::new();
    for seed in 0..100 {
        let mut paths = with(&view, seed, wishes.clone());
        let entry = paths.entry(now).unwrap();
        let path = paths.choose(now, entry, Some(80)).unwrap();
        assert_eq!(at(&view, &path[0]), country("de"));
        assert!(wishes.exit.contains(&at(&view, &path[3])));
        for hop in &path {
            assert!(at(&view, hop) != country("ch") && !wishes.excluded_relays.contains(&hop.id));
        }
        exits.insert(path[3].id);
    }
    // Of the twelve exits 4, 8 and 12 are in the Netherlands, 2, 6 and 10 in Sweden, and two of these are excluded.
    assert_eq!(exits, BTreeSet::from([id(2), id(6), id(8), id(10)]));
}

// path.distinct.3
#[test]
fn distinct_countries_are_distinct() {
    let (now, view) = (start(), spread(40, 12));
    let wishes = Wishes { distinct_countries: true, ..Wishes::hops(4) };
    for seed in 0..50 {
        let mut paths = with(&view, seed, wishes.clone());
        let entry = paths.entry(now).unwrap();
        let path = paths.choose(now, entry, None).unwrap();
        let all: BTreeSet<_> = path.iter().map(|hop| at(&view, hop)).collect();
        assert_eq!(all.len(), 4);
    }
    let error = with(&view, 1, Wishes { hops: 5, ..wishes }).entry(now).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, NoPath::TooAlike { left: 40, hops: 5, countries: Some(4), .. }), "{error:?}");
    assert!(text.contains("4 countries") && text.contains("do not ask for distinct countries"), "{text}");
}

// path.wish.2
#[test]
fn a_wish_that_cannot_be_met_says_how_many_relays_it_rules_out() {
    let (now, view) = (start(), spread(40, 12));
    let wishes = |change: Change| {
        let mut wishes = Wishes::hops(3);
        change(&mut wishes);
        wishes
    };
    let cases: [(Change, &str); 6] = [
        (
            |wishes| wishes.exit = countries(&["fr"]),
            "none of the 12 relays that may be the exit are left: 12 by the countries of `exit` are ruled out; give up one of these wishes",
        ),
        (
            |wishes| wishes.entry = countries(&["fr"]),
            "none of the 40 relays that may be the entry are left: 40 by the countries of `entry` are ruled out; give up one of these wishes",
        ),
        (
            |wishes| {
                wishes.exit = countries(&["nl"]);
                wishes.excluded = countries(&["nl"]);
            },
            "none of the 12 relays that may be the exit are left: 9 by the countries of `exit`, 3 by the countries of `exclude` are ruled out; give up one of these wishes",
        ),
        (
            |wishes| {
                wishes.exit = countries(&["nl"]);
                wishes.excluded_relays = BTreeSet::from([id(4), id(8), id(12)]);
            },
            "none of the 12 relays that may be the exit are left: 9 by the countries of `exit`, 3 by the relays of `exclude` are ruled out; give up one of these wishes",
        ),
        (
            |wishes| wishes.excluded = countries(&["nl", "de", "se", "ch"]),
            "none of the 40 relays that may be the entry are left: 40 by the countries of `exclude` are ruled out; give up one of these wishes",
        ),
        (
            |wishes| wishes.excluded_relays = (3..=40).map(id).collect(),
            "too few of the 40 relays that may be the middle are left: 38 by the relays of `exclude` are ruled out; give up one of these wishes",
        ),
    ];
    for (change, text) in cases {
        let error = with(&view, 1, wishes(change)).entry(now).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}

// path.wish.2
#[test]
fn a_wish_for_the_exit_and_a_port_names_the_port() {
    let (now, view) = (start(), spread(40, 12));
    let mut paths = with(&view, 1, Wishes { exit: countries(&["nl"]), ..Wishes::hops(3) });
    let entry = paths.entry(now).unwrap();
    assert!(paths.choose(now, entry, Some(80)).is_ok());
    let error = paths.choose(now, entry, Some(22)).unwrap_err();
    assert_eq!(error.to_string(), "none of 40 usable relays is an exit for port 22");
    let mut view = view;
    let other = relay(41, 41, |relay| {
        relay.exit = Some(ExitSummary::new(vec![22..=22]).unwrap());
        relay.country = Some(*b"DE");
    });
    view.insert(other).unwrap();
    paths.set_view(now, view);
    let error = paths.choose(now, entry, Some(22)).unwrap_err();
    assert_eq!(error.port(), Some(22));
    let text = "none of the 1 relays that may be the exit for port 22 are left: 1 by the countries of `exit`";
    assert!(error.to_string().starts_with(text), "{error}");
}

// path.wish.3
#[test]
fn a_relay_that_lies_about_its_country_is_where_its_address_is() {
    let now = start();
    let mut view = spread(12, 4);
    let liar = relay(13, 13, |relay| {
        relay.addresses = vec![([93, 184, 216, 34], 443).into()];
        relay.country = Some(*b"NL");
    });
    view.insert(liar).unwrap();
    let wishes = Wishes { exit: countries(&["nl"]), ..Wishes::hops(3) };
    let exits = |country_of: fn(IpAddr) -> Option<[u8; 2]>| {
        let mut paths = with(&view, 1, wishes.clone()).with_atlas(countries_by(country_of));
        let entry = paths.entry(now).unwrap();
        (0..100).map(|_| paths.choose(now, entry, None).unwrap()[2].id).collect::<BTreeSet<_>>()
    };
    assert_eq!(exits(|_| None), BTreeSet::from([id(4), id(13)]));
    assert_eq!(exits(|ip| ip.to_string().starts_with("93.").then_some(*b"US")), BTreeSet::from([id(4)]));
}

// path.wish.3
#[test]
fn every_address_of_a_relay_counts_for_its_country() {
    let now = start();
    let mut view = spread(12, 4);
    view.insert(relay(13, 13, |relay| {
        relay.addresses =
            ["198.51.100.1:1", "93.184.216.34:1", "5.1.1.1:1"].map(|at| at.parse().unwrap()).into();
        relay.country = Some(*b"NL");
    }))
    .unwrap();
    let mut paths = with(&view, 1, Wishes { excluded: countries(&["us"]), ..Wishes::hops(3) }).with_atlas(
        countries_by(|ip| match ip.to_string().split('.').next() {
            Some("93") => Some(*b"NL"),
            Some("5") => Some(*b"US"),
            _ => None,
        }),
    );
    let entry = paths.entry(now).unwrap();
    assert!(paths.location(&id(13)).is_contradicted());
    assert!((0..100).all(|_| paths.choose(now, entry, None).unwrap().iter().all(|hop| hop.id != id(13))));
}

// path.distinct.2
#[test]
fn no_two_relays_of_a_path_are_in_one_subnet() {
    let now = start();
    let mut view = View::new(NETWORK);
    for n in 1..=12 {
        let of_ipv6 = n > 6;
        let net = n % 3;
        view.insert(relay(n, 12, |relay| {
            relay.addresses = vec![if of_ipv6 {
                format!("[2a00:{net}::{n}]:443").parse().unwrap()
            } else {
                ([5, net, n, 1], 443).into()
            }];
        }))
        .unwrap();
    }
    let net = |id: &RelayId| match view.get(id).unwrap().addresses[0].ip() {
        IpAddr::V4(ip) => (4, ip.octets()[1]),
        IpAddr::V6(ip) => (6, ip.octets()[3]),
    };
    for seed in 0..100 {
        let mut paths = paths_of(seed, &view, 5);
        let entry = paths.entry(now).unwrap();
        let path = paths.choose(now, entry, None).unwrap();
        let nets: BTreeSet<_> = path.iter().map(|hop| net(&hop.id)).collect();
        assert_eq!(nets.len(), 5);
    }
    let ipv4: Vec<_> = view.iter().filter(|relay| relay.addresses[0].is_ipv4()).cloned().collect();
    let mut three = View::new(NETWORK);
    for relay in ipv4 {
        three.insert(relay).unwrap();
    }
    let error = paths_of(1, &three, 4).entry(now).unwrap_err();
    assert!(matches!(error, NoPath::TooAlike { left: 6, hops: 4, subnets: 3, .. }), "{error:?}");
    assert!(paths_of(1, &three, 3).entry(now).is_ok());
}

#[test]
fn a_path_over_a_wanted_relay_has_it() {
    let (now, view) = (start(), spread(12, 4));
    for hops in 2..=5 {
        let mut paths = with(&view, 1, Wishes::hops(hops));
        let entry = paths.entry(now).unwrap();
        for n in 1..=12 {
            let path = paths.choose_via(now, entry, None, Some(id(n)));
            if hops == 2 && n > 4 && id(n) != entry {
                assert!(path.is_err(), "{n} is no exit");
                continue;
            }
            let path = path.unwrap();
            assert!(path.iter().any(|hop| hop.id == id(n)), "{n} in {hops} hops");
            if n <= 4 {
                assert_eq!(path[hops - 1].id, id(n));
            }
        }
    }
}
