//! Keys of the hash table and the distance between them.

use core::{array, fmt};

use peerage_core::NodeId;
use rand_core::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What is hashed in front of a node's id, its length in one byte before it.
const DOMAIN: &[u8] = b"peerage-id";

/// A place in the 256-bit key space of Kademlia.
///
/// A node's place is the hash of its id, so that choosing a place costs as many key generations as guessing that much of
/// a hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DhtKey(#[serde(with = "peerage_core::array")] [u8; 32]);

impl DhtKey {
    /// The place of a node: SHA-256 of `10 | "peerage-id" | node id`.
    pub fn of(node: &NodeId) -> Self {
        let hash = Sha256::new().chain_update([DOMAIN.len() as u8]).chain_update(DOMAIN).chain_update(node.as_bytes());
        Self(hash.finalize().into())
    }

    /// The key with these 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key anywhere.
    pub fn random(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// A random key whose distance from this one falls into `bucket`.
    pub fn random_in(&self, bucket: u8, rng: &mut impl Rng) -> Self {
        let mut distance = Self::random(rng).0;
        let leading = 255 - usize::from(bucket);
        distance[..leading / 8].fill(0);
        let bit = 0x80_u8 >> (leading % 8);
        let byte = &mut distance[leading / 8];
        *byte = *byte & (bit - 1) | bit;
        Self(array::from_fn(|i| self.0[i] ^ distance[i]))
    }

    /// How far apart two keys are: their XOR (Maymounkov and Mazières 2002, 2.1).
    pub fn distance(&self, other: &Self) -> Distance {
        Distance(array::from_fn(|i| self.0[i] ^ other.0[i]))
    }
}

impl fmt::Debug for DhtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "DhtKey({a:02x}{b:02x}{c:02x}{d:02x})")
    }
}

/// The distance between two keys, as a number of 256 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Distance([u8; 32]);

impl Distance {
    /// The bucket into which this distance falls: the place of its highest bit, 255 for the far half of the key space.
    /// `None` for the distance to oneself.
    pub fn bucket(&self) -> Option<u8> {
        let (zeros, byte) = self.0.iter().enumerate().find(|(_, byte)| **byte != 0)?;
        Some(255 - (zeros as u8 * 8 + byte.leading_zeros() as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerage_core::Seed;
    use proptest::prelude::*;

    #[test]
    fn the_place_of_a_node_is_the_hash_that_the_documentation_gives() {
        let id = NodeId::from_bytes([7; 32]);
        let input = [&b"\x0apeerage-id"[..], &[7; 32]].concat();
        assert_eq!(DhtKey::of(&id).as_bytes(), &<[u8; 32]>::from(Sha256::digest(input)));
    }

    #[test]
    fn buckets_are_numbered_by_the_highest_bit_that_differs() {
        let mut bytes = [0; 32];
        let zero = DhtKey::from_bytes(bytes);
        assert_eq!(zero.distance(&zero).bucket(), None);
        bytes[31] = 1;
        assert_eq!(zero.distance(&DhtKey::from_bytes(bytes)).bucket(), Some(0));
        bytes[0] = 0x80;
        assert_eq!(zero.distance(&DhtKey::from_bytes(bytes)).bucket(), Some(255));
        bytes[0] = 0x01;
        assert_eq!(zero.distance(&DhtKey::from_bytes(bytes)).bucket(), Some(248));
    }

    proptest! {
        #[test]
        fn distance_is_a_metric_under_which_each_other_key_is_in_one_bucket(a: [u8; 32], b: [u8; 32], c: [u8; 32]) {
            let [a, b, c] = [a, b, c].map(DhtKey::from_bytes);
            prop_assert_eq!(a.distance(&b), b.distance(&a));
            prop_assert_eq!(a.distance(&b).bucket().is_none(), a == b);
            // XOR is unidirectional: for each distance there is exactly one key.
            prop_assert_eq!(a.distance(&b) == a.distance(&c), b == c);
            let (ab, bc, ac) = (a.distance(&b).bucket(), b.distance(&c).bucket(), a.distance(&c).bucket());
            prop_assert!(ac <= ab.max(bc), "no way around is shorter");
        }

        #[test]
        fn a_random_key_falls_into_the_bucket_for_which_it_was_made(own: [u8; 32], bucket: u8, number: u64) {
            let own = DhtKey::from_bytes(own);
            let key = own.random_in(bucket, &mut Seed::from_u64(number).stream("test"));
            prop_assert_eq!(own.distance(&key).bucket(), Some(bucket));
        }
    }
}
