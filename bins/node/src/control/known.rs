//! What the node knows of a peer beside who it is: the way to it, its clock, how far it is, why it is not dialled; and of itself,
//! how full its memory is.

use peerage_chain::proto::{Summary, id::BlockId};
use peerage_core::{Budget, LinkStats, Pool};
use serde::{Deserialize, Serialize};

use super::Happening;
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

/// What the node tells of another in answer to `why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// What happened: the oldest first, 64 at most; none if the two never met, or it was forgotten.
    pub happenings: Vec<Happening>,
    /// Why no dial to it begins just now; none if nothing is in the way.
    pub not_dialled: Option<NotDialled>,
}

/// Why no dial to a peer begins just now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotDialled {
    /// By a name that does not change.
    pub reason: String,
    /// The same in words.
    pub words: String,
}

/// How full one part of the memory budget is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolState {
    /// What the part is for, by a name that does not change.
    pub pool: String,
    /// Bytes taken.
    pub used: usize,
    /// Bytes that it may ever hold. The limits may add up to more than the budget.
    pub limit: usize,
}

impl PoolState {
    /// All parts of a budget.
    pub fn all(budget: &Budget) -> Vec<Self> {
        let state =
            |(pool, used): (Pool, usize)| Self { pool: pool.label().to_owned(), used, limit: budget.limit(pool) };
        budget.report().pools.into_iter().map(state).collect()
    }

    /// Whether more than half of it is taken.
    pub const fn is_filling(&self) -> bool {
        self.used > self.limit / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_memory_fills_up_once_more_than_half_of_it_is_taken() {
        let budget = Budget::with_floors(32 << 20, 8);
        let filling = || PoolState::all(&budget).into_iter().filter(PoolState::is_filling).collect::<Vec<_>>();
        let half = budget.limit(Pool::Mempool) / 2;
        let mut charge = budget.charge(Pool::Mempool, half).expect("half of it");
        assert_eq!(filling(), []);
        charge.grow(1).expect("a byte more");
        let limit = budget.limit(Pool::Mempool);
        assert_eq!(filling(), [PoolState { pool: "mempool".to_owned(), used: half + 1, limit }]);
        drop(charge);
        assert_eq!(filling(), []);
    }
}
