use core::net::SocketAddr;

use bytes::Bytes;
use peerage_core::{CloseReason, Closed, Connection, ConnectionCommand, ConnectionEvent, NetworkId, NodeId};
use peerage_transport::proto::connection::ConnectionConfig;
use peerage_wire::{Magic, Preamble, RecordKind, limits::RECORD_HEADER, put_record};

use crate::harness::{A, B, HAVE, Pair, SECOND, config, message};

#[test]
fn both_sides_learn_who_the_other_is_and_soon_how_far() {
    for seed in 0..20 {
        let (mut a, mut b) = (config(1), config(2));
        (a.features, b.features) = (0b0110 | 0xff << 56, 0b0011);
        let listen: Vec<SocketAddr> = (1..=5).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        b.listen.clone_from(&listen);
        let (id_a, id_b) = (a.keypair.node_id(), b.keypair.node_id());
        let mut pair = Pair::fresh(seed, a, b, Some(id_b));
        for side in [A, B] {
            pair.command(side, ConnectionCommand::Heartbeat(Bytes::from(vec![side as u8; 64])));
        }
        pair.run();
        for (side, peer, heard) in [(A, id_b, &listen[..4]), (B, id_a, &[])] {
            let events = &mut pair.sides[side].events;
            let Some(ConnectionEvent::Established(info)) = events.pop_front() else { panic!("seed {seed}") };
            assert_eq!((info.peer, info.outbound, info.features), (peer, side == A, 0b0010), "seed {seed}");
            assert_eq!(info.listen, heard, "four addresses at most");
            assert_eq!(info.remote.port(), if side == A { 7000 } else { 50_000 });
            let rtts = events.iter().filter(|event| matches!(event, ConnectionEvent::Stats(_))).count();
            let told = |event: &&ConnectionEvent| matches!(event, ConnectionEvent::Heartbeat(data) if *data == vec![1 - side as u8; 64]);
            assert_eq!((rtts, events.iter().filter(told).count(), events.len()), (1, 2, 3), "ping, pong: {events:?}");
        }
    }
}

#[test]
fn the_initiator_may_speak_after_one_round_trip() {
    let mut pair = Pair::fresh(1, config(1), config(2), None);
    let first = pair.transmit(A, 0);
    pair.deliver(B, &first);
    let second = pair.transmit(B, 0);
    pair.deliver(A, &second);
    assert!(pair.established(A) && !pair.established(B));
    pair.notify(A, message(HAVE, 1, 100));
    let third = pair.transmit(A, usize::MAX);
    pair.deliver(B, &third);
    let events: Vec<_> = pair.sides[B].events.drain(..).collect();
    let seen = matches!(&*events, [ConnectionEvent::Established(_), ConnectionEvent::Message { .. }]);
    assert!(seen, "message 3 and the first record come in one flight: {events:?}");
}

/// What both sides are told, by what differs between them.
#[test]
fn each_refusal_is_told_to_both_sides() {
    type Change = fn(&mut ConnectionConfig);
    let refusals: [(&str, Change, CloseReason); 4] = [
        ("version too low", |a| a.versions = (2, 9), CloseReason::WrongVersion),
        ("version too high", |a| a.versions = (0, 0), CloseReason::WrongVersion),
        ("network", |a| a.network = NetworkId::from_bytes([8; 32]), CloseReason::WrongNetwork),
        ("oneself", |a| a.keypair = config(2).keypair, CloseReason::SelfConnection),
    ];
    for (name, change, reason) in refusals {
        let mut a = config(1);
        change(&mut a);
        let mut pair = Pair::fresh(3, a, config(2), None);
        pair.run();
        let ours = Closed::by_us(reason);
        let theirs = Closed::by_them(reason);
        // The initiator alone sees that it reached itself; everything else the responder sees first.
        let expected = if reason == CloseReason::SelfConnection { [ours, theirs] } else { [theirs, ours] };
        assert_eq!(pair.closed(), expected, "{name}");
    }
}

#[test]
fn a_range_of_versions_in_common_is_enough() {
    let (mut a, mut b) = (config(1), config(2));
    (a.versions, b.versions) = ((1, 3), (2, 7));
    let mut pair = Pair::fresh(3, a, b, None);
    pair.run();
    assert!(pair.established(A) && pair.established(B));
}

#[test]
fn whoever_answers_in_place_of_the_one_who_was_dialled_is_refused() {
    let mut pair = Pair::fresh(4, config(1), config(2), Some(NodeId::from_bytes([7; 32])));
    pair.run();
    assert_eq!(pair.closed(), [Closed::by_us(CloseReason::WrongPeer), Closed::by_them(CloseReason::WrongPeer)]);
}

#[test]
fn another_magic_gets_no_answer() {
    let mut a = config(1);
    a.magic = Magic::MAIN;
    let mut pair = Pair::fresh(5, a, config(2), None);
    pair.run();
    let silence = Closed::by_network(CloseReason::StreamEnded);
    assert_eq!(pair.closed(), [silence, Closed::by_us(CloseReason::WrongMagic)]);
}

fn record(kind: RecordKind, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_record(&mut bytes, Magic::DEV, kind, |out| out.extend_from_slice(payload));
    bytes
}

#[test]
fn garbage_is_never_answered_but_a_peer_of_the_network_is() {
    let preamble =
        Preamble { version_min: 1, version_max: 1, network: config(2).network, pattern: 1, suite: 1, flags: 0x80 };
    let good = record(RecordKind::Preamble, &preamble.encode());
    let suite = record(RecordKind::Preamble, &Preamble { suite: 9, ..preamble }.encode());
    let range = record(RecordKind::Preamble, &Preamble { version_min: 2, ..preamble }.encode());
    let then = |kind, payload: &[u8]| [good.clone(), record(kind, payload)].concat();
    let mut long = record(RecordKind::Handshake, &[]);
    long[8] = 1;
    let cases: [(&str, Vec<u8>, CloseReason, bool); 10] = [
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec(), CloseReason::WrongMagic, false),
        ("one wrong byte", vec![0xf6], CloseReason::WrongMagic, false),
        ("no preamble", record(RecordKind::Handshake, &[0; 32]), CloseReason::UnexpectedRecord, false),
        ("a preamble of another length", record(RecordKind::Preamble, &[1; 36]), CloseReason::BadHandshake, false),
        ("no range", range, CloseReason::BadHandshake, false),
        ("too long before the preamble", long.clone(), CloseReason::RecordTooLong, false),
        ("another suite", suite, CloseReason::WrongSuite, true),
        ("too long after it", [good.clone(), long].concat(), CloseReason::RecordTooLong, true),
        ("two preambles", [good.clone(), good.clone()].concat(), CloseReason::UnexpectedRecord, true),
        ("a short message 1", then(RecordKind::Handshake, &[4; 31]), CloseReason::BadHandshake, true),
    ];
    for (name, bytes, reason, answered) in cases {
        let mut pair = Pair::fresh(6, config(1), config(2), None);
        pair.deliver(B, &bytes);
        assert_eq!(pair.closed_at(B), Closed::by_us(reason), "{name}");
        let answer = pair.transmit(B, usize::MAX);
        let expected = if answered { record(RecordKind::Refuse, &[reason.code()]) } else { Vec::new() };
        assert_eq!(answer, expected, "{name}");
    }
}

#[test]
fn a_handshake_that_does_not_finish_in_time_ends() {
    let mut pair = Pair::fresh(7, config(1), config(2), None);
    let _lost = pair.transmit(A, 0);
    pair.pass(5 * SECOND);
    let late = CloseReason::HandshakeTimeout;
    let [a, b] = pair.closed();
    assert_eq!(a, Closed::by_us(late));
    assert!(b == Closed::by_us(late) || b == Closed::by_them(late), "both clocks ran out together: {b}");
}

#[test]
fn who_closes_during_the_handshake_says_why_if_it_may() {
    let mut pair = Pair::fresh(8, config(1), config(2), None);
    pair.command(A, ConnectionCommand::Close(CloseReason::Shutdown));
    pair.run();
    assert_eq!(pair.closed(), [Closed::by_us(CloseReason::Shutdown), Closed::by_them(CloseReason::Shutdown)]);

    let mut pair = Pair::fresh(8, config(1), config(2), None);
    pair.command(B, ConnectionCommand::Close(CloseReason::TooManyPeers));
    pair.run();
    let silence = Closed::by_network(CloseReason::StreamEnded);
    assert_eq!(pair.closed(), [silence, Closed::by_us(CloseReason::TooManyPeers)], "it has heard nothing yet");
}

/// One flight is changed in one byte. Whoever sees it first says so, and nobody takes the other for a peer who has not
/// proved it.
#[test]
fn no_byte_of_the_handshake_can_be_changed() {
    let lengths: Vec<usize> = {
        let mut pair = Pair::fresh(9, config(1), config(2), None);
        (0..3).map(|flight| flight_of(&mut pair, flight, None)).collect()
    };
    for (flight, length) in lengths.into_iter().enumerate() {
        // Every byte of headers and keys, and some of the proofs.
        for at in (0..length).filter(|at| *at < 150 || at % 29 == 0) {
            let mut pair = Pair::fresh(9, config(1), config(2), None);
            for number in 0..flight {
                flight_of(&mut pair, number, None);
            }
            flight_of(&mut pair, flight, Some(at));
            pair.run();
            // A record that became longer waits for bytes that never come.
            pair.pass(5 * SECOND);
            let told = flight == 2 && !pair.is_closed(A);
            assert!(!told && pair.is_closed(A) && pair.is_closed(B), "flight {flight}, byte {at}");
            assert!(!pair.established(B), "flight {flight}, byte {at}");
            assert!(!pair.established(A) || flight == 2, "flight {flight}, byte {at}");
            let [a, b] = pair.closed();
            assert!(a != b || a.reason == CloseReason::HandshakeTimeout, "flight {flight}, byte {at}: {a}, {b}");
            if flight == 2 && at >= RECORD_HEADER {
                let reason = CloseReason::BadHandshake;
                assert_eq!([a, b], [Closed::by_them(reason), Closed::by_us(reason)], "in clear, to one with keys");
            }
        }
    }
}

/// Carries one flight of the handshake across, perhaps with a byte changed; its length.
fn flight_of(pair: &mut Pair, number: usize, change: Option<usize>) -> usize {
    let from = [A, B, A][number];
    let mut bytes = pair.transmit(from, 0);
    if number == 2 {
        // The first sealed record comes in the same flight; it is not what is looked at here.
        let length = bytes[8..12].try_into().expect("four bytes");
        bytes.truncate(RECORD_HEADER + u32::from_be_bytes(length) as usize);
    }
    if let Some(at) = change {
        bytes[at] ^= 0x01;
    }
    pair.deliver(1 - from, &bytes);
    bytes.len()
}

#[test]
fn requests_before_the_handshake_fail_and_after_the_end_nothing_follows() {
    let mut pair = Pair::fresh(10, config(1), config(2), None);
    pair.request(A, 5, message(HAVE, 1, 10), SECOND);
    assert_eq!(pair.responses(A).len(), 1);
    pair.command(A, ConnectionCommand::Close(CloseReason::Requested));
    pair.closed_at(A);
    pair.request(A, 6, message(HAVE, 1, 10), SECOND);
    assert!(pair.sides[A].events.is_empty() && pair.sides[A].connection.poll_event().is_none());
}
