//! A function is found by its name in the source, and two functions of one name are distinguished.

use edgelat_tests::machine::Turn;
use edgelat_tests::{Session, Target, TempDir, edgelat, target};

use crate::counts::exact;

#[test]
fn letters_beyond_ascii_literal_operators_and_lambdas_are_found_by_their_source() {
    let _turn = Turn::shared();
    let both = "größen::Maß::beide(unsigned long) const::";
    let second = format!("{both}{{lambda(unsigned long)#2}}::operator()");
    let names = [
        ["operator\"\"_parsecs", "operator\"\" _parsecs(unsigned long long)", "operator\"\"_pars*"],
        ["größen::Maß::fläche", "größen::Maß::fläche(unsigned long) const", "*::fl?che*"],
        [&*second, &format!("{second}(unsigned long) const"), &format!("{both}*#2*")],
        [
            &format!("{both}{{lambda(unsigned long)#1}}::operator()"),
            &format!("{both}{{lambda(unsigned long)#1}}::operator()(unsigned long) const"),
            &format!("{both}*#1*"),
        ],
    ];
    for form in 0..3 {
        let (report, _) =
            exact("names", &["--calls", "500", "--threads", "2"], &names.map(|names| names[form]));
        assert_eq!(report.functions.len(), 4, "{report:#?}");
    }
}

/// Measures functions of libversions.so: the target itself counts calls by version.
fn versions(name: &str, patterns: &[&str], measured: &[&str]) {
    let _turn = Turn::shared();
    let mut target = Target::start(name, &["--calls", "500"]);
    let session = Session::on(&target, patterns);
    target.go();
    let oracle = target.end();
    oracle.assert_right();
    let report = session.end();
    let names: Vec<&str> = report.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, measured, "{patterns:?}");
    for function in &report.functions {
        let truth = oracle.function(&function.name);
        assert_eq!((function.entries, function.exits), (truth.calls, truth.completed), "{function:#?}");
    }
}

#[test]
fn two_versions_of_a_function_are_two_rows_and_each_can_be_named() {
    let (old, new) = ("transform@LIB_1.0", "transform@@LIB_2.0");
    for program in ["versions", "versions-stripped"] {
        versions(program, &["libversions.so:transform"], &[old, new]);
        versions(program, &["libversions.so:transform@*"], &[old, new]);
        versions(program, &["libversions.so:transform@LIB_1.0"], &[old]);
        versions(program, &["libversions.so:transform@@LIB_2.0"], &[new]);
        versions(program, &["libversions.so:transform@LIB_2.0"], &[new]);
    }
}

#[test]
fn a_version_that_is_not_there_is_answered_with_those_that_are() {
    let library = target("libversions.so");
    let library = library.to_str().unwrap();
    for wrong in ["transform@LIB_3.0", "transform@@LIB_1.0"] {
        edgelat(&["functions", library, wrong]).refused(6, &["transform@LIB_1.0", "transform@@LIB_2.0"]);
    }
    // Two versions of one function are one function.
    for name in ["settled", "settled@LIB_1.0", "settled@@LIB_2.0"] {
        let found = edgelat(&["functions", library, name, "--json"]).objects();
        assert_eq!(found.len(), 1, "{name}: {found:#?}");
        assert_eq!(found[0]["name"], "settled");
    }
}

/// Assembly often states neither; stated facts are believed, and possible data is never probed.
#[test]
fn functions_without_a_type_or_a_size_are_found_and_counted() {
    let _turn = Turn::shared();
    let names = ["untyped_bare", "untyped_local", "untyped_sizeless"];
    let (report, _) = exact("untyped", &["--calls", "500", "--threads", "2"], &names);
    assert!(report.functions.iter().all(|function| function.in_flight == 0), "{report:#?}");
    // The glob does not take the table for probeable code.
    let (report, _) = exact("untyped", &["--calls", "500"], &["untyped_[blst]*"]);
    assert_eq!(report.functions.len(), 3, "{report:#?}");
}

#[test]
fn a_function_whose_end_is_not_told_is_refused_with_what_to_do() {
    let program = target("untyped");
    for name in ["untyped_table", "untyped_jumps"] {
        let found = edgelat(&["functions", program.to_str().unwrap(), name, "--json"]).objects();
        assert_eq!(found[0]["reason"], "unknown-end", "{found:#?}");
        assert!(found[0]["reason_text"].as_str().unwrap().contains(".size"), "{found:#?}");
    }
    // An address inside a function is no function.
    edgelat(&["functions", program.to_str().unwrap(), "even"]).refused(6, &["even"]);
}

/// No figure includes the calls of inlined copies, so their existence must be reported.
#[test]
fn copies_within_other_functions_are_said_with_their_number() {
    let _turn = Turn::shared();
    let folder = target("linked");
    for program in ["inlined", "inlined-4", "inlined-clang", "inlined-apart"] {
        let path = target(program);
        let dirs = ["--debug-dir", folder.to_str().unwrap()];
        let mut list = vec!["functions", path.to_str().unwrap(), "partly", "--json"];
        list.extend(dirs);
        assert_eq!(edgelat(&list).objects()[0]["inlined_copies"], 2, "{program}");
        list[2] = "holds_first";
        assert_eq!(edgelat(&list).objects()[0]["inlined_copies"], 0, "{program}");
        list[2] = "wholly";
        edgelat(&list).refused(6, &["inlined", "holds_first", "holds_second"]);

        let mut target = Target::start(program, &["--calls", "300"]);
        let session = Session::with(&target, &dirs, &["partly", "calls"]);
        target.go();
        let oracle = target.end();
        let report = session.end();
        report.agrees_with(&oracle);
        assert_eq!(report.function("partly").inlined_copies, Some(2), "{program}");
        assert_eq!(report.function("calls").inlined_copies, Some(0), "{program}");
    }
}

#[test]
fn copies_within_other_functions_are_said_by_whoever_shows_the_function() {
    let _turn = Turn::shared();
    let program = target("inlined");
    let listed = edgelat(&["functions", program.to_str().unwrap(), "partly"]);
    assert!(listed.stdout.contains("+2 inlined"), "{listed:#?}");
    let folder = TempDir::new();
    let pack = folder.path().join("pack");
    let packed = edgelat(&[
        "pack",
        "make",
        "-o",
        pack.to_str().unwrap(),
        "--debug",
        program.to_str().unwrap(),
        "partly",
    ]);
    assert!(packed.stderr.contains("partly: 2 copies"), "{packed:#?}");
    let target = Target::start("inlined", &[]);
    let watched = edgelat(&["watch", "-p", &target.pid().to_string(), "--duration", "0.2", "partly"]);
    assert!(watched.stderr.contains("at 2 places (inlined)"), "{watched:#?}");
    assert!(watched.stdout.contains("also inlined at 2 places"), "{watched:#?}");
}
