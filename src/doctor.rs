//! `chive doctor`: what a relay or a client needs, looked at one by one, each with what to do about what it lacks.

use std::path::{Path, PathBuf};

use anyhow::bail;
use directory::view::View;
use serde::Serialize;

use crate::cli::{At, Doctor};
use crate::config::{self, ClientConfig, Network, RelayConfig, Wallet};
use crate::control::Status;
use crate::control_client::ControlClient;
use crate::network::{self, Members};
use crate::open;
use crate::output::Format;

mod chain;
mod files;
mod machine;
mod nat;
mod probe;
mod reach;
mod state;

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could, or not for long.
    Warn,
    /// It does not work.
    Fail,
    /// Nothing can be said about it from here.
    Unknown,
}

/// What was found out about one thing.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// All findings, in the order in which they were made.
#[derive(Debug, Default, Serialize)]
struct Findings {
    findings: Vec<Finding>,
}

impl Findings {
    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.findings.push(Finding { check, state: State::Ok, found: found.into(), remedy: None });
    }

    fn add(
        &mut self,
        check: &'static str,
        state: State,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.findings.push(Finding { check, state, found: found.into(), remedy: Some(remedy.into()) });
    }

    fn count(&self, state: State) -> usize {
        self.findings.iter().filter(|finding| finding.state == state).count()
    }

    fn text(&self) -> String {
        let mut lines: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                let word = match finding.state {
                    State::Ok => "ok",
                    State::Warn => "warn",
                    State::Fail => "FAIL",
                    State::Unknown => "unknown",
                };
                let remedy = finding
                    .remedy
                    .as_ref()
                    .map(|remedy| format!("\n{:23}-> {remedy}", ""))
                    .unwrap_or_default();
                format!("{word:8} {:13} {}{remedy}", finding.check, finding.found)
            })
            .collect();
        let (failed, warned) = (self.count(State::Fail), self.count(State::Warn));
        lines.push(format!(
            "{failed} failed, {warned} to be looked at, {} unknown",
            self.count(State::Unknown)
        ));
        lines.join("\n")
    }
}

/// What is looked at.
struct Patient {
    network: Network,
    wallet: Option<Wallet>,
    /// A relay's file; a client's is of no use but for what stands above.
    relay: Option<RelayConfig>,
    view: Option<View>,
    /// The folder of what the daemon keeps.
    state: PathBuf,
    /// What the daemon says of itself, if it runs.
    status: Option<Status>,
    /// What it says of its open network.
    directory: Option<open::Status>,
}

/// `chive doctor`.
pub(crate) async fn run(wanted: &Doctor, output: Format) -> anyhow::Result<()> {
    let mut findings = Findings::default();
    machine::container(&mut findings);
    machine::ipv6(&mut findings);
    if let Some(file) = &wanted.config {
        if let Some(patient) = examine(file, &mut findings).await {
            look(&patient, &mut findings).await;
        }
    } else {
        machine::version(&mut findings, None);
        machine::file_limit(&mut findings, crate::descriptors::Need::Relay);
        machine::dns(&mut findings, None).await;
    }
    output.print(&findings, || findings.text())?;
    match findings.count(State::Fail) {
        0 => Ok(()),
        failed => bail!("{failed} of {} checks failed", findings.findings.len()),
    }
}

/// Reads the configuration, and what it names.
async fn examine(file: &Path, findings: &mut Findings) -> Option<Patient> {
    let name = file.display();
    let read = if config::is_relay(file) {
        RelayConfig::read(file)
            .map(|relay| (relay.network.clone(), relay.wallet.clone(), relay.state.clone(), Some(relay)))
    } else {
        ClientConfig::read(file).map(|client| (client.network, client.wallet, client.state, None))
    };
    let (network, wallet, state, relay) = match read {
        Ok(read) => read,
        Err(error) => {
            let remedy = "correct the file; `chive config example relay` shows every setting";
            findings.add("configuration", State::Fail, crate::failure::text_of(&error), remedy);
            return None;
        }
    };
    let view = match network::members(&network) {
        Ok(Members { mut view, bootstrap }) => {
            let who = if relay.is_some() { "a relay" } else { "a client" };
            let place = if bootstrap.is_some() {
                open::recall(&state, &mut view);
                match view.iter().len() {
                    0 => "an open network of which no relay was known last".to_owned(),
                    1 => "an open network, of which 1 relay was known last".to_owned(),
                    count => format!("an open network, of which {count} relays were known last"),
                }
            } else {
                format!("a network of {} relays", view.iter().len())
            };
            findings.ok("configuration", format!("{name} is that of {who}, in {place}"));
            Some(view)
        }
        Err(error) => {
            let name = network.file.display();
            let remedy = format!(
                "put the network's file at {name} (from whoever maintains the network), or name another in the setting `network`"
            );
            findings.add("configuration", State::Fail, crate::failure::text_of(&error), remedy);
            None
        }
    };
    let at = At { control: None, config: Some(file.to_owned()) };
    let whole = match ControlClient::new(&at) {
        Ok(daemon) => reach::asked(&daemon).await,
        Err(_) => None,
    };
    let (status, directory) = whole.map(|whole| (whole.status, whole.directory)).unzip();
    Some(Patient { network, wallet, relay, view, state, status, directory: directory.flatten() })
}

/// Looks at everything.
async fn look(patient: &Patient, findings: &mut Findings) {
    machine::version(findings, patient.view.as_ref());
    files::permissions(patient, findings);
    state::look(patient, findings);
    if let Some(relay) = &patient.relay {
        files::disk(&relay.state, findings);
        let need = if relay.exit.is_some() {
            crate::descriptors::Need::Exit
        } else {
            crate::descriptors::Need::Relay
        };
        machine::file_limit(findings, need);
    } else {
        machine::file_limit(findings, crate::descriptors::Need::Client);
    }
    machine::dns(findings, Some(patient)).await;
    reach::bind(patient, findings);
    let probed = probe::links(patient);
    nat::look(patient, probed.as_ref(), findings);
    reach::outward(probed.as_ref(), findings);
    reach::inward(patient, findings);
    reach::gossip(patient, findings).await;
    reach::clock(patient, probed.as_ref(), findings);
    chain::look(patient, findings).await;
}

/// The id of the relay that is looked at.
fn own_id(patient: &Patient) -> Option<circuit::keys::RelayId> {
    let keys = crate::keystore::read(&patient.relay.as_ref()?.keys).ok()?;
    Some(keys.identity.id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs_read_the_same() {
        let mut findings = Findings::default();
        findings.ok("version", "chive 1");
        findings.add("disk", State::Fail, "full", "make room");
        findings.add("nat", State::Unknown, "nobody tells", "wait");
        let text = findings.text();
        assert!(text.contains("FAIL     disk          full\n"), "{text}");
        assert!(text.contains("-> make room\n"), "{text}");
        assert!(text.ends_with("1 failed, 0 to be looked at, 1 unknown"), "{text}");
        let json = serde_json::to_value(&findings).unwrap();
        assert_eq!(json["findings"][1]["state"], "fail");
        assert_eq!(json["findings"][1]["remedy"], "make room");
        assert!(json["findings"][0].get("remedy").is_none());
    }
}
