//! What a relay's configuration says of it, as its descriptors do.

use std::net::SocketAddr;

use anyhow::Context as _;
use directory::chain::Chain;
use directory::net::is_special;
use directory::payment::{Payment, Rate};
use directory::view::View;
use payments::Address;
use router::herald::Facts;
use router::policy::ExitPolicy;

use crate::config::RelayConfig;
use crate::failure::{Failure, Kind};

/// Refuses addresses at which nobody would look for a relay of this network.
// directory.view.7
pub(crate) fn require_public(addresses: &[SocketAddr], view: &View) -> anyhow::Result<()> {
    let private = addresses.iter().find(|address| !view.is_local() && is_special(address.ip()));
    private.map_or(Ok(()), |address| {
        let problem = format!(
            "{} is not an address on the public internet, and nobody would take it from this relay: name the one by which others \
             reach it; for a network inside one site, or for tests, write `local = true` in every network.toml",
            address.ip()
        );
        Err(Failure::new(Kind::Usage, problem).into())
    })
}

/// What a relay says of itself; `paid` is the chain of its network and who is paid there.
pub(crate) fn of(config: &RelayConfig, paid: Option<(&Chain, Address)>) -> anyhow::Result<Facts> {
    let announce = config.announce.as_ref().context(
        "the configuration file has no section [announce], which says where others reach this relay; \
         `chive config example relay` shows one",
    )?;
    let exit = config.exit.as_ref().and_then(ExitPolicy::summary);
    let exit_ask = if exit.is_some() { announce.exit_ask } else { Rate::FREE };
    Ok(Facts {
        addresses: announce.addresses.clone(),
        exit,
        country: announce.country,
        operator: announce.operator.clone(),
        version: concat!("chive ", env!("CARGO_PKG_VERSION")).to_owned(),
        bandwidth: config.limits.rate.map_or(0, |rate| u32::try_from(rate / 1_000).unwrap_or(u32::MAX)),
        gossip_port: announce.gossip_port,
        payment: paid.map(|(chain, owner)| Payment {
            chain_id: chain.id,
            contract: chain.contract,
            owner,
            ask: announce.ask,
            exit_ask,
        }),
    })
}
