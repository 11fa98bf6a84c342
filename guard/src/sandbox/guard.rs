//! Rights that the guard keeps once everything is in place, as data.
//!
//! From then on it covers children of the target, removes probes, and passes signals on. The rights
//! for that depend on the route (docs/KERNELS.md lists them for each route on each tested kernel).
//! It executes no program any more, traces nothing but a started command, and sends nothing over a
//! network: such calls end the process, which removes the probes.

use caps::Capability;

use super::collector::Deadly;
use crate::protocol::Route;

/// A capability that is kept, and its purpose.
pub type Kept = (Capability, &'static str);

/// For any route.
const ALWAYS: &[Kept] = &[
    (Capability::CAP_BPF, "load programs for libraries that come later, attach children"),
    (Capability::CAP_PERFMON, "attach children"),
    (Capability::CAP_SYS_PTRACE, "tell which program a child of another user executes"),
    (Capability::CAP_CHECKPOINT_RESTORE, "open libraries that come later, whatever stands at their path"),
];

/// With `perf_event_paranoid` at 3 or more, as on Debian, perf events need this capability.
const OF_PARANOID_PERF: Kept =
    (Capability::CAP_SYS_ADMIN, "perf events of children, because perf_event_paranoid is above 2");

/// Uprobe events need it too, on any such level: since July 2025, also in kernels of long support
/// (kernel/events/core.c, perf_uprobe_event_init).
const OF_SINGLE: Kept = (Capability::CAP_SYS_ADMIN, "perf uprobe events of children");

/// Files of the tracing file system belong to root.
const OF_TRACEFS: Kept = (Capability::CAP_DAC_OVERRIDE, "define events of children");

/// The bpf file system is root's, as systemd mounts it.
const OF_PINS: Kept = (Capability::CAP_DAC_OVERRIDE, "remove and replace pinned maps");

/// For a started command, which may have become another user's.
const OF_COMMAND: Kept = (Capability::CAP_KILL, "end the command that was started");

/// A program may be in a folder that only its own user can read.
const OF_TARGETS: Kept = (Capability::CAP_DAC_READ_SEARCH, "open the programs of other users");

/// For a collector that became another user.
const OF_COLLECTOR: Kept = (Capability::CAP_KILL, "pass signals on to the collector");

/// Remaining tasks.
#[derive(Debug, Clone, Copy)]
pub struct Tasks {
    /// The routes of the plans that will attach children, each once or more often.
    pub uprobe_multi: bool,
    /// As before.
    pub tracefs: bool,
    /// As before.
    pub single: bool,
    /// There is a command to end.
    pub command: bool,
    /// Processes of a command are traced, of which more may have to be measured.
    pub follows: bool,
    /// Targets are opened and attached as they come.
    pub targets: bool,
    /// The collector is another user's, and signals are passed on to it.
    pub collector: bool,
    /// Maps are pinned: removed with their target, and replaced if it changes to a new image.
    pub pins: bool,
}

impl Tasks {
    /// No tasks.
    pub const NONE: Self = Self {
        uprobe_multi: false,
        tracefs: false,
        single: false,
        command: false,
        follows: false,
        targets: false,
        collector: false,
        pins: false,
    };

    /// Adds those of one more plan.
    #[must_use]
    pub fn and(self, route: Route) -> Self {
        match route {
            Route::UprobeMulti => Self { uprobe_multi: true, ..self },
            Route::Tracefs => Self { tracefs: true, ..self },
            Route::Single => Self { single: true, ..self },
        }
    }

    /// Capabilities kept for these tasks at this `perf_event_paranoid`, by root or another user.
    #[must_use]
    pub fn kept(self, paranoid: i32, root: bool) -> Vec<Kept> {
        let attaching = self.uprobe_multi || self.tracefs || self.single;
        let always = ALWAYS.iter().copied().filter(|_| attaching);
        let perf = match self.single {
            true => Some(OF_SINGLE),
            false => (self.tracefs && paranoid > 2).then_some(OF_PARANOID_PERF),
        };
        let tracefs = (self.tracefs && !root).then_some(OF_TRACEFS);
        let pins = (self.pins && !root).then_some(OF_PINS);
        let targets = self.targets.then_some(OF_TARGETS);
        let command = self.command.then_some(OF_COMMAND);
        let collector = (self.collector && !self.command).then_some(OF_COLLECTOR);
        [perf, tracefs, pins, targets, command, collector].into_iter().flatten().chain(always).collect()
    }

    /// System calls that end a guard with only these tasks left.
    pub fn deadly(self) -> impl Iterator<Item = &'static Deadly> {
        let of_pins = [DEADLY_WITHOUT_PINS, DEADLY_WITHOUT_PINS_HERE].into_iter().filter(move |_| !self.pins);
        let of_targets = (!self.targets).then_some(DEADLY_WITHOUT_TARGETS);
        let of_tracing = (!self.follows).then_some(DEADLY_WITHOUT_TRACING);
        [DEADLY, DEADLY_HERE].into_iter().chain(of_pins).chain(of_targets).chain(of_tracing).flatten()
    }
}

macro_rules! deadly {
    ($($name:ident),* $(,)?) => {
        &[$(Deadly { name: stringify!($name), number: nix::libc::$name }),*]
    };
}

/// Calls that a guard never makes once everything is in place. It may start threads at the end,
/// because the kernel is slow to close many probes.
pub const DEADLY: &[Deadly] = deadly![
    SYS_execve,
    SYS_execveat,
    SYS_process_vm_writev,
    SYS_socket,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_accept4,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_setns,
    SYS_unshare,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_renameat2,
    SYS_fchmodat,
    SYS_fchownat,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_open_by_handle_at,
    SYS_pidfd_getfd,
    SYS_add_key,
    SYS_keyctl,
];

/// Older names of these calls, which musl uses if an architecture has them.
#[cfg(target_arch = "x86_64")]
pub const DEADLY_HERE: &[Deadly] = deadly![SYS_vfork];
/// Older names of these calls; this architecture has no such names.
#[cfg(not(target_arch = "x86_64"))]
pub const DEADLY_HERE: &[Deadly] = &[];

/// Calls that only a guard makes that loads objects for later targets: libbpf gives a map that is
/// not created yet the descriptor of an empty file (create_placeholder_fd in libbpf.c).
pub const DEADLY_WITHOUT_TARGETS: &[Deadly] = deadly![SYS_memfd_create];

/// Calls that only a guard makes that follows the processes of a command.
pub const DEADLY_WITHOUT_TRACING: &[Deadly] = deadly![SYS_ptrace];

/// Calls that only a guard with pinned maps makes: for their directories, and for replacing maps.
pub const DEADLY_WITHOUT_PINS: &[Deadly] = deadly![SYS_mkdirat, SYS_unlinkat];

/// Other names of these calls.
#[cfg(target_arch = "x86_64")]
pub const DEADLY_WITHOUT_PINS_HERE: &[Deadly] =
    deadly![SYS_mkdir, SYS_rmdir, SYS_unlink, SYS_rename, SYS_renameat];
/// The other rename call, by number (include/uapi/asm-generic/unistd.h): the crate has no name for
/// it with glibc on aarch64.
#[cfg(not(target_arch = "x86_64"))]
pub const DEADLY_WITHOUT_PINS_HERE: &[Deadly] = &[Deadly { name: "SYS_renameat", number: 38 }];

/// Text in `check` about the kept rights, if probes use a route.
#[must_use]
pub fn in_words(route: Route, paranoid: i32, root: bool) -> String {
    let kept: Vec<String> = Tasks::NONE
        .and(route)
        .kept(paranoid, root)
        .into_iter()
        .map(|(capability, what)| format!("{capability} ({what})"))
        .collect();
    format!(
        "what reads files and figures: nothing; what attaches, once everything is in place: {}",
        kept.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_depends_on_what_is_still_to_be_done() {
        let names = |tasks: Tasks, paranoid| {
            tasks.kept(paranoid, true).into_iter().map(|(capability, _)| capability).collect::<Vec<_>>()
        };
        assert!(names(Tasks::NONE, 3).is_empty());
        let few = names(Tasks::NONE.and(Route::UprobeMulti), 3);
        assert!(few.contains(&Capability::CAP_PERFMON) && !few.contains(&Capability::CAP_SYS_ADMIN));
        assert_eq!(names(Tasks::NONE.and(Route::Tracefs), 2), few);
        for route in [Route::Tracefs, Route::Single] {
            let both = Tasks::NONE.and(Route::UprobeMulti).and(route);
            assert!(names(both, 3).contains(&Capability::CAP_SYS_ADMIN));
        }
        assert_eq!(names(Tasks { command: true, ..Tasks::NONE }, 3), [Capability::CAP_KILL]);
        assert!(names(Tasks::NONE.and(Route::Single), 2).contains(&Capability::CAP_SYS_ADMIN));
        let overrides = |root: bool| {
            let having = [Tasks::NONE.and(Route::Tracefs), Tasks { pins: true, ..Tasks::NONE }];
            having.map(|tasks| {
                let kept = tasks.kept(2, root);
                kept.iter().any(|(capability, _)| *capability == Capability::CAP_DAC_OVERRIDE)
            })
        };
        assert_eq!((overrides(false), overrides(true)), ([true; 2], [false; 2]));
    }
}
