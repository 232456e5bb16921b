//! `chive relay setup`: the files of a new relay, from a few answers.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use circuit::keys::{DhSecret, IdentitySecret, RelayId};
use data_encoding::BASE64;
use directory::chain::{Chain, parse_amount};
use directory::descriptor::{Descriptor, EPOCH_SECONDS, SignedDescriptor, epoch};
use directory::payment::Rate;
use directory::view::View;
use payments::Address;
use payments::amount::Wei;
use router::driver::Keys;
use router::herald::Facts;
use router::policy::ExitPolicy;
use serde::Serialize;

use crate::cli::{Place, Setup, relay_address};
use crate::config::{self, Network, RelayConfig};
use crate::facts;
use crate::failure::{Failure, Kind};
use crate::keystore;
use crate::network;
use crate::output::Format;
use crate::outside;
use crate::report::asks_text;
use crate::wallet;

mod purse;
mod questions;

use purse::Purse;
use questions::Questions;

/// For how many days the descriptor of a static network is valid.
const DAYS: u64 = 180;
const POLICY: &str = "\
# What this exit connects to: the first rule that matches decides, and what none matches is refused.
# Private and other special addresses are refused before all of them. A rule: accept or reject, an address (or *), a port (or *).
reject *:25             # mail between servers: spam
reject *:465
reject *:587
reject *:6881-6999      # file sharing, for which hosts get most complaints
accept *:*
";

/// What is known of the relay before anything is written.
#[derive(Debug)]
struct Answers {
    network: Network,
    chain: Option<Chain>,
    place: Place,
    addresses: Vec<SocketAddr>,
    listen: SocketAddr,
    gossip_port: u16,
    ask: Rate,
    exit_ask: Rate,
    /// Private destinations that an exit allows.
    allow: Vec<String>,
    /// The wallet, on a paid network.
    purse: Option<Purse>,
    /// What the relay puts up by itself.
    bond: Option<Wei>,
    monthly: Option<String>,
    rate: Option<String>,
    country: Option<String>,
    operator: Option<String>,
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    id: String,
    config: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    wallet: Option<PathBuf>,
    /// Who is paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// What it asks for a cell, and for one as an exit, in wei; on a paid network.
    #[serde(skip_serializing_if = "Option::is_none")]
    asks: Option<[String; 2]>,
    /// The descriptor for whoever maintains the network file.
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<PathBuf>,
    /// What is to be done now.
    next: Vec<String>,
}

/// `chive relay setup`.
pub(crate) fn run(wanted: &Setup, output: Format) -> anyhow::Result<()> {
    let out = &wanted.out;
    let taken = fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some());
    if taken || out.is_file() {
        bail!(
            "{} is there already, and nothing in it is overwritten; choose another folder with --out",
            out.display()
        );
    }
    let answers = Answers::gather(wanted)?;
    // At once or not at all: what is left of an attempt goes with its folder, which only its owner may enter.
    let parent =
        out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    keystore::private_folder(parent)?;
    let private = fs::Permissions::from_mode(0o700);
    let folder = tempfile::Builder::new().prefix(".chive-relay").permissions(private).tempdir_in(parent)?;
    let made = write(folder.path(), wanted, &answers)?;
    let cannot = || format!("cannot make the folder {}", out.display());
    fs::rename(folder.path(), out).with_context(cannot)?;
    let Made { id, owner, open } = made;
    let named = RelayConfig::read(&out.join("relay.toml"))?.wallet.map(|wallet| wallet.file);
    let config = out.join("relay.toml");
    let descriptor = (!open).then(|| out.join("descriptor.txt"));
    let written = Written {
        id: id.to_string(),
        wallet: named,
        owner: owner.map(|owner| owner.to_string()),
        asks: answers.chain.is_some().then(|| [answers.ask, answers.exit_ask].map(|ask| ask.0.to_string())),
        next: next(&config, id, owner.zip(answers.chain.as_ref()), descriptor.as_deref(), answers.bond),
        descriptor,
        config,
    };
    output.print(&written, || {
        let mut text = format!("wrote {} for the relay {}", out.display(), written.id);
        if let Some(asks) = &written.asks {
            let _ = write!(text, "\nit asks {}", asks_text(asks));
        }
        for warning in answers.warnings() {
            let _ = write!(text, "\nnote: {warning}");
        }
        text.push_str("\nnow:");
        for (number, step) in (1..).zip(&written.next) {
            let _ = write!(text, "\n{number}. {step}");
        }
        text
    })?;
    Ok(())
}

/// What there is to know of what was written.
struct Made {
    id: RelayId,
    owner: Option<Address>,
    /// The network is open.
    open: bool,
}

/// Writes everything into a folder.
fn write(folder: &Path, wanted: &Setup, answers: &Answers) -> anyhow::Result<Made> {
    let wallet = answers.purse.as_ref().map(|purse| purse.write(folder, wanted)).transpose()?;
    let text = fs::read_to_string(&answers.network.file)
        .with_context(|| format!("cannot read {}", answers.network.file.display()))?;
    keystore::write_new(&folder.join("network.toml"), &text)?;
    if answers.place == Place::Exit {
        keystore::write_new(&folder.join("exit.policy"), POLICY)?;
    }
    let path = folder.join("relay.toml");
    keystore::write_new(&path, &answers.to_toml(wallet.as_ref()))?;
    // What the relay will read is what is gone by from here on.
    let config = RelayConfig::read(&path)?;
    let owner = wallet.map(|wallet| wallet.owner);
    let facts = facts::of(&config, answers.chain.as_ref().zip(owner))?;
    let view = network::read(&config.network)?;
    // An open network's relay makes its onion keys while it runs.
    let open = config.network.signer.is_none();
    let keys = write_keys(&config, if open { EPOCH_SECONDS } else { DAYS * 86_400 })?;
    let signed = describe(&keys, &facts, &view).context("a descriptor cannot say this of a relay")?;
    if !open {
        let text = format!("{}\n", BASE64.encode(signed.bytes()));
        keystore::write_new(&folder.join("descriptor.txt"), &text)?;
    }
    Ok(Made { id: keys.identity.id(), owner, open })
}

impl Answers {
    fn gather(wanted: &Setup) -> anyhow::Result<Self> {
        let questions = Questions::new(wanted.yes)?;
        let file =
            questions.value(wanted.network.clone(), "The network file", None, "--network", |text| {
                let path = PathBuf::from(text);
                if path.is_file() { Ok(path) } else { Err(format!("there is no file {text}")) }
            })?;
        let signer = wanted.signer.as_deref().map(|text| {
            config::relay_id(text).ok_or_else(|| usage("--signer must be 64 hexadecimal digits"))
        });
        let network = Network { file, signer: signer.transpose()? };
        let view = network::read(&network)?;
        let chain = view.chain().cloned();
        let place = questions.value(
            wanted.role,
            "Is it an exit, which connects to destinations, or a middle, which carries cells on only",
            Some("middle"),
            "--role",
            |text| match text {
                "middle" => Ok(Place::Middle),
                "exit" => Ok(Place::Exit),
                _ => Err("write middle or exit".to_owned()),
            },
        )?;
        let given = Some(wanted.address.clone()).filter(|list| !list.is_empty());
        let addresses =
            questions.value(given, "Its public address and UDP port", None, "--address", |text| {
                let addresses = vec![relay_address(text)?];
                facts::require_public(&addresses, &view).map_err(|problem| problem.to_string())?;
                Ok(addresses)
            })?;
        facts::require_public(&addresses, &view)?;
        let first = *addresses.first().context("the relay has no address")?;
        let (ask, exit_ask) = prices(questions, wanted, chain.is_some(), place)?;
        if place == Place::Middle && !wanted.exit_allow.is_empty() {
            return Err(usage(
                "--exit-allow is for exits, and this relay is a middle: leave it out, or say --role exit",
            ));
        }
        ExitPolicy::default().allow(&wanted.exit_allow).map_err(|bad| {
            usage(format!("--exit-allow: {bad}; write it like 127.0.0.1:8080 or 10.77.0.0/24:*"))
        })?;
        let purse = if chain.is_some() { Some(purse::gather(questions, wanted)?) } else { None };
        let bond = match &chain {
            Some(chain) => purse::bond(questions, wanted, chain.minimum_bond)?,
            None if wanted.bond.is_some() => {
                return Err(usage("--bond: this network is free, and has no bonds"));
            }
            None => None,
        };
        let monthly = questions.option(
            wanted.monthly.clone(),
            "What it may carry in a month, such as 2 TB (nothing: no limit)",
            "",
            |text| match text {
                "" => Ok(None),
                _ if config::limits::parse_size(text).is_some_and(|size| size > 0) => {
                    Ok(Some(text.to_owned()))
                }
                _ => Err("a size is wanted, such as 500 GB or 2 TB".to_owned()),
            },
        )?;
        Ok(Self {
            network,
            chain,
            place,
            listen: wanted.listen.unwrap_or_else(|| any(first)),
            gossip_port: wanted.gossip_port.unwrap_or_else(|| first.port()),
            addresses,
            ask,
            exit_ask,
            allow: wanted.exit_allow.clone(),
            purse,
            bond,
            monthly,
            rate: wanted.rate.clone(),
            country: wanted.country.clone(),
            operator: wanted.operator.clone(),
        })
    }

    /// What may not be meant.
    fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self.chain.is_some() && self.ask == Rate::FREE {
            warnings.push("it carries cells on for nothing, on a network where relays are paid: `ask` in [announce] sets a price");
        }
        if self.chain.is_some() && self.place == Place::Exit && self.exit_ask == Rate::FREE {
            warnings.push("it is an exit for nothing, on a network where relays are paid: `exit_ask` in [announce] sets a price");
        }
        warnings
    }

    /// The relay's file.
    fn to_toml(&self, wallet: Option<&purse::Written>) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let mut text = "# Written by chive relay setup; `chive config example relay` shows every setting.\n\
                        network = \"network.toml\"\n"
            .to_owned();
        let mut line = |key: &str, value: &dyn core::fmt::Display| {
            let _ = writeln!(text, "{key} = {value}");
        };
        if let Some(signer) = self.network.signer {
            line("signer", &format_args!("\"{signer}\""));
        }
        line("listen", &format_args!("\"{}\"", self.listen));
        line("state", &"\"state\"");
        line("control", &"\"run/control.sock\"");
        line(
            "\n[announce]\naddresses",
            &toml::Value::from(self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()),
        );
        line("gossip_port", &self.gossip_port);
        if let Some(country) = &self.country {
            line("country", &quoted(country));
        }
        if let Some(operator) = &self.operator {
            line("operator", &quoted(operator));
        }
        line("ask", &self.ask.0);
        line("exit_ask", &self.exit_ask.0);
        line("\n[limits]\ndrain", &30);
        if let Some(rate) = &self.rate {
            line("rate", &quoted(rate));
        }
        if let Some(monthly) = &self.monthly {
            line("monthly", &quoted(monthly));
        }
        if let Some(wallet) = wallet {
            line("\n[wallet]\nfile", &quoted(&wallet.file));
            if let Some(password) = &wallet.password_file {
                line("password_file", &quoted(password));
            }
            if let Some(bond) = self.bond {
                line("bond", &quoted(&wallet::ether_text(bond)));
            }
        }
        if self.place == Place::Exit {
            line("\n[exit]\npolicy_file", &"\"exit.policy\"");
            if !self.allow.is_empty() {
                line("allow", &toml::Value::from(self.allow.clone()));
            }
        }
        text
    }
}

/// What it asks as a middle and as an exit.
fn prices(questions: Questions, wanted: &Setup, paid: bool, place: Place) -> anyhow::Result<(Rate, Rate)> {
    if place == Place::Middle && wanted.exit_ask.is_some() {
        let text = "--exit-ask is the price of an exit, and this relay is a middle: leave it out, or say --role exit";
        return Err(usage(text));
    }
    if !paid {
        return Ok((Rate::FREE, Rate::FREE));
    }
    let ask = |given: Option<u64>, question, default, option| {
        let given =
            given.map(|wei| price(Rate(wei)).map_err(|problem| usage(format!("{option}: {problem}"))));
        questions.value(given.transpose()?, question, Some(default), option, |text| {
            let wei = parse_amount(text).and_then(|wei| u64::try_from(wei.0).ok());
            price(Rate(wei.ok_or("an amount is wanted, such as 1000 (wei) or 0.5gwei")?))
        })
    };
    let forward = ask(
        wanted.ask,
        "Its price for carrying a cell (1,280 bytes), in wei or such as 0.5gwei",
        "1000",
        "--ask",
    )?;
    let exit = match place {
        Place::Middle => Rate::FREE,
        Place::Exit => ask(
            wanted.exit_ask,
            "Its price for a cell as an exit, in wei or such as 0.5gwei",
            "3000",
            "--exit-ask",
        )?,
    };
    Ok((forward, exit))
}

/// A price that descriptors can say.
fn price(rate: Rate) -> Result<Rate, String> {
    let near = rate.round_up().0;
    rate.encode().map(|_| rate).ok_or_else(|| {
        format!("{} wei has more than 24 significant bits; the nearest price is {near}", rate.0)
    })
}

fn usage(text: impl Into<String>) -> anyhow::Error {
    Failure::new(Kind::Usage, text).into()
}

/// All addresses of this machine, of the family and with the port of this one.
const fn any(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(ip, address.port())
}

/// Draws and writes the relay's secrets, with onion keys for so many seconds, and the empty log that belongs to them.
fn write_keys(config: &RelayConfig, valid: u64) -> anyhow::Result<Keys> {
    let mut rng = outside::random()?;
    let unix = outside::unix();
    let (first, last) = (epoch(unix), epoch(unix + valid));
    let keys = Keys {
        identity: IdentitySecret::random(&mut rng),
        link: DhSecret::random(&mut rng),
        onion: (first..=last).map(|epoch| (epoch, DhSecret::random(&mut rng))).collect(),
    };
    keystore::write(&keys, &config.keys)?;
    // circuit.setup.6: these onion keys have seen no setup yet, so an empty log is a complete one.
    keystore::private_folder(&config.state)?;
    router::driver::create_log(&config.state)
        .with_context(|| format!("cannot write the replay log in {}", config.state.display()))?;
    Ok(keys)
}

/// The relay's descriptor; it shows that all it says may be said.
fn describe(keys: &Keys, facts: &Facts, view: &View) -> anyhow::Result<SignedDescriptor> {
    let issued = outside::unix();
    let (Some(first), Some(last)) = (keys.onion.keys().next(), keys.onion.keys().next_back()) else {
        bail!("the relay has no onion keys");
    };
    let descriptor = Descriptor {
        id: keys.identity.id(),
        network: view.network(),
        sequence: issued,
        issued,
        expires: (u64::from(*last) + 1) * EPOCH_SECONDS,
        link_key: keys.link.public(),
        first_epoch: *first,
        onion_keys: keys.onion.values().map(DhSecret::public).collect(),
        addresses: facts.addresses.clone(),
        exit: facts.exit.clone(),
        country: facts.country,
        operator: facts.operator.clone(),
        version: facts.version.clone(),
        bandwidth: facts.bandwidth,
        gossip_port: facts.gossip_port,
        payment: facts.payment,
    };
    Ok(SignedDescriptor::prove(descriptor, &keys.identity, &keys.link)?)
}

/// What is to be done after the files are there.
fn next(
    config: &Path,
    id: RelayId,
    paid: Option<(Address, &Chain)>,
    descriptor: Option<&Path>,
    bond: Option<Wei>,
) -> Vec<String> {
    let name = config.display();
    let mut steps = vec![format!(
        "keep a copy of {}: nobody can restore keys and wallet",
        config.parent().unwrap_or(config).display()
    )];
    if let Some((owner, chain)) = paid {
        let least = wallet::ether_text(chain.minimum_bond);
        if let Some(bond) = bond {
            let bond = wallet::ether_text(bond);
            steps.push(format!(
                "send ether to {owner}: the bond of {bond}, which the relay puts up by itself, what other relays are paid, and fees"
            ));
        } else {
            steps.push(format!("send ether to {owner}: the bond, which is {least} at least, what other relays are paid, and fees"));
            steps.push(format!("chive wallet reserve \"{least}\" --config {name}"));
            steps.push(format!("chive wallet register {id} --config {name}"));
        }
        steps.push(format!("chive wallet deposit \"0.01 ether\" --config {name}"));
    }
    if let Some(descriptor) = descriptor {
        steps.push(format!(
            "give {} to whoever maintains the network file, and put the new file in the place of the one here",
            descriptor.display()
        ));
    }
    steps.push(format!("chive doctor --config {name}"));
    steps.push(format!("chive relay run --config {name}"));
    steps
}
