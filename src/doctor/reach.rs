//! Whether packets lead out, and others lead in.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use tokio::net::TcpStream;

use super::probe::Probe;
use super::{Findings, Patient, State};
use crate::control::Status;
use crate::report::time_text;

/// How far clocks may be apart, in milliseconds, before it is told, and before relays refuse what is built.
const CLOCK_WARN: u64 = 10_000;
const CLOCK_FAIL: u64 = 50_000;
/// A relay that nobody has reached for so long, in seconds, is reached by nobody.
const LONELY: u64 = 3_600;
const CONNECT: Duration = Duration::from_secs(3);

/// Whether the UDP address can be taken.
pub(super) fn bind(patient: &Patient, findings: &mut Findings) {
    let Some(relay) = &patient.relay else { return };
    if let Some(Status::Relay(status)) = &patient.status {
        return findings.ok("udp port", format!("the relay runs, and receives on {}", status.listen));
    }
    match UdpSocket::bind(relay.listen) {
        Ok(_) => findings.ok("udp port", format!("{} can be taken; the relay does not run", relay.listen)),
        Err(error) => findings.add(
            "udp port",
            State::Fail,
            format!("{} cannot be taken: {error}", relay.listen),
            "stop what has the port, or change the setting `listen`; ports below 1024 need a privilege",
        ),
    }
}

/// Whether this machine has the addresses that it tells others.
pub(super) fn nat(patient: &Patient, findings: &mut Findings) {
    let addresses = told(patient);
    if addresses.is_empty() {
        return;
    }
    for address in addresses {
        let ip = address.ip();
        if UdpSocket::bind((ip, 0)).is_err() {
            translated(patient, address, findings);
        } else if is_local(ip) {
            let remedy = "tell the public address in [announce]; this one serves tests only";
            findings.add("nat", State::Warn, format!("{ip} is reached from this site only"), remedy);
        } else {
            findings.ok("nat", format!("none: {ip} is this machine's own"));
        }
    }
}

/// An address that is not this machine's own: what can be told of what lies between.
fn translated(patient: &Patient, address: SocketAddr, findings: &mut Findings) {
    let (ip, port) = (address.ip(), address.port());
    let same_family = |seen: &IpAddr| seen.is_ipv4() == ip.is_ipv4();
    let seen = patient.directory.as_ref().and_then(|directory| directory.seen_at).filter(same_family);
    if let Some(seen) = seen.filter(|seen| *seen != ip) {
        let remedy = "tell the address that others see in [announce] `addresses`, and have its ports sent to this machine";
        let found = format!("{ip} is told to others, and they see this machine at {seen}");
        return findings.add("nat", State::Fail, found, remedy);
    }
    let reached = matches!(&patient.status, Some(Status::Relay(status)) if status.links_inbound > 0);
    if reached {
        // Links only begin at the addresses that are told.
        let found = format!(
            "one to one, inwards: others reach UDP port {port} of {ip}, which is not this machine's own"
        );
        let remedy = "nothing, if `udp out` is well; whether the way out has the same port as well cannot be seen from here";
        return findings.add("nat", State::Ok, found, remedy);
    }
    let remedy = format!(
        "have the router or the host send UDP port {port} (and the gossip port, TCP) to this machine, with the same source port \
         on the way out; a NAT that changes ports cannot be used"
    );
    let found = format!(
        "{ip} is not an address of this machine: it is behind NAT, of which kind is not known before others have come"
    );
    findings.add("nat", State::Warn, found, remedy);
}

/// What came of links to other relays.
pub(super) fn outward(probe: Option<&Probe>, findings: &mut Findings) {
    let Some(probe) = probe.filter(|probe| probe.asked > 0) else {
        let remedy = "look again when other relays are known";
        return findings.add("udp out", State::Unknown, "there is no other relay to ask", remedy);
    };
    let found = format!("{} of {} relays answered", probe.answered, probe.asked);
    if probe.too_large {
        let remedy = "raise the MTU of the network card or the tunnel to 1,440 or more";
        findings.add("mtu", State::Fail, "datagrams of 1,440 bytes do not fit", remedy);
    } else if probe.answered > 0 {
        findings.ok("mtu", "datagrams of 1,440 bytes pass whole, both ways");
    } else {
        findings.add("mtu", State::Unknown, "nobody answered", "see `udp out`");
    }
    if probe.answered > 0 {
        return findings.ok("udp out", found);
    }
    let why = probe.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
    findings.add(
        "udp out",
        State::Fail,
        format!("{found}{why}"),
        "let UDP out and its answers in: the host's firewall, the provider's, a company's network; if others are reached from here, \
         the relays that were asked are down",
    );
}

/// Whether others have reached this relay: only they can tell.
pub(super) fn inward(patient: &Patient, findings: &mut Findings) {
    if patient.relay.is_none() {
        return;
    }
    let Some(Status::Relay(status)) = &patient.status else {
        let remedy = "start the relay, and look again some minutes later";
        return findings.add(
            "reached",
            State::Unknown,
            "only a running relay learns whether others reach it",
            remedy,
        );
    };
    let up = time_text(status.uptime_s);
    if status.links_inbound > 0 {
        findings.ok("reached", format!("{} links stand that others began", status.links_inbound));
    } else if status.uptime_s < LONELY {
        let remedy = "look again later: others come when a path needs them";
        findings.add("reached", State::Unknown, format!("nobody has begun a link in {up}"), remedy);
    } else {
        let remedy = "let UDP in on the port of `listen` (firewall, port forwarding), and check the addresses that the descriptor tells";
        findings.add("reached", State::Warn, format!("no link of others stands after {up}"), remedy);
    }
}

/// Whether descriptors are exchanged over TCP, on an open network.
pub(super) async fn gossip(patient: &Patient, findings: &mut Findings) {
    let open = patient.network.signer.is_none();
    let Some((relay, announce)) =
        patient.relay.as_ref().and_then(|relay| Some((relay, relay.announce.as_ref()?)))
    else {
        return;
    };
    if !open || announce.gossip_port == 0 {
        return;
    }
    let port = announce.gossip_port;
    if patient.status.is_none() {
        return match TcpListener::bind((relay.listen.ip(), port)) {
            Ok(_) => findings.ok("gossip port", format!("TCP {port} can be taken; the relay does not run")),
            Err(error) => findings.add(
                "gossip port",
                State::Fail,
                format!("TCP {port} cannot be taken: {error}"),
                "stop what has the port, or change `gossip_port` in [announce]",
            ),
        };
    }
    if let Some(directory) = patient.directory.as_ref().filter(|directory| directory.inbound > 0) {
        let ago = time_text(crate::outside::unix().saturating_sub(directory.last_inbound));
        let count = directory.inbound;
        return findings.ok(
            "gossip port",
            format!("others have begun {count} connections to TCP {port}, the last {ago} ago"),
        );
    }
    let near = announce.addresses.iter().map(SocketAddr::ip).chain([IpAddr::from([127, 0, 0, 1])]);
    for ip in near {
        if let Ok(Ok(_)) = tokio::time::timeout(CONNECT, TcpStream::connect((ip, port))).await {
            let up = match &patient.status {
                Some(Status::Relay(status)) => status.uptime_s,
                _ => 0,
            };
            let found = format!(
                "TCP {port} answers at {ip} from this machine, and no other has come in {}",
                time_text(up)
            );
            let (state, remedy) = if up < LONELY {
                (State::Unknown, "look again later: only others can tell whether they reach it")
            } else {
                (State::Warn, "let TCP in on this port: the host's firewall, the provider's, port forwarding")
            };
            return findings.add("gossip port", state, found, remedy);
        }
    }
    let remedy = "look at the relay's log, and let TCP in on this port";
    findings.add("gossip port", State::Fail, format!("TCP {port} does not answer"), remedy);
}

/// How this machine's clock stands to those of other relays.
pub(super) fn clock(patient: &Patient, probe: Option<&Probe>, findings: &mut Findings) {
    let mut clocks = probe.map(|probe| probe.clocks.clone()).unwrap_or_default();
    if let Some(Status::Relay(status)) = &patient.status {
        clocks.extend(status.clock_ms);
    }
    clocks.sort_unstable();
    let Some(middle) = clocks.get(clocks.len() / 2) else {
        let remedy = "look again when other relays answer; a time service (chrony, systemd-timesyncd) should run anyway";
        return findings.add("clock", State::Unknown, "no other clock to compare with", remedy);
    };
    let apart = middle.unsigned_abs();
    let side = if *middle > 0 { "behind" } else { "ahead of" };
    let found = format!("{} {side} other relays", time_text(apart / 1000));
    let remedy = "run a time service: chrony or systemd-timesyncd";
    match apart {
        0..CLOCK_WARN => findings.ok("clock", "that of other relays"),
        CLOCK_WARN..CLOCK_FAIL => findings.add("clock", State::Warn, found, remedy),
        _ => findings.add("clock", State::Fail, format!("{found}: circuits are refused"), remedy),
    }
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

const fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(clocks: &[i64]) -> Probe {
        Probe { asked: 4, answered: clocks.len(), clocks: clocks.to_vec(), ..Probe::default() }
    }

    fn patient() -> Patient {
        let network = crate::config::Network { file: "network.toml".into(), signer: None };
        let state = "state".into();
        Patient { network, wallet: None, relay: None, view: None, state, status: None, directory: None }
    }

    #[test]
    fn one_wrong_clock_of_others_does_not_matter() {
        for (clocks, expected) in [
            (&[0, 200, -300][..], State::Ok),
            (&[0, 90_000_000, 500], State::Ok),
            (&[20_000, 21_000, 19_000], State::Warn),
            (&[-70_000, -71_000, 0], State::Fail),
            (&[], State::Unknown),
        ] {
            let mut findings = Findings::default();
            clock(&patient(), Some(&probe(clocks)), &mut findings);
            assert_eq!(findings.findings[0].state, expected, "{clocks:?}");
        }
    }

    #[test]
    fn silence_of_all_relays_is_a_failure_and_of_none_unknown() {
        let states = |probe: Option<&Probe>| {
            let mut findings = Findings::default();
            outward(probe, &mut findings);
            findings.findings.iter().map(|finding| (finding.check, finding.state)).collect::<Vec<_>>()
        };
        assert_eq!(states(None), [("udp out", State::Unknown)]);
        assert_eq!(states(Some(&probe(&[]))), [("mtu", State::Unknown), ("udp out", State::Fail)]);
        assert_eq!(states(Some(&probe(&[1]))), [("mtu", State::Ok), ("udp out", State::Ok)]);
        let large = Probe { too_large: true, ..probe(&[]) };
        assert_eq!(states(Some(&large)), [("mtu", State::Fail), ("udp out", State::Fail)]);
    }
}
