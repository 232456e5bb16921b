//! The wallet of a relay that is set up: a new one, one of a key that is imported, or one that is there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use data_encoding::HEXLOWER;
use payments::Address;
use payments::amount::Wei;
use rand_core::Rng as _;
use zeroize::Zeroizing;

use super::questions::Questions;
use super::usage;
use crate::bond;
use crate::cli::Setup;
use crate::config::amount::amount;
use crate::keystore;
use crate::outside;
use crate::wallet::keystore::Strength;
use crate::wallet::{self, ether_text};

/// Where the wallet comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purse {
    /// It is made, with a key that is drawn.
    New,
    /// It is made, with the key of this file.
    Key(PathBuf),
    /// It is there, and stays where it is; with the file of its password, if there is one.
    Kept(PathBuf, Option<PathBuf>),
}

/// The wallet as the relay's file names it.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) owner: Address,
    pub(super) file: String,
    pub(super) password_file: Option<String>,
}

/// Asks for the wallet.
pub(super) fn gather(questions: Questions, wanted: &Setup) -> anyhow::Result<Purse> {
    let kept = wanted
        .wallet
        .as_deref()
        .map(|file| kept(file).map_err(|problem| usage(format!("--wallet: {problem}"))));
    let purse = questions.value(
        kept.transpose()?.or_else(|| wanted.key_file.clone().map(Purse::Key)),
        "Its wallet: new, or the file of a wallet that you have, or of a key to import",
        Some("new"),
        "--key-file",
        named,
    )?;
    let Purse::Kept(file, _) = purse else { return Ok(purse) };
    let given = wanted.password_file.as_deref().map(|password| {
        opens(&file, password).map_err(|problem| usage(format!("--password-file: {problem}")))
    });
    let password = questions.option(
        given.transpose()?,
        "The file that has its password (nothing: it is asked for at each start)",
        "",
        |text| if text.is_empty() { Ok(None) } else { opens(&file, Path::new(text)).map(Some) },
    )?;
    Ok(Purse::Kept(file, password))
}

/// The wallet that is meant by a word or a file.
fn named(text: &str) -> Result<Purse, String> {
    if text == "new" {
        return Ok(Purse::New);
    }
    let path = PathBuf::from(text);
    if !path.is_file() {
        return Err(format!("there is no file {text}; write new to have a wallet made"));
    }
    if wallet::read_key(Some(&path)).is_ok() {
        return Ok(Purse::Key(path));
    }
    kept(&path)
}

/// The wallet of this file, which stays there.
fn kept(path: &Path) -> Result<Purse, String> {
    let locked = wallet::keystore::read(path).map_err(|error| crate::failure::text_of(&error))?;
    match locked.address() {
        Some(_) => Ok(Purse::Kept(path.to_owned(), None)),
        None => Err("this wallet does not name its address: import its key".to_owned()),
    }
}

/// The file, if its password opens the wallet.
fn opens(wallet: &Path, password_file: &Path) -> Result<PathBuf, String> {
    let open = || {
        let password = wallet::password::of(wallet, Some(password_file), false)?;
        wallet::keystore::read(wallet)?.open(password.as_bytes())
    };
    open().map(|_| password_file.to_owned()).map_err(|error| crate::failure::text_of(&error))
}

/// Asks for the bond that the relay puts up by itself.
pub(super) fn bond(questions: Questions, wanted: &Setup, minimum: Wei) -> anyhow::Result<Option<Wei>> {
    let enough = |bond: Wei| match bond::require_enough(bond, minimum) {
        Ok(()) => Ok(Some(bond)),
        Err(problem) => Err(problem.to_string()),
    };
    if let Some(bond) = wanted.bond {
        return enough(bond).map_err(|problem| usage(format!("--bond: {problem}")));
    }
    let default = if minimum == Wei::ZERO { "0".to_owned() } else { ether_text(minimum) };
    questions.option(
        None,
        "The bond that it puts up by itself when the wallet has the ether (0: you do it by hand)",
        &default,
        |text| match amount(text)? {
            Wei::ZERO => Ok(None),
            bond => enough(bond),
        },
    )
}

impl Purse {
    /// Writes the wallet, where there is none yet, with a password of its own if none is given.
    pub(super) fn write(&self, folder: &Path, wanted: &Setup) -> anyhow::Result<Written> {
        if let Self::Kept(file, password_file) = self {
            let owner =
                wallet::keystore::read(file)?.address().context("the wallet does not name its address")?;
            let password_file = password_file.as_deref().map(absolute).transpose()?;
            return Ok(Written { owner, file: absolute(file)?, password_file });
        }
        let secret = match self {
            Self::Key(file) => wallet::read_key(Some(file))?,
            _ => draw()?,
        };
        let path = folder.join("wallet.json");
        let (password, password_file) = if let Some(file) = &wanted.password_file {
            (wallet::password::of(&path, Some(file), true)?, absolute(file)?)
        } else {
            let password = Zeroizing::new(HEXLOWER.encode(&draw()?[..24]));
            let line = Zeroizing::new(format!("{}\n", *password));
            keystore::write_new(&folder.join("wallet.password"), &line)?;
            (password, "wallet.password".to_owned())
        };
        let strength = if wanted.light { Strength::Light } else { Strength::Usual };
        let owner = wallet::keystore::create(&path, &secret, password.as_bytes(), strength)?.address();
        Ok(Written { owner, file: "wallet.json".to_owned(), password_file: Some(password_file) })
    }
}

fn draw() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut secret = Zeroizing::new([0; 32]);
    outside::random()?.fill_bytes(&mut *secret);
    Ok(secret)
}

/// The whole path of a file, which another folder's file can name.
fn absolute(file: &Path) -> anyhow::Result<String> {
    let name = file.display();
    let whole = fs::canonicalize(file).with_context(|| format!("cannot read {name}"))?;
    whole.into_os_string().into_string().ok().with_context(|| format!("the path of {name} is no text"))
}
