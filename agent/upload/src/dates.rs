//! Dates of intervals: a box may learn the time long after boot, or lose power before that.
//!
//! A run's epoch, the value of CLOCK_REALTIME at boot, is fixed once (docs/SPOOL.md). A run without
//! one is dated by another run of the same boot. A boot that is over yields nothing better: then
//! its clock counts, if it showed a time that can be right. Otherwise the date is unknown.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use edgelat_spool::segment::Name;
use edgelat_spool::{Checkpoint, Interval, ReadError, Seen, Store, Times, Trust, reader};

use crate::otlp::Span;

/// Knowledge about the epoch of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epoch {
    /// CLOCK_REALTIME at boot, in nanoseconds since 1970.
    Known(u64),
    /// It may still become known: the boot is not over.
    Waiting,
    /// It will never be known.
    Unknown,
}

#[derive(Debug)]
struct Run {
    boot: [u8; 16],
    epoch_ns: Option<u64>,
    /// Number of its last interval.
    last: Option<u64>,
}

/// Epochs of the runs in some segments.
#[derive(Debug, Default)]
pub struct Dates {
    runs: BTreeMap<[u8; 16], Run>,
    times: Times,
    /// The boot that is not over.
    current: Option<[u8; 16]>,
}

impl Dates {
    /// Reads segments, in the boot `current` if the spool is of this machine.
    ///
    /// # Errors
    /// If a segment cannot be read.
    pub fn of(store: &dyn Store, names: &[Name], current: Option<[u8; 16]>) -> Result<Self, ReadError> {
        let mut dates = Self::default();
        let mut newest = None;
        reader::read(store, names, true, &mut |_, seen, state| {
            if !matches!(seen, Seen::Checkpoint | Seen::Interval(_)) {
                return ControlFlow::Continue(());
            }
            newest = Some(state.boot);
            let new = Run { boot: state.boot, epoch_ns: None, last: None };
            let run = dates.runs.entry(state.run).or_insert(new);
            run.epoch_ns = state.epoch_ns;
            if let Seen::Interval(interval) = seen {
                run.last = Some(interval.last);
                dates.times.learn(&state.boot, &interval.end);
            }
            ControlFlow::Continue(())
        })?;
        dates.current = newest.filter(|newest| current == Some(*newest));
        Ok(dates)
    }

    /// True if this run is in the segments.
    pub fn has(&self, run: &[u8; 16]) -> bool {
        self.runs.contains_key(run)
    }

    /// True if a run ends with the interval of this number.
    pub fn ends(&self, run: &[u8; 16], interval: u64) -> bool {
        self.runs.get(run).is_some_and(|run| run.last.is_none_or(|last| last <= interval))
    }

    /// The epoch of a run.
    pub fn epoch(&self, run: &[u8; 16]) -> Epoch {
        let Some(Run { boot, epoch_ns, .. }) = self.runs.get(run) else { return Epoch::Unknown };
        let of_boot =
            || self.runs.values().filter(|other| other.boot == *boot).find_map(|other| other.epoch_ns);
        match epoch_ns.or_else(of_boot) {
            Some(epoch_ns) => Epoch::Known(epoch_ns),
            None if self.current == Some(*boot) => Epoch::Waiting,
            None => self.times.of(boot, 0).map_or(Epoch::Unknown, |(epoch_ns, _)| Epoch::Known(epoch_ns)),
        }
    }
}

/// End of an interval in a run with this epoch. Once the epoch was fixed the clock counts, so that
/// a later correction dates later data; before that, the time that it should have shown.
pub fn end_of(interval: &Interval, state: &Checkpoint, epoch_ns: u64) -> u64 {
    match state.epoch_ns.is_some() && interval.end.trust > Trust::Unset {
        true => interval.end.real_ns,
        false => epoch_ns.saturating_add(interval.end.boot_ns),
    }
}

/// Beginning and moment of a point. The beginning never moves with the clock; if the clock was set
/// back behind it, it is meaningless and left out.
pub fn span(epoch_ns: u64, since_ns: u64, time_ns: u64) -> Span {
    let start_ns = epoch_ns.saturating_add(since_ns);
    Span { start_ns: if start_ns < time_ns { start_ns } else { 0 }, time_ns }
}
