//! What strangers try against one node, and what it costs the node: nothing that they could not have for free.

mod bench;

use bench::*;
use bytes::Bytes;
use peerage_chain::{
    proto::{Event, HEAD, Refusal, TRANSACTIONS, TRANSACTIONS_TOPIC, id::BlockId, transaction::Op},
    store::StoreJob,
};
use peerage_core::{Budget, Fault, Message, NodeId, Pool, Timestamp, UnixMillis};
use peerage_gossip::Verdict;

const MIB: usize = 1 << 20;

#[test]
fn free_keys_cannot_fill_the_memory_of_the_node_with_what_never_comes_to_be_ready() {
    let budget = Budget::new(16 * MIB);
    let mut bench = Bench::new(Default::default(), budget);
    bench.up(peer(1));
    // Nonce 0 of each is missing.
    for number in 0..4_000 {
        bench.push(peer(1), &[bloated(number, 1)]);
    }
    let charged = bench.charged(Pool::Mempool);
    assert!(charged > MIB / 2, "{charged} bytes are no attack");
    assert!(charged <= MIB, "waiting ones have a quarter of the pool, the pool a quarter of the budget: {charged}");
    bench.push(peer(1), &[put(5_000, 0)]);
    assert!(bench.chain.status().pool > 0 && bench.reports.is_empty());
    bench.submit(1, &put(5_001, 0));
    assert!(matches!(bench.answer(1), Some(Ok(_))), "{:?}", bench.answer(1));
    // They may not wait for ever.
    bench.pass(SECOND * 601);
    assert_eq!(bench.chain.status().pool, 2, "those that are ready");
}

#[test]
fn a_pool_full_of_ready_transactions_takes_a_quarter_of_the_budget() {
    let mut bench = Bench::new(Default::default(), Budget::new(8 * MIB));
    bench.up(peer(1));
    for number in 0..800 {
        bench.push(peer(1), &[bloated(number, 0)]);
    }
    let charged = bench.charged(Pool::Mempool);
    assert!((3 * MIB / 2..=2 * MIB).contains(&charged), "{charged}");
}

#[test]
fn transactions_that_wait_for_their_check_are_bounded_for_each_peer_and_in_all() {
    let mut bench = Bench::ordinary();
    bench.hold(|job| matches!(job, Held::Compute(_)));
    let junk: Vec<_> = (0..1_000).map(|number| bloated(number, 0)).collect();
    let limit_each = 4 * MIB;
    bench.up(peer(1));
    for _ in 0..3 {
        bench.push(peer(1), &junk);
    }
    let first = bench.charged(Pool::Mempool);
    assert!(first > limit_each / 2 && first <= limit_each, "{first}");
    // Gossip is the same queue.
    let item = bench.item(peer(1), TRANSACTIONS_TOPIC, put(1, 7).bytes);
    let big = bench.item(peer(1), TRANSACTIONS_TOPIC, bloated(2_000, 7).bytes);
    assert!(bench.verdicts.contains(&(big, Verdict::Ignore)) || bench.verdicts.contains(&(item, Verdict::Ignore)));
    // Coming back does not make room, and what was not begun is forgotten.
    bench.down(peer(1));
    assert!(bench.charged(Pool::Mempool) < first);
    for number in 1..=20 {
        bench.up(peer(number));
        bench.push(peer(number), &junk);
    }
    let all = bench.charged(Pool::Mempool);
    assert!(all <= 32 * MIB, "{all}");
    assert!(bench.reports.is_empty(), "too much of what may be good is no fault");
    bench.hold(|_| false);
    while !bench.held.is_empty() {
        bench.run_one();
    }
    assert!(bench.chain.status().pool >= 800, "what was taken is checked in the end");
    for number in 1..=20 {
        bench.down(peer(number));
    }
    bench.up(peer(1));
    bench.push(peer(1), &[put(3_000, 0)]);
    assert!(bench.events.iter().any(|event| matches!(event, Event::TxAccepted { id } if *id == put(3_000, 0).id)));
}

#[test]
fn blocks_in_the_checks_are_bounded_for_each_peer_and_in_all_and_junk_costs_its_own_bytes_only() {
    let mut bench = Bench::ordinary();
    bench.hold(|job| matches!(job, Held::Compute(_)));
    let junk = |peer: u8, number: u8| Bytes::from(vec![peer, number, 1, 2, 3]);
    for number in 0..50 {
        bench.block(peer(1), junk(1, number));
    }
    assert_eq!((bench.held.len(), bench.verdicts.len()), (4, 46));
    for sender in 2..20 {
        for number in 0..10 {
            bench.block(peer(sender), junk(sender, number));
        }
    }
    assert_eq!(bench.held.len(), 16);
    assert!(bench.verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Ignore));
    while !bench.held.is_empty() {
        bench.run_one();
    }
    assert_eq!(bench.verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Reject).count(), 16);
    bench.block(peer(1), real_blocks(1).remove(0));
    while !bench.held.is_empty() {
        bench.run_one();
    }
    assert_eq!(bench.height(), 1);
}

#[test]
fn whoever_claims_everything_and_says_nothing_delays_nobody() {
    let blocks = real_blocks(6);
    let mut bench = Bench::ordinary();
    bench.up(peer(9));
    bench.tell(peer(9), 4);
    bench.pass(SECOND);
    let asked = *bench.asked.last().expect("the gap is asked for");
    bench.deliver(asked, &blocks[..2]);
    assert_eq!(bench.height(), 2);

    // Fresh identities that were never asked before come all the time; the proven peer goes first all the same.
    for liar in 10..30 {
        bench.up(peer(liar));
        bench.tell(peer(liar), u64::MAX);
    }
    bench.pass(SECOND);
    // It was asked for the next ones before they came; what follows is its own merit.
    let open = bench.asked.iter().copied().rfind(|asked| asked.whom == peer(9)).expect("asked");
    bench.deliver(open, &blocks[2..3]);
    let next = *bench.asked.last().expect("one more");
    assert_eq!(next.whom, peer(9), "{:?}", bench.asked);
    bench.deliver(next, &blocks[3..4]);
    assert_eq!(bench.height(), 4);

    // Now only liars claim more. Two of them are asked, and never answer.
    bench.asked.clear();
    bench.pass(SECOND * 5);
    assert!(!bench.asked.is_empty() && bench.asked.iter().all(|asked| asked.whom != peer(9)), "{:?}", bench.asked);
    // The proven peer gets on: it is asked at once, whatever is open.
    let start = bench.now.mono;
    bench.tell(peer(9), 6);
    bench.pass(SECOND * 2);
    let proven = bench.asked.iter().find(|asked| asked.whom == peer(9)).copied().expect("asked beside the others");
    assert!(proven.at.since(start) <= SECOND * 2);
    bench.deliver(proven, &blocks[4..]);
    assert_eq!(bench.height(), 6);
}

#[test]
fn an_answer_of_another_kind_is_no_answer_even_if_its_bytes_would_do() {
    let blocks = real_blocks(2);
    let mut bench = Bench::ordinary();
    bench.up(peer(1));
    bench.tell(peer(1), 2);
    bench.pass(SECOND * 2);
    let asked = *bench.asked.last().expect("the gap is asked for");
    bench.deliver_as(peerage_chain::proto::TRANSACTIONS, asked, &blocks);
    assert_eq!((bench.height(), &bench.reports[..]), (0, &[(peer(1), Fault::BadSyncAnswer)][..]));
}

#[test]
fn a_silent_peer_is_backed_up_after_two_seconds_and_rests_a_minute_even_if_it_comes_back() {
    let blocks = real_blocks(5);
    let mut bench = Bench::ordinary();
    let (silent, honest) = (peer(1), peer(2));
    for peer in [silent, honest] {
        bench.up(peer);
        bench.tell(peer, 5);
    }
    bench.pass(SECOND * 3);
    assert_eq!(bench.asked.iter().map(|asked| asked.whom).collect::<Vec<_>>(), [silent, honest]);
    assert!(bench.asked[1].at.since(bench.asked[0].at) <= SECOND * 2);
    bench.deliver(bench.asked[1], &blocks[..4]);
    assert_eq!(bench.height(), 4);
    bench.pass(SECOND * 7);
    bench.time_out(bench.asked[0]);
    assert_eq!(bench.reports, [(silent, Fault::UnansweredRequest)]);
    bench.asked.clear();
    bench.down(honest);
    bench.down(silent);
    bench.up(silent);
    let start = bench.now.mono;
    for _ in 0..70 {
        bench.tell(silent, u64::MAX);
        bench.pass(SECOND);
    }
    let again = bench.asked.first().expect("it may try again some day");
    assert!(again.at.since(start) >= SECOND * 55, "{}", again.at.since(start).as_secs());
}

#[test]
fn a_producer_that_lost_its_store_fetches_its_chain_before_it_makes_blocks() {
    let blocks = real_blocks(3);
    let mut bench = Bench::producer();
    // Alone it waits a moment for somebody to tell it better.
    bench.submit(1, &put(2, 0));
    bench.pass(SECOND * 2);
    assert_eq!(bench.height(), 0);
    bench.up(peer(1));
    bench.tell(peer(1), 3);
    bench.pass(SECOND * 5);
    assert_eq!(bench.height(), 0, "no second block 1");
    bench.deliver(bench.asked[0], &blocks);
    bench.pass(SECOND);
    assert_eq!(bench.height(), 4, "and goes on behind the last");
    // From now on it knows better than anybody.
    bench.up(peer(2));
    bench.tell(peer(2), u64::MAX);
    bench.submit(2, &put(3, 0));
    bench.pass(SECOND);
    assert_eq!(bench.height(), 5);
}

#[test]
fn a_producer_that_meets_a_block_of_its_own_that_it_does_not_know_makes_none_until_it_has_it() {
    let blocks = real_blocks(3);
    let mut bench = Bench::producer();
    bench.submit(1, &put(2, 0));
    bench.block(peer(1), blocks[2].clone());
    bench.pass(SECOND * 600);
    assert_eq!(bench.height(), 0, "however long it takes: this is no mere claim");
    bench.block(peer(1), blocks[0].clone());
    bench.block(peer(1), blocks[1].clone());
    bench.pass(SECOND * 4);
    assert_eq!(bench.height(), 4);
}

#[test]
fn a_producer_waits_neither_for_nobody_nor_for_a_liar_for_long() {
    let mut bench = Bench::producer();
    bench.submit(1, &put(2, 0));
    bench.pass(SECOND * 4);
    assert_eq!(bench.height(), 1, "the first of a new network has nobody to ask");

    let mut bench = Bench::producer();
    bench.up(peer(1));
    bench.tell(peer(1), 0);
    bench.submit(1, &put(2, 0));
    bench.pass(SECOND / 2);
    assert_eq!(bench.height(), 1, "somebody said that there is nothing");

    let mut bench = Bench::producer();
    bench.up(peer(1));
    bench.tell(peer(1), u64::MAX);
    bench.submit(1, &put(2, 0));
    bench.pass(SECOND * 25);
    assert_eq!(bench.height(), 0);
    bench.pass(SECOND * 10);
    assert_eq!(bench.height(), 1);
}

#[test]
fn whoever_passes_on_a_certified_block_that_does_not_execute_is_not_punished_for_it() {
    let mut bench = Bench::ordinary();
    bench.up(peer(1));
    let genesis_id = bench.chain.head().expect("open").id;
    for lie in [certified_lie(1, genesis_id), certified_lie(1, BlockId([5; 32]))] {
        bench.block(peer(1), lie);
    }
    let refused =
        bench.events.iter().filter(|event| matches!(event, Event::CertifiedBlockInvalid { height: 1, .. })).count();
    assert_eq!((refused, bench.height()), (2, 0));
    assert_eq!(bench.reports, []);
}

#[test]
fn answers_are_read_a_few_at_a_time_and_coming_back_is_no_way_to_get_more() {
    let mut bench = Bench::ordinary();
    bench.block(peer(50), real_blocks(1).remove(0));
    bench.hold(|job| matches!(job, Held::Store(StoreJob::Blocks { .. })));
    let mut wanted = Vec::new();
    for number in 1..=6 {
        bench.up(peer(number));
        for _ in 0..2 {
            wanted.push((peer(number), bench.request_blocks(peer(number))));
        }
    }
    assert_eq!(bench.held.len(), 4);
    assert!(bench.charged(Pool::Job) >= 4 * MIB, "what is read is paid for");
    assert_eq!(bench.reports, []);
    bench.down(peer(1));
    bench.up(peer(1));
    let third = bench.request_blocks(peer(1));
    assert_eq!(bench.reports, [(peer(1), Fault::Excess)]);
    assert!(bench.answers.contains(&(peer(1), third)));
    while !bench.held.is_empty() {
        assert!(bench.held.len() <= 4);
        bench.run_one();
    }
    for asked in &wanted[2..] {
        assert_eq!(bench.answers.iter().filter(|answer| *answer == asked).count(), 1);
    }
    assert_eq!(bench.charged(Pool::Job), 0);
    bench.request_blocks(peer(1));
    assert_eq!((bench.held.len(), bench.reports.len()), (1, 1));
}

#[test]
fn heads_are_counted_and_told_in_measure() {
    let mut bench = Bench::ordinary();
    bench.up(peer(1));
    for height in 0..100 {
        bench.tell(peer(1), height);
    }
    assert_eq!(bench.reports, []);
    for _ in 0..50 {
        bench.tell(peer(1), 7);
    }
    assert_eq!(bench.reports, [(peer(1), Fault::Excess)]);
    bench.pass(SECOND * 10);
    bench.tell(peer(1), 8);
    assert_eq!(bench.reports.len(), 1);

    // The other side of the same rule: catching up quickly is no reason to talk quickly.
    let mut bench = Bench::ordinary();
    bench.up(peer(1));
    bench.tell(peer(1), 200);
    bench.pass(SECOND);
    bench.deliver(bench.asked[0], &real_blocks(200));
    bench.pass(SECOND * 2);
    assert_eq!(bench.height(), 200);
    let heads: Vec<&Message> =
        bench.sent.iter().map(|(_, _, message)| message).filter(|message| message.command == HEAD).collect();
    assert!((2..=8).contains(&heads.len()), "{}", heads.len());
    let last: peerage_chain::proto::Summary =
        peerage_wire::payload::from_bytes(&heads[heads.len() - 1].head, 64).expect("canonical");
    assert_eq!(last.height, 200, "the last word is the truth");
}

/// When pushes went to a peer, and how many bytes in all.
fn pushed(bench: &Bench, to: NodeId) -> (Vec<Timestamp>, usize) {
    let pushes = bench.sent.iter().filter(|(_, peer, message)| *peer == to && message.command == TRANSACTIONS);
    let (times, bytes): (Vec<_>, Vec<_>) = pushes.map(|(at, _, message)| (*at, message.len())).unzip();
    (times, bytes.iter().sum())
}

#[test]
fn a_newcomer_is_given_the_pending_once_a_minute_however_often_it_comes() {
    let mut bench = Bench::ordinary();
    for number in 0..30 {
        let value = vec![1; 200_000];
        bench.submit(number.into(), &tx(number, 0, vec![Op::Put { key: vec![1], value, expected_version: 0 }]));
    }
    let start = bench.now.mono;
    for _ in 0..50 {
        bench.up(peer(1));
        bench.tell(peer(1), 0);
        bench.pass(SECOND);
        bench.down(peer(1));
    }
    let (_, bytes) = pushed(&bench, peer(1));
    assert!(bytes <= 3 * MIB, "one round each connection, once: {bytes}");
    bench.up(peer(1));
    bench.tell(peer(1), 0);
    bench.pass(SECOND * 120);
    let (times, _) = pushed(&bench, peer(1));
    assert!(times.iter().any(|at| at.since(start) >= SECOND * 60), "the rest follows");

    // Whoever stays gets it in pieces: 4 MiB, and what is left after a minute.
    bench.up(peer(2));
    bench.tell(peer(2), 0);
    bench.pass(SECOND * 50);
    let (_, bytes) = pushed(&bench, peer(2));
    assert!((3 * MIB..=4 * MIB + MIB / 2).contains(&bytes), "{bytes}");
    bench.pass(SECOND * 60);
    let (_, bytes) = pushed(&bench, peer(2));
    assert!(bytes >= 6_000_000, "{bytes}");
}

#[test]
fn an_acknowledgement_never_names_what_was_lost_while_it_was_written() {
    let mut bench = Bench::ordinary();
    let blocks = real_blocks(1);
    // The same account and nonce as the block's.
    let rival = tx(1, 0, vec![Op::Delete { key: vec![1], expected_version: 0 }]);
    bench.hold(|job| matches!(job, Held::Store(StoreJob::PersistOutbox(_))));
    bench.submit(1, &rival);
    bench.submit(2, &put(2, 0));
    assert_eq!(bench.held.len(), 1);
    bench.up(peer(1));
    bench.block(peer(1), blocks[0].clone());
    assert_eq!(bench.height(), 1);
    bench.hold(|_| false);
    bench.run_one();
    assert_eq!(bench.answer(1), Some(Err(Refusal::NonceUsed { next: 1 })));
    assert_eq!(bench.answer(2), Some(Ok(put(2, 0).id)));

    // The same transaction in the block is a promise kept.
    let mut bench = Bench::ordinary();
    bench.hold(|job| matches!(job, Held::Store(StoreJob::PersistOutbox(_))));
    bench.submit(1, &put(1, 0));
    bench.block(peer(1), blocks[0].clone());
    bench.hold(|_| false);
    bench.run_one();
    assert_eq!(bench.answer(1), Some(Ok(put(1, 0).id)));
}

#[test]
fn a_message_full_of_nothing_is_one_fault() {
    let mut bench = Bench::ordinary();
    bench.up(peer(1));
    let heads = peerage_wire::payload::to_bytes(&vec![0_u32; 4096]);
    bench.message(peer(1), Message::with_body(TRANSACTIONS, heads, Vec::new()));
    assert_eq!(bench.reports, [(peer(1), Fault::UndecodablePayload)]);
    let junk = vec![Bytes::from_static(b"junk"); 4096];
    bench.message(peer(1), batch(TRANSACTIONS, &junk));
    assert_eq!(bench.reports[1..], [(peer(1), Fault::InvalidTransaction)], "the rest is not worth reading");
}

/// What it said of clocks: at which height, and whether the block's time was the later one.
fn told_of_clocks(bench: &Bench) -> Vec<(u64, bool)> {
    let told = bench.events.iter().filter_map(|event| match event {
        Event::ClockDiffers { height, ahead, .. } => Some((*height, *ahead)),
        _ => None,
    });
    told.collect()
}

#[test]
fn an_old_block_that_is_told_again_says_nothing_about_the_clock_of_a_node_that_catches_up() {
    let blocks = real_blocks(5);
    // Three years old, which anybody may keep and tell again: above what the node has, or just there.
    for replayed in [3, 0] {
        let mut bench = Bench::ordinary();
        bench.up(peer(1));
        bench.up(peer(2));
        bench.tell(peer(2), 5);
        bench.block(peer(1), blocks[replayed].clone());
        assert_eq!(told_of_clocks(&bench), []);
    }
    // Nor does it take a peer that says how far the others are.
    let mut bench = Bench::ordinary();
    bench.up(peer(1));
    bench.block(peer(1), blocks[3].clone());
    assert_eq!(told_of_clocks(&bench), []);
}

#[test]
fn a_word_that_blocks_lie_behind_the_clock_does_not_hush_the_one_that_they_lie_ahead() {
    let mut bench = Bench::ordinary();
    let blocks = real_blocks(5);
    bench.up(peer(1));
    bench.tell(peer(1), 1);
    bench.block(peer(1), blocks[0].clone());
    bench.block(peer(1), blocks[1].clone());
    assert_eq!(told_of_clocks(&bench), [(1, false)], "once an hour");
    // Now the node's own clock is set back by some years.
    bench.now.wall = UnixMillis(1_700_000_000_000);
    bench.block(peer(1), blocks[2].clone());
    bench.block(peer(1), blocks[3].clone());
    assert_eq!(told_of_clocks(&bench), [(1, false), (3, true)], "once an hour");
    assert_eq!(bench.height(), 4);
}
