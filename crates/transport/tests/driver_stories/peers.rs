//! Who is connected to whom, who is not, and why.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use peerage_core::*;
use peerage_transport::{
    driver::{BoxedStream, Fabric},
    proto::peer_manager::KnownPeer,
};
use tokio::sync::Barrier;

use crate::{
    counters,
    harness::{Net, Node, Plan, anywhere, eventually},
    probe::{Do, NOTE, Saw},
};

/// A fabric whose first dial ends only when the other's does too.
struct Together {
    inner: Arc<dyn Fabric>,
    both: Arc<Barrier>,
    dialled: AtomicBool,
}

#[async_trait]
impl Fabric for Together {
    fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr()
    }

    async fn accept(&self) -> std::io::Result<(BoxedStream, SocketAddr)> {
        self.inner.accept().await
    }

    async fn dial(&self, addr: SocketAddr) -> std::io::Result<BoxedStream> {
        let stream = self.inner.dial(addr).await;
        if !self.dialled.swap(true, Ordering::Relaxed) {
            self.both.wait().await;
        }
        stream
    }
}

/// Whether two nodes have one connection and no other, and it is the same one.
fn joined_once(a: &Node, b: &Node) -> bool {
    let (ours, theirs) = (a.handle.links(), b.handle.links());
    let ([ours], [theirs]) = (&ours[..], &theirs[..]) else { return false };
    ours.peer == Some(b.id) && theirs.peer == Some(a.id) && ours.outbound != theirs.outbound
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_both_dial_at_once_both_keep_the_same_connection() {
    for round in 0..16 {
        let net = Net::both()[round % 2].clone();
        let both = Arc::new(Barrier::new(2));
        let mut fabrics: Vec<Arc<dyn Fabric>> = Vec::new();
        for _ in 0..2 {
            let inner = net.bind(anywhere()).await;
            fabrics.push(Arc::new(Together { inner, both: Arc::clone(&both), dialled: AtomicBool::new(false) }));
        }
        let ids = [2 * round as u8, 2 * round as u8 + 1].map(|number| Plan::new(number).id());
        let friend = |n: usize| KnownPeer { peer: ids[n], addrs: vec![fabrics[n].local_addr()] };
        let (of_a, of_b) = (friend(1), friend(0));
        let mut a = Plan::knowing(2 * round as u8, [of_a]).start_on(&net, Arc::clone(&fabrics[0]));
        let mut b = Plan::knowing(2 * round as u8 + 1, [of_b]).start_on(&net, Arc::clone(&fabrics[1]));
        eventually("one connection is left", || joined_once(&a, &b)).await;
        let lower = if a.id < b.id { &a } else { &b };
        assert!(lower.handle.links()[0].outbound, "the one that the lower identity opened");

        a.send(&b, Message::new(NOTE, "from a")).await;
        b.send(&a, Message::new(NOTE, "from b")).await;
        a.see_message(b.id, NOTE).await;
        b.see_message(a.id, NOTE).await;
        assert!(joined_once(&a, &b), "and it stays so");
        for node in [&mut a, &mut b] {
            // The switch from one to the other may have been seen, but then as such.
            for saw in node.rest() {
                match saw {
                    Saw::Down(_, closed) => assert_eq!(closed.reason, CloseReason::Duplicate),
                    Saw::Up(..) | Saw::Remember(_) | Saw::Rtt(_) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_at_a_reserved_address_is_refused_and_hears_why() {
    for net in Net::all() {
        let mut b = Plan::new(2).start(&net).await;
        let absent = Plan::new(3).id();
        let mut a = Plan::knowing(1, [KnownPeer { peer: absent, addrs: vec![b.addr] }]).start(&net).await;
        let is = |saw: &Saw| matches!(saw, Saw::DialFailed(Some(peer), _) if *peer == absent);
        let saw = a.see("a dial that failed", is).await;
        assert_eq!(saw, Saw::DialFailed(Some(absent), Closed::by_us(CloseReason::WrongPeer)));
        b.settled().await;
        assert!(b.rest().iter().all(|saw| !matches!(saw, Saw::Up(..))), "b never counted a as a peer");

        // Once the right one listens at another of its addresses, it is found.
        let c = Plan::new(3).start(&net).await;
        a.order(Do::Want(Want::Candidate { peer: c.id, addrs: c.known().addrs, source: None })).await;
        a.see_up(c.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reaches_itself_notices() {
    for net in Net::all() {
        let fabric = net.bind(anywhere()).await;
        let plan = Plan::knowing(1, [KnownPeer { peer: Plan::new(2).id(), addrs: vec![fabric.local_addr()] }]);
        let mut a = plan.start_on(&net, fabric);
        assert_eq!(a.see_dial_failed().await, Closed::by_us(CloseReason::SelfConnection));
        assert!(a.rest().iter().all(|saw| !matches!(saw, Saw::Up(..))));
        a.order(Do::Want(Want::Now { peer: a.id, addrs: vec![a.addr] })).await;
        a.settled().await;
        assert!(a.rest().iter().all(|saw| !matches!(saw, Saw::Up(..))), "nobody dials itself by name");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_network_is_refused_and_both_know_why() {
    let name = counters::closed(ClosedBy::Us, CloseReason::WrongNetwork);
    let count = || counters::read().get(&name).copied().unwrap_or(0);
    let before = count();
    for (round, net) in Net::all().into_iter().enumerate() {
        let mut b = Plan { network: 2, ..Plan::new(2) }.start(&net).await;
        let mut a = Plan::knowing(1, [b.known()]).start(&net).await;
        assert_eq!(a.see_dial_failed().await, Closed::by_them(CloseReason::WrongNetwork));
        eventually("the other side counts its refusal", || count() > before + round as u64).await;
        assert_eq!(b.rest(), [], "nothing that a protocol would have to know");
        a.handle.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserved_peer_that_stops_says_so_and_is_reached_again_when_it_is_back() {
    for net in Net::all() {
        let b = Plan::new(2).start(&net).await;
        let (id, addr) = (b.id, b.addr);
        let mut a = Plan::knowing(1, [b.known()]).start(&net).await;
        a.see_up(id).await;
        b.handle.shutdown().await;
        assert_eq!(a.see_down(id).await, Closed::by_them(CloseReason::Shutdown));
        assert_eq!(a.see_dial_failed().await, Closed::by_network(CloseReason::DialRefused), "it tries while b is away");
        drop(b);
        let mut b = Plan::new(2).start_on(&net, net.bind(addr).await);
        assert!(a.see_up(id).await.outbound);
        b.see_up(a.id).await;
        a.send(&b, Message::new(NOTE, "welcome back")).await;
        b.see_message(a.id, NOTE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_was_good_is_reached_again_by_whom_it_dialled_and_after_a_restart() {
    for net in Net::all() {
        let mut a = Plan::new(1).start(&net).await;
        let mut b = Plan::knowing(2, [a.known()]).start(&net).await;
        a.see_up(b.id).await;
        b.see_up(a.id).await;
        let b_addr = b.addr;
        a.see("whom to remember", |saw| *saw == Saw::Remember(1)).await;
        let known: Vec<_> = a.remembered.iter().map(|line| line.known.clone()).collect();
        assert_eq!(known, [b.known()], "by the address at which it says that it listens");

        // b comes back and has forgotten a; a was never told about b by anybody else.
        b.handle.shutdown().await;
        a.see_down(b.id).await;
        drop(b);
        let mut b = Plan::new(2).start_on(&net, net.bind(b_addr).await);
        assert!(a.see_up(b.id).await.outbound);
        b.see_up(a.id).await;

        // a comes back too and has only its list.
        let remembered = a.remembered.clone();
        a.handle.shutdown().await;
        assert_eq!(b.see_down(a.id).await, Closed::by_them(CloseReason::Shutdown));
        let mut again = Plan::new(1);
        again.peers.remembered = remembered;
        let mut a = again.start(&net).await;
        a.see_up(b.id).await;
        b.see_up(a.id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_turns_newcomers_away_unless_its_operator_named_them() {
    for net in Net::all() {
        let friend = Plan::new(4);
        let mut plan = Plan::new(1);
        (plan.peers.max_peers, plan.peers.target_outbound) = (1, 0);
        plan.peers.reserved = vec![KnownPeer { peer: friend.id(), addrs: vec![] }];
        let mut full = plan.start(&net).await;
        let mut first = Plan::knowing(2, [full.known()]).start(&net).await;
        full.see_up(first.id).await;
        first.see_up(full.id).await;

        let mut second = Plan::knowing(3, [full.known()]).start(&net).await;
        second.see_up(full.id).await; // a guest: long enough to ask for others
        full.see_up(second.id).await;
        assert_eq!(second.see_down(full.id).await, Closed::by_them(CloseReason::TooManyPeers));

        let mut friend = friend;
        friend.peers.reserved = vec![full.known()];
        let mut friend = friend.start(&net).await;
        friend.see_up(full.id).await;
        full.see_up(friend.id).await;

        first.send(&full, Message::new(NOTE, "still here")).await;
        friend.send(&full, Message::new(NOTE, "here too")).await;
        full.see_message(first.id, NOTE).await;
        full.see_message(friend.id, NOTE).await;
        assert!(first.rest().iter().all(|saw| !matches!(saw, Saw::Down(..))), "who has a place keeps it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_misbehaves_is_banned_by_the_manager_and_told_why() {
    let net = Net::memory();
    let mut a = Plan::new(1).start(&net).await;
    let mut b = Plan::knowing(2, [a.known()]).start(&net).await;
    a.see_up(b.id).await;
    b.see_up(a.id).await;
    a.order(Do::Report(b.id, Fault::InvalidItem)).await;
    a.send(&b, Message::new(NOTE, "one fault is forgiven")).await;
    b.see_message(a.id, NOTE).await;
    a.order(Do::Report(b.id, Fault::InvalidBlock)).await;
    assert_eq!(a.see_down(b.id).await, Closed::by_us(CloseReason::Banned));
    assert_eq!(b.see_down(a.id).await, Closed::by_them(CloseReason::Banned));
    a.see("the list of bans", |saw| *saw == Saw::Manager).await;
    b.see_up(a.id).await; // it tries again
    assert_eq!(b.see_down(a.id).await, Closed::by_them(CloseReason::Banned));
    assert!(a.rest().iter().all(|saw| !matches!(saw, Saw::Up(..))), "in vain");
}
