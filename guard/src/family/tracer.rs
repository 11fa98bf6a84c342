//! Debuggers that come while probes are on.
//!
//! A debugger that sets a breakpoint on a probed instruction takes the probe's for the program's own, and puts that back when
//! it leaves. If the probe is gone by then, the target dies of it. So the probes go when a tracer comes. Nothing tells of
//! one: PTRACE_SEIZE sends no signal, and no tracepoint fires. The state of the processes is read again and again.

use std::time::{Duration, Instant};

use crate::guard::Guard;
use crate::protocol::Event;

/// Time between two looks.
pub(crate) const LOOK_FOR_TRACERS: Duration = Duration::from_millis(250);
/// Processes of a plan that are looked at each time, the target among them; the others have their turn.
const AT_ONCE: usize = 64;

impl Guard {
    /// Takes the probes off a plan where a tracer has come that was not there when a process was covered.
    pub(crate) fn look_for_tracers(&mut self, now: Instant) {
        let own = std::process::id() as i32;
        if self.looked_for_tracers.is_some_and(|last| now.saturating_duration_since(last) < LOOK_FOR_TRACERS)
        {
            return;
        }
        self.looked_for_tracers = Some(now);
        for index in 0..self.plans.len() {
            let plan = &mut self.plans[index];
            let mut probed: Vec<_> =
                plan.processes.iter().filter(|covered| covered.attached.is_some()).collect();
            if probed.len() > AT_ONCE {
                plan.looked_at_tracers = (plan.looked_at_tracers + AT_ONCE - 1) % probed.len();
                let turn = plan.looked_at_tracers % (probed.len() - 1);
                probed[1..].rotate_left(turn);
            }
            let came = probed.iter().take(AT_ONCE).find_map(|covered| {
                let tracer = covered.target.tracer().filter(|tracer| *tracer != own)?;
                (Some(tracer) != covered.tracer).then_some((covered.target.pid, tracer))
            });
            if let Some((pid, tracer)) = came {
                self.take_off(index, Event::Traced { pid, tracer });
            }
        }
    }
}
