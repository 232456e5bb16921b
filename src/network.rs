//! The network file: who is in the network, signed by someone whom the configuration names.

use std::fs;

use anyhow::Context as _;
use circuit::node::Now;
use client::path::Paths;
use client::wishes::Wishes;
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

/// Refuses a network in which no path as it is wished exists.
pub(crate) fn require_path(view: &View, wishes: &Wishes) -> anyhow::Result<()> {
    let now = Now { instant: tokio::time::Instant::now().into_std(), unix_ms: outside::unix() * 1000 };
    let mut paths = Paths::new(outside::random()?, view.clone(), wishes.clone());
    paths
        .entry(now)
        .and_then(|entry| paths.choose(now, entry, None))
        .map_err(|problem| Failure::new(Kind::NoRoute, problem.to_string()))?;
    Ok(())
}
