//! The authenticated tree: a binary Merkle tree over 256-bit key hashes in which a subtree with one leaf *is* that leaf
//! (the compact sparse Merkle tree; Dahlberg, Pulls, Peeters, "Efficient Sparse Merkle Trees", 2016, with the collapse
//! of single-leaf subtrees as in the Jellyfish Merkle tree).
//!
//! A node is stored under its path, not its hash: an update rewrites the nodes of one path in place, about log2(n) of
//! them, and leaves nothing to collect. The root depends on the set of leaves alone, not on the order of writes.

use std::{collections::BTreeMap, convert::Infallible};

use crate::proto::id::{Root, hash};

/// SHA-256 of a node.
pub type NodeHash = [u8; 32];

/// The hash that stands for an empty subtree. No SHA-256 output is expected to be all zeros.
const EMPTY: NodeHash = [0; 32];

/// The root of a state without keys.
pub const EMPTY_ROOT: Root = Root(EMPTY);

const LEAF: &str = "peerage-chain-state-leaf-v1";
const BRANCH: &str = "peerage-chain-state-branch-v1";

/// What a leaf commits to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Hash of the key: where the leaf stands.
    pub key_hash: [u8; 32],
    /// Version of the key, or next nonce of the account.
    pub version: u64,
    /// Hash of the value; zeros for a nonce.
    pub value_hash: [u8; 32],
}

impl Leaf {
    /// The leaf's hash.
    pub fn hash(&self) -> NodeHash {
        hash(LEAF, &[&self.key_hash, &self.version.to_be_bytes(), &self.value_hash])
    }
}

/// A stored node. Each branch has at least two leaves below it; a child may still be empty, where both go one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// The only leaf of its subtree.
    Leaf(Leaf),
    /// Hashes of the two subtrees; zeros where one is empty.
    Branch {
        /// Subtree of the keys whose next bit is 0.
        left: NodeHash,
        /// Subtree of the keys whose next bit is 1.
        right: NodeHash,
    },
}

impl Node {
    /// The node's hash.
    pub fn hash(&self) -> NodeHash {
        match self {
            Self::Leaf(leaf) => leaf.hash(),
            Self::Branch { left, right } => branch_hash(left, right),
        }
    }
}

pub(super) fn branch_hash(left: &NodeHash, right: &NodeHash) -> NodeHash {
    hash(BRANCH, &[left, right])
}

/// Where a node stands: the first `depth` bits of the key hashes below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodePath {
    prefix: [u8; 32],
    depth: u16,
}

impl NodePath {
    /// The root's.
    pub const ROOT: Self = Self { prefix: [0; 32], depth: 0 };

    /// The node at `depth` on the way to `key_hash`.
    pub fn towards(key_hash: &[u8; 32], depth: u16) -> Self {
        let mut prefix = *key_hash;
        for bit in depth..256 {
            prefix[usize::from(bit / 8)] &= !(0x80 >> (bit % 8));
        }
        Self { prefix, depth }
    }

    /// The stored form: the prefix padded with zero bits, then the depth, big-endian. In this order the last levels of
    /// a path are neighbours on disk.
    pub fn to_bytes(self) -> [u8; 34] {
        let mut bytes = [0; 34];
        bytes[..32].copy_from_slice(&self.prefix);
        bytes[32..].copy_from_slice(&self.depth.to_be_bytes());
        bytes
    }

    fn child(self, right: bool) -> Self {
        let mut child = Self { prefix: self.prefix, depth: self.depth + 1 };
        if right {
            child.prefix[usize::from(self.depth / 8)] |= 0x80 >> (self.depth % 8);
        }
        child
    }
}

/// Bit `depth` of a key hash, the most significant of byte 0 first.
pub(super) fn bit(key_hash: &[u8; 32], depth: u16) -> bool {
    key_hash[usize::from(depth / 8)] & (0x80 >> (depth % 8)) != 0
}

/// Where nodes are read. In memory, or in the durable store.
pub trait NodeRead {
    /// Why reading or writing may fail.
    type Error;
    /// The node at `path`, if there is one.
    fn get(&self, path: NodePath) -> Result<Option<Node>, Self::Error>;
}

/// Where nodes are kept.
pub trait NodeStore: NodeRead {
    /// Stores a node over whatever stood at `path`.
    fn put(&mut self, path: NodePath, node: Node) -> Result<(), Self::Error>;
    /// Removes the node at `path`.
    fn delete(&mut self, path: NodePath) -> Result<(), Self::Error>;
}

/// Nodes in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryNodes(pub BTreeMap<NodePath, Node>);

impl NodeRead for MemoryNodes {
    type Error = Infallible;

    fn get(&self, path: NodePath) -> Result<Option<Node>, Infallible> {
        Ok(self.0.get(&path).copied())
    }
}

impl NodeStore for MemoryNodes {
    fn put(&mut self, path: NodePath, node: Node) -> Result<(), Infallible> {
        self.0.insert(path, node);
        Ok(())
    }

    fn delete(&mut self, path: NodePath) -> Result<(), Infallible> {
        self.0.remove(&path);
        Ok(())
    }
}

/// The new word on one key hash: version and value hash, or `None` to remove its leaf.
pub type Change = Option<(u64, [u8; 32])>;

/// Applies a batch of changes and returns the new root. Nodes shared by several changes are touched once.
///
/// # Errors
/// Those of the store; the tree is then half written and the caller drops the transaction around it.
pub fn update<S: NodeStore>(store: &mut S, changes: &BTreeMap<[u8; 32], Change>) -> Result<Root, S::Error> {
    let changes: Vec<_> = changes.iter().map(|(key, change)| (*key, *change)).collect();
    let before = store.get(NodePath::ROOT)?;
    let after = subtree(store, NodePath::ROOT, before, &changes)?;
    settle(store, NodePath::ROOT, before, after)?;
    Ok(after.map_or(EMPTY_ROOT, |node| Root(node.hash())))
}

/// Writes what has become of the node at `path`, if anything has.
fn settle<S: NodeStore>(store: &mut S, path: NodePath, old: Option<Node>, new: Option<Node>) -> Result<(), S::Error> {
    match new {
        _ if old == new => Ok(()),
        Some(node) => store.put(path, node),
        None => store.delete(path),
    }
}

/// What the subtree at `path`, now `old`, becomes under `changes` (sorted, all below `path`). Writes everything strictly
/// below `path`; the node at `path` itself is the caller's to write, who knows whether it stays there or moves up.
fn subtree<S: NodeStore>(
    store: &mut S,
    path: NodePath,
    old: Option<Node>,
    changes: &[([u8; 32], Change)],
) -> Result<Option<Node>, S::Error> {
    if changes.is_empty() {
        return Ok(old);
    }
    match old {
        // Below depth 256 there is no bit to branch on: such a node can only be damage on disk, and counts as nothing.
        Some(Node::Branch { left, right }) if path.depth < 256 => {
            let (mut hashes, mut singles) = ([left, right], [None, None]);
            let split = changes.partition_point(|(key, _)| !bit(key, path.depth));
            let halves = [&changes[..split], &changes[split..]];
            let mut known = [false; 2];
            let mut olds = [None; 2];
            for side in 0..2 {
                if halves[side].is_empty() {
                    continue;
                }
                let child = path.child(side == 1);
                olds[side] = if hashes[side] == EMPTY { None } else { store.get(child)? };
                let new = subtree(store, child, olds[side], halves[side])?;
                hashes[side] = new.map_or(EMPTY, |node| node.hash());
                singles[side] = new;
                known[side] = true;
            }
            if hashes == [EMPTY; 2] {
                for side in 0..2 {
                    if known[side] {
                        settle(store, path.child(side == 1), olds[side], None)?;
                    }
                }
                return Ok(None);
            }
            // One side empty: the other moves up if it is a single leaf.
            for side in 0..2 {
                if hashes[1 - side] == EMPTY {
                    if !known[side] {
                        olds[side] = store.get(path.child(side == 1))?;
                        singles[side] = olds[side];
                        known[side] = true;
                    }
                    if let Some(leaf @ Node::Leaf(_)) = singles[side] {
                        for half in 0..2 {
                            if known[half] {
                                settle(store, path.child(half == 1), olds[half], None)?;
                            }
                        }
                        return Ok(Some(leaf));
                    }
                }
            }
            for side in 0..2 {
                if known[side] {
                    settle(store, path.child(side == 1), olds[side], singles[side])?;
                }
            }
            Ok(Some(Node::Branch { left: hashes[0], right: hashes[1] }))
        }
        single => {
            let mut leaves: BTreeMap<[u8; 32], Leaf> = BTreeMap::new();
            if let Some(Node::Leaf(leaf)) = single {
                leaves.insert(leaf.key_hash, leaf);
            }
            for (key, change) in changes {
                match change {
                    Some((version, value_hash)) => {
                        leaves.insert(*key, Leaf { key_hash: *key, version: *version, value_hash: *value_hash });
                    }
                    None => {
                        leaves.remove(key);
                    }
                }
            }
            let leaves: Vec<Leaf> = leaves.into_values().collect();
            grow(store, path, &leaves)
        }
    }
}

/// Builds a subtree from sorted leaves where nothing is stored below `path` yet.
fn grow<S: NodeStore>(store: &mut S, path: NodePath, leaves: &[Leaf]) -> Result<Option<Node>, S::Error> {
    match leaves {
        [] => Ok(None),
        [leaf] => Ok(Some(Node::Leaf(*leaf))),
        _ => {
            let split = leaves.partition_point(|leaf| !bit(&leaf.key_hash, path.depth));
            let mut hashes = [EMPTY; 2];
            for (side, half) in [&leaves[..split], &leaves[split..]].into_iter().enumerate() {
                let child = path.child(side == 1);
                if let Some(node) = grow(store, child, half)? {
                    hashes[side] = node.hash();
                    store.put(child, node)?;
                }
            }
            Ok(Some(Node::Branch { left: hashes[0], right: hashes[1] }))
        }
    }
}
