//! The Merkle tree over a list (RFC 6962, section 2.1): of a block's transactions and of its receipts.

use super::id::{Root, hash};

/// Domain of a leaf and of an inner node: they differ, so that no leaf can be passed off as a node (RFC 6962, 2.1).
const LEAF: &str = "peerage-chain-list-leaf-v1";
const NODE: &str = "peerage-chain-list-node-v1";
/// Domain of the empty list.
const EMPTY: &str = "peerage-chain-list-empty-v1";

/// The root over `leaves`, in their order.
///
/// A list of n leaves splits at the greatest power of two below n, as in RFC 6962; unlike a tree that repeats its last
/// leaf, no two lists share a root.
pub fn list_root<L: AsRef<[u8]>>(leaves: impl IntoIterator<Item = L>) -> Root {
    // A binary counter of finished subtrees: (leaves in it, its hash). Equal neighbours merge, which is that split.
    let mut stack: Vec<(u64, [u8; 32])> = Vec::new();
    for leaf in leaves {
        let mut size = 1;
        let mut node = hash(LEAF, &[leaf.as_ref()]);
        while let Some((left_size, left)) = stack.last() {
            if *left_size != size {
                break;
            }
            node = hash(NODE, &[left, &node]);
            size *= 2;
            stack.pop();
        }
        stack.push((size, node));
    }
    let Some((_, mut root)) = stack.pop() else {
        return Root(hash(EMPTY, &[]));
    };
    while let Some((_, left)) = stack.pop() {
        root = hash(NODE, &[&left, &root]);
    }
    Root(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962, word by word.
    fn naive(leaves: &[Vec<u8>]) -> [u8; 32] {
        match leaves {
            [] => hash(EMPTY, &[]),
            [one] => hash(LEAF, &[one]),
            more => {
                let split = more.len().next_power_of_two() / 2;
                hash(NODE, &[&naive(&more[..split]), &naive(&more[split..])])
            }
        }
    }

    #[test]
    fn the_running_root_is_the_recursive_definition() {
        let leaves: Vec<Vec<u8>> = (0..70u8).map(|i| vec![i; usize::from(i) % 5]).collect();
        for n in 0..leaves.len() {
            assert_eq!(list_root(&leaves[..n]).0, naive(&leaves[..n]), "{n} leaves");
        }
    }

    #[test]
    fn a_repeated_last_leaf_changes_the_root() {
        assert_ne!(list_root(["a", "b", "c"]), list_root(["a", "b", "c", "c"]));
    }
}
