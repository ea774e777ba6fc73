//! One ledger of bytes for the whole node.
//!
//! Whatever waits or is kept because somebody else asked for it is charged here, in bytes, to a hard cap. A [`Charge`]
//! travels inside what it pays for and is released when that is dropped; crossing from one queue to another is
//! [`Charge::transfer`], never a release followed by a new charge, so nothing is ever unpaid in between.
//!
//! Two counters: *resident* counts a buffer once, however many queues refer to it; *owed* counts, for each peer, every
//! reference that waits for it.

use core::{
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};
use std::sync::Arc;
use thiserror::Error;

/// What charged bytes are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Pool {
    /// Messages that wait to be sent.
    Outbound = 0,
    /// Messages that are being put together from fragments.
    Reassembly = 1,
    /// Messages that arrived and wait for the stack.
    Inbox = 2,
    /// Commands from the node's own users.
    Command = 3,
    /// Jobs and what they hold.
    Job = 4,
    /// Pending transactions.
    Mempool = 5,
    /// Caches and tables of the protocols.
    Table = 6,
}

impl Pool {
    /// All pools.
    pub const ALL: [Self; 7] =
        [Self::Outbound, Self::Reassembly, Self::Inbox, Self::Command, Self::Job, Self::Mempool, Self::Table];

    /// The part of the whole that this pool may take in a budget with shares, in 32nds (our guess at what a node needs each
    /// for). They add up to the whole, so that no pool can take what another one needs.
    const fn share(self) -> usize {
        match self {
            Self::Outbound | Self::Mempool => 8,
            Self::Reassembly | Self::Inbox | Self::Job => 4,
            Self::Table => 3,
            Self::Command => 1,
        }
    }

    /// A stable name, used as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Reassembly => "reassembly",
            Self::Inbox => "inbox",
            Self::Command => "command",
            Self::Job => "job",
            Self::Mempool => "mempool",
            Self::Table => "table",
        }
    }
}

/// A charge was refused: the cap stands. Nothing was taken; the caller must do without the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{wanted} bytes do not fit: {used} of {cap} are taken")]
pub struct OverBudget {
    /// What was asked for, in bytes.
    pub wanted: usize,
    /// What was taken at that moment, in bytes.
    pub used: usize,
    /// The hard cap, in bytes.
    pub cap: usize,
}

#[derive(Debug)]
struct Ledger {
    cap: usize,
    /// What each pool may take; the cap itself in a budget without shares.
    limits: [usize; Pool::ALL.len()],
    resident: AtomicUsize,
    pools: [AtomicUsize; Pool::ALL.len()],
    peak: AtomicUsize,
    refused: AtomicU64,
}

/// The node's ledger. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Ledger>);

impl Default for Budget {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CAP)
    }
}

impl Budget {
    /// 256 MiB: what a small server can spare beside the store's cache (our guess).
    pub const DEFAULT_CAP: usize = 256 << 20;

    /// A ledger with a hard cap in bytes, which any pool may use up.
    pub fn new(cap: usize) -> Self {
        Self::with_limits(cap, Pool::ALL.map(|_| cap))
    }

    /// A ledger with a hard cap in bytes of which each pool has a fixed share: a flood that fills one starves no other.
    pub fn with_shares(cap: usize) -> Self {
        Self::with_limits(cap, Pool::ALL.map(|pool| cap / 32 * pool.share()))
    }

    fn with_limits(cap: usize, limits: [usize; Pool::ALL.len()]) -> Self {
        Self(Arc::new(Ledger {
            cap,
            limits,
            resident: AtomicUsize::new(0),
            pools: Pool::ALL.map(|_| AtomicUsize::new(0)),
            peak: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// The most that `pool` may ever hold, in bytes.
    pub fn limit(&self, pool: Pool) -> usize {
        self.0.limits[pool as usize]
    }

    /// Takes `bytes` for `pool`, or refuses and takes nothing.
    ///
    /// # Errors
    /// [`OverBudget`] if the cap would be passed.
    pub fn charge(&self, pool: Pool, bytes: usize) -> Result<Charge, OverBudget> {
        self.take(pool, bytes)?;
        Ok(Charge { ledger: Arc::clone(&self.0), pool, bytes })
    }

    /// A charge of nothing, for what needs no memory of its own.
    pub fn nothing(&self) -> Charge {
        Charge { ledger: Arc::clone(&self.0), pool: Pool::Inbox, bytes: 0 }
    }

    /// An account for what waits for one peer, `limit` bytes at most.
    pub fn account(limit: usize) -> Account {
        Account(Arc::new(Owing { limit, owed: AtomicUsize::new(0) }))
    }

    /// The state of the ledger, for metrics and tests.
    pub fn report(&self) -> BudgetReport {
        BudgetReport {
            cap: self.0.cap,
            resident: self.0.resident.load(Relaxed),
            peak: self.0.peak.load(Relaxed),
            refused: self.0.refused.load(Relaxed),
            pools: Pool::ALL.map(|pool| (pool, self.0.pools[pool as usize].load(Relaxed))),
        }
    }

    fn take(&self, pool: Pool, bytes: usize) -> Result<(), OverBudget> {
        let Ledger { cap, limits, resident, pools, peak, refused } = &*self.0;
        let refuse = |used, cap| {
            refused.fetch_add(1, Relaxed);
            OverBudget { wanted: bytes, used, cap }
        };
        let within = |limit: usize| move |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let limit = limits[pool as usize];
        pools[pool as usize].fetch_update(Relaxed, Relaxed, within(limit)).map_err(|used| refuse(used, limit))?;
        match resident.fetch_update(Relaxed, Relaxed, within(*cap)) {
            Ok(used) => {
                peak.fetch_max(used + bytes, Relaxed);
                Ok(())
            }
            Err(used) => {
                pools[pool as usize].fetch_sub(bytes, Relaxed);
                Err(refuse(used, *cap))
            }
        }
    }
}

/// The state of a [`Budget`] at one moment, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetReport {
    /// The hard cap.
    pub cap: usize,
    /// Taken now, each buffer once.
    pub resident: usize,
    /// The most that was ever taken.
    pub peak: usize,
    /// How many charges were refused.
    pub refused: u64,
    /// Taken now, by pool.
    pub pools: [(Pool, usize); Pool::ALL.len()],
}

/// Bytes taken from a [`Budget`], given back when dropped.
#[must_use = "dropping a charge gives its bytes back"]
pub struct Charge {
    ledger: Arc<Ledger>,
    pool: Pool,
    bytes: usize,
}

impl Charge {
    /// How many bytes this pays for.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves the bytes to another pool without giving them back in between. It never fails, so a pool may hold more than its
    /// share by what was paid for elsewhere before; what is new to it is refused meanwhile.
    pub fn transfer(mut self, pool: Pool) -> Self {
        self.ledger.pools[self.pool as usize].fetch_sub(self.bytes, Relaxed);
        self.ledger.pools[pool as usize].fetch_add(self.bytes, Relaxed);
        self.pool = pool;
        self
    }

    /// Takes more bytes for the same thing as it grows.
    ///
    /// # Errors
    /// [`OverBudget`] if the cap would be passed; the charge keeps what it had.
    pub fn grow(&mut self, bytes: usize) -> Result<(), OverBudget> {
        Budget(Arc::clone(&self.ledger)).take(self.pool, bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives bytes back when what they pay for shrinks to `bytes`; never takes any.
    pub fn shrink_to(&mut self, bytes: usize) {
        let freed = self.bytes.saturating_sub(bytes);
        self.ledger.pools[self.pool as usize].fetch_sub(freed, Relaxed);
        self.ledger.resident.fetch_sub(freed, Relaxed);
        self.bytes -= freed;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({} B, {})", self.bytes, self.pool.label())
    }
}

#[derive(Debug)]
struct Owing {
    limit: usize,
    owed: AtomicUsize,
}

/// What waits for one peer. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Account(Arc<Owing>);

impl Account {
    /// Notes that `bytes` more wait for the peer.
    ///
    /// # Errors
    /// [`OverBudget`] if the peer would owe more than its limit.
    pub fn owe(&self, bytes: usize) -> Result<Owed, OverBudget> {
        let Owing { limit, owed } = &*self.0;
        match owed.fetch_update(Relaxed, Relaxed, |sum| sum.checked_add(bytes).filter(|sum| sum <= limit)) {
            Ok(_) => Ok(Owed { account: self.clone(), bytes }),
            Err(used) => Err(OverBudget { wanted: bytes, used, cap: *limit }),
        }
    }

    /// Bytes that wait for the peer now.
    pub fn owed(&self) -> usize {
        self.0.owed.load(Relaxed)
    }

    /// The most that may wait for the peer, in bytes.
    pub fn limit(&self) -> usize {
        self.0.limit
    }
}

/// One reference in a peer's queue, forgotten when dropped.
#[derive(Debug)]
#[must_use = "dropping it says that nothing waits any more"]
pub struct Owed {
    account: Account,
    bytes: usize,
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.account.0.owed.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_is_hard_and_a_dropped_charge_makes_room() {
        let budget = Budget::new(100);
        let first = budget.charge(Pool::Inbox, 60).expect("fits");
        let refused = budget.charge(Pool::Inbox, 41).expect_err("60 + 41 > 100");
        assert_eq!(refused, OverBudget { wanted: 41, used: 60, cap: 100 });
        drop(first);
        let _second = budget.charge(Pool::Outbound, 100).expect("room again");
        let report = budget.report();
        assert_eq!((report.resident, report.peak, report.refused), (100, 100, 1));
    }

    #[test]
    fn with_shares_a_flood_in_one_pool_leaves_the_others_theirs() {
        let budget = Budget::with_shares(3200);
        let mut flood = Vec::new();
        while let Ok(charge) = budget.charge(Pool::Mempool, 100) {
            flood.push(charge);
        }
        assert_eq!(flood.len(), 8, "a quarter of the whole");
        for pool in Pool::ALL.into_iter().filter(|pool| *pool != Pool::Mempool) {
            let all = budget.charge(pool, budget.limit(pool)).expect("its whole share is there");
            flood.push(all);
        }
        assert_eq!(budget.report().resident, 3200, "the shares add up to the whole");
    }

    #[test]
    fn a_transfer_changes_the_pool_but_never_the_sum() {
        let budget = Budget::new(100);
        let charge = budget.charge(Pool::Reassembly, 70).expect("fits").transfer(Pool::Inbox);
        let by_pool = |pool: Pool| budget.report().pools[pool as usize].1;
        assert_eq!((by_pool(Pool::Reassembly), by_pool(Pool::Inbox), budget.report().resident), (0, 70, 70));
        drop(charge);
        assert_eq!(budget.report().resident, 0);
    }

    #[test]
    fn a_growing_buffer_pays_as_it_grows() {
        let budget = Budget::new(100);
        let mut charge = budget.charge(Pool::Reassembly, 10).expect("fits");
        charge.grow(90).expect("fits exactly");
        charge.grow(1).expect_err("one too many");
        assert_eq!(charge.bytes(), 100);
        charge.shrink_to(30);
        assert_eq!(budget.report().resident, 30);
    }

    #[test]
    fn a_shared_buffer_is_resident_once_but_owed_by_each_peer() {
        let budget = Budget::new(100);
        let (fast, slow) = (Budget::account(100), Budget::account(100));
        let _once = budget.charge(Pool::Outbound, 80).expect("fits");
        let to_fast = fast.owe(80).expect("within the limit");
        let _to_slow = slow.owe(80).expect("within the limit");
        slow.owe(21).expect_err("this peer owes enough");
        drop(to_fast);
        assert_eq!((budget.report().resident, fast.owed(), slow.owed()), (80, 0, 80));
    }

    #[test]
    fn absurd_sizes_are_refused_without_overflow() {
        let budget = Budget::new(usize::MAX);
        let _some = budget.charge(Pool::Table, 10).expect("fits");
        budget.charge(Pool::Table, usize::MAX).expect_err("the sum does not even fit a counter");
    }
}
