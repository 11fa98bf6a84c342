//! Permitted dependencies between the crates of this project: the compiler enforces separation,
//! this test the list of permitted uses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crates that each part may depend on. A crate that is not listed is a program that combines
/// parts.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("edgelat-histogram", &[]),
    ("edgelat-sites", &[]),
    ("edgelat-image", &["edgelat-sites"]),
    ("edgelat-wire", &[]),
    ("edgelat-spool", &["edgelat-histogram", "edgelat-wire"]),
    ("edgelat-export", &["edgelat-histogram", "edgelat-spool", "edgelat-wire"]),
    ("edgelat-upload", &["edgelat-histogram", "edgelat-spool", "edgelat-wire"]),
    ("edgelat-bpf", &["edgelat-histogram"]),
    // It has privilege, and parses no data that a target controls.
    ("edgelat-guard", &["edgelat-bpf"]),
];

/// The crates of this project with their dependencies among each other, without those of tests.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let cargo = cargo.args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"]);
    let output = cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = tree["packages"].as_array().unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let own: BTreeSet<String> = packages.iter().map(name).collect();
    let of = |package: &Value| {
        let built_from =
            package["dependencies"].as_array().unwrap().iter().filter(|one| one["kind"].is_null());
        (name(package), built_from.map(name).filter(|one| own.contains(one)).collect())
    };
    packages.iter().map(of).collect()
}

#[test]
fn each_part_knows_no_other_than_it_may() {
    let known = known();
    for (part, may_know) in MAY_KNOW {
        let found = known.get(*part).unwrap_or_else(|| panic!("there is no crate {part}"));
        let wanted: BTreeSet<String> = may_know.iter().map(|one| (*one).to_owned()).collect();
        assert_eq!(*found, wanted, "{part}: a wall has a new door, or one that nobody needs any more");
    }
}
