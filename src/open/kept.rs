//! Descriptors on disk, from one run to the next: each after its length, in two bytes.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use directory::descriptor::SignedDescriptor;
use directory::view::View;

/// The longest file that is read: as much as the largest view may hold.
const MAX_SIZE: u64 = 32 << 20;

/// Takes what an earlier run has kept and still holds; each descriptor proves itself, so a damaged file only has fewer.
pub(super) fn read(path: &Path, view: &mut View, unix: u64) {
    let bytes = match fs::metadata(path).map(|about| about.len()) {
        Ok(length) if length <= MAX_SIZE => fs::read(path),
        Ok(_) => Err(io::Error::other("it is too long")),
        Err(error) => Err(error),
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!("what was known of the network is learnt anew: {}: {error}", path.display());
            return;
        }
    };
    let mut rest = bytes.as_slice();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let Some((one, after)) = after.split_at_checked(u16::from_be_bytes(*length).into()) else { break };
        rest = after;
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
