//! Rights that the two processes give up: the collector all of them at its start, the guard those
//! that it needs no more once everything is in place.
//!
//! The order: capabilities, ways to new ones, files, system calls. Data: [`collector`], [`guard`].

pub mod collector;
pub mod guard;

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};

use caps::{CapSet, Capability, CapsHashSet};
use landlock::{ABI, AccessFs, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use self::collector::{
    ALLOWED, ALLOWED_HERE, ALLOWED_IN_FOLDER, ALLOWED_IN_FOLDER_HERE, Allowed, Deadly, Only,
};
use self::guard::Tasks;
use crate::error::{GuardError, text};
use crate::outside;
use crate::user::User;

/// Restricts this process to the operations of a collector. It can create, write and remove files
/// only in `folder`. Several barriers protect other files; with a folder, this returns those that
/// are missing. Without a folder it opens no file for writing at all.
///
/// # Errors
/// The right that could not be given up.
pub fn enter_collector(
    folder: Option<BorrowedFd<'_>>,
    user: Option<User>,
) -> Result<Vec<String>, GuardError> {
    let mut missing = Vec::new();
    if let Some(Err(errno)) = folder.map(outside::leave_for) {
        missing.push(format!(
            "the collector's root is not its folder ({}; chroot(2) takes CAP_SYS_CHROOT)",
            errno.desc()
        ));
    }
    user.map_or(Ok(()), become_user)?;
    keep_capabilities(&CapsHashSet::new())?;
    no_new_privileges()?;
    limits()?;
    if !no_new_files(folder)? && folder.is_some() {
        missing.push(
            "this kernel has no landlock, which would keep the collector to its folder as well (Linux 5.13; lsm= on its \
             command line)"
                .to_owned(),
        );
    }
    apply(deadly(collector::DEADLY)?)?;
    apply(allowed(folder)?)?;
    Ok(missing)
}

/// Restricts this process to reading, answering and ending, without the memory of the guard.
///
/// # Errors
/// The right that could not be given up.
pub(crate) fn enter_confirmer() -> Result<(), GuardError> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|error| not_given_up("memory", error))?;
    for line in maps.lines() {
        let mut words = line.split(' ');
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let hex = |digits: &str| usize::from_str_radix(digits, 16).ok();
        let Some((start, end)) = range.split_once('-').and_then(|(a, b)| Some((hex(a)?, hex(b)?))) else {
            continue;
        };
        if rights.ends_with('s') {
            // SAFETY: only rows and switches of plans are shared, and this process reads none of
            // them.
            _ = unsafe { nix::libc::munmap(start as *mut _, end - start) };
        }
    }
    keep_capabilities(&CapsHashSet::new())?;
    no_new_privileges()?;
    let failed = |error| not_given_up("system calls", error);
    let rules = collector::OF_CONFIRMER.iter().map(|call| Ok((call.number, rules_for(call, None)?)));
    let rules = rules.collect::<Result<_, _>>().map_err(failed)?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, ARCH);
    apply(filter.map_err(failed)?)
}

/// Restricts this process to the remaining tasks of a guard.
///
/// # Errors
/// The right that could not be given up.
pub fn settle_guard(tasks: Tasks) -> Result<(), GuardError> {
    let kept = tasks.kept(perf_event_paranoid(), nix::unistd::geteuid().is_root());
    let held = caps::read(None, CapSet::Permitted).map_err(|error| not_given_up("capabilities", error))?;
    let wanted: CapsHashSet = kept
        .iter()
        .map(|(capability, _)| *capability)
        .filter(|capability| held.contains(capability))
        .collect();
    keep_capabilities(&wanted)?;
    no_new_privileges()?;
    apply(deadly(tasks.deadly())?)
}

/// A kernel that reports no level is as strict as any.
pub(crate) fn perf_event_paranoid() -> i32 {
    let level = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    level.trim().parse().unwrap_or(i32::MAX)
}

/// Resource limits of a collector, so that an own fault or an oversized file ends only the
/// collector: the guard then removes the probes. No core file may show its memory either.
pub const LIMITS: [(Resource, u64); 4] = [
    (Resource::RLIMIT_CORE, 0),
    (Resource::RLIMIT_NPROC, 0),
    (Resource::RLIMIT_NOFILE, 1024),
    // Private memory that is written to. The largest images seen need a tenth of it.
    (Resource::RLIMIT_DATA, 1 << 30),
];

fn limits() -> Result<(), GuardError> {
    LIMITS.into_iter().try_for_each(|(resource, most)| {
        // A lower limit may have been set at the start.
        let most = getrlimit(resource).map_or(most, |(_, hard)| hard.min(most));
        setrlimit(resource, most, most)
            .map_err(|errno| not_given_up("what is more than it needs of the machine", errno.desc()))
    })
}

/// Closes inherited descriptors of this process. Must run before anything is opened.
pub fn close_inherited() {
    // SAFETY: no descriptor above standard error is this program's own yet, so no owner loses one;
    // the call takes numbers.
    _ = unsafe { nix::libc::syscall(nix::libc::SYS_close_range, 3, u32::MAX, 0) };
}

fn no_new_privileges() -> Result<(), GuardError> {
    prctl::set_no_new_privs().map_err(|errno| not_given_up("programs that bring privilege", errno.desc()))
}

/// Forbids to create, change, remove or execute anything in any file system but plain files below
/// `folder`, if the kernel has landlock (5.13 and later, unless switched off); returns true if it
/// has. Open files stay open.
fn no_new_files(folder: Option<BorrowedFd<'_>>) -> Result<bool, GuardError> {
    // The newest set of rights; an older kernel takes the part that it knows.
    let writing = AccessFs::from_write(ABI::V5) | AccessFs::Execute;
    let files = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::MakeReg | AccessFs::RemoveFile;
    let ruleset = Ruleset::default().handle_access(writing).and_then(Ruleset::create);
    let ruleset = ruleset.and_then(|ruleset| match folder {
        Some(folder) => ruleset.add_rule(PathBeneath::new(folder, files)),
        None => Ok(ruleset),
    });
    let restricted = ruleset.and_then(landlock::RulesetCreated::restrict_self);
    restricted
        .map(|status| status.ruleset != RulesetStatus::NotEnforced)
        .map_err(|error| not_given_up("writing to files", error))
}

fn apply(filter: SeccompFilter) -> Result<(), GuardError> {
    let program = BpfProgram::try_from(filter).map_err(|error| not_given_up("system calls", error))?;
    seccompiler::apply_filter(&program).map_err(|error| not_given_up("system calls", error))
}

fn not_given_up(what: &str, reason: impl std::fmt::Display) -> GuardError {
    GuardError::Rights { what: text(what), reason: text(reason) }
}

/// Gives up every capability but these for good: no other is held, none can be inherited, and no
/// program that this process might execute brings one. Only the `wanted` ones can ever be had
/// again. Without CAP_SETPCAP nothing can leave that set, and nothing can come in through it
/// either: no program gives capabilities to a process with no_new_privs.
fn keep_in_bounding_set(wanted: &CapsHashSet) -> Result<(), GuardError> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        return Ok(());
    }
    let failed = |error| not_given_up("the Bounding capabilities", error);
    let bounding = caps::read(None, CapSet::Bounding).map_err(failed)?;
    bounding
        .difference(wanted)
        .try_for_each(|capability| caps::drop(None, CapSet::Bounding, *capability).map_err(failed))
}

/// Makes this process another user's. All sets of capabilities are empty then.
///
/// # Errors
/// The right that could not be given up.
fn become_user(user: User) -> Result<(), GuardError> {
    // The right to do this goes with root.
    keep_in_bounding_set(&CapsHashSet::new())?;
    user.become_it()
}

fn keep_capabilities(wanted: &CapsHashSet) -> Result<(), GuardError> {
    let failed = |set: CapSet| move |error| not_given_up(&format!("the {set:?} capabilities"), error);
    keep_in_bounding_set(wanted)?;
    // Each subset before the set that it must be in.
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).map_err(failed(set))?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, wanted).map_err(failed(set))?;
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
const ARCH: seccompiler::TargetArch = seccompiler::TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: seccompiler::TargetArch = seccompiler::TargetArch::aarch64;

/// Ends the process at calls that only an intruder would make.
fn deadly<'c>(calls: impl IntoIterator<Item = &'c Deadly>) -> Result<SeccompFilter, GuardError> {
    let rules = calls.into_iter().map(|call| (call.number, Vec::new())).collect();
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, ARCH)
        .map_err(|error| not_given_up("system calls", error))
}

/// Refuses calls outside the list. The kernel takes the stricter answer of the two filters.
fn allowed(folder: Option<BorrowedFd<'_>>) -> Result<SeccompFilter, GuardError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let in_folder = [ALLOWED_IN_FOLDER, ALLOWED_IN_FOLDER_HERE].into_iter().filter(|_| folder.is_some());
    for call in [ALLOWED, ALLOWED_HERE].into_iter().chain(in_folder).flatten() {
        // A call passes if one of the rules lets it through.
        let more = rules_for(call, folder).map_err(|error| not_given_up(call.name, error))?;
        rules.entry(call.number).or_default().extend(more);
    }
    let refused = SeccompAction::Errno(nix::libc::EPERM as u32);
    SeccompFilter::new(rules, refused, SeccompAction::Allow, ARCH)
        .map_err(|error| not_given_up("system calls", error))
}

fn rules_for(
    call: &Allowed,
    folder: Option<BorrowedFd<'_>>,
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    // The kernel looks at the lower half of such arguments: all are ints or flags in one.
    let condition =
        |argument, operator, value| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value);
    let rule = |argument, operator, value| SeccompRule::new(vec![condition(argument, operator, value)?]);
    // Without a folder no descriptor is this one.
    let number = folder.map_or(u64::from(u32::MAX), |folder| folder.as_raw_fd() as u64);
    match call.only {
        Only::Any => Ok(Vec::new()),
        Only::OneOf(argument, values) => {
            values.iter().map(|value| rule(argument, SeccompCmpOp::Eq, *value)).collect()
        }
        Only::Without(argument, bits) => Ok(vec![rule(argument, SeccompCmpOp::MaskedEq(bits), 0)?]),
        Only::NotFolder(argument) => Ok(vec![rule(argument, SeccompCmpOp::Ne, number)?]),
        Only::Folder(arguments) => {
            let conditions = arguments.iter().map(|argument| condition(*argument, SeccompCmpOp::Eq, number));
            Ok(vec![SeccompRule::new(conditions.collect::<Result<_, _>>()?)?])
        }
    }
}
