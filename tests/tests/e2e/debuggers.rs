//! Debuggers that attach while probes are present: the probes go, and the target outlives both.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use edgelat_tests::lines::Lines;
use edgelat_tests::machine::{TempDir, Turn, assert_text_probed, assert_text_restored};
use edgelat_tests::service::measure;
use edgelat_tests::{Place, Session, Target, edgelat, patience, target};

use crate::service::{exe, start};

/// A target at a fixed address, whose calls are made by its main thread.
const PROGRAM: &str = "paced";

/// A debugger of a process, with the address of a function's entry site.
struct Debugger {
    child: Child,
    stdin: ChildStdin,
    lines: Lines,
}

impl Debugger {
    fn of(pid: i32) -> Self {
        let listed = edgelat(&["functions", target(PROGRAM).to_str().unwrap(), "paced", "--json"]).objects();
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        // The executable segment of such a program begins at a page boundary, in the file as in
        // memory.
        let (begin, entry) = (number(&listed[0]["start"]), number(&listed[0]["sites"]["entry"]));
        let address = (begin & !0xfff) | (entry & 0xfff);
        let mut command = Command::new(target("debugs"));
        command.args([pid.to_string(), format!("{address:#x}")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = Lines::of(child.stdout.take().unwrap());
        let debugger = Self { stdin: child.stdin.take().unwrap(), child, lines };
        debugger.says("traced");
        debugger
    }

    #[track_caller]
    fn says(&self, word: &str) {
        let said = self.lines.wait(0, patience(), |line| (line == word).then_some(()));
        assert!(said.is_some(), "the debugger did not say `{word}`: {}", self.lines.text());
    }

    #[track_caller]
    fn tell(&mut self, word: &str, answer: &str) {
        writeln!(self.stdin, "{word}").unwrap();
        self.says(answer);
    }

    /// Sets, hits and removes a breakpoint.
    #[track_caller]
    fn debug(&mut self) {
        self.tell("break", "hit");
        self.tell("leave", "left");
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A program whose file has no other probes: the kernel would mistake the debugger's breakpoint for
/// one.
fn own_program() -> (TempDir, Target) {
    let folder = TempDir::new();
    let target = Target::start_command(Command::new(folder.copy(&target(PROGRAM), PROGRAM)));
    (folder, target)
}

fn outlives(options: &[&str]) {
    let _turn = Turn::shared();
    let (_folder, mut target) = own_program();
    let session = Session::with(&target, options, &["paced"]);
    assert_text_probed(target.pid());
    target.go();
    let mut debugger = Debugger::of(target.pid());
    let (report, told) = session.end_with_stderr();
    assert_eq!(report.ended.as_deref(), Some("traced"));
    let words = format!("process {} is traced by process {} now", target.pid(), debugger.child.id());
    assert!(told.contains(&words), "{told}");
    assert_text_restored(target.pid());
    debugger.debug();
    target.stop();
}

#[test]
fn a_target_outlives_a_debugger_that_came_while_it_was_watched() {
    outlives(&[]);
}

#[test]
fn a_target_outlives_a_debugger_that_came_while_it_was_watched_by_tracefs() {
    outlives(&["--route", "tracefs"]);
}

/// A debugger that was there before is intended.
#[test]
fn a_debugger_that_was_accepted_ends_nothing() {
    let _turn = Turn::shared();
    let (_folder, mut target) = own_program();
    let debugger = Debugger::of(target.pid());
    let session = Session::with(&target, &["--allow-ptrace", "--duration", "2"], &["paced"]);
    target.go();
    let report = session.end();
    assert_eq!(report.ended.as_deref(), Some("duration"));
    drop(debugger);
    target.stop();
}

#[test]
fn the_service_leaves_a_target_to_its_debugger_and_comes_back() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program(PROGRAM, PROGRAM);
    place.configure("", &[measure("it", &exe(&program), &["paced"], "")]);
    let service = place.start();
    let mut target = start(&program, &[]);
    let pid = target.pid();
    target.go();
    service.wait_for(|told| told.is(pid, "measured"));
    let mut debugger = Debugger::of(pid);
    assert_eq!(service.ends(pid).report().ended.as_deref(), Some("traced"));
    let paused = service.wait_for(|told| told.is(pid, "paused"));
    assert_eq!(paused.reason.as_deref(), Some("traced"));
    debugger.debug();
    let before = service.count();
    // Part of a pause of ten seconds.
    std::thread::sleep(Duration::from_secs(1));
    service.wait_after(before, |told| told.is(pid, "measured"));
    service.end();
    target.stop();
}
