//! Queues that take little more memory than their items, and give it back.
//!
//! What is charged for an item is given back as it leaves its queue, so nothing pays for slots that are empty. A
//! [`VecDeque`] alone may be half empty, and keeps for ever what it took once.

use std::collections::VecDeque;

/// Slots that an empty queue may keep, so that an ordinary one is not allocated anew for each burst; up to so many it doubles
/// (our guess: what a slice of the driver's work puts into one).
const KEPT: usize = 64;
/// Slots that a queue begins with (our guess).
const FIRST: usize = 4;
/// A full queue grows by one part in so many (our guess: copying each item eight times at most is cheap).
const GROWTH: usize = 8;

/// Adds an item at the end.
pub fn push_back<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == queue.capacity() {
        let growth = if queue.len() < KEPT { queue.len() } else { queue.len() / GROWTH };
        queue.reserve_exact(growth.max(FIRST));
    }
    queue.push_back(item);
}

/// Takes the first item, and frees what a flood made the queue take as soon as a quarter of it is empty.
pub fn pop_front<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let item = queue.pop_front();
    if queue.capacity() > KEPT && queue.len() < queue.capacity() / 4 * 3 {
        queue.shrink_to((queue.len() + queue.len() / GROWTH).max(KEPT));
    }
    item
}

/// Gives back all that an empty queue keeps, when nothing is expected to enter it soon.
pub fn rest<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() {
        *queue = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_takes_little_more_than_its_items_when_it_comes_and_when_it_goes() {
        let mut queue = VecDeque::new();
        for item in 0..10_000 {
            push_back(&mut queue, item);
        }
        assert!(queue.capacity() <= 10_000 / 8 * 9, "{}", queue.capacity());
        for item in 0..10_000 {
            assert_eq!(pop_front(&mut queue), Some(item));
            let (taken, held) = (queue.capacity(), queue.len());
            assert!(taken <= held / 3 * 4 + 8 || taken <= KEPT, "room for {taken}, of which {held} are there");
        }
    }

    #[test]
    fn an_ordinary_queue_is_not_allocated_anew() {
        let mut queue = VecDeque::new();
        push_back(&mut queue, 7);
        let usual = queue.capacity();
        assert_eq!((pop_front(&mut queue), queue.capacity()), (Some(7), usual));
        assert!(usual > 0);
        rest(&mut queue);
        assert_eq!(queue.capacity(), 0);
    }
}
