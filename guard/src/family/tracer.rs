//! Debuggers that come while probes are on.
//!
//! A debugger that sets a breakpoint on a probed instruction takes the probe's for the program's
//! own, and puts that back when it leaves. If the probe is gone by then, the target dies of it. So
//! the probes go when a tracer comes. No event reports a tracer: PTRACE_SEIZE sends no signal, and
//! no tracepoint fires. The state of a process is read right before it is attached to, once its
//! probes are there ([`crate::attach::cover`]), and from then on repeatedly: often in its first
//! second, in which a debugger may have been on its way.

use std::time::{Duration, Instant};

use crate::error::GuardError;
use crate::guard::Guard;
use crate::plan::Plan;
use crate::protocol::Event;
use crate::target::Target;

/// Time between two looks.
const LOOK_FOR_TRACERS: Duration = Duration::from_millis(250);
/// Time between two looks while a process is [new](NEW).
const LOOK_AT_NEW: Duration = Duration::from_millis(50);
/// Time for which a process is new.
const NEW: Duration = Duration::from_secs(1);
/// Processes of a plan that are examined each time, the target among them; the others take turns.
const AT_ONCE: usize = 64;

impl Target {
    /// Tracer of its main thread, besides this process and the permitted tracer.
    pub(crate) fn new_tracer(&self) -> Option<i32> {
        let status = self.read_capped("status").ok()?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse().ok());
        let known = [0, std::process::id() as i32, self.tracer.unwrap_or(0)];
        tracer.filter(|tracer| !known.contains(tracer))
    }

    /// Checks that there is no tracer that would disturb probes, and be disturbed by them.
    ///
    /// # Errors
    /// [`GuardError::Traced`].
    pub(crate) fn is_left_to_us(&self) -> Result<(), GuardError> {
        match self.new_tracer() {
            Some(tracer) => Err(GuardError::Traced { pid: self.pid, tracer }),
            None => Ok(()),
        }
    }
}

impl Plan {
    /// Time to the next look. The last process to come is the last in the list.
    pub(crate) fn patience_for_tracers(&self) -> Duration {
        let new = self.processes.last().is_some_and(|last| last.since.elapsed() < NEW);
        if new { LOOK_AT_NEW } else { LOOK_FOR_TRACERS }
    }
}

impl Guard {
    /// Removes the probes of a plan if a tracer has come that was absent when a process was opened.
    pub(crate) fn look_for_tracers(&mut self, now: Instant) {
        for index in 0..self.plans.len() {
            let plan = &mut self.plans[index];
            let last = plan.looked_for_tracers.map(|last| now.saturating_duration_since(last));
            if last.is_some_and(|last| last < plan.patience_for_tracers()) {
                continue;
            }
            plan.looked_for_tracers = Some(now);
            let mut probed: Vec<_> =
                plan.processes.iter().filter(|covered| covered.attached.is_some()).collect();
            if probed.len() > AT_ONCE {
                plan.looked_at_tracers = (plan.looked_at_tracers + AT_ONCE - 1) % probed.len();
                let turn = plan.looked_at_tracers % (probed.len() - 1);
                probed[1..].rotate_left(turn);
            }
            let came = probed
                .iter()
                .take(AT_ONCE)
                .find_map(|covered| covered.target.new_tracer().map(|tracer| (covered.target.pid, tracer)));
            if let Some((pid, tracer)) = came {
                self.take_off(index, Event::Traced { pid, tracer });
            }
        }
    }
}
