//! The file of a client's guards: replaced as a whole, and never thrown away without its user's doing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use circuit::error::Malformed;
use circuit::keys::NetworkId;

use crate::guards::{Guards, MAX_FILE};

const NAME: &str = "guards";

/// The file cannot be used.
// path.guard.5
#[derive(Debug, thiserror::Error)]
#[error(
    "the guards of this client cannot be read from {path} ({why}); restore the file, or remove it: then new guards are chosen, and relays that never saw this computer will"
)]
pub struct DamagedGuards {
    path: PathBuf,
    why: String,
}

/// Whether the guards that are stored in a folder can be read.
pub fn check_guards(folder: &Path, network: NetworkId) -> Result<(), DamagedGuards> {
    GuardFile::new(folder, network).read().map(drop)
}

/// The file of the guards in one network.
#[derive(Debug)]
pub(crate) struct GuardFile {
    path: PathBuf,
    network: NetworkId,
}

impl GuardFile {
    /// The file in a folder.
    pub(crate) fn new(folder: &Path, network: NetworkId) -> Self {
        Self { path: folder.join(NAME), network }
    }

    /// What was stored; no guards if there is no file yet, or one of another network.
    pub(crate) fn read(&self) -> Result<Guards, DamagedGuards> {
        let damaged = |why: String| DamagedGuards { path: self.path.clone(), why };
        let bytes = match fs::metadata(&self.path) {
            Ok(file) if file.len() > MAX_FILE as u64 => return Err(damaged("it is too long".to_owned())),
            Ok(_) => fs::read(&self.path).map_err(|error| damaged(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Guards::default()),
            Err(error) => return Err(damaged(error.to_string())),
        };
        let guards = Guards::decode(&bytes, self.network)
            .map_err(|Malformed(what)| damaged(format!("it is damaged: {what}")))?;
        Ok(guards.unwrap_or_else(|| {
            tracing::warn!("the guards of another network are replaced by new ones");
            Guards::default()
        }))
    }

    /// Stores guards; a client that cannot goes on without.
    pub(crate) fn write(&self, bytes: &[u8]) {
        if let Err(error) = self.replace(bytes) {
            tracing::warn!(
                "the guards cannot be stored, and will be others after the next start: {error}; check the folder of the setting `state`"
            );
        }
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        // Another client that was started with the same folder writes another file.
        let new = self.path.with_extension(format!("{}.new", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use circuit::keys::{Random, RelayId};
    use rand_core::SeedableRng as _;

    use super::*;

    const NETWORK: NetworkId = NetworkId([3; 16]);

    // path.guard.5
    #[test]
    fn guards_are_kept_for_their_owner_only_and_damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = GuardFile::new(folder.path(), NETWORK);
        assert_eq!(file.read().unwrap(), Guards::default());
        let mut guards = Guards::default();
        guards.add(1_800_000_000, RelayId([1; 32]), &mut Random::seed_from_u64(1));
        for _ in 0..2 {
            file.write(&guards.encode(NETWORK));
        }
        assert!(file.read().unwrap().has(&RelayId([1; 32])));
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(GuardFile::new(folder.path(), NetworkId([4; 16])).read().unwrap(), Guards::default());
        let bytes = fs::read(&file.path).unwrap();
        for damaged in [&bytes[..bytes.len() - 1], b"", &[0; MAX_FILE + 1]] {
            fs::write(&file.path, damaged).unwrap();
            let error = file.read().unwrap_err().to_string();
            assert!(error.contains("restore the file, or remove it"), "{error}");
            assert_eq!(fs::read(&file.path).unwrap(), damaged, "it is left as it is");
        }
    }
}
