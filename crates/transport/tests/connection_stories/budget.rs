use core::time::Duration;

use peerage_core::{
    Budget, CloseReason, Closed, Connection, ConnectionCommand, ConnectionEvent, DropReason, Pool, RequestError,
};

use crate::{
    harness::{A, B, HAVE, ITEM, Pair, SECOND, config, message, number},
    known_key::{id, key_of},
};

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

#[test]
fn what_a_peer_makes_us_hold_stands_in_its_account_and_its_floor_is_there_when_others_took_the_rest() {
    let mut b = config(2);
    b.budget = Budget::with_floors(3_200_000, 10);
    let mut pair = Pair::connected_with(4, config(1), b);
    let budget = pair.sides[B].config.budget.clone();
    let account = Budget::account(1 << 20);
    budget.seat(&account);
    pair.command(B, ConnectionCommand::Account(account.clone()));
    let taken = |pool| (0..).map_while(|_| budget.charge(pool, 1_000).ok()).collect::<Vec<_>>();
    let _all = (taken(Pool::Reassembly), taken(Pool::Inbox));

    // 20,000 bytes are a tenth of a quarter of what those two pools have.
    pair.notify(A, message(ITEM, 1, 19_000));
    pair.run();
    assert_eq!(account.held(Pool::Inbox), 19_000 + 256);
    assert_eq!(pair.messages(B).iter().map(number).collect::<Vec<_>>(), [1]);
    assert_eq!((account.held(Pool::Inbox), account.held(Pool::Reassembly)), (0, 0), "the stack is done with it");
    pair.notify(A, message(ITEM, 2, 25_000));
    pair.run();
    assert!(pair.messages(B).is_empty() && !pair.sides[B].connection.wants_bytes(), "what is beyond it has to wait");
}

#[test]
fn who_pays_may_be_told_while_nobody_has_shown_to_be_there() {
    let mut b = config(2);
    b.budget = Budget::with_floors(3_200_000, 10);
    let mut pair = Pair::knowing(4, config(1), b, Some(id(2)), Some(key_of(&config(2))));
    let budget = pair.sides[B].config.budget.clone();
    let account = Budget::account(1 << 20);
    budget.seat(&account);
    let first = pair.transmit(A, 0);
    pair.deliver(B, &first);
    pair.command(B, ConnectionCommand::Account(account.clone()));
    assert!(!pair.established(B), "keys stand, and whoever made message 1 may be elsewhere");
    pair.run();
    let taken = |pool| (0..).map_while(|_| budget.charge(pool, 1_000).ok()).collect::<Vec<_>>();
    let _all = (taken(Pool::Reassembly), taken(Pool::Inbox));
    pair.notify(A, message(ITEM, 1, 19_000));
    pair.run();
    assert_eq!(account.held(Pool::Inbox), 19_000 + 256);
}

#[test]
fn what_waits_is_dropped_when_the_runner_says_so_and_each_of_it_is_told() {
    let mut pair = pair(5);
    for (command, number) in [(HAVE, 1), (ITEM, 2), (ITEM, 3)] {
        pair.notify(A, message(command, number, 500));
    }
    pair.request(A, 7, message(ITEM, 4, 500), SECOND);
    pair.command(A, ConnectionCommand::Shed { bytes: 2 * 500 });
    let told = core::mem::take(&mut pair.sides[A].events);
    let dropped = |event: &ConnectionEvent| match event {
        ConnectionEvent::Unsent { command, reason: DropReason::Shed, count } => Some((Some(*command), *count)),
        ConnectionEvent::Response { id, result: Err(RequestError::Dropped(DropReason::Shed)) } => Some((None, *id)),
        _ => None,
    };
    assert_eq!(told.iter().filter_map(dropped).collect::<Vec<_>>(), [(Some(ITEM), 1), (None, 7)]);
    pair.run();
    assert_eq!(
        pair.messages(B).iter().map(number).collect::<Vec<_>>(),
        [1, 2],
        "those that were there first, and higher"
    );
    pair.pass(10 * SECOND);
    assert!(pair.responses(A).is_empty(), "a request ends once");
}

#[test]
fn who_is_not_listened_to_is_not_read_and_not_blamed_for_it() {
    let mut pair = pair(6);
    pair.notify(A, message(ITEM, 1, 50_000));
    let half = pair.transmit(A, 20_000);
    pair.deliver(B, &half);
    pair.command(B, ConnectionCommand::Listen(false));
    assert!(!pair.sides[B].connection.wants_bytes());
    // A message that stands still for so long would end the connection.
    pair.pass(20 * SECOND);
    assert!(!pair.is_closed(B));
    pair.command(B, ConnectionCommand::Listen(true));
    pair.run();
    assert_eq!(pair.messages(B).iter().map(number).collect::<Vec<_>>(), [1]);
}

#[test]
fn who_is_listened_to_again_has_a_whole_window_to_go_on() {
    let mut pair = pair(7);
    pair.notify(A, message(ITEM, 1, 50_000));
    let half = pair.transmit(A, 20_000);
    pair.deliver(B, &half);
    pair.command(B, ConnectionCommand::Listen(false));
    // The rest does not come, whoever listens.
    let silent = |pair: &mut Pair, time| {
        let end = pair.now.mono + time;
        while let Some(at) = pair.sides[B].connection.next_timeout().filter(|at| *at <= end) {
            pair.now.mono = at;
            pair.sides[B].connection.handle_timeout(pair.now);
            pair.drain(B);
        }
        pair.now.mono = end;
    };
    silent(&mut pair, 19 * SECOND);
    pair.command(B, ConnectionCommand::Listen(true));
    silent(&mut pair, 9 * SECOND);
    assert!(!pair.is_closed(B), "it has had nine seconds only");
    silent(&mut pair, SECOND);
    assert_eq!(pair.closed_at(B), Closed::by_us(CloseReason::TooSlow));
}
