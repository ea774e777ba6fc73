//! The event queue: by time, then in the order of scheduling.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

use peerage_core::Timestamp;

/// Events to come. The heap holds small keys, the events lie still in slots: sifting is most of a simulation's work.
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<(Timestamp, u64, usize)>>,
    slots: Vec<Option<T>>,
    free: Vec<usize>,
    sequence: u64,
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), sequence: 0 }
    }

    pub(crate) fn push(&mut self, at: Timestamp, event: T) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(event);
        self.heap.push(Reverse((at, self.sequence, slot)));
        self.sequence += 1;
    }

    /// The moment of the next event.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next event, unless it comes after `until`.
    pub(crate) fn pop(&mut self, until: Timestamp) -> Option<(Timestamp, T)> {
        if self.next_at()? > until {
            return None;
        }
        let Reverse((at, _, slot)) = self.heap.pop()?;
        self.free.push(slot);
        Some((at, self.slots[slot].take()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_come_by_time_and_equal_times_in_the_order_of_scheduling(times in prop::collection::vec(0_u64..20, 0..200)) {
            let mut queue = Queue::new();
            for (number, at) in times.iter().enumerate() {
                queue.push(Timestamp(*at), number);
            }
            let mut expected: Vec<_> = times.iter().enumerate().map(|(number, at)| (Timestamp(*at), number)).collect();
            expected.sort();
            let popped: Vec<_> = core::iter::from_fn(|| queue.pop(Timestamp(u64::MAX))).collect();
            prop_assert_eq!(popped, expected);
        }
    }

    #[test]
    fn nothing_comes_before_its_time_and_slots_are_used_again() {
        let mut queue = Queue::new();
        for round in 0..100 {
            queue.push(Timestamp(round + 1), ());
            assert!(queue.pop(Timestamp(round)).is_none());
            assert!(queue.pop(Timestamp(round + 1)).is_some());
        }
        assert_eq!(queue.slots.len(), 1);
    }
}
