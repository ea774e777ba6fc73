//! Bodies of the fuzz targets `gossip_*`: what must hold whatever neighbours say, in any order. They stand here because
//! they look at what only this module sees. `tests/fuzz/README.md` says how they are run; the tests below replay what was
//! found.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use peerage_core::{
    Action, Budget, Charge, CloseReason, Closed, DropReason, LinkInfo, Message, NetworkEvent, NodeId, Now, Pool,
    Protocol, RequestId, Timestamp, Want,
};
use peerage_wire::payload;

use super::{
    Command, Config, Event, Gossip, ITEM, ItemId, LIMITS, MAX_TOPICS, SUBSCRIBE, Topic, Verdict,
    topic::MAX_TOPIC_BYTES,
    wire::{ItemHead, MAX_ITEM_HEAD_BYTES, MAX_SUBSCRIBE_BYTES, Topics},
};

#[path = "../../../../tests/fuzz/shared/input.rs"]
pub mod input;

use input::Input;

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[("gossip_payload", payloads), ("gossip_messages", messages)];

/// The heads of both messages: what is accepted is a topic, or a sorted set of topics, in its one encoding.
pub fn payloads(data: &[u8]) {
    if let Ok(head) = payload::from_bytes::<ItemHead>(data, MAX_ITEM_HEAD_BYTES) {
        assert_eq!(payload::to_bytes(&head), data);
        is_topic(&head.topic);
    }
    if let Ok(topics) = payload::from_bytes::<Topics>(data, MAX_SUBSCRIBE_BYTES) {
        assert_eq!(payload::to_bytes(&topics), data);
        assert!(topics.0.len() <= MAX_TOPICS && topics.0.is_sorted_by(|one, next| one < next));
        topics.0.iter().for_each(is_topic);
    }
}

fn is_topic(topic: &Topic) {
    let text = topic.as_str();
    assert!((1..=MAX_TOPIC_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()));
    assert_eq!(Topic::new(text).as_ref(), Ok(topic));
}

/// Topics that are talked about; the machine asks for the first two.
const TOPICS: [Topic; 3] = [Topic::from_static("a"), Topic::from_static("b"), Topic::from_static("c")];

/// An item that was given upward and waits for its verdict.
struct Waiting {
    id: ItemId,
    from: NodeId,
    until: Timestamp,
    _charge: Charge,
}

/// The machine, and what a runner and a user know of it.
struct Stage {
    gossip: Gossip,
    config: Config,
    budget: Budget,
    now: Now,
    /// Neighbours with what they asked for last.
    neighbours: BTreeMap<NodeId, BTreeSet<Topic>>,
    waiting: Vec<Waiting>,
    /// Whose items no copy may go to while an input is handled.
    holder: Option<NodeId>,
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number % 5 + 1; 32])
}

impl Stage {
    fn new(cap: usize) -> Self {
        let (pending_bytes, pending_bytes_per_peer) = (3_000, 2_000);
        let config = Config { seen_bytes: 2_000, pending_bytes, pending_bytes_per_peer, ..Config::default() };
        let budget = Budget::new(cap);
        let mut gossip = Gossip::new(config, &budget);
        TOPICS[..2].iter().for_each(|topic| gossip.handle_command(Now::default(), Command::Subscribe(*topic)));
        let (neighbours, waiting) = (BTreeMap::new(), Vec::new());
        Self { gossip, config, budget, now: Now::default(), neighbours, waiting, holder: None }
    }

    /// Takes actions and checks each against what may happen.
    fn drain(&mut self) {
        while let Some(action) = self.gossip.poll_action() {
            match action {
                Action::Send { to, message } => self.sends(&to, &message),
                Action::Emit(Event::Item { topic, id, bytes, from, charge }) => {
                    assert!(TOPICS[..2].contains(&topic), "{topic} was not asked for");
                    assert_eq!(id, ItemId::of(&topic, &bytes));
                    assert!(self.waiting.iter().all(|waiting| waiting.id != id), "given twice while it waits");
                    let until = self.now.mono + self.config.verdict_timeout;
                    self.waiting.push(Waiting { id, from, until, _charge: charge });
                }
                Action::Emit(Event::Refused { .. }) => {}
                Action::Want(Want::Keep { peer }) => assert!((1..=5).any(|number| node(number) == peer)),
                Action::Report { peer, .. } => assert!((1..=5).any(|number| node(number) == peer)),
                _ => panic!("not gossip's: {action:?}"),
            }
        }
        let stats = self.gossip.stats();
        assert!(stats.pending_bytes <= self.config.pending_bytes && stats.pending <= self.waiting.len());
        assert!(self.budget.report().resident <= self.budget.report().cap);
    }

    fn sends(&self, to: &[NodeId], message: &Message) {
        let (_, limit) = LIMITS.iter().find(|(command, _)| *command == message.command).expect("one of ours");
        assert!(!to.is_empty() && message.len() <= *limit as usize);
        assert!(to.is_sorted_by(|one, next| one < next), "somebody gets it twice");
        if message.command == ITEM {
            let ItemHead { topic } = payload::from_bytes(&message.head, MAX_ITEM_HEAD_BYTES).expect("our own head");
            for to in to {
                assert!(
                    self.neighbours.get(to).is_some_and(|topics| topics.contains(&topic)),
                    "did not ask for {topic}"
                );
                assert_ne!(Some(to), self.holder.as_ref(), "it came from there");
            }
        } else {
            let topics: Topics = payload::from_bytes(&message.head, MAX_SUBSCRIBE_BYTES).expect("our own topics");
            assert!(message.body.is_none() && topics.0 == TOPICS[..2]);
            assert!(to.iter().all(|to| self.neighbours.contains_key(to)));
        }
    }

    fn network(&mut self, event: NetworkEvent) {
        self.gossip.handle_network(self.now, event);
        self.drain();
    }

    fn command(&mut self, command: Command) {
        self.gossip.handle_command(self.now, command);
        self.drain();
    }

    fn message(&mut self, peer: NodeId, message: Message) {
        // As a runner does: no message without memory for it.
        let Ok(charge) = self.budget.charge(Pool::Inbox, message.len()) else { return };
        if message.command == SUBSCRIBE
            && message.body.is_none()
            && let Ok(topics) = payload::from_bytes::<Topics>(&message.head, MAX_SUBSCRIBE_BYTES)
            && let Some(neighbour) = self.neighbours.get_mut(&peer)
        {
            *neighbour = topics.0.into_iter().collect();
        }
        self.network(NetworkEvent::Message { peer, message, charge });
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
        for _ in 0..10 {
            if self.gossip.next_timeout().is_none_or(|due| due > self.now.mono) {
                let now = self.now.mono;
                return self.waiting.retain(|waiting| waiting.until > now);
            }
            self.gossip.handle_timeout(self.now);
            self.drain();
        }
        panic!("a timeout stays due");
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (op, choice) = (input.byte(), input.byte());
        let peer = node(choice);
        let topic = TOPICS[usize::from(choice >> 4) % TOPICS.len()];
        match op % 16 {
            0 | 1 if !self.neighbours.contains_key(&peer) => {
                let remote = ([10, 0, 0, 1], 1).into();
                self.neighbours.insert(peer, BTreeSet::new());
                let info = LinkInfo { peer, outbound: true, remote, listen: vec![], features: 0, dial_key: None };
                self.network(NetworkEvent::PeerUp { peer, info });
            }
            2 if self.neighbours.remove(&peer).is_some() => {
                let closed = Closed::by_network(CloseReason::StreamError);
                self.network(NetworkEvent::PeerDown { peer, closed });
            }
            3 => self.message(peer, Message::new(SUBSCRIBE, input.chunk().to_vec())),
            4 => {
                let wanted = TOPICS.into_iter().zip(0..).filter(|(_, bit)| choice >> 4 >> bit & 1 == 1);
                let topics = Topics(wanted.map(|(topic, _)| topic).collect());
                self.message(peer, Message::new(SUBSCRIBE, payload::to_bytes(&topics)));
            }
            5 => {
                let head = input.chunk().to_vec();
                let message = Message::with_body(ITEM, head, input.chunk().to_vec());
                self.message(peer, message);
            }
            6..=8 => {
                let head = payload::to_bytes(&ItemHead { topic });
                self.message(peer, Message::with_body(ITEM, head, input.chunk().to_vec()));
            }
            9 => {
                let bytes = Bytes::copy_from_slice(input.chunk());
                let id = ItemId::of(&topic, &bytes);
                // Whoever publishes what still waits has judged.
                let judged = self.waiting.iter().position(|waiting| waiting.id == id);
                let judged = judged.map(|place| self.waiting.remove(place));
                if op & 16 == 0 {
                    self.holder = judged.map(|waiting| waiting.from);
                    self.command(Command::Publish { topic, bytes });
                    self.holder = None;
                } else {
                    self.command(Command::Republish { topic, bytes });
                }
            }
            10..=12 if !self.waiting.is_empty() => {
                let Waiting { id, from, .. } = self.waiting.remove(usize::from(choice) % self.waiting.len());
                let verdict = [Verdict::Accept, Verdict::Reject, Verdict::Ignore][usize::from(op % 16 - 10)];
                self.holder = Some(from);
                self.command(Command::Verdict { item: id, verdict });
                self.holder = None;
            }
            13 => self.pass(Duration::from_millis(if op & 16 == 0 { 100 } else { 1_000 } * u64::from(choice))),
            14 => {
                let command = if op & 16 == 0 { SUBSCRIBE } else { ITEM };
                let reason = if op & 32 == 0 { DropReason::NotConnected } else { DropReason::TooLong };
                self.network(NetworkEvent::Dropped { peer, command, reason });
            }
            15 if op & 16 == 0 => self.network(NetworkEvent::Writable { peer }),
            15 => {
                let (message, charge) = (Message::new(ITEM, input.chunk().to_vec()), self.budget.nothing());
                self.network(NetworkEvent::Request { peer, id: RequestId(1), message, charge });
            }
            _ => {}
        }
    }
}

/// The machine among neighbours that say anything, in any order: nobody gets what it did not ask for, or has; nothing goes
/// upward that was not asked for, or twice while it waits; memory keeps its bounds.
pub fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    let mut stage = Stage::new(usize::from(input.byte()) << 6);
    stage.drain();
    while !input.is_empty() {
        stage.step(&mut input);
    }
    let Stage { gossip, budget, waiting, .. } = stage;
    drop((gossip, waiting));
    assert_eq!(budget.report().resident, 0, "what is dropped is given back");
}

#[cfg(test)]
#[path = "../../../../tests/fuzz/shared/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds() -> Vec<replay::Seed> {
        let head = payload::to_bytes(&ItemHead { topic: TOPICS[0] });
        let topics = payload::to_bytes(&Topics(TOPICS.to_vec()));
        // Three neighbours come, each wants everything.
        let meet: Vec<u8> = (0..3).flat_map(|number| [0, number, 4, 0x70 + number]).collect();
        let item = |peer: u8, bytes: &[u8]| Input::with_chunks(&[6, peer], &[bytes]);
        vec![
            ("gossip_payload", "head", head.clone()),
            ("gossip_payload", "topics", topics.clone()),
            (
                "gossip_messages",
                "accept",
                [&[255], &meet[..], &item(0, b"x"), &item(1, b"x"), &[10, 0], &item(2, b"x")].concat(),
            ),
            ("gossip_messages", "reject", [&[255], &meet[..], &item(0, b"x"), &[11, 0], &item(1, b"x")].concat()),
            (
                "gossip_messages",
                "late",
                [&[255], &meet[..], &item(0, b"x"), &[12, 0], &item(1, b"x"), &[29, 200]].concat(),
            ),
            ("gossip_messages", "publish", [&[255], &meet[..], &[9, 0, 1, 7, 25, 0, 1, 7, 14, 0, 15, 0]].concat()),
            (
                "gossip_messages",
                "raw",
                [
                    &[255, 0, 0],
                    &Input::with_chunks(&[3, 0], &[&topics])[..],
                    &Input::with_chunks(&[5, 0], &[&head, b"y"]),
                ]
                .concat(),
            ),
            ("gossip_messages", "no-room", [&[2], &meet[..], &item(0, b"x"), &item(0, b"y"), &item(0, b"z")].concat()),
        ]
    }

    #[test]
    fn each_target_holds_on_its_seeds_and_on_what_fuzzing_found() {
        replay::replay("gossip_", TARGETS, &seeds());
    }
}
