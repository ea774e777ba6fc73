//! Writes a value in the format of postcard, byte for byte.

use core::fmt;
use peerage_core::array;
use serde::{Serialize, Serializer, ser};

/// Why a value could not be written, or not as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteError {
    /// The type is not made for this format: a sequence of unknown length, or a `Serialize` that fails by itself.
    Unsuitable,
    /// The sink would have had other bytes.
    Unequal,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsuitable => "the type cannot be a payload",
            Self::Unequal => "other bytes were expected",
        })
    }
}

impl core::error::Error for WriteError {}

impl ser::Error for WriteError {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self::Unsuitable
    }
}

/// Takes what is written.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError>;
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// Only counts the bytes.
pub(super) struct Count(pub(super) usize);

impl Sink for Count {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.0 += bytes.len();
        Ok(())
    }
}

/// Compares what is written with what is left of the bytes, and fails at the first difference.
pub(super) struct Compare<'a>(pub(super) &'a [u8]);

impl Sink for Compare<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.0 = self.0.strip_prefix(bytes).ok_or(WriteError::Unequal)?;
        Ok(())
    }
}

/// The serializer.
pub(super) struct Writer<S> {
    pub(super) sink: S,
    /// The next byte string is an array, whose length its type knows.
    bare: bool,
}

impl<S: Sink> Writer<S> {
    pub(super) const fn new(sink: S) -> Self {
        Self { sink, bare: false }
    }

    fn varint(&mut self, mut value: u128) -> Result<(), WriteError> {
        let mut bytes = [0; 19];
        let mut len = 0;
        while value >= 0x80 {
            bytes[len] = value as u8 | 0x80;
            value >>= 7;
            len += 1;
        }
        bytes[len] = value as u8;
        self.sink.put(&bytes[..=len])
    }

    fn varint64(&mut self, mut value: u64) -> Result<(), WriteError> {
        let mut bytes = [0; 10];
        let mut len = 0;
        while value >= 0x80 {
            bytes[len] = value as u8 | 0x80;
            value >>= 7;
            len += 1;
        }
        bytes[len] = value as u8;
        self.sink.put(&bytes[..=len])
    }

    fn length(&mut self, len: Option<usize>) -> Result<(), WriteError> {
        self.varint64(len.ok_or(WriteError::Unsuitable)? as u64)
    }
}

/// Signed numbers as unsigned ones, so that small ones are short: 0, -1, 1, -2, ...
const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

impl<S: Sink> Serializer for &mut Writer<S> {
    type Ok = ();
    type Error = WriteError;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), WriteError> {
        self.sink.put(&[u8::from(value)])
    }

    fn serialize_i8(self, value: i8) -> Result<(), WriteError> {
        self.sink.put(&value.to_le_bytes())
    }

    fn serialize_i16(self, value: i16) -> Result<(), WriteError> {
        self.varint64(zigzag(value.into()))
    }

    fn serialize_i32(self, value: i32) -> Result<(), WriteError> {
        self.varint64(zigzag(value.into()))
    }

    fn serialize_i64(self, value: i64) -> Result<(), WriteError> {
        self.varint64(zigzag(value))
    }

    fn serialize_i128(self, value: i128) -> Result<(), WriteError> {
        self.varint(((value << 1) ^ (value >> 127)) as u128)
    }

    fn serialize_u8(self, value: u8) -> Result<(), WriteError> {
        self.sink.put(&[value])
    }

    fn serialize_u16(self, value: u16) -> Result<(), WriteError> {
        self.varint64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), WriteError> {
        self.varint64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), WriteError> {
        self.varint64(value)
    }

    fn serialize_u128(self, value: u128) -> Result<(), WriteError> {
        self.varint(value)
    }

    fn serialize_f32(self, value: f32) -> Result<(), WriteError> {
        self.sink.put(&value.to_le_bytes())
    }

    fn serialize_f64(self, value: f64) -> Result<(), WriteError> {
        self.sink.put(&value.to_le_bytes())
    }

    fn serialize_char(self, value: char) -> Result<(), WriteError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), WriteError> {
        self.length(Some(value.len()))?;
        self.sink.put(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), WriteError> {
        if !core::mem::take(&mut self.bare) {
            self.length(Some(value.len()))?;
        }
        self.sink.put(value)
    }

    fn serialize_none(self) -> Result<(), WriteError> {
        self.sink.put(&[0])
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), WriteError> {
        self.sink.put(&[1])?;
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), WriteError> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), WriteError> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Result<(), WriteError> {
        self.varint64(index.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), WriteError> {
        self.bare = name == array::NAME;
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), WriteError> {
        self.varint64(index.into())?;
        value.serialize(self)
    }

    fn serialize_seq(self, len: Option<usize>) -> Result<Self, WriteError> {
        self.length(len)?;
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, WriteError> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, WriteError> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, WriteError> {
        self.varint64(index.into())?;
        Ok(self)
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Self, WriteError> {
        self.length(len)?;
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, WriteError> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, WriteError> {
        self.varint64(index.into())?;
        Ok(self)
    }
}

/// Whatever holds others is its parts, one after the other.
macro_rules! parts {
    ($($holder:ident: $method:ident($($key:ident)?);)*) => {$(
        impl<S: Sink> ser::$holder for &mut Writer<S> {
            type Ok = ();
            type Error = WriteError;

            fn $method<T: Serialize + ?Sized>(&mut self, $($key: &'static str,)? value: &T) -> Result<(), WriteError> {
                $(let _ = $key;)?
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), WriteError> {
                Ok(())
            }
        }
    )*};
}

parts! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeStruct: serialize_field(name);
    SerializeStructVariant: serialize_field(name);
}

impl<S: Sink> ser::SerializeMap for &mut Writer<S> {
    type Ok = ();
    type Error = WriteError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), WriteError> {
        key.serialize(&mut **self)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), WriteError> {
        value.serialize(&mut **self)
    }

    fn end(self) -> Result<(), WriteError> {
        Ok(())
    }
}
