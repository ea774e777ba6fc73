//! What can go wrong here, all of it the fault of the node's own layers. What peers do wrong is reported as a
//! [`Fault`](peerage_core::Fault) and never returned.

use peerage_core::OverBudget;
use thiserror::Error;

use crate::proto::{MAX_ITEM_BYTES, MAX_TOPIC_BYTES, MAX_TOPICS};

/// Text that is no topic: the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    /// Empty, or too long.
    #[error("a topic of {0} bytes; 1 to {MAX_TOPIC_BYTES} are permitted")]
    Length(usize),
    /// Something else than printable ASCII.
    #[error("byte {0} of a topic is not printable ASCII")]
    Character(usize),
}

/// Why a command of the layer above was refused. Nothing was sent and nothing is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// The item does not fit into a message: the caller's fault.
    #[error("an item of {0} bytes; {MAX_ITEM_BYTES} are permitted")]
    TooLarge(usize),
    /// The node's memory budget is exhausted: nobody's fault, try again later.
    #[error("no room to remember the item: {0}")]
    OverBudget(#[from] OverBudget),
    /// Subscribed to as many topics as one message can name: the caller's fault.
    #[error("more than {MAX_TOPICS} topics")]
    TooManyTopics,
}
