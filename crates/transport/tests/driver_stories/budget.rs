//! The ledger: what is charged comes back.

use std::time::Duration;

use peerage_core::*;
use peerage_transport::driver::Clock;

use crate::{
    harness::{Net, PATIENCE, Plan, eventually, pair, pattern},
    probe::{BULK, Do, ECHO, ITEM, NOTE, Saw},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_given_back_once_it_is_consumed_and_links_are_closed() {
    for net in Net::both() {
        let (a, mut b) = pair(&net, Plan::new(1), Plan::new(2)).await;
        b.order(Do::Hoard).await;
        for number in 0..50 {
            for command in [NOTE, ITEM, BULK] {
                a.send(&b, Message::new(command, pattern(number, 20_000))).await;
                b.see_message(a.id, command).await;
            }
        }
        eventually("the sender is rid of it", || a.resident() == 0).await;
        assert!(b.resident() >= 150 * 20_000, "who keeps messages keeps paying: {}", b.resident());
        b.order(Do::Release).await;
        eventually("the receiver is rid of it", || b.resident() == 0).await;
        assert!(b.budget.report().peak >= 150 * 20_000);

        // In the middle of everything: what is in queues, sockets and reassembly goes with the connection.
        for number in 0..100 {
            a.send(&b, Message::new(BULK, pattern(number, 500_000))).await;
            b.send(&a, Message::new(ITEM, pattern(number, 500_000))).await;
        }
        a.handle.shutdown().await;
        assert_eq!(b.see_down(a.id).await, Closed::by_them(CloseReason::Shutdown));
        b.handle.shutdown().await;
        for node in [&a, &b] {
            eventually("all is given back", || node.resident() == 0).await;
            let report = node.budget.report();
            assert!(report.pools.iter().all(|(_, bytes)| *bytes == 0), "{report:?}");
            assert_eq!(node.handle.links().len(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_many_is_kept_once_and_owed_by_each() {
    let net = Net::memory();
    let mut a = Plan::new(1).start(&net).await;
    let mut peers = Vec::new();
    for number in 2..6 {
        peers.push(Plan::knowing(number, [a.known()]).start(&net).await);
    }
    for peer in &peers {
        a.see_up(peer.id).await;
    }
    let message = Message::new(BULK, pattern(1, 1_000_000));
    a.order(Do::Send(peers.iter().map(|peer| peer.id).collect(), message.clone())).await;
    for peer in &mut peers {
        assert!(peer.see_message(a.id, BULK).await == message);
    }
    let peak = a.budget.report().peak;
    assert!((1_000_000..2_000_000).contains(&peak), "{peak} bytes for one message to four");
    eventually("all is given back", || a.resident() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_does_not_fit_the_ledger_is_shed_and_there_is_room_later() {
    let mut plan = Plan::new(1);
    plan.driver.budget = Budget::new(100_000);
    let (mut a, mut b) = pair(&Net::memory(), plan, Plan::new(2)).await;
    let taken = a.budget.charge(Pool::Table, 90_000).expect("the ledger is empty");
    a.send(&b, Message::new(ITEM, pattern(1, 20_000))).await;
    let shed = Saw::Dropped(b.id, ITEM, DropReason::OverBudget);
    a.see("that it does not fit", |saw| *saw == shed).await;
    a.order(Do::Request(b.id, 1, Message::new(ECHO, pattern(1, 20_000)), PATIENCE)).await;
    assert_eq!(a.see_response(1).await, Err(RequestError::Dropped(DropReason::OverBudget)));
    drop(taken);
    let writable = Saw::Writable(b.id);
    a.see("that there is room", |saw| *saw == writable).await;
    a.send(&b, Message::new(ITEM, pattern(1, 20_000))).await;
    b.see_message(a.id, ITEM).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_insists_while_the_ledger_is_full_does_not_keep_the_processor_busy() {
    let mut plan = Plan::new(1);
    plan.driver.budget = Budget::new(100_000);
    let (mut a, mut b) = pair(&Net::memory(), plan, Plan::new(2)).await;
    let taken = a.budget.charge(Pool::Table, 90_000).expect("the ledger is empty");
    let clock = Clock::start();
    a.order(Do::Insist(b.id, Message::new(ITEM, pattern(1, 20_000)))).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    a.settled().await;
    let passed = clock.now().mono.since(Timestamp::ZERO);
    let tries = a.rest().iter().filter(|saw| matches!(saw, Saw::Dropped(..))).count() as u128;
    // However long that took: a try each ten milliseconds, the first, and one that hears of room by chance.
    assert!((2..=passed.as_millis() / 10 + 2).contains(&tries), "{tries} tries in {passed:?}");
    drop(taken);
    b.see_message(a.id, ITEM).await;
}
