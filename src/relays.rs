//! `chive relays`, `chive ping` and `chive new-identity`: what a client knows of relays, and measures.

use std::time::Duration;

use client::path::per_gib;
use client::status::{BuildReport, Echo, Measured, Relay};
use client::wishes::Country;
use payments::amount::Rate;

use crate::cli::{At, Ping as PingCommand, Relays as RelaysCommand};
use crate::control::{Echoes, Ping, Relays, Renewed};
use crate::control_client::ControlClient;
use crate::output::Format;
use crate::report::{PATIENCE, build_text, bytes_text, ms_text, path_text, table};
use crate::wallet::ether_text;

/// How long answers of exits, and circuits, may take.
const PING_PATIENCE: Duration = Duration::from_mins(1);
/// The letters of an id that a table shows.
const SHORT: usize = 16;

/// `chive relays`.
pub(crate) async fn list(wanted: &RelaysCommand, output: Format) -> anyhow::Result<()> {
    let mut known: Relays = ControlClient::new(&wanted.at)?.get("/relays", PATIENCE).await?;
    let within = |relay: &Relay| {
        let at = relay.country.as_deref().and_then(Country::parse);
        wanted.country.is_empty() || at.is_some_and(|at| wanted.country.contains(&at))
    };
    known.relays.retain(|relay| within(relay) && (!wanted.exits || relay.exit.is_some()));
    output.print(&known, || relays_text(&known.relays))
}

/// `chive ping`.
pub(crate) async fn ping(wanted: &PingCommand, output: Format) -> anyhow::Result<()> {
    let daemon = ControlClient::new(&wanted.at)?;
    if let Some(relay) = wanted.relay {
        let body = Ping { relay: Some(relay.to_string()), all: false };
        let report: BuildReport = daemon.post("/ping", &body, PING_PATIENCE).await?;
        if report.built == 0 {
            anyhow::bail!("{}; `chive relays` shows whether the relay can be used", build_text(&report));
        }
        return output.print(&report, || build_text(&report));
    }
    let body = Ping { all: wanted.circuits, relay: None };
    let Echoes { echoes } = daemon.post("/ping", &body, PING_PATIENCE).await?;
    if echoes.is_empty() {
        anyhow::bail!("no circuit stands; `chive status` shows why");
    }
    output.print(&Echoes { echoes: echoes.clone() }, || echoes_text(&echoes))
}

/// `chive new-identity`.
pub(crate) async fn new_identity(at: &At, output: Format) -> anyhow::Result<()> {
    let renewed: Renewed = ControlClient::new(at)?.post("/new-identity", &(), PATIENCE).await?;
    output.print(&renewed, || "new streams use new circuits; the entry is the same".to_owned())
}

fn echoes_text(echoes: &[Echo]) -> String {
    let rows: Vec<_> = echoes
        .iter()
        .map(|echo| {
            let time = echo.ms.map_or_else(|| "no answer".to_owned(), |ms| ms_text(Some(ms)));
            [echo.circuit.to_string(), path_text(&echo.path), time]
        })
        .collect();
    table(["CIRCUIT", "PATH", "THERE AND BACK"], &rows)
}

fn relays_text(relays: &[Relay]) -> String {
    let rows: Vec<_> = relays
        .iter()
        .map(|relay| {
            let short: String = relay.id.chars().take(SHORT).collect();
            let country = relay.country.as_deref().unwrap_or("??");
            let at = relay
                .claimed_country
                .as_ref()
                .map_or_else(|| country.to_owned(), |claim| format!("{country}, not {claim} as it says"));
            let systems = match relay.autonomous_systems.as_slice() {
                [] => "-".to_owned(),
                list => list.iter().map(|number| format!("AS{number}")).collect::<Vec<_>>().join(", "),
            };
            let price =
                |ask: Option<u64>| ask.map_or_else(|| "-".to_owned(), |ask| ether_text(per_gib(Rate(ask))));
            let bandwidth = match relay.bandwidth {
                0 => "-".to_owned(),
                claim => format!("{}/s", bytes_text(u64::from(claim) * 1000)),
            };
            let state = relay.unusable.clone().unwrap_or_else(|| "yes".to_owned());
            let state = if relay.guard { format!("{state}, guard") } else { state };
            [
                short,
                at,
                systems,
                price(relay.ask),
                price(relay.exit_ask),
                bandwidth,
                relay.exit.clone().unwrap_or_else(|| "-".to_owned()),
                measured_text(relay.measured),
                state,
            ]
        })
        .collect();
    table(
        [
            "RELAY",
            "COUNTRY",
            "AUTONOMOUS SYSTEM",
            "ASKS PER GIB",
            "AS AN EXIT",
            "CLAIMS",
            "EXIT FOR PORTS",
            "MEASURED",
            "USABLE",
        ],
        &rows,
    )
}

fn measured_text(measured: Option<Measured>) -> String {
    let Some(Measured { built, failed, setup_ms, bytes_per_s, loss }) = measured else {
        return "-".to_owned();
    };
    let mut parts = vec![format!("{built} of {} built", built + failed)];
    parts.extend(setup_ms.map(|ms| ms_text(Some(ms))));
    if bytes_per_s > 0 {
        parts.push(format!("{}/s", bytes_text(bytes_per_s)));
    }
    parts.extend(loss.filter(|loss| *loss >= 0.001).map(|loss| format!("{:.1} % lost", loss * 100.0)));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_one_line_with_all_that_is_known() {
        let relay = Relay {
            id: "ab".repeat(32),
            country: Some("nl".to_owned()),
            claimed_country: Some("de".to_owned()),
            autonomous_systems: vec![64_500, 64_501],
            operator: String::new(),
            version: String::new(),
            bandwidth: 12_500,
            ask: Some(1000),
            exit_ask: None,
            exit: None,
            guard: true,
            unusable: None,
            measured: Some(Measured {
                built: 9,
                failed: 1,
                setup_ms: Some(42.0),
                bytes_per_s: 1 << 20,
                loss: Some(0.01),
            }),
        };
        let text = relays_text(&[relay]);
        let line = text.lines().nth(1).unwrap();
        for part in [
            "abababababababab ",
            "nl, not de as it says",
            "AS64500, AS64501",
            "11.9 MiB/s",
            "9 of 10 built, 42.0 ms, 1.0 MiB/s, 1.0 % lost",
            "yes, guard",
        ] {
            assert!(line.contains(part), "{part}: {text}");
        }
    }
}
