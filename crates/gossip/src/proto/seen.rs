//! Which items were seen lately: two generations, the older of which is forgotten as a whole.

use core::{mem, time::Duration};
use peerage_core::{Budget, Charge, OverBudget, Pool, Timestamp};
use std::collections::BTreeMap;

use super::topic::ItemId;

/// What one entry costs: 33 bytes in nodes that are at least half full, with their share of the inner nodes (estimate).
pub(super) const ENTRY_BYTES: usize = 80;

/// What became of a seen item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It waits for its verdict.
    Pending,
    /// It was sent on, or came from here.
    Spread,
    /// It is invalid: whoever sends it is at fault.
    Rejected,
}

#[derive(Debug)]
struct Generation {
    entries: BTreeMap<ItemId, Outcome>,
    charge: Charge,
}

impl Generation {
    fn new(budget: &Budget) -> Self {
        Self { entries: BTreeMap::new(), charge: budget.nothing().transfer(Pool::Table) }
    }
}

/// Recognises an item for at least the TTL and at most twice as long after it was first seen.
#[derive(Debug)]
pub(super) struct Seen {
    budget: Budget,
    ttl: Duration,
    /// Entries of one generation.
    capacity: usize,
    young: Generation,
    old: Generation,
    rotate_at: Option<Timestamp>,
}

impl Seen {
    pub(super) fn new(budget: &Budget, ttl: Duration, bytes: usize) -> Self {
        let (young, old) = (Generation::new(budget), Generation::new(budget));
        let capacity = (bytes / ENTRY_BYTES / 2).max(1);
        Self { budget: budget.clone(), ttl, capacity, young, old, rotate_at: None }
    }

    pub(super) fn get(&self, id: &ItemId) -> Option<Outcome> {
        self.young.entries.get(id).or_else(|| self.old.entries.get(id)).copied()
    }

    /// Notes an outcome; the age of a known item stays.
    pub(super) fn set(&mut self, now: Timestamp, id: ItemId, outcome: Outcome) -> Result<(), OverBudget> {
        for generation in [&mut self.young, &mut self.old] {
            if let Some(entry) = generation.entries.get_mut(&id) {
                *entry = outcome;
                return Ok(());
            }
        }
        if self.young.entries.len() >= self.capacity {
            self.rotate(now);
        }
        self.young.charge.grow(ENTRY_BYTES)?;
        self.young.entries.insert(id, outcome);
        self.rotate_at.get_or_insert(now + self.ttl);
        Ok(())
    }

    pub(super) fn forget(&mut self, id: &ItemId) {
        for generation in [&mut self.young, &mut self.old] {
            if generation.entries.remove(id).is_some() {
                generation.charge.shrink_to(generation.charge.bytes() - ENTRY_BYTES);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }

    pub(super) const fn next_timeout(&self) -> Option<Timestamp> {
        self.rotate_at
    }

    pub(super) fn handle_timeout(&mut self, now: Timestamp) {
        if self.rotate_at.is_some_and(|at| at <= now) {
            self.rotate(now);
        }
    }

    fn rotate(&mut self, now: Timestamp) {
        self.old = mem::replace(&mut self.young, Generation::new(&self.budget));
        self.rotate_at = (!self.old.entries.is_empty()).then(|| now + self.ttl);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topic;

    fn id(n: u8) -> ItemId {
        ItemId::of(&Topic::from_static("t"), &[n])
    }

    #[test]
    fn an_item_is_known_for_its_ttl_and_gives_its_bytes_back_afterwards() {
        let budget = Budget::new(1 << 20);
        let mut seen = Seen::new(&budget, Duration::from_secs(120), 1 << 20);
        let second = |s: u64| Timestamp::from_millis(s * 1000);
        seen.set(second(0), id(0), Outcome::Pending).expect("room");
        seen.set(second(119), id(1), Outcome::Pending).expect("room");
        seen.set(second(119), id(0), Outcome::Spread).expect("known already");
        assert_eq!((seen.next_timeout(), budget.report().resident), (Some(second(120)), 2 * ENTRY_BYTES));
        seen.handle_timeout(second(120));
        assert_eq!((seen.get(&id(0)), seen.get(&id(1))), (Some(Outcome::Spread), Some(Outcome::Pending)));
        seen.forget(&id(1));
        assert_eq!((seen.get(&id(1)), budget.report().resident), (None, ENTRY_BYTES));
        seen.handle_timeout(second(240));
        assert_eq!((seen.len(), seen.next_timeout(), budget.report().resident), (0, None, 0));
    }

    #[test]
    fn a_full_cache_forgets_its_older_half_and_a_full_budget_refuses() {
        let budget = Budget::new(5 * ENTRY_BYTES);
        let mut seen = Seen::new(&budget, Duration::from_secs(120), 4 * ENTRY_BYTES);
        (0..5).for_each(|n| seen.set(Timestamp::ZERO, id(n), Outcome::Spread).expect("room"));
        assert_eq!((seen.get(&id(0)), seen.get(&id(1)), seen.len()), (None, None, 3));
        let _rest = budget.charge(Pool::Inbox, 2 * ENTRY_BYTES).expect("fits");
        seen.set(Timestamp::ZERO, id(9), Outcome::Spread).expect_err("no room");
        assert_eq!((seen.get(&id(9)), seen.len()), (None, 3));
    }
}
