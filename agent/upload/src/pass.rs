//! A pass: from the cursor to the end of the spool, request by request.

use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use edgelat_spool::record::hexadecimal;
use edgelat_spool::segment::Name;
use edgelat_spool::{Checkpoint, Interval, ReadError, Seen, Store, reader};

use crate::cursor::{At, Cursor};
use crate::dates::{self, Dates, Epoch};
use crate::otlp::{Attributes, Partial, Request};
use crate::points::{self, Part, Streams};
use crate::retry::Answer;

/// Sends requests.
pub trait Post {
    /// Sends a request and returns the result.
    fn post(&mut self, request: &[u8]) -> Answer;
}

/// Size limit of a request.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A request ends with the interval in which it reaches this many bytes. If it reaches twice as
    /// many before that interval ends it is sent without the rest, which the next one takes.
    pub bytes: usize,
}

impl Default for Limits {
    /// Far below the limits of receivers (4 MiB and more) and the memory of a small box.
    fn default() -> Self {
        Self { bytes: 256 << 10 }
    }
}

/// Immediate rereads of a spool that changes while it is read because the service merges old data.
const READS: u32 = 10;

/// Lower limit for the size of requests.
const LEAST_BYTES: usize = 4 << 10;

impl Limits {
    /// Halves the limit, down to the lower limit.
    pub fn halve(&mut self) {
        self.bytes = (self.bytes / 2).max(LEAST_BYTES);
    }
}

/// The measured box.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Distinguishes this box from all others: `service.instance.id`.
    pub instance: String,
    /// Its name.
    pub name: String,
    /// Release of the running kernel.
    pub kernel: String,
    /// The current boot.
    pub boot: Option<[u8; 16]>,
}

/// Result of a pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum End {
    /// Everything was sent.
    #[default]
    Done,
    /// The rest waits until the clock can be believed.
    Waiting,
    /// The receiver takes nothing now.
    Later {
        /// The reason.
        reason: String,
        /// Minimum wait before the next try.
        after: Option<Duration>,
    },
    /// The receiver takes nothing until a person changes something.
    Barred {
        /// HTTP status.
        status: u16,
        /// The thing to check.
        message: String,
    },
    /// Requests must be smaller.
    TooLarge,
}

/// Report on a pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Intervals sent.
    pub intervals: u64,
    /// Points that the receiver accepted.
    pub accepted: u64,
    /// Points that the receiver refused.
    pub refused: u64,
    /// Reason for the last refusal.
    pub refusal: String,
    /// Intervals with an unknown date.
    pub undated: u64,
    /// Requests, and their bytes before compression.
    pub requests: u64,
    /// See `requests`.
    pub bytes: u64,
    /// Result of the pass.
    pub end: End,
}

/// Reason for the failure of a pass.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The spool cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The cursor cannot be saved.
    #[error("{0}")]
    Cursor(#[from] io::Error),
}

/// State of the last run's streams, kept between passes.
#[derive(Debug, Default)]
pub struct Sent {
    run: [u8; 16],
    streams: Streams,
}

/// Sends the data behind the cursor, which moves with each acknowledgement and which `save` stores.
///
/// # Errors
/// If the spool cannot be read, or the cursor not be saved. Data sent until then is acknowledged.
pub fn pass(
    store: &dyn Store,
    cursor: &mut Cursor,
    sent: &mut Sent,
    host: &Host,
    limits: Limits,
    post: &mut dyn Post,
    save: &mut dyn FnMut(&Cursor) -> io::Result<()>,
) -> Result<Told, PassError> {
    let mut walk = Walk {
        after: None,
        reached: false,
        cursor,
        host,
        limits,
        dates: Dates::default(),
        post,
        save,
        sent,
        batch: None,
        told: Told::default(),
        failed: None,
    };
    let mut reads = 0;
    loop {
        match walk.read(store) {
            Err(ReadError::Changed) if reads < READS => reads += 1,
            read => break read?,
        }
    }
    let Walk { failed, told, .. } = walk;
    failed.map_or(Ok(told), |error| Err(error.into()))
}

/// A request that is being filled, with the cursor's new state after acknowledgement.
struct Batch {
    request: Request,
    /// The last interval that it contains as a whole.
    upto: Option<At>,
    intervals: u64,
    ids: BTreeSet<u32>,
}

struct Walk<'w> {
    after: Option<At>,
    /// The read has reached the run of the cursor.
    reached: bool,
    cursor: &'w mut Cursor,
    host: &'w Host,
    limits: Limits,
    dates: Dates,
    post: &'w mut dyn Post,
    save: &'w mut dyn FnMut(&Cursor) -> io::Result<()>,
    sent: &'w mut Sent,
    batch: Option<Batch>,
    told: Told,
    failed: Option<io::Error>,
}

/// The last interval of a request, with the state after it.
#[derive(Clone, Copy)]
struct Last<'i> {
    interval: &'i Interval,
    state: &'i Checkpoint,
    epoch_ns: u64,
}

impl Walk<'_> {
    /// Reads from the cursor to the end.
    fn read(&mut self, store: &dyn Store) -> Result<(), ReadError> {
        let all: Vec<Name> = reader::segments(store)?.into_iter().map(|(name, _)| name).collect();
        let begin = self.cursor.at.map_or(0, |at| all.partition_point(|name| name.last < at.segment));
        let mut names = &all[begin..];
        self.dates = Dates::of(store, names, self.host.boot)?;
        if begin > 0 && self.cursor.at.is_some_and(|at| !self.dates.has(&at.run)) {
            // The spool was created anew, or it was lost and restarted with other numbers.
            names = &all[..];
            self.dates = Dates::of(store, names, self.host.boot)?;
        }
        // A run that is gone is older than all that are left.
        self.after = self.cursor.at.filter(|at| self.dates.has(&at.run));
        self.reached = false;
        self.batch = None;
        reader::read(store, names, true, &mut |place, seen, state| self.take(place.segment, &seen, state))?;
        // Only if the spool has changed meanwhile, so that a run does not end where it did.
        if self.told.end == End::Done && self.failed.is_none() {
            _ = self.flush(None);
        }
        Ok(())
    }

    fn take(&mut self, segment: Name, seen: &Seen<'_>, state: &Checkpoint) -> ControlFlow<()> {
        let of_cursor = self.after.is_some_and(|at| at.run == state.run);
        self.reached |= of_cursor;
        let Seen::Interval(interval) = *seen else { return ControlFlow::Continue(()) };
        match self.after {
            Some(_) if !self.reached => return ControlFlow::Continue(()),
            Some(at) if of_cursor && interval.last <= at.last => return ControlFlow::Continue(()),
            _ => {}
        }
        let at = At { run: state.run, last: interval.last, segment: segment.last };
        let ends = self.dates.ends(&state.run, interval.last);
        match self.dates.epoch(&state.run) {
            Epoch::Waiting => {
                self.told.end = End::Waiting;
                ControlFlow::Break(())
            }
            Epoch::Unknown => {
                self.told.undated += interval.covers();
                self.cursor.undated = self.cursor.undated.saturating_add(interval.covers());
                self.cursor.at = Some(at);
                if ends { self.keep() } else { ControlFlow::Continue(()) }
            }
            Epoch::Known(epoch_ns) => {
                let last = Last { interval, state, epoch_ns };
                self.add(last)?;
                let Some(batch) = &mut self.batch else { return ControlFlow::Continue(()) };
                batch.upto = Some(at);
                batch.intervals += interval.covers();
                let full = batch.request.length() >= self.limits.bytes;
                if full || ends { self.flush(Some(last)) } else { ControlFlow::Continue(()) }
            }
        }
    }

    /// Adds the points of an interval.
    fn add(&mut self, last: Last<'_>) -> ControlFlow<()> {
        let Last { interval, state, epoch_ns } = last;
        if self.sent.run != state.run {
            *self.sent = Sent { run: state.run, streams: Streams::default() };
        }
        let time_ns = dates::end_of(interval, state, epoch_ns);
        let span = |since_ns| dates::span(epoch_ns, since_ns, time_ns);
        for (id, part) in self.sent.streams.due(interval, state) {
            let batch = self.batch.get_or_insert_with(|| Batch::new(self.host, state));
            self.sent.streams.add(&mut batch.request, id, part, interval, state, &span);
            batch.ids.insert(id);
            if batch.request.length() >= 2 * self.limits.bytes {
                self.flush(None)?;
            }
        }
        let batch = self.batch.get_or_insert_with(|| Batch::new(self.host, state));
        points::uncovered(&mut batch.request, interval, time_ns);
        ControlFlow::Continue(())
    }

    /// Sends the batch. `last` is its last interval, if that is complete.
    fn flush(&mut self, last: Option<Last<'_>>) -> ControlFlow<()> {
        let Some(batch) = self.batch.take() else { return ControlFlow::Continue(()) };
        let points = batch.request.count();
        let mut answer = match points {
            0 => Answer::Taken(Partial::default()),
            _ => self.send(&batch.request),
        };
        let (mut accepted, mut refused) = (0, 0);
        if let Answer::Refused { status, message } = &answer {
            self.told.refusal = format!("status {status}: {message}");
            refused = points;
            // Usually the data is too old. The newest figures include all earlier ones.
            if let Some(last) = last.filter(|_| batch.intervals > 1) {
                let newest = self.newest(&batch.ids, last);
                answer = self.send(&newest);
                match &answer {
                    Answer::Taken(partial) => {
                        accepted = newest.count().saturating_sub(partial.rejected);
                        refused = points.saturating_sub(accepted);
                    }
                    Answer::Refused { .. } => {}
                    _ => refused = 0,
                }
            }
        } else if let Answer::Taken(partial) = &answer {
            refused = partial.rejected.min(points);
            accepted = points - refused;
            if refused > 0 {
                self.told.refusal = partial.message.clone();
            }
        }
        self.told.end = match answer {
            Answer::Taken(_) | Answer::Refused { .. } => {
                self.told.accepted += accepted;
                self.told.refused += refused;
                self.told.intervals += batch.intervals;
                self.cursor.accepted = self.cursor.accepted.saturating_add(accepted);
                self.cursor.refused = self.cursor.refused.saturating_add(refused);
                self.cursor.at = batch.upto.or(self.cursor.at);
                if refused > 0 {
                    self.sent.streams.missed();
                }
                return self.keep();
            }
            Answer::TooLarge => End::TooLarge,
            Answer::Barred { status, message } => End::Barred { status, message },
            Answer::Later { reason, after } => End::Later { reason, after },
        };
        ControlFlow::Break(())
    }

    fn send(&mut self, request: &Request) -> Answer {
        let body = request.encode();
        let answer = match self.post.post(&body) {
            Answer::TooLarge if self.limits.bytes <= LEAST_BYTES => {
                Answer::Refused { status: 413, message: "too large".to_owned() }
            }
            answer => answer,
        };
        if let Answer::Taken(_) | Answer::Refused { .. } = answer {
            self.told.requests += 1;
            self.told.bytes += body.len() as u64;
        }
        answer
    }

    /// All current figures of some streams.
    fn newest(&mut self, ids: &BTreeSet<u32>, last: Last<'_>) -> Request {
        let Last { interval, state, epoch_ns } = last;
        let mut batch = Batch::new(self.host, state);
        let time_ns = dates::end_of(interval, state, epoch_ns);
        let span = |since_ns| dates::span(epoch_ns, since_ns, time_ns);
        for id in ids {
            self.sent.streams.add(&mut batch.request, *id, Part::All, interval, state, &span);
        }
        batch.request
    }

    fn keep(&mut self) -> ControlFlow<()> {
        match (self.save)(self.cursor) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

impl Batch {
    fn new(host: &Host, state: &Checkpoint) -> Self {
        let (boot, run) = (hexadecimal(&state.boot), hexadecimal(&state.run));
        let kernel = if host.boot == Some(state.boot) { &*host.kernel } else { "" };
        let resource = Attributes::of([
            ("service.name", "edgelat"),
            ("service.version", &state.agent),
            ("service.instance.id", &host.instance),
            ("host.name", &host.name),
            ("os.type", "linux"),
            // The kernel of an earlier boot is unknown.
            ("os.version", kernel),
            ("edgelat.boot_id", &boot),
            ("edgelat.run_id", &run),
        ]);
        let request = Request::new(&resource, &state.agent);
        Self { request, upto: None, intervals: 0, ids: BTreeSet::new() }
    }
}
