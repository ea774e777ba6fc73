//! The machine and its vocabulary: pure, as every [`Protocol`](peerage_core::Protocol).

mod config;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
mod machine;
mod pending;
mod seen;
#[cfg(test)]
mod tests;
mod topic;
mod wire;

use bytes::Bytes;
use peerage_core::{Charge, NodeId};

use crate::PublishError;

pub use config::Config;
pub use machine::Gossip;
pub use topic::{ItemId, MAX_TOPIC_BYTES, Topic};
pub use wire::{ITEM, LIMITS, MAX_ITEM_BYTES, MAX_TOPICS, PUBLIC, SUBSCRIBE};

/// What the layer above asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Receive items of this topic from now on. There is no way back: a layer that stops caring ignores.
    Subscribe(Topic),
    /// Spread an item, unless it was spread or refused already.
    Publish {
        /// Its topic.
        topic: Topic,
        /// Its content, [`MAX_ITEM_BYTES`] at most.
        bytes: Bytes,
    },
    /// Send an item to all subscribed neighbours once more, even though it was seen: for whoever missed it.
    Republish {
        /// Its topic.
        topic: Topic,
        /// Its content, [`MAX_ITEM_BYTES`] at most.
        bytes: Bytes,
    },
    /// What an item given by [`Event::Item`] is worth. Only the first verdict counts, and only in time.
    Verdict {
        /// The item.
        item: ItemId,
        /// The verdict.
        verdict: Verdict,
    },
}

/// What the layer above thinks of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Valid: send it on.
    Accept,
    /// Nobody may send this: whoever did is reported.
    Reject,
    /// Neither: it cannot be judged or is not wanted now. Forgotten, so that a later copy is looked at again.
    Ignore,
}

/// What the layer above is told.
#[derive(Debug)]
pub enum Event {
    /// An item that was not seen before. A [`Command::Verdict`] is due.
    Item {
        /// Its topic, one that was subscribed to.
        topic: Topic,
        /// Its id.
        id: ItemId,
        /// Its content.
        bytes: Bytes,
        /// The neighbour it came from first; not its author.
        from: NodeId,
        /// Pays for `bytes`: keep it as long as those.
        charge: Charge,
    },
    /// A command was refused. Nothing was sent.
    Refused {
        /// The topic of the command.
        topic: Topic,
        /// Why.
        error: PublishError,
    },
}

/// What one machine did so far. All but `pending`, `pending_bytes` and `seen` only ever grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Well-formed items that arrived, copies included.
    pub received: u64,
    /// Of these, bytes of content.
    pub received_bytes: u64,
    /// Of these, items seen before.
    pub duplicates: u64,
    /// Of these, items of topics that were never asked for.
    pub unwanted: u64,
    /// Of these, new items that found no room to wait for a verdict.
    pub overflowed: u64,
    /// Items given upward.
    pub delivered: u64,
    /// Items from here that were spread.
    pub published: u64,
    /// Items accepted and so sent on, be it to nobody.
    pub forwarded: u64,
    /// Items rejected.
    pub rejected: u64,
    /// Items ignored by verdict.
    pub ignored: u64,
    /// Items ignored because no verdict came in time.
    pub expired: u64,
    /// Items sent, counted once for each recipient.
    pub copies: u64,
    /// Of these, bytes of content.
    pub copied_bytes: u64,
    /// Items that the runner dropped on the way out.
    pub shed: u64,
    /// Items that wait for their verdict now.
    pub pending: usize,
    /// Bytes of items that wait for their verdict now.
    pub pending_bytes: usize,
    /// Items that would be recognised now.
    pub seen: usize,
}
