use peerage_core::{Class, CloseReason, Closed, ConnectionCommand, ConnectionEvent, DropReason, Message, RequestError};
use peerage_transport::proto::connection::credit::{cost, window};
use peerage_wire::limits::MAX_CONTENT;

use crate::harness::{A, B, HAVE, ITEM, Pair, SECOND, STRANGE, SYNC, VOTE, credit_of, message, number};

#[test]
pub(crate) fn a_class_that_is_not_consumed_stalls_and_no_other() {
    let mut pair = Pair::connected(1);
    pair.sides[B].consumes = false;
    let each = 60_000;
    let fitting = window(Class::Signal) / cost(each);
    let sent = fitting as u64 + 20;
    (0..sent).for_each(|count| pair.notify(A, message(HAVE, count, each)));
    pair.run();
    let stalled: Vec<ConnectionEvent> = pair.sides[B].events.drain(..).collect();
    assert_eq!(stalled.len(), fitting, "the window and nothing beyond");

    for command in [VOTE, ITEM, SYNC] {
        pair.notify(A, message(command, 77, 1000));
    }
    pair.run();
    assert_eq!(pair.messages(B).len(), 3, "the other classes flow");

    // Too little to be worth a message; then enough.
    let mut stalled = stalled.into_iter();
    let consume = |pair: &mut Pair, event: ConnectionEvent| {
        let (class, bytes) = credit_of(&event).expect("a message");
        pair.command(B, ConnectionCommand::Consumed { class, bytes });
        pair.run();
    };
    consume(&mut pair, stalled.next().expect("first"));
    assert!(pair.messages(B).is_empty());
    stalled.for_each(|event| consume(&mut pair, event));
    pair.sides[B].consumes = true;
    let rest: Vec<_> = core::mem::take(&mut pair.sides[B].events).into_iter().collect();
    rest.into_iter().for_each(|event| consume(&mut pair, event));
    assert_eq!(pair.sides[A].account.owed(), 0, "everything was sent in the end");
}

#[test]
pub(crate) fn the_longest_message_never_waits_for_ever() {
    // Leave as much unreturned as can be left: just under a quarter of the window, in each class.
    for (class, command, longest) in
        [(Class::Consensus, VOTE, 256 << 10), (Class::Signal, HAVE, 64 << 10), (Class::Bulk, SYNC, MAX_CONTENT)]
    {
        let mut pair = Pair::connected(2);
        let (mut spent, mut count) = (0, 0);
        while spent + cost(1000) < window(class) / 4 {
            pair.notify(A, message(command, count, 1000));
            spent += cost(1000);
            count += 1;
        }
        pair.run();
        assert_eq!(pair.messages(B).len() as u64, count);
        for _ in 0..6 {
            pair.notify(A, message(command, 5, longest));
            pair.run();
            assert_eq!(pair.messages(B).len(), 1, "{class:?}");
        }
    }
}

#[test]
pub(crate) fn unknown_commands_are_skipped_counted_and_cost_no_credit() {
    let mut pair = Pair::connected(3);
    pair.sides[B].consumes = false;
    // Four windows of it.
    for count in 0..40 {
        pair.notify(A, message(STRANGE, count, 60_000));
    }
    pair.notify(A, message(HAVE, 41, 10));
    pair.run();
    let skipped = |event: &ConnectionEvent| if let ConnectionEvent::Skipped { count, .. } = event { *count } else { 0 };
    assert_eq!(pair.sides[B].events.iter().map(skipped).sum::<u64>(), 40);
    let last = pair.sides[B].events.pop_back();
    assert!(matches!(&last, Some(ConnectionEvent::Message { message, .. }) if number(message) == 41), "{last:?}");
    drop(last);
    assert_eq!(pair.sides[B].config.budget.report().resident, 0);
}

#[test]
pub(crate) fn what_is_too_long_for_its_command_is_not_sent() {
    let mut pair = Pair::connected(5);
    let long = message(HAVE, 1, (64 << 10) + 1);
    assert!(!pair.sides[A].config.allows(&long));
    pair.notify(A, long.clone());
    pair.request(A, 9, long, SECOND);
    pair.run();
    assert_eq!(pair.responses(A), [(9, Err(RequestError::Dropped(DropReason::TooLong)))]);
    assert!(pair.messages(B).is_empty());
    assert_eq!(pair.sides[A].account.owed(), 0);
    assert!(!pair.sides[A].config.allows(&Message::new(peerage_transport::proto::connection::commands::PING, vec![])));
}

#[test]
pub(crate) fn a_message_longer_than_the_receiver_allows_ends_the_connection() {
    let mut b = crate::harness::config(2);
    b.limits = std::sync::Arc::new(peerage_wire::Limits::new(&[&[(HAVE, 100)]]));
    let mut pair = Pair::connected_with(6, crate::harness::config(1), b);
    pair.notify(A, message(HAVE, 1, 100));
    pair.notify(A, message(HAVE, 2, 101));
    pair.run();
    let reason = CloseReason::MessageTooLong;
    assert_eq!(pair.closed(), [Closed::by_them(reason), Closed::by_us(reason)]);
}
