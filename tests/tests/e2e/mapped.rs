//! A process that maps a great many files holds up nobody, itself included.

use std::path::Path;
use std::time::{Duration, Instant};

use edgelat_tests::machine::Turn;
use edgelat_tests::service::measure;
use edgelat_tests::{Place, Session, Target, edgelat, target};
use nix::sys::signal::Signal;

use crate::service::{exe, start};

/// Far above what anything here takes, and far below what took as long as the square of the files.
const SOON: Duration = Duration::from_secs(10);

/// A process with as many files in it, seen to have them.
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
    // A name in the wrong image, a pattern for all of them, and one for none.
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
