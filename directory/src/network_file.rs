//! `network.toml`: the relays of a static network, signed (docs/spec/04-directory.md section 2).

use core::fmt::Write as _;

use circuit::error::Misuse;
use circuit::keys::{IdentitySecret, NetworkId, RelayId};
use data_encoding::{BASE64, HEXLOWER};
use toml::de::DeTable;
use wire::{Full, Writer};

pub use self::section::FileError;
use self::section::{Section, Source};
use crate::chain::{Chain, EXIT_OPERATORS, parse_address, parse_amount};
use crate::descriptor::SignedDescriptor;
use crate::view::View;

mod section;

/// The longest network file, in bytes.
pub const MAX_FILE: usize = 16 << 20;
/// The longest name of a network, in bytes.
pub const MAX_NAME: usize = 64;

const SCHEMA: u64 = 1;
const LABEL: &str = "chive network file 1";
const ROOT_KEYS: [&str; 8] =
    ["schema", "name", "network", "expires", "signer", "signature", "chain", "relay"];
const CHAIN_KEYS: [&str; 5] = ["id", "contract", "rpc", "minimum_bond", "exit_operators"];
const GET_AGAIN: &str = "get the file from its maintainer again";
const HEAD: &str = "\
# A network of relays, made by chive. Nodes believe the signature, which covers all values, and no comment:
# whoever changes a value must sign the file again.
";

/// A verified network file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkFile {
    name: String,
    expires: u64,
    signer: RelayId,
    signature: [u8; 64],
    view: View,
}

impl NetworkFile {
    /// Signs the relays of a view; the file is valid as long as all of its descriptors are.
    // directory.file.2
    pub fn create(name: &str, relays: View, identity: &IdentitySecret) -> Result<Self, Misuse> {
        if !is_name(name) {
            return Err(Misuse(
                "the name of a network has 1 to 64 ASCII letters, digits, spaces or `-`, `_`, `.`",
            ));
        }
        if let Some((_, problem)) = relays.chain().and_then(Chain::problem) {
            return Err(Misuse(problem));
        }
        let expires = relays.iter().map(|relay| relay.expires).min();
        let expires = expires.ok_or(Misuse("a network file needs at least one relay"))?;
        let message = signed_bytes(name, expires, &relays).map_err(|Full| Misuse("the view is too large"))?;
        let signature = identity.sign(LABEL, &message);
        let file = Self { name: name.to_owned(), expires, signer: identity.id(), signature, view: relays };
        if file.to_text().len() > MAX_FILE {
            return Err(Misuse("the network file would exceed 16 MiB: make descriptors with fewer epochs"));
        }
        Ok(file)
    }

    /// Reads and verifies the text of a file that must still be valid at `unix` (seconds), and signed by `pinned` if
    /// that is given; `path` is for errors only.
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
        root.only(&ROOT_KEYS)?;
        let name = root.text("name")?;
        if !is_name(name) {
            let problem =
                "it has other characters than ASCII letters, digits, spaces, `-`, `_`, `.`, or not 1 to 64";
            return Err(root.error("name", problem, "choose another name and sign the file again"));
        }
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
        let view = read_relays(&root, empty, expires, unix)?;
        // directory.file.1
        signed_bytes(name, expires, &view)
            .ok()
            .and_then(|message| signer.verify(LABEL, &message, &signature).ok())
            .ok_or_else(|| root.error("signature", "the signer did not sign this file", GET_AGAIN))?;
        Ok(Self { name: name.to_owned(), expires, signer, signature, view })
    }

    /// The text of the file.
    pub fn to_text(&self) -> String {
        let mut text = String::from(HEAD);
        let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "schema = {SCHEMA}\nname = \"{}\"\nnetwork = \"{}\"\n# unix time in seconds\nexpires = {}\n\
             signer = \"{}\"\nsignature = \"{}\"\n",
            self.name,
            hex(&self.view.network().0),
            self.expires,
            self.signer,
            hex(&self.signature),
        );
        if let Some(chain) = self.view.chain() {
            let rpc: Vec<_> = chain.rpc.iter().map(|url| format!("\"{url}\"")).collect();
            let _ = write!(
                text,
                "\n[chain]\nid = {}\ncontract = \"{}\"\nrpc = [{}]\nminimum_bond = \"{} wei\"\nexit_operators = {}\n",
                chain.id,
                chain.contract,
                rpc.join(", "),
                chain.minimum_bond,
                chain.exit_operators,
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

    /// From when the file is no longer valid, in unix seconds.
    pub const fn expires(&self) -> u64 {
        self.expires
    }

    /// The key that signed the file.
    pub const fn signer(&self) -> RelayId {
        self.signer
    }

    /// The relays.
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
        out.u8(u8::try_from(chain.rpc.len()).map_err(|_| Full)?)?;
        for url in &chain.rpc {
            out.u16(u16::try_from(url.len()).map_err(|_| Full)?)?;
            out.put(url.as_bytes())?;
        }
    }
    Ok(bytes)
}

fn chain_length(chain: &Chain) -> usize {
    8 + 20 + 12 + 2 + 1 + chain.rpc.iter().map(|url| 2 + url.len()).sum::<usize>()
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
    let chain = Chain { id: section.number("id")?, contract, rpc, minimum_bond, exit_operators };
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
