//! Checks of the records that are left after a power cut.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::console::Heard;
use crate::totals::Totals;

/// Intervals at the end of the last run that may be recorded without having been heard of: the line is said before the record
/// is written, but both are on their way when power goes.
const UNHEARD: u64 = 2;

/// Faults of records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// No line of `spool export`.
    #[error("no line of spool export: {0}")]
    Line(String),
    /// An interval is not where it should be.
    #[error("run {run}: interval {first} follows {expected} intervals")]
    Hole {
        /// The run.
        run: String,
        /// The interval.
        first: u64,
        /// So many there should have been before it.
        expected: u64,
    },
    /// A run comes in two pieces.
    #[error("run {0} begins twice")]
    Twice(String),
    /// A record that differs from the measurement.
    #[error("run {run} up to interval {last}: {what}")]
    Differs {
        /// The run.
        run: String,
        /// The interval.
        last: u64,
        /// The difference.
        what: String,
    },
    /// A record that the service never reported.
    #[error("run {run} up to interval {last}: nobody has heard of that")]
    Invented {
        /// The run.
        run: String,
        /// The interval.
        last: u64,
    },
    /// Records that were on the disk are missing.
    #[error("run {run} has {there} intervals, and {synced} were on the disk")]
    Lost {
        /// The run.
        run: String,
        /// Intervals that there are.
        there: u64,
        /// Intervals that have to be there.
        synced: u64,
    },
}

/// Records of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Intervals.
    pub intervals: u64,
    /// Counts in them.
    pub totals: Totals,
}

/// The records of all runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    runs: BTreeMap<String, Kept>,
    /// Records, of which one can stand for several intervals.
    pub records: u64,
    /// Those whose figures were compared with a line of the service.
    pub compared: u64,
    /// Intervals that are in a record together with others.
    pub merged: u64,
}

impl Records {
    /// Checks the output of `spool export`. Each run begins with its first interval and has no hole, and each record that was `heard` of
    /// says what the service said.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read(export: &str, heard: &Heard) -> Result<Self, Wrong> {
        let mut records = Self::default();
        let mut before = String::new();
        for line in export.lines() {
            let bad = || Wrong::Line(line.chars().take(200).collect());
            let interval: Value = serde_json::from_str(line).map_err(|_| bad())?;
            let number = |name: &str| interval.get(name).and_then(Value::as_u64).ok_or_else(bad);
            let run = interval.get("run").and_then(Value::as_str).ok_or_else(bad)?;
            let (first, last) = (number("first")?, number("last")?);
            if run != before && records.runs.contains_key(run) {
                return Err(Wrong::Twice(run.to_owned()));
            }
            run.clone_into(&mut before);
            let kept = records.runs.entry(run.to_owned()).or_default();
            if first != kept.intervals || last < first {
                return Err(Wrong::Hole { run: run.to_owned(), first, expected: kept.intervals });
            }
            kept.totals.take(&interval).ok_or_else(bad)?;
            kept.intervals = last + 1;
            records.records += 1;
            if last > first {
                records.merged += last - first + 1;
            }
            if let Some(told) = heard.totals(run, last) {
                records.compared += 1;
                if let Some(what) = kept.totals.differs(told) {
                    return Err(Wrong::Differs { run: run.to_owned(), last, what });
                }
            }
        }
        Ok(records)
    }

    /// Holds them against what has to be there: what was there `before` this boot as it was, and of the run that was `heard` of in it
    /// at least what was said to be on the disk before a time. There is nothing else but the beginnings of so many runs of which
    /// nothing was heard yet as there are `spools`.
    ///
    /// # Errors
    /// What is wrong.
    pub fn judge(&self, before: &Self, heard: &Heard, time_ns: u64, spools: u64) -> Result<(), Wrong> {
        for (run, had) in &before.runs {
            let lost = |there| Wrong::Lost { run: run.clone(), there, synced: had.intervals };
            let has = self.runs.get(run).ok_or_else(|| lost(0))?;
            if has.intervals != had.intervals {
                return Err(lost(has.intervals));
            }
            if let Some(what) = has.totals.differs(&had.totals) {
                return Err(Wrong::Differs { run: run.clone(), last: had.intervals - 1, what });
            }
        }
        for (run, synced) in heard.synced(time_ns) {
            let there = self.runs.get(run).map_or(0, |kept| kept.intervals);
            if there < synced {
                return Err(Wrong::Lost { run: run.to_owned(), there, synced });
            }
        }
        let new = self.runs.iter().filter(|(run, _)| !before.runs.contains_key(*run));
        let mut unknown = 0;
        for (run, kept) in new {
            unknown += u64::from(!heard.knows(run));
            let told = heard.last(run).map_or(0, |last| last + 1);
            if kept.intervals > told + UNHEARD || unknown > spools {
                return Err(Wrong::Invented { run: run.clone(), last: kept.intervals - 1 });
            }
        }
        Ok(())
    }

    /// Runs.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Calls of all functions in all runs.
    pub fn entries(&self) -> i64 {
        self.runs.values().map(|kept| kept.totals.entries()).sum()
    }

    /// Intervals of all runs.
    pub fn intervals(&self) -> u64 {
        self.runs.values().map(|kept| kept.intervals).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of the service: what it had counted of one function when `interval` ended, and how much is on the disk.
    fn line(run: &str, interval: u64, synced: u64, entries: u64) -> String {
        format!(
            "~ # {{\"schema\":\"edgelat.run/1\",\"time_ns\":1,\"name\":\"t\",\"pid\":7,\"state\":\"measured\",\"reason\":null,\"report\":{{\
             \"functions\":[{{\"name\":\"f\",\"image\":\"/f\",\"entries\":{entries},\"exits\":{entries},\"in_flight\":0,\"lost\":{{\
             \"abandoned\":0,\"evicted\":0,\"ended_inside\":0,\"over_range\":0,\"table_full\":0,\"unresolved\":0,\"unkeyed\":0}},\
             \"unmatched_exits\":0,\"sum_ns\":{entries},\"zero_count\":0,\"buckets\":[[-9,{entries}]]}}]}},\"spool\":{{\"run\":\"{run}\",\
             \"interval\":{interval},\"synced\":{synced}}}}}"
        )
    }

    /// A line of `spool export`.
    fn record(run: &str, first: u64, last: u64, entries: u64) -> String {
        format!(
            "{{\"run\":\"{run}\",\"first\":{first},\"last\":{last},\"functions\":[{{\"target\":\"t\",\"function\":\"f\",\"image\":\"/f\",\
             \"entries\":{entries},\"exits\":{entries},\"in_flight\":0,\"abandoned\":0,\"evicted\":0,\"ended_inside\":0,\"over_range\":0,\
             \"table_full\":0,\"unresolved\":0,\"unkeyed\":0,\"unmatched_exits\":0,\"sum_ns\":{entries},\"zero_count\":0,\
             \"buckets\":[[-9,{entries}]]}}]}}\n"
        )
    }

    /// A run that counts ten calls in each of four intervals; two are on the disk by time 30, three by 40.
    fn heard() -> Heard {
        let mut heard = Heard::default();
        for (interval, synced) in [(0, 0), (1, 0), (2, 2), (3, 3)] {
            heard.hear(&line("b", interval, synced, 10 * (interval + 1)), 10 * (interval + 1));
        }
        assert_eq!((heard.lines, heard.mixed), (4, 0));
        heard
    }

    fn before() -> Records {
        Records::read(&record("a", 0, 4, 50), &Heard::default()).unwrap()
    }

    fn judged(export: &[String], time_ns: u64) -> Result<(), Wrong> {
        let heard = heard();
        Records::read(&export.concat(), &heard)?.judge(&before(), &heard, time_ns, 1)
    }

    #[test]
    fn what_has_to_be_there_may_be_followed_by_what_was_written_later() {
        let a = record("a", 0, 4, 50);
        let b: Vec<String> = (0..4).map(|interval| record("b", interval, interval, 10)).collect();
        for intervals in 0..=4 {
            let export = [std::slice::from_ref(&a), &b[..intervals]].concat();
            assert!(judged(&export, 30).is_ok(), "{intervals}");
            assert_eq!(judged(&export, 31).is_ok(), intervals >= 2, "{intervals}");
            assert_eq!(judged(&export, u64::MAX).is_ok(), intervals >= 3, "{intervals}");
        }
        // Merged in any way it is the same, also when the line came after the record.
        assert_eq!(judged(&[a.clone(), record("b", 0, 1, 20), record("b", 2, 4, 30)], u64::MAX), Ok(()));
        let parts = [record("a", 0, 1, 20), record("a", 2, 4, 30), record("b", 0, 3, 40)];
        assert_eq!(judged(&parts, u64::MAX), Ok(()));
    }

    #[test]
    fn what_is_lost_changed_invented_or_out_of_order_is_noticed() {
        let (a, b) = (record("a", 0, 4, 50), record("b", 0, 2, 30));
        let judged = |export: &[&String]| {
            let export: Vec<String> = export.iter().map(|line| (*line).clone()).collect();
            judged(&export, u64::MAX).unwrap_err()
        };
        assert!(matches!(judged(&[&b]), Wrong::Lost { there: 0, synced: 5, .. }));
        assert!(matches!(judged(&[&record("a", 0, 3, 50), &b]), Wrong::Lost { there: 4, synced: 5, .. }));
        assert!(matches!(judged(&[&record("a", 0, 4, 49), &b]), Wrong::Differs { last: 4, .. }));
        assert!(matches!(judged(&[&a, &record("b", 0, 2, 31)]), Wrong::Differs { last: 2, .. }));
        assert!(matches!(
            judged(&[&a, &b, &record("b", 4, 4, 10)]),
            Wrong::Hole { first: 4, expected: 3, .. }
        ));
        assert!(matches!(judged(&[&a, &record("b", 1, 2, 30)]), Wrong::Hole { first: 1, expected: 0, .. }));
        assert!(matches!(judged(&[&b, &a, &record("b", 3, 3, 10)]), Wrong::Twice(run) if run == "b"));
        assert!(matches!(judged(&[&a, &record("b", 0, 6, 70)]), Wrong::Invented { last: 6, .. }));
        let (c, d) = (record("c", 0, 0, 1), record("d", 0, 0, 1));
        assert!(matches!(judged(&[&a, &b, &c, &d]), Wrong::Invented { last: 0, .. }));
        assert!(matches!(judged(&[&a, &b, &"{}\n".to_owned()]), Wrong::Line(_)));
    }

    #[test]
    fn a_line_that_is_mixed_with_another_is_counted_and_not_believed() {
        let mut heard = heard();
        let whole = line("b", 4, 5, 50);
        heard.hear(&whole[..whole.len() - 3], 50);
        heard.hear("edgelat: info: something else", 51);
        assert_eq!((heard.lines, heard.mixed), (5, 1));
        assert_eq!(heard.last("b"), Some(3));
    }

    #[test]
    fn processes_of_a_run_add_up_also_after_they_ended() {
        let mut heard = Heard::default();
        heard.hear(&line("b", 0, 0, 10), 1);
        heard.hear(&line("b", 1, 0, 15).replace("measured", "ended"), 2);
        heard.hear(&line("b", 1, 0, 4).replace("\"pid\":7", "\"pid\":8"), 3);
        let export = record("b", 0, 0, 10) + &record("b", 1, 1, 9);
        assert_eq!(Records::read(&export, &heard).unwrap().compared, 2);
        let export = record("b", 0, 0, 10) + &record("b", 1, 1, 8);
        assert!(matches!(Records::read(&export, &heard), Err(Wrong::Differs { .. })));
    }
}
