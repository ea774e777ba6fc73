//! Execution: what a list of transactions does to the state. Pure, and the same for producers, followers and checks.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    block::Receipt,
    state::{Entry, Overlay, StateRead},
    transaction::{EncodedTransaction, Op, TransactionBody},
};

/// Why a transaction may not stand in a block at this height at all. A producer leaves it out; a block that holds it is
/// invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Exclusion {
    /// It was valid until an earlier height.
    #[error("valid until height {0} only")]
    Expired(u64),
    /// Its nonce is not the account's next.
    #[error("nonce {nonce}, the account's next is {next}")]
    Nonce {
        /// The transaction's.
        nonce: u64,
        /// The account's.
        next: u64,
    },
}

/// Why execution of a list stopped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExecuteError<E> {
    /// A transaction may not stand there.
    #[error("transaction {index}: {reason}")]
    Excluded {
        /// Which one.
        index: u32,
        /// Why.
        reason: Exclusion,
    },
    /// The state cannot be read.
    #[error("the state cannot be read: {0}")]
    State(E),
}

/// Executes transactions one by one on top of a state that stays as it is.
#[derive(Debug)]
pub struct Executor<'a, S> {
    state: &'a S,
    height: u64,
    overlay: Overlay,
}

impl<'a, S: StateRead> Executor<'a, S> {
    /// Begins a block at `height` over `state`.
    pub fn new(state: &'a S, height: u64) -> Self {
        Self { state, height, overlay: Overlay::default() }
    }

    /// Executes one transaction. `Ok(Err(..))` leaves no trace of it.
    ///
    /// # Errors
    /// Those of the state.
    pub fn apply(&mut self, tx: &TransactionBody) -> Result<Result<Receipt, Exclusion>, S::Error> {
        if tx.valid_until < self.height {
            return Ok(Err(Exclusion::Expired(tx.valid_until)));
        }
        let next = match self.overlay.nonces.get(&tx.account) {
            Some(next) => *next,
            None => self.state.nonce(&tx.account)?,
        };
        if tx.nonce != next {
            return Ok(Err(Exclusion::Nonce { nonce: tx.nonce, next }));
        }
        let receipt = self.apply_ops(&tx.ops)?;
        self.overlay.nonces.insert(tx.account, next.saturating_add(1));
        Ok(Ok(receipt))
    }

    /// All operations or none. Later operations of a transaction see what earlier ones wrote.
    fn apply_ops(&mut self, ops: &[Op]) -> Result<Receipt, S::Error> {
        let mut undo: Vec<(&[u8], Option<Option<Entry>>)> = Vec::with_capacity(ops.len());
        for (op, index) in ops.iter().zip(0..) {
            let actual = match self.overlay.entries.get(op.key()) {
                Some(entry) => entry.as_ref().map_or(0, |entry| entry.version),
                None => self.state.version(op.key())?,
            };
            // A version at the end of its range could not move on; nobody counts that far, but nobody may panic us.
            let version = actual.checked_add(1).filter(|_| actual == op.expected_version());
            let Some(version) = version else {
                for (key, before) in undo.into_iter().rev() {
                    match before {
                        Some(entry) => self.overlay.entries.insert(key.to_vec(), entry),
                        None => self.overlay.entries.remove(key),
                    };
                }
                return Ok(Receipt::StaleVersion { op: index, actual });
            };
            let entry = match op {
                Op::Put { value, .. } => Some(Entry { version, value: value.clone() }),
                Op::Delete { .. } => None,
            };
            undo.push((op.key(), self.overlay.entries.insert(op.key().to_vec(), entry)));
        }
        Ok(Receipt::Applied)
    }

    /// Everything written so far.
    pub fn finish(self) -> Overlay {
        self.overlay
    }
}

/// Executes the transactions of a block at `height`.
///
/// # Errors
/// [`ExecuteError::Excluded`] if one may not stand there, the block maker's fault; [`ExecuteError::State`].
pub fn execute<S: StateRead>(
    state: &S,
    height: u64,
    transactions: &[Arc<EncodedTransaction>],
) -> Result<(Overlay, Vec<Receipt>), ExecuteError<S::Error>> {
    let mut executor = Executor::new(state, height);
    let mut receipts = Vec::with_capacity(transactions.len());
    for (tx, index) in transactions.iter().zip(0..) {
        match executor.apply(&tx.tx.body).map_err(ExecuteError::State)? {
            Ok(receipt) => receipts.push(receipt),
            Err(reason) => return Err(ExecuteError::Excluded { index, reason }),
        }
    }
    Ok((executor.finish(), receipts))
}
