//! Canonical payloads: one value, one encoding.
//!
//! A payload is [postcard](https://postcard.jamesmunns.com/wire-format): varints, no field names, no type numbers. Postcard
//! itself accepts over-long varints, unsorted maps and bytes after the value. Here nothing is accepted that the encoder
//! would not have written, so that the hash of the bytes is the identity of the value and nobody can make a second
//! message out of the first.

use postcard::ser_flavors::Flavor;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// A payload that is not the canonical encoding of a value. Always the fault of whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// Longer than this kind of payload may be; nothing of it was read.
    #[error("payload of {len} bytes, {limit} are allowed")]
    TooLong {
        /// Bytes that arrived.
        len: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// The bytes end too early, or name a variant, a flag or a text that does not exist.
    #[error("payload is no value of its type")]
    Malformed,
    /// A value, and then more.
    #[error("{extra} bytes after the payload")]
    TrailingBytes {
        /// How many bytes were left over.
        extra: usize,
    },
    /// A value, but not written the one way in which it is written.
    #[error("payload is not in its canonical form")]
    NotCanonical,
}

/// The canonical encoding of a value.
///
/// # Panics
/// If the type cannot be written in postcard at all: a sequence of unknown length, or a `Serialize` that fails by
/// itself. Both are mistakes in the type, seen in its first test; no value that came from outside can cause them.
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("a payload type has a known length and no failing parts")
}

/// The value of which `bytes` are the canonical encoding.
///
/// Memory: the length is checked before anything is read, and postcard reserves room for no more elements than bytes
/// are left, so that the value takes at most `bytes.len()` times its largest element. The check of the form compares
/// while it encodes and stores nothing.
///
/// A payload type must not hold a sequence of elements that take no bytes (`Vec<()>`): a few bytes could announce so
/// many of them that counting takes for ever.
///
/// # Errors
/// [`PayloadError`], one variant for each rule; the sender is at fault.
pub fn from_bytes<T: DeserializeOwned + Serialize>(bytes: &[u8], max_len: usize) -> Result<T, PayloadError> {
    if bytes.len() > max_len {
        return Err(PayloadError::TooLong { len: bytes.len(), limit: max_len });
    }
    let (value, rest) = postcard::take_from_bytes::<T>(bytes).map_err(|_| PayloadError::Malformed)?;
    if !rest.is_empty() {
        return Err(PayloadError::TrailingBytes { extra: rest.len() });
    }
    match postcard::serialize_with_flavor(&value, Compare(bytes)) {
        Ok([]) => Ok(value),
        _ => Err(PayloadError::NotCanonical),
    }
}

/// Receives the encoding of a value and compares it with the bytes that are left; fails at the first difference.
struct Compare<'a>(&'a [u8]);

impl<'a> Flavor for Compare<'a> {
    type Output = &'a [u8];

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0 = self.0.strip_prefix(data).ok_or(postcard::Error::SerializeBufferFull)?;
        Ok(())
    }

    fn finalize(self) -> postcard::Result<&'a [u8]> {
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::fmt;
    use proptest::prelude::*;
    use serde::{
        Deserialize, Deserializer,
        de::{SeqAccess, Visitor},
    };
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Answer {
        No,
        Nodes { target: [u8; 4], nodes: Vec<(u64, String)> },
        Table(BTreeMap<u8, Option<i32>>),
    }

    #[test]
    fn a_value_has_exactly_one_encoding() {
        let answer = Answer::Nodes { target: [1, 2, 3, 4], nodes: vec![(300, "a".into()), (1, String::new())] };
        let bytes = to_bytes(&answer);
        assert_eq!(bytes, [1, 1, 2, 3, 4, 2, 0xac, 2, 1, b'a', 1, 0]);
        assert_eq!(from_bytes::<Answer>(&bytes, 12), Ok(answer));
    }

    #[test]
    fn each_rule_has_its_error() {
        assert_eq!(from_bytes::<u64>(&[1, 2, 3], 2), Err(PayloadError::TooLong { len: 3, limit: 2 }));
        assert_eq!(from_bytes::<u64>(&[0x80], 9), Err(PayloadError::Malformed), "ends inside a varint");
        assert_eq!(from_bytes::<Answer>(&[3], 9), Err(PayloadError::Malformed), "no such variant");
        assert_eq!(from_bytes::<bool>(&[2], 9), Err(PayloadError::Malformed));
        assert_eq!(from_bytes::<u64>(&[1, 0], 9), Err(PayloadError::TrailingBytes { extra: 1 }));
        assert_eq!(from_bytes::<u64>(&[0x81, 0], 9), Err(PayloadError::NotCanonical), "over-long varint");
        assert_eq!(from_bytes::<Answer>(&[0x80, 0], 9), Err(PayloadError::NotCanonical), "over-long variant");
        assert_eq!(from_bytes::<String>(&[0x81, 0, b'a'], 9), Err(PayloadError::NotCanonical), "over-long length");
        assert_eq!(from_bytes::<BTreeSet<u8>>(&[2, 9, 4], 9), Err(PayloadError::NotCanonical), "unsorted set");
        assert_eq!(from_bytes::<BTreeSet<u8>>(&[2, 4, 4], 9), Err(PayloadError::NotCanonical), "an element twice");
        assert_eq!(from_bytes::<char>(&[2, b'a', b'b'], 9), Err(PayloadError::NotCanonical), "two for one");
    }

    /// Takes what a vector would reserve room for instead of the elements.
    #[derive(Debug, PartialEq, Serialize)]
    struct Reserved(Option<usize>);

    impl<'de> Deserialize<'de> for Reserved {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Hint;
            impl<'de> Visitor<'de> for Hint {
                type Value = Reserved;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a sequence")
                }

                fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Reserved, A::Error> {
                    Ok(Reserved(seq.size_hint()))
                }
            }
            deserializer.deserialize_seq(Hint)
        }
    }

    #[test]
    fn a_length_that_lies_reserves_nothing() {
        let reserved = |bytes: &[u8]| postcard::take_from_bytes::<Reserved>(bytes).expect("a length").0.0;
        assert_eq!(reserved(&[3, 1, 2, 3]), Some(3));
        assert_eq!(reserved(&[4, 1, 2, 3]), None, "more elements than bytes");
        assert_eq!(reserved(&to_bytes(&u64::MAX)), None);

        let mut bytes = to_bytes(&(u64::MAX >> 1));
        bytes.push(7);
        assert_eq!(from_bytes::<Vec<[u64; 4]>>(&bytes, 99), Err(PayloadError::Malformed));
        assert_eq!(from_bytes::<String>(&bytes, 99), Err(PayloadError::Malformed));
        assert_eq!(from_bytes::<BTreeMap<u64, u64>>(&bytes, 99), Err(PayloadError::Malformed));
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_what_the_encoder_writes(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Ok(answer) = from_bytes::<Answer>(&bytes, bytes.len()) {
                prop_assert_eq!(to_bytes(&answer), bytes);
            }
        }

        #[test]
        fn any_map_survives(table: BTreeMap<u8, Option<i32>>) {
            let table = Answer::Table(table);
            prop_assert_eq!(from_bytes::<Answer>(&to_bytes(&table), 4096), Ok(table));
        }
    }
}
