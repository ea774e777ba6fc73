//! Work that needs no store: signatures and hashes, on the compute lane.

use core::{fmt, time::Duration};
use std::sync::Arc;

use bytes::Bytes;
use peerage_core::{Cost, Job};

use super::{
    block::{BlockError, CertifiedBlock, CheckedBlock},
    genesis::Genesis,
    id::TxId,
    transaction::{EncodedTransaction, TransactionError},
};

/// One piece of checking.
pub enum ComputeJob {
    /// Signatures of transactions.
    Transactions(Vec<Arc<EncodedTransaction>>),
    /// A block from gossip: its certificate and form ([`CertifiedBlock::check_above`]), unless it is old.
    Block {
        /// Its network.
        genesis: Arc<Genesis>,
        /// The block as it arrived.
        bytes: Bytes,
        /// The height of our head: a block that is not above it is not worth the signatures.
        above: u64,
    },
    /// The signatures in such a block ([`CertifiedBlock::verify`]).
    Signatures {
        /// The block.
        block: Box<CertifiedBlock>,
        /// Those of its transactions whose signatures were checked before, sorted.
        known: Vec<TxId>,
    },
    /// Blocks that were asked for, which must stand at consecutive heights; the check ends with the first that is wrong.
    Blocks {
        /// Their network.
        genesis: Arc<Genesis>,
        /// The blocks as they arrived.
        blocks: Vec<Bytes>,
        /// Height of the first.
        from: u64,
    },
}

/// What came of a [`ComputeJob`].
#[derive(Debug)]
pub enum ComputeDone {
    /// One result for each transaction, in order.
    Transactions(Vec<Result<(), TransactionError>>),
    /// The block, if it is certified and whole; `None` if it is old.
    Block(Result<Option<Box<CertifiedBlock>>, BlockError>),
    /// The block, if it counts as far as can be told without the state.
    Signatures(Result<Box<CheckedBlock>, BlockError>),
    /// The blocks before the first wrong one, and what is wrong with that.
    Blocks(Vec<CheckedBlock>, Option<WrongBlock>),
}

/// What is wrong with a block that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongBlock {
    /// It is not the one that was asked for.
    Height,
    /// It does not count.
    Invalid(BlockError),
}

/// Costs for the simulator: a strict verification of an Ed25519 signature (our measurement: 40 to 60 us on a server core),
/// and hashing and decoding a byte (our guess: 200 MB/s).
const PER_SIGNATURE: Duration = Duration::from_micros(50);
const PER_BYTE: Duration = Duration::from_nanos(5);
/// How many transactions a block holds is not known before it is read; 250 bytes each is the size of the targets' load.
const USUAL_BYTES: usize = 250;

impl Job for ComputeJob {
    type Output = ComputeDone;
    type Resource = ();

    fn cost(&self) -> Cost {
        let times = |each: Duration, n: usize| each * u32::try_from(n).unwrap_or(u32::MAX);
        match self {
            // The candidates that wait for the result pay for the bytes.
            Self::Transactions(txs) => Cost { time: times(PER_SIGNATURE, txs.len()), bytes: 0 },
            Self::Block { bytes, .. } => {
                Cost { time: PER_SIGNATURE + times(PER_BYTE, bytes.len()), bytes: 2 * bytes.len() }
            }
            Self::Signatures { block, known } => {
                let unknown = block.transactions().len().saturating_sub(known.len());
                let held: usize = block.transactions().iter().map(|tx| tx.held_bytes()).sum();
                Cost { time: times(PER_SIGNATURE, unknown), bytes: held + 32 * known.len() }
            }
            Self::Blocks { blocks, .. } => {
                let bytes: usize = blocks.iter().map(Bytes::len).sum();
                let signatures = bytes / USUAL_BYTES + blocks.len();
                Cost { time: times(PER_SIGNATURE, signatures) + times(PER_BYTE, bytes), bytes: 3 * bytes }
            }
        }
    }

    fn run(self, (): &mut ()) -> ComputeDone {
        match self {
            Self::Transactions(txs) => {
                ComputeDone::Transactions(txs.iter().map(|tx| tx.tx.verify_signature()).collect())
            }
            Self::Block { genesis, bytes, above } => {
                ComputeDone::Block(CertifiedBlock::check_above(&genesis, bytes, above).map(|block| block.map(Box::new)))
            }
            Self::Signatures { block, known } => ComputeDone::Signatures(block.verify(&known).map(Box::new)),
            Self::Blocks { genesis, blocks, from } => {
                let mut checked = Vec::with_capacity(blocks.len());
                for (bytes, height) in blocks.into_iter().zip(from..) {
                    match CheckedBlock::check(&genesis, bytes, &[]) {
                        Ok(block) if block.header().height == height => checked.push(block),
                        Ok(_) => return ComputeDone::Blocks(checked, Some(WrongBlock::Height)),
                        Err(error) => return ComputeDone::Blocks(checked, Some(WrongBlock::Invalid(error))),
                    }
                }
                ComputeDone::Blocks(checked, None)
            }
        }
    }
}

impl fmt::Debug for ComputeJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transactions(txs) => write!(f, "Transactions({})", txs.len()),
            Self::Block { bytes, .. } => write!(f, "Block({} B)", bytes.len()),
            Self::Signatures { block, .. } => write!(f, "Signatures({})", block.transactions().len()),
            Self::Blocks { blocks, from, .. } => write!(f, "Blocks({} from {from})", blocks.len()),
        }
    }
}
