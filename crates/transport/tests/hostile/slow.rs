//! Peers that take their time, and peers that take nothing.

use std::time::Duration;

use peerage_core::{CloseReason, Closed, DropReason, Message};
use peerage_wire::{Envelope, Frame, RecordKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    hand::{ATTACKER, FRIEND, Hand, Initiator, PREAMBLE_VALUE, Raw, Told, preamble, refusal, victim_and_friend},
    stage::{Stage, by_us, in_time},
    victim::{BULK, Do, ECHO, ITEM, Plan, Saw, keypair},
};

/// What these stories wait for a handshake or a sign of life, instead of 5 s and 90 s.
const SHORT: Duration = Duration::from_secs(1);

fn impatient() -> Plan {
    let mut plan = Plan::new();
    plan.connection.handshake_deadline = SHORT;
    plan
}

/// Whoever closes a socket with bytes in it that nobody read makes TCP send a reset, and a reset may overtake what was said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_farewell_is_not_destroyed_by_what_the_other_side_still_says() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    let mut hand = victim.meets(ATTACKER).await;
    hand.is_served().await;
    // A mistake, and far more behind it than one look at the socket takes.
    let mut bytes = hand.sealed(RecordKind::Preamble, &[0; 37]);
    bytes.resize(512 << 10, 0);
    let taken = in_time("room in the socket", hand.raw.0.write_all(&bytes)).await;
    taken.expect("all of it is read, and thrown away");
    assert_eq!(hand.hear_farewell().await, CloseReason::UnexpectedRecord);
    let after = in_time("the end of the stream", hand.raw.0.read(&mut [0; 1])).await;
    assert_eq!(after.map_err(|error| error.kind()), Ok(0), "an orderly end");
    tokio::time::sleep(Duration::from_millis(50)).await; // in which a reset would come
    assert!(hand.raw.0.take_error().expect("a socket").is_none(), "no reset");
    assert_eq!(victim.see_down(hand.id).await, Closed::by_us(CloseReason::UnexpectedRecord));
    stage.ended(CloseReason::UnexpectedRecord, 1).await;
    friend.is_served().await;
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_at_a_time_does_not_stretch_the_handshake() {
    let stage = Stage::set().await;
    let mut victim = impatient().start().await;
    let silent = async || Raw::connect(victim.addr).await.told().await;
    let first = async || {
        let mut raw = Raw::connect(victim.addr).await;
        raw.drip(&preamble(&PREAMBLE_VALUE).repeat(100)).await;
        raw.told().await
    };
    let second = async || {
        let mut raw = Raw::connect(victim.addr).await;
        raw.send(&preamble(&PREAMBLE_VALUE)).await;
        let message = crate::hand::record(RecordKind::Handshake, &[4; 4000]);
        raw.drip(&message).await;
        raw.told().await
    };
    let third = async || {
        let mut initiator = Initiator::begin(Raw::connect(victim.addr).await, keypair(ATTACKER)).await;
        initiator.answered().await;
        let message = crate::hand::record(RecordKind::Handshake, &[4; 4000]);
        initiator.raw.drip(&message).await;
        initiator.raw.told().await
    };
    let (silent, first, second, third) = tokio::join!(silent(), first(), second(), third());
    assert_eq!((silent, first), (vec![], vec![]), "whoever has not said a word of ours is told nothing");
    let refusal = refusal(CloseReason::HandshakeTimeout);
    assert_eq!((&second, &third), (&refusal, &refusal));
    stage.ended(CloseReason::HandshakeTimeout, 4).await;
    let mut friend = Hand::shake(victim.addr, FRIEND).await;
    friend.is_served().await;
    assert_eq!(victim.rest().len(), 1);
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_of_a_record_at_a_time_is_no_sign_of_life() {
    let stage = Stage::set().await;
    let mut plan = Plan::new();
    (plan.connection.heartbeat_interval, plan.connection.dead_after) = (SHORT / 2, SHORT);
    let mut victim = plan.start().await;
    let mut hand = victim.meets(ATTACKER).await;
    let record = hand.sealed(RecordKind::Data, &[7; 16_000]);
    let mut told = None;
    for byte in record {
        hand.raw.send(&[byte]).await;
        told = hand.told_meanwhile().await;
        if told.is_some() {
            break;
        }
    }
    assert_eq!(told, Some(Told::Close(CloseReason::HeartbeatTimeout)));
    assert_eq!(victim.see_down(hand.id).await, Closed::by_us(CloseReason::HeartbeatTimeout));
    // Nor is silence.
    let mut mute = victim.meets(ATTACKER).await;
    assert_eq!(mute.told_why().await, Some(CloseReason::HeartbeatTimeout));
    stage.ended(CloseReason::HeartbeatTimeout, 2).await;
    let mut friend = victim.meets(FRIEND).await;
    friend.is_served().await;
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_begun_must_come_to_an_end() {
    let stage = Stage::set().await;
    let mut plan = Plan::new();
    plan.connection.stall_window = SHORT;
    let (mut victim, mut friend) = victim_and_friend(plan).await;
    let mut hand = victim.meets(ATTACKER).await;
    let piece = |first: bool| match first {
        true => Frame::First {
            command: BULK,
            envelope: Envelope::Notification,
            head_len: 1 << 20,
            body_len: None,
            piece: &[7],
        },
        false => Frame::Next { command: BULK, last: false, piece: &[7] },
    };
    // Each record is whole and a sign of life, and each brings the message on by a byte.
    let mut told = None;
    for number in 0..100_000 {
        hand.send_frames(&[piece(number == 0)]).await;
        told = hand.told_meanwhile().await;
        if told.is_some() {
            break;
        }
    }
    assert_eq!(told, Some(Told::Close(CloseReason::TooSlow)));
    assert_eq!(victim.see_down(hand.id).await, Closed::by_us(CloseReason::TooSlow));
    stage.ended(CloseReason::TooSlow, 1).await;
    friend.is_served().await;
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_reads_costs_what_it_may_owe_and_nobody_else_anything() {
    const OWED: usize = 1 << 20;
    const LENGTH: usize = 60_000;
    const FLOOD: u64 = 400;
    let stage = Stage::set().await;
    let mut plan = Plan::new();
    plan.driver.owed_per_peer = OWED;
    let (mut victim, mut friend) = victim_and_friend(plan).await;
    let hand = Hand::shake(victim.addr, ATTACKER).await;
    victim.see("the attacker", |saw| *saw == Saw::Up(hand.id)).await;
    for _ in 0..FLOOD {
        victim.order(Do::Send(hand.id, Message::new(ITEM, vec![7; LENGTH]))).await;
    }
    victim.handle.inspect(|_| ()).await.expect("it runs");
    friend.is_served().await;
    let shed = victim.rest().iter().filter(|saw| **saw == Saw::Dropped(hand.id, DropReason::PeerOverLimit)).count();
    assert!(shed > 0, "the stack is told");
    stage.counts([crate::stage::dropped(DropReason::PeerOverLimit, shed as u64)]).await;
    let owed = victim.handle.links().iter().find(|link| link.peer == Some(hand.id)).map(|link| link.owed);
    assert!(owed.is_some_and(|owed| owed <= OWED), "{owed:?}");
    assert!(victim.budget.report().resident <= OWED + LENGTH, "{:?}", victim.budget.report());
    drop(hand);
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_and_never_reads_the_answers_owes_no_more_than_others() {
    const OWED: usize = 256 << 10;
    let stage = Stage::set().await;
    let mut plan = Plan::new();
    plan.driver.owed_per_peer = OWED;
    // The credit for the questions comes back, or it would be the questions that stop.
    let (mut victim, mut friend) = victim_and_friend(plan).await;
    let mut hand = Hand::shake(victim.addr, ATTACKER).await;
    // All of a window of questions: their answers wait, first in the socket and then with us.
    for number in 0..32 {
        hand.send_message(&Message::new(ECHO, vec![7; 15_000]), Envelope::Request(number)).await;
    }
    let owes = || victim.handle.links().iter().find(|link| link.peer == Some(hand.id)).map_or(0, |link| link.owed);
    crate::stage::eventually("answers that no socket takes any more", || owes() > 0).await;
    for _ in 0..20 {
        friend.is_served().await;
        assert!(owes() <= OWED, "{}", owes());
    }
    let shed = victim.rest().iter().filter(|saw| matches!(saw, Saw::Dropped(..))).count() as u64;
    assert!(shed <= 32);
    drop(hand);
    crate::stage::eventually("its end", || victim.handle.links().len() == 1).await;
    let counted = stage.counted();
    assert!(counted.get(&crate::counters::dropped(DropReason::PeerOverLimit)).copied().unwrap_or(0) >= shed);
    assert!(!counted.contains_key(&by_us(CloseReason::SlowPeer, 1).0));
    victim.ends_clean([friend]).await;
}
