//! `network.toml`: the relays of a static network, signed; or where an open one begins (docs/spec/04-directory.md
//! section 2).

use core::fmt::Write as _;
use std::net::SocketAddr;

use circuit::error::Misuse;
use circuit::keys::{IdentitySecret, NetworkId, RelayId};
use data_encoding::{BASE64, HEXLOWER};
use toml::de::DeTable;
use wire::{Full, Writer};

pub use self::section::FileError;
use self::section::{Section, Source};
use crate::chain::{Chain, EXIT_OPERATORS, parse_address, parse_amount};
use crate::descriptor::SignedDescriptor;
use crate::net::is_inside;
use crate::view::View;

mod section;

/// The longest network file, in bytes.
pub const MAX_FILE: usize = 16 << 20;
/// The longest name of a network, in bytes.
pub const MAX_NAME: usize = 64;
/// The most bootstrap addresses of an open network.
pub const MAX_BOOTSTRAP: usize = 32;
/// The longest host name of a bootstrap address, in bytes.
pub const MAX_HOST: usize = 253;

const SCHEMA: u64 = 1;
const LABEL: &str = "chive network file 1";
const STATIC_KEYS: [&str; 8] =
    ["schema", "name", "network", "expires", "signer", "signature", "chain", "relay"];
const OPEN_KEYS: [&str; 5] = ["schema", "name", "bootstrap", "local", "chain"];
const CHAIN_KEYS: [&str; 6] = ["id", "contract", "rpc", "minimum_bond", "exit_operators", "deployed"];
const GET_AGAIN: &str = "get the file from its maintainer again";
const OPEN_HEAD: &str = "\
# An open network of relays, made by chive. Its relays are registered at the contract, and nobody signs this file: get it
# from somebody you trust.
";
const HEAD: &str = "\
# A network of relays, made by chive. Nodes believe the signature, which covers all values, and no comment:
# whoever changes a value must sign the file again.
";

/// A verified network file, of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFile {
    name: String,
    kind: Kind,
    view: View,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Somebody signs the list of relays.
    Static { expires: u64, signer: RelayId, signature: [u8; 64] },
    /// The relays are in the registry of a chain; these know more.
    Open { bootstrap: Vec<String> },
}

impl NetworkFile {
    /// Signs the relays of a view; the file is valid as long as all of its descriptors are.
    // directory.file.2
    pub fn create(name: &str, relays: View, identity: &IdentitySecret) -> Result<Self, Misuse> {
        check_name(name)?;
        if let Some((_, problem)) = relays.chain().and_then(Chain::problem) {
            return Err(Misuse(problem));
        }
        let expires = relays.iter().map(|relay| relay.expires).min();
        let expires = expires.ok_or(Misuse("a network file needs at least one relay"))?;
        let message = signed_bytes(name, expires, &relays).map_err(|Full| Misuse("the view is too large"))?;
        let signature = identity.sign(LABEL, &message);
        let kind = Kind::Static { expires, signer: identity.id(), signature };
        let file = Self { name: name.to_owned(), kind, view: relays };
        if file.to_text().len() > MAX_FILE {
            return Err(Misuse("the network file would exceed 16 MiB: make descriptors with fewer epochs"));
        }
        Ok(file)
    }

    /// Describes an open network: its chain, and up to [`MAX_BOOTSTRAP`] of its relays to begin with, as `IP:PORT` or
    /// `HOST:PORT` (TCP); a `local` one need not be on the public internet.
    // directory.file.7
    pub fn open(name: &str, chain: Chain, bootstrap: Vec<String>, local: bool) -> Result<Self, Misuse> {
        check_name(name)?;
        if let Some((_, problem)) = chain.problem() {
            return Err(Misuse(problem));
        }
        check_bootstrap(&bootstrap, local).map_err(|problem| Misuse(problem.0))?;
        let view = View::new(chain.open_network()).with_chain(chain).with_local(local);
        Ok(Self { name: name.to_owned(), kind: Kind::Open { bootstrap }, view })
    }

    /// Reads and verifies the text of a file that must still be valid at `unix` (seconds), and signed by `pinned` if
    /// that is given; `path` is for errors only. A file with the key `bootstrap` is that of an open network.
    pub fn parse(text: &str, path: &str, pinned: Option<RelayId>, unix: u64) -> Result<Self, FileError> {
        let source = Source { path, text };
        if text.len() > MAX_FILE {
            return Err(source.error(0..0, "file", "it is longer than 16 MiB", GET_AGAIN));
        }
        let table = DeTable::parse(text).map_err(|error| {
            source.error(
                error.span().unwrap_or_default(),
                "file",
                format!("this is not TOML: {}", error.message().trim_end()),
                GET_AGAIN,
            )
        })?;
        let root = Section { source, table: table.get_ref(), span: 0..0, prefix: String::new() };
        // directory.file.3
        let schema = root.number("schema")?;
        if schema != SCHEMA {
            let problem = format!("this version of chive reads schema {SCHEMA}, not {schema}");
            return Err(root.error("schema", problem, "update chive"));
        }
        let open = root.has("bootstrap");
        root.only(if open { &OPEN_KEYS } else { &STATIC_KEYS })?;
        let name = root.text("name")?;
        if !is_name(name) {
            let problem =
                "it has other characters than ASCII letters, digits, spaces, `-`, `_`, `.`, or not 1 to 64";
            return Err(root.error("name", problem, "choose another name and sign the file again"));
        }
        if open { parse_open(&root, name, pinned) } else { Self::parse_static(&root, name, pinned, unix) }
    }

    fn parse_static(
        root: &Section<'_>,
        name: &str,
        pinned: Option<RelayId>,
        unix: u64,
    ) -> Result<Self, FileError> {
        let network = NetworkId(root.hex("network")?);
        let expires = root.number("expires")?;
        if expires <= unix {
            let problem = format!("the file expired {} ago", duration(unix - expires));
            return Err(root.error(
                "expires",
                problem,
                "get the newest file, or correct this computer's clock",
            ));
        }
        let signer = RelayId(root.hex("signer")?);
        // directory.file.4
        if let Some(pinned) = pinned.filter(|pinned| *pinned != signer) {
            let problem = format!("the file is signed by {signer}, but {pinned} is pinned");
            return Err(root.error("signer", problem, GET_AGAIN));
        }
        let signature = root.hex("signature")?;
        let empty = View::new(network);
        let empty = match root.section("chain")? {
            Some(section) => empty.with_chain(read_chain(&section)?),
            None => empty,
        };
        let view = read_relays(root, empty, expires, unix)?;
        // directory.file.1
        signed_bytes(name, expires, &view)
            .ok()
            .and_then(|message| signer.verify(LABEL, &message, &signature).ok())
            .ok_or_else(|| root.error("signature", "the signer did not sign this file", GET_AGAIN))?;
        Ok(Self { name: name.to_owned(), kind: Kind::Static { expires, signer, signature }, view })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
        let mut text = match &self.kind {
            Kind::Static { expires, signer, signature } => format!(
                "{HEAD}schema = {SCHEMA}\nname = \"{}\"\nnetwork = \"{}\"\n# unix time in seconds\nexpires = {expires}\n\
                 signer = \"{signer}\"\nsignature = \"{}\"\n",
                self.name,
                hex(&self.view.network().0),
                hex(signature),
            ),
            Kind::Open { bootstrap } => format!(
                "{OPEN_HEAD}schema = {SCHEMA}\nname = \"{}\"\nbootstrap = [{}]\n{}",
                self.name,
                quoted(bootstrap),
                if self.view.is_local() { "local = true\n" } else { "" },
            ),
        };
        // Writing to a String cannot fail.
        if let Some(chain) = self.view.chain() {
            let _ = write!(
                text,
                "\n[chain]\nid = {}\ncontract = \"{}\"\nrpc = [{}]\nminimum_bond = \"{} wei\"\nexit_operators = {}\n\
                 deployed = {}\n",
                chain.id,
                chain.contract,
                quoted(&chain.rpc),
                chain.minimum_bond,
                chain.exit_operators,
                chain.deployed,
            );
        }
        for relay in self.view.iter() {
            let _ = write!(text, "\n# id {}\n# address", relay.id);
            for address in &relay.addresses {
                let _ = write!(text, " {address}");
            }
            let country = relay.country.map(|code| code.map(char::from).iter().collect::<String>());
            let exit = relay.exit.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
            let _ =
                write!(text, "\n# country {}, exit ports {exit}\n", country.as_deref().unwrap_or("unknown"));
            if let Some(paid) = &relay.payment {
                let _ = writeln!(
                    text,
                    "# owner {}, wei per cell {}, as an exit {}",
                    paid.owner, paid.ask.0, paid.exit_ask.0
                );
            }
            let _ = write!(text, "[[relay]]\ndescriptor = \"{}\"\n", BASE64.encode(relay.bytes()));
        }
        text
    }

    /// The network's name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From when the file is no longer valid, in unix seconds; `None` if the network is open.
    pub const fn expires(&self) -> Option<u64> {
        match &self.kind {
            Kind::Static { expires, .. } => Some(*expires),
            Kind::Open { .. } => None,
        }
    }

    /// The key that signed the file; `None` if the network is open.
    pub const fn signer(&self) -> Option<RelayId> {
        match &self.kind {
            Kind::Static { signer, .. } => Some(*signer),
            Kind::Open { .. } => None,
        }
    }

    /// Where an open network is entered, as `IP:PORT` or `HOST:PORT` (TCP); `None` if the network is static.
    pub fn bootstrap(&self) -> Option<&[String]> {
        match &self.kind {
            Kind::Static { .. } => None,
            Kind::Open { bootstrap } => Some(bootstrap),
        }
    }

    /// The relays; none yet, if the network is open.
    pub const fn view(&self) -> &View {
        &self.view
    }

    /// The relays, without the file.
    pub fn into_view(self) -> View {
        self.view
    }
}

/// A number of seconds as people say it, in its largest whole unit.
fn duration(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3_600 => (seconds / 60, "minute"),
        3_600..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b" -_.".contains(&b);
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(allowed)
}

fn check_name(name: &str) -> Result<(), Misuse> {
    let problem = "the name of a network has 1 to 64 ASCII letters, digits, spaces or `-`, `_`, `.`";
    if is_name(name) { Ok(()) } else { Err(Misuse(problem)) }
}

fn quoted(texts: &[String]) -> String {
    let quoted: Vec<_> = texts.iter().map(|text| format!("\"{text}\"")).collect();
    quoted.join(", ")
}

/// Where an open network is entered; what is wrong with it, and what to do.
// directory.file.7
fn check_bootstrap(bootstrap: &[String], local: bool) -> Result<(), (&'static str, &'static str)> {
    if bootstrap.len() > MAX_BOOTSTRAP {
        return Err(("an open network names up to 32 bootstrap addresses", "leave some out"));
    }
    if !bootstrap.iter().all(|address| is_host_and_port(address)) {
        let problem = "a bootstrap address is IP:PORT, [IPv6]:PORT or HOST:PORT, with a port from 1 to 65535";
        return Err((problem, "correct it"));
    }
    if !local && bootstrap.iter().any(|address| is_private(address)) {
        return Err((
            "a bootstrap address is not on the public internet, and this network is not local",
            "name an address by which everybody reaches the relay; for a network inside one site, or for tests, write `local = true`",
        ));
    }
    Ok(())
}

/// Whether a bootstrap address is one of this machine, or of the network that it is in.
pub fn is_private(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok_and(|address| is_inside(address.ip()))
}

fn is_host_and_port(text: &str) -> bool {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.port() != 0 && !address.ip().is_unspecified();
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    // What ends in a number is an address, and was none.
    let named = host.rsplit('.').next().is_some_and(|last| last.bytes().any(|b| !b.is_ascii_digit()));
    let port = digits && port.parse::<u16>().is_ok_and(|port| port != 0);
    port && named && host.len() <= MAX_HOST && host.split('.').all(label)
}

/// What the signer signs: the values, with the descriptors in the order of their ids.
fn signed_bytes(name: &str, expires: u64, view: &View) -> Result<Vec<u8>, Full> {
    let length =
        view.iter().map(|relay| 4 + relay.bytes().len()).sum::<usize>() + 1 + name.len() + 16 + 8 + 2 + 1;
    let length = length + view.chain().map_or(0, chain_length);
    let mut bytes = vec![0; length];
    let mut out = Writer::new(&mut bytes);
    out.u8(u8::try_from(name.len()).map_err(|_| Full)?)?;
    out.put(name.as_bytes())?;
    out.put(&view.network().0)?;
    out.u64(expires)?;
    out.u16(u16::try_from(view.iter().len()).map_err(|_| Full)?)?;
    for relay in view.iter() {
        out.u32(u32::try_from(relay.bytes().len()).map_err(|_| Full)?)?;
        out.put(relay.bytes())?;
    }
    out.u8(view.chain().is_some().into())?;
    if let Some(chain) = view.chain() {
        out.u64(chain.id)?;
        out.put(chain.contract.as_slice())?;
        out.put(&chain.minimum_bond.to_bytes().ok_or(Full)?)?;
        out.u16(chain.exit_operators)?;
        out.u64(chain.deployed)?;
        out.u8(u8::try_from(chain.rpc.len()).map_err(|_| Full)?)?;
        for url in &chain.rpc {
            out.u16(u16::try_from(url.len()).map_err(|_| Full)?)?;
            out.put(url.as_bytes())?;
        }
    }
    Ok(bytes)
}

fn chain_length(chain: &Chain) -> usize {
    8 + 20 + 12 + 2 + 8 + 1 + chain.rpc.iter().map(|url| 2 + url.len()).sum::<usize>()
}

/// The rest of an open network's file.
// directory.file.7
fn parse_open(root: &Section<'_>, name: &str, pinned: Option<RelayId>) -> Result<NetworkFile, FileError> {
    // directory.file.4
    if let Some(pinned) = pinned {
        let problem = format!("nobody signs the file of an open network, but {pinned} is pinned");
        return Err(root.error(
            "bootstrap",
            problem,
            "pin no signer for this network, or get the right file",
        ));
    }
    let section = root.section("chain")?.ok_or_else(|| {
        root.error("chain", "an open network has a chain, which has its registry", GET_AGAIN)
    })?;
    let chain = read_chain(&section)?;
    let bootstrap = root.texts("bootstrap")?;
    let local = root.has("local") && root.flag("local")?;
    check_bootstrap(&bootstrap, local)
        .map_err(|(problem, remedy)| root.error("bootstrap", problem, remedy))?;
    let view = View::new(chain.open_network()).with_chain(chain).with_local(local);
    Ok(NetworkFile { name: name.to_owned(), kind: Kind::Open { bootstrap }, view })
}

/// Where the relays are paid.
// directory.file.6
fn read_chain(section: &Section<'_>) -> Result<Chain, FileError> {
    const ASK: &str = "ask the file's maintainer which is right, and get the file again";
    section.only(&CHAIN_KEYS)?;
    let contract = parse_address(section.text("contract")?).ok_or_else(|| {
        let problem =
            "this must be 0x and 40 hexadecimal digits, all lower case or with a right EIP-55 checksum";
        section.error("contract", problem, ASK)
    })?;
    let minimum_bond = parse_amount(section.text("minimum_bond")?).ok_or_else(|| {
        let problem = "this must be an exact amount in wei, gwei or ether below 2^96 wei";
        section.error("minimum_bond", problem, "write it like \"0.001 ether\"")
    })?;
    let exit_operators = if section.has("exit_operators") {
        u16::try_from(section.number("exit_operators")?).map_err(|_| {
            section.error("exit_operators", "this must be a number from 1 to 65535", "write it so")
        })?
    } else {
        EXIT_OPERATORS
    };
    let rpc = if section.has("rpc") { section.texts("rpc")? } else { Vec::new() };
    let deployed = if section.has("deployed") { section.number("deployed")? } else { 0 };
    let chain = Chain { id: section.number("id")?, contract, rpc, minimum_bond, exit_operators, deployed };
    match chain.problem() {
        Some((key, problem)) => Err(section.error(key, problem, ASK)),
        None => Ok(chain),
    }
}

/// All relays of the file; one that is wrong makes the whole file wrong.
// directory.file.5
fn read_relays(root: &Section<'_>, mut view: View, expires: u64, unix: u64) -> Result<View, FileError> {
    const NEW_DESCRIPTOR: &str = "ask its operator for a new descriptor, and sign the file again";
    let relays =
        root.value("relay")?.get_ref().as_array().filter(|relays| !relays.is_empty()).ok_or_else(|| {
            root.error("relay", "there must be at least one [[relay]]", "get the complete file again")
        })?;
    for (i, relay) in relays.iter().enumerate() {
        let prefix = format!("relay[{}]", i + 1);
        let table = relay.get_ref().as_table().ok_or_else(|| {
            root.source.error(relay.span(), &prefix, "a relay is a table", "write it as [[relay]]")
        })?;
        let section =
            Section { source: root.source, table, span: relay.span(), prefix: format!("{prefix}.") };
        section.only(&["descriptor"])?;
        let wrong = |problem: String| section.error("descriptor", problem, NEW_DESCRIPTOR);
        let bytes = BASE64.decode(section.text("descriptor")?.as_bytes()).map_err(|error| {
            section.error("descriptor", format!("this is not base64: {error}"), GET_AGAIN)
        })?;
        let signed = SignedDescriptor::parse(&bytes, view.network(), unix)
            .map_err(|error| wrong(error.to_string()))?;
        if view.get(&signed.id).is_some() {
            return Err(wrong(format!("relay {} is listed twice", signed.id)));
        }
        // directory.file.2
        if signed.expires < expires {
            return Err(wrong(format!("relay {} expires before the file does", signed.id)));
        }
        view.insert(signed).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(view)
}

#[cfg(test)]
mod tests;
