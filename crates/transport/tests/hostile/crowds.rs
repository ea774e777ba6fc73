//! Many streams at once, from one address and from many.

use std::{net::Ipv4Addr, time::Duration};

use peerage_core::CloseReason;
use peerage_transport::proto::{peer_manager::PeerCommand, recorder::Happening};

use crate::{
    hand::{Hand, Initiator, Raw},
    stage::{Stage, by_us, eventually, in_time},
    victim::{Plan, Saw, keypair},
};

/// Longer than any story: no token comes back meanwhile.
const HOUR: Duration = Duration::from_secs(3600);

/// Shakes hands, unless the victim ends the stream without a word.
async fn try_shake(raw: Raw, number: u8) -> Option<Hand> {
    let mut initiator = Initiator::begin(raw, keypair(number)).await;
    let answer = in_time("an answer or the end", initiator.raw.0.peek(&mut [0; 1])).await;
    if answer.unwrap_or(0) == 0 {
        return None;
    }
    initiator.answered().await;
    let proof = initiator.proof();
    let third = initiator.third(&proof);
    initiator.raw.send(&third).await;
    let mut hand = initiator.keys();
    hand.is_served().await;
    Some(hand)
}

/// 200 connections from one address, all with keys of their own: so many are admitted, the rest end unread for the reason.
async fn two_hundred(plan: Plan, admitted: usize, reason: CloseReason) {
    const ALL: u8 = 199; // 200 is the victim itself
    let stage = Stage::set().await;
    let mut victim = plan.start().await;
    let mut hands = Vec::new();
    for number in 0..ALL {
        hands.extend(try_shake(Raw::connect(victim.addr).await, number).await);
    }
    let mut silent = Raw::connect(victim.addr).await;
    assert_eq!(silent.told().await, [0; 0]);
    assert_eq!(hands.len(), admitted);
    stage.ended(reason, u64::from(ALL) + 1 - admitted as u64).await;
    // Those who are in are served, and so is whoever comes from elsewhere.
    for hand in &mut hands {
        hand.is_served().await;
    }
    let elsewhere = Raw::connect_from(Ipv4Addr::new(127, 9, 9, 9), victim.addr).await;
    hands.push(try_shake(elsewhere, 250).await.expect("another address"));
    let ups = victim.rest().iter().filter(|saw| matches!(saw, Saw::Up(_))).count();
    assert_eq!(ups, admitted + 1);
    victim.ends_clean(hands).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_connections_at_once_from_one_address_come_too_fast() {
    let plan = Plan::open_port(|admission| {
        (admission.refill_per_ip, admission.refill_per_group) = (HOUR, HOUR);
    });
    two_hundred(plan, 4, CloseReason::TooFast).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_patient_connections_from_one_address_get_eight_places() {
    let plan = Plan::open_port(|admission| {
        (admission.burst_per_ip, admission.burst_per_group) = (1000, 1000);
    });
    two_hundred(plan, 8, CloseReason::AddressLimit).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_from_one_group_of_addresses_gets_thirty_two_places() {
    let stage = Stage::set().await;
    let plan = Plan::open_port(|admission| admission.burst_per_group = 1000);
    let mut victim = plan.start().await;
    let mut hands = Vec::new();
    for number in 1..=100 {
        let from = Ipv4Addr::new(127, 5, 5, number);
        hands.extend(try_shake(Raw::connect_from(from, victim.addr).await, number).await);
    }
    assert_eq!(hands.len(), 32);
    stage.ended(CloseReason::AddressLimit, 100 - 32).await;
    for hand in &mut hands {
        hand.is_served().await;
    }
    assert_eq!(victim.rest().len(), 32);
    victim.ends_clean(hands).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_never_say_a_word_fill_four_places_of_their_address() {
    let stage = Stage::set().await;
    let mut plan = Plan::open_port(|admission| (admission.burst_per_ip, admission.burst_per_group) = (1000, 1000));
    plan.connection.handshake_deadline = HOUR;
    let victim = plan.start().await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(Raw::connect(victim.addr).await);
    }
    stage.ended(CloseReason::HalfOpenLimit, 46).await;
    assert_eq!(victim.handle.links().len(), 4);
    let elsewhere = Raw::connect_from(Ipv4Addr::new(127, 9, 9, 9), victim.addr).await;
    let newcomer = try_shake(elsewhere, 250).await.expect("admitted");
    for mut refused in streams.drain(4..) {
        assert_eq!(refused.told().await, [0; 0], "unread and without a word");
    }
    drop(streams);
    victim.ends_clean([newcomer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_half_open_handshakes_evicts_itself_and_not_the_lonely_newcomer() {
    const PLACES: usize = 20;
    const GROUPS: u8 = 10;
    const EACH: u8 = 9;
    let stage = Stage::set().await;
    let mut plan = Plan::open_port(|admission| admission.half_open = PLACES);
    plan.connection.handshake_deadline = HOUR;
    let mut victim = plan.start().await;
    let lonely = Raw::connect_from(Ipv4Addr::new(127, 200, 0, 1), victim.addr).await;
    eventually("it is there", || victim.handle.links().len() == 1).await;
    let mut flood = Vec::new();
    for group in 0..GROUPS {
        for host in 1..=EACH {
            flood.push(Raw::connect_from(Ipv4Addr::new(127, 100, group, host), victim.addr).await);
        }
    }
    let evicted = flood.len() + 1 - PLACES;
    stage.ended(CloseReason::HalfOpenLimit, evicted as u64).await;
    // The one that was there first, slow as it is, finishes; so does the next newcomer.
    let mut slow = try_shake(lonely, 1).await.expect("not evicted");
    let newcomer = Raw::connect_from(Ipv4Addr::new(127, 201, 0, 1), victim.addr).await;
    let mut newcomer = try_shake(newcomer, 2).await.expect("admitted");
    slow.is_served().await;
    newcomer.is_served().await;
    assert_eq!(victim.rest().len(), 2, "the flood was never a peer");
    // With the lonely one established, the newcomer found a place without anybody being evicted.
    assert_eq!(stage.counted().get(&by_us(CloseReason::HalfOpenLimit, 1).0), Some(&(evicted as u64)));
    drop(flood);
    victim.ends_clean([slow, newcomer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_from_where_nobody_may_come_from_is_closed_unread_and_it_is_noted_who_was_there() {
    let stage = Stage::set().await;
    let victim = Plan::new().start().await;
    let from = Ipv4Addr::new(127, 66, 0, 1);
    let mut early = try_shake(Raw::connect_from(from, victim.addr).await, 66).await.expect("nobody is denied");
    victim.order_peers(PeerCommand::Deny(vec!["127.66.0.0/16".parse().expect("a range")])).await;
    assert_eq!(early.told_why().await, Some(CloseReason::Denied), "whoever is there hears it");
    for _ in 0..3 {
        assert!(try_shake(Raw::connect_from(from, victim.addr).await, 66).await.is_none(), "unread");
    }
    stage.ended(CloseReason::Denied, 4).await;
    let closed = Happening::TurnedAway { ip: from.into(), reason: CloseReason::Denied };
    let flight = victim.flight(early.id).await;
    assert_eq!(flight.last(), Some(&closed), "{flight:#?}");
    let elsewhere = Raw::connect_from(Ipv4Addr::new(127, 67, 0, 1), victim.addr).await;
    let other = try_shake(elsewhere, 67).await.expect("another range");
    victim.ends_clean([other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_all_connections_nobody_is_let_in_whoever_it_is() {
    let stage = Stage::set().await;
    let mut plan = Plan::new();
    plan.driver.admission.max_links = 10;
    let victim = plan.start().await;
    let mut hands = Vec::new();
    for number in 0..10 {
        hands.push(try_shake(Raw::connect(victim.addr).await, number).await.expect("there is room"));
    }
    for number in 10..15 {
        assert!(try_shake(Raw::connect(victim.addr).await, number).await.is_none());
    }
    stage.ended(CloseReason::TooManyPeers, 5).await;
    for hand in &mut hands {
        hand.is_served().await;
    }
    victim.ends_clean(hands).await;
}
