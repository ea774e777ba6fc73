//! The body of `chain_messages`: the machine over a store in memory, among peers and users that say anything.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use peerage_core::{
    Action, Budget, CloseReason, Closed, Command as WireCommand, Done, DropReason, Job, JobId, LinkInfo, Message,
    NetworkEvent, NodeId, Now, Pool, Protocol, RequestError, RequestId, UnixMillis,
};
use peerage_gossip::{Command as GossipCommand, Event as GossipEvent, ItemId, Topic};
use peerage_transport::proto::keypair::Keypair;

use super::{account, genesis, input::Input, keypair, made, put};
use crate::{
    proto::{
        BLOCKS, BLOCKS_TOPIC, BlocksRequest, Chain, Command, Config, Event, HEAD, LIMITS, Summary, TRANSACTIONS,
        TRANSACTIONS_TOPIC,
        id::{BlockId, TxId},
        wire::{batch, unbatch},
    },
    store::Store,
};

/// Honest blocks of the network that follow each other.
pub(super) const HONEST: u64 = 3;

pub(super) fn peer(number: u8) -> NodeId {
    NodeId::from_bytes([number % 3 + 1; 32])
}

/// Made once, by a producer over a store of its own.
static HONEST_BLOCKS: LazyLock<Vec<Bytes>> = LazyLock::new(|| {
    let store = Store::in_memory(genesis()).expect("memory");
    let build = |height: u64| {
        let wall = UnixMillis(1_700_000_000_000 + height * 500);
        let txs = vec![put(1, height, b"key", height), put(2, height, &[b'a' + height as u8], 0)];
        let built = store.build(txs, wall, keypair(super::PRODUCER)).expect("memory");
        built.block.expect("two valid transactions").block.bytes().clone()
    };
    (0..HONEST).map(build).collect()
});

pub(super) fn honest_blocks() -> &'static [Bytes] {
    &HONEST_BLOCKS
}

/// The machine, its store, and what a runner, gossip and a user know of it.
struct Stage {
    chain: Chain,
    store: Store,
    budget: Budget,
    now: Now,
    connected: BTreeSet<NodeId>,
    /// Requests that wait for our answer, and that wait for an answer of the machine's.
    asked: Vec<(NodeId, RequestId)>,
    asking: BTreeMap<RequestId, NodeId>,
    next: u64,
    /// Submissions without an answer, items without a verdict.
    submitted: BTreeSet<u64>,
    judged: BTreeMap<ItemId, usize>,
    pool_cap: usize,
    height: u64,
}

impl Stage {
    fn new(cap: usize, producer: bool) -> Self {
        let budget = Budget::new(cap);
        let producer = producer.then(|| Arc::new(Keypair::from_seed(&[super::PRODUCER; 32])));
        let chain = Chain::new(genesis(), Config { producer, ..Config::default() }, &budget).expect("the producer");
        let mut stage = Self {
            chain,
            store: Store::in_memory(genesis()).expect("memory"),
            budget,
            now: Now { wall: UnixMillis(1_700_000_001_000), ..Now::default() },
            connected: BTreeSet::new(),
            asked: Vec::new(),
            asking: BTreeMap::new(),
            next: 0,
            submitted: BTreeSet::new(),
            judged: BTreeMap::new(),
            pool_cap: cap / 4,
            height: 0,
        };
        stage.drain();
        stage
    }

    /// Takes actions, runs jobs, and checks each against what may happen, until all is quiet. A job's result goes in when
    /// there is nothing more to take, as a runner does it.
    fn drain(&mut self) {
        let mut done = VecDeque::new();
        loop {
            self.take_actions(&mut done);
            let Some((id, done)) = done.pop_front() else { break };
            self.chain.handle_done(self.now, id, done);
        }
        let status = self.chain.status();
        assert!(status.pool_bytes <= self.pool_cap && self.budget.report().resident <= self.budget.report().cap);
        assert_eq!(status.head.map_or(0, |head| head.height), self.height);
    }

    fn take_actions(&mut self, done: &mut VecDeque<(JobId, Done<Chain>)>) {
        while let Some(action) = self.chain.poll_action() {
            match action {
                Action::Store(id, job) => done.push_back((id, Done::Stored(job.run(&mut self.store)))),
                Action::Compute(id, job) => done.push_back((id, Done::Computed(job.run(&mut ())))),
                Action::Send { to, message } => {
                    assert!(!to.is_empty() && to.iter().all(|to| self.connected.contains(to)), "to whom is not there");
                    within_limits(&message);
                    match message.command {
                        HEAD => drop(Summary::decode(&message.head).expect("our own head")),
                        TRANSACTIONS => drop(unbatch(&message).expect("our own transactions")),
                        other => panic!("not sent: {other:?}"),
                    }
                }
                Action::Request { to, id, message, .. } => {
                    assert!(self.connected.contains(&to));
                    within_limits(&message);
                    BlocksRequest::decode(&message).expect("our own request");
                    self.asked.push((to, id));
                }
                Action::Respond { to, id, message } => {
                    assert_eq!(self.asking.remove(&id), Some(to), "one answer to one question");
                    within_limits(&message);
                    unbatch(&message).expect("our own answer");
                }
                Action::Emit(event) => self.event(event),
                Action::Heartbeat(data) => assert!(data.len() <= 64),
                Action::Report { .. } => {}
                _ => panic!("not the chain's: {action:?}"),
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Submitted { token, .. } => assert!(self.submitted.remove(&token), "one answer to one submission"),
            Event::BlockCommitted { head, .. } => {
                assert_eq!(head.height, self.height + 1, "one after the other");
                self.height = head.height;
            }
            Event::Gossip(GossipCommand::Verdict { item, .. }) => {
                let open = self.judged.get_mut(&item).expect("an item that was given");
                *open = open.checked_sub(1).expect("one verdict for one item");
            }
            Event::StoreFailed(error) => panic!("a store in memory failed: {error}"),
            _ => {}
        }
    }

    fn network(&mut self, event: NetworkEvent) {
        self.chain.handle_network(self.now, event);
        self.drain();
    }

    fn command(&mut self, command: Command) {
        self.chain.handle_command(self.now, command);
        self.drain();
    }

    fn message(&mut self, from: NodeId, message: Message) {
        let charge = self.budget.nothing();
        self.network(NetworkEvent::Message { peer: from, message, charge });
    }

    fn gossip(&mut self, from: NodeId, topic: Topic, bytes: Bytes) {
        let Ok(charge) = self.budget.charge(Pool::Inbox, bytes.len()) else { return };
        let id = ItemId::of(&topic, &bytes);
        *self.judged.entry(id).or_default() += 1;
        self.command(Command::Gossip(GossipEvent::Item { topic, id, bytes, from, charge }));
    }

    fn submit(&mut self, tx: Bytes) {
        let token = self.next;
        self.next += 1;
        self.submitted.insert(token);
        self.command(Command::Submit { token, tx });
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { mono: self.now.mono + time, wall: self.now.wall + time };
        for _ in 0..100 {
            if self.chain.next_timeout().is_none_or(|due| due > self.now.mono) {
                return;
            }
            self.chain.handle_timeout(self.now);
            self.drain();
        }
        panic!("a timeout stays due");
    }

    fn answer(&mut self, which: u8, result: Result<Message, RequestError>) {
        if !self.asked.is_empty() {
            let (peer, id) = self.asked.remove(usize::from(which) % self.asked.len());
            let result = result.map(|message| (message, self.budget.nothing()));
            self.network(NetworkEvent::Response { peer, id, command: BLOCKS, result });
        }
    }

    fn leave(&mut self, peer: NodeId) {
        self.connected.remove(&peer);
        let closed = Closed::by_network(CloseReason::StreamError);
        self.network(NetworkEvent::PeerDown { peer, closed });
        // A runner forgets what a peer asked that is gone; the machine need not answer it.
        self.asking.retain(|_, asker| *asker != peer);
        let (gone, stay) = self.asked.drain(..).partition(|(to, _)| *to == peer);
        self.asked = stay;
        for (peer, id) in gone {
            let result = Err(RequestError::Closed(closed));
            self.network(NetworkEvent::Response { peer, id, command: BLOCKS, result });
        }
    }

    /// A transaction that somebody signs: what it says is the input's.
    fn signed(&self, input: &mut Input<'_>) -> Bytes {
        let (number, nonce, key, version) = (input.byte() % 4, input.byte() % 80, input.byte(), input.byte() % 4);
        put(number, nonce.into(), &[key], version.into()).bytes.clone()
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (op, choice) = (input.byte(), input.byte());
        let from = peer(choice);
        let there = self.connected.contains(&from);
        let chunk = |input: &mut Input<'_>| Bytes::copy_from_slice(input.chunk());
        match op % 24 {
            0 | 1 if !there => {
                let info = LinkInfo {
                    peer: from,
                    outbound: true,
                    remote: ([10, 0, 0, 1], 1).into(),
                    listen: vec![],
                    features: 0,
                    dial_key: None,
                };
                self.connected.insert(from);
                self.network(NetworkEvent::PeerUp { peer: from, info });
            }
            2 if there => self.leave(from),
            3 if there => {
                let message = Message::new(HEAD, chunk(input));
                self.message(from, message);
            }
            4 | 5 if there => {
                let heights = [0, 1, 2, 3, 4, 100, u64::MAX - 1, u64::MAX];
                let height = heights[usize::from(choice >> 4) % heights.len()];
                let message = Message::new(HEAD, Summary { height, id: BlockId([choice; 32]) }.encode());
                self.message(from, message);
            }
            6 if there => {
                let message = Message::with_body(TRANSACTIONS, chunk(input), chunk(input));
                self.message(from, message);
            }
            7 if there => {
                let txs: Vec<_> = (0..choice >> 5).map(|_| self.signed(input)).collect();
                self.message(from, batch(TRANSACTIONS, &txs));
            }
            8 => {
                let tx = self.signed(input);
                self.gossip(from, TRANSACTIONS_TOPIC, tx);
            }
            9 => {
                let (topic, bytes) = ([TRANSACTIONS_TOPIC, BLOCKS_TOPIC][usize::from(choice >> 7)], chunk(input));
                self.gossip(from, topic, bytes);
            }
            10 | 11 => {
                let block = &honest_blocks()[usize::from(choice >> 4) % HONEST as usize];
                self.gossip(from, BLOCKS_TOPIC, block.clone());
            }
            12 => {
                // The producer signs, but its roots do not fit.
                let tx = put(choice % 4, input.byte().into(), b"k", 0);
                let lie = made(&genesis(), u64::from(input.byte() % 5), self.now.wall, vec![tx]);
                self.gossip(from, BLOCKS_TOPIC, lie);
            }
            13 | 14 => {
                let blocks = honest_blocks().iter().skip(usize::from(choice & 3)).take(usize::from(choice >> 2 & 3));
                self.answer(choice >> 4, Ok(batch(BLOCKS, blocks)));
            }
            15 => {
                let (head, body) = (chunk(input), chunk(input));
                self.answer(choice, Ok(Message::with_body(BLOCKS, head, body)));
            }
            16 => self.answer(choice, Err(RequestError::Timeout)),
            17 if there => {
                let head = if choice & 16 == 0 {
                    chunk(input)
                } else {
                    BlocksRequest { from: input.byte().into(), max_bytes: input.number().into() }.message().head
                };
                let (id, charge) = (RequestId(self.next), self.budget.nothing());
                self.next += 1;
                self.asking.insert(id, from);
                let message = Message { command: BLOCKS, head, body: (choice & 128 != 0).then(|| chunk(input)) };
                self.network(NetworkEvent::Request { peer: from, id, message, charge });
            }
            18 => {
                let tx = if choice & 1 == 0 { chunk(input) } else { self.signed(input) };
                self.submit(tx);
            }
            19 if there => {
                let data = chunk(input);
                self.network(NetworkEvent::Heartbeat { peer: from, data });
            }
            20 => self.pass(Duration::from_millis(if op < 128 { 20 } else { 2_000 } * u64::from(choice))),
            21 if there => {
                let command = if op < 128 { HEAD } else { TRANSACTIONS };
                self.network(NetworkEvent::Dropped { peer: from, command, reason: DropReason::TooLong });
            }
            22 if there => self.network(NetworkEvent::Writable { peer: from }),
            23 => self.ask(choice, input),
            _ => {}
        }
    }

    /// A user asks.
    fn ask(&mut self, choice: u8, input: &mut Input<'_>) {
        let token = self.next;
        self.next += 1;
        self.command(match choice % 5 {
            0 => Command::Get { token, key: input.chunk().to_vec() },
            1 => Command::Account { token, account: account(input.byte()) },
            2 => Command::Transaction { token, id: TxId([input.byte(); 32]) },
            3 => Command::Block { token, height: input.number().into() },
            _ => Command::Status { token },
        });
    }
}

fn within_limits(message: &Message) {
    let limit = |of: WireCommand| LIMITS.iter().find(|(command, _)| *command == of).map(|(_, limit)| *limit as usize);
    assert!(Some(message.len()) <= limit(message.command), "{message:?}");
}

/// Whatever is said: blocks come one after the other, each submission has one answer, each item one verdict, each request
/// one answer; memory keeps its bounds and timers make progress.
pub(super) fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    let choice = input.byte();
    let mut stage = Stage::new((usize::from(choice >> 1) + 1) << 17, choice & 1 == 1);
    for _ in 0..200 {
        if input.is_empty() {
            break;
        }
        stage.step(&mut input);
    }
    for number in 0..3 {
        stage.leave(peer(number));
    }
    stage.pass(Duration::from_secs(60));
    assert!(stage.submitted.is_empty(), "submissions without an answer: {:?}", stage.submitted);
    assert!(stage.judged.values().all(|open| *open == 0), "items without a verdict");
    assert!(stage.asking.is_empty(), "questions without an answer");
    let Stage { chain, budget, .. } = stage;
    drop(chain);
    assert_eq!(budget.report().resident, 0, "what is dropped is given back");
}
