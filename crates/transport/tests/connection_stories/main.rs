//! Stories of two connections joined by a pipe, in virtual time.

mod budget;
mod certified;
mod compressed;
mod credit;
mod early;
mod handshake;
mod harness;
mod heartbeat;
mod known_key;
mod limited;
mod model;
mod mux;
mod requests;
mod rogue;
mod sealed;
