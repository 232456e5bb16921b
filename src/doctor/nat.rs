//! What lies between this machine and the others: which of the kinds of NAT of RFC 4787, if any.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use circuit::link::Seen;
use directory::net::is_inside;

use super::probe::Probes;
use super::{Findings, Patient, State};
use crate::control::Status;

/// So many places must have said where they see us (link.seen.2).
const ENOUGH: usize = 3;

/// What makes of our address another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Others see the address that the socket is bound to.
    None,
    /// They see another address, and the same port.
    OneToOne,
    /// All of them see the same other address and port.
    Independent,
    /// Each of them sees another port or address.
    Dependent,
}

/// What others say of one family of addresses: the kind, and where most of them see us; nothing if too few have said it.
// link.seen.2
fn kind(seen: &[Seen], port: u16, own: impl Fn(IpAddr) -> bool) -> Option<(Kind, SocketAddr)> {
    let places: usize = seen.iter().map(|seen| seen.places).sum();
    let most = seen.iter().max_by_key(|seen| seen.places).filter(|_| places >= ENOUGH)?;
    let address = most.address;
    let kind = match (own(address.ip()), address.port() == port) {
        _ if most.places * 3 < places * 2 => Kind::Dependent,
        (true, true) => Kind::None,
        (false, true) => Kind::OneToOne,
        (_, false) => Kind::Independent,
    };
    Some((kind, address))
}

/// The kind, where most places see us, and the port of the socket that they see.
type Heard = (Kind, SocketAddr, u16);

/// What others say of the family of an address: those that the running relay has met, or else those that the doctor has.
fn heard(patient: &Patient, probes: Option<&Probes>, v4: bool) -> Option<Heard> {
    let own = |ip| UdpSocket::bind((ip, 0)).is_ok();
    let by = |seen: &[Seen], port| kind(seen, port, own).map(|(kind, at)| (kind, at, port));
    let running = match &patient.status {
        Some(Status::Relay(status)) => {
            let of_family = status.seen.iter().filter(|seen| seen.address.is_ipv4() == v4);
            let seen = of_family.map(|seen| Seen { address: seen.address, places: seen.places });
            by(&seen.collect::<Vec<_>>(), status.listen.port())
        }
        _ => None,
    };
    running.or_else(|| {
        let probe = probes?.of(v4)?;
        by(&probe.seen, probe.port)
    })
}

/// Names what lies between, for every address that a relay tells others, or for a client's own.
pub(super) fn look(patient: &Patient, probes: Option<&Probes>, findings: &mut Findings) {
    if patient.relay.is_some() {
        for address in told(patient) {
            relay(patient, address, heard(patient, probes, address.is_ipv4()), findings);
        }
        return;
    }
    for v4 in [true, false] {
        if let Some((kind, ..)) = heard(patient, probes, v4) {
            let family = if v4 { "IPv4" } else { "IPv6" };
            findings.ok("nat", format!("{family}: {}; a client works behind any", kind.name()));
        }
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::OneToOne => "one to one",
            Self::Independent => "endpoint-independent mapping",
            Self::Dependent => "address-dependent mapping (\"symmetric\")",
        }
    }
}

/// What a relay's address is worth.
fn relay(patient: &Patient, told: SocketAddr, heard: Option<Heard>, findings: &mut Findings) {
    let ip = told.ip();
    let Some((kind, seen, port)) = heard else { return unknown(patient, told, findings) };
    let name = kind.name();
    if kind != Kind::None && seen.ip() == ip && is_reached(patient) {
        // Links only begin at the addresses that are told.
        return findings.ok("nat", format!("{name}; others come in at UDP port {}", told.port()));
    }
    if kind == Kind::Dependent {
        let remedy = forward(
            told,
            "; a line behind carrier-grade NAT (100.64.0.0/10) has no such rule: another line or host is needed",
        );
        let found = format!(
            "{name}: every peer sees this machine at another port, and others can only come in by a rule"
        );
        return findings.add("nat", State::Warn, found, remedy);
    }
    if seen.ip() != ip {
        let found = format!("{name}; {ip} is told to others, and they see this machine at {}", seen.ip());
        return findings.add("nat", State::Warn, found, tell(seen.ip(), told.port()));
    }
    if is_inside(ip) {
        return local(ip, findings);
    }
    match kind {
        Kind::None => findings.ok("nat", format!("none: others see {seen}, this machine's own address")),
        // The doctor's own socket has another port than the relay, which then is kept as well.
        Kind::OneToOne if port != told.port() || seen.port() == told.port() => {
            let found =
                format!("one to one: others see {seen}, the same port as here; nobody has come in yet");
            findings.add("nat", State::Warn, found, forward(told, ""));
        }
        _ => {
            let found = format!("{name}: all peers see {seen}, and port {} is told to others", told.port());
            let remedy = forward(told, "; with the rule, and when `reached` is well, nothing is wrong");
            findings.add("nat", State::Warn, found, remedy);
        }
    }
}

/// Too few have said where they see this relay: what can be told without them.
fn unknown(patient: &Patient, told: SocketAddr, findings: &mut Findings) {
    let ip = told.ip();
    if UdpSocket::bind((ip, 0)).is_ok() {
        if is_inside(ip) {
            return local(ip, findings);
        }
        return findings.ok("nat", format!("none: {ip} is this machine's own"));
    }
    let same_family = |seen: &IpAddr| seen.is_ipv4() == ip.is_ipv4();
    let seen = patient.directory.as_ref().and_then(|directory| directory.seen_at).filter(same_family);
    if let Some(seen) = seen.filter(|seen| *seen != ip) {
        let found = format!("{ip} is told to others, and they see this machine at {seen} over TCP");
        return findings.add("nat", State::Warn, found, tell(seen, told.port()));
    }
    let few = "of which kind is not known: fewer than three places (/16, /32) have said where they see it";
    let found = format!("{ip} is not an address of this machine: it is behind NAT, {few}");
    if is_reached(patient) {
        // Links only begin at the addresses that are told.
        return findings.ok("nat", format!("{found}; others come in at UDP port {}", told.port()));
    }
    findings.add(
        "nat",
        State::Unknown,
        found,
        forward(told, "; look again when the relay has run for a while"),
    );
}

fn local(ip: IpAddr, findings: &mut Findings) {
    let remedy = "tell the public address in [announce]; this one serves tests only";
    findings.add("nat", State::Warn, format!("{ip} is reached from this site only"), remedy);
}

fn forward(told: SocketAddr, more: &str) -> String {
    format!(
        "have the router or the host forward UDP port {} (and the gossip port, TCP) to this machine: a port forwarding rule{more}",
        told.port()
    )
}

fn tell(seen: IpAddr, port: u16) -> String {
    let address = SocketAddr::new(seen, port);
    format!(
        "set `addresses` in [announce] to \"{address}\" (`--address` of `chive relay setup`), and have its ports forwarded to this machine; \
         if only the way out has that address, and `reached` is well, nothing is wrong"
    )
}

fn is_reached(patient: &Patient) -> bool {
    matches!(&patient.status, Some(Status::Relay(status)) if status.reached > 0)
}

/// The addresses that others are told.
fn told(patient: &Patient) -> Vec<SocketAddr> {
    let Some(relay) = &patient.relay else { return Vec::new() };
    let announced = relay.announce.as_ref().map(|announce| announce.addresses.clone());
    let described = || {
        let id = super::own_id(patient)?;
        Some(patient.view.as_ref()?.get(&id)?.addresses.clone())
    };
    described().or(announced).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(voices: &[(&str, usize)]) -> Vec<Seen> {
        voices.iter().map(|(at, places)| Seen { address: at.parse().unwrap(), places: *places }).collect()
    }

    fn named(voices: &[(&str, usize)]) -> Option<Kind> {
        let own = |ip: IpAddr| ip.to_string() == "198.51.100.1" || ip.to_string() == "2001:db8::1";
        kind(&seen(voices), 7000, own).map(|(kind, _)| kind)
    }

    // link.seen.2
    #[test]
    fn each_kind_is_told_by_what_most_places_see() {
        for (voices, expected) in [
            (&[("198.51.100.1:7000", 3)][..], Some(Kind::None)),
            (&[("[2001:db8::1]:7000", 3)], Some(Kind::None)),
            (&[("203.0.113.7:7000", 5)], Some(Kind::OneToOne)),
            (&[("203.0.113.7:41000", 5)], Some(Kind::Independent)),
            (&[("198.51.100.1:41000", 5)], Some(Kind::Independent)),
            (&[("203.0.113.7:1", 1), ("203.0.113.7:2", 1), ("203.0.113.7:3", 1)], Some(Kind::Dependent)),
            (&[("203.0.113.7:1", 1), ("203.0.113.8:1", 1), ("203.0.113.9:1", 1)], Some(Kind::Dependent)),
            // Too few.
            (&[], None),
            (&[("203.0.113.7:7000", 2)], None),
            (&[("203.0.113.7:7000", 1), ("203.0.113.7:7001", 1)], None),
            // One that lies changes nothing.
            (&[("198.51.100.1:7000", 2), ("192.0.2.66:6", 1)], Some(Kind::None)),
            (&[("192.0.2.66:6", 2), ("203.0.113.7:7000", 4)], Some(Kind::OneToOne)),
            (&[("203.0.113.7:41000", 9), ("203.0.113.7:7000", 3)], Some(Kind::Independent)),
        ] {
            assert_eq!(named(voices), expected, "{voices:?}");
        }
    }

    fn judged(told: &str, heard: Option<(Kind, &str, u16)>) -> (State, String) {
        let network = crate::config::Network { file: "network.toml".into(), signer: None };
        let state = "state".into();
        let patient =
            Patient { network, wallet: None, relay: None, view: None, state, status: None, directory: None };
        let mut findings = Findings::default();
        let heard = heard.map(|(kind, at, port)| (kind, at.parse().unwrap(), port));
        relay(&patient, told.parse().unwrap(), heard, &mut findings);
        let finding = findings.findings.pop().unwrap();
        (finding.state, format!("{} -> {}", finding.found, finding.remedy.unwrap_or_default()))
    }

    #[test]
    fn each_kind_has_its_mending_step() {
        let told = "203.0.113.7:7000";
        for (heard, state, words) in [
            (Some((Kind::None, told, 7000)), State::Ok, "none: others see 203.0.113.7:7000"),
            (Some((Kind::OneToOne, told, 7000)), State::Warn, "nobody has come in yet -> have the router"),
            (
                Some((Kind::OneToOne, "203.0.113.7:5123", 5123)),
                State::Warn,
                "one to one: others see 203.0.113.7:5123, the same port as here; nobody",
            ),
            (
                Some((Kind::Independent, "203.0.113.7:41000", 7000)),
                State::Warn,
                "all peers see 203.0.113.7:41000",
            ),
            (Some((Kind::Dependent, "203.0.113.7:5", 7000)), State::Warn, "carrier-grade NAT"),
            (
                Some((Kind::None, "198.51.100.1:7000", 7000)),
                State::Warn,
                "to \"198.51.100.1:7000\" (`--address`",
            ),
            (None, State::Unknown, "fewer than three places"),
        ] {
            let (found, said) = judged(told, heard);
            assert!(found == state && said.contains(words), "{heard:?}: {found:?} {said}");
        }
        let (state, said) = judged("127.0.0.1:7000", None);
        assert!(state == State::Warn && said.contains("this site only"), "{said}");
    }
}
