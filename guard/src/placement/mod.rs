//! Placement of the collector: on a CPU that no target uses, behind all other processes.
//!
//! | file | question |
//! | --- | --- |
//! | `machine.rs` | which CPUs are there, which are isolated, which are busy? |
//! | `choose.rs` | which of them is best? |
//! | `threads.rs` | where may the threads of a target run? |
//!
//! An appliance keeps CPUs for its data path; nothing else is ever started on them. The collector
//! is small and waits most of the time: it is pinned to a CPU without targets, at the lowest
//! priority. Nothing else runs there, so it neither waits nor takes time from others.
//!
//! This module is for processes with one thread: the kernel keeps all these settings by thread, and
//! new threads inherit them.

mod choose;
mod machine;
mod threads;

use std::fmt;

use core_affinity::CoreId;
use nix::errno::Errno;
use nix::libc;
use serde::{Deserialize, Serialize};

use self::machine::{Machine, Watched, allowed};
pub use self::threads::{cpus_of, isolated_cpus, stays_on_isolated};
use crate::cpus::CpuSet;
use crate::error::{GuardError, text};

/// The lowest priority of an ordinary process: all others come first (sched(7)).
const NICE: i32 = 19;
/// `SCHED_EXT` of include/uapi/linux/sched.h: under the sched_ext scheduler (Linux 6.12), or as
/// `SCHED_OTHER` while none is in force.
const SCHED_EXT: libc::c_int = 7;

/// Requested CPU of the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CollectorCpu {
    /// An isolated CPU that no target may use and that is not busy; else any other that no target
    /// may use; else any CPU.
    #[default]
    PreferIsolated,
    /// An isolated CPU that no target may use, or no start at all.
    Isolated,
    /// Any CPU allowed to the process that started the collector.
    Any,
    /// This CPU.
    Cpu(u32),
}

/// Scheduler of the collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sched {
    /// The kernel's own (`SCHED_OTHER`).
    #[default]
    Other,
    /// The sched_ext scheduler while one is in force.
    Ext,
}

/// Calls of targets that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TargetsOn {
    /// All calls.
    #[default]
    Any,
    /// Calls that begin on isolated CPUs; a target that may run elsewhere is refused.
    Isolated,
}

/// Requested placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The CPU.
    pub cpu: CollectorCpu,
    /// The scheduler.
    pub sched: Sched,
    /// The collector must answer soon, because functions of Python are measured: a new function
    /// needs a row from it. Its priority is then lowered only if no other process wants its CPU.
    pub prompt: bool,
}

/// Placement in force, with its notes.
#[derive(Debug)]
pub struct Placement {
    /// The only CPU that this process may run on; `None` if it may run on several.
    pub cpu: Option<u32>,
    /// That CPU is isolated.
    pub isolated: bool,
    /// A scheduler of sched_ext decides when this process runs.
    pub ext: bool,
    /// Priority: 19, the lowest, or the priority at the start.
    pub nice: i32,
    /// Deviations from the expected, a sentence each.
    pub notes: Vec<String>,
    watched: Watched,
    /// The isolation of the CPU can be looked up again.
    isolation_is_told: bool,
    sched: Sched,
    /// Unwanted CPUs that this process was found on.
    astray: Option<CpuSet>,
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.cpu, self.isolated) {
            (Some(cpu), true) => write!(f, "on CPU {cpu}, which is isolated")?,
            (Some(cpu), false) => write!(f, "on CPU {cpu}")?,
            (None, _) => f.write_str("on any CPU")?,
        }
        if self.nice == NICE {
            write!(f, ", at nice {NICE}")?;
        }
        if self.ext { f.write_str(", under sched_ext") } else { Ok(()) }
    }
}

/// A change of the placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// This process had been moved, by a user or when its CPU went offline, and it is back.
    Back {
        /// Its CPU.
        cpu: u32,
        /// CPUs to which it had been moved.
        from: CpuSet,
    },
    /// A user, or the end of its CPU, has moved this process, and it cannot go back.
    Away {
        /// Its CPU.
        cpu: u32,
        /// CPUs that it may run on now.
        to: CpuSet,
    },
    /// The CPU is not isolated any more.
    NotIsolated {
        /// Its CPU.
        cpu: u32,
    },
    /// No sched_ext scheduler is in force any more; the kernel's own has taken over.
    ExtGone,
    /// A sched_ext scheduler is in force, again or for the first time.
    ExtCame,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Back { cpu, from } => {
                write!(f, "the collector had been put on CPU {from}; it is back on CPU {cpu}")
            }
            Self::Away { cpu, to } => write!(
                f,
                "the collector may not run on CPU {cpu} any more (it is offline, or out of the cpuset); it is on CPU {to} and \
                 goes back as soon as it can"
            ),
            Self::NotIsolated { cpu } => {
                write!(f, "CPU {cpu} is not isolated any more; the collector stays on it")
            }
            Self::ExtGone => f.write_str(
                "no sched_ext scheduler is enabled any more; the collector runs as SCHED_OTHER until one is",
            ),
            Self::ExtCame => f.write_str("a sched_ext scheduler is enabled; the collector runs under it"),
        }
    }
}

/// Chooses a CPU and applies all settings to this process. The collector calls it before it gives
/// up its rights; targets may run on `targets` (empty if no target is known yet). Takes a tenth of
/// a second if CPUs are isolated.
///
/// # Errors
/// If the request cannot be met, with the reason.
pub fn place(wanted: &Wanted, targets: &CpuSet) -> Result<Placement, GuardError> {
    // First, so that the rest disturbs no other process.
    if !wanted.prompt {
        lower_priority()?;
    }
    let machine = Machine::look();
    let choice = choose::choose(wanted.cpu, &machine, targets)?;
    let mut notes: Vec<String> = Vec::new();
    let mut refused = CpuSet::default();
    let mut cpu = choice.wanted.iter().copied().find(|cpu| {
        let taken = pin(*cpu);
        if !taken {
            refused.insert(*cpu);
        }
        taken
    });
    let mut reason = choice.reason;
    if cpu.is_none() && !refused.is_empty() {
        reason = Some(format!("the cpuset of edgelat does not have CPU {refused}"));
        if choice.only {
            return Err(not_ours(wanted.cpu, &refused));
        }
    }
    if wanted.cpu == CollectorCpu::PreferIsolated && cpu.is_none() {
        cpu = choice.instead.filter(|cpu| pin(*cpu));
        let why = reason.take().unwrap_or_default();
        notes.push(match cpu {
            Some(cpu) => format!("{why}: the collector runs on CPU {cpu}, which no target uses"),
            None => format!("{why}: the collector runs on any CPU"),
        });
    }
    notes.extend(reason);
    let watched = Watched::open();
    if wanted.sched == Sched::Ext {
        notes.extend(enter_sched_ext(&watched));
    }
    let isolated = cpu.is_some_and(|cpu| machine.isolated.contains(cpu));
    if wanted.prompt && isolated {
        lower_priority()?;
    }
    Ok(Placement {
        cpu,
        isolated,
        ext: wanted.sched == Sched::Ext && policy() == SCHED_EXT && watched.sched_ext_enabled(),
        nice: if wanted.prompt && !isolated { 0 } else { NICE },
        notes,
        isolation_is_told: cpu.is_some_and(|cpu| watched.isolated().contains(cpu)),
        watched,
        sched: if policy() == SCHED_EXT { Sched::Ext } else { Sched::Other },
        astray: None,
    })
}

/// Detects an outside change of this process' placement, and reverts it if possible. Reports each
/// change once, one per call. Allocates nothing, and makes only system calls that
/// [`crate::sandbox::collector`] allows.
pub fn recheck(placement: &mut Placement) -> Option<Drift> {
    if let Some(cpu) = placement.cpu {
        let own = CpuSet::from_iter([cpu]);
        let found = allowed().unwrap_or(own);
        if found == own {
            // A user may have put it back.
            placement.astray = None;
        } else if pin(cpu) {
            placement.astray = None;
            return Some(Drift::Back { cpu, from: found });
        } else if placement.astray.replace(found) != Some(found) {
            return Some(Drift::Away { cpu, to: found });
        }
        if placement.isolated && placement.isolation_is_told && !placement.watched.isolated().contains(cpu) {
            placement.isolated = false;
            return Some(Drift::NotIsolated { cpu });
        }
    }
    let ext = placement.sched == Sched::Ext && placement.watched.sched_ext_enabled();
    match (std::mem::replace(&mut placement.ext, ext), ext) {
        (true, false) => Some(Drift::ExtGone),
        (false, true) => Some(Drift::ExtCame),
        _ => None,
    }
}

/// Moves this process away from targets that are known by now and may run on its CPU, as [`place`]
/// would have placed it. Returns the new CPU.
pub fn stay_away(placement: &mut Placement, wanted: &Wanted, targets: &CpuSet) -> Option<u32> {
    let shares = placement.cpu.is_none_or(|cpu| targets.contains(cpu));
    if !shares || wanted.cpu != CollectorCpu::PreferIsolated {
        return None;
    }
    let mut machine = Machine::look();
    // The present CPU is not all that this process may have.
    machine.allowed = machine.online;
    let choice = choose::choose(wanted.cpu, &machine, targets).ok()?;
    let found = choice.wanted.into_iter().chain(choice.instead).find(|cpu| pin(*cpu))?;
    placement.cpu = Some(found);
    placement.isolated = machine.isolated.contains(found);
    placement.isolation_is_told = placement.watched.isolated().contains(found);
    placement.astray = None;
    Some(found)
}

/// Describes the placement that would be chosen here, and why, if targets are not known yet.
pub fn describe(wanted: &Wanted) -> String {
    let machine = Machine::look();
    let place = match choose::choose(wanted.cpu, &machine, &CpuSet::default()) {
        Err(error) => return error.to_string(),
        Ok(choice) => match (choice.wanted.first(), wanted.cpu) {
            (Some(cpu), _) if machine.isolated.contains(*cpu) => format!(
                "CPU {cpu} of {}, which are isolated, or another of these where a target uses it",
                machine.isolated
            ),
            (Some(cpu), _) => format!("CPU {cpu}"),
            (None, CollectorCpu::PreferIsolated) => {
                format!("a CPU that no target uses: {}", choice.reason.unwrap_or_default())
            }
            (None, _) => "any CPU".to_owned(),
        },
    };
    let watched = Watched::open();
    let sched = match (wanted.sched, watched.knows_sched_ext(), watched.sched_ext_enabled()) {
        (Sched::Other, ..) => "",
        (Sched::Ext, _, true) => ", under the sched_ext scheduler",
        (Sched::Ext, true, false) => ", as SCHED_OTHER until a sched_ext scheduler is enabled",
        (Sched::Ext, false, _) => ", as SCHED_OTHER: this kernel has no sched_ext",
    };
    let nice = if wanted.prompt { "" } else { "; at nice 19" };
    format!("{place}{nice}{sched}")
}

/// Keeps this thread on one CPU, which must fit a set; false if the kernel refuses.
fn pin(cpu: u32) -> bool {
    let own = CpuSet::from_iter([cpu]);
    // The kernel takes the part of the mask that the cpuset has, so the result is checked.
    core_affinity::set_for_current(CoreId { id: cpu as usize }) && allowed() == Some(own)
}

fn not_ours(wanted: CollectorCpu, refused: &CpuSet) -> GuardError {
    match wanted {
        CollectorCpu::Cpu(cpu) => GuardError::CollectorCpu {
            cpu,
            reason: text("the cpuset that edgelat was started in does not have it"),
        },
        _ => GuardError::NoIsolatedCpu {
            reason: text(format_args!("the cpuset that edgelat was started in does not have CPU {refused}")),
        },
    }
}

fn lower_priority() -> Result<(), GuardError> {
    // SAFETY: no memory is passed; 0 is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    Errno::result(result).map(drop).map_err(|errno| GuardError::Placement {
        step: text("lower the priority of the collector"),
        os: errno.into(),
    })
}

/// Puts this thread under the sched_ext scheduler; returns a note if there is one. While none is in
/// force the kernel treats the thread as an ordinary one, so its coming and going needs no action.
fn enter_sched_ext(watched: &Watched) -> Option<String> {
    if !watched.knows_sched_ext() {
        return Some(
            "this kernel has no sched_ext (CONFIG_SCHED_CLASS_EXT, Linux 6.12): the collector runs as SCHED_OTHER"
                .to_owned(),
        );
    }
    // struct sched_param: one int, the priority, which is 0 for this policy.
    let parameter: libc::c_int = 0;
    // SAFETY: the structure lives through the call, which only reads it; 0 is the calling thread. By its number, because musl
    // has the function and does nothing in it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, SCHED_EXT, &raw const parameter) };
    match Errno::result(result) {
        Ok(_) if watched.sched_ext_enabled() => None,
        Ok(_) => Some(
            "no sched_ext scheduler is enabled: the collector runs as SCHED_OTHER until one is".to_owned(),
        ),
        Err(errno) => Some(format!(
            "the collector cannot be put under sched_ext ({}): it runs as SCHED_OTHER",
            errno.desc()
        )),
    }
}

/// The scheduling policy of this thread.
fn policy() -> libc::c_int {
    // SAFETY: no memory is passed; 0 is the calling thread. By its number, as above.
    unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) as libc::c_int }
}
