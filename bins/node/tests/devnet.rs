//! A devnet as its user sees it: processes, a journal, stores, and a verdict that cannot be fooled.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use peerage::{
    commands::verify::read_journal,
    control::{ControlClient, Request, Response},
    data_dir::DataDir,
    genesis::load_genesis,
};
use peerage_chain::{
    proto::{
        block::{CheckedBlock, Header, Receipt, receipts_root, tx_root},
        genesis::Genesis,
        id::{Producer, TxId},
    },
    store::{ApplyOutcome, Head, Store, TxLocation, tables},
};
use peerage_transport::{
    key_file::{self, KeyKind},
    proto::keypair::Keypair,
};
use peerage_wire::payload;
use redb::{Database, ReadableDatabase, WriteTransaction};
use support::{Finished, Running, alone, eventually};

const NODES: usize = 3;

#[test]
fn a_devnet_agrees_on_everything_it_journalled_and_no_damage_to_its_stores_goes_unnoticed() {
    let _alone = alone();
    let parent = tempfile::tempdir().expect("a temporary directory");
    // Longer than the path of a Unix socket may be.
    let root = parent.path().join("a-very-long-name-".repeat(8)).join("devnet");
    let dir = root.to_str().expect("ASCII");
    let Finished { status, stdout } =
        Running::peerage(&["devnet", "--nodes", "3", "--rate", "40", "--for", "4s", "--dir", dir, "--json"]).finish();
    println!("{stdout}");
    assert!(status.success(), "{status}");

    let journal = read_journal(&root.join("journal")).expect("a journal");
    let last = stdout.lines().last().expect("a last line");
    let line: serde_json::Value = serde_json::from_str(last).expect("the last line is JSON");
    let count = journal.len() as u64;
    assert!(count > 0, "a devnet without load proves nothing");
    for (field, value) in [("submitted", count), ("committed", count), ("rejected", 0), ("nodes", 3), ("peers_min", 2)]
    {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!((line["heads_equal"].as_bool(), line["state_roots_equal"].as_bool()), (Some(true), Some(true)));
    assert_eq!(line["propagation_ms"]["n"], count * 2);

    untouched(&root);
    dropped_rows(&root);
    committed_twice(&root, &journal);
    cut_off(&root);
    forked(&root);
}

/// A copy in which nothing was changed passes, with and without the journal, together and alone.
fn untouched(root: &Path) {
    let copy = Copy::of(root);
    let Finished { status, stdout } = copy.verify();
    assert!(status.success() && stdout.contains("ok: 3 stores"), "{stdout}");
    let alone = copy.node(1);
    let Finished { status, stdout } = Running::peerage(&["verify", "--dir", alone.to_str().expect("ASCII")]).finish();
    assert!(status.success() && stdout.contains("ok: the store is consistent"), "{stdout}");
}

/// Whichever table loses a row, the node, the height and the check are named.
fn dropped_rows(root: &Path) {
    let copy = Copy::of(root);
    let (middle, last) = copy.change(2, |db| {
        let head = head(db);
        let middle = head.height / 2;
        let txn = db.begin_write().expect("a transaction");
        let removed = txn.open_table(tables::BLOCKS).expect("blocks").remove(middle).expect("readable").is_some();
        assert!(removed, "a devnet makes several blocks in its time");
        txn.commit().expect("committed");
        (middle, head.height)
    });
    copy.refused(&format!("node-2: height {middle}: MissingBlock"));

    let copy = Copy::of(root);
    let (height, tx) = copy.change(2, |db| {
        let txn = db.begin_write().expect("a transaction");
        let (tx, location) = {
            let mut index = txn.open_table(tables::TX_INDEX).expect("an index");
            let (tx, location) = index.pop_first().expect("readable").expect("it is not empty");
            (TxId(*tx.value()), location.value().to_vec())
        };
        txn.commit().expect("committed");
        (payload::from_bytes::<TxLocation>(&location, 128).expect("a location").height, tx)
    });
    copy.refused(&format!("node-2: height {height}: TxIndex: the row of {tx}"));

    type DropRow = fn(&WriteTransaction) -> bool;
    let damages: [(&str, DropRow); 3] = [
        ("StateTable", |txn| txn.open_table(tables::STATE).expect("state").pop_first().expect("readable").is_some()),
        ("NonceTable", |txn| txn.open_table(tables::NONCES).expect("nonces").pop_last().expect("readable").is_some()),
        ("NodeTable", |txn| txn.open_table(tables::NODES).expect("nodes").pop_last().expect("readable").is_some()),
    ];
    for (check, drop_row) in damages {
        let copy = Copy::of(root);
        copy.change(0, |db| {
            let txn = db.begin_write().expect("a transaction");
            assert!(drop_row(&txn), "there was a row");
            txn.commit().expect("committed");
        });
        copy.refused(&format!("node-0: height {last}: {check}"));
    }
}

/// A producer's signature does not make a second inclusion right.
fn committed_twice(root: &Path, journal: &[TxId]) {
    let copy = Copy::of(root);
    let (genesis, producer) = (copy.genesis(), copy.producer());
    let (height, id) = copy.change(0, |db| {
        let head = head(db);
        let block = CheckedBlock::check(&genesis, block(db, head.height).expect("the last block"), &[]).expect("valid");
        let twice = vec![Arc::clone(&block.transactions()[0])];
        let id = twice[0].id;
        let receipts = [Receipt::Applied];
        let header = Header {
            height: head.height + 1,
            parent: head.id,
            time: head.time,
            tx_root: tx_root(&twice),
            receipts_root: receipts_root(&receipts),
            state_root: head.state_root,
            producer: Producer(*producer.node_id().as_bytes()),
        };
        let block = CheckedBlock::make(&genesis, header, twice, &producer).expect("it can be signed");
        let head = Head { height: head.height + 1, id: block.id(), ..head };
        let txn = db.begin_write().expect("a transaction");
        txn.open_table(tables::BLOCKS).expect("blocks").insert(head.height, block.bytes().as_ref()).expect("written");
        let row = payload::to_bytes(&head);
        txn.open_table(tables::META).expect("meta").insert(tables::META_HEAD, row.as_slice()).expect("written");
        txn.commit().expect("committed");
        (head.height, id)
    });
    assert!(journal.contains(&id));
    copy.refused(&format!("node-0: height {height}: DuplicateTransaction: {id}"));
    copy.refused(&format!("node-0: height {height}: Repeated: {id}"));
}

/// A store that is sound by itself but ends early is short of what was acknowledged.
fn cut_off(root: &Path) {
    let copy = Copy::of(root);
    let height = copy.rebuild(1, |_| {});
    copy.refused(&format!("node-1: height {height}: CutOff"));
    copy.refused(&format!("node-1: height {height}: AcknowledgedMissing"));
    let alone = copy.node(1);
    let alone = Running::peerage(&["verify", "--dir", alone.to_str().expect("ASCII")]).finish();
    assert!(alone.status.success(), "by itself it is consistent: {}", alone.stdout);
}

/// A store that is sound by itself but has another block than the others.
fn forked(root: &Path) {
    let copy = Copy::of(root);
    let (genesis, producer) = (copy.genesis(), copy.producer());
    let last = copy.change(0, |db| block(db, head(db).height).expect("the last block"));
    let last = CheckedBlock::check(&genesis, last, &[]).expect("valid");
    let height = copy.rebuild(2, |store| {
        let time = peerage_core::UnixMillis(last.header().time.0 + 1);
        let built = store.build(last.transactions().to_vec(), time, &producer).expect("the store works");
        assert!(built.block.is_some() && built.excluded.is_empty());
    });
    copy.refused(&format!("node-2: height {}: OtherBlock", height + 1));
}

#[test]
fn without_a_time_it_runs_until_it_is_interrupted_and_then_ends_in_order() {
    let _alone = alone();
    let mut devnet = Running::peerage(&["devnet", "--nodes", "2", "--rate", "20", "--json"]);
    let before = devnet.prints("2s ");
    assert!(before.contains("peerage status --dir"), "it says where to look: {before}");
    devnet.signal("INT");
    let Finished { status, stdout } = devnet.finish();
    println!("{before}{stdout}");
    assert!(status.success(), "{status}");
    let line: serde_json::Value = serde_json::from_str(stdout.lines().last().expect("a last line")).expect("JSON");
    assert!(line["submitted"].as_u64().is_some_and(|count| count > 0) && line["submitted"] == line["committed"]);
}

#[test]
fn a_devnet_over_mutual_tls_ends_as_one_over_noise() {
    let _alone = alone();
    let Finished { status, stdout } =
        Running::peerage(&["devnet", "--security", "mtls", "--nodes", "3", "--rate", "20", "--for", "2s", "--json"])
            .finish();
    assert!(status.success(), "{status}: {stdout}");
    let last = stdout.lines().last().expect("a last line");
    let line: serde_json::Value = serde_json::from_str(last).expect("the last line is JSON");
    assert_eq!((line["nodes"].as_u64(), line["peers_min"].as_u64()), (Some(3), Some(2)), "{stdout}");
    assert_eq!((line["heads_equal"].as_bool(), line["state_roots_equal"].as_bool()), (Some(true), Some(true)));
    assert!(line["committed"].as_u64() > Some(0) && line["committed"] == line["submitted"], "{stdout}");
}

#[test]
fn nodes_do_not_outlive_a_devnet_that_is_killed() {
    let _alone = alone();
    let parent = tempfile::tempdir().expect("a temporary directory");
    let root = parent.path().join("devnet");
    let dir = root.to_str().expect("ASCII");
    let mut devnet = Running::peerage(&["devnet", "--nodes", "2", "--rate", "20", "--dir", dir]);
    devnet.prints("1s ");
    let nodes = ["node-0", "node-1"].map(|name| DataDir::open(&root.join(name)).expect("a node's directory"));
    for node in &nodes {
        assert!(node.lock().is_err(), "its node runs");
    }
    devnet.kill();
    for node in &nodes {
        eventually("the node ends", || node.lock().is_ok());
    }
}

#[test]
fn a_node_that_ends_by_itself_fails_the_devnet_and_everything_is_kept() {
    let _alone = alone();
    let parent = tempfile::tempdir().expect("a temporary directory");
    let root = parent.path().join("devnet");
    let mut devnet =
        Running::peerage(&["devnet", "--nodes", "2", "--rate", "20", "--dir", root.to_str().expect("ASCII")]);
    devnet.prints("1s ");
    let node = root.join("node-1");
    let stopped = async {
        let dir = DataDir::open(&node).expect("a node's directory");
        ControlClient::connect(&dir).await?.call(Request::Shutdown).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    assert_eq!(runtime.block_on(stopped).expect("it answers"), Response::Stopping);
    let Finished { status, stdout } = devnet.finish();
    assert_eq!(status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("node-1 ended by itself with exit code 0") && stdout.contains("is kept"), "{stdout}");
    assert!(node.join("log").exists());
}

/// A copy of the stores of a devnet, to be damaged.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(root: &Path) -> Self {
        let copy = Self(tempfile::tempdir().expect("a temporary directory"));
        let take = |name: &str| fs::copy(root.join(name), copy.0.path().join(name)).expect("copied");
        take("journal");
        for index in 0..NODES {
            DataDir::create(&copy.node(index)).expect("created");
            take(&format!("node-{index}/genesis.toml"));
            take(&format!("node-{index}/chain.redb"));
        }
        take("node-1/producer.key");
        copy
    }

    fn node(&self, index: usize) -> PathBuf {
        self.0.path().join(format!("node-{index}"))
    }

    fn genesis(&self) -> Arc<Genesis> {
        Arc::new(load_genesis(&self.node(0).join("genesis.toml")).expect("a genesis"))
    }

    fn producer(&self) -> Keypair {
        key_file::load(&self.node(1).join("producer.key"), KeyKind::Producer).expect("the producer's key")
    }

    fn change<T>(&self, index: usize, change: impl FnOnce(&Database) -> T) -> T {
        change(&Database::open(self.node(index).join("chain.redb")).expect("a store"))
    }

    /// Replaces a store by one that holds all blocks but the last, and what `then` does to it. Returns the height before.
    fn rebuild(&self, index: usize, then: impl FnOnce(&Store)) -> u64 {
        let genesis = self.genesis();
        let blocks = self.change(index, |db| {
            (1..head(db).height).map(|height| block(db, height).expect("a block")).collect::<Vec<_>>()
        });
        assert!(!blocks.is_empty(), "a devnet makes several blocks in its time");
        let path = self.node(index).join("chain.redb");
        fs::remove_file(&path).expect("removed");
        let store = Store::open(&path, Arc::clone(&genesis), 1 << 20).expect("a new store");
        for bytes in &blocks {
            let block = CheckedBlock::check(&genesis, bytes.clone(), &[]).expect("valid");
            assert!(matches!(store.apply(block), Ok(ApplyOutcome::Applied(_))));
        }
        then(&store);
        blocks.len() as u64
    }

    fn verify(&self) -> Finished {
        let journal = self.0.path().join("journal");
        let mut args = vec!["verify".to_owned(), "--journal".to_owned(), journal.display().to_string()];
        args.extend((0..NODES).flat_map(|index| ["--dir".to_owned(), self.node(index).display().to_string()]));
        Running::peerage(&args.iter().map(String::as_str).collect::<Vec<_>>()).finish()
    }

    /// Verification fails, and a line begins with `finding`.
    fn refused(&self, finding: &str) {
        let Finished { status, stdout } = self.verify();
        assert_eq!(status.code(), Some(1), "{stdout}");
        assert!(stdout.lines().any(|line| line.starts_with(finding)), "no `{finding}` in:\n{stdout}");
        assert!(stdout.contains("FAILED"), "{stdout}");
    }
}

fn head(db: &Database) -> Head {
    let txn = db.begin_read().expect("a transaction");
    let meta = txn.open_table(tables::META).expect("meta");
    let row = meta.get(tables::META_HEAD).expect("readable").expect("a head").value().to_vec();
    payload::from_bytes(&row, 128).expect("a head")
}

fn block(db: &Database, height: u64) -> Option<Bytes> {
    let blocks = db.begin_read().expect("a transaction").open_table(tables::BLOCKS).expect("blocks");
    let row = blocks.get(height).expect("readable")?;
    Some(Bytes::copy_from_slice(row.value()))
}
