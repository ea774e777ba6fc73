//! The simulation: what a test sees of it, and its one loop.

use core::{net::SocketAddr, time::Duration};
use peerage_core::{
    Action, Budget, Fault, Lane, LinkId, NetworkEvent, NodeId, Now, Output, Progress, Protocol, Seed, SeededRng, Stack,
    Timestamp, UnixMillis, Want,
};
use rand_core::Rng;
use std::collections::{BTreeMap, VecDeque};

use crate::{
    NodeSpec, Path, Resource, SimConfig, Traffic,
    digest::{EventHash, Kind},
    link::{Link, Wire},
    node::{Node, Work},
    queue::Queue,
};

/// Steps of a stack before other nodes have their turn. Virtual time stands still meanwhile, so the number matters for
/// nothing but the endless loops that it lets us notice.
const STEPS: usize = 1_000;

/// Turns of all nodes together in one instant, beyond which they are surely talking to themselves (our guess: 100 million
/// steps).
const TURNS: usize = 100_000;

/// How many of a node's latest wants are kept for the test to look at (our guess).
const WANTS: usize = 1_024;

/// What is scheduled.
pub(crate) enum Event<P: Protocol> {
    Wake { node: usize },
    Uplink { node: usize },
    PathFree { end: LinkId },
    Arrive { end: LinkId, wire: Wire },
    Retry { end: LinkId },
    Memory { node: usize },
    Relief { end: LinkId },
    RequestTimeout { end: LinkId, id: u64 },
    Heartbeat { end: LinkId },
    Silent { link: u64, cut: u64 },
    Dialled { node: usize, life: u32, addr: SocketAddr, expected: Option<NodeId> },
    DialFailed { node: usize, life: u32, addr: SocketAddr, expected: Option<NodeId>, closed: peerage_core::Closed },
    Stored { node: usize, life: u32 },
    Computed { node: usize, life: u32, work: Work<P::Compute> },
}

/// A network of nodes in virtual time, each running a [`Stack`] of `P`.
///
/// Nodes are numbered from 0 in the order of [`add`](Self::add). Everything that happens follows from the configuration,
/// the seed in it and the calls of the test: no clock, no thread, no entropy. When a test panics while a simulation
/// lives, the seed and the virtual time are printed.
///
/// # Panics
/// Methods that take a node's number panic if there is no such node, and those that say so if it is crashed: mistakes of
/// the test.
pub struct Sim<P: Protocol> {
    pub(crate) config: SimConfig,
    pub(crate) now: Now,
    pub(crate) queue: Queue<Event<P>>,
    pub(crate) nodes: Vec<Node<P>>,
    pub(crate) by_id: BTreeMap<NodeId, usize>,
    pub(crate) by_addr: BTreeMap<SocketAddr, usize>,
    pub(crate) links: BTreeMap<u64, Link>,
    pub(crate) next_link: u64,
    pub(crate) partitions: u64,
    paths: BTreeMap<(usize, usize), Path>,
    path_model: Option<Box<dyn Fn(usize, usize) -> Path>>,
    dirty: VecDeque<usize>,
    outputs: Vec<Output<P>>,
    pub(crate) hash: EventHash,
    pub(crate) jitter: SeededRng,
    pub(crate) lanes: SeededRng,
    pub(crate) faults: SeededRng,
    handled: u64,
}

impl<P: Protocol> Sim<P> {
    /// An empty network at the start of its clock.
    pub fn new(config: SimConfig) -> Self {
        let seed = Seed::from_u64(config.seed);
        Self {
            now: Now { mono: Timestamp::ZERO, wall: config.start },
            queue: Queue::new(),
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            by_addr: BTreeMap::new(),
            links: BTreeMap::new(),
            next_link: 0,
            partitions: 0,
            paths: BTreeMap::new(),
            path_model: None,
            dirty: VecDeque::new(),
            outputs: Vec::new(),
            hash: EventHash::new(config.seed),
            jitter: seed.stream("sim jitter"),
            lanes: seed.stream("sim lanes"),
            faults: seed.stream("sim faults"),
            handled: 0,
            config,
        }
    }

    /// Adds a node and starts it now. Its number is returned.
    ///
    /// # Panics
    /// If another node has the same id or address.
    pub fn add(&mut self, spec: NodeSpec<P>) -> usize {
        let number = self.nodes.len();
        assert!(self.by_id.insert(spec.id, number).is_none(), "two nodes with the id {}", spec.id);
        assert!(self.by_addr.insert(spec.addr, number).is_none(), "two nodes at {}", spec.addr);
        self.nodes.push(Node::new(spec, self.config.uplink));
        self.touch(number);
        self.settle();
        number
    }

    /// The seed, e.g. to derive those of the nodes: `sim.seed().derive("node 3")`.
    pub fn seed(&self) -> Seed {
        Seed::from_u64(self.config.seed)
    }

    /// The virtual clocks.
    pub const fn now(&self) -> Now {
        self.now
    }

    /// How many nodes there are, crashed ones included.
    pub const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no node.
    pub const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many scheduled events were handled: a measure of the work that a simulation is.
    pub const fn handled(&self) -> u64 {
        self.handled
    }

    /// SHA-256 over every event that was delivered so far: its time, node, kind and payload. Equal seeds give equal
    /// hashes, in every process and on every machine.
    pub fn event_hash(&self) -> [u8; 32] {
        self.hash.value()
    }

    /// The stack of a running node, to look at.
    ///
    /// # Panics
    /// If it is crashed.
    pub fn node(&self, node: usize) -> &Stack<P> {
        self.nodes[node].stack.as_ref().expect("the node is not crashed")
    }

    /// Whether a node runs, i.e. is not crashed.
    pub fn is_running(&self, node: usize) -> bool {
        self.nodes[node].stack.is_some()
    }

    /// Who a node is.
    pub fn id(&self, node: usize) -> NodeId {
        self.nodes[node].id
    }

    /// Where a node listens.
    pub fn addr(&self, node: usize) -> SocketAddr {
        self.nodes[node].addr
    }

    /// The number of the node with this id.
    pub fn number(&self, id: &NodeId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The ledger of a node.
    pub fn budget(&self, node: usize) -> &Budget {
        &self.nodes[node].budget
    }

    /// The peers that a node has admitted, in the order of their ids.
    pub fn peers(&self, node: usize) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes[node].peers.keys().copied()
    }

    /// What a node sent and took so far.
    pub fn traffic(&self, node: usize) -> Traffic {
        self.nodes[node].traffic
    }

    /// Takes what a node's protocol emitted since the last call, with times.
    pub fn events(&mut self, node: usize) -> Vec<(Timestamp, P::Event)> {
        core::mem::take(&mut self.nodes[node].events)
    }

    /// Takes what a node's protocol reported about its peers, where no peer manager in its stack kept that to itself.
    pub fn reports(&mut self, node: usize) -> Vec<(Timestamp, NodeId, Fault)> {
        core::mem::take(&mut self.nodes[node].reports)
    }

    /// Takes whom a node's protocol wanted, where no peer manager in its stack kept that to itself; the latest 1,024.
    pub fn wants(&mut self, node: usize) -> Vec<Want> {
        core::mem::take(&mut self.nodes[node].wants).into()
    }

    /// Gives a command to a running node, now.
    ///
    /// # Panics
    /// If it is crashed.
    pub fn command(&mut self, node: usize, command: P::Command) {
        self.hash.note(self.now.mono, node, Kind::Command, 0);
        self.nodes[node].stack.as_mut().expect("the node is not crashed").command(command);
        self.touch(node);
        self.settle();
    }

    /// What lies between two nodes. Paths lead both ways.
    pub fn path(&self, a: usize, b: usize) -> Path {
        let pair = (a.min(b), a.max(b));
        match (self.paths.get(&pair), &self.path_model) {
            (Some(path), _) => *path,
            (None, Some(model)) => model(pair.0, pair.1),
            (None, None) => self.config.path,
        }
    }

    /// Changes what lies between two nodes, for the links that stand and for those to come.
    pub fn set_path(&mut self, a: usize, b: usize, path: Path) {
        self.paths.insert((a.min(b), a.max(b)), path);
        let peer = self.nodes[b].id;
        for id in &self.nodes[a].links {
            if let Some(link) = self
                .links
                .get_mut(&crate::link::key(*id))
                .filter(|link| link.ends.iter().any(|end| end.info.peer == peer))
            {
                link.path = path;
            }
        }
    }

    /// Says what lies between any two nodes for which [`set_path`](Self::set_path) said nothing: called with the smaller
    /// number first, whenever a link begins. It must be a function of its arguments alone.
    pub fn set_paths(&mut self, model: impl Fn(usize, usize) -> Path + 'static) {
        self.path_model = Some(Box::new(model));
    }

    /// Runs until the virtual clock shows `at`.
    pub fn run_to(&mut self, at: Timestamp) {
        while let Some((time, event)) = self.queue.pop(at) {
            self.set_clock(time);
            self.handled += 1;
            self.handle(event);
            self.settle();
        }
        self.set_clock(at.max(self.now.mono));
    }

    /// Runs for so much virtual time.
    pub fn run_for(&mut self, time: Duration) {
        self.run_to(self.now.mono + time);
    }

    /// Runs until `condition` holds, but no longer than `within`; says whether it holds. It is looked at once in each
    /// virtual millisecond in which something happens.
    pub fn run_until(&mut self, mut condition: impl FnMut(&Self) -> bool, within: Duration) -> bool {
        let deadline = self.now.mono + within;
        loop {
            if condition(self) {
                return true;
            }
            match self.queue.next_at() {
                Some(next) if next <= deadline => {
                    self.run_to(next.max(self.now.mono + Duration::from_millis(1)).min(deadline));
                }
                _ if self.now.mono < deadline => self.run_to(deadline),
                _ => return false,
            }
        }
    }

    fn set_clock(&mut self, at: Timestamp) {
        self.now.mono = at;
        self.now.wall = UnixMillis(self.config.start.0 + at.0 / 1_000_000);
    }

    fn handle(&mut self, event: Event<P>) {
        match event {
            Event::Wake { node } => {
                let wake = &mut self.nodes[node].wake;
                // A timer that was moved to an earlier moment left this event behind.
                if *wake == Some(self.now.mono) {
                    *wake = None;
                    self.hash.note(self.now.mono, node, Kind::Timeout, 0);
                    self.touch(node);
                }
            }
            Event::Uplink { node } => {
                self.nodes[node].uplink.awaited = false;
                self.pump(node);
            }
            Event::PathFree { end } => self.path_free(end),
            Event::Arrive { end, wire } => self.arrive(end, wire),
            Event::Retry { end } => self.retry(end),
            Event::Relief { end } => self.relieve(end),
            Event::Memory { node } => self.look_at_memory(node),
            Event::RequestTimeout { end, id } => self.request_timeout(end, id),
            Event::Heartbeat { end } => self.heartbeat(end),
            Event::Silent { link, cut } => self.silent(link, cut),
            Event::Dialled { node, life, addr, expected } => {
                if self.lives(node, life) {
                    self.dialled(node, addr, expected);
                }
            }
            Event::DialFailed { node, life, addr, expected, closed } => {
                if self.lives(node, life) {
                    self.give(node, NetworkEvent::DialFailed { addr, expected, closed });
                }
            }
            Event::Stored { node, life } => {
                if self.lives(node, life) {
                    self.stored(node);
                }
            }
            Event::Computed { node, life, work } => {
                if self.lives(node, life) {
                    self.computed(node, work);
                }
            }
        }
    }

    fn lives(&self, node: usize, life: u32) -> bool {
        self.nodes[node].stack.is_some() && self.nodes[node].life == life
    }

    /// Delivers an event that carries no message.
    pub(crate) fn give(&mut self, node: usize, event: NetworkEvent) {
        if let Some(stack) = &mut self.nodes[node].stack {
            self.hash.network(self.now.mono, node, &event);
            stack.push(event);
            self.touch(node);
        }
    }

    pub(crate) fn note_done(&mut self, node: usize, lane: Lane, id: peerage_core::JobId) {
        self.hash.done(self.now.mono, node, lane, id);
    }

    /// Lets a node run before virtual time goes on.
    pub(crate) fn touch(&mut self, node: usize) {
        if !core::mem::replace(&mut self.nodes[node].dirty, true) {
            self.dirty.push_back(node);
        }
    }

    /// Runs touched nodes until all are quiet.
    pub(crate) fn settle(&mut self) {
        let mut turns = 0;
        while let Some(node) = self.dirty.pop_front() {
            self.nodes[node].dirty = false;
            self.run(node);
            turns += 1;
            assert!(turns < TURNS, "node {node} does not come to rest");
        }
    }

    fn run(&mut self, node: usize) {
        let Node { stack, clock_ahead_ms, .. } = &mut self.nodes[node];
        let Some(stack) = stack else { return };
        let now = Now { wall: UnixMillis(self.now.wall.0.saturating_add_signed(*clock_ahead_ms)), ..self.now };
        let mut outputs = core::mem::take(&mut self.outputs);
        let progress = stack.run(now, STEPS, |output| outputs.push(output));
        for output in outputs.drain(..) {
            // An ideal link grants credit without end; what a receiver does not take, its budget holds back.
            if let Output::Action(action) = output {
                self.apply(node, action);
            }
        }
        self.outputs = outputs;
        self.watch_memory(node);
        let (now, this) = (self.now.mono, &mut self.nodes[node]);
        if progress == Progress::More {
            self.touch(node);
        } else if let Some(at) = this.stack.as_ref().and_then(Stack::next_timeout).filter(|_| !this.dirty) {
            let at = at.max(now);
            if this.wake.is_none_or(|wake| at < wake) {
                this.wake = Some(at);
                self.queue.push(at, Event::Wake { node });
            }
        }
    }

    fn apply(&mut self, node: usize, action: Action<P>) {
        match action {
            Action::Send { to, message } => self.notify(node, &to, message),
            Action::Request { to, id, message, timeout } => self.request(node, to, id, message, timeout),
            Action::Respond { to, id, message } => self.respond(node, to, id, message),
            Action::Want(want) => {
                let wants = &mut self.nodes[node].wants;
                if wants.len() == WANTS {
                    wants.pop_front();
                }
                wants.push_back(want);
            }
            Action::Report { peer, fault } => self.nodes[node].reports.push((self.now.mono, peer, fault)),
            Action::Store(id, job) => self.store(node, id, job),
            Action::Compute(id, job) => self.compute(node, id, job),
            Action::Emit(event) => self.nodes[node].events.push((self.now.mono, event)),
            Action::Heartbeat(data) => self.nodes[node].heartbeat = Some(data),
            Action::Link(outlet) => self.outlet(node, outlet),
            Action::Routed => {}
        }
    }

    /// Ends a node's process in the middle of whatever it does: its stack is dropped, its jobs are lost, its links break.
    /// Its disk stays until it is taken. Nothing happens if it is crashed already.
    pub fn crash(&mut self, node: usize) {
        self.crash_now(node);
        self.settle();
    }

    /// Takes the disk of a crashed node; `None` if the node runs or the disk was taken before.
    pub fn take_resource(&mut self, node: usize) -> Option<Resource<P>> {
        let node = &mut self.nodes[node];
        if node.stack.is_some() { None } else { node.resource.take() }
    }

    /// Starts a crashed node again, with the same identity, address and ledger. Pass what
    /// [`take_resource`](Self::take_resource) gave to keep its disk, or a new one to have lost it.
    ///
    /// # Panics
    /// If the node runs.
    pub fn restart(&mut self, node: usize, protocol: P, resource: Resource<P>) {
        let this = &mut self.nodes[node];
        assert!(this.stack.is_none(), "node {node} runs already");
        this.stack = Some(Stack::new(protocol));
        this.resource = Some(resource);
        self.hash.note(self.now.mono, node, Kind::Restart, 0);
        self.touch(node);
        self.settle();
    }

    /// A number below `bound` (0 if that is 0).
    pub(crate) fn below(rng: &mut SeededRng, bound: u64) -> u64 {
        rng.next_u64().checked_rem(bound).unwrap_or(0)
    }
}

impl<P: Protocol> Drop for Sim<P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulation: seed {}, virtual time {}, {} events", self.config.seed, self.now.mono, self.handled);
        }
    }
}
