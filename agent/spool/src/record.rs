//! What is written: checkpoints and intervals.
//!
//! An **interval** says what happened from one moment to another, of all functions together, as differences. A
//! **checkpoint** stands at the beginning of each segment and says what there was before: which run of the agent this is,
//! which streams there are, and what each has counted so far. So a reader can begin at any segment, and a cumulative point
//! is the checkpoint and all differences behind it.

use crate::counts::Counts;
use edgelat_wire::postcard::{self, Bytes};

/// Longest name in bytes, of a function, an image or a target. A longer one is cut.
pub const NAME_BYTES: usize = 1024;

/// Longest build-id in bytes.
pub const BUILD_ID_BYTES: usize = 64;

/// Most streams that have a number of their own in one run; what more there is is counted together, in stream 0.
pub const STREAMS: usize = 4096;

/// Most pairs of a target and a reason in an interval.
pub const UNCOVERED: usize = 1024;

/// A function whose calls are counted: one of a target, in one build of an image. Its processes are counted together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stream {
    /// Number, given once in a run. 0 is for what had no number any more, see [`STREAMS`].
    pub id: u32,
    /// Name of the target in the configuration.
    pub target: String,
    /// Name of the function.
    pub function: String,
    /// Path of its image, or of its file in Python.
    pub image: String,
    /// Build-id of the image, empty where it has none.
    pub build_id: Vec<u8>,
    /// `native`, `go`, `go-assembly` or `python`.
    pub language: String,
    /// First line, for a function of Python; 0 elsewhere.
    pub line: u32,
    /// Some calls end, for us, at a jump into another function.
    pub until_tail_call: bool,
    /// It is a generator or coroutine of Python, whose calls are resumes.
    pub resumes: bool,
    /// It is a function of Python of which only a part of the calls is seen.
    pub partial: bool,
    /// What the probes themselves add to each duration, in nanoseconds, if it was measured.
    pub bias_ns: Option<u64>,
    /// Since when it is counted, in nanoseconds since boot.
    pub since_ns: u64,
}

/// Time in which processes of a target were not measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncovered {
    /// Name of the target.
    pub target: String,
    /// Why: `budget`, `quarantine`, `failed` and so on.
    pub reason: String,
    /// Nanoseconds, of all its processes together.
    pub time_ns: u64,
    /// Of children, how many ended before they were measured; of all else 0.
    pub processes: u64,
}

/// The disk did not take records for a while. They were kept in memory, and merged where that was too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Number of the last error of the system.
    pub errno: u32,
    /// When it began, in nanoseconds since boot.
    pub since_ns: u64,
    /// Intervals that came late for it.
    pub intervals: u64,
}

/// The clock of the box at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// Nanoseconds since boot, suspended time among them: CLOCK_BOOTTIME.
    pub boot_ns: u64,
    /// Nanoseconds since 1970, right or wrong: CLOCK_REALTIME.
    pub real_ns: u64,
    /// How far it can be believed.
    pub trust: Trust,
}

/// How far a clock can be believed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// It shows a time before [`PLAUSIBLE_NS`]: nobody has set it.
    #[default]
    Unset = 0,
    /// It may be right; no source of time has told the kernel so.
    Plausible = 1,
    /// The kernel holds it for synchronised (adjtimex without STA_UNSYNC).
    Synchronised = 2,
}

/// 2025-01-01, in nanoseconds since 1970. A box that shows an earlier time has no clock.
pub const PLAUSIBLE_NS: u64 = 1_735_689_600 * 1_000_000_000;

impl Clock {
    /// What CLOCK_REALTIME showed at boot, reckoned back, where the clock can be believed in a run that began `began_ns` after
    /// boot. One that is plausible, of which no source of time says that it is right, counts after `patience_ns`: boxes with
    /// nothing but a battery-backed clock have no better one.
    pub fn epoch_ns(&self, began_ns: u64, patience_ns: u64) -> Option<u64> {
        let old = self.boot_ns.saturating_sub(began_ns) >= patience_ns;
        let believed = self.trust == Trust::Synchronised || self.trust == Trust::Plausible && old;
        self.real_ns.checked_sub(self.boot_ns).filter(|_| believed)
    }
}

/// What happened in some time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interval {
    /// The run, by the first four bytes of its id, little-endian.
    pub run: u32,
    /// Number of the first interval, counted in a run from 0.
    pub first: u64,
    /// Number of the last one; more than the first where several were merged.
    pub last: u64,
    /// When the first began, in nanoseconds since boot.
    pub begin_ns: u64,
    /// The clock at the end of the last.
    pub end: Clock,
    /// What CLOCK_REALTIME showed at boot, reckoned back at the end of this interval, in which the clock could be believed for
    /// the first time in this run. In the run it never changes any more, whatever the clock does.
    pub epoch_ns: Option<u64>,
    /// Streams that are new.
    pub streams: Vec<Stream>,
    /// What was not measured.
    pub uncovered: Vec<Uncovered>,
    /// The disk did not take this at once.
    pub gap: Option<Gap>,
    /// What happened to streams, by their numbers, ascending; one of which nothing is said did nothing.
    pub rows: Vec<(u32, Counts)>,
}

/// What there was before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which run of the agent: random bytes.
    pub run: [u8; 16],
    /// Which boot: /proc/sys/kernel/random/boot_id.
    pub boot: [u8; 16],
    /// Version of the agent.
    pub agent: String,
    /// When the run began, in nanoseconds since boot.
    pub began_ns: u64,
    /// That of [`Interval`], if there was one before.
    pub epoch_ns: Option<u64>,
    /// Number of the interval that comes next. Those of this run from here on that stand before this checkpoint do not
    /// count: the disk failed while they were written, and they are written again.
    pub next: u64,
    /// Intervals that this spool has dropped so far, because there was no room even for merged ones.
    pub dropped: u64,
    /// All streams of the run.
    pub streams: Vec<Stream>,
    /// What each has counted so far.
    pub rows: Vec<(u32, Counts)>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// What there was before.
    Checkpoint(Checkpoint),
    /// What happened.
    Interval(Interval),
}

/// Version of the records that are written. Those before are read as well: the first does not know what probes took inside,
/// the second neither that a function is seen in part nor what exceptions left.
pub(crate) const VERSION: u8 = 3;
/// The first version that says how many processes were not measured.
const COUNTED: u8 = 3;

/// Types of records.
pub(crate) const CHECKPOINT: u8 = 1;
pub(crate) const INTERVAL: u8 = 2;

/// A run's short name.
pub fn short(run: &[u8; 16]) -> u32 {
    u32::from_le_bytes([run[0], run[1], run[2], run[3]])
}

/// Two digits for each byte: how runs, boots and build-ids are written for people and other programs.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit).collect()
}

/// A text cut to what a record holds.
pub fn cut(text: &str) -> String {
    let fits = |end: &usize| *end <= NAME_BYTES && text.is_char_boundary(*end);
    text[..(0..=text.len().min(NAME_BYTES)).rfind(fits).unwrap_or(0)].to_owned()
}

impl Record {
    /// Reads a payload. `None` where it is none of that type and version, or of one that is not known.
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
        // Up to version 2 the second was never set.
        let marks = *bytes.take(1)?.first().filter(|marks| **marks < 4)?;
        (stream.resumes, stream.partial) = (marks & 1 != 0, marks & 2 != 0);
        stream.bias_ns = bytes.option()?;
        stream.since_ns = bytes.number()?;
        Some(stream)
    }

    /// Is it the same function, whatever its number and whenever it began?
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
    // Collected one by one: what is short of bytes ends before it takes memory.
    let mut streams = Vec::new();
    for _ in 0..bytes.length().filter(|length| *length <= STREAMS + 1)? {
        streams.push(Stream::decode(bytes).filter(|stream| stream.id as usize <= STREAMS)?);
    }
    Some(streams)
}

/// Each row's number is the difference from the one before.
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
    /// All but the time since boot.
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

    /// How many intervals it is made of.
    pub fn covers(&self) -> u64 {
        (self.last - self.first).saturating_add(1)
    }

    /// Adds what happened next, exactly.
    pub fn merge(&mut self, later: &Self) {
        self.last = later.last;
        // Of records that are not ours, the later one can have ended before.
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

    /// Adds what a stream did.
    pub fn row(&mut self, id: u32, counts: &Counts) {
        add_row(&mut self.rows, id, counts);
    }

    /// Adds time in which processes of a target were not measured, and how many of those never are.
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

/// Adds to a row of a list, or puts it in its place.
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

    /// Takes in an interval that follows it.
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
