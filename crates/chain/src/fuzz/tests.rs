//! What the targets begin with, and the replay of what they found.

use peerage_wire::payload;

use super::*;
use crate::proto::{
    block::Receipt,
    id::{BlockId, Root},
    state::{Leaf, Node, Proof, Terminal},
};

fn of_values() -> Vec<replay::Seed> {
    let (genesis, tx) = (genesis(), put(1, 3, b"key", 300));
    let block = made(&genesis, 1, UnixMillis(9), vec![tx.clone(), put(2, 0, b"other", 0)]);
    let read: Block = payload::from_bytes(&block, MAX_BLOCK_BYTES).expect("a block");
    let header = payload::to_bytes(&read.header);
    let around = Input::with_chunks(&[1], &[&header]);
    let file = GenesisFile::solo(CHAIN, "fuzz", genesis.solo_producer(), UnixMillis(1));
    let summary = Summary { height: 300, id: BlockId([7; 32]) };
    let request = BlocksRequest { from: 300, max_bytes: 1 << 20 };
    let batch = batch(BLOCKS, &[tx.bytes.clone(), Bytes::from_static(b"x")]);
    let batched = Input::with_chunks(&[2], &[&batch.head]);
    let head = Head { height: 300, id: BlockId([7; 32]), state_root: Root([8; 32]), time: UnixMillis(9) };
    let stale = TxLocation { height: 300, index: 2, receipt: Receipt::StaleVersion { op: 1, actual: 300 } };
    let leaf = Node::Leaf(Leaf { key_hash: [1; 32], version: 2, value_hash: [3; 32] });
    let branch = Node::Branch { left: [1; 32], right: [2; 32] };
    let body = &tx.bytes[..tx.bytes.len() - 64];
    vec![
        ("chain_transaction", "as-it-comes", [&[0], &tx.bytes[..]].concat()),
        ("chain_transaction", "by-a-key", [&[1], body].concat()),
        ("chain_block", "as-it-comes", [&[0], &block[..]].concat()),
        ("chain_block", "around", [&around, &block[header.len()..block.len() - 65]].concat()),
        ("chain_block", "made", vec![2, 0, 1, 0, 9, 1, 0, 1, b'k', 0, 2, 0, 1, b'l', 0]),
        ("chain_genesis", "solo", payload::to_bytes(&file)),
        ("chain_payload", "summary", [&[0], &summary.encode()[..]].concat()),
        ("chain_payload", "request", [&[1], &request.message().head[..]].concat()),
        ("chain_payload", "batch", [&batched, &batch.body.unwrap_or_default()[..]].concat()),
        ("chain_rows", "head", [&[0], &tables::encode_row(&head)[..]].concat()),
        ("chain_rows", "location", [&[1], &tables::encode_row(&stale)[..]].concat()),
        ("chain_rows", "entry", vec![2, 0, 0, 0, 0, 0, 0, 0, 1, 5, 6]),
        ("chain_rows", "leaf", [&[3], &tables::encode_node(&leaf)[..]].concat()),
        ("chain_rows", "branch", [&[3], &tables::encode_node(&branch)[..]].concat()),
    ]
}

fn of_machines() -> Vec<replay::Seed> {
    let proof = Proof { siblings: vec![[1; 32], [0; 32]], terminal: Terminal::Own };
    let any = Input::with_chunks(&[0, 0, 0, 1, 9, 5], &[&payload::to_bytes(&proof)]);
    let tree: &[u8] = &[2, 3, 0, 0, 1, 9, 0, 1, 1, 8, 0x80, 0, 1, 7, 2, 0, 0, 0, 0x40, 0, 2, 6];
    let meet: &[u8] = &[0, 0, 0, 1, 0, 2];
    let raw = |before: &[u8], chunks: &[&[u8]]| Input::with_chunks(before, chunks);
    let tx = put(1, 0, b"key", 0);
    let blocks = machine::honest_blocks();
    let first = raw(&[9, 0x80], &[&blocks[0]]);
    vec![
        (
            "chain_proof",
            "present-and-absent",
            [tree, &[0, 0, 0, 1, 9, 0, 0x80, 0, 1, 1, 7, 0xc0, 0, 1, 3, 0, 1, 5]].concat(),
        ),
        ("chain_proof", "any", [tree, &any].concat()),
        ("chain_messages", "gossip", [&[254], meet, &[8, 0, 1, 0, 7, 0, 10, 0x10, 10, 0, 10, 0x20, 20, 50]].concat()),
        ("chain_messages", "sync", [&[254], meet, &[4, 0x30, 20, 60, 13, 0x0c, 4, 0x31, 20, 100, 14, 0x0d]].concat()),
        ("chain_messages", "serve", [&[254], meet, &[10, 0, 17, 16, 1, 255, 255, 17, 17, 0, 0, 9]].concat()),
        (
            "chain_messages",
            "producer",
            [&[255], meet, &[18, 1, 1, 0, 7, 0, 20, 100, 7, 0x60, 1, 1, 8, 0, 2, 0, 9, 0, 3, 5, 1, 1, 20, 200]]
                .concat(),
        ),
        (
            "chain_messages",
            "lies",
            [&[254], meet, &[12, 1, 0, 1, 13, 0, 4, 0x50, 20, 60, 13, 0, 16, 0, 19, 0, 0, 2, 1]].concat(),
        ),
        (
            "chain_messages",
            "raw",
            [
                &[254],
                meet,
                &first,
                &raw(&[18, 0], &[&tx.bytes]),
                &raw(&[6, 0], &[&[1, 2], b"xx"]),
                &raw(&[15, 0], &[&[0], b""]),
            ]
            .concat(),
        ),
        (
            "chain_messages",
            "no-room",
            [&[0], meet, &[18, 1, 1, 0, 7, 0, 8, 0, 2, 0, 8, 0, 10, 0, 22, 0, 149, 0, 22, 0]].concat(),
        ),
        (
            "chain_messages",
            "user",
            [&[254], meet, &[10, 0, 23, 0, 3, b'k', b'e', b'y', 23, 1, 1, 23, 2, 9, 23, 3, 0, 1, 23, 4]].concat(),
        ),
    ]
}

#[test]
fn each_target_holds_on_its_seeds_and_on_what_fuzzing_found() {
    let seeds = [of_values(), of_machines()].concat();
    replay::replay("chain_", TARGETS, &seeds);
}
