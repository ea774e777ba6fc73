//! Flooding with validation: each item goes once to each neighbour that wants it and is not known to have it.
//!
//! This is the baseline of dissemination: latency of the shortest paths, at as many copies as the mesh has links. The
//! treatment of verdicts (accept, reject, ignore) follows extended validators of the libp2p gossipsub specification
//! (gossipsub v1.1, "Extended Validators").
//!
//! Who has an item is kept with the item while it waits for its verdict and no longer: after that it is sent to each
//! neighbour at most once, so there is nothing left to know. That bounds the knowledge by neighbours times items that
//! wait, and both are paid for.

use bytes::Bytes;
use core::cmp;
use peerage_core::{
    Action, Budget, Charge, DropReason, Fault, JobId, Layer, Message, NetworkEvent, NoJob, NodeId, Now, Protocol,
    Timestamp, Want,
};
use peerage_wire::payload;
use std::collections::{BTreeMap, VecDeque};

use super::{
    Command, Event, Stats, Verdict,
    config::Config,
    pending::{Full, Pending},
    seen::{Outcome, Seen},
    topic::{ItemId, Topic},
    wire::{ITEM, ItemHead, MAX_ITEM_BYTES, MAX_ITEM_HEAD_BYTES, MAX_SUBSCRIBE_BYTES, MAX_TOPICS, SUBSCRIBE, Topics},
};
use crate::PublishError;

/// A connected neighbour.
#[derive(Debug, Default)]
struct Neighbour {
    /// What it asked for.
    topics: Topics,
    /// Our own subscription did not reach it: say it again as soon as it takes messages.
    owed_subscription: bool,
}

/// The gossip machine: a pure [`Protocol`] of [`Layer::Gossip`].
#[derive(Debug)]
pub struct Gossip {
    config: Config,
    budget: Budget,
    /// Ascending.
    topics: Topics,
    neighbours: BTreeMap<NodeId, Neighbour>,
    seen: Seen,
    pending: Pending,
    actions: VecDeque<Action<Self>>,
    stats: Stats,
}

impl Gossip {
    /// A machine without neighbours and subscriptions. What it keeps is charged to `budget`.
    pub fn new(config: Config, budget: &Budget) -> Self {
        Self {
            config,
            budget: budget.clone(),
            topics: Topics::default(),
            neighbours: BTreeMap::new(),
            seen: Seen::new(budget, config.seen_ttl, config.seen_bytes),
            pending: Pending::new(),
            actions: VecDeque::new(),
            stats: Stats::default(),
        }
    }

    /// What it did so far.
    pub fn stats(&self) -> Stats {
        let (pending, pending_bytes) = (self.pending.len(), self.pending.bytes());
        Stats { pending, pending_bytes, seen: self.seen.len(), ..self.stats }
    }

    fn subscribe(&mut self, topic: Topic) {
        let Err(place) = self.topics.0.binary_search(&topic) else { return };
        if self.topics.0.len() == MAX_TOPICS {
            return self.refuse(topic, PublishError::TooManyTopics);
        }
        self.topics.0.insert(place, topic);
        let everybody = self.neighbours.keys().copied().collect();
        self.send_subscription(everybody);
    }

    fn send_subscription(&mut self, to: Vec<NodeId>) {
        if !to.is_empty() && !self.topics.0.is_empty() {
            let message = Message::new(SUBSCRIBE, payload::to_bytes(&self.topics));
            self.actions.push_back(Action::Send { to, message });
        }
    }

    fn publish(&mut self, now: Now, topic: Topic, bytes: Bytes, again: bool) {
        if bytes.len() > MAX_ITEM_BYTES {
            return self.refuse(topic, PublishError::TooLarge(bytes.len()));
        }
        let id = ItemId::of(&topic, &bytes);
        match self.outcome(&id) {
            // Who publishes what is still being judged has judged.
            Some(Outcome::Pending) if !again => return self.judge(now, id, Verdict::Accept),
            Some(Outcome::Spread | Outcome::Rejected) if !again => return,
            _ => {}
        }
        if let Err(error) = self.seen.set(now.mono, id, Outcome::Spread) {
            return self.refuse(topic, error.into());
        }
        self.pending.remove(&id);
        self.stats.published += 1;
        let message = Message::with_body(ITEM, payload::to_bytes(&ItemHead { topic }), bytes);
        self.spread(&topic, message, &[]);
    }

    fn refuse(&mut self, topic: Topic, error: PublishError) {
        self.actions.push_back(Action::Emit(Event::Refused { topic, error }));
    }

    /// Sends an item to all who want it, except `holders`.
    fn spread(&mut self, topic: &Topic, message: Message, holders: &[NodeId]) {
        let wants = |neighbour: &Neighbour| neighbour.topics.0.binary_search(topic).is_ok();
        let to: Vec<NodeId> = self
            .neighbours
            .iter()
            .filter(|(peer, neighbour)| wants(neighbour) && !holders.contains(peer))
            .map(|(peer, _)| *peer)
            .collect();
        if to.is_empty() {
            return;
        }
        self.stats.copies += to.len() as u64;
        self.stats.copied_bytes += to.len() as u64 * message.body.as_ref().map_or(0, Bytes::len) as u64;
        self.actions.push_back(Action::Send { to, message });
    }

    fn judge(&mut self, now: Now, id: ItemId, verdict: Verdict) {
        // A verdict that comes late, twice or out of the blue has no object.
        let Some(waiting) = self.pending.remove(&id) else { return };
        match verdict {
            Verdict::Accept => {
                self.mark(now, id, Outcome::Spread);
                self.stats.forwarded += 1;
                if let Ok(ItemHead { topic }) = payload::from_bytes(&waiting.message.head, MAX_ITEM_HEAD_BYTES) {
                    self.spread(&topic, waiting.message.clone(), waiting.holders());
                }
                if let Some(first) = waiting.holders().first() {
                    self.actions.push_back(Action::Want(Want::Keep { peer: *first }));
                }
            }
            Verdict::Reject => {
                self.mark(now, id, Outcome::Rejected);
                self.stats.rejected += 1;
                waiting.holders().iter().for_each(|peer| self.report(*peer, Fault::InvalidItem));
            }
            Verdict::Ignore => {
                self.seen.forget(&id);
                self.stats.ignored += 1;
            }
        }
    }

    /// Changes the outcome of an item that is seen. Should it have been forgotten under pressure meanwhile, and there be
    /// no room to note it again, then the worst that follows is that a later copy is judged again.
    fn mark(&mut self, now: Now, id: ItemId, outcome: Outcome) {
        let _ = self.seen.set(now.mono, id, outcome);
    }

    fn report(&mut self, peer: NodeId, fault: Fault) {
        self.actions.push_back(Action::Report { peer, fault });
    }

    fn handle_message(&mut self, now: Now, from: NodeId, message: Message, charge: Charge) -> Result<(), Fault> {
        match (message.command, &message.body) {
            (ITEM, Some(body)) => {
                let head = payload::from_bytes(&message.head, MAX_ITEM_HEAD_BYTES);
                let ItemHead { topic } = head.map_err(|_| Fault::UndecodablePayload)?;
                let bytes = body.clone();
                self.handle_item(now, from, topic, bytes, message, charge)
            }
            (SUBSCRIBE, None) => {
                let topics = payload::from_bytes(&message.head, MAX_SUBSCRIBE_BYTES);
                let topics = topics.map_err(|_| Fault::UndecodablePayload)?;
                // Words of somebody who is gone already mean nothing.
                if let Some(neighbour) = self.neighbours.get_mut(&from) {
                    neighbour.topics = topics;
                }
                Ok(())
            }
            (ITEM | SUBSCRIBE, _) => Err(Fault::UndecodablePayload),
            _ => Err(Fault::UnexpectedCommand),
        }
    }

    fn handle_item(
        &mut self,
        now: Now,
        from: NodeId,
        topic: Topic,
        bytes: Bytes,
        message: Message,
        charge: Charge,
    ) -> Result<(), Fault> {
        self.stats.received += 1;
        self.stats.received_bytes += bytes.len() as u64;
        if self.topics.0.binary_search(&topic).is_err() {
            self.stats.unwanted += 1;
            return Err(Fault::UnexpectedCommand);
        }
        if bytes.len() > MAX_ITEM_BYTES {
            return Err(Fault::Excess); // the transport knows LIMITS, but a runner may not
        }
        let id = ItemId::of(&topic, &bytes);
        match self.outcome(&id) {
            Some(outcome) => {
                self.stats.duplicates += 1;
                match outcome {
                    Outcome::Pending => self.pending.note_holder(&id, from),
                    Outcome::Spread => {}
                    Outcome::Rejected => return Err(Fault::InvalidItem),
                }
            }
            None if self.hold(now, id, message, from).is_err() => self.stats.overflowed += 1,
            None => {
                self.stats.delivered += 1;
                self.actions.push_back(Action::Emit(Event::Item { topic, id, bytes, from, charge }));
            }
        }
        Ok(())
    }

    /// What became of an item. A waiting one is known even if the cache had to forget it under pressure.
    fn outcome(&self, id: &ItemId) -> Option<Outcome> {
        if self.pending.contains(id) { Some(Outcome::Pending) } else { self.seen.get(id) }
    }

    /// Lets an item wait for its verdict, or notes nothing at all.
    fn hold(&mut self, now: Now, id: ItemId, message: Message, from: NodeId) -> Result<(), Full> {
        self.seen.set(now.mono, id, Outcome::Pending)?;
        let held = self.pending.insert(now.mono, &self.config, &self.budget, id, message, from);
        if held.is_err() {
            self.seen.forget(&id);
        }
        held
    }

    fn handle_dropped(&mut self, peer: NodeId, command: peerage_core::Command, reason: DropReason) {
        match command {
            ITEM => self.stats.shed += 1,
            // If it is gone, it will be told when it comes back.
            SUBSCRIBE if reason != DropReason::NotConnected => {
                if let Some(neighbour) = self.neighbours.get_mut(&peer) {
                    neighbour.owed_subscription = true;
                }
            }
            _ => {}
        }
    }
}

impl Protocol for Gossip {
    type Command = Command;
    type Event = Event;
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, now: Now, event: NetworkEvent) {
        match event {
            NetworkEvent::PeerUp { peer, .. } => {
                self.neighbours.insert(peer, Neighbour::default());
                self.send_subscription(vec![peer]);
            }
            NetworkEvent::PeerDown { peer, .. } => {
                self.neighbours.remove(&peer);
            }
            NetworkEvent::Message { peer, message, charge } if message.command.belongs_to(Layer::Gossip) => {
                if let Err(fault) = self.handle_message(now, peer, message, charge) {
                    self.report(peer, fault);
                }
            }
            NetworkEvent::Request { peer, message, .. } if message.command.belongs_to(Layer::Gossip) => {
                self.report(peer, Fault::UnexpectedCommand);
            }
            NetworkEvent::Dropped { peer, command, reason } => self.handle_dropped(peer, command, reason),
            NetworkEvent::Writable { peer } => {
                let owed = self.neighbours.get_mut(&peer).map(|neighbour| &mut neighbour.owed_subscription);
                if owed.is_some_and(core::mem::take) {
                    self.send_subscription(vec![peer]);
                }
            }
            _ => {}
        }
    }

    fn handle_command(&mut self, now: Now, command: Command) {
        match command {
            Command::Subscribe(topic) => self.subscribe(topic),
            Command::Publish { topic, bytes } => self.publish(now, topic, bytes, false),
            Command::Republish { topic, bytes } => self.publish(now, topic, bytes, true),
            Command::Verdict { item, verdict } => self.judge(now, item, verdict),
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        while let Some(id) = self.pending.pop_overdue(now.mono) {
            self.seen.forget(&id);
            self.stats.expired += 1;
        }
        self.seen.handle_timeout(now.mono);
    }

    fn handle_done(&mut self, _: Now, _: JobId, done: peerage_core::Done<Self>) {
        match done {
            peerage_core::Done::Stored(never) | peerage_core::Done::Computed(never) => match never {},
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        match (self.pending.next_timeout(), self.seen.next_timeout()) {
            (Some(verdict), Some(rotation)) => Some(cmp::min(verdict, rotation)),
            (one, other) => one.or(other),
        }
    }
}
