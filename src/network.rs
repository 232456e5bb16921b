//! The network file: who is in the network, signed by someone whom the configuration names.

use std::fs;

use anyhow::Context as _;
use circuit::node::Now;
use client::path::Paths;
use directory::network_file::NetworkFile;
use directory::view::View;

use crate::config::Network;
use crate::failure::{Failure, Kind};
use crate::outside;

/// Reads and verifies the network file.
pub(crate) fn read(network: &Network) -> anyhow::Result<View> {
    let path = network.file.display().to_string();
    let text =
        fs::read_to_string(&network.file).with_context(|| format!("cannot read the network file {path}"))?;
    Ok(NetworkFile::parse(&text, &path, Some(network.signer), outside::unix())?.into_view())
}

/// Refuses a network in which no path of so many relays exists.
pub(crate) fn require_path(view: &View, hops: usize) -> anyhow::Result<()> {
    let now = Now { instant: tokio::time::Instant::now().into_std(), unix_ms: outside::unix() * 1000 };
    let mut paths = Paths::new(outside::random()?);
    paths
        .entry(view, now, hops)
        .and_then(|entry| paths.choose(view, now, entry, hops, None))
        .map_err(|problem| Failure::new(Kind::NoRoute, problem.to_string()))?;
    Ok(())
}
