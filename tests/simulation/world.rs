//! Where the nodes of the stories live, and who they are.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use peerage_core::{Protocol, SecretRng, Seed};
use peerage_sim::{Path, Sim, SimConfig};
use peerage_transport::proto::keypair::Keypair;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Milliseconds from one region to another (our guess: half of usual round trips between two coasts of North America,
/// Europe, South Asia and Oceania).
const ONE_WAY: [[u64; 5]; 5] =
    [[2, 32, 42, 110, 80], [32, 2, 72, 105, 70], [42, 72, 5, 60, 130], [110, 105, 60, 5, 70], [80, 70, 130, 70, 3]];

fn region(node: usize) -> usize {
    node % ONE_WAY.len()
}

/// An empty network of five regions.
pub(crate) fn world<P: Protocol>(seed: u64) -> Sim<P> {
    let mut sim = Sim::new(SimConfig::new(seed));
    sim.set_paths(|a, b| {
        let latency = Duration::from_millis(ONE_WAY[region(a)][region(b)]);
        Path { jitter: latency / 10, ..Path::of(latency) }
    });
    sim
}

/// Where a node listens: a public address, each in a /16 of its own.
pub(crate) fn addr(node: usize) -> SocketAddr {
    let number = u8::try_from(node).expect("the stories have fewer nodes");
    ([11 + region(node) as u8, number, 7, 1], 4_000).into()
}

/// The dice of a node in one of its lives.
pub(crate) fn dice(world: &Seed, node: usize, life: u32) -> Seed {
    world.derive(&format!("node {node}, life {life}"))
}

/// Who a node is, over all its lives.
pub(crate) fn identity(world: &Seed, node: usize) -> Arc<Keypair> {
    let secret = world.derive(&format!("identity {node}"));
    Arc::new(Keypair::generate(&mut SecretRng::insecure_from_seed(&secret)))
}

/// Tells a story twice with one seed and once with another: the event hashes are the same and another.
pub(crate) fn is_a_run(seed: u64, tell: impl Fn(u64) -> [u8; 32] + Sync) {
    // In three threads, which also shows that nothing outside of a simulation matters to it.
    let hashes = std::thread::scope(|scope| {
        let runs = [seed, seed, seed.wrapping_add(1)].map(|seed| {
            scope.spawn({
                let tell = &tell;
                move || tell(seed)
            })
        });
        runs.map(|run| run.join().expect("the story above went wrong"))
    });
    assert_eq!(hashes[0], hashes[1], "seed {seed} ran differently the second time");
    assert_ne!(hashes[0], hashes[2], "another seed than {seed} changed nothing");
}
