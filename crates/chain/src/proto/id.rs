//! Names of things on the chain: 32 bytes each, and the hash that makes most of them.

use core::{fmt, str::FromStr};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use peerage_core::ParseIdError;

/// SHA-256 over a domain string (its length in one byte before it) and then `parts`, one after the other.
///
/// The domain keeps a hash made for one purpose from standing for another. Parts carry no lengths of their own: each
/// domain fixes the sizes of all of its parts but the last.
pub(crate) fn hash(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut sha = Sha256::new();
    sha.update([u8::try_from(domain.len()).expect("domains are constants below 256 bytes")]);
    sha.update(domain.as_bytes());
    for part in parts {
        sha.update(part);
    }
    sha.finalize().into()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "peerage_core::array")] pub [u8; 32]);

        impl $name {
            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "("))?;
                self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
                write!(f, ")")
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            /// Reads 64 hexadecimal digits.
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.parse::<peerage_core::NodeId>().map(|id| Self(*id.as_bytes()))
            }
        }
    };
}

id! {
    /// Who writes: an Ed25519 public key. Any key is an account, nothing registers it. Written as 64 hexadecimal digits.
    Account
}
id! {
    /// Who may make blocks: an Ed25519 public key that the genesis names. Not the node's identity key.
    Producer
}
id! {
    /// SHA-256 over a whole encoded transaction, signature included.
    TxId
}
id! {
    /// SHA-256 over an encoded block header; at height 0, over the network id.
    BlockId
}
id! {
    /// The root of a Merkle tree: of a block's transactions, of its receipts, or of the whole state.
    Root
}

/// An Ed25519 signature, R then s (RFC 8032, 5.1.6).
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature(#[serde(with = "peerage_core::array")] [u8; 64]);

impl Signature {
    /// The signature with these 64 bytes.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The 64 bytes.
    pub const fn to_bytes(self) -> [u8; 64] {
        self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// Serde of byte strings as one run, where a derived `Vec<u8>` would visit them byte by byte. Same bytes in postcard.
pub(crate) mod blob {
    use core::fmt;
    use serde::{Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_bytes(Visitor)
    }
}
