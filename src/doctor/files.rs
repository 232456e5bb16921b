//! What is on disk: who may read it, and whether there is room.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Findings, Patient, State};
use crate::report::bytes_text;

/// With less room than this on disk it is time to act, and with less than that nothing works for long.
const LITTLE: u64 = 1 << 30;
const TOO_LITTLE: u64 = 32 << 20;

/// Secrets that others may read, or that are not there.
pub(super) fn permissions(patient: &Patient, findings: &mut Findings) {
    let mut secret: Vec<&Path> = Vec::new();
    if let Some(relay) = &patient.relay {
        secret.extend([&*relay.keys.identity, &*relay.keys.link, &*relay.keys.onion]);
    }
    if let Some(wallet) = &patient.wallet {
        secret.push(&wallet.file);
        secret.extend(wallet.password_file.as_deref());
    }
    let mut wrong = 0;
    for file in &secret {
        let name = file.display();
        match fs::metadata(file) {
            Ok(about) if !is_open(&about) => continue,
            Ok(about) => findings.add(
                "permissions",
                State::Fail,
                format!("{name} can be read by others (mode {:03o})", about.mode() & 0o777),
                format!("chmod 600 {name}, and treat what is in it as known to them"),
            ),
            Err(error) => findings.add(
                "permissions",
                State::Fail,
                format!("{name} cannot be read: {error}"),
                "restore it from a copy, or run the doctor as the user that runs the daemon",
            ),
        }
        wrong += 1;
    }
    let folder = patient.relay.as_ref().map(|relay| &relay.state).filter(|state| state.exists());
    if let Some(folder) = folder
        && fs::metadata(folder).is_ok_and(|about| is_open(&about))
    {
        let name = folder.display();
        findings.add(
            "permissions",
            State::Warn,
            format!("others may enter {name}"),
            format!("chmod 700 {name}"),
        );
        wrong += 1;
    }
    if wrong == 0 {
        findings.ok("permissions", format!("{} secret files, for their owner only", secret.len()));
    }
}

/// Whether others than its owner may do anything with it.
fn is_open(about: &fs::Metadata) -> bool {
    about.mode() & 0o077 != 0
}

/// Whether the state can be written, and for how long.
pub(super) fn disk(state: &Path, findings: &mut Findings) {
    let name = state.display();
    let written = tempfile::tempfile_in(state).and_then(|mut file| {
        use std::io::Write as _;
        file.write_all(&[0; 4096]).and_then(|()| file.sync_all())
    });
    if let Err(error) = written {
        let remedy = "make the folder that the setting `state` names, owned by the user that runs the relay, with room on its disk";
        return findings.add("disk", State::Fail, format!("{name} cannot be written: {error}"), remedy);
    }
    let Ok(about) = rustix::fs::statvfs(state) else {
        return findings.add(
            "disk",
            State::Unknown,
            "the system does not tell how much room there is",
            "look with df",
        );
    };
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    let found = format!("{} free for {name}", bytes_text(free));
    match free {
        0..TOO_LITTLE => findings.add(
            "disk",
            State::Fail,
            found,
            "make room: without it no setup is answered and no win is kept",
        ),
        TOO_LITTLE..LITTLE => findings.add("disk", State::Warn, found, "make room before it is used up"),
        _ => findings.ok("disk", found),
    }
}
