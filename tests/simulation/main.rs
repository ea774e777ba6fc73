//! Stories of many nodes in virtual time: the very stacks that real nodes run, on `peerage-sim`.
//!
//! A story that fails prints its seed; `SEED=<n> cargo test -p system-tests --test simulation <its name>` replays it, or
//! tells it with other dice.

mod clock;
mod crash;
mod crowd;
mod full;
mod memory;
mod network;
mod split;
mod world;
