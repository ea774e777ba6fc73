//! Records under keys that stand.

use peerage_core::{CloseReason, Closed, Message};
use peerage_wire::{
    Envelope, RecordKind, encode_frame,
    limits::{MAX_SEALED_BODY, SEALED_HEADER},
};

use crate::{
    hand::{ATTACKER, Hand, victim_and_friend},
    stage::{Stage, by_network},
    victim::{NOTE, Plan, Saw},
};

fn note() -> Vec<u8> {
    let mut frames = Vec::new();
    encode_frame(&Message::new(NOTE, vec![7; 20]), Envelope::Notification, &mut frames);
    frames
}

/// An attacker under keys sends what `bytes` makes of its hand, and is told why it is sent away; a friend is served.
async fn sent_away(story: &str, reason: CloseReason, bytes: impl FnOnce(&mut Hand) -> Vec<u8>) {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    let mut hand = Hand::shake(victim.addr, ATTACKER).await;
    hand.is_served().await;
    let bytes = bytes(&mut hand);
    hand.raw.send(&bytes).await;
    assert_eq!(hand.told_why().await, Some(reason), "{story}");
    assert_eq!(victim.see_down(hand.id).await, Closed::by_us(reason), "{story}");
    stage.ended(reason, 1).await;
    friend.is_served().await;
    let delivered = victim.rest().into_iter().filter(|saw| matches!(saw, Saw::Message(..))).count();
    assert_eq!(delivered, 0, "{story}: nothing of it reached the stack");
    victim.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_over_its_length_is_refused_by_its_length_alone() {
    let too_long = u16::try_from(MAX_SEALED_BODY + 1).expect("two bytes");
    for length in [too_long, u16::MAX] {
        sent_away("by its length", CloseReason::RecordTooLong, |_| length.to_be_bytes().to_vec()).await;
    }
    // A farewell has one byte, whatever a record may hold.
    sent_away("a long farewell", CloseReason::RecordTooLong, |hand| hand.sealed(RecordKind::Close, &[1, 2])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_short_or_cut_does_not_authenticate() {
    sent_away("shorter than its tag", CloseReason::BadRecord, |_| vec![0, 16]).await;
    sent_away("cut by a byte", CloseReason::BadRecord, |hand| {
        let mut record = hand.sealed(RecordKind::Data, &note());
        record.pop();
        let body = u16::try_from(record.len() - SEALED_HEADER).expect("short");
        record[..SEALED_HEADER].copy_from_slice(&body.to_be_bytes());
        record
    })
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
    victim.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_nobody_asked_for_ends_the_connection() {
    for (kind, plaintext) in
        [(RecordKind::Preamble, vec![0; 37]), (RecordKind::Handshake, vec![0; 32]), (RecordKind::Refuse, vec![1])]
    {
        sent_away(&format!("{kind:?}"), CloseReason::UnexpectedRecord, |hand| hand.sealed(kind, &plaintext)).await;
    }
    for first in [0x00, 0x60, 0xf0, 0x41] {
        sent_away("a kind or flag that is not", CloseReason::UnexpectedRecord, |hand| {
            let mut record = vec![0, 1 + 16];
            let mut body = vec![first];
            let tag = hand.keys.send.encrypt_with_ad(&[], &mut body).expect("a fresh key");
            record.extend(body);
            record.extend(tag);
            record
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_byte_of_a_sealed_record_can_be_changed() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    let mut lengths = 0;
    let mut at = 0;
    loop {
        let mut hand = Hand::shake(victim.addr, ATTACKER).await;
        let mut record = hand.sealed(RecordKind::Data, &note());
        let Some(byte) = record.get_mut(at) else {
            drop(hand);
            break;
        };
        *byte ^= 0x80 >> (at % 8);
        // A record that became longer takes more bytes until it shows; a good one of the greatest length has enough.
        for _ in 0..3 {
            let more = hand.sealed(RecordKind::Data, &vec![0; 16_384]);
            record.extend(more);
        }
        hand.raw.send(&record).await;
        let told = hand.told_why().await;
        lengths += u64::from(told == Some(CloseReason::RecordTooLong));
        assert!(matches!(told, Some(CloseReason::BadRecord | CloseReason::RecordTooLong)), "byte {at}: {told:?}");
        at += 1;
    }
    let expected = [
        crate::stage::by_us(CloseReason::BadRecord, at as u64 - lengths),
        crate::stage::by_us(CloseReason::RecordTooLong, lengths),
        by_network(CloseReason::StreamEnded, 1),
    ];
    assert!(lengths <= 2 && at > 40, "{lengths} of {at}");
    stage.counts(expected).await;
    friend.is_served().await;
    assert!(!victim.rest().iter().any(|saw| matches!(saw, Saw::Message(..))), "a changed record delivers nothing");
    victim.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sealed_record_is_good_once_in_its_place_and_direction() {
    sent_away("left out", CloseReason::BadRecord, |hand| {
        let _lost = hand.sealed(RecordKind::Data, &note());
        hand.sealed(RecordKind::Data, &note())
    })
    .await;
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    let mut hand = Hand::shake(victim.addr, ATTACKER).await;
    let record = hand.sealed(RecordKind::Data, &note());
    hand.raw.send(&[&*record, &*record].concat()).await;
    assert_eq!(hand.told_why().await, Some(CloseReason::BadRecord), "twice");
    assert_eq!(victim.see_down(hand.id).await, Closed::by_us(CloseReason::BadRecord));
    stage.ended(CloseReason::BadRecord, 1).await;
    friend.is_served().await;
    victim.ends_clean().await;
}
