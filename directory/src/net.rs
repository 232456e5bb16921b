//! Networks of addresses, and those that have a special purpose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Networks with a special purpose, which are not the public internet: exits do not connect there unless their operator allows
/// it, and relays are not there (circuit.exit.2, directory.view.7).
pub const SPECIAL: [Net; 23] = [
    v4([0, 0, 0, 0], 8),        // this network, unspecified
    v4([10, 0, 0, 0], 8),       // private
    v4([100, 64, 0, 0], 10),    // carrier-grade NAT, metadata 100.100.100.200
    v4([127, 0, 0, 0], 8),      // loopback
    v4([168, 63, 129, 16], 32), // metadata of a large host, inside public space
    v4([169, 254, 0, 0], 16),   // link-local, metadata 169.254.169.254
    v4([172, 16, 0, 0], 12),    // private
    v4([192, 0, 0, 0], 24),     // protocol assignments, metadata 192.0.0.192
    v4([192, 0, 2, 0], 24),     // documentation
    v4([192, 88, 99, 0], 24),   // 6to4 relays, withdrawn
    v4([192, 168, 0, 0], 16),   // private
    v4([198, 18, 0, 0], 15),    // benchmarking
    v4([198, 51, 100, 0], 24),  // documentation
    v4([203, 0, 113, 0], 24),   // documentation
    v4([224, 0, 0, 0], 3),      // multicast, reserved, broadcast
    v6(0, 3),                   // unspecified, loopback, IPv4-compatible, local NAT64 (RFC 8215), discard
    v6(0x2001_0002 << 96, 48),  // benchmarking
    v6(0x2001_0db8 << 96, 32),  // documentation
    v6(0x3fff << 112, 20),      // documentation
    v6(0x2001_0010 << 96, 28),  // ORCHID
    v6(0x2001_0020 << 96, 28),  // ORCHID version 2
    v6(1 << 126, 2),            // not assigned
    v6(1 << 127, 1),            // unique local (metadata fd00:ec2::254), link-local, multicast, not assigned
];

/// An address with a prefix length; no bits are set beyond the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    /// The address.
    pub base: IpAddr,
    /// Its bits that count.
    pub length: u8,
}

impl Net {
    /// Whether an address is in it.
    pub fn contains(self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                (base.to_bits() ^ ip.to_bits()).leading_zeros() >= self.length.into()
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => {
                (base.to_bits() ^ ip.to_bits()).leading_zeros() >= self.length.into()
            }
            _ => false,
        }
    }

    /// Whether all of another one is in it.
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && self.contains(other.base)
    }

    /// Whether no bits are set beyond the prefix.
    pub fn is_exact(self) -> bool {
        match self.base {
            IpAddr::V4(ip) => ip.to_bits().checked_shl(self.length.into()).unwrap_or(0) == 0,
            IpAddr::V6(ip) => ip.to_bits().checked_shl(self.length.into()).unwrap_or(0) == 0,
        }
    }
}

const fn v4(octets: [u8; 4], length: u8) -> Net {
    let [a, b, c, d] = octets;
    Net { base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length }
}

const fn v6(bits: u128, length: u8) -> Net {
    Net { base: IpAddr::V6(Ipv6Addr::from_bits(bits)), length }
}

/// The address to judge, in its IPv4 form if it only stands for one, and the IPv4 addresses that a tunnel would reach.
pub fn forms(ip: IpAddr) -> (IpAddr, [Option<Ipv4Addr>; 2]) {
    let IpAddr::V6(v6) = ip.to_canonical() else {
        return (ip.to_canonical(), [None; 2]);
    };
    let v4 = |[a, b]: [u16; 2]| Ipv4Addr::from_bits(u32::from(a) << 16 | u32::from(b));
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] => (v4([a, b]).into(), [None; 2]), // NAT64 (RFC 6052)
        [0x2002, a, b, ..] => (v6.into(), [Some(v4([a, b])), None]),        // 6to4 (RFC 3056)
        [0x2001, 0, a, b, _, _, c, d] => (v6.into(), [Some(v4([a, b])), Some(v4([!c, !d]))]), // Teredo (RFC 4380)
        _ => (v6.into(), [None; 2]),
    }
}

/// Whether an address is none of the public internet's, be it as IPv4 inside IPv6 or through a tunnel.
pub fn is_special(ip: IpAddr) -> bool {
    let (ip, inner) = forms(ip);
    let special = |ip| SPECIAL.iter().any(|net| net.contains(ip));
    special(ip) || inner.into_iter().flatten().any(|ip| special(ip.into()))
}

/// Whether an address is one of this machine, or of the network that it is in: from outside nobody reaches it.
pub fn is_inside(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_a_site_are_told_from_others() {
        let inside = |ip: &str| is_inside(ip.parse().unwrap());
        for ip in
            ["127.0.0.1", "10.1.2.3", "169.254.1.1", "0.0.0.0", "::", "fe80::1", "fd00::1", "::ffff:10.0.0.1"]
        {
            assert!(inside(ip), "{ip}");
        }
        for ip in ["1.1.1.1", "203.0.113.7", "2001:db8::1"] {
            assert!(!inside(ip), "{ip}");
        }
    }

    #[test]
    fn what_is_not_on_the_public_internet_is_special() {
        let special = |ip: &str| is_special(ip.parse().unwrap());
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.2.1",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:a00:1::1",
        ] {
            assert!(special(ip), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "93.184.216.34",
            "172.32.0.1",
            "2a00:1450::1",
            "2002:5db8:d822::1",
            "64:ff9b::101:101",
        ] {
            assert!(!special(ip), "{ip}");
        }
    }
}
