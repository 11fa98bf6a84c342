//! Sampling: a plan that costs more than its bound is measured in windows.
//!
//! Probes are on for a window, and off until the cost of that window is paid back at the rate of the bound. Cost averaged
//! over [`AVERAGED`] stays within the bound, however hot the functions are. A window that turns out cheap enough is not
//! closed: the plan is measured all the time again.
//!
//! Calls that are open at the end of a window lose their frames and count as cut. A call that is
//! longer than a window is never measured.

use std::time::{Duration, Instant};

use crate::budget::Ppm;
use crate::error::GuardError;
use crate::guard::Guard;
use crate::plan::Plan;
use crate::protocol::{Event, Route};
use crate::stop::Abandoned;

/// Duration of a window of a measurement that is sampled.
pub const WINDOW: Duration = Duration::from_millis(50);
/// The shortest one, of functions that cost more than a whole CPU.
const SHORTEST: Duration = Duration::from_millis(1);
/// Time over which cost is averaged: no more credit is saved, and no window costs more.
const AVERAGED: Duration = Duration::from_secs(10);
/// Time in which a debt is paid back; what is left of it then is forgiven.
const PAID_BACK: Duration = Duration::from_secs(60);
/// Delay of a window that cannot open.
const POSTPONED: Duration = Duration::from_secs(1);
/// Processes of a plan that is measured in windows, at most: in each window probes come to each of them, one after the other.
const PROCESSES: usize = 64;
/// Time that it takes uprobe_multi to remove a breakpoint, before it waits for programs that still run.
const REMOVING: Duration = Duration::from_micros(15);

/// State of the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probes {
    /// Off, until the next window.
    Off,
    /// On, until the end of the window.
    InWindow,
    /// On, until the cost exceeds the bound.
    On,
}

/// Credit of one plan, and where it stands between two windows.
#[derive(Debug)]
pub(crate) struct Sampling {
    bound: Ppm,
    /// Nanoseconds of cost that may be spent; negative where too much was.
    credit_ns: i64,
    /// Time of that, and cost of the plan until then.
    counted: (Instant, u64),
    /// Cost while probes are on, at the last window.
    cost: Ppm,
    /// Begin of the present window, or of the time between two.
    since: Instant,
    probes: Probes,
    /// Time between windows so far, but for the present one.
    off: Duration,
}

fn cost_of(ppm: Ppm, time: Duration) -> i64 {
    i64::try_from(u128::from(ppm) * time.as_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

impl Sampling {
    /// Begins with the probes off, after a cost of `cost` was seen for `time`. `spent_ns` is what the plan has cost so far.
    pub(crate) fn begin(bound: Ppm, cost: Ppm, time: Duration, spent_ns: u64, now: Instant) -> Self {
        let credit_ns = cost_of(bound, time) - cost_of(cost, time);
        let (counted, since) = ((now, spent_ns), now);
        let (probes, off) = (Probes::Off, Duration::ZERO);
        let mut sampling = Self { bound, credit_ns, counted, cost, since, probes, off };
        sampling.limit();
        sampling
    }

    fn limit(&mut self) {
        let least = -cost_of(self.bound, PAID_BACK);
        self.credit_ns = self.credit_ns.clamp(least, self.most());
    }

    fn most(&self) -> i64 {
        cost_of(self.bound, AVERAGED)
    }

    /// Duration of the next window.
    fn window(&self) -> Duration {
        let affordable = self.most().unsigned_abs().saturating_mul(1_000_000) / self.cost.max(1);
        Duration::from_nanos(affordable).clamp(SHORTEST, WINDOW)
    }

    /// Takes in that the plan has cost `spent_ns` so far.
    fn count(&mut self, spent_ns: u64, now: Instant) {
        let (at, before) = std::mem::replace(&mut self.counted, (now, spent_ns));
        let earned = cost_of(self.bound, now.saturating_duration_since(at));
        let spent = i64::try_from(spent_ns.saturating_sub(before)).unwrap_or(i64::MAX);
        self.credit_ns = self.credit_ns.saturating_add(earned).saturating_sub(spent);
        self.limit();
    }

    /// Time until a window begins or ends; `None` if the probes stay on.
    fn due_in(&self, now: Instant) -> Option<Duration> {
        match self.probes {
            Probes::Off => Some(self.time_to_credit(now)),
            Probes::InWindow => Some(self.window().saturating_sub(now.saturating_duration_since(self.since))),
            Probes::On => None,
        }
    }

    /// Time until there is credit for a window.
    fn time_to_credit(&self, now: Instant) -> Duration {
        let wanted = cost_of(self.cost, self.window()).min(self.most());
        let earned = cost_of(self.bound, now.saturating_duration_since(self.counted.0));
        let missing = wanted.saturating_sub(self.credit_ns).saturating_sub(earned).max(0);
        let wait = u128::from(missing.unsigned_abs()) * 1_000_000 / u128::from(self.bound.max(1));
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Delays the next window by [`POSTPONED`].
    fn postpone(&mut self) {
        self.credit_ns = self.credit_ns.saturating_sub(cost_of(self.bound, POSTPONED));
    }

    /// The probes are on from now on.
    fn open(&mut self, spent_ns: u64, now: Instant) {
        self.count(spent_ns, now);
        self.off += now.saturating_duration_since(self.since);
        (self.probes, self.since) = (Probes::InWindow, now);
    }

    /// A window ends, which cost what `spent_ns` has grown by since it was opened. False where it was so cheap that the probes
    /// stay.
    fn close(&mut self, spent_ns: u64, now: Instant) -> bool {
        let spent = u128::from(spent_ns.saturating_sub(self.counted.1));
        let time = now.saturating_duration_since(self.since).as_nanos().max(1);
        self.cost = Ppm::try_from(spent * 1_000_000 / time).unwrap_or(Ppm::MAX);
        self.count(spent_ns, now);
        self.since = now;
        // As children are left room: the next busy moment would end it at once.
        let stays = self.cost <= self.bound - self.bound / 4;
        self.probes = if stays { Probes::On } else { Probes::Off };
        !stays
    }

    /// Time without probes so far.
    pub(crate) fn off(&self, now: Instant) -> Duration {
        let present = match self.probes {
            Probes::Off => now.saturating_duration_since(self.since),
            Probes::InWindow | Probes::On => Duration::ZERO,
        };
        self.off + present
    }
}

impl Plan {
    /// True if it is measured in windows at present.
    pub(crate) fn has_windows(&self) -> bool {
        !self.off && self.sampling.as_ref().is_some_and(|sampling| sampling.probes != Probes::On)
    }

    /// True if it can be measured in windows when its cost exceeds the bound.
    pub(crate) fn may_be_sampled(&self) -> bool {
        self.options.sample && !self.has_windows() && self.processes.len() <= PROCESSES
    }

    /// Removes the probes until the next window. Where that takes long, they are hit until they are gone, and nothing counts any
    /// more.
    fn close_for_a_while(&mut self) -> Result<(), GuardError> {
        let begun = Instant::now();
        let sites = u32::try_from(self.sites * self.processes.len()).unwrap_or(u32::MAX);
        let multi = self.loaded.as_ref().is_some_and(|(way, _)| way.route == Route::UprobeMulti);
        let paused = self.pause(Abandoned::Cut);
        let hit = if multi { begun.elapsed().min(REMOVING * sites) } else { begun.elapsed() };
        self.charge_unseen(hit);
        paused
    }

    /// Functions as hot as that are hit while their probes come and go, before and after anything counts.
    fn charge_unseen(&mut self, time: Duration) {
        let unseen = self.sampling.as_ref().map_or(0, |sampling| cost_of(sampling.cost, time));
        self.charge(unseen.unsigned_abs());
    }

    /// Its part of what all plans cost, by the last look; in windows, their mean.
    pub(crate) fn present_cost(&self) -> Ppm {
        match (&self.sampling, &self.budget) {
            (Some(sampling), _) if self.has_windows() => sampling.bound,
            (_, Some(budget)) if !self.off => budget.meter.last(),
            _ => 0,
        }
    }

    /// Nanoseconds in which it had no probes because of its cost.
    pub(crate) fn sampled_off_ns(&self, now: Instant) -> u64 {
        let off = self.sampling.as_ref().map_or(Duration::ZERO, |sampling| sampling.off(now));
        u64::try_from(off.as_nanos()).unwrap_or(u64::MAX)
    }

    /// True between two windows.
    pub(crate) fn is_between_windows(&self) -> bool {
        !self.off && self.sampling.as_ref().is_some_and(|sampling| sampling.probes == Probes::Off)
    }

    fn window_due_in(&self, now: Instant) -> Option<Duration> {
        self.sampling.as_ref().filter(|_| !self.off && self.armed)?.due_in(now)
    }
}

impl Guard {
    /// Time until a window begins or ends.
    pub(crate) fn time_to_window(&self, now: Instant) -> Option<Duration> {
        let due = self.plans.iter().filter_map(|plan| plan.window_due_in(now)).min();
        // poll(2) counts in whole milliseconds.
        due.map(|due| due.max(Duration::from_millis(1)))
    }

    /// Opens and closes windows whose time has come.
    pub(crate) fn sample_windows(&mut self, now: Instant) {
        for index in 0..self.plans.len() {
            if self.plans[index].window_due_in(now) != Some(Duration::ZERO) {
                continue;
            }
            match self.plans[index].is_between_windows() {
                true => self.open_window(index),
                false => self.close_window(index),
            }
        }
    }

    /// Has a plan measured in windows from now on, which has cost `cost` for `time`. Plans share the bound.
    pub(crate) fn begin_sampling(&mut self, index: usize, cost: Ppm, time: Duration, now: Instant) {
        let others = self.others(index);
        let plans = self.plans.iter().filter(|plan| !plan.off).count().max(1) as u64;
        let plan = &mut self.plans[index];
        let bound = plan.options.max_cost_ppm.unwrap_or(Ppm::MAX) / plans;
        let spent_ns = plan.cost_ns(others).unwrap_or(0);
        let before = plan.sampling.take();
        let first = before.is_none();
        let off = before.map_or(Duration::ZERO, |before| before.off(now));
        plan.sampling = Some(Sampling { off, ..Sampling::begin(bound, cost, time, spent_ns, now) });
        match plan.close_for_a_while() {
            Ok(()) if first => self.tell(index, Event::Sampled { ppm: cost }),
            Ok(()) => {}
            Err(error) => self.give_up_stopped(index, &error),
        }
    }

    fn open_window(&mut self, index: usize) {
        match self.images_unchanged(index) {
            Ok(()) => {}
            // A file system that does not answer may answer later.
            Err(GuardError::Stalled { .. }) => {
                return self.plans[index].sampling.iter_mut().for_each(Sampling::postpone);
            }
            Err(_) => return self.take_off(index, Event::ImageChanged),
        }
        let begun = Instant::now();
        self.resume(index);
        let others = self.others(index);
        let plan = &mut self.plans[index];
        plan.charge_unseen(begun.elapsed());
        let spent_ns = plan.cost_ns(others).unwrap_or(0);
        if let Some(sampling) = &mut plan.sampling {
            sampling.open(spent_ns, Instant::now());
        }
    }

    fn close_window(&mut self, index: usize) {
        let others = self.others(index);
        let plan = &mut self.plans[index];
        let spent_ns = plan.cost_ns(others).unwrap_or(0);
        let closes = plan.sampling.as_mut().is_some_and(|sampling| sampling.close(spent_ns, Instant::now()));
        if closes && let Err(error) = plan.close_for_a_while() {
            self.give_up_stopped(index, &error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_spent_in_windows_is_the_bound_on_average() {
        for (bound, cost) in [(10_000, 1_000_000), (10_000, 4_000_000), (10_000, 20_000), (200, 900_000)] {
            let begin = Instant::now();
            let mut sampling = Sampling::begin(bound, cost, SECOND / 10, 0, begin);
            let (mut now, mut spent, mut windows) = (begin, 0u64, 0);
            while now < begin + SECOND * 600 {
                let wait = sampling.due_in(now).unwrap();
                now += wait.max(Duration::from_nanos(1));
                if sampling.probes == Probes::InWindow {
                    spent += cost_of(cost, now.saturating_duration_since(sampling.since)).unsigned_abs();
                    assert!(sampling.close(spent, now), "{bound} {cost}: cheap all at once");
                    assert!(sampling.cost.abs_diff(cost) <= cost / 100, "{} {cost}", sampling.cost);
                } else if sampling.due_in(now) == Some(Duration::ZERO) {
                    sampling.open(spent, now);
                    windows += 1;
                }
            }
            let time = now.saturating_duration_since(begin);
            let share = u128::from(spent) * 1_000_000 / time.as_nanos();
            assert!(
                // Some of it pays for what was spent before.
                (u128::from(bound) * 8 / 10..=u128::from(bound)).contains(&share),
                "{bound} {cost}: {share}"
            );
            let on = time.checked_sub(sampling.off(now)).unwrap();
            assert!(windows > 10 && on.as_nanos() / windows <= WINDOW.as_nanos() + 1, "{windows} {on:?}");
        }
    }

    #[test]
    fn a_window_that_is_cheap_stays_open() {
        let begin = Instant::now();
        let mut sampling = Sampling::begin(10_000, 50_000, SECOND / 10, 7, begin);
        let open = begin + sampling.due_in(begin).unwrap();
        assert!(open > begin && sampling.probes == Probes::Off);
        sampling.open(7, open);
        let end = open + WINDOW;
        assert_eq!(sampling.due_in(end), Some(Duration::ZERO));
        assert!(!sampling.close(7 + cost_of(7_000, WINDOW).unsigned_abs(), end), "seven parts of ten");
        assert_eq!((sampling.probes, sampling.due_in(end + SECOND)), (Probes::On, None));
        assert_eq!(sampling.off(end + SECOND), open - begin);
    }

    #[test]
    fn debts_are_forgiven_after_a_while_and_credit_is_not_saved_for_ever() {
        let begin = Instant::now();
        let mut sampling = Sampling::begin(1_000, 1_000_000, SECOND * 1000, 0, begin);
        assert_eq!(sampling.credit_ns, -cost_of(1_000, PAID_BACK));
        assert!(sampling.due_in(begin).unwrap() <= PAID_BACK + AVERAGED);
        sampling.count(0, begin + SECOND * 1000);
        assert_eq!(sampling.credit_ns, cost_of(1_000, AVERAGED));
        assert_eq!(sampling.due_in(begin + SECOND * 1000), Some(Duration::ZERO));
    }
}
