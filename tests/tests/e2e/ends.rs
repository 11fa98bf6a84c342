//! After every kind of end, the account is complete and nothing remains.

use std::time::Duration;

use edgelat_tests::machine::{
    Turn, assert_text_probed, assert_text_restored, define_trace_event, eventually, state_of, trace_events,
    trace_events_of,
};
use edgelat_tests::{Session, Target, edgelat, patience};
use nix::sys::signal::Signal;

fn endless() -> Target {
    Target::start("plain", &["--calls", "0", "--threads", "2"])
}

/// A watch under load that is seen to count.
fn counting(target: &mut Target, options: &[&str]) -> Session {
    let session = Session::with(target, options, &["add", "work", "hold"]);
    target.go();
    session.wait_for(|report| report.function("add").exits > 100);
    session
}

#[test]
fn the_end_of_the_target_ends_the_watch() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "100"]);
    let session = Session::on(&target, &["add"]);
    target.go();
    let oracle = target.end();
    let report = session.end();
    assert_eq!(report.ended.as_deref(), Some("target"));
    report.agrees_with(&oracle);
}

#[test]
fn ctrl_c_gives_the_final_summary_and_restores_the_text() {
    let _turn = Turn::shared();
    let mut target = endless();
    let pid = target.pid();
    let session = counting(&mut target, &["--interval", "0.1"]);
    assert_text_probed(pid);
    let report = session.interrupt();
    assert_eq!(report.ended.as_deref(), Some("signal"));
    assert!(report.function("work").count > 0);
    assert_text_restored(pid);
    target.stop();
}

#[test]
fn sigterm_ends_as_cleanly_as_ctrl_c() {
    let _turn = Turn::shared();
    let mut target = endless();
    let session = counting(&mut target, &["--interval", "0.1"]);
    session.signal(Signal::SIGTERM);
    assert_eq!(session.end().ended.as_deref(), Some("signal"));
    assert_text_restored(target.pid());
    target.stop();
}

#[test]
fn a_duration_ends_the_watch() {
    let _turn = Turn::shared();
    let mut target = endless();
    let session = Session::with(&target, &["--duration", "0.5"], &["add"]);
    target.go();
    let report = session.end();
    assert_eq!(report.ended.as_deref(), Some("duration"));
    assert!(report.elapsed_ns >= 500_000_000, "{} ns", report.elapsed_ns);
    target.stop();
}

#[test]
fn in_flight_equals_the_targets_own_figure_at_rest() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "0", "--threads", "6"]);
    let session = counting(&mut target, &["--interval", "0.1"]);
    for _ in 0..3 {
        let oracle = target.rest();
        let report = session.at_rest();
        for function in &report.functions {
            let truth = oracle.function(&function.name);
            assert_eq!(function.entries, truth.calls, "{function:#?}");
            assert_eq!(function.exits, truth.completed, "{function:#?}");
            assert_eq!(function.in_flight, truth.in_flight, "{function:#?}");
        }
        assert!(oracle.function("hold").in_flight > 0, "threads park inside: {oracle:#?}");
        target.go();
    }
    let oracle = target.stop();
    session.end().agrees_with(&oracle);
}

#[test]
fn kill_9_of_the_target_at_rest_leaves_exactly_its_open_calls_inside() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "0", "--threads", "6"]);
    let session = counting(&mut target, &["--interval", "0.1"]);
    let oracle = target.rest();
    target.kill();
    let report = session.end();
    assert_eq!(report.ended.as_deref(), Some("target"));
    for function in &report.functions {
        let truth = oracle.function(&function.name);
        assert_eq!(function.entries, truth.calls, "{function:#?}");
        assert_eq!(function.exits, truth.completed, "{function:#?}");
        assert_eq!(function.lost("ended_inside") + function.in_flight, truth.in_flight, "{function:#?}");
        assert_eq!(function.in_flight, 0, "nothing is in flight in a process that is gone: {function:#?}");
    }
}

#[test]
fn kill_9_of_the_target_in_mid_call_keeps_the_identity() {
    let _turn = Turn::shared();
    for _ in 0..5 {
        let mut target = endless();
        let session = counting(&mut target, &["--interval", "0.1"]);
        target.kill();
        let report = session.end();
        for function in &report.functions {
            // Two threads, and none of these functions calls itself.
            assert!(function.lost("ended_inside") + function.in_flight <= 2, "{function:#?}");
        }
    }
}

#[test]
fn a_target_killed_by_its_own_fault_keeps_the_identity() {
    let _turn = Turn::shared();
    let mut target = endless();
    let session = counting(&mut target, &["--interval", "0.1"]);
    target.signal(Signal::SIGSEGV);
    let (report, _) = session.end_in_fault();
    assert!(report.ended.is_some());
    assert!(!target.status().success());
}

fn kill_9_of_the_agent(options: &[&str]) {
    let mut target = endless();
    let pid = target.pid();
    let session = counting(&mut target, options);
    assert_text_probed(pid);
    session.kill();
    assert_text_restored(pid);
    let before = target.tell();
    assert!(eventually(Duration::from_secs(10), || {
        target.tell().function("add").calls > before.function("add").calls
    }));
    target.stop();
}

#[test]
fn kill_9_of_the_agent_restores_the_text_and_the_target_goes_on() {
    let _turn = Turn::shared();
    kill_9_of_the_agent(&["--interval", "0.1"]);
}

#[test]
fn kill_9_of_the_agent_restores_the_text_on_the_single_route() {
    let _turn = Turn::shared();
    kill_9_of_the_agent(&["--interval", "0.1", "--route", "single"]);
}

/// Not only when armed: also while it reads, loads, attaches and measures, and a second kill would
/// find nothing left to do.
#[test]
fn kill_9_of_the_agent_at_any_moment_harms_nobody() {
    let _turn = Turn::shared();
    let mut target = endless();
    target.go();
    let pid = target.pid().to_string();
    for round in 0..edgelat_tests::amount(16, 300) {
        for route in ["uprobe_multi", "tracefs"] {
            let mut agent = std::process::Command::new(edgelat_tests::session::binary())
                .args(["watch", "-p", &pid, "--route", route, "add", "work", "hold", "descend"])
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(round * 7 % 110));
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }
    assert_text_restored(target.pid());
    assert!(target.is_alive());
    // The next agent sweeps the remains of all of them.
    Session::with(&target, &["--duration", "0.1", "--route", "tracefs"], &["add"]).end();
    assert!(trace_events().is_empty() || trace_events().iter().all(|event| is_of_a_live_agent(event)));
    target.stop();
}

/// Other tests run at the same time.
fn is_of_a_live_agent(event: &str) -> bool {
    let pid =
        event.split("edgelat_").nth(1).and_then(|rest| rest.split('_').next()).and_then(|n| n.parse().ok());
    pid.is_some_and(|pid: i32| state_of(pid).is_some())
}

/// A signal to end before the probes are armed ends it too, with or without a report.
#[test]
fn ctrl_c_at_any_moment_ends_in_time() {
    let _turn = Turn::shared();
    let mut target = endless();
    target.go();
    let pid = target.pid().to_string();
    for round in 0..12 {
        let mut agent = std::process::Command::new(edgelat_tests::session::binary())
            .args(["watch", "-p", &pid, "add", "work"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(round * 9));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(agent.id().try_into().unwrap()), Signal::SIGINT)
            .unwrap();
        let status = edgelat_tests::target::wait(&mut agent, patience()).expect("it ends");
        // Before it catches the signal, the signal itself ends it.
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::SIGINT as i32);
        assert!(by_signal || status.success(), "after {} ms: {status}", round * 9);
    }
    assert_text_restored(target.pid());
    target.stop();
}

/// `nohup edgelat watch ... &`: the terminal goes, and measuring continues until a TERM.
#[test]
fn what_it_was_started_to_ignore_does_not_end_it() {
    let _turn = Turn::shared();
    let mut target = endless();
    target.go();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' HUP INT; exec \"$0\" watch --json --interval 0.1 -p \"$1\" work"]);
    command.arg(edgelat_tests::session::binary()).arg(target.pid().to_string());
    let session = Session::start(command);
    session.signal(Signal::SIGHUP);
    session.signal(Signal::SIGINT);
    let before = session.wait_for(|report| report.function("work").exits > 0).function("work").exits;
    session.wait_for(|report| report.function("work").exits > before + 1000);
    session.signal(Signal::SIGTERM);
    assert_eq!(session.end().ended.as_deref(), Some("signal"));
    target.stop();
}

#[test]
fn a_command_outlives_its_killed_agent() {
    let _turn = Turn::shared();
    let program = edgelat_tests::target("plain");
    let arguments = ["--", program.to_str().unwrap(), "--at-once", "--calls", "30000000"];
    let session = Session::watch(&[&["--interval", "0.1", "add"][..], &arguments].concat());
    let report = session.wait_for(|report| report.function("add").exits > 100);
    let command = report.processes[0];
    let stderr = session.stderr_lines();
    session.kill();
    assert_text_restored(command);
    let end = stderr.wait(0, patience(), |line| {
        edgelat_tests::Oracle::parse(line).filter(|oracle| oracle.event == "end")
    });
    end.expect("the command went on to its end").1.assert_right();
}

/// The target may end at any moment while an agent comes to it.
#[test]
fn a_target_that_ends_while_probes_come_is_an_answer_not_an_accident() {
    let _turn = Turn::shared();
    for round in 0..12u64 {
        let mut target = Target::start("plain", &["--calls", "0"]);
        target.go();
        let pid = target.pid().to_string();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(round * 9));
            target.kill();
        });
        let outcome = edgelat(&["watch", "--json", "-p", &pid, "add", "work"]);
        killer.join().unwrap();
        assert!(matches!(outcome.status.code(), Some(0 | 5)), "after {} ms: {outcome:#?}", round * 9);
        assert!(outcome.status.success() || outcome.stderr.contains(&pid), "{outcome:#?}");
        if outcome.status.success() {
            let last = outcome.stdout.lines().filter_map(edgelat_tests::Report::parse).next_back().unwrap();
            assert!(last.is_final);
            last.assert_identity();
        }
    }
}

/// tracefs event definitions outlive their maker: the next start of an agent removes them.
#[test]
fn what_a_killed_agent_left_in_tracefs_is_swept_by_the_next() {
    let _turn = Turn::shared();
    let mut target = endless();
    let session = counting(&mut target, &["--interval", "0.1", "--route", "tracefs"]);
    let killed = session.kill();
    assert_text_restored(target.pid());
    let next = Session::with(&target, &["--route", "tracefs"], &["add"]);
    let left = trace_events_of(killed);
    assert!(left.is_empty(), "{left:?}");
    assert!(!trace_events_of(next.pid()).is_empty(), "the tracefs route makes events");
    next.interrupt();
    target.stop();
}

/// Definitions keep the file system of their target busy, so a process that outlives the agent
/// removes them.
#[test]
fn a_killed_agent_leaves_no_definition_in_tracefs() {
    let _turn = Turn::shared();
    let mut target = endless();
    let session = counting(&mut target, &["--interval", "0.1", "--route", "tracefs"]);
    assert!(!trace_events_of(session.pid()).is_empty(), "the tracefs route makes events");
    let killed = session.kill();
    let mut left = Vec::new();
    let gone = eventually(patience(), || {
        left = trace_events_of(killed);
        left.is_empty()
    });
    assert!(gone, "{left:?}");
    assert_text_restored(target.pid());
    target.stop();
}

#[test]
fn what_is_left_in_tracefs_is_swept_by_any_command() {
    // Alone, because the commands of other tests sweep as well.
    let _turn = Turn::alone();
    let mut target = endless();
    target.go();
    let pid = target.pid().to_string();
    // No process has this number: the kernel gives out lower ones.
    let gone = 4_194_304;
    let commands: [&[&str]; 4] =
        [&["check"], &["functions", &pid], &["quarantine", "list"], &["watch", "-p", "4194304", "add"]];
    for command in commands {
        define_trace_event(gone);
        assert_eq!(trace_events_of(gone).len(), 1);
        edgelat(command);
        assert!(trace_events_of(gone).is_empty(), "after {command:?}");
    }
    target.stop();
}

/// A watch that comes and goes does not harm a stopped target.
#[test]
fn a_stopped_target_can_be_watched_and_left() {
    let _turn = Turn::shared();
    let mut target = endless();
    target.go();
    target.signal(Signal::SIGSTOP);
    assert!(eventually(Duration::from_secs(5), || state_of(target.pid()) == Some('T')));
    let report = Session::with(&target, &["--duration", "0.3"], &["add"]).end();
    assert_eq!(report.function("add").exits, 0);
    target.signal(Signal::SIGCONT);
    assert_text_restored(target.pid());
    target.stop();
}

/// Two agents do not interfere: on one target they count the same calls.
#[test]
fn two_watches_of_one_target_count_the_same() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "300"]);
    let one = Session::on(&target, &["add", "work"]);
    let two = Session::on(&target, &["work", "hold"]);
    target.go();
    let oracle = target.end();
    one.end().agrees_with(&oracle);
    two.end().agrees_with(&oracle);
}

#[test]
fn a_reader_that_goes_away_ends_the_watch_without_harm() {
    let _turn = Turn::shared();
    let mut target = endless();
    target.go();
    let pid = target.pid().to_string();
    let edgelat = edgelat_tests::session::binary();
    let script = format!("{} watch --json --interval 0.05 -p {pid} add | head -n 3", edgelat.display());
    let mut command = std::process::Command::new("timeout");
    command.args(["20", "bash", "-o", "pipefail", "-c", &script]);
    let outcome = edgelat_tests::session::run(command);
    assert!(outcome.took < Duration::from_secs(15), "it notices that nobody reads: {outcome:#?}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome:#?}");
    assert_text_restored(target.pid());
    target.stop();
}
