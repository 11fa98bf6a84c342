//! Measurements of the service are in its spool: to the last call after an end, and up to the last
//! interval after a kill, even if the disk is full or read-only for a while.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use edgelat_tests::machine::Turn;
use edgelat_tests::service::{Service, Told, measure};
use edgelat_tests::{Oracle, Place, patience};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::service::{exe, start};

/// Counts of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sums {
    entries: u64,
    exits: u64,
    in_flight: i64,
    lost: i64,
    sum_ns: u64,
}

impl Sums {
    fn assert_identity(&self) {
        assert_eq!(self.entries as i64, self.exits as i64 + self.in_flight + self.lost, "{self:?}");
    }
}

/// A run of the agent: the counts of each function after each interval.
type Run = Vec<BTreeMap<String, Sums>>;

const LOSSES: [&str; 7] =
    ["abandoned", "evicted", "ended_inside", "over_range", "table_full", "unresolved", "unkeyed"];

/// Output of `spool export`, one object per interval.
#[track_caller]
fn exported(place: &Place) -> Vec<Value> {
    let outcome = place.edgelat(&["spool", "export"]);
    assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
    outcome.objects()
}

/// All runs in chronological order.
#[track_caller]
fn runs(place: &Place) -> Vec<Run> {
    let mut runs: Vec<(String, Run)> = Vec::new();
    for interval in exported(place) {
        let id = interval["run"].as_str().unwrap();
        if runs.last().is_none_or(|(last, _)| last != id) {
            runs.push((id.to_owned(), Run::new()));
        }
        let run = &mut runs.last_mut().unwrap().1;
        let mut sums = run.last().cloned().unwrap_or_default();
        for function in interval["functions"].as_array().unwrap() {
            let sum = sums.entry(function["function"].as_str().unwrap().to_owned()).or_default();
            let number = |name: &str| function[name].as_i64().unwrap();
            sum.entries += number("entries") as u64;
            sum.exits += number("exits") as u64;
            sum.in_flight = number("in_flight");
            sum.lost += LOSSES.iter().map(|name| number(name)).sum::<i64>();
            sum.sum_ns += number("sum_ns") as u64;
            let buckets = function["buckets"].as_array().unwrap().iter();
            let counted: i64 = buckets.map(|bucket| bucket[1].as_i64().unwrap()).sum();
            assert_eq!(counted + number("zero_count"), number("exits"), "{function}");
        }
        run.push(sums);
    }
    runs.into_iter().map(|(_, run)| run).collect()
}

/// The counts in a line of the service.
fn told(line: &Told) -> BTreeMap<String, Sums> {
    let functions = line.report().functions.iter().map(|function| {
        let sums = Sums {
            entries: function.entries,
            exits: function.exits,
            in_flight: function.in_flight as i64,
            lost: function.lost.values().sum::<u64>() as i64,
            sum_ns: function.sum_ns,
        };
        (function.name.clone(), sums)
    });
    functions.filter(|(_, sums)| *sums != Sums::default()).collect()
}

#[track_caller]
fn agrees(run: &Run, oracle: &Oracle) {
    for (name, sums) in run.last().unwrap() {
        assert_eq!(sums.entries, oracle.function(name).calls, "{name}");
        sums.assert_identity();
    }
}

#[track_caller]
fn verified(place: &Place) {
    let outcome = place.edgelat(&["spool", "verify"]);
    assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
}

/// A spool outside of the state directory, in small segments.
fn spool(dir: &Path) -> String {
    format!("[spool]\ndir = \"{}\"\nmax_bytes = \"256KiB\"\nsegment_bytes = \"16KiB\"\n", dir.display())
}

/// Runs a service that measures a program from its first call to its end, and ends.
fn measured(place: &Place, program: &Path, calls: &str) -> Oracle {
    let service = place.start();
    let mut target = start(program, &["--calls", calls]);
    let pid = target.pid();
    service.wait_for(|told| told.is(pid, "measured"));
    target.go();
    let oracle = target.end();
    service.ends(pid);
    service.end();
    oracle
}

#[test]
fn every_call_of_a_process_is_in_the_spool_when_the_service_has_ended() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["add", "work"], "")]);
    let oracle = measured(&place, &program, "3000");
    let all = exported(&place);
    let [run] = &runs(&place)[..] else { panic!("one run: {all:#?}") };
    agrees(run, &oracle);
    assert_eq!(run.last().unwrap().len(), 2);
    let first = all.iter().find_map(|interval| interval["functions"].as_array()?.first()).unwrap();
    assert_eq!(first["target"], "it");
    assert_eq!(first["image"].as_str().unwrap(), program.to_str().unwrap());
    assert!(first["build_id"].as_str().unwrap().len() >= 16, "{first}");
    // Before the target came, nothing was measured, which differs from 0.
    let none = |interval: &Value| interval["uncovered"][0][1] == "no_process";
    assert!(all.iter().any(none), "{all:#?}");
    verified(&place);
    // The output for people and spreadsheets.
    let text = place.edgelat(&["spool", "dump"]);
    assert!(text.stdout.contains("it/work") && text.stdout.contains("p99"), "{text:#?}");
    let csv = place.edgelat(&["spool", "export", "--format", "csv"]);
    let width = csv.stdout.lines().next().unwrap().split(',').count();
    let rows: Vec<Vec<&str>> = csv.stdout.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == width), "{}", csv.stdout);
    let of_work = rows.iter().filter(|row| row[9] == "work");
    let entries: u64 = of_work.map(|row| row[12].parse::<u64>().unwrap()).sum();
    assert_eq!(entries, oracle.function("work").calls);
    let list = place.edgelat(&["spool", "ls"]);
    assert!(list.stdout.starts_with("00000001-00000001.seg "), "{list:#?}");
}

#[test]
fn a_service_that_is_killed_leaves_all_but_its_last_interval_each_time() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    let spool = "[spool]\nsync = \"1s\"\n".to_owned();
    place.configure("", &[measure("it", &exe(&program), &["add", "work"], ""), spool]);
    let mut target = start(&program, &["--calls", "0"]);
    let pid = target.pid();
    target.go();
    let mut lines = Vec::new();
    for moment in [300, 1_450, 2_100, 990, 1_010, 3_333] {
        let service = place.start();
        service.counts(pid);
        std::thread::sleep(Duration::from_millis(moment));
        let measured = killed(service);
        lines.push(measured.into_iter().filter(|line| line.is(pid, "measured")).collect::<Vec<Told>>());
    }
    target.stop().assert_right();
    verified(&place);
    let (runs, all) = (runs(&place), exported(&place));
    assert_eq!(runs.len(), lines.len(), "each wrote something");
    for (run, lines) in runs.iter().zip(&lines) {
        // An interval is written after its line; the kill may have lost the record of the last
        // line.
        assert!(
            run.len() + 1 >= lines.len() && run.len() <= lines.len() + 1,
            "{} {}",
            run.len(),
            lines.len()
        );
        for (sums, line) in run.iter().zip(lines) {
            assert_eq!(*sums, told(line));
        }
        // A line gives the position of its record, and the bytes on the disk.
        let id = &lines[0].spool["run"];
        assert!(all.iter().any(|interval| interval["run"] == *id), "{id}");
        for (number, line) in lines.iter().enumerate() {
            assert_eq!((&line.spool["run"], &line.spool["interval"]), (id, &number.into()));
            let synced = line.spool["synced"].as_u64().unwrap() as usize;
            assert!(synced <= number && synced <= run.len() && synced + 2 >= number, "{synced} {number}");
        }
    }
}

/// Kills it and returns its lines.
fn killed(service: Service) -> Vec<Told> {
    let lines = service.lines();
    service.kill();
    lines
}

#[test]
fn usr1_writes_what_was_counted_until_then() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("interval = \"1h\"\n", &[measure("it", &exe(&program), &["work"], "")]);
    let mut target = start(&program, &["--calls", "0"]);
    target.go();
    let service = place.start();
    std::thread::sleep(Duration::from_millis(300));
    let before = service.count();
    service.signal(Signal::SIGUSR1);
    let line = service.wait_after(before, |line| line.entries() > 0);
    // The record is behind the line.
    let written = || runs(&place).first().is_some_and(|run| run.last() == Some(&told(&line)));
    assert!(edgelat_tests::machine::eventually(patience(), written), "{:#?}", runs(&place));
    service.kill();
    target.stop().assert_right();
}

/// A file system in memory, mounted on a folder of a place.
struct Mount<'p>(&'p Path);

impl<'p> Mount<'p> {
    fn new(path: &'p Path, size: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "spool", path.to_str().unwrap()]);
        Self(path)
    }

    /// Remounts it. The kernel refuses read-only while the collector writes a record, and a
    /// collector at nice 19 may be delayed during a write.
    #[track_caller]
    fn again(&self, how: &str) {
        let remount = || remounted(self.0, how);
        assert!(edgelat_tests::machine::eventually(patience(), remount), "never mounted {how}");
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

fn remounted(path: &Path, how: &str) -> bool {
    let mut mount = Command::new("mount");
    mount.args(["-o", &format!("remount,{how}")]).arg(path).status().unwrap().success()
}

#[track_caller]
fn mount(arguments: &[&str]) {
    let status = Command::new("mount").args(arguments).status().unwrap();
    assert!(status.success(), "mount {arguments:?}: {status}");
}

/// Measures a target while the spool's disk fails and recovers: nothing is lost, each change is
/// reported once and recorded. The failure exists from the start, or comes later.
fn trouble(
    says: &str,
    from_start: bool,
    mut begin: impl FnMut(&Mount<'_>, Option<&Service>),
    end: impl FnOnce(&Mount<'_>),
) {
    let _turn = Turn::shared();
    let place = Place::new();
    let dir = place.path().join("flash");
    let flash = Mount::new(&dir, "512k");
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["add", "work"], ""), spool(&dir)]);
    let mut target = start(&program, &["--calls", "0"]);
    let pid = target.pid();
    if from_start {
        begin(&flash, None);
    }
    let service = place.start();
    target.go();
    service.counts(pid);
    if !from_start {
        begin(&flash, Some(&service));
    }
    service.says(says);
    let from = service.count();
    // It continues to measure.
    let first = service.wait_after(from, |line| line.entries() > 0).entries();
    service.wait_after(from, |line| line.entries() > first);
    end(&flash);
    service.says("takes records again");
    assert_eq!((service.times(says), service.times("takes records again")), (1, 1), "{}", service.log());
    let oracle = target.stop();
    service.ends(pid);
    service.end();
    verified(&place);
    let [run] = &runs(&place)[..] else { panic!("one run") };
    agrees(run, &oracle);
    let late: u64 = exported(&place).iter().map(|interval| interval["late"].as_u64().unwrap()).sum();
    assert!(late >= 2, "{late} intervals came late");
}

#[test]
fn a_disk_that_is_full_for_a_while_loses_nothing() {
    let filler = |flash: &Mount<'_>| flash.0.join("filler");
    let fill = |flash: &Mount<'_>, _: Option<&Service>| {
        let mut file = std::fs::File::create(filler(flash)).unwrap();
        while std::io::Write::write(&mut file, &[0; 4096]).is_ok_and(|written| written > 0) {}
    };
    // A segment has its space once it is made, so the disk is full before the first one.
    trouble("takes no records: No space left on device", true, fill, |flash| {
        std::fs::remove_file(filler(flash)).unwrap();
    });
}

#[test]
fn a_disk_that_is_read_only_for_a_while_loses_nothing() {
    let read_only = |flash: &Mount<'_>, _: Option<&Service>| flash.again("ro");
    trouble("takes no records: Read-only file system", false, read_only, |flash| flash.again("rw"));
}

#[test]
fn a_disk_that_is_broken_for_a_while_loses_nothing() {
    let tracer = std::cell::Cell::new(None);
    let broken = |_: &Mount<'_>, service: Option<&Service>| {
        let collector = service.and_then(Service::collector).unwrap();
        let mut command = Command::new("strace");
        command.args(["-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fdatasync"]);
        command.args(["-e", "inject=pwrite64,fdatasync:error=EIO", "-p", &collector.to_string()]);
        tracer.set(Some(command.spawn().unwrap()));
    };
    trouble("takes no records: I/O error", false, broken, |_| {
        // Once the process that made the calls fail ends, the kernel handles them again.
        let mut tracer = tracer.take().unwrap();
        kill(Pid::from_raw(tracer.id() as i32), Signal::SIGTERM).unwrap();
        tracer.wait().unwrap();
    });
}

#[test]
fn a_collector_of_another_user_keeps_the_spool() {
    let _turn = Turn::shared();
    let place = Place::new();
    // The unprivileged user needs access to the folder.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(place.path(), open).unwrap();
    let program = place.program("plain", "plain");
    place.configure("collector_user = \"65534\"\n", &[measure("it", &exe(&program), &["work"], "")]);
    let oracle = measured(&place, &program, "300");
    let [run] = &runs(&place)[..] else { panic!("one run") };
    agrees(run, &oracle);
    let segment = std::fs::metadata(place.path().join("state/spool/00000001-00000001.seg")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&segment), 65534);
}

#[test]
fn damage_is_told_with_its_place_and_the_rest_is_read() {
    let place = Place::new();
    let dir = place.path().join("records");
    std::fs::create_dir(&dir).unwrap();
    place.configure("", &[spool(&dir)]);
    assert!(place.edgelat(&["spool"]).stdout.is_empty());
    verified(&place);
    // The length, its complement, and nothing else that is right.
    let mut bytes = [0; 64];
    bytes[0] = 8;
    bytes[4..8].copy_from_slice(&(!8u32).to_le_bytes());
    std::fs::write(dir.join("00000001-00000001.seg"), bytes).unwrap();
    std::fs::write(dir.join("00000002-00000002.seg"), b"").unwrap();
    let outcome = place.edgelat(&["spool", "verify"]);
    assert_eq!(outcome.status.code(), Some(11), "{outcome:#?}");
    assert!(outcome.stdout.starts_with("00000001-00000001.seg: damaged at byte 0\n"), "{outcome:#?}");
    place.edgelat(&["spool", "ls"]);
    let missing = edgelat_tests::edgelat(&["spool", "verify", "--dir", "/nonexistent"]);
    missing.refused(1, &["/nonexistent", "--dir names another folder"]);
}

#[test]
fn a_service_that_cannot_have_a_spool_measures_all_the_same() {
    let _turn = Turn::shared();
    let place = Place::new();
    let program = place.program("plain", "plain");
    place.configure("", &[measure("it", &exe(&program), &["work"], ""), spool(Path::new("/proc/none"))]);
    let mut target = start(&program, &["--calls", "300"]);
    let pid = target.pid();
    let service = place.start();
    service.says("nothing is kept of what is measured");
    target.go();
    let oracle = target.end();
    service.ends(pid);
    crate::service::agrees(&service.end(), pid, &oracle);
}
