//! Children that are not covered, and the breakpoints that they inherited.
//!
//! A child is born with a copy of its parent's text, breakpoints included. A uprobe_multi link of
//! the parent leaves them in there, and each hit traps for nothing; a perf event removes a
//! breakpoint on its hit. But on unregistering any probe at some place of a file, the kernel looks
//! into every address space that maps the place and removes the breakpoint if no remaining probe
//! wants it (Linux 6.18, kernel/events/uprobes.c, `register_for_each_vma` without a consumer). So
//! one extra link at the same places, bound to this process, which maps nothing of the file, is
//! made and closed again: for the first child at once, then at most once in a twentieth of a second
//! for all children born in it. It leaves covered children alone. A child waits for the kernel:
//! registering a probe takes one grace period of RCU. The probes of a sweep are closed beside this
//! thread, and the next sweep does not wait for that: the breakpoints are gone before the grace
//! periods of a close begin (`uprobe_unregister_nosync`, then `uprobe_unregister_sync`).
//!
//! The payments of children until then are charged to the plan. They are not counted, so they are
//! bounded from above: a child that ends before it was swept is charged all its CPU time, but from
//! 6.16 on, where the kernel can still see that, only if it hit a breakpoint; a live child is
//! charged its time in the kernel, by its statistics. The sweeps' own time is charged as well.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use super::executable_of;
use crate::attach::{self, ImageSites};
use crate::guard::Guard;
use crate::load::FAMILY;
use crate::plan::Plan;
use crate::protocol::TargetId;
use crate::target::Target;

/// Shortest time between two sweeps: children that are born meanwhile share one.
const GATHER: Duration = Duration::from_millis(50);
/// Sweeps take at most one part in this many of a CPU: costly sweeps are rarer. Waiting for the
/// kernel is not counted, because children would pay longer by it on a busy machine.
const REST: u64 = 20;
/// Upper bound for sweeps that are being closed.
const CLOSING: usize = 16;

/// Children of a plan that are not covered.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Children born since the last sweep.
    children: Vec<i32>,
    /// Birth of the first child that may live.
    since: Option<Instant>,
    not_before: Option<Instant>,
    /// Close the probes of the last sweeps, and return the CPU time of that in nanoseconds.
    closing: Vec<JoinHandle<u64>>,
}

impl Sweep {
    /// A child is not covered; perhaps it has ended.
    pub(super) fn born(&mut self, pid: i32, lives: bool) {
        // The oldest are the likeliest to have ended.
        if self.children.len() >= FAMILY {
            self.children.remove(0);
        }
        self.children.push(pid);
        if lives {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// A process ended. True if it is one of these children.
    pub(super) fn ended(&mut self, pid: i32) -> bool {
        let before = self.children.len();
        self.children.retain(|child| *child != pid);
        self.children.len() < before
    }

    /// Time until the next action.
    pub(crate) fn due_in(&self, now: Instant) -> Option<Duration> {
        let rest = self.not_before.map_or(Duration::ZERO, |time| time.saturating_duration_since(now));
        match self.closing.len() {
            CLOSING.. => Some(GATHER),
            _ if self.since.is_some() => Some(rest),
            0 => None,
            _ => Some(GATHER),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.since.is_some() && self.due_in(now) == Some(Duration::ZERO)
    }

    /// Records a sweep that took this CPU time in nanoseconds.
    fn swept(&mut self, now: Instant, ns: u64) {
        self.not_before = Some(now + GATHER.max(Duration::from_nanos(ns.saturating_mul(REST))));
    }
}

impl Plan {
    /// A child ended that paid this much CPU time at most, in nanoseconds.
    pub(super) fn note_paid(&mut self, pid: i32, ns: u64) {
        if self.sweep.ended(pid) {
            self.charge(ns);
        }
    }
}

impl Guard {
    /// Removes inherited breakpoints from children if a sweep is due.
    pub(crate) fn sweep(&mut self, now: Instant) {
        (0..self.plans.len()).for_each(|index| self.sweep_where_due(index, now));
    }

    /// Sweeps one plan if due.
    pub(super) fn sweep_where_due(&mut self, index: usize, now: Instant) {
        let plan = &mut self.plans[index];
        let closed = plan.sweep.closing.extract_if(.., |closing| closing.is_finished());
        let closed = closed.map(|closed| closed.join().unwrap_or(0)).sum();
        plan.charge(closed);
        if plan.off || !plan.has_probes() {
            // No child has any, or all are removed with the probes.
            plan.sweep.since = None;
        }
        if plan.sweep.is_due(now) {
            self.sweep_plan(index);
        }
    }

    fn sweep_plan(&mut self, index: usize) {
        let plan = &mut self.plans[index];
        let begun = thread_ns();
        plan.sweep.since = None;
        // Children that execute another image by now have no breakpoints any more.
        let children = std::mem::take(&mut plan.sweep.children);
        let left = children.iter().filter_map(|pid| Target::unchecked(TargetId(0), *pid).ok());
        let left: Vec<Target> = left.filter(|child| executable_of(child) == plan.executable).collect();
        if left.is_empty() {
            return;
        }
        let Some((way, loaded)) = &plan.loaded else { return };
        let images: Vec<ImageSites> = plan.images.iter().map(|(_, sites)| sites.clone()).collect();
        let own = Target::unchecked(TargetId(0), std::process::id() as i32);
        let attached =
            own.and_then(|own| attach::attach(way.route, loaded, &own, &images, self.tracefs.as_ref()));
        if let Ok(attached) = attached {
            // The kernel is slow to close them, and events of the target do not wait for that.
            let close = move || {
                drop(attached);
                thread_ns()
            };
            // Without a thread, they are closed at once.
            plan.sweep.closing.extend(std::thread::Builder::new().stack_size(64 * 1024).spawn(close));
        }
        let took = thread_ns().saturating_sub(begun);
        plan.sweep.swept(Instant::now(), took);
        plan.charge(took);
        left.iter().for_each(|child| plan.charge(kernel_ns(child)));
    }
}

/// CPU time of this thread in nanoseconds.
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(0, |time| (time.tv_sec() * 1_000_000_000 + time.tv_nsec()) as u64)
}

/// Time that a process spent in the kernel so far, in nanoseconds, to a hundredth of a second.
fn kernel_ns(process: &Target) -> u64 {
    let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1) as u64;
    process.kernel_ticks().unwrap_or(0).saturating_mul(1_000_000_000 / ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_child_is_swept_at_once_and_those_that_ended_no_more() {
        let (mut sweep, now) = (Sweep::default(), Instant::now());
        sweep.born(1, false);
        assert_eq!(sweep.due_in(now), None, "it has ended");
        assert!(sweep.ended(1) && !sweep.ended(1));
        sweep.born(2, true);
        assert!(sweep.is_due(now), "no child waits for others");
    }

    #[test]
    fn children_are_gathered_after_a_sweep_and_wait_for_what_it_took() {
        let (mut sweep, now) = (Sweep::default(), Instant::now());
        sweep.swept(now, 1000);
        assert_eq!(sweep.due_in(now), None, "there is none");
        sweep.born(1, true);
        assert_eq!(sweep.due_in(now), Some(GATHER));
        assert!(!sweep.is_due(now + GATHER / 2) && sweep.is_due(now + GATHER));
        let dear = GATHER.as_nanos() as u64;
        sweep.swept(now, dear);
        assert!(!sweep.is_due(now + GATHER) && sweep.is_due(now + GATHER * 20));
    }

    #[test]
    fn a_sweep_waits_for_no_other_one_to_be_closed_until_they_are_many() {
        let (mut sweep, now) = (Sweep::default(), Instant::now());
        let (closed, hold) = std::sync::mpsc::channel::<()>();
        let hold = std::sync::Arc::new(std::sync::Mutex::new(hold));
        sweep.born(1, true);
        for _ in 0..CLOSING {
            assert!(sweep.is_due(now));
            let hold = std::sync::Arc::clone(&hold);
            sweep.closing.push(std::thread::spawn(move || {
                _ = hold.lock().unwrap().recv();
                0
            }));
        }
        assert!(!sweep.is_due(now), "each takes a thread and descriptors");
        drop(closed);
        sweep.closing.drain(..).for_each(|closing| assert_eq!(closing.join().unwrap(), 0));
        assert!(sweep.is_due(now));
    }

    #[test]
    fn a_crowd_has_a_bound() {
        let mut sweep = Sweep::default();
        (0..FAMILY as i32 + 9).for_each(|pid| sweep.born(pid, true));
        assert_eq!(sweep.children.len(), FAMILY);
        assert!(sweep.ended(FAMILY as i32 + 8) && !sweep.ended(0));
    }
}
