//! The chain and the pot: whether there is what a relay is paid with.

use circuit::keys::RelayId;
use payments::Address;
use payments::amount::Wei;
use payments::chain::rpc::Rpc;
use payments::chain::{Account, At, Chain as _, Error, Registry};

use super::{Findings, Patient, State};
use crate::bond::{self, Standing};
use crate::money;
use crate::outside;
use crate::report::{PATIENCE, time_text};
use crate::wallet::{ether_text, keystore, password};

/// The newest block is old when it is so many seconds old, and too old for payments when it is so many.
const OLD: u64 = 60;
const TOO_OLD: u64 = 600;

/// The hosts of the chain's RPC that are names, with their ports.
pub(super) fn hosts(patient: &Patient) -> Vec<String> {
    let own = patient.wallet.as_ref().map(|wallet| wallet.rpc.clone()).unwrap_or_default();
    let file = || patient.view.as_ref().and_then(|view| view.chain()).map(|chain| chain.rpc.clone());
    let urls = if own.is_empty() { file().unwrap_or_default() } else { own };
    urls.iter().filter_map(|url| host(url)).collect()
}

/// `host:port` of a URL whose host is a name.
fn host(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.split(['/', '?', '#']).next()?;
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (rest, if scheme == "https" { "443" } else { "80" }),
    };
    let is_ip = host.starts_with('[') || host.parse::<std::net::IpAddr>().is_ok();
    (!is_ip && !host.is_empty()).then(|| format!("{host}:{port}"))
}

/// Looks at chain and pot.
pub(super) async fn look(patient: &Patient, findings: &mut Findings) {
    let Some(view) = &patient.view else { return };
    let Some(chain) = view.chain() else {
        return findings.ok("chain", "none: this network is free");
    };
    let Some(wallet) = &patient.wallet else {
        let remedy = "make one: chive wallet create --wallet wallet.json; and name it in [wallet]";
        return findings.add(
            "chain",
            State::Fail,
            "this network is paid, and the configuration names no wallet",
            remedy,
        );
    };
    if let Err(error) = money::require_rpc(chain, &wallet.rpc) {
        return findings.add("chain", State::Fail, error.to_string(), "name an RPC of the chain in [wallet]");
    }
    let Some(owner) = owner(patient, findings) else { return };
    let seen = tokio::time::timeout(3 * PATIENCE, see(chain, &wallet.rpc, owner)).await;
    let remedy = "check the URLs of `rpc`, or name others in [wallet]; wins wait on disk meanwhile";
    let (age, account, listed) = match seen {
        Ok(Ok(seen)) => seen,
        Ok(Err(error @ Error::NotFinal { .. })) => {
            let remedy = "wait, and look again in some minutes; relays and clients wait by themselves";
            return findings.add("chain", State::Warn, error.to_string(), remedy);
        }
        Ok(Err(error @ Error::NotThatFar { .. })) => {
            let remedy = "correct `deployed` in [chain] of the network file";
            return findings.add("chain", State::Fail, error.to_string(), remedy);
        }
        Ok(Err(error)) => return findings.add("chain", State::Fail, error.to_string(), remedy),
        Err(_) => return findings.add("chain", State::Fail, "the RPC does not answer", remedy),
    };
    let found = format!("the newest block is {} old", time_text(age));
    match age {
        0..OLD => findings.ok("chain", found),
        OLD..TOO_OLD => {
            findings.add("chain", State::Warn, found, "the RPC is behind, or this machine's clock is ahead");
        }
        _ => findings.add("chain", State::Fail, found, remedy),
    }
    pot(patient, owner, &account, findings);
    if let (Some(id), true) = (super::own_id(patient), patient.relay.is_some()) {
        let stands = bond::standing(&id, owner, &account, &listed);
        bonded(patient, chain.minimum_bond, &id, &account, stands, findings);
    }
}

/// Who is paid.
fn owner(patient: &Patient, findings: &mut Findings) -> Option<Address> {
    let wallet = patient.wallet.as_ref()?;
    let described = super::own_id(patient)
        .and_then(|id| patient.view.as_ref()?.payment(&id).map(|payment| payment.owner));
    if described.is_some() {
        return described;
    }
    let opened = keystore::read(&wallet.file).and_then(|locked| {
        if let Some(address) = locked.address() {
            return Ok(address);
        }
        let password = password::of(&wallet.file, wallet.password_file.as_deref(), false)?;
        Ok(locked.open(password.as_bytes())?.address())
    });
    match opened {
        Ok(address) => Some(address),
        Err(error) => {
            let text = crate::failure::text_of(&error);
            findings.add("pot", State::Fail, text, "name the right wallet in [wallet]");
            None
        }
    }
}

/// How old the newest block is, what the pot has, and who is registered.
async fn see(
    chain: &directory::chain::Chain,
    rpc: &[String],
    owner: Address,
) -> Result<(u64, Account, Registry), Error> {
    let rpc: Rpc = money::connect(chain, rpc).await?;
    let head = rpc.head(At::Latest).await?;
    if chain.deployed > head.number {
        return Err(Error::NotThatFar { deployed: chain.deployed });
    }
    let chain = &rpc as &dyn payments::chain::Chain;
    let account = chain.account(owner, At::Latest).await?;
    Ok((outside::unix().saturating_sub(head.time), account, chain.registry().await?))
}

fn pot(patient: &Patient, owner: Address, account: &Account, findings: &mut Findings) {
    let has = format!("balance {}, reserve {}", ether_text(account.balance), ether_text(account.reserve));
    match money::problem(account, account.signer.unwrap_or(owner), own_bond(patient)) {
        Some(problem) => findings.add("pot", State::Warn, format!("{owner}: {has}"), problem),
        None => findings.ok("pot", format!("{owner}: {has}")),
    }
}

/// What a relay puts up by itself.
fn own_bond(patient: &Patient) -> Option<Wei> {
    patient.wallet.as_ref().filter(|_| patient.relay.is_some())?.bond
}

/// Whether this very relay is registered by its owner, with enough in the reserve.
fn bonded(
    patient: &Patient,
    minimum: Wei,
    id: &RelayId,
    account: &Account,
    stands: Standing,
    findings: &mut Findings,
) {
    if let Some((found, remedy)) = stands.problem(id) {
        return findings.add("bond", State::Fail, found, remedy);
    }
    let runs = patient.status.is_some();
    let itself = own_bond(patient).map(|bond| {
        let (begin, bond) = (if runs { "wait" } else { "start the relay" }, ether_text(bond));
        format!(
            "{begin}: it puts up {bond} by itself once its wallet has the ether; chive wallet show --config FILE tells what is missing"
        )
    });
    // What the relay has had no chance to do is no fault.
    let state = if itself.is_some() && !runs { State::Warn } else { State::Fail };
    if account.reserve < minimum {
        let remedy = itself.unwrap_or_else(|| "chive wallet reserve AMOUNT --config FILE".to_owned());
        let found = format!("the bond is {} at least, and the reserve is less", ether_text(minimum));
        return findings.add("bond", state, found, remedy);
    }
    match stands {
        Standing::Registered => {
            findings.ok("bond", format!("this relay is registered, with at least {}", ether_text(minimum)));
        }
        Standing::Unlisted => {
            let remedy = "look again in some minutes: it counts once its block is final";
            findings.add("bond", State::Unknown, "its owner has just registered a relay", remedy);
        }
        _ => {
            let remedy = itself.unwrap_or_else(|| format!("chive wallet register {id} --config FILE"));
            findings.add("bond", state, "the relay is not registered: no client uses it", remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_urls_that_are_names_are_found() {
        for (url, found) in [
            ("https://rpc.example/key?x=1", Some("rpc.example:443")),
            ("http://user:word@rpc.example:8545/", Some("rpc.example:8545")),
            ("http://rpc.example", Some("rpc.example:80")),
            ("http://127.0.0.1:8545", None),
            ("http://[::1]:8545", None),
            ("nothing", None),
        ] {
            assert_eq!(host(url).as_deref(), found, "{url}");
        }
    }
}
