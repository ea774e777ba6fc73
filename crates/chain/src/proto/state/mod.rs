//! The versioned key/value state: what transactions read and write, and the tree that commits to it.

mod proof;
mod tree;

use std::collections::BTreeMap;

use super::id::{Account, hash};

pub use proof::{Proof, ProofError, Terminal, prove};
pub use tree::{Change, EMPTY_ROOT, Leaf, MemoryNodes, Node, NodeHash, NodePath, NodeRead, NodeStore, update};

/// What stands under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 1 after the first put, one more after each; an absent key has version 0.
    pub version: u64,
    /// The raw value.
    pub value: Vec<u8>,
}

/// What execution reads. Two implementations: a `BTreeMap` for tests and offline checks, and the durable store.
pub trait StateRead {
    /// Why reading may fail.
    type Error;
    /// The version of `key`, 0 if it is absent.
    fn version(&self, key: &[u8]) -> Result<u64, Self::Error>;
    /// The next nonce of `account`: the number of its transactions in the chain.
    fn nonce(&self, account: &Account) -> Result<u64, Self::Error>;
}

/// The writes of a block, kept apart from the state until they are committed: of each key its last word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// By key: the new entry, or `None` where the key was deleted.
    pub entries: BTreeMap<Vec<u8>, Option<Entry>>,
    /// By account: its next nonce.
    pub nonces: BTreeMap<Account, u64>,
}

impl Overlay {
    /// The changes that these writes make to the tree, by key hash.
    pub fn changes(&self) -> BTreeMap<[u8; 32], Change> {
        let entries = self.entries.iter().map(|(key, entry)| {
            let change = entry.as_ref().map(|entry| (entry.version, value_hash(&entry.value)));
            (key_hash(key), change)
        });
        let nonces = self.nonces.iter().map(|(account, next)| (nonce_hash(account), Some((*next, [0; 32]))));
        entries.chain(nonces).collect()
    }
}

/// Where `key` stands in the tree.
pub fn key_hash(key: &[u8]) -> [u8; 32] {
    hash("peerage-chain-state-key-v1", &[key])
}

/// Where the nonce of `account` stands in the tree: under a domain of its own, so no key can shadow it. Its leaf has
/// the next nonce as version and 32 zero bytes as value hash.
pub fn nonce_hash(account: &Account) -> [u8; 32] {
    hash("peerage-chain-state-nonce-v1", &[account.as_bytes()])
}

/// What a leaf says about a value.
pub fn value_hash(value: &[u8]) -> [u8; 32] {
    hash("peerage-chain-state-value-v1", &[value])
}

/// The whole state in memory: the model of tests, and what an offline check re-executes over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    /// Present keys.
    pub entries: BTreeMap<Vec<u8>, Entry>,
    /// Next nonces of the accounts that have written.
    pub nonces: BTreeMap<Account, u64>,
}

impl MemoryState {
    /// Takes over the writes of a block.
    pub fn commit(&mut self, overlay: Overlay) {
        for (key, entry) in overlay.entries {
            match entry {
                Some(entry) => self.entries.insert(key, entry),
                None => self.entries.remove(&key),
            };
        }
        self.nonces.extend(overlay.nonces);
    }
}

impl StateRead for MemoryState {
    type Error = core::convert::Infallible;

    fn version(&self, key: &[u8]) -> Result<u64, Self::Error> {
        Ok(self.entries.get(key).map_or(0, |entry| entry.version))
    }

    fn nonce(&self, account: &Account) -> Result<u64, Self::Error> {
        Ok(self.nonces.get(account).copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;
