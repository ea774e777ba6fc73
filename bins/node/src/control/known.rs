//! What the node knows of a peer beside who it is: the way to it, its clock, how far it is.

use peerage_chain::proto::{Summary, id::BlockId};
use peerage_core::LinkStats;
use serde::{Deserialize, Serialize};

use crate::hex;

/// What heartbeats have shown beside the smoothed round trip. Estimates; a peer says of its clock what it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// The shortest round trip so far, microseconds.
    pub rtt_min_micros: u64,
    /// The smoothed deviation of round trips, microseconds.
    pub jitter_micros: u64,
    /// How far the peer's clock is ahead of the node's, milliseconds; negative if it is behind. A day either way at most.
    pub clock_offset_ms: i64,
}

impl From<LinkStats> for Timing {
    fn from(stats: LinkStats) -> Self {
        let micros = |time: core::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (rtt_min_micros, jitter_micros) = (micros(stats.minimum), micros(stats.jitter));
        Self { rtt_min_micros, jitter_micros, clock_offset_ms: stats.clock_offset_ms }
    }
}

/// What a peer says its last block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHead {
    /// Its height.
    pub height: u64,
    /// Its id.
    #[serde(with = "hex::text")]
    pub id: BlockId,
}

impl From<Summary> for PeerHead {
    fn from(Summary { height, id }: Summary) -> Self {
        Self { height, id }
    }
}
