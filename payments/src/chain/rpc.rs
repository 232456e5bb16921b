//! Any Ethereum-compatible chain, over HTTP.
//!
//! Several RPCs may be named. All must serve the same chain and contract. What changes is asked of the first that is not behind; what
//! is final is asked of all, and two answers that cannot both be true are an error: then nothing more is believed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy::rpc::json_rpc::{RpcRecv, RpcSend};
use alloy_primitives::{Address, B256, Bytes, U64, U128, U256};
use tokio::task::JoinSet;

use crate::abi::runtime_code;
use crate::amount::Wei;
use crate::chain::rpc::node::{
    BlockReply, Failure, LogReply, LogsParam, Node, Patience, ReceiptReply, ViewParam, known, poor,
};
use crate::chain::transaction::Transaction;
use crate::chain::{Answer, At, Chain, Error, Fees, Head, Kinds, Log, Purse, Receipt, View};
use crate::session::Domain;

mod node;

/// How a chain is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The RPCs, the preferred one first; their paths may hold keys and are never shown.
    pub urls: Vec<String>,
    /// The chain and the contract that they must serve.
    pub domain: Domain,
    /// How long one RPC may take for one answer, however often it is asked.
    pub timeout: Duration,
    /// How often one RPC is asked at most before the next one is.
    pub attempts: u32,
    /// Between two attempts, growing.
    pub pause: Duration,
    /// An RPC so many blocks behind the best one is asked last.
    pub lag: u64,
    /// So many blocks on top make one final; `None` to go by the chain's own word.
    pub depth: Option<u64>,
    /// The most blocks whose events are asked for at once.
    pub span: u64,
}

impl Config {
    /// The usual values.
    pub const fn new(urls: Vec<String>, domain: Domain) -> Self {
        let (timeout, pause) = (Duration::from_secs(10), Duration::from_millis(250));
        Self { urls, domain, timeout, attempts: 3, pause, lag: 3, depth: None, span: 2000 }
    }
}

/// The chain behind some RPCs.
#[derive(Clone, Debug)]
pub struct Rpc {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    nodes: Vec<Arc<Node>>,
    /// There is no contract yet.
    bare: bool,
    /// As the newest block said when fees were asked for last.
    legacy: AtomicBool,
    /// The newest final block known: no RPC may say otherwise later.
    finalized: Mutex<Head>,
}

impl Rpc {
    /// Connects: each RPC that answers must serve the right chain, with this contract at its address.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let rpc = Self::new(config)?;
        rpc.inner.fees().await?;
        // The others too, now: one that is wrong is better known before it is needed. One that is down is looked at later.
        for node in rpc.inner.nodes.iter().filter(|node| !node.rests()) {
            if let Err(Failure::Answer(error)) = rpc.inner.check(node).await {
                return Err(error);
            }
        }
        Ok(rpc)
    }

    /// Asks nothing yet: each RPC is checked before its first answer is believed.
    pub fn new(config: Config) -> Result<Self, Error> {
        Self::make(config, false)
    }

    /// The same for a chain to which the contract is yet to be deployed: the chain alone is checked.
    pub fn bare(urls: Vec<String>, chain_id: u64) -> Result<Self, Error> {
        Self::make(Config::new(urls, Domain { chain_id, contract: Address::ZERO }), true)
    }

    fn make(config: Config, bare: bool) -> Result<Self, Error> {
        let Config { timeout, attempts, pause, .. } = config;
        let patience = Patience { timeout, attempts, pause };
        let nodes = config.urls.iter().map(|url| Node::new(url, patience).map(Arc::new));
        let nodes = nodes.collect::<Result<Vec<_>, _>>()?;
        let inner = Inner { config, nodes, bare, legacy: AtomicBool::default(), finalized: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl Inner {
    /// Looks once whether an RPC serves the chain and the contract.
    async fn check(&self, node: &Node) -> Result<(), Failure> {
        if node.checked.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Domain { chain_id, contract } = self.config.domain;
        let found: U64 = node.ask("eth_chainId", ()).await?;
        if found != U64::from(chain_id) {
            let (url, found) = (node.shown.clone(), found.to());
            return Err(Failure::Answer(Error::WrongChain { url, found, expected: chain_id }));
        }
        if self.bare {
            node.checked.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let code: Bytes = node.ask("eth_getCode", (contract, "latest")).await?;
        if code.is_empty() {
            return Err(Failure::Answer(Error::NoContract { contract, chain_id }));
        }
        if code != runtime_code() {
            return Err(Failure::Answer(Error::OtherContract { contract }));
        }
        node.checked.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The RPCs in the order in which they are asked: those behind come last.
    fn ranked(&self) -> Vec<&Arc<Node>> {
        let number = |node: &Node| node.number.load(Ordering::Relaxed);
        let best = self.nodes.iter().map(|node| number(node)).max().unwrap_or_default();
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by_cached_key(|node| (node.rests(), number(node).saturating_add(self.config.lag) < best));
        nodes
    }

    /// The answer of the first RPC that has one.
    async fn first<P: RpcSend, R: RpcRecv>(&self, method: &'static str, params: P) -> Result<R, Error> {
        let mut down = Vec::new();
        for node in self.ranked() {
            let answer = match self.check(node).await {
                Ok(()) => node.ask(method, params.clone()).await,
                Err(failure) => Err(failure),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(Failure::Answer(error)) => return Err(error),
                Err(Failure::Down(why)) => down.push(why),
            }
        }
        Err(Error::Down(down.join("; ")))
    }

    /// The answers of all RPCs, asked at once, with those that fail left out unless all do.
    async fn all<P, R>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<Vec<(Arc<Node>, Result<R, Error>)>, Error>
    where
        P: RpcSend + 'static,
        R: RpcRecv,
    {
        let mut asked = JoinSet::new();
        let mut down = Vec::new();
        let awake: Vec<_> = self.nodes.iter().enumerate().filter(|(_, node)| !node.rests()).collect();
        let awake = if awake.is_empty() { self.nodes.iter().enumerate().collect() } else { awake };
        for (index, node) in awake {
            match self.check(node).await {
                Err(Failure::Answer(error)) => return Err(error),
                Err(Failure::Down(why)) => down.push(why),
                Ok(()) => {
                    let (node, params) = (Arc::clone(node), params.clone());
                    asked.spawn(async move {
                        let answer = node.ask::<P, R>(method, params).await;
                        (index, node, answer)
                    });
                }
            }
        }
        let mut answers = Vec::new();
        while let Some(Ok((index, node, answer))) = asked.join_next().await {
            match answer {
                Ok(answer) => answers.push((index, node, Ok(answer))),
                Err(Failure::Answer(error)) => answers.push((index, node, Err(error))),
                Err(Failure::Down(why)) => down.push(why),
            }
        }
        if answers.is_empty() {
            return Err(Error::Down(down.join("; ")));
        }
        answers.sort_by_key(|(index, ..)| *index);
        Ok(answers.into_iter().map(|(_, node, answer)| (node, answer)).collect())
    }

    /// What all RPCs that have an answer agree on.
    // pay.chain.1
    async fn agreed<P, R>(&self, method: &'static str, params: P, what: &'static str) -> Result<R, Error>
    where
        P: RpcSend + 'static,
        R: RpcRecv + PartialEq,
    {
        let mut agreed: Option<Result<R, Error>> = None;
        for (node, answer) in self.all(method, params).await? {
            match (&agreed, &answer) {
                (Some(Ok(first)), Ok(answer)) if first != answer => {
                    return Err(Error::Disagree { url: node.shown.clone(), what });
                }
                // An error may only mean that this one has not got so far.
                (Some(Ok(_)), _) => {}
                _ => agreed = Some(answer),
            }
        }
        agreed.unwrap_or(Err(Error::Malformed("no answer")))
    }

    /// The newest block; every RPC tells how far it is.
    async fn latest(&self) -> Result<Head, Error> {
        let mut best = Head::default();
        for (node, block) in
            self.all::<_, Option<BlockReply>>("eth_getBlockByNumber", ("latest", false)).await?
        {
            let Ok(Some(block)) = block else { continue };
            let head = Head::from(&block);
            node.number.store(head.number, Ordering::Relaxed);
            if head.number >= best.number {
                best = head;
            }
        }
        if best == Head::default() { Err(Error::Malformed("the newest block")) } else { Ok(best) }
    }

    /// The newest final block that all RPCs know, which never goes back.
    async fn finalized(&self) -> Result<Head, Error> {
        let number = match self.config.depth {
            Some(depth) => self.latest().await?.number.saturating_sub(depth),
            None => self.finalized_number().await?,
        };
        let known = *self.finalized.lock().unwrap_or_else(PoisonError::into_inner);
        if known != Head::default() && self.head_at(known.number).await?.hash != known.hash {
            let url = self.nodes.first().map(|node| node.shown.clone()).unwrap_or_default();
            return Err(Error::Disagree { url, what: "a final block" });
        }
        if number <= known.number && known != Head::default() {
            return Ok(known);
        }
        let head = self.head_at(number).await?;
        *self.finalized.lock().unwrap_or_else(PoisonError::into_inner) = head;
        Ok(head)
    }

    /// The least that any RPC calls final.
    async fn finalized_number(&self) -> Result<u64, Error> {
        let answers = self.all::<_, Option<BlockReply>>("eth_getBlockByNumber", ("finalized", false)).await?;
        let numbers = answers
            .into_iter()
            .filter_map(|(_, block)| block.ok().flatten().map(|block| Head::from(&block).number));
        numbers.min().ok_or(Error::Malformed("the finalized block; set a number of blocks instead"))
    }

    /// The block of a height, on which all RPCs that have it agree.
    async fn head_at(&self, number: u64) -> Result<Head, Error> {
        let mut agreed: Option<Head> = None;
        let answers =
            self.all::<_, Option<BlockReply>>("eth_getBlockByNumber", (U64::from(number), false)).await?;
        for (node, block) in answers {
            let Ok(Some(block)) = block else { continue };
            let head = Head::from(&block);
            if head.number != number || agreed.is_some_and(|agreed| agreed.hash != head.hash) {
                return Err(Error::Disagree { url: node.shown.clone(), what: "a block's hash" });
            }
            agreed = Some(head);
        }
        agreed.ok_or(Error::Malformed("a block"))
    }

    async fn view(&self, at: At, view: View) -> Result<Bytes, Error> {
        let view = ViewParam::new(self.config.domain.contract, view);
        let number = match at {
            At::Latest => return self.first("eth_call", (view, "latest")).await,
            At::Finalized => self.finalized().await?.number,
            At::Block(number) => number,
        };
        self.agreed("eth_call", (view, U64::from(number)), "the contract's state").await
    }

    async fn logs(&self, first: u64, last: u64, kinds: Kinds) -> Result<Vec<Log>, Error> {
        let address = self.config.domain.contract;
        let topics = (!kinds.is_empty()).then_some([kinds]);
        let known = self.finalized.lock().unwrap_or_else(PoisonError::into_inner).number;
        let mut logs = Vec::new();
        let mut from = first;
        while from <= last {
            let to = last.min(from.saturating_add(self.config.span.saturating_sub(1)));
            let params =
                (LogsParam { address, from_block: U64::from(from), to_block: U64::from(to), topics },);
            let replies: Vec<LogReply> = if to <= known {
                self.agreed("eth_getLogs", params, "the contract's events").await?
            } else {
                self.first("eth_getLogs", params).await?
            };
            logs.extend(replies.into_iter().filter_map(|reply| reply.log(address, from, to)));
            let Some(next) = to.checked_add(1) else { break };
            from = next;
        }
        Ok(logs)
    }

    async fn purse(&self, owner: Address) -> Result<Purse, Error> {
        let wei: U256 = self.first("eth_getBalance", (owner, "latest")).await?;
        let nonce: U64 = self.first("eth_getTransactionCount", (owner, "latest")).await?;
        let pending: U64 = self.first("eth_getTransactionCount", (owner, "pending")).await?;
        let wei = Wei::try_from(wei).unwrap_or(Wei(u128::MAX));
        Ok(Purse { wei, nonce: nonce.to(), pending: pending.to::<u64>().max(nonce.to()) })
    }

    async fn fees(&self) -> Result<Fees, Error> {
        let price: U128 = self.first("eth_gasPrice", ()).await?;
        let block: BlockReply = self.first("eth_getBlockByNumber", ("latest", false)).await?;
        self.legacy.store(block.base_fee_per_gas.is_none(), Ordering::Relaxed);
        let Some(base) = block.base_fee_per_gas else {
            return Ok(Fees { base: 0, tip: price.to() });
        };
        let base: u128 = base.to();
        let tip: Result<U128, Error> = self.first("eth_maxPriorityFeePerGas", ()).await;
        // Not every chain knows the question.
        let tip = tip.map_or_else(|_| price.to::<u128>().saturating_sub(base), |tip| tip.to());
        Ok(Fees { base, tip })
    }

    /// Told to all, so that none can keep it back.
    async fn broadcast(&self, raw: Vec<u8>) -> Result<(), Error> {
        let mut refused = None;
        for (_, answer) in
            self.all::<_, B256>("eth_sendRawTransaction", (Bytes::copy_from_slice(&raw),)).await?
        {
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if known(&error) => return Ok(()),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let error = refused.unwrap_or(Error::Malformed("the answer to a transaction"));
        if poor(&error)
            && let Some((transaction, address, _)) = Transaction::decode(&raw)
        {
            let gas = Wei(transaction.max_fee.saturating_mul(transaction.gas.into()));
            let needs = gas.saturating_add(transaction.value);
            let has = self.purse(address).await?.wei;
            return Err(Error::NoGasMoney { address, has, needs });
        }
        Err(error)
    }

    async fn receipt(&self, transaction: B256) -> Result<Option<Receipt>, Error> {
        let reply: Option<ReceiptReply> = self.first("eth_getTransactionReceipt", (transaction,)).await?;
        reply.map(|reply| reply.receipt(transaction)).transpose()
    }
}

impl Chain for Rpc {
    fn domain(&self) -> Domain {
        self.inner.config.domain
    }

    fn legacy(&self) -> bool {
        self.inner.legacy.load(Ordering::Relaxed)
    }

    fn head(&self, at: At) -> Answer<'_, Head> {
        Box::pin(async move {
            match at {
                At::Latest => self.inner.latest().await,
                At::Finalized => self.inner.finalized().await,
                At::Block(number) => self.inner.head_at(number).await,
            }
        })
    }

    fn view(&self, at: At, view: View) -> Answer<'_, Bytes> {
        Box::pin(self.inner.view(at, view))
    }

    fn logs(&self, first: u64, last: u64, kinds: Kinds) -> Answer<'_, Vec<Log>> {
        Box::pin(self.inner.logs(first, last, kinds))
    }

    fn purse(&self, owner: Address) -> Answer<'_, Purse> {
        Box::pin(self.inner.purse(owner))
    }

    fn fees(&self) -> Answer<'_, Fees> {
        Box::pin(self.inner.fees())
    }

    fn broadcast(&self, raw: Vec<u8>) -> Answer<'_, ()> {
        Box::pin(self.inner.broadcast(raw))
    }

    fn receipt(&self, transaction: B256) -> Answer<'_, Option<Receipt>> {
        Box::pin(self.inner.receipt(transaction))
    }
}
