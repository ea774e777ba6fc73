//! What tests of this crate share: keys from numbers, a small network, transactions in one line.

use std::sync::Arc;

use peerage_core::UnixMillis;
use peerage_transport::proto::keypair::Keypair;

use crate::proto::{
    genesis::{Genesis, GenesisFile},
    id::{Account, Producer},
    transaction::{EncodedTransaction, Op, Transaction, TransactionBody},
};

pub(crate) const CHAIN: u64 = 7;
/// Number of the producer's key.
pub(crate) const PRODUCER: u8 = 200;

pub(crate) fn keypair(number: u8) -> Keypair {
    Keypair::from_seed(&[number; 32])
}

pub(crate) fn account(number: u8) -> Account {
    Account(*keypair(number).node_id().as_bytes())
}

pub(crate) fn genesis_file() -> GenesisFile {
    let producer = Producer(*keypair(PRODUCER).node_id().as_bytes());
    GenesisFile::solo(CHAIN, "test", producer, UnixMillis(1_700_000_000_000))
}

pub(crate) fn genesis() -> Arc<Genesis> {
    Arc::new(Genesis::new(&genesis_file()).expect("a valid genesis"))
}

pub(crate) fn put(key: &str, value: &str, expected_version: u64) -> Op {
    Op::Put { key: key.into(), value: value.into(), expected_version }
}

pub(crate) fn delete(key: &str, expected_version: u64) -> Op {
    Op::Delete { key: key.into(), expected_version }
}

pub(crate) fn tx(number: u8, nonce: u64, ops: Vec<Op>) -> Arc<EncodedTransaction> {
    tx_until(number, nonce, u64::MAX, ops)
}

pub(crate) fn tx_until(number: u8, nonce: u64, valid_until: u64, ops: Vec<Op>) -> Arc<EncodedTransaction> {
    let body = TransactionBody { chain_id: CHAIN, account: account(number), nonce, valid_until, ops };
    Arc::new(Transaction::sign(body, &keypair(number)).expect("a valid transaction").encode().expect("small"))
}
