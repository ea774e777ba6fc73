//! The pool: transactions that wait for a block, by sender and nonce.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use peerage_core::Charge;

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

    fn count_ready(&mut self) {
        while self.txs.contains_key(&self.next.saturating_add(self.ready)) {
            self.ready += 1;
        }
    }
}

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
    max_bytes: usize,
    nonce_gap: u64,
    senders: BTreeMap<Account, Sender>,
    by_id: BTreeMap<TxId, (Account, u64)>,
    by_arrival: BTreeMap<u64, TxId>,
    by_expiry: BTreeSet<(u64, TxId)>,
    next_arrival: u64,
    /// Encoded bytes of all.
    bytes: usize,
    /// How many are ready: no nonce before them is missing.
    ready: usize,
}

impl Pool {
    pub(crate) fn new(max_bytes: u64, nonce_gap: u64) -> Self {
        Self {
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
            nonce_gap,
            senders: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_arrival: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            next_arrival: 0,
            bytes: 0,
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
        Some(&pooled.tx)
    }

    /// How many transactions of an account wait here.
    pub(crate) fn pending(&self, account: &Account) -> usize {
        self.senders.get(account).map_or(0, |sender| sender.txs.len())
    }

    /// All ids, sorted.
    pub(crate) fn ids(&self) -> Vec<TxId> {
        self.by_id.keys().copied().collect()
    }

    /// Inserts a transaction whose account has `next` as its next nonce in the chain. What had to make room is added to
    /// `evicted`.
    ///
    /// A transaction behind a gap waits if at most `nonce_gap` numbers are missing or taken before it; when the pool is
    /// full, one that is ready drives out such waiting ones of others, so that nobody can fill it with what never comes
    /// to be ready.
    pub(crate) fn insert(
        &mut self,
        tx: Arc<EncodedTransaction>,
        next: u64,
        standing: Standing,
        charge: Charge,
        evicted: &mut Vec<TxId>,
    ) -> Result<Inserted, Refusal> {
        let (account, nonce, id) = (tx.tx.body.account, tx.tx.body.nonce, tx.id);
        if self.by_id.contains_key(&id) {
            return Ok(Inserted::Already);
        }
        let local = standing != Standing::Ordinary;
        let known = self.senders.get(&account);
        let next = known.map_or(next, |sender| sender.next.max(next));
        let first_missing = known.map_or(next, |sender| sender.next.saturating_add(sender.ready).max(next));
        if nonce < next {
            return Err(Refusal::NonceUsed { next });
        }
        if nonce.saturating_sub(first_missing) > self.nonce_gap && standing != Standing::Promised {
            return Err(Refusal::NonceTooFar { next: first_missing, gap: self.nonce_gap });
        }
        if known.is_some_and(|sender| sender.txs.contains_key(&nonce)) {
            return Err(Refusal::NonceTaken);
        }
        let size = tx.bytes.len();
        if self.bytes + size > self.max_bytes {
            if nonce == first_missing {
                self.evict_waiting(&account, self.bytes + size - self.max_bytes, evicted);
            }
            if self.bytes + size > self.max_bytes {
                return Err(Refusal::PoolFull);
            }
        }
        self.advance(&account, next, evicted);
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        self.by_id.insert(id, (account, nonce));
        self.by_arrival.insert(arrival, id);
        self.by_expiry.insert((tx.tx.body.valid_until, id));
        self.bytes += size;
        let sender = self.senders.entry(account).or_insert_with(|| Sender { next, ..Sender::default() });
        sender.txs.insert(nonce, Pooled { tx, arrival, local, _charge: charge });
        let before = sender.ready;
        sender.count_ready();
        self.ready += (sender.ready - before) as usize;
        Ok(Inserted::New)
    }

    /// Drives out waiting transactions of other accounts until `bytes` are free or there are none.
    fn evict_waiting(&mut self, but: &Account, bytes: usize, evicted: &mut Vec<TxId>) {
        if self.ready == self.by_id.len() {
            return;
        }
        let (mut freed, mut victims) = (0, Vec::new());
        'all: for (account, sender) in &self.senders {
            if account == but {
                continue;
            }
            for (nonce, pooled) in sender.txs.iter().rev() {
                if freed >= bytes {
                    break 'all;
                }
                if sender.is_ready(*nonce) {
                    break;
                }
                if !pooled.local {
                    freed += pooled.tx.bytes.len();
                    victims.push(pooled.tx.id);
                }
            }
        }
        for id in victims {
            self.remove(&id);
            evicted.push(id);
        }
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
        sender.count_ready();
        self.ready = self.ready + sender.ready as usize - before as usize;
        if sender.txs.is_empty() {
            self.senders.remove(account);
        }
        for pooled in spent.into_values() {
            self.forget(&pooled);
            gone.push(pooled.tx.id);
        }
    }

    /// Removes what cannot stand in a block above `height`.
    pub(crate) fn expire(&mut self, height: u64) -> Vec<TxId> {
        let mut gone = Vec::new();
        while let Some((until, id)) = self.by_expiry.first().copied() {
            if until > height {
                break;
            }
            self.remove(&id);
            gone.push(id);
        }
        gone
    }

    /// Removes one transaction; those of its sender behind it wait again.
    pub(crate) fn remove(&mut self, id: &TxId) {
        let Some((account, nonce)) = self.by_id.get(id).copied() else { return };
        let Some(sender) = self.senders.get_mut(&account) else { return };
        if sender.is_ready(nonce) {
            let left = nonce - sender.next;
            self.ready -= (sender.ready - left) as usize;
            sender.ready = left;
        }
        let pooled = sender.txs.remove(&nonce);
        if sender.txs.is_empty() {
            self.senders.remove(&account);
        }
        if let Some(pooled) = pooled {
            self.forget(&pooled);
        }
    }

    fn forget(&mut self, pooled: &Pooled) {
        self.by_id.remove(&pooled.tx.id);
        self.by_arrival.remove(&pooled.arrival);
        self.by_expiry.remove(&(pooled.tx.tx.body.valid_until, pooled.tx.id));
        self.bytes -= pooled.tx.bytes.len();
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
