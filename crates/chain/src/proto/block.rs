//! Blocks: an ordered list of transactions, what came of them, and a producer's word for it.

use std::sync::Arc;

use bytes::Bytes;
use peerage_core::UnixMillis;
use peerage_transport::proto::keypair::Keypair;
use peerage_wire::payload;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    genesis::{Genesis, MAX_BLOCK_BYTES, Ordering},
    id::{BlockId, Producer, Root, Signature, TxId, hash},
    merkle::list_root,
    sign,
    transaction::{EncodedTransaction, MAX_TX_BYTES, Transaction, TransactionError},
};

const ID: &str = "peerage-chain-block-id-v1";
const CERTIFIED: &str = "peerage-chain-solo-certificate-v1";

/// What a block says about itself. Its id is the hash of this alone, and it commits to everything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// One more than the parent's; the first block has 1.
    pub height: u64,
    /// Id of the block before.
    pub parent: BlockId,
    /// When it was made, by the producer's clock; never before the parent's. Nothing depends on it: expiry counts heights.
    pub time: UnixMillis,
    /// Over the encoded transactions, in order.
    pub tx_root: Root,
    /// Over the encoded receipts, in the same order.
    pub receipts_root: Root,
    /// Of the state after this block.
    pub state_root: Root,
    /// Who made it.
    pub producer: Producer,
}

impl Header {
    /// The block's id.
    pub fn id(&self) -> BlockId {
        BlockId(hash(ID, &[&self.encode()]))
    }

    fn encode(&self) -> Vec<u8> {
        payload::to_bytes(self)
    }
}

/// Why a block counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Certificate {
    /// Under [`Ordering::Solo`]: the signature of [the one producer](Genesis::solo_producer) over network id and header.
    Solo(Signature),
}

impl Certificate {
    /// Whether `header` counts in the network of `genesis`. The only place that knows what makes a block count.
    ///
    /// # Errors
    /// [`BlockError::UnknownProducer`] and [`BlockError::BadCertificate`], the fault of whoever made the block.
    pub fn verify(&self, genesis: &Genesis, header: &Header) -> Result<(), BlockError> {
        match (genesis.ordering(), self) {
            (Ordering::Solo, Self::Solo(signature)) => {
                if header.producer != genesis.solo_producer() {
                    return Err(BlockError::UnknownProducer(header.producer));
                }
                let (network, header_bytes) = (genesis.network_id(), header.encode());
                let signed = [network.as_bytes().as_slice(), &header_bytes];
                if sign::verify(header.producer.as_bytes(), CERTIFIED, &signed, signature) {
                    Ok(())
                } else {
                    Err(BlockError::BadCertificate)
                }
            }
        }
    }

    /// The certificate of a producer that orders alone.
    fn solo(genesis: &Genesis, header: &Header, keypair: &Keypair) -> Self {
        let network = genesis.network_id();
        Self::Solo(sign::sign(keypair, CERTIFIED, &[network.as_bytes(), &header.encode()]))
    }
}

/// A block with its certificate, as it travels and as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Commits to the rest.
    pub header: Header,
    /// In order of execution.
    pub transactions: Vec<Transaction>,
    /// Why it counts.
    pub certificate: Certificate,
}

/// Read and written part by part, transactions too.
impl payload::Exact for Block {}

/// What came of a transaction in a block. Either way its nonce is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Receipt {
    /// All of its operations took effect.
    Applied,
    /// None did: the key of one of them had moved on.
    StaleVersion {
        /// The first such operation.
        op: u32,
        /// The version its key had.
        actual: u64,
    },
}

/// Why a block does not count. The fault of whoever made it; whoever passed it on should have checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BlockError {
    /// Larger than the network permits.
    #[error("{0} bytes are more than the network permits")]
    TooLarge(usize),
    /// Not the canonical encoding of a block.
    #[error("not the canonical encoding of a block")]
    Malformed,
    /// Its producer is not the one that the genesis names.
    #[error("{0} is no producer of this network")]
    UnknownProducer(Producer),
    /// The signature is not the producer's.
    #[error("the certificate is not the producer's")]
    BadCertificate,
    /// The transactions are not those of the header.
    #[error("the transactions do not lead to the root in the header")]
    TxRoot,
    /// It has no transaction; such blocks are not made.
    #[error("a block without transactions")]
    Empty,
    /// A transaction is wrong by itself.
    #[error("transaction {index}: {error}")]
    Transaction {
        /// Its place in the block.
        index: u32,
        /// What is wrong.
        error: TransactionError,
    },
    /// A transaction may not stand at this height of this chain.
    #[error("transaction {index}: {reason}")]
    Excluded {
        /// Its place in the block.
        index: u32,
        /// Why not.
        reason: super::execute::Exclusion,
    },
    /// It does not name the block before it.
    #[error("its parent is another block")]
    Parent,
    /// Its time lies before its parent's.
    #[error("its time lies before its parent's")]
    Time,
    /// Execution gives other receipts than the header says.
    #[error("execution leads to other receipts")]
    ReceiptsRoot,
    /// Execution gives another state than the header says.
    #[error("execution leads to another state")]
    StateRoot,
}

impl BlockError {
    /// A stable name for metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Malformed => "malformed",
            Self::UnknownProducer(_) => "unknown_producer",
            Self::BadCertificate => "bad_certificate",
            Self::TxRoot => "tx_root",
            Self::Empty => "empty",
            Self::Transaction { error, .. } => error.label(),
            Self::Excluded { .. } => "excluded",
            Self::Parent => "parent",
            Self::Time => "time",
            Self::ReceiptsRoot => "receipts_root",
            Self::StateRoot => "state_root",
        }
    }
}

/// A block under the producer's certificate, whole and canonical; only the signatures of its transactions are still to be
/// checked. Nobody but the producer can make one, so that it is worth asking which of them are known.
#[derive(Clone, Debug)]
pub struct CertifiedBlock(CheckedBlock);

impl CertifiedBlock {
    /// Checks an encoded block, from anyone, as far as that; `None` if it does not stand above a height, which is looked
    /// at first.
    ///
    /// # Errors
    /// [`BlockError`], the first check that fails, cheap ones first.
    pub fn check_above(genesis: &Genesis, bytes: Bytes, above: u64) -> Result<Option<Self>, BlockError> {
        let block = decode(genesis, &bytes)?;
        if block.header.height <= above {
            return Ok(None);
        }
        CheckedBlock::certified(genesis, block, bytes).map(|block| Some(Self(block)))
    }

    /// The transactions, in order.
    pub fn transactions(&self) -> &[Arc<EncodedTransaction>] {
        &self.0.transactions
    }

    /// Checks the signatures but those of the transactions in `known`, which is sorted.
    ///
    /// # Errors
    /// [`BlockError::Transaction`], the first whose signature is wrong.
    pub fn verify(self, known: &[TxId]) -> Result<CheckedBlock, BlockError> {
        for (tx, index) in self.0.transactions.iter().zip(0..) {
            if known.binary_search(&tx.id).is_err() {
                tx.tx.verify_signature().map_err(|error| BlockError::Transaction { index, error })?;
            }
        }
        Ok(self.0)
    }
}

/// A block whose certificate, transaction root and signatures have been checked: all that can be checked without the
/// state. Only [`CheckedBlock::check`] and [`CheckedBlock::make`] make one.
#[derive(Clone, Debug)]
pub struct CheckedBlock {
    header: Header,
    id: BlockId,
    transactions: Vec<Arc<EncodedTransaction>>,
    bytes: Bytes,
}

impl CheckedBlock {
    /// Checks an encoded block, from anyone. `known` are ids, sorted, of transactions whose signatures were checked
    /// before: an id covers the signature too, so they need no second check.
    ///
    /// # Errors
    /// [`BlockError`], the first check that fails, cheap ones first.
    pub fn check(genesis: &Genesis, bytes: Bytes, known: &[TxId]) -> Result<Self, BlockError> {
        let block = decode(genesis, &bytes)?;
        CertifiedBlock(Self::certified(genesis, block, bytes)?).verify(known)
    }

    /// All but the signatures of the transactions.
    fn certified(genesis: &Genesis, block: Block, bytes: Bytes) -> Result<Self, BlockError> {
        let header = block.header;
        block.certificate.verify(genesis, &header)?;
        if block.transactions.is_empty() {
            return Err(BlockError::Empty);
        }
        let mut transactions = Vec::with_capacity(block.transactions.len());
        for (tx, index) in block.transactions.into_iter().zip(0..) {
            let fault = |error| BlockError::Transaction { index, error };
            let tx = tx.encode().map_err(fault)?;
            let max = genesis.limits().max_tx_bytes;
            if tx.bytes.len() as u64 > max {
                return Err(fault(TransactionError::TooLarge { bytes: tx.bytes.len() as u64, max }));
            }
            tx.tx.check(genesis.chain_id()).map_err(fault)?;
            transactions.push(Arc::new(tx));
        }
        if tx_root(&transactions) != header.tx_root {
            return Err(BlockError::TxRoot);
        }
        Ok(Self { id: header.id(), header, transactions, bytes })
    }

    /// Signs a block of one's own making.
    ///
    /// # Errors
    /// [`BlockError::TooLarge`] if it does not fit the network's limit: the caller put in too much.
    pub fn make(
        genesis: &Genesis,
        header: Header,
        transactions: Vec<Arc<EncodedTransaction>>,
        keypair: &Keypair,
    ) -> Result<Self, BlockError> {
        let block = Block {
            certificate: Certificate::solo(genesis, &header, keypair),
            header: header.clone(),
            transactions: transactions.iter().map(|tx| tx.tx.clone()).collect(),
        };
        let max = usize::try_from(genesis.limits().max_block_bytes).unwrap_or(MAX_BLOCK_BYTES);
        let bytes = payload::to_bytes(&block);
        if bytes.len() > max {
            return Err(BlockError::TooLarge(bytes.len()));
        }
        Ok(Self { id: header.id(), header, transactions, bytes: bytes.into() })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The block's id.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// The transactions, in order.
    pub fn transactions(&self) -> &[Arc<EncodedTransaction>] {
        &self.transactions
    }

    /// The canonical encoding, certificate included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes that holding it costs.
    pub fn held_bytes(&self) -> usize {
        self.bytes.len() + self.transactions.iter().map(|tx| tx.held_bytes()).sum::<usize>()
    }
}

fn decode(genesis: &Genesis, bytes: &[u8]) -> Result<Block, BlockError> {
    if bytes.len() as u64 > genesis.limits().max_block_bytes {
        return Err(BlockError::TooLarge(bytes.len()));
    }
    payload::from_exact_bytes(bytes, MAX_BLOCK_BYTES).map_err(|_| BlockError::Malformed)
}

/// The root over transactions.
pub fn tx_root(transactions: &[Arc<EncodedTransaction>]) -> Root {
    list_root(transactions.iter().map(|tx| &tx.bytes))
}

/// The root over receipts.
pub fn receipts_root(receipts: &[Receipt]) -> Root {
    list_root(receipts.iter().map(payload::to_bytes))
}

const _: () = assert!(MAX_TX_BYTES < MAX_BLOCK_BYTES, "a block holds a transaction of any permitted size");
