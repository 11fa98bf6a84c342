//! `--max-cost`: what the probes may cost the target, and when it is enough.
//!
//! The cost is that of the calibration, the same that is reported as `bias_ns`, times the hits that were counted. Each
//! call that a probe sees costs, whether it is of interest or not: the evaluation loop of an interpreter is called
//! for every function of the program.

use std::time::{Duration, Instant};

use crate::collector::session::percent;

/// Time between two looks. Two in a row must be over: one busy moment is not yet a load.
const LOOK: Duration = Duration::from_millis(150);

/// Keeps the cost under a bound.
#[derive(Debug)]
pub(super) struct Budget {
    percent: f64,
    since: Instant,
    /// The cost until then, in nanoseconds.
    before: u64,
    over: bool,
}

impl Budget {
    /// For at most `percent` of one CPU, of what costs from now on.
    pub(super) const fn new(percent: f64, now: Instant, cost_ns: u64) -> Self {
        Self { percent, since: now, before: cost_ns, over: false }
    }

    /// When to look next.
    pub(super) fn next(&self) -> Instant {
        self.since + LOOK
    }

    /// Takes in what the probes have cost so far, if it is time to look. Gives the percentage when it is enough.
    pub(super) fn look(&mut self, now: Instant, cost_ns: u64) -> Option<f64> {
        if now < self.next() {
            return None;
        }
        let percent = percent(cost_ns.saturating_sub(self.before), now.duration_since(self.since));
        let was_over = std::mem::replace(&mut self.over, percent > self.percent);
        (self.since, self.before) = (now, cost_ns);
        (was_over && self.over).then_some(percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_in_a_row_over_the_bound_are_enough() {
        let start = Instant::now();
        let mut budget = Budget::new(1.0, start, 500);
        let at = |looks: u32| start + LOOK * looks;
        let one_percent = LOOK.as_nanos() as u64 / 100;
        assert_eq!(budget.look(at(1), 500 + one_percent), None, "not over");
        assert_eq!(budget.look(at(1), 500 + 9 * one_percent), None, "not yet time");
        assert_eq!(budget.look(at(2), 500 + 4 * one_percent), None, "over for the first time");
        assert_eq!(budget.look(at(3), 500 + 4 * one_percent), None, "calm again");
        assert_eq!(budget.look(at(4), 500 + 7 * one_percent), None);
        assert_eq!(budget.look(at(5), 500 + 10 * one_percent), Some(3.0));
    }
}
