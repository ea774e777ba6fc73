//! The clock of whoever makes blocks, compared with this node's.
//!
//! Nothing depends on it: a transaction is valid by height, a record by sequence, and a block's time must only never fall.
//! But a clock that is an hour off is an operator's mistake that nobody else can see, so it is told: of each block that is
//! committed if its time lies ahead of this node's clock, which no delay explains, and of each that was made just now if its
//! time lies behind: gossip brought it, and no peer knows of a later one, since anybody may tell an old block again. A node
//! whose only peer does that is still told so, once an hour.

use core::time::Duration;

use peerage_core::{Now, Timestamp, UnixMillis};

use super::{chain::Chain, event::Event};

/// How far two clocks may differ without a word. Our guess: clocks that are set by NTP differ by less than a second, and a
/// block is under way for seconds, so a minute is nobody's delay.
const TOLERANCE: Duration = Duration::from_secs(60);
/// Time between two words about the same side. Our guess: once an hour is read, twice a second is not.
const PAUSE: Duration = Duration::from_secs(3600);

/// Until when nothing more is told, for each side by itself: a word that somebody provoked must not hush the other.
#[derive(Debug, Default)]
pub(super) struct ClockWatch {
    ahead_quiet_until: Option<Timestamp>,
    behind_quiet_until: Option<Timestamp>,
}

impl Chain {
    /// Whether a block that gossip brings is the next one, and the last that anybody claims to have.
    pub(super) fn is_newest(&self, height: u64) -> bool {
        let nobody_is_further = || self.peers.values().all(|peer| peer.head.is_none_or(|head| head.height <= height));
        height == self.height().saturating_add(1) && nobody_is_further()
    }

    /// Looks at the time of a block. `fresh`: it was made just now, so that it should not lie behind either.
    pub(super) fn compare_clocks(&mut self, now: Now, height: u64, time: UnixMillis, fresh: bool) {
        let apart = time.0.abs_diff(now.wall.0);
        let tolerance = u64::try_from(TOLERANCE.as_millis()).unwrap_or(u64::MAX);
        let ahead = time > now.wall;
        let ClockWatch { ahead_quiet_until, behind_quiet_until } = &mut self.clock;
        let quiet_until = if ahead { ahead_quiet_until } else { behind_quiet_until };
        if apart <= tolerance || !(ahead || fresh) || quiet_until.is_some_and(|at| now.mono < at) {
            return;
        }
        *quiet_until = Some(now.mono + PAUSE);
        self.emit(Event::ClockDiffers { height, apart: Duration::from_millis(apart), ahead });
    }
}
