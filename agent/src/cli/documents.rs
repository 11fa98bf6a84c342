//! Tests only: what the documents say is what the program does.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use super::{exit::Exit, parse::parse};
use crate::collector::report::{
    Ended, FunctionReport, ProcessReport, PythonReport, RefusedReport, Report, SCHEMA, TargetReport,
};

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All keys of objects anywhere in a value.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                found.insert(key.clone());
                keys(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

/// The names between backticks in the first column of the tables.
fn documented(text: &str) -> BTreeSet<String> {
    let first_columns = text.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    first_columns
        .flat_map(|column| column.split(['`', ',', ' ']))
        .filter(|name| !name.is_empty())
        .map(str::to_string)
        .collect()
}

fn full_report() -> Report {
    Report {
        schema: SCHEMA,
        seq: 0,
        elapsed_ns: 0,
        last: false,
        ended: None,
        target: TargetReport { pid: 1, start: 1, exe: "/f".to_string(), build_id: None },
        route: "single",
        returns: "ret",
        sites: 2,
        attach_ns: 1,
        detach_ns: None,
        processes: vec![ProcessReport { pid: 1, covered_since_ns: 0, ended_ns: None }],
        functions: vec![FunctionReport::new("f".to_string(), "/f".to_string())],
        python: Some(PythonReport {
            version: "3.13".to_string(),
            every_call: true,
            counts_only: false,
            calls: 0,
        }),
        cost_percent: None,
        unattributed_hits: 0,
        refused: vec![RefusedReport {
            name: "g".to_string(),
            image: "/f".to_string(),
            reason: "empty".to_string(),
            text: "it is".to_string(),
        }],
    }
}

#[test]
fn every_field_of_watch_json_is_documented_and_no_other() {
    let mut written = BTreeSet::new();
    keys(&serde_json::to_value(full_report()).unwrap(), &mut written);
    assert_eq!(documented(&document("docs/WATCH-JSON.md")), written);
}

#[test]
fn every_end_of_watch_is_documented() {
    let text = document("docs/WATCH-JSON.md");
    for ended in [Ended::Duration, Ended::Signal, Ended::Target, Ended::Replaced, Ended::Output] {
        let word = serde_json::to_value(ended).unwrap();
        assert!(text.contains(&format!("`{}` (", word.as_str().unwrap())), "{word}");
    }
    assert!(text.contains(SCHEMA));
}

#[test]
fn the_readme_lists_the_exit_statuses() {
    let text = document("README.md");
    for (exit, meaning) in Exit::ALL {
        let row = format!("| {} | {meaning} |", exit.status());
        assert!(text.contains(&row), "{row}");
    }
}

#[test]
fn the_command_lines_in_the_readme_are_understood() {
    let text = document("README.md");
    let lines = text.lines().filter_map(|line| line.trim_start_matches("$ ").strip_prefix("edgelat "));
    // Comments after two spaces, quotes as a shell would take them away.
    let lines: Vec<&str> = lines.filter_map(|line| line.split("  ").next()).collect();
    assert!(lines.len() >= 5, "{lines:?}");
    for line in lines {
        let words = line.split(' ').map(|word| word.trim_matches('\'').into());
        if let Err(error) = parse(words) {
            panic!("edgelat {line}: {error}");
        }
    }
}
