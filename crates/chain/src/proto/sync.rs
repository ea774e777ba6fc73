//! Blocks of others: as they come by gossip, and asked for where they do not.
//!
//! Blocks are checked on the compute lane as they arrive, wait for the ones before them, and are applied one after the
//! other. While one is applied the next are checked and more are asked for. Whoever says that it is further is asked in
//! turn; whoever does not deliver what it claims is believed no more until it rested, and then for longer each time.

use core::{ops::Range, time::Duration};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use peerage_core::{Action, Charge, Fault, Message, NodeId, Now, RequestError, RequestId, Timestamp};
use peerage_gossip::{ItemId, Verdict};

use super::{
    block::{BlockError, CheckedBlock},
    chain::{Chain, Work},
    jobs::ComputeJob,
    wire::{BlocksRequest, Summary, unbatch},
};
use crate::store::StoreJob;

#[derive(Debug)]
struct Held {
    block: Box<CheckedBlock>,
    /// Who brought it.
    from: NodeId,
    _charge: Charge,
}

/// What is known about missing blocks.
#[derive(Debug, Default)]
pub(super) struct Sync {
    /// Checked blocks above the head, by height.
    held: BTreeMap<u64, Held>,
    held_bytes: usize,
    /// Heights of blocks that were asked for, arrived and are being checked.
    checking: BTreeSet<u64>,
    /// The one open request: whom, and from which height on.
    asking: Option<(RequestId, NodeId, u64)>,
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
const REST: Duration = Duration::from_secs(2);
const MAX_DOUBLINGS: u32 = 6;

impl Chain {
    /// A peer says how far it is.
    pub(super) fn learn_head(&mut self, now: Now, peer: NodeId, head: Summary) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.head = Some(head);
            state.greeted = true;
            self.push_pending(now);
            self.advance_sync(now);
        }
    }

    /// A block arrived by gossip.
    pub(super) fn check_block(&mut self, item: ItemId, from: NodeId, bytes: Bytes, charge: Charge) {
        let known = if self.pool.len() > 0 { self.pool.ids() } else { Vec::new() };
        let job = ComputeJob::Block { genesis: Arc::clone(&self.genesis), bytes, above: self.height(), known };
        self.compute(job, Work::CheckBlock { item, from, charge });
    }

    /// A block from gossip was checked as far as that goes without the state.
    pub(super) fn block_checked(
        &mut self,
        now: Now,
        item: ItemId,
        from: NodeId,
        result: Result<Option<Box<CheckedBlock>>, BlockError>,
    ) {
        match result {
            Err(_) => self.verdict(item, Verdict::Reject),
            Ok(None) => self.verdict(item, Verdict::Ignore),
            Ok(Some(block)) => {
                // Its producer signed it and it is whole: others may have it before we executed it.
                self.verdict(item, Verdict::Accept);
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
        fault: Option<Fault>,
    ) {
        heights.for_each(|height| {
            self.sync.checking.remove(&height);
        });
        for block in blocks {
            self.hold(Box::new(block), peer);
        }
        if let Some(fault) = fault {
            self.distrust(now, peer, fault);
        }
        self.advance_sync(now);
    }

    /// Keeps a block until it is its turn. What lies nearest above the head has precedence.
    fn hold(&mut self, block: Box<CheckedBlock>, from: NodeId) {
        let (at, bytes) = (block.header().height, block.held_bytes());
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
        let claimed = self.peers.values().filter_map(|peer| Some(peer.head?.height)).max().unwrap_or(0);
        if claimed < missing {
            self.sync.behind_since = None;
            return;
        }
        let since = *self.sync.behind_since.get_or_insert(now.mono);
        if self.sync.asking.is_some() || self.sync.held_bytes + self.checking_bytes() >= self.config.held_bytes {
            return;
        }
        let patience = since + self.config.gap_patience;
        if claimed - missing < GOSSIP_LAG && now.mono < patience {
            self.sync.wake = Some(patience);
            return;
        }
        let able = self.peers.iter().filter(|(_, peer)| peer.head.is_some_and(|head| head.height >= missing));
        let rested = able.clone().filter(|(_, peer)| peer.rest_until <= now.mono);
        match rested.min_by_key(|(id, peer)| (peer.failures, peer.asked, **id)).map(|(id, _)| *id) {
            Some(peer) => self.request(now, peer, missing),
            None => self.sync.wake = able.map(|(_, peer)| peer.rest_until).min(),
        }
    }

    /// Bytes of asked-for blocks in the checks, at most: they came in one answer.
    fn checking_bytes(&self) -> usize {
        if self.sync.checking.is_empty() { 0 } else { usize::try_from(self.config.sync_bytes).unwrap_or(usize::MAX) }
    }

    fn request(&mut self, now: Now, to: NodeId, from: u64) {
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.asked = now.mono;
        }
        let id = RequestId(self.sync.next_request);
        self.sync.next_request += 1;
        self.sync.asking = Some((id, to, from));
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
        let Some((_, _, from)) = self.sync.asking.take_if(|(asked, whom, _)| *asked == id && *whom == peer) else {
            return;
        };
        let blocks = match result {
            Ok((message, charge)) => unbatch(&message).map(|blocks| (blocks, charge)),
            Err(RequestError::Timeout) => Err(Fault::UnansweredRequest),
            Err(RequestError::Closed(_) | RequestError::Dropped(_)) => {
                // Nobody's fault, but another may do better.
                self.rest(now, peer);
                return self.advance_sync(now);
            }
        };
        match blocks {
            // It claimed to have them.
            Ok((blocks, _)) if blocks.is_empty() => self.distrust(now, peer, Fault::BadSyncAnswer),
            Ok((blocks, charge)) => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.failures = 0;
                }
                let heights = from..from.saturating_add(blocks.len() as u64);
                self.sync.checking.extend(heights.clone());
                // Copies, so that one block that waits does not keep the memory of the whole answer.
                let blocks = blocks.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect();
                let job = ComputeJob::Blocks { genesis: Arc::clone(&self.genesis), blocks, from };
                self.compute(job, Work::CheckBlocks { peer, heights, charge });
            }
            Err(fault) => self.distrust(now, peer, fault),
        }
        self.advance_sync(now);
    }

    /// A peer did not deliver what it claimed: report it, and do not believe its head until it says so again.
    pub(super) fn distrust(&mut self, now: Now, peer: NodeId, fault: Fault) {
        self.report(peer, fault);
        if let Some(state) = self.peers.get_mut(&peer) {
            state.head = None;
        }
        self.rest(now, peer);
    }

    fn rest(&mut self, now: Now, peer: NodeId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.rest_until = now.mono + REST * 2u32.pow(state.failures.min(MAX_DOUBLINGS));
            state.failures = state.failures.saturating_add(1);
        }
    }

    pub(super) fn next_sync(&self) -> Option<Timestamp> {
        self.sync.wake
    }
}
