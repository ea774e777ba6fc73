//! The durable store: blocks, state, tree, index and outbox in one redb database, and the jobs that work on it.
//!
//! Not pure: it touches the disk. It runs the same in the node (a file) and in the simulator (redb's in-memory or a
//! custom backend).

mod commit;
mod jobs;
mod look;
mod read;
pub mod tables;
pub mod verify;

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
};

use peerage_core::NetworkId;
use redb::{Builder, Database, StorageBackend, backends::InMemoryBackend};
use thiserror::Error;

use crate::proto::{genesis::Genesis, state::EMPTY_ROOT};

use look::Scratch;

pub use commit::{Applied, ApplyOutcome, Built};
pub use jobs::{StoreDone, StoreJob};
pub use read::{AdmissionView, Loaded, Proved};
pub use tables::{Head, SCHEMA, TxLocation};
pub use verify::{Report, compare};

/// Page cache of the database, bytes. Our guess, well below the 200 MiB that the whole node may take at a million keys;
/// the database's own default is 1 GiB.
pub const DEFAULT_CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Why a store cannot be opened. The operator's or the machine's fault.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The database itself cannot be opened: no such file, no right to it, in use, damaged.
    #[error("the database cannot be opened: {0}{remedy}", remedy = remedy(.0))]
    Database(#[from] Box<redb::Error>),
    /// The database is so damaged that its engine gave up on it.
    #[error("the database cannot be opened: it is damaged{DAMAGED}")]
    Damaged,
    /// The file is a database, but none of ours.
    #[error("the database has no {0}: it is not a store of this program; move it out of the data directory")]
    NotAStore(&'static str),
    /// Written by a later version of this program.
    #[error("the store has schema {found}, this version knows {known}: run the later version that wrote it")]
    FutureSchema {
        /// In the file.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Of another network.
    #[error(
        "the store belongs to network {found}, not to {expected}: put back the genesis of that network, or use another \
         data directory for this one"
    )]
    OtherNetwork {
        /// In the file.
        found: NetworkId,
        /// From the genesis.
        expected: NetworkId,
    },
    /// Readable, but a row in it is not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why work on an open store fails. The machine's fault.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The database says so: disk full, input/output error, damage.
    #[error("the database fails: {0}{remedy}", remedy = remedy(.0))]
    Database(#[from] Box<redb::Error>),
    /// A row cannot be read as what it should be.
    #[error("{0} is damaged{DAMAGED}")]
    Corrupt(&'static str),
}

/// What to do about a store that is damaged.
const DAMAGED: &str = "; restore it from a backup, or move it away: the node then fetches the chain from its peers";

/// What to do about a failure of the database, in words that follow those of the failure.
fn remedy(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::Corrupted(_) | redb::Error::RepairAborted => DAMAGED,
        redb::Error::DatabaseAlreadyOpen => "; end the other program that has it open",
        redb::Error::Io(reason) if reason.kind() == io::ErrorKind::StorageFull => {
            "; make room on the disk and start the node again"
        }
        redb::Error::Io(reason) if reason.kind() == io::ErrorKind::UnexpectedEof => DAMAGED,
        redb::Error::Io(reason) if reason.kind() == io::ErrorKind::InvalidData => {
            "; it is no database, or its beginning is damaged: restore it from a backup, or move it away"
        }
        _ => "",
    }
}

/// Opens or reads a database whose engine does not always expect damage: a panic of it is damage found.
fn expecting_damage<T, E>(work: impl FnOnce() -> Result<T, E>, damaged: E) -> Result<T, E> {
    // Nothing that a panic could leave half done outlives the closure: what it opened is dropped with it.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(Err(damaged))
}

/// The database in a file, every page compared with its checksum, to be looked at.
fn look_at(path: &Path, cache_bytes: usize) -> Result<Database, OpenError> {
    let looked = Scratch::open(path)?;
    Ok(Builder::new().set_cache_size(cache_bytes).set_check_integrity_on_open(true).create_with_backend(looked)?)
}

/// Removes what an earlier attempt to make a store left behind.
fn remove_unfinished(path: &Path) -> Result<(), OpenError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(redb::StorageError::Io(error).into()),
        _ => Ok(()),
    }
}

/// Gives a finished file its name, durably.
fn put_in_place(from: &Path, to: &Path) -> Result<(), redb::StorageError> {
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::rename(from, to)?;
    Ok(File::open(directory)?.sync_all()?)
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for StoreError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
        impl From<redb::$error> for OpenError {
            fn from(error: redb::$error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )*};
}

from_redb!(StorageError, TableError, TransactionError, CommitError, DatabaseError);

/// An open store. The storage lane owns it; nobody else touches it while the node runs.
#[derive(Debug)]
pub struct Store {
    pub(super) db: Database,
    pub(super) genesis: Arc<Genesis>,
}

impl Store {
    /// Opens the store at `path`, creating an empty one where there is none. `cache_bytes`: see [`DEFAULT_CACHE_BYTES`].
    /// Reads the whole file before: a node that trusted a damaged one would answer from it, and a producer would sign what
    /// follows from it.
    ///
    /// # Errors
    /// [`OpenError`]; the file is then unchanged.
    pub fn open(path: &Path, genesis: Arc<Genesis>, cache_bytes: usize) -> Result<Self, OpenError> {
        let create =
            |at: &Path, genesis| Self::prepare(Builder::new().set_cache_size(cache_bytes).create(at)?, genesis);
        if path.exists() {
            let open = || {
                drop(Self::prepare(look_at(path, cache_bytes)?, Arc::clone(&genesis))?);
                create(path, genesis)
            };
            return expecting_damage(open, OpenError::Damaged);
        }
        // Made under another name first: a disk that is full, or a crash, must not leave half a store that nobody can open.
        let unfinished = path.with_extension("new");
        let made = remove_unfinished(&unfinished)
            .and_then(|()| create(&unfinished, genesis))
            .and_then(|store| Ok(put_in_place(&unfinished, path).map(|()| store)?));
        if made.is_err() {
            // The failure above is the one to report; what stays is removed the next time.
            let _ = remove_unfinished(&unfinished);
        }
        made
    }

    /// Opens a store that must exist already, for offline checks: the file stays as it is, and what is written to the store
    /// is forgotten with it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_existing(path: &Path, genesis: Arc<Genesis>, cache_bytes: usize) -> Result<Self, OpenError> {
        expecting_damage(|| Self::check(look_at(path, cache_bytes)?, genesis), OpenError::Damaged)
    }

    /// Opens or creates a store over a backend of the caller's: the simulator's disks, with their faults.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn with_backend(
        backend: impl StorageBackend,
        genesis: Arc<Genesis>,
        cache_bytes: usize,
    ) -> Result<Self, OpenError> {
        Self::prepare(Builder::new().set_cache_size(cache_bytes).create_with_backend(backend)?, genesis)
    }

    /// An empty store in memory.
    ///
    /// # Errors
    /// [`OpenError`], in practice only when memory runs out.
    pub fn in_memory(genesis: Arc<Genesis>) -> Result<Self, OpenError> {
        Self::with_backend(InMemoryBackend::new(), genesis, DEFAULT_CACHE_BYTES)
    }

    /// The genesis it was opened with.
    pub fn genesis(&self) -> &Arc<Genesis> {
        &self.genesis
    }

    fn prepare(db: Database, genesis: Arc<Genesis>) -> Result<Self, OpenError> {
        let txn = db.begin_write()?;
        // A file without any table is one that was just created; anything else must prove that it is ours.
        if txn.list_tables()?.next().is_some() {
            drop(txn);
            return Self::check(db, genesis);
        }
        {
            let mut meta = txn.open_table(tables::META)?;
            meta.insert(tables::META_SCHEMA, SCHEMA.to_be_bytes().as_slice())?;
            meta.insert(tables::META_NETWORK, genesis.network_id().as_bytes().as_slice())?;
            meta.insert(tables::META_HEAD, tables::encode_row(&zero(&genesis)).as_slice())?;
            // Created now, so that no reader meets a missing table later.
            txn.open_table(tables::STATE)?;
            txn.open_table(tables::NONCES)?;
            txn.open_table(tables::NODES)?;
            txn.open_table(tables::BLOCKS)?;
            txn.open_table(tables::TX_INDEX)?;
            txn.open_table(tables::OUTBOX)?;
        }
        txn.commit()?;
        Ok(Self { db, genesis })
    }

    fn check(db: Database, genesis: Arc<Genesis>) -> Result<Self, OpenError> {
        use redb::{ReadableDatabase, TableError};
        {
            let txn = db.begin_read()?;
            let meta = match txn.open_table(tables::META) {
                Ok(meta) => meta,
                Err(TableError::Storage(error)) => return Err(error.into()),
                Err(_) => return Err(OpenError::NotAStore("table of contents")),
            };
            let row = meta.get(tables::META_SCHEMA)?.ok_or(OpenError::NotAStore("schema version"))?;
            let found = row.value().try_into().map(u32::from_be_bytes);
            let found = found.map_err(|_| StoreError::Corrupt("the schema version"))?;
            // Older schemas are converted here, once there are any; 0 was never written.
            if found != SCHEMA {
                return Err(OpenError::FutureSchema { found, known: SCHEMA });
            }
            let row = meta.get(tables::META_NETWORK)?.ok_or(OpenError::NotAStore("network id"))?;
            let found = row.value().try_into().map(NetworkId::from_bytes);
            let found = found.map_err(|_| StoreError::Corrupt("the network id"))?;
            if found != genesis.network_id() {
                return Err(OpenError::OtherNetwork { found, expected: genesis.network_id() });
            }
        }
        Ok(Self { db, genesis })
    }
}

/// The head of a chain without blocks.
pub(crate) fn zero(genesis: &Genesis) -> Head {
    Head { height: 0, id: genesis.block_id(), state_root: EMPTY_ROOT, time: genesis.time() }
}

#[cfg(test)]
mod tests;
