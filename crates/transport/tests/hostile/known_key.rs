//! First flights that were heard elsewhere, and a responder that says it has another key.

use std::time::Duration;

use peerage_core::*;
use peerage_transport::proto::{
    noise::{
        HandshakeState, Role,
        identity::{read_proof, seal_first_payload, seal_payload},
    },
    peer_manager::{PeerCommand, Rule, Subject},
};
use peerage_wire::{Envelope, Preamble, RecordKind, encode_frame, limits::RECORD_HEADER, put_record};
use sha2::{Digest, Sha256};
use tokio::{io::AsyncReadExt, net::TcpListener};

use crate::{
    hand::{ATTACKER, FRIEND, Hand, PREAMBLE_VALUE, Raw, Responder, claim, hello, preamble, record, refusal},
    stage::{Stage, by_us, in_time},
    victim::{ECHO, NOTE, Plan, Saw, VICTIM, configuration, keypair},
};

/// Preamble and message 1 of somebody who knows the victim's key, and the handshake that they begin.
fn first_flight(number: u8, key: [u8; 32]) -> (HandshakeState, Vec<u8>) {
    first_flight_with(number, key, &[])
}

/// The same with early words.
fn first_flight_with(number: u8, key: [u8; 32], words: &[u8]) -> (HandshakeState, Vec<u8>) {
    let (config, mut rng) = (configuration(keypair(number), Budget::default()), SecretRng::from_os());
    let mut flight = preamble(&Preamble { pattern: 2, ..PREAMBLE_VALUE });
    let prologue = [b"peerage-v1", &*flight].concat();
    let mut noise = HandshakeState::ik_initiator(&prologue, config.static_key.clone(), key, &mut rng);
    let hello = peerage_transport::proto::noise::identity::Hello::default();
    let proof = seal_first_payload(&keypair(number), &claim(&noise), &hello, words);
    let mut message = Vec::new();
    noise.write_message(&proof, &mut message).expect("message 1");
    flight.extend(record(RecordKind::Handshake, &message));
    (noise, flight)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_first_flight_gets_whoever_repeats_it_nothing_and_leaves_no_trace() {
    let stage = Stage::set().await;
    let mut plan = Plan::new();
    plan.connection.handshake_deadline = Duration::from_millis(300);
    let key = *plan.connection.static_key.public();
    let mut victim = plan.start().await;
    let (mut noise, flight) = first_flight(FRIEND, key);
    let mut raw = Raw::connect(victim.addr).await;
    raw.send(&flight).await;
    let (kind, second) = raw.record().await;
    assert_eq!(kind, RecordKind::Handshake);
    let remote = read_proof(&mut noise, &second, keypair(FRIEND).node_id()).expect("an honest victim");
    assert_eq!(remote.node_id, keypair(VICTIM).node_id());
    let mut friend = Hand::new(raw, noise.split().expect("complete"), keypair(FRIEND).node_id());
    friend.is_served().await;
    assert_eq!(victim.rest(), [Saw::Up(friend.id)], "the friend came once");

    // The flight comes again, and again with something behind it that is no record under the keys.
    let mut silent = Raw::connect(victim.addr).await;
    silent.send(&flight).await;
    let mut loud = Raw::connect(victim.addr).await;
    loud.send(&[&flight[..], &[0, 40], &[7; 40]].concat()).await;
    for raw in [&mut silent, &mut loud] {
        assert_eq!(raw.record().await.0, RecordKind::Handshake, "it cannot be told from the first one");
        let told = raw.told().await;
        assert!(told.len() < 100, "some bytes under keys that nobody has: a PING, a farewell");
    }
    stage.counts([by_us(CloseReason::HandshakeTimeout, 1), by_us(CloseReason::BadRecord, 1)]).await;
    assert_eq!(victim.rest(), [], "nobody came, and the friend was not replaced");
    let peers = victim.handle.links().iter().filter(|link| link.peer.is_some()).count();
    assert_eq!(peers, 1);
    friend.is_served().await;
    victim.ends_clean([friend]).await;
}

/// A request as early words.
fn asks(command: Command, bytes: usize) -> Vec<u8> {
    let mut words = Vec::new();
    encode_frame(&Message::new(command, vec![0x5e; bytes]), Envelope::Request(3), &mut words);
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_question_gets_an_answer_that_nobody_can_read_and_leaves_no_trace() {
    let stage = Stage::set().await;
    let mut plan = Plan::new();
    plan.connection.handshake_deadline = Duration::from_millis(300);
    let key = *plan.connection.static_key.public();
    let mut victim = plan.start().await;
    let (mut noise, flight) = first_flight_with(FRIEND, key, &asks(ECHO, 200));
    let id = keypair(FRIEND).node_id();
    // Twice at the same time, and nobody goes on: whoever asks can be anybody.
    let mut first = Raw::connect(victim.addr).await;
    first.send(&flight).await;
    let mut again = Raw::connect(victim.addr).await;
    again.send(&flight).await;
    for (number, raw) in [&mut first, &mut again].into_iter().enumerate() {
        let (kind, second) = raw.record().await;
        assert_eq!(kind, RecordKind::Handshake, "the proof of who answers comes first");
        if number == 0 {
            read_proof(&mut noise, &second, id).expect("an honest victim");
        }
        let told = raw.told().await;
        assert!((230..400).contains(&told.len()), "a PING, the answer, a farewell: {}", told.len());
        assert!(!told.windows(16).any(|window| window == [0x5e; 16]), "under keys that nobody has");
    }
    stage.counts([by_us(CloseReason::HandshakeTimeout, 2)]).await;
    assert_eq!(victim.rest(), [Saw::Early(id), Saw::Early(id)], "nobody came");
    assert_eq!(victim.flight(id).await, [], "and nothing is noted of whom they named");
    victim.ends_clean([]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_repeats_a_question_and_hangs_up_leaves_no_trace_on_whom_it_named() {
    let _stage = Stage::set().await;
    let plan = Plan::new();
    let key = *plan.connection.static_key.public();
    let mut victim = plan.start().await;
    let (_, flight) = first_flight_with(ATTACKER, key, &asks(ECHO, 200));
    let id = keypair(ATTACKER).node_id();
    for _ in 0..50 {
        let mut raw = Raw::connect(victim.addr).await;
        raw.send(&flight).await;
        drop(raw);
    }
    for _ in 0..50 {
        victim.see("each question", |saw| *saw == Saw::Early(id)).await;
    }
    let mut friend = Hand::shake(victim.addr, FRIEND).await;
    friend.is_served().await;
    assert_eq!(victim.flight(id).await, [], "neither a connection nor an answer that was dropped");
    let rest = victim.rest();
    assert!(!rest.iter().any(|saw| matches!(saw, Saw::Dropped(..))), "{rest:?}");
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_kept_out_gets_no_answer_to_its_first_words_either() {
    let _stage = Stage::set().await;
    let id = keypair(ATTACKER).node_id();
    let ban = PeerCommand::Ban { subject: Subject::Peer(id), lasting: Duration::from_secs(3_600) };
    let others = PeerCommand::Allow(vec![Rule::Peer(keypair(FRIEND).node_id())]);
    for order in [ban, others, PeerCommand::Deny(vec![Rule::Peer(id)])] {
        let mut plan = Plan::new();
        plan.connection.handshake_deadline = Duration::from_millis(300);
        let key = *plan.connection.static_key.public();
        let mut victim = plan.start().await;
        let story = format!("{order:?}");
        victim.order_peers(order).await;
        let mut friend = Hand::shake(victim.addr, FRIEND).await;
        friend.is_served().await;
        victim.rest();
        let mut raw = Raw::connect(victim.addr).await;
        raw.send(&first_flight_with(ATTACKER, key, &asks(ECHO, 200)).1).await;
        assert_eq!(raw.record().await.0, RecordKind::Handshake, "who asks is not known before it has shown it");
        let told = raw.told().await;
        assert!(told.len() < 100, "{story}: a PING, a farewell: {}", told.len());
        assert_eq!(victim.rest(), [], "{story}: no layer hears of it");
        victim.ends_clean([friend]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_asked_with_the_first_words_is_refused_and_nobody_is_at_fault() {
    let stage = Stage::set().await;
    let plan = Plan::new();
    let key = *plan.connection.static_key.public();
    let mut victim = plan.start().await;
    let id = keypair(ATTACKER).node_id();
    let two = [asks(ECHO, 20), asks(ECHO, 20)].concat();
    let cases = [
        (asks(NOTE, 20), CloseReason::BadHandshake),
        (two, CloseReason::BadHandshake),
        (vec![0xff; 30], CloseReason::MalformedMessage),
    ];
    for (words, reason) in cases {
        let mut raw = Raw::connect(victim.addr).await;
        raw.send(&first_flight_with(ATTACKER, key, &words).1).await;
        assert_eq!(raw.told().await, refusal(reason));
    }
    stage.counts([by_us(CloseReason::BadHandshake, 2), by_us(CloseReason::MalformedMessage, 1)]).await;
    assert_eq!(victim.rest(), [], "no layer heard of it");
    assert_eq!(victim.flight(id).await, []);
    victim.ends_clean([]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_flight_for_an_old_key_is_asked_for_anew_once_and_garbage_is_not() {
    let stage = Stage::set().await;
    let mut victim = Plan::new().start().await;
    let (_, flight) = first_flight(ATTACKER, [9; 32]);
    let mut raw = Raw::connect(victim.addr).await;
    raw.send(&flight).await;
    assert_eq!(raw.record().await, (RecordKind::Retry, Vec::new()));
    // Message 1 of XX without the two records in its prologue: the answer to it cannot be read.
    let mut short = Raw::connect(victim.addr).await;
    let preamble = preamble(&Preamble { pattern: 2, ..PREAMBLE_VALUE });
    short.send(&[&preamble[..], &record(RecordKind::Handshake, &[4; 32])].concat()).await;
    assert_eq!(short.told().await, refusal(CloseReason::BadHandshake), "too short for anybody's message");
    raw.send(&flight[preamble.len()..]).await;
    assert_eq!(raw.told().await, refusal(CloseReason::BadHandshake), "no second RETRY");
    stage.ended(CloseReason::BadHandshake, 2).await;
    assert_eq!(victim.rest(), []);
    victim.ends_clean([]).await;
}

/// The victim knows a friend, whose process restarts: it tries the old key, and goes on when it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_friend_that_restarted_is_reached_by_retry_and_one_that_did_not_at_once() {
    let _stage = Stage::set().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let friend = keypair(FRIEND);
    let mut victim = Plan::dialling(friend.node_id(), listener.local_addr().expect("bound")).start().await;
    let mut responder = Responder::accept(&listener).await;
    let own = seal_payload(&friend, &claim(&responder.noise), &hello());
    responder.second(&own).await;
    responder.third().await;
    victim.see("the friend", |saw| matches!(saw, Saw::Up(_))).await;
    drop(responder);
    victim.see_down(friend.node_id()).await;

    let (stream, _) = in_time("the victim again", listener.accept()).await.expect("a stream");
    let mut raw = Raw(stream);
    let mut preamble = [0; RECORD_HEADER + 37];
    in_time("a preamble", raw.0.read_exact(&mut preamble)).await.expect("a whole preamble");
    assert_eq!(preamble[RECORD_HEADER + 34], 2, "IK, since it was there before");
    let (kind, message) = raw.record().await;
    assert_eq!((kind, message.len()), (RecordKind::Handshake, 352));
    let mut retry = Vec::new();
    put_record(&mut retry, peerage_wire::Magic::DEV, RecordKind::Retry, |_| {});
    raw.send(&retry).await;
    let said = Sha256::new().chain_update(record(kind, &message)).chain_update(&retry).finalize();
    let config = configuration(keypair(FRIEND), Budget::default());
    let prologue = [b"peerage-v1", &preamble[..], &said].concat();
    let mut rng = SecretRng::from_os();
    let mut noise = HandshakeState::xx(Role::Responder, &prologue, config.static_key.clone(), &mut rng);
    let (_, message) = raw.record().await;
    assert_eq!(noise.read_message(&message), Ok(Vec::new()), "message 1 of XX");
    let mut responder = Responder { raw, noise };
    let own = seal_payload(&friend, &claim(&responder.noise), &hello());
    responder.second(&own).await;
    responder.third().await;
    victim.see("the friend again", |saw| matches!(saw, Saw::Up(_))).await;
    drop(responder);
    victim.see_down(friend.node_id()).await;

    // This key is the one that it knows now.
    let (stream, _) = in_time("the victim once more", listener.accept()).await.expect("a stream");
    let mut raw = Raw(stream);
    in_time("a preamble", raw.0.read_exact(&mut preamble)).await.expect("a whole preamble");
    let prologue = [b"peerage-v1", &preamble[..]].concat();
    let mut noise = HandshakeState::ik_responder(&prologue, config.static_key.clone(), &mut rng);
    let (_, message) = raw.record().await;
    let remote = read_proof(&mut noise, &message, friend.node_id()).expect("an honest victim");
    assert_eq!(remote.node_id, victim.id);
    drop((raw, listener));
    victim.handle.shutdown().await;
}
