//! When intervals were: a box may not know the time until long after it has booted, and then a cut may come first.
//!
//! A run's epoch, what CLOCK_REALTIME would have shown at boot, is fixed once (docs/SPOOL.md). A run that has none is dated by
//! another of the same boot. In a boot that is over nothing better comes any more: what its clock showed, if it showed a time
//! that can be right, counts then. Where it never did, nobody knows.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use edgelat_spool::segment::Name;
use edgelat_spool::{Checkpoint, Interval, ReadError, Seen, Store, Times, Trust, reader};

use crate::otlp::Span;

/// What is known of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epoch {
    /// What the clock would have shown at boot, in nanoseconds since 1970.
    Known(u64),
    /// It may still become known: its boot is not over.
    Waiting,
    /// It never will be.
    Unknown,
}

#[derive(Debug)]
struct Run {
    boot: [u8; 16],
    epoch_ns: Option<u64>,
    /// Number of its last interval.
    last: Option<u64>,
}

/// What is known of the runs in some segments.
#[derive(Debug, Default)]
pub struct Dates {
    runs: BTreeMap<[u8; 16], Run>,
    times: Times,
    /// The boot that is not over.
    current: Option<[u8; 16]>,
}

impl Dates {
    /// Reads segments, in the boot `current`, if the spool is of this machine.
    ///
    /// # Errors
    /// When a segment cannot be read.
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

    /// Is this run in the segments?
    pub fn has(&self, run: &[u8; 16]) -> bool {
        self.runs.contains_key(run)
    }

    /// Does a run end with the interval of this number?
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

/// When an interval of a run with this epoch ended. Once the epoch was fixed, what the clock shows counts, so that a clock that is
/// corrected later dates what is measured later; before, what it should have shown.
pub fn end_of(interval: &Interval, state: &Checkpoint, epoch_ns: u64) -> u64 {
    match state.epoch_ns.is_some() && interval.end.trust > Trust::Unset {
        true => interval.end.real_ns,
        false => epoch_ns.saturating_add(interval.end.boot_ns),
    }
}

/// Beginning and moment of a point. The beginning never moves with the clock; where the clock was set back behind it, it says
/// nothing and is left out.
pub fn span(epoch_ns: u64, since_ns: u64, time_ns: u64) -> Span {
    let start_ns = epoch_ns.saturating_add(since_ns);
    Span { start_ns: if start_ns < time_ns { start_ns } else { 0 }, time_ns }
}
