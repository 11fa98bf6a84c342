//! Functions of a Go program that can be named, and refusals: the table that the program carries is
//! enough, however it was linked or stripped.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgelat_tests::machine::{Turn, assert_text_restored};
use edgelat_tests::session::{binary, run};
use edgelat_tests::{Session, Target, TempDir, edgelat, target};

/// Functions that `edgelat functions` lists.
fn listed(path: &Path) -> BTreeSet<String> {
    let outcome = edgelat(&["functions", path.to_str().unwrap(), "--json"]);
    outcome.objects().iter().map(|object| object["name"].as_str().unwrap().to_owned()).collect()
}

/// Go functions in the symbol table.
fn symbols(path: &Path) -> BTreeSet<String> {
    let mut command = Command::new("nm");
    command.arg("--defined-only").arg(path);
    let outcome = run(command);
    assert!(outcome.status.success(), "{outcome:#?}");
    let name = |line: &str| {
        // Address, type and a name that may have blanks.
        let (kind, name) = line.get(17..)?.split_once(' ')?;
        // Only Go's names have a package; marks such as `runtime.text` are no functions; assembly
        // has a suffix here.
        let marks = ["runtime.text", "runtime.etext", "go:buildid", "go.buildid"];
        (kind.eq_ignore_ascii_case("t") && name.contains('.') && !marks.contains(&name))
            .then(|| name.strip_suffix(".abi0").unwrap_or(name).to_owned())
    };
    outcome.stdout.lines().filter_map(name).collect()
}

/// A function that the compiler inlined into its callers is distinguished from a missing one, and
/// the callers are named in any stripped program.
#[test]
fn what_was_inlined_is_said_to_be_and_a_typing_error_is_not() {
    let _turn = Turn::shared();
    for build in ["1.19-stripped", "1.24-shipped", "1.25-pie", "1.26-stripped", "1.27-shipped", "1.27-arm64"]
    {
        let path = target(&format!("go/calls-{build}"));
        let asked = |name: &str| edgelat(&["functions", path.to_str().unwrap(), name]);
        for name in ["unicode/utf8.RuneLen", "unicode/utf8.RuneL?n"] {
            asked(name).refused(6, &["inlined", "measure one of those", "fmt.(*fmt).fmtUnicode"]);
        }
        let typed = asked("main.wrok");
        typed.refused(6, &["did you mean", "main.work"]);
        assert!(!typed.stderr.contains("inlined"), "{typed:#?}");
    }
}

/// The linker writes a centered dot as a plain one into the symbol table; up to Go 1.20 it omits
/// the types of generic functions from the table that the program keeps.
fn as_both_write_it(name: &str, version: &str) -> String {
    let name = name.replace('·', ".");
    match (version, name.split_once('['), name.rsplit_once(']')) {
        ("1.19", Some((head, _)), Some((_, tail))) => format!("{head}[...]{tail}"),
        _ => name,
    }
}

/// Every function of the unstripped twin is found in the stripped program, with any linker mode.
fn complete(version: &str) {
    let folder = TempDir::new();
    for (stripped, twin) in [("stripped", "plain"), ("shipped", "whole"), ("", "pie"), ("", "external")] {
        let path = |mode: &str| target(&format!("go/calls-{version}-{mode}"));
        let twin = path(twin);
        let stripped = if stripped.is_empty() { strip(&twin, &folder) } else { path(stripped) };
        let written = |name: &String| as_both_write_it(name, version);
        let found: BTreeSet<_> = listed(&stripped).iter().map(written).collect();
        let symbols: BTreeSet<_> = symbols(&twin);
        let symbols: BTreeSet<_> = symbols.iter().filter(|name| of_go(name)).map(written).collect();
        assert!(symbols.len() > 1000, "{} symbols", symbols.len());
        let missing: Vec<_> = symbols.difference(&found).collect();
        assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), symbols.len());
        let own = found.iter().filter(|name| name.starts_with("main.")).count();
        let expected = symbols.iter().filter(|name| name.starts_with("main.")).count();
        assert_eq!(own, expected, "functions of the program itself, none twice");
    }
}

/// A stripped copy of a program that was linked with its symbols.
fn strip(program: &Path, folder: &TempDir) -> PathBuf {
    let stripped = folder.path().join(program.file_name().unwrap());
    let mut command = Command::new("strip");
    command.arg("-o").arg(&stripped).arg(program);
    let outcome = run(command);
    assert!(outcome.status.success() && symbols(&stripped).is_empty(), "{outcome:#?}");
    stripped
}

/// Names that gcc makes (`frame_dummy.1`, `x.cold`, `x.part.0`) have a dot as well.
fn of_go(symbol: &str) -> bool {
    let suffixes = [".cold", ".part.", ".isra.", ".constprop.", ".plt"];
    !symbol.starts_with('_') && !suffixes.iter().any(|suffix| symbol.contains(suffix))
}

#[test]
fn a_stripped_program_of_go_1_19_names_all_its_functions() {
    complete("1.19");
}

#[test]
fn a_stripped_program_of_go_1_24_names_all_its_functions() {
    complete("1.24");
}

#[test]
fn a_stripped_program_of_go_1_25_names_all_its_functions() {
    complete("1.25");
}

#[test]
fn a_stripped_program_of_go_1_26_names_all_its_functions() {
    complete("1.26");
}

#[test]
fn a_stripped_program_of_go_1_27_names_all_its_functions() {
    complete("1.27");
}

fn watch(target: &Target, arguments: &[&str]) -> edgelat_tests::Outcome {
    let pid = target.pid().to_string();
    let outcome = edgelat(&[&["watch", "-p", &pid, "--duration", "1"], arguments].concat());
    assert_text_restored(target.pid());
    outcome
}

/// It leaves by a jump to the method, which can be measured.
#[test]
fn a_promoted_method_is_refused_with_the_name_of_the_method() {
    let _turn = Turn::shared();
    for version in ["1.19", "1.27"] {
        let target = Target::start(&format!("go/calls-{version}-stripped"), &[]);
        watch(&target, &["main.(*embedding).promoted"]).refused(6, &["main.(*inner).promoted"]);
    }
}

/// A return address on a stack that moves would be restored to the wrong place.
#[test]
fn uretprobes_are_refused_in_go() {
    let _turn = Turn::shared();
    for mode in ["plain", "shipped"] {
        let target = Target::start(&format!("go/calls-1.27-{mode}"), &[]);
        watch(&target, &["--returns", "uretprobe", "main.work"]).refused(5, &["uretprobe", "Go"]);
    }
}

/// Probes in it would change bytes that it checks at its start.
#[test]
fn text_that_checks_itself_is_refused_and_the_program_starts() {
    let _turn = Turn::shared();
    let target = target("go/sums-1.27-plain");
    let command = |functions: &str| {
        let mut command = Command::new(binary());
        command.env("GODEBUG", "fips140=on").args(["watch", "--json", functions, "--"]);
        command.arg(&target).args(["--at-once", "--calls", "100"]);
        command
    };
    run(command("crypto/internal/fips140/*")).refused(6, &["crypto/internal/fips140"]);
    let session = Session::start(command("main.sums"));
    let (report, oracle) = session.end_of_command();
    report.agrees_with(&oracle);
}

/// A program that unpacks itself has no text in its file for a probe.
#[test]
fn a_packed_program_is_refused() {
    let _turn = Turn::shared();
    let target = Target::start("go/calls-1.24-packed", &[]);
    watch(&target, &["main.work"]).refused(6, &["packed"]);
}
