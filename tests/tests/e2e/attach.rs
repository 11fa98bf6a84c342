//! Attaching and detaching: by every route, in bulk, and repeatedly under load.

use std::process::Command;
use std::time::{Duration, Instant};

use edgelat_tests::machine::{Turn, assert_text_probed, assert_text_restored};
use edgelat_tests::{Session, Target, amount, edgelat};

/// Attaches and detaches under load: 1000 times in the long run. The target checks its own results.
fn cycles(name: &str, functions: &[&str]) {
    // Two threads; each may have been inside each function when the probes came. Calls entered
    // further up the stack return later, once.
    come_and_go(name, functions, amount(4, 1000), 2 * functions.len() as u64);
}

/// As above; at most `inside` calls can have begun before the probes came.
pub(crate) fn come_and_go(name: &str, functions: &[&str], cycles: u64, inside: u64) {
    let _turn = Turn::shared();
    let mut target = Target::start(name, &["--calls", "0", "--threads", "2"]);
    target.go();
    let mut counted = 0;
    let started = Instant::now();
    for cycle in 0..cycles {
        let session = Session::with(&target, &["--duration", "0.1"], functions);
        if cycle == 0 {
            assert_text_probed(target.pid());
        }
        let report = session.end();
        counted += report.functions.iter().map(|f| f.entries).sum::<u64>();
        let unmatched: u64 = report.functions.iter().map(|f| f.unmatched_exits).sum();
        assert!(unmatched <= inside, "{report:#?}");
    }
    let took = started.elapsed();
    assert!(counted > 0);
    assert_text_restored(target.pid());
    let oracle = target.stop();
    assert_eq!(oracle.wrong, 0);
    let calls: u64 = oracle.functions.iter().map(|f| f.calls).sum();
    println!(
        "figure: {cycles} cycles on `{name}` in {:.1} s, {calls} calls by the target, {counted} of them counted, {} wrong",
        took.as_secs_f64(),
        oracle.wrong
    );
}

#[test]
fn attaching_again_and_again_under_load_never_harms_a_c_program() {
    cycles("plain", &["add", "work", "hold"]);
}

#[test]
fn attaching_again_and_again_under_load_never_harms_a_cpp_program() {
    cycles("throws", &["throws::thrower", "throws::through", "throws::rethrows", "throws::Catcher::run"]);
}

#[test]
fn attaching_again_and_again_under_load_never_harms_a_rust_program() {
    cycles("unwinds", &["unwinds::panics", "unwinds::passes", "unwinds::catches"]);
}

/// Every shape of code under load, with probes coming and going at any instruction.
#[test]
fn attaching_again_and_again_under_load_never_harms_odd_code() {
    cycles("shapes", &["starts_with_*", "jump_table", "*from_cold", "compiled_*"]);
}

fn thousand(route: &str, pattern: &str, functions: usize) {
    let _turn = Turn::shared();
    let mut target = Target::start("many", &["--calls", "3000"]);
    let pid = target.pid();
    let started = Instant::now();
    let options = ["--route", route, "--max-map-bytes", "64M", "--interval", "0.1"];
    let session = Session::with(&target, &options, &[pattern]);
    let attached = started.elapsed();
    assert_text_probed(pid);
    target.go();
    let oracle = target.end();
    let report = session.end();
    assert_eq!(report.route, route);
    assert_eq!(report.functions.len(), functions);
    report.agrees_with(&oracle);

    // Once more, to detach from a target that continues.
    let mut target = Target::start("many", &["--calls", "0"]);
    let session = Session::with(&target, &options, &[pattern]);
    target.go();
    session.wait_for(|report| report.functions.iter().all(|f| f.exits > 0));
    let started = Instant::now();
    let report = session.interrupt();
    let detached = started.elapsed();
    assert_eq!(report.functions.len(), functions);
    assert_text_restored(target.pid());
    target.stop();
    println!(
        "figure: {functions} functions by {route}: start to armed {:.0} ms, Ctrl-C to end {:.0} ms",
        attached.as_secs_f64() * 1e3,
        detached.as_secs_f64() * 1e3
    );
}

#[test]
fn a_thousand_functions_attach_and_detach_by_uprobe_multi() {
    thousand("uprobe_multi", "many_*", 1000);
}

#[test]
fn a_thousand_functions_attach_and_detach_by_tracefs() {
    thousand("tracefs", "many_*", 1000);
}

#[test]
fn functions_attach_and_detach_by_single_events() {
    thousand("single", "many_10[01]?", 20);
}

/// Each would slow down every thread switch, and no hit would show it.
#[test]
fn single_events_are_refused_where_they_would_be_many() {
    let _turn = Turn::shared();
    let target = Target::start("many", &["--calls", "0"]);
    let pid = target.pid().to_string();
    let outcome = edgelat(&["watch", "-p", &pid, "--route", "single", "--max-map-bytes", "64M", "many_*"]);
    outcome.refused(4, &["route single", "2000 probes are too many for an event each", "up to 64 probes"]);
    assert_text_restored(target.pid());
    target.kill();
}

fn route(route: &str) {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "500", "--threads", "2"]);
    let session = Session::with(&target, &["--route", route], &["add", "work", "descend"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    assert_eq!(report.route, route);
    report.agrees_with(&oracle);
}

#[test]
fn counts_are_exact_by_uprobe_multi() {
    route("uprobe_multi");
}

#[test]
fn counts_are_exact_by_tracefs() {
    route("tracefs");
}

#[test]
fn counts_are_exact_by_single_events() {
    route("single");
}

/// tracefs need not be mounted for the agent.
#[test]
fn no_route_needs_tracefs_to_be_mounted() {
    let _turn = Turn::shared();
    for route in ["auto", "uprobe_multi", "single", "tracefs"] {
        let mut target = Target::start("plain", &["--calls", "50"]);
        let mut command = Command::new("unshare");
        let script = "umount -l /sys/kernel/debug/tracing 2>/dev/null || true; \
                      umount -l /sys/kernel/tracing 2>/dev/null || true; test ! -e /sys/kernel/tracing/uprobe_events; exec \"$0\" \"$@\"";
        command.args(["--mount", "--propagation", "private", "bash", "-ec", script]);
        command.arg(edgelat_tests::session::binary());
        command.args(["watch", "--json", "-p", &target.pid().to_string(), "--route", route, "add"]);
        let session = Session::start(command);
        target.go();
        let oracle = target.end();
        session.end().agrees_with(&oracle);
    }
}

/// A probe never remains in an unwatched process: the same program, not watched.
#[test]
fn another_process_of_the_same_image_is_not_touched() {
    let _turn = Turn::shared();
    let mut watched = Target::start("plain", &["--calls", "300"]);
    let mut other = Target::start("plain", &["--calls", "300"]);
    let session = Session::on(&watched, &["add", "work"]);
    assert_text_restored(other.pid());
    watched.go();
    other.go();
    std::thread::sleep(Duration::from_millis(10));
    other.end();
    let oracle = watched.end();
    session.end().agrees_with(&oracle);
}
