//! What the commands print and how they end, with no network behind them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use directory::chain::{parse_address, parse_amount};
use directory::network_file::NetworkFile;
use serde_json::Value;

use super::operate::open_network;
use super::processes::{Process, chive, command, document, eventually, free_addresses, sample, text};

/// Runs a command that must fail with this exit code; its error, which must be the same for people and programs.
fn error(code: i32, arguments: &[&str]) -> String {
    let output = chive(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output.stderr));
    let said = text(&output.stderr).strip_prefix("error: ").unwrap().trim_end().to_owned();
    let output = chive(&[arguments, &["--output", "json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema_version"], 1);
    let kind = ["failure", "usage", "not_running", "timed_out", "no_route", "no_funds"]
        [usize::try_from(code).unwrap() - 1];
    assert_eq!(document["error"]["kind"], kind);
    if kind != "usage" {
        assert_eq!(document["error"]["message"], said.as_str());
    }
    said
}

fn run_relay(config: &Path) -> [&str; 4] {
    ["relay", "run", "--config", config.to_str().unwrap()]
}

#[test]
fn help_and_version_are_on_standard_output() {
    for arguments in [&["--help"][..], &["-h"], &["up", "--help"], &["circuits", "build", "--help"]] {
        let output = chive(arguments);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("Usage: chive"), "{arguments:?}");
    }
    let version = env!("CARGO_PKG_VERSION");
    for arguments in [["--version"], ["version"]] {
        assert_eq!(text(&chive(&arguments).stdout), format!("chive {version}\n"));
    }
    assert_eq!(document(&["version"])["version"], version);
}

#[test]
fn wrong_usage_ends_with_2() {
    assert!(error(2, &["fly"]).contains("unrecognized subcommand 'fly'"));
    assert!(error(2, &["up"]).contains("--config <FILE>"));
    assert!(error(2, &["demo", "--hops", "6"]).contains("a number from 1 to 5 is wanted"));
    assert!(error(2, &["demo", "--hops", "5", "--relays", "4"]).contains("--relays"));
    assert!(
        error(2, &["network", "sample", "--relays", "2", "--exits", "3", "--out", "x"]).contains("3 of 2")
    );
    let twice = ["--relays", "3", "--out", "x", "--addresses", "10.0.0.1:7,10.0.0.2:7,10.0.0.1:7"];
    assert!(error(2, &[&["network", "sample"], &twice[..]].concat()).contains("10.0.0.1:7 twice"));
    let rule = ["network", "sample", "--relays", "2", "--out", "x", "--exit-allow", "nowhere"];
    assert!(error(2, &rule).contains("nowhere"));
    assert_eq!(chive(&[]).status.code(), Some(2));
}

#[test]
fn without_a_daemon_commands_end_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    let path = socket.to_str().unwrap();
    for command in [&["status"][..], &["circuits"], &["circuits", "build"], &["stop"]] {
        let said = error(3, &[command, &["--control", path]].concat());
        assert!(said.starts_with(&format!("no chive is running at {path}; start one")), "{said}");
    }
    // The file of a daemon that is gone is none either.
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    error(3, &["status", "--control", path]);
}

#[test]
fn a_wrong_configuration_names_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chive.toml");
    let name = path.display();
    let example = chive(&["config", "example", "relay"]);
    let example = text(&example.stdout);
    for (from, to, expected) in [
        ("listen =", "lisen =", "unknown key `lisen`; did you mean `listen`?"),
        ("\"0.0.0.0:7000\"", "7000", "`listen` cannot be 7000; write for example: listen = \"0.0.0.0:7000\""),
        ("identity =", "identiti =", "unknown key `identiti` in [keys]; did you mean `identity`?"),
        (
            "allow_single_hop = false",
            "allow_single_hop = 0",
            "`allow_single_hop` cannot be 0; write for example",
        ),
        ("listen = ", "listen ", "this is no TOML"),
    ] {
        let at = 1 + example.lines().position(|line| line.contains(from)).unwrap();
        fs::write(&path, example.replacen(from, to, 1)).unwrap();
        let said = error(1, &run_relay(&path));
        assert!(said.starts_with(&format!("{name} line {at}: {expected}")), "{said}");
    }
    let example = chive(&["config", "example", "client"]);
    fs::write(&path, text(&example.stdout).replace("hops = 3", "hops = 6")).unwrap();
    let said = error(1, &["up", "--config", path.to_str().unwrap()]);
    assert!(said.contains("`hops` cannot be 6 (a number from 1 to 5 is wanted)"), "{said}");
    fs::write(&path, "").unwrap();
    let said = error(1, &["up", "--config", path.to_str().unwrap()]);
    assert!(said.contains("the setting `network` is missing"), "{said}");
    let said = error(1, &["up", "--config", "/nowhere/chive.toml"]);
    assert!(said.contains("cannot read the configuration file /nowhere/chive.toml"), "{said}");
    assert!(said.contains("name the right one with --config"), "{said}");
    fs::write(&path, "network = \"none.toml\"\n").unwrap();
    let said = error(1, &["up", "--config", path.to_str().unwrap()]);
    assert!(said.contains("none.toml") && said.contains("get it from whoever runs the network"), "{said}");
    let open = open_network(folder.path());
    let file = fs::read_to_string(&open).unwrap().replace("[\"127.0.0.1:7000\"]", "[]");
    fs::write(&open, file).unwrap();
    fs::write(&path, "network = \"network.toml\"\n").unwrap();
    let said = error(2, &["up", "--config", path.to_str().unwrap()]);
    assert!(said.contains("`bootstrap` in") && said.contains("is empty"), "{said}");
}

#[test]
fn a_sample_is_private_and_complete() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("net");
    let addresses = free_addresses(3);
    let written = sample(&out, &addresses, 1);
    assert_eq!(written["relays"].as_array().unwrap().len(), 3);
    let signer = written["signer"].as_str().unwrap();
    for file in ["identity.key", "link.key", "onion.keys", "relay.toml", "state/seen.log"] {
        let mode = fs::metadata(out.join("relay1").join(file)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    for file in ["", "relay2", "relay2/state"] {
        assert_eq!(fs::metadata(out.join(file)).unwrap().mode() & 0o777, 0o700, "{file}");
    }
    for file in ["client.toml", "relay1/relay.toml", "relay3/relay.toml"] {
        assert!(fs::read_to_string(out.join(file)).unwrap().contains(signer), "{file}");
    }
    // Relay 3 is the exit; it runs from what was written.
    let config = out.join("relay3/relay.toml");
    let mut relay = Process::start(folder.path(), &run_relay(&config));
    assert!(relay.line().starts_with("ready: relay "));
    let path = config.to_str().unwrap();
    let status = document(&["status", "--config", path]);
    assert_eq!((&status["role"], &status["exit_flows"]["open"]), (&"relay".into(), &0.into()));
    assert_eq!(status["listen"], addresses[2].to_string());
    assert_eq!(document(&["circuits", "--config", path])["circuits"], Value::Array(Vec::new()));
    let said = error(1, &["circuits", "build", "--config", path]);
    assert!(said.contains("a relay builds no circuits"), "{said}");
    assert_eq!(document(&["stop", "--config", path])["stopped"], true);
    UdpSocket::bind(addresses[2]).expect("what was stopped has no port any more");
    assert!(relay.end().success());
    assert!(!out.join("relay3/run/control.sock").exists());

    let again = chive(&["network", "sample", "--relays", "1", "--out", out.to_str().unwrap()]);
    assert!(text(&again.stderr).contains("is not empty"));
}

#[test]
fn a_paid_sample_says_where_and_what_relays_are_paid() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("net");
    let (contract, owners) =
        (format!("0x{}", "c0".repeat(20)), ["11", "22"].map(|n| format!("0x{}", n.repeat(20))));
    let base = ["network", "sample", "--relays", "2", "--out", out.to_str().unwrap()];
    let paid = ["--chain-id", "31337", "--contract", &contract];
    let with = |more: &[&str]| error(2, &[&base[..], &paid, more].concat());
    let both = ["--owner", &owners[0], "--owner", &owners[1]];

    assert!(error(2, &[&base[..], &["--ask", "5"]].concat()).contains("--chain-id"));
    assert!(error(2, &[&base[..], &["--chain-id", "1"]].concat()).contains("--contract"));
    assert!(with(&both[..2]).contains("--owner was given 1 times for 2 relays"));
    assert!(with(&["--owner", "0x12", "--owner", &owners[1]]).contains("is no account"));
    let wrong = |more: &[&str]| with(&[&both[..], more].concat());
    assert!(wrong(&["--ask", "16777217"]).contains("the nearest price is 16777218"));
    assert!(wrong(&["--minimum-bond", "1 euro"]).contains("0.05ether"));
    assert!(wrong(&["--rpc", "here"]).contains("http://"));
    assert!(!out.exists());

    let more = [
        "--rpc",
        "http://127.0.0.1:8545",
        "--minimum-bond",
        "0.001 ether",
        "--ask",
        "1000",
        "--exit-ask",
        "3000",
    ];
    document(&[&base[..], &paid, &both, &more].concat());
    let path = out.join("network.toml");
    let text = fs::read_to_string(&path).unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let view = NetworkFile::parse(&text, "network.toml", None, now).unwrap().into_view();
    let chain = view.chain().unwrap();
    assert_eq!(
        (chain.id, chain.contract, chain.exit_operators),
        (31_337, parse_address(&contract).unwrap(), 1)
    );
    assert_eq!((chain.minimum_bond, chain.rpc.len()), (parse_amount("0.001 ether").unwrap(), 1));
    let mut found: Vec<_> = view
        .iter()
        .map(|relay| {
            let payment = relay.payment.unwrap();
            assert!(view.usable(&relay.id, now).is_ok());
            (payment.owner, payment.ask.0, payment.exit_ask.0, relay.exit.is_some())
        })
        .collect();
    found.sort_unstable();
    let owner = |n: usize| parse_address(&owners[n]).unwrap();
    assert_eq!(found, [(owner(0), 1_000, 0, false), (owner(1), 1_000, 3_000, true)]);
}

#[test]
fn a_network_file_of_another_signer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    let addresses = free_addresses(1);
    sample(&a, &addresses, 1);
    sample(&b, &addresses, 1);
    fs::copy(b.join("network.toml"), a.join("network.toml")).unwrap();
    let config = a.join("client.toml");
    let said = error(1, &["up", "--config", config.to_str().unwrap()]);
    assert!(said.contains("is pinned"), "{said}");
    // A relay whose descriptor is not in the file has no use.
    let signer = |out: &Path| {
        let text = fs::read_to_string(out.join("client.toml")).unwrap();
        text.lines().find(|line| line.starts_with("signer")).unwrap().to_owned()
    };
    let config = a.join("relay1/relay.toml");
    let text = fs::read_to_string(&config).unwrap().replace(&signer(&a), &signer(&b));
    fs::write(&config, text).unwrap();
    let said = error(1, &run_relay(&config));
    assert!(said.contains("no descriptor of this relay is known"), "{said}");
}

#[test]
fn keys_that_others_may_read_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("net");
    sample(&out, &free_addresses(1), 1);
    for file in ["identity.key", "link.key", "onion.keys"] {
        let key = out.join("relay1").join(file);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        let said = error(1, &run_relay(&out.join("relay1/relay.toml")));
        assert!(said.contains(&format!("chmod 600 {}", key.display())), "{said}");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_busy_port_names_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("net");
    let addresses = free_addresses(3);
    sample(&out, &addresses, 1);
    let udp = UdpSocket::bind(addresses[0]).unwrap();
    let said = error(1, &run_relay(&out.join("relay1/relay.toml")));
    assert!(said.contains(&addresses[0].to_string()) && said.contains("setting `listen`"), "{said}");
    assert_eq!(said.matches("in use").count(), 1, "{said}");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = tcp.local_addr().unwrap().to_string();
    let config = out.join("client.toml");
    let said = error(1, &["up", "--config", config.to_str().unwrap(), "--socks", &busy]);
    assert!(said.contains(&busy) && said.contains("setting `socks`"), "{said}");
    assert_eq!(said.matches("in use").count(), 1, "{said}");
    let said = error(1, &["up", "--config", config.to_str().unwrap(), "--socks", "192.0.2.1:9050"]);
    assert!(said.contains("this machine does not have the address") && said.contains("--socks"), "{said}");
    // What was refused has taken and harmed nothing.
    drop((udp, tcp));
    let mut relay = Process::start(folder.path(), &run_relay(&out.join("relay1/relay.toml")));
    assert!(relay.line().starts_with("ready: relay "));
    relay.end_by("TERM");
}

#[test]
fn a_file_of_the_other_role_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("net");
    sample(&out, &free_addresses(1), 1);
    let said = error(1, &run_relay(&out.join("client.toml")));
    assert!(said.contains("client.toml is the file of a client, not of a relay"), "{said}");
    let said = error(1, &["up", "--config", out.join("relay1/relay.toml").to_str().unwrap()]);
    assert!(said.contains("relay.toml is the file of a relay, not of a client"), "{said}");
}

#[test]
fn the_demonstration_ends_when_nobody_reads_it() {
    for (arguments, code) in [(&["demo"][..], 0), (&["demo", "--check"], 1)] {
        let mut demo = command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(demo.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("[1/6]"), "{line}");
        let ended = eventually("its end", || demo.try_wait().unwrap());
        assert_eq!(ended.code(), Some(code), "{arguments:?}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&["version"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write to standard output"));
}

#[test]
fn daemons_raise_their_limit_of_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("net");
    sample(&out, &free_addresses(1), 1);
    let config = out.join("relay1/relay.toml");
    let limited = |limits: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{limits}; exec \"$0\" \"$@\"")]).arg(env!("CARGO_BIN_EXE_chive"));
        let mut relay = Process::run(folder.path(), {
            command.args(run_relay(&config));
            command
        });
        relay.line();
        let limits = fs::read_to_string(relay.proc("limits")).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let numbers: Vec<_> = line.split_ascii_whitespace().skip(3).take(2).map(str::to_owned).collect();
        relay.end_by("TERM");
        (numbers, relay.log())
    };
    let (limits, _) = limited("ulimit -Sn 64");
    assert!(limits[0] == limits[1] && limits[0] != "64", "{limits:?}");
    // An exit with so few says so.
    let (limits, log) = limited("ulimit -n 128");
    assert_eq!(limits, ["128", "128"]);
    assert!(log.contains("only 128 files and connections can be open at once"), "{log}");
}

#[test]
fn a_network_without_a_path_ends_with_5() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("net");
    sample(&out, &free_addresses(2), 1);
    let config = out.join("client.toml");
    let said = error(5, &["up", "--config", config.to_str().unwrap()]);
    assert!(said.contains('2') && said.contains('3'), "{said}");
}

#[test]
fn exits_that_refuse_to_be_alone_end_the_client_with_5() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("net");
    sample(&out, &free_addresses(3), 2);
    let configs = [1, 2, 3].map(|n| out.join(format!("relay{n}/relay.toml")));
    let _relays = configs.each_ref().map(|config| {
        let text = fs::read_to_string(config).unwrap();
        fs::write(config, text.replace("allow_single_hop = true", "allow_single_hop = false")).unwrap();
        let relay = Process::start(folder.path(), &run_relay(config));
        assert!(relay.line().starts_with("ready: relay "));
        relay
    });
    let config = out.join("client.toml");
    let up = ["up", "--config", config.to_str().unwrap(), "--hops", "1", "--socks", "127.0.0.1:0"];
    // A wish may leave one of them.
    for (wish, asked) in [(&[][..], 2), (&["--exit", "nl"], 1)] {
        let said = error(5, &[&up[..], wish].concat());
        assert!(said.contains(&format!("({asked}) refuse")) && said.contains("--hops 2"), "{said}");
    }
}

#[test]
fn a_control_socket_in_use_is_not_taken_and_a_stale_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("net");
    sample(&out, &free_addresses(2), 1);
    let [one, two] = [1, 2].map(|n| out.join(format!("relay{n}/relay.toml")));
    let text = fs::read_to_string(&two).unwrap();
    fs::write(&two, text.replace("run/control.sock", "../relay1/run/control.sock")).unwrap();
    let socket = out.join("relay1/run/control.sock");
    fs::create_dir(out.join("relay1/run")).unwrap();
    fs::set_permissions(out.join("relay1/run"), fs::Permissions::from_mode(0o700)).unwrap();
    drop(UnixListener::bind(&socket).unwrap());

    let mut relay = Process::start(folder.path(), &run_relay(&one));
    relay.line();
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    let said = error(1, &run_relay(&two));
    assert!(said.contains("another chive answers on") && said.contains("setting `control`"), "{said}");
    document(&["status", "--control", socket.to_str().unwrap()]);
    relay.end_by("TERM");
    assert!(!socket.exists());

    fs::set_permissions(out.join("relay1/run"), fs::Permissions::from_mode(0o755)).unwrap();
    let said = error(1, &run_relay(&one));
    assert!(said.contains("chmod 700"), "{said}");
}
