//! The service finds the processes that its configuration names, measures each as long as it lives,
//! and reacts to signals.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use edgelat_tests::machine::{TempDir, Turn, assert_text_probed, assert_text_restored, eventually};
use edgelat_tests::service::{Told, measure};
use edgelat_tests::{Oracle, Place, Service, Target, patience};
use nix::sys::signal::Signal;

/// A copied target as a command.
pub(crate) fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Starts a copy of a target.
pub(crate) fn start(program: &Path, arguments: &[&str]) -> Target {
    Target::start_command(command(program, arguments))
}

/// The key `exe = ...`.
pub(crate) fn exe(program: &Path) -> String {
    format!("exe = \"{}\"", program.display())
}

/// The last figures of a process equal the target's own.
#[track_caller]
pub(crate) fn agrees(lines: &[Told], pid: i32, oracle: &Oracle) {
    let ended: Vec<_> = lines.iter().filter(|told| told.is(pid, "ended")).collect();
    let [told] = ended[..] else { panic!("{pid} has ended {} times: {ended:#?}", ended.len()) };
    told.report().agrees_with(oracle);
}

/// Matching processes are measured to the last call; others are left alone.
fn finds(select: &str, program: &Path, other: &Path, place: &Place) {
    let _turn = Turn::shared();
    place.configure("", &[measure("it", select, &["add", "work"], "")]);
    let mut targets = [start(program, &["--calls", "300"]), start(program, &["--calls", "300"])];
    let mut stranger = start(other, &["--calls", "300"]);
    let service = place.start();
    service.says("ready: 2 processes measured, 0 not");
    targets.iter().for_each(|target| assert_text_probed(target.pid()));
    let pids = targets.each_ref().map(Target::pid);
    targets.iter_mut().for_each(Target::go);
    let oracles = targets.map(Target::end);
    pids.iter().for_each(|pid| _ = service.ends(*pid));
    stranger.go();
    stranger.end().assert_right();
    let lines = service.end();
    for (pid, oracle) in pids.into_iter().zip(&oracles) {
        agrees(&lines, pid, oracle);
    }
    assert!(lines.iter().all(|told| told.name == "it" && pids.contains(&told.pid)), "{lines:#?}");
}

#[test]
fn processes_are_found_by_what_they_execute() {
    let place = Place::new();
    let (program, other) = (place.program("plain", "plain"), place.program("plain", "plain2"));
    finds(&exe(&program), &program, &other, &place);
}

#[test]
fn processes_are_found_by_a_glob_of_what_they_execute() {
    let place = Place::new();
    let (program, other) = (place.program("plain", "plain-1.2"), place.program("plain", "plain"));
    finds(&exe(&place.path().join("pl?in-*")), &program, &other, &place);
}

#[test]
fn processes_are_found_by_their_name() {
    let place = Place::new();
    // Names end after 15 bytes, and other tests may run targets at the same time.
    let name = format!("cmd-{}", std::process::id());
    let (program, other) = (place.program("plain", &name), place.program("plain", "other"));
    finds(&format!("command = \"{name}\""), &program, &other, &place);
}

#[test]
fn a_process_is_found_by_its_number() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    let mut target = start(&program, &["--calls", "300"]);
    let mut stranger = start(&program, &["--calls", "300"]);
    let pid = target.pid();
    place.configure("", &[measure("it", &format!("pid = {pid}"), &["add", "work"], "")]);
    let service = place.start();
    service.says("ready: 1 processes measured, 0 not");
    target.go();
    let oracle = target.end();
    service.ends(pid);
    stranger.go();
    stranger.end().assert_right();
    agrees(&service.end(), pid, &oracle);
}

/// Mount point of the unified hierarchy of control groups.
fn unified() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (source, place, kind) = (words.next()?, words.next()?, words.next()?);
        // Another test's mount would vanish with that test.
        (kind == "cgroup2" && source != MOUNTED).then(|| PathBuf::from(place))
    })
}

/// The source of a test's own mount.
const MOUNTED: &str = "edgelat-test";

/// A control group of one test; mounts the hierarchy if the machine has not.
struct Group {
    path: PathBuf,
    mounted: Option<TempDir>,
}

impl Group {
    fn new(name: &str) -> Self {
        let (root, mounted) = match unified() {
            Some(root) => (root, None),
            None => {
                let folder = TempDir::new();
                let mount = ["-t", "cgroup2", MOUNTED, folder.path().to_str().unwrap()];
                assert!(Command::new("mount").args(mount).status().unwrap().success());
                (folder.path().to_owned(), Some(folder))
            }
        };
        let path = root.join(format!("edgelat-test-{}", std::process::id())).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self { path, mounted }
    }

    /// Its path in the hierarchy.
    fn name(&self) -> String {
        let parts: Vec<_> = self.path.iter().rev().take(2).map(|part| part.to_str().unwrap()).collect();
        format!("/{}/{}", parts[1], parts[0])
    }

    fn take_in(&self, target: &Target) {
        std::fs::write(self.path.join("cgroup.procs"), target.pid().to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Only after the last process is reaped.
        eventually(patience(), || std::fs::remove_dir(&self.path).is_ok());
        _ = std::fs::remove_dir(self.path.parent().unwrap());
        if let Some(folder) = &self.mounted {
            _ = Command::new("umount").arg("-l").arg(folder.path()).status();
        }
    }
}

/// Finds processes that join the group while the service runs, like those already there.
fn finds_by_group(group: &Group, select: &str) {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", select, &["add", "work"], "")]);
    let first = start(&program, &["--calls", "300"]);
    let mut stranger = start(&program, &["--calls", "300"]);
    group.take_in(&first);
    let service = place.start();
    service.says("ready: 1 processes measured, 0 not");
    let second = start(&program, &["--calls", "300"]);
    group.take_in(&second);
    for mut target in [first, second] {
        let pid = target.pid();
        service.says(&format!("measuring process {pid}"));
        target.go();
        let oracle = target.end();
        service.ends(pid).report().agrees_with(&oracle);
    }
    stranger.go();
    stranger.end().assert_right();
    let lines = service.end();
    assert_eq!(lines.iter().filter(|told| told.state == "ended").count(), 2, "{lines:#?}");
}

#[test]
fn processes_are_found_by_their_control_group() {
    let group = Group::new("group");
    finds_by_group(&group, &format!("cgroup = \"{}\"", group.name()));
}

#[test]
fn processes_are_found_by_their_unit() {
    let unit = format!("edgelat-test-{}.service", std::process::id());
    finds_by_group(&Group::new(&unit), &format!("unit = \"{unit}\""));
}

#[test]
fn processes_come_and_go_and_each_is_counted_to_its_last_call() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["add", "work"], "")]);
    let service = place.start();
    service.says("ready: 0 processes measured, 0 not");
    for _ in 0..5 {
        // The same program repeatedly, as a supervisor restarts it.
        let mut target = start(&program, &["--calls", "200", "--threads", "2"]);
        let pid = target.pid();
        service.says(&format!("measuring process {pid}"));
        target.go();
        let oracle = target.end();
        service.ends(pid).report().agrees_with(&oracle);
    }
    let lines = service.end();
    assert_eq!(lines.iter().filter(|told| told.state == "ended").count(), 5, "{lines:#?}");
}

/// A child matches by its path as well; its parent's plan covers it, and it is not measured twice.
#[test]
fn children_are_covered_once() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("forks", "forks");
    place.configure("", &[measure("it", &exe(&program), &["step"], "")]);
    let arguments = ["--calls", "100", "--children", "4", "--child-calls", "200", "--wait", "1"];
    let mut target = start(&program, &arguments);
    let pid = target.pid();
    let service = place.start();
    target.go();
    let mut children: Vec<i32> = (0..4).map(|_| target.wait_for("child").pid).collect();
    let all = service.wait_for(|told| {
        told.is(pid, "measured") && told.report.as_ref().is_some_and(|report| report.processes.len() == 5)
    });
    let mut covered = all.report().processes[1..].to_vec();
    children.sort_unstable();
    covered.sort_unstable();
    assert_eq!(covered, children);
    // The service searches for processes ten more times.
    service.wait_after(service.count(), |told| told.is(pid, "measured"));
    target.rest();
    target.go();
    let oracle = target.end();
    let ended = service.ends(pid);
    let step = ended.report().function("step");
    assert_eq!(oracle.function("step").calls, 200);
    assert_eq!((step.entries, step.exits), (200 + 4 * 200, 200 + 4 * 200));
    assert_eq!(service.times("measuring process"), 1, "{}", service.log());
    let lines = service.end();
    assert!(lines.iter().all(|told| told.pid == pid), "{lines:#?}");
}

/// Children that precede the service are found by their path as well.
#[test]
fn children_that_are_there_are_covered_once() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("forks", "forks");
    place.configure("", &[measure("it", &exe(&program), &["step"], "")]);
    let mut target =
        start(&program, &["--calls", "10", "--children", "4", "--child-calls", "200", "--wait", "1"]);
    let pid = target.pid();
    target.go();
    (0..4).for_each(|_| _ = target.wait_for("child"));
    let service = place.start();
    service.wait_for(|told| told.report.as_ref().is_some_and(|report| report.processes.len() == 5));
    // The service searches for processes ten more times.
    service.wait_after(service.count(), |told| told.is(pid, "measured"));
    target.rest();
    target.go();
    target.end().assert_right();
    let ended = service.ends(pid);
    let step = ended.report().function("step");
    assert_eq!((step.entries, step.exits), (4 * 200, 4 * 200));
    assert_eq!(service.times("measuring process"), 1, "{}", service.log());
}

/// A supervised program was the supervisor's child before it executed its own image.
#[test]
fn a_child_that_executes_another_target_is_measured_as_that() {
    let _turn = Turn::shared();
    let place = Place::new();
    let (program, shell) = (place.program("plain", "plain"), place.path().join("shell"));
    std::fs::copy("/bin/sh", &shell).unwrap();
    let targets = [
        measure("supervisor", &exe(&shell), &["libc.so.6:malloc"], ""),
        measure("worker", &exe(&program), &["add"], ""),
    ];
    place.configure("", &targets);
    let go = place.path().join("go");
    let script = format!(
        "(until test -e {}; do sleep 0.05; done; exec {} --at-once --calls 0 >/dev/null) & wait",
        go.display(),
        program.display()
    );
    let mut supervisor = Command::new(&shell).arg("-c").arg(script).spawn().unwrap();
    let pid = i32::try_from(supervisor.id()).unwrap();
    let service = place.start();
    let children = || std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    assert!(eventually(patience(), || !children().trim().is_empty()));
    let child: i32 = children().trim().parse().unwrap();
    // By itself or with its parent, depending on which came first.
    service.wait_for(|told| told.report.as_ref().is_some_and(|report| report.processes.contains(&child)));
    std::fs::write(go, "").unwrap();
    service.wait_for(|told| told.name == "worker" && told.is(child, "measured") && told.entries() > 0);
    service.end();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), Signal::SIGKILL).unwrap();
    supervisor.wait().unwrap();
}

fn ends_by(signal: Signal) {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["add", "work"], "")]);
    let mut targets = [0; 2].map(|_| start(&program, &["--calls", "0"]));
    let service = place.start();
    targets.iter_mut().for_each(Target::go);
    targets.iter().for_each(|target| _ = service.counts(target.pid()));
    let (pid, collector) = (service.pid(), service.collector().unwrap());
    let lines = service.end_by(signal);
    for target in targets {
        let last = lines.iter().find(|told| told.is(target.pid(), "ended")).unwrap();
        assert_eq!(last.report().ended.as_deref(), Some("signal"));
        assert!(last.entries() > 0);
        assert_text_restored(target.pid());
        target.stop();
    }
    for process in [pid, collector] {
        assert!(!Path::new(&format!("/proc/{process}")).exists(), "{process} is there");
    }
}

#[test]
fn term_ends_the_service_after_it_has_told_the_last_figures() {
    ends_by(Signal::SIGTERM);
}

#[test]
fn int_ends_the_service_after_it_has_told_the_last_figures() {
    ends_by(Signal::SIGINT);
}

#[test]
fn usr1_tells_the_figures_at_once() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("interval = \"1h\"\n", &[measure("it", &exe(&program), &["add"], "")]);
    let mut target = start(&program, &["--calls", "0"]);
    let service = place.start();
    target.go();
    for before in 0..3 {
        assert_eq!(service.count(), before);
        service.signal(Signal::SIGUSR1);
        let told = service.wait_after(before, |told| told.is(target.pid(), "measured"));
        assert!(!told.report().is_final);
    }
    service.end();
    target.stop();
}

/// A writer of the configuration then sends a signal, whatever the state of a starting service.
#[test]
fn a_signal_that_comes_while_the_service_starts_is_answered_later() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("interval = \"1h\"\n", &[measure("it", &exe(&program), &["add"], "")]);
    let target = start(&program, &["--calls", "0"]);
    let service = Service::begin(place.command());
    assert!(eventually(patience(), || place.holder() == Some(service.pid())), "{}", service.log());
    // From before the collector exists until both are ready.
    while !service.log().contains("ready: ") && service.is_alive() {
        [Signal::SIGHUP, Signal::SIGUSR1].into_iter().for_each(|signal| service.signal(signal));
        std::thread::sleep(Duration::from_micros(200));
    }
    service.says("ready: 1 processes measured");
    service.says("read again, 1 targets");
    service.wait_for(|told| told.is(target.pid(), "measured"));
    service.end();
    target.kill();
}

/// One target is added, one gets other functions, one goes; an unchanged one continues gaplessly.
#[test]
fn hup_takes_over_a_configuration_that_was_changed() {
    let _turn = Turn::shared();
    let place = Place::new();
    let programs = ["same", "other", "gone", "new"].map(|name| place.program("plain", name));
    let target = |at: usize, functions: &[&str]| {
        measure(["same", "other", "gone", "new"][at], &exe(&programs[at]), functions, "")
    };
    place.configure("", &[target(0, &["add"]), target(1, &["add"]), target(2, &["add"])]);
    let mut targets = programs.each_ref().map(|program| start(program, &["--calls", "0"]));
    let pids = targets.each_ref().map(Target::pid);
    let service = place.start();
    service.says("ready: 3 processes measured, 0 not");
    targets.iter_mut().for_each(Target::go);
    pids[..3].iter().for_each(|pid| _ = service.counts(*pid));
    assert_text_restored(pids[3]);

    place.configure("", &[target(3, &["add"]), target(1, &["work", "hold"]), target(0, &["add"])]);
    let before = service.count();
    service.signal(Signal::SIGHUP);
    service.says("read again, 3 targets");
    let ended = service.wait_after(before, |told| told.is(pids[2], "ended"));
    assert_eq!(ended.report().ended.as_deref(), Some("config"));
    assert_text_restored(pids[2]);
    let ended = service.wait_after(before, |told| told.is(pids[1], "ended"));
    assert_eq!(ended.report().ended.as_deref(), Some("config"));
    for pid in [pids[0], pids[1], pids[3]] {
        service.wait_after(before, |told| told.is(pid, "measured") && told.entries() > 0);
    }
    service.wait_after(before, |told| {
        let functions = told.report.iter().flat_map(|report| &report.functions);
        let names: Vec<&str> = functions.map(|function| function.name.as_str()).collect();
        told.is(pids[1], "measured") && names == ["work", "hold"]
    });
    assert_eq!(service.times(&format!("measuring process {}", pids[0])), 1, "{}", service.log());

    let lines = service.end();
    let of_same: Vec<u64> = lines.iter().filter(|told| told.pid == pids[0]).map(Told::entries).collect();
    assert!(of_same.is_sorted(), "it was counted on: {of_same:?}");
    for target in targets {
        assert_text_restored(target.pid());
        target.stop();
    }
}

#[test]
fn a_configuration_with_mistakes_changes_nothing() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["add"], "")]);
    let mut target = start(&program, &["--calls", "0"]);
    let pid = target.pid();
    let service = place.start();
    target.go();
    service.counts(pid);

    place.configure("intervall = \"1s\"\n", &[]);
    service.signal(Signal::SIGHUP);
    service.says("intervall: there is no such key; did you mean interval?");
    service.says("nothing changes");
    std::fs::remove_file(place.config()).unwrap();
    let before = service.count();
    service.wait_after(before, |told| told.is(pid, "measured"));
    service.signal(Signal::SIGHUP);
    service.wait_after(before + 1, |told| told.is(pid, "measured"));
    assert!(eventually(patience(), || service.times("nothing changes") == 2), "{}", service.log());
    assert_text_probed(pid);
    let lines = service.end();
    assert_eq!(lines.iter().filter(|told| told.state == "ended").count(), 1, "{lines:#?}");
    target.stop();
}

#[test]
fn a_wrong_configuration_is_told_at_the_start_and_nothing_is_done() {
    let place = Place::new();
    place.configure("interval = \"1 fortnight\"\n", &[]);
    let outcome = edgelat_tests::session::run(place.command());
    outcome.refused(2, &["agent: interval", "1s"]);
    assert!(!place.path().join("run").exists());
}

#[test]
fn a_second_agent_is_refused_and_told_who_the_first_is() {
    let _turn = Turn::shared();
    let place = Place::new();
    place.configure("", &[]);
    let first = place.start();
    let outcome = edgelat_tests::session::run(place.command());
    outcome.refused(10, &[&format!("process {}", first.pid())]);
    assert_eq!(place.holder(), Some(first.pid()));
    // A killed service blocks no later one.
    first.kill();
    let second = place.start();
    assert_eq!(place.holder(), Some(second.pid()));
    second.end();
}
