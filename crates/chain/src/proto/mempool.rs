//! The pool: transactions that wait for a block, by sender and nonce.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use core::time::Duration;
use peerage_core::{Charge, Timestamp};

use super::{
    event::Refusal,
    id::{Account, TxId},
    transaction::EncodedTransaction,
};

/// A transaction in the pool.
#[derive(Debug)]
struct Pooled {
    tx: Arc<EncodedTransaction>,
    /// Blocks and pushes take them in this order.
    arrival: u64,
    /// Acknowledged by this node: never evicted.
    local: bool,
    /// Since when it stands among those that may be driven out.
    waits: Option<Timestamp>,
    /// Pays for it. Given back when it leaves.
    _charge: Charge,
}

#[derive(Debug, Default)]
struct Sender {
    /// The account's next nonce in the chain.
    next: u64,
    /// How many of `txs` follow it without a gap: these are ready.
    ready: u64,
    txs: BTreeMap<u64, Pooled>,
}

impl Sender {
    fn is_ready(&self, nonce: u64) -> bool {
        nonce < self.next.saturating_add(self.ready)
    }

    fn count_ready(&mut self, waiting: &mut Waiting) {
        while let Some(pooled) = self.txs.get_mut(&self.next.saturating_add(self.ready)) {
            waiting.leave(pooled);
            self.ready += 1;
        }
    }
}

/// What waits for an earlier nonce and may be driven out: everything that is neither ready nor promised.
#[derive(Debug, Default)]
struct Waiting {
    /// Since when, and the arrival number.
    index: BTreeSet<(Timestamp, u64)>,
    /// What holding them costs.
    bytes: usize,
}

impl Waiting {
    fn enter(&mut self, pooled: &mut Pooled, now: Timestamp) {
        if !pooled.local && pooled.waits.is_none() {
            pooled.waits = Some(now);
            self.index.insert((now, pooled.arrival));
            self.bytes += pooled.tx.pooled_bytes();
        }
    }

    fn leave(&mut self, pooled: &mut Pooled) {
        if let Some(since) = pooled.waits.take() {
            self.index.remove(&(since, pooled.arrival));
            self.bytes -= pooled.tx.pooled_bytes();
        }
    }
}

/// The part of a pool that waiting transactions of others may take is 1 / this. Our guess: keys cost nothing, so what
/// cannot be in a block yet must leave most of the room to what can.
const WAITING_SHARE: usize = 4;
/// How long a transaction may wait for an earlier nonce. Our guess: whoever lost the one before sends it again sooner.
const WAITING_LIFETIME: Duration = Duration::from_secs(600);

/// What a transaction may do in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may have to make room.
    Ordinary,
    /// A user of this node submits it: it is never driven out.
    Local,
    /// It was promised before a restart: as `Local`, and behind a gap of any width, since what stood before it then may
    /// not have come back yet.
    Promised,
}

/// What became of an insertion that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    New,
    Already,
}

/// The pool. Everything in it has a valid signature and passed admission once.
#[derive(Debug)]
pub(crate) struct Pool {
    /// What holding all of it may cost, in bytes.
    max_bytes: usize,
    nonce_gap: u64,
    waiting: Waiting,
    senders: BTreeMap<Account, Sender>,
    by_id: BTreeMap<TxId, (Account, u64)>,
    by_arrival: BTreeMap<u64, TxId>,
    by_expiry: BTreeSet<(u64, TxId)>,
    next_arrival: u64,
    /// Encoded bytes of all.
    bytes: usize,
    /// What holding all costs, in bytes: the decoded form of many small operations is a dozen times their encoding.
    held: usize,
    /// How many are ready: no nonce before them is missing.
    ready: usize,
}

impl Pool {
    /// A pool that costs `max_bytes` to hold at most ([`EncodedTransaction::pooled_bytes`]).
    pub(crate) fn new(max_bytes: usize, nonce_gap: u64) -> Self {
        Self {
            max_bytes,
            nonce_gap,
            waiting: Waiting::default(),
            senders: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_arrival: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            next_arrival: 0,
            bytes: 0,
            held: 0,
            ready: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a block could be made of anything in here.
    pub(crate) fn has_ready(&self) -> bool {
        self.ready > 0
    }

    pub(crate) fn contains(&self, id: &TxId) -> bool {
        self.by_id.contains_key(id)
    }

    pub(crate) fn get(&self, id: &TxId) -> Option<&Arc<EncodedTransaction>> {
        let (account, nonce) = self.by_id.get(id)?;
        self.senders.get(account)?.txs.get(nonce).map(|pooled| &pooled.tx)
    }

    /// A user of this node submits what came from elsewhere before: from now on it is not driven out.
    pub(crate) fn keep(&mut self, id: &TxId) -> Option<&Arc<EncodedTransaction>> {
        let (account, nonce) = self.by_id.get(id)?;
        let pooled = self.senders.get_mut(account)?.txs.get_mut(nonce)?;
        pooled.local = true;
        self.waiting.leave(pooled);
        Some(&pooled.tx)
    }

    /// How many transactions of an account wait here.
    pub(crate) fn pending(&self, account: &Account) -> usize {
        self.senders.get(account).map_or(0, |sender| sender.txs.len())
    }

    /// The first nonce from `next` on, the account's next in the chain, that no transaction in here has.
    pub(crate) fn first_free(&self, account: &Account, next: u64) -> u64 {
        let Some(sender) = self.senders.get(account) else { return next };
        let first = sender.next.saturating_add(sender.ready).max(next);
        let taken =
            sender.txs.range(first..).zip(0..).take_while(|((nonce, _), index)| **nonce - first == *index).count();
        first.saturating_add(taken as u64)
    }

    /// All ids, sorted.
    #[cfg(test)]
    pub(crate) fn ids(&self) -> Vec<TxId> {
        self.by_id.keys().copied().collect()
    }

    /// Inserts a transaction whose account has `next` as its next nonce in the chain. What had to make room is added to
    /// `evicted`.
    ///
    /// A transaction behind a gap waits if at most `nonce_gap` numbers are missing or taken before it, in a share of the
    /// pool and for a while only; when the pool is full, one that is ready, or of a user of this node, drives out such
    /// waiting ones of others, so that nobody can fill it with what never comes to be ready.
    pub(crate) fn insert(
        &mut self,
        now: Timestamp,
        tx: Arc<EncodedTransaction>,
        next: u64,
        standing: Standing,
        mut charge: Charge,
        evicted: &mut Vec<TxId>,
    ) -> Result<Inserted, Refusal> {
        let (account, nonce, id) = (tx.tx.body.account, tx.tx.body.nonce, tx.id);
        if self.by_id.contains_key(&id) {
            return Ok(Inserted::Already);
        }
        let local = standing != Standing::Ordinary;
        let known = self.senders.get(&account);
        let next = known.map_or(next, |sender| sender.next.max(next));
        let first_missing = self.first_free(&account, next);
        if nonce < next {
            return Err(Refusal::NonceUsed { next });
        }
        if nonce.saturating_sub(first_missing) > self.nonce_gap && standing != Standing::Promised {
            return Err(Refusal::NonceTooFar { next: first_missing, gap: self.nonce_gap });
        }
        if known.is_some_and(|sender| sender.txs.contains_key(&nonce)) {
            return Err(Refusal::NonceTaken);
        }
        let (encoded, size) = (tx.bytes.len(), tx.pooled_bytes());
        let ready = nonce == first_missing;
        if !ready && !local && self.waiting.bytes + size > self.max_bytes / WAITING_SHARE {
            return Err(Refusal::PoolFull);
        }
        if self.held + size > self.max_bytes {
            let missing = self.held + size - self.max_bytes;
            if !(ready || local) || !self.evict_waiting(now, Some(&account), missing, evicted) {
                return Err(Refusal::PoolFull);
            }
        }
        if charge.grow(size.saturating_sub(charge.bytes())).is_err() {
            return Err(Refusal::PoolFull);
        }
        self.advance(&account, next, evicted);
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        self.by_id.insert(id, (account, nonce));
        self.by_arrival.insert(arrival, id);
        self.by_expiry.insert((tx.tx.body.valid_until, id));
        (self.bytes, self.held) = (self.bytes + encoded, self.held + size);
        let sender = self.senders.entry(account).or_insert_with(|| Sender { next, ..Sender::default() });
        let mut pooled = Pooled { tx, arrival, local, waits: None, _charge: charge };
        self.waiting.enter(&mut pooled, now);
        sender.txs.insert(nonce, pooled);
        let before = sender.ready;
        sender.count_ready(&mut self.waiting);
        self.ready += (sender.ready - before) as usize;
        Ok(Inserted::New)
    }

    /// Makes room in the node's memory: drives out waiting transactions worth `bytes`, or none if they are not. Says
    /// whether it did.
    pub(crate) fn make_room(&mut self, now: Timestamp, bytes: usize, evicted: &mut Vec<TxId>) -> bool {
        self.evict_waiting(now, None, bytes, evicted)
    }

    /// Drives out waiting transactions worth `bytes`, of all accounts `but` one, those that wait longest first; none if
    /// all of them would not suffice.
    fn evict_waiting(&mut self, now: Timestamp, but: Option<&Account>, bytes: usize, evicted: &mut Vec<TxId>) -> bool {
        let own = but.and_then(|account| self.senders.get(account)).map_or(0, |sender| {
            let behind = sender.txs.range(sender.next.saturating_add(sender.ready)..).map(|(_, pooled)| pooled);
            behind.filter(|pooled| pooled.waits.is_some()).map(|pooled| pooled.tx.pooled_bytes()).sum()
        });
        if self.waiting.bytes - own < bytes {
            return false;
        }
        let (mut freed, mut victims) = (0, Vec::new());
        for (_, arrival) in &self.waiting.index {
            if freed >= bytes {
                break;
            }
            let Some(tx) = self.by_arrival.get(arrival).and_then(|id| self.get(id)) else { continue };
            if but != Some(&tx.tx.body.account) {
                freed += tx.pooled_bytes();
                victims.push(tx.id);
            }
        }
        for id in victims {
            self.remove(now, &id);
            evicted.push(id);
        }
        true
    }

    /// Takes note of an account's next nonce in the chain; what is below leaves the pool and is added to `gone`.
    pub(crate) fn advance(&mut self, account: &Account, next: u64, gone: &mut Vec<TxId>) {
        let Some(sender) = self.senders.get_mut(account) else { return };
        if next <= sender.next {
            return;
        }
        let rest = sender.txs.split_off(&next);
        let spent = core::mem::replace(&mut sender.txs, rest);
        let before = sender.ready;
        sender.ready = before.saturating_sub(next - sender.next);
        sender.next = next;
        sender.count_ready(&mut self.waiting);
        self.ready = self.ready + sender.ready as usize - before as usize;
        if sender.txs.is_empty() {
            self.senders.remove(account);
        }
        for mut pooled in spent.into_values() {
            self.forget(&mut pooled);
            gone.push(pooled.tx.id);
        }
    }

    /// Removes what cannot stand in a block above `height`.
    pub(crate) fn expire(&mut self, now: Timestamp, height: u64) -> Vec<TxId> {
        let mut gone = Vec::new();
        while let Some((until, id)) = self.by_expiry.first().copied() {
            if until > height {
                break;
            }
            self.remove(now, &id);
            gone.push(id);
        }
        gone
    }

    /// Removes what has waited for an earlier nonce for too long.
    pub(crate) fn expire_waiting(&mut self, now: Timestamp) -> Vec<TxId> {
        let mut gone = Vec::new();
        while let Some((since, arrival)) = self.waiting.index.first().copied() {
            if since + WAITING_LIFETIME > now {
                break;
            }
            let Some(id) = self.by_arrival.get(&arrival).copied() else { break };
            self.remove(now, &id);
            gone.push(id);
        }
        gone
    }

    /// When [`expire_waiting`](Self::expire_waiting) has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.waiting.index.first().map(|(since, _)| *since + WAITING_LIFETIME)
    }

    /// Removes one transaction; those of its sender behind it wait again.
    pub(crate) fn remove(&mut self, now: Timestamp, id: &TxId) {
        let Some((account, nonce)) = self.by_id.get(id).copied() else { return };
        let Some(sender) = self.senders.get_mut(&account) else { return };
        if sender.is_ready(nonce) {
            let left = nonce - sender.next;
            let behind = (sender.ready - left) as usize;
            self.ready -= behind;
            sender.ready = left;
            sender.txs.range_mut(nonce..).take(behind).skip(1).for_each(|(_, next)| self.waiting.enter(next, now));
        }
        let pooled = sender.txs.remove(&nonce);
        if sender.txs.is_empty() {
            self.senders.remove(&account);
        }
        if let Some(mut pooled) = pooled {
            self.forget(&mut pooled);
        }
    }

    fn forget(&mut self, pooled: &mut Pooled) {
        self.waiting.leave(pooled);
        self.by_id.remove(&pooled.tx.id);
        self.by_arrival.remove(&pooled.arrival);
        self.by_expiry.remove(&(pooled.tx.tx.body.valid_until, pooled.tx.id));
        self.bytes -= pooled.tx.bytes.len();
        self.held -= pooled.tx.pooled_bytes();
    }

    /// What to make a block of: ready transactions in order of arrival, but those of one sender in order of nonce, up to
    /// `max_bytes`.
    pub(crate) fn candidates(&self, max_bytes: u64) -> Vec<Arc<EncodedTransaction>> {
        // The next ready transaction of each sender, by arrival.
        let mut heads: BTreeMap<u64, (&Sender, u64)> = BTreeMap::new();
        for sender in self.senders.values().filter(|sender| sender.ready > 0) {
            if let Some(pooled) = sender.txs.get(&sender.next) {
                heads.insert(pooled.arrival, (sender, sender.next));
            }
        }
        let (mut chosen, mut total) = (Vec::new(), 0);
        while let Some((_, (sender, nonce))) = heads.pop_first() {
            let Some(pooled) = sender.txs.get(&nonce) else { continue };
            total += pooled.tx.bytes.len() as u64;
            if total > max_bytes {
                break;
            }
            chosen.push(Arc::clone(&pooled.tx));
            if let Some(following) = sender.txs.get(&(nonce + 1)).filter(|_| sender.is_ready(nonce + 1)) {
                heads.insert(following.arrival, (sender, nonce + 1));
            }
        }
        chosen
    }

    /// Transactions from an arrival number on, up to `max_bytes` and `max_items` but at least one, and the number from
    /// which to go on.
    pub(crate) fn since(
        &self,
        arrival: u64,
        max_bytes: usize,
        max_items: usize,
    ) -> (Vec<&Arc<EncodedTransaction>>, Option<u64>) {
        let (mut chosen, mut total) = (Vec::new(), 0);
        for (arrival, id) in self.by_arrival.range(arrival..) {
            let Some(tx) = self.get(id) else { continue };
            total += tx.bytes.len();
            if !chosen.is_empty() && (total > max_bytes || chosen.len() == max_items) {
                return (chosen, Some(*arrival));
            }
            chosen.push(tx);
        }
        (chosen, None)
    }
}

#[cfg(test)]
mod tests;
