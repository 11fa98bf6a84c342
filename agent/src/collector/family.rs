//! The processes of a target: their coverage, their ends, and the calls that are over.

use std::collections::BTreeMap;

use nix::time::{ClockId, clock_gettime};

use super::report::ProcessReport;

/// Maximum number of ended processes that are still reported.
const ENDED: usize = 256;

/// A target and its descendants.
#[derive(Debug)]
pub struct Family {
    reports: Vec<ProcessReport>,
    left_out: u64,
    /// Processes that have not ended, with the time on the monotonic clock in nanoseconds at which
    /// each last executed an image: calls that began before are over.
    alive: BTreeMap<i32, u64>,
}

/// Children that were not covered from birth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Children {
    /// Children that ended before they could be covered.
    pub missed: u64,
    /// Lifetime of those children, and of others before their coverage, in nanoseconds.
    pub uncovered_ns: u64,
}

impl Children {
    /// Adds the figures of `other`.
    pub fn add(&mut self, other: Self) {
        self.missed += other.missed;
        self.uncovered_ns += other.uncovered_ns;
    }
}

impl Family {
    /// Creates the family of a target, which is covered from the start.
    pub fn of(pid: i32) -> Self {
        let reports = vec![ProcessReport { pid, covered_since_ns: 0, ended_ns: None }];
        Self { reports, left_out: 0, alive: BTreeMap::from([(pid, 0)]) }
    }

    /// Returns all reported processes, and the number of those left out.
    pub fn reports(&self) -> (Vec<ProcessReport>, u64) {
        (self.reports.clone(), self.left_out)
    }

    /// Number of processes that have not ended.
    pub fn len(&self) -> usize {
        self.alive.len()
    }

    /// Returns true if all processes have ended.
    pub fn is_empty(&self) -> bool {
        self.alive.is_empty()
    }

    /// Returns true if the process is in the family and has not ended.
    pub fn contains(&self, pid: i32) -> bool {
        self.alive.contains_key(&pid)
    }

    /// Processes that have not ended.
    pub fn pids(&self) -> impl Iterator<Item = i32> {
        self.alive.keys().copied()
    }

    /// Returns true if a call of `pid` that began at `began_ns` (monotonic clock) may still run.
    pub fn runs(&self, pid: i32, began_ns: u64) -> bool {
        self.alive.get(&pid).is_some_and(|executed_ns| began_ns >= *executed_ns)
    }

    /// Awaits the end of a process that is not covered.
    pub fn accompany(&mut self, pid: i32) {
        self.alive.entry(pid).or_default();
    }

    /// Takes in that a process is covered from `now` on, in nanoseconds since arming.
    pub fn covered(&mut self, pid: i32, now: u64) {
        let lives = |report: &ProcessReport| report.pid == pid && report.ended_ns.is_none();
        let executed = self.alive.insert(pid, 0);
        // A second plan covers the same process.
        if executed.is_some() && self.reports.iter().any(lives) {
            executed.map(|executed| self.alive.insert(pid, executed));
            return;
        }
        self.make_room();
        self.reports.push(ProcessReport { pid, covered_since_ns: now, ended_ns: None });
    }

    /// Takes in that a process executes its image anew since `time_ns` on the monotonic clock; with
    /// a `gap`, it is covered again only from `now` on.
    pub fn executed(&mut self, pid: i32, time_ns: u64, gap: bool, now: u64) {
        let Some(executed) = self.alive.get_mut(&pid) else { return };
        // A second plan reports the same event.
        let told = std::mem::replace(executed, time_ns) == time_ns;
        if gap && !told {
            let passed = monotonic_ns().saturating_sub(time_ns);
            self.close(pid, now.saturating_sub(passed));
            self.make_room();
            self.reports.push(ProcessReport { pid, covered_since_ns: now, ended_ns: None });
        }
    }

    /// Takes in that a process is no longer covered.
    pub fn gone(&mut self, pid: i32, now: u64) {
        self.alive.remove(&pid);
        self.close(pid, now);
    }

    fn close(&mut self, pid: i32, now: u64) {
        // The last report with that number: the kernel reuses numbers.
        if let Some(report) = self.reports.iter_mut().rfind(|report| report.pid == pid) {
            report.ended_ns.get_or_insert(now);
        }
    }

    /// Drops the oldest ended process at the limit: a program that forks a child for each request
    /// would fill memory and lines.
    fn make_room(&mut self) {
        let ended = |report: &ProcessReport| report.ended_ns.is_some();
        if self.reports.iter().filter(|report| ended(report)).count() >= ENDED {
            let oldest = self.reports.iter().position(ended);
            oldest.map(|oldest| self.reports.remove(oldest));
            self.left_out += 1;
        }
    }
}

fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec());
    u64::try_from(time).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(family: &Family) -> Vec<(i32, u64, Option<u64>)> {
        family.reports.iter().map(|report| (report.pid, report.covered_since_ns, report.ended_ns)).collect()
    }

    #[test]
    fn calls_that_began_before_an_exec_are_over() {
        let mut family = Family::of(7);
        assert!(family.runs(7, 1) && !family.runs(8, 1));
        family.executed(7, 100, false, 5);
        assert_eq!((family.runs(7, 99), family.runs(7, 100)), (false, true));
        // A second plan covers the same process: it has executed nothing since.
        family.covered(7, 6);
        assert!(!family.runs(7, 99));
        assert_eq!(told(&family), [(7, 0, None)]);
    }

    #[test]
    fn a_gap_in_coverage_is_told() {
        let (mut family, now) = (Family::of(7), monotonic_ns());
        family.executed(7, now, true, 50_000_000_000);
        family.executed(7, now, true, 50_000_000_001);
        let [(7, 0, Some(end)), (7, 50_000_000_000, None)] = told(&family)[..] else { panic!("{family:?}") };
        assert!((1..=50_000_000_000).contains(&end), "{end}");
    }

    #[test]
    fn one_that_is_covered_after_another_image_is_told_again() {
        let mut family = Family::of(7);
        family.gone(7, 10);
        assert!(family.is_empty());
        family.accompany(7);
        family.covered(7, 20);
        assert_eq!(told(&family), [(7, 0, Some(10)), (7, 20, None)]);
        assert!(family.runs(7, 0));
    }

    #[test]
    fn those_that_have_ended_do_not_pile_up() {
        let mut family = Family::of(1);
        for pid in 2..ENDED as i32 + 4 {
            family.covered(pid, 0);
            family.gone(pid, 1);
        }
        assert_eq!((family.reports.len(), family.left_out), (ENDED + 1, 2));
        assert!(family.contains(1) && family.len() == 1);
    }
}
