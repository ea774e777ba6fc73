//! Memory that is short: the peer manager of a simulated node decides as that of a real one.

use std::collections::VecDeque;

use peerage_core::{
    Action, Budget, Class, CloseReason, Closed, Command, Done, DropReason, JobId, Layer, Message, NetworkEvent, NoJob,
    NodeId, Now, Protocol, Timestamp,
};
use peerage_sim::{NodeSpec, Path, Sim};
use peerage_transport::proto::{
    managed::{Managed, ManagedCommand, ManagedEvent},
    peer_manager::{KnownPeer, PeerManager, PeerManagerConfig},
};
use std::time::Duration;

use crate::world::{SECOND, addr, dice, identity, is_a_run, world};

const ITEM: Command = Command::new(Layer::Application, 1, Class::Gossip);
const LENGTH: usize = 50_000;
/// How many peers the node has, and how many of these take a hundred bytes a second.
const PEERS: usize = 8;
const SLOW: usize = 3;
/// Messages to each.
const MESSAGES: usize = 200;

/// What a node saw.
#[derive(Debug, PartialEq)]
enum Saw {
    Message,
    Dropped(NodeId, DropReason),
    Down(NodeId, Closed),
}

/// Sends to all who are connected, when it is told to.
#[derive(Default)]
struct Teller {
    peers: Vec<NodeId>,
    actions: VecDeque<Action<Self>>,
}

impl Protocol for Teller {
    type Command = ();
    type Event = Saw;
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, _: Now, event: NetworkEvent) {
        let saw = match event {
            NetworkEvent::PeerUp { peer, .. } => return self.peers.push(peer),
            NetworkEvent::PeerDown { peer, closed } => {
                self.peers.retain(|known| *known != peer);
                Saw::Down(peer, closed)
            }
            NetworkEvent::Message { .. } => Saw::Message,
            NetworkEvent::Dropped { peer, reason, .. } => Saw::Dropped(peer, reason),
            _ => return,
        };
        self.actions.push_back(Action::Emit(saw));
    }

    fn handle_command(&mut self, _: Now, (): ()) {
        let message = Message::new(ITEM, vec![7; LENGTH]);
        self.actions.push_back(Action::Send { to: self.peers.clone(), message });
    }

    fn handle_timeout(&mut self, _: Now) {}

    fn handle_done(&mut self, _: Now, _: JobId, done: Done<Self>) {
        match done {
            Done::Stored(never) | Done::Computed(never) => match never {},
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }
}

fn add(sim: &mut Sim<Managed<Teller>>, node: usize, budget: Budget) {
    let seed = sim.seed();
    let id = identity(&seed, node).node_id();
    let mut config = PeerManagerConfig::new(id);
    if node > 0 {
        config.reserved = vec![KnownPeer { peer: identity(&seed, 0).node_id(), addrs: vec![addr(0)] }];
    }
    let stack = Managed::new(PeerManager::new(config, &dice(&seed, node, 0)), Teller::default());
    let spec = NodeSpec::new(id, addr(node), stack, ());
    sim.add(NodeSpec { budget, ..spec });
}

#[test]
fn peers_that_take_too_little_are_shed_and_sent_away_and_the_others_miss_nothing() {
    is_a_run(11, |seed| {
        let mut sim = world(seed);
        // 1.5 MiB for what is sent to all.
        add(&mut sim, 0, Budget::with_floors(8 << 20, PEERS));
        for node in 1..=PEERS {
            add(&mut sim, node, Budget::default());
            let rate = (node <= SLOW).then_some(100);
            sim.set_path(0, node, Path { rate, ..Path::of(Duration::from_millis(20)) });
        }
        assert!(sim.run_until(|sim| sim.peers(0).count() == PEERS, 60 * SECOND));
        for _ in 0..MESSAGES {
            sim.command(0, ManagedCommand::Upper(()));
            sim.run_for(SECOND / 10);
        }
        sim.run_for(10 * SECOND);
        let slow: Vec<NodeId> = (1..=SLOW).map(|node| sim.id(node)).collect();
        let (mut shed, mut away) = (0, Vec::new());
        for (_, event) in sim.events(0) {
            match event {
                ManagedEvent::Upper(Saw::Dropped(peer, reason)) => {
                    assert!(slow.contains(&peer), "{peer} takes all that it is sent: {reason}");
                    shed += usize::from(reason == DropReason::Shed);
                }
                ManagedEvent::Upper(Saw::Down(peer, closed)) => away.push((peer, closed)),
                _ => {}
            }
        }
        assert!(shed > 0, "nothing was shed");
        assert!(away.iter().any(|(_, closed)| *closed == Closed::by_us(CloseReason::SlowPeer)), "{away:?}");
        assert!(away.iter().all(|(peer, _)| slow.contains(peer)), "{away:?}");
        for node in SLOW + 1..=PEERS {
            let told = sim.events(node);
            let heard = told.iter().filter(|(_, event)| *event == ManagedEvent::Upper(Saw::Message)).count();
            assert_eq!(heard, MESSAGES, "node {node}");
        }
        sim.event_hash()
    });
}
