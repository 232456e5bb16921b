//! The user's wishes for paths, as they are written in a file and on the command line.

use std::collections::BTreeSet;
use std::str::FromStr;

use circuit::keys::RelayId;
use client::path::CELLS_PER_GIB;
use client::wishes::{Country, Wishes};
use directory::atlas::System;
use directory::chain::Wei;
use directory::payment::Rate;

use super::amount::amount;
use super::relay_id;

/// What no path may have: a country, an autonomous system, or a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excluded {
    /// All relays of a country.
    Country(Country),
    /// All relays of an autonomous system.
    System(System),
    /// One relay.
    Relay(RelayId),
}

impl FromStr for Excluded {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(id) = relay_id(text) {
            return Ok(Self::Relay(id));
        }
        let number =
            text.get(..2).filter(|start| start.eq_ignore_ascii_case("as")).and_then(|_| text.get(2..));
        if let Some(system) = number.and_then(|number| number.parse().ok()) {
            return Ok(Self::System(system));
        }
        Country::parse(text).map(Self::Country).ok_or_else(|| {
            "a country of two letters, such as nl, an autonomous system, such as AS64500, or a relay's id of 64 hexadecimal \
             digits is wanted"
                .to_owned()
        })
    }
}

/// A country, as it is written.
pub(crate) fn country(text: &str) -> Result<Country, String> {
    Country::parse(text).ok_or_else(|| "a country of two letters, such as nl, is wanted".to_owned())
}

/// What a cell may cost where a GiB may cost so much: rounded down, and never to nothing.
pub(crate) fn price(text: &str) -> Result<Rate, String> {
    let wanted =
        || "an amount per GiB is wanted, such as \"0.002 ether/GiB\" or \"5000 gwei/GiB\"".to_owned();
    let Wei(wei) = amount(text.strip_suffix("/GiB").ok_or_else(wanted)?.trim_end())?;
    if (1..u128::from(CELLS_PER_GIB)).contains(&wei) {
        return Err(format!(
            "no price is so low: the least is \"{CELLS_PER_GIB} wei/GiB\", which is 1 wei for a cell; \"0 wei/GiB\" takes only relays that ask nothing"
        ));
    }
    u64::try_from(wei / u128::from(CELLS_PER_GIB)).map(Rate).map_err(|_| wanted())
}

/// Adds what is excluded to wishes.
pub(crate) fn exclude(wishes: &mut Wishes, all: impl IntoIterator<Item = Excluded>) {
    (wishes.excluded, wishes.excluded_relays) = (BTreeSet::new(), BTreeSet::new());
    wishes.excluded_systems = BTreeSet::new();
    for one in all {
        match one {
            Excluded::Country(country) => wishes.excluded.insert(country),
            Excluded::System(system) => wishes.excluded_systems.insert(system),
            Excluded::Relay(relay) => wishes.excluded_relays.insert(relay),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_for_a_gib() {
        assert_eq!(price("856254 wei/GiB"), Ok(Rate(1)));
        assert_eq!(price("0.002 ether/GiB"), Ok(Rate(2_335_755_511)));
        assert_eq!(price("0 wei/GiB"), Ok(Rate(0)));
        for low in ["1 wei/GiB", "856253 wei/GiB"] {
            assert!(price(low).unwrap_err().contains("the least is \"856254 wei/GiB\""), "{low}");
        }
        assert!(price("2/GiB").unwrap_err().contains("name the unit"));
        for bad in ["1 ether", "ether/GiB", "-1 wei/GiB", "1 wei/MiB", ""] {
            assert!(price(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_relay_or_a_country_can_be_excluded() {
        let id = "ab".repeat(32);
        assert_eq!(id.parse(), Ok(Excluded::Relay(RelayId([0xab; 32]))));
        assert_eq!("de".parse(), Ok(Excluded::Country(Country(*b"DE"))));
        for text in ["AS64500", "as64500"] {
            assert_eq!(text.parse(), Ok(Excluded::System(System::new(64_500).unwrap())));
        }
        assert_eq!("as".parse(), Ok(Excluded::Country(Country(*b"AS"))), "American Samoa");
        for bad in ["deu", "as0", "as-1", "as4294967296", "asx"] {
            assert!(bad.parse::<Excluded>().is_err(), "{bad}");
        }
    }
}
