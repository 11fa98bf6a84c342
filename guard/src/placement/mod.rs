//! Where the collector runs: on a CPU that no target uses, behind everybody else.
//!
//! | file | question |
//! | --- | --- |
//! | `machine.rs` | which CPUs are there, which are isolated, which are busy? |
//! | `choose.rs` | which of them had better be taken? |
//! | `threads.rs` | where may the threads of a target run? |
//!
//! An appliance keeps CPUs for its data path, and what is started otherwise is never put on them. The collector is small and
//! waits most of the time: it is put there by name, where no target can be, at the lowest priority there is. Nothing else
//! runs there, so that it neither waits nor takes time from others.
//!
//! This module is for processes with one thread: the kernel keeps all of it by thread, and new threads inherit it.

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

/// The lowest priority of an ordinary process: everybody else comes first (sched(7)).
const NICE: i32 = 19;
/// `SCHED_EXT` of include/uapi/linux/sched.h: under the scheduler of sched_ext (Linux 6.12), or as `SCHED_OTHER` while none
/// is in force.
const SCHED_EXT: libc::c_int = 7;

/// Where the collector is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CollectorCpu {
    /// On an isolated CPU that no target may use and nobody else keeps busy; where there is none, on any other that no target
    /// may use; where there is none either, anywhere.
    #[default]
    PreferIsolated,
    /// On an isolated CPU that no target may use, or not at all.
    Isolated,
    /// Wherever whoever started it may run.
    Any,
    /// On this one.
    Cpu(u32),
}

/// Which scheduler the collector is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sched {
    /// The kernel's own (`SCHED_OTHER`).
    #[default]
    Other,
    /// That of sched_ext while one is in force.
    Ext,
}

/// Which calls of targets are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TargetsOn {
    /// All.
    #[default]
    Any,
    /// Those that begin on isolated CPUs; a target that may run elsewhere is refused.
    Isolated,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Where.
    pub cpu: CollectorCpu,
    /// Under which scheduler.
    pub sched: Sched,
    /// It has to answer soon, because functions of Python are measured: a program that calls a new one takes a row that the
    /// collector has to hand out. Then its priority is lowered only where nobody else wants its CPU.
    pub prompt: bool,
}

/// What is in force, and what has to be said about it.
#[derive(Debug)]
pub struct Placement {
    /// The only CPU that this process may run on; `None` where it may run on several.
    pub cpu: Option<u32>,
    /// That CPU is isolated.
    pub isolated: bool,
    /// A scheduler of sched_ext decides when this process runs.
    pub ext: bool,
    /// Priority: 19, the lowest, or what it was started with.
    pub nice: i32,
    /// What is not as somebody may expect, a sentence each.
    pub notes: Vec<String>,
    watched: Watched,
    /// The isolation of the CPU can be looked up again.
    isolation_is_told: bool,
    sched: Sched,
    /// Where this process was found to be kept, against its will.
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

/// What has changed since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// This process had been put elsewhere, by somebody or when its CPU went offline, and it is back.
    Back {
        /// Its CPU.
        cpu: u32,
        /// Where it had been put.
        from: CpuSet,
    },
    /// Somebody, or the end of its CPU, has put this process elsewhere, and it cannot go back.
    Away {
        /// Its CPU.
        cpu: u32,
        /// Where it may run now.
        to: CpuSet,
    },
    /// The CPU is not isolated any more.
    NotIsolated {
        /// Its CPU.
        cpu: u32,
    },
    /// No scheduler of sched_ext is in force any more; the kernel's own has taken over.
    ExtGone,
    /// A scheduler of sched_ext is in force, again or at last.
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

/// Chooses a CPU and applies everything to this process. To be called in the collector, before it gives up its rights, where
/// targets may run on `targets` (none where no target is known yet). Takes a tenth of a second where CPUs are isolated.
///
/// # Errors
/// When what was wanted cannot be had, with the reason.
pub fn place(wanted: &Wanted, targets: &CpuSet) -> Result<Placement, GuardError> {
    // First, so that the rest disturbs nobody.
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

/// Has somebody moved this process, or taken from it what it was given? Puts it back where that is possible. Tells each
/// change once, and one at a time. Allocates nothing, and makes no system call but those that [`crate::sandbox::collector`]
/// allows.
pub fn recheck(placement: &mut Placement) -> Option<Drift> {
    if let Some(cpu) = placement.cpu {
        let own = CpuSet::from_iter([cpu]);
        let found = allowed().unwrap_or(own);
        if found == own {
            // Somebody may have put it back.
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

/// Targets are known by now that may run where this process is: moves it away from them, as [`place`] would have put it.
/// Tells where to.
pub fn stay_away(placement: &mut Placement, wanted: &Wanted, targets: &CpuSet) -> Option<u32> {
    let shares = placement.cpu.is_none_or(|cpu| targets.contains(cpu));
    if !shares || wanted.cpu != CollectorCpu::PreferIsolated {
        return None;
    }
    let mut machine = Machine::look();
    // Where this process is now is not all that it may have.
    machine.allowed = machine.online;
    let choice = choose::choose(wanted.cpu, &machine, targets).ok()?;
    let found = choice.wanted.into_iter().chain(choice.instead).find(|cpu| pin(*cpu))?;
    placement.cpu = Some(found);
    placement.isolated = machine.isolated.contains(found);
    placement.isolation_is_told = placement.watched.isolated().contains(found);
    placement.astray = None;
    Some(found)
}

/// What would be done here and why, where targets are not known yet.
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

/// Keeps this thread on one CPU, which must be one that a set can hold; false where the kernel does not let it.
fn pin(cpu: u32) -> bool {
    let own = CpuSet::from_iter([cpu]);
    // The kernel takes what of the mask the cpuset has, so what came of it is looked at.
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

/// Puts this thread under the scheduler of sched_ext; what has to be said about it. While none is in force the kernel
/// treats such a thread as an ordinary one, so that nothing has to be done when it goes or comes.
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
