//! Children that are not covered, and the breakpoints that they inherited.
//!
//! A child is born with a copy of its parent's text, breakpoints included. A uprobe_multi link of the parent leaves them in
//! there, and each hit traps for nothing; an event of perf removes one when it is hit. But whenever the kernel unregisters
//! any probe at some place of a file, it looks into every address space that maps the place and takes out the breakpoint
//! where no probe that is left wants it (Linux 6.18, kernel/events/uprobes.c, `register_for_each_vma` without a consumer). So one
//! link of ours at the same places, bound to this process, which maps nothing of the file, is made and closed again:
//! one for all children that were born in a twentieth of a second. It does nothing to those that are covered.
//!
//! What children pay until then is charged to the plan. It is not counted anywhere, so it is bounded from above: a child that
//! ends before it was swept is charged all its CPU time, where the kernel can still tell at that time (from 6.16 on) only if it
//! hit a breakpoint; one that lives is charged the time that it spent in the kernel, as its statistics say it. So is
//! the time that sweeping takes.

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

/// How long children are gathered for one sweep.
pub(crate) const GATHER: Duration = Duration::from_millis(50);
/// Sweeping takes at most one part in so many of the guard's time: where it is slow, it is done less often.
const REST: u32 = 20;

/// Children of a plan that are not covered.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Those that were born since the last sweep.
    children: Vec<i32>,
    /// When the first of those that may live was born.
    since: Option<Instant>,
    not_before: Option<Instant>,
    /// Closes the probes of the last sweep, and tells the CPU time that it took in nanoseconds.
    closing: Option<JoinHandle<u64>>,
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

    /// A process ended. True where it is one of these.
    pub(super) fn ended(&mut self, pid: i32) -> bool {
        let before = self.children.len();
        self.children.retain(|child| *child != pid);
        self.children.len() < before
    }

    /// Is something to be done soon?
    pub(crate) fn waits(&self) -> bool {
        self.since.is_some() || self.closing.is_some()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.closing.is_none()
            && self.since.is_some_and(|since| now.saturating_duration_since(since) >= GATHER)
            && self.not_before.is_none_or(|not_before| now >= not_before)
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
    /// Takes inherited breakpoints out of children where it is time.
    pub(crate) fn sweep(&mut self, now: Instant) {
        for index in 0..self.plans.len() {
            let plan = &mut self.plans[index];
            if let Some(closed) = plan.sweep.closing.take_if(|closing| closing.is_finished()) {
                plan.charge(closed.join().unwrap_or(0));
            }
            if plan.off || !plan.has_probes() {
                // Nobody has any, or all are taken out with the probes.
                plan.sweep.since = None;
            }
            if plan.sweep.is_due(now) {
                self.sweep_plan(index, now);
            }
        }
    }

    fn sweep_plan(&mut self, index: usize, now: Instant) {
        let plan = &mut self.plans[index];
        let begun = thread_ns();
        plan.sweep.since = None;
        // Those that execute something else by now have no breakpoints any more.
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
            // The kernel takes its time to close them, and events of the target do not wait for that.
            let close = move || {
                drop(attached);
                thread_ns()
            };
            // Where no thread can be had, they are closed at once.
            plan.sweep.closing = std::thread::Builder::new().stack_size(64 * 1024).spawn(close).ok();
        }
        plan.sweep.not_before = Some(now + now.elapsed() * REST);
        plan.charge(thread_ns().saturating_sub(begun));
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
    fn children_are_gathered_and_those_that_ended_are_swept_no_more() {
        let (mut sweep, now) = (Sweep::default(), Instant::now());
        sweep.born(1, false);
        assert!(!sweep.waits(), "it has ended");
        assert!(sweep.ended(1) && !sweep.ended(1));
        sweep.born(2, true);
        assert!(sweep.waits() && !sweep.is_due(now));
        assert!(sweep.is_due(now + 2 * GATHER));
        sweep.not_before = Some(now + 3 * GATHER);
        assert!(!sweep.is_due(now + 2 * GATHER));
        assert!(sweep.is_due(now + 3 * GATHER));
    }

    #[test]
    fn a_crowd_has_a_bound() {
        let mut sweep = Sweep::default();
        (0..FAMILY as i32 + 9).for_each(|pid| sweep.born(pid, true));
        assert_eq!(sweep.children.len(), FAMILY);
        assert!(sweep.ended(FAMILY as i32 + 8) && !sweep.ended(0));
    }
}
