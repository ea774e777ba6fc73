//! Work on the store as jobs of the storage lane.

use core::{fmt, time::Duration};
use std::sync::Arc;

use bytes::Bytes;
use peerage_core::{Cost, Job, UnixMillis};
use peerage_transport::proto::keypair::Keypair;

use super::{
    Store, StoreError,
    commit::{ApplyOutcome, Built},
    read::{AdmissionView, Loaded, Proved},
    tables::TxLocation,
};
use crate::proto::{
    block::CheckedBlock,
    id::{Account, TxId},
    transaction::EncodedTransaction,
};

/// One piece of work on the store.
pub enum StoreJob {
    /// [`Store::load`].
    Load,
    /// [`Store::apply`].
    Apply(Box<CheckedBlock>),
    /// [`Store::build`].
    Build {
        /// In the order in which they should be tried.
        candidates: Vec<Arc<EncodedTransaction>>,
        /// The producer's clock.
        wall: UnixMillis,
        /// The producer's key, shared with the machine.
        keypair: Arc<Keypair>,
    },
    /// [`Store::persist_outbox`]: one job takes all that wait.
    PersistOutbox(Vec<Arc<EncodedTransaction>>),
    /// [`Store::prune_outbox`].
    PruneOutbox(Vec<TxId>),
    /// [`Store::admission`].
    Admission(Vec<Arc<EncodedTransaction>>),
    /// [`Store::blocks`].
    Blocks {
        /// First height.
        from: u64,
        /// Bytes at most.
        max_bytes: usize,
    },
    /// [`Store::get`].
    Get(Vec<u8>),
    /// [`Store::next_nonce`].
    Account(Account),
    /// [`Store::location`].
    Location(TxId),
}

/// What came of a [`StoreJob`], variant by variant.
#[derive(Debug)]
pub enum StoreDone {
    /// Of [`StoreJob::Load`].
    Loaded(Result<Loaded, StoreError>),
    /// Of [`StoreJob::Apply`].
    Applied(Result<ApplyOutcome, StoreError>),
    /// Of [`StoreJob::Build`].
    Built(Result<Built, StoreError>),
    /// Of [`StoreJob::PersistOutbox`]: `Ok` says that all of them are on disk.
    Persisted(Result<(), StoreError>),
    /// Of [`StoreJob::PruneOutbox`].
    Pruned(Result<(), StoreError>),
    /// Of [`StoreJob::Admission`], in order.
    Admission(Result<Vec<AdmissionView>, StoreError>),
    /// Of [`StoreJob::Blocks`].
    Blocks(Result<Vec<Bytes>, StoreError>),
    /// Of [`StoreJob::Get`].
    Got(Box<Result<Proved, StoreError>>),
    /// Of [`StoreJob::Account`].
    Account(Result<u64, StoreError>),
    /// Of [`StoreJob::Location`].
    Location(Result<Option<TxLocation>, StoreError>),
}

/// Costs for the simulator, our guesses at a laptop's solid-state disk: a durable commit, and what each transaction
/// adds for execution and its share of the tree.
const COMMIT: Duration = Duration::from_millis(4);
const READ: Duration = Duration::from_micros(50);
const PER_TRANSACTION: Duration = Duration::from_micros(60);

impl Job for StoreJob {
    type Output = StoreDone;
    type Resource = Store;

    fn cost(&self) -> Cost {
        let held = |txs: &[Arc<EncodedTransaction>]| txs.iter().map(|tx| tx.held_bytes()).sum();
        let times = |each: Duration, n: usize| each * u32::try_from(n).unwrap_or(u32::MAX);
        match self {
            Self::Load => Cost { time: COMMIT, bytes: 0 },
            Self::Apply(block) => {
                Cost { time: COMMIT + times(PER_TRANSACTION, block.transactions().len()), bytes: block.held_bytes() }
            }
            // The pool pays for the candidates already.
            Self::Build { candidates, .. } => {
                Cost { time: COMMIT + times(PER_TRANSACTION, candidates.len()), bytes: 0 }
            }
            Self::PersistOutbox(txs) => Cost { time: COMMIT, bytes: held(txs) },
            Self::PruneOutbox(ids) => Cost { time: COMMIT, bytes: 32 * ids.len() },
            Self::Admission(txs) => Cost { time: times(READ, txs.len()), bytes: held(txs) },
            Self::Blocks { max_bytes, .. } => Cost { time: READ * 4, bytes: *max_bytes },
            Self::Get(key) => Cost { time: READ, bytes: key.len() },
            Self::Account(_) | Self::Location(_) => Cost { time: READ, bytes: 0 },
        }
    }

    fn run(self, store: &mut Store) -> StoreDone {
        match self {
            Self::Load => StoreDone::Loaded(store.load()),
            Self::Apply(block) => StoreDone::Applied(store.apply(*block)),
            Self::Build { candidates, wall, keypair } => StoreDone::Built(store.build(candidates, wall, &keypair)),
            Self::PersistOutbox(txs) => StoreDone::Persisted(store.persist_outbox(&txs)),
            Self::PruneOutbox(ids) => StoreDone::Pruned(store.prune_outbox(&ids)),
            Self::Admission(txs) => StoreDone::Admission(store.admission(&txs)),
            Self::Blocks { from, max_bytes } => StoreDone::Blocks(store.blocks(from, max_bytes)),
            Self::Get(key) => StoreDone::Got(Box::new(store.get(&key))),
            Self::Account(account) => StoreDone::Account(store.next_nonce(&account)),
            Self::Location(id) => StoreDone::Location(store.location(&id)),
        }
    }
}

impl fmt::Debug for StoreJob {
    /// The name of the work only: what it carries is long, and one of them carries a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Load => "Load",
            Self::Apply(_) => "Apply",
            Self::Build { .. } => "Build",
            Self::PersistOutbox(_) => "PersistOutbox",
            Self::PruneOutbox(_) => "PruneOutbox",
            Self::Admission(_) => "Admission",
            Self::Blocks { .. } => "Blocks",
            Self::Get(_) => "Get",
            Self::Account(_) => "Account",
            Self::Location(_) => "Location",
        })
    }
}
