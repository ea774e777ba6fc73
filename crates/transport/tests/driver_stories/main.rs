//! Stories of whole stacks on the tokio driver, over pipes in memory and over TCP.
//!
//! They run on the real clock, except those of `bandwidth.rs`, so they say only what must happen, never how soon; what waits in vain fails after
//! [`harness::PATIENCE`].

#![cfg(feature = "tokio")]

mod bandwidth;
mod budget;
mod by_hand;
mod harness;
mod jobs;
mod messages;
mod metrics;
mod peers;
mod probe;
mod slow;
