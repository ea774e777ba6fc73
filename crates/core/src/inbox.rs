//! What arrived and waits for a protocol: the most urgent class first, and within a class the connections in turns.
//!
//! One queue for each connection that has something there, so whoever sends much waits behind its own messages and nobody
//! else does. What no connection sent (commands of users) takes its turn among them; what the node has to tell
//! (peers that come and go, results of jobs) goes before all, so that a peer is known before it says anything.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    Class, LinkId, PerClass,
    queue::{pop_front, push_back},
};

/// The queues of one class, and whose turn it is.
#[derive(Debug)]
struct Turns<T> {
    queues: BTreeMap<Option<LinkId>, VecDeque<T>>,
    /// Each queue that holds something, once.
    order: VecDeque<Option<LinkId>>,
}

impl<T> Turns<T> {
    const fn new() -> Self {
        Self { queues: BTreeMap::new(), order: VecDeque::new() }
    }

    fn push(&mut self, from: Option<LinkId>, item: T) {
        let queue = self.queues.entry(from).or_insert_with(|| {
            push_back(&mut self.order, from);
            VecDeque::new()
        });
        push_back(queue, item);
    }

    /// The next item of whose turn it is; it goes to the end, or away if that was its last.
    fn pop(&mut self) -> Option<T> {
        let from = pop_front(&mut self.order)?;
        let queue = self.queues.get_mut(&from)?;
        let item = pop_front(queue);
        if queue.is_empty() {
            self.queues.remove(&from);
        } else {
            push_back(&mut self.order, from);
        }
        item
    }
}

/// The inbox.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    news: VecDeque<T>,
    classes: PerClass<Turns<T>>,
    waiting: usize,
}

impl<T> Inbox<T> {
    pub(crate) fn new() -> Self {
        Self { news: VecDeque::new(), classes: PerClass::from_fn(|_| Turns::new()), waiting: 0 }
    }

    /// Puts what goes before everything else at the end of its like.
    pub(crate) fn push_news(&mut self, item: T) {
        self.waiting += 1;
        push_back(&mut self.news, item);
    }

    /// Puts an item of a class behind those of the same connection; `None` for what came from none.
    pub(crate) fn push(&mut self, class: Class, from: Option<LinkId>, item: T) {
        self.waiting += 1;
        self.classes[class].push(from, item);
    }

    /// The next item, and its class: `Control` for news.
    pub(crate) fn pop(&mut self) -> Option<(Class, T)> {
        let news = pop_front(&mut self.news).map(|item| (Class::Control, item));
        let next = news.or_else(|| Class::ALL.into_iter().find_map(|class| Some((class, self.classes[class].pop()?))));
        self.waiting -= usize::from(next.is_some());
        next
    }

    /// Items that wait.
    pub(crate) const fn len(&self) -> usize {
        self.waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that is left, in order.
    fn drain(inbox: &mut Inbox<&'static str>) -> Vec<&'static str> {
        core::iter::from_fn(|| inbox.pop().map(|(_, item)| item)).collect()
    }

    #[test]
    fn a_flood_of_one_peer_waits_for_itself_alone() {
        let mut inbox = Inbox::new();
        for _ in 0..1_000 {
            inbox.push(Class::Gossip, Some(LinkId(1)), "flood");
        }
        for item in ["first", "second"] {
            inbox.push(Class::Gossip, Some(LinkId(2)), item);
        }
        inbox.push(Class::Gossip, None, "command");
        let order: Vec<_> = (0..7).filter_map(|_| inbox.pop()).map(|(_, item)| item).collect();
        assert_eq!(order, ["flood", "first", "command", "flood", "second", "flood", "flood"]);
        assert_eq!(inbox.len(), 996);
    }

    #[test]
    fn the_class_comes_before_the_turn_and_news_before_the_class() {
        let mut inbox = Inbox::new();
        inbox.push(Class::Bulk, Some(LinkId(1)), "block");
        inbox.push(Class::Consensus, Some(LinkId(2)), "vote");
        inbox.push(Class::Control, Some(LinkId(3)), "ping");
        inbox.push_news("a peer came");
        inbox.push_news("a peer went");
        assert_eq!(drain(&mut inbox), ["a peer came", "a peer went", "ping", "vote", "block"]);
        assert_eq!((inbox.len(), inbox.pop()), (0, None));
    }

    #[test]
    fn whoever_has_nothing_there_leaves_nothing_behind() {
        let mut inbox = Inbox::new();
        for link in 0..100 {
            inbox.push(Class::Signal, Some(LinkId(link)), "once");
        }
        assert_eq!(drain(&mut inbox).len(), 100);
        assert!(inbox.classes[Class::Signal].queues.is_empty() && inbox.classes[Class::Signal].order.is_empty());
    }
}
