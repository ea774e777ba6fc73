//! The body of `chain_proof`: the authenticated tree and its proofs.

use std::collections::BTreeMap;

use peerage_wire::payload;

use super::input::Input;
use crate::proto::state::{Change, EMPTY_ROOT, Leaf, MemoryNodes, Proof, Terminal, prove, update};

/// A key hash of which the input chooses the bits that matter: two bytes, and how deep below them keys may part.
fn key(input: &mut Input<'_>) -> [u8; 32] {
    let (first, deep) = (input.byte(), input.byte());
    core::array::from_fn(|at| match at {
        0 => first & 0xc3,
        1 => deep & 0x80,
        31 => deep & 0x03,
        _ => 0,
    })
}

/// What somebody might offer in place of the proof that a store would give.
fn offered(input: &mut Input<'_>, honest: Proof, leaves: &BTreeMap<[u8; 32], (u64, [u8; 32])>) -> Proof {
    let mut proof = honest;
    match input.byte() % 6 {
        0 => {
            proof.siblings.pop();
        }
        1 => proof.siblings.push([input.byte(); 32]),
        2 => proof.siblings.insert(0, [0; 32]),
        3 => {
            // A leaf that stands somewhere, since no other has a hash that fits.
            let place = usize::from(input.byte()) % leaves.len().max(1);
            if let Some((key_hash, (version, value_hash))) = leaves.iter().nth(place) {
                let (key_hash, version, value_hash) = (*key_hash, *version, *value_hash);
                proof.terminal = Terminal::Other { key_hash, version, value_hash };
            }
        }
        4 => proof.terminal = if input.byte() & 1 == 0 { Terminal::Own } else { Terminal::Empty },
        _ => {
            if let Ok(any) = payload::from_bytes(input.chunk(), 4_000) {
                proof = any;
            }
        }
    }
    proof
}

/// A tree under several batches of changes: its root and its nodes are those of its leaves alone, honest proofs hold, and
/// no other proof proves what is not so.
pub(super) fn proof(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut nodes, mut leaves) = (MemoryNodes::default(), BTreeMap::new());
    let mut root = EMPTY_ROOT;
    for _ in 0..input.byte() % 4 {
        let mut changes: BTreeMap<[u8; 32], Change> = BTreeMap::new();
        for _ in 0..input.byte() % 8 {
            let (key, version) = (key(&mut input), input.byte() % 4);
            // Nobody removes what is not there.
            let change = (version > 0).then(|| (version.into(), [input.byte(); 32]));
            changes.insert(key, change);
        }
        for (key, change) in &changes {
            match change {
                Some(leaf) => leaves.insert(*key, *leaf),
                None => leaves.remove(key),
            };
        }
        let Ok(after) = update(&mut nodes, &changes);
        root = after;
    }
    let mut fresh = MemoryNodes::default();
    let Ok(expected) = update(&mut fresh, &leaves.iter().map(|(key, leaf)| (*key, Some(*leaf))).collect());
    assert_eq!(root, expected, "the order of writes does not matter");
    assert_eq!(nodes.0, fresh.0, "nor does it leave anything behind");
    while !input.is_empty() {
        let at = key(&mut input);
        let Ok((honest, leaf)) = prove(&nodes, &at);
        let truth = leaves.get(&at).copied();
        assert_eq!(leaf, truth.map(|(version, value_hash)| Leaf { key_hash: at, version, value_hash }));
        assert_eq!(honest.verify(root, &at, truth), Ok(()), "an honest proof holds");
        assert_eq!(payload::from_bytes(&payload::to_bytes(&honest), 1 << 14).as_ref(), Ok(&honest));
        let claim = (input.byte() & 1 == 0).then(|| (u64::from(input.byte() % 4), [input.byte(); 32]));
        let proof = offered(&mut input, honest, &leaves);
        if proof.verify(root, &at, claim).is_ok() {
            assert_eq!(claim, truth, "{proof:?} proves what is not so");
        }
    }
}
