//! Wallets, and daemons that pay each other on a chain of its own process.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use super::processes::{Process, command, document, eventually, free_addresses, text};
use super::socks::{connect, ip};
use super::target::{Target, hash, pattern};

const CHAIN: u64 = 31_337;
/// An account that anvil signs for.
const RICH: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";
const PASSWORD: &str = "a word that passes";

/// A chain with the contract on it; ended when dropped.
struct Anvil {
    child: Child,
    address: SocketAddr,
    contract: String,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where it is; nowhere if it is not installed, which is a failure where the environment says `CI`.
fn program() -> Option<PathBuf> {
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
    fn start(program: &Path) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (port, chain) = (address.port().to_string(), CHAIN.to_string());
        let mut run = Command::new(program);
        run.args(["--port", &port, "--chain-id", &chain, "--slots-in-an-epoch", "1", "--block-time", "1"]);
        let child = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut anvil = Self { child, address, contract: String::new() };
        eventually("anvil", || TcpStream::connect(address).ok());
        let code = payments::abi::creation_code().to_string();
        let receipt = anvil.send(&json!({ "from": RICH, "data": code, "gas": "0x989680" }));
        anvil.contract = receipt["contractAddress"].as_str().unwrap().to_owned();
        anvil
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn ask(&self, method: &str, params: &Value) -> Value {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head =
            "POST / HTTP/1.1\r\nHost: anvil\r\nContent-Type: application/json\r\nConnection: close\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, answer) = answer.split_once("\r\n\r\n").unwrap();
        let answer: Value = serde_json::from_str(answer).unwrap();
        assert_eq!(answer["error"], Value::Null, "{method}");
        answer["result"].clone()
    }

    /// Sends a transaction of the rich account; its receipt.
    fn send(&self, transaction: &Value) -> Value {
        let hash = self.ask("eth_sendTransaction", &json!([transaction]));
        eventually("a receipt", || {
            Some(self.ask("eth_getTransactionReceipt", &json!([hash]))).filter(|receipt| !receipt.is_null())
        })
    }

    /// Gives an address ten ether.
    fn fund(&self, address: &str) {
        self.ask("anvil_setBalance", &json!([address, "0x8ac7230489e80000"]));
    }
}

/// A command with the wallets' password in its environment.
fn with_password(arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("CHIVE_WALLET_PASSWORD", PASSWORD);
    command
}

fn run(arguments: &[&str]) -> Output {
    with_password(arguments).output().unwrap()
}

/// The document of a command that must succeed.
fn ask(arguments: &[&str]) -> Value {
    let output = run(&[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a command that must fail with this code says.
fn refused(code: i32, output: &Output) -> String {
    assert_eq!(output.status.code(), Some(code), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stderr).to_owned()
}

/// Makes a wallet; its address.
fn create(path: &Path) -> String {
    let made = ask(&["wallet", "create", "--light", "--wallet", path.to_str().unwrap()]);
    made["address"].as_str().unwrap().to_owned()
}

/// A network of processes that pay on a chain.
struct Paid {
    folder: tempfile::TempDir,
    anvil: Anvil,
    addresses: Vec<SocketAddr>,
}

impl Paid {
    /// Writes its files, with a wallet for everybody: `relay1.json` and so on, and `client.json`.
    fn new(program: &Path, relays: u8) -> Self {
        let anvil = Anvil::start(program);
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

    fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join("net").join(path)
    }

    fn name_wallet(&self, config: &str, wallet: &str) {
        let (config, wallet) = (self.file(config), self.folder.path().join(wallet));
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{text}\n[wallet]\nfile = {wallet:?}\nmax_draw = \"0.01 ether\"\n"))
            .unwrap();
    }

    /// A deposit from the client's wallet on a network of another chain or contract.
    fn deposit_elsewhere(&self, chain: &str, contract: &str) -> Output {
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

    /// Fills the pot of a configuration file's wallet.
    fn fill(&self, config: &str) {
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

    fn relay(&self, number: usize) -> (Process, String) {
        let config = self.file(&format!("relay{number}/relay.toml"));
        let arguments = ["relay", "run", "--config", config.to_str().unwrap(), "--output", "json"];
        let relay = Process::run(self.folder.path(), with_password(&arguments));
        let id = relay.ready("relay")["id"].as_str().unwrap().to_owned();
        (relay, id)
    }
}

#[test]
fn a_key_is_taken_over_and_no_wallet_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let [key, wallet] = ["key", "wallet.json"].map(|name| folder.path().join(name));
    let wallet = wallet.to_str().unwrap();
    // That of anvil's first account.
    fs::write(&key, "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80\n").unwrap();
    let import = ["wallet", "import", "--light", "--wallet", wallet, "--key-file", key.to_str().unwrap()];
    assert_eq!(ask(&import)["address"], RICH);
    assert_eq!(ask(&["wallet", "show", "--wallet", wallet])["address"], RICH);
    for again in [&import[..], &["wallet", "create", "--wallet", wallet]] {
        assert!(refused(1, &run(again)).contains("never overwritten"));
    }
    assert!(refused(2, &run(&["wallet", "deposit", "1 euro", "--wallet", wallet])).contains("0.05ether"));
    assert!(
        refused(2, &run(&["wallet", "deposit", "1 ether", "--wallet", wallet])).contains("--network FILE")
    );
}

#[test]
fn a_wallet_moves_ether_to_its_pot_and_back() {
    let Some(program) = program() else { return };
    let net = Paid::new(&program, 1);
    let config = net.file("client.toml");
    let config = config.to_str().unwrap();
    let wallet = |words: &[&str]| run(&[&["wallet"], words, &["--config", config]].concat());
    let show = || {
        let mut shown = ask(&["wallet", "show", "--config", config]);
        // What a redemption costs moves with the chain's base fee.
        let cost = shown["redemption"].take();
        assert!(cost.as_str().unwrap().parse::<u128>().unwrap() > 0);
        shown
    };

    let empty = show();
    assert_eq!((&empty["balance"], &empty["signer"]), (&"0".into(), &Value::Null));
    assert_eq!(empty["ether"], "10000000000000000000");

    // Nothing is done unasked, nor what cannot be paid for or would fail.
    let said = refused(2, &wallet(&["deposit", "1 ether"]));
    assert!(
        said.contains("fee on chain 31337: about") && said.contains("balance: 0 wei -> 1 ether"),
        "{said}"
    );
    assert!(said.contains("--yes"), "{said}");
    let said = refused(6, &wallet(&["deposit", "11 ether", "--yes"]));
    assert!(said.contains("send it ether"), "{said}");
    let said = refused(6, &wallet(&["withdraw", "1 ether", "--yes"]));
    assert!(said.contains("the balance is 0 wei only"), "{said}");
    let said = refused(1, &wallet(&["withdraw", "--reserve", "--yes"]));
    assert!(said.contains("start to unlock it first"), "{said}");
    assert_eq!(show(), empty);

    net.fill("client.toml");
    let full = show();
    assert_eq!((&full["signer"], &full["problem"]), (&full["address"], &Value::Null), "{full}");
    assert!(wallet(&["reserve", "1 ether", "--from-balance", "--yes"]).status.success());
    assert!(wallet(&["withdraw", "0.25 ether", "--yes"]).status.success());
    let id = "ab".repeat(32);
    assert!(wallet(&["register", &id, "--yes"]).status.success());
    assert_eq!(show()["registered"], true);
    let unlocked = wallet(&["unlock", "--yes"]);
    assert!(unlocked.status.success() && text(&unlocked.stderr).contains("registration ends"));
    let now = show();
    assert_eq!(
        (&now["balance"], &now["reserve"]),
        (&"750000000000000000".into(), &"3000000000000000000".into())
    );
    assert!(
        now["unlock_at"].is_u64() && now["problem"].as_str().unwrap().contains("unlock --cancel"),
        "{now}"
    );
    let said = refused(1, &wallet(&["withdraw", "--reserve", "--yes"]));
    assert!(said.contains("not before unix time"), "{said}");
    assert!(wallet(&["unlock", "--cancel", "--yes"]).status.success());
    assert!(wallet(&["withdraw", "--yes"]).status.success());
    let now = show();
    assert_eq!((&now["balance"], &now["registered"]), (&"0".into(), &false.into()));
    // Who has begun to unlock waits before the next registration.
    let said = refused(1, &wallet(&["register", &id, "--yes"]));
    assert!(said.contains("not before unix time"), "{said}");
}

#[test]
fn bad_wallets_and_chains_say_what_to_do() {
    let Some(program) = program() else { return };
    let net = Paid::new(&program, 1);
    let config = net.file("client.toml");
    let at = ["--config", config.to_str().unwrap(), "--yes"];
    let deposit = [&["wallet", "deposit", "1 ether"], &at[..]].concat();

    let output = with_password(&deposit).env("CHIVE_WALLET_PASSWORD", "another").output().unwrap();
    let said = refused(1, &output);
    assert!(said.contains("the password of the wallet") && said.contains("is wrong"), "{said}");
    let output = with_password(&deposit).env_remove("CHIVE_WALLET_PASSWORD").output().unwrap();
    let said = refused(1, &output);
    assert!(said.contains("--password-file"), "{said}");
    let file = net.folder.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let by_file = [&deposit[..], &["--password-file", file.to_str().unwrap()]].concat();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(refused(1, &command(&by_file).output().unwrap()).contains("chmod 600"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(command(&by_file).output().unwrap().status.success());

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = format!("http://{closed}");
    let said = refused(1, &run(&[&deposit[..], &["--rpc", &down]].concat()));
    assert!(said.contains("no RPC answers") && said.contains("check the network"), "{said}");
    for (chain, contract, what) in [
        ("5", "0x5fbdb2315678afecb367f032d93f642f64180aa3", "serves chain 31337, not 5"),
        ("31337", "0x1000000000000000000000000000000000000001", "there is no contract at"),
    ] {
        let said = refused(1, &net.deposit_elsewhere(chain, contract));
        assert!(said.contains(what), "{said}");
    }
    // A daemon waits for the chain, and says so.
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}rpc = [\"{down}\"]\n")).unwrap();
    let arguments = ["up", "--config", config.to_str().unwrap(), "--hops", "1", "--socks", "127.0.0.1:0"];
    let client = Process::run(net.folder.path(), with_password(&arguments));
    client.logs("no RPC answers");
    client.signal("TERM");
    // Without a wallet it does not start.
    let (free, _) = text.split_once("[wallet]").unwrap();
    fs::write(&config, free).unwrap();
    let said = refused(1, &run(&arguments));
    assert!(said.contains("chive wallet create") && said.contains("chive wallet deposit"), "{said}");
}

#[test]
fn relays_of_several_owners_earn_on_a_chain_and_redeem() {
    let Some(program) = program() else { return };
    let net = Paid::new(&program, 3);
    let mut relays = Vec::new();
    for number in 1..=3 {
        let config = format!("relay{number}/relay.toml");
        net.fill(&config);
        let (relay, id) = net.relay(number);
        let config = net.file(&config);
        ask(&["wallet", "register", &id, "--yes", "--config", config.to_str().unwrap()]);
        relays.push(relay);
    }
    net.fill("client.toml");
    let config = net.file("client.toml");
    let arguments =
        ["up", "--config", config.to_str().unwrap(), "--socks", "127.0.0.1:0", "--output", "json"];
    let client = Process::run(net.folder.path(), with_password(&arguments));
    let proxy: SocketAddr = client.ready("client")["listen"].as_str().unwrap().parse().unwrap();

    let target = Target::open();
    let download = || {
        let mut stream = connect(proxy, None, &ip(target.address)).unwrap();
        stream.write_all(b"give 3000000\n").unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(hash(&bytes), hash(&pattern(3_000_000)));
    };
    let control = |number: usize| net.file(&format!("relay{number}/run/control.sock"));
    let earnings = || -> Vec<_> {
        let relays = 1..=net.addresses.len();
        relays.map(|number| ask(&["earnings", "--control", control(number).to_str().unwrap()])).collect()
    };
    // A draw of the entry wins about one time in ten.
    eventually("a win", || {
        download();
        earnings().iter().any(|earned| earned["wins"].as_u64().unwrap() > 0).then_some(())
    });
    // All that was paid in draws was credited, and all that was won was redeemed, to the wei.
    let wei = |document: &Value, key: &str| document[key].as_str().unwrap().parse::<u128>().unwrap();
    let own = net.file("run/control.sock");
    let all = eventually("sums that agree", || {
        let status = ask(&["status", "--control", own.to_str().unwrap()]);
        let all = earnings();
        let sum = |key| all.iter().map(|earned| wei(earned, key)).sum::<u128>();
        let agree = wei(&status["money"], "paid") + sum("paid") == sum("credited");
        (agree && sum("won") == sum("redeemed")).then_some(all)
    });
    for earned in &all {
        assert!(earned["draws"].as_u64().unwrap() > 0, "{all:?}");
        assert!(earned["cells"].as_u64().unwrap() > 0 && wei(earned, "earned") > 0, "{all:?}");
    }
    assert!(all.iter().any(|earned| wei(earned, "fees") > 0), "{all:?}");

    let control = control(3);
    let control = ["--control", control.to_str().unwrap()];
    let price = |words: &[&str]| ask(&[&["price"], words, &control[..]].concat());
    assert_eq!(price(&[])["ask"], 137_438_953_472_u64);
    assert_eq!(price(&["5", "7"])["exit_ask"], 7);
    let now = price(&["6"]);
    assert_eq!((&now["ask"], &now["exit_ask"]), (&6.into(), &7.into()));
    assert_eq!(price(&[]), now);
    let said = refused(1, &run(&[&["price", "16777217"], &control[..]].concat()));
    assert!(said.contains("the nearest price is 16777218"), "{said}");
}
