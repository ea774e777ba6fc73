//! Frames and messages that nobody should send, and those of a later version, which anybody may.

use peerage_core::{Class, CloseReason, Closed, Command, DropReason, Layer, Message};
use peerage_transport::proto::connection::commands::{Beat, CREDIT, Grant, PING};
use peerage_wire::{Envelope, Frame, RecordKind, encode_frame, payload};

use crate::{
    hand::{ATTACKER, Hand, victim_and_friend},
    stage::{Stage, dropped},
    victim::{NOTE, Plan, Saw, UNHEARD_OF},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_command_is_skipped_and_counted_whatever_it_comes_as() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    let mut hand = Hand::shake(victim.addr, ATTACKER).await;
    let message = Message::new(UNHEARD_OF, vec![7; 10_000]);
    for envelope in [Envelope::Notification, Envelope::Request(1), Envelope::Response(1)] {
        hand.send_message(&message, envelope).await;
    }
    let first = Frame::First {
        command: UNHEARD_OF,
        envelope: Envelope::Notification,
        head_len: 200,
        body_len: None,
        piece: &[7; 100],
    };
    hand.send_frames(&[first, Frame::Next { command: UNHEARD_OF, last: true, piece: &[7; 100] }]).await;
    let later = Command::new(Layer::Transport, 30, Class::Control);
    hand.notify(&Message::new(later, vec![5])).await;
    // Nor is a ping a question, or an answer.
    hand.send_message(&Message::new(PING, vec![]), Envelope::Request(1)).await;
    hand.is_served().await;
    stage.counts([dropped(DropReason::UnknownCommand, 6)]).await;
    friend.is_served().await;
    assert!(!victim.rest().iter().any(|saw| matches!(saw, Saw::Message(..) | Saw::Down(..))));
    victim.ends_clean([hand, friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_asked_for_is_dropped_and_answers_nothing() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    let mut hand = Hand::shake(victim.addr, ATTACKER).await;
    hand.is_served().await;
    let patience = crate::stage::PATIENCE;
    victim.order(crate::victim::Do::Request(hand.id, Message::new(NOTE, "a question"), patience)).await;
    let asked = loop {
        match hand.hear().await {
            crate::hand::Told::Frame { command: NOTE, envelope: Envelope::Request(id), .. } => break id,
            crate::hand::Told::Frame { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    let answer = Message::new(NOTE, "an answer");
    for id in [asked + 1, u64::MAX, asked, asked] {
        hand.send_message(&answer, Envelope::Response(id)).await;
    }
    hand.is_served().await;
    let responses: Vec<_> = victim.rest().into_iter().filter(|saw| matches!(saw, Saw::Response(_))).collect();
    assert_eq!(responses, [Saw::Response(Ok(answer))], "the one that was asked for, once");
    // It may be an answer that came too late, which is nobody's fault.
    stage.counts([]).await;
    friend.is_served().await;
    victim.ends_clean([hand, friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailing_bytes_and_second_encodings_end_the_connection() {
    let whole = |command: Command, head: &[u8]| {
        let mut out = Vec::new();
        encode_frame(&Message::new(command, head.to_vec()), Envelope::Notification, &mut out);
        out
    };
    let beat = |len| payload::to_bytes(&Beat { nonce: 1, data: vec![0; len] });
    let grant = |class, bytes| payload::to_bytes(&Grant { class, bytes });
    let note = whole(NOTE, &[7; 5]);
    let [low, high] = [note[0], note[1]];
    assert!(low & 0x80 != 0 && high & 0x80 == 0, "a command of two bytes");
    let with = |at: usize, byte: u8| {
        let mut frame = note.clone();
        frame[at] = byte;
        frame
    };
    let strange = Command::new(Layer::Transport, 30, Class::Control);
    use CloseReason::{MalformedMessage, MessageTooLong};
    let cases = [
        ("nothing", vec![], MalformedMessage),
        ("bytes behind a message", [&*note, &[low]].concat(), MalformedMessage),
        ("half a message", note[..note.len() - 1].to_vec(), MalformedMessage),
        ("a command in a byte too many", [&[low, high | 0x80, 0], &note[2..]].concat(), MalformedMessage),
        ("a length in a byte too many", [&note[..3], &[0x85, 0], &note[4..]].concat(), MalformedMessage),
        ("a number that never ends", vec![0xff; 11], MalformedMessage),
        ("a command of no class", vec![7, 0x0c, 0], MalformedMessage),
        ("a command beyond 16 bits", vec![0x80, 0x80, 0x04, 0x0c, 0], MalformedMessage),
        ("compressed, without a body", with(2, 0x1c), MalformedMessage),
        ("a reserved flag", with(2, 0x4c), MalformedMessage),
        ("no purpose", with(2, 0x0f), MalformedMessage),
        ("a ping that goes on", whole(PING, &[&*beat(3), &[0]].concat()), MalformedMessage),
        ("a ping in another encoding", whole(PING, &[0x81, 0, 0]), MalformedMessage),
        ("a ping with too much data", whole(PING, &beat(65)), MalformedMessage),
        ("a ping of two kilobytes", whole(PING, &[0; 2048]), MessageTooLong),
        ("credit out of nothing", whole(CREDIT, &grant(4, 1)), MalformedMessage),
        ("no credit", whole(CREDIT, &grant(4, 0)), MalformedMessage),
        ("credit for no class", whole(CREDIT, &grant(9, 1)), MalformedMessage),
        ("a long control message of a later version", whole(strange, &[0; 1025]), MessageTooLong),
        // One byte more than its command allows fits no record, so it can only be announced: see `fragments`.
    ];
    let mut stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    for (story, plaintext, reason) in cases {
        stage.again();
        let mut hand = victim.meets(ATTACKER).await;
        hand.is_served().await; // whoever ends before it was admitted was never up
        hand.send(RecordKind::Data, &plaintext).await;
        assert_eq!(hand.told_why().await, Some(reason), "{story}");
        assert_eq!(victim.see_down(hand.id).await, Closed::by_us(reason), "{story}");
        stage.ended(reason, 1).await;
        friend.is_served().await;
    }
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_farewell_with_a_reason_of_a_later_version_is_unknown_but_theirs() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    let mut hand = victim.meets(ATTACKER).await;
    hand.is_served().await; // whoever ends before it was admitted was never up
    hand.send(RecordKind::Close, &[250]).await;
    assert_eq!(hand.told_why().await, None, "a farewell is not answered");
    assert_eq!(victim.see_down(hand.id).await, Closed::by_them(CloseReason::Unknown));
    stage.counts([crate::stage::by_them(CloseReason::Unknown, 1)]).await;
    friend.is_served().await;
    victim.ends_clean([friend]).await;
}
