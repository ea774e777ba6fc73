//! The end-to-end test: a real Bitcoin block through a network of processes that are killed meanwhile.
//!
//! `E2E_SEEDS=10` runs the seeds 0 to 9 (default: 1), `E2E_SEED=7` only that one; `E2E_LOG=debug` makes the nodes say more.
//! Where a run fails it names its seed and leaves the nodes' directories.

mod audit;
mod block;
mod dice;
mod load;
mod network;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "nodes here are kept in another way; the lock alone is shared")]
mod support;

use std::sync::Arc;

use peerage::control::{Inclusion, Outcome, TxState};

use block::Item;
use dice::Dice;
use load::Load;
use network::{Network, PRODUCER};

/// The only node that the other four are told of.
const SEED: usize = 0;
/// Transactions that one node alone holds when it is killed.
const ALONE: usize = 20;

#[test]
fn a_real_block_passes_through_five_nodes_that_die_and_return_and_a_sixth_and_comes_out_bit_by_bit() {
    for seed in seeds() {
        run(passage(Dice(seed)));
    }
}

#[test]
fn without_the_outbox_what_one_node_alone_had_acknowledged_dies_with_it() {
    run(loss(Dice(seeds().start)));
}

fn seeds() -> core::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match number("E2E_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("E2E_SEEDS").unwrap_or(1),
    }
}

fn run(story: impl Future<Output = ()>) {
    let _alone = support::alone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(story);
}

async fn passage(dice: Dice) {
    let mut network = Network::new(dice);
    let items = Arc::new(block::items(&network.genesis, &dice));
    join(&mut network, 5, |_| true).await;
    let mut load = Load::start(&network, &items, dice);

    // The seed dies. Nobody needs it any more: all have found others.
    let height = network.height(PRODUCER, dice.roll("the seed dies", 3..=8)).await;
    network.kill(SEED);
    println!("seed {}: the seed died at height {height}", dice.0);
    for node in 1..5 {
        meets_strangers(&mut network, node).await;
    }
    let height = network.height(PRODUCER, 0).await;
    for node in 1..5 {
        network.height(node, height + 2).await;
    }

    // Another dies, and with it everything that the network knows of some transactions.
    let height = network.height(PRODUCER, dice.roll("the victim dies", 14..=22)).await;
    let victim = usize::try_from(dice.roll("the victim", 2..=4)).expect("a small number");
    let mut gate = load.hold().await;
    let alone = &items[gate.reserve(ALONE)];
    dies_with(&mut network, victim, alone).await;
    drop(gate);
    println!("seed {}: node {victim} died at height {height}", dice.0);
    let height = network.height(PRODUCER, 0).await;
    network.height(PRODUCER, height + dice.roll("the victim's absence", 2..=4)).await;
    knows_none(&mut network, alone).await;

    // It returns.
    network.start(victim).await;
    network.open(victim);

    // The seed returns too, to another port and without anybody who is told of it.
    let height = network.height(PRODUCER, 0).await;
    network.start(SEED).await;
    network.height(SEED, height).await;
    network.open(SEED);

    // And so do the transactions: nobody but the victim can have brought them. What the seed had acknowledged in its last
    // moment, and nobody heard of, came back with it; later ones of the same accounts had to wait for that.
    for item in alone {
        committed(&mut network, PRODUCER, item).await;
    }

    // A sixth knows one of them and has nothing.
    network.height(PRODUCER, dice.roll("the sixth joins", 32..=40)).await;
    let contact = usize::try_from(dice.roll("the sixth's contact", 1..=4)).expect("a small number");
    let sixth = network.add(&[contact], true).await;
    assert!(!network.dir(sixth).store().exists());
    network.start(sixth).await;
    let height = network.height(PRODUCER, 0).await;
    network.height(sixth, height).await;
    println!("seed {}: the sixth, told of node {contact}, came to height {height}", dice.0);

    network.until("everything is acknowledged", async |_| load.is_done().then_some(())).await;
    settle(&mut network, 6).await;
    println!("seed {}: {} blocks", dice.0, network.height(PRODUCER, 0).await);
    network.stop().await;
    let dirs: Vec<_> = (0..6).map(|node| network.dir(node).clone()).collect();
    audit::audit(&dirs, &network.genesis, &items);
}

async fn loss(dice: Dice) {
    let victim = 2;
    let mut network = Network::new(dice);
    let items = block::items(&network.genesis, &dice);
    // Three transactions of three accounts; of the third there is another one behind.
    let (before, alone, after) = (&items[0], &items[1..3], &items[3]);
    let behind = &items[2 + block::ACCOUNTS];
    join(&mut network, 3, |node| node != victim).await;
    load::submit(network.dir(victim), before).await.expect("taken");
    committed(&mut network, PRODUCER, before).await;

    dies_with(&mut network, victim, alone).await;
    knows_none(&mut network, alone).await;
    network.start(victim).await;
    load::submit(network.dir(PRODUCER), behind).await.expect("taken, and waits for the one before it");
    load::submit(network.dir(victim), after).await.expect("taken");
    for node in 0..3 {
        committed(&mut network, node, after).await;
    }
    knows_none(&mut network, alone).await;
    let waits = network.tx_status(PRODUCER, behind.carrier.id).await;
    assert_eq!(waits, Some(TxState::Pending), "the one before it will never come");
}

/// Starts a seed and then nodes that are told of the seed only, and waits until all have met others.
async fn join(network: &mut Network, nodes: usize, outbox: impl Fn(usize) -> bool) {
    for node in 0..nodes {
        let seeds: &[usize] = if node == SEED { &[] } else { &[SEED] };
        assert_eq!(network.add(seeds, outbox(node)).await, node);
        network.start(node).await;
        network.open(node);
    }
    for node in 1..nodes {
        let seed = network.id(SEED);
        network
            .until(&format!("node {node} meets others than the seed"), async |network| {
                network.peers(node).await?.iter().any(|peer| peer.id != seed).then_some(())
            })
            .await;
    }
}

/// Waits until a node has peers, and none that it was configured with.
async fn meets_strangers(network: &mut Network, node: usize) {
    let seed = network.id(SEED);
    let others: Vec<_> = (1..5).filter(|other| *other != node).map(|other| network.id(other)).collect();
    let peers = network
        .until(&format!("node {node} has peers, but not the dead seed"), async |network| {
            let peers: Vec<_> = network.peers(node).await?.into_iter().map(|peer| peer.id).collect();
            (!peers.is_empty() && !peers.contains(&seed)).then_some(peers)
        })
        .await;
    assert!(peers.iter().all(|peer| others.contains(peer)), "node {node} has unknown peers: {peers:?}");
}

/// Kills a node that has acknowledged `alone` while no other process had so much as a byte of them.
async fn dies_with(network: &mut Network, victim: usize, alone: &[Item]) {
    // What a suspended peer has not read waits in its kernel and would survive the sender. So the victim may not even
    // have a connection: it is started anew while there is nobody to answer it.
    let others: Vec<_> = network.running().into_iter().filter(|node| *node != victim).collect();
    for node in &others {
        network.freeze(*node).await;
    }
    network.kill(victim);
    assert_eq!(network.start(victim).await.peers, 0, "all who could be its peers stand still");
    for item in alone {
        load::submit(network.dir(victim), item).await.expect("a node without peers takes transactions");
    }
    let status = network.status(victim).await.expect("it runs");
    assert_eq!(status.peers, 0, "nobody can have heard of them");
    network.kill(victim);
    for node in others {
        network.thaw(node);
    }
}

async fn knows_none(network: &mut Network, alone: &[Item]) {
    for node in network.running() {
        for item in alone {
            let state = network
                .until("a node says what it knows", async |network| network.tx_status(node, item.carrier.id).await);
            assert_eq!(state.await, TxState::Unknown, "node {node} knows what only the victim had");
        }
    }
}

async fn committed(network: &mut Network, node: usize, item: &Item) {
    let what = format!("transaction {} is committed at node {node}", item.carrier.id);
    let inclusion: Inclusion = network
        .until(&what, async |network| match network.tx_status(node, item.carrier.id).await? {
            TxState::Committed(inclusion) => Some(inclusion),
            TxState::Unknown | TxState::Pending => None,
        })
        .await;
    assert_eq!(inclusion.outcome, Outcome::Applied);
}

/// Waits until all nodes have the same head and nothing to do.
async fn settle(network: &mut Network, nodes: usize) {
    network
        .until("all have the same head, and nothing waits", async |network| {
            let mut heads = Vec::new();
            for node in 0..nodes {
                let status = network.status(node).await?;
                heads.push((status.height, status.head, status.state_root, status.mempool_txs, status.outbox_txs));
            }
            heads.iter().all(|head| *head == heads[0] && (head.3, head.4) == (0, 0)).then_some(())
        })
        .await;
}
