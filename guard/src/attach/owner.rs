//! Owners of the events of the tracing file system, and whether any process may still have these
//! open.
//!
//! A definition outlives its maker, so each is in a group whose name gives its owner,
//! `edgelat_<pid>_<start>`. The end of the maker is not enough to remove it: a process that the
//! maker had forked at the end has copies of its events, and an open event must not lose its
//! definition (see `copies`). So every agent holds a lock on one byte of `uprobe_events`, at a
//! place that follows from its name, through a descriptor that is copied together with its events.
//! The lock belongs to an open file (`F_OFD_SETLK`), and the kernel releases it with the last copy.

use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::error::GuardError;
use crate::lock::{self, Want};
use crate::protocol::TargetId;
use crate::target::Target;

/// Prefix of a group's name; the process id and the start time follow.
pub(super) const PREFIX: &str = "edgelat_";
/// Bits of a process id (PID_MAX_LIMIT, include/linux/threads.h).
const PID_BITS: u32 = 22;

/// A process, by its id and its start time in clock ticks since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pid: i32,
    start: u64,
}

impl Owner {
    /// This process.
    pub(super) fn own() -> Result<Self, Errno> {
        let pid = std::process::id() as i32;
        Ok(Self { pid, start: start_of(pid).flatten().ok_or(Errno::ESRCH)? })
    }

    /// Returns the owner of a group; `None` if the name has another form.
    pub(super) fn of(group: &str) -> Option<Self> {
        let (pid, start) = group.strip_prefix(PREFIX)?.split_once('_')?;
        Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
    }

    pub(super) fn group(&self) -> String {
        format!("{PREFIX}{}_{}", self.pid, self.start)
    }

    /// Returns true if the process has certainly ended and no process has its events open. `events`
    /// is `uprobe_events`.
    pub(super) fn is_gone(&self, events: impl AsFd) -> bool {
        self.has_ended(start_of) && !self.may_have_open(events)
    }

    /// Events of a process that could not be examined, for want of a descriptor or a right, stay.
    fn has_ended(&self, start_of: impl Fn(i32) -> Option<Option<u64>>) -> bool {
        start_of(self.pid).is_some_and(|found| found != Some(self.start))
    }

    /// Returns true if any process may have events of this one open.
    pub(super) fn may_have_open(&self, events: impl AsFd) -> bool {
        lock::is_part_locked(events, self.byte()).unwrap_or(true)
    }

    /// Holds its lock as long as a copy of this descriptor of `uprobe_events` exists. The lock is a
    /// read lock: guards of one process do not obstruct each other.
    pub(super) fn hold(&self, events: impl AsFd) -> Result<(), Errno> {
        lock::set_part(events, Want::Read, self.byte())
    }

    fn byte(&self) -> (i64, i64) {
        let place = self.start << PID_BITS | u64::from(self.pid as u32);
        ((place & i64::MAX as u64) as i64, 1)
    }
}

/// Start time of a process in clock ticks since boot. The inner `None`: no such process (its id may
/// now be a thread's); the outer `None`: it could not be examined.
fn start_of(pid: i32) -> Option<Option<u64>> {
    match Target::unchecked(TargetId(0), pid) {
        Ok(target) => Some(Some(target.start)),
        Err(GuardError::NoProcess { .. } | GuardError::Thread { .. }) => Some(None),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::testing::{Folder, eventually};

    #[test]
    fn only_of_an_agent_that_is_gone_events_are_stale() {
        let runs = |pid: i32| match pid {
            7 => Some(Some(100)),
            8 => Some(None),
            _ => None,
        };
        let stale = |group: &str| Owner::of(group).map(|owner| owner.has_ended(runs));
        assert_eq!(stale("edgelat_8_100"), Some(true));
        assert_eq!(
            stale("edgelat_7_99"),
            Some(true),
            "the number was used again by a process that started later"
        );
        assert_eq!(stale("edgelat_7_100"), Some(false));
        assert_eq!(stale("edgelat_9_100"), Some(false), "nobody could look");
        assert_eq!(stale("uprobes"), None);
        assert_eq!(stale("edgelat_x_y"), None);
        assert_eq!(stale(""), None);
    }

    #[test]
    fn the_name_of_a_group_is_read_as_it_was_written() {
        let owner = Owner::own().unwrap();
        assert_eq!(Owner::of(&owner.group()), Some(owner));
        let last = Owner { pid: i32::MAX, start: u64::MAX };
        assert_eq!(Owner::of(&last.group()), Some(last));
        assert!(last.byte().0 > 0, "a place in a file");
        assert_ne!(Owner { pid: 1, start: 2 }.byte(), Owner { pid: 2, start: 1 }.byte());
    }

    #[test]
    fn as_long_as_any_process_has_a_copy_events_may_be_open() {
        let folder = Folder::new();
        let path = folder.join("events");
        std::fs::write(&path, "").unwrap();
        let asked = File::open(&path).unwrap();
        // The first process has another start time, so this owner is gone.
        let owner = Owner { pid: 1, start: u64::MAX };
        assert!(owner.is_gone(&asked));
        let held = File::open(&path).unwrap();
        owner.hold(&held).unwrap();
        assert!(owner.may_have_open(&asked));
        assert!(!owner.is_gone(&asked));
        assert!(!Owner { pid: 2, ..owner }.may_have_open(&asked), "the lock of another one");
        let mut holder = Command::new("sleep").arg("1000").stdin(Stdio::from(held)).spawn().unwrap();
        assert!(owner.may_have_open(&asked), "the other process has it");
        holder.kill().unwrap();
        holder.wait().unwrap();
        eventually("no copy is left, and one is seen", || owner.is_gone(&asked));
    }
}
