//! The operator's side of a relay: setting it up, having it looked at, and ending it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::SystemTime;

use circuit::keys::IdentitySecret;
use data_encoding::BASE64;
use directory::chain::{Chain, parse_address, parse_amount};
use directory::descriptor::SignedDescriptor;
use directory::network_file::NetworkFile;
use serde_json::Value;

use super::processes::{
    Network, Process, chive, command, document, eventually, free_addresses, sample, text,
};
use super::socks::{connect, ip};
use super::target::{Pattern, Target};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn unix() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// The options by which a relay is set up without a question.
fn setup_of<'a>(net: &'a Path, signer: &'a str, address: &'a str, out: &'a Path) -> Vec<&'a str> {
    let [net, out] = [net, out].map(|path| path.to_str().unwrap());
    vec!["relay", "setup", "--yes", "--network", net, "--signer", signer, "--address", address, "--out", out]
}

#[test]
fn a_relay_is_set_up_by_one_command_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let addresses = free_addresses(3);
    let written = sample(&folder.path().join("net"), &addresses[..2], 1);
    let signer = written["signer"].as_str().unwrap();
    let (net, out) = (folder.path().join("net/network.toml"), folder.path().join("mine"));
    let address = addresses[2].to_string();
    let mut arguments = setup_of(&net, signer, &address, &out);
    arguments.extend(["--role", "exit", "--monthly", "2 TB", "--rate", "80 Mbit/s", "--country", "nl"]);
    let wrong = chive(&[&arguments[..], &["--exit-allow", "nowhere"]].concat());
    assert!(wrong.status.code() == Some(2) && text(&wrong.stderr).contains("--exit-allow: "));
    arguments.extend(["--exit-allow", "127.0.0.1:8080", "--exit-allow", "10.77.0.0/24:80"]);
    let made = document(&arguments);
    assert!(made["wallet"].is_null(), "the network is free");
    for file in ["relay.toml", "identity.key", "link.key", "onion.keys", "exit.policy", "state/seen.log"] {
        assert_eq!(mode(&out.join(file)), 0o600, "{file}");
    }
    for file in ["", "state"] {
        assert_eq!(mode(&out.join(file)), 0o700, "{file}");
    }
    // Nothing is ever overwritten.
    let before = fs::read(out.join("identity.key")).unwrap();
    let again = chive(&arguments);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("nothing in it is overwritten"), "{}", text(&again.stderr));
    assert_eq!(fs::read(out.join("identity.key")).unwrap(), before);

    // The maintainer takes the descriptor into the network file, and the relay runs.
    let bytes = fs::read_to_string(made["descriptor"].as_str().unwrap()).unwrap();
    let bytes = BASE64.decode(bytes.trim().as_bytes()).unwrap();
    let old = fs::read_to_string(&net).unwrap();
    let mut view = NetworkFile::parse(&old, "network.toml", None, unix()).unwrap().into_view();
    let descriptor = SignedDescriptor::parse(&bytes, view.network(), unix()).unwrap();
    assert_eq!((descriptor.country, descriptor.addresses[0]), (Some(*b"NL"), addresses[2]));
    let exit = descriptor.exit.as_ref().unwrap();
    assert!(exit.accepts(443) && !exit.accepts(25));
    view.insert(descriptor).unwrap();
    let maintainer = IdentitySecret::from_bytes(&[7; 32]);
    let new = NetworkFile::create("tests", view, &maintainer).unwrap();
    fs::write(out.join("network.toml"), new.to_text()).unwrap();
    let config = out.join("relay.toml");
    let text = fs::read_to_string(&config).unwrap();
    assert!(text.contains("allow = [\"127.0.0.1:8080\", \"10.77.0.0/24:80\"]"), "{text}");
    fs::write(&config, text.replace(signer, &maintainer.id().to_string())).unwrap();
    let path = config.to_str().unwrap();
    let mut relay = Process::start(folder.path(), &["relay", "run", "--config", path, "--output", "json"]);
    assert_eq!(relay.ready("relay")["id"], made["id"]);
    let load = document(&["status", "--config", path])["load"].clone();
    assert_eq!((&load["rate"], &load["monthly"]["cap"]), (&10_000_000.into(), &2_000_000_000_000_u64.into()));
    assert_eq!((&load["draining"], &load["monthly"]["used"]), (&false.into(), &0.into()));
    relay.end_by("TERM");
    assert_eq!(mode(&out.join("state/traffic")), 0o600);
}

#[test]
fn what_is_missing_or_wrong_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let addresses = free_addresses(1);
    let written = sample(&folder.path().join("net"), &addresses, 1);
    let signer = written["signer"].as_str().unwrap();
    let (net, out) = (folder.path().join("net/network.toml"), folder.path().join("mine"));
    let whole = setup_of(&net, signer, "127.0.0.1:7000", &out);
    let said = |arguments: &[&str]| {
        let output = chive(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        text(&output.stderr).to_owned()
    };
    let without = |option: &str| {
        let at = whole.iter().position(|word| *word == option).unwrap();
        [&whole[..at], &whole[at + 2..]].concat()
    };
    assert!(said(&without("--address")).contains("--address is missing"));
    assert!(said(&without("--network")).contains("--network is missing"));
    assert!(said(&without("--signer")).contains("the setting `signer` is missing"));
    let terminal: Vec<_> = whole.iter().copied().filter(|word| *word != "--yes").collect();
    assert!(said(&terminal).contains("there is no terminal to ask"));
    assert!(said(&[&whole[..], &["--monthly", "much"]].concat()).contains("a size is wanted"));
    let nowhere = setup_of(&net, signer, "127.0.0.1:0", &out);
    assert!(said(&nowhere).contains("others cannot reach port 0"));
    assert!(said(&[&whole[..], &["--country", "n1"]].concat()).contains("two letters A to Z"));
    let middle = [&whole[..], &["--exit-ask", "5"]].concat();
    assert!(said(&middle).contains("this relay is a middle: leave it out, or say --role exit"));
    assert!(said(&[&whole[..], &["--bond", "1 ether"]].concat()).contains("this network is free"));
    // Found out late: nothing is left of the attempt.
    let late = [&whole[..], &["--operator", "m\u{fc}ller"]].concat();
    assert!(
        said(&late).contains("a descriptor cannot say this of a relay: malformed operator"),
        "{}",
        said(&late)
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn on_a_paid_network_the_wallet_is_made_too() {
    let folder = tempfile::tempdir().unwrap();
    let net = folder.path().join("net");
    let contract = format!("0x{}", "c0".repeat(20));
    let owner = format!("0x{}", "11".repeat(20));
    let written = document(&[
        "network",
        "sample",
        "--relays",
        "1",
        "--exits",
        "1",
        "--chain-id",
        "31337",
        "--contract",
        &contract,
        "--owner",
        &owner,
        "--minimum-bond",
        "0.5 ether",
        "--rpc",
        "http://127.0.0.1:1",
        "--out",
        net.to_str().unwrap(),
    ]);
    let signer = written["signer"].as_str().unwrap();
    let (net, out) = (net.join("network.toml"), folder.path().join("mine"));
    let whole = setup_of(&net, signer, "127.0.0.1:7000", &out);
    let made = document(&[&whole[..], &["--light", "--ask", "5", "--role", "middle"]].concat());
    assert_eq!(made["asks"], serde_json::json!(["5", "0"]));
    for file in ["wallet.json", "wallet.password"] {
        assert_eq!(mode(&out.join(file)), 0o600, "{file}");
    }
    let config = out.join("relay.toml");
    let shown = document(&["wallet", "show", "--wallet", out.join("wallet.json").to_str().unwrap()]);
    assert_eq!(shown["address"], made["owner"]);
    let next: Vec<_> = made["next"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
    assert!(
        next.iter().any(|step| step.starts_with("chive wallet reserve \"0.5 ether\" --config")),
        "{next:?}"
    );
    assert!(!out.join("exit.policy").exists());
    // Nobody answers at the RPC: the doctor says so, and what to do.
    let output = chive(&["doctor", "--config", config.to_str().unwrap(), "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let (_, findings) = findings(&output.stdout);
    assert_eq!(state(&findings, "chain"), "fail");
    assert_eq!(state(&findings, "permissions"), "ok");
}

/// The network file of an open network whose chain does not answer.
pub(crate) fn open_network(folder: &Path) -> PathBuf {
    let chain = Chain {
        id: 31_337,
        contract: parse_address(&format!("0x{}", "c0".repeat(20))).unwrap(),
        rpc: vec!["http://127.0.0.1:1".to_owned()],
        minimum_bond: parse_amount("0.5 ether").unwrap(),
        exit_operators: 1,
        deployed: 0,
    };
    let file = NetworkFile::open("tests", chain, vec!["127.0.0.1:7000".to_owned()], true).unwrap();
    let path = folder.join("network.toml");
    fs::write(&path, file.to_text()).unwrap();
    path
}

/// Sets a relay up at a terminal, where these lines are typed; what the terminal shows.
fn set_up_at_terminal(folder: &Path, options: &str, typed: &[&str]) -> String {
    set_up_in(&open_network(folder), folder, options, typed)
}

fn set_up_in(network: &Path, folder: &Path, options: &str, typed: &[&str]) -> String {
    let out = folder.join("mine");
    let chive = env!("CARGO_BIN_EXE_chive");
    let command = format!(
        "{chive} relay setup --light --network {} --out {} {options}",
        network.display(),
        out.display()
    );
    let mut terminal = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    terminal.stdin.take().unwrap().write_all(format!("{}\n", typed.join("\n")).as_bytes()).unwrap();
    let output = terminal.wait_with_output().unwrap();
    let shown = text(&output.stdout).to_owned();
    assert!(output.status.success(), "{shown}");
    shown
}

#[test]
fn at_a_terminal_everything_is_asked_and_what_is_wrong_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    // Role, address, both prices, wallet, bond, month; each wrong at first where it can be.
    let typed = [
        "both",
        "exit",
        "here",
        "127.0.0.1:7001",
        "cheap",
        "16777217",
        "0.5gwei",
        "",
        "/nowhere",
        "new",
        "0.1 ether",
        "1 ether",
        "2 TX",
        "2 TB",
    ];
    let shown = set_up_at_terminal(folder.path(), "", &typed);
    for said in [
        "write middle or exit",
        "an IP is wanted",
        "an amount is wanted",
        "the nearest price is 16777218",
        "there is no file /nowhere",
        "this network wants 0.5 ether at least",
        "[0.5 ether]",
        "a size is wanted",
        "which the relay puts up by itself",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let config = fs::read_to_string(folder.path().join("mine/relay.toml")).unwrap();
    let lines = [
        "addresses = [\"127.0.0.1:7001\"]",
        "ask = 500000000",
        "exit_ask = 3000",
        "monthly = \"2 TB\"",
        "file = \"wallet.json\"",
        "password_file = \"wallet.password\"",
        "bond = \"1 ether\"",
        "policy_file = \"exit.policy\"",
    ];
    for line in lines {
        assert!(config.lines().any(|written| written == line), "{line}: {config}");
    }
}

#[test]
fn at_a_terminal_an_address_that_nobody_reaches_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let network = open_network(folder.path());
    let local = fs::read_to_string(&network).unwrap();
    fs::write(&network, local.replace("local = true\n", "").replace("127.0.0.1:", "9.9.9.9:")).unwrap();
    let typed = ["192.168.1.2:7001", "203.0.113.7:7001", "9.9.9.9:0", "9.9.9.9"];
    let options = "--role middle --ask 0 --bond 1ether --monthly '2 TB'";
    let shown = set_up_in(&network, folder.path(), options, &[&typed[..], &[""]].concat());
    assert!(shown.contains("it carries cells on for nothing"), "{shown}");
    for said in ["192.168.1.2 is not an address", "203.0.113.7 is not an address", "cannot reach port 0"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    let config = fs::read_to_string(folder.path().join("mine/relay.toml")).unwrap();
    assert!(config.contains("addresses = [\"9.9.9.9:7000\"]\ngossip_port = 7000\n"), "{config}");
}

#[test]
fn at_a_terminal_a_key_is_imported_and_a_wallet_that_is_there_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let options = "--role middle --address 127.0.0.1:7001 --ask 5";
    let [key, word, wrong] = ["key", "word", "wrong"].map(|name| folder.path().join(name));
    for (file, text) in [(&key, "0f".repeat(32)), (&word, "a word".to_owned()), (&wrong, "words".to_owned())]
    {
        fs::write(file, text).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let [key, word, wrong] = [&key, &word, &wrong].map(|path| path.to_str().unwrap());
    // A key; no bond, no limit.
    set_up_at_terminal(folder.path(), options, &[key, "0", ""]);
    let mine = folder.path().join("mine");
    let address = |wallet: &Path| {
        document(&["wallet", "show", "--wallet", wallet.to_str().unwrap()])["address"].clone()
    };
    let imported = address(&mine.join("wallet.json"));
    assert!(!fs::read_to_string(mine.join("relay.toml")).unwrap().contains("bond"));
    fs::remove_dir_all(&mine).unwrap();

    // A wallet, whose password is tried.
    let wallet = folder.path().join("purse.json");
    let path = wallet.to_str().unwrap();
    let import =
        ["wallet", "import", "--light", "--wallet", path, "--key-file", key, "--password-file", word];
    assert_eq!(document(&import)["address"], imported);
    let shown = set_up_at_terminal(folder.path(), options, &[path, wrong, word, "", ""]);
    assert!(shown.contains("is wrong"), "{shown}");
    assert!(!mine.join("wallet.json").exists(), "it stays where it is");
    let config = fs::read_to_string(mine.join("relay.toml")).unwrap();
    let whole = |path: &str| fs::canonicalize(path).unwrap();
    let named = format!("\nfile = {:?}\npassword_file = {:?}\n", whole(path), whole(word));
    assert!(config.contains(&format!("{named}bond = \"0.5 ether\"\n")), "{config}");
    fs::remove_dir_all(&mine).unwrap();

    // The same without a question.
    let network = folder.path().join("network.toml");
    let base = ["relay", "setup", "--yes", "--network", network.to_str().unwrap(), "--wallet", path];
    let more = ["--address", "127.0.0.1:7001", "--out", mine.to_str().unwrap(), "--password-file"];
    let refused = chive(&[&base[..], &more, &[wrong]].concat());
    let said = text(&refused.stderr);
    assert!(
        refused.status.code() == Some(2) && said.contains("--password-file: ") && !mine.exists(),
        "{said}"
    );
    let made = document(&[&base[..], &more, &[word]].concat());
    assert_eq!((&made["owner"], made["wallet"].as_str()), (&imported, whole(path).to_str()));
    let config = fs::read_to_string(mine.join("relay.toml")).unwrap();
    assert!(config.contains(&named) && !mine.join("wallet.json").exists(), "{config}");
    let both = chive(&[&base[..], &["--key-file", key]].concat());
    assert!(text(&both.stderr).contains("cannot be used with"), "{}", text(&both.stderr));
}

#[test]
fn on_an_open_network_the_relay_needs_no_signer_and_makes_its_keys_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (net, out) = (open_network(folder.path()), folder.path().join("mine"));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let arguments = [
        "relay",
        "setup",
        "--yes",
        "--light",
        "--network",
        net.to_str().unwrap(),
        "--address",
        "127.0.0.1:7001",
        "--gossip-port",
        &port,
        "--operator",
        "me \"and\" others",
        "--out",
        out.to_str().unwrap(),
    ];
    // directory.view.7
    let local = fs::read_to_string(&net).unwrap();
    fs::write(&net, local.replace("local = true\n", "").replace("127.0.0.1:", "9.9.9.9:")).unwrap();
    let refused = chive(&arguments);
    let said = text(&refused.stderr);
    assert!(refused.status.code() == Some(2) && said.contains("write `local = true`"), "{said}");
    assert!(!out.exists(), "nothing is written");
    fs::write(&net, local).unwrap();
    let made = document(&arguments);
    assert!(made["descriptor"].is_null(), "it tells the others itself");
    // The title, and this and the next epoch.
    assert_eq!(fs::read_to_string(out.join("onion.keys")).unwrap().lines().count(), 3);
    let config = fs::read_to_string(out.join("relay.toml")).unwrap();
    assert!(config.contains(&format!("gossip_port = {port}")) && !config.contains("signer"), "{config}");
    let output = chive(&["doctor", "--config", out.join("relay.toml").to_str().unwrap(), "--output", "json"]);
    let (_, found) = findings(&output.stdout);
    assert_eq!((state(&found, "configuration"), state(&found, "gossip port")), ("ok".into(), "ok".into()));
}

/// The exit code's document and the findings of a doctor.
fn findings(printed: &[u8]) -> (Option<Value>, Vec<Value>) {
    let mut documents = text(printed).lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let list = documents.next().unwrap()["findings"].as_array().unwrap().clone();
    (documents.next(), list)
}

fn state(findings: &[Value], check: &str) -> String {
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no {check}: {findings:?}"))["state"].as_str().unwrap().to_owned()
}

#[test]
fn the_doctor_finds_a_running_relay_well_and_says_what_others_lack() {
    let mut network = Network::start(3);
    let config = network.file("relay1/relay.toml");
    let doctor = || chive(&["doctor", "--config", config.to_str().unwrap(), "--output", "json"]);
    let client = network.client("one", 3);
    eventually("an inbound link", || (network.relay_status(1)["links_inbound"] != 0).then_some(()));
    // link.seen.1: who has begun a link knows where it is seen; all of loopback is one place.
    let told = (1..=3).flat_map(|n| {
        let status = network.relay_status(n);
        let seen = status["seen"].as_array().unwrap().clone();
        seen.into_iter().map(move |seen| (status["listen"].clone(), seen))
    });
    let told: Vec<_> = told.collect();
    assert!(!told.is_empty(), "some relay has begun a link");
    for (listen, seen) in told {
        assert_eq!((&seen["address"], &seen["places"]), (&listen, &1.into()));
    }
    let output = doctor();
    let (error, found) = findings(&output.stdout);
    assert!(error.is_none() && output.status.success(), "{found:#?}");
    for check in
        ["configuration", "permissions", "disk", "udp port", "udp out", "mtu", "clock", "reached", "chain"]
    {
        assert_eq!(state(&found, check), "ok", "{check}: {found:#?}");
    }
    // Nobody outside could come to a loopback address.
    assert_eq!(state(&found, "nat"), "warn");
    drop(client);

    // Nothing runs, and a secret is open to everybody.
    network.relays.clear();
    let key = network.file("relay1/link.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let output = doctor();
    assert_eq!(output.status.code(), Some(1));
    let (error, found) = findings(&output.stdout);
    assert_eq!(error.unwrap()["error"]["kind"], "failure");
    assert_eq!((state(&found, "permissions"), state(&found, "udp out")), ("fail".into(), "fail".into()));
    assert_eq!((state(&found, "reached"), state(&found, "clock")), ("unknown".into(), "unknown".into()));
    let remedy = found.iter().find(|finding| finding["check"] == "permissions").unwrap()["remedy"].clone();
    assert!(remedy.as_str().unwrap().starts_with(&format!("chmod 600 {}", key.display())), "{remedy}");
    // People read the same.
    let output = chive(&["doctor", "--config", config.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert!(said.contains("FAIL     permissions") && said.contains("-> chmod 600"), "{said}");
}

#[test]
fn the_doctor_looks_at_a_machine_without_a_configuration_and_at_a_wrong_one() {
    let output = chive(&["doctor", "--output", "json"]);
    let (_, found) = findings(&output.stdout);
    assert_eq!(state(&found, "version"), "ok");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("relay.toml");
    fs::write(&config, "lisen = 1\n").unwrap();
    let output = chive(&["doctor", "--config", config.to_str().unwrap(), "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let (_, found) = findings(&output.stdout);
    assert_eq!(state(&found, "configuration"), "fail");
}

/// Has a client read without end from a target, so that the circuit is in use.
fn keep_reading(client: std::net::SocketAddr, target: &Target) -> thread::JoinHandle<usize> {
    let mut stream = connect(client, None, &ip(target.address)).unwrap();
    stream.write_all(b"give 1000000000000\n").unwrap();
    let mut first = [0; 1000];
    stream.read_exact(&mut first).unwrap();
    let mut expected = [0; 1000];
    Pattern::new().fill(&mut expected);
    assert_eq!(first, expected);
    thread::spawn(move || {
        let (mut buffer, mut count) = (vec![0; 1 << 16], 0);
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            count += length;
        }
        count
    })
}

// operate.drain.1
#[test]
fn a_relay_in_use_drains_until_it_is_asked_again() {
    let network = Network::start(3);
    let client = network.client("one", 1);
    let target = Target::open();
    let reading = keep_reading(client.socks, &target);
    let number = network.number_in_path(&client, 0);
    // The other exit could serve what comes new.
    let mut network = network;
    let relay = &mut network.relays[number - 1];
    relay.signal("TERM");
    let control = network.folder.path().join(format!("net/relay{number}/run/control.sock"));
    let status = || document(&["status", "--control", control.to_str().unwrap()]);
    eventually("its draining", || (status()["load"]["draining"] == true).then_some(()));
    let carried = || status()["cells"]["here"].as_u64().unwrap();
    let before = carried();
    eventually("more cells", || (carried() > before).then_some(()));
    let relay = &mut network.relays[number - 1];
    relay.end_by("TERM");
    drop(client);
    assert!(reading.join().unwrap() > 0);
}

// operate.drain.1
#[test]
fn a_relay_whose_circuits_are_idle_ends_soon() {
    let mut network = Network::start(3);
    let config = network.file("relay3/relay.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[limits]\ndrain = 3600\n")).unwrap();
    network.relays[2].end_by("TERM");
    network.relays[2] = network.start_relay(3);
    let client = network.client("one", 1);
    // Some circuit of the client ends at each exit, or will.
    let mut stop = command(&["stop", "--config", config.to_str().unwrap()]);
    assert!(stop.status().unwrap().success());
    assert!(network.relays[2].end().success());
    drop(client);
}

#[test]
fn the_month_that_is_used_up_ends_the_taking_of_circuits() {
    let mut network = Network::start(3);
    for number in [2, 3] {
        let config = network.file(&format!("relay{number}/relay.toml"));
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{text}\n[limits]\nmonthly = \"1 B\"\n")).unwrap();
        fs::write(
            network.file(&format!("relay{number}/state/traffic")),
            "chive traffic 1\nsince 9999999999\nused 5\n",
        )
        .unwrap();
        network.relays[number - 1].end_by("TERM");
        network.relays[number - 1] = network.start_relay(number);
        network.relays[number - 1].logs("the month's traffic is used up");
        assert_eq!(network.relay_status(number)["load"]["draining"], true);
    }
    // Both exits are full: no circuit stands.
    let client = Process::run(network.folder.path(), network.client_command("one", 1));
    client.logs("no circuit stands yet");
    // A second look at the note: it is kept across the restart.
    let note = fs::read_to_string(network.file("relay2/state/traffic")).unwrap();
    assert!(note.ends_with("used 5\n"), "{note}");
    network.relays[1].end_by("TERM");
    drop(client);
}
