use peerage_wire::limits::{MAX_CONTENT, MAX_PLAINTEXT, SEALED_OVERHEAD};

use crate::harness::{A, B, HAVE, ITEM, Pair, SYNC, VOTE, message, number};

const RECORD: usize = MAX_PLAINTEXT + SEALED_OVERHEAD;

#[test]
fn a_vote_waits_for_one_record_of_a_long_message_at_most() {
    let mut pair = Pair::connected(1);
    pair.notify(A, message(SYNC, 1, MAX_CONTENT));
    for _ in 0..10 {
        let record = pair.transmit(A, 0);
        assert_eq!(record.len(), RECORD, "pieces fill their records");
        pair.deliver(B, &record);
    }
    pair.notify(A, message(ITEM, 2, 30_000));
    pair.notify(A, message(VOTE, 3, 200));
    let record = pair.transmit(A, 0);
    assert_eq!(record.len(), RECORD);
    pair.deliver(B, &record);
    assert_eq!(pair.messages(B).iter().map(number).collect::<Vec<_>>(), [3], "the vote came with the very next record");
    pair.run();
    assert_eq!(pair.messages(B).iter().map(number).collect::<Vec<_>>(), [2, 1], "gossip before bulk");
}

#[test]
fn many_small_messages_share_records_without_a_timer() {
    let mut pair = Pair::connected(2);
    (0..100).for_each(|count| pair.notify(A, message(HAVE, count, 100)));
    let bytes = pair.transmit(A, usize::MAX);
    assert!(bytes.len() < 100 * 110 + SEALED_OVERHEAD, "{} bytes: one record", bytes.len());
    assert!(bytes.len() < RECORD);
    pair.deliver(B, &bytes);
    assert_eq!(pair.messages(B).len(), 100);
}

#[test]
fn a_message_that_fits_a_record_is_not_cut() {
    let mut pair = Pair::connected(3);
    for count in 0..3 {
        pair.notify(A, message(ITEM, count, 10_000));
    }
    for count in 0..3 {
        let record = pair.transmit(A, 0);
        assert!(record.len() < 10_100, "{}", record.len());
        pair.deliver(B, &record);
        assert_eq!(pair.messages(B).iter().map(number).collect::<Vec<_>>(), [count]);
    }
}

#[test]
fn the_limit_of_what_is_written_is_kept_to_a_record() {
    let mut pair = Pair::connected(4);
    pair.notify(A, message(SYNC, 1, MAX_CONTENT));
    for limit in [0, 1, RECORD, RECORD + 1, 100_000] {
        let bytes = pair.transmit(A, limit);
        assert!(bytes.len() < limit.max(1) + RECORD && bytes.len() >= limit, "{} for {limit}", bytes.len());
    }
}

#[test]
fn the_longest_message_arrives_intact_and_frees_its_room_when_it_is_sent() {
    for (seed, split) in [(5, 0), (6, 1), (7, MAX_CONTENT / 2), (8, MAX_CONTENT)] {
        let mut pair = Pair::connected(seed);
        let mut sent = message(SYNC, 1, MAX_CONTENT);
        let all = [&sent.head[..], sent.body.as_deref().unwrap_or_default()].concat();
        assert_eq!(all.len(), MAX_CONTENT);
        sent.head = all[..split].to_vec().into();
        sent.body = Some(all[split..].to_vec().into());
        pair.notify(A, sent.clone());
        assert_eq!(pair.sides[A].account.owed(), MAX_CONTENT);
        pair.run();
        assert!(pair.messages(B) == [sent], "head of {split} bytes");
        assert_eq!((pair.sides[A].account.owed(), pair.sides[A].outbound_budget.report().resident), (0, 0));
        assert_eq!(pair.sides[B].config.budget.report().resident, 0, "nothing is left of it");
    }
}

#[test]
fn empty_messages_arrive_too() {
    let mut pair = Pair::connected(9);
    let empty = peerage_core::Message::new(HAVE, vec![]);
    let with_body = peerage_core::Message::with_body(HAVE, vec![], vec![]);
    pair.notify(A, empty.clone());
    pair.notify(A, with_body.clone());
    pair.run();
    assert_eq!(pair.messages(B), [empty, with_body], "no body and an empty one are not the same");
}
