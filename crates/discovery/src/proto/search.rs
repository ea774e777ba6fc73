//! Lookups over the network: whom to connect to, whom to ask, and what to believe.

use std::collections::BTreeSet;

use bytes::Bytes;
use peerage_core::{Action, Charge, Fault, Message, NodeId, Now, Pool, RequestError, RequestId, Want};

use super::{
    discovery::{Discovery, Event, Timer},
    key::{DhtKey, Distance},
    lookup::{Contact, Lookup},
    messages::{self, NODES},
    record::NodeRecord,
};
use crate::config::{ALPHA, ANSWER, ANSWER_UNKNOWN, CANDIDATES, DIAL, K, LOOKUP_BYTES};

/// What a search is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The layer above wants to know.
    User(u64),
    /// To find our own neighbourhood, and to be found there.
    Own,
    /// To fill a bucket.
    Refresh,
    /// To meet somebody new.
    Walk,
}

/// A lookup under way.
#[derive(Debug)]
pub(super) struct Search {
    lookup: Lookup,
    pub(super) purpose: Purpose,
    /// Candidates for whose connection it waits.
    dialling: BTreeSet<NodeId>,
    /// Candidates whose connection ended under the question; they get one more.
    again: BTreeSet<NodeId>,
    _charge: Charge,
}

impl Discovery {
    /// Begins a lookup.
    pub(super) fn search(&mut self, now: Now, target: DhtKey, purpose: Purpose) {
        let Ok(charge) = self.config.budget.charge(Pool::Table, LOOKUP_BYTES) else {
            return self.finished(now, purpose, Vec::new());
        };
        let mut lookup = Lookup::new(target, K, ALPHA, CANDIDATES);
        let policy = self.config.addresses;
        for record in self.table.closest(&target, K, |_| true) {
            let newest = self.known_record(&record.node()).unwrap_or(record);
            lookup.add(Contact::of(newest.clone(), |addr| policy.allows(*addr)));
        }
        // Peers that are not in the table can be asked as well as any.
        for (node, peer) in &self.peers {
            lookup.add(Contact { node: *node, addrs: Vec::new(), record: peer.record.clone() });
        }
        if self.table.is_empty() && self.peers.is_empty() {
            for (node, addrs) in self.config.seeds.iter().filter(|(node, _)| *node != self.own) {
                lookup.add(Contact { node: *node, addrs: addrs.clone(), record: None });
            }
        }
        self.table.touch(now.mono, &target);
        let id = self.next;
        self.next += 1;
        let search = Search { lookup, purpose, dialling: BTreeSet::new(), again: BTreeSet::new(), _charge: charge };
        self.searches.insert(id, search);
        self.advance(now, id);
    }

    /// Asks whoever is next, or ends the lookup.
    fn advance(&mut self, now: Now, id: u64) {
        while let Some(contact) = self.searches.get_mut(&id).and_then(|search| search.lookup.next_to_ask()) {
            self.ask(now, id, &contact);
        }
        if self.searches.get(&id).is_some_and(|search| search.lookup.is_done())
            && let Some(search) = self.searches.remove(&id)
        {
            for node in &search.dialling {
                self.timers.cancel(&Timer::Dial(id, *node));
            }
            let closest: Vec<_> = search.lookup.closest().cloned().collect();
            self.finished(now, search.purpose, closest);
        }
    }

    fn finished(&mut self, now: Now, purpose: Purpose, closest: Vec<Contact>) {
        match purpose {
            Purpose::User(token) => {
                let newest = closest.into_iter().filter_map(|contact| {
                    let own = self.peers.get(&contact.node).and_then(|peer| peer.record.clone());
                    own.or(contact.record)
                });
                let closest = newest.filter(|record| !self.allowed(record).is_empty()).collect();
                self.actions.push_back(Action::Emit(Event::LookupDone { token, closest }));
            }
            Purpose::Own if !closest.is_empty() => self.found_own(now),
            Purpose::Own | Purpose::Refresh | Purpose::Walk => {}
        }
    }

    fn ask(&mut self, now: Now, id: u64, contact: &Contact) {
        let Contact { node, addrs, .. } = contact;
        let Some(search) = self.searches.get_mut(&id) else { return };
        if let Some(peer) = self.peers.get(node) {
            let timeout = peer.rtt.map_or(ANSWER_UNKNOWN, |rtt| (rtt * 4).clamp(ANSWER.0, ANSWER.1));
            let request = RequestId(self.next);
            self.next += 1;
            self.requests.insert(request, (id, *node));
            let message = messages::find(search.lookup.target());
            self.actions.push_back(Action::Request { to: *node, id: request, message, timeout });
        } else if addrs.is_empty() {
            search.lookup.failed(node);
        } else {
            search.dialling.insert(*node);
            self.timers.set(Timer::Dial(id, *node), now.mono + DIAL);
            let question = messages::find(search.lookup.target());
            self.actions.push_back(Action::Want(Want::Ask { peer: *node, addrs: addrs.clone(), question }));
        }
    }

    /// A peer is connected: lookups that wait for it ask it now.
    pub(super) fn connected_for_searches(&mut self, now: Now, node: NodeId) {
        for id in self.stop_waiting(node) {
            self.timers.cancel(&Timer::Dial(id, node));
            self.ask(now, id, &Contact { node, addrs: Vec::new(), record: None });
        }
    }

    /// A dial failed: lookups that wait for its node give it up. The peer manager dials one address of a node and then lets
    /// it rest, so there is nothing to wait for even if the node has others.
    pub(super) fn unreachable_for_searches(&mut self, now: Now, node: NodeId) {
        for id in self.stop_waiting(node) {
            self.timers.cancel(&Timer::Dial(id, node));
            self.dial_expired(now, id, node);
        }
    }

    /// The lookups that waited for a node, which do so no more.
    fn stop_waiting(&mut self, node: NodeId) -> Vec<u64> {
        let waiting = self.searches.iter_mut().filter_map(|(id, search)| search.dialling.remove(&node).then_some(*id));
        waiting.collect()
    }

    /// A candidate did not become a peer. That may be the peer manager's wish, so it counts as no failure of the node.
    pub(super) fn dial_expired(&mut self, now: Now, id: u64, node: NodeId) {
        if let Some(search) = self.searches.get_mut(&id) {
            search.dialling.remove(&node);
            search.lookup.failed(&node);
            self.advance(now, id);
        }
    }

    /// A question was answered, or not.
    pub(super) fn found(&mut self, now: Now, node: NodeId, request: RequestId, result: Result<Message, RequestError>) {
        let Some((id, asked)) = self.requests.remove(&request) else { return };
        debug_assert_eq!(asked, node, "the runner keeps requests and peers together");
        match result {
            Ok(message) => self.answered(now, id, node, &message),
            Err(RequestError::Closed(_)) => self.ask_again(now, id, node),
            Err(error) => {
                if error == RequestError::Timeout {
                    self.table.failed(&node);
                    self.report(node, Fault::UnansweredRequest);
                }
                if let Some(search) = self.searches.get_mut(&id) {
                    search.lookup.failed(&node);
                }
            }
        }
        self.advance(now, id);
    }

    /// Connections come and go: who was there a moment ago will probably be there again.
    fn ask_again(&mut self, now: Now, id: u64, node: NodeId) {
        let record = self.known_record(&node).cloned();
        let Some(search) = self.searches.get_mut(&id) else { return };
        match record {
            Some(record) if search.again.insert(node) => {
                let policy = self.config.addresses;
                self.ask(now, id, &Contact::of(record, |addr| policy.allows(*addr)));
            }
            _ => {
                search.lookup.failed(&node);
            }
        }
    }

    fn answered(&mut self, now: Now, id: u64, node: NodeId, message: &Message) {
        // An answer that comes after the end of its lookup is read all the same: what it tells is worth as much, and what
        // is wrong with it, too. Only its order cannot be checked any more.
        let target = self.searches.get(&id).map(|search| search.lookup.target());
        let Some(records) = self.believe(now, node, message, target) else {
            self.report(node, Fault::BadLookupAnswer);
            if let Some(search) = self.searches.get_mut(&id) {
                search.lookup.failed(&node);
            }
            return;
        };
        self.table.seen(now.mono, &node);
        let policy = self.config.addresses;
        for told in records {
            // Anybody may repeat an old record while it lasts, and with it addresses that its node has left.
            let newest = self.known_record(&told.node()).filter(|known| known.supersedes(&told)).cloned();
            let record = newest.unwrap_or(told);
            let addrs = self.allowed(&record);
            let peer = record.node();
            if addrs.is_empty() {
                continue;
            }
            let stranger = !self.peers.contains_key(&peer) && self.table.get(&peer).is_none();
            if self.heard.insert(record.clone()) && stranger {
                self.actions.push_back(Action::Want(Want::Candidate { peer, addrs, source: Some(node) }));
            }
            if let Some(search) = self.searches.get_mut(&id) {
                search.lookup.add(Contact::of(record, |addr| policy.allows(*addr)));
            }
        }
        if let Some(search) = self.searches.get_mut(&id) {
            search.lookup.answered(&node);
        }
    }

    /// The records of others in an answer that are of use; `None` if a correct peer would not have given it.
    fn believe(
        &mut self,
        now: Now,
        node: NodeId,
        message: &Message,
        target: Option<DhtKey>,
    ) -> Option<Vec<NodeRecord>> {
        if message.command != NODES {
            return None;
        }
        let encoded = messages::read_nodes(message).ok().filter(|encoded| encoded.len() <= K)?;
        let mut records = Vec::new();
        let mut farthest: Option<Distance> = None;
        for bytes in encoded {
            let record = match self.verified(bytes) {
                Ok(record) => record,
                Err(innocent) if innocent => continue,
                Err(_) => return None,
            };
            if record.node() == node {
                return None; // nobody keeps himself in his table
            }
            if let Some(target) = target {
                let distance = Some(record.key().distance(&target));
                if farthest >= distance {
                    return None; // not the closest first, or one twice
                }
                farthest = distance;
            }
            if record.node() == self.own {
                self.own_record(now, &record);
                continue;
            }
            if !record.is_current(now.wall) {
                continue; // by our clock; that of who passed it on may differ
            }
            if self.known_record(&record.node()).is_some_and(|known| record.contradicts(known)) {
                // Its author signed both; who passed it on cannot know.
                if self.peers.contains_key(&record.node()) {
                    self.report(record.node(), Fault::InvalidRecord);
                }
                continue;
            }
            records.push(record);
        }
        Some(records)
    }

    /// Verifies a record, unless these very bytes were verified before. The error says whether it is innocent.
    fn verified(&self, bytes: Bytes) -> Result<NodeRecord, bool> {
        let signer = bytes.first_chunk().map(|id| NodeId::from_bytes(*id));
        match signer.and_then(|signer| self.known_record(&signer)).filter(|known| known.encoded() == &bytes) {
            Some(known) => Ok(known.clone()),
            None => NodeRecord::verify(bytes, self.config.network).map_err(|error| error.is_innocent()),
        }
    }
}
