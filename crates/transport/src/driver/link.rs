//! One task a connection: it moves bytes between a stream and the pure connection machine.
//!
//! A turn of the task takes what waits in its mailbox, what the socket has, and what is due; it tells the stack task what came
//! of it, all at once; and it writes what is most urgent, as much as the socket takes. Whoever has more to write than one
//! piece lets everybody else go first, so that bulk delays nobody's reading. Between turns the task holds no buffers, unless
//! the socket took a piece only in part.
//!
//! Between turns the work lies on a [`Desk`], where the stack task can send a few messages itself: a short answer is then
//! on its way one turn of a task sooner, and mostly one wake-up of a thread.

use core::{
    cell::Cell,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll, Waker},
    time::Duration,
};
use peerage_core::{
    Account, Class, CloseReason, Closed, Connection, ConnectionCommand, ConnectionEvent, DropReason, LinkId, Now,
    PerClass, Timestamp,
};
use peerage_wire::limits::MAX_SEALED_BODY;
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf},
    sync::mpsc::UnboundedSender,
    task::yield_now,
    time::timeout,
};

use super::{
    Clock,
    bandwidth::Gate,
    clock::Alarm,
    fabric::BoxedStream,
    mailbox::{Found, Mail},
};

/// What a link task tells the stack task.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// From the connection machine, in order: all that a turn gave.
    Connection(Vec<ConnectionEvent>),
    /// Messages were skipped whose sender's credit, so many bytes of a class, is to be returned at the rate of all others.
    Skipped(Class, usize),
    /// After messages were shed, there is room again.
    Writable,
    /// The task is over, whatever happened to it.
    Ended,
}

impl LinkEvent {
    /// How many happenings this is.
    pub(super) fn len(&self) -> usize {
        if let Self::Connection(events) = self { events.len() } else { 1 }
    }
}

/// Tells the stack task that a link task is over, even if it panicked or was never polled.
pub(super) struct EndGuard {
    pub(super) link: LinkId,
    pub(super) events: UnboundedSender<(LinkId, LinkEvent)>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        // An error means that the stack task is gone and does not need to know.
        let _unheard = self.events.send((self.link, LinkEvent::Ended));
    }
}

/// Bytes read from the socket in one turn: four records.
const READ_BYTES: usize = 64 << 10;
/// The same while the other side has not proved itself, and when all is said: the longest handshake record, so that strangers
/// cost little.
const READ_BYTES_STRANGER: usize = 4 << 10;
/// Bytes handed to the socket at once: as much as the kernel may hold unsent, so that what is decided early stays little.
const WRITE_BYTES: usize = 32 << 10;
/// The same after the socket took less than it was given: a single record, for what waits here cannot be overtaken.
const WRITE_BYTES_BLOCKED: usize = 1;
/// A last word must be written within this time (our guess; a peer that does not read must not keep the task alive).
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long after a message was shed, and how often from then on, a connection looks whether it has room (our guess).
const STARVED_CHECK: Duration = Duration::from_millis(100);

thread_local! {
    /// What a task reads into: nothing stays in it from one poll to the next, so all tasks of a thread share one.
    static INCOMING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// What a task writes from, returned once the socket has all of it.
    static OUTGOING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What a link task is given.
pub(super) struct LinkParts {
    pub(super) link: LinkId,
    pub(super) remote: SocketAddr,
    pub(super) connection: Box<dyn Connection + Send>,
    pub(super) stream: BoxedStream,
    pub(super) clock: Clock,
    pub(super) account: Account,
    pub(super) starved: Arc<AtomicBool>,
    pub(super) mail: Mail,
    pub(super) events: UnboundedSender<(LinkId, LinkEvent)>,
    /// Where it asks whether it may write and read, if that is limited.
    pub(super) gate: Gate,
    /// How long the socket may take nothing of what is there.
    pub(super) write_patience: Duration,
}

/// That, and how far it is.
pub(super) struct LinkTask {
    parts: LinkParts,
    /// Whether the other side has proved itself.
    proved: bool,
    /// Whether something waits for nothing but the peer, as it was noted last.
    waits: bool,
    /// Whether the operator's limit holds back what could be written.
    held_back: bool,
    /// Whether the operator's limit gave it no turn to read when it last would have read.
    unheard: bool,
    /// Whether it had enough when it read last, so that the socket is not waited for.
    deaf: bool,
    /// What the socket has not taken yet, from `written` on.
    outgoing: Vec<u8>,
    written: usize,
    /// How much is sealed at once.
    ahead: usize,
    /// Answers to who has not proved itself, kept while the operator limits what is written: they go before anybody's turn.
    kept: Vec<ConnectionCommand>,
    last_words: Option<Timestamp>,
    starved_check: Option<Timestamp>,
    /// When the socket has taken nothing for too long, while something is there.
    stuck_until: Option<Timestamp>,
    alarm: Alarm,
}

/// Where the work of a link task lies between its turns; empty before and after.
#[derive(Default)]
pub(super) struct Desk(Mutex<Option<LinkTask>>);

impl Desk {
    /// Lays the work for a fresh connection down, before the task begins.
    pub(super) fn lay(&self, task: LinkTask) {
        *self.work() = Some(task);
    }

    fn work(&self) -> MutexGuard<'_, Option<LinkTask>> {
        // What a panic leaves behind half-way is taken away by whoever had it, or dropped with its task.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is in the mailbox of the task that `sleeper` wakes, in its stead. It is woken if that is more than little
    /// work, or if it is awake after all.
    pub(super) fn send(&self, sleeper: &Waker) {
        let Ok(mut work) = self.0.try_lock() else { return sleeper.wake_by_ref() };
        let Some(task) = &mut *work else { return sleeper.wake_by_ref() };
        let cx = &mut Context::from_waker(sleeper);
        // A machine that panics costs its own connection, here as well.
        match catch_unwind(AssertUnwindSafe(|| task.turn(cx, Reading::Not))) {
            Ok(Poll::Pending) => return,
            Ok(Poll::Ready(_)) => {}
            Err(_) => *work = None,
        }
        drop(work);
        sleeper.wake_by_ref();
    }

    /// The link task: does the work until the connection is over.
    pub(super) async fn run(self: Arc<Self>) {
        let turn = |cx: &mut Context<'_>| match &mut *self.work() {
            Some(task) => task.turn(cx, Reading::Too),
            // It panicked when the stack task had it.
            None => Poll::Ready(Turn::Alone),
        };
        while poll_fn(turn).await == Turn::Pause {
            // Not a plain wake-up: the runtime resumes who yields so after all others, and after it looked which sockets are
            // ready. A command for this task wakes it before.
            yield_now().await;
        }
        let Some(LinkTask { parts, proved, last_words: Some(_), .. }) = self.work().take() else {
            return; // the stack is gone, and nobody is to hear anything
        };
        let LinkParts { link, remote, mut stream, connection, mail, gate, .. } = parts;
        // What is still unread when a socket is closed makes TCP send a reset, which can destroy our last words on their
        // way: so everything is read, and thrown away, until the other side is done too. That takes a while and no memory.
        // Of strangers little, and of nobody more than that while the node limits what it reads.
        let mut left = if proved && !gate.limits_reading() { usize::MAX } else { READ_BYTES };
        drop((connection, mail, gate, self));
        let goodbye = async {
            stream.shutdown().await?;
            let mut incoming = vec![0; READ_BYTES_STRANGER];
            while left > 0 {
                match stream.read(&mut incoming).await? {
                    0 => break,
                    count => left = left.saturating_sub(count),
                }
            }
            io::Result::Ok(())
        };
        // However that ends, it is nobody's concern any more.
        let _ended = timeout(LAST_WORDS, goodbye).await;
        tracing::trace!(link = link.0, %remote, "stream closed");
    }
}

/// Whether a turn reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Too,
    Not,
}

/// How a turn ended, if the task does not just wait for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// There is more to write, once all others had their turn.
    Pause,
    /// Everything is said.
    Over,
    /// The stack task is gone.
    Alone,
}

/// How writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrote {
    /// There is nothing to write at this moment.
    All,
    /// There is, but a piece of it is written already.
    Piece,
    /// The socket takes no more.
    Blocked,
    /// The socket failed.
    Failed,
}

impl LinkTask {
    pub(super) fn new(parts: LinkParts) -> Self {
        let alarm = Alarm::new(parts.clock);
        Self {
            parts,
            proved: false,
            waits: false,
            held_back: false,
            unheard: false,
            deaf: false,
            outgoing: Vec::new(),
            written: 0,
            ahead: WRITE_BYTES,
            kept: Vec::new(),
            last_words: None,
            starved_check: None,
            stuck_until: None,
            alarm,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>, reading: Reading) -> Poll<Turn> {
        let now = self.parts.clock.now();
        self.take_commands(cx, now);
        let mut again = reading == Reading::Too && self.read(cx, now);
        if self.last_words.is_some_and(|at| at <= now.mono) {
            return Poll::Ready(Turn::Over);
        }
        if self.parts.connection.next_timeout().is_some_and(|at| at <= now.mono) {
            self.parts.connection.handle_timeout(now);
        }
        if self.stuck_until.is_some_and(|at| at <= now.mono) && self.last_words.is_none() {
            self.parts.connection.handle_command(now, ConnectionCommand::Close(CloseReason::SlowPeer));
        }
        if !self.tell(now) {
            return Poll::Ready(Turn::Alone);
        }
        let over = self.last_words.is_some();
        let wrote = self.write(cx, now);
        self.note_waiting(now, wrote);
        // Writing can end a connection.
        if !self.tell(now) {
            return Poll::Ready(Turn::Alone);
        }
        match wrote {
            Wrote::All if over => return Poll::Ready(Turn::Over),
            Wrote::Piece => return Poll::Ready(Turn::Pause),
            Wrote::All | Wrote::Blocked | Wrote::Failed => again |= over != self.last_words.is_some(),
        }
        // Nothing else would wake it for what is in the socket already.
        again |= self.deaf && self.reads();
        if again || self.proved && !self.kept.is_empty() || self.is_due(cx, now) {
            // To the end of the queue: others have their turn.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn take_commands(&mut self, cx: &Context<'_>, now: Now) {
        if self.last_words.is_some() {
            return;
        }
        if self.proved {
            core::mem::take(&mut self.kept)
                .into_iter()
                .for_each(|command| self.parts.connection.handle_command(now, command));
        }
        match self.parts.mail.take(cx) {
            // All of them at once: what goes together belongs into the same records.
            Found::Commands(commands) => {
                for command in commands {
                    let answer = matches!(command, ConnectionCommand::Respond { .. });
                    // What is said to strangers waits for nobody, so it must be no more than a handshake.
                    if answer && !self.proved && self.parts.gate.limits_writing() {
                        self.kept.push(command);
                    } else {
                        self.parts.connection.handle_command(now, command);
                    }
                }
            }
            Found::Nothing => {}
            Found::Ended => {
                self.parts.connection.handle_command(now, ConnectionCommand::Close(CloseReason::Shutdown));
                self.last_words = Some(now.mono + LAST_WORDS);
            }
        }
    }

    /// Reads what is there; whether there may be more.
    fn read(&mut self, cx: &mut Context<'_>, now: Now) -> bool {
        let mut incoming = INCOMING.take();
        incoming.resize(READ_BYTES, 0);
        let size = if self.proved { READ_BYTES } else { READ_BYTES_STRANGER };
        let mut left = READ_BYTES;
        self.unheard = false;
        while left > 0 && self.reads() {
            let Some(most) = self.may_read(cx, now) else {
                self.unheard = true;
                break;
            };
            let mut buffer = ReadBuf::new(&mut incoming[..size.min(left).min(most)]);
            let read = Pin::new(&mut self.parts.stream).poll_read(cx, &mut buffer);
            self.parts.gate.did_read(now.mono, buffer.filled().len());
            match read {
                Poll::Pending => break,
                Poll::Ready(Ok(())) => match buffer.filled() {
                    [] => self.parts.connection.handle_stream_end(now, CloseReason::StreamEnded),
                    bytes => {
                        self.parts.connection.handle_bytes(now, bytes);
                        left -= bytes.len();
                    }
                },
                Poll::Ready(Err(_)) => self.parts.connection.handle_stream_end(now, CloseReason::StreamError),
            }
        }
        INCOMING.set(incoming);
        self.deaf = !self.reads();
        if self.deaf {
            self.parts.gate.stop_reading(now.mono);
        }
        left == 0
    }

    fn reads(&self) -> bool {
        self.last_words.is_none() && self.parts.connection.wants_bytes()
    }

    /// How many bytes may be read now under the operator's limit.
    fn may_read(&mut self, cx: &Context<'_>, now: Now) -> Option<usize> {
        if self.parts.gate.limits_reading() {
            return self.parts.gate.poll_read(cx, now.mono);
        }
        self.parts.gate.stop_reading(now.mono);
        Some(usize::MAX)
    }

    /// Tells the stack task what happened; false if it is gone.
    fn tell(&mut self, now: Now) -> bool {
        let mut told = Vec::new();
        let mut skipped = PerClass::from_fn(|_| 0);
        while let Some(event) = self.parts.connection.poll_event() {
            match &event {
                ConnectionEvent::Established(_) => self.proved = true,
                ConnectionEvent::Closed(_) => {
                    self.last_words = Some(now.mono + LAST_WORDS);
                    count_dropped(DropReason::ConnectionLost, core::mem::take(&mut self.kept).len() as u64);
                }
                // Nobody pays for these, so they wait nowhere; one sum of each class goes to the stack task.
                ConnectionEvent::Skipped { count, class, bytes } => {
                    count_dropped(DropReason::UnknownCommand, *count);
                    skipped[*class] += bytes;
                    continue;
                }
                ConnectionEvent::Unsent { reason, count, .. } => count_dropped(*reason, *count),
                ConnectionEvent::Packed { received, bytes, packed } => {
                    count_packed(*received, *bytes, *packed);
                    continue;
                }
                _ => {}
            }
            told.push(event);
        }
        let mut heard = told.is_empty() || self.send(LinkEvent::Connection(told));
        for (class, bytes) in skipped.iter().filter(|(_, bytes)| **bytes > 0) {
            heard &= self.send(LinkEvent::Skipped(class, *bytes));
        }
        // `Writable` comes at least a pause after the shed message: whoever answers it with more of what did not fit
        // must not turn in circles.
        if self.parts.starved.load(Relaxed) && *self.starved_check.get_or_insert(now.mono + STARVED_CHECK) <= now.mono {
            self.starved_check = None;
            if self.parts.account.owed() < self.parts.account.limit() / 2 {
                self.parts.starved.store(false, Relaxed);
                heard &= self.send(LinkEvent::Writable);
            }
        }
        heard
    }

    fn send(&self, event: LinkEvent) -> bool {
        self.parts.events.send((self.parts.link, event)).is_ok()
    }

    /// Writes what is most urgent, decided when the socket can take it: one piece at most.
    fn write(&mut self, cx: &mut Context<'_>, now: Now) -> Wrote {
        if self.outgoing.capacity() == 0 {
            self.outgoing = OUTGOING.take();
            self.outgoing.reserve(WRITE_BYTES + MAX_SEALED_BODY);
        }
        let wrote = self.write_piece(cx, now);
        if wrote != Wrote::Blocked {
            self.outgoing.clear();
            self.written = 0;
            OUTGOING.set(core::mem::take(&mut self.outgoing));
        }
        wrote
    }

    /// Whether what waits for the peer waits for nothing but the peer: that its socket takes it, or that it gives credit, as far as
    /// it is listened to: credit that the operator's limit keeps unread is not missing.
    fn note_waiting(&mut self, now: Now, wrote: Wrote) {
        let listens = !self.held_back && !self.unheard && self.parts.connection.wants_bytes();
        let no_credit = listens && self.parts.account.owed() > 0;
        let waits = wrote == Wrote::Blocked || wrote == Wrote::All && no_credit;
        if waits != self.waits {
            self.waits = waits;
            self.parts.account.wait(now.mono, waits);
        }
    }

    fn write_piece(&mut self, cx: &mut Context<'_>, now: Now) -> Wrote {
        let mut room = WRITE_BYTES;
        let mut all = false;
        loop {
            if self.written == self.outgoing.len() {
                self.outgoing.clear();
                self.written = 0;
                if all {
                    return Wrote::All;
                }
                if room == 0 {
                    return Wrote::Piece;
                }
                all = self.seal(cx, now);
                if self.outgoing.is_empty() {
                    return Wrote::All;
                }
            }
            match Pin::new(&mut self.parts.stream).poll_write(cx, &self.outgoing[self.written..]) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.parts.gate.count_sent(count);
                    self.parts.account.took(now.mono, count);
                    self.written += count;
                    self.stuck_until = None;
                    room = room.saturating_sub(count);
                    if self.written == self.outgoing.len() {
                        self.ahead = (self.ahead * 2).max(count).min(WRITE_BYTES);
                    }
                }
                Poll::Ready(_) => {
                    self.parts.connection.handle_stream_end(now, CloseReason::StreamError);
                    return Wrote::Failed;
                }
                Poll::Pending => {
                    self.stuck_until.get_or_insert(now.mono + self.parts.write_patience);
                    self.ahead = WRITE_BYTES_BLOCKED;
                    return Wrote::Blocked;
                }
            }
        }
    }

    /// Fills the empty buffer with what may be written now; whether that is all.
    fn seal(&mut self, cx: &Context<'_>, now: Now) -> bool {
        self.held_back = false;
        // A handshake and the last words wait for nobody.
        if !self.parts.gate.limits_writing() || !self.proved || self.last_words.is_some() {
            self.parts.connection.poll_transmit(now, &mut self.outgoing, self.ahead);
            self.parts.gate.wrote_unasked(now.mono, self.outgoing.len());
            // Less than it might have been is all there is.
            return self.outgoing.len() < self.ahead;
        }
        while self.outgoing.is_empty() {
            let wants = self.parts.connection.wants_to_send();
            let Some(grant) = self.parts.gate.poll_write(cx, now.mono, wants) else {
                self.held_back = wants != PerClass::default();
                return true;
            };
            // What it was meant for may be gone meanwhile: then it asks again.
            self.parts.connection.poll_record(now, &mut self.outgoing, grant.class, grant.bytes);
            self.parts.gate.wrote(now.mono, grant, self.outgoing.len());
        }
        false
    }

    /// Whether something is due already; if not, the task is woken when it is.
    fn is_due(&mut self, cx: &mut Context<'_>, now: Now) -> bool {
        // Who is told to go for it, waits for nothing but its last words.
        let stuck_until = self.stuck_until.filter(|_| self.last_words.is_none());
        let due = [self.parts.connection.next_timeout(), self.last_words, self.starved_check, stuck_until];
        self.alarm.poll(cx, due.into_iter().flatten().min(), now.mono).is_ready()
    }
}

/// Counts messages that were dropped.
pub(super) fn count_dropped(reason: DropReason, count: u64) {
    metrics::counter!("peerage_messages_dropped_total", "reason" => reason.label()).increment(count);
}

/// Counts compressed bodies: their bytes, and those that went over the wire for them.
fn count_packed(received: bool, bytes: u64, packed: u64) {
    let direction = if received { "received" } else { "sent" };
    metrics::counter!("peerage_unpacked_bytes_total", "direction" => direction).increment(bytes);
    metrics::counter!("peerage_packed_bytes_total", "direction" => direction).increment(packed);
}

/// What a connection that could not even be opened ends with.
pub(super) fn refused(error: &std::io::Error) -> Closed {
    Closed::by_network(match error.kind() {
        std::io::ErrorKind::TimedOut => CloseReason::DialTimeout,
        _ => CloseReason::DialRefused,
    })
}

#[cfg(test)]
mod tests;
