//! The only reader of time.
#![expect(clippy::disallowed_methods, reason = "this is the clock that everything else takes as an argument")]

use core::{
    pin::Pin,
    task::{Context, Poll},
};
use peerage_core::{Now, Timestamp, UnixMillis};
use std::{
    future::Future as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{Instant, Sleep};

/// Both clocks of the process. Cloning shares their origin. The monotonic one is the runtime's, so that a test whose runtime
/// stands still until everybody waits runs the driver in virtual time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// This moment, on both clocks.
    pub fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono: Timestamp::ZERO + self.start.elapsed(),
            wall: UnixMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// The same moment on the runtime's clock.
    pub(super) fn instant(&self, at: Timestamp) -> Instant {
        self.start + Duration::from_nanos(at.0)
    }

    /// Sleeps until `at`; for ever if there is no deadline.
    pub async fn sleep_until(&self, at: Option<Timestamp>) {
        match at {
            Some(at) => tokio::time::sleep_until(self.instant(at)).await,
            None => std::future::pending().await,
        }
    }
}

/// Wakes one task when something is due. Most deadlines are moved before they come, so the runtime's timer is set anew only
/// for one that is earlier; what rings too early is set again then.
pub(super) struct Alarm {
    clock: Clock,
    sleep: Pin<Box<Sleep>>,
    /// When it rings, if it is set at all.
    armed: Option<Timestamp>,
}

impl Alarm {
    /// An alarm that is not set; within a runtime.
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, sleep: Box::pin(tokio::time::sleep(Duration::ZERO)), armed: None }
    }

    /// Whether `due` has come by `now`, the present moment; if not, the task of `cx`, always the same one, is woken then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, due: Option<Timestamp>, now: Timestamp) -> Poll<()> {
        let Some(due) = due else { return Poll::Pending };
        if due <= now {
            return Poll::Ready(());
        }
        if self.armed.is_none_or(|at| due < at || at <= now) {
            self.sleep.as_mut().reset(self.clock.instant(due));
            self.armed = Some(due);
            let rang = self.sleep.as_mut().poll(cx);
            if rang.is_ready() {
                self.armed = None;
            }
            return rang;
        }
        Poll::Pending
    }
}
