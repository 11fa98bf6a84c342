//! Console output of the service in the machine, with times: the lines of `run --json`
//! (docs/RUN-JSON.md).
//!
//! Each says what its process has counted, to which interval of the spool that belongs, and which intervals are on the disk. That is
//! known outside of the machine as soon as the line is here, so what it says was on the disk before.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::totals::Totals;

/// Beginning of a line; a shell prompt may stand before it.
const BEGIN: &str = "{\"schema\":\"edgelat.run/1\"";

/// Beginning of a line of `spool export`.
const RECORD: &str = "{\"schema\":\"edgelat.spool/1\"";

/// Line that ends the export of all records.
const EXPORTED: &str = "edgelat-exported";

/// All that was heard.
#[derive(Debug, Default)]
pub struct Heard {
    runs: BTreeMap<String, Run>,
    /// Lines of the service.
    pub lines: u64,
    /// Those that something else was mixed with; what they say comes again in the next one.
    pub mixed: u64,
    /// Lines of `spool export`, where the machine itself has read its records.
    pub export: String,
    /// It has.
    pub exported: bool,
}

/// Console output of one run of the agent.
#[derive(Debug, Default)]
struct Run {
    /// Counts at the end of each interval.
    totals: BTreeMap<u64, Totals>,
    /// When it was said that all intervals before one are on the disk.
    synced: Vec<(u64, u64)>,
    /// Counts of ended measurements.
    ended: Totals,
    /// Counts of each process.
    going: BTreeMap<i64, Totals>,
}

impl Heard {
    /// Takes in a line that came at a time.
    pub fn hear(&mut self, line: &str, time_ns: u64) {
        if line.starts_with(RECORD) {
            self.export += line.trim_end();
            self.export.push('\n');
        }
        self.exported |= line.trim_end() == EXPORTED;
        let Some(begin) = line.find(BEGIN) else { return };
        self.lines += 1;
        if self.take(&line[begin..], time_ns).is_none() {
            self.mixed += 1;
        }
    }

    fn take(&mut self, line: &str, time_ns: u64) -> Option<()> {
        let line: Value = serde_json::from_str(line).ok()?;
        // Not recorded: nothing is promised of it.
        let place = line.get("spool").filter(|place| !place.is_null());
        let Some(place) = place else { return Some(()) };
        let interval = place.get("interval")?.as_u64()?;
        let run = self.runs.entry(place.get("run")?.as_str()?.to_owned()).or_default();
        run.synced.push((time_ns, place.get("synced")?.as_u64()?));
        let pid = line.get("pid")?.as_i64()?;
        if let Some(report) = line.get("report").filter(|report| !report.is_null()) {
            let totals = Totals::of_process(line.get("name")?.as_str()?, report)?;
            if line.get("state")?.as_str()? == "ended" {
                run.ended.add(&totals);
                run.going.remove(&pid);
            } else {
                run.going.insert(pid, totals);
            }
        }
        let mut all = run.ended.clone();
        run.going.values().for_each(|totals| all.add(totals));
        run.totals.insert(interval, all);
        Some(())
    }

    /// All runs.
    pub fn runs(&self) -> impl Iterator<Item = &str> {
        self.runs.keys().map(String::as_str)
    }

    /// Has anything been heard of a run?
    pub fn knows(&self, run: &str) -> bool {
        self.runs.contains_key(run)
    }

    /// All runs with the number of intervals that were said to be on the disk before a time.
    pub fn synced(&self, before_ns: u64) -> impl Iterator<Item = (&str, u64)> {
        self.runs.iter().map(move |(run, heard)| {
            let synced =
                heard.synced.iter().filter(|(time_ns, _)| *time_ns < before_ns).map(|(_, synced)| *synced);
            (run.as_str(), synced.max().unwrap_or(0))
        })
    }

    /// Counts of a run at the end of an interval, if a line reports them.
    pub fn totals(&self, run: &str, interval: u64) -> Option<&Totals> {
        self.runs.get(run)?.totals.get(&interval)
    }

    /// The last interval of a run that a line reports.
    pub fn last(&self, run: &str) -> Option<u64> {
        self.runs.get(run)?.totals.last_key_value().map(|(interval, _)| *interval)
    }
}
