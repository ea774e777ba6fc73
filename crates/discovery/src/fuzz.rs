//! Bodies of the fuzz targets `discovery_*`: what must hold whatever connected peers say, in any order.
//! `tests/fuzz/README.md` says how they are run; the tests below replay what was found.

use core::{net::SocketAddr, time::Duration};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use peerage_core::{
    Action, Budget, CloseReason, Closed, LinkInfo, LinkStats, Message, NetworkEvent, NetworkId, NodeId, Now, Protocol,
    RequestError, RequestId, Seed, Timestamp, UnixMillis,
};
use peerage_transport::proto::{keypair::Keypair, signed::Signable};

use crate::{
    Command, Config, DhtKey, Discovery, Event, FIND, LIMITS, NODES, NodeRecord, RECORD, RecordBody,
    config::K,
    proto::{
        messages::{self, read_nodes},
        record::{MAX_ADDRS, MAX_RECORD},
    },
};

#[path = "../../../tests/fuzz/shared/input.rs"]
pub mod input;

use input::Input;

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[("discovery_record", record), ("discovery_messages", messages)];

const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);
const WALL: UnixMillis = UnixMillis(1_000_000_000_000);

/// Made once: they cost more than most inputs.
static KEYPAIRS: LazyLock<Vec<Keypair>> =
    LazyLock::new(|| (0..=255).map(|number| Keypair::from_seed(&[number; 32])).collect());

fn keypair(number: u8) -> &'static Keypair {
    &KEYPAIRS[usize::from(number)]
}

/// A node record: as it comes, and signed by somebody who has a key and signs anything.
pub fn record(data: &[u8]) {
    let mut input = Input::new(data);
    let author = keypair(1);
    let encoded: Bytes = if input.byte().is_multiple_of(2) {
        Bytes::copy_from_slice(input.rest())
    } else {
        let (version, body) = (RecordBody::VERSION.to_be_bytes(), input.rest());
        let domain = RecordBody::DOMAIN.as_bytes();
        let said = [&[domain.len() as u8], domain, NETWORK.as_bytes(), &version, body].concat();
        [author.node_id().as_bytes(), &author.sign(&said)[..], &version, body].concat().into()
    };
    if let Ok(record) = NodeRecord::verify(encoded.clone(), NETWORK) {
        assert!(encoded.len() <= MAX_RECORD && record.addrs().len() <= MAX_ADDRS);
        assert_eq!((record.node(), record.key()), (author.node_id(), DhtKey::of(&author.node_id())));
        assert_eq!(NodeRecord::sign(author, NETWORK, record.body().clone()).encoded(), &encoded);
        assert!(!record.contradicts(&record) && !record.supersedes(&record));
        // Whatever it says about time must not trouble us.
        for wall in [UnixMillis(0), WALL, UnixMillis(u64::MAX)] {
            record.is_current(wall);
        }
    }
    assert!(NodeRecord::verify(encoded, NetworkId::from_bytes([2; 32])).is_err(), "void in every other network");
}

/// Nodes that can take part; the first is the one that is tested.
const NODES_THERE: u8 = 24;

/// The machine, and what a runner knows of it.
struct Stage {
    discovery: Discovery,
    budget: Budget,
    cap: usize,
    now: Now,
    connected: BTreeSet<NodeId>,
    /// Requests that wait for our answer, and that wait for an answer of the machine's.
    asked: Vec<(NodeId, RequestId)>,
    asking: BTreeMap<RequestId, NodeId>,
    next: u64,
    /// Lookups of the user's that are not done.
    lookups: BTreeSet<u64>,
}

impl Stage {
    fn new(cap: usize) -> Self {
        let budget = Budget::new(cap);
        let mut config =
            Config::new(Arc::new(Keypair::from_seed(&[0; 32])), NETWORK, Seed::from_u64(1), budget.clone());
        config.addrs = vec![addr(0)];
        config.seeds = vec![(keypair(1).node_id(), vec![addr(1)])];
        let now = Now { mono: Timestamp::ZERO, wall: WALL };
        Self {
            discovery: Discovery::new(config, now),
            budget,
            cap,
            now,
            connected: BTreeSet::new(),
            asked: Vec::new(),
            asking: BTreeMap::new(),
            next: 0,
            lookups: BTreeSet::new(),
        }
    }

    fn network(&mut self, event: NetworkEvent) {
        self.discovery.handle_network(self.now, event);
        self.drain();
    }

    /// Takes actions and checks each against what may happen.
    fn drain(&mut self) {
        while let Some(action) = self.discovery.poll_action() {
            match action {
                Action::Send { to, message } => {
                    assert!(!to.is_empty() && to.iter().all(|to| self.connected.contains(to)));
                    within_limits(&message);
                    let own = NodeRecord::verify(message.head, NETWORK).expect("our own record verifies");
                    assert_eq!((message.command, own.node()), (RECORD, keypair(0).node_id()));
                }
                Action::Request { to, id, message, .. } => {
                    assert!(self.connected.contains(&to) && message.command == FIND);
                    within_limits(&message);
                    assert!(self.asked.iter().all(|(_, open)| *open != id), "an id twice");
                    self.asked.push((to, id));
                }
                Action::Respond { to, id, message } => {
                    assert_eq!(self.asking.remove(&id), Some(to), "one answer to one question");
                    within_limits(&message);
                    let records = read_nodes(&message).expect("our own answer");
                    assert!(records.len() <= K);
                    for record in records {
                        NodeRecord::verify(record, NETWORK).expect("nobody is sent what does not verify");
                    }
                }
                Action::Want(want) => {
                    use peerage_core::Want::{Ask, Candidate, Now};
                    let (Candidate { peer, addrs, .. } | Ask { peer, addrs, .. } | Now { peer, addrs }) = want else {
                        panic!("discovery keeps nobody for being useful: {want:?}");
                    };
                    assert!(peer != keypair(0).node_id() && addrs.len() <= MAX_ADDRS);
                }
                Action::Emit(Event::LookupDone { token, closest }) => {
                    assert!(self.lookups.remove(&token), "a lookup ends once");
                    assert!(closest.len() <= K);
                }
                Action::Emit(Event::TableChanged { nodes }) => assert!(nodes < usize::from(NODES_THERE)),
                Action::Emit(Event::Joined) | Action::Report { .. } => {}
                _ => panic!("not discovery's: {action:?}"),
            }
        }
        assert_eq!(self.discovery.known().count(), self.discovery.table_len());
        assert!(self.budget.report().resident <= self.cap);
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { mono: self.now.mono + time, wall: self.now.wall + time };
        self.timeouts();
    }

    fn timeouts(&mut self) {
        // Each timeout must make progress: a timer that stays due would spin.
        for _ in 0..50 {
            if self.discovery.next_timeout().is_none_or(|due| due > self.now.mono) {
                return;
            }
            self.discovery.handle_timeout(self.now);
            self.drain();
        }
        panic!("a timeout stays due");
    }

    fn message(&mut self, peer: NodeId, message: Message) {
        let charge = self.budget.nothing();
        self.network(NetworkEvent::Message { peer, message, charge });
    }

    fn request(&mut self, peer: NodeId, message: Message) {
        let (id, charge) = (RequestId(self.next), self.budget.nothing());
        self.next += 1;
        self.asking.insert(id, peer);
        self.network(NetworkEvent::Request { peer, id, message, charge });
    }

    /// Answers one of the machine's questions.
    fn answer(&mut self, which: u8, result: Result<Message, RequestError>) {
        if !self.asked.is_empty() {
            let (peer, id) = self.asked.remove(usize::from(which) % self.asked.len());
            let result = result.map(|message| (message, self.budget.nothing()));
            self.network(NetworkEvent::Response { peer, id, command: FIND, result });
        }
    }

    /// A record that `number` signs: three bytes say what is odd about it.
    fn signed(&self, number: u8, input: &mut Input<'_>) -> NodeRecord {
        let (seq, places, hours) = (input.byte(), input.byte(), input.byte() as i8);
        let addrs = (0..places % 5).map(|place| if place == 0 { addr(number) } else { addr(place | places) }).collect();
        let issued_at = UnixMillis(self.now.wall.0.saturating_add_signed(i64::from(hours) * 3_600_000));
        let body = RecordBody { seq: seq.into(), addrs, features: (places >> 6).into(), issued_at };
        NodeRecord::sign(keypair(number), NETWORK, body)
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (op, number) = (input.byte(), input.byte() % NODES_THERE);
        let peer = keypair(number).node_id();
        let there = self.connected.contains(&peer);
        match op % 16 {
            0 | 1 if number > 0 && !there => {
                let remote = if op & 16 == 0 { addr(number) } else { addr(input.byte()) };
                let info =
                    LinkInfo { peer, outbound: op & 32 == 0, remote, listen: vec![], features: 0, dial_key: None };
                self.connected.insert(peer);
                self.network(NetworkEvent::PeerUp { peer, info });
            }
            2 if there => {
                self.connected.remove(&peer);
                let closed = Closed::by_network(CloseReason::StreamError);
                self.network(NetworkEvent::PeerDown { peer, closed });
                let (gone, stay) = self.asked.drain(..).partition(|(to, _)| *to == peer);
                self.asked = stay;
                for (peer, id) in gone {
                    let result = Err(RequestError::Closed(closed));
                    self.network(NetworkEvent::Response { peer, id, command: FIND, result });
                }
            }
            3 if there => self.message(peer, Message::new(RECORD, input.chunk().to_vec())),
            4 | 5 if there => {
                let record = self.signed(if op & 16 == 0 { number } else { input.byte() }, input);
                self.message(peer, messages::record(&record));
            }
            6 if there => self.request(peer, Message::new(FIND, input.chunk().to_vec())),
            7 if there => {
                let target = DhtKey::of(&keypair(input.byte() % NODES_THERE).node_id());
                self.request(peer, messages::find(target));
            }
            8 => self.answer(number, Ok(Message::new(NODES, input.chunk().to_vec()))),
            9 => {
                let mut records: Vec<_> = (0..input.byte() % 20).map(|_| (input.byte() % NODES_THERE, ())).collect();
                if op & 16 == 0 {
                    // As an honest peer answers if the machine looks for itself.
                    let own = DhtKey::of(&keypair(0).node_id());
                    records.sort_by_key(|(number, ())| DhtKey::of(&keypair(*number).node_id()).distance(&own));
                    records.dedup();
                }
                let records: Vec<_> = records.into_iter().map(|(number, ())| self.signed(number, input)).collect();
                self.answer(number, Ok(messages::nodes(records.iter())));
            }
            10 => self.answer(number, Err(RequestError::Timeout)),
            11 => {
                let unit = if op & 16 == 0 { 100 } else { 60_000 };
                self.pass(Duration::from_millis(unit * u64::from(number)));
            }
            12 => {
                let token = self.next;
                self.next += 1;
                self.lookups.insert(token);
                self.discovery.handle_command(self.now, Command::Lookup { token, target: DhtKey::of(&peer) });
                self.drain();
            }
            13 => {
                let addrs = input.chunk().iter().map(|byte| addr(*byte)).collect();
                self.discovery.handle_command(self.now, Command::SetAddrs(addrs));
                self.drain();
            }
            14 => {
                let closed = Closed::by_network(CloseReason::DialRefused);
                self.network(NetworkEvent::DialFailed { addr: addr(number), expected: Some(peer), closed });
            }
            15 if there => match op >> 4 {
                0..=4 => self.network(NetworkEvent::PeerStats {
                    peer,
                    stats: LinkStats::first(Duration::from_millis(number.into()), 0),
                }),
                5..=9 => self.message(peer, Message::new(NODES, input.chunk().to_vec())),
                _ => self.network(NetworkEvent::Writable { peer }),
            },
            _ => {}
        }
    }
}

fn addr(number: u8) -> SocketAddr {
    ([8, 8, number, 8], 4_000).into()
}

fn within_limits(message: &Message) {
    let (_, limit) = LIMITS.iter().find(|(command, _)| *command == message.command).expect("one of ours");
    assert!(message.len() <= *limit as usize, "{message:?}");
}

/// The machine among peers that say anything, in any order: what it answers is well-formed, what it is asked for comes to
/// an end, and its timers make progress.
pub fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    let mut stage = Stage::new(usize::from(input.byte()) << 12);
    stage.timeouts();
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        stage.step(&mut input);
    }
    // Nobody answers any more: every lookup comes to its end all the same.
    for _ in 0..200 {
        if stage.lookups.is_empty() {
            break;
        }
        while !stage.asked.is_empty() {
            stage.answer(0, Err(RequestError::Timeout));
        }
        stage.pass(Duration::from_secs(6));
    }
    assert!(stage.lookups.is_empty(), "lookups without an end: {:?}", stage.lookups);
    let Stage { discovery, budget, .. } = stage;
    drop(discovery);
    assert_eq!(budget.report().resident, 0, "what is dropped is given back");
}

#[cfg(test)]
#[path = "../../../tests/fuzz/shared/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;
    use peerage_transport::proto::signed::SIGNED_OVERHEAD;

    fn seeds() -> Vec<replay::Seed> {
        let addrs = vec![addr(1), ([9; 8], 1).into()];
        let body = RecordBody { seq: 300, addrs, features: 5, issued_at: WALL };
        let record = NodeRecord::sign(keypair(1), NETWORK, body);
        let find = messages::find(DhtKey::of(&record.node()));
        let answer = messages::nodes([&record].into_iter());
        let raw = |before: &[u8], bytes: &[u8]| Input::with_chunks(before, &[bytes]);
        // Three peers come and tell their records, valid ones with one address each.
        let meet: Vec<u8> = (1..=3).flat_map(|number| [0, number, 4, number, 9, 1, 0]).collect();
        vec![
            ("discovery_record", "as-it-comes", [&[0], &record.encoded()[..]].concat()),
            ("discovery_record", "by-a-key", [&[1], &record.encoded()[SIGNED_OVERHEAD..]].concat()),
            ("discovery_messages", "meet-and-find", [&[255], &meet[..], &[7, 1, 2, 11, 90, 27, 20]].concat()),
            (
                "discovery_messages",
                "lookup",
                [&[255], &meet[..], &[12, 9, 9, 0, 2, 5, 6, 9, 1, 0, 9, 1, 0, 10, 0]].concat(),
            ),
            ("discovery_messages", "down", [&[255], &meet[..], &[12, 9, 2, 1, 2, 2, 14, 1, 11, 23]].concat()),
            ("discovery_messages", "no-room", [&[1], &meet[..], &[12, 9, 9, 0, 1, 5, 9, 1, 0]].concat()),
            (
                "discovery_messages",
                "raw",
                [
                    &[255, 0, 1],
                    &raw(&[3, 1], record.encoded())[..],
                    &raw(&[6, 1], &find.head),
                    &raw(&[8, 0], &answer.head),
                ]
                .concat(),
            ),
        ]
    }

    #[test]
    fn each_target_holds_on_its_seeds_and_on_what_fuzzing_found() {
        replay::replay("discovery_", TARGETS, &seeds());
    }
}
