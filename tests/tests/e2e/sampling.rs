//! Functions that cost more than they may are measured in windows: within the bound, and with the right figures.

use std::time::{Duration, Instant};

use edgelat_tests::machine::{Turn, assert_text_restored, changed_text, eventually};
use edgelat_tests::report::bucket_of_ns;
use edgelat_tests::{Function, Report, Session, edgelat, need_root};

use crate::costs::Caller;
use crate::python::{script, under};

/// Percent of one CPU, and what a machine that does other work besides adds to it.
const BOUND: f64 = 5.0;
const WITHIN: f64 = 1.2;
/// Attempts, since the figures of a busy machine are no law: what is wrong is wrong in each.
const ATTEMPTS: usize = 4;

fn watch(caller: &Caller, options: &[&str], function: &str) -> Session {
    let pid = caller.pid().to_string();
    Session::watch(&[&["-p", &pid, "--interval", "0.5"], options, &[function]].concat())
}

fn quantiles(function: &Function) -> [i64; 2] {
    let quantiles = function.quantiles.as_ref().unwrap();
    [quantiles.p50, quantiles.p99].map(|ns| bucket_of_ns(ns as f64))
}

/// Percent of one CPU that probes took while a program was sampled, and how far its quantiles were from those of a full
/// measurement, in buckets.
fn sampled(caller: &mut Caller, pattern: &str) -> (f64, i64, Report) {
    let name = pattern.rsplit(':').next().unwrap();
    caller.next();
    let without = caller.turn();
    let whole = watch(caller, &["--max-cost", "1000"], pattern);
    whole.wait_for(|report| report.seq >= 3);
    let whole = whole.interrupt();
    let session = watch(caller, &["--max-cost", &BOUND.to_string()], pattern);
    let (begun, from) = (Instant::now(), caller.spent());
    std::thread::sleep(Duration::from_secs(8));
    let (time, to) = (begun.elapsed(), caller.spent());
    let report = session.interrupt();
    let (turns, spent) = ((to.0 - from.0) as f64, (to.1 - from.1) as f64);
    let cost = (spent - without * turns) / time.as_nanos() as f64 * 100.0;
    let (sampled, full) = (quantiles(report.function(name)), quantiles(whole.function(name)));
    // A few interrupted calls move the p99 of a busy machine by a bucket or two in either of them.
    let [p50, p99] = [0, 1].map(|at| (sampled[at] - full[at]).abs());
    (cost, p50.max(p99 - 2), report)
}

#[track_caller]
fn is_sampled(start: impl Fn() -> Caller, pattern: &str) {
    need_root();
    let _turn = Turn::alone();
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let mut caller = start();
        let (cost, buckets, report) = sampled(&mut caller, pattern);
        report.assert_identity();
        let function = &report.value["functions"][0];
        let (covered, window) = (function["covered_ns"].as_u64().unwrap(), function["window_ns"].as_u64());
        assert_eq!(window, Some(50_000_000), "{function:#?}");
        // Several windows, and far from all the time.
        assert!((50_000_000..report.elapsed_ns / 2).contains(&covered), "{function:#?}");
        assert!(report.value["cost_percent"].as_f64().unwrap() <= BOUND * WITHIN, "{report:#?}");
        assert_text_restored(caller.pid());
        if cost <= BOUND * WITHIN && buckets <= 1 {
            return;
        }
        seen.push((cost, buckets));
    }
    panic!("{pattern}: percent of a CPU, and buckets from a full measurement: {seen:.2?}");
}

#[test]
fn a_hot_function_is_sampled_within_its_bound_and_its_quantiles_are_right() {
    is_sampled(|| Caller::start("returns", 1, 0), "returns");
}

#[test]
fn so_is_one_of_python() {
    is_sampled(
        || {
            let mut command = under("3.14", &script("nests.py"));
            command.env("PYTHONPERFSUPPORT", "1");
            Caller::of(command)
        },
        "py:nests.py:handle",
    );
}

/// A program that is at work, with a function that costs more than any bound here.
fn hot(children: u32) -> Caller {
    let mut caller = Caller::start("returns", 1, children);
    caller.next();
    caller
}

/// A measurement of it that is sampled already.
fn sampling(caller: &Caller, bound: &str) -> Session {
    let session = watch(caller, &["--max-cost", bound], "returns");
    session.wait_for(|report| report.value["functions"][0]["window_ns"].is_u64());
    session
}

/// Between two windows a child is only noted.
#[test]
fn children_that_come_between_windows_are_measured_with_the_next_one() {
    need_root();
    let _turn = Turn::shared();
    let mut caller = hot(10);
    let session = sampling(&caller, "1");
    caller.next();
    let report = session.wait_for(|report| report.processes.len() > 10);
    assert_eq!(report.value["processes_not_covered"], 0, "{report:#?}");
    let from = report.value["functions"][0]["covered_ns"].as_u64();
    session.wait_for(|report| report.value["functions"][0]["covered_ns"].as_u64() > from);
    let report = session.interrupt();
    report.assert_identity();
    assert_eq!(report.value["processes_not_covered"], 0, "{report:#?}");
}

/// Text is whole while nothing is measured.
#[test]
fn between_windows_there_is_no_probe() {
    need_root();
    let _turn = Turn::shared();
    let caller = hot(0);
    let session = sampling(&caller, "0.5");
    assert!(eventually(Duration::from_secs(10), || changed_text(caller.pid()).is_empty()));
    session.interrupt().assert_identity();
}

#[test]
fn a_measurement_that_is_to_end_over_its_budget_ends() {
    need_root();
    let _turn = Turn::shared();
    let caller = hot(0);
    let pid = caller.pid().to_string();
    let options =
        ["watch", "-p", &pid, "--duration", "60", "--max-cost", "1", "--over-budget", "end", "returns"];
    edgelat(&options).refused(8, &["% of one CPU", "--max-cost"]);
    assert_text_restored(caller.pid());
}
