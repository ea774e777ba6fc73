//! The only reader of time.
#![expect(clippy::disallowed_methods, reason = "this is the clock that everything else takes as an argument")]

use peerage_core::{Now, Timestamp, UnixMillis};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

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
