//! The relay's money, outside: its store, its chain, and the task that connects both with the node.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use circuit::relay::Asks;
use driver::Shared;
use payments::Address;
use payments::amount::Wei;
use payments::chain::Chain;
use payments::offer::Face;
use payments::record::Record;
use payments::session::Signer;
use payments::store::thread::Writer;
use payments::till::{Till, TillLimits};
use payments::treasury::{self, Health, Job, Nature, News, Notes, OpenError, Treasury};
use payments::wallet::{Wallet, WalletLimits};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::cashier::CashierConfig;
use crate::node::RelayNode;
use crate::status;

/// Sessions that are open at once with one relay that is paid.
const MAX_OPEN: usize = 8;
/// Draws of a session.
const DRAWS: u16 = 64;
/// Payers that are remembered.
const MAX_PAYERS: usize = 16_384;

/// How a relay is paid and pays.
#[derive(Debug)]
pub struct Money {
    /// The chain.
    pub chain: Arc<dyn Chain>,
    /// The pot that is paid, and pays.
    pub owner: Address,
    /// Signs for the pot, and transactions.
    pub signer: Signer,
    /// What secrets of sessions are made from; kept as long as the store.
    pub seed: [u8; 32],
    /// The file of the store.
    pub store: PathBuf,
    /// What a cell costs.
    pub asks: Asks,
    /// What a win pays.
    pub face: Face,
    /// Our own estimate of what a redemption costs; `None` to go by what gas costs.
    pub redemption_cost: Option<Wei>,
    /// The most that one draw to another relay may be worth.
    pub max_value: Wei,
    /// The most wei per gas.
    pub gas_price: u128,
    /// How often the chain is looked at.
    pub every: Duration,
    /// Time and randomness.
    pub nature: Nature,
}

/// The outside of a relay's money, before it runs.
#[derive(Debug)]
pub(crate) struct Opened {
    money: treasury::Settings,
    notes: Notes,
    writer: Writer,
}

impl Money {
    /// Opens the store: what the node works with, and what works for it.
    pub(crate) fn open(self, fresh: [u8; 32]) -> Result<(Asks, CashierConfig, Opened), OpenError> {
        let (records, notes, writer) = treasury::open(&self.store)?;
        let domain = self.chain.domain();
        let limits = WalletLimits {
            redemption_cost: self.redemption_cost.unwrap_or_default(),
            max_open: MAX_OPEN,
            value: Wei(1),
            max_value: self.max_value,
        };
        let mut wallet = Wallet::new(domain, self.owner, self.signer.clone(), self.seed, limits);
        wallet.restore(records.iter().cloned());
        let limits = TillLimits { face: self.face, min_value: Wei(1), draws: DRAWS, max_payers: MAX_PAYERS };
        let meters = records.iter().filter_map(|record| match record {
            Record::Meter(row) => Some(*row),
            _ => None,
        });
        let meters = meters.collect();
        let mut till = Till::new(domain, self.owner, self.seed, fresh, limits);
        till.restore(records);
        let money = treasury::Settings {
            chain: self.chain,
            owner: self.owner,
            signer: self.signer,
            gas_price: self.gas_price,
            tell_costs: self.redemption_cost.is_none(),
            every: self.every,
            nature: self.nature,
        };
        Ok((
            self.asks,
            CashierConfig { owner: money.owner, wallet, till, meters },
            Opened { money, notes, writer },
        ))
    }
}

/// The way from the node to its treasury.
#[derive(Debug)]
pub(crate) struct Treasurer {
    jobs: mpsc::UnboundedSender<Job>,
    tasks: [AbortHandle; 2],
}

impl Treasurer {
    /// Starts the treasury and the task that brings its news to the node; inside a [`tokio::task::LocalSet`].
    pub(crate) fn start(shared: &Rc<Shared<RelayNode>>, opened: Opened) -> (Self, watch::Receiver<Health>) {
        let (jobs, received) = mpsc::unbounded_channel();
        let (tell, mut news) = mpsc::unbounded_channel();
        let (treasury, health) = Treasury::new(opened.money, opened.notes, opened.writer, tell);
        let works = tokio::task::spawn_local(treasury.run(received)).abort_handle();
        let shared = Rc::clone(shared);
        let tells = tokio::task::spawn_local(async move {
            while let Some(one) = news.recv().await {
                shared.with_node(|node, now| {
                    node.with_cashier(now, |cashier, ledger| match one {
                        News::Costs(cost) => cashier.set_redemption_cost(cost),
                        News::Kept(book, id) => cashier.persisted(now, ledger, book, id),
                        News::Seen(address, Some(account)) => cashier.seen(now, ledger, address, account),
                        News::Seen(address, None) => cashier.not_seen(address),
                        News::Pot(pot) => cashier.own_pot(now, Some(pot)),
                        News::Paid(payee, nonce) => cashier.redeemed_from_us(now, payee, nonce),
                        News::Won(payer, nonce, finally) => cashier.redeemed_by_us(payer, nonce, finally),
                    })
                });
            }
        })
        .abort_handle();
        (Self { jobs, tasks: [works, tells] }, health)
    }
}

impl Treasurer {
    /// Hands on what the node wants.
    pub(crate) fn work(&self, shared: &Shared<RelayNode>) {
        let jobs = shared.with_node(|node, _| {
            let cashier = node.cashier_mut()?;
            let changes: Vec<_> = std::iter::from_fn(|| cashier.poll_record()).collect();
            let mut jobs: Vec<_> = std::iter::from_fn(|| cashier.poll_lookup()).map(Job::Watch).collect();
            if !changes.is_empty() {
                jobs.push(Job::Keep(changes));
            }
            jobs.extend(
                std::iter::from_fn(|| cashier.poll_claim()).map(|claim| Job::Redeem(Box::new(claim))),
            );
            Some(jobs)
        });
        for job in jobs.into_iter().flatten() {
            // The treasury ends after its relay.
            let _ = self.jobs.send(job);
        }
    }
}

impl Drop for Treasurer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What there is to show of a relay's money.
pub(crate) fn report(node: &RelayNode, health: &Health) -> Option<status::Money> {
    let cashier = node.cashier()?;
    let (cells, earned) = node.relay().ledger().earnings();
    let (owed, ..) = node.relay().ledger().debts();
    let sum =
        |amounts: &mut dyn Iterator<Item = Wei>| amounts.fold(Wei::ZERO, Wei::saturating_add).to_string();
    let payers = cashier.till().snapshot();
    let asks = node.relay().asks().unwrap_or_default();
    Some(status::Money {
        owner: cashier.owner().to_string(),
        balance: health.account.balance.to_string(),
        reserve: health.account.reserve.to_string(),
        asks: [asks.forward.to_string(), asks.exit.to_string()],
        cells,
        earned: earned.to_string(),
        owed: owed.to_string(),
        credited: sum(&mut payers.iter().map(|payer| payer.credited)),
        draws: payers.iter().map(|payer| payer.draws).sum(),
        wins: payers.iter().map(|payer| payer.wins).sum(),
        won: sum(&mut payers.iter().map(|payer| payer.won)),
        redeemed: health.totals.payout.to_string(),
        unredeemed: health.unredeemed.to_string(),
        lost: health.totals.missed.to_string(),
        fees: health.totals.fees.to_string(),
        paid: sum(&mut cashier.wallet().snapshot().iter().map(|payee| payee.paid)),
        packets: node.payment_packets(),
        block: health.head.number,
        trouble: health.trouble.clone(),
    })
}
