//! A JSON-RPC server in front of an embedded chain, which fails and lies as it is told.

use std::sync::{Arc, Mutex};

use alloy_primitives::{Address, B256, Bytes, U256};
use payments::abi::runtime_code;
use payments::amount::Wei;
use payments::chain::embedded::Embedded;
use payments::chain::{At, Chain, Error, Head, View};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// What is wrong with the server.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub(crate) struct Faults {
    /// Answers so many questions with an overload error.
    pub(crate) busy: u32,
    /// Closes connections without an answer.
    pub(crate) down: bool,
    /// Answers with something that is no JSON.
    pub(crate) garbage: bool,
    /// Knows nothing after this block.
    pub(crate) stuck: Option<u64>,
    /// Tells of other blocks from this height on.
    pub(crate) forked: Option<u64>,
    /// The contract's answers are all zeros.
    pub(crate) zeros: bool,
    /// The contract is not there yet up to this block.
    pub(crate) young: Option<u64>,
    /// Keeps the contract's events back.
    pub(crate) silent: bool,
    /// The chain id it tells.
    pub(crate) chain_id: Option<u64>,
    /// The code it tells.
    pub(crate) code: Option<Bytes>,
    /// Blocks without a base fee.
    pub(crate) legacy: bool,
    /// Says that it took a transaction, and throws it away.
    pub(crate) swallows: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) faults: Arc<Mutex<Faults>>,
    /// How many questions were asked.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    chain: Embedded,
}

impl Server {
    pub(crate) async fn start(chain: Embedded) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/secret-key", listener.local_addr().unwrap());
        let server = Self { url, faults: Arc::default(), asked: Arc::default(), chain };
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = accepting.clone();
                tokio::spawn(async move { server.serve(stream).await });
            }
        });
        server
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().unwrap());
    }

    /// Answers the requests of one connection until it closes.
    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut bytes = Vec::new();
        loop {
            let body = loop {
                if let Some(body) = body(&bytes) {
                    break body;
                }
                let mut piece = [0; 4096];
                let n = stream.read(&mut piece).await.ok().filter(|n| *n > 0)?;
                bytes.extend(&piece[..n]);
            };
            bytes.clear();
            let faults = self.faults.lock().unwrap().clone();
            if faults.down {
                return None;
            }
            let request: Value = serde_json::from_slice(&body).unwrap();
            let answer = if faults.garbage {
                "{\"jsonrpc\": \"2.0\", nonsense".to_owned()
            } else {
                self.reply(&request, &faults).await.to_string()
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            stream.write_all([head, answer].concat().as_bytes()).await.ok()?;
        }
    }

    async fn reply(&self, request: &Value, faults: &Faults) -> Value {
        let method = request["method"].as_str().unwrap();
        self.asked.lock().unwrap().push(method.to_owned());
        if faults.busy > 0 {
            self.set(|faults| faults.busy -= 1);
            return json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32005, "message": "limit exceeded"}});
        }
        match self.answer(method, &request["params"], faults).await {
            Ok(result) => json!({"jsonrpc": "2.0", "id": request["id"], "result": result}),
            Err(error) => {
                let (code, message) = match error {
                    Error::Reverted(why) => (3, format!("execution reverted: {why}")),
                    Error::NonceUsed => (-32000, "nonce too low: next nonce 9, tx nonce 1".to_owned()),
                    Error::Underpriced => (-32000, "replacement transaction underpriced".to_owned()),
                    Error::NoGasMoney { .. } => {
                        (-32000, "insufficient funds for gas * price + value".to_owned())
                    }
                    other => (-32000, other.to_string()),
                };
                json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": message}})
            }
        }
    }

    async fn answer(&self, method: &str, params: &Value, faults: &Faults) -> Result<Value, Error> {
        let chain = &self.chain;
        let at = |tag: &Value| match tag.as_str().unwrap() {
            "latest" | "pending" => faults.stuck.map_or(At::Latest, At::Block),
            "finalized" => faults.stuck.map_or(At::Finalized, |stuck| At::Block(stuck.saturating_sub(2))),
            _ => At::Block(number(tag)),
        };
        let address = |value: &Value| value.as_str().unwrap().parse::<Address>().unwrap();
        let hash = |value: &Value| value.as_str().unwrap().parse::<B256>().unwrap();
        let hidden = |number: u64| faults.stuck.is_some_and(|stuck| number > stuck);
        Ok(match method {
            "eth_chainId" => hex(faults.chain_id.unwrap_or_else(|| chain.domain().chain_id)),
            "eth_getCode" if address(&params[0]) == chain.domain().contract => {
                json!(faults.code.clone().unwrap_or_else(runtime_code))
            }
            "eth_getCode" => json!("0x"),
            "eth_getBlockByNumber" => match chain.head(at(&params[0])).await {
                Ok(head) if !hidden(head.number) => self.block(head, faults).await,
                _ => Value::Null,
            },
            "eth_call" => {
                let call = &params[0];
                let from = call["from"].as_str().unwrap().parse().unwrap();
                let value: U256 = call["value"].as_str().unwrap().parse().unwrap();
                let data: Bytes = call["data"].as_str().unwrap().parse().unwrap();
                let value = Wei::try_from(value).unwrap();
                let asked = params[1].as_str().filter(|at| at.starts_with("0x"));
                if asked.is_some() && faults.young.is_some_and(|young| number(&params[1]) <= young) {
                    return Ok(json!("0x"));
                }
                let output = chain.view(at(&params[1]), View { from, value, data }).await?;
                if faults.zeros { json!(Bytes::from(vec![0; output.len()])) } else { json!(output) }
            }
            "eth_getLogs" if faults.silent => json!([]),
            "eth_getLogs" => {
                let logs =
                    chain.logs(number(&params[0]["fromBlock"]), number(&params[0]["toBlock"]), &[]).await?;
                let kinds: Option<Vec<B256>> =
                    serde_json::from_value(params[0]["topics"][0].clone()).unwrap();
                let wanted = |log: &payments::chain::Log| {
                    kinds.as_ref().is_none_or(|kinds| kinds.contains(&log.data.topics()[0]))
                };
                let log = |log: payments::chain::Log| {
                    json!({"address": chain.domain().contract, "blockNumber": hex(log.block), "blockHash": log.hash,
                        "transactionHash": log.transaction, "topics": log.data.topics(), "data": log.data.data})
                };
                logs.into_iter().filter(|log| !hidden(log.block)).filter(wanted).map(log).collect()
            }
            "eth_getBalance" => json!(U256::from(chain.purse(address(&params[0])).await?.wei.0)),
            "eth_getTransactionCount" => {
                let purse = chain.purse(address(&params[0])).await?;
                hex(if params[1] == "pending" { purse.pending } else { purse.nonce })
            }
            "eth_gasPrice" => json!(U256::from(chain.fees().await?.price())),
            "eth_sendRawTransaction" => {
                let raw: Bytes = params[0].as_str().unwrap().parse().unwrap();
                if !faults.swallows {
                    chain.broadcast(raw.to_vec()).await?;
                }
                json!(alloy_primitives::keccak256(raw))
            }
            "eth_getTransactionReceipt" => match chain.receipt(hash(&params[0])).await? {
                Some(receipt) if !hidden(receipt.block) => json!({"transactionHash": params[0],
                    "blockNumber": hex(receipt.block), "blockHash": receipt.hash, "status": hex(receipt.success.into()),
                    "gasUsed": hex(receipt.gas), "effectiveGasPrice": U256::from(receipt.price)}),
                _ => Value::Null,
            },
            other => return Err(Error::Rejected(format!("the method {other} does not exist"))),
        })
    }

    async fn block(&self, mut head: Head, faults: &Faults) -> Value {
        if faults.forked.is_some_and(|from| head.number >= from) {
            head.hash = !head.hash;
        }
        let mut block = json!({"number": hex(head.number), "hash": head.hash, "timestamp": hex(head.time)});
        if !faults.legacy {
            block["baseFeePerGas"] = json!(U256::from(self.chain.fees().await.unwrap().base));
        }
        block
    }
}

/// A number of JSON-RPC.
fn number(value: &Value) -> u64 {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).unwrap();
    u64::from_str_radix(digits, 16).unwrap()
}

fn hex(number: u64) -> Value {
    json!(format!("{number:#x}"))
}

/// The body of an HTTP request, once all of it has come.
fn body(bytes: &[u8]) -> Option<Vec<u8>> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length =
        head.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim().parse::<usize>().unwrap();
    bytes.get(end..end + length).map(<[u8]>::to_vec)
}
