//! The client's documents, made from what its node shows.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use circuit::keys::RelayId;
use circuit::setup::Status as SetupStatus;
use directory::atlas::System;
use directory::descriptor::SignedDescriptor;

use crate::node::{ClientNode, Echo};
use crate::pool::{Circuit, Purpose, TestRun};
use crate::quality::Measured;
use crate::status;

pub(super) fn built(mut run: TestRun) -> status::BuildReport {
    run.times.sort_unstable();
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    let at = |percent: usize| {
        let place = (run.times.len() * percent).div_ceil(100).max(1) - 1;
        run.times.get(place).map_or(0.0, ms)
    };
    let ended = run.ended.unwrap_or(run.started);
    let seconds = ended.saturating_duration_since(run.started).as_secs_f64();
    let built = run.times.len() as u64;
    let quantiles = status::Quantiles { p50: at(50), p95: at(95), max: at(100) };
    status::BuildReport {
        asked: run.asked as u64,
        built,
        failed: run.failed.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        seconds,
        per_second: f64::from(u32::try_from(built).unwrap_or(u32::MAX)) / seconds.max(1e-9),
        ms: (built > 0).then_some(quantiles),
    }
}

/// What went wrong, and what to do where the words alone do not tell.
fn explained(error: &str, hops: usize) -> String {
    let hint = if error.ends_with(SetupStatus::Expired.as_str()) {
        "; a relay found the time of the setup wrong: check this computer's clock"
    } else if error.ends_with(SetupStatus::Policy.as_str()) && hops == 1 {
        status::NO_SINGLE_HOP
    } else {
        ""
    };
    format!("{error}{hint}")
}

pub(super) fn status(
    node: &ClientNode,
    started: Instant,
    socks: SocketAddr,
    packets: [u64; 2],
) -> status::Status {
    let pool = node.pool();
    let ready = pool.values().filter(|circuit| circuit.opened.is_some()).count();
    let link = node.entry_link();
    let state = match (node.clock_off(), node.is_ready(), link) {
        (Some(off), false, _) => format!("clock is off by {off} s"),
        (_, true, _) => "ready".to_owned(),
        (_, false, Some(_)) => "connecting".to_owned(),
        (_, false, None) => "starting".to_owned(),
    };
    let rtt = link.and_then(|link| node.links().rtt(link));
    status::Status {
        state,
        uptime_s: driver::now().instant.saturating_duration_since(started).as_secs(),
        hops: node.hops(),
        socks,
        circuits: status::Circuits {
            ready: ready as u64,
            building: (pool.len() - ready) as u64,
            failed: node.counts().failed,
        },
        streams: node.streams() as u64,
        bytes_up: node.counts().bytes_up,
        bytes_down: node.counts().bytes_down,
        packets,
        link_rtt_ms: rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        last_error: node.counts().last_error.as_deref().map(|error| explained(error, node.hops())),
        money: None,
    }
}

pub(super) fn circuits(node: &ClientNode) -> Vec<status::Circuit> {
    let now = driver::now().instant;
    let one = |(key, circuit): (&circuit::table::CircuitKey, &Circuit)| status::Circuit {
        id: key.number(),
        state: match (circuit.opened, circuit.silent) {
            (None, _) => "building",
            (Some(_), None) if !circuit.retired => "ready",
            (Some(_), _) => "closing",
        }
        .to_owned(),
        purpose: match circuit.purpose {
            Purpose::Spare => "spare",
            Purpose::Streams(_) => "streams",
            Purpose::Questions => "questions",
            Purpose::Test(_) => "test",
        }
        .to_owned(),
        path: circuit.path.iter().filter_map(|id| hop(node, id)).collect(),
        age_s: now.saturating_duration_since(circuit.began).as_secs(),
        rtt_ms: node
            .flows()
            .stats(*key)
            .filter(|stats| stats.received > 0)
            .map(|stats| stats.rtt.as_secs_f64() * 1e3),
        streams: node.flows().on(*key) as u64,
        cells_sent: circuit.sent,
        cells_received: circuit.received,
    };
    node.pool().iter().map(one).collect()
}

/// A relay of a path; nothing if it is not known any more.
fn hop(node: &ClientNode, id: &RelayId) -> Option<status::Hop> {
    let relay = node.view().get(id)?;
    let country = node.paths().location(id).country().map(|country| country.to_string());
    let short = id.to_string().chars().take(8).collect();
    Some(status::Hop { id: short, country, address: relay.dialled()? })
}

pub(super) fn echo(node: &ClientNode, echo: &Echo) -> status::Echo {
    status::Echo {
        circuit: echo.circuit.number(),
        path: echo.path.iter().filter_map(|id| hop(node, id)).collect(),
        ms: echo.time.map(|time| time.as_secs_f64() * 1e3),
    }
}

pub(super) fn relays(node: &ClientNode) -> Vec<status::Relay> {
    let now = driver::now();
    let one = |relay: &SignedDescriptor| {
        let (paths, id) = (node.paths(), &relay.id);
        let at = paths.location(id);
        let unfit = paths.unfit(now, id);
        status::Relay {
            id: id.to_string(),
            country: at.country().map(|country| country.to_string()),
            autonomous_systems: at.systems().map(System::get).collect::<BTreeSet<_>>().into_iter().collect(),
            claimed_country: at.claim.filter(|_| at.is_contradicted()).map(|country| country.to_string()),
            operator: relay.operator.clone(),
            version: relay.version.clone(),
            bandwidth: relay.bandwidth,
            ask: relay.payment.map(|payment| payment.ask.0),
            exit_ask: relay.payment.filter(|_| relay.exit.is_some()).map(|payment| payment.exit_ask.0),
            exit: relay.exit.as_ref().map(ToString::to_string),
            guard: paths.guards().has(id),
            unusable: unfit.map(|unfit| match unfit {
                Ok(unfit) => unfit.to_string(),
                Err(wish) => format!("the wish `{wish}` rules it out"),
            }),
            measured: paths.quality().get(id).map(measured),
        }
    };
    node.view().iter().map(one).collect()
}

fn measured(measured: &Measured) -> status::Measured {
    status::Measured {
        built: measured.built,
        failed: measured.failed,
        setup_ms: measured.delay.map(|delay| delay.as_secs_f64() * 1e3),
        bytes_per_s: measured.throughput,
        loss: measured.loss,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_their_word_does_not_explain_are_explained() {
        let refused = "a circuit was not built: policy";
        assert!(explained(refused, 1).ends_with(status::NO_SINGLE_HOP));
        assert_eq!(explained(refused, 3), refused);
        assert!(explained("a circuit was not built: expired", 3).ends_with("check this computer's clock"));
    }
}
