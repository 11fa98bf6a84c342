//! Room for what is new: the oldest segments are merged two by two.
//!
//! Two neighbours become one segment, in which two records each became one that says what happened in the time of both.
//! Histograms add exactly, so time resolution is lost and no sample. A segment stands for as many as it was made of, and
//! neighbours that stand for equally many are merged, the oldest such first: as with the digits of a number that is counted
//! up, what is old stands in few segments of ever longer intervals, and most of the room is left to what is new.
//!
//! Runs are not merged with each other. Where there are so many short ones that no two segments fit into one, segments are made
//! shorter one by one.

use std::ops::ControlFlow;

use crate::reader::{self, ReadError, Seen};
use crate::record::{Checkpoint, Interval, short};
use crate::segment::{Name, Payload, frame};
use crate::store::Store;

/// Which two neighbours of these, the oldest first, are merged: the indices of the older ones, the best first.
pub fn choices(names: &[Name]) -> Vec<usize> {
    let alike = |index: &usize| names[*index].made_of() < names[*index + 1].made_of().saturating_mul(2);
    let (mut best, others): (Vec<usize>, Vec<usize>) =
        (1..names.len()).map(|index| index - 1).partition(alike);
    // Where no two are alike there are few, or none that is alike can be made shorter.
    best.extend(others);
    best
}

/// Makes one segment of neighbours, `names`, with as few records merged as it takes to have at most `most` bytes. The
/// segment behind them is `next`, and not there if they are the newest. `None` where even one record for each run is too much.
///
/// # Errors
/// When they cannot be read.
pub fn into_one(
    store: &dyn Store,
    names: &[Name],
    next: Option<Name>,
    most: usize,
) -> Result<Option<Vec<u8>>, ReadError> {
    // Where all fit as they are, nothing is lost by putting them into one file.
    let mut of = 1;
    loop {
        let (bytes, more) = join(store, names, next, of)?;
        if bytes.len() <= most {
            return Ok(Some(bytes));
        }
        if !more {
            return Ok(None);
        }
        of *= 2;
    }
}

/// With up to `of` records in one. Says whether more could be merged.
fn join(
    store: &dyn Store,
    names: &[Name],
    next: Option<Name>,
    of: usize,
) -> Result<(Vec<u8>, bool), ReadError> {
    let mut out = Vec::new();
    let mut open: Option<(u64, Interval, usize)> = None;
    let mut more = false;
    // What was written last, to tell whether a checkpoint says anything new.
    let mut before: Option<(u32, u64)> = None;
    let mut take = |place: reader::Place, seen: Seen<'_>, state: &Checkpoint| {
        match seen {
            Seen::Checkpoint => {
                if before != Some((short(&state.run), state.next)) {
                    flush(&mut open, &mut out);
                    out.extend(frame(place.id, Payload::Checkpoint(state)));
                }
                before = Some((short(&state.run), state.next));
            }
            Seen::Interval(interval) | Seen::Orphan(interval) => {
                match &mut open {
                    Some((id, merged, count))
                        if merged.run == interval.run
                            && merged.last.checked_add(1) == Some(interval.first) =>
                    {
                        if *count < of {
                            merged.merge(interval);
                            (*id, *count) = (place.id, *count + 1);
                        } else {
                            more = true;
                            flush(&mut open, &mut out);
                            open = Some((place.id, interval.clone(), 1));
                        }
                    }
                    _ => {
                        flush(&mut open, &mut out);
                        open = Some((place.id, interval.clone(), 1));
                    }
                }
                before = before.map(|(_, _)| (interval.run, interval.last.saturating_add(1)));
            }
            // After damage only a checkpoint knows the totals.
            Seen::Damaged | Seen::Unknown => before = None,
            Seen::Replaced => {}
        }
        ControlFlow::Continue(())
    };
    match next {
        None => reader::read(store, names, true, &mut take)?,
        // It is read for what it says of those before it, and no further.
        Some(next) => reader::read(store, &[names, &[next]].concat(), true, &mut |place, seen, state| {
            if place.segment == next { ControlFlow::Break(()) } else { take(place, seen, state) }
        })?,
    }
    flush(&mut open, &mut out);
    Ok((out, more))
}

fn flush(open: &mut Option<(u64, Interval, usize)>, out: &mut Vec<u8>) {
    if let Some((id, interval, _)) = open.take() {
        out.extend(frame(id, Payload::Interval(&interval)));
    }
}
