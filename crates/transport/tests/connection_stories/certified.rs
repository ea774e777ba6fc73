//! The handshake on a stream that is secured below, and the same stories over records in clear.

use std::sync::Arc;

use peerage_core::{CloseReason, Closed, Connection, ConnectionEvent, NodeId};
use peerage_transport::proto::connection::{ConnectionConfig, Session};
use peerage_wire::{
    Preamble, RecordDecoder, RecordHeader, RecordKind,
    limits::{MAX_CONTENT, MAX_PLAINTEXT, RECORD_HEADER},
    put_record,
};

use crate::harness::{A, B, HAVE, Pair, SYNC, config, message, over_a_secured_stream, session};

#[test]
fn what_holds_over_sealed_records_holds_over_records_in_clear() {
    over_a_secured_stream(&[
        crate::requests::answers_find_their_requests_in_any_order_and_in_both_directions,
        crate::requests::no_id_is_used_twice_whatever_became_of_its_request,
        crate::requests::a_late_answer_is_dropped_and_a_second_one_too,
        crate::requests::a_request_that_times_out_in_its_queue_is_never_sent,
        crate::requests::a_long_request_that_times_out_half_sent_is_sent_to_its_end,
        crate::requests::open_requests_fail_before_the_end_is_told,
        crate::credit::a_class_that_is_not_consumed_stalls_and_no_other,
        crate::credit::the_longest_message_never_waits_for_ever,
        crate::credit::unknown_commands_are_skipped_counted_and_cost_no_credit,
        crate::credit::what_is_too_long_for_its_command_is_not_sent,
        crate::credit::a_message_longer_than_the_receiver_allows_ends_the_connection,
        crate::heartbeat::a_quiet_connection_pings_every_thirty_seconds_and_lives,
        crate::heartbeat::a_connection_without_life_ends_after_ninety_seconds,
        crate::heartbeat::any_record_is_life_and_a_busy_connection_does_not_ping,
        crate::heartbeat::the_round_trip_is_that_of_the_wire,
        crate::budget::without_memory_nothing_is_read_until_there_is_some,
        crate::budget::without_memory_for_fifteen_seconds_the_connection_ends,
        crate::budget::a_connection_that_ends_gives_back_what_it_held,
    ]);
}

/// Two sides whose sessions are as they should be, or changed.
fn pair(change: impl FnOnce(&mut [ConnectionConfig; 2], &mut [Session; 2])) -> Pair {
    let mut configs = [config(1), config(2)];
    let mut sessions = [session(&configs[A], &configs[B]), session(&configs[B], &configs[A])];
    change(&mut configs, &mut sessions);
    let [a, b] = configs;
    Pair::certified(1, a, b, None, sessions)
}

fn ends(mut pair: Pair) -> [Closed; 2] {
    pair.run();
    pair.closed()
}

#[test]
fn both_sides_prove_what_their_certificates_name() {
    let mut pair = pair(|configs, _| {
        configs[A].features = 0b0110;
        configs[B].features = 0b0011;
    });
    pair.run();
    for (at, other) in [(A, 2), (B, 1)] {
        let Some(ConnectionEvent::Established(info)) = pair.sides[at].events.pop_front() else { panic!("side {at}") };
        assert_eq!(info.peer, config(other).keypair.node_id());
        assert_eq!((info.features, info.dial_key, info.outbound), (0b0010, None, at == A));
    }
}

#[test]
fn nobody_counts_before_the_proof_of_the_other_side_is_there() {
    let mut pair = pair(|_, _| {});
    let first = pair.transmit(A, usize::MAX);
    pair.deliver(B, &first[..first.len() - 1]);
    assert!(!pair.established(A) && !pair.established(B));
    pair.deliver(B, &first[first.len() - 1..]);
    assert!(!pair.established(A) && pair.established(B), "TLS itself would have let A begin long ago");
    let second = pair.transmit(B, usize::MAX);
    pair.deliver(A, &second);
    assert!(pair.established(A));
}

#[test]
fn a_proof_for_another_session_certificate_or_identity_is_refused_and_the_prover_is_told() {
    let by_b = |reason| [Closed::by_them(reason), Closed::by_us(reason)];
    let by_a = |reason| [Closed::by_us(reason), Closed::by_them(reason)];
    let bad = CloseReason::BadProof;
    assert_eq!(ends(pair(|_, [a, _]| a.exporter = [6; 32])), by_b(bad), "a session of somebody in between");
    assert_eq!(ends(pair(|_, [a, _]| a.own_certificate = [6; 32])), by_b(bad));
    assert_eq!(ends(pair(|_, [_, b]| b.own_certificate = [6; 32])), by_a(bad), "for B it stood already");
    let other = NodeId::from_bytes([8; 32]);
    let bad = CloseReason::BadCertificate;
    assert_eq!(ends(pair(|_, [_, b]| b.certified = other)), by_b(bad), "A shows the certificate of somebody else");
    assert_eq!(ends(pair(|_, [a, _]| a.certified = other)), by_a(bad), "and B");
}

#[test]
fn a_proof_cannot_be_sent_back_to_its_author() {
    // B shows A's own certificate's twin, and says what A says.
    let mut pair = pair(|_, sessions| sessions[A].remote_certificate = sessions[A].own_certificate);
    let first = pair.transmit(A, usize::MAX);
    let mut input = first.as_slice();
    let mut decoder = RecordDecoder::new(pair.sides[A].config.magic);
    decoder.read(&mut input).expect("a preamble").expect("whole");
    let proof = decoder.read(&mut input).expect("a proof").expect("whole").raw.to_vec();
    pair.deliver(A, &proof);
    assert_eq!(pair.closed_at(A), Closed::by_us(CloseReason::BadProof));
}

#[test]
fn each_refusal_on_a_secured_stream_is_told_to_both_sides() {
    let refused = |change: fn(&mut [ConnectionConfig; 2]), reason, by: usize| {
        let ends = ends(pair(|configs, _| change(configs)));
        assert_eq!(ends[by], Closed::by_us(reason));
        assert_eq!(ends[1 - by], Closed::by_them(reason));
    };
    refused(|configs| configs[A].versions = (2, 3), CloseReason::WrongVersion, B);
    refused(|configs| configs[A].network = peerage_core::NetworkId::from_bytes([3; 32]), CloseReason::WrongNetwork, B);

    let configs = [config(1), config(2)];
    let sessions = [session(&configs[A], &configs[B]), session(&configs[B], &configs[A])];
    let [a, b] = configs;
    let expected = Some(NodeId::from_bytes([7; 32]));
    let reason = CloseReason::WrongPeer;
    let ends = ends(Pair::certified(1, a, b, expected, sessions));
    assert_eq!(ends, [Closed::by_us(reason), Closed::by_them(reason)], "known by the certificate alone");
}

#[test]
fn a_handshake_of_noise_within_a_secured_stream_is_refused() {
    let mut pair = pair(|_, _| {});
    let config = Arc::clone(&pair.sides[A].config);
    let preamble = Preamble { version_min: 1, version_max: 1, network: config.network, pattern: 1, suite: 1, flags: 0 };
    let mut bytes = Vec::new();
    put_record(&mut bytes, config.magic, RecordKind::Preamble, |out| out.extend(preamble.encode()));
    pair.deliver(B, &bytes);
    assert_eq!(pair.closed_at(B), Closed::by_us(CloseReason::WrongSuite));
    let said = pair.transmit(B, usize::MAX);
    assert_eq!(said.last(), Some(&CloseReason::WrongSuite.code()));
}

/// Two sides that stand, with nothing under way.
fn standing() -> Pair {
    let mut pair = pair(|_, _| {});
    pair.run();
    pair.sides.iter_mut().for_each(|side| side.events.clear());
    pair
}

#[test]
fn records_have_their_header_in_clear_and_the_usual_length() {
    let mut pair = standing();
    pair.notify(A, message(SYNC, 1, MAX_CONTENT));
    let record = pair.transmit(A, 0);
    assert_eq!(record.len(), RECORD_HEADER + MAX_PLAINTEXT, "no urgent message waits for more");
    let header = record.first_chunk().expect("a header");
    let header = RecordHeader::decode(header, pair.sides[A].config.magic).expect("ours");
    assert_eq!(header, RecordHeader { kind: RecordKind::Data, length: MAX_PLAINTEXT as u32 });
    pair.deliver(B, &record);
    pair.run();
    assert_eq!(pair.messages(B), [message(SYNC, 1, MAX_CONTENT)]);
}

#[test]
fn a_record_that_has_no_place_here_ends_the_connection_and_its_sender_is_told() {
    let magic = config(1).magic;
    let record = |kind| {
        let mut bytes = Vec::new();
        put_record(&mut bytes, magic, kind, |_| {});
        bytes
    };
    let mut long = record(RecordKind::Data);
    long[8..RECORD_HEADER].copy_from_slice(&(MAX_PLAINTEXT as u32 + 1).to_be_bytes());
    let mut foreign = record(RecordKind::Data);
    foreign[0] ^= 1;
    let cases = [
        (record(RecordKind::Handshake), CloseReason::UnexpectedRecord),
        (record(RecordKind::Retry), CloseReason::UnexpectedRecord),
        (long, CloseReason::RecordTooLong),
        (foreign, CloseReason::WrongMagic),
    ];
    for (bytes, reason) in cases {
        let mut pair = standing();
        pair.deliver(B, &bytes);
        pair.run();
        assert_eq!(pair.closed(), [Closed::by_them(reason), Closed::by_us(reason)]);
    }
}

#[test]
fn a_verdict_on_the_stream_below_is_told_in_a_record() {
    let mut pair = standing();
    pair.notify(A, message(HAVE, 1, 100));
    let closed = Closed::by_us(CloseReason::CertificateRevoked);
    pair.sides[A].connection.handle_end_below(closed);
    pair.drain(A);
    pair.run();
    assert_eq!(pair.closed(), [closed, Closed::by_them(CloseReason::CertificateRevoked)]);
    assert!(pair.sides[A].connection.next_timeout().is_none());
}
