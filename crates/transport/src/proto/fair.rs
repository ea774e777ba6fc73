//! A line in which whoever had least comes first.
//!
//! Start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996), all weights alike. It is as
//! fair as deficit round robin, to within one piece of work of each, but has no rounds: what counts is how much each one
//! had, so that one who is away for a moment, e.g. while its socket takes what was written, loses nothing. Who was away for
//! long has no claim to what others had meanwhile.

use std::collections::{BTreeMap, BTreeSet};

/// Those who wait, by how much they had. Each operation is logarithmic; equals stand in the order of their keys.
#[derive(Clone, Debug)]
pub struct FairQueue<K> {
    /// What the one who was called last had had by then.
    clock: u64,
    /// What each one had.
    had: BTreeMap<K, u64>,
    waiting: BTreeSet<(u64, K)>,
}

impl<K> Default for FairQueue<K> {
    fn default() -> Self {
        Self { clock: 0, had: BTreeMap::new(), waiting: BTreeSet::new() }
    }
}

impl<K: Ord + Copy> FairQueue<K> {
    /// Gets in line; whoever stands there already keeps the place.
    pub fn enter(&mut self, key: K) {
        let had = self.had.entry(key).or_default();
        // Nobody who waits had less than the clock, so this moves only those who come from outside.
        *had = self.clock.max(*had);
        self.waiting.insert((*had, key));
    }

    /// Leaves the line; what it had is remembered.
    pub fn leave(&mut self, key: K) {
        if let Some(had) = self.had.get(&key) {
            self.waiting.remove(&(*had, key));
        }
    }

    /// Calls the one who had least out of the line.
    pub fn call(&mut self) -> Option<K> {
        let (had, key) = self.waiting.pop_first()?;
        self.clock = had;
        Some(key)
    }

    /// Counts `amount` for one who has left the line, and was never forgotten.
    pub fn count(&mut self, key: K, amount: u64) {
        if let Some(had) = self.had.get_mut(&key) {
            debug_assert!(!self.waiting.contains(&(*had, key)), "who waits gets nothing");
            *had += amount;
        }
    }

    /// Leaves for good.
    pub fn forget(&mut self, key: K) {
        self.leave(key);
        self.had.remove(&key);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_large_pieces_is_called_less_often() {
        let mut queue = FairQueue::default();
        let mut had = BTreeMap::from([('a', 0), ('b', 0), ('c', 0)]);
        for _ in 0..1000 {
            had.keys().for_each(|key| queue.enter(*key));
            let key = queue.call().expect("all wait");
            let piece = if key == 'a' { 1600 } else { 100 };
            queue.count(key, piece);
            *had.get_mut(&key).expect("known") += piece;
            let (most, least) = (had.values().max().expect("three"), had.values().min().expect("three"));
            assert!(most - least <= 1700, "{had:?}");
        }
    }

    #[test]
    fn who_was_away_for_long_comes_first_but_once() {
        let mut queue = FairQueue::default();
        queue.enter('a');
        for _ in 0..100 {
            assert_eq!(queue.call(), Some('a'));
            queue.count('a', 10);
            queue.enter('a');
        }
        queue.enter('b');
        assert_eq!(queue.call(), Some('b'), "it had less");
        queue.count('b', 20);
        queue.enter('b');
        assert_eq!(queue.call(), Some('a'), "what others had while it was away is theirs");
        queue.leave('b');
        queue.forget('a');
        assert!(queue.is_empty() && queue.call().is_none());
    }
}
