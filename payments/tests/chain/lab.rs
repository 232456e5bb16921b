//! A chain that a test has in its hand: embedded, embedded behind a server, or anvil.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use alloy::rpc::client::RpcClient;
use alloy_primitives::{Address, B256, Bytes, U256};
use payments::abi::creation_code;
use payments::amount::Wei;
use payments::chain::embedded::{Embedded, Options};
use payments::chain::rpc::{Config, Rpc};
use payments::chain::transaction::Transaction;
use payments::chain::{Chain, Receipt};
use payments::session::{Domain, Signer};
use serde_json::{Value, json};

use crate::server::Server;

pub(crate) enum Lab {
    Embedded(Embedded),
    Server(Embedded, Rpc),
    Anvil(Anvil, Rpc),
}

impl Lab {
    /// Everything that there is on this machine.
    pub(crate) async fn all() -> Vec<(&'static str, Self)> {
        let mut labs = vec![("embedded", Self::Embedded(embedded())), ("server", Self::server().await)];
        if let Some(anvil) = Anvil::start().await {
            let rpc = anvil.connect().await;
            labs.push(("anvil", Self::Anvil(anvil, rpc)));
        }
        labs
    }

    pub(crate) async fn server() -> Self {
        let chain = embedded();
        let server = Server::start(chain.clone()).await;
        let rpc = Rpc::connect(config(vec![server.url.clone()], chain.domain())).await.unwrap();
        Self::Server(chain, rpc)
    }

    pub(crate) fn chain(&self) -> Arc<dyn Chain> {
        match self {
            Self::Embedded(chain) => Arc::new(chain.clone()),
            Self::Server(_, rpc) | Self::Anvil(_, rpc) => Arc::new(rpc.clone()),
        }
    }

    pub(crate) async fn mine(&self, blocks: u64) {
        match self {
            Self::Embedded(chain) | Self::Server(chain, _) => {
                for _ in 0..blocks {
                    chain.mine().unwrap();
                }
            }
            Self::Anvil(anvil, _) => drop(anvil.ask("anvil_mine", json!([format!("{blocks:#x}")])).await),
        }
    }

    pub(crate) async fn set_instant(&self, instant: bool) {
        match self {
            Self::Embedded(chain) | Self::Server(chain, _) => chain.set_instant(instant),
            Self::Anvil(anvil, _) => drop(anvil.ask("evm_setAutomine", json!([instant])).await),
        }
    }

    /// Gives a new address ten ether.
    pub(crate) async fn fund(&self, address: Address) {
        let wei = Wei(10_000_000_000_000_000_000);
        match self {
            Self::Embedded(chain) | Self::Server(chain, _) => chain.give(address, wei).unwrap(),
            Self::Anvil(anvil, _) => {
                anvil.ask("anvil_setBalance", json!([address, U256::from(wei.0)])).await;
            }
        }
    }

    /// Takes back the newest blocks with their transactions, and makes one more empty ones.
    pub(crate) async fn reorganise(&self, blocks: u64) {
        match self {
            Self::Embedded(chain) | Self::Server(chain, _) => chain.reorganise(blocks, true).unwrap(),
            Self::Anvil(anvil, _) => {
                anvil.ask("anvil_reorg", json!([blocks, []])).await;
                anvil.ask("anvil_dropAllTransactions", json!([])).await;
                anvil.ask("anvil_mine", json!(["0x1"])).await;
            }
        }
    }
}

/// Waits until a transaction is in a block.
pub(crate) async fn mined(chain: &Arc<dyn Chain>, hash: B256) -> Receipt {
    for _ in 0..6000 {
        if let Some(receipt) = chain.receipt(hash).await.unwrap() {
            return receipt;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{hash} is in no block")
}

pub(crate) fn embedded() -> Embedded {
    Embedded::new(Options { time: 1_000_000, ..Options::default() }).unwrap()
}

pub(crate) fn config(urls: Vec<String>, domain: Domain) -> Config {
    let (timeout, pause) = (Duration::from_mins(1), Duration::from_millis(1));
    Config { timeout, pause, ..Config::new(urls, domain) }
}

pub(crate) fn signer(byte: u8) -> Signer {
    Signer::from_bytes([byte; 32]).unwrap()
}

/// The program, ended when dropped.
pub(crate) struct Anvil {
    child: Child,
    pub(crate) url: String,
    client: RpcClient,
    pub(crate) domain: Domain,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Anvil {
    /// Starts it, with the contract; `None` if it is not installed, which is a failure where the environment says `CI`.
    pub(crate) async fn start() -> Option<Self> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/anvil/node_modules/@foundry-rs");
        let packages = std::fs::read_dir(folder).into_iter().flatten();
        let program = packages
            .filter_map(|package| Some(package.ok()?.path().join("bin/anvil")))
            .find(|path| path.is_file());
        let Some(program) = program else {
            assert!(
                std::env::var_os("CI").is_none(),
                "anvil is not installed: npm ci in payments/tests/anvil"
            );
            println!("skipped: anvil is not installed (npm ci in payments/tests/anvil)");
            return None;
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let port = port.to_string();
        let mut command = Command::new(program);
        command.args(["--port", &port, "--slots-in-an-epoch", "1", "--silent", "--chain-id", "31337"]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let url = format!("http://127.0.0.1:{port}");
        let client = RpcClient::new_http(url.parse().unwrap());
        let contract = deployer().address().create(0);
        let anvil = Self { child, url, client, domain: Domain { chain_id: 31_337, contract } };
        for _ in 0..600 {
            if anvil.try_ask("eth_chainId", json!([])).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anvil.deploy().await;
        Some(anvil)
    }

    async fn deploy(&self) {
        let deployer = deployer();
        let ether = U256::from(10_000_000_000_000_000_000u128);
        self.ask("anvil_setBalance", json!([deployer.address(), ether])).await;
        let deploy = Transaction {
            chain_id: self.domain.chain_id,
            nonce: 0,
            gas: 10_000_000,
            max_fee: 100_000_000_000,
            tip: 1,
            to: None,
            value: Wei::ZERO,
            data: creation_code(),
        };
        let signed = deploy.sign(&deployer, true);
        let hash = self.ask("eth_sendRawTransaction", json!([Bytes::from(signed.raw)])).await;
        // It says so before it has made the block.
        for _ in 0..6000 {
            if !self.ask("eth_getTransactionReceipt", json!([hash])).await.is_null() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn connect(&self) -> Rpc {
        Rpc::connect(config(vec![self.url.clone()], self.domain)).await.unwrap()
    }

    async fn try_ask(&self, method: &'static str, params: Value) -> Result<Value, String> {
        self.client.request::<Value, Value>(method, params).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn ask(&self, method: &'static str, params: Value) -> Value {
        self.try_ask(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }
}

fn deployer() -> Signer {
    signer(0xde)
}
