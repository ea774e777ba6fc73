//! The genesis: what every node of a network must agree on before the first block.

use core::time::Duration;

use peerage_core::{NetworkId, UnixMillis};
use peerage_wire::payload;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    id::{BlockId, Producer, hash},
    transaction::MAX_TX_BYTES,
};

/// Largest encoded block with its certificate, in bytes (parameters, 6.1): a message is 2 MiB with framing.
pub const MAX_BLOCK_BYTES: usize = 2 * 1024 * 1024 - 64 * 1024;
/// Most producers a genesis may name. Our guess: ordering engines with majority certificates run with tens.
pub const MAX_PRODUCERS: usize = 256;
/// Longest network name, in bytes. Our guess.
pub const MAX_NAME_BYTES: usize = 64;
/// Least time between two blocks where the file says nothing, milliseconds. Our guess at what a person waits gladly.
pub const DEFAULT_BLOCK_INTERVAL_MS: u64 = 500;

/// Who decides which block comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    /// The one producer, by its signature alone. If it is away there are no blocks, and nobody can stand in for it.
    #[default]
    Solo,
}

/// The genesis as written in a file (TOML in the node); nothing is checked yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisFile {
    /// Number of the chain; transactions name it.
    pub chain_id: u64,
    /// Name of the network, for people.
    pub network: String,
    /// Public keys of the producers, 64 hexadecimal digits each.
    pub producers: Vec<String>,
    /// How blocks are ordered.
    #[serde(default)]
    pub ordering: Ordering,
    /// Time of height 0, milliseconds since 1970.
    pub time: u64,
    /// Least time between two blocks, milliseconds.
    #[serde(default = "default_interval")]
    pub block_interval_ms: u64,
    /// Limits that all nodes must share.
    #[serde(default)]
    pub limits: Limits,
}

fn default_interval() -> u64 {
    DEFAULT_BLOCK_INTERVAL_MS
}

impl GenesisFile {
    /// The genesis of a network with one producer and the defaults for everything else.
    pub fn solo(chain_id: u64, network: impl Into<String>, producer: Producer, time: UnixMillis) -> Self {
        Self {
            chain_id,
            network: network.into(),
            producers: vec![producer.to_string()],
            ordering: Ordering::Solo,
            time: time.0,
            block_interval_ms: DEFAULT_BLOCK_INTERVAL_MS,
            limits: Limits::default(),
        }
    }
}

/// Limits of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest encoded block with certificate, bytes; at most [`MAX_BLOCK_BYTES`].
    pub max_block_bytes: u64,
    /// Largest encoded transaction, bytes; at most [`MAX_TX_BYTES`] and what fits into a block.
    pub max_tx_bytes: u64,
    /// Bytes that holding a pool's transactions may cost, encoded and decoded; a node takes less if that would be more than a
    /// quarter of its memory budget.
    pub mempool_bytes: u64,
    /// How far beyond an account's next nonce a transaction may wait.
    pub nonce_gap: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_block_bytes: MAX_BLOCK_BYTES as u64,
            max_tx_bytes: MAX_TX_BYTES as u64,
            mempool_bytes: 64 * 1024 * 1024, // our guess (parameters, 6.2)
            nonce_gap: 64,                   // as geth's AccountQueue (parameters, 6.2)
        }
    }
}

/// Why a genesis is refused. The operator's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GenesisError {
    /// The name is empty or too long.
    #[error("the network name has {0} bytes, 1 to {MAX_NAME_BYTES} are permitted")]
    Name(usize),
    /// No producer, or too many.
    #[error("{0} producers, 1 to {MAX_PRODUCERS} are permitted")]
    ProducerCount(usize),
    /// A producer's key is not 64 hexadecimal digits.
    #[error("the key of producer {0} is not 64 hexadecimal digits")]
    ProducerKey(usize),
    /// A producer is named twice.
    #[error("producer {0} is named twice")]
    DuplicateProducer(usize),
    /// More than one producer where one alone orders: without an agreement they would make a chain each.
    #[error("{0} producers, and the ordering \"solo\" is for one: name only the one that shall make the blocks")]
    SoloProducers(usize),
    /// The interval is zero or above an hour.
    #[error("a block interval of {0} ms; 1 ms to one hour are permitted")]
    Interval(u64),
    /// A limit is zero, beyond what the protocol permits, or contradicts another.
    #[error("limit {0} is out of range")]
    Limit(&'static str),
}

/// Bytes of an encoded block besides its transactions, at most: header, certificate, counts. Measured by a test.
pub(crate) const BLOCK_OVERHEAD_BYTES: u64 = 512;

/// A checked genesis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    chain_id: u64,
    network: String,
    producers: Vec<Producer>,
    ordering: Ordering,
    time: UnixMillis,
    block_interval: Duration,
    limits: Limits,
    network_id: NetworkId,
}

impl Genesis {
    /// Checks a genesis and computes the network's id.
    ///
    /// # Errors
    /// [`GenesisError`], the operator's fault.
    pub fn new(file: &GenesisFile) -> Result<Self, GenesisError> {
        if file.network.is_empty() || file.network.len() > MAX_NAME_BYTES {
            return Err(GenesisError::Name(file.network.len()));
        }
        if file.producers.is_empty() || file.producers.len() > MAX_PRODUCERS {
            return Err(GenesisError::ProducerCount(file.producers.len()));
        }
        let mut producers = Vec::with_capacity(file.producers.len());
        for (index, text) in file.producers.iter().enumerate() {
            let producer: Producer = text.parse().map_err(|_| GenesisError::ProducerKey(index))?;
            if producers.contains(&producer) {
                return Err(GenesisError::DuplicateProducer(index));
            }
            producers.push(producer);
        }
        match file.ordering {
            Ordering::Solo if producers.len() > 1 => return Err(GenesisError::SoloProducers(producers.len())),
            Ordering::Solo => {}
        }
        if !(1..=3_600_000).contains(&file.block_interval_ms) {
            return Err(GenesisError::Interval(file.block_interval_ms));
        }
        let Limits { max_block_bytes, max_tx_bytes, mempool_bytes, nonce_gap } = file.limits;
        if !(2 * BLOCK_OVERHEAD_BYTES..=MAX_BLOCK_BYTES as u64).contains(&max_block_bytes) {
            return Err(GenesisError::Limit("max_block_bytes"));
        }
        if max_tx_bytes == 0
            || max_tx_bytes > MAX_TX_BYTES as u64
            || max_tx_bytes > max_block_bytes - BLOCK_OVERHEAD_BYTES
        {
            return Err(GenesisError::Limit("max_tx_bytes"));
        }
        if mempool_bytes < max_tx_bytes {
            return Err(GenesisError::Limit("mempool_bytes"));
        }
        if nonce_gap == 0 || nonce_gap > 65_536 {
            return Err(GenesisError::Limit("nonce_gap"));
        }
        // The canonical form holds the checked values, so that two spellings of a key are one network.
        let GenesisFile { chain_id, network, ordering, time, block_interval_ms, limits, .. } = file;
        let canonical = (chain_id, network, &producers, ordering, time, block_interval_ms, limits);
        let bytes = payload::to_bytes(&canonical);
        Ok(Self {
            chain_id: file.chain_id,
            network: file.network.clone(),
            producers,
            ordering: file.ordering,
            time: UnixMillis(file.time),
            block_interval: Duration::from_millis(file.block_interval_ms),
            limits: file.limits,
            network_id: NetworkId::from_bytes(hash("peerage-chain-genesis-v1", &[&bytes])),
        })
    }

    /// SHA-256 of the canonical form: two nodes with the same id share every rule.
    pub fn network_id(&self) -> NetworkId {
        self.network_id
    }

    /// The id that stands as parent of block 1.
    pub fn block_id(&self) -> BlockId {
        BlockId(hash("peerage-chain-block-zero-v1", &[self.network_id.as_bytes()]))
    }

    /// Number of the chain.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// Name of the network.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Who may make blocks, in the order of the file.
    pub fn producers(&self) -> &[Producer] {
        &self.producers
    }

    /// How blocks are ordered.
    pub fn ordering(&self) -> Ordering {
        self.ordering
    }

    /// Who makes the blocks under [`Ordering::Solo`].
    pub fn solo_producer(&self) -> Producer {
        self.producers[0] // `new` refuses an empty list, and a second producer under this ordering
    }

    /// Time of height 0; block times never run backwards from here.
    pub fn time(&self) -> UnixMillis {
        self.time
    }

    /// Least time between two blocks.
    pub fn block_interval(&self) -> Duration {
        self.block_interval
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{genesis_file, keypair};

    #[test]
    fn every_rule_is_part_of_the_networks_name() {
        let id = |change: fn(&mut GenesisFile)| {
            let mut file = genesis_file();
            change(&mut file);
            Genesis::new(&file).expect("valid").network_id()
        };
        let changes: [fn(&mut GenesisFile); 10] = [
            |_| {},
            |file| file.chain_id += 1,
            |file| file.network.push('x'),
            |file| file.producers = vec!["11".repeat(32)],
            |file| file.time += 1,
            |file| file.block_interval_ms += 1,
            |file| file.limits.max_block_bytes -= 1,
            |file| file.limits.max_tx_bytes -= 1,
            |file| file.limits.mempool_bytes -= 1,
            |file| file.limits.nonce_gap -= 1,
        ];
        let ids: std::collections::BTreeSet<NetworkId> = changes.into_iter().map(id).collect();
        assert_eq!(ids.len(), 10);
        assert_eq!(
            id(|file| file.producers[0] = file.producers[0].to_uppercase()),
            id(|_| {}),
            "spelling is not a rule"
        );
    }

    #[test]
    fn a_genesis_that_cannot_work_is_refused() {
        let error = |change: fn(&mut GenesisFile)| {
            let mut file = genesis_file();
            change(&mut file);
            Genesis::new(&file).expect_err("invalid")
        };
        assert_eq!(error(|file| file.network.clear()), GenesisError::Name(0));
        assert_eq!(error(|file| file.producers.clear()), GenesisError::ProducerCount(0));
        assert_eq!(error(|file| file.producers[0].truncate(63)), GenesisError::ProducerKey(0));
        assert_eq!(error(|file| file.producers.push(file.producers[0].clone())), GenesisError::DuplicateProducer(1));
        assert_eq!(error(|file| file.producers.push("11".repeat(32))), GenesisError::SoloProducers(2));
        assert_eq!(error(|file| file.block_interval_ms = 0), GenesisError::Interval(0));
        assert_eq!(error(|file| file.limits.max_block_bytes += 1), GenesisError::Limit("max_block_bytes"));
        assert_eq!(error(|file| file.limits.max_tx_bytes += 1), GenesisError::Limit("max_tx_bytes"));
        assert_eq!(error(|file| file.limits.max_block_bytes = 10_000), GenesisError::Limit("max_tx_bytes"));
        assert_eq!(error(|file| file.limits.mempool_bytes = 10), GenesisError::Limit("mempool_bytes"));
        assert_eq!(error(|file| file.limits.nonce_gap = 0), GenesisError::Limit("nonce_gap"));
    }

    #[test]
    fn a_block_around_one_transaction_costs_less_than_is_set_aside() {
        use crate::proto::{block::*, id::*};
        let header = Header {
            height: u64::MAX,
            parent: BlockId::default(),
            time: UnixMillis(u64::MAX),
            tx_root: Root::default(),
            receipts_root: Root::default(),
            state_root: Root::default(),
            producer: Producer::default(),
        };
        let genesis = Genesis::new(&genesis_file()).expect("valid");
        let tx = crate::fixtures::tx(1, 0, vec![crate::fixtures::put("k", "", 0)]);
        let block = CheckedBlock::make(&genesis, header, vec![tx.clone()], &keypair(1)).expect("small");
        // The count of transactions takes one byte here and never more than five.
        assert!((block.bytes().len() - tx.bytes.len() + 4) as u64 <= BLOCK_OVERHEAD_BYTES);
    }
}
