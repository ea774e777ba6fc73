//! What the layer above asks of the chain, and what the chain tells it.

use core::time::Duration;

use bytes::Bytes;
use peerage_core::{NetworkId, NodeId};
use thiserror::Error;

use super::{
    block::{BlockError, Receipt},
    id::{Account, TxId},
    transaction::TransactionError,
    wire::Summary,
};
use crate::store::{Head, Proved, StoreError, TxLocation};

/// What is asked of the chain. A `token` is the asker's own name of the question and comes back in the answer; each
/// question gets exactly one, unless the process dies first.
#[derive(Debug)]
pub enum Command {
    /// Take a transaction, answered by [`Event::Submitted`].
    Submit {
        /// The asker's name of this question.
        token: u64,
        /// The encoded transaction.
        tx: Bytes,
    },
    /// Read a key with its proof, answered by [`Event::Got`].
    Get {
        /// The asker's name of this question.
        token: u64,
        /// The raw key.
        key: Vec<u8>,
    },
    /// Read an account, answered by [`Event::Account`].
    Account {
        /// The asker's name of this question.
        token: u64,
        /// Whose.
        account: Account,
    },
    /// What became of a transaction, answered by [`Event::Transaction`].
    Transaction {
        /// The asker's name of this question.
        token: u64,
        /// Which.
        id: TxId,
    },
    /// Read a block, answered by [`Event::Block`].
    Block {
        /// The asker's name of this question.
        token: u64,
        /// Its height.
        height: u64,
    },
    /// How things stand, answered by [`Event::Status`].
    Status {
        /// The asker's name of this question.
        token: u64,
    },
    /// What gossip told. Whoever composes the stack passes on each event of the gossip layer.
    Gossip(peerage_gossip::Event),
}

/// What the chain tells.
#[derive(Debug)]
pub enum Event {
    /// The answer to [`Command::Submit`].
    Submitted {
        /// Of which question.
        token: u64,
        /// `Ok` is a promise: the transaction is on disk and will be offered to the network until it stands in a block,
        /// expires, or another of the same nonce does. Asking again with the same transaction gives the same answer.
        result: Result<TxId, Refusal>,
    },
    /// The answer to [`Command::Get`].
    Got {
        /// Of which question.
        token: u64,
        /// The value with its proof.
        result: Result<Box<Proved>, Unavailable>,
    },
    /// The answer to [`Command::Account`].
    Account {
        /// Of which question.
        token: u64,
        /// The account.
        result: Result<AccountStatus, Unavailable>,
    },
    /// The answer to [`Command::Transaction`].
    Transaction {
        /// Of which question.
        token: u64,
        /// What became of it.
        result: Result<TransactionStatus, Unavailable>,
    },
    /// The answer to [`Command::Block`].
    Block {
        /// Of which question.
        token: u64,
        /// The encoded block with its certificate, if there is one at that height.
        result: Result<Option<Bytes>, Unavailable>,
    },
    /// The answer to [`Command::Status`].
    Status {
        /// Of which question.
        token: u64,
        /// How things stand.
        status: Box<Status>,
    },
    /// The store is open; told once, before anything else happens to it.
    Ready {
        /// The last block on disk.
        head: Head,
        /// How many acknowledged transactions wait in the outbox.
        outbox: usize,
    },
    /// A transaction entered the pool, from wherever it came.
    TxAccepted {
        /// Which.
        id: TxId,
    },
    /// A transaction left the pool, and the outbox if it was there, without standing in a block.
    TxDropped {
        /// Which.
        id: TxId,
        /// Why.
        cause: DropCause,
    },
    /// A block was committed, durably.
    BlockCommitted {
        /// The new head.
        head: Head,
        /// Its transactions in order, and what came of them.
        transactions: Vec<(TxId, Receipt)>,
    },
    /// A block under a valid certificate does not count: its producer is faulty, or this store is damaged.
    CertifiedBlockInvalid {
        /// Its height.
        height: u64,
        /// Why.
        error: BlockError,
    },
    /// A peer brought a block that does not count, which it could have seen; it is reported.
    BlockRefused {
        /// Who.
        from: NodeId,
        /// What is wrong.
        error: BlockError,
    },
    /// A peer brought a transaction that is not taken. It is reported only if the transaction could never be valid.
    TxRefused {
        /// Who.
        from: NodeId,
        /// Why.
        refusal: Refusal,
    },
    /// The time of a block and this node's clock are more than a minute apart, at this block or at some before it too: one
    /// of the two clocks is wrong, or this node was suspended. Told once an hour at most; nothing else follows from it.
    ClockDiffers {
        /// The block's height.
        height: u64,
        /// By how much.
        apart: Duration,
        /// Whether the block's time is the later one.
        ahead: bool,
    },
    /// The store failed. Nothing is written, acknowledged or made any more; the process should end.
    StoreFailed(StoreError),
    /// What gossip shall do. Whoever composes the stack passes it down.
    Gossip(peerage_gossip::Command),
}

/// Why a transaction was not taken. What it would take to be taken is in the variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It could never be valid: the sender's fault.
    #[error(transparent)]
    Invalid(#[from] TransactionError),
    /// It is valid until a height that was reached: the sender is too late.
    #[error("valid until height {valid_until}, the chain is at {height}")]
    Expired {
        /// Its last height.
        valid_until: u64,
        /// The chain's height.
        height: u64,
    },
    /// Its nonce stands in the chain already, with another transaction.
    #[error("the nonce is spent, the next one is {next}")]
    NonceUsed {
        /// The account's next nonce.
        next: u64,
    },
    /// Its nonce is so far ahead that it may not even wait.
    #[error("the nonce is more than {gap} beyond {next}, the next one")]
    NonceTooFar {
        /// The first nonce that is missing.
        next: u64,
        /// How far beyond it a transaction may wait.
        gap: u64,
    },
    /// Another transaction with this nonce is pending.
    #[error("another transaction with this nonce is pending")]
    NonceTaken,
    /// A key has moved past the expected version: it could never be applied.
    #[error("the key of operation {op} has version {actual} already")]
    StaleVersion {
        /// The first such operation.
        op: u32,
        /// The key's version.
        actual: u64,
    },
    /// The pool is full: try again later.
    #[error("the pool is full")]
    PoolFull,
    /// The node's memory budget is exhausted: try again later.
    #[error("the memory budget is exhausted")]
    OverBudget,
    /// The store failed: this node takes nothing any more.
    #[error("the store failed")]
    StoreFailed,
}

impl Refusal {
    /// A stable name for metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Invalid(error) => error.label(),
            Self::Expired { .. } => "expired",
            Self::NonceUsed { .. } => "nonce_used",
            Self::NonceTooFar { .. } => "nonce_too_far",
            Self::NonceTaken => "nonce_taken",
            Self::StaleVersion { .. } => "stale_version",
            Self::PoolFull => "pool_full",
            Self::OverBudget => "over_budget",
            Self::StoreFailed => "store_failed",
        }
    }
}

/// A question could not be answered: the store failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the store failed")]
pub struct Unavailable;

/// Why a pending transaction was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropCause {
    /// The chain passed the last height at which it was valid.
    Expired,
    /// Another transaction with its nonce stands in the chain.
    Superseded,
    /// It waited for an earlier nonce, and others needed the room or it waited for too long.
    Evicted,
}

/// An account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountStatus {
    /// Its next nonce in the chain.
    pub next_nonce: u64,
    /// How many of its transactions are pending here.
    pub pending: usize,
    /// The first nonce that neither the chain nor a transaction pending here has: what a new transaction should use.
    pub first_free: u64,
}

/// What became of a transaction, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// Neither in the chain nor in the pool.
    Unknown,
    /// In the pool.
    Pending,
    /// In the chain.
    Committed(TxLocation),
}

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The network.
    pub network: NetworkId,
    /// The last block; `None` until the store is open.
    pub head: Option<Head>,
    /// Transactions in the pool.
    pub pool: usize,
    /// Their encoded bytes.
    pub pool_bytes: usize,
    /// Acknowledged transactions that wait for a block.
    pub outbox: usize,
    /// Whether this node makes blocks.
    pub producer: bool,
    /// Blocks that arrived and wait for an earlier one.
    pub held_blocks: usize,
    /// What each connected peer says its head is.
    pub peers: Vec<(NodeId, Option<Summary>)>,
}
