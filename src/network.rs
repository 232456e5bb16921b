//! The network file: who is in the network, signed by someone whom the configuration names.

use std::fs;

use anyhow::Context as _;
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
    let file = NetworkFile::parse(&text, &path, network.signer, outside::unix())?;
    anyhow::ensure!(
        network.signer.is_some() || file.bootstrap().is_some(),
        "the setting `signer` is missing, and {path} is signed; write for example: \
         signer = \"<the 64 hexadecimal digits that its maintainer tells>\""
    );
    Ok(file.into_view())
}

/// Refuses a network in which no path of so many relays exists.
pub(crate) fn require_path(view: &View, hops: usize) -> anyhow::Result<()> {
    let now = outside::now();
    let mut paths = Paths::new(outside::random()?);
    paths
        .entry(now)
        .and_then(|entry| paths.choose(now, entry, None))
        .map_err(|problem| Failure::new(Kind::NoRoute, problem.to_string()))?;
    Ok(())
}
