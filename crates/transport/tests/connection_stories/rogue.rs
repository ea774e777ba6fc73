//! A peer that speaks the protocol by hand, and breaks it under keys that stand.

use peerage_core::{
    Class, CloseReason, Closed, Connection, ConnectionEvent, Message, Now, SecretRng, Seed, Timestamp, UnixMillis,
};
use peerage_transport::proto::{
    connection::{
        commands::{Answer, Beat, CREDIT, Grant, PING, PONG},
        credit::{cost, window},
    },
    noise::{
        HandshakeState, Role, Split,
        identity::{Hello, read_proof, write_proof},
    },
};
use peerage_wire::{
    Envelope, Frame, FrameReader, Magic, Preamble, RecordDecoder, RecordKind, SealedDecoder, begin_sealed,
    decode_reason, encode_frame, finish_sealed, open_plaintext, payload, put_record,
};

use crate::harness::{A, B, HAVE, ITEM, Pair, SECOND, config, message};

/// An initiator made by hand, and the real responder that it plagues.
struct Rogue {
    keys: Split,
    pair: Pair,
    decoder: SealedDecoder,
}

impl Rogue {
    /// Shakes hands with side B, naming `version` in message 3.
    fn new(seed: u64, version: u8) -> Self {
        let (a, mut pair) = (config(1), Pair::fresh(seed, config(1), config(2), None));
        let preamble = Preamble { version_min: 1, version_max: 1, network: a.network, pattern: 1, suite: 1, flags: 0 };
        let mut first = Vec::new();
        put_record(&mut first, Magic::DEV, RecordKind::Preamble, |out| out.extend(preamble.encode()));
        let prologue = [b"peerage-v1", &*first].concat();
        let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(seed).derive("rogue"));
        let mut noise = HandshakeState::xx(Role::Initiator, &prologue, a.static_key.clone(), &mut rng);
        put_record(&mut first, Magic::DEV, RecordKind::Handshake, |out| noise.write_message(&[], out).expect("first"));
        pair.deliver(B, &first);

        let second = pair.transmit(B, usize::MAX);
        let mut decoder = RecordDecoder::new(Magic::DEV);
        let record = decoder.read(&mut &second[..]).expect("well-formed").expect("whole");
        let remote = read_proof(&mut noise, record.payload(), a.keypair.node_id()).expect("proved");
        assert_eq!((remote.node_id, remote.hello.features() >> 56), (pair.sides[B].config.keypair.node_id(), 1));

        let (mut third, mut proof) = (Vec::new(), Vec::new());
        let hello = Hello::new(u64::from(version) << 56, Vec::new()).expect("no address");
        write_proof(&mut noise, &a.keypair, &hello, &mut proof).expect("third");
        put_record(&mut third, Magic::DEV, RecordKind::Handshake, |out| out.extend(proof));
        pair.deliver(B, &third);
        Self { keys: noise.split().expect("complete"), pair, decoder: SealedDecoder::new() }
    }

    fn send(&mut self, kind: RecordKind, plaintext: &[u8]) {
        let mut record = Vec::new();
        let start = begin_sealed(&mut record, kind);
        record.extend_from_slice(plaintext);
        let body = finish_sealed(&mut record, start);
        let tag = self.keys.send.encrypt_with_ad(&[], &mut record[body..]).expect("a fresh key");
        record.extend_from_slice(&tag);
        self.pair.deliver(B, &record);
    }

    fn send_message(&mut self, message: &Message) {
        let mut frames = Vec::new();
        encode_frame(message, Envelope::Notification, &mut frames);
        self.send(RecordKind::Data, &frames);
    }

    fn control(&mut self, command: peerage_core::Command, head: &impl serde::Serialize) {
        self.send_message(&Message::new(command, payload::to_bytes(head)));
    }

    /// What the other side sends: messages, and a reason to close.
    fn receive(&mut self) -> (Vec<Message>, Option<CloseReason>) {
        let bytes = self.pair.transmit(B, usize::MAX);
        let (mut input, mut messages, mut reason) = (&*bytes, Vec::new(), None);
        while let Some(body) = self.decoder.read(&mut input).expect("well-formed") {
            let plaintext = self.keys.receive.decrypt_with_ad(&[], body).expect("authentic");
            match open_plaintext(plaintext).expect("well-formed") {
                (RecordKind::Data, frames) => messages.extend(FrameReader::new(frames).map(|frame| match frame {
                    Ok(Frame::Whole { command, head, .. }) => Message::new(command, head.to_vec()),
                    other => panic!("{other:?}"),
                })),
                (kind, plaintext) => reason = Some(decode_reason(kind, plaintext).expect("one byte")),
            }
        }
        (messages, reason)
    }

    /// The responder ended the connection for this reason, and said so.
    fn is_closed_for(&mut self, reason: CloseReason, story: &str) {
        assert_eq!(self.pair.closed_at(B), Closed::by_us(reason), "{story}");
        assert_eq!(self.receive().1, Some(reason), "{story}");
    }
}

#[test]
fn a_version_that_was_not_agreed_is_refused_under_keys() {
    let mut rogue = Rogue::new(1, 7);
    assert!(!rogue.pair.established(B));
    rogue.is_closed_for(CloseReason::BadHandshake, "another version");
}

#[test]
fn more_than_the_window_is_an_offence_even_in_announcements() {
    let mut rogue = Rogue::new(2, 1);
    rogue.pair.sides[B].consumes = false;
    let each = 16_000;
    for count in 0..(window(Class::Signal) / cost(each)) as u64 {
        rogue.send_message(&message(HAVE, count, each));
    }
    assert!(!rogue.pair.is_closed(B), "the window is not passed yet");
    rogue.send_message(&message(HAVE, 99, each));
    rogue.is_closed_for(CloseReason::CreditExceeded, "one message too many");

    // Three messages of 1.9 MB are begun by one byte each, in one class after the other is complete; here the third is
    // begun while two are unconsumed.
    let mut rogue = Rogue::new(3, 1);
    rogue.pair.sides[B].consumes = false;
    let total = 1_900_000;
    for round in 0..3 {
        let begin = Frame::First {
            command: ITEM,
            envelope: Envelope::Notification,
            head_len: total,
            body_len: None,
            piece: &[7],
        };
        let mut frame = Vec::new();
        begin.encode(&mut frame);
        rogue.send(RecordKind::Data, &frame);
        if round == 2 {
            return rogue.is_closed_for(CloseReason::CreditExceeded, "by its announced length alone");
        }
        let rest = vec![7; total - 1];
        let pieces = rest.chunks(16_000);
        let last = pieces.len() - 1;
        for (at, piece) in pieces.enumerate() {
            let mut frame = Vec::new();
            Frame::Next { command: ITEM, last: at == last, piece }.encode(&mut frame);
            rogue.send(RecordKind::Data, &frame);
        }
    }
}

#[test]
fn what_has_no_place_under_keys_ends_the_connection() {
    let frame = |frame: Frame<'_>| {
        let mut out = Vec::new();
        frame.encode(&mut out);
        out
    };
    let beat = |len| payload::to_bytes(&Beat { nonce: 1, data: vec![0; len] });
    let notification = Envelope::Notification;
    let whole = |command, head: &[u8]| frame(Frame::Whole { command, envelope: notification, head, body: None });
    let grant = |class, bytes| payload::to_bytes(&Grant { class, bytes });
    let strange = peerage_core::Command::new(peerage_core::Layer::Transport, 30, Class::Control);
    use CloseReason::{BadFragment, MalformedMessage, MessageTooLong, UnexpectedRecord};
    let cases = [
        ("a preamble", RecordKind::Preamble, vec![0; 37], UnexpectedRecord),
        ("a handshake", RecordKind::Handshake, vec![0; 32], UnexpectedRecord),
        ("a refusal", RecordKind::Refuse, vec![1], UnexpectedRecord),
        ("an empty record", RecordKind::Data, vec![], MalformedMessage),
        ("half a frame", RecordKind::Data, whole(HAVE, &[1; 50])[..40].to_vec(), MalformedMessage),
        ("a ping with too much data", RecordKind::Data, whole(PING, &beat(65)), MalformedMessage),
        ("a ping that goes on", RecordKind::Data, whole(PING, &[&*beat(3), &[0]].concat()), MalformedMessage),
        ("credit out of nothing", RecordKind::Data, whole(CREDIT, &grant(4, 1)), MalformedMessage),
        ("credit for nothing", RecordKind::Data, whole(CREDIT, &grant(9, 1)), MalformedMessage),
        ("a long control message", RecordKind::Data, whole(strange, &[0; 1025]), MessageTooLong),
        (
            "a piece of nothing",
            RecordKind::Data,
            frame(Frame::Next { command: HAVE, last: true, piece: &[1] }),
            BadFragment,
        ),
        (
            "a control message in pieces",
            RecordKind::Data,
            frame(Frame::First { command: PING, envelope: notification, head_len: 9, body_len: None, piece: &[1] }),
            BadFragment,
        ),
    ];
    for (seed, (story, kind, plaintext, reason)) in cases.into_iter().enumerate() {
        let mut rogue = Rogue::new(10 + seed as u64, 1);
        assert!(rogue.pair.established(B));
        rogue.send(kind, &plaintext);
        rogue.is_closed_for(reason, story);
    }
}

#[test]
fn control_messages_cannot_flood() {
    let mut rogue = Rogue::new(30, 1);
    rogue.receive();
    for nonce in 0..32 {
        rogue.control(PING, &Beat { nonce, data: vec![] });
    }
    assert!(!rogue.pair.is_closed(B));
    let (answers, _) = rogue.receive();
    let answer = Answer { nonce: 31, wall: rogue.pair.now.wall, data: vec![] };
    assert_eq!(answers, [Message::new(PONG, payload::to_bytes(&answer))], "one pong for all");
    rogue.control(PING, &Beat { nonce: 99, data: vec![] });
    rogue.is_closed_for(CloseReason::CreditExceeded, "the 33rd at once");
}

#[test]
fn control_messages_of_a_later_version_are_skipped() {
    let mut rogue = Rogue::new(31, 1);
    let later = peerage_core::Command::new(peerage_core::Layer::Transport, 30, Class::Control);
    rogue.control(later, &5u8);
    // Nor is a ping a request.
    let mut frames = Vec::new();
    encode_frame(&Message::new(PING, vec![]), Envelope::Request(1), &mut frames);
    rogue.send(RecordKind::Data, &frames);
    let skipped = |event: &ConnectionEvent| if let ConnectionEvent::Skipped { count, .. } = event { *count } else { 0 };
    assert_eq!(rogue.pair.sides[B].events.iter().map(skipped).sum::<u64>(), 2);
    assert!(!rogue.pair.is_closed(B));
}

#[test]
fn a_pong_without_its_ping_measures_nothing() {
    let mut rogue = Rogue::new(32, 1);
    let (sent, _) = rogue.receive();
    let ping: Beat = payload::from_bytes(&sent[0].head, 100).expect("a ping");
    let pong = |nonce| Answer { nonce, wall: UnixMillis(u64::MAX), data: vec![] };
    rogue.control(PONG, &pong(ping.nonce ^ 1));
    let measured = |rogue: &Rogue| {
        let rtt = |event: &&ConnectionEvent| matches!(event, ConnectionEvent::Stats(_));
        rogue.pair.sides[B].events.iter().filter(rtt).count()
    };
    assert_eq!(measured(&rogue), 0);
    rogue.control(PONG, &pong(ping.nonce));
    assert_eq!(measured(&rogue), 1);
}

#[test]
fn nobody_can_guess_the_nonce_of_a_ping_that_it_did_not_get() {
    let mut nonces = Vec::new();
    for seed in 100..120 {
        let mut rogue = Rogue::new(seed, 1);
        for ping in 0..2 {
            if ping > 0 {
                rogue.pair.now.mono = rogue.pair.now.mono + 30 * SECOND;
                rogue.pair.sides[B].connection.handle_timeout(rogue.pair.now);
            }
            let (sent, _) = rogue.receive();
            let pings = sent.iter().filter(|message| message.command == PING);
            nonces.extend(pings.map(|ping| payload::from_bytes::<Beat>(&ping.head, 100).expect("a ping").nonce));
        }
    }
    assert_eq!(nonces.len(), 40, "one at the beginning, one after 30 s of silence");
    let (ones, zeros) = nonces.iter().fold((0, 0), |(ones, zeros), nonce| (ones | nonce, zeros | !nonce));
    assert_eq!((ones, zeros), (u64::MAX, u64::MAX), "each of the 64 bits is drawn");
    let mut steps: Vec<_> = nonces.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    steps.sort_unstable();
    steps.dedup();
    assert_eq!(steps.len(), 39, "no step leads from one to the next");
}

#[test]
fn a_reason_of_a_later_version_is_unknown_but_theirs() {
    let mut rogue = Rogue::new(33, 1);
    rogue.send(RecordKind::Close, &[250]);
    assert_eq!(rogue.pair.closed_at(B), Closed::by_them(CloseReason::Unknown));
    assert!(rogue.pair.transmit(B, usize::MAX).is_empty(), "no answer to a farewell");
}

/// The wall clock means nothing here, and the other side's silence ends what it began.
/// The first fragment of a message that will never be whole.
fn begun() -> Vec<u8> {
    let mut frame = Vec::new();
    Frame::First {
        command: ITEM,
        envelope: Envelope::Request(1),
        head_len: 9000,
        body_len: Some(9000),
        piece: &[1; 99],
    }
    .encode(&mut frame);
    frame
}

#[test]
fn a_message_that_is_begun_and_then_drips_ends_the_connection() {
    let mut rogue = Rogue::new(34, 1);
    rogue.send(RecordKind::Data, &begun());
    assert!(rogue.pair.sides[B].config.budget.report().resident > 0);
    for _ in 0..10 {
        assert!(!rogue.pair.is_closed(B));
        rogue.pair.now.mono = rogue.pair.now.mono + SECOND;
        let mut drip = Vec::new();
        Frame::Next { command: ITEM, last: false, piece: &[1] }.encode(&mut drip);
        rogue.send(RecordKind::Data, &drip);
    }
    let now = rogue.pair.now;
    rogue.pair.sides[B].connection.handle_timeout(now);
    rogue.pair.drain(B);
    rogue.is_closed_for(CloseReason::TooSlow, "ten bytes in ten seconds");
    assert_eq!(rogue.pair.sides[B].config.budget.report().resident, 0);
}

#[test]
fn a_record_full_of_unknown_commands_is_one_event() {
    let mut rogue = Rogue::new(35, 1);
    let strange = peerage_core::Command::new(peerage_core::Layer::Application, 31, Class::Signal);
    let mut frames = Vec::new();
    for _ in 0..2000 {
        encode_frame(&Message::new(strange, vec![]), Envelope::Notification, &mut frames);
    }
    rogue.send(RecordKind::Data, &frames);
    let skipped = |event: &ConnectionEvent| if let ConnectionEvent::Skipped { count, .. } = event { *count } else { 0 };
    let counts: Vec<_> = rogue.pair.sides[B].events.iter().map(skipped).filter(|count| *count > 0).collect();
    assert_eq!(counts, [2000]);
}

#[test]
fn neither_a_jump_of_the_wall_clock_nor_a_message_left_half_way_disturb() {
    let mut rogue = Rogue::new(36, 1);
    rogue.send(RecordKind::Data, &begun());
    let mono = rogue.pair.now.mono + 9 * SECOND;
    rogue.pair.sides[B].connection.handle_timeout(Now { mono, wall: UnixMillis(u64::MAX) });
    rogue.pair.drain(B);
    assert!(!rogue.pair.is_closed(B), "nine seconds are no reason");
    let mono = Timestamp::ZERO + 90 * SECOND;
    rogue.pair.sides[B].connection.handle_timeout(Now { mono, wall: UnixMillis(0) });
    rogue.pair.drain(B);
    assert!(rogue.pair.is_closed(B), "ninety are");
    assert_eq!(rogue.pair.sides[B].config.budget.report().resident, 0);
    assert!(!rogue.pair.is_closed(A), "which has no part in this");
}
