//! Questions that go with the first words to a node, and those that come so.

use super::*;

/// The wish to ask somebody about this key as soon as may be.
pub(super) fn ask(number: u8, place: SocketAddr, target: DhtKey) -> Want {
    Want::Ask { peer: id(number), addrs: vec![place], question: messages::find(target) }
}

#[test]
fn a_question_from_somebody_who_counts_as_nobody_is_answered_and_leaves_no_trace() {
    let mut node = Node::new();
    (1..=4).for_each(|number| node.knows(number));
    let target = DhtKey::from_bytes([0; 32]);
    let early = |node: &mut Node, claims: u8, message: Message| {
        let event = NetworkEvent::Early {
            claims: id(claims),
            remote: addr(claims),
            id: RequestId(9),
            message,
            charge: Budget::default().nothing(),
        };
        node.0.handle_network(now(0), event);
        node.actions()
    };
    node.actions();
    let before = format!("{:?} {:?}", node.0.peers, node.0.known().collect::<Vec<_>>());
    // A flood of them is no fault of whom they name: each stream brings one, and who may open streams is judged elsewhere.
    for round in 0..2 * FINDS_IN_WINDOW {
        let claims = if round % 2 == 0 { 3 } else { 60 };
        let actions = early(&mut node, claims, messages::find(target));
        let [Action::Respond { to, id: RequestId(9), message }] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(*to, id(claims));
        let named = if claims == 3 { vec![1, 2, 4] } else { vec![1, 2, 3, 4] };
        assert_eq!(*message, nodes(&closest_first(target, named)), "whoever it is knows itself");
    }
    let with_body = Message { body: Some(Bytes::new()), ..messages::find(target) };
    for odd in [with_body, Message::new(FIND, vec![1; 31]), messages::record(&record(3))] {
        assert!(early(&mut node, 3, odd).is_empty(), "neither an answer nor a fault");
    }
    assert_eq!(format!("{:?} {:?}", node.0.peers, node.0.known().collect::<Vec<_>>()), before);
}
