//! Many paths over scarce directories, and relays that lie about their bandwidth.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::wishes::Country;

/// Directories, each with so many paths.
const DIRECTORIES: u64 = 1_000;
const PATHS: usize = 2_000;

/// What is drawn for one directory.
struct Scarce {
    seed: u64,
    view: View,
    wishes: Wishes,
}

/// Thirty relays of five owners in a few subnets and countries, with few exits, and wishes that leave even fewer.
fn scarce(seed: u64) -> Scarce {
    let mut rng = Random::seed_from_u64(seed);
    let mut below = |most: u8| u8::try_from(rng.next_u64() % u64::from(most)).unwrap();
    let paid = below(2) == 0;
    let (exits, nets, hops) = (1 + below(6), 2 + below(12), 1 + usize::from(below(5)));
    let codes = [*b"NL", *b"DE", *b"SE"];
    let chain = chain(1);
    let (chain_id, contract) = (chain.id, chain.contract);
    let mut view = View::new(NETWORK);
    if paid {
        view = view.with_chain(chain);
    }
    for n in 1..=30 {
        let (owner, net, at) = (1 + below(5), below(nets), below(4));
        let (ask, exit_ask) = (Rate(u64::from(below(20))), Rate(u64::from(below(40))));
        let exit_ask = if n <= exits { exit_ask } else { Rate::FREE };
        let bandwidth = u32::from(below(200));
        let owner = Address::repeat_byte(owner);
        let new = relay(n, exits, |relay| {
            relay.addresses = vec![SocketAddr::from(([5, net, n, 1], 443))];
            relay.country = codes.get(usize::from(at)).copied();
            relay.bandwidth = bandwidth;
            relay.payment = paid.then_some(Payment { chain_id, contract, owner, ask, exit_ask });
        });
        view.insert(new).unwrap();
    }
    let mut some = |most: u8| -> BTreeSet<Country> {
        let chosen = below(most);
        codes.iter().zip(0..).filter(|(_, n)| *n == chosen).map(|(code, _)| Country(*code)).collect()
    };
    let (exit, entry, excluded) = (some(14), some(14), some(14));
    let excluded_relays = (0..below(4)).map(|_| id(1 + below(30))).collect();
    let distinct_countries = below(6) == 0;
    let max_price = (paid && below(3) == 0).then(|| Rate(40 + u64::from(below(100))));
    let wishes = Wishes {
        exit,
        entry,
        excluded,
        excluded_relays,
        distinct_countries,
        max_price,
        ..Wishes::hops(hops)
    };
    Scarce { seed, view, wishes }
}

impl Scarce {
    fn net(&self, id: &RelayId) -> u8 {
        match self.view.get(id).unwrap().addresses[0] {
            SocketAddr::V4(address) => address.ip().octets()[1],
            SocketAddr::V6(_) => panic!("all have IPv4"),
        }
    }

    fn at(&self, id: &RelayId) -> Option<Country> {
        self.view.get(id)?.country.map(Country)
    }

    /// Everything that a path must be.
    fn check(&self, path: &[PathHop], entry: RelayId, port: u16) {
        let (ids, wishes) = (path.iter().map(|hop| hop.id).collect::<Vec<_>>(), &self.wishes);
        let distinct =
            |count: usize, what: &str| assert_eq!(count, wishes.hops, "{what}, seed {}", self.seed);
        distinct(ids.len(), "length");
        distinct(ids.iter().collect::<BTreeSet<_>>().len(), "relays");
        distinct(ids.iter().map(|id| self.net(id)).collect::<BTreeSet<_>>().len(), "subnets");
        if self.view.chain().is_some() {
            let owners = ids.iter().map(|id| self.view.payment(id).unwrap().owner);
            distinct(owners.collect::<BTreeSet<_>>().len(), "owners");
        }
        if wishes.distinct_countries && wishes.hops > 1 {
            distinct(ids.iter().filter_map(|id| self.at(id)).collect::<BTreeSet<_>>().len(), "countries");
        }
        let (first, last) = (ids[0], ids[wishes.hops - 1]);
        assert_eq!(first, entry);
        assert!(self.view.get(&last).unwrap().exit.as_ref().unwrap().accepts(port));
        let within = |set: &BTreeSet<Country>, id| set.is_empty() || set.contains(&self.at(id).unwrap());
        assert!(within(&wishes.exit, &last) && within(&wishes.entry, &first));
        for id in &ids {
            assert!(!wishes.excluded_relays.contains(id));
            assert!(wishes.excluded.is_empty() || !wishes.excluded.contains(&self.at(id).unwrap()));
        }
        if let Some(max) = wishes.max_price {
            assert!(Rate::decode(path[0].terms.rate_in).unwrap() <= max);
        }
    }

    /// Whether there is any path: looked for in another way, relay by relay.
    fn has_path(&self, paths: &mut Paths, now: Now, port: Option<u16>, entry: Option<RelayId>) -> bool {
        let entries: Vec<_> = self.view.iter().map(|relay| relay.id).collect();
        entries.into_iter().filter(|id| entry.is_none_or(|entry| entry == *id)).any(|entry| {
            let parts = paths.parts(now, port);
            let Ok(fit) = parts.entries() else { return false };
            if !fit.iter().any(|(relay, _)| relay.id == entry) {
                return false;
            }
            let Ok(class) = class(parts.roster, parts.wishes, parts.roster.get(&entry).unwrap(), port) else {
                return false;
            };
            let all: Vec<_> = parts.roster.all().iter().collect();
            let first = parts.roster.get(&entry).unwrap();
            self.extends(&mut vec![first], &all, class, port)
        })
    }

    fn extends<'a>(
        &self,
        path: &mut Vec<&'a Candidate>,
        all: &[&'a Candidate],
        class: Option<Class>,
        port: Option<u16>,
    ) -> bool {
        let hops = self.wishes.hops;
        if hops == 1 {
            return path[0].serves(port) && path[0].unmet(Place::Exit).is_none();
        }
        if path.len() == hops {
            return true;
        }
        let ends = path.len() + 1 == hops;
        all.iter().enumerate().any(|(n, relay)| {
            let place = if ends { Place::Exit } else { Place::Middle };
            let paid = class.is_none_or(|class| {
                let payment = relay.payment.unwrap();
                if ends { payment.exit_ask <= class.exit.rate() } else { payment.ask <= class.middle.rate() }
            });
            if relay.unmet(place).is_some()
                || !paid
                || (ends && !relay.serves(port))
                || path.iter().any(|other| relay.clashes(other, &self.wishes))
            {
                return false;
            }
            path.push(relay);
            // Middles in the order of their ids: the order is nothing to a path's being there.
            let rest = if path.len() + 1 == hops { all } else { all.get(n + 1..).unwrap_or_default() };
            let found = self.extends(path, if ends { all } else { rest }, class, port);
            path.pop();
            found
        })
    }
}

// path.distinct.1 path.distinct.2 path.distinct.3 path.wish.1 path.wish.2
#[test]
fn a_million_paths_keep_all_rules_and_errors_are_honest() {
    let now = start();
    let (mut made, mut impossible) = (0, BTreeMap::<&str, u32>::new());
    for seed in 0..DIRECTORIES {
        let scarce = scarce(seed);
        let mut paths = Paths::new(Random::seed_from_u64(seed), scarce.view.clone(), scarce.wishes.clone());
        let entry = match paths.entry(now) {
            Ok(entry) => entry,
            Err(no_path) => {
                assert!(!scarce.has_path(&mut paths, now, None, None), "seed {seed}: {no_path}");
                *impossible.entry(name(&no_path)).or_default() += 1;
                continue;
            }
        };
        for n in 0..PATHS {
            let port = if n % 2 == 0 { 80 } else { 443 };
            let path =
                paths.choose(now, entry, Some(port)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            scarce.check(&path, entry, port);
            made += 1;
        }
        assert!(paths.choose(now, entry, Some(25)).is_err());
    }
    println!("{made} paths; none, and rightly so, in {impossible:?}");
    assert!(made >= 1_000_000 && impossible.len() >= 5, "{made} {impossible:?}");
    let most = usize::try_from(DIRECTORIES).unwrap() * PATHS;
    assert_eq!(made + usize::try_from(impossible.values().sum::<u32>()).unwrap() * PATHS, most);
}

const fn name(no_path: &NoPath) -> &'static str {
    match no_path {
        NoPath::TooFewRelays { .. } => "too few relays",
        NoPath::TooFewOwners { .. } => "too few owners",
        NoPath::NoExit { .. } => "no exit",
        NoPath::TooDear { .. } => "too dear",
        NoPath::Wishes { place: Place::Entry, .. } => "wishes for the entry",
        NoPath::Wishes { .. } => "other wishes",
        NoPath::TooAlike { .. } => "too alike",
        NoPath::GuardsLost(_) => "lost guards",
        NoPath::FewKnown(_) => "few relays",
    }
}

proptest! {
    // path.wish.2
    #[test]
    fn every_error_tells_what_to_do(seed in any::<u64>()) {
        let scarce = scarce(seed);
        let mut paths = Paths::new(Random::seed_from_u64(seed), scarce.view, scarce.wishes);
        if let Err(no_path) = paths.entry(start()) {
            let text = no_path.to_string();
            prop_assert!(text.contains(':') || text.contains("of the"), "{}", text);
            prop_assert!(!text.contains("  ") && !text.contains(": are"), "{}", text);
        }
    }
}

/// How often each relay is the middle of a path.
fn middles(view: &View, seed: u64, count: u32) -> BTreeMap<RelayId, u32> {
    let now = start();
    let mut paths = paths(seed, view);
    let entry = paths.entry(now).unwrap();
    let mut met = BTreeMap::new();
    for _ in 0..count {
        *met.entry(paths.choose(now, entry, None).unwrap()[1].id).or_default() += 1;
    }
    met
}

// path.weight.1 path.weight.2
#[test]
fn a_liar_gains_no_more_than_its_cap() {
    let honest = |n: u8| 500 + u32::from(n) * 10;
    let network = |liar: u32| {
        let mut view = View::new(NETWORK);
        for n in 1..=100 {
            let claim = if n == 100 { liar } else { honest(n) };
            view.insert(relay(n, 10, |relay| relay.bandwidth = claim)).unwrap();
        }
        view
    };
    let (count, mut shares) = (20_000, vec![]);
    for claim in [u32::MAX, 4_040, 1_010, 0] {
        let view = network(claim);
        let met: u32 =
            (0..5).map(|seed| middles(&view, seed, count).get(&id(100)).copied().unwrap_or(0)).sum();
        shares.push(f64::from(met) / f64::from(5 * count));
    }
    println!("shares of the liar: {shares:?}");
    let sum = |own: f64| (1..100).map(|n| f64::from(honest(n))).sum::<f64>() + own;
    // The median of the claims is 1,000 or 1,010.
    for (share, own) in shares.iter().zip([4_040.0, 4_040.0, 1_010.0, 126.0]) {
        let expected = own / sum(own);
        assert!((share - expected).abs() < 0.2 * expected + 0.001, "{share} instead of {expected}");
    }
}

// path.weight.2 path.quality.2
#[test]
fn measurements_shift_the_choice_and_only_so_far() {
    let now = start();
    let mut view = View::new(NETWORK);
    (1..=21).for_each(|n| view.insert(relay(n, 2, |_| {})).unwrap());
    let mut paths = paths(1, &view);
    let entry = paths.entry(now).unwrap();
    let bad = if entry == id(20) { id(21) } else { id(20) };
    for _ in 0..50 {
        paths.quality_mut().carried(now.instant, &[bad], 0, Some(1.0));
    }
    let met = (0..20_000).filter(|_| paths.choose(now, entry, None).unwrap()[1].id == bad).count();
    // A quarter of the weight of each of the 18 other middles.
    assert!((210..350).contains(&met), "{met}");
}
