//! What one peer owes, in both directions, and the floor that nobody else can take from it.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use super::{Budget, Charge, Ledger, OverBudget, Owner, Pool};

/// Whose bytes a pool keeps for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Ours, for it.
    Sent = 0,
    /// Its own.
    Held = 1,
}

impl Direction {
    /// Pools that peers fill: the first ones.
    pub(super) const POOLS: usize = 3;

    pub(super) const fn of(pool: Pool) -> Option<Self> {
        match pool {
            Pool::Outbound => Some(Self::Sent),
            Pool::Reassembly | Pool::Inbox => Some(Self::Held),
            Pool::Command | Pool::Job | Pool::Mempool | Pool::Table => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Owing {
    limit: usize,
    owed: AtomicUsize,
    /// What it makes the node hold, by pool.
    held: [AtomicUsize; Direction::POOLS],
    /// What is left of its floor in each direction.
    free: [AtomicUsize; 2],
    seat: OnceLock<Seat>,
}

/// Where an account belongs.
#[derive(Debug)]
struct Seat {
    ledger: Arc<Ledger>,
    /// Whether a floor was left for it.
    floor: bool,
}

impl Owing {
    /// For charges, which only an account with a seat has.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.seat.get().expect("whoever is charged has a seat").ledger
    }

    /// Takes bytes, from the floor as far as it goes; says how many that were.
    pub(super) fn take(&self, pool: Pool, bytes: usize) -> Result<u32, OverBudget> {
        let free = Direction::of(pool).map(|direction| &self.free[direction as usize]);
        let part = |left: usize| bytes.min(left).min(u32::MAX as usize);
        let floor = match free.filter(|free| free.load(Relaxed) > 0) {
            // The closure never refuses.
            Some(free) => free.fetch_update(Relaxed, Relaxed, |left| Some(left - part(left))).map_or(0, part),
            None => 0,
        };
        let ledger = self.ledger();
        if floor < bytes
            && let Err(refused) = ledger.take(pool, bytes - floor)
        {
            if let Some(free) = free {
                free.fetch_add(floor, Relaxed);
            }
            return Err(OverBudget { wanted: bytes, ..refused });
        }
        if let Some(held) = self.held.get(pool as usize) {
            held.fetch_add(bytes, Relaxed);
            if floor > 0 {
                ledger.within[pool as usize].fetch_add(floor, Relaxed);
                ledger.note_peak();
            }
        }
        Ok(floor as u32)
    }

    pub(super) fn give_back(&self, pool: Pool, bytes: usize, floor: usize) {
        if let (Some(held), Some(direction)) = (self.held.get(pool as usize), Direction::of(pool)) {
            held.fetch_sub(bytes, Relaxed);
            if floor > 0 {
                self.ledger().within[pool as usize].fetch_sub(floor, Relaxed);
                self.free[direction as usize].fetch_add(floor, Relaxed);
            }
        }
    }

    pub(super) fn transfer(&self, from: Pool, to: Pool, bytes: usize, floor: usize) {
        let within = &self.ledger().within;
        if let (Some(held), Some(within)) = (self.held.get(from as usize), within.get(from as usize)) {
            held.fetch_sub(bytes, Relaxed);
            within.fetch_sub(floor, Relaxed);
        }
        if let (Some(held), Some(within)) = (self.held.get(to as usize), within.get(to as usize)) {
            held.fetch_add(bytes, Relaxed);
            within.fetch_add(floor, Relaxed);
        }
    }
}

impl Drop for Owing {
    fn drop(&mut self) {
        if let Some(Seat { ledger, floor: true }) = self.seat.get() {
            ledger.seats.fetch_add(1, Relaxed);
        }
    }
}

/// What one peer owes: what waits for it, and what it makes the node hold. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Account(Arc<Owing>);

impl Budget {
    /// An account for what waits for one peer, `limit` bytes at most.
    pub fn account(limit: usize) -> Account {
        Account(Arc::new(Owing {
            limit,
            owed: AtomicUsize::new(0),
            held: [const { AtomicUsize::new(0) }; Direction::POOLS],
            free: [const { AtomicUsize::new(0) }; 2],
            seat: OnceLock::new(),
        }))
    }

    /// Gives an account its place in this ledger, and a floor if there is one left: for a peer that counts. Once is enough.
    pub fn seat(&self, account: &Account) {
        account.0.seat.get_or_init(|| {
            let floor = self.0.seats.fetch_update(Relaxed, Relaxed, |seats| seats.checked_sub(1)).is_ok();
            for (free, bytes) in account.0.free.iter().zip(self.0.floors).filter(|_| floor) {
                free.store(bytes, Relaxed);
            }
            Seat { ledger: Arc::clone(&self.0), floor }
        });
    }

    /// Takes `bytes` for `pool` on behalf of a peer: from its floor as far as that goes, the rest from what is shared. Of an
    /// account without a [`seat`](Self::seat) all is shared, and nothing is noted.
    ///
    /// # Errors
    /// [`OverBudget`] if the rest does not fit; nothing was taken.
    pub fn charge_for(&self, account: &Account, pool: Pool, bytes: usize) -> Result<Charge, OverBudget> {
        let Account(owing) = account;
        if owing.seat.get().is_none_or(|seat| !Arc::ptr_eq(&seat.ledger, &self.0)) {
            return self.charge(pool, bytes);
        }
        let floor = owing.take(pool, bytes)?;
        Ok(Charge { owner: Owner::Peer(Arc::clone(owing)), bytes, floor, pool })
    }
}

impl Account {
    /// Notes that `bytes` more wait for the peer.
    ///
    /// # Errors
    /// [`OverBudget`] if the peer would owe more than its limit.
    pub fn owe(&self, bytes: usize) -> Result<Owed, OverBudget> {
        let Owing { limit, owed, .. } = &*self.0;
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

    /// Bytes of a pool that the peer makes the node hold now.
    pub fn held(&self, pool: Pool) -> usize {
        self.0.held.get(pool as usize).map_or(0, |held| held.load(Relaxed))
    }

    /// What of a pool is the peer's own, whatever others take; one sum for reassembly and inbox.
    pub fn floor(&self, pool: Pool) -> usize {
        let seat = self.0.seat.get().filter(|seat| seat.floor);
        seat.zip(Direction::of(pool)).map_or(0, |(seat, direction)| seat.ledger.floors[direction as usize])
    }
}

/// One reference in a peer's queue, forgotten when dropped.
#[derive(Debug)]
#[must_use = "dropping it says that nothing waits any more"]
pub struct Owed {
    account: Account,
    bytes: usize,
}

impl Owed {
    /// How many bytes wait.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.account.0.owed.fetch_sub(self.bytes, Relaxed);
    }
}
