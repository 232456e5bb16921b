//! What the machine is like: version, container, IPv6, limits, DNS.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use directory::view::View;
use rustix::process::{Resource, getrlimit};

use super::{Findings, Patient, State};
use crate::descriptors::Need;

/// A public address of each family; nothing is sent there.
const SOMEWHERE_V6: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0, 0, 1)), 53);

/// Whether others run a newer version: only what many say is believed.
pub(super) fn version(findings: &mut Findings, view: Option<&View>) {
    let own = concat!("chive ", env!("CARGO_PKG_VERSION"));
    let newer =
        view.map_or(0, |view| view.iter().filter(|relay| number(&relay.version) > number(own)).count());
    match view.map(|view| view.iter().len()) {
        Some(all) if newer > all / 3 => {
            let found = format!("{own}; {newer} of {all} relays say that they run a newer one");
            findings.add("version", State::Warn, found, "get the newest version");
        }
        _ => findings.ok("version", own),
    }
}

/// The numbers of a version, such as `chive 0.1.0`; nothing if it is of something else.
fn number(version: &str) -> Option<[u32; 3]> {
    let mut parts = version.strip_prefix("chive ")?.split('.').map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

/// Whether this is a container, whose network is mostly not the machine's.
pub(super) fn container(findings: &mut Findings) {
    let marks = [("/.dockerenv", "Docker"), ("/run/.containerenv", "Podman"), ("/dev/lxd", "LXD")];
    let named = fs::read_to_string("/run/systemd/container").ok().map(|name| name.trim().to_owned());
    let found = named.or_else(|| {
        marks.iter().find(|(mark, _)| Path::new(mark).exists()).map(|(_, name)| (*name).to_owned())
    });
    let tun =
        if Path::new("/dev/net/tun").exists() { "with TUN" } else { "without TUN, which no relay needs" };
    match found {
        None => findings.ok("host", format!("no container, {tun}")),
        Some(name) => findings.add(
            "host",
            State::Warn,
            format!("a container ({name}), {tun}"),
            "give it the host's network, or publish the relay's UDP port and its gossip port (TCP) with the same numbers",
        ),
    }
}

fn route_of_ipv6() -> std::io::Result<()> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect(SOMEWHERE_V6))
}

/// Whether IPv6 leads anywhere.
pub(super) fn has_ipv6() -> bool {
    route_of_ipv6().is_ok()
}

/// Tells whether IPv6 leads anywhere. Relays do without.
pub(super) fn ipv6(findings: &mut Findings) {
    match route_of_ipv6() {
        Ok(()) => findings.ok("ipv6", "there is a route"),
        Err(error) => findings.ok("ipv6", format!("none ({error}); IPv4 is enough")),
    }
}

/// How many files and connections may be open.
pub(super) fn file_limit(findings: &mut Findings, need: Need) {
    let most = getrlimit(Resource::Nofile).maximum;
    match most.filter(|most| *most < need.count()) {
        None => findings
            .ok("file limit", most.map_or_else(|| "none".to_owned(), |most| format!("{most} at most"))),
        Some(few) => findings.add(
            "file limit",
            State::Warn,
            format!("{few}, and up to {} may be needed", need.count()),
            "raise the hard limit: LimitNOFILE of the service, or ulimit -Hn",
        ),
    }
}

/// Whether names are resolved, where there are names.
pub(super) async fn dns(findings: &mut Findings, patient: Option<&Patient>) {
    let exit = patient.and_then(|patient| patient.relay.as_ref()).is_some_and(|relay| relay.exit.is_some());
    let rpc = patient.map(super::chain::hosts).unwrap_or_default();
    let name = rpc.into_iter().next().or_else(|| exit.then(|| "example.org:443".to_owned()));
    let Some(name) = name else { return findings.ok("dns", "nothing here needs names") };
    let look = tokio::net::lookup_host(&name);
    let found = tokio::time::timeout(crate::report::PATIENCE, look).await;
    let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host).to_owned();
    let problem = match found.map(|found| found.map(|mut addresses| addresses.next())) {
        Ok(Ok(Some(_))) => return findings.ok("dns", format!("{host} is resolved")),
        Ok(Ok(None)) => "it has no address".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer".to_owned(),
    };
    let remedy = "check the name servers in /etc/resolv.conf; an exit is of no use without them";
    findings.add("dns", State::Fail, format!("{host} is not resolved: {problem}"), remedy);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        assert!(number("chive 0.10.0") > number("chive 0.9.9"));
        assert!(number("chive 1.0.0") > number("tor 9.9.9"));
        assert_eq!(number("chive 1.0"), None);
    }
}
