//! A network of whole nodes: peer manager, discovery, gossip, chain and a real store on an in-memory disk.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use peerage::stack::{NodeStack, Overlay, OverlayCommand, OverlayEvent};
use peerage_chain::{
    proto::{
        Chain, Command, Config as ChainConfig, Event, Refusal,
        block::Receipt,
        genesis::{Genesis, GenesisFile},
        id::{Account, Producer, TxId},
        transaction::{EncodedTransaction, Op, Transaction, TransactionBody},
    },
    store::{Head, Report, Store, compare},
};
use peerage_core::*;
use peerage_discovery::{Config as DiscoveryConfig, Discovery};
use peerage_gossip::Gossip;
use peerage_sim::{CrashAt, CrashPoint, NodeSpec, Sim};
use peerage_transport::proto::{
    keypair::Keypair,
    managed::{Managed, ManagedCommand, ManagedEvent},
    peer_manager::{BookLine, KnownPeer, PeerEvent, PeerManager, PeerManagerConfig},
};

use crate::world::{SECOND, addr, dice, identity, world};

/// The node that makes blocks.
pub(crate) const PRODUCER: usize = 1;

const CHAIN: u64 = 11;

fn producer_key() -> Arc<Keypair> {
    Arc::new(Keypair::from_seed(&[200; 32]))
}

fn genesis() -> Arc<Genesis> {
    let producer = Producer(*producer_key().node_id().as_bytes());
    let file = GenesisFile::solo(CHAIN, "stories", producer, UnixMillis(1_700_000_000_000));
    Arc::new(Genesis::new(&file).expect("a valid genesis"))
}

/// Puts one new key in the name of account `user`.
pub(crate) fn tx(user: u8, nonce: u64) -> EncodedTransaction {
    let keypair = Keypair::from_seed(&[user; 32]);
    let put = Op::Put { key: format!("{user}/{nonce}").into_bytes(), value: vec![user; 200], expected_version: 0 };
    let account = Account(*keypair.node_id().as_bytes());
    let body = TransactionBody { chain_id: CHAIN, account, nonce, valid_until: 1_000_000, ops: vec![put] };
    Transaction::sign(body, &keypair).expect("valid").encode().expect("small")
}

/// The network, and what its users were told.
pub(crate) struct Network {
    pub(crate) sim: Sim<NodeStack>,
    genesis: Arc<Genesis>,
    lives: Vec<u32>,
    /// What each node would find on its disk of whom to come back to.
    remembered: Vec<Vec<BookLine>>,
    /// By token: who was asked what and has not answered.
    open: BTreeMap<u64, (usize, TxId)>,
    next_token: u64,
    pub(crate) acknowledged: Vec<TxId>,
    pub(crate) refused: Vec<Refusal>,
    /// How often each node was told that a transaction is applied, in its present life.
    applied: Vec<BTreeMap<TxId, usize>>,
    /// How far the civil clocks of some nodes are ahead, in milliseconds.
    clocks: BTreeMap<usize, i64>,
    /// Who was told that a clock is wrong, with which difference, and whether the block's time is the later one.
    pub(crate) clocks_told: Vec<(usize, Duration, bool)>,
}

impl Network {
    /// `nodes` nodes that know the first and nobody else, and start twenty a second. Node 1 makes blocks.
    pub(crate) fn new(seed: u64, nodes: usize) -> Self {
        Self::with_clocks(seed, nodes, &[])
    }

    /// The same, with nodes whose civil clocks are so many milliseconds ahead.
    pub(crate) fn with_clocks(seed: u64, nodes: usize, ahead_ms: &[(usize, i64)]) -> Self {
        let mut network = Self {
            sim: world(seed),
            genesis: genesis(),
            lives: Vec::new(),
            remembered: Vec::new(),
            open: BTreeMap::new(),
            next_token: 0,
            acknowledged: Vec::new(),
            refused: Vec::new(),
            applied: Vec::new(),
            clocks: ahead_ms.iter().copied().collect(),
            clocks_told: Vec::new(),
        };
        for _ in 0..nodes {
            network.add();
            network.sim.run_for(SECOND / 20);
        }
        network
    }

    /// A newcomer.
    pub(crate) fn add(&mut self) -> usize {
        let number = self.sim.len();
        self.lives.push(0);
        self.remembered.push(Vec::new());
        self.applied.push(BTreeMap::new());
        let (id, budget) = (identity(&self.sim.seed(), number).node_id(), Budget::default());
        let stack = self.stack(number, &budget);
        let store = Store::in_memory(Arc::clone(&self.genesis)).expect("memory");
        let clock_ahead_ms = self.clocks.get(&number).copied().unwrap_or(0);
        self.sim.add(NodeSpec { budget, clock_ahead_ms, ..NodeSpec::new(id, addr(number), stack, store) })
    }

    /// As the node binary puts it together.
    fn stack(&self, number: usize, budget: &Budget) -> NodeStack {
        let (world, mut now) = (self.sim.seed(), self.sim.now());
        now.wall.0 = now.wall.0.saturating_add_signed(self.clocks.get(&number).copied().unwrap_or(0));
        let (keypair, dice) = (identity(&world, number), dice(&world, number, self.lives[number]));
        let first = (number != 0).then(|| KnownPeer { peer: identity(&world, 0).node_id(), addrs: vec![addr(0)] });
        let seeds: Vec<_> = first.into_iter().collect();
        let peers = PeerManagerConfig {
            remembered: self.remembered[number].clone(),
            ..PeerManagerConfig::new(keypair.node_id())
        };
        let peers = PeerManager::new(peers, &dice);
        let discovery = DiscoveryConfig {
            addrs: vec![addr(number)],
            seeds: seeds.into_iter().map(|seed| (seed.peer, seed.addrs)).collect(),
            target: 8,
            ..DiscoveryConfig::new(keypair, self.genesis.network_id(), dice, budget.clone())
        };
        let discovery = Discovery::new(discovery, now);
        let gossip = Gossip::new(peerage_gossip::Config::default(), budget);
        let producer = (number == PRODUCER).then(producer_key);
        let chain = ChainConfig { producer, ..ChainConfig::default() };
        let chain = Chain::new(Arc::clone(&self.genesis), chain, budget).expect("the producer's key");
        Managed::new(peers, Overlay::new(discovery, gossip, chain))
    }

    /// Waits until everybody has found its neighbourhood.
    #[track_caller]
    pub(crate) fn join(mut self) -> Self {
        let overlay = |sim: &Sim<NodeStack>, node: usize| sim.node(node).protocol().upper().discovery().is_joined();
        let all = self.sim.run_until(|sim| (0..sim.len()).all(|node| overlay(sim, node)), 60 * SECOND);
        assert!(all, "not all joined");
        self.sim.run_for(5 * SECOND);
        self
    }

    pub(crate) fn submit(&mut self, node: usize, tx: &EncodedTransaction) {
        let (token, bytes) = (self.next_token, tx.bytes.clone());
        self.next_token += 1;
        self.open.insert(token, (node, tx.id));
        let command = OverlayCommand::Chain(Command::Submit { token, tx: bytes });
        self.sim.command(node, ManagedCommand::Upper(command));
    }

    /// Reads what all nodes told since the last time.
    pub(crate) fn listen(&mut self) {
        for node in 0..self.sim.len() {
            for (_, event) in self.sim.events(node) {
                match event {
                    ManagedEvent::Peers(PeerEvent::Remember(peers)) => self.remembered[node] = peers,
                    ManagedEvent::Peers(PeerEvent::Bans(bans)) => panic!("node {node} bans correct nodes: {bans:?}"),
                    ManagedEvent::Peers(PeerEvent::TwoHosts { peer, .. }) => panic!("{peer} has one host"),
                    // What a fault costs is in the bans above.
                    ManagedEvent::Peers(
                        PeerEvent::Fault { .. }
                        | PeerEvent::Evicted { .. }
                        | PeerEvent::Unmet { .. }
                        | PeerEvent::Banned { .. }
                        | PeerEvent::BanRefused { .. }
                        | PeerEvent::Unbanned { .. }
                        | PeerEvent::ReservedUndialled { .. },
                    )
                    | ManagedEvent::Upper(OverlayEvent::Discovery(_)) => {}
                    ManagedEvent::Upper(OverlayEvent::Chain(event)) => self.heard(node, event),
                }
            }
        }
    }

    fn heard(&mut self, node: usize, event: Event) {
        match event {
            Event::Submitted { token, result } => {
                let (whom, asked) = self.open.remove(&token).expect("each question is answered once");
                assert_eq!(whom, node);
                match result {
                    Ok(id) => {
                        assert_eq!(id, asked);
                        self.acknowledged.push(id);
                    }
                    Err(refusal) => self.refused.push(refusal),
                }
            }
            Event::BlockCommitted { transactions, .. } => {
                for (id, receipt) in transactions {
                    assert_eq!(receipt, Receipt::Applied, "{id} at node {node}");
                    *self.applied[node].entry(id).or_default() += 1;
                }
            }
            Event::CertifiedBlockInvalid { height, error } => panic!("node {node} refuses block {height}: {error}"),
            Event::ClockDiffers { apart, ahead, .. } => self.clocks_told.push((node, apart, ahead)),
            Event::StoreFailed(error) => panic!("the store of node {node} failed: {error}"),
            _ => {}
        }
    }

    pub(crate) fn chain(&self, node: usize) -> &Chain {
        self.sim.node(node).protocol().upper().chain()
    }

    pub(crate) fn head(&self, node: usize) -> Option<Head> {
        self.chain(node).head().cloned()
    }

    /// Acknowledged transactions of a node that wait for a block.
    pub(crate) fn outbox(&self, node: usize) -> usize {
        self.chain(node).status().outbox
    }

    /// Lets a storage job, counted from now, crash a node.
    pub(crate) fn crash_on(&mut self, node: usize, point: CrashPoint, job: u64) {
        self.sim.crash_on_job(node, point, CrashAt::Job(job));
    }

    /// Starts a crashed node again with the disk that it had.
    pub(crate) fn revive(&mut self, node: usize) {
        self.listen();
        self.applied[node].clear();
        self.open.retain(|_, (whom, _)| *whom != node); // nobody will answer these
        self.lives[node] += 1;
        let store = self.sim.take_resource(node).expect("the disk of a crashed node");
        let stack = self.stack(node, &self.sim.budget(node).clone());
        self.sim.restart(node, stack, store);
    }

    /// Waits until all questions are answered, all nodes have the same head and nothing waits for a block any more.
    #[track_caller]
    pub(crate) fn agree(&mut self, within: u32) {
        let settled = |network: &Self| {
            let head = network.head(0).map(|head| head.id);
            (0..network.sim.len()).all(|node| {
                let status = network.chain(node).status();
                (status.pool, status.outbox, network.head(node).map(|head| head.id)) == (0, 0, head)
            })
        };
        for _ in 0..within * 2 {
            self.listen();
            if self.open.is_empty() && settled(self) {
                return;
            }
            self.sim.run_for(SECOND / 2);
        }
        let standing = |node| {
            let (status, head) = (self.chain(node).status(), self.head(node));
            let height = head.map(|head| head.height);
            format!("node {node}: height {height:?}, pool {}, outbox {}", status.pool, status.outbox)
        };
        let lines: Vec<_> = (0..self.sim.len()).map(standing).collect();
        panic!("no agreement in {within} s:\n{}", lines.join("\n"));
    }

    /// Stops all nodes and reads their disks: each is an honest chain, all are the same, `expected` transactions stand in
    /// it and each of them once, among them all that was promised.
    #[track_caller]
    pub(crate) fn audit(mut self, expected: usize) -> [u8; 32] {
        self.listen();
        let hash = self.sim.event_hash();
        let reports: Vec<(String, Report)> = (0..self.sim.len())
            .map(|node| {
                self.sim.crash(node);
                let store = self.sim.take_resource(node).expect("a disk");
                (format!("node {node}"), store.verify().expect("readable"))
            })
            .collect();
        assert_eq!(compare(&reports, &self.acknowledged), [], "{} were promised", self.acknowledged.len());
        let (_, first) = &reports[0];
        for (node, report) in &reports {
            assert_eq!((report.head, report.state_root), (first.head, first.state_root), "{node}");
            assert_eq!(report.transactions.len(), expected, "{node}");
        }
        for (node, applied) in self.applied.iter().enumerate() {
            assert!(applied.values().all(|times| *times == 1), "node {node} told of something twice");
        }
        hash
    }
}
