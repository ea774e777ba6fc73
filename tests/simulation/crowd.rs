//! A hundred nodes of discovery and gossip: they join through one, and everybody hears everything once.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::BuildHasher,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use peerage_core::*;
use peerage_discovery::{Config as DiscoveryConfig, Discovery, Event as DiscoveryEvent};
use peerage_gossip::{Command as GossipCommand, Event as GossipEvent, Gossip, ItemId, Topic, Verdict};
use peerage_sim::{NodeSpec, Sim};
use peerage_transport::proto::{
    managed::{Managed, ManagedCommand, ManagedEvent},
    peer_manager::{KnownPeer, PeerEvent, PeerManager, PeerManagerConfig},
};

use crate::world::{self, SECOND, addr, dice, identity, world};

const NODES: usize = 100;
const ITEMS: usize = 40;
const TOPIC: Topic = Topic::from_static("crowd");

/// Discovery and gossip, and somebody above who accepts everything.
struct Crowd {
    discovery: Discovery,
    gossip: Gossip,
    verdicts: VecDeque<GossipCommand>,
    last: Now,
}

impl Protocol for Crowd {
    /// An item to publish.
    type Command = Bytes;
    /// An item that was delivered.
    type Event = ItemId;
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, now: Now, event: NetworkEvent) {
        self.last = now;
        match event.command() {
            Some(command) if command.belongs_to(Layer::Discovery) => self.discovery.handle_network(now, event),
            Some(_) => self.gossip.handle_network(now, event),
            None => {
                if let Some(news) = event.share() {
                    self.discovery.handle_network(now, news);
                }
                self.gossip.handle_network(now, event);
            }
        }
    }

    fn handle_command(&mut self, now: Now, bytes: Bytes) {
        self.last = now;
        self.gossip.handle_command(now, GossipCommand::Publish { topic: TOPIC, bytes });
    }

    fn handle_timeout(&mut self, now: Now) {
        self.last = now;
        self.discovery.handle_timeout(now);
        self.gossip.handle_timeout(now);
    }

    fn handle_done(&mut self, _: Now, _: JobId, done: Done<Self>) {
        match done {
            Done::Stored(never) | Done::Computed(never) => match never {},
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        if let Some(action) = self.discovery.poll_action() {
            return Some(match action.lift(|job| match job {}, |job| match job {}) {
                Ok(action) => action,
                Err(
                    DiscoveryEvent::LookupDone { .. } | DiscoveryEvent::Joined | DiscoveryEvent::TableChanged { .. },
                ) => Action::Routed,
            });
        }
        if let Some(verdict) = self.verdicts.pop_front() {
            self.gossip.handle_command(self.last, verdict);
            return Some(Action::Routed);
        }
        Some(match self.gossip.poll_action()?.lift(|job| match job {}, |job| match job {}) {
            Ok(action) => action,
            Err(GossipEvent::Item { id, .. }) => {
                self.verdicts.push_back(GossipCommand::Verdict { item: id, verdict: Verdict::Accept });
                Action::Emit(id)
            }
            Err(GossipEvent::Refused { error, .. }) => panic!("refused: {error}"),
        })
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        [self.discovery.next_timeout(), self.gossip.next_timeout()].into_iter().flatten().min()
    }
}

/// A node that knows `seeds` and nobody else.
fn node(sim: &Sim<Managed<Crowd>>, number: usize, seeds: Vec<KnownPeer>) -> NodeSpec<Managed<Crowd>> {
    let (keypair, dice, budget) = (identity(&sim.seed(), number), dice(&sim.seed(), number, 0), Budget::default());
    let id = keypair.node_id();
    let discovery = DiscoveryConfig {
        addrs: vec![addr(number)],
        seeds: seeds.iter().map(|seed| (seed.peer, seed.addrs.clone())).collect(),
        ..DiscoveryConfig::new(Arc::clone(&keypair), NetworkId::from_bytes([3; 32]), dice, budget.clone())
    };
    let crowd = Crowd {
        discovery: Discovery::new(discovery, sim.now()),
        gossip: Gossip::new(peerage_gossip::Config::default(), &budget),
        verdicts: VecDeque::from([GossipCommand::Subscribe(TOPIC)]),
        last: sim.now(),
    };
    let peers = PeerManager::new(PeerManagerConfig::new(id), &dice);
    NodeSpec { budget, ..NodeSpec::new(id, addr(number), Managed::new(peers, crowd), ()) }
}

/// A hundred nodes that know only the first, and start twenty a second.
fn gather(seed: u64) -> Sim<Managed<Crowd>> {
    let mut sim = world(seed);
    for number in 0..NODES {
        let seeds = match number {
            0 => Vec::new(),
            _ => vec![KnownPeer { peer: sim.id(0), addrs: vec![addr(0)] }],
        };
        let spec = node(&sim, number, seeds);
        sim.add(spec);
        sim.run_for(Duration::from_millis(50));
    }
    sim
}

/// Who can be reached from node 0 over connections.
fn reachable(sim: &Sim<Managed<Crowd>>) -> usize {
    let (mut reached, mut next) = (BTreeSet::from([0]), vec![0]);
    while let Some(node) = next.pop() {
        for peer in sim.peers(node).filter_map(|id| sim.number(&id)) {
            if reached.insert(peer) {
                next.push(peer);
            }
        }
    }
    reached.len()
}

fn joined(sim: &Sim<Managed<Crowd>>) -> usize {
    (0..NODES).filter(|node| sim.node(*node).protocol().upper().discovery.is_joined()).count()
}

/// The least that can be different about a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Twist {
    Nothing,
    /// One bit of one byte of one item.
    FlippedBit,
    /// Two items in the middle are published in the other order.
    Swapped,
}

/// Tells the whole story and returns its event hash.
fn tell(seed: u64) -> [u8; 32] {
    tell_with(seed, Twist::Nothing)
}

fn tell_with(seed: u64, twist: Twist) -> [u8; 32] {
    let mut sim = gather(seed);
    sim.run_until(|sim| joined(sim) == NODES, 60 * SECOND);
    assert_eq!(joined(&sim), NODES, "not all found their neighbourhood through the one that they knew");
    sim.run_for(30 * SECOND);
    assert_eq!(reachable(&sim), NODES, "the network is in pieces");
    for node in 0..NODES {
        let peers = sim.peers(node).count();
        // The one that all know has no more room than the others: 64, and 16 for newcomers who ask their way.
        assert!((8..=64 + 16).contains(&peers), "node {node} has {peers} peers");
        assert!(sim.node(node).protocol().upper().discovery.table_len() >= 16, "node {node} knows too few");
    }

    let dice = sim.seed().hasher("items");
    let mut published = BTreeMap::new();
    for turn in 0..ITEMS {
        let number = match turn {
            20 | 21 if twist == Twist::Swapped => 41 - turn,
            _ => turn,
        };
        let mut bytes = format!("item {number} ").repeat(1 + number * 20).into_bytes();
        if twist == Twist::FlippedBit && number == 20 {
            bytes[100] ^= 1;
        }
        let bytes = Bytes::from(bytes);
        let node = dice.hash_one(number) as usize % NODES;
        published.insert(ItemId::of(&TOPIC, &bytes), node);
        sim.command(node, ManagedCommand::Upper(bytes));
        sim.run_for(Duration::from_millis(100));
    }
    sim.run_for(5 * SECOND);
    for node in 0..NODES {
        let mut heard = BTreeMap::<ItemId, usize>::new();
        for (_, event) in sim.events(node) {
            match event {
                ManagedEvent::Upper(id) => *heard.entry(id).or_default() += 1,
                ManagedEvent::Peers(PeerEvent::Remember(_) | PeerEvent::Evicted { .. } | PeerEvent::Unmet { .. }) => {}
                ManagedEvent::Peers(other) => panic!("node {node}: correct nodes do each other no wrong: {other:?}"),
            }
        }
        let others = published.iter().filter(|(_, publisher)| **publisher != node);
        assert_eq!(heard, others.map(|(id, _)| (*id, 1)).collect(), "node {node}");
    }
    sim.event_hash()
}

#[test]
fn a_hundred_stacks_join_through_one_and_hear_everything_once_and_the_run_can_be_replayed() {
    world::is_a_run(system_tests::seed(1), tell);
}

/// Set in a process that shall only say the hash of the run with this seed.
const ONLY_HASH: &str = "CROWD_ONLY_HASH";

#[test]
fn the_hash_of_a_run_is_the_same_in_another_process_and_another_for_the_least_twist() {
    let hex = |hash: [u8; 32]| NodeId::from_bytes(hash).to_string();
    if let Ok(seed) = std::env::var(ONLY_HASH) {
        return println!("hash {}", hex(tell(seed.parse().expect("a seed"))));
    }
    let seed = system_tests::seed(1);
    let name = "crowd::the_hash_of_a_run_is_the_same_in_another_process_and_another_for_the_least_twist";
    let other = std::process::Command::new(std::env::current_exe().expect("this process runs"))
        .args([name, "--exact", "--nocapture"])
        .env(ONLY_HASH, seed.to_string())
        .output()
        .expect("another process");
    let said = String::from_utf8_lossy(&other.stdout);
    let there = said.lines().find_map(|line| line.split_once("hash ")).map(|(_, hash)| hash.trim().to_owned());
    let here = hex(tell(seed));
    println!("seed {seed}: here {here}, there {there:?}");
    assert_eq!(there.as_deref(), Some(&*here), "seed {seed}: two processes disagree: {said}");
    for (what, twist) in [("a flipped bit", Twist::FlippedBit), ("two swapped events", Twist::Swapped)] {
        assert_ne!(hex(tell_with(seed, twist)), here, "seed {seed}: {what} does not show");
    }
    assert_ne!(hex(tell(seed + 1)), here, "seed {seed}: the seed does not show");
}
