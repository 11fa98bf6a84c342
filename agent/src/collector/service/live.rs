//! The live snapshot: totals of each function, state of the targets, and cost of the agent itself.

use std::fs::File;

use edgelat_guard::clock;
use edgelat_spool::live::{Agent, Own, Row, Snapshot, SpoolFigures, Target, Writer};
use edgelat_spool::record::STREAMS;
use edgelat_spool::{Counts, Spool, Stream};
use nix::time::{ClockId, clock_gettime};

use super::recorder::{boot_id, now};
use super::watched::Group;
use crate::config::{AgentConfig, SpoolConfig};
use crate::log::{Level, Log};
use crate::values::nanoseconds;
use crate::values::ppm;

/// Shows the results to readers without privileges; without a file it only keeps the totals.
#[derive(Debug)]
pub struct Live {
    writer: Option<Writer>,
    place: String,
    /// Snapshot without the rows.
    head: Snapshot,
    rows: Vec<Row>,
    /// Costs of targets at the previous snapshot, with its time since boot.
    before: (u64, Vec<(String, u64)>),
    /// True if the last snapshot could not be written.
    failing: bool,
}

impl Live {
    /// Creates the snapshot for an open file.
    pub fn new(file: Option<File>, config: &AgentConfig) -> Self {
        let agent = Agent {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            boot: boot_id(),
            pid: std::process::id(),
            began_ns: clock::now().boot_ns,
        };
        Self {
            writer: file.map(Writer::new),
            place: config.run_dir.join(edgelat_spool::live::FILE).display().to_string(),
            head: Snapshot { agent, ..Snapshot::default() },
            rows: Vec::new(),
            before: (0, Vec::new()),
            failing: false,
        }
    }

    /// Returns the place of a stream among the rows. A new stream begins here.
    pub fn row(&mut self, stream: &Stream) -> usize {
        if let Some(known) = self.rows.iter().position(|row| row.stream.is(stream)) {
            return known;
        }
        // Further streams are counted together, as in the spool.
        let full = self.rows.len() >= STREAMS;
        if full && let Some(rest) = self.rows.iter().position(|row| row.stream.id == 0) {
            return rest;
        }
        let id = if full { 0 } else { self.rows.len() as u32 + 1 };
        let stream = match full {
            true => Stream { since_ns: stream.since_ns, ..Stream::default() },
            false => Stream { id, ..stream.clone() },
        };
        self.rows.push(Row { stream, ..Row::default() });
        self.rows.len() - 1
    }

    /// Marks a stream of which only a part of the calls is seen, except the common row, which is no
    /// function.
    pub fn mark_partial(&mut self, row: usize) {
        if let Some(row) = self.rows.get_mut(row).filter(|row| row.stream.id != 0) {
            row.stream.partial = true;
        }
    }

    /// Adds the counts of a stream until it was read, at a time since boot.
    pub fn add(&mut self, row: usize, counts: &Counts, read_ns: u64) {
        if let Some(row) = self.rows.get_mut(row) {
            row.counts.add(counts);
            row.read_ns = read_ns;
        }
    }

    /// Writes a snapshot.
    pub fn write(&mut self, shown: &Shown<'_>, spool: Option<&Spool>, config: &SpoolConfig, log: &Log) {
        let Some(writer) = &mut self.writer else { return };
        let head = &mut self.head;
        head.now = now();
        head.epoch_ns = head
            .epoch_ns
            .or_else(|| head.now.epoch_ns(head.agent.began_ns, nanoseconds(config.clock_patience)));
        head.interval_ns = nanoseconds(shown.agent.interval);
        head.ended = shown.ended;
        head.own = own(shown, spool.map(|spool| (spool, config)));
        if !shown.ended {
            // At the end, the processes are released already.
            head.targets = shown.groups.iter().map(target).collect();
            price(&mut head.targets, &mut self.before, head.now.boot_ns);
        }
        match writer.write(head, &self.rows) {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let place = &self.place;
                    log.say(
                        Level::Error,
                        format_args!("{place} cannot be written: {error}; what it shows is old"),
                    );
                }
            }
        }
    }
}

/// Content of the snapshot besides the functions.
#[derive(Debug)]
pub struct Shown<'s> {
    /// The configuration of the service.
    pub agent: &'s AgentConfig,
    /// Its targets.
    pub groups: &'s [Group],
    /// Builds in quarantine.
    pub quarantine: usize,
    /// True for the last snapshot.
    pub ended: bool,
}

fn own(shown: &Shown<'_>, spool: Option<(&Spool, &SpoolConfig)>) -> Own {
    let status = read("/proc/self/status");
    let of_guard = field(&status, "PPid:").map(|guard| read(&format!("/proc/{guard}/status")));
    let cpu = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok();
    let cpu_ns = cpu.map(|time| time.tv_sec() * 1_000_000_000 + time.tv_nsec());
    Own {
        cpu_ns: cpu_ns.and_then(|ns| u64::try_from(ns).ok()).unwrap_or(0),
        collector_bytes: resident(&status),
        guard_bytes: of_guard.as_deref().and_then(resident),
        quarantine: shown.quarantine as u64,
        limit_ppm: ppm(shown.agent.max_cost),
        spool: spool.map(|(spool, config)| {
            let status = spool.status();
            SpoolFigures {
                bytes: status.bytes,
                max_bytes: config.max_bytes,
                segments: status.segments as u64,
                waiting: status.waiting as u64,
                written: status.written,
                errno: status.failing.map(|errno| errno as u64),
            }
        }),
    }
}

fn target(group: &Group) -> Target {
    let mut target = Target {
        name: group.config.name.clone(),
        cost_ns: group.spent.cost_ns,
        unattributed: group.spent.unattributed,
        limit_ppm: ppm(group.config.max_cost),
        ..Target::default()
    };
    let mut children = group.spent.children;
    // One process may call a function that another does not.
    let of_python = group.watched.iter().filter_map(|process| process.session()?.not_called());
    target.not_called = of_python.min().unwrap_or(0) as u64;
    for process in &group.watched {
        let (state, count) = match (process.session(), process.fate.in_words().1) {
            (Some(session), _) => {
                target.cost_ns += session.cost().unwrap_or(0);
                target.unattributed += session.unattributed_hits();
                children.add(session.children);
                target.refused = target.refused.max(session.refused() as u64);
                ("", session.family.len() as u64)
            }
            (None, why) => (why.unwrap_or("left"), 1),
        };
        match target.processes.iter_mut().find(|(known, _)| known == state) {
            Some((_, known)) => *known += count,
            None => target.processes.push((state.to_owned(), count)),
        }
    }
    (target.missed, target.children_ns) = (children.missed, children.uncovered_ns);
    target
}

/// Computes the cost of each target on one CPU since the previous snapshot.
fn price(targets: &mut [Target], before: &mut (u64, Vec<(String, u64)>), now_ns: u64) {
    let passed = now_ns.saturating_sub(before.0);
    for target in targets.iter_mut() {
        let known = before.1.iter().find(|(name, _)| *name == target.name);
        target.cost_ppm = known.filter(|_| passed > 0).map(|(_, cost)| {
            let cost = u128::from(target.cost_ns.saturating_sub(*cost)) * 1_000_000;
            u64::try_from(cost / u128::from(passed)).unwrap_or(u64::MAX)
        });
    }
    *before = (now_ns, targets.iter().map(|target| (target.name.clone(), target.cost_ns)).collect());
}

fn read(path: &str) -> String {
    edgelat_guard::outside::read_to_string(path).unwrap_or_default()
}

/// Returns the value of a line of /proc/PID/status, by its name.
fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn resident(status: &str) -> Option<u64> {
    let kibibytes: u64 = field(status, "VmRSS:")?.strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(function: &str) -> Stream {
        Stream { function: function.to_owned(), since_ns: 5, ..Stream::default() }
    }

    fn live() -> Live {
        let config = crate::config::Config::parse(std::path::Path::new("f"), b"").unwrap();
        Live::new(None, &config.agent)
    }

    #[test]
    fn a_function_has_one_row_whichever_process_calls_it() {
        let mut live = live();
        let (one, two) = (live.row(&stream("one")), live.row(&stream("two")));
        assert_ne!(one, two);
        assert_eq!(live.row(&Stream { since_ns: 9, ..stream("one") }), one);
        let counts = Counts { entries: 3, zero: 3, ..Counts::default() };
        live.add(one, &counts, 7);
        live.add(one, &counts, 7);
        assert_eq!((live.rows[one].counts.entries, live.rows[two].counts.entries), (6, 0));
        assert_eq!((live.rows[one].read_ns, live.rows[one].stream.since_ns), (7, 5));
    }

    #[test]
    fn what_has_no_row_of_its_own_is_counted_together() {
        let mut live = live();
        for number in 0..STREAMS {
            assert_eq!(live.row(&stream(&format!("f{number}"))), number);
        }
        assert_eq!(live.row(&stream("more")), STREAMS);
        assert_eq!(live.row(&stream("still more")), STREAMS);
        assert_eq!(live.rows[STREAMS].stream, Stream { since_ns: 5, ..Stream::default() });
    }

    #[test]
    fn a_cost_is_that_of_one_cpu_since_the_snapshot_before() {
        let at = |cost_ns| vec![Target { name: "t".to_owned(), cost_ns, ..Target::default() }];
        let mut before = (0, Vec::new());
        let mut targets = at(1_000);
        price(&mut targets, &mut before, 1_000_000_000);
        assert_eq!(targets[0].cost_ppm, None, "there was none before");
        let mut targets = at(5_001_000);
        price(&mut targets, &mut before, 2_000_000_000);
        assert_eq!(targets[0].cost_ppm, Some(5_000));
    }

    #[test]
    fn memory_is_read_from_what_the_kernel_says() {
        let status = "Name:\tedgelat\nPPid:\t17\nVmRSS:\t    1234 kB\n";
        assert_eq!((field(status, "PPid:"), resident(status)), (Some("17"), Some(1_263_616)));
        assert_eq!(resident(""), None);
        assert!(resident(&read("/proc/self/status")).is_some());
    }
}
