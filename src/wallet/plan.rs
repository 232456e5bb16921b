//! Transactions that are shown with their fee and their effect, agreed to, and then sent one after the other.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use payments::B256;
use payments::amount::Wei;
use payments::chain::action::Action;
use payments::chain::rpc::Rpc;
use payments::chain::{Account, At, Call, Chain, Error, Limits, Receipt, View};
use payments::session::Signer;
use payments::treasury::STALE;
use serde::Serialize;

use crate::failure::{Failure, Kind};
use crate::output::Format;
use crate::outside;
use crate::wallet::{ether_text, reserve_text};

/// How long a transaction is waited for, and how often it is looked for.
const PATIENCE: Duration = Duration::from_mins(5);
const LOOK: Duration = Duration::from_millis(500);

struct Step {
    what: String,
    action: Action,
    call: Call,
}

/// What is to be done.
pub(super) struct Plan {
    rpc: Rpc,
    signer: Signer,
    before: Account,
    /// How the pot will be.
    pub(super) after: Account,
    steps: Vec<Step>,
    notes: Vec<&'static str>,
}

/// What was done; amounts in wei.
#[derive(Debug, Serialize)]
struct Done {
    address: String,
    transactions: Vec<Sent>,
    /// All fees together.
    fee: String,
    ether: String,
    balance: String,
    reserve: String,
    unlock_at: Option<u64>,
    registered: bool,
}

#[derive(Debug, Serialize)]
struct Sent {
    what: String,
    hash: String,
    block: u64,
    fee: String,
}

impl Plan {
    pub(super) const fn new(rpc: Rpc, signer: Signer, account: Account) -> Self {
        Self { rpc, signer, before: account, after: account, steps: Vec::new(), notes: Vec::new() }
    }

    /// Adds a transaction.
    pub(super) fn add(&mut self, what: impl Into<String>, action: Action, call: Call) {
        self.steps.push(Step { what: what.into(), action, call });
    }

    /// Adds something that is to be known before.
    pub(super) fn note(&mut self, note: &'static str) {
        self.notes.push(note);
    }

    fn chain(&self) -> &dyn Chain {
        &self.rpc
    }

    /// Shows everything, asks unless it is said already, and does it.
    pub(super) async fn run(self, yes: bool, output: Format) -> anyhow::Result<()> {
        require_fresh(&self.rpc).await?;
        let fees = self.rpc.fees().await?;
        // The base fee may double before the transaction is in a block.
        let price = fees.price().saturating_add(fees.base);
        let gas: u64 = self.steps.iter().map(|step| step.action.gas()).sum();
        let most = Wei(price.saturating_mul(gas.into()));
        self.check(most).await?;
        let about = fees.cost(gas);
        self.show(about, most)?;
        if !yes {
            agree()?;
        }
        let (mut sent, mut fee) = (Vec::new(), Wei::ZERO);
        let all = async {
            for step in &self.steps {
                let (done, paid) = self.send(step, price).await?;
                fee = fee.saturating_add(paid);
                sent.push(done);
            }
            let account = self.chain().account(self.signer.address(), At::Latest).await?;
            anyhow::Ok((account, self.rpc.purse(self.signer.address()).await?.wei))
        };
        let (account, ether) = match all.await {
            Err(error) if !sent.is_empty() => return Err(error.context(finished(&sent))),
            all => all?,
        };
        let done = Done {
            address: self.signer.address().to_string(),
            transactions: sent,
            fee: fee.to_string(),
            ether: ether.to_string(),
            balance: account.balance.to_string(),
            reserve: account.reserve.to_string(),
            unlock_at: account.unlock_at,
            registered: account.registered,
        };
        output.print(&done, || {
            format!(
                "done; the fee was {} ({fee} wei)\nbalance {}, reserve {}, ether {}",
                ether_text(fee),
                ether_text(account.balance),
                reserve_text(&account),
                ether_text(ether)
            )
        })
    }

    /// Sends a transaction and waits for it; what it cost.
    async fn send(&self, step: &Step, price: u128) -> anyhow::Result<(Sent, Wei)> {
        let limits = Limits { gas: step.action.gas(), price };
        let signed = self.chain().prepare(&self.signer, step.call.clone(), limits, None).await;
        let signed = signed.map_err(known)?;
        // Before it goes out: it may arrive even if nothing comes back.
        writeln!(std::io::stderr(), "sending the transaction {} ({})", signed.hash, step.what)?;
        self.rpc.broadcast(signed.raw).await.map_err(|error| {
            let lost = error.passes().then(|| unclear(signed.hash, &step.what, "may have been sent"));
            lost.map_or_else(|| known(error.clone()), |lost| anyhow::Error::from(error.clone()).context(lost))
        })?;
        let receipt = self.wait(signed.hash, &step.what).await?;
        let (what, hash, fee) = (step.what.clone(), signed.hash.to_string(), receipt.fee());
        Ok((Sent { what, hash, block: receipt.block, fee: fee.to_string() }, fee))
    }

    /// Refuses what cannot be paid for, or would fail.
    async fn check(&self, fees: Wei) -> anyhow::Result<()> {
        let address = self.signer.address();
        let value = self.steps.iter().fold(Wei::ZERO, |sum, step| sum.saturating_add(step.call.value));
        let (has, needs) = (self.rpc.purse(address).await?.wei, value.saturating_add(fees));
        if has < needs {
            return Err(known(Error::NoGasMoney { address, has, needs }));
        }
        for step in &self.steps {
            let view = View { from: address, value: step.call.value, data: step.call.data.clone() };
            self.rpc.view(At::Latest, view).await?;
        }
        Ok(())
    }

    /// Says what will be done, what it costs and what comes of it; on standard error, for results go to standard output.
    fn show(&self, about: Wei, most: Wei) -> std::io::Result<()> {
        let mut out = std::io::stderr().lock();
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(out, "{number}. {}", step.what)?;
        }
        drop(out);
        show_fee(self.rpc.domain().chain_id, about, most)?;
        let mut out = std::io::stderr().lock();
        let (before, after) = (&self.before, &self.after);
        if before.balance != after.balance {
            writeln!(out, "balance: {} -> {}", ether_text(before.balance), ether_text(after.balance))?;
        }
        if (before.reserve, before.unlock_at) != (after.reserve, after.unlock_at) {
            writeln!(out, "reserve: {} -> {}", reserve_text(before), reserve_text(after))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))
    }

    async fn wait(&self, hash: B256, what: &str) -> anyhow::Result<Receipt> {
        let receipt = receipt(&self.rpc, hash).await?.ok_or_else(|| {
            Failure::new(Kind::TimedOut, unclear(hash, what, "is sent and in no block yet"))
        })?;
        if !receipt.success {
            bail!(
                "the transaction {hash} ({what}) failed in its block: something has changed meanwhile; look with chive wallet show"
            );
        }
        Ok(receipt)
    }
}

/// Refuses to send to a chain that is behind: what it says may be old, and the transaction may never be in a block.
pub(crate) async fn require_fresh(rpc: &Rpc) -> anyhow::Result<()> {
    let head = rpc.head(At::Latest).await?;
    let stale = head.fresh(outside::unix(), STALE);
    stale.context(
        "nothing was sent; name another RPC with --rpc, check this computer's clock, or try again later",
    )
}

/// Says what it costs, on standard error.
pub(crate) fn show_fee(chain: u64, about: Wei, most: Wei) -> std::io::Result<()> {
    writeln!(
        std::io::stderr(),
        "fee on chain {chain}: about {}, at most {} ({most} wei)",
        ether_text(about),
        ether_text(most)
    )
}

/// What became of a transaction that was sent; `None` if it is in no block in time.
pub(crate) async fn receipt(rpc: &Rpc, hash: B256) -> anyhow::Result<Option<Receipt>> {
    let look = async {
        loop {
            match rpc.receipt(hash).await {
                Ok(Some(receipt)) => return Ok(receipt),
                Err(error) if !error.passes() => return Err(error),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    };
    Ok(tokio::time::timeout(PATIENCE, look).await.ok().transpose()?)
}

fn unclear(hash: B256, what: &str, state: &str) -> String {
    format!(
        "the transaction {hash} ({what}) {state}; do not repeat it before `chive wallet show` tells whether it has come"
    )
}

/// What is done already when something later fails.
fn finished(sent: &[Sent]) -> String {
    let steps = sent.iter().map(|Sent { what, hash, block, fee }| {
        format!("{what} (transaction {hash} in block {block}, fee {fee} wei)")
    });
    format!("not all was done; do not repeat what was: {}", steps.collect::<Vec<_>>().join("; "))
}

/// The exit code of an empty account is its own.
pub(crate) fn known(error: Error) -> anyhow::Error {
    match error {
        Error::NoGasMoney { .. } => Failure::new(Kind::NoFunds, error.to_string()).into(),
        _ => error.into(),
    }
}

/// Asks whoever sits at the terminal.
pub(crate) fn agree() -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let text =
            "nothing was sent: there is no terminal to ask for consent; add --yes if this is what you want";
        return Err(Failure::new(Kind::Usage, text).into());
    }
    write!(std::io::stderr(), "Do it? [y/N] ")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was sent");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::text_of;

    #[test]
    fn what_was_done_is_named_when_something_later_fails_and_the_exit_code_stays() {
        let sent = |what: &str, hash: &str| Sent {
            what: what.to_owned(),
            hash: hash.to_owned(),
            block: 7,
            fee: "21".to_owned(),
        };
        let done = [sent("name the signer", "0xaa"), sent("deposit 1 ether", "0xbb")];
        let late = anyhow::Error::from(Failure::new(Kind::TimedOut, "it has not come"));
        let error = late.context(finished(&done));
        let text = text_of(&error);
        for part in [
            "name the signer (transaction 0xaa",
            "deposit 1 ether (transaction 0xbb",
            "fee 21 wei",
            "it has not come",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(Kind::of(&error), Kind::TimedOut);
    }
}
