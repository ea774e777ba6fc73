//! Rules of `transport.md` about versions, which need another side that speaks by hand.

use std::sync::Arc;

use peerage_core::{Budget, CloseReason, Closed, Connection, ConnectionEvent, NetworkId, SecretRng, Seed};
use peerage_transport::proto::{
    connection::{ConnectionConfig, SecureConnection},
    noise::{
        DhKeypair, HandshakeState, Role,
        identity::{Hello, read_proof, write_proof},
    },
};
use peerage_wire::{
    Limits, Magic, Preamble, RecordDecoder, RecordKind,
    limits::{PREAMBLE, RECORD_HEADER},
    put_record,
};

use crate::fixtures::{keypair, now};

fn dice(name: &str) -> SecretRng {
    SecretRng::insecure_from_seed(&Seed::from_u64(1).derive(name))
}

const NETWORK: NetworkId = NetworkId::from_bytes([9; 32]);

/// One side that speaks these versions.
fn side(number: u8, outbound: bool, versions: (u8, u8)) -> SecureConnection {
    let (key, limits) = (Arc::new(keypair(number)), Arc::new(Limits::new(&[])));
    let mut config = ConnectionConfig::new(key, NETWORK, Magic::DEV, limits, Budget::default(), &mut dice("static"));
    config.versions = versions;
    let remote = ([127, 0, 0, 1], 7000).into();
    SecureConnection::new(Arc::new(config), outbound, remote, None, now(), dice("side"))
}

/// The version that a responder names in message 2, told by an initiator that it speaks `theirs`; `None` if it refuses.
fn chosen(ours: (u8, u8), theirs: (u8, u8)) -> Option<u64> {
    let mut responder = side(2, false, ours);
    let (version_min, version_max) = theirs;
    let preamble = Preamble { version_min, version_max, network: NETWORK, pattern: 1, suite: 1, flags: 0 };
    let mut first = Vec::new();
    put_record(&mut first, Magic::DEV, RecordKind::Preamble, |out| out.extend(preamble.encode()));
    let prologue = [b"peerage-v1", &*first].concat();
    let key = DhKeypair::generate(&mut dice("initiator static"));
    let mut noise = HandshakeState::xx(Role::Initiator, &prologue, key, &mut dice("initiator"));
    put_record(&mut first, Magic::DEV, RecordKind::Handshake, |out| noise.write_message(&[], out).expect("message 1"));
    responder.handle_bytes(now(), &first);
    let mut answer = Vec::new();
    responder.poll_transmit(now(), &mut answer, usize::MAX);
    let mut decoder = RecordDecoder::new(Magic::DEV);
    let record = decoder.read(&mut &*answer).expect("well-formed").expect("a whole record");
    if record.kind == RecordKind::Refuse {
        assert_eq!(record.payload(), [CloseReason::WrongVersion.code()]);
        return None;
    }
    let remote = read_proof(&mut noise, record.payload(), keypair(1).node_id()).expect("proved");
    Some(remote.hello.features() >> 56)
}

#[test]
fn the_highest_version_that_both_speak_is_chosen() {
    for (ours, theirs, version) in [
        ((1, 1), (1, 1), Some(1)),
        ((1, 1), (1, 9), Some(1)),
        ((1, 3), (1, 2), Some(2)),
        ((1, 2), (2, 5), Some(2)),
        ((2, 4), (1, 9), Some(4)),
        ((3, 4), (1, 2), None),
        ((1, 2), (3, 4), None),
    ] {
        assert_eq!(chosen(ours, theirs), version, "{ours:?} meets {theirs:?}");
    }
}

/// What an initiator that speaks version 1 alone ends with when message 2 names this version.
fn told(version: u64) -> Option<Closed> {
    let mut initiator = side(1, true, (1, 1));
    let mut flight = Vec::new();
    initiator.poll_transmit(now(), &mut flight, 0);
    let (preamble, first) = flight.split_at(RECORD_HEADER + PREAMBLE);
    let prologue = [b"peerage-v1".as_slice(), preamble].concat();
    let key = DhKeypair::generate(&mut dice("responder static"));
    let mut noise = HandshakeState::xx(Role::Responder, &prologue, key, &mut dice("responder"));
    noise.read_message(&first[RECORD_HEADER..]).expect("message 1");
    let (mut proof, mut answer) = (Vec::new(), Vec::new());
    let hello = Hello::new(version << 56, Vec::new()).expect("no address");
    write_proof(&mut noise, &keypair(2), &hello, &mut proof).expect("message 2");
    put_record(&mut answer, Magic::DEV, RecordKind::Handshake, |out| out.extend(proof));
    initiator.handle_bytes(now(), &answer);
    let last = core::iter::from_fn(|| initiator.poll_event()).last().expect("something happened");
    if let ConnectionEvent::Closed(closed) = last { Some(closed) } else { None }
}

#[test]
fn an_initiator_refuses_a_version_that_it_did_not_offer() {
    assert_eq!(told(1), None);
    for version in [0, 2, 255] {
        assert_eq!(told(version), Some(Closed::by_us(CloseReason::WrongVersion)), "{version}");
    }
}
