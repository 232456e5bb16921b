//! The configuration files of a relay and of a client.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use circuit::keys::RelayId;
use client::wishes::Wishes;
use directory::chain::Wei;
use router::driver::Limits;
use router::policy::ExitPolicy;

pub(crate) mod amount;
mod announce;
pub(crate) mod limits;
mod section;
pub(crate) mod wishes;

use amount::amount;
pub(crate) use announce::Announce;
use section::{Section, Source};

/// The most relays in a path.
pub(crate) const MAX_HOPS: usize = 5;
/// Relays in a path unless something else is said.
pub(crate) const DEFAULT_HOPS: usize = 3;
/// Where the client listens for applications unless something else is said.
const DEFAULT_SOCKS: &str = "127.0.0.1:9050";
const DEFAULT_PREBUILT: usize = 2;
const MAX_PREBUILT: usize = 32;
/// The most wei per gas, unless something else is said.
const GAS_PRICE: u128 = 100_000_000_000;
/// The most that a draw may be worth, unless something else is said.
const MAX_DRAW: u128 = 10_000_000_000_000;

/// An example of a relay's file, with every setting.
pub(crate) const RELAY_EXAMPLE: &str = r#"# A chive relay: `chive relay run --config FILE`. Paths are relative to this file.

# The network file, and the id that must have signed it; an open network's file is signed by nobody, and has no `signer` here.
network = "network.toml"
signer = "0000000000000000000000000000000000000000000000000000000000000000"

# The UDP address for links, as the relay's descriptor names it.
listen = "0.0.0.0:7000"

# The folder of the log that refuses replayed setups, and of what is noted about payments. Do not delete it while the relay's keys are in use.
state = "state"

# The socket on which `chive status --config FILE` asks this relay. By default $XDG_RUNTIME_DIR/chive/relay.sock.
control = "run/control.sock"

# Only their owner may read these files.
[keys]
identity = "identity.key"
link = "link.key"
onion = "onion.keys"

# What the relay says of itself on an open network; elsewhere the network file has its descriptor.
[announce]
# Where others reach it, up to 4 addresses: the port of `listen`, unless the host's network sends another port there.
addresses = ["203.0.113.7:7000"]
# The TCP port on which it exchanges descriptors with others.
gossip_port = 7000
# The country that it is in, and who runs it; both may be left out.
country = "DE"
operator = "mail@example.org"
# What it asks for carrying a cell on, and for serving one as an exit, in wei.
ask = 1000
exit_ask = 3000

# How much it takes on; every setting may be left out.
[limits]
# Bytes of cells per second, of all circuits together.
rate = "10 MB/s"
# Bytes of cells per month: then it takes no new circuits until the next month, which begins on this day (1 to 28).
monthly = "2 TB"
reset_day = 1
# For how many seconds circuits in use are waited for when the relay is stopped.
drain = 30

# The wallet that is paid and pays, on a paid network; left out on a free one. `chive wallet create` makes it.
[wallet]
file = "wallet.json"
# A file that only its owner may read; without it CHIVE_WALLET_PASSWORD has the password, or the terminal is asked.
password_file = "wallet.password"
# The most that one gas may cost when wins are redeemed.
gas_price = "100 gwei"
# What redeeming a win is reckoned to cost; by default 75,000 gas at the price of the start. A win pays about 20 times as much.
redemption_cost = "20000 gwei"
# The most that is paid ahead in one draw, for about 400 KiB.
max_draw = "10000 gwei"
# Where to ask the chain, instead of what the network file says.
rpc = []
# What the relay puts into its reserve by itself, as its bond, and then registers itself: as soon as the wallet has the ether, and once.
# Without it the relay sends nothing of this kind: chive wallet reserve, chive wallet register.
# bond = "0.1 ether"

# Leave this section out if the relay is no exit.
[exit]
# The first rule that matches decides; what none matches is refused, and so are private addresses.
# Without rules: everything on the public internet but port 25.
rules = ["reject *:25", "accept *:*"]
# In place of `rules`: a file with one rule on each line, and comments after #.
# policy_file = "exit.policy"
# Private destinations that are allowed all the same, for test networks.
allow = []
# Serve clients that use no other relay before this one: they show it their address.
allow_single_hop = false
"#;

/// An example of a client's file, with every setting.
pub(crate) const CLIENT_EXAMPLE: &str = r#"# A chive client: `chive up --config FILE`. Paths are relative to this file.

# The network file, and the id that must have signed it.
network = "network.toml"
signer = "0000000000000000000000000000000000000000000000000000000000000000"

# Where applications reach the client by SOCKS5.
socks = "127.0.0.1:9050"

# Relays in every path, 1 to 5.
hops = 3

# Circuits that are kept ready for the next stream, 1 to 32.
prebuilt = 2

# The local UDP address for links; by default any. Without port 0 the same port is used at every start.
udp = "0.0.0.0:0"

# The socket on which `chive status --config FILE` asks this client. By default $XDG_RUNTIME_DIR/chive/client.sock.
control = "run/control.sock"

# The folder of what the client keeps between runs: its guards, and notes about payments. Do not delete it while its wallet
# is in use.
state = "state"

# What is wanted of every path; nothing of it is ever given up, and where it cannot be had the client says why.
[paths]
# Countries that the last relay, and the first, may be in; [] is any.
exit = []
entry = []
# Countries, autonomous systems ("AS64500") and relays (by their ids) that no path may have.
exclude = []
# No two relays of a path in one country.
distinct_countries = false
# Choose entries although most of the registered relays are unknown: only if you know that the others do not run.
few_relays = false
# The most that a GiB may cost, the whole path, on a paid network; by default any price.
max_price = "0.5 ether/GiB"
# Files that say where addresses are (IPv4, IPv6), with or without autonomous systems; by default a table inside chive, without.
geoip = ["geoip", "geoip6"]

# The wallet that pays, on a paid network; left out on a free one. `chive wallet create` makes it.
[wallet]
file = "wallet.json"
# A file that only its owner may read; without it CHIVE_WALLET_PASSWORD has the password, or the terminal is asked.
password_file = "wallet.password"
# The most that one gas may cost.
gas_price = "100 gwei"
# What redeeming a win is reckoned to cost; by default 75,000 gas at the price of the start. Wins of more than 40 times as much are refused.
redemption_cost = "20000 gwei"
# The most that is paid ahead in one draw, for about 400 KiB.
max_draw = "10000 gwei"
# Where to ask the chain, instead of what the network file says.
rpc = []
"#;

const NETWORK: &str = "\"network.toml\"";
const SIGNER: &str = "\"<the 64 hexadecimal digits that `chive network sample` printed>\"";
const CONTROL: &str = "\"run/control.sock\"";

/// Where the network file is and who must have signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// The file.
    pub(crate) file: PathBuf,
    /// Its signer; nobody signs the file of an open network.
    pub(crate) signer: Option<RelayId>,
}

/// What a relay's file says.
#[derive(Debug)]
pub(crate) struct RelayConfig {
    /// The network.
    pub(crate) network: Network,
    /// The UDP address for links.
    pub(crate) listen: SocketAddr,
    /// The folder of the replay log, and of the money store.
    pub(crate) state: PathBuf,
    /// The control socket, if the file names one.
    pub(crate) control: Option<PathBuf>,
    /// The key files.
    pub(crate) keys: KeyFiles,
    /// What the relay connects to, if it is an exit.
    pub(crate) exit: Option<ExitPolicy>,
    /// Whether it serves clients that use no relay before it.
    pub(crate) allow_single_hop: bool,
    /// The wallet, if the file names one.
    pub(crate) wallet: Option<Wallet>,
    /// What it says of itself on an open network.
    pub(crate) announce: Option<Announce>,
    /// How much it takes on.
    pub(crate) limits: Limits,
}

/// Where a relay's secrets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyFiles {
    /// The identity.
    pub(crate) identity: PathBuf,
    /// The key of the links.
    pub(crate) link: PathBuf,
    /// The onion keys of all epochs.
    pub(crate) onion: PathBuf,
}

/// What a client's file says.
#[derive(Debug)]
pub(crate) struct ClientConfig {
    /// The network.
    pub(crate) network: Network,
    /// Where applications reach it.
    pub(crate) socks: SocketAddr,
    /// What is wanted of every path.
    pub(crate) wishes: Wishes,
    /// The tables of addresses, if the file names them: IPv4, IPv6.
    pub(crate) geoip: Option<[PathBuf; 2]>,
    /// Whether few relays are taken for all that there are.
    pub(crate) few_relays: bool,
    /// Circuits kept ready.
    pub(crate) prebuilt: usize,
    /// The local UDP address, if the file names one.
    pub(crate) udp: Option<SocketAddr>,
    /// The control socket, if the file names one.
    pub(crate) control: Option<PathBuf>,
    /// The folder of the guards and of the money store.
    pub(crate) state: PathBuf,
    /// The wallet, if the file names one.
    pub(crate) wallet: Option<Wallet>,
}

/// What a file says of the wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wallet {
    /// The keystore.
    pub(crate) file: PathBuf,
    /// The file that has its password, if there is one.
    pub(crate) password_file: Option<PathBuf>,
    /// The most wei per gas.
    pub(crate) gas_price: Wei,
    /// What a redemption is reckoned to cost, if the file says it.
    pub(crate) redemption_cost: Option<Wei>,
    /// The most that a draw may be worth.
    pub(crate) max_draw: Wei,
    /// Where the chain is asked; where the network file says if empty.
    pub(crate) rpc: Vec<String>,
    /// What a relay puts into its reserve by itself, before it registers itself.
    pub(crate) bond: Option<Wei>,
}

/// The section `[wallet]` of a client's file, and of a relay's.
const WALLET: &[&str] = &["file", "password_file", "gas_price", "redemption_cost", "max_draw", "rpc"];
const RELAYS_WALLET: &[&str] =
    &["file", "password_file", "gas_price", "redemption_cost", "max_draw", "rpc", "bond"];

impl Wallet {
    fn read(root: &mut Section<'_>, keys: &'static [&'static str]) -> anyhow::Result<Option<Self>> {
        let Some(section) = root.section("wallet", keys)? else { return Ok(None) };
        let amount = |key, example| {
            section.get_checked(key, example, |value| amount(value.as_str().unwrap_or_default()))
        };
        let file = section.path("file", "\"wallet.json\"")?;
        let redemption_cost = amount("redemption_cost", "\"20000 gwei\"")?;
        Ok(Some(Self {
            file: section.require("file", "\"wallet.json\"", file)?,
            password_file: section.path("password_file", "\"wallet.password\"")?,
            gas_price: amount("gas_price", "\"100 gwei\"")?.unwrap_or(Wei(GAS_PRICE)),
            redemption_cost: redemption_cost.filter(|cost| *cost > Wei::ZERO),
            max_draw: amount("max_draw", "\"10000 gwei\"")?.unwrap_or(Wei(MAX_DRAW)),
            rpc: section.list("rpc", "[\"https://rpc.example\"]", urls)?.unwrap_or_default(),
            bond: amount("bond", "\"0.1 ether\"")?.filter(|bond| *bond > Wei::ZERO),
        }))
    }
}

fn urls(list: &[String]) -> Result<Vec<String>, &'static str> {
    let web = |url: &String| url.starts_with("https://") || url.starts_with("http://");
    list.iter().all(web).then(|| list.to_vec()).ok_or("a URL starts with http:// or https://")
}

impl Network {
    fn read(root: &Section<'_>) -> anyhow::Result<Self> {
        let file = root.path("network", NETWORK)?;
        let signer = root.get("signer", SIGNER, |value| relay_id(value.as_str()?))?;
        Ok(Self { file: root.require("network", NETWORK, file)?, signer })
    }
}

/// Settings that only one role has.
const OF_RELAYS: [&str; 5] = ["listen", "keys", "announce", "limits", "exit"];
const OF_CLIENTS: [&str; 5] = ["socks", "hops", "prebuilt", "udp", "paths"];

/// Whether a file has settings of the first list, and none of the second.
fn is_of(source: &Source, own: &[&str], other: &[&str]) -> bool {
    let any = |keys: &[&str]| keys.iter().any(|key| source.has(key));
    any(own) && !any(other)
}

impl RelayConfig {
    /// Reads a relay's file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let source = Source::read(path)?;
        if is_of(&source, &OF_CLIENTS, &OF_RELAYS) {
            let name = path.display();
            bail!("{name} is the file of a client, not of a relay; start it with: chive up --config {name}");
        }
        let mut root = source.root(&[
            "network", "signer", "listen", "state", "control", "keys", "announce", "limits", "exit", "wallet",
        ])?;
        let keys = root.section("keys", &["identity", "link", "onion"])?;
        let exit = root.section("exit", &["rules", "policy_file", "allow", "allow_single_hop"])?;
        let listen = root.parsed("listen", "\"0.0.0.0:7000\"")?;
        let state = root.path("state", "\"state\"")?;
        Ok(Self {
            network: Network::read(&root)?,
            listen: root.require("listen", "\"0.0.0.0:7000\"", listen)?,
            state: root.require("state", "\"state\"", state)?,
            control: root.path("control", CONTROL)?,
            keys: KeyFiles::read(&source, keys.as_ref())?,
            wallet: Wallet::read(&mut root, RELAYS_WALLET)?,
            announce: Announce::read(&mut root)?,
            limits: limits::read(&mut root)?,
            allow_single_hop: exit.as_ref().map_or(Ok(false), |exit| exit.flag("allow_single_hop"))?,
            exit: exit.as_ref().map(exit_policy).transpose()?,
        })
    }
}

impl KeyFiles {
    /// The files that the section names; those it does not are beside the configuration file.
    fn read(source: &Source, section: Option<&Section<'_>>) -> anyhow::Result<Self> {
        let path = |key, name: &str| {
            let named = section.map_or(Ok(None), |section| section.path(key, &format!("\"{name}\"")));
            Ok::<_, anyhow::Error>(named?.unwrap_or_else(|| source.resolve(name)))
        };
        Ok(Self {
            identity: path("identity", "identity.key")?,
            link: path("link", "link.key")?,
            onion: path("onion", "onion.keys")?,
        })
    }
}

impl ClientConfig {
    /// Reads a client's file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let source = Source::read(path)?;
        if is_of(&source, &OF_RELAYS, &OF_CLIENTS) {
            let name = path.display();
            bail!(
                "{name} is the file of a relay, not of a client; start it with: chive relay run --config {name}"
            );
        }
        let mut root = source.root(&[
            "network", "signer", "socks", "hops", "prebuilt", "udp", "control", "state", "paths", "wallet",
        ])?;
        let socks = root.parsed("socks", "\"127.0.0.1:9050\"")?;
        let (wishes, geoip, few_relays) = paths(&mut root, &source)?;
        Ok(Self {
            network: Network::read(&root)?,
            socks: root.require(
                "socks",
                "\"127.0.0.1:9050\"",
                socks.or_else(|| DEFAULT_SOCKS.parse().ok()),
            )?,
            wishes,
            geoip,
            few_relays,
            prebuilt: root.number("prebuilt", "2", 1..MAX_PREBUILT + 1)?.unwrap_or(DEFAULT_PREBUILT),
            udp: root.parsed("udp", "\"0.0.0.0:0\"")?,
            control: root.path("control", CONTROL)?,
            state: root.path("state", "\"state\"")?.unwrap_or_else(|| source.resolve("state")),
            wallet: Wallet::read(&mut root, WALLET)?,
        })
    }
}

/// Whether a file is a relay's: it has a `listen`, which a client's cannot.
pub(crate) fn is_relay(path: &Path) -> bool {
    Source::read(path).is_ok_and(|source| source.has("listen"))
}

/// What a client's file wants of every path, the tables of addresses that it names, and whether few relays do.
fn paths(root: &mut Section<'_>, source: &Source) -> anyhow::Result<(Wishes, Option<[PathBuf; 2]>, bool)> {
    let hops = root.number("hops", "3", 1..MAX_HOPS + 1)?.unwrap_or(DEFAULT_HOPS);
    let mut wishes = Wishes::hops(hops);
    let keys = &["exit", "entry", "exclude", "distinct_countries", "few_relays", "max_price", "geoip"];
    let Some(section) = root.section("paths", keys)? else { return Ok((wishes, None, false)) };
    let countries = |key| {
        section.list(key, "[\"nl\", \"de\"]", |list| {
            list.iter().map(|text| wishes::country(text)).collect::<Result<_, _>>()
        })
    };
    wishes.exit = countries("exit")?.unwrap_or_default();
    wishes.entry = countries("entry")?.unwrap_or_default();
    let excluded = section.list("exclude", "[\"ru\"]", |list| {
        list.iter().map(|text| text.parse()).collect::<Result<Vec<_>, String>>()
    })?;
    wishes::exclude(&mut wishes, excluded.unwrap_or_default());
    wishes.distinct_countries = section.flag("distinct_countries")?;
    wishes.max_price = section.get_checked("max_price", "\"0.5 ether/GiB\"", |value| {
        wishes::price(value.as_str().unwrap_or_default())
    })?;
    let geoip = section.list("geoip", "[\"geoip\", \"geoip6\"]", |list| {
        let files: Result<[String; 2], _> = list.to_vec().try_into();
        files
            .map(|files| files.map(|file| source.resolve(&file)))
            .map_err(|_| "two files are wanted: one for IPv4, one for IPv6")
    })?;
    Ok((wishes, geoip, section.flag("few_relays")?))
}

/// The network and the wallet that a file names, be it a relay's or a client's.
pub(crate) fn wallet_of(path: &Path) -> anyhow::Result<(Network, Option<Wallet>)> {
    if Source::read(path)?.has("listen") {
        RelayConfig::read(path).map(|config| (config.network, config.wallet))
    } else {
        ClientConfig::read(path).map(|config| (config.network, config.wallet))
    }
}

/// The control socket that a file names, be it a relay's or a client's; and whether it is a relay's.
pub(crate) fn control_of(path: &Path) -> anyhow::Result<(Option<PathBuf>, bool)> {
    // A relay's file has a `listen`, a client's cannot.
    let source = Source::read(path)?;
    if source.has("listen") {
        RelayConfig::read(path).map(|config| (config.control, true))
    } else {
        ClientConfig::read(path).map(|config| (config.control, false))
    }
}

/// The relay id that 64 hexadecimal digits are.
pub(crate) fn relay_id(text: &str) -> Option<RelayId> {
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    bytes.try_into().ok().map(RelayId)
}

fn exit_policy(exit: &Section<'_>) -> anyhow::Result<ExitPolicy> {
    let rules = exit.list("rules", "[\"reject *:25\", \"accept *:*\"]", ExitPolicy::parse)?;
    let policy = match (rules, exit.path("policy_file", "\"exit.policy\"")?) {
        (Some(_), Some(_)) => bail!("[exit] has both `rules` and `policy_file`; leave one of them out"),
        (Some(rules), None) => rules,
        (None, Some(file)) => policy_file(&file)?,
        (None, None) => ExitPolicy::default(),
    };
    let allow = exit.list("allow", "[\"10.0.0.0/8:*\"]", |list| policy.clone().allow(list))?;
    Ok(allow.unwrap_or(policy))
}

fn policy_file(file: &Path) -> anyhow::Result<ExitPolicy> {
    let name = file.display();
    let text =
        std::fs::read_to_string(file).map_err(|error| {
            anyhow!("cannot read the exit policy {name}: {error}; name the right file with `policy_file` in [exit], or write `rules` there")
        })?;
    ExitPolicy::parse_text(&text).map_err(|bad| anyhow!("{name} {bad}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chive.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn the_examples_are_right_and_complete() {
        let (folder, path) = written(RELAY_EXAMPLE);
        let relay = RelayConfig::read(&path).unwrap();
        assert_eq!(relay.network.file, folder.path().join("network.toml"));
        assert_eq!(relay.keys.onion, folder.path().join("onion.keys"));
        assert!(relay.exit.unwrap().check("9.9.9.9".parse().unwrap(), 443));
        let announce = relay.announce.unwrap();
        assert_eq!((announce.addresses.len(), announce.ask.0, announce.country), (1, 1_000, Some(*b"DE")));
        let limits = Limits {
            rate: Some(10_000_000),
            monthly: Some((2_000_000_000_000, 1)),
            drain: Duration::from_secs(30),
        };
        assert_eq!(relay.limits, limits);
        assert_eq!(control_of(&path).unwrap(), (Some(folder.path().join("run/control.sock")), true));

        let (folder, path) = written(CLIENT_EXAMPLE);
        let client = ClientConfig::read(&path).unwrap();
        assert_eq!((client.wishes.hops, client.prebuilt), (DEFAULT_HOPS, DEFAULT_PREBUILT));
        assert_eq!(client.wishes.max_price, wishes::price("0.5 ether/GiB").ok());
        assert_eq!(Wishes { max_price: None, ..client.wishes }, Wishes::hops(DEFAULT_HOPS));
        assert_eq!(client.socks, DEFAULT_SOCKS.parse().unwrap());
        let wallet = client.wallet.unwrap();
        assert_eq!(wallet.file, folder.path().join("wallet.json"));
        assert_eq!((wallet.gas_price, wallet.max_draw), (Wei(GAS_PRICE), Wei(MAX_DRAW)));
        assert_eq!(control_of(&path).unwrap(), (Some(folder.path().join("run/control.sock")), false));
    }

    #[test]
    fn a_bad_exit_rule_names_its_line() {
        let text = RELAY_EXAMPLE.replace("\"reject *:25\"", "\"drop *:25\"");
        let error = RelayConfig::read(&written(&text).1).unwrap_err().to_string();
        let line = 1 + text.lines().position(|line| line.starts_with("rules")).unwrap();
        assert!(error.contains(&format!("line {line}: `rules` cannot be")), "{error}");
        assert!(error.contains("drop *:25"), "{error}");
    }

    #[test]
    fn an_exit_policy_may_have_a_file_of_its_own() {
        let text =
            RELAY_EXAMPLE.replace("\nrules = ", "\n# rules = ").replace("# policy_file", "policy_file");
        let (folder, path) = written(&text);
        let error = RelayConfig::read(&path).unwrap_err();
        assert!(error.to_string().contains("cannot read the exit policy"), "{error}");
        let policy = folder.path().join("exit.policy");
        std::fs::write(&policy, "# web only\naccept *:443\n").unwrap();
        let exit = RelayConfig::read(&path).unwrap().exit.unwrap();
        let ip = "9.9.9.9".parse().unwrap();
        assert_eq!((exit.check(ip, 443), exit.check(ip, 80)), (true, false));
        std::fs::write(&policy, "accept *:443\ndrop *:80\n").unwrap();
        let error = RelayConfig::read(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} line 2: exit rule `drop *:80`", policy.display())), "{error}");
        let both = RELAY_EXAMPLE.replace("# policy_file", "policy_file");
        let error = RelayConfig::read(&written(&both).1).unwrap_err().to_string();
        assert!(error.contains("both `rules` and `policy_file`"), "{error}");
    }

    #[test]
    fn wishes_are_read_and_a_bad_one_names_its_line() {
        let id = "ab".repeat(32);
        let text = CLIENT_EXAMPLE
            .replace("exit = []", "exit = [\"nl\", \"DE\"]")
            .replace("exclude = []", &format!("exclude = [\"ru\", \"{id}\"]"));
        let wishes = ClientConfig::read(&written(&text).1).unwrap().wishes;
        assert_eq!((wishes.exit.len(), wishes.excluded.len(), wishes.excluded_relays.len()), (2, 1, 1));
        let text = CLIENT_EXAMPLE.replace("entry = []", "entry = [\"nld\"]");
        let error = ClientConfig::read(&written(&text).1).unwrap_err().to_string();
        let line = 1 + text.lines().position(|line| line.starts_with("entry")).unwrap();
        assert!(error.contains(&format!("line {line}: `entry` cannot be")), "{error}");
        assert!(error.contains("a country of two letters"), "{error}");
    }

    #[test]
    fn a_file_of_the_other_role_says_so() {
        let (_folder, path) = written(CLIENT_EXAMPLE);
        let error = RelayConfig::read(&path).unwrap_err().to_string();
        assert!(error.contains("is the file of a client") && error.contains("chive up --config"), "{error}");
        let (_folder, path) = written(RELAY_EXAMPLE);
        let error = ClientConfig::read(&path).unwrap_err().to_string();
        assert!(
            error.contains("is the file of a relay") && error.contains("chive relay run --config"),
            "{error}"
        );
    }

    #[test]
    fn without_an_exit_section_the_relay_is_no_exit() {
        let (middle, _) = RELAY_EXAMPLE.split_once("# Leave this section out").unwrap();
        assert!(RelayConfig::read(&written(middle).1).unwrap().exit.is_none());
    }
}
