//! A process that outlives the guard, for the definitions of trace events that it leaves when it is killed.
//!
//! The kernel removes the probes of a killed guard at once, but not their definitions in `uprobe_events`, each of which
//! keeps the file system of its image busy. Nobody can remove a definition while its event is open, so somebody has to be
//! there afterwards. The janitor holds two descriptors, no capability, and nothing else of the guard; it waits for the
//! guard's end and removes what has its name. It is no child of the guard, so that it is nobody's to wait for.

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

/// How often, and how long apart, it tries to remove a definition: closing many events takes the kernel its time.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// Starts it. `listing` is `uprobe_events` for reading, `events` for writing; `guard` is readable once the guard has ended.
pub(super) fn start(owner: &Owner, listing: File, events: &File, guard: OwnedFd) -> Result<(), Errno> {
    let events = events.try_clone().map_err(errno_of)?;
    // SAFETY: what the child does besides system calls is to read and write text, for which it allocates. The guard has one
    // thread where this is called; where a test has more, the C library makes its heap usable in a child.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => waitpid(child, None).map(drop),
        ForkResult::Child => {
            // SAFETY: as above.
            let status = match unsafe { fork() } {
                Ok(ForkResult::Parent { .. }) => 0,
                Ok(ForkResult::Child) => work(owner, &listing, &events, &guard),
                Err(_) => 1,
            };
            // SAFETY: ends this process and runs nothing of the guard's, whose values it has copies of.
            unsafe { nix::libc::_exit(status) }
        }
    }
}

fn work(owner: &Owner, listing: &File, events: &File, guard: &OwnedFd) -> i32 {
    // Whoever waits for the guard's sockets or output to close is not to wait for this process.
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
        // What the guard had forked just then has copies of its events until it has closed them.
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
