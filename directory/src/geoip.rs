//! In which country an address is, by a table inside the program (docs/dependencies.md: who made it, and its licence).
//!
//! The table is a good guess, not a proof: it marks claims that look wrong, and refuses nobody.

use std::net::IpAddr;

use tor_geoip::GeoipDb;

/// ISO 3166-1 alpha-2 code of the country that an address is assigned to, upper case; `None` if the table does not know.
pub fn country(ip: IpAddr) -> Option<[u8; 2]> {
    let table = GeoipDb::new_embedded();
    let code = table.lookup_country_code(ip.to_canonical())?.get().as_bytes().try_into().ok()?;
    Some(code).filter(|code: &[u8; 2]| code.iter().all(u8::is_ascii_uppercase))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
