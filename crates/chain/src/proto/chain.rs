//! The machine: what arrives, what is done, and which part of it answers for what.
//!
//! Its parts live beside it, each with its own state: `admission` (from bytes to the pool), `outbox` (what was promised),
//! `producer` (blocks of one's own), `sync` (blocks of others). This file routes.

use core::{ops::Range, time::Duration};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use peerage_core::{
    Action, Budget, Charge, Done, Fault, JobId, Layer, Message, NetworkEvent, NodeId, Now, Pool as BudgetPool,
    Protocol, RequestId, Timestamp,
};
use peerage_gossip::{Command as GossipCommand, Event as GossipEvent, ItemId, Topic, Verdict};
use thiserror::Error;

use super::{
    admission::{Admission, Candidate, Origin},
    clock::ClockWatch,
    config::Config,
    event::{AccountStatus, Command, DropCause, Event, Status, TransactionStatus, Unavailable},
    genesis::Genesis,
    id::{Account, Producer, TxId},
    jobs::{ComputeDone, ComputeJob},
    mempool::Pool,
    outbox::{Outbox, Promised},
    peer::{Departed, Peer},
    producer::Solo,
    serve::Serving,
    sync::{REST, Sync},
    wire::{BLOCKS, HEAD, Summary, TRANSACTIONS, unbatch},
};
use crate::store::{Applied, ApplyOutcome, Head, StoreDone, StoreError, StoreJob};

/// The gossip topic of transactions: an item is one encoded transaction.
pub const TRANSACTIONS_TOPIC: Topic = Topic::from_static("chain/transactions");
/// The gossip topic of blocks: an item is one encoded block with its certificate.
pub const BLOCKS_TOPIC: Topic = Topic::from_static("chain/blocks");

/// Why a machine cannot be made. The operator's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The producer key is not the one that the genesis names.
    #[error("{0} is not the producer of this network")]
    NotTheProducer(Producer),
}

/// What a running job is for.
pub(super) enum Work {
    Load,
    Check(Vec<Candidate>),
    Admit(Vec<Candidate>),
    Persist(Vec<Promised>),
    Prune,
    Build,
    /// Charges pay for the bytes as long as the job holds them.
    CheckBlock {
        item: ItemId,
        from: NodeId,
        charge: Charge,
    },
    CheckBlocks {
        peer: NodeId,
        heights: Range<u64>,
        charge: Charge,
    },
    /// Of a block that this peer brought.
    Apply(NodeId),
    Serve {
        peer: NodeId,
        request: RequestId,
        charge: Charge,
    },
    Get(u64),
    Account(u64, Account),
    Location(u64, TxId),
    Block(u64),
}

/// The chain machine: a pure [`Protocol`] of [`Layer::Chain`].
///
/// It speaks to its own kind directly (heads, missing blocks, pending transactions) and through gossip, which stands below
/// it: every [`Event::Gossip`] is a command for the gossip machine, every event of that one comes in as
/// [`Command::Gossip`].
pub struct Chain {
    pub(super) genesis: Arc<Genesis>,
    pub(super) config: Config,
    pub(super) budget: Budget,
    /// The last committed block; `None` until the store is open.
    pub(super) head: Option<Head>,
    /// The store failed: nothing that needs it is begun any more.
    pub(super) failed: bool,
    pub(super) pool: Pool,
    pub(super) admission: Admission,
    pub(super) outbox: Outbox,
    pub(super) solo: Option<Solo>,
    pub(super) sync: Sync,
    pub(super) serving: Serving,
    pub(super) peers: BTreeMap<NodeId, Peer>,
    pub(super) clock: ClockWatch,
    departed: Departed,
    /// When everybody may be told our head again, and whether there is something to tell.
    tell_at: Timestamp,
    untold: bool,
    jobs: BTreeMap<JobId, Work>,
    next_job: u64,
    actions: VecDeque<Action<Self>>,
}

/// The pool may take the budget's cap divided by this, whatever the genesis permits. Our guess: the rest is for messages
/// and blocks, without which nothing ever leaves the pool.
const POOL_SHARE: usize = 4;
/// Time between two messages that tell everybody our head. Our guess: as fast as blocks are made by default; while many
/// are caught up with in a moment, nobody needs each of them.
const HEAD_PAUSE: Duration = Duration::from_millis(500);

impl Chain {
    /// A machine over an empty or existing store. Give its storage jobs the [`Store`](crate::store::Store) opened with the
    /// same genesis; what it keeps is charged to `budget`.
    ///
    /// # Errors
    /// [`ConfigError`], the operator's fault.
    pub fn new(genesis: Arc<Genesis>, config: Config, budget: &Budget) -> Result<Self, ConfigError> {
        let solo = match &config.producer {
            Some(keypair) => {
                let own = Producer(*keypair.node_id().as_bytes());
                if own != genesis.solo_producer() {
                    return Err(ConfigError::NotTheProducer(own));
                }
                Some(Solo::new(Arc::clone(keypair)))
            }
            None => None,
        };
        let limits = *genesis.limits();
        let share = budget.report().cap / POOL_SHARE;
        let pool_bytes = usize::try_from(limits.mempool_bytes).unwrap_or(usize::MAX).min(share);
        let mut chain = Self {
            genesis,
            config,
            budget: budget.clone(),
            head: None,
            failed: false,
            pool: Pool::new(pool_bytes, limits.nonce_gap),
            admission: Admission::default(),
            outbox: Outbox::default(),
            solo,
            sync: Sync::default(),
            serving: Serving::default(),
            peers: BTreeMap::new(),
            clock: ClockWatch::default(),
            departed: Departed::default(),
            tell_at: Timestamp::ZERO,
            untold: false,
            jobs: BTreeMap::new(),
            next_job: 0,
            actions: VecDeque::new(),
        };
        for topic in [TRANSACTIONS_TOPIC, BLOCKS_TOPIC] {
            chain.gossip(GossipCommand::Subscribe(topic));
        }
        chain.store(StoreJob::Load, Work::Load);
        Ok(chain)
    }

    /// The last committed block; `None` until the store is open.
    pub const fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// How things stand, for whoever runs the machine and for tests.
    pub fn status(&self) -> Status {
        Status {
            network: self.genesis.network_id(),
            head: self.head,
            pool: self.pool.len(),
            pool_bytes: self.pool.bytes(),
            outbox: self.outbox.len(),
            producer: self.solo.is_some(),
            held_blocks: self.sync.held(),
            peers: self.peers.iter().map(|(id, peer)| (*id, peer.head)).collect(),
        }
    }

    pub(super) fn height(&self) -> u64 {
        self.head.map_or(0, |head| head.height)
    }

    pub(super) fn act(&mut self, action: Action<Self>) {
        self.actions.push_back(action);
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.act(Action::Emit(event));
    }

    pub(super) fn gossip(&mut self, command: GossipCommand) {
        self.emit(Event::Gossip(command));
    }

    pub(super) fn verdict(&mut self, item: ItemId, verdict: Verdict) {
        self.gossip(GossipCommand::Verdict { item, verdict });
    }

    pub(super) fn report(&mut self, peer: NodeId, fault: Fault) {
        self.act(Action::Report { peer, fault });
    }

    fn job(&mut self, work: Work) -> JobId {
        let id = JobId(self.next_job);
        self.next_job += 1;
        self.jobs.insert(id, work);
        id
    }

    pub(super) fn store(&mut self, job: StoreJob, work: Work) {
        let id = self.job(work);
        self.act(Action::Store(id, job));
    }

    pub(super) fn compute(&mut self, job: ComputeJob, work: Work) {
        let id = self.job(work);
        self.act(Action::Compute(id, job));
    }

    /// The store failed: says so once, and begins nothing that needs it.
    pub(super) fn fail(&mut self, error: StoreError) {
        if !core::mem::replace(&mut self.failed, true) {
            self.emit(Event::StoreFailed(error));
        }
    }

    /// The answer of the store to a question of the user's.
    pub(super) fn answer<T>(&mut self, result: Result<T, StoreError>) -> Result<T, Unavailable> {
        result.map_err(|error| {
            self.fail(error);
            Unavailable
        })
    }

    fn summary(&self) -> Option<Summary> {
        self.head.as_ref().map(Summary::of)
    }

    fn tell_head(&mut self, to: Vec<NodeId>) {
        if let Some(summary) = self.summary().filter(|_| !to.is_empty()) {
            self.act(Action::Send { to, message: Message::new(HEAD, summary.encode()) });
        }
    }

    fn head_changed(&mut self, now: Now) {
        if let Some(summary) = self.summary() {
            self.act(Action::Heartbeat(summary.encode()));
        }
        self.untold = true;
        self.tell_everybody(now);
    }

    fn tell_everybody(&mut self, now: Now) {
        if self.untold && self.tell_at <= now.mono {
            (self.untold, self.tell_at) = (false, now.mono + HEAD_PAUSE);
            let everybody = self.peers.keys().copied().collect();
            self.tell_head(everybody);
        }
    }

    /// A block is on disk: everything else follows from it.
    pub(super) fn committed(&mut self, now: Now, applied: &Applied) {
        self.head = Some(applied.head);
        let transactions = applied.block.transactions();
        let mut next: BTreeMap<Account, u64> = BTreeMap::new();
        for tx in transactions {
            self.outbox.forget(&tx.id); // the store forgot it in the same commit
            next.insert(tx.tx.body.account, tx.tx.body.nonce.saturating_add(1));
        }
        let included: BTreeSet<TxId> = transactions.iter().map(|tx| tx.id).collect();
        let mut spent = Vec::new();
        for (account, next) in next {
            self.pool.advance(&account, next, &mut spent);
        }
        spent.retain(|id| !included.contains(id));
        self.emit(Event::BlockCommitted {
            head: applied.head,
            transactions: transactions.iter().map(|tx| tx.id).zip(applied.receipts.iter().copied()).collect(),
        });
        self.compare_clocks(now, applied.head.height, applied.head.time, false);
        self.dropped(spent, DropCause::Superseded);
        let expired = self.pool.expire(now.mono, applied.head.height);
        self.dropped(expired, DropCause::Expired);
        self.head_changed(now);
        self.sync.progressed(now.mono);
        self.build_progressed(now);
        self.advance_sync(now);
    }

    /// Transactions left the pool for good: so they leave the outbox.
    pub(super) fn dropped(&mut self, ids: Vec<TxId>, cause: DropCause) {
        let mut promised = Vec::new();
        for id in ids {
            if self.outbox.forget(&id) {
                promised.push(id);
            }
            self.emit(Event::TxDropped { id, cause });
        }
        if !promised.is_empty() && !self.failed {
            self.store(StoreJob::PruneOutbox(promised), Work::Prune);
        }
    }

    fn handle_gossip(&mut self, now: Now, event: GossipEvent) {
        match event {
            GossipEvent::Item { topic: TRANSACTIONS_TOPIC, id, bytes, from, charge } => {
                drop(charge); // admission pays for the decoded form, which holds the bytes too
                self.receive(now, bytes, Origin::Gossip { item: id, from });
            }
            GossipEvent::Item { topic: BLOCKS_TOPIC, id, bytes, from, charge } => {
                self.check_block(id, from, bytes, charge);
            }
            GossipEvent::Item { id, .. } => self.verdict(id, Verdict::Ignore),
            // Nothing is lost: blocks are fetched by whoever lacks them, transactions are offered again.
            GossipEvent::Refused { .. } => {}
        }
    }

    fn handle_message(&mut self, now: Now, from: NodeId, message: &Message) -> Result<(), Fault> {
        match (message.command, &message.body) {
            (HEAD, None) => {
                let head = Summary::decode(&message.head)?;
                self.learn_head(now, from, head)
            }
            (TRANSACTIONS, _) => {
                for bytes in unbatch(message)? {
                    // A copy, so that one that stays does not keep the memory of all.
                    if !self.receive(now, Bytes::copy_from_slice(&bytes), Origin::Push(from)) {
                        break;
                    }
                }
                Ok(())
            }
            (HEAD, Some(_)) => Err(Fault::UndecodablePayload),
            _ => Err(Fault::UnexpectedCommand),
        }
    }

    fn loaded(&mut self, now: Now, loaded: crate::store::Loaded) {
        self.head = Some(loaded.head);
        self.emit(Event::Ready { head: loaded.head, outbox: loaded.outbox.len() });
        if self.config.outbox {
            let mut outbox = loaded.outbox;
            // In the order in which the pool takes them.
            outbox.sort_by_key(|(tx, _)| (tx.tx.body.account, tx.tx.body.nonce));
            for (tx, next) in outbox {
                self.restore(now, tx, next);
            }
        }
        self.head_changed(now);
        self.build_progressed(now);
        self.advance_sync(now);
    }

    fn stored(&mut self, now: Now, work: Work, done: StoreDone) {
        match (work, done) {
            (Work::Load, StoreDone::Loaded(Ok(loaded))) => self.loaded(now, loaded),
            (Work::Admit(candidates), StoreDone::Admission(views)) => self.admitted(now, candidates, views),
            (Work::Persist(promised), StoreDone::Persisted(result)) => self.persisted(now, promised, result),
            (Work::Build, StoreDone::Built(result)) => self.built(now, result),
            (Work::Apply(from), StoreDone::Applied(Ok(outcome))) => self.applied(now, from, outcome),
            (Work::Serve { peer, request, charge }, StoreDone::Blocks(result)) => {
                self.served(now, peer, request, charge, result);
            }
            (Work::Get(token), StoreDone::Got(result)) => {
                let result = self.answer(*result).map(Box::new);
                self.emit(Event::Got { token, result });
            }
            (Work::Account(token, account), StoreDone::Account(result)) => {
                let pending = self.pool.pending(&account);
                let result = self.answer(result).map(|next_nonce| {
                    let first_free = self.pool.first_free(&account, next_nonce);
                    AccountStatus { next_nonce, pending, first_free }
                });
                self.emit(Event::Account { token, result });
            }
            (Work::Location(token, id), StoreDone::Location(result)) => {
                let result = self.answer(result).map(|location| match location {
                    Some(location) => TransactionStatus::Committed(location),
                    None if self.pool.contains(&id) => TransactionStatus::Pending,
                    None => TransactionStatus::Unknown,
                });
                self.emit(Event::Transaction { token, result });
            }
            (Work::Block(token), StoreDone::Blocks(result)) => {
                let result = self.answer(result).map(|blocks| blocks.into_iter().next());
                self.emit(Event::Block { token, result });
            }
            (_, StoreDone::Loaded(Err(error)) | StoreDone::Applied(Err(error)) | StoreDone::Pruned(Err(error))) => {
                self.fail(error);
            }
            (_, StoreDone::Pruned(Ok(()))) => {}
            // A runner that answers another job than the one asked.
            _ => debug_assert!(false, "the result of a job is that of the job"),
        }
    }

    fn applied(&mut self, now: Now, from: NodeId, outcome: ApplyOutcome) {
        self.sync.applying = false;
        match outcome {
            ApplyOutcome::Applied(applied) => self.committed(now, &applied),
            ApplyOutcome::Known(_) | ApplyOutcome::Gap(_) => self.advance_sync(now),
            ApplyOutcome::Invalid(error) => {
                self.emit(Event::CertifiedBlockInvalid { height: self.height().saturating_add(1), error });
                // Its certificate is the producer's, whose fault this is: whoever passed it on did as it should.
                self.disbelieve(now, from, REST);
                self.advance_sync(now);
            }
        }
    }

    /// Charges `bytes` to the pool of tables.
    pub(super) fn charge_table(&self, bytes: usize) -> Option<Charge> {
        self.budget.charge(BudgetPool::Table, bytes).ok()
    }
}

impl Protocol for Chain {
    type Command = Command;
    type Event = Event;
    type Storage = StoreJob;
    type Compute = ComputeJob;

    fn handle_network(&mut self, now: Now, event: NetworkEvent) {
        match event {
            NetworkEvent::PeerUp { peer, .. } => {
                let push_from = self.config.outbox.then_some(0);
                let known = self.departed.come(now.mono, &peer);
                self.peers.insert(peer, Peer { push_from, ..known });
                self.tell_head(vec![peer]);
            }
            NetworkEvent::PeerDown { peer, .. } => {
                if let Some(state) = self.peers.remove(&peer) {
                    self.departed.leave(now.mono, peer, state);
                }
                self.forget_candidates(peer);
                self.forget_requests(peer);
            }
            NetworkEvent::Message { peer, message, .. } if message.command.belongs_to(Layer::Chain) => {
                if let Err(fault) = self.handle_message(now, peer, &message) {
                    self.report(peer, fault);
                }
            }
            NetworkEvent::Request { peer, id, message, .. } if message.command.belongs_to(Layer::Chain) => {
                self.handle_request(now, peer, id, &message);
            }
            NetworkEvent::Response { peer, id, command: BLOCKS, result } => {
                self.blocks_arrived(now, peer, id, result);
            }
            NetworkEvent::Heartbeat { peer, data } if !data.is_empty() => match Summary::decode(&data) {
                Ok(head) => {
                    if let Err(fault) = self.learn_head(now, peer, head) {
                        self.report(peer, fault);
                    }
                }
                Err(fault) => self.report(peer, fault),
            },
            NetworkEvent::Dropped { peer, command: TRANSACTIONS, .. } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.push_from = Some(state.pushed_from);
                    (state.blocked, state.one_by_one) = (true, true);
                }
            }
            NetworkEvent::Writable { peer } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    (state.blocked, state.push_at) = (false, now.mono);
                }
                self.tell_head(vec![peer]); // it may have been among what was dropped
                self.push_pending(now);
            }
            _ => {}
        }
    }

    fn handle_command(&mut self, now: Now, command: Command) {
        match command {
            Command::Submit { token, tx } => {
                self.receive(now, tx, Origin::Submitted(token));
            }
            Command::Gossip(event) => self.handle_gossip(now, event),
            Command::Status { token } => {
                let status = Box::new(self.status());
                self.emit(Event::Status { token, status });
            }
            Command::Get { token, .. } if self.failed => self.emit(Event::Got { token, result: Err(Unavailable) }),
            Command::Account { token, .. } if self.failed => {
                self.emit(Event::Account { token, result: Err(Unavailable) });
            }
            Command::Transaction { token, .. } if self.failed => {
                self.emit(Event::Transaction { token, result: Err(Unavailable) });
            }
            Command::Block { token, .. } if self.failed => self.emit(Event::Block { token, result: Err(Unavailable) }),
            Command::Get { token, key } => self.store(StoreJob::Get(key), Work::Get(token)),
            Command::Account { token, account } => {
                self.store(StoreJob::Account(account), Work::Account(token, account));
            }
            Command::Transaction { token, id } => self.store(StoreJob::Location(id), Work::Location(token, id)),
            Command::Block { token, height } => {
                self.store(StoreJob::Blocks { from: height, max_bytes: 0 }, Work::Block(token));
            }
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.build_if_due(now);
        self.republish_overdue(now);
        self.push_pending(now);
        let waited = self.pool.expire_waiting(now.mono);
        self.dropped(waited, DropCause::Evicted);
        self.tell_everybody(now);
        self.serve_more(now);
        self.advance_sync(now);
    }

    fn handle_done(&mut self, now: Now, id: JobId, done: Done<Self>) {
        let Some(work) = self.jobs.remove(&id) else { return };
        match done {
            Done::Stored(done) => self.stored(now, work, done),
            Done::Computed(ComputeDone::Transactions(results)) => {
                if let Work::Check(candidates) = work {
                    self.checked(candidates, results);
                }
            }
            Done::Computed(ComputeDone::Block(result)) => {
                if let Work::CheckBlock { item, from, charge } = work {
                    self.block_certified(now, item, from, charge, result);
                }
            }
            Done::Computed(ComputeDone::Signatures(result)) => {
                if let Work::CheckBlock { item, from, charge } = work {
                    drop(charge);
                    self.block_checked(now, item, from, result.map(Some));
                }
            }
            Done::Computed(ComputeDone::Blocks(blocks, wrong)) => {
                if let Work::CheckBlocks { peer, heights, charge } = work {
                    drop(charge);
                    self.blocks_checked(now, peer, heights, blocks, wrong);
                }
            }
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        let parts = [
            self.next_build(),
            self.next_republish(),
            self.next_push(),
            self.next_sync(),
            self.next_serve(),
            self.pool.next_expiry(),
            self.untold.then_some(self.tell_at),
        ];
        parts.into_iter().flatten().min()
    }
}
