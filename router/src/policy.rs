//! The exit policy: which addresses and ports an exit connects to (circuit.exit.1, circuit.exit.2).
//!
//! Only resolved addresses are judged, never names. NAT64 with a network's own prefix cannot be told from other IPv6:
//! on such a network add `reject` rules for that prefix.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use directory::exit_summary::ExitSummary;
use directory::net::{Net, SPECIAL, forms};

const ALL_PORTS: RangeInclusive<u16> = 1..=u16::MAX;
const ANY_V4: Net = Net { base: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 };
const ANY_V6: Net = Net { base: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 };

/// An ordered list of rules; the first that matches decides, and what none matches is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitPolicy {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    accept: bool,
    net: Net,
    ports: RangeInclusive<u16>,
}

/// A rule that cannot be read; says what is wrong and shows how it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("exit rule `{rule}`: {problem}; write it like `{example}`")]
pub struct BadRule {
    rule: String,
    problem: &'static str,
    example: String,
}

/// A line of a file of rules that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {rule}")]
pub struct BadLine {
    line: usize,
    rule: BadRule,
}

impl Default for ExitPolicy {
    /// Everything on the public internet but port 25 (mail between servers).
    // circuit.exit.2
    fn default() -> Self {
        let mut rules = refused();
        rules.extend([ANY_V4, ANY_V6].map(|net| Rule { accept: false, net, ports: 25..=25 }));
        rules.extend([ANY_V4, ANY_V6].map(|net| Rule { accept: true, net, ports: ALL_PORTS }));
        Self { rules }
    }
}

impl ExitPolicy {
    /// Nothing at all: the policy of a relay that is no exit.
    pub const fn closed() -> Self {
        Self { rules: Vec::new() }
    }

    /// Rules such as `reject *:25`, `accept 198.0.0.0/8:80-90`, `accept [2a00::/12]:443`, `accept *:*`, in order.
    ///
    /// Private and other special addresses are refused before any of them; see [`ExitPolicy::allow`].
    pub fn parse<S: AsRef<str>>(lines: &[S]) -> Result<Self, BadRule> {
        let mut rules = refused();
        for line in lines {
            rules.extend(parse_rule(line.as_ref())?);
        }
        Ok(Self { rules })
    }

    /// The rules of a file, one on each line, in order; what follows `#` is a comment.
    pub fn parse_text(text: &str) -> Result<Self, BadLine> {
        let mut rules = refused();
        for (line, text) in (1..).zip(text.lines()) {
            let (rule, _) = text.split_once('#').unwrap_or((text, ""));
            if !rule.trim().is_empty() {
                rules.extend(parse_rule(rule.trim()).map_err(|rule| BadLine { line, rule })?);
            }
        }
        Ok(Self { rules })
    }

    /// Accepts destinations such as `127.0.0.1:8080`, `10.77.0.0/24:*` or `[::1]:80-90` before all other rules, for test
    /// networks.
    pub fn allow<S: AsRef<str>>(mut self, destinations: &[S]) -> Result<Self, BadRule> {
        let mut rules = Vec::new();
        for destination in destinations {
            rules.extend(parse_destination(destination.as_ref(), true).map_err(|p| p.at(destination, ""))?);
        }
        rules.append(&mut self.rules);
        Ok(Self { rules })
    }

    /// Whether the exit connects to this address and port: an IPv4-mapped or NAT64 address is judged as the IPv4 address
    /// that it stands for, a 6to4 or Teredo address as itself and as the IPv4 addresses in it.
    // circuit.exit.1
    pub fn check(&self, ip: IpAddr, port: u16) -> bool {
        let (ip, inner) = forms(ip);
        self.accepts(ip, port) && inner.into_iter().flatten().all(|ip| self.accepts(ip.into(), port))
    }

    /// The ports that are served for some address at least, for the descriptor; of more than
    /// [`ExitSummary::MAX_RANGES`] ranges the widest. `None` if there are none.
    pub fn summary(&self) -> Option<ExitSummary> {
        let mut starts = BTreeSet::from([1]);
        for rule in &self.rules {
            starts.insert(*rule.ports.start());
            starts.extend(rule.ports.end().checked_add(1));
        }
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for (start, end) in starts.iter().zip(ends).filter(|(start, _)| self.serves(**start)) {
            match ranges.last_mut() {
                Some(last) if last.end() + 1 == *start => *last = *last.start()..=end,
                _ => ranges.push(*start..=end),
            }
        }
        ranges.sort_by_key(|range| core::cmp::Reverse(range.len()));
        ranges.truncate(ExitSummary::MAX_RANGES);
        ranges.sort_by_key(|range| *range.start());
        ExitSummary::new(ranges).ok()
    }

    fn accepts(&self, ip: IpAddr, port: u16) -> bool {
        self.rules
            .iter()
            .find(|rule| rule.ports.contains(&port) && rule.net.contains(ip))
            .is_some_and(|rule| rule.accept)
    }

    /// Whether an accepting rule for this port is not hidden by a refusing one before it.
    fn serves(&self, port: u16) -> bool {
        let rules = || self.rules.iter().filter(|rule| rule.ports.contains(&port));
        rules().enumerate().any(|(place, rule)| {
            rule.accept && !rules().take(place).any(|earlier| !earlier.accept && earlier.net.covers(rule.net))
        })
    }
}

/// What no exit connects to unless its operator allows it.
// circuit.exit.2
fn refused() -> Vec<Rule> {
    SPECIAL.map(|net| Rule { accept: false, net, ports: ALL_PORTS }).into()
}

/// What is wrong with a destination, before it is known in which rule.
struct Problem(&'static str, &'static str);

impl Problem {
    fn at(self, rule: impl AsRef<str>, verb: &str) -> BadRule {
        let Self(problem, example) = self;
        BadRule { rule: rule.as_ref().to_owned(), problem, example: format!("{verb}{example}") }
    }
}

fn parse_rule(line: &str) -> Result<Vec<Rule>, BadRule> {
    let (verb, destination) = line.trim().split_once(' ').unwrap_or((line, ""));
    let (accept, verb) = match verb {
        "accept" => (true, "accept "),
        "reject" => (false, "reject "),
        _ => return Err(Problem("it begins with neither accept nor reject", "*:25").at(line, "reject ")),
    };
    parse_destination(destination, accept).map_err(|problem| problem.at(line, verb))
}

/// `*`, an address or a prefix, then `:` and ports; IPv6 in brackets.
fn parse_destination(text: &str, accept: bool) -> Result<Vec<Rule>, Problem> {
    let (host, ports) = text.trim().rsplit_once(':').ok_or(Problem("it has no port", "10.77.0.0/24:80"))?;
    let ports = parse_ports(ports).ok_or(Problem(
        "its port is neither *, nor a number from 1 to 65535, nor a range of them",
        "10.77.0.0/24:80-90",
    ))?;
    let nets = if host == "*" { vec![ANY_V4, ANY_V6] } else { vec![parse_net(host)?] };
    Ok(nets.into_iter().map(|net| Rule { accept, net, ports: ports.clone() }).collect())
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| text.parse().ok().filter(|port| *port != 0 && !text.starts_with('+'));
    if text == "*" {
        return Some(ALL_PORTS);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = number(first)?..=number(last)?;
    (!range.is_empty()).then_some(range)
}

fn parse_net(host: &str) -> Result<Net, Problem> {
    const V4: &str = "10.77.0.0/24:80";
    const V6: &str = "[2001:db8::/32]:80";
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let (base, length) = match inner.unwrap_or(host).split_once('/') {
        Some((base, length)) => (base, Some(length)),
        None => (inner.unwrap_or(host), None),
    };
    let base: IpAddr = base.parse().map_err(|_| {
        let names = "its host is neither * nor an IP address (names are not judged: give the address)";
        Problem(names, if inner.is_some() { V6 } else { V4 })
    })?;
    let max = match (base, inner) {
        (IpAddr::V4(_), None) => 32,
        (IpAddr::V4(_), Some(_)) => return Err(Problem("an IPv4 address stands without brackets", V4)),
        (IpAddr::V6(_), None) => return Err(Problem("an IPv6 address needs brackets", V6)),
        (IpAddr::V6(_), Some(_)) if forms(base).0.is_ipv4() => {
            return Err(Problem("this IPv6 address stands for an IPv4 address: give that one", V4));
        }
        (IpAddr::V6(_), Some(_)) => 128,
    };
    let example = if max == 32 { V4 } else { V6 };
    let length = match length {
        None => max,
        Some(text) => text
            .parse()
            .ok()
            .filter(|length| *length <= max && !text.starts_with('+'))
            .ok_or(Problem("its prefix length is no number that fits the address", example))?,
    };
    let net = Net { base, length };
    if net.is_exact() {
        Ok(net)
    } else {
        Err(Problem("its address has bits beyond the prefix length", example))
    }
}

#[cfg(test)]
mod tests;
