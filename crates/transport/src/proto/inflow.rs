//! How fast one peer may make this node work: a token bucket for each class, enforced by returning credit late.
//!
//! Nothing is dropped. A peer that sends faster than its rate spends its credit (the window of the class, which is thereby
//! the burst beyond the bucket) and then waits for what this machine returns, so a flood costs its sender time and the
//! receiver a bounded amount of work. Kinds of messages that are dear for their size are counted by the layer that owns them
//! (discovery counts questions and records, the chain serves two ranges at a time, `Control` has a count of its own).

use core::time::Duration;
use peerage_core::{Class, PerClass, Timestamp};

/// Bytes a second and at once, for each class of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InflowConfig {
    /// Bytes a second.
    pub rate: PerClass<u64>,
    /// Bytes at once, in credit returned without delay.
    pub burst: PerClass<u64>,
}

impl Default for InflowConfig {
    /// Our guesses, with the links in mind that EIP-7870 recommends (parameters, 2.2: 50 Mbit/s and less): a peer may use
    /// about half of such a link for gossip, sync may use more, since a node asks for it.
    fn default() -> Self {
        let (kib, mib) = (1 << 10, 1 << 20);
        Self {
            rate: PerClass([64 * kib, mib, 256 * kib, 4 * mib, 32 * mib]),
            burst: PerClass([64 * kib, 2 * mib, mib, 16 * mib, 64 * mib]),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u64,
    at: Timestamp,
    /// Consumed, but not returned yet.
    held: u64,
}

/// The buckets of one connection.
#[derive(Clone, Debug)]
pub struct Inflow {
    config: InflowConfig,
    buckets: PerClass<Bucket>,
}

impl Inflow {
    /// Full buckets.
    pub fn new(config: InflowConfig, now: Timestamp) -> Self {
        let buckets = PerClass::from_fn(|class| Bucket { tokens: config.burst[class], at: now, held: 0 });
        Self { config, buckets }
    }

    /// The stack consumed so many bytes of a class: how many of them may be returned as credit at once. The rest is held
    /// until [`release`](Self::release).
    pub fn consumed(&mut self, now: Timestamp, class: Class, bytes: usize) -> usize {
        self.buckets[class].held += bytes as u64;
        self.take(now, class)
    }

    /// What of the held bytes of each class may be returned by now.
    pub fn release(&mut self, now: Timestamp) -> PerClass<usize> {
        PerClass::from_fn(|class| self.take(now, class))
    }

    /// When [`release`](Self::release) has something worth while to return, if anything is held.
    pub fn next_release(&self) -> Option<Timestamp> {
        let ready = |class: Class| {
            let Bucket { tokens, at, held } = self.buckets[class];
            // A quarter of the burst, or all that is held: often enough for a steady flow, seldom enough to cost nothing.
            let worth = held.min(self.config.burst[class] / 4);
            let missing = worth.saturating_sub(tokens);
            let nanos = missing.saturating_mul(1_000_000_000).div_ceil(self.config.rate[class].max(1));
            (held > 0).then(|| at + Duration::from_nanos(nanos))
        };
        Class::ALL.into_iter().filter_map(ready).min()
    }

    fn take(&mut self, now: Timestamp, class: Class) -> usize {
        let (rate, burst) = (self.config.rate[class], self.config.burst[class]);
        let bucket = &mut self.buckets[class];
        let passed = now.since(bucket.at);
        let gained = u64::try_from(passed.as_nanos() * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX);
        if gained > 0 {
            bucket.tokens = bucket.tokens.saturating_add(gained).min(burst);
            bucket.at = now;
        }
        let taken = bucket.held.min(bucket.tokens);
        bucket.held -= taken;
        bucket.tokens -= taken;
        usize::try_from(taken).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inflow() -> Inflow {
        let config = InflowConfig { rate: PerClass([100; 5]), burst: PerClass([1000; 5]) };
        Inflow::new(config, Timestamp::ZERO)
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    #[test]
    fn a_burst_is_free_and_a_flood_gets_its_credit_back_at_the_rate() {
        let mut inflow = inflow();
        assert_eq!(inflow.consumed(at(0), Class::Gossip, 1000), 1000);
        assert_eq!(inflow.next_release(), None, "nothing is held");
        let mut returned = 0;
        let mut held = 0;
        for second in 1..=60 {
            // The flooder sends ten times the rate as long as it has credit.
            held += 1000;
            returned += inflow.consumed(at(second), Class::Gossip, 1000);
        }
        assert_eq!(returned, 60 * 100, "of {held}");
    }

    #[test]
    fn what_is_held_comes_back_in_time_and_to_the_byte() {
        let mut inflow = inflow();
        let mut returned = inflow.consumed(at(0), Class::Bulk, 5000);
        let mut now = at(0);
        while let Some(next) = inflow.next_release() {
            assert!(next > now, "time must pass");
            now = next;
            returned += inflow.release(now)[Class::Bulk];
        }
        assert_eq!(returned, 5000);
        assert_eq!(now, at(40), "4,000 bytes at 100 a second");
    }

    #[test]
    fn one_class_does_not_wait_for_another() {
        let mut inflow = inflow();
        inflow.consumed(at(0), Class::Bulk, 100_000);
        assert_eq!(inflow.consumed(at(0), Class::Consensus, 500), 500);
    }

    #[test]
    fn slow_drips_are_not_lost_in_rounding() {
        let mut inflow = inflow();
        inflow.consumed(at(0), Class::Signal, 2000);
        let mut returned = 0;
        for milli in 1..=10_000 {
            returned += inflow.release(Timestamp::from_millis(milli))[Class::Signal];
        }
        assert_eq!(returned, 1000);
    }
}
