//! Stories of thirty nodes in a random graph, on the simulator's clock.

use bytes::Bytes;
use peerage_core::{Action, Budget, Done, Fault, JobId, NetworkEvent, NoJob, NodeId, Now, Protocol, Timestamp};
use peerage_gossip::{Command, Config, Event, Gossip, ITEM, ItemId, Stats, Topic, Verdict};
use peerage_sim::{NodeSpec, Sim, SimConfig};
use std::{
    collections::{BTreeSet, VecDeque},
    hash::BuildHasher,
    time::Duration,
};

const TX: Topic = Topic::from_static("tx");
const NODES: usize = 30;

/// Gossip with somebody above it who judges at once, and beside it who notes that nothing is sent back.
struct Judge {
    gossip: Gossip,
    verdict: Verdict,
    commands: VecDeque<Command>,
    came_from: BTreeSet<(ItemId, NodeId)>,
}

impl Judge {
    fn new(budget: &Budget) -> Self {
        let gossip = Gossip::new(Config::default(), budget);
        let commands = VecDeque::from([Command::Subscribe(TX)]);
        Self { gossip, verdict: Verdict::Accept, commands, came_from: BTreeSet::new() }
    }
}

#[derive(Clone, Debug)]
enum Order {
    Gossip(Command),
    JudgeFromNowOn(Verdict),
    /// Who sent what so far counts no more.
    ForgetOrigins,
}

impl Protocol for Judge {
    type Command = Order;
    type Event = (ItemId, Bytes);
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, now: Now, event: NetworkEvent) {
        if let NetworkEvent::Message { peer, message, .. } = &event
            && message.command == ITEM
        {
            self.came_from.insert((ItemId::of(&TX, message.body.as_ref().expect("an item")), *peer));
        }
        self.gossip.handle_network(now, event);
    }

    fn handle_command(&mut self, now: Now, order: Order) {
        match order {
            Order::Gossip(command) => self.gossip.handle_command(now, command),
            Order::JudgeFromNowOn(verdict) => self.verdict = verdict,
            Order::ForgetOrigins => self.came_from.clear(),
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.gossip.handle_timeout(now);
    }

    fn handle_done(&mut self, _: Now, _: JobId, _: Done<Self>) {}

    fn poll_action(&mut self) -> Option<Action<Self>> {
        loop {
            let Some(action) = self.gossip.poll_action() else {
                // The time of a verdict matters to nothing but the cache, which remembers what it has.
                let command = self.commands.pop_front()?;
                self.gossip.handle_command(Now::default(), command);
                continue;
            };
            if let Action::Send { to, message } = &action
                && message.command == ITEM
            {
                let id = ItemId::of(&TX, message.body.as_ref().expect("an item"));
                let back = to.iter().find(|peer| self.came_from.contains(&(id, **peer)));
                assert_eq!(back, None, "{id} goes back to whom it came from");
            }
            return Some(match action.lift(|never| match never {}, |never| match never {}) {
                Ok(action) => action,
                Err(Event::Item { id, bytes, .. }) => {
                    self.commands.push_back(Command::Verdict { item: id, verdict: self.verdict });
                    Action::Emit((id, bytes))
                }
                Err(Event::Refused { error, .. }) => panic!("refused: {error}"),
            });
        }
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        self.gossip.next_timeout()
    }
}

/// A ring, so that all are connected, and as many chords as nodes. Returns the number of links.
fn graph(seed: u64) -> (Sim<Judge>, usize) {
    let mut sim = Sim::new(SimConfig::new(seed));
    for number in 0..NODES as u8 {
        let (id, addr) = (NodeId::from_bytes([number; 32]), ([10, 0, 0, number], 4000).into());
        let budget = Budget::default();
        let spec = NodeSpec::new(id, addr, Judge::new(&budget), ());
        sim.add(NodeSpec { budget, ..spec });
    }
    let mut links: BTreeSet<(usize, usize)> = (0..NODES - 1).map(|n| (n, n + 1)).chain([(0, NODES - 1)]).collect();
    let dice = sim.seed().hasher("graph");
    for throw in 0.. {
        let number = dice.hash_one(throw) as usize;
        let (a, b) = (number % NODES, number / NODES % NODES);
        if a < b {
            links.insert((a, b));
        }
        if links.len() == 2 * NODES {
            break;
        }
    }
    links.iter().for_each(|(a, b)| sim.connect(*a, *b));
    sim.run_for(Duration::from_secs(1)); // everybody hears what everybody wants
    (sim, links.len())
}

fn publish(sim: &mut Sim<Judge>, node: usize, bytes: &Bytes) {
    sim.command(node, Order::Gossip(Command::Publish { topic: TX, bytes: bytes.clone() }));
}

fn republish(sim: &mut Sim<Judge>, node: usize, bytes: &Bytes) {
    sim.command(node, Order::Gossip(Command::Republish { topic: TX, bytes: bytes.clone() }));
}

/// What each node was given since the last time.
fn given(sim: &mut Sim<Judge>) -> Vec<Vec<Bytes>> {
    (0..sim.len()).map(|node| sim.events(node).into_iter().map(|(_, (_, bytes))| bytes).collect()).collect()
}

fn sum(sim: &Sim<Judge>, what: impl Fn(&Stats) -> u64) -> u64 {
    (0..sim.len()).map(|node| what(&sim.node(node).protocol().gossip.stats())).sum()
}

#[test]
fn everybody_is_given_each_item_exactly_once_and_copies_are_bounded_by_links() {
    for seed in 1..=5 {
        let (mut sim, links) = graph(seed);
        let items: Vec<Bytes> = (0..NODES).map(|n| Bytes::from(vec![n as u8; 1 + 1000 * n])).collect();
        for (node, item) in items.iter().enumerate() {
            publish(&mut sim, node, item);
        }
        sim.run_for(Duration::from_secs(20));
        for (node, mut got) in given(&mut sim).into_iter().enumerate() {
            got.sort();
            let others = items.iter().enumerate().filter(|(author, _)| *author != node).map(|(_, item)| item);
            assert!(got.iter().eq(others), "seed {seed}: node {node} was given {} items", got.len());
        }
        let (items, nodes, links) = (NODES as u64, NODES as u64, links as u64);
        let (copies, received) = (sum(&sim, |stats| stats.copies), sum(&sim, |stats| stats.received));
        assert_eq!((copies, sum(&sim, |stats| stats.shed)), (received, 0), "seed {seed}: what is sent arrives");
        let delivered = sum(&sim, |stats| stats.delivered);
        assert_eq!(delivered, items * (nodes - 1), "seed {seed}");
        assert_eq!(received - sum(&sim, |stats| stats.duplicates), delivered, "seed {seed}: the rest are copies");
        // Over each link at most once in each direction, but never back over the one on which it came.
        assert!(copies <= items * (2 * links - (nodes - 1)), "seed {seed}: {copies} copies over {links} links");
        assert!((0..NODES).all(|node| sim.reports(node).is_empty()), "seed {seed}: nobody did wrong");
        assert_eq!(sum(&sim, |stats| stats.pending as u64), 0, "seed {seed}");
    }
}

#[test]
fn an_item_that_one_rejects_goes_no_further_there_and_its_senders_are_reported() {
    let (mut sim, _) = graph(7);
    sim.command(9, Order::JudgeFromNowOn(Verdict::Reject));
    let neighbours: BTreeSet<NodeId> = sim.peers(9).collect();
    publish(&mut sim, 0, &Bytes::from_static(b"disputed"));
    sim.run_for(Duration::from_secs(5));
    let reports: Vec<(NodeId, Fault)> = sim.reports(9).into_iter().map(|(_, peer, fault)| (peer, fault)).collect();
    assert!(reports.iter().all(|(peer, fault)| neighbours.contains(peer) && *fault == Fault::InvalidItem));
    let reported: BTreeSet<NodeId> = reports.iter().map(|(peer, _)| *peer).collect();
    assert_eq!((reported, reports.len()), (neighbours.clone(), neighbours.len()), "each who sent it, once");
    assert_eq!(sim.node(9).protocol().gossip.stats().copies, 0);
    assert!(given(&mut sim)[1..].iter().all(|got| got.len() == 1), "the others have it by other ways");
}

#[test]
fn an_item_that_all_ignored_spreads_when_it_is_sent_again() {
    let (mut sim, _) = graph(8);
    (1..NODES).for_each(|node| sim.command(node, Order::JudgeFromNowOn(Verdict::Ignore)));
    let item = Bytes::from_static(b"early");
    publish(&mut sim, 0, &item);
    sim.run_for(Duration::from_secs(5));
    let degree = sim.peers(0).count();
    assert_eq!(given(&mut sim).concat().len(), degree, "it came no further than the neighbours");
    (1..NODES).for_each(|node| sim.command(node, Order::JudgeFromNowOn(Verdict::Accept)));
    republish(&mut sim, 0, &item);
    sim.run_for(Duration::from_secs(5));
    assert!(given(&mut sim)[1..].iter().all(|got| *got == [item.clone()]));
    assert_eq!(sum(&sim, |stats| stats.ignored), degree as u64);
}

#[test]
fn an_old_item_is_news_again_when_everybody_has_forgotten_it() {
    let (mut sim, _) = graph(9);
    let item = Bytes::from_static(b"again");
    publish(&mut sim, 3, &item);
    sim.run_for(Duration::from_secs(100));
    assert_eq!(given(&mut sim).concat().len(), NODES - 1);
    republish(&mut sim, 3, &item);
    sim.run_for(Duration::from_secs(10));
    assert!(given(&mut sim).concat().is_empty(), "within its time to live it is known");
    sim.run_for(Duration::from_secs(240));
    assert_eq!(sum(&sim, |stats| stats.seen as u64), 0, "all forgotten");
    (0..NODES).for_each(|node| sim.command(node, Order::ForgetOrigins));
    publish(&mut sim, 3, &item);
    sim.run_for(Duration::from_secs(10));
    assert_eq!(given(&mut sim).concat().len(), NODES - 1);
}
