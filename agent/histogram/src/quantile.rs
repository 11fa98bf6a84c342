//! Quantiles, as Prometheus' `histogram_quantile` estimates them for native histograms.
//!
//! A histogram knows only the bucket of a duration. The estimate assumes that the durations of a
//! bucket are spread evenly over the *logarithm* of time: the rank `q * count` falls a fraction `f`
//! of the way through the durations of one bucket, and the answer is `lower * (upper / lower)^f`.
//! In the zero bucket, which has no logarithm, the way is linear from 0 to its threshold. With
//! Prometheus' rule a figure shown here agrees with a panel over the exported data.

use crate::{Histogram, INDEX_MIN, SCALE, ZERO_MAX_NS, upper_bound_ns};

impl Histogram {
    /// Estimates the `q`-quantile in nanoseconds: the duration that a share `q` of all did not
    /// exceed. `q` is clamped to 0 to 1. `None` if nothing was recorded or `q` is not a number.
    ///
    /// The answer always lies in the bucket that holds the true quantile, so it is at most one
    /// bucket width (9.05 %) off. It is rounded to a whole nanosecond of that bucket.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 || q.is_nan() {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * count as f64;
        let mut passed = self.zero_count();
        if self.zero_count() > 0 && passed as f64 >= rank {
            let threshold_s = 1.0 / (1u64 << -(INDEX_MIN >> SCALE)) as f64;
            let ns = rank / self.zero_count() as f64 * threshold_s * 1e9;
            return Some(rounded(ns, 0, ZERO_MAX_NS));
        }
        let mut last = None;
        for (index, in_bucket) in self.occupied() {
            let before = passed;
            passed = passed.saturating_add(in_bucket);
            last = Some(index);
            if passed as f64 >= rank {
                let fraction = (rank - before as f64) / in_bucket as f64;
                let exponent = (f64::from(index & ((1 << SCALE) - 1)) + fraction) / f64::from(1 << SCALE);
                let octave = index >> SCALE;
                let seconds = exp2_of_unit(exponent) * power_of_two(octave);
                return Some(rounded(seconds * 1e9, upper_bound_ns(index - 1) + 1, upper_bound_ns(index)));
            }
        }
        // Reached only with counts above 2^53, for which f64 rounds the rank up.
        last.map(upper_bound_ns)
    }
}

/// The whole number nearest to `ns`, within `low..=high`.
fn rounded(ns: f64, low: u64, high: u64) -> u64 {
    ((ns + 0.5) as u64).clamp(low, high)
}

/// 2^`octave` for the octaves of a row, -24 to 7.
fn power_of_two(octave: i32) -> f64 {
    let magnitude = (1u64 << octave.unsigned_abs()) as f64;
    if octave < 0 { 1.0 / magnitude } else { magnitude }
}

/// Computes 2^x for x in 0..=1, to the last place or two.
///
/// `f64::exp2` is not in `core`, and libm's needs a table; this loop takes a hundred bytes.
fn exp2_of_unit(x: f64) -> f64 {
    let power = x * core::f64::consts::LN_2;
    let mut term = 1.0;
    let mut sum = 1.0;
    // ln(2)^18 / 18! is 2e-19, below the precision of f64.
    for n in 1..18 {
        term *= power / f64::from(n);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BUCKETS, INDEX_MAX, bucket_index};

    #[test]
    fn exp2_agrees_with_the_library() {
        for step in 0..=10_000 {
            let x = f64::from(step) / 10_000.0;
            assert!((exp2_of_unit(x) - x.exp2()).abs() < 1e-15, "2^{x}");
        }
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::new().quantile(0.5), None);
    }

    #[test]
    fn quantiles_are_what_prometheus_computes() {
        // Ten durations in (1 s, 2^(1/8) s], thirty in (2^(1/8) s, 2^(2/8) s]. Ranks by hand:
        // q = 0.1 is 4 of 10 in the first, q = 0.5 is 10 of 30 in the second.
        let mut counts = [0; BUCKETS];
        counts[(-INDEX_MIN) as usize] = 10;
        counts[(1 - INDEX_MIN) as usize] = 30;
        let histogram = Histogram::from_counts(0, &counts, 0);
        let seconds = |exponent: f64| (exponent.exp2() * 1e9).round() as u64;
        assert_eq!(histogram.quantile(0.1), Some(seconds(0.4 / 8.0)));
        assert_eq!(histogram.quantile(0.25), Some(1_090_507_732)); // ...732.67, held inside the first
        assert_eq!(histogram.quantile(0.5), Some(seconds(4.0 / 3.0 / 8.0)));
        assert_eq!(histogram.quantile(1.0), Some(seconds(2.0 / 8.0)));
        assert_eq!(histogram.quantile(7.0), histogram.quantile(1.0));
        assert_eq!(histogram.quantile(-7.0), histogram.quantile(0.0));
        assert_eq!(histogram.quantile(f64::NAN), None);
    }

    #[test]
    fn the_zero_bucket_is_linear() {
        let mut counts = [0; BUCKETS];
        counts[0] = 10;
        let histogram = Histogram::from_counts(10, &counts, 0);
        assert_eq!(histogram.quantile(0.0), Some(0));
        assert_eq!(histogram.quantile(0.25), Some(30)); // half of 59.6
        assert_eq!(histogram.quantile(0.5), Some(59)); // 59.6, held inside the zero bucket
        assert_eq!(histogram.quantile(0.51), Some(60));
        assert_eq!(histogram.quantile(1.0), Some(64)); // 64.99, held inside the bucket
    }

    #[test]
    fn a_quantile_lies_in_the_bucket_of_the_true_quantile() {
        for index in INDEX_MIN..=INDEX_MAX {
            let mut counts = [0; BUCKETS];
            counts[(index - INDEX_MIN) as usize] = 1_000;
            let histogram = Histogram::from_counts(0, &counts, 0);
            for q in [0.0, 0.001, 0.5, 0.9, 0.999, 1.0] {
                let ns = histogram.quantile(q).unwrap();
                assert_eq!(bucket_index(ns), Some(index), "q = {q}");
            }
        }
    }

    #[test]
    fn counts_too_large_for_a_float_still_have_quantiles() {
        let full = Histogram::from_counts(0, &[u64::MAX; BUCKETS], 0);
        assert!(full.quantile(1.0).is_some());
        assert!(full.quantile(0.5).is_some());
    }
}
