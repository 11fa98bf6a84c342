//! The processes of a plan: the target, and the children that it forked since.
//!
//! The kernel reports forks and new images through a ring buffer, ends through pidfds. Each process
//! gets probes of its own; rows and frames are those of the plan.
//!
//! | module | question |
//! | --- | --- |
//! | [`exec`] | what becomes of a process that executes another image? |
//! | [`existing`] | which children were there before? |
//! | [`follow`] | which processes of a command are measured? |
//! | [`missed`] | which children ended before they could be covered? |
//! | [`sweep`] | which breakpoints are in children that are not covered? |
//! | [`tracer`] | has a debugger come? |

mod exec;
mod existing;
mod follow;
mod missed;
pub(crate) mod sweep;
pub(crate) mod tracer;

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::attach::{self, Attached, ImageSites};
use crate::error::{GuardError, text};
use crate::guard::{Guard, elapsed, order};
use crate::load::{FAMILY, Loaded};
use crate::protocol::{Event, Fault, Route, TargetId, Told};
use crate::target::Target;
use crate::watchers::FamilyEvent;

/// A process with probes in it.
pub(crate) struct Covered {
    pub(crate) target: Target,
    /// Its probes; `None` after a fault, while the agent is stopped, and in another image.
    pub(crate) attached: Option<Attached>,
    /// It executes another image than the plan's.
    pub(crate) elsewhere: bool,
    /// Time of its attach.
    since: Instant,
    /// Time since its main thread has been seen to have ended, on routes that live by that thread.
    headless: Option<Instant>,
    /// Its exit status, once the kernel has reported it.
    status: Option<u32>,
    /// It had ended before the events were read: they include all events of it and of its children.
    ended: bool,
}

/// Most events that wait for the collector. A slower collector follows its processes no further.
const WAITING: usize = 4096;
/// A process in which all threads end looks for a moment as if only the main thread had.
const ENDING: Duration = Duration::from_millis(100);

impl Guard {
    /// Attaches a plan to one more process and watches for its end.
    pub(crate) fn cover(&mut self, index: usize, target: Target) -> Result<(), GuardError> {
        self.images_unchanged(index)?;
        self.take_in(index);
        let plan = &mut self.plans[index];
        let (way, loaded) = plan.loaded.as_ref().ok_or_else(|| order("attach comes after load"))?;
        // Before the probes: a fork between the two is reported, and its child is late but not
        // missed.
        loaded.add_family(target.pid)?;
        // Its later images are reported, and must differ from this one.
        let executable = plan.executable.or_else(|| executable_of(&target));
        let images: Vec<ImageSites> = plan.images.iter().map(|(_, sites)| sites.clone()).collect();
        // Between two windows it waits for the next one, as all others do.
        let attached = match plan.is_between_windows() {
            true => None,
            false => Some(attach::cover(way.route, loaded, &target, &images, self.tracefs.as_ref())?),
        };
        watch(&mut self.epoll, target.pidfd())?;
        plan.executable = executable;
        // It may have been there before, with another image.
        plan.processes.retain(|covered| covered.target.pid != target.pid);
        let bare = Covered::bare(target);
        plan.processes.push(Covered { attached, elsewhere: false, ..bare });
        Ok(())
    }

    /// Takes in the kernel's events since the last call.
    pub(crate) fn collect_events(&mut self) {
        self.follow_command();
        for index in 0..self.plans.len() {
            let plan = &mut self.plans[index];
            let Some((_, loaded)) = &mut plan.loaded else { continue };
            plan.processes.iter_mut().for_each(|covered| covered.ended = covered.target.ended());
            let family = loaded.family_events();
            let last_exits = last_exits(&family);
            for (at, event) in family.into_iter().enumerate() {
                match event {
                    // A storm of children is followed only if most of them cost nothing.
                    FamilyEvent::Fork { child, .. }
                        if last_exits.get(&child).is_some_and(|exit| *exit > at) =>
                    {
                        self.plans[index].sweep.born(child, false);
                        self.not_seen(index, child);
                    }
                    FamilyEvent::Fault { pid, fault } => self.take_off_after(index, pid, fault),
                    FamilyEvent::Exit { pid, status, lived_us } => {
                        self.note_exit(index, pid, status);
                        self.end_not_seen(index, pid, lived_us);
                    }
                    FamilyEvent::Fork { child, at_us } => self.meet_child(index, child, at_us),
                    FamilyEvent::Paid { pid, ns } => self.plans[index].note_paid(pid, ns),
                    FamilyEvent::Exec(exec) => self.notice_exec(index, exec),
                    FamilyEvent::UnknownSite { pid } => self.renew(index, pid),
                    // Many may come at once, and one report is enough.
                    FamilyEvent::NewCode
                        if self.events.back().is_some_and(|told| told.event == Event::NewCode) => {}
                    FamilyEvent::NewCode => self.tell(index, Event::NewCode),
                }
            }
            if self.plans[index].faulted() && !self.plans[index].fault_told {
                // The kernel had no room to report it.
                let pid = self.plans[index].processes.first().map_or(0, |covered| covered.target.pid);
                self.take_off_after(index, pid, Fault::UNTOLD);
            }
            self.drop_ended(index);
        }
    }

    /// The kernel has switched the programs off; the remaining probes go now, before anything else.
    fn take_off_after(&mut self, index: usize, pid: i32, fault: Fault) {
        let plan = &mut self.plans[index];
        let begin = Instant::now();
        let sites = (plan.sites * plan.processes.len()) as u32;
        plan.take_off();
        plan.fault_told = true;
        self.tell(index, Event::Faulted { pid, fault, sites, took_ns: elapsed(begin) });
    }

    fn note_exit(&mut self, index: usize, pid: i32, status: u32) {
        self.plans[index].sweep.ended(pid);
        let processes = &mut self.plans[index].processes;
        if let Some(covered) = processes.iter_mut().find(|covered| covered.target.pid == pid) {
            covered.status = Some(status);
        }
    }

    /// A child was born, with the breakpoints of its parent.
    fn meet_child(&mut self, index: usize, pid: i32, born_us: u32) {
        let follow = self.plans[index].options.follow_forks;
        if !follow || !self.cover_child(index, pid, Some(born_us)) {
            let lives = !follow || Target::unchecked(TargetId(0), pid).is_ok();
            self.plans[index].sweep.born(pid, lives);
            if follow {
                // Others may be covered before the guard's next turn, and each takes its time.
                self.sweep_where_due(index, Instant::now());
            }
        }
    }

    /// Covers a child that was born, perhaps moments ago. True if it is covered now.
    fn cover_child(&mut self, index: usize, pid: i32, born_us: Option<u32>) -> bool {
        let plan = &self.plans[index];
        if plan.faulted() || plan.off {
            return false;
        }
        // A tracer that was allowed for the first process may trace its forks.
        let tracer = plan.processes.first().and_then(|first| first.target.tracer);
        let open = || {
            let mut target = Target::unchecked(TargetId(0), pid)?;
            target.tracer = tracer;
            Ok(target)
        };
        match self.cover_relative(index, pid, born_us, open) {
            Ok(true) => return true,
            Ok(false) => {}
            // Born and gone before the guard came; its end, which clears its entry, may be on its
            // way.
            Err(GuardError::NoProcess { .. }) => {
                self.not_seen(index, pid);
                return false;
            }
            Err(error) => self.tell(index, Event::NotCovered { pid, error }),
        }
        // It would take a place in the table for as long as the target lives.
        self.forget(index, pid);
        false
    }

    /// Covers a process of the family that executes the plan's image. True if it is covered now.
    fn cover_relative(
        &mut self,
        index: usize,
        pid: i32,
        born_us: Option<u32>,
        open: impl FnOnce() -> Result<Target, GuardError>,
    ) -> Result<bool, GuardError> {
        let plan = &self.plans[index];
        if plan.processes.iter().any(|covered| covered.target.pid == pid && covered.attached.is_some()) {
            return Ok(true);
        }
        if plan.processes.len() >= FAMILY {
            let what = text(format_args!("follow more than {FAMILY} processes"));
            return Err(GuardError::Unsupported { what, reason: text("the table of processes is full") });
        }
        let target = open()?;
        // On its way as a command that the target has called. For an inaccessible process, the
        // attach error is reported.
        if executable_of(&target).is_some_and(|found| Some(found) != plan.executable) {
            return Ok(false);
        }
        if !self.takes_one_more(index) {
            let what = text("cover one more process");
            let reason = text("its probes would make the calls of all others cost more than is allowed");
            return Err(GuardError::Unsupported { what, reason });
        }
        self.cover(index, target)?;
        self.tell(index, Event::Covered { pid, late_ns: born_us.map_or(0, missed::since) });
        Ok(true)
    }

    fn forget(&self, index: usize, pid: i32) {
        if let Some((_, loaded)) = &self.plans[index].loaded {
            loaded.remove_family(pid);
        }
    }

    /// A probe was hit at an unexpected place: a library has been mapped again elsewhere.
    fn renew(&mut self, index: usize, pid: i32) {
        let plan = &mut self.plans[index];
        let Some((_, loaded)) = &plan.loaded else { return };
        let images: Vec<ImageSites> = plan.images.iter().map(|(_, sites)| sites.clone()).collect();
        if let Some(covered) = plan.processes.iter_mut().find(|covered| covered.target.pid == pid) {
            // A failure stays counted as hits at unknown addresses; the report shows them.
            _ = covered.attached.as_mut().map(|attached| attached.renew(loaded, &covered.target, &images));
        }
    }

    /// Drops processes that ended, and those whose probes the kernel no longer serves.
    fn drop_ended(&mut self, index: usize) {
        let plan = &mut self.plans[index];
        let Some((way, loaded)) = &plan.loaded else { return };
        // uprobe_multi needs the address space only when probes are registered, not at each hit.
        let by_main_thread = way.route != Route::UprobeMulti;
        let (mut gone, mut held) = (Vec::new(), Vec::new());
        plan.processes.retain_mut(|covered| {
            let pid = covered.target.pid;
            let lives_by_main_thread = by_main_thread && covered.attached.is_some();
            if covered.ended {
                let out_of_memory = covered.attached.as_ref().is_some_and(Attached::out_of_memory);
                gone.push(Event::Ended { pid, status: covered.status, out_of_memory });
            } else if !(lives_by_main_thread && covered.target.main_thread_ended()) {
                return true;
            } else if covered.headless.get_or_insert_with(Instant::now).elapsed() >= ENDING {
                gone.push(Event::MainThreadEnded { pid });
            } else {
                return true;
            }
            covered.forgotten_by(loaded);
            held.extend(covered.attached.take());
            false
        });
        attach::close_together(held);
        gone.into_iter().for_each(|event| self.tell(index, event));
    }

    pub(crate) fn tell(&mut self, index: usize, event: Event) {
        if self.events.len() >= WAITING {
            // Ends are reported nevertheless: a plan that is off has at most one per process.
            self.take_off(index, Event::Overrun { lost: 1 });
        }
        self.events.push_back(Told { plan: self.plans[index].id, event });
    }
}

impl Covered {
    /// A process of which only the end matters.
    fn bare(target: Target) -> Self {
        let since = Instant::now();
        Self { target, attached: None, elsewhere: true, since, headless: None, status: None, ended: false }
    }

    /// Removes the programs' data under its number: the kernel may reuse that.
    fn forgotten_by(&self, loaded: &Loaded) {
        if let Some(attached) = &self.attached {
            attached.forget(loaded, self.target.pid);
        }
        loaded.remove_family(self.target.pid);
    }
}

/// Last end of each process in a batch of events: the kernel may have reused its number.
fn last_exits(events: &[FamilyEvent]) -> HashMap<i32, usize> {
    let exit = |(at, event): (usize, &FamilyEvent)| match event {
        FamilyEvent::Exit { pid, .. } | FamilyEvent::Paid { pid, .. } => Some((*pid, at)),
        _ => None,
    };
    events.iter().enumerate().filter_map(exit).collect()
}

/// Device and inode of a process' executable.
fn executable_of(target: &Target) -> Option<(u64, u64)> {
    target.executable_file()
}

/// Makes a descriptor wake the waiter for events.
pub(crate) fn watch(epoll: &mut Option<Epoll>, fd: BorrowedFd<'_>) -> Result<(), GuardError> {
    let failed = |errno: nix::Error| GuardError::Proc { file: text("epoll"), os: errno.into() };
    if epoll.is_none() {
        *epoll = Some(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?);
    }
    match epoll.as_ref().map(|epoll| epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))) {
        // The source of all plans is waited for already.
        Some(Err(errno)) if errno != nix::Error::EEXIST => Err(failed(errno)),
        _ => Ok(()),
    }
}
