//! Records one by one, as a runner asks for them that keeps to a limit of bytes a second.

use peerage_core::{Class, Connection, ConnectionCommand, PerClass};
use peerage_wire::limits::{MAX_CONTENT, MAX_PLAINTEXT, SEALED_OVERHEAD};
use rand_core::Rng;

use crate::harness::{A, B, HAVE, ITEM, Pair, SECOND, SYNC, VOTE, config, message, number};

const RECORD: usize = MAX_PLAINTEXT + SEALED_OVERHEAD;

/// One record of a class, and what its sender wanted before.
fn record(pair: &mut Pair, from: usize, class: Class, limit: usize) -> (PerClass<bool>, Vec<u8>) {
    let (mut bytes, now) = (Vec::new(), pair.now);
    let wants = pair.sides[from].connection.wants_to_send();
    let any = pair.sides[from].connection.poll_record(now, &mut bytes, class, limit);
    assert_eq!(any, !bytes.is_empty());
    assert!(!wants[class] || any, "it wants {class:?} and gives nothing");
    pair.drain(from);
    (wants, bytes)
}

/// Lets both sides write nothing but such records, of random classes and lengths, until they want nothing more.
fn run(pair: &mut Pair) {
    loop {
        let mut moved = false;
        for from in [A, B] {
            let wants = pair.sides[from].connection.wants_to_send();
            let wanted: Vec<_> = wants.iter().filter(|(_, wanted)| **wanted).map(|(class, _)| class).collect();
            if !wanted.is_empty() {
                let class = wanted[pair.rng.next_u64() as usize % wanted.len()];
                let limit = 1024 + pair.rng.next_u64() as usize % (RECORD - 1023);
                let (_, bytes) = record(pair, from, class, limit);
                pair.sides[1 - from].wire.extend_from_slice(&bytes);
                moved = true;
            }
            moved |= pair.read(1 - from);
        }
        if !moved {
            break;
        }
    }
    for side in [A, B] {
        assert_eq!(pair.transmit(side, 0).len(), 0, "who wants nothing has nothing");
    }
}

#[test]
fn a_record_that_was_granted_holds_one_class_and_is_no_longer_than_it_may() {
    let mut pair = Pair::connected(1);
    pair.notify(A, message(SYNC, 1, 100_000));
    pair.notify(A, message(ITEM, 2, 700));
    pair.notify(A, message(VOTE, 3, 200));
    let wants = |control| PerClass([control, true, false, true, true]);
    let (wanted, bytes) = record(&mut pair, A, Class::Gossip, 2000);
    assert_eq!(wanted, wants(false));
    assert!((700..800).contains(&bytes.len()), "{} bytes: the item, and no piece of another message", bytes.len());
    pair.deliver(B, &bytes);
    assert_eq!(pair.messages(B).iter().map(number).collect::<Vec<_>>(), [2]);
    let (_, bytes) = record(&mut pair, A, Class::Bulk, 2000);
    assert_eq!(bytes.len(), 2000, "a piece fills the record");
    pair.deliver(B, &bytes);
    let (_, bytes) = record(&mut pair, A, Class::Signal, 2000);
    assert_eq!(bytes, [], "there is none of this class");
    let (_, bytes) = record(&mut pair, A, Class::Consensus, RECORD);
    pair.deliver(B, &bytes);
    assert_eq!(pair.messages(B).iter().map(number).collect::<Vec<_>>(), [3]);
    pair.run();
    assert_eq!(pair.messages(B).iter().map(number).collect::<Vec<_>>(), [1]);
}

#[test]
fn what_control_has_due_goes_along_with_any_class() {
    let mut pair = Pair::connected(2);
    pair.pass(20 * SECOND);
    pair.now.mono = pair.now.mono + 15 * SECOND;
    let now = pair.now;
    pair.sides[A].connection.handle_timeout(now);
    pair.notify(A, message(SYNC, 1, 50));
    let (wanted, bytes) = record(&mut pair, A, Class::Bulk, 1024);
    assert_eq!(wanted, PerClass([true, false, false, false, true]), "a ping after 30 s of silence");
    assert_eq!(pair.sides[A].connection.wants_to_send(), PerClass::default());
    pair.deliver(B, &bytes);
    assert_eq!(pair.messages(B).len(), 1);
    assert!(pair.sides[B].connection.wants_to_send()[Class::Control], "the answer to the ping");
}

#[test]
fn a_request_that_nobody_waits_for_is_not_wanted() {
    let mut pair = Pair::connected(3);
    pair.request(A, 7, message(HAVE, 1, 100), SECOND);
    assert!(pair.sides[A].connection.wants_to_send()[Class::Signal]);
    pair.now.mono = pair.now.mono + 2 * SECOND;
    let now = pair.now;
    pair.sides[A].connection.handle_timeout(now);
    pair.drain(A);
    assert!(!pair.sides[A].connection.wants_to_send()[Class::Signal]);
}

#[test]
fn every_message_arrives_in_order_whatever_is_granted_from_the_first_byte_on() {
    for seed in 0..30 {
        let mut pair = Pair::fresh(seed, config(1), config(2), None);
        run(&mut pair);
        for side in [A, B] {
            assert!(pair.established(side), "seed {seed}");
            pair.sides[side].events.clear();
        }
        let classes = [VOTE, HAVE, ITEM, SYNC];
        let mut sent = PerClass::<Vec<u64>>::default();
        for count in 0..40 {
            let command = classes[pair.rng.next_u64() as usize % classes.len()];
            let longest = if count == 20 { MAX_CONTENT } else { 40_000 };
            let longest = if command == SYNC { longest } else { 40_000 };
            let len = 1 + pair.rng.next_u64() as usize % longest;
            pair.notify(A, message(command, count, len));
            sent[command.class()].push(count);
        }
        run(&mut pair);
        let mut came = PerClass::<Vec<u64>>::default();
        for message in pair.messages(B) {
            came[message.command.class()].push(number(&message));
        }
        assert_eq!(came, sent, "seed {seed}");
    }
}

#[test]
fn the_last_word_comes_alone_whatever_is_asked_for() {
    let mut pair = Pair::connected(4);
    pair.notify(A, message(ITEM, 1, 5000));
    let now = pair.now;
    pair.sides[A].connection.handle_command(now, ConnectionCommand::Close(peerage_core::CloseReason::Shutdown));
    let (wanted, bytes) = record(&mut pair, A, Class::Bulk, 1024);
    assert_eq!(wanted, PerClass([true, false, false, false, false]));
    pair.deliver(B, &bytes);
    assert!(pair.is_closed(B));
    assert_eq!(record(&mut pair, A, Class::Control, 1024), (PerClass::default(), Vec::new()));
}
