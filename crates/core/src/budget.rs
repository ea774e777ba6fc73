//! One ledger of bytes for the whole node.
//!
//! Whatever waits or is kept because somebody else asked for it is charged here, in bytes, to a hard cap. A [`Charge`]
//! travels inside what it pays for and is released when that is dropped; crossing from one queue to another is
//! [`Charge::transfer`], never a release followed by a new charge, so nothing is ever unpaid in between.
//!
//! Two counters: *resident* counts a buffer once, however many queues refer to it; *owed* counts, for each peer, every
//! reference that waits for it.
//!
//! In a budget with floors each peer has an [`Account`] that it need not share: a quarter of the pools that peers fill is set
//! aside in equal parts, so that nobody else's bytes ever leave a peer without its first ones. What is beyond a floor comes out
//! of the rest, which all share.

mod account;
#[cfg(test)]
mod tests;
mod uptake;

use core::{
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};
use std::sync::Arc;
use thiserror::Error;

pub use account::{Account, Owed};
use account::{Direction, Owing};
pub use uptake::Taken;

/// What charged bytes are kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
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
    pub const fn share(self) -> usize {
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
    /// Of that, what no floor is made of.
    shared_limits: [usize; Pool::ALL.len()],
    /// The cap without all floors.
    floating_limit: usize,
    /// What all floors are made of: for what is sent, and for what peers make the node hold.
    aside: [usize; 2],
    /// For how many peers that is.
    seats: AtomicUsize,
    /// What of it is in nobody's floor.
    unseated: [AtomicUsize; 2],
    /// Taken from what is shared, by pool, and all of it.
    shared: [AtomicUsize; Pool::ALL.len()],
    floating: AtomicUsize,
    /// Taken from floors, by pool.
    within: [AtomicUsize; Direction::POOLS],
    peak: AtomicUsize,
    refused: [AtomicU64; Pool::ALL.len()],
}

impl Ledger {
    fn resident(&self) -> usize {
        // Not of one moment: what crosses meanwhile may be counted in both places, but never is in two.
        let within: usize = self.within.iter().map(|bytes| bytes.load(Relaxed)).sum();
        (self.floating.load(Relaxed) + within).min(self.cap)
    }

    fn used(&self, pool: Pool) -> usize {
        let within = self.within.get(pool as usize).map_or(0, |bytes| bytes.load(Relaxed));
        self.shared[pool as usize].load(Relaxed) + within
    }

    /// How large a floor is to be.
    fn floor(&self, direction: Direction) -> usize {
        self.aside[direction as usize].checked_div(self.seats.load(Relaxed)).unwrap_or(0)
    }

    /// Takes bytes from what is shared.
    fn take(&self, pool: Pool, bytes: usize) -> Result<(), OverBudget> {
        let refuse = |used, cap| {
            self.refused[pool as usize].fetch_add(1, Relaxed);
            OverBudget { wanted: bytes, used, cap }
        };
        let within = |limit: usize| move |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let (shared, limit) = (&self.shared[pool as usize], self.shared_limits[pool as usize]);
        shared.fetch_update(Relaxed, Relaxed, within(limit)).map_err(|used| refuse(used, limit))?;
        if let Err(used) = self.floating.fetch_update(Relaxed, Relaxed, within(self.floating_limit)) {
            shared.fetch_sub(bytes, Relaxed);
            return Err(refuse(used, self.floating_limit));
        }
        self.note_peak();
        Ok(())
    }

    fn note_peak(&self) {
        let resident = self.resident();
        if resident > self.peak.load(Relaxed) {
            self.peak.fetch_max(resident, Relaxed);
        }
    }

    fn give_back(&self, pool: Pool, bytes: usize) {
        if bytes > 0 {
            self.shared[pool as usize].fetch_sub(bytes, Relaxed);
            self.floating.fetch_sub(bytes, Relaxed);
        }
    }
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

    /// Of a pool that peers fill, one part in so many is set aside for floors (our guess: enough for each peer's small
    /// messages, and little to lie idle).
    pub const FLOOR_PART: usize = 4;

    /// A ledger with a hard cap in bytes, which any pool may use up.
    pub fn new(cap: usize) -> Self {
        Self::with_limits(cap, Pool::ALL.map(|_| cap), 0)
    }

    /// A ledger with a hard cap in bytes of which each pool has a fixed share: a flood that fills one starves no other.
    pub fn with_shares(cap: usize) -> Self {
        Self::with_floors(cap, 0)
    }

    /// The same with a floor for each of so many peers: a quarter of the pools that peers fill, in equal parts. How many they are
    /// may [change](Self::set_seats).
    pub fn with_floors(cap: usize, peers: usize) -> Self {
        Self::with_limits(cap, Pool::ALL.map(|pool| cap / 32 * pool.share()), peers)
    }

    fn with_limits(cap: usize, limits: [usize; Pool::ALL.len()], peers: usize) -> Self {
        let aside = |pool: Pool| match Direction::of(pool) {
            Some(_) if peers > 0 => limits[pool as usize] / Self::FLOOR_PART,
            _ => 0,
        };
        let all_aside = [Direction::Sent, Direction::Held].map(|direction| {
            Pool::ALL.into_iter().filter(|pool| Direction::of(*pool) == Some(direction)).map(aside).sum()
        });
        Self(Arc::new(Ledger {
            cap,
            limits,
            shared_limits: Pool::ALL.map(|pool| limits[pool as usize] - aside(pool)),
            floating_limit: cap - Pool::ALL.map(aside).iter().sum::<usize>(),
            aside: all_aside,
            seats: AtomicUsize::new(peers),
            unseated: all_aside.map(AtomicUsize::new),
            shared: Pool::ALL.map(|_| AtomicUsize::new(0)),
            floating: AtomicUsize::new(0),
            within: [const { AtomicUsize::new(0) }; Direction::POOLS],
            peak: AtomicUsize::new(0),
            refused: Pool::ALL.map(|_| AtomicU64::new(0)),
        }))
    }

    /// The most that `pool` may ever hold, in bytes.
    pub fn limit(&self, pool: Pool) -> usize {
        self.0.limits[pool as usize]
    }

    /// Takes `bytes` for `pool` from what is shared, or refuses and takes nothing.
    ///
    /// # Errors
    /// [`OverBudget`] if the cap would be passed.
    pub fn charge(&self, pool: Pool, bytes: usize) -> Result<Charge, OverBudget> {
        self.0.take(pool, bytes)?;
        Ok(Charge { owner: Owner::House(Arc::clone(&self.0)), bytes, floor: 0, pool })
    }

    /// A charge of nothing, for what needs no memory of its own.
    pub fn nothing(&self) -> Charge {
        Charge { owner: Owner::House(Arc::clone(&self.0)), bytes: 0, floor: 0, pool: Pool::Inbox }
    }

    /// The state of the ledger, for metrics and tests.
    pub fn report(&self) -> BudgetReport {
        BudgetReport {
            cap: self.0.cap,
            resident: self.0.resident(),
            peak: self.0.peak.load(Relaxed),
            refused: self.0.refused.iter().map(|count| count.load(Relaxed)).sum(),
            pools: Pool::ALL.map(|pool| (pool, self.0.used(pool))),
        }
    }

    /// How full the shared part of a pool is.
    pub fn strain(&self, pool: Pool) -> Strain {
        Strain {
            used: self.0.shared[pool as usize].load(Relaxed),
            limit: self.0.shared_limits[pool as usize],
            refused: self.0.refused[pool as usize].load(Relaxed),
        }
    }
}

/// How full a pool is, floors aside, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strain {
    /// Taken now.
    pub used: usize,
    /// The most that may be.
    pub limit: usize,
    /// How many charges were refused since the beginning.
    pub refused: u64,
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

/// Who pays.
enum Owner {
    /// What all share.
    House(Arc<Ledger>),
    /// A peer's floor, and what all share for what is beyond it.
    Peer(Arc<Owing>),
}

/// Bytes taken from a [`Budget`], given back when dropped.
#[must_use = "dropping a charge gives its bytes back"]
pub struct Charge {
    owner: Owner,
    bytes: usize,
    /// How many of them are from the floor of the owner.
    floor: u32,
    pool: Pool,
}

impl Charge {
    /// How many bytes this pays for.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many of them are from what all share, and not from a peer's floor.
    pub const fn shared(&self) -> usize {
        self.bytes - self.floor as usize
    }

    fn ledger(&self) -> &Ledger {
        match &self.owner {
            Owner::House(ledger) => ledger,
            Owner::Peer(owing) => owing.ledger(),
        }
    }

    /// Moves the bytes to another pool without giving them back in between. It never fails, so a pool may hold more than its
    /// share by what was paid for elsewhere before; what is new to it is refused meanwhile. What a floor pays for stays with
    /// it: a floor is one for all pools of its direction, and nothing leaves them.
    pub fn transfer(mut self, pool: Pool) -> Self {
        if pool == self.pool {
            return self;
        }
        let (from, shared) = (self.pool, self.bytes - self.floor as usize);
        debug_assert!(self.floor == 0 || Direction::of(from) == Direction::of(pool), "{from:?} to {pool:?}");
        let ledger = self.ledger();
        ledger.shared[from as usize].fetch_sub(shared, Relaxed);
        ledger.shared[pool as usize].fetch_add(shared, Relaxed);
        if let Owner::Peer(owing) = &self.owner {
            owing.transfer(from, pool, self.bytes, self.floor as usize);
        }
        self.pool = pool;
        self
    }

    /// Takes more bytes for the same thing as it grows.
    ///
    /// # Errors
    /// [`OverBudget`] if the cap would be passed; the charge keeps what it had.
    pub fn grow(&mut self, bytes: usize) -> Result<(), OverBudget> {
        match &self.owner {
            Owner::House(ledger) => ledger.take(self.pool, bytes)?,
            Owner::Peer(owing) => self.floor += owing.take(self.pool, bytes)?,
        }
        self.bytes += bytes;
        Ok(())
    }

    /// Gives bytes back when what they pay for shrinks to `bytes`, those of a floor last; never takes any.
    pub fn shrink_to(&mut self, bytes: usize) {
        let freed = self.bytes.saturating_sub(bytes);
        let shared = freed.min(self.bytes - self.floor as usize);
        self.ledger().give_back(self.pool, shared);
        if let Owner::Peer(owing) = &self.owner {
            owing.give_back(self.pool, freed, freed - shared);
        }
        self.floor -= (freed - shared) as u32;
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
