//! Stories of whole stacks on the tokio driver, over pipes in memory and over TCP.
//!
//! They run on the real clock, except those of `bandwidth.rs`, so they say only what must happen, never how soon; what waits in vain fails after
//! [`harness::PATIENCE`].

#![cfg(feature = "tokio")]

#[cfg(feature = "tls")]
#[path = "../sockets/authority.rs"]
mod authority;
mod bandwidth;
mod budget;
mod by_hand;
#[cfg(feature = "lz4")]
mod compressed;
#[path = "../sockets/counters.rs"]
#[expect(dead_code, reason = "shared with the stories over sockets")]
mod counters;
mod early;
mod harness;
mod jobs;
mod messages;
mod peers;
mod probe;
mod slow;
#[cfg(feature = "tls")]
#[path = "../sockets/stranger.rs"]
mod stranger;
#[cfg(feature = "tls")]
mod tls;
mod together;
