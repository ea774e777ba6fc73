//! The protocol: who is connected, what they say about themselves, and when to look around.

use core::{net::SocketAddr, time::Duration};
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use peerage_core::{
    Action, CloseReason, Closed, ClosedBy, Done, Fault, JobId, Layer, LinkInfo, Message, NetworkEvent, NoJob, NodeId,
    Now, Protocol, RequestId, SeededRng, Timers, Timestamp, Want,
};
use rand_core::Rng;

use super::{
    heard::Heard,
    key::DhtKey,
    messages::{self, FIND, RECORD},
    record::{MAX_ADDRS, NodeRecord, RecordBody},
    search::{Purpose, Search},
    table::{Inserted, Table},
};
use crate::Config;
use crate::config::{
    FINDS_IN_WINDOW, K, RECORDS_IN_WINDOW, REPUBLISH, SEEDS_FIRST, SEEDS_MOST, SELF_LOOKUP, SERVE, UPKEEP, WALK_HUNGRY,
    WALK_SATED, WINDOW,
};

/// What the layer above asks of discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Find the 16 nodes closest to a key; exactly one [`Event::LookupDone`] with this token follows.
    Lookup {
        /// Chosen by the caller.
        token: u64,
        /// What to look for.
        target: DhtKey,
    },
    /// The node can be reached at these addresses from now on. Unspecified ones and those beyond the fourth are left out.
    SetAddrs(Vec<SocketAddr>),
    /// Other seeds from now on, or the same elsewhere; wanted at once if seeds are wanted at all.
    SetSeeds(Vec<(NodeId, Vec<SocketAddr>)>),
    /// Another [`Config::target`](crate::Config::target) from now on; the walk that is due next is as far away as it was.
    SetTarget(usize),
}

/// What discovery tells the layer above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lookup is over.
    LookupDone {
        /// As in the command.
        token: u64,
        /// The closest nodes that answered, closest first, at most 16. None if nobody could be asked.
        closest: Vec<NodeRecord>,
    },
    /// The node found its own neighbourhood for the first time: others can find it now.
    Joined,
    /// The table has another number of nodes, or other nodes.
    TableChanged {
        /// How many there are.
        nodes: usize,
    },
}

/// A node of the table, for people and tools to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNode {
    /// What it says about itself.
    pub record: NodeRecord,
    /// Whether it is connected.
    pub connected: bool,
    /// When it was last known to be alive.
    pub last_seen: Timestamp,
    /// How often in a row it could not be reached or did not answer.
    pub failures: u8,
}

/// What is known of a connected peer.
#[derive(Debug)]
pub(super) struct Peer {
    info: LinkInfo,
    pub(super) record: Option<NodeRecord>,
    pub(super) rtt: Option<Duration>,
    window: Timestamp,
    records: u32,
    finds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A candidate of a search is not connected yet.
    Dial(u64, NodeId),
    SelfLookup,
    Walk,
    Upkeep,
    Republish,
    Seeds,
}

/// Kademlia as a protocol: keeps a table of nodes that proved their key and address, answers who asks, and looks up.
///
/// It never dials: it says whom it wants, and the peer manager decides.
pub struct Discovery {
    pub(super) config: Config,
    pub(super) own: NodeId,
    record: NodeRecord,
    /// The next record has this number at least: others hold one below it from an earlier life of this node.
    least_seq: u64,
    pub(super) table: Table,
    pub(super) heard: Heard,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) searches: BTreeMap<u64, Search>,
    /// Whom each open request asks, and for which search.
    pub(super) requests: BTreeMap<RequestId, (u64, NodeId)>,
    pub(super) next: u64,
    pub(super) timers: Timers<Timer>,
    seeds_after: Duration,
    joined: bool,
    pub(super) rng: SeededRng,
    pub(super) actions: VecDeque<Action<Self>>,
}

impl Discovery {
    /// A node that starts at `now`. It begins to reach for its seeds at once.
    pub fn new(config: Config, now: Now) -> Self {
        let own = config.keypair.node_id();
        let mut timers = Timers::new();
        timers.set(Timer::Seeds, now.mono);
        timers.set(Timer::Walk, now.mono + WALK_HUNGRY);
        timers.set(Timer::Upkeep, now.mono + UPKEEP);
        timers.set(Timer::Republish, now.mono + REPUBLISH);
        let addrs = reachable(&config.addrs);
        let body = RecordBody { seq: now.wall.0, addrs, features: config.features, issued_at: now.wall };
        Self {
            own,
            record: NodeRecord::sign(&config.keypair, config.network, body),
            least_seq: 0,
            table: Table::new(DhtKey::of(&own), config.addresses, config.budget.clone()),
            heard: Heard::new(config.budget.clone()),
            peers: BTreeMap::new(),
            searches: BTreeMap::new(),
            requests: BTreeMap::new(),
            next: 0,
            timers,
            seeds_after: SEEDS_FIRST,
            joined: false,
            rng: config.seed.stream("discovery"),
            actions: VecDeque::new(),
            config,
        }
    }

    /// The node's own record.
    pub const fn record(&self) -> &NodeRecord {
        &self.record
    }

    /// How many nodes are in the table.
    pub fn table_len(&self) -> usize {
        self.table.len()
    }

    /// The nodes in the table, nearest first by bucket.
    pub fn known(&self) -> impl Iterator<Item = KnownNode> {
        self.table.entries().map(|entry| KnownNode {
            record: entry.record.clone(),
            connected: entry.connected,
            last_seen: entry.last_seen,
            failures: entry.failures,
        })
    }

    /// Whether the node found its neighbourhood.
    pub const fn is_joined(&self) -> bool {
        self.joined
    }

    /// How many lookups are under way.
    pub fn lookups(&self) -> usize {
        self.searches.len()
    }

    pub(super) fn report(&mut self, peer: NodeId, fault: Fault) {
        self.actions.push_back(Action::Report { peer, fault });
    }

    fn table_changed(&mut self) {
        self.actions.push_back(Action::Emit(Event::TableChanged { nodes: self.table.len() }));
    }

    // ---- peers ----

    fn peer_up(&mut self, now: Now, peer: NodeId, info: LinkInfo) {
        let fresh = Peer { info, record: None, rtt: None, window: now.mono, records: 0, finds: 0 };
        self.peers.insert(peer, fresh);
        self.table.set_connected(&peer, true);
        self.table.seen(now.mono, &peer);
        self.actions.push_back(Action::Send { to: vec![peer], message: messages::record(&self.record) });
        self.connected_for_searches(now, peer);
        self.bootstrap(now);
    }

    fn peer_down(&mut self, now: Now, peer: NodeId) {
        let lost = self.peers.remove(&peer);
        self.table.set_connected(&peer, false);
        if lost.is_some_and(|lost| lost.info.outbound) && !self.has_outbound() {
            self.seeds_after = SEEDS_FIRST;
            self.timers.set(Timer::Seeds, now.mono + SEEDS_FIRST);
        }
    }

    /// Whether there is a peer that we chose. Those who came by themselves may all be of one party, so they keep nobody from
    /// the seeds (Heilman and others 2015, 3).
    fn has_outbound(&self) -> bool {
        self.peers.values().any(|peer| peer.info.outbound)
    }

    fn dial_failed(&mut self, now: Now, peer: NodeId, closed: Closed) {
        // A node that refuses is alive. What the other side says of a dial, it says before it proved who it is: anybody on the
        // way could have a node forgotten by it.
        let dead = closed.by != ClosedBy::Them
            && matches!(
                closed.reason,
                CloseReason::DialRefused
                    | CloseReason::DialTimeout
                    | CloseReason::HandshakeTimeout
                    | CloseReason::StreamError
                    | CloseReason::WrongPeer
            );
        if dead && !self.peers.contains_key(&peer) && self.table.failed(&peer) {
            self.table_changed();
        }
        self.unreachable_for_searches(now, peer);
    }

    /// Counts a message of a peer, which may send so many in a window.
    fn is_excess(&mut self, now: Now, peer: NodeId, count: impl Fn(&mut Peer) -> &mut u32, limit: u32) -> bool {
        let Some(state) = self.peers.get_mut(&peer) else { return true };
        if now.mono.since(state.window) >= WINDOW {
            (state.window, state.records, state.finds) = (now.mono, 0, 0);
        }
        *count(state) += 1;
        let excess = *count(state) > limit;
        if excess {
            self.report(peer, Fault::Excess);
        }
        excess
    }

    fn record_of_peer(&mut self, now: Now, peer: NodeId, message: &Message) {
        if self.is_excess(now, peer, |state| &mut state.records, RECORDS_IN_WINDOW) {
            return;
        }
        if messages::bodiless(message).is_err() {
            return self.report(peer, Fault::UndecodablePayload);
        }
        // The head may be a slice of a large buffer, which must not live as long as the record.
        let own_bytes = Bytes::copy_from_slice(&message.head);
        let record = match NodeRecord::verify(own_bytes, self.config.network) {
            Ok(record) if record.node() == peer => record,
            Err(error) if error.is_innocent() => return,
            Ok(_) | Err(_) => return self.report(peer, Fault::InvalidRecord),
        };
        if self.known_record(&peer).is_some_and(|known| record.contradicts(known)) {
            return self.report(peer, Fault::InvalidRecord);
        }
        let Some(state) = self.peers.get_mut(&peer) else { return };
        if !record.is_current(now.wall) || state.record.as_ref().is_some_and(|known| !record.supersedes(known)) {
            return;
        }
        state.record = Some(record.clone());
        let remote = state.info.remote.ip().to_canonical();
        let policy = self.config.addresses;
        if !record.addrs().iter().any(|addr| addr.ip().to_canonical() == remote && policy.allows(*addr)) {
            return; // nobody else could reach it where we did
        }
        match self.table.insert(now.mono, record, remote) {
            Inserted::Added => self.table_changed(),
            Inserted::Waiting { check: Some(old) } => {
                let addrs = self.allowed(&old);
                self.actions.push_back(Action::Want(Want::Now { peer: old.node(), addrs }));
            }
            Inserted::Waiting { check: None } | Inserted::Updated | Inserted::Refused => {}
        }
    }

    /// The newest record of a node that is known here.
    pub(super) fn known_record(&self, node: &NodeId) -> Option<&NodeRecord> {
        let connected = self.peers.get(node).and_then(|peer| peer.record.as_ref());
        let in_table = self.table.get(node).map(|entry| &entry.record);
        [connected, in_table, self.heard.get(node)].into_iter().flatten().max_by_key(|record| record.seq())
    }

    /// The addresses of a record at which the node may be wanted.
    pub(super) fn allowed(&self, record: &NodeRecord) -> Vec<SocketAddr> {
        record.addrs().iter().copied().filter(|addr| self.config.addresses.allows(*addr)).collect()
    }

    fn answer(&mut self, now: Now, peer: NodeId, id: RequestId, message: &Message) {
        if message.command != FIND {
            return self.report(peer, Fault::UnexpectedCommand);
        }
        if self.is_excess(now, peer, |state| &mut state.finds, FINDS_IN_WINDOW) {
            return;
        }
        let Ok(target) = messages::read_find(message) else {
            return self.report(peer, Fault::UndecodablePayload);
        };
        let message = self.nodes_for(now, &peer, &target);
        self.actions.push_back(Action::Respond { to: peer, id, message });
    }

    /// Answers a question from somebody who may only repeat what another asked: nothing is noted of it, and nobody is at fault.
    /// Connections let one through each, and judge how fast they come, so that nothing is to be counted here.
    fn answer_early(&mut self, now: Now, claims: NodeId, id: RequestId, message: &Message) {
        if let Ok(target) = messages::read_find(message)
            && message.command == FIND
        {
            let message = self.nodes_for(now, &claims, &target);
            self.actions.push_back(Action::Respond { to: claims, id, message });
        }
    }

    /// The closest nodes to a key, for this peer.
    fn nodes_for(&self, now: Now, peer: &NodeId, target: &DhtKey) -> Message {
        // Whoever asks knows itself, unless it tells a record older than the one we have: then its clock was set back, and
        // it must see how far to go beyond.
        let told = self.peers.get(peer).and_then(|state| state.record.as_ref());
        let closest = self.table.closest(target, K, |entry| {
            let fresh = entry.connected || now.mono.since(entry.last_seen) <= SERVE;
            let of_use = if entry.record.node() == *peer {
                told.is_some_and(|told| entry.record.supersedes(told))
            } else {
                entry.record.may_be_served(now.wall)
            };
            fresh && entry.failures == 0 && of_use
        });
        messages::nodes(closest.into_iter())
    }

    // ---- time ----

    fn timer(&mut self, now: Now, timer: Timer) {
        match timer {
            Timer::Dial(search, node) => self.dial_expired(now, search, node),
            Timer::SelfLookup => {
                self.want_some_seed();
                self.search(now, DhtKey::of(&self.own), Purpose::Own);
                self.timers.set(Timer::SelfLookup, now.mono + SELF_LOOKUP);
            }
            Timer::Walk => {
                let hungry = self.peers.len() < self.config.target;
                if !self.searches.values().any(|search| search.purpose == Purpose::Walk) {
                    let target = DhtKey::random(&mut self.rng);
                    self.search(now, target, Purpose::Walk);
                }
                let pause = self.spread(if hungry { WALK_HUNGRY } else { WALK_SATED });
                self.timers.set(Timer::Walk, now.mono + pause);
            }
            Timer::Upkeep => {
                if self.table.prune(now.wall) {
                    self.table_changed();
                }
                if let Some(bucket) = self.table.idle(now.mono).first() {
                    self.refresh(now, *bucket);
                }
                let pause = self.spread(UPKEEP);
                self.timers.set(Timer::Upkeep, now.mono + pause);
            }
            Timer::Republish => {
                let addrs = self.record.addrs().to_vec();
                self.publish(now, addrs);
            }
            Timer::Seeds => self.reach_for_seeds(now),
        }
    }

    /// Up to a tenth longer, so that nodes started together do not stay in step.
    fn spread(&mut self, pause: Duration) -> Duration {
        pause + (pause / 10).mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX))
    }

    fn refresh(&mut self, now: Now, bucket: u8) {
        let target = DhtKey::of(&self.own).random_in(bucket, &mut self.rng);
        self.search(now, target, Purpose::Refresh);
    }

    /// Wants the seeds while the node has not joined, or has no peer that it chose itself.
    fn reach_for_seeds(&mut self, now: Now) {
        if self.joined && self.has_outbound() {
            return;
        }
        for (peer, addrs) in &self.config.seeds {
            if *peer != self.own && !addrs.is_empty() && !self.peers.contains_key(peer) {
                self.actions.push_back(Action::Want(Want::Now { peer: *peer, addrs: addrs.clone() }));
            }
        }
        self.bootstrap(now);
        self.timers.set(Timer::Seeds, now.mono + self.seeds_after);
        self.seeds_after = (self.seeds_after * 2).min(SEEDS_MOST);
    }

    /// Wants one of the seeds: the peers that a node chose may have come to be of one party, and all that they tell with them.
    fn want_some_seed(&mut self) {
        let others = |(peer, addrs): &&(NodeId, Vec<_>)| {
            *peer != self.own && !addrs.is_empty() && !self.peers.contains_key(peer)
        };
        let absent: Vec<_> = self.config.seeds.iter().filter(others).collect();
        if absent.is_empty() {
            return;
        }
        let (peer, addrs) = absent[self.rng.next_u64() as usize % absent.len()].clone();
        self.actions.push_back(Action::Want(Want::Now { peer, addrs }));
    }

    /// Looks up the node itself, once somebody is there to ask.
    fn bootstrap(&mut self, now: Now) {
        let asking = self.searches.values().any(|search| search.purpose == Purpose::Own);
        if !self.joined && !asking && !self.peers.is_empty() {
            self.search(now, DhtKey::of(&self.own), Purpose::Own);
        }
    }

    /// The node's own neighbourhood was found: the rest of the table is filled (Maymounkov and Mazières 2002, 2.3).
    pub(super) fn found_own(&mut self, now: Now) {
        if !core::mem::replace(&mut self.joined, true) {
            self.actions.push_back(Action::Emit(Event::Joined));
            self.timers.set(Timer::SelfLookup, now.mono + SELF_LOOKUP);
            for bucket in self.table.idle(now.mono) {
                self.refresh(now, bucket);
            }
        }
    }

    /// Somebody holds a record that we signed. If it is later than our own, or another of the same number, an earlier life of
    /// this node made it, before its clock was set back: ours will go beyond. Not at once, so that many of them are no flood.
    pub(super) fn own_record(&mut self, now: Now, theirs: &NodeRecord) {
        if theirs.supersedes(&self.record) || theirs.contradicts(&self.record) {
            self.least_seq = self.least_seq.max(theirs.seq().saturating_add(1));
            let soon = now.mono + WINDOW;
            let at = self.timers.deadline(&Timer::Republish).map_or(soon, |at| at.min(soon));
            self.timers.set(Timer::Republish, at);
        }
    }

    /// Signs a new record and tells all peers.
    fn publish(&mut self, now: Now, addrs: Vec<SocketAddr>) {
        // A number above all that an earlier life of this node can have used; if its clock was set back, above all that
        // others showed us.
        let seq = now.wall.0.max(self.record.seq().saturating_add(1)).max(self.least_seq);
        let body = RecordBody { seq, addrs, features: self.config.features, issued_at: now.wall };
        self.record = NodeRecord::sign(&self.config.keypair, self.config.network, body);
        let to: Vec<_> = self.peers.keys().copied().collect();
        if !to.is_empty() {
            self.actions.push_back(Action::Send { to, message: messages::record(&self.record) });
        }
        self.timers.set(Timer::Republish, now.mono + REPUBLISH);
    }
}

/// Those of a node's own addresses that make sense to others.
fn reachable(addrs: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut reachable = Vec::new();
    for addr in addrs {
        if !addr.ip().is_unspecified() && addr.port() != 0 && !reachable.contains(addr) && reachable.len() < MAX_ADDRS {
            reachable.push(*addr);
        }
    }
    reachable
}

impl Protocol for Discovery {
    type Command = Command;
    type Event = Event;
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, now: Now, event: NetworkEvent) {
        let is_ours = |message: &Message| message.command.belongs_to(Layer::Discovery);
        match event {
            NetworkEvent::PeerUp { peer, info } => self.peer_up(now, peer, info),
            NetworkEvent::PeerDown { peer, .. } => self.peer_down(now, peer),
            NetworkEvent::DialFailed { expected: Some(peer), closed, .. } => self.dial_failed(now, peer, closed),
            // The peer manager's own reasons say nothing about the node.
            NetworkEvent::Unmet { peer, .. } => self.unreachable_for_searches(now, peer),
            NetworkEvent::PeerStats { peer, stats } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.rtt = Some(stats.rtt);
                    self.table.seen(now.mono, &peer);
                }
            }
            NetworkEvent::Message { peer, message, .. } if message.command == RECORD => {
                self.record_of_peer(now, peer, &message);
            }
            NetworkEvent::Message { peer, message, .. } if is_ours(&message) => {
                self.report(peer, Fault::UnexpectedCommand);
            }
            NetworkEvent::Request { peer, id, message, .. } if is_ours(&message) => {
                self.answer(now, peer, id, &message)
            }
            NetworkEvent::Early { claims, id, message, .. } => self.answer_early(now, claims, id, &message),
            NetworkEvent::Response { peer, id, command: FIND, result } => {
                self.found(now, peer, id, result.map(|(message, _)| message));
            }
            // A record that was shed is sent again on the next change or connection; others learn of us by lookups.
            _ => {}
        }
    }

    fn handle_command(&mut self, now: Now, command: Command) {
        match command {
            Command::Lookup { token, target } => self.search(now, target, Purpose::User(token)),
            Command::SetAddrs(addrs) => {
                let addrs = reachable(&addrs);
                if addrs != self.record.addrs() {
                    self.publish(now, addrs);
                }
            }
            Command::SetSeeds(seeds) => {
                self.config.seeds = seeds;
                self.reach_for_seeds(now);
            }
            Command::SetTarget(target) => self.config.target = target,
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop_due(now.mono) {
            self.timer(now, timer);
        }
    }

    fn handle_done(&mut self, _: Now, _: JobId, done: Done<Self>) {
        match done {
            Done::Stored(never) | Done::Computed(never) => match never {},
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        self.timers.next()
    }
}

#[cfg(test)]
mod tests;
