//! Canonical payloads: one value, one encoding.
//!
//! A payload has the format of [postcard](https://postcard.jamesmunns.com/wire-format): varints, no field names, no type
//! numbers. That format lets one value have many forms: over-long varints, unsorted maps, bytes after the value. Here
//! nothing is accepted that the encoder would not have written, so that the hash of the bytes is the identity of the
//! value and nobody can make a second message out of the first.
//!
//! The crate of that name copies arrays byte by byte and takes every form; this module copies [arrays](peerage_core::array)
//! at once, and a test holds it against the crate.

mod read;
mod write;

use read::{ReadError, Reader};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use write::{Compare, Count, Writer};

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
/// If the type cannot be written in this format at all: a sequence of unknown length, or a `Serialize` that fails by
/// itself. Both are mistakes in the type, seen in its first test; no value that came from outside can cause them.
pub fn to_bytes<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    const SUITABLE: &str = "a payload type has a known length and no failing parts";
    // Counted first, which costs less than to grow, and who keeps the bytes keeps no more than their length.
    let mut counter = Writer::new(Count(0));
    value.serialize(&mut counter).expect(SUITABLE);
    let mut writer = Writer::new(Vec::with_capacity(counter.sink.0));
    value.serialize(&mut writer).expect(SUITABLE);
    writer.sink
}

/// A payload type of which reading alone proves the form, so that nothing need be written again for it.
///
/// That is so if it writes exactly what it read, part by part: derived or equivalent `Serialize` and `Deserialize`, no field
/// skipped, given by default or changed on the way, no set and no map (whose order only writing tells), and all parts alike.
/// Numbers, lengths and variants have one form each by the reader's own rule. It is a promise about the type: builds with
/// debug assertions hold each value against it.
pub trait Exact: DeserializeOwned + Serialize {}

/// The value of which `bytes` are the canonical encoding.
///
/// Memory: the length is checked before anything is read, and a sequence of more elements than bytes are left is refused,
/// so that the value takes at most `bytes.len()` times its largest element (twice that while a vector grows). The check of
/// the form compares while it encodes and stores nothing.
///
/// A payload type must not hold a sequence of elements that take no bytes (`Vec<()>`): its encoding is not read again.
///
/// # Errors
/// [`PayloadError`], one variant for each rule; the sender is at fault.
pub fn from_bytes<T: DeserializeOwned + Serialize>(bytes: &[u8], max_len: usize) -> Result<T, PayloadError> {
    let value = read(bytes, max_len)?;
    // Numbers were checked as they were read. Whether a set is sorted, or a type writes what it reads, only writing tells.
    if is_written_as(&value, bytes) { Ok(value) } else { Err(PayloadError::NotCanonical) }
}

/// As [`from_bytes`], for types whose form is proved by reading them: no second pass.
///
/// # Errors
/// As there.
pub fn from_exact_bytes<T: Exact>(bytes: &[u8], max_len: usize) -> Result<T, PayloadError> {
    let value = read(bytes, max_len)?;
    debug_assert!(is_written_as(&value, bytes), "the type writes something else than it reads: it is not exact");
    Ok(value)
}

fn read<T: DeserializeOwned>(bytes: &[u8], max_len: usize) -> Result<T, PayloadError> {
    if bytes.len() > max_len {
        return Err(PayloadError::TooLong { len: bytes.len(), limit: max_len });
    }
    let mut reader = Reader(bytes);
    let value = T::deserialize(&mut reader).map_err(|error| match error {
        ReadError::Malformed => PayloadError::Malformed,
        ReadError::NotCanonical => PayloadError::NotCanonical,
    })?;
    if reader.0.is_empty() { Ok(value) } else { Err(PayloadError::TrailingBytes { extra: reader.0.len() }) }
}

fn is_written_as<T: Serialize>(value: &T, bytes: &[u8]) -> bool {
    let mut written = Writer::new(Compare(bytes));
    value.serialize(&mut written).is_ok() && written.sink.0.is_empty()
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
        assert_eq!(from_bytes::<char>(&[2, b'a', b'b'], 9), Err(PayloadError::Malformed), "two for one");
        assert_eq!(from_bytes::<u16>(&[0xff, 0xff, 7], 9), Err(PayloadError::Malformed), "beyond 16 bits");
        assert_eq!(from_bytes::<u64>(&[0xff; 11], 99), Err(PayloadError::Malformed), "a varint that never ends");
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Kinds(Vec<Kind>);

    impl Exact for Kinds {}

    /// Reads sets in any order, and writes them sorted.
    #[derive(Debug, Serialize, Deserialize)]
    struct Sloppy(BTreeSet<u8>);

    impl Exact for Sloppy {}

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "it is not exact")]
    fn a_type_that_is_not_as_exact_as_it_says_is_found_out() {
        assert!(from_exact_bytes::<Sloppy>(&[2, 4, 9], 9).is_ok(), "this one is sorted");
        let _found_out = from_exact_bytes::<Sloppy>(&[2, 9, 4], 9);
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
        let reserved = |bytes: &[u8]| Reserved::deserialize(&mut Reader(bytes)).map(|reserved| reserved.0);
        assert_eq!(reserved(&[3, 1, 2, 3]), Ok(Some(3)));
        assert_eq!(reserved(&[4, 1, 2, 3]), Err(ReadError::Malformed), "more elements than bytes");
        assert_eq!(reserved(&to_bytes(&u64::MAX)), Err(ReadError::Malformed));
        assert_eq!(
            from_bytes::<Vec<()>>(&to_bytes(&vec![(); 9]), 9),
            Err(PayloadError::Malformed),
            "nor can they take none"
        );

        let mut bytes = to_bytes(&(u64::MAX >> 1));
        bytes.push(7);
        assert_eq!(from_bytes::<Vec<[u64; 4]>>(&bytes, 99), Err(PayloadError::Malformed));
        assert_eq!(from_bytes::<String>(&bytes, 99), Err(PayloadError::Malformed));
        assert_eq!(from_bytes::<BTreeMap<u64, u64>>(&bytes, 99), Err(PayloadError::Malformed));
    }

    /// One of each kind that serde knows.
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Everything {
        flags: (bool, Option<u8>, Option<()>),
        unsigned: (u8, u16, u32, u64, u128),
        signed: (i8, i16, i32, i64, i128),
        floats: [f32; 2],
        double: f64,
        texts: (char, String, Vec<String>),
        unit: (),
        nested: Vec<Kind>,
        table: BTreeMap<u16, Vec<u8>>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Marker;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Wrapped(i32);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Pair(u32, Marker);

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        Unit,
        New(Wrapped),
        Tuple(u8, Pair),
        Struct { a: i64, b: [u8; 5] },
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Unit),
            any::<i32>().prop_map(|a| Kind::New(Wrapped(a))),
            any::<(u8, u32)>().prop_map(|(a, b)| Kind::Tuple(a, Pair(b, Marker))),
            any::<(i64, [u8; 5])>().prop_map(|(a, b)| Kind::Struct { a, b }),
        ]
    }

    fn everything() -> impl Strategy<Value = Everything> {
        let finite = || any::<f32>().prop_filter("comparable", |float| !float.is_nan());
        let scalars = (any::<(bool, Option<u8>, Option<()>)>(), any::<(u8, u16, u32, u64, u128)>());
        let more = (any::<(i8, i16, i32, i64, i128)>(), [finite(), finite()], any::<(char, String, Vec<String>)>());
        let nested = (prop::collection::vec(kinds(), 0..4), any::<BTreeMap<u16, Vec<u8>>>());
        (scalars, more, nested).prop_map(|((flags, unsigned), (signed, floats, texts), (nested, table))| Everything {
            flags,
            unsigned,
            signed,
            floats,
            double: f64::from(floats[0]) / 3.0,
            texts,
            unit: (),
            nested,
            table,
        })
    }

    /// An array in its own form, and the same as serde has it.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Keyed<const N: usize>(u8, #[serde(with = "peerage_core::array")] [u8; N], u8);

    #[test]
    fn an_array_is_its_bytes_and_nothing_else_however_it_is_copied() {
        let bytes = [9, 1, 2, 3, 0x80, 7];
        assert_eq!(to_bytes(&Keyed(9, [1, 2, 3, 0x80], 7)), bytes);
        assert_eq!(to_bytes(&(9_u8, [1_u8, 2, 3, 0x80], 7_u8)), bytes);
        assert_eq!(from_bytes(&bytes, 6), Ok(Keyed(9, [1, 2, 3, 0x80], 7)));
        assert_eq!(from_bytes::<Keyed<4>>(&bytes[..5], 6), Err(PayloadError::Malformed));
        let text = "[9,[1,2],7]";
        assert_eq!(
            serde_json::to_string(&Keyed(9, [1, 2], 7)).expect("no map"),
            text,
            "any other format has its own form"
        );
        assert_eq!(serde_json::from_str::<Keyed<2>>(text).expect("as written"), Keyed(9, [1, 2], 7));
    }

    proptest! {
        #[test]
        fn the_format_is_that_of_postcard(value in everything()) {
            let bytes = to_bytes(&value);
            prop_assert_eq!(&bytes, &postcard::to_allocvec(&value).expect("it has all of these"));
            prop_assert_eq!(from_bytes::<Everything>(&bytes, bytes.len()), Ok(value.clone()));
            prop_assert_eq!(postcard::from_bytes::<Everything>(&bytes), Ok(value));
        }

        #[test]
        fn what_is_accepted_is_accepted_by_postcard_too(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = from_bytes::<(Vec<Kind>, i128, u128, Option<char>)>(&bytes, bytes.len()) {
                prop_assert_eq!(postcard::from_bytes(&bytes), Ok(value));
            }
        }

        #[test]
        fn whatever_is_accepted_is_what_the_encoder_writes(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Ok(answer) = from_bytes::<Answer>(&bytes, bytes.len()) {
                prop_assert_eq!(to_bytes(&answer), bytes);
            }
        }

        #[test]
        fn an_exact_type_is_taken_in_the_same_forms_with_and_without_writing_it_again(
            bytes in prop::collection::vec(0_u8..6, 0..40),
            kinds in prop::collection::vec(kinds(), 0..4).prop_map(Kinds),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        ) {
            let mut mutated = to_bytes(&kinds);
            for (at, byte) in flips {
                let at = at.index(mutated.len());
                mutated[at] = byte;
            }
            for bytes in [bytes, mutated] {
                prop_assert_eq!(from_exact_bytes::<Kinds>(&bytes, 99), from_bytes::<Kinds>(&bytes, 99));
            }
        }

        #[test]
        fn any_map_survives(table: BTreeMap<u8, Option<i32>>) {
            let table = Answer::Table(table);
            prop_assert_eq!(from_bytes::<Answer>(&to_bytes(&table), 4096), Ok(table));
        }
    }
}
