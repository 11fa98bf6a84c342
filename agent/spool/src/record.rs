//! Record contents: checkpoints and intervals.
//!
//! An **interval** says what happened from one moment to another, for all functions together, as
//! differences. A **checkpoint** opens each segment and gives the state before it: the run of the
//! agent, its streams, and the counts of each stream so far. So a reader can begin at any segment,
//! and a cumulative point is the checkpoint plus all differences behind it.

use crate::counts::Counts;
use edgelat_wire::postcard::{self, Bytes};

/// Longest name in bytes, of a function, an image or a target. A longer one is cut.
pub const NAME_BYTES: usize = 1024;

/// Longest build-id in bytes.
pub const BUILD_ID_BYTES: usize = 64;

/// Most streams with a number of their own in one run; all others are counted together in stream 0.
pub const STREAMS: usize = 4096;

/// Most pairs of a target and a reason in an interval.
pub const UNCOVERED: usize = 1024;

/// A function whose calls are counted: per target and build of an image, over all processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream {
    /// Number, assigned once in a run. 0 stands for streams without one, see [`STREAMS`].
    pub id: u32,
    /// Name of the target in the configuration.
    pub target: String,
    /// Name of the function.
    pub function: String,
    /// Path of its image, or of its Python file.
    pub image: String,
    /// Build-id of the image, empty if it has none.
    pub build_id: Vec<u8>,
    /// `native`, `go`, `go-assembly` or `python`.
    pub language: String,
    /// First line of a Python function; 0 for other languages.
    pub line: u32,
    /// For the agent, some calls end at a jump into another function.
    pub until_tail_call: bool,
    /// True for a Python generator or coroutine, whose calls are resumes.
    pub resumes: bool,
    /// True for a Python function of which only part of the calls is seen.
    pub partial: bool,
    /// Time that the probes themselves add to each duration, in nanoseconds, if it was measured.
    pub bias_ns: Option<u64>,
    /// Start of counting, in nanoseconds since boot.
    pub since_ns: u64,
}

/// Time in which processes of a target were not measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncovered {
    /// Name of the target.
    pub target: String,
    /// The reason: `budget`, `quarantine`, `failed` and so on.
    pub reason: String,
    /// Nanoseconds, summed over its processes.
    pub time_ns: u64,
    /// Number of children that ended before they were measured; 0 for all other reasons.
    pub processes: u64,
}

/// A time in which the disk took no records. They stayed in memory, merged if there were too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Number of the last error of the system.
    pub errno: u32,
    /// Start of the gap, in nanoseconds since boot.
    pub since_ns: u64,
    /// Intervals that were late because of it.
    pub intervals: u64,
}

/// The clock of the box at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds since boot, including suspended time: CLOCK_BOOTTIME.
    pub boot_ns: u64,
    /// Nanoseconds since 1970, right or wrong: CLOCK_REALTIME.
    pub real_ns: u64,
    /// Trust in that time.
    pub trust: Trust,
}

/// Trust in a clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// The time is before [`PLAUSIBLE_NS`]: the clock was never set.
    #[default]
    Unset = 0,
    /// The time may be right; no time source has confirmed it to the kernel.
    Plausible = 1,
    /// The kernel considers it synchronised (adjtimex without STA_UNSYNC).
    Synchronised = 2,
}

/// 2025-01-01, in nanoseconds since 1970. A box with an earlier time has no clock.
pub const PLAUSIBLE_NS: u64 = 1_735_689_600 * 1_000_000_000;

impl Clock {
    /// CLOCK_REALTIME at boot, calculated back, if the clock can be believed in a run that began
    /// `began_ns` after boot. A plausible clock that no time source confirms counts after
    /// `patience_ns`: boxes with only a battery-backed clock have no better one.
    pub fn epoch_ns(&self, began_ns: u64, patience_ns: u64) -> Option<u64> {
        let old = self.boot_ns.saturating_sub(began_ns) >= patience_ns;
        let believed = self.trust == Trust::Synchronised || self.trust == Trust::Plausible && old;
        self.real_ns.checked_sub(self.boot_ns).filter(|_| believed)
    }
}

/// Events of some period.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interval {
    /// The run, by the first four bytes of its id, little-endian.
    pub run: u32,
    /// Number of the first interval, counted in a run from 0.
    pub first: u64,
    /// Number of the last interval; higher than the first if several were merged.
    pub last: u64,
    /// Start of the first interval, in nanoseconds since boot.
    pub begin_ns: u64,
    /// The clock at the end of the last interval.
    pub end: Clock,
    /// CLOCK_REALTIME at boot, calculated back at the end of the run's first interval in which the
    /// clock could be believed. It never changes again in the run, whatever the clock does.
    pub epoch_ns: Option<u64>,
    /// New streams.
    pub streams: Vec<Stream>,
    /// Time that was not measured.
    pub uncovered: Vec<Uncovered>,
    /// The gap, if the disk did not take this interval at once.
    pub gap: Option<Gap>,
    /// Counts by stream number, ascending; streams without a row did nothing.
    pub rows: Vec<(u32, Counts)>,
}

/// State before a segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Run of the agent: random bytes.
    pub run: [u8; 16],
    /// Boot id: /proc/sys/kernel/random/boot_id.
    pub boot: [u8; 16],
    /// Version of the agent.
    pub agent: String,
    /// Start of the run, in nanoseconds since boot.
    pub began_ns: u64,
    /// As in [`Interval`], if it was known by then.
    pub epoch_ns: Option<u64>,
    /// Number of the next interval. Intervals of this run from it on that stand before this
    /// checkpoint do not count: the disk failed during their write, and they are written again.
    pub next: u64,
    /// Intervals that this spool has dropped so far because even merged ones did not fit.
    pub dropped: u64,
    /// All streams of the run.
    pub streams: Vec<Stream>,
    /// Counts of each stream so far.
    pub rows: Vec<(u32, Counts)>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The state before a segment.
    Checkpoint(Checkpoint),
    /// The events of some period.
    Interval(Interval),
}

/// Version of the records that are written. Earlier ones are read as well: version 1 lacks the time
/// of probes inside calls; version 2 has neither the mark for partly seen functions nor exceptions.
pub(crate) const VERSION: u8 = 3;
/// First version with the number of processes that were not measured.
const COUNTED: u8 = 3;

/// Types of records.
pub(crate) const CHECKPOINT: u8 = 1;
pub(crate) const INTERVAL: u8 = 2;

/// Short name of a run.
pub fn short(run: &[u8; 16]) -> u32 {
    u32::from_le_bytes([run[0], run[1], run[2], run[3]])
}

/// Two digits per byte: the form of runs, boots and build-ids for people and other programs.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit).collect()
}

/// Cuts a text to the length that a record holds.
pub fn cut(text: &str) -> String {
    let fits = |end: &usize| *end <= NAME_BYTES && text.is_char_boundary(*end);
    text[..(0..=text.len().min(NAME_BYTES)).rfind(fits).unwrap_or(0)].to_owned()
}

impl Record {
    /// Decodes a payload. `None` if it does not match type and version, or if they are not known.
    pub fn decode(version: u8, kind: u8, payload: &[u8]) -> Option<Self> {
        if !(1..=VERSION).contains(&version) {
            return None;
        }
        let mut bytes = Bytes(payload);
        let record = match kind {
            CHECKPOINT => Self::Checkpoint(Checkpoint::decode(&mut bytes, version)?),
            INTERVAL => Self::Interval(Interval::decode(&mut bytes, version)?),
            _ => return None,
        };
        bytes.0.is_empty().then_some(record)
    }
}

impl Stream {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        postcard::put(out, self.id.into());
        for text in [&self.target, &self.function, &self.image] {
            postcard::put_bytes(out, text.as_bytes());
        }
        postcard::put_bytes(out, &self.build_id);
        postcard::put_bytes(out, self.language.as_bytes());
        postcard::put(out, self.line.into());
        out.push(self.until_tail_call.into());
        out.push(u8::from(self.resumes) | u8::from(self.partial) << 1);
        postcard::put_option(out, self.bias_ns);
        postcard::put(out, self.since_ns);
    }

    pub(crate) fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        let mut stream = Self {
            id: bytes.small()?,
            target: bytes.text(NAME_BYTES)?,
            function: bytes.text(NAME_BYTES)?,
            image: bytes.text(NAME_BYTES)?,
            build_id: bytes.bytes().filter(|id| id.len() <= BUILD_ID_BYTES)?.to_vec(),
            language: bytes.text(NAME_BYTES)?,
            line: bytes.small()?,
            until_tail_call: bytes.flag()?,
            ..Self::default()
        };
        // Up to version 2 the second bit was never set.
        let marks = *bytes.take(1)?.first().filter(|marks| **marks < 4)?;
        (stream.resumes, stream.partial) = (marks & 1 != 0, marks & 2 != 0);
        stream.bias_ns = bytes.option()?;
        stream.since_ns = bytes.number()?;
        Some(stream)
    }

    /// True for the same function, regardless of number and start.
    pub fn is(&self, other: &Self) -> bool {
        self.function == other.function
            && self.target == other.target
            && self.image == other.image
            && self.build_id == other.build_id
            && self.line == other.line
    }
}

fn encode_streams(streams: &[Stream], out: &mut Vec<u8>) {
    postcard::put(out, streams.len() as u64);
    streams.iter().for_each(|stream| stream.encode(out));
}

fn decode_streams(bytes: &mut Bytes<'_>) -> Option<Vec<Stream>> {
    // Collected one by one: a truncated list ends before it takes memory.
    let mut streams = Vec::new();
    for _ in 0..bytes.length().filter(|length| *length <= STREAMS + 1)? {
        streams.push(Stream::decode(bytes).filter(|stream| stream.id as usize <= STREAMS)?);
    }
    Some(streams)
}

/// Writes each row's number as the difference from the row before.
fn encode_rows(rows: &[(u32, Counts)], out: &mut Vec<u8>) {
    postcard::put(out, rows.len() as u64);
    let mut before = 0;
    for (id, counts) in rows {
        postcard::put(out, u64::from(id - before));
        counts.encode(out);
        before = *id;
    }
}

fn decode_rows(bytes: &mut Bytes<'_>, version: u8) -> Option<Vec<(u32, Counts)>> {
    let mut rows: Vec<(u32, Counts)> = Vec::new();
    for _ in 0..bytes.length()? {
        let step = bytes.small()?;
        let id = match rows.last() {
            Some(_) if step == 0 => return None,
            Some((before, _)) => before.checked_add(step)?,
            None => step,
        };
        if id as usize > STREAMS {
            return None;
        }
        rows.push((id, Counts::decode(bytes, version)?));
    }
    Some(rows)
}

impl Clock {
    /// Encodes all but the time since boot.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        postcard::put(out, self.real_ns);
        out.push(self.trust as u8);
    }

    pub(crate) fn decode(boot_ns: u64, bytes: &mut Bytes<'_>) -> Option<Self> {
        let real_ns = bytes.number()?;
        let trust = match bytes.take(1)? {
            [0] => Trust::Unset,
            [1] => Trust::Plausible,
            [2] => Trust::Synchronised,
            _ => return None,
        };
        Some(Self { boot_ns, real_ns, trust })
    }
}

impl Interval {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        postcard::put(out, self.run.into());
        postcard::put(out, self.first);
        postcard::put(out, self.last - self.first);
        postcard::put(out, self.begin_ns);
        postcard::put(out, self.end.boot_ns - self.begin_ns);
        self.end.encode(out);
        postcard::put_option(out, self.epoch_ns);
        encode_streams(&self.streams, out);
        postcard::put(out, self.uncovered.len() as u64);
        for uncovered in &self.uncovered {
            postcard::put_bytes(out, uncovered.target.as_bytes());
            postcard::put_bytes(out, uncovered.reason.as_bytes());
            postcard::put(out, uncovered.time_ns);
            postcard::put(out, uncovered.processes);
        }
        out.push(self.gap.is_some().into());
        if let Some(gap) = &self.gap {
            postcard::put(out, gap.errno.into());
            postcard::put(out, gap.since_ns);
            postcard::put(out, gap.intervals);
        }
        encode_rows(&self.rows, out);
    }

    fn decode(bytes: &mut Bytes<'_>, version: u8) -> Option<Self> {
        let run = bytes.small()?;
        let first = bytes.number()?;
        let last = first.checked_add(bytes.number()?)?;
        let begin_ns = bytes.number()?;
        let end = Clock::decode(begin_ns.checked_add(bytes.number()?)?, bytes)?;
        let epoch_ns = bytes.option()?;
        let streams = decode_streams(bytes)?;
        let mut uncovered = Vec::new();
        for _ in 0..bytes.length().filter(|length| *length <= UNCOVERED)? {
            let (target, reason) = (bytes.text(NAME_BYTES)?, bytes.text(NAME_BYTES)?);
            let time_ns = bytes.number()?;
            let processes = if version < COUNTED { 0 } else { bytes.number()? };
            uncovered.push(Uncovered { target, reason, time_ns, processes });
        }
        let gap = match bytes.flag()? {
            true => {
                Some(Gap { errno: bytes.small()?, since_ns: bytes.number()?, intervals: bytes.number()? })
            }
            false => None,
        };
        let rows = decode_rows(bytes, version)?;
        Some(Self { run, first, last, begin_ns, end, epoch_ns, streams, uncovered, gap, rows })
    }

    /// Number of intervals that it covers.
    pub fn covers(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Adds the interval that follows, exactly.
    pub fn merge(&mut self, later: &Self) {
        self.last = later.last;
        // In records from other writers the later one can have ended earlier.
        self.end = Clock { boot_ns: self.end.boot_ns.max(later.end.boot_ns), ..later.end };
        self.epoch_ns = self.epoch_ns.or(later.epoch_ns);
        self.streams.extend_from_slice(&later.streams);
        for uncovered in &later.uncovered {
            self.uncovered(&uncovered.target, &uncovered.reason, uncovered.time_ns, uncovered.processes);
        }
        self.gap = match (self.gap, later.gap) {
            (Some(mine), Some(theirs)) => Some(Gap {
                errno: theirs.errno,
                since_ns: mine.since_ns,
                intervals: mine.intervals.saturating_add(theirs.intervals),
            }),
            (mine, theirs) => mine.or(theirs),
        };
        for (id, counts) in &later.rows {
            self.row(*id, counts);
        }
    }

    /// Adds the counts of a stream.
    pub fn row(&mut self, id: u32, counts: &Counts) {
        add_row(&mut self.rows, id, counts);
    }

    /// Adds time in which processes of a target were not measured, and how many never are.
    pub fn uncovered(&mut self, target: &str, reason: &str, time_ns: u64, processes: u64) {
        let known = |known: &&mut Uncovered| known.target == target && known.reason == reason;
        if let Some(known) = self.uncovered.iter_mut().find(known) {
            known.time_ns = known.time_ns.saturating_add(time_ns);
            known.processes = known.processes.saturating_add(processes);
        } else if self.uncovered.len() < UNCOVERED {
            let (target, reason) = (cut(target), cut(reason));
            self.uncovered.push(Uncovered { target, reason, time_ns, processes });
        }
    }
}

/// Adds to a row of a list, or inserts it in order.
pub(crate) fn add_row(rows: &mut Vec<(u32, Counts)>, id: u32, counts: &Counts) {
    match rows.binary_search_by_key(&id, |row| row.0) {
        Ok(at) => rows[at].1.add(counts),
        Err(at) if !counts.is_empty() => rows.insert(at, (id, counts.clone())),
        Err(_) => {}
    }
}

impl Checkpoint {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.run);
        out.extend(self.boot);
        postcard::put_bytes(out, self.agent.as_bytes());
        postcard::put(out, self.began_ns);
        postcard::put_option(out, self.epoch_ns);
        postcard::put(out, self.next);
        postcard::put(out, self.dropped);
        encode_streams(&self.streams, out);
        encode_rows(&self.rows, out);
    }

    fn decode(bytes: &mut Bytes<'_>, version: u8) -> Option<Self> {
        Some(Self {
            run: bytes.id()?,
            boot: bytes.id()?,
            agent: bytes.text(NAME_BYTES)?,
            began_ns: bytes.number()?,
            epoch_ns: bytes.option()?,
            next: bytes.number()?,
            dropped: bytes.number()?,
            streams: decode_streams(bytes)?,
            rows: decode_rows(bytes, version)?,
        })
    }

    /// Adds an interval that follows it.
    pub fn add(&mut self, interval: &Interval) {
        self.next = interval.last.saturating_add(1);
        self.epoch_ns = self.epoch_ns.or(interval.epoch_ns);
        for stream in &interval.streams {
            if !self.streams.iter().any(|known| known.id == stream.id) {
                self.streams.push(stream.clone());
            }
        }
        for (id, counts) in &interval.rows {
            add_row(&mut self.rows, *id, counts);
        }
    }
}
