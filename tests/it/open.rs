//! An open network on several hosts: relays that anyone starts, found by a bootstrap address and a contract alone.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::lab::Lab;
use super::paid::{Anvil, program, with_password};
use super::processes::{Process, eventually, findings, text};
use super::socks::{connect, ip};
use super::target::{Target, hash, pattern};

const RELAYS: usize = 12;
/// The host of the chain, that of the web site, and those of the clients.
const CHAIN: usize = 13;
const SITE: usize = 14;
const CLIENTS: [usize; 2] = [15, 16];
/// Two relays of one /16, which no path has both; exits, so that a client enters by neither while others can be reached.
const NEIGHBOURS: [usize; 2] = [9, 12];
/// So many relays run when the first client starts: too few to choose an entry among.
const FEW: usize = 6;
const LINKS: u16 = 7000;
const GOSSIP: u16 = 7001;
const COUNTRIES: [&str; 4] = ["DE", "NL", "CH", "SE"];
const ASK: &str = "137438953472";
const DEARER: u64 = 137_438_953_472 * 2;

/// The clock: times are printed, never judged.
#[expect(clippy::disallowed_methods, reason = "figures for people")]
fn now() -> Instant {
    Instant::now()
}

/// Twelve relays, a chain, a site and two clients, each a host of its own, all but two in a subnet of their own; and their files.
struct Ground {
    lab: Lab,
    folder: tempfile::TempDir,
    anvil: Anvil,
}

/// What runs there.
struct Open {
    ground: Ground,
    relays: Vec<Option<Process>>,
    ids: Vec<String>,
}

impl Deref for Open {
    type Target = Ground;

    fn deref(&self) -> &Ground {
        &self.ground
    }
}

struct Client {
    host: usize,
    process: Process,
    socks: SocketAddr,
    control: PathBuf,
}

impl Ground {
    /// The network is written, its relays are set up and registered, whose ids come along, and none runs.
    fn new(anvil: &Path) -> (Self, Vec<String>) {
        let neighbours = NEIGHBOURS.map(|number| u8::try_from(number).unwrap());
        let lab = Lab::spread(u8::try_from(CLIENTS[1]).unwrap(), Ipv4Addr::LOCALHOST, neighbours);
        let anvil = Anvil::start_on(anvil, lab.host(CHAIN));
        let net = Self { lab, folder: tempfile::tempdir().unwrap(), anvil };
        let bootstrap = format!("{}:{GOSSIP}", net.lab.host(1).address);
        let (url, contract, out) = (net.anvil.url(), net.anvil.contract.clone(), net.file("net"));
        let chain =
            ["--chain-id", "31337", "--contract", &contract, "--rpc", &url, "--bootstrap", &bootstrap];
        let more = ["--exit-operators", "1", "--minimum-bond", "1ether", "--out", out.to_str().unwrap()];
        let opened = net.ask(CHAIN, &[&["network", "open"], &chain[..], &more].concat());
        assert!(opened["advice"].to_string().contains("one bootstrap address"), "{opened}");
        let ids = thread::scope(|scope| {
            let net = &net;
            let all: Vec<_> = (1..=RELAYS).map(|n| scope.spawn(move || net.set_up_relay(n))).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        for host in CLIENTS {
            net.set_up_client(host);
        }
        (net, ids)
    }

    fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Runs a command on a host, which must succeed; its document.
    fn ask(&self, host: usize, arguments: &[&str]) -> Value {
        let command = with_password(&[arguments, &["--output", "json"]].concat());
        let output = self.lab.host(host).command(&command).output().unwrap();
        let said = text(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {said}{}", text(&output.stderr));
        serde_json::from_str(said.lines().last().unwrap()).unwrap()
    }

    /// Of a client that does not run, the doctor recalls what it knew, and asks relays.
    fn examine(&self, host: usize) {
        let config = self.file(&format!("client{host}/client.toml"));
        let command = with_password(&["doctor", "--config", config.to_str().unwrap(), "--output", "json"]);
        let found = findings(&self.lab.host(host).command(&command).output().unwrap());
        let recalled = found["configuration"]["found"].as_str().unwrap();
        assert!(recalled.ends_with("relays were known last"), "{recalled}");
        for check in ["udp out", "mtu", "clock"] {
            assert_eq!(found[check]["state"], "ok", "{found:?}");
        }
    }

    /// Relays with numbers that three divides are exits; its id.
    fn set_up_relay(&self, number: usize) -> String {
        let (folder, network) = (self.file(&format!("relay{number}")), self.file("net/network.toml"));
        let address = format!("{}:{LINKS}", self.lab.host(number).address);
        let (role, exit) =
            if number.is_multiple_of(3) { ("exit", &["--exit-ask", ASK][..]) } else { ("middle", &[][..]) };
        let gossip = GOSSIP.to_string();
        let base =
            ["relay", "setup", "--yes", "--light", "--network", network.to_str().unwrap(), "--role", role];
        let place = ["--address", &address, "--gossip-port", &gossip, "--country", COUNTRIES[number % 4]];
        let more = ["--ask", ASK, "--out", folder.to_str().unwrap()];
        let made = self.ask(number, &[&base[..], &place, &more, exit].concat());
        let config = folder.join("relay.toml");
        let written = fs::read_to_string(&config).unwrap();
        let site = format!("[exit]\nallow = [\"{}:*\"]", self.lab.host(SITE).address);
        let written =
            written.replace("[exit]", &site).replace("[wallet]", "[wallet]\nmax_draw = \"0.01 ether\"");
        fs::write(&config, written).unwrap();
        self.fill(number, made["owner"].as_str().unwrap(), &config);
        let id = made["id"].as_str().unwrap().to_owned();
        self.ask(number, &["wallet", "register", &id, "--config", config.to_str().unwrap(), "--yes"]);
        id
    }

    fn set_up_client(&self, host: usize) {
        let folder = self.file(&format!("client{host}"));
        fs::create_dir(&folder).unwrap();
        fs::copy(self.file("net/network.toml"), folder.join("network.toml")).unwrap();
        let wallet = folder.join("wallet.json");
        let made = self.ask(host, &["wallet", "create", "--light", "--wallet", wallet.to_str().unwrap()]);
        let config = folder.join("client.toml");
        let written = fs::read_to_string(self.file("net/client.toml")).unwrap();
        // Relays are where they say: a table would say something else of their addresses.
        let table = folder.join("nowhere");
        fs::write(&table, "").unwrap();
        let paths = "[paths]\ngeoip = [\"nowhere\", \"nowhere\"]\n";
        fs::write(&config, format!("{written}max_draw = \"0.01 ether\"\n{paths}")).unwrap();
        self.fill(host, made["address"].as_str().unwrap(), &config);
    }

    fn fill(&self, host: usize, owner: &str, config: &Path) {
        self.lab.host(CHAIN).within(|| self.anvil.fund(owner));
        for what in ["deposit", "reserve"] {
            self.ask(host, &["wallet", what, "2ether", "--config", config.to_str().unwrap(), "--yes"]);
        }
    }
}

impl Open {
    fn start_relay(&mut self, number: usize) {
        let config = self.file(&format!("relay{number}/relay.toml"));
        let command =
            with_password(&["relay", "run", "--config", config.to_str().unwrap(), "--output", "json"]);
        let relay = Process::run(self.folder.path(), self.lab.host(number).command(&command));
        relay.ready("relay");
        self.relays[number - 1] = Some(relay);
    }

    fn kill_relay(&mut self, number: usize) {
        self.relays[number - 1].take().unwrap().kill();
    }

    /// What a relay's daemon knows of the network.
    fn relay_directory(&self, number: usize) -> Value {
        let config = self.file(&format!("relay{number}/relay.toml"));
        self.ask(number, &["status", "--config", config.to_str().unwrap()])["directory"].clone()
    }

    /// Waits until all relays that run know so many usable ones.
    fn converge(&self, usable: usize) {
        for number in (1..=RELAYS).filter(|number| self.relays[number - 1].is_some()) {
            eventually(&format!("relay {number} knows {usable}"), || {
                let knows = self.relay_directory(number);
                (knows["usable"].as_u64().unwrap() == usable as u64).then_some(())
            });
        }
    }

    fn client(&self, host: usize, wishes: &[&str]) -> Client {
        let began = now();
        let process = self.begin_client(host, wishes);
        let client = Self::ready_client(host, process);
        println!("client on host {host} with {wishes:?}: ready after {:?}", began.elapsed());
        client
    }

    /// All relays but the last start. A client, begun when few ran, chooses no entry among those, and is ready when there are more.
    // path.guard.9
    fn form(&mut self, host: usize, wishes: &[&str]) -> Client {
        for number in 1..=FEW {
            self.start_relay(number);
        }
        self.converge(FEW);
        let client = self.begin_client(host, wishes);
        client.logs("no new entry is chosen among so few");
        for number in FEW + 1..RELAYS {
            self.start_relay(number);
        }
        self.converge(RELAYS - 1);
        Self::ready_client(host, client)
    }

    fn begin_client(&self, host: usize, wishes: &[&str]) -> Process {
        let config = self.file(&format!("client{host}/client.toml"));
        let arguments = ["up", "--config", config.to_str().unwrap(), "--output", "json"];
        let command = with_password(&[&arguments[..], wishes].concat());
        Process::run(self.folder.path(), self.lab.host(host).command(&command))
    }

    fn ready_client(host: usize, process: Process) -> Client {
        let ready = process.ready("client");
        let socks = ready["listen"].as_str().unwrap().parse().unwrap();
        let control = ready["control"].as_str().unwrap().into();
        Client { host, process, socks, control }
    }

    /// What a client's daemon knows of the network.
    fn client_directory(&self, client: &Client) -> Value {
        self.of(client, &["status"])["directory"].clone()
    }

    /// Waits until all relays that run, and these clients, know the same descriptors.
    fn agree(&self, clients: &[&Client]) {
        eventually("all know the same", || {
            let running = (1..=RELAYS).filter(|number| self.relays[number - 1].is_some());
            let relays = running.map(|number| self.relay_directory(number));
            let all: Vec<_> =
                relays.chain(clients.iter().map(|client| self.client_directory(client))).collect();
            let same = |one: &Value| one["digest"] == all[0]["digest"] && one["missing"] == 0;
            all.iter().all(same).then_some(())
        });
    }

    /// Waits until a client has built a circuit through a relay.
    fn reach(&self, client: &Client, number: usize) {
        let control = client.control.to_str().unwrap();
        let command = with_password(&["ping", &self.ids[number - 1], "--control", control]);
        eventually(&format!("a way through relay {number}"), || {
            self.lab.host(client.host).command(&command).output().unwrap().status.success().then_some(())
        });
    }

    /// Nobody else has ended.
    fn are_alive(&mut self) {
        for (index, relay) in self.relays.iter_mut().enumerate() {
            let lives = relay.as_mut().is_none_or(Process::is_alive);
            assert!(
                lives,
                "relay {} has ended: {}",
                index + 1,
                relay.as_ref().map_or_else(String::new, Process::log)
            );
        }
    }

    /// Kills one relay after the other: a client's requests go on, and each is soon back in all views and in paths.
    fn kill_each_relay(&mut self, client: &mut Client, site: &Target) {
        for number in 1..=RELAYS {
            self.kill_relay(number);
            let (_, took) = self.download(client, site, &format!("without {number}"));
            self.are_alive();
            assert!(client.process.is_alive());
            self.start_relay(number);
            let back = now();
            self.agree(&[]);
            let known = back.elapsed();
            self.reach(client, number);
            println!(
                "relay {number} killed: first byte after {took:?}; back: known to all relays after {known:?}, in a path \
                 after {:?}",
                back.elapsed()
            );
        }
        self.agree(&[client]);
    }

    /// Kills the chain: requests go on, and a client that starts meanwhile uses what it has kept; then the chain is back.
    fn kill_chain(&mut self, anvil: &Path, mut client: Client, site: &Target) -> Client {
        let Ground { lab, anvil: chain, .. } = &mut self.ground;
        let state = lab.host(CHAIN).within(|| chain.kill());
        self.download(&client, site, "without a chain");
        client.process.end_by("TERM");
        let mut client = self.client(client.host, &[]);
        let (_, took) = self.download(&client, site, "kept");
        println!("first byte of a client that starts without a chain after {took:?}");
        eventually("the loss is told", || self.relay_directory(1)["trouble"].is_string().then_some(()));
        self.are_alive();
        assert!(client.process.is_alive());
        let before = self.relay_directory(1)["block"].as_u64().unwrap();
        let Ground { lab, anvil: chain, .. } = &mut self.ground;
        chain.again_on(anvil, lab.host(CHAIN), &state);
        for number in 1..=RELAYS {
            eventually(&format!("relay {number} follows the chain again"), || {
                let knows = self.relay_directory(number);
                (knows["block"].as_u64().unwrap() > before && knows["trouble"].is_null()).then_some(())
            });
        }
        eventually("the client follows the chain", || {
            (self.client_directory(&client)["block"].as_u64().unwrap() > before).then_some(())
        });
        client
    }

    /// A client whose wishes nobody can fulfil ends by itself.
    fn refuses(&self, host: usize, wishes: &[&str], code: i32) {
        let config = self.file(&format!("client{host}/client.toml"));
        let arguments = ["up", "--config", config.to_str().unwrap()];
        let command = with_password(&[&arguments[..], wishes].concat());
        let output = self.lab.host(host).command(&command).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    }

    /// Asks a client's daemon.
    fn of(&self, client: &Client, arguments: &[&str]) -> Value {
        self.ask(client.host, &[arguments, &["--control", client.control.to_str().unwrap()]].concat())
    }

    /// Downloads something through a client, at once or after some tries; the path that it took, and how long the first byte
    /// took.
    fn download(&self, client: &Client, site: &Target, user: &str) -> (Vec<String>, Duration) {
        let began = now();
        let mut tries = 0;
        let (path, came) = eventually(&format!("a download, {user}"), || {
            tries += 1;
            self.try_download(client, site, user).ok()
        });
        if tries > 1 {
            println!("{user}: {tries} tries");
        }
        (path, came.duration_since(began))
    }

    /// One try; the path that it took, and when the first byte came.
    fn try_download(&self, client: &Client, site: &Target, user: &str) -> io::Result<(Vec<String>, Instant)> {
        const COUNT: usize = 300_000;
        let (proxy, host) = (client.socks, self.lab.host(client.host));
        let mut stream = host
            .within(|| connect(proxy, Some((user, "x")), &ip(site.address)))
            .map_err(|code| io::Error::other(format!("reply {code}")))?;
        stream.write_all(format!("give {COUNT}\n").as_bytes())?;
        let mut bytes = vec![0];
        stream.read_exact(&mut bytes)?;
        let came = now();
        let circuits = self.of(client, &["circuits"]);
        stream.read_to_end(&mut bytes)?;
        assert_eq!(hash(&bytes), hash(&pattern(COUNT)), "what ends well is whole");
        let circuits = circuits["circuits"].as_array().cloned().unwrap_or_default();
        let used =
            circuits.iter().find(|circuit| circuit["streams"].as_u64().is_some_and(|streams| streams > 0));
        let path = used.and_then(|circuit| circuit["path"].as_array().cloned()).unwrap_or_default();
        let ids: Vec<_> = path.iter().filter_map(|hop| hop["id"].as_str().map(str::to_owned)).collect();
        // path.distinct.2
        let has = |number: usize| ids.iter().any(|id| self.ids[number - 1].starts_with(id));
        assert!(!NEIGHBOURS.into_iter().all(has), "two relays of one subnet in a path: {ids:?}");
        Ok((ids, came))
    }

    /// The relay that a client's list has under this number.
    fn listed(&self, client: &Client, number: usize) -> Option<Value> {
        let list = self.of(client, &["relays"]);
        let relays = list["relays"].as_array()?;
        relays.iter().find(|relay| relay["id"] == self.ids[number - 1].as_str()).cloned()
    }

    fn set_price(&self, number: usize, ask: u64) {
        let config = self.file(&format!("relay{number}/relay.toml"));
        self.ask(number, &["price", &ask.to_string(), "--config", config.to_str().unwrap()]);
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn an_open_network_forms_heals_and_lives_on() {
    let Some(anvil) = program() else { return };
    let (ground, ids) = Ground::new(&anvil);
    let mut net = Open { ground, relays: (0..RELAYS).map(|_| None).collect(), ids };
    let ground = &net.ground;
    let at = SocketAddr::from((ground.lab.host(SITE).address, 0));
    let site = ground.lab.host(SITE).within(|| Target::open_at(at));

    // A client finds everything by itself, and takes paths as it wishes.
    let client = net.form(CLIENTS[0], &["--exit", "de,ch"]);
    let (path, took) = net.download(&client, &site, "first");
    println!("first byte after {took:?}, through {path:?}");
    assert_eq!(path.iter().collect::<BTreeSet<_>>().len(), 3, "three relays: {path:?}");
    let number = |short: &str| 1 + net.ids.iter().position(|id| id.starts_with(short)).unwrap();
    let exit = number(&path[2]);
    assert!(exit % 3 == 0 && ["DE", "CH"].contains(&COUNTRIES[exit % 4]), "the exit is relay {exit}");
    let entry = path[0].clone();

    // One joins, and one leaves.
    net.start_relay(RELAYS);
    let joined = now();
    net.converge(RELAYS);
    eventually("the client knows the new one", || net.listed(&client, RELAYS));
    println!("a relay that joins is known to all after {:?}", joined.elapsed());
    net.refuses(CLIENTS[1], &["--exit", "jp"], 5);
    let left = (1..=RELAYS).find(|n| *n != 1 && !net.ids[n - 1].starts_with(&entry)).unwrap();
    net.kill_relay(left);
    net.download(&client, &site, "after one left");

    // Back again, it is soon used.
    net.start_relay(left);
    let back = now();
    net.reach(&client, left);
    println!("a restarted relay is in paths after {:?}", back.elapsed());

    // A part of the hosts is cut off; what they say meanwhile is known when they are back.
    let stays = |n: &usize| *n == 1 || net.ids[n - 1].starts_with(&entry);
    let apart: Vec<_> = (1..=RELAYS).filter(|n| !stays(n)).take(4).collect();
    let dearer = apart[0];
    for number in &apart {
        net.lab.set_cable(*number, false);
    }
    net.set_price(dearer, DEARER);
    net.download(&client, &site, "while some are cut off");
    thread::park_timeout(Duration::from_secs(5));
    assert_ne!(net.listed(&client, dearer).unwrap()["ask"], DEARER);
    for number in &apart {
        net.lab.set_cable(*number, true);
    }
    let healed = now();
    eventually("the new price is known", || (net.listed(&client, dearer)?["ask"] == DEARER).then_some(()));
    println!("what was said apart is known to the client after {:?}", healed.elapsed());
    net.agree(&[&client]);
    println!("and all know the same after {:?}", healed.elapsed());

    // The network needs nobody in particular, not even the relay where all began.
    if net.ids[0].starts_with(&entry) {
        println!("the bootstrap relay is the client's entry");
    }
    net.kill_relay(1);
    net.download(&client, &site, "without the first");
    let mut client = client;
    client.process.end_by("TERM");
    net.examine(CLIENTS[0]);
    let mut client = net.client(CLIENTS[0], &[]);
    let (path, took) = net.download(&client, &site, "warm");
    println!("first byte of a client that starts again after {took:?}");
    if !net.ids[0].starts_with(&entry) {
        assert_eq!(path[0], entry, "it keeps its entry");
    }
    net.start_relay(1);
    // One that knows nothing but what its two files say.
    fs::remove_dir_all(net.file(&format!("client{}/state", CLIENTS[1]))).unwrap();
    let other = net.client(CLIENTS[1], &["--hops", "5"]);
    let (path, took) = net.download(&other, &site, "five");
    println!("first byte of a client that knows nothing yet after another {took:?}");
    assert_eq!(path.iter().collect::<BTreeSet<_>>().len(), 5);

    // Nor anybody else: whoever is killed, the rest goes on.
    let mut other = other;
    other.process.kill();
    net.download(&client, &site, "without the other client");
    net.are_alive();
    let other = net.client(CLIENTS[1], &[]);
    net.download(&other, &site, "the other one is back");
    net.kill_each_relay(&mut client, &site);
    let client = net.kill_chain(&anvil, client, &site);
    net.download(&client, &site, "last");
    net.agree(&[&client, &other]);
}
