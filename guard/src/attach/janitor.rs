//! A process that outlives the guard and removes the trace event definitions of a killed guard.
//!
//! The kernel removes the probes of a killed guard at once, but not their definitions in
//! `uprobe_events`, each of which keeps the file system of its image busy. A definition cannot be
//! removed while its event is open, so a process must exist afterwards. The janitor holds two
//! descriptors, no capability, and nothing else of the guard; it waits for the guard's end and
//! removes the definitions with its name. It is no child of the guard, so no process has to wait
//! for it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use caps::CapSet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};

use super::copies::close_all_but;
use super::owner::Owner;
use super::tracefs::{errno_of, left_of, remove};

/// Attempts to remove a definition, and the pause between: closing many events takes time.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the janitor. `listing` is `uprobe_events` for reading, `events` for writing; `guard` is
/// readable once the guard has ended.
pub(super) fn start(owner: &Owner, listing: File, events: &File, guard: OwnedFd) -> Result<(), Errno> {
    let events = events.try_clone().map_err(errno_of)?;
    // SAFETY: besides system calls the child only reads and writes text, for which it allocates.
    // The guard has one thread here; in a test with more threads, the C library makes its heap
    // usable in a child.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => waitpid(child, None).map(drop),
        ForkResult::Child => {
            // SAFETY: as above.
            let status = match unsafe { fork() } {
                Ok(ForkResult::Parent { .. }) => 0,
                Ok(ForkResult::Child) => work(owner, &listing, &events, &guard),
                Err(_) => 1,
            };
            // SAFETY: ends this process and runs nothing of the guard's, of whose values it has
            // copies.
            unsafe { nix::libc::_exit(status) }
        }
    }
}

fn work(owner: &Owner, listing: &File, events: &File, guard: &OwnedFd) -> i32 {
    // A process waiting for the guard's sockets or output to close must not wait for this one.
    close_all_but(vec![listing.as_raw_fd(), events.as_raw_fd(), guard.as_raw_fd()]);
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        _ = caps::clear(None, set);
    }
    _ = prctl::set_no_new_privs();
    _ = prctl::set_name(c"edgelat-janitor");
    let mut ended = [PollFd::new(std::os::fd::AsFd::as_fd(guard), PollFlags::POLLIN)];
    while poll(&mut ended, PollTimeout::NONE) == Err(Errno::EINTR) {}
    let group = owner.group();
    for _ in 0..TRIES {
        // A process forked by the guard at its end has copies of its events until it closes them.
        if owner.may_have_open(listing) {
            std::thread::sleep(PAUSE);
            continue;
        }
        let left = left_of(listing, |other| other == group);
        if left.is_empty() {
            break;
        }
        left.iter().for_each(|event| _ = remove(events, event));
        std::thread::sleep(PAUSE);
    }
    0
}
