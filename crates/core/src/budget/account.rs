//! What one peer owes, in both directions, and the floor that nobody else can take from it.
//!
//! All floors together are what was set aside, whoever has how much of it: bytes of a floor go from what nobody has to an account
//! and back, and nowhere else. A floor that is to become smaller gives back what is free of it, the rest when
//! [`seat`](Budget::seat) is asked again.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::{
    Budget, Charge, Ledger, OverBudget, Owner, Pool,
    uptake::{Taken, Uptake},
};
use crate::Timestamp;

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
    /// Of that, messages that have begun to go out.
    begun: AtomicUsize,
    /// How fast that goes.
    uptake: Mutex<Uptake>,
    /// What it makes the node hold, by pool.
    held: [AtomicUsize; Direction::POOLS],
    /// Bytes of its messages that were incomplete and are no more, since the beginning.
    completed: AtomicU64,
    /// Its floor in each direction, and what is left of it.
    floors: [AtomicUsize; 2],
    free: [AtomicUsize; 2],
    /// Where it belongs.
    ledger: OnceLock<Arc<Ledger>>,
}

impl Owing {
    /// For charges, which only an account with a seat has.
    pub(super) fn ledger(&self) -> &Ledger {
        self.ledger.get().expect("whoever is charged belongs to a ledger")
    }

    /// Takes bytes, from the floor as far as it goes; says how many that were.
    pub(super) fn take(&self, pool: Pool, bytes: usize) -> Result<u32, OverBudget> {
        let free = Direction::of(pool).map(|direction| &self.free[direction as usize]);
        let floor = match free.filter(|free| free.load(Relaxed) > 0) {
            Some(free) => take_at_most(free, bytes.min(u32::MAX as usize)),
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
        if from == Pool::Reassembly {
            self.completed.fetch_add(bytes as u64, Relaxed);
        }
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

impl Owing {
    /// Makes a floor as large as it is to be, as far as it goes.
    fn fit(&self, ledger: &Ledger, direction: Direction) {
        let (floor, free) = (&self.floors[direction as usize], &self.free[direction as usize]);
        let (unseated, wanted) = (&ledger.unseated[direction as usize], ledger.floor(direction));
        let have = floor.load(Relaxed);
        let (missing, excess) = (wanted.saturating_sub(have), have.saturating_sub(wanted));
        if missing > 0 {
            let got = take_at_most(unseated, missing);
            floor.fetch_add(got, Relaxed);
            free.fetch_add(got, Relaxed);
        }
        if excess > 0 {
            let back = take_at_most(free, excess);
            floor.fetch_sub(back, Relaxed);
            unseated.fetch_add(back, Relaxed);
        }
    }
}

/// Takes what is there, so many bytes at most; says how many.
fn take_at_most(from: &AtomicUsize, bytes: usize) -> usize {
    // The closure never refuses.
    from.fetch_update(Relaxed, Relaxed, |left| Some(left - left.min(bytes))).map_or(0, |left| left.min(bytes))
}

impl Drop for Owing {
    fn drop(&mut self) {
        if let Some(ledger) = self.ledger.get() {
            for (unseated, floor) in ledger.unseated.iter().zip(&self.floors) {
                unseated.fetch_add(floor.load(Relaxed), Relaxed);
            }
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
            begun: AtomicUsize::new(0),
            uptake: Mutex::default(),
            held: [const { AtomicUsize::new(0) }; Direction::POOLS],
            completed: AtomicU64::new(0),
            floors: [const { AtomicUsize::new(0) }; 2],
            free: [const { AtomicUsize::new(0) }; 2],
            ledger: OnceLock::new(),
        }))
    }

    /// Gives an account its place in this ledger and no floor: what the peer makes the node hold is noted. Once is enough.
    pub fn enter(&self, account: &Account) {
        account.0.ledger.get_or_init(|| Arc::clone(&self.0));
    }

    /// Gives an account its place and a floor, or as much of one as is left: for a peer that counts. Asked again, it makes the floor
    /// what it is to be [now](Self::set_seats), but takes none of it that is in use.
    pub fn seat(&self, account: &Account) {
        self.enter(account);
        if account.is_in(self) {
            [Direction::Sent, Direction::Held].into_iter().for_each(|direction| account.0.fit(&self.0, direction));
        }
    }

    /// For how many peers there are to be floors from now on. Who has one keeps it until it is [seated](Self::seat) again.
    pub fn set_seats(&self, seats: usize) {
        self.0.seats.store(seats, Relaxed);
    }

    /// How large a floor is to be now, in bytes: one for all pools of its direction.
    pub fn floor(&self, pool: Pool) -> usize {
        Direction::of(pool).map_or(0, |direction| self.0.floor(direction))
    }

    /// Takes `bytes` for `pool` on behalf of a peer: from its floor as far as that goes, the rest from what is shared. Of an
    /// account that did not [enter](Self::enter) all is shared, and nothing is noted.
    ///
    /// # Errors
    /// [`OverBudget`] if the rest does not fit; nothing was taken.
    pub fn charge_for(&self, account: &Account, pool: Pool, bytes: usize) -> Result<Charge, OverBudget> {
        let Account(owing) = account;
        if !account.is_in(self) {
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
            Ok(_) => Ok(Owed { account: self.clone(), bytes, begun: false }),
            Err(used) => Err(OverBudget { wanted: bytes, used, cap: *limit }),
        }
    }

    /// Bytes that wait for the peer now.
    pub fn owed(&self) -> usize {
        self.0.owed.load(Relaxed)
    }

    /// Of these, bytes of messages that have begun to go out, and cannot be dropped any more.
    pub fn begun(&self) -> usize {
        self.0.begun.load(Relaxed)
    }

    /// The peer's stream took so many bytes.
    pub fn took(&self, now: Timestamp, bytes: usize) {
        self.uptake().took(now, bytes);
    }

    /// From now on something waits that only the peer keeps from going out, or nothing does. What the node itself holds back does not
    /// count.
    pub fn wait(&self, now: Timestamp, waits: bool) {
        self.uptake().wait(now, waits);
    }

    /// What the peer took of late, and how long it was waited for.
    pub fn taken(&self, now: Timestamp) -> Taken {
        self.uptake().taken(now)
    }

    fn uptake(&self) -> MutexGuard<'_, Uptake> {
        self.0.uptake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in(&self, budget: &Budget) -> bool {
        self.0.ledger.get().is_some_and(|ledger| Arc::ptr_eq(ledger, &budget.0))
    }

    /// The most that may wait for the peer, in bytes.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// Bytes of a pool that the peer makes the node hold now.
    pub fn held(&self, pool: Pool) -> usize {
        self.0.held.get(pool as usize).map_or(0, |held| held.load(Relaxed))
    }

    /// Bytes of the peer's messages that came in pieces and were completed, since the beginning.
    pub fn completed(&self) -> u64 {
        self.0.completed.load(Relaxed)
    }

    /// What of a pool is the peer's own, whatever others take; one sum for reassembly and inbox.
    pub fn floor(&self, pool: Pool) -> usize {
        Direction::of(pool).map_or(0, |direction| self.0.floors[direction as usize].load(Relaxed))
    }
}

/// One reference in a peer's queue, forgotten when dropped.
#[derive(Debug)]
#[must_use = "dropping it says that nothing waits any more"]
pub struct Owed {
    account: Account,
    bytes: usize,
    begun: bool,
}

impl Owed {
    /// How many bytes wait.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What waits has begun to go out. Once is enough.
    pub fn begin(&mut self) {
        if !core::mem::replace(&mut self.begun, true) {
            self.account.0.begun.fetch_add(self.bytes, Relaxed);
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if self.begun {
            self.account.0.begun.fetch_sub(self.bytes, Relaxed);
        }
        self.account.0.owed.fetch_sub(self.bytes, Relaxed);
    }
}
