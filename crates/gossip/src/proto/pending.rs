//! Items that wait for their verdict, bounded in bytes, by sender and in time.

use peerage_core::{Budget, Charge, Message, NodeId, OverBudget, Pool, Timers, Timestamp};
use std::collections::BTreeMap;

use super::{config::Config, topic::ItemId};

/// What an entry costs besides its message: map, timer and this struct (estimate).
const ENTRY_BYTES: usize = 400;

/// An item that waits, ready to be sent on without being encoded again.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) message: Message,
    /// Who sent it so far, the first one first. Whoever has it needs no copy, and answers for it if it is invalid.
    holders: Vec<NodeId>,
    charge: Charge,
}

impl Waiting {
    pub(super) fn holders(&self) -> &[NodeId] {
        &self.holders
    }
}

/// Why an item cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl From<OverBudget> for Full {
    fn from(_: OverBudget) -> Self {
        Self
    }
}

#[derive(Debug)]
pub(super) struct Pending {
    items: BTreeMap<ItemId, Waiting>,
    deadlines: Timers<ItemId>,
    /// Bytes by first sender. Outlives the connection, so that coming back does not make room.
    by_peer: BTreeMap<NodeId, usize>,
    bytes: usize,
}

impl Pending {
    pub(super) fn new() -> Self {
        Self { items: BTreeMap::new(), deadlines: Timers::new(), by_peer: BTreeMap::new(), bytes: 0 }
    }

    /// Lets an item wait that does not wait yet, and charges it.
    pub(super) fn insert(
        &mut self,
        now: Timestamp,
        config: &Config,
        budget: &Budget,
        id: ItemId,
        message: Message,
        from: NodeId,
    ) -> Result<(), Full> {
        let cost = cost(&message);
        let owed = self.by_peer.get(&from).copied().unwrap_or(0);
        if self.bytes + cost > config.pending_bytes || owed + cost > config.pending_bytes_per_peer {
            return Err(Full);
        }
        // The content is charged a second time: its first charge goes up with the event, and either may be dropped first.
        let charge = budget.charge(Pool::Table, cost)?;
        self.bytes += cost;
        *self.by_peer.entry(from).or_default() += cost;
        self.deadlines.set(id, now + config.verdict_timeout);
        self.items.insert(id, Waiting { message, holders: vec![from], charge });
        Ok(())
    }

    pub(super) fn contains(&self, id: &ItemId) -> bool {
        self.items.contains_key(id)
    }

    /// Notes that a neighbour has the item, too.
    pub(super) fn note_holder(&mut self, id: &ItemId, peer: NodeId) {
        let Some(waiting) = self.items.get_mut(id) else { return };
        // Without room for the note the neighbour gets a copy that it does not need; nothing worse.
        if !waiting.holders.contains(&peer) && waiting.charge.grow(size_of::<NodeId>()).is_ok() {
            waiting.holders.push(peer);
        }
    }

    pub(super) fn remove(&mut self, id: &ItemId) -> Option<Waiting> {
        let waiting = self.items.remove(id)?;
        self.deadlines.cancel(id);
        let cost = cost(&waiting.message);
        self.bytes -= cost;
        let from = waiting.holders[0]; // `insert` put it there and nothing removes it
        let owed = self.by_peer.get_mut(&from).expect("counted by `insert`");
        *owed -= cost;
        if *owed == 0 {
            self.by_peer.remove(&from);
        }
        Some(waiting)
    }

    pub(super) fn pop_overdue(&mut self, now: Timestamp) -> Option<ItemId> {
        let id = self.deadlines.pop_due(now)?;
        self.remove(&id).map(|_| id)
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.deadlines.next()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

fn cost(message: &Message) -> usize {
    message.len() + ENTRY_BYTES
}
