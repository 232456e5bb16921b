//! The client's money, outside: its store, its chain, and the task that connects both with the node.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use driver::Shared;
use payments::Address;
use payments::amount::{Rate, Wei};
use payments::chain::Chain;
use payments::record::Book;
use payments::session::Signer;
use payments::store::thread::Writer;
use payments::treasury::{self, Health, Job, Nature, News, Notes, OpenError, Treasury};
use payments::wallet::{Wallet, WalletLimits};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::node::ClientNode;
use crate::path::per_gib;
use crate::payer::Payer;
use crate::status;

/// Sessions that are open at once with an entry.
const MAX_OPEN: usize = 2;

/// How a client pays.
#[derive(Debug)]
pub struct Money {
    /// The chain.
    pub chain: Arc<dyn Chain>,
    /// The pot that pays.
    pub owner: Address,
    /// Signs for the pot, and transactions.
    pub signer: Signer,
    /// What secrets of sessions are made from; kept as long as the store.
    pub seed: [u8; 32],
    /// The file of the store.
    pub store: PathBuf,
    /// Our own estimate of what a redemption costs; `None` to go by what gas costs.
    pub redemption_cost: Option<Wei>,
    /// The most that one draw may be worth.
    pub max_value: Wei,
    /// The most wei per gas.
    pub gas_price: u128,
    /// How often the chain is looked at.
    pub every: Duration,
    /// Time and randomness.
    pub nature: Nature,
}

/// The outside of a client's money, before it runs.
#[derive(Debug)]
pub(crate) struct Opened {
    money: treasury::Settings,
    notes: Notes,
    writer: Writer,
}

impl Opened {
    /// The pot that pays.
    pub(crate) const fn owner(&self) -> Address {
        self.money.owner
    }
}

impl Money {
    /// Opens the store: what the node works with, and what works for it.
    pub(crate) fn open(self) -> Result<(Payer, Opened), OpenError> {
        let (records, notes, writer) = treasury::open(&self.store)?;
        let limits = WalletLimits {
            redemption_cost: self.redemption_cost.unwrap_or_default(),
            max_open: MAX_OPEN,
            value: Wei(1),
            max_value: self.max_value,
        };
        let domain = self.chain.domain();
        let mut wallet = Wallet::new(domain, self.owner, self.signer.clone(), self.seed, limits);
        wallet.restore(records);
        let money = treasury::Settings {
            chain: self.chain,
            owner: self.owner,
            signer: self.signer,
            gas_price: self.gas_price,
            tell_costs: self.redemption_cost.is_none(),
            every: self.every,
            nature: self.nature,
        };
        Ok((Payer::new(wallet), Opened { money, notes, writer }))
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
    pub(crate) fn start(shared: &Rc<Shared<ClientNode>>, opened: Opened) -> (Self, watch::Receiver<Health>) {
        let (jobs, received) = mpsc::unbounded_channel();
        let (tell, mut news) = mpsc::unbounded_channel();
        let (treasury, health) = Treasury::new(opened.money, opened.notes, opened.writer, tell);
        let works = tokio::task::spawn_local(treasury.run(received)).abort_handle();
        let shared = Rc::clone(shared);
        let tells = tokio::task::spawn_local(async move {
            while let Some(one) = news.recv().await {
                shared.with_node(|node, now| {
                    node.with_payer(now, |payer, ledger| match one {
                        News::Costs(cost) => payer.set_redemption_cost(cost),
                        News::Kept(_, id) => payer.persisted(now, ledger, id),
                        News::Pot(pot) => payer.own_pot(now, Some(pot)),
                        News::Paid(payee, nonce) => payer.redeemed(now, payee, nonce),
                        // A client watches nobody, and wins nothing.
                        News::Seen(..) | News::Won(..) => {}
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
    pub(crate) fn work(&self, shared: &Shared<ClientNode>) {
        let jobs = shared.with_node(|node, _| {
            let payer = node.payer_mut()?;
            let changes: Vec<_> = std::iter::from_fn(|| payer.poll_record())
                .map(|(id, change)| (Book::Wallet, id, change))
                .collect();
            (!changes.is_empty()).then_some(Job::Keep(changes))
        });
        if let Some(job) = jobs {
            // The treasury ends after its client.
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

/// What there is to show of a client's money.
pub(crate) fn report(node: &ClientNode, owner: Address, health: &Health) -> Option<status::Money> {
    let payees = node.payer()?.wallet().snapshot();
    let sum =
        |amounts: &mut dyn Iterator<Item = Wei>| amounts.fold(Wei::ZERO, Wei::saturating_add).to_string();
    let (owed, paid, rate) = node.ledger().debts();
    Some(status::Money {
        owner: owner.to_string(),
        balance: health.account.balance.to_string(),
        reserve: health.account.reserve.to_string(),
        paid: sum(&mut payees.iter().map(|payee| payee.paid)),
        draws: payees.iter().map(|payee| payee.draws).sum(),
        wins: payees.iter().map(|payee| payee.wins).sum(),
        won: sum(&mut payees.iter().map(|payee| payee.won)),
        ahead: paid.saturating_sub(owed).to_string(),
        packets: node.payment_packets(),
        per_gib: per_gib(Rate(rate)).to_string(),
        block: health.head.number,
        trouble: health.trouble.clone(),
    })
}
