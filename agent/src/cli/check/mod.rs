//! `edgelat check`: reports if this machine can measure, and if not, what is missing; for a
//! process, what can be measured.

mod config;
mod target;

use std::io::Write;

use edgelat_guard::check::{Finding, State};
use edgelat_guard::{Asked, Guard};
use serde::Serialize;

use super::{
    exit::Exit,
    failure::Failure,
    guarded::guarded,
    output::{PrintError, Style, to_stdout},
    parse::CheckOptions,
};

/// Prints the findings. The exit status indicates to a script if `watch` would work.
///
/// # Errors
/// If the process cannot be examined, the configuration file is wrong, or standard output fails.
pub fn run(options: &CheckOptions) -> Result<Exit, Failure> {
    if let Some(path) = &options.config {
        return config::run(path, options.json);
    }
    let findings = edgelat_guard::check::check();
    match options.pid {
        None => show(options, &findings),
        Some(pid) => guarded(Guard::new(vec![Asked::process(pid, None)]), |mut line| {
            let of_target = target::findings(&mut line, pid)?;
            show(options, &[findings, of_target].concat())
        }),
    }
}

fn show(options: &CheckOptions, findings: &[Finding]) -> Result<Exit, Failure> {
    let exit = verdict(findings);
    to_stdout(exit, |out| {
        if options.json {
            for finding in findings {
                json(out, finding)?;
            }
        } else {
            table(out, findings, Style::of_stdout())?;
        }
        Ok(exit)
    })
}

/// Returns the exit status. A missing kernel feature outweighs missing rights, which are easier to
/// obtain.
fn verdict(findings: &[Finding]) -> Exit {
    let any = |state| findings.iter().any(|finding| finding.state == state);
    if any(State::Missing) {
        Exit::Unsupported
    } else if any(State::NotPermitted) {
        Exit::NotPermitted
    } else {
        Exit::Ok
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Warn => "warning",
        State::NotPermitted => "not-permitted",
        State::Missing => "missing",
    }
}

/// One line of `check --json`.
#[derive(Serialize)]
struct FindingLine<'a> {
    name: &'a str,
    state: &'a str,
    detail: &'a str,
    next: Option<&'a str>,
}

fn json(out: &mut dyn Write, finding: &Finding) -> Result<(), PrintError> {
    FindingLine {
        name: finding.name,
        state: word(finding.state),
        detail: &finding.detail,
        next: finding.next.as_deref(),
    }
    .write(out)
}

impl FindingLine<'_> {
    fn write(&self, out: &mut dyn Write) -> Result<(), PrintError> {
        serde_json::to_writer(&mut *out, self).map_err(std::io::Error::from)?;
        Ok(out.write_all(b"\n")?)
    }
}

fn table(out: &mut dyn Write, findings: &[Finding], style: Style) -> Result<(), PrintError> {
    let names = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let states = findings.iter().map(|finding| word(finding.state).len()).max().unwrap_or(0);
    for finding in findings {
        // Padded before it is painted, because colours have no width.
        let state = format!("{:<states$}", word(finding.state));
        let state = match finding.state {
            State::Ok => style.green(&state),
            State::Warn => style.yellow(&state),
            State::NotPermitted | State::Missing => style.red(&state),
        };
        writeln!(out, "{:<names$}  {state}  {}", finding.name, finding.detail)?;
        if let Some(next) = &finding.next {
            writeln!(
                out,
                "{:indent$}{}",
                "",
                style.bold(&format!("-> {next}")),
                indent = names + states + 4
            )?;
        }
    }
    let conclusion = match verdict(findings) {
        Exit::Ok => "This machine can measure.",
        Exit::NotPermitted => "This machine can measure, but you may not.",
        _ => "This machine cannot measure as it is.",
    };
    Ok(writeln!(out, "\n{conclusion}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(state: State) -> Finding {
        Finding {
            name: "btf",
            state,
            detail: "what was found".to_string(),
            next: Some("do this".to_string()),
        }
    }

    #[test]
    fn the_exit_status_is_that_of_the_worst_finding() {
        assert_eq!(verdict(&[finding(State::Ok), finding(State::Warn)]), Exit::Ok);
        assert_eq!(verdict(&[finding(State::Ok), finding(State::NotPermitted)]), Exit::NotPermitted);
        assert_eq!(verdict(&[finding(State::NotPermitted), finding(State::Missing)]), Exit::Unsupported);
    }

    #[test]
    fn a_finding_is_a_line_with_the_next_step_below_it() {
        let mut out = Vec::new();
        table(&mut out, &[Finding::ok("kernel", "6.1"), finding(State::Missing)], Style::plain()).unwrap();
        let expected = "kernel  ok       6.1\n\
                        btf     missing  what was found\n                 -> do this\n\n\
                        This machine cannot measure as it is.\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_finding_in_json_is_one_object() {
        let mut out = Vec::new();
        json(&mut out, &finding(State::NotPermitted)).unwrap();
        let expected = "{\"name\":\"btf\",\"state\":\"not-permitted\",\"detail\":\"what was found\",\"next\":\"do this\"}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
