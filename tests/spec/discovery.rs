//! Rules of `discovery.md` about time, and about bytes that stay as they are.

use core::time::Duration;
use std::sync::Arc;

use peerage_core::{
    Action, Budget, CloseReason, Closed, Fault, LinkStats, Message, NetworkEvent, NetworkId, Now, Protocol,
    RequestError, Seed,
};
use peerage_discovery::{Command, Config, DhtKey, Discovery, FIND, NodeRecord, RECORD, RecordBody};

use crate::fixtures::{WALL, asked, id, keypair, notified, now, up};

fn node() -> Discovery {
    let config = Config::new(Arc::new(keypair(1)), NetworkId::default(), Seed::from_u64(1), Budget::default());
    Discovery::new(config, now())
}

fn record() -> NodeRecord {
    let body = RecordBody { seq: 1, addrs: vec![([203, 0, 113, 2], 4_000).into()], features: 0, issued_at: WALL };
    NodeRecord::sign(&keypair(2), NetworkId::default(), body)
}

#[test]
fn a_question_waits_for_four_round_trips_within_bounds() {
    for (rtt, timeout) in [(None, 1000), (Some(10), 300), (Some(100), 400), (Some(499), 1996), (Some(9000), 2000)] {
        let mut node = node();
        node.handle_network(now(), up(2));
        while node.poll_action().is_some() {}
        if let Some(rtt) = rtt {
            node.handle_network(
                now(),
                NetworkEvent::PeerStats { peer: id(2), stats: LinkStats::first(Duration::from_millis(rtt), 0) },
            );
        }
        node.handle_command(now(), Command::Lookup { token: 1, target: DhtKey::from_bytes([7; 32]) });
        let asked = core::iter::from_fn(|| node.poll_action()).find_map(|action| match action {
            Action::Request { timeout, .. } => Some(timeout),
            _ => None,
        });
        assert_eq!(asked, Some(Duration::from_millis(timeout)), "round trip: {rtt:?}");
    }
}

#[test]
fn no_answer_in_time_is_a_fault() {
    let mut node = node();
    node.handle_network(now(), up(2));
    let actions = core::iter::from_fn(|| node.poll_action());
    let asked =
        actions.filter_map(|action| if let Action::Request { id, .. } = action { Some(id) } else { None }).last();
    let late = NetworkEvent::Response {
        peer: id(2),
        id: asked.expect("it looks itself up when it meets its first peer"),
        command: FIND,
        result: Err(RequestError::Timeout),
    };
    node.handle_network(now(), late);
    let fault = core::iter::from_fn(|| node.poll_action()).find_map(|action| match action {
        Action::Report { peer, fault } => Some((peer, fault)),
        _ => None,
    });
    assert_eq!(fault, Some((id(2), Fault::UnansweredRequest)));
}

#[test]
fn a_record_is_passed_on_as_it_came() {
    let (mut node, came) = (node(), record().encoded().clone());
    node.handle_network(now(), up(2));
    node.handle_network(now(), notified(2, Message::new(RECORD, came.clone())));
    node.handle_network(now(), up(3));
    while node.poll_action().is_some() {}
    node.handle_network(now(), asked(3, 1, Message::new(FIND, [0; 32].to_vec())));
    let Some(Action::Respond { message, .. }) = node.poll_action() else { panic!("an answer") };
    assert_eq!(message.head, [&[1, came.len() as u8][..], &came].concat(), "one record, its length, and it");
}

#[test]
fn who_was_not_seen_for_a_day_is_not_named() {
    let mut node = node();
    node.handle_network(now(), up(2));
    node.handle_network(now(), notified(2, Message::new(RECORD, record().encoded().clone())));
    let closed = Closed::by_us(CloseReason::Surplus);
    node.handle_network(now(), NetworkEvent::PeerDown { peer: id(2), closed });
    node.handle_network(now(), up(3));
    let mut named = |at: Duration| {
        let later = Now { mono: now().mono + at, wall: WALL + at };
        node.handle_network(later, asked(3, 1, Message::new(FIND, [0; 32].to_vec())));
        let answers = core::iter::from_fn(|| node.poll_action()).filter_map(|action| match action {
            Action::Respond { message, .. } => Some(message.head[0]),
            _ => None,
        });
        answers.last().expect("an answer")
    };
    let day = Duration::from_hours(24);
    assert_eq!([named(day), named(day + Duration::from_millis(1))], [1, 0]);
}
