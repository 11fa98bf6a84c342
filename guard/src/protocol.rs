//! The messages between collector and guard.
//!
//! This file defines them; `line.rs` carries them. Every message has a fixed capacity
//! ([`heapless`]), is encoded as [`postcard`], and fits [`MESSAGE_BYTES`], so neither side can make
//! the other allocate. Descriptors travel beside a message, never in it.
//!
//! A session is a short state machine: open a target, open its images, hand over a plan in pieces,
//! attach, arm, listen to events, disarm, detach. The guard answers each [`Request`] with one
//! [`Reply`]; a plan may name only a target and images that the guard has issued.

use serde::{Deserialize, Serialize};

use crate::error::{GuardError, Text};
use crate::placement::TargetsOn;

/// Largest encoded message in bytes.
pub const MESSAGE_BYTES: usize = 16 * 1024;
/// Longest path in a message in bytes; longer paths are cut and marked.
pub const PATH_BYTES: usize = 512;
/// Sites in one message.
pub const SITES: usize = 256;
/// Mapped images in one message.
pub const IMAGES: usize = 16;
/// Events in one message.
pub const EVENTS: usize = 16;
/// Found processes in one message.
pub const FOUND: usize = 16;
/// Functions in one message that must not be probed.
pub const UNSOUND: usize = 256;
/// Longest build-id in bytes; GNU build-ids have 20 bytes, some tools write 32.
pub const BUILD_ID_BYTES: usize = 64;

/// A path as text of bounded length.
pub type Path = heapless::String<PATH_BYTES>;

/// Number of a target that the guard issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TargetId(pub u32);

/// Number of an open image that the guard issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ImageId(pub u32);

/// Number of a plan that the guard issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PlanId(pub u32);

/// Method of observing returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Returns {
    /// A probe on every exit site. Safe everywhere.
    Ret,
    /// The kernel replaces the return address of every call.
    Uretprobe,
}

/// Kernel interface that places the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Route {
    /// One link for all sites of an image and process. Linux 6.6.
    UprobeMulti,
    /// Events of the tracing file system with many probes each.
    Tracefs,
    /// One perf event a site; slow to detach, for a handful.
    Single,
}

impl Route {
    /// Name in options and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::UprobeMulti => "uprobe_multi",
            Self::Tracefs => "tracefs",
            Self::Single => "single",
        }
    }
}

/// Fault signals (SEGV, BUS, ILL, TRAP, ABRT, FPE, SYS) that remove the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnSignal {
    /// Every fault signal that reaches a process, even if the process handles it.
    Any,
    /// Only those that end the process: for programs whose runtime interprets faults, as Go's does.
    Fatal,
}

/// A signal that removed the probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Signal number.
    pub signal: i32,
    /// Origin: `si_code` of sigaction(2). Above 0 the kernel itself; among the others, SI_TKILL is
    /// as a rule the process' own abort.
    pub code: i32,
    /// The process has a handler for it.
    pub handled: bool,
    /// Another process sent it.
    pub sent: bool,
}

impl Fault {
    /// A signal that the kernel had no room to report.
    pub const UNTOLD: Self = Self { signal: 0, code: 0, handled: false, sent: false };
}

/// Options of a plan, apart from its sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOptions {
    /// Functions: rows of the histogram array.
    pub functions: u32,
    /// Frames of the frame table; rounded up to whole sets and a power of two.
    pub frames: u32,
    /// Upper bound for the arrays of the plan in bytes.
    pub max_map_bytes: u64,
    /// Method of observing returns.
    pub returns: Returns,
    /// The route to take; `None` lets the guard choose the least demanding route.
    pub route: Option<Route>,
    /// Attach the children of the target as well.
    pub follow_forks: bool,
    /// Signals that remove the probes.
    pub on_signal: OnSignal,
    /// CPUs on which a call must begin to be measured.
    pub targets_on: TargetsOn,
    /// Measure functions of Python, whose rows are the last of [`functions`](Self::functions).
    pub python: Option<PythonPlan>,
    /// Budget of its probes in millionths of one CPU's time, once the cost of a call is known; a
    /// higher cost removes them.
    pub max_cost_ppm: Option<u64>,
    /// If they cost more, measure in windows instead of removing them.
    pub sample: bool,
    /// Show rows and frames to others, below /sys/fs/bpf.
    pub pin: bool,
}

/// Layout of a Python interpreter, as the programs need it. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonPlan {
    /// Rows for its functions.
    pub rows: u32,
    /// Slots for functions; a power of two.
    pub slots: u32,
    /// Sets of the cache of code objects; a power of two.
    pub sets: u32,
    /// Upper bound for descriptions that wait for the collector; a power of two.
    pub texts: u32,
    /// Index of the frame among the arguments of the evaluation loop: 0 or 1.
    pub frame_argument: u8,
    /// In a frame: offset of its code object.
    pub frame_code: u16,
    /// Low bits of that pointer that are marks.
    pub code_marks: u8,
    /// In a frame: offset of its owner; 0 if creating a generator is no call.
    pub frame_owner: u16,
    /// In a code object: offset of its file name.
    pub code_file: u16,
    /// In a code object: offset of the reported name.
    pub code_name: u16,
    /// In a code object: offset of the flags.
    pub code_flags: u16,
    /// In a code object: offset of the first line.
    pub code_line: u16,
    /// In an ASCII string: offset of its text.
    pub text: u16,
    /// In any other string: offset of its text.
    pub wide_text: u16,
    /// Its frames cannot be distinguished.
    pub counts_only: bool,
    /// Measure whole awaits.
    pub awaits: Option<AwaitPlan>,
}

/// Layout that the programs need to measure whole awaits. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitPlan {
    /// Sets of the frame table for open awaits; a power of two.
    pub sets: u32,
    /// In a frame: offset of its current position.
    pub frame_position: u16,
    /// In a code object: number of a resume's first instruction; 0 if the position's sign says it.
    pub code_first: u16,
    /// From a frame: offset of the state that shows if it has returned.
    pub frame_state: i16,
    /// Lowest state value of a frame that has returned.
    pub ended: u16,
}

/// A site of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSite {
    /// File offset of the instruction.
    pub offset: u64,
    /// Data for the program: function, condition, marks (the `SITE_` bits of the BPF layout).
    pub cookie: u64,
    /// An exit site; else an entry site.
    pub exit: bool,
    /// The kernel single-steps the instruction, which costs more than emulation.
    pub stepped: bool,
    /// Bytes of the decoded image at the site.
    pub code: [u8; 4],
    /// Number of valid bytes in `code`: fewer than four at the end of an image.
    pub code_len: u8,
    /// Bytes of the function before an entry site that the entry slid over, as far as they fit.
    pub before: u8,
}

/// Reason why a function of a plan must not be probed in its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unfit {
    /// Its code differs in memory from the file: it was patched.
    Patched,
    /// A breakpoint is at the site. The program may have set it itself, because it handles SIGTRAP.
    Breakpoint,
    /// Its code is mapped writable or shared, and the kernel places no probe there.
    Writable,
    /// No mapping of the file holds its code any more.
    Unmapped,
    /// The process has a shadow stack: a probed call or return leaves the copy there wrong.
    ShadowStack,
}

impl Unfit {
    /// Text of the reason, and the next step.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Patched => {
                "its code in memory differs from the file (a live patch or a hook), and a probe would execute the file's \
                 instruction; undo the patch, or measure the function that took its place"
            }
            Self::Breakpoint => {
                "a breakpoint stands in its code, and the process handles SIGTRAP itself: it may be the program's own; end \
                 other tools that probe it, or leave the function out"
            }
            Self::Writable => {
                "its code is mapped writable or shared, and the kernel places no probe there; the program has to make it \
                 read-only again (mprotect)"
            }
            Self::Unmapped => {
                "its code is not mapped from the file any more (copied to huge pages, or unmapped), and no call would be \
                 seen; switch that off in the program"
            }
            Self::ShadowStack => {
                "the process has a shadow stack, and kernels before 6.11 and 7.2 would break it at this probe: start the \
                 program with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK, or measure by --returns ret"
            }
        }
    }

    /// Stable code of the reason.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Patched => "patched-in-memory",
            Self::Breakpoint => "own-breakpoint",
            Self::Writable => "writable-in-memory",
            Self::Unmapped => "not-mapped",
            Self::ShadowStack => "shadow-stack",
        }
    }
}

/// A function of a plan that must not be probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsound {
    /// Its number in the plan.
    pub function: u32,
    /// The reason.
    pub why: Unfit,
}

/// A request of the collector to the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one buffer of a fixed size each way is the point")]
pub enum Request {
    /// Open a running process as target. It must be a process that edgelat was started for.
    OpenTarget {
        /// Process id.
        pid: i32,
        /// Accept a target that a debugger traces.
        allow_ptrace: bool,
    },
    /// List the executable mappings of a target.
    ListImages {
        /// The target.
        target: TargetId,
        /// Continue the last listing from this number; without it, begin a new listing.
        from: Option<u32>,
    },
    /// Open a mapped image of the last listing. The descriptor comes with the reply.
    OpenImage {
        /// The target.
        target: TargetId,
        /// Number in the list.
        index: u32,
    },
    /// Begin a plan.
    BeginPlan {
        /// The target.
        target: TargetId,
        /// Its options.
        options: PlanOptions,
    },
    /// State the build-id that an image must have, and its file offset.
    PlanBuildId {
        /// The plan.
        plan: PlanId,
        /// The image.
        image: ImageId,
        /// File offset of the build-id.
        offset: u64,
        /// The build-id.
        bytes: heapless::Vec<u8, BUILD_ID_BYTES>,
    },
    /// Add sites to a plan.
    PlanSites {
        /// The plan.
        plan: PlanId,
        /// The image they are in.
        image: ImageId,
        /// The sites.
        sites: heapless::Vec<PlanSite, SITES>,
    },
    /// Look at the target's memory for functions of the plan that must not be probed there,
    /// beginning at number `from`, and for the number of private pages that there is room for.
    Examine {
        /// The plan.
        plan: PlanId,
        /// The number.
        from: u32,
    },
    /// Load the programs. The descriptors of rows and frames come with the reply.
    Load {
        /// The plan.
        plan: PlanId,
    },
    /// Measure the overhead of a probe on functions of the agent's own; any time after loading.
    Calibrate {
        /// The plan.
        plan: PlanId,
    },
    /// Report the cost of a plan's probes so far, and their present overhead.
    Cost {
        /// The plan.
        plan: PlanId,
    },
    /// Attach all sites to the target, switched off.
    Attach {
        /// The plan.
        plan: PlanId,
    },
    /// Count from now on.
    Arm {
        /// The plan.
        plan: PlanId,
    },
    /// Count no more.
    Disarm {
        /// The plan.
        plan: PlanId,
    },
    /// Remove every probe of a plan.
    Detach {
        /// The plan.
        plan: PlanId,
    },
    /// Report the events since the last request.
    Events,
    /// Read a list in the memory of a process: one word of each element. If functions of Python are
    /// to be measured, this shows the way its interpreters treat calls.
    ReadList {
        /// The target.
        target: TargetId,
        /// The process: the target's, or another that its plans cover.
        pid: i32,
        /// Location of the list.
        list: List,
    },
    /// Advance the command that the guard has started to its next candidate image. The image of its
    /// start has to be examined before.
    StepCommand,
    /// Let one of its processes run untraced. Others with the same image are covered later.
    ReleaseCommand {
        /// The process.
        pid: i32,
    },
    /// Begin a search for processes; the reply holds the first results.
    FindProcesses {
        /// Attribute to compare.
        word: Word,
        /// Prefix of the attribute.
        begins: Path,
        /// The prefix is the whole word.
        whole: bool,
    },
    /// Continue the same search.
    FindMore,
    /// Forget a target, its images, and the rest of its plans.
    ForgetTarget {
        /// The target.
        target: TargetId,
    },
    /// Read the configuration file again. The descriptor comes with the reply.
    OpenConfig,
    /// The guard gives up the rights that it no longer needs. No further plan follows, except from
    /// a service that attaches to later processes.
    Settle,
    /// Report the state of the service to its supervisor.
    Status {
        /// It is ready.
        ready: bool,
        /// One line.
        text: Text,
    },
    /// Wait a moment for the command's end; it has [stepped](Reply::Stepped) if still running.
    FinishCommand {
        /// Ask it to end, and report the result.
        terminate: bool,
    },
}

/// Attribute of a process to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Path of its executable.
    Executable,
    /// Its command name, at most 15 bytes.
    Command,
    /// Its control group in the unified hierarchy, from the slash on.
    ControlGroup,
}

/// A process that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// The word that was compared.
    pub word: Path,
}

/// Upper bound for the elements of a list that are read.
pub const ELEMENTS: usize = 64;

/// Words that are read at the beginning of a list.
pub const HEAD: usize = 8;

/// A list in the memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// The image whose data holds the beginning of the list.
    pub image: ImageId,
    /// File offset of the words there.
    pub begin: u64,
    /// Index of the word that holds the address of the first element.
    pub first: u8,
    /// In an element: the address of the next one.
    pub next: u16,
    /// In an element: the word that is read.
    pub word: u16,
}

/// A mapped image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedImage {
    /// Number for [`Request::OpenImage`].
    pub index: u32,
    /// Path as the process sees it.
    pub path: Path,
    /// The path was longer than [`PATH_BYTES`].
    pub cut: bool,
    /// The file was removed or replaced since it was mapped.
    pub deleted: bool,
    /// The process executes this image.
    pub executable: bool,
    /// Part of its code is mapped writable or shared.
    pub writable: bool,
    /// Device (major, minor) and inode as the list of mappings shows them: a different value means
    /// a different file, whatever its path.
    pub file: (u32, u32, u64),
}

/// Cost of each kind of probe: in the reported durations, or in total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bias {
    /// Entry site that the kernel emulates, exit site that it emulates, ns.
    pub emulated_emulated_ns: Option<u64>,
    /// Entry emulated, exit single-stepped (or a return probe), ns.
    pub emulated_stepped_ns: Option<u64>,
    /// Entry single-stepped, exit emulated, ns.
    pub stepped_emulated_ns: Option<u64>,
    /// Both single-stepped, ns.
    pub stepped_stepped_ns: Option<u64>,
}

impl Bias {
    /// Value for a call whose sites are of these kinds. A return probe was measured in the place of
    /// an exit that the kernel emulates.
    #[must_use]
    pub fn of(&self, entry_stepped: bool, exit_stepped: bool, returns: Returns) -> Option<u64> {
        match (entry_stepped, exit_stepped && returns == Returns::Ret) {
            (false, false) => self.emulated_emulated_ns,
            (false, true) => self.emulated_stepped_ns,
            (true, false) => self.stepped_emulated_ns,
            (true, true) => self.stepped_stepped_ns,
        }
    }
}

/// Something that happened to a process of a target's family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "an error holds its text itself, so that nothing is allocated for it"
)]
pub enum Event {
    /// The target or a child is covered from now on.
    Covered {
        /// The process.
        pid: i32,
        /// Age of a child that was covered at its birth, in nanoseconds; else 0.
        late_ns: u64,
    },
    /// A child could not be attached.
    NotCovered {
        /// The process.
        pid: i32,
        /// The reason.
        error: GuardError,
    },
    /// Children that executed the measured image ended before they could be covered.
    Missed {
        /// Number of these children since the last report.
        children: u32,
        /// Sum of their lifetimes in nanoseconds.
        ns: u64,
    },
    /// The process got a fault signal. From that moment on, counting is off in all of the plan's
    /// processes, and all its probes are gone.
    Faulted {
        /// The process.
        pid: i32,
        /// The signal.
        fault: Fault,
        /// Probes that were removed.
        sites: u32,
        /// Time from the guard's notice of the signal to the end of the removal, in nanoseconds.
        took_ns: u64,
    },
    /// The process ended.
    Ended {
        /// The process.
        pid: i32,
        /// Its status as wait(2) returns it, if the kernel reported it.
        status: Option<u32>,
        /// The OOM killer has ended a process since probes were attached to this one.
        out_of_memory: bool,
    },
    /// A debugger traces the process, unlike when it was covered. The probes are gone.
    Traced {
        /// The process.
        pid: i32,
        /// The tracer.
        tracer: i32,
    },
    /// Its main thread ended, others run. With it went this route's probes: the kernel finds the
    /// address space of these events through it (Linux 6.18, kernel/trace/trace_uprobe.c,
    /// `__uprobe_perf_filter`).
    MainThreadEnded {
        /// The process.
        pid: i32,
    },
    /// The process executes the same image anew, and its open calls are over.
    Executed {
        /// The process.
        pid: i32,
        /// Time of the execution, on the monotonic clock in nanoseconds.
        time_ns: u64,
        /// Nothing was counted from then until now: an execution by another than the main thread
        /// stops the probes in the kernel.
        gap: bool,
    },
    /// The process executes another image now.
    Replaced {
        /// The process.
        pid: i32,
    },
    /// Python functions were called for the first time; the mapped arrays hold their descriptions.
    NewCode,
    /// The probes exceeded their budget and are gone. The counts so far can be read.
    OverBudget {
        /// Their cost in millionths of one CPU's time: the plan's, or that of all plans.
        ppm: u64,
        /// The bound that was exceeded.
        of: BudgetOf,
    },
    /// Events of the plan were lost: children may be missing. The probes are gone.
    Overrun {
        /// Events that were lost.
        lost: u32,
    },
    /// A probed file was written to or replaced. The probes are gone.
    ImageChanged,
    /// The probes cost more than the bound, and are on in windows only from now on.
    Sampled {
        /// Millionths of one CPU.
        ppm: u64,
    },
    /// The agent was stopped, as by Ctrl-Z, its probes off for `off_ns`. Open calls are abandoned.
    Stopped {
        /// From the first removed probe to the last that was attached again, in nanoseconds.
        off_ns: u64,
    },
}

/// Scope of a cost bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BudgetOf {
    /// The plan alone.
    Plan,
    /// All plans together.
    AllPlans,
    /// All plans, together with those of the service that runs beside them.
    Both {
        /// Cost of the service in millionths of one CPU's time.
        service: u64,
        /// Its budget.
        bound: u64,
    },
}

/// An event and its plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The plan.
    pub plan: PlanId,
    /// The event.
    pub event: Event,
}

/// The guard's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one buffer of a fixed size each way is the point")]
pub enum Reply {
    /// A target was opened.
    Target {
        /// Its number.
        target: TargetId,
        /// Start time in clock ticks since boot (field 22 of /proc/PID/stat).
        start: u64,
        /// Its real user id.
        user: u32,
    },
    /// Mapped images.
    Images {
        /// The next images.
        images: heapless::Vec<MappedImage, IMAGES>,
        /// There may be more; an empty part is not the end.
        more: bool,
        /// There are more images than the guard looks at.
        left_out: bool,
    },
    /// An image was opened; its descriptor comes with this reply.
    Image {
        /// Its number.
        image: ImageId,
    },
    /// A plan was begun.
    Plan {
        /// Its number.
        plan: PlanId,
    },
    /// State of the target's memory for a plan.
    Examined {
        /// Functions that must not be probed there, in the order of their numbers.
        unsound: heapless::Vec<Unsound, UNSOUND>,
        /// There are more.
        more: bool,
        /// Bytes of the target's memory that the plan's probes need.
        bytes: u64,
        /// Bytes that they may take.
        allowed: u64,
        /// Bytes of free room.
        room: u64,
        /// The control group that has this room, or the machine.
        of: Text,
    },
    /// The programs are loaded; with this come descriptors of rows and, if `maps_frames`, frames.
    Loaded {
        /// Lanes of a function.
        lanes: u32,
        /// Rows of a lane. The first are those of the plan's functions; the `entries` of the last
        /// count hits of probes at addresses that were unknown to the guard at that time.
        rows: u32,
        /// Sets of the frame table.
        frame_sets: u32,
        /// Frames can be mapped.
        maps_frames: bool,
        /// The route that was chosen.
        route: Route,
        /// One session sees entry and return: the programs need no probe on exits.
        session: bool,
        /// Slots for functions of Python. If any, descriptors of slots, pool and texts come last.
        code_slots: u32,
    },
    /// Cost of a call.
    Calibrated {
        /// Part that is in each reported duration.
        bias: Bias,
        /// Total cost.
        cost: Bias,
    },
    /// Cost of a plan.
    Cost {
        /// Total so far, in nanoseconds; `None` before the calibration.
        cost_ns: Option<u64>,
        /// Present addition of further processes' links to each duration, besides the bias, in ns.
        more_bias_ns: u64,
        /// Time in which its probes were off because of their cost, in nanoseconds.
        off_ns: u64,
    },
    /// The sites are attached.
    Attached {
        /// Probes in the kernel.
        sites: u32,
        /// Duration in nanoseconds.
        took_ns: u64,
    },
    /// The probes are gone.
    Detached {
        /// Duration in nanoseconds.
        took_ns: u64,
        /// Total cost of the plan in nanoseconds; `None` if it was not measured.
        cost_ns: Option<u64>,
    },
    /// Events, the oldest first.
    Events {
        /// The next events.
        events: heapless::Vec<Told, EVENTS>,
        /// There are more.
        more: bool,
    },
    /// A list, as far as it is readable.
    List {
        /// The words at the beginning of the list, followed by one word of each element.
        words: heapless::Vec<u64, { HEAD + ELEMENTS }>,
        /// The list is complete.
        whole: bool,
    },
    /// A file was opened; its descriptor comes with this reply.
    File,
    /// Processes that match.
    Processes {
        /// The next processes.
        processes: heapless::Vec<Found, FOUND>,
        /// There may be more; an empty part is not the end.
        more: bool,
    },
    /// The command advanced.
    Stepped {
        /// Its process that waits and may be examined; 0 if none arrived in twentieths of a second.
        pid: i32,
        /// It executes another image, of which nothing has run; else it may have mapped one.
        executed: bool,
        /// A part of the command continues to run.
        more: bool,
    },
    /// The command has ended.
    Finished {
        /// Description of a bad end; `None` if it ended well.
        badly: Option<Text>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// Done.
    Done,
    /// Not done.
    Refused(GuardError),
}
