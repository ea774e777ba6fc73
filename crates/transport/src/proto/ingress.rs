//! How fast a node reads in all, when the operator limits it: over all connections.
//!
//! Two means. **Credit of `Gossip` and `Bulk` is returned late**, so that others send no faster than the limit and nothing
//! queues on the way; `Control`, `Consensus` and `Signal` never wait for credit because of the limit. What they may
//! send by credit that they have already, up to a window of each class and connection, can still be more than the limit: so
//! **sockets are read late**, too, which is what makes the limit hold.
//!
//! # States
//! Without a limit, or with one. A connection (`LinkId`) that joined is idle, waiting to read, or reading (it may read once).
//!
//! # Inputs
//! `join`, `leave`; `want`: its socket may have something; `stop`: it does not read any more for now, and gives back what it
//! may have; `read`: what came of its turn; `consumed`: the stack is done with bytes of a class; `set_limit`; the time.
//!
//! # Outputs
//! `poll_read`: this connection may read once, so many bytes at most. `poll_return`: credit that may be returned.
//! `next_timeout`: when there may be more of either.
//!
//! # What holds
//! In no stretch of time more is read than limit x time + what the bucket holds ([`BURST`]) + one turn, and as long as
//! somebody waits, no less than limit x time - one turn: within 4 % over ten seconds, from 10 KB/s upwards. Those who wait
//! read in turn, who had least first ([`FairQueue`]), so whoever was quiet waits for one turn of another, 50 ms at most.
//!
//! A message of `Control` or `Consensus` then waits for what is under way before it on its own connection, read at that
//! connection's share of the limit: whatever the kernels of both sides hold. At worst that is a window, while a peer spends the
//! credit that it got before there was a limit; then about as much as credit is returned at once: a quarter of a window, which
//! is a tenth of a second at 10 MB/s and five seconds at 200 KB/s, unless the kernels hold less than that, as they usually do.

use core::{num::NonZeroU64, time::Duration};
use std::collections::BTreeMap;

use peerage_core::{Class, LinkId, PerClass, Timestamp};

use super::{bucket::Bucket, connection::credit::batch, egress::within, fair::FairQueue};

/// What may be read at once after a silence: so much time of the limit. Our guess: a round trip over the sea, so that what is
/// asked for by credit arrives before the bucket is full; a fortieth of the ten seconds over which a limit must hold.
pub const BURST: Duration = Duration::from_millis(250);

/// How long one connection's turn may be, at the limit (our guess, as that of a record that is written).
const TURN_TIME: Duration = Duration::from_millis(50);

/// No turn need be shorter than this, in bytes (our guess).
const LEAST_TURN: u64 = 1 << 10;

/// And none is longer: what a connection reads at once without a limit.
const LONGEST_TURN: u64 = 64 << 10;

/// Credit is returned this many times as fast as the limit, as long as reading is below the limit: a message costs more credit
/// than it has bytes. Our guess: a message of 90 bytes costs four times as much. Of shorter ones less than the limit comes; more
/// would only make what arrives uneven.
const FAST: u64 = 4;

/// Credit is returned at so many tenths of the limit while reading is at the limit: less than all of it, so that what stands
/// on the way becomes less (our guess: a window of 4 MiB at 10 MB/s is gone after four seconds).
const SLOW_TENTHS: u64 = 9;

/// One connection may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTurn {
    /// Which.
    pub link: LinkId,
    /// So many bytes at most.
    pub bytes: usize,
}

/// Credit that may be returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Return {
    /// On this connection.
    pub link: LinkId,
    /// Of this class.
    pub class: Class,
    /// So many bytes.
    pub bytes: usize,
}

/// What was read, and what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngressReport {
    /// Bytes a second.
    pub limit: Option<NonZeroU64>,
    /// Bytes read while there was a limit.
    pub read: u64,
    /// Connections that wait to read.
    pub waiting: usize,
    /// Credit that is held, in bytes.
    pub held: u64,
}

/// The longest turn under a limit.
pub fn turn_bytes(limit: NonZeroU64) -> u64 {
    within(limit, TURN_TIME).clamp(LEAST_TURN, LONGEST_TURN)
}

/// The limiter. See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct IngressLimiter {
    limit: Option<Limit>,
    links: BTreeMap<LinkId, Link>,
    readers: FairQueue<LinkId>,
    /// Those with as much credit held as their connections return at once ([`worth`]); less is not worth a turn, and is not
    /// missed: see there.
    debtors: FairQueue<LinkId>,
    read: u64,
    held: u64,
    /// The latest time that was told.
    now: Timestamp,
}

#[derive(Clone, Debug)]
struct Limit {
    rate: NonZeroU64,
    turn: u64,
    all: Bucket,
    /// Credit while reading is below the limit.
    fast: Bucket,
    /// Credit in any case.
    slow: Bucket,
}

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    /// What was taken for its turn, if it has one.
    reading: Option<u64>,
    /// Credit of `Gossip` and `Bulk` that is held.
    held: PerClass<u64>,
}

impl Limit {
    fn new(rate: NonZeroU64, now: Timestamp) -> Self {
        let (turn, depth) = (turn_bytes(rate), Self::depth(rate));
        Self {
            rate,
            turn,
            all: Bucket::full(rate, depth, now),
            fast: Bucket::full(Self::fast(rate), turn, now),
            slow: Bucket::full(Self::slow(rate), turn, now),
        }
    }

    fn retune(&mut self, now: Timestamp, rate: NonZeroU64) {
        (self.rate, self.turn) = (rate, turn_bytes(rate));
        let (turn, debt) = (self.turn, i64::try_from(self.turn).unwrap_or(i64::MAX));
        self.all.retune(now, rate, Self::depth(rate), -debt);
        self.fast.retune(now, Self::fast(rate), turn, -debt);
        self.slow.retune(now, Self::slow(rate), turn, -debt);
    }

    fn depth(rate: NonZeroU64) -> u64 {
        within(rate, BURST).max(turn_bytes(rate))
    }

    const fn fast(rate: NonZeroU64) -> NonZeroU64 {
        rate.saturating_mul(NonZeroU64::new(FAST).expect("more than none"))
    }

    fn slow(rate: NonZeroU64) -> NonZeroU64 {
        NonZeroU64::new(rate.get() / 10 * SLOW_TENTHS).unwrap_or(NonZeroU64::MIN)
    }

    /// Reading is below the limit when it leaves half of the bucket.
    fn slack(&self) -> i64 {
        i64::try_from(Self::depth(self.rate) / 2).unwrap_or(i64::MAX)
    }

    fn may_return(&self, now: Timestamp) -> bool {
        self.slow.has(now, 0) || (self.fast.has(now, 0) && self.all.has(now, self.slack()))
    }

    fn may_return_at(&self) -> Option<Timestamp> {
        let fast = self.fast.has_at(0)?.max(self.all.has_at(self.slack())?);
        Some(self.slow.has_at(0)?.min(fast))
    }

    fn returned(&mut self, now: Timestamp, bytes: u64) {
        // What was returned because there was room for more than that is no debt.
        if self.slow.has(now, 0) {
            self.slow.take(now, bytes);
        }
        self.fast.take(now, bytes);
    }
}

/// What a connection returns at once: a quarter of the window. So a piece is under way to one connection after the other, rather
/// than to all at a time. Less than that may be held here and as much in the connection; the other half of the window still
/// holds the longest message.
const fn worth(class: Class) -> u64 {
    batch(class) as u64
}

impl IngressLimiter {
    /// Nobody, and a limit in bytes a second, or none.
    pub fn new(limit: Option<NonZeroU64>, now: Timestamp) -> Self {
        Self { limit: limit.map(|rate| Limit::new(rate, now)), now, ..Self::default() }
    }

    /// Another limit, or none, from now on. Turns that are out stay good; without a limit all credit may be returned.
    pub fn set_limit(&mut self, now: Timestamp, limit: Option<NonZeroU64>) {
        self.now = self.now.max(now);
        match (&mut self.limit, limit) {
            (Some(limit), Some(rate)) if limit.rate == rate => {}
            (Some(limit), Some(rate)) => limit.retune(now, rate),
            (old, new) => *old = new.map(|rate| Limit::new(rate, now)),
        }
        let links: Vec<_> = self.links.keys().copied().collect();
        links.into_iter().for_each(|link| self.line_up(link));
    }

    /// A connection is there; idle.
    pub fn join(&mut self, link: LinkId) {
        self.links.entry(link).or_default();
    }

    /// A connection is gone, and its credit with it.
    pub fn leave(&mut self, now: Timestamp, link: LinkId) {
        self.read(now, link, 0);
        let Some(gone) = self.links.remove(&link) else { return };
        self.held -= gone.held.0.iter().sum::<u64>();
        self.readers.forget(link);
        self.debtors.forget(link);
    }

    /// The connection would read. While it may already, nothing changes.
    pub fn want(&mut self, now: Timestamp, link: LinkId) {
        self.now = self.now.max(now);
        if self.links.get(&link).is_some_and(|entry| entry.reading.is_none()) {
            self.readers.enter(link);
        }
    }

    /// The connection would not read for now.
    pub fn stop(&mut self, now: Timestamp, link: LinkId) {
        self.read(now, link, 0);
        self.readers.leave(link);
    }

    /// What came of a turn: so many bytes, which may be none; the connection is idle now. Without a turn they count as well.
    pub fn read(&mut self, now: Timestamp, link: LinkId, bytes: usize) {
        self.now = self.now.max(now);
        let Some(entry) = self.links.get_mut(&link) else { return };
        let (reserved, bytes) = (entry.reading.take().unwrap_or(0), bytes as u64);
        self.readers.leave(link);
        self.readers.count(link, bytes);
        let Some(limit) = &mut self.limit else { return };
        self.read += bytes;
        limit.all.take(now, bytes.saturating_sub(reserved));
        limit.all.give(now, reserved.saturating_sub(bytes));
    }

    /// Bytes that were read without a turn, in a handshake below the records. They count, but no further than to the debt of one
    /// turn: strangers who come and go must not keep the node from reading what its peers say.
    pub fn spent(&mut self, now: Timestamp, bytes: u64) {
        self.now = self.now.max(now);
        let Some(limit) = &mut self.limit else { return };
        let floor = -i64::try_from(limit.turn).unwrap_or(i64::MAX);
        limit.all.take_down_to(now, bytes, floor);
        self.read += bytes;
    }

    /// Who may read now; `None` until something happens.
    pub fn poll_read(&mut self, now: Timestamp) -> Option<ReadTurn> {
        self.now = self.now.max(now);
        let (bytes, reserved) = match &mut self.limit {
            Some(limit) if !limit.all.has(now, 0) => return None,
            Some(limit) => (limit.turn, limit.turn),
            None => (LONGEST_TURN, 0),
        };
        let link = self.readers.call()?;
        if let Some(limit) = &mut self.limit {
            limit.all.take(now, reserved);
        }
        self.links.get_mut(&link).expect("who waits has joined").reading = Some(reserved);
        Some(ReadTurn { link, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) })
    }

    /// The stack is done with so many bytes of a class. How many of them may be returned as credit at once; the rest comes
    /// from [`poll_return`](Self::poll_return).
    pub fn consumed(&mut self, now: Timestamp, link: LinkId, class: Class, bytes: usize) -> usize {
        self.now = self.now.max(now);
        if self.limit.is_none() || class < Class::Gossip {
            return bytes;
        }
        let Some(entry) = self.links.get_mut(&link) else { return bytes };
        entry.held[class] += bytes as u64;
        self.held += bytes as u64;
        self.line_up(link);
        0
    }

    /// Credit that may be returned now; `None` until something happens.
    pub fn poll_return(&mut self, now: Timestamp) -> Option<Return> {
        self.now = self.now.max(now);
        if self.limit.as_ref().is_some_and(|limit| !limit.may_return(now)) {
            return None;
        }
        let link = self.debtors.call()?;
        let entry = self.links.get_mut(&link).expect("who waits has joined");
        let most = |class: &Class| entry.held[*class].min(worth(*class));
        // The class with most to return; of two alike the higher one.
        let class = if most(&Class::Bulk) > most(&Class::Gossip) { Class::Bulk } else { Class::Gossip };
        let bytes = if self.limit.is_some() { most(&class) } else { entry.held[class] };
        entry.held[class] -= bytes;
        self.held -= bytes;
        self.debtors.count(link, bytes);
        self.line_up(link);
        if let Some(limit) = &mut self.limit {
            limit.returned(now, bytes);
        }
        Some(Return { link, class, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) })
    }

    /// Puts a connection into the line if enough of its credit is held.
    fn line_up(&mut self, link: LinkId) {
        let Some(entry) = self.links.get(&link) else { return };
        let least = |class| if self.limit.is_some() { worth(class) } else { 1 };
        if entry.held.iter().any(|(class, held)| class >= Class::Gossip && *held >= least(class)) {
            self.debtors.enter(link);
        }
    }

    /// When [`poll_read`](Self::poll_read) or [`poll_return`](Self::poll_return) has something, if nothing happens before.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let limit = self.limit.as_ref()?;
        let read = if self.readers.is_empty() { None } else { limit.all.has_at(0) };
        let returned = if self.debtors.is_empty() { None } else { limit.may_return_at() };
        [read, returned].into_iter().flatten().min()
    }

    /// What was read under the limit, and what waits.
    pub fn report(&self) -> IngressReport {
        let limit = self.limit.as_ref().map(|limit| limit.rate);
        IngressReport { limit, read: self.read, waiting: self.readers.len(), held: self.held }
    }
}

#[cfg(test)]
mod tests;
