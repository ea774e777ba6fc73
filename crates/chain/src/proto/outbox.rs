//! The outbox: what was promised, until it is kept.
//!
//! An acknowledgement goes out only once the transaction is on disk. From then on it is offered again and again: to each
//! peer that comes up, to each that could not take it before, to all every few seconds, and after a restart from disk.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use peerage_core::{Action, NodeId, Now, Timestamp};
use peerage_gossip::Command as GossipCommand;

use super::{
    admission::Origin,
    chain::{Chain, TRANSACTIONS_TOPIC, Work},
    event::{Event, Refusal},
    id::TxId,
    mempool::{Inserted, Standing},
    peer::Peer,
    transaction::EncodedTransaction,
    wire::{MAX_BATCH_ITEMS, MAX_PUSH_BYTES, TRANSACTIONS, batch},
};
use crate::store::{StoreError, StoreJob};

/// A transaction that becomes durable, and the users who wait for that.
#[derive(Debug)]
pub(super) struct Promised {
    tx: Arc<EncodedTransaction>,
    tokens: Vec<u64>,
}

/// What was promised.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// On disk, and when it was last offered.
    durable: BTreeMap<TxId, Timestamp>,
    /// The same, by time.
    due: BTreeSet<(Timestamp, TxId)>,
    /// For the next job.
    waiting: BTreeMap<TxId, Promised>,
    /// Of the job that runs: users who asked again meanwhile.
    persisting: Option<BTreeMap<TxId, Vec<u64>>>,
    /// Nothing is offered again before this moment.
    offer_at: Timestamp,
}

impl Outbox {
    pub(super) fn len(&self) -> usize {
        self.durable.len()
    }

    /// Forgets a transaction; says whether it was promised.
    pub(super) fn forget(&mut self, id: &TxId) -> bool {
        match self.durable.remove(id) {
            Some(at) => self.due.remove(&(at, *id)),
            None => false,
        }
    }

    fn offered(&mut self, now: Timestamp, id: TxId) {
        self.forget(&id);
        self.durable.insert(id, now);
        self.due.insert((now, id));
    }
}

/// Bytes offered again at a time, and bytes pushed to one peer at a time. Our guess: a quarter of what a peer may owe
/// (4 MiB), so that even both together shed nothing on an idle link.
const OFFER_BYTES: usize = 1 << 20;
/// Time between two pushes to a peer that is owed more. Our guess: 1 MiB/s is a quarter of a slow uplink's.
const PUSH_PAUSE: Duration = Duration::from_secs(1);
/// Time between two rounds of offers when one round was not enough. Our guess, as above.
const OFFER_PAUSE: Duration = Duration::from_secs(1);

impl Peer {
    fn next_push(&self) -> Option<Timestamp> {
        self.push_from.filter(|_| self.greeted && !self.blocked).map(|_| self.push_at)
    }
}

impl Chain {
    /// A user's transaction is in the pool: make it durable, then acknowledge it. `persist_more` follows.
    pub(super) fn promise(&mut self, tx: &Arc<EncodedTransaction>, token: u64) {
        if !self.config.outbox {
            self.acknowledge(token, tx.id);
            return self.publish(tx);
        }
        if self.outbox.durable.contains_key(&tx.id) {
            return self.acknowledge(token, tx.id);
        }
        if let Some(tokens) = self.outbox.persisting.as_mut().and_then(|job| job.get_mut(&tx.id)) {
            return tokens.push(token);
        }
        let promised = self.outbox.waiting.entry(tx.id);
        promised.or_insert_with(|| Promised { tx: Arc::clone(tx), tokens: Vec::new() }).tokens.push(token);
    }

    /// Persists all that wait in one job, unless one runs.
    pub(super) fn persist_more(&mut self) {
        if self.outbox.persisting.is_some() || self.outbox.waiting.is_empty() {
            return;
        }
        let promised: Vec<Promised> = core::mem::take(&mut self.outbox.waiting).into_values().collect();
        if self.failed {
            return self.break_promises(promised);
        }
        self.outbox.persisting = Some(promised.iter().map(|promised| (promised.tx.id, Vec::new())).collect());
        let txs = promised.iter().map(|promised| Arc::clone(&promised.tx)).collect();
        self.store(StoreJob::PersistOutbox(txs), Work::Persist(promised));
    }

    /// The job is done: this, and nothing before it, is what an acknowledgement stands on.
    pub(super) fn persisted(&mut self, now: Now, mut promised: Vec<Promised>, result: Result<(), StoreError>) {
        let mut late = self.outbox.persisting.take().unwrap_or_default();
        for promised in &mut promised {
            promised.tokens.append(&mut late.remove(&promised.tx.id).unwrap_or_default());
        }
        match result {
            Ok(()) => {
                let mut gone = Vec::new();
                for Promised { tx, tokens } in promised {
                    if self.pool.contains(&tx.id) {
                        tokens.into_iter().for_each(|token| self.acknowledge(token, tx.id));
                        self.outbox.offered(now.mono, tx.id);
                        self.publish(&tx);
                    } else {
                        gone.push(Promised { tx, tokens });
                    }
                }
                if !gone.is_empty() && !self.failed {
                    let ids = gone.iter().map(|promised| promised.tx.id).collect();
                    self.store(StoreJob::PruneOutbox(ids), Work::Prune);
                }
                // They reached a block, or became impossible, while they were written: asking once more tells which.
                for Promised { tx, tokens } in gone {
                    for token in tokens {
                        self.receive(now, tx.bytes.clone(), Origin::Submitted(token));
                    }
                }
            }
            Err(error) => {
                self.fail(error);
                self.break_promises(promised);
            }
        }
        self.persist_more();
    }

    fn break_promises(&mut self, promised: Vec<Promised>) {
        for token in promised.into_iter().flat_map(|promised| promised.tokens) {
            self.refuse(Origin::Submitted(token), Refusal::StoreFailed);
        }
    }

    fn publish(&mut self, tx: &EncodedTransaction) {
        self.gossip(GossipCommand::Publish { topic: TRANSACTIONS_TOPIC, bytes: tx.bytes.clone() });
    }

    /// A promised transaction found on disk at the start. Its signature was checked before it was promised.
    pub(super) fn restore(&mut self, now: Now, tx: EncodedTransaction, next: u64) {
        let Ok(charge) = self.budget.charge(peerage_core::Pool::Mempool, tx.held_bytes()) else {
            return; // it stays on disk, for a start with more room
        };
        let tx = Arc::new(tx);
        let inserted = self.pool.insert(now.mono, Arc::clone(&tx), next, Standing::Promised, charge, &mut Vec::new());
        if inserted == Ok(Inserted::New) {
            self.outbox.offered(now.mono, tx.id);
            self.emit(Event::TxAccepted { id: tx.id });
            self.publish(&tx);
        }
    }

    /// Offers to all neighbours again what has been waiting for too long.
    pub(super) fn republish_overdue(&mut self, now: Now) {
        let mut bytes = 0;
        while self.next_republish().is_some_and(|at| at <= now.mono) {
            let Some((_, id)) = self.outbox.due.first().copied() else { return };
            let Some(tx) = self.pool.get(&id).cloned() else {
                self.outbox.forget(&id);
                continue;
            };
            bytes += tx.bytes.len();
            self.outbox.offered(now.mono, id);
            self.gossip(GossipCommand::Republish { topic: TRANSACTIONS_TOPIC, bytes: tx.bytes.clone() });
            if bytes > OFFER_BYTES {
                self.outbox.offer_at = now.mono + OFFER_PAUSE;
            }
        }
    }

    pub(super) fn next_republish(&self) -> Option<Timestamp> {
        self.outbox.due.first().map(|(at, _)| (*at + self.config.republish).max(self.outbox.offer_at))
    }

    /// Pushes pending transactions to the peers that are owed some and take messages.
    pub(super) fn push_pending(&mut self, now: Now) {
        let owed: Vec<(NodeId, u64, usize)> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.next_push().is_some_and(|at| at <= now.mono))
            .filter_map(|(id, peer)| Some((*id, peer.push_from?, if peer.one_by_one { 1 } else { OFFER_BYTES })))
            .collect();
        for (to, from, bytes) in owed {
            let Some(peer) = self.peers.get_mut(&to) else { continue };
            let bytes = match peer.conduct.push_allowance(now.mono) {
                Ok(allowed) => bytes.min(allowed),
                Err(later) => {
                    peer.push_at = later;
                    continue;
                }
            };
            let (mut next, mut sent) = (Some(from), 0);
            while let Some(from) = next.filter(|_| sent < bytes) {
                let (txs, rest) = self.pool.since(from, MAX_PUSH_BYTES, MAX_BATCH_ITEMS);
                next = rest;
                if txs.is_empty() {
                    break;
                }
                sent += txs.iter().map(|tx| tx.bytes.len()).sum::<usize>();
                let message = batch(TRANSACTIONS, txs.iter().map(|tx| &tx.bytes));
                self.act(Action::Send { to: vec![to], message });
            }
            if let Some(peer) = self.peers.get_mut(&to) {
                (peer.push_from, peer.pushed_from, peer.push_at) = (next, from, now.mono + PUSH_PAUSE);
                peer.conduct.pushed(sent);
            }
        }
    }

    pub(super) fn next_push(&self) -> Option<Timestamp> {
        self.peers.values().filter_map(Peer::next_push).min()
    }
}
