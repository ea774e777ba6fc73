//! Whoever dials a process that it has met before knows its key, and says who it is in the first message. What that saves,
//! what it must not give away, and what becomes of it when the key is no longer the one of the process.

use core::time::Duration;

use bytes::Bytes;
use peerage_core::{
    CloseReason, Closed, Connection, ConnectionCommand, ConnectionEvent, DialKey, Message, NodeId, SecretRng, Seed,
};
use peerage_transport::proto::{
    connection::ConnectionConfig,
    noise::{
        HandshakeState, Role,
        identity::{Hello, read_proof, write_proof},
    },
};
use peerage_wire::{Magic, Preamble, RecordKind, limits::RECORD_HEADER, put_record};
use sha2::{Digest, Sha256};

use crate::harness::{A, B, HAVE, Pair, SECOND, config, message};

/// The key of this node's process.
pub(crate) fn key_of(config: &ConnectionConfig) -> DialKey {
    DialKey(*config.static_key.public())
}

pub(crate) fn id(number: u8) -> NodeId {
    config(number).keypair.node_id()
}

/// Node 1 dials node 2, whose key it knows.
fn met(seed: u64) -> Pair {
    let b = config(2);
    let (id, key) = (b.keypair.node_id(), key_of(&b));
    Pair::knowing(seed, config(1), b, Some(id), Some(key))
}

/// What [`round_trips`] asks.
pub(crate) fn asked() -> Message {
    message(HAVE, 1, 100)
}

/// Node 1 dials node 2, which has restarted since they met.
fn restarted(seed: u64) -> Pair {
    let key = key_of(&config(77));
    Pair::knowing(seed, config(1), config(2), Some(id(2)), Some(key))
}

/// Kinds and payloads of the records in clear at the beginning of a flight, and how much of it they are.
pub(crate) fn clear(flight: &[u8]) -> (Vec<(u16, Vec<u8>)>, usize) {
    let (mut records, mut at) = (Vec::new(), 0);
    while flight[at..].starts_with(&Magic::DEV.0.to_be_bytes()) {
        let header = &flight[at..at + RECORD_HEADER];
        let length = u32::from_be_bytes(header[8..].try_into().expect("four bytes")) as usize;
        let end = at + RECORD_HEADER + length;
        records.push((u16::from_be_bytes([header[6], header[7]]), flight[at + RECORD_HEADER..end].to_vec()));
        at = end;
    }
    (records, at)
}

const PREAMBLE: u16 = RecordKind::Preamble as u16;
const HANDSHAKE: u16 = RecordKind::Handshake as u16;
const RETRY: u16 = RecordKind::Retry as u16;

/// One flight after the other, each of which takes as long as the way: when the dialler stood, when it first heard anything
/// under keys, and when it had the answer to a question that it asked as soon as it could. In round trips, that of TCP
/// counted.
pub(crate) fn round_trips(mut pair: Pair) -> [u32; 3] {
    const WAY: Duration = Duration::from_millis(50);
    pair.command(B, ConnectionCommand::Heartbeat(Bytes::from_static(b"how far I am")));
    let mut trips = [0; 3];
    for trip in 2..9 {
        let flight = pair.transmit(A, usize::MAX);
        pair.now.mono = pair.now.mono + WAY;
        pair.deliver(B, &flight);
        let heard = pair.sides[B].events.drain(..).find_map(|event| match event {
            ConnectionEvent::Request { id, message, .. } | ConnectionEvent::Early { id, message, .. } => {
                Some((id, message))
            }
            _ => None,
        });
        if let Some((id, message)) = heard {
            pair.respond(B, id, message);
        }
        let flight = pair.transmit(B, usize::MAX);
        pair.now.mono = pair.now.mono + WAY;
        pair.deliver(A, &flight);
        while let Some(event) = pair.sides[A].events.pop_front() {
            let which = match event {
                ConnectionEvent::Established(_) => {
                    pair.request(A, 1, asked(), SECOND);
                    0
                }
                ConnectionEvent::Heartbeat(_) => 1,
                ConnectionEvent::Response { result, .. } => {
                    assert!(result.is_ok(), "{result:?}");
                    2
                }
                _ => continue,
            };
            if trips[which] == 0 {
                trips[which] = trip;
            }
        }
    }
    trips
}

#[test]
fn the_first_word_of_a_known_process_comes_after_two_round_trips_instead_of_three() {
    let stranger = Pair::fresh(1, config(1), config(2), Some(id(2)));
    assert_eq!(round_trips(stranger), [2, 3, 3], "a stranger");
    // Its head is there a round trip sooner; an answer is not unless it is asked for with the first words (`early.rs`).
    assert_eq!(round_trips(met(1)), [2, 2, 3], "met before");
    assert_eq!(round_trips(restarted(1)), [3, 4, 4], "met before it restarted");
}

#[test]
fn both_sides_learn_who_the_other_is_and_by_which_key_to_dial_it() {
    for seed in 0..20 {
        let mut pair = met(seed);
        pair.run();
        for (side, number) in [(A, 2), (B, 1)] {
            let Some(ConnectionEvent::Established(info)) = pair.sides[side].events.pop_front() else {
                panic!("seed {seed}")
            };
            assert_eq!((info.peer, info.outbound), (id(number), side == A), "seed {seed}");
            assert_eq!(info.dial_key, Some(key_of(&pair.sides[1 - side].config)), "seed {seed}");
        }
        pair.notify(A, message(HAVE, 1, 20_000));
        pair.notify(B, message(HAVE, 2, 20_000));
        pair.run();
        assert_eq!((pair.messages(A).len(), pair.messages(B).len()), (1, 1), "seed {seed}");
    }
}

#[test]
fn the_first_record_of_either_side_is_short_whatever_waits_to_be_sent() {
    let mut pair = met(1);
    let first = pair.transmit(A, usize::MAX);
    pair.deliver(B, &first);
    let second = pair.transmit(B, usize::MAX);
    pair.deliver(A, &second);
    assert!(pair.established(A) && !pair.established(B));
    pair.notify(A, message(HAVE, 1, 60_000));
    let third = pair.transmit(A, usize::MAX);
    let (records, at) = clear(&third);
    assert!(records.is_empty(), "there is no message 3");
    let length = usize::from(u16::from_be_bytes([third[at], third[at + 1]]));
    assert!(length < 256 && third.len() > 60_000, "control messages alone, then the rest: {length}");
    pair.deliver(B, &third);
    let events: Vec<_> = pair.sides[B].events.drain(..).collect();
    assert!(matches!(events[0], ConnectionEvent::Established(_)), "{events:?}");
    assert!(matches!(events[events.len() - 1], ConnectionEvent::Message { .. }), "{events:?}");
}

#[test]
fn nobody_counts_for_a_first_flight_that_anybody_could_repeat() {
    let heard = {
        let mut pair = met(1);
        let first = pair.transmit(A, 0);
        pair.deliver(B, &first);
        assert!(!pair.established(B) && pair.sides[B].events.is_empty(), "not even the one who made it");
        first
    };
    let replayed = || {
        let mut pair = met(2);
        pair.deliver(B, &heard);
        let answer = pair.transmit(B, usize::MAX);
        let (records, at) = clear(&answer);
        assert_eq!(records.iter().map(|record| record.0).collect::<Vec<_>>(), [HANDSHAKE]);
        assert!(at < answer.len() && answer.len() < heard.len(), "message 2 and a PING, and less than was sent");
        pair
    };
    // Whoever repeats it has no keys, and time passes.
    let mut pair = replayed();
    pair.request(B, 5, message(HAVE, 1, 10), SECOND);
    assert_eq!(pair.responses(B).len(), 1, "not connected");
    pair.notify(B, message(HAVE, 1, 10));
    assert!(pair.transmit(B, usize::MAX).is_empty(), "nothing is said to a stranger");
    pair.now.mono = pair.now.mono + 5 * SECOND;
    pair.sides[B].connection.handle_timeout(pair.now);
    pair.drain(B);
    assert_eq!(pair.closed_at(B), Closed::by_us(CloseReason::HandshakeTimeout));
    assert!(pair.sides[B].events.is_empty(), "and nobody was ever there");
    // Or it makes a record up, or one that would take memory, or repeats what else it heard.
    let cases: [(&str, Vec<u8>, CloseReason); 4] = [
        ("made up", [&[0, 40][..], &[7; 40]].concat(), CloseReason::BadRecord),
        ("longer than a handshake message", 4_097_u16.to_be_bytes().to_vec(), CloseReason::RecordTooLong),
        ("too short", 16_u16.to_be_bytes().to_vec(), CloseReason::BadRecord),
        ("its own words", heard.clone(), CloseReason::RecordTooLong),
    ];
    for (story, bytes, reason) in cases {
        let mut pair = replayed();
        pair.deliver(B, &bytes);
        assert_eq!(pair.closed_at(B), Closed::by_us(reason), "{story}");
        assert!(pair.sides[B].events.is_empty(), "{story}");
    }
}

#[test]
fn whoever_takes_leave_in_its_first_record_never_counted() {
    let mut pair = met(1);
    let first = pair.transmit(A, 0);
    pair.deliver(B, &first);
    let second = pair.transmit(B, 0);
    pair.deliver(A, &second);
    pair.command(A, ConnectionCommand::Close(CloseReason::Duplicate));
    pair.run();
    assert_eq!(pair.closed_at(B), Closed::by_them(CloseReason::Duplicate));
    assert!(!pair.established(B));
}

#[test]
fn a_process_that_has_restarted_is_met_by_its_new_key() {
    for seed in 0..20 {
        let mut pair = restarted(seed);
        let first = pair.transmit(A, 0);
        pair.deliver(B, &first);
        let answer = pair.transmit(B, usize::MAX);
        assert_eq!(clear(&answer).0, [(RETRY, Vec::new())], "seed {seed}: nothing but that");
        pair.deliver(A, &answer);
        assert!(!pair.established(A) && !pair.is_closed(A), "seed {seed}");
        pair.run();
        for (side, number) in [(A, 2), (B, 1)] {
            let Some(ConnectionEvent::Established(info)) = pair.sides[side].events.pop_front() else {
                panic!("seed {seed}")
            };
            assert_eq!(info.peer, id(number), "seed {seed}");
            assert_eq!(info.dial_key, Some(key_of(&pair.sides[1 - side].config)), "seed {seed}: not the old one");
        }
    }
}

#[test]
fn a_key_with_which_no_secret_can_be_made_is_as_good_as_none() {
    let mut pair = Pair::knowing(1, config(1), config(2), Some(id(2)), Some(DialKey([0; 32])));
    let first = pair.transmit(A, 0);
    assert_eq!(clear(&first).0[0].1[34], 1, "XX");
    pair.deliver(B, &first);
    pair.run();
    assert!(pair.established(A) && pair.established(B));
}

#[test]
fn somebody_else_and_oneself_are_refused_as_ever_and_the_other_side_is_told() {
    // Under keys, since they stand when the initiator reads message 2.
    let other = NodeId::from_bytes([7; 32]);
    let mut pair = Pair::knowing(1, config(1), config(2), Some(other), Some(key_of(&config(2))));
    pair.run();
    let reason = CloseReason::WrongPeer;
    assert_eq!(pair.closed(), [Closed::by_us(reason), Closed::by_them(reason)]);
    assert!(!pair.established(A) && !pair.established(B));

    // After RETRY, in clear.
    let mut pair = Pair::knowing(1, config(1), config(2), Some(other), Some(key_of(&config(77))));
    pair.run();
    assert_eq!(pair.closed(), [Closed::by_us(reason), Closed::by_them(reason)]);

    // The responder is the first who can see that it reached itself.
    let mut pair = Pair::knowing(1, config(2), config(2), None, Some(key_of(&config(2))));
    pair.run();
    let reason = CloseReason::SelfConnection;
    assert_eq!(pair.closed(), [Closed::by_them(reason), Closed::by_us(reason)]);
}

/// Node 1 as a stock Noise library would play it, up to the keys if it comes so far: what message 1 names, and whether it
/// holds a proof.
fn by_hand(features: u64, proved: bool) -> Pair {
    let (a, mut pair) = (config(1), met(1));
    let preamble = Preamble { version_min: 1, version_max: 1, network: a.network, pattern: 2, suite: 1, flags: 0 };
    let mut first = Vec::new();
    put_record(&mut first, Magic::DEV, RecordKind::Preamble, |out| out.extend(preamble.encode()));
    let prologue = [b"peerage-v1", &*first].concat();
    let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(1).derive("hand"));
    let DialKey(key) = key_of(&config(2));
    let mut noise = HandshakeState::ik_initiator(&prologue, a.static_key.clone(), key, &mut rng);
    let mut message = Vec::new();
    if proved {
        let hello = Hello::new(features, Vec::new()).expect("no address");
        write_proof(&mut noise, &a.keypair, &hello, &mut message).expect("message 1");
    } else {
        noise.write_message(&[0; 256], &mut message).expect("message 1");
    }
    put_record(&mut first, Magic::DEV, RecordKind::Handshake, |out| out.extend(message));
    pair.deliver(B, &first);
    if !pair.is_closed(B) {
        let answer = pair.transmit(B, usize::MAX);
        let remote = read_proof(&mut noise, &clear(&answer).0[0].1, a.keypair.node_id()).expect("proved");
        assert_eq!((remote.node_id, remote.hello.features() >> 56), (id(2), 1));
    }
    pair
}

#[test]
fn message_1_names_no_version_and_proves_who_sends_it() {
    assert!(!by_hand(0, true).is_closed(B));
    for (story, features, proved) in [("a version", 1 << 56, true), ("no proof", 0, false)] {
        let mut pair = by_hand(features, proved);
        assert_eq!(pair.closed_at(B), Closed::by_us(CloseReason::BadHandshake), "{story}");
        let told = clear(&pair.transmit(B, usize::MAX)).0;
        assert_eq!(told, [(RecordKind::Refuse as u16, vec![CloseReason::BadHandshake.code()])], "{story}");
    }
}

/// Carries one flight across, perhaps with a byte changed; its length.
fn flight_of(pair: &mut Pair, number: usize, change: Option<usize>) -> usize {
    let from = [A, B][number % 2];
    let mut bytes = pair.transmit(from, 0);
    let (records, clear) = clear(&bytes);
    if !records.is_empty() {
        bytes.truncate(clear); // sealed records that follow in the same flight are not what is looked at here
    }
    if let Some(at) = change {
        bytes[at] ^= 0x01;
    }
    pair.deliver(1 - from, &bytes);
    bytes.len()
}

/// Changes each byte of the first `flights` flights, one at a time; `fresh` makes the pair.
pub(crate) fn no_byte_can_be_changed(flights: usize, fresh: fn(u64) -> Pair) {
    let lengths: Vec<usize> = {
        let mut pair = fresh(9);
        (0..flights).map(|flight| flight_of(&mut pair, flight, None)).collect()
    };
    for (flight, length) in lengths.into_iter().enumerate() {
        for at in 0..length {
            let mut pair = fresh(9);
            for number in 0..flight {
                flight_of(&mut pair, number, None);
            }
            flight_of(&mut pair, flight, Some(at));
            pair.run();
            pair.pass(5 * SECOND);
            assert!(pair.is_closed(A) && pair.is_closed(B), "flight {flight}, byte {at}");
            assert!(!pair.established(B), "flight {flight}, byte {at}");
            let last = flight + 1 == flights;
            assert!(!pair.established(A) || last, "flight {flight}, byte {at}");
        }
    }
}

#[test]
fn no_byte_of_a_handshake_by_a_known_key_can_be_changed() {
    // Preamble and message 1, message 2, the first record.
    no_byte_can_be_changed(3, met);
}

#[test]
fn no_byte_of_a_handshake_that_is_tried_again_can_be_changed() {
    // Preamble and message 1 of IK, RETRY, messages 1 to 3 of XX.
    no_byte_can_be_changed(5, restarted);
}

/// Somebody on the path who wants XX where IK would do: it must change a message or make a RETRY up, and both are noticed.
#[test]
fn nobody_on_the_path_can_bring_about_the_other_handshake() {
    // The message was changed on its way, so the responder asks for another, which is then not the one that it was told.
    let mut pair = met(3);
    let mut first = pair.transmit(A, 0);
    let at = first.len() - 300;
    first[at] ^= 1;
    pair.deliver(B, &first);
    let answer = pair.transmit(B, usize::MAX);
    assert_eq!(clear(&answer).0, [(RETRY, Vec::new())]);
    pair.deliver(A, &answer);
    pair.run();
    let reason = CloseReason::BadHandshake;
    assert_eq!(pair.closed(), [Closed::by_us(reason), Closed::by_them(reason)]);

    // A RETRY that nobody sent, with the message passed on or not.
    let mut retry = Vec::new();
    put_record(&mut retry, Magic::DEV, RecordKind::Retry, |_| {});
    for passed_on in [true, false] {
        let mut pair = met(4);
        let first = pair.transmit(A, 0);
        let preamble = RECORD_HEADER + 37;
        pair.deliver(B, if passed_on { &first } else { &first[..preamble] });
        pair.transmit(B, usize::MAX);
        pair.deliver(A, &retry);
        pair.run();
        pair.pass(5 * SECOND);
        assert!(!pair.established(A) && !pair.established(B), "passed on: {passed_on}");
        assert!(pair.is_closed(A) && pair.is_closed(B));
    }
}

#[test]
fn there_is_one_retry_and_none_to_a_stranger() {
    let mut retry = Vec::new();
    put_record(&mut retry, Magic::DEV, RecordKind::Retry, |_| {});
    let unexpected = |pair: &mut Pair, story: &str| {
        assert_eq!(pair.closed_at(A), Closed::by_us(CloseReason::UnexpectedRecord), "{story}");
        let told = clear(&pair.transmit(A, usize::MAX)).0;
        assert_eq!(
            told.last(),
            Some(&(RecordKind::Refuse as u16, vec![CloseReason::UnexpectedRecord.code()])),
            "{story}"
        );
    };
    let mut pair = restarted(5);
    pair.transmit(A, 0);
    pair.deliver(A, &retry);
    assert!(!pair.is_closed(A));
    pair.deliver(A, &retry);
    unexpected(&mut pair, "a second one");

    let mut pair = Pair::fresh(5, config(1), config(2), Some(id(2)));
    pair.transmit(A, 0);
    pair.deliver(A, &retry);
    unexpected(&mut pair, "in answer to XX");

    // A responder never gets one, and a RETRY has no payload.
    let mut pair = met(5);
    pair.deliver(B, &retry);
    assert_eq!(pair.closed_at(B), Closed::by_us(CloseReason::UnexpectedRecord));
    assert!(pair.transmit(B, usize::MAX).is_empty(), "to no preamble there is no answer");
    let mut long = retry.clone();
    long[11] = 1;
    let mut pair = met(5);
    pair.transmit(A, 0);
    pair.deliver(A, &long);
    assert_eq!(pair.closed_at(A), Closed::by_us(CloseReason::RecordTooLong));
}

/// The responder as a stock Noise library would play it: what the second attempt is bound to.
#[test]
fn the_second_prologue_holds_the_hash_of_the_first_message_and_of_the_retry() {
    let mut pair = restarted(6);
    let first = pair.transmit(A, 0);
    let (records, _) = clear(&first);
    assert_eq!(records.iter().map(|record| record.0).collect::<Vec<_>>(), [PREAMBLE, HANDSHAKE]);
    let (preamble, message) = first.split_at(RECORD_HEADER + records[0].1.len());
    let mut retry = Vec::new();
    put_record(&mut retry, Magic::DEV, RecordKind::Retry, |_| {});
    pair.deliver(A, &retry);
    let again = clear(&pair.transmit(A, 0)).0;
    assert_eq!((again.len(), again[0].0, again[0].1.len()), (1, HANDSHAKE, 32), "message 1 of XX, without a preamble");
    assert_ne!(again[0].1[..], records[1].1[..32], "another ephemeral");

    let said = Sha256::new().chain_update(message).chain_update(&retry).finalize();
    let prologue = [b"peerage-v1", preamble, &said].concat();
    let b = config(2);
    let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(6).derive("hand"));
    let mut noise = HandshakeState::xx(Role::Responder, &prologue, b.static_key.clone(), &mut rng);
    assert_eq!(noise.read_message(&again[0].1), Ok(Vec::new()));
    let (mut proof, mut second) = (Vec::new(), Vec::new());
    let hello = Hello::new(1 << 56, Vec::new()).expect("no address");
    write_proof(&mut noise, &b.keypair, &hello, &mut proof).expect("message 2");
    put_record(&mut second, Magic::DEV, RecordKind::Handshake, |out| out.extend(proof));
    pair.deliver(A, &second);
    assert!(pair.established(A));
    let third = clear(&pair.transmit(A, 0)).0;
    let remote = read_proof(&mut noise, &third[0].1, b.keypair.node_id()).expect("message 3");
    assert_eq!(remote.node_id, id(1));
}
