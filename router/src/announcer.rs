//! Does what the [`Herald`] says: keys and numbers to the disk, keys to the relay, descriptors to the network.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use circuit::keys::DhSecret;
use directory::descriptor::SignedDescriptor;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::driver::Handle;
use crate::herald::{Act, Facts, Herald};

const NAME: &str = "sequence";
const TITLE: &str = "chive sequence 1";
/// The herald is asked so often at least: the wall clock may jump.
const BEAT: u64 = 30;

/// The last sequence number of a relay's descriptors, on disk.
#[derive(Debug)]
pub struct SequenceFile {
    path: PathBuf,
}

impl SequenceFile {
    /// The file in a relay's state folder, and what it says; 0 if it is not there.
    pub fn open(state: &Path) -> io::Result<(Self, u64)> {
        let path = state.join(NAME);
        let sequence = match fs::read_to_string(&path) {
            Ok(text) => text
                .strip_prefix(TITLE)
                .and_then(|rest| rest.strip_prefix('\n')?.strip_suffix('\n')?.parse().ok())
                .ok_or_else(|| {
                    let text = format!("{} is damaged; remove it if the clock is right", path.display());
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok((Self { path }, sequence))
    }

    /// Writes a number; it is on disk when this returns.
    pub fn keep(&self, sequence: u64) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(format!("{TITLE}\n{sequence}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

/// Announces a relay for as long as it runs, `facts` as they are at each time.
///
/// `keep_keys` writes all onion keys to the disk, in the place of those before; `publish` hands a descriptor to the network.
pub async fn announce(
    mut herald: Herald,
    mut facts: watch::Receiver<Facts>,
    relay: Handle,
    sequence_file: SequenceFile,
    mut keep_keys: impl FnMut(&BTreeMap<u32, DhSecret>) -> io::Result<()>,
    mut publish: impl FnMut(SignedDescriptor),
) {
    let mut load = relay.load();
    loop {
        herald.set_silent(load.borrow_and_update().draining);
        let wanted = facts.borrow_and_update().clone();
        if let Err(problem) = herald.set_facts(wanted) {
            tracing::warn!("what is to be said of this relay cannot be: {problem}");
        }
        let unix = driver::now().unix();
        while let Some(act) = herald.poll(unix) {
            match act {
                Act::Keep { keys, sequence } => {
                    let kept = keys
                        .map_or(Ok(()), |keys| keep_keys(&keys))
                        .and_then(|()| sequence_file.keep(sequence));
                    if let Err(error) = &kept {
                        tracing::error!("onion keys cannot be written, none are made now: {error}");
                    }
                    herald.kept(unix, kept.is_ok());
                }
                Act::Use(keys) => relay.set_onion_keys(keys).await,
                Act::Publish(descriptor) => publish(*descriptor),
            }
        }
        let wait = herald.poll_timeout(unix).saturating_sub(unix).clamp(1, BEAT);
        tokio::select! {
            () = sleep(Duration::from_secs(wait)) => {}
            // Without anybody who changes them they stay as they are.
            Ok(()) = facts.changed() => {}
            Ok(()) = load.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_kept_and_damage_is_told() {
        // operate.publish.1
        let folder = tempfile::tempdir().unwrap();
        let (file, sequence) = SequenceFile::open(folder.path()).unwrap();
        assert_eq!(sequence, 0);
        file.keep(1_800_000_000).unwrap();
        file.keep(1_800_000_001).unwrap();
        assert_eq!(SequenceFile::open(folder.path()).unwrap().1, 1_800_000_001);
        for wrong in ["", "chive sequence 1\n", "chive sequence 1\nx\n", "chive sequence 1\n5"] {
            fs::write(folder.path().join(NAME), wrong).unwrap();
            let error = SequenceFile::open(folder.path()).unwrap_err().to_string();
            assert!(error.contains("is damaged"), "{error}");
        }
    }
}
