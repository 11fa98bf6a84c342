//! Present cost of hits, while plans count.
//!
//! Probe time inside of the calls of other functions is priced hit by hit, and may be many times
//! the function's own time. So a price that was right at the start is not enough: a trap takes now
//! a third more and now a third less, depending on the machine's load. Once a second the guard
//! calls a few empty functions of its own, with the same probes, which is about a thousandth of a
//! CPU; at first more often, as one sample says little; and only if plans may have probes inside of
//! calls, and have any hit.

use std::time::{Duration, Instant};

use edgelat_bpf::object::Programs;

use crate::budget::Total;
use crate::calibrate::{self, Samples};
use crate::costs::own_target;
use crate::error::GuardError;
use crate::guard::Guard;
use crate::plan::Plan;
use crate::prices::Prices;
use crate::protocol::Returns;

/// Time between two samples.
const AGAIN: Duration = Duration::from_secs(1);
/// Interval while there are too few samples.
const SOON: Duration = Duration::from_millis(100);

/// Known prices of one set of programs.
#[derive(Debug)]
pub(crate) struct Repriced {
    programs: Programs,
    returns: Returns,
    samples: Samples,
    prices: Prices,
    /// [`Guard::hit`] at the last sample.
    hit: u64,
    /// The functions could not be probed any more; the prices stay.
    given_up: bool,
}

impl Plan {
    /// Its programs and their returns, if probes may be hit inside of measured calls, at a price.
    fn repriced(&self) -> Option<(Programs, Returns)> {
        let (way, _) = self.loaded.as_ref()?;
        let counts = self.armed && !self.off && !self.stopped && self.budget.is_some();
        // Sessions do not know the calls inside.
        (counts && way.programs != Programs::Session && self.kinds.may_nest())
            .then_some((way.programs, self.options.returns))
    }
}

impl Guard {
    /// Time until the next sample is due.
    pub(crate) fn time_to_reprice(&self) -> Option<Duration> {
        self.plans.iter().any(|plan| plan.repriced().is_some()).then(|| self.time_between_samples())
    }

    fn time_between_samples(&self) -> Duration {
        let few = |repriced: &Repriced| !repriced.given_up && !repriced.samples.suffice();
        if self.repriced.iter().any(few) { SOON } else { AGAIN }
    }

    /// Measures the cost of hits, if due, and passes it to the programs.
    pub(crate) fn reprice(&mut self, now: Instant) {
        let between = self.time_between_samples();
        if self.repriced_at.is_some_and(|last| now.saturating_duration_since(last) < between) {
            return;
        }
        self.repriced_at = Some(now);
        let mut done = Vec::new();
        for index in 0..self.plans.len() {
            let Some(key) = self.plans[index].repriced() else { continue };
            if !done.contains(&key) {
                done.push(key);
                self.sample(index, key);
            }
            // The next sample repeats it if this fails.
            _ = self.price(index);
        }
    }

    /// Hits so far in the plans with these programs; `None` if they are not watched continuously.
    fn hit(&self, key: (Programs, Returns)) -> Option<u64> {
        let all = self.total.as_ref().is_some_and(Total::holds);
        let plans = self.plans.iter().filter(|plan| plan.repriced() == Some(key));
        let budgets = plans.filter_map(|plan| plan.budget.as_ref());
        budgets.map(|budget| (all || budget.bound.holds()).then(|| budget.meter.traps())).sum()
    }

    fn sample(&mut self, index: usize, key: (Programs, Returns)) {
        let known = self.costs.iter().find(|(programs, returns, _)| (*programs, *returns) == key);
        let Some(known) = known.map(|(_, _, costs)| costs.prices) else { return };
        let holds = |plan: &Plan| plan.repriced() == Some(key) && !plan.calibration.is_empty();
        let held = self.plans.iter().any(holds);
        let place = self.repriced.iter().position(|repriced| (repriced.programs, repriced.returns) == key);
        let place = place.unwrap_or_else(|| {
            let (programs, returns) = key;
            let samples = Samples::default();
            self.repriced.push(Repriced {
                programs,
                returns,
                samples,
                prices: known,
                hit: 0,
                given_up: false,
            });
            self.repriced.len() - 1
        });
        let hit = self.hit(key);
        if self.repriced[place].given_up || hit == Some(self.repriced[place].hit) {
            return;
        }
        self.repriced[place].hit = hit.unwrap_or(0);
        // The plan that had the probes on these functions is gone.
        if !held && self.probe_again(index).is_err() {
            self.repriced[place].given_up = true;
            return;
        }
        let repriced = &mut self.repriced[place];
        repriced.samples.take();
        repriced.prices = repriced.samples.prices(&known, key.1);
    }

    /// Puts the probes of a plan on the functions that are called again.
    fn probe_again(&mut self, index: usize) -> Result<(), GuardError> {
        let probes = self.probe_own(index, &own_target()?, calibrate::is_called_again)?;
        self.plans[index].calibration.push(probes);
        Ok(())
    }

    /// Passes the present cost of a hit to the programs of a plan.
    pub(crate) fn price(&self, index: usize) -> Result<(), GuardError> {
        let plan = &self.plans[index];
        let (Some(budget), Some((way, loaded))) = (&plan.budget, &plan.loaded) else { return Ok(()) };
        let returns = plan.options.returns;
        let now = self.repriced.iter().find(|now| (now.programs, now.returns) == (way.programs, returns));
        let prices = now.map_or(budget.meter.prices(), |now| &now.prices);
        loaded.set_prices(&prices.of_hits(returns, self.others(index)))
    }
}
