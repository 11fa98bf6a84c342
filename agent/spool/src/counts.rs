//! Counts of a function in some period: numbers that add up, so that intervals merge without loss.

use edgelat_histogram::{BUCKETS, Histogram, INDEX_MIN};

use crate::buckets;
use edgelat_wire::postcard::{self, Bytes};

/// Names of the losses, in the order of [`Counts::lost`]; docs/WATCH-JSON.md explains them.
pub const LOSSES: [&str; 7] =
    ["abandoned", "evicted", "ended_inside", "over_range", "table_full", "unresolved", "unkeyed"];

/// Figures before the losses: sum, probes inside, inside, off, zero, unmatched.
const FIGURES: usize = 6;
/// Place of the second figure; in records of the first version the later ones follow the first.
const PROBES: usize = 1;
/// The figures behind the losses, since version 3.
const EXCEPTIONS: usize = FIGURES + LOSSES.len();
const SUSPENDED: usize = EXCEPTIONS + 1;
/// All figures.
const ALL: usize = SUSPENDED + 1;

/// Counts of a function in some period, or cumulative since the beginning of its stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that began.
    pub entries: u64,
    /// Change of the number of calls inside; the sum is the number of calls inside.
    pub in_flight: i64,
    /// Calls in no histogram, by [`LOSSES`]. Negative if a loss turned out to be another one.
    pub lost: [i64; LOSSES.len()],
    /// Ends of calls that began before coverage; not part of the account.
    pub unmatched: u64,
    /// Calls that were seen to end by an exception or panic: in the histogram, or over range.
    pub exceptions: u64,
    /// Sum of the durations in the histogram, in nanoseconds.
    pub sum_ns: u64,
    /// Part of that sum that probes hit inside the calls took; `None` if unknown.
    pub probes_inside_ns: Option<u64>,
    /// Part of that sum in which whole awaits were suspended; `None` for anything else.
    pub suspended_ns: Option<u64>,
    /// Durations of at most [`edgelat_histogram::ZERO_MAX_NS`].
    pub zero: u64,
    /// Occupied buckets, ascending: index at [`edgelat_histogram::SCALE`] and durations in it.
    pub buckets: Vec<(i32, u64)>,
}

impl Counts {
    /// Durations in the histogram: the number of calls that were measured to their end.
    pub fn exits(&self) -> u64 {
        self.buckets.iter().fold(self.zero, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Error of the account: `entries - exits - in_flight - lost`. Calls that ran during the read
    /// of the row; 0 if added up to the end of a target.
    pub fn off(&self) -> i64 {
        let others = (self.exits() as i64).wrapping_add(self.in_flight).wrapping_add(self.all_lost());
        (self.entries as i64).wrapping_sub(others)
    }

    /// All losses together.
    pub fn all_lost(&self) -> i64 {
        self.lost.iter().fold(0, |sum: i64, lost| sum.wrapping_add(*lost))
    }

    /// True if nothing happened.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds later counts, exactly.
    pub fn add(&mut self, later: &Self) {
        self.entries = self.entries.saturating_add(later.entries);
        self.in_flight = self.in_flight.wrapping_add(later.in_flight);
        self.unmatched = self.unmatched.saturating_add(later.unmatched);
        self.exceptions = self.exceptions.saturating_add(later.exceptions);
        self.sum_ns = self.sum_ns.saturating_add(later.sum_ns);
        self.probes_inside_ns = both(self.probes_inside_ns, later.probes_inside_ns);
        self.suspended_ns = both(self.suspended_ns, later.suspended_ns);
        self.zero = self.zero.saturating_add(later.zero);
        for (mine, theirs) in self.lost.iter_mut().zip(later.lost) {
            *mine = mine.wrapping_add(theirs);
        }
        for (index, count) in &later.buckets {
            match self.buckets.binary_search_by_key(index, |bucket| bucket.0) {
                Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(*count),
                Err(at) => self.buckets.insert(at, (*index, *count)),
            }
        }
    }

    /// Difference from `before`, if both are cumulative.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut difference = self.clone();
        difference.entries = self.entries.saturating_sub(before.entries);
        difference.in_flight = self.in_flight.wrapping_sub(before.in_flight);
        difference.unmatched = self.unmatched.saturating_sub(before.unmatched);
        difference.exceptions = self.exceptions.saturating_sub(before.exceptions);
        difference.sum_ns = self.sum_ns.saturating_sub(before.sum_ns);
        difference.zero = self.zero.saturating_sub(before.zero);
        for (mine, theirs) in difference.lost.iter_mut().zip(before.lost) {
            *mine = mine.wrapping_sub(theirs);
        }
        (difference.probes_inside_ns, difference.suspended_ns) = (None, None);
        let mut earlier = before.buckets.iter().peekable();
        difference.buckets.retain_mut(|(index, count)| {
            while earlier.next_if(|(other, _)| other < index).is_some() {}
            if let Some((_, had)) = earlier.next_if(|(other, _)| other == index) {
                *count = count.saturating_sub(*had);
            }
            *count > 0
        });
        // An empty difference has no such times.
        if !difference.is_empty() {
            let less =
                |ns: Option<u64>, before: Option<u64>| ns.map(|ns| ns.saturating_sub(before.unwrap_or(0)));
            difference.probes_inside_ns = less(self.probes_inside_ns, before.probes_inside_ns);
            difference.suspended_ns = less(self.suspended_ns, before.suspended_ns);
        }
        difference
    }

    /// The durations as a histogram.
    pub fn histogram(&self) -> Histogram {
        let mut buckets = [0; BUCKETS];
        for (index, count) in &self.buckets {
            let place = usize::try_from(index - INDEX_MIN).ok();
            if let Some(bucket) = place.and_then(|place| buckets.get_mut(place)) {
                *bucket = *count;
            }
        }
        Histogram::from_counts(self.zero, &buckets, self.sum_ns)
    }

    /// Appends the counts: a list of figures without trailing zeros, and the buckets.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut figures = [0; ALL];
        let known = |ns: Option<u64>| ns.map_or(0, |ns| ns.wrapping_add(1) as i64);
        (figures[EXCEPTIONS], figures[SUSPENDED]) = (self.exceptions as i64, known(self.suspended_ns));
        let (first, lost) = figures[..EXCEPTIONS].split_at_mut(FIGURES);
        first.copy_from_slice(&[
            self.sum_ns as i64,
            known(self.probes_inside_ns),
            self.in_flight,
            self.off(),
            self.zero as i64,
            self.unmatched as i64,
        ]);
        lost.copy_from_slice(&self.lost);
        let used = figures.iter().rposition(|figure| *figure != 0).map_or(0, |last| last + 1);
        postcard::put(out, used as u64);
        figures[..used].iter().for_each(|figure| postcard::put_signed(out, *figure));

        postcard::put_bytes(out, &buckets::pack(&self.buckets));
    }

    /// Decodes the counts of a record of `version`; `None` if the bytes are invalid.
    pub(crate) fn decode(bytes: &mut Bytes<'_>, version: u8) -> Option<Self> {
        let mut figures = [0; ALL];
        let used = bytes.length()?;
        let room = ALL
            - match version {
                1 => 3,
                2 => 2,
                _ => 0,
            };
        for figure in figures[..room].get_mut(..used)? {
            *figure = bytes.signed()?;
        }
        if version == 1 {
            figures[PROBES..].rotate_right(1);
        }
        let mut counts = Self { buckets: buckets::unpack(bytes.bytes()?)?, ..Self::default() };
        let (first, lost) = figures[..EXCEPTIONS].split_at(FIGURES);
        let [sum_ns, probes, in_flight, off, zero, unmatched] = first.try_into().ok()?;
        counts.sum_ns = sum_ns as u64;
        counts.probes_inside_ns = (probes as u64).checked_sub(1);
        counts.suspended_ns = (figures[SUSPENDED] as u64).checked_sub(1);
        counts.in_flight = in_flight;
        counts.exceptions = figures[EXCEPTIONS] as u64;
        counts.zero = zero as u64;
        counts.unmatched = unmatched as u64;
        counts.lost.copy_from_slice(lost);
        let others = (counts.exits() as i64).wrapping_add(in_flight).wrapping_add(counts.all_lost());
        counts.entries = others.wrapping_add(off) as u64;
        Some(counts)
    }
}

/// The sum of two figures that may each be unknown.
fn both(mine: Option<u64>, theirs: Option<u64>) -> Option<u64> {
    match (mine, theirs) {
        (Some(mine), Some(theirs)) => Some(mine.saturating_add(theirs)),
        (mine, theirs) => mine.or(theirs),
    }
}
