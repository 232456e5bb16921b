//! Wallets, and daemons that pay each other on a chain of its own process.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::paid::{Anvil, PASSWORD, Paid, RICH, ask, download, program, refused, run, wei, with_password};
use super::processes::{Process, command, eventually, text};
use super::target::Target;

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
    let other = folder.path().join("other.json");
    let made = run(&["wallet", "create", "--light", "--wallet", other.to_str().unwrap()]);
    let (said, named) =
        (text(&made.stdout), format!("[wallet] file = {:?}", fs::canonicalize(&other).unwrap()));
    assert!(said.contains(&named) && said.contains("chive wallet deposit 0.01ether --config FILE"), "{said}");
    for again in [&import[..], &["wallet", "create", "--wallet", wallet]] {
        assert!(refused(1, &run(again)).contains("never overwritten"));
    }
    for (amount, form) in [("1 euro", "0.05ether"), ("1", "name the unit: 1ether"), ("-1", "`-1` is below 0")]
    {
        let said = refused(2, &run(&["wallet", "deposit", amount, "--wallet", wallet]));
        assert!(said.contains(form), "{said}");
    }
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
        // The chain goes on.
        for changing in ["block", "block_age", "redemption"] {
            assert!(shown.as_object_mut().unwrap().remove(changing).is_some(), "{shown}");
        }
        shown
    };

    let empty = show();
    assert_eq!((&empty["balance"], &empty["signer"]), (&"0".into(), &Value::Null));
    assert_eq!(empty["ether"], "10000000000000000000");
    assert!(wei(&ask(&["wallet", "show", "--config", config]), "redemption") > 0);

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
    assert!(text(&unlocked.stderr).contains("sending the transaction 0x"));
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
    let nowhere = refused(1, &run(&[&deposit[..], &["--password-file", "/nowhere/word"]].concat()));
    assert!(
        nowhere.contains("cannot read the password file /nowhere/word") && nowhere.contains("to be asked")
    );
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
    // A daemon starts without the chain, and says so.
    let settings = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{settings}rpc = [\"{down}\"]\n")).unwrap();
    let arguments = ["up", "--config", config.to_str().unwrap(), "--hops", "1", "--socks", "127.0.0.1:0"];
    let client = Process::run(net.folder.path(), with_password(&arguments));
    client.logs("no RPC answers");
    eventually("a client that says what it lacks", || {
        let output = run(&["status", "--control", net.file("run/control.sock").to_str().unwrap()]);
        text(&output.stdout).contains("no RPC answers").then_some(())
    });
    client.signal("TERM");
    // Without a wallet it does not start.
    let (free, _) = settings.split_once("[wallet]").unwrap();
    fs::write(&config, free).unwrap();
    let said = refused(1, &run(&arguments));
    assert!(said.contains("chive wallet create") && said.contains("chive wallet deposit"), "{said}");
}

#[test]
fn relays_of_several_owners_earn_on_a_chain_and_redeem() {
    let Some(program) = program() else { return };
    let net = Paid::new(&program, 3);
    let relays = net.relays();
    let (_client, proxy) = net.client();
    let target = Target::open();
    let earnings = || -> Vec<_> { (1..=relays.len()).map(|number| net.earned(number)).collect() };
    // A draw of the entry wins about one time in ten.
    eventually("a win", || {
        assert!(download(proxy, &target, 3_000_000));
        earnings().iter().any(|earned| earned["wins"].as_u64().unwrap() > 0).then_some(())
    });
    // All that was paid in draws was credited, and all that was won was redeemed, to the wei.
    let all = eventually("sums that agree", || {
        let all = earnings();
        let sum = |key| all.iter().map(|earned| wei(earned, key)).sum::<u128>();
        let agree = wei(&net.paid(), "paid") + sum("paid") == sum("credited");
        (agree && sum("won") == sum("redeemed")).then_some(all)
    });
    for earned in &all {
        assert!(earned["draws"].as_u64().unwrap() > 0, "{all:?}");
        assert!(earned["cells"].as_u64().unwrap() > 0 && wei(earned, "earned") > 0, "{all:?}");
    }
    assert!(all.iter().any(|earned| wei(earned, "fees") > 0), "{all:?}");

    let control = net.file("relay3/run/control.sock");
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

#[test]
fn nothing_is_sent_to_a_chain_that_is_behind() {
    let Some(program) = program() else { return };
    let hour_ago = (outside_unix() - 3_600).to_string();
    let net = Paid::on(Anvil::start_with(&program, &["--timestamp", &hour_ago]), 1);
    let config = net.file("client.toml");
    let at = ["--config", config.to_str().unwrap()];
    let said = refused(1, &run(&[&["wallet", "deposit", "1 ether", "--yes"], &at[..]].concat()));
    assert!(said.contains("nothing was sent") && said.contains("s old"), "{said}");
    assert!(said.contains("--rpc"), "{said}");
    let shown = ask(&[&["wallet", "show"], &at[..]].concat());
    assert_eq!(shown["balance"], "0");
    assert!(shown["block_age"].as_u64().unwrap() > 3_000, "{shown}");
    let shown = run(&[&["wallet", "show"], &at[..]].concat());
    assert!(text(&shown.stdout).contains("this is old"), "{}", text(&shown.stdout));
}

// pay.pot.6
#[test]
fn a_relay_that_starts_while_no_rpc_answers_runs_and_says_so() {
    let Some(program) = program() else { return };
    let net = Paid::new(&program, 1);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    net.set("relay1/relay.toml", &format!("rpc = [\"http://{closed}\"]"));
    let (relay, _) = net.relay(1);
    relay.logs("nothing new is opened, and what is open goes on");
    eventually("trouble that is told", || {
        net.earned(1)["trouble"].as_str().filter(|trouble| trouble.contains("no RPC answers")).map(drop)
    });
}

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "the age of a chain")]
fn outside_unix() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
