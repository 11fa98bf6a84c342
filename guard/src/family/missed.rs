//! Children that ended before they could be covered: nobody knows what they called.
//!
//! A child is told when it is born, and its end is told as well. One that is gone when the guard comes to look at it was in
//! the image that is measured, unless the kernel has told meanwhile, or tells before its end, that it executed another one.

use crate::clock;
use crate::guard::Guard;
use crate::load::FAMILY;
use crate::protocol::{Event, Told};

impl Guard {
    /// A child has gone before it could be covered.
    pub(super) fn not_seen(&mut self, index: usize, pid: i32) {
        let plan = &mut self.plans[index];
        // Each of them leaves with its end, which is told soon.
        if plan.options.follow_forks && !plan.off && plan.not_seen.len() < FAMILY {
            plan.not_seen.push(pid);
        }
    }

    /// A process ended; if it was one of those, the collector is told, with for how long it lived.
    pub(super) fn end_not_seen(&mut self, index: usize, pid: i32, lived_us: u32) {
        let plan = &mut self.plans[index];
        let Some(at) = plan.not_seen.iter().position(|child| *child == pid) else { return };
        plan.not_seen.swap_remove(at);
        let (id, lived_ns) = (plan.id, u64::from(lived_us) * 1000);
        // Many may come at once, and one word is enough.
        match self.events.back_mut() {
            Some(Told { plan, event: Event::Missed { children, ns } }) if *plan == id => {
                *children += 1;
                *ns += lived_ns;
            }
            _ => self.tell(index, Event::Missed { children: 1, ns: lived_ns }),
        }
    }
}

/// Nanoseconds since a moment that the programs told, the lower half of microseconds on the monotonic clock.
pub(super) fn since(at_us: u32) -> u64 {
    let now_us = clock::monotonic_ns() / 1000;
    u64::from((now_us as u32).wrapping_sub(at_us)) * 1000
}
