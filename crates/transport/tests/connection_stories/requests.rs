use core::time::Duration;

use peerage_core::{CloseReason, Closed, Connection, ConnectionCommand, ConnectionEvent, RequestError};

use crate::harness::{A, B, HAVE, Pair, SECOND, SYNC, message};

/// Takes the wire ids of the requests that arrived.
fn asked(pair: &mut Pair, at: usize) -> Vec<u64> {
    let events = core::mem::take(&mut pair.sides[at].events);
    let ids = events.into_iter().filter_map(|event| match event {
        ConnectionEvent::Request { id, .. } => Some(id),
        _ => None,
    });
    ids.collect()
}

#[test]
pub(crate) fn answers_find_their_requests_in_any_order_and_in_both_directions() {
    let mut pair = Pair::connected(1);
    for name in [70, 71, 72] {
        pair.request(A, name, message(HAVE, name, 50), SECOND);
    }
    pair.request(B, 70, message(SYNC, 80, 50), SECOND);
    pair.run();
    let (ids, back) = (asked(&mut pair, B), asked(&mut pair, A));
    assert_eq!((ids.len(), back.len()), (3, 1));
    for (id, number) in [(ids[2], 2), (ids[0], 0), (ids[1], 1)] {
        pair.respond(B, id, message(HAVE, number, 20_000));
    }
    pair.respond(A, back[0], message(SYNC, 3, 10));
    pair.run();
    let ends = pair.responses(A);
    assert_eq!(ends, [(72, 2), (70, 0), (71, 1)].map(|(name, number)| (name, Ok(message(HAVE, number, 20_000)))));
    assert_eq!(pair.responses(B), [(70, Ok(message(SYNC, 3, 10)))]);
}

#[test]
pub(crate) fn no_id_is_used_twice_whatever_became_of_its_request() {
    let mut pair = Pair::connected(6);
    let mut seen = Vec::new();
    for round in 0..20 {
        // One is answered, one times out, one stays open. The runner's names for them come again, ids do not.
        pair.request(A, 70, message(HAVE, round, 50), 60 * SECOND);
        pair.request(A, 71, message(HAVE, round, 50), SECOND);
        pair.request(A, 1000 + round, message(HAVE, round, 50), 60 * SECOND);
        pair.run();
        let ids = asked(&mut pair, B);
        pair.respond(B, ids[0], message(HAVE, round, 50));
        pair.pass(2 * SECOND);
        let ends = pair.responses(A);
        assert_eq!(ends, [(70, Ok(message(HAVE, round, 50))), (71, Err(RequestError::Timeout))]);
        seen.extend(ids);
    }
    let all = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!((all, seen.len()), (60, 60), "of a late answer nobody must think that it is one to a later request");
}

#[test]
pub(crate) fn a_late_answer_is_dropped_and_a_second_one_too() {
    let mut pair = Pair::connected(2);
    pair.request(A, 1, message(HAVE, 1, 50), SECOND);
    pair.request(A, 2, message(HAVE, 2, 50), 3 * SECOND);
    pair.pass(2 * SECOND);
    assert_eq!(pair.responses(A), [(1, Err(RequestError::Timeout))]);
    let ids = asked(&mut pair, B);
    for id in [ids[0], ids[1], ids[1], 999] {
        pair.respond(B, id, message(HAVE, 5, 60_000));
    }
    pair.pass(10 * SECOND);
    assert_eq!(pair.responses(A), [(2, Ok(message(HAVE, 5, 60_000)))]);

    // Nor do they cost credit, although nobody consumes them.
    pair.sides[A].consumes = false;
    for _ in 0..40 {
        pair.respond(B, 999, message(HAVE, 5, 60_000));
    }
    pair.run();
    assert_eq!(pair.sides[B].account.owed(), 0);
    assert_eq!(pair.sides[A].config.budget.report().resident, 0);
}

#[test]
pub(crate) fn a_request_that_times_out_in_its_queue_is_never_sent() {
    let mut pair = Pair::connected(3);
    pair.request(A, 1, message(HAVE, 1, 50), SECOND);
    pair.request(A, 2, message(HAVE, 2, 50), 5 * SECOND);
    pair.now.mono = pair.now.mono + 2 * SECOND;
    pair.sides[A].connection.handle_timeout(pair.now);
    pair.run();
    assert_eq!(pair.responses(A), [(1, Err(RequestError::Timeout))]);
    assert_eq!(asked(&mut pair, B).len(), 1);
    assert_eq!(pair.sides[A].account.owed(), 0);
}

#[test]
pub(crate) fn a_long_request_that_times_out_half_sent_is_sent_to_its_end() {
    let mut pair = Pair::connected(4);
    pair.request(A, 1, message(SYNC, 1, 100_000), SECOND);
    pair.notify(A, message(SYNC, 2, 100));
    let first = pair.transmit(A, 0);
    pair.deliver(B, &first);
    pair.pass(2 * SECOND);
    assert_eq!(pair.responses(A), [(1, Err(RequestError::Timeout))]);
    let arrived: Vec<_> = core::mem::take(&mut pair.sides[B].events).into_iter().collect();
    assert!(
        matches!(&*arrived, [ConnectionEvent::Request { .. }, ConnectionEvent::Message { .. }]),
        "the receiver's reassembly is not left half-way: {arrived:?}"
    );
}

#[test]
pub(crate) fn open_requests_fail_before_the_end_is_told() {
    type Death = fn(&mut Pair);
    let deaths: [(Death, Closed); 3] = [
        (
            |pair| pair.command(A, ConnectionCommand::Close(CloseReason::Requested)),
            Closed::by_us(CloseReason::Requested),
        ),
        (
            |pair| pair.command(B, ConnectionCommand::Close(CloseReason::Shutdown)),
            Closed::by_them(CloseReason::Shutdown),
        ),
        (
            |pair| pair.sides[A].connection.handle_stream_end(pair.now, CloseReason::StreamError),
            Closed::by_network(CloseReason::StreamError),
        ),
    ];
    for (death, closed) in deaths {
        let mut pair = Pair::connected(5);
        for name in [8, 9] {
            pair.request(A, name, message(HAVE, 1, 50), Duration::from_secs(60));
        }
        pair.run();
        death(&mut pair);
        pair.run();
        assert_eq!(pair.closed_at(A), closed);
        let failed = Err(RequestError::Closed(closed));
        assert_eq!(pair.responses(A), [(8, failed.clone()), (9, failed)]);
    }
}
