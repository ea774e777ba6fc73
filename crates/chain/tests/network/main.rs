//! Stories of a few nodes in virtual time, each with a real store on an in-memory disk.

mod disk;
mod node;

use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use node::*;
use peerage_chain::{
    proto::{
        AccountStatus, BLOCKS_TOPIC, Command, Config, ConfigError, DropCause, Event, HEAD, Refusal, Summary,
        TRANSACTIONS, TransactionStatus,
        block::{CheckedBlock, Header, Receipt},
        genesis::Genesis,
        id::{BlockId, Producer, Root, TxId},
        transaction::{Op, TransactionError},
    },
    store::Store,
};
use peerage_core::{CloseReason, Fault, Message, UnixMillis};
use peerage_sim::{CrashAt, CrashPoint, SimConfig};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_transaction_submitted_anywhere_is_committed_everywhere() {
    let mut net = Net::new(1, 4).line();
    for nonce in 0..20 {
        net.submit(3, &tx(1, nonce));
        net.submit(1, &tx(2, nonce));
    }
    // Less than the time after which anything is offered again: the first way must do.
    net.sim.run_for(3 * SECOND);
    let events = net.collect();
    assert_eq!((net.acknowledged.len(), net.refused.len()), (40, 0));
    for node in 0..4 {
        assert_eq!((net.pool(node), net.outbox(node)), (0, 0), "node {node}");
        let committed = events.iter().filter(|(n, _)| *n == node).filter_map(|(_, event)| match event {
            Event::BlockCommitted { transactions, .. } => Some(transactions),
            _ => None,
        });
        assert_eq!(committed.flatten().filter(|(_, receipt)| *receipt == Receipt::Applied).count(), 40);
    }
    assert!((0..4).all(|node| net.sim.reports(node).is_empty()), "nobody did anything wrong");
    net.audit();
}

#[test]
fn blocks_come_once_an_interval_and_not_at_all_when_there_is_nothing_to_say() {
    let mut net = Net::new(2, 2).line();
    net.sim.run_for(60 * SECOND);
    assert_eq!(net.height(0), 0);
    for nonce in 0..100 {
        net.submit(1, &tx(1, nonce));
        net.sim.run_for(Duration::from_millis(100));
    }
    // Ten seconds of steady traffic, one block each half second, and what is under way at both ends.
    assert!((19..=22).contains(&net.height(0)), "{}", net.height(0));
    net.sim.run_for(2 * SECOND);
    let height = net.height(0);
    net.sim.run_for(60 * SECOND);
    assert_eq!(net.height(0), height);
    net.audit();
}

#[test]
fn users_get_reasons() {
    let mut net = Net::new(3, 2).line();
    net.submit(1, &tx(1, 0));
    net.sim.run_for(2 * SECOND);
    let stale = tx_with(2, 0, vec![Op::Put { key: b"1/0".to_vec(), value: vec![], expected_version: 0 }]);
    let mut forged = tx(1, 1).tx;
    forged.body.ops.clear();
    let mut unsigned = tx(1, 1).tx;
    unsigned.body.nonce = 2;
    let mut elsewhere = tx(1, 1).tx;
    elsewhere.body.chain_id = 8;
    let other = tx_with(1, 0, vec![Op::Delete { key: b"x".to_vec(), expected_version: 0 }]);
    let cases = [
        (net.submit(1, &stale), Refusal::StaleVersion { op: 0, actual: 1 }),
        (net.submit(1, &forged.encode().unwrap()), TransactionError::OpCount(0).into()),
        (net.submit(1, &unsigned.encode().unwrap()), TransactionError::BadSignature.into()),
        (net.submit(1, &elsewhere.encode().unwrap()), TransactionError::WrongChain(8).into()),
        (net.submit_bytes(1, Bytes::from_static(b"junk")), TransactionError::Malformed.into()),
        (net.submit(1, &other), Refusal::NonceUsed { next: 1 }),
        (net.submit(1, &tx(1, 66)), Refusal::NonceTooFar { next: 1, gap: 64 }),
        (
            net.submit_bytes(1, Bytes::from(vec![0; 300_000])),
            TransactionError::TooLarge { bytes: 300_000, max: 256 * 1024 }.into(),
        ),
    ];
    net.sim.run_for(2 * SECOND);
    net.collect();
    for case in cases {
        assert!(net.refused.contains(&case), "{case:?} is not among {:?}", net.refused);
    }
    assert_eq!(net.refused.len(), 8);
    assert_eq!(net.height(0), 1);
}

#[test]
fn asking_again_is_answered_again_and_changes_nothing() {
    let mut net = Net::new(4, 2).line();
    let tx = tx(1, 0);
    // While it is checked, while it is written, once it waits, once it is committed.
    for pause in [0, 0, 1, 3, 5, 3_000, 3_000] {
        net.submit(1, &tx);
        net.sim.run_for(Duration::from_millis(pause));
    }
    net.collect();
    assert_eq!((net.acknowledged.len(), net.refused.len(), net.height(0)), (7, 0, 1));
    net.sim.command(1, Command::Transaction { token: 1, id: tx.id });
    net.sim.run_for(SECOND);
    let answer = net.collect().into_iter().find_map(|(_, event)| match event {
        Event::Transaction { result: Ok(TransactionStatus::Committed(location)), .. } => Some(location),
        _ => None,
    });
    assert_eq!(answer.map(|at| (at.height, at.index, at.receipt)), Some((1, 0, Receipt::Applied)));
    let reports = net.audit();
    assert_eq!(reports[0].1.transactions, [(1, tx.id)]);
}

/// A node alone takes a transaction, dies, comes back and only then meets the network. Says whether its user was
/// promised anything and whether the transaction was committed.
fn alone_and_restarted(outbox: bool) -> (usize, bool) {
    let mut net = Net::new(5, 1);
    let lonely = net.add(Config { outbox, ..Config::default() });
    net.submit(lonely, &tx(1, 0));
    net.sim.run_for(SECOND);
    net.collect();
    let promised = net.acknowledged.len();
    net.restart(lonely);
    net.sim.run_for(SECOND);
    net.sim.connect(0, lonely);
    net.sim.run_for(10 * SECOND);
    (promised, net.height(0) == 1)
}

#[test]
fn the_outbox_is_what_keeps_a_promise_over_a_restart() {
    assert_eq!(alone_and_restarted(true), (1, true));
    assert_eq!(alone_and_restarted(false), (1, false), "the switch is there to show just this");
}

#[test]
fn a_crash_around_the_disk_never_breaks_a_promise() {
    // The storage jobs of one submission: load, admission, outbox.
    for (point, promised, there) in [(CrashPoint::Before, 0, 0), (CrashPoint::After, 0, 1)] {
        let mut net = Net::new(6, 2);
        net.sim.run_for(SECOND);
        net.sim.crash_on_job(1, point, CrashAt::Job(2));
        net.submit(1, &tx(1, 0));
        net.sim.run_for(SECOND);
        assert!(!net.sim.is_running(1));
        net.revive(1);
        net.sim.run_for(SECOND);
        net.collect();
        assert_eq!(net.acknowledged.len(), promised, "{point:?}: the acknowledgement comes after the disk");
        assert_eq!(net.outbox(1), there, "{point:?}");
    }
}

#[test]
fn under_random_crashes_what_was_promised_is_committed_exactly_once() {
    for seed in 10..16 {
        let mut net = Net::new(seed, 4).line();
        net.sim.connect(0, 3);
        for node in 0..4 {
            net.sim.crash_on_job(node, CrashPoint::Before, CrashAt::Chance(0.01));
            net.sim.crash_on_job(node, CrashPoint::After, CrashAt::Chance(0.01));
        }
        let mut crashes = 0;
        for nonce in 0..60 {
            for node in 0..4 {
                if net.sim.is_running(node) {
                    net.submit(node, &tx(node as u8 + 1, nonce));
                } else {
                    crashes += 1;
                    net.revive(node);
                    [(node + 1) % 4, (node + 3) % 4].into_iter().for_each(|other| net.sim.connect(node, other));
                }
            }
            net.sim.run_for(Duration::from_millis(150));
            net.collect();
        }
        // Calm again: everybody comes back, and users whose transactions were never acknowledged ask once more, so that
        // no nonce is missing.
        for round in 0..8 {
            for node in 0..4 {
                if !net.sim.is_running(node) {
                    net.revive(node);
                    [(node + 1) % 4, (node + 3) % 4].into_iter().for_each(|other| net.sim.connect(node, other));
                }
            }
            for nonce in 0..60 {
                for node in (0..4).filter(|_| round < 4) {
                    if net.sim.is_running(node) {
                        net.submit(node, &tx(node as u8 + 1, nonce));
                    }
                }
            }
            net.sim.run_for(10 * SECOND);
            net.collect();
        }
        assert!(crashes > 3, "seed {seed}: {crashes} crashes are no test");
        // The rules stand until the end; the audit reads the disks of whoever lies there dead too.
        let up_to_date = (0..4).all(|node| !net.sim.is_running(node) || net.height(node) == net.height(0));
        assert!(up_to_date, "seed {seed}");
        for node in 0..4 {
            if !net.sim.is_running(node) {
                net.revive(node);
                [(node + 1) % 4, (node + 3) % 4].into_iter().for_each(|other| net.sim.connect(node, other));
            }
        }
        net.sim.run_for(10 * SECOND);
        net.acknowledged.sort();
        net.acknowledged.dedup();
        assert!(net.acknowledged.len() == 240, "seed {seed}: {}", net.acknowledged.len());
        net.audit();
    }
}

/// A chain of `n` blocks on nodes 0 and 1.
fn grown(seed: u64, n: u64) -> Net {
    let mut net = Net::new(seed, 2).line();
    for nonce in 0..n {
        net.submit(1, &tx(1, nonce));
        net.sim.run_for(Duration::from_millis(700));
    }
    net.sim.run_for(2 * SECOND);
    net.collect();
    assert_eq!(net.height(1), n);
    net
}

#[test]
fn a_newcomer_fetches_the_chain_and_the_pending() {
    let mut net = grown(7, 30);
    // Waits for nonce 30, which nobody sent.
    net.submit(1, &tx(1, 31));
    net.sim.run_for(SECOND);
    let newcomer = net.add(Config { sync_bytes: 2_000, ..Config::default() });
    net.sim.connect(newcomer, 1);
    net.sim.run_for(5 * SECOND);
    assert_eq!((net.height(newcomer), net.pool(newcomer)), (30, 1));
    net.submit(newcomer, &tx(1, 30));
    net.sim.run_for(5 * SECOND);
    assert_eq!((net.height(newcomer), net.pool(newcomer)), (net.height(0), 0));
    net.audit();
}

#[test]
fn pending_transactions_reach_a_peer_that_cannot_take_them_all_at_once() {
    // A queue of 300 kB, and 800 kB to say.
    let mut net = Net::with(SimConfig { queue: 300_000, ..SimConfig::new(20) }, 1);
    // Nothing is offered by gossip again, so that the direct way must do.
    net.add(Config { republish: 3_600 * SECOND, ..Config::default() });
    for number in 1..=40 {
        let value = vec![number; 20_000];
        net.submit(1, &tx_with(number, 0, vec![Op::Put { key: vec![number], value, expected_version: 0 }]));
    }
    net.sim.run_for(SECOND);
    net.sim.connect(0, 1);
    net.sim.run_for(10 * SECOND);
    assert!(net.sim.traffic(1).shed > 0, "else this is no test");
    assert_eq!((net.pool(1), net.outbox(1)), (0, 0));
    net.audit();
}

#[test]
fn whoever_claims_blocks_that_it_does_not_have_delays_nobody_for_long() {
    let mut net = grown(8, 10);
    let (newcomer, liar) = (net.add(Config::default()), net.add(Config::default()));
    let boast = Message::new(HEAD, peerage_wire_bytes(&Summary { height: u64::MAX, id: BlockId([9; 32]) }));
    net.sim.connect(newcomer, liar);
    net.sim.send_as(liar, newcomer, boast.clone());
    net.sim.connect(newcomer, 1);
    for _ in 0..20 {
        net.sim.send_as(liar, newcomer, boast.clone());
        net.sim.run_for(SECOND / 2);
    }
    assert_eq!(net.height(newcomer), 10);
    let liar = net.sim.id(liar);
    let reports = net.sim.reports(newcomer);
    assert!(reports.iter().all(|(_, peer, fault)| (*peer, *fault) == (liar, Fault::BadSyncAnswer)), "{reports:?}");
    // It was asked, and believed less each time: 2 s, 4 s, 8 s of rest.
    assert!((1..=4).contains(&reports.len()), "{reports:?}");
}

/// Canonical postcard of a summary, as the machine itself sends it.
fn peerage_wire_bytes(summary: &Summary) -> Vec<u8> {
    peerage_wire::payload::to_bytes(summary)
}

#[test]
fn a_network_that_was_split_comes_together() {
    let mut net = Net::new(9, 4).line();
    net.sim.run_for(SECOND);
    net.sim.partition(&[&[0, 1], &[2, 3]]);
    for nonce in 0..10 {
        net.submit(3, &tx(3, nonce));
        net.submit(0, &tx(1, nonce));
        net.sim.run_for(SECOND);
    }
    assert!(net.height(0) > 0 && net.height(3) == 0);
    net.collect();
    assert_eq!(net.acknowledged.len(), 20, "a node alone takes what it can keep");
    // Long enough for the links across to be given up.
    net.sim.run_for(100 * SECOND);
    net.sim.heal();
    net.sim.connect(1, 2);
    net.sim.run_for(20 * SECOND);
    assert!((0..4).all(|node| net.height(node) == net.height(0) && net.outbox(node) == 0));
    net.audit();
}

#[test]
fn a_block_that_gossip_lost_is_asked_for() {
    let mut net = Net::new(17, 2).line();
    net.submit(1, &tx(1, 0));
    net.sim.run_for(2 * SECOND);
    // The link breaks just before the next block goes out, and comes back when it is gone.
    net.sim.disconnect(0, 1, CloseReason::Requested);
    net.submit(0, &tx(2, 0));
    net.sim.run_for(2 * SECOND);
    assert_eq!((net.height(0), net.height(1)), (2, 1));
    net.sim.connect(0, 1);
    net.sim.run_for(2 * SECOND);
    assert_eq!(net.height(1), 2);
}

#[test]
fn bad_items_are_reported_and_go_no_further() {
    let mut net = Net::new(18, 3).line();
    net.submit(0, &tx(1, 0));
    net.sim.run_for(2 * SECOND);
    let (middle, end) = (net.sim.id(1), net.sim.id(2));

    // A transaction with a signature that does not hold, pushed directly.
    let mut unsigned = tx(1, 1).tx;
    unsigned.body.nonce = 2;
    let bytes = unsigned.encode().unwrap().bytes;
    let head = peerage_wire::payload::to_bytes(&vec![bytes.len() as u32]);
    net.sim.send_as(2, 1, Message::with_body(TRANSACTIONS, head, bytes));
    // A block of somebody who is no producer, through gossip.
    let forged = forged_block();
    let head = peerage_wire::payload::to_bytes(&BLOCKS_TOPIC);
    net.sim.send_as(2, 1, Message::with_body(peerage_gossip::ITEM, head, forged));
    // A head that is none.
    net.sim.send_as(2, 1, Message::new(HEAD, &b"\xff"[..]));
    net.sim.run_for(2 * SECOND);

    let mut faults: Vec<Fault> =
        net.sim.reports(1).into_iter().filter(|(_, peer, _)| *peer == end).map(|r| r.2).collect();
    faults.sort();
    assert_eq!(faults, [Fault::UndecodablePayload, Fault::InvalidItem, Fault::InvalidTransaction]);
    assert!(net.sim.reports(0).iter().all(|(_, peer, _)| *peer != middle), "nothing of it reached the next node");
    net.audit();
}

fn forged_block() -> Bytes {
    let header = Header {
        height: 2,
        parent: BlockId([1; 32]),
        time: UnixMillis(1_800_000_000_000),
        tx_root: Root([2; 32]),
        receipts_root: Root([3; 32]),
        state_root: Root([4; 32]),
        producer: Producer(*keypair(9).node_id().as_bytes()),
    };
    let txs = vec![Arc::new(tx(1, 1))];
    CheckedBlock::make(&genesis(), header, txs, &keypair(9)).expect("small").bytes().clone()
}

#[test]
fn a_promise_ends_when_its_nonce_is_spent_or_its_time_is_over() {
    let mut net = Net::new(19, 2);
    net.submit(0, &tx(1, 0));
    // The same nonce, taken by a node that cannot know.
    let rival = tx_with(1, 0, vec![Op::Delete { key: b"x".to_vec(), expected_version: 0 }]);
    net.submit(1, &rival);
    let late = {
        let mut body = tx(2, 0).tx.body;
        body.valid_until = 1;
        let tx = peerage_chain::proto::transaction::Transaction::sign(body, &keypair(2)).unwrap();
        tx.encode().unwrap()
    };
    net.submit(1, &late);
    net.sim.run_for(2 * SECOND);
    assert_eq!(net.outbox(1), 2);
    net.sim.connect(0, 1);
    net.sim.run_for(5 * SECOND);
    let mut dropped: Vec<(TxId, DropCause)> = net
        .collect()
        .into_iter()
        .filter_map(|(node, event)| match event {
            Event::TxDropped { id, cause } if node == 1 => Some((id, cause)),
            _ => None,
        })
        .collect();
    dropped.sort();
    let mut expected = [(rival.id, DropCause::Superseded), (late.id, DropCause::Expired)];
    expected.sort();
    assert_eq!(dropped, expected);
    net.restart(1);
    net.sim.run_for(SECOND);
    assert_eq!(net.outbox(1), 0, "and it is forgotten on disk too");
}

#[test]
fn an_account_is_told_which_nonce_is_free_even_where_a_later_one_waits() {
    let mut net = Net::new(17, 2).line();
    let mut ask = |sent: &[u64]| {
        for nonce in sent {
            net.submit(1, &tx(1, *nonce));
        }
        net.sim.run_for(3 * SECOND);
        net.sim.command(1, Command::Account { token: 1, account: account(1) });
        net.sim.run_for(SECOND);
        let answer = net.collect().into_iter().find_map(|(_, event)| match event {
            Event::Account { result, .. } => Some(result.expect("the store works")),
            _ => None,
        });
        answer.expect("an answer")
    };
    assert_eq!(ask(&[0, 1]), AccountStatus { next_nonce: 2, pending: 0, first_free: 2 });
    // Not 2 + 1, which would leave the gap as it is.
    assert_eq!(ask(&[3]), AccountStatus { next_nonce: 2, pending: 1, first_free: 2 });
    assert_eq!(ask(&[2]), AccountStatus { next_nonce: 4, pending: 0, first_free: 4 });
}

#[test]
fn only_the_producer_of_the_genesis_makes_blocks() {
    let config = Config { producer: Some(Arc::new(keypair(1))), ..Config::default() };
    let error = peerage_chain::proto::Chain::new(genesis(), config, &peerage_core::Budget::default()).err();
    assert_eq!(error, Some(ConfigError::NotTheProducer(Producer(*keypair(1).node_id().as_bytes()))));
}

#[test]
fn a_seed_tells_the_whole_story() {
    let hash = |seed| {
        let mut net = Net::new(seed, 3).line();
        (0..10).for_each(|nonce| {
            net.submit(2, &tx(1, nonce));
            net.sim.run_for(SECOND / 4);
        });
        net.sim.run_for(5 * SECOND);
        assert!(net.height(2) > 0);
        net.sim.event_hash()
    };
    assert_eq!(hash(1), hash(1));
    assert_ne!(hash(1), hash(2));
}

#[test]
fn a_store_of_another_network_is_not_opened() {
    // The machine trusts its store; this is where a mix-up ends.
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("chain.redb");
    drop(Store::open(&path, genesis(), 1 << 20).expect("new"));
    let other = Arc::new(Genesis::new(&genesis_file(8)).expect("valid"));
    Store::open(&path, other, 1 << 20).expect_err("another network's");
}
