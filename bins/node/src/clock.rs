//! The one place of the node that reads a clock by itself. Everything else is told the time by the driver.
#![expect(clippy::disallowed_methods, reason = "this is the clock of what runs outside the stack: events, new genesis")]

use peerage_core::UnixMillis;
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01 UTC; 0 if the system's clock stands before that.
pub fn unix_nanos() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// The same in milliseconds.
pub fn unix_millis() -> UnixMillis {
    UnixMillis(unix_nanos() / 1_000_000)
}
