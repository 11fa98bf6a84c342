//! Python coroutines and generators from their first resume to their return.

use edgelat_tests::machine::Turn;
use edgelat_tests::{Function, Oracle, Report, Session, Target};

use crate::python;

const FUNCTIONS: [&str; 7] = [
    "py:awaits.py:handle",
    "py:awaits.py:request",
    "py:awaits.py:stream",
    "py:awaits.py:cancelled",
    "py:awaits.py:raises",
    "py:awaits.py:closed",
    "py:awaits.py:left",
];

fn start(version: &str, perf: bool, arguments: &[&str]) -> Target {
    python::start(python::under(version, &python::script("awaits.py")), perf, arguments)
}

fn measured(version: &str, perf: bool, arguments: &[&str], options: &[&str]) -> (Report, Oracle) {
    let mut target = start(version, perf, arguments);
    let session =
        Session::with(&target, &[&["--no-bias", "--interval", "0.1"], options].concat(), &FUNCTIONS);
    target.go();
    if arguments.contains(&"--others") {
        target.wait_for("others");
        // All were called by now, and in later reports each has released its rows.
        let after = session.wait_for(|report| report.value["python"]["calls"].as_u64() >= Some(400)).seq;
        session.wait_for(|report| report.seq > after + 2);
        target.go();
    }
    let oracle = target.end();
    let report = session.end();
    oracle.assert_right();
    assert_eq!(report.unattributed_hits, 0, "{report:#?}");
    report.functions.iter().for_each(Function::assert_identity);
    (report, oracle)
}

fn suspended_ns(report: &Report, name: &str) -> u64 {
    let functions = report.value["functions"].as_array().unwrap();
    let function = functions.iter().find(|function| function["name"] == name).unwrap();
    assert_eq!(function["await"], true);
    function["suspended_ns"].as_u64().unwrap()
}

fn near(found: u64, truth: u64) -> bool {
    (0.97..1.15).contains(&(found as f64 / truth as f64))
}

#[test]
fn an_await_lasts_from_the_first_resume_to_the_return() {
    let _turn = Turn::shared();
    for version in ["3.9", "3.13", "3.14", "3.15"] {
        let (report, oracle) = measured(version, version != "3.9", &["--calls", "30"], &[]);
        for name in ["handle", "request", "stream", "cancelled", "raises", "closed"] {
            let whole = report.function(&format!("await {name}"));
            assert_eq!((whole.entries, whole.unmatched_exits), (30, 0), "{version}: {whole:#?}");
            // From 3.13 on it is discarded without another resume, which shows at the start of the
            // next one.
            let thrown_away = if name == "closed" && version != "3.9" { 30 } else { 0 };
            assert_eq!(whole.all_lost(), thrown_away, "{version}: {whole:#?}");
            assert_eq!(whole.exits, 30 - thrown_away, "{version}: {whole:#?}");
            assert_eq!(whole.bias_ns.or(whole.probes_inside_ns), None, "not known of a whole");
        }
        let (handle, request) = (report.function("await handle"), report.function("await request"));
        assert_eq!((report.function("handle").entries, report.function("request").entries), (30, 150));
        // At least 2 ms, in which it is never suspended.
        assert!(handle.quantiles.as_ref().unwrap().min > 1_800_000, "{version}: {handle:#?}");
        assert_eq!(suspended_ns(&report, "await handle"), 0);
        for (whole, truth) in [(handle, "await handle"), (request, "await request")] {
            assert!(
                near(whole.sum_ns, oracle.function(truth).sum_ns),
                "{version}: {whole:#?} of {oracle:#?}"
            );
        }
        let suspended = suspended_ns(&report, "await request");
        assert_eq!(suspended + report.function("request").sum_ns, request.sum_ns, "nothing else is in it");
        assert!(near(suspended, oracle.function("slept").sum_ns), "{version}: {suspended} of {oracle:#?}");
    }
}

/// If a frame could end unseen, there is no figure instead of a wrong one.
#[test]
fn no_await_is_shown_where_not_every_resume_is_seen() {
    let _turn = Turn::shared();
    for version in ["3.11", "3.13"] {
        let mut target = start(version, false, &["--calls", "10"]);
        let session = Session::with(&target, &["--no-bias"], &FUNCTIONS);
        target.go();
        target.end();
        let (report, told) = session.end_with_stderr();
        assert!(told.contains("is not measured, as not every resume is seen"), "{told}");
        assert!(report.function("request").entries > 0, "{report:#?}");
        assert!(report.functions.iter().all(|function| !function.name.starts_with("await ")), "{report:#?}");
    }
}

/// Unrequested functions: one await of each stays open for good, in more functions than there are
/// rows. Requested functions: more awaits stay open than there is room for.
#[test]
fn awaits_that_stay_open_take_no_row_for_good_and_are_accounted_for() {
    let _turn = Turn::shared();
    for version in ["3.9", "3.15"] {
        let arguments = ["--calls", "20", "--others", "400", "--keep", "3000"];
        let options = ["--max-map-bytes", "2M", "--frames", "1024"];
        let (report, _) = measured(version, version != "3.9", &arguments, &options);
        let left = report.function("await left");
        assert_eq!(left.entries, 3000, "{version}: {left:#?}");
        // Up to 3.12 the interpreter resumes them once more at its end.
        let (evicted, others) = (left.lost("evicted"), left.exits + left.lost("ended_inside"));
        assert!((1..2000).contains(&evicted) && evicted + others == 3000, "{version}: {left:#?}");
        assert_eq!(left.unmatched_exits, if left.exits > 0 { evicted } else { 0 }, "{version}: {left:#?}");
        assert_eq!(report.function("await handle").exits, 20, "{version}: {report:#?}");
        assert_eq!(report.function("await request").all_lost(), 0, "{version}: {report:#?}");
    }
}
