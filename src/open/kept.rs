//! Descriptors on disk, from one run to the next: each after its length, in two bytes.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use circuit::keys::NetworkId;
use directory::descriptor::{Refused, SignedDescriptor};
use directory::view::View;

/// The longest file that is read: as much as the largest view may hold.
const MAX_SIZE: u64 = 32 << 20;

/// Whether all that is kept can be read; what has expired can.
pub(super) fn is_whole(path: &Path, network: NetworkId, unix: u64) -> io::Result<bool> {
    let bytes = match load(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        bytes => bytes?,
    };
    let mut rest = bytes.as_slice();
    while let Some(one) = next(&mut rest) {
        let read = SignedDescriptor::parse(one, network, unix);
        if !matches!(read, Ok(_) | Err(Refused::Expired { .. })) {
            return Ok(false);
        }
    }
    Ok(rest.is_empty())
}

fn load(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_SIZE {
        return Err(io::Error::other("it is too long"));
    }
    fs::read(path)
}

/// Cuts off the next descriptor.
fn next<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let (one, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
    *rest = after;
    Some(one)
}

/// Takes what an earlier run has kept and still holds; each descriptor proves itself, so a damaged file only has fewer.
pub(super) fn read(path: &Path, view: &mut View, unix: u64) {
    let bytes = match load(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!("what was known of the network is learnt anew: {}: {error}", path.display());
            return;
        }
    };
    let mut rest = bytes.as_slice();
    while let Some(one) = next(&mut rest) {
        if let Ok(descriptor) = SignedDescriptor::parse(one, view.network(), unix) {
            let _ = view.insert(descriptor);
        }
    }
}

/// Writes all descriptors of a view, at once or not at all.
pub(super) fn write(path: &Path, view: &View) -> io::Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut bytes = Vec::new();
    for descriptor in view.iter() {
        let one = descriptor.bytes();
        // Longer ones do not come by gossip.
        let Ok(length) = u16::try_from(one.len()) else { continue };
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(one);
    }
    // Only its owner may read a temporary file.
    let mut file = tempfile::Builder::new().prefix(".descriptors").tempfile_in(folder)?;
    file.write_all(&bytes)?;
    file.persist(path)?;
    Ok(())
}
