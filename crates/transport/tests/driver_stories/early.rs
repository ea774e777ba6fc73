//! What is asked with the first words to somebody who was met before.

use core::time::Duration;

use peerage_core::*;
use peerage_transport::proto::peer_manager::PeerCommand;

use crate::{
    harness::{Net, Node, Plan},
    probe::{Do, ECHO, Saw},
};

/// A node that dials nobody unless it is wanted.
fn idle(number: u8) -> Plan {
    let mut plan = Plan::new(number);
    plan.peers.target_outbound = 0;
    plan
}

/// Wants `b`, to ask it this, until it may be dialled again.
async fn want(a: &mut Node, b: &Node, question: &Message) {
    loop {
        let (addrs, question) = (b.known().addrs, question.clone());
        a.order(Do::Want(Want::Ask { peer: b.id, addrs, question })).await;
        let is = |saw: &Saw| matches!(saw, Saw::Up(..) | Saw::Unmet(_, Unmet::Resting));
        if let Saw::Up(peer, _) = a.see("somebody, or that it is too early", is).await {
            assert_eq!(peer, b.id);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All that is left of a pool.
fn all_of(budget: &Budget, pool: Pool) -> Vec<Charge> {
    let sizes = [1 << 20, 1 << 10, 1];
    sizes.into_iter().flat_map(|bytes| core::iter::from_fn(move || budget.charge(pool, bytes).ok())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_memory_is_short_a_question_from_who_is_nobody_yet_is_dropped_and_nobody_is_at_fault() {
    let net = Net::memory();
    let (mut a, mut b) = (idle(1).start(&net).await, idle(2).start(&net).await);
    let question = Message::new(ECHO, "who is closest?");
    want(&mut a, &b, &question).await;
    b.see_up(a.id).await;
    a.order_peers(PeerCommand::Disconnect { peer: b.id, reason: CloseReason::Surplus }).await;
    a.see_down(b.id).await;
    b.see_down(a.id).await;

    let all = all_of(&b.budget, Pool::Inbox);
    want(&mut a, &b, &question).await;
    let first = b.see("a question or a peer", |saw| matches!(saw, Saw::Early(..) | Saw::Up(..))).await;
    assert!(matches!(first, Saw::Up(peer, _) if peer == a.id), "{first:?}");
    drop(all);
    a.order(Do::Request(b.id, 2, question.clone(), Duration::from_millis(100))).await;
    assert_eq!(a.see_response(2).await, Err(RequestError::Dropped(DropReason::NotConnected)));
    a.order(Do::Request(b.id, 3, question.clone(), Duration::from_secs(60))).await;
    assert_eq!(a.see_response(3).await, Ok(question));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_met_before_is_asked_before_it_is_a_peer_and_its_answer_comes_after() {
    for net in Net::both() {
        let (mut a, mut b) = (idle(1).start(&net).await, idle(2).start(&net).await);
        let question = Message::new(ECHO, "who is closest?");
        // A stranger is asked when it is a peer.
        want(&mut a, &b, &question).await;
        b.see_up(a.id).await;
        a.order(Do::Request(b.id, 1, question.clone(), Duration::from_secs(60))).await;
        assert_eq!(a.see_response(1).await, Ok(question.clone()));
        a.order_peers(PeerCommand::Disconnect { peer: b.id, reason: CloseReason::Surplus }).await;
        a.see_down(b.id).await;
        b.see_down(a.id).await;
        assert!(!b.rest().iter().any(|saw| matches!(saw, Saw::Early(..))));

        want(&mut a, &b, &question).await;
        let first = b.see("a question or a peer", |saw| matches!(saw, Saw::Early(..) | Saw::Up(..))).await;
        assert_eq!(first, Saw::Early(a.id, question.clone()), "the question comes before anybody counts");
        a.order(Do::Request(b.id, 2, question.clone(), Duration::from_secs(60))).await;
        assert_eq!(a.see_response(2).await, Ok(question.clone()));
        b.see_up(a.id).await;
        // Another question is asked in the ordinary way.
        let other = Message::new(ECHO, "and who else?");
        a.order(Do::Request(b.id, 3, other.clone(), Duration::from_secs(60))).await;
        assert_eq!(a.see_response(3).await, Ok(other));
        assert!(!b.rest().iter().any(|saw| matches!(saw, Saw::Early(..))), "once");
    }
}
