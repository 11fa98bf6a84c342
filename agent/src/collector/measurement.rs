//! One loaded plan: its life from the guard's `Load` to `Detach`, and reading what it counted.

use std::collections::BTreeSet;

use edgelat_bpf::{Frames, MapError, Rows};
use edgelat_guard::GuardError;
use edgelat_guard::error::text;
use edgelat_guard::protocol::{
    Bias, Line, PlanId, PlanOptions, PlanSite, Reply, Request, Returns, Route, SITES,
};

use super::report::FunctionReport;
use super::resolve::{Resolved, Steppings};
use super::target::Target;
use super::unexpected;

/// What a plan is made with.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Frames of the frame table.
    pub frames: u32,
    /// Bound for the arrays in bytes.
    pub max_map_bytes: u64,
    /// How returns are seen.
    pub returns: Returns,
    /// The route, if it was named.
    pub route: Option<Route>,
    /// Attach children as well.
    pub follow_forks: bool,
}

/// A plan in the kernel.
#[derive(Debug)]
pub struct Measurement {
    plan: PlanId,
    rows: Rows,
    /// `None` where the programs count the calls inside themselves.
    frames: Option<Frames>,
    /// The route that was taken.
    pub route: Route,
    /// Returns are seen by a session.
    pub session: bool,
    /// Probes of one process.
    pub sites: u32,
    /// Time that attaching took.
    pub attach_ns: u64,
    functions: Vec<FunctionReport>,
    /// Of each function.
    steppings: Vec<Steppings>,
    returns: Returns,
}

impl Measurement {
    /// Hands the functions to the guard and has them loaded and attached, switched off.
    ///
    /// # Errors
    /// Whatever the guard refuses.
    pub fn attach(
        line: &mut Line,
        target: &Target,
        resolved: &Resolved,
        options: Options,
    ) -> Result<Self, GuardError> {
        let count = resolved.functions.len();
        let plan_options = PlanOptions {
            functions: count as u32,
            frames: options.frames,
            max_map_bytes: options.max_map_bytes,
            returns: options.returns,
            route: options.route,
            follow_forks: options.follow_forks,
        };
        let begun = line.call(&Request::BeginPlan { target: target.id, options: plan_options })?;
        let (Reply::Plan { plan }, _) = begun else { return Err(unexpected(&begun.0)) };
        // From here on the guard holds a plan; if a step fails it must not stay.
        let measurement = Self::attach_plan(line, plan, resolved, options);
        if measurement.is_err() {
            _ = line.call(&Request::Detach { plan });
        }
        measurement
    }

    fn attach_plan(
        line: &mut Line,
        plan: PlanId,
        resolved: &Resolved,
        options: Options,
    ) -> Result<Self, GuardError> {
        hand_over(line, plan, resolved, options.returns)?;
        let (reply, mut descriptors) = line.call(&Request::Load { plan })?;
        let Reply::Loaded { lanes, rows, frame_sets, maps_frames, route, session } = reply else {
            return Err(unexpected(&reply));
        };
        let unmapped = |error: MapError| GuardError::Map { reason: text(error) };
        if descriptors.len() != 1 + usize::from(maps_frames) {
            return Err(GuardError::Map { reason: text("a descriptor is missing") });
        }
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
            returns,
        })
    }

    /// Counts from now on.
    ///
    /// # Errors
    /// When the guard refuses.
    pub fn arm(&self, line: &mut Line) -> Result<(), GuardError> {
        line.call(&Request::Arm { plan: self.plan }).map(drop)
    }

    /// Has the guard measure what the probes themselves add. Takes some tenths of a second, and can be done while
    /// everything counts.
    ///
    /// # Errors
    /// When the guard refuses.
    pub fn calibrate(&mut self, line: &mut Line) -> Result<(), GuardError> {
        match line.call(&Request::Calibrate { plan: self.plan })? {
            (Reply::Calibrated(bias), _) => {
                for (report, steppings) in self.functions.iter_mut().zip(&self.steppings) {
                    report.bias_ns = bias_of(&bias, *steppings, self.returns);
                }
                Ok(())
            }
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// Counts no more. What is inside now stays in flight.
    ///
    /// # Errors
    /// When the guard refuses.
    pub fn disarm(&self, line: &mut Line) -> Result<(), GuardError> {
        line.call(&Request::Disarm { plan: self.plan }).map(drop)
    }

    /// Removes the probes; the rows can still be read. Returns the time it took in nanoseconds.
    ///
    /// # Errors
    /// When the guard refuses.
    pub fn detach(&self, line: &mut Line) -> Result<u64, GuardError> {
        match line.call(&Request::Detach { plan: self.plan })? {
            (Reply::Detached { took_ns }, _) => Ok(took_ns),
            (reply, _) => Err(unexpected(&reply)),
        }
    }

    /// Hits of probes at addresses that were not known yet: calls that are in no account. They happen for a
    /// moment where a library is mapped again elsewhere and probes carry no cookie.
    pub fn unattributed_hits(&self) -> u64 {
        self.rows.functions().checked_sub(1).map_or(0, |last| self.rows.entries(last))
    }

    /// Reads all functions. Processes that are not in `alive` have ended, and calls inside them with them.
    /// `since_ns` is the time since the reading before, for the rates.
    pub fn read(&mut self, alive: &BTreeSet<i32>, since_ns: u64) -> &[FunctionReport] {
        let mut inside = vec![(0u64, 0u64); self.functions.len()];
        if let Some(frames) = &self.frames {
            for frame in frames.occupied() {
                // The rows of the calibration stand behind those of the functions.
                if let Some((in_flight, ended)) = inside.get_mut(frame.function as usize) {
                    match alive.contains(&(frame.tgid as i32)) {
                        true => *in_flight += 1,
                        false => *ended += 1,
                    }
                }
            }
        }
        for (index, report) in self.functions.iter_mut().enumerate() {
            // A row that did not move is as it was; reading its buckets is what costs.
            let moved = self.frames.is_none()
                || since_ns == 0
                || report.unsettled
                || report.in_flight != 0
                || inside[index] != (0, report.lost.ended_inside)
                || report.entries != self.rows.entries(index)
                || report.unmatched_exits != self.rows.unmatched(index);
            if !moved {
                report.rate_per_s = 0.0;
                continue;
            }
            let totals = self.rows.read(index);
            let (mut in_flight, mut ended_inside) = inside[index];
            if self.frames.is_none() {
                let inside = match self.session {
                    // The kernel keeps the frames of a session and tells nobody: what did not come back is inside.
                    true => totals.entries.saturating_sub(totals.exits() + totals.over_range),
                    false => u64::try_from(totals.inside).unwrap_or(0),
                };
                // Over all processes; which one a call is in is not known.
                match alive.is_empty() {
                    true => ended_inside = inside,
                    false => in_flight = inside,
                }
            }
            fill(report, &totals, in_flight, ended_inside, since_ns);
        }
        &self.functions
    }
}

/// Calls a second to one decimal.
pub fn rate(calls: u64, ns: u64) -> f64 {
    if ns == 0 { 0.0 } else { (calls as f64 * 1e10 / ns as f64).round() / 10.0 }
}

fn fill(
    report: &mut FunctionReport,
    totals: &edgelat_bpf::RowTotals,
    in_flight: u64,
    ended_inside: u64,
    since_ns: u64,
) {
    let histogram = totals.histogram();
    let new = totals.entries.saturating_sub(report.entries);
    report.rate_per_s = rate(new, since_ns);
    report.entries = totals.entries;
    report.exits = totals.exits();
    report.in_flight = in_flight;
    report.lost.abandoned = totals.abandoned;
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
    report.unsettled = totals.unsettled || !report.settled();
}

/// Sends sites and build-ids to the guard.
fn hand_over(line: &mut Line, plan: PlanId, resolved: &Resolved, returns: Returns) -> Result<(), GuardError> {
    for image in &resolved.images {
        if let Some((offset, bytes)) = &image.build_id
            && let Ok(bytes) = heapless::Vec::from_slice(bytes)
        {
            line.call(&Request::PlanBuildId { plan, image: image.id, offset: *offset, bytes })?;
        }
        let sites: Vec<PlanSite> = resolved
            .functions
            .iter()
            .enumerate()
            .filter(|(_, function)| function.image == image.id)
            .flat_map(|(row, function)| {
                let wanted = function.sites.iter().filter(|site| returns == Returns::Ret || !site.exit);
                wanted.map(move |site| PlanSite { cookie: site.cookie | row as u64, ..*site })
            })
            .collect();
        for sites in sites.chunks(SITES) {
            // A chunk is never longer than the capacity.
            let sites = heapless::Vec::from_slice(sites).map_err(|_| GuardError::Message)?;
            line.call(&Request::PlanSites { plan, image: image.id, sites })?;
        }
    }
    Ok(())
}

fn bias_of(bias: &Bias, steppings: Steppings, returns: Returns) -> Option<u64> {
    // A return probe is what the calibration's function with an emulated exit was measured with.
    let exit_stepped = steppings.exit_stepped && returns == Returns::Ret;
    match (steppings.entry_stepped, exit_stepped) {
        (false, false) => bias.emulated_emulated_ns,
        (false, true) => bias.emulated_stepped_ns,
        (true, false) => bias.stepped_emulated_ns,
        (true, true) => bias.stepped_stepped_ns,
    }
}
