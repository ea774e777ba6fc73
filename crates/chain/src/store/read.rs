//! Reading: blocks, values with proofs, accounts, and what admission to the pool must know.

use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable};

use super::{
    Store, StoreError,
    tables::{self, Head, NodeTable, StateTables, TxLocation},
};
use crate::proto::{
    id::{Account, TxId},
    state::{Entry, Proof, StateRead, key_hash, prove},
    transaction::{EncodedTransaction, MAX_TX_BYTES},
};

/// What a node finds when it starts.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The last block.
    pub head: Head,
    /// Acknowledged transactions that may still be in a later block, each with the next nonce of its account.
    pub outbox: Vec<(EncodedTransaction, u64)>,
}

/// A value, or its absence, with the proof under the state root of the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// The head under which it was read; the proof leads to its `state_root`.
    pub head: Head,
    /// The entry, if the key is present.
    pub entry: Option<Entry>,
    /// Verifies with [`key_hash`] and [`value_hash`](crate::proto::state::value_hash).
    pub proof: Proof,
}

/// What the committed state says about a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionView {
    /// Next nonce of its account.
    pub next_nonce: u64,
    /// The first operation whose key has moved past the expected version already, and the version it has.
    pub stale: Option<(u32, u64)>,
    /// Where it stands in the chain, if it does.
    pub location: Option<TxLocation>,
}

impl Store {
    /// The last block.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn head(&self) -> Result<Head, StoreError> {
        head(&self.db.begin_read()?)
    }

    /// Head and outbox, for the start. Outbox items that can never be in a block any more (expired, or their nonce is
    /// spent) are forgotten for good.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn load(&self) -> Result<Loaded, StoreError> {
        let txn = self.db.begin_read()?;
        let head = head(&txn)?;
        let state = state(&txn)?;
        let (mut outbox, mut dead) = (Vec::new(), Vec::new());
        for row in txn.open_table(tables::OUTBOX)?.iter()? {
            let (id, bytes) = row?;
            let tx = EncodedTransaction::decode(Bytes::copy_from_slice(bytes.value()), MAX_TX_BYTES);
            let tx = tx.map_err(|_| StoreError::Corrupt("an outbox row"))?;
            let next = state.nonce(&tx.tx.body.account)?;
            if tx.tx.body.nonce < next || tx.tx.body.valid_until <= head.height {
                dead.push(TxId(*id.value()));
            } else {
                outbox.push((tx, next));
            }
        }
        drop((state, txn));
        if !dead.is_empty() {
            self.prune_outbox(&dead)?;
        }
        Ok(Loaded { head, outbox })
    }

    /// Encoded blocks from height `from` on, in order: as many as fit into `max_bytes`, but one at least if there is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn blocks(&self, from: u64, max_bytes: usize) -> Result<Vec<Bytes>, StoreError> {
        let txn = self.db.begin_read()?;
        let (mut blocks, mut total) = (Vec::new(), 0);
        for row in txn.open_table(tables::BLOCKS)?.range(from..)? {
            let (_, bytes) = row?;
            total += bytes.value().len();
            if total > max_bytes && !blocks.is_empty() {
                break;
            }
            blocks.push(Bytes::copy_from_slice(bytes.value()));
        }
        Ok(blocks)
    }

    /// The entry under `key` with its proof.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get(&self, key: &[u8]) -> Result<Proved, StoreError> {
        let txn = self.db.begin_read()?;
        let (proof, _) = prove(&NodeTable(txn.open_table(tables::NODES)?), &key_hash(key))?;
        Ok(Proved { head: head(&txn)?, entry: state(&txn)?.entry(key)?, proof })
    }

    /// The next nonce of an account.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn next_nonce(&self, account: &Account) -> Result<u64, StoreError> {
        state(&self.db.begin_read()?)?.nonce(account)
    }

    /// Where a transaction stands in the chain, if it does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn location(&self, id: &TxId) -> Result<Option<TxLocation>, StoreError> {
        location(&self.db.begin_read()?, id)
    }

    /// What the committed state says about a transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn admission(&self, transactions: &[impl AsRef<EncodedTransaction>]) -> Result<Vec<AdmissionView>, StoreError> {
        let txn = self.db.begin_read()?;
        let state = state(&txn)?;
        let mut views = Vec::with_capacity(transactions.len());
        for tx in transactions {
            let EncodedTransaction { tx, id, .. } = tx.as_ref();
            let mut stale = None;
            for (op, index) in tx.body.ops.iter().zip(0..) {
                let actual = state.version(op.key())?;
                if op.expected_version() < actual {
                    stale = Some((index, actual));
                    break;
                }
            }
            let next_nonce = state.nonce(&tx.body.account)?;
            views.push(AdmissionView { next_nonce, stale, location: location(&txn, id)? });
        }
        Ok(views)
    }
}

type ReadState =
    StateTables<redb::ReadOnlyTable<&'static [u8], &'static [u8]>, redb::ReadOnlyTable<&'static [u8; 32], u64>>;

fn state(txn: &ReadTransaction) -> Result<ReadState, StoreError> {
    Ok(StateTables { entries: txn.open_table(tables::STATE)?, nonces: txn.open_table(tables::NONCES)? })
}

fn head(txn: &ReadTransaction) -> Result<Head, StoreError> {
    let meta = txn.open_table(tables::META)?;
    let row = meta.get(tables::META_HEAD)?.ok_or(StoreError::Corrupt("the head"))?;
    tables::decode_row(row.value(), "the head")
}

fn location(txn: &ReadTransaction, id: &TxId) -> Result<Option<TxLocation>, StoreError> {
    let index = txn.open_table(tables::TX_INDEX)?;
    let row = index.get(id.as_bytes())?;
    row.map(|row| tables::decode_row(row.value(), "an index row")).transpose()
}
