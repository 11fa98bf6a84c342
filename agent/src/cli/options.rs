//! The command line as data.
//!
//! [`COMMANDS`] is the single definition of all commands and options. The parser
//! ([`super::parse`]), `--help` ([`super::help`]), the man page and the shell completions
//! (`generate`) all read it, so that no option is known to only some of them.

#[cfg(feature = "metrics")]
mod metrics;

use crate::values::{self, words};

/// A command of edgelat.
#[derive(Debug)]
pub struct Command {
    /// Name of the command.
    pub name: &'static str,
    /// Its purpose, in half a line, without a full stop.
    pub summary: &'static str,
    /// Usage forms, after `edgelat NAME`.
    pub usage: &'static [&'static str],
    /// Explanation for `--help` and the man page, a paragraph each.
    pub about: &'static [&'static str],
    /// Arguments that are not options.
    pub operands: &'static [Operand],
    /// Arguments after `--`, if the command takes any.
    pub trailing: Option<Operand>,
    /// Its options, in the order of the help.
    pub options: &'static [Opt],
    /// Typical command lines with their purpose.
    pub examples: &'static [Example],
}

/// An argument that is not an option.
#[derive(Debug)]
pub struct Operand {
    /// Placeholder in the usage.
    pub name: &'static str,
    /// Its meaning.
    pub help: &'static str,
    /// Minimum number of such arguments.
    pub at_least: usize,
    /// Maximum number of such arguments.
    pub at_most: usize,
    /// Completions that a shell can offer.
    pub complete: Complete,
}

/// An option of a command.
#[derive(Debug)]
pub struct Opt {
    /// Name of the option in the program.
    pub id: Id,
    /// The letter after one dash.
    pub short: Option<char>,
    /// The word after two dashes.
    pub long: &'static str,
    /// Its value; an option without one is a switch.
    pub value: Option<Value>,
    /// True if the option may be repeated.
    pub repeatable: bool,
    /// Default, as it would be typed.
    pub default: Option<&'static str>,
    /// Its effect, in one sentence without a full stop.
    pub help: &'static str,
    /// Further details for the full help and the man page; complete sentences.
    pub more: &'static str,
}

/// The value of an option.
#[derive(Debug)]
pub struct Value {
    /// Placeholder in the usage.
    pub name: &'static str,
    /// Completions that a shell can offer. [`Complete::Words`] are the only valid values.
    pub complete: Complete,
}

/// Completions that a shell can offer for an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complete {
    /// Nothing.
    Nothing,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A file.
    Files,
    /// A directory.
    Directories,
    /// The id of a process.
    Processes,
    /// The id of a process, or a file.
    ProcessesAndFiles,
    /// A command with its arguments.
    CommandLine,
}

/// A command line with its purpose.
#[derive(Debug)]
pub struct Example {
    /// The command line.
    pub line: &'static str,
    /// Its purpose.
    pub purpose: &'static str,
}

/// Names of the options in the program; the help of each option explains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    AllowPtrace,
    BucketsPerOctave,
    CollectorCpu,
    Config,
    Debug,
    DebugDir,
    Dir,
    DryRun,
    Duration,
    Endpoint,
    Format,
    Frames,
    #[cfg(feature = "metrics")]
    Host,
    Image,
    Interval,
    Json,
    Listen,
    MaxCost,
    MaxMapBytes,
    NoBias,
    NoFollowForks,
    OnSignal,
    Once,
    Output,
    OverBudget,
    Pack,
    Pid,
    Returns,
    Route,
    Sched,
    TargetsOn,
    Textfile,
    Via,
}

impl Command {
    /// Returns the command with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        COMMANDS.iter().find(|command| command.name == name)
    }
}

impl Opt {
    /// Returns the option as typed, `--long`.
    pub fn dashed(&self) -> String {
        format!("--{}", self.long)
    }

    /// Returns a switch, to be refined by struct update.
    const fn switch(id: Id, long: &'static str, help: &'static str) -> Self {
        Self { id, short: None, long, value: None, repeatable: false, default: None, help, more: "" }
    }
}

/// Words for `--returns`.
const RETURNS: &[&str] = &words(&values::RETURNS);

/// Words for `--on-signal`.
const ON_SIGNAL: &[&str] = &words(&values::ON_SIGNAL);

/// Words for `--sched`.
const SCHEDS: &[&str] = &words(&values::SCHEDS);

/// Words for `--targets-on`.
const TARGETS_ON: &[&str] = &words(&values::TARGETS_ON);

/// Words for `--over-budget`.
const OVER_BUDGET: &[&str] = &words(&values::OVER_BUDGET);

/// Words for `--route`.
const ROUTES: &[&str] = &words(&values::ROUTES);

/// Shells with completion scripts.
#[cfg(any(test, feature = "generate"))]
pub const SHELLS: &[&str] = &["bash", "zsh", "fish"];

const DEBUG_DIR: Opt = Opt {
    value: Some(Value { name: "DIR", complete: Complete::Directories }),
    repeatable: true,
    more: "The file of a stripped image is DIR/.build-id/xx/yyyy.debug, named by its build-id, and it must carry the \
           same build-id. DIR is searched before /usr/lib/debug. The option may be repeated.",
    ..Opt::switch(Id::DebugDir, "debug-dir", "Look for debug files in DIR too")
};

const PACK: Opt = Opt {
    value: Some(Value { name: "PACK", complete: Complete::Files }),
    repeatable: true,
    more: "A pack made by `edgelat pack make` from the files with symbols. It is used for images of the same build-id \
           whose code is the same, byte for byte. The option may be repeated.",
    ..Opt::switch(Id::Pack, "pack", "Take functions of stripped images from PACK")
};

/// Default configuration file.
pub const CONFIG: &str = "/etc/edgelat.toml";

const CONFIG_FILE: Opt = Opt {
    short: Some('c'),
    value: Some(Value { name: "FILE", complete: Complete::Files }),
    default: Some(CONFIG),
    more: "TOML with a table [agent] and a table [[target]] for each group of processes. The file that is installed \
           explains every key.",
    ..Opt::switch(Id::Config, "config", "Read the configuration from FILE")
};

/// Words for the first argument of `quarantine`.
pub const QUARANTINE_ACTIONS: &[&str] = &["list", "clear"];

/// Words for the first argument of `spool`.
pub const SPOOL_ACTIONS: &[&str] = &["ls", "dump", "verify", "export"];

/// Words for `--format`.
pub const FORMATS: &[&str] = &["json", "csv"];

/// Output methods of `edgelat upload`.
#[cfg(feature = "upload")]
const WAYS_OUT: &[&str] = &["http", "stdout-json"];

/// Words for the first argument of `pack`.
pub const PACK_ACTIONS: &[&str] = &["make", "show"];

/// All commands, in the order of the help.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "watch",
        summary: "measure how long functions of a running program take",
        usage: &["-p PID [OPTION...] FUNCTION...", "[OPTION...] FUNCTION... -- COMMAND [ARGUMENT...]"],
        about: &[
            "Attaches probes to functions of one process and of its children, and shows a histogram of \
             their durations until Ctrl-C, until the process ends, or until the time is over. The process is neither \
             rebuilt nor restarted. A function that cannot be probed safely is left alone and named with the reason.",
            "Every call is accounted for: entries = exits + calls still running + each named loss.",
        ],
        operands: &[Operand {
            name: "FUNCTION",
            help: "[IMAGE:]NAME, where NAME is exact or a glob (*, ?, [a-z]), in C++ and Rust as a person reads it, and \
                   IMAGE is a library such as libfoo.so; or by address: +0xADDRESS@BUILDID, IMAGE:0xOFFSET@BUILDID; in Python \
                   py:[FILE:]NAME, such as py:Server.handle",
            at_least: 1,
            at_most: usize::MAX,
            complete: Complete::Nothing,
        }],
        trailing: Some(Operand {
            name: "COMMAND",
            help: "Start this and measure it from its first call. It may be one that starts the program, as env, timeout and \
                   scripts do: FUNCTION then is PROGRAM:NAME, and every process of the command that executes that program is \
                   measured",
            at_least: 1,
            at_most: usize::MAX,
            complete: Complete::CommandLine,
        }),
        options: &[
            Opt {
                short: Some('p'),
                value: Some(Value { name: "PID", complete: Complete::Processes }),
                ..Opt::switch(Id::Pid, "pid", "Measure the running process PID")
            },
            Opt {
                value: Some(Value { name: "SECS", complete: Complete::Nothing }),
                more: "Decimals are allowed: 0.5. Without it, watch goes on until Ctrl-C or the end of the process.",
                ..Opt::switch(Id::Duration, "duration", "End after SECS seconds")
            },
            Opt {
                value: Some(Value { name: "SECS", complete: Complete::Nothing }),
                default: Some("1"),
                more: "From 0.1 to 86400; decimals are allowed.",
                ..Opt::switch(Id::Interval, "interval", "Seconds between two reports")
            },
            Opt {
                more: "The figures are cumulative since the probes were armed; the last object has \"final\": true.",
                ..Opt::switch(Id::Json, "json", "Print one JSON object a line")
            },
            Opt {
                value: Some(Value { name: "HOW", complete: Complete::Words(RETURNS) }),
                default: Some("ret"),
                more: "ret puts a probe on every return instruction, which is safe with exceptions, unwinding, coroutines \
                       and stack switching. uretprobe lets the kernel replace the return address of each call; it is \
                       refused where the target could be harmed by it.",
                ..Opt::switch(Id::Returns, "returns", "How the end of a call is seen")
            },
            Opt {
                value: Some(Value { name: "ROUTE", complete: Complete::Words(ROUTES) }),
                default: Some("auto"),
                more: "auto takes the one that needs the least privilege of those that work here: uprobe_multi (Linux \
                       6.6), tracefs (events with many probes each), or single (one perf event a probe, slow to detach).",
                ..Opt::switch(Id::Route, "route", "How probes reach the kernel")
            },
            Opt {
                value: Some(Value { name: "N", complete: Complete::Nothing }),
                default: Some("8192"),
                more: "From 16 to 1048576, rounded up to a power of two. A call that finds no room pushes out an older one, \
                       which is then counted as evicted.",
                ..Opt::switch(Id::Frames, "frames", "How many calls may be running at once")
            },
            Opt {
                value: Some(Value { name: "N", complete: Complete::Nothing }),
                default: Some("4M"),
                more: "In bytes, with K or M for 1024 or 1048576 of them, from 4K to 1024M. A function takes about 2.1 KB \
                       on each CPU; functions of Python are as many as half of it has room for. What would need more is refused before anything is attached.",
                ..Opt::switch(Id::MaxMapBytes, "max-map-bytes", "Most memory for rows and frames")
            },
            Opt {
                more: "Probes and the breakpoints of a debugger or of strace can disturb each other.",
                ..Opt::switch(Id::AllowPtrace, "allow-ptrace", "Measure a process that a debugger traces")
            },
            Opt {
                ..Opt::switch(
                    Id::NoFollowForks,
                    "no-follow-forks",
                    "Do not measure the children of the process",
                )
            },
            Opt {
                value: Some(Value { name: "WHICH", complete: Complete::Words(ON_SIGNAL) }),
                default: Some("auto"),
                more: "SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGABRT, SIGFPE and SIGSYS say that a process is in trouble: all \
                       counting stops in the kernel while the signal is delivered, the probes are removed, and what was \
                       measured is printed. any: also where the process handles the signal; fatal: only where that ends it. \
                       auto is fatal for functions of Go, whose runtime recovers from faults, and any for others.",
                ..Opt::switch(Id::OnSignal, "on-signal", "Which signals of the process end the watch")
            },
            DEBUG_DIR,
            PACK,
            Opt {
                value: Some(Value { name: "PERCENT", complete: Complete::Nothing }),
                more: "Of one CPU, from 0.1 to 1000. It is exceeded when the hits of all probes cost more in two tenths of a second \
                       in a row, or four times as much in one. Without it the cost is shown, and nothing is stopped unless a \
                       service runs beside (see --config).",
                ..Opt::switch(Id::MaxCost, "max-cost", "Most that the probes may cost")
            },
            Opt {
                value: Some(Value { name: "WHAT", complete: Complete::Words(OVER_BUDGET) }),
                default: Some("sample"),
                more: "sample: measure in windows of 50 ms, with pauses between them that keep the mean cost within --max-cost; rates \
                       are those of the windows, and no call longer than one is seen. end: remove the probes, print what was \
                       measured, and exit with status 8.",
                ..Opt::switch(Id::OverBudget, "over-budget", "What to do when they cost more than that")
            },
            Opt {
                short: Some('c'),
                value: Some(Value { name: "FILE", complete: Complete::Files }),
                default: Some(CONFIG),
                more: "While a service with that configuration runs, max_cost of its [agent] holds for both together: when they \
                       cost more, it is the watch that ends, as with --max-cost.",
                ..Opt::switch(Id::Config, "config", "Share the budget of the service of FILE")
            },
            Opt {
                value: Some(Value { name: "WHICH", complete: Complete::Nothing }),
                default: Some("prefer-isolated"),
                more: "The collector is the process that reads the figures; it runs at nice 19. prefer-isolated: on a CPU that \
                       the kernel keeps for those who ask for it by name (isolcpus=, or an isolated cpuset partition), that the \
                       target does not use and on which nobody is busy; where there is none, on another that the target does \
                       not use, or on any. isolated: on an isolated CPU that the target does not use, or not at all. any: \
                       wherever the kernel puts it. A number: on that CPU.",
                ..Opt::switch(Id::CollectorCpu, "collector-cpu", "On which CPU edgelat itself runs")
            },
            Opt {
                value: Some(Value { name: "WHICH", complete: Complete::Words(SCHEDS) }),
                default: Some("other"),
                more: "ext puts the collector under the sched_ext scheduler (Linux 6.12) while one is enabled; while none is, \
                       the kernel's own has it, as with other.",
                ..Opt::switch(Id::Sched, "sched", "Which scheduler edgelat itself is under")
            },
            Opt {
                value: Some(Value { name: "WHICH", complete: Complete::Words(TARGETS_ON) }),
                default: Some("any"),
                more: "isolated: calls that begin on an isolated CPU. A process of which a thread may run elsewhere is refused; \
                       where it comes there later, its calls there are not counted, and their ends show as \
                       unmatched_exits.",
                ..Opt::switch(Id::TargetsOn, "targets-on", "Measure calls on these CPUs only")
            },
            Opt {
                more: "Calibration measures what the probes themselves add to each duration, on functions of edgelat's own, \
                       and reports it as bias_ns. Beside a service it is not skipped: what the probes cost has to be known \
                       there.",
                ..Opt::switch(Id::NoBias, "no-bias", "Skip the calibration at the start")
            },
        ],
        examples: &[
            Example {
                line: "edgelat watch -p 1234 --duration 10 handle_request",
                purpose: "Ten seconds of one function of a running process.",
            },
            Example {
                line: "edgelat watch -p 1234 'libssl.so:SSL_*'",
                purpose: "All functions of a library whose names begin with SSL_.",
            },
            Example {
                line: "edgelat watch --json 'Parser::parse' -- ./program argument",
                purpose: "A program from its first call on, for another program to read.",
            },
        ],
    },
    Command {
        name: "run",
        summary: "measure as a service what the configuration file names",
        usage: &["[-c FILE] [--json]"],
        about: &[
            "Looks for the processes of each target in the configuration file, measures the functions that it names \
             in all of them, and goes on when processes end, begin, or are replaced by another version of their \
             program. SIGTERM and SIGINT end it, SIGHUP has it read the file again.",
            "Everything that is wrong in the file is told at once, with its line and key, and nothing is started then; \
             the exit status is 2. 'edgelat check -c FILE' tells it without starting anything.",
        ],
        operands: &[],
        trailing: None,
        options: &[
            CONFIG_FILE,
            Opt {
                more: "One for each target and interval.",
                ..Opt::switch(Id::Json, "json", "Print one JSON object a record")
            },
        ],
        examples: &[
            Example { line: "edgelat run", purpose: "What the unit or init script of the service calls." },
            Example {
                line: "edgelat run -c ./edgelat.toml --json",
                purpose: "Try a configuration, and see what it measures.",
            },
        ],
    },
    #[cfg(feature = "workstation")]
    Command {
        name: "functions",
        summary: "list the functions of a program and say which can be probed",
        usage: &["(PID | PATH) [PATTERN] [OPTION...]"],
        about: &[
            "Lists the functions of an ELF file, or of everything that a process executes, with address, size and \
                 whether a probe on them is safe; where it is not, why. Nothing is attached.",
        ],
        operands: &[
            Operand {
                name: "PID|PATH",
                help: "A process (digits only), or an executable or shared object; a file whose name is a number is \
                       written ./123",
                at_least: 1,
                at_most: 1,
                complete: Complete::ProcessesAndFiles,
            },
            Operand {
                name: "PATTERN",
                help: "Only these: an exact name, a glob, or an address, as for watch",
                at_least: 0,
                at_most: 1,
                complete: Complete::Nothing,
            },
        ],
        trailing: None,
        options: &[
            Opt {
                more: "name, linkage_name, aliases, image, start, end, size, probeable, reason, reason_text, sites, \
                       origin, language, language_version and inlined_copies.",
                ..Opt::switch(Id::Json, "json", "Print one JSON object a function")
            },
            DEBUG_DIR,
            PACK,
        ],
        examples: &[
            Example {
                line: "edgelat functions /usr/sbin/program 'handle_*'",
                purpose: "What of these could be measured.",
            },
            Example {
                line: "edgelat functions --json 1234 | jq -r 'select(.probeable).name'",
                purpose: "All names that can be probed in a process and its libraries.",
            },
        ],
    },
    Command {
        name: "check",
        summary: "say whether this machine can measure, and what is missing",
        usage: &["[OPTION...]"],
        about: &[
            "Looks at the kernel, its settings and the rights of the caller, and says for each what it finds and \
                 what to do about it. The exit status is 0 if watch would work, 3 if rights are missing, 4 if the \
                 kernel lacks something. With -p it also looks at a process: what it is, how its functions are named, and \
                 what stands in the way.",
            "With -c it reads a configuration file instead and says everything that is wrong with it, a line each; the \
             exit status is 2 then.",
        ],
        operands: &[],
        trailing: None,
        options: &[
            Opt {
                short: Some('p'),
                value: Some(Value { name: "PID", complete: Complete::Processes }),
                ..Opt::switch(Id::Pid, "pid", "Look at the running process PID too")
            },
            Opt {
                more: "It needs no rights and looks at nothing else, so that a file can be checked where it is written.",
                default: None,
                ..CONFIG_FILE
            },
            Opt::switch(Id::Json, "json", "Print one JSON object a finding"),
        ],
        examples: &[
            Example { line: "edgelat check", purpose: "Before the first measurement on a box." },
            Example { line: "edgelat check -c edgelat.toml", purpose: "Before the file is put on a box." },
            Example { line: "edgelat check -p 1234", purpose: "Before the first measurement of a process." },
        ],
    },
    #[cfg(feature = "workstation")]
    Command {
        name: "pack",
        summary: "carry functions of unstripped files to where they run stripped",
        usage: &["make -o PACK --debug FILE [--image FILE] FUNCTION...", "show PACK [--json]"],
        about: &[
            "A box often runs stripped programs, and the files with their symbols stay where they were built. make \
             writes names, ranges and probe sites of functions into a small file, on any machine; watch and functions \
             take it with --pack. It is bound to build-id and code, so that it cannot be used on another build.",
        ],
        operands: &[
            Operand {
                name: "make|show",
                help: "Write a pack, or list what is in one",
                at_least: 1,
                at_most: 1,
                complete: Complete::Words(PACK_ACTIONS),
            },
            Operand {
                name: "FUNCTION|PACK",
                help: "make: which functions, as for watch; show: the pack",
                at_least: 1,
                at_most: usize::MAX,
                complete: Complete::Files,
            },
        ],
        trailing: None,
        options: &[
            Opt {
                short: Some('o'),
                value: Some(Value { name: "PACK", complete: Complete::Files }),
                ..Opt::switch(Id::Output, "output", "The pack to write")
            },
            Opt {
                value: Some(Value { name: "FILE", complete: Complete::Files }),
                repeatable: true,
                more: "An unstripped executable or library, or the debug file of one; the option may be repeated.",
                ..Opt::switch(Id::Debug, "debug", "A file with symbols")
            },
            Opt {
                value: Some(Value { name: "FILE", complete: Complete::Files }),
                repeatable: true,
                more: "Needed where the files with symbols are debug files, which have no code. The option may be \
                       repeated.",
                ..Opt::switch(Id::Image, "image", "The stripped file with the code")
            },
            Opt {
                more: "image, arch, build_id, name, linkage_name, start, size and exits.",
                ..Opt::switch(Id::Json, "json", "show: print one JSON object a function")
            },
        ],
        examples: &[
            Example {
                line: "edgelat pack make -o parser.pack --debug build/parserd 'Parser::*'",
                purpose: "From an unstripped program.",
            },
            Example {
                line: "edgelat pack make -o parser.pack --debug parserd.debug --image parserd parse",
                purpose: "From a stripped program and its debug file.",
            },
            Example { line: "edgelat pack show parser.pack", purpose: "What is in it, and for which build." },
        ],
    },
    Command {
        name: "quarantine",
        summary: "show or clear what is not probed any more after a crash",
        usage: &["[list] [-c FILE] [--json]", "clear [BUILD-ID] [-c FILE]"],
        about: &[
            "When a program dies by a fault while it is probed, the service probes the same functions of the same build \
             no more, and remembers that in its state directory. list shows what is held back, clear lets it be probed \
             again.",
        ],
        operands: &[
            Operand {
                name: "list|clear",
                help: "Show, or forget; list where nothing is said",
                at_least: 0,
                at_most: 1,
                complete: Complete::Words(QUARANTINE_ACTIONS),
            },
            Operand {
                name: "BUILD-ID",
                help: "clear: forget this build only; 8 or more of its hexadecimal digits",
                at_least: 0,
                at_most: 1,
                complete: Complete::Nothing,
            },
        ],
        trailing: None,
        options: &[
            Opt { more: "It names the state directory.", ..CONFIG_FILE },
            Opt::switch(Id::Json, "json", "list: print one JSON object an entry"),
        ],
        examples: &[
            Example { line: "edgelat quarantine", purpose: "What is held back, and since when." },
            Example {
                line: "edgelat quarantine clear 6a3b08c1",
                purpose: "The crash had another cause: probe that build again.",
            },
        ],
    },
    Command {
        name: "spool",
        summary: "show what the service has recorded",
        usage: &[
            "[ls|dump|verify] [-c FILE | --dir DIR] [--json]",
            "export [-c FILE | --dir DIR] [--format json|csv]",
        ],
        about: &[
            "The service records what each function did in each interval, in a folder that outlives power cuts. ls lists the \
             files, dump shows the records to a person, verify reads them all and says what is damaged (exit status 11), \
             and export writes them for another program, one JSON object or several lines of CSV an interval.",
            "It needs no rights, and reads a folder of a running service, or a copy of it on another machine.",
        ],
        operands: &[Operand {
            name: "ls|dump|verify|export",
            help: "What to do; ls where nothing is said",
            at_least: 0,
            at_most: 1,
            complete: Complete::Words(SPOOL_ACTIONS),
        }],
        trailing: None,
        options: &[
            Opt { more: "It names the folder.", ..CONFIG_FILE },
            Opt {
                value: Some(Value { name: "DIR", complete: Complete::Directories }),
                more: "Then no configuration is read.",
                ..Opt::switch(Id::Dir, "dir", "Read the records in DIR")
            },
            Opt::switch(Id::Json, "json", "ls, verify: print JSON objects"),
            Opt {
                value: Some(Value { name: "WHICH", complete: Complete::Words(FORMATS) }),
                default: Some("json"),
                more: "docs/SPOOL.md says what stands in each.",
                ..Opt::switch(Id::Format, "format", "export: what to write")
            },
        ],
        examples: &[
            Example { line: "edgelat spool dump | tail -50", purpose: "What happened last." },
            Example {
                line: "edgelat spool export --format csv --dir copy > box.csv",
                purpose: "For a spreadsheet.",
            },
        ],
    },
    #[cfg(feature = "metrics")]
    metrics::COMMAND,
    #[cfg(feature = "upload")]
    Command {
        name: "upload",
        summary: "send what was recorded to an OpenTelemetry receiver",
        usage: &[
            "[-c FILE] [--endpoint URL] [--once | --dry-run]",
            "[-c FILE] [--endpoint URL] --via stdout-json",
        ],
        about: &[
            "Sends what the service recorded to a receiver of OTLP over HTTP, such as an OpenTelemetry collector or Prometheus: \
             what is there, and then what comes, until it is told to end. It remembers how far the receiver has got, goes on from \
             there after a power cut, and waits where there is no link. Points are cumulative, so that nothing is counted twice.",
            "It needs no rights but to read the folder of the records and to write below the state directory. With --once the exit \
             status is 0 when the receiver has answered for everything that can be sent, 1 when it has not, 2 when the \
             configuration is wrong. docs/UPLOAD.md says what is sent, and what is lost when.",
        ],
        operands: &[],
        trailing: None,
        options: &[
            Opt {
                more: "Its table [upload] says where to send, and [spool] where the records are. It is read at the start only.",
                ..CONFIG_FILE
            },
            Opt {
                value: Some(Value { name: "URL", complete: Complete::Nothing }),
                more: "endpoint of [upload] where it is not given. /v1/metrics is added where there is no path.",
                ..Opt::switch(Id::Endpoint, "endpoint", "Send to URL")
            },
            Opt {
                more: "A receiver that takes nothing is asked five times.",
                ..Opt::switch(Id::Once, "once", "End when everything was sent")
            },
            Opt {
                more: "Nobody is asked, and what was sent so far stays as it is.",
                ..Opt::switch(Id::DryRun, "dry-run", "Say what would be sent, and send nothing")
            },
            Opt {
                value: Some(Value { name: "WAY", complete: Complete::Words(WAYS_OUT) }),
                default: Some("http"),
                more: "stdout-json prints it, a request a line, for who carries it to a receiver by hand: all that there is, or, where \
                       an endpoint is given, what that has not got. Nobody is asked, and nothing counts as sent.",
                ..Opt::switch(Id::Via, "via", "How it goes out")
            },
        ],
        examples: &[
            Example {
                line: "edgelat upload --endpoint http://collector:4318",
                purpose: "To a collector of OpenTelemetry.",
            },
            Example {
                line: "edgelat upload --once --endpoint http://prometheus:9090/api/v1/otlp/v1/metrics",
                purpose: "From cron, to a Prometheus that was started with its receiver.",
            },
            Example {
                line: "edgelat upload --via stdout-json > box.jsonl",
                purpose: "From a box without a link.",
            },
        ],
    },
    #[cfg(any(test, feature = "generate"))]
    Command {
        name: "completions",
        summary: "print the completions for a shell",
        usage: &["SHELL"],
        about: &["Prints a script that teaches the shell the commands and options of edgelat."],
        operands: &[Operand {
            name: "SHELL",
            help: "bash, zsh or fish",
            at_least: 1,
            at_most: 1,
            complete: Complete::Words(SHELLS),
        }],
        trailing: None,
        options: &[],
        examples: &[Example {
            line: "edgelat completions bash > /etc/bash_completion.d/edgelat",
            purpose: "For every user of bash.",
        }],
    },
    #[cfg(any(test, feature = "generate"))]
    Command {
        name: "man",
        summary: "print the manual page",
        usage: &[""],
        about: &["Prints the manual page edgelat(1) in the roff format."],
        operands: &[],
        trailing: None,
        options: &[],
        examples: &[Example { line: "edgelat man | man -l -", purpose: "Read it at once." }],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_contradicts_itself_nowhere() {
        for command in COMMANDS {
            let mut seen = vec!["help".to_string(), "h".to_string()];
            for option in command.options {
                let mut names = vec![option.long.to_string()];
                names.extend(option.short.map(String::from));
                for name in names {
                    assert!(!seen.contains(&name), "{} {name} is defined once", command.name);
                    seen.push(name);
                }
                assert!(!option.help.ends_with('.'), "{}: half a sentence", option.long);
                assert!(option.more.is_empty() || option.more.ends_with('.'), "{}: sentences", option.long);
                assert!(
                    option.default.is_none() || option.value.is_some(),
                    "{}: a switch is off",
                    option.long
                );
                if let (Some(Value { complete: Complete::Words(words), .. }), Some(default)) =
                    (&option.value, option.default)
                {
                    assert!(words.contains(&default), "{}: the default is one of the words", option.long);
                }
            }
        }
    }

    #[test]
    fn help_fits_a_line_beside_its_option() {
        for option in COMMANDS.iter().flat_map(|command| command.options) {
            assert!(option.help.len() <= 50, "{}: {} characters", option.long, option.help.len());
        }
    }
}
