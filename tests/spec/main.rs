//! The written protocol, `docs/protocol`, against the code: each rule names tests that hold it, the tables are those of
//! the code, and the test vectors are what the code writes.
//!
//! - `BLESS=1 cargo test -p system-tests --test spec` writes the vectors anew: a change of a frozen format.
//! - `SPEC_TEST_LOG=log cargo test -p system-tests --test spec` also checks that each test that a rule names is passed in
//!   `log`, the output (both streams) of `cargo test --workspace`.

mod chain;
mod discovery;
mod document;
mod fixtures;
mod references;
mod rules;
mod tables;
mod transport;
mod vectors;
