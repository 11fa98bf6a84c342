//! Detection of copies that other processes still have of a descriptor closed here.
//!
//! A forked process has copies of all descriptors until it closes them or executes, and the kernel
//! keeps an event as long as one copy of its descriptor is open. That matters for events of several
//! probes: removing the definition of an open event frees its probes while they are hit, and the
//! kernel panics (`unregister_trace_uprobe`, kernel/trace/trace_uprobe.c: it checks only the last
//! probe of an event for use). The kernel does not report the number of copies, so the ends of a
//! pipe are copied along: once no writer is left, no copy is. Children of a killed agent may also
//! still have copies; for agents that find its definition, a lock is copied along in the same way
//! (see `owner`).

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

/// Longest wait for a copy: a forked process closes or executes at once, or soon on a busy machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Two descriptors of one open file around all descriptors that it covers. The low one is opened
/// before them and has a lower number, the high one has a higher number. A process that closes in
/// ascending order has closed the covered descriptors when it closes the high one; in descending
/// order, when it closes the low one.
#[derive(Debug)]
struct Bracket {
    low: OwnedFd,
    high: Option<OwnedFd>,
}

impl Bracket {
    /// Extends the bracket around this descriptor, whose number is above the low one.
    fn stretch(&mut self, opened: i32) -> Result<(), Errno> {
        if self.high.as_ref().is_none_or(|high| high.as_raw_fd() < opened) {
            self.high = Some(above(&self.low, opened)?);
        }
        Ok(())
    }
}

/// Pipe and lock of a set of descriptors; must exist before them.
#[derive(Debug)]
pub(super) struct Copies {
    reader: OwnedFd,
    /// The answer, once it is known.
    gone: Option<bool>,
    /// The pipe's writers, until the answer is requested.
    writer: Option<Bracket>,
    /// The lock that shows other agents that copies exist.
    lock: Bracket,
}

impl Copies {
    pub(super) fn new(lock: impl AsFd) -> Result<Self, Errno> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        let lock = Bracket { low: above(lock, 0)?, high: None };
        Ok(Self { reader, gone: None, writer: Some(Bracket { low: writer, high: None }), lock })
    }

    /// Takes a descriptor opened between the ends, and returns it with a number above the first
    /// ends. The kernel releases the files of a process that ends, executes or closes a range in
    /// descending order (`task_work_run`, kernel/task_work.c): an event with a lower number would
    /// be released after both ends, and count as closed too early.
    pub(super) fn cover(&mut self, mut opened: OwnedFd) -> Result<OwnedFd, Errno> {
        let ends = || self.writer.iter().chain([&self.lock]);
        let first = ends().map(|ends| ends.low.as_raw_fd()).max().unwrap_or(0);
        if opened.as_raw_fd() < first {
            opened = above(&opened, first)?;
        }
        let mut ends = self.writer.iter_mut().chain([&mut self.lock]);
        ends.try_for_each(|ends| ends.stretch(opened.as_raw_fd()))?;
        Ok(opened)
    }

    /// Returns true if no copy is left after the descriptors were closed here. Waits a while, once.
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
        self.writer = None;
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

/// Closes in a child of the guard all descriptors but those `kept`, from the highest number to the
/// lowest. With a kept descriptor between the ends, one call closes one part of them and the next
/// call the other, and each part is released in descending order. In ascending order both ends
/// would be gone before the events between them: **ran** on 6.1, where a loop of that panicked the
/// kernel within two seconds, and this order did not in 6,000 rounds.
pub(crate) fn close_all_but(kept: Vec<RawFd>) {
    others(kept, |first, last| {
        // SAFETY: the child closes descriptors that only the parent still uses, and the child's
        // owners of them are never dropped: it ends by _exit. The call takes numbers.
        _ = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    });
}

/// Passes the ranges of the numbers that are not kept, in descending order.
fn others(mut kept: Vec<RawFd>, mut range: impl FnMut(u32, u32)) {
    kept.sort_unstable();
    let mut end = u32::MAX;
    while let Some(kept) = kept.pop() {
        let kept = kept as u32;
        if kept + 1 < end {
            range(kept + 1, end - 1);
        }
        end = kept;
    }
    if end > 0 {
        range(0, end - 1);
    }
}

/// Copies a descriptor to a number above another one.
fn above(opened: impl AsFd, number: i32) -> Result<OwnedFd, Errno> {
    let above = fcntl(opened, FcntlArg::F_DUPFD_CLOEXEC(number + 1))?;
    // SAFETY: the call succeeded, so this is a new descriptor without another owner.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(above) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::testing::eventually;

    fn nothing() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    impl Copies {
        /// Numbers of the first ends and of the last ends.
        fn ends(&self) -> [[i32; 2]; 2] {
            let ends = [self.writer.as_ref().unwrap(), &self.lock];
            [ends.map(|ends| ends.low.as_raw_fd()), ends.map(|ends| ends.high.as_ref().unwrap().as_raw_fd())]
        }
    }

    #[test]
    fn what_is_spoken_for_stands_between_the_ends() {
        let mut copies = Copies::new(nothing()).unwrap();
        // As if a descriptor below the first ends was closed meanwhile: the next number is lower.
        let writer = &mut copies.writer.as_mut().unwrap().low;
        *writer = above(&*writer, 600).unwrap();
        copies.lock.low = above(&copies.lock.low, 650).unwrap();
        let lower = nothing();
        assert!(lower.as_raw_fd() < 600);
        let raised = copies.cover(lower).unwrap();
        let number = raised.as_raw_fd();
        let [first, last] = copies.ends();
        assert!(first.iter().all(|first| number > *first), "{first:?} {number}");
        assert!(last.iter().all(|last| *last > number), "{number} {last:?}");
        assert_eq!(copies.cover(raised).unwrap().as_raw_fd(), number, "it stays where it may");
        let higher = above(nothing(), 900).unwrap();
        let higher = copies.cover(higher).unwrap().as_raw_fd();
        assert!(copies.ends()[1].iter().all(|last| *last > higher));
    }

    #[test]
    fn what_is_not_kept_is_closed_from_the_highest_number_to_the_lowest() {
        let closed = |kept| {
            let mut ranges = Vec::new();
            others(kept, |first, last| ranges.push((first, last)));
            ranges
        };
        assert_eq!(closed(vec![]), [(0, u32::MAX - 1)]);
        assert_eq!(closed(vec![9, 3, 4]), [(10, u32::MAX - 1), (5, 8), (0, 2)]);
        assert_eq!(closed(vec![0, 7, 7]), [(8, u32::MAX - 1), (1, 6)]);
    }

    #[test]
    fn a_copy_that_another_process_holds_is_noticed() {
        eventually("no copy is left, and one is seen", || {
            let mut copies = Copies::new(nothing()).unwrap();
            copies.cover(nothing()).unwrap();
            copies.gone()
        });
        let mut copies = Copies::new(nothing()).unwrap();
        copies.cover(nothing()).unwrap();
        let input = Stdio::from(copies.writer.as_ref().unwrap().low.try_clone().unwrap());
        let mut holder = Command::new("sleep").arg("1000").stdin(input).spawn().unwrap();
        assert!(!copies.gone(), "the other process has it");
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(copies.wait());
    }
}
