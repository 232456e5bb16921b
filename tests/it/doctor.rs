//! The doctor finds every file that is damaged, says what to do, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::operate::open_network;
use super::processes::{doctor, document};

/// Every file below a folder, with its bytes.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(tree(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

/// A relay of an open network that has never run.
fn relay(folder: &Path) -> PathBuf {
    let network = open_network(folder);
    let out = folder.join("mine");
    let setup = ["relay", "setup", "--yes", "--light", "--network", network.to_str().unwrap()];
    let more = ["--address", "127.0.0.1:7001", "--bond", "0.5 ether", "--out", out.to_str().unwrap()];
    document(&[&setup[..], &more].concat());
    out
}

#[test]
fn every_damaged_file_is_found_and_none_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let out = relay(folder.path());
    let config = out.join("relay.toml");
    assert_eq!(doctor(&config)["state"].clone()["state"], "ok");
    for (file, check, state, said, remedy) in [
        ("onion.keys", "keys", "fail", "its first line would be", "chive onion keys 1"),
        ("link.key", "keys", "fail", "link.key", "restore the file"),
        ("wallet.json", "wallet", "fail", "is damaged", "restore both"),
        ("wallet.password", "wallet", "fail", "is wrong", "password_file"),
        ("state/sequence", "sequence", "fail", "is damaged", "set the clock"),
        ("state/seen.log", "setup log", "warn", "missing or torn", "two minutes"),
        ("state/traffic", "traffic", "warn", "is damaged", "from 0"),
        ("state/bond", "bond note", "fail", "is damaged", "sends no bond"),
        ("state/registry", "registry", "warn", "damaged", "read anew"),
        ("state/descriptors", "descriptors", "warn", "cannot be read", "learnt anew"),
        ("state/money.redb", "money store", "fail", "money.seed is missing", "restore the file"),
        ("state/money.seed", "money store", "fail", "no such key file", "restore the file"),
    ] {
        let path = out.join(file);
        let before = fs::read(&path).ok();
        fs::write(&path, "damage, and more of it than a length").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let all = tree(&out);
        let found = doctor(&config)[check].clone();
        assert_eq!(found["state"], state, "{file}: {found}");
        assert!(found["found"].as_str().unwrap().contains(said), "{file}: {found}");
        assert!(found["remedy"].as_str().unwrap().contains(remedy), "{file}: {found}");
        assert!(!doctor(&config).contains_key("state"), "{file}");
        assert!(tree(&out) == all, "{file}: the doctor has changed something");
        match before {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
    }
    // A store that is there, with its seed, and is none.
    fs::write(out.join("state/money.seed"), format!("chive money seed 1\n{}\n", "0f".repeat(32))).unwrap();
    fs::set_permissions(out.join("state/money.seed"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(out.join("state/money.redb"), vec![7; 5000]).unwrap();
    let all = tree(&out);
    let found = doctor(&config)["money store"].clone();
    assert!(found["state"] == "fail" && found["found"].to_string().contains("state/money.redb"), "{found}");
    assert!(tree(&out) == all, "the doctor has changed something");
}

#[test]
fn a_missing_network_file_and_a_clients_damaged_guards_have_their_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let out = relay(folder.path());
    fs::remove_file(out.join("network.toml")).unwrap();
    let found = doctor(&out.join("relay.toml"))["configuration"].clone();
    assert_eq!(found["state"], "fail", "{found}");
    let name = out.join("network.toml").display().to_string();
    assert!(
        found["remedy"].as_str().unwrap().contains(&format!("put the network's file at {name}")),
        "{found}"
    );

    let client = folder.path().join("client.toml");
    fs::write(&client, "network = \"network.toml\"\n").unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("guards"), "no guards").unwrap();
    let found = doctor(&client)["guards"].clone();
    assert!(found["state"] == "fail" && found["found"].to_string().contains("it is damaged"), "{found}");
    assert_eq!(fs::read(state.join("guards")).unwrap(), b"no guards");
}
