//! Commands that only start the measured program: by executing it, after other work, or as a child.

use std::time::Duration;

use edgelat_tests::machine::{TempDir, Turn, assert_text_restored, eventually, state_of};
use edgelat_tests::{Oracle, Report, Session, edgelat, target};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PLAIN: [&str; 2] = ["plain:add", "plain:work"];

/// Watches functions of a shell command.
fn watch(options: &[&str], functions: &[&str], command: &[&str]) -> Session {
    Session::watch(&[options, functions, &["--"], command].concat())
}

fn program(name: &str) -> String {
    target(name).to_str().unwrap().to_owned()
}

/// The programs of a command, each with its last figures, against the single report for all.
fn agree(report: &Report, stderr: &str, programs: usize) {
    let ends: Vec<Oracle> =
        stderr.lines().filter_map(Oracle::parse).filter(|oracle| oracle.event == "end").collect();
    assert_eq!(ends.len(), programs, "{stderr}");
    ends.iter().for_each(Oracle::assert_right);
    report.assert_identity();
    for function in &report.functions {
        let calls: u64 = ends.iter().map(|oracle| oracle.function(&function.name).calls).sum();
        assert_eq!((function.entries, function.exits), (calls, calls), "{function:#?}");
        assert_eq!(function.unmatched_exits, 0, "{function:#?}");
    }
}

fn counts_all(options: &[&str], command: &[&str], programs: usize) {
    let _turn = Turn::shared();
    let (report, stderr) = watch(options, &PLAIN, command).end_with_stderr();
    assert_eq!(report.ended.as_deref(), Some("target"));
    assert_eq!(report.processes.len(), programs, "{:?}", report.processes);
    agree(&report, &stderr, programs);
}

#[test]
fn a_program_that_env_executes_is_counted_from_its_first_call() {
    counts_all(&[], &["env", "A=1", &program("plain"), "--at-once", "--calls", "500"], 1);
}

#[test]
fn a_program_that_env_executes_is_counted_from_its_first_call_by_tracefs() {
    counts_all(&["--route", "tracefs"], &["env", &program("plain"), "--at-once", "--calls", "200"], 1);
}

/// Other programs run earlier, a signal reaches the script, and several images follow each other.
#[test]
fn a_start_script_is_followed_through_all_that_it_does() {
    let script = format!(
        "trap 'echo got it' USR1; kill -USR1 $$; (ls / >/dev/null; sleep 0.1) & wait; ls / | cat >/dev/null; \
         exec env B=1 nice sh -c 'exec {} --at-once --calls 400'",
        program("plain")
    );
    let _turn = Turn::shared();
    let (report, stderr) = watch(&[], &PLAIN, &["bash", "-c", &script]).end_with_stderr();
    assert!(stderr.contains("got it"), "{stderr}");
    agree(&report, &stderr, 1);
}

#[test]
fn a_program_that_is_a_child_of_the_command_is_counted_from_its_first_call() {
    let line = format!("{} --at-once --calls 300; true", program("plain"));
    counts_all(&[], &["sh", "-c", &line], 1);
    counts_all(&[], &["timeout", "100", &program("plain"), "--at-once", "--calls", "300"], 1);
}

/// Including later ones, and finally the shell itself.
#[test]
fn all_programs_of_a_command_are_counted_from_their_first_call() {
    let plain = program("plain");
    let line = format!(
        "for i in 1 2; do {plain} --at-once --calls 200; done; {plain} --at-once --calls 300 & wait; \
         exec {plain} --at-once --calls 100"
    );
    counts_all(&[], &["sh", "-c", &line], 4);
}

#[test]
fn only_the_first_program_is_measured_where_children_are_left_alone() {
    let line = format!("{0} --at-once --calls 100; {0} --at-once --calls 100", program("plain"));
    let _turn = Turn::shared();
    let session = watch(&["--no-follow-forks"], &PLAIN, &["sh", "-c", &line]);
    let report = session.end();
    assert_eq!(report.function("work").entries, 100);
    assert_eq!(report.processes.len(), 1);
}

/// One library is linked, the program opens the other, and the wrapper has neither.
#[test]
fn libraries_of_a_program_behind_a_wrapper_are_counted_from_their_first_call() {
    let _turn = Turn::shared();
    let functions = ["libshared.so:shared_work", "plugin.so:plugin_*"];
    let command = ["env", "C=1", &program("host"), "--at-once", "--calls", "300"];
    let (report, oracle) = watch(&[], &functions, &command).end_of_command();
    assert_eq!(report.functions.len(), 3);
    report.agrees_with(&oracle);
}

/// It is asked to end, and left alone if it does not.
#[test]
fn a_command_that_does_not_end_when_it_is_asked_to_is_left_alone() {
    let _turn = Turn::shared();
    let line = format!("trap '' TERM; exec {} --at-once --calls 0 <&- >&- 2>&-", program("plain"));
    let watched = edgelat(&["watch", "--duration", "0.5", "plain:work", "--", "sh", "-c", &line]);
    assert_eq!(watched.status.code(), Some(0), "{watched:#?}");
    let (_, said) = watched.stderr.split_once("the command (process ").expect("what is to be done");
    let (pid, said) = said.split_once(')').unwrap();
    assert!(said.starts_with(&format!(" runs on; end it with kill {pid}")), "{said}");
    let pid = pid.parse().unwrap();
    assert!(matches!(state_of(pid), Some('R' | 'S')), "{:?}", state_of(pid));
    assert_text_restored(pid);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[test]
fn a_command_that_never_executes_what_is_meant_is_named_with_all_that_it_did_execute() {
    let _turn = Turn::shared();
    edgelat(&["watch", "nosuch:work", "--", "env", "sh", "-c", "ls / >/dev/null; true"])
        .refused(6, &["the command executed", "/env", "/ls", "nosuch:work"]);
    // A function without an image refers to the first image.
    edgelat(&["watch", "nosuch_function", "--", "env", "true"]).refused(6, &["PROGRAM:FUNCTION"]);
}

/// Stopped by a signal before the program has come, it stays stopped until it gets a SIGCONT.
#[test]
fn a_command_that_is_stopped_stays_stopped() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    let number = folder.path().join("number");
    let script = format!(
        "echo $$ > {0}.part; mv {0}.part {0}; kill -STOP $$; exec {1} --at-once --calls 100",
        number.display(),
        program("plain")
    );
    let waking = std::thread::spawn(move || {
        let read = || std::fs::read_to_string(&number).ok()?.trim().parse::<i32>().ok();
        assert!(eventually(Duration::from_secs(30), || read().is_some_and(|pid| state_of(pid) == Some('t'))));
        let pid = read().unwrap();
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(10));
            assert_eq!(state_of(pid), Some('t'), "it went on by itself");
        }
        kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    });
    let (report, oracle) = watch(&[], &PLAIN, &["sh", "-c", &script]).end_of_command();
    waking.join().unwrap();
    report.agrees_with(&oracle);
}

/// Its own status, however the target was named.
#[test]
fn a_target_that_dies_of_a_fault_gives_a_status_of_its_own() {
    let _turn = Turn::shared();
    let (faults, fault) = (program("faults"), ["--at-once", "--calls", "0", "--fault", "50"]);
    for command in [&[&faults as &str][..], &["env", &faults]] {
        let session = watch(&[], &["faults:step*"], &[command, &fault].concat());
        let (report, stderr) = session.end_in_fault();
        assert_eq!(report.ended.as_deref(), Some("fault"));
        assert!(stderr.contains("SIGSEGV"), "{stderr}");
    }
}

/// All processes of the command end with the watch, though the shell that started it does not pass
/// on its signals.
#[test]
fn ending_the_watch_ends_all_that_came_of_the_command() {
    let _turn = Turn::shared();
    let line = format!("{} --at-once --calls 0; true", program("plain"));
    let session = watch(&["--interval", "0.1"], &PLAIN, &["sh", "-c", &line]);
    let report = session.wait_for(|report| report.function("add").exits > 100);
    let pid = report.processes[0];
    session.interrupt();
    assert!(eventually(Duration::from_secs(10), || state_of(pid).is_none_or(|state| state == 'Z')));
}
