//! Bytes as hexadecimal text, for people, JSON and the command line.

use core::fmt::Write;
use thiserror::Error;

/// Text that is not pairs of hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not hexadecimal: an even number of the digits 0-9 and a-f is expected")]
pub struct ParseHexError;

/// Two lower-case digits for each byte.
pub fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string does not fail");
        text
    })
}

/// The bytes of a text of digits, upper or lower case.
///
/// # Errors
/// [`ParseHexError`].
pub fn decode(text: &str) -> Result<Vec<u8>, ParseHexError> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return Err(ParseHexError);
    }
    let digit = |digit: u8| char::from(digit).to_digit(16).ok_or(ParseHexError);
    let pair = |pair: &[u8]| Ok((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
    digits.chunks_exact(2).map(pair).collect()
}

/// Serde of bytes as hexadecimal text.
pub mod bytes {
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes bytes.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::encode(bytes))
    }

    /// Reads bytes.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        super::decode(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The same for bytes that may be absent.
pub mod optional {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    /// Writes bytes or null.
    pub fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_deref().map(super::encode).serialize(serializer)
    }

    /// Reads bytes or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::decode(&text)).transpose().map_err(de::Error::custom)
    }
}

/// Serde of whatever prints and parses, such as an id, as text.
pub mod text {
    use core::{fmt::Display, str::FromStr};
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes it as it prints.
    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads what it prints.
    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The same for lists.
pub mod texts {
    use core::{fmt::Display, str::FromStr};
    use serde::{Deserialize, Deserializer, Serializer, de};

    /// Writes a list of texts.
    pub fn serialize<T: Display, S: Serializer>(values: &[T], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(values.iter().map(ToString::to_string))
    }

    /// Reads a list of texts.
    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse().map_err(de::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_what_is_not_hexadecimal_does_not_pass() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&bytes)), Ok(bytes));
        assert_eq!(decode("FF"), Ok(vec![255]));
        for text in ["f", "zz", "+1", "é"] {
            assert_eq!(decode(text), Err(ParseHexError), "{text}");
        }
    }
}
