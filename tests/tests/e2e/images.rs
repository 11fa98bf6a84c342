//! Functions are found in all places with symbols: libraries, debug files, MiniDebugInfo, the
//! dynamic segment alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgelat_tests::machine::Turn;
use edgelat_tests::session::run;
use edgelat_tests::{Session, Target, TempDir, edgelat, target};

use crate::counts::exact;

/// The build-id of `plain-stripped`, as the Makefile of the targets sets it: "stripped", and a one.
const STRIPPED: &str = "737472697070656400000001";

/// Puts the debug file of `plain-stripped` at its place in a directory of debug files.
fn debug_file(directory: &Path) -> PathBuf {
    let folder = directory.join(".build-id").join(&STRIPPED[..2]);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{}.debug", &STRIPPED[2..]));
    fs::copy(target("plain-stripped.debug"), &path).unwrap();
    path
}

#[test]
fn a_function_of_a_library_opened_at_run_time_is_counted() {
    let _turn = Turn::shared();
    exact("host", &["--calls", "500"], &["plugin.so:plugin_work", "plugin.so:plugin_more"]);
}

#[test]
fn a_function_of_a_linked_library_is_counted() {
    let _turn = Turn::shared();
    exact("host", &["--calls", "500"], &["libshared.so:shared_work"]);
}

/// Each time at another address.
#[test]
fn a_library_that_comes_and_goes_is_counted_each_time() {
    let _turn = Turn::shared();
    exact("host", &["--calls", "500", "--reopen", "50"], &["plugin.so:plugin_work"]);
}

/// If a program knows its function by the address alone, a library at another address is learned
/// again, and hits in between are reported: each hit is in exactly one figure.
fn comes_and_goes(route: &str) {
    let _turn = Turn::shared();
    let mut target = Target::start("host", &["--calls", "1000", "--reopen", "250"]);
    let session = Session::with(&target, &["--route", route], &["plugin.so:plugin_work"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    let (function, truth) = (report.function("plugin_work"), oracle.function("plugin_work"));
    let hits = function.entries + function.exits + function.unmatched_exits + report.unattributed_hits;
    assert_eq!(hits, truth.calls + truth.completed, "{report:#?}");
    // The first quarter of the calls is at the known address; the share of the others depends on
    // how soon the agent runs.
    assert!(function.exits > truth.calls / 4, "the new address is learnt: {report:#?}");
}

#[test]
fn a_library_that_comes_and_goes_leaves_nothing_untold_by_tracefs() {
    comes_and_goes("tracefs");
}

#[test]
fn a_library_that_comes_and_goes_leaves_nothing_untold_by_single_events() {
    comes_and_goes("single");
}

fn mapped_twice(route: &str) {
    let _turn = Turn::shared();
    let mut target = Target::start("host", &["--calls", "500", "--twin", "1"]);
    let session = Session::with(&target, &["--route", route], &["plugin.so:plugin_work"]);
    target.go();
    let oracle = target.end();
    session.end().agrees_with(&oracle);
}

#[test]
fn a_library_that_is_mapped_twice_is_counted_in_both_places() {
    mapped_twice("auto");
}

#[test]
fn a_library_that_is_mapped_twice_is_counted_in_both_places_by_tracefs() {
    mapped_twice("tracefs");
}

#[test]
fn globs_choose_several_functions() {
    let _turn = Turn::shared();
    let (report, _) = exact("host", &["--calls", "100"], &["plugin.so:plugin_*"]);
    assert_eq!(report.functions.len(), 2);
    assert!(report.functions.iter().all(|f| f.image.ends_with("plugin.so")), "{report:#?}");
}

/// libc's own functions, under a target that does not count them: the identity must hold.
#[test]
fn functions_of_libc_add_up() {
    let _turn = Turn::shared();
    let mut target = Target::start("timed", &["--calls", "100", "--room", "1000"]);
    let session = Session::on(&target, &["libc.so.6:nanosleep", "sleeps"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    let sleeps = report.function("sleeps");
    assert_eq!(sleeps.exits, oracle.function("sleeps").completed);
    let nanosleep = report.functions.iter().find(|f| f.name.contains("nanosleep")).unwrap();
    assert_eq!(nanosleep.exits, sleeps.exits, "one sleep calls nanosleep once: {report:#?}");
}

#[test]
fn a_stripped_program_is_read_through_its_debug_file() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    debug_file(folder.path());
    let mut target = Target::start("plain-stripped", &["--calls", "300"]);
    let directory = folder.path().to_str().unwrap();
    let session = Session::with(&target, &["--debug-dir", directory], &["add", "work", "descend"]);
    target.go();
    let oracle = target.end();
    session.end().agrees_with(&oracle);
}

#[test]
fn the_usual_place_of_debug_files_is_looked_at() {
    let _turn = Turn::shared();
    struct Installed(PathBuf);
    impl Drop for Installed {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
            let _ = fs::remove_dir(self.0.parent().unwrap());
        }
    }
    let _installed = Installed(debug_file(Path::new("/usr/lib/debug")));
    exact("plain-stripped", &["--calls", "300"], &["add", "work"]);
}

/// A copy of `plain-linked` in a folder, and the path of its debug file if it is at `place` below
/// the folder.
fn linked(folder: &Path, place: &str) -> (PathBuf, PathBuf) {
    let program = folder.join("plain-linked");
    fs::copy(target("plain-linked"), &program).unwrap();
    let debug_file = folder.join(place.trim_start_matches('/')).join("plain-linked.debug");
    fs::create_dir_all(debug_file.parent().unwrap()).unwrap();
    fs::copy(target("linked/plain-linked.debug"), &debug_file).unwrap();
    (program, debug_file)
}

/// Beside the program, in `.debug` next to it, and below a folder of debug files.
#[test]
fn a_stripped_program_is_read_through_the_link_to_its_debug_file() {
    let _turn = Turn::shared();
    for place in ["", ".debug", "dirs", "dirs/@"] {
        let folder = TempDir::new();
        let at = folder.path().canonicalize().unwrap();
        let (program, _) = linked(&at, &place.replace('@', at.to_str().unwrap().trim_start_matches('/')));
        let mut command = Command::new(&program);
        command.args(["--calls", "300"]);
        let mut target = Target::start_command(command);
        let directory = at.join("dirs");
        let named: &[&str] =
            if place.starts_with("dirs") { &["--debug-dir", directory.to_str().unwrap()] } else { &[] };
        let session = Session::with(&target, named, &["add", "work", "descend"]);
        target.go();
        let oracle = target.end();
        session.end().agrees_with(&oracle);
    }
}

/// With one byte more it is another file: its name is reported, in the list and for a requested
/// function. A pipe in its place blocks nothing.
#[test]
fn a_debug_file_that_is_not_the_linked_one_is_left_out_by_name() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    let (program, debug_file) = linked(folder.path(), "");
    let mut bytes = fs::read(&debug_file).unwrap();
    bytes.push(0);
    fs::write(&debug_file, bytes).unwrap();
    let listed = edgelat(&["functions", program.to_str().unwrap(), "--json"]);
    let target = Target::start_command(Command::new(&program));
    let refused = edgelat(&["watch", "-p", &target.pid().to_string(), "--duration", "1", "add"]);
    assert_eq!(refused.status.code(), Some(6), "{refused:#?}");
    for outcome in [&listed, &refused] {
        assert!(outcome.stderr.contains("plain-linked.debug"), "{outcome:#?}");
        assert!(outcome.stderr.contains("checksum"), "{outcome:#?}");
    }
    fs::remove_file(&debug_file).unwrap();
    nix::unistd::mkfifo(&debug_file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let listed = edgelat(&["functions", program.to_str().unwrap(), "--json"]);
    assert!(listed.stderr.contains("not a regular file"), "{listed:#?}");
}

#[test]
fn a_stripped_program_is_read_through_its_mini_debug_info() {
    let _turn = Turn::shared();
    exact("plain-debugdata", &["--calls", "300"], &["add", "work", "descend"]);
}

#[test]
fn a_program_without_a_section_table_is_read_through_its_dynamic_segment() {
    let _turn = Turn::shared();
    exact("plain-nosections", &["--calls", "300"], &["add", "work"]);
}

#[test]
fn a_program_without_any_symbols_says_what_is_missing() {
    let _turn = Turn::shared();
    let target = Target::start("plain-bare", &[]);
    let pid = target.pid().to_string();
    edgelat(&["watch", "-p", &pid, "add"]).refused(6, &["add"]);
}

/// Without a name, a debug file or a pack, the ranges of the unwind tables remain.
#[test]
fn a_function_without_a_name_is_measured_by_its_address() {
    let _turn = Turn::shared();
    let listed = |path: &Path, pattern: &str, name: &str| {
        let objects = edgelat(&["functions", path.to_str().unwrap(), pattern, "--json"]).objects();
        objects.into_iter().find(|function| function["name"] == name).unwrap_or_else(|| panic!("no {name}"))
    };
    let (folder, whole) = (TempDir::new(), target("plain"));
    let stripped = folder.path().join("stripped");
    let mut strip = Command::new("strip");
    strip.arg("--strip-all").arg("-o").arg(&stripped).arg(&whole);
    run(strip);
    let add = listed(&whole, "add", "add");
    let name = format!("fn_{:#x}", add["start"].as_u64().unwrap());
    assert_eq!(listed(&stripped, "fn_0x*", &name)["size"], add["size"]);

    let mut command = Command::new(&stripped);
    command.args(["--calls", "300"]);
    let mut target = Target::start_command(command);
    let session = Session::on(&target, &[&name]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    oracle.assert_right();
    let (function, truth) = (report.function(&name), oracle.function("add"));
    assert_eq!((function.entries, function.exits), (truth.calls, truth.completed), "{function:#?}");
}

/// The address form, with the build-id that it applies to.
#[test]
fn an_address_with_its_build_id_is_as_good_as_a_name() {
    let _turn = Turn::shared();
    let folder = TempDir::new();
    debug_file(folder.path());
    let path = target("plain-stripped");
    let arguments = [
        "functions",
        path.to_str().unwrap(),
        "add",
        "--json",
        "--debug-dir",
        folder.path().to_str().unwrap(),
    ];
    let objects = edgelat(&arguments).objects();
    let start = objects.iter().find(|o| o["name"] == "add").unwrap()["start"].as_u64().unwrap();

    let mut target = Target::start("plain-stripped", &["--calls", "300"]);
    let pid = target.pid().to_string();
    // Another image's build-id is refused, and so is a missing one.
    let wrong = format!("+{start:#x}@00112233445566778899");
    let outcome = edgelat(&["watch", "-p", &pid, "--duration", "1", &wrong]);
    assert!(matches!(outcome.status.code(), Some(2 | 6)), "{outcome:#?}");
    assert!(outcome.stderr.contains("build-id"), "{outcome:#?}");
    let outcome = edgelat(&["watch", "-p", &pid, "--duration", "1", &format!("+{start:#x}")]);
    assert!(matches!(outcome.status.code(), Some(2 | 6)), "{outcome:#?}");
    assert!(outcome.stderr.contains("build-id"), "{outcome:#?}");

    let outcome = edgelat(&["watch", "-p", &pid, "--duration", "0.1", &format!("+{start:#x}@{STRIPPED}")]);
    if outcome.status.code() == Some(6) {
        // Without symbols the end of the function is unknown: a refusal must say so.
        assert!(outcome.stderr.contains("end") || outcome.stderr.contains("size"), "{outcome:#?}");
        return;
    }
    let session = Session::on(&target, &[&format!("+{start:#x}@{STRIPPED}")]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    let function = &report.functions[0];
    assert_eq!(function.entries, oracle.function("add").calls, "{function:#?}");
    assert_eq!(function.exits, oracle.function("add").completed, "{function:#?}");
}

#[test]
fn a_hundred_thousand_symbols_are_listed() {
    let _turn = Turn::shared();
    let path = target("hundred-thousand.so");
    let outcome = edgelat(&["functions", path.to_str().unwrap(), "--json"]);
    assert_eq!(outcome.objects().iter().filter(|o| o["probeable"] == true).count(), 100_000);
    println!("figure: 100000 functions listed in {:.1} s", outcome.took.as_secs_f64());
    let outcome = edgelat(&["functions", path.to_str().unwrap(), "f09999?", "--json"]);
    assert_eq!(outcome.objects().len(), 10);
}
