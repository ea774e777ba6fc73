//! A protocol that does what the test says and tells what it saw.
#![allow(dead_code, reason = "each test file uses another part")]

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use bytes::Bytes;
use peerage_core::*;
use peerage_sim::*;

pub(crate) const fn command(index: u8, class: Class) -> Command {
    Command::new(Layer::Application, index, class)
}

pub(crate) const VOTE: Command = command(0, Class::Consensus);
pub(crate) const BULK: Command = command(1, Class::Bulk);
/// A request that is answered with its own payload.
pub(crate) const ECHO: Command = command(2, Class::Signal);
/// A request that is never answered.
pub(crate) const VOID: Command = command(3, Class::Signal);

/// What the test asks of a node.
pub(crate) enum Do {
    Send(Vec<NodeId>, Message),
    Request(NodeId, u64, Message, Duration),
    Dial(SocketAddr, Option<NodeId>),
    Admit(LinkId),
    Close(LinkId, CloseReason),
    Link(Outlet),
    /// Tell when memory is short.
    Watch,
    Store(u64, Append),
    Compute(u64, Square),
    Heartbeat(Bytes),
    /// Keep the charges of messages from now on.
    Hoard,
    /// Let them go.
    Release,
}

/// What a node tells the test.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Saw {
    LinkUp(LinkId, NodeId, bool),
    LinkDown(LinkId, Closed),
    DialFailed(Closed),
    Up(NodeId),
    Down(NodeId, Closed),
    Message(NodeId, Command, usize),
    Response(u64, Result<usize, RequestError>),
    Dropped(DropReason),
    /// Memory is short, and who owes how much: what waits for it, what it sent.
    Short(Vec<(NodeId, usize, usize)>),
    Writable,
    Heartbeat(Bytes),
    Stored(usize),
    Computed(u64, u64),
}

/// Appends a byte to the disk; its result is the length of the disk.
pub(crate) struct Append(pub u8, pub Duration);

impl Job for Append {
    type Output = usize;
    type Resource = Vec<u8>;

    fn cost(&self) -> Cost {
        Cost { time: self.1, bytes: 1 }
    }

    fn run(self, disk: &mut Vec<u8>) -> usize {
        disk.push(self.0);
        disk.len()
    }
}

pub(crate) struct Square(pub u64);

impl Job for Square {
    type Output = u64;
    type Resource = ();

    fn cost(&self) -> Cost {
        Cost { time: Duration::from_millis(10), bytes: 8 }
    }

    fn run(self, (): &mut ()) -> u64 {
        self.0 * self.0
    }
}

#[derive(Default)]
pub(crate) struct Probe {
    actions: VecDeque<Action<Self>>,
    hoarding: bool,
    watching: bool,
    hoard: Vec<Charge>,
}

impl Probe {
    fn saw(&mut self, saw: Saw) {
        self.actions.push_back(Action::Emit(saw));
    }

    fn keep(&mut self, charge: Charge) {
        if self.hoarding {
            self.hoard.push(charge);
        }
    }
}

impl Protocol for Probe {
    type Command = Do;
    type Event = Saw;
    type Storage = Append;
    type Compute = Square;

    fn handle_network(&mut self, _: Now, event: NetworkEvent) {
        match event {
            NetworkEvent::LinkUp { link, info } => self.saw(Saw::LinkUp(link, info.peer, info.outbound)),
            NetworkEvent::LinkDown { link, closed } => self.saw(Saw::LinkDown(link, closed)),
            NetworkEvent::DialFailed { closed, .. } => self.saw(Saw::DialFailed(closed)),
            NetworkEvent::Unmet { peer, .. } => panic!("nobody wanted {peer}"),
            NetworkEvent::PeerUp { peer, .. } => self.saw(Saw::Up(peer)),
            NetworkEvent::PeerDown { peer, closed } => self.saw(Saw::Down(peer, closed)),
            NetworkEvent::Message { peer, message, charge } => {
                self.keep(charge);
                self.saw(Saw::Message(peer, message.command, message.len()));
            }
            NetworkEvent::Request { peer, id, message, .. } => {
                if message.command == ECHO {
                    self.actions.push_back(Action::Respond { to: peer, id, message });
                }
            }
            NetworkEvent::Response { id, result, .. } => {
                self.saw(Saw::Response(id.0, result.map(|(message, _)| message.len())));
            }
            NetworkEvent::TurnedAway { .. } => unreachable!("the simulator has no streams"),
            NetworkEvent::Early { .. } => unreachable!("nor the first words on them"),
            NetworkEvent::Dropped { reason, .. } => self.saw(Saw::Dropped(reason)),
            NetworkEvent::Writable { .. } => self.saw(Saw::Writable),
            NetworkEvent::Pressure(pressure) if self.watching => {
                let debtors = pressure.debtors.iter().map(|debtor| (debtor.peer, debtor.owed, debtor.inbox));
                self.saw(Saw::Short(debtors.collect()));
            }
            NetworkEvent::PeerStats { .. } | NetworkEvent::Pressure(_) => {}
            NetworkEvent::Heartbeat { data, .. } => self.saw(Saw::Heartbeat(data)),
        }
    }

    fn handle_command(&mut self, _: Now, what: Do) {
        self.actions.push_back(match what {
            Do::Send(to, message) => Action::Send { to, message },
            Do::Request(to, id, message, timeout) => Action::Request { to, id: RequestId(id), message, timeout },
            Do::Dial(addr, expected) => Action::Link(Outlet::Dial { addr, expected, dial_key: None, question: None }),
            Do::Admit(link) => Action::Link(Outlet::Admit(link)),
            Do::Close(link, reason) => Action::Link(Outlet::Close { link, reason }),
            Do::Link(outlet) => Action::Link(outlet),
            Do::Watch => {
                self.watching = true;
                return;
            }
            Do::Store(id, job) => Action::Store(JobId(id), job),
            Do::Compute(id, job) => Action::Compute(JobId(id), job),
            Do::Heartbeat(data) => Action::Heartbeat(data),
            Do::Hoard => {
                self.hoarding = true;
                return;
            }
            Do::Release => {
                self.hoarding = false;
                self.hoard.clear();
                return;
            }
        });
    }

    fn handle_timeout(&mut self, _: Now) {}

    fn handle_done(&mut self, _: Now, id: JobId, done: Done<Self>) {
        self.saw(match done {
            Done::Stored(length) => Saw::Stored(length),
            Done::Computed(square) => Saw::Computed(id.0, square),
        });
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }
}

pub(crate) fn id(number: usize) -> NodeId {
    NodeId::from_bytes([number as u8 + 1; 32])
}

pub(crate) fn addr(number: usize) -> SocketAddr {
    ([10, 0, 0, number as u8 + 1], 4_000).into()
}

pub(crate) fn spec(number: usize) -> NodeSpec<Probe> {
    NodeSpec::new(id(number), addr(number), Probe::default(), Vec::new())
}

/// A path of exactly 10 ms, so that tests can count.
pub(crate) fn config(seed: u64) -> SimConfig {
    SimConfig { path: Path::of(Duration::from_millis(10)), ..SimConfig::new(seed) }
}

/// `count` nodes, not connected.
pub(crate) fn nodes(config: SimConfig, count: usize) -> Sim<Probe> {
    let mut sim = Sim::new(config);
    (0..count).for_each(|number| assert_eq!(sim.add(spec(number)), number));
    sim
}

/// Two nodes, connected, of which the test has seen that they are.
pub(crate) fn pair(config: SimConfig) -> Sim<Probe> {
    let mut sim = nodes(config, 2);
    sim.connect(0, 1);
    assert_eq!(saw(&mut sim, 0), [Saw::Up(id(1))]);
    assert_eq!(saw(&mut sim, 1), [Saw::Up(id(0))]);
    sim
}

pub(crate) fn message(command: Command, bytes: usize) -> Message {
    Message::new(command, vec![7; bytes])
}

/// What a node saw, without times.
pub(crate) fn saw(sim: &mut Sim<Probe>, node: usize) -> Vec<Saw> {
    sim.events(node).into_iter().map(|(_, saw)| saw).collect()
}

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a node sees when the last link to a peer ends.
pub(crate) const fn gone(link: LinkId, peer: NodeId, closed: Closed) -> [Saw; 2] {
    [Saw::LinkDown(link, closed), Saw::Down(peer, closed)]
}
