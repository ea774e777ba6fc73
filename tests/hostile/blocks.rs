//! Blocks that do not count, by gossip and as answers to what was asked for: each is refused for its own reason. What anybody
//! could have seen is held against whoever brought it; what only execution shows is its producer's fault, and nobody else's.

use std::sync::Arc;

use bytes::Bytes;
use peerage_chain::{
    proto::{
        BLOCKS, BLOCKS_TOPIC, HEAD, Summary,
        block::{CheckedBlock, Header, tx_root},
        genesis::Genesis,
        id::{BlockId, Producer, Root},
        transaction::EncodedTransaction,
    },
    store::Store,
};
use peerage_core::{CloseReason, Closed, Message, UnixMillis};
use peerage_gossip::{ITEM, SUBSCRIBE};
use peerage_wire::payload;

use crate::{
    attacker::{Attacker, answer},
    transactions::{item, transaction},
    victim::{PRODUCER, Victim, keypair},
};

/// Somebody with a key that is not the producer's.
const STRANGER: u8 = 9;

/// The first blocks of the real chain, with one transaction each.
fn real_blocks(genesis: &Arc<Genesis>, n: u64) -> Vec<CheckedBlock> {
    let store = Store::in_memory(Arc::clone(genesis)).expect("memory");
    let block = |nonce| {
        let time = UnixMillis(1_700_000_001_000 + nonce);
        let built = store.build(vec![Arc::new(transaction(1, nonce, |_| ()))], time, &keypair(PRODUCER));
        built.expect("a working store").block.expect("a block").block
    };
    (0..n).map(block).collect()
}

/// The bytes of the first block of the real chain.
pub(crate) fn first_block(genesis: &Arc<Genesis>) -> Bytes {
    real_blocks(genesis, 1)[0].bytes().clone()
}

/// The first block of the real chain, changed and then signed.
fn changed(
    genesis: &Arc<Genesis>,
    signer: u8,
    change: impl FnOnce(&mut Header, &mut Vec<Arc<EncodedTransaction>>),
) -> Bytes {
    let real = &real_blocks(genesis, 1)[0];
    let (mut header, mut txs) = (real.header().clone(), real.transactions().to_vec());
    change(&mut header, &mut txs);
    CheckedBlock::make(genesis, header, txs, &keypair(signer)).expect("small").bytes().clone()
}

/// What nobody should pass on, and why.
fn no_blocks(genesis: &Arc<Genesis>) -> Vec<(&'static str, Bytes)> {
    let real = first_block(genesis);
    let holding = |tx: EncodedTransaction| {
        changed(genesis, PRODUCER, |header, txs| {
            *txs = vec![Arc::new(tx)];
            header.tx_root = tx_root(txs);
        })
    };
    let mut forged = transaction(1, 0, |_| ()).tx;
    forged.signature = transaction(2, 0, |_| ()).tx.signature;
    let own_name = |header: &mut Header| header.producer = Producer(*keypair(STRANGER).node_id().as_bytes());
    let max = usize::try_from(genesis.limits().max_block_bytes).expect("it fits a message");
    vec![
        ("unknown_producer", changed(genesis, STRANGER, |header, _| own_name(header))),
        ("unknown_producer", changed(genesis, PRODUCER, |header, _| own_name(header))),
        ("bad_certificate", changed(genesis, STRANGER, |_, _| ())),
        ("malformed", Bytes::from_static(b"no block")),
        ("malformed", [&*real, b"!"].concat().into()),
        ("malformed", [&[0x81, 0], &real[1..]].concat().into()), // another encoding of height 1
        ("malformed", real.slice(..real.len() - 1)),
        ("too_large", vec![0; max + 1].into()),
        ("empty", changed(genesis, PRODUCER, |_, txs| txs.clear())),
        ("tx_root", changed(genesis, PRODUCER, |header, _| header.tx_root = Root([3; 32]))),
        ("tx_root", changed(genesis, PRODUCER, |_, txs| *txs = vec![Arc::new(transaction(2, 0, |_| ()))])),
        ("bad_signature", holding(forged.encode().expect("small"))),
        ("wrong_chain", holding(transaction(1, 0, |body| body.chain_id = 8))),
        ("op_count", holding(transaction(1, 0, |body| body.ops.clear()))),
    ]
}

/// What the producer signed and should not have, and what execution finds.
fn lies(genesis: &Arc<Genesis>) -> Vec<(&'static str, Bytes)> {
    let lie = |change: fn(&mut Header)| changed(genesis, PRODUCER, |header, _| change(header));
    let holding = |tx: EncodedTransaction| {
        changed(genesis, PRODUCER, |header, txs| {
            *txs = vec![Arc::new(tx)];
            header.tx_root = tx_root(txs);
        })
    };
    vec![
        ("parent", lie(|header| header.parent = BlockId([3; 32]))),
        ("time", lie(|header| header.time = UnixMillis(1_699_999_999_999))),
        ("receipts_root", lie(|header| header.receipts_root = Root([3; 32]))),
        ("state_root", lie(|header| header.state_root = Root([3; 32]))),
        ("excluded", holding(transaction(1, 1, |_| ()))),
        ("excluded", holding(transaction(1, 0, |body| body.valid_until = 0))),
    ]
}

fn refused(reason: &str) -> String {
    format!("peerage_blocks_refused_total{{reason={reason}}}")
}

fn fault(fault: &str) -> String {
    format!("peerage_faults_total{{fault={fault}}}")
}

/// The claim to be so far.
pub(crate) fn head(height: u64) -> Message {
    Message::new(HEAD, payload::to_bytes(&Summary { height, id: BlockId([height as u8; 32]) }))
}

/// Blocks as they are asked for.
fn batch(blocks: &[Bytes]) -> Message {
    let lengths: Vec<u32> = blocks.iter().map(|block| block.len() as u32).collect();
    let head = payload::to_bytes(&lengths);
    if blocks.is_empty() { Message::new(BLOCKS, head) } else { Message::with_body(BLOCKS, head, blocks.concat()) }
}

/// An attacker that gives this when it is asked for blocks, and then nothing more: while it is being checked the next blocks
/// are asked for.
async fn with_blocks(victim: &Victim, number: u8, mut given: Option<Message>) -> Attacker {
    let give = move |request: &Message| if request.command == BLOCKS { given.take() } else { answer(request) };
    Attacker::connect_answering(victim, number, give).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_block_is_refused_by_its_reason_and_held_against_whoever_spread_it() {
    let mut victim = Victim::start().await;
    let mut number = 10;
    for (reason, block) in no_blocks(&victim.genesis) {
        number += 1;
        let mut attacker = Attacker::connect(&victim, number).await;
        victim.stage.again();
        attacker.says(item(BLOCKS_TOPIC, block)).await;
        victim.counts(&[(&refused(reason), 1), (&fault("invalid_item"), 1)]).await;
        attacker.is_served().await;
        attacker.leaves().await;
    }
    let friend = Attacker::connect(&victim, 3).await;
    friend.says(item(BLOCKS_TOPIC, first_block(&victim.genesis))).await;
    victim.until("the true block counts", |now| now.height == 1).await;
    friend.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_answers_with_what_is_no_block_is_banned_at_once_and_told_so() {
    let mut victim = Victim::start().await;
    let mut number = 10;
    for (reason, block) in no_blocks(&victim.genesis) {
        number += 1;
        victim.stage.again();
        let mut attacker = with_blocks(&victim, number, Some(batch(&[block]))).await;
        attacker.says(head(9)).await;
        assert_eq!(attacker.is_told().await, Closed::by_them(CloseReason::Banned), "{reason}");
        victim.counts(&[(&refused(reason), 1), (&fault("invalid_block"), 1)]).await;
        attacker.leaves().await;
    }
    let friend = with_blocks(&victim, 3, Some(batch(&[first_block(&victim.genesis)]))).await;
    friend.says(head(1)).await;
    victim.until("the true block counts", |now| now.height == 1).await;
    friend.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_other_blocks_or_with_none_is_a_fault_and_not_believed() {
    let mut victim = Victim::start().await;
    let real: Vec<_> = real_blocks(&victim.genesis, 2).iter().map(|block| block.bytes().clone()).collect();
    let short = Message::with_body(BLOCKS, payload::to_bytes(&[real[0].len() as u32 + 1]), real[0].clone());
    let cases = [
        ("bad_sync_answer", batch(&[])), // though it claimed to have nine
        ("bad_sync_answer", batch(&real[1..])),
        ("bad_sync_answer", Message::new(HEAD, head(9).head)),
        ("undecodable_payload", Message::new(BLOCKS, b"garbage".as_slice())),
        ("undecodable_payload", short),
        ("undecodable_payload", Message::with_body(BLOCKS, batch(&real).head, [&*real.concat(), b"!"].concat())),
    ];
    for ((expected, given), number) in cases.into_iter().zip(10..) {
        victim.stage.again();
        let mut attacker = with_blocks(&victim, number, Some(given)).await;
        attacker.says(head(9)).await;
        victim.counts(&[(&fault(expected), 1)]).await;
        attacker.is_served().await;
        attacker.leaves().await;
    }
    // What stands before the wrong one counts all the same.
    victim.stage.again();
    let attacker = with_blocks(&victim, 20, Some(batch(&[real[0].clone(), real[0].clone()]))).await;
    attacker.says(head(9)).await;
    victim.until("the first of the two counts", |now| now.height == 1).await;
    victim.counts(&[(&fault("bad_sync_answer"), 1)]).await;
    attacker.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_claims_blocks_and_says_nothing_is_waited_for_by_nobody() {
    let mut victim = Victim::start().await;
    victim.stage.again();
    let mut attacker = with_blocks(&victim, 10, None).await;
    attacker.says(head(u64::MAX)).await;
    attacker.hears(BLOCKS).await;
    let friend = with_blocks(&victim, 3, Some(batch(&[first_block(&victim.genesis)]))).await;
    friend.says(head(1)).await;
    victim.until("another is asked beside it", |now| now.height == 1).await;
    victim.counts(&[(&fault("unanswered_request"), 1)]).await;
    attacker.is_served().await;
    attacker.leaves().await;
    friend.leaves().await;
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lie_of_the_producer_is_refused_by_its_reason_and_held_against_no_messenger() {
    let mut victim = Victim::start().await;
    let mut messenger = Attacker::connect(&victim, 3).await;
    for ((reason, block), number) in lies(&victim.genesis).into_iter().zip(10..) {
        victim.stage.again();
        messenger.says(item(BLOCKS_TOPIC, block.clone())).await;
        victim.counts(&[(&refused(reason), 1)]).await;

        victim.stage.again();
        let mut asked = with_blocks(&victim, number, Some(batch(&[block]))).await;
        asked.says(head(9)).await;
        victim.counts(&[(&refused(reason), 1)]).await;
        asked.is_served().await;
        asked.leaves().await;
    }
    victim.stage.again();
    messenger.is_served().await;
    messenger.says(item(BLOCKS_TOPIC, first_block(&victim.genesis))).await;
    victim.until("the true block counts, from the same messenger", |now| now.height == 1).await;
    victim.counts(&[]).await;
    messenger.leaves().await;
    victim.stops_well().await;
}

/// Somebody to whom blocks are sent on.
async fn subscriber(victim: &Victim, number: u8) -> Attacker {
    let mut subscriber = Attacker::connect(victim, number).await;
    subscriber.says(Message::new(SUBSCRIBE, payload::to_bytes(&[BLOCKS_TOPIC].as_slice()))).await;
    // One message after the other: when this is answered, that was read.
    subscriber.is_served().await;
    subscriber
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_of_another_height_waits_or_is_ignored_and_one_that_comes_twice_counts_once() {
    let victim = Victim::start().await;
    let real: Vec<_> = real_blocks(&victim.genesis, 4).iter().map(|block| block.bytes().clone()).collect();
    let mut friend = subscriber(&victim, 3).await;
    let one = Attacker::connect(&victim, 10).await;
    let other = Attacker::connect(&victim, 11).await;
    for attacker in [&one, &other] {
        for block in [&real[2], &real[2], &real[1]] {
            attacker.says(item(BLOCKS_TOPIC, block.clone())).await;
        }
    }
    let waiting = [friend.hears(ITEM).await, friend.hears(ITEM).await];
    assert!(real[1..3].iter().all(|block| waiting.iter().any(|item| item.body.as_ref() == Some(block))));
    let gap = victim.until("the store is open", |_| true).await;
    assert_eq!(gap.height, 0, "the first is missing");
    one.says(item(BLOCKS_TOPIC, real[0].clone())).await;
    victim.until("all three count", |now| now.height == 3).await;
    assert_eq!(friend.hears(ITEM).await.body.as_ref(), Some(&real[0]), "and not one of the others again");

    // Old ones: copies of what is known, another first block, and in the end a new one.
    let rival = changed(&victim.genesis, PRODUCER, |header, _| header.time = UnixMillis(1_700_000_009_000));
    for block in real[..3].iter().chain([&rival, &real[3]]) {
        other.says(item(BLOCKS_TOPIC, block.clone())).await;
    }
    assert_eq!(friend.hears(ITEM).await.body.as_ref(), Some(&real[3]), "the old ones go no further");
    victim.until("the new one counts, on top of the first that was there", |now| now.height == 4).await;
    victim.counts(&[]).await;
    for mut everybody in [friend, one, other] {
        everybody.is_served().await;
        everybody.leaves().await;
    }
    victim.stops_well().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_blocks_of_one_height_the_one_that_fits_the_chain_counts_in_the_end() {
    let victim = Victim::start().await;
    let real: Vec<_> = real_blocks(&victim.genesis, 2).iter().map(|block| block.bytes().clone()).collect();
    // Signed by the producer, and on top of a block that nobody has.
    let rival = changed(&victim.genesis, PRODUCER, |header, _| {
        (header.height, header.parent) = (2, BlockId([3; 32]));
    });
    let mut friend = subscriber(&victim, 3).await;
    let mut messenger = with_blocks(&victim, 10, Some(batch(&real[1..]))).await;
    for block in [&rival, &real[1], &real[0]] {
        messenger.says(item(BLOCKS_TOPIC, block.clone())).await;
        assert_eq!(friend.hears(ITEM).await.body.as_ref(), Some(block), "each is as good as its signature");
    }
    victim.until("the first counts", |now| now.height == 1).await;
    victim.counts(&[(&refused("parent"), 1)]).await;
    // The rival had the place of the true one, which is asked for as soon as somebody says that it exists.
    messenger.says(head(2)).await;
    victim.until("the true second counts", |now| now.height == 2).await;
    messenger.is_served().await;
    victim.counts(&[(&refused("parent"), 1)]).await;
    messenger.leaves().await;
    friend.leaves().await;
    victim.stops_well().await;
}
