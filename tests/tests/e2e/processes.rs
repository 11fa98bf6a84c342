//! Commands, children, new images, other mount namespaces.

use std::process::Command;

use edgelat_tests::machine::{Turn, assert_text_probed, assert_text_restored, changed_text};
use edgelat_tests::{Session, Target, TempDir, target};

/// A shell in its own mount namespace that executes the program in the end. `$0` is the directory.
fn in_namespace(folder: &TempDir, script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script]).arg(folder.path());
    command
}

#[test]
fn a_command_is_counted_from_its_first_call() {
    let _turn = Turn::shared();
    let program = target("plain");
    let session =
        Session::watch(&["add", "work", "--", program.to_str().unwrap(), "--at-once", "--calls", "500"]);
    let (report, oracle) = session.end_of_command();
    assert_eq!(report.ended.as_deref(), Some("target"));
    report.agrees_with(&oracle);
}

#[test]
fn a_command_is_found_through_the_path_and_keeps_its_arguments() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    folder.copy(&target("plain-gcc-nopie-cf"), "edgelat-test-plain");
    let mut command = Command::new(edgelat_tests::session::binary());
    command
        .args(["watch", "--json", "add", "--", "edgelat-test-plain", "--at-once", "--calls", "123"])
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()));
    let (report, oracle) = Session::start(command).end_of_command();
    report.agrees_with(&oracle);
    assert_eq!(report.function("add").entries, 3 * 123);
}

/// One library is linked, the program opens the other: both are covered before their first call.
#[test]
fn libraries_of_a_command_are_counted_from_their_first_call() {
    let _turn = Turn::shared();
    let program = target("host");
    let functions = ["libshared.so:shared_work", "plugin.so:plugin_*", "--"];
    let command = [program.to_str().unwrap(), "--at-once", "--calls", "400"];
    let (report, oracle) = Session::watch(&[&functions[..], &command].concat()).end_of_command();
    assert_eq!(report.functions.len(), 3);
    report.agrees_with(&oracle);
}

/// A missing library is awaited, and counted from its coverage on.
#[test]
fn a_library_opened_later_is_covered_when_it_comes() {
    let _turn = Turn::shared();
    let mut target = Target::start("host", &["--late", "1", "--calls", "0"]);
    let session = Session::with(
        &target,
        &["--interval", "0.1"],
        &["libshared.so:shared_work", "plugin.so:plugin_work"],
    );
    target.go();
    session.wait_for(|report| report.functions.iter().any(|f| f.name == "plugin_work" && f.exits > 100));
    let oracle = target.stop();
    let report = session.end();
    let (shared, truth) = (report.function("shared_work"), oracle.function("shared_work"));
    assert_eq!((shared.entries, shared.exits), (truth.calls, truth.completed), "{shared:#?}");
    let plugin = report.function("plugin_work");
    assert!(plugin.entries < oracle.function("plugin_work").calls, "{plugin:#?}");
    assert!(plugin.unmatched_exits <= 1, "{plugin:#?}");
}

/// Ctrl-C at a terminal reaches the command too. A signal from elsewhere ends only edgelat, and the
/// command that it started must not continue unseen.
#[test]
fn ending_the_watch_of_a_command_says_what_it_counted() {
    let _turn = Turn::shared();
    let program = target("plain");
    let session = Session::watch(&[
        "--interval",
        "0.1",
        "add",
        "--",
        program.to_str().unwrap(),
        "--at-once",
        "--calls",
        "2000000",
    ]);
    session.wait_for(|report| report.function("add").exits > 100);
    let report = session.interrupt();
    assert!(report.function("add").exits > 100);
}

fn forked_children(route: &str) {
    let _turn = Turn::shared();
    let mut target =
        Target::start("forks", &["--calls", "500", "--child-calls", "700", "--children", "3", "--wait", "1"]);
    let session = Session::with(&target, &["--interval", "0.1", "--route", route], &["step", "forking"]);
    target.go();
    let children: Vec<_> = (0..3).map(|_| target.wait_for("child").pid).collect();
    // They wait at a gate: once edgelat reports that it covers them, all their calls must be
    // counted.
    session.wait_for(|report| children.iter().all(|child| report.processes.contains(child)));
    target.rest();
    target.go();
    let ends: Vec<_> = (0..3).map(|_| target.wait_for("child-end")).collect();
    ends.iter().for_each(edgelat_tests::Oracle::assert_right);
    let oracle = target.end();
    let report = session.end();
    let step = report.function("step");
    let calls = oracle.function("step").calls + ends.iter().map(|o| o.function("step").calls).sum::<u64>();
    assert_eq!(calls, 1000 + 3 * 700);
    assert_eq!((step.entries, step.exits), (calls, calls), "{step:#?}");
    // The child that was forked inside `forking` returns from a call that it never made, before or
    // after its coverage.
    let forking = report.function("forking");
    assert_eq!((forking.entries, forking.exits), (1, 1), "{forking:#?}");
    assert!(forking.unmatched_exits <= 1, "{forking:#?}");
}

#[test]
fn forked_children_are_followed() {
    forked_children("auto");
}

#[test]
fn forked_children_are_followed_by_tracefs() {
    forked_children("tracefs");
}

#[test]
fn forked_children_are_followed_by_single_events() {
    forked_children("single");
}

/// A server is named by its first process, whose workers, and theirs, have run for long.
fn children_that_are_there(route: &str) {
    let _turn = Turn::shared();
    let mut target = Target::start(
        "forks",
        &["--calls", "10", "--child-calls", "700", "--children", "3", "--chain", "1", "--wait", "1"],
    );
    target.go();
    let children: Vec<_> = (0..6).map(|_| target.wait_for("child").pid).collect();
    let session = Session::with(&target, &["--interval", "0.1", "--route", route], &["step"]);
    session.wait_for(|report| children.iter().all(|child| report.processes.contains(child)));
    children.iter().copied().for_each(assert_text_probed);
    target.rest();
    target.go();
    let ends: Vec<_> = (0..6).map(|_| target.wait_for("child-end")).collect();
    ends.iter().for_each(edgelat_tests::Oracle::assert_right);
    target.end().assert_right();
    let report = session.end();
    let step = report.function("step");
    assert_eq!((step.entries, step.exits), (6 * 700, 6 * 700), "{step:#?}");
}

#[test]
fn children_that_are_there_are_covered() {
    children_that_are_there("auto");
}

#[test]
fn children_that_are_there_are_covered_by_tracefs() {
    children_that_are_there("tracefs");
}

#[test]
fn children_that_are_there_are_covered_by_single_events() {
    children_that_are_there("single");
}

/// A child that shares its parent's address space, as after every posix_spawn, shares its probes:
/// no call may be counted twice.
fn children_in_the_same_memory(route: &str) {
    let _turn = Turn::shared();
    let mut target = Target::start("spawns", &["--calls", "400", "--threads", "2"]);
    let functions = ["step", "by_vfork", "spawning", "in_child"];
    let session = Session::with(&target, &["--route", route], &functions);
    target.go();
    let oracle = target.end();
    let report = session.end();
    for name in ["step", "by_vfork", "spawning"] {
        let (function, truth) = (report.function(name), oracle.function(name));
        assert_eq!((function.entries, function.exits), (truth.calls, truth.completed), "{function:#?}");
        assert_eq!(function.unmatched_exits, 0, "{function:#?}");
    }
    let child = report.function("in_child");
    assert!(child.entries <= oracle.function("in_child").calls, "counted twice: {child:#?}");
}

#[test]
fn children_in_the_same_memory_are_not_counted_twice() {
    children_in_the_same_memory("auto");
}

#[test]
fn children_in_the_same_memory_are_not_counted_twice_by_tracefs() {
    children_in_the_same_memory("tracefs");
}

#[test]
fn children_in_the_same_memory_are_not_counted_twice_by_single_events() {
    children_in_the_same_memory("single");
}

#[test]
fn children_that_go_on_at_once_are_counted_from_their_coverage_on() {
    let _turn = Turn::shared();
    let mut target =
        Target::start("forks", &["--calls", "2000", "--child-calls", "20000", "--children", "2"]);
    let session = Session::on(&target, &["step"]);
    target.go();
    let ends: Vec<_> = (0..2).map(|_| target.wait_for("child-end")).collect();
    let oracle = target.end();
    let report = session.end();
    let step = report.function("step");
    let parent = oracle.function("step").calls;
    let children: u64 = ends.iter().map(|o| o.function("step").calls).sum();
    assert!(step.entries >= parent && step.entries <= parent + children, "{step:#?}");
    assert!(step.entries > parent, "children of {children} calls were never covered: {step:#?}");
    // The time of their uncounted part is reported.
    let late = report.value["children_uncovered_ns"].as_u64().unwrap();
    let lives = oracle.function("lives").sum_ns;
    assert!(late > 0 && late < lives, "{late} ns of {lives}");
    println!("figure: 2 children that lived {lives} ns were covered after {late} ns together");
}

/// Many short-lived children: each is covered, or gone before; nothing accumulates and no count is
/// wrong.
#[test]
fn a_crowd_of_short_lived_children_is_followed() {
    let _turn = Turn::shared();
    let mut target = Target::start("forks", &["--calls", "300", "--child-calls", "50", "--children", "80"]);
    let session = Session::on(&target, &["step"]);
    target.go();
    let ends: Vec<_> = (0..80).map(|_| target.wait_for("child-end")).collect();
    let oracle = target.end();
    let report = session.end();
    let step = report.function("step");
    let parent = oracle.function("step").calls;
    let children: u64 = ends.iter().map(|o| o.function("step").calls).sum();
    assert!(step.entries >= parent && step.entries <= parent + children, "{step:#?}");
    assert!(report.processes.len() <= 81, "{:?}", report.processes);
}

#[test]
fn children_are_left_alone_when_asked() {
    let _turn = Turn::shared();
    let mut target = Target::start("forks", &["--calls", "500", "--child-calls", "500", "--children", "2"]);
    let session = Session::with(&target, &["--no-follow-forks"], &["step"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    assert_eq!(report.processes.len(), 1);
}

/// A child's text is a copy of its parent's, probes included: detaching cleans that too.
#[test]
fn the_text_of_children_is_restored_too() {
    let _turn = Turn::shared();
    let mut target = Target::start("forks", &["--calls", "10", "--children", "2", "--wait", "1"]);
    let session = Session::with(&target, &["--interval", "0.1"], &["step"]);
    target.go();
    let children: Vec<_> = (0..2).map(|_| target.wait_for("child").pid).collect();
    session.wait_for(|report| children.iter().all(|child| report.processes.contains(child)));
    assert!(children.iter().all(|&child| !changed_text(child).is_empty()));
    session.interrupt();
    children.iter().for_each(|&child| assert_text_restored(child));
    target.rest();
    target.go();
    target.end();
}

#[test]
fn a_target_in_another_mount_namespace_is_found_where_it_sees_itself() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    // The same path names another program here.
    folder.copy(&target("many"), "program");
    let script = format!(
        "mount -t tmpfs none \"$0\"; cp {} \"$0/program\"; exec \"$0/program\" --calls 300",
        target("plain").display()
    );
    let mut target = Target::start_command(in_namespace(&folder, &script));
    let session = Session::on(&target, &["add", "work"]);
    target.go();
    let oracle = target.end();
    session.end().agrees_with(&oracle);
}

#[test]
fn a_target_in_a_chroot_is_found_with_its_libraries() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    let script = format!(
        "mount --rbind / \"$0\"; mount -t tmpfs none \"$0/mnt\"; cp {0}/host {0}/plugin.so {0}/libshared.so \"$0/mnt\"; \
         exec chroot \"$0\" /mnt/host --calls 300",
        target::folder().display()
    );
    let mut target = Target::start_command(in_namespace(&folder, &script));
    let session = Session::on(&target, &["plugin.so:plugin_*", "libshared.so:shared_work"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    assert_eq!(report.functions.len(), 3);
    report.agrees_with(&oracle);
}

/// As in a container: the target sees itself as process 1.
#[test]
fn a_target_in_a_pid_namespace_of_its_own_is_measured() {
    let _turn = Turn::shared();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc"]).arg(target("plain"));
    command.args(["--calls", "0", "--threads", "4"]);
    let mut target = Target::start_in_pid_namespace(command);
    let session = Session::with(&target, &["--interval", "0.1"], &["add", "hold"]);
    target.go();
    session.wait_for(|report| report.function("add").exits > 100);
    let oracle = target.rest();
    let report = session.at_rest();
    for function in &report.functions {
        assert_eq!(function.in_flight, oracle.function(&function.name).in_flight, "{function:#?}");
    }
    let oracle = target.stop();
    session.end().agrees_with(&oracle);
}

/// The kernel uses other process numbers than an agent in a PID namespace sees: it is right even
/// so, or says that it cannot be.
#[test]
fn an_agent_in_a_pid_namespace_of_its_own_is_right_or_refuses() {
    let _turn = Turn::shared();
    let program = target("plain");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(edgelat_tests::session::binary());
    command.args(["watch", "--json", "--duration", "1", "work", "--"]).arg(&program);
    command.args(["--at-once", "--threads", "4", "--calls", "0"]);
    let outcome = edgelat_tests::session::run(command);
    if !outcome.status.success() {
        return outcome.refused(4, &["namespace"]);
    }
    let reports: Vec<_> = outcome.stdout.lines().filter_map(edgelat_tests::Report::parse).collect();
    let work = reports.last().unwrap().function("work");
    // It still runs: no call has ended inside.
    assert_eq!(work.lost("ended_inside"), 0, "{work:#?}");
    assert!(work.exits > 0, "{work:#?}");
}

#[test]
fn a_target_whose_file_was_deleted_is_still_measured_or_refused_in_words() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    let path = folder.copy(&target("plain"), "program");
    let mut command = Command::new(&path);
    command.args(["--calls", "300"]);
    let mut target = Target::start_command(command);
    std::fs::remove_file(&path).unwrap();
    let pid = target.pid().to_string();
    let outcome = edgelat_tests::edgelat(&["functions", &pid, "add", "--json"]);
    if outcome.status.success() {
        let session = Session::on(&target, &["add"]);
        target.go();
        let oracle = target.end();
        session.end().agrees_with(&oracle);
    } else {
        outcome.refused(5, &["deleted"]);
    }
}

/// The kernel finds the address space of perf's events through the main thread. This route must not
/// report the other threads' calls as not made.
fn main_thread_ends(route: &str) {
    let _turn = Turn::shared();
    let mut target = Target::start("headless", &["--calls", "0"]);
    let session = Session::with(&target, &["--interval", "0.1", "--route", route], &["works_on"]);
    target.go();
    session.wait_for(|report| report.function("works_on").exits > 100);
    target.signal(nix::sys::signal::Signal::SIGUSR1);
    let (report, words) = session.end_with_stderr();
    assert_eq!(report.ended.as_deref(), Some("target"));
    assert!(words.contains(&format!("the main thread of process {} has ended", target.pid())), "{words}");
    let oracle = target.stop();
    let function = report.function("works_on");
    assert!(function.entries < oracle.function("works_on").calls, "{function:#?}");
}

#[test]
fn the_end_of_the_main_thread_is_told_by_tracefs() {
    main_thread_ends("tracefs");
}

#[test]
fn the_end_of_the_main_thread_is_told_by_single_events() {
    main_thread_ends("single");
}

/// uprobe_multi does not need that thread once it is attached; a process without it can no longer
/// be opened.
#[test]
fn a_process_is_measured_on_after_its_main_thread() {
    let _turn = Turn::shared();
    let mut target = Target::start("headless", &["--calls", "0"]);
    let session = Session::with(&target, &["--interval", "0.1", "--route", "uprobe_multi"], &["works_on"]);
    target.go();
    session.wait_for(|report| report.function("works_on").exits > 100);
    target.signal(nix::sys::signal::Signal::SIGUSR1);
    let before = target.tell().function("works_on").calls;
    session.wait_for(|report| report.function("works_on").exits > before + 1000);
    let pid = target.pid().to_string();
    edgelat_tests::edgelat(&["watch", "-p", &pid, "works_on"])
        .refused(5, &["main thread of process", &pid, "after a restart of the process"]);
    let oracle = target.stop();
    session.end().agrees_with(&oracle);
}
