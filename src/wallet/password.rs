//! The password of a wallet: from a file, the environment or a terminal, never from the command line.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail, ensure};
use zeroize::Zeroizing;

const VARIABLE: &str = "CHIVE_WALLET_PASSWORD";

/// The password of a wallet, which is asked for on the terminal if neither file nor environment has it; twice if it is `new`.
pub(crate) fn of(wallet: &Path, file: Option<&Path>, new: bool) -> anyhow::Result<Zeroizing<String>> {
    let wallet = wallet.display();
    let password = if let Some(file) = file {
        from_file(file)?
    } else if let Ok(password) = std::env::var(VARIABLE) {
        Zeroizing::new(password)
    } else if std::io::stdin().is_terminal() {
        let first = ask(&format!("Password of the wallet {wallet}: "))?;
        ensure!(!new || first == ask("The same once more: ")?, "the two passwords differ; try again");
        first
    } else {
        bail!(
            "the password of the wallet {wallet} is not known, and there is no terminal to ask for it: name a file with \
             --password-file (a daemon: the setting `password_file` in [wallet]), or set {VARIABLE}"
        );
    };
    ensure!(
        !password.is_empty(),
        "the password of the wallet {wallet} is empty; choose one that nobody guesses"
    );
    Ok(password)
}

fn ask(prompt: &str) -> anyhow::Result<Zeroizing<String>> {
    // Standard output is for results.
    std::io::stderr().write_all(prompt.as_bytes())?;
    rpassword::read_password().map(Zeroizing::new).context("the terminal gives no password")
}

/// The first line of a file that only its owner may read.
fn from_file(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let name = path.display();
    let failed = |error| {
        anyhow!(
            "cannot read the password file {name}: {error}; name the right one with --password-file (a daemon: the setting \
             `password_file` in [wallet]), or leave it out to be asked"
        )
    };
    let mode = fs::metadata(path).map_err(failed)?.mode();
    let open = mode & 0o077;
    ensure!(
        open == 0,
        "the password file {name} can be read by others (mode {:03o}); chmod 600 {name}, and better choose a new password",
        mode & 0o777
    );
    let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}
