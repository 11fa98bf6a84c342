//! Conversion of resolved functions into a plan that the guard holds.

use edgelat_guard::error::text;
use edgelat_guard::placement::TargetsOn;
use edgelat_guard::protocol::{AwaitPlan, OnSignal, PlanId, PlanOptions, PythonPlan, Reply, Request};
use edgelat_guard::{GuardError, Limits, Line};

use super::python::Sizes;
use super::resolve::{Resolved, ResolvedPython};
use super::target::Target;
use super::unexpected;

/// Begins a plan for functions whose sites follow. A plan with Python functions has `sizes`.
///
/// # Errors
/// Fails if the guard refuses the plan.
pub fn begin(
    line: &mut Line,
    target: &Target,
    resolved: &Resolved,
    options: Limits,
    sizes: Option<Sizes>,
) -> Result<PlanId, GuardError> {
    let rows = sizes.map_or(0, |sizes| sizes.rows);
    let options = PlanOptions {
        functions: resolved.functions.len() as u32 + rows,
        frames: options.frames,
        max_map_bytes: options.max_map_bytes,
        returns: options.returns,
        route: options.route,
        follow_forks: options.follow_forks,
        on_signal: options.on_signal.unwrap_or_else(|| usual(resolved)),
        targets_on: options.targets_on,
        python: resolved
            .python
            .as_ref()
            .zip(sizes)
            .map(|(python, sizes)| python_plan(python, sizes, options.targets_on)),
        max_cost_ppm: options.max_cost_ppm,
        sample: options.sample,
        pin: options.pin,
    };
    match line.call(&Request::BeginPlan { target: target.id, options })? {
        (Reply::Plan { plan }, _) => Ok(plan),
        _ => Err(unexpected()),
    }
}

/// Adds the function's name to an error of the guard, which knows only the number.
pub fn named(error: GuardError, resolved: &Resolved) -> GuardError {
    let name = |function: u32| {
        let found = resolved.functions.get(function as usize).map(|function| function.name.as_str());
        text(found.unwrap_or("the evaluation loop of Python"))
    };
    match error {
        GuardError::Unfit { pid, function, why, .. } => {
            GuardError::Unfit { pid, function, name: name(function), why }
        }
        GuardError::NotArmed { pid, function, missing, sites, route, .. } => {
            GuardError::NotArmed { pid, function, name: name(function), missing, sites, route }
        }
        error => error,
    }
}

/// Returns the default: Go's runtime turns faults into panics, recovers from them, and has a
/// handler for each signal. In other programs a handled fault is still a fault.
fn usual(resolved: &Resolved) -> OnSignal {
    let of_go = |language: &str| language.starts_with(edgelat_image::Language::Go.name());
    match resolved.functions.iter().any(|function| of_go(function.language)) {
        true => OnSignal::Fatal,
        false => OnSignal::Any,
    }
}

fn python_plan(python: &ResolvedPython, sizes: Sizes, targets_on: TargetsOn) -> PythonPlan {
    let layout = &python.interpreter.layout;
    PythonPlan {
        rows: sizes.rows,
        slots: sizes.slots,
        sets: sizes.sets,
        texts: sizes.texts,
        frame_argument: layout.frame_argument,
        frame_code: layout.frame_code,
        code_marks: layout.code_marks,
        frame_owner: layout.frame_owner,
        code_file: layout.code_file,
        code_name: layout.code_name,
        code_flags: layout.code_flags,
        code_line: layout.code_line,
        text: layout.text,
        wide_text: layout.wide_text,
        counts_only: python.counts_only,
        awaits: python.awaits(targets_on).map(|awaits| AwaitPlan {
            sets: sizes.awaits,
            frame_position: awaits.position,
            code_first: awaits.code_first,
            frame_state: awaits.state,
            ended: awaits.ended,
        }),
    }
}
