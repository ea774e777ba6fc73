//! A hundred discovery stacks in the simulator, with a peer manager small enough to read.

use core::time::Duration;
use peerage_core::*;
use peerage_discovery::{Command, Config, DhtKey, Discovery, Event};
use peerage_sim::{NodeSpec, Sim, SimConfig};
use peerage_transport::proto::{keypair::Keypair, peer_manager::AddressPolicy};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

/// Connections that a node keeps; beyond, it closes the oldest.
const KEEP: usize = 20;
/// Connections up to which it dials candidates that nobody needs now.
const ENOUGH: usize = 8;
/// A connection is left alone for so long, so that the question for which it was made can be answered.
const YOUNG: Duration = Duration::from_secs(10);

/// Discovery, and a peer manager that dials whom it is told to.
struct Node {
    discovery: Discovery,
    links: BTreeMap<LinkId, (NodeId, Timestamp)>,
    dialling: BTreeSet<NodeId>,
    actions: VecDeque<Action<Self>>,
    tidy_at: Timestamp,
}

impl Node {
    fn new(discovery: Discovery) -> Self {
        let (links, dialling, actions) = Default::default();
        Self { discovery, links, dialling, actions, tidy_at: Timestamp::ZERO }
    }

    fn want(&mut self, peer: NodeId, addrs: &[SocketAddr]) {
        let connected = self.links.values().any(|(other, _)| *other == peer);
        if !connected && self.dialling.insert(peer) {
            let outlet = Outlet::Dial { addr: addrs[0], expected: Some(peer), dial_key: None, question: None };
            self.actions.push_back(Action::Link(outlet));
        }
    }

    fn tidy(&mut self, now: Timestamp) {
        self.tidy_at = now + Duration::from_secs(5);
        let mut old: Vec<_> = self.links.iter().map(|(link, (_, since))| (*since, *link)).collect();
        old.sort();
        let surplus = old.len().saturating_sub(KEEP);
        for (_, link) in old.into_iter().take(surplus).filter(|(since, _)| now.since(*since) > YOUNG) {
            self.actions.push_back(Action::Link(Outlet::Close { link, reason: CloseReason::Surplus }));
        }
    }
}

impl Protocol for Node {
    type Command = Command;
    type Event = Event;
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, now: Now, event: NetworkEvent) {
        match &event {
            NetworkEvent::LinkUp { link, info } => {
                self.dialling.remove(&info.peer);
                self.links.insert(*link, (info.peer, now.mono));
                self.actions.push_back(Action::Link(Outlet::Admit(*link)));
            }
            NetworkEvent::LinkDown { link, .. } => drop(self.links.remove(link)),
            NetworkEvent::PeerDown { peer, .. } => self.links.retain(|_, (other, _)| other != peer),
            NetworkEvent::DialFailed { expected: Some(peer), .. } => drop(self.dialling.remove(peer)),
            NetworkEvent::Unmet { peer, .. } => drop(self.dialling.remove(peer)),
            _ => {}
        }
        self.discovery.handle_network(now, event);
    }

    fn handle_command(&mut self, now: Now, command: Command) {
        self.discovery.handle_command(now, command);
    }

    fn handle_timeout(&mut self, now: Now) {
        if self.tidy_at <= now.mono {
            self.tidy(now.mono);
        }
        self.discovery.handle_timeout(now);
    }

    fn handle_done(&mut self, _: Now, _: JobId, _: Done<Self>) {}

    fn poll_action(&mut self) -> Option<Action<Self>> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        match self.discovery.poll_action()? {
            Action::Want(Want::Now { peer, addrs } | Want::Ask { peer, addrs, .. }) => {
                self.want(peer, &addrs);
                Some(Action::Routed)
            }
            Action::Want(Want::Candidate { peer, addrs, .. }) => {
                if self.links.len() + self.dialling.len() < ENOUGH {
                    self.want(peer, &addrs);
                }
                Some(Action::Routed)
            }
            other => Some(other.lift(|job| job, |job| job).unwrap_or_else(Action::Emit)),
        }
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        self.discovery.next_timeout().into_iter().chain([self.tidy_at]).min()
    }
}

/// `count` nodes on one machine that know nothing but the address of the first. They start 100 ms after each other.
fn network(seed: u64, count: usize) -> Sim<Node> {
    let mut sim = Sim::new(SimConfig::new(seed));
    let mut first = None;
    for number in 0..count {
        let node_seed = sim.seed().derive(&format!("node {number}"));
        let keypair = Arc::new(Keypair::generate(&mut SecretRng::insecure_from_seed(&node_seed)));
        let (id, addr) = (keypair.node_id(), SocketAddr::from(([127, 0, 0, 1], 10_000 + number as u16)));
        let budget = Budget::default();
        let mut config = Config::new(keypair, NetworkId::default(), node_seed, budget.clone());
        config.addrs = vec![addr];
        config.addresses = AddressPolicy::Loopback;
        config.seeds = first.into_iter().map(|(id, addr)| (id, vec![addr])).collect();
        first = first.or(Some((id, addr)));
        let node = Node::new(Discovery::new(config, sim.now()));
        sim.add(NodeSpec { budget, ..NodeSpec::new(id, addr, node, ()) });
        sim.run_for(Duration::from_millis(100));
    }
    sim
}

fn truth(sim: &Sim<Node>, asking: usize, target: DhtKey) -> Vec<NodeId> {
    let mut nodes: Vec<_> =
        (0..sim.len()).filter(|node| *node != asking && sim.is_running(*node)).map(|node| sim.id(node)).collect();
    nodes.sort_by_cached_key(|node| DhtKey::of(node).distance(&target));
    nodes.truncate(16);
    nodes
}

/// Lets every running node look up a key of its own, and returns what each found beside what it should have.
fn all_look_up(sim: &mut Sim<Node>) -> Vec<(Vec<NodeId>, Vec<NodeId>)> {
    let running: Vec<_> = (0..sim.len()).filter(|node| sim.is_running(*node)).collect();
    let mut rng = sim.seed().stream("targets");
    let targets: Vec<_> = running.iter().map(|_| DhtKey::random(&mut rng)).collect();
    for (node, target) in running.iter().zip(&targets) {
        drop(sim.events(*node));
        sim.command(*node, Command::Lookup { token: *node as u64, target: *target });
    }
    sim.run_for(Duration::from_secs(60));
    let pairs = running.into_iter().zip(targets);
    let found = pairs.map(|(node, target)| {
        let done: Vec<_> = sim
            .events(node)
            .into_iter()
            .filter_map(|(_, event)| match event {
                Event::LookupDone { token, closest } => Some((token, closest)),
                _ => None,
            })
            .collect();
        let [(token, closest)] = &done[..] else { panic!("node {node}: {} answers to one lookup", done.len()) };
        assert_eq!(*token, node as u64);
        (closest.iter().map(peerage_discovery::NodeRecord::node).collect(), truth(sim, node, target))
    });
    found.collect()
}

#[test]
fn a_hundred_nodes_join_through_one_address_and_everybody_finds_the_true_closest() {
    let mut sim = network(1, 100);
    let joined = |sim: &Sim<Node>| (0..sim.len()).all(|node| sim.node(node).protocol().discovery.is_joined());
    assert!(sim.run_until(joined, Duration::from_secs(10)), "not all joined");
    // Every bucket was refreshed once since: before, a lookup misses one of the sixteen now and then.
    sim.run_for(Duration::from_mins(11));
    for (node, (found, expected)) in all_look_up(&mut sim).into_iter().enumerate() {
        assert_eq!(found, expected, "node {node}");
    }
    let reports: Vec<_> = (0..sim.len()).flat_map(|node| sim.reports(node)).collect();
    assert_eq!(reports, [], "correct nodes do each other no wrong");
    for node in 0..sim.len() {
        let table = sim.budget(node).report().pools[Pool::Table as usize].1;
        assert!(table > 0 && table < 1 << 20, "node {node} keeps {table} bytes of others");
    }
}

#[test]
fn when_a_fifth_dies_lookups_end_and_name_the_living() {
    let mut sim = network(2, 60);
    sim.run_for(Duration::from_secs(60));
    (0..60).step_by(5).for_each(|node| sim.crash(node));
    sim.run_for(Duration::from_secs(120));
    let mut missed = 0;
    for (found, expected) in all_look_up(&mut sim) {
        assert!(
            found.iter().all(|node| sim.number(node).is_some_and(|node| sim.is_running(node))),
            "it names a dead node"
        );
        missed += expected.iter().filter(|node| !found.contains(node)).count();
    }
    assert!(missed <= 48 * 16 / 50, "{missed} of {} were not found", 48 * 16);
}

#[test]
fn a_seed_is_a_run() {
    let hash = |seed| {
        let mut sim = network(seed, 30);
        sim.run_for(Duration::from_secs(60));
        sim.event_hash()
    };
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}
