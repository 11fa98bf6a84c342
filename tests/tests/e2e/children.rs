//! Children that are not covered: they soon run without breakpoints, and their earlier cost is
//! reported.

use std::time::{Duration, Instant};

use edgelat_tests::machine::{Turn, assert_text_probed, changed_text, eventually};
use edgelat_tests::{Session, Target};

/// On a machine that is busy with other work it takes longer than the promised tenth of a second.
const SOON: Duration = Duration::from_secs(10);

fn without_breakpoints(route: &str) {
    let _turn = Turn::shared();
    let arguments = ["--calls", "10", "--child-calls", "5000", "--children", "3", "--wait", "1"];
    let mut target = Target::start("forks", &arguments);
    let session = Session::with(&target, &["--no-follow-forks", "--route", route], &["step", "forking"]);
    assert_text_probed(target.pid());
    target.go();
    let children: Vec<i32> = (0..3).map(|_| target.wait_for("child").pid).collect();
    let begun = Instant::now();
    let clean = || children.iter().all(|child| changed_text(*child).is_empty());
    assert!(eventually(SOON, clean), "children keep what they inherited");
    println!(
        "figure: by {route}, children without breakpoints {} ms after the last",
        begun.elapsed().as_millis()
    );
    // The parent keeps its own breakpoints, and its calls still count.
    assert_text_probed(target.pid());
    target.rest();
    target.go();
    (0..3).for_each(|_| target.wait_for("child-end").assert_right());
    let oracle = target.end();
    let report = session.end();
    assert_eq!(report.processes.len(), 1);
    let step = report.function("step");
    assert_eq!((step.entries, step.exits), (oracle.function("step").calls, 20), "{step:#?}");
}

#[test]
fn children_that_are_left_alone_run_without_breakpoints() {
    without_breakpoints("uprobe_multi");
}

#[test]
fn children_that_are_left_alone_run_without_breakpoints_by_tracefs() {
    without_breakpoints("tracefs");
}

#[test]
fn children_that_are_left_alone_run_without_breakpoints_by_single_events() {
    without_breakpoints("single");
}

/// Each child is alone for a while. The shortest wait is edgelat's own: unlike the others, it does
/// not depend on other work of the machine.
#[test]
fn a_child_alone_waits_for_nothing_but_the_kernel() {
    let _turn = Turn::shared();
    let arguments = ["--children", "12", "--pause-us", "100000", "--room", "12"];
    let mut target = Target::start("inherits", &arguments);
    let session = Session::with(&target, &["--no-follow-forks", "--route", "uprobe_multi"], &["step"]);
    target.go();
    let oracle = target.end();
    oracle.assert_right();
    assert_eq!(session.end().processes.len(), 1);
    let inherited = oracle.function("inherited");
    let [shortest, longest] = inherited.extremes_ns.expect("children that found breakpoints");
    let ms = |ns: u64| ns as f64 / 1e6;
    let [median, ..] = inherited.quantiles_ns.map(|quantiles| quantiles.map(ms)).unwrap();
    println!("figure: children had breakpoints for {} to {} ms, median {median}", ms(shortest), ms(longest));
    // If they were gathered before the first sweep, they would all wait for 50 ms and more.
    assert!(ms(shortest) < 45.0 && ms(longest) < 10_000.0, "{inherited:?}");
}

/// The parent makes two calls; its children make hundreds each, and end before any look at them.
#[test]
fn what_children_pay_for_breakpoints_that_they_inherited_is_held_under_the_bound() {
    let _turn = Turn::shared();
    let arguments = ["--calls", "1", "--child-calls", "1000", "--children", "400"];
    let mut target = Target::start("forks", &arguments);
    let options = ["--no-follow-forks", "--route", "uprobe_multi", "--max-cost", "2", "--over-budget", "end"];
    let session = Session::with(&target, &options, &["step"]);
    target.go();
    let outcome = session.ended();
    assert_eq!(outcome.status.code(), Some(8), "{outcome:#?}");
    assert!(outcome.stderr.contains("more than --max-cost allows"), "{}", outcome.stderr);
    target.kill();
}

/// Each ends right after its calls, and the guard reaches some of them too late.
#[test]
fn children_that_end_too_soon_to_be_covered_are_counted() {
    let _turn = Turn::shared();
    let arguments = ["--calls", "1", "--child-calls", "3", "--children", "300"];
    let mut target = Target::start("forks", &arguments);
    let session = Session::on(&target, &["step"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    let number = |name: &str| report.value[name].as_u64().unwrap();
    let (missed, not) = (number("children_missed"), number("processes_not_covered"));
    assert!(missed > 0, "nobody sees three calls in time: {report:#?}");
    let covered = report.processes.len() as u64 - 1 + number("processes_left_out");
    assert_eq!(covered + missed + not, 300, "{covered} covered, {missed} missed, {not} not covered");
    // Counted calls are those of the parent and of children that were covered, or that ended while
    // their probes came, as some do.
    let own = oracle.function("step").calls;
    let step = report.function("step");
    assert!((own..=own + 3 * (covered + missed / 10)).contains(&step.entries), "{step:#?} beside {own}");
    // None lived less than the shortest, and all together no longer than until they were awaited.
    let uncovered = number("children_uncovered_ns");
    let [shortest, lives] = ["shortest", "lives"].map(|name| oracle.function(name).sum_ns);
    assert!(uncovered >= missed * shortest / 1000 * 999 && uncovered <= lives, "{uncovered} of {lives}");
    println!(
        "figure: of 300 children {covered} were covered, {missed} missed; {uncovered} ns without coverage"
    );
}
