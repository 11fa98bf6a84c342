//! What probes may cost: hits a second times what a hit costs on this machine, held under a bound.
//!
//! The hits are those that the programs count, wanted or not; what one costs was measured by the calibration, for each
//! kind of site. The guard looks ten times a second while anything is armed, because it is not held up by what holds up
//! the collector. Far over the bound once, or a little over it twice in a row, and the probes go. One busy tenth of a second
//! is not yet a load.

use std::time::{Duration, Instant};

use edgelat_bpf::Rows;
use edgelat_bpf::layout::SITE_FUNCTION_MASK;

use crate::protocol::{Bias, BudgetOf, PlanSite, Returns};
use crate::share::{Beside, Offer, Share};

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

    /// Takes in what was counted since the last look, and what was `charged_ns` in all. Too early it tells nothing.
    fn look(&mut self, charged_ns: u64, now: Instant) -> Option<Ppm> {
        let time = now.saturating_duration_since(self.since);
        if time < LOOK / 2 {
            return None;
        }
        let total = self.total_ns().saturating_add(charged_ns);
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

    /// Can it be exceeded?
    pub(crate) fn holds(&self) -> bool {
        self.at_most < Ppm::MAX
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
    pub(crate) fn look(&mut self, charged_ns: u64, now: Instant) -> Option<Ppm> {
        let cost = self.meter.look(charged_ns, now)?;
        self.bound.exceeded(cost).then_some(cost)
    }
}

/// What all plans together may cost.
#[derive(Debug)]
pub(crate) struct Total {
    bound: Bound,
    looked: Option<Instant>,
    sharing: Sharing,
}

/// Who else is there.
#[derive(Debug)]
enum Sharing {
    /// Nobody knows of it.
    No,
    /// A service tells what it costs.
    Told(Offer),
    /// A service may run beside, whose bound holds for both together.
    Beside { beside: Beside, share: Option<Share>, both: Bound },
}

impl Total {
    /// Of a service.
    pub(crate) fn of_service(at_most: Ppm, offer: Option<Offer>) -> Self {
        let sharing = offer.map_or(Sharing::No, Sharing::Told);
        Self { bound: Bound::new(at_most), looked: None, sharing }
    }

    /// Of a measurement beside a service.
    pub(crate) fn beside(at_most: Ppm, beside: Beside) -> Self {
        let both = Bound::new(Ppm::MAX);
        let sharing = Sharing::Beside { beside, share: None, both };
        Self { bound: Bound::new(at_most), looked: None, sharing }
    }

    /// Is there a bound, at the last look?
    pub(crate) fn holds(&self) -> bool {
        self.bound.holds() || matches!(self.sharing, Sharing::Beside { share: Some(_), .. })
    }

    /// Of several plans, the number of the one to take off, with the cost of all and why, when all together are enough.
    /// Between two looks every meter has looked again, or one busy moment would count as two in a row.
    pub(crate) fn dearest(&mut self, costs: &[Ppm], now: Instant) -> Option<(usize, Ppm, BudgetOf)> {
        if self.looked.is_some_and(|last| now.saturating_duration_since(last) < LOOK) {
            return None;
        }
        self.looked = Some(now);
        let total = costs.iter().fold(0u64, |sum, cost| sum.saturating_add(*cost));
        if let Sharing::Told(offer) = &mut self.sharing {
            offer.tell(total);
        }
        let of = match &mut self.sharing {
            _ if self.bound.exceeded(total) => Some(BudgetOf::AllPlans),
            Sharing::No | Sharing::Told(_) => None,
            Sharing::Beside { beside, share, both } => {
                *share = beside.share();
                share.and_then(|Share { bound, cost: service }| {
                    both.at_most = bound;
                    // A service that is over its bound by itself is not helped by our end.
                    let exceeded = both.exceeded(total.saturating_add(service)) && total > 0;
                    exceeded.then_some(BudgetOf::Both { service, bound })
                })
            }
        }?;
        let dearest = costs.iter().enumerate().max_by_key(|(_, cost)| **cost)?;
        Some((dearest.0, total, of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::{RunLock, is_held};
    use crate::testing::{Folder, eventually};

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
        let (mut total, now) = (Total::of_service(10_000, None), Instant::now());
        assert_eq!(total.dearest(&[4_000, 5_000], now), None);
        let over = Some((1, 94_005, BudgetOf::AllPlans));
        assert_eq!(total.dearest(&[4_000, 90_000, 5], now + LOOK), over);
        assert_eq!(total.dearest(&[], now + 2 * LOOK), None);
    }

    #[test]
    fn what_was_looked_at_once_is_not_counted_twice() {
        let (mut total, now) = (Total::of_service(10_000, None), Instant::now());
        assert_eq!(total.dearest(&[20_000], now), None);
        assert_eq!(total.dearest(&[20_000], now + LOOK / 2), None, "the same figures");
        assert_eq!(
            total.dearest(&[20_000], now + LOOK),
            Some((0, 20_000, BudgetOf::AllPlans)),
            "twice in a row"
        );
    }

    #[test]
    fn a_measurement_beside_a_service_yields_when_both_cost_more_than_the_service_may() {
        let (folder, now) = (Folder::new(), Instant::now());
        let beside = || Beside::new(folder.to_path_buf());
        let mut own = Total::beside(Ppm::MAX, beside());
        assert_eq!(own.dearest(&[900_000], now), None);
        assert!(!own.holds(), "nobody is there, and it was not asked to end");
        let lock = RunLock::take(&folder).unwrap();
        let mut service = Total::of_service(50_000, Some(Offer::make(&folder, 50_000).unwrap()));
        assert_eq!(service.dearest(&[10_000, 20_000], now), None);
        // 30,000 of 50,000 are taken.
        assert_eq!(own.dearest(&[20_000], now + LOOK), None);
        assert!(own.holds());
        assert_eq!(own.dearest(&[15_000, 6_000], now + 2 * LOOK), None, "over for the first time");
        let both = BudgetOf::Both { service: 30_000, bound: 50_000 };
        assert_eq!(own.dearest(&[15_000, 6_000], now + 3 * LOOK), Some((0, 21_000, both)));
        // The service comes to cost more than it may: nothing is left.
        assert_eq!(service.dearest(&[300_000], now + LOOK), Some((0, 300_000, BudgetOf::AllPlans)));
        let both = BudgetOf::Both { service: 300_000, bound: 50_000 };
        assert_eq!(own.dearest(&[1], now + 4 * LOOK), Some((0, 1, both)));
        assert_eq!(own.dearest(&[0], now + 5 * LOOK), None, "it costs nothing");
        // What was asked for holds as well.
        let mut bounded = Total::beside(5_000, beside());
        assert_eq!(bounded.dearest(&[30_000], now), Some((0, 30_000, BudgetOf::AllPlans)));
        drop((service, lock));
        eventually("the lock of an ended service is held", || !is_held(&folder));
        assert_eq!(own.dearest(&[900_000], now + 6 * LOOK), None, "the service has ended");
        assert!(!own.holds());
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
            before: 0,
        };
        let mut kinds = KindsOfRows::default();
        for site in [site(0, false, false), site(0, true, true), site(0, true, false), site(2, false, true)] {
            kinds.add(&site);
        }
        assert_eq!(kinds.costs(&cost, Returns::Ret), [10, 0, 100]);
        assert_eq!(kinds.costs(&cost, Returns::Uretprobe), [1, 0, 100]);
    }
}
