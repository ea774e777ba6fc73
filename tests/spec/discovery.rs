//! A rule of `discovery.md` that takes a day.

use core::time::Duration;
use std::sync::Arc;

use peerage_core::{Action, Budget, CloseReason, Closed, Message, NetworkEvent, NetworkId, Now, Protocol, Seed};
use peerage_discovery::{Config, Discovery, FIND, NodeRecord, RECORD, RecordBody};

use crate::fixtures::{WALL, asked, id, keypair, notified, now, up};

#[test]
fn who_was_not_seen_for_a_day_is_not_named() {
    let network = NetworkId::default();
    let config = Config::new(Arc::new(keypair(1)), network, Seed::from_u64(1), Budget::default());
    let mut node = Discovery::new(config, now());
    let body = RecordBody { seq: 1, addrs: vec![([203, 0, 113, 2], 4_000).into()], features: 0, issued_at: WALL };
    let record = NodeRecord::sign(&keypair(2), network, body);
    node.handle_network(now(), up(2));
    node.handle_network(now(), notified(2, Message::new(RECORD, record.encoded().clone())));
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
