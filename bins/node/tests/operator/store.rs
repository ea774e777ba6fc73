//! Stores that are damaged, cut, of another network or of another version: refused, told what to do, and left as they are.

use std::{fs, path::Path, sync::Arc};

use peerage::genesis::load_genesis;
use peerage_chain::{
    proto::{
        id::Account,
        transaction::{EncodedTransaction, Op, Transaction, TransactionBody},
    },
    store::{Store, tables},
};
use peerage_core::UnixMillis;
use peerage_transport::{
    key_file::{self, KeyKind},
    proto::keypair::Keypair,
};
use redb::Database;

use crate::{program::Home, support::alone};

/// Gives a node that does not run a chain of so many blocks more, each of one transaction and of this time. Returns its head.
pub(crate) fn grow(home: &Home, blocks: u64, time: UnixMillis) -> String {
    let genesis = Arc::new(load_genesis(&home.dir.genesis()).expect("a genesis"));
    let producer = key_file::load(&home.dir.producer_key(), KeyKind::Producer).expect("a key");
    let store = Store::open(&home.dir.store(), Arc::clone(&genesis), 1 << 20).expect("a store");
    let signer = Keypair::from_seed(&[9; 32]);
    let account = Account(*signer.node_id().as_bytes());
    let next = store.next_nonce(&account).expect("readable");
    for nonce in next..next + blocks {
        let put = Op::Put { key: format!("grown {nonce}").into_bytes(), value: vec![7; 2_000], expected_version: 0 };
        let body =
            TransactionBody { chain_id: genesis.chain_id(), account, nonce, valid_until: 1_000_000, ops: vec![put] };
        let tx: EncodedTransaction = Transaction::sign(body, &signer).expect("valid").encode().expect("small");
        let built = store.build(vec![Arc::new(tx)], time, &producer).expect("the store works");
        assert!(built.block.is_some() && built.excluded.is_empty());
    }
    store.head().expect("readable").id.to_string()
}

/// The database engine's page, in bytes.
const PAGE: usize = 4096;
const TIME: UnixMillis = UnixMillis(1_800_000_000_000);

/// A node that stopped with a chain of 100 blocks.
fn stopped(ground: &Path) -> (Home, String) {
    let home = Home::new(&ground.join("node"));
    let head = grow(&home, 100, TIME);
    (home, head)
}

/// The store is refused by `run` with this code and these words and by `verify` as well, and neither changes it; what it was
/// before is good for another start.
#[track_caller]
fn refused(home: &Home, head: &str, damage: impl FnOnce(&Path), code: i32, words: &[&str]) {
    let path = home.dir.store();
    let before = fs::read(&path).expect("a store");
    damage(&path);
    let damaged = fs::read(&path).expect("a store");
    assert!(damaged != before, "nothing was done to it");
    home.run().ends().failed(code, words);
    assert!(fs::read(&path).expect("still there") == damaged, "`run` changed what it refused");
    let verified = home.verify();
    assert!(verified.stdout.contains("FAILED"), "{verified:?}");
    assert!(fs::read(&path).expect("still there") == damaged, "`verify` changed what it refused");
    fs::write(&path, before).expect("restored from a backup");
    home.still_has(head);
}

const MENDED: [&str; 1] = ["restore it from a backup, or move it away"];

#[test]
fn a_store_that_was_cut_is_refused_wherever_it_was_cut() {
    let _alone = alone();
    let ground = tempfile::tempdir().expect("a temporary directory");
    let (home, head) = stopped(ground.path());
    for eighths in [0, 1, 4, 7] {
        let cut = |path: &Path| {
            let file = fs::OpenOptions::new().write(true).open(path).expect("ours");
            file.set_len(file.metadata().expect("ours").len() * eighths / 8).expect("cut");
        };
        refused(&home, &head, cut, 74, &MENDED);
    }
}

#[test]
fn bytes_that_changed_in_the_middle_of_a_store_are_noticed_before_anything_is_built_on_them() {
    let _alone = alone();
    let ground = tempfile::tempdir().expect("a temporary directory");
    let (home, head) = stopped(ground.path());
    let path = home.dir.store();
    let sound = fs::read(&path).expect("a store");
    let mut noticed = 0;
    // One page in eight, of blocks, state, tree, index and of the engine's own.
    for page in (0..sound.len()).step_by(8 * PAGE) {
        let mut bytes = sound.clone();
        bytes[page + 100..page + 120].iter_mut().for_each(|byte| *byte ^= 0x55);
        fs::write(&path, &bytes).expect("written");
        match home.run_until_open() {
            Some(node) => {
                // Nothing is on that page: then nothing was lost.
                node.terminate().succeeded();
                home.verify().succeeded();
            }
            None => {
                fs::write(&path, &sound).expect("written");
                refused(&home, &head, |path| fs::write(path, &bytes).expect("written"), 74, &MENDED);
                noticed += 1;
            }
        }
    }
    assert!(noticed >= 10, "{noticed} of the damages were noticed: is the store so empty?");
}

#[test]
fn a_store_of_another_network_is_refused_with_both_names() {
    let _alone = alone();
    let ground = tempfile::tempdir().expect("a temporary directory");
    let (home, head) = stopped(ground.path());
    let other = Home::new(&ground.path().join("other"));
    grow(&other, 3, TIME);
    let swap = |path: &Path| {
        fs::copy(other.dir.store(), path).expect("copied");
    };
    let networks = [&home, &other].map(|home| load_genesis(&home.dir.genesis()).expect("a genesis").network_id());
    let [ours, theirs] = networks.map(|id| id.to_string());
    let words =
        [&format!("belongs to network {theirs}, not to {ours}"), "put back the genesis", "another data directory"];
    refused(&home, &head, swap, 74, &words.map(|word: &str| word));
}

#[test]
fn a_store_of_a_later_version_is_not_guessed_at() {
    let _alone = alone();
    let ground = tempfile::tempdir().expect("a temporary directory");
    let (home, head) = stopped(ground.path());
    let later = |path: &Path| {
        let db = Database::open(path).expect("a database");
        let txn = db.begin_write().expect("a transaction");
        let version = (tables::SCHEMA + 1).to_be_bytes();
        txn.open_table(tables::META).expect("meta").insert(tables::META_SCHEMA, version.as_slice()).expect("written");
        txn.commit().expect("committed");
    };
    let words = ["schema 2, this version knows 1", "run the later version that wrote it"];
    refused(&home, &head, later, 74, &words);
}

#[test]
fn a_file_that_is_no_store_is_refused_and_not_overwritten() {
    let _alone = alone();
    let ground = tempfile::tempdir().expect("a temporary directory");
    let (home, head) = stopped(ground.path());
    let letter = |path: &Path| fs::write(path, "Dear operator, ".repeat(10_000)).expect("written");
    refused(&home, &head, letter, 74, &["it is no database", "move it away"]);
    let foreign = |path: &Path| {
        fs::remove_file(path).expect("ours");
        let db = Database::create(path).expect("a database");
        let txn = db.begin_write().expect("a transaction");
        txn.open_table(redb::TableDefinition::<u64, u64>::new("accounts")).expect("a table");
        txn.commit().expect("committed");
    };
    refused(&home, &head, foreign, 74, &["not a store of this program", "move it out of the data directory"]);
}
