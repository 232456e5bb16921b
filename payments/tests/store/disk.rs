//! A disk whose power fails, and what a store on it should hold.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use payments::store::{Batch, Store, Table};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;
use redb::StorageBackend;

const TABLES: [Table; 4] = [Table::PayerSessions, Table::PayeeSessions, Table::Wins, Table::Counters];

pub(crate) fn below(rng: &mut ChaCha8Rng, limit: usize) -> usize {
    usize::try_from(rng.next_u64() % u64::try_from(limit).unwrap()).unwrap()
}

/// A disk that forgets what was not synced, in part, when the power fails.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) durable: Vec<u8>,
    /// Since the last sync: writes, and lengths as writes of nothing.
    unsynced: Vec<Change>,
    /// What a reader sees.
    seen: Vec<u8>,
    /// Changes and syncs until the power fails.
    left: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

pub(crate) fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Write(at, data) => {
            bytes.resize(bytes.len().max(at + data.len()), 0);
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
    }
}

impl Disk {
    pub(crate) fn new(bytes: Vec<u8>, left: usize) -> Self {
        Self { seen: bytes.clone(), durable: bytes, unsynced: Vec::new(), left }
    }

    fn step(&mut self) -> std::io::Result<()> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 { Err(std::io::Error::other("no power")) } else { Ok(()) }
    }

    /// What is on the disk when the power comes back: of each write that was not synced all, nothing, or a part.
    pub(crate) fn survivors(&self, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for change in &self.unsynced {
            match (rng.next_u32() % 4, change) {
                (0, _) => {}
                (1, Change::Write(at, data)) => {
                    let cut = below(rng, data.len() + 1);
                    let (from, to) =
                        if rng.next_u32().is_multiple_of(2) { (0, cut) } else { (cut, data.len()) };
                    apply(&mut bytes, &Change::Write(at + from, data[from..to].to_vec()));
                }
                _ => apply(&mut bytes, change),
            }
        }
        bytes
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<Disk>>);

impl Shared {
    pub(crate) fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl StorageBackend for Shared {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.disk().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let disk = self.disk();
        let at = place(offset);
        let bytes = disk.seen.get(at..at + out.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        let mut disk = self.disk();
        let change = Change::Length(place(len));
        apply(&mut disk.seen, &change);
        disk.unsynced.push(change);
        disk.step()
    }

    fn sync_data(&self) -> std::io::Result<()> {
        let mut disk = self.disk();
        disk.step()?;
        let Disk { durable, unsynced, .. } = &mut *disk;
        unsynced.drain(..).for_each(|change| apply(durable, &change));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        let mut disk = self.disk();
        let change = Change::Write(place(offset), data.to_vec());
        apply(&mut disk.seen, &change);
        disk.unsynced.push(change);
        disk.step()
    }
}

pub(crate) type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

pub(crate) fn contents(store: &Store) -> Model {
    let rows = |table: Table| {
        let rows = store.scan(table).unwrap();
        rows.into_iter().map(move |(key, value)| ((table, key), value))
    };
    TABLES.into_iter().flat_map(rows).collect()
}

/// Some changes of some records; keys come again, values are of any size.
pub(crate) fn changes(rng: &mut ChaCha8Rng, model: &mut Model) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..=below(rng, 4) {
        let table = TABLES[below(rng, TABLES.len())];
        let key = vec![b'k', u8::try_from(below(rng, 24)).unwrap()];
        if rng.next_u32().is_multiple_of(4) {
            batch.delete(table, key.clone());
            model.remove(&(table, key));
        } else {
            let length = if rng.next_u32().is_multiple_of(16) { 6000 } else { below(rng, 500) };
            let mut value = vec![0; length];
            rng.fill_bytes(&mut value);
            batch.put(table, key.clone(), value.clone());
            model.insert((table, key), value);
        }
    }
    batch
}
