//! Who goes without when memory is short: those who owe most, step by step, each step with its reason.
//!
//! The ledger counts, this decides, the runner does it. Nobody within its floor is ever touched; of the others, reserved and
//! trusted peers come last; among equals, who owes most, then the lower id.
//!
//! | what is full | 1. | 2. | 3. |
//! |---|---|---|---|
//! | what waits to be sent | who owes most loses messages of its lowest class | and is not read from, so that it cannot ask for more | and is disconnected: `slow_peer` |
//! | incomplete messages | whoever needs memory waits | who holds most and does not wait itself, or if all do, who holds most, is disconnected: `hoarding` | |
//! | messages that wait for the stack | who has most of them there is not read from | | |
//!
//! The second and the third step against a peer come a while after the one before, and only if memory is still short, or is
//! again, and it still owes more than its floor: whoever takes what waits for it is not touched again. Incomplete messages
//! cannot be dropped one by one, and whoever is not read from cannot end them, so there the last step is the only one. A message
//! that waits for the stack ends there however slow that is; who sent it has nothing to mend, so nobody is disconnected for it.
//!
//! Memory is short from the high mark on, or when somebody was refused, until it is below the low mark and nobody was for a
//! while. So one step frees enough for many messages.

use core::{cmp::Reverse, time::Duration};
use peerage_core::{
    CloseReason, Debtor, LinkId, NodeId, Pressure, Strain, Timestamp,
    pressure::{AFTER_REFUSAL, LOW_EIGHTHS},
};
use std::collections::{BTreeMap, BTreeSet};

#[cfg(test)]
mod tests;

/// Between two steps against one peer (our guess: many round trips, in which a peer that reads takes megabytes).
pub const STEP: Duration = Duration::from_secs(1);
/// A step that was so long ago does not count any more (our guess: half a minute in which memory was short without the peer
/// being the one who owes most).
pub const FORGIVEN: Duration = Duration::from_secs(30);
/// How long incomplete messages may keep others waiting before the first of them goes (our guess: time for the longest message at
/// 8 Mbit/s, far below the 15 s after which those who wait are disconnected).
pub const GRACE: Duration = Duration::from_secs(2);
/// From one such disconnection to the next (our guess: those who wait have tried again by then).
pub const NEXT: Duration = Duration::from_millis(250);

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
    /// Since when memory is short.
    since: Option<Timestamp>,
}

impl Watch {
    /// Looks at the pool; whether memory is short.
    fn look(&mut self, now: Timestamp, strain: Strain) -> bool {
        if strain.refused > self.refused {
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
    hoarder_closed: Option<Timestamp>,
}

impl Shedder {
    /// What to do now. `last` says of whom the operator wants it to be the last.
    pub fn look(&mut self, now: Timestamp, pressure: &Pressure, last: impl Fn(&NodeId) -> bool) -> Vec<Measure> {
        let mut measures = Vec::new();
        let debtors = &pressure.debtors;
        self.marks.retain(|link, mark| {
            let owes = debtors.iter().any(|debtor| debtor.link == *link && debtor.owed > debtor.sent_floor);
            owes && now.since(mark.at) < FORGIVEN
        });
        let unsent = self.outbound.look(now, pressure.outbound);
        if unsent {
            self.shed(now, pressure, &last, &mut measures);
        }
        if self.reassembly.look(now, pressure.reassembly) {
            self.end_hoarder(now, debtors, &last, &mut measures);
        }
        let unread = self.inbox.look(now, pressure.inbox);
        if unread {
            self.stop_fullest(debtors, &last, &mut measures);
        }
        let closed: Vec<_> = measures.iter().filter_map(closes).collect();
        self.stopped.retain(|link| {
            let debtor = debtors.iter().find(|debtor| debtor.link == *link);
            if debtor.is_some_and(|debtor| closed.contains(&debtor.peer)) {
                return false;
            }
            let marked = unsent && self.marks.contains_key(link);
            let causes = |debtor: &Debtor| marked && owes(debtor) > 0 || unread && holds(debtor) > 0;
            let stays = debtor.is_some_and(causes);
            if !stays {
                measures.push(Measure::Resume(*link));
            }
            stays
        });
        measures
    }

    /// Frees what waits for those who owe most, and takes further steps against whoever had one before.
    fn shed(
        &mut self,
        now: Timestamp,
        pressure: &Pressure,
        last: &impl Fn(&NodeId) -> bool,
        measures: &mut Vec<Measure>,
    ) {
        let Strain { used, limit, .. } = pressure.outbound;
        // Who was refused may have wanted much: then there is something to free even below the mark.
        let least = if self.outbound.is_wanted(now) { limit / 8 } else { 0 };
        let mut need = used.saturating_sub(limit / 8 * LOW_EIGHTHS).max(least);
        let mut order: Vec<_> = pressure.debtors.iter().filter(|debtor| owes(debtor) > 0).collect();
        order.sort_by_key(|debtor| (last(&debtor.peer), Reverse(debtor.owed), debtor.peer));
        for debtor in order {
            if need == 0 {
                return;
            }
            let Debtor { link, peer, owed, .. } = *debtor;
            let mark = self.marks.entry(link).or_insert(Mark { steps: 0, at: now });
            if mark.steps == 0 || now.since(mark.at) >= STEP {
                *mark = Mark { steps: mark.steps + 1, at: now };
                if mark.steps == 2 && self.stopped.insert(link) {
                    measures.push(Measure::Stop(link));
                }
            }
            if mark.steps > 2 {
                self.marks.remove(&link);
                measures.push(Measure::Close { peer, reason: CloseReason::SlowPeer });
                need = need.saturating_sub(owed);
            } else {
                let bytes = owes(debtor).min(need);
                measures.push(Measure::Shed { link, bytes });
                need -= bytes;
            }
        }
    }

    /// Disconnects one peer whose incomplete messages keep others waiting.
    fn end_hoarder(
        &mut self,
        now: Timestamp,
        debtors: &[Debtor],
        last: &impl Fn(&NodeId) -> bool,
        measures: &mut Vec<Measure>,
    ) {
        let long = self.reassembly.since.is_some_and(|since| now.since(since) >= GRACE);
        let again = self.hoarder_closed.is_some_and(|at| now.since(at) < NEXT);
        if !long || again || !self.reassembly.is_wanted(now) {
            return;
        }
        let holders = debtors.iter().filter(|debtor| holds(debtor) > 0 && debtor.reassembly > 0);
        let first =
            holders.min_by_key(|debtor| (last(&debtor.peer), debtor.waits, Reverse(debtor.reassembly), debtor.peer));
        if let Some(debtor) = first {
            self.hoarder_closed = Some(now);
            let closed = Measure::Close { peer: debtor.peer, reason: CloseReason::Hoarding };
            if !measures.iter().filter_map(closes).any(|peer| peer == debtor.peer) {
                measures.push(closed);
            }
        }
    }

    /// Reads no more from one peer whose messages fill the inbox.
    fn stop_fullest(&mut self, debtors: &[Debtor], last: &impl Fn(&NodeId) -> bool, measures: &mut Vec<Measure>) {
        let others = debtors.iter().filter(|debtor| !self.stopped.contains(&debtor.link));
        let full = others.filter(|debtor| holds(debtor) > 0 && debtor.inbox > 0);
        let first = full.min_by_key(|debtor| (last(&debtor.peer), Reverse(debtor.inbox), debtor.peer));
        if let Some(debtor) = first {
            self.stopped.insert(debtor.link);
            measures.push(Measure::Stop(debtor.link));
        }
    }
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
