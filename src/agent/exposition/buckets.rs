//! Classic and native buckets as sums of the kernel's cells.
//!
//! The bounds of both are bounds of cells, so either is exact, and no observation is moved: see
//! [`histogram`](crate::telemetry::histogram). What is above the last cell's bound (64 s) is in the
//! classic `+Inf` bucket; a native histogram has it in the bucket behind 64 s, the first that can hold it.

use crate::telemetry::{
    histogram::{CLASSIC_NS, NATIVE_INDEXES, bounds_ns, native_bound_ns},
    wire::Histogram,
};

/// How many cells each bucket has more than the one before it.
#[derive(Debug)]
pub struct Buckets {
    classic: Vec<usize>,
    native: Vec<usize>,
}

/// Native buckets that are not empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Native {
    /// Observations of at most [`zero_threshold`].
    pub zero: u64,
    /// Runs of neighbours: the gap before the run (of the first one: its index), and its length.
    pub spans: Vec<(i32, u32)>,
    /// Counts of all runs' buckets.
    pub counts: Vec<u64>,
}

impl Buckets {
    /// Of the table that the kernel side has.
    pub fn new() -> Self {
        Self { classic: widths(CLASSIC_NS), native: widths(NATIVE_INDEXES.map(native_bound_ns)) }
    }

    /// How many there were of each of [`CLASSIC_NS`]' buckets, and above all.
    pub fn classic(&self, histogram: &Histogram) -> [u64; CLASSIC_NS.len() + 1] {
        let mut cells = histogram.cells.iter();
        let mut counts = [0; CLASSIC_NS.len() + 1];
        for (count, width) in counts.iter_mut().zip(&self.classic) {
            *count = cells.by_ref().take(*width).sum();
        }
        counts[CLASSIC_NS.len()] = cells.sum();
        counts
    }

    /// The same in native buckets.
    pub fn native(&self, histogram: &Histogram) -> Native {
        let mut native = Native::default();
        let mut cells = histogram.cells.iter();
        let mut sums: Vec<u64> =
            self.native.iter().map(|width| cells.by_ref().take(*width).sum()).collect();
        sums.push(cells.sum());
        let mut next = 0;
        for (index, count) in (*NATIVE_INDEXES.start()..).zip(sums) {
            if index == *NATIVE_INDEXES.start() {
                native.zero = count;
            } else if count > 0 {
                match native.spans.last_mut() {
                    Some((_, length)) if index == next => *length += 1,
                    _ => native.spans.push((index - next, 1)),
                }
                next = index + 1;
                native.counts.push(count);
            }
        }
        native
    }
}

fn widths(bounds: impl IntoIterator<Item = u64>) -> Vec<usize> {
    let cells = bounds_ns();
    let ends = bounds.into_iter().map(|bound| cells.partition_point(|cell| *cell <= bound));
    let mut taken = 0;
    ends.map(|end| end - std::mem::replace(&mut taken, end)).collect()
}

/// The width of the native bucket around zero, in seconds: what is shorter is not told apart.
pub fn zero_threshold() -> f64 {
    (f64::from(*NATIVE_INDEXES.start()) / 4.0).exp2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fixture::histogram;

    fn native(durations: &[u64]) -> Native {
        Buckets::new().native(&histogram(durations))
    }

    #[test]
    fn a_classic_bucket_includes_its_upper_bound_and_not_its_lower_one() {
        let durations = [5_000_000, 5_000_001, 10_000_000, 20_000_000_000];
        let counts = Buckets::new().classic(&histogram(&durations));
        assert_eq!((counts[0], counts[1], counts[14]), (1, 2, 1));
        assert_eq!(counts.iter().sum::<u64>(), 4);
    }

    #[test]
    fn a_native_bucket_includes_its_upper_bound_and_not_its_lower_one() {
        // 2^(0/4) s is the end of bucket 0, 2^(1/4) s (1.189…) of bucket 1.
        let found = native(&[1_000_000_000, 1_000_000_001, 1_189_207_115, 1_189_207_116]);
        assert_eq!(found.spans, [(0, 3)]);
        assert_eq!(found.counts, [1, 2, 1]);
    }

    #[test]
    fn runs_of_buckets_are_told_with_the_gaps_between_them() {
        // Bucket -39 is from 2^(-40/4) s (0.977 ms) to 2^(-39/4) s (1.161 ms); 16 s ends bucket 16.
        let found = native(&[1_000_000, 1_100_000, 16_000_000_000]);
        assert_eq!(found.spans, [(-39, 1), (54, 1)]);
        assert_eq!((found.counts, found.zero), (vec![2, 1], 0));
    }

    #[test]
    fn both_ends_are_told() {
        let found = native(&[0, 1_000, 1_134, 1_135, 64_000_000_000, 64_000_000_001, u64::MAX / 2]);
        assert_eq!(found.zero, 3);
        assert_eq!(found.spans, [(-78, 1), (101, 2)]);
        assert_eq!(found.counts, [1, 1, 2]);
        assert!((zero_threshold() - 1.1341e-6).abs() < 1e-10);
    }

    #[test]
    fn nothing_is_no_bucket() {
        assert_eq!(native(&[]), Native::default());
    }
}
