//! `edgelat check -c FILE`: checks that the service would accept this configuration.

use std::path::Path;

use edgelat_guard::check::{Finding, State};
use edgelat_guard::placement;
use edgelat_guard::{Guard, Line};

use super::FindingLine;
use crate::cli::exit::Exit;
use crate::cli::failure::{Fails, Failure};
use crate::cli::guarded::guarded;
use crate::cli::output::to_stdout;
use crate::cli::pack;
use crate::collector::debug_dirs::DebugDirs;
use crate::collector::resolve::{self, Context, ResolveError, Resolved};
use crate::collector::service::find;
use crate::collector::session::Sources;
use crate::collector::target::Target;
use crate::config::{Config, TargetConfig};

/// Name of these findings in JSON.
const NAME: &str = "config";

/// Reads the file and reports its errors: on standard error, or as findings in JSON.
///
/// # Errors
/// All errors in the file; with `json` only a failure to write standard output.
pub(super) fn run(path: &Path, json: bool) -> Result<Exit, Failure> {
    match Config::load(path) {
        Ok(config) => {
            let targets = config.targets.len();
            let s = if targets == 1 { "" } else { "s" };
            let mut findings = vec![Finding::ok(NAME, format!("{}: {targets} target{s}", path.display()))];
            findings.push(Finding::ok(
                "collector",
                format!("the collector runs on {}", placement::describe(&config.place())),
            ));
            let dirs = DebugDirs::open(&config.agent.debug_dirs);
            let packs = pack::read_all(&config.agent.packs)?;
            guarded(Guard::new(config.asked(true)), |mut line| {
                let sources = Sources { debug_dirs: dirs, packs: pack::understand_all(&packs)? };
                for target in &config.targets {
                    findings.push(of_target(&mut line, target, &config, &sources));
                }
                to_stdout(Exit::Ok, |out| {
                    for finding in &findings {
                        match json {
                            true => super::json(out, finding)?,
                            false => writeln!(out, "{}, {}", finding.detail, super::word(finding.state))?,
                        }
                    }
                    Ok(Exit::Ok)
                })
            })
        }
        Err(errors) if json => to_stdout(errors.exit(), |out| {
            for text in errors.to_string().lines() {
                // Each error has the next step after the reason.
                let (detail, next) = text.split_once("; ").unwrap_or((text, "correct it"));
                FindingLine { name: NAME, state: "wrong", detail, next: Some(next) }.write(out)?;
            }
            Ok(errors.exit())
        }),
        Err(errors) => Err(errors.into()),
    }
}

/// Reports the current processes of a target and the functions of the first one. No finding is an
/// error in the file: a process or library that is missing may still come.
fn of_target(line: &mut Line, target: &TargetConfig, config: &Config, sources: &Sources) -> Finding {
    let name = "target";
    let told = |state, detail: String| Finding {
        name,
        state,
        detail: format!("{}: {detail}", target.name),
        next: None,
    };
    let found = match find::all(line, &target.select) {
        Ok(found) => found,
        Err(error) => return told(State::Warn, error.to_string()),
    };
    let Some(first) = found.first() else {
        return told(
            State::Warn,
            "no such process now, as far as it can be seen without rights to others' processes".to_owned(),
        );
    };
    let processes = format!("{} processes, the first is {}", found.len(), first.pid);
    let mut functions = 0;
    let looked =
        Target::open(line, first.pid, target.allow_ptrace).map_err(ResolveError::from).and_then(|process| {
            let mut context = Context {
                seen: &[],
                debug_dirs: &sources.debug_dirs,
                packs: &sources.packs,
                unprobed: &config.agent.unprobed_images,
                returns: target.returns,
                inlined: false,
                progress: &mut |_, _| (),
            };
            let resolved = match target.functions.is_empty() {
                true => Resolved::default(),
                false => resolve::resolve(line, &process, &target.functions, &mut context)?,
            };
            functions = resolved.functions.len();
            let python = match target.python.is_empty() {
                true => None,
                false => {
                    resolve::resolve_python(line, &process, &target.python, &config.agent.unprobed_images)?
                }
            };
            Ok((resolved, python))
        });
    match looked {
        Err(error) => told(State::Warn, format!("{processes}: {error}")),
        Ok((resolved, python)) => {
            let refused = match resolved.refused.len() {
                0 => String::new(),
                refused => format!(", {refused} cannot be probed"),
            };
            let later = match resolved.pending.len() {
                0 => String::new(),
                pending => format!(", {pending} names of libraries that are not mapped"),
            };
            let python = python
                .map(|(python, _)| format!(", functions of {}", python.interpreter))
                .unwrap_or_default();
            let all = format!("{processes}, {functions} functions{python}{refused}{later}");
            match resolved.missed {
                None => told(State::Ok, all),
                Some(error) => told(State::Warn, format!("{all}: {error}")),
            }
        }
    }
}
