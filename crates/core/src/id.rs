//! Who a node is, and which network it belongs to.

use core::{fmt, str::FromStr};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Text that should have been an identifier is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an identifier is 64 hexadecimal digits")]
pub struct ParseIdError;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "crate::array")] [u8; 32]);

        impl $name {
            /// The identifier with these 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight digits, enough for a person to tell a few nodes apart.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let digits = text.as_bytes();
                if digits.len() != 64 {
                    return Err(ParseIdError);
                }
                let mut bytes = [0; 32];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let digit = |d: u8| char::from(d).to_digit(16).ok_or(ParseIdError);
                    *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).map_err(|_| ParseIdError)?;
                }
                Ok(Self(bytes))
            }
        }
    };
}

id! {
    /// A node: its Ed25519 public key, 32 bytes, proved in each handshake. Written as 64 hexadecimal digits.
    NodeId
}
id! {
    /// A network: SHA-256 of the canonical form of its genesis, 32 bytes. Peers of another network are refused before
    /// any key is exchanged.
    NetworkId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_reads_back_what_it_prints_and_nothing_else() {
        let id = NodeId::from_bytes(core::array::from_fn(|i| i as u8 * 7));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("".parse::<NodeId>(), Err(ParseIdError));
        assert_eq!("zz".repeat(32).parse::<NodeId>(), Err(ParseIdError));
        assert_eq!("é".repeat(32).parse::<NodeId>(), Err(ParseIdError), "64 bytes, but no digits");
    }
}
