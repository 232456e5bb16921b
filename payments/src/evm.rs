//! An Ethereum machine in memory: accounts, code and storage, with the blocks' number and time as arguments.
//!
//! It holds the state of one moment; who keeps a chain keeps the exported states of its blocks.

use core::convert::Infallible;
use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, Log, U256, keccak256};
use revm::context::TxEnv;
use revm::context::result::{EVMError, ExecResultAndState, ExecutionResult, InvalidTransaction, Output};
use revm::database_interface::WrapDatabaseRef;
use revm::primitives::TxKind;
use revm::primitives::hardfork::SpecId;
use revm::state::{AccountInfo, Bytecode, EvmState};
use revm::{Context, DatabaseRef, ExecuteEvm as _, MainBuilder as _, MainContext as _};
use wire::{Malformed, Reader};

/// The rules of Ethereum since December 2025.
const RULES: SpecId = SpecId::OSAKA;
/// The most gas of one transaction (EIP-7825).
pub const MAX_GAS: u64 = 1 << 24;
const VERSION: u8 = 1;

/// A transaction; its nonce is the sender's next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Who sends it; that he signed is the caller's to know.
    pub from: Address,
    /// Whom it calls; `None` to deploy `data`.
    pub to: Option<Address>,
    /// Wei that go with it.
    pub value: U256,
    /// The call's encoded arguments.
    pub data: Bytes,
    /// The most gas it may use; at most [`MAX_GAS`].
    pub gas_limit: u64,
    /// Wei per gas, which nobody gets.
    pub gas_price: u128,
}

/// What a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it changed anything but the sender's nonce and the fee.
    pub success: bool,
    /// What was returned, or the error's data.
    pub output: Bytes,
    /// Gas, after refunds.
    pub gas_used: u64,
    /// The events, in order; none unless `success`.
    pub logs: Vec<Log>,
    /// The contract that was deployed.
    pub created: Option<Address>,
}

/// A transaction that no block may hold; nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The sender's ether does not cover value and gas.
    #[error("{needed} wei are needed for value and gas, and the sender has {balance}")]
    NoMoney {
        /// Wei that it may cost.
        needed: U256,
        /// Wei that the sender has.
        balance: U256,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// One account of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Held {
    nonce: u64,
    balance: U256,
    code: Option<Bytecode>,
    storage: BTreeMap<U256, U256>,
}

/// A machine with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evm {
    chain_id: u64,
    number: u64,
    time: u64,
    state: State,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State(BTreeMap<Address, Held>);

impl Evm {
    /// A machine before its first block, with some ether.
    pub fn new(chain_id: u64, genesis: &[(Address, U256)]) -> Self {
        let mut state = State::default();
        for (address, balance) in genesis {
            state.0.entry(*address).or_default().balance = *balance;
        }
        Self { chain_id, number: 0, time: 0, state }
    }

    /// The chain's number.
    pub const fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// The number of the block that transactions run in.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Its time, unix.
    pub const fn time(&self) -> u64 {
        self.time
    }

    /// Goes to another block.
    pub const fn set_block(&mut self, number: u64, time: u64) {
        (self.number, self.time) = (number, time);
    }

    /// Makes this the machine of another chain, as if the chain had split.
    pub const fn set_chain_id(&mut self, chain_id: u64) {
        self.chain_id = chain_id;
    }

    /// An account's ether, in wei.
    pub fn balance(&self, address: Address) -> U256 {
        self.state.0.get(&address).map_or(U256::ZERO, |held| held.balance)
    }

    /// Gives or takes an account's ether: a faucet, and what the protocol itself pays.
    pub fn set_balance(&mut self, address: Address, balance: U256) {
        self.state.0.entry(address).or_default().balance = balance;
    }

    /// An account's next nonce.
    pub fn nonce(&self, address: Address) -> u64 {
        self.state.0.get(&address).map_or(0, |held| held.nonce)
    }

    /// An account's code; empty for none.
    pub fn code(&self, address: Address) -> Bytes {
        let code = self.state.0.get(&address).and_then(|held| held.code.as_ref());
        code.map_or_else(Bytes::new, Bytecode::original_bytes)
    }

    /// A word of a contract's storage.
    pub fn storage(&self, address: Address, slot: U256) -> U256 {
        let held = self.state.0.get(&address);
        held.and_then(|held| held.storage.get(&slot)).copied().unwrap_or_default()
    }

    /// Runs a transaction in the present block.
    pub fn transact(&mut self, tx: &Transaction) -> Result<Outcome, Rejected> {
        let (outcome, changes) = self.run(tx)?;
        self.state.commit(changes);
        Ok(outcome)
    }

    /// Runs a transaction and forgets what it changed: a view call, or a trial.
    pub fn view(&self, tx: &Transaction) -> Result<Outcome, Rejected> {
        self.run(tx).map(|(outcome, _)| outcome)
    }

    fn run(&self, tx: &Transaction) -> Result<(Outcome, EvmState), Rejected> {
        let mut evm = Context::mainnet()
            .with_db(WrapDatabaseRef(&self.state))
            .modify_cfg_chained(|cfg| {
                cfg.set_spec_and_mainnet_gas_params(RULES);
                cfg.chain_id = self.chain_id;
            })
            .modify_block_chained(|block| {
                block.number = U256::from(self.number);
                block.timestamp = U256::from(self.time);
                block.gas_limit = MAX_GAS;
            })
            .build_mainnet();
        let env = TxEnv {
            caller: tx.from,
            gas_limit: tx.gas_limit,
            gas_price: tx.gas_price,
            kind: tx.to.map_or(TxKind::Create, TxKind::Call),
            value: tx.value,
            data: tx.data.clone(),
            nonce: self.nonce(tx.from),
            chain_id: Some(self.chain_id),
            ..TxEnv::default()
        };
        let ExecResultAndState { result, state } = evm.transact(env).map_err(rejected)?;
        let gas_used = result.gas().tx_gas_used();
        let outcome = match result {
            ExecutionResult::Success { logs, output, .. } => {
                let (output, created) = match output {
                    Output::Call(output) => (output, None),
                    Output::Create(output, created) => (output, created),
                };
                Outcome { success: true, output, gas_used, logs, created }
            }
            ExecutionResult::Revert { output, .. } => {
                Outcome { success: false, output, gas_used, logs: Vec::new(), created: None }
            }
            ExecutionResult::Halt { .. } => {
                Outcome { success: false, output: Bytes::new(), gas_used, logs: Vec::new(), created: None }
            }
        };
        Ok((outcome, state))
    }

    /// The whole machine as bytes, the same for the same state.
    ///
    /// `version 1 | chain id 8 | number 8 | time 8 | accounts 4`, then for each account
    /// `address 20 | nonce 8 | balance 32 | code length 4 | words 4 | code | (slot 32 | value 32)...`.
    pub fn export(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for word in [self.chain_id, self.number, self.time] {
            out.extend(word.to_be_bytes());
        }
        out.extend(count(self.state.0.len()));
        for (address, held) in &self.state.0 {
            let code = held.code.as_ref().map_or(&[][..], Bytecode::original_byte_slice);
            out.extend(address);
            out.extend(held.nonce.to_be_bytes());
            out.extend(held.balance.to_be_bytes::<32>());
            out.extend(count(code.len()));
            out.extend(count(held.storage.len()));
            out.extend(code);
            for (slot, value) in &held.storage {
                out.extend(slot.to_be_bytes::<32>());
                out.extend(value.to_be_bytes::<32>());
            }
        }
        out
    }

    /// The machine of what [`Evm::export`] made.
    pub fn import(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8("version of a machine")? != VERSION {
            return Err(Malformed("version of a machine"));
        }
        let (chain_id, number, time) = (r.u64("chain id")?, r.u64("block number")?, r.u64("time")?);
        let mut state = State::default();
        for _ in 0..r.u32("accounts")? {
            let address = Address::from(r.array::<20>("address")?);
            let mut held = Held { nonce: r.u64("nonce")?, ..Held::default() };
            held.balance = U256::from_be_bytes(*r.array::<32>("balance")?);
            let (code, words) = (r.u32("code length")?, r.u32("words")?);
            let code = r.take(usize::try_from(code).map_err(|_| Malformed("code length"))?, "code")?;
            if !code.is_empty() {
                let code = Bytecode::new_raw_checked(Bytes::copy_from_slice(code));
                held.code = Some(code.map_err(|_| Malformed("code"))?);
            }
            for _ in 0..words {
                let slot = U256::from_be_bytes(*r.array::<32>("slot")?);
                held.storage.insert(slot, U256::from_be_bytes(*r.array::<32>("value")?));
            }
            state.0.insert(address, held);
        }
        r.finish("machine")?;
        Ok(Self { chain_id, number, time, state })
    }
}

/// A number of items that memory holds, in four bytes.
fn count(items: usize) -> [u8; 4] {
    u32::try_from(items).unwrap_or(u32::MAX).to_be_bytes()
}

fn rejected(error: EVMError<Infallible>) -> Rejected {
    match error {
        EVMError::Transaction(InvalidTransaction::LackOfFundForMaxFee { fee, balance }) => {
            Rejected::NoMoney { needed: *fee, balance: *balance }
        }
        other => Rejected::Other(other.to_string()),
    }
}

impl State {
    #[expect(clippy::iter_over_hash_type, reason = "each change is of a place of its own")]
    fn commit(&mut self, changes: EvmState) {
        for (address, account) in changes {
            if !account.is_touched() {
                continue;
            }
            if account.is_selfdestructed() || account.is_empty() {
                self.0.remove(&address);
                continue;
            }
            let held = self.0.entry(address).or_default();
            held.nonce = account.info.nonce;
            held.balance = account.info.balance;
            if let Some(code) = account.info.code.filter(|code| !code.is_empty()) {
                held.code = Some(code);
            }
            for (slot, value) in account.storage {
                match value.present_value {
                    U256::ZERO => held.storage.remove(&slot),
                    present => held.storage.insert(slot, present),
                };
            }
        }
    }
}

impl DatabaseRef for State {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        Ok(self.0.get(&address).map(|held| {
            let info = AccountInfo { nonce: held.nonce, balance: held.balance, ..AccountInfo::default() };
            match &held.code {
                Some(code) => info.with_code(code.clone()),
                None => info,
            }
        }))
    }

    // An account comes with its code.
    fn code_by_hash_ref(&self, _: B256) -> Result<Bytecode, Infallible> {
        Ok(Bytecode::default())
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, Infallible> {
        Ok(self.0.get(&address).and_then(|held| held.storage.get(&slot)).copied().unwrap_or_default())
    }

    // There are no blocks here; contracts that ask get a number of no use.
    fn block_hash_ref(&self, number: u64) -> Result<B256, Infallible> {
        Ok(keccak256(number.to_be_bytes()))
    }
}
