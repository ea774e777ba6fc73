//! What the nodes say about each transaction, put together: how long it takes from one to the others, and which are done.

use std::collections::BTreeMap;

use peerage_chain::proto::id::TxId;

use super::histogram::Histogram;

/// Follows transactions through a devnet. All times are nanoseconds of the one host's clock.
#[derive(Debug)]
pub struct Tracker {
    nodes: usize,
    open: BTreeMap<TxId, Followed>,
    uncommitted: u64,
    submitted: u64,
    acked: u64,
    committed: u64,
    refused: u64,
    missed: u64,
    all: Histogram,
    recent: Histogram,
}

/// One transaction.
#[derive(Debug)]
struct Followed {
    account: usize,
    /// Where it was acknowledged first, and when.
    acked: Option<(usize, u64)>,
    /// By node: when it was first accepted there, or seen in a block.
    seen: Vec<Option<u64>>,
    /// By node: whether it is in a block there.
    committed: Vec<bool>,
}

impl Followed {
    fn committed_everywhere(&self) -> bool {
        self.committed.iter().all(|committed| *committed)
    }
}

/// How many transactions came how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to a node, whatever it answered.
    pub submitted: u64,
    /// Committed by every node.
    pub committed: u64,
    /// Refused by a node for good.
    pub refused: u64,
    /// Events that watchers did not hear; one for each time that a node broke off.
    pub missed_events: u64,
}

/// How long transactions take from the durable acknowledgement at one node to the first accepting verdict, or a block,
/// at each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Propagation {
    /// Half are not slower, milliseconds; `None` if nothing arrived.
    pub p50_ms: Option<f64>,
    /// 99 of 100 are not slower, milliseconds.
    pub p99_ms: Option<f64>,
    /// Arrivals that were to be: acknowledged transactions times other nodes.
    pub expected: u64,
    /// Arrivals that were not seen.
    pub missing: u64,
}

impl Tracker {
    /// Of a devnet of so many nodes.
    pub fn new(nodes: usize) -> Self {
        let (open, all, recent) = (BTreeMap::new(), Histogram::default(), Histogram::default());
        Self { nodes, open, uncommitted: 0, submitted: 0, acked: 0, committed: 0, refused: 0, missed: 0, all, recent }
    }

    /// A transaction of an account is about to be handed to a node. Events about others are passed over.
    pub fn submitted(&mut self, id: TxId, account: usize) {
        let followed =
            Followed { account, acked: None, seen: vec![None; self.nodes], committed: vec![false; self.nodes] };
        if self.open.insert(id, followed).is_none() {
            self.submitted += 1;
            self.uncommitted += 1;
        }
    }

    /// A node refused it for good.
    pub fn refused(&mut self, id: TxId) {
        self.refused += 1;
        if self.open.remove(&id).is_some_and(|followed| !followed.committed_everywhere()) {
            self.uncommitted -= 1;
        }
    }

    /// A node acknowledged it. Only the first acknowledgement counts: others answer a submission that was repeated.
    pub fn acked(&mut self, node: usize, id: TxId, at: u64) {
        let Some(followed) = self.open.get_mut(&id).filter(|followed| followed.acked.is_none()) else { return };
        followed.acked = Some((node, at));
        self.acked += 1;
        for (_, seen) in followed.seen.iter().enumerate().filter(|(other, _)| *other != node) {
            if let Some(seen) = seen {
                record(&mut self.all, &mut self.recent, *seen, at);
            }
        }
        self.close_if_done(id);
    }

    /// A node's verdict on it was to accept.
    pub fn accepted(&mut self, node: usize, id: TxId, at: u64) {
        let Some(followed) = self.open.get_mut(&id) else { return };
        if followed.seen[node].is_some() {
            return;
        }
        followed.seen[node] = Some(at);
        if let Some((_, acked)) = followed.acked.filter(|(origin, _)| *origin != node) {
            record(&mut self.all, &mut self.recent, at, acked);
        }
    }

    /// A node committed it. Returns its account if that was the last node.
    pub fn committed(&mut self, node: usize, id: TxId, at: u64) -> Option<usize> {
        self.accepted(node, id, at);
        let followed = self.open.get_mut(&id)?;
        if followed.committed_everywhere() {
            return None;
        }
        followed.committed[node] = true;
        if !followed.committed_everywhere() {
            return None;
        }
        let account = followed.account;
        self.uncommitted -= 1;
        self.committed += 1;
        self.close_if_done(id);
        Some(account)
    }

    /// A watcher did not hear so many events.
    pub fn missed(&mut self, events: u64) {
        self.missed = self.missed.saturating_add(events);
    }

    /// Whether every transaction that was not refused is committed everywhere, as far as events tell.
    pub const fn all_committed(&self) -> bool {
        self.uncommitted == 0
    }

    /// How far transactions came.
    pub const fn counts(&self) -> Counts {
        Counts {
            submitted: self.submitted,
            committed: self.committed,
            refused: self.refused,
            missed_events: self.missed,
        }
    }

    /// Of all transactions.
    pub fn propagation(&self) -> Propagation {
        let expected = self.acked.saturating_mul(self.nodes as u64 - 1);
        let missing = expected.saturating_sub(self.all.len());
        Propagation { p50_ms: millis(&self.all, 50), p99_ms: millis(&self.all, 99), expected, missing }
    }

    /// Median and 99th percentile, milliseconds, of what arrived since this was last asked.
    pub fn take_recent(&mut self) -> (Option<f64>, Option<f64>) {
        let recent = (millis(&self.recent, 50), millis(&self.recent, 99));
        self.recent.clear();
        recent
    }

    /// Forgets what nothing more can be learnt about, so that memory does not grow with time.
    fn close_if_done(&mut self, id: TxId) {
        if self.open.get(&id).is_some_and(|followed| followed.acked.is_some() && followed.committed_everywhere()) {
            self.open.remove(&id);
        }
    }
}

/// Gossip may overtake the acknowledgement's event; that is a time of zero.
fn record(all: &mut Histogram, recent: &mut Histogram, seen: u64, acked: u64) {
    let nanos = seen.saturating_sub(acked);
    all.record(nanos);
    recent.record(nanos);
}

fn millis(histogram: &Histogram, percent: u8) -> Option<f64> {
    histogram.percentile(percent).map(|nanos| nanos as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn id(number: u8) -> TxId {
        TxId([number; 32])
    }

    #[test]
    fn a_transaction_is_timed_from_its_acknowledgement_to_each_other_node_and_then_forgotten() {
        let mut tracker = Tracker::new(3);
        tracker.submitted(id(1), 7);
        tracker.accepted(0, id(1), 9 * MS);
        tracker.accepted(1, id(1), 12 * MS); // its event comes before the acknowledgement's
        tracker.acked(0, id(1), 10 * MS);
        tracker.accepted(2, id(1), 18 * MS);
        tracker.accepted(2, id(1), 30 * MS); // only the first counts
        let propagation = tracker.propagation();
        assert_eq!((propagation.expected, propagation.missing), (2, 0));
        assert!(propagation.p50_ms.is_some_and(|ms| (2.0..2.02).contains(&ms)), "{propagation:?}");
        assert!(propagation.p99_ms.is_some_and(|ms| (8.0..8.08).contains(&ms)), "{propagation:?}");
        assert!(tracker.take_recent().0.is_some() && tracker.take_recent().0.is_none());
        assert!(!tracker.all_committed());
        assert_eq!([1, 2, 0].map(|node| tracker.committed(node, id(1), 40 * MS)), [None, None, Some(7)]);
        assert!(tracker.all_committed() && tracker.open.is_empty());
        tracker.committed(0, id(1), 50 * MS);
        tracker.accepted(1, id(9), 50 * MS); // not ours
        assert!(tracker.open.is_empty());
        assert_eq!(tracker.counts(), Counts { submitted: 1, committed: 1, ..Counts::default() });
    }

    #[test]
    fn a_block_counts_as_arrival_and_what_never_arrives_is_missing() {
        let mut tracker = Tracker::new(3);
        tracker.submitted(id(1), 0);
        tracker.acked(1, id(1), 10 * MS);
        tracker.acked(2, id(1), 11 * MS); // repeated elsewhere; the first stays the origin
        tracker.committed(0, id(1), 15 * MS);
        let propagation = tracker.propagation();
        assert_eq!((propagation.expected, propagation.missing), (2, 1));
        assert!(propagation.p50_ms.is_some_and(|ms| (5.0..5.05).contains(&ms)), "{propagation:?}");
        assert!(!tracker.all_committed());
        tracker.missed(3);
        assert_eq!(tracker.counts().missed_events, 3);
    }

    #[test]
    fn a_refused_transaction_is_counted_and_not_waited_for() {
        let mut tracker = Tracker::new(1);
        tracker.submitted(id(1), 0);
        tracker.refused(id(1));
        assert!(tracker.all_committed());
        assert_eq!(tracker.counts(), Counts { submitted: 1, refused: 1, ..Counts::default() });
        assert_eq!(tracker.propagation(), Propagation::default());
    }

    #[test]
    fn committed_before_the_acknowledgement_is_heard_of_is_still_measured() {
        let mut tracker = Tracker::new(2);
        tracker.submitted(id(1), 4);
        tracker.committed(0, id(1), 20 * MS);
        assert_eq!(tracker.committed(1, id(1), 21 * MS), Some(4));
        assert!(tracker.all_committed());
        tracker.acked(0, id(1), 20 * MS);
        assert_eq!((tracker.propagation().expected, tracker.propagation().missing), (1, 0));
        assert!(tracker.open.is_empty());
    }
}
