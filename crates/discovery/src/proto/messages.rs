//! The three messages of discovery.

use core::fmt;

use bytes::Bytes;
use peerage_core::{Class, Command, Layer, Message};
use peerage_wire::payload::{self, PayloadError};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use super::{
    key::DhtKey,
    record::{MAX_RECORD, NodeRecord},
};
use crate::config::K;

/// A notification: the sender's own record, as signed. Sent on connecting and whenever it changes.
pub const RECORD: Command = Command::new(Layer::Discovery, 0, Class::Signal);

/// A request: who is closest to this key? Answered with [`NODES`].
pub const FIND: Command = Command::new(Layer::Discovery, 1, Class::Signal);

/// The answer: at most 16 records, the closest first, without that of who asked.
pub const NODES: Command = Command::new(Layer::Discovery, 2, Class::Signal);

/// What may be asked before the asker has shown that it is there: answering changes nothing, and asks nothing of who
/// asks but its name, whose own record is left out.
pub const EARLY: &[Command] = &[FIND];

const FIND_LEN: usize = 32;
/// The count, and each record with its length in front.
const NODES_LEN: usize = 1 + K * (2 + MAX_RECORD);

/// The longest message of each kind in bytes.
pub const LIMITS: &[(Command, u32)] =
    &[(RECORD, MAX_RECORD as u32), (FIND, FIND_LEN as u32), (NODES, NODES_LEN as u32)];

#[derive(Serialize, Deserialize)]
struct Find {
    target: DhtKey,
}

#[derive(Serialize, Deserialize)]
struct Nodes {
    records: Vec<RawRecord>,
}

/// The bytes of a record as serde's bytes: a sequence of numbers, which `Vec<u8>` is to serde, has the same encoding but
/// costs a call for each byte.
struct RawRecord(Bytes);

impl Serialize for RawRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RawRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawRecordVisitor;

        impl Visitor<'_> for RawRecordVisitor {
            type Value = RawRecord;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a record")
            }

            /// Copied, so that a record does not keep the whole message in memory.
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<RawRecord, E> {
                Ok(RawRecord(Bytes::copy_from_slice(bytes)))
            }
        }

        deserializer.deserialize_bytes(RawRecordVisitor)
    }
}

/// A `RECORD`.
pub(crate) fn record(record: &NodeRecord) -> Message {
    Message::new(RECORD, record.encoded().clone())
}

/// A `FIND`.
pub(crate) fn find(target: DhtKey) -> Message {
    Message::new(FIND, payload::to_bytes(&Find { target }))
}

/// The key that a `FIND` asks for.
pub(crate) fn read_find(message: &Message) -> Result<DhtKey, PayloadError> {
    bodiless(message)?;
    payload::from_bytes::<Find>(&message.head, FIND_LEN).map(|find| find.target)
}

/// A `NODES`.
pub(crate) fn nodes<'a>(records: impl Iterator<Item = &'a NodeRecord>) -> Message {
    let records = records.map(|record| RawRecord(record.encoded().clone())).collect();
    Message::new(NODES, payload::to_bytes(&Nodes { records }))
}

/// The records in a `NODES`, not verified yet. There may be more than allowed.
pub(crate) fn read_nodes(message: &Message) -> Result<Vec<Bytes>, PayloadError> {
    bodiless(message)?;
    let nodes = payload::from_bytes::<Nodes>(&message.head, NODES_LEN)?;
    Ok(nodes.records.into_iter().map(|RawRecord(bytes)| bytes).collect())
}

/// None of these messages has a body, so one that has is no message.
pub(crate) const fn bodiless(message: &Message) -> Result<(), PayloadError> {
    if message.body.is_some() { Err(PayloadError::Malformed) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RecordBody;
    use core::net::SocketAddr;
    use peerage_core::{NetworkId, UnixMillis};
    use peerage_transport::proto::keypair::Keypair;

    fn body(addrs: Vec<SocketAddr>) -> RecordBody {
        RecordBody { seq: u64::MAX, addrs, features: u64::MAX, issued_at: UnixMillis(u64::MAX) }
    }

    #[test]
    fn the_longest_message_of_each_kind_is_within_its_limit() {
        let limit = |command| LIMITS.iter().find(|(of, _)| *of == command).map(|(_, limit)| *limit as usize);
        let addrs = vec![([0xffff_u16; 8], u16::MAX).into(); 4];
        let longest = NodeRecord::sign(&Keypair::from_seed(&[1; 32]), NetworkId::default(), body(addrs));
        let all = vec![longest.clone(); K];
        for message in [record(&longest), find(DhtKey::from_bytes([255; 32])), nodes(all.iter())] {
            assert!(Some(message.len()) <= limit(message.command), "{message:?}");
        }
    }

    #[test]
    fn messages_come_back_as_they_went_and_a_body_makes_them_invalid() {
        let key = DhtKey::from_bytes([9; 32]);
        assert_eq!(read_find(&find(key)), Ok(key));
        assert_eq!(read_nodes(&nodes([].iter())), Ok(vec![]));
        let own = NodeRecord::sign(
            &Keypair::from_seed(&[1; 32]),
            NetworkId::default(),
            RecordBody { seq: 1, addrs: vec![], features: 0, issued_at: UnixMillis(0) },
        );
        let message = nodes([&own, &own].into_iter());
        let each = [&[own.encoded().len() as u8][..], own.encoded()].concat();
        assert_eq!(message.head, [&[2], &each[..], &each].concat(), "the count, then each with its length");
        assert_eq!(read_nodes(&message), Ok(vec![own.encoded().clone(); 2]));
        let body = Message { body: Some(Bytes::new()), ..find(key) };
        assert_eq!(read_find(&body), Err(PayloadError::Malformed));
        assert!(read_nodes(&Message::new(NODES, vec![0; NODES_LEN + 1])).is_err());
    }
}
