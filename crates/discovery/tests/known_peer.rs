//! How long a lookup takes over real connections, in round trips: whole stacks with their peer managers, the transport's own
//! machines, a clock that only the test moves, and streams on which each way takes 50 ms.

use core::{net::SocketAddr, time::Duration};
use peerage_core::*;
use peerage_discovery::{Command as Ask, Config, DhtKey, Discovery, EARLY, Event, LIMITS};
use peerage_transport::proto::{
    connection::{ConnectionConfig, SecureConnection},
    keypair::Keypair,
    managed::{Managed, ManagedCommand, ManagedEvent},
    peer_manager::{PeerManager, PeerManagerConfig},
};
use peerage_wire::{Limits, Magic};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

type Node = Managed<Discovery>;

/// The way from one node to another.
const WAY: Duration = Duration::from_millis(50);

const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);

/// One end of a stream.
struct End {
    node: usize,
    other: LinkId,
    connection: SecureConnection,
    info: Option<LinkInfo>,
    admitted: bool,
    /// What came before it was admitted.
    held: VecDeque<ConnectionEvent>,
}

/// What happens at a time.
enum Happens {
    /// A stream that this node dialled is open.
    Opens {
        node: usize,
        addr: SocketAddr,
        expected: Option<NodeId>,
        key: Option<DialKey>,
        question: Option<Message>,
    },
    Arrives {
        at: LinkId,
        bytes: Vec<u8>,
    },
}

struct World {
    now: Now,
    dice: Seed,
    nodes: Vec<(Stack<Node>, Arc<ConnectionConfig>)>,
    ends: BTreeMap<LinkId, End>,
    coming: BTreeMap<(Timestamp, u64), Happens>,
    /// Numbers of events, links and requests.
    next: u64,
    asked: BTreeMap<u64, (LinkId, RequestId, Command)>,
    to_answer: BTreeMap<RequestId, (LinkId, u64)>,
    /// When each lookup was over, and whom it found.
    done: BTreeMap<u64, (Timestamp, Vec<NodeId>)>,
    /// Questions that were asked with first words, and others.
    questions: [u32; 2],
}

fn addr(node: usize) -> SocketAddr {
    ([8, 8, node as u8, 8], 4_000).into()
}

fn keypair(node: usize) -> Arc<Keypair> {
    Arc::new(Keypair::from_seed(&[node as u8 + 1; 32]))
}

fn id(node: usize) -> NodeId {
    keypair(node).node_id()
}

/// What the connections of a node share; `life` makes the key of its process.
fn security(node: usize, life: u64, early: bool) -> Arc<ConnectionConfig> {
    let mut rng = SecretRng::insecure_from_seed(&Seed::from_u64(life).derive(&format!("life of {node}")));
    let limits = Arc::new(Limits::new(&[LIMITS]));
    let mut config = ConnectionConfig::new(keypair(node), NETWORK, Magic::DEV, limits, Budget::default(), &mut rng);
    config.listen = vec![addr(node)];
    config.early = if early { EARLY.to_vec() } else { Vec::new() };
    Arc::new(config)
}

impl World {
    /// Nodes of which each but the first knows where the first is, and that keep no connection by themselves.
    fn new(seed: u64, nodes: usize, early: bool) -> Self {
        let (dice, now) = (Seed::from_u64(seed), Now { mono: Timestamp::ZERO, wall: UnixMillis(1_000_000_000_000) });
        let node = |number: usize| {
            let dice = dice.derive(&format!("node {number}"));
            let mut config = Config::new(keypair(number), NETWORK, dice.derive("discovery"), Budget::default());
            config.addrs = vec![addr(number)];
            config.target = 0;
            if number > 0 {
                config.seeds = vec![(id(0), vec![addr(0)])];
            }
            let manager = PeerManagerConfig { target_outbound: 0, ..PeerManagerConfig::new(id(number)) };
            let stack = Managed::new(PeerManager::new(manager, &dice), Discovery::new(config, now));
            (Stack::new(stack), security(number, 1, early))
        };
        let nodes = (0..nodes).map(node).collect();
        Self {
            now,
            dice,
            nodes,
            ends: BTreeMap::new(),
            coming: BTreeMap::new(),
            next: 0,
            asked: BTreeMap::new(),
            to_answer: BTreeMap::new(),
            done: BTreeMap::new(),
            questions: [0; 2],
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn happens(&mut self, after: Duration, what: Happens) {
        let number = self.number();
        self.coming.insert((self.now.mono + after, number), what);
    }

    fn secrets(&mut self) -> SecretRng {
        let number = self.number();
        SecretRng::insecure_from_seed(&self.dice.derive(&format!("secrets {number}")))
    }

    fn order(&mut self, node: usize, command: Ask) {
        self.nodes[node].0.command(ManagedCommand::Upper(command));
        self.settle();
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now.mono + time;
        self.settle();
        loop {
            let timers = self.nodes.iter().filter_map(|(stack, _)| stack.next_timeout());
            let timers = timers.chain(self.ends.values().filter_map(|end| end.connection.next_timeout()));
            let coming = self.coming.keys().next().map(|(at, _)| *at);
            let Some(at) = timers.chain(coming).min().filter(|at| *at <= end) else { break };
            self.reach(at);
            if let Some(what) =
                self.coming.first_entry().filter(|first| first.key().0 <= at).map(|first| first.remove())
            {
                self.happened(what);
            }
            for end in self.ends.values_mut().filter(|end| end.connection.next_timeout().is_some_and(|due| due <= at)) {
                end.connection.handle_timeout(self.now);
            }
            self.settle();
        }
        self.reach(end);
    }

    fn reach(&mut self, at: Timestamp) {
        let at = at.max(self.now.mono);
        self.now = Now { mono: at, wall: self.now.wall + at.since(self.now.mono) };
    }

    fn happened(&mut self, what: Happens) {
        match what {
            Happens::Arrives { at, bytes } => {
                if let Some(end) = self.ends.get_mut(&at) {
                    end.connection.handle_bytes(self.now, &bytes);
                }
            }
            Happens::Opens { node, addr: to, expected, key, question } => {
                let listener = (0..self.nodes.len()).find(|node| addr(*node) == to).expect("nobody dials elsewhere");
                let links = [self.number(), self.number()].map(LinkId);
                let from = SocketAddr::new(addr(node).ip(), 50_000);
                let (ours, theirs) = (Arc::clone(&self.nodes[node].1), Arc::clone(&self.nodes[listener].1));
                let secrets = [self.secrets(), self.secrets()];
                let [one, two] = secrets;
                let dialled = SecureConnection::ask(ours, to, expected, key, question, self.now, one);
                let accepted = SecureConnection::new(theirs, false, from, None, self.now, two);
                for (at, (node, connection)) in [(node, dialled), (listener, accepted)].into_iter().enumerate() {
                    let (info, admitted, held) = (None, false, VecDeque::new());
                    let end = End { node, other: links[1 - at], connection, info, admitted, held };
                    self.ends.insert(links[at], end);
                }
            }
        }
    }

    /// Carries all that need not wait for time to pass from connections to stacks and back.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            for node in 0..self.nodes.len() {
                let mut outputs = Vec::new();
                self.nodes[node].0.run(self.now, 1_000, |output| outputs.push(output));
                moved |= !outputs.is_empty();
                outputs.into_iter().for_each(|output| self.perform(node, output));
            }
            for link in self.ends.keys().copied().collect::<Vec<_>>() {
                while let Some(event) = self.ends.get_mut(&link).and_then(|end| end.connection.poll_event()) {
                    moved = true;
                    self.event(link, event);
                }
                let mut bytes = Vec::new();
                let Some(end) = self.ends.get_mut(&link) else { continue };
                if end.connection.poll_transmit(self.now, &mut bytes, 1 << 20) {
                    let at = end.other;
                    self.happens(WAY, Happens::Arrives { at, bytes });
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn command(&mut self, link: LinkId, command: ConnectionCommand) {
        if let Some(end) = self.ends.get_mut(&link) {
            end.connection.handle_command(self.now, command);
        }
    }

    fn live(&self, node: usize, peer: NodeId) -> Option<LinkId> {
        let is =
            |end: &End| end.node == node && end.admitted && end.info.as_ref().is_some_and(|info| info.peer == peer);
        self.ends.iter().find(|(_, end)| is(end)).map(|(link, _)| *link)
    }

    fn outbound(message: Message) -> Outbound {
        let resident = Arc::new(Budget::default().nothing().into());
        let owed = Budget::account(usize::MAX).owe(message.len()).expect("no limit");
        Outbound { message, resident, owed }
    }

    fn perform(&mut self, node: usize, output: Output<Node>) {
        let action = match output {
            Output::Action(action) => action,
            Output::Consumed { link, class, bytes } => {
                return self.command(link, ConnectionCommand::Consumed { class, bytes });
            }
        };
        match action {
            Action::Link(Outlet::Dial { addr, expected, dial_key: key, question }) => {
                self.happens(2 * WAY, Happens::Opens { node, addr, expected, key, question });
            }
            Action::Link(Outlet::Admit(link)) => {
                let Some(end) = self.ends.get_mut(&link) else { return };
                end.admitted = true;
                let (held, info) = (core::mem::take(&mut end.held), end.info.clone().expect("it stands"));
                self.nodes[node].0.push(NetworkEvent::PeerUp { peer: info.peer, info });
                held.into_iter().for_each(|event| self.event(link, event));
            }
            Action::Link(Outlet::Close { link, reason }) => self.command(link, ConnectionCommand::Close(reason)),
            Action::Send { to, message } => {
                for peer in to {
                    if let Some(link) = self.live(node, peer) {
                        self.command(link, ConnectionCommand::Notify(Self::outbound(message.clone())));
                    }
                }
            }
            Action::Request { to, id, message, timeout } => {
                let link = self.live(node, to).expect("whoever is asked is there");
                let name = self.number();
                self.asked.insert(name, (link, id, message.command));
                let outbound = Self::outbound(message);
                self.command(link, ConnectionCommand::Request { id: name, outbound, timeout });
            }
            Action::Respond { id, message, .. } => {
                if let Some((link, id)) = self.to_answer.remove(&id) {
                    self.command(link, ConnectionCommand::Respond { id, outbound: Self::outbound(message) });
                }
            }
            Action::Emit(ManagedEvent::Upper(Event::LookupDone { token, closest })) => {
                let found = closest.iter().map(|record| record.node()).collect();
                self.done.insert(token, (self.now.mono, found));
            }
            _ => {}
        }
    }

    fn event(&mut self, link: LinkId, event: ConnectionEvent) {
        let Some(end) = self.ends.get_mut(&link) else { return };
        let node = end.node;
        let news = match event {
            ConnectionEvent::Established(info) => {
                end.info = Some(info.clone());
                NetworkEvent::LinkUp { link, info }
            }
            ConnectionEvent::Early { id, claims, message } => {
                let remote = ([127, 0, 0, 1], 1).into();
                let name = RequestId(self.number());
                self.to_answer.insert(name, (link, id));
                self.questions[0] += 1;
                let charge = Budget::default().nothing();
                NetworkEvent::Early { claims, remote, id: name, message, charge }
            }
            ConnectionEvent::Closed(closed) => return self.closed(link, closed),
            event if !end.admitted => return end.held.push_back(event),
            event => {
                let peer = end.info.as_ref().expect("it stands").peer;
                return self.peer_event(node, link, peer, event);
            }
        };
        self.nodes[node].0.push(news);
    }

    fn peer_event(&mut self, node: usize, link: LinkId, peer: NodeId, event: ConnectionEvent) {
        let (message, charge, event): (_, _, Box<dyn FnOnce(Message, Charge) -> NetworkEvent>) = match event {
            ConnectionEvent::Message { message, charge } => {
                (message, charge, Box::new(move |message, charge| NetworkEvent::Message { peer, message, charge }))
            }
            ConnectionEvent::Request { id, message, charge } => {
                let name = RequestId(self.number());
                self.to_answer.insert(name, (link, id));
                self.questions[1] += 1;
                let event = move |message, charge| NetworkEvent::Request { peer, id: name, message, charge };
                (message, charge, Box::new(event))
            }
            ConnectionEvent::Response { id, result } => {
                let (_, id, command) = self.asked.remove(&id).expect("it was asked");
                match result {
                    Ok((message, charge)) => {
                        let event = move |message, charge| {
                            let result = Ok((message, charge));
                            NetworkEvent::Response { peer, id, command, result }
                        };
                        (message, charge, Box::new(event))
                    }
                    Err(error) => {
                        let result = Err(error);
                        return self.nodes[node].0.push(NetworkEvent::Response { peer, id, command, result });
                    }
                }
            }
            ConnectionEvent::Stats(stats) => return self.nodes[node].0.push(NetworkEvent::PeerStats { peer, stats }),
            _ => return,
        };
        let (class, bytes) = (message.command.class(), charge.bytes());
        self.nodes[node].0.push_from(link, class, bytes, event(message, charge));
    }

    fn closed(&mut self, link: LinkId, closed: Closed) {
        // Its last words are still to be sent.
        let mut bytes = Vec::new();
        let Some(mut end) = self.ends.remove(&link) else { return };
        if end.connection.poll_transmit(self.now, &mut bytes, 1 << 20) {
            self.happens(WAY, Happens::Arrives { at: end.other, bytes });
        }
        if let Some(info) = end.info {
            self.nodes[end.node].0.push(NetworkEvent::LinkDown { link, closed });
            if end.admitted {
                self.nodes[end.node].0.push(NetworkEvent::PeerDown { peer: info.peer, closed });
            }
        }
    }

    /// How many ways, two of which are a round trip, a lookup of `target` takes node `node`, and whom it finds.
    fn lookup(&mut self, node: usize, token: u64, target: NodeId) -> (u128, Vec<NodeId>) {
        let begun = self.now.mono;
        self.order(node, Ask::Lookup { token, target: DhtKey::of(&target) });
        self.pass(Duration::from_secs(2));
        let (over, found) = self.done.remove(&token).expect("a lookup ends");
        let took = over.since(begun);
        assert_eq!(took.as_nanos() % WAY.as_nanos(), 0, "nothing but ways takes time");
        (took.as_nanos() / WAY.as_nanos(), found)
    }
}

/// Node 1 has met node 0, and the connection was ended for want of need.
fn met(seed: u64, early: bool) -> World {
    let mut world = World::new(seed, 2, early);
    world.pass(Duration::from_secs(2));
    assert!(world.live(1, id(0)).is_some() && world.live(0, id(1)).is_some(), "seed {seed}");
    world.order(1, Ask::SetSeeds(Vec::new()));
    world.pass(Duration::from_secs(20));
    assert!(world.ends.is_empty(), "seed {seed}");
    world.questions = [0; 2];
    world
}

#[test]
fn a_lookup_that_asks_a_known_peer_is_over_after_two_round_trips() {
    for seed in 0..5 {
        let mut world = met(seed, true);
        assert_eq!(world.lookup(1, 7, id(0)), (2 * 2, vec![id(0)]), "seed {seed}");
        assert_eq!(world.questions, [1, 0], "seed {seed}: asked with the first words, and not again");
        assert!(world.live(0, id(1)).is_some(), "seed {seed}: by now it is a peer like any other");

        let mut world = met(seed, false);
        assert_eq!(world.lookup(1, 7, id(0)), (2 * 3, vec![id(0)]), "seed {seed}: where nothing may be asked so early");
        assert_eq!(world.questions, [0, 1], "seed {seed}");
    }
}

#[test]
fn a_known_peer_that_has_restarted_is_asked_when_it_has_shown_its_new_key() {
    for seed in 0..5 {
        let mut world = met(seed, true);
        world.nodes[0].1 = security(0, 2, true);
        assert_eq!(world.lookup(1, 7, id(0)), (2 * 4, vec![id(0)]), "seed {seed}: a round trip for RETRY");
        assert_eq!(world.questions, [0, 1], "seed {seed}");
    }
}
