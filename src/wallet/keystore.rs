//! A wallet's key on disk: an Ethereum keystore, version 3, that only its owner may read.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aes::cipher::{KeyIvInit as _, StreamCipher as _};
use alloy_primitives::keccak256;
use anyhow::{Context as _, anyhow, bail, ensure};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use payments::Address;
use payments::session::Signer;
use rand_core::Rng as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::outside;

const VERSION: u32 = 3;
const CIPHER: &str = "aes-128-ctr";
/// The longest file that is read.
const MAX_SIZE: u64 = 64 << 10;
/// The most that a file may ask of whoever opens it: bytes of memory, and rounds.
const MAX_MEMORY: u64 = 1 << 30;
const MAX_ROUNDS: u32 = 10_000_000;

/// What guessing a password costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strength {
    /// A second or so, and 128 MiB of memory.
    Usual,
    /// Next to nothing: for tests.
    Light,
}

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Keystore {
    version: u32,
    #[serde(default)]
    id: String,
    /// The key's address, without `0x`; only for people and other programs.
    #[serde(default)]
    address: String,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
}

#[derive(Debug, Serialize, Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: Hex,
    #[serde(flatten)]
    kdf: Kdf,
    mac: Hex,
}

#[derive(Debug, Serialize, Deserialize)]
struct CipherParams {
    iv: Hex,
}

/// How the password becomes a key.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kdf", content = "kdfparams", rename_all = "lowercase")]
enum Kdf {
    Scrypt { dklen: u32, n: u64, p: u32, r: u32, salt: Hex },
    Pbkdf2 { dklen: u32, c: u32, prf: String, salt: Hex },
}

/// Bytes that are written in hexadecimal.
#[derive(Debug)]
struct Hex(Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let digits = text.strip_prefix("0x").unwrap_or(&text);
        HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

impl Kdf {
    /// The 32 bytes that encrypt and authenticate; the error says what is wrong with the file.
    fn derive(&self, password: &[u8]) -> Result<Zeroizing<[u8; 32]>, &'static str> {
        let mut key = Zeroizing::new([0; 32]);
        match self {
            Self::Scrypt { dklen: 32, n, p, r, salt } => {
                // n blocks of 128 r bytes, and p more of them.
                let memory = n.saturating_add((*p).into()).saturating_mul(128).saturating_mul((*r).into());
                if !n.is_power_of_two() || memory > MAX_MEMORY || *p > 64 {
                    return Err("its scrypt parameters are wrong, or ask for too much memory");
                }
                let log_n = u8::try_from(n.ilog2()).unwrap_or(u8::MAX);
                let wrong = "its scrypt parameters are wrong";
                let params = scrypt::Params::new(log_n, *r, *p).map_err(|_| wrong)?;
                scrypt::scrypt(password, &salt.0, &params, &mut *key).map_err(|_| wrong)?;
            }
            Self::Pbkdf2 { dklen: 32, c, prf, salt } => {
                if prf != "hmac-sha256" || !(1..=MAX_ROUNDS).contains(c) {
                    return Err("its pbkdf2 parameters are wrong");
                }
                pbkdf2::pbkdf2_hmac::<Sha256>(password, &salt.0, *c, &mut *key);
            }
            _ => return Err("its derived key is not of 32 bytes"),
        }
        Ok(key)
    }
}

/// Encrypts, or decrypts, which is the same.
fn crypt(key: &[u8; 32], iv: &[u8; 16], bytes: &mut [u8]) {
    let half = Zeroizing::new(key.first_chunk::<16>().copied().unwrap_or_default());
    ctr::Ctr128BE::<aes::Aes128>::new((&*half).into(), iv.into()).apply_keystream(bytes);
}

fn mac(key: &[u8; 32], ciphertext: &[u8]) -> [u8; 32] {
    let half = key.last_chunk::<16>().copied().unwrap_or_default();
    let mut text = Zeroizing::new(half.to_vec());
    text.extend_from_slice(ciphertext);
    keccak256(&*text).0
}

impl Keystore {
    fn seal(secret: &[u8; 32], signer: &Signer, password: &[u8], strength: Strength) -> anyhow::Result<Self> {
        let mut rng = outside::random()?;
        let (mut salt, mut iv, mut id) = (vec![0; 32], [0; 16], [0; 16]);
        rng.fill_bytes(&mut salt);
        rng.fill_bytes(&mut iv);
        rng.fill_bytes(&mut id);
        let (n, p) = match strength {
            Strength::Usual => (1 << 17, 1),
            Strength::Light => (1 << 13, 1),
        };
        let kdf = Kdf::Scrypt { dklen: 32, n, p, r: 8, salt: Hex(salt) };
        let key = kdf.derive(password).map_err(|problem| anyhow!("{problem}"))?;
        let mut ciphertext = secret.to_vec();
        crypt(&key, &iv, &mut ciphertext);
        let mac = mac(&key, &ciphertext);
        Ok(Self {
            version: VERSION,
            id: uuid(id),
            address: HEXLOWER.encode(signer.address().as_slice()),
            crypto: Crypto {
                cipher: CIPHER.to_owned(),
                cipherparams: CipherParams { iv: Hex(iv.to_vec()) },
                ciphertext: Hex(ciphertext),
                kdf,
                mac: Hex(mac.to_vec()),
            },
        })
    }

    /// The secret; `Ok(None)` for a wrong password, and an error that says what is wrong with the file.
    fn open(&self, password: &[u8]) -> Result<Option<Signer>, &'static str> {
        let Crypto { cipher, cipherparams, ciphertext, kdf, mac: expected } = &self.crypto;
        if self.version != VERSION || cipher != CIPHER {
            return Err("it is not of version 3, or its cipher is not aes-128-ctr");
        }
        let iv = cipherparams.iv.0.as_slice().try_into().map_err(|_| "its iv is not of 16 bytes")?;
        let mut secret = Zeroizing::new([0; 32]);
        if ciphertext.0.len() != 32 || expected.0.len() != 32 {
            return Err("its ciphertext or its mac is not of 32 bytes");
        }
        let key = kdf.derive(password)?;
        if !bool::from(mac(&key, &ciphertext.0).as_slice().ct_eq(&expected.0)) {
            return Ok(None);
        }
        secret.copy_from_slice(&ciphertext.0);
        crypt(&key, iv, &mut *secret);
        Signer::from_bytes(*secret).map(Some).map_err(|_| "what it holds is no key")
    }
}

/// Random bytes in the form of a UUID, version 4.
fn uuid(mut id: [u8; 16]) -> String {
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut id;
    *version = *version & 0x0f | 0x40;
    *variant = *variant & 0x3f | 0x80;
    let digits = HEXLOWER.encode(&id);
    let part = |range| digits.get(range).unwrap_or_default();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

/// Refuses a place where something is already.
pub(crate) fn require_free(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound),
        "{0} exists already, and a wallet is never overwritten; choose another file, or use the wallet that is there: \
         chive wallet show --wallet {0}",
        path.display()
    );
    Ok(())
}

/// Writes a new keystore file with this key, at once or not at all; the key's signer.
pub(crate) fn create(
    path: &Path,
    secret: &Zeroizing<[u8; 32]>,
    password: &[u8],
    strength: Strength,
) -> anyhow::Result<Signer> {
    require_free(path)?;
    let signer = Signer::from_bytes(**secret).map_err(|_| {
        anyhow!("these 64 digits are no private key of Ethereum (0, or too large a number): export it again; for a new key: chive wallet create")
    })?;
    let store = Keystore::seal(secret, &signer, password, strength)?;
    let write = || -> anyhow::Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        // Only its owner may read a temporary file.
        let mut file = tempfile::Builder::new().prefix(".wallet").tempfile_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(&store)?)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path)?;
        Ok(File::open(folder)?.sync_all()?)
    };
    write().map_err(|error| {
        let advice = advice(&error);
        error.context(format!("cannot write the wallet {}; {advice}", path.display()))
    })?;
    Ok(signer)
}

/// What to do when a wallet cannot be written.
fn advice(error: &anyhow::Error) -> &'static str {
    let kinds =
        error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    if kinds.into_iter().any(|kind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
        "its disk is full, and nothing was written: make room there, or choose another place with --wallet, and repeat the command"
    } else {
        "nothing was written: check that its folder exists and that you may write there, and repeat the command"
    }
}

/// A keystore file that was read.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    path: &'a Path,
    store: Keystore,
}

/// Reads a keystore file; refused if others than its owner may read it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Locked<'_>> {
    let name = path.display();
    let about = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no wallet at {name}; make one with: chive wallet create --wallet {name}")
        }
        about => about.map_err(|error| {
            anyhow!(
                "cannot read the wallet {name}: {error}; check that this user may read it and its folders"
            )
        })?,
    };
    ensure!(about.is_file(), "{name} is no file, and so no wallet; name the wallet's file with --wallet");
    if about.mode() & 0o077 != 0 {
        bail!(
            "the wallet {name} can be read by others (mode {:03o}), who may guess its password; move its money to a new one, \
             or if you are sure that nobody looked: chmod 600 {name}",
            about.mode() & 0o777
        );
    }
    if about.len() > MAX_SIZE {
        return Err(damaged(path, "it is too long"));
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read the wallet {name}"))?;
    let store = serde_json::from_slice(&bytes).map_err(|error| damaged(path, &error.to_string()))?;
    Ok(Locked { path, store })
}

impl Locked<'_> {
    /// The address that the file names, if it does; only [`Locked::open`] proves it.
    pub(crate) fn address(&self) -> Option<Address> {
        let digits = self.store.address.trim_start_matches("0x");
        Address::try_from(HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok()?.as_slice()).ok()
    }

    /// Decrypts the key.
    pub(crate) fn open(&self, password: &[u8]) -> anyhow::Result<Signer> {
        let name = self.path.display();
        let opened = self.store.open(password).map_err(|problem| damaged(self.path, problem))?;
        let signer = opened.ok_or_else(|| {
            anyhow!("the password of the wallet {name} is wrong, or the file is damaged; try again, or restore the file from a copy")
        })?;
        // Whoever can write the file could else have money sent elsewhere.
        if !self.store.address.is_empty() && self.address() != Some(signer.address()) {
            return Err(damaged(self.path, "the address in it is not that of its key"));
        }
        Ok(signer)
    }
}

fn damaged(path: &Path, problem: &str) -> anyhow::Error {
    anyhow!(
        "{} is damaged, or no Ethereum keystore of version 3 ({problem}); restore it from a copy",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const SECRET: &str = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
    const ADDRESS: &str = "0x008AeEda4D805471dF9b2A5B0f38A0C3bCBA786b";
    const SCRYPT: &str = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt",
        "kdfparams":{"dklen":32,"n":262144,"p":8,"r":1,
        "salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},
        "mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},
        "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
    const PBKDF2: &str = r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46","kdf":"pbkdf2",
        "kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256",
        "salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
        "mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
        "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;

    fn store(text: &str) -> Keystore {
        serde_json::from_str(text).unwrap()
    }

    fn secret() -> Zeroizing<[u8; 32]> {
        Zeroizing::new(HEXLOWER.decode(SECRET.as_bytes()).unwrap().try_into().unwrap())
    }

    /// The vectors of the Web3 Secret Storage definition.
    #[test]
    fn the_vectors_of_the_definition_open() {
        assert_eq!(Signer::from_bytes(*secret()).unwrap().address().to_string(), ADDRESS);
        for text in [SCRYPT, PBKDF2] {
            let signer = store(text).open(b"testpassword").unwrap().unwrap();
            assert_eq!(signer.address().to_string(), ADDRESS);
            assert!(store(text).open(b"testpasswort").unwrap().is_none());
            // Old files write `Crypto`.
            assert!(
                store(&text.replace("\"crypto\"", "\"Crypto\"")).open(b"testpassword").unwrap().is_some()
            );
        }
    }

    #[test]
    fn what_a_file_may_ask_for_has_limits() {
        for (old, new) in [
            ("\"n\":262144", "\"n\":262145"),
            ("\"n\":262144", "\"n\":1099511627776"),
            ("\"r\":1", "\"r\":4294967295"),
            ("\"p\":8", "\"p\":4294967295"),
            ("\"dklen\":32", "\"dklen\":64"),
            ("\"version\":3", "\"version\":1"),
            ("aes-128-ctr", "aes-128-cbc"),
            ("83dbcc02", "83dbcc"),
        ] {
            assert!(SCRYPT.contains(old));
            assert!(store(&SCRYPT.replace(old, new)).open(b"testpassword").is_err(), "{new}");
        }
        for c in ["0", "10000001"] {
            let text = PBKDF2.replace("\"c\":262144", &format!("\"c\":{c}"));
            assert!(store(&text).open(b"testpassword").is_err());
        }
    }

    #[test]
    fn what_is_written_is_read_by_its_owner_only_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wallet.json");
        let no_file = read(folder.path()).unwrap_err().to_string();
        assert!(no_file.contains("is no file") && no_file.contains("--wallet"), "{no_file}");
        let missing = read(&path).unwrap_err().to_string();
        assert!(missing.contains("chive wallet create"), "{missing}");
        let none = create(&path, &Zeroizing::new([0; 32]), b"word", Strength::Light).unwrap_err().to_string();
        assert!(none.contains("no private key") && !path.exists(), "{none}");
        create(&path, &secret(), b"word", Strength::Light).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(SECRET));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(read(&path).unwrap().open(b"word").unwrap().address().to_string(), ADDRESS);
        let wrong = read(&path).unwrap().open(b"words").unwrap_err().to_string();
        assert!(wrong.contains("password") && wrong.contains("is wrong"), "{wrong}");

        fs::write(&path, text.replace("008aeeda", "118aeeda")).unwrap();
        let other = read(&path).unwrap().open(b"word").unwrap_err().to_string();
        assert!(other.contains("is damaged") && other.contains("not that of its key"), "{other}");
        fs::write(&path, &text).unwrap();

        let again = create(&path, &secret(), b"other", Strength::Light).unwrap_err().to_string();
        assert!(again.contains("never overwritten"), "{again}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let open = read(&path).unwrap_err().to_string();
        assert!(open.contains("chmod 600"), "{open}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for (damage, cut) in [("", 0), (text.get(..text.len() / 2).unwrap(), 1), ("{\"version\":3}", 2)] {
            fs::write(&path, damage).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("is damaged") && error.contains("from a copy"), "{cut}: {error}");
        }
    }
}
