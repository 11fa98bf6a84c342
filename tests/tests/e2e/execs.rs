//! Targets that execute an image: the same again, from any thread and by any path, or another one.

use std::time::Duration;

use edgelat_tests::machine::{TempDir, Turn, assert_text_probed, changed_text, eventually};
use edgelat_tests::{Session, Target, target};

const FUNCTIONS: [&str; 2] = ["before_exec", "replaces"];

/// The open call of a program that replaces itself ends at once, and all calls of the new image
/// count from its coverage on, which precedes its start signal.
fn goes_on(options: &[&str], arguments: &[&str]) {
    let _turn = Turn::shared();
    let mut target = Target::start("execs", &[&["--calls", "300"], arguments].concat());
    let session = Session::with(&target, &[&["--interval", "0.1"], options].concat(), &FUNCTIONS);
    target.go();
    let first = target.wait_for("exec");
    assert_eq!(first.function("replaces").in_flight, 1);
    target.wait_for("ready");
    let report = session.wait_for(|report| report.function("replaces").lost("ended_inside") == 1);
    assert_eq!(report.function("replaces").in_flight, 0);
    assert_eq!(report.function("before_exec").entries, first.function("before_exec").calls);
    assert_text_probed(target.pid());
    target.go();
    let second = target.end();
    let report = session.end();
    let calls = [&first, &second].map(|oracle| oracle.function("before_exec").calls);
    assert_eq!(calls, [300, 300]);
    let before = report.function("before_exec");
    assert_eq!((before.entries, before.exits), (600, 600), "{before:#?}");
    let replaces = report.function("replaces");
    assert_eq!((replaces.entries, replaces.exits), (1, 0), "{replaces:#?}");
    assert_eq!(replaces.lost("ended_inside"), 1, "{replaces:#?}");
    // If coverage had a gap, there are two periods.
    assert!(report.processes.iter().all(|pid| *pid == report.processes[0]), "{:?}", report.processes);
}

#[test]
fn a_thread_that_executes_the_same_image_is_covered_there() {
    goes_on(&[], &[]);
}

#[test]
fn a_thread_that_executes_the_same_image_is_covered_there_by_tracefs() {
    goes_on(&["--route", "tracefs"], &[]);
}

#[test]
fn a_thread_that_executes_the_same_image_is_covered_there_by_single_events() {
    goes_on(&["--route", "single"], &[]);
}

#[test]
fn a_thread_that_executes_the_same_image_is_covered_there_by_return_probes() {
    goes_on(&["--returns", "uretprobe"], &[]);
}

#[test]
fn a_main_thread_that_executes_the_same_image_is_covered_there() {
    goes_on(&[], &["--main", "1"]);
    goes_on(&["--route", "tracefs"], &["--main", "1"]);
}

/// The same file by another name.
#[test]
fn the_same_image_by_another_path_is_covered() {
    // A name of the same file must be on the same file system.
    let link = target::folder().join(format!("execs-link-{}", std::process::id()));
    _ = std::fs::remove_file(&link);
    std::fs::hard_link(target("execs"), &link).unwrap();
    goes_on(&[], &["--image", link.to_str().unwrap()]);
    std::fs::remove_file(&link).unwrap();
}

#[test]
fn a_target_that_becomes_another_program_is_not_probed_there() {
    let _turn = Turn::shared();
    let other = target("plain");
    let mut target = Target::start("execs", &["--calls", "300", "--image", other.to_str().unwrap()]);
    let session = Session::with(&target, &["--interval", "0.1"], &["before_exec"]);
    target.go();
    let first = target.wait_for("exec");
    let ready = target.wait_for("ready");
    // No probe of the old plan remains in the new image.
    assert!(eventually(Duration::from_secs(5), || changed_text(ready.pid).is_empty()));
    target.go();
    target.end();
    let report = session.end();
    assert_eq!(report.ended.as_deref(), Some("replaced"));
    assert_eq!(report.function("before_exec").entries, first.function("before_exec").calls);
}

/// A command is measured again when it returns to its image, and until its end.
#[test]
fn a_command_that_comes_back_to_its_image_is_covered_again() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    let (program, between) = (target("execs"), folder.path().join("between"));
    // It executes a shell, which executes it again, and it begins a moment later.
    let words = format!(
        "#!/bin/sh\nmkfifo {0}.go\n(sleep 1; echo go; sleep 2) > {0}.go 2>/dev/null &\nexec {1} --calls 300 --generation 0 < {0}.go\n",
        between.display(),
        program.display()
    );
    std::fs::write(&between, words).unwrap();
    std::fs::set_permissions(&between, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let command = ["--", program.to_str().unwrap(), "--at-once", "--calls", "300", "--image"];
    let arguments = [&["--interval", "0.1"], &FUNCTIONS[..], &command, &[between.to_str().unwrap()]].concat();
    let (report, stderr) = Session::watch(&arguments).end_with_stderr();
    assert_eq!(report.ended.as_deref(), Some("target"), "{stderr}");
    assert_eq!(report.processes.len(), 2, "two periods of one process: {stderr}");
    let entries = report.function("before_exec").entries;
    // The second time, the calls before its coverage are missing.
    assert!((301..=600).contains(&entries), "{entries}");
    let replaces = report.function("replaces");
    assert_eq!((replaces.entries, replaces.lost("ended_inside")), (1, 1), "{replaces:#?}");
}
