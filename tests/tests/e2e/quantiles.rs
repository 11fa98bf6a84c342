//! The histogram agrees with the target's own clock.

use edgelat_tests::machine::Turn;
use edgelat_tests::report::bucket_of_ns;
use edgelat_tests::{Report, Session, Target, soaking};

/// Functions of 100 us to 10 ms, spread evenly over the logarithm: quantiles within one bucket of
/// scale 3 (9 %) after the bias that edgelat itself reports.
fn within_one_bucket(name: &str, functions: &[&str]) -> Report {
    within_one_bucket_at(name, &["--calls", "1200"], functions, &[0.5, 0.9, 0.99])
}

fn within_one_bucket_at(name: &str, arguments: &[&str], functions: &[&str], quantiles: &[f64]) -> Report {
    let _turn = Turn::alone();
    let mut target = Target::start(name, &[arguments, &["--room", "10000"]].concat());
    let session = Session::on(&target, functions);
    target.go();
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    for function in &report.functions {
        let truth = oracle.function(&function.name);
        assert_eq!(function.scale, 3);
        let bias = function.bias_ns.unwrap() as f64;
        assert!(bias < 100_000.0, "a bias of {bias} ns is no bias");
        let wanted = truth.quantiles_ns.unwrap();
        for (&q, wanted) in quantiles.iter().zip(wanted) {
            let found = function.bucket_of_quantile(q).unwrap();
            let expected = bucket_of_ns(wanted as f64 + bias);
            assert!(
                (found - expected).abs() <= 1,
                "quantile {q} of `{}`: bucket {found}, by the target's clock ({wanted} ns, bias {bias} ns) {expected}",
                function.name
            );
        }
        let reported = function.quantiles.unwrap();
        for (q, p) in [(0.5, reported.p50), (0.9, reported.p90), (0.99, reported.p99)] {
            let bucket = function.bucket_of_quantile(q).unwrap();
            assert!((bucket_of_ns(p as f64) - bucket).abs() <= 1, "p{q} = {p} ns stands in its bucket");
        }
        let sum = function.sum_ns as f64 - bias * function.count as f64;
        let off = sum / truth.sum_ns as f64 - 1.0;
        assert!(off.abs() < 0.03, "the sum of `{}` is off by {:.1} %", function.name, off * 100.0);
    }
    report
}

/// Most of these calls are left by an exception or a panic, after the clean-up.
#[track_caller]
fn exceptions_take_their_time(name: &str, arguments: &[&str], functions: &[&str]) {
    // Of so few calls 1 % are two or three: a wait for a CPU shows.
    let report = within_one_bucket_at(name, arguments, functions, &[0.5, 0.9]);
    for function in &report.functions {
        let exceptions = function.exceptions.unwrap_or_else(|| panic!("no place is known: {function:#?}"));
        assert_eq!((function.exits, function.all_lost()), (function.entries, 0), "{function:#?}");
        assert!(exceptions >= function.entries / 2, "{function:#?}");
        println!("figure: {name}: {exceptions} of {} calls of {}", function.entries, function.name);
    }
}

#[test]
fn what_a_cpp_exception_leaves_takes_its_time() {
    let functions = ["leaves::cleans", "leaves::again"];
    exceptions_take_their_time("leaves", &["--calls", "400"], &functions);
    exceptions_take_their_time("leaves-clang", &["--calls", "400"], &functions);
}

/// Kernels before 7.2 emulate a call without the shadow stack, so the site stands before it.
#[test]
#[cfg(target_arch = "x86_64")]
fn what_an_exception_leaves_takes_its_time_where_a_shadow_stack_may_be() {
    exceptions_take_their_time("leaves-shadowed", &["--calls", "200"], &["leaves::cleans", "leaves::again"]);
}

#[test]
fn what_a_rust_panic_leaves_takes_its_time() {
    exceptions_take_their_time("unwinds", &["--calls", "200", "--takes", "5000000"], &["unwinds::takes"]);
}

#[test]
fn quantiles_are_within_one_bucket_after_the_bias() {
    within_one_bucket("timed", &["computes", "sleeps"]);
}

/// The goroutine sleeps, its thread does not.
#[test]
fn quantiles_of_go_are_within_one_bucket_after_the_bias() {
    let versions = if soaking() { &["1.19", "1.24", "1.25", "1.26", "1.27"][..] } else { &["1.27"] };
    for version in versions {
        within_one_bucket(&format!("go/timed-{version}-plain"), &["main.computes", "main.sleeps"]);
    }
    println!("figure: quantiles and sums of Go {} are those of the target's own clock", versions.join(", "));
}
