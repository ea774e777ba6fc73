//! Requests of ours that wait for their answer.

use std::collections::BTreeMap;

use peerage_core::{DropReason, RequestError, Timers, Timestamp};

/// Requests of ours that wait for their answer: each is ended exactly once, by an answer, its deadline or the end of
/// the connection. As many as the runner made; it bounds them.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// The next id on the wire. Ids count up, so that they are short and a late answer fits no later request.
    next: u64,
    /// The runner's names by the ids on the wire.
    open: BTreeMap<u64, u64>,
    deadlines: Timers<u64>,
    /// The one that went with message 1, once it is made.
    resumed: Option<u64>,
}

impl Requests {
    /// Uses up the first id, for a request that is not made yet.
    pub(super) fn reserve(&mut self) {
        self.next = self.next.max(1);
    }

    /// Begins a request that is under way already, with this reserved id.
    pub(super) fn resume(&mut self, id: u64, name: u64, deadline: Timestamp) {
        self.open.insert(id, name);
        self.deadlines.set(id, deadline);
        self.resumed = Some(id);
    }

    /// Begins a request; its id on the wire.
    pub(super) fn begin(&mut self, name: u64, deadline: Timestamp) -> u64 {
        let id = self.next;
        self.next += 1;
        self.open.insert(id, name);
        self.deadlines.set(id, deadline);
        id
    }

    /// Whether the request still waits: one that timed out in its queue need not be sent any more.
    pub(super) fn is_open(&self, id: u64) -> bool {
        self.open.contains_key(&id)
    }

    /// Ends the request with this id on the wire; its name, or `None` if nothing (or nothing any more) waits for it.
    pub(super) fn end(&mut self, id: u64) -> Option<u64> {
        let name = self.open.remove(&id)?;
        self.deadlines.cancel(&id);
        Some(name)
    }

    /// Ends the next request whose deadline has passed; its name, and what it has come to. Whoever was asked by message 1
    /// may drop what strangers ask, so its silence is told as a loss.
    pub(super) fn end_due(&mut self, now: Timestamp) -> Option<(u64, RequestError)> {
        let id = self.deadlines.pop_due(now)?;
        let lost = self.resumed == Some(id);
        let error = if lost { RequestError::Dropped(DropReason::NotConnected) } else { RequestError::Timeout };
        Some((self.open.remove(&id)?, error))
    }

    /// Ends them all, the oldest first.
    pub(super) fn end_all(self) -> impl Iterator<Item = u64> {
        self.open.into_values()
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.deadlines.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_once_whatever_comes_first() {
        let mut requests = Requests::default();
        let (early, late) = (requests.begin(70, Timestamp(9)), requests.begin(71, Timestamp(5)));
        assert_eq!(requests.next_timeout(), Some(Timestamp(5)));
        assert_eq!(requests.end(early), Some(70));
        assert_eq!(requests.end(early), None, "a second answer");
        assert_eq!(requests.end_due(Timestamp(4)), None);
        assert_eq!(requests.end_due(Timestamp(20)), Some((71, RequestError::Timeout)));
        assert_eq!(requests.end_due(Timestamp(20)), None);
        assert!(!requests.is_open(late));
        assert_eq!(requests.end(late), None, "a late answer");
    }
}
