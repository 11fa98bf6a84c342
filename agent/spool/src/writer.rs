//! Writing a spool.
//!
//! The caller collects an interval with [`Spool::add`] and ends it with [`Spool::close`], which
//! writes it and syncs it if that is due. No disk failure stops this: intervals that cannot be
//! written wait in memory, the oldest merged if there are too many, until the disk takes them.
//!
//! Synced data is never overwritten. Data that failed to sync is written again in a new segment,
//! whose checkpoint says from where the old one does not count: its state on the disk is unknown.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};

use nix::errno::Errno;

use crate::budget::Budget;
use crate::counts::Counts;
use crate::merge;
use crate::reader::{self, ReadError, Seen};
use crate::record::{Checkpoint, Clock, Gap, Interval, STREAMS, Stream, short};
use crate::segment::{Found, Frames, Name, Payload, READ_BYTES, UNFINISHED, frame, frame_behind, sorted};
use crate::store::Store;

/// Intervals that wait in memory, while the disk takes none, before the oldest are merged.
const WAITING: usize = 32;

/// Minimum size of a file on most file systems.
const BLOCK_BYTES: u64 = 4096;

/// Settings of a spool.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Maximum bytes of all segments together, including reserved room.
    pub max_bytes: u64,
    /// Bytes of a segment, capped at a quarter of `max_bytes`.
    pub segment_bytes: u64,
    /// Time after which written data is synced, in nanoseconds.
    pub sync_ns: u64,
    /// Maximum bytes written in a day; `None` for no limit.
    pub bytes_per_day: Option<u64>,
    /// Wait for a time source before a clock that is only plausible is believed, in nanoseconds.
    pub patience_ns: u64,
}

/// Identity of the writer.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Random bytes, different at each start.
    pub run: [u8; 16],
    /// The boot id of the kernel.
    pub boot: [u8; 16],
    /// Version of the agent.
    pub agent: String,
}

/// An event to report to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The disk takes nothing any more. Reported once.
    Failing(Errno),
    /// The disk works again, and this many intervals came late.
    Recovered(u64),
}

/// State of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Bytes of its segments.
    pub bytes: u64,
    /// Number of segments.
    pub segments: usize,
    /// Intervals in memory only.
    pub waiting: usize,
    /// Bytes written in this run, including merges.
    pub written: u64,
    /// The run.
    pub run: [u8; 16],
    /// Number of the current interval.
    pub interval: u64,
    /// All intervals below this number are on the disk.
    pub synced: u64,
    /// Reason why nothing can be written now.
    pub failing: Option<Errno>,
}

#[derive(Debug)]
struct Active {
    name: Name,
    length: u64,
    /// It holds only its checkpoint.
    empty: bool,
}

#[derive(Debug)]
struct Outage {
    errno: Errno,
    since_ns: u64,
    /// Intervals that will have come late.
    late: u64,
}

/// A spool that is written to.
#[derive(Debug)]
pub struct Spool {
    store: Box<dyn Store>,
    options: Options,
    closed: Vec<(Name, u64)>,
    active: Option<Active>,
    /// State that is certainly on the disk.
    synced: Checkpoint,
    next_id: u64,
    /// The wall clock at boot, once it could be believed. It never changes after that.
    epoch_ns: Option<u64>,
    /// The current interval.
    current: Interval,
    /// All streams; some may be only in intervals that wait.
    streams: Vec<Stream>,
    waiting: VecDeque<Interval>,
    /// Written, and perhaps on the disk.
    unsynced: Vec<Interval>,
    synced_at_ns: u64,
    budget: Option<Budget>,
    outage: Option<Outage>,
    written: u64,
}

impl Spool {
    /// Begins a run in a directory. Bytes that a power cut left behind the newest segment's last
    /// record are cut off; damage stays; segments that are already merged are removed. Nothing is
    /// written before there is data. A read-only or full directory is no error.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn open(
        mut store: Box<dyn Store>,
        options: Options,
        identity: Identity,
        now: Clock,
    ) -> Result<Self, ReadError> {
        let files = store.list().map_err(ReadError::List)?;
        let names: Vec<String> = files.into_iter().map(|(file, _)| file).collect();
        let (_, replaced) = sorted(&names);
        for file in replaced.iter().map(|name| name.file()).chain([UNFINISHED.to_owned()]) {
            if names.contains(&file) {
                // Readers skip a file that stays.
                _ = store.remove(&file);
            }
        }
        let mut closed = reader::segments(store.as_ref())?;
        if let Some((name, length)) = closed.last_mut() {
            cut_tail(store.as_mut(), *name, length);
        }
        if closed.last().is_some_and(|(name, length)| *length == 0 && store.remove(&name.file()).is_ok()) {
            closed.pop();
        }
        let ids = closed.iter().rev().find_map(|(name, _)| last_id(store.as_ref(), *name));
        let next_id = ids.map_or(1, |last| last.saturating_add(1));
        let segment_bytes = options.segment_bytes.min(options.max_bytes / 4);
        let synced = Checkpoint {
            run: identity.run,
            boot: identity.boot,
            agent: identity.agent,
            began_ns: now.boot_ns,
            ..Checkpoint::default()
        };
        Ok(Self {
            store,
            options: Options { segment_bytes, ..options },
            closed,
            active: None,
            current: Interval {
                run: short(&synced.run),
                begin_ns: now.boot_ns,
                end: now,
                ..Interval::default()
            },
            synced,
            next_id,
            epoch_ns: None,
            streams: Vec::new(),
            waiting: VecDeque::new(),
            unsynced: Vec::new(),
            synced_at_ns: now.boot_ns,
            budget: options.bytes_per_day.map(|bytes| Budget::new(bytes, now.boot_ns)),
            outage: None,
            written: 0,
        })
    }

    /// Returns the number of a stream; its own number is ignored. A new stream begins here.
    pub fn stream(&mut self, mut stream: Stream) -> u32 {
        if let Some(known) = self.streams.iter().find(|known| known.is(&stream)) {
            return known.id;
        }
        stream.id = self.streams.len() as u32 + 1;
        if stream.id as usize > STREAMS {
            if self.streams.iter().all(|known| known.id != 0) {
                let rest = Stream { since_ns: stream.since_ns, ..Stream::default() };
                self.current.streams.push(rest.clone());
                self.streams.push(rest);
            }
            return 0;
        }
        self.current.streams.push(stream.clone());
        self.streams.push(stream.clone());
        stream.id
    }

    /// Marks a stream as partly seen; the next checkpoint says so if its start is already written.
    pub fn mark_partial(&mut self, id: u32) {
        let all = self.current.streams.iter_mut().chain(self.streams.get_mut((id as usize).wrapping_sub(1)));
        all.filter(|stream| stream.id == id && id > 0).for_each(|stream| stream.partial = true);
    }

    /// Adds the counts of a stream in this interval.
    pub fn add(&mut self, stream: u32, counts: &Counts) {
        self.current.row(stream, counts);
    }

    /// Adds time in which processes of a target were not measured, and how many never are.
    pub fn uncovered(&mut self, target: &str, reason: &str, time_ns: u64, processes: u64) {
        self.current.uncovered(target, reason, time_ns, processes);
    }

    /// Start of the current interval, in nanoseconds since boot.
    pub fn begin_ns(&self) -> u64 {
        self.current.begin_ns
    }

    /// Ends the interval, writes it, and syncs it if `sync` is true or a sync is due.
    pub fn close(&mut self, now: Clock, sync: bool) -> Option<Notice> {
        let next = Interval {
            run: self.current.run,
            first: self.current.first + 1,
            last: self.current.last + 1,
            begin_ns: now.boot_ns.max(self.current.begin_ns),
            ..Interval::default()
        };
        let mut ended = std::mem::replace(&mut self.current, next);
        ended.end = Clock { boot_ns: now.boot_ns.max(ended.begin_ns), ..now };
        if self.epoch_ns.is_none() {
            self.epoch_ns = self.epoch(now);
            ended.epoch_ns = self.epoch_ns;
        }
        self.waiting.push_back(ended);
        self.flush(now.boot_ns, sync)
    }

    /// Tries to write the waiting intervals, and to sync them if that is due.
    pub fn flush(&mut self, now_ns: u64, sync: bool) -> Option<Notice> {
        let due =
            sync || self.outage.is_some() || now_ns.saturating_sub(self.synced_at_ns) >= self.options.sync_ns;
        let done = self.write(now_ns, sync).and_then(|()| if due { self.sync(now_ns) } else { Ok(()) });
        match done {
            Ok(()) if due => self.outage.take().map(|outage| Notice::Recovered(outage.late)),
            Ok(()) => None,
            Err(errno) => {
                self.hold();
                let first = self.outage.is_none();
                let (since_ns, late) =
                    self.outage.take().map_or((now_ns, 0), |known| (known.since_ns, known.late));
                self.outage = Some(Outage { errno, since_ns, late });
                first.then_some(Notice::Failing(errno))
            }
        }
    }

    /// State of the spool.
    pub fn status(&self) -> Status {
        let active = self.active.as_ref();
        Status {
            bytes: self.closed.iter().map(|(_, length)| length).sum::<u64>()
                + active.map_or(0, |active| active.length),
            segments: self.closed.len() + usize::from(active.is_some()),
            waiting: self.waiting.len(),
            written: self.written,
            run: self.synced.run,
            interval: self.current.first,
            synced: self.synced.next,
            failing: self.outage.as_ref().map(|outage| outage.errno),
        }
    }

    /// The wall clock at boot, if it can be believed now.
    fn epoch(&self, now: Clock) -> Option<u64> {
        now.epoch_ns(self.synced.began_ns, self.options.patience_ns)
    }

    /// Bounds the number of intervals in memory.
    fn hold(&mut self) {
        while self.waiting.len() > WAITING {
            let mut halves = VecDeque::with_capacity(self.waiting.len() / 2 + 1);
            while let Some(mut interval) = self.waiting.pop_front() {
                if let Some(later) = self.waiting.pop_front() {
                    interval.merge(&later);
                }
                halves.push_back(interval);
            }
            self.waiting = halves;
        }
    }

    /// Writes waiting intervals as far as the budget allows; all of them if `urgent`.
    fn write(&mut self, now_ns: u64, urgent: bool) -> Result<(), Errno> {
        let urgent = urgent || self.outage.is_some();
        let late = self.waiting.iter().map(Interval::covers).sum();
        if let (Some(outage), Some(first)) = (&mut self.outage, self.waiting.front_mut()) {
            outage.late = late;
            let Outage { errno, since_ns, .. } = *outage;
            first.gap = Some(Gap { errno: errno as u32, since_ns, intervals: late });
        }
        while let Some(interval) = self.waiting.front() {
            let bytes = frame_behind(self.next_id, Payload::Interval(interval), self.unsynced.len());
            let length = bytes.len() as u64;
            if !urgent && self.budget.as_mut().is_some_and(|budget| !budget.allows(length, now_ns)) {
                while let Some(later) = (self.waiting.len() > 1).then(|| self.waiting.remove(1)).flatten() {
                    self.waiting[0].merge(&later);
                }
                return Ok(());
            }
            let full = |active: &Active| !active.empty && active.length + length > self.options.segment_bytes;
            if self.active.as_ref().is_none_or(full) {
                self.rotate(now_ns)?;
                // Its checkpoint took an id.
                continue;
            }
            let Some(active) = &mut self.active else { return Ok(()) };
            let file = active.name.file();
            if let Err(errno) = self.store.write(&file, active.length, &bytes) {
                // The next record overwrites it and may be shorter; a rest would look like damage.
                _ = self.store.truncate(&file, active.length);
                return Err(errno);
            }
            active.length += length;
            active.empty = false;
            self.next_id += 1;
            self.spent(length);
            self.unsynced.extend(self.waiting.pop_front());
        }
        Ok(())
    }

    fn spent(&mut self, bytes: u64) {
        self.written += bytes;
        if let Some(budget) = &mut self.budget {
            budget.spend(bytes);
        }
    }

    fn sync(&mut self, now_ns: u64) -> Result<(), Errno> {
        self.synced_at_ns = now_ns;
        let Some(active) = self.active.as_ref().filter(|_| !self.unsynced.is_empty()) else { return Ok(()) };
        match self.store.sync(&active.name.file()) {
            Ok(()) => {
                for interval in self.unsynced.drain(..) {
                    self.synced.add(&interval);
                }
                Ok(())
            }
            Err(errno) => {
                // The kernel does not retry a failed write.
                self.closed.extend(self.active.take().map(|active| (active.name, active.length)));
                while let Some(interval) = self.unsynced.pop() {
                    self.waiting.push_front(interval);
                }
                Err(errno)
            }
        }
    }

    /// Switches to a new segment.
    fn rotate(&mut self, now_ns: u64) -> Result<(), Errno> {
        self.sync(now_ns)?;
        if let Some(active) = self.active.take() {
            // Gives back unused reserved room.
            _ = self.store.truncate(&active.name.file(), active.length);
            self.closed.push((active.name, active.length));
        }
        self.make_room()?;
        let number =
            self.closed.iter().map(|(name, _)| name.last).max().map_or(1, |last| last.saturating_add(1));
        let name = Name::of(number);
        let file = name.file();
        self.synced.epoch_ns = self.epoch_ns;
        let bytes = frame(self.next_id, Payload::Checkpoint(&self.synced));
        let reserved = self.options.segment_bytes.max(bytes.len() as u64);
        let written = (self.store.create(&file, reserved))
            .and_then(|()| self.store.write(&file, 0, &bytes))
            .and_then(|()| self.store.sync(&file))
            .and_then(|()| self.store.sync_names());
        if let Err(errno) = written {
            _ = self.store.remove(&file);
            return Err(errno);
        }
        self.next_id += 1;
        self.spent(bytes.len() as u64);
        self.active = Some(Active { name, length: bytes.len() as u64, empty: true });
        Ok(())
    }

    /// Merges until there is room for a new segment and for the next merged one.
    fn make_room(&mut self) -> Result<(), Errno> {
        let Options { max_bytes, segment_bytes, .. } = self.options;
        // Short ones, from an agent that restarts again and again.
        let most = 2 * max_bytes.div_ceil(segment_bytes.max(1)) as usize;
        let room = max_bytes.saturating_sub(2 * segment_bytes);
        // If no two segments fit into one, shortening or removing one does not change that.
        let mut two_fit = true;
        loop {
            let taken: u64 = self.closed.iter().map(|(_, length)| length.next_multiple_of(BLOCK_BYTES)).sum();
            if taken <= room && self.closed.len() <= most {
                return Ok(());
            }
            let names: Vec<Name> = self.closed.iter().map(|(name, _)| *name).collect();
            let merged = |range: Range<usize>, most: u64| {
                let next = names.get(range.end).copied();
                // An unreadable segment stays as it is until it is the oldest.
                let bytes = merge::into_one(self.store.as_ref(), &names[range.clone()], next, most as usize);
                Some((range, bytes.ok().flatten()?))
            };
            let pairs = merge::choices(&names).into_iter().map(|index| index..index + 2);
            let pair = pairs.filter(|_| two_fit).find_map(|pair| merged(pair, segment_bytes));
            two_fit = pair.is_some();
            // Shortens one segment by a block or more, if merging makes no room for another.
            let shorter = || {
                let of = |(index, (_, length)): (usize, &(Name, u64))| {
                    merged(index..index + 1, length.next_multiple_of(BLOCK_BYTES).saturating_sub(BLOCK_BYTES))
                };
                self.closed.iter().enumerate().filter(|_| taken > room).find_map(of)
            };
            match pair.or_else(shorter) {
                Some((range, bytes)) => self.replace(range, &bytes)?,
                None if names.is_empty() => return Ok(()),
                None => self.drop_oldest()?,
            }
        }
    }

    /// Replaces segments with `bytes`.
    fn replace(&mut self, range: Range<usize>, bytes: &[u8]) -> Result<(), Errno> {
        let parts: Vec<Name> = self.closed[range.clone()].iter().map(|(name, _)| *name).collect();
        let (Some(oldest), Some(newest)) = (parts.first(), parts.last()) else { return Ok(()) };
        let name = Name { first: oldest.first, last: newest.last };
        let written = (self.store.create(UNFINISHED, bytes.len() as u64))
            .and_then(|()| self.store.write(UNFINISHED, 0, bytes))
            .and_then(|()| self.store.sync(UNFINISHED))
            .and_then(|()| self.store.rename(UNFINISHED, &name.file()));
        if let Err(errno) = written {
            _ = self.store.remove(UNFINISHED);
            return Err(errno);
        }
        self.spent(bytes.len() as u64);
        self.closed.splice(range, [(name, bytes.len() as u64)]);
        // Its name is on the disk before its parts go. Readers skip parts that stay.
        self.store.sync_names()?;
        for part in parts.iter().filter(|part| **part != name) {
            _ = self.store.remove(&part.file());
        }
        self.store.sync_names()
    }

    fn drop_oldest(&mut self) -> Result<(), Errno> {
        let Some((name, _)) = self.closed.first().copied() else { return Ok(()) };
        let mut lost = 0;
        // An unreadable segment cannot be counted.
        _ = reader::read(self.store.as_ref(), &[name], false, &mut |_, seen, _| {
            if let Seen::Interval(interval) | Seen::Orphan(interval) = seen {
                lost = interval.covers().saturating_add(lost);
            }
            ControlFlow::Continue(())
        });
        self.store.remove(&name.file())?;
        self.closed.remove(0);
        self.synced.dropped = self.synced.dropped.saturating_add(lost.max(1));
        self.store.sync_names()
    }
}

/// Cuts off the remains of a power cut behind the newest segment's last record, and reserved room.
/// If that fails they stay; readers stop there while the segment is the newest. Damage is not cut
/// off: records behind it count, and it is reported as long as it is there.
fn cut_tail(store: &mut dyn Store, name: Name, length: &mut u64) {
    let file = name.file();
    let Ok(bytes) = store.read(&file, READ_BYTES) else { return };
    let mut frames = Frames::new(&bytes, true);
    frames.by_ref().for_each(drop);
    let sound = frames.offset() as u64;
    if store.truncate(&file, sound).and_then(|()| store.sync(&file)).is_ok() {
        *length = sound;
    }
}

/// The highest id in a segment.
fn last_id(store: &dyn Store, name: Name) -> Option<u64> {
    let bytes = store.read(&name.file(), READ_BYTES).ok()?;
    let ids = Frames::new(&bytes, false).filter_map(|found| match found {
        Found::Record(id, _) | Found::Unknown(id) => Some(id),
        Found::Damaged => None,
    });
    ids.max()
}
