//! How each message is lost that is dropped for a reason.

use std::time::Duration;

use peerage_core::*;
use peerage_transport::proto::connection::credit::{cost, window};
use peerage_wire::RecordKind;

use crate::{
    counters,
    hand::{ATTACKER, Hand},
    victim::{BULK, Do, ITEM, NOTE, Plan, UNHEARD_OF, VOTE, Victim, keypair},
    witness::Dropped,
};

/// The story of a reason; `None` if no story over a socket can bring it about. A new reason begins with its arm here.
pub(crate) async fn story(reason: DropReason) -> Option<Dropped> {
    Some(match reason {
        DropReason::UnknownCommand => a_node_sends(Message::new(UNHEARD_OF, "what no table names")).await,
        DropReason::NotConnected => nobody_is_there_to_send_to().await,
        DropReason::PeerOverLimit => a_peer_owes_too_much().await,
        DropReason::OverBudget => there_is_no_memory_for_a_message().await,
        DropReason::ConnectionLost => a_peer_goes_before_it_was_told().await,
        DropReason::TooLong => a_node_sends(Message::new(NOTE, vec![7; (32 << 10) + 1])).await,
        DropReason::Unrequested => an_answer_comes_to_no_question().await,
        DropReason::Superseded => a_question_is_too_old_to_be_asked().await,
        DropReason::Shed => memory_is_short_and_the_peer_owes_most().await,
    })
}

fn plan() -> Plan {
    let mut plan = Plan::new();
    plan.peers.target_outbound = 0;
    plan
}

/// A peer that is served.
async fn served(node: &Victim) -> Hand {
    let mut hand = Hand::shake(node.addr, ATTACKER).await;
    hand.is_served().await;
    hand
}

/// A node sends such a message to a peer.
async fn a_node_sends(message: Message) -> Dropped {
    let node = plan().start().await;
    let hand = served(&node).await;
    node.order(Do::Send(hand.id, message)).await;
    Dropped::by(node, hand.id, hand)
}

async fn nobody_is_there_to_send_to() -> Dropped {
    let node = plan().start().await;
    let absent = keypair(ATTACKER).node_id();
    node.order(Do::Send(absent, Message::new(NOTE, "is anybody there"))).await;
    Dropped::by(node, absent, ())
}

async fn a_peer_owes_too_much() -> Dropped {
    let mut plan = plan();
    plan.driver.owed_per_peer = 10_000;
    let node = plan.start().await;
    let hand = served(&node).await;
    node.order(Do::Send(hand.id, Message::new(NOTE, vec![7; 15_000]))).await;
    Dropped::by(node, hand.id, hand)
}

async fn there_is_no_memory_for_a_message() -> Dropped {
    let budget = Budget::new(100_000);
    let mut plan = plan();
    plan.driver.budget = budget.clone();
    plan.connection.budget = budget.clone();
    let node = plan.start().await;
    let hand = served(&node).await;
    let taken = budget.charge(Pool::Table, 90_000).expect("the ledger is empty");
    node.order(Do::Send(hand.id, Message::new(ITEM, vec![7; 15_000]))).await;
    Dropped::by(node, hand.id, (hand, taken))
}

/// Length of the messages that use up the credit of a class.
const EACH: usize = 30_000;

/// A node says to a peer, which grants no more, as much of a class as it may; the peer has read all of it.
async fn without_credit(node: &Victim) -> Hand {
    let mut hand = served(node).await;
    for _ in 0..window(VOTE.class()) / cost(EACH) {
        node.order(Do::Send(hand.id, Message::new(VOTE, vec![7; EACH]))).await;
    }
    hand.is_served().await;
    hand
}

async fn a_peer_goes_before_it_was_told() -> Dropped {
    let node = plan().start().await;
    let mut hand = without_credit(&node).await;
    node.order(Do::Send(hand.id, Message::new(VOTE, vec![7; EACH]))).await;
    hand.is_served().await; // so the other message waits by now
    hand.send(RecordKind::Close, &[CloseReason::Shutdown.code()]).await;
    let besides = vec![(counters::closed(ClosedBy::Them, CloseReason::Shutdown), 1)];
    Dropped { besides, ..Dropped::by(node, hand.id, hand) }
}

async fn an_answer_comes_to_no_question() -> Dropped {
    let node = plan().start().await;
    let hand = served(&node).await;
    node.order(Do::Respond(hand.id, RequestId(77), Message::new(NOTE, "an answer"))).await;
    Dropped::by(node, hand.id, hand)
}

async fn a_question_is_too_old_to_be_asked() -> Dropped {
    let node = plan().start().await;
    let hand = without_credit(&node).await;
    let question = Message::new(VOTE, vec![7; EACH]);
    node.order(Do::Request(hand.id, question, Duration::from_millis(50))).await;
    Dropped::by(node, hand.id, hand)
}

/// What waits for a peer that grants no more takes nearly all of the 1.1 MiB that all peers share.
async fn memory_is_short_and_the_peer_owes_most() -> Dropped {
    let mut plan = plan();
    plan.driver.budget = Budget::with_floors(6 << 20, 8);
    plan.connection.budget = plan.driver.budget.clone();
    let node = plan.start().await;
    let mut hand = served(&node).await;
    // What is left of its credit is too little for the long message, and none of the short ones waits.
    for nth in 0..(window(BULK.class()) - 1_000_000) / cost(EACH) {
        node.order(Do::Send(hand.id, Message::new(BULK, vec![7; EACH]))).await;
        if nth % 10 == 9 {
            hand.is_served().await; // it has read all of that
        }
    }
    hand.is_served().await;
    node.order(Do::Send(hand.id, Message::new(BULK, vec![7; 1_060_000]))).await;
    let besides = vec![("peerage_memory_measures_total{measure=shed}".into(), 1)];
    Dropped { besides, ..Dropped::by(node, hand.id, hand) }
}
