//! What can be tuned, and where each default comes from.

use core::time::Duration;

/// Settings of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long at least a copy of a known item is recognised; at most twice as long. 120 s: seen TTL of
    /// go-libp2p-pubsub (parameters, 5.1).
    pub seen_ttl: Duration,
    /// Memory for recognising copies, in bytes. When it is full the older half is forgotten early. 16 MiB: our guess, a
    /// quarter of a million items.
    pub seen_bytes: usize,
    /// How long an item waits for its verdict before it counts as [`Ignore`](super::Verdict::Ignore). 10 s: our guess at
    /// the slowest validation that still helps anybody.
    pub verdict_timeout: Duration,
    /// Bytes of items that wait for their verdict, all together. 32 MiB: our guess, sixteen of the largest items.
    pub pending_bytes: usize,
    /// Of these, bytes that came from one peer. 8 MiB: our guess, so that it takes four peers to fill the above.
    pub pending_bytes_per_peer: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seen_ttl: Duration::from_secs(120),
            seen_bytes: 16 << 20,
            verdict_timeout: Duration::from_secs(10),
            pending_bytes: 32 << 20,
            pending_bytes_per_peer: 8 << 20,
        }
    }
}
