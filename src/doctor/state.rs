//! What a daemon has written down, read as the daemon reads it, without changing a byte.

use std::fs;
use std::path::Path;

use router::announcer::SequenceFile;

use super::{Findings, Patient, State};
use crate::bond::flight;
use crate::failure::text_of;
use crate::keystore;
use crate::open;
use crate::wallet;

/// The variable that may have the wallet's password.
const PASSWORD: &str = "CHIVE_WALLET_PASSWORD";

/// Looks at every file of the state, and at the keys and the wallet.
pub(super) fn look(patient: &Patient, findings: &mut Findings) {
    let before = findings.findings.len();
    keys(patient, findings);
    purse(patient, findings);
    if patient.state.exists() {
        if patient.relay.is_some() {
            notes_of_relay(&patient.state, findings);
        }
        known(patient, findings);
        money(patient, findings);
    }
    let sound = findings.findings.iter().skip(before).all(|finding| finding.state == State::Ok);
    if sound {
        findings.ok("state", format!("what is kept in {} can be read", patient.state.display()));
    }
}

/// The relay's keys.
fn keys(patient: &Patient, findings: &mut Findings) {
    let Some(relay) = &patient.relay else { return };
    if let Err(error) = keystore::read(&relay.keys) {
        let remedy = "restore the file from a copy; onion keys that are lost: put a file in its place that has the first line \
                      `chive onion keys 1` alone, mode 600, and on an open network the relay makes new ones";
        findings.add("keys", State::Fail, text_of(&error), remedy);
    }
}

/// Whether the wallet is opened by its password.
fn purse(patient: &Patient, findings: &mut Findings) {
    let Some(wallet) = &patient.wallet else { return };
    if wallet.password_file.is_none() && std::env::var_os(PASSWORD).is_none() {
        let remedy = format!("set `password_file` in [wallet], or {PASSWORD}, to have it tried");
        return findings.add("wallet", State::Unknown, "its password is asked for at the start", remedy);
    }
    let opened = wallet::keystore::read(&wallet.file).and_then(|locked| {
        let password = wallet::password::of(&wallet.file, wallet.password_file.as_deref(), false)?;
        locked.open(password.as_bytes())
    });
    match opened {
        Ok(_) => findings.ok("wallet", "its password opens it"),
        Err(error) => {
            let remedy = "set `file` and `password_file` in [wallet] right, or restore both from a copy";
            findings.add("wallet", State::Fail, text_of(&error), remedy);
        }
    }
}

/// What a relay notes for itself.
fn notes_of_relay(state: &Path, findings: &mut Findings) {
    if let Err(error) = SequenceFile::open(state) {
        let remedy = "set the clock, and remove the file";
        findings.add("sequence", State::Fail, error.to_string(), remedy);
    }
    match router::driver::log_is_whole(state) {
        Ok(true) => {}
        Ok(false) => findings.add(
            "setup log",
            State::Warn,
            format!("{} is missing or torn", state.join("seen.log").display()),
            "nothing: after its start the relay refuses setups for two minutes",
        ),
        Err(error) => {
            findings.add("setup log", State::Fail, error.to_string(), "let the relay's user read it");
        }
    }
    match router::driver::traffic_is_whole(state) {
        Ok(true) => {}
        Ok(false) => findings.add(
            "traffic",
            State::Warn,
            format!("{} is damaged", state.join("traffic").display()),
            "nothing, if the relay may start the month's count again from 0; else restore the file from a copy",
        ),
        Err(error) => findings.add(
            "traffic",
            State::Fail,
            format!("{}: {error}", state.join("traffic").display()),
            "let the relay's user read it",
        ),
    }
    if let Err(error) = flight::read(state) {
        findings.add("bond note", State::Fail, text_of(&error), "the relay sends no bond until then");
    }
}

/// What was learnt of the network, and a client's guards.
fn known(patient: &Patient, findings: &mut Findings) {
    let (Some(view), state) = (&patient.view, &patient.state) else { return };
    if patient.network.signer.is_none() {
        let domain = view.chain().map(directory::chain::Chain::domain);
        if let Some(why) = domain.and_then(|domain| open::trouble_of_registry(state, &domain)) {
            let found = format!("the registry that was kept in {} is not used: {why}", state.display());
            findings.add(
                "registry",
                State::Warn,
                found,
                "nothing: it is read anew from the chain at the next start",
            );
        }
        let remedy = "nothing: the others are learnt anew from peers";
        match open::kept_is_whole(state, view.network()) {
            Ok(true) => {}
            Ok(false) => {
                findings.add(
                    "descriptors",
                    State::Warn,
                    "some of the relays that were kept cannot be read",
                    remedy,
                );
            }
            Err(error) => findings.add("descriptors", State::Warn, error.to_string(), remedy),
        }
    }
    if patient.relay.is_none()
        && let Err(error) = client::driver::check_guards(state, view.network())
    {
        let remedy = "restore the file from a copy; to remove it is to choose new guards";
        findings.add("guards", State::Fail, error.to_string(), remedy);
    }
}

/// The store of payments; a running daemon has it open, and nobody else may.
fn money(patient: &Patient, findings: &mut Findings) {
    if patient.wallet.is_none() {
        return;
    }
    let [store, seed] = ["money.redb", "money.seed"].map(|name| patient.state.join(name));
    if let Err(error) = keystore::check_money_seed(&seed, &store) {
        let remedy = "restore the file from a copy: open sessions and wins depend on it";
        return findings.add("money store", State::Fail, text_of(&error), remedy);
    }
    if patient.status.is_some() || !store.exists() {
        return;
    }
    // Opening it would repair it, or move it to a newer version.
    let opened = tempfile::tempdir().map_err(anyhow::Error::from).and_then(|folder| {
        let copy = folder.path().join("money.redb");
        fs::copy(&store, &copy)?;
        let opened = payments::treasury::open(&copy).map(drop);
        opened.map_err(|error| {
            anyhow::anyhow!(
                "{}",
                text_of(&error.into()).replace(&*copy.to_string_lossy(), &store.to_string_lossy())
            )
        })
    });
    if let Err(error) = opened {
        let remedy = "restore the file from a copy of the last hours; wins that it does not have are lost";
        findings.add("money store", State::Fail, text_of(&error), remedy);
    }
}
