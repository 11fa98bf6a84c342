//! Frames that are not left in order: recursion, exceptions, panics, jumps, coroutines, signal
//! stacks, threads that end inside.

use edgelat_tests::machine::Turn;
use edgelat_tests::{Function, Oracle, Session, Target};

use crate::counts::exact;

/// Calls that the target left other than by return are accounted for: as abandoned or evicted while
/// it ran, as ended inside when the process ended.
#[track_caller]
fn unwound_is_lost(function: &Function, oracle: &Oracle) {
    let truth = oracle.function(&function.name);
    let lost = function.all_lost() + function.in_flight;
    assert_eq!(lost + function.exceptions.unwrap_or(0), truth.unwound, "{function:#?} of {truth:#?}");
    assert_eq!(function.lost("table_full"), 0, "{function:#?}");
}

/// As above, for frames at constant stack pointers: each but the last of a kind was noticed when
/// its key came again.
#[track_caller]
fn unwound_is_abandoned(function: &Function, oracle: &Oracle, stacks: u64) {
    unwound_is_lost(function, oracle);
    let truth = oracle.function(&function.name);
    assert!(
        function.lost("abandoned") + function.exceptions.unwrap_or(0) >= truth.unwound.saturating_sub(stacks),
        "{function:#?} of {truth:#?}"
    );
}

fn exceptions(name: &str) {
    let _turn = Turn::shared();
    let functions = ["throws::thrower", "throws::through", "throws::rethrows", "throws::Catcher::run"];
    let (report, oracle) = exact(name, &["--calls", "1500", "--threads", "2"], &functions);
    assert!(oracle.function("throws::through").unwound > 1000);
    for function in &report.functions {
        unwound_is_abandoned(function, &oracle, 2);
    }
}

#[test]
fn a_cpp_exception_through_probed_frames_harms_nobody() {
    exceptions("throws");
}

#[test]
fn a_cpp_exception_through_probed_frames_harms_nobody_without_pie() {
    exceptions("throws-nopie");
}

#[test]
fn a_cpp_exception_through_probed_frames_of_clang_harms_nobody() {
    exceptions("throws-clang");
}

#[test]
fn a_rust_panic_through_probed_frames_harms_nobody() {
    let _turn = Turn::shared();
    let functions = ["unwinds::panics", "unwinds::passes", "unwinds::catches"];
    let (report, oracle) = exact("unwinds", &["--calls", "1500", "--threads", "2"], &functions);
    assert!(oracle.function("unwinds::passes").unwound > 1000);
    for function in &report.functions {
        unwound_is_abandoned(function, &oracle, 2);
    }
}

/// A function with cleanup code, and a function without.
fn unwound(name: &str) {
    let _turn = Turn::shared();
    let (report, oracle) = exact(name, &["--calls", "1500"], &["outer", "passes", "cleans"]);
    for function in &report.functions {
        let truth = oracle.function(&function.name);
        assert_eq!(truth.unwound, 500);
        let seen = (function.name != "passes").then_some(500);
        assert_eq!((function.exceptions, function.unmatched_exits), (seen, 0), "{function:#?}");
        unwound_is_abandoned(function, &oracle, 1);
    }
}

#[test]
fn c_that_is_unwound_is_seen_leaving_where_it_cleans_up() {
    unwound("unwound");
}

#[test]
fn c_that_is_unwound_by_its_own_copy_of_the_unwinder_is_seen_leaving() {
    unwound("unwound-static");
}

#[test]
fn a_longjmp_over_a_probed_frame_is_counted_as_abandoned() {
    let _turn = Turn::shared();
    let (report, oracle) = exact("jumps", &["--calls", "1500"], &["outer", "middle", "inner"]);
    assert_eq!(oracle.function("inner").unwound, 500);
    for function in &report.functions {
        unwound_is_abandoned(function, &oracle, 1);
        // All calls of the last turn returned, from the same stack pointers: none is left open.
        assert_eq!(function.lost("ended_inside") + function.in_flight, 0, "{function:#?}");
    }
}

#[test]
fn a_longjmp_from_ever_changing_stack_depths_is_accounted_for() {
    let _turn = Turn::shared();
    let (report, oracle) =
        exact("jumps", &["--calls", "1500", "--shift", "1", "--threads", "2"], &["outer", "middle", "inner"]);
    for function in &report.functions {
        unwound_is_lost(function, &oracle);
    }
}

#[test]
fn recursion_is_counted_at_every_depth() {
    let _turn = Turn::shared();
    exact("recurse", &["--calls", "10", "--depth", "1000"], &["deep", "left", "right"]);
}

#[test]
fn recursion_at_rest_is_in_flight_at_every_depth() {
    let _turn = Turn::shared();
    let mut target = Target::start("recurse", &["--calls", "0", "--depth", "1000"]);
    let session = Session::with(&target, &["--interval", "0.1"], &["deep", "left", "right"]);
    // Before the first turn: the bottom of the recursion is its first parking place.
    target.go();
    session.wait_for(|report| report.function("left").exits > 0);
    let oracle = target.rest();
    let report = session.at_rest();
    for function in &report.functions {
        let truth = oracle.function(&function.name);
        assert_eq!(function.entries, truth.calls, "{function:#?}");
        assert_eq!(function.in_flight, truth.in_flight, "{function:#?}");
    }
    let oracle = target.stop();
    session.end().agrees_with(&oracle);
}

#[test]
fn a_table_too_small_for_the_depth_says_so() {
    let _turn = Turn::shared();
    let mut target = Target::start("recurse", &["--calls", "20", "--depth", "300"]);
    let session = Session::with(&target, &["--frames", "16"], &["deep"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    let (deep, truth) = (report.function("deep"), oracle.function("deep"));
    assert_eq!(deep.entries, truth.calls, "entries are exact even so: {deep:#?}");
    let homeless = deep.lost("evicted") + deep.lost("table_full");
    assert!(homeless >= 20 * (300 - 16), "{deep:#?}");
    assert_eq!(deep.exits + deep.all_lost(), deep.entries, "{deep:#?}");
    assert!(deep.exits > 0, "what had room was measured: {deep:#?}");
}

/// Many threads that compete for two sets of frames: their losses are reported, each call once.
#[test]
fn threads_that_fight_for_a_small_table_lose_nothing_silently() {
    let _turn = Turn::shared();
    let mut target = Target::start("recurse", &["--calls", "20", "--depth", "60", "--threads", "8"]);
    let functions = ["deep", "left", "right"];
    let session = Session::with(&target, &["--frames", "16", "--interval", "0.1"], &functions);
    target.go();
    let oracle = target.end();
    let report = session.end();
    for function in &report.functions {
        let truth = oracle.function(&function.name);
        assert_eq!(function.entries, truth.calls, "{function:#?}");
        assert_eq!(function.exits + function.unmatched_exits, truth.completed, "{function:#?}");
        assert_eq!(function.exits + function.all_lost(), truth.calls, "{function:#?}");
        assert!(function.all_lost() > 0, "the table was too small: {function:#?}");
        // All calls were left by return, and none is inside any more.
        assert_eq!(function.lost("ended_inside"), 0, "{function:#?}");
    }
}

/// Deeper than the default table has frames.
#[test]
fn recursion_deeper_than_the_table_is_accounted_for() {
    let _turn = Turn::shared();
    let (calls, depth) = (2u64, 12_000u64);
    let mut target =
        Target::start("recurse", &["--calls", &calls.to_string(), "--depth", &depth.to_string()]);
    let session = Session::on(&target, &["deep"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    let deep = report.function("deep");
    assert_eq!(deep.entries, oracle.function("deep").calls, "{deep:#?}");
    let homeless = deep.lost("evicted") + deep.lost("table_full");
    assert!(homeless >= calls * (depth - 8192), "{deep:#?}");
    assert!(deep.exits >= calls * 4096, "most of the table is used: {deep:#?}");
    // Each return either closed a frame or found none.
    assert_eq!(deep.exits + deep.unmatched_exits, oracle.function("deep").completed, "{deep:#?}");
}

#[test]
fn a_coroutine_that_moves_to_another_thread_is_measured_to_its_end() {
    let _turn = Turn::shared();
    let (report, _) = exact("coroutines", &["--calls", "100", "--threads", "2"], &["co_outer", "co_inner"]);
    assert!(report.functions.iter().all(|f| f.all_lost() == 0), "{report:#?}");
}

#[test]
fn suspended_coroutines_are_in_flight() {
    let _turn = Turn::shared();
    let mut target = Target::start("coroutines", &["--calls", "0", "--threads", "2"]);
    let session = Session::with(&target, &["--interval", "0.1"], &["co_outer", "co_inner"]);
    target.go();
    session.wait_for(|report| report.function("co_outer").exits > 100);
    let oracle = target.rest();
    let report = session.at_rest();
    for function in &report.functions {
        let truth = oracle.function(&function.name);
        assert!(truth.in_flight > 0, "{truth:?}");
        assert_eq!(function.in_flight, truth.in_flight, "{function:#?}");
        assert_eq!(function.exits, truth.completed, "{function:#?}");
    }
    let oracle = target.stop();
    session.end().agrees_with(&oracle);
}

#[test]
fn handlers_on_alternate_stacks_above_and_below_are_counted() {
    let _turn = Turn::shared();
    let (report, oracle) = exact("signals", &["--calls", "1500"], &["interrupted", "in_handler"]);
    for function in &report.functions {
        unwound_is_abandoned(function, &oracle, 1);
    }
}

#[test]
fn threads_that_end_inside_of_a_function_are_accounted_for() {
    let _turn = Turn::shared();
    let (report, oracle) = exact("vanish", &["--calls", "500", "--crowd", "4"], &["dies_inside", "lives_on"]);
    assert_eq!(oracle.function("dies_inside").unwound, 2000);
    for function in &report.functions {
        unwound_is_lost(function, &oracle);
    }
}

#[test]
fn a_crowd_that_ends_inside_never_blinds_a_small_table() {
    let _turn = Turn::shared();
    let mut target = Target::start("vanish", &["--calls", "100", "--crowd", "30"]);
    let session = Session::with(&target, &["--frames", "16"], &["dies_inside", "lives_on"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    for function in &report.functions {
        assert_eq!(function.entries, oracle.function(&function.name).calls, "{function:#?}");
    }
    let dies = report.function("dies_inside");
    assert_eq!(dies.exits, 0, "{dies:#?}");
    assert!(dies.lost("evicted") + dies.lost("abandoned") + dies.lost("table_full") > 2900, "{dies:#?}");
    // The short function still finds room: frames that will not end are the ones replaced.
    let lives = report.function("lives_on");
    assert!(lives.exits * 10 > lives.entries * 9, "{lives:#?}");
}
