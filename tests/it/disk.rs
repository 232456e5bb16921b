//! A relay whose disk is full.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::neighbour::{Answer, Neighbour};
use super::paid::{PASSWORD, Paid, download, program, wei, with_password};
use super::processes::{Network, Process, eventually, text};
use super::target::Target;

const OWN: usize = 1;
const VICTIM: usize = 2;
/// The head of a log, and the length of an entry.
const HEAD: u64 = 8;
const ENTRY: u64 = 20;
/// An answer that has not come by then does not come.
const SOON: Duration = Duration::from_secs(5);

/// Fills the disk of a folder, and gives the file that does.
fn fill(folder: &Path) -> PathBuf {
    let ballast = folder.join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[1; 512]).is_ok() {}
    ballast
}

/// A script that puts what the state folder holds onto a small disk in its place, which only this process and its children see.
fn on_disk_of(size: &str) -> String {
    format!(
        "cp -a \"$0\" \"$0.kept\" && mount -t tmpfs -o size={size},mode=700 none \"$0\" && cp -a \"$0.kept/.\" \"$0\""
    )
}

/// A shell script that has a relay's state folder as `$0`, and the command that runs the relay as `$@`.
fn on_small_disk(state: &Path, relay: &Command, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    command.arg(state);
    command.arg(relay.get_program()).args(relay.get_args()).env_remove("CHIVE_LOG");
    command
}

/// The state folder of a relay on a small disk, as only its own mount shows it.
fn seen_by(relay: &Process, state: &Path) -> PathBuf {
    relay.proc("root").join(state.strip_prefix("/").unwrap())
}

// circuit.setup.4
#[test]
#[ignore = "needs root: mounts a small disk"]
fn a_relay_on_a_full_disk_answers_no_setup_and_recovers() {
    let mut network = Network::start(2);
    network.relays.iter_mut().for_each(Process::kill);
    let script = format!("{} && exec \"$@\"", on_disk_of("64k"));
    let state = network.file(&format!("relay{VICTIM}/state"));
    let command = on_small_disk(&state, &network.relay_command(VICTIM), &script);
    network.relays[VICTIM - 1] = network.start_relay_by(command);
    let relay = &network.relays[VICTIM - 1];
    let state = seen_by(relay, &state);
    let log = || fs::metadata(state.join("seen.log")).unwrap().len();
    let ballast = fill(&state);
    let mut neighbour = Neighbour::of(&network, OWN, VICTIM);
    // The log's last page has room left.
    let mut answered = 0;
    let refused = loop {
        let setup = neighbour.setup();
        match neighbour.ask_for(SOON, &setup) {
            Answer::Stands => answered += 1,
            Answer::Nothing => break setup,
            Answer::Refused(status) => panic!("{}", status.as_str()),
        }
        assert!(answered < 1_000, "the disk is not full");
    };
    assert!(relay.log().contains("make room on the disk of the folder that the setting `state` names"));
    // What was answered is logged, and nothing else.
    assert_eq!(log(), HEAD + answered * ENTRY);
    assert_eq!(network.relay_status(VICTIM)["circuits"]["half_open"], 0);

    fs::remove_file(ballast).unwrap();
    eventually("a setup is answered again", || {
        let setup = neighbour.setup();
        (neighbour.ask_for(SOON, &setup) == Answer::Stands).then_some(())
    });
    assert_eq!(log(), HEAD + (answered + 1) * ENTRY);
    // It was not answered then, and its tag is with those that are seen.
    assert_eq!(neighbour.ask_before_another(&refused), Answer::Nothing);
}

// circuit.setup.6
#[test]
#[ignore = "needs root: mounts a small disk"]
fn a_relay_that_starts_on_a_full_disk_says_what_to_do_and_keeps_its_log() {
    let mut network = Network::start(1);
    network.relays[0].end_by("TERM");
    let script = format!(
        "{}; cat /dev/zero >\"$0/ballast\" 2>&-; \"$@\"; code=$?; \
                          cmp \"$0/seen.log\" \"$0.kept/seen.log\" && exit $code; exit 99",
        on_disk_of("64k")
    );
    let state = network.file("relay1/state");
    let output = on_small_disk(&state, &network.relay_command(1), &script).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let said = said["error"]["message"].as_str().unwrap();
    assert!(said.contains("make room on the disk of the folder that the setting `state` names"), "{said}");
    assert_eq!(said.matches("No space left").count(), 1, "{said}");
}

// pay.persist.1, pay.disk.3
#[test]
#[ignore = "needs root: mounts a small disk"]
fn a_paid_relay_on_a_full_disk_says_what_to_do_and_loses_nothing() {
    let Some(program) = program() else { return };
    let net = Paid::new(&program, 3);
    let mut relays = net.relays();
    // The exit.
    relays[2].end_by("TERM");
    let state = net.file("relay3/state");
    let script = format!("{} && exec \"$@\"", on_disk_of("16m"));
    let mut command = on_small_disk(&state, &net.relay_command(3), &script);
    command.env("CHIVE_WALLET_PASSWORD", PASSWORD);
    relays[2] = Process::run(net.folder.path(), command);
    relays[2].ready("relay");
    let (_client, proxy) = net.client();
    let target = Target::open();
    eventually("a download", || download(proxy, &target, 300_000).then_some(()));
    let ballast = fill(&seen_by(&relays[2], &state));
    let trouble = |number| net.earned(number)["trouble"].as_str().unwrap_or_default().to_owned();
    eventually("trouble that is told", || {
        download(proxy, &target, 1_000_000);
        Some(trouble(3)).filter(|told| told.contains("is full: make room"))
    });
    fs::remove_file(ballast).unwrap();
    eventually("no trouble", || Some(trouble(3)).filter(String::is_empty));
    eventually("a download again", || download(proxy, &target, 1_000_000).then_some(()));
    let agree = || {
        let all: Vec<_> = (1..=3).map(|number| net.earned(number)).collect();
        let sum = |key| all.iter().map(|earned| wei(earned, key)).sum::<u128>();
        let agree = wei(&net.paid(), "paid") + sum("paid") == sum("credited");
        agree && sum("won") == sum("redeemed") && sum("lost") == 0
    };
    // A draw that found the disk full is said again after 64 s at most.
    let agreed = (0..180).any(|_| {
        thread::park_timeout(Duration::from_secs(1));
        agree()
    });
    assert!(agreed, "the sums do not agree");
}

#[test]
#[ignore = "needs root: mounts a small disk"]
fn a_wallet_that_finds_the_disk_full_says_what_to_do_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("place");
    fs::create_dir(&place).unwrap();
    let wallet = place.join("wallet.json");
    let create = with_password(&["wallet", "create", "--light", "--wallet", wallet.to_str().unwrap()]);
    let script = format!(
        "{}; cat /dev/zero >\"$0/ballast\" 2>&-; \"$@\"; code=$?; ls -A \"$0\"; exit $code",
        on_disk_of("64k")
    );
    let mut command = on_small_disk(&place, &create, &script);
    let output = command.env("CHIVE_WALLET_PASSWORD", PASSWORD).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("its disk is full, and nothing was written: make room there"), "{said}");
    assert_eq!(text(&output.stdout), "ballast\n");
}
