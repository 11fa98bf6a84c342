//! `edgelat check`: on any machine, every finding is complete and matches the exit status.

use super::shell::{Ran, edgelat, edgelat_as_nobody};

/// Reads the findings and returns the exit status that they imply.
fn verdict(ran: &Ran) -> i32 {
    let findings = ran.json();
    let mut status = 0;
    for finding in &findings {
        let text = |key: &str| finding[key].as_str().unwrap_or_default().to_string();
        assert!(!text("name").is_empty() && !text("detail").is_empty(), "{finding}");
        match text("state").as_str() {
            "ok" => assert!(finding["next"].is_null(), "{finding}"),
            state => {
                assert!(!text("next").is_empty(), "what is not well says what to do: {finding}");
                status = match (state, status) {
                    ("missing", _) | (_, 4) => 4,
                    ("not-permitted", _) => 3,
                    ("warning", status) => status,
                    _ => panic!("{finding}"),
                };
            }
        }
    }
    let names: Vec<_> = findings.iter().map(|finding| finding["name"].as_str().unwrap()).collect();
    for name in [
        "kernel",
        "btf",
        "uprobes",
        "perf-events",
        "tracefs",
        "capabilities",
        "object",
        "programs",
        "lockdown",
        "seccomp",
        "landlock",
        "clock",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    for route in ["route-uprobe-multi", "route-tracefs", "route-single"] {
        assert!(names.contains(&route), "{route}: {names:?}");
    }
    status
}

#[test]
fn the_exit_status_is_that_of_the_worst_finding() {
    let ran = edgelat(&["check", "--json"]).quietly();
    let status = verdict(&ran);
    ran.status(status);
}

#[test]
fn without_rights_it_says_which_are_missing() {
    let ran = edgelat_as_nobody(&["check", "--json"]).quietly();
    let status = verdict(&ran);
    assert_ne!(status, 0);
    let findings = ran.json();
    let capabilities = findings.iter().find(|finding| finding["name"] == "capabilities").unwrap();
    assert_eq!(capabilities["state"], "not-permitted");
    assert!(capabilities["next"].as_str().unwrap().contains("CAP_BPF"));
    ran.status(status);
}

#[test]
fn the_table_has_a_line_for_each_finding_and_a_conclusion() {
    let ran = edgelat(&["check"]).quietly();
    let findings = edgelat(&["check", "--json"]).json();
    let table = ran.stdout();
    for finding in findings {
        assert!(table.lines().any(|line| line.starts_with(finding["name"].as_str().unwrap())), "{finding}");
    }
    assert!(table.trim_end().lines().last().unwrap().starts_with("This machine can"), "{table}");
    assert!(!table.contains('\x1b'), "colours are for terminals");
}
