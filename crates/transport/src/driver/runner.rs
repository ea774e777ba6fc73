//! The stack task: feeds the stack with what happens and does what it wants done.

mod links;
mod outgoing;
mod pressure;

use bytes::Bytes;
use core::{future::poll_fn, net::SocketAddr, sync::atomic::AtomicBool, task::Poll, time::Duration};
use peerage_core::{
    Account, Action, CloseReason, Closed, Command, ConnectionCommand, ConnectionEvent, Done, Job, JobId, LinkId,
    LinkInfo, Lookout, NodeId, Now, Outlet, Output, PerClass, Progress, Protocol, RequestId, Stack, Timers, Timestamp,
};
use std::{collections::BTreeMap, io, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, yield_now},
    time::timeout,
};

use crate::proto::{admission::Admission, inflow::Inflow};

use super::{
    BoxedStream, Clock, DriverConfig, Fabric, Handle, SecureChannel, Target,
    bandwidth::Gates,
    clock::Alarm,
    lanes::Lanes,
    link::{Desk, LinkEvent},
    mailbox::Post,
    registry::Registry,
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
    /// What waits for it.
    account: Account,
    /// Set when a message to it was shed, so that its task tells when there is room again.
    starved: Arc<AtomicBool>,
    post: Arc<Post>,
    /// The work of its task.
    desk: Arc<Desk>,
    /// What its task will be told with the next flush, and the bytes of messages in it.
    outgoing: Vec<ConnectionCommand>,
    outgoing_bytes: usize,
    /// What the stack consumed since the last flush.
    consumed: PerClass<usize>,
    /// What may be returned as credit, once it is worth a message.
    due: PerClass<usize>,
    /// Whether the budget refuses what it sends.
    waits: bool,
    /// Whether nothing is read from it for now.
    stopped: bool,
    /// Whether its peer is to have a floor.
    seated: bool,
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
/// Steps of the stack before it looks again whether something more urgent arrived, and hands over what it sends (our guess:
/// about as many small messages as fill a record).
const SLICE: usize = 64;
/// What a slice sends to so many connections at most the stack task writes to their sockets itself (our guess: a write takes
/// some 5 us, as long as to wake another thread for it).
const WRITTEN_LINKS: usize = 2;
/// And so many bytes to each at most; more is for the link task to seal (our guess: it takes 2 us).
const WRITTEN_BYTES: usize = 4 << 10;
/// Arrivals sorted into the inbox at once (our guess: a few milliseconds, so that handles are not starved by a flood).
const ARRIVALS: usize = 8192;
/// Handle calls that wait; then callers wait (our guess).
const CALLS: usize = 1024;
/// Streams that were opened and wait to be judged; then the system keeps those that follow (our guess: the usual backlog).
const OPENED: usize = 128;
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
    gates: Arc<Gates>,
    stack: Stack<P>,
    admission: Admission,
    lanes: Lanes<P>,
    on_event: F,
    heartbeat: Bytes,
    /// Boxed, since a tree is half empty.
    links: BTreeMap<LinkId, Box<Link>>,
    /// When held credit of a connection may be returned.
    releases: Timers<LinkId>,
    live: BTreeMap<NodeId, LinkId>,
    lookout: Lookout,
    asked: BTreeMap<u64, Asked>,
    to_answer: BTreeMap<RequestId, (LinkId, u64)>,
    next_number: u64,
    calls: mpsc::Receiver<Call<P>>,
    done: mpsc::UnboundedReceiver<(JobId, Done<P>)>,
    died: mpsc::UnboundedReceiver<&'static str>,
    link_events: Channel<(LinkId, LinkEvent)>,
    opened: (mpsc::Sender<Opened>, mpsc::Receiver<Opened>),
    /// When the stack was last told of a stream that was refused.
    turned_away: Option<Timestamp>,
    /// When the present slice began.
    now: Now,
    /// What the stack gave in the present slice; empty between slices.
    outputs: Vec<Output<P>>,
    /// Whether those who call are several: calls came together, or several requests waited for their answers at once.
    crowded: bool,
    /// Connections with something in `outgoing`, and with something in `consumed`.
    touched: Vec<LinkId>,
    owing: Vec<LinkId>,
}

/// The stack ends; whoever asked for it, if somebody did.
type Ended = Option<oneshot::Sender<()>>;

/// Lets all other tasks have their turn.
async fn pause() {
    let mut paused = false;
    poll_fn(|cx| {
        if core::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
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
        let gates = Gates::new(config.clock, Arc::clone(&registry), config.bandwidth);
        let handle = Handle {
            calls: call_sender,
            registry: Arc::clone(&registry),
            budget: config.budget.clone(),
            gates: Arc::clone(&gates),
            local_addr: fabric.local_addr(),
        };
        let runner = Self {
            clock: config.clock,
            fabric,
            security,
            registry,
            gates,
            stack,
            admission: Admission::new(config.admission),
            lanes,
            on_event,
            heartbeat: Bytes::new(),
            links: BTreeMap::new(),
            releases: Timers::new(),
            live: BTreeMap::new(),
            lookout: Lookout::default(),
            asked: BTreeMap::new(),
            to_answer: BTreeMap::new(),
            next_number: 0,
            config,
            calls,
            done,
            died,
            link_events: mpsc::unbounded_channel(),
            opened: mpsc::channel(OPENED),
            turned_away: None,
            now: Now::default(),
            outputs: Vec::new(),
            crowded: false,
            touched: Vec::new(),
            owing: Vec::new(),
        };
        Ok((runner, handle))
    }

    pub(super) async fn run(mut self) {
        let listening = self.listen();
        let letting_time_pass = tokio::spawn(Arc::clone(&self.gates).run());
        let mut alarm = Alarm::new(self.clock);
        let stopped = loop {
            if let Err(ended) = self.work() {
                break ended;
            }
            if self.stack.next_timeout() == Some(Timestamp::ZERO) {
                // To the end of the queue: the connections write what they got, and read.
                pause().await;
                continue;
            }
            let wake =
                [self.stack.next_timeout(), self.releases.next(), self.lookout.next()].into_iter().flatten().min();
            let ended = tokio::select! {
                Some((link, event)) = self.link_events.1.recv() => {
                    self.link_event(link, event);
                    Ok(())
                }
                call = self.calls.recv() => {
                    if self.crowded {
                        // The others are about to call too, most of all when the answers for all of them came together:
                        // they have their turn first, and what they ask goes into the same records. Whoever calls alone
                        // does not wait.
                        yield_now().await;
                        self.crowded = false;
                    }
                    self.call(call)
                }
                Some((id, done)) = self.done.recv() => {
                    self.stack.done(id, done);
                    Ok(())
                }
                Some(lane) = self.died.recv() => self.died(lane),
                Some(opened) = self.opened.1.recv() => {
                    self.opened(opened);
                    Ok(())
                }
                () = poll_fn(|cx| alarm.poll(cx, wake, self.clock.now().mono)) => Ok(()),
            };
            if let Err(ended) = ended {
                break ended;
            }
        };
        listening.abort();
        letting_time_pass.abort();
        self.stop().await;
        if let Some(stopped) = stopped {
            // Whoever asked may have stopped waiting.
            let _unheard = stopped.send(());
        }
    }

    /// Takes what arrived and lets the stack work, slice by slice: what is urgent waits for a slice at most, and what comes of
    /// a slice is under way before the next. Ends when everything is quiet or the stack had its share of the time.
    fn work(&mut self) -> Result<(), Ended> {
        for _ in 0..STEPS / SLICE {
            self.now = self.clock.now();
            self.take_arrivals()?;
            self.release_credit();
            let progress = self.pump();
            self.look_at_memory();
            self.flush(progress);
            if progress == Progress::Quiet {
                break;
            }
        }
        Ok(())
    }

    /// Sorts all that arrived into the inbox, so that the most urgent of it is next; credit bounds how much that is.
    fn take_arrivals(&mut self) -> Result<(), Ended> {
        let mut left = ARRIVALS;
        while left > 0
            && let Ok((link, event)) = self.link_events.1.try_recv()
        {
            left = left.saturating_sub(event.len());
            self.link_event(link, event);
        }
        for _ in 0..CALLS {
            let Ok(call) = self.calls.try_recv() else { break };
            self.crowded = true;
            self.call(Some(call))?;
        }
        while let Ok((id, done)) = self.done.try_recv() {
            self.stack.done(id, done);
        }
        for _ in 0..OPENED {
            let Ok(opened) = self.opened.1.try_recv() else { break };
            self.opened(opened);
        }
        self.died.try_recv().map_or(Ok(()), |lane| self.died(lane))
    }

    fn died(&self, lane: &'static str) -> Result<(), Ended> {
        tracing::error!(lane, "a job panicked; the stack stops, for nothing that it waits for will come");
        Err(None)
    }

    /// What was asked before is done, as far as the stack does it at once: whoever looks sees what came of it.
    fn finish(&mut self) {
        for _ in 0..ARRIVALS / SLICE {
            if self.pump() == Progress::Quiet {
                break;
            }
        }
        self.flush(Progress::More);
    }

    fn call(&mut self, call: Option<Call<P>>) -> Result<(), Ended> {
        match call {
            Some(Call::Command(command)) => self.stack.command(command),
            Some(Call::Inspect(look)) => {
                self.finish();
                look(self.stack.protocol());
            }
            Some(Call::Shutdown(done)) => {
                self.finish();
                return Err(Some(done));
            }
            None => return Err(None), // every handle is gone: nobody could ever stop us later
        }
        Ok(())
    }

    /// Says goodbye to everybody, then lets the lanes finish what is queued.
    async fn stop(mut self) {
        self.registry.command_all(|| ConnectionCommand::Close(CloseReason::Shutdown));
        self.links.values().for_each(|_| links::count_closed(Closed::by_us(CloseReason::Shutdown)));
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
    fn pump(&mut self) -> Progress {
        let mut outputs = core::mem::take(&mut self.outputs);
        let progress = self.stack.run(self.now, SLICE, |output| outputs.push(output));
        for output in outputs.drain(..) {
            match output {
                Output::Action(action) => self.perform(action),
                Output::Consumed { link, class, bytes } => self.consumed(link, class, bytes),
            }
        }
        self.outputs = outputs;
        progress
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
                let links: Vec<_> = self.links.keys().copied().collect();
                for link in links {
                    self.order(link, ConnectionCommand::Heartbeat(self.heartbeat.clone()));
                }
            }
            Action::Link(Outlet::Dial { addr, expected, dial_key, question }) => {
                self.dial(addr, Target { expected, dial_key, question });
            }
            Action::Link(Outlet::Admit(link)) => self.admit(link, false),
            Action::Link(Outlet::AdmitGuest(link)) => self.admit(link, true),
            Action::Link(Outlet::Seat(link)) => self.seat(link),
            Action::Link(Outlet::Seats(seats)) => self.set_seats(seats),
            Action::Link(Outlet::Close { link, reason }) => self.close(link, reason),
            Action::Link(Outlet::Doors(doors)) => self.admission.set_doors(&doors),
            Action::Link(Outlet::Shed { link, bytes }) => self.relieve(link, bytes),
            Action::Link(Outlet::Stop(link)) => self.listen_to(link, false),
            Action::Link(Outlet::Resume(link)) => self.listen_to(link, true),
            // A stack without a peer manager has nobody to tell.
            Action::Want(_) | Action::Report { .. } | Action::Routed => {}
        }
    }
}
