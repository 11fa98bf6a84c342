//! Makes room for new data: the oldest segments are merged in pairs.
//!
//! Two neighbours become one segment, and pairs of their records become one record that covers the
//! time of both. Histograms add exactly, so time resolution is lost and no sample. A segment stands
//! for as many as it was made of. Neighbours that stand for equally many are merged, the oldest
//! such pair first: as with the digits of a counter, old data stands in few segments of ever longer
//! intervals, and most of the room is left to new data.
//!
//! Different runs are not merged. If there are so many short runs that no two segments fit into
//! one, segments are made shorter one by one.

use std::ops::ControlFlow;

use crate::reader::{self, ReadError, Seen};
use crate::record::{Checkpoint, Interval, short};
use crate::segment::{Name, Payload, frame};
use crate::store::Store;

/// Neighbours to merge of `names`, the oldest first: indices of the older ones, the best first.
pub fn choices(names: &[Name]) -> Vec<usize> {
    let alike = |index: &usize| names[*index].made_of() < names[*index + 1].made_of().saturating_mul(2);
    let (mut best, others): (Vec<usize>, Vec<usize>) =
        (1..names.len()).map(|index| index - 1).partition(alike);
    // Without a matching pair there are few segments, or no matching pair can be made shorter.
    best.extend(others);
    best
}

/// Merges neighbours, `names`, into one segment of at most `most` bytes, with as few merged records
/// as possible. `next` is the segment behind them, if any. `None` if one record per run is too
/// much.
///
/// # Errors
/// If they cannot be read.
pub fn into_one(
    store: &dyn Store,
    names: &[Name],
    next: Option<Name>,
    most: usize,
) -> Result<Option<Vec<u8>>, ReadError> {
    // If all fit as they are, one file for them loses nothing.
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

/// Joins with up to `of` records in one. The flag is true if more could be merged.
fn join(
    store: &dyn Store,
    names: &[Name],
    next: Option<Name>,
    of: usize,
) -> Result<(Vec<u8>, bool), ReadError> {
    let mut out = Vec::new();
    let mut open: Option<(u64, Interval, usize)> = None;
    let mut more = false;
    // End of the last record, to detect a checkpoint that adds nothing.
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
        // Read only for its statement about the segments before it.
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
