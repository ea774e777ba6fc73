//! What an operator can cause: each mistake, and each misfortune of a machine, against the real program. It says what happened
//! and what to do about it, ends with the code that belongs to it, and loses nothing.

mod bandwidth;
mod clock;
mod config;
mod disk;
mod known;
mod peers;
mod program;
mod store;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "what these stories read is standard error; the lock and the patience are shared")]
mod support;
