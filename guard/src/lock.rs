//! Locks on files: one agent at a time, and one writer of a file at a time.
//!
//! Two agents on one box would each hold its own budget, so that targets pay twice. So an agent
//! takes a lock before it does anything else, and a second agent reports the holder. Nothing needs
//! cleaning up after an agent that was killed: the kernel releases the lock with the last
//! descriptor.
//!
//! They are locks of an open file, not of a process (`F_OFD_SETLK`, Linux 3.15): a process would
//! lose its lock as soon as any part of it closes the file. After a fork both processes hold the
//! lock, and either can close its copy without releasing the lock of the other.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{GuardError, Os, text};

/// The file that is locked, in the run directory.
const FILE: &str = "lock";
/// Longest process number that is read from it.
const PID_BYTES: u64 = 16;

/// A file of any length (fcntl(2)).
const WHOLE: (i64, i64) = (0, 0);

/// Request to a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Want {
    /// Others may read, no process may write.
    Read = libc::F_RDLCK,
    /// Exclusive.
    Write = libc::F_WRLCK,
    /// No lock any more.
    Nothing = libc::F_UNLCK,
}

/// Locks a whole file, or releases it, without waiting.
///
/// # Errors
/// EAGAIN if another process holds the lock.
pub(crate) fn set(file: impl AsFd, want: Want) -> Result<(), Errno> {
    set_part(file, want, WHOLE)
}

/// Locks or releases a part of a file: its first byte, and its length.
pub(crate) fn set_part(file: impl AsFd, want: Want, part: (i64, i64)) -> Result<(), Errno> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&lock_of(want, part))) {
        Ok(_) => Ok(()),
        // POSIX has both names for it.
        Err(Errno::EACCES) => Err(Errno::EAGAIN),
        Err(errno) => Err(errno),
    }
}

fn lock_of(want: Want, (l_start, l_len): (i64, i64)) -> libc::flock {
    libc::flock {
        l_type: want as i32 as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start,
        l_len,
        // A lock of an open file has no process; the kernel refuses another value.
        l_pid: 0,
    }
}

/// The right to be the agent of this box, as long as it is held.
#[derive(Debug)]
pub struct RunLock {
    /// Closing it releases the lock, unless a child holds a copy.
    _file: File,
    /// Lock of the records folder.
    _records: Option<File>,
}

impl RunLock {
    /// Takes the lock in `run_dir`, created (0755) if missing, and writes the holder there.
    ///
    /// # Errors
    /// [`GuardError::AlreadyRuns`] if an agent holds it; [`GuardError::RunLock`] if that fails.
    pub fn take(run_dir: &Path) -> Result<Self, GuardError> {
        let path = run_dir.join(FILE);
        let made = DirBuilder::new().recursive(true).mode(0o755).create(run_dir);
        made.map_err(|error| GuardError::RunLock { file: text(path.display()), os: error.into() })?;
        Ok(Self { _file: locked(&path)?, _records: None })
    }

    /// Takes the lock in the records folder too: an agent with another `run_dir` may write there as
    /// well, and each would remove the other's records.
    ///
    /// # Errors
    /// As for [`take`](Self::take). A folder that cannot be written to has no lock, and needs none.
    pub fn also(&mut self, records: &Path) -> Result<(), GuardError> {
        self._records = Some(locked_for_reading(&records.join(FILE))?);
        Ok(())
    }
}

/// Locks on a read-only descriptor, so that its file system may be made read-only.
fn locked_for_reading(path: &Path) -> Result<File, GuardError> {
    let failed = |os: Os| GuardError::RunLock { file: text(path.display()), os };
    let written = open(path).map_err(|error| failed(error.into()))?;
    let file = open_to_look(path).map_err(|error| failed(error.into()))?;
    // SAFETY: takes a descriptor, which is open, and flags.
    let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    Errno::result(locked).map_err(|errno| refused(path, &file, errno))?;
    write_owner(&written);
    Ok(file)
}

/// The reason of a refused lock. Both kinds return EAGAIN if another agent holds it.
fn refused(path: &Path, file: &File, errno: Errno) -> GuardError {
    let path = text(path.display());
    match errno {
        Errno::EAGAIN => GuardError::AlreadyRuns { pid: holder(file), file: path },
        errno => GuardError::RunLock { file: path, os: errno.into() },
    }
}

/// Opens a lock's file, created if missing. Only this user may: any process that can read a file
/// can lock it for reading, and would keep every agent away.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags);
    options.open(path)
}

/// Only a help for a second agent; the lock holds without it.
fn write_owner(file: &File) {
    _ = file.set_len(0);
    _ = file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0);
}

/// Opens a file, created if missing, locks it, and writes the holder there.
fn locked(path: &Path) -> Result<File, GuardError> {
    let failed = |os: Os| GuardError::RunLock { file: text(path.display()), os };
    let file = open(path).map_err(|error| failed(error.into()))?;
    set(&file, Want::Write).map_err(|errno| refused(path, &file, errno))?;
    write_owner(&file);
    Ok(file)
}

/// True if an agent holds the lock in `run_dir`, or if access to it is denied.
pub(crate) fn is_held(run_dir: &Path) -> bool {
    let file = match open_to_look(&run_dir.join(FILE)) {
        Ok(file) => file,
        Err(error) => return error.kind() == ErrorKind::PermissionDenied,
    };
    is_locked(file)
}

/// True if another process' lock conflicts with a write lock. Takes none.
pub(crate) fn is_locked(file: impl AsFd) -> bool {
    is_part_locked(file, WHOLE).unwrap_or(false)
}

/// True if another process' lock conflicts with a write lock on a part of the file.
///
/// # Errors
/// If it cannot be known.
pub(crate) fn is_part_locked(file: impl AsFd, part: (i64, i64)) -> Result<bool, Errno> {
    let mut lock = lock_of(Want::Write, part);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// Opens what should be a file of an agent, from a place that may hold something else: a link leads
/// elsewhere, and a pipe would wait for its other end.
pub(crate) fn open_to_look(path: &Path) -> std::io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(ErrorKind::InvalidInput.into()),
    }
}

/// The process that wrote its number there; `None` between the lock and the writing.
fn holder(file: &File) -> Option<i32> {
    let mut digits = String::new();
    file.take(PID_BYTES).read_to_string(&mut digits).ok()?;
    digits.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::error::Kind;
    use crate::testing::{Folder, eventually};

    /// The directory for a process that is to hold the lock.
    const HOLD: &str = "EDGELAT_TEST_HOLD";

    #[test]
    fn a_second_agent_is_told_who_the_first_is() {
        let folder = Folder::new();
        let run_dir = folder.join("run/edgelat");
        let first = RunLock::take(&run_dir).unwrap();
        let error = RunLock::take(&run_dir).unwrap_err();
        let file = text(run_dir.join("lock").display());
        assert_eq!(error, GuardError::AlreadyRuns { pid: Some(std::process::id() as i32), file });
        assert_eq!(error.kind(), Kind::Failure);
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        eventually("a lock that was let go of cannot be taken", || RunLock::take(&run_dir).is_ok());
    }

    #[test]
    fn two_agents_with_directories_of_their_own_have_no_records_in_common() {
        let folder = Folder::new();
        let records = folder.join("spool");
        std::fs::create_dir(&records).unwrap();
        let mut first = RunLock::take(&folder.join("a")).unwrap();
        let mut second = RunLock::take(&folder.join("b")).unwrap();
        first.also(&records).unwrap();
        let file = text(records.join("lock").display());
        let pid = Some(std::process::id() as i32);
        assert_eq!(second.also(&records), Err(GuardError::AlreadyRuns { pid, file }));
        drop(first);
        eventually("a lock that was let go of cannot be taken", || {
            locked_for_reading(&records.join(FILE)).is_ok()
        });
        let error = second.also(&folder.join("nowhere")).unwrap_err();
        assert!(matches!(error, GuardError::RunLock { .. }), "{error}");
    }

    #[test]
    fn whether_an_agent_runs_is_seen_without_locking_anything() {
        let folder = Folder::new();
        assert!(!is_held(&folder));
        let lock = RunLock::take(&folder).unwrap();
        assert!(is_held(&folder));
        drop(lock);
        eventually("the file is there, and nobody's", || !is_held(&folder));
        let _lock = RunLock::take(&folder).unwrap();
    }

    #[test]
    fn only_the_owner_can_keep_an_agent_away() {
        let folder = Folder::new();
        let run_dir = folder.join("run");
        let _lock = RunLock::take(&run_dir).unwrap();
        let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(run_dir.clone()), mode(run_dir.join("lock"))), (0o755, 0o600));
    }

    #[test]
    fn a_place_that_takes_no_file_is_named() {
        let folder = Folder::new();
        std::fs::write(folder.join("file"), "").unwrap();
        let error = RunLock::take(&folder.join("file")).unwrap_err();
        assert!(error.to_string().contains("file/lock"), "{error}");
        // A link could lead to a file that must not be written.
        std::os::unix::fs::symlink(folder.join("file"), folder.join("lock")).unwrap();
        let error = RunLock::take(&folder).unwrap_err();
        assert!(matches!(error, GuardError::RunLock { os, .. } if os == Errno::ELOOP.into()), "{error}");
    }

    #[test]
    fn a_holder_that_has_not_said_who_it_is_yet_is_refused_all_the_same() {
        let folder = Folder::new();
        let _lock = RunLock::take(&folder).unwrap();
        std::fs::write(folder.join("lock"), "").unwrap();
        let error = RunLock::take(&folder).unwrap_err();
        assert!(matches!(error, GuardError::AlreadyRuns { pid: None, .. }), "{error}");
    }

    /// Not a test: the next test starts it.
    #[test]
    #[ignore = "started by another"]
    fn the_process_that_holds() {
        let Ok(run_dir) = std::env::var(HOLD) else { return };
        let _lock = RunLock::take(Path::new(&run_dir)).unwrap();
        std::fs::write(Path::new(&run_dir).join("held"), "").unwrap();
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn a_killed_agent_leaves_no_lock() {
        let folder = Folder::new();
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lock::tests::the_process_that_holds", "--ignored"])
            .env(HOLD, &*folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !folder.join("held").exists() {
            assert_eq!(holder.try_wait().unwrap(), None, "it ended without the lock");
            std::thread::yield_now();
        }
        let error = RunLock::take(&folder).unwrap_err();
        assert!(matches!(error, GuardError::AlreadyRuns { pid: Some(pid), .. } if pid == holder.id() as i32));
        holder.kill().unwrap();
        holder.wait().unwrap();
        RunLock::take(&folder).unwrap();
    }

    #[test]
    fn a_copy_that_is_closed_leaves_the_lock_with_the_other() {
        let folder = Folder::new();
        let lock = RunLock::take(&folder).unwrap();
        drop(lock._file.try_clone().unwrap());
        assert!(RunLock::take(&folder).is_err());
    }
}
