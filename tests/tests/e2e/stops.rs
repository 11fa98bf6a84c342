//! A stopped agent leaves no probes behind.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use edgelat_tests::machine::{
    Turn, assert_text_probed, assert_text_restored, changed_text, eventually, state_of,
};
use edgelat_tests::session::binary;
use edgelat_tests::{Session, Target, patience};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// A watch of `hold` and `add` as a separate job, as a shell starts it.
fn job(target: &Target, options: &[&str]) -> Session {
    job_on(target, options, &["add", "hold"])
}

fn job_on(target: &Target, options: &[&str], functions: &[&str]) -> Session {
    let pid = target.pid().to_string();
    let mut command = Command::new(binary());
    command.args(["watch", "--json", "--interval", "0.1", "-p", &pid]).args(options).args(functions);
    command.process_group(0);
    Session::start(command)
}

/// Sends a signal to a whole job, as a terminal does.
fn to_job(session: &Session, signal: Signal) {
    killpg(Pid::from_raw(session.pid()), signal).unwrap();
}

fn ctrl_z(options: &[&str]) {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "0", "--threads", "4"]);
    let session = job(&target, options);
    target.go();
    session.wait_for(|report| report.function("hold").exits > 10);
    let held = target.rest().function("hold").in_flight;
    assert!(held > 0, "threads park inside");
    let before = session.at_rest();
    assert_text_probed(target.pid());

    to_job(&session, Signal::SIGTSTP);
    assert!(eventually(patience(), || state_of(session.pid()) == Some('T')), "it does not stop");
    assert_text_restored(target.pid());
    // Calls end, and others begin at the same places, unseen.
    let stopped = Instant::now();
    target.go();
    std::thread::sleep(Duration::from_secs(1));
    let held = target.rest().function("hold").in_flight;
    let stopped = stopped.elapsed();
    assert!(held > 0, "threads park inside again");

    to_job(&session, Signal::SIGCONT);
    session.wait_for(|report| report.value["stopped_ns"].as_u64() > Some(0));
    assert_text_probed(target.pid());
    target.go();
    let after = session.wait_for(|report| {
        report.function("hold").exits > before.function("hold").exits + 10
            // A session does not see the end of a call whose beginning it did not see.
            && (report.returns == "uretprobe session" || report.function("hold").unmatched_exits >= held)
    });
    for (was, is) in before.functions.iter().zip(&after.functions) {
        assert!(is.lost("abandoned") >= was.in_flight, "they are in no table any more: {was:#?} {is:#?}");
    }
    let report = session.interrupt();
    assert!(report.value["stopped_ns"].as_u64() >= Some(stopped.as_nanos() as u64), "{}", report.value);
    let longest = report.function("hold").quantiles.map_or(0, |quantiles| quantiles.max);
    assert!(
        u128::from(longest) < stopped.as_nanos(),
        "a call of another time is taken for one: {longest} ns"
    );
    assert_text_restored(target.pid());
    target.stop();
}

#[test]
fn ctrl_z_takes_the_probes_off_and_fg_brings_them_back() {
    ctrl_z(&[]);
}

#[test]
fn ctrl_z_does_so_on_the_tracefs_route() {
    ctrl_z(&["--route", "tracefs"]);
}

#[test]
fn ctrl_z_does_so_on_the_single_route() {
    ctrl_z(&["--route", "single"]);
}

#[test]
fn ctrl_z_does_so_with_return_probes() {
    ctrl_z(&["--returns", "uretprobe"]);
}

#[test]
fn a_stop_of_the_guard_alone_stops_the_collector_too() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "0", "--threads", "2"]);
    let session = job(&target, &[]);
    target.go();
    session.wait_for(|report| report.function("add").exits > 10);
    session.signal(Signal::SIGTSTP);
    assert!(eventually(patience(), || state_of(session.pid()) == Some('T')), "it does not stop");
    assert_text_restored(target.pid());
    let told = session.reports().len();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(session.reports().len(), told, "nothing is measured, and nothing is shown");
    session.signal(Signal::SIGCONT);
    let seen = session.wait_for(|report| report.value["stopped_ns"].as_u64() > Some(0));
    session.wait_for(|report| report.function("add").exits > seen.function("add").exits);
    session.interrupt();
    target.stop();
}

#[test]
fn a_guard_that_cannot_look_at_its_budget_is_ended_with_its_probes() {
    let _turn = Turn::shared();
    // Threads that only make calls would exceed any bound if the machine has a CPU for each.
    let mut target = Target::start("paced", &[]);
    let pid = target.pid();
    let session = job_on(&target, &["--max-cost", "90"], &["paced"]);
    let before = session.wait_for(|report| report.function("paced").exits > 10);
    assert_text_probed(pid);
    session.signal(Signal::SIGSTOP);
    let reports = session.stdout_lines();
    assert!(eventually(Duration::from_secs(30), || changed_text(pid).is_empty()), "probes without a budget");
    let outcome = session.ended();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&outcome.status), Some(9));
    let last = reports.text().lines().filter_map(edgelat_tests::Report::parse).next_back().unwrap();
    assert_eq!(last.ended.as_deref(), Some("guard"), "what was counted is told");
    assert!(last.function("paced").exits >= before.function("paced").exits);
    assert!(target.is_alive());
    target.stop();
}
