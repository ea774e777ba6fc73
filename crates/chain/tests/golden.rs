//! The bytes of the chain, frozen: what is hashed and signed, what is said, and what stands on disk. Each value is
//! compared with a file of `tests/golden`.
//!
//! A difference means that networks split or stores become unreadable: a decision, with a new domain string, command
//! number or schema version. Only then are the files written anew, with `BLESS=1`.

use std::{env, fs, path::Path, sync::Arc};

use bytes::Bytes;
use peerage_chain::{
    proto::{
        BLOCKS, BlocksRequest, Chain, Command, Config, HEAD, Summary, TRANSACTIONS,
        block::{CheckedBlock, Receipt, receipts_root},
        genesis::{Genesis, GenesisFile, Limits, Ordering},
        id::{Account, BlockId, Producer},
        state::{Leaf, MemoryNodes, Node, NodePath, Proof, Terminal, key_hash, nonce_hash, prove, update, value_hash},
        transaction::{EncodedTransaction, MAX_TX_BYTES, Op, Transaction, TransactionBody},
    },
    store::{
        Applied, Head, Store, TxLocation,
        tables::{BLOCKS as BLOCK_TABLE, META, META_HEAD, NODES, NONCES, OUTBOX, STATE, TX_INDEX},
    },
};
use peerage_core::{
    Action, Budget, Done, Job, LinkInfo, Message, NetworkEvent, NodeId, Now, Protocol, RequestId, Timestamp, UnixMillis,
};
use peerage_transport::proto::keypair::Keypair;
use peerage_wire::{Envelope, encode_frame, payload};
use redb::{Database, ReadableDatabase, ReadableTable};
use sha2::{Digest, Sha256};

/// Compares `bytes` with a frozen file, 32 bytes a line in hexadecimal, and returns what stands there.
#[track_caller]
fn frozen(name: &str, bytes: impl AsRef<[u8]>) -> Bytes {
    let (bytes, path) = (bytes.as_ref(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"));
    let path = path.join(name).with_extension("hex");
    if env::var_os("BLESS").is_some() {
        let line = |chunk: &[u8]| chunk.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
        fs::write(&path, bytes.chunks(32).map(line).collect::<String>()).expect("the golden files are writable");
    }
    let text = fs::read_to_string(&path).expect("the golden file exists");
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let golden: Vec<u8> = digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect();
    assert_eq!(bytes, golden, "{name} is not what was frozen");
    golden.into()
}

fn keypair(number: u8) -> Keypair {
    Keypair::from_seed(&[number; 32])
}

fn public(number: u8) -> [u8; 32] {
    *keypair(number).node_id().as_bytes()
}

/// Number of the producer's key; 1 and 2 are accounts.
const PRODUCER: u8 = 3;
const TIME: UnixMillis = UnixMillis(1_700_000_000_000);

fn genesis_file() -> GenesisFile {
    GenesisFile {
        chain_id: 300,
        network: "golden".into(),
        producers: vec![Producer(public(PRODUCER)).to_string()],
        ordering: Ordering::Solo,
        time: TIME.0,
        block_interval_ms: 500,
        limits: Limits { max_block_bytes: 1 << 20, max_tx_bytes: 1 << 17, mempool_bytes: 1 << 25, nonce_gap: 64 },
    }
}

fn genesis() -> Arc<Genesis> {
    Arc::new(Genesis::new(&genesis_file()).expect("valid"))
}

fn put(key: &str, value: &str, expected_version: u64) -> Op {
    Op::Put { key: key.into(), value: value.into(), expected_version }
}

fn tx(number: u8, nonce: u64, ops: Vec<Op>) -> Arc<EncodedTransaction> {
    let body = TransactionBody { chain_id: 300, account: Account(public(number)), nonce, valid_until: 1000, ops };
    Arc::new(Transaction::sign(body, &keypair(number)).expect("valid").encode().expect("small"))
}

/// Makes block 1 in this store: a put and a delete, a put of another account, and one that comes too late for its key.
fn first_block(store: &Store) -> Applied {
    let delete = Op::Delete { key: b"old".to_vec(), expected_version: 0 };
    let txs = vec![
        tx(1, 0, vec![put("greeting", "hello", 0), delete]),
        tx(2, 0, vec![put("a", "1", 0)]),
        tx(1, 1, vec![put("greeting", "again", 0)]),
    ];
    let built = store.build(txs, UnixMillis(TIME.0 + 500), &keypair(PRODUCER)).expect("the store works");
    *built.block.expect("three candidates")
}

#[test]
fn the_genesis() {
    let file = genesis_file();
    let canonical = payload::to_bytes(&(
        file.chain_id,
        &file.network,
        [Producer(public(PRODUCER))].as_slice(),
        file.ordering,
        file.time,
        file.block_interval_ms,
        file.limits,
    ));
    let golden = frozen("genesis", canonical);
    let domain = "peerage-chain-genesis-v1";
    let id = Sha256::new().chain_update([domain.len() as u8]).chain_update(domain).chain_update(golden).finalize();
    assert_eq!(genesis().network_id().as_bytes()[..], id[..], "the network's id is the hash of the canonical form");
    frozen("genesis_ids", [*genesis().network_id().as_bytes(), genesis().block_id().0].concat());
}

#[test]
fn a_transaction() {
    let ops = vec![put("key", "value", 300), Op::Delete { key: b"old".to_vec(), expected_version: 7 }];
    let tx = tx(1, 128, ops);
    let golden = frozen("transaction", &tx.bytes);
    let read = EncodedTransaction::decode(golden, MAX_TX_BYTES).expect("canonical");
    assert_eq!((&read, read.tx.verify_signature()), (&*tx, Ok(())));
    frozen("transaction_id", read.id.0);
}

#[test]
fn a_block_with_its_certificate() {
    let store = Store::in_memory(genesis()).expect("memory");
    let made = first_block(&store);
    let golden = frozen("block", made.block.bytes());
    let read = CheckedBlock::check(&genesis(), golden, &[]).expect("it counts");
    assert_eq!((read.header(), read.transactions()), (made.block.header(), made.block.transactions()));
    frozen("block_id", read.id().0);
    // Written out, because a block holds the root over the receipts only.
    let receipts = [Receipt::Applied, Receipt::Applied, Receipt::StaleVersion { op: 0, actual: 1 }];
    assert_eq!(made.receipts, receipts);
    frozen("receipts", receipts.iter().flat_map(payload::to_bytes).collect::<Vec<u8>>());
    assert_eq!(receipts_root(&receipts), read.header().receipts_root);
    frozen("receipts_root", receipts_root(&receipts).0);
}

#[test]
fn the_tree_of_the_state_and_its_proofs() {
    let leaf = |key: &str, version: u64, value: &str| Leaf {
        key_hash: key_hash(key.as_bytes()),
        version,
        value_hash: value_hash(value.as_bytes()),
    };
    let account = Account(public(1));
    let nonce = Leaf { key_hash: nonce_hash(&account), version: 5, value_hash: [0; 32] };
    let leaves = [leaf("a", 1, "one"), leaf("b", 300, "two"), leaf("c", 2, ""), nonce];
    frozen("state_leaf", [leaves[0].key_hash, leaves[0].value_hash, leaves[0].hash()].concat());
    frozen("state_nonce_leaf", [nonce.key_hash, nonce.hash()].concat());
    let branch = Node::Branch { left: leaves[0].hash(), right: leaves[1].hash() };
    frozen("state_branch", branch.hash());

    let mut nodes = MemoryNodes::default();
    let changes = leaves.iter().map(|leaf| (leaf.key_hash, Some((leaf.version, leaf.value_hash)))).collect();
    let Ok(root) = update(&mut nodes, &changes);
    frozen("state_root", root.0);
    let proof = |name: &str, key: &str| {
        let Ok((proof, _)) = prove(&nodes, &key_hash(key.as_bytes()));
        payload::from_bytes::<Proof>(&frozen(name, payload::to_bytes(&proof)), 1024).expect("canonical")
    };
    let claim = Some((leaves[1].version, leaves[1].value_hash));
    assert_eq!(proof("proof_of_presence", "b").verify(root, &leaves[1].key_hash, claim), Ok(()));
    // Both ways to be absent: nothing stands there, and another key's leaf fills the place.
    for (name, key, by_another) in [("proof_of_absence", "x0", false), ("proof_of_absence_by_another", "x3", true)] {
        let proof = proof(name, key);
        assert_eq!(proof.verify(root, &key_hash(key.as_bytes()), None), Ok(()));
        assert_eq!(matches!(proof.terminal, Terminal::Other { .. }), by_another, "{key}");
    }
}

/// Does what the machine wants of its store and its checks until it wants nothing more; the messages that it sends.
fn settle(chain: &mut Chain, store: &mut Store) -> Vec<Message> {
    let mut sent = Vec::new();
    while let Some(action) = chain.poll_action() {
        match action {
            Action::Store(id, job) => chain.handle_done(NOW, id, Done::Stored(job.run(store))),
            Action::Compute(id, job) => chain.handle_done(NOW, id, Done::Computed(job.run(&mut ()))),
            Action::Send { message, .. } | Action::Request { message, .. } | Action::Respond { message, .. } => {
                sent.push(message);
            }
            _ => {}
        }
    }
    sent
}

const NOW: Now = Now { mono: Timestamp::ZERO, wall: TIME };

#[test]
fn the_messages() {
    let mut store = Store::in_memory(genesis()).expect("memory");
    first_block(&store);
    let (budget, peer) = (Budget::default(), NodeId::from_bytes([4; 32]));
    let mut chain = Chain::new(genesis(), Config::default(), &budget).expect("no producer");
    settle(&mut chain, &mut store);
    let info = LinkInfo {
        peer,
        outbound: true,
        remote: ([127, 0, 0, 1], 1).into(),
        listen: vec![],
        features: 0,
        dial_key: None,
    };
    chain.handle_network(NOW, NetworkEvent::PeerUp { peer, info });
    let [head] = &settle(&mut chain, &mut store)[..] else { panic!("it tells its head") };

    let wish = Message::new(BLOCKS, payload::to_bytes(&BlocksRequest { from: 1, max_bytes: 1 << 20 }));
    let charge = budget.nothing();
    chain.handle_network(NOW, NetworkEvent::Request { peer, id: RequestId(1), message: wish, charge });
    let [answer] = &settle(&mut chain, &mut store)[..] else { panic!("it answers") };

    // A peer so far ahead that blocks are asked for at once; and it is told what is pending.
    chain.handle_command(NOW, Command::Submit { token: 1, tx: tx(2, 1, vec![put("b", "2", 0)]).bytes.clone() });
    settle(&mut chain, &mut store);
    let far = Message::new(HEAD, payload::to_bytes(&Summary { height: 9, id: BlockId([0xee; 32]) }));
    chain.handle_network(NOW, NetworkEvent::Message { peer, message: far, charge: budget.nothing() });
    let said = settle(&mut chain, &mut store);
    let of = |command| said.iter().find(|message| message.command == command).expect("it was said");

    let messages = [
        ("message_head", head, Envelope::Notification),
        ("message_blocks_request", of(BLOCKS), Envelope::Request(1)),
        ("message_blocks_response", answer, Envelope::Response(1)),
        ("message_transactions", of(TRANSACTIONS), Envelope::Notification),
    ];
    for (name, message, envelope) in messages {
        let mut frame = Vec::new();
        encode_frame(message, envelope, &mut frame);
        frozen(name, frame);
    }
}

#[test]
fn the_rows_on_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chain.redb");
    let store = Store::open(&path, genesis(), 1 << 20).expect("new");
    let made = first_block(&store);
    let waiting = tx(2, 1, vec![put("b", "2", 0)]);
    store.persist_outbox(&[Arc::clone(&waiting)]).expect("the store works");
    drop(store);

    let database = Database::open(&path).expect("closed");
    let txn = database.begin_read().expect("readable");
    let meta = txn.open_table(META).expect("a table");
    let mut rows = Vec::new();
    for row in meta.iter().expect("readable") {
        let (key, row) = row.expect("readable");
        rows.extend([key.value().as_bytes(), row.value()].concat());
    }
    frozen("store_meta", rows);
    let row = meta.get(META_HEAD).expect("readable").expect("a head");
    let head: Head = payload::from_bytes(&frozen("store_head", row.value()), 128).expect("canonical");
    assert_eq!(head, made.head);

    let index = txn.open_table(TX_INDEX).expect("a table");
    let location = |place: usize| index.get(&made.block.transactions()[place].id.0).expect("readable").expect("a row");
    let rows = [location(0).value(), location(2).value()].map(<[u8]>::to_vec);
    frozen("store_locations", rows.concat());
    let late: TxLocation = payload::from_bytes(&rows[1], 128).expect("canonical");
    assert_eq!(late, TxLocation { height: 1, index: 2, receipt: Receipt::StaleVersion { op: 0, actual: 1 } });

    let state = txn.open_table(STATE).expect("a table");
    frozen("store_entry", state.get(&b"greeting"[..]).expect("readable").expect("present").value());
    let nonces = txn.open_table(NONCES).expect("a table");
    assert_eq!(nonces.get(&public(1)).expect("readable").map(|row| row.value()), Some(2));
    let blocks = txn.open_table(BLOCK_TABLE).expect("a table");
    assert_eq!(blocks.get(1).expect("readable").expect("block 1").value(), made.block.bytes());
    let outbox = txn.open_table(OUTBOX).expect("a table");
    assert_eq!(outbox.get(&waiting.id.0).expect("readable").expect("it waits").value(), waiting.bytes);

    // The whole tree of four leaves, each node under its path.
    let nodes = txn.open_table(NODES).expect("a table");
    let root = nodes.get(&NodePath::ROOT.to_bytes()).expect("readable").expect("a root").value().to_vec();
    assert_eq!((root.len(), root[0]), (65, 1), "a branch");
    let mut rows = Vec::new();
    for row in nodes.iter().expect("readable") {
        let (path, node) = row.expect("readable");
        rows.extend([&path.value()[..], node.value()].concat());
    }
    frozen("store_nodes", rows);
}
