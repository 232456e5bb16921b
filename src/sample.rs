//! `chive network sample`: keys and files of a whole network, for tests and laboratories.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use circuit::keys::{DhSecret, IdentitySecret, NetworkId, Random, RelayId};
use directory::chain::{Chain, Wei, parse_address};
use directory::descriptor::{Descriptor, SignedDescriptor, epoch};
use directory::network_file::NetworkFile;
use directory::payment::{Payment, Rate};
use directory::view::View;
use rand_core::Rng as _;
use router::driver::Keys;
use router::policy::ExitPolicy;
use serde::Serialize;

use crate::cli::{Paid, Sample};
use crate::config::KeyFiles;
use crate::failure::{Failure, Kind};
use crate::keystore;
use crate::output::Format;
use crate::outside;

const COUNTRIES: [&[u8; 2]; 8] = [b"DE", b"NL", b"CH", b"FR", b"SE", b"JP", b"US", b"BR"];

/// One relay of a network that is made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What it connects to, if it is an exit.
    pub(crate) exit: Option<ExitPolicy>,
    /// Where it is paid and what it asks, on a paid network.
    pub(crate) payment: Option<Payment>,
}

/// Draws keys for relays and describes them, all valid from now for so many days.
pub(crate) fn network(plans: &[Plan], days: u16, rng: &mut Random) -> anyhow::Result<(View, Vec<Keys>)> {
    let mut id = [0; 16];
    rng.fill_bytes(&mut id);
    let mut view = View::new(NetworkId(id));
    let issued = outside::unix();
    let expires = issued + u64::from(days) * 86_400;
    let mut all = Vec::with_capacity(plans.len());
    for (number, (plan, country)) in plans.iter().zip(COUNTRIES.iter().cycle()).enumerate() {
        let first_epoch = epoch(issued);
        let keys = Keys {
            identity: IdentitySecret::random(rng),
            link: DhSecret::random(rng),
            onion: (first_epoch..=epoch(expires)).map(|epoch| (epoch, DhSecret::random(rng))).collect(),
        };
        let descriptor = Descriptor {
            id: keys.identity.id(),
            network: view.network(),
            sequence: 1,
            issued,
            expires,
            link_key: keys.link.public(),
            first_epoch,
            onion_keys: keys.onion.values().map(DhSecret::public).collect(),
            addresses: vec![plan.address],
            exit: plan.exit.as_ref().and_then(ExitPolicy::summary),
            country: Some(**country),
            operator: format!("operator {}", number + 1),
            version: concat!("chive ", env!("CARGO_PKG_VERSION")).to_owned(),
            bandwidth: 0,
            gossip_port: 0,
            payment: plan.payment,
        };
        view.insert(SignedDescriptor::prove(descriptor, &keys.identity, &keys.link)?)?;
        all.push(keys);
    }
    Ok((view, all))
}

/// What was written.
#[derive(Debug, Serialize)]
struct Written {
    network: PathBuf,
    signer: String,
    client: PathBuf,
    relays: Vec<PathBuf>,
}

/// Writes the files of a network.
pub(crate) fn run(wanted: &Sample, output: Format) -> anyhow::Result<()> {
    let addresses = addresses(wanted)?;
    let allow = ExitPolicy::default().allow(&wanted.exit_allow).map_err(|bad| usage(bad.to_string()))?;
    let exits = usize::from(wanted.exits);
    if exits > addresses.len() {
        return Err(usage(format!("{exits} of {} relays cannot be exits", addresses.len())));
    }
    let middles = addresses.len() - exits;
    let (chain, payments) = match paid(&wanted.paid, addresses.len())? {
        Some((chain, payments)) => (Some(chain), payments.into_iter().map(Some).collect()),
        None => (None, vec![None; addresses.len()]),
    };
    let plans: Vec<_> = (0..)
        .zip(addresses.iter().zip(payments))
        .map(|(number, (address, payment))| {
            let exit = (number >= middles).then(|| allow.clone());
            let no_exit = |payment| Payment { exit_ask: Rate::FREE, ..payment };
            let payment = if exit.is_some() { payment } else { payment.map(no_exit) };
            Plan { address: *address, exit, payment }
        })
        .collect();
    let mut rng = outside::random()?;
    let (mut view, keys) = network(&plans, wanted.days, &mut rng)?;
    if let Some(chain) = chain {
        view = view.with_chain(chain);
    }
    let maintainer = IdentitySecret::random(&mut rng);
    let file =
        NetworkFile::create("sample", view, &maintainer).map_err(|misuse| usage(misuse.0.to_owned()))?;

    let out = &wanted.out;
    keystore::new_folder(out)?;
    let mut written = Written {
        network: out.join("network.toml"),
        signer: maintainer.id().to_string(),
        client: out.join("client.toml"),
        relays: Vec::new(),
    };
    keystore::write_new(&written.network, &file.to_text())?;
    for (number, (plan, keys)) in plans.iter().zip(&keys).enumerate() {
        let folder = out.join(format!("relay{}", number + 1));
        written.relays.push(write_relay(&folder, plan, keys, maintainer.id(), wanted)?);
    }
    keystore::write_new(&written.client, &client_text(maintainer.id()))?;
    output.print(&written, || {
        let (relays, network) = (written.relays.len(), written.network.display());
        let client = written.client.display();
        let first = written.relays.first().map_or_else(|| Path::new(""), PathBuf::as_path).display();
        format!(
            "wrote {network} with {relays} relays, signed by {}\n\
             start each relay:  chive relay run --config {first}\n\
             start the client:  chive up --config {client}",
            written.signer
        )
    })
}

fn usage(text: String) -> anyhow::Error {
    Failure::new(Kind::Usage, text).into()
}

/// The chain of a paid network, and the payment parts of its relays.
fn paid(wanted: &Paid, relays: usize) -> anyhow::Result<Option<(Chain, Vec<Payment>)>> {
    let (Some(chain_id), Some(contract)) = (wanted.chain_id, &wanted.contract) else { return Ok(None) };
    let account = |option: &str, text: &str| {
        parse_address(text).filter(|address| !address.is_zero()).ok_or_else(|| {
            usage(format!(
                "{option} {text:?} is no account: write 0x and 40 hexadecimal digits, all lower case or with a right checksum"
            ))
        })
    };
    let rate = |option: &str, wei: Option<u64>| {
        let rate = Rate(wei.unwrap_or(0));
        let near = rate.round_up().0;
        let problem =
            || usage(format!("{option} has more than 24 significant bits; the nearest price is {near}"));
        rate.encode().map(|_| rate).ok_or_else(problem)
    };
    let bond = wanted.minimum_bond.unwrap_or(Wei::ZERO);
    let contract = account("--contract", contract)?;
    let (ask, exit_ask) = (rate("--ask", wanted.ask)?, rate("--exit-ask", wanted.exit_ask)?);
    if wanted.owner.len() != relays {
        return Err(usage(format!("--owner was given {} times for {relays} relays", wanted.owner.len())));
    }
    let payment = |text: &String| {
        account("--owner", text).map(|owner| Payment { chain_id, contract, owner, ask, exit_ask })
    };
    let payments = wanted.owner.iter().map(payment).collect::<anyhow::Result<_>>()?;
    let rpc = wanted.rpc.clone();
    let chain = Chain { id: chain_id, contract, rpc, minimum_bond: bond, exit_operators: 1, deployed: 0 };
    Ok(Some((chain, payments)))
}

/// The addresses of all relays.
fn addresses(wanted: &Sample) -> anyhow::Result<Vec<SocketAddr>> {
    let count = usize::from(wanted.relays);
    if wanted.addresses.is_empty() {
        let ports = (0..wanted.relays).map(|n| wanted.base.port().checked_add(n).filter(|port| *port != 0));
        let ports = ports
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| usage("the ports of --base do not fit".to_owned()))?;
        return Ok(ports.into_iter().map(|port| SocketAddr::new(wanted.base.ip(), port)).collect());
    }
    if wanted.addresses.len() != count {
        return Err(usage(format!(
            "--addresses has {} addresses for {count} relays",
            wanted.addresses.len()
        )));
    }
    for (number, address) in wanted.addresses.iter().enumerate() {
        if wanted.addresses.iter().take(number).any(|other| other == address) {
            return Err(usage(format!("--addresses names {address} twice; every relay needs its own")));
        }
    }
    Ok(wanted.addresses.clone())
}

/// Writes one relay's folder: keys, log and configuration file, whose path is returned.
fn write_relay(
    folder: &Path,
    plan: &Plan,
    keys: &Keys,
    signer: RelayId,
    wanted: &Sample,
) -> anyhow::Result<PathBuf> {
    keystore::private_folder(folder)?;
    let file = |name| folder.join(name);
    let files =
        KeyFiles { identity: file("identity.key"), link: file("link.key"), onion: file("onion.keys") };
    keystore::write(keys, &files)?;
    // circuit.setup.6: these onion keys have seen no setup yet, so an empty log is a complete one.
    keystore::private_folder(&file("state"))?;
    router::driver::create_log(&file("state"))
        .with_context(|| format!("cannot write the replay log in {}", file("state").display()))?;
    let mut text = format!(
        "network = \"../network.toml\"\nsigner = \"{signer}\"\nlisten = \"{}\"\nstate = \"state\"\n\
         control = \"run/control.sock\"\n\n[keys]\nidentity = \"identity.key\"\nlink = \"link.key\"\nonion = \"onion.keys\"\n",
        plan.address
    );
    if plan.exit.is_some() {
        let allow = toml::Value::from(wanted.exit_allow.clone());
        let single = wanted.allow_single_hop;
        let _ = write!(text, "\n[exit]\nallow = {allow}\nallow_single_hop = {single}\n");
    }
    let path = file("relay.toml");
    keystore::write_new(&path, &text)?;
    Ok(path)
}

fn client_text(signer: RelayId) -> String {
    format!(
        "network = \"network.toml\"\nsigner = \"{signer}\"\nsocks = \"127.0.0.1:9050\"\nhops = 3\nprebuilt = 2\n\
         control = \"run/control.sock\"\n"
    )
}
