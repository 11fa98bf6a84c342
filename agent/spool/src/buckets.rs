//! Buckets in as few bits as possible.
//!
//! The buckets of a function are adjacent, with similar counts in neighbours: counts rise to the
//! most frequent durations and fall again. So a count is written as the difference of its length in
//! bits from that of the one before, mostly 0 or 1, followed by its bits below the top one.
//!
//! ```text
//! byte    index of the first occupied bucket - INDEX_MIN
//! bits    for each bucket from there on, the highest bit of a byte first:
//!           gamma(1 + zigzag(length - length before))     length: bits of the count, 0 for an empty bucket
//!           length > 0: the length - 1 lower bits of the count
//!           length = 0: gamma(how many empty buckets follow each other)
//!         and zeros up to a whole byte
//! ```
//!
//! `gamma(n)` is Elias' code for numbers from 1 on: as many zeros as `n` has bits below its top
//! one, then `n`. Every code contains a one, so trailing zeros are no bucket. The first length
//! counts from 0.

use edgelat_histogram::{BUCKETS, INDEX_MIN};

/// Writes bits into bytes.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    /// Unused bits of the last byte.
    left: u32,
}

impl Writer {
    /// Appends the lowest `count` bits of a number.
    fn bits(&mut self, number: u64, count: u32) {
        for place in (0..count).rev() {
            if self.left == 0 {
                self.bytes.push(0);
                self.left = 8;
            }
            self.left -= 1;
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((number >> place & 1) as u8) << self.left;
            }
        }
    }

    fn gamma(&mut self, number: u64) {
        let below = number.ilog2();
        self.bits(0, below);
        self.bits(number, below + 1);
    }
}

/// Reads bits from bytes.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Reader<'_> {
    fn bit(&mut self) -> Option<u64> {
        let byte = self.bytes.get(self.at / 8)?;
        self.at += 1;
        Some(u64::from(byte >> (7 - (self.at - 1) % 8) & 1))
    }

    /// Reads a number whose top bit is 1, with `below` bits below.
    fn number(&mut self, below: u32) -> Option<u64> {
        (0..below).try_fold(1, |number, _| Some(number << 1 | self.bit()?))
    }

    /// Reads a number; `None` at the end.
    fn gamma(&mut self) -> Option<u64> {
        let mut below = 0;
        while self.bit()? == 0 {
            below += 1;
        }
        self.number(below).filter(|_| below < 64)
    }
}

/// Packs occupied buckets, ascending, into bytes; no buckets take no byte.
pub fn pack(buckets: &[(i32, u64)]) -> Vec<u8> {
    let Some((first, _)) = buckets.first() else { return Vec::new() };
    let mut out = Writer::default();
    out.bits((first - INDEX_MIN) as u64, 8);
    let (mut next, mut before) = (*first, 0);
    for (index, count) in buckets {
        if *index > next {
            length(&mut out, &mut before, 0);
            out.gamma((index - next) as u64);
        }
        let bits = count.ilog2() + 1;
        length(&mut out, &mut before, bits);
        out.bits(*count, bits - 1);
        next = index + 1;
    }
    out.bytes
}

fn length(out: &mut Writer, before: &mut u32, bits: u32) {
    let difference = i64::from(bits) - i64::from(*before);
    out.gamma(1 + ((difference << 1) ^ (difference >> 63)) as u64);
    *before = bits;
}

/// Unpacks buckets; `None` if the bytes are invalid.
pub fn unpack(bytes: &[u8]) -> Option<Vec<(i32, u64)>> {
    let mut buckets = Vec::new();
    let Some((first, bytes)) = bytes.split_first() else { return Some(buckets) };
    let mut bits = Reader { bytes, at: 0 };
    let (mut place, mut before) = (u64::from(*first), 0);
    while let Some(code) = bits.gamma() {
        let zigzag = code - 1;
        let length = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        let length = length.checked_add(before).filter(|length| (0..=64).contains(length))?;
        before = length;
        if length == 0 {
            place = place.checked_add(bits.gamma()?)?;
        } else if place < BUCKETS as u64 {
            buckets.push((INDEX_MIN + place as i32, bits.number(length as u32 - 1)?));
            place += 1;
        } else {
            return None;
        }
    }
    Some(buckets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgelat_histogram::INDEX_MAX;

    #[test]
    fn buckets_are_packed_as_the_page_says() {
        assert_eq!(pack(&[]), []);
        // 5 has three bits: gamma(1 + 6) = 00111, and 01; then 4, of as many: 1 00; a gap of two: three bits less is 5,
        // gamma(6) = 00110, and gamma(2) = 010; 1: one bit more is 2, gamma(3) = 011.
        let bits = [0b0011_1011, 0b0000_1100, 0b1001_1000];
        assert_eq!(pack(&[(-192 + 9, 5), (-192 + 10, 4), (-192 + 13, 1)]), [[9].as_slice(), &bits].concat());
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let all: Vec<(i32, u64)> = (INDEX_MIN..=INDEX_MAX).map(|index| (index, 1 << (index & 63))).collect();
        for buckets in [
            vec![],
            vec![(INDEX_MIN, 1)],
            vec![(INDEX_MAX, u64::MAX)],
            vec![(INDEX_MIN, u64::MAX), (INDEX_MAX, 1)],
            vec![(-100, 7), (-98, 7), (-97, 1 << 40), (0, 3)],
            all,
        ] {
            assert_eq!(unpack(&pack(&buckets)), Some(buckets));
        }
    }

    #[test]
    fn bits_that_are_no_buckets_are_none() {
        // Behind the last bucket; a length below 0; above 64; a truncated count.
        assert_eq!(unpack(&[255, 0b0111_0000, 0b1110_0000]), None);
        assert_eq!(unpack(&[0, 0b0100_0000]), None);
        assert_eq!(unpack(&[0, 0, 0b0000_0001, 0xff, 0xff]), None);
        assert_eq!(unpack(&[0, 0b0001_1111]), None);
    }
}
