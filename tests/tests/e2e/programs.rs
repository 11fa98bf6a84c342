//! Programs and libraries from elsewhere: every function of libc that can be probed, in programs of
//! the distribution. Their output must equal the output without probes, and every entered call must
//! be seen to end.

use std::process::Command;

use edgelat_tests::machine::Turn;
use edgelat_tests::session::run;
use edgelat_tests::{Report, Session, TempDir, target};

/// Runs the command without and with probes; compares output and account, and returns the report.
fn unchanged(patterns: &[&str], command: &[&str]) -> Report {
    let _turn = Turn::shared();
    let mut plain = Command::new(command[0]);
    plain.args(&command[1..]);
    let plain = run(plain);
    assert!(plain.status.success() && !plain.stdout.is_empty(), "{plain:#?}");
    let options = ["--max-map-bytes", "256M", "--frames", "65536"];
    let session = Session::watch(&[&options[..], patterns, &["--"], command].concat());
    let (report, output) = session.end_with_stderr();
    assert_eq!(report.ended.as_deref(), Some("target"));
    assert!(output.contains(&plain.stdout), "the output differs: {} and {output}", plain.stdout);
    assert!(report.functions.len() > 1000, "libc has thousands: {}", report.functions.len());
    let called = report.functions.iter().filter(|f| f.entries > 0).count();
    assert!(called > 40, "a program calls more than {called} of them");
    assert_eq!(report.unattributed_hits, 0);
    report
}

/// As above, for a program that leaves every function by its return.
fn every_call_returns(patterns: &[&str], command: &[&str]) {
    let report = unchanged(patterns, command);
    for function in &report.functions {
        assert_eq!(function.exits, function.entries, "{function:#?}");
        assert_eq!(function.unmatched_exits, 0, "{function:#?}");
    }
}

/// Some thousand lines of constant text.
fn lines(folder: &TempDir) -> String {
    let path = folder.path().join("lines");
    let text: String =
        (0..1000u32).map(|i| format!("{} {}\n", i * 7919 % 1000, "x".repeat(i as usize % 60))).collect();
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn ls_with_every_function_of_libc() {
    every_call_returns(&["libc.so.6:*"], &["/bin/ls", "-la", "/etc"]);
}

#[test]
fn sort_with_every_function_of_libc() {
    let folder = TempDir::new();
    every_call_returns(&["libc.so.6:*"], &["/usr/bin/sort", "-n", &lines(&folder)]);
}

#[test]
fn sed_with_every_function_of_libc_and_of_the_dynamic_linker() {
    let folder = TempDir::new();
    let patterns = ["libc.so.6:*", "ld-linux-x86-64.so.2:*"];
    every_call_returns(
        &patterns,
        &["/bin/sed", "-n", "s/^\\([0-9]*\\)7 \\(x*\\)$/\\2:\\1/p", &lines(&folder)],
    );
}

/// `die` leaves by longjmp: the calls that it left are abandoned, no others are missing.
#[test]
fn perl_with_every_function_of_libc_and_its_own() {
    let script = "my %h; $h{$_ % 17} .= $_ for 1..200; print join(',', map { $h{$_} } sort keys %h), qq(\\n); \
                  eval { die qq(gone\\n) }; print $@, sin(1), qq(\\n);";
    let report = unchanged(&["*", "libc.so.6:*"], &["/usr/bin/perl", "-e", script]);
    for function in &report.functions {
        assert_eq!(function.entries, function.exits + function.all_lost(), "{function:#?}");
        assert_eq!(function.unmatched_exits, 0, "{function:#?}");
        assert!(function.all_lost() == 0 || function.name.contains("run"), "{function:#?}");
    }
}

/// Exceptions through the library that implements them.
#[test]
fn exceptions_with_every_function_of_the_cpp_library() {
    let _turn = Turn::shared();
    let program = target("throws");
    let patterns = ["libstdc++.so.6:*", "libgcc_s.so.1:*", "libc.so.6:*", "throws::*"];
    let options = ["--max-map-bytes", "256M"];
    let command = ["--", program.to_str().unwrap(), "--at-once", "--calls", "20"];
    let (report, oracle) = Session::watch(&[&options[..], &patterns, &command].concat()).end_of_command();
    oracle.assert_right();
    for function in report.functions.iter().filter(|f| f.name.starts_with("throws::")) {
        let truth = oracle.function(&function.name);
        assert_eq!((function.entries, function.returned()), (truth.calls, truth.completed), "{function:#?}");
    }
    assert!(report.functions.iter().any(|f| f.image.contains("libstdc++") && f.exits > 0));
    assert!(report.functions.iter().all(|f| f.unmatched_exits == 0));
}
