//! What stands on disk: the tables, and the bytes in them. Public so that a check can damage a copy on purpose.

use peerage_core::UnixMillis;
use peerage_wire::payload;
use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::StoreError;
use crate::proto::{
    block::Receipt,
    id::{Account, BlockId, Root},
    state::{Entry, Leaf, Node, NodePath, NodeRead, NodeStore, StateRead},
};

/// Version of everything in this file. A store with a higher one is refused, never guessed at.
pub const SCHEMA: u32 = 1;

/// Schema version (u32, big-endian), network id (32 bytes) and head ([`Head`], postcard), by name.
pub const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Key of the schema version in [`META`].
pub const META_SCHEMA: &str = "schema";
/// Key of the network id in [`META`].
pub const META_NETWORK: &str = "network";
/// Key of the head in [`META`].
pub const META_HEAD: &str = "head";
/// By raw key: version (u64, big-endian), then the raw value.
pub const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
/// By account: its next nonce.
pub const NONCES: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("nonces");
/// By path ([`NodePath::to_bytes`]): a node of the tree.
pub const NODES: TableDefinition<'_, &[u8; 34], &[u8]> = TableDefinition::new("nodes");
/// By height: the encoded block with its certificate.
pub const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
/// By transaction id: [`TxLocation`], postcard.
pub const TX_INDEX: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("tx_index");
/// By transaction id: an acknowledged transaction that is not in a block yet.
pub const OUTBOX: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("outbox");

/// The last block of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Its height; 0 before the first block.
    pub height: u64,
    /// Its id.
    pub id: BlockId,
    /// The state after it.
    pub state_root: Root,
    /// Its time.
    pub time: UnixMillis,
}

/// Where a transaction stands in the chain, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxLocation {
    /// Height of its block.
    pub height: u64,
    /// Its place in the block, from 0.
    pub index: u32,
    /// Whether it took effect.
    pub receipt: Receipt,
}

/// Bytes of a head or a location at most: three varints and two hashes.
const MAX_ROW_BYTES: usize = 128;

pub(crate) fn encode_row<T: Serialize>(row: &T) -> Vec<u8> {
    payload::to_bytes(row)
}

pub(crate) fn decode_row<T: Serialize + DeserializeOwned>(bytes: &[u8], what: &'static str) -> Result<T, StoreError> {
    payload::from_bytes(bytes, MAX_ROW_BYTES).map_err(|_| StoreError::Corrupt(what))
}

pub(crate) fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut row = Vec::with_capacity(8 + entry.value.len());
    row.extend_from_slice(&entry.version.to_be_bytes());
    row.extend_from_slice(&entry.value);
    row
}

pub(crate) fn decode_entry(row: &[u8]) -> Result<Entry, StoreError> {
    let (version, value) = row.split_first_chunk().ok_or(StoreError::Corrupt("a state row"))?;
    Ok(Entry { version: u64::from_be_bytes(*version), value: value.to_vec() })
}

pub(crate) fn encode_node(node: &Node) -> Vec<u8> {
    match node {
        Node::Leaf(leaf) => [&[0], &leaf.key_hash[..], &leaf.version.to_be_bytes()[..], &leaf.value_hash[..]].concat(),
        Node::Branch { left, right } => [&[1], &left[..], &right[..]].concat(),
    }
}

pub(crate) fn decode_node(row: &[u8]) -> Result<Node, StoreError> {
    let corrupt = StoreError::Corrupt("a tree node");
    let hash = |at: usize| row.get(at..).and_then(|rest| rest.first_chunk::<32>()).copied();
    match (row.first(), row.len()) {
        (Some(0), 73) => match (hash(1), row[33..].first_chunk(), hash(41)) {
            (Some(key_hash), Some(version), Some(value_hash)) => {
                Ok(Node::Leaf(Leaf { key_hash, version: u64::from_be_bytes(*version), value_hash }))
            }
            _ => Err(corrupt),
        },
        (Some(1), 65) => match (hash(1), hash(33)) {
            (Some(left), Some(right)) => Ok(Node::Branch { left, right }),
            _ => Err(corrupt),
        },
        _ => Err(corrupt),
    }
}

/// The state as the store's tables hold it, within a read or a write transaction.
pub(super) struct StateTables<E, N> {
    pub(super) entries: E,
    pub(super) nonces: N,
}

impl<E, N> StateTables<E, N>
where
    E: ReadableTable<&'static [u8], &'static [u8]>,
{
    pub(super) fn entry(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.entries.get(key)?.map(|row| decode_entry(row.value())).transpose()
    }
}

impl<E, N> StateRead for StateTables<E, N>
where
    E: ReadableTable<&'static [u8], &'static [u8]>,
    N: ReadableTable<&'static [u8; 32], u64>,
{
    type Error = StoreError;

    fn version(&self, key: &[u8]) -> Result<u64, StoreError> {
        let Some(row) = self.entries.get(key)? else { return Ok(0) };
        let version = row.value().first_chunk().ok_or(StoreError::Corrupt("a state row"))?;
        Ok(u64::from_be_bytes(*version))
    }

    fn nonce(&self, account: &Account) -> Result<u64, StoreError> {
        Ok(self.nonces.get(account.as_bytes())?.map_or(0, |row| row.value()))
    }
}

/// The tree as the store's table holds it.
pub(super) struct NodeTable<T>(pub(super) T);

impl<T: ReadableTable<&'static [u8; 34], &'static [u8]>> NodeRead for NodeTable<T> {
    type Error = StoreError;

    fn get(&self, path: NodePath) -> Result<Option<Node>, StoreError> {
        self.0.get(&path.to_bytes())?.map(|row| decode_node(row.value())).transpose()
    }
}

impl NodeStore for NodeTable<redb::Table<'_, &'static [u8; 34], &'static [u8]>> {
    fn put(&mut self, path: NodePath, node: Node) -> Result<(), StoreError> {
        self.0.insert(&path.to_bytes(), encode_node(&node).as_slice())?;
        Ok(())
    }

    fn delete(&mut self, path: NodePath) -> Result<(), StoreError> {
        self.0.remove(&path.to_bytes())?;
        Ok(())
    }
}
