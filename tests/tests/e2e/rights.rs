//! Two processes: the guard, which was started, and the collector, which has no rights.

use std::collections::BTreeMap;
use std::process::Command;

use edgelat_tests::machine::{Turn, assert_text_restored, eventually, state_of};
use edgelat_tests::{Session, Target, edgelat, patience};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The only child of a process.
pub(crate) fn child_of(pid: i32) -> i32 {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let text = std::fs::read_to_string(task.unwrap().path().join("children")).unwrap();
        children.extend(text.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
    }
    let [child] = children[..] else { panic!("children of {pid}: {children:?}") };
    child
}

/// Fields of /proc/PID/status of every thread.
pub(crate) fn status_of_threads(pid: i32) -> Vec<BTreeMap<String, String>> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads
        .map(|thread| {
            let text = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let fields = text.lines().filter_map(|line| line.split_once(':'));
            fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
        })
        .collect()
}

/// Fails if a thread of a process has any right.
#[track_caller]
pub(crate) fn has_no_rights(pid: i32) {
    let threads = status_of_threads(pid);
    assert!(!threads.is_empty());
    for thread in &threads {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(thread[set], "0000000000000000", "{set}");
        }
        assert_eq!((thread["NoNewPrivs"].as_str(), thread["Seccomp"].as_str()), ("1", "2"));
    }
}

/// A target at work, and an agent that counts its calls.
fn measured() -> (Target, Session) {
    let mut target = Target::start("plain", &["--calls", "0"]);
    let session = Session::on(&target, &["add"]);
    target.go();
    session.wait_for(|report| report.function("add").exits > 100);
    (target, session)
}

#[test]
fn the_collector_holds_no_capability() {
    let _turn = Turn::shared();
    let (target, session) = measured();
    has_no_rights(child_of(session.pid()));
    // It continues to measure without rights.
    let before = session.reports().last().unwrap().function("add").exits;
    session.wait_for(|report| report.function("add").exits > before);
    session.interrupt();
    target.stop().assert_right();
}

#[test]
fn the_collector_waits_for_everybody_else_and_leaves_its_target_alone_on_its_cpu() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "0"]);
    let own = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut mask = CpuSet::new();
    let cpu = (0..CpuSet::count()).find(|cpu| own.is_set(*cpu).unwrap()).unwrap();
    mask.set(cpu).unwrap();
    for thread in std::fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap() {
        let thread = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
        sched_setaffinity(Pid::from_raw(thread), &mask).unwrap();
    }
    let session = Session::on(&target, &["add"]);
    target.go();
    session.wait_for(|report| report.function("add").exits > 100);
    let collector = child_of(session.pid());
    for thread in status_of_threads(collector) {
        let allowed = thread["Cpus_allowed_list"].parse();
        assert!(allowed.is_ok_and(|allowed: usize| allowed != cpu), "{}", thread["Cpus_allowed_list"]);
    }
    // Field 19 of proc(5); the third comes after the name.
    let stat = std::fs::read_to_string(format!("/proc/{collector}/stat")).unwrap();
    assert_eq!(stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19 - 3), Some("19"));
    assert!(session.stderr().contains(", which "), "it says where it runs: {}", session.stderr());
    session.interrupt();
    target.stop().assert_right();
}

/// Capabilities by their numbers (include/uapi/linux/capability.h).
pub(crate) const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
pub(crate) const CAP_KILL: u64 = 1 << 5;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;
const CAP_CHECKPOINT_RESTORE: u64 = 1 << 40;
/// Capabilities for attaching to children.
pub(crate) const ATTACHING: u64 = CAP_BPF | CAP_PERFMON | CAP_SYS_PTRACE | CAP_CHECKPOINT_RESTORE;

/// Rights of a guard once everything is in place.
#[track_caller]
pub(crate) fn holds(pid: i32, wanted: u64) {
    let capabilities =
        |thread: &BTreeMap<String, String>, set: &str| u64::from_str_radix(&thread[set], 16).unwrap();
    let settled = || {
        let threads = status_of_threads(pid);
        threads.iter().all(|thread| thread["Seccomp"] == "2" && thread["NoNewPrivs"] == "1")
    };
    assert!(eventually(patience(), settled), "{:?}", status_of_threads(pid));
    for thread in status_of_threads(pid) {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(capabilities(&thread, set), wanted, "{set}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(capabilities(&thread, set), 0, "{set}");
        }
    }
}

/// Additional capabilities for perf events on a route.
pub(crate) fn of_perf(route: &str) -> u64 {
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap();
    let strict = paranoid.trim().parse::<i32>().unwrap() > 2;
    if route == "single" || strict && route == "tracefs" { CAP_SYS_ADMIN } else { 0 }
}

#[test]
fn the_guard_keeps_what_is_still_to_be_done() {
    let _turn = Turn::shared();
    let target = Target::start("plain", &[]);
    for route in ["uprobe_multi", "tracefs", "single"] {
        let outcome = edgelat(&[
            "watch",
            "--route",
            route,
            "--duration",
            "0.1",
            "-p",
            &target.pid().to_string(),
            "add",
        ]);
        if outcome.status.code() == Some(4) {
            continue; // not on this kernel
        }
        // Unfollowed children are freed of inherited probes, which takes the same rights as
        // following them.
        for options in [&["--route", route][..], &["--route", route, "--no-follow-forks"]] {
            let session = Session::with(&target, options, &["add"]);
            holds(session.pid(), ATTACHING | of_perf(route));
            session.interrupt();
        }
    }
    assert_text_restored(target.pid());
    // `check` reports it beforehand.
    let findings = edgelat(&["check", "--json"]).objects();
    let keeps = findings.iter().find(|finding| finding["name"] == "keeps").unwrap();
    let detail = keeps["detail"].as_str().unwrap();
    for capability in ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE", "CAP_CHECKPOINT_RESTORE"] {
        assert!(detail.contains(capability), "{detail}");
    }
    assert!(!detail.contains("CAP_SYS_MODULE"), "{detail}");
}

#[test]
fn a_guard_with_a_command_may_end_it() {
    let _turn = Turn::shared();
    let session = Session::watch(&["--no-follow-forks", "libc.so.6:clock_nanosleep", "--", "sleep", "1000"]);
    holds(session.pid(), CAP_KILL | ATTACHING);
    session.interrupt();
}

/// The guard's kernel objects end with it, and the counts can still be read.
#[test]
fn a_collector_without_its_guard_tells_what_was_counted() {
    let _turn = Turn::shared();
    let (target, session) = measured();
    let collector = child_of(session.pid());
    let (stdout, stderr) = (session.stdout_lines(), session.stderr_lines());
    session.kill();
    let (lines, ended) = stdout.to_the_end(patience());
    assert!(ended, "the collector runs on");
    let last = edgelat_tests::Report::parse(lines.last().unwrap()).unwrap();
    assert_eq!((last.is_final, last.ended.as_deref()), (true, Some("guard")));
    assert!(last.function("add").exits > 100);
    let (told, _) = stderr.to_the_end(patience());
    assert!(told.join("\n").contains("the guard has ended"), "{told:?}");
    assert!(eventually(patience(), || state_of(collector).is_none_or(|state| state == 'Z')));
    assert_text_restored(target.pid());
    target.stop().assert_right();
}

#[test]
fn a_guard_without_its_collector_removes_the_probes_and_says_why() {
    let _turn = Turn::shared();
    let (target, session) = measured();
    kill(Pid::from_raw(child_of(session.pid())), Signal::SIGKILL).unwrap();
    let outcome = session.ended();
    outcome.refused(9, &["the collector was ended by SIGKILL", "probes are removed"]);
    assert_text_restored(target.pid());
    target.stop().assert_right();
}

#[test]
fn neither_of_the_two_can_be_measured() {
    let _turn = Turn::shared();
    let target = Target::start("plain", &[]);
    let session = Session::on(&target, &["add"]);
    // The guard of another agent is an ordinary process; the agent's own guard is not.
    let own = "p=$$; exec \"$0\" watch --duration 1 -p $p main";
    let outcome =
        Command::new("sh").args(["-c", own]).arg(edgelat_tests::session::binary()).output().unwrap();
    assert_eq!(outcome.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&outcome.stderr).contains("edgelat itself"));
    session.interrupt();
}

/// Files in a folder closed to other users are read through the folder, which was opened with
/// rights.
#[test]
fn debug_files_in_a_closed_folder_are_found() {
    let _turn = Turn::shared();
    let folder = edgelat_tests::machine::TempDir::new();
    let stripped = edgelat_tests::target::target("plain-stripped");
    let debug = edgelat_tests::target::target("plain-stripped.debug");
    let id = build_id(&stripped);
    let home = folder.path().join("home");
    let below = home.join("debug/.build-id").join(&id[..2]);
    std::fs::create_dir_all(&below).unwrap();
    std::fs::copy(debug, below.join(format!("{}.debug", &id[2..]))).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        assert!(Command::new(program).args(arguments).status().unwrap().success());
    };
    run("chown", &["1000", home.to_str().unwrap()]);
    run("chmod", &["0700", home.to_str().unwrap()]);
    let outcome = edgelat(&[
        "functions",
        stripped.to_str().unwrap(),
        "add",
        "--debug-dir",
        home.join("debug").to_str().unwrap(),
    ]);
    assert!(outcome.status.success() && outcome.stdout.contains("debug file"), "{outcome:#?}");
}

fn build_id(path: &std::path::Path) -> String {
    let outcome = edgelat(&["functions", "--json", path.to_str().unwrap(), "main"]);
    let line = outcome.stdout.lines().next().map(str::to_owned).unwrap_or_default();
    match serde_json::from_str::<serde_json::Value>(&line) {
        Ok(value) => value["build_id"].as_str().unwrap().to_owned(),
        // Without names the message gives the build.
        Err(_) => {
            let words = outcome.stderr.split("build-id ").nth(1).unwrap();
            words.split(')').next().unwrap().to_owned()
        }
    }
}
