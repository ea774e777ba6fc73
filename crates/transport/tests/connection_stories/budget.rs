use core::time::Duration;

use peerage_core::{Budget, CloseReason, Closed, Connection, Pool};

use crate::harness::{A, B, HAVE, ITEM, Pair, SECOND, config, message, number};

fn pair(seed: u64) -> Pair {
    let mut b = config(2);
    b.budget = Budget::new(100_000);
    Pair::connected_with(seed, config(1), b)
}

#[test]
pub(crate) fn without_memory_nothing_is_read_until_there_is_some() {
    let mut pair = pair(1);
    let taken = pair.sides[B].config.budget.charge(Pool::Table, 90_000).expect("all is free");
    for (command, count, len) in [(HAVE, 1, 500), (ITEM, 2, 30_000), (HAVE, 3, 500)] {
        pair.notify(A, message(command, count, len));
        pair.run();
    }
    assert_eq!(pair.messages(B).iter().map(number).collect::<Vec<_>>(), [1]);
    assert!(!pair.sides[B].connection.wants_bytes());

    // Bytes that come nevertheless are kept.
    let more = core::mem::take(&mut pair.sides[B].wire);
    pair.deliver(B, &more);
    pair.pass(2 * SECOND);
    assert!(pair.messages(B).is_empty() && !pair.sides[B].connection.wants_bytes());
    assert_eq!(pair.sides[B].config.budget.report().pools[Pool::Table as usize].1, 90_000);

    drop(taken);
    pair.pass(Duration::from_millis(50));
    assert!(pair.sides[B].connection.wants_bytes());
    assert_eq!(pair.messages(B).iter().map(number).collect::<Vec<_>>(), [2, 3], "nothing is lost, nothing comes twice");
    pair.pass(100 * SECOND);
    assert!(!pair.is_closed(A) && !pair.is_closed(B));
}

#[test]
pub(crate) fn without_memory_for_fifteen_seconds_the_connection_ends() {
    let mut pair = pair(2);
    let start = pair.now.mono;
    let _taken = pair.sides[B].config.budget.charge(Pool::Table, 99_900).expect("all is free");
    pair.notify(A, message(HAVE, 1, 500));
    pair.pass(15 * SECOND - Duration::from_millis(1));
    assert!(!pair.is_closed(B));
    pair.pass(Duration::from_millis(60));
    let reason = CloseReason::OverBudget;
    assert_eq!(pair.closed(), [Closed::by_them(reason), Closed::by_us(reason)]);
    assert!(pair.now.mono.since(start) < 16 * SECOND);
}

#[test]
pub(crate) fn a_connection_that_ends_gives_back_what_it_held() {
    let mut pair = pair(3);
    pair.notify(A, message(ITEM, 1, 90_000));
    let half = pair.transmit(A, 40_000);
    pair.deliver(B, &half);
    assert!(pair.sides[B].config.budget.report().resident > 40_000);
    pair.sides[B].connection.handle_stream_end(pair.now, CloseReason::StreamError);
    assert_eq!(pair.sides[B].config.budget.report().resident, 0);
    assert_eq!(pair.sides[A].account.owed(), 90_000, "A does not know yet");
    pair.sides[A].connection.handle_stream_end(pair.now, CloseReason::StreamError);
    assert_eq!((pair.sides[A].account.owed(), pair.sides[A].outbound_budget.report().resident), (0, 0));
}
