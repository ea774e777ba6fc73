//! An account of the load: what it writes next, in an order that nothing can make stale.

use peerage_chain::proto::{
    id::Account,
    transaction::{EncodedTransaction, Op, Transaction, TransactionBody},
};
use peerage_transport::proto::keypair::Keypair;

/// Bytes of a value. 250: about the median of a Bitcoin block's transactions (parameters, 6.4).
pub const VALUE_BYTES: usize = 250;
/// Keys that an account writes in turn. Our guess: most writes are updates, and the state does not grow without end.
const KEYS: u64 = 16;

/// A key pair that writes its own keys, one after the other. Nobody else writes them, so the nonce tells the version of
/// each.
#[derive(Debug)]
pub struct Writer {
    keypair: Keypair,
    chain_id: u64,
    nonce: u64,
}

impl Writer {
    /// A new account.
    pub const fn new(chain_id: u64, keypair: Keypair) -> Self {
        Self { keypair, chain_id, nonce: 0 }
    }

    /// The next transaction. Until [`taken`](Self::taken) is called, the next one has the same nonce: a refusal leaves no
    /// gap behind. With another value it is another transaction.
    pub fn next(&self, value: [u8; VALUE_BYTES]) -> EncodedTransaction {
        let account = Account(*self.keypair.node_id().as_bytes());
        let key = format!("devnet/{account}/{}", self.nonce % KEYS).into_bytes();
        let op = Op::Put { key, value: value.to_vec(), expected_version: self.nonce / KEYS };
        let (chain_id, nonce) = (self.chain_id, self.nonce);
        let body = TransactionBody { chain_id, account, nonce, valid_until: u64::MAX, ops: vec![op] };
        let tx = Transaction::sign(body, &self.keypair).and_then(Transaction::encode);
        tx.expect("one small operation is within every limit")
    }

    /// A node promised to bring the last one into the chain.
    pub const fn taken(&mut self) {
        self.nonce += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerage_chain::{
        proto::{
            block::Receipt,
            genesis::{Genesis, GenesisFile},
            id::Producer,
        },
        store::{Store, verify::verify_file},
    };
    use peerage_core::UnixMillis;
    use std::sync::Arc;

    #[test]
    fn every_write_applies_and_a_refused_one_leaves_no_gap() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let producer = Keypair::from_seed(&[1; 32]);
        let file = GenesisFile::solo(3, "n", Producer(*producer.node_id().as_bytes()), UnixMillis(0));
        let genesis = Arc::new(Genesis::new(&file).expect("valid"));
        let path = dir.path().join("store");
        let store = Store::open(&path, Arc::clone(&genesis), 1 << 20).expect("a new store");
        let mut writer = Writer::new(3, Keypair::from_seed(&[2; 32]));
        for _ in 0..3 {
            let mut txs = Vec::new();
            for _ in 0..KEYS {
                let refused = writer.next([0; VALUE_BYTES]);
                let tx = writer.next([1; VALUE_BYTES]);
                assert_ne!(refused.id, tx.id);
                txs.push(Arc::new(tx));
                writer.taken();
            }
            let built = store.build(txs, UnixMillis(1), &producer).expect("the store works");
            let block = built.block.expect("there is something to include");
            assert!(built.excluded.is_empty() && block.receipts.len() == KEYS as usize);
            assert!(block.receipts.iter().all(|receipt| *receipt == Receipt::Applied));
        }
        drop(store);
        assert!(verify_file(&path, genesis).expect("readable").problems.is_empty());
    }
}
