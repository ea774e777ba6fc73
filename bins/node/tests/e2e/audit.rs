//! What the stores of stopped nodes hold, each looked at alone.

use std::{sync::Arc, thread};

use bitcoin::{Block, consensus};
use peerage::data_dir::DataDir;
use peerage_chain::{
    proto::{genesis::Genesis, id::TxId},
    store::{DEFAULT_CACHE_BYTES, Report, Store, compare},
};

use crate::block::{self, Item};

/// Checks that each store is sound, holds every transaction once, and gives back the Bitcoin block bit by bit; then
/// that all stores agree.
pub(crate) fn audit(dirs: &[DataDir], genesis: &Arc<Genesis>, items: &[Item]) {
    let audits: Vec<(String, Report)> = thread::scope(|scope| {
        let audits: Vec<_> = dirs.iter().map(|dir| scope.spawn(|| audit_one(dir, genesis, items))).collect();
        let joined = audits.into_iter().zip(0..).map(|(audit, number)| {
            let report = audit.join().unwrap_or_else(|_| panic!("the store of node {number} is not as it should be"));
            (format!("node {number}"), report)
        });
        joined.collect()
    });
    let journal: Vec<TxId> = items.iter().map(|item| item.carrier.id).collect();
    assert_eq!(compare(&audits, &journal), []);
}

fn audit_one(dir: &DataDir, genesis: &Arc<Genesis>, items: &[Item]) -> Report {
    let store = Store::open_existing(&dir.store(), Arc::clone(genesis), DEFAULT_CACHE_BYTES).expect("a store");
    let report = store.verify().expect("a readable store");
    assert_eq!(report.problems, []);

    // Nothing lost, nothing twice, and nothing that nobody submitted.
    let mut found: Vec<TxId> = report.transactions.iter().map(|(_, id)| *id).collect();
    let mut submitted: Vec<TxId> = items.iter().map(|item| item.carrier.id).collect();
    found.sort();
    submitted.sort();
    assert!(found == submitted, "{} transactions in the chain, {} submitted", found.len(), submitted.len());

    // Nothing changed: Bitcoin itself is the judge of that.
    let transactions = items.iter().map(|item| {
        let entry = store.get(&item.key).expect("a readable store").entry.expect("every txid is a key");
        assert_eq!(entry.version, 1, "written once");
        assert!(entry.value == item.value, "the value under a txid is not what was put there");
        consensus::deserialize(&entry.value).expect("a transaction")
    });
    let real = block::mainnet();
    let rebuilt = Block { header: real.header, txdata: transactions.collect() };
    assert_eq!(rebuilt.compute_merkle_root(), Some(real.header.merkle_root), "the root in the real header");
    assert!(rebuilt.check_witness_commitment(), "the root of the witnesses in the real coinbase");
    assert!(consensus::serialize(&rebuilt) == block::raw(), "the block, bit by bit");
    report
}
