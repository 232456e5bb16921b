//! The chain as payers, payees and redeemers need it, whichever one it is.
//!
//! A back-end answers eight questions ([`Chain`]); everything that knows the contract is built upon them, once, below.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use alloy_primitives::{Address, B256, Bytes, LogData};
use alloy_sol_types::{SolCall, SolEvent as _, SolEventInterface as _, SolInterface as _};

use crate::abi::OnionPay::{OnionPayErrors, OnionPayEvents};
use crate::abi::{OnionPay, creation_code};
use crate::amount::Wei;
use crate::chain::transaction::Transaction;
use crate::session::{Domain, Signer};

pub mod action;
pub mod embedded;
pub mod error;
pub mod rpc;
pub mod transaction;

pub use error::Error;

/// Relays read from the contract in one call.
const PAGE: u64 = 200;

/// What a back-end answers, when it has it.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// The first topics of the events that are wanted; none: all.
pub type Kinds = &'static [B256];

/// The events that change the list of relays.
pub const CHANGES: Kinds = &[OnionPay::RelayChanged::SIGNATURE_HASH];
/// Those, and the events that tell bonds.
pub const CHANGES_AND_BONDS: Kinds =
    &[OnionPay::RelayChanged::SIGNATURE_HASH, OnionPay::AccountChanged::SIGNATURE_HASH];

/// A block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its height.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// Its time, unix.
    pub time: u64,
}

impl Head {
    /// An error if the block is older than `limit` seconds at `now`.
    pub fn fresh(&self, now: u64, limit: u64) -> Result<(), Error> {
        let age = now.saturating_sub(self.time);
        if age > limit { Err(Error::Stale { number: self.number, age }) } else { Ok(()) }
    }
}

/// Which state is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The newest block's.
    Latest,
    /// That of the newest block that no reorganisation can take back.
    Finalized,
    /// That of the block of this height.
    Block(u64),
}

/// A call of the contract that changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Who calls.
    pub from: Address,
    /// The wei that come along.
    pub value: Wei,
    /// The encoded arguments.
    pub data: Bytes,
}

/// An address outside the contract: what it pays for transactions with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purse {
    /// Its ether.
    pub wei: Wei,
    /// The next nonce, counting what is in blocks.
    pub nonce: u64,
    /// The next nonce, counting what waits for a block too.
    pub pending: u64,
}

/// What gas costs now, in wei.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fees {
    /// What every transaction of the next block pays per gas.
    pub base: u128,
    /// What is usual on top.
    pub tip: u128,
}

impl Fees {
    /// The price of one gas.
    pub const fn price(&self) -> u128 {
        self.base.saturating_add(self.tip)
    }

    /// What so much gas costs. Chains that bill their own costs at another chain add that.
    pub fn cost(&self, gas: u64) -> Wei {
        Wei(self.price().saturating_mul(gas.into()))
    }
}

/// An event of the contract, not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The height of its block.
    pub block: u64,
    /// The hash of its block.
    pub hash: B256,
    /// Its transaction.
    pub transaction: B256,
    /// Topics and data.
    pub data: LogData,
}

/// What a transaction in a block has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The height of its block.
    pub block: u64,
    /// The hash of its block.
    pub hash: B256,
    /// Whether it did anything.
    pub success: bool,
    /// Gas it used.
    pub gas: u64,
    /// Wei per gas.
    pub price: u128,
}

impl Receipt {
    /// What it cost.
    pub fn fee(&self) -> Wei {
        Wei(self.price.saturating_mul(self.gas.into()))
    }
}

/// What one must be able to ask a chain.
pub trait Chain: fmt::Debug + Send + Sync {
    /// The chain's number and the contract, both checked when the back-end was made.
    fn domain(&self) -> Domain;
    /// Whether transactions have one price instead of base fee and tip.
    fn legacy(&self) -> bool;
    /// A block.
    fn head(&self, at: At) -> Answer<'_, Head>;
    /// Calls the contract without a transaction; what it returns, or [`Error::Reverted`].
    fn view(&self, at: At, view: View) -> Answer<'_, Bytes>;
    /// The contract's events of these kinds (their first topics; none: all) in these blocks, in order.
    fn logs(&self, first: u64, last: u64, kinds: Kinds) -> Answer<'_, Vec<Log>>;
    /// Ether and nonces of an address.
    fn purse(&self, owner: Address) -> Answer<'_, Purse>;
    /// What gas costs.
    fn fees(&self) -> Answer<'_, Fees>;
    /// Hands a signed transaction to the network; one that it knows already is no error.
    fn broadcast(&self, raw: Vec<u8>) -> Answer<'_, ()>;
    /// What became of a transaction; `None` while it is in no block of the chain.
    fn receipt(&self, transaction: B256) -> Answer<'_, Option<Receipt>>;
}

/// An owner's pot, as the contract keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Spendable, and withdrawable at once.
    pub balance: Wei,
    /// Collateral, and a relay's bond.
    pub reserve: Wei,
    /// When the reserve may leave; `None` while it is locked.
    pub unlock_at: Option<u64>,
    /// How often it did not cover a ticket.
    pub defaults: u16,
    /// Whose signature binds it; `None` for nobody's.
    pub signer: Option<Address>,
    /// The only one who can be paid from it.
    pub only_payee: Option<Address>,
    /// Whether the owner is a registered relay.
    pub registered: bool,
}

impl From<OnionPay::Account> for Account {
    fn from(account: OnionPay::Account) -> Self {
        let some = |address: Address| Some(address).filter(|address| *address != Address::ZERO);
        Self {
            balance: account.balance.into(),
            reserve: account.reserve.into(),
            unlock_at: Some(account.unlockAt.to()).filter(|at| *at != 0),
            defaults: account.defaults,
            signer: some(account.signer),
            only_payee: some(account.onlyPayee),
            registered: account.registered,
        }
    }
}

/// A registered relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Its owner.
    pub owner: Address,
    /// Its identity key, by the owner's word only.
    pub id_key: B256,
    /// Since when, unix.
    pub since: u64,
    /// Its bond.
    pub reserve: Wei,
}

/// The registry at one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// The block.
    pub head: Head,
    /// The running hash over all changes.
    pub root: B256,
    /// The number of changes.
    pub seq: u64,
    /// All relays.
    pub relays: Vec<Relay>,
}

/// How a transaction may be paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most gas it may use.
    pub gas: u64,
    /// The most wei per gas.
    pub price: u128,
}

/// Which transaction of its sender it is, and what it must offer to take another one's place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The nonce.
    pub nonce: u64,
    /// At least so many wei per gas.
    pub max_fee: u128,
    /// At least so much of it as a tip.
    pub tip: u128,
}

/// A transaction that is signed and not yet sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Its hash.
    pub hash: B256,
    /// Its bytes.
    pub raw: Vec<u8>,
    /// Its nonce, and what it offers.
    pub place: Place,
}

impl dyn Chain + '_ {
    /// Calls a view of the contract.
    pub async fn ask<C: SolCall>(&self, at: At, call: &C) -> Result<C::Return, Error> {
        let view = View { data: call.abi_encode().into(), ..View::default() };
        let output = self.view(at, view).await?;
        // The back-end has seen it in the newest block; there is none yet in the one that is asked for.
        if output.is_empty() && at != At::Latest {
            let Domain { chain_id, contract } = self.domain();
            return Err(Error::NotFinal { contract, chain_id });
        }
        C::abi_decode_returns(&output).map_err(|_| Error::Malformed("the contract's answer"))
    }

    /// An owner's pot.
    pub async fn account(&self, owner: Address, at: At) -> Result<Account, Error> {
        self.ask(at, &OnionPay::accountsCall { owner }).await.map(Into::into)
    }

    /// Whether a ticket of this pair and nonce was paid.
    pub async fn is_used(&self, payer: Address, payee: Address, nonce: u32, at: At) -> Result<bool, Error> {
        self.ask(at, &OnionPay::isUsedCall { payer, payee, nonce }).await
    }

    /// The contract's events in these blocks, in order; what it did not emit is left out.
    pub async fn events(&self, first: u64, last: u64) -> Result<Vec<(Log, OnionPayEvents)>, Error> {
        self.events_of(first, last, &[]).await
    }

    /// The same, of some kinds only.
    pub async fn events_of(
        &self,
        first: u64,
        last: u64,
        kinds: Kinds,
    ) -> Result<Vec<(Log, OnionPayEvents)>, Error> {
        let logs = self.logs(first, last, kinds).await?;
        let decode = |log: Log| {
            let event = OnionPayEvents::decode_raw_log(log.data.topics(), &log.data.data).ok()?;
            Some((log, event))
        };
        Ok(logs.into_iter().filter_map(decode).collect())
    }

    /// The whole registry, read at the finalized block.
    pub async fn registry(&self) -> Result<Registry, Error> {
        let head = self.head(At::Finalized).await?;
        let at = At::Block(head.number);
        let root = self.ask(at, &OnionPay::registryRootCall {}).await?;
        let seq = self.ask(at, &OnionPay::registrySeqCall {}).await?;
        let mut relays = Vec::new();
        loop {
            let from = relays.len();
            let call = OnionPay::relaysAtCall {
                from: alloy_primitives::U256::from(from),
                n: alloy_primitives::U256::from(PAGE),
            };
            let page = self.ask(at, &call).await?;
            relays.extend(page.page.iter().zip(page.reserves).map(|(relay, reserve)| Relay {
                owner: relay.owner,
                id_key: relay.idKey,
                since: relay.since.to(),
                reserve: reserve.into(),
            }));
            // An RPC could list relays without end; each was registered by a change of its own.
            if u64::try_from(relays.len()).is_ok_and(|count| count > seq) {
                return Err(Error::Malformed("the list of relays (no longer than there were changes)"));
            }
            if relays.len() == from {
                return Ok(Registry { head, root, seq, relays });
            }
        }
    }

    /// Signs a transaction that is priced within its limits, covered by the signer's ether, and does not fail at the newest state.
    ///
    /// `place` is that of a transaction to replace, or `None` for the next one.
    pub async fn prepare(
        &self,
        signer: &Signer,
        call: Call,
        limits: Limits,
        place: Option<Place>,
    ) -> Result<Signed, Error> {
        self.sign(signer, Some(call.to), call.value, call.data, limits, place).await
    }

    /// Signs the transaction that deploys the contract; also the address that it gets.
    pub async fn prepare_contract(
        &self,
        signer: &Signer,
        limits: Limits,
    ) -> Result<(Signed, Address), Error> {
        let signed = self.sign(signer, None, Wei::ZERO, creation_code(), limits, None).await?;
        let address = signer.address().create(signed.place.nonce);
        Ok((signed, address))
    }

    async fn sign(
        &self,
        signer: &Signer,
        to: Option<Address>,
        value: Wei,
        data: Bytes,
        limits: Limits,
        place: Option<Place>,
    ) -> Result<Signed, Error> {
        let from = signer.address();
        let purse = self.purse(from).await?;
        let fees = self.fees().await?;
        let place = place.unwrap_or_else(|| Place { nonce: purse.pending, ..Place::default() });
        let price = fees.price().max(place.max_fee);
        if price > limits.price {
            return Err(Error::FeeTooHigh { price, limit: limits.price });
        }
        // Twice the base fee outlives six full blocks in a row.
        let max_fee = fees.price().saturating_add(fees.base).max(place.max_fee).min(limits.price);
        let needs = Wei(max_fee.saturating_mul(limits.gas.into())).saturating_add(value);
        if purse.wei < needs {
            return Err(Error::NoGasMoney { address: from, has: purse.wei, needs });
        }
        if to == Some(self.domain().contract) {
            self.view(At::Latest, View { from, value, data: data.clone() }).await?;
        }
        let transaction = Transaction {
            chain_id: self.domain().chain_id,
            nonce: place.nonce,
            gas: limits.gas,
            max_fee,
            tip: fees.tip.max(place.tip).min(max_fee),
            to,
            value,
            data,
        };
        Ok(transaction.sign(signer, self.legacy()))
    }

    /// `prepare` with the next nonce, and send.
    pub async fn send(&self, signer: &Signer, call: Call, limits: Limits) -> Result<B256, Error> {
        let signed = self.prepare(signer, call, limits, None).await?;
        self.broadcast(signed.raw).await?;
        Ok(signed.hash)
    }
}

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The contract, or who gets `value`.
    pub to: Address,
    /// The wei that go along.
    pub value: Wei,
    /// The encoded arguments.
    pub data: Bytes,
}

impl Call {
    /// A call of the contract.
    pub fn new(domain: &Domain, call: &impl SolCall, value: Wei) -> Self {
        Self { to: domain.contract, value, data: call.abi_encode().into() }
    }

    /// Ether for someone.
    pub const fn transfer(to: Address, value: Wei) -> Self {
        Self { to, value, data: Bytes::new() }
    }
}

/// Why the contract refused, in words.
pub(crate) fn reverted(data: &[u8]) -> Error {
    let Ok(error) = OnionPayErrors::abi_decode(data) else {
        let said = alloy_sol_types::decode_revert_reason(data);
        return Error::Reverted(said.unwrap_or_else(|| "it gives no reason".into()));
    };
    Error::Reverted(match error {
        OnionPayErrors::Refused(refused) => format!("the ticket is not paid: {:?}", refused.code),
        OnionPayErrors::ReserveNotEmpty(_) => {
            "signer and only payee change at a reserve of 0 only: use a new pot".into()
        }
        OnionPayErrors::AmountTooLarge(_) => "the balance does not cover the amount".into(),
        OnionPayErrors::Zero(_) => "an address or key is zero".into(),
        OnionPayErrors::Unlocking(_) => "the reserve is being unlocked: cancel that first".into(),
        OnionPayErrors::NotUnlocking(_) => "the reserve is locked: start to unlock it first".into(),
        OnionPayErrors::TooEarly(early) => format!("not before unix time {}", early.time),
        OnionPayErrors::ReserveTooLow(_) => "the reserve is too low: add to it first".into(),
        OnionPayErrors::AlreadyRegistered(_) => "this owner is registered already".into(),
        OnionPayErrors::SendFailed(_) => "the receiver does not take ether".into(),
    })
}
