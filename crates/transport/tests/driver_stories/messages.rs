//! Messages, requests and heartbeats between two stacks.

use std::{sync::mpsc, time::Duration};

use bytes::Bytes;
use peerage_core::*;
use peerage_wire::limits::{MAX_CONTENT, MESSAGE_OVERHEAD};

use crate::{
    harness::{Net, Node, PATIENCE, Plan, eventually, pair, pattern},
    probe::{BIG_ECHO, BULK, Do, ECHO, ITEM, LATE, NOTE, Saw, UNHEARD_OF, VOTE},
};

/// No request of these stories takes so long unless that is the story.
const LONG: Duration = PATIENCE;
/// A request that is to time out; how soon does not matter.
const SHORT: Duration = Duration::from_millis(50);

async fn ask(node: &Node, whom: NodeId, id: u64, message: Message, timeout: Duration) {
    node.order(Do::Request(whom, id, message, timeout)).await;
}

/// What came of requests and was not looked at.
fn responses(node: &mut Node) -> Vec<Saw> {
    node.rest().into_iter().filter(|saw| matches!(saw, Saw::Response(..))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stacks_talk_in_every_class_and_in_both_directions() {
    for net in Net::all() {
        let (mut a, mut b) = pair(&net, Plan::new(1), Plan::new(2)).await;
        for (number, command) in [VOTE, NOTE, ITEM, BULK].into_iter().enumerate() {
            let message = Message::with_body(command, pattern(number, 10), pattern(number, 5_000));
            a.send(&b, message.clone()).await;
            b.send(&a, message.clone()).await;
            assert_eq!(b.see_message(a.id, command).await, message);
            assert_eq!(a.see_message(b.id, command).await, message);
        }
        let empty = [Message::new(NOTE, Bytes::new()), Message::with_body(NOTE, Bytes::new(), Bytes::new())];
        for message in empty {
            a.send(&b, message.clone()).await;
            assert_eq!(b.see_message(a.id, NOTE).await, message, "an empty body is a body");
        }
        a.handle.shutdown().await;
        b.handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_message_arrives_intact_and_a_longer_one_is_refused_at_once() {
    for net in Net::all() {
        let (mut a, mut b) = pair(&net, Plan::new(1), Plan::new(2)).await;
        let longest = Message::with_body(BULK, pattern(1, 1_000), pattern(2, MAX_CONTENT - 1_000));
        a.send(&b, longest.clone()).await;
        assert!(b.see_message(a.id, BULK).await == longest, "not the same 2 MiB");
        ask(&a, b.id, 1, Message::with_body(BIG_ECHO, pattern(3, 7), pattern(4, MAX_CONTENT - 7)), LONG).await;
        let answer = a.see_response(1).await.expect("an answer");
        assert!(answer == Message::with_body(BIG_ECHO, pattern(3, 7), pattern(4, MAX_CONTENT - 7)));

        let longer = pattern(1, MAX_CONTENT + 1);
        a.send(&b, Message::new(BULK, longer.clone())).await;
        let shed = Saw::Dropped(b.id, BULK, DropReason::TooLong);
        a.see("that it is too long", |saw| *saw == shed).await;
        ask(&a, b.id, 2, Message::new(BIG_ECHO, longer), LONG).await;
        assert_eq!(a.see_response(2).await, Err(RequestError::Dropped(DropReason::TooLong)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_ends_exactly_once_answered_late_lost_or_never_sent() {
    for net in Net::all() {
        let (mut a, mut b) = pair(&net, Plan::new(1), Plan::new(2)).await;
        ask(&a, b.id, 1, Message::new(ECHO, "one"), LONG).await;
        ask(&b, a.id, 1, Message::new(ECHO, "other"), LONG).await; // each side has its own numbers
        assert_eq!(a.see_response(1).await, Ok(Message::new(ECHO, "one")));
        assert_eq!(b.see_response(1).await, Ok(Message::new(ECHO, "other")));

        ask(&a, b.id, 2, Message::new(LATE, "two"), SHORT).await;
        assert_eq!(a.see_response(2).await, Err(RequestError::Timeout));
        b.order(Do::Answer).await;
        ask(&a, b.id, 3, Message::new(LATE, "three"), LONG).await;
        // The number of a request that is over may be used again.
        ask(&a, b.id, 2, Message::new(ECHO, "two again"), LONG).await;
        assert_eq!(a.see_response(2).await, Ok(Message::new(ECHO, "two again")));
        b.order(Do::Answer).await;
        assert_eq!(a.see_response(3).await, Ok(Message::new(LATE, "three")));
        b.order(Do::Answer).await;
        b.settled().await; // nothing waited any more

        let stranger = NodeId::from_bytes([9; 32]);
        ask(&a, stranger, 4, Message::new(ECHO, "four"), LONG).await;
        assert_eq!(a.see_response(4).await, Err(RequestError::Dropped(DropReason::NotConnected)));
        ask(&a, b.id, 5, Message::new(LATE, "five"), LONG).await;
        ask(&a, b.id, 6, Message::new(ECHO, "six"), LONG).await;
        a.see_response(6).await.expect("an answer, so that the fifth is there too");
        b.handle.shutdown().await;
        let closed = Closed::by_them(CloseReason::Shutdown);
        assert_eq!(a.see_response(5).await, Err(RequestError::Closed(closed)));
        assert_eq!(a.see_down(b.id).await, closed);
        a.settled().await;
        assert_eq!(responses(&mut a), []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_a_peer_that_we_disconnect_fails_with_our_reason() {
    let (mut a, mut b) = pair(&Net::memory(), Plan::new(1), Plan::new(2)).await;
    ask(&a, b.id, 1, Message::new(LATE, "never answered"), LONG).await;
    let reason = CloseReason::Requested;
    a.order_peers(peerage_transport::proto::peer_manager::PeerCommand::Disconnect { peer: b.id, reason }).await;
    assert_eq!(a.see_response(1).await, Err(RequestError::Closed(Closed::by_us(reason))));
    assert_eq!(a.see_down(b.id).await, Closed::by_us(reason));
    assert_eq!(b.see_down(a.id).await, Closed::by_them(reason));
    // The dialler keeps to what its operator wants and comes back.
    b.see_up(a.id).await;
    a.see_up(b.id).await;
    assert_eq!(responses(&mut a), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_command_is_skipped_and_harms_nobody() {
    // A later version, as it were.
    let mut newer = Plan::new(1);
    newer.commands.push((UNHEARD_OF, 64 << 10));
    let (mut a, mut b) = pair(&Net::memory(), newer, Plan::new(2)).await;
    // More than the window of its class: what is skipped must give its credit back too.
    for round in 0..40 {
        for _ in 0..10 {
            a.send(&b, Message::new(UNHEARD_OF, pattern(0, 4_000))).await;
        }
        ask(&a, b.id, round, Message::new(ECHO, "still there?"), LONG).await;
        a.see_response(round).await.expect("an answer");
    }
    ask(&a, b.id, 100, Message::new(UNHEARD_OF, "?"), SHORT).await;
    assert_eq!(a.see_response(100).await, Err(RequestError::Timeout));
    assert!(b.rest().iter().all(|saw| !matches!(saw, Saw::Message(..))));

    // Who does not know a command does not send it either.
    b.send(&a, Message::new(UNHEARD_OF, "!")).await;
    let shed = Saw::Dropped(a.id, UNHEARD_OF, DropReason::UnknownCommand);
    b.see("that nobody would take it", |saw| *saw == shed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_to_nobody_is_shed_with_a_reason() {
    let (mut a, b) = pair(&Net::memory(), Plan::new(1), Plan::new(2)).await;
    let stranger = NodeId::from_bytes([9; 32]);
    a.order(Do::Send(vec![stranger, b.id], Message::new(NOTE, "hello"))).await;
    let shed = Saw::Dropped(stranger, NOTE, DropReason::NotConnected);
    a.see("that nobody got it", |saw| *saw == shed).await;
    let mut b = b;
    b.see_message(a.id, NOTE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_carry_what_the_stack_put_there_and_measure_round_trips() {
    let brisk = |number| Plan { heartbeat: Duration::from_millis(20), ..Plan::new(number) };
    let (a, mut b) = pair(&Net::Tcp, brisk(1), brisk(2)).await;
    let data = Bytes::from_static(b"height 7");
    a.order(Do::Heartbeat(data.clone())).await;
    let beat = Saw::Heartbeat(a.id, data);
    b.see("a heartbeat with data", |saw| *saw == beat).await;
    let measured = Saw::Rtt(a.id);
    b.see("a round trip", |saw| *saw == measured).await;

    // Also on connections that begin later.
    let mut c = Plan { heartbeat: Duration::from_millis(20), ..Plan::knowing(3, [a.known()]) }.start(&Net::Tcp).await;
    c.see("a heartbeat with data", |saw| *saw == beat).await;
    let news = Bytes::from_static(b"height 8");
    a.order(Do::Heartbeat(news.clone())).await;
    let beat = Saw::Heartbeat(a.id, news);
    b.see("the new data", |saw| *saw == beat).await;
    c.see("the new data", |saw| *saw == beat).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_urgent_overtakes_in_the_inbox_of_a_busy_stack() {
    let (a, mut b) = pair(&Net::memory(), Plan::new(1), Plan::new(2)).await;
    let (go, wait) = mpsc::channel();
    let (begin, begun) = mpsc::channel();
    b.order(Do::Block(begin, wait)).await;
    assert!(begun.recv().is_err(), "nobody sends anything");
    let (length, mut expected) = (1_000, b.resident());
    for command in [BULK, ITEM, NOTE, VOTE] {
        for number in 0..5 {
            a.send(&b, Message::new(command, pattern(number, length))).await;
        }
        // All of it waits on the other side before anything more urgent is sent.
        expected += 5 * (length + MESSAGE_OVERHEAD);
        eventually("the messages wait", || b.resident() >= expected).await;
    }
    drop(go);
    let mut order = Vec::new();
    for _ in 0..20 {
        match b.see("a message", |saw| matches!(saw, Saw::Message(..))).await {
            Saw::Message(_, message) => order.push((message.command, message.head)),
            other => unreachable!("{other:?}"),
        }
    }
    let by_class = [VOTE, NOTE, ITEM, BULK].into_iter();
    let expected: Vec<_> = by_class.flat_map(|c| (0..5).map(move |n| (c, pattern(n, length)))).collect();
    assert!(order == expected, "{:?}", order.iter().map(|(command, _)| command).collect::<Vec<_>>());
}

/// Messages of each class and in each direction in one round of the soak; four classes of about 1 KB stay below what may
/// wait for one peer.
const ROUND: usize = 500;
/// Rounds: ten times what the smallest window covers.
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_messages_in_every_class_and_both_directions_never_stall() {
    for net in Net::all() {
        let (mut a, mut b) = pair(&net, Plan::new(1), Plan::new(2)).await;
        let commands = [VOTE, NOTE, ITEM, BULK];
        // From nothing but overhead to twice the usual: credit must count what a message costs, not its bytes alone.
        let message = |command, number: usize| {
            Message::with_body(command, number.to_be_bytes().to_vec(), pattern(number, number * 37 % 1_900))
        };
        for round in 0..ROUNDS {
            let numbers = || round * ROUND..(round + 1) * ROUND;
            for number in numbers() {
                for command in commands {
                    a.send(&b, message(command, number)).await;
                    b.send(&a, message(command, number)).await;
                }
                if number % 4 == 0 {
                    ask(&a, b.id, number as u64, Message::new(ECHO, pattern(number, 100)), LONG).await;
                    ask(&b, a.id, number as u64, Message::new(ECHO, pattern(number, 100)), LONG).await;
                }
            }
            for node in [&mut a, &mut b] {
                let mut next = commands.map(|_| numbers().start);
                let mut answers = 0;
                while next.iter().any(|next| *next < numbers().end) || answers < ROUND / 4 {
                    match node.see("a message or a response", |_| true).await {
                        Saw::Message(_, got) => {
                            let class = commands.iter().position(|c| *c == got.command).expect("one of ours");
                            assert!(got == message(got.command, next[class]), "{got:?} instead of {}", next[class]);
                            next[class] += 1;
                        }
                        Saw::Response(id, result) => {
                            assert_eq!(result.expect("an answer").head, pattern(id as usize, 100));
                            answers += 1;
                        }
                        saw => assert!(!matches!(saw, Saw::Dropped(..) | Saw::Down(..)), "{saw:?}"),
                    }
                }
            }
        }
        eventually("all is given back", || a.resident() + b.resident() == 0).await;
    }
}
