//! Stops of the guard: Ctrl-Z, and other sources of a terminal's signals.
//!
//! A stopped guard looks at nothing, so it removes its probes first. Plans, rows and the list of
//! covered processes stay; on continuing it attaches again and reports for how long the probes were
//! off. Frames do not stay: a call that returned meanwhile was not seen, and its frame would be
//! taken for that of a later call at the same place.
//!
//! SIGSTOP cannot be answered; [`deadline`](crate::deadline) handles it.

use std::time::{Duration, Instant};

pub(crate) use edgelat_bpf::Abandoned;
use edgelat_bpf::object::map;
use edgelat_bpf::{Frames, Rows};
use libbpf_rs::MapCore;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise, sigprocmask};
use nix::unistd::Pid;

use crate::attach::{self, ImageSites};
use crate::deadline::WORK;
use crate::error::{GuardError, text};
use crate::family::Covered;
use crate::guard::{Guard, elapsed};
use crate::load::Loaded;
use crate::plan::{Plan, rows_of_whole};
use crate::protocol::{Event, Route};
use crate::python;

/// Signals that a terminal stops a job with.
pub(crate) const STOPS: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

impl Guard {
    /// The kernel ends this process in `time` if any probe may be on by then. If single events may
    /// have to be removed, which takes the kernel up to a second each, the time is longer by that.
    pub(crate) fn be_back_in(&mut self, time: Duration) {
        let single = |plan: &&Plan| plan.loaded.as_ref().is_some_and(|(way, _)| way.route == Route::Single);
        let events =
            self.plans.iter().filter(single).map(|plan| plan.sites * plan.processes.len()).sum::<usize>();
        let removing = if time >= WORK { Duration::from_secs(events as u64) } else { Duration::ZERO };
        let time = (!self.plans.is_empty()).then_some(time + removing);
        if let Some(deadline) = &mut self.deadline {
            deadline.set(time);
        }
    }

    /// Lifts the deadline: the guard may take as long as it needs.
    pub(crate) fn be_back_in_any_time(&mut self) {
        self.deadline.iter_mut().for_each(|deadline| deadline.set(None));
    }

    /// Keeps the probes of a plan off: stale frames in its table would match later calls.
    pub(crate) fn give_up_stopped(&mut self, index: usize, error: &GuardError) {
        self.plans[index].off = true;
        self.tell_all(index, error);
    }

    /// Removes the probes, stops this process and the collector by `signal`, attaches again later.
    pub(crate) fn stop(&mut self, collector: Pid, signal: Signal) {
        let begun = Instant::now();
        for index in 0..self.plans.len() {
            if let Err(error) = self.plans[index].pause(Abandoned::Abandoned) {
                self.give_up_stopped(index, &error);
            }
        }
        self.be_back_in_any_time();
        // It may be stopped already, and it may be gone, which the socket reports.
        _ = kill(collector, Signal::SIGSTOP);
        stop_oneself(signal);
        _ = kill(collector, Signal::SIGCONT);
        self.be_back_in(WORK);
        self.go_on(begun);
    }

    fn go_on(&mut self, begun: Instant) {
        self.heard = Some(Instant::now());
        // A process that ended or executes another image gets no probes, children get their first.
        self.collect_events();
        let mut again = Vec::new();
        for index in 0..self.plans.len() {
            if !self.plans[index].stopped || self.plans[index].is_between_windows() {
                continue;
            }
            if self.images_unchanged(index).is_err() {
                self.take_off(index, Event::ImageChanged);
                continue;
            }
            self.resume(index);
            // One report for all plans of a target.
            let target = self.plans[index].target;
            if !again.iter().any(|(known, _)| *known == target) {
                again.push((target, index));
            }
        }
        let off_ns = elapsed(begun);
        again.into_iter().for_each(|(_, index)| self.tell(index, Event::Stopped { off_ns }));
    }

    /// Brings the probes of a plan back after a [pause](Plan::pause).
    pub(crate) fn resume(&mut self, index: usize) {
        self.attach_again(index);
        let plan = &mut self.plans[index];
        plan.stopped = false;
        if let Some((_, loaded)) = plan.loaded.as_ref().filter(|_| plan.armed) {
            loaded.switch.arm();
        }
    }

    /// Attaches the probes of a plan to its processes that have none.
    fn attach_again(&mut self, index: usize) {
        let plan = &mut self.plans[index];
        let Some((way, loaded)) = &plan.loaded else { return };
        let images: Vec<ImageSites> = plan.images.iter().map(|(_, sites)| sites.clone()).collect();
        let mut failed = Vec::new();
        let here = |covered: &&mut Covered| covered.attached.is_none() && !covered.elsewhere;
        for covered in plan.processes.iter_mut().filter(here) {
            match attach::cover(way.route, loaded, &covered.target, &images, self.tracefs.as_ref()) {
                Ok(attached) => covered.attached = Some(attached),
                // Its descriptor reports its end.
                Err(GuardError::NoProcess { .. }) => {}
                Err(error) => failed.push((covered.target.pid, error)),
            }
        }
        failed.into_iter().for_each(|(pid, error)| self.tell(index, Event::NotCovered { pid, error }));
    }

    fn tell_all(&mut self, index: usize, error: &GuardError) {
        let pids: Vec<i32> = self.plans[index].processes.iter().map(|covered| covered.target.pid).collect();
        for pid in pids {
            self.tell(index, Event::NotCovered { pid, error: error.clone() });
        }
    }
}

impl Plan {
    /// Removes the probes for a while, with the frames of the open calls.
    pub(crate) fn pause(&mut self, calls: Abandoned) -> Result<(), GuardError> {
        if self.off || !self.has_probes() {
            return Ok(());
        }
        if let Some((_, loaded)) = &self.loaded {
            for covered in &self.processes {
                covered.attached.iter().for_each(|attached| attached.forget(loaded, covered.target.pid));
            }
        }
        self.close_probes();
        self.stopped = true;
        match &self.loaded {
            Some((_, loaded)) => self.abandon_calls(loaded, calls),
            None => Ok(()),
        }
    }

    /// Empties the frame table of either kind and accounts for the calls in it.
    fn abandon_calls(&self, loaded: &Loaded, calls: Abandoned) -> Result<(), GuardError> {
        let failed = |error: &dyn std::fmt::Display| GuardError::Map { reason: text(error) };
        let rows: Rows = rows_of_whole(self, loaded)?;
        if loaded.programs.maps_frames() {
            let frames = Frames::map_to_empty(loaded.descriptor(map::FRAMES)?, loaded.frame_sets as usize);
            let frames = frames.map_err(|error| failed(&error))?;
            let counts = python::counts(loaded, &self.options);
            frames.empty(|frame| {
                if counts(&frame) {
                    rows.give_up(frame.function as usize, calls, 1, 0);
                }
            });
            return Ok(());
        }
        for function in 0..rows.functions() {
            let totals = rows.read(function);
            let open = match loaded.programs.exit() {
                // The kernel has the frames of a session, and they end with the link.
                None => totals.entries.saturating_sub(totals.exits() + totals.lost()),
                Some(_) => u64::try_from(totals.inside).unwrap_or(0),
            };
            rows.give_up(function, calls, open, totals.inside);
        }
        if let Some(hash) = loaded.object.maps().find(|found| found.name() == map::FRAME_HASH)
            && loaded.programs.exit().is_some()
        {
            let keys: Vec<Vec<u8>> = hash.keys().collect();
            keys.iter().try_for_each(|key| hash.delete(key)).map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// Stops as by default: not without a process to continue it, as in an orphaned group (setpgid(2)).
fn stop_oneself(signal: Signal) {
    let only = SigSet::from(signal);
    _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&only), None);
    _ = raise(signal);
    _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&only), None);
}
