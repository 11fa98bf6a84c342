//! `functions` and `check`, for people and for programs.

use edgelat_tests::machine::Turn;
use edgelat_tests::{Target, edgelat, need_root, target};

#[test]
fn functions_lists_an_image_as_json() {
    need_root();
    let list = crate::shapes::listed("plain");
    for name in ["add", "work", "hold", "descend", "even", "odd"] {
        let (_, probeable, reason) = list.iter().find(|(n, ..)| n == name).unwrap();
        assert!(probeable, "{name}: {reason:?}");
    }
    let path = target("plain");
    let one = edgelat(&["functions", path.to_str().unwrap(), "des*", "--json"]).objects();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0]["name"], "descend");
}

#[test]
fn functions_lists_a_process_with_its_libraries() {
    let _turn = Turn::shared();
    let target = Target::start("host", &[]);
    let objects = edgelat(&["functions", &target.pid().to_string(), "*_work", "--json"]).objects();
    let names: Vec<_> = objects.iter().map(|o| o["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"shared_work") && names.contains(&"plugin_work"), "{names:?}");
}

#[test]
fn functions_of_cpp_and_rust_are_demangled() {
    need_root();
    let list = crate::shapes::listed("throws");
    assert!(list.iter().any(|(n, p, _)| n.starts_with("throws::Catcher::run") && *p), "{list:?}");
    let list = crate::shapes::listed("unwinds");
    assert!(list.iter().any(|(n, p, _)| n == "unwinds::passes" && *p), "{list:?}");
}

#[test]
fn functions_for_people_fits_a_pipe_that_closes_early() {
    need_root();
    let mut command = std::process::Command::new("bash");
    let line = format!(
        "{} functions {} | head -n 5; echo status ${{PIPESTATUS[0]}}",
        edgelat_tests::session::binary().display(),
        target("hundred-thousand.so").display()
    );
    command.args(["-c", &line]);
    let outcome = edgelat_tests::session::run(command);
    assert!(!outcome.stderr.contains("panicked"), "{outcome:#?}");
    assert_eq!(outcome.stdout.lines().last(), Some("status 0"), "{outcome:#?}");
}

#[test]
fn check_says_that_this_machine_can() {
    need_root();
    let outcome = edgelat(&["check"]);
    assert!(outcome.status.success(), "{outcome:#?}");
    let objects = edgelat(&["check", "--json"]).objects();
    assert!(!objects.is_empty());
}

#[test]
fn help_and_version_are_answered() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["watch", "--help"],
        &["functions", "--help"],
        &["check", "--help"],
    ] {
        let outcome = edgelat(arguments);
        assert!(outcome.status.success() && !outcome.stdout.is_empty(), "{arguments:?}: {outcome:#?}");
    }
}

/// The table for people ends with the same figures as the objects for programs.
#[test]
fn a_watch_for_people_shows_the_function_and_its_summary() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "0"]);
    target.go();
    let outcome = edgelat(&["watch", "-p", &target.pid().to_string(), "--duration", "0.5", "work"]);
    assert!(outcome.status.success(), "{outcome:#?}");
    assert!(outcome.stdout.contains("work") && outcome.stdout.contains("p99"), "{outcome:#?}");
    assert!(!outcome.stdout.contains('\x1b'), "no colours outside of a terminal: {outcome:#?}");
    target.stop();
}
