//! Work that may never return runs in a separate process.
//!
//! A file of a target may be on a file system that the target's owner serves, or a distant server,
//! and every call on the file then waits as long as that server takes. So a child of the guard
//! opens and reads images; the guard waits for it for a while, and kills it. Budgets are checked
//! meanwhile. The guard itself holds a descriptor that only names the file (O_PATH): the file can
//! be probed, and closing the descriptor needs no server.
//!
//! The child holds nothing of the guard but the needs of its job. If the kernel cannot end it
//! either, because the file system has taken its request and does not answer (fs/fuse/dev.c,
//! `request_wait_answer`), it is left behind and ends with the answer.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use serde::{Deserialize, Serialize};

use crate::attach::copies::close_all_but;
use crate::error::{GuardError, text};
use crate::guard::Guard;
use crate::line::{decode, encode, receive, send};
use crate::protocol::MESSAGE_BYTES;

/// Longest time without progress of a child. Even a busy disk answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time after a request to end or stop the agent.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// Time between two checks of the budgets.
const LOOK: Duration = Duration::from_millis(100);
/// Message that shows progress. No result begins with this byte.
const PROGRESS: u8 = 0xff;
/// Most children that the kernel could not end yet.
const LEFT_BEHIND: usize = 16;
/// Time before a file system that did not answer is used again.
pub(crate) const REST: Duration = Duration::from_secs(60);

/// Outcome of a job: its result, and descriptors.
pub(crate) type Outcome<T> = (Result<T, GuardError>, Vec<OwnedFd>);

/// The child's channel for reporting progress.
pub(crate) struct Progress<'a>(BorrowedFd<'a>);

impl Progress<'_> {
    /// Reports progress. Without a listener the child is about to be killed.
    pub(crate) fn show(&self) {
        _ = send(self.0, &[PROGRESS], &[]);
    }
}

impl Guard {
    /// Does `job` in a child that has only the descriptors `keep`. `None` if it did not answer in
    /// time.
    ///
    /// # Errors
    /// If no child can be made, or the job's own.
    pub(crate) fn aside<T: Serialize + for<'a> Deserialize<'a>>(
        &mut self,
        keep: &[BorrowedFd<'_>],
        job: impl FnOnce(&Progress<'_>) -> Outcome<T>,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, GuardError> {
        let failed = |errno: Errno| GuardError::Split {
            step: text("start a process that reads files"),
            os: errno.into(),
        };
        self.left_behind.retain(|child| !has_ended(*child));
        if self.left_behind.len() >= LEFT_BEHIND {
            return Ok(None);
        }
        let kind = SockType::SeqPacket;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).map_err(failed)?;
        // SAFETY: the guard has one thread, so that no lock is held by a thread that the child
        // lacks. In tests it has more, and the C library holds its own locks across a fork.
        match unsafe { fork() }.map_err(failed)? {
            ForkResult::Child => {
                // The child is useless without the guard, and must not hold its descriptors open.
                _ = prctl::set_pdeathsig(Signal::SIGKILL);
                close_all_but(keep.iter().map(AsRawFd::as_raw_fd).chain([theirs.as_raw_fd()]).collect());
                let (result, descriptors) = job(&Progress(theirs.as_fd()));
                let mut buffer = vec![0; MESSAGE_BYTES];
                if let Ok(bytes) = encode(&result, &mut buffer) {
                    _ = send(theirs.as_fd(), bytes, &descriptors);
                }
                // SAFETY: ends this process at once; functions to run at its end are the parent's.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                drop(theirs);
                let outcome = self.wait_for(ours.as_fd());
                // The child has nothing more to do, whether it has ended or not.
                _ = kill(child, Signal::SIGKILL);
                if matches!(outcome, Ok(None)) {
                    self.left_behind.push(child);
                } else {
                    _ = waitpid(child, None);
                }
                outcome
            }
        }
    }

    fn wait_for<T: for<'a> Deserialize<'a>>(
        &mut self,
        socket: BorrowedFd<'_>,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, GuardError> {
        let mut buffer = vec![0; MESSAGE_BYTES];
        let mut heard = Instant::now();
        let begun = heard;
        loop {
            let mut fds = [PollFd::new(socket, PollFlags::POLLIN)];
            let time = PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, time).is_ok_and(|ready| ready > 0) {
                // A child that ended without an answer has none.
                let Some((bytes, descriptors)) = receive(socket, &mut buffer)? else { return Ok(None) };
                if buffer[..bytes] == [PROGRESS] {
                    heard = Instant::now();
                    continue;
                }
                let result: Result<T, GuardError> = decode(&buffer[..bytes])?;
                return result.map(|result| Some((result, descriptors)));
            }
            self.look_at_costs(Instant::now());
            let asked = begun.elapsed() > IMPATIENCE && self.is_asked_to_end();
            if asked || heard.elapsed() > PATIENCE {
                return Ok(None);
            }
        }
    }

    /// Returns true if a signal has come that the loop has not seen yet.
    fn is_asked_to_end(&self) -> bool {
        let Some(signals) = &self.signals else { return false };
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

fn has_ended(child: Pid) -> bool {
    !matches!(waitpid(child, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
}
