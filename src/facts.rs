//! What a relay's configuration says of it, as its descriptors do.

use anyhow::Context as _;
use directory::chain::Chain;
use directory::payment::{Payment, Rate};
use payments::Address;
use router::herald::Facts;
use router::policy::ExitPolicy;

use crate::config::RelayConfig;

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
