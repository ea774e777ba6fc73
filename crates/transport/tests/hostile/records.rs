//! Records under keys that stand.

use peerage_core::{CloseReason, Closed, Message};
use peerage_transport::proto::connection::commands::{Beat, PING};
use peerage_wire::{
    Envelope, RecordKind, encode_frame,
    limits::{MAX_PLAINTEXT, MAX_SEALED_BODY, SEALED_HEADER, SEALED_OVERHEAD},
    payload,
};

use crate::{
    hand::{ATTACKER, Hand, victim_and_friend},
    stage::{Stage, by_network, by_us},
    victim::{NOTE, Plan, Saw},
};

fn note() -> Vec<u8> {
    let mut frames = Vec::new();
    encode_frame(&Message::new(NOTE, vec![7; 20]), Envelope::Notification, &mut frames);
    frames
}

/// What an attacker makes of its keys.
type Bytes<'a> = Box<dyn Fn(&mut Hand) -> Vec<u8> + 'a>;

/// An attacker under keys sends such bytes, is told why it is sent away, and a friend is served.
async fn each(cases: Vec<(&str, CloseReason, Bytes<'_>)>) {
    let mut stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    for (story, reason, bytes) in cases {
        stage.again();
        let mut hand = victim.meets(ATTACKER).await;
        hand.is_served().await;
        let bytes = bytes(&mut hand);
        hand.raw.send(&bytes).await;
        assert_eq!(hand.told_why().await, Some(reason), "{story}");
        assert_eq!(victim.see_down(hand.id).await, Closed::by_us(reason), "{story}");
        stage.ended(reason, 1).await;
        friend.is_served().await;
        assert_eq!(victim.rest(), [], "{story}: nothing of it reached the stack");
    }
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_over_its_length_is_refused_by_its_length_alone() {
    let length = |length: usize| -> Bytes<'_> {
        let length = u16::try_from(length).expect("two bytes");
        Box::new(move |_| length.to_be_bytes().to_vec())
    };
    each(vec![
        ("a byte too long", CloseReason::RecordTooLong, length(MAX_SEALED_BODY + 1)),
        ("as long as can be said", CloseReason::RecordTooLong, length(usize::from(u16::MAX))),
        (
            "a farewell, which has one byte",
            CloseReason::RecordTooLong,
            Box::new(|hand| hand.sealed(RecordKind::Close, &[1, 2])),
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_short_or_cut_does_not_authenticate() {
    let cut = |hand: &mut Hand| {
        let mut record = hand.sealed(RecordKind::Data, &note());
        record.pop();
        let body = u16::try_from(record.len() - SEALED_HEADER).expect("short");
        record[..SEALED_HEADER].copy_from_slice(&body.to_be_bytes());
        record
    };
    each(vec![
        ("shorter than its tag", CloseReason::BadRecord, Box::new(|_| vec![0, 16])),
        ("cut by a byte", CloseReason::BadRecord, Box::new(cut)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_ends_inside_a_record_is_an_end_and_delivers_nothing() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    let mut hand = Hand::shake(victim.addr, ATTACKER).await;
    hand.is_served().await;
    let record = hand.sealed(RecordKind::Data, &note());
    hand.raw.send(&record[..record.len() - 1]).await;
    let id = hand.id;
    drop(hand);
    let closed = victim.see_down(id).await;
    assert_eq!(closed.by, peerage_core::ClosedBy::Network, "nobody is left who could be told: {closed}");
    stage.counts([by_network(closed.reason, 1)]).await;
    friend.is_served().await;
    assert!(!victim.rest().iter().any(|saw| matches!(saw, Saw::Message(..))));
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_nobody_asked_for_ends_the_connection() {
    let kind = |kind, plaintext: Vec<u8>| -> Bytes<'_> { Box::new(move |hand| hand.sealed(kind, &plaintext)) };
    // Kind and flags in one byte: kinds 0, 6 and 15, and a flag.
    let first = |first: u8| -> Bytes<'_> {
        Box::new(move |hand| {
            let mut body = vec![first];
            let tag = hand.keys.send.encrypt_with_ad(&[], &mut body).expect("a fresh key");
            [&[0, 1 + 16][..], &body, &tag].concat()
        })
    };
    let reason = CloseReason::UnexpectedRecord;
    each(vec![
        ("a preamble", reason, kind(RecordKind::Preamble, vec![0; 37])),
        ("a handshake message", reason, kind(RecordKind::Handshake, vec![0; 32])),
        ("a refusal", reason, kind(RecordKind::Refuse, vec![1])),
        ("no kind", reason, first(0x00)),
        ("a later kind", reason, first(0x60)),
        ("the last kind", reason, first(0xf0)),
        ("a flag", reason, first(0x41)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_a_sealed_record_can_be_changed() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    let length = note().len() + SEALED_OVERHEAD;
    let mut too_long = 0;
    for at in 0..length {
        let mut hand = Hand::shake(victim.addr, ATTACKER).await;
        let mut record = hand.sealed(RecordKind::Data, &note());
        record[at] ^= 0x80 >> (at % 8);
        // A record that became longer takes more bytes until it shows; good ones of the greatest length have enough.
        for _ in 0..3 {
            let more = hand.sealed(RecordKind::Data, &[0; MAX_PLAINTEXT]);
            record.extend(more);
        }
        hand.raw.send(&record).await;
        let told = hand.told_why().await;
        too_long += u64::from(told == Some(CloseReason::RecordTooLong));
        assert!(matches!(told, Some(CloseReason::BadRecord | CloseReason::RecordTooLong)), "byte {at}: {told:?}");
    }
    assert_eq!(too_long, 1, "the first byte of the length, and no other");
    let expected =
        [by_us(CloseReason::BadRecord, length as u64 - too_long), by_us(CloseReason::RecordTooLong, too_long)];
    stage.counts(expected).await;
    friend.is_served().await;
    assert!(!victim.rest().iter().any(|saw| matches!(saw, Saw::Message(..))), "a changed record delivers nothing");
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_record_is_good_once_and_in_its_place() {
    let twice = |hand: &mut Hand| {
        let mut ping = Vec::new();
        let beat = payload::to_bytes(&Beat { nonce: 1, data: vec![] });
        encode_frame(&Message::new(PING, beat), Envelope::Notification, &mut ping);
        let record = hand.sealed(RecordKind::Data, &ping);
        [&*record, &*record].concat()
    };
    let without_one = |hand: &mut Hand| {
        let _lost = hand.sealed(RecordKind::Data, &note());
        hand.sealed(RecordKind::Data, &note())
    };
    each(vec![
        ("twice", CloseReason::BadRecord, Box::new(twice)),
        ("without the one before", CloseReason::BadRecord, Box::new(without_one)),
    ])
    .await;
}
