//! A token bucket, exact to the byte and the nanosecond, that may go into debt.

use core::num::NonZeroU64;

use peerage_core::Timestamp;

/// What one byte counts in [`Bucket::level`]: with nanoseconds as time, no division ever rounds.
const BYTE: i128 = 1_000_000_000;

/// Bytes that may be spent: so many a second, and some at once.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Bytes a second.
    rate: NonZeroU64,
    /// Bytes at most.
    depth: u64,
    /// As of `at`, in billionths of a byte; below zero is debt.
    level: i128,
    at: Timestamp,
}

impl Bucket {
    /// A full bucket: `rate` bytes a second, `depth` bytes at once.
    pub const fn full(rate: NonZeroU64, depth: u64, now: Timestamp) -> Self {
        Self { rate, depth, level: depth as i128 * BYTE, at: now }
    }

    /// Spends `bytes`, whether they are there or not.
    pub fn take(&mut self, now: Timestamp, bytes: u64) {
        self.refill(now);
        self.level -= i128::from(bytes) * BYTE;
    }

    /// Spends `bytes`, but leaves no more debt than `floor` by that, which is below zero.
    pub fn take_down_to(&mut self, now: Timestamp, bytes: u64, floor: i64) {
        self.refill(now);
        let floor = self.level.min(i128::from(floor) * BYTE);
        self.level = (self.level - i128::from(bytes) * BYTE).max(floor);
    }

    /// Spends `bytes`, or what is there if that is less.
    pub fn take_what_is_there(&mut self, now: Timestamp, bytes: u64) {
        self.refill(now);
        self.level = (self.level - i128::from(bytes) * BYTE).max(self.level.min(0));
    }

    /// Takes back what was spent and not used.
    pub fn give(&mut self, now: Timestamp, bytes: u64) {
        self.refill(now);
        self.level = (self.level + i128::from(bytes) * BYTE).min(self.full_level());
    }

    /// Whether there are `floor` bytes at least, which may be below zero.
    pub fn has(&self, now: Timestamp, floor: i64) -> bool {
        self.level(now) >= i128::from(floor) * BYTE
    }

    /// When there will be `floor` bytes, if nothing is spent; never, if the bucket is not that deep.
    pub fn has_at(&self, floor: i64) -> Option<Timestamp> {
        let missing = i128::from(floor) * BYTE - self.level;
        if i128::from(floor) > i128::from(self.depth) {
            return None;
        }
        let nanos = u128::try_from(missing).unwrap_or(0).div_ceil(u128::from(self.rate.get()));
        Some(Timestamp(self.at.0.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX))))
    }

    /// Another rate and depth from now on. What is in it stays, as far as it fits; of a debt `floor` stays at most.
    pub fn retune(&mut self, now: Timestamp, rate: NonZeroU64, depth: u64, floor: i64) {
        self.refill(now);
        (self.rate, self.depth) = (rate, depth);
        self.level = self.level.clamp(i128::from(floor) * BYTE, self.full_level());
    }

    const fn full_level(&self) -> i128 {
        self.depth as i128 * BYTE
    }

    fn level(&self, now: Timestamp) -> i128 {
        let gained = i128::from(now.0.saturating_sub(self.at.0)) * i128::from(self.rate.get());
        (self.level + gained).min(self.full_level())
    }

    fn refill(&mut self, now: Timestamp) {
        self.level = self.level(now);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn bucket() -> Bucket {
        Bucket::full(NonZeroU64::new(1000).expect("not zero"), 100, at(0))
    }

    #[test]
    fn a_debt_is_paid_by_time_and_what_does_not_fit_is_lost() {
        let mut bucket = bucket();
        bucket.take(at(0), 150);
        assert!(!bucket.has(at(49), 0) && bucket.has(at(50), 0));
        assert_eq!(bucket.has_at(0), Some(at(50)));
        assert_eq!(bucket.has_at(-50), Some(at(0)));
        assert!(bucket.has(at(60_000), 100) && !bucket.has(at(60_000), 101), "no deeper than it is");
        assert_eq!(bucket.has_at(101), None);
    }

    #[test]
    fn drips_are_not_lost_in_rounding_and_time_never_runs_backwards() {
        let mut bucket = Bucket::full(NonZeroU64::new(3).expect("not zero"), 10, at(0));
        bucket.take(at(0), 10);
        for nano in (0..=1_000_000_000).step_by(999_983) {
            bucket.give(Timestamp(nano), 0);
        }
        bucket.give(at(0), 0);
        assert!(bucket.has(at(1000), 3) && !bucket.has(at(1000), 4));
    }

    #[test]
    fn who_takes_what_is_there_makes_no_debt_and_pays_none() {
        let mut bucket = bucket();
        bucket.take_what_is_there(at(0), 500);
        assert!(bucket.has(at(0), 0) && !bucket.has(at(0), 1));
        bucket.take(at(0), 50);
        bucket.take_what_is_there(at(0), 500);
        assert!(bucket.has(at(0), -50) && !bucket.has(at(0), -49));
    }

    #[test]
    fn another_rate_keeps_what_fits_and_forgives_what_would_last_too_long() {
        let (mut bucket, slow) = (bucket(), NonZeroU64::new(10).expect("not zero"));
        bucket.retune(at(0), slow, 50, -5);
        assert!(bucket.has(at(0), 50) && !bucket.has(at(0), 51));
        bucket.take(at(0), 1000);
        bucket.retune(at(0), slow, 50, -5);
        assert_eq!(bucket.has_at(0), Some(at(500)));
    }
}
