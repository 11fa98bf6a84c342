//! What probes may cost: hits a second times what a hit costs on this machine, held under a bound.
//!
//! The hits are those that the programs count, wanted or not; what one costs was measured by the calibration, for each
//! kind of site. The guard looks ten times a second while anything is armed, because it is not held up by what holds up
//! the collector. Far over the bound once, or a little over it twice in a row, and the probes go. One busy tenth of a second
//! is not yet a load.

use std::time::{Duration, Instant};

use edgelat_bpf::Rows;
use edgelat_bpf::layout::SITE_FUNCTION_MASK;

use crate::protocol::{Bias, PlanSite, Returns};

/// Time between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// So many times the bound is enough at once.
const FAR: u64 = 4;

/// Parts of one CPU's time, in millionths.
pub type Ppm = u64;

/// How the sites of a function are executed by the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    entry: bool,
    entry_stepped: bool,
    exit_stepped: bool,
}

impl Kinds {
    fn cost_ns(self, cost: &Bias, returns: Returns) -> u64 {
        if !self.entry {
            return 0;
        }
        cost.of(self.entry_stepped, self.exit_stepped, returns).unwrap_or(0)
    }
}

/// The kinds of a plan's functions, as its sites come in.
#[derive(Debug, Default)]
pub(crate) struct KindsOfRows(Vec<Kinds>);

impl KindsOfRows {
    pub(crate) fn add(&mut self, site: &PlanSite) {
        let row = (site.cookie & SITE_FUNCTION_MASK) as usize;
        if self.0.len() <= row {
            self.0.resize(row + 1, Kinds::default());
        }
        let kinds = &mut self.0[row];
        if site.exit {
            kinds.exit_stepped |= site.stepped;
        } else {
            kinds.entry = true;
            kinds.entry_stepped |= site.stepped;
        }
    }

    /// Nanoseconds of one call of each row.
    pub(crate) fn costs(&self, cost: &Bias, returns: Returns) -> Vec<u64> {
        self.0.iter().map(|kinds| kinds.cost_ns(cost, returns)).collect()
    }
}

/// What one plan costs.
#[derive(Debug)]
pub(crate) struct Meter {
    rows: Rows,
    costs: Vec<u64>,
    since: Instant,
    before_ns: u64,
    last: Ppm,
}

impl Meter {
    pub(crate) fn new(rows: Rows, costs: Vec<u64>, now: Instant) -> Self {
        let mut meter = Self { rows, costs, since: now, before_ns: 0, last: 0 };
        meter.before_ns = meter.total_ns();
        meter
    }

    fn total_ns(&self) -> u64 {
        let costs = self.costs.iter().enumerate().filter(|(_, cost)| **cost > 0);
        costs.map(|(row, cost)| self.rows.entries(row).saturating_mul(*cost)).fold(0, u64::saturating_add)
    }

    /// Takes in what was counted since the last look. Too early it tells nothing.
    fn look(&mut self, now: Instant) -> Option<Ppm> {
        let time = now.saturating_duration_since(self.since);
        if time < LOOK / 2 {
            return None;
        }
        let total = self.total_ns();
        let ppm = share(total.saturating_sub(self.before_ns), time);
        (self.since, self.before_ns, self.last) = (now, total, ppm);
        Some(ppm)
    }

    /// What it cost at the last look.
    pub(crate) fn last(&self) -> Ppm {
        self.last
    }
}

fn share(cost_ns: u64, time: Duration) -> Ppm {
    let ppm = u128::from(cost_ns) * 1_000_000 / time.as_nanos().max(1);
    u64::try_from(ppm).unwrap_or(u64::MAX)
}

/// A bound, and whether the last look was over it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    at_most: Ppm,
    over: bool,
}

impl Bound {
    pub(crate) fn new(at_most: Ppm) -> Self {
        Self { at_most, over: false }
    }

    /// Is it enough?
    fn exceeded(&mut self, cost: Ppm) -> bool {
        let was_over = std::mem::replace(&mut self.over, cost > self.at_most);
        self.over && (was_over || cost / FAR > self.at_most)
    }
}

/// A plan with its bound.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) meter: Meter,
    pub(crate) bound: Bound,
}

impl Budget {
    /// Looks; the cost when it is enough.
    pub(crate) fn look(&mut self, now: Instant) -> Option<Ppm> {
        let cost = self.meter.look(now)?;
        self.bound.exceeded(cost).then_some(cost)
    }
}

/// What all plans together may cost.
#[derive(Debug)]
pub(crate) struct Total {
    bound: Bound,
    looked: Option<Instant>,
}

impl Total {
    pub(crate) fn new(at_most: Ppm) -> Self {
        Self { bound: Bound::new(at_most), looked: None }
    }

    /// Of several plans, the number of the one to take off, with the cost of all, when all together are enough. Between two
    /// looks every meter has looked again, or one busy moment would count as two in a row.
    pub(crate) fn dearest(&mut self, costs: &[Ppm], now: Instant) -> Option<(usize, Ppm)> {
        if self.looked.is_some_and(|last| now.saturating_duration_since(last) < LOOK) {
            return None;
        }
        self.looked = Some(now);
        let total = costs.iter().fold(0u64, |sum, cost| sum.saturating_add(*cost));
        if !self.bound.exceeded(total) {
            return None;
        }
        let dearest = costs.iter().enumerate().max_by_key(|(_, cost)| **cost)?;
        Some((dearest.0, total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_little_over_twice_or_far_over_once_is_enough() {
        let mut bound = Bound::new(10_000);
        assert!(!bound.exceeded(10_000), "not over");
        assert!(!bound.exceeded(10_001), "over for the first time");
        assert!(!bound.exceeded(9_000), "calm again");
        assert!(!bound.exceeded(39_999));
        assert!(bound.exceeded(10_001), "twice in a row");
        assert!(Bound::new(10_000).exceeded(50_000), "far over");
    }

    #[test]
    fn the_dearest_goes_when_all_together_are_too_much() {
        let (mut total, now) = (Total::new(10_000), Instant::now());
        assert_eq!(total.dearest(&[4_000, 5_000], now), None);
        assert_eq!(total.dearest(&[4_000, 90_000, 5], now + LOOK), Some((1, 94_005)));
        assert_eq!(total.dearest(&[], now + 2 * LOOK), None);
    }

    #[test]
    fn what_was_looked_at_once_is_not_counted_twice() {
        let (mut total, now) = (Total::new(10_000), Instant::now());
        assert_eq!(total.dearest(&[20_000], now), None);
        assert_eq!(total.dearest(&[20_000], now + LOOK / 2), None, "the same figures");
        assert_eq!(total.dearest(&[20_000], now + LOOK), Some((0, 20_000)), "twice in a row");
    }

    #[test]
    fn a_share_is_one_of_time() {
        assert_eq!(share(1_000_000, Duration::from_millis(100)), 10_000);
        assert_eq!(share(0, Duration::ZERO), 0);
        assert_eq!(share(u64::MAX, Duration::from_nanos(1)), u64::MAX);
    }

    #[test]
    fn a_function_costs_what_its_dearest_sites_do() {
        let cost = Bias {
            emulated_emulated_ns: Some(1),
            emulated_stepped_ns: Some(10),
            stepped_emulated_ns: Some(100),
            stepped_stepped_ns: Some(1000),
        };
        let site = |row: u64, exit: bool, stepped: bool| PlanSite {
            offset: 0,
            cookie: row,
            exit,
            stepped,
            code: [0; 4],
            code_len: 4,
        };
        let mut kinds = KindsOfRows::default();
        for site in [site(0, false, false), site(0, true, true), site(0, true, false), site(2, false, true)] {
            kinds.add(&site);
        }
        assert_eq!(kinds.costs(&cost, Returns::Ret), [10, 0, 100]);
        assert_eq!(kinds.costs(&cost, Returns::Uretprobe), [1, 0, 100]);
    }
}
