//! Timers as values, in a stable order.

use std::collections::{BTreeMap, BTreeSet};

use crate::Timestamp;

/// The timers of one machine: at most one deadline for each key. Equal deadlines fire in the order of their keys, so a
/// run is the same each time.
#[derive(Clone, Debug)]
pub struct Timers<K> {
    deadlines: BTreeMap<K, Timestamp>,
    queue: BTreeSet<(Timestamp, K)>,
}

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self { deadlines: BTreeMap::new(), queue: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Timers<K> {
    /// No timers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the timer `key` to fire at `at`, replacing an earlier deadline of the same key.
    pub fn set(&mut self, key: K, at: Timestamp) {
        if let Some(old) = self.deadlines.insert(key.clone(), at) {
            self.queue.remove(&(old, key.clone()));
        }
        self.queue.insert((at, key));
    }

    /// Removes the timer `key`; false if it was not set.
    pub fn cancel(&mut self, key: &K) -> bool {
        let Some(at) = self.deadlines.remove(key) else { return false };
        self.queue.remove(&(at, key.clone()))
    }

    /// The deadline of `key`, if it is set.
    pub fn deadline(&self, key: &K) -> Option<Timestamp> {
        self.deadlines.get(key).copied()
    }

    /// The earliest deadline: what a machine answers from `next_timeout`.
    pub fn next(&self) -> Option<Timestamp> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Removes and returns the first timer that is due at `now`. Call it until it returns `None`.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<K> {
        if self.queue.first()?.0 > now {
            return None;
        }
        let (_, key) = self.queue.pop_first()?;
        self.deadlines.remove(&key);
        Some(key)
    }

    /// How many timers are set.
    pub fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_by_deadline_then_by_key_and_only_once() {
        let mut timers = Timers::new();
        timers.set("b", Timestamp(5));
        timers.set("a", Timestamp(5));
        timers.set("c", Timestamp(1));
        assert_eq!(timers.next(), Some(Timestamp(1)));
        assert_eq!(timers.pop_due(Timestamp(0)), None, "nothing is due yet");
        let fired: Vec<_> = core::iter::from_fn(|| timers.pop_due(Timestamp(5))).collect();
        assert_eq!(fired, ["c", "a", "b"]);
        assert!(timers.is_empty());
    }

    #[test]
    fn setting_a_timer_again_moves_it_and_cancelling_forgets_it() {
        let mut timers = Timers::new();
        timers.set(1, Timestamp(5));
        timers.set(1, Timestamp(9));
        timers.set(2, Timestamp(7));
        assert!(timers.cancel(&2));
        assert!(!timers.cancel(&2));
        assert_eq!(timers.pop_due(Timestamp(8)), None);
        assert_eq!(timers.pop_due(Timestamp(9)), Some(1));
    }
}
