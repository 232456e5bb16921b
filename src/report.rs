//! What people read of a daemon's documents, and the commands that ask for them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use client::path::per_gib;
use client::status::{BuildReport, Hop};
use payments::amount::{Rate, Wei};
use serde::Serialize;

use crate::cli::{At, Circuits as CircuitsCommand, CircuitsAction, Price as PriceCommand, Stop};
use crate::control::{Build, Circuits, Price, SetPrice, Status, Stopping, Whole};
use crate::control_client::ControlClient;
use crate::failure::{Failure, Kind};
use crate::open;
use crate::output::Format;
use crate::outside;
use crate::wallet::ether_text;

/// How long a daemon may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to build many circuits.
const BUILD_PATIENCE: Duration = Duration::from_mins(5);

/// How long a daemon may take to end once it waits for no circuits any more, and how often it is looked whether it has.
const ENDING: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(50);

/// `chive status`.
pub(crate) async fn status(at: &At, output: Format) -> anyhow::Result<()> {
    let whole: Whole = ControlClient::new(at)?.get("/status", PATIENCE).await?;
    output.print(&whole, || {
        let mut pairs = match &whole.status {
            Status::Client(client) => client_lines(client),
            Status::Relay(relay) => relay_lines(relay),
        };
        pairs.extend(whole.directory.iter().flat_map(directory_lines));
        if let (Status::Relay(_), Some(directory)) = (&whole.status, &whole.directory) {
            pairs.push(("gossip port", inbound_text(directory)));
        }
        lines(&pairs)
    })
}

/// `chive circuits` and `chive circuits build`.
pub(crate) async fn circuits(command: &CircuitsCommand, output: Format) -> anyhow::Result<()> {
    let daemon = ControlClient::new(&command.at)?;
    if let Some(CircuitsAction::Build { count, concurrency }) = command.action {
        let wanted = Build { count: count.into(), concurrency: concurrency.into() };
        let report: BuildReport = daemon.post("/circuits/build", &wanted, BUILD_PATIENCE).await?;
        if report.built == 0 {
            anyhow::bail!("{}", build_text(&report));
        }
        return output.print(&report, || build_text(&report));
    }
    let circuits: Circuits = daemon.get("/circuits", PATIENCE).await?;
    output.print(&circuits, || match &circuits {
        Circuits::Client(list) => client_table(list),
        Circuits::Relay(list) => relay_table(list),
    })
}

/// What a running relay earns.
async fn relay_money(daemon: &ControlClient) -> anyhow::Result<router::status::Money> {
    match daemon.get("/status", PATIENCE).await? {
        Status::Relay(router::status::Status { money: Some(money), .. }) => Ok(*money),
        Status::Relay(_) => anyhow::bail!("this relay is on a free network, and earns nothing"),
        Status::Client(_) => {
            anyhow::bail!("this is a client, which earns nothing; name the relay with --control or --config")
        }
    }
}

/// `chive earnings`.
pub(crate) async fn earnings(at: &At, output: Format) -> anyhow::Result<()> {
    let money = relay_money(&ControlClient::new(at)?).await?;
    output.print(&money, || {
        let mut pairs = earnings_lines(&money);
        pairs.push(("trouble", money.trouble.clone().unwrap_or_else(|| "none".to_owned())));
        lines(&pairs)
    })
}

/// What was earned. Cells are counted per payer: one that has not come back since the relay started is not in their sum, and one that
/// has is, with all that it used before. All else is of all runs.
fn earnings_lines(money: &router::status::Money) -> Vec<(&'static str, String)> {
    // Before the chain was read once, nothing is known of it.
    let known = |wei: &String| {
        if money.block == 0 { "not read from the chain yet".to_owned() } else { wei_text(wei) }
    };
    vec![
        ("pot of", money.owner.clone()),
        ("balance", known(&money.balance)),
        ("reserve", known(&money.reserve)),
        ("asks for a cell", asks_text(&money.asks)),
        ("cells, of who came since the start", money.cells.to_string()),
        ("earned for these cells", wei_text(&money.earned)),
        ("draws, all runs", format!("{}, {} of which won", money.draws, money.wins)),
        ("credited in draws, all runs", wei_text(&money.credited)),
        ("won, all runs", wei_text(&money.won)),
        ("redeemed, all runs", known(&money.redeemed)),
        ("not redeemed yet", known(&money.unredeemed)),
        ("lost, all runs", known(&money.lost)),
        ("fees of redemptions, all runs", known(&money.fees)),
        ("paid to other relays, all runs", wei_text(&money.paid)),
        ("newest block", if money.block == 0 { "none yet".to_owned() } else { money.block.to_string() }),
    ]
}

/// `chive price`.
pub(crate) async fn price(wanted: &PriceCommand, output: Format) -> anyhow::Result<()> {
    let daemon = ControlClient::new(&wanted.at)?;
    let number = |text: &String| text.parse().with_context(|| format!("{text} is no price"));
    let Some(ask) = wanted.ask else {
        let [ask, exit_ask] = relay_money(&daemon).await?.asks;
        let price = Price { ask: number(&ask)?, exit_ask: number(&exit_ask)? };
        return output.print(&price, || asks_text(&[ask, exit_ask]));
    };
    let exit_ask = wanted.exit_ask;
    let price: Price = daemon.put("/price", &SetPrice { ask, exit_ask }, PATIENCE).await?;
    output.print(&price, || {
        format!(
            "new circuits: {}\n\
             clients go by the relay's descriptor: on an open network a new one is published now, on one whose relays are listed have the \
             file signed again with a new one;\n\
             at its next start the relay asks what its configuration (open) or its descriptor (listed) says",
            asks_text(&[price.ask.to_string(), price.exit_ask.to_string()])
        )
    })
}

/// What a relay asks for a cell, for people.
pub(crate) fn asks_text([forward, exit]: &[String; 2]) -> String {
    let text = |ask: &String| match ask.parse() {
        Ok(wei) => format!("{} ({} per GiB)", wei_text(ask), ether_text(per_gib(Rate(wei)))),
        Err(_) => ask.clone(),
    };
    format!("{} for a cell; as an exit {}", text(forward), text(exit))
}

/// An amount as the daemons tell it.
fn wei_text(wei: &str) -> String {
    wei.parse().map_or_else(|_| wei.to_owned(), |wei| ether_text(Wei(wei)))
}

/// What `chive stop` has done.
#[derive(Debug, Serialize)]
struct Stopped {
    /// Always true.
    stopping: bool,
    /// Whether the process is gone, and its ports are free.
    stopped: bool,
}

/// `chive stop`: waits until the daemon is gone, unless that is not wanted.
pub(crate) async fn stop(wanted: &Stop, output: Format) -> anyhow::Result<()> {
    let daemon = ControlClient::new(&wanted.at)?;
    let process = daemon.process().await;
    let Stopping { drain_s, .. } = daemon.post("/stop", &(), PATIENCE).await?;
    if wanted.no_wait {
        return output.print(&Stopped { stopping: true, stopped: false }, || {
            format!(
                "stopping; it keeps its ports until nothing has passed for 2 s, at most {}",
                time_text(drain_s)
            )
        });
    }
    if drain_s > 0 && output == Format::Text {
        writeln!(
            std::io::stderr(),
            "stopping as soon as nothing has passed for 2 s, at most after {}; another chive stop ends it at once",
            time_text(drain_s)
        )?;
    }
    let ended = async {
        while !daemon.has_ended(process).await {
            tokio::time::sleep(LOOK).await;
        }
    };
    let patience = Duration::from_secs(drain_s) + ENDING;
    tokio::time::timeout(patience, ended).await.map_err(|_| {
        let process = process.map_or_else(String::new, |process| format!(" (process {process})"));
        let text = format!(
            "it has not ended within {} s{process}; another chive stop ends it at once",
            patience.as_secs()
        );
        Failure::new(Kind::TimedOut, text)
    })?;
    output.print(&Stopped { stopping: true, stopped: true }, || "stopped".to_owned())
}

/// The relays of a path, by country.
pub(crate) fn path_text(path: &[Hop]) -> String {
    let names: Vec<_> = path.iter().map(|hop| hop.country.as_deref().unwrap_or("??")).collect();
    names.join(" -> ")
}

/// Bytes as people read them.
pub(crate) fn bytes_text(bytes: u64) -> String {
    let mut number = float(bytes);
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if number < 1024.0 {
            let decimals = usize::from(unit != "B");
            return format!("{number:.decimals$} {unit}");
        }
        number /= 1024.0;
    }
    format!("{number:.1} TiB")
}

/// A count as a floating-point number, for rates.
#[expect(clippy::cast_precision_loss, reason = "numbers for people need no more than 52 bits")]
pub(crate) const fn float(number: u64) -> f64 {
    number as f64
}

/// A time in the two units that matter.
pub(crate) fn time_text(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

pub(crate) fn ms_text(ms: Option<f64>) -> String {
    ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"))
}

fn counts_text(counts: &BTreeMap<String, u64>) -> String {
    let met: Vec<_> = counts.iter().filter(|(_, n)| **n > 0).map(|(name, n)| format!("{name} {n}")).collect();
    if met.is_empty() { "none".to_owned() } else { met.join(", ") }
}

/// Lines of names and values, the values below each other.
pub(crate) fn lines(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<_> = pairs.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    lines.join("\n")
}

fn client_lines(s: &client::status::Status) -> Vec<(&'static str, String)> {
    let circuits = &s.circuits;
    let mut pairs = vec![
        ("client", s.state.clone()),
        ("up for", time_text(s.uptime_s)),
        ("SOCKS5", s.socks.to_string()),
        ("relays in a path", s.hops.to_string()),
        (
            "circuits",
            format!("{} ready, {} building, {} failed", circuits.ready, circuits.building, circuits.failed),
        ),
        ("open streams", s.streams.to_string()),
        ("traffic", format!("{} up, {} down", bytes_text(s.bytes_up), bytes_text(s.bytes_down))),
        ("round trip to entry", ms_text(s.link_rtt_ms)),
        ("last error", s.last_error.clone().unwrap_or_else(|| "none".to_owned())),
    ];
    if let Some(money) = &s.money {
        pairs.push(("balance", wei_text(&money.balance)));
        pairs.push(("reserve", wei_text(&money.reserve)));
        pairs.push(("paid in draws", format!("{} in {} draws", wei_text(&money.paid), money.draws)));
        pairs.push(("price of a GiB", wei_text(&money.per_gib)));
        pairs.push(("trouble with money", money.trouble.clone().unwrap_or_else(|| "none".to_owned())));
    }
    pairs
}

/// Whether others come in.
fn inbound_text(s: &open::Status) -> String {
    if s.inbound == 0 {
        return "no connection of others so far".to_owned();
    }
    let ago = time_text(outside::unix().saturating_sub(s.last_inbound));
    format!("{} connections of others, the last {ago} ago", s.inbound)
}

fn known_text(s: &open::Status) -> String {
    let waits = if s.waits { ": too few to choose entries among, more are asked for" } else { "" };
    format!("{}, {} usable, {} missing{waits}", s.known, s.usable, s.missing)
}

fn directory_lines(s: &open::Status) -> Vec<(&'static str, String)> {
    let confirmed = if s.confirmed == 0 { "not in this run" } else { "by the chain" };
    vec![
        ("registered relays", format!("{} at block {}, confirmed {confirmed}", s.registered, s.block)),
        ("known relays", known_text(s)),
        ("digest of what is known", s.digest.clone()),
        ("peers", format!("{}, {} left for what they sent or hid", s.peers, s.left)),
        ("trouble with the network", s.trouble.clone().unwrap_or_else(|| "none".to_owned())),
    ]
}

/// Whether others come in over UDP.
fn reached_text(s: &router::status::Status) -> String {
    if s.reached == 0 {
        return "no link of others so far".to_owned();
    }
    let ago = time_text(outside::unix().saturating_sub(s.last_reached));
    format!("{} links of others, the last {ago} ago", s.reached)
}

/// Where others see a relay; the rest of many is left out.
fn seen_text(seen: &[router::status::Seen]) -> String {
    let places = |n| if n == 1 { "one place".to_owned() } else { format!("{n} places") };
    let mut text: Vec<_> =
        seen.iter().take(3).map(|seen| format!("{} from {}", seen.address, places(seen.places))).collect();
    if seen.len() > text.len() {
        text.push("others".to_owned());
    }
    if text.is_empty() { "nobody has said it".to_owned() } else { text.join(", ") }
}

fn relay_lines(s: &router::status::Status) -> Vec<(&'static str, String)> {
    let mut pairs = vec![
        ("relay", s.id.clone()),
        ("up for", time_text(s.uptime_s)),
        ("links", format!("{} up, on {}", s.links, s.listen)),
        ("reached", reached_text(s)),
        ("seen at", seen_text(&s.seen)),
        ("circuits", format!("{} open, {} half-open", s.circuits.open, s.circuits.half_open)),
        (
            "cells",
            format!("{} forward, {} backward, {} here", s.cells.forward, s.cells.backward, s.cells.here),
        ),
        (
            "traffic",
            format!(
                "{} in ({} packets), {} out ({} packets)",
                bytes_text(s.traffic.bytes_in),
                s.traffic.packets_in,
                bytes_text(s.traffic.bytes_out),
                s.traffic.packets_out
            ),
        ),
        ("dropped", counts_text(&s.drops)),
        ("exit for ports", s.exit.clone().unwrap_or_else(|| "none".to_owned())),
    ];
    if let Some(flows) = &s.exit_flows {
        let text = format!(
            "{} open, {} in total, {} refused, {} failed",
            flows.open, flows.total, flows.refused, flows.failed
        );
        pairs.push(("exit connections", text));
    }
    if let Some(rate) = s.load.rate {
        pairs.push(("carries at most", format!("{} per second", bytes_text(rate))));
    }
    if let Some(month) = &s.load.monthly {
        let text = format!(
            "{} of {}, a new one in {}",
            bytes_text(month.used),
            bytes_text(month.cap),
            time_text(month.resets.saturating_sub(outside::unix()))
        );
        pairs.push(("traffic of the month", text));
    }
    if s.load.draining {
        pairs
            .push(("new circuits", "none: it is about to end, or the month's traffic is used up".to_owned()));
    }
    if let Some(money) = &s.money {
        pairs.push(("asks for a cell", asks_text(&money.asks)));
        pairs.push(("earned", format!("{} for {} cells", wei_text(&money.earned), money.cells)));
        pairs.push(("trouble with money", money.trouble.clone().unwrap_or_else(|| "none".to_owned())));
    }
    pairs
}

pub(crate) fn build_text(report: &BuildReport) -> String {
    let mut text = format!(
        "built {} of {} circuits in {:.2} s: {:.0} per second",
        report.built, report.asked, report.seconds, report.per_second
    );
    if let Some(ms) = &report.ms {
        let _ = write!(text, "; each p50 {:.1} ms, p95 {:.1} ms, at most {:.1} ms", ms.p50, ms.p95, ms.max);
    }
    if !report.failed.is_empty() {
        let _ = write!(text, "\nfailed: {}", counts_text(&report.failed));
        if report.failed.contains_key("expired") {
            text.push_str(
                "\nexpired: a relay found the time of the setup wrong; check this computer's clock",
            );
        }
    }
    text
}

/// A table with a title line, columns below each other.
pub(crate) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = titles.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let cells: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let all: Vec<_> =
        core::iter::once(line(&titles.map(str::to_owned))).chain(rows.iter().map(|row| line(row))).collect();
    all.join("\n")
}

fn client_table(circuits: &[client::status::Circuit]) -> String {
    let rows: Vec<_> = circuits
        .iter()
        .map(|c| {
            let path: Vec<_> = c
                .path
                .iter()
                .map(|hop| format!("{} {}", hop.id, hop.country.as_deref().unwrap_or("??")))
                .collect();
            [
                c.id.to_string(),
                c.state.clone(),
                c.purpose.clone(),
                path.join(" -> "),
                time_text(c.age_s),
                ms_text(c.rtt_ms),
                c.streams.to_string(),
                format!("{} / {}", c.cells_sent, c.cells_received),
            ]
        })
        .collect();
    table(["ID", "STATE", "FOR", "PATH", "AGE", "ROUND TRIP", "STREAMS", "CELLS OUT / IN"], &rows)
}

fn relay_table(circuits: &[router::status::Circuit]) -> String {
    let rows: Vec<_> = circuits
        .iter()
        .map(|c| {
            [
                c.id.to_string(),
                c.state.clone(),
                c.position.clone(),
                time_text(c.age_s),
                c.streams.to_string(),
                format!("{} / {}", c.cells_forward, c.cells_backward),
            ]
        })
        .collect();
    table(["ID", "STATE", "POSITION", "AGE", "STREAMS", "CELLS FORWARD / BACKWARD"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(bytes_text(1023), "1023 B");
        assert_eq!(bytes_text(10 * 1024 * 1024), "10.0 MiB");
        assert_eq!(bytes_text(u64::MAX), "16777216.0 TiB");
        assert_eq!(time_text(59), "59 s");
        assert_eq!(time_text(90_061), "1 d 1 h");
    }

    #[test]
    fn what_is_not_read_from_the_chain_yet_is_not_told_as_nothing() {
        let zero = || "0".to_owned();
        let mut money = router::status::Money { balance: zero(), won: zero(), ..Default::default() };
        let told = |money: &_| lines(&earnings_lines(money));
        assert!(told(&money).contains("balance                             not read from the chain yet"));
        assert!(told(&money).contains("won, all runs                       0 wei"));
        money.block = 7;
        assert!(told(&money).contains("balance                             0 wei"), "{}", told(&money));
    }

    #[test]
    fn tables_align() {
        let text =
            table(["A", "LONG"], &[["xyz".to_owned(), "1".to_owned()], ["x".to_owned(), "2".to_owned()]]);
        assert_eq!(text, "A    LONG\nxyz  1\nx    2");
    }
}
