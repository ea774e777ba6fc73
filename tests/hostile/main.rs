//! Hostile input to what lies above connections: a whole node on TCP, and peers with valid keys that speak every layer,
//! falsely. What a connection itself refuses is in `crates/transport/tests/hostile`.

mod attacker;
mod blocks;
mod encodings;
mod floods;
mod records;
mod transactions;
mod victim;

// The same stage: one story at a time, and what it made the counters count.
#[allow(dead_code, reason = "shared with the stories of connections, which need more of it")]
#[path = "../../crates/transport/tests/sockets/counters.rs"]
mod counters;
#[allow(dead_code, reason = "shared with the stories of connections, which need more of it")]
#[path = "../../crates/transport/tests/sockets/stage.rs"]
mod stage;
