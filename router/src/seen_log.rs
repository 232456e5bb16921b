//! The log of the setups that a relay has seen, on disk (circuit.setup.4, circuit.setup.6).
//!
//! A file of entries of 20 bytes behind 8 bytes of magic. It is created together with the onion keys; a relay that
//! finds none, or a torn one, cannot know what it has answered. It notes that in the new log, for its next start.
//!
//! Entries are with the kernel when they count, not on the disk: a crash of the relay loses none, a loss of power may.
//! Therefore a running relay leaves a mark that names the boot of the machine; who finds the mark of another boot takes
//! the log's end as lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use circuit::seen::{LogEntry, SeenSetups};

const NAME: &str = "seen.log";
/// Which boot of the machine the log was last written in; absent after an end in order.
const MARK: &str = "seen.boot";
/// Where Linux names the boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
const MAGIC: &[u8; 8] = b"CHVSEEN1";
/// The tag of the entry that says: what came before this minute was lost.
const LOST: [u8; 16] = [0; 16];
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

/// Whether the log in `folder` is whole; without one the next start refuses setups for some time.
pub fn log_is_whole(folder: &Path) -> io::Result<bool> {
    Ok(read(&folder.join(NAME))?.as_deref().and_then(parse).is_some())
}

impl SeenLog {
    /// Opens the log in `folder`: what was seen, and whether that is all (`false`: it was missing or torn, or its end may
    /// be).
    pub(crate) fn open(folder: &Path, now_minute: u32) -> io::Result<(Self, SeenSetups, bool)> {
        // Elsewhere than on Linux nobody tells; then a loss of power goes unseen.
        Self::open_in(folder, now_minute, &fs::read(BOOT).unwrap_or_default())
    }

    fn open_in(folder: &Path, now_minute: u32, boot: &[u8]) -> io::Result<(Self, SeenSetups, bool)> {
        let path = folder.join(NAME);
        let entries = read(&path)?.as_deref().and_then(parse);
        let mark = path.with_file_name(MARK);
        let cut = read(&mark)?.is_some_and(|written_in| written_in != boot);
        let whole = entries.is_some() && !cut;
        let needed = needed(entries.unwrap_or_default(), now_minute, !whole);
        let (file, size) = rewrite(&path, &needed)?;
        replace(&mark, boot)?;
        File::open(folder)?.sync_all()?;
        let seen = restored(&needed);
        Ok((Self { file, path, size, rewrite_at: size + GROWTH }, seen, whole))
    }

    /// Appends an entry; it is with the kernel when this returns.
    pub(crate) fn append(&mut self, entry: LogEntry, now_minute: u32) -> io::Result<()> {
        if self.size >= self.rewrite_at {
            let entries = parse(&fs::read(&self.path)?);
            let torn = entries.is_none();
            let needed = needed(entries.unwrap_or_default(), now_minute, torn);
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

fn minute(entry: &LogEntry) -> u32 {
    entry.last_chunk().map_or(0, |minute| u32::from_be_bytes(*minute))
}

/// What is still needed of a log, and until when tags are missing: they were lost, or are too old.
fn needed(entries: Vec<LogEntry>, now_minute: u32, torn: bool) -> Vec<LogEntry> {
    let mut lost = torn.then_some(now_minute);
    let mut kept = Vec::with_capacity(entries.len() + 1);
    for entry in entries {
        if entry.starts_with(&LOST) {
            lost = lost.max(Some(minute(&entry)));
        } else if SeenSetups::is_needed(entry, now_minute) {
            kept.push(entry);
        } else {
            // The clock may be ahead, and go back: then what is forgotten now is refused as lost.
            lost = lost.max(Some(minute(&entry).saturating_sub(1)));
        }
    }
    kept.extend(lost.map(|minute| SeenSetups::entry(LOST, minute)));
    kept
}

/// What the entries say. Setups up to the minute of a loss are refused, also after one more restart (circuit.setup.6).
fn restored(entries: &[LogEntry]) -> SeenSetups {
    let (lost, seen): (Vec<_>, Vec<_>) = entries.iter().copied().partition(|entry| entry.starts_with(&LOST));
    let seen = SeenSetups::restored(seen);
    match lost.iter().map(minute).max() {
        Some(minute) => seen.without(minute),
        None => seen,
    }
}

/// Writes a new log and puts it in the place of the old one.
fn rewrite(path: &Path, entries: &[LogEntry]) -> io::Result<(File, u64)> {
    let bytes: Vec<u8> = MAGIC.iter().chain(entries.as_flattened()).copied().collect();
    replace(path, &bytes)?;
    let file = OpenOptions::new().append(true).open(path)?;
    Ok((file, bytes.len() as u64))
}

/// Replaces a file whole, or leaves it as it is.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// A file's bytes, if it is there.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Drop for SeenLog {
    /// An end in order: what was written is brought to the disk, and the mark goes.
    fn drop(&mut self) {
        if self.file.sync_all().is_ok() {
            // What is left only costs the next boot a minute.
            let _ = fs::remove_file(self.path.with_file_name(MARK));
        }
    }
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
            assert_eq!(whole, [MAGIC.len(), MAGIC.len() + 20].contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn a_loss_is_remembered_by_the_next_start() {
        // circuit.setup.6
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _, whole) = SeenLog::open(folder.path(), 100).unwrap();
        assert!(!whole);
        log.append(entry(2, 102), 102).unwrap();
        drop(log);
        let (_, mut seen, whole) = SeenLog::open(folder.path(), 102).unwrap();
        assert!(whole);
        assert_eq!(seen.admit(102, [1; 16], 101), Admission::TooEarly);
        assert_eq!(seen.admit(102, [2; 16], 102), Admission::Seen);
        assert_eq!(seen.admit(102, [1; 16], 102), Admission::Fresh);
        // Once nobody can replay what was lost, it is forgotten.
        let (_, mut seen, _) = SeenLog::open(folder.path(), 111).unwrap();
        assert_eq!(seen.admit(111, [1; 16], 110), Admission::Fresh);
    }

    #[test]
    fn a_clock_that_was_ahead_makes_no_replay_fresh() {
        // circuit.setup.4
        let folder = tempfile::tempdir().unwrap();
        create_log(folder.path()).unwrap();
        let (mut log, _, _) = SeenLog::open(folder.path(), 100).unwrap();
        log.append(entry(1, 100), 100).unwrap();
        drop(log);
        for now in [160, 160, 101] {
            let (_, mut seen, whole) = SeenLog::open(folder.path(), now).unwrap();
            assert!(whole);
            assert_eq!(seen.admit(101, [1; 16], 100), Admission::TooEarly, "opened at {now}");
        }
    }

    #[test]
    fn a_machine_that_went_down_under_a_running_relay_is_noticed() {
        // circuit.setup.6
        let folder = tempfile::tempdir().unwrap();
        create_log(folder.path()).unwrap();
        let open = |boot: &[u8]| SeenLog::open_in(folder.path(), 100, boot).unwrap();
        let (mut log, _, whole) = open(b"first");
        assert!(whole);
        log.append(entry(1, 101), 100).unwrap();
        // Killed: nothing is dropped, and the same kernel has it all.
        let killed = std::mem::ManuallyDrop::new(log);
        let (log, mut seen, whole) = open(b"first");
        assert_eq!((whole, seen.admit(100, [1; 16], 101)), (true, Admission::Seen));
        let killed_too = std::mem::ManuallyDrop::new(log);
        let (log, mut seen, whole) = open(b"second");
        assert_eq!((whole, seen.admit(100, [2; 16], 100)), (false, Admission::TooEarly));
        assert_eq!(seen.admit(100, [1; 16], 101), Admission::Seen);
        // Ended in order: the next boot finds it whole.
        drop(log);
        fs::write(folder.path().join(NAME), MAGIC).unwrap();
        let (log, mut seen, whole) = open(b"third");
        assert_eq!((whole, seen.admit(100, [2; 16], 100)), (true, Admission::Fresh));
        drop((log, killed, killed_too));
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
