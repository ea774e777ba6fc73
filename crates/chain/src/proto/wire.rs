//! The messages of this layer.

use bytes::{Bytes, BytesMut};
use peerage_core::{Class, Command, Fault, Layer, Message};
use peerage_wire::payload;
use serde::{Deserialize, Serialize};

use super::{genesis::MAX_BLOCK_BYTES, id::BlockId, transaction::MAX_TX_BYTES};
use crate::store::Head;

/// The sender's head, on meeting and on each change: head [`Summary`], no body. The same bytes travel in heartbeats.
pub const HEAD: Command = Command::new(Layer::Chain, 0, Class::Signal);
/// Transactions that the sender has pending: head lengths, body the encodings one after the other.
pub const TRANSACTIONS: Command = Command::new(Layer::Chain, 1, Class::Gossip);
/// Request: head [`BlocksRequest`], no body. Answer: head lengths, body encoded blocks in order, none if the answering
/// side has none from there on.
pub const BLOCKS: Command = Command::new(Layer::Chain, 2, Class::Bulk);

/// Most items of a batch. Our guess: a full answer of the smallest blocks, about 350 bytes each, fits.
pub(crate) const MAX_BATCH_ITEMS: usize = 4096;
/// A count of two bytes and lengths of three (lengths are below 2 MiB).
const MAX_BATCH_HEAD_BYTES: usize = 2 + 3 * MAX_BATCH_ITEMS;
/// A varint and a hash; fits the 64 bytes of a heartbeat.
const MAX_SUMMARY_BYTES: usize = 10 + 32;
const MAX_REQUEST_BYTES: usize = 10 + 5;
/// Bytes of transactions in one push: one of the largest, or many small ones.
pub(crate) const MAX_PUSH_BYTES: usize = MAX_TX_BYTES;

/// The longest message of each command, head and body together, in bytes: for the transport, which refuses more while it
/// arrives.
pub const LIMITS: &[(Command, u32)] = &[
    (HEAD, MAX_SUMMARY_BYTES as u32),
    (TRANSACTIONS, (MAX_BATCH_HEAD_BYTES + MAX_PUSH_BYTES) as u32),
    (BLOCKS, (MAX_BATCH_HEAD_BYTES + MAX_BLOCK_BYTES) as u32),
];

/// The commands whose bodies everybody may know: blocks, and transactions that go to everybody. For the transport, which
/// compresses no other.
pub const PUBLIC: &[Command] = &[TRANSACTIONS, BLOCKS];

const _: () = assert!(MAX_BATCH_HEAD_BYTES + MAX_BLOCK_BYTES < 2 * 1024 * 1024, "fits a message");

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Height of its last block.
    pub height: u64,
    /// Id of its last block.
    pub id: BlockId,
}

impl Summary {
    pub(crate) fn of(head: &Head) -> Self {
        Self { height: head.height, id: head.id }
    }

    pub(crate) fn encode(&self) -> Bytes {
        payload::to_bytes(self).into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        payload::from_bytes(bytes, MAX_SUMMARY_BYTES).map_err(|_| Fault::UndecodablePayload)
    }
}

/// A wish for blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlocksRequest {
    /// First height.
    pub from: u64,
    /// Bytes of blocks at most, but always one block if there is one.
    pub max_bytes: u32,
}

impl BlocksRequest {
    pub(crate) fn message(&self) -> Message {
        Message::new(BLOCKS, payload::to_bytes(self))
    }

    pub(crate) fn decode(message: &Message) -> Result<Self, Fault> {
        match &message.body {
            None => payload::from_bytes(&message.head, MAX_REQUEST_BYTES).map_err(|_| Fault::UndecodablePayload),
            Some(_) => Err(Fault::UndecodablePayload),
        }
    }
}

/// A message of items, each below 2 MiB; at most [`MAX_BATCH_ITEMS`] of them.
pub(crate) fn batch<'a>(command: Command, items: impl IntoIterator<Item = &'a Bytes>) -> Message {
    let items: Vec<&Bytes> = items.into_iter().collect();
    let lengths: Vec<u32> = items.iter().map(|item| item.len() as u32).collect();
    // As long as it is: what is charged is its length.
    let mut body = BytesMut::with_capacity(items.iter().map(|item| item.len()).sum());
    items.iter().for_each(|item| body.extend_from_slice(item));
    debug_assert!(lengths.len() <= MAX_BATCH_ITEMS);
    let head = payload::to_bytes(&lengths);
    if lengths.is_empty() { Message::new(command, head) } else { Message::with_body(command, head, body.freeze()) }
}

/// The items of a batch; they share the message's memory.
pub(crate) fn unbatch(message: &Message) -> Result<Vec<Bytes>, Fault> {
    let lengths: Vec<u32> =
        payload::from_bytes(&message.head, MAX_BATCH_HEAD_BYTES).map_err(|_| Fault::UndecodablePayload)?;
    // No item is empty: thousands of them would cost their sender nothing.
    if lengths.len() > MAX_BATCH_ITEMS || lengths.is_empty() != message.body.is_none() || lengths.contains(&0) {
        return Err(Fault::UndecodablePayload);
    }
    let mut rest = message.body.clone().unwrap_or_default();
    let mut items = Vec::with_capacity(lengths.len());
    for length in lengths {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > rest.len() {
            return Err(Fault::UndecodablePayload);
        }
        items.push(rest.split_to(length));
    }
    if rest.is_empty() { Ok(items) } else { Err(Fault::UndecodablePayload) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_batch_comes_back_whole_or_not_at_all(
            items in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..20),
            cut in 0usize..400,
        ) {
            let items: Vec<Bytes> = items.into_iter().map(Bytes::from).collect();
            let message = batch(BLOCKS, &items);
            prop_assert_eq!(unbatch(&message), Ok(items));
            if let Some(body) = &message.body && cut < body.len() {
                let short = Message { body: Some(body.slice(..cut)), ..message.clone() };
                prop_assert_eq!(unbatch(&short), Err(Fault::UndecodablePayload));
            }
        }
    }

    #[test]
    fn an_item_without_a_byte_is_none() {
        let message = batch(TRANSACTIONS, &[Bytes::from_static(b"one"), Bytes::new()]);
        assert_eq!(unbatch(&message), Err(Fault::UndecodablePayload));
    }

    #[test]
    fn a_heartbeat_holds_a_summary() {
        let summary = Summary { height: u64::MAX, id: BlockId([7; 32]) };
        assert!(summary.encode().len() <= 64);
        assert_eq!(Summary::decode(&summary.encode()), Ok(summary));
        assert_eq!(Summary::decode(&[]), Err(Fault::UndecodablePayload));
    }
}
