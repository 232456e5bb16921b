//! Tests of the exit policy.

use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Every way to write an IPv4 address as IPv6, with whether it is the IPv4 address and nothing else.
fn disguises(v4: Ipv4Addr) -> [(Ipv6Addr, bool); 5] {
    let bits = u128::from(v4.to_bits());
    [
        (v4.to_ipv6_mapped(), true),
        (Ipv6Addr::from_bits(0x64_ff9b << 96 | bits), true),
        (Ipv6Addr::from_bits(0x2002 << 112 | bits << 80 | 1), false),
        (Ipv6Addr::from_bits(0x2001 << 112 | bits << 64 | u128::from(!0x0808_0808_u32)), false),
        (Ipv6Addr::from_bits(0x2001 << 112 | 0x0808_0808 << 64 | (bits ^ 0xffff_ffff)), false),
    ]
}

// circuit.exit.2
#[test]
fn the_default_refuses_every_class_at_both_of_its_ends() {
    let policy = ExitPolicy::default();
    let classes = [
        ("this network", ["0.0.0.0", "0.255.255.255"]),
        ("private", ["10.0.0.0", "10.255.255.255"]),
        ("private", ["172.16.0.0", "172.31.255.255"]),
        ("private", ["192.168.0.0", "192.168.255.255"]),
        ("carrier-grade NAT", ["100.64.0.0", "100.127.255.255"]),
        ("loopback", ["127.0.0.0", "127.255.255.255"]),
        ("link-local", ["169.254.0.0", "169.254.255.255"]),
        ("metadata", ["169.254.169.254", "100.100.100.200"]),
        ("metadata", ["168.63.129.16", "192.0.0.192"]),
        ("protocol assignments", ["192.0.0.0", "192.0.0.255"]),
        ("documentation", ["192.0.2.0", "192.0.2.255"]),
        ("documentation", ["198.51.100.0", "198.51.100.255"]),
        ("documentation", ["203.0.113.0", "203.0.113.255"]),
        ("6to4 relays", ["192.88.99.0", "192.88.99.255"]),
        ("benchmarking", ["198.18.0.0", "198.19.255.255"]),
        ("multicast", ["224.0.0.0", "239.255.255.255"]),
        ("reserved and broadcast", ["240.0.0.0", "255.255.255.255"]),
        ("unspecified and loopback", ["::", "::1"]),
        ("IPv4-compatible", ["::8.8.8.8", "::127.0.0.1"]),
        ("IPv4-translated", ["::ffff:0:8.8.8.8", "::ffff:0:127.0.0.1"]),
        ("local NAT64", ["64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:808:808"]),
        ("discard", ["100::", "100::ffff:ffff:ffff:ffff"]),
        ("benchmarking", ["2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff"]),
        ("ORCHID", ["2001:10::", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ("documentation", ["2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ("documentation", ["3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ("not assigned", ["4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ("unique local", ["fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ("metadata", ["fd00:ec2::254", "fd20:ce::254"]),
        ("link-local", ["fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ("site-local", ["fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
        ("multicast", ["ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]),
    ];
    for (class, addresses) in classes {
        for address in addresses.map(ip) {
            for port in [1, 80, 443, 65535] {
                assert!(!policy.check(address, port), "{class}: {address}");
            }
            if let IpAddr::V4(v4) = address {
                for (disguise, _) in disguises(v4) {
                    assert!(!policy.check(disguise.into(), 443), "{class}: {disguise}");
                }
            }
        }
    }
}

// circuit.exit.2
#[test]
fn the_default_accepts_the_neighbours_of_every_class() {
    let policy = ExitPolicy::default();
    for address in [
        "1.0.0.0",
        "9.255.255.255",
        "11.0.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "192.169.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "191.255.255.255",
        "192.0.1.0",
        "192.0.1.255",
        "192.0.3.0",
        "198.51.99.255",
        "198.51.101.0",
        "203.0.112.255",
        "203.0.114.0",
        "192.88.98.255",
        "192.88.100.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "8.8.8.8",
        "2000::",
        "2001:4860:4860::8888",
        "2001:3::",
        "2001:1:ffff::",
        "2001:f::",
        "2001:30::",
        "2001:db7:ffff::",
        "2001:db9::",
        "2606:4700::1111",
        "3ffe::",
        "3fff:1000::",
        "3fff:ffff::",
    ] {
        assert!(policy.check(ip(address), 443), "{address}");
        if let IpAddr::V4(v4) = ip(address) {
            for (disguise, _) in disguises(v4) {
                assert!(policy.check(disguise.into(), 443), "{disguise}");
            }
        }
    }
}

// circuit.exit.2
#[test]
fn the_default_refuses_port_25_and_no_other_mail_port() {
    let policy = ExitPolicy::default();
    for address in ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"] {
        for (port, accepted) in
            [(0, false), (1, true), (24, true), (25, false), (26, true), (465, true), (587, true)]
        {
            assert_eq!(policy.check(ip(address), port), accepted, "{address} {port}");
        }
    }
    assert_eq!(policy.summary().unwrap().to_string(), "1-24,26-65535");
}

#[test]
fn a_closed_policy_refuses_all_but_what_is_allowed() {
    assert!(!ExitPolicy::closed().check(ip("8.8.8.8"), 443));
    assert_eq!(ExitPolicy::closed().summary(), None);
    let policy = ExitPolicy::closed().allow(&["127.0.0.1:8080", "10.77.0.0/24:*", "[::1]:80-90"]).unwrap();
    for (address, port, accepted) in [
        ("127.0.0.1", 8080, true),
        ("::ffff:127.0.0.1", 8080, true),
        ("64:ff9b::127.0.0.1", 8080, true),
        ("2002:7f00:1::", 8080, false),
        ("127.0.0.1", 8081, false),
        ("127.0.0.2", 8080, false),
        ("10.77.0.0", 1, true),
        ("10.77.0.255", 25, true),
        ("10.77.1.0", 1, false),
        ("10.77.0.1", 0, false),
        ("::1", 79, false),
        ("::1", 80, true),
        ("::1", 90, true),
        ("::1", 91, false),
        ("::2", 80, false),
        ("8.8.8.8", 80, false),
    ] {
        assert_eq!(policy.check(ip(address), port), accepted, "{address} {port}");
    }
    let one = ExitPolicy::closed().allow(&["127.0.0.1:8080"]).unwrap();
    assert_eq!(one.summary().unwrap().to_string(), "8080");
}

#[test]
fn what_is_allowed_comes_before_the_refusals() {
    let policy = ExitPolicy::default().allow(&["127.0.0.1:*", "*:25"]).unwrap();
    assert!(policy.check(ip("127.0.0.1"), 443));
    assert!(!policy.check(ip("127.0.0.2"), 443));
    assert!(policy.check(ip("8.8.8.8"), 25));
    assert!(policy.check(ip("::1"), 25));
}

#[test]
fn the_first_rule_that_matches_decides() {
    let policy = ExitPolicy::parse(&[
        "reject 8.8.0.0/16:443",
        "accept 8.0.0.0/8:400-500",
        "reject [2a00::/12]:*",
        "accept [2000::/3]:443",
        "accept 10.0.0.0/8:80",
    ])
    .unwrap();
    for (address, port, accepted) in [
        ("8.8.8.8", 443, false),
        ("8.8.8.8", 444, true),
        ("8.9.0.0", 443, true),
        ("8.9.0.0", 501, false),
        ("9.0.0.0", 443, false),
        ("2a00::1", 443, false),
        ("2a10::1", 443, true),
        ("10.0.0.1", 80, false),
    ] {
        assert_eq!(policy.check(ip(address), port), accepted, "{address} {port}");
    }
    assert_eq!(policy.summary().unwrap().to_string(), "400-500");
}

#[test]
fn a_summary_is_merged_and_keeps_the_widest_ranges() {
    let summary = |lines: &[&str]| ExitPolicy::parse(lines).unwrap().summary().map(|s| s.to_string());
    assert_eq!(summary(&["accept *:80-90", "accept 8.8.8.8:91", "accept *:65535"]).unwrap(), "80-91,65535");
    assert_eq!(summary(&["reject *:*", "accept *:80"]), None);
    assert_eq!(summary(&["reject 0.0.0.0/0:*", "accept 8.8.8.8:80", "accept [2a00::/12]:81"]).unwrap(), "81");
    assert_eq!(summary(&["accept 127.0.0.1:80"]), None);
    let many: Vec<String> =
        (1..=20).map(|n| format!("accept *:{}-{}", n * 100, n * 100 + u16::from(n > 4))).collect();
    let kept = ExitPolicy::parse(&many).unwrap().summary().unwrap();
    assert_eq!(kept.ranges().len(), ExitSummary::MAX_RANGES);
    assert!(!kept.accepts(400) && kept.accepts(500) && kept.accepts(2001));
}

#[test]
fn a_bad_rule_is_named_with_what_is_wrong_and_an_example() {
    for (line, problem) in [
        ("", "neither accept nor reject"),
        ("acept *:25", "neither accept nor reject"),
        ("accept", "no port"),
        ("accept 10.0.0.0", "no port"),
        ("accept 10.0.0.0:", "its port is neither"),
        ("accept *:0", "its port is neither"),
        ("accept *:65536", "its port is neither"),
        ("accept *:90-80", "its port is neither"),
        ("accept *:+80", "its port is neither"),
        ("accept *:80-", "its port is neither"),
        ("accept example.org:80", "names are not judged"),
        ("accept [example]:80", "names are not judged"),
        ("accept ::1:80", "an IPv6 address needs brackets"),
        ("accept [10.0.0.1]:80", "stands without brackets"),
        ("accept [::ffff:10.0.0.1]:80", "stands for an IPv4 address"),
        ("accept [64:ff9b::10.0.0.0/104]:80", "stands for an IPv4 address"),
        ("accept 10.0.0.0/33:80", "prefix length"),
        ("accept 10.0.0.0/+8:80", "prefix length"),
        ("accept 10.0.0.0/:80", "prefix length"),
        ("accept [2a00::/129]:80", "prefix length"),
        ("accept 10.0.0.1/8:80", "bits beyond"),
        ("accept [2a00::1/64]:80", "bits beyond"),
    ] {
        let error = ExitPolicy::parse(&[line]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("exit rule `{line}`: ")) && error.contains(problem), "{error}");
        let (_, example) = error.split_once("write it like `").unwrap();
        assert!(ExitPolicy::parse(&[example.strip_suffix('`').unwrap()]).is_ok(), "{error}");
    }
    let error = ExitPolicy::closed().allow(&["127.0.0.1"]).unwrap_err().to_string();
    let (_, example) = error.split_once("write it like `").unwrap();
    assert!(ExitPolicy::closed().allow(&[example.strip_suffix('`').unwrap()]).is_ok(), "{error}");
}

fn high(bits: u128) -> u32 {
    u32::try_from(bits >> 96).unwrap()
}

fn policies() -> impl Strategy<Value = ExitPolicy> {
    let net = (any::<bool>(), any::<u128>(), 0_u8..=128).prop_map(|(is_v4, bits, length)| {
        if is_v4 {
            let length = u32::from(length % 33);
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            format!("{}/{length}", Ipv4Addr::from_bits(high(bits) & mask))
        } else {
            // Inside 2000::/3, so that the rule has an effect.
            let length = u32::from(length).max(3);
            let mask = u128::MAX << (128 - length);
            format!("[{}/{length}]", Ipv6Addr::from_bits((bits >> 3 | 1 << 125) & mask))
        }
    });
    let rule = (any::<bool>(), net, 1_u16..500, 0_u16..300).prop_map(|(accept, net, port, more)| {
        format!("{} {net}:{port}-{}", if accept { "accept" } else { "reject" }, port + more)
    });
    (prop::collection::vec(rule, 0..8), any::<bool>()).prop_map(|(mut lines, open)| {
        lines.extend(open.then(|| "accept *:*".to_owned()));
        ExitPolicy::parse(&lines).unwrap()
    })
}

proptest! {
    // circuit.exit.1
    #[test]
    fn an_address_in_disguise_never_gets_more_than_its_ipv4(policy in policies(), bits: u32, port in 0_u16..1_000) {
        let v4 = Ipv4Addr::from_bits(bits);
        let accepted = policy.check(v4.into(), port);
        for (disguise, exact) in disguises(v4) {
            let disguised = policy.check(disguise.into(), port);
            if exact {
                prop_assert_eq!(disguised, accepted, "{}", disguise);
            } else {
                prop_assert!(accepted || !disguised, "{}", disguise);
            }
        }
    }

    #[test]
    fn an_accepted_port_is_in_the_summary(policy in policies(), v6: bool, bits: u128, port in 1_u16..1_000) {
        let ip: IpAddr = if v6 {
            Ipv6Addr::from_bits(bits >> 3 | 1 << 125).into()
        } else {
            Ipv4Addr::from_bits(high(bits)).into()
        };
        if policy.check(ip, port) {
            prop_assert!(policy.summary().unwrap().accepts(port));
        }
    }

    #[test]
    fn any_text_is_a_rule_or_an_error(text in "\\PC{0,40}", verb in "(accept|reject) [0-9a-f.:/*\\[\\]-]{0,30}") {
        for line in [text, verb] {
            if let Err(error) = ExitPolicy::parse(&[&line]) {
                prop_assert!(error.to_string().contains("write it like"));
            }
        }
    }
}

#[test]
fn a_file_of_rules_has_comments_and_names_the_line_of_a_bad_one() {
    let text = "# no mail\nreject *:25   # between servers\n\n  accept *:80-443\r\n";
    assert_eq!(
        ExitPolicy::parse_text(text),
        Ok(ExitPolicy::parse(&["reject *:25", "accept *:80-443"]).unwrap())
    );
    assert_eq!(ExitPolicy::parse_text("# nothing\n"), Ok(ExitPolicy::parse::<&str>(&[]).unwrap()));
    let error = ExitPolicy::parse_text("reject *:25\n\naccpet *:*\n").unwrap_err().to_string();
    assert_eq!(
        error,
        "line 3: exit rule `accpet *:*`: it begins with neither accept nor reject; write it like `reject *:25`"
    );
}
