//! Dice from one seed, and secrets from elsewhere.

use chacha20::ChaCha12Rng;
use core::{convert::Infallible, fmt, hash::BuildHasher};
use getrandom::SysRng;
use rand_core::{CryptoRng, Rng, SeedableRng, TryCryptoRng, TryRng, UnwrapErr};
use sha2::{Digest, Sha256};
use siphasher::sip::SipHasher13;

/// The generator behind every named stream: ChaCha with 12 rounds, named here so that a seed means the same run for
/// good.
pub type SeededRng = ChaCha12Rng;

/// The one source of ordinary randomness of a node: jitter, tie-breaks, random targets. Not for keys.
///
/// Streams are told apart by name, so that a new consumer does not shift the dice of an old one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed([u8; 32]);

impl Seed {
    /// The seed with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A seed for tests and simulations from a number that a person can type.
    pub fn from_u64(number: u64) -> Self {
        Self(Sha256::digest(number.to_be_bytes()).into())
    }

    /// The seed of a part, e.g. one node of a simulation.
    pub fn derive(&self, name: &str) -> Self {
        Self(Sha256::new().chain_update(self.0).chain_update(name.as_bytes()).finalize().into())
    }

    /// The stream of dice called `name`.
    pub fn stream(&self, name: &str) -> SeededRng {
        SeededRng::from_seed(self.derive(name).0)
    }

    /// A hasher key for maps whose keys a peer chooses: without the seed it cannot provoke collisions.
    pub fn hasher(&self, name: &str) -> KeyedState {
        let mut stream = self.stream(name);
        KeyedState { k0: stream.next_u64(), k1: stream.next_u64() }
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)") // a production seed is never logged
    }
}

/// SipHash-1-3 under a key from the [`Seed`]: the `BuildHasher` for maps whose keys a peer chooses.
#[derive(Clone, Copy)]
pub struct KeyedState {
    k0: u64,
    k1: u64,
}

impl BuildHasher for KeyedState {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.k0, self.k1)
    }
}

impl fmt::Debug for KeyedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyedState(..)")
    }
}

/// The source of keys and nonces: the operating system's entropy in production, a seeded generator in simulations.
pub struct SecretRng(Source);

// The variants differ in size, but there is one `SecretRng` per connection at most and it is never in a hot array.
#[expect(clippy::large_enum_variant, reason = "boxing would cost every draw of a secret an indirection for nothing")]
enum Source {
    Os(UnwrapErr<SysRng>),
    Seeded(SeededRng),
}

impl SecretRng {
    /// Entropy of the operating system.
    pub const fn from_os() -> Self {
        Self(Source::Os(UnwrapErr(SysRng)))
    }

    /// Reproducible "secrets" for tests and simulations. Never for a real node: whoever knows the seed knows its keys.
    pub fn insecure_from_seed(seed: &Seed) -> Self {
        Self(Source::Seeded(seed.stream("secret")))
    }

    /// 32 fresh bytes.
    pub fn bytes32(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.fill_bytes(&mut bytes);
        bytes
    }
}

impl fmt::Debug for SecretRng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretRng(..)")
    }
}

impl TryRng for SecretRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        match &mut self.0 {
            Source::Os(rng) => rng.try_next_u32(),
            Source::Seeded(rng) => rng.try_next_u32(),
        }
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match &mut self.0 {
            Source::Os(rng) => rng.try_next_u64(),
            Source::Seeded(rng) => rng.try_next_u64(),
        }
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        match &mut self.0 {
            Source::Os(rng) => rng.try_fill_bytes(dst),
            Source::Seeded(rng) => rng.try_fill_bytes(dst),
        }
    }
}

impl TryCryptoRng for SecretRng {}

const _: fn() = || {
    fn is_crypto_rng<T: CryptoRng>() {}
    is_crypto_rng::<SecretRng>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_repeat_and_do_not_depend_on_each_other() {
        let seed = Seed::from_u64(1);
        let draw = |name: &str| seed.stream(name).next_u64();
        assert_eq!(draw("jitter"), draw("jitter"));
        assert_ne!(draw("jitter"), draw("targets"));
        assert_ne!(draw("jitter"), Seed::from_u64(2).stream("jitter").next_u64());
    }

    #[test]
    fn neither_seed_nor_hasher_key_shows_in_logs() {
        let seed = Seed::from_bytes([7; 32]);
        assert_eq!(format!("{seed:?} {:?}", seed.hasher("map")), "Seed(..) KeyedState(..)");
    }
}
