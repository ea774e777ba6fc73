//! Discovery, event by event.

mod early;
mod seeds;

use super::*;
use core::time::Duration;
use peerage_core::{Budget, Class, NetworkId, RequestError, Seed, UnixMillis};
use peerage_transport::proto::{keypair::Keypair, peer_manager::AddressPolicy};
use std::sync::Arc;

const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);
const WALL: UnixMillis = UnixMillis(1_000_000_000_000);

fn now(millis: u64) -> Now {
    Now { mono: Timestamp::from_millis(millis), wall: UnixMillis(WALL.0 + millis) }
}

fn keypair(number: u8) -> Keypair {
    Keypair::from_seed(&[number; 32])
}

fn id(number: u8) -> NodeId {
    keypair(number).node_id()
}

fn addr(number: u8) -> SocketAddr {
    ([8, 8, number, 8], 4_000).into()
}

fn signed(number: u8, seq: u64, addrs: Vec<SocketAddr>) -> NodeRecord {
    NodeRecord::sign(&keypair(number), NETWORK, RecordBody { seq, addrs, features: 0, issued_at: WALL })
}

/// A record issued so many milliseconds before the start, or after it if negative.
fn issued(number: u8, before: i64) -> NodeRecord {
    let issued_at = UnixMillis(WALL.0.saturating_add_signed(-before));
    NodeRecord::sign(&keypair(number), NETWORK, RecordBody { issued_at, ..record(number).body().clone() })
}

fn record(number: u8) -> NodeRecord {
    signed(number, 1, vec![addr(number)])
}

/// A discovery without a peer manager around it, whose actions come as text or as values.
struct Node(Discovery);

impl Node {
    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(Arc::new(keypair(0)), NETWORK, Seed::from_u64(1), Budget::default());
        config.addrs = vec![addr(0)];
        change(&mut config);
        Self(Discovery::new(config, now(0)))
    }

    fn new() -> Self {
        Self::with(|_| ())
    }

    fn actions(&mut self) -> Vec<Action<Discovery>> {
        core::iter::from_fn(|| self.0.poll_action()).collect()
    }

    fn up(&mut self, number: u8) {
        self.up_from(number, addr(number));
    }

    fn up_from(&mut self, number: u8, remote: SocketAddr) {
        self.up_as(number, true, remote);
    }

    fn up_as(&mut self, number: u8, outbound: bool, remote: SocketAddr) {
        let info = LinkInfo { peer: id(number), outbound, remote, listen: vec![], features: 0, dial_key: None };
        self.0.handle_network(now(0), NetworkEvent::PeerUp { peer: id(number), info });
    }

    fn down(&mut self, at: u64, number: u8) {
        let closed = Closed::by_us(CloseReason::Surplus);
        self.0.handle_network(now(at), NetworkEvent::PeerDown { peer: id(number), closed });
    }

    fn hears(&mut self, at: u64, number: u8, record: &NodeRecord) {
        let charge = Budget::default().nothing();
        let message = messages::record(record);
        self.0.handle_network(now(at), NetworkEvent::Message { peer: id(number), message, charge });
    }

    /// Connects a node and puts it into the table.
    fn knows(&mut self, number: u8) {
        self.up(number);
        self.hears(0, number, &record(number));
        assert!(self.0.table.get(&id(number)).is_some());
    }

    fn asked(&mut self, number: u8, message: Message) -> Vec<Action<Discovery>> {
        self.actions();
        let charge = Budget::default().nothing();
        let request = NetworkEvent::Request { peer: id(number), id: RequestId(9), message, charge };
        self.0.handle_network(now(0), request);
        self.actions()
    }

    fn responds(&mut self, number: u8, id_: RequestId, result: Result<Message, RequestError>) {
        let result = result.map(|message| (message, Budget::default().nothing()));
        let response = NetworkEvent::Response { peer: id(number), id: id_, command: FIND, result };
        self.0.handle_network(now(0), response);
    }

    fn faults(&mut self) -> Vec<(NodeId, Fault)> {
        let actions = self.actions().into_iter();
        actions
            .filter_map(|action| if let Action::Report { peer, fault } = action { Some((peer, fault)) } else { None })
            .collect()
    }

    fn wants(&mut self) -> Vec<Want> {
        let actions = self.actions().into_iter();
        actions.filter_map(|action| if let Action::Want(want) = action { Some(want) } else { None }).collect()
    }

    /// Whom it asks, with which request.
    fn requests(&mut self) -> Vec<(NodeId, RequestId)> {
        let actions = self.actions().into_iter();
        actions
            .filter_map(|action| if let Action::Request { to, id, .. } = action { Some((to, id)) } else { None })
            .collect()
    }
}

fn look(target: DhtKey) -> Command {
    Command::Lookup { token: 7, target }
}

fn nodes(records: &[NodeRecord]) -> Message {
    messages::nodes(records.iter())
}

/// Records sorted as an answer must be.
fn closest_first(target: DhtKey, numbers: impl IntoIterator<Item = u8>) -> Vec<NodeRecord> {
    let mut records: Vec<_> = numbers.into_iter().map(record).collect();
    records.sort_by_key(|record| record.key().distance(&target));
    records
}

#[test]
fn who_connects_is_told_our_record_and_enters_the_table_with_its_own() {
    let mut node = Node::new();
    node.up(1);
    let sent = node.actions().into_iter().find_map(|action| match action {
        Action::Send { to, message } => Some((to, message)),
        _ => None,
    });
    let (to, message) = sent.expect("our record");
    assert_eq!((to, &message.head), (vec![id(1)], node.0.record().encoded()));
    assert_eq!(node.0.table_len(), 0, "nobody is known before he said where he is");
    node.hears(0, 1, &record(1));
    assert_eq!(node.0.known().map(|known| (known.record, known.connected)).collect::<Vec<_>>(), [(record(1), true)]);
    node.0.handle_network(now(0), NetworkEvent::PeerDown { peer: id(1), closed: Closed::by_us(CloseReason::Surplus) });
    assert!(!node.0.known().next().expect("it stays known").connected);
}

#[test]
fn a_record_whose_address_is_not_where_its_node_came_from_opens_no_place() {
    let mut node = Node::new();
    node.up(1);
    node.hears(0, 1, &signed(1, 1, vec![addr(2)]));
    assert_eq!((node.0.table_len(), node.faults()), (0, vec![]), "it may have moved: no fault");
    node.hears(0, 1, &signed(1, 2, vec![]));
    assert_eq!(node.0.table_len(), 0, "who cannot be reached is of no use to others");
    node.hears(0, 1, &signed(1, 3, vec![addr(2), addr(1)]));
    assert_eq!(node.0.table_len(), 1);

    let mut node = Node::new();
    let lan: SocketAddr = ([192, 168, 0, 1], 4_000).into();
    let info = LinkInfo { peer: id(1), outbound: true, remote: lan, listen: vec![], features: 0, dial_key: None };
    node.0.handle_network(now(0), NetworkEvent::PeerUp { peer: id(1), info });
    node.hears(0, 1, &signed(1, 1, vec![lan]));
    assert_eq!(node.0.table_len(), 0, "a private address leads others astray");
}

/// What a node names is free; the address from which it comes is not.
#[test]
fn a_node_counts_for_the_subnet_that_it_came_from_whatever_it_names_first() {
    let crowd = |policy, remote: fn(u8) -> SocketAddr, first: fn(u8) -> SocketAddr| {
        let mut node = Node::with(|config| config.addresses = policy);
        for number in 1..=60 {
            let clothed = SocketAddr::new(remote(number).ip(), 50_000);
            let named = SocketAddr::new(clothed.ip().to_canonical(), 4_000);
            node.up_from(number, clothed);
            node.hears(0, number, &signed(number, 1, vec![first(number), named]));
        }
        node.0.table_len()
    };
    let one_subnet: fn(u8) -> SocketAddr = |number| ([8, 8, 1, number], 4_000).into();
    let clothed: fn(u8) -> SocketAddr =
        |number| SocketAddr::from((core::net::Ipv4Addr::new(8, 8, 1, number).to_ipv6_mapped(), 4_000));
    let loopback: fn(u8) -> SocketAddr = |_| ([127, 0, 0, 1], 4_000).into();
    for policy in [AddressPolicy::Public, AddressPolicy::Loopback] {
        for remote in [one_subnet, clothed] {
            for first in [addr, loopback, one_subnet] {
                let places = crowd(policy, remote, first);
                assert!((2..=10).contains(&places), "{policy:?}: {places} places for one subnet");
            }
        }
    }
    assert_eq!(crowd(AddressPolicy::Public, loopback, addr), 0);
    assert!(crowd(AddressPolicy::Loopback, loopback, addr) > 16, "one machine holds a whole network of tests");
}

#[test]
fn false_records_cost_their_sender() {
    let mut node = Node::new();
    node.knows(1);
    node.actions();
    for (bad, why) in [(record(2), "of another"), (signed(1, 1, vec![addr(1), addr(2)]), "same number, other content")]
    {
        node.hears(0, 1, &bad);
        assert_eq!(node.faults(), [(id(1), Fault::InvalidRecord)], "{why}");
    }
    let elsewhere = NetworkId::from_bytes([2; 32]);
    let body = RecordBody { seq: 5, addrs: vec![addr(1)], features: 0, issued_at: WALL };
    node.hears(0, 1, &NodeRecord::sign(&keypair(1), elsewhere, body));
    assert_eq!(node.faults(), [(id(1), Fault::InvalidRecord)]);
    assert_eq!(node.0.known().map(|known| known.record).collect::<Vec<_>>(), [record(1)]);
}

#[test]
fn a_flood_of_records_or_questions_is_excess() {
    let mut node = Node::new();
    node.knows(1);
    node.actions();
    (1..8).for_each(|_| node.hears(0, 1, &record(1)));
    assert_eq!(node.faults(), []);
    node.hears(0, 1, &record(1));
    assert_eq!(node.faults(), [(id(1), Fault::Excess)]);
    node.hears(10_000, 1, &record(1));
    assert_eq!(node.faults(), [], "a new window");
    let find = messages::find(DhtKey::from_bytes([0; 32]));
    for _ in 0..100 {
        assert!(matches!(node.asked(1, find.clone())[..], [Action::Respond { .. }]));
    }
    assert!(matches!(node.asked(1, find)[..], [Action::Report { fault: Fault::Excess, .. }]), "a fault, and no answer");
}

#[test]
fn an_answer_names_the_closest_but_neither_who_asks_nor_who_failed() {
    let mut node = Node::new();
    (1..=5).for_each(|number| node.knows(number));
    node.0.handle_network(now(0), NetworkEvent::PeerDown { peer: id(3), closed: Closed::by_us(CloseReason::Surplus) });
    let closed = Closed::by_network(CloseReason::DialTimeout);
    let failed = NetworkEvent::DialFailed { addr: addr(3), expected: Some(id(3)), closed };
    node.0.handle_network(now(0), failed);
    let target = DhtKey::from_bytes([0x55; 32]);
    let [Action::Respond { to, id: RequestId(9), message }] = &node.asked(1, messages::find(target))[..] else {
        panic!("no answer");
    };
    assert_eq!((*to, message), (id(1), &nodes(&closest_first(target, [2, 4, 5]))));
    let garbage = Message::new(FIND, vec![0; 31]);
    assert!(matches!(node.asked(1, garbage)[..], [Action::Report { fault: Fault::UndecodablePayload, .. }]));
    let unknown = Message::new(peerage_core::Command::new(Layer::Discovery, 9, Class::Signal), vec![]);
    assert!(matches!(node.asked(1, unknown)[..], [Action::Report { fault: Fault::UnexpectedCommand, .. }]));
    let foreign = Message::new(peerage_core::Command::new(Layer::Gossip, 9, Class::Signal), vec![]);
    assert!(node.asked(1, foreign).is_empty(), "that is for somebody else");
}

#[test]
fn a_lookup_asks_a_peer_wants_whom_it_names_and_ends_with_who_answered() {
    let mut node = Node::new();
    node.knows(1);
    node.actions();
    node.0.joined = true;
    node.0.searches.clear();
    let target = record(3).key();
    node.0.handle_command(now(0), look(target));
    let [(peer, first)] = node.requests()[..] else { panic!("one peer, one question") };
    assert_eq!(peer, id(1));
    node.responds(1, first, Ok(nodes(&closest_first(target, [2, 3]))));
    let now_and_later = node.wants();
    assert_eq!(now_and_later.iter().filter(|want| matches!(want, Want::Candidate { .. })).count(), 2);
    let wanted_now = early::ask(3, addr(3), target);
    assert!(now_and_later.contains(&wanted_now), "{now_and_later:?}");

    node.up(3);
    let [(peer, second)] = node.requests()[..] else { panic!("the question that waited") };
    assert_eq!(peer, id(3));
    node.hears(0, 3, &record(3));
    node.responds(3, second, Ok(nodes(&closest_first(target, [1, 2]))));
    assert!(node.wants().is_empty(), "both were heard of");
    // The other one is dead.
    let closed = Closed::by_network(CloseReason::DialRefused);
    let failed = NetworkEvent::DialFailed { addr: addr(2), expected: Some(id(2)), closed };
    node.0.handle_network(now(0), failed);
    let [Action::Emit(Event::LookupDone { token: 7, closest })] = &node.actions()[..] else { panic!("not done") };
    assert_eq!(closest[..], closest_first(target, [1, 3]));
    assert_eq!(node.0.timers.pop_due(Timestamp::from_millis(5_001)), Some(Timer::Seeds), "no timer is left behind");
}

#[test]
fn a_candidate_that_cannot_be_reached_is_not_waited_for() {
    let mut node = Node::new();
    node.knows(1);
    node.0.joined = true;
    node.0.searches.clear();
    node.actions();
    let two_addresses = signed(2, 1, vec![addr(2), addr(3)]);
    node.0.handle_command(now(0), look(two_addresses.key()));
    let [(_, request)] = node.requests()[..] else { panic!("no question") };
    node.responds(1, request, Ok(nodes(&[two_addresses])));
    assert_eq!(node.0.lookups(), 1, "it waits for the connection");
    // The peer manager dials one address, and none for a while after that failed.
    let closed = Closed::by_network(CloseReason::DialRefused);
    let failed = NetworkEvent::DialFailed { addr: addr(3), expected: Some(id(2)), closed };
    node.0.handle_network(now(1), failed);
    assert_eq!(node.0.lookups(), 0);
    assert!(node.actions().iter().any(|action| matches!(action, Action::Emit(Event::LookupDone { .. }))));
    assert_eq!(node.0.timers.pop_due(Timestamp::from_millis(5_001)), Some(Timer::Seeds), "no timer is left behind");
}

/// A refusal comes before anybody proved who it is: whoever stands on the way can say it.
#[test]
fn what_the_other_side_says_of_a_dial_has_nobody_forgotten() {
    use CloseReason::*;
    let dials_failed = |closed: fn(CloseReason) -> Closed, reason| {
        let mut node = Node::new();
        node.knows(1);
        node.down(0, 1);
        let failed = NetworkEvent::DialFailed { addr: addr(1), expected: Some(id(1)), closed: closed(reason) };
        node.0.handle_network(now(0), failed);
        node.0.known().next().expect("one").failures
    };
    for reason in [DialRefused, DialTimeout, HandshakeTimeout, StreamError, WrongPeer] {
        assert_eq!(dials_failed(Closed::by_them, reason), 0, "{reason:?}");
        assert_eq!(dials_failed(Closed::by_us, reason), 1, "{reason:?}");
        assert_eq!(dials_failed(Closed::by_network, reason), 1, "{reason:?}");
    }
}

/// A record lasts for two days, and its signature with it.
#[test]
fn an_old_record_that_somebody_repeats_leads_nobody_to_where_its_node_was() {
    let (old, new) = (signed(2, 1, vec![addr(7)]), signed(2, 2, vec![addr(2)]));
    let mut node = Node::new();
    node.knows(1);
    node.0.joined = true;
    for (named, place) in [(new, addr(2)), (old, addr(2))] {
        node.0.searches.clear();
        node.actions();
        node.0.handle_command(now(0), look(named.key()));
        let [(_, request)] = node.requests()[..] else { panic!("no question") };
        node.responds(1, request, Ok(nodes(core::slice::from_ref(&named))));
        let wanted: Vec<_> = node.wants().into_iter().filter(|want| matches!(want, Want::Ask { .. })).collect();
        assert_eq!(wanted, [early::ask(2, place, named.key())]);
    }
}

/// Clocks differ: what is in its time for one is not for another, and neither is at fault.
#[test]
fn a_record_out_of_its_time_is_passed_over_and_whoever_named_it_keeps_its_name() {
    const HOUR: i64 = 3_600_000;
    let mut node = Node::new();
    node.knows(1);
    node.0.searches.clear();
    node.actions();
    let target = DhtKey::from_bytes([0x55; 32]);
    node.0.handle_command(now(0), look(target));
    let [(_, request)] = node.requests()[..] else { panic!("no question") };
    let mut named = vec![issued(2, 49 * HOUR), issued(3, -HOUR), record(4)];
    named.sort_by_key(|record| record.key().distance(&target));
    node.responds(1, request, Ok(nodes(&named)));
    let actions = node.actions();
    assert!(!actions.iter().any(|action| matches!(action, Action::Report { .. })), "{actions:?}");
    let wanted: Vec<_> = actions
        .iter()
        .filter_map(|action| if let Action::Want(Want::Candidate { peer, .. }) = action { Some(*peer) } else { None })
        .collect();
    assert_eq!(wanted, [id(4)]);
}

/// The tolerance for clocks is the reader's: a record used to its end by all that pass it on would outlive it.
#[test]
fn only_records_in_the_middle_of_their_time_are_passed_on() {
    const TWO_DAYS: i64 = 48 * 3_600_000;
    for (before, passed_on) in [(0, true), (-1, false), (TWO_DAYS, true), (TWO_DAYS + 1, false)] {
        let mut node = Node::new();
        node.knows(1);
        node.up(2);
        let record = issued(2, before);
        node.hears(0, 2, &record);
        assert!(node.0.table.get(&id(2)).is_some(), "we may use it ourselves");
        let answer = node.asked(1, messages::find(record.key()));
        let [Action::Respond { message, .. }] = &answer[..] else { panic!("no answer: {answer:?}") };
        assert_eq!(*message, nodes(if passed_on { core::slice::from_ref(&record) } else { &[] }), "{before} ms");
    }
}

#[test]
fn whoever_forgot_the_number_of_its_record_is_shown_its_last_one() {
    let mut node = Node::new();
    node.up(1);
    let latest = signed(1, 5, vec![addr(1)]);
    node.hears(0, 1, &latest);
    let named = |node: &mut Node| match &node.asked(1, messages::find(record(1).key()))[..] {
        [Action::Respond { message, .. }] => message.clone(),
        other => panic!("no answer: {other:?}"),
    };
    assert_eq!(named(&mut node), nodes(&[]), "it knows itself");
    node.0.handle_network(now(0), NetworkEvent::PeerDown { peer: id(1), closed: Closed::by_us(CloseReason::Surplus) });
    node.up(1);
    assert_eq!(named(&mut node), nodes(&[]), "it has said nothing yet");
    node.hears(0, 1, &signed(1, 3, vec![addr(1)]));
    assert_eq!(named(&mut node), nodes(&[latest]), "its clock was set back");
    node.hears(0, 1, &signed(1, 6, vec![addr(1)]));
    assert_eq!(named(&mut node), nodes(&[]), "it learned");
}

/// A clock that was set back across a restart must not silence the node until it has caught up.
#[test]
fn a_later_record_of_our_own_that_others_hold_is_outbid() {
    let own_seq = Node::new().0.record().seq();
    // The number of what others hold, and what we say after ten seconds.
    let cases = [(own_seq - 1, own_seq), (own_seq, own_seq + 10_000), (own_seq + 90_000, own_seq + 90_001)];
    for (theirs, ours) in cases {
        let mut node = Node::new();
        node.knows(1);
        node.0.joined = true;
        node.0.searches.clear();
        node.actions();
        node.0.handle_command(now(0), look(DhtKey::of(&id(0))));
        let [(_, request)] = node.requests()[..] else { panic!("no question") };
        node.responds(1, request, Ok(nodes(&[signed(0, theirs, vec![addr(7)])])));
        let actions = node.actions();
        assert!(matches!(&actions[..], [Action::Emit(Event::LookupDone { .. })]), "at leisure: {actions:?}");
        node.0.handle_timeout(now(9_999));
        assert_eq!(node.0.record().seq(), own_seq, "so that it is no flood");
        node.0.handle_timeout(now(10_000));
        assert_eq!((node.0.record().seq(), node.0.record().addrs()), (ours, &[addr(0)][..]), "{theirs}");
    }
}

#[test]
fn answers_that_no_correct_peer_gives_are_reported_and_nothing_in_them_is_believed() {
    let target = DhtKey::from_bytes([0x55; 32]);
    let sorted = closest_first(target, 2..=20);
    let elsewhere = NodeRecord::sign(&keypair(2), NetworkId::default(), record(2).body().clone());
    let backwards: Vec<_> = sorted[..2].iter().rev().cloned().collect();
    let cases = [
        ("seventeen", nodes(&sorted[..17])),
        ("not the closest first", nodes(&backwards)),
        ("one twice", nodes(&[sorted[0].clone(), sorted[0].clone()])),
        ("itself", nodes(&[record(1)])),
        ("of another network", nodes(&[elsewhere])),
        ("garbage", Message::new(messages::NODES, vec![1])),
        ("another message", messages::find(target)),
    ];
    for (what, message) in cases {
        let mut node = Node::new();
        node.knows(1);
        node.0.searches.clear();
        node.actions();
        node.0.handle_command(now(0), look(target));
        let [(_, request)] = node.requests()[..] else { panic!("no question") };
        node.responds(1, request, Ok(message));
        let actions = node.actions();
        assert!(matches!(actions[0], Action::Report { fault: Fault::BadLookupAnswer, .. }), "{what}: {actions:?}");
        assert!(!actions.iter().any(|action| matches!(action, Action::Want(_))), "{what}: {actions:?}");
        let done = Event::LookupDone { token: 7, closest: vec![] };
        assert!(matches!(actions.last(), Some(Action::Emit(event)) if *event == done), "{what}: {actions:?}");
    }
}

#[test]
fn addresses_that_aim_at_somebody_elses_house_are_never_wanted() {
    let lead_astray = |policy, addrs: Vec<SocketAddr>| {
        let mut node = Node::with(|config| config.addresses = policy);
        node.knows(1);
        node.0.searches.clear();
        node.actions();
        node.0.handle_command(now(0), look(DhtKey::from_bytes([0; 32])));
        let [(_, request)] = node.requests()[..] else { panic!("no question") };
        node.responds(1, request, Ok(nodes(&[signed(2, 1, addrs)])));
        node.wants().len()
    };
    let bad: Vec<SocketAddr> = vec![
        ([127, 0, 0, 1], 4_000).into(),
        ([192, 168, 1, 1], 4_000).into(),
        ([169, 254, 1, 1], 4_000).into(),
        ([224, 0, 0, 1], 4_000).into(),
    ];
    assert_eq!(lead_astray(AddressPolicy::Public, bad.clone()), 0);
    assert_eq!(lead_astray(AddressPolicy::Public, vec![([8, 8, 8, 8], 25).into()]), 0);
    assert_eq!(lead_astray(AddressPolicy::Public, vec![addr(2)]), 2, "a candidate, and wanted now");
    assert_eq!(lead_astray(AddressPolicy::Loopback, bad[1..].to_vec()), 0);
    assert_eq!(lead_astray(AddressPolicy::Loopback, bad), 2);
}

#[test]
fn a_question_that_its_connection_cut_off_is_asked_once_more_and_silence_is_a_fault() {
    let mut node = Node::new();
    node.knows(1);
    node.0.searches.clear();
    node.actions();
    node.0.handle_command(now(0), look(DhtKey::from_bytes([0; 32])));
    let [(_, request)] = node.requests()[..] else { panic!("no question") };
    let closed = Closed::by_them(CloseReason::Surplus);
    node.0.handle_network(now(0), NetworkEvent::PeerDown { peer: id(1), closed });
    node.responds(1, request, Err(RequestError::Closed(closed)));
    assert_eq!(node.wants(), [early::ask(1, addr(1), DhtKey::from_bytes([0; 32]))]);
    node.up(1);
    let asked = node.requests();
    let again = asked.first().expect("asked again").1;
    node.responds(1, again, Err(RequestError::Timeout));
    assert_eq!(node.0.table.get(&id(1)).map(|entry| entry.failures), Some(1));
    let actions = node.actions();
    assert!(matches!(actions[0], Action::Report { fault: Fault::UnansweredRequest, .. }), "{actions:?}");
    assert!(actions.iter().any(|action| matches!(action, Action::Emit(Event::LookupDone { .. }))), "{actions:?}");
}

#[test]
fn whoever_hangs_up_on_every_question_is_given_up() {
    let mut node = Node::new();
    node.knows(1);
    node.0.searches.clear();
    node.actions();
    node.0.joined = true;
    node.0.handle_command(now(0), look(DhtKey::from_bytes([0; 32])));
    let closed = Closed::by_them(CloseReason::Surplus);
    let mut questions = 0;
    while let Some((_, request)) = node.requests().pop() {
        questions += 1;
        assert!(questions < 10, "it asks for ever");
        node.0.handle_network(now(0), NetworkEvent::PeerDown { peer: id(1), closed });
        node.responds(1, request, Err(RequestError::Closed(closed)));
        if node.0.lookups() > 0 {
            node.up(1);
        }
    }
    assert_eq!((questions, node.0.lookups()), (2, 0));
}

#[test]
fn once_its_neighbourhood_is_found_a_node_fills_the_rest_of_its_table() {
    let mut node = Node::new();
    node.knows(1);
    let [(_, request)] = node.requests()[..] else { panic!("it looks for itself") };
    node.responds(1, request, Ok(nodes(&[])));
    let buckets = 256 - usize::from(record(1).key().distance(&DhtKey::of(&id(0))).bucket().expect("not ourselves"));
    assert_eq!(
        (node.requests().len(), node.0.lookups()),
        (buckets, buckets),
        "one for each bucket from the nearest out"
    );
}

#[test]
fn a_lookup_without_anybody_to_ask_or_any_memory_ends_at_once_and_empty() {
    for budget in [Budget::default(), Budget::new(1)] {
        let mut node = Node::with(|config| config.budget = budget);
        node.0.handle_command(now(0), look(DhtKey::from_bytes([0; 32])));
        let done = Event::LookupDone { token: 7, closest: vec![] };
        assert!(matches!(&node.actions()[..], [Action::Emit(event)] if *event == done));
        assert_eq!(node.0.lookups(), 0);
    }
}

#[test]
fn a_changed_address_or_twelve_hours_make_a_new_record_for_all_peers() {
    let mut node = Node::new();
    node.up(1);
    node.up(2);
    node.actions();
    node.0.handle_command(now(5), Command::SetAddrs(vec![addr(0)]));
    assert!(node.actions().is_empty(), "nothing changed");
    let first = node.0.record().clone();
    let listen: SocketAddr = ([0, 0, 0, 0], 4_000).into();
    node.0.handle_command(now(5), Command::SetAddrs(vec![listen, addr(9), addr(9)]));
    let told = node.actions();
    let Action::Send { to, .. } = &told[0] else { panic!("{told:?}") };
    assert_eq!((to.len(), node.0.record().addrs()), (2, &[addr(9)][..]));
    let second = node.0.record().clone();
    assert!(second.supersedes(&first) && second.is_current(now(5).wall));
    let later = Duration::from_hours(12).as_millis() as u64 + 10;
    node.0.handle_timeout(now(later));
    assert!(node.0.record().supersedes(&second));
    assert_eq!((node.0.record().addrs(), node.0.record().body().issued_at), (second.addrs(), now(later).wall));
}

/// Somebody who says another thing under the same number, to others than us.
#[test]
fn a_contradiction_that_others_pass_on_is_the_fault_of_its_author() {
    let mut node = Node::new();
    node.knows(1);
    node.knows(2);
    node.0.searches.clear();
    node.actions();
    node.0.handle_command(now(0), look(record(1).key()));
    let asked = node.requests();
    let request = asked.iter().find(|(peer, _)| *peer == id(1)).expect("asked").1;
    node.responds(1, request, Ok(nodes(&[signed(2, 1, vec![addr(2), addr(3)])])));
    assert_eq!(node.faults(), [(id(2), Fault::InvalidRecord)]);
}
