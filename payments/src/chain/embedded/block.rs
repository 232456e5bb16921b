//! A block of the embedded chain, and its form on disk.

use alloy_primitives::{Address, B256, Bytes, Log as EvmLog, LogData, keccak256};
use wire::{Malformed, Reader};

use crate::chain::{Head, Log, Receipt};
use crate::evm::Evm;

const VERSION: u8 = 1;

/// A transaction in a block, and what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) hash: B256,
    /// Its signed bytes, should a reorganisation put it back.
    pub(super) raw: Vec<u8>,
    pub(super) success: bool,
    pub(super) gas: u64,
    pub(super) price: u128,
    pub(super) logs: Vec<EvmLog>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) head: Head,
    pub(super) done: Vec<Done>,
    /// The state after it; only of the blocks that a reorganisation may take back, and of the last that it may not.
    pub(super) state: Option<Evm>,
}

impl Block {
    /// The hash of a block: of all that decides it, and of a number that tells branches apart.
    pub(super) fn hash(parent: B256, head: Head, branch: u64, done: &[Done]) -> B256 {
        let mut bytes = parent.to_vec();
        for word in [head.number, head.time, branch] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(done.iter().flat_map(|done| done.hash));
        keccak256(bytes)
    }

    pub(super) fn receipt(&self, transaction: B256) -> Option<Receipt> {
        let done = self.done.iter().find(|done| done.hash == transaction)?;
        let Head { number, hash, .. } = self.head;
        Some(Receipt { block: number, hash, success: done.success, gas: done.gas, price: done.price })
    }

    pub(super) fn logs(&self, contract: Address) -> impl Iterator<Item = Log> {
        let Head { number, hash, .. } = self.head;
        self.done.iter().flat_map(move |done| {
            let logs = done.logs.iter().filter(move |log| log.address == contract);
            logs.map(move |log| Log { block: number, hash, transaction: done.hash, data: log.data.clone() })
        })
    }

    /// `version 1 | hash 32 | time 8 | state | transactions 4 | (hash 32 | raw | success 1 | gas 8 | price 16 | logs 4 | (address 20 |
    /// topics 1 | topic 32... | data)...)...`; what has no size here has its length in four bytes before it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.head.hash);
        out.extend(self.head.time.to_be_bytes());
        put(&mut out, &self.state.as_ref().map(Evm::export).unwrap_or_default());
        out.extend(count(self.done.len()));
        for done in &self.done {
            out.extend(done.hash);
            put(&mut out, &done.raw);
            out.push(done.success.into());
            out.extend(done.gas.to_be_bytes());
            out.extend(done.price.to_be_bytes());
            out.extend(count(done.logs.len()));
            for log in &done.logs {
                out.extend(log.address);
                let [.., topics] = count(log.data.topics().len());
                out.push(topics);
                out.extend(log.data.topics().iter().flatten());
                put(&mut out, &log.data.data);
            }
        }
        out
    }

    pub(super) fn decode(number: u64, bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u8("version of a block")? != VERSION {
            return Err(Malformed("version of a block"));
        }
        let head = Head { number, hash: hash(&mut r)?, time: r.u64("time")? };
        let state = match take(&mut r)? {
            [] => None,
            state => Some(Evm::import(state)?),
        };
        let mut done = Vec::new();
        for _ in 0..r.u32("transactions")? {
            let mut one = Done {
                hash: hash(&mut r)?,
                raw: take(&mut r)?.to_vec(),
                success: r.u8("success")? != 0,
                gas: r.u64("gas")?,
                price: u128::from_be_bytes(*r.array("price")?),
                logs: Vec::new(),
            };
            for _ in 0..r.u32("logs")? {
                let address = Address::from(r.array::<20>("address")?);
                let topics = (0..r.u8("topics")?).map(|_| hash(&mut r)).collect::<Result<_, _>>()?;
                let data = LogData::new(topics, Bytes::copy_from_slice(take(&mut r)?));
                one.logs.push(EvmLog { address, data: data.ok_or(Malformed("topics"))? });
            }
            done.push(one);
        }
        r.finish("block")?;
        Ok(Self { head, done, state })
    }
}

fn hash(r: &mut Reader<'_>) -> Result<B256, Malformed> {
    r.array::<32>("hash").map(B256::from)
}

fn take<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let length = r.u32("length")?;
    r.take(usize::try_from(length).map_err(|_| Malformed("length"))?, "bytes")
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(count(bytes.len()));
    out.extend(bytes);
}

/// A number of items that memory holds, in four bytes.
fn count(items: usize) -> [u8; 4] {
    u32::try_from(items).unwrap_or(u32::MAX).to_be_bytes()
}
