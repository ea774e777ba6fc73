//! Whole nodes: they join through one, and what is submitted anywhere is committed everywhere, once.

use std::hash::BuildHasher;

use crate::{
    network::{Network, tx},
    world::{self, SECOND},
};

const NODES: usize = 100;
const TRANSACTIONS: u64 = 48;

/// Tells the whole story with so many nodes and returns its event hash.
fn tell(seed: u64, nodes: usize) -> [u8; 32] {
    let mut network = Network::new(seed, nodes).join();
    let dice = network.sim.seed().hasher("submissions");
    for number in 0..TRANSACTIONS {
        let node = dice.hash_one(number) as usize % nodes;
        network.submit(node, &tx(1 + (number % 6) as u8, number / 6));
        network.sim.run_for(SECOND / 10);
    }
    network.agree(30);
    network.listen();
    assert_eq!((network.acknowledged.len() as u64, network.refused.len()), (TRANSACTIONS, 0));
    network.audit(TRANSACTIONS as usize)
}

#[test]
fn a_hundred_whole_nodes_join_and_end_with_the_same_chain() {
    tell(system_tests::seed(3), NODES);
}

#[test]
fn a_run_of_whole_nodes_can_be_replayed() {
    world::is_a_run(system_tests::seed(4), |seed| tell(seed, 20));
}

#[test]
fn a_late_joiner_fetches_the_whole_chain_and_takes_part() {
    let mut network = Network::new(system_tests::seed(5), 12).join();
    for nonce in 0..40 {
        network.submit(2 + nonce as usize % 10, &tx(1, nonce));
        network.sim.run_for(SECOND);
    }
    network.agree(30);
    let height = network.head(0).map_or(0, |head| head.height);
    assert!(height >= 20, "a chain of {height} blocks is none to fetch");
    let late = network.add();
    network.sim.run_for(10 * SECOND);
    assert_eq!(network.head(late), network.head(0), "ten seconds after it started");
    network.submit(late, &tx(2, 0));
    network.agree(30);
    network.audit(41);
}
