//! Everything that one run leaves to chance, from the number of the run.

use core::ops::RangeInclusive;
use peerage_transport::proto::keypair::Keypair;
use sha2::{Digest, Sha256};

/// The dice of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn bytes(self, what: &str) -> [u8; 32] {
        Sha256::new().chain_update(self.0.to_be_bytes()).chain_update(what).finalize().into()
    }

    /// A number for a purpose; always the same for the same purpose.
    pub(crate) fn roll(self, what: &str, range: RangeInclusive<u64>) -> u64 {
        let number = self.bytes(what)[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        range.start() + number % (range.end() - range.start() + 1)
    }

    /// A key for a purpose.
    pub(crate) fn keypair(self, what: &str) -> Keypair {
        Keypair::from_seed(&self.bytes(what))
    }
}
