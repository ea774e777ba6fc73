//! The store: what a block does to it, what it refuses, what it keeps, and that the offline check finds any damage.

use peerage_core::UnixMillis;
use proptest::prelude::*;
use redb::ReadableDatabase;

use super::{verify::*, *};
use crate::{
    fixtures::*,
    proto::{
        block::{BlockError, CheckedBlock, Receipt, receipts_root, tx_root},
        execute::Exclusion,
        id::{Producer, Root, TxId},
        state::{Entry, key_hash, value_hash},
        transaction::EncodedTransaction,
    },
};

const WALL: UnixMillis = UnixMillis(1_700_000_100_000);

fn store() -> Store {
    Store::in_memory(genesis()).expect("memory")
}

/// Builds a block of these transactions, all of which must be included.
fn build(store: &Store, txs: Vec<Arc<EncodedTransaction>>) -> Applied {
    let built = store.build(txs, WALL, &keypair(PRODUCER)).unwrap();
    assert_eq!(built.excluded, []);
    *built.block.expect("a block")
}

/// The same block as a follower gets it: from its bytes.
fn received(applied: &Applied) -> CheckedBlock {
    CheckedBlock::check(&genesis(), applied.block.bytes().clone(), &[]).expect("an honest block")
}

#[test]
fn a_follower_arrives_at_the_producers_state_with_proofs_for_it() {
    let (producer, follower) = (store(), store());
    let blocks = [
        build(&producer, vec![tx(1, 0, vec![put("a", "one", 0), put("b", "two", 0)]), tx(2, 0, vec![put("c", "", 0)])]),
        // Stale: `a` has version 1. The nonce is spent all the same, and `d` is not written.
        build(&producer, vec![tx(1, 1, vec![put("d", "x", 0), put("a", "three", 0)])]),
        build(&producer, vec![tx(1, 2, vec![put("a", "three", 1), delete("b", 1)])]),
    ];
    assert_eq!(blocks[1].receipts, [Receipt::StaleVersion { op: 1, actual: 1 }]);
    for block in &blocks {
        let outcome = follower.apply(received(block)).unwrap();
        assert!(matches!(outcome, ApplyOutcome::Applied(applied) if applied.receipts == block.receipts));
    }
    assert_eq!(follower.head().unwrap(), producer.head().unwrap());
    assert_eq!(follower.next_nonce(&account(1)).unwrap(), 3);

    for (key, entry) in [
        ("a", Some(Entry { version: 2, value: b"three".to_vec() })),
        ("b", None),
        ("c", Some(Entry { version: 1, value: Vec::new() })),
        ("d", None),
    ] {
        let proved = follower.get(key.as_bytes()).unwrap();
        assert_eq!(proved.entry, entry, "{key}");
        let claim = entry.map(|entry| (entry.version, value_hash(&entry.value)));
        proved.proof.verify(proved.head.state_root, &key_hash(key.as_bytes()), claim).unwrap();
    }
    let report = follower.verify().unwrap();
    assert_eq!(report.problems, []);
    assert_eq!((report.height, report.transactions.len()), (3, 4));
    assert_eq!(report, producer.verify().unwrap());
}

#[test]
fn a_producer_leaves_out_what_cannot_stand_and_makes_no_empty_block() {
    let store = store();
    build(&store, vec![tx(1, 0, vec![put("a", "", 0)])]);
    let (spent, early, expired) =
        (tx(1, 0, vec![put("x", "", 0)]), tx(1, 2, vec![put("x", "", 0)]), tx_until(2, 0, 1, vec![put("x", "", 0)]));
    let built = store.build(vec![spent.clone(), early.clone(), expired.clone()], WALL, &keypair(PRODUCER)).unwrap();
    assert!(built.block.is_none());
    let expected = [
        (spent.id, Exclusion::Nonce { nonce: 0, next: 1 }),
        (early.id, Exclusion::Nonce { nonce: 2, next: 1 }),
        (expired.id, Exclusion::Expired(1)),
    ];
    assert_eq!(built.excluded, expected);
    assert_eq!(store.head().unwrap().height, 1);
}

#[test]
fn a_block_holds_what_its_limit_allows_and_the_rest_waits() {
    let mut file = genesis_file();
    file.limits.max_block_bytes = 2_000;
    file.limits.max_tx_bytes = 1_000;
    let genesis = Arc::new(Genesis::new(&file).unwrap());
    let store = Store::in_memory(genesis).unwrap();
    let txs: Vec<_> = (0..9).map(|n| tx(n, 0, vec![put(&format!("k{n}"), &"v".repeat(300), 0)])).collect();
    let built = store.build(txs, WALL, &keypair(PRODUCER)).unwrap().block.unwrap();
    assert!(
        built.block.bytes().len() <= 2_000 && built.block.transactions().len() == 3,
        "{:?}",
        built.block.bytes().len()
    );
}

/// A block like `applied` with another header, properly signed: what a faulty or malicious producer could send.
fn forged(applied: &Applied, change: impl FnOnce(&mut crate::proto::block::Header)) -> CheckedBlock {
    let mut header = applied.block.header().clone();
    change(&mut header);
    CheckedBlock::make(&genesis(), header, applied.block.transactions().to_vec(), &keypair(PRODUCER)).unwrap()
}

#[test]
fn a_block_that_lies_about_anything_changes_nothing() {
    let (producer, follower) = (store(), store());
    let first = build(&producer, vec![tx(1, 0, vec![put("a", "", 0)])]);
    let second = build(&producer, vec![tx(1, 1, vec![put("b", "", 0)])]);

    assert!(matches!(follower.apply(received(&second)).unwrap(), ApplyOutcome::Gap(head) if head.height == 0));
    follower.apply(received(&first)).unwrap();
    assert!(matches!(follower.apply(received(&first)).unwrap(), ApplyOutcome::Known(head) if head.height == 1));
    let before = follower.head().unwrap();

    let refused = |block: CheckedBlock| match follower.apply(block).unwrap() {
        ApplyOutcome::Invalid(error) => error,
        other => panic!("accepted: {other:?}"),
    };
    assert_eq!(refused(forged(&second, |header| header.parent.0[0] ^= 1)), BlockError::Parent);
    assert_eq!(refused(forged(&second, |header| header.time = UnixMillis(1))), BlockError::Time);
    assert_eq!(refused(forged(&second, |header| header.receipts_root = Root::default())), BlockError::ReceiptsRoot);
    assert_eq!(refused(forged(&second, |header| header.state_root.0[9] ^= 1)), BlockError::StateRoot);
    let replay = forged(&first, |header| (header.height, header.parent) = (2, first.block.id()));
    let spent = BlockError::Excluded { index: 0, reason: Exclusion::Nonce { nonce: 0, next: 1 } };
    assert_eq!(refused(replay), spent, "no transaction stands in the chain twice");

    assert_eq!(follower.head().unwrap(), before);
    assert_eq!(follower.verify().unwrap().problems, []);
    follower.apply(received(&second)).unwrap();
    assert_eq!(follower.head().unwrap(), second.head);
}

#[test]
fn a_block_counts_only_whole_and_from_a_producer_of_this_network() {
    let applied = build(&store(), vec![tx(1, 0, vec![put("a", "", 0)])]);
    let bytes = applied.block.bytes();
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        CheckedBlock::check(&genesis(), damaged.into(), &[]).expect_err("every byte is covered");
    }
    let stranger = CheckedBlock::make(
        &genesis(),
        {
            let mut header = applied.block.header().clone();
            header.producer = Producer(*keypair(9).node_id().as_bytes());
            header
        },
        applied.block.transactions().to_vec(),
        &keypair(9),
    );
    let error = CheckedBlock::check(&genesis(), stranger.unwrap().bytes().clone(), &[]).unwrap_err();
    assert_eq!(error, BlockError::UnknownProducer(Producer(*keypair(9).node_id().as_bytes())));
    // The same producer, the same block, another network: the certificate is void there.
    let mut file = genesis_file();
    file.network = "elsewhere".into();
    let error = CheckedBlock::check(&Genesis::new(&file).unwrap(), bytes.clone(), &[]).unwrap_err();
    assert_eq!(error, BlockError::BadCertificate);
}

#[test]
fn a_store_is_opened_only_by_who_it_belongs_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chain.redb");
    let head = {
        let store = Store::open(&path, genesis(), DEFAULT_CACHE_BYTES).unwrap();
        build(&store, vec![tx(1, 0, vec![put("a", "1", 0)])]).head
    };
    let store = Store::open(&path, genesis(), DEFAULT_CACHE_BYTES).unwrap();
    assert_eq!(store.head().unwrap(), head, "what was committed is there after reopening");
    drop(store);

    let mut file = genesis_file();
    file.chain_id += 1;
    let other = Arc::new(Genesis::new(&file).unwrap());
    let error = Store::open(&path, other, DEFAULT_CACHE_BYTES).unwrap_err();
    assert!(matches!(error, OpenError::OtherNetwork { found, .. } if found == genesis().network_id()));

    let db = Database::open(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(tables::META).unwrap().insert(tables::META_SCHEMA, 9u32.to_be_bytes().as_slice()).unwrap();
    txn.commit().unwrap();
    drop(db);
    let error = Store::open(&path, genesis(), DEFAULT_CACHE_BYTES).unwrap_err();
    assert!(matches!(error, OpenError::FutureSchema { found: 9, known: SCHEMA }), "{error}");

    let foreign = dir.path().join("foreign.redb");
    let db = Database::create(&foreign).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(tables::STATE).unwrap();
    txn.commit().unwrap();
    drop(db);
    let error = Store::open(&foreign, genesis(), DEFAULT_CACHE_BYTES).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore(_)), "{error}");
    let error = Store::open_existing(&dir.path().join("absent"), genesis(), DEFAULT_CACHE_BYTES).unwrap_err();
    assert!(matches!(error, OpenError::Database(_)), "{error}");
}

#[test]
fn the_outbox_keeps_what_was_promised_until_it_is_in_a_block_or_never_can_be() {
    let store = store();
    let (soon, never, late) =
        (tx(1, 0, vec![put("a", "", 0)]), tx_until(2, 0, 1, vec![put("b", "", 0)]), tx(3, 0, vec![put("c", "", 0)]));
    store.persist_outbox(&[soon.clone(), never.clone(), late.clone()]).unwrap();
    let waiting = |store: &Store| -> Vec<TxId> { store.load().unwrap().outbox.iter().map(|(tx, _)| tx.id).collect() };
    assert_eq!(waiting(&store).len(), 3);
    build(&store, vec![soon.clone()]);
    assert_eq!(waiting(&store), [late.id], "one is in a block, one expired at height 1");
    store.persist_outbox(&[soon]).unwrap();
    assert_eq!(waiting(&store), [late.id], "what is in a block does not come back");
    // Another transaction with the same nonce was faster.
    build(&store, vec![tx(3, 0, vec![put("d", "", 0)])]);
    assert_eq!(waiting(&store), []);
}

/// A chain of five blocks with every kind of row.
fn story() -> (Store, Vec<Applied>) {
    let store = store();
    let blocks = (0..5u64)
        .map(|n| {
            let mine = format!("mine{n}");
            build(
                &store,
                vec![tx(1, n, vec![put("shared", "v", n), put(&mine, "x", 0)]), tx(2, n, vec![put("stale", "y", 0)])],
            )
        })
        .collect();
    store.persist_outbox(&[tx(3, 0, vec![put("waiting", "", 0)])]).unwrap();
    (store, blocks)
}

fn damage(store: &Store, write: impl FnOnce(&redb::WriteTransaction)) -> Vec<Check> {
    let txn = store.db.begin_write().unwrap();
    write(&txn);
    txn.commit().unwrap();
    let mut found: Vec<Check> = store.verify().unwrap().problems.iter().map(|problem| problem.check).collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn any_row_dropped_is_found() {
    assert_eq!(story().0.verify().unwrap().problems, []);
    macro_rules! drop_one {
        ($table:expr, $($check:ident),+) => {{
            let (store, _) = story();
            let rows = store.db.begin_read().unwrap().open_table($table).unwrap();
            let rows = redb::ReadableTableMetadata::len(&rows).unwrap();
            for victim in 0..rows {
                let (store, _) = story();
                let found = damage(&store, |txn| {
                    let mut at = 0;
                    let mut table = txn.open_table($table).unwrap();
                    table.retain(|_, _| { at += 1; at - 1 != victim }).unwrap();
                });
                $(assert!(found.contains(&Check::$check), "row {victim} of {}: {found:?}", stringify!($table));)+
            }
            assert!(rows > 0);
        }};
    }
    drop_one!(tables::STATE, StateTable);
    drop_one!(tables::NONCES, NonceTable);
    drop_one!(tables::NODES, NodeTable);
    drop_one!(tables::TX_INDEX, TxIndex);
    // A block dropped from the middle leaves a hole, the last one leaves a head without a block.
    for height in 1..=4 {
        let (store, _) = story();
        let found = damage(&store, |txn| {
            txn.open_table(tables::BLOCKS).unwrap().remove(height).unwrap();
        });
        assert!(found.contains(&Check::MissingBlock), "{height}: {found:?}");
    }
    let (store, _) = story();
    let found = damage(&store, |txn| {
        txn.open_table(tables::BLOCKS).unwrap().remove(5).unwrap();
    });
    assert!(found.contains(&Check::Head), "{found:?}");
}

#[test]
fn a_transaction_committed_twice_is_found_even_under_a_proper_certificate() {
    let (store, blocks) = story();
    // The producer itself signs a sixth block that repeats a transaction of the third.
    let again = vec![Arc::clone(&blocks[2].block.transactions()[0])];
    let receipts = [Receipt::Applied];
    let mut header = blocks[4].block.header().clone();
    (header.height, header.parent) = (6, blocks[4].block.id());
    (header.tx_root, header.receipts_root) = (tx_root(&again), receipts_root(&receipts));
    let id = again[0].id;
    let block = CheckedBlock::make(&genesis(), header, again, &keypair(PRODUCER)).unwrap();
    let found = damage(&store, |txn| {
        txn.open_table(tables::BLOCKS).unwrap().insert(6, block.bytes().as_ref()).unwrap();
    });
    assert!(found.contains(&Check::DuplicateTransaction) && found.contains(&Check::Execution), "{found:?}");
    let findings = compare(&[("n1".into(), store.verify().unwrap())], &[]);
    assert!(findings.contains(&Finding { node: "n1".into(), height: 6, check: CrossCheck::Repeated(id) }));
}

#[test]
fn stores_that_differ_are_told_apart() {
    let (whole, blocks) = story();
    let journal: Vec<TxId> =
        blocks.iter().flat_map(|block| block.block.transactions().iter().map(|tx| tx.id)).collect();
    // A store that was cleanly cut off: by itself it is an honest, shorter chain.
    let short = store();
    blocks[..3].iter().for_each(|block| assert!(matches!(short.apply(received(block)), Ok(ApplyOutcome::Applied(_)))));
    // One where the producer signed something else at height 4.
    let forked = store();
    blocks[..3].iter().for_each(|block| assert!(matches!(forked.apply(received(block)), Ok(ApplyOutcome::Applied(_)))));
    build(&forked, vec![tx(1, 3, vec![put("other", "", 0)])]);
    build(&forked, vec![tx(1, 4, vec![put("other", "", 1)])]);

    let report = |name: &str, store: &Store| (name.to_owned(), store.verify().unwrap());
    let (whole, short, forked) = (report("whole", &whole), report("short", &short), report("forked", &forked));
    assert_eq!([&whole, &short, &forked].map(|(_, report)| report.problems.len()), [0; 3]);

    assert_eq!(compare(&[whole.clone(), ("twin".into(), whole.1.clone())], &journal), []);
    let findings = compare(&[whole.clone(), ("twin".into(), whole.1.clone()), short, forked], &journal);
    let of = |node: &str| -> Vec<(u64, CrossCheck)> {
        findings.iter().filter(|finding| finding.node == node).map(|finding| (finding.height, finding.check)).collect()
    };
    assert_eq!((of("whole"), of("twin")), (vec![], vec![]));
    assert_eq!(of("short")[0], (3, CrossCheck::CutOff));
    assert_eq!(of("short").len(), 1 + 4, "and the four acknowledged transactions of heights 4 and 5");
    assert_eq!(of("forked")[0], (4, CrossCheck::OtherBlock));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Random writes against the simplest model of optimistic locking there is.
    #[test]
    fn versions_follow_the_model(
        writes in prop::collection::vec((0u8..4, 0u8..6, 0u64..4, any::<bool>()), 1..40),
        block_size in 1usize..6,
    ) {
        let store = store();
        let (mut model, mut nonces) = (std::collections::BTreeMap::<String, u64>::new(), [0u64; 4]);
        for block in writes.chunks(block_size) {
            let (mut txs, mut expected) = (Vec::new(), Vec::new());
            for (who, key, version, removes) in block {
                let key = format!("k{key}");
                let op = if *removes { delete(&key, *version) } else { put(&key, "v", *version) };
                txs.push(tx(*who, nonces[usize::from(*who)], vec![op]));
                nonces[usize::from(*who)] += 1;
                let actual = model.get(&key).copied().unwrap_or(0);
                expected.push(if actual != *version {
                    Receipt::StaleVersion { op: 0, actual }
                } else {
                    if *removes { model.remove(&key) } else { model.insert(key, actual + 1) };
                    Receipt::Applied
                });
            }
            prop_assert_eq!(build(&store, txs).receipts, expected);
        }
        for key in (0..6).map(|key| format!("k{key}")) {
            let entry = store.get(key.as_bytes()).unwrap().entry;
            prop_assert_eq!(entry.map(|entry| entry.version), model.get(&key).copied());
        }
        prop_assert_eq!(store.verify().unwrap().problems, []);
    }
}

#[test]
fn a_file_without_a_store_in_it_is_never_taken_for_a_new_chain() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("chain.redb");
    drop(Store::open(&path, genesis(), 1 << 20).expect("made, as there was none"));
    let cut = File::options().write(true).open(&path).and_then(|file| file.set_len(0));
    cut.expect("ours");
    // Neither the node nor the offline check makes one of it.
    for open in [Store::open, Store::open_existing] {
        let opened = open(&path, genesis(), 1 << 20);
        assert!(matches!(opened, Err(OpenError::Empty)), "{opened:?}");
        assert_eq!(fs::metadata(&path).expect("still there").len(), 0, "left as it is");
    }
    fs::remove_file(&path).expect("ours");
    drop(Database::create(&path).expect("a database"));
    let before = fs::read(&path).expect("a database");
    for open in [Store::open, Store::open_existing] {
        let opened = open(&path, genesis(), 1 << 20);
        assert!(matches!(opened, Err(OpenError::NotAStore("table of contents"))), "{opened:?}");
        assert!(fs::read(&path).expect("still there") == before, "left as it is");
    }
    fs::remove_file(&path).expect("moved away");
    Store::open(&path, genesis(), 1 << 20).expect("made, as there is none");
}
