//! A chain inside the process: the contract's real bytecode, signed transactions, blocks, receipts, events, and a file.
//!
//! For demonstrations and tests. It has one price of gas, no other users, and as many blocks as it is told to make. Clones are the
//! same chain. Its transactions wait in memory only: whoever sent one sends it again after a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alloy_primitives::{Address, B256, Bytes, U256};

use crate::abi::creation_code;
use crate::amount::Wei;
use crate::chain::embedded::block::{Block, Done};
use crate::chain::transaction::Transaction;
use crate::chain::{Answer, At, Chain, Error, Fees, Head, Kinds, Log, Purse, Receipt, View, reverted};
use crate::evm::{self, Evm, MAX_GAS, Rejected};
use crate::session::Domain;
use crate::store::{Batch, Store, Table};

mod block;

/// So many blocks on top, beyond finality, and an empty one is forgotten.
const EMPTY_KEPT: u64 = 1000;

/// What a chain is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The chain's number.
    pub chain_id: u64,
    /// Who has ether at the beginning.
    pub genesis: Vec<(Address, Wei)>,
    /// The time of the first block, unix.
    pub time: u64,
    /// Wei per gas, without a tip.
    pub base_fee: u128,
    /// So many blocks on top make one final.
    pub depth: u64,
    /// Whether every transaction gets a block at once; else [`Embedded::mine`] and [`Embedded::tick`] make them.
    pub instant: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            chain_id: 31_337,
            genesis: Vec::new(),
            time: 1,
            base_fee: 1_000_000_000,
            depth: 2,
            instant: true,
        }
    }
}

/// The chain.
#[derive(Clone, Debug)]
pub struct Embedded {
    domain: Domain,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    contract: Address,
    options: Options,
    /// By height.
    blocks: BTreeMap<u64, Block>,
    /// What waits for a block, by sender and nonce.
    pool: BTreeMap<(Address, u64), Waiting>,
    /// The time of the next block, unless its parent is younger.
    clock: u64,
    /// Tells the blocks after a reorganisation from those before.
    branch: u64,
    disk: Option<Disk>,
}

#[derive(Clone, Debug)]
struct Waiting {
    transaction: Transaction,
    hash: B256,
    raw: Vec<u8>,
}

/// The chain's file.
#[derive(Debug)]
struct Disk {
    path: PathBuf,
    /// `None` after a failed commit, until the next one opens it again.
    store: Option<Store>,
}

impl Disk {
    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        let disk = |error: crate::store::Error| Error::Disk(error.to_string());
        let store = match self.store.take() {
            Some(store) => store,
            None => Store::open(&self.path).map_err(disk)?,
        };
        store.commit(batch).map(drop).map_err(disk)?;
        self.store = Some(store);
        Ok(())
    }
}

impl Embedded {
    /// A chain that ends with the process.
    pub fn new(options: Options) -> Result<Self, Error> {
        let (contract, genesis) = genesis(&options)?;
        Ok(Self::with(contract, options, [(0, genesis)].into(), None))
    }

    /// The chain of a file, which is made with `options` if there is none; later only price and mining follow them.
    pub fn open(path: &Path, options: Options) -> Result<Self, Error> {
        let disk = |error: crate::store::Error| Error::Disk(error.to_string());
        let (contract, genesis) = genesis(&options)?;
        let store = Store::open(path).map_err(disk)?;
        let mut blocks = BTreeMap::new();
        for (key, value) in store.scan(Table::Blocks).map_err(disk)? {
            let block =
                key.try_into().ok().and_then(|key| Block::decode(u64::from_be_bytes(key), &value).ok());
            let damaged = || Error::Disk(format!("{} is damaged: delete it", path.display()));
            let block = block.ok_or_else(damaged)?;
            blocks.insert(block.head.number, block);
        }
        let mut disk = Disk { path: path.to_owned(), store: Some(store) };
        if blocks.is_empty() {
            let mut batch = Batch::new();
            batch.put(Table::Blocks, 0u64.to_be_bytes(), genesis.encode());
            disk.commit(&batch)?;
            blocks.insert(0, genesis);
        }
        let kept = blocks.values().next_back().and_then(|block| block.state.as_ref()).map(Evm::chain_id);
        if kept != Some(options.chain_id) {
            let found = kept.unwrap_or_default();
            let url = path.display().to_string();
            return Err(Error::WrongChain { url, found, expected: options.chain_id });
        }
        Ok(Self::with(contract, options, blocks, Some(disk)))
    }

    fn with(contract: Address, options: Options, blocks: BTreeMap<u64, Block>, disk: Option<Disk>) -> Self {
        let domain = Domain { chain_id: options.chain_id, contract };
        let clock = options.time;
        let inner = Inner { contract, options, blocks, pool: BTreeMap::new(), clock, branch: 0, disk };
        Self { domain, inner: Arc::new(Mutex::new(inner)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers from a thread that may wait, for the disk and for who else asks: no event loop does.
    fn ask<T: Send + 'static>(
        &self,
        answer: impl FnOnce(&mut Inner) -> Result<T, Error> + Send + 'static,
    ) -> Answer<'_, T> {
        let chain = self.clone();
        Box::pin(async move {
            let answered = tokio::task::spawn_blocking(move || answer(&mut chain.lock())).await;
            answered.unwrap_or_else(|_| Err(Error::Rejected("the chain has stopped".into())))
        })
    }

    /// The time of the blocks from now on.
    pub fn set_time(&self, unix: u64) {
        self.lock().clock = unix;
    }

    /// Makes a block of what waits, even if nothing does.
    pub fn mine(&self) -> Result<Head, Error> {
        self.lock().mine()
    }

    /// Sets the time, and makes a block if the newest one is older.
    pub fn tick(&self, unix: u64) -> Result<(), Error> {
        let mut inner = self.lock();
        inner.clock = unix;
        if inner.tip().head.time < unix || !inner.pool.is_empty() {
            inner.mine()?;
        }
        Ok(())
    }

    /// Sets the price of gas.
    pub fn set_base_fee(&self, wei: u128) {
        self.lock().options.base_fee = wei;
    }

    /// Stops or starts making a block for every transaction.
    pub fn set_instant(&self, instant: bool) {
        self.lock().options.instant = instant;
    }

    /// Gives an address ether, in a block of its own.
    pub fn give(&self, address: Address, wei: Wei) -> Result<(), Error> {
        self.lock().extend(|state| {
            state.set_balance(address, state.balance(address).saturating_add(U256::from(wei.0)));
            Vec::new()
        })?;
        Ok(())
    }

    /// Takes back the newest blocks, and puts one more empty ones in their place; their transactions wait again, or are lost.
    ///
    /// Nothing happens for more blocks than are not final.
    pub fn reorganise(&self, blocks: u64, lose: bool) -> Result<(), Error> {
        let mut inner = self.lock();
        let Head { number: tip, .. } = inner.tip().head;
        if blocks > inner.options.depth.min(tip) {
            return Ok(());
        }
        let taken = inner.blocks.split_off(&tip.saturating_sub(blocks).saturating_add(1));
        inner.branch = inner.branch.saturating_add(1);
        for _ in 0..=blocks {
            inner.extend(|_| Vec::new())?;
        }
        if !lose {
            for done in taken.into_values().flat_map(|block| block.done) {
                // What no longer fits is dropped, as a node does.
                let _ = inner.admit(done.raw);
            }
        }
        Ok(())
    }

    /// Forgets what waits for a block; the number of transactions that did.
    pub fn forget_waiting(&self) -> usize {
        std::mem::take(&mut self.lock().pool).len()
    }

    /// Raw transactions that wait, for whoever plays them elsewhere.
    pub fn waiting(&self) -> Vec<B256> {
        self.lock().pool.values().map(|waiting| waiting.hash).collect()
    }
}

/// The contract's address and the block in which it is.
fn genesis(options: &Options) -> Result<(Address, Block), Error> {
    let ether: Vec<_> = options.genesis.iter().map(|(address, wei)| (*address, U256::from(wei.0))).collect();
    let mut state = Evm::new(options.chain_id, &ether);
    state.set_block(0, options.time);
    let deployed = state.transact(&evm::Transaction {
        data: creation_code(),
        gas_limit: MAX_GAS,
        ..evm::Transaction::default()
    });
    let contract = deployed.ok().filter(|deployed| deployed.success).and_then(|deployed| deployed.created);
    let contract = contract.ok_or(Error::Malformed("the contract's bytecode"))?;
    let mut head = Head { time: options.time, ..Head::default() };
    head.hash = Block::hash(B256::left_padding_from(&options.chain_id.to_be_bytes()), head, 0, &[]);
    Ok((contract, Block { head, done: Vec::new(), state: Some(state) }))
}

impl Inner {
    fn tip(&self) -> &Block {
        static NONE: Block =
            Block { head: Head { number: 0, hash: B256::ZERO, time: 0 }, done: Vec::new(), state: None };
        self.blocks.values().next_back().unwrap_or(&NONE)
    }

    fn block(&self, at: At) -> Result<&Block, Error> {
        let tip = self.tip();
        let number = match at {
            At::Latest => tip.head.number,
            At::Finalized => tip.head.number.saturating_sub(self.options.depth),
            At::Block(number) => number,
        };
        self.blocks.get(&number).ok_or_else(|| Error::Rejected(format!("block {number} is not kept")))
    }

    fn state(&self, at: At) -> Result<&Evm, Error> {
        let block = self.block(at)?;
        let gone = || Error::Rejected(format!("the state of block {} is not kept", block.head.number));
        block.state.as_ref().ok_or_else(gone)
    }

    /// Makes a block of what `change` does.
    fn extend(&mut self, change: impl FnOnce(&mut Evm) -> Vec<Done>) -> Result<Head, Error> {
        let parent = self.tip().head;
        let mut state = self.state(At::Latest)?.clone();
        let number = parent.number.saturating_add(1);
        let mut head = Head { number, hash: B256::ZERO, time: self.clock.max(parent.time) };
        state.set_block(number, head.time);
        let done = change(&mut state);
        head.hash = Block::hash(parent.hash, head, self.branch, &done);
        let block = Block { head, done, state: Some(state) };

        // Those that are final need no state; and in time nobody asks for the empty ones.
        let old = |age: u64| {
            number.checked_sub(self.options.depth.saturating_add(age)).and_then(|old| self.blocks.get(&old))
        };
        let bare = old(1).map(|block| Block { state: None, ..block.clone() });
        let empty = old(EMPTY_KEPT).filter(|block| block.done.is_empty()).map(|block| block.head.number);
        if let Some(disk) = &mut self.disk {
            let mut batch = Batch::new();
            for block in [Some(&block), bare.as_ref()].into_iter().flatten() {
                batch.put(Table::Blocks, block.head.number.to_be_bytes(), block.encode());
            }
            if let Some(number) = empty {
                batch.delete(Table::Blocks, number.to_be_bytes());
            }
            disk.commit(&batch)?;
        }
        for block in [Some(block), bare].into_iter().flatten() {
            self.blocks.insert(block.head.number, block);
        }
        if let Some(number) = empty {
            self.blocks.remove(&number);
        }
        Ok(head)
    }

    fn mine(&mut self) -> Result<Head, Error> {
        let pool = self.pool.clone();
        let base_fee = self.options.base_fee;
        let head = self.extend(move |state| {
            pool.into_iter()
                .filter_map(|((from, _), waiting)| include(state, from, waiting, base_fee))
                .collect()
        })?;
        // What is in a block, and what another one has overtaken, waits no longer.
        if let Some(state) = self.tip().state.clone() {
            self.pool.retain(|(from, nonce), _| *nonce >= state.nonce(*from));
        }
        Ok(head)
    }

    fn admit(&mut self, raw: Vec<u8>) -> Result<(), Error> {
        let decoded = Transaction::decode(&raw);
        let (transaction, from, hash) = decoded.ok_or_else(|| Error::Rejected("it cannot be read".into()))?;
        if transaction.chain_id != self.options.chain_id {
            return Err(Error::Rejected("it is for another chain".into()));
        }
        if self.blocks.values().any(|block| block.receipt(hash).is_some()) {
            return Ok(());
        }
        let state = self.state(At::Latest)?;
        if transaction.nonce < state.nonce(from) {
            return Err(Error::NonceUsed);
        }
        let gas = Wei(transaction.max_fee.saturating_mul(transaction.gas.into()));
        let needs = gas.saturating_add(transaction.value);
        let has = Wei::try_from(state.balance(from)).unwrap_or(Wei(u128::MAX));
        if has < needs {
            return Err(Error::NoGasMoney { address: from, has, needs });
        }
        if let Some(other) = self.pool.get(&(from, transaction.nonce)) {
            // A tenth more, as nodes want it.
            let least = other.transaction.max_fee.saturating_add(other.transaction.max_fee.div_ceil(10));
            if other.hash != hash && transaction.max_fee < least {
                return Err(Error::Underpriced);
            }
        }
        self.pool.insert((from, transaction.nonce), Waiting { transaction, hash, raw });
        Ok(())
    }
}

/// Runs what waits if its turn has come and it pays enough.
fn include(state: &mut Evm, from: Address, waiting: Waiting, base_fee: u128) -> Option<Done> {
    let Waiting { transaction, hash, raw } = waiting;
    if transaction.nonce != state.nonce(from) || transaction.max_fee < base_fee {
        return None;
    }
    let price = transaction.max_fee.min(base_fee.saturating_add(transaction.tip));
    let outcome = state.transact(&evm::Transaction {
        from,
        to: transaction.to,
        value: U256::from(transaction.value.0),
        data: transaction.data,
        gas_limit: transaction.gas,
        gas_price: price,
    });
    let outcome = outcome.ok()?;
    Some(Done { hash, raw, success: outcome.success, gas: outcome.gas_used, price, logs: outcome.logs })
}

impl Chain for Embedded {
    fn domain(&self) -> Domain {
        self.domain
    }

    fn legacy(&self) -> bool {
        false
    }

    fn head(&self, at: At) -> Answer<'_, Head> {
        self.ask(move |inner| inner.block(at).map(|block| block.head))
    }

    fn view(&self, at: At, view: View) -> Answer<'_, Bytes> {
        self.ask(move |inner| {
            let from = view.from;
            let call = evm::Transaction {
                from,
                to: Some(inner.contract),
                value: U256::from(view.value.0),
                data: view.data,
                gas_limit: MAX_GAS,
                gas_price: 0,
            };
            match inner.state(at)?.view(&call) {
                Ok(outcome) if outcome.success => Ok(outcome.output),
                Ok(outcome) => Err(reverted(&outcome.output)),
                Err(Rejected::NoMoney { needed, balance }) => {
                    let wei = |amount| Wei::try_from(amount).unwrap_or(Wei(u128::MAX));
                    Err(Error::NoGasMoney { address: from, has: wei(balance), needs: wei(needed) })
                }
                Err(Rejected::Other(why)) => Err(Error::Rejected(why)),
            }
        })
    }

    fn logs(&self, first: u64, last: u64, kinds: Kinds) -> Answer<'_, Vec<Log>> {
        self.ask(move |inner| {
            let blocks = if first <= last { Some(inner.blocks.range(first..=last)) } else { None };
            let logs = blocks.into_iter().flatten().flat_map(|(_, block)| block.logs(inner.contract));
            let wanted = |log: &Log| {
                kinds.is_empty() || log.data.topics().first().is_some_and(|kind| kinds.contains(kind))
            };
            Ok(logs.filter(wanted).collect())
        })
    }

    fn purse(&self, owner: Address) -> Answer<'_, Purse> {
        self.ask(move |inner| {
            let state = inner.state(At::Latest)?;
            let nonce = state.nonce(owner);
            let mut pending = nonce;
            while inner.pool.contains_key(&(owner, pending)) {
                pending = pending.saturating_add(1);
            }
            let wei = Wei::try_from(state.balance(owner)).unwrap_or(Wei(u128::MAX));
            Ok(Purse { wei, nonce, pending })
        })
    }

    fn fees(&self) -> Answer<'_, Fees> {
        self.ask(|inner| Ok(Fees { base: inner.options.base_fee, tip: 0 }))
    }

    fn broadcast(&self, raw: Vec<u8>) -> Answer<'_, ()> {
        self.ask(move |inner| {
            inner.admit(raw)?;
            if inner.options.instant && !inner.pool.is_empty() {
                inner.mine()?;
            }
            Ok(())
        })
    }

    fn receipt(&self, transaction: B256) -> Answer<'_, Option<Receipt>> {
        self.ask(move |inner| Ok(inner.blocks.values().rev().find_map(|block| block.receipt(transaction))))
    }
}
