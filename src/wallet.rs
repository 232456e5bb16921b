//! `chive wallet`: makes keystores, and moves money between a key's ether and its pot at the contract.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use data_encoding::HEXLOWER_PERMISSIVE;
use payments::abi::{OnionPay, uint96};
use payments::amount::Wei;
pub(crate) use payments::amount::ether_text;
use payments::chain::action::Action;
use payments::chain::rpc::Rpc;
use payments::chain::{Account, At, Call, Chain, Error};
use payments::session::Signer;
use payments::treasury::{REDEMPTION_GAS, STALE};
use payments::{Address, B256};
use rand_core::Rng as _;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::bond;
use crate::cli::{NewWallet, Spend, Wallet as Command, WalletAt};
use crate::config::{self, Network};
use crate::failure::{Failure, Kind};
use crate::money;
use crate::network;
use crate::output::Format;
use crate::outside;
use crate::report::{lines, time_text};

pub(crate) mod keystore;
pub(crate) mod password;
pub(crate) mod plan;

use plan::Plan;

/// How long a reserve is locked after its unlocking has begun.
const UNLOCK_DELAY: u64 = 7 * 86_400;

/// Where a wallet and its chain are.
struct Place {
    file: PathBuf,
    password_file: Option<PathBuf>,
    network: Option<Network>,
    rpc: Vec<String>,
    /// What a relay puts up by itself.
    bond: Option<Wei>,
}

impl Place {
    fn new(at: &WalletAt) -> anyhow::Result<Self> {
        let (mut network, mut named) = (None, None);
        if let Some(file) = &at.config {
            let (found, wallet) = config::wallet_of(file)?;
            (network, named) = (Some(found), wallet);
        }
        if let (Some(file), Some(signer)) = (&at.network, &at.signer) {
            let signer = config::relay_id(signer)
                .ok_or_else(|| Failure::new(Kind::Usage, "--signer must be 64 hexadecimal digits"))?;
            network = Some(Network { file: file.clone(), signer: Some(signer) });
        }
        let file = at.wallet.clone().or_else(|| named.as_ref().map(|wallet| wallet.file.clone()));
        let file = file.ok_or_else(|| {
            Failure::new(
                Kind::Usage,
                "the configuration file names no wallet; add [wallet] file = \"wallet.json\", or name it with --wallet",
            )
        })?;
        let (password_file, rpc, bond) =
            named.map(|wallet| (wallet.password_file, wallet.rpc, wallet.bond)).unwrap_or_default();
        Ok(Self {
            file,
            password_file: at.password_file.clone().or(password_file),
            network,
            rpc: if at.rpc.is_empty() { rpc } else { at.rpc.clone() },
            bond,
        })
    }

    fn unlock(&self) -> anyhow::Result<Signer> {
        let locked = keystore::read(&self.file)?;
        locked.open(password::of(&self.file, self.password_file.as_deref(), false)?.as_bytes())
    }

    /// The chain of the network, and the least bond there; `None` if no network is named.
    async fn chain(&self) -> anyhow::Result<Option<(Rpc, Wei)>> {
        let Some(network) = &self.network else { return Ok(None) };
        let view = network::read(network)?;
        let chain =
            view.chain().context("this network is free: it has no chain, and wallets are of no use")?;
        money::require_rpc(chain, &self.rpc)?;
        Ok(Some((money::connect(chain, &self.rpc).await?, chain.minimum_bond)))
    }
}

/// A wallet that was made.
#[derive(Debug, Serialize)]
struct Made<'a> {
    address: String,
    wallet: &'a Path,
}

/// What a wallet has; amounts in wei.
#[derive(Debug, Serialize)]
struct Shown {
    address: String,
    wallet: PathBuf,
    #[serde(flatten)]
    chain: Option<OnChain>,
}

#[derive(Debug, Serialize)]
struct OnChain {
    /// Outside the contract.
    ether: String,
    balance: String,
    reserve: String,
    unlock_at: Option<u64>,
    signer: Option<String>,
    only_payee: Option<String>,
    registered: bool,
    defaults: u16,
    /// What redeeming a win costs now.
    redemption: String,
    /// What is to be sent to the address before the relay can put up its bond by itself, fees included.
    #[serde(skip_serializing_if = "Option::is_none")]
    lacks: Option<String>,
    /// Of which block this is, and how old that is, in seconds.
    block: u64,
    block_age: u64,
    /// Why the pot cannot pay, and what to do.
    problem: Option<&'static str>,
}

/// `chive wallet`.
pub(crate) async fn run(command: &Command, output: Format) -> anyhow::Result<()> {
    match command {
        Command::Create(new) => {
            let mut secret = Zeroizing::new([0; 32]);
            outside::random()?.fill_bytes(&mut *secret);
            make(new, &secret, output)
        }
        Command::Import { new, key_file } => make(new, &read_key(key_file.as_deref())?, output),
        Command::Show(at) => show(at, output).await,
        Command::Deposit { amount, spend } => deposit(*amount, spend, output).await,
        Command::Reserve { amount, from_balance, spend } => {
            reserve(*amount, *from_balance, spend, output).await
        }
        Command::Unlock { cancel, spend } => unlock(*cancel, spend, output).await,
        Command::Withdraw { amount, reserve, to, spend } => {
            withdraw(*amount, *reserve, *to, spend, output).await
        }
        Command::Register { id, spend } => register(id, spend, output).await,
    }
}

fn make(new: &NewWallet, secret: &Zeroizing<[u8; 32]>, output: Format) -> anyhow::Result<()> {
    keystore::require_free(&new.wallet)?;
    let password = password::of(&new.wallet, new.password_file.as_deref(), true)?;
    let strength = if new.light { keystore::Strength::Light } else { keystore::Strength::Usual };
    let signer = keystore::create(&new.wallet, secret, password.as_bytes(), strength)?;
    let made = Made { address: signer.address().to_string(), wallet: &new.wallet };
    output.print(&made, || {
        let (address, file) = (&made.address, new.wallet.display());
        // As a configuration file anywhere can name it.
        let whole = std::fs::canonicalize(&new.wallet).unwrap_or_else(|_| new.wallet.clone());
        let whole = whole.display();
        format!(
            "wrote {file} for {address}\n\
             keep a copy of the file and its password: nobody can restore them\n\
             now:\n\
             1. name it in the configuration file of the client or relay: [wallet] file = \"{whole}\"\n\
             2. send ether to {address}\n\
             3. chive wallet deposit 0.01ether --config FILE\n\
             4. chive wallet reserve 0.01ether --config FILE, and chive wallet show --config FILE to look"
        )
    })
}

/// Reads 64 hexadecimal digits, with or without `0x`.
pub(crate) fn read_key(file: Option<&Path>) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut text = Zeroizing::new(String::with_capacity(256));
    // Longer than a key is no key.
    let read = match file {
        Some(file) => std::fs::File::open(file).and_then(|file| file.take(200).read_to_string(&mut text)),
        None => std::io::stdin().take(200).read_to_string(&mut text),
    };
    read.map_err(|error| {
        let name = file.map_or_else(|| "standard input".to_owned(), |file| file.display().to_string());
        anyhow!("cannot read the key ({name}: {error}); name its file with --key-file, or give it on standard input")
    })?;
    let digits = text.trim();
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map(Zeroizing::new).ok();
    let key = bytes.and_then(|bytes| bytes.as_slice().try_into().ok()).map(Zeroizing::new);
    key.with_context(|| {
        let name = file.map_or_else(|| "standard input".to_owned(), |file| file.display().to_string());
        format!(
            "{name} has no key: 64 hexadecimal digits are wanted, as other wallets export a private key; for a new key: chive wallet create"
        )
    })
}

async fn show(at: &WalletAt, output: Format) -> anyhow::Result<()> {
    let place = Place::new(at)?;
    let named = keystore::read(&place.file)?.address();
    let address = named.map_or_else(|| place.unlock().map(|signer| signer.address()), Ok)?;
    let mut shown = Shown { address: address.to_string(), wallet: place.file.clone(), chain: None };
    if let Some((rpc, minimum)) = place.chain().await? {
        let account = (&rpc as &dyn Chain).account(address, At::Latest).await?;
        let (purse, fees) = (rpc.purse(address).await?, rpc.fees().await?);
        let head = rpc.head(At::Latest).await?;
        let stale = head.fresh(outside::unix(), STALE).err();
        let lacks = place.bond.and_then(|bond| bond::lacks(&account, purse, fees, bond, minimum));
        shown.chain = Some(OnChain {
            ether: purse.wei.to_string(),
            balance: account.balance.to_string(),
            reserve: account.reserve.to_string(),
            unlock_at: account.unlock_at,
            signer: account.signer.map(|signer| signer.to_string()),
            only_payee: account.only_payee.map(|payee| payee.to_string()),
            registered: account.registered,
            defaults: account.defaults,
            redemption: fees.cost(REDEMPTION_GAS).to_string(),
            lacks: lacks.map(|wei| wei.to_string()),
            block: head.number,
            block_age: outside::unix().saturating_sub(head.time),
            problem: money::problem(&account, address, place.bond),
        });
        let mut pairs = vec![
            ("address", shown.address.clone()),
            ("ether", ether_text(purse.wei)),
            ("balance", ether_text(account.balance)),
            ("reserve", reserve_text(&account)),
            ("signer", account.signer.map_or_else(|| "nobody".to_owned(), |signer| signer.to_string())),
            ("registered", if account.registered { "as a relay" } else { "no" }.to_owned()),
            ("redeeming a win costs", ether_text(fees.cost(REDEMPTION_GAS))),
        ];
        if let Some(wei) = lacks {
            let text = format!("send {} or more to the address; the relay does the rest", ether_text(wei));
            pairs.push(("bond", text));
        }
        if let Some(payee) = account.only_payee {
            pairs.push(("pays only", payee.to_string()));
        }
        if let Some(stale) = stale {
            pairs.push(("this is old", stale.to_string()));
        }
        if let Some(problem) = money::problem(&account, address, place.bond) {
            pairs.push(("it cannot pay", problem.to_owned()));
        }
        return output.print(&shown, || lines(&pairs));
    }
    output.print(&shown, || {
        format!(
            "{}\nwhat it has on a chain: add --config FILE, or --network FILE and --signer ID",
            shown.address
        )
    })
}

/// A reserve, and when it may leave.
fn reserve_text(account: &Account) -> String {
    let reserve = ether_text(account.reserve);
    match account.unlock_at.map(|at| at.saturating_sub(outside::unix())) {
        None => reserve,
        Some(0) => format!("{reserve}, can be withdrawn"),
        Some(left) => format!("{reserve}, can be withdrawn in {}", time_text(left)),
    }
}

/// A wallet that is open, its chain, and what it has.
struct Ready {
    signer: Signer,
    rpc: Rpc,
    account: Account,
}

impl Ready {
    async fn new(at: &WalletAt) -> anyhow::Result<Self> {
        let place = Place::new(at)?;
        let Some((rpc, _)) = place.chain().await? else {
            let text = "the chain is not known: add --config FILE, or --network FILE and --signer ID";
            return Err(Failure::new(Kind::Usage, text).into());
        };
        let signer = place.unlock()?;
        let account = (&rpc as &dyn Chain).account(signer.address(), At::Latest).await?;
        Ok(Self { signer, rpc, account })
    }

    fn plan(self) -> Plan {
        Plan::new(self.rpc, self.signer, self.account)
    }

    /// A plan that begins with naming the wallet's own key as the signer, if there is none; later, with a reserve, that is impossible.
    fn plan_with_signer(self) -> Plan {
        let (address, domain) = (self.signer.address(), self.rpc.domain());
        let unset = self.account.signer.is_none() && self.account.reserve == Wei::ZERO;
        let mut plan = self.plan();
        if unset {
            let call = Call::new(&domain, &OnionPay::setSignerCall { signer: address }, Wei::ZERO);
            plan.add("name the wallet's own key as the pot's signer", Action::SetKeys, call);
        }
        plan
    }
}

fn short(problem: impl Into<String>) -> anyhow::Error {
    Failure::new(Kind::NoFunds, problem).into()
}

async fn deposit(amount: Wei, spend: &Spend, output: Format) -> anyhow::Result<()> {
    let ready = Ready::new(&spend.at).await?;
    let (owner, domain) = (ready.signer.address(), ready.rpc.domain());
    let mut plan = ready.plan_with_signer();
    plan.after.balance = plan.after.balance.saturating_add(amount);
    let call = Call::new(&domain, &OnionPay::depositCall { owner }, amount);
    plan.add(format!("deposit {}", ether_text(amount)), Action::Deposit, call);
    plan.run(spend.yes, output).await
}

async fn reserve(amount: Wei, from_balance: bool, spend: &Spend, output: Format) -> anyhow::Result<()> {
    let ready = Ready::new(&spend.at).await?;
    let domain = ready.rpc.domain();
    let mut plan = ready.plan_with_signer();
    let text = ether_text(amount);
    plan.after.reserve = plan.after.reserve.saturating_add(amount);
    if from_balance {
        let left = plan.after.balance.checked_sub(amount);
        plan.after.balance = left.ok_or_else(|| {
            short(format!(
                "the balance is {} only: deposit first, or move less",
                ether_text(plan.after.balance)
            ))
        })?;
        let amount = uint96(amount).context("this is more than there is")?;
        let call = Call::new(&domain, &OnionPay::moveToReserveCall { amount }, Wei::ZERO);
        plan.add(format!("move {text} from the balance to the reserve"), Action::AddReserve, call);
    } else {
        let call = Call::new(&domain, &OnionPay::addReserveCall {}, amount);
        plan.add(format!("add {text} to the reserve"), Action::AddReserve, call);
    }
    plan.note("the reserve can leave only 7 days after `chive wallet unlock`");
    plan.run(spend.yes, output).await
}

async fn unlock(cancel: bool, spend: &Spend, output: Format) -> anyhow::Result<()> {
    let ready = Ready::new(&spend.at).await?;
    let domain = ready.rpc.domain();
    let mut plan = ready.plan();
    if cancel {
        plan.after.unlock_at = None;
        let call = Call::new(&domain, &OnionPay::cancelUnlockCall {}, Wei::ZERO);
        plan.add("lock the reserve again", Action::CancelUnlock, call);
    } else {
        ensure!(plan.after.reserve > Wei::ZERO, "there is no reserve to unlock");
        plan.after.unlock_at = Some(outside::unix().saturating_add(UNLOCK_DELAY));
        if plan.after.registered {
            plan.note("the relay's registration ends, and a new one is possible after 7 days only");
        }
        plan.after.registered = false;
        plan.note("nobody takes payments from the pot until the reserve is locked again");
        let call = Call::new(&domain, &OnionPay::startUnlockCall {}, Wei::ZERO);
        plan.add("begin to unlock the reserve", Action::StartUnlock, call);
    }
    plan.run(spend.yes, output).await
}

async fn withdraw(
    amount: Option<Wei>,
    reserve: bool,
    to: Option<Address>,
    spend: &Spend,
    output: Format,
) -> anyhow::Result<()> {
    let ready = Ready::new(&spend.at).await?;
    let (domain, to) = (ready.rpc.domain(), to.unwrap_or_else(|| ready.signer.address()));
    let mut plan = ready.plan();
    if reserve {
        let text = format!("send the reserve of {} to {to}", ether_text(plan.after.reserve));
        plan.after.reserve = Wei::ZERO;
        plan.after.unlock_at = None;
        let call = Call::new(&domain, &OnionPay::withdrawReserveCall { to }, Wei::ZERO);
        plan.add(text, Action::WithdrawReserve, call);
    } else {
        let balance = plan.after.balance;
        let wei = amount.unwrap_or(balance);
        let left = balance.checked_sub(wei).filter(|_| wei > Wei::ZERO);
        plan.after.balance =
            left.ok_or_else(|| short(format!("the balance is {} only", ether_text(balance))))?;
        let amount = uint96(wei).context("this is more than there is")?;
        let call = Call::new(&domain, &OnionPay::withdrawCall { to, amount }, Wei::ZERO);
        plan.add(format!("send {} of the balance to {to}", ether_text(wei)), Action::Withdraw, call);
    }
    plan.run(spend.yes, output).await
}

async fn register(id: &str, spend: &Spend, output: Format) -> anyhow::Result<()> {
    let key = config::relay_id(id)
        .ok_or_else(|| Failure::new(Kind::Usage, "a relay's id is 64 hexadecimal digits"))?;
    let ready = Ready::new(&spend.at).await?;
    let (domain, rpc): (_, &dyn Chain) = (ready.rpc.domain(), &ready.rpc);
    let bond: Result<_, Error> = rpc.ask(At::Latest, &OnionPay::MIN_BONDCall {}).await;
    let bond = Wei::from(bond?);
    if ready.account.reserve < bond {
        let has = ether_text(ready.account.reserve);
        let text = format!(
            "a relay's bond is {} at least, and the reserve is {has}: chive wallet reserve AMOUNT",
            ether_text(bond)
        );
        return Err(short(text));
    }
    let mut plan = ready.plan();
    plan.after.registered = true;
    let call = Call::new(&domain, &OnionPay::registerCall { idKey: B256::from(key.0) }, Wei::ZERO);
    plan.add(format!("register the relay {key}"), Action::Register, call);
    plan.run(spend.yes, output).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_64_digits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let key = "0f".repeat(32);
        for text in [key.clone(), format!("0x{key}\n"), format!(" {} ", key.to_uppercase())] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(*read_key(Some(&path)).unwrap(), [15; 32]);
        }
        for text in ["", "0x", "0f", &"0f".repeat(33), &"0f".repeat(200)] {
            std::fs::write(&path, text).unwrap();
            let said = read_key(Some(&path)).unwrap_err().to_string();
            assert!(said.contains("64 hexadecimal digits") && said.contains("chive wallet create"), "{said}");
        }
    }
}
