//! `--returns uretprobe`: allowed if it is safe, refused elsewhere.

use edgelat_tests::machine::{Turn, assert_text_restored};
use edgelat_tests::{Session, Target, edgelat};

use crate::counts::exact;

fn plain(route: &str) {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "500", "--threads", "2"]);
    let functions = ["add", "work", "descend", "even", "odd"];
    let session = Session::with(&target, &["--returns", "uretprobe", "--route", route], &functions);
    target.go();
    let oracle = target.end();
    let report = session.end();
    assert!(report.returns.starts_with("uretprobe"), "{}", report.returns);
    report.agrees_with(&oracle);
    assert!(report.functions.iter().all(|f| f.all_lost() == 0), "{report:#?}");
}

#[test]
fn uretprobes_count_plain_c_exactly() {
    plain("auto");
}

#[test]
fn uretprobes_count_plain_c_exactly_by_single_events() {
    plain("single");
}

/// Return probes place the same entries: a call written over a nop would overwrite a leaf's data.
#[test]
fn uretprobes_leave_what_a_leaf_keeps_below_the_stack() {
    let _turn = Turn::shared();
    for route in ["auto", "single"] {
        let mut target = Target::start("shapes", &["--calls", "300"]);
        let functions = ["keeps_below_the_stack", "starts_with_nop5"];
        let session = Session::with(&target, &["--returns", "uretprobe", "--route", route], &functions);
        target.go();
        let oracle = target.end();
        session.end().agrees_with(&oracle);
    }
}

/// The kernel keeps 64 nested return probes of a thread and silently forgets the others.
#[test]
fn recursion_deeper_than_the_kernel_keeps_return_probes_is_accounted_for() {
    let _turn = Turn::shared();
    for route in ["auto", "single"] {
        let mut target = Target::start("recurse", &["--calls", "20", "--depth", "200"]);
        let session =
            Session::with(&target, &["--returns", "uretprobe", "--route", route], &["deep", "left"]);
        target.go();
        let oracle = target.end();
        let report = session.end();
        let (deep, left) = (report.function("deep"), report.function("left"));
        let (deep_truth, left_truth) = (oracle.function("deep"), oracle.function("left"));
        assert_eq!(deep.entries, deep_truth.calls, "{deep:#?}");
        assert!(deep.exits >= 20 * 60 && deep.exits < deep_truth.calls, "{deep:#?}");
        assert_eq!(deep.exits + deep.all_lost(), deep.entries, "{deep:#?}");
        assert_eq!((left.entries, left.exits), (left_truth.calls, left_truth.completed), "{left:#?}");
    }
}

#[test]
fn kill_9_of_the_target_and_of_the_agent_under_uretprobes_harms_nobody() {
    let _turn = Turn::shared();
    let options = ["--returns", "uretprobe", "--interval", "0.1"];
    let mut target = Target::start("plain", &["--calls", "0", "--threads", "2"]);
    let session = Session::with(&target, &options, &["add", "work", "hold"]);
    target.go();
    session.wait_for(|report| report.function("add").exits > 100);
    session.kill();
    assert_text_restored(target.pid());
    let session = Session::with(&target, &options, &["add", "work", "hold"]);
    session.wait_for(|report| report.function("add").exits > 100);
    target.kill();
    session.end();
}

fn refused(name: &str, function: &str, word: &str) {
    let _turn = Turn::shared();
    let target = Target::start(name, &[]);
    let pid = target.pid().to_string();
    let outcome = edgelat(&["watch", "-p", &pid, "--returns", "uretprobe", "--duration", "1", function]);
    outcome.refused(5, &["uretprobe", word]);
    assert_text_restored(target.pid());
}

#[test]
fn uretprobes_are_refused_where_an_unwinder_is_mapped() {
    refused("throws", "throws::through", "exception");
}

#[test]
fn uretprobes_are_refused_in_rust() {
    refused("unwinds", "unwinds::passes", "panic");
}

#[test]
fn uretprobes_are_refused_where_stacks_are_switched() {
    refused("coroutines", "co_outer", "stack");
}

/// Probes of either kind may make the kernel issue a system call on the thread's behalf (6.11:
/// return probes; 6.18: five-byte nops). A thread with a strict filter must not die of it.
#[test]
fn probes_on_exit_sites_do_not_harm_a_sandboxed_thread() {
    let _turn = Turn::shared();
    exact("sandboxed", &["--calls", "500"], &["confined", "starts_with_nop5"]);
}

#[test]
fn uretprobes_do_not_harm_a_sandboxed_thread_or_are_refused() {
    let _turn = Turn::shared();
    let mut target = Target::start("sandboxed", &["--calls", "500"]);
    let pid = target.pid().to_string();
    let trial = edgelat(&["watch", "-p", &pid, "--returns", "uretprobe", "--duration", "0.1", "confined"]);
    if trial.status.success() {
        let session = Session::with(&target, &["--returns", "uretprobe"], &["confined", "starts_with_nop5"]);
        target.go();
        let oracle = target.end();
        session.end().agrees_with(&oracle);
    } else {
        trial.refused(5, &["uretprobe", "seccomp"]);
    }
}
