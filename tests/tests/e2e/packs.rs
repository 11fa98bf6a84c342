//! Packs: functions of a stripped program are measured with data recorded on a machine with its
//! symbols.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgelat_tests::machine::Turn;
use edgelat_tests::{Outcome, Session, Target, TempDir, edgelat, target};

use crate::counts::exact;

/// `edgelat pack make` of functions of a target into `folder`.
fn make(folder: &TempDir, arguments: &[&str], functions: &[&str]) -> (Outcome, PathBuf) {
    let pack = folder.path().join("functions.pack");
    let words = ["pack", "make", "-o", text(&pack)];
    let outcome = edgelat(&[&words[..], arguments, functions].concat());
    (outcome, pack)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A pack of `functions` of an unstripped target, and the target stripped.
fn packed(folder: &TempDir, name: &str, functions: &[&str]) -> (PathBuf, PathBuf) {
    let (outcome, pack) = make(folder, &["--debug", text(&target(name))], functions);
    assert!(outcome.status.success(), "{outcome:#?}");
    let stripped = folder.path().join(name);
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(target(name)).status().unwrap();
    assert!(status.success());
    (pack, stripped)
}

#[test]
fn a_pack_made_of_a_debug_file_measures_the_stripped_program() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    let (debug, image) = (target("plain-stripped.debug"), target("plain-stripped"));
    let (outcome, pack) =
        make(&folder, &["--debug", text(&debug), "--image", text(&image)], &["add", "work", "descend"]);
    assert!(outcome.status.success(), "{outcome:#?}");
    assert!(fs::metadata(&pack).unwrap().len() < 300, "a pack is small");
    exact("plain-stripped", &["--calls", "300"], &["add", "work", "descend", "--pack", text(&pack)]);
}

/// The sites were found on the machine with all symbols: cold parts, jump tables and tail calls are
/// in the pack.
#[test]
fn every_shape_is_counted_in_a_stripped_program_as_in_the_unstripped_one() {
    let functions = ["compiled_*", "returns_from_cold", "jump_table", "tail_or_return", "starts_with_*"];
    let behind = ["lowers_the_stack_first", "returns_behind_branches"];
    stripped_shapes(&[&functions[..], &behind].concat(), &[], 12 + behind.len());
}

/// The pack's entry has a moved stack pointer, and a return probe must not stand there.
#[test]
fn a_return_probe_of_a_pack_stands_where_the_return_address_is() {
    stripped_shapes(&["lowers_the_stack_first", "starts_with_push"], &["--returns", "uretprobe"], 2);
}

/// At least `least` functions match the patterns.
fn stripped_shapes(functions: &[&str], options: &[&str], least: usize) {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    let (pack, stripped) = packed(&folder, "shapes", functions);
    let mut target = Target::start_command({
        let mut command = Command::new(stripped);
        command.args(["--calls", "300"]);
        command
    });
    let session = Session::with(&target, &[&["--pack", text(&pack)], options].concat(), functions);
    target.go();
    let oracle = target.end();
    let report = session.end();
    assert!(report.functions.len() >= least, "{report:#?}");
    report.agrees_with(&oracle);
}

#[test]
fn a_pack_of_another_build_is_said_to_be_that() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    let (pack, _) = packed(&folder, "plain", &["work"]);
    let target = Target::start("plain-stripped", &[]);
    let pid = target.pid().to_string();
    let watched = edgelat(&["watch", "-p", &pid, "--pack", text(&pack), "work"]);
    watched.refused(6, &["work", "the pack is for build", "this is build"]);
}

/// The same build-id does not prove the same code: the file may have been patched.
#[test]
fn a_pack_is_not_used_on_code_that_was_changed() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    let (pack, stripped) = packed(&folder, "plain", &["work"]);
    let show = edgelat(&["pack", "show", "--json", text(&pack)]).objects();
    let start = show[0]["start"].as_u64().unwrap();
    // The segments of these targets have equal file and memory offsets, up to the data segment.
    let mut bytes = fs::read(&stripped).unwrap();
    bytes[usize::try_from(start).unwrap() + 1] ^= 0x10;
    fs::write(&stripped, bytes).unwrap();
    let listed = edgelat(&["functions", "--pack", text(&pack), text(&stripped), "work"]);
    listed.refused(6, &["does not fit the code", "work"]);
}

#[test]
fn what_is_in_a_pack_can_be_seen() {
    let folder = TempDir::new();
    let (pack, _) = packed(&folder, "throws", &["*throw*"]);
    let shown = edgelat(&["pack", "show", text(&pack)]);
    assert!(shown.stdout.contains("build-id") && shown.stdout.contains("throws"), "{shown:#?}");
    let objects = edgelat(&["pack", "show", "--json", text(&pack)]).objects();
    assert!(!objects.is_empty());
    assert!(objects.iter().all(|object| object["exits"].as_u64().unwrap() > 0), "{objects:#?}");
}

#[test]
fn a_pack_that_cannot_be_made_or_read_says_why() {
    let folder = TempDir::new();
    let (plain, debug) = (target("plain"), target("plain-stripped.debug"));
    make(&folder, &["--debug", "/nowhere"], &["work"]).0.refused(7, &["/nowhere", "no such file"]);
    make(&folder, &["--debug", text(&debug)], &["work"]).0.refused(7, &["no code", "--image"]);
    make(&folder, &["--debug", text(&plain)], &["wrok"]).0.refused(6, &["wrok", "did you mean work?"]);
    make(&folder, &["--debug", text(&plain)], &["libother.so:work"]).0.refused(6, &["libother.so"]);
    make(&folder, &[], &["work"]).0.refused(2, &["--debug FILE"]);
    assert!(!folder.path().join("functions.pack").exists(), "nothing is written where something is missing");
    let unwritable = ["pack", "make", "-o", "/nowhere/a.pack", "--debug", text(&plain), "work"];
    edgelat(&unwritable).refused(1, &["/nowhere/a.pack"]);

    edgelat(&["pack", "show", text(&plain)]).refused(7, &["not a pack"]);
    edgelat(&["watch", "-p", "1", "--pack", text(&plain), "work"]).refused(7, &["not a pack"]);
    let (_, pack) = make(&folder, &["--debug", text(&plain)], &["work"]);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[20] ^= 1;
    fs::write(&pack, bytes).unwrap();
    edgelat(&["pack", "show", text(&pack)]).refused(7, &["damaged", "checksum"]);
}
