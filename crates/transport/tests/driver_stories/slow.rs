//! Peers that do not take what they are sent.

use std::sync::LazyLock;

use bytes::Bytes;
use peerage_core::*;
use peerage_transport::proto::connection::credit::{cost, window};

use crate::{
    by_hand::ByHand,
    harness::{Net, Node, Plan, anywhere, in_time, pair, pattern},
    probe::{Do, ITEM, NOTE, Saw},
};

/// What may wait for one peer in these stories.
const OWED: usize = 1 << 20;
/// One message: its number, and content.
const LENGTH: usize = 8 + CONTENT;
const CONTENT: usize = 60_000;
/// More messages than fit a window of credit, what may wait, and the buffers of two sockets: 24 MB.
const FLOOD: usize = 400;

/// The content of an item: all alike would hide holes and mix-ups.
fn item(number: usize) -> Bytes {
    static ITEMS: LazyLock<Vec<Bytes>> = LazyLock::new(|| (0..16).map(|n| pattern(n, CONTENT)).collect());
    ITEMS[number % 16].clone()
}

/// A node, a good peer of it, and one that the test plays.
async fn three(net: &Net) -> (Node, Node, ByHand) {
    let mut plan = Plan::new(1);
    plan.driver.owed_per_peer = OWED;
    let (mut node, good) = pair(net, plan, Plan::new(2)).await;
    let fabric = net.bind(anywhere()).await;
    let slow = ByHand::dial(&Plan::new(3), &*fabric, node.addr).await;
    node.see_up(slow.id).await;
    (node, good, slow)
}

/// Sends to the slow peer until something is shed; says how many were taken before that.
async fn flood(node: &mut Node, slow: NodeId) -> usize {
    for number in 0..FLOOD {
        let message = Message::with_body(ITEM, number.to_be_bytes().to_vec(), item(number));
        node.order(Do::Send(vec![slow], message)).await;
    }
    node.settled().await;
    let mut shed = 0;
    for saw in node.rest() {
        if let Saw::Dropped(peer, command, reason) = saw {
            assert_eq!((peer, command, reason), (slow, ITEM, DropReason::PeerOverLimit));
            shed += 1;
        }
    }
    assert!(shed > 0, "{FLOOD} messages of {LENGTH} bytes went nowhere and none was shed");
    FLOOD - shed
}

async fn others_are_unaffected(node: &mut Node, good: &mut Node) {
    for number in 0..FLOOD {
        node.send(good, Message::new(ITEM, item(number))).await;
        assert!(good.see_message(node.id, ITEM).await.head == item(number), "message {number}");
    }
    assert!(!node.rest().iter().any(|saw| matches!(saw, Saw::Dropped(..))), "all were sent to the good one");
}

fn owed(node: &Node, peer: NodeId) -> usize {
    let links = node.handle.links();
    links.iter().find(|link| link.peer == Some(peer)).expect("they are connected").owed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_reading_costs_what_it_may_owe_and_hears_again_when_it_reads() {
    for net in Net::both() {
        let (mut node, mut good, mut slow) = three(&net).await;
        let sent = flood(&mut node, slow.id).await;
        assert!(owed(&node, slow.id) <= OWED);
        assert!(node.resident() <= OWED + LENGTH, "{} bytes for one peer", node.resident());
        others_are_unaffected(&mut node, &mut good).await;

        // All that was taken arrives, in order and once; the holes are what was shed.
        let mut got = Vec::new();
        while got.len() < sent {
            let is = |event: &ConnectionEvent| matches!(event, ConnectionEvent::Message { .. });
            for event in slow.read_until(is).await {
                if let ConnectionEvent::Message { message, .. } = event {
                    let number = usize::from_be_bytes(message.head[..].try_into().expect("a number"));
                    assert!(message.body == Some(item(number)), "message {number}");
                    assert!(got.last().is_none_or(|last| *last < number), "{number} after {got:?}");
                    got.push(number);
                }
            }
        }
        let writable = Saw::Writable(slow.id);
        node.see("that there is room again", |saw| *saw == writable).await;
        node.order(Do::Send(vec![slow.id], Message::new(NOTE, "the end"))).await;
        let end = |event: &ConnectionEvent| matches!(event, ConnectionEvent::Message { message, .. } if message.command == NOTE);
        slow.read_until(end).await;
        assert_eq!(owed(&node, slow.id), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_that_never_consumes_a_class_starves_itself_of_that_class_alone() {
    let (mut node, mut good, mut slow) = three(&Net::Tcp).await;
    slow.consumes = |class| class != Class::Gossip;
    let id = slow.id;
    let reading = tokio::spawn(async move {
        let mut items = 0;
        loop {
            let is = |event: &ConnectionEvent| matches!(event, ConnectionEvent::Message { .. });
            for event in slow.read_until(is).await {
                if let ConnectionEvent::Message { message, .. } = event {
                    match message.command {
                        ITEM => items += 1,
                        _ => return (slow, items),
                    }
                }
            }
        }
    });
    // What the credit of the class covers is sent, what may wait waits, and that is all, however often we try.
    let (covered, waiting) = (window(Class::Gossip) / cost(LENGTH), OWED / cost(LENGTH));
    let mut taken = 0;
    let filling = async {
        while taken < covered + waiting {
            taken += flood(&mut node, id).await;
        }
    };
    in_time("the queue is full", filling).await;
    assert_eq!((taken, flood(&mut node, id).await), (covered + waiting, 0));
    assert_eq!(owed(&node, id), waiting * cost(LENGTH));
    others_are_unaffected(&mut node, &mut good).await;

    node.order(Do::Send(vec![id], Message::new(NOTE, "small and urgent"))).await;
    let (slow, items) = in_time("the note", reading).await.expect("no panic");
    assert_eq!(items, covered);
    drop(slow);
    let closed = node.see_down(id).await;
    assert_eq!(closed.by, ClosedBy::Network, "{closed}");
}
