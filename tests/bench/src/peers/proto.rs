//! Protocol Buffers by prost: the same fields as our values, byte strings shared with the input as prost does it best.

use bytes::Bytes;
use peerage_chain::proto::{block, transaction};
use prost::{Message, Oneof};

use crate::rows::t10::shapes;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Put {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(uint64, tag = "3")]
    expected_version: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Delete {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(uint64, tag = "2")]
    expected_version: u64,
}

#[derive(Clone, PartialEq, Oneof)]
pub(crate) enum Kind {
    #[prost(message, tag = "1")]
    Put(Put),
    #[prost(message, tag = "2")]
    Delete(Delete),
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Op {
    #[prost(oneof = "Kind", tags = "1, 2")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Body {
    #[prost(uint64, tag = "1")]
    chain_id: u64,
    #[prost(bytes = "bytes", tag = "2")]
    account: Bytes,
    #[prost(uint64, tag = "3")]
    nonce: u64,
    #[prost(uint64, tag = "4")]
    valid_until: u64,
    #[prost(message, repeated, tag = "5")]
    ops: Vec<Op>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Transaction {
    #[prost(message, optional, tag = "1")]
    body: Option<Body>,
    #[prost(bytes = "bytes", tag = "2")]
    signature: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Header {
    #[prost(uint64, tag = "1")]
    height: u64,
    #[prost(bytes = "bytes", tag = "2")]
    parent: Bytes,
    #[prost(uint64, tag = "3")]
    time: u64,
    #[prost(bytes = "bytes", tag = "4")]
    tx_root: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    receipts_root: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    state_root: Bytes,
    #[prost(bytes = "bytes", tag = "7")]
    producer: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Block {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    transactions: Vec<Transaction>,
    #[prost(bytes = "bytes", tag = "3")]
    solo_certificate: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Addr {
    #[prost(bytes = "bytes", tag = "1")]
    ip: Bytes,
    #[prost(uint32, tag = "2")]
    port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(bytes = "bytes", tag = "1")]
    node: Bytes,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(message, repeated, tag = "3")]
    addrs: Vec<Addr>,
    #[prost(uint64, tag = "4")]
    features: u64,
    #[prost(uint64, tag = "5")]
    issued_at: u64,
    #[prost(bytes = "bytes", tag = "6")]
    signature: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Records {
    #[prost(message, repeated, tag = "1")]
    records: Vec<Record>,
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

impl From<&transaction::Op> for Op {
    fn from(op: &transaction::Op) -> Self {
        let (key, expected_version) = (copy(op.key()), op.expected_version());
        Self {
            kind: Some(match op {
                transaction::Op::Put { value, .. } => Kind::Put(Put { key, value: copy(value), expected_version }),
                transaction::Op::Delete { .. } => Kind::Delete(Delete { key, expected_version }),
            }),
        }
    }
}

impl From<&transaction::Transaction> for Transaction {
    fn from(tx: &transaction::Transaction) -> Self {
        let body = &tx.body;
        Self {
            body: Some(Body {
                chain_id: body.chain_id,
                account: copy(body.account.as_bytes()),
                nonce: body.nonce,
                valid_until: body.valid_until,
                ops: body.ops.iter().map(Op::from).collect(),
            }),
            signature: copy(&tx.signature.to_bytes()),
        }
    }
}

impl From<&block::Block> for Block {
    fn from(block: &block::Block) -> Self {
        let header = &block.header;
        let block::Certificate::Solo(certificate) = &block.certificate;
        Self {
            header: Some(Header {
                height: header.height,
                parent: copy(header.parent.as_bytes()),
                time: header.time.0,
                tx_root: copy(header.tx_root.as_bytes()),
                receipts_root: copy(header.receipts_root.as_bytes()),
                state_root: copy(header.state_root.as_bytes()),
                producer: copy(header.producer.as_bytes()),
            }),
            transactions: block.transactions.iter().map(Transaction::from).collect(),
            solo_certificate: copy(&certificate.to_bytes()),
        }
    }
}

impl From<&shapes::Records> for Records {
    fn from(list: &shapes::Records) -> Self {
        let addr = |addr: &std::net::SocketAddr| Addr {
            ip: match addr.ip() {
                std::net::IpAddr::V4(ip) => copy(&ip.octets()),
                std::net::IpAddr::V6(ip) => copy(&ip.octets()),
            },
            port: addr.port().into(),
        };
        let record = |record: &shapes::Record| Record {
            node: copy(record.node.as_bytes()),
            seq: record.body.seq,
            addrs: record.body.addrs.iter().map(addr).collect(),
            features: record.body.features,
            issued_at: record.body.issued_at.0,
            signature: copy(&record.signature.to_bytes()),
        };
        Self { records: list.records.iter().map(record).collect() }
    }
}
