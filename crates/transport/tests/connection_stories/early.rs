//! What is asked with the first words to a known process: what that saves, who may answer it and when, and what comes of
//! questions that nobody may ask so, that are repeated, or that lead nowhere.

use peerage_core::{
    CloseReason, Closed, Connection, ConnectionCommand, ConnectionEvent, DialKey, DropReason, Message, RequestError,
    SecretRng, Seed,
};
use peerage_transport::proto::{
    connection::ConnectionConfig,
    noise::{
        HandshakeState,
        identity::{Hello, write_first_proof},
    },
};
use peerage_wire::{Envelope, Frame, Limits, Magic, Preamble, RecordKind, encode_frame, put_record};
use std::sync::Arc;

use crate::{
    harness::{A, B, HAVE, ITEM, Pair, SECOND, config, message},
    known_key::{asked, clear, id, key_of, no_byte_can_be_changed, round_trips},
};

/// A node that asks and answers one command so early.
fn node(number: u8) -> ConnectionConfig {
    ConnectionConfig { early: vec![HAVE], ..config(number) }
}

/// Node 1 dials node 2 by this key, to ask what [`asked`] says.
fn asking(seed: u64, key: Option<DialKey>) -> Pair {
    Pair::asking(seed, node(1), node(2), Some(id(2)), key, Some(asked()))
}

fn met(seed: u64) -> Pair {
    asking(seed, Some(key_of(&config(2))))
}

fn restarted(seed: u64) -> Pair {
    asking(seed, Some(key_of(&config(77))))
}

/// Takes the question that a side was asked early, which must be the only thing that it heard.
fn question(pair: &mut Pair, at: usize) -> (u64, Message) {
    let events: Vec<_> = pair.sides[at].events.drain(..).collect();
    let [ConnectionEvent::Early { id: wire_id, claims, message }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(*claims, id(1), "who made it");
    (*wire_id, message.clone())
}

/// Both stand, and the question was answered with `answer`, which the asker has if it was short enough.
fn answered(answer: &Message) -> Pair {
    let mut pair = met(1);
    let first = pair.transmit(A, 0);
    pair.deliver(B, &first);
    let (wire_id, _) = question(&mut pair, B);
    pair.respond(B, wire_id, answer.clone());
    let second = pair.transmit(B, usize::MAX);
    pair.deliver(A, &second);
    pair
}

#[test]
fn a_question_in_message_1_is_answered_after_two_round_trips() {
    assert_eq!(round_trips(met(1)), [2, 2, 2], "a known process");
    assert_eq!(round_trips(asking(1, None)), [2, 3, 3], "a stranger");
    assert_eq!(round_trips(restarted(1)), [3, 4, 4], "a known one that has restarted");
}

#[test]
fn the_answer_follows_message_2_and_is_told_behind_the_one_who_gives_it() {
    let mut pair = met(1);
    let first = pair.transmit(A, 0);
    let bare = Pair::knowing(1, node(1), node(2), Some(id(2)), Some(key_of(&config(2)))).transmit(A, 0);
    assert_eq!(first.len(), bare.len(), "nobody on the path sees whether anything is asked");
    pair.deliver(B, &first);
    let (wire_id, message) = question(&mut pair, B);
    assert_eq!(message, asked());
    pair.respond(B, wire_id, asked());
    pair.respond(B, wire_id, asked());
    pair.notify(B, asked());
    let second = pair.transmit(B, usize::MAX);
    let (records, at) = clear(&second);
    assert_eq!(records.iter().map(|record| record.0).collect::<Vec<_>>(), [RecordKind::Handshake as u16]);
    assert!(second.len() - at > asked().len() && second.len() - at < 2 * asked().len(), "the answer, once, and a PING");
    pair.deliver(A, &second[..at]);
    assert!(pair.established(A), "the proof of who answers comes first");
    pair.deliver(A, &second[at..]);
    assert!(pair.responses(A).is_empty(), "nobody has asked for it in earnest");
    pair.request(A, 5, asked(), SECOND);
    assert_eq!(pair.responses(A), [(5, Ok(asked()))]);
    assert!(!pair.established(B), "and the asker does not count yet");
    pair.run();
    assert!(pair.established(B));
    pair.sides[B].events.clear();
    // Once only: the same again is another question, under another id.
    pair.request(A, 6, asked(), SECOND);
    pair.run();
    let again: Vec<_> = pair.sides[B].events.drain(..).collect();
    assert!(again.iter().any(|event| matches!(event, ConnectionEvent::Request { id: 1, .. })), "{again:?}");
    pair.pass(2 * SECOND);
    assert_eq!(pair.responses(A), [(6, Err(RequestError::Timeout))]);
}

#[test]
fn a_request_whose_answer_is_still_under_way_waits_for_it_and_is_not_sent_again() {
    let mut pair = met(1);
    let first = pair.transmit(A, 0);
    pair.deliver(B, &first);
    let (wire_id, _) = question(&mut pair, B);
    pair.run();
    pair.sides[B].events.clear();
    pair.request(A, 5, asked(), SECOND);
    pair.run();
    let heard: Vec<_> = pair.sides[B].events.drain(..).collect();
    assert!(!heard.iter().any(|event| matches!(event, ConnectionEvent::Request { .. })), "{heard:?}");
    pair.respond(B, wire_id, asked());
    pair.run();
    assert_eq!(pair.responses(A), [(5, Ok(asked()))]);
}

#[test]
fn what_message_1_could_not_ask_is_asked_like_anything_else() {
    let other = message(HAVE, 2, 100);
    let later = Pair::asking(1, config(1), node(2), Some(id(2)), Some(key_of(&config(2))), Some(asked()));
    let long = message(HAVE, 1, 2_000);
    let too_long = Pair::asking(1, node(1), node(2), Some(id(2)), Some(key_of(&config(2))), Some(long.clone()));
    let cases = [
        ("a stranger", asking(1, None), asked(), 0),
        ("RETRY", restarted(1), asked(), 0),
        ("other bytes than were asked", met(1), other, 1),
        ("a command that is not asked early here", later, asked(), 0),
        ("a question that is too long for it", too_long, long, 0),
    ];
    for (story, mut pair, request, expected) in cases {
        pair.run();
        assert!(pair.established(A) && pair.established(B), "{story}");
        let early = pair.sides[B].events.iter().any(|event| matches!(event, ConnectionEvent::Early { .. }));
        assert_eq!(early, expected == 1, "{story}");
        pair.sides[B].events.clear();
        pair.request(A, 5, request.clone(), SECOND);
        pair.run();
        let events: Vec<_> = pair.sides[B].events.drain(..).collect();
        let heard = events.into_iter().find_map(|event| match event {
            ConnectionEvent::Request { id, message, .. } => Some((id, message)),
            _ => None,
        });
        let (wire_id, heard) = heard.expect(story);
        // An id that message 1 has used is not used again.
        assert_eq!((wire_id, &heard), (expected, &request), "{story}");
        pair.respond(B, wire_id, heard);
        pair.run();
        assert_eq!(pair.responses(A), [(5, Ok(request))], "{story}: one end");
    }
}

#[test]
fn an_answer_for_which_nobody_asks_in_time_is_forgotten_and_its_credit_returned() {
    let mut pair = answered(&asked());
    pair.run();
    pair.sides[A].events.clear();
    pair.pass(SECOND);
    let events: Vec<_> = pair.sides[A].events.drain(..).collect();
    let bytes = events.iter().find_map(|event| match event {
        ConnectionEvent::Skipped { count: 0, class, bytes } => Some((*class, *bytes)),
        _ => None,
    });
    assert_eq!(bytes, Some((HAVE.class(), asked().len() + 256)), "{events:?}");
    pair.request(A, 5, asked(), SECOND);
    pair.pass(SECOND);
    assert_eq!(pair.responses(A), [(5, Err(RequestError::Timeout))], "it was asked anew, and B does not answer");
    // Or the connection ends first: nothing was asked for, so nothing fails.
    let mut pair = answered(&asked());
    pair.command(A, ConnectionCommand::Close(CloseReason::Shutdown));
    assert!(pair.responses(A).is_empty());
}

#[test]
fn a_long_answer_waits_until_the_asker_has_shown_to_be_there() {
    let long = message(HAVE, 3, 8_193);
    let mut pair = answered(&long);
    pair.request(A, 5, asked(), SECOND);
    assert!(pair.responses(A).is_empty() && pair.transmit(B, usize::MAX).is_empty());
    pair.run();
    assert_eq!(pair.responses(A), [(5, Ok(long))]);
    let short = message(HAVE, 3, 8_192);
    let mut pair = answered(&short);
    pair.request(A, 5, asked(), SECOND);
    assert_eq!(pair.responses(A), [(5, Ok(short))], "as long as may be");
}

#[test]
fn whoever_repeats_a_question_gets_an_answer_that_it_cannot_read_and_leaves_nothing() {
    let heard = met(1).transmit(A, 0);
    let mut pair = met(2);
    pair.deliver(B, &heard);
    let (wire_id, _) = question(&mut pair, B);
    let secret = Message::new(HAVE, vec![0x5e; 300]);
    pair.respond(B, wire_id, secret.clone());
    let answer = pair.transmit(B, usize::MAX);
    assert!(!answer.windows(32).any(|window| window == &secret.head[..32]), "not in clear");
    // Who made those words has forgotten the handshake; who repeats them never had it.
    pair.deliver(A, &answer);
    assert_eq!(pair.closed_at(A), Closed::by_us(CloseReason::BadHandshake));
    assert!(!pair.established(A));
    pair.now.mono = pair.now.mono + 5 * SECOND;
    pair.sides[B].connection.handle_timeout(pair.now);
    pair.drain(B);
    assert_eq!(pair.closed_at(B), Closed::by_us(CloseReason::HandshakeTimeout));
    assert!(pair.sides[B].events.is_empty(), "nobody was ever there: {:?}", pair.sides[B].events);
    assert_eq!(pair.sides[B].config.budget.report().resident, 0);
}

#[test]
fn no_byte_of_a_handshake_that_asks_can_be_changed() {
    no_byte_can_be_changed(3, met);
    no_byte_can_be_changed(5, restarted);
}

/// Message 1 with these words, from somebody with a key of its own.
fn says(words: &[u8]) -> Pair {
    says_to(node(2), words)
}

/// The same to a node that is set up so.
fn says_to(b: ConnectionConfig, words: &[u8]) -> Pair {
    let (a, mut pair) = (node(1), Pair::knowing(1, node(1), b, Some(id(2)), Some(key_of(&config(2)))));
    let preamble = Preamble { version_min: 1, version_max: 1, network: a.network, pattern: 2, suite: 1, flags: 0 };
    let mut first = Vec::new();
    put_record(&mut first, Magic::DEV, RecordKind::Preamble, |out| out.extend(preamble.encode()));
    let prologue = [b"peerage-v1", &*first].concat();
    let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(1).derive("hand"));
    let DialKey(key) = key_of(&config(2));
    let mut noise = HandshakeState::ik_initiator(&prologue, a.static_key.clone(), key, &mut rng);
    let mut message = Vec::new();
    write_first_proof(&mut noise, &a.keypair, &Hello::default(), words, &mut message).expect("message 1");
    put_record(&mut first, Magic::DEV, RecordKind::Handshake, |out| out.extend(message));
    pair.deliver(B, &first);
    pair
}

#[test]
fn only_one_whole_question_of_an_early_command_may_be_asked() {
    let words = |frames: &[(Message, Envelope)]| {
        let mut words = Vec::new();
        frames.iter().for_each(|(message, envelope)| encode_frame(message, *envelope, &mut words));
        words
    };
    let ask = (asked(), Envelope::Request(3));
    assert!(!says(&words(core::slice::from_ref(&ask))).is_closed(B));
    assert!(!says(&[]).is_closed(B), "or nothing at all");
    let part =
        Frame::First { command: HAVE, envelope: Envelope::Request(3), head_len: 100, body_len: None, piece: &[1; 40] };
    let mut fragment = Vec::new();
    part.encode(&mut fragment);
    let cases = [
        (
            "a command that is not early",
            words(&[(message(ITEM, 1, 40), Envelope::Request(3))]),
            CloseReason::BadHandshake,
        ),
        ("a notification", words(&[(asked(), Envelope::Notification)]), CloseReason::BadHandshake),
        ("an answer", words(&[(asked(), Envelope::Response(3))]), CloseReason::BadHandshake),
        ("two questions", words(&[ask.clone(), ask]), CloseReason::BadHandshake),
        ("a piece of one", fragment, CloseReason::BadHandshake),
        ("no frame", vec![0xff; 40], CloseReason::MalformedMessage),
    ];
    for (story, words, reason) in cases {
        let mut pair = says(&words);
        assert_eq!(pair.closed_at(B), Closed::by_us(reason), "{story}");
        assert!(pair.sides[B].events.is_empty(), "{story}: nobody above hears of it, so nobody is at fault");
        let told = clear(&pair.transmit(B, usize::MAX)).0;
        assert_eq!(told, [(RecordKind::Refuse as u16, vec![reason.code()])], "{story}");
    }
}

#[test]
fn a_question_that_is_longer_than_its_command_allows_is_refused_as_such() {
    let mut words = Vec::new();
    encode_frame(&message(HAVE, 1, 41), Envelope::Request(3), &mut words);
    for (most, refused) in [(40, true), (41, false)] {
        let limits = Arc::new(Limits::new(&[&[(HAVE, most)]]));
        let mut pair = says_to(ConnectionConfig { limits, ..node(2) }, &words);
        if refused {
            assert_eq!(pair.closed_at(B), Closed::by_us(CloseReason::MessageTooLong));
        } else {
            question(&mut pair, B);
        }
    }
}

#[test]
fn a_question_whose_answer_was_lost_is_told_as_a_loss_and_not_as_silence() {
    let mut pair = met(1);
    pair.run();
    pair.request(A, 5, asked(), SECOND);
    // The same again goes like any other request.
    pair.request(A, 6, asked(), SECOND);
    pair.pass(2 * SECOND);
    let lost = RequestError::Dropped(DropReason::NotConnected);
    assert_eq!(pair.responses(A), [(5, Err(lost)), (6, Err(RequestError::Timeout))]);
}
