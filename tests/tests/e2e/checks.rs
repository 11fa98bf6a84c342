//! Programs that check their own results, from several compilers with many options: every function
//! that can be probed is probed, in slices, under load, and no result is wrong.

use edgelat_tests::machine::{Turn, assert_text_restored};
use edgelat_tests::{Session, Target, amount, soaking};

use crate::shapes::listed;

/// In every run: builds with nops, red zones, or unusual function starts.
const FEW: [&str; 4] =
    ["checks-gcc-O2-v3", "checks-clang-Os-v3", "checks-gcc-O2-fentry", "checks-rustc-3-v3"];

/// All builds of the long run.
fn all() -> Vec<String> {
    let mut builds = Vec::new();
    for (compiler, levels) in [
        ("gcc", &["O0", "O1", "O2", "O3", "Os"][..]),
        ("clang", &["O0", "O1", "O2", "O3", "Os", "Oz"]),
        ("rustc", &["0", "1", "2", "3", "s", "z"]),
    ] {
        for level in levels {
            let ways = match compiler {
                "gcc" => {
                    &["", "-v3", "-cf", "-patchable", "-fentry", "-frame", "-lto", "-v3-cf-patchable"][..]
                }
                "clang" => &["", "-v3", "-cf", "-patchable", "-fentry", "-frame", "-v3-cf-patchable"],
                _ => &["", "-v3", "-lto"],
            };
            builds.extend(ways.iter().map(|way| format!("checks-{compiler}-{level}{way}")));
        }
    }
    builds
        .extend(["1.19", "1.24", "1.25", "1.26", "1.27"].map(|version| format!("go/calls-{version}-plain")));
    builds
}

/// Probes each function of a build for a while; returns their number and that of the checked
/// results.
fn probed_in_slices(build: &str) -> (usize, u64) {
    let _turn = Turn::shared();
    // Names that are patterns in a request, or too long for it, are left out.
    let plain = |name: &String| name.len() < 1024 && !name.contains(['*', '?', '[', '\\', ':']);
    let names: Vec<String> = listed(build)
        .into_iter()
        .filter(|(name, probeable, _)| *probeable && (plain(name) || name.starts_with("unwinds::")))
        .map(|(name, ..)| name)
        .collect();
    assert!(names.len() > 20, "{build}: {names:?}");
    let mut target = Target::start(build, &["--calls", "0", "--threads", "2"]);
    target.go();
    for slice in names.chunks(if soaking() { 40 } else { 120 }) {
        let slice: Vec<&str> = slice.iter().map(String::as_str).collect();
        let session = Session::with(&target, &["--on-signal", "fatal", "--max-map-bytes", "64M"], &slice);
        std::thread::sleep(std::time::Duration::from_millis(amount(150, 1000)));
        session.interrupt().assert_identity();
        let told = target.tell();
        assert!(told.ok, "{build} with probes on {slice:?}: {} wrong: {}", told.wrong, told.message);
    }
    assert_text_restored(target.pid());
    let oracle = target.stop();
    let calls = oracle.functions.iter().map(|function| function.calls).sum();
    (names.len(), calls)
}

#[test]
fn programs_by_many_compilers_compute_right_results_under_probes() {
    let builds = if soaking() { all() } else { FEW.map(str::to_owned).to_vec() };
    let (mut functions, mut results) = (0, 0);
    for build in &builds {
        let (probed, checked) = probed_in_slices(build);
        (functions, results) = (functions + probed, results + checked);
    }
    println!(
        "figure: {} builds, {functions} functions probed, {results} results checked, 0 wrong",
        builds.len()
    );
}
