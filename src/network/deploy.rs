//! `chive network deploy`: puts the payment contract on a chain.

use std::io::Write as _;
use std::time::Duration;

use anyhow::bail;
use payments::Address;
use payments::amount::Wei;
use payments::chain::action::Action;
use payments::chain::rpc::{Config, Rpc};
use payments::chain::{Chain, Error, Limits};
use payments::session::{Domain, Signer};
use serde::Serialize;

use crate::cli::Deploy;
use crate::failure::{Failure, Kind};
use crate::output::Format;
use crate::wallet::plan::{agree, known, receipt, require_fresh, show_fee};
use crate::wallet::{ether_text, keystore, password};

/// How often an RPC is asked that does not show the contract yet, and how long is waited between.
const BEHIND: u32 = 15;
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What was done; the fee in wei.
#[derive(Debug, Serialize)]
struct Done {
    chain_id: u64,
    contract: String,
    /// Its block, which `chive network open` wants to know.
    deployed: u64,
    transaction: String,
    fee: String,
    /// What is to be done now.
    next: String,
}

/// `chive network deploy`.
pub(crate) async fn run(wanted: &Deploy, output: Format) -> anyhow::Result<()> {
    let rpc = Rpc::bare(wanted.rpc.clone(), wanted.chain_id)?;
    require_fresh(&rpc).await?;
    let locked = keystore::read(&wanted.wallet)?;
    let password = password::of(&wanted.wallet, wanted.password_file.as_deref(), false)?;
    let signer = locked.open(password.as_bytes())?;
    let limits = agreed(&rpc, &signer, wanted).await?;
    let chain: &dyn Chain = &rpc;
    let (signed, contract) = chain.prepare_contract(&signer, limits).await.map_err(known)?;
    // Before it goes out: it may arrive even if nothing comes back.
    writeln!(
        std::io::stderr(),
        "sending the transaction {}, by which the contract is at {contract}",
        signed.hash
    )?;
    let lost = |state: &str| {
        format!(
            "the transaction {} {state}; do not repeat this before it is known whether there is a contract at {contract}: \
             a block explorer shows it, and so does `chive doctor` of a relay whose network file names it",
            signed.hash
        )
    };
    rpc.broadcast(signed.raw.clone()).await.map_err(|error| {
        let passes = error.passes();
        let error = known(error);
        if passes { error.context(lost("may have been sent")) } else { error }
    })?;
    let found = receipt(&rpc, signed.hash).await.map_err(|error| error.context(lost("is sent")))?;
    let Some(receipt) = found else {
        return Err(Failure::new(Kind::TimedOut, lost("is sent and in no block yet")).into());
    };
    if !receipt.success {
        bail!(
            "the transaction {} failed in its block, and there is no contract; the chain may want more than {} gas for it",
            signed.hash,
            limits.gas
        );
    }
    let fee = receipt.fee();
    let done = Done {
        chain_id: wanted.chain_id,
        contract: contract.to_string(),
        deployed: receipt.block,
        transaction: signed.hash.to_string(),
        fee: fee.to_string(),
        next: next(wanted.chain_id, contract, receipt.block),
    };
    output.print(&done, || {
        format!(
            "done; the fee was {} ({fee} wei)\nthe contract is at {contract}, in block {}; relays and clients see it when that block is \
             final\nnow: {}",
            ether_text(fee),
            receipt.block,
            done.next
        )
    })?;
    let domain = Domain { chain_id: wanted.chain_id, contract };
    let shown = format!("the contract is deployed at {contract}, and not every RPC shows it");
    confirm(&wanted.rpc, domain).await.map_err(|error| known(error).context(shown))
}

/// Every RPC must show the contract that everybody knows; some may be a few blocks behind.
async fn confirm(urls: &[String], domain: Domain) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        match Rpc::connect(Config::new(urls.to_vec(), domain)).await {
            Err(Error::NoContract { .. }) if tries < BEHIND => tokio::time::sleep(LOOK_AGAIN).await,
            outcome => return outcome.map(drop),
        }
        tries += 1;
    }
}

/// Shows what it costs, and asks unless it is agreed to already; what the transaction may cost.
async fn agreed(rpc: &Rpc, signer: &Signer, wanted: &Deploy) -> anyhow::Result<Limits> {
    let fees = rpc.fees().await?;
    // The base fee may double before the transaction is in a block.
    let limits = Limits { gas: Action::Deploy.gas(), price: fees.price().saturating_add(fees.base) };
    let most = Wei(limits.price.saturating_mul(limits.gas.into()));
    let address = signer.address();
    writeln!(
        std::io::stderr(),
        "1. deploy the contract OnionPay, from {address}; nobody can change it or take it away then"
    )?;
    show_fee(wanted.chain_id, fees.cost(limits.gas), most)?;
    let has = rpc.purse(address).await?.wei;
    if has < most {
        return Err(known(Error::NoGasMoney { address, has, needs: most }));
    }
    if !wanted.yes {
        agree()?;
    }
    Ok(limits)
}

fn next(chain_id: u64, contract: Address, block: u64) -> String {
    format!(
        "chive network open --chain-id {chain_id} --contract {contract} --deployed {block} --rpc URL --bootstrap HOST:PORT --out DIR"
    )
}
