//! What must outlive a crash: one file of records, written before anything is promised.
//!
//! The store knows tables of bytes by key, nothing of what they mean. A [`Persisted`] is made by a finished commit and by
//! nothing else: whoever asks for one cannot promise before the disk has it.

use std::fmt;
use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend,
    TableDefinition, TableError,
};

use crate::record::Key;

pub mod thread;

/// The version of the file; a newer one is refused.
const VERSION: &[u8] = &[1];
const VERSION_KEY: &[u8] = b"version";

/// The tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The store's own notes, and small values.
    Values,
    /// Sessions that this node pays for.
    PayerSessions,
    /// Sessions that this node is paid by.
    PayeeSessions,
    /// Wins, as the payee knows them.
    Wins,
    /// Wins, with how far each one's redemption is.
    Redemptions,
    /// Cumulative counts by counterparty.
    Counters,
    /// Blocks of the embedded chain.
    Blocks,
}

/// A key and what it holds.
pub type Row = (Vec<u8>, Vec<u8>);

type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

impl Table {
    /// Where a record is kept.
    pub const fn of(key: &Key) -> Self {
        match key {
            Key::Payee(_) | Key::Debt(..) => Self::PayerSessions,
            Key::Payer(_) => Self::PayeeSessions,
            Key::Win(..) => Self::Wins,
            Key::Meter(_) => Self::Counters,
        }
    }

    const ALL: [Self; 7] = [
        Self::Values,
        Self::PayerSessions,
        Self::PayeeSessions,
        Self::Wins,
        Self::Redemptions,
        Self::Counters,
        Self::Blocks,
    ];

    const fn rows(self) -> Rows {
        TableDefinition::new(match self {
            Self::Values => "values",
            Self::PayerSessions => "payer sessions",
            Self::PayeeSessions => "payee sessions",
            Self::Wins => "wins",
            Self::Redemptions => "redemptions",
            Self::Counters => "counters",
            Self::Blocks => "blocks",
        })
    }
}

/// Changes that become durable together or not at all; later ones win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    changes: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// No changes.
    pub const fn new() -> Self {
        Self { changes: Vec::new() }
    }

    /// Sets a record.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), Some(value.into())));
    }

    /// Removes a record, if it is there.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), None));
    }

    /// Appends the changes of another batch.
    pub fn append(&mut self, mut later: Self) {
        self.changes.append(&mut later.changes);
    }

    /// Whether there is nothing to do.
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

/// Proof that a batch is on the disk: only a finished commit makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what waits for the disk may go on"]
pub struct Persisted(());

/// Why the store cannot be opened, read or written, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process, or another part of this one, has it open.
    #[error("{0} is in use by another chive: stop that one, or choose another data directory")]
    InUse(PathBuf),
    /// It is no store, or was changed by something else.
    #[error(
        "{path} is damaged ({reason}): move it away and put a copy of it in its place; without one, sessions and wins that \
         are not redeemed yet are lost, and money on chain is safe"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It was written by a later version.
    #[error("{0} was written by a newer chive: use that version, or move the file away")]
    Newer(PathBuf),
    /// The disk is full.
    #[error("the disk of {0} is full: make room; nothing is lost, and it goes on by itself")]
    Full(PathBuf),
    /// The operating system refuses.
    #[error("cannot read or write {path}: {source}: check the disk and who may write there")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// The open file.
pub struct Store {
    path: PathBuf,
    db: Database,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the file, or makes it, readable by its owner only; everything in it is checked.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| io_error(path, source);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(io)?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(io)?;
        let backend = FileBackend::new(file).map_err(|e| database_error(path, e))?;
        Self::with_backend(path, backend)
    }

    /// Opens a store on something that behaves as a file; `path` is its name in errors.
    pub fn with_backend(path: &Path, backend: impl StorageBackend) -> Result<Self, Error> {
        let mut builder = Database::builder();
        builder.set_cache_size(4 << 20).set_check_integrity_on_open(true);
        let db = builder.create_with_backend(backend).map_err(|e| database_error(path, e))?;
        let store = Self { path: path.to_owned(), db };
        match store.get(Table::Values, VERSION_KEY)? {
            Some(version) if version == VERSION => Ok(store),
            Some(_) => Err(Error::Newer(path.to_owned())),
            None => {
                let mut batch = Batch::new();
                batch.put(Table::Values, VERSION_KEY, VERSION);
                let Persisted(()) = store.commit(&batch)?;
                Ok(store)
            }
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One record.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let read = || -> Result<_, redb::Error> {
            let rows = match self.db.begin_read()?.open_table(table.rows()) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                rows => rows?,
            };
            Ok(rows.get(key)?.map(|value| value.value().to_vec()))
        };
        read().map_err(|e| self.error(e))
    }

    /// All records of a table, by key.
    pub fn scan(&self, table: Table) -> Result<Vec<Row>, Error> {
        let read = || -> Result<_, redb::Error> {
            let rows = match self.db.begin_read()?.open_table(table.rows()) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                rows => rows?,
            };
            let mut records = Vec::new();
            for row in rows.iter()? {
                let (key, value) = row?;
                records.push((key.value().to_vec(), value.value().to_vec()));
            }
            Ok(records)
        };
        read().map_err(|e| self.error(e))
    }

    /// Makes all changes of a batch durable; this waits for the disk.
    ///
    /// After an error the file must be opened again: which of the two states it holds is not known before.
    // pay.persist.1
    pub fn commit(&self, batch: &Batch) -> Result<Persisted, Error> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.db.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            for table in Table::ALL {
                let changes = batch.changes.iter().filter(|(of, ..)| *of == table);
                if changes.clone().next().is_none() {
                    continue;
                }
                let mut rows = transaction.open_table(table.rows())?;
                for (_, key, value) in changes {
                    match value {
                        Some(value) => drop(rows.insert(key.as_slice(), value.as_slice())?),
                        None => drop(rows.remove(key.as_slice())?),
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|e| self.error(e))?;
        Ok(Persisted(()))
    }

    fn error(&self, error: redb::Error) -> Error {
        redb_error(&self.path, error)
    }
}

fn io_error(path: &Path, source: std::io::Error) -> Error {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::Full(path.to_owned()),
        ErrorKind::InvalidData => Error::Corrupt { path: path.to_owned(), reason: source.to_string() },
        _ => Error::Io { path: path.to_owned(), source },
    }
}

fn database_error(path: &Path, error: DatabaseError) -> Error {
    match error {
        DatabaseError::UpgradeRequired(_) => Error::Newer(path.to_owned()),
        error => redb_error(path, error.into()),
    }
}

fn redb_error(path: &Path, error: redb::Error) -> Error {
    match error {
        redb::Error::DatabaseAlreadyOpen => Error::InUse(path.to_owned()),
        redb::Error::Io(source) => io_error(path, source),
        redb::Error::PreviousIo => io_error(path, std::io::Error::other("an earlier write has failed")),
        error => Error::Corrupt { path: path.to_owned(), reason: error.to_string() },
    }
}
