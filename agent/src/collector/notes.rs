//! What a person should know before the figures: what is visible of a target, and what the figures mean.

use super::resolve::ResolvedPython;

/// For an interpreter of Python whose functions are measured.
pub fn of_python(python: &ResolvedPython) -> impl Iterator<Item = String> {
    let greenlets = python.counts_only.then(|| {
        "it uses greenlets, whose frames cannot be told apart: calls are counted and not timed".to_owned()
    });
    let lock = "durations include waiting for the interpreter's lock; each resume of a generator or coroutine is a call";
    [Some(visible_in(python)), greenlets, Some(lock.to_owned())].into_iter().flatten()
}

/// Which calls of an interpreter can be seen, and how to see more.
fn visible_in(python: &ResolvedPython) -> String {
    let interpreter = &python.interpreter;
    match (python.every_call, interpreter.sees_every_call(), interpreter.has_perf_support()) {
        (true, true, _) => {
            format!("{interpreter}: every call is seen, under the function's own name (without its class)")
        }
        (true, false, _) => format!(
            "{interpreter} with the support for perf: every call is seen; it writes /tmp/perf-PID.map, which grows with \
             each new function"
        ),
        (false, _, true) => format!(
            "{interpreter}: only calls from C are seen (scripts, threads, callbacks); to see every call, start it with \
             PYTHONPERFSUPPORT=1 in its environment"
        ),
        (false, _, false) => format!(
            "{interpreter}: only calls from C are seen (scripts, threads, callbacks); from Python 3.12 on, \
             PYTHONPERFSUPPORT=1 in the environment makes every call visible"
        ),
    }
}
