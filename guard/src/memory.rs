//! Room for the target memory that attaching takes.
//!
//! The kernel makes each page of text with a probe private, and charges the copy to the control
//! group of the *target* (`uprobe_write`, kernel/events/uprobes.c). At its limit, the OOM killer
//! ends the target and not the agent. So pages are counted first, and compared with the narrowest
//! room of these:
//!
//! | bound | of |
//! | --- | --- |
//! | `memory.max`, `memory.high` less `memory.current` | the target's group and each above it, cgroup v2 |
//! | `memory.limit_in_bytes`, `memory.memsw.limit_in_bytes` less usage | the same, cgroup v1 |
//! | `MemAvailable` | the machine |
//!
//! `memory.high` only slows a group down, but it slows the target. Page cache without recent use
//! (`inactive_file`) is reclaimable, but not all at once: half counts as room. Swap does not count.
//!
//! Probes may take half of the room, never the last [`RESERVE`]: the target continues to allocate,
//! and a child makes copies of pages while its probes are removed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{GuardError, Text, text};
use crate::target::Target;

/// Bytes of room that are never taken.
const RESERVE: u64 = 256 << 10;
/// Pages besides those of the text: that of single-stepping (`[uprobes]`) and one of trampolines.
pub(crate) const EXTRA_PAGES: u64 = 2;
/// Bytes of a file of /proc or of a control group that are read.
const FILE_BYTES: u64 = 1 << 20;
/// Groups that are examined, from the target's own upwards.
const LEVELS: usize = 64;

/// Files of one hierarchy of control groups.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    /// Limits and their usage.
    bounds: &'static [(&'static str, &'static str)],
    /// Line of `memory.stat`: page cache not used lately, of the group and those below it.
    reclaimable: &'static str,
    /// Type of the file system.
    system: &'static str,
}

/// Documentation/admin-guide/cgroup-v2.rst
const V2: Version = Version {
    bounds: &[("memory.max", "memory.current"), ("memory.high", "memory.current")],
    reclaimable: "inactive_file",
    system: "cgroup2",
};

/// Documentation/admin-guide/cgroup-v1/memory.rst
const V1: Version = Version {
    bounds: &[
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
    ],
    reclaimable: "total_inactive_file",
    system: "cgroup",
};

/// Room in bytes, and its bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) bytes: u64,
    /// A folder of a control group, or the machine.
    pub(crate) of: Text,
}

impl Room {
    /// Bytes that probes may take.
    pub(crate) fn allowed(&self) -> u64 {
        (self.bytes / 2).min(self.bytes.saturating_sub(RESERVE))
    }
}

/// The control groups that memory of a process is charged to. They are looked up while it lives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Groups(Vec<(PathBuf, &'static Version)>);

impl Groups {
    /// Groups of a process, as far as they are visible from here.
    pub(crate) fn of(target: &Target) -> Self {
        let groups = target.open_file("cgroup").ok().and_then(read).unwrap_or_default();
        let mounts = File::open("/proc/self/mountinfo").ok().and_then(read).unwrap_or_default();
        Self::find(&groups, &mounts)
    }

    fn find(groups: &str, mounts: &str) -> Self {
        let mut found = Vec::new();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let version = match controllers {
                "" => &V2,
                _ if controllers.split(',').any(|controller| controller == "memory") => &V1,
                _ => continue,
            };
            let Some((mounted, below)) = mounts.lines().find_map(|mount| place(mount, path, version)) else {
                continue;
            };
            let folder = mounted.join(below);
            let levels = folder.ancestors().take_while(|level| level.starts_with(mounted)).take(LEVELS);
            found.extend(levels.map(|level| (level.to_owned(), version)));
        }
        Self(found)
    }

    /// The narrowest room of all groups and the machine; `None` if no bound is set or readable.
    pub(crate) fn room(&self) -> Option<Room> {
        let of_groups = self.0.iter().filter_map(|(folder, version)| {
            let bound = |(limit, used): &(&str, &str)| {
                // "max" of v2 is no number; the unlimited value of v1 is larger than any memory.
                let limit: u64 = number(&folder.join(limit))?;
                Some(limit.saturating_sub(number(&folder.join(used))?))
            };
            let free = version.bounds.iter().filter_map(bound).min()?;
            let stat = open(&folder.join("memory.stat"));
            let reclaimable = stat.and_then(|stat| field(&stat, version.reclaimable)).unwrap_or(0);
            Some(Room { bytes: free.saturating_add(reclaimable / 2), of: text(folder.display()) })
        });
        let memory = open(Path::new("/proc/meminfo")).and_then(|memory| field(&memory, "MemAvailable:"));
        let machine = memory.map(|kib| Room { bytes: kib.saturating_mul(1024), of: text("this machine") });
        of_groups.chain(machine).min_by_key(|room| room.bytes)
    }

    /// Permits probes of this size.
    ///
    /// # Errors
    /// [`GuardError::NoHeadroom`].
    pub(crate) fn allow(&self, pid: i32, bytes: u64) -> Result<(), GuardError> {
        match self.room() {
            Some(room) if bytes > room.allowed() => {
                Err(GuardError::NoHeadroom { pid, bytes, room: room.bytes, of: room.of })
            }
            _ => Ok(()),
        }
    }
}

/// Number of processes that the OOM killer has ended since boot, for the limit of a group or of the
/// machine (`oom_kill` in /proc/vmstat, Linux 4.13). 0 if the kernel does not report it.
pub(crate) fn kills() -> u64 {
    open(Path::new("/proc/vmstat")).and_then(|counters| field(&counters, "oom_kill")).unwrap_or(0)
}

/// Mount point of the hierarchy by a line of mountinfo (proc_pid_mountinfo(5)), and the path of a
/// group below it. A group outside of that mount, as of another container, is invisible.
fn place<'a>(mount: &'a str, group: &'a str, version: &Version) -> Option<(&'a Path, &'a Path)> {
    let (mount, system) = mount.split_once(" - ")?;
    let mut system = system.split(' ');
    let kind = system.next()?;
    let options = system.nth(1)?;
    let fits =
        kind == version.system && (*version == V2 || options.split(',').any(|option| option == "memory"));
    let mut fields = mount.split(' ').skip(3);
    let (root, at) = (fields.next()?, fields.next()?);
    let below = Path::new(group).strip_prefix(root).ok()?;
    let plain = !group.split('/').any(|part| part == "..");
    (fits && plain).then_some((Path::new(at), below))
}

fn read(file: File) -> Option<String> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn open(path: &Path) -> Option<String> {
    File::open(path).ok().and_then(read)
}

fn number(path: &Path) -> Option<u64> {
    open(path)?.trim().parse().ok()
}

/// The number after a word at the beginning of a line.
fn field(text: &str, word: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut words| (words.next() == Some(word)).then(|| words.next()?.parse().ok()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw
31 25 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate
32 25 0:28 /docker/one /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 25 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu";

    fn found(groups: &str) -> Vec<String> {
        Groups::find(groups, MOUNTS).0.into_iter().map(|(path, _)| path.display().to_string()).collect()
    }

    #[test]
    fn every_group_above_a_process_counts_in_both_hierarchies() {
        let found = found("4:memory:/docker/one/a/b\n3:cpu:/x\n0::/c");
        let v1 = "/sys/fs/cgroup/memory";
        let v2 = "/sys/fs/cgroup/unified";
        assert_eq!(found, [&format!("{v1}/a/b"), &format!("{v1}/a"), v1, &format!("{v2}/c"), v2]);
    }

    #[test]
    fn a_group_that_cannot_be_seen_from_here_is_left_out() {
        assert!(found("4:memory:/docker/two").is_empty());
        assert!(found("0::/../two").is_empty());
        assert!(found("nonsense\n\n::").len() <= 1);
    }

    #[test]
    fn probes_take_half_of_the_room_and_never_the_last_of_it() {
        let allowed = |bytes| Room { bytes, of: text("") }.allowed();
        assert_eq!([0, RESERVE, RESERVE + 1, 1 << 20, 64 << 20].map(allowed), [0, 0, 1, 512 << 10, 32 << 20]);
    }

    #[test]
    fn words_are_whole_and_numbers_follow_them() {
        let stat = "inactive_file 12\ntotal_inactive_file 34\nMemAvailable:   56 kB\n";
        assert_eq!(field(stat, "inactive_file"), Some(12));
        assert_eq!(field(stat, "total_inactive_file"), Some(34));
        assert_eq!(field(stat, "MemAvailable:"), Some(56));
        assert_eq!(field(stat, "active_file"), None);
    }
}
