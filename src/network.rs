//! The network file: who is in the network, or where to find out.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::anyhow;
use client::path::Paths;
use client::wishes::Wishes;
use directory::atlas::Atlas;
use directory::chain::{Chain, EXIT_OPERATORS};
use directory::geoip::Table;
use directory::network_file::{NetworkFile, is_private};
use directory::view::View;
use serde::Serialize;

use crate::cli::OpenNetwork;
use crate::config::Network;
use crate::failure::{Failure, Kind};
use crate::keystore;
use crate::output::Format;
use crate::outside;

pub(crate) mod deploy;

/// What a network file says.
#[derive(Debug)]
pub(crate) struct Members {
    /// The relays and their chain; no relays yet, if the network is open.
    pub(crate) view: View,
    /// Where an open network is found first; nothing if the relays are listed.
    pub(crate) bootstrap: Option<Vec<String>>,
}

/// Reads and verifies the network file.
pub(crate) fn read(network: &Network) -> anyhow::Result<View> {
    members(network).map(|members| members.view)
}

/// Reads and verifies the network file, and says of which kind it is.
pub(crate) fn members(network: &Network) -> anyhow::Result<Members> {
    let path = network.file.display().to_string();
    let text = fs::read_to_string(&network.file).map_err(|error| {
        anyhow!(
            "cannot read the network file {path}: {error}; get it from whoever runs the network and put it there, or name the right one \
             (`network` in the configuration file, or --network); a network of your own: chive network open"
        )
    })?;
    let file = NetworkFile::parse(&text, &path, network.signer, outside::unix())?;
    let bootstrap = file.bootstrap().map(<[String]>::to_vec);
    anyhow::ensure!(
        network.signer.is_some() || bootstrap.is_some(),
        "the setting `signer` is missing, and {path} is signed; write for example: \
         signer = \"<the 64 hexadecimal digits that its maintainer tells>\""
    );
    Ok(Members { view: file.into_view(), bootstrap })
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    network: PathBuf,
    /// The network's id.
    id: String,
    client: PathBuf,
    /// What the network may lack.
    advice: Option<&'static str>,
}

const ONE_DOOR: &str = "the file has one bootstrap address: when most registered relays have stopped, or when that one is down, new clients do not \
                        start by themselves; name several in different subnets, each with --bootstrap";

const CLIENT: &str = "\
network = \"network.toml\"
socks = \"127.0.0.1:9050\"
control = \"run/control.sock\"
state = \"state\"

[wallet]
file = \"wallet.json\"
";

/// `chive network open`.
pub(crate) fn write_open(wanted: &OpenNetwork, output: Format) -> anyhow::Result<()> {
    let chain = Chain {
        id: wanted.chain_id,
        contract: wanted.contract,
        rpc: wanted.rpc.clone(),
        minimum_bond: wanted.minimum_bond,
        // What is local has one owner, as a rule, from whom a price hides nothing.
        exit_operators: wanted.exit_operators.unwrap_or(if wanted.local { 1 } else { EXIT_OPERATORS }),
        deployed: wanted.deployed,
    };
    if let Some(address) = wanted.bootstrap.iter().find(|address| !wanted.local && is_private(address)) {
        let text = format!(
            "{address} is not an address on the public internet, and nobody would ask there; name another one with --bootstrap, or say \
             --local for a network inside one site or for tests"
        );
        return Err(Failure::new(Kind::Usage, text).into());
    }
    let file = NetworkFile::open(&wanted.name, chain, wanted.bootstrap.clone(), wanted.local)
        .map_err(|misuse| Failure::new(Kind::Usage, misuse.0))?;
    keystore::new_folder(&wanted.out)?;
    let path = |name| wanted.out.join(name);
    let written = Written {
        network: path("network.toml"),
        id: file.view().network().to_string(),
        client: path("client.toml"),
        advice: (wanted.bootstrap.len() == 1 && !wanted.local).then_some(ONE_DOOR),
    };
    keystore::write_new(&written.network, &file.to_text())?;
    keystore::write_new(&written.client, CLIENT)?;
    output.print(&written, || {
        let (network, client, wallet) = (written.network.display(), written.client.display(), path("wallet.json"));
        format!(
            "wrote {network} and {client}\n\
             a relay:   chive relay setup --network {network} --out RELAY\n\
             a client:  chive wallet create --wallet {}, send it ether, deposit and reserve some, then: chive up --config {client}{}",
            wallet.display(),
            written.advice.map_or_else(String::new, |advice| format!("\nadvice:    {advice}"))
        )
    })
}

/// The table of addresses: that of these files, else the one inside the program.
pub(crate) fn atlas(files: Option<&[PathBuf; 2]>, wishes: &Wishes) -> anyhow::Result<Arc<dyn Atlas>> {
    let Some([v4, v6]) = files else {
        return if wishes.excluded_systems.is_empty() {
            Ok(Arc::new(Table::embedded()))
        } else {
            let problem = "autonomous systems are excluded, and the table inside chive has countries only: name one that has both \
                           by the setting `geoip` in [paths]";
            Err(Failure::new(Kind::Usage, problem.to_owned()).into())
        };
    };
    Ok(Arc::new(Table::read(v4, v6).map_err(|bad| Failure::new(Kind::Usage, bad.to_string()))?))
}

/// Refuses a network in which no path as it is wished exists.
pub(crate) fn require_path(view: &View, wishes: &Wishes, atlas: Arc<dyn Atlas>) -> anyhow::Result<()> {
    let now = outside::now();
    let mut paths = Paths::new(outside::random()?, view.clone(), wishes.clone()).with_atlas(atlas);
    paths
        .entry(now)
        .and_then(|entry| paths.choose(now, entry, None))
        .map_err(|problem| Failure::new(Kind::NoRoute, problem.to_string()))?;
    Ok(())
}
