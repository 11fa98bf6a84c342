//! The metrics of a snapshot (docs/METRICS.md).

use std::collections::BTreeMap;

use edgelat_spool::live::{Row, Snapshot, Target};
use edgelat_spool::record::hexadecimal;
use edgelat_spool::{Counts, LOSSES, Stream};

use crate::family::{Family, Kind, Metric, Number, Value, label};

/// A function that was not read for this long is hidden: its process is gone, or executes another
/// build. Longer than the longest pause of a target over its budget.
pub const FORGOTTEN_NS: u64 = 3_600 * 1_000_000_000;

/// Place in [`LOSSES`] of calls inside when their process ended. It is a gauge: if the slot of such
/// a call is needed, the call counts as evicted instead.
const ENDED_INSIDE: usize = 2;

/// Process states that are always shown, so that an alert has a series to watch.
const STATES: [&str; 4] = ["measured", "budget", "quarantine", "failed"];

/// The current time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Boot id of the kernel.
    pub boot: [u8; 16],
    /// Nanoseconds since boot: CLOCK_BOOTTIME.
    pub boot_ns: u64,
}

type Labels = Vec<(&'static str, String)>;

/// Returns the metrics of a snapshot, if there is one.
///
/// Without a snapshot, or if its service no longer runs, the only metric is `edgelat_up` with 0:
/// the counts of a service that has ended are no news.
pub fn of(snapshot: Option<&Snapshot>, now: Now) -> Vec<Family> {
    let current = snapshot.filter(|snapshot| snapshot.is_current(&now.boot, now.boot_ns));
    let mut up =
        Family::new("edgelat_up", Kind::Gauge, "", "Whether edgelat runs and tells what it measures");
    up.number(Vec::new(), Number::whole(current.is_some().into()), None);
    let mut families = vec![up];
    if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.agent.boot == now.boot) {
        let mut age = Family::new(
            "edgelat_snapshot_age_seconds",
            Kind::Gauge,
            "seconds",
            "Time since edgelat wrote what is shown here",
        );
        age.number(Vec::new(), Number::seconds(snapshot.age_ns(now.boot_ns)), None);
        families.push(age);
    }
    if let Some(snapshot) = current {
        functions(snapshot, &mut families);
        targets(snapshot, &mut families);
        own(snapshot, &mut families);
    }
    families
}

/// A function by its labels here: Python functions that differ only in the line are one.
struct Function {
    since_ns: u64,
    bias_ns: Option<u64>,
    until_tail_call: bool,
    partial: bool,
    counts: Counts,
}

fn functions(snapshot: &Snapshot, families: &mut Vec<Family>) {
    let mut functions: BTreeMap<[String; 4], Function> = BTreeMap::new();
    let fresh = |row: &&Row| snapshot.now.boot_ns.saturating_sub(row.read_ns) <= FORGOTTEN_NS;
    for Row { stream, counts, .. } in snapshot.rows.iter().filter(fresh) {
        let build_id = hexadecimal(&stream.build_id);
        let key = [label(&stream.target), label(&stream.function), label(&stream.image), build_id];
        match functions.get_mut(&key) {
            Some(known) => {
                known.since_ns = known.since_ns.min(stream.since_ns);
                known.bias_ns = known.bias_ns.max(stream.bias_ns);
                known.until_tail_call |= stream.until_tail_call;
                known.partial |= stream.partial;
                known.counts.add(counts);
            }
            None => {
                let (since_ns, bias_ns) = (stream.since_ns, stream.bias_ns);
                let Stream { until_tail_call, partial, .. } = *stream;
                let counts = counts.clone();
                functions.insert(key, Function { since_ns, bias_ns, until_tail_call, partial, counts });
            }
        }
    }

    let family = |name, kind, unit, help| Family::new(name, kind, unit, help);
    let mut durations = family(
        "edgelat_function_duration_seconds",
        Kind::Histogram,
        "seconds",
        "How long calls of a function took, what the probes add included",
    );
    let mut calls = family("edgelat_function_calls", Kind::Counter, "", "Calls that began");
    let mut inside = family("edgelat_function_inside_calls", Kind::Gauge, "", "Calls that have not ended");
    let mut ended = family(
        "edgelat_function_ended_inside_calls",
        Kind::Gauge,
        "",
        "Calls that had not ended when their process did",
    );
    let mut lost = family(
        "edgelat_function_lost_calls",
        Kind::Counter,
        "",
        "Calls that began and are not in the histogram, by reason",
    );
    let mut unmatched = family(
        "edgelat_function_unmatched_exits",
        Kind::Counter,
        "",
        "Ends of calls that began before the function was measured",
    );
    let mut exceptions = family(
        "edgelat_function_exceptions",
        Kind::Counter,
        "",
        "Of the calls that were measured to their end, those that an exception or panic left",
    );
    let mut bias = family(
        "edgelat_function_bias_seconds",
        Kind::Gauge,
        "seconds",
        "What the probes add to each duration; not subtracted from anything here",
    );
    let mut probes = family(
        "edgelat_function_probes_inside_seconds",
        Kind::Counter,
        "seconds",
        "Of the sum of the durations, what probes took that were hit inside of the calls",
    );
    let mut suspended = family(
        "edgelat_function_suspended_seconds",
        Kind::Counter,
        "seconds",
        "Of the sum of the durations of whole awaits, when they were suspended",
    );
    let mut until = family(
        "edgelat_function_until_tail_call",
        Kind::Gauge,
        "",
        "1 where some calls leave by a jump and are measured up to there only",
    );
    let mut part = family(
        "edgelat_function_partial",
        Kind::Gauge,
        "",
        "1 where only a part of the calls of a function of Python is seen, and the figures are of that part",
    );
    for (key, function) in functions {
        let names = ["target", "function", "image", "build_id"];
        let labels: Labels = names.into_iter().zip(key).collect();
        let created = snapshot.real_ns(function.since_ns);
        let whole = |number: i64| Number::whole(u64::try_from(number).unwrap_or(0));
        let Counts { entries, in_flight, unmatched: ends, .. } = function.counts;
        calls.number(labels.clone(), Number::whole(entries), created);
        inside.number(labels.clone(), whole(in_flight), None);
        for (at, (reason, count)) in LOSSES.into_iter().zip(function.counts.lost).enumerate() {
            if at == ENDED_INSIDE {
                ended.number(labels.clone(), whole(count), None);
            } else {
                let labels = labels.iter().cloned().chain([("reason", reason.to_owned())]).collect();
                lost.number(labels, whole(count), created);
            }
        }
        unmatched.number(labels.clone(), Number::whole(ends), created);
        // If none was seen, exceptions may be impossible, or only at unknown places.
        if function.counts.exceptions > 0 {
            exceptions.number(labels.clone(), Number::whole(function.counts.exceptions), created);
        }
        if let Some(ns) = function.counts.probes_inside_ns {
            probes.number(labels.clone(), Number::seconds(ns), created);
        }
        if let Some(ns) = function.counts.suspended_ns {
            suspended.number(labels.clone(), Number::seconds(ns), created);
        }
        if let Some(ns) = function.bias_ns {
            bias.number(labels.clone(), Number::seconds(ns), None);
        }
        if function.until_tail_call {
            until.number(labels.clone(), Number::whole(1), None);
        }
        if function.partial {
            part.number(labels.clone(), Number::whole(1), None);
        }
        let value = Value::Histogram(function.counts);
        durations.metrics.push(Metric { labels, value, created_ns: created });
    }
    families.extend([
        durations, calls, inside, ended, lost, unmatched, exceptions, bias, probes, suspended, until, part,
    ]);
}

fn targets(snapshot: &Snapshot, families: &mut Vec<Family>) {
    let began = snapshot.real_ns(snapshot.agent.began_ns);
    let mut processes = Family::new(
        "edgelat_target_processes",
        Kind::Gauge,
        "",
        "Processes of a target: those that are measured, and those that are not, by reason",
    );
    for target in &snapshot.targets {
        let mut states: BTreeMap<&str, u64> = STATES.into_iter().map(|state| (state, 0)).collect();
        for (state, count) in &target.processes {
            *states.entry(if state.is_empty() { STATES[0] } else { state }).or_default() += count;
        }
        for (state, count) in states {
            let labels = vec![("target", label(&target.name)), ("state", label(state))];
            processes.number(labels, Number::whole(count), None);
        }
    }
    families.push(processes);
    let mut each = |name, kind, unit, help, number: &dyn Fn(&Target) -> Option<Number>| {
        let mut family = Family::new(name, kind, unit, help);
        let created = began.filter(|_| kind == Kind::Counter);
        for target in &snapshot.targets {
            if let Some(number) = number(target) {
                family.number(vec![("target", label(&target.name))], number, created);
            }
        }
        families.push(family);
    };
    each(
        "edgelat_target_refused_functions",
        Kind::Gauge,
        "",
        "Functions that were asked for and cannot be measured safely",
        &|target| Some(Number::whole(target.refused)),
    );
    each(
        "edgelat_target_uncalled_names",
        Kind::Gauge,
        "",
        "Names of functions of Python that were asked for, and no function has of which a call was seen",
        &|target| Some(Number::whole(target.not_called)),
    );
    each(
        "edgelat_target_unattributed_hits",
        Kind::Counter,
        "",
        "Hits of probes that could not be told to any function",
        &|target| Some(Number::whole(target.unattributed)),
    );
    each(
        "edgelat_target_missed_children",
        Kind::Counter,
        "",
        "Children of measured processes that ended before they could be covered",
        &|target| Some(Number::whole(target.missed)),
    );
    each(
        "edgelat_target_uncovered_children_seconds",
        Kind::Counter,
        "seconds",
        "How long children lived that were not covered, or before they were",
        &|target| Some(Number::seconds(target.children_ns)),
    );
    each(
        "edgelat_target_cost_seconds",
        Kind::Counter,
        "seconds",
        "CPU time that the probes of a target have cost",
        &|target| Some(Number::seconds(target.cost_ns)),
    );
    each(
        "edgelat_target_cost_ratio",
        Kind::Gauge,
        "ratio",
        "What the probes of a target cost in the last interval, of one CPU",
        &|target| target.cost_ppm.map(Number::ratio),
    );
    each(
        "edgelat_target_cost_limit_ratio",
        Kind::Gauge,
        "ratio",
        "What the probes of a target may cost, of one CPU, before they are taken off",
        &|target| Some(Number::ratio(target.limit_ppm)),
    );
}

fn own(snapshot: &Snapshot, families: &mut Vec<Family>) {
    let own = &snapshot.own;
    let began = snapshot.real_ns(snapshot.agent.began_ns);
    let mut build = Family::new("edgelat_build", Kind::Info, "", "Which edgelat runs, and on which kernel");
    let labels = vec![("version", label(&snapshot.agent.version)), ("kernel", label(&snapshot.agent.kernel))];
    build.number(labels, Number::whole(1), None);
    families.push(build);
    let mut resident = Family::new(
        "edgelat_agent_resident_bytes",
        Kind::Gauge,
        "bytes",
        "Resident memory of the two processes of edgelat",
    );
    for (process, bytes) in [("collector", own.collector_bytes), ("guard", own.guard_bytes)] {
        if let Some(bytes) = bytes {
            resident.number(vec![("process", process.to_owned())], Number::whole(bytes), None);
        }
    }
    families.push(resident);
    let mut one = |name, kind, unit, help, number: Option<Number>| {
        let mut family = Family::new(name, kind, unit, help);
        if let Some(number) = number {
            family.number(Vec::new(), number, began.filter(|_| kind == Kind::Counter));
        }
        families.push(family);
    };
    let (counter, gauge) = (Kind::Counter, Kind::Gauge);
    let whole = |number| Some(Number::whole(number));
    one(
        "edgelat_agent_start_time_seconds",
        gauge,
        "seconds",
        "When edgelat began, in seconds since 1970",
        began.map(Number::seconds),
    );
    one(
        "edgelat_agent_interval_seconds",
        gauge,
        "seconds",
        "How often the figures change",
        Some(Number::seconds(snapshot.interval_ns)),
    );
    one(
        "edgelat_agent_cpu_seconds",
        counter,
        "seconds",
        "CPU time of the collector",
        Some(Number::seconds(own.cpu_ns)),
    );
    one(
        "edgelat_agent_cost_limit_ratio",
        gauge,
        "ratio",
        "What all probes together may cost, of one CPU",
        Some(Number::ratio(own.limit_ppm)),
    );
    one(
        "edgelat_agent_left_out_functions",
        gauge,
        "",
        "Functions for which there is no room here",
        whole(snapshot.left_out),
    );
    one(
        "edgelat_quarantined_builds",
        gauge,
        "",
        "Builds that are not probed any more, because a process died of a fault under probes",
        whole(own.quarantine),
    );
    let spool = own.spool;
    let of_spool = |figure: fn(edgelat_spool::live::SpoolFigures) -> u64| {
        spool.map(|spool| Number::whole(figure(spool)))
    };
    one(
        "edgelat_spool_bytes",
        gauge,
        "bytes",
        "What the spool takes up on flash",
        of_spool(|spool| spool.bytes),
    );
    one(
        "edgelat_spool_limit_bytes",
        gauge,
        "bytes",
        "What the spool may take up",
        of_spool(|spool| spool.max_bytes),
    );
    one("edgelat_spool_segments", gauge, "", "Files of the spool", of_spool(|spool| spool.segments));
    one(
        "edgelat_spool_waiting_intervals",
        gauge,
        "",
        "Intervals that are in memory only",
        of_spool(|spool| spool.waiting),
    );
    one(
        "edgelat_spool_written_bytes",
        counter,
        "bytes",
        "Bytes that were written to flash",
        of_spool(|spool| spool.written),
    );
    one(
        "edgelat_spool_failing",
        gauge,
        "",
        "Whether the disk takes nothing now",
        of_spool(|spool| spool.errno.is_some().into()),
    );
}

#[cfg(test)]
mod tests;
