//! The relays that a path may have, as they are looked at for every choice: made once for a view and an epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use circuit::keys::RelayId;
use circuit::link::place;
use directory::atlas::Atlas;
use directory::descriptor::{Descriptor, EPOCH_SECONDS, MAX_ADDRESSES};
use directory::exit_summary::ExitSummary;
use directory::payment::Payment;
use directory::view::View;
use payments::Address;

use super::market::Market;
use super::no_path::NoPath;
use crate::wishes::{Country, Location, Place, RuledOut, Unmet, Wishes};

/// How many times the median a relay's bandwidth counts at most, whatever it claims.
// path.weight.1
pub const MOST_TIMES_MEDIAN: u64 = 4;
/// The share of the median that a relay's bandwidth counts at least, also where it claims none: one in so many.
const LEAST_OF_MEDIAN: u64 = 8;
/// The subnet of examples (RFC 3849).
const DOCUMENTATION: u128 = 0x2001_0db8;
/// Ports whose prices are remembered.
const MAX_MARKETS: usize = 64;

/// A relay that can be used.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) id: RelayId,
    pub(super) payment: Option<Payment>,
    pub(super) exit: Option<ExitSummary>,
    pub(super) at: Location,
    /// Its subnets: /16 of IPv4, /32 of IPv6; 0 where there is none.
    nets: [u64; MAX_ADDRESSES],
    /// For entry, middle and exit.
    unmet: [Option<Unmet>; 3],
}

impl Candidate {
    fn new(relay: &Descriptor, wishes: &Wishes, atlas: &dyn Atlas) -> Self {
        let at = location(relay, atlas);
        let mut nets = [0; MAX_ADDRESSES];
        for (net, address) in nets.iter_mut().zip(&relay.addresses) {
            *net = subnet(address.ip()).unwrap_or(0);
        }
        let unmet =
            [Place::Entry, Place::Middle, Place::Exit].map(|place| wishes.unmet(place, &relay.id, at));
        Self { id: relay.id, payment: relay.payment, exit: relay.exit.clone(), at, nets, unmet }
    }

    /// The account of its owner.
    pub(super) fn owner(&self) -> Option<Address> {
        self.payment.map(|payment| payment.owner)
    }

    /// Whether it is an exit for a port (any, if none is named).
    pub(super) fn serves(&self, port: Option<u16>) -> bool {
        self.exit.as_ref().is_some_and(|exit| port.is_none_or(|port| exit.accepts(port)))
    }

    /// The wish that keeps it from a place.
    pub(super) const fn unmet(&self, place: Place) -> Option<Unmet> {
        let [entry, middle, exit] = self.unmet;
        match place {
            Place::Entry => entry,
            Place::Middle => middle,
            Place::Exit => exit,
        }
    }

    /// Whether it and another one may not be in one path (circuit.setup.8).
    // path.distinct.1 path.distinct.2 path.distinct.4
    pub(super) fn clashes(&self, other: &Self, wishes: &Wishes) -> bool {
        let same_owner = self.payment.is_some() && self.owner() == other.owner();
        let same_net = || self.nets.iter().any(|net| *net != 0 && other.nets.contains(net));
        let same_system = || self.at.systems().any(|own| other.at.systems().any(|system| system == own));
        // path.distinct.3
        let same_country = || {
            let unknown = self.at.country().is_none() || other.at.country().is_none();
            let shared = || self.at.countries().any(|own| other.at.countries().any(|country| country == own));
            wishes.distinct_countries && (unknown || shared())
        };
        self.id == other.id || same_owner || same_net() || same_system() || same_country()
    }
}

/// Where a relay is.
pub(super) fn location(relay: &Descriptor, atlas: &dyn Atlas) -> Location {
    let mut at = Location { claim: relay.country.map(Country), ..Location::default() };
    for ((seen, system), address) in at.seen.iter_mut().zip(&mut at.systems).zip(&relay.addresses) {
        *seen = atlas.country(address.ip()).map(Country);
        *system = atlas.system(address.ip());
    }
    at
}

/// The network that an address is in, as far as paths are concerned; none for addresses that anybody may use, which
/// test networks have.
// path.distinct.2
fn subnet(ip: IpAddr) -> Option<u64> {
    let everybodys = match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_documentation(),
        IpAddr::V6(ip) => {
            let local = ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local();
            local || ip.to_bits() >> 96 == DOCUMENTATION
        }
    };
    (!everybodys).then(|| place(ip))
}

/// What the bandwidths that relays claim count, of a median of all claims.
// path.weight.1
fn weight(claim: u32, median: u64) -> u64 {
    u64::from(claim).clamp(median / LEAST_OF_MEDIAN, median.saturating_mul(MOST_TIMES_MEDIAN)).max(1)
}

/// The median of what is claimed; 0 where nobody claims anything.
fn median(claims: impl Iterator<Item = u32>) -> u64 {
    let mut claims: Vec<_> = claims.filter(|claim| *claim > 0).collect();
    claims.sort_unstable();
    claims.get(claims.len() / 2).copied().unwrap_or(0).into()
}

/// All relays that can be used.
#[derive(Debug)]
pub(super) struct Roster {
    /// In the order of their ids.
    candidates: Vec<Candidate>,
    /// The sum of the weights up to each of them, itself included.
    sums: Vec<u64>,
    known: usize,
    /// From when on, and until when it is right, in unix seconds.
    since: u64,
    until: u64,
    markets: BTreeMap<Option<u16>, Result<Market, NoPath>>,
}

impl Roster {
    /// The relays of a view that can be used at `unix` (seconds).
    pub(super) fn new(view: &View, unix: u64, wishes: &Wishes, atlas: &dyn Atlas) -> Self {
        let usable: Vec<_> = view.iter().filter(|relay| view.usable(&relay.id, unix).is_ok()).collect();
        let median = median(usable.iter().map(|relay| relay.bandwidth));
        let mut sum = 0_u64;
        let sums = usable.iter().map(|relay| {
            sum = sum.saturating_add(weight(relay.bandwidth, median));
            sum
        });
        let epoch_begins = (unix / EPOCH_SECONDS).saturating_mul(EPOCH_SECONDS);
        let epoch_ends = epoch_begins.saturating_add(EPOCH_SECONDS);
        Self {
            sums: sums.collect(),
            known: view.iter().len(),
            since: epoch_begins,
            until: usable.iter().map(|relay| relay.expires).min().unwrap_or(u64::MAX).min(epoch_ends),
            candidates: usable.iter().map(|relay| Candidate::new(relay, wishes, atlas)).collect(),
            markets: BTreeMap::new(),
        }
    }

    /// Whether it is right at `unix` (seconds); a clock may go back as well.
    pub(super) const fn holds(&self, unix: u64) -> bool {
        self.since <= unix && unix < self.until
    }

    /// Relays of the view, usable or not.
    pub(super) const fn known(&self) -> usize {
        self.known
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Candidate] {
        &self.candidates
    }

    /// One of them.
    pub(super) fn get(&self, id: &RelayId) -> Option<&Candidate> {
        self.candidates.get(self.candidates.binary_search_by_key(id, |candidate| candidate.id).ok()?)
    }

    /// The sum of all weights.
    pub(super) fn weight(&self) -> u64 {
        self.sums.last().copied().unwrap_or(0)
    }

    /// The relay at a place of the sum of all weights.
    pub(super) fn at(&self, place: u64) -> Option<&Candidate> {
        self.candidates.get(self.sums.partition_point(|sum| *sum <= place))
    }

    /// Every relay with its weight.
    pub(super) fn weighted(&self) -> impl Iterator<Item = (&Candidate, u64)> {
        let before = core::iter::once(0).chain(self.sums.iter().copied());
        self.candidates.iter().zip(self.sums.iter().zip(before).map(|(sum, before)| sum - before))
    }

    /// The relays that could have a place without wishes, how many each wish rules out, and who is left.
    pub(super) fn left_for(
        &self,
        place: Place,
        could: impl Fn(&Candidate) -> bool,
    ) -> (usize, RuledOut, Vec<&Candidate>) {
        let (mut count, mut ruled_out, mut left) = (0, RuledOut::default(), vec![]);
        for candidate in self.candidates.iter().filter(|candidate| could(candidate)) {
            count += 1;
            match candidate.unmet(place) {
                Some(unmet) => ruled_out.count(unmet),
                None => left.push(candidate),
            }
        }
        (count, ruled_out, left)
    }

    /// What the relays ask for paths to a port; made if it is not there.
    pub(super) fn open_market(&mut self, view: &View, hops: usize, port: Option<u16>) {
        let Some(chain) = view.chain() else { return };
        if self.markets.contains_key(&port) {
            return;
        }
        if self.markets.len() >= MAX_MARKETS {
            self.markets.clear();
        }
        let market = Market::new(&self.candidates, chain, hops, port);
        self.markets.insert(port, market);
    }

    /// What the relays ask for paths to a port; `None` on a free network.
    pub(super) fn market(&self, port: Option<u16>) -> Result<Option<&Market>, NoPath> {
        self.markets.get(&port).map(|market| market.as_ref().map_err(|no_path| *no_path)).transpose()
    }

    /// How many different owners, subnets, countries and autonomous systems some relays have; who is in no subnet or system
    /// counts as one.
    pub(super) fn kinds(relays: &[&Candidate]) -> [usize; 4] {
        let owners: BTreeSet<_> = relays.iter().filter_map(|relay| relay.owner()).collect();
        let own = |relay: &&&Candidate| relay.nets.iter().all(|net| *net == 0);
        let nets: BTreeSet<_> = relays.iter().flat_map(|relay| relay.nets).filter(|net| *net != 0).collect();
        let countries: BTreeSet<_> = relays.iter().filter_map(|relay| relay.at.country()).collect();
        let systems: BTreeSet<_> = relays.iter().flat_map(|relay| relay.at.systems()).collect();
        let unknown = relays.iter().filter(|relay| relay.at.systems().next().is_none()).count();
        [
            owners.len(),
            nets.len() + relays.iter().filter(own).count(),
            countries.len(),
            systems.len() + unknown,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // path.distinct.2
    #[test]
    fn subnets_are_16_bits_of_ipv4_and_32_of_ipv6() {
        let net = |ip: &str| subnet(ip.parse().unwrap());
        assert_eq!(net("93.184.1.1"), net("93.184.0.9"));
        assert_eq!(net("93.184.1.1"), net("::ffff:93.184.0.9"));
        assert_ne!(net("93.184.1.1"), net("93.185.1.1"));
        assert_eq!(net("2a00:1450::1"), net("2a00:1450:ffff::1"));
        assert_ne!(net("2a00:1450::1"), net("2a00:1451::1"));
        assert_ne!(net("0.1.0.0"), net("0:1::"), "an address of each family");
        for everybodys in [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.0.1",
            "192.0.2.1",
            "::1",
            "fd00::1",
            "2001:db8::1",
        ] {
            assert_eq!(net(everybodys), None, "{everybodys}");
        }
    }

    // path.weight.1
    #[test]
    fn a_claim_counts_between_an_eighth_and_four_times_the_median() {
        let of = |claims: &[u32]| median(claims.iter().copied());
        assert_eq!((of(&[]), of(&[0, 0]), of(&[5, 0, 9, 7]), of(&[1, 1, u32::MAX])), (0, 0, 7, 1));
        assert_eq!([0, 1, 99, 800, 4_000_000].map(|claim| weight(claim, 800)), [100, 100, 100, 800, 3200]);
        assert_eq!(weight(0, 0), 1, "where nobody claims anything all are equal");
        assert_eq!(weight(7, 0), 1);
    }
}
