//! Rights and resources of the two processes of a service once everything is in place.

use std::path::{Path, PathBuf};
use std::process::Command;

use edgelat_tests::machine::{Turn, assert_text_probed, assert_text_restored, eventually};
use edgelat_tests::service::measure;
use edgelat_tests::{Place, Service, Target, patience};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::rights::{
    ATTACHING, CAP_DAC_READ_SEARCH, CAP_KILL, has_no_rights, holds, of_perf, status_of_threads,
};
use crate::service::{exe, start};

/// The user of a collector if none is configured.
const NOBODYS: &str = "465441";

/// A target at work, and a service that counts its calls.
fn measured(place: &Place, agent: &str, rest: &str) -> (Target, Service) {
    let program = place.program("plain", "plain");
    place.configure(agent, &[measure("it", &exe(&program), &["add", "work"], rest)]);
    let mut target = start(&program, &["--calls", "0"]);
    let service = place.start();
    target.go();
    service.counts(target.pid());
    (target, service)
}

/// It continues to count, and ends as it should.
fn goes_on(mut target: Target, service: Service) {
    let before = service.count();
    service.wait_after(before, |told| told.is(target.pid(), "measured"));
    assert!(target.is_alive());
    let lines = service.end();
    let last = lines.iter().find(|told| told.is(target.pid(), "ended")).unwrap();
    assert_eq!(last.report().ended.as_deref(), Some("signal"));
    assert_text_restored(target.pid());
    target.stop();
}

/// Nice value of a task. Its name is in brackets before the other fields (proc_pid_stat(5)).
fn nice_of(task: &Path) -> i32 {
    let stat = std::fs::read_to_string(task.join("stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap()
}

#[test]
fn the_collector_of_a_service_holds_no_right_and_gives_way_to_everybody() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (target, service) = measured(&place, "", "");
    let collector = service.collector().unwrap();
    has_no_rights(collector);
    let [uids, gids, groups] = user_of(collector);
    assert_eq!((uids, gids), (vec![NOBODYS.to_owned(); 4], vec![NOBODYS.to_owned(); 4]));
    assert!(groups.is_empty(), "{groups:?}");
    let root = std::fs::read_link(format!("/proc/{collector}/root")).unwrap();
    assert_eq!(root, place.path().join("state/spool"));
    for task in std::fs::read_dir(format!("/proc/{collector}/task")).unwrap() {
        assert_eq!(nice_of(&task.unwrap().path()), 19);
    }
    let guard = PathBuf::from(format!("/proc/{}", service.pid()));
    assert_eq!(nice_of(&guard), nice_of(Path::new("/proc/self")), "the guard is as it was started");
    goes_on(target, service);
}

/// Links, programs, perf events and tracefs files belong to the guard alone: they end with it.
#[test]
fn the_collector_holds_no_descriptor_that_keeps_a_probe() {
    let _turn = Turn::shared();
    for route in ["uprobe_multi", "tracefs", "single"] {
        let place = Place::new();
        let (target, service) = measured(&place, "", &format!("route = \"{route}\"\n"));
        let held = |pid: i32| -> Vec<String> {
            let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let links = entries.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
            links.map(|link| link.to_string_lossy().into_owned()).collect()
        };
        let keeps = |held: &[String]| -> Vec<String> {
            let marks = ["bpf-prog", "bpf_link", "bpf-link", "perf_event", "uprobe_events", "tracing"];
            held.iter().filter(|link| marks.iter().any(|mark| link.contains(mark))).cloned().collect()
        };
        let (guard, collector) = (held(service.pid()), held(service.collector().unwrap()));
        assert!(!keeps(&guard).is_empty(), "the guard keeps them: {guard:?}");
        assert!(keeps(&collector).is_empty(), "{collector:?}");
        // Not even those of maps: it reads through mappings.
        let maps = collector.iter().filter(|link| link.contains("bpf-map")).count();
        assert!(maps <= 2, "{collector:?}");
        goes_on(target, service);
    }
}

#[test]
fn the_guard_of_a_service_keeps_what_attaching_to_new_processes_takes() {
    let _turn = Turn::shared();
    for route in ["uprobe_multi", "tracefs", "single"] {
        let place = Place::new();
        let (target, service) = measured(&place, "", &format!("route = \"{route}\"\n"));
        holds(service.pid(), ATTACHING | CAP_DAC_READ_SEARCH | CAP_KILL | of_perf(route));
        // This suffices for a new process.
        let mut second = start(&place.path().join("plain"), &["--calls", "200"]);
        let pid = second.pid();
        service.says(&format!("measuring process {pid}"));
        assert_text_probed(pid);
        second.go();
        let oracle = second.end();
        service.ends(pid).report().agrees_with(&oracle);
        goes_on(target, service);
    }
}

#[test]
fn without_reattaching_the_guard_attaches_to_children_only_and_what_comes_later_is_left_alone() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (target, service) = measured(&place, "reattach = false\n", "");
    holds(service.pid(), CAP_KILL | ATTACHING);
    let late = start(&place.path().join("plain"), &["--calls", "10"]);
    let before = service.count();
    service.wait_after(before + 1, |told| told.is(target.pid(), "measured"));
    assert_text_restored(late.pid());
    late.kill();
    goes_on(target, service);
}

#[test]
fn without_reattaching_a_target_that_is_changed_ends_and_that_is_told() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (target, service) = measured(&place, "reattach = false\n", "");
    let pid = target.pid();
    let program = exe(&place.path().join("plain"));
    place.configure("reattach = false\n", &[measure("it", &program, &["add"], "")]);
    service.signal(Signal::SIGHUP);
    assert_eq!(service.ends(pid).report().ended.as_deref(), Some("config"));
    service.says(&format!("it: process {pid} is no longer measured: the configuration"));
    service.says("reattach = false: what is new or was changed is measured after a restart");
    assert_text_restored(pid);
    service.end();
    target.stop();
}

fn user_of(pid: i32) -> [Vec<String>; 3] {
    let status = status_of_threads(pid).remove(0);
    ["Uid", "Gid", "Groups"].map(|field| status[field].split_whitespace().map(str::to_owned).collect())
}

#[test]
fn the_collector_is_another_user_where_that_is_asked_for() {
    let _turn = Turn::shared();
    let nobody = User::from_name("nobody").unwrap().unwrap();
    let place = Place::new();
    let (target, service) = measured(&place, "collector_user = \"nobody\"\n", "");
    let [uids, gids, groups] = user_of(service.collector().unwrap());
    assert_eq!(uids, vec![nobody.uid.to_string(); 4]);
    assert_eq!(gids, vec![nobody.gid.to_string(); 4]);
    assert!(groups.is_empty(), "{groups:?}");
    has_no_rights(service.collector().unwrap());
    assert_eq!(user_of(service.pid())[0], vec!["0"; 4]);
    let route = service.counts(target.pid()).report().route.clone();
    holds(service.pid(), ATTACHING | CAP_DAC_READ_SEARCH | CAP_KILL | of_perf(&route));
    // Signals and later processes reach it too.
    let mut second = start(&place.path().join("plain"), &["--calls", "200"]);
    let pid = second.pid();
    service.says(&format!("measuring process {pid}"));
    second.go();
    let oracle = second.end();
    service.ends(pid).report().agrees_with(&oracle);
    let before = service.count();
    service.signal(Signal::SIGUSR1);
    service.wait_after(before, |told| told.is(target.pid(), "measured"));
    place.configure("collector_user = \"nobody\"\n", &[]);
    service.signal(Signal::SIGHUP);
    service.ends(target.pid());
    service.end();
    assert_text_restored(target.pid());
    target.stop();
}

#[test]
fn a_collector_that_would_be_root_is_refused() {
    let place = Place::new();
    for user in ["root", "0", "no-such-user"] {
        place.configure(&format!("collector_user = \"{user}\"\n"), &[]);
        let outcome = edgelat_tests::session::run(place.command());
        assert!(!outcome.status.success(), "{outcome:#?}");
        assert!(outcome.stderr.contains(user), "{outcome:#?}");
    }
}

/// From start to end: every system call of the collector's life is examined.
#[test]
fn the_collector_never_calls_bpf() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["add", "work"], "")]);
    let mut targets = [0; 2].map(|_| start(&program, &["--calls", "0"]));
    let traces = place.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-ff", "-qq", "-e", "trace=bpf,exit_group", "-o"]).arg(&traces);
    command.arg(edgelat_tests::session::binary());
    place.arguments(&mut command);
    let service = Service::start(command);
    let guard = place.holder().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).unwrap();
    let collector: i32 = children.trim().parse().unwrap();
    targets.iter_mut().for_each(Target::go);
    targets.iter().for_each(|target| _ = service.counts(target.pid()));
    let [gone, stays] = targets;
    let pid = gone.pid();
    gone.stop();
    service.ends(pid);
    kill(Pid::from_raw(guard), Signal::SIGTERM).unwrap();
    service.ends(stays.pid());
    assert!(service.ended().status.success());
    stays.stop();
    let calls = |pid: i32, name: &str| {
        let trace = std::fs::read_to_string(traces.with_extension(pid.to_string())).unwrap();
        trace.lines().filter(|line| line.starts_with(name)).count()
    };
    assert!(calls(guard, "bpf(") > 10, "the guard's calls are seen");
    assert_eq!(calls(collector, "exit_group("), 1, "the collector's are, too, to the last");
    assert_eq!(calls(collector, "bpf("), 0);
    assert!(eventually(patience(), || !Path::new(&format!("/proc/{collector}")).exists()));
}
