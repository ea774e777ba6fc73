use std::sync::Arc;

use peerage_chain::{
    proto::{
        BLOCKS, BlocksRequest, Chain, Command, Config, HEAD, Summary, TRANSACTIONS,
        block::{Receipt, receipts_root, tx_root},
        genesis::Genesis,
        id::BlockId,
        merkle::list_root,
        state::{EMPTY_ROOT, key_hash, nonce_hash, value_hash},
        transaction::{EncodedTransaction, Op},
    },
    store::{Applied, Store},
};
use peerage_core::{Budget, Message, Protocol, UnixMillis};
use peerage_wire::payload;

use super::{hash, message, signed};
use crate::{
    document::{Vector, hold},
    fixtures::{
        PRODUCER, WALL, account, asked, genesis, genesis_file, keypair, notified, now, producer, put, settle, tx, up,
    },
};

fn origin(genesis: &Genesis) -> Vector {
    let file = genesis_file();
    let producers = vec![producer()];
    let first = payload::to_bytes(&(file.chain_id, &file.network, producers, file.ordering));
    let canonical = [first, payload::to_bytes(&(file.time, file.block_interval_ms, file.limits))].concat();
    assert_eq!(genesis.network_id().as_bytes(), &hash("peerage-chain-genesis-v1", &[&canonical]));
    let zero = hash("peerage-chain-block-zero-v1", &[genesis.network_id().as_bytes()]);
    assert_eq!(genesis.block_id(), BlockId(zero));
    Vector::new("genesis")
        .text("chain id, name, ordering", "7, example, solo")
        .text("time, interval", format_args!("{}, 500", file.time))
        .text("limits", "2031616, 262144, 67108864, 64")
        .hex("producer", producer().as_bytes())
        .hex("canonical form", canonical)
        .hex("network id", genesis.network_id().as_bytes())
        .hex("id of block 0", genesis.block_id().as_bytes())
}

fn transaction(tx: &EncodedTransaction) -> Vector {
    let body = payload::to_bytes(&tx.tx.body);
    let input = signed("peerage-chain-tx-v1", &[&body]);
    assert_eq!(tx.bytes, [&body[..], &keypair(1).sign(&input)].concat());
    assert_eq!(tx.id.as_bytes(), &hash("peerage-chain-tx-id-v1", &[&tx.bytes]));
    Vector::new("transaction")
        .hex("account's secret seed", [1; 32])
        .text("chain, nonce, valid until", "7, 0, 100")
        .text("operations", "put \"greeting\" = \"hello\" expecting 0, delete \"old\" expecting 0")
        .hex("signed", input)
        .hex("transaction", &tx.bytes)
        .hex("id", tx.id.as_bytes())
}

fn block(genesis: &Genesis, applied: &Applied) -> Vector {
    let (block, header) = (&applied.block, applied.block.header());
    let encoded = payload::to_bytes(header);
    assert_eq!(block.id(), BlockId(hash("peerage-chain-block-id-v1", &[&encoded])));
    let input = signed("peerage-chain-solo-certificate-v1", &[genesis.network_id().as_bytes(), &encoded]);
    let signature = keypair(PRODUCER).sign(&input);
    let transactions: Vec<u8> = block.transactions().iter().flat_map(|tx| tx.bytes.to_vec()).collect();
    assert_eq!(block.bytes(), &[&encoded, &[3][..], &transactions, &[0], &signature].concat());

    // The roots, by the definition: three leaves split after the second.
    let leaf = |bytes: &[u8]| hash("peerage-chain-list-leaf-v1", &[bytes]);
    let node = |left: [u8; 32], right: [u8; 32]| hash("peerage-chain-list-node-v1", &[&left, &right]);
    let [one, two, three] = block.transactions() else { panic!("three transactions") };
    let root = node(node(leaf(&one.bytes), leaf(&two.bytes)), leaf(&three.bytes));
    assert_eq!((tx_root(block.transactions()).0, header.tx_root.0), (root, root));
    let receipts: Vec<Vec<u8>> = applied.receipts.iter().map(payload::to_bytes).collect();
    let root = node(node(leaf(&receipts[0]), leaf(&receipts[1])), leaf(&receipts[2]));
    assert_eq!((receipts_root(&applied.receipts).0, header.receipts_root.0), (root, root));
    assert_eq!(list_root([[0; 0]; 0]).0, hash("peerage-chain-list-empty-v1", &[]));

    Vector::new("block")
        .hex("transaction 0", &one.bytes)
        .hex("transaction 1", &two.bytes)
        .hex("transaction 2", &three.bytes)
        .hex("receipt 0: applied", &receipts[0])
        .hex("receipt 1: applied", &receipts[1])
        .hex("receipt 2: operation 0 found version 1", &receipts[2])
        .hex("leaf of transaction 0", leaf(&one.bytes))
        .hex("transaction root", header.tx_root.as_bytes())
        .hex("receipts root", header.receipts_root.as_bytes())
        .hex("root of an empty list", list_root([[0; 0]; 0]).as_bytes())
        .hex("header", &encoded)
        .hex("id", block.id().as_bytes())
        .hex("signed", &input)
        .hex("block", block.bytes())
}

fn state(store: &Store) -> Vector {
    let leaf = |key: [u8; 32], version: u64, value: [u8; 32]| {
        (key, hash("peerage-chain-state-leaf-v1", &[&key, &version.to_be_bytes(), &value]))
    };
    let (greeting, a) = (key_hash(b"greeting"), key_hash(b"a"));
    assert_eq!(greeting, hash("peerage-chain-state-key-v1", &[b"greeting"]));
    assert_eq!(value_hash(b"hello"), hash("peerage-chain-state-value-v1", &[b"hello"]));
    assert_eq!(nonce_hash(&account(1)), hash("peerage-chain-state-nonce-v1", &[account(1).as_bytes()]));
    let mut leaves = [
        leaf(greeting, 1, value_hash(b"hello")),
        leaf(a, 1, value_hash(b"1")),
        leaf(nonce_hash(&account(1)), 2, [0; 32]),
        leaf(nonce_hash(&account(2)), 1, [0; 32]),
    ];
    leaves.sort();
    fn root(leaves: &[([u8; 32], [u8; 32])], depth: usize) -> [u8; 32] {
        match leaves {
            [] => [0; 32],
            [(_, leaf)] => *leaf,
            _ => {
                let split = leaves.partition_point(|(key, _)| key[depth / 8] & (0x80 >> (depth % 8)) == 0);
                let (left, right) = leaves.split_at(split);
                hash("peerage-chain-state-branch-v1", &[&root(left, depth + 1), &root(right, depth + 1)])
            }
        }
    }
    let head = store.head().expect("in memory");
    assert_eq!(head.state_root.0, root(&leaves, 0));
    assert_eq!(EMPTY_ROOT.0, [0; 32]);
    let proof = |key: &[u8], claim| {
        let proved = store.get(key).expect("in memory");
        proved.proof.verify(head.state_root, &key_hash(key), claim).expect("it holds");
        payload::to_bytes(&proved.proof)
    };
    Vector::new("state")
        .hex("key hash of \"greeting\"", greeting)
        .hex("value hash of \"hello\"", value_hash(b"hello"))
        .hex("leaf of \"greeting\", version 1", leaf(greeting, 1, value_hash(b"hello")).1)
        .hex("key hash of \"a\"", a)
        .hex("leaf of \"a\" with \"1\", version 1", leaf(a, 1, value_hash(b"1")).1)
        .hex("nonce hash of account 1", nonce_hash(&account(1)))
        .hex("leaf of account 1, next nonce 2", leaf(nonce_hash(&account(1)), 2, [0; 32]).1)
        .hex("nonce hash of account 2", nonce_hash(&account(2)))
        .hex("leaf of account 2, next nonce 1", leaf(nonce_hash(&account(2)), 1, [0; 32]).1)
        .hex("state root", head.state_root.as_bytes())
        .hex("proof that \"greeting\" is \"hello\", version 1", proof(b"greeting", Some((1, value_hash(b"hello")))))
        .hex("key hash of \"old\"", key_hash(b"old"))
        .hex("proof that \"old\" is absent", proof(b"old", None))
}

fn messages(genesis: &Arc<Genesis>, store: &mut Store) -> Vector {
    let mut chain = Chain::new(Arc::clone(genesis), Config::default(), &Budget::default()).expect("no producer");
    settle(&mut chain, store);
    chain.handle_network(now(), up(4));
    let [head] = &settle(&mut chain, store).messages[..] else { panic!("it tells its head") };
    let mut answer = |number, from| {
        let wish = Message::new(BLOCKS, payload::to_bytes(&BlocksRequest { from, max_bytes: 0 }));
        chain.handle_network(now(), asked(4, number, wish));
        settle(&mut chain, store).messages.pop().expect("it answers")
    };
    let (one, none) = (answer(1, 1), answer(2, 9));

    let pending = tx(2, 1, vec![put("b", "2", 0)]);
    chain.handle_command(now(), Command::Submit { token: 1, tx: pending.bytes.clone() });
    settle(&mut chain, store);
    // The peer is so far ahead that blocks are asked for at once; and it is told what is pending.
    let far = payload::to_bytes(&Summary { height: 9, id: BlockId([0xee; 32]) });
    chain.handle_network(now(), notified(4, Message::new(HEAD, far)));
    let said = settle(&mut chain, store).messages;
    let of = |command| said.iter().find(|message| message.command == command).expect("it was said");

    let vector = message(Vector::new("messages"), "HEAD of the block above", head);
    let vector = message(vector, "BLOCKS request", of(BLOCKS));
    let vector = message(vector, "BLOCKS response", &one);
    let vector = message(vector, "empty BLOCKS response", &none);
    message(vector, "TRANSACTIONS with one", of(TRANSACTIONS))
}

#[test]
fn the_vectors_of_chain_are_what_the_code_writes() {
    let genesis = genesis();
    let mut store = Store::in_memory(Arc::clone(&genesis)).expect("memory");
    let delete = Op::Delete { key: b"old".to_vec(), expected_version: 0 };
    let txs = vec![
        tx(1, 0, vec![put("greeting", "hello", 0), delete]),
        tx(2, 0, vec![put("a", "1", 0)]),
        tx(1, 1, vec![put("greeting", "again", 0)]),
    ];
    let transaction = transaction(&txs[0]);
    let built = store.build(txs, UnixMillis(WALL.0 + 500), &keypair(PRODUCER)).expect("memory");
    let applied = built.block.expect("a block");
    assert_eq!(applied.receipts[2], Receipt::StaleVersion { op: 0, actual: 1 });
    let (block, state) = (block(&genesis, &applied), state(&store));
    let messages = messages(&genesis, &mut store);
    hold("chain", &[origin(&genesis), transaction, block, state, messages]);
}
