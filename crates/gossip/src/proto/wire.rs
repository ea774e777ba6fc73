//! The two messages of this layer.

use core::fmt;
use peerage_core::{Class, Command, Layer};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::topic::{MAX_TOPIC_BYTES, Topic};

/// An item: the head is its topic, the body its content.
pub const ITEM: Command = Command::new(Layer::Gossip, 0, Class::Gossip);
/// The topics whose items the sender wants from now on: the head is a list of them, in ascending
/// order and without repetition; there is no body. Replaces what it said before.
pub const SUBSCRIBE: Command = Command::new(Layer::Gossip, 1, Class::Signal);

/// Largest item, in bytes: a message is 2 MiB (parameters, 5.1), less its framing and the longest head.
pub const MAX_ITEM_BYTES: usize = 2 * 1024 * 1024 - 1024 - MAX_ITEM_HEAD_BYTES;
/// Most topics of one subscription. Our guess: a stack has a handful.
pub const MAX_TOPICS: usize = 64;
/// A topic with its length byte.
pub(super) const MAX_ITEM_HEAD_BYTES: usize = 1 + MAX_TOPIC_BYTES;
/// A count byte, then topics.
pub(super) const MAX_SUBSCRIBE_BYTES: usize = 1 + MAX_TOPICS * MAX_ITEM_HEAD_BYTES;

/// The longest message of each command, head and body together, in bytes: for the transport, which refuses more while it
/// arrives.
pub const LIMITS: &[(Command, u32)] =
    &[(ITEM, (MAX_ITEM_HEAD_BYTES + MAX_ITEM_BYTES) as u32), (SUBSCRIBE, MAX_SUBSCRIBE_BYTES as u32)];

/// The commands whose bodies everybody may know: what is flooded has no secret in it. For the transport, which compresses
/// no other.
pub const PUBLIC: &[Command] = &[ITEM];

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ItemHead {
    pub(super) topic: Topic,
}

/// At most [`MAX_TOPICS`] topics in strictly ascending order: there is one encoding of a set.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Topics(pub(super) Vec<Topic>);

impl<'de> Deserialize<'de> for Topics {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Topics;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {MAX_TOPICS} topics in ascending order")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Topics, A::Error> {
                let mut topics = Vec::new(); // grows with what is there, not with what is claimed
                while let Some(topic) = seq.next_element()? {
                    if topics.len() == MAX_TOPICS || topics.last().is_some_and(|last| *last >= topic) {
                        return Err(de::Error::invalid_value(de::Unexpected::Seq, &self));
                    }
                    topics.push(topic);
                }
                Ok(Topics(topics))
            }
        }
        deserializer.deserialize_seq(Visitor)
    }
}
