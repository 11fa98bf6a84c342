//! Tests only: the documents describe what the program does.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use super::{exit::Exit, parse::parse};
use crate::collector::report::{
    Ended, FunctionReport, ProcessReport, PythonReport, RefusedReport, Report, SCHEMA, TargetReport,
};
use crate::config::Config;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Collects all keys of objects anywhere in a value.
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

/// Returns the names between backticks in the first column of the tables.
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
        stopped_ns: 0,
        last: false,
        ended: None,
        target: TargetReport { pid: 1, start: 1, user: 0, exe: "/f".to_string(), build_id: None },
        route: "single",
        returns: "ret",
        sites: 2,
        attach_ns: 1,
        detach_ns: None,
        processes: vec![ProcessReport { pid: 1, covered_since_ns: 0, ended_ns: None }],
        processes_left_out: 0,
        processes_not_covered: 0,
        children_missed: 0,
        children_uncovered_ns: 0,
        functions: vec![FunctionReport::new("f".to_string(), "/f".to_string())],
        python: Some(PythonReport {
            version: "3.13".to_string(),
            every_call: true,
            interpreters: Some(1),
            interpreters_from_c: Some(0),
            partial_method: None,
            not_called: Vec::new(),
            counts_only: false,
            calls: 0,
            no_room: 0,
            unreadable: 0,
            unnamed: 0,
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
fn the_module_that_shows_every_call_of_python_is_the_one_that_is_tested() {
    let module = document("tests/targets/python/every_call.py");
    assert!(document("docs/PYTHON.md").contains(&format!("```python\n{module}```\n")));
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
    // Comments follow two spaces; quotes are removed as a shell does.
    let lines: Vec<&str> = lines.filter_map(|line| line.split("  ").next()).collect();
    assert!(lines.len() >= 5, "{lines:?}");
    for line in lines {
        let words = line.split(' ').map(|word| word.trim_matches('\'').into());
        if let Err(error) = parse(words) {
            panic!("edgelat {line}: {error}");
        }
    }
}

/// Returns the keys of a configuration table, from the error about an unknown key.
fn keys_of(table: &str) -> BTreeSet<String> {
    let text = format!("{table}\nsomething_else = 1\n");
    let said = Config::parse(Path::new("f"), text.as_bytes()).unwrap_err().to_string();
    let keys =
        said.lines().find_map(|line| line.split_once("the keys are ")).unwrap_or_else(|| panic!("{said}"));
    keys.1.split(", ").map(str::to_owned).collect()
}

/// Returns the rows of the configuration page below a heading: key and default.
fn configuration_rows(heading: &str) -> Vec<(String, String)> {
    let page = document("docs/CONFIG.md");
    let (_, section) = page.split_once(heading).unwrap_or_else(|| panic!("{heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let columns: Vec<&str> = row.trim_matches('|').split(" | ").map(|column| column.trim()).collect();
        assert_eq!(columns.len(), 4, "{row}");
        (columns[0].trim_matches('`').to_owned(), columns[2].trim_matches('`').to_owned())
    })
    .collect()
}

#[test]
fn every_key_of_the_configuration_is_documented_and_no_other() {
    for table in ["[agent]", "[spool]", "[upload]", "[[target]]"] {
        let heading = &format!("\n## `{table}`\n");
        let documented: BTreeSet<String> =
            configuration_rows(heading).into_iter().map(|(key, _)| key).collect();
        assert_eq!(documented, keys_of(table));
    }
}

/// Returns the installed file, with the lines that begin with `comment` uncommented.
fn installed(comment: &str) -> String {
    let text = document("rootfs/etc/edgelat.toml");
    text.lines().filter_map(|line| line.strip_prefix(comment)).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_file_that_is_installed_says_nothing_but_the_defaults() {
    let parse = |text: &str| {
        Config::parse(Path::new("f"), text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"))
    };
    let defaults = parse("");
    assert_eq!(parse(&document("rootfs/etc/edgelat.toml")), defaults);

    // A comment has a space after its sign, a key has none.
    let keys: String = installed("#")
        .lines()
        .filter(|line| !line.starts_with(' '))
        .map(|line| format!("{line}\n"))
        .collect();
    let shown = parse(&keys);
    let least = "[[target]]\nname = \"gateway\"\nexe = \"/usr/sbin/gateway\"\nfunctions = [\"handle_*\"]\n";
    assert_eq!(shown, Config { targets: parse(least).targets, ..defaults });

    // Keys without a default, and further selectors, are indented deeper, and are valid too.
    for other in installed("#   ").lines() {
        let behind = |table: &str| keys.replacen(table, &format!("{table}{other}\n"), 1);
        let text = match other.split(' ').next() {
            Some("collector_user") => behind("[agent]\n"),
            Some("bytes_per_day") => behind("[spool]\n"),
            Some("endpoint" | "instance" | "headers_file" | "ca_file" | "proxy") => behind("[upload]\n"),
            _ => keys.replacen("exe = \"/usr/sbin/gateway\"", other, 1),
        };
        assert_ne!(text, keys, "{other}");
        parse(&text);
    }
}

#[test]
fn every_key_and_default_of_the_page_is_in_the_file_that_is_installed() {
    let text = document("rootfs/etc/edgelat.toml");
    let (agent, rest) = text.split_once("\n#[spool]\n").unwrap();
    let (spool, rest) = rest.split_once("\n#[upload]\n").unwrap();
    let (upload, target) = rest.split_once("\n#[[target]]\n").unwrap();
    let parts = [(agent, "[agent]"), (spool, "[spool]"), (upload, "[upload]"), (target, "[[target]]")];
    for (part, table) in parts {
        for (key, default) in configuration_rows(&format!("\n## `{table}`\n")) {
            let found = part.lines().any(|line| match default.starts_with("none") {
                true => line.trim_start_matches(['#', ' ']).starts_with(&format!("{key} = ")),
                false => line == format!("#{key} = {default}"),
            });
            assert!(found, "{key} = {default}");
        }
    }
}

#[test]
fn the_example_and_the_errors_of_the_page_are_those_of_the_program() {
    let page = document("docs/CONFIG.md");
    let mut blocks = page.split("\n```\n").skip(1).step_by(2);
    let example = blocks.next().unwrap();
    let config = Config::parse(Path::new("/etc/edgelat.toml"), example.as_bytes()).unwrap();
    assert_eq!(config.targets.len(), 1);

    let broken = example.replace("interval", "intervall").replace("SSL_read", "");
    let errors = Config::parse(Path::new("/etc/edgelat.toml"), broken.as_bytes()).unwrap_err().to_string();
    let said: Vec<String> = errors.lines().map(|line| format!("edgelat: {line}")).collect();
    assert_eq!(blocks.next().unwrap().lines().collect::<Vec<_>>(), said);
}

/// A collector that reaches its own limit ends alone; at the limit of the group, the kernel chooses
/// the process, and may choose the guard.
#[test]
fn the_unit_has_room_for_what_its_processes_may_take() {
    let unit = document("rootfs/systemd/edgelat.service");
    let bytes = |key: &str| {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("no {key}"));
        line.strip_suffix('M').and_then(|number| number.parse::<u64>().ok()).unwrap() << 20
    };
    let target = "[[target]]\nname = \"a\"\npid = 1\nfunctions = [\"f\"]\n";
    let maps = Config::parse(Path::new("f"), target.as_bytes()).unwrap().targets[0].max_map_bytes;
    let maps = maps * crate::config::TARGETS as u64;
    assert!(bytes("LimitDATA=") + maps <= bytes("MemoryMax="), "{maps} bytes of maps");
    // The unit only lowers the collector's own limit.
    let (_, own) = edgelat_guard::sandbox::LIMITS[3];
    assert!(bytes("LimitDATA=") <= own);
}
