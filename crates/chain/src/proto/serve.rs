//! Blocks for others: few are read at a time, and who asks for more waits.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use peerage_core::{Action, Charge, Fault, Message, NodeId, Now, Pool as BudgetPool, RequestId, Timestamp};

use super::{
    chain::{Chain, Work},
    genesis::MAX_BLOCK_BYTES,
    wire::{BLOCKS, BlocksRequest, MAX_BATCH_ITEMS, batch},
};
use crate::store::{StoreError, StoreJob};

/// Requests for blocks that are or will be answered.
#[derive(Debug, Default)]
pub(super) struct Serving {
    /// How many of each peer. It outlives connections, so that coming back does not make room.
    by_peer: BTreeMap<NodeId, usize>,
    waiting: VecDeque<(NodeId, RequestId, BlocksRequest)>,
    running: usize,
    /// There was no memory: when to try again.
    retry: Option<Timestamp>,
}

/// Requests of one peer that are answered at a time. Our guess: one on the wire and one being read.
const PER_PEER: usize = 2;
/// Answers that are read at a time. Our guess: reading is sequential anyway, and each may have 2 MiB.
const AT_A_TIME: usize = 4;
/// How long to wait for memory. Our guess.
const RETRY: Duration = Duration::from_secs(1);

impl Chain {
    /// A peer asks for blocks.
    pub(super) fn handle_request(&mut self, now: Now, peer: NodeId, request: RequestId, message: &Message) {
        let wish = match message.command {
            BLOCKS => BlocksRequest::decode(message),
            _ => Err(Fault::UnexpectedCommand),
        };
        let wish = match wish {
            Ok(wish) => wish,
            Err(fault) => {
                self.report(peer, fault);
                return self.respond(peer, request, &[]);
            }
        };
        if self.failed || wish.from > self.height() || !self.peers.contains_key(&peer) {
            return self.respond(peer, request, &[]);
        }
        let running = self.serving.by_peer.entry(peer).or_default();
        if *running == PER_PEER {
            self.report(peer, Fault::Excess);
            return self.respond(peer, request, &[]);
        }
        *running += 1;
        self.serving.waiting.push_back((peer, request, wish));
        self.serve_more(now);
    }

    pub(super) fn serve_more(&mut self, now: Now) {
        if self.serving.retry.is_some_and(|at| at > now.mono) {
            return;
        }
        self.serving.retry = None;
        while self.serving.running < AT_A_TIME {
            let Some((peer, request, wish)) = self.serving.waiting.pop_front() else { return };
            if self.failed {
                self.serving.done(&peer);
                self.respond(peer, request, &[]);
                continue;
            }
            let max_bytes = usize::try_from(wish.max_bytes.min(self.config.sync_bytes)).unwrap_or(MAX_BLOCK_BYTES);
            // One block comes in any case.
            let Ok(charge) = self.budget.charge(BudgetPool::Job, max_bytes.max(MAX_BLOCK_BYTES)) else {
                self.serving.waiting.push_front((peer, request, wish));
                self.serving.retry = Some(now.mono + RETRY);
                return;
            };
            self.serving.running += 1;
            self.store(StoreJob::Blocks { from: wish.from, max_bytes }, Work::Serve { peer, request, charge });
        }
    }

    /// The blocks were read.
    pub(super) fn served(
        &mut self,
        now: Now,
        peer: NodeId,
        request: RequestId,
        charge: Charge,
        result: Result<Vec<Bytes>, StoreError>,
    ) {
        self.serving.running -= 1;
        self.serving.done(&peer);
        let blocks = self.answer(result).unwrap_or_default();
        if self.peers.contains_key(&peer) {
            self.respond(peer, request, &blocks);
        }
        drop((blocks, charge));
        self.serve_more(now);
    }

    /// A peer is gone: nobody waits for its answers.
    pub(super) fn forget_requests(&mut self, peer: NodeId) {
        let before = self.serving.waiting.len();
        self.serving.waiting.retain(|(asker, _, _)| *asker != peer);
        (self.serving.waiting.len()..before).for_each(|_| self.serving.done(&peer));
    }

    pub(super) fn next_serve(&self) -> Option<Timestamp> {
        self.serving.retry
    }

    fn respond(&mut self, to: NodeId, id: RequestId, blocks: &[Bytes]) {
        let blocks = &blocks[..blocks.len().min(MAX_BATCH_ITEMS)];
        self.act(Action::Respond { to, id, message: batch(BLOCKS, blocks) });
    }
}

impl Serving {
    fn done(&mut self, peer: &NodeId) {
        if let Some(running) = self.by_peer.get_mut(peer) {
            *running -= 1;
            if *running == 0 {
                self.by_peer.remove(peer);
            }
        }
    }
}
