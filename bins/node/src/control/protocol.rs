//! What is said over the control socket.

use core::{fmt, net::SocketAddr};
use peerage_chain::proto::{
    DropCause as ChainDropCause,
    block::Receipt,
    id::{Account, BlockId, Root, TxId},
};
use peerage_core::{NetworkId, NodeId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{BanState, LimitChange, Limits, Lists, Peer, PeerOrder, PoolState, Story, Traffic};
use crate::hex;

/// A line from a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The client's number of this request; the answer bears it.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// A line from the node, in answer to one [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The number of the question; null if none could be read.
    pub id: Option<u64>,
    /// The answer, or why there is none.
    #[serde(flatten)]
    pub said: Said,
}

/// The content of an [`Answer`]: a `Result` under the names of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The answer.
    Result(Response),
    /// Why there is none.
    Error(Refusal),
}

impl Answer {
    /// An answer to the question with this number.
    pub fn new(id: Option<u64>, result: Result<Response, Refusal>) -> Self {
        Self { id, said: result.map_or_else(Said::Error, Said::Result) }
    }
}

/// What a client can ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "snake_case")]
pub enum Request {
    /// How the node is: [`Response::Status`].
    Status,
    /// With whom it is connected: [`Response::Peers`].
    Peers,
    /// What happened between the node and another: [`Response::Why`].
    Why {
        /// The other.
        #[serde(with = "hex::text")]
        peer: NodeId,
    },
    /// Who is banned: [`Response::Bans`].
    Bans,
    /// Whom the operator lets in always, alone, or never: [`Response::Lists`].
    Lists,
    /// Change limits, or none, and show them: [`Response::Limits`].
    Limits(LimitChange),
    /// Do something about peers: [`Response::Done`].
    Order(PeerOrder),
    /// Limit what the node sends and reads, or see what it does: [`Response::Bandwidth`].
    Bandwidth {
        /// Bytes a second to send, 0 for no limit; as it is if nothing is said.
        #[serde(default)]
        egress: Option<u64>,
        /// Bytes a second to read, in the same way.
        #[serde(default)]
        ingress: Option<u64>,
    },
    /// Take a signed transaction: [`Response::Submitted`] once it is acknowledged.
    SubmitTx {
        /// Its canonical encoding.
        #[serde(with = "hex::bytes")]
        tx: Vec<u8>,
    },
    /// What a key holds: [`Response::Value`].
    Get {
        /// The key.
        #[serde(with = "hex::bytes")]
        key: Vec<u8>,
    },
    /// What became of a transaction: [`Response::TxStatus`].
    TxStatus {
        /// Which.
        #[serde(with = "hex::text")]
        id: TxId,
    },
    /// What a transaction of an account needs to be valid: [`Response::Account`].
    Account {
        /// Whose.
        #[serde(with = "hex::text")]
        pubkey: Account,
    },
    /// Read the certificates again: [`Response::Reloaded`].
    ReloadTls,
    /// Stop: [`Response::Stopping`].
    Shutdown,
    /// Send [`Event`]s from now on: [`Response::Watching`]. Nothing else can be asked on this connection any more.
    Watch,
}

/// What the node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Peers`].
    Peers(Vec<Peer>),
    /// To [`Request::Why`].
    Why(Story),
    /// To [`Request::Bans`]: those that hold.
    Bans(Vec<BanState>),
    /// To [`Request::Lists`].
    Lists(Lists),
    /// To [`Request::Limits`]: what holds now.
    Limits(Limits),
    /// To [`Request::Order`].
    Done,
    /// To [`Request::Bandwidth`]: what is so from now on.
    Bandwidth(Traffic),
    /// To [`Request::SubmitTx`].
    Submitted {
        /// The id of the transaction.
        #[serde(with = "hex::text")]
        id: TxId,
    },
    /// To [`Request::Get`].
    Value(Value),
    /// To [`Request::TxStatus`].
    TxStatus(TxState),
    /// To [`Request::Account`].
    Account(AccountState),
    /// To [`Request::ReloadTls`].
    Reloaded {
        /// Connections that end because their certificates count no more.
        ended: usize,
    },
    /// To [`Request::Shutdown`].
    Stopping,
    /// To [`Request::Watch`]; events follow.
    Watching,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Who it is.
    #[serde(with = "hex::text")]
    pub node_id: NodeId,
    /// Name of its network.
    pub network: String,
    /// Id of its network.
    #[serde(with = "hex::text")]
    pub network_id: NetworkId,
    /// Number of the chain.
    pub chain_id: u64,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether it makes blocks.
    pub producer: bool,
    /// Height of the last block.
    pub height: u64,
    /// The last block.
    #[serde(with = "hex::text")]
    pub head: BlockId,
    /// Root of the state after it.
    #[serde(with = "hex::text")]
    pub state_root: Root,
    /// Peers that are connected.
    pub peers: usize,
    /// Transactions that wait for a block.
    pub mempool_txs: usize,
    /// Bytes of these.
    pub mempool_bytes: usize,
    /// Acknowledged transactions that are in no block yet.
    pub outbox_txs: usize,
    /// Bytes taken from the memory budget.
    pub resident_bytes: usize,
    /// The memory budget.
    pub budget_bytes: usize,
    /// How full each part of it is.
    pub pools: Vec<PoolState>,
    /// Time since the start, milliseconds.
    pub uptime_ms: u64,
    /// What passes over its connections.
    pub traffic: Traffic,
}

/// Something that happened between the node and a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// When, last, by the node's clock; milliseconds after 1970.
    pub unix_millis: u64,
    /// What, by a name that does not change.
    pub what: String,
    /// Why, by the name of the reason, where there is one.
    pub reason: Option<String>,
    /// The same in words.
    pub words: String,
    /// How often in a row.
    pub times: u32,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Value {
    /// The value, if the key is present.
    #[serde(with = "hex::optional", default)]
    pub value: Option<Vec<u8>>,
    /// Its version; 0 if it is absent.
    pub version: u64,
    /// The height after which this was so.
    pub height: u64,
    /// The canonical encoding of the proof under the state root at this height, if asked for and at hand.
    #[serde(with = "hex::optional", default)]
    pub proof: Option<Vec<u8>>,
}

/// What became of a transaction, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TxState {
    /// It never heard of it, or dropped it.
    Unknown,
    /// It waits for a block.
    Pending,
    /// It is in a block.
    Committed(Inclusion),
}

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inclusion {
    /// Height of its block.
    pub height: u64,
    /// Its place in the block, from 0.
    pub index: u32,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a transaction in a block. Either way its nonce is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// All of its operations took effect.
    Applied,
    /// None did: a key had moved on.
    StaleVersion {
        /// The first such operation, from 0.
        op: u32,
        /// The version that its key had.
        actual: u64,
    },
}

impl From<Receipt> for Outcome {
    fn from(receipt: Receipt) -> Self {
        match receipt {
            Receipt::Applied => Self::Applied,
            Receipt::StaleVersion { op, actual } => Self::StaleVersion { op, actual },
        }
    }
}

/// Why a transaction that waited will not be in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DropCause {
    /// The chain passed the last height at which it was valid.
    Expired,
    /// Another transaction with its nonce is in the chain.
    Superseded,
    /// It waited for an earlier nonce, and others needed the room.
    Evicted,
}

impl From<ChainDropCause> for DropCause {
    fn from(cause: ChainDropCause) -> Self {
        match cause {
            ChainDropCause::Expired => Self::Expired,
            ChainDropCause::Superseded => Self::Superseded,
            ChainDropCause::Evicted => Self::Evicted,
        }
    }
}

/// What a new transaction of an account must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// The chain.
    pub chain_id: u64,
    /// The nonce to use: the first that is neither in the chain nor in a transaction that waits.
    pub next_nonce: u64,
    /// Height of the last block, from which `valid_until` is counted.
    pub height: u64,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message} ({code})")]
pub struct Refusal {
    /// Whose fault, for machines.
    pub code: ErrorCode,
    /// What is wrong, for people.
    pub message: String,
}

impl Refusal {
    /// A refusal with its reason in words.
    pub fn new(code: ErrorCode, reason: impl fmt::Display) -> Self {
        Self { code, message: reason.to_string() }
    }
}

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is not a request: the client's.
    BadRequest,
    /// The line is too long: the client's.
    TooLong,
    /// The transaction is invalid or cannot be taken now: its signer's.
    TxRejected,
    /// Files of the node's are of no use: its operator's.
    Unusable,
    /// Too much is going on: nobody's, try again later.
    Busy,
    /// The node is stopping: nobody's.
    Stopping,
    /// What is named is not there: the client's.
    Absent,
    /// The node's own.
    Internal,
}

impl ErrorCode {
    /// The name on the wire.
    pub const fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::TooLong => "too_long",
            Self::TxRejected => "tx_rejected",
            Self::Unusable => "unusable",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::Absent => "absent",
            Self::Internal => "internal",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A transaction was found valid and is in the pool.
    Accepted {
        /// Which.
        #[serde(with = "hex::text")]
        id: TxId,
        /// When, nanoseconds since 1970.
        unix_nanos: u64,
    },
    /// A transaction was acknowledged: it survives a crash of this node.
    Acked {
        /// Which.
        #[serde(with = "hex::text")]
        id: TxId,
        /// When, nanoseconds since 1970.
        unix_nanos: u64,
    },
    /// A block was committed.
    Committed {
        /// Its height.
        height: u64,
        /// Its transactions, in order.
        #[serde(with = "hex::texts")]
        ids: Vec<TxId>,
        /// When, nanoseconds since 1970.
        unix_nanos: u64,
    },
    /// A transaction that waited was dropped.
    Dropped {
        /// Which.
        #[serde(with = "hex::text")]
        id: TxId,
        /// Why.
        cause: DropCause,
    },
    /// The watcher was too slow.
    Missed {
        /// How many events it will never see.
        events: u64,
    },
}
