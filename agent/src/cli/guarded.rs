//! A command in two processes: the privileged one serves the one that examines files and processes.

use edgelat_guard::placement::{self, Placement, Wanted};
use edgelat_guard::{Guard, Line, cpus::CpuSet};
use edgelat_sites::boundary;

use super::exit::Exit;
use super::failure::Failure;

/// Runs a command in a process without rights, with a line to `guard`, which stays in this process.
///
/// # Errors
/// If the second process cannot be created. The command prints its own errors.
pub fn guarded(guard: Guard, command: impl FnOnce(Line) -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let status = edgelat_guard::split(guard.confirmed_by(boundary::confirm), |line| {
        let outcome = line.map_err(Failure::from).and_then(command);
        super::exit_of(outcome).status()
    })?;
    Ok(Exit::of(status))
}

/// Runs a command like [`guarded`], away from the CPUs of process `pid`.
///
/// # Errors
/// As for [`guarded`].
pub fn guarded_apart(
    guard: Guard,
    wanted: &Wanted,
    pid: i32,
    command: impl FnOnce(Line, Placement) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    // For a process that cannot be examined, all CPUs are assumed; opening it reports the cause.
    guarded_away_from(guard, wanted, &placement::cpus_of(pid).unwrap_or(CpuSet::ALL), command)
}

/// Runs a command like [`guarded`], away from some CPUs.
///
/// # Errors
/// As for [`guarded`].
pub fn guarded_away_from(
    guard: Guard,
    wanted: &Wanted,
    targets: &CpuSet,
    command: impl FnOnce(Line, Placement) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let guard = guard.confirmed_by(boundary::confirm);
    let status = edgelat_guard::split_and_place(guard, wanted, targets, |ready| {
        let outcome = ready.map_err(Failure::from).and_then(|(line, placement)| command(line, placement));
        super::exit_of(outcome).status()
    })?;
    Ok(Exit::of(status))
}
