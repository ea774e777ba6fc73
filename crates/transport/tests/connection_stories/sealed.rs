use peerage_core::{CloseReason, Closed};
use peerage_wire::limits::SEALED_OVERHEAD;

use crate::harness::{A, B, HAVE, ITEM, Pair, SECOND, config, message, number};

#[test]
fn no_byte_of_a_sealed_record_can_be_changed() {
    for at in 0..80 {
        let mut pair = Pair::connected(at);
        pair.notify(A, message(HAVE, 1, 40));
        let mut bytes = pair.transmit(A, usize::MAX);
        assert!(bytes.len() > 60 && bytes.len() < 80, "{} bytes", bytes.len());
        let Some(byte) = bytes.get_mut(at as usize) else { return };
        *byte ^= 1 << (at % 8);
        pair.deliver(B, &bytes);
        if at < 2 && !pair.is_closed(B) {
            // The record became longer: it takes more bytes to see that it is none.
            pair.notify(A, message(ITEM, 2, 70_000));
            let more = pair.transmit(A, usize::MAX);
            pair.deliver(B, &more);
        }
        pair.run();
        let [a, b] = pair.closed();
        let reason = b.reason;
        assert_eq!([a, b], [Closed::by_them(reason), Closed::by_us(reason)], "byte {at}");
        let length = at < 2 && reason == CloseReason::RecordTooLong;
        assert!(reason == CloseReason::BadRecord || length, "byte {at}: {reason}");
        assert!(pair.sides[B].events.is_empty(), "byte {at}: a changed record delivers nothing");
    }
}

#[test]
fn a_record_cannot_be_replayed_dropped_or_reflected() {
    type Change = fn(&[Vec<u8>; 2]) -> Vec<u8>;
    let change: [Change; 2] = [|records| [&*records[0], &*records[0]].concat(), |records| records[1].clone()];
    for (case, change) in change.into_iter().enumerate() {
        let mut pair = Pair::connected(1);
        let records = [1, 2].map(|number| {
            pair.notify(A, message(HAVE, number, 40));
            pair.transmit(A, usize::MAX)
        });
        pair.deliver(B, &change(&records));
        assert_eq!(pair.closed_at(B), Closed::by_us(CloseReason::BadRecord), "case {case}");
    }
    let mut pair = Pair::connected(1);
    pair.notify(A, message(HAVE, 1, 40));
    let record = pair.transmit(A, usize::MAX);
    pair.deliver(A, &record);
    assert_eq!(pair.closed_at(A), Closed::by_us(CloseReason::BadRecord), "its own record");
}

#[test]
fn keys_change_on_the_way_and_nobody_notices_but_who_counts_otherwise() {
    let small = |number, every| {
        let mut config = config(number);
        config.rekey_every = every;
        config
    };
    let mut pair = Pair::connected_with(2, small(1, 16), small(2, 16));
    for count in 0..500 {
        let from = if count % 3 == 0 { B } else { A };
        pair.notify(from, message(HAVE, count, 20));
        pair.run();
        let arrived = pair.messages(1 - from);
        assert_eq!(arrived.iter().map(number).collect::<Vec<_>>(), [count], "each in a record of its own");
    }

    let mut pair = Pair::connected_with(2, small(1, 16), small(2, 1 << 16));
    for count in 0..16 {
        pair.notify(A, message(HAVE, count, 20));
        pair.run();
    }
    assert_eq!(pair.closed_at(B), Closed::by_us(CloseReason::BadRecord), "so the key did change");
}

#[test]
fn the_first_real_rekey_is_crossed() {
    let mut pair = Pair::connected(3);
    // One record each: no credit is ever short, since B consumes.
    for count in 0..(1 << 16) + 10 {
        pair.notify(A, message(HAVE, count, 8));
        let record = pair.transmit(A, usize::MAX);
        pair.deliver(B, &record);
        if count % 500 == 0 {
            pair.run();
        }
    }
    pair.run();
    assert_eq!(pair.messages(B).len(), (1 << 16) + 10);
}

#[test]
fn an_end_is_told_under_keys_and_only_once() {
    let mut pair = Pair::connected(4);
    pair.command(A, peerage_core::ConnectionCommand::Close(CloseReason::Surplus));
    pair.command(A, peerage_core::ConnectionCommand::Close(CloseReason::Banned));
    let last = pair.transmit(A, usize::MAX);
    assert_eq!(last.len(), SEALED_OVERHEAD + 1);
    pair.deliver(B, &last);
    pair.run();
    pair.pass(100 * SECOND);
    assert_eq!(pair.closed(), [Closed::by_us(CloseReason::Surplus), Closed::by_them(CloseReason::Surplus)]);
}
