//! A target: one running process, held by descriptors that cannot come to mean another process.
//!
//! The guard reads only short, capped text of a target's /proc folder. That folder is opened once:
//! when the process ends, every read through it fails, even if its number is used again.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use caps::Capability;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, fstat};

use crate::error::{GuardError, Os, text};
use crate::image::stat_quietly;
use crate::maps::{Mapping, Maps};
use crate::protocol::TargetId;
use crate::quarantine::ANY_USER;
use crate::rights;

/// Bytes of /proc/PID/stat and status that are read.
const STATUS_BYTES: u64 = 4096;
/// Bytes that are read for a line after that of the groups (NGROUPS_MAX, eleven bytes each).
const GROUPS_BYTES: u64 = 1 << 20;

/// A running process that may be measured.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) id: TargetId,
    pub(crate) pid: i32,
    /// Clock ticks since boot: together with the number it names one process for good.
    pub(crate) start: u64,
    /// Its real user, who started it; [`ANY_USER`] if unknown.
    pub(crate) user: u32,
    /// Its tracer when it was opened, which was allowed then.
    pub(crate) tracer: Option<i32>,
    proc: OwnedFd,
    /// Readable if the process has ended.
    pidfd: OwnedFd,
}

impl Target {
    /// Opens a process; refuses a process that must not be probed.
    pub(crate) fn open(id: TargetId, pid: i32, allow_ptrace: bool) -> Result<Self, GuardError> {
        if pid <= 0 {
            return Err(GuardError::NoProcess { pid });
        }
        if !in_first_pid_namespace() {
            return Err(GuardError::PidNamespace);
        }
        if pid == std::process::id() as i32 {
            return Err(GuardError::OwnProcess { pid });
        }
        let mut target = Self::unchecked(id, pid)?;
        let status = target.read_capped("status")?;
        let field = |name: &str| -> Option<i32> {
            status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        // Real, effective, saved, file system: the first is the caller of a set-user-id program.
        let user = |line: &str| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok();
        target.user = status.lines().find_map(user).unwrap_or(target.user);
        match field("Tgid:") {
            Some(process) if process != pid => return Err(GuardError::Thread { pid, process }),
            _ => {}
        }
        target.tracer = field("TracerPid:").filter(|tracer| *tracer != 0);
        if let Some(tracer) = target.tracer.filter(|_| !allow_ptrace) {
            return Err(GuardError::Traced { pid, tracer });
        }
        match stat_quietly(target.proc.as_raw_fd(), c"exe") {
            Ok(_) => Ok(target),
            Err(Errno::ENOENT | Errno::ESRCH) if target.main_thread_ended() => {
                Err(GuardError::MainThreadEnded { pid })
            }
            Err(Errno::ENOENT | Errno::ESRCH) => Err(GuardError::NoImage { pid }),
            Err(errno) => Err(target.denied("look at its executable", errno.into())),
        }
    }

    /// Opens a process that the caller has identified.
    pub(crate) fn unchecked(id: TargetId, pid: i32) -> Result<Self, GuardError> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_PATH | OFlag::O_CLOEXEC;
        let proc = nix::fcntl::open(format!("/proc/{pid}").as_str(), flags, Mode::empty());
        let proc = proc.map_err(|errno| match errno {
            Errno::ENOENT | Errno::ESRCH => GuardError::NoProcess { pid },
            errno => GuardError::Proc { file: text(format_args!("/proc/{pid}")), os: errno.into() },
        })?;
        let pidfd = pidfd_open(pid).map_err(|errno| match errno {
            // A thread that leads no process (EINVAL) is distinguished by its Tgid below.
            Errno::ESRCH => GuardError::NoProcess { pid },
            errno => {
                GuardError::Proc { file: text(format_args!("pidfd of process {pid}")), os: errno.into() }
            }
        });
        let mut target = Self {
            id,
            pid,
            start: 0,
            user: ANY_USER,
            tracer: None,
            pidfd: proc.try_clone().map_err(|_| GuardError::Message)?,
            proc,
        };
        if pidfd.is_err() {
            let status = target.read_capped("status").unwrap_or_default();
            let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
            if let Some(process) = process.filter(|process| *process != pid) {
                return Err(GuardError::Thread { pid, process });
            }
        }
        target.pidfd = pidfd?;
        target.start = target.read_start()?;
        Ok(target)
    }

    /// Readable if the process has ended, with all its threads.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// True if the main thread has ended, while others continue to run.
    pub(crate) fn main_thread_ended(&self) -> bool {
        let stat = self.read_capped("stat").unwrap_or_default();
        parse_state(&stat).is_some_and(|state| matches!(state, "Z" | "X")) && !self.ended()
    }

    /// Time that it spent in the kernel, in clock ticks.
    pub(crate) fn kernel_ticks(&self) -> Option<u64> {
        behind_name(&self.read_capped("stat").ok()?)?.nth(12)?.parse().ok()
    }

    /// True if the process has ended, with all its threads.
    pub(crate) fn ended(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
    }

    /// Its mappings, to be read line by line.
    pub(crate) fn maps(&self) -> Result<Maps, GuardError> {
        self.open_file("maps").map(Maps::of)
    }

    /// The `wanted` ones of the executable, file-backed mappings, in address order.
    pub(crate) fn mappings(&self, wanted: impl Fn(&Mapping) -> bool) -> Result<Vec<Mapping>, GuardError> {
        let mut maps = self.maps()?;
        let mut mappings = Vec::new();
        while let Some(line) = self.next_mapping(&mut maps)? {
            mappings.extend(line.filter(|mapping| mapping.is_code() && wanted(mapping)));
        }
        Ok(mappings)
    }

    /// The next line of `maps`: a mapping, or something else. `None` at the end.
    pub(crate) fn next_mapping(&self, maps: &mut Maps) -> Result<Option<Option<Mapping>>, GuardError> {
        maps.next().map_err(|error| self.unreadable("maps", error.into()))
    }

    /// Path of the process' executable, as /proc shows it.
    pub(crate) fn executable(&self) -> Option<String> {
        readlinkat(&self.proc, "exe").ok().map(|path| path.to_string_lossy().into_owned())
    }

    /// Device and inode of the file that the process executes.
    pub(crate) fn executable_file(&self) -> Option<(u64, u64)> {
        let found = stat_quietly(self.proc.as_raw_fd(), c"exe").ok()?;
        Some((u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor), found.stx_ino))
    }

    /// Its folder of /proc.
    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// Opens the file behind a mapping, whatever its path holds now and in any mount namespace.
    pub(crate) fn open_mapped(&self, mapping: &Mapping, flags: OFlag) -> Result<File, GuardError> {
        let open = |name: &str| self.open_with(name, flags);
        // The kernel's own link to the mapped file; needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
        let link = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
        let mut error = match open(&link) {
            Ok(file) => return Ok(file),
            Err(errno) => errno,
        };
        if self.executable().is_some_and(|path| path == mapping.path) {
            match open("exe") {
                Ok(file) => return Ok(file),
                Err(errno) => error = errno,
            }
        }
        if mapping.is_deleted() {
            return Err(self.image_error(mapping, error));
        }
        let file = open(&format!("root/{}", mapping.path.trim_start_matches('/')))
            .map_err(|errno| self.image_error(mapping, errno))?;
        let stat = fstat(&file).map_err(|errno| self.image_error(mapping, errno))?;
        // Only the inode: the device number in maps is not that of stat on overlay and btrfs.
        if stat.st_ino != mapping.file.inode {
            return Err(GuardError::ImageReplaced { pid: self.pid, path: text(&mapping.path) });
        }
        Ok(file)
    }

    fn image_error(&self, mapping: &Mapping, errno: Errno) -> GuardError {
        if Os::from(errno).denied() {
            // A file that is gone from its path can only be opened by the kernel's link to it.
            let wanted = match mapping.is_deleted() {
                true => Capability::CAP_CHECKPOINT_RESTORE,
                false => Capability::CAP_DAC_READ_SEARCH,
            };
            let action = format_args!("open {} of process {}", mapping.path, self.pid);
            return rights::refused(action, errno.into(), &[wanted]);
        }
        GuardError::OpenImage { pid: self.pid, path: text(&mapping.path), os: errno.into() }
    }

    /// True if it has memory. A process that has ended, or is about to, has none.
    pub(crate) fn has_memory(&self) -> bool {
        let mut byte = [0];
        self.open_read("maps").is_ok_and(|mut maps| maps.read(&mut byte).is_ok_and(|read| read > 0))
    }

    fn open_read(&self, name: &str) -> Result<File, Errno> {
        self.open_with(name, OFlag::O_RDONLY)
    }

    fn open_with(&self, name: &str, flags: OFlag) -> Result<File, Errno> {
        // Without O_NONBLOCK a FIFO at the path would hold the guard.
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        openat(&self.proc, name, flags, Mode::empty()).map(File::from)
    }

    pub(crate) fn open_file(&self, name: &str) -> Result<File, GuardError> {
        self.open_read(name).map_err(|errno| self.unreadable(name, errno.into()))
    }

    pub(crate) fn read_capped(&self, name: &str) -> Result<String, GuardError> {
        self.read_bounded(name, STATUS_BYTES)
    }

    fn read_bounded(&self, name: &str, most: u64) -> Result<String, GuardError> {
        let mut bytes = Vec::new();
        let mut file = self.open_file(name)?.take(most);
        file.read_to_end(&mut bytes).map_err(|error| self.unreadable(name, error.into()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// True if it has a handler for SIGTRAP. A process with unknown state may have one.
    pub(crate) fn handles_traps(&self) -> bool {
        const TRAP: u64 = 1 << (Signal::SIGTRAP as u32 - 1);
        let status = self.read_capped("status").unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask & TRAP != 0)
    }

    /// True if its main thread runs with a shadow stack (x86-64, Linux 6.6).
    pub(crate) fn has_shadow_stack(&self) -> bool {
        // The line is the last one, after those of up to 65,536 groups.
        let status = self.read_bounded("status", GROUPS_BYTES).unwrap_or_default();
        has_shadow_stack(&status)
    }

    fn read_start(&self) -> Result<u64, GuardError> {
        let stat = self.read_capped("stat")?;
        parse_start(&stat).ok_or_else(|| self.unreadable("stat", Errno::EBADMSG.into()))
    }

    pub(crate) fn unreadable(&self, name: &str, os: Os) -> GuardError {
        match os.0 {
            errno if errno == Errno::ESRCH as i32 || errno == Errno::ENOENT as i32 => {
                GuardError::NoProcess { pid: self.pid }
            }
            _ if os.denied() => self.denied(&format!("read its {name}"), os),
            _ => GuardError::Proc { file: text(format_args!("/proc/{}/{name}", self.pid)), os },
        }
    }

    fn denied(&self, action: &str, os: Os) -> GuardError {
        let action = format_args!("open process {} ({action})", self.pid);
        rights::refused(action, os, &[Capability::CAP_SYS_PTRACE])
    }
}

/// Start time of the process with this folder of /proc.
pub(crate) fn start_of(process: &OwnedFd) -> Option<u64> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut stat = String::new();
    let file = openat(process, "stat", flags, Mode::empty()).ok()?;
    File::from(file).take(STATUS_BYTES).read_to_string(&mut stat).ok()?;
    parse_start(&stat)
}

/// The process that forked a process, or that adopted it.
pub(crate) fn parent_of(pid: i32) -> Option<i32> {
    let process = Target::unchecked(TargetId(0), pid).ok()?;
    behind_name(&process.read_capped("stat").ok()?)?.nth(1)?.parse().ok()
}

/// True if a one-thread process is computing or waiting for a CPU or disk: it continues by itself.
pub(crate) fn is_at_work(pid: i32) -> bool {
    let stat = Target::unchecked(TargetId(0), pid).and_then(|process| process.read_capped("stat"));
    stat.is_ok_and(|stat| matches!(parse_state(&stat), Some("R" | "D")))
}

fn has_shadow_stack(status: &str) -> bool {
    let features = status.lines().find_map(|line| line.strip_prefix("x86_Thread_features:"));
    features.is_some_and(|features| features.split_ascii_whitespace().any(|feature| feature == "shstk"))
}

/// Field 22 of /proc/PID/stat.
fn parse_start(stat: &str) -> Option<u64> {
    behind_name(stat)?.nth(19)?.parse().ok()
}

/// Field 3 of /proc/PID/stat, the state of the main thread.
fn parse_state(stat: &str) -> Option<&str> {
    behind_name(stat)?.next()
}

/// The fields from the third on, counted after the last parenthesis: a command name may hold spaces
/// and parentheses itself.
fn behind_name(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

/// True if process numbers here are those that BPF programs see. They see the first namespace's.
pub(crate) fn in_first_pid_namespace() -> bool {
    /// PROC_PID_INIT_INO, include/linux/proc_ns.h (an enum of fixed values, part of the ABI).
    const FIRST: u64 = 0xEFFF_FFFC;
    // If /proc does not show it, opening the target will report the reason.
    nix::sys::stat::stat("/proc/self/ns/pid").map_or(true, |stat| stat.st_ino == FIRST)
}

fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two integers and touches no memory of this process.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd)? as i32;
    // SAFETY: the call succeeded: a new descriptor (close-on-exec by definition) without another
    // owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Path by which the kernel finds exactly the file of a descriptor of this process.
pub(crate) fn path_of(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_move_the_start_time() {
        let stat = "12 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 424242 20";
        assert_eq!(parse_start(stat), Some(424_242));
        assert_eq!(parse_state(stat), Some("S"));
        assert_eq!(parse_start("12 (a"), None);
    }

    #[test]
    fn a_shadow_stack_is_among_the_features_of_the_main_thread() {
        assert!(has_shadow_stack(
            "Name:\ta\nx86_Thread_features:\tshstk wrss \nx86_Thread_features_locked:\t\n"
        ));
        assert!(!has_shadow_stack("x86_Thread_features:\t\nx86_Thread_features_locked:\tshstk\n"));
        assert!(!has_shadow_stack("Name:\tshstk\n"));
        let own = Target::unchecked(TargetId(0), std::process::id() as i32).unwrap();
        assert!(
            own.read_bounded("status", GROUPS_BYTES).unwrap().contains("ctxt_switches"),
            "it is read whole"
        );
    }

    #[test]
    fn a_process_that_does_not_exist_is_named() {
        let error = Target::open(TargetId(1), i32::MAX, false).unwrap_err();
        assert_eq!(error, GuardError::NoProcess { pid: i32::MAX });
    }

    #[test]
    fn the_own_process_is_refused() {
        let pid = std::process::id() as i32;
        assert_eq!(Target::open(TargetId(1), pid, false).unwrap_err(), GuardError::OwnProcess { pid });
    }

    #[test]
    fn the_mappings_of_a_live_process_contain_its_executable() {
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let target = Target::open(TargetId(1), child.id() as i32, false).unwrap();
        // Until the child has executed sleep it still runs this test's image, and for a moment none at all.
        let mapping = loop {
            let executable = target.executable().unwrap_or_default();
            let mappings = target.mappings(|_| true).unwrap_or_default();
            if let Some(mapping) = mappings.into_iter().find(|m| m.path == executable) {
                break mapping;
            }
            std::thread::yield_now();
        };
        let file = target.open_mapped(&mapping, OFlag::O_RDONLY).unwrap();
        assert_eq!(fstat(&file).unwrap().st_ino, mapping.file.inode);
        child.kill().unwrap();
        child.wait().unwrap();
        let left = target.mappings(|_| true);
        assert!(left.is_err() || left.is_ok_and(|left| left.is_empty()));
    }
}
