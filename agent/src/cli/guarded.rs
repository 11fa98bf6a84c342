//! A command in two processes: what has rights serves what looks at files and processes.

use edgelat_guard::{Guard, Line};

use super::exit::Exit;
use super::failure::Failure;

/// Runs a command in a process without rights, with a line to `guard`, which stays in this one.
///
/// # Errors
/// When there could be no second process. What the command itself says it has printed.
pub fn guarded(guard: Guard, command: impl FnOnce(Line) -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let status = edgelat_guard::split(guard, |line| {
        let outcome = line.map_err(Failure::from).and_then(command);
        super::exit_of(outcome).status()
    })?;
    Ok(Exit::of(status))
}
