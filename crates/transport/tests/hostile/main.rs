//! Bad input over real sockets: what a node does with it, what it says to whoever sent it, and what it counts.
//!
//! The victim is a node on the real driver, listening on TCP. The attacker is played by the test: raw bytes, a handshake
//! made by hand, or records sealed by hand under keys that stand. Each story asserts three things: the typed reason on our
//! side (by its counter, and no other counter moved), the bytes that the attacker was told, and that somebody else is
//! served meanwhile. The rows are those of `docs/threat-model.md`.
//!
//! Stories run one at a time, since counters belong to the process. Nothing here asserts how long anything takes; what
//! waits in vain fails after [`stage::PATIENCE`].

#![cfg(feature = "tokio")]

#[cfg(feature = "lz4")]
mod compressed;
#[path = "../sockets/counters.rs"]
mod counters;
mod crowds;
mod floods;
mod fragments;
#[path = "../sockets/hand.rs"]
mod hand;
mod handshake;
mod known_key;
mod memory;
mod messages;
mod preamble;
mod records;
mod slow;
#[path = "../sockets/stage.rs"]
mod stage;
#[path = "../sockets/victim.rs"]
#[expect(dead_code, reason = "shared with the stories of `reasons`")]
mod victim;
