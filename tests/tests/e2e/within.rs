//! Functions that share instructions: each counts its own calls, on every route, and pays a trap
//! once.

use edgelat_tests::machine::Turn;
use edgelat_tests::{Session, Target};

/// Ways to attach with the functions that each can measure: a return probe needs no exit.
const ROUTES: [&[&str]; 5] = [
    &["--route", "uprobe_multi"],
    &["--route", "tracefs"],
    &["--route", "single"],
    &["--returns", "uretprobe"],
    &["--returns", "uretprobe", "--route", "single"],
];

const ALL: [&str; 11] =
    ["outer", "inner", "first", "second", "third", "whole", "part", "slides", "slid_to", "before", "across"];

/// Every count equals the target's, and no hit of a shared exit passes for the end of an earlier
/// call.
fn exact(options: &[&str], functions: &[&str]) {
    let mut target = Target::start("within", &["--calls", "300", "--threads", "2"]);
    let session = Session::with(&target, options, functions);
    target.go();
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    assert_eq!(report.functions.len(), functions.len(), "{report:#?}");
    for function in &report.functions {
        let wrong = (function.unmatched_exits, function.in_flight, function.all_lost());
        assert_eq!(wrong, (0, 0, 0), "{options:?}: {function:#?}");
    }
    assert_eq!(report.unattributed_hits, 0, "{options:?}");
}

#[test]
fn functions_that_share_instructions_are_counted_apart_by_every_route() {
    let _turn = Turn::shared();
    ROUTES.iter().for_each(|options| exact(options, &ALL));
}

#[test]
fn each_of_them_alone_is_not_given_the_calls_of_the_other() {
    let _turn = Turn::shared();
    for function in ["outer", "inner", "third", "slides"] {
        exact(&["--route", "tracefs"], &[function]);
    }
}
