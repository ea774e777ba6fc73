//! Where link tasks ask whether they may write and read, when the operator limits bytes a second.
//!
//! Both limiters are behind one lock, which nobody holds over an `.await`, and which nobody takes while there is no limit, but
//! to join and to leave. Who has to wait leaves its waker here; one task waits for the time to pass, for all of them.

use core::{
    num::NonZeroU64,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    task::{Context, Waker},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use peerage_core::{Class, ConnectionCommand, LinkId, PerClass, Timestamp};
use tokio::sync::Notify;

use super::{
    BoxedStream, Clock,
    metered::{Meter, Metered},
    registry::Registry,
};
use crate::proto::{
    egress::{EgressReport, EgressScheduler, Grant},
    ingress::{IngressLimiter, IngressReport},
};

/// What the operator lets the node use, in bytes a second over all connections; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// What it sends.
    pub egress: Option<NonZeroU64>,
    /// What it reads.
    pub ingress: Option<NonZeroU64>,
}

/// What passed, and who waits. Bytes of connections as their sockets take and give them, with whatever secures them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BandwidthReport {
    /// Bytes written since the start.
    pub sent: u64,
    /// Bytes read since the start.
    pub received: u64,
    /// Under a limit of what is sent.
    pub egress: EgressReport,
    /// Under a limit of what is read.
    pub ingress: IngressReport,
}

/// What all connections of a node share.
pub(super) struct Gates {
    clock: Clock,
    registry: Arc<Registry>,
    limits_egress: AtomicBool,
    limits_ingress: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
    sent_total: metrics::Counter,
    received_total: metrics::Counter,
    granted_total: PerClass<metrics::Counter>,
    state: Mutex<State>,
    /// Something is due earlier than the task that waits for it thinks.
    earlier: Notify,
}

#[derive(Default)]
struct State {
    egress: EgressScheduler,
    ingress: IngressLimiter,
    links: BTreeMap<LinkId, Waiting>,
    /// Until when the task sleeps that lets time pass; it is awake if `None`.
    asleep: Option<Timestamp>,
}

/// What was given to a link task and not taken yet, and how to wake it.
#[derive(Default)]
struct Waiting {
    grant: Option<Grant>,
    turn: Option<usize>,
    waker: Option<Waker>,
}

impl Waiting {
    /// Wakes the task of a connection, unless it is the one that asks at this moment: that would turn in circles.
    fn wake(&mut self, link: LinkId, asks: Option<LinkId>) {
        if asks != Some(link)
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }

    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

impl Gates {
    pub(super) fn new(clock: Clock, registry: Arc<Registry>, limits: Bandwidth) -> Arc<Self> {
        let gates = Self {
            clock,
            registry,
            limits_egress: AtomicBool::new(false),
            limits_ingress: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent_total: metrics::counter!("peerage_sent_bytes_total"),
            received_total: metrics::counter!("peerage_received_bytes_total"),
            granted_total: PerClass::from_fn(
                |class| metrics::counter!("peerage_granted_bytes_total", "class" => class.label()),
            ),
            state: Mutex::default(),
            earlier: Notify::new(),
        };
        gates.set(limits);
        Arc::new(gates)
    }

    /// Other limits from now on.
    pub(super) fn set(&self, limits: Bandwidth) {
        let now = self.clock.now().mono;
        let mut state = self.lock();
        state.egress.set_limit(now, limits.egress);
        state.ingress.set_limit(now, limits.ingress);
        self.limits_egress.store(limits.egress.is_some(), Relaxed);
        self.limits_ingress.store(limits.ingress.is_some(), Relaxed);
        self.pump(&mut state, now, None);
    }

    pub(super) fn report(&self) -> BandwidthReport {
        let state = self.lock();
        BandwidthReport {
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
            egress: state.egress.report(),
            ingress: state.ingress.report(),
        }
    }

    pub(super) fn join(self: &Arc<Self>, link: LinkId) -> Gate {
        let mut state = self.lock();
        state.egress.join(link);
        state.ingress.join(link);
        state.links.insert(link, Waiting::default());
        drop(state);
        Gate {
            gates: Arc::clone(self),
            link,
            asked_to_write: false,
            asked_to_read: false,
            meter: Arc::default(),
            unpaid: 0,
            has_sent: false,
            has_read: false,
        }
    }

    /// A socket took so many bytes.
    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
        self.sent_total.increment(bytes as u64);
    }

    /// A socket gave so many bytes.
    pub(super) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
        self.received_total.increment(bytes as u64);
    }

    /// The stack is done with so many bytes of a class: how many of them may be returned to their sender at once. The rest is
    /// returned when the limit has room.
    pub(super) fn consumed(&self, now: Timestamp, link: LinkId, class: Class, bytes: usize) -> usize {
        if !self.limits_ingress.load(Relaxed) {
            return bytes;
        }
        let mut state = self.lock();
        let at_once = state.ingress.consumed(now, link, class, bytes);
        self.pump(&mut state, now, None);
        at_once
    }

    /// Lets time pass, for as long as the node runs.
    pub(super) async fn run(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.lock();
                state.asleep = None;
                self.pump(&mut state, self.clock.now().mono, None);
                let next = state.next_timeout();
                // Without any deadline whoever makes one says so.
                state.asleep = Some(next.unwrap_or(Timestamp(u64::MAX)));
                next
            };
            tokio::select! {
                () = self.clock.sleep_until(next) => {}
                () = self.earlier.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands out what may be handed out by now, and sees that somebody comes back when there is more. Who asks is awake.
    fn pump(&self, state: &mut State, now: Timestamp, asks: Option<LinkId>) {
        while let Some(grant) = state.egress.poll_grant(now) {
            if let Some(waiting) = state.links.get_mut(&grant.link) {
                waiting.grant = Some(grant);
                waiting.wake(grant.link, asks);
            }
        }
        while let Some(turn) = state.ingress.poll_read(now) {
            if let Some(waiting) = state.links.get_mut(&turn.link) {
                waiting.turn = Some(turn.bytes);
                waiting.wake(turn.link, asks);
            }
        }
        while let Some(back) = state.ingress.poll_return(now) {
            let (class, bytes) = (back.class, back.bytes);
            self.registry.command(back.link, ConnectionCommand::Consumed { class, bytes });
        }
        if let (Some(next), Some(asleep)) = (state.next_timeout(), state.asleep)
            && next < asleep
        {
            self.earlier.notify_one();
        }
    }
}

impl State {
    fn next_timeout(&self) -> Option<Timestamp> {
        [self.egress.next_timeout(), self.ingress.next_timeout()].into_iter().flatten().min()
    }
}

/// One connection's way to the limiters. Dropping it gives back what it holds.
pub(super) struct Gate {
    gates: Arc<Gates>,
    link: LinkId,
    /// Whether it stands in a line, or holds what it got there.
    asked_to_write: bool,
    asked_to_read: bool,
    /// Counts at the socket what the connection does not see, too.
    meter: Arc<Meter>,
    /// Bytes that the socket took beyond those that the connection wrote; below zero what is still on its way to it.
    unpaid: i64,
    /// Whether what was said before the connection began is paid for.
    has_sent: bool,
    has_read: bool,
}

impl Drop for Gate {
    fn drop(&mut self) {
        let now = self.gates.clock.now().mono;
        let (sent, received) = (self.meter.take_sent(), self.meter.take_received());
        let mut state = self.gates.lock();
        // Of a handshake below the records that led to no connection.
        state.egress.spent(now, usize::try_from(sent).unwrap_or(usize::MAX));
        state.ingress.spent(now, received);
        state.links.remove(&self.link);
        state.egress.leave(now, self.link);
        state.ingress.leave(now, self.link);
        self.gates.pump(&mut state, now, None);
    }
}

impl Gate {
    /// The socket of this connection, counted.
    pub(super) fn metered(&self, stream: BoxedStream) -> BoxedStream {
        Box::new(Metered::new(stream, Arc::clone(&self.gates), Arc::clone(&self.meter)))
    }

    /// Whether records are written one by one, by [`poll_write`](Self::poll_write).
    pub(super) fn limits_writing(&self) -> bool {
        self.gates.limits_egress.load(Relaxed)
    }

    /// Whether the stream is read in turns, by [`poll_read`](Self::poll_read).
    pub(super) fn limits_reading(&self) -> bool {
        self.gates.limits_ingress.load(Relaxed)
    }

    /// Which record may be written now. If none, the task is woken when one may.
    pub(super) fn poll_write(&mut self, cx: &Context<'_>, now: Timestamp, wants: PerClass<bool>) -> Option<Grant> {
        if !self.asked_to_write && wants == PerClass::default() {
            return None;
        }
        let mut state = self.gates.lock();
        state.egress.want(now, self.link, wants);
        self.gates.pump(&mut state, now, Some(self.link));
        self.asked_to_write = true;
        let waiting = state.links.get_mut(&self.link)?;
        if waiting.grant.is_none() {
            waiting.wait(cx);
        }
        waiting.grant.take()
    }

    /// What became of a grant.
    pub(super) fn wrote(&mut self, now: Timestamp, grant: Grant, bytes: usize) {
        self.asked_to_write = false;
        self.gates.granted_total[grant.class].increment(bytes as u64);
        let mut state = self.gates.lock();
        state.egress.written(now, self.link, bytes);
        self.gates.pump(&mut state, now, Some(self.link));
    }

    /// So many bytes were written without a grant. What was asked for before is not wanted any more.
    pub(super) fn wrote_unasked(&mut self, now: Timestamp, bytes: usize) {
        if !self.asked_to_write && !self.limits_writing() {
            return;
        }
        let mut state = self.gates.lock();
        if core::mem::take(&mut self.asked_to_write) {
            if let Some(waiting) = state.links.get_mut(&self.link) {
                waiting.grant = None;
            }
            state.egress.forgo(now, self.link);
        }
        state.egress.spent(now, bytes);
        self.gates.pump(&mut state, now, Some(self.link));
    }

    /// How much may be read now. If nothing, the task is woken when something may. What came of it goes to
    /// [`did_read`](Self::did_read).
    pub(super) fn poll_read(&mut self, cx: &Context<'_>, now: Timestamp) -> Option<usize> {
        let mut state = self.gates.lock();
        state.ingress.want(now, self.link);
        self.gates.pump(&mut state, now, Some(self.link));
        self.asked_to_read = true;
        let waiting = state.links.get_mut(&self.link)?;
        if waiting.turn.is_none() {
            waiting.wait(cx);
        }
        waiting.turn.take()
    }

    /// The stream gave so many bytes, or none; the turn, if there is one, is over. What counts is what the socket gave for that.
    pub(super) fn did_read(&mut self, now: Timestamp, bytes: usize) {
        let taken = self.meter.take_received();
        let before = if core::mem::replace(&mut self.has_read, true) { 0 } else { taken.saturating_sub(bytes as u64) };
        if !core::mem::take(&mut self.asked_to_read) {
            return;
        }
        let mut state = self.gates.lock();
        state.ingress.read(now, self.link, usize::try_from(taken - before).unwrap_or(usize::MAX));
        state.ingress.spent(now, before);
        self.gates.pump(&mut state, now, Some(self.link));
    }

    /// The task does not read in turns for now: others have its turn.
    pub(super) fn stop_reading(&mut self, now: Timestamp) {
        if !core::mem::take(&mut self.asked_to_read) {
            return;
        }
        let mut state = self.gates.lock();
        if let Some(waiting) = state.links.get_mut(&self.link) {
            waiting.turn = None;
        }
        state.ingress.stop(now, self.link);
        self.gates.pump(&mut state, now, Some(self.link));
    }

    /// The stream took so many bytes, for which was asked. What the socket took beside them counts as well: all of it, but of what
    /// was said before the connection began as little as of any stranger's handshake.
    pub(super) fn count_sent(&mut self, bytes: usize) {
        let (taken, written) = (self.meter.take_sent(), i64::try_from(bytes).unwrap_or(i64::MAX));
        self.unpaid += i64::try_from(taken).unwrap_or(i64::MAX).saturating_sub(written);
        let first = !core::mem::replace(&mut self.has_sent, true);
        let Some(more) = usize::try_from(self.unpaid).ok().filter(|more| *more > 0) else { return };
        self.unpaid = 0;
        if !self.limits_writing() {
            return;
        }
        let now = self.gates.clock.now().mono;
        let mut state = self.gates.lock();
        if first {
            state.egress.spent(now, more);
        } else {
            state.egress.added(now, more);
        }
    }
}
