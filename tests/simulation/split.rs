//! A network that falls apart and comes together again.

use crate::{
    network::{Network, PRODUCER, tx},
    world::SECOND,
};

const NODES: usize = 16;

/// Submits on both sides of a partition that lasts so many seconds; says how many transactions there are in all.
fn apart(network: &mut Network, seconds: u32) -> usize {
    let halves: [Vec<usize>; 2] = [(0..NODES / 2).collect(), (NODES / 2..NODES).collect()];
    assert!(halves[0].contains(&PRODUCER));
    network.sim.partition(&[&halves[0], &halves[1]]);
    for nonce in 0..10 {
        for (user, half) in (1..).zip(&halves) {
            network.submit(half[nonce as usize % half.len()], &tx(user, nonce));
        }
        network.sim.run_for(SECOND * seconds / 10);
    }
    network.listen();
    assert_eq!((network.acknowledged.len(), network.refused.len()), (20, 0), "a promise needs no network");
    let [with, without] = halves.map(|half| half.into_iter().map(|node| network.head(node)).collect::<Vec<_>>());
    assert!(with.iter().all(|head| *head == with[0] && head.as_ref().is_some_and(|head| head.height > 0)));
    assert!(without.iter().all(|head| head.as_ref().is_some_and(|head| head.height == 0)), "nobody makes blocks there");
    let waiting: usize = (NODES / 2..NODES).map(|node| network.outbox(node)).sum();
    assert_eq!(waiting, 10, "what was promised there waits");
    network.sim.heal();
    20
}

#[test]
fn after_a_short_split_what_was_promised_on_either_side_is_committed_once() {
    let mut network = Network::new(system_tests::seed(6), NODES).join();
    let transactions = apart(&mut network, 20);
    network.agree(60);
    network.audit(transactions);
}

#[test]
fn after_a_split_that_broke_all_connections_the_sides_find_each_other_again() {
    let mut network = Network::new(system_tests::seed(7), NODES).join();
    let transactions = apart(&mut network, 300);
    network.agree(120);
    network.audit(transactions);
}
