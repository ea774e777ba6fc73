//! Serde of fixed byte arrays as one run: `#[serde(with = "peerage_core::array")]`.
//!
//! Serde visits an array element by element, which costs a call for each byte of each key, hash and signature. A format
//! that knows the name below copies the bytes at once (`peerage_wire::payload` does); any other sees a byte string, or a
//! tuple of bytes.

use core::fmt;
use serde::{
    Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
};

/// The name under which an array presents itself: as a newtype struct around a byte string when it is written, as a tuple
/// struct of its length when it is read. Its encoding is its bytes and nothing else.
pub const NAME: &str = "$peerage::array";

struct Run<'a>(&'a [u8]);

impl Serialize for Run<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Writes an array.
///
/// # Errors
/// Those of the format.
pub fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(NAME, &Run(bytes))
}

/// Reads an array.
///
/// # Errors
/// Those of the format; the fault of who sent the bytes.
pub fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
    deserializer.deserialize_tuple_struct(NAME, N, ArrayVisitor)
}

struct ArrayVisitor<const N: usize>;

impl<'de, const N: usize> Visitor<'de> for ArrayVisitor<N> {
    type Value = [u8; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{N} bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<[u8; N], E> {
        bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<[u8; N], A::Error> {
        let mut bytes = [0; N];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = seq.next_element()?.ok_or_else(|| de::Error::invalid_length(index, &self))?;
        }
        Ok(bytes)
    }
}
