//! Counts of each function, from lines of `run --json` and of `spool export`.

use std::collections::BTreeMap;

use serde_json::Value;

/// Figures that are added up over intervals; those that `run --json` has in an object of its own stand in `lost` there.
const SUMS: [&str; 12] = [
    "entries",
    "exits",
    "unmatched_exits",
    "sum_ns",
    "zero_count",
    "abandoned",
    "evicted",
    "ended_inside",
    "over_range",
    "table_full",
    "unresolved",
    "unkeyed",
];

/// Counts of one function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    sums: [i64; SUMS.len()],
    in_flight: i64,
    buckets: BTreeMap<i64, i64>,
}

impl Figures {
    /// Those in an object of either kind of line.
    fn of(function: &Value) -> Option<Self> {
        let number = |name: &str| {
            let found = function.get(name).or_else(|| function.get("lost")?.get(name));
            found.and_then(Value::as_i64)
        };
        let mut figures = Self { in_flight: number("in_flight")?, ..Self::default() };
        for (sum, name) in figures.sums.iter_mut().zip(SUMS) {
            *sum = number(name)?;
        }
        for bucket in function.get("buckets")?.as_array()? {
            figures.buckets.insert(bucket.get(0)?.as_i64()?, bucket.get(1)?.as_i64()?);
        }
        Some(figures)
    }

    fn add(&mut self, other: &Self) {
        for (sum, more) in self.sums.iter_mut().zip(other.sums) {
            *sum += more;
        }
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
    }
}

/// Counts of all functions, by target, function and image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals(BTreeMap<String, Figures>);

impl Totals {
    /// Those of a process, in a line of `run --json`. A name can stand for several ranges.
    pub fn of_process(target: &str, report: &Value) -> Option<Self> {
        let mut totals = Self::default();
        for function in report.get("functions")?.as_array()? {
            let figures = Figures::of(function)?;
            let known = totals.0.entry(key(target, function)?).or_default();
            known.add(&figures);
            known.in_flight += figures.in_flight;
        }
        Some(totals)
    }

    /// Adds those of another process.
    pub fn add(&mut self, other: &Self) {
        for (key, figures) in &other.0 {
            let known = self.0.entry(key.clone()).or_default();
            known.add(figures);
            known.in_flight += figures.in_flight;
        }
    }

    /// Takes in what happened in an interval, as a line of `spool export` has it: calls inside are those at its end.
    pub fn take(&mut self, interval: &Value) -> Option<()> {
        for function in interval.get("functions")?.as_array()? {
            let figures = Figures::of(function)?;
            let target = function.get("target")?.as_str()?;
            let known = self.0.entry(key(target, function)?).or_default();
            known.add(&figures);
            known.in_flight = figures.in_flight;
        }
        Some(())
    }

    /// The difference in words; `None` if equal. A function without counts is as good as absent.
    pub fn differs(&self, other: &Self) -> Option<String> {
        let nothing = Figures::default();
        for key in self.0.keys().chain(other.0.keys()) {
            let [one, two] = [self, other].map(|totals| totals.0.get(key).unwrap_or(&nothing));
            if one != two {
                let sum =
                    SUMS.iter().zip(one.sums.iter().zip(two.sums)).find(|(_, (one, two))| **one != *two);
                return Some(match sum {
                    Some((name, (one, two))) => format!("{key}: {name} is {one} and not {two}"),
                    None if one.in_flight != two.in_flight => {
                        format!("{key}: in_flight is {} and not {}", one.in_flight, two.in_flight)
                    }
                    None => format!("{key}: its histogram is {:?} and not {:?}", one.buckets, two.buckets),
                });
            }
        }
        None
    }

    /// Calls of all functions.
    pub fn entries(&self) -> i64 {
        self.0.values().map(|figures| figures.sums[0]).sum()
    }
}

fn key(target: &str, function: &Value) -> Option<String> {
    let name = function.get("function").or_else(|| function.get("name"))?.as_str()?;
    Some(format!("{target}: {name} in {}", function.get("image")?.as_str()?))
}
