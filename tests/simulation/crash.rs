//! Nodes that die around the moment of a promise.

use peerage_sim::CrashPoint;

use crate::{
    network::{Network, tx},
    world::SECOND,
};

/// Storage jobs of one submission: whether it may enter the pool, and the outbox.
const OUTBOX_JOB: u64 = 2;
/// Who takes the transaction and dies.
const VICTIM: usize = 5;

/// Crashes the node to which a transaction is given around the job that makes it durable. It is cut off meanwhile, so that
/// nobody else has it.
fn crashed(seed: u64, point: CrashPoint) -> Network {
    let mut network = Network::new(seed, 8).join();
    network.submit(VICTIM, &tx(1, 0));
    network.agree(30);
    network.sim.partition(&[&[VICTIM]]);
    network.crash_on(VICTIM, point, OUTBOX_JOB);
    network.submit(VICTIM, &tx(1, 1));
    network.sim.run_for(SECOND);
    assert!(!network.sim.is_running(VICTIM), "the job came and the node went");
    network.listen();
    assert_eq!(network.acknowledged.len(), 1, "of the second it was never told");
    network.sim.heal();
    network.revive(VICTIM);
    network
}

#[test]
fn a_transaction_whose_node_dies_before_it_is_on_disk_was_never_promised() {
    let mut network = crashed(system_tests::seed(8), CrashPoint::Before);
    network.sim.run_for(20 * SECOND);
    network.agree(30);
    assert_eq!(network.head(0).map(|head| head.height), Some(1), "nothing of it is left");
    // Its user, who heard nothing, asks again.
    network.submit(VICTIM, &tx(1, 1));
    network.agree(30);
    network.audit(2);
}

#[test]
fn a_transaction_that_is_on_disk_comes_back_with_its_node() {
    let mut network = crashed(system_tests::seed(9), CrashPoint::After);
    network.agree(60);
    assert_eq!(network.head(0).map(|head| head.height), Some(2), "the outbox brought it back");
    // Its user, who heard nothing, asks again and gets the promise that was kept already.
    network.submit(VICTIM, &tx(1, 1));
    network.sim.run_for(5 * SECOND);
    network.listen();
    assert_eq!((network.acknowledged.len(), network.refused.len()), (2, 0));
    network.audit(2);
}

#[test]
fn a_promise_outlives_its_node_that_dies_before_anybody_else_has_heard_of_it() {
    let mut network = Network::new(system_tests::seed(10), 8).join();
    network.sim.partition(&[&[VICTIM]]);
    for nonce in 0..5 {
        network.submit(VICTIM, &tx(1, nonce));
    }
    network.sim.run_for(SECOND);
    network.listen();
    assert_eq!(network.acknowledged.len(), 5);
    network.sim.crash(VICTIM);
    network.sim.heal();
    network.sim.run_for(20 * SECOND);
    assert_eq!(network.head(0).map(|head| head.height), Some(0), "nobody has it while its node is down");
    network.revive(VICTIM);
    network.agree(60);
    network.audit(5);
}

#[test]
fn the_producer_dies_around_each_of_its_storage_jobs_and_nothing_is_lost_or_repeated() {
    use crate::network::PRODUCER;
    for (round, point) in [CrashPoint::Before, CrashPoint::After].into_iter().cycle().take(8).enumerate() {
        let mut network = Network::new(system_tests::seed(11) + round as u64, 6).join();
        network.crash_on(PRODUCER, point, 1 + round as u64 / 2);
        for nonce in 0..6 {
            network.submit(2, &tx(1, nonce));
            network.submit(3, &tx(2, nonce));
            network.sim.run_for(SECOND / 5);
        }
        network.sim.run_for(5 * SECOND);
        assert!(!network.sim.is_running(PRODUCER), "{point:?}, round {round}: it did not come to that job");
        network.revive(PRODUCER);
        network.agree(60);
        network.audit(12);
    }
}
