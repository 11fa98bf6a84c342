//! CPUs of this machine: present, isolated and busy.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sched::sched_getaffinity;
use nix::unistd::Pid;

use crate::cpus::{CpuSet, MAX_CPUS};
use crate::outside;

/// CPUs that run (Linux, Documentation/ABI/testing/sysfs-devices-system-cpu).
const ONLINE: &str = "/sys/devices/system/cpu/online";
/// Isolated by `isolcpus=` (drivers/base/cpu.c, `print_cpus_isolated`); from 7.0 also by partition.
const ISOLATED: &str = "/sys/devices/system/cpu/isolated";
/// In the root of the unified hierarchy from 6.7 on: all isolated partitions
/// (kernel/cgroup/cpuset.c).
const PARTITIONED: &str = "cpuset.cpus.isolated";
/// State of the sched_ext scheduler (kernel/sched/ext.c; from 6.12 on).
const SCHED_EXT_STATE: &str = "/sys/kernel/sched_ext/state";

/// Control group folders that are searched for isolated partitions.
const GROUPS: usize = 256;
/// Observation time for load on isolated CPUs: ten of the clock ticks that /proc/stat counts in.
const LOOK: Duration = Duration::from_millis(100);

/// The choice is made from these sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) online: CpuSet,
    pub(super) isolated: CpuSet,
    /// Isolated CPUs that are in use more than half of the time.
    pub(super) busy: CpuSet,
    /// CPUs that this process may run on now.
    pub(super) allowed: CpuSet,
}

impl Machine {
    /// Takes a tenth of a second if there are isolated CPUs, else no time.
    pub(super) fn look() -> Self {
        let isolated = isolated();
        let online = read(ONLINE).unwrap_or_default();
        let candidates = isolated.shared_with(&online);
        let busy = if candidates.is_empty() { candidates } else { busy(&candidates) };
        Self { online, isolated, busy, allowed: allowed().unwrap_or(online) }
    }
}

/// All isolated CPUs, including offline ones.
pub(super) fn isolated() -> CpuSet {
    Watched::open().isolated().and(&partitions())
}

/// CPUs that this thread may run on; `None` on machines with more CPUs than a set holds.
pub(super) fn allowed() -> Option<CpuSet> {
    let mask = sched_getaffinity(Pid::from_raw(0)).ok()?;
    Some((0..MAX_CPUS).filter(|cpu| mask.is_set(*cpu as usize) == Ok(true)).collect())
}

fn read(path: impl AsRef<Path>) -> Option<CpuSet> {
    CpuSet::parse(&outside::read_to_string(path).ok()?)
}

/// Files that are read repeatedly, opened while every file is accessible.
#[derive(Debug)]
pub(super) struct Watched {
    isolated: Option<File>,
    partitioned: Option<File>,
    sched_ext: Option<File>,
}

impl Watched {
    pub(super) fn open() -> Self {
        let partitioned = unified().and_then(|root| outside::open(root.join(PARTITIONED)).ok());
        Self {
            isolated: outside::open(ISOLATED).ok(),
            partitioned,
            sched_ext: outside::open(SCHED_EXT_STATE).ok(),
        }
    }

    /// Isolated by the kernel's command line or, from 6.7 on, by a partition.
    pub(super) fn isolated(&self) -> CpuSet {
        let files = [&self.isolated, &self.partitioned];
        let lists = files.map(|file| again(file, CpuSet::parse).unwrap_or_default());
        lists[0].and(&lists[1])
    }

    /// True if the kernel has sched_ext.
    pub(super) fn knows_sched_ext(&self) -> bool {
        self.sched_ext.is_some()
    }

    /// True if a sched_ext scheduler is in force.
    pub(super) fn sched_ext_enabled(&self) -> bool {
        again(&self.sched_ext, |state| (state.trim() == "enabled").then_some(())).is_some()
    }
}

/// Reads a small file from its beginning, without allocating.
fn again<T>(file: &Option<File>, of: impl Fn(&str) -> Option<T>) -> Option<T> {
    let mut bytes = [0; 4096];
    let read = file.as_ref()?.read_at(&mut bytes, 0).ok()?;
    of(std::str::from_utf8(bytes.get(..read)?).ok()?)
}

/// Mount point of the unified hierarchy of control groups.
fn unified() -> Option<PathBuf> {
    // Looked up only once: a process whose root is elsewhere sees no mounts.
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND.get_or_init(mounted_unified).clone()
}

fn mounted_unified() -> Option<PathBuf> {
    let mounts = outside::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (point, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(point))
    })
}

/// CPUs of isolated partitions, if the kernel has no file of them all (before 6.7): a partition is
/// below other partitions only (Documentation/admin-guide/cgroup-v2.rst, `cpuset.cpus.partition`).
fn partitions() -> CpuSet {
    let Some(root) = unified() else { return CpuSet::default() };
    if outside::open(root.join(PARTITIONED)).is_ok() {
        return CpuSet::default();
    }
    let (mut found, mut folders) = (CpuSet::default(), vec![root]);
    for _ in 0..GROUPS {
        let Some(folder) = folders.pop() else { break };
        let names = outside::names(&folder).unwrap_or_default();
        for group in names.into_iter().map(|name| folder.join(name)) {
            let kind = outside::read_to_string(group.join("cpuset.cpus.partition")).unwrap_or_default();
            // An invalid partition is marked: `isolated invalid (reason)`.
            if kind.trim() == "isolated" {
                found = found.and(&read(group.join("cpuset.cpus.effective")).unwrap_or_default());
            }
            if ["isolated", "root"].contains(&kind.trim()) {
                folders.push(group);
            }
        }
    }
    found
}

/// CPUs of this set that are in use, by their idle time. A program that polls is alone on an
/// isolated CPU and takes all of its time; a polling program with a real-time priority would let
/// nothing else run there.
fn busy(cpus: &CpuSet) -> CpuSet {
    let stat = || outside::read_to_string("/proc/stat").unwrap_or_default();
    let before = stat();
    std::thread::sleep(LOOK);
    busy_between(cpus, &before, &stat())
}

fn busy_between(cpus: &CpuSet, before: &str, after: &str) -> CpuSet {
    let used = |cpu: &u32| {
        let ((idle, all), (idle_now, all_now)) = (times(before, *cpu)?, times(after, *cpu)?);
        Some(2 * idle_now.saturating_sub(idle) < all_now.saturating_sub(all))
    };
    cpus.iter().filter(|cpu| used(cpu).unwrap_or(false)).collect()
}

/// Idle and total ticks of a CPU: /proc/stat, fs/proc/stat.c. Guest time is part of user time.
fn times(stat: &str, cpu: u32) -> Option<(u64, u64)> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu")?.strip_prefix(&format!("{cpu} ")))?;
    let mut ticks = [0; 8];
    for (tick, word) in ticks.iter_mut().zip(line.split_ascii_whitespace()) {
        *tick = word.parse::<u64>().ok()?;
    }
    let [_, _, _, idle, waits, ..] = ticks;
    Some((idle + waits, ticks.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_is_idle_less_than_half_of_the_time_is_busy() {
        let before = "cpu  9 0 9 900 0 0 0 0 0 0\ncpu0 100 0 5 800 3 0 0 0 0 0\ncpu1 0 0 0 500 0 0 0 0 0 0\n\
                      cpu11 7 0 0 9 0 0 0 0 0 0\nintr 1\n";
        let after = "cpu  9 0 9 900 0 0 0 0 0 0\ncpu0 108 0 5 801 4 0 0 0 0 0\ncpu1 4 0 0 506 0 0 0 0 0 0\n\
                     cpu11 17 0 0 9 0 0 0 0 0 0\nintr 1\n";
        let all = CpuSet::parse("0-1,11,12").unwrap();
        assert_eq!(busy_between(&all, before, after).to_string(), "0,11");
        assert!(busy_between(&all, "", "").is_empty());
    }

    #[test]
    fn this_machine_has_cpus_and_this_thread_may_run_on_some() {
        let machine = Machine::look();
        assert!(!machine.allowed.is_empty());
        assert!(machine.allowed.is_within(&machine.online), "{machine:?}");
    }
}
