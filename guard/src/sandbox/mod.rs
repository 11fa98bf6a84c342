//! What the collector gives up.
//!
//! In this order: capabilities, the way to get new ones, system calls.

pub mod collector;

use std::collections::BTreeMap;

use caps::CapSet;
use nix::sys::prctl;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use self::collector::{ALLOWED, ALLOWED_HERE, Allowed, DEADLY, Only};
use crate::error::{GuardError, text};

/// Makes this process one that can do what a collector does, and nothing else.
///
/// # Errors
/// What could not be given up.
pub fn enter_collector() -> Result<(), GuardError> {
    give_up_capabilities()?;
    prctl::set_no_new_privs().map_err(|errno| kept("programs that bring privilege", errno.desc()))?;
    let failed = |error: seccompiler::Error| kept("system calls", error);
    for filter in [deadly().map_err(|error| kept("system calls", error))?, allowed()?] {
        let program = BpfProgram::try_from(filter).map_err(|error| kept("system calls", error))?;
        seccompiler::apply_filter(&program).map_err(failed)?;
    }
    Ok(())
}

fn kept(what: &str, reason: impl std::fmt::Display) -> GuardError {
    GuardError::Rights { what: text(what), reason: text(reason) }
}

/// Gives up every capability for good: none is held, none can be inherited, and no program that this process might
/// execute brings one.
fn give_up_capabilities() -> Result<(), GuardError> {
    // Without CAP_SETPCAP nothing can be taken out of the bounding set, and nothing can come in through it either: no
    // program gives capabilities to a process with no_new_privs.
    if caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP).unwrap_or(false) {
        clear(CapSet::Bounding)?;
    }
    // Each subset before the set that it must be in.
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        clear(set)?;
    }
    Ok(())
}

fn clear(set: CapSet) -> Result<(), GuardError> {
    caps::clear(None, set).map_err(|error| kept(&format!("the {set:?} capabilities"), error))
}

#[cfg(target_arch = "x86_64")]
const ARCH: seccompiler::TargetArch = seccompiler::TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: seccompiler::TargetArch = seccompiler::TargetArch::aarch64;

/// Ends the process at calls that nobody but an intruder would make.
fn deadly() -> Result<SeccompFilter, seccompiler::BackendError> {
    let rules = DEADLY.iter().map(|call| (call.number, Vec::new())).collect();
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, ARCH)
}

/// Refuses what is not in the list. The kernel takes the stricter answer of the two filters.
fn allowed() -> Result<SeccompFilter, GuardError> {
    let mut rules = BTreeMap::new();
    for call in ALLOWED.iter().chain(ALLOWED_HERE) {
        rules.insert(call.number, rules_for(call).map_err(|error| kept(call.name, error))?);
    }
    let refused = SeccompAction::Errno(nix::libc::EPERM as u32);
    SeccompFilter::new(rules, refused, SeccompAction::Allow, ARCH)
        .map_err(|error| kept("system calls", error))
}

fn rules_for(call: &Allowed) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    // The kernel looks at the lower half of such arguments: all are ints or flags in one.
    let rule = |argument, operator, value| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
    };
    match call.only {
        Only::Any => Ok(Vec::new()),
        Only::OneOf(argument, values) => {
            values.iter().map(|value| rule(argument, SeccompCmpOp::Eq, *value)).collect()
        }
        Only::Without(argument, bits) => Ok(vec![rule(argument, SeccompCmpOp::MaskedEq(bits), 0)?]),
    }
}
