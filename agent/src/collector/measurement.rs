//! One loaded plan: its life from the guard's `Load` to `Detach`, and the reading of its counts.

use std::time::Duration;

use edgelat_bpf::{Codes, Frames, MapError, RowTotals, Rows};
use edgelat_guard::error::text;
use edgelat_guard::protocol::{Bias, PlanId, Reply, Request, Returns, Route};
use edgelat_guard::{GuardError, Limits, Line};

use super::examine::{self, Refused};
use super::family::Family;
use super::hand_over::hand_over;
use super::interpreters::Interpreters;
use super::plan;
use super::python::{Label, Lost, Python, Sizes};
use super::report::{FunctionReport, PythonReport};
use super::resolve::{Resolved, ResolvedPython, Steppings};
use super::session::SessionError;
use super::target::Target;
use super::unexpected;

/// A time that was covered for less tells no rate, in nanoseconds: guard and collector read their clocks one after the other.
const LEAST_COVERED_NS: u64 = 5_000_000;

/// A plan in the kernel.
#[derive(Debug)]
pub struct Measurement {
    plan: PlanId,
    rows: Rows,
    /// `None` if the programs count the calls inside themselves.
    frames: Option<Frames>,
    /// Route of the probes.
    pub route: Route,
    /// True if a session detects returns.
    pub session: bool,
    /// Probes in one process.
    pub sites: u32,
    /// Duration of the attach in nanoseconds.
    pub attach_ns: u64,
    functions: Vec<FunctionReport>,
    /// Execution modes of the sites of each function.
    steppings: Vec<Steppings>,
    /// Nanoseconds that the probes of one process add to a duration of each; empty before measured.
    biases: Vec<Option<u64>>,
    /// Cost of the probes at the last query of the guard, in nanoseconds.
    cost_ns: Option<u64>,
    /// Time without probes because of their cost, in nanoseconds: until the last reading, and in all.
    off_ns: (u64, u64),
    returns: Returns,
    /// Calls of each function that ended inside with their image, if frames are not visible.
    over: Vec<u64>,
    python: Option<PythonPart>,
}

/// Python functions in a plan: their reports follow those of the other functions.
#[derive(Debug)]
struct PythonPart {
    functions: Python,
    version: String,
    interpreters: Interpreters,
    counts_only: bool,
    steppings: Steppings,
    /// Bias with the links of one process.
    bias_alone_ns: Option<u64>,
    bias_ns: Option<u64>,
    /// Calls of all functions at the last reading, and calls that are in no account.
    calls: u64,
    lost: Lost,
}

impl Measurement {
    /// Hands the functions to the guard, which loads and attaches them, switched off. Functions
    /// that the target's memory does not allow move from `resolved` to `refused`.
    ///
    /// # Errors
    /// Fails if the guard refuses a request.
    pub fn attach(
        line: &mut Line,
        target: &Target,
        resolved: &mut Resolved,
        options: Limits,
        refused: &mut Refused,
    ) -> Result<Self, SessionError> {
        let sizes = resolved.python.as_ref().map(|_| Sizes::within(options.max_map_bytes));
        loop {
            let plan = plan::begin(line, target, resolved, options, sizes)?;
            // The guard holds a plan from here on; if a step fails, the plan must not stay.
            let attached = hand_over(line, plan, resolved, options.returns)
                .map_err(SessionError::from)
                .and_then(|()| examine::sift(line, target.pid, plan, resolved))
                .and_then(|out| match out.is_empty() {
                    true => Self::attach_plan(line, plan, resolved, options, sizes)
                        .map(Ok)
                        .map_err(|error| plan::named(error, resolved).into()),
                    false => Ok(Err(out)),
                });
            if !matches!(attached, Ok(Ok(_))) {
                _ = line.call(&Request::Detach { plan });
            }
            match attached? {
                Ok(measurement) => return Ok(measurement),
                // The function numbers have changed: the next plan has the remaining functions.
                Err(out) => refused.add(out),
            }
        }
    }

    fn attach_plan(
        line: &mut Line,
        plan: PlanId,
        resolved: &Resolved,
        options: Limits,
        sizes: Option<Sizes>,
    ) -> Result<Self, GuardError> {
        let (reply, mut descriptors) = line.call(&Request::Load { plan })?;
        let Reply::Loaded { lanes, rows, frame_sets, maps_frames, route, session, code_slots } = reply else {
            return Err(unexpected());
        };
        let unmapped = |error: MapError| GuardError::Map { reason: text(error) };
        let of_python = if code_slots > 0 { 3 } else { 0 };
        if descriptors.len() != 1 + usize::from(maps_frames) + of_python {
            return Err(GuardError::Map { reason: text("a descriptor is missing") });
        }
        let python_maps = descriptors.split_off(1 + usize::from(maps_frames));
        let python = match (resolved.python.as_ref().zip(sizes), python_maps.as_slice()) {
            (Some((python, sizes)), [slots, pool, texts]) => {
                let codes = Codes::map((slots, sizes.slots as usize), pool, (texts, sizes.texts as usize))
                    .map_err(unmapped)?;
                let rows = (resolved.functions.len() as u32, sizes.rows);
                Some(PythonPart::new(python, codes, rows, python.awaits(options.targets_on).is_some()))
            }
            _ => None,
        };
        let frames = match maps_frames {
            true => {
                let fd = descriptors.remove(1);
                Some(Frames::map(fd, frame_sets as usize).map_err(unmapped)?)
            }
            false => None,
        };
        let rows = Rows::map(descriptors.remove(0), rows as usize, lanes as usize).map_err(unmapped)?;
        let (Reply::Attached { sites, took_ns }, _) = line.call(&Request::Attach { plan })? else {
            return Err(GuardError::Order { what: text("attach was not answered") });
        };
        let functions = resolved.functions.iter().map(|function| {
            let mut report = FunctionReport::new(function.name.clone(), function.image_path.clone());
            report.until_tail_call = function.until_tail_call && options.returns == Returns::Ret;
            report.exceptions = (function.unwound && options.returns == Returns::Ret).then_some(0);
            report.inlined_copies = function.inlined;
            report.language = function.language;
            let image = resolved.images.iter().find(|image| image.id == function.image);
            let build_id = image.and_then(|image| image.build_id.as_ref());
            report.build_id = build_id.cloned().unwrap_or_default();
            report
        });
        let functions = functions.collect();
        let steppings = resolved.functions.iter().map(|function| function.steppings).collect();
        let returns = options.returns;
        Ok(Self {
            plan,
            rows,
            frames,
            route,
            session,
            sites,
            attach_ns: took_ns,
            functions,
            steppings,
            biases: Vec::new(),
            cost_ns: None,
            off_ns: (0, 0),
            returns,
            over: Vec::new(),
            python,
        })
    }

    /// Takes in Python functions that were called for the first time.
    pub fn attend(&mut self) {
        if let Some(python) = &mut self.python {
            python.functions.attend(&self.rows);
        }
    }

    /// Interpreters of the processes, if Python functions are measured.
    pub fn interpreters(&mut self) -> Option<&mut Interpreters> {
        self.python.as_mut().map(|python| &mut python.interpreters)
    }

    /// Number of requested Python names that no called function has.
    pub fn not_called(&self) -> Option<usize> {
        Some(self.python.as_ref()?.functions.not_called().count())
    }

    /// State of the target's Python, if its functions are measured.
    pub fn python(&self) -> Option<PythonReport> {
        let python = self.python.as_ref()?;
        let (interpreters, interpreters_from_c) = python.interpreters.counted().unzip();
        Some(PythonReport {
            version: python.version.clone(),
            every_call: python.interpreters.every_call(),
            interpreters,
            interpreters_from_c,
            partial_method: python.interpreters.bypassing(),
            not_called: python.functions.not_called().map(ToString::to_string).collect(),
            counts_only: python.counts_only,
            calls: python.calls,
            no_room: python.lost.no_room,
            unreadable: python.lost.unreadable,
            unnamed: python.lost.unnamed,
        })
    }

    /// Cost of the probes at the last query of the guard, in nanoseconds; `None` before that.
    pub fn cost_ns(&self) -> Option<u64> {
        self.cost_ns
    }

    /// Asks the guard for the cost of the probes so far, and for the time that they add to
    /// durations with the current number of processes. Without an answer the known values stay.
    pub fn learn_cost(&mut self, line: &mut Line) {
        let Ok((Reply::Cost { cost_ns, more_bias_ns, off_ns }, _)) =
            line.call(&Request::Cost { plan: self.plan })
        else {
            return;
        };
        (self.cost_ns, self.off_ns.1) = (cost_ns, off_ns);
        let with = |alone: Option<u64>| alone.map(|ns| ns + more_bias_ns);
        for (report, alone) in self.functions.iter_mut().zip(&self.biases) {
            report.bias_ns = with(*alone);
        }
        if let Some(python) = &mut self.python {
            python.bias_ns = with(python.bias_alone_ns);
            for report in self.functions.iter_mut().skip(self.steppings.len()).filter(|report| !report.whole)
            {
                report.bias_ns = python.bias_ns;
            }
        }
    }

    /// Time without probes because of their cost, until the guard was last asked, in nanoseconds.
    pub fn off_ns(&self) -> u64 {
        self.off_ns.1
    }

    /// The guard's number for the plan.
    pub fn plan(&self) -> PlanId {
        self.plan
    }

    /// Names of the functions requested by name; Python functions appear while they are called.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.functions.iter().take(self.steppings.len()).map(|report| report.name.as_str())
    }

    /// Starts counting.
    ///
    /// # Errors
    /// Fails if the guard refuses.
    pub fn arm(&self, line: &mut Line) -> Result<(), GuardError> {
        line.call(&Request::Arm { plan: self.plan }).map(drop)
    }

    /// Has the guard measure the time that the probes themselves add. Takes some tenths of a
    /// second, and can run during counting.
    ///
    /// # Errors
    /// Fails if the guard refuses.
    pub fn calibrate(&mut self, line: &mut Line) -> Result<(), GuardError> {
        match line.call(&Request::Calibrate { plan: self.plan })? {
            (Reply::Calibrated { bias, .. }, _) => {
                self.biases =
                    self.steppings.iter().map(|kinds| of_kind(&bias, *kinds, self.returns)).collect();
                if let Some(python) = &mut self.python {
                    python.bias_alone_ns = of_kind(&bias, python.steppings, self.returns);
                }
                self.learn_cost(line);
                Ok(())
            }
            _ => Err(unexpected()),
        }
    }

    /// Stops counting. Calls that are inside now stay in flight.
    ///
    /// # Errors
    /// Fails if the guard refuses.
    pub fn disarm(&self, line: &mut Line) -> Result<(), GuardError> {
        line.call(&Request::Disarm { plan: self.plan }).map(drop)
    }

    /// Removes the probes; the rows can still be read. Returns the duration in nanoseconds.
    ///
    /// # Errors
    /// Fails if the guard refuses.
    pub fn detach(&mut self, line: &mut Line) -> Result<u64, GuardError> {
        match line.call(&Request::Detach { plan: self.plan })? {
            (Reply::Detached { took_ns, cost_ns }, _) => {
                self.cost_ns = cost_ns.or(self.cost_ns);
                Ok(took_ns)
            }
            _ => Err(unexpected()),
        }
    }

    /// Probe hits at unknown addresses and calls of unknown Python functions, in no account. The
    /// former occur briefly if a library is mapped again elsewhere and probes carry no cookie.
    pub fn unattributed_hits(&self) -> u64 {
        let unknown = self.rows.functions().checked_sub(1).map_or(0, |last| self.rows.entries(last));
        // Values from the reading of the functions: both are in one report.
        unknown + self.python.as_ref().map_or(0, |python| python.lost.sum())
    }

    /// Takes in that a process executes its image anew, which ends its calls. Frames identify these
    /// calls. If frames are not visible, the calls are known only if the process is the only one.
    pub fn executed(&mut self, family: &Family) {
        if self.frames.is_none() && family.len() == 1 {
            let rows = 0..self.steppings.len();
            self.over = rows.map(|row| unseen_inside(self.session, &self.rows.read(row))).collect();
        }
    }

    /// Reads all functions. Calls that can no longer run in a process of `family` ended with it.
    /// `since_ns` is the time since the previous reading, for the rates.
    pub fn read(&mut self, family: &Family, since_ns: u64) -> &[FunctionReport] {
        self.attend();
        let off_ns = self.off_ns.1 - std::mem::replace(&mut self.off_ns.0, self.off_ns.1);
        // A time without a window tells no rate: the last one stands.
        let rate_ns =
            Some(since_ns.saturating_sub(off_ns)).filter(|ns| off_ns == 0 || *ns >= LEAST_COVERED_NS);
        let natives = self.steppings.len();
        if let Some(python) = &mut self.python {
            python.calls = python.functions.calls(&self.rows);
            python.lost = python.functions.lost(&self.rows);
            self.functions.extend(python.new_reports(self.functions.len() - natives));
        }
        let mut inside = vec![(0u64, 0u64); self.functions.len()];
        if let Some(frames) = &self.frames {
            for frame in frames.occupied() {
                let label = self.python.as_ref().and_then(|python| python.functions.label_of(&frame));
                let index = match label {
                    Some(label) => natives + label,
                    // The rows of Python and of the calibration follow those of the others.
                    None if (frame.function as usize) < natives => frame.function as usize,
                    None => continue,
                };
                if let Some((in_flight, ended)) = inside.get_mut(index) {
                    match family.runs(frame.tgid as i32, frame.start_ns) {
                        true => *in_flight += 1,
                        false => *ended += 1,
                    }
                }
            }
        }
        // A session stores only a time, and the cost of a hit has to be known.
        let probes_known = !self.session && self.cost_ns.is_some();
        let (native_reports, python_reports) = self.functions.split_at_mut(natives);
        if let Some(part) = &self.python {
            let totals = part.functions.totals(&self.rows);
            for (label, (report, (totals, unresolved))) in python_reports.iter_mut().zip(totals).enumerate() {
                report.lost.unresolved = unresolved;
                report.partial = part.interpreters.partial(&report.name);
                fill(report, &totals, inside[natives + label], rate_ns, probes_known);
            }
        }
        for (index, report) in native_reports.iter_mut().enumerate() {
            // An unchanged row keeps its figures; the expensive part is reading its buckets.
            let moved = self.frames.is_none()
                || since_ns == 0
                || report.unsettled
                || report.in_flight != 0
                || inside[index] != (0, report.lost.ended_inside)
                || report.entries != self.rows.entries(index)
                || report.unmatched_exits != self.rows.unmatched(index);
            if !moved {
                report.rate_per_s = rate_ns.map_or(report.rate_per_s, |_| 0.0);
                continue;
            }
            let totals = self.rows.read(index);
            let (mut in_flight, mut ended_inside) = inside[index];
            if self.frames.is_none() {
                let inside = unseen_inside(self.session, &totals);
                // Over all processes: the process of each call is unknown.
                ended_inside = match family.is_empty() {
                    true => inside,
                    false => inside.min(self.over.get(index).copied().unwrap_or(0)),
                };
                in_flight = inside - ended_inside;
            }
            fill(report, &totals, (in_flight, ended_inside), rate_ns, probes_known);
        }
        &self.functions
    }
}

/// Number of calls inside, if their frames are not visible.
fn unseen_inside(session: bool, totals: &RowTotals) -> u64 {
    match session {
        // The kernel does not expose the frames of a session: calls that did not return are inside.
        true => totals.entries.saturating_sub(totals.exits() + totals.lost()),
        false => u64::try_from(totals.inside).unwrap_or(0),
    }
}

impl PythonPart {
    fn new(python: &ResolvedPython, codes: Codes, rows: (u32, u32), awaits: bool) -> Self {
        let interpreter = &python.interpreter;
        let qualified = interpreter.minor >= 11;
        Self {
            functions: Python::new(
                codes,
                interpreter.layout,
                qualified,
                python.patterns.clone(),
                rows,
                awaits,
            ),
            version: format!("3.{}", interpreter.minor),
            interpreters: python.interpreters.clone(),
            counts_only: python.counts_only,
            steppings: python.steppings,
            bias_alone_ns: None,
            bias_ns: None,
            calls: 0,
            lost: Lost::default(),
        }
    }

    /// Reports of the functions from number `from` on.
    fn new_reports(&self, from: usize) -> Vec<FunctionReport> {
        let report = |label: &Label| {
            let mut report = FunctionReport::new(label.name.clone(), label.file.clone());
            report.language = "python";
            report.line = Some(label.line);
            report.resumes = label.resumes;
            report.whole = label.whole;
            // Each resume adds to an await, and the number of resumes is not kept.
            report.bias_ns = self.bias_ns.filter(|_| !label.whole);
            report
        };
        self.functions.labels().iter().skip(from).map(report).collect()
    }
}

/// Share of one CPU's time that `cost_ns` is, in percent to one decimal.
pub fn percent(cost_ns: u64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    (cost_ns as f64 / time.as_nanos() as f64 * 1000.0).round() / 10.0
}

/// Calls per second to one decimal.
pub fn rate(calls: u64, ns: u64) -> f64 {
    if ns == 0 { 0.0 } else { (calls as f64 * 1e10 / ns as f64).round() / 10.0 }
}

fn fill(
    report: &mut FunctionReport,
    totals: &RowTotals,
    (in_flight, ended_inside): (u64, u64),
    rate_ns: Option<u64>,
    probes_known: bool,
) {
    let histogram = totals.histogram();
    let new = totals.entries.saturating_sub(report.entries);
    report.rate_per_s = rate_ns.map_or(report.rate_per_s, |ns| rate(new, ns));
    report.entries = totals.entries;
    report.exits = totals.exits();
    report.in_flight = in_flight;
    report.exceptions = report.exceptions.map(|_| totals.unwound);
    report.lost.abandoned = totals.abandoned;
    report.lost.cut = totals.cut;
    report.lost.evicted = totals.evicted;
    report.lost.over_range = totals.over_range;
    report.lost.table_full = totals.table_full;
    report.lost.unkeyed = totals.unkeyed;
    report.lost.ended_inside = ended_inside;
    report.unmatched_exits = totals.unmatched;
    report.count = histogram.count();
    report.sum_ns = totals.sum_ns;
    report.min_ns = histogram.min_ns();
    report.p50_ns = histogram.quantile(0.5);
    report.p90_ns = histogram.quantile(0.9);
    report.p99_ns = histogram.quantile(0.99);
    report.p999_ns = histogram.quantile(0.999);
    report.max_ns = histogram.max_ns();
    report.zero_count = totals.zero;
    report.buckets = histogram.occupied().collect();
    report.suspended_ns = report.whole.then_some(totals.suspended_ns);
    let probes_known = probes_known && !report.whole;
    report.take_probes(probes_known.then_some((totals.probes_inside_ns, totals.probes_unknown)));
    report.unsettled = totals.unsettled || !report.settled();
}

fn of_kind(costs: &Bias, steppings: Steppings, returns: Returns) -> Option<u64> {
    costs.of(steppings.entry_stepped, steppings.exit_stepped, returns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_that_of_one_cpu() {
        assert_eq!(percent(2_500_000, Duration::from_secs(1)), 0.3);
        assert_eq!(percent(3_000_000_000, Duration::from_secs(1)), 300.0);
        assert_eq!(percent(1, Duration::ZERO), 0.0);
    }
}
