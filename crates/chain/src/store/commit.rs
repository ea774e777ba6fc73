//! Writing: a block with all it causes is one durable transaction of the database.

use std::sync::Arc;

use peerage_core::UnixMillis;
use peerage_transport::proto::keypair::Keypair;
use redb::{ReadableTable, WriteTransaction};

use super::{
    Store, StoreError,
    tables::{self, Head, NodeTable, StateTables, TxLocation},
};
use crate::proto::{
    block::{BlockError, CheckedBlock, Header, Receipt, receipts_root, tx_root},
    execute::{Exclusion, ExecuteError, Executor, execute},
    genesis::BLOCK_OVERHEAD_BYTES,
    id::{Producer, Root, TxId},
    state::{Overlay, update},
    transaction::EncodedTransaction,
};

/// A block that was committed.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The block.
    pub block: CheckedBlock,
    /// What came of its transactions, in order.
    pub receipts: Vec<Receipt>,
    /// The head that it became.
    pub head: Head,
}

/// What became of a block that was to be applied.
#[derive(Clone, Debug)]
pub enum ApplyOutcome {
    /// It is the head now, durably.
    Applied(Box<Applied>),
    /// Its height was reached before; nothing changed.
    Known(Head),
    /// Blocks before it are missing; nothing changed.
    Gap(Head),
    /// It does not count; nothing changed.
    Invalid(BlockError),
}

/// What a producer made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The block, already durable; `None` if no candidate could be included.
    pub block: Option<Box<Applied>>,
    /// Candidates that cannot stand at this height.
    pub excluded: Vec<(TxId, Exclusion)>,
}

impl Store {
    /// Executes a checked block over the state, compares what it claims and commits it with all its effects.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then. A block that does not count is no error of the store.
    pub fn apply(&self, block: CheckedBlock) -> Result<ApplyOutcome, StoreError> {
        let txn = self.db.begin_write()?;
        let head = read_head(&txn)?;
        let header = block.header();
        if header.height <= head.height {
            return Ok(ApplyOutcome::Known(head));
        }
        if header.height > head.height + 1 {
            return Ok(ApplyOutcome::Gap(head));
        }
        if header.parent != head.id {
            return Ok(ApplyOutcome::Invalid(BlockError::Parent));
        }
        if header.time < head.time {
            return Ok(ApplyOutcome::Invalid(BlockError::Time));
        }
        let executed = execute(&state_tables(&txn)?, header.height, block.transactions());
        let (overlay, receipts) = match executed {
            Ok(done) => done,
            Err(ExecuteError::Excluded { index, reason }) => {
                return Ok(ApplyOutcome::Invalid(BlockError::Excluded { index, reason }));
            }
            Err(ExecuteError::State(error)) => return Err(error),
        };
        if receipts_root(&receipts) != header.receipts_root {
            return Ok(ApplyOutcome::Invalid(BlockError::ReceiptsRoot));
        }
        if write_state(&txn, overlay)? != header.state_root {
            // Dropped without a commit: the writes above never happened.
            return Ok(ApplyOutcome::Invalid(BlockError::StateRoot));
        }
        Ok(ApplyOutcome::Applied(Box::new(commit(txn, block, receipts)?)))
    }

    /// Makes the next block of as many candidates as fit, signs and commits it. The block is durable before anyone else
    /// sees it, so a producer that dies and comes back never signs two blocks of one height.
    ///
    /// # Errors
    /// [`StoreError`]; nothing has changed then.
    pub fn build(
        &self,
        candidates: Vec<Arc<EncodedTransaction>>,
        wall: UnixMillis,
        keypair: &Keypair,
    ) -> Result<Built, StoreError> {
        let txn = self.db.begin_write()?;
        let head = read_head(&txn)?;
        let height = head.height + 1;
        let (mut included, mut receipts, mut excluded) = (Vec::new(), Vec::new(), Vec::new());
        let mut room = self.genesis.limits().max_block_bytes - BLOCK_OVERHEAD_BYTES;
        let overlay = {
            let tables = state_tables(&txn)?;
            let mut executor = Executor::new(&tables, height);
            for tx in candidates {
                let size = tx.bytes.len() as u64;
                if size > room {
                    continue; // it waits for the next block
                }
                match executor.apply(&tx.tx.body)? {
                    Ok(receipt) => {
                        room -= size;
                        receipts.push(receipt);
                        included.push(tx);
                    }
                    Err(reason) => excluded.push((tx.id, reason)),
                }
            }
            executor.finish()
        };
        if included.is_empty() {
            return Ok(Built { block: None, excluded });
        }
        let header = Header {
            height,
            parent: head.id,
            time: wall.max(head.time),
            tx_root: tx_root(&included),
            receipts_root: receipts_root(&receipts),
            state_root: write_state(&txn, overlay)?,
            producer: Producer(*keypair.node_id().as_bytes()),
        };
        let block = CheckedBlock::make(&self.genesis, header, included, keypair)
            .expect("the room was counted down from the limit");
        let applied = commit(txn, block, receipts)?;
        Ok(Built { block: Some(Box::new(applied)), excluded })
    }

    /// Makes acknowledged transactions durable, all in one commit. Those already in a block are left out.
    ///
    /// # Errors
    /// [`StoreError`]; none of them is durable then.
    pub fn persist_outbox(&self, transactions: &[Arc<EncodedTransaction>]) -> Result<(), StoreError> {
        let txn = self.db.begin_write()?;
        {
            let index = txn.open_table(tables::TX_INDEX)?;
            let mut outbox = txn.open_table(tables::OUTBOX)?;
            for tx in transactions {
                if index.get(tx.id.as_bytes())?.is_none() {
                    outbox.insert(tx.id.as_bytes(), tx.bytes.as_ref())?;
                }
            }
        }
        Ok(txn.commit()?)
    }

    /// Forgets acknowledged transactions that can never be in a block any more.
    ///
    /// # Errors
    /// [`StoreError`]; they are all still there then.
    pub fn prune_outbox(&self, ids: &[TxId]) -> Result<(), StoreError> {
        let txn = self.db.begin_write()?;
        {
            let mut outbox = txn.open_table(tables::OUTBOX)?;
            for id in ids {
                outbox.remove(id.as_bytes())?;
            }
        }
        Ok(txn.commit()?)
    }
}

type WriteState<'txn> =
    StateTables<redb::Table<'txn, &'static [u8], &'static [u8]>, redb::Table<'txn, &'static [u8; 32], u64>>;

fn state_tables(txn: &WriteTransaction) -> Result<WriteState<'_>, StoreError> {
    Ok(StateTables { entries: txn.open_table(tables::STATE)?, nonces: txn.open_table(tables::NONCES)? })
}

fn read_head(txn: &WriteTransaction) -> Result<Head, StoreError> {
    let meta = txn.open_table(tables::META)?;
    let row = meta.get(tables::META_HEAD)?.ok_or(StoreError::Corrupt("the head"))?;
    tables::decode_row(row.value(), "the head")
}

fn write_state(txn: &WriteTransaction, overlay: Overlay) -> Result<Root, StoreError> {
    let root = update(&mut NodeTable(txn.open_table(tables::NODES)?), &overlay.changes())?;
    let mut entries = txn.open_table(tables::STATE)?;
    for (key, entry) in overlay.entries {
        match entry {
            Some(entry) => entries.insert(key.as_slice(), tables::encode_entry(&entry).as_slice())?,
            None => entries.remove(key.as_slice())?,
        };
    }
    let mut nonces = txn.open_table(tables::NONCES)?;
    for (account, next) in overlay.nonces {
        nonces.insert(account.as_bytes(), next)?;
    }
    Ok(root)
}

fn commit(txn: WriteTransaction, block: CheckedBlock, receipts: Vec<Receipt>) -> Result<Applied, StoreError> {
    let header = block.header();
    let head = Head { height: header.height, id: block.id(), state_root: header.state_root, time: header.time };
    {
        let mut index = txn.open_table(tables::TX_INDEX)?;
        let mut outbox = txn.open_table(tables::OUTBOX)?;
        for ((tx, receipt), place) in block.transactions().iter().zip(&receipts).zip(0..) {
            let location = TxLocation { height: header.height, index: place, receipt: *receipt };
            index.insert(tx.id.as_bytes(), tables::encode_row(&location).as_slice())?;
            outbox.remove(tx.id.as_bytes())?;
        }
        txn.open_table(tables::BLOCKS)?.insert(header.height, block.bytes().as_ref())?;
        txn.open_table(tables::META)?.insert(tables::META_HEAD, tables::encode_row(&head).as_slice())?;
    }
    txn.commit()?;
    Ok(Applied { block, receipts, head })
}
