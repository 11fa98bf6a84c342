//! Costs of plans: measured before they count, updated while they do, reported on request.
//!
//! Probes of several processes on the same instructions pay for each other, in any plan: at each
//! hit the kernel walks the links of all. So hits are counted at every change in the number of
//! links, and at each check.

use std::collections::HashSet;
use std::time::Instant;

use edgelat_bpf::layout::{SITE_MAYBE, SITE_PYTHON, SITE_RETURN, SITE_STEPPED, SITE_TWIN};
use edgelat_bpf::object::Programs;

use crate::attach::{self, Attached, ImageSites, Way};
use crate::budget::{Bound, Budget, Meter, Ppm};
use crate::calibrate::{self, Costs};
use crate::error::GuardError;
use crate::guard::{Guard, order};
use crate::maps::FileKey;
use crate::plan::{Plan, rows_of};
use crate::prices::{Walk, Ways};
use crate::protocol::{PlanId, Reply, TargetId};
use crate::target::Target;

/// Marks the sites whose hits have other prices than their instructions. Functions share
/// instructions if the range of one is part of another's.
pub(crate) fn mark_prices(sites: &mut ImageSites, programs: Programs) {
    let mut exits = HashSet::new();
    let shared: HashSet<u64> =
        sites.exits.iter().map(|site| site.offset).filter(|offset| !exits.insert(*offset)).collect();
    let mut seen = HashSet::new();
    for python in [0, SITE_PYTHON] {
        let all = sites.entries.iter_mut().chain(&mut sites.exits);
        for site in all.filter(|site| site.cookie & SITE_PYTHON == python) {
            if programs == Programs::MultiWriting && site.cookie & SITE_RETURN != 0 {
                site.cookie &= !SITE_STEPPED;
            }
            if !seen.insert(site.offset) {
                site.cookie |= SITE_TWIN;
            }
        }
    }
    for site in sites.exits.iter_mut().filter(|site| shared.contains(&site.offset)) {
        // The exit ends a call of only one of these functions.
        site.cookie |= SITE_MAYBE;
    }
}

impl Plan {
    /// Nanoseconds that the plan has cost so far, with links of `others` more processes on the same
    /// instructions; `None` before the calibration.
    pub(crate) fn cost_ns(&mut self, others: u64) -> Option<u64> {
        let meter = &mut self.budget.as_mut()?.meter;
        meter.count(others);
        Some(meter.total_ns().saturating_add(self.charged_ns))
    }

    fn attached(&self) -> u64 {
        self.processes.iter().filter(|covered| covered.attached.is_some()).count() as u64
    }

    /// Places of its probes, in any process.
    fn instructions(&self) -> impl Iterator<Item = (FileKey, u64)> {
        self.images.iter().flat_map(move |(_, sites)| sites.sites().map(move |site| (sites.key, site.offset)))
    }
}

impl Guard {
    /// Finds the plans with probes on the same instructions as a newly loaded plan.
    pub(crate) fn relate(&mut self, index: usize) {
        let here: HashSet<_> = self.plans[index].instructions().collect();
        let related = self.plans.iter().enumerate().filter(|(at, plan)| {
            *at != index && plan.loaded.is_some() && plan.instructions().any(|site| here.contains(&site))
        });
        let related: Vec<usize> = related.map(|(at, _)| at).collect();
        let id = self.plans[index].id;
        for at in related {
            self.plans[at].related.push(id);
            let other = self.plans[at].id;
            self.plans[index].related.push(other);
        }
    }

    /// Number of other processes whose links the kernel walks at a hit in one process of a plan.
    pub(crate) fn others(&self, index: usize) -> u64 {
        let related = self.related(index).map(|at| self.plans[at].attached());
        self.plans[index].attached().saturating_sub(1) + related.sum::<u64>()
    }

    /// Indices of the plans with probes on the same instructions. A service has hundreds, each
    /// related to all others.
    fn related(&self, index: usize) -> impl Iterator<Item = usize> {
        // Plan ids ascend, in the order of their issue.
        let place = |id: &PlanId| self.plans.binary_search_by_key(&id.0, |plan| plan.id.0).ok();
        self.plans[index].related.iter().filter_map(place)
    }

    /// Counts the cost of a plan and its related plans, before the number of processes changes.
    pub(crate) fn take_in(&mut self, index: usize) {
        let concerned: Vec<usize> = std::iter::once(index).chain(self.related(index)).collect();
        for at in concerned {
            let others = self.others(at);
            _ = self.plans[at].cost_ns(others);
        }
    }

    /// Returns true if the bounds have room for the links of one more process of a plan. These
    /// links cost the others at each hit.
    pub(crate) fn takes_one_more(&self, index: usize) -> bool {
        let Some(budget) = &self.plans[index].budget else { return true };
        let more = budget.meter.of_more(self.others(index) + 1);
        let all = self.plans.iter().filter(|plan| !plan.off);
        let all = all.filter_map(|plan| Some(plan.budget.as_ref()?.meter.last()));
        let all = all.fold(more, u64::saturating_add);
        budget.bound.leaves_room(budget.meter.last().saturating_add(more))
            && self.total.as_ref().is_none_or(|total| total.leaves_room(all))
    }

    /// Returns the present cost and additional bias of a plan.
    pub(crate) fn cost(&mut self, id: PlanId) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let others = self.others(index);
        let plan = &mut self.plans[index];
        let cost_ns = plan.cost_ns(others);
        let more_bias_ns = plan.budget.as_ref().map_or(0, |budget| budget.meter.bias_of(others));
        let off_ns = plan.sampled_off_ns(Instant::now());
        self.price(index)?;
        Ok(Reply::Cost { cost_ns, more_bias_ns, off_ns })
    }

    pub(crate) fn calibrate(&mut self, id: PlanId) -> Result<Reply, GuardError> {
        let index = self.plan_index(id)?;
        let plan = &self.plans[index];
        let (way, loaded) = plan.loaded.as_ref().ok_or_else(|| order("calibrate comes after load"))?;
        let (programs, returns) = (way.programs, plan.options.returns);
        let known = self.costs.iter().find(|(known, by, _)| (*known, *by) == (programs, returns));
        if let Some((_, _, costs)) = known {
            let costs = *costs;
            return self.know_costs(index, costs);
        }
        let first_row = plan.options.functions;
        let rows = rows_of(plan, loaded)?;
        let own = own_target()?;
        let probes = self.probe_own(index, &own, |_| true)?;
        loaded.switch.arm();
        let mut costs = calibrate::run(&rows, first_row, returns);
        let way = *way;
        let mut held = vec![probes];
        costs.prices.walk = self.beside_others(index, way, &own, &costs, &mut held);
        let plan = &mut self.plans[index];
        // The switch is the plan's as well; if the plan already counts, it continues.
        if let (false, Some((_, loaded))) = (plan.armed, &plan.loaded) {
            loaded.switch.disarm();
        }
        plan.calibration = held;
        self.costs.push((programs, returns, costs));
        self.know_costs(index, costs)
    }

    /// Puts the probes of a plan on those of our empty functions whose rows are `wanted`.
    pub(crate) fn probe_own(
        &self,
        index: usize,
        own: &Target,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<Attached, GuardError> {
        let plan = &self.plans[index];
        let (way, loaded) = plan.loaded.as_ref().ok_or_else(|| order("calibrate comes after load"))?;
        let images = calibrate::images(own, plan.options.functions, plan.options.returns, wanted)?;
        attach::attach(way.route, loaded, own, &images, self.tracefs.as_ref())
    }

    /// Measures the addition of the links of one more process. That process does not execute our
    /// image, so that no probe stands in its memory.
    fn beside_others(
        &mut self,
        index: usize,
        way: Way,
        own: &Target,
        costs: &Costs,
        held: &mut Vec<Attached>,
    ) -> Option<Walk> {
        let plan = &self.plans[index];
        let (_, loaded) = plan.loaded.as_ref()?;
        let (first_row, returns) = (plan.options.functions, plan.options.returns);
        let images = calibrate::images(own, first_row, returns, calibrate::is_beside_others).ok()?;
        let other = nix::unistd::getppid().as_raw();
        let other = Some(other).filter(|pid| *pid > 0).or(self.collector)?;
        let other = Target::unchecked(TargetId(0), other).ok()?;
        for _ in 0..calibrate::OTHERS {
            held.push(attach::attach(way.route, loaded, &other, &images, self.tracefs.as_ref()).ok()?);
        }
        let rows = rows_of(plan, loaded).ok()?;
        calibrate::run_beside_others(&rows, first_row, costs)
    }

    /// Enables reports of a plan's costs, and its bound.
    fn know_costs(&mut self, index: usize, costs: Costs) -> Result<Reply, GuardError> {
        let others = self.others(index);
        let plan = &self.plans[index];
        let Some((way, loaded)) = &plan.loaded else { return Err(order("calibrate comes after load")) };
        let writes = way.programs == Programs::MultiWriting;
        let ways = Ways { returns: plan.options.returns, writes };
        let mut meter = Meter::new(rows_of(plan, loaded)?, plan.kinds.clone(), costs.prices, ways);
        meter.begin(others, plan.charged_ns, Instant::now());
        let bound = Bound::new(plan.options.max_cost_ppm.unwrap_or(Ppm::MAX));
        self.plans[index].budget = Some(Budget { meter, bound });
        self.price(index)?;
        Ok(Reply::Calibrated { bias: costs.bias, cost: costs.cost })
    }
}

/// This process.
pub(crate) fn own_target() -> Result<Target, GuardError> {
    Target::unchecked(TargetId(0), std::process::id() as i32)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::rc::Rc;

    use edgelat_bpf::layout::SITE_EXITS;

    use super::*;
    use crate::attach::Site;

    #[test]
    fn what_two_functions_share_has_one_trap_and_is_no_loss_to_either() {
        let site = |offset: u64, cookie: u64| Site { offset, cookie, before: 0, unshadowed: false };
        let sites = || ImageSites {
            file: Rc::new(File::open("/dev/null").unwrap()),
            bytes: Rc::new(File::open("/dev/null").unwrap()),
            key: FileKey { device: (0, 0), inode: 1 },
            entries: vec![site(0, 0), site(16, 1)],
            exits: vec![site(8, SITE_STEPPED | SITE_RETURN), site(24, 0), site(24, 1)],
            mark: 0,
        };
        let mut marked = sites();
        mark_prices(&mut marked, Programs::Multi);
        assert_eq!(marked.entries, sites().entries);
        let expected =
            [site(8, SITE_STEPPED | SITE_RETURN), site(24, SITE_MAYBE), site(24, 1 | SITE_MAYBE | SITE_TWIN)];
        assert_eq!(marked.exits, expected);
        // Each but the last says that another follows; Python's comes first.
        marked.entries.push(site(0, SITE_PYTHON | 2));
        mark_prices(&mut marked, Programs::Address);
        let numbered = marked.numbered();
        let numbered: Vec<(u64, u64, u32)> =
            numbered.iter().map(|(site, nth)| (site.offset, site.cookie, *nth)).collect();
        let twin = SITE_MAYBE | SITE_TWIN;
        let expected = [
            (0, SITE_PYTHON | 2 | SITE_TWIN, 0),
            (0, 0, 1),
            (16, 1, 0),
            (8, SITE_STEPPED | SITE_RETURN, SITE_EXITS),
            (24, 1 | twin, SITE_EXITS),
            (24, SITE_MAYBE, SITE_EXITS + 1),
        ];
        assert_eq!(numbered, expected);
        #[cfg(target_arch = "x86_64")]
        {
            let mut marked = sites();
            mark_prices(&mut marked, Programs::MultiWriting);
            assert_eq!(marked.exits[0], site(8, SITE_RETURN), "the program does it");
        }
    }
}
