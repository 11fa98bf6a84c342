//! Conversion of an interval into the points of a request.
//!
//! A figure has a point in each interval in which it changed. Unchanged figures have a point in
//! each interval in which a minute since boot ends: Prometheus drops a series after five minutes of
//! silence. So an upload can begin anywhere, and data that is sent again is identical. A stream
//! that was idle for an hour and has no call inside is skipped until its next call.

use std::collections::BTreeMap;

use edgelat_spool::record::hexadecimal;
use edgelat_spool::{Checkpoint, Counts, Interval, LOSSES, Stream};

use crate::otlp::{
    Attributes, BIAS, CALLS, ENDED_INSIDE, EXCEPTIONS, INSIDE, LOST, Number, PARTIAL, PROBES_INSIDE, Request,
    SUSPENDED, Span, UNCOVERED, UNCOVERED_PROCESSES, UNMATCHED, UNTIL_TAIL_CALL,
};

/// Time after which all figures of a stream are sent.
pub const HEARTBEAT_NS: u64 = 60 * 1_000_000_000;

/// Time after which an inactive stream is no longer sent, as in `edgelat metrics`.
pub const FORGOTTEN_NS: u64 = 3_600 * 1_000_000_000;

/// Place in [`LOSSES`] of calls inside at the end of their process. It can decrease:
/// docs/METRICS.md.
const ENDED_INSIDE_LOSS: usize = 2;

/// A stream that was sent.
#[derive(Debug)]
struct Known {
    attributes: Attributes,
    /// Some of its figures were not accepted.
    missed: bool,
    /// Time of its last activity.
    active_ns: u64,
}

/// Part of a stream that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All figures.
    All,
    /// Changed figures.
    Changed,
}

/// The streams of a run, with the figures sent of each.
#[derive(Debug, Default)]
pub struct Streams(BTreeMap<u32, Known>);

/// Finds a stream by number. Streams are numbered in order of appearance.
fn stream(state: &Checkpoint, id: u32) -> Option<&Stream> {
    let place = (id as usize).wrapping_sub(1);
    let there = state.streams.get(place).filter(|stream| stream.id == id);
    there.or_else(|| state.streams.iter().find(|stream| stream.id == id))
}

/// Counts of a stream.
fn row(rows: &[(u32, Counts)], id: u32) -> Option<&Counts> {
    let place = rows.binary_search_by_key(&id, |row| row.0).ok()?;
    rows.get(place).map(|row| &row.1)
}

impl Streams {
    /// Streams with something to send at the end of an interval; `state` is the state after it.
    pub fn due(&mut self, interval: &Interval, state: &Checkpoint) -> Vec<(u32, Part)> {
        let now_ns = interval.end.boot_ns;
        let minute_ends = interval.begin_ns / HEARTBEAT_NS != now_ns / HEARTBEAT_NS;
        let mut due = Vec::new();
        for stream in &state.streams {
            let changed = row(&interval.rows, stream.id).is_some();
            let known = self.0.entry(stream.id).or_insert_with(|| Known {
                attributes: attributes(stream),
                missed: false,
                active_ns: now_ns,
            });
            if changed {
                known.active_ns = now_ns;
            }
            let is_new = interval.streams.iter().any(|new| new.id == stream.id);
            let inside = row(&state.rows, stream.id).is_some_and(|counts| counts.in_flight > 0);
            let forgotten = !inside && now_ns.saturating_sub(known.active_ns) > FORGOTTEN_NS;
            match (is_new || known.missed || minute_ends && !forgotten, changed) {
                (true, _) => due.push((stream.id, Part::All)),
                (false, true) => due.push((stream.id, Part::Changed)),
                (false, false) => {}
            }
        }
        due
    }

    /// Adds the points of a stream.
    pub fn add(
        &mut self,
        request: &mut Request,
        id: u32,
        part: Part,
        interval: &Interval,
        state: &Checkpoint,
        span: &dyn Fn(u64) -> Span,
    ) {
        let (Some(stream), Some(known)) = (stream(state, id), self.0.get_mut(&id)) else { return };
        let (nothing, all) = (Counts::default(), part == Part::All);
        let totals = row(&state.rows, id).unwrap_or(&nothing);
        let did = row(&interval.rows, id).unwrap_or(&nothing);
        let (span, attributes) = (span(stream.since_ns), &known.attributes);
        if all || did.zero > 0 || !did.buckets.is_empty() {
            request.histogram(attributes, span, totals);
        }
        let whole = |number: i64| Number::Whole(number.max(0));
        let mut number = |metric, changed: bool, attributes: &Attributes, value| {
            if all || changed {
                request.number(metric, attributes, span, value);
            }
        };
        number(CALLS, did.entries > 0, attributes, whole(totals.entries as i64));
        number(INSIDE, did.in_flight != 0, attributes, whole(totals.in_flight));
        for (place, reason) in LOSSES.into_iter().enumerate() {
            let (changed, lost) = (did.lost[place] != 0, whole(totals.lost[place]));
            match place {
                ENDED_INSIDE_LOSS => number(ENDED_INSIDE, changed, attributes, lost),
                _ if all || changed => number(LOST, changed, &attributes.with("reason", reason), lost),
                _ => {}
            }
        }
        number(UNMATCHED, did.unmatched > 0, attributes, whole(totals.unmatched as i64));
        if totals.exceptions > 0 {
            number(EXCEPTIONS, did.exceptions > 0, attributes, whole(totals.exceptions as i64));
        }
        if let Some(ns) = totals.probes_inside_ns {
            number(PROBES_INSIDE, did.probes_inside_ns > Some(0), attributes, Number::Seconds(ns));
        }
        if let Some(ns) = totals.suspended_ns {
            number(SUSPENDED, did.suspended_ns > Some(0), attributes, Number::Seconds(ns));
        }
        if let Some(ns) = stream.bias_ns {
            number(BIAS, false, attributes, Number::Seconds(ns));
        }
        if stream.until_tail_call {
            number(UNTIL_TAIL_CALL, false, attributes, Number::Whole(1));
        }
        if stream.partial {
            number(PARTIAL, false, attributes, Number::Whole(1));
        }
        if all {
            known.missed = false;
        }
    }

    /// Some sent figures were not accepted, of unknown streams: all figures are sent next.
    pub fn missed(&mut self) {
        self.0.values_mut().for_each(|known| known.missed = true);
    }
}

/// Adds the time in which targets were not measured in an interval.
pub fn uncovered(request: &mut Request, interval: &Interval, time_ns: u64) {
    for uncovered in &interval.uncovered {
        let attributes = Attributes::of([("target", &*uncovered.target), ("reason", &uncovered.reason)]);
        let span = Span { start_ns: 0, time_ns };
        request.number(UNCOVERED, &attributes, span, Number::Seconds(uncovered.time_ns));
        if uncovered.processes > 0 {
            let processes = Number::Whole(uncovered.processes.cast_signed());
            request.number(UNCOVERED_PROCESSES, &attributes, span, processes);
        }
    }
}

fn attributes(stream: &Stream) -> Attributes {
    let build_id = hexadecimal(&stream.build_id);
    let mut attributes = Attributes::of([
        ("target", &*stream.target),
        ("function", &stream.function),
        ("image", &stream.image),
        ("build_id", &build_id),
        ("language", &stream.language),
    ]);
    if stream.line > 0 {
        attributes.number("line", stream.line.into());
    }
    attributes
}
