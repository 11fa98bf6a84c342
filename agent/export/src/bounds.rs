//! The `le` bounds of classic histograms.
//!
//! Each is the upper bound of an edgelat bucket, so its count is exact: it covers whole buckets.

use edgelat_histogram::{INDEX_MAX, INDEX_MIN, SCALE};
use edgelat_spool::Counts;

/// The bounds: whole steps of `2^(1 / buckets per octave)`, from 2^-24 s to 2^8 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Buckets of edgelat from one bound to the next.
    step: i32,
}

/// Possible numbers of bounds per octave.
pub const PER_OCTAVE: [u8; 4] = [1, 2, 4, 8];

impl Bounds {
    /// This many bounds per octave, one of [`PER_OCTAVE`].
    pub fn per_octave(buckets: u8) -> Option<Self> {
        PER_OCTAVE.contains(&buckets).then(|| Self { step: (1 << SCALE) / i32::from(buckets) })
    }

    /// The bounds in seconds, each with the number of durations up to it. The count would include
    /// durations above the last bound, but none occur.
    pub fn cumulative(self, counts: &Counts) -> impl Iterator<Item = (f64, u64)> {
        let mut buckets = counts.buckets.iter().peekable();
        let mut passed = counts.zero;
        // A bucket's index is that of its lower bound.
        (INDEX_MIN..=INDEX_MAX + 1).step_by(self.step as usize).map(move |bound| {
            while let Some((_, count)) = buckets.next_if(|(index, _)| *index < bound) {
                passed = passed.saturating_add(*count);
            }
            (seconds(bound), passed)
        })
    }
}

impl Default for Bounds {
    /// One bound per octave: 33 bounds.
    fn default() -> Self {
        Self { step: 1 << SCALE }
    }
}

/// `2^(bound / 8)`.
fn seconds(bound: i32) -> f64 {
    (f64::from(bound) / f64::from(1 << SCALE)).exp2()
}

/// Formats a number as Go (`strconv.FormatFloat(x, 'g', -1, 64)`) and Prometheus' own clients do:
/// with the fewest digits that identify it, and an exponent if it is small. In OpenMetrics a whole
/// number has a `.0`.
pub fn in_go(number: f64, open_metrics: bool) -> String {
    let text = format!("{number:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..21).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ if open_metrics && number.fract() == 0.0 => format!("{number:.1}"),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgelat_histogram::{bucket_index, upper_bound_ns};

    #[test]
    fn bounds_are_written_as_gos_clients_write_them() {
        for (number, classic, open_metrics) in [
            (1.0, "1", "1.0"),
            (256.0, "256", "256.0"),
            (0.5, "0.5", "0.5"),
            (0.0001220703125, "0.0001220703125", "0.0001220703125"),
            (6.103515625e-5, "6.103515625e-05", "6.103515625e-05"),
            (5.960464477539063e-8, "5.960464477539063e-08", "5.960464477539063e-08"),
        ] {
            assert_eq!(in_go(number, false), classic);
            assert_eq!(in_go(number, true), open_metrics);
        }
    }

    #[test]
    fn each_bound_has_just_the_durations_up_to_it() {
        let durations: Vec<u64> =
            (0..4_000).map(|n: u64| n * n * n * 4 + n % 7).chain([0, 59, 60, 256_000_000_000]).collect();
        let mut counts = Counts::default();
        for ns in &durations {
            let mut one = Counts::default();
            match bucket_index(*ns).filter(|index| *index >= INDEX_MIN) {
                Some(index) => one.buckets.push((index, 1)),
                None => one.zero = 1,
            }
            counts.add(&one);
        }
        for per_octave in PER_OCTAVE {
            let bounds: Vec<_> = Bounds::per_octave(per_octave).unwrap().cumulative(&counts).collect();
            assert_eq!(bounds.len(), 32 * usize::from(per_octave) + 1);
            for (bound, count) in &bounds {
                let expected = durations.iter().filter(|ns| **ns as f64 / 1e9 <= *bound).count() as u64;
                assert_eq!(*count, expected, "up to {bound} s with {per_octave} to an octave");
            }
            assert_eq!(bounds.last().unwrap(), &(256.0, counts.exits()));
        }
        assert_eq!(Bounds::per_octave(3), None);
    }

    #[test]
    fn a_bound_is_the_upper_bound_of_a_bucket() {
        for (at, (bound, _)) in Bounds::per_octave(8).unwrap().cumulative(&Counts::default()).enumerate() {
            let ns = upper_bound_ns(INDEX_MIN - 1 + at as i32);
            assert!((bound * 1e9 - ns as f64).abs() <= 1.0 + bound * 1e-6, "{bound} s, {ns} ns");
        }
    }
}
