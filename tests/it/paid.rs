//! Networks of processes that pay each other on a chain of its own process.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use super::lab::Host;
use super::processes::{Process, command, document, eventually, free_addresses, text};
use super::socks::{connect, ip};
use super::target::{Target, pattern};

pub(crate) const CHAIN: u64 = 31_337;
/// An account that anvil signs for.
pub(crate) const RICH: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
pub(crate) const PASSWORD: &str = "a word that passes";

/// A chain with the contract on it; ended when dropped.
pub(crate) struct Anvil {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) contract: String,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where it is; nowhere if it is not installed, which is a failure where the environment says `CI`.
pub(crate) fn program() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("payments/tests/anvil/node_modules/@foundry-rs");
    let packages = fs::read_dir(folder).into_iter().flatten();
    let mut programs = packages.filter_map(|package| Some(package.ok()?.path().join("bin/anvil")));
    let found = programs.find(|program| program.is_file());
    if found.is_none() {
        let missing = "anvil is not installed (npm ci in payments/tests/anvil)";
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("skipped: {missing}");
    }
    found
}

impl Anvil {
    /// Starts it.
    pub(crate) fn start(program: &Path) -> Self {
        Self::start_with(program, &[])
    }

    /// Starts it with more arguments.
    pub(crate) fn start_with(program: &Path, more: &[&str]) -> Self {
        // Another process may take the port before it does.
        let started = (0..3).find_map(|_| {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let mut run = Command::new(program);
            run.args(more);
            Some((Self::launch(run, address)?, address))
        });
        let (child, address) = started.expect("anvil ends at once");
        Self::deployed(child, address)
    }

    /// Starts it on another host; it is asked from within that host.
    pub(crate) fn start_on(program: &Path, host: &Host) -> Self {
        let (run, address) = Self::command_on(program, host);
        host.within(|| Self::deployed(Self::launch(run, address).expect("anvil ends at once"), address))
    }

    fn command_on(program: &Path, host: &Host) -> (Command, SocketAddr) {
        let address = SocketAddr::from((host.address, 8545));
        let mut run = Command::new(program);
        run.args(["--host", &host.address.to_string(), "--no-request-size-limit"]);
        (host.command(&run), address)
    }

    /// Starts it, unless it ends at once.
    fn launch(mut run: Command, address: SocketAddr) -> Option<Child> {
        let (port, chain) = (address.port().to_string(), CHAIN.to_string());
        run.args(["--port", &port, "--chain-id", &chain, "--slots-in-an-epoch", "1", "--block-time", "1"]);
        let mut child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // It listens before it answers.
        let chain = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [] });
        eventually("anvil", || {
            let ended = child.try_wait().unwrap().is_some();
            (ended || answer(address, &chain).is_ok()).then_some(())
        });
        child.try_wait().unwrap().is_none().then_some(child)
    }

    fn deployed(child: Child, address: SocketAddr) -> Self {
        let mut anvil = Self { child, address, contract: String::new() };
        let code = payments::abi::creation_code().to_string();
        let receipt = anvil.send(&json!({ "from": RICH, "data": code, "gas": "0x989680" }));
        anvil.contract = receipt["contractAddress"].as_str().unwrap().to_owned();
        anvil
    }

    /// Ends it at once; its blocks and its state, for [`Anvil::again_on`].
    pub(crate) fn kill(&mut self) -> Value {
        let state = self.ask("anvil_dumpState", &json!([true]));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        state
    }

    /// Starts it on that host as it was.
    pub(crate) fn again_on(&mut self, program: &Path, host: &Host, state: &Value) {
        let (run, address) = Self::command_on(program, host);
        host.within(|| {
            self.child = Self::launch(run, address).expect("anvil ends at once");
            assert_eq!(self.ask("anvil_loadState", &json!([state])), true);
        });
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn ask(&self, method: &str, params: &Value) -> Value {
        let question = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer = answer(self.address, &question).unwrap();
        assert_eq!(answer["error"], Value::Null, "{method}");
        answer["result"].clone()
    }

    /// Sends a transaction of the rich account; its receipt.
    pub(crate) fn send(&self, transaction: &Value) -> Value {
        let hash = self.ask("eth_sendTransaction", &json!([transaction]));
        eventually("a receipt", || {
            Some(self.ask("eth_getTransactionReceipt", &json!([hash]))).filter(|receipt| !receipt.is_null())
        })
    }

    /// Gives an address ten ether.
    pub(crate) fn fund(&self, address: &str) {
        self.ask("anvil_setBalance", &json!([address, "0x8ac7230489e80000"]));
    }
}

/// What the chain there answers; an error if the connection ends before a whole answer.
fn answer(address: SocketAddr, question: &Value) -> io::Result<Value> {
    let body = question.to_string();
    let head = "POST / HTTP/1.1\r\nHost: anvil\r\nContent-Type: application/json\r\nConnection: close\r\n";
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    // What has come before a reset is in `bytes`.
    let end = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(body).map_err(|error| end.err().unwrap_or_else(|| error.into()))
}

/// A command with the wallets' password in its environment.
pub(crate) fn with_password(arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("CHIVE_WALLET_PASSWORD", PASSWORD);
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    with_password(arguments).output().unwrap()
}

/// The document of a command that must succeed.
pub(crate) fn ask(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a command that must fail with this code says.
pub(crate) fn refused(code: i32, output: &Output) -> String {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stderr).to_owned()
}

/// Makes a wallet; its address.
pub(crate) fn create(path: &Path) -> String {
    let made = ask(&["wallet", "create", "--light", "--wallet", path.to_str().unwrap()]);
    made["address"].as_str().unwrap().to_owned()
}

/// A network of processes that pay on a chain.
pub(crate) struct Paid {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) anvil: Anvil,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Paid {
    /// Writes its files, with a wallet for everybody: `relay1.json` and so on, and `client.json`.
    pub(crate) fn new(program: &Path, relays: u8) -> Self {
        Self::on(Anvil::start(program), relays)
    }

    /// [`Paid::new`] on this chain.
    pub(crate) fn on(anvil: Anvil, relays: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addresses = free_addresses(relays);
        let owners: Vec<_> = (1..=relays)
            .map(|number| create(&folder.path().join(format!("relay{number}.json"))))
            .chain([create(&folder.path().join("client.json"))])
            .collect();
        for owner in &owners {
            anvil.fund(owner);
        }
        let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let out = folder.path().join("net");
        let base = ["network", "sample", "--relays", &relays.to_string(), "--addresses", &list.join(",")]
            .map(str::to_owned);
        let more = ["--exit-allow", "127.0.0.1:*", "--days", "2", "--out", out.to_str().unwrap()];
        let paid =
            ["--chain-id", "31337", "--contract", &anvil.contract, "--rpc", &anvil.url()].map(str::to_owned);
        let prices = ["--ask", "137438953472", "--exit-ask", "274877906944"];
        let owners = owners.split_last().unwrap().1.join(",");
        let arguments: Vec<_> =
            base.iter().chain(&paid).map(String::as_str).chain(more).chain(prices).collect();
        document(&[&arguments[..], &["--owner", &owners]].concat());
        let net = Self { folder, anvil, addresses };
        for number in 1..=relays {
            net.name_wallet(&format!("relay{number}/relay.toml"), &format!("relay{number}.json"));
        }
        net.name_wallet("client.toml", "client.json");
        net
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join("net").join(path)
    }

    pub(crate) fn name_wallet(&self, config: &str, wallet: &str) {
        let (config, wallet) = (self.file(config), self.folder.path().join(wallet));
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{text}\n[wallet]\nfile = {wallet:?}\nmax_draw = \"0.01 ether\"\n"))
            .unwrap();
    }

    /// A deposit from the client's wallet on a network of another chain or contract.
    pub(crate) fn deposit_elsewhere(&self, chain: &str, contract: &str) -> Output {
        let out = self.folder.path().join(chain);
        let paid = ["--chain-id", chain, "--contract", contract, "--owner", RICH, "--rpc", &self.anvil.url()]
            .map(str::to_owned);
        let paid: Vec<_> = paid.iter().map(String::as_str).collect();
        let sample = ["network", "sample", "--relays", "1", "--out", out.to_str().unwrap()];
        let written = document(&[&sample[..], &paid].concat());
        let wallet = self.folder.path().join("client.json");
        let (network, signer) = (written["network"].as_str().unwrap(), written["signer"].as_str().unwrap());
        let at = ["--network", network, "--signer", signer, "--wallet", wallet.to_str().unwrap()];
        run(&[&["wallet", "deposit", "1 ether", "--yes"], &at[..]].concat())
    }

    /// Adds a line to a configuration file, in the section of its wallet.
    pub(crate) fn set(&self, config: &str, line: &str) {
        let config = self.file(config);
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{text}{line}\n")).unwrap();
    }

    /// Fills the pot of a configuration file's wallet.
    pub(crate) fn fill(&self, config: &str) {
        let config = self.file(config);
        let at = ["--config", config.to_str().unwrap(), "--yes"];
        let done = ask(&[&["wallet", "deposit", "2 ether"], &at[..]].concat());
        assert_eq!(done["transactions"].as_array().unwrap().len(), 2, "{done}");
        let done = ask(&[&["wallet", "reserve", "2 ether"], &at[..]].concat());
        assert_eq!(
            (&done["balance"], &done["reserve"]),
            (&"2000000000000000000".into(), &"2000000000000000000".into())
        );
    }

    /// The command that runs a relay.
    pub(crate) fn relay_command(&self, number: usize) -> Command {
        let config = self.file(&format!("relay{number}/relay.toml"));
        with_password(&["relay", "run", "--config", config.to_str().unwrap(), "--output", "json"])
    }

    /// Starts a relay and waits until it runs; and its id.
    pub(crate) fn relay(&self, number: usize) -> (Process, String) {
        let relay = Process::run(self.folder.path(), self.relay_command(number));
        let id = relay.ready("relay")["id"].as_str().unwrap().to_owned();
        (relay, id)
    }

    /// Starts all relays, and registers them; every pot is filled.
    pub(crate) fn relays(&self) -> Vec<Process> {
        self.fill("client.toml");
        let start = |number: usize| {
            let config = format!("relay{number}/relay.toml");
            self.fill(&config);
            let (relay, id) = self.relay(number);
            ask(&["wallet", "register", &id, "--yes", "--config", self.file(&config).to_str().unwrap()]);
            relay
        };
        (1..=self.addresses.len()).map(start).collect()
    }

    /// Starts the client; where its proxy listens.
    pub(crate) fn client(&self) -> (Process, SocketAddr) {
        let config = self.file("client.toml");
        let arguments =
            ["up", "--config", config.to_str().unwrap(), "--socks", "127.0.0.1:0", "--output", "json"];
        let client = Process::run(self.folder.path(), with_password(&arguments));
        let proxy = client.ready("client")["listen"].as_str().unwrap().parse().unwrap();
        (client, proxy)
    }

    /// What a relay has earned.
    pub(crate) fn earned(&self, number: usize) -> Value {
        let control = self.file(&format!("relay{number}/run/control.sock"));
        ask(&["earnings", "--control", control.to_str().unwrap()])
    }

    /// What the client has paid.
    pub(crate) fn paid(&self) -> Value {
        ask(&["status", "--control", self.file("run/control.sock").to_str().unwrap()])["money"].clone()
    }
}

/// An amount of a document.
pub(crate) fn wei(document: &Value, key: &str) -> u128 {
    document[key].as_str().unwrap().parse().unwrap()
}

/// Downloads through a proxy; whether all of it came, and right.
pub(crate) fn download(proxy: SocketAddr, target: &Target, count: usize) -> bool {
    let Ok(mut stream) = connect(proxy, None, &ip(target.address)) else { return false };
    let mut bytes = Vec::new();
    let done =
        stream.write_all(format!("give {count}\n").as_bytes()).and_then(|()| stream.read_to_end(&mut bytes));
    let whole = pattern(count);
    assert!(whole.starts_with(&bytes), "wrong bytes");
    done.is_ok() && bytes == whole
}
