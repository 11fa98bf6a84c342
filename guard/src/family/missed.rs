//! Children that ended before they could be covered: their calls are unknown.
//!
//! The kernel reports a child's birth and its end. A child that is gone when the guard comes to
//! examine it was in the measured image, unless the kernel has reported meanwhile, or reports
//! before its end, that it executed another one.

use crate::clock;
use crate::guard::Guard;
use crate::load::FAMILY;
use crate::protocol::{Event, Told};

impl Guard {
    /// A child has gone before it could be covered.
    pub(super) fn not_seen(&mut self, index: usize, pid: i32) {
        let plan = &mut self.plans[index];
        // Each of them leaves with its end, which is reported soon.
        if plan.options.follow_forks && !plan.off && plan.not_seen.len() < FAMILY {
            plan.not_seen.push(pid);
        }
    }

    /// A process ended; if it was one of those, the collector gets a report with its lifetime.
    pub(super) fn end_not_seen(&mut self, index: usize, pid: i32, lived_us: u32) {
        let plan = &mut self.plans[index];
        let Some(at) = plan.not_seen.iter().position(|child| *child == pid) else { return };
        plan.not_seen.swap_remove(at);
        let (id, lived_ns) = (plan.id, u64::from(lived_us) * 1000);
        // Many may come at once, and one report is enough.
        match self.events.back_mut() {
            Some(Told { plan, event: Event::Missed { children, ns } }) if *plan == id => {
                *children += 1;
                *ns += lived_ns;
            }
            _ => self.tell(index, Event::Missed { children: 1, ns: lived_ns }),
        }
    }
}

/// Nanoseconds since a reported moment, the lower half of microseconds on the monotonic clock.
pub(super) fn since(at_us: u32) -> u64 {
    let now_us = clock::monotonic_ns() / 1000;
    u64::from((now_us as u32).wrapping_sub(at_us)) * 1000
}
