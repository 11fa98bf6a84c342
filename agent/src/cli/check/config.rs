//! `edgelat check -c FILE`: is this a configuration that the service would take?

use std::path::Path;

use super::FindingLine;
use crate::{
    cli::{
        exit::Exit,
        failure::{Fails, Failure},
        output::to_stdout,
    },
    config::Config,
};

/// What these findings are called in JSON.
const NAME: &str = "config";

/// Reads the file and says what is wrong with it: on standard error, or as findings in JSON.
///
/// # Errors
/// Everything that is wrong with it; with `json` only that standard output cannot be written.
pub(super) fn run(path: &Path, json: bool) -> Result<Exit, Failure> {
    match Config::load(path) {
        Ok(config) => {
            let targets = config.targets.len();
            let s = if targets == 1 { "" } else { "s" };
            let detail = format!("{}: {targets} target{s}", path.display());
            to_stdout(Exit::Ok, |out| {
                match json {
                    true => {
                        FindingLine { name: NAME, state: "ok", detail: &detail, next: None }.write(out)?
                    }
                    false => writeln!(out, "{detail}, ok")?,
                }
                Ok(Exit::Ok)
            })
        }
        Err(errors) if json => to_stdout(errors.exit(), |out| {
            for text in errors.to_string().lines() {
                // Each says the next step after the reason.
                let (detail, next) = text.split_once("; ").unwrap_or((text, "correct it"));
                FindingLine { name: NAME, state: "wrong", detail, next: Some(next) }.write(out)?;
            }
            Ok(errors.exit())
        }),
        Err(errors) => Err(errors.into()),
    }
}
