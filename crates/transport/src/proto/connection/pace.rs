//! A message that has begun must go on: otherwise its first bytes would be memory held for nothing.

use core::time::Duration;

use peerage_core::Timestamp;

/// Bytes of sealed records, whatever is in them, that must arrive in a window in which a message is incomplete. All count,
/// because a message may rightly wait for more urgent ones (parameters, 1.3).
const LEAST: usize = 10 << 10;

/// Watches one connection. Costs nothing while no message is incomplete.
#[derive(Debug)]
pub(super) struct Pace {
    length: Duration,
    window: Option<(Timestamp, usize)>,
}

impl Pace {
    /// With windows of this length.
    pub(super) const fn new(length: Duration) -> Self {
        Self { length, window: None }
    }

    /// Bytes arrived; afterwards a message was incomplete, or none.
    pub(super) fn arrived(&mut self, now: Timestamp, bytes: usize, incomplete: bool) {
        self.window = match (incomplete, self.window) {
            (false, _) => None,
            (true, None) => Some((now + self.length, 0)),
            (true, Some((end, sum))) => Some((end, sum.saturating_add(bytes))),
        };
    }

    /// We did not read for a while: that is not the other side's fault.
    pub(super) fn restart(&mut self, now: Timestamp) {
        self.window = self.window.map(|_| (now + self.length, 0));
    }

    /// Whether a window ended in which too little arrived.
    pub(super) fn is_too_slow(&mut self, now: Timestamp) -> bool {
        let Some((_, sum)) = self.window.filter(|(end, _)| *end <= now) else { return false };
        self.window = Some((now + self.length, 0));
        sum < LEAST
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.window.map(|(end, _)| end)
    }
}
