use std::sync::Arc;

use peerage_core::{
    Budget, Class, CloseReason, Connection, ConnectionEvent, DialKey, Message, NetworkId, NodeId, SecretRng, Seed,
    UnixMillis,
};
use peerage_discovery::FIND;
use peerage_transport::proto::{
    connection::{
        ConnectionConfig, REKEY_EVERY, SecureConnection, Session,
        commands::{Answer, Beat, CREDIT, Grant, PING, PONG},
    },
    noise::{
        CipherState, DhKeypair, HandshakeState, Role,
        identity::{Claim, Hello, seal_payload},
    },
};
use peerage_wire::{
    Envelope, Limits, Magic, RecordKind, begin_sealed, encode_frame, finish_sealed,
    limits::{PREAMBLE, RECORD_HEADER},
    payload,
};

use sha2::{Digest, Sha256};

use super::signed;
use crate::{
    document::{Vector, hold},
    fixtures::{id, keypair, now},
};

/// Dice that give the same each time, and the 32 bytes that they give first.
fn dice(name: &str) -> (SecretRng, [u8; 32]) {
    let seed = Seed::from_u64(1).derive(name);
    (SecretRng::insecure_from_seed(&seed), SecretRng::insecure_from_seed(&seed).bytes32())
}

fn config(number: u8, name: &str) -> (Arc<ConnectionConfig>, [u8; 32]) {
    let (mut rng, secret) = dice(name);
    let (network, limits) = (NetworkId::from_bytes([9; 32]), Arc::new(Limits::new(&[])));
    let key = Arc::new(keypair(number));
    let mut config = ConnectionConfig::new(key, network, Magic::DEV, limits, Budget::default(), &mut rng);
    config.features = if number == 1 { 0b0110 } else { 0b0011 };
    if number == 2 {
        config.listen = ["192.0.2.1:30303", "[2001:db8::1]:30303"].map(|addr| addr.parse().expect("an address")).into();
    }
    (Arc::new(config), secret)
}

/// An initiator that knows this key of whom it dials.
fn dialling(config: &Arc<ConnectionConfig>, expected: NodeId, dial_key: DialKey) -> SecureConnection {
    let (remote, dice) = (([127, 0, 0, 1], 7000).into(), dice("initiator").0);
    SecureConnection::dial(Arc::clone(config), remote, Some(expected), Some(dial_key), now(), dice)
}

fn connection(
    config: &Arc<ConnectionConfig>,
    outbound: bool,
    expected: Option<NodeId>,
    name: &str,
) -> SecureConnection {
    let remote = ([127, 0, 0, 1], 7000).into();
    SecureConnection::new(Arc::clone(config), outbound, remote, expected, now(), dice(name).0)
}

fn transmit(connection: &mut SecureConnection) -> Vec<u8> {
    let mut out = Vec::new();
    connection.poll_transmit(now(), &mut out, usize::MAX);
    out
}

/// Cuts the first `count` records in clear off a flight.
fn clear(flight: &mut Vec<u8>, count: usize) -> Vec<Vec<u8>> {
    let records = (0..count).map(|_| {
        let length = u32::from_be_bytes(*flight[8..].first_chunk().expect("a header")) as usize;
        let rest = flight.split_off(RECORD_HEADER + length);
        core::mem::replace(flight, rest)
    });
    records.collect()
}

/// The plaintext of a sealed record, which must be the only one.
fn open(cipher: &mut CipherState, record: &[u8]) -> Vec<u8> {
    let mut body = record[2..].to_vec();
    assert_eq!(body.len(), usize::from(u16::from_be_bytes([record[0], record[1]])), "one record");
    cipher.decrypt_with_ad(&[], &mut body).expect("authentic").to_vec()
}

fn seal(cipher: &mut CipherState, kind: RecordKind, plaintext: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    let start = begin_sealed(&mut record, kind);
    record.extend_from_slice(plaintext);
    let body = finish_sealed(&mut record, start);
    let tag = cipher.encrypt_with_ad(&[], &mut record[body..]).expect("a fresh key");
    record.extend_from_slice(&tag);
    record
}

/// The proof of one side, put together from the parts that the document names.
fn proof(
    vector: Vector,
    which: u8,
    number: u8,
    role: Role,
    noise: &HandshakeState,
    hello: &Hello,
) -> (Vector, Vec<u8>) {
    let (handshake_hash, static_key) = (*noise.handshake_hash(), *noise.local_static());
    let payload = seal_payload(&keypair(number), &Claim { role, handshake_hash, static_key }, hello);
    let byte = u8::from(role == Role::Responder);
    let input = signed("peerage-noise-v1", &[&[byte], &handshake_hash, &static_key]);
    assert_eq!(payload[34..98], keypair(number).sign(&input), "the signature is over these bytes");
    let body = 2 + usize::from(u16::from_be_bytes([payload[0], payload[1]]));
    let vector = vector
        .hex(&format!("h before message {which}"), handshake_hash)
        .hex(&format!("signed for message {which}"), &input)
        .hex(&format!("payload {which} before its padding"), &payload[..body])
        .text(&format!("payload {which} bytes"), payload.len());
    (vector, payload)
}

/// A whole handshake between two connections, and beside it the bare Noise of both sides, which must agree with them.
fn handshake() -> [Vector; 3] {
    let ((a, a_static), (b, b_static)) = (config(1, "initiator static"), config(2, "responder static"));
    let (mut initiator, mut responder) =
        (connection(&a, true, Some(id(2)), "initiator"), connection(&b, false, None, "responder"));
    let keys = Vector::new("handshake-keys")
        .hex("initiator identity seed", [1; 32])
        .hex("initiator identity", id(1).as_bytes())
        .hex("initiator static secret", a_static)
        .hex("initiator static public", a.static_key.public())
        .hex("initiator ephemeral secret", dice("initiator").1)
        .hex("responder identity seed", [2; 32])
        .hex("responder identity", id(2).as_bytes())
        .hex("responder static secret", b_static)
        .hex("responder static public", b.static_key.public())
        .hex("responder ephemeral secret", dice("responder").1)
        .hex("network", a.network.as_bytes())
        .text("initiator features", "6, no listen address")
        .text("responder features", "3, listens at 192.0.2.1:30303 and [2001:db8::1]:30303");

    let mut flight = transmit(&mut initiator);
    responder.handle_bytes(now(), &flight);
    let [preamble, first] = &clear(&mut flight, 2)[..] else { panic!("two records") };
    assert!(flight.is_empty() && preamble.len() == RECORD_HEADER + PREAMBLE);
    let prologue = [b"peerage-v1".as_slice(), preamble].concat();
    let noise = |role, config: &ConnectionConfig, name| {
        HandshakeState::xx(role, &prologue, config.static_key.clone(), &mut dice(name).0)
    };
    let mut ours = noise(Role::Initiator, &a, "initiator");
    let mut theirs = noise(Role::Responder, &b, "responder");
    let mut message = Vec::new();
    ours.write_message(&[], &mut message).expect("message 1");
    assert_eq!(message, first[RECORD_HEADER..]);
    theirs.read_message(&message).expect("message 1");
    let vector = Vector::new("handshake").hex("record PREAMBLE", preamble).hex("record of message 1", first);

    let mut flight = transmit(&mut responder);
    initiator.handle_bytes(now(), &flight);
    let [second] = &clear(&mut flight, 1)[..] else { panic!("one record") };
    let (vector, payload) = proof(vector, 2, 2, Role::Responder, &theirs, &hello(1, 3, &b));
    message.clear();
    theirs.write_message(&payload, &mut message).expect("message 2");
    assert_eq!(message, second[RECORD_HEADER..]);
    ours.read_message(&message).expect("message 2");
    let vector = vector.hex("record of message 2", second);

    let mut flight = transmit(&mut initiator);
    responder.handle_bytes(now(), &flight);
    let [third] = &clear(&mut flight, 1)[..] else { panic!("one record") };
    let (vector, payload) = proof(vector, 3, 1, Role::Initiator, &ours, &hello(1, 6, &a));
    message.clear();
    ours.write_message(&payload, &mut message).expect("message 3");
    assert_eq!(message, third[RECORD_HEADER..]);
    theirs.read_message(&message).expect("message 3");
    let vector = vector.hex("record of message 3", third).hex("h after message 3", ours.handshake_hash());

    let (mut ours, mut theirs) = (ours.split().expect("complete"), theirs.split().expect("complete"));
    let sealed = Vector::new("sealed-records")
        .hex("initiator plaintext 0", open(&mut theirs.receive, &flight))
        .hex("initiator record 0", &flight);
    let answer = transmit(&mut responder);
    initiator.handle_bytes(now(), &answer);
    let sealed =
        sealed.hex("responder plaintext 0", open(&mut ours.receive, &answer)).hex("responder record 0", &answer);
    for (connection, peer) in [(&mut initiator, id(2)), (&mut responder, id(1))] {
        let Some(ConnectionEvent::Established(info)) = connection.poll_event() else { panic!("not established") };
        assert_eq!((info.peer, info.features), (peer, 0b0010));
    }

    // The initiator's key is used up to its change, by records that nobody looks at.
    ours.send.encrypt_with_ad(&[], &mut []).expect("record 0, as above");
    while ours.send.nonce() < REKEY_EVERY - 1 {
        ours.send.encrypt_with_ad(&[], &mut []).expect("far from the end");
    }
    let last = [CloseReason::Shutdown.code()];
    let sealed = sealed.hex("initiator record 65535 of CLOSE shutdown", seal(&mut ours.send, RecordKind::Close, &last));
    ours.send.rekey();
    let sealed = sealed.hex("initiator record 65536 of the same", seal(&mut ours.send, RecordKind::Close, &last));
    [keys, vector, sealed]
}

/// What a node with these features says about itself.
fn hello(version: u64, features: u64, config: &ConnectionConfig) -> Hello {
    Hello::new(features | version << 56, config.listen.clone()).expect("few addresses")
}

/// The same two nodes, of which the first knows the key of the other's process.
fn handshake_of_ik() -> Vector {
    let ((a, _), (b, _)) = (config(1, "initiator static"), config(2, "responder static"));
    let mut initiator = dialling(&a, id(2), DialKey(*b.static_key.public()));
    let mut responder = connection(&b, false, None, "responder");

    let mut flight = transmit(&mut initiator);
    responder.handle_bytes(now(), &flight);
    let [preamble, first] = &clear(&mut flight, 2)[..] else { panic!("two records") };
    assert!(flight.is_empty());
    let prologue = [b"peerage-v1".as_slice(), preamble].concat();
    let (s, rs) = (a.static_key.clone(), *b.static_key.public());
    let mut ours = HandshakeState::ik_initiator(&prologue, s, rs, &mut dice("initiator").0);
    let mut theirs = HandshakeState::ik_responder(&prologue, b.static_key.clone(), &mut dice("responder").0);
    let vector = Vector::new("handshake-ik").hex("record PREAMBLE", preamble);
    let (vector, payload) = proof(vector, 1, 1, Role::Initiator, &ours, &hello(0, 6, &a));
    let mut message = Vec::new();
    ours.write_message(&payload, &mut message).expect("message 1");
    assert_eq!(message, first[RECORD_HEADER..]);
    theirs.read_message(&message).expect("message 1");
    let vector = vector.hex("record of message 1", first);

    let mut flight = transmit(&mut responder);
    initiator.handle_bytes(now(), &flight);
    let [second] = &clear(&mut flight, 1)[..] else { panic!("one record") };
    let (vector, payload) = proof(vector, 2, 2, Role::Responder, &theirs, &hello(1, 3, &b));
    message.clear();
    theirs.write_message(&payload, &mut message).expect("message 2");
    assert_eq!(message, second[RECORD_HEADER..]);
    ours.read_message(&message).expect("message 2");
    let vector = vector.hex("record of message 2", second).hex("h after message 2", ours.handshake_hash());

    let (mut ours, mut theirs) = (ours.split().expect("complete"), theirs.split().expect("complete"));
    let vector =
        vector.hex("responder plaintext 0", open(&mut ours.receive, &flight)).hex("responder record 0", &flight);
    assert_eq!(responder.poll_event().map(|_| ()), None, "nobody counts before the first record");
    let answer = transmit(&mut initiator);
    responder.handle_bytes(now(), &answer);
    for (connection, peer) in [(&mut initiator, id(2)), (&mut responder, id(1))] {
        let Some(ConnectionEvent::Established(info)) = connection.poll_event() else { panic!("not established") };
        assert_eq!((info.peer, info.features), (peer, 0b0010));
    }
    vector.hex("initiator plaintext 0", open(&mut theirs.receive, &answer)).hex("initiator record 0", &answer)
}

/// The same, but the key that the first knows is that of an earlier process.
fn handshake_after_retry() -> Vector {
    let ((a, _), (b, _)) = (config(1, "initiator static"), config(2, "responder static"));
    let (mut old_dice, old_secret) = dice("responder old static");
    let old = *DhKeypair::generate(&mut old_dice).public();
    let mut initiator = dialling(&a, id(2), DialKey(old));
    let mut responder = connection(&b, false, None, "responder");
    let second_secret = |name| {
        let mut dice = dice(name).0;
        dice.bytes32();
        dice.bytes32()
    };
    let vector = Vector::new("handshake-retry")
        .hex("responder earlier static secret", old_secret)
        .hex("responder earlier static public", old)
        .hex("initiator second ephemeral secret", second_secret("initiator"))
        .hex("responder second ephemeral secret", second_secret("responder"));

    let mut flight = transmit(&mut initiator);
    responder.handle_bytes(now(), &flight);
    let [preamble, first] = &clear(&mut flight, 2)[..] else { panic!("two records") };
    let mut flight = transmit(&mut responder);
    initiator.handle_bytes(now(), &flight);
    let [retry] = &clear(&mut flight, 1)[..] else { panic!("one record") };
    let said: [u8; 32] = Sha256::new().chain_update(first).chain_update(retry).finalize().into();
    let prologue = [b"peerage-v1".as_slice(), preamble, &said].concat();
    let vector = vector
        .hex("record of message 1 of IK", first)
        .hex("record RETRY", retry)
        .hex("SHA-256 of both", said)
        .hex("prologue of XX", &prologue);

    let mut flight = transmit(&mut initiator);
    responder.handle_bytes(now(), &flight);
    let [first] = &clear(&mut flight, 1)[..] else { panic!("one record") };
    let mut drawn = dice("initiator").0;
    drawn.bytes32();
    let mut ours = HandshakeState::xx(Role::Initiator, &prologue, a.static_key.clone(), &mut drawn);
    let mut message = Vec::new();
    ours.write_message(&[], &mut message).expect("message 1");
    assert_eq!(message, first[RECORD_HEADER..]);
    let vector = vector.hex("record of message 1 of XX", first).hex("h before message 2", ours.handshake_hash());

    let mut flight = transmit(&mut responder);
    initiator.handle_bytes(now(), &flight);
    let [second] = &clear(&mut flight, 1)[..] else { panic!("one record") };
    ours.read_message(&second[RECORD_HEADER..]).expect("message 2");
    let vector = vector.hex("record of message 2", second).hex("h before message 3", ours.handshake_hash());
    let flight = transmit(&mut initiator);
    responder.handle_bytes(now(), &flight);
    for (connection, peer) in [(&mut initiator, id(2)), (&mut responder, id(1))] {
        let Some(ConnectionEvent::Established(info)) = connection.poll_event() else { panic!("not established") };
        assert_eq!(info.peer, peer);
    }
    vector
}

fn messages() -> Vector {
    let frame = |command, head: Vec<u8>| {
        let mut out = Vec::new();
        encode_frame(&Message::new(command, head), Envelope::Notification, &mut out);
        out
    };
    let ping = payload::to_bytes(&Beat { nonce: 300, data: vec![0xaa, 0xbb] });
    let pong = payload::to_bytes(&Answer { nonce: 300, wall: UnixMillis(1_700_000_000_000), data: vec![0xaa, 0xbb] });
    let grant = payload::to_bytes(&Grant { class: Class::Gossip as u8, bytes: 1 << 20 });
    Vector::new("control")
        .hex("PING, nonce 300, data aabb", frame(PING, ping))
        .hex("PONG, nonce 300, wall 1700000000000, data aabb", frame(PONG, pong))
        .hex("CREDIT, gossip, 1048576 bytes", frame(CREDIT, grant))
}

/// The proofs of both sides above TLS.
fn handshake_of_tls() -> Vector {
    let ((a, _), (b, _)) = (config(1, "initiator static"), config(2, "responder static"));
    let certificates = [[0xa1; 32], [0xb2; 32]];
    let exporter: [u8; 32] = core::array::from_fn(|i| i as u8);
    let side = |own: usize, config: &Arc<ConnectionConfig>, dialled| {
        let session = Session {
            exporter,
            own_certificate: certificates[own],
            remote_certificate: certificates[1 - own],
            certified: id(2 - own as u8),
        };
        let (remote, dice) = (([127, 0, 0, 1], 7000).into(), dice("initiator").0);
        SecureConnection::certified(Arc::clone(config), remote, session, dialled, now(), dice)
    };
    let (mut initiator, mut responder) = (side(0, &a, Some(Some(id(2)))), side(1, &b, None));
    let mut flight = transmit(&mut initiator);
    responder.handle_bytes(now(), &flight);
    let mut answer = transmit(&mut responder);
    initiator.handle_bytes(now(), &answer);
    assert!(matches!(initiator.poll_event(), Some(ConnectionEvent::Established(_))), "both understand it");
    let [preamble, first] = &clear(&mut flight, 2)[..] else { panic!("two records") };
    let second = clear(&mut answer, 1).remove(0);
    let mut vector = Vector::new("handshake-tls").hex("exporter", exporter).hex("record PREAMBLE", preamble);
    for (own, (name, record)) in [("initiator", first), ("responder", &second)].into_iter().enumerate() {
        let signed = signed("peerage-tls-v1", &[&[own as u8], &exporter, &certificates[own]]);
        let payload = &record[RECORD_HEADER..];
        assert_eq!(payload[34..98], keypair(own as u8 + 1).sign(&signed), "the signature is over these bytes");
        vector = vector.hex(&format!("signed by the {name}"), &signed).hex(&format!("record of the {name}"), record);
    }
    vector
}

/// Message 1 of IK that asks something.
fn question_in_message_1() -> Vector {
    let ((a, _), (b, _)) = (config(1, "initiator static"), config(2, "responder static"));
    let mut a = Arc::into_inner(a).expect("nobody shares it yet");
    a.early = peerage_discovery::EARLY.to_vec();
    let question = Message::new(FIND, vec![0x42; 32]);
    let mut words = Vec::new();
    encode_frame(&question, Envelope::Request(0), &mut words);
    let (remote, secrets) = (([127, 0, 0, 1], 7000).into(), dice("initiator").0);
    let key = Some(DialKey(*b.static_key.public()));
    let mut initiator = SecureConnection::ask(Arc::new(a), remote, Some(id(2)), key, Some(question), now(), secrets);
    let mut flight = transmit(&mut initiator);
    let [preamble, first] = &clear(&mut flight, 2)[..] else { panic!("two records") };
    let prologue = [b"peerage-v1".as_slice(), preamble].concat();
    let mut noise = HandshakeState::ik_responder(&prologue, b.static_key.clone(), &mut dice("responder").0);
    let payload = noise.read_message(&first[RECORD_HEADER..]).expect("message 1");
    let body = 2 + usize::from(u16::from_be_bytes([payload[0], payload[1]]));
    let said = [&u16::try_from(words.len()).expect("short").to_be_bytes()[..], &words].concat();
    assert_eq!(payload[body..][..said.len()], said, "behind the proof");
    assert!(payload[body + said.len()..].iter().all(|byte| *byte == 0));
    Vector::new("handshake-ik-early")
        .hex("early words", &words)
        .hex("payload 1 before its padding", &payload[..body + said.len()])
        .text("payload 1 bytes", payload.len())
        .hex("record of message 1", first)
}

#[test]
fn the_vectors_of_transport_are_what_the_code_writes() {
    let [keys, transcript, sealed] = handshake();
    let same = DhKeypair::generate(&mut dice("initiator static").0);
    assert_eq!(same.public(), config(1, "initiator static").0.static_key.public(), "a key is the first 32 bytes drawn");
    hold(
        "transport",
        &[
            keys,
            transcript,
            sealed,
            handshake_of_ik(),
            question_in_message_1(),
            handshake_after_retry(),
            messages(),
            handshake_of_tls(),
        ],
    );
}
