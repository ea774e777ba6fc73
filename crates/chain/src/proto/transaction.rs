//! Transactions: what an account asks the chain to write.

use bytes::Bytes;
use core::fmt;
use peerage_transport::proto::keypair::Keypair;
use peerage_wire::payload;
use serde::{Deserialize, Deserializer, Serialize, de};
use thiserror::Error;

use super::{
    id::{Account, Signature, TxId, blob, hash},
    sign,
};

/// Longest key, in bytes. Our guess: a path or a hash with room to spare, and a proof stays small.
pub const MAX_KEY_BYTES: usize = 256;
/// Most operations of one transaction. Our guess: enough for a batch, few enough that a refusal names one at a glance.
pub const MAX_OPS: usize = 64;
/// Largest encoded transaction of any network, in bytes (parameters, 6.1): eight fit into one message.
pub const MAX_TX_BYTES: usize = 256 * 1024;

/// What a transaction costs in the pool besides itself: its entries in six ordered maps, of which that of its account has room
/// for eleven (our measurement: 1,160 B for each of ten thousand accounts with one transaction).
const INDEX_BYTES: usize = 1_200;

const SIGNED: &str = "peerage-chain-tx-v1";
const ID: &str = "peerage-chain-tx-id-v1";

/// One write. The expected version is the writer's optimistic lock: the operation, and its whole transaction, applies
/// only if the key still has this version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Sets a key; its version becomes `expected_version + 1`.
    Put {
        /// Raw key, 1 to [`MAX_KEY_BYTES`] bytes.
        #[serde(with = "blob")]
        key: Vec<u8>,
        /// Raw value, bounded by the size of the transaction.
        #[serde(with = "blob")]
        value: Vec<u8>,
        /// The version that the key must have; 0 if it must be absent.
        expected_version: u64,
    },
    /// Removes a key, which is then absent and has version 0 again.
    Delete {
        /// Raw key, 1 to [`MAX_KEY_BYTES`] bytes.
        #[serde(with = "blob")]
        key: Vec<u8>,
        /// The version that the key must have. Removing an absent key with 0 is permitted and does nothing.
        expected_version: u64,
    },
}

impl Op {
    /// The key it writes.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// The version that the key must have.
    pub fn expected_version(&self) -> u64 {
        match self {
            Self::Put { expected_version, .. } | Self::Delete { expected_version, .. } => *expected_version,
        }
    }
}

/// The signed part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionBody {
    /// The chain it is meant for, from the genesis: void on every other.
    pub chain_id: u64,
    /// Who signs. Any account may write any key.
    pub account: Account,
    /// How many transactions of this account the chain holds before this one; the first is 0.
    pub nonce: u64,
    /// The last height at which a block may include it.
    pub valid_until: u64,
    /// What it writes, in order, all or nothing.
    #[serde(deserialize_with = "few")]
    pub ops: Vec<Op>,
}

/// Reads no more operations than there may be: the smallest take 3 bytes on the wire and twenty times as much in memory.
fn few<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Op>, D::Error> {
    struct Ops;
    impl<'de> de::Visitor<'de> for Ops {
        type Value = Vec<Op>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{MAX_OPS} operations at most")
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Op>, A::Error> {
            let mut ops = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(MAX_OPS));
            while let Some(op) = seq.next_element()? {
                if ops.len() == MAX_OPS {
                    return Err(de::Error::custom("too many operations"));
                }
                ops.push(op);
            }
            Ok(ops)
        }
    }
    deserializer.deserialize_seq(Ops)
}

/// A signed transaction. Encoded as canonical postcard; two encodings of one transaction do not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// What is signed.
    pub body: TransactionBody,
    /// By the account, over the canonical body behind its domain string.
    pub signature: Signature,
}

/// Read and written part by part; a list of operations is refused or kept as it is.
impl payload::Exact for Transaction {}

/// What is wrong with a transaction by itself, whatever the state. The fault of whoever made it or passed it on
/// unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum TransactionError {
    /// Larger than the network permits.
    #[error("{bytes} bytes, the network permits {max}")]
    TooLarge {
        /// Its encoded size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Not the canonical encoding of a transaction.
    #[error("not the canonical encoding of a transaction")]
    Malformed,
    /// Meant for another chain.
    #[error("meant for chain {0}")]
    WrongChain(u64),
    /// No operation, or more than [`MAX_OPS`].
    #[error("{0} operations, 1 to {MAX_OPS} are permitted")]
    OpCount(u64),
    /// An empty key, or one longer than [`MAX_KEY_BYTES`].
    #[error("the key of operation {op} has {bytes} bytes, 1 to {MAX_KEY_BYTES} are permitted")]
    KeyLength {
        /// Which operation.
        op: u32,
        /// Bytes of its key.
        bytes: u64,
    },
    /// The signature is not the account's.
    #[error("the signature is not the account's")]
    BadSignature,
}

impl TransactionError {
    /// A stable name for metrics and logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed => "malformed",
            Self::WrongChain(_) => "wrong_chain",
            Self::OpCount(_) => "op_count",
            Self::KeyLength { .. } => "key_length",
            Self::BadSignature => "bad_signature",
        }
    }
}

/// A transaction with its encoding and its id, computed once and shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedTransaction {
    /// The transaction.
    pub tx: Transaction,
    /// Its canonical encoding.
    pub bytes: Bytes,
    /// Its id.
    pub id: TxId,
}

impl Transaction {
    /// Signs a body.
    ///
    /// # Errors
    /// [`TransactionError::TooLarge`] if it cannot be encoded within [`MAX_TX_BYTES`], and those of
    /// [`check`](Self::check), each the caller's fault.
    pub fn sign(body: TransactionBody, keypair: &Keypair) -> Result<Self, TransactionError> {
        let signature = sign::sign(keypair, SIGNED, &[&encode_body(&body)?]);
        let tx = Self { body, signature };
        tx.check(tx.body.chain_id)?;
        Ok(tx)
    }

    /// The checks that need nothing but the transaction and cost little: chain, operations, keys.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(&self, chain_id: u64) -> Result<(), TransactionError> {
        if self.body.chain_id != chain_id {
            return Err(TransactionError::WrongChain(self.body.chain_id));
        }
        if self.body.ops.is_empty() || self.body.ops.len() > MAX_OPS {
            return Err(TransactionError::OpCount(self.body.ops.len() as u64));
        }
        for (op, index) in self.body.ops.iter().zip(0..) {
            if op.key().is_empty() || op.key().len() > MAX_KEY_BYTES {
                return Err(TransactionError::KeyLength { op: index, bytes: op.key().len() as u64 });
            }
        }
        Ok(())
    }

    /// The expensive check.
    ///
    /// # Errors
    /// [`TransactionError::BadSignature`].
    pub fn verify_signature(&self) -> Result<(), TransactionError> {
        let body = encode_body(&self.body)?;
        if sign::verify(self.body.account.as_bytes(), SIGNED, &[&body], &self.signature) {
            Ok(())
        } else {
            Err(TransactionError::BadSignature)
        }
    }

    /// Encodes it and computes its id.
    ///
    /// # Errors
    /// [`TransactionError::TooLarge`] beyond [`MAX_TX_BYTES`].
    pub fn encode(self) -> Result<EncodedTransaction, TransactionError> {
        let bytes: Bytes = within_limit(payload::to_bytes(&self))?.into();
        let id = TxId(hash(ID, &[&bytes]));
        Ok(EncodedTransaction { tx: self, bytes, id })
    }
}

impl EncodedTransaction {
    /// Reads a transaction that came from outside.
    ///
    /// # Errors
    /// [`TransactionError::TooLarge`] beyond `max` bytes, before anything is read; [`TransactionError::Malformed`].
    pub fn decode(bytes: Bytes, max: usize) -> Result<Self, TransactionError> {
        if bytes.len() > max.min(MAX_TX_BYTES) {
            return Err(TransactionError::TooLarge { bytes: bytes.len() as u64, max: max as u64 });
        }
        let tx = payload::from_exact_bytes(&bytes, MAX_TX_BYTES).map_err(|_| TransactionError::Malformed)?;
        let id = TxId(hash(ID, &[&bytes]));
        Ok(Self { tx, bytes, id })
    }

    /// Bytes that holding it costs: encoding and decoded form.
    pub fn held_bytes(&self) -> usize {
        // Keys and values stand twice, in `bytes` and in `tx`; the structs around them are counted whole.
        2 * self.bytes.len() + size_of::<Self>() + self.tx.body.ops.len() * size_of::<Op>()
    }

    /// Bytes that it costs in the pool: the same, and its places in the pool's indices.
    pub(crate) fn pooled_bytes(&self) -> usize {
        self.held_bytes() + INDEX_BYTES
    }
}

fn encode_body(body: &TransactionBody) -> Result<Vec<u8>, TransactionError> {
    within_limit(payload::to_bytes(body))
}

fn within_limit(bytes: Vec<u8>) -> Result<Vec<u8>, TransactionError> {
    if bytes.len() > MAX_TX_BYTES {
        return Err(TransactionError::TooLarge { bytes: bytes.len() as u64, max: MAX_TX_BYTES as u64 });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{CHAIN, account, delete, keypair, put, tx};

    #[test]
    fn every_byte_of_a_transaction_is_covered() {
        let whole = tx(1, 3, vec![put("key", "value", 0), delete("old", 7)]);
        let again = EncodedTransaction::decode(whole.bytes.clone(), MAX_TX_BYTES).expect("its own encoding");
        assert_eq!(again, *whole);
        assert_eq!(again.tx.verify_signature(), Ok(()));
        for at in 0..whole.bytes.len() {
            let mut damaged = whole.bytes.to_vec();
            damaged[at] ^= 1;
            if let Ok(other) = EncodedTransaction::decode(damaged.into(), MAX_TX_BYTES) {
                assert_ne!(other.id, whole.id, "byte {at}");
                assert_eq!(other.tx.verify_signature(), Err(TransactionError::BadSignature), "byte {at}");
            }
        }
        let mut longer = whole.bytes.to_vec();
        longer.push(0);
        assert_eq!(EncodedTransaction::decode(longer.into(), MAX_TX_BYTES), Err(TransactionError::Malformed));
    }

    #[test]
    fn what_has_too_many_operations_is_not_even_read() {
        let mut body = tx(1, 0, vec![put("k", "", 0)]).tx.clone();
        for ops in [MAX_OPS + 1, 80_000] {
            body.body.ops = vec![delete("", 0); ops];
            let bytes = Bytes::from(payload::to_bytes(&body));
            assert_eq!(EncodedTransaction::decode(bytes, MAX_TX_BYTES), Err(TransactionError::Malformed));
        }
    }

    /// The wire form, written out by hand: changing it is a decision with a new domain string.
    #[test]
    fn the_encoding_is_frozen() {
        let whole = tx(1, 3, vec![put("k", "vv", 300), delete("old", 7)]);
        let mut expected = vec![CHAIN as u8];
        expected.extend(account(1).0);
        expected.extend([3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]); // nonce, valid_until = u64::MAX
        expected.extend([2, 0, 1, b'k', 2, b'v', b'v', 0xac, 2, 1, 3, b'o', b'l', b'd', 7]);
        let mut signed = vec![SIGNED.len() as u8];
        signed.extend(SIGNED.as_bytes());
        signed.extend(&expected);
        expected.extend(keypair(1).sign(&signed));
        assert_eq!(whole.bytes, expected);
    }

    #[test]
    fn limits_are_kept_on_both_sides() {
        let sign = |ops: Vec<Op>| {
            let body = TransactionBody { chain_id: CHAIN, account: account(1), nonce: 0, valid_until: 9, ops };
            Transaction::sign(body, &keypair(1)).map(drop)
        };
        assert_eq!(sign(vec![]), Err(TransactionError::OpCount(0)));
        assert_eq!(sign(vec![put("k", "", 0); MAX_OPS]), Ok(()));
        assert_eq!(sign(vec![put("k", "", 0); MAX_OPS + 1]), Err(TransactionError::OpCount(65)));
        assert_eq!(sign(vec![put("", "", 0)]), Err(TransactionError::KeyLength { op: 0, bytes: 0 }));
        let long = "k".repeat(MAX_KEY_BYTES);
        assert_eq!(sign(vec![put(&long, "", 0)]), Ok(()));
        let too_long = sign(vec![put("k", "", 0), put(&(long + "k"), "", 0)]);
        assert_eq!(too_long, Err(TransactionError::KeyLength { op: 1, bytes: 257 }));
        let huge = sign(vec![put("k", &"v".repeat(MAX_TX_BYTES), 0)]);
        assert!(matches!(huge, Err(TransactionError::TooLarge { .. })));
    }
}
