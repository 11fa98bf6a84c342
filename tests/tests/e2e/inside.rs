//! Time of probes inside calls of functions whose callees are measured too.

use edgelat_tests::machine::Turn;
use edgelat_tests::{Function, Report, Session, Target, need_root};

use crate::go::CALLS;

/// Turns of the target: enough for a second measurement of the prices while it runs.
const TURNS: &str = "8000";
/// Attempts, since the cost of a trap varies: an error shows in each attempt.
const ATTEMPTS: usize = 4;

fn measured(options: &[&str], functions: &[&str]) -> Report {
    let mut target = Target::start("nests", &["--calls", TURNS, "--threads", "2"]);
    let session = Session::with(&target, options, functions);
    target.go();
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    report
}

/// Nanoseconds of probes inside a call.
#[track_caller]
fn inside(function: &Function) -> f64 {
    let inside = function.probes_inside_ns.unwrap_or_else(|| panic!("not known: {function:#?}"));
    inside as f64 / function.count as f64
}

fn median(report: &Report, name: &str) -> f64 {
    report.function(name).quantiles.as_ref().unwrap().p50 as f64
}

/// Calls for which that time is unknown.
fn unknown(report: &Report, name: &str) -> u64 {
    let functions = report.value["functions"].as_array().unwrap();
    let function = functions.iter().find(|function| function["name"] == name).unwrap();
    function["probes_inside_unknown"].as_u64().unwrap()
}

/// Share of the additional time of a call, with the others probed, that is attributed to probes.
fn explained(options: &[&str]) -> f64 {
    let alone = median(&measured(options, &["top"]), "top");
    let together = measured(options, &["top", "middle", "leaf"]);
    let (top, middle) = (inside(together.function("top")), inside(together.function("middle")));
    assert_eq!(inside(together.function("leaf")), 0.0, "nothing is inside of it");
    // One call holds seventeen leaves and two of the others; each of the others holds eight leaves.
    // Their probes have their own prices.
    let (leaf, others) = (middle / 8.0, (top - middle * 17.0 / 8.0) / 2.0);
    assert!((0.02..1.5).contains(&(others / leaf)), "{options:?}: {others} and {leaf} of {top} and {middle}");
    let mean = together.function("top").sum_ns as f64 / together.function("top").count as f64;
    match together.function("top").mean_without_probes_ns {
        Some(without) => assert!((without as f64 + top - mean).abs() < 2.0, "{together:#?}"),
        // Prices that are slightly too high leave too little to attribute.
        None => assert!(top > (mean - 2.0) * 8.0 / 9.0, "{together:#?}"),
    }
    top / (median(&together, "top") - alone)
}

#[track_caller]
fn is_explained(options: &[&str]) {
    need_root();
    let _turn = Turn::alone();
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        seen.push(explained(options));
        if (0.8..=1.25).contains(seen.last().unwrap()) {
            return;
        }
    }
    panic!("{options:?}: what is known to be ours is {seen:.2?} of what the others add");
}

#[test]
fn what_others_add_to_a_duration_is_known_by_uprobe_multi() {
    is_explained(&["--route", "uprobe_multi"]);
}

#[test]
fn what_others_add_to_a_duration_is_known_by_tracefs() {
    is_explained(&["--route", "tracefs"]);
}

#[test]
fn what_others_add_to_a_duration_is_known_by_single() {
    is_explained(&["--route", "single"]);
}

#[test]
fn a_function_that_calls_itself_pays_for_its_own_probes() {
    let _turn = Turn::shared();
    let mut target = Target::start("recurse", &["--calls", "200", "--depth", "50"]);
    let session = Session::on(&target, &["deep"]);
    target.go();
    target.end();
    let report = session.end();
    let deep = report.function("deep");
    // Half of the calls contain more of the others than the other half.
    let ratio = inside(deep) / median(&report, "deep");
    assert!((0.5..1.5).contains(&ratio), "{ratio} of {deep:#?}");
}

/// It waits meanwhile for another goroutine, perhaps on the same thread.
#[test]
fn what_other_goroutines_call_is_not_inside_and_what_goes_on_elsewhere_is() {
    let _turn = Turn::shared();
    let mut target = Target::start("go/calls-1.27-plain", &["--calls", "300", "--threads", "3"]);
    let session = Session::with(&target, &[], CALLS);
    target.go();
    target.end();
    let report = session.end();
    let [asks, answers] = ["main.asks", "main.answers"].map(|name| report.function(name));
    assert!(asks.count > 0 && answers.count > 0, "{report:#?}");
    assert_eq!((asks.probes_inside_ns, answers.probes_inside_ns), (Some(0), Some(0)), "{report:#?}");
    for name in ["main.descend", "main.even"] {
        assert!(inside(report.function(name)) > 0.0, "{report:#?}");
    }
}

/// There is room for some threads only: a missing figure is better than a wrong one.
#[test]
fn where_two_threads_share_a_place_it_is_not_known_of_the_calls_that_both_were_in() {
    let _turn = Turn::shared();
    let mut target = Target::start("collides", &["--calls", "500"]);
    let session = Session::with(&target, &[], &["waits", "leaf"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    let waits = report.function("waits");
    assert_eq!(unknown(&report, "waits"), 500, "{waits:#?}");
    assert_eq!((waits.probes_inside_ns, waits.mean_without_probes_ns), (Some(0), None), "{waits:#?}");
    assert_eq!(unknown(&report, "leaf"), 0, "it begins and ends alone");
}

#[test]
fn where_it_is_not_known_no_figure_is_shown() {
    let _turn = Turn::shared();
    for options in [&["--no-bias"][..], &["--returns", "uretprobe"][..]] {
        let report = measured(options, &["top", "leaf"]);
        let session = report.returns == "uretprobe session";
        for function in report.functions.iter().filter(|_| session || options[0] == "--no-bias") {
            let shown = (function.probes_inside_ns, function.mean_without_probes_ns);
            assert_eq!(shown, (None, None), "{function:#?}");
        }
    }
}
