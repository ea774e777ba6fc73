//! Compressed bodies that lie, explode, or were never asked for.

use peerage_core::{Class, CloseReason, Closed, Command, DropReason, Layer};
use peerage_transport::proto::{
    connection::COMPRESSION,
    noise::identity::{Hello, seal_payload},
};
use peerage_wire::{Envelope, Frame, compress, limits::MAX_CONTENT};

use crate::{
    hand::{ATTACKER, Hand, Initiator, Raw, claim, victim_and_friend},
    stage::{Stage, by_us, dropped},
    victim::{BULK, ITEM, NOTE, Plan, Saw, Victim, keypair},
};

const fn packed(command: Command, body_len: usize, packed: &[u8]) -> Frame<'_> {
    Frame::Packed { command, envelope: Envelope::Notification, head: b"head", body_len, packed }
}

/// A victim that takes compressed bodies of `ITEM` and `BULK`.
fn plan() -> Plan {
    let mut plan = Plan::new();
    plan.connection.features = COMPRESSION;
    plan
}

/// Shakes hands as somebody who takes compressed bodies too.
async fn shake(victim: &Victim) -> Hand {
    shake_as(victim, ATTACKER).await
}

async fn shake_as(victim: &Victim, number: u8) -> Hand {
    let mut initiator = Initiator::begin(Raw::connect(victim.addr).await, keypair(number)).await;
    initiator.answered().await;
    let hello = Hello::new(1 << 56 | COMPRESSION, Vec::new()).expect("no address");
    let third = initiator.third(&seal_payload(&initiator.keypair, &claim(&initiator.noise), &hello));
    initiator.raw.send(&third).await;
    initiator.keys()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_unpack_to_what_was_announced_ends_the_connection_and_nothing_is_kept() {
    let good = compress::pack(&[7; 50_000]).expect("all the same");
    let bomb = compress::pack(&vec![0; 4 << 20]).expect("all the same");
    assert!(bomb.len() < 17_000, "a record's worth makes four million bytes: {}", bomb.len());
    let bomb = &bomb[..16_000];
    let longer = [&good[..], &[0x10, 7]].concat();
    let ping = Command::new(Layer::Transport, 30, Class::Control);
    use CloseReason::{BadFragment, MalformedMessage, MessageTooLong};
    let first = |packed_len, piece| Frame::FirstPacked {
        command: ITEM,
        envelope: Envelope::Notification,
        head_len: 4,
        body_len: 50_000,
        packed_len,
        piece,
    };
    let all = [&b"head"[..], &good].concat();
    let end = [&all[100..], &[0x10, 7]].concat();
    let cases = [
        ("a bomb that says so", vec![packed(ITEM, 4 << 20, bomb)], MessageTooLong),
        ("a bomb that says less", vec![packed(ITEM, MAX_CONTENT - 4, bomb)], MalformedMessage),
        ("a body that is shorter than it says", vec![packed(ITEM, 50_001, &good)], MalformedMessage),
        ("a body that is longer than it says", vec![packed(ITEM, 49_999, &good)], MalformedMessage),
        ("bytes behind the end", vec![packed(ITEM, 50_000, &longer)], MalformedMessage),
        ("half a block", vec![packed(ITEM, 50_000, &good[..good.len() / 2])], MalformedMessage),
        ("no block at all", vec![packed(ITEM, 50_000, &[0xff; 100])], MalformedMessage),
        ("nothing saved", vec![packed(ITEM, 2_000, &[7; 1_801])], MalformedMessage),
        ("too short to be worth it", vec![packed(ITEM, 1_024, &good[..20])], MalformedMessage),
        ("what is not public", vec![packed(NOTE, 20_000, &good)], MalformedMessage),
        ("a control message", vec![packed(ping, 2_000, &good)], MalformedMessage),
        (
            "a lie in pieces",
            vec![first(good.len() + 2, &all[..100]), Frame::Next { command: ITEM, last: true, piece: &end }],
            MalformedMessage,
        ),
        (
            "more pieces than announced",
            vec![first(good.len(), &all[..100]), Frame::Next { command: ITEM, last: true, piece: &[7; 300] }],
            BadFragment,
        ),
    ];
    let mut stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(plan()).await;
    for (story, frames, reason) in cases {
        stage.again();
        let mut hand = shake(&victim).await;
        hand.is_served().await; // whoever ends before it was admitted was never up
        for frame in &frames {
            hand.send_frames(core::slice::from_ref(frame)).await;
        }
        assert_eq!(hand.told_why().await, Some(reason), "{story}");
        assert_eq!(victim.see_down(hand.id).await, Closed::by_us(reason), "{story}");
        stage.ended(reason, 1).await;
        friend.is_served().await;
    }
    assert!(!victim.rest().iter().any(|saw| matches!(saw, Saw::Message(..))), "nothing was delivered");
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_did_not_agree_on_compression_is_refused_whoever_of_both_it_was() {
    let good = compress::pack(&[7; 50_000]).expect("all the same");
    let reason = CloseReason::MalformedMessage;
    for (story, victims, agrees) in [("the victim", Plan::new(), true), ("the attacker", plan(), false)] {
        let stage = Stage::set().await;
        let (mut victim, mut friend) = victim_and_friend(victims).await;
        let mut hand = if agrees { shake(&victim).await } else { victim.meets(ATTACKER).await };
        hand.is_served().await;
        hand.send_frames(&[packed(ITEM, 50_000, &good)]).await;
        assert_eq!(hand.told_why().await, Some(reason), "{story} did not");
        assert_eq!(victim.see_down(hand.id).await, Closed::by_us(reason));
        stage.ended(reason, 1).await;
        friend.is_served().await;
        victim.ends_clean([friend]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_unpacks_to_much_is_paid_for_with_credit_as_if_it_had_come_as_it_is() {
    // A megabyte of credit for its class, and two hundred thousand bytes of body in less than a thousand.
    let votes = Command::new(Layer::Application, 20, Class::Consensus);
    let block = compress::pack(&[0; 220_000]).expect("all the same");
    let frame = packed(votes, 220_000, &block);
    let mut stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(plan()).await;
    let mut hand = shake(&victim).await;
    hand.is_served().await;
    // In one record, so that nothing is given back in between. Nobody knows them: they are skipped, and cost the same.
    hand.send_frames(&[frame; 4]).await;
    hand.is_served().await;
    stage.counts([dropped(DropReason::UnknownCommand, 4)]).await;
    stage.again();
    let mut greedy = shake_as(&victim, ATTACKER + 1).await;
    greedy.is_served().await;
    greedy.send_frames(&[frame; 5]).await;
    assert_eq!(greedy.told_why().await, Some(CloseReason::CreditExceeded));
    assert_eq!(victim.see_down(greedy.id).await, Closed::by_us(CloseReason::CreditExceeded));
    stage.counts([dropped(DropReason::UnknownCommand, 4), by_us(CloseReason::CreditExceeded, 1)]).await;
    friend.is_served().await;
    victim.ends_clean([hand, friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_compressed_body_is_delivered_and_given_back() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(plan()).await;
    let mut hand = shake(&victim).await;
    hand.is_served().await;
    let block = compress::pack(&[7; 1_000_000]).expect("all the same");
    hand.send_frames(&[packed(BULK, 1_000_000, &block)]).await;
    victim.see("the message", |saw| *saw == Saw::Message(hand.id, BULK)).await;
    stage.counts([]).await;
    friend.is_served().await;
    victim.ends_clean([hand, friend]).await;
}
