//! The interpreter determines the visible calls of a Python program; incomplete figures are marked.

use std::time::Duration;

use edgelat_tests::machine::{Turn, eventually};
use edgelat_tests::service::measure;
use edgelat_tests::{Oracle, Place, Report, Session, Target, edgelat, patience};
use serde_json::Value;

use crate::python::{script as path_of, start, under};

/// A script under an interpreter of tests/toolchains.txt, with its options and an environment.
fn python(version: &str, options: &str, environment: &[(&str, &str)], script: &[&str]) -> Target {
    let mut command = under(version, &path_of(script[0]));
    command.env("PYTHON_OPTIONS", options).envs(environment.iter().copied());
    start(command, false, &script[1..])
}

const PERF: &[(&str, &str)] = &[("PYTHONPERFSUPPORT", "1")];

/// Functions of `forms.py` that are measured, and one that it lacks.
const FORMS: &[&str] = &["py:forms.py:*", "py:forms.py:nowhere"];

fn forms(version: &str, options: &str, environment: &[(&str, &str)], more: &[&str]) -> (Report, Oracle) {
    let script = [&["forms.py", "--calls", "300"], more].concat();
    let mut target = python(version, options, environment, &script);
    let session = Session::with(&target, &["--no-bias"], FORMS);
    target.go();
    let oracle = target.end();
    (session.end(), oracle)
}

fn partial(report: &Report, name: &str) -> Option<bool> {
    let functions = report.value["functions"].as_array().unwrap();
    functions.iter().find(|function| function["name"] == name).map(|function| function["partial"] == true)
}

/// Unmarked figures are complete, for every form of a call. Returns the marked functions.
#[track_caller]
fn whole_or_marked((report, oracle): &(Report, Oracle)) -> Vec<&str> {
    let mut marked = Vec::new();
    for truth in &oracle.functions {
        let seen = report.functions.iter().find(|function| function.name == truth.name);
        let seen = seen.map_or(0, |function| function.entries);
        match partial(report, &truth.name) {
            Some(false) => assert_eq!(seen, truth.calls, "{truth:#?} {:#?}", report.value["python"]),
            Some(true) => marked.push(&*truth.name),
            // It has a line nevertheless: below.
            None => assert_eq!(report.value["python"]["every_call"], false, "{truth:#?}"),
        }
    }
    let missing = report.value["python"]["not_called"].as_array().unwrap();
    assert_eq!(missing, &["py:forms.py:nowhere"]);
    marked
}

#[test]
fn every_form_of_a_call_is_counted_or_its_function_is_marked() {
    let _turn = Turn::shared();
    for (version, environment, option, bypassing) in [
        ("3.11", &[][..], "--hook", &["Made.__getitem__"][..]),
        ("3.13", PERF, "", &["Made.__init__", "Defaulted.__init__"]),
        ("3.14", PERF, "", &[]),
        ("3.15", PERF, "", &[]),
    ] {
        let found = forms(version, "", environment, &[option]);
        assert_eq!(found.0.value["python"]["every_call"], true, "{version}");
        let mut marked = whole_or_marked(&found);
        marked.sort_by_key(|name| bypassing.iter().position(|other| other == name));
        assert_eq!(marked, bypassing, "{version}");
        for name in &bypassing[..bypassing.len().min(1)] {
            let (seen, truth) = (found.0.function(name), found.1.function(name));
            assert!(seen.entries < truth.calls / 2, "{version}: {seen:#?}");
        }
    }
}

/// `-E` and `-I` ignore the environment; `-X perf_jit` is a separate option; and the options at the
/// start say nothing about later requests.
#[test]
fn what_the_interpreter_does_is_believed_and_not_what_it_was_asked_for() {
    let _turn = Turn::shared();
    for (version, options, environment, every) in
        [("3.13", "-E -B", PERF, false), ("3.13", "-X perf_jit", &[], true), ("3.11", "", PERF, false)]
    {
        let found = forms(version, options, environment, &[]);
        assert_eq!(found.0.value["python"]["every_call"], every, "{version} {options}");
        let marked = whole_or_marked(&found);
        assert_eq!(marked.contains(&"mapped"), !every, "{version} {options}: {marked:?}");
    }
}

#[test]
fn a_second_interpreter_that_hides_calls_makes_all_figures_a_part() {
    let _turn = Turn::shared();
    for (version, ask) in [("3.13", false), ("3.14", true)] {
        let more = if ask { &["--ask"][..] } else { &[] };
        let mut target = python(version, "", PERF, &[&["interpreters.py"], more].concat());
        let pid = target.pid().to_string();
        let functions = ["py:interpreters.py:first", "py:second"];
        let session = Session::with(&target, &["--no-bias", "--interval", "0.1"], &functions);
        let begin = session.wait_for(|_| true);
        assert_eq!(begin.value["python"]["every_call"], true, "{version}");
        target.go();
        target.wait_for("made");
        let counted = |report: &Report| {
            let python = &report.value["python"];
            python["interpreters"] == 2 && python["interpreters_from_c"] == u32::from(!ask)
        };
        session.wait_for(counted);
        if !ask {
            session.wait_for(|report| report.value["python"]["every_call"] == false);
            let told =
                edgelat(&["check", "-p", &pid]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(told.contains("in 1 of its 2 interpreters") && told.contains("docs/PYTHON.md"), "{told}");
        }
        target.go();
        let oracle = target.end();
        let report = session.end();
        assert_eq!(report.value["python"]["every_call"], ask, "{version}");
        assert_eq!(
            (report.function("first").entries, partial(&report, "first")),
            (oracle.function("first").calls, Some(!ask))
        );
        match ask {
            true => assert_eq!(report.function("second").entries, oracle.function("second").calls),
            false => assert_eq!(report.value["python"]["not_called"], serde_json::json!(["py:second"])),
        }
    }
}

/// In the table, in the metrics, and in the spool.
#[test]
fn every_output_says_that_figures_are_of_a_part() {
    let _turn = Turn::shared();
    let place = Place::new();
    let mut target = python("3.13", "", &[], &["forms.py", "--calls", "300", "--stay"]);
    let pid = target.pid();
    place.configure("", &[measure("it", &format!("pid = {pid}"), &["py:mapped", "py:nowhere"], "")]);
    let service = place.start();
    service.says(&format!("measuring process {pid}"));
    target.go();
    service.wait_for(|told| told.is(pid, "measured") && told.entries() >= 300);
    let file = place.path().join("edgelat.prom");
    let metrics = || {
        place.edgelat(&["metrics", "--textfile", file.to_str().unwrap()]);
        std::fs::read_to_string(&file).unwrap_or_default()
    };
    let said = || {
        let text = metrics();
        let has =
            |begin: &str, end: &str| text.lines().any(|line| line.starts_with(begin) && line.ends_with(end));
        has("edgelat_function_partial{target=\"it\",function=\"mapped\"", " 1")
            && has("edgelat_target_uncalled_names", " 1")
    };
    assert!(eventually(patience(), said), "{}", metrics());
    service.end();
    let exported: Vec<Value> = place.edgelat(&["spool", "export"]).objects();
    let mut functions = exported.iter().flat_map(|interval| interval["functions"].as_array().unwrap());
    assert!(
        functions.any(|function| function["function"] == "mapped" && function["partial"] == true),
        "{exported:#?}"
    );
    // The output for people too.
    let outcome = edgelat(&[
        "watch",
        "--no-bias",
        "--duration",
        "0.5",
        "-p",
        &pid.to_string(),
        "py:mapped",
        "py:nowhere",
    ]);
    for words in ["mapped %", "% only a part of the calls is seen", "py:nowhere: no call"] {
        assert!(outcome.stdout.contains(words), "{words}: {outcome:#?}");
    }
    assert!(outcome.took < Duration::from_secs(20));
    target.kill();
}
