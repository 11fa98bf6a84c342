//! The report of edgelat and the oracle of a target as types, and their comparison.

use std::collections::BTreeMap;

use serde_json::Value;

/// A target's report about itself: one line of the protocol in `tests/targets/oracle.h`.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// `ready`, `rest`, `told`, `end`, or an event of the target's own.
    pub event: String,
    /// Pid of the process that wrote it.
    pub pid: i32,
    /// True if all results of its work were right.
    pub ok: bool,
    /// Number of wrong results.
    pub wrong: u64,
    /// The first wrong result.
    pub message: String,
    /// Its functions, in the order of the source.
    pub functions: Vec<OracleFunction>,
}

/// A target's knowledge about one of its functions.
#[derive(Clone, Debug)]
pub struct OracleFunction {
    /// Demangled name.
    pub name: String,
    /// Calls that began.
    pub calls: u64,
    /// Calls that ended by the function's own return.
    pub completed: u64,
    /// Calls left by an exception, a panic, a longjmp or the end of the thread.
    pub unwound: u64,
    /// Calls that began and did not end.
    pub in_flight: u64,
    /// Sum of the durations the target measured, nanoseconds; 0 if it measured none.
    pub sum_ns: u64,
    /// Nearest-rank quantiles of these durations, nanoseconds: 50 %, 90 %, 99 %.
    pub quantiles_ns: Option<[u64; 3]>,
    /// The shortest and the longest of these durations, nanoseconds.
    pub extremes_ns: Option<[u64; 2]>,
}

/// A histogram's own quantiles and bounds, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Quantiles {
    /// 50 %.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// Lower bound of the lowest occupied bucket.
    pub min: u64,
    /// Upper bound of the highest occupied bucket.
    pub max: u64,
}

/// One function in a report of edgelat.
#[derive(Clone, Debug)]
pub struct Function {
    /// Demangled name.
    pub name: String,
    /// Path of the image.
    pub image: String,
    /// Calls seen to begin.
    pub entries: u64,
    /// Calls measured from beginning to end.
    pub exits: u64,
    /// Measured calls that an exception left; `None` if no such exit is known.
    pub exceptions: Option<u64>,
    /// Calls that have begun and not ended: occupied frames.
    pub in_flight: u64,
    /// Calls that began and will never be measured, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Returns of calls that began before coverage.
    pub unmatched_exits: u64,
    /// Durations in the histogram.
    pub count: u64,
    /// Sum of these durations, nanoseconds.
    pub sum_ns: u64,
    /// Quantiles of the histogram; `None` while it is empty.
    pub quantiles: Option<Quantiles>,
    /// Buckets per factor of two, as a power of two.
    pub scale: i64,
    /// Durations of zero.
    pub zero_count: u64,
    /// (OTLP index, count), ascending.
    pub buckets: Vec<(i64, u64)>,
    /// Part of the sum that probes inside took, nanoseconds.
    pub probes_inside_ns: Option<u64>,
    /// The mean without that part, nanoseconds.
    pub mean_without_probes_ns: Option<u64>,
    /// Time that the probes themselves add to a duration, nanoseconds.
    pub bias_ns: Option<u64>,
    /// True if some exits are tail jumps: the duration ends where another function takes over.
    pub until_tail_call: bool,
    /// Known copies inlined into other functions.
    pub inlined_copies: Option<u64>,
    /// True if the row changed while it was read.
    pub unsettled: bool,
}

/// One object of `edgelat watch --json`.
#[derive(Clone, Debug)]
pub struct Report {
    /// 0 at arming.
    pub seq: u64,
    /// Time since arming, nanoseconds.
    pub elapsed_ns: u64,
    /// True for the last report.
    pub is_final: bool,
    /// Reason of the end: `duration`, `signal`, `target`...
    pub ended: Option<String>,
    /// Way in which the probes are attached.
    pub route: String,
    /// `ret` or `uretprobe`.
    pub returns: String,
    /// Covered pids.
    pub processes: Vec<i32>,
    /// Functions, in the requested order.
    pub functions: Vec<Function>,
    /// Hits of probes that could not be attributed to a function.
    pub unattributed_hits: u64,
    /// The object itself, for values without a field here.
    pub value: Value,
}

fn field<'a>(object: &'a Value, name: &str) -> &'a Value {
    object.get(name).unwrap_or_else(|| panic!("no field `{name}` in {object}"))
}

fn number(object: &Value, name: &str) -> u64 {
    field(object, name).as_u64().unwrap_or_else(|| panic!("`{name}` is no number in {object}"))
}

fn text(object: &Value, name: &str) -> String {
    field(object, name).as_str().unwrap_or_else(|| panic!("`{name}` is no text in {object}")).to_owned()
}

fn flag(object: &Value, name: &str) -> bool {
    field(object, name).as_bool().unwrap_or_else(|| panic!("`{name}` is no boolean in {object}"))
}

fn list<'a>(object: &'a Value, name: &str) -> &'a Vec<Value> {
    field(object, name).as_array().unwrap_or_else(|| panic!("`{name}` is no list in {object}"))
}

impl Oracle {
    /// Parses one line of a target; `None` if it is another kind of line.
    pub fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let event = value.get("event")?.as_str()?.to_owned();
        let functions = list(&value, "functions").iter().map(|f| OracleFunction {
            name: text(f, "name"),
            calls: number(f, "calls"),
            completed: number(f, "completed"),
            unwound: number(f, "unwound"),
            in_flight: field(f, "in_flight").as_i64().and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
            sum_ns: number(f, "sum_ns"),
            quantiles_ns: f
                .get("p50_ns")
                .map(|_| [number(f, "p50_ns"), number(f, "p90_ns"), number(f, "p99_ns")]),
            extremes_ns: f.get("min_ns").map(|_| [number(f, "min_ns"), number(f, "max_ns")]),
        });
        Some(Self {
            event,
            pid: i32::try_from(number(&value, "pid")).unwrap(),
            ok: flag(&value, "ok"),
            wrong: number(&value, "wrong"),
            message: text(&value, "message"),
            functions: functions.collect(),
        })
    }

    /// The target's figures of the function that a report calls `name`. C++ names may have their
    /// parameter list in only one of the two; in Go's `main.(*T).method` no parenthesis begins a
    /// list.
    pub fn function(&self, name: &str) -> &OracleFunction {
        let without_parameters = |name: &str| name.split_once('(').map_or(name, |(head, _)| head).to_owned();
        let wanted = without_parameters(name);
        let mut same = self.functions.iter().filter(|f| f.name == name);
        let mut alike = self.functions.iter().filter(|f| without_parameters(&f.name) == wanted);
        same.next().or_else(|| alike.next()).unwrap_or_else(|| {
            panic!("the target knows no `{name}`, only {:?}", self.functions.iter().map(|f| &f.name))
        })
    }

    /// Fails unless all the target's own results were right.
    #[track_caller]
    pub fn assert_right(&self) {
        assert!(self.ok, "the target came to {} wrong results, the first: {}", self.wrong, self.message);
    }
}

impl Function {
    fn parse(f: &Value) -> Self {
        let buckets = list(f, "buckets").iter().map(|pair| {
            (pair.get(0).and_then(Value::as_i64).unwrap(), pair.get(1).and_then(Value::as_u64).unwrap())
        });
        let lost = field(f, "lost").as_object().unwrap_or_else(|| panic!("`lost` is no object in {f}"));
        Self {
            name: text(f, "name"),
            image: text(f, "image"),
            entries: number(f, "entries"),
            exits: number(f, "exits"),
            exceptions: field(f, "exceptions").as_u64(),
            in_flight: number(f, "in_flight"),
            lost: lost.iter().map(|(name, n)| (name.clone(), n.as_u64().unwrap())).collect(),
            unmatched_exits: number(f, "unmatched_exits"),
            count: number(f, "count"),
            sum_ns: number(f, "sum_ns"),
            quantiles: field(f, "p50_ns").as_u64().filter(|_| number(f, "count") > 0).map(|p50| Quantiles {
                p50,
                p90: number(f, "p90_ns"),
                p99: number(f, "p99_ns"),
                p999: number(f, "p999_ns"),
                min: number(f, "min_ns"),
                max: number(f, "max_ns"),
            }),
            scale: field(f, "scale").as_i64().unwrap(),
            zero_count: number(f, "zero_count"),
            buckets: buckets.collect(),
            probes_inside_ns: field(f, "probes_inside_ns").as_u64(),
            mean_without_probes_ns: field(f, "mean_without_probes_ns").as_u64(),
            bias_ns: field(f, "bias_ns").as_u64(),
            until_tail_call: flag(f, "until_tail_call"),
            inlined_copies: field(f, "inlined_copies").as_u64(),
            unsettled: flag(f, "unsettled"),
        }
    }

    /// Calls that returned and were measured.
    pub fn returned(&self) -> u64 {
        self.exits - self.exceptions.unwrap_or(0)
    }

    /// The sum of all named losses.
    pub fn all_lost(&self) -> u64 {
        self.lost.values().sum()
    }

    /// One named loss; fails if the report does not name it.
    #[track_caller]
    pub fn lost(&self, name: &str) -> u64 {
        *self.lost.get(name).unwrap_or_else(|| panic!("no loss is called `{name}`: {:?}", self.lost))
    }

    /// Fails unless every entry is accounted for and the histogram is consistent.
    #[track_caller]
    pub fn assert_identity(&self) {
        assert_eq!(
            self.entries,
            self.exits + self.in_flight + self.all_lost(),
            "entries = exits + in flight + losses of {self:#?}"
        );
        assert_eq!(self.count, self.exits, "count = exits of {self:#?}");
        let buckets: u64 = self.buckets.iter().map(|(_, n)| n).sum();
        assert_eq!(self.count, self.zero_count + buckets, "count = sum of the buckets of {self:#?}");
        assert!(self.buckets.is_sorted_by(|a, b| a.0 < b.0), "buckets ascend in {self:#?}");
        if let Some(q) = self.quantiles {
            let ascending = [q.min, q.p50, q.p90, q.p99, q.p999, q.max];
            assert!(ascending.is_sorted(), "min <= p50 <= p90 <= p99 <= p99.9 <= max in {self:#?}");
        }
    }

    /// The index of the bucket at which at least `q` of the histogram lies at or below.
    pub fn bucket_of_quantile(&self, q: f64) -> Option<i64> {
        let rank = (self.count as f64 * q).ceil().max(1.0) as u64;
        let mut seen = self.zero_count;
        self.buckets.iter().find_map(|&(index, n)| {
            seen += n;
            (seen >= rank).then_some(index)
        })
    }
}

/// The OTLP index at scale 3 of a duration: bucket i holds (2^(i/8), 2^((i+1)/8)] seconds. In
/// floating point: precise enough for a comparison within a bucket, not for a decision at its
/// bound.
pub fn bucket_of_ns(ns: f64) -> i64 {
    ((ns / 1e9).log2() * 8.0).ceil() as i64 - 1
}

impl Report {
    /// Parses one line of edgelat; `None` if it is another line, such as output of the command that
    /// it runs.
    pub fn parse(line: &str) -> Option<Self> {
        Self::of(serde_json::from_str(line).ok()?)
    }

    /// Converts a parsed object.
    pub fn of(value: Value) -> Option<Self> {
        if value.get("schema")?.as_str()? != "edgelat.watch/1" {
            return None;
        }
        Some(Self {
            seq: number(&value, "seq"),
            elapsed_ns: number(&value, "elapsed_ns"),
            is_final: flag(&value, "final"),
            ended: field(&value, "ended").as_str().map(str::to_owned),
            route: text(&value, "route"),
            returns: text(&value, "returns"),
            processes: list(&value, "processes")
                .iter()
                .map(|p| i32::try_from(number(p, "pid")).unwrap())
                .collect(),
            functions: list(&value, "functions").iter().map(Function::parse).collect(),
            unattributed_hits: number(&value, "unattributed_hits"),
            value,
        })
    }

    /// The function of that name; C++ names may omit their parameter list.
    #[track_caller]
    pub fn function(&self, name: &str) -> &Function {
        let head = format!("{name}(");
        self.functions.iter().find(|f| f.name == name || f.name.starts_with(&head)).unwrap_or_else(|| {
            panic!("`{name}` is not in the report: {:?}", self.functions.iter().map(|f| &f.name))
        })
    }

    /// Fails unless the identity holds for every function.
    #[track_caller]
    pub fn assert_identity(&self) {
        for function in &self.functions {
            function.assert_identity();
        }
    }

    /// Fails unless the identity holds, the target's results were right, and the target's counts of
    /// entries and exits equal the report's for every function. Calls that the target left
    /// otherwise (`unwound`) or not at all must be accounted for as lost or in flight.
    #[track_caller]
    pub fn agrees_with(&self, oracle: &Oracle) {
        oracle.assert_right();
        self.assert_identity();
        assert!(!self.functions.is_empty(), "the report names no function");
        assert_eq!(self.unattributed_hits, 0, "hits of no function");
        for function in &self.functions {
            let truth = oracle.function(&function.name);
            assert!(truth.calls > 0, "`{}` was never called: the test shows nothing", truth.name);
            assert_eq!(
                function.entries, truth.calls,
                "entries; the target: {truth:#?}, edgelat: {function:#?}"
            );
            assert_eq!(
                function.returned(),
                truth.completed,
                "exits; the target: {truth:#?}, edgelat: {function:#?}"
            );
            assert_eq!(function.unmatched_exits, 0, "exits without an entry in {function:#?}");
        }
    }
}
