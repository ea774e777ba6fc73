//! Limits of what a node sends and reads in all.
//!
//! Most run in virtual time, over pipes: the runtime's clock stands still while anybody works, so that what passes in ten
//! seconds is the same in each run.

use core::{num::NonZeroU64, time::Duration};

use peerage_core::*;
use peerage_transport::driver::Bandwidth;
use tokio::time::{Instant, sleep};

use crate::{
    harness::{Net, Node, Plan, pair, pattern},
    probe::{BULK, ITEM, Saw, VOTE},
};

const SECOND: Duration = Duration::from_secs(1);

fn sends(limit: u64) -> Bandwidth {
    Bandwidth { egress: NonZeroU64::new(limit), ingress: None }
}

fn reads(limit: u64) -> Bandwidth {
    Bandwidth { egress: None, ingress: NonZeroU64::new(limit) }
}

/// A node that may have any amount under way to a peer.
fn plan(number: u8, bandwidth: Bandwidth) -> Plan {
    let mut plan = Plan::new(number);
    plan.driver.owed_per_peer = usize::MAX;
    plan.driver.bandwidth = bandwidth;
    plan
}

/// Queues so many messages.
async fn queue(from: &Node, to: &Node, command: Command, count: u64, len: usize) {
    let content = pattern(7, len);
    for number in 0..count {
        from.send(to, Message::with_body(command, number.to_be_bytes().to_vec(), content.clone())).await;
    }
}

/// What a node reads in ten seconds from now on.
async fn ten_seconds(node: &Node) -> u64 {
    let before = node.handle.bandwidth().received;
    sleep(10 * SECOND).await;
    node.handle.bandwidth().received - before
}

fn assert_near(bytes: u64, expected: u64) {
    assert!(bytes.abs_diff(expected) <= expected / 20, "{bytes} bytes instead of {expected}");
}

/// How long a vote is under way.
async fn vote(from: &Node, to: &mut Node) -> Duration {
    let begun = Instant::now();
    from.send(to, Message::with_body(VOTE, vec![1], pattern(1, 200))).await;
    to.see_message(from.id, VOTE).await;
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn what_arrives_in_ten_seconds_is_what_the_sender_may_send() {
    let (a, b) = pair(&Net::memory(), plan(1, sends(1_000_000)), plan(2, Bandwidth::default())).await;
    queue(&a, &b, BULK, 30, 1_000_000).await;
    sleep(SECOND).await;
    for _ in 0..2 {
        assert_near(ten_seconds(&b).await, 10_000_000);
    }
    let report = a.handle.bandwidth();
    let granted: u64 = report.egress.written.0.iter().sum();
    assert!(report.sent.abs_diff(granted) <= 50_000, "{report:?}");
    assert_eq!(report.egress.waiting[Class::Bulk], 1, "the rest waits");
    assert_eq!(b.handle.bandwidth().egress.limit, None);
}

#[tokio::test(start_paused = true)]
async fn a_vote_passes_while_bulk_waits() {
    let (a, mut b) = pair(&Net::memory(), plan(1, sends(300_000)), plan(2, Bandwidth::default())).await;
    queue(&a, &b, BULK, 20, 1_000_000).await;
    sleep(SECOND).await;
    for _ in 0..10 {
        let took = vote(&a, &mut b).await;
        assert!(took <= Duration::from_millis(60), "{took:?}, and a record takes 50 ms");
        sleep(Duration::from_millis(333)).await;
    }
    assert_eq!(a.handle.bandwidth().egress.waiting[Class::Bulk], 1, "bulk waited all the time");
}

#[tokio::test(start_paused = true)]
async fn bulk_goes_on_beside_gossip_and_two_peers_have_the_same() {
    let net = Net::memory();
    let (a, b) = pair(&net, plan(1, sends(400_000)), plan(2, Bandwidth::default())).await;
    let mut third = plan(3, Bandwidth::default());
    third.peers.reserved.push(a.known());
    let mut c = third.start(&net).await;
    c.see_up(a.id).await;
    for to in [&b, &c] {
        queue(&a, to, ITEM, 40, 100_000).await;
        queue(&a, to, BULK, 4, 1_000_000).await;
    }
    sleep(SECOND).await;
    let before = a.handle.bandwidth().egress.written;
    let [to_b, to_c] = [&b, &c].map(|node| node.handle.bandwidth().received);
    sleep(10 * SECOND).await;
    let [to_b, to_c] = [(&b, to_b), (&c, to_c)].map(|(node, before)| node.handle.bandwidth().received - before);
    assert_near(to_b + to_c, 4_000_000);
    assert!(to_b.abs_diff(to_c) <= 80_000, "{to_b} and {to_c}: two records of each class");
    let after = a.handle.bandwidth().egress.written;
    let passed = |class| after[class] - before[class];
    assert_near(passed(Class::Gossip) / 19, passed(Class::Bulk));
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_changed_and_lifted_while_everything_waits() {
    let (a, mut b) = pair(&Net::memory(), plan(1, sends(100_000)), plan(2, Bandwidth::default())).await;
    queue(&a, &b, BULK, 20, 1_000_000).await;
    sleep(SECOND).await;
    assert_near(ten_seconds(&b).await, 1_000_000);
    a.handle.limit_bandwidth(sends(800_000));
    assert_near(ten_seconds(&b).await, 8_000_000);
    a.handle.limit_bandwidth(sends(200_000));
    assert_near(ten_seconds(&b).await, 2_000_000);
    let (begun, before) = (Instant::now(), b.handle.bandwidth().received);
    a.handle.limit_bandwidth(Bandwidth::default());
    for _ in 0..20 {
        b.see_message(a.id, BULK).await;
    }
    assert!(begun.elapsed() <= Duration::from_millis(100), "{:?}", begun.elapsed());
    assert!(b.handle.bandwidth().received - before > 8_000_000, "all the rest, at once");
}

#[tokio::test(start_paused = true)]
async fn a_node_reads_no_more_than_it_may_and_votes_wait_for_little() {
    let (a, mut b) = pair(&Net::memory(), plan(1, Bandwidth::default()), plan(2, reads(1_000_000))).await;
    queue(&a, &b, BULK, 20, 1_000_000).await;
    queue(&a, &b, ITEM, 200, 100_000).await;
    sleep(SECOND).await;
    for _ in 0..3 {
        assert_near(ten_seconds(&b).await, 10_000_000);
        let took = vote(&a, &mut b).await;
        // What the pipe and the sender's buffer hold, 64 and 32 KiB, and one turn.
        assert!(took <= Duration::from_millis(200), "{took:?}");
    }
    b.handle.limit_bandwidth(Bandwidth::default());
    for (command, count) in [(BULK, 20), (ITEM, 200)] {
        for _ in 0..count {
            b.see_message(a.id, command).await;
        }
    }
    assert_eq!(b.handle.bandwidth().ingress.held, 0, "all credit has come back");
    queue(&a, &b, BULK, 20, 1_000_000).await;
    for _ in 0..20 {
        b.see_message(a.id, BULK).await;
    }
}

#[tokio::test]
async fn under_limits_everything_arrives_once_and_in_order_and_peers_may_leave_at_any_time() {
    for net in Net::both() {
        let limits = Bandwidth { egress: NonZeroU64::new(3_000_000), ingress: NonZeroU64::new(3_000_000) };
        let (mut a, mut b) = pair(&net, plan(1, limits), plan(2, limits)).await;
        let mut third = plan(3, limits);
        third.peers.reserved.push(a.known());
        let c = third.start(&net).await;
        a.see_up(c.id).await;
        for (command, len) in [(BULK, 400_000), (ITEM, 30_000), (VOTE, 300)] {
            queue(&a, &b, command, 5, len).await;
            queue(&b, &a, command, 5, len).await;
            queue(&a, &c, command, 5, len).await;
        }
        c.handle.shutdown().await;
        a.see_down(c.id).await;
        let (first, second) = (a.id, b.id);
        for (from, to) in [(first, &mut b), (second, &mut a)] {
            for command in [VOTE, ITEM, BULK] {
                for number in 0..5_u64 {
                    assert_eq!(to.see_message(from, command).await.head[..], number.to_be_bytes());
                }
            }
            let rest = to.rest();
            let kept = |peer: &NodeId| *peer == first || *peer == second;
            let wrong = |saw: &Saw| matches!(saw, Saw::Message(peer, _) | Saw::Dropped(peer, ..) if kept(peer));
            assert!(!rest.iter().any(wrong), "{rest:?}");
        }
        a.handle.shutdown().await;
        b.handle.shutdown().await;
    }
}
