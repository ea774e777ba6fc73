//! The iterative lookup of Kademlia as a machine that knows neither peers nor time.
//!
//! It is told of candidates and of answers, and says whom to ask next. It is done when the k closest candidates that did
//! not fail have all answered (Maymounkov and Mazières 2002, 2.3).

use core::net::SocketAddr;
use std::collections::BTreeMap;

use peerage_core::NodeId;

use super::{
    key::{DhtKey, Distance},
    record::NodeRecord,
};

/// Somebody who may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Who.
    pub node: NodeId,
    /// Where, as far as known.
    pub addrs: Vec<SocketAddr>,
    /// What the node says about itself; unknown of seeds that were never met.
    pub record: Option<NodeRecord>,
}

impl Contact {
    /// The node of a record, at those of its addresses that `allowed` lets pass.
    pub fn of(record: NodeRecord, allowed: impl Fn(&SocketAddr) -> bool) -> Self {
        let addrs = record.addrs().iter().copied().filter(allowed).collect();
        Self { node: record.node(), addrs, record: Some(record) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Asked,
    Answered,
    Failed,
}

/// One lookup of the `k` nodes closest to a key, asking `alpha` at once.
///
/// It remembers the closest candidates up to a bound, and asks no more of them than that, whatever it is told: keys can be made
/// closer and closer, and answers that name them need not end.
#[derive(Debug)]
pub struct Lookup {
    target: DhtKey,
    k: usize,
    alpha: usize,
    bound: usize,
    candidates: BTreeMap<Distance, (Contact, State)>,
    /// Questions that are open.
    asked: usize,
    /// Questions that may still be asked.
    left: usize,
}

impl Lookup {
    /// A lookup that knows nobody yet. `bound` (at least `k`) is how many candidates it remembers, and how
    /// many it asks.
    pub fn new(target: DhtKey, k: usize, alpha: usize, bound: usize) -> Self {
        let bound = bound.max(k);
        Self { target, k, alpha, bound, candidates: BTreeMap::new(), asked: 0, left: bound }
    }

    /// The key that is looked up.
    pub const fn target(&self) -> DhtKey {
        self.target
    }

    /// Adds a candidate, or what is newly known about one.
    pub fn add(&mut self, contact: Contact) {
        let distance = DhtKey::of(&contact.node).distance(&self.target);
        if let Some((known, _)) = self.candidates.get_mut(&distance) {
            let newer = match (&contact.record, &known.record) {
                (Some(new), Some(old)) => new.supersedes(old),
                (Some(_), None) => true,
                (None, _) => false,
            };
            if newer {
                *known = contact;
            }
            return;
        }
        self.candidates.insert(distance, (contact, State::New));
        if self.candidates.len() > self.bound {
            // Who was asked is kept, or it could be named and asked again. So many are never asked that nobody else is there.
            let farthest = self.candidates.iter().rev().find(|(_, (_, state))| *state == State::New);
            if let Some(distance) = farthest.map(|(distance, _)| *distance) {
                self.candidates.remove(&distance);
            }
        }
    }

    /// Whom to ask next. Call it until it returns `None`, after each change.
    pub fn next_to_ask(&mut self) -> Option<Contact> {
        if self.asked >= self.alpha || self.left == 0 {
            return None;
        }
        let mut alive = self.candidates.values_mut().filter(|(_, state)| *state != State::Failed).take(self.k);
        let (contact, state) = alive.find(|(_, state)| *state == State::New)?;
        *state = State::Asked;
        self.asked += 1;
        self.left -= 1;
        Some(contact.clone())
    }

    /// A node that was asked answered; whom it named is [added](Self::add) before. False if it was not asked or had
    /// failed since.
    pub fn answered(&mut self, node: &NodeId) -> bool {
        self.settle(node, State::Answered)
    }

    /// A node that was asked did not answer, or not properly. False if it was not asked.
    pub fn failed(&mut self, node: &NodeId) -> bool {
        self.settle(node, State::Failed)
    }

    fn settle(&mut self, node: &NodeId, to: State) -> bool {
        let distance = DhtKey::of(node).distance(&self.target);
        match self.candidates.get_mut(&distance) {
            Some((_, state)) if *state == State::Asked => {
                *state = to;
                self.asked -= 1;
                true
            }
            _ => false,
        }
    }

    /// Whether nobody is left to ask and nobody among the closest is expected to answer.
    pub fn is_done(&self) -> bool {
        let mut alive = self.candidates.values().filter(|(_, state)| *state != State::Failed).take(self.k);
        alive.all(|(_, state)| *state == State::Answered || *state == State::New && self.left == 0)
    }

    /// Those of the closest that answered, closest first, at most `k`.
    pub fn closest(&self) -> impl Iterator<Item = &Contact> {
        let answered = self.candidates.values().filter(|(_, state)| *state == State::Answered);
        answered.take(self.k).map(|(contact, _)| contact)
    }
}

#[cfg(test)]
mod tests;
