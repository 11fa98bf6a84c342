//! What is known of each function at one moment, and the JSON line that says it (docs/WATCH-JSON.md).

use edgelat_histogram::SCALE;
use serde::Serialize;

/// Name and version of the schema of a line.
pub const SCHEMA: &str = "edgelat.watch/1";

/// What probes took inside of a call is known to one part in so many: the time of a trap goes up and down by as much within a
/// second, with what else the machine does.
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
    /// How much of that the probes were off because edgelat was stopped, in nanoseconds.
    pub stopped_ns: u64,
    /// The last line.
    #[serde(rename = "final")]
    pub last: bool,
    /// Why it is the last.
    pub ended: Option<Ended>,
    /// What is measured.
    pub target: TargetReport,
    /// How probes reached the kernel.
    pub route: &'static str,
    /// How returns are seen.
    pub returns: &'static str,
    /// Probes in one process.
    pub sites: u32,
    /// Time that attaching them took in nanoseconds.
    pub attach_ns: u64,
    /// Time that removing all probes took in nanoseconds; known in the last line.
    pub detach_ns: Option<u64>,
    /// Covered processes.
    pub processes: Vec<ProcessReport>,
    /// Covered processes that have ended and are not among those any more.
    pub processes_left_out: u64,
    /// Children that were not covered, or not any more, for a reason that was told.
    pub processes_not_covered: u64,
    /// Children that ended before they could be covered: what they called is in no account.
    pub children_missed: u64,
    /// How long those lived, and others before they were covered, in nanoseconds.
    pub children_uncovered_ns: u64,
    /// The functions, in the order in which they were resolved.
    pub functions: Vec<FunctionReport>,
    /// What is known of the target's Python, where its functions are measured.
    pub python: Option<PythonReport>,
    /// What the probes cost since the report before, in the last report on the whole, in percent of one CPU; `None` where the
    /// cost of a call was not measured.
    pub cost_percent: Option<f64>,
    /// Hits of probes that could not be told to any function; not part of any account.
    pub unattributed_hits: u64,
    /// Functions that were asked for and are not measured.
    pub refused: Vec<RefusedReport>,
}

/// Why measuring ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The time that was asked for is over.
    Duration,
    /// Ctrl-C or a signal to terminate.
    Signal,
    /// Every covered process has ended.
    Target,
    /// The target executes another image.
    Replaced,
    /// Nobody reads the output any more.
    Output,
    /// The probes cost more than was allowed.
    Budget,
    /// The target got a signal that says of a fault, and was left alone from that moment on.
    Fault,
    /// The configuration does not name it any more.
    Config,
    /// More happened in its processes than could be followed.
    Overrun,
    /// A debugger came.
    Traced,
    /// A file that it executes was written to or replaced.
    ImageChanged,
    /// Somebody has ended the guard, and the kernel removed the probes.
    Guard,
}

/// The process that was named.
#[derive(Debug, Clone, Serialize)]
pub struct TargetReport {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot.
    pub start: u64,
    /// Its real user id; nothing that is told.
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
    /// Every call of a function is seen, not only those that come from C: in all interpreters, as far as they were looked at.
    pub every_call: bool,
    /// How many interpreters the processes had when they were looked at last.
    pub interpreters: Option<u64>,
    /// Of these, those that show calls from C only.
    pub interpreters_from_c: Option<u64>,
    /// A method of which only a part of the calls is seen in any case.
    pub partial_method: Option<&'static str>,
    /// What was asked for, and no function that was called has the name.
    pub not_called: Vec<String>,
    /// Calls are counted and not timed.
    pub counts_only: bool,
    /// Entries of its evaluation loop, measured or not: each costs.
    pub calls: u64,
    /// Of these, calls of functions that there was no room for.
    pub no_room: u64,
    /// Of these, calls whose function could not be read.
    pub unreadable: u64,
    /// Of these, calls of functions whose names were not read, because too many were called for the first time.
    pub unnamed: u64,
}

/// A process with probes in it.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessReport {
    /// Process id.
    pub pid: i32,
    /// When its coverage began, in nanoseconds since arming.
    pub covered_since_ns: u64,
    /// When it ended.
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
    /// Left by another way than an exit site; found when the same frame was entered again.
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
    /// Were calls of a Python function before it had a row.
    pub unresolved: u64,
    /// Were not on the stack of a goroutine, where the function is one of Go.
    pub unkeyed: u64,
}

impl Lost {
    /// All of them.
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
    /// Path of its image as the process sees it; for a function of Python, of its file.
    pub image: String,
    /// Build-id of its image, empty where it has none. Not in the line: that is the target's.
    #[serde(skip)]
    pub build_id: Vec<u8>,
    /// What it is written in, as far as it is known: `native`, `go`, `go-assembly` or `python`.
    pub language: &'static str,
    /// For a function of Python, its first line.
    pub line: Option<u32>,
    /// It is a generator or coroutine of Python, whose calls are resumes.
    pub resumes: bool,
    /// Its calls are the whole awaits of such a function, each from the first resume to the return.
    #[serde(rename = "await")]
    pub whole: bool,
    /// It is a function of Python of which only a part of the calls is seen: the figures are those of a part.
    pub partial: bool,
    /// Calls that began.
    pub entries: u64,
    /// Calls that were measured to their end.
    pub exits: u64,
    /// Calls inside now.
    pub in_flight: u64,
    /// Of the calls that were measured to their end, or over range, those that an exception or panic left; `None` where no
    /// place is known at which one leaves.
    pub exceptions: Option<u64>,
    /// `entries = exits + in_flight + the sum of these`.
    pub lost: Lost,
    /// Ends of calls that began before coverage; not part of the account.
    pub unmatched_exits: u64,
    /// Durations in the histogram.
    pub count: u64,
    /// Their sum in nanoseconds.
    pub sum_ns: u64,
    /// Of that sum, what probes took that were hit inside of the calls, in nanoseconds; `None` where it is not known.
    pub probes_inside_ns: Option<u64>,
    /// Durations in the histogram of which that is not known.
    pub probes_inside_unknown: u64,
    /// Of that sum, when they were suspended, in nanoseconds; `None` where it is not told apart.
    pub suspended_ns: Option<u64>,
    /// Mean of the durations in nanoseconds; `None` while nothing was measured.
    pub mean_ns: Option<u64>,
    /// The same without what probes took inside; `None` where that is not known, or so much that the rest cannot be told.
    pub mean_without_probes_ns: Option<u64>,
    /// Time in which it was measured, in nanoseconds.
    pub covered_ns: u64,
    /// Where it is sampled because of its cost: how long a window is, and so the longest call that can be seen, in nanoseconds.
    pub window_ns: Option<u64>,
    /// Calls a second of that time since the line before; in the last line since arming.
    pub rate_per_s: f64,
    /// Lower bound of the lowest occupied bucket.
    pub min_ns: Option<u64>,
    /// Median; `None` while nothing was measured.
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
    /// What the probes themselves add to each duration, if it was measured.
    pub bias_ns: Option<u64>,
    /// Half of the durations are no longer than that, within one bucket: the calls are shorter than can be resolved.
    pub below_bias: bool,
    /// Some calls end, for us, at a jump into another function.
    pub until_tail_call: bool,
    /// Copies of it within other functions, whose calls are in no account; `None` where debug data do not tell.
    pub inlined_copies: Option<u32>,
    /// Calls went on while this was read; the account is off by those.
    pub unsettled: bool,
}

impl FunctionReport {
    /// A function of which nothing has been read yet.
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

    /// Takes in how long probes were hit inside of the calls, where that is known, and what follows from it. Comes after the
    /// histogram.
    pub fn take_probes(&mut self, probes: Option<(u64, u64)>) {
        self.probes_inside_ns = probes.map(|(ns, _)| ns);
        self.probes_inside_unknown = probes.map_or(0, |(_, unknown)| unknown);
        self.mean_ns = self.sum_ns.checked_div(self.count);
        let each = self.probes_of_each();
        // Where less is left than prices may be wrong by, it is not known; and not 0.
        self.mean_without_probes_ns = self.mean_ns.zip(each).and_then(|(mean, probes)| {
            mean.checked_sub(probes).filter(|left| *left > 0 && *left >= probes / PRICES_WITHIN)
        });
        // A bucket is an eighth of an octave wide.
        let within = |bias: u64| bias + bias / 11;
        self.below_bias = self.p50_ns.zip(self.bias_ns).is_some_and(|(p50, bias)| p50 <= within(bias));
    }

    /// Mean of what probes took inside of a call. Calls of which it is not known are taken for ones like the others.
    fn probes_of_each(&self) -> Option<u64> {
        self.probes_inside_ns?.checked_div(self.count.saturating_sub(self.probes_inside_unknown))
    }

    /// Where probes inside took so much that the rest of the mean cannot be told: how much that may be, in nanoseconds.
    pub fn unresolved_ns(&self) -> Option<u64> {
        let (mean, probes) = (self.mean_ns?, self.probes_of_each().filter(|ns| *ns > 0)?);
        let most = mean.saturating_sub(probes).saturating_add(probes / PRICES_WITHIN);
        self.mean_without_probes_ns.is_none().then_some(most.min(mean))
    }

    /// Does the account add up?
    pub fn settled(&self) -> bool {
        self.entries == self.exits + self.in_flight + self.lost.total()
    }
}
