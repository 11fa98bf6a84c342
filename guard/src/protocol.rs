//! The messages between collector and guard.
//!
//! The two meet in this file; `line.rs` carries it. Every message has a fixed capacity ([`heapless`]), is written
//! as [`postcard`], and fits [`MESSAGE_BYTES`], so neither side can make the other allocate. Descriptors
//! travel beside a message, never in it.
//!
//! A session is a short state machine: open a target, open images of it, hand over a plan in pieces, attach,
//! arm, listen to events, disarm, detach. The guard answers each [`Request`] with one [`Reply`]; a plan may
//! name only a target and images that the guard has issued.

use serde::{Deserialize, Serialize};

use crate::error::{GuardError, Text};
use crate::placement::TargetsOn;

/// Largest encoded message in bytes.
pub const MESSAGE_BYTES: usize = 16 * 1024;
/// Longest path in a message in bytes; longer ones are cut and marked.
pub const PATH_BYTES: usize = 512;
/// Sites in one message.
pub const SITES: usize = 256;
/// Mapped images in one message.
pub const IMAGES: usize = 16;
/// Events in one message.
pub const EVENTS: usize = 16;
/// Found processes in one message.
pub const FOUND: usize = 16;
/// Functions that must not be probed in one message.
pub const UNSOUND: usize = 256;
/// Longest build-id in bytes; GNU's are 20, some tools write 32.
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

/// How returns are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Returns {
    /// A probe on every exit site. Safe everywhere.
    Ret,
    /// The kernel replaces the return address of every call.
    Uretprobe,
}

/// How probes reach the kernel.
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
    /// The word for it in options and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::UprobeMulti => "uprobe_multi",
            Self::Tracefs => "tracefs",
            Self::Single => "single",
        }
    }
}

/// Which of the signals that say of a fault (SEGV, BUS, ILL, TRAP, ABRT, FPE, SYS) take the probes off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnSignal {
    /// Each that reaches a process, even if it handles it.
    Any,
    /// Those that end the process: for programs whose runtime makes sense of faults, as Go's does.
    Fatal,
}

/// A signal that took the probes off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Its number.
    pub signal: i32,
    /// Where it came from: `si_code` of sigaction(2). Above 0 the kernel itself; of the others, SI_TKILL is the process' own
    /// abort as a rule.
    pub code: i32,
    /// The process has a handler for it.
    pub handled: bool,
    /// Another process sent it.
    pub sent: bool,
}

impl Fault {
    /// One that the kernel found no room to tell of.
    pub const UNTOLD: Self = Self { signal: 0, code: 0, handled: false, sent: false };
}

/// What a plan asks for, apart from its sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanOptions {
    /// Functions: rows of the histogram array.
    pub functions: u32,
    /// Frames of the frame table; rounded up to whole sets and a power of two.
    pub frames: u32,
    /// Upper bound for the arrays of the plan in bytes.
    pub max_map_bytes: u64,
    /// How returns are seen.
    pub returns: Returns,
    /// The route to take; `None` lets the guard choose the one that needs least.
    pub route: Option<Route>,
    /// Attach the children of the target as well.
    pub follow_forks: bool,
    /// Which signals take the probes off.
    pub on_signal: OnSignal,
    /// On which CPUs calls have to begin to be measured.
    pub targets_on: TargetsOn,
    /// Measure functions of Python, whose rows are the last of [`functions`](Self::functions).
    pub python: Option<PythonPlan>,
    /// What its probes may cost, in millionths of one CPU's time, once the cost of a call is known; more takes them off.
    pub max_cost_ppm: Option<u64>,
    /// Where they cost more, they are on in windows only.
    pub sample: bool,
    /// Show rows and frames to others, below /sys/fs/bpf.
    pub pin: bool,
}

/// What the programs must know of a Python interpreter. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonPlan {
    /// Rows for its functions.
    pub rows: u32,
    /// Slots for functions; a power of two.
    pub slots: u32,
    /// Sets of the cache of code objects; a power of two.
    pub sets: u32,
    /// Descriptions that wait for the collector, at most; a power of two.
    pub texts: u32,
    /// Which argument of the evaluation loop is the frame: 0 or 1.
    pub frame_argument: u8,
    /// In a frame: its code object.
    pub frame_code: u16,
    /// Low bits of that pointer that are marks.
    pub code_marks: u8,
    /// In a frame: who owns it; 0 where making a generator is no call.
    pub frame_owner: u16,
    /// In a code object: name of its file.
    pub code_file: u16,
    /// In a code object: the name that is told.
    pub code_name: u16,
    /// In a code object: flags.
    pub code_flags: u16,
    /// In a code object: first line.
    pub code_line: u16,
    /// In a string of ASCII: its text.
    pub text: u16,
    /// In any other string: its text.
    pub wide_text: u16,
    /// Its frames cannot be told apart.
    pub counts_only: bool,
    /// Measure whole awaits.
    pub awaits: Option<AwaitPlan>,
}

/// What the programs must know to measure whole awaits. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AwaitPlan {
    /// Sets of the frame table for those that are open; a power of two.
    pub sets: u32,
    /// In a frame: where it stands.
    pub frame_position: u16,
    /// In a code object: number of the first instruction that a resume executes; 0 where the sign of the position says it.
    pub code_first: u16,
    /// From a frame: whether it has returned.
    pub frame_state: i16,
    /// The lowest value that says so.
    pub ended: u16,
}

/// A site of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSite {
    /// File offset of the instruction.
    pub offset: u64,
    /// What the program gets to know: function, condition, marks (the `SITE_` bits of the BPF layout).
    pub cookie: u64,
    /// An exit site; else an entry site.
    pub exit: bool,
    /// The kernel single-steps the instruction, which costs more than emulating it.
    pub stepped: bool,
    /// The bytes that stand there in the image that was decoded.
    pub code: [u8; 4],
    /// How many of them count: fewer than four at the end of an image.
    pub code_len: u8,
    /// Bytes of the function before an entry site: what the entry slid over, as far as a number of this size tells.
    pub before: u8,
}

/// Why a function of a plan must not be probed in its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unfit {
    /// Its code differs in memory from the file: it was patched.
    Patched,
    /// A breakpoint stands there that the program may have set itself, for it handles SIGTRAP.
    Breakpoint,
    /// Its code is mapped writable or shared, where the kernel places no probe.
    Writable,
    /// No mapping of the file holds its code any more.
    Unmapped,
    /// The process has a shadow stack, of which the probe of a call, or of a return, leaves the program's second copy wrong.
    ShadowStack,
}

impl Unfit {
    /// Why not, and the next step.
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
    /// Why not.
    pub why: Unfit,
}

/// What the collector asks of the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one buffer of a fixed size each way is the point")]
pub enum Request {
    /// Open a running process as target. It must be one that edgelat was started for.
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
        /// Go on with the listing that was begun last, from this number on; without, a new one is begun.
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
        /// What it asks for.
        options: PlanOptions,
    },
    /// Say which build-id an image must have, and where in the file it stands.
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
    /// Look at the target's memory: which functions of the plan must not be probed there, from the first that is numbered
    /// `from` or higher, and for how many private pages there is room.
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
    /// Measure what a probe itself adds, on functions of the agent's own; at any time after loading.
    Calibrate {
        /// The plan.
        plan: PlanId,
    },
    /// What have a plan's probes cost, and what do they add now?
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
    /// What happened since the last question?
    Events,
    /// Read a list in the memory of a process: of each element one word. Where functions of Python are to be measured, this tells
    /// what its interpreters do with calls.
    ReadList {
        /// The target.
        target: TargetId,
        /// The process: the target's, or one that its plans cover.
        pid: i32,
        /// Where the list is.
        list: List,
    },
    /// Lead the command that the guard has started to the next image that may be the one that is meant. That of its start has
    /// to be looked at before.
    StepCommand,
    /// Let one of its processes run, traced no more. Others that execute the same are covered as they come.
    ReleaseCommand {
        /// The process.
        pid: i32,
    },
    /// Look for processes: the first ones.
    FindProcesses {
        /// By what.
        word: Word,
        /// How it begins.
        begins: Path,
        /// That is the whole word.
        whole: bool,
    },
    /// The next ones of the same search.
    FindMore,
    /// Forget a target, its images, and whatever is left of its plans.
    ForgetTarget {
        /// The target.
        target: TargetId,
    },
    /// Read the configuration file again. The descriptor comes with the reply.
    OpenConfig,
    /// The guard gives up what it does not need any more. No further plan will come, unless it is that of a service which
    /// attaches to what comes later.
    Settle,
    /// Tell whoever supervises the service how it is.
    Status {
        /// It is ready.
        ready: bool,
        /// One line.
        text: Text,
    },
    /// Wait a moment for the end of the command, which has [stepped](Reply::Stepped) if it runs on.
    FinishCommand {
        /// Ask it to end, and what came of it.
        terminate: bool,
    },
}

/// What of a process is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// The path of what it executes.
    Executable,
    /// The name of its command, at most 15 bytes.
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

/// Elements of a list that are read at most.
pub const ELEMENTS: usize = 64;

/// Words that are read where a list begins.
pub const HEAD: usize = 8;

/// A list in the memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// The image in whose data it begins.
    pub image: ImageId,
    /// Offset in the file of the words there.
    pub begin: u64,
    /// Which of them is the address of the first element.
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
    /// It is what the process executes.
    pub executable: bool,
    /// Of its code something is mapped writable or shared.
    pub writable: bool,
    /// Device (major, minor) and inode as the list of mappings words them: what has another one is another file, whatever
    /// its path.
    pub file: (u32, u32, u64),
}

/// What the probes of each kind cost: in the reported durations, or in all.
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
    /// Of a call whose sites are of these kinds. A return probe was measured in the place of an exit that the kernel emulates.
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
        /// How long it had lived, of a child that was covered at its birth; else 0. In nanoseconds.
        late_ns: u64,
    },
    /// A child could not be attached.
    NotCovered {
        /// The process.
        pid: i32,
        /// Why.
        error: GuardError,
    },
    /// Children that executed what is measured ended before they could be covered.
    Missed {
        /// How many, since this was told last.
        children: u32,
        /// How long they lived together, in nanoseconds.
        ns: u64,
    },
    /// The process got a signal that says of a fault. Nothing counts from that moment on, in none of the plan's processes, and
    /// all its probes are gone.
    Faulted {
        /// The process.
        pid: i32,
        /// Which signal.
        fault: Fault,
        /// Probes that were taken off.
        sites: u32,
        /// Time that it took from when the guard heard of it, in nanoseconds.
        took_ns: u64,
    },
    /// The process ended.
    Ended {
        /// The process.
        pid: i32,
        /// Its status as wait(2) tells it, where the kernel said it.
        status: Option<u32>,
        /// The OOM killer has ended a process since probes were attached to this one.
        out_of_memory: bool,
    },
    /// A debugger traces the process, which it did not when the process was covered. The probes are gone.
    Traced {
        /// The process.
        pid: i32,
        /// Who traces it.
        tracer: i32,
    },
    /// Its main thread ended while others run on, and with it this route's probes: the kernel finds the address space
    /// of these events through that thread (Linux 6.18, kernel/trace/trace_uprobe.c, `__uprobe_perf_filter`).
    MainThreadEnded {
        /// The process.
        pid: i32,
    },
    /// The process executes the same image anew, and calls that it was in are over.
    Executed {
        /// The process.
        pid: i32,
        /// When it did, on the monotonic clock in nanoseconds.
        time_ns: u64,
        /// Nothing was counted from then until now: the kernel stops probes when the thread executes that is not the main one.
        gap: bool,
    },
    /// The process executes another image now.
    Replaced {
        /// The process.
        pid: i32,
    },
    /// Functions of Python were called for the first time; their descriptions wait in the mapped arrays.
    NewCode,
    /// The probes cost more than they may; they are gone. What was counted can be read.
    OverBudget {
        /// What they cost, in millionths of one CPU's time: the plan's, or those of all plans.
        ppm: u64,
        /// Under which bound.
        of: BudgetOf,
    },
    /// More happened in the plan's processes than could be told: children may be missing. The probes are gone.
    Overrun {
        /// Events that were lost.
        lost: u32,
    },
    /// Somebody wrote to a probed file or put another in its place. The probes are gone.
    ImageChanged,
    /// The probes cost more than the bound, and are on in windows only from now on.
    Sampled {
        /// Millionths of one CPU.
        ppm: u64,
    },
    /// The agent was stopped, as by Ctrl-Z, and its probes were off for so long. Calls that were inside are abandoned.
    Stopped {
        /// From the first probe that was taken off to the last one that was attached again, in nanoseconds.
        off_ns: u64,
    },
}

/// What a bound for costs holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BudgetOf {
    /// The plan alone.
    Plan,
    /// All plans together.
    AllPlans,
    /// All plans, together with those of the service that runs beside.
    Both {
        /// What the service cost, in millionths of one CPU's time.
        service: u64,
        /// What it may cost.
        bound: u64,
    },
}

/// An event and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The plan.
    pub plan: PlanId,
    /// What happened.
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
        /// The next ones.
        images: heapless::Vec<MappedImage, IMAGES>,
        /// There may be more; none among those that were looked at is no end.
        more: bool,
        /// There are more than are looked at.
        left_out: bool,
    },
    /// An image was opened; its descriptor comes with this.
    Image {
        /// Its number.
        image: ImageId,
    },
    /// A plan was begun.
    Plan {
        /// Its number.
        plan: PlanId,
    },
    /// What the target's memory says of a plan.
    Examined {
        /// Functions that must not be probed there, in the order of their numbers.
        unsound: heapless::Vec<Unsound, UNSOUND>,
        /// There are more.
        more: bool,
        /// Bytes of the target's memory that the plan's probes take.
        bytes: u64,
        /// Bytes that they may take.
        allowed: u64,
        /// Bytes of room that there are.
        room: u64,
        /// Of which control group, or of the machine.
        of: Text,
    },
    /// The programs are loaded; the descriptors of rows and, if `maps_frames`, frames come with this.
    Loaded {
        /// Lanes of a function.
        lanes: u32,
        /// Rows of a lane. The first are those of the plan's functions; the `entries` of the last are hits of
        /// probes at addresses that the guard did not know of at that time.
        rows: u32,
        /// Sets of the frame table.
        frame_sets: u32,
        /// Frames can be mapped.
        maps_frames: bool,
        /// The route that was chosen.
        route: Route,
        /// How returns are seen in the end.
        session: bool,
        /// Slots for functions of Python. Where there are any, the descriptors of slots, pool and texts come last.
        code_slots: u32,
    },
    /// What a call costs.
    Calibrated {
        /// In each reported duration.
        bias: Bias,
        /// In all.
        cost: Bias,
    },
    /// What a plan has cost.
    Cost {
        /// In all so far, in nanoseconds; `None` before the calibration.
        cost_ns: Option<u64>,
        /// What the links of further processes add to each reported duration at present, besides the bias, in nanoseconds.
        more_bias_ns: u64,
        /// Time in which its probes were off because of their cost, in nanoseconds.
        off_ns: u64,
    },
    /// The sites are attached.
    Attached {
        /// Probes in the kernel.
        sites: u32,
        /// Time that it took in nanoseconds.
        took_ns: u64,
    },
    /// The probes are gone.
    Detached {
        /// Time that it took in nanoseconds.
        took_ns: u64,
        /// What the plan has cost in all, in nanoseconds; `None` where that was not measured.
        cost_ns: Option<u64>,
    },
    /// Events, the oldest first.
    Events {
        /// The next ones.
        events: heapless::Vec<Told, EVENTS>,
        /// There are more.
        more: bool,
    },
    /// A list, as far as it can be read.
    List {
        /// The words where it begins, and behind them one of each element.
        words: heapless::Vec<u64, { HEAD + ELEMENTS }>,
        /// That are all.
        whole: bool,
    },
    /// A file was opened; its descriptor comes with this.
    File,
    /// Processes that fit.
    Processes {
        /// The next ones.
        processes: heapless::Vec<Found, FOUND>,
        /// There may be more; none among those that were looked at is no end.
        more: bool,
    },
    /// The command was led on.
    Stepped {
        /// The process of it that may be looked at, and waits; 0 where nothing came in twentieths of a second.
        pid: i32,
        /// It executes another image, of which nothing has run; otherwise it may have mapped one.
        executed: bool,
        /// Something of the command runs on.
        more: bool,
    },
    /// The command has ended.
    Finished {
        /// How, where that was not well.
        badly: Option<Text>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// Done.
    Done,
    /// Not done.
    Refused(GuardError),
}
