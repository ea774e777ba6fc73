//! The clock of whoever makes blocks, compared with this node's.
//!
//! Nothing depends on it: a transaction is valid by height, a record by sequence, and a block's time must only never fall.
//! But a clock that is an hour off is an operator's mistake that nobody else can see, so it is told: of each block that is
//! committed if its time lies ahead of this node's clock, which no delay explains, and of each that gossip brings, for that
//! one was made just now, if its time lies behind.

use core::time::Duration;

use peerage_core::{Now, Timestamp, UnixMillis};

use super::{chain::Chain, event::Event};

/// How far two clocks may differ without a word. Our guess: clocks that are set by NTP differ by less than a second, and a
/// block is under way for seconds, so a minute is nobody's delay.
const TOLERANCE: Duration = Duration::from_secs(60);
/// Time between two words about it. Our guess: once an hour is read, twice a second is not.
const PAUSE: Duration = Duration::from_secs(3600);

/// When it was told last.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    quiet_until: Option<Timestamp>,
}

impl Chain {
    /// Looks at the time of a block. `fresh`: it was made just now, so that it should not lie behind either.
    pub(super) fn compare_clocks(&mut self, now: Now, height: u64, time: UnixMillis, fresh: bool) {
        let apart = time.0.abs_diff(now.wall.0);
        let tolerance = u64::try_from(TOLERANCE.as_millis()).unwrap_or(u64::MAX);
        let ahead = time > now.wall;
        if apart <= tolerance || !(ahead || fresh) || self.clock.quiet_until.is_some_and(|at| now.mono < at) {
            return;
        }
        self.clock.quiet_until = Some(now.mono + PAUSE);
        self.emit(Event::ClockDiffers { height, apart: Duration::from_millis(apart), ahead });
    }
}
