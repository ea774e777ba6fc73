//! Pieces that do not make up a message.

use peerage_core::{Class, CloseReason, Closed, Command, Layer};
use peerage_transport::proto::connection::commands::PING;
use peerage_wire::{Envelope, Frame, limits::MAX_CONTENT};

use crate::{
    hand::{ATTACKER, Hand, victim_and_friend},
    stage::Stage,
    victim::{BULK, ITEM, NOTE, Plan, Saw, VOTE},
};

const fn first(command: Command, total: usize, piece: &[u8]) -> Frame<'_> {
    Frame::First { command, envelope: Envelope::Notification, head_len: total, body_len: None, piece }
}

const fn next(command: Command, last: bool, piece: &[u8]) -> Frame<'_> {
    Frame::Next { command, last, piece }
}

const fn whole(command: Command, head: &[u8]) -> Frame<'_> {
    Frame::Whole { command, envelope: Envelope::Notification, head, body: None }
}

/// Each list of frames, one record each, ends the connection for the reason; nothing of them is delivered.
async fn each(cases: Vec<(&str, Vec<Frame<'_>>, CloseReason)>) {
    let mut stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    for (story, frames, reason) in cases {
        stage.again();
        let mut hand = victim.meets(ATTACKER).await;
        hand.is_served().await; // whoever ends before it was admitted was never up
        for frame in &frames {
            hand.send_frames(core::slice::from_ref(frame)).await;
        }
        assert_eq!(hand.told_why().await, Some(reason), "{story}");
        assert_eq!(victim.see_down(hand.id).await, Closed::by_us(reason), "{story}");
        stage.ended(reason, 1).await;
        friend.is_served().await;
    }
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fragment_without_a_first_with_two_lasts_or_past_its_size() {
    use CloseReason::{BadFragment, MessageTooLong};
    let piece = &[7; 100][..];
    each(vec![
        ("without a first", vec![next(ITEM, false, piece)], BadFragment),
        ("nothing but an end", vec![next(ITEM, true, piece)], BadFragment),
        ("two lasts", vec![first(ITEM, 200, piece), next(ITEM, true, piece), next(ITEM, true, piece)], BadFragment),
        ("past its size", vec![first(ITEM, 150, piece), next(ITEM, true, piece)], BadFragment),
        ("past its size at once", vec![first(ITEM, 99, piece)], BadFragment),
        ("an early end", vec![first(ITEM, 300, piece), next(ITEM, true, piece)], BadFragment),
        ("no end", vec![first(ITEM, 200, piece), next(ITEM, false, piece)], BadFragment),
        ("another message of its class inside", vec![first(ITEM, 200, piece), whole(ITEM, piece)], BadFragment),
        ("two at once", vec![first(ITEM, 200, piece), first(ITEM, 200, piece)], BadFragment),
        (
            "a piece of another command",
            vec![first(ITEM, 200, piece), next(Command::new(Layer::Application, 9, Class::Gossip), true, piece)],
            BadFragment,
        ),
        ("a control message in pieces", vec![first(PING, 150, piece)], BadFragment),
        ("more than its command allows", vec![first(NOTE, (32 << 10) + 1, piece)], MessageTooLong),
        ("more than any may have", vec![first(BULK, MAX_CONTENT + 1, piece)], MessageTooLong),
        ("as much as there are numbers", vec![first(BULK, usize::MAX, piece)], MessageTooLong),
        (
            "an unknown command beyond its class",
            vec![first(Command::new(Layer::Application, 30, Class::Signal), 70 << 10, piece)],
            MessageTooLong,
        ),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_fragment_is_believed_only_as_far_as_bytes_arrive() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    let before = victim.budget.report().resident;
    let mut hand = Hand::shake(victim.addr, ATTACKER).await;
    for command in [VOTE, NOTE, ITEM, BULK] {
        let most = match command {
            VOTE => 64 << 10,
            NOTE => 30_000, // the rest of the class is for the question below
            _ => MAX_CONTENT,
        };
        hand.send_frames(&[first(command, most, &[7; 64])]).await;
    }
    friend.is_served().await;
    hand.notify(&peerage_core::Message::new(Command::new(Layer::Transport, 30, Class::Control), Vec::new())).await;
    stage.counts([crate::stage::dropped(peerage_core::DropReason::UnknownCommand, 1)]).await;
    let held = victim.budget.report().resident - before;
    assert!(held < 4 * 1024, "four megabytes were announced, 256 bytes came: {held} are held");
    let id = hand.id;
    drop(hand);
    victim.see_down(id).await;
    assert!(!victim.rest().iter().any(|saw| matches!(saw, Saw::Message(..))));
    victim.ends_clean([friend]).await;
}
