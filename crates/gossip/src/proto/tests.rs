//! Stories on a few machines, wired by hand.

use core::{net::SocketAddr, time::Duration};
use peerage_core::{CloseReason, Closed, DropReason, LinkInfo, Pool, RequestId, Want};

use super::*;
use peerage_core::{Action, Budget, Fault, Message, NetworkEvent, Now, Protocol, Timestamp};

const TX: Topic = Topic::from_static("tx");

fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn at(seconds: u64) -> Now {
    Now { mono: Timestamp::from_millis(seconds * 1000), ..Now::default() }
}

fn up(peer: NodeId) -> NetworkEvent {
    let remote = SocketAddr::from(([127, 0, 0, 1], 1));
    NetworkEvent::PeerUp {
        peer,
        info: LinkInfo { peer, outbound: true, remote, listen: vec![], features: 0, dial_key: None },
    }
}

fn item(bytes: &'static [u8]) -> Message {
    Message::with_body(ITEM, [&[2], &b"tx"[..]].concat(), bytes)
}

fn subscription(text: &[u8]) -> Message {
    Message::new(SUBSCRIBE, text.to_vec())
}

fn arrives(peer: u8, message: Message) -> NetworkEvent {
    NetworkEvent::Message { peer: node(peer), message, charge: Budget::default().nothing() }
}

/// One machine with neighbours 1 to 3, all of whom want `tx`.
struct Story {
    gossip: Gossip,
    budget: Budget,
    /// Who was of use, as the peer manager was told.
    useful: Vec<NodeId>,
}

impl Story {
    fn new(config: Config) -> Self {
        let budget = Budget::default();
        let mut story = Self { gossip: Gossip::new(config, &budget), budget, useful: Vec::new() };
        story.command(at(0), Command::Subscribe(TX));
        for n in 1..=3 {
            let said = story.network(at(0), up(node(n)));
            let [Action::Send { to, message }] = said.as_slice() else { panic!("{said:?}") };
            assert_eq!((to, message.command, &message.head[..]), (&vec![node(n)], SUBSCRIBE, &b"\x01\x02tx"[..]));
            assert!(story.network(at(0), arrives(n, subscription(b"\x01\x02tx"))).is_empty());
        }
        story
    }

    fn drain(&mut self) -> Vec<Action<Gossip>> {
        let mut actions = Vec::new();
        while let Some(action) = self.gossip.poll_action() {
            match action {
                Action::Want(Want::Keep { peer }) => self.useful.push(peer),
                other => actions.push(other),
            }
        }
        actions
    }

    fn network(&mut self, now: Now, event: NetworkEvent) -> Vec<Action<Gossip>> {
        self.gossip.handle_network(now, event);
        self.drain()
    }

    fn command(&mut self, now: Now, command: Command) -> Vec<Action<Gossip>> {
        self.gossip.handle_command(now, command);
        self.drain()
    }

    fn verdict(&mut self, now: Now, id: ItemId, verdict: Verdict) -> Vec<Action<Gossip>> {
        self.command(now, Command::Verdict { item: id, verdict })
    }

    fn timeout(&mut self, now: Now) {
        assert!(self.gossip.next_timeout().is_some_and(|due| due <= now.mono), "nothing is due");
        self.gossip.handle_timeout(now);
        assert!(self.gossip.next_timeout().is_none_or(|due| due > now.mono), "the timer would spin");
    }
}

fn given(actions: &[Action<Gossip>]) -> ItemId {
    let [Action::Emit(Event::Item { id, topic: TX, .. })] = actions else { panic!("no item: {actions:?}") };
    *id
}

fn sent(actions: &[Action<Gossip>]) -> Vec<NodeId> {
    let [Action::Send { to, message }] = actions else { panic!("nothing sent: {actions:?}") };
    assert_eq!(message.command, ITEM);
    to.clone()
}

fn faults(actions: &[Action<Gossip>]) -> Vec<(NodeId, Fault)> {
    let fault = |action: &Action<Gossip>| match action {
        Action::Report { peer, fault } => (*peer, *fault),
        other => panic!("no report: {other:?}"),
    };
    actions.iter().map(fault).collect()
}

#[test]
fn an_accepted_item_goes_once_to_whoever_is_not_known_to_have_it_and_its_bytes_are_not_copied() {
    let mut story = Story::new(Config::default());
    let message = item(b"hello");
    let body = message.body.clone().expect("an item has a body");
    let said = story.network(at(1), arrives(1, message));
    let id = given(&said);
    assert_eq!(id, ItemId::of(&TX, b"hello"));
    assert!(story.network(at(1), arrives(2, item(b"hello"))).is_empty(), "a copy is not given again");
    let said = story.verdict(at(2), id, Verdict::Accept);
    assert_eq!(sent(&said), [node(3)], "neither to the source nor to the other holder");
    let [Action::Send { message, .. }] = said.as_slice() else { unreachable!() };
    assert_eq!(message.body.as_ref().map(|sent| sent.as_ptr()), Some(body.as_ptr()), "the very same memory");
    assert!(story.verdict(at(2), id, Verdict::Reject).is_empty(), "a second verdict has no object");
    assert!(story.network(at(3), arrives(3, item(b"hello"))).is_empty());
    let stats = story.gossip.stats();
    assert_eq!((stats.received, stats.duplicates, stats.delivered, stats.forwarded), (3, 2, 1, 1));
    assert_eq!((stats.copies, stats.copied_bytes, stats.pending, stats.seen), (1, 5, 0, 1));
}

#[test]
fn whoever_sends_a_rejected_item_answers_for_it_then_and_later() {
    let mut story = Story::new(Config::default());
    let id = given(&story.network(at(1), arrives(1, item(b"bad"))));
    story.network(at(1), arrives(2, item(b"bad")));
    let said = story.verdict(at(1), id, Verdict::Reject);
    assert_eq!(faults(&said), [(node(1), Fault::InvalidItem), (node(2), Fault::InvalidItem)]);
    let said = story.network(at(2), arrives(3, item(b"bad")));
    assert_eq!(faults(&said), [(node(3), Fault::InvalidItem)]);
    assert!(story.command(at(2), Command::Publish { topic: TX, bytes: b"bad"[..].into() }).is_empty());
}

#[test]
fn an_ignored_or_unjudged_item_is_looked_at_again_when_it_comes_back() {
    let mut story = Story::new(Config::default());
    let id = given(&story.network(at(1), arrives(1, item(b"later"))));
    assert!(story.verdict(at(1), id, Verdict::Ignore).is_empty());
    assert_eq!(given(&story.network(at(2), arrives(2, item(b"later")))), id);
    story.timeout(at(12));
    assert!(story.verdict(at(12), id, Verdict::Accept).is_empty(), "too late");
    assert_eq!(given(&story.network(at(13), arrives(3, item(b"later")))), id);
    assert_eq!(sent(&story.verdict(at(13), id, Verdict::Accept)), [node(1), node(2)]);
    let stats = story.gossip.stats();
    assert_eq!((stats.ignored, stats.expired, stats.delivered, stats.forwarded), (1, 1, 3, 1));
}

#[test]
fn whoever_brought_an_item_first_and_nobody_else_was_of_use() {
    let mut story = Story::new(Config::default());
    let id = given(&story.network(at(1), arrives(2, item(b"news"))));
    story.network(at(1), arrives(3, item(b"news")));
    assert_eq!(story.useful, [], "nobody knows yet what it is worth");
    story.verdict(at(1), id, Verdict::Accept);
    let id = given(&story.network(at(1), arrives(1, item(b"noise"))));
    story.verdict(at(1), id, Verdict::Ignore);
    assert_eq!(story.useful, [node(2)]);
}

#[test]
fn an_item_is_new_again_when_its_time_is_over_and_all_memory_is_given_back() {
    let mut story = Story::new(Config::default());
    let id = given(&story.network(at(0), arrives(1, item(b"old"))));
    story.verdict(at(0), id, Verdict::Accept);
    story.timeout(at(120));
    assert!(story.network(at(120), arrives(2, item(b"old"))).is_empty(), "at least the whole TTL");
    story.timeout(at(240));
    assert_eq!((story.gossip.next_timeout(), story.budget.report().resident), (None, 0));
    assert_eq!(given(&story.network(at(241), arrives(2, item(b"old")))), id);
    assert!(story.budget.report().pools[Pool::Table as usize].1 > 0);
}

#[test]
fn an_own_item_goes_to_all_once_and_again_only_when_told_so() {
    let mut story = Story::new(Config::default());
    let publish = || Command::Publish { topic: TX, bytes: b"mine"[..].into() };
    let everybody = [node(1), node(2), node(3)];
    assert_eq!(sent(&story.command(at(1), publish())), everybody);
    assert!(story.command(at(1), publish()).is_empty());
    assert!(story.network(at(1), arrives(1, item(b"mine"))).is_empty(), "what is ours is not news");
    let again = Command::Republish { topic: TX, bytes: b"mine"[..].into() };
    assert_eq!(sent(&story.command(at(2), again)), everybody);
    assert_eq!(story.gossip.stats().copies, 6);
    let foreign = given(&story.network(at(3), arrives(1, item(b"both"))));
    let said = story.command(at(3), Command::Publish { topic: TX, bytes: b"both"[..].into() });
    assert_eq!(sent(&said), [node(2), node(3)], "publishing what is being judged accepts it");
    assert!(story.verdict(at(3), foreign, Verdict::Accept).is_empty());
}

#[test]
fn an_own_item_that_cannot_be_sent_is_refused_aloud() {
    let mut story = Story::new(Config::default());
    let bytes = Bytes::from(vec![0; MAX_ITEM_BYTES + 1]);
    let said = story.command(at(0), Command::Publish { topic: TX, bytes });
    let error = PublishError::TooLarge(MAX_ITEM_BYTES + 1);
    assert!(matches!(&said[..], [Action::Emit(Event::Refused { topic: TX, error: e })] if *e == error), "{said:?}");
    for n in 1..MAX_TOPICS {
        story.command(at(0), Command::Subscribe(Topic::new(&format!("topic-{n}")).expect("valid")));
    }
    let said = story.command(at(0), Command::Subscribe(Topic::from_static("one-more")));
    assert!(matches!(said[..], [Action::Emit(Event::Refused { error: PublishError::TooManyTopics, .. })]));
    let everything = payload_of_all_topics(&mut story);
    assert!(everything.len() <= LIMITS[1].1 as usize, "a full subscription fits its own limit");
}

fn payload_of_all_topics(story: &mut Story) -> Bytes {
    let said = story.network(at(0), up(node(9)));
    let [Action::Send { message, .. }] = &said[..] else { panic!("{said:?}") };
    let head = message.head.clone();
    assert!(story.network(at(0), arrives(9, message.clone())).is_empty(), "and is understood");
    head
}

#[test]
fn nonsense_costs_its_sender_and_nobody_else() {
    let mut story = Story::new(Config::default());
    let topics = [b"\x41".to_vec(), b"\x01a".repeat(65)].concat();
    for (message, fault) in [
        (Message::new(ITEM, &b"\x02tx"[..]), Fault::UndecodablePayload), // no body
        (Message::with_body(ITEM, &b"\x00"[..], &b"x"[..]), Fault::UndecodablePayload), // empty topic
        (Message::with_body(ITEM, &b"\x02tx!"[..], &b"x"[..]), Fault::UndecodablePayload), // trailing byte
        (Message::with_body(ITEM, &b"\x02ty"[..], &b"x"[..]), Fault::UnexpectedCommand), // never asked for
        (subscription(b"\x02\x01b\x01a"), Fault::UndecodablePayload),    // not ascending
        (subscription(b"\x02\x01a\x01a"), Fault::UndecodablePayload),    // twice
        (subscription(b"\xff\xff\xff\xff\x0f"), Fault::UndecodablePayload), // claims 4 Gi topics
        (subscription(&topics), Fault::UndecodablePayload),
        (Message::with_body(SUBSCRIBE, &b"\x00"[..], &b"x"[..]), Fault::UndecodablePayload),
        (Message::new(unknown(), &b""[..]), Fault::UnexpectedCommand),
    ] {
        let what = format!("{message:?} {:?}", message.head);
        assert_eq!(faults(&story.network(at(1), arrives(1, message))), [(node(1), fault)], "{what}");
    }
    let charge = story.budget.nothing();
    let ask = NetworkEvent::Request { peer: node(2), id: RequestId(1), message: item(b"x"), charge };
    assert_eq!(faults(&story.network(at(1), ask)), [(node(2), Fault::UnexpectedCommand)]);
    assert_eq!(story.budget.report().resident, 0);
    let said = story.command(at(1), Command::Publish { topic: TX, bytes: b"ok"[..].into() });
    assert_eq!(sent(&said), [node(1), node(2), node(3)], "what they asked for before still stands");
}

fn unknown() -> peerage_core::Command {
    peerage_core::Command::new(peerage_core::Layer::Gossip, 31, peerage_core::Class::Signal)
}

#[test]
fn one_sender_cannot_take_the_room_of_others_and_what_found_no_room_may_come_back() {
    let config = Config { pending_bytes: 2000, pending_bytes_per_peer: 1000, ..Config::default() };
    let mut story = Story::new(config);
    let first = given(&story.network(at(1), arrives(1, item(&[1; 90]))));
    given(&story.network(at(1), arrives(1, item(&[2; 90]))));
    assert!(story.network(at(1), arrives(1, item(&[3; 90]))).is_empty(), "its share is used up");
    given(&story.network(at(1), arrives(2, item(&[3; 90]))));
    assert_eq!(story.gossip.stats().overflowed, 1);
    story.gossip.handle_network(at(1), down(1));
    story.gossip.handle_network(at(1), up(node(1)));
    story.drain();
    assert!(story.network(at(1), arrives(1, item(&[4; 90]))).is_empty(), "coming back makes no room");
    story.verdict(at(1), first, Verdict::Ignore);
    given(&story.network(at(1), arrives(1, item(&[4; 90]))));
}

fn down(n: u8) -> NetworkEvent {
    NetworkEvent::PeerDown { peer: node(n), closed: Closed::by_us(CloseReason::Requested) }
}

#[test]
fn an_exhausted_budget_drops_items_whole_and_refuses_own_ones() {
    let mut story = Story::new(Config::default());
    let cap = story.budget.report().cap;
    let all = story.budget.charge(Pool::Inbox, cap).expect("empty");
    assert!(story.network(at(1), arrives(1, item(b"x"))).is_empty());
    let said = story.command(at(1), Command::Publish { topic: TX, bytes: b"y"[..].into() });
    assert!(matches!(said[..], [Action::Emit(Event::Refused { error: PublishError::OverBudget(_), .. })]), "{said:?}");
    let stats = story.gossip.stats();
    assert_eq!((stats.overflowed, stats.seen, stats.pending), (1, 0, 0));
    drop(all);
    given(&story.network(at(2), arrives(1, item(b"x"))));
}

#[test]
fn an_item_that_waits_is_no_news_even_when_the_cache_forgot_it() {
    let config = Config { seen_bytes: 0, ..Config::default() }; // two entries
    let mut story = Story::new(config);
    let id = given(&story.network(at(1), arrives(1, item(b"waits"))));
    for bytes in [&b"a"[..], b"b", b"c"] {
        story.command(at(1), Command::Publish { topic: TX, bytes: bytes.into() });
    }
    assert!(story.network(at(1), arrives(2, item(b"waits"))).is_empty());
    assert_eq!(sent(&story.verdict(at(1), id, Verdict::Accept)), [node(3)]);
    assert_eq!((story.gossip.stats().pending_bytes, story.gossip.stats().delivered), (0, 1));
}

#[test]
fn a_subscription_that_was_shed_is_said_again_and_lost_items_are_counted() {
    let mut story = Story::new(Config::default());
    let shed = |command| NetworkEvent::Dropped { peer: node(1), command, reason: DropReason::PeerOverLimit };
    assert!(story.network(at(1), shed(ITEM)).is_empty());
    assert!(story.network(at(1), NetworkEvent::Writable { peer: node(1) }).is_empty(), "nothing is owed");
    story.network(at(1), shed(SUBSCRIBE));
    let said = story.network(at(2), NetworkEvent::Writable { peer: node(1) });
    assert!(matches!(&said[..], [Action::Send { to, message }] if to[..] == [node(1)] && message.command == SUBSCRIBE));
    assert!(story.network(at(2), NetworkEvent::Writable { peer: node(1) }).is_empty(), "said once");
    assert_eq!(story.gossip.stats().shed, 1);
}

#[test]
fn a_neighbour_that_left_or_wants_nothing_gets_nothing() {
    let mut story = Story::new(Config::default());
    story.network(at(1), down(1));
    story.network(at(1), arrives(2, subscription(b"\x00")));
    assert!(story.network(at(1), arrives(1, subscription(b"\x01\x02tx"))).is_empty(), "it is gone already");
    let said = story.command(at(1), Command::Publish { topic: TX, bytes: b"x"[..].into() });
    assert_eq!(sent(&said), [node(3)]);
}

/// Three machines in a line, a - b - c: messages are carried by hand, one at a time, in order.
#[test]
fn an_item_walks_down_a_line_and_nothing_comes_back() {
    let budget = Budget::default();
    let mut line: Vec<Gossip> = (0..3).map(|_| Gossip::new(Config::default(), &budget)).collect();
    let mut under_way = std::collections::VecDeque::new();
    let mut given_to = vec![];
    let mut trips = vec![];
    line.iter_mut().for_each(|gossip| gossip.handle_command(at(0), Command::Subscribe(TX)));
    for (a, b) in [(0, 1), (1, 2)] {
        line[a].handle_network(at(0), up(node(b as u8)));
        line[b].handle_network(at(0), up(node(a as u8)));
    }
    let mut published = false;
    loop {
        for (me, gossip) in line.iter_mut().enumerate() {
            while let Some(action) = gossip.poll_action() {
                match action {
                    Action::Send { to, message } => {
                        under_way.extend(to.into_iter().map(|to| (me, to, message.clone())));
                    }
                    Action::Emit(Event::Item { id, .. }) => {
                        given_to.push(me);
                        gossip.handle_command(at(1), Command::Verdict { item: id, verdict: Verdict::Accept });
                    }
                    Action::Want(Want::Keep { .. }) => {}
                    other => panic!("unexpected {other:?}"),
                }
            }
        }
        let Some((from, to, message)) = under_way.pop_front() else {
            if core::mem::replace(&mut published, true) {
                break;
            }
            line[0].handle_command(at(1), Command::Publish { topic: TX, bytes: b"x"[..].into() });
            continue;
        };
        let to = usize::from(to.as_bytes()[0]);
        if message.command == ITEM {
            trips.push((from, to));
        }
        let charge = budget.nothing();
        line[to].handle_network(at(1), NetworkEvent::Message { peer: node(from as u8), message, charge });
    }
    assert_eq!((given_to, trips), (vec![1, 2], vec![(0, 1), (1, 2)]));
}

#[test]
fn the_next_timeout_is_the_earlier_of_verdict_and_rotation() {
    let config = Config { verdict_timeout: Duration::from_secs(300), ..Config::default() };
    let mut story = Story::new(config);
    assert_eq!(story.gossip.next_timeout(), None);
    given(&story.network(at(0), arrives(1, item(b"x"))));
    assert_eq!(story.gossip.next_timeout(), Some(at(120).mono));
    story.timeout(at(120));
    story.timeout(at(240));
    assert_eq!(story.gossip.next_timeout(), Some(at(300).mono), "it still waits, though no longer remembered");
}

proptest::proptest! {
    /// Whatever happens in whatever order: no panic, no more than the limits allow, and in the end nothing is kept.
    #[test]
    fn the_books_balance_after_any_story(
        steps in proptest::collection::vec((0u8..7, 0u8..6, 1u8..4), 0..200),
        heads in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..8), 4),
    ) {
        let config = Config { pending_bytes: 1700, pending_bytes_per_peer: 1300, seen_bytes: 480, ..Config::default() };
        let mut story = Story::new(config);
        let mut clock = 0;
        for (what, which, who) in steps {
            let bytes = Bytes::from(vec![which; 10]);
            let id = ItemId::of(&TX, &bytes);
            let message = Message::with_body(ITEM, &b"\x02tx"[..], bytes.clone());
            match (what, which) {
                (0 | 1, _) => drop(story.network(at(clock), arrives(who, message))),
                (2, 0) => drop(story.command(at(clock), Command::Republish { topic: TX, bytes })),
                (2, _) => drop(story.command(at(clock), Command::Publish { topic: TX, bytes })),
                (3, _) => drop(story.verdict(at(clock), id, [Verdict::Accept, Verdict::Reject, Verdict::Ignore][usize::from(who) - 1])),
                (4, 0..3) => drop(story.network(at(clock), down(who))),
                (4, _) => drop(story.network(at(clock), up(node(who)))),
                (5, _) => {
                    let head = heads[usize::from(which) % heads.len()].clone();
                    story.network(at(clock), arrives(who, subscription(&head)));
                    story.network(at(clock), arrives(who, Message::with_body(ITEM, head, bytes)));
                }
                _ => {
                    clock += 10 * u64::from(which);
                    story.gossip.handle_timeout(at(clock));
                }
            }
            let stats = story.gossip.stats();
            proptest::prop_assert!(stats.pending_bytes <= 1700 && stats.seen <= 6);
        }
        story.gossip.handle_timeout(at(clock + 120));
        story.gossip.handle_timeout(at(clock + 240));
        let stats = story.gossip.stats();
        proptest::prop_assert_eq!((stats.pending, stats.pending_bytes, stats.seen), (0, 0, 0));
        proptest::prop_assert_eq!((story.gossip.next_timeout(), story.budget.report().resident), (None, 0));
    }
}
