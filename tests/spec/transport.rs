//! A rule of `transport.md` that needs a responder which breaks it by hand.

use std::sync::Arc;

use peerage_core::{Budget, CloseReason, Closed, Connection, ConnectionEvent, NetworkId, SecretRng, Seed};
use peerage_transport::proto::{
    connection::{ConnectionConfig, SecureConnection},
    noise::{
        DhKeypair, HandshakeState, Role,
        identity::{Hello, write_proof},
    },
};
use peerage_wire::{
    Limits, Magic, RecordKind,
    limits::{PREAMBLE, RECORD_HEADER},
    put_record,
};

use crate::fixtures::{keypair, now};

/// What an initiator that speaks version 1 alone ends with when message 2 names this version.
fn told(version: u64) -> Option<Closed> {
    let dice = |name: &str| SecretRng::insecure_from_seed(&Seed::from_u64(1).derive(name));
    let (key, limits) = (Arc::new(keypair(1)), Arc::new(Limits::new(&[])));
    let network = NetworkId::from_bytes([9; 32]);
    let config = ConnectionConfig::new(key, network, Magic::DEV, limits, Budget::default(), &mut dice("static"));
    let remote = ([127, 0, 0, 1], 7000).into();
    let mut initiator = SecureConnection::new(Arc::new(config), true, remote, None, now(), dice("initiator"));
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
