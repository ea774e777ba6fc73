//! How much a peer takes of what waits for it, in the time in which something did.

use core::time::Duration;

use crate::Timestamp;

/// What a peer took of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many bytes its stream took.
    pub bytes: u64,
    /// In how much time in which something waited for nothing but the peer: between [`HALF`](Self::HALF) and twice that, or less if
    /// nothing waited for so long since the connection began.
    pub time: Duration,
}

impl Taken {
    /// What is looked at are the last one or two of these (our guess: together the ten seconds in which a message that was begun has
    /// to go on, too).
    pub const HALF: Duration = Duration::from_secs(5);
}

/// Counts what a peer takes. Time passes for it only while something waits that the peer could take: what the node holds back
/// itself is not the peer's fault.
///
/// Two halves, of which the older one is forgotten when the younger one is full: whatever a peer took once is forgotten after ten
/// seconds in which it could have taken more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uptake {
    /// Of the half before, if there was one.
    before: Option<u64>,
    bytes: u64,
    time: Duration,
    /// Until when time was counted, while something waits.
    counted: Option<Timestamp>,
}

impl Uptake {
    /// The stream took so many bytes.
    pub(super) fn took(&mut self, now: Timestamp, bytes: usize) {
        self.pass(now);
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// From now on something waits that only the peer keeps from going out, or nothing does.
    pub(super) fn wait(&mut self, now: Timestamp, waits: bool) {
        self.pass(now);
        self.counted = waits.then_some(now);
    }

    pub(super) fn taken(mut self, now: Timestamp) -> Taken {
        self.pass(now);
        let earlier = self.before.map_or(Duration::ZERO, |_| Taken::HALF);
        Taken { bytes: self.bytes.saturating_add(self.before.unwrap_or(0)), time: earlier + self.time }
    }

    fn pass(&mut self, now: Timestamp) {
        let Some(counted) = self.counted.replace(now) else {
            self.counted = None;
            return;
        };
        self.time += now.since(counted);
        if self.time >= Taken::HALF {
            let is_next = self.time < 2 * Taken::HALF;
            self.before = Some(if is_next { self.bytes } else { 0 });
            self.bytes = 0;
            let rest = self.time.as_nanos() % Taken::HALF.as_nanos();
            self.time = Duration::from_nanos(u64::try_from(rest).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_secs(secs)
    }

    fn taken(uptake: Uptake, secs: u64) -> (u64, u64) {
        let Taken { bytes, time } = uptake.taken(at(secs));
        (bytes, time.as_secs())
    }

    #[test]
    fn what_was_taken_is_forgotten_after_ten_seconds_in_which_more_could_have_been() {
        let mut uptake = Uptake::default();
        uptake.wait(at(0), true);
        uptake.took(at(1), 4_000_000);
        assert_eq!([4, 5, 9].map(|secs| taken(uptake, secs)), [(4_000_000, 4), (4_000_000, 5), (4_000_000, 9)]);
        assert_eq!([10, 14, 3_600].map(|secs| taken(uptake, secs)), [(0, 5), (0, 9), (0, 5)]);
        uptake.took(at(3_601), 70);
        assert_eq!(taken(uptake, 3_602), (70, 7), "and it may begin anew");
    }

    #[test]
    fn time_passes_only_while_something_waits_for_the_peer() {
        let mut uptake = Uptake::default();
        uptake.took(at(0), 100);
        assert_eq!(taken(uptake, 50), (100, 0), "nothing waited");
        uptake.wait(at(100), true);
        uptake.wait(at(103), false);
        assert_eq!(taken(uptake, 200), (100, 3));
        uptake.wait(at(300), true);
        assert_eq!([301, 302, 307].map(|secs| taken(uptake, secs)), [(100, 4), (100, 5), (0, 5)]);
    }
}
