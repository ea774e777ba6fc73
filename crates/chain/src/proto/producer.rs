//! Ordering by one: the producer that the genesis names makes a block of what is ready, once an interval at most, and
//! none if nothing is. Its blocks count by its signature alone.
//!
//! The producer's memory is its store: a block is signed and durable in one job before anyone sees it. A producer that
//! lost its store must not make blocks again before it has fetched its own chain from the others.

use std::sync::Arc;

use peerage_core::{Now, Timestamp};
use peerage_gossip::Command as GossipCommand;
use peerage_transport::proto::keypair::Keypair;

use super::{
    chain::{BLOCKS_TOPIC, Chain, Work},
    event::DropCause,
    execute::Exclusion,
};
use crate::store::{Built, StoreError, StoreJob};

/// The producer's state.
#[derive(Debug)]
pub(super) struct Solo {
    keypair: Arc<Keypair>,
    building: bool,
    /// Not before this moment.
    next: Timestamp,
}

impl Solo {
    pub(super) fn new(keypair: Arc<Keypair>) -> Self {
        Self { keypair, building: false, next: Timestamp::ZERO }
    }
}

impl Chain {
    /// Begins a block if one is due.
    pub(super) fn build_if_due(&mut self, now: Now) {
        if self.next_build().is_none_or(|at| at > now.mono) {
            return;
        }
        let candidates = self.pool.candidates(self.genesis.limits().max_block_bytes);
        let interval = self.genesis.block_interval();
        let Some(solo) = &mut self.solo else { return };
        (solo.building, solo.next) = (true, now.mono + interval);
        let keypair = Arc::clone(&solo.keypair);
        self.store(StoreJob::Build { candidates, wall: now.wall, keypair }, Work::Build);
    }

    pub(super) fn next_build(&self) -> Option<Timestamp> {
        let solo = self.solo.as_ref()?;
        let can = self.head.is_some() && !self.failed && !solo.building && self.pool.has_ready();
        can.then_some(solo.next)
    }

    /// The block is made and durable, or there was nothing to make one of.
    pub(super) fn built(&mut self, now: Now, result: Result<Built, StoreError>) {
        if let Some(solo) = &mut self.solo {
            solo.building = false;
        }
        let built = match result {
            Ok(built) => built,
            Err(error) => return self.fail(error),
        };
        for (id, reason) in built.excluded {
            let cause = match reason {
                Exclusion::Expired(_) => DropCause::Expired,
                Exclusion::Nonce { nonce, next } if nonce < next => DropCause::Superseded,
                // One before it did not fit into the block: it waits like that one.
                Exclusion::Nonce { .. } => continue,
            };
            self.pool.remove(&id);
            self.dropped(vec![id], cause);
        }
        if let Some(applied) = built.block {
            let bytes = applied.block.bytes().clone();
            self.gossip(GossipCommand::Publish { topic: BLOCKS_TOPIC, bytes });
            self.committed(now, &applied);
        }
        self.build_if_due(now);
    }
}
