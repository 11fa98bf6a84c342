//! A target that faults: counting stops in the kernel at the delivery of the signal, and the probes
//! go before any handler inspects it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use edgelat_tests::machine::{TempDir, Turn, assert_text_probed, assert_text_restored, eventually};
use edgelat_tests::{Oracle, Report, Session, Target, amount};
use nix::sys::signal::Signal;

const ALL: &str = "step*";

fn calls(report: &Report) -> u64 {
    report.functions.iter().map(|function| function.entries).sum()
}

fn called(oracle: &Oracle) -> u64 {
    oracle.functions.iter().map(|function| function.calls).sum()
}

/// One thread faults outside of its functions, and its handler reports the calls until then: none
/// of its later calls is counted.
fn stops_exactly(options: &[&str]) {
    let _turn = Turn::shared();
    let fault = amount(200, 20_000).to_string();
    let mut target = Target::start("faults", &["--calls", "0", "--handled", "--fault", &fault]);
    let session = Session::with(&target, options, &[ALL]);
    assert_text_probed(target.pid());
    target.go();
    let at_fault = target.wait_for("fault");
    let (report, told) = session.end_with_stderr();
    assert_eq!(report.ended.as_deref(), Some("fault"));
    assert!(told.contains("SIGSEGV, which it handles"), "{told}");
    assert_eq!(report.functions.len(), 64);
    for function in &report.functions {
        let truth = at_fault.function(&function.name);
        assert_eq!((function.entries, function.exits), (truth.calls, truth.completed), "{function:#?}");
    }
    assert_text_restored(target.pid());
    let later = target.tell();
    assert!(called(&later) > called(&at_fault), "it goes on");
    target.stop();
}

#[test]
fn a_fault_stops_counting_before_the_next_call() {
    stops_exactly(&[]);
}

#[test]
fn a_fault_stops_counting_before_the_next_call_by_tracefs() {
    stops_exactly(&["--route", "tracefs"]);
}

#[test]
fn a_fault_stops_counting_before_the_next_call_by_return_probes() {
    stops_exactly(&["--returns", "uretprobe"]);
}

/// Other threads are at arbitrary points; calls begun earlier count, later ones do not.
#[test]
fn a_fault_stops_counting_in_all_threads() {
    let _turn = Turn::shared();
    let fault = amount(2000, 100_000).to_string();
    let arguments = ["--calls", "0", "--threads", "3", "--handled", "--fault", &fault];
    let mut target = Target::start("faults", &arguments);
    let session = Session::with(&target, &["--returns", "uretprobe"], &[ALL]);
    let begun = Instant::now();
    target.go();
    let at_fault = target.wait_for("fault");
    let rate = called(&at_fault) as f64 / begun.elapsed().as_secs_f64();
    let report = session.end();
    assert_eq!(report.ended.as_deref(), Some("fault"));
    // The handler reads the counters after the kernel has switched off, so it may find more than
    // was counted, never less.
    assert!(calls(&report) <= called(&at_fault), "{} of {}", calls(&report), called(&at_fault));
    assert!(calls(&report) > 0);
    assert_text_restored(target.pid());
    let later = called(&target.tell());
    println!(
        "figure: {rate:.0} calls a second, {} at the fault, {} counted, {later} made until the probes had been gone for a while",
        called(&at_fault),
        calls(&report),
    );
    target.stop();
}

/// With `fatal`, a fault that the target handles has no effect.
#[test]
fn a_handled_fault_goes_on_where_only_fatal_ones_count() {
    let _turn = Turn::shared();
    let arguments = ["--calls", "400", "--handled", "--fault", "100"];
    let mut target = Target::start("faults", &arguments);
    let session = Session::with(&target, &["--on-signal", "fatal"], &[ALL]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    assert_eq!(report.ended.as_deref(), Some("target"));
    report.agrees_with(&oracle);
    assert_eq!(calls(&report), 400 * 64);
}

/// Dies of it: with the default action, or by a signal of another process.
#[test]
fn an_unhandled_fault_ends_the_watch_and_the_target_as_without_us() {
    let _turn = Turn::shared();
    let mut target = Target::start("faults", &["--calls", "0", "--fault", "300"]);
    let session = Session::with(&target, &["--on-signal", "fatal"], &[ALL]);
    target.go();
    let (report, told) = session.end_in_fault();
    assert_eq!(report.ended.as_deref(), Some("fault"));
    assert!(told.contains("SIGSEGV: counting stopped"), "{told}");
    assert_eq!(calls(&report), 301 * 64);
    assert_eq!(target.status().signal(), Some(Signal::SIGSEGV as i32));

    for signal in
        [Signal::SIGBUS, Signal::SIGILL, Signal::SIGTRAP, Signal::SIGABRT, Signal::SIGFPE, Signal::SIGSYS]
    {
        let mut target = Target::start("faults", &["--calls", "0", "--threads", "2"]);
        let session = Session::with(&target, &["--interval", "0.1"], &[ALL]);
        target.go();
        session.wait_for(|report| calls(report) > 1000);
        target.signal(signal);
        assert_eq!(session.end_in_fault().0.ended.as_deref(), Some("fault"), "{signal}");
        assert_eq!(target.status().signal(), Some(signal as i32));
    }
}

/// The kernel dumps the memory of a dying process for a long time; the probes do not wait for that.
#[test]
fn probes_are_gone_while_a_core_file_is_written() {
    let _turn = Turn::alone();
    let megabytes = amount(64, 1024).to_string();
    let folder = TempDir::new();
    let taker = CoreTaker::new(folder.path());
    let mut target = Target::start(
        "faults",
        &["--calls", "0", "--threads", "2", "--fault", "500", "--megabytes", &megabytes],
    );
    let pid = target.pid();
    let session = Session::with(&target, &[], &[ALL]);
    target.go();
    let (report, told) = session.end_in_fault();
    assert_eq!(report.ended.as_deref(), Some("fault"));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("CoreDumping:\t1"), "{status}");
    assert_text_restored(pid);
    taker.take();
    assert_eq!(target.status().signal(), Some(Signal::SIGSEGV as i32));
    let gone = told.lines().find(|line| line.contains("counting stopped")).unwrap();
    println!("figure: a core of {megabytes} MiB; {gone}");
}

/// Takes core files from the kernel and discards them on request. The former setting is restored at
/// the end.
struct CoreTaker {
    go: std::path::PathBuf,
    before: String,
}

impl CoreTaker {
    const PATTERN: &str = "/proc/sys/kernel/core_pattern";

    fn new(folder: &Path) -> Self {
        let (program, go) = (folder.join("take"), folder.join("go"));
        // The kernel looks for its helper below the root of the first process, which may differ
        // from this one.
        let root = format!("/proc/{}/root", std::process::id());
        let script =
            format!("#!/bin/sh\nuntil test -e {root}{}; do sleep 0.05; done\ncat >/dev/null\n", go.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let before = std::fs::read_to_string(Self::PATTERN).unwrap();
        std::fs::write(Self::PATTERN, format!("|{root}{}", program.display())).unwrap();
        Self { go, before }
    }

    fn take(&self) {
        std::fs::write(&self.go, "").unwrap();
    }
}

impl Drop for CoreTaker {
    fn drop(&mut self) {
        self.take();
        let _ = std::fs::write(Self::PATTERN, &self.before);
    }
}

/// Go turns it into a panic, from which it recovers or dies with a status of its own.
#[test]
fn go_dies_of_a_fault_that_it_does_not_recover_from_without_our_help() {
    let _turn = Turn::shared();
    let mut target = Target::start("go/calls-1.27-shipped", &["--calls", "0", "--threads", "2"]);
    let session = Session::with(&target, &["--interval", "0.1"], &["main.add", "main.work"]);
    target.go();
    session.wait_for(|report| report.function("main.add").exits > 100);
    // Not the kernel's: the runtime crashes on a signal that another process sends.
    target.signal(Signal::SIGABRT);
    let report = session.end();
    assert!(matches!(report.ended.as_deref(), Some("fault" | "target")), "{:?}", report.ended);
    assert!(eventually(Duration::from_secs(20), || !target.is_alive()));
}
