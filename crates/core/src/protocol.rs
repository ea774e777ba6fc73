//! The contract of every protocol of the stack.

use bytes::Bytes;
use core::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::connection::{DialKey, LinkInfo, LinkStats};
use crate::{
    Charge, CloseReason, Closed, Command, DropReason, Fault, Job, JobId, Message, NodeId, Now, Pressure, RequestError,
    Timestamp, Unmet,
};

/// One connection, for as long as it lasts. Numbers are never reused within a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// One request. For requests that a protocol makes it is the protocol's own choice, unique among its open ones; for
/// requests that it must answer it is the runner's name of that request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A protocol as a pure state machine over messages.
///
/// It does no I/O, reads no clock and rolls no dice of its own: time comes in as [`Now`], randomness as a
/// [`Seed`](crate::Seed) at construction. The tokio driver and the simulator run the very same value.
///
/// # The run loop, and the *drained* invariant
/// After every `handle_*` call the runner calls [`poll_action`](Self::poll_action) until it returns `None`. Only then is
/// it sure that everything the input caused is under way, so a runner makes no two `handle_*` calls in a row without
/// draining in between. [`Stack`](crate::Stack) keeps this invariant for all runners.
///
/// Then it asks [`next_timeout`](Self::next_timeout) and calls [`handle_timeout`](Self::handle_timeout) once that moment
/// has passed.
pub trait Protocol: Sized {
    /// What the layer above, or a user of the protocol, asks of it.
    type Command;
    /// What the protocol tells the layer above.
    type Event;
    /// Work on the storage lane; [`NoJob`](crate::NoJob) if there is none.
    type Storage: Job;
    /// Work on the compute lane; [`NoJob`](crate::NoJob) if there is none.
    type Compute: Job<Resource = ()>;

    /// Something happened on the network.
    fn handle_network(&mut self, now: Now, event: NetworkEvent);
    /// The layer above asks for something.
    fn handle_command(&mut self, now: Now, command: Self::Command);
    /// The moment that `next_timeout` named has passed.
    fn handle_timeout(&mut self, now: Now);
    /// A job is done.
    fn handle_done(&mut self, now: Now, id: JobId, done: Done<Self>);
    /// The next thing to do, in order; `None` when there is nothing more.
    fn poll_action(&mut self) -> Option<Action<Self>>;
    /// When to call `handle_timeout`, if at all.
    fn next_timeout(&self) -> Option<Timestamp>;
}

/// What the network tells a protocol.
#[derive(Debug)]
pub enum NetworkEvent {
    /// A connection stands and its peer proved its identity. Only the peer manager hears this, and answers with
    /// [`Outlet::Admit`], [`Outlet::AdmitGuest`] or [`Outlet::Close`]; nobody counts as a peer before.
    LinkUp {
        /// The connection.
        link: LinkId,
        /// Who, from where.
        info: LinkInfo,
    },
    /// A connection that stood ended, admitted or not. Only the peer manager hears this, before anyone hears `PeerDown`.
    LinkDown {
        /// The connection.
        link: LinkId,
        /// How it ended.
        closed: Closed,
    },
    /// An address could not be reached, or who answered was not who was expected. Everybody hears this.
    DialFailed {
        /// The address that was dialled.
        addr: SocketAddr,
        /// Who was expected there, if known.
        expected: Option<NodeId>,
        /// Why it failed.
        closed: Closed,
    },
    /// A [`Want::Now`] that the peer manager does not grant. A dial for it that failed is told as
    /// [`DialFailed`](Self::DialFailed). Everybody but the peer manager hears this.
    Unmet {
        /// Who was wanted.
        peer: NodeId,
        /// Why not.
        why: Unmet,
    },
    /// A stream that somebody opened was closed unread, for its address alone. Only the flight recorder hears this: nothing is
    /// left to decide.
    TurnedAway {
        /// From where it came.
        remote: SocketAddr,
        /// Why; nobody was told.
        reason: CloseReason,
    },
    /// A peer is connected and admitted.
    PeerUp {
        /// Who.
        peer: NodeId,
        /// From where, in which direction.
        info: LinkInfo,
    },
    /// A peer is gone. Its messages may still be in the inbox.
    PeerDown {
        /// Who.
        peer: NodeId,
        /// How it ended.
        closed: Closed,
    },
    /// A notification.
    Message {
        /// From whom.
        peer: NodeId,
        /// What.
        message: Message,
        /// Pays for what the message keeps in memory: keep it as long as the bytes.
        charge: Charge,
    },
    /// A request that wants an answer: [`Action::Respond`] with the same id.
    Request {
        /// From whom.
        peer: NodeId,
        /// The runner's name of the request.
        id: RequestId,
        /// What is asked.
        message: Message,
        /// Pays for what the message keeps in memory.
        charge: Charge,
    },
    /// A question that came with the first words of a handshake, and wants an answer like any request: [`Action::Respond`] with
    /// the same id. Who asks is unproved: anybody can repeat what it once heard somebody say. So nothing may come of it but the
    /// answer, which nobody else can read; the asker counts as no peer, and nobody is at fault for what is asked.
    Early {
        /// Who made this question, now or earlier.
        claims: NodeId,
        /// The other end of the stream.
        remote: SocketAddr,
        /// The runner's name of the request.
        id: RequestId,
        /// What is asked: a few hundred bytes at most, of a command that the connections of the node take so early.
        message: Message,
        /// Pays for the question while it waits.
        charge: Charge,
    },
    /// The end of a request that this protocol made: exactly one for each.
    Response {
        /// Of whom it was asked.
        peer: NodeId,
        /// The protocol's own name of the request.
        id: RequestId,
        /// The command of the *request*: it tells whose request this was.
        command: Command,
        /// The answer, or why there is none.
        result: Result<(Message, Charge), RequestError>,
    },
    /// A message to this peer was dropped before it was sent, or several of a kind in a row.
    Dropped {
        /// To whom it was addressed.
        peer: NodeId,
        /// What kind of message it was.
        command: Command,
        /// Why.
        reason: DropReason,
    },
    /// A peer to whom messages were dropped for want of room takes messages again. It comes a pause after the last of them, so
    /// that answering it with more of what did not fit is no loop.
    Writable {
        /// Who.
        peer: NodeId,
    },
    /// A round trip to the peer was measured.
    PeerStats {
        /// Who.
        peer: NodeId,
        /// What is known of the way to it, and of its clock.
        stats: LinkStats,
    },
    /// The opaque bytes of the peer's heartbeat, 64 at most.
    Heartbeat {
        /// Who.
        peer: NodeId,
        /// What its stack put there.
        data: Bytes,
    },
    /// Memory is short, or was. Only the peer manager hears this, and answers with [`Outlet::Shed`], [`Outlet::Stop`],
    /// [`Outlet::Resume`] or [`Outlet::Close`].
    Pressure(Box<Pressure>),
}

impl NetworkEvent {
    /// A copy for another member of a composed protocol; `None` for a message, request or response, which has one owner.
    pub fn share(&self) -> Option<Self> {
        Some(match self {
            Self::Message { .. } | Self::Request { .. } | Self::Early { .. } | Self::Response { .. } => return None,
            Self::LinkUp { link, info } => Self::LinkUp { link: *link, info: info.clone() },
            Self::LinkDown { link, closed } => Self::LinkDown { link: *link, closed: *closed },
            Self::DialFailed { addr, expected, closed } => {
                Self::DialFailed { addr: *addr, expected: *expected, closed: *closed }
            }
            Self::Unmet { peer, why } => Self::Unmet { peer: *peer, why: *why },
            Self::TurnedAway { remote, reason } => Self::TurnedAway { remote: *remote, reason: *reason },
            Self::PeerUp { peer, info } => Self::PeerUp { peer: *peer, info: info.clone() },
            Self::PeerDown { peer, closed } => Self::PeerDown { peer: *peer, closed: *closed },
            Self::Dropped { peer, command, reason } => {
                Self::Dropped { peer: *peer, command: *command, reason: *reason }
            }
            Self::Writable { peer } => Self::Writable { peer: *peer },
            Self::PeerStats { peer, stats } => Self::PeerStats { peer: *peer, stats: *stats },
            Self::Heartbeat { peer, data } => Self::Heartbeat { peer: *peer, data: data.clone() },
            Self::Pressure(pressure) => Self::Pressure(pressure.clone()),
        })
    }

    /// The command of the message that this is about; for a response, the command of its request. It tells whose message
    /// this is.
    pub fn command(&self) -> Option<Command> {
        match self {
            Self::Message { message, .. } | Self::Request { message, .. } | Self::Early { message, .. } => {
                Some(message.command)
            }
            Self::Response { command, .. } => Some(*command),
            _ => None,
        }
    }
}

/// Why a protocol wants to be connected to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// This node may be worth a connection some day: remember it.
    Candidate {
        /// Who it claims to be.
        peer: NodeId,
        /// Where it claims to be.
        addrs: Vec<SocketAddr>,
        /// The peer that told of it, if one did: what one party tells may fill only a part of the address book.
        source: Option<NodeId>,
    },
    /// This node must be asked something now, e.g. in a lookup: connect if at all possible.
    Now {
        /// Who it claims to be.
        peer: NodeId,
        /// Where it claims to be.
        addrs: Vec<SocketAddr>,
    },
    /// As [`Now`](Self::Now), and this is what will be asked as soon as the peer is up. If its process can be dialled by a key,
    /// the question goes with the first words to it, and the answer is there a round trip sooner. It is a hint and no more: the
    /// request itself is still to be made ([`Action::Request`]) when the peer is up, and finds its answer on the way, or there.
    /// One with other bytes is sent as any other is.
    Ask {
        /// Who it claims to be.
        peer: NodeId,
        /// Where it claims to be.
        addrs: Vec<SocketAddr>,
        /// What will be asked: it must change nothing at whoever answers, since somebody may repeat it.
        question: Message,
    },
    /// This peer delivered something useful that nobody had delivered before: rather keep it than another.
    Keep {
        /// Who.
        peer: NodeId,
    },
}

/// What a protocol wants done. One queue, in order.
pub enum Action<P: Protocol> {
    /// Send a notification, encoded once for all recipients.
    Send {
        /// To whom. Whoever is not connected is answered with [`NetworkEvent::Dropped`].
        to: Vec<NodeId>,
        /// What.
        message: Message,
    },
    /// Ask a peer; exactly one [`NetworkEvent::Response`] follows.
    Request {
        /// Whom.
        to: NodeId,
        /// The protocol's own name of the request.
        id: RequestId,
        /// What.
        message: Message,
        /// How long to wait for the answer.
        timeout: Duration,
    },
    /// Answer a request.
    Respond {
        /// Whose request.
        to: NodeId,
        /// Which request.
        id: RequestId,
        /// The answer.
        message: Message,
    },
    /// Tell the peer manager who would be good to be connected to.
    Want(Want),
    /// Tell the peer manager what a peer did wrong.
    Report {
        /// Who.
        peer: NodeId,
        /// What.
        fault: Fault,
    },
    /// Run a job on the storage lane.
    Store(JobId, P::Storage),
    /// Run a job on the compute lane.
    Compute(JobId, P::Compute),
    /// Tell the layer above.
    Emit(P::Event),
    /// Carry these bytes, 64 at most, in every heartbeat from now on.
    Heartbeat(Bytes),
    /// Open, admit or end a connection, or say what it may take. The peer manager's alone.
    Link(Outlet),
    /// A composed protocol moved something from one member to another; there is nothing for the runner to do. It counts
    /// as a step, which is what keeps members from talking among themselves for ever.
    Routed,
}

/// What only the peer manager may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlet {
    /// Dial an address. Ends in [`NetworkEvent::LinkUp`] or [`NetworkEvent::DialFailed`].
    Dial {
        /// Where.
        addr: SocketAddr,
        /// Who must answer there; anyone if `None`.
        expected: Option<NodeId>,
        /// The key that its process had when it was last met, if it was.
        dial_key: Option<DialKey>,
        /// What to ask with the first words, if they can carry it ([`Want::Ask`]).
        question: Option<Message>,
    },
    /// Let a connection count: its peer is told to all as [`NetworkEvent::PeerUp`], and has a floor in the budget.
    Admit(LinkId),
    /// The same for a moment: it has no floor.
    AdmitGuest(LinkId),
    /// Whoever was admitted as a guest stays and has a floor from now on.
    Seat(LinkId),
    /// For how many peers there are to be floors from now on. What is in use of a larger one is taken back when it is free.
    Seats(usize),
    /// End a connection, admitted or not.
    Close {
        /// Which.
        link: LinkId,
        /// Why; the other side is told.
        reason: CloseReason,
    },
    /// Drop messages that wait for a peer, those of the lowest class first, until so many bytes are free. Never one that has
    /// begun to go out, and those whose bytes others wait for, too, after all others. Each is told as
    /// [`NetworkEvent::Dropped`], a request as one that failed.
    Shed {
        /// The connection on which they wait.
        link: LinkId,
        /// How many bytes of what all share to free at least.
        bytes: usize,
    },
    /// Read nothing more from a connection for now.
    Stop(LinkId),
    /// Read again.
    Resume(LinkId),
    /// From now on, who may open a stream at all, whoever it turns out to be.
    Doors(Doors),
}

/// Which addresses may open a stream: whom these keep out is turned away unread, with [`CloseReason::Denied`]. A range is its
/// first address and how many bits of it count; an IPv4 address never lies in a range of IPv6, nor the other way round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    /// Nobody from these ranges.
    pub shut: Vec<(IpAddr, u8)>,
    /// If there is a list, nobody but from these ranges.
    pub open: Option<Vec<(IpAddr, u8)>>,
}

/// The result of a job.
pub enum Done<P: Protocol> {
    /// From the storage lane.
    Stored(<P::Storage as Job>::Output),
    /// From the compute lane.
    Computed(<P::Compute as Job>::Output),
}

impl<P: Protocol> Action<P> {
    /// Makes a member's action one of the composed protocol `Q`: jobs pass through the two functions, and an event, which
    /// the composition must route itself, comes back as `Err`.
    pub fn lift<Q: Protocol>(
        self,
        store: impl FnOnce(P::Storage) -> Q::Storage,
        compute: impl FnOnce(P::Compute) -> Q::Compute,
    ) -> Result<Action<Q>, P::Event> {
        Ok(match self {
            Self::Send { to, message } => Action::Send { to, message },
            Self::Request { to, id, message, timeout } => Action::Request { to, id, message, timeout },
            Self::Respond { to, id, message } => Action::Respond { to, id, message },
            Self::Want(want) => Action::Want(want),
            Self::Report { peer, fault } => Action::Report { peer, fault },
            Self::Store(id, job) => Action::Store(id, store(job)),
            Self::Compute(id, job) => Action::Compute(id, compute(job)),
            Self::Emit(event) => return Err(event),
            Self::Heartbeat(data) => Action::Heartbeat(data),
            Self::Link(outlet) => Action::Link(outlet),
            Self::Routed => Action::Routed,
        })
    }
}

impl<P: Protocol> fmt::Debug for Action<P>
where
    P::Event: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send { to, message } => f.debug_struct("Send").field("to", to).field("message", message).finish(),
            Self::Request { to, id, message, .. } => {
                f.debug_struct("Request").field("to", to).field("id", id).field("message", message).finish()
            }
            Self::Respond { to, id, message } => {
                f.debug_struct("Respond").field("to", to).field("id", id).field("message", message).finish()
            }
            Self::Want(want) => f.debug_tuple("Want").field(want).finish(),
            Self::Report { peer, fault } => f.debug_struct("Report").field("peer", peer).field("fault", fault).finish(),
            Self::Store(id, _) => f.debug_tuple("Store").field(id).finish(),
            Self::Compute(id, _) => f.debug_tuple("Compute").field(id).finish(),
            Self::Emit(event) => f.debug_tuple("Emit").field(event).finish(),
            Self::Heartbeat(data) => f.debug_tuple("Heartbeat").field(data).finish(),
            Self::Link(outlet) => f.debug_tuple("Link").field(outlet).finish(),
            Self::Routed => f.write_str("Routed"),
        }
    }
}
