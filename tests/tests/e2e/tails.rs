//! Functions that leave by a jump are measured to the end of the whole call.

use edgelat_tests::machine::Turn;
use edgelat_tests::report::{Oracle, Report, bucket_of_ns};
use edgelat_tests::{Session, Target};

/// Functions whose whole call is known to be measured.
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

/// The median is that of the target's own clock, within one bucket after the bias.
fn is_whole(report: &Report, oracle: &Oracle, functions: &[&str]) {
    for name in functions {
        let function = report.functions.iter().find(|function| function.name == *name).unwrap();
        assert!(!function.until_tail_call, "{function:#?}");
        let bias = function.bias_ns.unwrap_or(0) as f64;
        let wanted = oracle.function(name).quantiles_ns.unwrap()[0];
        let (found, expected) =
            (function.bucket_of_quantile(0.5).unwrap(), bucket_of_ns(wanted as f64 + bias));
        assert!((found - expected).abs() <= 1, "{name}: bucket {found}, by the target's clock {expected}");
    }
}

#[test]
fn a_call_lasts_until_what_it_jumped_to_returns() {
    let functions = [WHOLE, &["ping", "pong"]].concat();
    let (report, oracle) = measured(&[], &functions);
    is_whole(&report, &oracle, WHOLE);
}

#[test]
fn a_call_lasts_until_what_it_jumped_to_returns_by_tracefs() {
    let (report, oracle) = measured(&["--route", "tracefs"], WHOLE);
    is_whole(&report, &oracle, WHOLE);
}

#[test]
fn a_call_lasts_until_what_it_jumped_to_returns_by_single_events() {
    let (report, oracle) = measured(&["--route", "single"], WHOLE);
    is_whole(&report, &oracle, WHOLE);
}

#[test]
fn one_function_alone_is_measured_to_the_end_in_another_image() {
    let (report, oracle) = measured(&[], &["sleeps_below"]);
    is_whole(&report, &oracle, &["sleeps_below"]);
}

#[test]
fn a_jump_through_a_pointer_ends_what_is_measured_and_is_told() {
    let (report, oracle) = measured(&[], &["pointed", "hops"]);
    is_whole(&report, &oracle, &["hops"]);
    let pointed = report.functions.iter().find(|function| function.name == "pointed").unwrap();
    assert!(pointed.until_tail_call, "{pointed:#?}");
    let short = bucket_of_ns(50_000.0);
    assert!(pointed.bucket_of_quantile(0.5).unwrap() < short, "what follows is not measured: {pointed:#?}");
}
