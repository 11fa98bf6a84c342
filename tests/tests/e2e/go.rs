//! Programs written in Go, by five tool chains: their stacks move, their goroutines change threads,
//! and they leave frames by panics. The targets are in tests/targets/go, whose Makefile explains
//! the modes.

use std::time::Duration;

use edgelat_tests::machine::{Turn, assert_text_probed, assert_text_restored, eventually};
use edgelat_tests::{Function, Oracle, Report, Session, Target, amount, soaking};
use nix::sys::signal::Signal;

use crate::attach::come_and_go;
use crate::counts::exact;

/// All functions of `calls` that count themselves.
pub(crate) const CALLS: &[&str] = &[
    "main.add",
    "main.work",
    "main.hold",
    "main.even",
    "main.odd",
    "main.descend",
    "main.big",
    "main.huge",
    "main.yields",
    "main.asks",
    "main.answers",
    "main.blocks",
    "main.panics",
    "main.faults",
    "main.passes",
    "main.recovers",
    "main.exits",
    "main.leaves",
    "main.adder.func1",
    "main.(*account).deposit",
    "main.point.length",
    "main.(*inner).promoted",
    "main.rotate",
    "main.sum",
];

/// Functions that a panic or Goexit leaves open.
const LEFT_OPEN: &[&str] = &["main.panics", "main.faults", "main.passes", "main.exits", "main.leaves"];

/// Calls left by a panic or by Goexit are accounted for, and no others are lost.
#[track_caller]
fn only_unwound_is_lost(function: &Function, oracle: &Oracle) {
    let truth = oracle.function(&function.name);
    assert_eq!(function.all_lost() + function.in_flight, truth.unwound, "{function:#?} of {truth:#?}");
    assert_eq!(truth.unwound > 0, LEFT_OPEN.contains(&function.name.as_str()), "{truth:#?}");
    for loss in ["table_full", "over_range"] {
        assert_eq!(function.lost(loss), 0, "{function:#?}");
    }
}

#[track_caller]
fn exact_calls(name: &str, options: &[&str]) -> Report {
    let _turn = Turn::shared();
    let mut target = Target::start(name, &["--calls", "120", "--threads", "3"]);
    let session = Session::with(&target, options, CALLS);
    assert_text_probed(target.pid());
    target.go();
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    assert!(report.functions.len() >= CALLS.len(), "{report:#?}");
    for function in &report.functions {
        only_unwound_is_lost(function, &oracle);
    }
    report
}

fn counts(version: &str, modes: &[&str]) {
    let mut calls = 0;
    for mode in modes {
        let report = exact_calls(&format!("go/calls-{version}-{mode}"), &[]);
        calls += report.functions.iter().map(|function| function.entries).sum::<u64>();
    }
    println!(
        "figure: {} functions, {}: {calls} calls altogether, all counted",
        CALLS.len(),
        modes.join(", ")
    );
}

/// Each run takes one of the five through all modes, the long run all of them.
fn modes(version: &str) -> &'static [&'static str] {
    if version == "1.26" || soaking() {
        &["plain", "stripped", "pie", "external", "shipped", "whole"]
    } else {
        &["stripped", "shipped"]
    }
}

/// Attaches and detaches while stacks grow and move: in the long run 1000 times for the mode that
/// programs ship in, 50 times for each other mode.
fn cycles(version: &str, mode: &str, times: u64) {
    // Two workers and the two goroutines that answer them; each may be inside each function, and
    // once per level in recursive functions.
    let inside = 2 * (CALLS.len() as u64 + 41 + 41 + 11 + 5);
    come_and_go(&format!("go/calls-{version}-{mode}"), CALLS, times, inside);
}

macro_rules! versions {
    ($($counts:ident, $shipped:ident, $others:ident: $version:literal,)*) => {
        $(
            #[test] fn $counts() { counts($version, modes($version)) }
            #[test] fn $shipped() { cycles($version, "shipped", amount(4, 1000)) }
            #[test] fn $others() {
                let others = modes($version).iter().filter(|mode| **mode != "shipped");
                others.for_each(|mode| cycles($version, mode, amount(1, 50)));
            }
        )*
    };
}

versions! {
    counts_are_exact_in_go_1_19, attaching_again_and_again_never_harms_go_1_19,
        attaching_again_and_again_never_harms_go_1_19_in_other_modes: "1.19",
    counts_are_exact_in_go_1_24, attaching_again_and_again_never_harms_go_1_24,
        attaching_again_and_again_never_harms_go_1_24_in_other_modes: "1.24",
    counts_are_exact_in_go_1_25, attaching_again_and_again_never_harms_go_1_25,
        attaching_again_and_again_never_harms_go_1_25_in_other_modes: "1.25",
    counts_are_exact_in_go_1_26, attaching_again_and_again_never_harms_go_1_26,
        attaching_again_and_again_never_harms_go_1_26_in_other_modes: "1.26",
    counts_are_exact_in_go_1_27, attaching_again_and_again_never_harms_go_1_27,
        attaching_again_and_again_never_harms_go_1_27_in_other_modes: "1.27",
}

#[test]
fn counts_are_exact_in_go_by_tracefs() {
    assert_eq!(exact_calls("go/calls-1.27-shipped", &["--route", "tracefs"]).route, "tracefs");
}

#[test]
fn counts_are_exact_in_go_by_single_events() {
    assert_eq!(exact_calls("go/calls-1.27-shipped", &["--route", "single"]).route, "single");
}

/// Without waiting for that memory, a tenth of the calls had no duration here.
#[test]
fn calls_are_timed_while_the_memory_of_their_goroutine_comes_and_goes() {
    let _turn = Turn::shared();
    for route in ["auto", "tracefs", "single"] {
        let mut target = Target::start("go/moved-1.27-plain", &["--calls", "10000", "--threads", "1"]);
        let session = Session::with(&target, &["--route", route], &["main.step"]);
        target.go();
        let oracle = target.end();
        let report = session.end();
        report.agrees_with(&oracle);
        let step = report.function("main.step");
        assert_eq!((step.entries, step.exits, step.all_lost()), (10_000, 10_000, 0), "{route}: {step:#?}");
    }
}

/// Go calls C on the thread's stack, and C calls Go on the goroutine's: each half has its own key
/// kind.
#[test]
fn counts_are_exact_in_go_and_in_c_that_call_each_other() {
    let _turn = Turn::shared();
    for version in ["1.19", "1.27"] {
        let functions = ["main.callsC", "main.answer", "main.descend", "c_work"];
        let (report, oracle) =
            exact(&format!("go/cgo-{version}-plain"), &["--calls", "120", "--threads", "2"], &functions);
        assert_eq!(report.functions.len(), functions.len());
        report.functions.iter().for_each(|function| only_unwound_is_lost(function, &oracle));
    }
}

/// The first frame of all is on a stack that has not grown yet.
#[test]
fn counts_are_exact_in_go_from_the_first_instruction_on() {
    let _turn = Turn::shared();
    let target = edgelat_tests::target("go/calls-1.26-pie");
    let command = [target.to_str().unwrap(), "--at-once", "--calls", "60", "--threads", "2"];
    let session = Session::watch(&[CALLS, &["--"], &command].concat());
    let (report, oracle) = session.end_of_command();
    report.agrees_with(&oracle);
    report.functions.iter().for_each(|function| only_unwound_is_lost(function, &oracle));
}

/// A waiting goroutine is inside, on whatever thread it continues.
#[test]
fn in_flight_of_go_equals_the_targets_own_figure_at_rest() {
    let _turn = Turn::shared();
    let mut target = Target::start("go/calls-1.26-stripped", &["--calls", "0", "--threads", "6"]);
    let functions = ["main.add", "main.work", "main.hold"];
    let session = Session::with(&target, &["--interval", "0.1"], &functions);
    target.go();
    session.wait_for(|report| report.function("main.add").exits > 100);
    for _ in 0..3 {
        let oracle = target.rest();
        let report = session.at_rest();
        for function in &report.functions {
            let truth = oracle.function(&function.name);
            assert_eq!(function.entries, truth.calls, "{function:#?}");
            assert_eq!(function.exits, truth.completed, "{function:#?}");
            assert_eq!(function.in_flight, truth.in_flight, "{function:#?}");
        }
        assert_eq!(
            oracle.function("main.hold").in_flight,
            3,
            "every second worker parks inside: {oracle:#?}"
        );
        target.go();
    }
    let oracle = target.stop();
    session.end().agrees_with(&oracle);
}

#[test]
fn kill_9_of_the_agent_leaves_a_go_program_as_it_was() {
    let _turn = Turn::shared();
    let mut target = Target::start("go/calls-1.25-shipped", &["--calls", "0", "--threads", "2"]);
    target.go();
    for _ in 0..amount(5, 100) {
        let session = Session::with(&target, &["--interval", "0.1"], CALLS);
        session.wait_for(|report| report.function("main.add").exits > 10);
        session.kill();
        assert_text_restored(target.pid());
    }
    let before = target.tell();
    assert!(eventually(Duration::from_secs(10), || {
        target.tell().function("main.big").calls > before.function("main.big").calls
    }));
    target.stop();
}

/// The target recovers from it, so it is no end, and watching continues. Exactly the calls of
/// `faults` that the fault does not leave return.
#[test]
fn a_fault_that_go_recovers_from_ends_nothing() {
    let _turn = Turn::shared();
    let (report, oracle) = exact("go/calls-1.27-plain", &["--calls", "60"], &["main.faults"]);
    assert_eq!(report.ended.as_deref(), Some("target"));
    assert_eq!(oracle.function("main.faults").unwound, 20);
    only_unwound_is_lost(report.function("main.faults"), &oracle);
}

#[test]
fn a_go_program_that_is_killed_leaves_its_open_calls_inside() {
    let _turn = Turn::shared();
    let mut target = Target::start("go/calls-1.27-pie", &["--calls", "0", "--threads", "4"]);
    let functions = ["main.work", "main.hold"];
    let session = Session::with(&target, &["--interval", "0.1"], &functions);
    target.go();
    session.wait_for(|report| report.function("main.work").exits > 100);
    let oracle = target.rest();
    target.signal(Signal::SIGKILL);
    let report = session.end();
    for function in &report.functions {
        let truth = oracle.function(&function.name);
        assert_eq!((function.entries, function.exits), (truth.calls, truth.completed), "{function:#?}");
        assert_eq!(function.lost("ended_inside"), truth.in_flight, "{function:#?}");
    }
}
