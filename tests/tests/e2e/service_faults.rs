//! A target that died of a fault while probed is left alone briefly, after a second fault until it
//! is cleared: for the user of those processes, and for no other user.

use std::os::unix::process::{CommandExt as _, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use edgelat_tests::machine::{Turn, assert_text_probed, assert_text_restored, eventually};
use edgelat_tests::service::{STRANGER, measure};
use edgelat_tests::{Place, Service, Target, patience};
use nix::libc;
use nix::sys::signal::Signal;

use crate::service::{command, exe, start};

/// A program that dies of its own fault in its 300th turn.
const DYING: &[&str] = &["--calls", "0", "--fault", "300"];

fn place() -> (Place, PathBuf) {
    let place = Place::new();
    let program = place.program("faults", "faults");
    place.configure("", &[measure("it", &exe(&program), &["step*"], "")]);
    (place, program)
}

/// Waits until it is measured and dies of its own fault.
fn dies(service: &Service, program: &Path) {
    let mut target = start(program, DYING);
    let pid = target.pid();
    service.says(&format!("measuring process {pid}"));
    target.go();
    let ended = service.ends(pid);
    assert_eq!(ended.report().ended.as_deref(), Some("fault"));
    assert_eq!(ended.entries(), 301 * 64);
    assert_eq!(target.status().signal(), Some(Signal::SIGSEGV as i32));
}

/// Checks that a process of the same build is left alone.
fn left_alone(service: &Service, program: &Path) {
    let target = start(program, &["--calls", "0"]);
    let pid = target.pid();
    service.says(&format!("process {pid} is left alone"));
    let told = service.wait_for(|told| told.is(pid, "paused"));
    assert_eq!(told.reason.as_deref(), Some("quarantine"));
    assert!(told.report.is_none());
    assert_text_restored(pid);
    target.kill();
}

#[test]
fn a_build_that_died_under_probes_is_left_alone_until_quarantine_is_cleared() {
    let _turn = Turn::shared();
    let (place, program) = place();
    let service = place.start();
    assert!(place.edgelat(&["quarantine", "list", "--json"]).objects().is_empty());
    dies(&service, &program);
    service.says("it is left alone for 10 s, and goes into quarantine if that happens again");
    // Measured again after that.
    dies(&service, &program);
    left_alone(&service, &program);
    let [held] = &place.edgelat(&["quarantine", "list", "--json"]).objects()[..] else {
        panic!("one record")
    };
    assert_eq!(held["signal"].as_i64(), Some(Signal::SIGSEGV as i64));
    assert_eq!((held["target"].as_str(), held["times"].as_u64()), (Some("it"), Some(2)));
    assert_eq!((held["user"].as_u64(), held["image"].as_str()), (Some(0), program.to_str()));
    let left = held["expires"].as_u64().unwrap() - held["time"].as_u64().unwrap();
    assert_eq!(left, 7 * 24 * 3_600);
    let build_id = held["build_id"].as_str().unwrap().to_owned();
    service.end();

    // The quarantine holds for the next agent, and after a crash of the agent itself.
    let service = place.start();
    left_alone(&service, &program);
    service.kill();
    let service = place.start();
    left_alone(&service, &program);

    // A process that waits for the end of quarantine is measured then.
    let mut target = start(&program, &["--calls", "0"]);
    let pid = target.pid();
    service.says(&format!("process {pid} is left alone"));
    assert!(place.edgelat(&["quarantine", "clear", "ffffffff"]).status.success());
    assert_eq!(place.edgelat(&["quarantine", "list", "--json"]).objects().len(), 1, "that was another build");
    assert!(place.edgelat(&["quarantine", "clear", &build_id]).status.success());
    assert!(place.edgelat(&["quarantine", "list", "--json"]).objects().is_empty());
    target.go();
    service.counts(pid);
    assert_text_probed(pid);
    service.end();
    target.stop();
}

/// The requested functions may have been the reason; other functions are measured.
#[test]
fn quarantine_holds_for_the_functions_that_were_probed() {
    let _turn = Turn::shared();
    let (place, program) = place();
    let service = place.start();
    dies(&service, &program);
    place.configure("", &[measure("it", &exe(&program), &["step00"], "")]);
    service.signal(Signal::SIGHUP);
    let mut target = start(&program, &["--calls", "0"]);
    target.go();
    service.counts(target.pid());
    service.end();
    target.stop();
}

#[test]
fn a_fault_that_another_process_sent_takes_the_probes_off_and_no_more() {
    let _turn = Turn::shared();
    let (place, program) = place();
    let service = place.start();
    let mut target = start(&program, &["--calls", "0"]);
    let pid = target.pid();
    target.go();
    service.counts(pid);
    target.signal(Signal::SIGSEGV);
    assert_eq!(service.ends(pid).report().ended.as_deref(), Some("fault"));
    assert_eq!(target.status().signal(), Some(Signal::SIGSEGV as i32));
    service.says("the signal came from another process; no quarantine");
    assert!(place.edgelat(&["quarantine", "list", "--json"]).objects().is_empty());
    let mut again = start(&program, &["--calls", "0"]);
    again.go();
    service.counts(again.pid());
    service.end();
    again.stop();
}

/// Like the previous test, by a call that abort(3) uses as well.
#[test]
fn an_abort_that_another_process_sent_is_no_fault_and_ones_own_is() {
    let _turn = Turn::shared();
    let (place, program) = place();
    let service = place.start();
    let mut target = start(&program, &["--calls", "0"]);
    let pid = target.pid();
    target.go();
    service.counts(pid);
    // SAFETY: tgkill takes three numbers and touches no memory.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGABRT) };
    assert_eq!(sent, 0);
    assert_eq!(service.ends(pid).report().ended.as_deref(), Some("fault"));
    assert_eq!(target.status().signal(), Some(libc::SIGABRT));
    service.says("the signal came from another process; no quarantine");
    assert!(place.edgelat(&["quarantine", "list", "--json"]).objects().is_empty());
    let mut target = start(&program, &["--calls", "0", "--abort", "300"]);
    let pid = target.pid();
    service.says(&format!("measuring process {pid}"));
    target.go();
    assert_eq!(service.ends(pid).report().ended.as_deref(), Some("fault"));
    assert_eq!(target.status().signal(), Some(libc::SIGABRT));
    service.says("died of signal 6 while it was probed");
    let held = place.edgelat(&["quarantine", "list", "--json"]).objects();
    assert_eq!(
        (held[0]["signal"].as_i64(), held[0]["code"].as_i64()),
        (Some(6), Some(libc::SI_TKILL.into()))
    );
    service.end();
}

#[test]
fn what_another_user_has_crash_is_measured_on_for_everybody_else() {
    let _turn = Turn::shared();
    let (place, program) = place();
    // Another user needs access to the program.
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let service = place.start();
    for _ in 0..2 {
        let mut command = command(&program, DYING);
        command.uid(STRANGER).gid(STRANGER);
        let mut target = Target::start_command(command);
        let pid = target.pid();
        service.says(&format!("measuring process {pid}"));
        target.go();
        assert_eq!(service.ends(pid).report().ended.as_deref(), Some("fault"));
        target.status();
    }
    let held = || place.edgelat(&["quarantine", "list", "--json"]).objects();
    assert!(eventually(patience(), || held().iter().any(|held| held["times"].as_u64() == Some(2))));
    assert_eq!((held().len(), held()[0]["user"].as_u64()), (1, Some(STRANGER.into())));
    let mut own = start(&program, &["--calls", "0"]);
    own.go();
    service.counts(own.pid());
    let mut command = command(&program, &["--calls", "0"]);
    command.uid(STRANGER).gid(STRANGER);
    let other = Target::start_command(command);
    service.says(&format!("process {} is left alone", other.pid()));
    service.end();
    own.stop();
    other.kill();
}

/// The handler continues, so it was no end. The process is left alone for its lifetime; the next
/// one is not.
#[test]
fn a_fault_that_was_survived_leaves_the_process_alone_and_no_other() {
    let _turn = Turn::shared();
    let (place, program) = place();
    let service = place.start();
    let mut target = start(&program, &["--calls", "0", "--handled", "--fault", "300"]);
    let pid = target.pid();
    service.says(&format!("measuring process {pid}"));
    target.go();
    assert_eq!(service.ends(pid).report().ended.as_deref(), Some("fault"));
    let told = service.wait_for(|told| told.is(pid, "left"));
    assert_eq!(told.reason.as_deref(), Some("fault"));
    assert_text_restored(pid);
    let mut other = start(&program, &["--calls", "0"]);
    other.go();
    service.counts(other.pid());
    assert!(place.edgelat(&["quarantine", "list", "--json"]).objects().is_empty());
    service.end();
    target.stop();
    other.stop();
}

/// A handler that reports the fault and lets it recur, as faulthandler of Python does.
#[test]
fn a_python_that_dies_of_a_fault_that_it_tells_of_goes_into_quarantine() {
    let _turn = Turn::shared();
    let place = Place::new();
    let script = place.path().join("dies.py");
    std::fs::write(
        &script,
        "import ctypes, faulthandler, os, sys, threading\n\
         faulthandler.enable()\n\
         def work(): pass\n\
         print('{\"event\":\"ready\",\"pid\":%d,\"ok\":true,\"wrong\":0,\"message\":\"\",\"functions\":[]}' % os.getpid(), flush=True)\n\
         sys.stdin.readline()\n\
         for _ in range(50):\n\
         \x20   thread = threading.Thread(target=work)\n\
         \x20   thread.start()\n\
         \x20   thread.join()\n\
         sys.stdin.readline()\n\
         ctypes.string_at(0)\n",
    )
    .unwrap();
    let python = || {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/python"));
        command.arg("3.11").arg(&script).stderr(std::process::Stdio::null());
        Target::start_command(command)
    };
    let mut first = python();
    let pid = first.pid();
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
    let target = |pid: i32| measure("py", &format!("pid = {pid}"), &["py:dies.py:*"], "");
    place.configure("", &[target(pid)]);
    let service = place.start();
    service.says(&format!("measuring process {pid}"));
    first.go();
    service.wait_for(|told| told.is(pid, "measured") && told.entries() >= 50);
    first.go();
    assert_eq!(service.ends(pid).report().ended.as_deref(), Some("fault"));
    assert_eq!(first.status().signal(), Some(Signal::SIGSEGV as i32));
    let held = || place.edgelat(&["quarantine", "list", "--json"]).objects();
    assert!(eventually(patience(), || !held().is_empty()), "{}", service.log());
    assert_eq!((held()[0]["image"].as_str(), held()[0]["times"].as_u64()), (exe.to_str(), Some(1)));
    service.end();
}

fn go(place: &Place) -> PathBuf {
    let program = place.program("go/calls-1.27-plain", "calls");
    place.configure("", &[measure("go", &exe(&program), &["main.faults"], "")]);
    program
}

#[test]
fn a_fault_that_go_recovers_from_ends_nothing_in_the_service() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = go(&place);
    let service = place.start();
    let mut target = start(&program, &["--calls", "60"]);
    let pid = target.pid();
    service.says(&format!("measuring process {pid}"));
    target.go();
    let oracle = target.end();
    let ended = service.ends(pid);
    assert_eq!(ended.report().ended.as_deref(), Some("target"));
    ended.report().agrees_with(&oracle);
    assert_eq!(oracle.function("main.faults").unwound, 20);
    assert!(place.edgelat(&["quarantine", "list", "--json"]).objects().is_empty());
    service.end();
}

/// The runtime ends it with its own status, after its own report: no signal killed it.
#[test]
fn a_go_program_that_dies_of_a_panic_has_ended() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = go(&place);
    let service = place.start();
    for _ in 0..2 {
        let mut command = command(&program, &["--calls", "0", "--unrecovered", "30"]);
        command.stderr(std::process::Stdio::null());
        let mut target = Target::start_command(command);
        let pid = target.pid();
        // The second one as well: no quarantine.
        service.says(&format!("measuring process {pid}"));
        target.go();
        let ended = service.ends(pid);
        assert_eq!(ended.report().ended.as_deref(), Some("target"));
        assert_eq!(target.status().code(), Some(2));
        // Each third of 31 turns does not reach it, and then comes the call without recovery.
        assert_eq!(ended.report().function("main.faults").entries, 20 + 1);
    }
    service.end();
}
