//! Compressed bodies: between whom, of what, once for all, and what they cost.
#![cfg(feature = "lz4")]

use std::sync::Arc;

use peerage_core::{
    CloseReason, Closed, ClosedBy, Connection as _, ConnectionCommand, ConnectionEvent, Message, Outbound, Pool,
};
use peerage_transport::proto::connection::{COMPRESSION, ConnectionConfig, credit::cost};
use peerage_wire::{Limits, limits::MAX_CONTENT};

use crate::harness::{A, B, HAVE, ITEM, LIMITS, Pair, SYNC, VOTE, config, credit_of};

/// A side that offers to take compressed bodies or not.
fn side(number: u8, offers: bool) -> ConnectionConfig {
    let mut config = config(number);
    config.features = if offers { COMPRESSION } else { 0 };
    config
}

fn pair(seed: u64, offers: [bool; 2]) -> Pair {
    Pair::connected_with(seed, side(1, offers[A]), side(2, offers[B]))
}

fn text(command: peerage_core::Command, len: usize) -> Message {
    let body: Vec<u8> = b"a block repeats what stood in the block before; ".iter().copied().cycle().take(len).collect();
    Message::with_body(command, &b"head"[..], body)
}

/// The bytes of the stream, and the message as it came out at the other end.
fn through(pair: &mut Pair, message: &Message) -> (usize, Message) {
    pair.notify(A, message.clone());
    let bytes = pair.transmit(A, usize::MAX);
    pair.deliver(B, &bytes);
    (bytes.len(), pair.messages(B).pop().expect("it arrived"))
}

fn told(pair: &Pair, at: usize) -> Vec<(bool, u64, u64)> {
    let packed = |event: &ConnectionEvent| match event {
        ConnectionEvent::Packed { received, bytes, packed } => Some((*received, *bytes, *packed)),
        _ => None,
    };
    pair.sides[at].events.iter().filter_map(packed).collect()
}

#[test]
fn a_body_goes_compressed_only_if_both_offered_it() {
    let message = text(ITEM, 100_000);
    for (seed, offers) in [[true, true], [true, false], [false, true], [false, false]].into_iter().enumerate() {
        let mut pair = pair(seed as u64, offers);
        pair.notify(A, message.clone());
        let bytes = pair.transmit(A, usize::MAX);
        pair.deliver(B, &bytes);
        let (bytes, heard) = (bytes.len(), told(&pair, B));
        assert_eq!(pair.messages(B), std::slice::from_ref(&message));
        let agreed = offers == [true, true];
        assert_eq!(bytes < 5_000, agreed, "{bytes} bytes of a hundred thousand, {offers:?}");
        assert_eq!(told(&pair, A).len(), usize::from(agreed));
        if agreed {
            let [(false, 100_000, sent)] = told(&pair, A)[..] else { panic!("{:?}", told(&pair, A)) };
            assert_eq!(heard, [(true, 100_000, sent)]);
            assert!(sent < 5_000);
        }
    }
}

#[test]
fn what_is_not_public_goes_as_it_is_and_so_does_what_saves_nothing() {
    let mut pair = pair(5, [true, true]);
    let (bytes, arrived) = through(&mut pair, &text(VOTE, 50_000));
    assert_eq!((arrived, bytes > 50_000), (text(VOTE, 50_000), true));
    let (bytes, _) = through(&mut pair, &text(HAVE, 5_000));
    assert!(bytes > 5_000);
    let (bytes, _) = through(&mut pair, &text(ITEM, 1024));
    assert!(bytes > 1024, "too short to be worth it");
    let noise: Vec<u8> =
        (0..50_000_u64).map(|n| (n * n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[2]).collect();
    let noise = Message::with_body(ITEM, &b"head"[..], noise);
    assert_eq!(through(&mut pair, &noise).1, noise);
    let head = Message::new(ITEM, vec![0; 50_000]);
    let (bytes, arrived) = through(&mut pair, &head);
    assert_eq!((arrived, bytes > 50_000), (head, true), "a head goes as it is");
    assert!(told(&pair, A).is_empty());
}

#[test]
fn one_message_to_many_is_compressed_once_and_paid_for_until_the_last_has_it() {
    let mut pairs: Vec<Pair> = (0..10).map(|seed| pair(10 + seed, [true, true])).collect();
    let message = text(SYNC, 200_000);
    let budget = pairs[0].sides[A].outbound_budget.clone();
    let resident = Arc::new(budget.charge(Pool::Outbound, message.len()).expect("room").into());
    for pair in &mut pairs {
        let owed = pair.sides[A].account.owe(cost(message.len())).expect("room");
        let outbound = Outbound { message: message.clone(), resident: Arc::clone(&resident), owed };
        let now = pair.now;
        pair.sides[A].connection.handle_command(now, ConnectionCommand::Notify(outbound));
    }
    drop(resident);
    let beside = |pairs: &[Pair]| pairs.iter().map(|pair| pair.sides[A].config.budget.report().resident).sum::<usize>();
    assert_eq!(beside(&pairs), 0, "nobody has compressed anything yet");
    let mut lens = Vec::new();
    for at in 0..pairs.len() {
        let bytes = pairs[at].transmit(A, usize::MAX);
        pairs[at].deliver(B, &bytes);
        assert_eq!(pairs[at].messages(B), std::slice::from_ref(&message));
        lens.push(bytes.len());
        let held = beside(&pairs);
        let paid = pairs[0].sides[A].config.budget.report();
        if at + 1 < pairs.len() {
            assert!(held > 0 && held == paid.resident, "the first one's budget pays, and no other: {held}");
            assert!(held < 10_000, "what is kept is the packed form: {held}");
        } else {
            assert_eq!(held, 0, "the last one had it");
        }
    }
    assert!(lens.iter().all(|len| *len < 10_000), "{lens:?}");
    assert_eq!(budget.report().resident, 0);
}

#[test]
fn without_memory_for_a_compressed_form_a_message_goes_as_it_is() {
    let mut tight = side(1, true);
    tight.budget = peerage_core::Budget::new(100_000);
    let mut pair = Pair::connected_with(30, tight, side(2, true));
    let message = text(ITEM, 100_000);
    let (bytes, arrived) = through(&mut pair, &message);
    assert_eq!((arrived, bytes > 100_000), (message, true));
    assert_eq!(pair.sides[A].config.budget.report().resident, 0);
    let short = text(ITEM, 50_000);
    assert!(through(&mut pair, &short).0 < 5_000, "of this one there is room for it");
}

#[test]
fn credit_is_spent_by_what_a_body_unpacks_to() {
    let mut pair = pair(40, [true, true]);
    pair.sides[B].consumes = false;
    let message = text(ITEM, MAX_CONTENT / 2);
    for _ in 0..20 {
        pair.notify(A, message.clone());
    }
    pair.run();
    let arrived = pair.messages(B).len();
    let window = peerage_transport::proto::connection::credit::window(ITEM.class());
    assert_eq!(arrived, window / cost(message.len()), "as many as if they had come as they are");
    let spent: Vec<_> = pair.sides[B].events.iter().filter_map(credit_of).collect();
    assert!(spent.iter().all(|(_, bytes)| *bytes == cost(message.len())));
}

#[test]
fn memory_that_is_taken_makes_a_compressed_message_wait_and_not_fail() {
    let mut pair = pair(50, [true, true]);
    let budget = pair.sides[B].config.budget.clone();
    let room = budget.report().cap - 50_000;
    let other = budget.charge(Pool::Inbox, room).expect("an empty ledger");
    let message = text(SYNC, 400_000);
    pair.notify(A, message.clone());
    let bytes = pair.transmit(A, usize::MAX);
    pair.deliver(B, &bytes);
    assert!(pair.sides[B].events.iter().any(|event| matches!(event, ConnectionEvent::Waits(true))));
    assert!(pair.messages(B).is_empty() && !pair.is_closed(B));
    drop(other);
    pair.pass(core::time::Duration::from_millis(60));
    assert_eq!(pair.messages(B), [message]);
}

#[test]
fn a_side_that_does_not_know_a_command_as_public_refuses_it_compressed() {
    let mut other = side(2, true);
    other.limits = Arc::new(Limits::new(&[LIMITS]));
    let mut pair = Pair::connected_with(60, side(1, true), other);
    pair.notify(A, text(ITEM, 50_000));
    pair.run();
    let refused = Closed { by: ClosedBy::Us, reason: CloseReason::MalformedMessage };
    assert_eq!(pair.closed_at(B), refused);
    assert!(pair.messages(B).is_empty(), "nothing of it is delivered");
}
