//! Every call is counted once, with any compiler.

use edgelat_tests::machine::Turn;
use edgelat_tests::{Oracle, Report, Session, Target, amount};

/// Watches a target from before its first call to its end, and compares all counts.
pub(crate) fn exact(name: &str, arguments: &[&str], functions: &[&str]) -> (Report, Oracle) {
    let mut target = Target::start(name, arguments);
    let session = Session::on(&target, functions);
    target.go();
    let oracle = target.end();
    let report = session.end();
    report.agrees_with(&oracle);
    (report, oracle)
}

const PLAIN: &[&str] = &["add", "work", "hold", "descend", "even", "odd"];

fn plain(name: &str) {
    let _turn = Turn::shared();
    let (report, _) = exact(name, &["--calls", "1000", "--threads", "2"], PLAIN);
    assert_eq!(report.functions.len(), PLAIN.len());
    assert!(report.functions.iter().all(|f| f.in_flight == 0 && f.all_lost() == 0), "{report:#?}");
}

macro_rules! plain_builds {
    ($($test:ident: $target:literal,)*) => {
        $(#[test] fn $test() { plain($target) })*
    };
}

plain_builds! {
    counts_are_exact_in_a_default_build: "plain",
    counts_are_exact_in_an_unoptimised_build: "plain-O0",
    counts_are_exact_in_a_static_program: "plain-static",
    counts_are_exact_in_a_static_pie: "plain-static-pie",
    counts_are_exact_with_gcc_pie_cf: "plain-gcc-pie-cf",
    counts_are_exact_with_gcc_pie_nocf: "plain-gcc-pie-nocf",
    counts_are_exact_with_gcc_nopie_cf: "plain-gcc-nopie-cf",
    counts_are_exact_with_gcc_nopie_nocf: "plain-gcc-nopie-nocf",
    counts_are_exact_with_clang_pie_cf: "plain-clang-pie-cf",
    counts_are_exact_with_clang_pie_nocf: "plain-clang-pie-nocf",
    counts_are_exact_with_clang_nopie_cf: "plain-clang-nopie-cf",
    counts_are_exact_with_clang_nopie_nocf: "plain-clang-nopie-nocf",
}

/// 10 million calls in the long run.
#[test]
fn counts_are_exact_over_many_calls_on_two_threads() {
    let _turn = if edgelat_tests::soaking() { Turn::alone() } else { Turn::shared() };
    let turns = amount(25, 5000).to_string();
    let (report, oracle) =
        exact("tight", &["--threads", "2", "--batch", "1000", "--calls", &turns], &["tick"]);
    let tick = report.function("tick");
    assert_eq!(tick.entries, amount(50_000, 10_000_000));
    assert_eq!((tick.in_flight, tick.all_lost()), (0, 0));
    println!("figure: {} calls on 2 threads, {} counted", oracle.function("tick").calls, tick.entries);
}

#[test]
fn counts_are_exact_when_only_one_function_of_several_is_watched() {
    let _turn = Turn::shared();
    exact("plain", &["--calls", "300"], &["even"]);
}

#[test]
fn counts_are_exact_on_sixteen_threads() {
    let _turn = Turn::shared();
    exact("plain", &["--calls", "200", "--threads", "16"], &["add", "work"]);
}

#[test]
fn a_rust_program_is_counted_under_its_demangled_names() {
    let _turn = Turn::shared();
    let functions = ["unwinds::catches", "<unwinds::Scaled<u64> as unwinds::Measure>::measure"];
    exact("unwinds", &["--calls", "1000"], &functions);
}

/// Every report fulfils the identity, not only the last one.
#[test]
fn reports_under_load_add_up() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "0", "--threads", "2"]);
    let session = Session::with(&target, &["--interval", "0.1"], &["add", "work", "hold"]);
    target.go();
    let report = session.wait_for(|report| report.seq >= 10);
    assert!(report.function("add").entries > 0);
    let oracle = target.stop();
    session.end().agrees_with(&oracle);
}
