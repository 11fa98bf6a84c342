//! A process that maps a great many files delays nothing, itself included; later mappings with the
//! name of a measured file are measured too, or reported as not measured.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edgelat_tests::machine::{Turn, eventually};
use edgelat_tests::service::measure;
use edgelat_tests::{Place, Session, Target, edgelat, patience, target};
use nix::sys::signal::Signal;

use crate::hostile::host;
use crate::service::{exe, start};

/// Far above any duration here, and far below a time quadratic in the files.
const SOON: Duration = Duration::from_secs(30);

/// A process with this many mapped files, confirmed.
fn crowd(program: &Path) -> Target {
    let mut target = start(program, &["--calls", "0", "--files", "20000"]);
    target.go();
    while target.tell().function("add").calls == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    target
}

#[test]
fn a_function_is_found_among_twenty_thousand_files() {
    let _turn = Turn::shared();
    let mut target = crowd(&target("maps"));
    let begun = Instant::now();
    let session = Session::on(&target, &["add", "libc.so.*:usleep"]);
    assert!(begun.elapsed() < SOON, "{:?} to be armed", begun.elapsed());
    session.wait_for(|report| report.function("add").exits > 10 && report.functions.len() > 1);
    session.interrupt();
    // A name in the wrong image, a pattern for all, and a pattern without a match.
    let pid = target.pid().to_string();
    for (function, words) in
        [("no_such", "no_such"), ("*mapped-*.so:x", "20000"), ("absent.so:x", "never mapped the library")]
    {
        let begun = Instant::now();
        let outcome = edgelat(&["watch", "-p", &pid, "--duration", "1", function]);
        outcome.refused(6, &[words]);
        assert!(begun.elapsed() < SOON, "{:?} for {function}", begun.elapsed());
    }
    assert!(target.is_alive());
    target.stop();
}

#[test]
fn other_targets_go_on_beside_a_process_with_twenty_thousand_files() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (plain, maps) = (place.program("plain", "plain"), place.program("maps", "maps"));
    let crowded = measure("crowd", &exe(&maps), &["add", "absent.so:x"], "");
    place.configure("", &[crowded, measure("it", &exe(&plain), &["add"], "")]);
    let mut other = start(&plain, &["--calls", "0"]);
    let pid = other.pid();
    other.go();
    let service = place.start();
    service.counts(pid);
    let mut target = crowd(&maps);
    let (begun, mut seen) = (Instant::now(), service.count());
    while begun.elapsed() < SOON {
        let asked = Instant::now();
        service.wait_after(seen, |told| told.is(pid, "measured"));
        assert!(asked.elapsed() < 2 * SOON, "no report for {:?}", asked.elapsed());
        seen = service.count();
    }
    service.counts(target.pid());
    let begun = Instant::now();
    service.end_by(Signal::SIGTERM);
    assert!(begun.elapsed() < SOON / 2, "it ends after {:?}", begun.elapsed());
    assert!(target.is_alive());
    target.stop();
    other.stop();
}

/// A program with its plug-in and, beside it, another plug-in of the same name.
fn with_two_plugins(place: &Place) -> (PathBuf, PathBuf) {
    let (program, first) = host(place);
    let second = place.path().join("second");
    std::fs::create_dir(&second).unwrap();
    std::fs::copy(&first, second.join("plugin.so")).unwrap();
    (program, second.join("plugin.so"))
}

/// As in a program that loads a new version of a plug-in while the old one is in use.
#[test]
fn a_second_library_of_the_same_name_is_covered_by_a_service_when_it_comes() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (program, second) = with_two_plugins(&place);
    place.configure("", &[measure("it", &exe(&program), &["plugin.so:plugin_work"], "")]);
    let mut target = start(&program, &["--calls", "1000", "--second", "400"]);
    let pid = target.pid();
    let service = place.start();
    service.wait_for(|told| told.is(pid, "measured"));
    target.go();
    target.wait_for("second");
    let of_second = |function: &&edgelat_tests::Function| Path::new(&function.image) == second;
    service.wait_for(|told| {
        told.report
            .as_ref()
            .is_some_and(|report| report.functions.iter().any(|function| of_second(&function)))
    });
    target.rest();
    target.go();
    let oracle = target.end();
    oracle.assert_right();
    let ended = service.ends(pid);
    let rows = &ended.report().functions;
    assert_eq!(rows.len(), 2, "{rows:#?}");
    let (second, first) =
        (rows.iter().find(of_second).unwrap(), rows.iter().find(|row| !of_second(row)).unwrap());
    for (row, name) in [(first, "plugin_work"), (second, "second_work")] {
        let truth = oracle.function(name);
        assert_eq!((row.entries, row.exits), (truth.calls, truth.completed), "{row:#?}");
    }
}

/// By then its guard has given up the rights that a further plan would need.
#[test]
fn a_second_library_of_the_same_name_is_named_by_watch_when_it_comes() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (program, second) = with_two_plugins(&place);
    let mut target = start(&program, &["--calls", "1000", "--second", "400"]);
    let session = Session::with(&target, &["--interval", "0.1"], &["plugin.so:plugin_work"]);
    target.go();
    target.wait_for("second");
    let said = || session.stderr().matches(&format!("{} was mapped after", second.display())).count();
    assert!(eventually(patience(), || said() > 0), "{}", session.stderr());
    target.rest();
    target.go();
    let oracle = target.end();
    assert_eq!(said(), 1, "{}", session.stderr());
    let report = session.end();
    let (row, truth) = (report.function("plugin_work"), oracle.function("plugin_work"));
    assert_eq!((row.entries, row.exits), (truth.calls, truth.completed), "{row:#?}");
}
