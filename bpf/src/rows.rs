//! Counters of each function: the rows of the histogram array, read without a system call.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use edgelat_histogram::Histogram;

use crate::layout::{BUCKET_BIAS, ROW_BUCKETS, Row, SCALE, THRESHOLDS, WORK_EVERY};
use crate::mapping::{MapError, Mapping};

// The histogram crate owns the scheme; a row is its bucket array.
const _: () = assert!(ROW_BUCKETS == edgelat_histogram::BUCKETS);
const _: () = assert!(SCALE as i32 == edgelat_histogram::SCALE);
const _: () = assert!(THRESHOLDS == edgelat_histogram::THRESHOLDS.len());
// bucket = 8k + FIRST + c - 1 - INDEX_MIN, and the programs compute 8k + c - BUCKET_BIAS.
const _: () = assert!(1 + edgelat_histogram::INDEX_MIN - edgelat_histogram::FIRST == BUCKET_BIAS as i32);

macro_rules! at {
    ($field:ident) => {
        std::mem::offset_of!(Row, $field)
    };
}

/// Row of one function, summed over all lanes. All counters are cumulative since arming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowTotals {
    /// Hits of the entry site.
    pub entries: u64,
    /// Exits that found no frame, because their call was entered before arming.
    pub unmatched: u64,
    /// Sum of the durations in the histogram in nanoseconds.
    pub sum_ns: u64,
    /// Durations below the first bucket.
    pub zero: u64,
    /// Durations above the last bucket.
    pub over_range: u64,
    /// Frames left other than by an exit site, found because their exact key was entered again.
    pub abandoned: u64,
    /// Frames of calls that were open at the end of a window.
    pub cut: u64,
    /// Frames that gave way to younger ones.
    pub evicted: u64,
    /// Entries that found no frame.
    pub table_full: u64,
    /// Entries of Go functions whose goroutine could not be identified.
    pub unkeyed: u64,
    /// Part of `sum_ns` that probes took inside the calls; 0 until the price of a hit is known.
    pub probes_inside_ns: u64,
    /// Calls in the histogram for which that part is unknown.
    pub probes_unknown: u64,
    /// Calls left by an exception whose end was seen.
    pub unwound: u64,
    /// In a row of whole awaits: part of `sum_ns` in which they were suspended.
    pub suspended_ns: u64,
    /// In the row of the resumes: awaits that began without a row for the whole await.
    pub awaits_unresolved: u64,
    /// Calls inside now, if frames are in a hash and the programs count them themselves; else 0.
    pub inside: i64,
    /// Durations by bucket.
    pub buckets: [u64; ROW_BUCKETS],
    /// True if the function was entered during the read: the account may be off by those calls.
    pub unsettled: bool,
}

impl RowTotals {
    /// No calls.
    pub const NONE: Self = Self {
        entries: 0,
        unmatched: 0,
        sum_ns: 0,
        zero: 0,
        over_range: 0,
        abandoned: 0,
        cut: 0,
        evicted: 0,
        table_full: 0,
        unkeyed: 0,
        probes_inside_ns: 0,
        probes_unknown: 0,
        unwound: 0,
        suspended_ns: 0,
        awaits_unresolved: 0,
        inside: 0,
        buckets: [0; ROW_BUCKETS],
        unsettled: false,
    };

    /// Combines each counter with `other`'s: the difference since `other`, or the sum of both.
    fn with(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        let mut buckets = [0; ROW_BUCKETS];
        for (into, (one, two)) in buckets.iter_mut().zip(self.buckets.iter().zip(&other.buckets)) {
            *into = combine(*one, *two);
        }
        Self {
            entries: combine(self.entries, other.entries),
            unmatched: combine(self.unmatched, other.unmatched),
            sum_ns: combine(self.sum_ns, other.sum_ns),
            zero: combine(self.zero, other.zero),
            over_range: combine(self.over_range, other.over_range),
            abandoned: combine(self.abandoned, other.abandoned),
            cut: combine(self.cut, other.cut),
            evicted: combine(self.evicted, other.evicted),
            table_full: combine(self.table_full, other.table_full),
            unkeyed: combine(self.unkeyed, other.unkeyed),
            probes_inside_ns: combine(self.probes_inside_ns, other.probes_inside_ns),
            probes_unknown: combine(self.probes_unknown, other.probes_unknown),
            unwound: combine(self.unwound, other.unwound),
            suspended_ns: combine(self.suspended_ns, other.suspended_ns),
            awaits_unresolved: combine(self.awaits_unresolved, other.awaits_unresolved),
            inside: self.inside,
            buckets,
            unsettled: self.unsettled || other.unsettled,
        }
    }

    /// Changes since `before`, an earlier read of the same row.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        self.with(before, u64::saturating_sub)
    }

    /// Sum of both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// Calls that can no longer be measured.
    pub fn lost(&self) -> u64 {
        self.over_range + self.abandoned + self.cut + self.evicted + self.table_full + self.unkeyed
    }

    /// The histogram of all measured durations.
    pub fn histogram(&self) -> Histogram {
        Histogram::from_counts(self.zero, &self.buckets, self.sum_ns)
    }

    /// Calls whose duration is in the histogram.
    pub fn exits(&self) -> u64 {
        self.zero + self.buckets.iter().sum::<u64>()
    }
}

/// Words at the head of a row that determine the price of its hits.
const PRICED: usize = 8;
const _: () = assert!(at!(twins) == (PRICED - 1) * size_of::<u64>() && at!(entries) == 0);

/// Hits of the probes on one function since it was loaded, counted or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hits {
    /// Changes with every hit.
    pub mark: u64,
    /// Hits of entry sites.
    pub entries: u64,
    /// Hits of exit sites.
    pub exits: u64,
    /// Entry hits that did not count.
    pub idle_entries: u64,
    /// Exit hits that did not count; of Python's evaluation loop, all of them.
    pub idle_exits: u64,
    /// Entry hits that the kernel single-stepped.
    pub stepped_entries: u64,
    /// Exit hits that the kernel single-stepped.
    pub stepped_exits: u64,
    /// Hits of either kind that shared their trap with another hit.
    pub twins: u64,
    /// For Python's evaluation loop: time to find the function of a call, in nanoseconds; else 0.
    pub work_ns: u64,
}

/// Account of calls whose frames were discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Abandoned {
    /// As calls left other than by an exit.
    Abandoned,
    /// As cut by the end of a sampling window.
    Cut,
}

/// The mapped array of rows: index = function x lanes + CPU.
#[derive(Debug)]
pub struct Rows {
    mapping: Mapping,
    functions: usize,
    lanes: usize,
}

impl Rows {
    /// Maps the rows of `functions` functions in `lanes` lanes.
    ///
    /// # Errors
    /// [`MapError`] if the descriptor is not that array or memory is short.
    pub fn map(rows: impl AsFd, functions: usize, lanes: usize) -> Result<Self, MapError> {
        let elements =
            functions.checked_mul(lanes).ok_or(MapError::TooLarge { elements: functions, size: lanes })?;
        Ok(Self { mapping: Mapping::read(rows, elements, size_of::<Row>())?, functions, lanes })
    }

    /// As [`map`](Self::map), for a caller that also [gives up](Self::give_up) calls.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn map_to_give_up(rows: impl AsFd, functions: usize, lanes: usize) -> Result<Self, MapError> {
        let elements =
            functions.checked_mul(lanes).ok_or(MapError::TooLarge { elements: functions, size: lanes })?;
        Ok(Self { mapping: Mapping::write(rows, elements, size_of::<Row>())?, functions, lanes })
    }

    /// Accounts for `calls` of `function` whose frames are gone. `inside` of them no longer count
    /// as inside, if the programs count those. No effect past the last function. The rows must
    /// come from [`map_to_give_up`](Self::map_to_give_up).
    pub fn give_up(&self, function: usize, by: Abandoned, calls: u64, inside: i64) {
        if function >= self.functions {
            return;
        }
        let word = |field: usize| self.mapping.words(self.row(function, 0) + field, 1).first();
        let field = match by {
            Abandoned::Abandoned => at!(abandoned),
            Abandoned::Cut => at!(cut),
        };
        if let Some(abandoned) = word(field) {
            abandoned.fetch_add(calls, Ordering::Relaxed);
        }
        if let Some(counter) = word(at!(inside)).filter(|_| inside != 0) {
            counter.fetch_sub(inside as u64, Ordering::Relaxed);
        }
    }

    /// Number of functions.
    pub fn functions(&self) -> usize {
        self.functions
    }

    /// Hits of the entry site of `function` so far: a cheap test for any change.
    pub fn entries(&self, function: usize) -> u64 {
        self.sum(function, at!(entries))
    }

    /// Hits of the probes on `function` so far, by their cost. `before` is the last [`Hits::mark`]:
    /// `None` if nothing has changed since.
    pub fn hits(&self, function: usize, before: u64) -> Option<Hits> {
        let mut first = [0u64; PRICED];
        for lane in 0..self.lanes {
            for (sum, word) in first.iter_mut().zip(self.mapping.words(self.row(function, lane), PRICED)) {
                *sum = sum.wrapping_add(word.load(Ordering::Relaxed));
            }
        }
        let mark = first.iter().fold(0, |sum: u64, word| sum.wrapping_add(*word));
        if mark == before {
            return None;
        }
        let [entries, unmatched, abandoned, idle_entries, idle_exits, stepped_entries, stepped_exits, twins] =
            first;
        let lost =
            [at!(evicted), at!(table_full), at!(unkeyed), at!(cut)].map(|field| self.sum(function, field));
        let lost = lost.into_iter().fold(abandoned, u64::saturating_add);
        Some(Hits {
            mark,
            entries: entries + idle_entries,
            // Few calls are inside now.
            exits: entries.saturating_sub(lost) + unmatched + idle_exits,
            idle_entries,
            idle_exits,
            stepped_entries,
            stepped_exits,
            twins,
            work_ns: self.work_ns(function),
        })
    }

    /// The highest of the CPUs' means.
    fn work_ns(&self, function: usize) -> u64 {
        let lanes =
            (0..self.lanes).map(|lane| self.mapping.load(self.row(function, lane) + at!(python_work)));
        lanes.max().unwrap_or(0) / u64::from(WORK_EVERY)
    }

    /// Exits without a frame so far.
    pub fn unmatched(&self, function: usize) -> u64 {
        self.sum(function, at!(unmatched))
    }

    /// Reads one function. Counters written last are read first: a call that ends in between is
    /// then missing from the exits but never from the entries, so the account cannot show more
    /// exits than entries.
    pub fn read(&self, function: usize) -> RowTotals {
        let before = self.entries(function);
        let mut buckets = [0; ROW_BUCKETS];
        for lane in 0..self.lanes {
            let row = self.row(function, lane);
            // A lane whose CPU never saw a call of this function has nothing in it.
            if self.mapping.load(row + at!(sum_ns)) == 0 {
                continue;
            }
            let words = self.mapping.words(row + at!(buckets), ROW_BUCKETS);
            for (total, word) in buckets.iter_mut().zip(words) {
                *total += word.load(Ordering::Relaxed);
            }
        }
        let mut totals = RowTotals {
            entries: 0,
            unmatched: self.sum(function, at!(unmatched)),
            sum_ns: self.sum(function, at!(sum_ns)),
            zero: self.sum(function, at!(zero)),
            over_range: self.sum(function, at!(over_range)),
            abandoned: self.sum(function, at!(abandoned)),
            cut: self.sum(function, at!(cut)),
            evicted: self.sum(function, at!(evicted)),
            table_full: self.sum(function, at!(table_full)),
            unkeyed: self.sum(function, at!(unkeyed)),
            probes_inside_ns: self.sum(function, at!(probes_inside_ns)),
            probes_unknown: self.sum(function, at!(probes_unknown)),
            unwound: self.sum(function, at!(unwound)),
            suspended_ns: self.sum(function, at!(suspended_ns)),
            awaits_unresolved: self.sum(function, at!(awaits_unresolved)),
            inside: self.sum(function, at!(inside)) as i64,
            buckets,
            unsettled: false,
        };
        totals.entries = self.entries(function);
        totals.unsettled = totals.entries != before;
        totals
    }

    fn row(&self, function: usize, lane: usize) -> usize {
        (function * self.lanes + lane) * size_of::<Row>()
    }

    /// Sum of one counter over the lanes. It wraps, because a lane of `inside` is negative if calls
    /// end there that began elsewhere.
    fn sum(&self, function: usize, field: usize) -> u64 {
        (0..self.lanes)
            .fold(0, |sum: u64, lane| sum.wrapping_add(self.mapping.load(self.row(function, lane) + field)))
    }
}
