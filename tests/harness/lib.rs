//! What the system tests share.

use std::env;

/// The seed of a story: its own, or what the environment variable `SEED` says, which is how a failure is replayed.
///
/// # Panics
/// If `SEED` is no number.
#[must_use]
pub fn seed(usual: u64) -> u64 {
    env::var("SEED").map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("SEED={text} is no number")))
}
