//! Base-2 exponential histograms of durations: the bounds of a bucket, and the statistics of many.
//!
//! # The scheme
//!
//! A histogram of scale `s` cuts the time axis, in **seconds**, at the powers of `base = 2^(2^-s)`.
//! Bucket `i` holds the durations in `(base^i, base^(i+1)]`: the upper bound belongs to the bucket.
//! With [`SCALE`] = 3 there are eight buckets to an octave, so a bucket is 9.05 % wide and its
//! middle is at most 4.4 % away from anything inside it, for a microsecond as for a minute.
//!
//! The buckets are identical to those of other systems:
//!
//! | elsewhere | index |
//! | --- | --- |
//! | OTLP `ExponentialHistogramDataPoint` of scale 3 | the same `i` |
//! | Prometheus native histogram of schema 3 | `i + 1` |
//! | classic `le` buckets | the upper bound `2^((i + 1) / 8)` seconds |
//!
//! Every lower scale is an exact merge of neighbours, because a coarser bucket consists of whole
//! finer ones: one scale down is `i >> 1` (see [`Histogram::at_scale`]).
//!
//! # From nanoseconds to a bucket without floating point
//!
//! The kernel counts integer nanoseconds and its programs have no floating point, and the bounds
//! are irrational: `10^9 * 2^(j/8)` nanoseconds. But one octave of *nanoseconds* has exactly eight
//! bounds, and every octave has the same eight, shifted. So: let `k = floor(log2 ns)`, shift the
//! value up until its top bit is bit 63, and count the bounds, shifted alike, that it exceeds.
//! [`THRESHOLDS`] are these bounds rounded down to 64 bits, which is exact for the purpose: an
//! integer exceeds an irrational number if and only if it exceeds its floor. The only bound that is
//! a whole number, a power of two seconds, is exact in 64 bits, and `>` leaves it in the bucket
//! below.
//!
//! ```text
//! c = how many of THRESHOLDS are below ns << (63 - k)
//! i = 8 * k + FIRST + c - 1
//! ```
//!
//! This crate owns the table. The BPF program gets it as read-only data, so there is one source.
//!
//! # The row
//!
//! A histogram keeps [`BUCKETS`] = 256 buckets, `i` from [`INDEX_MIN`] to [`INDEX_MAX`], which is
//! 2^-24 s (59.6 ns) to 2^8 s (256 s). Shorter durations are the zero count, with 2^-24 s as its
//! threshold. Longer ones are not in the histogram; the recorder counts them as a named loss
//! (`over_range`), so that no total is silently short.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

#[cfg(test)]
mod oracle;
mod quantile;

/// Scale of every histogram: `2^SCALE` buckets to an octave.
pub const SCALE: i32 = 3;

/// Index of the bucket whose upper bound is `THRESHOLDS[0]` for `k = 0`, plus one: the constant of
/// the formula in the module documentation. 1 ns is 2^-29.897 s, in bucket `FIRST - 1` = -240.
pub const FIRST: i32 = -239;

/// The eight bucket bounds within one octave of nanoseconds, `10^9 * 2^(j/8)` shifted until the top
/// bit is bit 63 and rounded down, in ascending order. The last one, 10^9 itself, is exact.
pub const THRESHOLDS: [u64; 1 << SCALE] = [
    0x81ff_a7a9_549c_a6e3,
    0x8dc3_b896_0164_a7d9,
    0x9a98_6705_4d51_2391,
    0xa896_5f74_bf06_5071,
    0xb7d8_8a12_d0dd_9ea0,
    0xc87c_3e7d_03cd_bec3,
    0xdaa1_7c2c_d195_55db,
    0xee6b_2800_0000_0000,
];

/// Number of buckets of a row.
pub const BUCKETS: usize = 256;

/// Index of the first bucket of a row: (2^-24 s, 2^-23.875 s], in whole nanoseconds 60 to 64.
pub const INDEX_MIN: i32 = -192;

/// Index of the last bucket of a row: (2^7.875 s, 2^8 s], up to and with 256 s.
pub const INDEX_MAX: i32 = 63;

/// Durations up to this many nanoseconds belong to the zero count. The exact threshold is
/// 2^-24 s = 59.604... ns (`zero_threshold` in OTLP and Prometheus).
pub const ZERO_MAX_NS: u64 = upper_bound_ns(INDEX_MIN - 1);

/// Durations above this many nanoseconds (256 s) are beyond the row.
pub const RANGE_MAX_NS: u64 = upper_bound_ns(INDEX_MAX);

/// Index of the bucket of scale [`SCALE`] that holds a duration. `None` for 0 ns, which has none.
///
/// The result covers all of `u64`, from -240 (1 ns) to 272 (584 years). It may lie outside a row:
/// see [`place`].
pub const fn bucket_index(ns: u64) -> Option<i32> {
    index_by(ns, SCALE, FIRST, &THRESHOLDS)
}

/// The formula for any scale with given bounds.
const fn index_by(ns: u64, scale: i32, first: i32, thresholds: &[u64]) -> Option<i32> {
    if ns == 0 {
        return None;
    }
    let k = ns.ilog2();
    let normalised = ns << (63 - k);
    let mut exceeded = 0;
    while exceeded < thresholds.len() && normalised > thresholds[exceeded] {
        exceeded += 1;
    }
    Some(((k as i32) << scale) + first + exceeded as i32 - 1)
}

/// The largest whole number of nanoseconds inside bucket `index`.
///
/// The smallest is `upper_bound_ns(index - 1) + 1`. Exact for -240 to 271; an index below gives 0, one
/// above gives `u64::MAX`.
pub const fn upper_bound_ns(index: i32) -> u64 {
    // The inverse of the formula: `k` and `c` such that the bound is THRESHOLDS[c] * 2^(k - 63).
    let position = index - FIRST + 1;
    let (k, c) = (position >> SCALE, position & ((1 << SCALE) - 1));
    if k < 0 {
        0
    } else if k > 63 {
        u64::MAX
    } else {
        THRESHOLDS[c as usize] >> (63 - k)
    }
}

/// Place of a duration in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At most [`ZERO_MAX_NS`]: the zero count.
    Zero,
    /// The bucket at this position of the array, 0 to 255; its index is the position + [`INDEX_MIN`].
    Bucket(usize),
    /// Longer than [`RANGE_MAX_NS`]: a loss.
    OverRange,
}

/// Place of a duration of `ns` nanoseconds in a row.
pub const fn place(ns: u64) -> Place {
    match bucket_index(ns) {
        None => Place::Zero,
        Some(index) if index < INDEX_MIN => Place::Zero,
        Some(index) if index > INDEX_MAX => Place::OverRange,
        Some(index) => Place::Bucket((index - INDEX_MIN) as usize),
    }
}

/// The durations of one function, all lanes together.
///
/// Counters are cumulative 64-bit numbers. Addition saturates instead of wrapping: a total that
/// stands still at 2^64 - 1 is visibly wrong, a total that restarts at 0 is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    zero: u64,
    buckets: [u64; BUCKETS],
    sum_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { zero: 0, buckets: [0; BUCKETS], sum_ns: 0 }
    }
}

impl Histogram {
    /// An empty histogram.
    pub fn new() -> Self {
        Self::default()
    }

    /// A histogram from counts made elsewhere, such as the row of one lane: the zero count, the
    /// buckets from [`INDEX_MIN`] on, and the sum of all recorded durations in nanoseconds.
    pub const fn from_counts(zero: u64, buckets: &[u64; BUCKETS], sum_ns: u64) -> Self {
        Self { zero, buckets: *buckets, sum_ns }
    }

    /// Counts one duration. Returns `false`, and changes nothing, if it is beyond the range; the
    /// caller counts that as a loss.
    #[must_use = "a duration beyond the range is not recorded and has to be counted as a loss"]
    pub fn record(&mut self, ns: u64) -> bool {
        let counter = match place(ns) {
            Place::Zero => &mut self.zero,
            Place::Bucket(position) => &mut self.buckets[position],
            Place::OverRange => return false,
        };
        *counter = counter.saturating_add(1);
        self.sum_ns = self.sum_ns.saturating_add(ns);
        true
    }

    /// Adds another histogram, exactly: the result equals recording both series here.
    pub fn merge(&mut self, other: &Self) {
        self.zero = self.zero.saturating_add(other.zero);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
    }

    /// Number of recorded durations, including the zero count.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(self.zero, |total, bucket| total.saturating_add(*bucket))
    }

    /// Sum of the recorded durations in nanoseconds.
    pub const fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// Number of durations of at most [`ZERO_MAX_NS`].
    pub const fn zero_count(&self) -> u64 {
        self.zero
    }

    /// The buckets from [`INDEX_MIN`] to [`INDEX_MAX`], including empty ones.
    pub const fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }

    /// Lower bound of the recorded durations: the smallest whole nanosecond of the lowest occupied
    /// bucket (0 for the zero count). `None` if nothing was recorded.
    pub fn min_ns(&self) -> Option<u64> {
        if self.zero > 0 {
            return Some(0);
        }
        let (index, _) = self.occupied().next()?;
        Some(upper_bound_ns(index - 1) + 1)
    }

    /// Upper bound of the recorded durations: the largest whole nanosecond of the highest occupied
    /// bucket. `None` if nothing was recorded.
    pub fn max_ns(&self) -> Option<u64> {
        match self.occupied().last() {
            Some((index, _)) => Some(upper_bound_ns(index)),
            None => (self.zero > 0).then_some(ZERO_MAX_NS),
        }
    }

    /// The occupied buckets as (index, count), in ascending order of duration.
    pub fn occupied(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        self.at_scale(SCALE)
    }

    /// The occupied buckets of the same histogram at `scale` <= [`SCALE`], as (index, count) in
    /// ascending order. Each is the exact sum of its finer buckets. A scale above [`SCALE`] is
    /// impossible and counts as [`SCALE`].
    pub fn at_scale(&self, scale: i32) -> impl Iterator<Item = (i32, u64)> + '_ {
        let shift = (SCALE - scale).clamp(0, 31);
        let mut fine =
            (INDEX_MIN..).zip(self.buckets.iter().copied()).filter(|bucket| bucket.1 > 0).peekable();
        core::iter::from_fn(move || {
            let (index, mut count) = fine.next()?;
            let coarse = index >> shift;
            while let Some((_, more)) = fine.next_if(|next| next.0 >> shift == coarse) {
                count = count.saturating_add(more);
            }
            Some((coarse, count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn recorded(durations: &[u64]) -> Histogram {
        let mut histogram = Histogram::new();
        for ns in durations {
            assert!(histogram.record(*ns), "{ns} ns is within the range");
        }
        histogram
    }

    #[test]
    fn the_ends_of_a_row_are_where_the_documentation_says() {
        assert_eq!(ZERO_MAX_NS, 59);
        assert_eq!(RANGE_MAX_NS, 256_000_000_000);
        assert_eq!(place(0), Place::Zero);
        assert_eq!(place(59), Place::Zero);
        assert_eq!(place(60), Place::Bucket(0));
        assert_eq!(place(64), Place::Bucket(0));
        assert_eq!(place(65), Place::Bucket(1));
        assert_eq!(place(RANGE_MAX_NS), Place::Bucket(BUCKETS - 1));
        assert_eq!(place(RANGE_MAX_NS + 1), Place::OverRange);
        assert_eq!(place(u64::MAX), Place::OverRange);
        assert_eq!((INDEX_MAX - INDEX_MIN + 1) as usize, BUCKETS);
        assert_eq!(bucket_index(1), Some(-240));
        assert_eq!(bucket_index(u64::MAX), Some(272));
    }

    #[test]
    fn a_power_of_two_seconds_is_in_the_bucket_below_it() {
        assert_eq!(bucket_index(1_000_000_000), Some(-1));
        assert_eq!(bucket_index(1_000_000_001), Some(0));
        assert_eq!(bucket_index(2_000_000_000), Some(7));
    }

    #[test]
    fn bounds_outside_all_of_u64_stop_at_its_ends() {
        assert_eq!(upper_bound_ns(-241), 0);
        assert_eq!(upper_bound_ns(i32::MIN / 2), 0);
        assert_eq!(upper_bound_ns(271), THRESHOLDS[7]);
        assert_eq!(upper_bound_ns(272), u64::MAX);
    }

    #[test]
    fn what_is_beyond_the_range_is_not_recorded() {
        let mut histogram = Histogram::new();
        assert!(!histogram.record(RANGE_MAX_NS + 1));
        assert_eq!(histogram, Histogram::new());
        assert_eq!((histogram.min_ns(), histogram.max_ns()), (None, None));
    }

    #[test]
    fn merging_equals_recording_both() {
        let (one, two) = (recorded(&[0, 100, 1_000, 77]), recorded(&[5, 1_000, 1_001, RANGE_MAX_NS]));
        let mut merged = one.clone();
        merged.merge(&two);
        assert_eq!(merged, recorded(&[0, 100, 1_000, 77, 5, 1_000, 1_001, RANGE_MAX_NS]));
        assert_eq!(merged.count(), 8);
        assert_eq!(merged.zero_count(), 2);
        assert_eq!(merged.sum_ns(), 2_183 + 1_000 + RANGE_MAX_NS);
    }

    #[test]
    fn a_full_counter_stands_still() {
        let full = Histogram::from_counts(u64::MAX, &[u64::MAX; BUCKETS], u64::MAX);
        let mut merged = full.clone();
        merged.merge(&recorded(&[1, 60]));
        assert_eq!(merged, full);
        assert_eq!(merged.count(), u64::MAX);
    }

    #[test]
    fn min_and_max_enclose_what_was_recorded() {
        let histogram = recorded(&[1_000, 50_000, 2_000_000]);
        assert_eq!((histogram.min_ns(), histogram.max_ns()), (Some(954), Some(2_129_897)));
        for ns in [1_000, 50_000, 2_000_000] {
            assert!(histogram.min_ns() <= Some(ns) && Some(ns) <= histogram.max_ns());
        }
        let zero = recorded(&[3]);
        assert_eq!((zero.min_ns(), zero.max_ns()), (Some(0), Some(59)));
        let both = recorded(&[3, 60]);
        assert_eq!((both.min_ns(), both.max_ns()), (Some(0), Some(64)));
    }

    #[test]
    fn a_lower_scale_is_the_same_as_counting_at_that_scale() {
        let mut counts = [0; BUCKETS];
        for (position, count) in counts.iter_mut().enumerate() {
            *count = position as u64 % 5; // every fifth bucket is empty
        }
        let histogram = Histogram::from_counts(7, &counts, 0);
        for scale in -20..=SCALE {
            let mut expected = std::collections::BTreeMap::new();
            for (index, count) in (INDEX_MIN..).zip(counts).filter(|bucket| bucket.1 > 0) {
                *expected.entry(index >> (SCALE - scale).min(31)).or_insert(0) += count;
            }
            let expected: Vec<_> = expected.into_iter().collect();
            assert_eq!(histogram.at_scale(scale).collect::<Vec<_>>(), expected, "scale {scale}");
        }
        assert_eq!(histogram.at_scale(9).count(), histogram.occupied().count());
    }
}
