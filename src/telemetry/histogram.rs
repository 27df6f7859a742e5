//! One table of bucket bounds for classic and native histograms.
//!
//! The union of OpenTelemetry's bounds for `http.server.request.duration` and of 2^(k/4) seconds
//! (Prometheus native schema 2) from 1 µs to 64 s: both renderings are exact sums of cells.

use super::wire::HistogramKey;

/// OpenTelemetry's bounds, in nanoseconds.
pub const CLASSIC_NS: [u64; 14] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

/// Native schema 2: growth by 2^(1/4).
pub const NATIVE_SCHEMA: i32 = 2;

/// Native bucket indexes covered: bucket `i` ends at 2^(i/4) s. -79 is the last below 1.2 µs; 24 is 64 s.
pub const NATIVE_INDEXES: std::ops::RangeInclusive<i32> = -79..=24;

/// Upper bounds of all cells but the last, ascending, in nanoseconds.
pub fn bounds_ns() -> Vec<u64> {
    let mut bounds: Vec<u64> = NATIVE_INDEXES.map(native_bound_ns).chain(CLASSIC_NS).collect();
    bounds.sort_unstable();
    bounds.dedup();
    bounds
}

/// The upper bound of native bucket `index`, in nanoseconds (cut to whole ones).
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 1e3 and 64e9
pub fn native_bound_ns(index: i32) -> u64 {
    (f64::from(index) / 4.0).exp2().mul_add(1e9, 0.0) as u64
}

const _: () = assert!(size_of::<HistogramKey>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_as_many_bounds_as_the_kernel_side() {
        let bounds = bounds_ns();
        let cells = crate::telemetry::wire::Histogram::default().cells.len();
        assert_eq!(bounds.len() + 1, cells);
        assert!(
            bounds.is_sorted() && bounds[0] < 1_200 && bounds[bounds.len() - 1] == 64_000_000_000
        );
    }
}
