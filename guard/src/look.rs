//! The guard's periodic checks: cost of the probes, identity of the probed files, a live collector.
//! And the reports of them.

use std::time::{Duration, Instant};

use crate::budget::{self, Ppm, Total};
use crate::error::{GuardError, text};
use crate::foreign;
use crate::guard::{Guard, order};
use crate::image::{Identity, OpenImage};
use crate::plan::Plan;
use crate::protocol::{BudgetOf, Event, ImageId, Reply, Told};
use crate::target::is_at_work;

/// Time between two looks at the probed files.
const LOOK_AT_IMAGES: Duration = Duration::from_secs(1);
/// A collector at work may be silent this many times longer: all its work has a bound.
const AT_WORK: u32 = 20;

impl Guard {
    /// Longest time that the guard may sleep.
    pub fn patience(&self) -> Option<Duration> {
        let now = Instant::now();
        let sweeps = self.plans.iter().filter_map(|plan| plan.sweep.due_in(now));
        // poll(2) counts in whole milliseconds.
        let sweeps = sweeps.map(|time| time.max(Duration::from_millis(1)));
        let waiting = self.plans.iter().any(|plan| !plan.existing.is_empty());
        let waiting = waiting.then_some(Duration::from_millis(1));
        sweeps.chain(waiting).chain(self.time_to_next_look()).min()
    }

    fn time_to_next_look(&self) -> Option<Duration> {
        let all = self.total.as_ref().is_some_and(Total::holds);
        let bounded = |plan: &Plan| plan.budget.as_ref().is_some_and(|budget| all || budget.bound.holds());
        let busy = |plan: &Plan| plan.loaded.is_some() && bounded(plan) && plan.armed && !plan.off;
        let budgets = self.plans.iter().any(busy).then_some(budget::LOOK);
        let tracers = self.plans.iter().filter(|plan| plan.has_probes()).map(Plan::patience_for_tracers);
        let images = (!self.plans.is_empty() || self.service.is_some()).then_some(LOOK_AT_IMAGES);
        let soon = self.time_to_reprice().into_iter().chain(self.time_to_window(Instant::now()));
        tracers.chain(budgets).chain(images).chain(soon).min()
    }

    /// Runs the periodic checks: the cost of the probes, and the identity of the probed files.
    pub fn look(&mut self, now: Instant) {
        self.follow_command();
        self.cover_waiting();
        self.sweep(now);
        self.look_for_tracers(now);
        self.look_at_costs(now);
        self.sample_windows(now);
        self.reprice(now);
        let due =
            |last: Option<Instant>, time| last.is_none_or(|last| now.saturating_duration_since(last) >= time);
        if due(self.looked_at_images, LOOK_AT_IMAGES) {
            self.looked_at_images = Some(now);
            let foreign = due(self.looked_at_foreign, foreign::LOOK);
            if foreign {
                self.looked_at_foreign = Some(now);
            }
            for index in 0..self.plans.len() {
                if self.plans[index].has_probes() && self.images_as_known(index, foreign).is_err() {
                    self.take_off(index, Event::ImageChanged);
                }
            }
        }
    }

    /// Checks the cost of the probes, and lost events.
    pub(crate) fn look_at_costs(&mut self, now: Instant) {
        for index in 0..self.plans.len() {
            let plan = &mut self.plans[index];
            let lost = plan.loaded.as_ref().map_or(0, |(_, loaded)| loaded.switch.lost_events());
            if lost > 0 {
                self.take_off(index, Event::Overrun { lost });
                continue;
            }
            if plan.off || plan.budget.as_ref().is_none_or(|budget| !budget.meter.is_due(now)) {
                continue;
            }
            let others = self.others(index);
            let plan = &mut self.plans[index];
            let charged_ns = plan.charged_ns;
            let budget = plan.budget.as_mut();
            if let Some((ppm, time)) = budget.and_then(|budget| budget.look(others, charged_ns, now)) {
                self.over_budget(index, ppm, time, now);
            }
        }
        let costs: Vec<Ppm> = self.plans.iter().map(Plan::present_cost).collect();
        match self.total.as_mut().and_then(|total| total.dearest(&costs, now)) {
            Some((index, ppm, BudgetOf::AllPlans)) if self.plans[index].may_be_sampled() => {
                self.begin_sampling(index, ppm, budget::LOOK, now);
            }
            Some((index, ppm, of)) => self.take_off(index, Event::OverBudget { ppm, of }),
            None => {}
        }
    }

    /// A plan has cost more than its bound, at the last look. Windows have an account of their own.
    fn over_budget(&mut self, index: usize, ppm: Ppm, time: Duration, now: Instant) {
        match &self.plans[index] {
            plan if plan.has_windows() => {}
            plan if plan.may_be_sampled() => self.begin_sampling(index, ppm, time, now),
            _ => self.take_off(index, Event::OverBudget { ppm, of: BudgetOf::Plan }),
        }
    }

    /// Removes a plan's probes for a reason that is reported once.
    pub(crate) fn take_off(&mut self, index: usize, reason: Event) {
        self.take_in(index);
        let plan = &mut self.plans[index];
        if plan.off || !plan.stopped && !plan.has_probes() {
            return;
        }
        plan.take_off();
        let plan = plan.id;
        self.events.push_back(Told { plan, event: reason });
    }

    /// Checks that the files of a plan are still those with the checked sites, before any attach.
    pub(crate) fn images_unchanged(&mut self, index: usize) -> Result<(), GuardError> {
        let pid = self.target(self.plans[index].target)?.pid;
        (0..self.plans[index].images.len()).try_for_each(|at| {
            let image = self.plans[index].images[at].0;
            match self.image(image)?.copy.is_some() {
                true => {
                    let stalled = GuardError::Stalled { path: text("an image"), pid };
                    self.foreign_unchanged(image, true, Err(stalled))
                }
                false => self.unchanged(image),
            }
        })
    }

    /// Checks the files as far as known, and `foreign` files if they can be accessed.
    fn images_as_known(&mut self, index: usize, foreign: bool) -> Result<(), GuardError> {
        (0..self.plans[index].images.len()).try_for_each(|at| {
            let image = self.plans[index].images[at].0;
            match (self.image(image)?.copy.is_some(), foreign) {
                (true, true) => self.foreign_unchanged(image, false, Ok(())),
                (true, false) => Ok(()),
                (false, _) => self.unchanged(image),
            }
        })
    }

    fn image(&self, image: ImageId) -> Result<&OpenImage, GuardError> {
        self.images.iter().find(|open| open.id == image).ok_or_else(|| order("no such image"))
    }

    /// Checks that the file is still the one with the checked sites. An upgrade takes its name,
    /// while processes continue with it.
    fn unchanged(&mut self, image: ImageId) -> Result<(), GuardError> {
        let open = self.image(image)?;
        let now = Identity::of(&open.file)?;
        if now == open.identity {
            return Ok(());
        }
        let of_image = self.plans.iter().flat_map(|plan| &plan.images).filter(|(id, _)| *id == image);
        if !now.may_be(&open.identity)
            || of_image.map(|(_, sites)| sites).any(|sites| !sites.are_as_checked(&sites.file))
        {
            return Err(GuardError::ImageChanged { what: text("size, time or place of the file") });
        }
        self.images.iter_mut().filter(|open| open.id == image).for_each(|open| open.identity = now);
        Ok(())
    }

    /// Checks that the collector is still there and works. Reading a large image needs no request,
    /// and takes time at nice 19 on a busy machine; a hung collector waits for something that does
    /// not come.
    ///
    /// # Errors
    /// If it has been silent for too long.
    pub(crate) fn check_collector(&mut self, now: Instant) -> Result<(), GuardError> {
        let heard = *self.heard.get_or_insert(now);
        match self.service.as_ref().map(|service| service.watchdog) {
            Some(bound) if self.hangs(bound, now.saturating_duration_since(heard)) => {
                Err(GuardError::Silent { seconds: bound.as_secs() as u32 })
            }
            _ => Ok(()),
        }
    }

    fn hangs(&self, bound: Duration, silent: Duration) -> bool {
        silent > bound && (silent > bound * AT_WORK || !self.collector.is_some_and(is_at_work))
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

    /// Reports to the service's supervisor that guard and collector are alive.
    pub(crate) fn tell_alive(&mut self, now: Instant) {
        if let Some(notify) = self.service.as_mut().and_then(|service| service.notify.as_mut()) {
            notify.alive(now);
        }
    }

    /// Reports to the service's supervisor that the end has begun.
    pub(crate) fn tell_stopping(&self) {
        if let Some(notify) = self.service.as_ref().and_then(|service| service.notify.as_ref()) {
            notify.stopping();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;
    use crate::guard::Service;

    const BOUND: Duration = Duration::from_secs(30);

    /// The guard of a service whose collector is another program.
    fn guard_of(collector: &Child) -> Guard {
        let mut guard = Guard {
            service: Some(Service {
                config: "/dev/null".into(),
                understand: |_, _| None,
                asked: Vec::new(),
                reattach: true,
                total_ppm: 0,
                watchdog: BOUND,
                user: None,
                folder: None,
                lock: None,
                offer: None,
                notify: None,
            }),
            ..Guard::default()
        };
        guard.set_collector(collector.id() as i32);
        guard
    }

    fn program(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).spawn().unwrap()
    }

    fn end(mut child: Child) {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_collector_that_is_at_work_is_waited_for_and_one_that_hangs_is_not() {
        let now = Instant::now();
        let (soon, late) = (now + BOUND + Duration::from_secs(1), now + BOUND * (AT_WORK + 1));
        let silent = Err(GuardError::Silent { seconds: 30 });
        let works = program("while :; do :; done");
        let mut guard = guard_of(&works);
        assert_eq!(guard.check_collector(now), Ok(()));
        // Until the shell has begun.
        while guard.check_collector(soon).is_err() {
            std::thread::yield_now();
        }
        assert_eq!(guard.check_collector(late), silent, "nothing that it does takes so long");
        // As any request does.
        guard.handle(crate::protocol::Request::Events);
        assert_eq!(guard.check_collector(Instant::now() + BOUND), Ok(()));

        kill(Pid::from_raw(works.id() as i32), Signal::SIGSTOP).unwrap();
        let begun = Instant::now();
        while guard.check_collector(Instant::now() + BOUND * 2) != silent {
            assert!(begun.elapsed() < BOUND, "a stopped collector is not given up");
        }
        end(works);

        let waits = program("exec sleep 1000");
        let mut guard = guard_of(&waits);
        assert_eq!(guard.check_collector(now), Ok(()));
        let begun = Instant::now();
        while guard.check_collector(soon) != silent {
            assert!(begun.elapsed() < BOUND, "a collector that waits for nothing is not given up");
        }
        end(waits);
        assert_eq!(guard.check_collector(soon), silent, "it is gone");
    }
}
