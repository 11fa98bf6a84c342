//! What may never come back is done by a process of its own.
//!
//! A file of a target may stand on a file system that its owner serves, or a server far away, and every call that touches it
//! then waits as long as that one likes. So images are opened and read by a child of the guard, which is waited for a
//! while, and killed; meanwhile budgets are looked at. What the guard itself holds of such a file is a descriptor that only
//! names it (O_PATH): it can be probed, and closing it asks nobody.
//!
//! The child holds nothing of the guard but what its job needs. One that the kernel cannot end either, because the file system has
//! taken its request and does not answer (fs/fuse/dev.c, `request_wait_answer`), is left behind; it ends with the answer.

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

/// How long a child may make no progress. A disk answers in milliseconds, also a busy one.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long, where somebody asks the agent to end or to stop.
const IMPATIENCE: Duration = Duration::from_millis(500);
/// Time between two looks at the budgets.
const LOOK: Duration = Duration::from_millis(100);
/// The message that shows progress. No result begins so.
const PROGRESS: u8 = 0xff;
/// Children that the kernel could not end yet, at most.
const LEFT_BEHIND: usize = 16;
/// How long a file system that did not answer is not asked again.
pub(crate) const REST: Duration = Duration::from_secs(60);

/// What comes of a job: its result, and descriptors.
pub(crate) type Outcome<T> = (Result<T, GuardError>, Vec<OwnedFd>);

/// The child's way to say that it goes on.
pub(crate) struct Progress<'a>(BorrowedFd<'a>);

impl Progress<'_> {
    /// Shows that something was done. Where nobody listens any more the child is about to be killed.
    pub(crate) fn show(&self) {
        _ = send(self.0, &[PROGRESS], &[]);
    }
}

impl Guard {
    /// Does `job` in a child that has the descriptors `keep` and no others. `None` when it did not answer in time.
    ///
    /// # Errors
    /// When there can be no child, or the job's own.
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
        // SAFETY: the guard has one thread, so that no lock is held by a thread that the child lacks. In tests it has more, and
        // the C library holds its own locks across a fork.
        match unsafe { fork() }.map_err(failed)? {
            ForkResult::Child => {
                // It is of no use to anybody else, and holds up nobody who waits for the guard's descriptors.
                _ = prctl::set_pdeathsig(Signal::SIGKILL);
                close_all_but(keep.iter().map(AsRawFd::as_raw_fd).chain([theirs.as_raw_fd()]).collect());
                let (result, descriptors) = job(&Progress(theirs.as_fd()));
                let mut buffer = vec![0; MESSAGE_BYTES];
                if let Ok(bytes) = encode(&result, &mut buffer) {
                    _ = send(theirs.as_fd(), bytes, &descriptors);
                }
                // SAFETY: ends this process at once; what is registered to run at its end is the parent's.
                unsafe { libc::_exit(0) }
            }
            ForkResult::Parent { child } => {
                drop(theirs);
                let outcome = self.wait_for(ours.as_fd());
                // It has nothing to do any more, whether it has ended or not.
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
                // One that ended without an answer has none.
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

    /// Has a signal come that the loop has not seen yet?
    fn is_asked_to_end(&self) -> bool {
        let Some(signals) = &self.signals else { return false };
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

fn has_ended(child: Pid) -> bool {
    !matches!(waitpid(child, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive))
}
