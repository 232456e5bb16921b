//! The store as a file: who may read it, who may have it open, and what is said of a damaged one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use payments::store::{Batch, Error, Store, Table};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::disk::{Model, changes, contents};

#[test]
fn a_file_is_its_owners_alone_and_keeps_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut model = Model::new();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    fs::write(&path, []).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    for _ in 0..5 {
        let store = Store::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(contents(&store), model);
        store.commit(&changes(&mut rng, &mut model)).map(drop).unwrap();
        assert_eq!(contents(&store), model);
        let ((table, key), value) = model.first_key_value().unwrap();
        assert_eq!(store.get(*table, key).unwrap().as_ref(), Some(value));
        assert_eq!(store.get(Table::Blocks, b"none").unwrap(), None);
    }
}

#[test]
fn later_changes_of_a_batch_win() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let mut batch = Batch::new();
    batch.put(Table::Wins, *b"a", *b"1");
    batch.delete(Table::Wins, *b"a");
    batch.put(Table::Counters, *b"b", *b"1");
    let mut later = Batch::new();
    later.put(Table::Counters, *b"b", *b"2");
    batch.append(later);
    store.commit(&batch).map(drop).unwrap();
    assert_eq!(contents(&store), Model::from([((Table::Counters, b"b".to_vec()), b"2".to_vec())]));
}

#[test]
fn a_second_writer_is_told_to_stay_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let first = Store::open(&path).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::InUse(_)), "{error}");
    assert!(error.to_string().contains("stop that one"), "{error}");
    drop(first);
    drop(Store::open(&path).unwrap());
}

#[test]
fn a_file_that_is_no_store_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let text = vec![b'x'; 100_000];
    fs::write(&path, &text).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), text);
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn damage_is_found_when_the_file_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut model = Model::new();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let store = Store::open(&path).unwrap();
    for _ in 0..20 {
        store.commit(&changes(&mut rng, &mut model)).map(drop).unwrap();
    }
    drop(store);
    let good = fs::read(&path).unwrap();
    let (_, value) = model.iter().max_by_key(|(_, value)| value.len()).unwrap();
    let at = good.windows(64).position(|window| window == &value[..64]).expect("a value is in the file");
    let mut bad = good.clone();
    bad[at + 20] ^= 1;
    fs::write(&path, &bad).unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    assert!(Store::open(&path).is_err());
    fs::write(&path, &good).unwrap();
    assert_eq!(contents(&Store::open(&path).unwrap()), model);
}

#[test]
fn the_file_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let mut batch = Batch::new();
    batch.put(Table::Values, *b"version", [2]);
    store.commit(&batch).map(drop).unwrap();
    drop(store);
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, Error::Newer(_)), "{error}");
}
