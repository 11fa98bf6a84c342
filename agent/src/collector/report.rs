//! State of each function at one moment, and the JSON line for it (docs/WATCH-JSON.md).

use edgelat_histogram::SCALE;
use serde::Serialize;

/// Name and version of the schema of a line.
pub const SCHEMA: &str = "edgelat.watch/1";

/// The probe time inside a call is known to one part in this many: the time of a trap varies by
/// that much within a second, with the other load of the machine.
const PRICES_WITHIN: u64 = 8;

/// One line: everything cumulative since arming.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Number of the line; 0 is written when counting begins.
    pub seq: u64,
    /// Time since arming in nanoseconds.
    pub elapsed_ns: u64,
    /// Part of that time in which the probes were off because edgelat was stopped, in nanoseconds.
    pub stopped_ns: u64,
    /// True in the last line.
    #[serde(rename = "final")]
    pub last: bool,
    /// Reason for the end of the measurement.
    pub ended: Option<Ended>,
    /// The measured process.
    pub target: TargetReport,
    /// Route by which the probes reached the kernel.
    pub route: &'static str,
    /// Mechanism that detects returns.
    pub returns: &'static str,
    /// Probes in one process.
    pub sites: u32,
    /// Duration of the attach in nanoseconds.
    pub attach_ns: u64,
    /// Duration of the removal of all probes in nanoseconds; known in the last line.
    pub detach_ns: Option<u64>,
    /// Covered processes.
    pub processes: Vec<ProcessReport>,
    /// Covered processes that have ended and are no longer listed there.
    pub processes_left_out: u64,
    /// Children that were not covered, or are no longer covered, for a reason that was reported.
    pub processes_not_covered: u64,
    /// Children that ended before they could be covered: their calls are in no account.
    pub children_missed: u64,
    /// Lifetime of those children, and of others before their coverage, in nanoseconds.
    pub children_uncovered_ns: u64,
    /// The functions, in the order in which they were resolved.
    pub functions: Vec<FunctionReport>,
    /// State of the target's Python, if its functions are measured.
    pub python: Option<PythonReport>,
    /// Cost of the probes since the previous report, in the last report over the whole time, in
    /// percent of one CPU; `None` if the cost of a call was not measured.
    pub cost_percent: Option<f64>,
    /// Probe hits that could not be attributed to a function; not part of any account.
    pub unattributed_hits: u64,
    /// Requested functions that are not measured.
    pub refused: Vec<RefusedReport>,
}

/// Reason for the end of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The requested duration is over.
    Duration,
    /// Ctrl-C or a signal to terminate.
    Signal,
    /// Every covered process has ended.
    Target,
    /// The target executes another image.
    Replaced,
    /// The reader of the output is gone.
    Output,
    /// The probes cost more than the budget allows.
    Budget,
    /// The target received a fault signal, and was left alone from then on.
    Fault,
    /// The configuration no longer names the target.
    Config,
    /// More events occurred in its processes than could be followed.
    Overrun,
    /// A debugger attached.
    Traced,
    /// A file that the target executes was written to or replaced.
    ImageChanged,
    /// The guard was ended, and the kernel removed the probes.
    Guard,
}

/// The measured process.
#[derive(Debug, Clone, Serialize)]
pub struct TargetReport {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// Real user id; not part of the line.
    #[serde(skip)]
    pub user: u32,
    /// Path of its executable.
    pub exe: String,
    /// Build-id of its executable in hexadecimal, if it has one.
    pub build_id: Option<String>,
}

/// A Python interpreter whose functions are measured.
#[derive(Debug, Clone, Serialize)]
pub struct PythonReport {
    /// Its version, such as `3.11`.
    pub version: String,
    /// True if every call of a function is seen, not only calls from C, in all examined
    /// interpreters.
    pub every_call: bool,
    /// Number of interpreters in the processes at the last examination.
    pub interpreters: Option<u64>,
    /// Interpreters among these that show only calls from C.
    pub interpreters_from_c: Option<u64>,
    /// Method of which only a part of the calls is seen in any case.
    pub partial_method: Option<&'static str>,
    /// Requested names that no called function has.
    pub not_called: Vec<String>,
    /// True if calls are counted and not timed.
    pub counts_only: bool,
    /// Entries of its evaluation loop, measured or not: each has a cost.
    pub calls: u64,
    /// Of these, calls of functions for which there was no room.
    pub no_room: u64,
    /// Of these, calls whose function could not be read.
    pub unreadable: u64,
    /// Of these, calls of functions whose names were not read: too many functions were new.
    pub unnamed: u64,
}

/// A process with probes in it.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessReport {
    /// Process id.
    pub pid: i32,
    /// Start of its coverage in nanoseconds since arming.
    pub covered_since_ns: u64,
    /// End of its coverage in nanoseconds since arming.
    pub ended_ns: Option<u64>,
}

/// A function that is not measured.
#[derive(Debug, Clone, Serialize)]
pub struct RefusedReport {
    /// Its name.
    pub name: String,
    /// Path of its image.
    pub image: String,
    /// Stable code of the reason.
    pub reason: String,
    /// The reason in words.
    pub text: String,
}

/// Entries that will never be in the histogram, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Left by another way than an exit site; detected when the same frame was entered again.
    pub abandoned: u64,
    /// Open at the end of a window of a measurement that is sampled because of its cost.
    pub cut: u64,
    /// Gave way to younger calls in a full frame table.
    pub evicted: u64,
    /// Inside when their process ended.
    pub ended_inside: u64,
    /// Longer than the last bucket.
    pub over_range: u64,
    /// Found no frame.
    pub table_full: u64,
    /// Calls of a Python function before it had a row.
    pub unresolved: u64,
    /// Calls of a Go function outside the stack of a goroutine.
    pub unkeyed: u64,
}

impl Lost {
    /// Returns the sum of all reasons.
    pub fn total(&self) -> u64 {
        self.abandoned
            + self.cut
            + self.evicted
            + self.ended_inside
            + self.over_range
            + self.table_full
            + self.unkeyed
            + self.unresolved
    }
}

/// One function.
#[derive(Debug, Clone, Serialize)]
pub struct FunctionReport {
    /// Demangled name.
    pub name: String,
    /// Path of its image as the process sees it; for a Python function, of its file.
    pub image: String,
    /// Build-id of its image; empty if it has none. Not in the line, which has that of the target.
    #[serde(skip)]
    pub build_id: Vec<u8>,
    /// Source language, as far as known: `native`, `go`, `go-assembly` or `python`.
    pub language: &'static str,
    /// First line of a Python function.
    pub line: Option<u32>,
    /// True for a Python generator or coroutine, whose calls are resumes.
    pub resumes: bool,
    /// True if the calls are whole awaits of such a function, from the first resume to the return.
    #[serde(rename = "await")]
    pub whole: bool,
    /// True for a Python function whose figures cover only the visible part of its calls.
    pub partial: bool,
    /// Calls that began.
    pub entries: u64,
    /// Calls that were measured to their end.
    pub exits: u64,
    /// Calls that are inside now.
    pub in_flight: u64,
    /// Calls that an exception or panic left, of those measured to their end or over range; `None`
    /// if no place is known at which an exception leaves.
    pub exceptions: Option<u64>,
    /// `entries = exits + in_flight + the sum of these`.
    pub lost: Lost,
    /// Ends of calls that began before coverage; not part of the account.
    pub unmatched_exits: u64,
    /// Durations in the histogram.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub sum_ns: u64,
    /// Part of that sum that probes inside the calls took, in nanoseconds; `None` if unknown.
    pub probes_inside_ns: Option<u64>,
    /// Durations in the histogram for which that part is unknown.
    pub probes_inside_unknown: u64,
    /// Part of that sum in which the calls were suspended, in nanoseconds; `None` if not
    /// distinguished.
    pub suspended_ns: Option<u64>,
    /// Mean of the durations in nanoseconds; `None` if nothing was measured yet.
    pub mean_ns: Option<u64>,
    /// Mean without the time of probes inside; `None` if that is unknown, or too long to know the
    /// rest.
    pub mean_without_probes_ns: Option<u64>,
    /// Time in which it was measured, in nanoseconds.
    pub covered_ns: u64,
    /// Window of a sampled measurement, and so the longest call that it can see, in nanoseconds.
    /// `None` if it is measured all the time.
    pub window_ns: Option<u64>,
    /// Calls a second of that time since the line before; in the last line since arming.
    pub rate_per_s: f64,
    /// Lower bound of the lowest occupied bucket.
    pub min_ns: Option<u64>,
    /// Median; `None` if nothing was measured yet.
    pub p50_ns: Option<u64>,
    /// 90 %.
    pub p90_ns: Option<u64>,
    /// 99 %.
    pub p99_ns: Option<u64>,
    /// 99.9 %.
    pub p999_ns: Option<u64>,
    /// Upper bound of the highest occupied bucket.
    pub max_ns: Option<u64>,
    /// Scale of the buckets.
    pub scale: i32,
    /// Durations below the first bucket.
    pub zero_count: u64,
    /// Occupied buckets: OTLP index and count.
    pub buckets: Vec<(i32, u64)>,
    /// Time that the probes themselves add to each duration, if it was measured.
    pub bias_ns: Option<u64>,
    /// True if the median does not exceed `bias_ns`, within one bucket: the calls are too short.
    pub below_bias: bool,
    /// True if some calls are measured only up to a jump into another function.
    pub until_tail_call: bool,
    /// Inlined copies in other functions, whose calls are in no account; `None` if unknown.
    pub inlined_copies: Option<u32>,
    /// True if calls continued during the reading; the account is off by those calls.
    pub unsettled: bool,
}

impl FunctionReport {
    /// Creates the report of a function of which nothing has been read yet.
    pub fn new(name: String, image: String) -> Self {
        Self {
            name,
            image,
            build_id: Vec::new(),
            language: "native",
            line: None,
            resumes: false,
            whole: false,
            partial: false,
            entries: 0,
            exits: 0,
            in_flight: 0,
            exceptions: None,
            lost: Lost::default(),
            unmatched_exits: 0,
            count: 0,
            sum_ns: 0,
            probes_inside_ns: None,
            probes_inside_unknown: 0,
            suspended_ns: None,
            mean_ns: None,
            mean_without_probes_ns: None,
            covered_ns: 0,
            window_ns: None,
            rate_per_s: 0.0,
            min_ns: None,
            p50_ns: None,
            p90_ns: None,
            p99_ns: None,
            p999_ns: None,
            max_ns: None,
            scale: SCALE,
            zero_count: 0,
            buckets: Vec::new(),
            bias_ns: None,
            below_bias: false,
            until_tail_call: false,
            inlined_copies: None,
            unsettled: false,
        }
    }

    /// Takes in the time of probes inside the calls, if known, and derives the figures that depend
    /// on it. Must follow the histogram.
    pub fn take_probes(&mut self, probes: Option<(u64, u64)>) {
        self.probes_inside_ns = probes.map(|(ns, _)| ns);
        self.probes_inside_unknown = probes.map_or(0, |(_, unknown)| unknown);
        self.mean_ns = self.sum_ns.checked_div(self.count);
        let each = self.probes_of_each();
        // A remainder below the error of the probe cost is unknown, not 0.
        self.mean_without_probes_ns = self.mean_ns.zip(each).and_then(|(mean, probes)| {
            mean.checked_sub(probes).filter(|left| *left > 0 && *left >= probes / PRICES_WITHIN)
        });
        // A bucket is an eighth of an octave wide.
        let within = |bias: u64| bias + bias / 11;
        self.below_bias = self.p50_ns.zip(self.bias_ns).is_some_and(|(p50, bias)| p50 <= within(bias));
    }

    /// Mean time of probes inside a call; calls with an unknown time are taken for typical calls.
    fn probes_of_each(&self) -> Option<u64> {
        self.probes_inside_ns?.checked_div(self.count.saturating_sub(self.probes_inside_unknown))
    }

    /// Upper bound of the rest of the mean in ns, if probes took too long for it to be known.
    pub fn unresolved_ns(&self) -> Option<u64> {
        let (mean, probes) = (self.mean_ns?, self.probes_of_each().filter(|ns| *ns > 0)?);
        let most = mean.saturating_sub(probes).saturating_add(probes / PRICES_WITHIN);
        self.mean_without_probes_ns.is_none().then_some(most.min(mean))
    }

    /// Returns true if the account adds up.
    pub fn settled(&self) -> bool {
        self.entries == self.exits + self.in_flight + self.lost.total()
    }
}
