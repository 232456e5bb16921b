//! Relays that put up their bond and register by themselves, on a chain of its own process.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::paid::{Anvil, ask, program, refused, run, wei, with_password};
use super::processes::{Process, doctor, document, eventually, free_addresses};

/// What the reserve is to be, in wei.
const BOND: u128 = 100_000_000_000_000_000;

/// An open network on a chain, with one relay that is set up with a bond, and does not run.
struct Ground {
    anvil: Anvil,
    folder: tempfile::TempDir,
    /// Where another relay can be.
    free: SocketAddr,
    id: String,
    owner: String,
}

impl Ground {
    fn new(program: &Path) -> Self {
        let anvil = Anvil::start(program);
        let folder = tempfile::tempdir().unwrap();
        let (url, net) = (anvil.url(), folder.path().join("net"));
        let (first, free) = (free_addresses(2)[0], free_addresses(2)[1]);
        let (address, bootstrap) = (first.to_string(), first.to_string());
        let chain = ["--chain-id", "31337", "--contract", &anvil.contract, "--rpc", &url];
        let more = ["--bootstrap", &bootstrap, "--minimum-bond", "0.05ether", "--out", net.to_str().unwrap()];
        document(&[&["network", "open", "--local"], &chain[..], &more].concat());
        let out = folder.path().join("relay");
        let network = net.join("network.toml");
        let setup = ["relay", "setup", "--yes", "--light", "--network", network.to_str().unwrap()];
        let more = ["--address", &address, "--out", out.to_str().unwrap()];
        let small = refused(2, &run(&[&setup[..], &more, &["--bond", "0.04ether"]].concat()));
        assert!(small.contains("wants 0.05 ether at least"), "{small}");
        let made = document(&[&setup[..], &more, &["--bond", "0.1ether"]].concat());
        let [id, owner] = ["id", "owner"].map(|key| made[key].as_str().unwrap().to_owned());
        let steps = made["next"].to_string();
        assert!(steps.contains("by itself") && !steps.contains("wallet register"), "{steps}");
        Self { anvil, folder, free, id, owner }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("relay/relay.toml")
    }

    fn start(&self) -> Process {
        let config = self.config();
        let run = with_password(&["relay", "run", "--config", config.to_str().unwrap(), "--output", "json"]);
        let relay = Process::run(self.folder.path(), run);
        relay.ready("relay");
        relay
    }

    fn show(&self) -> Value {
        ask(&["wallet", "show", "--config", self.config().to_str().unwrap()])
    }

    fn wait_until_registered(&self) {
        eventually("it is registered", || (self.show()["registered"] == true).then_some(()));
    }
}

#[test]
fn a_relay_waits_for_ether_and_then_bonds_and_registers_itself() {
    let Some(program) = program() else { return };
    let ground = Ground::new(&program);
    let found = eventually("the contract is final", || {
        Some(doctor(&ground.config())).filter(|found| found.contains_key("bond"))
    });
    assert!(found["pot"]["remedy"].to_string().contains("the pot is empty"), "{found:?}");
    let bond = found["bond"].clone();
    assert!(bond["state"] == "warn" && bond["remedy"].to_string().contains("start the relay"), "{bond}");
    let relay = ground.start();
    relay.logs("the wallet lacks ether");
    assert_eq!(doctor(&ground.config())["bond"]["state"], "fail");
    let said = relay.log();
    assert!(said.contains(&format!("chive wallet show --config {}", ground.config().display())), "{said}");
    assert!(!said.contains(&ground.owner) && !said.contains("register ID"), "{said}");
    let lacks = wei(&ground.show(), "lacks");
    assert!(lacks > BOND && lacks < 2 * BOND, "{lacks}");
    ground.anvil.fund(&ground.owner);
    ground.wait_until_registered();
    let shown = ground.show();
    assert_eq!((wei(&shown, "reserve"), &shown["signer"]), (BOND, &ground.owner.as_str().into()));
    assert!(shown["lacks"].is_null(), "{shown}");
    relay.logs("this relay is bonded and registered");
    assert_eq!(relay.log().matches("lacks ether").count(), 1, "it is said once");
    // The list of the contract has this very relay.
    eventually("the list has it", || {
        let status = ask(&["status", "--config", ground.config().to_str().unwrap()]);
        (status["directory"]["registered"] == 1).then_some(())
    });
    let found = doctor(&ground.config());
    for check in ["bond", "wallet", "state"] {
        assert_eq!(found[check]["state"], "ok", "{found:?}");
    }
    assert!(found["bond"].to_string().contains("this relay is registered"), "{found:?}");
    assert_eq!(found["gossip port"]["state"], "unknown", "nobody has come: {found:?}");

    // Another relay of the same owner is not registered, and its log and the doctor say why and what to do.
    let other = ground.folder.path().join("other");
    let setup = ["relay", "setup", "--yes", "--light", "--bond", "0.1ether", "--network"];
    let (network, address) = (ground.folder.path().join("net/network.toml"), ground.free.to_string());
    let more = [network.to_str().unwrap(), "--address", &address, "--out", other.to_str().unwrap()];
    document(&[&setup[..], &more].concat());
    for file in ["wallet.json", "wallet.password"] {
        fs::copy(ground.folder.path().join("relay").join(file), other.join(file)).unwrap();
    }
    let config = other.join("relay.toml");
    let second = Process::run(
        ground.folder.path(),
        with_password(&["relay", "run", "--config", config.to_str().unwrap(), "--output", "json"]),
    );
    second.ready("relay");
    second.logs(&format!("has registered another relay, {}", ground.id));
    let bond = doctor(&config)["bond"].clone();
    let said = format!("has registered another relay, {}", ground.id);
    assert!(bond["state"] == "fail" && bond["found"].to_string().contains(&said), "{bond}");
    assert_eq!(wei(&ground.show(), "reserve"), BOND);
    // It has come to the first one's gossip port.
    eventually("the first is reached", || {
        (doctor(&ground.config())["gossip port"]["state"] == "ok").then_some(())
    });
    drop((relay, second));
    let found = doctor(&ground.config());
    assert_eq!(found["state"]["state"], "ok", "also of a relay that does not run: {found:?}");
}

// operate.bond.1, operate.bond.2
#[test]
fn a_relay_that_is_killed_again_and_again_is_bonded_once() {
    let Some(program) = program() else { return };
    let ground = Ground::new(&program);
    ground.anvil.fund(&ground.owner);
    // The contract is in a final block; from then on blocks come when they are asked for: every kind of transaction is caught on its way.
    ground.anvil.ask("anvil_mine", &json!(["0x4"]));
    ground.anvil.ask("evm_setIntervalMining", &json!([0]));
    let nonce = |at| {
        let count = ground.anvil.ask("eth_getTransactionCount", &json!([ground.owner, at]));
        u64::from_str_radix(count.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    };
    for sent in 1..=3 {
        let mut relay = ground.start();
        eventually("a transaction", || (nonce("pending") == sent).then_some(()));
        relay.kill();
        // Once more, while it waits; then once while a block comes.
        let mut relay = ground.start();
        thread::park_timeout(Duration::from_secs(1));
        assert_eq!((nonce("latest"), nonce("pending")), (sent - 1, sent));
        ground.anvil.ask("evm_mine", &json!([]));
        relay.kill();
        assert_eq!(nonce("latest"), sent);
    }
    ground.anvil.ask("evm_setIntervalMining", &json!([1]));
    ground.wait_until_registered();
    let mut relay = ground.start();
    relay.logs("this relay is bonded and registered");
    relay.kill();
    assert_eq!((nonce("latest"), nonce("pending")), (3, 3), "nothing was sent twice");
    assert_eq!(wei(&ground.show(), "reserve"), BOND);
}
