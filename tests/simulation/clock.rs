//! Whole nodes whose civil clocks are an hour off: nothing that the network does depends on them, and their operators hear of
//! it.

use crate::{
    network::{Network, PRODUCER, tx},
    world::SECOND,
};

const HOUR: i64 = 3_600_000;
/// One whose clock is wrong though it makes no blocks.
const FOLLOWER: usize = 4;
const NODES: usize = 8;

/// Tells a story of load everywhere with these clocks, and returns who was told of a clock: by how many minutes the blocks
/// are ahead of its own.
fn told(seed: u64, clocks: &[(usize, i64)]) -> Vec<(usize, i64)> {
    let mut network = Network::with_clocks(seed, NODES, clocks);
    network.sim.run_for(30 * SECOND);
    for nonce in 0..10 {
        for user in 1..4 {
            network.submit((usize::from(user) * 3 + nonce as usize) % NODES, &tx(user, nonce));
        }
        network.sim.run_for(SECOND);
    }
    network.agree(60);
    assert_eq!((network.acknowledged.len(), network.refused.len()), (30, 0));
    let mut told: Vec<(usize, i64)> = network
        .clocks_told
        .iter()
        .map(|(node, apart, ahead)| {
            let minutes = (apart.as_secs_f64() / 60.0).round() as i64;
            (*node, if *ahead { minutes } else { -minutes })
        })
        .collect();
    told.sort_unstable();
    network.audit(30);
    told
}

#[test]
fn nobody_is_told_of_clocks_that_differ_by_seconds() {
    assert_eq!(told(system_tests::seed(41), &[(PRODUCER, 5_000), (FOLLOWER, -20_000)]), []);
}

#[test]
fn a_producer_an_hour_ahead_or_behind_makes_the_same_chain_and_everybody_else_is_told() {
    for (seed, off, minutes) in [(42, HOUR, 60), (43, -HOUR, -60)] {
        let everybody: Vec<_> = (0..NODES).filter(|node| *node != PRODUCER).map(|node| (node, minutes)).collect();
        assert_eq!(told(system_tests::seed(seed), &[(PRODUCER, off)]), everybody, "each once");
    }
}

#[test]
fn a_follower_an_hour_ahead_or_behind_keeps_up_and_is_the_one_who_is_told() {
    for (seed, off, minutes) in [(44, HOUR, -60), (45, -HOUR, 60)] {
        assert_eq!(told(system_tests::seed(seed), &[(FOLLOWER, off)]), [(FOLLOWER, minutes)]);
    }
}
