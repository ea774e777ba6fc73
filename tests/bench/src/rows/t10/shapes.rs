//! The values: a block of the chain, and a list of peers as discovery signs it.

use std::net::SocketAddr;

use peerage_chain::proto::{
    block::{Block, Certificate, Header},
    id::{Account, BlockId, Producer, Root, Signature},
    transaction::{Op, Transaction, TransactionBody},
};
use peerage_core::{NodeId, Seed, SeededRng, UnixMillis};
use peerage_discovery::RecordBody;
use peerage_wire::payload::Exact;
use rand_core::Rng;
use serde::{Deserialize, Serialize};

const TRANSACTIONS: u64 = 500;
const RECORDS: u64 = 50;
const VALUE: usize = 100;

/// A peer's record with its signature. Discovery keeps the signed bytes as they came; here they are fields, so that both
/// codecs have the same to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) node: NodeId,
    pub(crate) body: RecordBody,
    pub(crate) signature: Signature,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Records {
    pub(crate) records: Vec<Record>,
}

/// As derived, and so are its parts.
impl Exact for Records {}

fn bytes<const N: usize>(rng: &mut SeededRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn below(rng: &mut SeededRng, end: u64) -> u64 {
    rng.next_u64() % end
}

fn transaction(rng: &mut SeededRng) -> Transaction {
    let ops = vec![Op::Put {
        key: format!("account/{:016x}", rng.next_u64()).into_bytes(),
        value: bytes::<VALUE>(rng).to_vec(),
        expected_version: below(rng, 10_000),
    }];
    let body = TransactionBody {
        chain_id: 1,
        account: Account(bytes(rng)),
        nonce: below(rng, 100_000),
        valid_until: 1_000_000 + below(rng, 100_000),
        ops,
    };
    Transaction { body, signature: Signature::from_bytes(bytes(rng)) }
}

/// A block with 500 transactions of one operation; keys of 24 bytes, values of 100.
pub(crate) fn block() -> Block {
    let rng = &mut Seed::from_u64(1).stream("block");
    Block {
        header: Header {
            height: 1_234_567,
            parent: BlockId(bytes(rng)),
            time: UnixMillis(1_790_000_000_000),
            tx_root: Root(bytes(rng)),
            receipts_root: Root(bytes(rng)),
            state_root: Root(bytes(rng)),
            producer: Producer(bytes(rng)),
        },
        transactions: (0..TRANSACTIONS).map(|_| transaction(rng)).collect(),
        certificate: Certificate::Solo(Signature::from_bytes(bytes(rng))),
    }
}

/// 50 records, each with an address of either family.
pub(crate) fn records() -> Records {
    let rng = &mut Seed::from_u64(1).stream("records");
    let mut record = || {
        let port = rng.next_u32() as u16;
        let addrs = vec![SocketAddr::from((bytes::<4>(rng), port)), SocketAddr::from((bytes::<16>(rng), port))];
        let body = RecordBody {
            seq: below(rng, 1_000_000),
            addrs,
            features: 1,
            issued_at: UnixMillis(1_790_000_000_000 + below(rng, 1_000_000)),
        };
        Record { node: NodeId::from_bytes(bytes(rng)), body, signature: Signature::from_bytes(bytes(rng)) }
    };
    Records { records: (0..RECORDS).map(|_| record()).collect() }
}
