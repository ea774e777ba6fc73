//! What is known about each peer, and what is still known when it comes back a moment later.

use core::time::Duration;
use std::collections::BTreeMap;

use peerage_core::{Fault, NodeId, Timestamp};

use super::wire::Summary;

/// A connected peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// It is the so-and-so-manieth that came: whoever came earlier is asked earlier, and an identity cannot choose this.
    pub(super) number: u64,
    /// What it says its head is, unless that was found to be untrue.
    pub(super) head: Option<Summary>,
    /// The greatest height that it ever claimed on this connection, true or not.
    pub(super) claimed: u64,
    /// It has told its head. It subscribed before that, so that from here on gossip reaches it: what is pending now is
    /// what it must be given directly.
    pub(super) greeted: bool,
    /// From which arrival number on it is owed pending transactions; `None` when it had them all.
    pub(super) push_from: Option<u64>,
    /// Not before this moment.
    pub(super) push_at: Timestamp,
    /// Where the last push began, should it have to be repeated.
    pub(super) pushed_from: u64,
    /// Something was dropped once: from then on it gets one message at a time, so that each repetition gets on.
    pub(super) one_by_one: bool,
    /// A push was dropped: nothing more until it takes messages again.
    pub(super) blocked: bool,
    /// When it was last asked, to ask everybody in turn.
    pub(super) asked: Timestamp,
    pub(super) conduct: Conduct,
}

impl Peer {
    /// Whether it was asked, answered well and did not fail since: it goes before all whose word is all we have. Proven peers
    /// are asked in turn, the others in the order in which they came, so that a new identity is never a way to the front.
    pub(super) fn rank(&self) -> (bool, u32, Timestamp, u64) {
        let proven = self.is_proven();
        let turn = if proven { self.asked } else { Timestamp::ZERO };
        (!proven, self.conduct.failures, turn, self.number)
    }

    pub(super) fn is_proven(&self) -> bool {
        self.conduct.failures == 0 && self.conduct.delivered
    }

    /// Whether it rests, because it failed to deliver.
    pub(super) fn rests(&self, now: Timestamp) -> bool {
        self.conduct.rest_until > now
    }
}

/// What outlives a connection for a while, so that coming back is no way to begin anew.
#[derive(Clone, Debug, Default)]
pub(super) struct Conduct {
    /// Requests that it failed to answer, in a row, and until when it is not asked again.
    pub(super) failures: u32,
    pub(super) rest_until: Timestamp,
    /// Blocks that it was asked for passed the checks.
    pub(super) delivered: bool,
    /// Since when its heads are counted, and how many there were.
    heads: (Timestamp, u32),
    /// When the last push of pending transactions to it began, and how many bytes there were.
    push: Option<(Timestamp, usize)>,
}

/// Heads that a peer may tell in a while. Who follows these rules tells one in half a second; our guess at the longest
/// pause after which a live connection delivers all it held back is 40 s.
const HEADS: u32 = 100;
const HEADS_WINDOW: Duration = Duration::from_secs(10);
/// Bytes of pending transactions that a peer is given in a while. Our guess: 4 MiB is what a peer may owe, and more would
/// make connecting a cheap way to have a whole pool sent.
pub(super) const PUSH_BYTES: usize = 4 << 20;
const PUSH_WINDOW: Duration = Duration::from_secs(60);
/// How long, and of how many identities, the conduct is kept after they left. Longer than any rest and any window; the
/// number is our guess, a tenth of a megabyte.
const KEPT: Duration = Duration::from_secs(180);
const KEPT_PEERS: usize = 1024;

impl Conduct {
    /// Counts a head: whether to listen to it.
    ///
    /// # Errors
    /// [`Fault::Excess`] for the first one too many.
    pub(super) fn count_head(&mut self, now: Timestamp) -> Result<bool, Fault> {
        let (since, count) = &mut self.heads;
        if now.since(*since) >= HEADS_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        if *count == HEADS + 1 { Err(Fault::Excess) } else { Ok(*count <= HEADS) }
    }

    /// How many bytes may be pushed to it now, or when to look again.
    pub(super) fn push_allowance(&mut self, now: Timestamp) -> Result<usize, Timestamp> {
        let (since, bytes) = match self.push {
            Some(push) if now.since(push.0) < PUSH_WINDOW => push,
            _ => (now, 0),
        };
        self.push = Some((since, bytes));
        if bytes < PUSH_BYTES { Ok(PUSH_BYTES - bytes) } else { Err(since + PUSH_WINDOW) }
    }

    pub(super) fn pushed(&mut self, bytes: usize) {
        if let Some((_, sum)) = &mut self.push {
            *sum = sum.saturating_add(bytes);
        }
    }
}

/// The conduct of peers that left not long ago.
#[derive(Debug, Default)]
pub(super) struct Departed {
    left: BTreeMap<NodeId, (Timestamp, Conduct)>,
    came: u64,
}

impl Departed {
    pub(super) fn leave(&mut self, now: Timestamp, id: NodeId, peer: Peer) {
        if self.left.len() >= KEPT_PEERS {
            self.left.retain(|_, (at, _)| now.since(*at) < KEPT);
        }
        if self.left.len() >= KEPT_PEERS
            && let Some(oldest) = self.left.iter().min_by_key(|(_, (at, _))| *at).map(|(id, _)| *id)
        {
            self.left.remove(&oldest);
        }
        self.left.insert(id, (now, peer.conduct));
    }

    /// A peer is connected, perhaps again.
    pub(super) fn come(&mut self, now: Timestamp, id: &NodeId) -> Peer {
        self.came += 1;
        let kept = self.left.remove(id).filter(|(at, _)| now.since(*at) < KEPT);
        let mut conduct = kept.map(|(_, conduct)| conduct).unwrap_or_default();
        if let Some((_, bytes)) = &mut conduct.push
            && *bytes > 0
        {
            *bytes = PUSH_BYTES; // what it had went to the connection before: no second round in this window
        }
        Peer { number: self.came, conduct, ..Peer::default() }
    }
}
