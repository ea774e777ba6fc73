//! Durations in bounded memory, however many.

/// Bits of a value that are kept: an error of 1 in 128 at most. Log-linear buckets as in HdrHistogram (Tene).
const KEPT_BITS: u32 = 7;
const PER_OCTAVE: usize = 1 << KEPT_BITS;

/// How often which duration occurred, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; bucket(u64::MAX) + 1], total: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
    }

    /// How many were counted.
    pub const fn len(&self) -> u64 {
        self.total
    }

    /// Whether none was counted.
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// The duration that `percent` of all do not exceed (nearest rank), in nanoseconds and not less than the true one;
    /// `None` if there is none.
    pub fn percentile(&self, percent: u8) -> Option<u64> {
        let rank = (u128::from(self.total) * u128::from(percent)).div_ceil(100).max(1);
        let mut below = 0;
        self.counts
            .iter()
            .position(|count| {
                below += u128::from(*count);
                below >= rank
            })
            .map(largest)
    }
}

/// The bucket of a value: values below `PER_OCTAVE` have one each, every octave above has `PER_OCTAVE`.
const fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(KEPT_BITS + 1);
    shift as usize * PER_OCTAVE + (value >> shift) as usize
}

/// The largest value in a bucket.
fn largest(bucket: usize) -> u64 {
    let shift = (bucket / PER_OCTAVE).saturating_sub(1);
    let head = (bucket - shift * PER_OCTAVE) as u64;
    (head << shift) | ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_whose_largest_is_less_than_one_in_a_hundred_above() {
        for shift in 0..64 {
            for value in [1_u64 << shift, (1 << shift) + (1 << shift >> 1), (1_u64 << shift) - 1, u64::MAX >> shift] {
                let top = largest(bucket(value));
                assert!(top >= value && top - value <= value / 100, "{value} in a bucket up to {top}");
                assert!(bucket(top) == bucket(value) && (top == u64::MAX || bucket(top + 1) == bucket(value) + 1));
            }
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let mut histogram = Histogram::default();
        assert!(histogram.is_empty() && histogram.percentile(50).is_none());
        (1..=100).rev().for_each(|value| histogram.record(value));
        assert_eq!((histogram.percentile(50), histogram.percentile(99), histogram.len()), (Some(50), Some(99), 100));
        assert_eq!((histogram.percentile(0), histogram.percentile(100)), (Some(1), Some(100)));
        histogram.clear();
        histogram.record(7);
        assert_eq!((histogram.percentile(1), histogram.percentile(99)), (Some(7), Some(7)));
    }
}
