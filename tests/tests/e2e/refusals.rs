//! Bad input and bad circumstances: each has its exit status, and a message that names the object,
//! the reason and the next step.

use std::fs;
use std::process::Command;

use edgelat_tests::machine::{Turn, assert_text_restored};
use edgelat_tests::session::{binary, run};
use edgelat_tests::{Session, Target, TempDir, edgelat, need_root, target};
use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// Exit statuses of the manual.
const USAGE: i32 = 2;
const NOT_PERMITTED: i32 = 3;
const TARGET: i32 = 5;
const FUNCTION: i32 = 6;
const IMAGE: i32 = 7;

#[test]
fn no_such_process() {
    need_root();
    // The first number that the kernel does not assign, and a number that is never a process's.
    edgelat(&["watch", "-p", "4194304", "add"]).refused(TARGET, &["4194304"]);
    edgelat(&["functions", "4194304"]).refused(TARGET, &["4194304"]);
    edgelat(&["watch", "-p", "4194305", "add"]).refused(USAGE, &["4194305"]);
}

#[test]
fn a_process_that_is_dead_and_not_reaped() {
    need_root();
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id().to_string();
    let dead = || edgelat_tests::machine::state_of(child.id().try_into().unwrap()) == Some('Z');
    assert!(edgelat_tests::machine::eventually(edgelat_tests::patience(), dead));
    edgelat(&["watch", "-p", &pid, "main"]).refused(TARGET, &[&pid]);
    child.wait().unwrap();
    edgelat(&["watch", "-p", &pid, "main"]).refused(TARGET, &[&pid]);
}

#[test]
fn a_kernel_thread() {
    need_root();
    edgelat(&["watch", "-p", "2", "main"]).refused(TARGET, &["2"]);
    edgelat(&["functions", "2"]).refused(TARGET, &["2"]);
}

/// A fleet has two builds, and one of them lacks a function: existing functions are measured.
#[test]
fn names_that_are_not_there_do_not_keep_the_others_from_being_measured() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "100"]);
    let session = Session::on(&target, &["work", "no_such", "libc.so.6:neither_this", "add"]);
    target.go();
    let oracle = target.end();
    let (report, stderr) = session.end_with_stderr();
    report.agrees_with(&oracle);
    let names: Vec<_> = report.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, ["work", "add"]);
    for name in ["no_such", "libc.so.6:neither_this"] {
        assert!(stderr.contains(&format!("not measured: {name}: ")), "{stderr}");
    }
    assert_eq!(report.value["refused"].as_array().unwrap().len(), 2);
    assert!(
        report.value["refused"].as_array().unwrap().iter().all(|refused| refused["reason"] == "not-found")
    );
}

/// The number of a thread is not that of a process: the message names its process.
#[test]
fn a_thread() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "0"]);
    target.go();
    target.tell();
    let tasks = fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap();
    let own = target.pid().to_string();
    let thread = tasks.map(|t| t.unwrap().file_name().into_string().unwrap()).find(|t| *t != own).unwrap();
    edgelat(&["watch", "-p", &thread, "add"]).refused(TARGET, &[&thread, &own]);
    target.stop();
}

#[test]
fn itself() {
    need_root();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {} watch -p $$ --duration 2 main", binary().display())]);
    run(command).refused(TARGET, &["itself"]);
}

#[test]
fn a_function_that_does_not_exist_offers_near_names() {
    let _turn = Turn::shared();
    let target = Target::start("plain", &[]);
    let pid = target.pid().to_string();
    edgelat(&["watch", "-p", &pid, "decsend"]).refused(FUNCTION, &["decsend", "descend"]);
    edgelat(&["watch", "-p", &pid, "works"]).refused(FUNCTION, &["works", "work"]);
    edgelat(&["watch", "-p", &pid, "nothing_like_it_*"]).refused(FUNCTION, &["nothing_like_it_*"]);
    // A library may still come: it is awaited, and that is reported.
    let outcome = edgelat(&["watch", "-p", &pid, "--duration", "0.2", "libnothere.so:add"]);
    assert!(outcome.stderr.contains("libnothere.so"), "{outcome:#?}");
}

#[test]
fn a_function_that_cannot_be_probed_says_why() {
    let _turn = Turn::shared();
    let target = Target::start("shapes", &[]);
    let pid = target.pid().to_string();
    let list = crate::shapes::listed("shapes");
    let (_, _, reason) = list.iter().find(|(name, ..)| name == "never_returns").unwrap();
    let outcome = edgelat(&["watch", "-p", &pid, "never_returns"]);
    outcome.refused(FUNCTION, &["never_returns"]);
    assert!(outcome.stderr.len() > 40 && reason.is_some(), "{outcome:#?}");
    assert_text_restored(target.pid());
}

#[test]
fn without_root() {
    let _turn = Turn::shared();
    let target = Target::start("plain", &[]);
    let folder = TempDir::new();
    // A place readable for other users, regardless of the modes of the build's path.
    let copy = folder.copy(&binary(), "edgelat");
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(copy);
    command.args(["watch", "-p", &target.pid().to_string(), "add"]);
    run(command).refused(NOT_PERMITTED, &["root"]);
    assert_text_restored(target.pid());
}

/// Root by name only, as in a container: no capabilities at all.
#[test]
fn without_capabilities() {
    let _turn = Turn::shared();
    let target = Target::start("plain", &[]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(binary());
    command.args(["watch", "-p", &target.pid().to_string(), "add"]);
    run(command).refused(NOT_PERMITTED, &["cap_"]);
    assert_text_restored(target.pid());
}

#[test]
fn a_file_that_is_no_elf() {
    need_root();
    let folder = TempDir::new();
    let path = folder.path().join("text");
    fs::write(&path, "not a program\n").unwrap();
    edgelat(&["functions", path.to_str().unwrap()]).refused(IMAGE, &["text", "ELF"]);
    fs::write(&path, "").unwrap();
    edgelat(&["functions", path.to_str().unwrap()]).refused(IMAGE, &["text"]);
    edgelat(&["functions", folder.path().to_str().unwrap()]).refused(IMAGE, &[]);
    let outcome = edgelat(&["functions", "/no/such/file"]);
    assert!(matches!(outcome.status.code(), Some(TARGET | IMAGE)), "{outcome:#?}");
    assert!(outcome.stderr.contains("/no/such/file"), "{outcome:#?}");
}

/// Truncated at every kind of place: refused with a reason, or read as far as possible; no crash.
#[test]
fn a_truncated_elf() {
    need_root();
    let folder = TempDir::new();
    let whole = fs::read(target("plain")).unwrap();
    let path = folder.path().join("cut");
    let mut refused = 0;
    for length in [4, 16, 63, 64, 100, 400, 1000, 4096, whole.len() / 2, whole.len() - 2000, whole.len() - 1]
    {
        fs::write(&path, &whole[..length]).unwrap();
        let outcome = edgelat(&["functions", path.to_str().unwrap(), "--json"]);
        assert!(matches!(outcome.status.code(), Some(0 | IMAGE | FUNCTION)), "cut at {length}: {outcome:#?}");
        assert!(!outcome.stderr.contains("panicked"), "cut at {length}: {outcome:#?}");
        if outcome.status.code() == Some(IMAGE) {
            assert!(outcome.stderr.contains("cut"), "the message names the file: {outcome:#?}");
            refused += 1;
        }
    }
    assert!(refused >= 5, "only {refused} of the cuts were refused");
}

/// 256 MiB of zeros in a few KiB of .gnu_debugdata: refused or ignored, with little memory.
#[test]
fn a_compressed_bomb_stays_small() {
    need_root();
    let folder = TempDir::new();
    let script = format!(
        "cd {}; head -c 268435456 /dev/zero | xz -0 -T2 > bomb.xz; \
         objcopy --add-section .gnu_debugdata=bomb.xz {} bomb",
        folder.path().display(),
        target("plain-bare").display()
    );
    let mut command = Command::new("bash");
    command.args(["-ec", &script]);
    assert!(run(command).status.success());
    let mut command = Command::new("bash");
    let line =
        format!("ulimit -v 200000; exec {} functions {}/bomb", binary().display(), folder.path().display());
    command.args(["-ec", &line]);
    let outcome = run(command);
    assert!(matches!(outcome.status.code(), Some(0 | IMAGE | FUNCTION)), "{outcome:#?}");
    assert!(!outcome.stderr.contains("panicked") && !outcome.stderr.contains("alloc"), "{outcome:#?}");
}

#[test]
fn a_target_under_ptrace_is_refused_unless_told_otherwise() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "100"]);
    let pid = Pid::from_raw(target.pid());
    let text = target.pid().to_string();
    // Attaching stops it; detaching needs it stopped.
    ptrace::attach(pid).unwrap();
    waitpid(pid, None).unwrap();
    edgelat(&["watch", "-p", &text, "--duration", "0.2", "add"])
        .refused(TARGET, &["trace", "--allow-ptrace"]);
    let outcome = edgelat(&["watch", "-p", &text, "--duration", "0.2", "--allow-ptrace", "add"]);
    assert!(outcome.status.success(), "{outcome:#?}");
    ptrace::detach(pid, None).unwrap();
    target.go();
    target.end();
}

#[test]
fn a_table_that_does_not_fit_is_refused_with_its_figure() {
    let _turn = Turn::shared();
    let target = Target::start("many", &[]);
    let pid = target.pid().to_string();
    let outcome = edgelat(&["watch", "-p", &pid, "--max-map-bytes", "64K", "many_*"]);
    assert_ne!(outcome.status.code(), Some(0), "{outcome:#?}");
    assert!(outcome.stderr.contains("max-map-bytes"), "{outcome:#?}");
    assert_text_restored(target.pid());
}

#[test]
fn bad_options_name_the_option_and_the_way_out() {
    need_root();
    edgelat::<&str>(&[]).refused(USAGE, &[]);
    edgelat(&["wach"]).refused(USAGE, &["wach", "watch"]);
    edgelat(&["watch"]).refused(USAGE, &[]);
    edgelat(&["watch", "-p", "1"]).refused(USAGE, &["function"]);
    edgelat(&["watch", "add"]).refused(USAGE, &["-p"]);
    edgelat(&["watch", "-p", "one", "add"]).refused(USAGE, &["one"]);
    edgelat(&["watch", "-p", "-5", "add"]).refused(USAGE, &[]);
    edgelat(&["watch", "-p", "1", "--duration", "soon", "add"]).refused(USAGE, &["duration", "soon"]);
    edgelat(&["watch", "-p", "1", "--duration", "-1", "add"]).refused(USAGE, &["duration"]);
    edgelat(&["watch", "-p", "1", "--interval", "0", "add"]).refused(USAGE, &["interval"]);
    edgelat(&["watch", "-p", "1", "--interval", "nan", "add"]).refused(USAGE, &["interval"]);
    edgelat(&["watch", "-p", "1", "--route", "bus", "add"]).refused(USAGE, &["route", "bus", "tracefs"]);
    edgelat(&["watch", "-p", "1", "--returns", "never", "add"]).refused(USAGE, &["returns", "uretprobe"]);
    edgelat(&["watch", "-p", "1", "--frames", "3", "add"]).refused(USAGE, &["frames"]);
    edgelat(&["watch", "-p", "1", "--jason", "add"]).refused(USAGE, &["--jason"]);
    edgelat(&["watch", "-p", "1", "add", "--", "true"]).refused(USAGE, &[]);
    edgelat(&["watch", "-p", "1", "+0x1000"]).refused(USAGE, &["build-id"]);
    edgelat(&["watch", "add", "--"]).refused(USAGE, &[]);
    edgelat(&["functions"]).refused(USAGE, &[]);
}

#[test]
fn a_command_that_cannot_run_says_so() {
    need_root();
    let outcome = edgelat(&["watch", "add", "--", "/no/such/program"]);
    assert!(matches!(outcome.status.code(), Some(TARGET | IMAGE)), "{outcome:#?}");
    assert!(outcome.stderr.contains("/no/such/program"), "{outcome:#?}");
    let folder = TempDir::new();
    let script = folder.path().join("script");
    fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
    Command::new("chmod").arg("755").arg(&script).status().unwrap();
    let outcome = edgelat(&["watch", "no_such_function", "--", script.to_str().unwrap()]);
    assert_ne!(outcome.status.code(), Some(0), "{outcome:#?}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome:#?}");
}

/// A 64-bit kernel also runs 32-bit programs: their unmeasurable functions are named, not reported
/// as a bad plan.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_32_bit_process() {
    let _turn = Turn::shared();
    let target = target("pauses-32");
    // A kernel without the emulation has nothing to refuse.
    let Ok(mut child) = Command::new(target).spawn() else { return };
    let pid = child.id().to_string();
    edgelat(&["watch", "-p", &pid, "_start"]).refused(TARGET, &[&pid, "pauses-32", "32-bit"]);
    edgelat(&["check", "-p", &pid]).refused(TARGET, &[&pid, "pauses-32", "32-bit"]);
    assert_text_restored(child.id() as i32);
    child.kill().unwrap();
    child.wait().unwrap();
}
