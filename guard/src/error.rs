//! Errors of the guard: one variant for each step, each with the next step.

use serde::{Deserialize, Serialize};

use crate::protocol::{Route, Unfit};

mod kind;
mod os;

pub use kind::Kind;
pub use os::Os;

/// Text of bounded length inside an error.
pub type Text = heapless::String<400>;

/// Cuts `text` to the length of a [`Text`].
pub fn text(text: impl std::fmt::Display) -> Text {
    let mut cut = Text::new();
    for c in text.to_string().chars() {
        if cut.push(c).is_err() {
            break;
        }
    }
    cut
}

/// Reason for which the guard did not do the requested work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum GuardError {
    /// No such process.
    #[error("no process {pid}: it does not exist or has ended; `ps` lists those that run")]
    NoProcess {
        /// Process id.
        pid: i32,
    },
    /// The guard runs inside a PID namespace.
    #[error(
        "edgelat runs in a PID namespace of its own, where the kernel's numbers of processes are not ours; run it outside, or the container with the host's PID namespace (--pid=host, hostPID: true)"
    )]
    PidNamespace,
    /// The id is a thread of another process.
    #[error("{pid} is a thread of process {process}; name the process: -p {process}")]
    Thread {
        /// The given id.
        pid: i32,
        /// Its process.
        process: i32,
    },
    /// A process without a program.
    #[error(
        "process {pid} executes no file (a kernel thread, or one that has ended or is about to); it has no functions to measure"
    )]
    NoImage {
        /// Process id.
        pid: i32,
    },
    /// Its main thread has ended while others run: the kernel hides its image and mappings.
    #[error(
        "the main thread of process {pid} has ended, and the kernel shows no image of a process without one; begin to measure before that, after a restart of the process"
    )]
    MainThreadEnded {
        /// Process id.
        pid: i32,
    },
    /// The collector lost its guard.
    #[error("the guard has ended, and its probes went with it; nothing is measured any more")]
    Gone,
    /// The collector was killed.
    #[error("the collector was ended by {signal}; all probes are removed")]
    CollectorKilled {
        /// The signal.
        signal: Text,
    },
    /// The collector cannot become the named user.
    #[error("collector_user {user}: {reason}")]
    User {
        /// Its name.
        user: Text,
        /// The reason.
        reason: Text,
    },
    /// The configuration file is refused: [`crate::config_file::ConfigFileError`] in words.
    #[error("{file}: {reason}")]
    ConfigFile {
        /// Its path.
        file: Text,
        /// The reason, and the next step.
        reason: Text,
    },
    /// The collector hangs.
    #[error(
        "the collector has done nothing and asked for nothing for {seconds} s, so it hangs; all probes are removed, and whoever supervises edgelat should start it again"
    )]
    Silent {
        /// Longest silence that is allowed.
        seconds: u32,
    },
    /// The two processes could not be made, or could not talk.
    #[error("cannot {step}: {os}")]
    Split {
        /// The failed step.
        step: Text,
        /// The reason.
        os: Os,
    },
    /// The collector could not give up its rights.
    #[error(
        "cannot give up {what}: {reason}; nothing was measured, because that would need more rights than it should"
    )]
    Rights {
        /// The rights.
        what: Text,
        /// The reason.
        reason: Text,
    },
    /// The collector is to be on an isolated CPU, and none is free for it.
    #[error(
        "there is no isolated CPU for the collector: {reason}; isolate one (isolcpus= on the kernel's command line, or an isolated cpuset partition that edgelat is started in), or say prefer-isolated"
    )]
    NoIsolatedCpu {
        /// The reason.
        reason: Text,
    },
    /// The collector cannot be on the named CPU.
    #[error("the collector cannot run on CPU {cpu}: {reason}; name another one, or say prefer-isolated")]
    CollectorCpu {
        /// The CPU.
        cpu: u32,
        /// The reason.
        reason: Text,
    },
    /// The collector could not be made to yield to other processes.
    #[error("cannot {step}: {os}; a seccomp filter or a security module around edgelat forbids it")]
    Placement {
        /// The failed step.
        step: Text,
        /// The reason.
        os: Os,
    },
    /// A target may run on CPUs where it is not to be measured.
    #[error(
        "thread {thread} of process {pid} may run on CPUs that are not isolated ({cpus}; isolated are {isolated}); keep it on these with `taskset -acp {isolated} {pid}`, or measure it wherever it runs"
    )]
    NotOnIsolated {
        /// Process id.
        pid: i32,
        /// Thread id.
        thread: i32,
        /// CPUs where it may run, but should not.
        cpus: Text,
        /// The isolated CPUs.
        isolated: Text,
    },
    /// A process with more threads than are examined.
    #[error(
        "process {pid} has more than {bound} threads; where they may run is not looked at: measure it wherever it runs"
    )]
    TooManyThreads {
        /// Process id.
        pid: i32,
        /// Most threads that are examined.
        bound: u32,
    },
    /// A command did not start.
    #[error("cannot start '{command}': {reason}; give a path or a name in PATH after --")]
    Start {
        /// The word after `--`.
        command: Text,
        /// The system's reason.
        reason: Text,
    },
    /// A command ended before its probes were in place.
    #[error("'{command}' ended before anything could be measured: {how}")]
    EndedEarly {
        /// The word after `--`.
        command: Text,
        /// Exit status or signal.
        how: Text,
    },
    /// A command could not be held.
    #[error("cannot hold '{command}' while probes are attached: {os}; start it yourself and use -p")]
    Hold {
        /// The word after `--`.
        command: Text,
        /// The system's reason.
        os: Os,
    },
    /// The agent itself.
    #[error("process {pid} is edgelat itself, which must not stop at its own probes; name another process")]
    OwnProcess {
        /// Process id.
        pid: i32,
    },
    /// A debugger holds the target.
    #[error(
        "process {pid} is traced by process {tracer} (a debugger or strace); probes and breakpoints of a debugger disturb each other: end it, or say --allow-ptrace"
    )]
    Traced {
        /// Process id.
        pid: i32,
        /// The tracer.
        tracer: i32,
    },
    /// A file of /proc could not be read.
    #[error("cannot read {file}: {os}")]
    Proc {
        /// The file.
        file: Text,
        /// The reason.
        os: Os,
    },
    /// A right is missing.
    #[error("not permitted to {action} ({os}); run as root, or give edgelat {need}")]
    NotPermitted {
        /// The attempted action.
        action: Text,
        /// The kernel's answer.
        os: Os,
        /// The right that would allow it.
        need: Text,
    },
    /// No such mapping.
    #[error("process {pid} has no mapped image number {index}; it changed meanwhile, try again")]
    NoMapping {
        /// Process id.
        pid: i32,
        /// The requested number.
        index: u32,
    },
    /// A mapped file could not be opened.
    #[error("cannot open {path} of process {pid}: {os}")]
    OpenImage {
        /// Process id.
        pid: i32,
        /// The path.
        path: Text,
        /// The reason.
        os: Os,
    },
    /// The file at the path is not the one that is mapped.
    #[error(
        "{path} is not the file that process {pid} has mapped; it was replaced: restart the process or name its new instance"
    )]
    ImageReplaced {
        /// Process id.
        pid: i32,
        /// The path.
        path: Text,
    },
    /// A file whose code cannot be probed.
    #[error("{path}, which process {pid} has mapped, cannot be probed: {reason}")]
    NoElf {
        /// Process id.
        pid: i32,
        /// The path.
        path: Text,
        /// The reason.
        reason: Text,
    },
    /// A file system served by another machine or program.
    #[error(
        "the file system of {path}, which process {pid} has mapped, does not answer; try again once whoever serves it does"
    )]
    Stalled {
        /// The path.
        path: Text,
        /// Process id.
        pid: i32,
    },
    /// A plan that the guard refuses.
    #[error("the plan is not sound: {reason}")]
    BadPlan {
        /// The fault.
        reason: Text,
    },
    /// The image changed between reading and attaching.
    #[error(
        "the image changed while it was read ({what}); nothing was attached: try again when the update is finished"
    )]
    ImageChanged {
        /// The difference.
        what: Text,
    },
    /// The plan needs too much memory.
    #[error(
        "{functions} functions on {lanes} CPUs and {frames} frames need {bytes} bytes of kernel memory, the bound is {bound}; choose fewer functions, or raise --max-map-bytes"
    )]
    TooMuchMemory {
        /// Functions.
        functions: u32,
        /// Possible CPUs.
        lanes: u32,
        /// Frames.
        frames: u32,
        /// Bytes needed.
        bytes: u64,
        /// Bytes allowed.
        bound: u64,
    },
    /// Attaching would take memory that the target may need.
    #[error(
        "the probes would take {bytes} bytes of memory of process {pid}, and {of} has room for {room}: probed pages of code \
         become private memory of the process, which could be killed for it; choose fewer functions, or raise the limit"
    )]
    NoHeadroom {
        /// Process id.
        pid: i32,
        /// Bytes that the probes would take.
        bytes: u64,
        /// Bytes of room.
        room: u64,
        /// Control group of the room, or the machine.
        of: Text,
    },
    /// The memory limit was reached while attaching.
    #[error(
        "process {pid} reached its memory limit while {sites} probes were attached, because probed pages of code become \
         private memory of the process; the probes are removed: choose fewer functions, or raise the limit of its control \
         group"
    )]
    OutOfMemory {
        /// Process id.
        pid: i32,
        /// Probes.
        sites: u32,
    },
    /// A function that must not be probed in this process.
    #[error("{name} cannot be probed in process {pid}: {}", .why.reason())]
    Unfit {
        /// Process id.
        pid: i32,
        /// The function's number in the plan.
        function: u32,
        /// The function's name, once the collector has filled it in.
        name: Text,
        /// The reason.
        why: Unfit,
    },
    /// The kernel placed fewer probes than it reported.
    #[error(
        "{missing} of {sites} probes are not in the memory of process {pid} although route {} attached them, those of \
         {name} first; nothing is measured, because its calls would be missing: try another --route", .route.name()
    )]
    NotArmed {
        /// Process id.
        pid: i32,
        /// The function's number in the plan.
        function: u32,
        /// The function's name, once the collector has filled it in.
        name: Text,
        /// Probes that are missing.
        missing: u32,
        /// All probes.
        sites: u32,
        /// The route.
        route: Route,
    },
    /// No type information in the kernel.
    #[error(
        "this kernel has no BTF (/sys/kernel/btf/vmlinux); edgelat needs Linux 5.11 or later built with CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf,
    /// The kernel lacks something.
    #[error("this kernel cannot {what}: {reason}")]
    Unsupported {
        /// The wanted action.
        what: Text,
        /// The reason.
        reason: Text,
    },
    /// The kernel refused the BPF object.
    #[error("the kernel did not accept the BPF programs ({os}): {log}")]
    Load {
        /// The kernel's answer.
        os: Os,
        /// The end of the messages of libbpf and the verifier.
        log: Text,
    },
    /// Mapping the switch failed.
    #[error("cannot map the BPF arrays: {reason}")]
    Map {
        /// The reason.
        reason: Text,
    },
    /// Attaching failed.
    #[error("cannot attach {sites} probes to process {pid} by route {}: {os}; {hint}", .route.name())]
    Attach {
        /// Process id.
        pid: i32,
        /// Number of probes.
        sites: u32,
        /// The route.
        route: Route,
        /// The kernel's answer.
        os: Os,
        /// The next place to look.
        hint: Text,
    },
    /// A route that does not fit.
    #[error("route {} cannot be used: {reason}", .route.name())]
    Route {
        /// The route.
        route: Route,
        /// The reason.
        reason: Text,
    },
    /// Every route failed.
    #[error("no route to attach probes works here: {reasons}")]
    NoRoute {
        /// Each with its reason.
        reasons: Text,
        /// True if one of the reasons is a lack of permission.
        denied: bool,
    },
    /// An id that the guard did not issue, or a request out of order.
    #[error("request out of order: {what}")]
    Order {
        /// The fault.
        what: Text,
    },
    /// Another agent runs.
    #[error(
        "edgelat runs already{}: it holds {file}; two would pay for their probes twice and sweep away what the other made: end it first, or use what it measures", .pid.map_or(String::new(), |pid| format!(" as process {pid}"))
    )]
    AlreadyRuns {
        /// The agent, if its process id is known.
        pid: Option<i32>,
        /// The file that the agent has locked.
        file: Text,
    },
    /// The lock cannot be taken.
    #[error(
        "cannot lock {file}, which keeps a second agent away: {os}; name a directory for running programs that edgelat can write to"
    )]
    RunLock {
        /// The file.
        file: Text,
        /// The reason.
        os: Os,
    },
    /// The service's cost cannot be published.
    #[error(
        "cannot write {file}: {os}; `edgelat watch` beside this service will not know what it costs, and not share its max_cost"
    )]
    Share {
        /// The file.
        file: Text,
        /// The reason.
        os: Os,
    },
    /// The quarantine cannot be kept.
    #[error(
        "cannot {step} (the quarantine): {os}; what must not be probed again is remembered as long as edgelat runs and no longer: give it a state directory that it can write to"
    )]
    Quarantine {
        /// The failed step.
        step: Text,
        /// The reason.
        os: Os,
    },
    /// There is no place to pin maps.
    #[error(
        "there is no bpf file system at {path}, where maps are pinned: `mount -t bpf bpf {path}` mounts it (systemd does so at boot), or leave out pin = true"
    )]
    NoBpfFileSystem {
        /// Expected mount point.
        path: Text,
    },
    /// A map could not be pinned.
    #[error(
        "cannot {step} {path}, where maps are pinned: {os}; look what is there and whose it is, or leave out pin = true"
    )]
    Pin {
        /// The failed step.
        step: Text,
        /// The file or directory.
        path: Text,
        /// The reason.
        os: Os,
    },
    /// A message that cannot be carried.
    #[error("a message between collector and guard does not fit its bounds")]
    Message,
}
