//! Conversion of arguments into the typed options of a command.
//!
//! [`read`] knows the table of [`super::options`] but no command; it returns [`Matches`]. The
//! option structs below convert the matches of one command to types and check their values, so that
//! a command only ever receives valid options. Every error is a [`UsageError`], which names the
//! argument, the reason and the correction.

#[cfg(feature = "metrics")]
mod metrics;

use std::{
    ffi::{OsStr, OsString},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use edgelat_guard::placement::{TargetsOn, Wanted};
use edgelat_guard::protocol::{OnSignal, Returns, Route};
use edgelat_image::limits::{BUILD_ID_BYTES, BUILD_ID_DIGITS};
use edgelat_image::{Pattern, PatternError, PythonPattern, nearest};

#[cfg(feature = "metrics")]
pub use metrics::MetricsOptions;

use super::{
    help::Detail,
    options::{COMMANDS, CONFIG, Command, Complete, Id, Opt},
    usage::UsageError,
};
use crate::selection::Selection;
use crate::values::{
    COLLECTOR_CPUS, CPUS, FRAMES, MAP_BYTES, ON_SIGNAL, OVER_BUDGET, PIDS, RETURNS, ROUTES, SCHEDS,
    TARGETS_ON, bytes, collector_cpu, decimal, digits, meaning, seconds, words,
};

/// A parsed command line.
#[derive(Debug)]
pub enum Invocation {
    /// Explain all of edgelat.
    Overview,
    /// Explain a command.
    Help(&'static Command, Detail),
    /// Print the version.
    Version,
    /// `edgelat watch`.
    Watch(WatchOptions),
    /// `edgelat run`.
    Run(RunOptions),
    /// `edgelat functions`.
    #[cfg(feature = "workstation")]
    Functions(FunctionsOptions),
    /// `edgelat check`.
    Check(CheckOptions),
    /// `edgelat pack`.
    #[cfg(feature = "workstation")]
    Pack(PackOptions),
    /// `edgelat quarantine`.
    Quarantine(QuarantineOptions),
    /// `edgelat spool`.
    Spool(SpoolOptions),
    /// `edgelat metrics`.
    #[cfg(feature = "metrics")]
    Metrics(MetricsOptions),
    /// `edgelat upload`.
    #[cfg(feature = "upload")]
    Upload(UploadOptions),
    /// `edgelat completions`, with the word for the shell.
    #[cfg(any(test, feature = "generate"))]
    Completions(String),
    /// `edgelat man`.
    #[cfg(any(test, feature = "generate"))]
    Man,
}

/// Parsed options of `edgelat watch`.
#[derive(Debug)]
pub struct WatchOptions {
    /// Process or command to measure.
    pub target: WatchTarget,
    /// Native and Go functions to measure; at least one, here or in `python`.
    pub functions: Vec<Pattern>,
    /// Python functions to measure.
    pub python: Vec<PythonPattern>,
    /// End after this time.
    pub duration: Option<Duration>,
    /// Time between two reports.
    pub interval: Duration,
    /// Print JSON lines instead of a screen.
    pub json: bool,
    /// Method that detects the end of a call.
    pub returns: Returns,
    /// Route of the probes into the kernel; `None` leaves the choice to the guard.
    pub route: Option<Route>,
    /// Size of the frame table in frames, a power of two from 16 to 1048576.
    pub frames: u32,
    /// Maximum memory for rows and frames, in bytes.
    pub max_map_bytes: u64,
    /// Measure a process that a debugger traces.
    pub allow_ptrace: bool,
    /// Measure the child processes too.
    pub follow_forks: bool,
    /// Further directories of debug files.
    pub debug_dirs: Vec<PathBuf>,
    /// Packs for stripped images.
    pub packs: Vec<PathBuf>,
    /// Measure the cost of the probes themselves first.
    pub calibrate: bool,
    /// End if the probes cost more than this, in percent of one CPU.
    pub max_cost: Option<f64>,
    /// Measure in windows instead of ending.
    pub sample: bool,
    /// The configuration of the service that may run beside; `None`: in the usual place, if there is one.
    pub config: Option<PathBuf>,
    /// Signals that remove the probes; `None`: as the language of the functions requires.
    pub on_signal: Option<OnSignal>,
    /// Placement of the collector.
    pub place: Wanted,
    /// CPUs on which a measured call has to begin.
    pub targets_on: TargetsOn,
}

/// Target of `edgelat watch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchTarget {
    /// A running process.
    Process(i32),
    /// A command to start: its name and its arguments; at least one word.
    Command(Vec<OsString>),
}

/// Parsed options of `edgelat run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    /// The configuration file.
    pub config: PathBuf,
    /// Print a JSON line for each target and interval.
    pub json: bool,
}

/// Parsed options of `edgelat upload`.
#[cfg(feature = "upload")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadOptions {
    /// The configuration file, which names the receiver and the directory of the records.
    pub config: PathBuf,
    /// Address of the receiver; `None`: the address from the configuration.
    pub endpoint: Option<String>,
    /// Mode, which determines the end.
    pub mode: UploadMode,
}

/// Modes of `edgelat upload`.
#[cfg(feature = "upload")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadMode {
    /// Send until a signal requests the end.
    Service,
    /// Send until everything is sent.
    Once,
    /// Send nothing.
    DryRun,
    /// Send nothing, but print it.
    Print,
}

/// Parsed options of `edgelat functions`.
#[derive(Debug)]
pub struct FunctionsOptions {
    /// Source of the functions.
    pub of: FunctionsOf,
    /// Pattern that selects among them.
    pub pattern: Option<Pattern>,
    /// Print JSON lines instead of a table.
    pub json: bool,
    /// Further directories of debug files.
    pub debug_dirs: Vec<PathBuf>,
    /// Packs for stripped images.
    pub packs: Vec<PathBuf>,
}

/// Source of the listed functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FunctionsOf {
    /// All images of a running process.
    Process(i32),
    /// One file.
    File(PathBuf),
}

/// Parsed options of `edgelat check`.
#[derive(Debug)]
pub struct CheckOptions {
    /// Check this process too.
    pub pid: Option<i32>,
    /// Check this configuration file instead.
    pub config: Option<PathBuf>,
    /// Print JSON lines instead of a table.
    pub json: bool,
}

/// Parsed options of `edgelat pack`.
#[derive(Debug)]
pub enum PackOptions {
    /// Write a pack.
    Make {
        /// The pack.
        output: PathBuf,
        /// Files with symbols; at least one.
        debug: Vec<PathBuf>,
        /// Files with the code, if the others have none.
        images: Vec<PathBuf>,
        /// Patterns of the functions; at least one.
        functions: Vec<Pattern>,
    },
    /// List the contents of a pack.
    Show {
        /// The pack.
        path: PathBuf,
        /// Print JSON lines instead of a table.
        json: bool,
    },
}

/// Parsed options of `edgelat quarantine`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineOptions {
    /// List or clear.
    pub action: QuarantineAction,
    /// The configuration file, which names the state directory.
    pub config: PathBuf,
    /// Print JSON lines instead of a table.
    pub json: bool,
}

/// Actions on the quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuarantineAction {
    /// Lists the entries.
    List,
    /// Clears everything, or the build whose id begins with these lower-case hexadecimal digits.
    Clear(Option<String>),
}

/// Parsed options of `edgelat spool`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolOptions {
    /// Action on the records.
    pub action: SpoolAction,
    /// Location of the records.
    pub of: SpoolOf,
}

/// Location of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpoolOf {
    /// The directory that this configuration file names.
    Config(PathBuf),
    /// This directory.
    Dir(PathBuf),
}

/// Actions on records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolAction {
    /// Lists the files, as a table or, if true, as JSON.
    List(bool),
    /// Prints the records as text.
    Dump,
    /// Reads all records and reports damage, as text or, if true, as JSON.
    Verify(bool),
    /// Prints them as JSON lines.
    Json,
    /// Prints them as CSV.
    Csv,
}

/// Reads a command line, without the name of the program.
///
/// # Errors
/// The first error in the command line.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let mut arguments = arguments.into_iter();
    let first = arguments.next().ok_or(UsageError::NoCommand)?;
    let rest: Vec<OsString> = arguments.collect();
    match first.to_str() {
        Some("--help" | "-h") => return Ok(Invocation::Overview),
        Some("--version" | "-V") => return Ok(Invocation::Version),
        Some("help") => {
            return match rest.first() {
                None => Ok(Invocation::Overview),
                Some(name) => Ok(Invocation::Help(command_named(name)?, Detail::Full)),
            };
        }
        _ => {}
    }
    let command = command_named(&first)?;
    let Some(matches) = read(command, rest)? else { return Ok(Invocation::Help(command, Detail::Short)) };
    match command.name {
        "watch" => WatchOptions::from_matches(matches).map(Invocation::Watch),
        "run" => Ok(Invocation::Run(RunOptions { config: matches.config(), json: matches.has(Id::Json) })),
        "spool" => SpoolOptions::from_matches(&matches).map(Invocation::Spool),
        "quarantine" => QuarantineOptions::from_matches(matches).map(Invocation::Quarantine),
        #[cfg(feature = "metrics")]
        "metrics" => MetricsOptions::from_matches(&matches).map(Invocation::Metrics),
        #[cfg(feature = "upload")]
        "upload" => UploadOptions::from_matches(&matches).map(Invocation::Upload),
        #[cfg(feature = "workstation")]
        "functions" => FunctionsOptions::from_matches(matches).map(Invocation::Functions),
        #[cfg(feature = "workstation")]
        "pack" => PackOptions::from_matches(matches).map(Invocation::Pack),
        #[cfg(any(test, feature = "generate"))]
        "completions" => matches.operand_text(0).map(Invocation::Completions),
        #[cfg(any(test, feature = "generate"))]
        "man" => Ok(Invocation::Man),
        _ => {
            let pid = matches.value(Id::Pid, pid_wanted, pid)?;
            let config = matches.paths(Id::Config).pop();
            if pid.is_some() && config.is_some() {
                return Err(UsageError::TwoQuestions);
            }
            Ok(Invocation::Check(CheckOptions { pid, config, json: matches.has(Id::Json) }))
        }
    }
}

fn command_named(name: &OsStr) -> Result<&'static Command, UsageError> {
    let given = name.to_string_lossy();
    Command::named(&given).ok_or_else(|| UsageError::UnknownCommand {
        near: nearest(&given, COMMANDS.iter().map(|command| command.name)),
        given: given.into_owned(),
    })
}

/// Arguments of one command, with every option known and all counts valid.
struct Matches {
    command: &'static Command,
    options: Vec<(&'static Opt, OsString)>,
    operands: Vec<OsString>,
    trailing: Vec<OsString>,
}

/// Reads the arguments of `command` by its table; `None` if they request help.
fn read(command: &'static Command, arguments: Vec<OsString>) -> Result<Option<Matches>, UsageError> {
    let mut matches = Matches { command, options: Vec::new(), operands: Vec::new(), trailing: Vec::new() };
    let mut parser = lexopt::Parser::from_args(arguments);
    loop {
        // lexopt swallows a `--`, but here it separates the functions from the command to start.
        if command.trailing.is_some()
            && let Some(mut raw) = parser.try_raw_args()
            && raw.next_if(|argument| argument == "--").is_some()
        {
            matches.trailing = raw.collect();
            break;
        }
        let argument = match parser.next() {
            Ok(Some(argument)) => argument,
            Ok(None) => break,
            Err(error) => return Err(value_after_switch(command, &matches, error)),
        };
        let option = match &argument {
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(None),
            lexopt::Arg::Short(letter) => command.options.iter().find(|option| option.short == Some(*letter)),
            lexopt::Arg::Long(word) => command.options.iter().find(|option| option.long == *word),
            lexopt::Arg::Value(operand) => {
                matches.operands.push(operand.clone());
                continue;
            }
        };
        let Some(option) = option else { return Err(unknown_option(command, &argument)) };
        if !option.repeatable && matches.has(option.id) {
            return Err(UsageError::Twice { command: command.name, option: option.dashed() });
        }
        let value = match &option.value {
            None => OsString::new(),
            Some(value) => parser.value().map_err(|_| UsageError::MissingValue {
                command: command.name,
                option: option.dashed(),
                value: value.name,
            })?,
        };
        matches.options.push((option, value));
    }
    matches.check_operands()?;
    Ok(Some(matches))
}

/// Converts an error of lexopt, which reports `--switch=value` at the next argument.
fn value_after_switch(command: &'static Command, matches: &Matches, error: lexopt::Error) -> UsageError {
    match (error, matches.options.last()) {
        (lexopt::Error::UnexpectedValue { option, value }, _) => UsageError::UnexpectedValue {
            command: command.name,
            option,
            given: value.to_string_lossy().into_owned(),
        },
        (other, _) => {
            UsageError::UnknownOption { command: command.name, given: other.to_string(), near: None }
        }
    }
}

fn unknown_option(command: &'static Command, argument: &lexopt::Arg<'_>) -> UsageError {
    let given = match argument {
        lexopt::Arg::Short(letter) => format!("-{letter}"),
        lexopt::Arg::Long(word) => format!("--{word}"),
        lexopt::Arg::Value(value) => value.to_string_lossy().into_owned(),
    };
    let near = nearest(&given, command.options.iter().map(Opt::dashed));
    UsageError::UnknownOption { command: command.name, given, near }
}

impl Matches {
    fn has(&self, id: Id) -> bool {
        self.values(id).next().is_some()
    }

    fn values(&self, id: Id) -> impl Iterator<Item = &OsString> {
        self.options.iter().filter(move |(option, _)| option.id == id).map(|(_, value)| value)
    }

    fn paths(&self, id: Id) -> Vec<PathBuf> {
        self.values(id).map(PathBuf::from).collect()
    }

    /// Returns the configuration file, named or default.
    fn config(&self) -> PathBuf {
        self.paths(Id::Config).pop().unwrap_or_else(|| PathBuf::from(CONFIG))
    }

    fn check_operands(&self) -> Result<(), UsageError> {
        let command = self.command;
        let usage = command.usage.first().copied().unwrap_or_default();
        let at_most =
            command.operands.iter().fold(0, |sum: usize, operand| sum.saturating_add(operand.at_most));
        if let Some(extra) = self.operands.get(at_most) {
            let given = extra.to_string_lossy().into_owned();
            return Err(UsageError::ExtraOperand { command: command.name, given, usage });
        }
        let mut needed = 0;
        for operand in command.operands {
            needed += operand.at_least;
            if self.operands.len() < needed {
                return Err(UsageError::MissingOperand {
                    command: command.name,
                    operand: operand.name,
                    usage,
                });
            }
        }
        Ok(())
    }

    fn text<'a>(&self, argument: &'a OsStr) -> Result<&'a str, UsageError> {
        argument.to_str().ok_or_else(|| UsageError::NotText {
            command: self.command.name,
            given: argument.to_string_lossy().into_owned(),
        })
    }

    fn pattern(&self, argument: &OsStr) -> Result<Pattern, UsageError> {
        Pattern::parse(self.text(argument)?).map_err(|reason| self.bad_pattern(reason))
    }

    fn bad_pattern(&self, reason: PatternError) -> UsageError {
        UsageError::Pattern { command: self.command.name, reason }
    }

    fn operand_text(&self, number: usize) -> Result<String, UsageError> {
        let operand = &self.command.operands[number];
        let given = self.text(&self.operands[number])?;
        match operand.complete {
            Complete::Words(words) if !words.contains(&given) => Err(UsageError::BadValue {
                command: self.command.name,
                option: operand.name.to_string(),
                given: given.to_string(),
                wanted: words.join(", "),
            }),
            _ => Ok(given.to_string()),
        }
    }

    /// Returns the value or default of an option, converted by `read`; `wanted` describes it.
    fn value<T>(
        &self,
        id: Id,
        wanted: impl Fn() -> String,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, UsageError> {
        let Some(option) = self.command.options.iter().find(|option| option.id == id) else {
            return Ok(None);
        };
        let given = match self.values(id).next() {
            Some(value) => self.text(value)?,
            None => match option.default {
                Some(default) => default,
                None => return Ok(None),
            },
        };
        let bad = |wanted| UsageError::BadValue {
            command: self.command.name,
            option: option.dashed(),
            given: given.to_string(),
            wanted,
        };
        match option.value.as_ref().map(|value| value.complete) {
            Some(Complete::Words(words)) if !words.contains(&given) => Err(bad(words.join(", "))),
            _ => read(given).map(Some).ok_or_else(|| bad(wanted())),
        }
    }
}

impl Matches {
    /// Returns a time in seconds within a range.
    fn time(&self, id: Id, range: RangeInclusive<Duration>) -> Result<Option<Duration>, UsageError> {
        let wanted = || {
            let (least, most) = (range.start().as_secs_f64(), range.end().as_secs());
            format!("seconds from {least} to {most}, such as 2 or 0.5")
        };
        self.value(id, wanted, |text| seconds(text).filter(|time| range.contains(time)))
    }
}

/// More frequent reports inform no better and cost more; intervals over a day are a mistake.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(86_400);

/// Percent of one CPU: less is not measurable, and more exceeds the CPUs of a box.
const COSTS: RangeInclusive<f64> = 0.1..=1000.0;

/// From a tenth of a second to ten years.
const DURATIONS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(315_360_000);

impl WatchOptions {
    fn from_matches(matches: Matches) -> Result<Self, UsageError> {
        let pid = matches.value(Id::Pid, pid_wanted, pid)?;
        let target = match (pid, matches.trailing.is_empty()) {
            (Some(pid), true) => WatchTarget::Process(pid),
            (None, false) => WatchTarget::Command(matches.trailing.clone()),
            (None, true) => return Err(UsageError::NoTarget),
            (Some(_), false) => return Err(UsageError::TwoTargets),
        };
        let mut selection = Selection::default();
        for operand in &matches.operands {
            selection.add(matches.text(operand)?).map_err(|reason| matches.bad_pattern(reason))?;
        }
        let times = |id, range| matches.time(id, range);
        let route = matches.value(Id::Route, String::new, |word| meaning(&ROUTES, word))?;
        let returns = matches.value(Id::Returns, String::new, |word| meaning(&RETURNS, word))?;
        let on_signal = matches.value(Id::OnSignal, String::new, |word| meaning(&ON_SIGNAL, word))?;
        let cpu = matches.value(
            Id::CollectorCpu,
            || {
                let words = words(&COLLECTOR_CPUS).join(", ");
                format!("{words} or the number of a CPU from {} to {}", CPUS.start(), CPUS.end())
            },
            collector_cpu,
        )?;
        let sched = matches.value(Id::Sched, String::new, |word| meaning(&SCHEDS, word))?;
        let targets_on = matches.value(Id::TargetsOn, String::new, |word| meaning(&TARGETS_ON, word))?;
        let sample = matches.value(Id::OverBudget, String::new, |word| meaning(&OVER_BUDGET, word))?;
        let frames = matches.value(
            Id::Frames,
            || format!("a whole number from {} to {}", FRAMES.start(), FRAMES.end()),
            |text| text.parse().ok().filter(|frames| FRAMES.contains(frames)),
        )?;
        let max_map_bytes = matches.value(
            Id::MaxMapBytes,
            || "bytes from 4K to 1024M, such as 4194304, 4096K or 4M".to_string(),
            |text| bytes(text).filter(|bytes| MAP_BYTES.contains(bytes)),
        )?;
        let max_cost = matches.value(
            Id::MaxCost,
            || "percent of one CPU from 0.1 to 1000, such as 5 or 0.5".to_string(),
            |text| decimal(text).filter(|percent| COSTS.contains(percent)),
        )?;
        if max_cost.is_some() && matches.has(Id::NoBias) {
            return Err(UsageError::NoCost { command: matches.command.name });
        }
        let prompt = !selection.python.is_empty();
        Ok(Self {
            target,
            functions: selection.functions,
            python: selection.python,
            duration: times(Id::Duration, DURATIONS)?,
            // The options below have defaults in the table; a test compares them with these.
            interval: times(Id::Interval, INTERVALS)?.unwrap_or(Duration::from_secs(1)),
            json: matches.has(Id::Json),
            returns: returns.unwrap_or(Returns::Ret),
            route: route.flatten(),
            frames: frames.unwrap_or(8_192).next_power_of_two() as u32,
            max_map_bytes: max_map_bytes.unwrap_or(4 << 20),
            allow_ptrace: matches.has(Id::AllowPtrace),
            follow_forks: !matches.has(Id::NoFollowForks),
            debug_dirs: matches.paths(Id::DebugDir),
            packs: matches.paths(Id::Pack),
            calibrate: !matches.has(Id::NoBias),
            max_cost,
            sample: sample.unwrap_or(true),
            config: matches.paths(Id::Config).pop(),
            on_signal: on_signal.flatten(),
            place: Wanted { cpu: cpu.unwrap_or_default(), sched: sched.unwrap_or_default(), prompt },
            targets_on: targets_on.unwrap_or_default(),
        })
    }
}

#[cfg(feature = "upload")]
impl UploadOptions {
    fn from_matches(matches: &Matches) -> Result<Self, UsageError> {
        let only =
            |options| Err(UsageError::OnlyFor { command: matches.command.name, options, action: "sending" });
        let print = matches.value(Id::Via, String::new, |word| Some(word != "http"))?.unwrap_or(false);
        let mode = match (matches.has(Id::Once), matches.has(Id::DryRun), print) {
            (true, _, true) | (true, true, _) => return only("--once"),
            (_, true, true) => return only("--dry-run"),
            (_, _, true) => UploadMode::Print,
            (true, ..) => UploadMode::Once,
            (_, true, _) => UploadMode::DryRun,
            _ => UploadMode::Service,
        };
        let endpoint = matches.values(Id::Endpoint).next().map(|given| matches.text(given)).transpose()?;
        Ok(Self { config: matches.config(), endpoint: endpoint.map(str::to_owned), mode })
    }
}

impl FunctionsOptions {
    fn from_matches(matches: Matches) -> Result<Self, UsageError> {
        let mut operands = matches.operands.iter();
        let of = operands.next().map(OsString::as_os_str).unwrap_or_default();
        let of = match of.to_str() {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let pid = pid(digits).ok_or_else(|| UsageError::BadValue {
                    command: matches.command.name,
                    option: "PID".to_string(),
                    given: digits.to_string(),
                    wanted: format!("{}; a file of that name is written ./{digits}", pid_wanted()),
                })?;
                FunctionsOf::Process(pid)
            }
            _ => FunctionsOf::File(PathBuf::from(of)),
        };
        let pattern = operands.next().map(|operand| matches.pattern(operand)).transpose()?;
        Ok(Self {
            of,
            pattern,
            json: matches.has(Id::Json),
            debug_dirs: matches.paths(Id::DebugDir),
            packs: matches.paths(Id::Pack),
        })
    }
}

impl PackOptions {
    fn from_matches(matches: Matches) -> Result<Self, UsageError> {
        let command = matches.command;
        let rest = matches.operands.get(1..).unwrap_or_default();
        if matches.operand_text(0)? == "make" {
            let missing = |option: &'static str| UsageError::MissingOperand {
                command: command.name,
                operand: option,
                usage: command.usage.first().copied().unwrap_or_default(),
            };
            let output = matches.paths(Id::Output).pop().ok_or_else(|| missing("-o PACK"))?;
            let debug = matches.paths(Id::Debug);
            if debug.is_empty() {
                return Err(missing("--debug FILE"));
            }
            let functions = rest.iter().map(|operand| matches.pattern(operand)).collect::<Result<_, _>>()?;
            return Ok(Self::Make { output, debug, images: matches.paths(Id::Image), functions });
        }
        let usage = command.usage.last().copied().unwrap_or_default();
        match (rest, [Id::Output, Id::Debug, Id::Image].iter().any(|id| matches.has(*id))) {
            ([path], false) => Ok(Self::Show { path: PathBuf::from(path), json: matches.has(Id::Json) }),
            (_, true) => Err(UsageError::OnlyFor {
                command: command.name,
                options: "-o, --debug and --image",
                action: "make",
            }),
            (more, false) => Err(UsageError::ExtraOperand {
                command: command.name,
                given: more.last().map(|operand| operand.to_string_lossy().into_owned()).unwrap_or_default(),
                usage,
            }),
        }
    }
}

impl QuarantineOptions {
    fn from_matches(matches: Matches) -> Result<Self, UsageError> {
        let command = matches.command;
        let action = match matches.operands.len() {
            0 => "list".to_owned(),
            _ => matches.operand_text(0)?,
        };
        let build_id = matches.operands.get(1).map(|given| matches.text(given)).transpose()?;
        let action = match (action.as_str(), build_id) {
            ("clear", None) => QuarantineAction::Clear(None),
            ("clear", Some(digits)) => {
                let fits = (BUILD_ID_DIGITS..=BUILD_ID_BYTES * 2).contains(&digits.len())
                    && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                if !fits {
                    return Err(UsageError::BadValue {
                        command: command.name,
                        option: "BUILD-ID".to_string(),
                        given: digits.to_string(),
                        wanted: format!("{BUILD_ID_DIGITS} or more hexadecimal digits of what list shows"),
                    });
                }
                QuarantineAction::Clear(Some(digits.to_ascii_lowercase()))
            }
            (_, None) => QuarantineAction::List,
            (_, Some(extra)) => {
                return Err(UsageError::ExtraOperand {
                    command: command.name,
                    given: extra.to_string(),
                    usage: command.usage.first().copied().unwrap_or_default(),
                });
            }
        };
        let json = matches.has(Id::Json);
        if json && action != QuarantineAction::List {
            return Err(UsageError::OnlyFor { command: command.name, options: "--json", action: "list" });
        }
        Ok(Self { action, config: matches.config(), json })
    }
}

impl SpoolOptions {
    fn from_matches(matches: &Matches) -> Result<Self, UsageError> {
        let command = matches.command.name;
        let action = match matches.operands.len() {
            0 => "ls".to_owned(),
            _ => matches.operand_text(0)?,
        };
        let (json, format) = (matches.has(Id::Json), matches.has(Id::Format));
        let csv = matches.value(Id::Format, String::new, |word| Some(word == "csv"))?.unwrap_or(false);
        let action = match (action.as_str(), csv) {
            ("dump" | "export", _) if json => {
                return Err(UsageError::OnlyFor { command, options: "--json", action: "ls or verify" });
            }
            ("export", true) => SpoolAction::Csv,
            ("export", false) => SpoolAction::Json,
            _ if format => {
                return Err(UsageError::OnlyFor { command, options: "--format", action: "export" });
            }
            ("dump", _) => SpoolAction::Dump,
            ("verify", _) => SpoolAction::Verify(json),
            _ => SpoolAction::List(json),
        };
        let of = match (matches.paths(Id::Dir).pop(), matches.has(Id::Config)) {
            (Some(_), true) => return Err(UsageError::TwoSpools),
            (Some(dir), false) => SpoolOf::Dir(dir),
            (None, _) => SpoolOf::Config(matches.config()),
        };
        Ok(Self { action, of })
    }
}

fn pid_wanted() -> String {
    format!("a process id from {} to {}", PIDS.start(), PIDS.end())
}

fn pid(text: &str) -> Option<i32> {
    let pid = digits(text)?;
    PIDS.contains(&pid).then_some(pid as i32)
}

#[cfg(test)]
mod tests;
