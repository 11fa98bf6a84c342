//! Does any process still have a copy of a descriptor that was closed here?
//!
//! A process that is forked has copies of all descriptors until it closes them or executes, and as long as there is one
//! the kernel keeps the event behind it. That matters for events of several probes: removing the definition of one that
//! is still open frees its probes while they are hit, and the kernel panics (`unregister_trace_uprobe`,
//! kernel/trace/trace_uprobe.c: only the last probe of an event is asked whether it is in use). Nothing
//! tells how many copies there are, so the ends of a pipe are copied along: once no writer is left, no copy is.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

/// How long a copy is waited for: whoever forks closes or executes at once, on a busy machine a little later.
const PATIENCE: Duration = Duration::from_secs(2);

/// To be made before the descriptors that it speaks for.
#[derive(Debug)]
pub(super) struct Copies {
    reader: OwnedFd,
    /// The answer, once it was asked for.
    gone: Option<bool>,
    /// Open before any of them, and at the last above all of them: whoever closes in ascending order is done with them
    /// when it closes the second.
    writers: Vec<OwnedFd>,
}

impl Copies {
    pub(super) fn new() -> Result<Self, Errno> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(Self { reader, gone: None, writers: vec![writer] })
    }

    /// Takes a descriptor that was opened between its ends, and gives it back with a number above the first end's. A process that
    /// ends, executes or closes a range has its files released by the kernel in descending order (`task_work_run`,
    /// kernel/task_work.c): with a number below, an event would be released after both ends, and pass for closed before it is.
    pub(super) fn cover(&mut self, mut opened: OwnedFd) -> Result<OwnedFd, Errno> {
        let first = self.writers[0].as_raw_fd();
        if opened.as_raw_fd() < first {
            opened = above(&opened, first)?;
        }
        if self.writers.len() < 2 || self.writers[1].as_raw_fd() < opened.as_raw_fd() {
            let last = above(&self.writers[0], opened.as_raw_fd())?;
            self.writers.truncate(1);
            self.writers.push(last);
        }
        Ok(opened)
    }

    /// After the descriptors were closed here: is there no copy of them either? Waits a while for that, once.
    pub(super) fn gone(&mut self) -> bool {
        match self.gone {
            Some(gone) => gone,
            None => {
                let gone = self.wait();
                *self.gone.insert(gone)
            }
        }
    }

    fn wait(&mut self) -> bool {
        self.writers.clear();
        let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
        let mut reader = [PollFd::new(self.reader.as_fd(), PollFlags::empty())];
        loop {
            match poll(&mut reader, patience) {
                Err(Errno::EINTR) => {}
                answer => return answer.is_ok_and(|ready| ready > 0),
            }
        }
    }
}

/// A copy of a descriptor with a number above another one.
fn above(opened: &OwnedFd, number: i32) -> Result<OwnedFd, Errno> {
    let above = fcntl(opened, FcntlArg::F_DUPFD_CLOEXEC(number + 1))?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else owns.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(above) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::testing::eventually;

    #[test]
    fn what_is_spoken_for_stands_between_the_two_ends() {
        let mut copies = Copies::new().unwrap();
        // As when something below the first end was closed meanwhile: the next number is lower.
        copies.writers[0] = above(&copies.writers[0], 600).unwrap();
        let first = copies.writers[0].as_raw_fd();
        let lower = OwnedFd::from(File::open("/dev/null").unwrap());
        assert!(lower.as_raw_fd() < first);
        let raised = copies.cover(lower).unwrap();
        assert!(raised.as_raw_fd() > first);
        assert!(copies.writers[1].as_raw_fd() > raised.as_raw_fd());
        let number = raised.as_raw_fd();
        assert_eq!(copies.cover(raised).unwrap().as_raw_fd(), number, "it stays where it may");
    }

    #[test]
    fn a_copy_that_another_process_holds_is_noticed() {
        eventually("no copy is left, and one is seen", || {
            let mut copies = Copies::new().unwrap();
            copies.cover(File::open("/dev/null").unwrap().into()).unwrap();
            copies.gone()
        });
        let mut copies = Copies::new().unwrap();
        let opened = copies.cover(File::open("/dev/null").unwrap().into()).unwrap();
        assert!(copies.writers[1].as_raw_fd() > opened.as_raw_fd());
        let input = Stdio::from(copies.writers[0].try_clone().unwrap());
        let mut holder = Command::new("sleep").arg("1000").stdin(input).spawn().unwrap();
        assert!(!copies.gone(), "the other process has it");
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(copies.wait());
    }
}
