//! Storage of the results in the spool and in the live snapshot: the activity of each function
//! since the previous interval, and the gaps in the measurement.
//!
//! Reports of a process are cumulative since its probes were armed. A stream of the spool is a
//! function of a target in one build of an image, in any process, so the difference to the previous
//! report is added.

use edgelat_guard::{clock, outside};
use edgelat_spool::record::{PLAUSIBLE_NS, cut, hexadecimal};
use edgelat_spool::{Clock, Counts, Directory, Identity, Notice, Options, Spool, Status, Stream, Trust};

use super::lines::Spooled;
use super::live::{Live, Shown};
use crate::collector::family::Children;
use crate::collector::report::{FunctionReport, Report};
use crate::config::SpoolConfig;
use crate::log::{Level, Log};
use crate::values::nanoseconds;

/// Sources of random bytes, in the form of a UUID, and of the boot id.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A function of a process, as in the previous report.
#[derive(Debug)]
struct Known {
    process: (i32, u64),
    name: String,
    image: String,
    line: u32,
    /// Stream in the spool.
    stream: u32,
    /// Row in the live snapshot.
    row: usize,
    before: Counts,
}

impl Known {
    fn is(&self, process: (i32, u64), function: &FunctionReport) -> bool {
        self.process == process
            && self.name == function.name
            && self.image == function.image
            && self.line == function.line.unwrap_or(0)
    }
}

/// Reason code of children that ended before they could be covered, or were covered late.
const CHILDREN: &str = "children";

/// Writer of the spool, if there is one, and of the live snapshot.
#[derive(Debug)]
pub struct Recorder {
    spool: Option<Spool>,
    config: SpoolConfig,
    live: Live,
    place: String,
    /// Functions of all processes; those of one process are usually adjacent.
    known: Vec<Known>,
}

impl Recorder {
    /// Begins a run in `folder`. Without a folder that can be listed, nothing is kept, which is
    /// logged.
    pub fn open(folder: Option<Directory>, live: Live, config: &SpoolConfig, log: &Log) -> Self {
        let place = config.dir.display().to_string();
        let options = Options {
            max_bytes: config.max_bytes,
            segment_bytes: config.segment_bytes,
            sync_ns: nanoseconds(config.sync),
            bytes_per_day: config.bytes_per_day,
            patience_ns: nanoseconds(config.clock_patience),
        };
        let identity =
            Identity { run: uuid(RANDOM), boot: uuid(BOOT_ID), agent: env!("CARGO_PKG_VERSION").to_owned() };
        let opened = folder.map(|folder| Spool::open(Box::new(folder), options, identity, now()));
        let spool = match opened {
            Some(Ok(spool)) => Some(spool),
            Some(Err(error)) => {
                log.say(
                    Level::Error,
                    format_args!(
                        "{place}: {error}; nothing is kept of what is measured until edgelat is started again"
                    ),
                );
                None
            }
            None => None,
        };
        Self { spool, config: config.clone(), live, place, known: Vec::new() }
    }

    /// Takes in the activity of a process since its previous report.
    pub fn take(&mut self, target: &str, report: &Report) {
        let Self { spool, live, known: all, .. } = self;
        let (process, read_ns) = ((report.target.pid, report.target.start), boot_ns());
        // One name can stand for several ranges, which are one stream.
        let mut after: Vec<(usize, Counts)> = Vec::new();
        let mut place = all.iter().position(|known| known.process == process).unwrap_or(0);
        for function in &report.functions {
            // Functions usually come in the same order each time.
            if !all.get(place).is_some_and(|known| known.is(process, function)) {
                let found = all.iter().position(|known| known.is(process, function));
                place = found.unwrap_or(all.len());
            }
            if place == all.len() {
                let stream = stream_of(target, function);
                let row = live.row(&stream);
                let stream = spool.as_mut().map_or(0, |spool| spool.stream(stream));
                let (name, image) = (function.name.clone(), function.image.clone());
                let (line, before) = (function.line.unwrap_or(0), Counts::default());
                all.push(Known { process, name, image, line, stream, row, before });
            }
            if function.partial {
                live.mark_partial(all[place].row);
                spool.iter_mut().for_each(|spool| spool.mark_partial(all[place].stream));
            }
            // Only a place that is not behind the last can be there already.
            let again = after.last().is_some_and(|(last, _)| place <= *last);
            match after.iter_mut().filter(|_| again).find(|(other, _)| *other == place) {
                Some((_, counts)) => counts.add(&counts_of(function)),
                None => after.push((place, counts_of(function))),
            }
            place += 1;
        }
        for (place, after) in after {
            let known = &mut all[place];
            let did = after.since(&known.before);
            live.add(known.row, &did, read_ns);
            if let Some(spool) = spool {
                spool.add(known.stream, &did);
            }
            known.before = after;
        }
        if report.last {
            // Probes that are armed again count from 0.
            self.known.retain(|known| known.process != process);
        }
    }

    /// Takes in the time in which children were not covered, and the number of those that ended so.
    pub fn children(&mut self, target: &str, before: Children, now: Children) {
        if let Some(spool) = self.spool.as_mut().filter(|_| now != before) {
            let time_ns = now.uncovered_ns - before.uncovered_ns;
            spool.uncovered(target, CHILDREN, time_ns, now.missed - before.missed);
        }
    }

    /// Takes in that a part of a target was not measured since `since_ns`, in nanoseconds since
    /// boot, as far as that time is in this interval.
    pub fn uncovered(&mut self, target: &str, reason: &str, since_ns: u64) {
        let Some(spool) = &mut self.spool else { return };
        let time_ns = now().boot_ns.saturating_sub(since_ns.max(spool.begin_ns()));
        if time_ns > 0 {
            spool.uncovered(target, reason, time_ns, 0);
        }
    }

    /// Ends the interval and writes it; with `sync`, to the disk.
    pub fn close(&mut self, sync: bool, log: &Log) {
        let place = &self.place;
        match self.spool.as_mut().and_then(|spool| spool.close(now(), sync)) {
            Some(Notice::Failing(errno)) => log.say(
                Level::Error,
                format_args!(
                    "{place} takes no records: {}; they wait in memory, and the oldest are merged if it takes long",
                    errno.desc()
                ),
            ),
            Some(Notice::Recovered(late)) => log.say(
                Level::Info,
                format_args!("{place} takes records again; {late} intervals came late and none was lost"),
            ),
            None => {}
        }
    }

    /// Position of the current results in the spool, if they are recorded.
    pub fn place(&self) -> Option<Spooled> {
        let Status { run, interval, synced, .. } = self.spool.as_ref()?.status();
        Some(Spooled { run: hexadecimal(&run), interval, synced })
    }

    /// Writes the live snapshot.
    pub fn show(&mut self, shown: &Shown<'_>, log: &Log) {
        self.live.write(shown, self.spool.as_ref(), &self.config, log);
    }
}

/// Nanoseconds since boot.
pub fn boot_ns() -> u64 {
    clock::now().boot_ns
}

/// The id of the boot.
pub fn boot_id() -> [u8; 16] {
    uuid(BOOT_ID)
}

pub(super) fn now() -> Clock {
    let clock::Now { boot_ns, real_ns, synchronised } = clock::now();
    let trust = match (synchronised, real_ns >= PLAUSIBLE_NS) {
        (_, false) => Trust::Unset,
        (false, true) => Trust::Plausible,
        (true, true) => Trust::Synchronised,
    };
    Clock { boot_ns, real_ns, trust }
}

/// The bytes of a UUID in a file; zeros if it cannot be read.
fn uuid(path: &str) -> [u8; 16] {
    let text = outside::read_to_string(path).unwrap_or_default();
    let digits = text.chars().filter_map(|digit| digit.to_digit(16));
    digits.fold(0u128, |number, digit| number << 4 | u128::from(digit)).to_be_bytes()
}

fn stream_of(target: &str, function: &FunctionReport) -> Stream {
    Stream {
        id: 0,
        target: cut(target),
        function: cut(&function.name),
        image: cut(&function.image),
        build_id: function.build_id.clone(),
        language: function.language.to_owned(),
        line: function.line.unwrap_or(0),
        until_tail_call: function.until_tail_call,
        resumes: function.resumes,
        partial: function.partial,
        bias_ns: function.bias_ns,
        since_ns: boot_ns(),
    }
}

fn counts_of(function: &FunctionReport) -> Counts {
    let lost = &function.lost;
    let lost = [
        lost.abandoned + lost.cut,
        lost.evicted,
        lost.ended_inside,
        lost.over_range,
        lost.table_full,
        lost.unresolved,
        lost.unkeyed,
    ];
    Counts {
        entries: function.entries,
        in_flight: function.in_flight as i64,
        lost: lost.map(|lost| lost as i64),
        unmatched: function.unmatched_exits,
        exceptions: function.exceptions.unwrap_or(0),
        sum_ns: function.sum_ns,
        probes_inside_ns: function.probes_inside_ns,
        suspended_ns: function.suspended_ns,
        zero: function.zero_count,
        buckets: function.buckets.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_in_the_order_in_which_records_have_them() {
        let mut function = FunctionReport::new("f".to_owned(), "/f".to_owned());
        let lost = serde_json::to_value(function.lost).unwrap();
        for (index, name) in edgelat_spool::LOSSES.iter().enumerate() {
            let mut one = lost.clone();
            one[name] = 7.into();
            let lost = &mut function.lost;
            *lost = crate::collector::report::Lost {
                cut: 0,
                abandoned: one["abandoned"].as_u64().unwrap(),
                evicted: one["evicted"].as_u64().unwrap(),
                ended_inside: one["ended_inside"].as_u64().unwrap(),
                over_range: one["over_range"].as_u64().unwrap(),
                table_full: one["table_full"].as_u64().unwrap(),
                unresolved: one["unresolved"].as_u64().unwrap(),
                unkeyed: one["unkeyed"].as_u64().unwrap(),
            };
            let mut expected = [0; 7];
            expected[index] = 7;
            assert_eq!(counts_of(&function).lost, expected, "{name}");
        }
    }

    #[test]
    fn a_uuid_is_sixteen_bytes() {
        assert_ne!(uuid(BOOT_ID), [0; 16]);
        assert_eq!(uuid(BOOT_ID), uuid(BOOT_ID));
        assert_ne!(uuid(RANDOM), uuid(RANDOM));
        assert_eq!(uuid("/nothing"), [0; 16]);
    }
}
