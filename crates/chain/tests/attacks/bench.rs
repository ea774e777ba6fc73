//! One chain machine on a bench: the tests play its peers, its gossip, its clock and, if they want, the lanes.

use core::time::Duration;
use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use peerage_chain::{
    proto::{
        BLOCKS, BLOCKS_TOPIC, Chain, Command, ComputeJob, Config, Event, HEAD, Refusal, Summary, TRANSACTIONS,
        block::CheckedBlock,
        genesis::{Genesis, GenesisFile},
        id::{Account, BlockId, Producer, TxId},
        transaction::{EncodedTransaction, Op, Transaction, TransactionBody},
    },
    store::{Store, StoreJob},
};
use peerage_core::{
    Action, Budget, CloseReason, Closed, Done, Fault, Job, JobId, LinkInfo, Message, NetworkEvent, NodeId, Now, Pool,
    Protocol, RequestError, RequestId, Timestamp, UnixMillis,
};
use peerage_gossip::{Command as GossipCommand, ItemId, Topic, Verdict};
use peerage_transport::proto::keypair::Keypair;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const PRODUCER: u32 = 1_000_000;

pub(crate) fn keypair(number: u32) -> Keypair {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    Keypair::from_seed(&seed)
}

pub(crate) fn genesis() -> Arc<Genesis> {
    let producer = Producer(*keypair(PRODUCER).node_id().as_bytes());
    let file = GenesisFile::solo(7, "bench", producer, UnixMillis(1_700_000_000_000));
    Arc::new(Genesis::new(&file).expect("a valid genesis"))
}

pub(crate) fn tx(number: u32, nonce: u64, ops: Vec<Op>) -> EncodedTransaction {
    let keypair = keypair(number);
    let account = Account(*keypair.node_id().as_bytes());
    let body = TransactionBody { chain_id: 7, account, nonce, valid_until: 1_000_000, ops };
    Transaction::sign(body, &keypair).expect("valid").encode().expect("small")
}

/// An ordinary one.
pub(crate) fn put(number: u32, nonce: u64) -> EncodedTransaction {
    let key = format!("{number}/{nonce}").into_bytes();
    tx(number, nonce, vec![Op::Put { key, value: vec![1; 100], expected_version: 0 }])
}

/// The one that costs most memory for its bytes: as many of the smallest operations as there may be.
pub(crate) fn bloated(number: u32, nonce: u64) -> EncodedTransaction {
    tx(number, nonce, vec![Op::Delete { key: vec![1], expected_version: 0 }; 64])
}

/// A block of the real producer on top of `parent`, with receipts and a state that are not those of its transactions.
pub(crate) fn certified_lie(height: u64, parent: BlockId) -> Bytes {
    use peerage_chain::proto::{
        block::{Header, tx_root},
        id::Root,
    };
    let txs = vec![Arc::new(put(77, 0))];
    let header = Header {
        height,
        parent,
        time: UnixMillis(1_800_000_000_000),
        tx_root: tx_root(&txs),
        receipts_root: Root([3; 32]),
        state_root: Root([4; 32]),
        producer: Producer(*keypair(PRODUCER).node_id().as_bytes()),
    };
    CheckedBlock::make(&genesis(), header, txs, &keypair(PRODUCER)).expect("small").bytes().clone()
}

/// The first `n` blocks of the real chain, with one transaction each.
pub(crate) fn real_blocks(n: u64) -> Vec<Bytes> {
    let store = Store::in_memory(genesis()).expect("memory");
    (0..n)
        .map(|nonce| {
            let built = store.build(vec![Arc::new(put(1, nonce))], UnixMillis(1_800_000_000_000), &keypair(PRODUCER));
            built.expect("a working store").block.expect("a block").block.bytes().clone()
        })
        .collect()
}

pub(crate) fn peer(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// Canonical form of a batch of items.
pub(crate) fn batch(command: peerage_core::Command, items: &[Bytes]) -> Message {
    let lengths: Vec<u32> = items.iter().map(|item| item.len() as u32).collect();
    let head = peerage_wire::payload::to_bytes(&lengths);
    if items.is_empty() { Message::new(command, head) } else { Message::with_body(command, head, items.concat()) }
}

pub(crate) enum Held {
    Store(StoreJob),
    Compute(ComputeJob),
}

/// A request that the machine made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Timestamp,
    pub(crate) whom: NodeId,
    pub(crate) id: RequestId,
}

pub(crate) struct Bench {
    pub(crate) chain: Chain,
    pub(crate) budget: Budget,
    pub(crate) now: Now,
    store: Store,
    /// Which jobs wait until the test runs them.
    hold: fn(&Held) -> bool,
    pub(crate) held: VecDeque<(JobId, Held)>,
    pub(crate) events: Vec<Event>,
    pub(crate) reports: Vec<(NodeId, Fault)>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) sent: Vec<(Timestamp, NodeId, Message)>,
    pub(crate) answers: Vec<(NodeId, RequestId)>,
    pub(crate) verdicts: Vec<(ItemId, Verdict)>,
    next_request: u64,
}

impl Bench {
    pub(crate) fn new(config: Config, budget: Budget) -> Self {
        let chain = Chain::new(genesis(), config, &budget).expect("the producer's key");
        let mut bench = Self {
            chain,
            budget,
            now: Now { mono: Timestamp::from_millis(1_000), wall: UnixMillis(1_900_000_000_000) },
            store: Store::in_memory(genesis()).expect("memory"),
            hold: |_| false,
            held: VecDeque::new(),
            events: Vec::new(),
            reports: Vec::new(),
            asked: Vec::new(),
            sent: Vec::new(),
            answers: Vec::new(),
            verdicts: Vec::new(),
            next_request: 0,
        };
        bench.drain();
        bench
    }

    pub(crate) fn ordinary() -> Self {
        Self::new(Config::default(), Budget::default())
    }

    pub(crate) fn producer() -> Self {
        let config = Config { producer: Some(Arc::new(keypair(PRODUCER))), ..Config::default() };
        Self::new(config, Budget::default())
    }

    pub(crate) fn hold(&mut self, hold: fn(&Held) -> bool) {
        self.hold = hold;
    }

    fn drain(&mut self) {
        while let Some(action) = self.chain.poll_action() {
            match action {
                Action::Store(id, job) => self.job(id, Held::Store(job)),
                Action::Compute(id, job) => self.job(id, Held::Compute(job)),
                Action::Emit(Event::Gossip(GossipCommand::Verdict { item, verdict })) => {
                    self.verdicts.push((item, verdict));
                }
                Action::Emit(event) => self.events.push(event),
                Action::Report { peer, fault } => self.reports.push((peer, fault)),
                Action::Request { to, id, .. } => {
                    self.asked.push(Asked { at: self.now.mono, whom: to, id });
                }
                Action::Respond { to, id, .. } => self.answers.push((to, id)),
                Action::Send { to, message } => {
                    self.sent.extend(to.into_iter().map(|peer| (self.now.mono, peer, message.clone())));
                }
                _ => {}
            }
        }
    }

    fn job(&mut self, id: JobId, job: Held) {
        if (self.hold)(&job) {
            self.held.push_back((id, job));
        } else {
            self.run(id, job);
        }
    }

    fn run(&mut self, id: JobId, job: Held) {
        let done = match job {
            Held::Store(job) => Done::Stored(job.run(&mut self.store)),
            Held::Compute(job) => Done::Computed(job.run(&mut ())),
        };
        self.chain.handle_done(self.now, id, done);
        self.drain();
    }

    /// Runs the oldest job that waits.
    pub(crate) fn run_one(&mut self) {
        let (id, job) = self.held.pop_front().expect("a job waits");
        self.run(id, job);
    }

    pub(crate) fn network(&mut self, event: NetworkEvent) {
        self.chain.handle_network(self.now, event);
        self.drain();
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.chain.handle_command(self.now, command);
        self.drain();
    }

    /// Lets time pass, with every timeout at its moment.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        for _ in 0..1_000_000 {
            let next = self.chain.next_timeout().filter(|at| *at <= end);
            self.now.mono = next.unwrap_or(end).max(self.now.mono);
            if next.is_none() {
                return;
            }
            self.chain.handle_timeout(self.now);
            self.drain();
        }
        panic!("a timeout that never ends");
    }

    pub(crate) fn up(&mut self, peer: NodeId) {
        let remote = ([10, 0, 0, 1], 4000).into();
        let info = LinkInfo { peer, outbound: false, remote, listen: vec![], features: 0, dial_key: None };
        self.network(NetworkEvent::PeerUp { peer, info });
    }

    pub(crate) fn down(&mut self, peer: NodeId) {
        self.network(NetworkEvent::PeerDown { peer, closed: Closed::by_them(CloseReason::Requested) });
    }

    pub(crate) fn message(&mut self, peer: NodeId, message: Message) {
        let charge = self.budget.nothing();
        self.network(NetworkEvent::Message { peer, message, charge });
    }

    pub(crate) fn tell(&mut self, peer: NodeId, height: u64) {
        let summary = Summary { height, id: BlockId([9; 32]) };
        self.message(peer, Message::new(HEAD, peerage_wire::payload::to_bytes(&summary)));
    }

    pub(crate) fn push(&mut self, peer: NodeId, txs: &[EncodedTransaction]) {
        let items: Vec<Bytes> = txs.iter().map(|tx| tx.bytes.clone()).collect();
        self.message(peer, batch(TRANSACTIONS, &items));
    }

    pub(crate) fn item(&mut self, from: NodeId, topic: Topic, bytes: Bytes) -> ItemId {
        let id = ItemId::of(&topic, &bytes);
        let charge = self.budget.nothing();
        self.command(Command::Gossip(peerage_gossip::Event::Item { topic, id, bytes, from, charge }));
        id
    }

    pub(crate) fn block(&mut self, from: NodeId, bytes: Bytes) -> ItemId {
        self.item(from, BLOCKS_TOPIC, bytes)
    }

    pub(crate) fn request_blocks(&mut self, peer: NodeId) -> RequestId {
        self.next_request += 1;
        let id = RequestId(self.next_request);
        let wish = peerage_chain::proto::BlocksRequest { from: 1, max_bytes: 1 << 20 };
        let message = Message::new(BLOCKS, peerage_wire::payload::to_bytes(&wish));
        let charge = self.budget.nothing();
        self.network(NetworkEvent::Request { peer, id, message, charge });
        id
    }

    pub(crate) fn deliver(&mut self, asked: Asked, blocks: &[Bytes]) {
        self.deliver_as(BLOCKS, asked, blocks);
    }

    /// An answer in the clothes of another message.
    pub(crate) fn deliver_as(&mut self, clothes: peerage_core::Command, asked: Asked, blocks: &[Bytes]) {
        let result = Ok((batch(clothes, blocks), self.budget.nothing()));
        self.network(NetworkEvent::Response { peer: asked.whom, id: asked.id, command: BLOCKS, result });
    }

    pub(crate) fn time_out(&mut self, asked: Asked) {
        let result = Err(RequestError::Timeout);
        self.network(NetworkEvent::Response { peer: asked.whom, id: asked.id, command: BLOCKS, result });
    }

    pub(crate) fn submit(&mut self, token: u64, tx: &EncodedTransaction) {
        self.command(Command::Submit { token, tx: tx.bytes.clone() });
    }

    pub(crate) fn answer(&self, wanted: u64) -> Option<Result<TxId, Refusal>> {
        self.events.iter().find_map(|event| match event {
            Event::Submitted { token, result } if *token == wanted => Some(*result),
            _ => None,
        })
    }

    pub(crate) fn height(&self) -> u64 {
        self.chain.head().map_or(0, |head| head.height)
    }

    pub(crate) fn charged(&self, pool: Pool) -> usize {
        self.budget.report().pools[pool as usize].1
    }
}
