//! The registry on disk between runs: what a start without the chain begins with.
//!
//! `magic 4 | format 1 | chain id 8 | contract 20 | block 8 | hash 32 | time 8 | changes 8 | root 32 | owners 4 |
//! (owner 20 | id 32 | bond 16 | since 8)... | Keccak-256 of all before 32`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use alloy_primitives::{Address, keccak256};
use circuit::keys::RelayId;
use payments::amount::Wei;
use payments::chain::Head;
use payments::session::Domain;
use wire::{Malformed, Reader};

use crate::registry::{Registration, Registry};

const MAGIC: &[u8; 4] = b"CHVR";
const FORMAT: u8 = 1;
/// The longest file that is read: 800,000 relays.
const MAX_FILE: u64 = 1 << 26;

/// What an earlier run knew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cached {
    pub(super) head: Head,
    pub(super) registry: Registry,
}

/// Why it is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum CannotRead {
    #[error("there is none")]
    NotThere,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the file is damaged ({0})")]
    Damaged(#[from] Malformed),
    #[error("it is of another chain or contract")]
    Other,
}

/// Reads the registry of this chain and contract.
// directory.watch.4
pub(super) fn read(path: &Path, domain: &Domain) -> Result<Cached, CannotRead> {
    let length = match fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(CannotRead::NotThere),
        Err(error) => return Err(error.into()),
    };
    if length > MAX_FILE {
        return Err(Malformed("length").into());
    }
    parse(&fs::read(path)?, domain)
}

fn parse(bytes: &[u8], domain: &Domain) -> Result<Cached, CannotRead> {
    let (body, sum) = bytes.split_last_chunk::<32>().ok_or(Malformed("length"))?;
    if keccak256(body) != *sum {
        return Err(Malformed("checksum").into());
    }
    let mut r = Reader::new(body);
    if r.array("magic")? != MAGIC || r.u8("format")? != FORMAT {
        return Err(Malformed("magic or format").into());
    }
    let (chain_id, contract) = (r.u64("chain id")?, Address::from(r.array::<20>("contract")?));
    if (chain_id, contract) != (domain.chain_id, domain.contract) {
        return Err(CannotRead::Other);
    }
    let head = Head { number: r.u64("block")?, hash: r.array::<32>("hash")?.into(), time: r.u64("time")? };
    let (seq, root) = (r.u64("changes")?, r.array::<32>("root")?.into());
    let mut relays = Vec::new();
    for _ in 0..r.u32("owners")? {
        let owner = Address::from(r.array::<20>("owner")?);
        let id = RelayId(*r.array("id")?);
        let bond = Wei(u128::from_be_bytes(*r.array("bond")?));
        relays.push((owner, Registration { id, bond, since: r.u64("since")? }));
    }
    r.finish("registry")?;
    let registry =
        Registry::restore(head.number, root, seq, relays).ok_or(Malformed("owners (none twice)"))?;
    Ok(Cached { head, registry })
}

/// Replaces the file whole, or leaves it as it is.
pub(super) fn write(path: &Path, domain: &Domain, head: &Head, registry: &Registry) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&encode(domain, head, registry))?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn encode(domain: &Domain, head: &Head, registry: &Registry) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.push(FORMAT);
    out.extend(domain.chain_id.to_be_bytes());
    out.extend(domain.contract);
    out.extend(head.number.to_be_bytes());
    out.extend(head.hash);
    out.extend(head.time.to_be_bytes());
    out.extend(registry.seq().to_be_bytes());
    out.extend(registry.root());
    out.extend(u32::try_from(registry.iter().len()).unwrap_or(u32::MAX).to_be_bytes());
    for (owner, relay) in registry.iter() {
        out.extend(owner);
        out.extend(relay.id.0);
        out.extend(relay.bond.0.to_be_bytes());
        out.extend(relay.since.to_be_bytes());
    }
    let sum = keccak256(&out);
    out.extend(sum);
    out
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use alloy_primitives::B256;

    use super::*;
    use crate::sample::identity;

    fn domain() -> Domain {
        Domain { chain_id: 7, contract: Address::repeat_byte(0xc0) }
    }

    fn sample() -> Cached {
        let mut registry = Registry::default();
        for n in 1..=5 {
            registry.apply(n.into(), Address::repeat_byte(n), identity(n).id(), true).unwrap();
            registry.set_bond(Address::repeat_byte(n), Wei(u128::from(n) << 80));
        }
        registry.apply(6, Address::repeat_byte(2), identity(2).id(), false).unwrap();
        registry.block = 99;
        Cached { head: Head { number: 99, hash: B256::repeat_byte(9), time: 1_000 }, registry }
    }

    // directory.watch.4
    #[test]
    fn what_is_written_is_read_back_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry");
        assert!(matches!(read(&path, &domain()), Err(CannotRead::NotThere)));
        for _ in 0..2 {
            write(&path, &domain(), &sample().head, &sample().registry).unwrap();
            assert_eq!(read(&path, &domain()).unwrap(), sample());
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let other = Domain { chain_id: 8, ..domain() };
        assert!(matches!(read(&path, &other), Err(CannotRead::Other)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
    }

    // directory.watch.4
    #[test]
    fn no_damage_goes_unnoticed() {
        let bytes = encode(&domain(), &sample().head, &sample().registry);
        assert_eq!(parse(&bytes, &domain()).unwrap(), sample());
        for cut in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..cut], &domain()), Err(CannotRead::Damaged(_))), "cut at {cut}");
        }
        for byte in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[byte] ^= 1;
            assert!(matches!(parse(&changed, &domain()), Err(CannotRead::Damaged(_))), "byte {byte}");
        }
        // Whoever makes a right sum still has to make a right registry.
        let (body, _) = bytes.split_last_chunk::<32>().unwrap();
        let (body, last) = body.split_last_chunk::<76>().unwrap();
        let twice = [body, last, last].concat();
        let short = [body, &[0; 32]].concat();
        for wrong in [twice, short] {
            let summed = [&wrong[..], &keccak256(&wrong)[..]].concat();
            assert!(matches!(parse(&summed, &domain()), Err(CannotRead::Damaged(_))));
        }
    }
}
