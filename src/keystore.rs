//! A relay's secrets on disk: text files that only their owner may read.
//!
//! Each file begins with a line that says what it holds. Then comes one key in hexadecimal, or, in the file of the onion
//! keys, one line `epoch key` for every epoch.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use circuit::keys::{DhSecret, IdentitySecret, Secret};
use data_encoding::HEXLOWER;
use directory::descriptor::EPOCH_SECONDS;
use rand_core::Rng as _;
use router::driver::Keys;
use zeroize::{Zeroize as _, Zeroizing};

use crate::config::KeyFiles;
use crate::outside;

const IDENTITY: &str = "chive identity key 1";
const LINK: &str = "chive link key 1";
const ONION: &str = "chive onion keys 1";
const SEED: &str = "chive money seed 1";
/// How long after its epoch an onion key is still used, in seconds.
const GRACE: u64 = 300;

/// Reads all secrets of a relay.
pub(crate) fn read(files: &KeyFiles) -> anyhow::Result<Keys> {
    let identity = read_one(&files.identity, IDENTITY)?;
    let link = read_one(&files.link, LINK)?;
    Ok(Keys {
        identity: IdentitySecret::from_bytes(identity.expose()),
        link: DhSecret::from_bytes(*link.expose()),
        onion: read_onion(&files.onion)?,
    })
}

/// Writes all secrets of a relay to files, none of which may exist.
pub(crate) fn write(keys: &Keys, files: &KeyFiles) -> anyhow::Result<()> {
    write_new(&files.identity, &text_of(IDENTITY, [line_of(&keys.identity.expose())]))?;
    write_new(&files.link, &text_of(LINK, [line_of(&keys.link.expose())]))?;
    write_new(&files.onion, &onion_text(&keys.onion))
}

/// Reads the seed of the money store, or draws and writes one if neither it nor the store is there.
pub(crate) fn money_seed(path: &Path, store: &Path) -> anyhow::Result<[u8; 32]> {
    if !path.exists() {
        require_seed(path, store)?;
        let mut seed = Zeroizing::new([0; 32]);
        outside::random()?.fill_bytes(&mut *seed);
        let new = path.with_extension("new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot write {}", path.display()));
            }
            _ => {}
        }
        write_new(&new, &text_of(SEED, [line_of(&Secret::new(*seed))]))?;
        fs::rename(&new, path)
            .and_then(|()| sync_folder(path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    read_one(path, SEED).map(|seed| *seed.expose())
}

/// Whether the seed of the money store is as a start wants it; it writes nothing.
pub(crate) fn check_money_seed(path: &Path, store: &Path) -> anyhow::Result<()> {
    if !path.exists() && !store.exists() {
        return Ok(());
    }
    require_seed(path, store)?;
    read_one(path, SEED).map(drop)
}

fn require_seed(path: &Path, store: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        path.exists() || !store.exists(),
        "{} is missing, without which {} is of no use; restore it from a copy",
        path.display(),
        store.display()
    );
    Ok(())
}

/// Erases from the file the onion keys of the epochs that are over at `unix` (seconds); says how many it erased.
// circuit.setup.9
pub(crate) fn erase_expired(path: &Path, unix: u64) -> anyhow::Result<usize> {
    let mut keys = read_onion(path)?;
    let all = keys.len();
    keys.retain(|epoch, _| (u64::from(*epoch) + 1) * EPOCH_SECONDS + GRACE > unix);
    let erased = all - keys.len();
    if erased > 0 {
        replace_onion(path, &keys)
            .with_context(|| format!("cannot erase expired keys from {}", path.display()))?;
    }
    Ok(erased)
}

/// Writes these onion keys in the place of those in the file; they are on disk when this returns.
///
/// They are written to a new file, which takes the place of the old one; then the old one is overwritten.
// operate.keys.2, circuit.setup.9
pub(crate) fn replace_onion(path: &Path, keys: &BTreeMap<u32, DhSecret>) -> anyhow::Result<()> {
    let mut old = OpenOptions::new().write(true).open(path)?;
    let length = old.metadata()?.len();
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    write_new(&new, &onion_text(keys))?;
    fs::rename(&new, path)?;
    sync_folder(path)?;
    let zeros = vec![0; usize::try_from(length)?];
    old.seek(SeekFrom::Start(0))?;
    old.write_all(&zeros)?;
    Ok(old.sync_all()?)
}

/// Makes a folder that only its owner may enter, and the folders above it.
pub(crate) fn private_folder(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Makes a private folder where there is none, or an empty one.
pub(crate) fn new_folder(path: &Path) -> anyhow::Result<()> {
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("the folder {} is not empty; choose another with --out", path.display());
    }
    private_folder(path)
}

/// Writes a new file that only its owner may read, to the disk.
pub(crate) fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn sync_folder(of: &Path) -> std::io::Result<()> {
    let folder =
        of.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}

/// The text of a secret file after its title; refused if others than the owner may read it.
fn read_secret(path: &Path, title: &str) -> anyhow::Result<Zeroizing<String>> {
    let name = path.display();
    let mode = fs::metadata(path).with_context(|| format!("cannot read the key file {name}"))?.mode();
    if mode & 0o077 != 0 {
        bail!(
            "the key file {name} can be read by others (mode {:03o}); treat the key as known to them, \
             or if you are sure that nobody looked: chmod 600 {name}",
            mode & 0o777
        );
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the key file {name}"))?;
    let text = Zeroizing::new(text);
    match text.split_once('\n') {
        Some((first, rest)) if first == title => Ok(Zeroizing::new(rest.to_owned())),
        _ => bail!("{name} line 1: this is no such key file; its first line would be `{title}`"),
    }
}

fn read_one(path: &Path, title: &str) -> anyhow::Result<Secret<32>> {
    let text = read_secret(path, title)?;
    let key = text.strip_suffix('\n').and_then(key_of);
    key.with_context(|| {
        format!("{} line 2: a key of 64 hexadecimal digits is wanted, and nothing after it", path.display())
    })
}

fn read_onion(path: &Path) -> anyhow::Result<BTreeMap<u32, DhSecret>> {
    let text = read_secret(path, ONION)?;
    let mut keys = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let pair = line.split_once(' ').and_then(|(epoch, key)| Some((epoch.parse().ok()?, key_of(key)?)));
        let Some((epoch, key)) = pair else {
            bail!(
                "{} line {}: an epoch and a key of 64 hexadecimal digits are wanted",
                path.display(),
                number + 2
            );
        };
        if keys.insert(epoch, DhSecret::from_bytes(*key.expose())).is_some() {
            bail!("{} line {}: epoch {epoch} stands here twice", path.display(), number + 2);
        }
    }
    Ok(keys)
}

fn key_of(text: &str) -> Option<Secret<32>> {
    let bytes = Zeroizing::new(HEXLOWER.decode(text.as_bytes()).ok()?);
    let mut key: [u8; 32] = bytes.as_slice().try_into().ok()?;
    let secret = Secret::new(key);
    key.zeroize();
    Some(secret)
}

fn line_of(key: &Secret<32>) -> Zeroizing<String> {
    Zeroizing::new(HEXLOWER.encode(key.expose()))
}

fn onion_text(keys: &BTreeMap<u32, DhSecret>) -> Zeroizing<String> {
    text_of(
        ONION,
        keys.iter().map(|(epoch, key)| {
            let key = line_of(&key.expose());
            Zeroizing::new(format!("{epoch} {}", *key))
        }),
    )
}

fn text_of(title: &str, lines: impl IntoIterator<Item = Zeroizing<String>>) -> Zeroizing<String> {
    let lines: Vec<_> = lines.into_iter().collect();
    // Sized at once: a string that grows leaves copies behind.
    let size = lines.iter().map(|line| line.len() + 1).sum::<usize>() + title.len() + 1;
    let mut text = Zeroizing::new(String::with_capacity(size));
    text.push_str(title);
    text.push('\n');
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn sample() -> (tempfile::TempDir, KeyFiles, Keys) {
        let folder = tempfile::tempdir().unwrap();
        let file = |name| folder.path().join(name);
        let files = KeyFiles { identity: file("i"), link: file("l"), onion: file("o.keys") };
        let mut rng = outside::random().unwrap();
        let keys = Keys {
            identity: IdentitySecret::random(&mut rng),
            link: DhSecret::random(&mut rng),
            onion: (7..11).map(|epoch| (epoch, DhSecret::random(&mut rng))).collect(),
        };
        write(&keys, &files).unwrap();
        (folder, files, keys)
    }

    fn same(a: &BTreeMap<u32, DhSecret>, b: &BTreeMap<u32, DhSecret>) -> bool {
        a.keys().eq(b.keys()) && a.values().zip(b.values()).all(|(a, b)| a.expose() == b.expose())
    }

    #[test]
    fn what_is_written_is_read_and_never_overwritten() {
        let (_folder, files, keys) = sample();
        let read = read(&files).unwrap();
        assert_eq!(read.identity.id(), keys.identity.id());
        assert_eq!(read.link.public(), keys.link.public());
        assert!(same(&read.onion, &keys.onion));
        assert!(write(&keys, &files).is_err());
    }

    #[test]
    fn files_that_others_may_read_are_refused() {
        let (_folder, files, _) = sample();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&files.link, fs::Permissions::from_mode(mode)).unwrap();
            let error = read(&files).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", files.link.display())), "{error}");
        }
    }

    #[test]
    fn wrong_files_are_named_by_line() {
        let (_folder, files, _) = sample();
        let swapped = KeyFiles { identity: files.link.clone(), ..files.clone() };
        let error = read(&swapped).unwrap_err().to_string();
        assert!(error.ends_with("its first line would be `chive identity key 1`"), "{error}");
        let text = fs::read_to_string(&files.onion).unwrap();
        fs::write(&files.onion, format!("{text}11 zz\n")).unwrap();
        let error = read(&files).unwrap_err().to_string();
        assert!(error.contains("line 6:"), "{error}");
        fs::write(&files.onion, format!("{text}{}\n", text.lines().last().unwrap())).unwrap();
        let error = read(&files).unwrap_err().to_string();
        assert!(error.ends_with("epoch 10 stands here twice"), "{error}");
    }

    #[test]
    fn the_seed_is_drawn_once_and_never_for_a_store_that_had_another() {
        let folder = tempfile::tempdir().unwrap();
        let (seed, store) = (folder.path().join("money.seed"), folder.path().join("money.redb"));
        let drawn = money_seed(&seed, &store).unwrap();
        fs::write(&store, "").unwrap();
        assert_eq!(money_seed(&seed, &store).unwrap(), drawn);
        assert_eq!(fs::metadata(&seed).unwrap().mode() & 0o777, 0o600);
        fs::remove_file(&seed).unwrap();
        assert!(money_seed(&seed, &store).unwrap_err().to_string().contains("from a copy"));
        assert!(!seed.exists());
    }

    // circuit.setup.9
    #[test]
    fn expired_onion_keys_leave_the_disk() {
        let (folder, files, mut keys) = sample();
        let end = 9 * EPOCH_SECONDS;
        // A hard link shows what becomes of the old file's blocks.
        let old = folder.path().join("old");
        fs::hard_link(&files.onion, &old).unwrap();
        assert_eq!(erase_expired(&files.onion, end - 1 - EPOCH_SECONDS + GRACE).unwrap(), 0);
        assert_eq!(erase_expired(&files.onion, end + GRACE).unwrap(), 2);
        keys.onion.retain(|epoch, _| *epoch > 8);
        assert!(same(&read(&files).unwrap().onion, &keys.onion));
        assert!(fs::read(old).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(fs::metadata(&files.onion).unwrap().mode() & 0o777, 0o600);
    }
}
