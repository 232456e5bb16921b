//! What peers say of our address: one voice for each place (docs/spec/01-link.md section 7).

use core::time::Duration;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;

/// The most places whose voices are kept.
const MOST: usize = 64;
/// How long a voice counts.
const COUNTS: Duration = Duration::from_hours(6);

/// An address at which peers see us, and how many places say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The address and port.
    pub address: SocketAddr,
    /// The places, each a /16 (IPv4) or /32 (IPv6), that say so.
    pub places: usize,
}

/// The voices of all places.
#[derive(Debug, Default)]
pub(super) struct Witnesses(Vec<Voice>);

#[derive(Clone, Copy, Debug)]
struct Voice {
    place: u64,
    seen: SocketAddr,
    at: Instant,
}

impl Witnesses {
    /// The peer at this address says that it sees us at `seen`.
    // link.seen.2
    pub(super) fn note(&mut self, now: Instant, peer: IpAddr, seen: SocketAddr) {
        let peer = peer.to_canonical();
        if peer.is_ipv4() != seen.is_ipv4() {
            return;
        }
        let voice = Voice { place: place(peer), seen, at: now };
        if let Some(before) = self.0.iter_mut().find(|known| known.place == voice.place) {
            *before = voice;
        } else if self.0.len() < MOST {
            self.0.push(voice);
        } else if let Some(oldest) = self.0.iter_mut().min_by_key(|known| known.at) {
            *oldest = voice;
        }
    }

    /// Where we are seen, by most places first.
    pub(super) fn seen(&self, now: Instant) -> Vec<Seen> {
        let mut counted: BTreeMap<SocketAddr, usize> = BTreeMap::new();
        for voice in self.0.iter().filter(|voice| now.saturating_duration_since(voice.at) < COUNTS) {
            *counted.entry(voice.seen).or_default() += 1;
        }
        let mut seen: Vec<_> =
            counted.into_iter().map(|(address, places)| Seen { address, places }).collect();
        seen.sort_by_key(|seen| core::cmp::Reverse(seen.places));
        seen
    }
}

/// A number for the /16 (IPv4) or /32 (IPv6) of an address.
pub fn place(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => 4 << 32 | u64::from(ip.to_bits() >> 16),
        IpAddr::V6(ip) => 6 << 32 | u64::try_from(ip.to_bits() >> 96).unwrap_or(0),
    }
}

/// An address in 16 bytes, IPv4 mapped.
pub(super) const fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What 16 bytes and a port say; nothing if either is zero.
// link.seen.1
pub(super) fn said(address: [u8; 16], port: u16) -> Option<SocketAddr> {
    let ip = Ipv6Addr::from(address).to_canonical();
    (!ip.is_unspecified() && port != 0).then(|| SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn counts(witnesses: &Witnesses, now: Instant) -> Vec<(String, usize)> {
        witnesses.seen(now).iter().map(|seen| (seen.address.to_string(), seen.places)).collect()
    }

    // link.seen.1
    #[test]
    fn zeros_say_nothing_and_everything_else_is_read_as_it_was_written() {
        for text in ["203.0.113.7:50123", "[2001:db8::7]:7000", "127.0.0.1:1", "[::1]:65535"] {
            let address = at(text);
            assert_eq!(said(mapped(address.ip()), address.port()), Some(address));
        }
        assert_eq!(said(mapped(ip("::ffff:192.0.2.1")), 5), Some(at("192.0.2.1:5")));
        for (text, port) in [("::", 0), ("::", 7), ("0.0.0.0", 7), ("192.0.2.1", 0), ("2001:db8::1", 0)] {
            assert_eq!(said(mapped(ip(text)), port), None, "{text} {port}");
        }
    }

    // link.seen.2
    #[test]
    fn a_place_has_one_voice_which_is_its_last_and_ends() {
        let t = crate::link::tests::start().instant;
        let mut witnesses = Witnesses::default();
        for (n, peer) in ["10.1.0.1", "10.1.255.9", "::ffff:10.1.3.3", "10.2.0.1"].into_iter().enumerate() {
            let port = u16::try_from(n).unwrap() + 1;
            witnesses.note(t, ip(peer), SocketAddr::new(ip("192.0.2.1"), port));
        }
        assert_eq!(counts(&witnesses, t), [("192.0.2.1:3".to_owned(), 1), ("192.0.2.1:4".to_owned(), 1)]);
        witnesses.note(t + MINUTE, ip("10.2.0.9"), at("192.0.2.1:3"));
        assert_eq!(counts(&witnesses, t + MINUTE), [("192.0.2.1:3".to_owned(), 2)]);
        // All of a /32 of IPv6 are one, and an address of another family is none.
        for peer in ["2001:db8::1", "2001:db8:ffff::1", "10.3.0.1"] {
            witnesses.note(t + MINUTE, ip(peer), at("[2001:db8::7]:7"));
        }
        witnesses.note(t + MINUTE, ip("2001:db9::1"), at("192.0.2.1:3"));
        let expected = [("192.0.2.1:3".to_owned(), 2), ("[2001:db8::7]:7".to_owned(), 1)];
        assert_eq!(counts(&witnesses, t + MINUTE), expected);
        assert_eq!(counts(&witnesses, t + COUNTS)[0].1, 1, "the first one is 6 h old");
        assert!(counts(&witnesses, t + COUNTS + MINUTE).is_empty());
    }

    // link.seen.2
    #[test]
    fn many_places_do_not_grow_the_table() {
        let t = crate::link::tests::start().instant;
        let mut witnesses = Witnesses::default();
        for n in 0..10_000u32 {
            let peer = IpAddr::from((n << 16 | 1).to_be_bytes());
            witnesses.note(t + Duration::from_millis(n.into()), peer, at("192.0.2.1:3"));
        }
        assert_eq!(witnesses.0.len(), MOST);
        let newest = witnesses.0.iter().map(|voice| voice.place & 0xffff_ffff).min();
        assert_eq!(newest, Some(10_000 - MOST as u64), "the oldest went");
    }
}
