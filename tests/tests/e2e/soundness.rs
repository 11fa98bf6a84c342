//! A probe changes nothing: every instruction that may have a site behaves the same with a probe
//! and without.

use std::collections::BTreeMap;

use edgelat_tests::machine::Turn;
use edgelat_tests::{Report, Session, Target, soaking};
use serde_json::Value;

/// Runs the oracle under watch by one route; checks the counts as well as the results.
fn unchanged(route: &str, times: &str, functions: &str) -> (Report, BTreeMap<String, [u64; 3]>) {
    let _turn = Turn::shared();
    let program = if soaking() { "soundness-whole" } else { "soundness" };
    let mut target = Target::start(program, &["--times", times]);
    // Some instructions fault for lack of rights or processor features, and the program continues.
    let options = ["--route", route, "--on-signal", "fatal", "--max-map-bytes", "512M"];
    let session = Session::with(&target, &options, &[functions]);
    target.go();
    let lines = target.lines.clone();
    let told = target.finished();
    let objects: Vec<Value> =
        lines.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let differences: Vec<&Value> = objects.iter().filter(|object| object.get("differs").is_some()).collect();
    assert!(
        differences.is_empty(),
        "{} differences, the first: {:#?}",
        differences.len(),
        differences.first()
    );
    assert!(target.status().success());
    let report = session.end();
    report.agrees_with(&told);
    let figure = |object: &Value, name: &str| object[name].as_u64().unwrap();
    let groups = objects.iter().filter_map(|object| {
        let figures = ["rows", "calls", "faults"].map(|name| object.get(name).and_then(Value::as_u64));
        let name = object.get("group")?.as_str()?.to_owned();
        assert_eq!(figure(object, "rows_that_differ"), 0, "{object}");
        Some((name, figures.map(Option::unwrap)))
    });
    (report, groups.collect())
}

/// The whole table in the long run, one row of each class here.
#[test]
fn no_probe_changes_what_an_instruction_does() {
    let (report, groups) = unchanged("auto", "3", "sound_[0-9]*");
    let rows: u64 = groups.values().map(|figures| figures[0]).sum();
    let calls: u64 = groups.values().map(|figures| figures[1]).sum();
    assert_eq!(report.functions.len() as u64, rows, "each row has its probes");
    assert!(rows > 1500 && groups.len() > 15, "{rows} rows in {} groups", groups.len());
    for (name, [rows, calls, faults]) in &groups {
        println!("soundness: {name}|{rows}|{calls}|{faults}|0");
    }
    println!("figure: {rows} instructions on Linux here by {}, {calls} calls, 0 differences", report.route);
}

/// Jumps, calls, returns and fills: the kernel handles them by address, which each route passes in
/// its own way.
#[test]
fn no_probe_changes_what_an_instruction_does_by_events_of_tracefs() {
    let (report, _) = unchanged("tracefs", "3", "sound_00[01]*");
    assert!(report.functions.len() > 100);
}

#[test]
fn no_probe_changes_what_an_instruction_does_by_single_events() {
    let (report, _) = unchanged("single", "3", "sound_00[01]?[05]_*");
    assert!(report.functions.len() > 20);
}
