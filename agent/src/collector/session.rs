//! One measured process, from its opening to its last report; `watch` has one, the service many.
//!
//! A session resolves names in the mapped images, has one or more plans attached for them
//! (libraries may come later), follows the children that the guard covers, and reads the counts. It
//! prints nothing: messages for the user go to [`Notices`].

mod covering;
mod later;

use std::fmt;
use std::time::{Duration, Instant};

use edgelat_guard::protocol::{BudgetOf, Event, PlanId, Returns, Told};
use edgelat_guard::{GuardError, Limits, Line, WINDOW};
use edgelat_image::{Pack, Pattern, Progress, PythonPattern};

use super::debug_dirs::DebugDirs;
use super::family::{Children, Family};
use super::faults;
use super::interpreters::Interpreters;
use super::measurement::{Measurement, percent, rate};
use super::notes::{self, Killed};
use super::refusals;
use super::report::{Ended, FunctionReport, RefusedReport, Report, SCHEMA, TargetReport};
use super::resolve::{self, ImageFile, ResolveError};
use super::target::Target;
use crate::values::nanoseconds;

/// Requested measurement of a process.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Functions.
    pub functions: Vec<Pattern>,
    /// Python functions.
    pub python: Vec<PythonPattern>,
    /// Limits of its plans.
    pub plan: Limits,
    /// True if the cost of its probes is bounded.
    pub bounded: bool,
    /// True if the time that its probes add is to be measured.
    pub calibrated: bool,
    /// Globs of paths of images that are never probed.
    pub unprobed: Vec<String>,
    /// True if debug data are read for inlined functions.
    pub inlined: bool,
}

/// Sources of names besides the images themselves.
#[derive(Debug, Default)]
pub struct Sources {
    /// Folders with debug files.
    pub debug_dirs: DebugDirs,
    /// Packs.
    pub packs: Vec<Pack>,
}

/// Receiver of messages for the user.
pub trait Notices {
    /// Name of the setting that bounds the cost of probes.
    fn bound(&self) -> &'static str;
    /// Takes one line.
    fn say(&mut self, text: fmt::Arguments<'_>);
    /// Takes the progress of reading an image.
    fn progress(&mut self, image: &str, at: Progress);
}

/// Reason why a process cannot be measured, or not any further.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The guard refused something.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Names could not be resolved to functions.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Return probes would harm the target.
    #[error(
        "returns uretprobe is unsafe for process {pid}: {reason}; leave it out: probes on exit sites are safe here"
    )]
    UnsafeReturns {
        /// The process.
        pid: i32,
        /// Reason.
        reason: String,
    },
}

/// A measured process.
#[derive(Debug)]
pub struct Session {
    /// The process.
    pub target: Target,
    description: TargetReport,
    measurements: Vec<Measurement>,
    refused: Vec<RefusedReport>,
    /// Patterns whose library is not mapped yet.
    pub pending: Vec<Pattern>,
    /// Python functions whose interpreter is not mapped yet.
    pub python_pending: Vec<PythonPattern>,
    /// Images that were searched for patterns.
    seen: Vec<ImageFile>,
    /// Time of the next search for more images.
    look_again: Instant,
    /// True if images that come from now on are not searched.
    closed: bool,
    /// Its processes.
    pub family: Family,
    /// Started command; its end is awaited, whatever it executes.
    command: Option<i32>,
    /// True if one of its processes ended by a fault.
    pub died_of_fault: bool,
    processes_not_covered: u64,
    /// Children that were not covered from birth.
    pub children: Children,
    /// Start of counting.
    pub armed: Instant,
    /// Duration of counting, once it is over.
    measured: Option<Duration>,
    read: Instant,
    /// Time with the probes off because the agent was stopped: until the last report, and in total.
    stopped_ns: (u64, u64),
    /// Cost of the probes at the last report, in nanoseconds.
    cost_ns: u64,
    seq: u64,
    returns: Returns,
    detach_ns: Option<u64>,
}

impl Session {
    /// Opens a process; nothing of it is measured yet.
    ///
    /// # Errors
    /// Fails if the process must not be measured, with the reason.
    pub fn open(line: &mut Line, pid: i32, wanted: &Wanted) -> Result<Self, SessionError> {
        let target = Target::open(line, pid, wanted.plan.allow_ptrace)?;
        let description = Self::check(line, &target, wanted).inspect_err(|_| target.forget(line))?;
        let now = Instant::now();
        Ok(Self {
            target,
            description,
            measurements: Vec::new(),
            refused: Vec::new(),
            pending: Vec::new(),
            python_pending: Vec::new(),
            seen: Vec::new(),
            look_again: now,
            closed: false,
            family: Family::of(pid),
            command: None,
            died_of_fault: false,
            processes_not_covered: 0,
            children: Children::default(),
            armed: now,
            measured: None,
            read: now,
            stopped_ns: (0, 0),
            cost_ns: 0,
            seq: 0,
            returns: wanted.plan.returns,
            detach_ns: None,
        })
    }

    /// Checks that the target may be measured, and describes it.
    fn check(line: &mut Line, target: &Target, wanted: &Wanted) -> Result<TargetReport, SessionError> {
        if wanted.plan.returns == Returns::Uretprobe {
            let images = target.images(line)?;
            if let Some(reason) = refusals::return_probes(line, target, &images) {
                return Err(SessionError::UnsafeReturns { pid: target.pid, reason });
            }
        }
        Ok(describe(line, target)?)
    }

    /// Returns true if something requested is not mapped yet.
    pub fn waits(&self) -> bool {
        !self.pending.is_empty() || !self.python_pending.is_empty()
    }

    /// Ties the session to a started command: it continues until the command has ended.
    pub fn belongs_to(&mut self, command: i32) {
        self.command = Some(command);
        self.family.accompany(command);
    }

    /// Returns true if anything is measured.
    pub fn measures(&self) -> bool {
        !self.measurements.is_empty()
    }

    /// Takes in that the process has ended, if no event reports it.
    pub fn lost(&mut self) {
        self.family.gone(self.target.pid, self.elapsed());
    }

    /// Stops waiting for images.
    pub fn stop_waiting(&mut self) {
        self.closed = true;
        self.pending.clear();
        self.python_pending.clear();
    }

    /// Returns true if the plan belongs to this session.
    pub fn owns(&self, plan: PlanId) -> bool {
        self.measurements.iter().any(|measurement| measurement.plan() == plan)
    }

    /// Returns true if the event is from the plan that was attached first.
    fn is_first(&self, told: &Told) -> bool {
        self.measurements.first().is_some_and(|measurement| measurement.plan() == told.plan)
    }

    /// Takes in an event from the guard; returns the reason to end, if the event is one.
    pub fn take(&mut self, told: &Told, notices: &mut dyn Notices) -> Option<Ended> {
        let (now, event) = (self.elapsed(), &told.event);
        match event {
            Event::Covered { pid, late_ns } => {
                self.family.covered(*pid, now);
                if self.is_first(told) {
                    self.children.uncovered_ns += late_ns;
                }
            }
            Event::NotCovered { pid, error } => {
                notices.say(format_args!("process {pid} is not covered: {error}"));
                self.processes_not_covered += 1;
                // A covered process lost its probes while the agent was stopped.
                self.uncovered(*pid, now);
            }
            // Each plan reports all children.
            Event::Missed { children, ns } if self.is_first(told) => {
                self.children.missed += u64::from(*children);
                self.children.uncovered_ns += ns;
            }
            Event::Missed { .. } => {}
            Event::NewCode => self.measurements.iter_mut().for_each(Measurement::attend),
            Event::Faulted { pid, fault, sites, took_ns } => {
                notices.say(format_args!("{}", faults::in_words(*pid, *fault, *sites, *took_ns)));
                self.died_of_fault |= !fault.handled;
                return Some(Ended::Fault);
            }
            Event::Ended { pid, status, .. } => {
                self.died_of_fault |= status.is_some_and(faults::ended);
                if self.family.contains(*pid)
                    && let Some(killed) = Killed::of(event, self.armed.elapsed())
                {
                    notices.say(format_args!(
                        "process {pid} was ended by SIGKILL soon after its probes came: {killed}"
                    ));
                }
                self.family.gone(*pid, now);
            }
            Event::Executed { pid, time_ns, gap } => {
                self.measurements.iter_mut().for_each(|measurement| measurement.executed(&self.family));
                self.family.executed(*pid, *time_ns, *gap, now);
            }
            Event::Traced { pid, tracer } => {
                notices.say(format_args!(
                    "process {pid} is traced by process {tracer} now, and breakpoints of a debugger must not meet probes: they \
                     are removed"
                ));
                return Some(Ended::Traced);
            }
            Event::MainThreadEnded { pid } => {
                notices.say(format_args!(
                    "the main thread of process {pid} has ended, and the kernel stops probes of this route \
                     with it; calls from here on are not measured (--route uprobe_multi can, from Linux 6.6)"
                ));
                self.family.gone(*pid, now);
            }
            Event::Replaced { pid } => {
                notices.say(format_args!(
                    "process {pid} executes another image now; its functions are no longer measured"
                ));
                // Its open calls are over, together with their image.
                self.uncovered(*pid, now);
                if *pid == self.target.pid && self.command != Some(*pid) {
                    return Some(Ended::Replaced);
                }
            }
            Event::OverBudget { ppm, of } => {
                let (pid, cost, bound) = (self.target.pid, percent_of(*ppm), notices.bound());
                match *of {
                    BudgetOf::Both { service, bound } => notices.say(format_args!(
                        "the probes in process {pid} cost {cost:.1} % of one CPU and those of the service {:.1} %, more than \
                         the {} % that its max_cost allows both; they are removed",
                        percent_of(service),
                        percent_of(bound)
                    )),
                    of => notices.say(format_args!(
                        "the probes in process {pid} cost {cost:.1} % of one CPU{}, more than {bound} allows; they are removed",
                        if of == BudgetOf::AllPlans { " together with all others" } else { "" }
                    )),
                }
                return Some(Ended::Budget);
            }
            Event::Sampled { ppm } => notices.say(format_args!(
                "the probes in process {} cost {:.1} % of one CPU, more than {} allows: it is measured in windows of {} ms from \
                 now on",
                self.target.pid,
                percent_of(*ppm),
                notices.bound(),
                WINDOW.as_millis()
            )),
            Event::Overrun { lost } => {
                notices.say(format_args!(
                    "process {} and its children did more than could be followed ({lost} events lost); its probes are removed",
                    self.target.pid
                ));
                return Some(Ended::Overrun);
            }
            Event::ImageChanged => {
                notices.say(format_args!(
                    "a file that process {} executes was written to or replaced; its probes are removed",
                    self.target.pid
                ));
                return Some(Ended::ImageChanged);
            }
            Event::Stopped { off_ns } => {
                self.stopped_ns.1 += off_ns;
                notices.say(format_args!(
                    "edgelat was stopped, and its probes in process {} were off for {:.1} s: calls from that time are not \
                     measured, and those that were inside count as abandoned",
                    self.target.pid,
                    *off_ns as f64 / 1e9
                ));
            }
        }
        self.family.is_empty().then_some(Ended::Target)
    }

    /// Takes in that a process is not measured any more. A command may return to a measured image.
    fn uncovered(&mut self, pid: i32, now: u64) {
        self.family.gone(pid, now);
        if self.command == Some(pid) {
            self.family.accompany(pid);
        }
    }

    /// Time from arming until now, or until disarming, in nanoseconds.
    fn elapsed(&self) -> u64 {
        nanoseconds(self.measured.unwrap_or_else(|| self.armed.elapsed()))
    }

    /// Part of that time in which the probes were on, as far as the agent controls it.
    fn measured_ns(&self) -> u64 {
        self.elapsed().saturating_sub(self.stopped_ns.1)
    }

    /// Cost of the probes so far, in nanoseconds; `None` if unknown.
    pub fn cost(&self) -> Option<u64> {
        self.measurements.iter().map(Measurement::cost_ns).sum()
    }

    /// Checks that every call of a Python function is seen: for a report, or between two after new
    /// functions have come. Returns a message if this check is the first to find hidden calls.
    pub fn look_at_python(&mut self, line: &mut Line, anyway: bool) -> Option<String> {
        let interpreters = self.measurements.iter_mut().find_map(Measurement::interpreters)?;
        let pid = self.target.pid;
        let mut pids: Vec<i32> = self.family.pids().collect();
        // The target first.
        pids.sort_unstable_by_key(|of| *of != pid);
        interpreters.look(line, self.target.id, &pids, anyway).then(|| notes::hidden(pid))
    }

    /// Number of requested Python names that no called function has.
    pub fn not_called(&self) -> Option<usize> {
        self.measurements.iter().find_map(Measurement::not_called)
    }

    /// Asks the guard for the cost of the probes so far and for the time that they add now.
    pub fn learn_costs(&mut self, line: &mut Line) {
        self.measurements.iter_mut().for_each(|measurement| measurement.learn_cost(line));
    }

    /// Hits of its probes that could not be attributed to a function.
    pub fn unattributed_hits(&self) -> u64 {
        self.measurements.iter().map(Measurement::unattributed_hits).sum()
    }

    /// Number of requested functions that are not measured.
    pub fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Reports the counts until now; with a reason, for the last time.
    pub fn report(&mut self, ended: Option<Ended>) -> Report {
        let since = match self.seq {
            0 => 0,
            _ => {
                nanoseconds(self.read.elapsed()).saturating_sub(self.stopped_ns.1 - self.stopped_ns.0).max(1)
            }
        };
        self.stopped_ns.0 = self.stopped_ns.1;
        self.read = Instant::now();
        let cost = self.cost();
        let before = std::mem::replace(&mut self.cost_ns, cost.unwrap_or(0));
        let cost_percent = cost.filter(|_| since > 0 || ended.is_some()).map(|cost| match ended {
            None => percent(cost.saturating_sub(before), Duration::from_nanos(since)),
            Some(_) => percent(cost, Duration::from_nanos(self.measured_ns())),
        });
        let mut functions: Vec<FunctionReport> = Vec::new();
        let whole = self.measured_ns();
        for measurement in &mut self.measurements {
            let from = functions.len();
            functions.extend_from_slice(measurement.read(&self.family, since));
            let covered_ns = whole.saturating_sub(measurement.off_ns());
            let window_ns = (measurement.off_ns() > 0).then(|| nanoseconds(WINDOW));
            for function in &mut functions[from..] {
                (function.covered_ns, function.window_ns) = (covered_ns, window_ns);
                if ended.is_some() {
                    // The last interval is of any length; a person wants the rate of it all.
                    function.rate_per_s = rate(function.entries, covered_ns);
                }
            }
        }
        let (processes, processes_left_out) = self.family.reports();
        let first = self.measurements.first();
        let session = first.is_some_and(|measurement| measurement.session);
        let report = Report {
            schema: SCHEMA,
            seq: self.seq,
            elapsed_ns: self.elapsed(),
            stopped_ns: self.stopped_ns.1,
            last: ended.is_some(),
            ended,
            target: self.description.clone(),
            route: first.map_or("none", |measurement| measurement.route.name()),
            returns: match (self.returns, session) {
                (Returns::Ret, _) => "ret",
                (Returns::Uretprobe, true) => "uretprobe session",
                (Returns::Uretprobe, false) => "uretprobe",
            },
            sites: self.measurements.iter().map(|measurement| measurement.sites).sum(),
            attach_ns: self.measurements.iter().map(|measurement| measurement.attach_ns).sum(),
            detach_ns: self.detach_ns,
            processes,
            processes_left_out,
            processes_not_covered: self.processes_not_covered,
            children_missed: self.children.missed,
            children_uncovered_ns: self.children.uncovered_ns,
            functions,
            python: self.measurements.iter().find_map(Measurement::python),
            cost_percent,
            unattributed_hits: self.unattributed_hits(),
            refused: self.refused.clone(),
        };
        self.seq += 1;
        report
    }

    /// Description of the target, for people and for quarantine.
    pub fn description(&self) -> &TargetReport {
        &self.description
    }

    /// Names of the measured functions.
    pub fn function_names(&self) -> Vec<String> {
        self.measurements.iter().flat_map(Measurement::names).map(str::to_owned).collect()
    }

    /// Stops counting, removes the probes and reads for the last time. The guard may refuse, or be
    /// gone: the counts are reported nevertheless.
    pub fn end(&mut self, line: &mut Line, ended: Ended) -> (Report, Option<GuardError>) {
        let mut failure = None;
        _ = self.look_at_python(line, true);
        self.measurements.iter_mut().filter_map(Measurement::interpreters).for_each(Interpreters::conclude);
        for measurement in &mut self.measurements {
            failure = measurement.disarm(line).err().or(failure);
            measurement.learn_cost(line);
        }
        // Nothing counts from here on, and the duration of the detach belongs to no rate.
        self.measured = Some(self.armed.elapsed());
        // Detaching waits until no program runs any more: figures read after it do not change.
        for measurement in &mut self.measurements {
            match measurement.detach(line) {
                Ok(ns) => *self.detach_ns.get_or_insert(0) += ns,
                Err(error) => failure = Some(error),
            }
        }
        (self.report(Some(ended)), failure)
    }
}

/// Millionths of one CPU as percent.
pub fn percent_of(ppm: u64) -> f64 {
    ppm as f64 / 1e4
}

fn describe(line: &mut Line, target: &Target) -> Result<TargetReport, GuardError> {
    let images = target.images(line)?;
    let executable = images.iter().find(|image| image.executable);
    let open = executable.map(|image| target.open_image(line, image)).transpose()?;
    Ok(TargetReport {
        pid: target.pid,
        start: target.start,
        user: target.user,
        exe: executable.map(|image| image.path.to_string()).unwrap_or_default(),
        build_id: open.and_then(|open| resolve::build_id_of(&open.file)),
    })
}
