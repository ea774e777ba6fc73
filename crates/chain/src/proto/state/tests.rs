//! The tree against a naive model, its proofs, and what a write costs.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::proto::id::Root;

/// The definition of the root, from the set of leaves alone.
fn naive_root(leaves: &BTreeMap<[u8; 32], (u64, [u8; 32])>) -> Root {
    fn subtree(leaves: &[Leaf], depth: u16) -> NodeHash {
        match leaves {
            [] => EMPTY_ROOT.0,
            [leaf] => leaf.hash(),
            _ => {
                let side = |right: bool| -> Vec<Leaf> {
                    leaves.iter().filter(|leaf| tree::bit(&leaf.key_hash, depth) == right).copied().collect()
                };
                tree::branch_hash(&subtree(&side(false), depth + 1), &subtree(&side(true), depth + 1))
            }
        }
    }
    let leaves: Vec<Leaf> = leaves
        .iter()
        .map(|(key_hash, (version, value_hash))| Leaf {
            key_hash: *key_hash,
            version: *version,
            value_hash: *value_hash,
        })
        .collect();
    Root(subtree(&leaves, 0))
}

/// Key hashes that share long prefixes, which real hashes hardly ever do.
fn key(i: u8) -> [u8; 32] {
    let mut key = [0; 32];
    key[usize::from(i % 4) * 10] = i;
    key[31] = i / 64;
    key
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_tree_is_a_function_of_its_leaves(
        batches in prop::collection::vec(prop::collection::vec((any::<u8>(), prop::option::of(1u64..9)), 1..12), 1..24),
    ) {
        let (mut nodes, mut model) = (MemoryNodes::default(), BTreeMap::new());
        for batch in batches {
            let changes: BTreeMap<[u8; 32], Change> =
                batch.iter().map(|(i, version)| (key(*i), version.map(|v| (v, [*i; 32])))).collect();
            for (key, change) in &changes {
                match change {
                    Some(leaf) => model.insert(*key, *leaf),
                    None => model.remove(key),
                };
            }
            let root = update(&mut nodes, &changes).unwrap();
            prop_assert_eq!(root, naive_root(&model));

            // Proofs of what changed, present or not, and of nothing else.
            for i in batch.iter().flat_map(|(i, _)| [*i, i ^ 1]) {
                let (proof, leaf) = prove(&nodes, &key(i)).unwrap();
                let claim = model.get(&key(i)).copied();
                prop_assert_eq!(leaf.map(|leaf| (leaf.version, leaf.value_hash)), claim);
                prop_assert_eq!(proof.verify(root, &key(i), claim), Ok(()));
                let lie = if claim.is_some() { None } else { Some((1, [i; 32])) };
                prop_assert!(proof.verify(root, &key(i), lie).is_err());
                if let Some((version, value)) = claim {
                    prop_assert_eq!(
                        proof.verify(root, &key(i), Some((version + 1, value))),
                        Err(ProofError::WrongRoot)
                    );
                }
            }
        }

        // Emptied again, nothing is left behind: what an update moves, it also removes from its old place.
        let all: BTreeMap<[u8; 32], Change> = model.keys().map(|key| (*key, None)).collect();
        prop_assert_eq!(update(&mut nodes, &all).unwrap(), EMPTY_ROOT);
        prop_assert!(nodes.0.is_empty(), "left over: {:?}", nodes.0);
    }
}

#[test]
fn the_order_of_writes_leaves_no_trace() {
    let keys: Vec<[u8; 32]> = (0..500u32).map(|i| key_hash(&i.to_be_bytes())).collect();
    let put = |nodes: &mut MemoryNodes, key: &[u8; 32]| {
        update(nodes, &BTreeMap::from([(*key, Some((1, *key)))])).unwrap();
    };
    let (mut forward, mut backward, mut at_once) =
        (MemoryNodes::default(), MemoryNodes::default(), MemoryNodes::default());
    keys.iter().for_each(|key| put(&mut forward, key));
    keys.iter().rev().for_each(|key| put(&mut backward, key));
    update(&mut at_once, &keys.iter().map(|key| (*key, Some((1, *key)))).collect()).unwrap();
    assert_eq!(forward.0, backward.0);
    assert_eq!(forward.0, at_once.0);
}

#[test]
fn absence_cannot_be_claimed_with_a_leaf_from_elsewhere() {
    let mut nodes = MemoryNodes::default();
    let keys: Vec<[u8; 32]> = (0..64u32).map(|i| key_hash(&i.to_be_bytes())).collect();
    let root = update(&mut nodes, &keys.iter().map(|key| (*key, Some((1, [7; 32])))).collect()).unwrap();
    // The honest proof of keys[0], passed off as the absence of another key.
    let (mut proof, leaf) = prove(&nodes, &keys[0]).unwrap();
    let leaf = leaf.unwrap();
    proof.terminal = Terminal::Other { key_hash: leaf.key_hash, version: leaf.version, value_hash: leaf.value_hash };
    assert_eq!(proof.verify(root, &keys[0], None), Err(ProofError::OffPath), "of itself");
    let opposite = keys[0].map(|byte| !byte);
    assert_eq!(proof.verify(root, &opposite, None), Err(ProofError::OffPath), "of a key on another path");
    let long = Proof { siblings: vec![[0; 32]; 257], terminal: Terminal::Empty };
    assert_eq!(long.verify(root, &keys[0], None), Err(ProofError::TooLong(257)));
}

/// Counts what an update touches.
#[derive(Default)]
struct Counting {
    nodes: MemoryNodes,
    touches: Cell<u64>,
}

impl Counting {
    fn touch(&self) {
        self.touches.set(self.touches.get() + 1);
    }
}

impl NodeRead for Counting {
    type Error = core::convert::Infallible;
    fn get(&self, path: NodePath) -> Result<Option<Node>, Self::Error> {
        self.touch();
        self.nodes.get(path)
    }
}

impl NodeStore for Counting {
    fn put(&mut self, path: NodePath, node: Node) -> Result<(), Self::Error> {
        self.touch();
        self.nodes.put(path, node)
    }
    fn delete(&mut self, path: NodePath) -> Result<(), Self::Error> {
        self.touch();
        self.nodes.delete(path)
    }
}

/// Average touches of a write (put of a new key, put over it, delete) into a tree of `n` keys.
fn touches_per_write(n: u32) -> f64 {
    let mut store = Counting::default();
    let filled = (0..n).map(|i| (key_hash(&i.to_be_bytes()), Some((1, [1; 32])))).collect();
    update(&mut store, &filled).unwrap();
    store.touches.set(0);
    let mut writes = 0;
    for i in n..n + 1_000 {
        for change in [Some((1, [2; 32])), Some((2, [3; 32])), None] {
            update(&mut store, &BTreeMap::from([(key_hash(&i.to_be_bytes()), change)])).unwrap();
            writes += 1;
        }
    }
    store.touches.get() as f64 / f64::from(writes)
}

#[test]
fn a_write_touches_two_nodes_a_level() {
    // One read and one write on each of about log2(n) + 1.3 levels, the root's included; a split or a merge adds a few.
    let (small, large) = (touches_per_write(1_000), touches_per_write(100_000));
    for (n, touches) in [(1_000f64, small), (100_000f64, large)] {
        assert!(touches <= 2.0 * n.log2() + 6.0, "{touches} touches a write at {n} keys");
        assert!(touches >= 1.5 * n.log2(), "{touches} at {n} keys is less than the tree is deep: not counted?");
    }
    // A hundred times the keys costs 2 * log2(100) = 13.3 touches more, not a hundred times.
    assert!((large - small - 2.0 * 100f64.log2()).abs() < 2.0, "{small} and {large}");
}
