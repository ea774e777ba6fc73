//! What comes of a story, and what must agree in it.

use std::{any::Any, collections::BTreeMap};

use peerage_core::{CloseReason, Closed, ClosedBy, DropReason, NodeId};
use peerage_transport::proto::recorder::Happening;

use crate::{
    counters,
    stage::{PATIENCE, Stage},
    victim::{Saw, Victim},
};

/// What the stack of a node is told of an end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Heard {
    /// That a peer is gone.
    Down,
    /// That a dial failed.
    DialFailed,
    /// Nothing: whoever came proved itself, and was never a peer.
    Refused,
    /// Nothing, for nobody proved who it is. The recorder has nothing either.
    Nameless,
}

/// Who was at the other end.
pub(crate) enum Other {
    /// Somebody played by hand: what it was told in the end.
    Hand(Option<CloseReason>),
    /// Another node, how it ended there, and what its stack was told.
    Node(Box<Victim>, Closed, Heard),
    /// Another node, which is gone: how it ended there.
    Gone(Closed),
    /// Nobody.
    Nobody,
}

/// The end of a connection.
pub(crate) struct Ended {
    /// The node that the story is about.
    pub(crate) node: Victim,
    /// Who ended it, as this node has it.
    pub(crate) by: ClosedBy,
    /// What its stack was told.
    pub(crate) heard: Heard,
    /// Who was at the other end, or was to be.
    pub(crate) peer: NodeId,
    pub(crate) other: Other,
    /// What must not end before all is compared.
    pub(crate) kept: Box<dyn Any + Send>,
}

impl Ended {
    /// Another node was at the other end.
    pub(crate) fn between(node: Victim, by: ClosedBy, heard: Heard, other: (Victim, Closed, Heard)) -> Self {
        let (other, closed, told) = other;
        let peer = other.id;
        Self { node, by, heard, peer, other: Other::Node(Box::new(other), closed, told), kept: Box::new(()) }
    }

    /// Somebody played by hand was there, and was told this in the end.
    pub(crate) fn by_hand(node: Victim, by: ClosedBy, heard: Heard, peer: NodeId, told: Option<CloseReason>) -> Self {
        Self { node, by, heard, peer, other: Other::Hand(told), kept: Box::new(()) }
    }

    pub(crate) fn keeping(self, kept: impl Any + Send) -> Self {
        Self { kept: Box::new(kept), ..self }
    }

    /// Everything agrees.
    pub(crate) async fn check(self, reason: CloseReason, stage: &Stage) {
        let Self { mut node, by, heard, peer, other, kept } = self;
        println!("{reason}: {by:?}, {heard:?}");
        let closed = Closed { by, reason };
        let mut counted = BTreeMap::from([(counters::closed(by, reason), 1)]);
        let mut count = |closed: Closed| *counted.entry(counters::closed(closed.by, closed.reason)).or_default() += 1;
        tells(&mut node, peer, closed, heard).await;
        match other {
            Other::Hand(told) => assert!(
                told == Some(reason) || told.is_none() && (by != ClosedBy::Us || may_be_silent(reason)),
                "{reason}: the other side was told {told:?}"
            ),
            Other::Node(mut other, closed, heard) => {
                assert_eq!(by == ClosedBy::Us && closed.by == ClosedBy::Them, closed.by == ClosedBy::Them);
                assert!(
                    closed.by != ClosedBy::Them || closed.reason == reason,
                    "{reason}: the other side has {closed}"
                );
                count(closed);
                tells(&mut other, node.id, closed, heard).await;
                counts(stage, &["peerage_connections_closed_total"], &counted).await;
                other.handle.shutdown().await;
                node.handle.shutdown().await;
                return;
            }
            Other::Gone(closed) => count(closed),
            Other::Nobody => {}
        }
        counts(stage, &["peerage_connections_closed_total"], &counted).await;
        drop(kept);
        node.handle.shutdown().await;
    }
}

/// Whether a node may end a connection for this reason without a word: towards whoever has not said a word of ours, or is not
/// read at all, or does not read.
const fn may_be_silent(reason: CloseReason) -> bool {
    use CloseReason::*;
    matches!(reason, WrongMagic | AddressLimit | HalfOpenLimit | TooFast | SlowPeer)
}

/// Exactly these are counted, now or soon, by the counters of these names; what else a story brings about is counted elsewhere.
/// Messages that are lost with a connection are no end, and no end is what is done when memory is short.
async fn counts(stage: &Stage, names: &[&str], expected: &BTreeMap<String, u64>) {
    let ends = || {
        let mut counted = stage.counted();
        counted.retain(|name, _| names.iter().any(|prefix| name.starts_with(prefix)));
        counted
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while ends() != *expected {
        assert!(tokio::time::Instant::now() < deadline, "counted {:#?}, but expected {expected:#?}", ends());
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// The stack of a node and its flight recorder have the same of an end.
async fn tells(node: &mut Victim, peer: NodeId, closed: Closed, heard: Heard) {
    match heard {
        Heard::Down => assert_eq!(node.see_down(peer).await, closed),
        Heard::DialFailed => assert_eq!(node.see_dial_failed().await, closed),
        Heard::Refused | Heard::Nameless => {}
    }
    let ends = |what: &Happening| match (what, heard) {
        (Happening::Ended { closed: how }, Heard::Down)
        | (Happening::DialFailed { closed: how, .. }, Heard::DialFailed)
        | (Happening::Refused { closed: how, .. }, Heard::Refused) => *how == closed,
        _ => false,
    };
    if heard == Heard::Nameless {
        assert_eq!(node.flight(peer).await, [], "nobody knows who that was");
        return;
    }
    let flight = until(node, peer, |flight| flight.iter().any(ends)).await;
    assert_eq!(flight.iter().filter(|what| ends(what)).count(), 1, "{closed}: {flight:#?}");
}

/// The flight of a peer once it `has` something.
async fn until(node: &Victim, peer: NodeId, has: impl Fn(&[Happening]) -> bool) -> Vec<Happening> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let flight = node.flight(peer).await;
        if has(&flight) {
            return flight;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {flight:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

/// A message that was dropped.
pub(crate) struct Dropped {
    pub(crate) node: Victim,
    /// Whose it was.
    pub(crate) peer: NodeId,
    /// What must not end before all is compared.
    pub(crate) kept: Box<dyn Any + Send>,
    /// What is counted besides.
    pub(crate) besides: Vec<(String, u64)>,
}

impl Dropped {
    pub(crate) fn by(node: Victim, peer: NodeId, kept: impl Any + Send) -> Self {
        Self { node, peer, kept: Box::new(kept), besides: Vec::new() }
    }

    /// Everything agrees: the stack was told `Dropped` with the reason once, and the rest likewise.
    pub(crate) async fn check(self, reason: DropReason, stage: &Stage) {
        let Self { mut node, peer, kept, besides } = self;
        println!("{reason}");
        let shed = Saw::Dropped(peer, reason);
        node.see(reason.label(), |saw| *saw == shed).await;
        let is = |what: &Happening| matches!(what, Happening::Dropped { reason: why, .. } if *why == reason);
        let flight = until(&node, peer, |flight| flight.iter().any(is)).await;
        assert_eq!(flight.iter().filter(|what| is(what)).count(), 1, "{reason}: {flight:#?}");
        let expected = besides.into_iter().chain([(counters::dropped(reason), 1)]).collect();
        counts(stage, &["peerage_messages_dropped_total", "peerage_connections_closed_total"], &expected).await;
        assert!(!node.rest().contains(&shed), "{reason}: told once");
        drop(kept);
        node.handle.shutdown().await;
    }
}
