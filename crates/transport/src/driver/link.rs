//! One task a connection: it moves bytes between a stream and the pure connection machine.

use core::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};
use peerage_core::{
    Account, Class, CloseReason, Closed, Connection, ConnectionCommand, ConnectionEvent, DropReason, LinkId, PerClass,
    Timestamp,
};
use std::sync::Arc;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
};

use super::{Clock, fabric::BoxedStream};

/// What a link task tells the stack task.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// From the connection machine.
    Connection(ConnectionEvent),
    /// Messages were skipped whose sender's credit, so many bytes of a class, is to be returned at the rate of all others.
    Skipped(Class, usize),
    /// After messages were shed, there is room again.
    Writable,
    /// The task is over, whatever happened to it.
    Ended,
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

/// Everything a link task needs.
pub(super) struct LinkTask {
    pub(super) link: LinkId,
    pub(super) remote: SocketAddr,
    pub(super) connection: Box<dyn Connection + Send>,
    pub(super) stream: BoxedStream,
    pub(super) clock: Clock,
    pub(super) account: Account,
    pub(super) starved: Arc<AtomicBool>,
    pub(super) commands: UnboundedReceiver<ConnectionCommand>,
    pub(super) events: UnboundedSender<(LinkId, LinkEvent)>,
}

/// Bytes read from the socket at once: four records.
const READ_BYTES: usize = 64 << 10;
/// The same while the other side has not proved itself, and when all is said: the longest handshake record, so that strangers
/// cost little.
const READ_BYTES_STRANGER: usize = 4 << 10;
/// Bytes handed to the socket at once: as much as the kernel may hold unsent, so that what is decided early stays little.
const WRITE_BYTES: usize = 32 << 10;
/// A last word must be written within this time (our guess; a peer that does not read must not keep the task alive).
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long after a message was shed, and how often from then on, a connection looks whether it has room (our guess).
const STARVED_CHECK: Duration = Duration::from_millis(100);

impl LinkTask {
    pub(super) async fn run(mut self) {
        let (mut reader, mut writer) = tokio::io::split(self.stream);
        let mut incoming = vec![0; READ_BYTES_STRANGER];
        let mut outgoing = Vec::new();
        let mut written = 0;
        let mut last_words: Option<Timestamp> = None;
        let mut starved_check: Option<Timestamp> = None;
        loop {
            let now = self.clock.now();
            let mut skipped = PerClass::from_fn(|_| 0);
            while let Some(event) = self.connection.poll_event() {
                match &event {
                    ConnectionEvent::Established(_) => incoming = vec![0; READ_BYTES],
                    ConnectionEvent::Closed(_) => last_words = Some(now.mono + LAST_WORDS),
                    // Nobody pays for these, so they wait nowhere; one sum of each class goes to the stack task.
                    ConnectionEvent::Skipped { count, class, bytes } => {
                        count_dropped(DropReason::UnknownCommand, *count);
                        skipped[*class] += bytes;
                        continue;
                    }
                    ConnectionEvent::Unsent { reason, count, .. } => count_dropped(*reason, *count),
                    _ => {}
                }
                if self.events.send((self.link, LinkEvent::Connection(event))).is_err() {
                    return; // the stack task is gone
                }
            }
            for (class, bytes) in skipped.iter().filter(|(_, bytes)| **bytes > 0) {
                if self.events.send((self.link, LinkEvent::Skipped(class, *bytes))).is_err() {
                    return;
                }
            }
            if written == outgoing.len() {
                outgoing.clear();
                written = 0;
                self.connection.poll_transmit(now, &mut outgoing, WRITE_BYTES);
                if outgoing.is_empty() && last_words.is_some() {
                    break; // everything is said
                }
            }
            // `Writable` comes at least a pause after the shed message: whoever answers it with more of what did not fit
            // must not turn in circles.
            if self.starved.load(Relaxed) {
                let due = *starved_check.get_or_insert(now.mono + STARVED_CHECK);
                if due <= now.mono {
                    starved_check = None;
                    if self.account.owed() < self.account.limit() / 2 {
                        self.starved.store(false, Relaxed);
                        if self.events.send((self.link, LinkEvent::Writable)).is_err() {
                            return;
                        }
                    }
                }
            }
            let wake = [self.connection.next_timeout(), last_words, starved_check].into_iter().flatten().min();
            let reads = self.connection.wants_bytes() && last_words.is_none();
            tokio::select! {
                command = self.commands.recv(), if last_words.is_none() => {
                    let now = self.clock.now();
                    let Some(command) = command else {
                        self.connection.handle_command(now, ConnectionCommand::Close(CloseReason::Shutdown));
                        last_words = Some(now.mono + LAST_WORDS);
                        continue;
                    };
                    self.connection.handle_command(now, command);
                    // Whatever else waits belongs into the same records.
                    while let Ok(command) = self.commands.try_recv() {
                        self.connection.handle_command(now, command);
                    }
                }
                wrote = writer.write(&outgoing[written..]), if written < outgoing.len() => match wrote {
                    Ok(0) | Err(_) => {
                        self.connection.handle_stream_end(self.clock.now(), CloseReason::StreamError);
                        outgoing.clear();
                        written = 0;
                    }
                    Ok(count) => written += count,
                },
                read = reader.read(&mut incoming), if reads => {
                    let now = self.clock.now();
                    match read {
                        Ok(0) => self.connection.handle_stream_end(now, CloseReason::StreamEnded),
                        Ok(count) => self.connection.handle_bytes(now, &incoming[..count]),
                        Err(_) => self.connection.handle_stream_end(now, CloseReason::StreamError),
                    }
                }
                () = self.clock.sleep_until(wake) => {
                    let now = self.clock.now();
                    if last_words.is_some_and(|at| at <= now.mono) {
                        break;
                    }
                    self.connection.handle_timeout(now);
                }
            }
        }
        // What is still unread when a socket is closed makes TCP send a reset, which can destroy our last words on their
        // way: so everything is read, and thrown away, until the other side is done too. That takes a while and no memory.
        drop((self.connection, outgoing));
        let mut incoming = vec![0; READ_BYTES_STRANGER];
        let goodbye = async {
            writer.shutdown().await?;
            while reader.read(&mut incoming).await? > 0 {}
            std::io::Result::Ok(())
        };
        // However that ends, it is nobody's concern any more.
        let _ended = tokio::time::timeout(LAST_WORDS, goodbye).await;
        tracing::trace!(link = self.link.0, remote = %self.remote, "stream closed");
    }
}

/// Counts messages that were dropped.
pub(super) fn count_dropped(reason: DropReason, count: u64) {
    metrics::counter!("peerage_messages_dropped_total", "reason" => reason.label()).increment(count);
}

/// What a connection that could not even be opened ends with.
pub(super) fn refused(error: &std::io::Error) -> Closed {
    Closed::by_network(match error.kind() {
        std::io::ErrorKind::TimedOut => CloseReason::DialTimeout,
        _ => CloseReason::DialRefused,
    })
}
