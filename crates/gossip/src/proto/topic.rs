//! Topics and the ids of items.

use core::fmt;
use peerage_core::ParseIdError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};

use crate::TopicError;

/// Longest topic, in bytes. Our guess: a few words, and it stays `Copy`.
pub const MAX_TOPIC_BYTES: usize = 32;

/// What an item is about: 1 to [`MAX_TOPIC_BYTES`] bytes of printable ASCII. Peers send each other only items of topics
/// that the other side asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic {
    /// Zero behind the text, so that topics order like their texts.
    bytes: [u8; MAX_TOPIC_BYTES],
    len: u8,
}

impl Topic {
    /// The topic with this name.
    ///
    /// # Errors
    /// [`TopicError`], the caller's fault.
    pub const fn new(name: &str) -> Result<Self, TopicError> {
        let text = name.as_bytes();
        if text.is_empty() || text.len() > MAX_TOPIC_BYTES {
            return Err(TopicError::Length(text.len()));
        }
        let mut bytes = [0; MAX_TOPIC_BYTES];
        let mut i = 0;
        while i < text.len() {
            if !text[i].is_ascii_graphic() {
                return Err(TopicError::Character(i));
            }
            bytes[i] = text[i];
            i += 1;
        }
        Ok(Self { bytes, len: text.len() as u8 })
    }

    /// The same for constants.
    ///
    /// # Panics
    /// If the name is no topic: a mistake in a constant, found when that constant is compiled.
    pub const fn from_static(name: &'static str) -> Self {
        match Self::new(name) {
            Ok(topic) => topic,
            Err(_) => panic!("a topic is 1 to 32 bytes of printable ASCII"),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("checked to be ASCII by `new`")
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({self})")
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Topic {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Topic;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "1 to {MAX_TOPIC_BYTES} bytes of printable ASCII")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Topic, E> {
                Topic::new(text).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// An item: SHA-256 over domain, topic and content, 32 bytes. The same bytes in two topics are two items.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ItemId(#[serde(with = "peerage_core::array")] [u8; 32]);

impl ItemId {
    /// The id of the item `bytes` in `topic`: SHA-256(len "peerage-item" len topic bytes), lengths as u16, big-endian.
    pub fn of(topic: &Topic, bytes: &[u8]) -> Self {
        const DOMAIN: &[u8] = b"peerage-item";
        let name = topic.as_str().as_bytes();
        let mut sha = Sha256::new();
        sha.update((DOMAIN.len() as u16).to_be_bytes());
        sha.update(DOMAIN);
        sha.update((name.len() as u16).to_be_bytes());
        sha.update(name);
        sha.update(bytes);
        Self(sha.finalize().into())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ItemId({:02x}{:02x}{:02x}{:02x})", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

impl core::str::FromStr for ItemId {
    type Err = ParseIdError;

    /// Reads 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        text.parse::<peerage_core::NodeId>().map(|id| Self(*id.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_short_printable_text_and_nothing_else() {
        assert_eq!(Topic::new("chain/tx").map(|topic| topic.to_string()), Ok("chain/tx".into()));
        assert_eq!(Topic::new(""), Err(TopicError::Length(0)));
        assert_eq!(Topic::new(&"x".repeat(33)), Err(TopicError::Length(33)));
        assert_eq!(Topic::new("a b"), Err(TopicError::Character(1)));
        let topic = Topic::from_static;
        assert!(topic("a") < topic("ab") && topic("ab") < topic("b"), "ordered like the text");
    }

    #[test]
    fn an_id_binds_topic_and_content_and_keeps_them_apart() {
        let id = |topic: &str, bytes: &[u8]| ItemId::of(&Topic::new(topic).expect("valid"), bytes);
        assert_eq!(id("a", b"x"), id("a", b"x"));
        assert_ne!(id("a", b"x"), id("b", b"x"));
        assert_ne!(id("a", b"bx"), id("ab", b"x"), "the border between topic and content counts");
        assert_eq!(id("a", b"x").to_string().parse(), Ok(id("a", b"x")));
        // printf '\0\014peerage-item\0\001ax' | sha256sum
        assert_eq!(id("a", b"x").to_string(), "f56c7eeaf38a788fd274e6a1fb68a48bbf21fa9053d9a52fdfe5d7a97e2816ea");
    }
}
