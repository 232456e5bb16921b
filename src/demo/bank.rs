//! The money of the demonstration: a chain in this process, and a full pot for everybody.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use circuit::keys::RelayId;
use circuit::relay::Asks;
use directory::chain::Chain as NetworkChain;
use directory::payment::Payment;
use payments::abi::OnionPay;
use payments::amount::{Rate, Wei};
use payments::chain::embedded::{Embedded, Options};
use payments::chain::{At, Call, Chain, Limits};
use payments::offer::Face;
use payments::session::{Domain, Signer};
use payments::treasury::Nature;
use payments::{Address, B256};
use rand_core::Rng as _;

use crate::outside;

/// What a cell costs at every relay, in wei: about 0.0008 and 0.0016 ether per GiB.
pub(crate) const ASKS: Asks = Asks { forward: 1_000_000_000, exit: 2_000_000_000 };
/// What every pot is given to spend, and as collateral.
pub(super) const POT: Wei = Wei(1_000_000_000_000_000_000);
/// What everybody has for gas.
const GAS_MONEY: Wei = Wei(10_000_000_000_000_000_000);
const BASE_FEE: u128 = 10_000_000;
const GAS_PRICE: u128 = 1_000_000_000;
const GAS: u64 = 300_000;
/// Draws of a face: few, so that there are wins to be seen, and more where much is sent, so that a few dozen suffice.
const LEAST_DRAWS: u64 = 8;
const MIB_PER_DRAW: u64 = 8;
/// The most that one draw may be worth: 384 cells at ten times the dearest path.
const MAX_VALUE: Wei = Wei(384 * 100_000_000_000);
const EVERY: Duration = Duration::from_millis(250);

/// The chain, and where everybody's store is.
#[derive(Clone, Debug)]
pub(crate) struct Bank {
    chain: Embedded,
    folder: PathBuf,
    /// The draws of a face.
    draws: u32,
}

/// One pot's keys.
#[derive(Clone, Debug)]
pub(crate) struct Pot {
    signer: Signer,
    seed: [u8; 32],
    store: PathBuf,
}

impl Pot {
    pub(crate) fn owner(&self) -> Address {
        self.signer.address()
    }
}

#[expect(clippy::disallowed_methods, reason = "the blocks' time")]
fn unix() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn random() -> u64 {
    outside::random().map_or(0, |mut rng| rng.next_u64())
}

impl Bank {
    /// A fresh chain with the contract on it, for so many MiB of traffic.
    pub(crate) fn open(folder: &Path, mib: u64) -> anyhow::Result<Self> {
        let options = Options { time: unix(), base_fee: BASE_FEE, ..Options::default() };
        let chain =
            Embedded::open(&folder.join("chain.redb"), options).context("the chain cannot be made")?;
        let draws = u32::try_from(LEAST_DRAWS + mib / MIB_PER_DRAW).unwrap_or(u32::MAX);
        Ok(Self { chain, folder: folder.to_owned(), draws })
    }

    fn chain(&self) -> &dyn Chain {
        &self.chain
    }

    pub(crate) fn domain(&self) -> Domain {
        self.chain.domain()
    }

    /// The chain as a network file names it.
    pub(crate) fn network(&self) -> NetworkChain {
        let Domain { chain_id, contract } = self.domain();
        NetworkChain {
            id: chain_id,
            contract,
            rpc: vec![],
            minimum_bond: POT,
            exit_operators: 1,
            deployed: 0,
        }
    }

    /// The keys of a new pot.
    pub(crate) fn pot(&self, name: &str) -> anyhow::Result<Pot> {
        let mut rng = outside::random()?;
        let mut draw = || {
            let mut bytes = [0; 32];
            rng.fill_bytes(&mut bytes);
            bytes
        };
        let signer = Signer::from_bytes(draw()).context("a key was drawn that is none")?;
        Ok(Pot { signer, seed: draw(), store: self.folder.join(format!("{name}.redb")) })
    }

    /// Where a relay is paid, and what it asks.
    pub(crate) fn payment(&self, pot: &Pot, exit: bool) -> Payment {
        let Domain { chain_id, contract } = self.domain();
        let exit_ask = Rate(if exit { ASKS.exit } else { 0 });
        Payment { chain_id, contract, owner: pot.owner(), ask: Rate(ASKS.forward), exit_ask }
    }

    /// Fills a pot, and registers its relay.
    pub(crate) async fn fill(&self, pot: &Pot, relay: Option<RelayId>) -> anyhow::Result<()> {
        let domain = self.domain();
        let owner = pot.owner();
        self.chain.give(owner, GAS_MONEY)?;
        let mut calls = vec![
            Call::new(&domain, &OnionPay::setSignerCall { signer: owner }, Wei::ZERO),
            Call::new(&domain, &OnionPay::depositCall { owner }, POT),
            Call::new(&domain, &OnionPay::addReserveCall {}, POT),
        ];
        if let Some(id) = relay {
            let call = OnionPay::registerCall { idKey: B256::from(id.0) };
            calls.push(Call::new(&domain, &call, Wei::ZERO));
        }
        for call in calls {
            let hash = self.chain().send(&pot.signer, call, Limits { gas: GAS, price: GAS_PRICE }).await?;
            let receipt = self.chain.receipt(hash).await?.context("a transaction is in no block")?;
            anyhow::ensure!(receipt.success, "the contract refused a transaction");
        }
        Ok(())
    }

    fn arc(&self) -> Arc<dyn Chain> {
        Arc::new(self.chain.clone())
    }

    pub(crate) fn relay_money(&self, pot: &Pot) -> router::money::Money {
        router::money::Money {
            chain: self.arc(),
            owner: pot.owner(),
            signer: pot.signer.clone(),
            seed: pot.seed,
            store: pot.store.clone(),
            asks: ASKS,
            face: Face::Draws(self.draws),
            redemption_cost: Some(Wei(u128::from(GAS) * GAS_PRICE)),
            max_value: MAX_VALUE,
            gas_price: GAS_PRICE,
            every: EVERY,
            nature: Nature { now: unix, random },
        }
    }

    pub(crate) fn client_money(&self, pot: &Pot) -> client::money::Money {
        client::money::Money {
            chain: self.arc(),
            owner: pot.owner(),
            signer: pot.signer.clone(),
            seed: pot.seed,
            store: pot.store.clone(),
            redemption_cost: Some(Wei(u128::from(GAS) * GAS_PRICE)),
            max_value: MAX_VALUE,
            gas_price: GAS_PRICE,
            every: EVERY,
            nature: Nature { now: unix, random },
        }
    }

    /// Makes a block every second, so that what was paid becomes final.
    pub(crate) async fn mine(&self) -> anyhow::Result<()> {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        loop {
            seconds.tick().await;
            let chain = self.chain.clone();
            // A block is written to disk, for which the traffic does not wait.
            tokio::task::spawn_blocking(move || chain.tick(unix())).await??;
        }
    }

    /// What the contract has paid to an owner for wins.
    pub(crate) async fn redeemed(&self, payee: Address) -> anyhow::Result<Wei> {
        let head = self.chain.head(At::Latest).await?;
        let events = self.chain().events(0, head.number).await?;
        let paid = events.iter().filter_map(|(_, event)| match event {
            OnionPay::OnionPayEvents::Redeemed(event) if event.payee == payee => {
                Some(Wei::from(event.payout))
            }
            _ => None,
        });
        Ok(paid.fold(Wei::ZERO, Wei::saturating_add))
    }

    /// What all of these pots hold.
    pub(crate) async fn held(&self, owners: &[Address]) -> anyhow::Result<Wei> {
        let mut sum = Wei::ZERO;
        for owner in owners {
            let account = self.chain().account(*owner, At::Latest).await?;
            sum = sum.saturating_add(account.balance).saturating_add(account.reserve);
        }
        Ok(sum)
    }
}
