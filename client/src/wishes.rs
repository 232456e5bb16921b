//! What the user wants of every path; wishes are strict.

use std::collections::BTreeSet;

use circuit::keys::RelayId;
use directory::atlas::System;
use directory::descriptor::MAX_ADDRESSES;
use payments::amount::Rate;

/// The relays of a path, if the user does not say otherwise.
pub const DEFAULT_HOPS: usize = 3;

/// ISO 3166-1 alpha-2 code of a country, upper case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country(pub [u8; 2]);

impl Country {
    /// The country that two letters name, upper or lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let code: [u8; 2] = text.as_bytes().try_into().ok()?;
        code.iter().all(u8::is_ascii_alphabetic).then(|| Self(code.map(|letter| letter.to_ascii_uppercase())))
    }
}

impl core::fmt::Display for Country {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|letter| write!(f, "{}", char::from(letter.to_ascii_lowercase())))
    }
}

/// Where a relay is: what it says, and what is known of its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// What its descriptor says.
    pub claim: Option<Country>,
    /// What a table says of each of its addresses.
    pub seen: [Option<Country>; MAX_ADDRESSES],
    /// The autonomous system of each of its addresses, where a table knows it.
    pub systems: [Option<System>; MAX_ADDRESSES],
}

impl Location {
    /// The country that the relay is taken to be in: a table is believed more than the relay.
    pub fn country(self) -> Option<Country> {
        self.countries().next()
    }

    /// All countries that the relay may be in: those of its addresses, else the one it claims.
    // path.wish.3
    pub fn countries(self) -> impl Iterator<Item = Country> {
        let claim = self.claim.filter(|_| self.seen == [None; MAX_ADDRESSES]);
        self.seen.into_iter().flatten().chain(claim)
    }

    /// All autonomous systems that its addresses are known to be in.
    pub fn systems(self) -> impl Iterator<Item = System> + Clone {
        self.systems.into_iter().flatten()
    }

    /// Whether the table says something else of one of its addresses than the relay.
    // directory.country.1
    pub fn is_contradicted(self) -> bool {
        self.claim.is_some() && self.countries().any(|country| Some(country) != self.claim)
    }
}

/// What the user wants of every path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Relays in each path, 1 to 5.
    pub hops: usize,
    /// The countries that the exit may be in; any if there are none.
    pub exit: BTreeSet<Country>,
    /// The countries that the entry may be in; any if there are none.
    pub entry: BTreeSet<Country>,
    /// Countries that no relay of a path may be in.
    pub excluded: BTreeSet<Country>,
    /// Autonomous systems that no relay of a path may be in.
    pub excluded_systems: BTreeSet<System>,
    /// Relays that no path may have.
    pub excluded_relays: BTreeSet<RelayId>,
    /// No two relays of a path may be in one country.
    pub distinct_countries: bool,
    /// The most that a cell may cost in all, on a paid network.
    pub max_price: Option<Rate>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self::hops(DEFAULT_HOPS)
    }
}

/// A place of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The first relay.
    Entry,
    /// Neither the first nor the last.
    Middle,
    /// The last relay; the only one of a path of one.
    Exit,
}

impl Place {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Middle => "middle",
            Self::Exit => "exit",
        }
    }
}

/// The wish that a relay does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unmet {
    Country,
    ExcludedCountry,
    ExcludedSystem,
    ExcludedRelay,
}

/// How many relays each wish rules out for one place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuledOut {
    /// Not in a country that is wished for this place.
    pub country: usize,
    /// In a country that is excluded, or in none that is known.
    pub excluded_country: usize,
    /// In an autonomous system that is excluded, or in none that is known.
    pub excluded_system: usize,
    /// Excluded themselves.
    pub excluded_relay: usize,
}

impl RuledOut {
    pub(crate) const fn count(&mut self, unmet: Unmet) {
        match unmet {
            Unmet::Country => self.country += 1,
            Unmet::ExcludedCountry => self.excluded_country += 1,
            Unmet::ExcludedSystem => self.excluded_system += 1,
            Unmet::ExcludedRelay => self.excluded_relay += 1,
        }
    }

    /// How many in all.
    pub const fn sum(&self) -> usize {
        self.country + self.excluded_country + self.excluded_system + self.excluded_relay
    }

    /// In words, by the names of the settings.
    pub(crate) fn to_text(self, place: Place) -> String {
        let wishes = [
            (place.as_str(), self.country),
            ("exclude", self.excluded_country),
            ("exclude", self.excluded_system),
            ("exclude", self.excluded_relay),
        ];
        let kinds = ["countries", "countries", "autonomous systems", "relays"];
        let parts: Vec<_> = wishes
            .iter()
            .zip(kinds)
            .filter(|((_, count), _)| *count > 0)
            .map(|((wish, count), kind)| format!("{count} by the {kind} of `{wish}`"))
            .collect();
        parts.join(", ")
    }
}

impl Wishes {
    /// Paths of so many relays, and no other wish.
    pub const fn hops(hops: usize) -> Self {
        Self {
            hops,
            exit: BTreeSet::new(),
            entry: BTreeSet::new(),
            excluded: BTreeSet::new(),
            excluded_systems: BTreeSet::new(),
            excluded_relays: BTreeSet::new(),
            distinct_countries: false,
            max_price: None,
        }
    }

    /// The wish by which a relay is ruled out for a place, if one does it.
    // path.wish.1
    pub(crate) fn unmet(&self, place: Place, id: &RelayId, at: Location) -> Option<Unmet> {
        if self.excluded_relays.contains(id) {
            return Some(Unmet::ExcludedRelay);
        }
        // Neither the claim nor the table may name an excluded country, and one of them has to name another.
        let excluded = |country: Option<Country>| country.is_some_and(|at| self.excluded.contains(&at));
        if !self.excluded.is_empty()
            && (at.country().is_none() || excluded(at.claim) || at.countries().any(|at| excluded(Some(at))))
        {
            return Some(Unmet::ExcludedCountry);
        }
        let mut systems = at.systems();
        if !self.excluded_systems.is_empty()
            && (systems.clone().next().is_none() || systems.any(|at| self.excluded_systems.contains(&at)))
        {
            return Some(Unmet::ExcludedSystem);
        }
        let within = |wanted: &BTreeSet<Country>| {
            wanted.is_empty() || at.country().is_some() && at.countries().all(|at| wanted.contains(&at))
        };
        let met = match place {
            Place::Entry => within(&self.entry) && (self.hops > 1 || within(&self.exit)),
            Place::Exit => within(&self.exit) && (self.hops > 1 || within(&self.entry)),
            Place::Middle => true,
        };
        (!met).then_some(Unmet::Country)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn countries(codes: &[&str]) -> BTreeSet<Country> {
        codes.iter().filter_map(|code| Country::parse(code)).collect()
    }

    fn at(claim: &str, seen: &str) -> Location {
        let mut at = Location { claim: Country::parse(claim), ..Location::default() };
        at.seen.iter_mut().zip(seen.split(' ')).for_each(|(at, code)| *at = Country::parse(code));
        at
    }

    // directory.country.1
    #[test]
    fn a_claim_is_marked_only_where_an_address_is_known_to_be_elsewhere() {
        for (claim, seen, marked) in [
            ("DE", "", false),
            ("DE", "- DE", false),
            ("DE", "DE CH", true),
            ("DE", "- - - CH", true),
            ("", "CH", false),
        ] {
            assert_eq!(at(claim, seen).is_contradicted(), marked, "{claim} {seen}");
        }
    }

    #[test]
    fn a_country_is_two_letters() {
        assert_eq!(Country::parse("nl"), Some(Country(*b"NL")));
        assert_eq!(Country::parse("Nl").map(|country| country.to_string()), Some("nl".to_owned()));
        for bad in ["", "n", "nld", "n1", "é", "--"] {
            assert_eq!(Country::parse(bad), None, "{bad}");
        }
    }

    // path.wish.1 path.wish.3
    #[test]
    fn a_relay_is_where_its_address_is_and_excluded_by_either() {
        let id = RelayId([1; 32]);
        let wishes = Wishes { exit: countries(&["nl"]), ..Wishes::hops(3) };
        assert_eq!(wishes.unmet(Place::Exit, &id, at("NL", "")), None);
        assert_eq!(wishes.unmet(Place::Exit, &id, at("NL", "RU")), Some(Unmet::Country), "a lie");
        assert_eq!(wishes.unmet(Place::Exit, &id, at("RU", "NL")), None);
        assert_eq!(
            wishes.unmet(Place::Exit, &id, at("NL", "NL RU")),
            Some(Unmet::Country),
            "one address is elsewhere"
        );
        assert_eq!(wishes.unmet(Place::Exit, &id, at("", "")), Some(Unmet::Country));
        assert_eq!(wishes.unmet(Place::Entry, &id, at("RU", "RU")), None);
        assert_eq!(wishes.unmet(Place::Middle, &id, at("", "")), None);
        let wishes = Wishes { excluded: countries(&["ru"]), ..wishes };
        for place in [Place::Entry, Place::Middle, Place::Exit] {
            for bad in [at("RU", "NL"), at("NL", "RU"), at("NL", "NL RU"), at("NL", "- - - RU"), at("", "")] {
                assert_eq!(wishes.unmet(place, &id, bad), Some(Unmet::ExcludedCountry), "{place:?} {bad:?}");
            }
            assert_eq!(wishes.unmet(place, &id, at("NL", "")), None);
        }
        let system = |number| System::new(number);
        let of = |number| Location { systems: [None, system(number), None, None], ..at("NL", "NL") };
        let wishes = Wishes { excluded_systems: system(64_500).into_iter().collect(), ..wishes };
        for (at, unmet) in [(of(64_500), true), (of(64_501), false), (at("NL", "NL"), true)] {
            assert_eq!(wishes.unmet(Place::Middle, &id, at), unmet.then_some(Unmet::ExcludedSystem));
        }
        let wishes = Wishes { excluded_relays: BTreeSet::from([id]), ..wishes };
        assert_eq!(wishes.unmet(Place::Middle, &id, at("NL", "NL")), Some(Unmet::ExcludedRelay));
    }

    #[test]
    fn the_only_relay_of_a_path_is_entry_and_exit() {
        let id = RelayId([1; 32]);
        let wishes = Wishes { entry: countries(&["de"]), exit: countries(&["nl", "de"]), ..Wishes::hops(1) };
        for place in [Place::Entry, Place::Exit] {
            assert_eq!(wishes.unmet(place, &id, at("DE", "")), None);
            assert_eq!(wishes.unmet(place, &id, at("NL", "")), Some(Unmet::Country));
        }
    }
}
