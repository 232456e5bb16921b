//! One RPC: a URL that is asked, and asked again.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{ErrorPayload, RpcError, RpcRecv, RpcSend};
use alloy::transports::{HttpError, TransportErrorKind};
use alloy_primitives::{Address, B256, Bytes, U64, U128, U256};
use serde::{Deserialize, Serialize};

use crate::chain::{Error, Head, Kinds, Log, Receipt, View, reverted};

/// Questions that pass by an RPC that is down.
const REST: u32 = 16;

/// A block, as JSON. Chains add fields, and leave out those of London.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockReply {
    number: U64,
    hash: B256,
    timestamp: U64,
    pub(super) base_fee_per_gas: Option<U128>,
}

impl From<&BlockReply> for Head {
    fn from(block: &BlockReply) -> Self {
        Self { number: block.number.to(), hash: block.hash, time: block.timestamp.to() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogReply {
    address: Address,
    block_number: U64,
    block_hash: B256,
    transaction_hash: B256,
    topics: Vec<B256>,
    data: Bytes,
}

impl LogReply {
    /// The log, if it is one of the contract's in these blocks.
    pub(super) fn log(self, contract: Address, first: u64, last: u64) -> Option<Log> {
        let block = self.block_number.to();
        if self.address != contract || block < first || block > last {
            return None;
        }
        let data = alloy_primitives::LogData::new(self.topics, self.data)?;
        Some(Log { block, hash: self.block_hash, transaction: self.transaction_hash, data })
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReceiptReply {
    transaction_hash: B256,
    block_number: U64,
    block_hash: B256,
    status: U64,
    gas_used: U64,
    effective_gas_price: Option<U128>,
}

impl ReceiptReply {
    pub(super) fn receipt(&self, transaction: B256) -> Result<Receipt, Error> {
        if self.transaction_hash != transaction {
            return Err(Error::Malformed("the receipt of another transaction"));
        }
        Ok(Receipt {
            block: self.block_number.to(),
            hash: self.block_hash,
            success: self.status == U64::from(1),
            gas: self.gas_used.to(),
            price: self.effective_gas_price.unwrap_or_default().to(),
        })
    }
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ViewParam {
    from: Address,
    to: Address,
    value: U256,
    data: Bytes,
}

impl ViewParam {
    pub(super) fn new(to: Address, view: View) -> Self {
        Self { from: view.from, to, value: U256::from(view.value.0), data: view.data }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogsParam {
    pub(super) address: Address,
    pub(super) from_block: U64,
    pub(super) to_block: U64,
    /// What the first topic may be; nothing: anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) topics: Option<[Kinds; 1]>,
}

/// Why one RPC has not answered.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// It cannot be reached, is overloaded, or talks nonsense: another one may do better.
    Down(String),
    /// It answers, and the answer is an error.
    Answer(Error),
}

/// How an RPC is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) timeout: Duration,
    pub(super) attempts: u32,
    pub(super) pause: Duration,
}

/// One RPC.
pub(super) struct Node {
    /// Its URL as far as it may be shown: paths and queries hold keys.
    pub(super) shown: String,
    client: RpcClient,
    patience: Patience,
    /// The newest block it has told of.
    pub(super) number: AtomicU64,
    /// Whether its chain and contract have been looked at.
    pub(super) checked: AtomicBool,
    /// So many questions pass it by, after one that it has not answered.
    resting: AtomicU32,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("url", &self.shown).finish_non_exhaustive()
    }
}

impl Node {
    pub(super) fn new(url: &str, patience: Patience) -> Result<Self, Error> {
        let wrong = |why: &str| Error::NoAddress(format!("{}: {why}", host(url)));
        let parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(wrong("it begins with neither http:// nor https://"));
        }
        // Of two callers the first one sets it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let client = client.build().map_err(|error| wrong(&error.to_string()))?;
        Ok(Self {
            shown: host(url),
            client: RpcClient::new_http_with_client(client, parsed),
            patience,
            number: AtomicU64::new(0),
            checked: AtomicBool::new(false),
            resting: AtomicU32::new(0),
        })
    }

    /// Asks, and asks again where that has failed at once; what hangs is given up when all together has taken too long.
    pub(super) async fn ask<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, Failure> {
        let Patience { timeout, .. } = self.patience;
        tokio::time::timeout(timeout, self.insist(method, params)).await.unwrap_or_else(|_| {
            self.resting.store(REST, Ordering::Relaxed);
            Err(Failure::Down(format!("{} gave no answer within {} s", self.shown, timeout.as_secs())))
        })
    }

    async fn insist<P: RpcSend, R: RpcRecv>(&self, method: &'static str, params: P) -> Result<R, Failure> {
        let mut attempt = 1;
        loop {
            let failure = match self.client.request::<P, R>(method, params.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.failure(method, error),
            };
            if matches!(failure, Failure::Answer(_)) {
                return Err(failure);
            }
            if attempt >= self.patience.attempts {
                self.resting.store(REST, Ordering::Relaxed);
                return Err(failure);
            }
            tokio::time::sleep(self.patience.pause.saturating_mul(attempt)).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Whether it should be passed by once more: others are asked without waiting for it.
    pub(super) fn rests(&self) -> bool {
        let rest = |left: u32| left.checked_sub(1);
        self.resting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).is_ok()
    }

    fn failure(&self, method: &str, error: RpcError<TransportErrorKind>) -> Failure {
        match error {
            RpcError::ErrorResp(payload) if payload.is_retry_err() => {
                Failure::Down(format!("{}: {}", self.shown, payload.message))
            }
            RpcError::ErrorResp(payload) => Failure::Answer(answered(&payload)),
            // The text is the peer's, and long.
            RpcError::DeserError { .. } => Failure::Down(format!(
                "{}: what {method} returns cannot be read, as if it were no RPC",
                self.shown
            )),
            // The reason of reqwest names the whole URL.
            RpcError::Transport(kind) => Failure::Down(match kind.as_http_error() {
                Some(HttpError { status, .. }) => {
                    format!("{} answers with HTTP status {status}, as if it were no RPC, or busy", self.shown)
                }
                None => format!("{} cannot be reached", self.shown),
            }),
            other => Failure::Down(format!("{}: {other}", self.shown)),
        }
    }
}

/// Scheme, host and port of a URL.
fn host(url: &str) -> String {
    reqwest::Url::parse(url).map_or_else(|_| "the URL".into(), |url| url.origin().ascii_serialization())
}

/// What an error of the JSON-RPC means; clients agree on the words, if at all, and on no numbers.
fn answered(payload: &ErrorPayload) -> Error {
    if let Some(data) = payload.as_revert_data() {
        return reverted(&data);
    }
    let said = payload.message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&["nonce too low", "nonce is too low", "nonce has already been used"]) {
        Error::NonceUsed
    } else if says(&[
        "underpriced",
        "less than block base fee",
        "fee too low",
        "fee cap",
        "gas price too low",
    ]) {
        Error::Underpriced
    } else if says(&["revert"]) {
        Error::Reverted(payload.message.to_string())
    } else {
        Error::Rejected(payload.message.to_string())
    }
}

/// Whether a node's refusal says that it has the transaction already.
pub(super) fn known(error: &Error) -> bool {
    let Error::Rejected(said) = error else { return false };
    let said = said.to_lowercase();
    ["already known", "already imported", "known transaction", "already exists", "already in"]
        .iter()
        .any(|word| said.contains(word))
}

/// Whether a node's refusal says that the sender has too little.
pub(super) fn poor(error: &Error) -> bool {
    matches!(error, Error::Rejected(said) if said.to_lowercase().contains("insufficient"))
}
