//! Proofs that a key has a version and a value under a state root, or that it is absent.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::tree::{EMPTY_ROOT, Leaf, Node, NodeHash, NodePath, NodeRead, bit, branch_hash};
use crate::proto::id::Root;

/// The siblings on the way from the root to where the key stands or would stand, and what is there.
///
/// About log2(n) siblings of 32 bytes: 20 of them, 640 bytes, at a million keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// From the root downward; zeros where the sibling is empty.
    pub siblings: Vec<NodeHash>,
    /// What stands at the end of the path.
    pub terminal: Terminal,
}

/// The end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Terminal {
    /// Nothing: the key is absent.
    Empty,
    /// The key's own leaf. Its version and value hash are the claim that is verified.
    Own,
    /// The single leaf of another key, which fills this subtree: the key is absent.
    Other {
        /// Hash of that other key.
        #[serde(with = "peerage_core::array")]
        key_hash: [u8; 32],
        /// Its version.
        version: u64,
        /// Its value hash.
        #[serde(with = "peerage_core::array")]
        value_hash: [u8; 32],
    },
}

/// Why a proof does not hold. The fault of whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// More siblings than a key has bits.
    #[error("a path of {0} siblings in a tree of 256 levels")]
    TooLong(usize),
    /// It claims presence and shows absence, or the reverse.
    #[error("the proof shows absence where presence is claimed, or the reverse")]
    WrongKind,
    /// The other leaf does not share the path up to the depth at which it is shown, or is the key itself.
    #[error("the leaf shown in place of the key does not stand on its path")]
    OffPath,
    /// The hashes do not lead to the root.
    #[error("the hashes lead to another root")]
    WrongRoot,
}

impl Proof {
    /// Whether, under `root`, the key with `key_hash` has this version and value hash (`Some`) or is absent (`None`).
    ///
    /// # Errors
    /// [`ProofError`], whichever check fails first.
    pub fn verify(&self, root: Root, key_hash: &[u8; 32], claim: Option<(u64, [u8; 32])>) -> Result<(), ProofError> {
        let depth = u16::try_from(self.siblings.len()).ok().filter(|depth| *depth <= 256);
        let depth = depth.ok_or(ProofError::TooLong(self.siblings.len()))?;
        let mut node = match (self.terminal, claim) {
            (Terminal::Own, Some((version, value_hash))) => Leaf { key_hash: *key_hash, version, value_hash }.hash(),
            (Terminal::Empty, None) => EMPTY_ROOT.0,
            (Terminal::Other { key_hash: other, version, value_hash }, None) => {
                if other == *key_hash || NodePath::towards(&other, depth) != NodePath::towards(key_hash, depth) {
                    return Err(ProofError::OffPath);
                }
                Leaf { key_hash: other, version, value_hash }.hash()
            }
            _ => return Err(ProofError::WrongKind),
        };
        for (sibling, depth) in self.siblings.iter().rev().zip((0..depth).rev()) {
            node = if bit(key_hash, depth) { branch_hash(sibling, &node) } else { branch_hash(&node, sibling) };
        }
        if node == root.0 { Ok(()) } else { Err(ProofError::WrongRoot) }
    }
}

/// Makes the proof for `key_hash` and returns the leaf it proves, if the key is present.
///
/// # Errors
/// Those of the store. A branch whose child is missing on disk ends the path there; such a proof does not verify.
pub fn prove<S: NodeRead>(store: &S, key_hash: &[u8; 32]) -> Result<(Proof, Option<Leaf>), S::Error> {
    let mut siblings = Vec::new();
    for depth in 0..=256 {
        match store.get(NodePath::towards(key_hash, depth))? {
            Some(Node::Branch { left, right }) if depth < 256 => {
                let (own, sibling) = if bit(key_hash, depth) { (right, left) } else { (left, right) };
                siblings.push(sibling);
                if own == EMPTY_ROOT.0 {
                    break;
                }
            }
            Some(Node::Leaf(leaf)) if leaf.key_hash == *key_hash => {
                return Ok((Proof { siblings, terminal: Terminal::Own }, Some(leaf)));
            }
            Some(Node::Leaf(Leaf { key_hash, version, value_hash })) => {
                return Ok((Proof { siblings, terminal: Terminal::Other { key_hash, version, value_hash } }, None));
            }
            Some(Node::Branch { .. }) | None => break,
        }
    }
    Ok((Proof { siblings, terminal: Terminal::Empty }, None))
}
