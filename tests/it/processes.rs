//! Processes of the binary, and a whole network of them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A command of the binary, not yet run.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chive"));
    command.args(arguments).stdin(Stdio::null()).env_remove("CHIVE_LOG");
    command
}

/// Runs a command to its end.
pub(crate) fn chive(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

/// Runs a command that must succeed; the JSON document that it printed.
pub(crate) fn document(arguments: &[&str]) -> Value {
    let output = chive(&[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stdout));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema_version"], 1);
    document
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A running process; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Process {
    /// Starts the binary with its log in `folder`.
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::run(folder, command(arguments))
    }

    /// Starts a command that becomes the binary, with its log in `folder`.
    pub(crate) fn run(folder: &Path, mut command: Command) -> Self {
        let (_, log) = tempfile::Builder::new().prefix("log").tempfile_in(folder).unwrap().keep().unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Self { child, lines, log }
    }

    /// The next line of its output.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line came; its log: {}", self.log()))
    }

    /// The line by which it says that it can be used.
    pub(crate) fn ready(&self, role: &str) -> Value {
        let ready: Value = serde_json::from_str(&self.line()).unwrap();
        assert_eq!((&ready["event"], &ready["role"]), (&"ready".into(), &role.into()), "{ready}");
        ready
    }

    /// Waits until it has written this to standard error.
    pub(crate) fn logs(&self, what: &str) {
        for _ in 0..PATIENCE.as_millis() / 100 {
            if self.log().contains(what) {
                return;
            }
            thread::park_timeout(Duration::from_millis(100));
        }
        panic!("`{what}` is not in its log: {}", self.log());
    }

    /// What it wrote to standard error.
    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Whether it has not ended.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it at once, without a word.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// Its memory in KiB: `VmRSS` now, `VmHWM` at most.
    pub(crate) fn memory(&self, what: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }

    /// A file or folder that the kernel shows of it.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let wait = Duration::from_millis(20);
        for _ in 0..PATIENCE.as_millis() / wait.as_millis() {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            thread::park_timeout(wait);
        }
        panic!("it does not end; its log: {}", self.log());
    }

    /// Asks it to end by a signal, which it must do in order.
    pub(crate) fn end_by(&mut self, signal: &str) {
        self.signal(signal);
        let status = self.end();
        assert_eq!((status.code(), status.signal()), (Some(0), None), "{}", self.log());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Repeats `attempt` until it gives something.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let wait = Duration::from_millis(100);
    for _ in 0..PATIENCE.as_millis() / wait.as_millis() {
        if let Some(found) = attempt() {
            return found;
        }
        thread::park_timeout(wait);
    }
    panic!("{what}: not within {PATIENCE:?}");
}

/// What the doctor finds of a configuration file, by what it looked at.
pub(crate) fn doctor(config: &Path) -> BTreeMap<String, Value> {
    findings(&chive(&["doctor", "--config", config.to_str().unwrap(), "--output", "json"]))
}

/// What a doctor's output says, by what it looked at.
pub(crate) fn findings(output: &Output) -> BTreeMap<String, Value> {
    let list: Value = serde_json::from_str(text(&output.stdout).lines().next().unwrap()).unwrap();
    let findings = list["findings"].as_array().unwrap().iter();
    findings.map(|finding| (finding["check"].as_str().unwrap().to_owned(), finding.clone())).collect()
}

/// Free UDP addresses, each on a loopback address of its own.
pub(crate) fn free_addresses(count: u8) -> Vec<SocketAddr> {
    let sockets: Vec<_> =
        (1..=count).map(|n| UdpSocket::bind(SocketAddr::from(([127, 0, 0, n], 0))).unwrap()).collect();
    sockets.iter().map(|socket| socket.local_addr().unwrap()).collect()
}

/// Writes the files of a sample network; exits may reach everything on loopback.
pub(crate) fn sample(out: &Path, addresses: &[SocketAddr], exits: usize) -> Value {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    document(&[
        "network",
        "sample",
        "--relays",
        &addresses.len().to_string(),
        "--exits",
        &exits.to_string(),
        "--addresses",
        &list.join(","),
        "--exit-allow",
        "127.0.0.1:*",
        "--allow-single-hop",
        "--days",
        "2",
        "--out",
        out.to_str().unwrap(),
    ])
}

/// A network of processes.
pub(crate) struct Network {
    pub(crate) folder: TempDir,
    pub(crate) relays: Vec<Process>,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// A client of such a network.
pub(crate) struct Client {
    pub(crate) process: Process,
    pub(crate) socks: SocketAddr,
    pub(crate) control: PathBuf,
}

impl Network {
    /// Starts relays, the last two of which are exits, and waits until they run.
    pub(crate) fn start(relays: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addresses = free_addresses(relays);
        sample(&folder.path().join("net"), &addresses, 2.min(addresses.len()));
        let mut network = Self { folder, relays: Vec::new(), addresses };
        network.relays = (1..=usize::from(relays)).map(|number| network.start_relay(number)).collect();
        network
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join("net").join(path)
    }

    /// Starts a relay and waits until it runs; numbers begin at 1.
    pub(crate) fn start_relay(&self, number: usize) -> Process {
        self.start_relay_by(self.relay_command(number))
    }

    /// Starts a relay by the command that runs it, and waits until it runs.
    pub(crate) fn start_relay_by(&self, command: Command) -> Process {
        let relay = Process::run(self.folder.path(), command);
        relay.ready("relay");
        relay
    }

    /// The command that runs a relay.
    pub(crate) fn relay_command(&self, number: usize) -> Command {
        let config = self.file(&format!("relay{number}/relay.toml"));
        command(&["relay", "run", "--config", config.to_str().unwrap(), "--output", "json"])
    }

    /// The number of the relay at this place of the only path that carries streams now; the entry's place is 0.
    pub(crate) fn number_in_path(&self, client: &Client, place: usize) -> usize {
        let circuits = client.busy_circuits();
        let [circuit] = circuits.as_slice() else { panic!("one circuit carries the stream: {circuits:?}") };
        let address = circuit["path"][place]["address"].as_str().unwrap().parse().unwrap();
        1 + self.addresses.iter().position(|known| *known == address).unwrap()
    }

    /// What a relay says of itself.
    pub(crate) fn relay_status(&self, number: usize) -> Value {
        let control = self.file(&format!("relay{number}/run/control.sock"));
        document(&["status", "--control", control.to_str().unwrap()])
    }

    /// Starts a client and waits for its first circuit; `name` is that of its control socket.
    pub(crate) fn client(&self, name: &str, hops: usize) -> Client {
        self.client_of(self.client_command(name, hops))
    }

    /// Starts a client by the command that runs it, and waits for its first circuit.
    pub(crate) fn client_of(&self, command: Command) -> Client {
        let process = Process::run(self.folder.path(), command);
        let ready = process.ready("client");
        let socks = ready["listen"].as_str().unwrap().parse().unwrap();
        let control = ready["control"].as_str().unwrap().into();
        Client { process, socks, control }
    }

    /// The command that runs a client; `name` is that of its control socket.
    pub(crate) fn client_command(&self, name: &str, hops: usize) -> Command {
        let config = self.file(&format!("{name}.up.toml"));
        let text = fs::read_to_string(self.file("client.toml")).unwrap();
        let text = text.replace("run/control.sock", &format!("run/{name}.sock"));
        fs::write(&config, format!("state = \"state-{name}\"\n{text}")).unwrap();
        let arguments = ["up", "--config", config.to_str().unwrap(), "--socks", "127.0.0.1:0"];
        let hops = hops.to_string();
        let more = ["--hops", &hops, "--output", "json"];
        command(&[&arguments[..], &more].concat())
    }
}

impl Client {
    /// What a command of its control API says.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        document(&[arguments, &["--control", self.control.to_str().unwrap()]].concat())
    }

    /// The circuits that carry streams now.
    pub(crate) fn busy_circuits(&self) -> Vec<Value> {
        let circuits = self.ask(&["circuits"])["circuits"].as_array().unwrap().clone();
        circuits.into_iter().filter(|circuit| circuit["streams"].as_u64().unwrap() > 0).collect()
    }
}

/// Whether both ports can be taken: nobody has them any more.
pub(crate) fn are_free(udp: SocketAddr, tcp: SocketAddr) -> bool {
    UdpSocket::bind(udp).is_ok() && TcpListener::bind(tcp).is_ok()
}
