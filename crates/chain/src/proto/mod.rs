//! The pure part: no clock, no entropy, no disk.

mod admission;
pub mod block;
mod chain;
mod clock;
mod config;
mod event;
pub mod execute;
pub mod genesis;
pub mod id;
mod jobs;
mod mempool;
pub mod merkle;
mod outbox;
mod peer;
mod producer;
mod serve;
mod sign;
pub mod state;
mod sync;
pub mod transaction;
pub(crate) mod wire;

pub use chain::{BLOCKS_TOPIC, Chain, ConfigError, TRANSACTIONS_TOPIC};
pub use config::Config;
pub use event::{AccountStatus, Command, DropCause, Event, Refusal, Status, TransactionStatus, Unavailable};
pub use jobs::{ComputeDone, ComputeJob, WrongBlock};
pub use wire::{BLOCKS, BlocksRequest, HEAD, LIMITS, PUBLIC, Summary, TRANSACTIONS};
