//! Whether packets lead out, and others lead in.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use tokio::net::TcpStream;

use super::probe::{Probe, Probes};
use super::{Findings, Patient, State};
use crate::control::{Asked, Status, Whole};
use crate::control_client::ControlClient;
use crate::report::{PATIENCE, time_text};

/// How far clocks may be apart, in milliseconds, before it is told, and before relays refuse what is built.
const CLOCK_WARN: u64 = 10_000;
const CLOCK_FAIL: u64 = 50_000;
/// A relay that nobody has reached for so long, in seconds, is reached by nobody.
const LONELY: u64 = 3_600;
const CONNECT: Duration = Duration::from_secs(3);

/// So long the links of relays that were asked for them may take.
const CALLS: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(250);

/// What the daemon says of itself; a relay that nobody has reached asks others for links first.
pub(super) async fn asked(daemon: &ControlClient) -> Option<Whole> {
    let mut whole: Whole = daemon.get("/status", PATIENCE).await.ok()?;
    if is_reached(&whole.status) != Some(false) || whole.directory.is_none() {
        return Some(whole);
    }
    let asked: Option<Asked> = daemon.post("/reach", &(), PATIENCE).await.ok();
    if asked.is_some_and(|asked| asked.asked > 0) {
        let come = async {
            while is_reached(&whole.status) == Some(false) {
                tokio::time::sleep(LOOK).await;
                let Ok(now) = daemon.get("/status", PATIENCE).await else { return };
                whole = now;
            }
        };
        // Who was not reached by then is not.
        let _ = tokio::time::timeout(CALLS, come).await;
    }
    Some(whole)
}

/// Whether others have reached a relay; nothing of a client.
const fn is_reached(status: &Status) -> Option<bool> {
    match status {
        Status::Relay(status) => Some(status.reached > 0),
        Status::Client(_) => None,
    }
}

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

/// What came of links to other relays.
pub(super) fn outward(probes: Option<&Probes>, findings: &mut Findings) {
    let v4 = probes.map(|probes| &probes.v4).filter(|probe| probe.asked > 0);
    let v6 = probes.and_then(|probes| probes.v6.as_ref()).filter(|probe| probe.asked > 0);
    if v4.is_none() && v6.is_none() {
        let remedy = "look again when other relays are known";
        return findings.add("udp out", State::Unknown, "there is no other relay to ask", remedy);
    }
    for (probe, mtu, out, size) in [(v4, "mtu", "udp out", 1440), (v6, "mtu ipv6", "udp out ipv6", 1460)] {
        if let Some(probe) = probe {
            answers(probe, [mtu, out], size, findings);
        }
    }
}

/// What came of them over one family, in whose packets of `size` bytes a datagram fits.
fn answers(probe: &Probe, [mtu, out]: [&'static str; 2], size: u32, findings: &mut Findings) {
    let found = format!("{} of {} relays answered", probe.answered, probe.asked);
    if probe.too_large {
        let remedy = format!("raise the MTU of the network card or the tunnel to {size} or more");
        findings.add(mtu, State::Fail, format!("datagrams of {size} bytes do not fit"), remedy);
    } else if probe.answered > 0 {
        findings.ok(mtu, format!("datagrams of {size} bytes pass whole, both ways"));
    } else {
        findings.add(mtu, State::Unknown, "nobody answered", format!("see `{out}`"));
    }
    if probe.answered > 0 {
        return findings.ok(out, found);
    }
    let why = probe.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
    findings.add(
        out,
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
    let called = patient.directory.as_ref().map_or(0, |directory| directory.called);
    if status.reached > 0 {
        let ago = time_text(crate::outside::unix().saturating_sub(status.last_reached));
        findings.ok("reached", format!("others have begun {} links, the last {ago} ago", status.reached));
    } else if called > 0 {
        let nets = if called == 1 { "net" } else { "nets" };
        let found = format!(
            "relays of {called} {nets} (/16, /32) have tried to begin a link to this one, and none came in"
        );
        let remedy = "let UDP in on the port of `listen` (firewall, security group, port forwarding), and check the addresses in [announce]";
        // One that lies, in one net, would not make it a failure.
        let state = if called > 1 { State::Fail } else { State::Warn };
        findings.add("reached", state, found, remedy);
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
pub(super) fn clock(patient: &Patient, probes: Option<&Probes>, findings: &mut Findings) {
    let both =
        |probes: &Probes| [&probes.v4.clocks[..], probes.v6.as_ref().map_or(&[], |v6| &v6.clocks)].concat();
    let mut clocks = probes.map(both).unwrap_or_default();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(clocks: &[i64]) -> Probe {
        Probe { asked: 4, answered: clocks.len(), clocks: clocks.to_vec(), ..Probe::default() }
    }

    fn v4(probe: Probe) -> Probes {
        Probes { v4: probe, v6: None }
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
            clock(&patient(), Some(&v4(probe(clocks))), &mut findings);
            assert_eq!(findings.findings[0].state, expected, "{clocks:?}");
        }
    }

    #[test]
    fn silence_of_all_relays_is_a_failure_and_of_none_unknown() {
        let states = |probes: Option<Probes>| {
            let mut findings = Findings::default();
            outward(probes.as_ref(), &mut findings);
            findings.findings.iter().map(|finding| (finding.check, finding.state)).collect::<Vec<_>>()
        };
        assert_eq!(states(None), [("udp out", State::Unknown)]);
        assert_eq!(states(Some(v4(probe(&[])))), [("mtu", State::Unknown), ("udp out", State::Fail)]);
        assert_eq!(states(Some(v4(probe(&[1])))), [("mtu", State::Ok), ("udp out", State::Ok)]);
        let large = Probe { too_large: true, ..probe(&[]) };
        assert_eq!(states(Some(v4(large))), [("mtu", State::Fail), ("udp out", State::Fail)]);
        let both = Probes { v4: Probe::default(), v6: Some(probe(&[])) };
        assert_eq!(states(Some(both)), [("mtu ipv6", State::Unknown), ("udp out ipv6", State::Fail)]);
        let both = Probes { v4: probe(&[1]), v6: Some(Probe::default()) };
        assert_eq!(states(Some(both)), [("mtu", State::Ok), ("udp out", State::Ok)], "none has IPv6");
    }
}
