//! Blocks of others: as they come by gossip, and asked for where they do not.
//!
//! Blocks are checked on the compute lane as they arrive, wait for the ones before them, and are applied one after the
//! other. While one is applied the next are checked and more are asked for. Whoever delivered before is asked before those
//! who only say that they are further, and beside them if they keep us waiting; whoever does not deliver what it claims is
//! believed no more until it rested, and then for longer each time.

use core::{ops::Range, time::Duration};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use peerage_core::{Action, Charge, Fault, Message, NodeId, Now, RequestError, RequestId, Timestamp};
use peerage_gossip::{ItemId, Verdict};

use super::{
    block::{BlockError, CertifiedBlock, CheckedBlock},
    chain::{Chain, Work},
    event::Event,
    id::TxId,
    jobs::{ComputeJob, WrongBlock},
    peer::Peer,
    wire::{BLOCKS, BlocksRequest, Summary, unbatch},
};
use crate::store::StoreJob;

#[derive(Debug)]
struct Held {
    block: Box<CheckedBlock>,
    /// Who brought it.
    from: NodeId,
    _charge: Charge,
}

/// A request of ours that is not answered yet.
#[derive(Debug)]
struct Open {
    peer: NodeId,
    /// The first height asked for.
    from: u64,
    at: Timestamp,
    /// It had delivered before, when it was asked.
    proven: bool,
}

/// What is known about missing blocks.
#[derive(Debug, Default)]
pub(super) struct Sync {
    /// Checked blocks above the head, by height.
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    /// Heights of blocks that were asked for, arrived and are being checked.
    checking: BTreeSet<u64>,
    /// How many answers are being checked.
    checks: usize,
    /// Blocks from gossip in the checks, by who brought them.
    judging: BTreeMap<NodeId, usize>,
    /// One for each peer at most.
    open: BTreeMap<RequestId, Open>,
    next_request: u64,
    /// One is being applied.
    pub(super) applying: bool,
    /// Since when we have been behind without getting on.
    behind_since: Option<Timestamp>,
    /// When to look again.
    wake: Option<Timestamp>,
}

impl Sync {
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// A block was committed: patience begins anew, and what is below the head is of no use.
    pub(super) fn progressed(&mut self, now: Timestamp) {
        if self.behind_since.is_some() {
            self.behind_since = Some(now);
        }
    }
}

/// How far behind gossip alone can explain, in blocks: those under way and in the checks. Our guess: two on a slow path,
/// one in the checks.
const GOSSIP_LAG: u64 = 3;
/// How long a peer rests after it failed, the first time; doubled for each failure in a row, up to 64 times. Our guess.
pub(super) const REST: Duration = Duration::from_secs(2);
const MAX_DOUBLINGS: u32 = 6;
/// How long a peer rests at least that did not answer at all. Our guess: silence costs us more than a wrong answer.
const SILENCE_REST: Duration = Duration::from_secs(60);
/// How long to wait for an answer before another peer is asked for the same. Our guess: 1 MiB at 4 Mbit/s.
const HEDGE: Duration = Duration::from_secs(2);
/// Open requests to peers that never proved anything. Our guess: a second one beside one that is slow.
const UNPROVEN: usize = 2;
/// Blocks from gossip in the checks, of one peer and in all: others are not looked at, and asked for if they are missing.
/// Our guess: each may be 2 MiB, and a producer makes two a second.
const JUDGED_PER_PEER: usize = 4;
const JUDGED: usize = 16;

impl Chain {
    /// A peer says how far it is.
    ///
    /// # Errors
    /// [`Fault::Excess`] if it says so all the time.
    pub(super) fn learn_head(&mut self, now: Now, peer: NodeId, head: Summary) -> Result<(), Fault> {
        let Some(state) = self.peers.get_mut(&peer) else { return Ok(()) };
        let heard = state.conduct.count_head(now.mono)?;
        if !heard || (state.greeted && state.head == Some(head)) {
            return Ok(());
        }
        (state.head, state.greeted) = (Some(head), true);
        state.claimed = state.claimed.max(head.height);
        self.push_pending(now);
        self.advance_sync(now);
        Ok(())
    }

    /// A block arrived by gossip.
    pub(super) fn check_block(&mut self, item: ItemId, from: NodeId, bytes: Bytes, charge: Charge) {
        let all: usize = self.sync.judging.values().sum();
        let judged = self.sync.judging.entry(from).or_default();
        if *judged >= JUDGED_PER_PEER || all >= JUDGED {
            if *judged == 0 {
                self.sync.judging.remove(&from);
            }
            return self.verdict(item, Verdict::Ignore);
        }
        *judged += 1;
        let job = ComputeJob::Block { genesis: Arc::clone(&self.genesis), bytes, above: self.height() };
        self.compute(job, Work::CheckBlock { item, from, charge });
    }

    /// A block from gossip is the producer's, or not. Only now is it worth asking which of its transactions are known.
    pub(super) fn block_certified(
        &mut self,
        now: Now,
        item: ItemId,
        from: NodeId,
        charge: Charge,
        result: Result<Option<Box<CertifiedBlock>>, BlockError>,
    ) {
        let block = match result {
            Ok(Some(block)) => block,
            Ok(None) => return self.block_checked(now, item, from, Ok(None)),
            Err(error) => return self.block_checked(now, item, from, Err(error)),
        };
        let ids = block.transactions().iter().map(|tx| tx.id);
        let mut known: Vec<TxId> = ids.filter(|id| self.pool.contains(id)).collect();
        if known.len() < block.transactions().len() {
            known.sort_unstable();
            return self.compute(ComputeJob::Signatures { block, known }, Work::CheckBlock { item, from, charge });
        }
        known.sort_unstable();
        let checked = block.verify(&known).map(|block| Some(Box::new(block)));
        self.block_checked(now, item, from, checked);
    }

    /// A block from gossip was checked as far as that goes without the state.
    pub(super) fn block_checked(
        &mut self,
        now: Now,
        item: ItemId,
        from: NodeId,
        result: Result<Option<Box<CheckedBlock>>, BlockError>,
    ) {
        if let Some(judged) = self.sync.judging.get_mut(&from) {
            *judged -= 1;
            if *judged == 0 {
                self.sync.judging.remove(&from);
            }
        }
        match result {
            Err(error) => {
                self.emit(Event::BlockRefused { from, error });
                self.verdict(item, Verdict::Reject);
            }
            Ok(None) => self.verdict(item, Verdict::Ignore),
            Ok(Some(block)) => {
                // Its producer signed it and it is whole: others may have it before we executed it.
                self.verdict(item, Verdict::Accept);
                self.compare_clocks(now, block.header().height, block.header().time, true);
                self.hold(block, from);
                self.advance_sync(now);
            }
        }
    }

    /// Blocks that were asked for were checked.
    pub(super) fn blocks_checked(
        &mut self,
        now: Now,
        peer: NodeId,
        heights: Range<u64>,
        blocks: Vec<CheckedBlock>,
        wrong: Option<WrongBlock>,
    ) {
        heights.for_each(|height| {
            self.sync.checking.remove(&height);
        });
        self.sync.checks -= 1;
        if wrong.is_none()
            && let Some(state) = self.peers.get_mut(&peer)
        {
            (state.conduct.failures, state.conduct.delivered) = (0, true);
        }
        for block in blocks {
            self.hold(Box::new(block), peer);
        }
        match wrong {
            None => {}
            Some(WrongBlock::Height) => self.distrust(now, peer, Fault::BadSyncAnswer, REST),
            Some(WrongBlock::Invalid(error)) => {
                self.emit(Event::BlockRefused { from: peer, error });
                self.distrust(now, peer, Fault::InvalidBlock, REST);
            }
        }
        self.advance_sync(now);
    }

    /// Keeps a block until it is its turn. What lies nearest above the head has precedence.
    fn hold(&mut self, block: Box<CheckedBlock>, from: NodeId) {
        let (at, bytes) = (block.header().height, block.held_bytes());
        self.certified(at);
        if at <= self.height() || self.sync.held.contains_key(&at) {
            return;
        }
        while self.sync.held_bytes + bytes > self.config.held_bytes {
            match self.sync.held.last_key_value() {
                Some((last, _)) if *last > at => {
                    if let Some((_, last)) = self.sync.held.pop_last() {
                        self.sync.held_bytes -= last.block.held_bytes();
                    }
                }
                Some(_) => return,
                None => break, // one block is always held
            }
        }
        if let Some(charge) = self.charge_table(bytes) {
            self.sync.held_bytes += bytes;
            self.sync.held.insert(at, Held { block, from, _charge: charge });
        }
    }

    /// Applies the next block if it is here, and asks for what is missing if that seems right.
    pub(super) fn advance_sync(&mut self, now: Now) {
        let Some(head) = self.head.filter(|_| !self.failed) else { return };
        while let Some((height, _)) = self.sync.held.first_key_value().filter(|(at, _)| **at <= head.height) {
            let height = *height;
            self.take_held(height);
        }
        if !self.sync.applying
            && let Some(held) = self.take_held(head.height + 1)
        {
            self.sync.applying = true;
            self.store(StoreJob::Apply(held.block), Work::Apply(held.from));
        }
        self.ask(now, head.height);
    }

    fn take_held(&mut self, height: u64) -> Option<Held> {
        let held = self.sync.held.remove(&height)?;
        self.sync.held_bytes -= held.block.held_bytes();
        Some(held)
    }

    /// The first height that is neither committed nor on its way to be.
    fn first_missing(&self, head: u64) -> u64 {
        let mut next = head.saturating_add(1 + u64::from(self.sync.applying));
        while self.sync.held.contains_key(&next) || self.sync.checking.contains(&next) {
            next += 1;
        }
        next
    }

    fn ask(&mut self, now: Now, head: u64) {
        self.sync.wake = None;
        let missing = self.first_missing(head);
        let further = |peer: &Peer| peer.head.is_some_and(|head| head.height >= missing);
        // The word of whoever rests does not count.
        let trusted = self.peers.values().filter(|peer| further(peer) && !peer.rests(now.mono));
        let claimed = trusted.filter_map(|peer| Some(peer.head?.height)).max();
        let resting = self.peers.values().filter(|peer| further(peer) && peer.rests(now.mono));
        let rested = resting.map(|peer| peer.conduct.rest_until).min();
        let Some(claimed) = claimed else {
            self.sync.behind_since = None;
            self.sync.wake = rested;
            return;
        };
        let since = *self.sync.behind_since.get_or_insert(now.mono);
        if self.sync.held_bytes + self.checking_bytes() >= self.config.held_bytes {
            return;
        }
        let patience = since + self.config.gap_patience;
        if claimed - missing < GOSSIP_LAG && now.mono < patience {
            self.sync.wake = Some(patience);
            return;
        }
        let (mut proven, mut any, mut unproven) = (true, true, 0);
        for open in self.sync.open.values() {
            let slow = open.at + HEDGE <= now.mono;
            any &= slow;
            proven &= slow || !open.proven;
            unproven += usize::from(!open.proven);
        }
        any &= unproven < UNPROVEN;
        let next = self
            .peers
            .iter()
            .filter(|(id, peer)| further(peer) && !peer.rests(now.mono) && !self.is_asked(id))
            .filter(|(_, peer)| if peer.is_proven() { proven } else { any })
            .min_by_key(|(_, peer)| peer.rank())
            .map(|(id, _)| *id);
        if let Some(peer) = next {
            self.request(now, peer, missing);
        }
        let slow = self.sync.open.values().map(|open| open.at + HEDGE).filter(|at| *at > now.mono).min();
        self.sync.wake = slow.into_iter().chain(rested).min();
    }

    fn is_asked(&self, peer: &NodeId) -> bool {
        self.sync.open.values().any(|open| open.peer == *peer)
    }

    /// Bytes of asked-for blocks in the checks, at most.
    fn checking_bytes(&self) -> usize {
        self.sync.checks.saturating_mul(usize::try_from(self.config.sync_bytes).unwrap_or(usize::MAX))
    }

    fn request(&mut self, now: Now, to: NodeId, from: u64) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        peer.asked = now.mono;
        let open = Open { peer: to, from, at: now.mono, proven: peer.is_proven() };
        let id = RequestId(self.sync.next_request);
        self.sync.next_request += 1;
        self.sync.open.insert(id, open);
        let message = BlocksRequest { from, max_bytes: self.config.sync_bytes }.message();
        self.act(Action::Request { to, id, message, timeout: self.config.request_timeout });
    }

    /// The end of our request.
    pub(super) fn blocks_arrived(
        &mut self,
        now: Now,
        peer: NodeId,
        id: RequestId,
        result: Result<(Message, Charge), RequestError>,
    ) {
        if self.sync.open.get(&id).is_none_or(|open| open.peer != peer) {
            return;
        }
        let Some(Open { from, .. }) = self.sync.open.remove(&id) else { return };
        let blocks = match result {
            Ok((message, _)) if message.command != BLOCKS => Err(Fault::BadSyncAnswer),
            Ok((message, charge)) => unbatch(&message).map(|blocks| (blocks, charge)),
            Err(RequestError::Timeout) => Err(Fault::UnansweredRequest),
            Err(RequestError::Closed(_) | RequestError::Dropped(_)) => {
                // Nobody's fault, but another may do better.
                self.rest(now, peer, REST);
                return self.advance_sync(now);
            }
        };
        match blocks {
            // It claimed to have them.
            Ok((blocks, _)) if blocks.is_empty() => self.distrust(now, peer, Fault::BadSyncAnswer, REST),
            Ok((blocks, charge)) => {
                let heights = from..from.saturating_add(blocks.len() as u64);
                // Of two who were asked for the same the later one may have nothing new to say.
                if heights.end > self.first_missing(self.height()) {
                    self.sync.checking.extend(heights.clone());
                    self.sync.checks += 1;
                    // Copies, so that one block that waits does not keep the memory of the whole answer.
                    let blocks = blocks.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect();
                    let job = ComputeJob::Blocks { genesis: Arc::clone(&self.genesis), blocks, from };
                    self.compute(job, Work::CheckBlocks { peer, heights, charge });
                }
            }
            Err(fault) => {
                let rest = if fault == Fault::UnansweredRequest { SILENCE_REST } else { REST };
                self.distrust(now, peer, fault, rest);
            }
        }
        self.advance_sync(now);
    }

    /// A peer did not deliver what it claimed: report it, and do not believe its head until it says so again.
    fn distrust(&mut self, now: Now, peer: NodeId, fault: Fault, rest: Duration) {
        self.report(peer, fault);
        self.disbelieve(now, peer, rest);
    }

    /// The same without a fault: what it said is of no use to us.
    pub(super) fn disbelieve(&mut self, now: Now, peer: NodeId, rest: Duration) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.head = None;
        }
        self.rest(now, peer, rest);
    }

    /// Lets a peer rest, for longer each time, and for `least` at least.
    fn rest(&mut self, now: Now, peer: NodeId, least: Duration) {
        if let Some(Peer { conduct, .. }) = self.peers.get_mut(&peer) {
            let doubled = REST * 2u32.pow(conduct.failures.min(MAX_DOUBLINGS));
            conduct.rest_until = now.mono + doubled.max(least);
            conduct.failures = conduct.failures.saturating_add(1);
        }
    }

    pub(super) fn next_sync(&self) -> Option<Timestamp> {
        self.sync.wake
    }
}
