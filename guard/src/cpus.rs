//! Sets of CPUs, in the kernel's notation.

use std::fmt;

/// Most CPUs of a set: as many as `cpu_set_t` holds in every libc.
pub const MAX_CPUS: u32 = 1024;

/// Bits of a word of the set.
const BITS: u32 = u64::BITS;

/// A set of CPU numbers, each below [`MAX_CPUS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSet([u64; (MAX_CPUS / BITS) as usize]);

impl CpuSet {
    /// Every CPU that a set can hold.
    pub const ALL: Self = Self([u64::MAX; (MAX_CPUS / BITS) as usize]);

    /// Reads a list in the format of /proc and /sys, such as `0-3,8` (Linux, lib/bitmap-str.c,
    /// `bitmap_parselist`); an empty line is the empty set. `None` if it is no such list, or has a
    /// CPU that a set cannot hold.
    pub fn parse(list: &str) -> Option<Self> {
        let mut set = Self::default();
        for range in list.trim().split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= MAX_CPUS {
                return None;
            }
            (first..=last).for_each(|cpu| set.insert(cpu));
        }
        Some(set)
    }

    /// Adds a CPU to the set; a number that a set cannot hold changes nothing.
    pub fn insert(&mut self, cpu: u32) {
        if let Some(word) = self.0.get_mut((cpu / BITS) as usize) {
            *word |= 1 << (cpu % BITS);
        }
    }

    /// Returns true if this CPU is in the set.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.get((cpu / BITS) as usize).is_some_and(|word| word >> (cpu % BITS) & 1 == 1)
    }

    /// Returns true if the set is empty.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if every CPU of this set is also in `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        self.without(other).is_empty()
    }

    /// Returns the CPUs in either set.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.by_word(other, |a, b| a | b)
    }

    /// Returns the CPUs in both sets.
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> Self {
        self.by_word(other, |a, b| a & b)
    }

    /// Returns the CPUs in this set and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        self.by_word(other, |a, b| a & !b)
    }

    /// Returns the CPU numbers, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> {
        (0..MAX_CPUS).filter(|cpu| self.contains(*cpu))
    }

    /// Returns 64 CPUs a word, from the lowest bit of the first word on.
    pub fn words(&self) -> &[u64; (MAX_CPUS / BITS) as usize] {
        &self.0
    }

    fn by_word(&self, other: &Self, of: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|at| of(self.0[at], other.0[at])))
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<T: IntoIterator<Item = u32>>(cpus: T) -> Self {
        let mut set = Self::default();
        cpus.into_iter().for_each(|cpu| set.insert(cpu));
        set
    }
}

/// In the kernel's notation; `none` for the empty set.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        let mut comma = "";
        for first in self.iter().filter(|cpu| *cpu == 0 || !self.contains(cpu - 1)) {
            let last = (first..MAX_CPUS).take_while(|cpu| self.contains(*cpu)).last().unwrap_or(first);
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_written_as_the_kernel_writes_it() {
        for list in ["0", "1", "0-3,8", "2-7,62-65,1023", "0-1023"] {
            assert_eq!(CpuSet::parse(list).unwrap().to_string(), list);
        }
        assert_eq!(CpuSet::parse("1,2,3\n").unwrap().to_string(), "1-3");
        assert_eq!(CpuSet::parse("\n"), Some(CpuSet::default()));
        assert_eq!(CpuSet::default().to_string(), "none");
    }

    #[test]
    fn what_is_no_list_of_cpus_that_a_set_can_hold_is_nothing() {
        for list in ["x", "3-1", "0-", "-1", "1024", "0-4294967295", "(null)", "1;2", "0-3:1/2"] {
            assert_eq!(CpuSet::parse(list), None, "{list}");
        }
    }

    #[test]
    fn sets_are_compared_by_what_is_in_them() {
        let [few, more] = ["1,64", "0-1,64,70"].map(|list| CpuSet::parse(list).unwrap());
        assert!(few.is_within(&more) && !more.is_within(&few));
        assert_eq!(more.without(&few).to_string(), "0,70");
        assert_eq!(few.shared_with(&more), few);
        assert_eq!(few.and(&more), more);
        assert_eq!(few.iter().collect::<CpuSet>(), few);
        assert_eq!(few.words()[..2], [2, 1]);
    }

    #[test]
    fn a_number_beyond_the_bound_is_never_in_a_set() {
        let mut set = CpuSet::default();
        set.insert(MAX_CPUS);
        set.insert(u32::MAX);
        assert!(set.is_empty() && !set.contains(MAX_CPUS) && !set.contains(u32::MAX));
    }
}
