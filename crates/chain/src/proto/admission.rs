//! From bytes to the pool: checks in the order of their cost, each batch as large as what waits.
//!
//! 1. here, at once: size, encoding, chain, operations, expiry, whether it is known;
//! 2. a compute job: the signature;
//! 3. a storage job: nonce, versions, whether it stands in the chain;
//! 4. the pool, and for what was submitted here the outbox.
//!
//! The expected versions are compared with the committed state only: one that the state has passed can never come true
//! again short of a deletion and is refused; a later one may come true, through pending transactions or otherwise, and is
//! left to execution.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use peerage_core::{Charge, Fault, NodeId, Now, Pool as BudgetPool};
use peerage_gossip::{Command as GossipCommand, ItemId, Verdict};

use super::{
    chain::{Chain, TRANSACTIONS_TOPIC, Work},
    event::{DropCause, Event, Refusal},
    id::TxId,
    jobs::ComputeJob,
    mempool::{Inserted, Standing},
    transaction::{EncodedTransaction, TransactionError},
};
use crate::store::{AdmissionView, StoreError, StoreJob};

/// Where a transaction came from, and so who hears what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A user of this node, who waits for the answer.
    Submitted(u64),
    /// Gossip, which waits for a verdict.
    Gossip {
        /// The item.
        item: ItemId,
        /// The neighbour that brought it first.
        from: NodeId,
    },
    /// A peer that pushed what it had pending.
    Push(NodeId),
}

impl Origin {
    /// The peer that it came from; `None` for a user of this node.
    const fn peer(&self) -> Option<NodeId> {
        match self {
            Self::Submitted(_) => None,
            Self::Gossip { from, .. } | Self::Push(from) => Some(*from),
        }
    }
}

/// A transaction on its way into the pool.
#[derive(Debug)]
pub(super) struct Candidate {
    tx: Arc<EncodedTransaction>,
    origin: Origin,
    charge: Charge,
}

/// What waits for a check.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// For its signature to be checked.
    unchecked: VecDeque<Candidate>,
    checking: usize,
    /// For the state to be consulted.
    unread: Vec<Candidate>,
    reading: bool,
    /// What the candidates of each peer cost, in bytes, and of this node's users under `None`. It outlives connections, so
    /// that coming back does not make room.
    owed: BTreeMap<Option<NodeId>, usize>,
    owed_by_peers: usize,
}

/// Candidates of all peers together may cost the budget's cap divided by this, those of this node's users as much again.
/// Our guess: 32 MiB of 256, so that pool (a quarter) and candidates (two eighths) leave half to everything else.
const CANDIDATES_SHARE: usize = 8;
/// And those of one peer that part divided by this: 4 MiB, which a whole push of small transactions (1 MiB encoded) needs.
const PEER_SHARE: usize = 8;

/// Batches of signatures that are checked at a time, and transactions in each at most. Our guess: they keep four cores
/// busy, 10 ms at a time.
const BATCHES: usize = 4;
const BATCH: usize = 200;

impl Chain {
    /// A transaction arrived. Whether it could be valid, as far as can be told at once: of a message with one that could
    /// not, the rest is not worth reading.
    pub(super) fn receive(&mut self, now: Now, bytes: Bytes, origin: Origin) -> bool {
        // What it costs is at least this, and known before anything is read.
        if !self.may_owe(&origin, bytes.len()) {
            self.refuse(origin, Refusal::OverBudget);
            return true;
        }
        let checked = self.precheck(bytes);
        let possible = !matches!(checked, Err(Refusal::Invalid(_)));
        match checked {
            Ok(tx) if self.pool.contains(&tx.id) => self.already_pending(&tx, origin),
            Ok(tx) => match self.charge_candidate(now, &origin, tx.held_bytes()) {
                Some(charge) => {
                    self.admission.unchecked.push_back(Candidate { tx: Arc::new(tx), origin, charge });
                    self.check_more();
                }
                None => self.refuse(origin, Refusal::OverBudget),
            },
            Err(refusal) => self.refuse(origin, refusal),
        }
        possible
    }

    /// Whether candidates of this origin may cost so many bytes more; one of any size may always be under way.
    fn may_owe(&self, origin: &Origin, bytes: usize) -> bool {
        let all = self.budget.report().cap / CANDIDATES_SHARE;
        let owed = self.admission.owed.get(&origin.peer()).copied().unwrap_or(0);
        match origin.peer() {
            _ if owed == 0 && self.admission.owed_by_peers + bytes <= all => true,
            None => owed == 0 || owed + bytes <= all,
            Some(_) => owed + bytes <= all / PEER_SHARE && self.admission.owed_by_peers + bytes <= all,
        }
    }

    fn charge_candidate(&mut self, now: Now, origin: &Origin, bytes: usize) -> Option<Charge> {
        if !self.may_owe(origin, bytes) {
            return None;
        }
        let charge = match self.budget.charge(BudgetPool::Mempool, bytes) {
            Ok(charge) => charge,
            Err(_) => {
                // Others use the node's memory up. What waits in the pool is worth least of all that it holds.
                let mut evicted = Vec::new();
                self.pool.make_room(now.mono, bytes, &mut evicted);
                self.dropped(evicted, DropCause::Evicted);
                self.budget.charge(BudgetPool::Mempool, bytes).ok()?
            }
        };
        *self.admission.owed.entry(origin.peer()).or_default() += bytes;
        if origin.peer().is_some() {
            self.admission.owed_by_peers += bytes;
        }
        Some(charge)
    }

    /// A candidate is none any more.
    fn settle(&mut self, candidate: &Candidate) {
        let (peer, bytes) = (candidate.origin.peer(), candidate.charge.bytes());
        if let Some(owed) = self.admission.owed.get_mut(&peer) {
            *owed -= bytes;
            if *owed == 0 {
                self.admission.owed.remove(&peer);
            }
        }
        if peer.is_some() {
            self.admission.owed_by_peers -= bytes;
        }
    }

    /// A peer is gone: its transactions that nobody began to check go with it. Whoever else has them offers them again.
    pub(super) fn forget_candidates(&mut self, peer: NodeId) {
        if !self.admission.owed.contains_key(&Some(peer)) {
            return;
        }
        let all = core::mem::take(&mut self.admission.unchecked);
        let (gone, kept): (VecDeque<_>, _) =
            all.into_iter().partition(|candidate| candidate.origin.peer() == Some(peer));
        self.admission.unchecked = kept;
        for candidate in gone {
            self.settle(&candidate);
            self.refuse(candidate.origin, Refusal::OverBudget);
        }
    }

    fn precheck(&self, bytes: Bytes) -> Result<EncodedTransaction, Refusal> {
        if self.failed {
            return Err(Refusal::StoreFailed);
        }
        let max = usize::try_from(self.genesis.limits().max_tx_bytes).unwrap_or(usize::MAX);
        let tx = EncodedTransaction::decode(bytes, max)?;
        tx.tx.check(self.genesis.chain_id())?;
        self.check_expiry(&tx)?;
        Ok(tx)
    }

    fn check_expiry(&self, tx: &EncodedTransaction) -> Result<(), Refusal> {
        let (valid_until, height) = (tx.tx.body.valid_until, self.height());
        if valid_until <= height { Err(Refusal::Expired { valid_until, height }) } else { Ok(()) }
    }

    fn check_more(&mut self) {
        while self.admission.checking < BATCHES && !self.admission.unchecked.is_empty() {
            let n = self.admission.unchecked.len().min(BATCH);
            let batch: Vec<Candidate> = self.admission.unchecked.drain(..n).collect();
            self.admission.checking += 1;
            let txs = batch.iter().map(|candidate| Arc::clone(&candidate.tx)).collect();
            self.compute(ComputeJob::Transactions(txs), Work::Check(batch));
        }
    }

    /// Signatures were checked.
    pub(super) fn checked(&mut self, candidates: Vec<Candidate>, results: Vec<Result<(), TransactionError>>) {
        self.admission.checking -= 1;
        for (candidate, result) in candidates.into_iter().zip(results) {
            match result {
                Ok(()) => self.admission.unread.push(candidate),
                Err(error) => {
                    self.settle(&candidate);
                    self.refuse(candidate.origin, error.into());
                }
            }
        }
        self.read_more();
        self.check_more();
    }

    fn read_more(&mut self) {
        if self.admission.reading || self.admission.unread.is_empty() {
            return;
        }
        let batch = core::mem::take(&mut self.admission.unread);
        if self.failed {
            return self.refuse_all(&batch);
        }
        self.admission.reading = true;
        let txs = batch.iter().map(|candidate| Arc::clone(&candidate.tx)).collect();
        self.store(StoreJob::Admission(txs), Work::Admit(batch));
    }

    fn refuse_all(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            self.settle(candidate);
            self.refuse(candidate.origin, Refusal::StoreFailed);
        }
    }

    /// The state was consulted.
    pub(super) fn admitted(
        &mut self,
        now: Now,
        candidates: Vec<Candidate>,
        views: Result<Vec<AdmissionView>, StoreError>,
    ) {
        self.admission.reading = false;
        match views {
            Ok(views) => {
                for (candidate, view) in candidates.into_iter().zip(views) {
                    self.admit(now, candidate, view);
                }
            }
            Err(error) => {
                self.fail(error);
                self.refuse_all(&candidates);
            }
        }
        self.persist_more();
        self.read_more();
    }

    fn admit(&mut self, now: Now, candidate: Candidate, view: AdmissionView) {
        self.settle(&candidate);
        let Candidate { tx, origin, charge } = candidate;
        if view.location.is_some() {
            // It stands in the chain: for who submits it that is success, for gossip it is nothing worth spreading.
            return match origin {
                Origin::Submitted(token) => self.acknowledge(token, tx.id),
                Origin::Gossip { item, .. } => self.verdict(item, Verdict::Ignore),
                Origin::Push(_) => {}
            };
        }
        let mut evicted = Vec::new();
        let inserted = match view.stale {
            Some((op, actual)) => Err(Refusal::StaleVersion { op, actual }),
            None => self.check_expiry(&tx).and_then(|()| {
                let local = matches!(origin, Origin::Submitted(_));
                let standing = if local { Standing::Local } else { Standing::Ordinary };
                self.pool.insert(now.mono, Arc::clone(&tx), view.next_nonce, standing, charge, &mut evicted)
            }),
        };
        self.dropped(evicted, DropCause::Evicted);
        match inserted {
            Ok(Inserted::Already) => self.already_pending(&tx, origin),
            Ok(Inserted::New) => {
                self.emit(Event::TxAccepted { id: tx.id });
                match origin {
                    Origin::Submitted(token) => self.promise(&tx, token),
                    Origin::Gossip { item, .. } => self.verdict(item, Verdict::Accept),
                    // Others may lack it as we did.
                    Origin::Push(_) => {
                        self.gossip(GossipCommand::Publish { topic: TRANSACTIONS_TOPIC, bytes: tx.bytes.clone() })
                    }
                }
                self.build_if_due(now);
            }
            Err(refusal) => self.refuse(origin, refusal),
        }
    }

    /// It is in the pool already: checked, and worth what it was worth then.
    fn already_pending(&mut self, tx: &EncodedTransaction, origin: Origin) {
        match origin {
            Origin::Submitted(token) => {
                if let Some(pooled) = self.pool.keep(&tx.id).cloned() {
                    self.promise(&pooled, token);
                    self.persist_more();
                }
            }
            Origin::Gossip { item, .. } => self.verdict(item, Verdict::Accept),
            Origin::Push(_) => {}
        }
    }

    pub(super) fn acknowledge(&mut self, token: u64, id: TxId) {
        self.emit(Event::Submitted { token, result: Ok(id) });
    }

    /// Says no to whoever brought it. Only what could never be valid is held against a peer: everything else may have
    /// been fine where it came from.
    pub(super) fn refuse(&mut self, origin: Origin, refusal: Refusal) {
        if let Some(from) = origin.peer() {
            self.emit(Event::TxRefused { from, refusal });
        }
        match origin {
            Origin::Submitted(token) => self.emit(Event::Submitted { token, result: Err(refusal) }),
            Origin::Gossip { item, .. } => {
                let invalid = matches!(refusal, Refusal::Invalid(_));
                self.verdict(item, if invalid { Verdict::Reject } else { Verdict::Ignore });
            }
            Origin::Push(peer) => {
                if matches!(refusal, Refusal::Invalid(_)) {
                    self.report(peer, Fault::InvalidTransaction);
                }
            }
        }
    }
}
