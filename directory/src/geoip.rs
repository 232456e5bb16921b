//! In which country an address is, by a table inside the program (docs/dependencies.md: who made it, and its licence).
//!
//! The table is a good guess, not a proof: it marks claims that look wrong, and refuses nobody.

use std::net::IpAddr;

use tor_geoip::GeoipDb;

use crate::descriptor::Descriptor;

/// ISO 3166-1 alpha-2 code of the country that an address is assigned to, upper case; `None` if the table does not know.
pub fn country(ip: IpAddr) -> Option<[u8; 2]> {
    let table = GeoipDb::new_embedded();
    let code = table.lookup_country_code(ip.to_canonical())?.get().as_bytes().try_into().ok()?;
    Some(code).filter(|code: &[u8; 2]| code.iter().all(u8::is_ascii_uppercase))
}

/// The country of one of the relay's addresses, if it is another one than the relay says it is in.
// directory.country.1
pub fn contradicts(relay: &Descriptor) -> Option<[u8; 2]> {
    let claim = relay.country?;
    relay.addresses.iter().filter_map(|address| country(address.ip())).find(|found| *found != claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::descriptor;

    fn of(ip: &str) -> Option<[u8; 2]> {
        country(ip.parse().unwrap())
    }

    #[test]
    fn well_known_addresses_have_their_country_and_private_ones_none() {
        // Universities, which have had these ranges since before there were countries in tables.
        assert_eq!(of("18.7.22.69"), Some(*b"US"));
        assert_eq!(of("130.92.9.53"), Some(*b"CH"));
        assert_eq!(of("::ffff:130.92.9.53"), Some(*b"CH"));
        assert_eq!(of("2001:638:a::1"), Some(*b"DE"));
        for nowhere in ["127.0.0.1", "10.1.2.3", "192.0.2.1", "::1", "fe80::1"] {
            assert_eq!(of(nowhere), None, "{nowhere}");
        }
    }

    // directory.country.1
    #[test]
    fn a_claim_is_marked_only_where_an_address_is_known_to_be_elsewhere() {
        let mut relay = descriptor(1);
        relay.addresses = vec![([127, 0, 0, 1], 1).into()];
        assert_eq!((relay.country, contradicts(&relay)), (Some(*b"DE"), None), "nothing is known");
        relay.addresses.push(([130, 92, 9, 53], 1).into());
        assert_eq!(contradicts(&relay), Some(*b"CH"));
        relay.country = Some(*b"CH");
        assert_eq!(contradicts(&relay), None);
        relay.addresses.push(([18, 7, 22, 69], 1).into());
        assert_eq!(contradicts(&relay), Some(*b"US"), "one address elsewhere is enough");
        relay.country = None;
        assert_eq!(contradicts(&relay), None, "who claims nothing contradicts nothing");
    }
}
