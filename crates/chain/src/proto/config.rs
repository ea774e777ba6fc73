//! What can be tuned, and where each default comes from.

use core::time::Duration;
use std::sync::Arc;

use peerage_transport::proto::keypair::Keypair;

/// Settings of one machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// The key with which this node makes blocks, if it is the network's producer.
    pub producer: Option<Arc<Keypair>>,
    /// Whether acknowledged transactions are made durable first, come back after a restart, are pushed to peers that come
    /// up and are offered again until they stand in a block. Off, a transaction is acknowledged once it is in the pool and
    /// is spread once: for tests that show what the outbox is for, and for nodes that take no submissions.
    pub outbox: bool,
    /// After what time an acknowledged transaction that is in no block yet is offered to all neighbours again. 5 s: ten
    /// block intervals, so that an ordinary transaction is never sent twice.
    pub republish: Duration,
    /// How long a peer may take to answer a request for blocks. 10 s: 1 MiB at 1 Mbit/s, and a round trip.
    pub request_timeout: Duration,
    /// Bytes of blocks to ask for at a time. 1 MiB: half a message.
    pub sync_bytes: u32,
    /// Bytes of blocks that may wait for an earlier one. 16 MiB: our guess, a dozen answers.
    pub held_bytes: usize,
    /// How long a block may be missing before it is asked for, where gossip may still bring it. 1 s: our guess,
    /// two block intervals (parameters, 6.3).
    pub gap_patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            producer: None,
            outbox: true,
            republish: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            sync_bytes: 1 << 20,
            held_bytes: 16 << 20,
            gap_patience: Duration::from_secs(1),
        }
    }
}
