//! A target's memory determines what may be probed: its limit, and its contents.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use edgelat_tests::machine::{Turn, assert_text_restored, eventually};
use edgelat_tests::service::measure;
use edgelat_tests::{Place, Report, Session, Target, edgelat, patience, target};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::service::{exe, start};

/// Exit statuses of the manual.
const TARGET: i32 = 5;
const FUNCTION: i32 = 6;

/// A control group with a memory limit, and a group below it with the process. Both end with the
/// value.
struct Limited {
    folder: PathBuf,
    limit: &'static str,
    used: &'static str,
}

impl Limited {
    /// `None` if memory cannot be limited on this machine.
    fn new(name: &str) -> Option<Self> {
        let name = format!("edgelat-test-{}-{name}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let v2 = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let has_memory = |root: &&Path| {
            fs::read_to_string(root.join("cgroup.controllers")).is_ok_and(|all| all.contains("memory"))
        };
        let (folder, limit, used) = if let Some(root) = v2.into_iter().find(has_memory) {
            fs::write(root.join("cgroup.subtree_control"), "+memory").ok()?;
            (root.join(name), "memory.max", "memory.current")
        } else if v1.join("memory.limit_in_bytes").exists() {
            (v1.join(name), "memory.limit_in_bytes", "memory.usage_in_bytes")
        } else {
            println!("no memory controller is mounted: not tested");
            return None;
        };
        fs::create_dir_all(folder.join("inner")).ok()?;
        Some(Self { folder, limit, used })
    }

    /// A program in it.
    fn start_program(&self, program: &Path) -> Target {
        let mut command = Command::new("sh");
        let script = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        command.args(["-c", script]).arg(self.folder.join("inner")).arg(program).args(["--calls", "0"]);
        Target::start_command(command)
    }

    /// Starts a target in it that has already done some work.
    fn start(&self, name: &str) -> Target {
        let mut started = self.start_program(&target(name));
        started.go();
        started.tell();
        started
    }

    /// Sets the limit to this many bytes above the present use.
    fn leave(&self, bytes: u64) {
        let used = || {
            let used = fs::read_to_string(self.folder.join(self.used)).unwrap();
            used.trim().parse::<u64>().unwrap()
        };
        // The kernel charges in advance, and returns that when a limit is set.
        for _ in 0..3 {
            fs::write(self.folder.join(self.limit), (used() + bytes).to_string()).unwrap();
        }
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let gone = || {
            fs::remove_dir(self.folder.join("inner")).is_ok() | fs::remove_dir(&self.folder).is_ok()
                && !self.folder.exists()
        };
        eventually(patience(), gone);
    }
}

/// Names and reasons that a report gives for unmeasured functions.
fn refusals(report: &Report) -> Vec<(String, String)> {
    let text = |refused: &Value, field: &str| refused[field].as_str().unwrap().to_owned();
    let refused = report.value["refused"].as_array().unwrap();
    refused.iter().map(|refused| (text(refused, "name"), text(refused, "reason"))).collect()
}

#[test]
fn functions_that_the_memory_limit_has_no_room_for_are_left_out() {
    let _turn = Turn::shared();
    let Some(group) = Limited::new("few") else { return };
    let target = group.start("sparse");
    let pid = target.pid().to_string();
    // The kernel charges a quarter of a MiB in advance per CPU, and returns it at any time, which
    // makes room or not.
    let report = (0..10).find_map(|_| {
        group.leave(290 << 10);
        let options = ["--max-map-bytes", "64M", "--duration", "0.5"];
        let outcome = edgelat(&[&["watch", "--json", "-p", &pid][..], &options, &["page_*"]].concat());
        let report = outcome.stdout.lines().filter_map(Report::parse).next_back();
        report.filter(|report| outcome.status.success() && !refusals(report).is_empty())
    });
    let report = report.expect("some functions that there is room for");
    let left_out = refusals(&report);
    assert!(!report.functions.is_empty() && !left_out.is_empty(), "{report:#?}");
    assert_eq!(report.functions.len() + left_out.len(), 100);
    assert!(left_out.iter().all(|(_, reason)| reason == "no-headroom"), "{left_out:#?}");
    // The first of the named functions.
    assert!(report.functions.iter().all(|function| left_out.iter().all(|(name, _)| *name > function.name)));
    target.stop().assert_right();
}

#[test]
fn a_target_at_its_memory_limit_is_refused_and_lives() {
    let _turn = Turn::shared();
    let Some(group) = Limited::new("none") else { return };
    let mut target = group.start("sparse");
    let pid = target.pid().to_string();
    let watched = || {
        group.leave(100 << 10);
        edgelat(&["watch", "-p", &pid, "--max-map-bytes", "64M", "--duration", "0.1", "page_*"])
    };
    // The kernel may return advance charges, which makes room as well.
    let mut outcome = watched();
    for _ in 0..9 {
        if outcome.status.success() {
            outcome = watched();
        }
    }
    outcome.refused(TARGET, &[&pid, group.folder.to_str().unwrap(), "raise the limit"]);
    assert!(target.is_alive());
    assert_text_restored(target.pid());
    target.stop().assert_right();
}

#[test]
fn a_build_that_is_killed_again_and_again_under_probes_is_left_alone() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["add"], "")]);
    let service = place.start();
    for _ in 0..2 {
        let target = start(&program, &["--calls", "0"]);
        let pid = target.pid();
        service.says(&format!("measuring process {pid}"));
        target.kill();
        service.ends(pid);
    }
    service.says("left alone for 5 min");
    let target = start(&program, &["--calls", "0"]);
    let told = service.wait_for(|told| told.is(target.pid(), "paused"));
    assert_eq!(told.reason.as_deref(), Some("killed"));
    assert_text_restored(target.pid());
    service.end();
    target.kill();
}

/// The kernel itself kills it. The knowledge about it survives the service.
#[test]
fn a_build_that_ran_out_of_memory_under_probes_is_left_alone_by_the_next_service_too() {
    let _turn = Turn::shared();
    let Some(group) = Limited::new("grows") else { return };
    let place = Place::new();
    let program = place.program("grows", "grows");
    place.configure("", &[measure("it", &exe(&program), &["turn"], "")]);
    let service = place.start();
    let mut target = group.start_program(&program);
    let pid = target.pid();
    service.says(&format!("measuring process {pid}"));
    group.leave(16 << 20);
    target.go();
    assert_eq!(target.status().signal(), Some(Signal::SIGKILL as i32));
    service.ends(pid);
    service.says("the OOM killer ran meanwhile");
    service.says("raise the memory limit of its control group");
    service.says("left alone for 5 min");
    service.end();
    let service = place.start();
    let target = group.start_program(&program);
    let told = service.wait_for(|told| told.is(target.pid(), "paused"));
    assert_eq!(told.reason.as_deref(), Some("killed"));
    assert_text_restored(target.pid());
    let [held] = &place.edgelat(&["quarantine", "list", "--json"]).objects()[..] else {
        panic!("one record")
    };
    let number = |field: &str| held[field].as_u64().unwrap();
    assert_eq!((number("signal"), number("expires") - number("time")), (Signal::SIGKILL as u64, 300));
    // The operator who has raised the limit confirms it.
    assert!(place.edgelat(&["quarantine", "clear"]).status.success());
    service.says(&format!("measuring process {}", target.pid()));
    service.end();
    target.kill();
}

#[test]
fn code_that_was_changed_in_memory_is_refused_by_name_and_goes_on() {
    let _turn = Turn::shared();
    let mut target = Target::start("patched", &["--calls", "0"]);
    target.go();
    let before = target.tell();
    assert_eq!(before.function("jumps").calls, 0, "its own code is not reached any more");
    let pid = target.pid().to_string();
    let refused = [
        ("jumps", "live patch"),
        ("nudged", "live patch"),
        ("trapped", "SIGTRAP"),
        ("writable", "writable"),
        ("moved", "not mapped from the file"),
    ];
    for (name, why) in refused {
        edgelat(&["watch", "-p", &pid, "--duration", "1", name]).refused(FUNCTION, &[name, why]);
    }
    let checked = edgelat(&["check", "-p", &pid]);
    assert!(checked.stdout.contains("code") && checked.stdout.contains("mapped writable"), "{checked:#?}");
    // The others are measured beside them.
    let names = ["untouched", "jumps", "nudged", "trapped", "writable", "moved", "after"];
    // It handles its own traps all the time.
    let session = Session::with(&target, &["--duration", "1", "--on-signal", "fatal"], &names);
    let report = session.end();
    let measured: Vec<_> = report.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(measured, ["untouched", "after"]);
    assert!(report.functions.iter().all(|function| function.entries > 0), "{report:#?}");
    let reasons: Vec<_> = refusals(&report).into_iter().map(|(_, reason)| reason).collect();
    let wanted =
        ["patched-in-memory", "patched-in-memory", "own-breakpoint", "writable-in-memory", "not-mapped"];
    assert_eq!(reasons, wanted);
    assert!(target.is_alive());
    target.stop().assert_right();
}

/// Another tool's probes are in memory as well, and are no patches.
#[test]
fn functions_that_another_tool_probes_are_measured() {
    let _turn = Turn::shared();
    let mut target = Target::start("plain", &["--calls", "0"]);
    target.go();
    let first = Session::on(&target, &["add", "work"]);
    let second = Session::with(&target, &["--duration", "1"], &["add", "work"]).end();
    assert!(second.functions.iter().all(|function| function.entries > 0), "{second:#?}");
    assert!(refusals(&second).is_empty());
    assert!(first.interrupt().functions.iter().all(|function| function.entries > 0));
    assert_text_restored(target.pid());
    target.stop().assert_right();
}
