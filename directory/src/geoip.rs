//! Where addresses are, by a table inside the program (docs/dependencies.md: who made it, and its licence) or by files of the same form.
//!
//! The table is a good guess, not a proof: it marks claims that look wrong, and refuses nobody.

use core::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tor_geoip::GeoipDb;

use crate::atlas::{Atlas, System};

/// The longest file that is read.
const MAX_FILE: u64 = 128 << 20;

/// A table of addresses.
#[derive(Clone)]
pub struct Table(Arc<GeoipDb>);

/// A table that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the table of addresses {path} cannot be used: {why}")]
pub struct BadTable {
    path: PathBuf,
    why: String,
}

impl Table {
    /// The table inside the program; it has countries only.
    pub fn embedded() -> Self {
        Self(GeoipDb::new_embedded())
    }

    /// A table of files, one for IPv4 and one for IPv6, in the form of Tor's: `first,last,country`, and maybe `,AS number`.
    pub fn read(v4: &Path, v6: &Path) -> Result<Self, BadTable> {
        let (v4, v6) = ((v4, text(v4)?), (v6, text(v6)?));
        GeoipDb::new_from_legacy_format(&v4.1, &v6.1, true).map(|table| Self(Arc::new(table))).map_err(|_| {
            let bad = first_bad(&v4.1, |part| GeoipDb::new_from_legacy_format(part, "", true).err());
            let bad = bad.map(|bad| (v4.0, bad)).or_else(|| {
                Some((v6.0, first_bad(&v6.1, |part| GeoipDb::new_from_legacy_format("", part, true).err())?))
            });
            let (path, (line, why)) = bad.unwrap_or_else(|| (v4.0, (1, "it has no known form".to_owned())));
            let why = format!(
                "line {line}: {why}; a line is FIRST,LAST,COUNTRY or FIRST,LAST,COUNTRY,AS, in the order of the addresses, \
                 which are numbers in the table of IPv4"
            );
            BadTable { path: path.to_owned(), why }
        })
    }
}

impl Atlas for Table {
    fn country(&self, ip: IpAddr) -> Option<[u8; 2]> {
        let code = self.0.lookup_country_code(ip.to_canonical())?.get().as_bytes().try_into().ok()?;
        Some(code).filter(|code: &[u8; 2]| code.iter().all(u8::is_ascii_uppercase))
    }

    fn system(&self, ip: IpAddr) -> Option<System> {
        System::new(self.0.lookup_asn(ip.to_canonical())?)
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Table")
    }
}

fn text(path: &Path) -> Result<String, BadTable> {
    let bad = |why: String| BadTable { path: path.to_owned(), why };
    let length = fs::metadata(path).map_err(|error| bad(error.to_string()))?.len();
    if length > MAX_FILE {
        return Err(bad(format!("it has more than {} MiB", MAX_FILE >> 20)));
    }
    fs::read_to_string(path).map_err(|error| bad(error.to_string()))
}

/// The first line that is wrong, and why: the last one of the shortest beginning that is refused.
fn first_bad<E: fmt::Display>(text: &str, refusal: impl Fn(&str) -> Option<E>) -> Option<(usize, String)> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).chain([text.len()]).collect();
    let begins_well = |end: &usize| text.get(..*end).is_none_or(|part| refusal(part).is_none());
    let line = ends.partition_point(begins_well);
    let part = text.get(..*ends.get(line)?)?;
    Some((line + 1, refusal(part)?.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_addresses_have_their_country_and_private_ones_none() {
        let table = Table::embedded();
        let of = |ip: &str| table.country(ip.parse().unwrap());
        // Universities, which have had these ranges since before there were countries in tables.
        assert_eq!(of("18.7.22.69"), Some(*b"US"));
        assert_eq!(of("130.92.9.53"), Some(*b"CH"));
        assert_eq!(of("::ffff:130.92.9.53"), Some(*b"CH"));
        assert_eq!(of("2001:638:a::1"), Some(*b"DE"));
        for nowhere in ["127.0.0.1", "10.1.2.3", "192.0.2.1", "::1", "fe80::1"] {
            assert_eq!(of(nowhere), None, "{nowhere}");
        }
        assert_eq!(table.system([18, 7, 22, 69].into()), None, "it has countries only");
    }

    /// Files with these texts, and their folder.
    fn files(v4: &str, v6: &str) -> (tempfile::TempDir, [PathBuf; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let files = [("geoip", v4), ("geoip6", v6)].map(|(name, text)| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        });
        (folder, files)
    }

    #[test]
    fn a_file_may_have_autonomous_systems() {
        let v4 =
            "# a comment\n16777216,16777471,AU,13335\n16777472,16778239,CN\n16778240,16779263,??,64500\n";
        let v6 = "2001:200::,2001:200:ffff:ffff:ffff:ffff:ffff:ffff,JP,2500\n";
        let (_folder, [v4, v6]) = files(v4, v6);
        let table = Table::read(&v4, &v6).unwrap();
        let of = |ip: &str| {
            let ip = ip.parse().unwrap();
            (table.country(ip), table.system(ip).map(System::get))
        };
        assert_eq!(of("1.0.0.7"), (Some(*b"AU"), Some(13_335)));
        assert_eq!(of("::ffff:1.0.0.7"), (Some(*b"AU"), Some(13_335)));
        assert_eq!(of("1.0.1.1"), (Some(*b"CN"), None));
        assert_eq!(of("1.0.4.1"), (None, Some(64_500)));
        assert_eq!(of("2001:200::9"), (Some(*b"JP"), Some(2_500)));
        assert_eq!(of("9.9.9.9"), (None, None));
    }

    #[test]
    fn a_bad_table_is_named_with_its_line() {
        let good = "16777216,16777471,AU,13335\n";
        for (v4, v6, place) in [
            (format!("{good}\n16777472,x,CN\n{good}"), String::new(), "geoip cannot be used: line 3: "),
            (format!("{good}16777472,16778239,CN,AS7"), String::new(), "geoip cannot be used: line 2: "),
            (format!("{good}{good}"), String::new(), "geoip cannot be used: line 2: "),
            (String::new(), "1.0.0.0,1.0.0.255,AU".to_owned(), "geoip6 cannot be used: line 1: "),
        ] {
            let (_folder, [v4, v6]) = files(&v4, &v6);
            let error = Table::read(&v4, &v6).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains("FIRST,LAST,COUNTRY,AS"), "{error}");
        }
        let missing = Table::read(Path::new("/nowhere/geoip"), Path::new("/nowhere/geoip6")).unwrap_err();
        assert!(missing.to_string().starts_with("the table of addresses /nowhere/geoip cannot be used"));
    }
}
