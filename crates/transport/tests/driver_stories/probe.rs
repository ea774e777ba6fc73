//! A protocol that does what the test says and tells what it saw.

use std::{
    collections::VecDeque,
    sync::{Arc, Barrier, atomic::AtomicUsize, atomic::Ordering, mpsc},
    thread::{self, ThreadId},
    time::Duration,
};

use bytes::Bytes;
use peerage_core::*;
use peerage_wire::limits::MAX_CONTENT;

const fn command(index: u8, class: Class) -> Command {
    Command::new(Layer::Application, index, class)
}

pub(crate) const VOTE: Command = command(0, Class::Consensus);
pub(crate) const NOTE: Command = command(1, Class::Signal);
pub(crate) const ITEM: Command = command(2, Class::Gossip);
pub(crate) const BULK: Command = command(3, Class::Bulk);
/// A request that is answered with its own payload.
pub(crate) const ECHO: Command = command(4, Class::Signal);
/// The same for large payloads.
pub(crate) const BIG_ECHO: Command = command(5, Class::Bulk);
/// A request that is answered when the test says so.
pub(crate) const LATE: Command = command(6, Class::Signal);
/// A command that no table names.
pub(crate) const UNHEARD_OF: Command = command(7, Class::Signal);

pub(crate) const LIMITS: &[(Command, u32)] = &[
    (VOTE, 64 << 10),
    (NOTE, 64 << 10),
    (ITEM, MAX_CONTENT as u32),
    (BULK, MAX_CONTENT as u32),
    (ECHO, 64 << 10),
    (BIG_ECHO, MAX_CONTENT as u32),
    (LATE, 64 << 10),
];

/// What the test asks of a node.
pub(crate) enum Do {
    Send(Vec<NodeId>, Message),
    Request(NodeId, u64, Message, Duration),
    /// Answer all requests that wait for it.
    Answer,
    Heartbeat(Bytes),
    Store(u64, Append),
    Compute(u64, Meet),
    Want(Want),
    Report(NodeId, Fault),
    /// Let nothing happen on the stack task from the moment that the first is dropped until the sender of the second is.
    Block(mpsc::Sender<()>, mpsc::Receiver<()>),
    /// Send a message again whenever there is said to be room.
    Insist(NodeId, Message),
    /// Keep the charges of messages from now on, as a protocol does that keeps the messages.
    Hoard,
    /// Let them go.
    Release,
}

/// What a node tells the test.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Saw {
    Up(NodeId, LinkInfo),
    Down(NodeId, Closed),
    DialFailed(Option<NodeId>, Closed),
    Unmet(NodeId, Unmet),
    Message(NodeId, Message),
    /// A question from somebody who says that it is this node.
    Early(NodeId, Message),
    Response(u64, Result<Message, RequestError>),
    Dropped(NodeId, Command, DropReason),
    Writable(NodeId),
    Heartbeat(NodeId, Bytes),
    Rtt(NodeId),
    Stored(u64, usize),
    Computed(u64, ThreadId),
    /// From the peer manager: so many peers to come back to.
    Remember(usize),
    /// Anything else from the peer manager.
    Manager,
}

/// What the storage jobs work on: what was appended, and by which thread.
pub(crate) type Disk = Vec<(u64, ThreadId)>;

/// Takes its time, appends its number to the disk and counts itself; its result is the length of the disk.
pub(crate) struct Append {
    pub(crate) number: u64,
    pub(crate) takes: Duration,
    pub(crate) done: Arc<AtomicUsize>,
}

impl Job for Append {
    type Output = usize;
    type Resource = Disk;

    fn cost(&self) -> Cost {
        Cost { time: self.takes, bytes: 1_000 }
    }

    fn run(self, disk: &mut Disk) -> usize {
        thread::sleep(self.takes);
        disk.push((self.number, thread::current().id()));
        self.done.fetch_add(1, Ordering::Relaxed);
        let ordered = disk.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 == pair[1].1);
        if ordered { disk.len() } else { 0 }
    }
}

/// Returns once as many jobs as the barrier wants run at the same time; its result is its thread.
pub(crate) struct Meet(pub(crate) Arc<Barrier>);

impl Job for Meet {
    type Output = ThreadId;
    type Resource = ();

    fn cost(&self) -> Cost {
        Cost { time: Duration::ZERO, bytes: 1_000 }
    }

    fn run(self, (): &mut ()) -> ThreadId {
        self.0.wait();
        thread::current().id()
    }
}

#[derive(Default)]
pub(crate) struct Probe {
    actions: VecDeque<Action<Self>>,
    unanswered: Vec<(NodeId, RequestId, Message)>,
    insisting: Option<Message>,
    hoarding: bool,
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
    type Compute = Meet;

    fn handle_network(&mut self, _: Now, event: NetworkEvent) {
        match event {
            NetworkEvent::LinkUp { .. }
            | NetworkEvent::LinkDown { .. }
            | NetworkEvent::Pressure(_)
            | NetworkEvent::TurnedAway { .. } => {
                panic!("streams, links and memory are the peer manager's alone")
            }
            NetworkEvent::DialFailed { expected, closed, .. } => self.saw(Saw::DialFailed(expected, closed)),
            NetworkEvent::Unmet { peer, why } => self.saw(Saw::Unmet(peer, why)),
            NetworkEvent::PeerUp { peer, info } => self.saw(Saw::Up(peer, info)),
            NetworkEvent::PeerDown { peer, closed } => self.saw(Saw::Down(peer, closed)),
            NetworkEvent::Message { peer, message, charge } => {
                self.keep(charge);
                self.saw(Saw::Message(peer, message));
            }
            NetworkEvent::Request { peer, id, message, .. } => match message.command {
                LATE => self.unanswered.push((peer, id, message)),
                _ => self.actions.push_back(Action::Respond { to: peer, id, message }),
            },
            NetworkEvent::Early { claims, id, message, .. } => {
                self.saw(Saw::Early(claims, message.clone()));
                self.actions.push_back(Action::Respond { to: claims, id, message });
            }
            NetworkEvent::Response { id, result, .. } => {
                self.saw(Saw::Response(id.0, result.map(|(message, _)| message)));
            }
            NetworkEvent::Dropped { peer, command, reason } => self.saw(Saw::Dropped(peer, command, reason)),
            NetworkEvent::Writable { peer } => {
                let again = self.insisting.clone().map(|message| Action::Send { to: vec![peer], message });
                self.actions.extend(again);
                self.saw(Saw::Writable(peer));
            }
            NetworkEvent::PeerStats { peer, .. } => self.saw(Saw::Rtt(peer)),
            NetworkEvent::Heartbeat { peer, data } => self.saw(Saw::Heartbeat(peer, data)),
        }
    }

    fn handle_command(&mut self, _: Now, what: Do) {
        let action = match what {
            Do::Send(to, message) => Action::Send { to, message },
            Do::Request(to, id, message, timeout) => Action::Request { to, id: RequestId(id), message, timeout },
            Do::Heartbeat(data) => Action::Heartbeat(data),
            Do::Store(id, job) => Action::Store(JobId(id), job),
            Do::Compute(id, job) => Action::Compute(JobId(id), job),
            Do::Want(want) => Action::Want(want),
            Do::Report(peer, fault) => Action::Report { peer, fault },
            Do::Answer => {
                let answers = self.unanswered.drain(..);
                self.actions.extend(answers.map(|(to, id, message)| Action::Respond { to, id, message }));
                return;
            }
            Do::Insist(peer, message) => {
                self.insisting = Some(message.clone());
                Action::Send { to: vec![peer], message }
            }
            Do::Block(begun, until) => {
                drop(begun);
                assert!(until.recv().is_err(), "nobody sends anything");
                return;
            }
            Do::Hoard => {
                self.hoarding = true;
                return;
            }
            Do::Release => {
                self.hoarding = false;
                self.hoard.clear();
                return;
            }
        };
        self.actions.push_back(action);
    }

    fn handle_timeout(&mut self, _: Now) {}

    fn handle_done(&mut self, _: Now, JobId(id): JobId, done: Done<Self>) {
        self.saw(match done {
            Done::Stored(length) => Saw::Stored(id, length),
            Done::Computed(thread) => Saw::Computed(id, thread),
        });
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }
}
