# One command a task. `just --list` shows them.

# What CI runs, in the same order.
ci:
    .ci/run

# All tests.
test:
    cargo test --workspace

# Formatting, lints, documentation: all must be clean.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Each library crate alone, without default features: no tokio in a core's tree, nothing borrowed from a neighbour.
alone:
    .ci/alone

# A network of five processes on this machine, until Ctrl-C.
devnet *ARGS:
    cargo run --release -- devnet {{ARGS}}

# The end-to-end test on the real block with many seeds.
e2e SEEDS="10":
    E2E_SEEDS={{SEEDS}} cargo test --release -p peerage --test e2e -- --nocapture

# Accept changed golden files: a change of a frozen format, which needs a decision and a version number.
bless:
    BLESS=1 cargo test -p peerage-wire -p peerage-chain
    BLESS=1 cargo test -p system-tests --test spec

# A peer in another language, written from docs/protocol, against a real node.
interop:
    .ci/interop

# The fuzz targets, all or those named, for so many seconds each; then whether they find planted bugs.
fuzz SECONDS="600" *TARGETS:
    FUZZ_SECONDS={{SECONDS}} tests/fuzz/run {{TARGETS}}
    tests/fuzz/find-planted
