//! The money of a daemon: its wallet opened, its chain found, and what both need on disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{bail, ensure};
use circuit::relay::Asks;
use directory::chain::Chain as NetworkChain;
use directory::payment::Payment;
use directory::view::View;
use payments::Address;
use payments::amount::Wei;
use payments::chain::rpc::{Config, Rpc};
use payments::chain::{Account, At, Chain, Error};
use payments::offer::Face;
use payments::session::Signer;
use payments::treasury::Nature;
use rand_core::Rng as _;

use crate::config::Wallet;
use crate::keystore;
use crate::outside;
use crate::wallet::{keystore as purse, password};

/// How often the chain is looked at.
const EVERY: Duration = Duration::from_secs(2);
/// After so long it is told that the chain has not answered yet.
const SOON: Duration = Duration::from_secs(1);
/// How long a daemon waits for the chain before it starts without.
const START: Duration = Duration::from_secs(12);

/// Connects to the chain of a network; `rpc` instead of what its file says, if that is not empty.
pub(crate) async fn connect(chain: &NetworkChain, rpc: &[String]) -> Result<Rpc, Error> {
    Rpc::connect(place(chain, rpc)).await
}

fn place(chain: &NetworkChain, rpc: &[String]) -> Config {
    let urls = if rpc.is_empty() { chain.rpc.clone() } else { rpc.to_vec() };
    Config::new(urls, chain.domain())
}

/// Refuses a chain that cannot be asked anywhere.
pub(crate) fn require_rpc(chain: &NetworkChain, rpc: &[String]) -> anyhow::Result<()> {
    ensure!(
        !(rpc.is_empty() && chain.rpc.is_empty()),
        "the network file names no RPC of chain {}: name one with --rpc, or with the setting `rpc` in [wallet]",
        chain.id
    );
    Ok(())
}

fn random() -> u64 {
    outside::random().map_or(0, |mut rng| rng.next_u64())
}

/// What client and relay have alike.
struct Opened {
    chain: Arc<dyn Chain>,
    owner: Address,
    signer: Signer,
}

/// A relay's money; nothing on a free network.
pub(crate) async fn of_relay(
    view: &View,
    wallet: Option<&Wallet>,
    payment: Option<Payment>,
    state: &Path,
) -> anyhow::Result<Option<router::money::Money>> {
    let Some((chain, wallet)) = require(view, wallet, "a relay earns")? else { return Ok(None) };
    let Some(payment) = payment.filter(|payment| chain.pays(payment)) else {
        bail!(
            "the network file's descriptor of this relay does not say where it is paid; have it signed again with one that does"
        );
    };
    let (owner, asks) = (payment.owner, Asks { forward: payment.ask.0, exit: payment.exit_ask.0 });
    let Opened { chain, owner, signer } = open(chain, wallet, Some(owner)).await?;
    let store = state.join("money.redb");
    Ok(Some(router::money::Money {
        chain,
        owner,
        signer,
        seed: keystore::money_seed(&state.join("money.seed"), &store)?,
        store,
        asks,
        face: Face::Costs(wallet.redemption_cost.unwrap_or_default()),
        redemption_cost: wallet.redemption_cost,
        max_value: wallet.max_draw,
        gas_price: wallet.gas_price.0,
        every: EVERY,
        nature: Nature { now: outside::unix, random },
    }))
}

/// A client's money; nothing on a free network.
pub(crate) async fn of_client(
    view: &View,
    wallet: Option<&Wallet>,
    state: &Path,
) -> anyhow::Result<Option<client::money::Money>> {
    let Some((chain, wallet)) = require(view, wallet, "a client pays")? else { return Ok(None) };
    let Opened { chain, owner, signer } = open(chain, wallet, None).await?;
    keystore::private_folder(state)?;
    let store = state.join("money.redb");
    Ok(Some(client::money::Money {
        chain,
        owner,
        signer,
        seed: keystore::money_seed(&state.join("money.seed"), &store)?,
        store,
        redemption_cost: wallet.redemption_cost,
        max_value: wallet.max_draw,
        gas_price: wallet.gas_price.0,
        every: EVERY,
        nature: Nature { now: outside::unix, random },
    }))
}

/// The chain and the wallet of a paid network, both of which must be there.
fn require<'a>(
    view: &'a View,
    wallet: Option<&'a Wallet>,
    who: &str,
) -> anyhow::Result<Option<(&'a NetworkChain, &'a Wallet)>> {
    let Some(chain) = view.chain() else { return Ok(None) };
    let Some(wallet) = wallet else {
        bail!(
            "{who} from a wallet on this network, and the configuration file names none. Make one: \
             chive wallet create --wallet wallet.json; name it in the configuration file: [wallet] file = \"wallet.json\"; \
             send its address ether; then: chive wallet deposit AMOUNT --config FILE, and \
             chive wallet reserve AMOUNT --config FILE"
        );
    };
    require_rpc(chain, &wallet.rpc)?;
    Ok(Some((chain, wallet)))
}

/// Opens the wallet, and looks at the chain; while no RPC answers it goes on with what is known (pay.pot.6).
async fn open(chain: &NetworkChain, wallet: &Wallet, owner: Option<Address>) -> anyhow::Result<Opened> {
    let locked = purse::read(&wallet.file)?;
    let signer =
        locked.open(password::of(&wallet.file, wallet.password_file.as_deref(), false)?.as_bytes())?;
    let owner = owner.unwrap_or_else(|| signer.address());
    let mut looking = core::pin::pin!(look(chain, wallet, owner));
    let mut looked = tokio::time::timeout(SOON, &mut looking).await;
    if looked.is_err() {
        tracing::info!("the chain has not answered yet; it is waited for up to {} s", START.as_secs());
        looked = tokio::time::timeout(START.saturating_sub(SOON), looking).await;
    }
    let (rpc, account) = match looked.unwrap_or_else(|_| Err(Error::Down("no answer in time".to_owned()))) {
        Ok(found) => found,
        Err(error) if error.passes() => {
            tracing::warn!("payments: {error}; until then nothing new is opened, and what is open goes on");
            return Ok(Opened { chain: Arc::new(Rpc::new(place(chain, &wallet.rpc))?), owner, signer });
        }
        Err(error) => return Err(error.into()),
    };
    if signer.address() != owner && account.signer != Some(signer.address()) {
        bail!(
            "the wallet {} is that of {}, but the pot is that of {owner} and does not take its signature; \
             name the owner's wallet in [wallet]",
            wallet.file.display(),
            signer.address()
        );
    }
    if let Some(problem) = problem(&account, signer.address(), wallet.bond) {
        tracing::warn!("payments: {problem}");
    }
    Ok(Opened { chain: Arc::new(rpc), owner, signer })
}

/// The chain, and the pot.
async fn look(chain: &NetworkChain, wallet: &Wallet, owner: Address) -> Result<(Rpc, Account), Error> {
    let rpc = connect(chain, &wallet.rpc).await?;
    let account = (&rpc as &dyn Chain).account(owner, At::Latest).await?;
    Ok((rpc, account))
}

/// Why a pot cannot pay, and what to do; a relay fills its reserve up to its `bond` by itself.
pub(crate) fn problem(account: &Account, key: Address, bond: Option<Wei>) -> Option<&'static str> {
    if account.signer != Some(key) && account.reserve > Wei::ZERO {
        return Some(
            "the pot takes the signatures of another key, which changes at a reserve of 0 only: use that key's wallet, \
             or unlock and withdraw the reserve",
        );
    }
    if account.balance == Wei::ZERO || account.signer != Some(key) {
        return Some("the pot is empty: chive wallet deposit AMOUNT");
    }
    if account.reserve == Wei::ZERO && bond.is_none() {
        return Some(
            "the pot has no reserve, without which nobody takes payments from it: chive wallet reserve AMOUNT",
        );
    }
    account.unlock_at.map(|_| "the reserve is being unlocked, and nobody takes payments meanwhile: chive wallet unlock --cancel")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pot_lacks_is_told_but_not_what_a_relay_does_by_itself() {
        let key = Address::repeat_byte(1);
        let told = |balance, reserve, signer, bond: Option<u128>| {
            let account =
                Account { balance: Wei(balance), reserve: Wei(reserve), signer, ..Account::default() };
            problem(&account, key, bond.map(Wei)).unwrap_or_default()
        };
        for bond in [None, Some(5)] {
            assert!(told(0, 0, None, bond).contains("the pot is empty"));
            assert!(told(1, 5, Some(Address::repeat_byte(2)), bond).contains("another key"));
            assert_eq!(told(1, 5, Some(key), bond), "");
        }
        assert!(told(1, 0, Some(key), None).contains("no reserve"));
        assert_eq!(told(1, 0, Some(key), Some(5)), "");
    }
}
