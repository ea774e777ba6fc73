#![doc = include_str!("../README.md")]

mod error;
pub mod proto;

pub use error::{PublishError, TopicError};
pub use proto::{
    Command, Config, Event, Gossip, ITEM, ItemId, LIMITS, MAX_ITEM_BYTES, MAX_TOPICS, PUBLIC, SUBSCRIBE, Stats, Topic,
    Verdict,
};
