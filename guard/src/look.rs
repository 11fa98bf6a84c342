//! What the guard looks at without being asked: what probes cost, whether the probed files are what they were, whether the
//! collector is alive. And whom it tells.

use std::time::{Duration, Instant};

use crate::budget::{self, Ppm, Total};
use crate::error::{GuardError, text};
use crate::guard::{Guard, order};
use crate::image::Identity;
use crate::plan::Plan;
use crate::protocol::{BudgetOf, Event, ImageId, Reply, Told};

/// Time between two looks at the probed files.
const LOOK_AT_IMAGES: Duration = Duration::from_secs(1);

impl Guard {
    /// How long the guard may sleep at most.
    pub fn patience(&self) -> Option<Duration> {
        let all = self.total.as_ref().is_some_and(Total::holds);
        let bounded = |plan: &Plan| plan.budget.as_ref().is_some_and(|budget| all || budget.bound.holds());
        let busy = |plan: &Plan| plan.loaded.is_some() && bounded(plan) && plan.armed;
        if self.plans.iter().any(busy) {
            return Some(budget::LOOK);
        }
        (!self.plans.is_empty() || self.service.is_some()).then_some(LOOK_AT_IMAGES)
    }

    /// What has to be looked at again and again: what the probes cost, and whether the probed files are what they were.
    pub fn look(&mut self, now: Instant) {
        for index in 0..self.plans.len() {
            let plan = &mut self.plans[index];
            let lost = plan.loaded.as_ref().map_or(0, |(_, loaded)| loaded.switch.lost_events());
            if lost > 0 {
                self.take_off(index, Event::Overrun { lost });
                continue;
            }
            let plan = &mut self.plans[index];
            if let Some(ppm) = plan.budget.as_mut().and_then(|budget| budget.look(now)) {
                self.take_off(index, Event::OverBudget { ppm, of: BudgetOf::Plan });
            }
        }
        let costs: Vec<Ppm> = self
            .plans
            .iter()
            .map(|plan| plan.budget.as_ref().map_or(0, |budget| budget.meter.last()))
            .collect();
        if let Some((index, ppm, of)) = self.total.as_mut().and_then(|total| total.dearest(&costs, now)) {
            self.take_off(index, Event::OverBudget { ppm, of });
        }
        if self.looked_at_images.is_none_or(|last| now.saturating_duration_since(last) >= LOOK_AT_IMAGES) {
            self.looked_at_images = Some(now);
            for index in 0..self.plans.len() {
                if self.images_unchanged(index).is_err() {
                    self.take_off(index, Event::ImageChanged);
                }
            }
        }
    }

    /// Removes a plan's probes for a reason that is told once.
    pub(crate) fn take_off(&mut self, index: usize, reason: Event) {
        let plan = &mut self.plans[index];
        plan.budget = None;
        if plan.off || plan.processes.iter().all(|covered| covered.attached.is_none()) {
            return;
        }
        plan.take_off();
        let plan = plan.id;
        self.events.push_back(Told { plan, event: reason });
    }

    /// The files of a plan are still those whose sites were checked.
    pub(crate) fn images_unchanged(&mut self, index: usize) -> Result<(), GuardError> {
        (0..self.plans[index].images.len()).try_for_each(|at| self.unchanged(self.plans[index].images[at].0))
    }

    /// The file is still the one whose sites were checked. An upgrade takes it its name, while processes go on with it.
    fn unchanged(&mut self, image: ImageId) -> Result<(), GuardError> {
        let open = self.images.iter_mut().find(|open| open.id == image);
        let open = open.ok_or_else(|| order("no such image"))?;
        let now = Identity::of(&open.file)?;
        if now == open.identity {
            return Ok(());
        }
        let of_image = self.plans.iter().flat_map(|plan| &plan.images).filter(|(id, _)| *id == image);
        if !now.may_be(&open.identity)
            || of_image.map(|(_, sites)| sites).any(|sites| !sites.are_as_checked())
        {
            return Err(GuardError::ImageChanged { what: text("size, time or place of the file") });
        }
        open.identity = now;
        Ok(())
    }

    /// Is the collector still there, and does it do its work?
    ///
    /// # Errors
    /// When it has been silent for too long.
    pub(crate) fn check_collector(&mut self, now: Instant) -> Result<(), GuardError> {
        let heard = *self.heard.get_or_insert(now);
        match self.service.as_ref().map(|service| service.watchdog) {
            Some(bound) if now.saturating_duration_since(heard) > bound => {
                Err(GuardError::Silent { seconds: bound.as_secs() as u32 })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn tell_supervisor(&mut self, ready: bool, text: &str) -> Reply {
        if let Some(notify) = self.service.as_ref().and_then(|service| service.notify.as_ref()) {
            if ready {
                notify.ready();
            }
            notify.status(text);
        }
        Reply::Done
    }

    /// Tells whoever supervises a service that guard and collector are alive.
    pub(crate) fn tell_alive(&mut self, now: Instant) {
        if let Some(notify) = self.service.as_mut().and_then(|service| service.notify.as_mut()) {
            notify.alive(now);
        }
    }

    /// Tells whoever supervises a service that the end has begun.
    pub(crate) fn tell_stopping(&self) {
        if let Some(notify) = self.service.as_ref().and_then(|service| service.notify.as_ref()) {
            notify.stopping();
        }
    }
}
