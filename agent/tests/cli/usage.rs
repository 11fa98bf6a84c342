//! Help, and the errors of wrong command lines.

use super::shell::edgelat;

// With the feature there are two more commands.
#[cfg(not(feature = "generate"))]
#[test]
fn help_is_as_it_was_reviewed() {
    edgelat(&["--help"]).status(0).quietly().prints_snapshot("help.txt");
}

#[test]
fn the_help_of_each_command_is_as_it_was_reviewed() {
    for command in ["watch", "run", "functions", "check", "pack", "quarantine", "spool"] {
        edgelat(&[command, "--help"]).status(0).quietly().prints_snapshot(&format!("{command}.txt"));
    }
    edgelat(&["help", "watch"]).status(0).quietly().prints_snapshot("help-watch.txt");
}

#[test]
fn the_version_is_that_of_the_package() {
    assert_eq!(
        edgelat(&["--version"]).status(0).quietly().stdout(),
        format!("edgelat {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_to_type() {
    for (arguments, answer) in [
        (&[][..], "edgelat: no command given; 'edgelat --help' lists them\n"),
        (&["wacth"], "edgelat: there is no command 'wacth'; did you mean 'edgelat watch'?\n"),
        (
            &["watch", "f"],
            "edgelat: watch: nothing to measure; name a process with -p PID, or a command after --\n",
        ),
        (
            &["watch", "-p", "1", "--frame", "9", "f"],
            "edgelat: watch: there is no option '--frame'; did you mean --frames?\n",
        ),
        (
            &["watch", "-p", "1", "--frames", "9", "f"],
            "edgelat: watch: --frames cannot be '9'; give a whole number from 16 to 1048576\n",
        ),
        (&["check", "--json", "--json"], "edgelat: check: --json is given twice; leave one\n"),
        (
            &["functions"],
            "edgelat: functions: PID|PATH is missing; write edgelat functions (PID | PATH) [PATTERN] [OPTION...]\n",
        ),
    ] {
        let ran = edgelat(arguments).status(2);
        assert_eq!(ran.stderr(), answer);
        assert_eq!(ran.stdout(), "");
    }
}

#[test]
fn a_bad_pattern_is_wrong_usage_before_anything_is_done() {
    edgelat(&["watch", "-p", "1", "+0x1139"]).status(2).says("is an address without a build-id");
    edgelat(&["functions", "/bin/sh", "libc.so:"]).status(2).says("has no function after its colon");
}

#[test]
fn output_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none() {
    use std::process::{Command, Stdio};
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_edgelat")).arg("--help").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("cannot write to standard output: No space left")
    );

    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_edgelat"))
        .arg("--help")
        .stdout(Stdio::from(writer))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
}
