//! Ordering by one: the producer that the genesis names makes a block of what is ready, once an interval at most, and
//! none if nothing is. Its blocks count by its signature alone.
//!
//! The producer's memory is its store: a block is signed and durable in one job before anyone sees it. A producer that
//! lost its store, or got an old one back, must not make blocks before it has fetched its own chain from the others, or it
//! signs two blocks of one height. So before its first block since the start it waits
//!
//! - with an empty store, until somebody told a head, or 3 s;
//! - while a connected peer claims a greater height, until the claim came true; but 30 s without getting on at most, since
//!   anybody can claim anything and must not silence the producer;
//!
//! and at any time while a block of its own that it does not remember is on its way to it. What remains: whoever starts a
//! producer without its store and without a peer that has the chain and delivers in that time forks the network. From its
//! first block on, claims mean nothing to it: nobody knows better what it made.

use core::time::Duration;
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
    /// When the store was open, or the last block was committed.
    progressed: Timestamp,
    /// It made a block since the start, so that its store holds all it ever made.
    sure: bool,
    /// The greatest height of a block under its own certificate that it saw.
    certified: u64,
}

/// How long an empty store waits for somebody to tell a head. Our guess: a few handshakes.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// How long a claim of a greater height may hold up the first block without a new one committed. Our guess: three requests
/// that time out.
const CLAIM_PATIENCE: Duration = Duration::from_secs(30);

impl Solo {
    pub(super) fn new(keypair: Arc<Keypair>) -> Self {
        Self { keypair, building: false, next: Timestamp::ZERO, progressed: Timestamp::ZERO, sure: false, certified: 0 }
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
        let height = self.height();
        (can && solo.certified <= height).then(|| solo.next.max(self.first_build(solo, height)))
    }

    /// Before which moment the first block since the start must not be made.
    fn first_build(&self, solo: &Solo, height: u64) -> Timestamp {
        if solo.sure {
            Timestamp::ZERO
        } else if self.peers.values().any(|peer| peer.claimed > height) {
            solo.progressed + CLAIM_PATIENCE
        } else if height == 0 && !self.peers.values().any(|peer| peer.greeted) {
            solo.progressed + START_PATIENCE
        } else {
            Timestamp::ZERO
        }
    }

    /// The store is open, or a block was committed.
    pub(super) fn build_progressed(&mut self, now: Now) {
        if let Some(solo) = &mut self.solo {
            solo.progressed = now.mono;
        }
    }

    /// A block of this height has a valid certificate.
    pub(super) fn certified(&mut self, height: u64) {
        if let Some(solo) = &mut self.solo {
            solo.certified = solo.certified.max(height);
        }
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
            self.pool.remove(now.mono, &id);
            self.dropped(vec![id], cause);
        }
        if let Some(applied) = built.block {
            if let Some(solo) = &mut self.solo {
                solo.sure = true;
            }
            let bytes = applied.block.bytes().clone();
            self.gossip(GossipCommand::Publish { topic: BLOCKS_TOPIC, bytes });
            self.committed(now, &applied);
        }
        self.build_if_due(now);
    }
}
