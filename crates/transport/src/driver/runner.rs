//! The stack task: feeds the stack with what happens and does what it wants done.

use bytes::Bytes;
use core::{net::SocketAddr, time::Duration};
use peerage_core::{
    Action, Budget, Charge, Class, CloseReason, Closed, Command, Connection, ConnectionCommand, ConnectionEvent,
    DialKey, Done, DropReason, Job, JobId, LinkId, LinkInfo, Message, NetworkEvent, NodeId, Outbound, Outlet, Output,
    Pool, Protocol, RequestError, RequestId, Stack, Timers,
};
use peerage_wire::limits::MESSAGE_OVERHEAD;
use std::{collections::BTreeMap, io, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use crate::proto::{
    admission::{Admission, Verdict},
    connection::credit::cost,
    inflow::Inflow,
};

use super::{
    BoxedStream, Clock, DriverConfig, Fabric, Handle, SecureChannel, Target,
    lanes::Lanes,
    link::{EndGuard, LinkEvent, LinkTask, count_dropped, refused},
    registry::{LinkHandle, Registry},
};

/// Looks at the protocol on the stack task.
type Look<P> = Box<dyn FnOnce(&P) + Send>;

/// Both ends of a channel of which tasks get senders and the stack task keeps the receiver.
type Channel<T> = (mpsc::UnboundedSender<T>, mpsc::UnboundedReceiver<T>);

/// What handles ask of the stack task.
pub(super) enum Call<P: Protocol> {
    Command(P::Command),
    Inspect(Look<P>),
    Shutdown(oneshot::Sender<()>),
}

/// What the listening and dialling tasks tell the stack task.
enum Opened {
    Accepted(BoxedStream, SocketAddr),
    Dialled { addr: SocketAddr, target: Target, stream: io::Result<BoxedStream> },
}

/// A connection as the stack task knows it.
struct Link {
    remote: SocketAddr,
    /// For a dialled connection, who was expected.
    dialled: Option<Option<NodeId>>,
    info: Option<LinkInfo>,
    admitted: bool,
    /// What arrived before the peer manager admitted it; bounded by the credit of the connection.
    early: Vec<ConnectionEvent>,
    inflow: Inflow,
}

/// A request of the stack that waits for its answer.
struct Asked {
    link: LinkId,
    peer: NodeId,
    id: RequestId,
    command: Command,
}

/// Steps of the stack before other tasks have their turn (our guess: about a millisecond of work).
const STEPS: usize = 256;
/// Arrivals sorted into the inbox at once (our guess: a few milliseconds, so that handles are not starved by a flood).
const ARRIVALS: usize = 8192;
/// Handle calls that wait; then callers wait (our guess).
const CALLS: usize = 1024;
/// Streams that were opened and wait to be judged; then the system keeps those that follow (our guess: the usual backlog).
const OPENED: usize = 128;
/// A TCP connection that does not stand by then failed (our guess; discovery allows a candidate 5 s, handshake included).
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a security layer below the records may take (parameters, 1.1: as the handshake above it).
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stopping node waits for its last words to be written (our guess: longer than a link's own patience).
const LAST_WORDS: Duration = Duration::from_millis(1500);
/// Pause after the system refused to hand out another connection, e.g. for want of file descriptors (our guess).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Runner<P: Protocol, F> {
    config: DriverConfig,
    clock: Clock,
    fabric: Arc<dyn Fabric>,
    security: Arc<dyn SecureChannel>,
    registry: Arc<Registry>,
    stack: Stack<P>,
    admission: Admission,
    lanes: Lanes<P>,
    on_event: F,
    heartbeat: Bytes,
    links: BTreeMap<LinkId, Link>,
    /// When held credit of a connection may be returned.
    releases: Timers<LinkId>,
    live: BTreeMap<NodeId, LinkId>,
    asked: BTreeMap<u64, Asked>,
    to_answer: BTreeMap<RequestId, (LinkId, u64)>,
    next_number: u64,
    calls: mpsc::Receiver<Call<P>>,
    done: mpsc::UnboundedReceiver<(JobId, Done<P>)>,
    died: mpsc::UnboundedReceiver<&'static str>,
    link_events: Channel<(LinkId, LinkEvent)>,
    opened: (mpsc::Sender<Opened>, mpsc::Receiver<Opened>),
}

impl<P, F> Runner<P, F>
where
    P: Protocol + Send + 'static,
    P::Command: Send + 'static,
    P::Event: Send + 'static,
    F: FnMut(P::Event) + Send + 'static,
{
    pub(super) fn new(
        config: DriverConfig,
        fabric: Arc<dyn Fabric>,
        security: Arc<dyn SecureChannel>,
        registry: Arc<Registry>,
        stack: Stack<P>,
        store: <P::Storage as Job>::Resource,
        on_event: F,
    ) -> io::Result<(Self, Handle<P>)> {
        let (call_sender, calls) = mpsc::channel(CALLS);
        let (done_sender, done) = mpsc::unbounded_channel();
        let (died_sender, died) = mpsc::unbounded_channel();
        let lanes = Lanes::start(config.budget.clone(), config.compute_threads, store, done_sender, died_sender)?;
        let handle = Handle {
            calls: call_sender,
            registry: Arc::clone(&registry),
            budget: config.budget.clone(),
            local_addr: fabric.local_addr(),
        };
        let runner = Self {
            clock: config.clock,
            fabric,
            security,
            registry,
            stack,
            admission: Admission::new(config.admission),
            lanes,
            on_event,
            heartbeat: Bytes::new(),
            links: BTreeMap::new(),
            releases: Timers::new(),
            live: BTreeMap::new(),
            asked: BTreeMap::new(),
            to_answer: BTreeMap::new(),
            next_number: 0,
            config,
            calls,
            done,
            died,
            link_events: mpsc::unbounded_channel(),
            opened: mpsc::channel(OPENED),
        };
        Ok((runner, handle))
    }

    pub(super) async fn run(mut self) {
        let listening = self.listen();
        let stopped = loop {
            self.pump();
            self.release_credit();
            let wake = [self.stack.next_timeout(), self.releases.next()].into_iter().flatten().min();
            tokio::select! {
                call = self.calls.recv() => match call {
                    Some(Call::Command(command)) => self.stack.command(command),
                    Some(Call::Inspect(look)) => look(self.stack.protocol()),
                    Some(Call::Shutdown(done)) => break Some(done),
                    None => break None, // every handle is gone: nobody could ever stop us later
                },
                Some((link, event)) = self.link_events.1.recv() => {
                    self.link_event(link, event);
                    // All that arrived, so that the most urgent of it is next; credit bounds how much that is.
                    for _ in 0..ARRIVALS {
                        let Ok((link, event)) = self.link_events.1.try_recv() else { break };
                        self.link_event(link, event);
                    }
                }
                Some((id, done)) = self.done.recv() => self.stack.done(id, done),
                Some(lane) = self.died.recv() => {
                    tracing::error!(lane, "a job panicked; the stack stops, for nothing that it waits for will come");
                    break None;
                }
                Some(opened) = self.opened.1.recv() => self.opened(opened),
                () = self.clock.sleep_until(wake) => {}
            }
        };
        listening.abort();
        self.stop().await;
        if let Some(stopped) = stopped {
            // Whoever asked may have stopped waiting.
            let _unheard = stopped.send(());
        }
    }

    /// Says goodbye to everybody, then lets the lanes finish what is queued.
    async fn stop(mut self) {
        self.registry.command_all(|| ConnectionCommand::Close(CloseReason::Shutdown));
        let all_gone = async {
            while self.registry.len() > 0 {
                match self.link_events.1.recv().await {
                    Some((link, LinkEvent::Ended)) => self.registry.remove(link),
                    Some(_) => {}
                    None => break,
                }
            }
        };
        if timeout(LAST_WORDS, all_gone).await.is_err() {
            tracing::debug!(links = self.registry.len(), "some peers did not take our goodbye");
        }
        let lanes = self.lanes;
        if tokio::task::spawn_blocking(move || lanes.finish()).await.is_err() {
            tracing::error!("the lanes could not be finished");
        }
    }

    fn listen(&self) -> JoinHandle<()> {
        let (fabric, opened) = (Arc::clone(&self.fabric), self.opened.0.clone());
        tokio::spawn(async move {
            loop {
                match fabric.accept().await {
                    Ok((stream, remote)) => {
                        if opened.send(Opened::Accepted(stream, remote)).await.is_err() {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        })
    }

    /// Lets the stack work, and does what it wants.
    fn pump(&mut self) {
        let mut outputs = Vec::new();
        self.stack.run(self.clock.now(), STEPS, |output| outputs.push(output));
        for output in outputs {
            match output {
                Output::Action(action) => self.perform(action),
                Output::Consumed { link, class, bytes } => self.consumed(link, class, bytes),
            }
        }
    }

    /// Returns credit for what was consumed: at once, or later if the peer sends faster than it may.
    fn consumed(&mut self, link: LinkId, class: Class, bytes: usize) {
        let now = self.clock.now().mono;
        let Some(entry) = self.links.get_mut(&link) else { return };
        let bytes = entry.inflow.consumed(now, class, bytes);
        if let Some(at) = entry.inflow.next_release() {
            self.releases.set(link, at);
        }
        if bytes > 0 {
            self.registry.command(link, ConnectionCommand::Consumed { class, bytes });
        }
    }

    fn release_credit(&mut self) {
        let now = self.clock.now().mono;
        while let Some(link) = self.releases.pop_due(now) {
            let Some(entry) = self.links.get_mut(&link) else { continue };
            for (class, bytes) in entry.inflow.release(now).iter().filter(|(_, bytes)| **bytes > 0) {
                self.registry.command(link, ConnectionCommand::Consumed { class, bytes: *bytes });
            }
            if let Some(at) = entry.inflow.next_release() {
                self.releases.set(link, at);
            }
        }
    }

    fn perform(&mut self, action: Action<P>) {
        match action {
            Action::Send { to, message } => self.send(to, &message),
            Action::Request { to, id, message, timeout } => self.request(to, id, message, timeout),
            Action::Respond { to, id, message } => self.respond(to, id, message),
            Action::Store(id, job) => self.lanes.store(id, job),
            Action::Compute(id, job) => self.lanes.compute(id, job),
            Action::Emit(event) => (self.on_event)(event),
            Action::Heartbeat(data) => {
                self.heartbeat = data;
                let data = &self.heartbeat;
                self.registry.command_all(|| ConnectionCommand::Heartbeat(data.clone()));
            }
            Action::Link(Outlet::Dial { addr, expected, dial_key }) => self.dial(addr, expected, dial_key),
            Action::Link(Outlet::Admit(link)) => self.admit(link),
            Action::Link(Outlet::Close { link, reason }) => self.close(link, reason),
            // A stack without a peer manager has nobody to tell.
            Action::Want(_) | Action::Report { .. } | Action::Routed => {}
        }
    }

    fn send(&mut self, to: Vec<NodeId>, message: &Message) {
        // The bytes are shared, the places in the queues are not.
        let bytes = message.len() + to.len() * MESSAGE_OVERHEAD;
        let resident = self.config.budget.charge(Pool::Outbound, bytes).map(Arc::new);
        for peer in to {
            let outcome = match &resident {
                Ok(resident) => self.outbound(peer, message, Arc::clone(resident)).and_then(|(link, outbound)| {
                    let sent = self.registry.command(link, ConnectionCommand::Notify(outbound));
                    if sent { Ok(()) } else { Err(DropReason::ConnectionLost) }
                }),
                Err(_) => Err(DropReason::OverBudget),
            };
            if let Err(reason) = outcome {
                self.shed(peer, message.command, reason);
            }
        }
    }

    /// Charges a message to its recipient's account.
    fn outbound(
        &self,
        peer: NodeId,
        message: &Message,
        resident: Arc<Charge>,
    ) -> Result<(LinkId, Outbound), DropReason> {
        self.security.allows(message)?;
        let link = *self.live.get(&peer).ok_or(DropReason::NotConnected)?;
        let account = self.registry.account(link).ok_or(DropReason::ConnectionLost)?;
        let owed = account.owe(cost(message.len())).map_err(|_| DropReason::PeerOverLimit)?;
        Ok((link, Outbound { message: message.clone(), resident, owed }))
    }

    fn shed(&mut self, peer: NodeId, command: Command, reason: DropReason) {
        count_dropped(reason, 1);
        // What did not fit now may fit later; what is too long or has lost its connection never will.
        let passing = matches!(reason, DropReason::PeerOverLimit | DropReason::OverBudget);
        if let Some(link) = self.live.get(&peer).filter(|_| passing) {
            self.registry.starve(*link);
            // Its task may sleep: any command wakes it, and this one changes nothing.
            self.registry.command(*link, ConnectionCommand::Heartbeat(self.heartbeat.clone()));
        }
        self.stack.push(NetworkEvent::Shed { peer, command, reason });
    }

    fn request(&mut self, to: NodeId, id: RequestId, message: Message, timeout: Duration) {
        let command = message.command;
        let wire_id = self.number();
        let charged =
            self.config.budget.charge(Pool::Outbound, cost(message.len())).map_err(|_| DropReason::OverBudget);
        let sent =
            charged.and_then(|charge| self.outbound(to, &message, Arc::new(charge))).and_then(|(link, outbound)| {
                self.asked.insert(wire_id, Asked { link, peer: to, id, command });
                let sent = self.registry.command(link, ConnectionCommand::Request { id: wire_id, outbound, timeout });
                if sent { Ok(()) } else { Err(DropReason::ConnectionLost) }
            });
        if let Err(reason) = sent {
            count_dropped(reason, 1);
            self.asked.remove(&wire_id);
            let result = Err(RequestError::Dropped(reason));
            self.stack.push(NetworkEvent::Response { peer: to, id, command, result });
        }
    }

    fn respond(&mut self, to: NodeId, id: RequestId, message: Message) {
        let Some((link, wire_id)) = self.to_answer.remove(&id) else {
            return self.shed(to, message.command, DropReason::Unrequested);
        };
        let charged =
            self.config.budget.charge(Pool::Outbound, cost(message.len())).map_err(|_| DropReason::OverBudget);
        let outbound = charged.and_then(|charge| self.outbound(to, &message, Arc::new(charge)));
        match outbound {
            // The answer goes where the question came from, or nowhere.
            Ok((live, outbound)) if live == link => {
                self.registry.command(link, ConnectionCommand::Respond { id: wire_id, outbound });
            }
            Ok(_) => self.shed(to, message.command, DropReason::ConnectionLost),
            Err(reason) => self.shed(to, message.command, reason),
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn dial(&mut self, addr: SocketAddr, expected: Option<NodeId>, dial_key: Option<DialKey>) {
        let (fabric, opened) = (Arc::clone(&self.fabric), self.opened.0.clone());
        tokio::spawn(async move {
            let stream = timeout(DIAL_TIMEOUT, fabric.dial(addr)).await;
            let stream = stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            // An error means that the stack is gone and wants nobody any more.
            let _unheard = opened.send(Opened::Dialled { addr, target: Target { expected, dial_key }, stream }).await;
        });
    }

    fn opened(&mut self, opened: Opened) {
        match opened {
            Opened::Accepted(stream, remote) => self.accepted(stream, remote),
            Opened::Dialled { addr, target, stream: Ok(stream) } => {
                let link = LinkId(self.number());
                self.start_link(link, stream, addr, Some(target));
            }
            Opened::Dialled { addr, target: Target { expected, .. }, stream: Err(error) } => {
                let closed = refused(&error);
                count_closed(closed);
                self.stack.push(NetworkEvent::DialFailed { addr, expected, closed });
            }
        }
    }

    fn accepted(&mut self, stream: BoxedStream, remote: SocketAddr) {
        let link = LinkId(self.number());
        match self.admission.accept(self.clock.now().mono, link, remote.ip(), self.registry.len()) {
            Verdict::Admit => {}
            Verdict::Evict(oldest) => self.close(oldest, CloseReason::HalfOpenLimit),
            Verdict::Refuse(reason) => {
                count_closed(Closed::by_us(reason));
                return tracing::debug!(%remote, %reason, "stream refused unread");
            }
        }
        self.start_link(link, stream, remote, None);
    }

    fn start_link(&mut self, link: LinkId, stream: BoxedStream, remote: SocketAddr, target: Option<Target>) {
        let (sender, commands) = mpsc::unbounded_channel();
        let account = Budget::account(self.config.owed_per_peer);
        let (outbound, dialled) = (target.is_some(), target.as_ref().map(|target| target.expected));
        let handle = LinkHandle { remote, outbound, peer: None, account, starved: Arc::default(), commands: sender };
        if !self.heartbeat.is_empty() {
            // The receiver is in our hands: this cannot fail.
            let _received = handle.commands.send(ConnectionCommand::Heartbeat(self.heartbeat.clone()));
        }
        let inflow = Inflow::new(self.config.inflow, self.clock.now().mono);
        self.links.insert(link, Link { remote, dialled, info: None, admitted: false, early: Vec::new(), inflow });
        self.registry.insert(link, handle.clone());
        let (security, clock, events) = (Arc::clone(&self.security), self.clock, self.link_events.0.clone());
        tokio::spawn(async move {
            let _guard = EndGuard { link, events: events.clone() };
            let opening = security.open(stream, remote, target, clock.now());
            let secured = timeout(OPEN_TIMEOUT, opening).await;
            let secured = secured.unwrap_or(Err(Closed::by_us(CloseReason::HandshakeTimeout)));
            let (stream, connection): (_, Box<dyn Connection + Send>) = match secured {
                Ok(secured) => secured,
                Err(closed) => {
                    let event = LinkEvent::Connection(ConnectionEvent::Closed(closed));
                    // The guard's word follows; if this one cannot be said, neither can that.
                    let _unheard = events.send((link, event));
                    return;
                }
            };
            let LinkHandle { account, starved, .. } = handle;
            LinkTask { link, remote, connection, stream, clock, account, starved, commands, events }.run().await;
        });
    }

    fn link_event(&mut self, link: LinkId, event: LinkEvent) {
        match event {
            LinkEvent::Ended => {
                self.registry.remove(link);
                self.link_closed(link, Closed::by_network(CloseReason::StreamError));
            }
            LinkEvent::Writable => {
                if let Some(peer) = self.admitted_peer(link) {
                    self.stack.push(NetworkEvent::Writable { peer });
                }
            }
            LinkEvent::Skipped(class, bytes) => self.consumed(link, class, bytes),
            LinkEvent::Connection(event) => self.connection_event(link, event),
        }
    }

    fn admitted_peer(&self, link: LinkId) -> Option<NodeId> {
        self.links.get(&link).filter(|link| link.admitted)?.info.as_ref().map(|info| info.peer)
    }

    fn connection_event(&mut self, link: LinkId, event: ConnectionEvent) {
        let Some(entry) = self.links.get_mut(&link) else { return }; // we closed it; what still arrives is void
        match event {
            ConnectionEvent::Established(info) => {
                entry.info = Some(info.clone());
                self.registry.established(link, info.peer);
                self.admission.established(link);
                self.stack.push(NetworkEvent::LinkUp { link, info });
            }
            ConnectionEvent::Closed(closed) => self.link_closed(link, closed),
            event if entry.admitted => self.admitted_event(link, event),
            event => entry.early.push(event),
        }
    }

    fn admitted_event(&mut self, link: LinkId, event: ConnectionEvent) {
        let Some(peer) = self.admitted_peer(link) else { return };
        match event {
            ConnectionEvent::Message { message, charge } => {
                let (class, bytes, charge) = arrived(&message, charge);
                self.stack.push_from(link, class, bytes, NetworkEvent::Message { peer, message, charge });
            }
            ConnectionEvent::Request { id, message, charge } => {
                let name = RequestId(self.number());
                self.to_answer.insert(name, (link, id));
                let (class, bytes, charge) = arrived(&message, charge);
                self.stack.push_from(link, class, bytes, NetworkEvent::Request { peer, id: name, message, charge });
            }
            ConnectionEvent::Response { id, result } => match (self.asked.remove(&id), result) {
                (Some(Asked { peer, id, command, .. }), Ok((message, charge))) => {
                    let (class, bytes, charge) = arrived(&message, charge);
                    let result = Ok((message, charge));
                    self.stack.push_from(link, class, bytes, NetworkEvent::Response { peer, id, command, result });
                }
                (Some(Asked { peer, id, command, .. }), Err(error)) => {
                    self.stack.push(NetworkEvent::Response { peer, id, command, result: Err(error) });
                }
                // Nobody waits any more, but the sender's credit must come back all the same.
                (None, Ok((message, charge))) => {
                    let (class, bytes, _charge) = arrived(&message, charge);
                    self.consumed(link, class, bytes);
                }
                (None, Err(_)) => {}
            },
            ConnectionEvent::Rtt(rtt) => self.stack.push(NetworkEvent::PeerStats { peer, rtt }),
            ConnectionEvent::Heartbeat(data) => self.stack.push(NetworkEvent::Heartbeat { peer, data }),
            // The link task counts what was skipped; the others were handled before.
            ConnectionEvent::Skipped { .. } | ConnectionEvent::Established(_) | ConnectionEvent::Closed(_) => {}
        }
    }

    fn admit(&mut self, link: LinkId) {
        let Some(entry) = self.links.get_mut(&link) else { return }; // it ended just before
        let Some(info) = entry.info.clone() else { return };
        entry.admitted = true;
        let early = std::mem::take(&mut entry.early);
        let peer = info.peer;
        self.live.insert(peer, link);
        tracing::debug!(%peer, remote = %info.remote, outbound = info.outbound, "peer up");
        self.stack.push(NetworkEvent::PeerUp { peer, info });
        for event in early {
            self.admitted_event(link, event);
        }
    }

    fn close(&mut self, link: LinkId, reason: CloseReason) {
        self.registry.command(link, ConnectionCommand::Close(reason));
        self.link_closed(link, Closed::by_us(reason));
    }

    /// The end of a connection for the stack; its task may still be writing its last words.
    fn link_closed(&mut self, link: LinkId, closed: Closed) {
        let Some(entry) = self.links.remove(&link) else { return };
        self.admission.ended(link);
        self.releases.cancel(&link);
        count_closed(closed);
        self.to_answer.retain(|_, (asker, _)| *asker != link);
        let lost: Vec<_> = self.asked.iter().filter(|(_, asked)| asked.link == link).map(|(id, _)| *id).collect();
        for wire_id in lost {
            if let Some(Asked { peer, id, command, .. }) = self.asked.remove(&wire_id) {
                let result = Err(RequestError::Closed(closed));
                self.stack.push(NetworkEvent::Response { peer, id, command, result });
            }
        }
        match (entry.info, entry.dialled) {
            (Some(info), _) => {
                let peer = info.peer;
                tracing::debug!(%peer, remote = %info.remote, %closed, admitted = entry.admitted, "connection closed");
                self.stack.push(NetworkEvent::LinkDown { link, closed });
                if entry.admitted && self.live.get(&peer) == Some(&link) {
                    self.live.remove(&peer);
                    self.stack.push(NetworkEvent::PeerDown { peer, closed });
                }
            }
            (None, Some(expected)) => {
                tracing::debug!(addr = %entry.remote, %closed, "dial failed");
                self.stack.push(NetworkEvent::DialFailed { addr: entry.remote, expected, closed });
            }
            (None, None) => tracing::debug!(remote = %entry.remote, %closed, "handshake failed"),
        }
    }
}

/// What a message that arrived counts for: its class, the credit it cost its sender, and its charge in the next queue.
fn arrived(message: &Message, charge: Charge) -> (Class, usize, Charge) {
    (message.command.class(), charge.bytes(), charge.transfer(Pool::Inbox))
}

fn count_closed(closed: Closed) {
    let (by, reason) = (closed.by.label(), closed.reason.label());
    metrics::counter!("peerage_connections_closed_total", "by" => by, "reason" => reason).increment(1);
}
