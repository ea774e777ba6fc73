//! Memory is short: whoever takes nothing of what waits for it goes without, and whoever owes little is served.

use std::time::Duration;

use peerage_core::{Budget, CloseReason, Closed, DropReason, Message};

use crate::{
    hand::{ATTACKER, Hand, victim_and_friend},
    stage::{Stage, by_us, eventually},
    victim::{BULK, Do, ITEM, Plan, Saw, configuration, keypair},
};

/// A node with 1.5 MiB for what all peers are sent, 768 KiB for what is incomplete, and floors of 64 KiB.
fn short_of_memory() -> Plan {
    let mut plan = Plan::new();
    plan.driver.budget = Budget::with_floors(8 << 20, 8);
    plan.connection = configuration(keypair(crate::victim::VICTIM), plan.driver.budget.clone());
    plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_nothing_and_owes_most_loses_messages_and_at_last_the_connection() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(short_of_memory()).await;
    let hand = Hand::shake(victim.addr, ATTACKER).await;
    victim.see("the attacker", |saw| *saw == Saw::Up(hand.id)).await;
    let mut saw = Vec::new();
    while !saw.iter().any(|saw| matches!(saw, Saw::Down(peer, _) if *peer == hand.id)) {
        for _ in 0..10 {
            victim.order(Do::Send(hand.id, Message::new(ITEM, vec![7; 60_000]))).await;
        }
        victim.handle.inspect(|_| ()).await.expect("it runs");
        friend.is_served().await;
        saw.extend(victim.rest());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(saw.contains(&Saw::Down(hand.id, Closed::by_us(CloseReason::SlowPeer))), "{:?}", saw.last());
    assert!(saw.contains(&Saw::Dropped(hand.id, DropReason::Shed)), "before that it lost messages");
    let lost = |saw: &&Saw| matches!(saw, Saw::Dropped(peer, _) if *peer != hand.id);
    assert_eq!(saw.iter().find(lost), None, "nobody else did");
    let counted = stage.counted();
    assert_eq!(counted.get(&by_us(CloseReason::SlowPeer, 1).0), Some(&1), "{counted:?}");
    assert!(counted.contains_key(&crate::counters::dropped(DropReason::Shed)), "{counted:?}");
    let measure = |name: &str| counted.contains_key(&format!("peerage_memory_measures_total{{measure={name}}}"));
    assert!(measure("shed") && measure("stop"), "{counted:?}");
    drop(hand);
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_holds_most_of_what_is_incomplete_goes_when_others_have_to_wait_and_is_told_why() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(short_of_memory()).await;
    let mut hand = Hand::shake(victim.addr, ATTACKER).await;
    hand.is_served().await;
    hand.say(Message::new(BULK, vec![7; 700_000]), false).await;
    // Who comes first has the memory.
    eventually("most of it", || victim.budget.report().resident > 400_000).await;
    // Meanwhile what is short finds its way, and what is long waits.
    friend.is_served().await;
    let long = Message::new(BULK, vec![8; 300_000]);
    friend.say(long, true).await;
    assert_eq!(hand.told_why().await, Some(CloseReason::Hoarding));
    victim.see("the message that waited", |saw| *saw == Saw::Message(friend.id, BULK)).await;
    let counted = stage.counted();
    assert_eq!(counted.get(&by_us(CloseReason::Hoarding, 1).0), Some(&1), "{counted:?}");
    friend.is_served().await;
    victim.ends_clean([friend]).await;
}
