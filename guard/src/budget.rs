//! Cost of probes: hits a second times the cost of a hit on this machine, held under a bound.
//!
//! Every hit counts here, even if it measures nothing: a conditional exit that is not taken, an
//! exit without a frame, a call on a CPU that is left out, an unknown address. The calibration
//! measured the cost of a hit for each kind of site. The links of all processes measured on the
//! same instructions add to it, since the kernel walks them at each hit in any of these processes.
//! While any plan is armed the guard checks ten times a second, because the causes that delay the
//! collector do not delay the guard. One cost far over the bound, or two in a row a little over it,
//! and the probes are removed. One busy tenth of a second is not yet a load.

use std::time::{Duration, Instant};

use edgelat_bpf::Rows;

use crate::prices::{KindsOfRows, Prices, Ways, priced};
use crate::protocol::BudgetOf;
use crate::share::{Beside, Offer, Share};

/// Time between two checks.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// A single cost above this many times the bound is enough.
const FAR: u64 = 4;

/// Parts of one CPU's time, in millionths.
pub type Ppm = u64;

/// Hits of one row and their cost.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    mark: u64,
    cost_ns: u64,
    traps: u64,
}

/// Cost of one plan.
#[derive(Debug)]
pub(crate) struct Meter {
    rows: Rows,
    kinds: KindsOfRows,
    prices: Prices,
    ways: Ways,
    counted: Vec<Counted>,
    /// Cost of walking the links of further processes, in thousandths of a nanosecond.
    walked_ps: u128,
    traps: u64,
    since: Instant,
    before: (u64, u64),
    last: Ppm,
    /// Cost that one more process would add to `last`.
    of_one_more: Ppm,
    /// Further processes at the last check.
    others: u64,
}

impl Meter {
    pub(crate) fn new(rows: Rows, kinds: KindsOfRows, prices: Prices, ways: Ways) -> Self {
        // The last element stands for unknown addresses.
        let counted = vec![Counted::default(); kinds.rows() + 1];
        Self {
            rows,
            kinds,
            prices,
            ways,
            counted,
            walked_ps: 0,
            traps: 0,
            since: Instant::now(),
            before: (0, 0),
            last: 0,
            of_one_more: 0,
            others: 0,
        }
    }

    /// Starts the checks; earlier hits are in no share.
    pub(crate) fn begin(&mut self, others: u64, charged_ns: u64, now: Instant) {
        self.count(others);
        (self.since, self.before) = (now, (self.total_ns().saturating_add(charged_ns), self.traps));
    }

    /// Adds the hits since the last time, each with a walk of the links of `others` more processes.
    pub(crate) fn count(&mut self, others: u64) {
        let unknown = self.kinds.rows();
        let mut traps = 0u64;
        for (index, counted) in self.counted.iter_mut().enumerate() {
            let row = if index == unknown { self.rows.functions() - 1 } else { index };
            let Some(hits) = self.rows.hits(row, counted.mark) else { continue };
            let (cost_ns, now) = match self.kinds.of(index) {
                Some(kinds) => priced(kinds, &hits, &self.prices, self.ways),
                None if index == unknown => {
                    (hits.entries.saturating_mul(self.kinds.dearest(&self.prices)), hits.entries)
                }
                None => continue,
            };
            traps = traps.saturating_add(now.saturating_sub(counted.traps));
            // Values read during calls may be slightly off; values once shown do not decrease.
            *counted = Counted {
                mark: hits.mark,
                cost_ns: cost_ns.max(counted.cost_ns),
                traps: now.max(counted.traps),
            };
        }
        self.traps += traps;
        let ps = u128::from(self.prices.walk_ps(self.ways.returns)) * u128::from(others);
        self.walked_ps = self.walked_ps.saturating_add(u128::from(traps) * ps);
    }

    /// Nanoseconds of all hits counted.
    pub(crate) fn total_ns(&self) -> u64 {
        let walked = u64::try_from(self.walked_ps / 1000).unwrap_or(u64::MAX);
        self.counted.iter().fold(walked, |sum, row| sum.saturating_add(row.cost_ns))
    }

    /// Hits counted, each trap once.
    pub(crate) fn traps(&self) -> u64 {
        self.traps
    }

    /// Costs of a hit as measured at the start.
    pub(crate) fn prices(&self) -> &Prices {
        &self.prices
    }

    /// Nanoseconds that `others` more processes add to a reported duration.
    pub(crate) fn bias_of(&self, others: u64) -> u64 {
        self.prices.walk.map_or(0, |walk| walk.bias_ps.saturating_mul(others) / 1000)
    }

    /// Returns true if a check is due. The guard is woken far more often.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= LOOK / 2
    }

    /// Counts the hits since the last check, and `charged_ns`, a total. Returns `None` if called
    /// too early.
    fn look(&mut self, others: u64, charged_ns: u64, now: Instant) -> Option<Ppm> {
        if !self.is_due(now) {
            return None;
        }
        let time = now.saturating_duration_since(self.since);
        self.count(others);
        let total = self.total_ns().saturating_add(charged_ns);
        let traps = self.traps - self.before.1;
        self.last = share(total.saturating_sub(self.before.0), time);
        self.of_one_more = share(traps.saturating_mul(self.prices.walk_ps(self.ways.returns)) / 1000, time);
        (self.since, self.before, self.others) = (now, (total, self.traps), others);
        Some(self.last)
    }

    /// Cost that the links of `others` further processes on the same instructions add to that, less
    /// those present at the last check: many children may come between two checks.
    pub(crate) fn of_more(&self, others: u64) -> Ppm {
        of_more(self.of_one_more, self.others, others)
    }

    /// Cost at the last check.
    pub(crate) fn last(&self) -> Ppm {
        self.last
    }
}

fn of_more(of_one: Ppm, at_the_look: u64, others: u64) -> Ppm {
    of_one.saturating_mul(others.saturating_sub(at_the_look))
}

fn share(cost_ns: u64, time: Duration) -> Ppm {
    let ppm = u128::from(cost_ns) * 1_000_000 / time.as_nanos().max(1);
    u64::try_from(ppm).unwrap_or(u64::MAX)
}

/// A bound, and the result of the last check against it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    at_most: Ppm,
    over: bool,
}

impl Bound {
    pub(crate) fn new(at_most: Ppm) -> Self {
        Self { at_most, over: false }
    }

    /// Returns true if it can be exceeded.
    pub(crate) fn holds(&self) -> bool {
        self.at_most < Ppm::MAX
    }

    /// Returns true if this cost leaves room in it. If children filled it completely, the next busy
    /// moment would end the measurement of all of them.
    pub(crate) fn leaves_room(&self, cost: Ppm) -> bool {
        cost <= self.at_most - self.at_most / 4
    }

    /// Returns true if the cost is enough to end the measurement.
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
    /// Checks the cost; returns it, with the time it was measured over, if it exceeds the bound.
    pub(crate) fn look(&mut self, others: u64, charged_ns: u64, now: Instant) -> Option<(Ppm, Duration)> {
        let time = now.saturating_duration_since(self.meter.since);
        let cost = self.meter.look(others, charged_ns, now)?;
        self.bound.exceeded(cost).then_some((cost, time))
    }
}

/// Bound on the cost of all plans together.
#[derive(Debug)]
pub(crate) struct Total {
    bound: Bound,
    looked: Option<Instant>,
    sharing: Sharing,
}

/// Other agents on this machine.
#[derive(Debug)]
enum Sharing {
    /// This agent's cost is not published.
    No,
    /// A service publishes its cost.
    Told(Offer),
    /// A service may run beside; its bound holds for both together.
    Beside { beside: Beside, share: Option<Share>, both: Bound },
}

impl Total {
    /// Bound of a service.
    pub(crate) fn of_service(at_most: Ppm, offer: Option<Offer>) -> Self {
        let sharing = offer.map_or(Sharing::No, Sharing::Told);
        Self { bound: Bound::new(at_most), looked: None, sharing }
    }

    /// Bound of a measurement beside a service.
    pub(crate) fn beside(at_most: Ppm, beside: Beside) -> Self {
        let both = Bound::new(Ppm::MAX);
        let sharing = Sharing::Beside { beside, share: None, both };
        Self { bound: Bound::new(at_most), looked: None, sharing }
    }

    /// Returns true if this cost leaves room in the bound.
    pub(crate) fn leaves_room(&self, cost: Ppm) -> bool {
        self.bound.leaves_room(cost)
    }

    /// Returns true if there is a bound, as of the last check.
    pub(crate) fn holds(&self) -> bool {
        self.bound.holds() || matches!(self.sharing, Sharing::Beside { share: Some(_), .. })
    }

    /// If the plans together cost too much, returns the index of the plan to remove, the cost of
    /// all and the reason. Every meter must be checked between two calls, or one busy moment would
    /// count as two in a row.
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
                    // Our end does not help a service that alone exceeds its bound.
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
    fn a_crowd_that_comes_between_two_looks_fills_the_bound_no_further_than_one_by_one() {
        let (bound, last, of_one, at_the_look) = (Bound::new(10_000), 5_000, 500, 2);
        let room = |others: &u64| bound.leaves_room(last + of_more(of_one, at_the_look, *others));
        assert_eq!((3..100).take_while(room).count(), 5, "up to three quarters");
        assert!(Bound::new(Ppm::MAX).leaves_room(5_000), "no bound");
        assert_eq!(of_more(of_one, at_the_look, 1), 0, "some have ended since");
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
        // The service costs more than its bound: nothing is left.
        assert_eq!(service.dearest(&[300_000], now + LOOK), Some((0, 300_000, BudgetOf::AllPlans)));
        let both = BudgetOf::Both { service: 300_000, bound: 50_000 };
        assert_eq!(own.dearest(&[1], now + 4 * LOOK), Some((0, 1, both)));
        assert_eq!(own.dearest(&[0], now + 5 * LOOK), None, "it costs nothing");
        // The requested bound holds as well.
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
}
