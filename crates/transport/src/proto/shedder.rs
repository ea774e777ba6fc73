//! Who goes without when memory is short: those who keep most of it for longest, step by step, each step with its reason.
//!
//! The ledger counts, this decides, the runner does it. Nobody within its floor is ever touched; of the others, reserved and
//! trusted peers come last.
//!
//! | what is full | 1. | 2. | 3. |
//! |---|---|---|---|
//! | what waits to be sent | who is slow, then who is the heaviest burden, loses messages of its lowest class | and is not read from, so that it cannot ask for more | and is disconnected if it is slow: `slow_peer` |
//! | incomplete messages | whoever needs memory waits | who is the heaviest burden and does not wait itself, or if all do, the heaviest, is disconnected: `hoarding` | |
//! | messages that wait for the stack | who has most of them there is not read from | | |
//!
//! What has begun to go out is nobody's to free, but it counts as the share of whom it goes to: nobody else loses messages for it. Not
//! read from is only who is slow, or for whom all that waits would take longer than [`BEGUN`].
//!
//! The second and the third step against a peer come a while after the one before, and only if memory is still short, or is
//! again, and it still, or again, owes more than its floor. Incomplete messages cannot be dropped one by one, and whoever is not read
//! from cannot end them, so there the last step is the only one. A message that waits for the stack ends there however slow that is;
//! who sent it has nothing to mend, so nobody is disconnected for it.
//!
//! Memory is short from the high mark on, or when somebody was refused, until it is below the low mark and nobody was for a
//! while. So one step frees enough for many messages.
//!
//! # Burden
//! A peer's burden is bytes times time: what waits for it, times how long that will take at the rate of the last ten seconds in
//! which something did ([`Taken`]); for incomplete messages, their bytes times how long as many would take at the rate at which it
//! brings them. Whoever is new has taken little, and has to show first that it takes more. The burdens of all peers of one group of
//! addresses, a /24 or /48, are added up: the heaviest group comes first, in it the heaviest peer, which then counts no more.
//! Time in which the node itself held back what waited, by the operator's limit or because it did not read, is not the
//! peer's and does not count.
//!
//! A peer is *slow* if it was waited for five seconds at least and took less than [`LEAST`] in ten, or so little that what has
//! begun to go out to it would take longer than [`BEGUN`]. That does not depend on what others do: who is not slow is never
//! disconnected for what waits for it, whoever else is there. What can be dropped is dropped; what has begun to go out cannot be, so
//! that alone decides.
//!
//! # What Sybils can do
//! Bytes alone would be a poor measure: twenty-eight keys that each owe a little less than a node that catches up would have that one
//! sent away, and themselves pay nothing. With the burden
//! - who reads nothing, or a byte at a time, keeps what was begun for it, one message of each class at most, for some twelve
//!   seconds: ten until what the systems' buffers took for it is forgotten, two for the steps; for as much longer as others come
//!   before it and what they owe is enough. All else is dropped at the first look. So N keys with a megabyte each pin N MiB, all 48
//!   of the pool if there are as many, for up to seventeen seconds: in these an honest peer has its floor, loses nothing for
//!   what they began, and is read from; but what does not fit in its floor is refused.
//!   Then it is `slow_peer`, which counts against its group (`peer_manager/conduct.rs`). If it comes again it is new, and comes
//!   first. Of as many hosts as keys, each is one more that takes its time: an honest peer may once lose what waits for it, since at the
//!   first look the system's buffers speak for them.
//! - who reads fast and asks for much has a burden like a node that catches up, and is not slow: its queue is bounded by the most that
//!   may wait for one peer, and it has to take it. That is a use of the node, not an attack; if memory is short all the same, N such
//!   keys of one group are one debtor of N burdens and lose their messages before one honest peer with the Nth part.
//! - who stays just above slow keeps B bytes begun by taking B in each [`BEGUN`], whatever the number of keys: to hold the 48 MiB that
//!   the default budget has for what is sent beside the floors, 1.6 MiB/s for as long as that lasts, from many groups (one has 32
//!   connections). Others have their floors meanwhile, and nobody is sent away for it.
//! - who hangs up before it is slow, while memory is short, has its group answer for it all the same if there was a step against it,
//!   or if it took less than its due of what was begun ([`is_fugitive`](Shedder::is_fugitive)); that goes for guests who are sent away
//!   as well. A key for which the systems' buffers take all that was begun is not told from an honest one.
//! - who covers many deaf keys by one that reads gains nothing: burdens are added up, not bytes and rates.

use core::{cmp::Reverse, time::Duration};
use peerage_core::{
    CloseReason, Debtor, LinkId, NodeId, Pressure, Strain, Taken, Timestamp,
    pressure::{AFTER_REFUSAL, LOW_EIGHTHS},
};
use std::collections::{BTreeMap, BTreeSet};

use crate::proto::admission::Group;

#[cfg(test)]
mod tests;

/// Between two steps against one peer (our guess: many round trips, in which a peer that reads takes megabytes).
pub const STEP: Duration = Duration::from_secs(1);
/// A step that was so long ago does not count any more (our guess: half a minute in which memory was short without the peer
/// being one of those who have to go without).
pub const FORGIVEN: Duration = Duration::from_secs(30);
/// How long incomplete messages may keep others waiting before the first of them goes (our guess: time for the longest message at
/// 8 Mbit/s, far below the 15 s after which those who wait are disconnected).
pub const GRACE: Duration = Duration::from_secs(2);
/// From one such disconnection to the next (our guess: those who wait have tried again by then).
pub const NEXT: Duration = Duration::from_millis(250);
/// Bytes a second of which a peer must take more, if so much waits for it, not to be slow: 10 KiB in ten seconds (our guess: as
/// much as a sender must bring of a message that it began. Bitcoin Core has no such limit: it sends away who takes nothing for 20
/// minutes, and stops reading from whom more than 1 MB waits for.)
pub const LEAST: u64 = 1 << 10;
/// What has begun to go out to a peer must not take longer (our guess: the longest message at half a Mbit/s).
pub const BEGUN: Duration = Duration::from_secs(30);
/// What the peer manager knows of a debtor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Whether the operator named it: it is the last to go.
    pub last: bool,
    /// The group of addresses that it shares its burden with, if there is any.
    pub group: Option<Group>,
}

/// What is to be done to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Drop messages that wait for it, the lowest class first, until so many bytes are free.
    Shed {
        /// On which connection.
        link: LinkId,
        /// How many bytes.
        bytes: usize,
    },
    /// Read nothing from it.
    Stop(LinkId),
    /// Read from it again.
    Resume(LinkId),
    /// Disconnect it.
    Close {
        /// Whom.
        peer: NodeId,
        /// Why.
        reason: CloseReason,
    },
}

/// One pool, as it was seen last.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    refused: u64,
    refused_at: Option<Timestamp>,
    /// Whether somebody was refused since the look before.
    refused_just_now: bool,
    /// Since when memory is short.
    since: Option<Timestamp>,
}

impl Watch {
    /// Looks at the pool; whether memory is short.
    fn look(&mut self, now: Timestamp, strain: Strain) -> bool {
        self.refused_just_now = strain.refused > self.refused;
        if self.refused_just_now {
            self.refused_at = Some(now);
        }
        self.refused = strain.refused;
        let short = self.is_wanted(now) || strain.is_high(self.since.is_some());
        self.since = short.then(|| self.since.unwrap_or(now));
        short
    }

    /// Whether somebody waits for it.
    fn is_wanted(&self, now: Timestamp) -> bool {
        self.refused_at.is_some_and(|at| now.since(at) < AFTER_REFUSAL)
    }
}

/// Steps that were taken against a peer.
#[derive(Clone, Copy, Debug)]
struct Mark {
    steps: u32,
    at: Timestamp,
    /// When it came last that something was dropped, or was to be.
    last: Timestamp,
}

/// What a peer had brought of messages that come in pieces when memory for these became short.
#[derive(Clone, Copy, Debug)]
struct Brought {
    bytes: u64,
    at: Timestamp,
}

/// The machine. Its input is [`look`](Self::look), each time that memory is short or was when it looked last; nothing happens in
/// between.
#[derive(Debug, Default)]
pub struct Shedder {
    outbound: Watch,
    reassembly: Watch,
    inbox: Watch,
    marks: BTreeMap<LinkId, Mark>,
    stopped: BTreeSet<LinkId>,
    /// Those who kept what was begun for them when it looked last.
    behind: BTreeSet<LinkId>,
    brought: BTreeMap<LinkId, Brought>,
    hoarder_closed: Option<Timestamp>,
}

impl Shedder {
    /// What to do now. `known` says what the peer manager knows of somebody.
    pub fn look(&mut self, now: Timestamp, pressure: &Pressure, known: impl Fn(&NodeId) -> Known) -> Vec<Measure> {
        let mut measures = Vec::new();
        let debtors = &pressure.debtors;
        self.marks.retain(|_, mark| now.since(mark.at) < FORGIVEN);
        let unsent = self.outbound.look(now, pressure.outbound);
        self.behind = debtors.iter().filter(|debtor| unsent && is_behind(debtor)).map(|debtor| debtor.link).collect();
        if unsent {
            self.shed(now, pressure, &known, &mut measures);
        }
        if self.reassembly.look(now, pressure.reassembly) {
            self.end_hoarder(now, debtors, &known, &mut measures);
        } else {
            self.brought.clear();
        }
        let unread = self.inbox.look(now, pressure.inbox);
        if unread {
            self.stop_fullest(debtors, &known, &mut measures);
        }
        let closed: Vec<_> = measures.iter().filter_map(closes).collect();
        self.stopped.retain(|link| {
            let debtor = debtors.iter().find(|debtor| debtor.link == *link);
            if debtor.is_some_and(|debtor| closed.contains(&debtor.peer)) {
                return false;
            }
            let owing = |mark: &Mark| now.since(mark.last) < STEP || debtor.is_some_and(|debtor| owes(debtor) > 0);
            let sends = unread && debtor.is_some_and(|debtor| holds(debtor) > 0);
            let stays = sends || unsent && self.marks.get(link).is_some_and(owing);
            if !stays {
                measures.push(Measure::Resume(*link));
            }
            stays
        });
        measures
    }

    /// A connection is over, before what waits for it could be its end. Whether memory is short, and there was a step against it or
    /// it kept what was begun for it: hanging up must not be a way out.
    pub fn is_fugitive(&mut self, link: LinkId) -> bool {
        let (marked, behind) = (self.marks.remove(&link).is_some(), self.behind.remove(&link));
        self.outbound.since.is_some() && (marked || behind)
    }

    /// Frees what waits for those who come first, and takes further steps against whoever had one before.
    fn shed(
        &mut self,
        now: Timestamp,
        pressure: &Pressure,
        known: &impl Fn(&NodeId) -> Known,
        measures: &mut Vec<Measure>,
    ) {
        let Strain { used, limit, .. } = pressure.outbound;
        // Who was refused may have wanted much: then there is something to free even below the mark, once. When half of the pool is
        // free, the longest message fits.
        let wanted = if self.outbound.refused_just_now { limit / 8 } else { 0 };
        let least = wanted.min(used.saturating_sub(limit / 2));
        let mut need = used.saturating_sub(limit / 8 * LOW_EIGHTHS).max(least);
        let weigh = |debtor: &Debtor| {
            let weight =
                Weight { first: is_slow(debtor), burden: burden(debtor.owed, rate(debtor.taken, Taken::HALF)) };
            (owes(debtor) > 0).then_some(weight)
        };
        for debtor in ranked(&pressure.debtors, known, weigh) {
            if need == 0 {
                return;
            }
            let Debtor { link, peer, owed, begun, .. } = *debtor;
            let (slow, bytes) = (is_slow(debtor), owes(debtor).min(owed.saturating_sub(begun)).min(need));
            // What was begun for it counts as its share, too, although nothing but time frees that: no other pays for it.
            need = need.saturating_sub(owes(debtor));
            if bytes == 0 && !slow {
                continue;
            }
            let mark = self.marks.entry(link).or_insert(Mark { steps: 0, at: now, last: now });
            let is_due = mark.steps == 0 || now.since(mark.at) >= STEP;
            let most = 1 + u32::from(slow || takes_long(debtor)) + u32::from(slow);
            if is_due && mark.steps < most {
                *mark = Mark { steps: mark.steps + 1, at: now, last: now };
            }
            mark.last = now;
            if mark.steps == 2 && self.stopped.insert(link) {
                measures.push(Measure::Stop(link));
            }
            if mark.steps > 2 {
                self.marks.remove(&link);
                measures.push(Measure::Close { peer, reason: CloseReason::SlowPeer });
            } else if bytes > 0 {
                measures.push(Measure::Shed { link, bytes });
            }
        }
    }

    /// Disconnects one peer whose incomplete messages keep others waiting.
    fn end_hoarder(
        &mut self,
        now: Timestamp,
        debtors: &[Debtor],
        known: &impl Fn(&NodeId) -> Known,
        measures: &mut Vec<Measure>,
    ) {
        let is_holder = |debtor: &Debtor| holds(debtor) > 0 && debtor.reassembly > 0;
        self.brought.retain(|link, _| debtors.iter().any(|debtor| debtor.link == *link && is_holder(debtor)));
        for debtor in debtors.iter().filter(|debtor| is_holder(debtor)) {
            self.brought.entry(debtor.link).or_insert(Brought { bytes: brought(debtor), at: now });
        }
        let long = self.reassembly.since.is_some_and(|since| now.since(since) >= GRACE);
        let again = self.hoarder_closed.is_some_and(|at| now.since(at) < NEXT);
        if !long || again || !self.reassembly.is_wanted(now) {
            return;
        }
        let weigh = |debtor: &Debtor| {
            let then = self.brought.get(&debtor.link)?;
            let (bytes, time) = (brought(debtor).saturating_sub(then.bytes), now.since(then.at));
            let burden = burden(debtor.reassembly, rate(Taken { bytes, time }, GRACE));
            (time >= GRACE).then_some(Weight { first: !debtor.waits, burden })
        };
        if let Some(debtor) = ranked(debtors, known, weigh).first() {
            self.hoarder_closed = Some(now);
            let closed = Measure::Close { peer: debtor.peer, reason: CloseReason::Hoarding };
            if !measures.iter().filter_map(closes).any(|peer| peer == debtor.peer) {
                measures.push(closed);
            }
        }
    }

    /// Reads no more from one peer whose messages fill the inbox.
    fn stop_fullest(&mut self, debtors: &[Debtor], known: &impl Fn(&NodeId) -> Known, measures: &mut Vec<Measure>) {
        let weigh = |debtor: &Debtor| {
            let fills = holds(debtor) > 0 && debtor.inbox > 0 && !self.stopped.contains(&debtor.link);
            fills.then_some(Weight { first: false, burden: debtor.inbox as u128 })
        };
        if let Some(debtor) = ranked(debtors, known, weigh).first() {
            self.stopped.insert(debtor.link);
            measures.push(Measure::Stop(debtor.link));
        }
    }
}

/// What decides when somebody's turn is.
#[derive(Clone, Copy, Debug)]
struct Weight {
    /// Before all others who are not.
    first: bool,
    burden: u128,
}

/// Whose burdens are added up: a group's, or those of one peer that has none.
type House = Result<Group, NodeId>;

/// Those who have a weight, in the order in which they go: the heaviest of the heaviest group, which weighs so much less then; of
/// equals the lower id.
fn ranked<'a>(
    debtors: &'a [Debtor],
    known: &impl Fn(&NodeId) -> Known,
    weigh: impl Fn(&Debtor) -> Option<Weight>,
) -> Vec<&'a Debtor> {
    let mut houses: BTreeMap<(u8, House), (u128, Vec<_>)> = BTreeMap::new();
    for debtor in debtors {
        let Some(Weight { first, burden }) = weigh(debtor) else { continue };
        let Known { last, group } = known(&debtor.peer);
        let rank = if last { 0 } else { 1 + u8::from(first) };
        let (sum, members) = houses.entry((rank, group.ok_or(debtor.peer))).or_default();
        *sum += burden;
        members.push((burden, Reverse(debtor.peer), debtor));
    }
    let mut order = BTreeSet::new();
    for ((rank, house), (sum, members)) in &mut houses {
        members.sort_by_key(|(burden, peer, _)| (*burden, *peer));
        order.insert((*rank, *sum, Reverse(*house)));
    }
    let mut ranked = Vec::new();
    while let Some((rank, sum, Reverse(house))) = order.pop_last() {
        let Some((_, members)) = houses.get_mut(&(rank, house)) else { break };
        if let Some((burden, _, debtor)) = members.pop() {
            ranked.push(debtor);
            if !members.is_empty() {
                order.insert((rank, sum - burden, Reverse(house)));
            }
        }
    }
    ranked
}

/// Bytes times the seconds that they take at a rate.
const fn burden(bytes: usize, rate: u64) -> u128 {
    (bytes as u128).saturating_mul(bytes as u128) / rate as u128
}

/// Bytes a second, one at least: in so much time at least.
fn rate(taken: Taken, least: Duration) -> u64 {
    let millis = u64::try_from(taken.time.max(least).as_millis()).unwrap_or(u64::MAX);
    (taken.bytes.saturating_mul(1000) / millis).max(1)
}

/// Whether a peer does not take what waits for it.
fn is_slow(debtor: &Debtor) -> bool {
    debtor.taken.time >= Taken::HALF && rate(debtor.taken, Taken::HALF) < due(debtor)
}

/// Whether more than its floor was begun for a peer, and it took less of it than it should have in the time it had.
fn is_behind(debtor: &Debtor) -> bool {
    let Taken { bytes, time } = debtor.taken;
    debtor.begun > debtor.sent_floor && u128::from(bytes) * 1000 < u128::from(due(debtor)) * time.as_millis()
}

/// Bytes a second that a peer has to take not to be slow.
fn due(debtor: &Debtor) -> u64 {
    (debtor.begun as u64 / BEGUN.as_secs()).max(LEAST)
}

/// Whether all that waits for a peer would take it longer than [`BEGUN`].
fn takes_long(debtor: &Debtor) -> bool {
    debtor.owed as u64 / BEGUN.as_secs() > rate(debtor.taken, Taken::HALF)
}

/// Bytes of messages that came in pieces, complete ones included.
const fn brought(debtor: &Debtor) -> u64 {
    debtor.completed.saturating_add(debtor.reassembly as u64)
}

/// What of a debtor's queue is beyond its floor.
const fn owes(debtor: &Debtor) -> usize {
    debtor.owed.saturating_sub(debtor.sent_floor)
}

/// What it makes the node hold beyond its floor.
const fn holds(debtor: &Debtor) -> usize {
    (debtor.reassembly + debtor.inbox).saturating_sub(debtor.held_floor)
}

/// Whom a measure disconnects.
fn closes(measure: &Measure) -> Option<NodeId> {
    match measure {
        Measure::Close { peer, .. } => Some(*peer),
        _ => None,
    }
}
