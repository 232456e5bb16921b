//! Files that their owner edits, or that a crash may have torn.

use std::path::Path;

use circuit::seen::{Admission, SeenSetups};

use crate::input::Input;

#[expect(dead_code, reason = "parts of the binary that are not for reading")]
#[path = "../../src"]
mod binary {
    pub(crate) mod config;
}

#[expect(unreachable_pub, reason = "its own room makes it public")]
#[path = "../../router/src/seen_log.rs"]
mod seen_log;

pub(crate) use binary::config::{CLIENT_EXAMPLE, RELAY_EXAMPLE};
use binary::config::{ClientConfig, RelayConfig, control_of};
use seen_log::{SeenLog, create_log, log_is_whole};

/// Calls `run` with an empty folder.
fn with_folder(run: impl FnOnce(&Path)) {
    thread_local!(static FOLDER: tempfile::TempDir = {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
    });
    FOLDER.with(|folder| run(folder.path()));
}

/// A configuration file is one of a relay or of a client, not of both, and what is wrong with it is said with a line that
/// exists.
pub fn config(data: &[u8]) {
    with_folder(|folder| {
        let path = folder.join("chive.toml");
        std::fs::write(&path, data).unwrap();
        let (relay, client) = (RelayConfig::read(&path), ClientConfig::read(&path));
        assert!(relay.is_err() || client.is_err());
        let control = control_of(&path);
        match (&relay, &client) {
            (Ok(relay), _) => assert_eq!(control.unwrap(), (relay.control.clone(), true)),
            (_, Ok(client)) => {
                assert!((1..=5).contains(&client.wishes.hops) && (1..=32).contains(&client.prebuilt));
                assert_eq!(control.unwrap(), (client.control.clone(), false));
            }
            _ => drop(control.unwrap_err()),
        }
        let lines = data.split(|byte| *byte == b'\n').count();
        for error in [relay.err(), client.err()].into_iter().flatten() {
            let said = error.to_string();
            if let Some((_, after)) = said.split_once("chive.toml line ") {
                let line: usize = after.split_once(':').unwrap().0.parse().unwrap();
                assert!((1..=lines).contains(&line), "{said}");
            }
        }
    });
}

/// A log whose bytes are whole is believed entry by entry, every other one is known to be torn, and what is appended to
/// either is there after the next start, and so is the knowledge that something was lost.
pub fn seen_log(data: &[u8]) {
    let mut input = Input::new(data);
    let minute = 1_000_000 + u32::from(input.u8() % 4);
    let later = minute + 2;
    let bytes = Some(input.rest()).filter(|bytes| !bytes.is_empty());
    with_folder(|folder| {
        let path = folder.join("seen.log");
        let _ = std::fs::remove_file(&path);
        match bytes {
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
            None => create_log(folder).unwrap(),
        }
        let bytes = bytes.unwrap_or(b"CHVSEEN1");
        let looked = log_is_whole(folder).unwrap();
        let (mut log, mut seen, whole) = SeenLog::open(folder, minute).unwrap();
        assert!(looked || !whole, "a look tells of every log that is torn");
        let entries = bytes.strip_prefix(b"CHVSEEN1").filter(|entries| entries.len() % 20 == 0);
        assert_eq!(whole, entries.is_some());
        assert!(seen.len() <= bytes.len() / 20);
        for (entry, _) in entries.unwrap_or_default().as_chunks::<20>().0.iter().zip(0..1000) {
            let made = u32::from_be_bytes(*entry.last_chunk().unwrap());
            if (minute - 5..=minute + 1).contains(&made) {
                let admission = seen.admit(minute, *entry.first_chunk().unwrap(), made);
                // What is from before a loss is refused, be it known or not.
                assert!(matches!(admission, Admission::Seen | Admission::TooEarly), "{admission:?}");
            }
        }
        if !whole {
            assert_eq!(seen.admit(minute, [0xee; 16], minute + 1), Admission::TooEarly);
        }
        let admission = seen.admit(later, [0xee; 16], later);
        if admission != Admission::Fresh {
            assert!(whole);
            return;
        }
        log.append(SeenSetups::entry([0xee; 16], later), later).unwrap();
        drop(log);
        let (_, mut again, still_whole) = SeenLog::open(folder, later).unwrap();
        assert!(still_whole);
        assert_eq!(again.admit(later, [0xee; 16], later), Admission::Seen);
        if !whole {
            assert_eq!(again.admit(later, [0xed; 16], minute + 1), Admission::TooEarly);
        }
    });
}
