//! Who writes next when the operator limits what the node sends: over all connections, one record at a time.
//!
//! # States
//! Without a limit, or with one. Each connection (`LinkId`) is in one of these:
//! ```text
//!            want(some)             poll_grant
//!    idle ---------------> waiting ------------> granted
//!     ^ ^                   |                       |
//!     | +----- want(none) --+                       |
//!     +----------- written(bytes) ------------------+        leave: from each of them, for good
//! ```
//! It is idle when it has nothing to send, or when its socket takes nothing; waiting for each class of which it could send
//! a record at once; granted while it is making the one record that it may.
//!
//! # Inputs
//! `join`, `leave`; `want`: what the connection could send by now; `written`: what its grant became, which may be nothing;
//! `forgo`: it takes no part for now; `spent`: bytes that went without a grant, because a handshake or a last word waits for nobody; `set_limit`; the time,
//! with each of them.
//!
//! # Outputs
//! `poll_grant`: this connection may write one record of this class, so many bytes at most; what `Control` has due goes along
//! in it. `next_timeout`: when there may be another.
//!
//! # Who is next
//! With bytes in the bucket, the first of these that somebody waits with:
//! 1. `Control`, then `Consensus`, each below its ceiling. They may also make a debt of one record, so that they
//!    wait for nothing but the records that are being made.
//! 2. `Bulk`, as long as the last twentieth of what was sent was not its own: one record at a time.
//! 3. `Signal`, `Gossip`, `Bulk`.
//! 4. `Control` and `Consensus` above their ceilings: whoever floods them gets what the others leave.
//!
//! Within a class the connections share alike ([`FairQueue`]): each has had as much as any other that waited as long, to within
//! a record.
//!
//! # What holds
//! In no stretch of time more is granted than limit x time + what the bucket holds ([`BURST`]) + two records, and as long as
//! somebody waits no less than limit x time - two records. A record is at most what the limit gives in [`RECORD_TIME`], so for
//! ten seconds that is 2 %, or 4 % below the limit of 20 KiB/s at which records are as small as they get. A connection that ends
//! gives its grant back. All that is kept is a few numbers for each connection that joined; a grant costs a logarithm of
//! their number. What goes in `spent` counts, but is not held up: admission bounds it.

use core::{num::NonZeroU64, time::Duration};
use std::collections::BTreeMap;

use peerage_core::{Class, LinkId, PerClass, Timestamp};
use peerage_wire::limits::{MAX_PLAINTEXT, SEALED_OVERHEAD};

use super::{bucket::Bucket, fair::FairQueue};

/// What an unused bucket holds: so much time of the limit. Our guess: a timer may be late by as much without loss, and it is a
/// hundredth of the ten seconds over which a limit must hold.
pub const BURST: Duration = Duration::from_millis(100);

/// No record takes longer than this, at the limit (our guess: as long as a round trip over land; half of [`BURST`]).
pub const RECORD_TIME: Duration = Duration::from_millis(50);

/// No record need be shorter than this (our guess: what `Control` puts along, 500 bytes at most, leaves room for a message).
pub const LEAST_RECORD: u64 = 1 << 10;

/// Parts of the limit that `Control` may use before others: heartbeats and credit, which grow with what arrives (our guess;
/// credit for a stream of the smallest messages is a hundredth of it).
const CONTROL_PART: u64 = 10;

/// Parts of the limit that `Consensus` may use before others (our guess: half, so that half is left whatever it does).
const CONSENSUS_PART: u64 = 2;

/// For how long a ceiling may be passed after a silence (our guess: the votes of a round come together).
const CEILING_BURST: Duration = Duration::from_secs(1);

/// Parts of the limit that `Bulk` may use before `Signal` and `Gossip`: 5 %, so that whoever is behind can catch up with a
/// network that is never quiet (our guess).
const BULK_PART: u64 = 20;

/// One record may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// By this connection.
    pub link: LinkId,
    /// Of messages of this class, and of `Control`.
    pub class: Class,
    /// So long at most, with all that sealing adds.
    pub bytes: usize,
}

/// What was sent, and who waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EgressReport {
    /// Bytes a second.
    pub limit: Option<NonZeroU64>,
    /// Bytes written under grants while there was a limit, by the class of the grant; what went without is in `Control`.
    pub written: PerClass<u64>,
    /// Connections that wait with a record of a class.
    pub waiting: PerClass<usize>,
}

/// The longest record that may be written at once under a limit.
pub fn record_bytes(limit: NonZeroU64) -> u64 {
    within(limit, RECORD_TIME).clamp(LEAST_RECORD, (MAX_PLAINTEXT + SEALED_OVERHEAD) as u64)
}

/// What a limit gives in so much time.
pub(super) fn within(limit: NonZeroU64, time: Duration) -> u64 {
    u64::try_from(u128::from(limit.get()) * time.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

/// A part of a limit.
fn part(limit: NonZeroU64, of: u64) -> NonZeroU64 {
    NonZeroU64::new(limit.get() / of).unwrap_or(NonZeroU64::MIN)
}

/// The scheduler. See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct EgressScheduler {
    limit: Option<Limit>,
    /// Those who joined, and what is granted to them.
    links: BTreeMap<LinkId, Option<Granted>>,
    queues: PerClass<FairQueue<LinkId>>,
    /// Who is making the record that `Bulk` has before others.
    ahead: Option<LinkId>,
    written: PerClass<u64>,
    /// The latest time that was told.
    now: Timestamp,
}

#[derive(Clone, Debug)]
struct Limit {
    rate: NonZeroU64,
    /// The longest record.
    record: u64,
    all: Bucket,
    control: Bucket,
    consensus: Bucket,
    bulk: Bucket,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    class: Class,
    /// What was taken for it.
    reserved: u64,
}

/// The class whose turn it is, and how many bytes there must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Turn {
    class: Class,
    floor: i64,
    ahead: bool,
}

impl Limit {
    fn new(rate: NonZeroU64, now: Timestamp) -> Self {
        let record = record_bytes(rate);
        let depths = Depths::of(rate);
        Self {
            rate,
            record,
            all: Bucket::full(rate, depths.all, now),
            control: Bucket::full(part(rate, CONTROL_PART), depths.control, now),
            consensus: Bucket::full(part(rate, CONSENSUS_PART), depths.consensus, now),
            bulk: Bucket::full(part(rate, BULK_PART), depths.bulk, now),
        }
    }

    fn retune(&mut self, now: Timestamp, rate: NonZeroU64) {
        (self.rate, self.record) = (rate, record_bytes(rate));
        let (depths, floor) = (Depths::of(rate), -self.debt());
        self.all.retune(now, rate, depths.all, floor);
        self.control.retune(now, part(rate, CONTROL_PART), depths.control, floor);
        self.consensus.retune(now, part(rate, CONSENSUS_PART), depths.consensus, floor);
        self.bulk.retune(now, part(rate, BULK_PART), depths.bulk, 0);
    }

    /// What the urgent classes may owe.
    fn debt(&self) -> i64 {
        i64::try_from(self.record).unwrap_or(i64::MAX)
    }

    /// The bucket of a class that has a ceiling.
    fn ceiling(&mut self, class: Class) -> Option<&mut Bucket> {
        match class {
            Class::Control => Some(&mut self.control),
            Class::Consensus => Some(&mut self.consensus),
            Class::Signal | Class::Gossip | Class::Bulk => None,
        }
    }
}

/// What the buckets hold when they are full.
struct Depths {
    all: u64,
    control: u64,
    consensus: u64,
    bulk: u64,
}

impl Depths {
    fn of(rate: NonZeroU64) -> Self {
        let record = record_bytes(rate);
        Self {
            all: within(rate, BURST).max(record),
            control: within(part(rate, CONTROL_PART), CEILING_BURST).max(record),
            consensus: within(part(rate, CONSENSUS_PART), CEILING_BURST).max(record),
            // More than one, so that nothing is lost while another record is being made; less than two, so that there are
            // never two in a row.
            bulk: record + record / 2,
        }
    }
}

impl EgressScheduler {
    /// Nobody, and a limit in bytes a second, or none.
    pub fn new(limit: Option<NonZeroU64>, now: Timestamp) -> Self {
        Self { limit: limit.map(|rate| Limit::new(rate, now)), now, ..Self::default() }
    }

    /// Another limit, or none, from now on. Grants that are out stay good.
    pub fn set_limit(&mut self, now: Timestamp, limit: Option<NonZeroU64>) {
        self.now = self.now.max(now);
        match (&mut self.limit, limit) {
            (Some(limit), Some(rate)) if limit.rate == rate => {}
            (Some(limit), Some(rate)) => limit.retune(now, rate),
            (old, new) => *old = new.map(|rate| Limit::new(rate, now)),
        }
    }

    /// A connection is there; idle.
    pub fn join(&mut self, link: LinkId) {
        self.links.entry(link).or_default();
    }

    /// A connection is gone. What was granted to it and not used is for others.
    pub fn leave(&mut self, now: Timestamp, link: LinkId) {
        self.settle(now, link, 0);
        self.links.remove(&link);
        Class::ALL.into_iter().for_each(|class| self.queues[class].forget(link));
    }

    /// Of which classes the connection could write a record now. What it wanted before is forgotten. While it holds a grant it
    /// is in no line.
    pub fn want(&mut self, now: Timestamp, link: LinkId, wants: PerClass<bool>) {
        self.now = self.now.max(now);
        if !matches!(self.links.get(&link), Some(None)) {
            return; // it never joined, or is making a record
        }
        for (class, wanted) in wants.iter() {
            let queue = &mut self.queues[class];
            if *wanted { queue.enter(link) } else { queue.leave(link) }
        }
    }

    /// The connection has made of its grant a record of so many bytes, all of which it will write, or none; it is idle now. What
    /// it made without a grant counts whole.
    pub fn written(&mut self, now: Timestamp, link: LinkId, bytes: usize) {
        if !self.settle(now, link, bytes as u64)
            && let Some(limit) = &mut self.limit
        {
            limit.all.take(now, bytes as u64);
            self.written[Class::Control] += bytes as u64;
        }
    }

    /// The connection wants nothing and gives back what was granted to it.
    pub fn forgo(&mut self, now: Timestamp, link: LinkId) {
        self.settle(now, link, 0);
        self.want(now, link, PerClass::default());
    }

    /// Bytes that were written without a grant: of handshakes and last words. They count, but no further than to the debt of one
    /// record: strangers who come and go must not silence the node towards its peers.
    pub fn spent(&mut self, now: Timestamp, bytes: usize) {
        self.now = self.now.max(now);
        let Some(limit) = &mut self.limit else { return };
        let floor = -limit.debt();
        limit.all.take_down_to(now, bytes as u64, floor);
        self.written[Class::Control] += bytes as u64;
    }

    /// Bytes that a layer below the records added to what was granted: they count whole, and belong to no class.
    pub fn added(&mut self, now: Timestamp, bytes: usize) {
        self.now = self.now.max(now);
        if let Some(limit) = &mut self.limit {
            limit.all.take(now, bytes as u64);
        }
    }

    /// Who may write a record now; `None` until something happens.
    pub fn poll_grant(&mut self, now: Timestamp) -> Option<Grant> {
        self.now = self.now.max(now);
        let turn = self.turn()?;
        let Turn { class, floor, ahead } = turn;
        let (bytes, reserved) = match &mut self.limit {
            Some(limit) if !limit.all.has(now, floor) => return None,
            Some(limit) => {
                limit.all.take(now, limit.record);
                let record = limit.record;
                if let Some(ceiling) = limit.ceiling(class) {
                    ceiling.take(now, record);
                }
                (record, record)
            }
            None => ((MAX_PLAINTEXT + SEALED_OVERHEAD) as u64, 0),
        };
        let link = self.queues[class].call()?;
        Class::ALL.into_iter().for_each(|class| self.queues[class].leave(link));
        if ahead {
            self.ahead = Some(link);
        }
        self.links.insert(link, Some(Granted { class, reserved }));
        Some(Grant { link, class, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) })
    }

    /// When [`poll_grant`](Self::poll_grant) has something, if nothing happens before.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let limit = self.limit.as_ref()?;
        let Turn { floor, .. } = self.turn()?;
        let mut next = limit.all.has_at(floor)?;
        // Who is above a ceiling may be below it before the others are paid for.
        for (class, ceiling) in [(Class::Control, &limit.control), (Class::Consensus, &limit.consensus)] {
            if !self.queues[class].is_empty()
                && let (Some(below), Some(paid)) = (ceiling.has_at(0), limit.all.has_at(-limit.debt()))
            {
                next = next.min(below.max(paid));
            }
        }
        Some(next)
    }

    /// What was sent under the limit, and who waits.
    pub fn report(&self) -> EgressReport {
        let limit = self.limit.as_ref().map(|limit| limit.rate);
        EgressReport { limit, written: self.written, waiting: PerClass::from_fn(|class| self.queues[class].len()) }
    }

    /// Whose turn it is, if anybody waits: the order of the [module](self).
    fn turn(&self) -> Option<Turn> {
        let waits = |class: &Class| !self.queues[*class].is_empty();
        let Some(limit) = &self.limit else {
            return Class::ALL.into_iter().find(waits).map(|class| Turn { class, floor: 0, ahead: false });
        };
        let below = |class: &Class| match class {
            Class::Control => limit.control.has(self.now, 0),
            Class::Consensus => limit.consensus.has(self.now, 0),
            Class::Signal | Class::Gossip | Class::Bulk => true,
        };
        let plain = |class| Turn { class, floor: 0, ahead: false };
        let urgent = [Class::Control, Class::Consensus];
        let share = limit.bulk.has(self.now, limit.debt()) && self.ahead.is_none() && waits(&Class::Bulk);
        let first =
            urgent.into_iter().filter(waits).find(below).map(|class| Turn { floor: -limit.debt(), ..plain(class) });
        first
            .or_else(|| share.then_some(Turn { ahead: true, ..plain(Class::Bulk) }))
            .or_else(|| [Class::Signal, Class::Gossip, Class::Bulk].into_iter().find(waits).map(plain))
            .or_else(|| urgent.into_iter().find(waits).map(plain))
    }

    /// Ends a grant; false if there was none.
    fn settle(&mut self, now: Timestamp, link: LinkId, bytes: u64) -> bool {
        self.now = self.now.max(now);
        let granted = self.links.get_mut(&link).and_then(Option::take);
        let Some(Granted { class, reserved }) = granted else { return false };
        if self.ahead == Some(link) {
            self.ahead = None;
        }
        self.queues[class].count(link, bytes);
        let Some(limit) = &mut self.limit else { return true };
        self.written[class] += bytes;
        let correct = |bucket: &mut Bucket| {
            bucket.take(now, bytes.saturating_sub(reserved));
            bucket.give(now, reserved.saturating_sub(bytes));
        };
        correct(&mut limit.all);
        limit.ceiling(class).into_iter().for_each(correct);
        if class == Class::Bulk {
            limit.bulk.take_what_is_there(now, bytes);
        }
        true
    }
}

#[cfg(test)]
mod tests;
