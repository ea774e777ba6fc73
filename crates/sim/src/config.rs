//! What a simulated network is like.

use core::time::Duration;
use peerage_core::UnixMillis;

/// The parameters of a simulation. All have defaults; [`SimConfig::new`] wants the seed alone.
#[derive(Clone, Debug)]
pub struct SimConfig {
    /// Everything random follows from this number and nothing else.
    pub seed: u64,
    /// The path between two nodes for which nothing else was set.
    pub path: Path,
    /// What a node can send, over all its links together, in bytes a second.
    pub uplink: u64,
    /// Bytes that may wait to be sent on one link; what comes beyond is shed.
    pub queue: usize,
    /// Bytes after which a more urgent message may interrupt one that is being sent, and another link has its turn.
    pub fragment: usize,
    /// Bytes of headers that each message costs on the wire besides its own.
    pub framing: usize,
    /// The longest message, in bytes; longer ones are shed as too long.
    pub message_limit: usize,
    /// How many jobs of the compute lane a node works on at once; at least one.
    pub compute_workers: usize,
    /// Time between two heartbeats of a link.
    pub heartbeat: Duration,
    /// How long a link without life stands before both ends give it up.
    pub silence: Duration,
    /// How long a dial waits for an address that does not answer.
    pub dial_timeout: Duration,
    /// Civil time at the start of the virtual clock.
    pub start: UnixMillis,
}

impl SimConfig {
    /// A wide-area network of small servers.
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            path: Path { latency: Duration::from_millis(40), jitter: Duration::from_millis(4), rate: None },
            uplink: 12_500_000,                   // 100 Mbit/s: our guess of a small server
            queue: 4 << 20,                       // what may wait for a peer at most (parameters, 2.3)
            fragment: 16_384,                     // one record's plaintext (parameters, 1.2)
            framing: 64,                          // record 19, message header about 5, TCP/IPv4 40
            message_limit: 2 << 20,               // as on the wire (parameters, 1.2)
            compute_workers: 2,                   // our guess: a small server has two to four cores
            heartbeat: Duration::from_secs(30),   // transport's default
            silence: Duration::from_secs(90),     // three heartbeats missed (our guess)
            dial_timeout: Duration::from_secs(5), // the handshake's deadline (parameters, 1.1)
            start: UnixMillis(1_767_225_600_000), // 2026-01-01T00:00:00Z: any date will do, but a fixed one
        }
    }
}

/// What lies between two nodes, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Time from one end to the other.
    pub latency: Duration,
    /// The most that chance adds to the latency of one message; it never reorders messages of a link.
    pub jitter: Duration,
    /// What passes in each direction, in bytes a second; `None` if the uplinks are the only limit.
    pub rate: Option<u64>,
}

impl Path {
    /// A path with a latency, without jitter or a limit of its own.
    pub const fn of(latency: Duration) -> Self {
        Self { latency, jitter: Duration::ZERO, rate: None }
    }
}
