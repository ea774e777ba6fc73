#![doc = include_str!("../README.md")]

mod config;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod proto;

pub use config::Config;
pub use proto::{
    discovery::{Command, Discovery, Event, KnownNode},
    key::{DhtKey, Distance},
    messages::{EARLY, FIND, LIMITS, NODES, RECORD},
    record::{NodeRecord, RecordBody, RecordError},
};
