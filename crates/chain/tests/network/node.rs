//! What the stories share: a node composed of chain over gossip, and a few in a simulation.

use std::sync::Arc;

use bytes::Bytes;
use peerage_chain::{
    proto::{
        Chain, Command, Config, Event, Refusal,
        genesis::{Genesis, GenesisFile},
        id::{Account, Producer, TxId},
        transaction::{EncodedTransaction, Op, Transaction, TransactionBody},
    },
    store::{Report, Store, compare},
};
use peerage_core::{Action, Budget, Done, JobId, NetworkEvent, NoJob, NodeId, Now, Protocol, Timestamp, UnixMillis};
use peerage_gossip::Gossip;
use peerage_sim::{NodeSpec, Sim, SimConfig};
use peerage_transport::proto::keypair::Keypair;

pub(crate) const PRODUCER: u8 = 200;

/// Chain over gossip, as every node composes them: one's events are the other's commands.
pub(crate) struct Node {
    chain: Chain,
    gossip: Gossip,
    now: Now,
}

impl Node {
    pub(crate) fn new(config: Config, budget: &Budget) -> Self {
        Self {
            chain: Chain::new(genesis(), config, budget).expect("the producer's key"),
            gossip: Gossip::new(peerage_gossip::Config::default(), budget),
            now: Now::default(),
        }
    }

    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }
}

impl Protocol for Node {
    type Command = Command;
    type Event = Event;
    type Storage = <Chain as Protocol>::Storage;
    type Compute = <Chain as Protocol>::Compute;

    fn handle_network(&mut self, now: Now, event: NetworkEvent) {
        self.now = now;
        let both = match &event {
            NetworkEvent::PeerUp { peer, info } => NetworkEvent::PeerUp { peer: *peer, info: info.clone() },
            NetworkEvent::PeerDown { peer, closed } => NetworkEvent::PeerDown { peer: *peer, closed: *closed },
            NetworkEvent::Writable { peer } => NetworkEvent::Writable { peer: *peer },
            NetworkEvent::Dropped { peer, command, reason } => {
                NetworkEvent::Dropped { peer: *peer, command: *command, reason: *reason }
            }
            NetworkEvent::Message { message, .. } if message.command.belongs_to(peerage_core::Layer::Gossip) => {
                return self.gossip.handle_network(now, event);
            }
            _ => return self.chain.handle_network(now, event),
        };
        self.gossip.handle_network(now, both);
        self.chain.handle_network(now, event);
    }

    fn handle_command(&mut self, now: Now, command: Command) {
        self.now = now;
        self.chain.handle_command(now, command);
    }

    fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.gossip.handle_timeout(now);
        self.chain.handle_timeout(now);
    }

    fn handle_done(&mut self, now: Now, id: JobId, done: Done<Self>) {
        self.now = now;
        self.chain.handle_done(
            now,
            id,
            match done {
                Done::Stored(output) => Done::Stored(output),
                Done::Computed(output) => Done::Computed(output),
            },
        );
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        if let Some(action) = self.gossip.poll_action() {
            let lifted = action.lift(|job: NoJob| match job {}, |job: NoJob| match job {});
            return Some(lifted.unwrap_or_else(|event| {
                self.chain.handle_command(self.now, Command::Gossip(event));
                Action::Routed
            }));
        }
        let lifted = self.chain.poll_action()?.lift(|job| job, |job| job);
        Some(lifted.unwrap_or_else(|event| match event {
            Event::Gossip(command) => {
                self.gossip.handle_command(self.now, command);
                Action::Routed
            }
            event => Action::Emit(event),
        }))
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        [self.gossip.next_timeout(), self.chain.next_timeout()].into_iter().flatten().min()
    }
}

pub(crate) fn keypair(number: u8) -> Keypair {
    Keypair::from_seed(&[number; 32])
}

pub(crate) fn genesis() -> Arc<Genesis> {
    Arc::new(Genesis::new(&genesis_file(7)).expect("a valid genesis"))
}

/// The genesis of the network with this number.
pub(crate) fn genesis_file(chain_id: u64) -> GenesisFile {
    let producer = Producer(*keypair(PRODUCER).node_id().as_bytes());
    GenesisFile::solo(chain_id, "stories", producer, UnixMillis(1_700_000_000_000))
}

pub(crate) fn account(number: u8) -> Account {
    Account(*keypair(number).node_id().as_bytes())
}

/// A transaction of account `number` that puts a new key of its own.
pub(crate) fn tx(number: u8, nonce: u64) -> EncodedTransaction {
    tx_with(
        number,
        nonce,
        vec![Op::Put { key: format!("{number}/{nonce}").into_bytes(), value: vec![number; 200], expected_version: 0 }],
    )
}

pub(crate) fn tx_with(number: u8, nonce: u64, ops: Vec<Op>) -> EncodedTransaction {
    let body = TransactionBody { chain_id: 7, account: account(number), nonce, valid_until: 1_000_000, ops };
    Transaction::sign(body, &keypair(number)).expect("valid").encode().expect("small")
}

/// A network of such nodes; node 0 is the producer.
pub(crate) struct Net {
    pub(crate) sim: Sim<Node>,
    configs: Vec<Config>,
    next_token: u64,
    /// What the users of the nodes were promised.
    pub(crate) acknowledged: Vec<TxId>,
    pub(crate) refused: Vec<(u64, Refusal)>,
}

impl Net {
    /// `n` nodes, not connected.
    pub(crate) fn new(seed: u64, n: usize) -> Self {
        Self::with(SimConfig::new(seed), n)
    }

    pub(crate) fn with(config: SimConfig, n: usize) -> Self {
        let mut net = Self {
            sim: Sim::new(config),
            configs: Vec::new(),
            next_token: 0,
            acknowledged: Vec::new(),
            refused: Vec::new(),
        };
        for _ in 0..n {
            net.add(Config::default());
        }
        net
    }

    pub(crate) fn add(&mut self, mut config: Config) -> usize {
        let number = self.sim.len() as u8;
        if number == 0 {
            config.producer = Some(Arc::new(keypair(PRODUCER)));
        }
        self.configs.push(config.clone());
        let budget = Budget::default();
        let (protocol, store) = (Node::new(config, &budget), Store::in_memory(genesis()).expect("memory"));
        let addr = ([10, 0, 0, number], 4000).into();
        let id = NodeId::from_bytes([number + 1; 32]);
        self.sim.add(NodeSpec { budget, ..NodeSpec::new(id, addr, protocol, store) })
    }

    /// Connects each node with the next.
    pub(crate) fn line(mut self) -> Self {
        for node in 1..self.sim.len() {
            self.sim.connect(node - 1, node);
        }
        self
    }

    pub(crate) fn submit(&mut self, node: usize, tx: &EncodedTransaction) -> u64 {
        self.submit_bytes(node, tx.bytes.clone())
    }

    pub(crate) fn submit_bytes(&mut self, node: usize, tx: Bytes) -> u64 {
        self.next_token += 1;
        self.sim.command(node, Command::Submit { token: self.next_token, tx });
        self.next_token
    }

    /// Takes note of the answers that users got since the last call, and returns all other events.
    pub(crate) fn collect(&mut self) -> Vec<(usize, Event)> {
        let mut others = Vec::new();
        for node in 0..self.sim.len() {
            for (_, event) in self.sim.events(node) {
                match event {
                    Event::Submitted { result: Ok(id), .. } => self.acknowledged.push(id),
                    Event::Submitted { token, result: Err(refusal) } => self.refused.push((token, refusal)),
                    event => others.push((node, event)),
                }
            }
        }
        others
    }

    pub(crate) fn height(&self, node: usize) -> u64 {
        self.sim.node(node).protocol().chain().head().map_or(0, |head| head.height)
    }

    pub(crate) fn pool(&self, node: usize) -> usize {
        self.sim.node(node).protocol().chain().status().pool
    }

    pub(crate) fn outbox(&self, node: usize) -> usize {
        self.sim.node(node).protocol().chain().status().outbox
    }

    /// The process dies and starts again, with the disk it had.
    pub(crate) fn restart(&mut self, node: usize) {
        self.sim.crash(node);
        self.revive(node);
    }

    pub(crate) fn revive(&mut self, node: usize) {
        let store = self.sim.take_resource(node).expect("the disk of a crashed node");
        let protocol = Node::new(self.configs[node].clone(), &self.sim.budget(node).clone());
        self.sim.restart(node, protocol, store);
    }

    /// Stops all nodes and checks their stores: each by itself, all against each other, and against every promise.
    #[track_caller]
    pub(crate) fn audit(mut self) -> Vec<(String, Report)> {
        self.collect();
        let reports: Vec<(String, Report)> = (0..self.sim.len())
            .map(|node| {
                self.sim.crash(node);
                let store = self.sim.take_resource(node).expect("a disk");
                (format!("node {node}"), store.verify().expect("readable"))
            })
            .collect();
        assert_eq!(compare(&reports, &self.acknowledged), [], "{} were promised", self.acknowledged.len());
        reports
    }
}
