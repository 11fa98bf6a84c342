//! Notes for the user before the figures: visible calls of a target, and meaning of the figures.

use std::fmt;
use std::time::Duration;

use edgelat_guard::placement::TargetsOn;
use edgelat_guard::protocol::Event;
use nix::sys::signal::Signal;

use super::examine::{NO_HEADROOM, Refused};
use super::report::RefusedReport;
use super::resolve::{Function, ResolvedPython};
use super::session::Notices;

/// Notes on functions that the target's memory does not allow; those without room may be thousands.
pub fn of_refused(refused: &Refused, notices: &mut dyn Notices) {
    let has_room = |function: &&RefusedReport| function.reason != NO_HEADROOM;
    for function in refused.functions.iter().filter(has_room) {
        notices.say(format_args!("not measured: {}: {}", function.name, function.text));
    }
    if let Some(error) = &refused.no_room {
        let left_out = refused.functions.iter().filter(|function| !has_room(function)).count();
        notices.say(format_args!(
            "not measured: the last {left_out} functions of those that were named: {error}"
        ));
    }
}

/// Maximum number of function names in one note.
const NAMED: usize = 3;

/// Notes on functions with inlined copies in others.
pub fn of_inlined(functions: &[Function], notices: &mut dyn Notices) {
    for function in functions.iter().filter(|_| cfg!(feature = "inlined")) {
        if let Some(copies) = function.inlined.filter(|copies| *copies > 0) {
            let places = if copies == 1 { "1 place" } else { &format!("{copies} places") };
            notices.say(format_args!(
                "{}: the compiler put it into others at {places} (inlined), whose calls no probe sees; `edgelat functions` \
                 marks such functions",
                function.name
            ));
        }
    }
}

/// Note on functions whose calls are measured up to a jump. `unsafe_because` is the reason against
/// return probes; `None` if they are safe.
pub fn of_tails(functions: &[Function], unsafe_because: Option<&str>, notices: &mut dyn Notices) {
    let until: Vec<&str> = functions
        .iter()
        .filter(|function| function.until_tail_call)
        .map(|function| &*function.name)
        .collect();
    let named = until[..until.len().min(NAMED)].join(", ");
    let more = match until.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let next = match unsafe_because {
        None => "`--returns uretprobe` measures them to the end".to_owned(),
        Some(reason) => format!("`--returns uretprobe` is unsafe here: {reason}"),
    };
    notices.say(format_args!("measured up to a jump into another function: {named}{more}; {next}"));
}

/// Notes on a Python interpreter whose functions are measured.
pub fn of_python(python: &ResolvedPython) -> impl Iterator<Item = String> {
    let greenlets = python.counts_only.then(|| {
        "it uses greenlets, whose frames cannot be told apart: calls are counted and not timed".to_owned()
    });
    let lock = "durations include waiting for the interpreter's lock";
    let whole = match python.awaits(TargetsOn::Any) {
        Some(_) => "`await NAME` is from the first resume to the return",
        None => "from the first resume to the return is not measured, as not every resume is seen",
    };
    let resumes = format!("{lock}; each resume of a generator or coroutine is a call; {whole}");
    [Some(visible_in(python)), greenlets, Some(resumes)].into_iter().flatten()
}

/// Note on the visible calls of an interpreter, and on a way to see more.
fn visible_in(python: &ResolvedPython) -> String {
    let (interpreter, state) = (&python.interpreter, &python.interpreters);
    if interpreter.sees_every_call() {
        return format!(
            "{interpreter}: every call is seen, under the function's own name (without its class)"
        );
    }
    if state.every_call() {
        let but = state.bypassing().map_or_else(String::new, |method| {
            format!(
                ", but for {method}: of its calls this version runs most inside of its loop, and figures are marked as a part"
            )
        });
        return format!(
            "{interpreter} with the support for perf or the like: every call is seen{but}; perf's writes /tmp/perf-PID.map, which \
             grows with each new function"
        );
    }
    if !state.known() {
        return format!(
            "{interpreter} has not started yet, or cannot be looked into: whether every call is seen is not known"
        );
    }
    let which = match state.counted() {
        Some((all, from_c)) if all > 1 => format!(" in {from_c} of its {all} interpreters"),
        _ => String::new(),
    };
    let way = match interpreter.has_perf_support() {
        true => format!(
            "start it with PYTHONPERFSUPPORT=1 in its environment, or with -X perf where that is ignored (-I, -E, frozen programs); \
             docs/PYTHON.md has other ways, also for interpreters that it makes itself; {PERF_AND_FORK}"
        ),
        false => {
            "Python has a switch for that from Python 3.12 on, and docs/PYTHON.md a way for 3.11".to_owned()
        }
    };
    format!(
        "{interpreter}: only calls from C are seen{which} (scripts, threads, callbacks), and figures are marked as a part of the \
         calls; to see every call, {way}"
    )
}

/// Note on a process of which not every call is seen, if that was not known before.
pub fn hidden(pid: i32) -> String {
    format!(
        "process {pid} or a child: an interpreter of Python shows only calls from C, and figures of functions are marked as a \
         part of the calls from here on. docs/PYTHON.md says how to see all, from 3.12 on by PYTHONPERFSUPPORT=1 in the environment"
    )
}

/// Bugs of CPython: gh-144766 appeared in 3.13.12 and was fixed in the next release; gh-149156 was
/// fixed in May 2026 on all maintained branches with perf support.
const PERF_AND_FORK: &str = "if it forks, use a Python released after May 2026: in older ones, above all in 3.13.12, this \
     setting itself may crash a child (gh-144766, gh-149156)";

/// SIGKILL of a process so soon after its probes came that they may be the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Killed {
    /// The OOM killer ended a process meanwhile.
    OutOfMemory,
    /// Another process sent the signal.
    Sent,
}

impl Killed {
    /// Time after the probes came in which a SIGKILL counts.
    pub const SOON: Duration = Duration::from_secs(10);

    /// Classifies an end that occurred this long after the probes came.
    pub fn of(event: &Event, after: Duration) -> Option<Self> {
        match event {
            Event::Ended { status: Some(status), out_of_memory, .. }
                if status & 0x7f == Signal::SIGKILL as u32 && after < Self::SOON =>
            {
                Some(if *out_of_memory { Self::OutOfMemory } else { Self::Sent })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfMemory => {
                "the OOM killer ran meanwhile, and probed pages of code count as memory of the process; choose fewer \
                 functions, or raise the memory limit of its control group"
            }
            Self::Sent => "another process sent it (the OOM killer did not run)",
        })
    }
}
