//! Checks the formula with exact arithmetic: integers of any size.
//!
//! Bucket `i` of scale `s` holds `v` nanoseconds if and only if `2^(i/n) < v / 10^9 <= 2^((i+1)/n)`
//! with `n = 2^s`. Raised to the power `n` and cleared of fractions, both comparisons are between
//! integers: `2^i * 10^(9n) < v^n <= 2^(i+1) * 10^(9n)`.

use crate::{BUCKETS, FIRST, INDEX_MIN, SCALE, THRESHOLDS, bucket_index, index_by, upper_bound_ns};
use std::{cmp::Ordering, vec, vec::Vec};

/// A natural number, least significant word first, without leading zero words.
#[derive(Clone, PartialEq, Eq)]
struct Natural(Vec<u32>);

impl Natural {
    fn from(value: u128) -> Self {
        Self((0..4).map(|word| (value >> (32 * word)) as u32).collect()).trimmed()
    }

    fn trimmed(mut self) -> Self {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    fn times(&self, other: &Self) -> Self {
        let mut words = vec![0u32; self.0.len() + other.0.len()];
        for (i, a) in self.0.iter().enumerate() {
            let mut carry = 0u64;
            for (j, b) in other.0.iter().enumerate() {
                let sum = u64::from(*a) * u64::from(*b) + u64::from(words[i + j]) + carry;
                words[i + j] = sum as u32;
                carry = sum >> 32;
            }
            words[i + other.0.len()] = carry as u32;
        }
        Self(words).trimmed()
    }

    fn to_the(&self, power: u32) -> Self {
        (0..power).fold(Self::from(1), |product, _| product.times(self))
    }

    fn shifted_up(&self, bits: u32) -> Self {
        self.times(&Self::from(2).to_the(bits))
    }
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0.len().cmp(&other.0.len())).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}

/// Compares `ns` nanoseconds with `2^(i/n)` seconds, exactly.
fn compare_with_bound(ns: u64, i: i32, n: u32) -> Ordering {
    let value = Natural::from(ns.into()).to_the(n);
    let bound = Natural::from(1_000_000_000).to_the(n);
    if i < 0 {
        value.shifted_up(i.unsigned_abs()).cmp(&bound)
    } else {
        value.cmp(&bound.shifted_up(i as u32))
    }
}

fn assert_in_bucket(ns: u64, index: i32, scale: i32) {
    let n = 1 << scale;
    assert_eq!(
        compare_with_bound(ns, index, n),
        Ordering::Greater,
        "{ns} ns is above bucket {index}'s lower"
    );
    assert_ne!(
        compare_with_bound(ns, index + 1, n),
        Ordering::Greater,
        "{ns} ns is within bucket {index}'s upper"
    );
}

/// The bounds and first index for `scale`, derived from their definition by bisection: the largest
/// 64-bit number that does not exceed `10^9 * 2^(j/n)`, normalised.
fn table(scale: i32) -> (i32, Vec<u64>) {
    let n = 1u32 << scale;
    let mut bounds: Vec<(i32, u64)> = Vec::new();
    for j in 0..n {
        // 10^9 * 2^(j/n) lies in [2^29, 2^31); the shift brings its top bit to bit 63.
        let scaled = |shift: u32| Natural::from(1_000_000_000).to_the(n).shifted_up(j + shift * n);
        let top = Natural::from(1 << 30).to_the(n).shifted_up(34 * n);
        let above_2_30 = scaled(34) >= top;
        let target = if above_2_30 { scaled(33) } else { scaled(34) };
        let (mut low, mut high) = (1u128 << 63, 1u128 << 64);
        while high - low > 1 {
            let middle = (low + high) / 2;
            if Natural::from(middle).to_the(n) <= target { low = middle } else { high = middle }
        }
        // The bucket below this bound, in the octave k of the bound, has index j - 1.
        let octave = if above_2_30 { 30 } else { 29 };
        bounds.push((j as i32 - 1 - (octave << scale), low as u64));
    }
    bounds.sort_by_key(|bound| bound.1);
    // index = (k << s) + first + c - 1, with c = 0 at the lowest bound.
    (bounds[0].0 + 1, bounds.into_iter().map(|bound| bound.1).collect())
}

#[test]
fn the_table_is_what_its_definition_gives() {
    assert_eq!(table(SCALE), (FIRST, THRESHOLDS.to_vec()));
}

#[test]
fn every_bucket_of_a_row_begins_and_ends_where_it_should() {
    for index in (INDEX_MIN..).take(BUCKETS) {
        let (low, high) = (upper_bound_ns(index - 1) + 1, upper_bound_ns(index));
        assert!(low <= high, "bucket {index} holds at least one whole nanosecond");
        for (ns, expected) in [(low - 1, index - 1), (low, index), (high, index), (high + 1, index + 1)] {
            assert_eq!(bucket_index(ns), Some(expected), "{ns} ns");
            assert_in_bucket(ns, expected, SCALE);
        }
    }
}

#[test]
fn the_formula_holds_for_scales_0_to_4_on_both_sides_of_every_bound_of_u64() {
    for scale in 0..=4 {
        let (first, thresholds) = table(scale);
        for k in 0..64 {
            for threshold in &thresholds {
                let bound = threshold >> (63 - k);
                for ns in [bound.saturating_sub(1), bound, bound.saturating_add(1)] {
                    match index_by(ns, scale, first, &thresholds) {
                        None => assert_eq!(ns, 0),
                        Some(index) => assert_in_bucket(ns, index, scale),
                    }
                }
            }
            for ns in [1 << k, (1 << k) - 1] {
                if let Some(index) = index_by(ns, scale, first, &thresholds) {
                    assert_in_bucket(ns, index, scale);
                }
            }
        }
        assert_in_bucket(u64::MAX, index_by(u64::MAX, scale, first, &thresholds).unwrap(), scale);
    }
}

#[test]
fn one_scale_down_is_an_arithmetic_shift_right() {
    for scale in 1..=4 {
        let (fine, coarse) = (table(scale), table(scale - 1));
        let mut ns = 1u64;
        while ns < u64::MAX / 2 {
            let finer = index_by(ns, scale, fine.0, &fine.1).unwrap();
            assert_eq!(index_by(ns, scale - 1, coarse.0, &coarse.1), Some(finer >> 1), "{ns} ns");
            ns += ns / 100 + 1;
        }
    }
}
