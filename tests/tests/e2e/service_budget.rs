//! The cost of probes for a target stays under a bound, for each target and for all together.

use std::time::Instant;

use edgelat_tests::machine::{Turn, assert_text_restored};
use edgelat_tests::service::{Told, measure};
use edgelat_tests::{Place, Report, Service, Target, soaking};
use nix::sys::signal::Signal;

use crate::service::{exe, start};

/// A target that calls its only function as fast as possible.
fn busy(place: &Place, name: &str) -> Target {
    start(&place.program("tight", name), &["--calls", "0"])
}

fn tick(told: &Told) -> u64 {
    told.report().function("tick").entries
}

/// Calls per second of a target over some time, by its own count.
fn rate(target: &mut Target) -> f64 {
    let (before, begun) = (target.tell(), Instant::now());
    std::thread::sleep(std::time::Duration::from_millis(300));
    let after = target.tell();
    (after.function("tick").calls - before.function("tick").calls) as f64 / begun.elapsed().as_secs_f64()
}

/// Waits until it is measured, and then over its budget.
#[track_caller]
fn taken_off(service: &Service, pid: i32) -> Told {
    let ended = service.ends(pid);
    assert_eq!(ended.report().ended.as_deref(), Some("budget"), "{ended:#?}");
    ended
}

#[test]
fn a_target_is_held_to_its_budget_and_the_figures_say_so() {
    let _turn = if soaking() { Turn::alone() } else { Turn::shared() };
    let place = Place::new();
    let mut target = busy(&place, "tight");
    let pid = target.pid();
    place.configure("", &[measure("it", &exe(&place.path().join("tight")), &["tick"], "max_cost = 1.0\n")]);
    target.go();
    let before = rate(&mut target);
    let service = place.start();
    let ended = taken_off(&service, pid);
    let after = rate(&mut target);
    let report = ended.report();
    let cost = report.value["cost_percent"].as_f64().unwrap();
    assert!(cost > 1.0, "{report:#?}");
    assert!(service.log().contains("more than max_cost allows"), "{}", service.log());
    // Paused is reported as paused, and not as 0 calls.
    let from = service.count();
    service.signal(Signal::SIGUSR1);
    let paused = service.wait_after(from, |told| told.is(pid, "paused"));
    assert_eq!(paused.reason.as_deref(), Some("budget"));
    assert!(paused.report.is_none(), "{paused:#?}");
    assert_text_restored(pid);

    let held = report.elapsed_ns as f64 / 1e9;
    let under = tick(&ended) as f64 / held;
    println!(
        "figure: {held:.3} s from armed to gone at {cost:.0} % of a CPU; the target's own calls a second: {before:.0} \
         before, {under:.0} under, {after:.0} after"
    );
    if soaking() {
        assert!(held < 0.5, "{held} s");
    }
    // It is retried after ten seconds, and a longer pause follows.
    let again = service.wait_after(from, |told| told.is(pid, "ended"));
    assert_eq!(again.report().ended.as_deref(), Some("budget"));
    assert_eq!(service.times("measuring process"), 2, "{}", service.log());
    service.end();
    target.stop();
}

#[test]
fn nothing_is_paused_under_a_budget_that_is_large_enough() {
    let _turn = Turn::shared();
    let place = Place::new();
    let mut target = busy(&place, "tight");
    let pid = target.pid();
    place.configure("", &[measure("it", &exe(&place.path().join("tight")), &["tick"], "")]);
    let service = place.start();
    target.go();
    for _ in 0..4 {
        service.wait_after(service.count(), |told| told.is(pid, "measured") && told.entries() > 0);
    }
    let oracle = target.stop();
    service.ends(pid).report().agrees_with(&oracle);
    assert!(service.end().iter().all(|told| told.state != "paused"));
}

/// The rest of the service's budget is too small for a function that may be watched without a
/// service.
#[test]
fn a_watch_beside_a_service_shares_its_budget_and_yields() {
    let _turn = Turn::shared();
    let place = Place::new();
    let mut busy = busy(&place, "busy");
    let mut calm = start(&place.program("plain", "calm"), &["--calls", "5", "--stay"]);
    place.configure("max_cost = 5.0\n", &[measure("calm", &exe(&place.path().join("calm")), &["add"], "")]);
    let pid = busy.pid().to_string();
    let watch =
        |duration: &str| place.edgelat(&["watch", "--json", "--duration", duration, "-p", &pid, "tick"]);
    busy.go();
    let alone = watch("1.5");
    alone.objects();
    assert!(!alone.stderr.contains("service"), "{alone:#?}");

    let service = place.start();
    calm.go();
    service.counts(calm.pid());
    let beside = watch("60");
    beside.refused(8, &["a service runs beside", "of one CPU and those of the service", "max_cost"]);
    let last = Report::parse(beside.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(last.ended.as_deref(), Some("budget"));
    assert!(last.value["cost_percent"].as_f64().unwrap() > 5.0, "{last:#?}");
    last.assert_identity();
    assert_text_restored(busy.pid());
    // The service did not notice.
    service.wait_after(service.count(), |told| told.is(calm.pid(), "measured"));
    calm.finished();
    assert!(service.end().iter().all(|told| told.state != "paused"));

    // The figures of the ended service bind no later watch.
    watch("1.5").objects();
    busy.kill();
    calm.say("end");
}

/// Each under its own bound, both together over the bound of all: the more expensive one is paused.
#[test]
fn all_targets_together_are_held_to_the_budget_of_the_agent() {
    let _turn = Turn::shared();
    let place = Place::new();
    let mut busy = busy(&place, "busy");
    // It makes a few calls and then stops.
    let mut calm = start(&place.program("plain", "calm"), &["--calls", "5", "--stay"]);
    let path = |name: &str| exe(&place.path().join(name));
    place.configure(
        "max_cost = 2.0\n",
        &[measure("busy", &path("busy"), &["tick"], ""), measure("calm", &path("calm"), &["add"], "")],
    );
    let service = place.start();
    calm.go();
    service.counts(calm.pid());
    busy.go();
    let ended = taken_off(&service, busy.pid());
    assert_eq!(ended.name, "busy");
    assert!(service.log().contains("together with all others"), "{}", service.log());
    service.wait_after(service.count(), |told| told.is(calm.pid(), "measured"));
    busy.kill();
    calm.finished();
    let lines = service.end();
    let last = lines.iter().find(|told| told.is(calm.pid(), "ended")).unwrap();
    assert_eq!(last.report().function("add").entries, 15);
    calm.say("end");
}
