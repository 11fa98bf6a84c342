//! Functions that leave by a jump are measured to the end of the whole call.

use edgelat_tests::machine::Turn;
use edgelat_tests::report::{Oracle, Report, bucket_of_ns};
use edgelat_tests::{Session, Target};

/// Functions that are measured over their whole call.
const WHOLE: &[&str] =
    &["sleeps_below", "hops", "chains", "either", "first_of_two", "second_of_two", "lasts"];

fn measured(options: &[&str], functions: &[&str]) -> (Report, Oracle) {
    let _turn = Turn::alone();
    let mut target = Target::start("tails", &["--calls", "1600", "--room", "10000"]);
    let session = Session::with(&target, options, functions);
    target.go();
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    for function in &report.functions {
        assert_eq!((function.in_flight, function.all_lost()), (0, 0), "{function:#?}");
        assert_eq!(function.unmatched_exits, 0, "calls of others are no ends: {function:#?}");
    }
    (report, oracle)
}

/// Attempts, since a busy machine may delay one of the two clocks: an error shows in each attempt.
const ATTEMPTS: usize = 4;

/// The median of each of `whole` equals the target's own, within one bucket after the bias.
#[track_caller]
fn is_whole(options: &[&str], functions: &[&str], whole: &[&str]) -> Report {
    let mut wrong = Vec::new();
    for _ in 0..ATTEMPTS {
        let (report, oracle) = measured(options, functions);
        match whole.iter().find_map(|name| differs(&report, &oracle, name)) {
            None => return report,
            Some(difference) => wrong.push(difference),
        }
    }
    panic!("{options:?}: {wrong:?}");
}

fn differs(report: &Report, oracle: &Oracle, name: &str) -> Option<String> {
    let function = report.function(name);
    assert!(!function.until_tail_call, "{function:#?}");
    let bias = function.bias_ns.unwrap_or(0) as f64;
    let wanted = oracle.function(name).quantiles_ns.unwrap()[0];
    let (found, expected) = (function.bucket_of_quantile(0.5).unwrap(), bucket_of_ns(wanted as f64 + bias));
    ((found - expected).abs() > 1)
        .then(|| format!("{name}: bucket {found}, by the target's clock {expected}"))
}

#[test]
fn a_call_lasts_until_what_it_jumped_to_returns() {
    let functions = [WHOLE, &["ping", "pong"]].concat();
    is_whole(&[], &functions, WHOLE);
}

#[test]
fn a_call_lasts_until_what_it_jumped_to_returns_by_tracefs() {
    is_whole(&["--route", "tracefs"], WHOLE, WHOLE);
}

#[test]
fn a_call_lasts_until_what_it_jumped_to_returns_by_single_events() {
    is_whole(&["--route", "single"], WHOLE, WHOLE);
}

#[test]
fn one_function_alone_is_measured_to_the_end_in_another_image() {
    is_whole(&[], &["sleeps_below"], &["sleeps_below"]);
}

#[test]
fn a_jump_through_a_pointer_ends_what_is_measured_and_is_told() {
    let report = is_whole(&[], &["pointed", "hops"], &["hops"]);
    let pointed = report.functions.iter().find(|function| function.name == "pointed").unwrap();
    assert!(pointed.until_tail_call, "{pointed:#?}");
    let short = bucket_of_ns(50_000.0);
    assert!(pointed.bucket_of_quantile(0.5).unwrap() < short, "what follows is not measured: {pointed:#?}");
}
