//! The log of the setups that a relay has seen, on disk (circuit.setup.4, circuit.setup.6).
//!
//! A file of entries of 20 bytes behind 8 bytes of magic. It is created together with the onion keys; a relay that
//! finds none, or a torn one, cannot know what it has answered.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use circuit::seen::{LogEntry, SeenSetups};

const NAME: &str = "seen.log";
const MAGIC: &[u8; 8] = b"CHVSEEN1";
/// A log is rewritten when it has grown by so much since the last time.
const GROWTH: u64 = 1 << 20;

/// The open log.
#[derive(Debug)]
pub(crate) struct SeenLog {
    file: File,
    path: PathBuf,
    size: u64,
    rewrite_at: u64,
}

/// Creates an empty log in `folder`, as belongs to fresh onion keys; an existing one is an error.
pub fn create_log(folder: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(NAME))?;
    file.write_all(MAGIC)?;
    file.sync_all()
}

impl SeenLog {
    /// Opens the log in `folder`: what was seen, and whether that is all (`false`: it was missing or torn).
    pub(crate) fn open(folder: &Path, now_minute: u32) -> io::Result<(Self, SeenSetups, bool)> {
        let path = folder.join(NAME);
        let entries = match fs::read(&path) {
            Ok(bytes) => parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let whole = entries.is_some();
        let mut needed = entries.unwrap_or_default();
        needed.retain(|entry| SeenSetups::is_needed(*entry, now_minute));
        let (file, size) = rewrite(&path, &needed)?;
        let seen = if whole { SeenSetups::restored(needed) } else { SeenSetups::lost(now_minute) };
        Ok((Self { file, path, size, rewrite_at: size + GROWTH }, seen, whole))
    }

    /// Appends an entry; it is with the kernel when this returns.
    pub(crate) fn append(&mut self, entry: LogEntry, now_minute: u32) -> io::Result<()> {
        if self.size >= self.rewrite_at {
            let mut needed = parse(&fs::read(&self.path)?).unwrap_or_default();
            needed.retain(|entry| SeenSetups::is_needed(*entry, now_minute));
            (self.file, self.size) = rewrite(&self.path, &needed)?;
            self.rewrite_at = self.size + GROWTH;
        }
        if let Err(error) = self.file.write_all(&entry) {
            // Half an entry would tear the log.
            self.file.set_len(self.size)?;
            return Err(error);
        }
        self.size += entry.len() as u64;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Option<Vec<LogEntry>> {
    let (entries, torn) = bytes.strip_prefix(MAGIC)?.as_chunks();
    torn.is_empty().then(|| entries.to_vec())
}

/// Writes a new log and puts it in the place of the old one.
fn rewrite(path: &Path, entries: &[LogEntry]) -> io::Result<(File, u64)> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let bytes: Vec<u8> = MAGIC.iter().chain(entries.as_flattened()).copied().collect();
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let file = OpenOptions::new().append(true).open(path)?;
    Ok((file, bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use circuit::seen::Admission;

    fn entry(n: u8, minute: u32) -> LogEntry {
        SeenSetups::entry([n; 16], minute)
    }

    #[test]
    fn what_was_appended_is_seen_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        create_log(folder.path()).unwrap();
        assert!(create_log(folder.path()).is_err());
        let (mut log, _, whole) = SeenLog::open(folder.path(), 100).unwrap();
        assert!(whole);
        log.append(entry(1, 100), 100).unwrap();
        log.append(entry(2, 80), 100).unwrap();
        drop(log);
        let (_, mut seen, whole) = SeenLog::open(folder.path(), 101).unwrap();
        assert!(whole);
        assert_eq!(seen.len(), 1, "what is no longer needed is gone");
        assert_eq!(seen.admit(101, [1; 16], 100), Admission::Seen);
    }

    #[test]
    fn a_missing_or_torn_log_is_noticed() {
        // circuit.setup.6
        let folder = tempfile::tempdir().unwrap();
        let (mut log, mut seen, whole) = SeenLog::open(folder.path(), 100).unwrap();
        assert!(!whole);
        assert_eq!(seen.admit(100, [1; 16], 100), Admission::TooEarly);
        log.append(entry(1, 100), 100).unwrap();
        drop(log);
        let path = folder.path().join(NAME);
        let bytes = fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let (_, _, whole) = SeenLog::open(folder.path(), 100).unwrap();
            assert_eq!(whole, cut == MAGIC.len(), "cut at {cut}");
        }
    }

    #[test]
    fn a_log_does_not_grow_without_end() {
        let folder = tempfile::tempdir().unwrap();
        create_log(folder.path()).unwrap();
        let (mut log, _, _) = SeenLog::open(folder.path(), 0).unwrap();
        for minute in 0..200 {
            for n in 0..1000u32 {
                let mut tag = [0; 16];
                tag[..4].copy_from_slice(&n.to_be_bytes());
                log.append(SeenSetups::entry(tag, minute), minute).unwrap();
            }
        }
        assert!(log.size < 2 * GROWTH, "{}", log.size);
    }
}
