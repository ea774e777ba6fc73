//! The load: the transactions of one real Bitcoin block, each put under its txid by one of fifty accounts.

use bitcoin::{Block, consensus, hashes::Hash};
use peerage_chain::proto::{
    genesis::Genesis,
    id::Account,
    transaction::{EncodedTransaction, Op, Transaction, TransactionBody},
};
use peerage_transport::proto::keypair::Keypair;

use crate::dice::Dice;

/// How many accounts share the transactions: number `i` of the block is the business of account `i % ACCOUNTS`.
pub(crate) const ACCOUNTS: usize = 50;
/// More blocks than any run makes.
const VALID_UNTIL: u64 = 1_000_000;

/// One transaction of the Bitcoin block, and the one of ours that carries it.
#[derive(Debug)]
pub(crate) struct Item {
    /// Its txid, in the order in which Bitcoin hashes it.
    pub(crate) key: Vec<u8>,
    /// Its bytes on Bitcoin's wire, witnesses included.
    pub(crate) value: Vec<u8>,
    /// What is submitted.
    pub(crate) carrier: EncodedTransaction,
}

/// The bytes of mainnet block 702861.
pub(crate) fn raw() -> &'static [u8] {
    bitcoin_test_data::blocks::mainnet_702861()
}

/// The block itself.
pub(crate) fn mainnet() -> Block {
    consensus::deserialize(raw()).expect("the crate carries a valid block")
}

/// Its transactions in their order, each signed by its account.
pub(crate) fn items(genesis: &Genesis, dice: &Dice) -> Vec<Item> {
    let block = mainnet();
    let accounts: Vec<Keypair> = (0..ACCOUNTS).map(|n| dice.keypair(&format!("account {n}"))).collect();
    let carried = block.txdata.iter().zip(0_u64..).zip(accounts.iter().cycle());
    let items: Vec<Item> = carried
        .map(|((tx, index), account)| {
            let (key, value) = (tx.compute_txid().to_byte_array().to_vec(), consensus::serialize(tx));
            let body = TransactionBody {
                chain_id: genesis.chain_id(),
                account: Account(*account.node_id().as_bytes()),
                nonce: index / ACCOUNTS as u64,
                valid_until: VALID_UNTIL,
                ops: vec![Op::Put { key: key.clone(), value: value.clone(), expected_version: 0 }],
            };
            let carrier = Transaction::sign(body, account).and_then(Transaction::encode).expect("within the limits");
            Item { key, value, carrier }
        })
        .collect();
    let sizes = || items.iter().map(|item| item.value.len());
    assert_eq!((raw().len(), items.len(), sizes().min(), sizes().max()), (1_381_836, 2_500, Some(188), Some(170_363)));
    items
}
